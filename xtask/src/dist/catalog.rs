//! Security catalogs: the list of a driver package's files and their digests, which Windows checks instead of each file.
//!
//! A catalog is a certificate trust list in a PKCS #7 signed-data structure: RFC 2315 and MS-CAESO. What Windows puts into the
//! list is documented in parts; the layout here is the one of catalogs that Microsoft's `makecat` writes with
//! `CatalogVersion=2` and SHA-256: members sorted by digest, each with its kind, its file name, the versions of Windows that
//! it is for, and its digest once more as Authenticode has it. What this writes is unsigned: `osslsigncode` signs it.

use anyhow::Context;
use asn1::{
    Asn1Write, BMPString, BitString, Explicit, Implicit, Null, ObjectIdentifier, SequenceOfWriter, SetOfWriter, Tlv,
    UtcTime, oid,
};
use authenticode::{PeOffsetError, PeOffsets, PeTrait, authenticode_digest};
use object::LittleEndian as LE;
use object::pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, ImageNtHeaders64};
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile64};
use sha2::{Digest, Sha256};

const SIGNED_DATA: ObjectIdentifier = oid!(1, 2, 840, 113549, 1, 7, 2);
const SHA256: ObjectIdentifier = oid!(2, 16, 840, 1, 101, 3, 4, 2, 1);
/// `szOID_CTL`.
const TRUST_LIST: ObjectIdentifier = oid!(1, 3, 6, 1, 4, 1, 311, 10, 1);
/// `szOID_CATALOG_LIST`.
const CATALOG_LIST: ObjectIdentifier = oid!(1, 3, 6, 1, 4, 1, 311, 12, 1, 1);
/// `szOID_CATALOG_LIST_MEMBER2`.
const CATALOG_LIST_MEMBER2: ObjectIdentifier = oid!(1, 3, 6, 1, 4, 1, 311, 12, 1, 3);
/// `CAT_NAMEVALUE_OBJID`.
const NAME_VALUE: ObjectIdentifier = oid!(1, 3, 6, 1, 4, 1, 311, 12, 2, 1);
/// `CAT_MEMBERINFO2_OBJID`.
const MEMBER_INFO2: ObjectIdentifier = oid!(1, 3, 6, 1, 4, 1, 311, 12, 2, 3);
/// `SPC_INDIRECT_DATA_OBJID`.
const INDIRECT_DATA: ObjectIdentifier = oid!(1, 3, 6, 1, 4, 1, 311, 2, 1, 4);
/// `SPC_PE_IMAGE_DATA_OBJID`.
const PE_IMAGE_DATA: ObjectIdentifier = oid!(1, 3, 6, 1, 4, 1, 311, 2, 1, 15);
/// `SPC_CAB_DATA_OBJID`, which stands for any flat file.
const FLAT_DATA: ObjectIdentifier = oid!(1, 3, 6, 1, 4, 1, 311, 2, 1, 25);

/// Flags of a name and value: authenticated, text, part of the member.
const NAME_VALUE_FLAGS: u32 = 0x1001_0001;
/// The versions of Windows that the members are for: Windows 10 and later.
const OS_OF_MEMBERS: &str = "2:10.0";
/// What the whole catalog is for: Windows 10 on x64.
const OS_OF_CATALOG: &str = "_v100_X64";

/// A file of the package.
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its bytes.
    pub content: &'a [u8],
}

#[derive(Asn1Write)]
struct ContentInfo<'a> {
    kind: ObjectIdentifier,
    content: Explicit<SignedData<'a>, 0>,
}

#[derive(Asn1Write)]
struct SignedData<'a> {
    version: u8,
    digests: SetOfWriter<'a, Null>,
    content: TrustListInfo<'a>,
    signers: SetOfWriter<'a, Null>,
}

#[derive(Asn1Write)]
struct TrustListInfo<'a> {
    kind: ObjectIdentifier,
    content: Explicit<TrustList<'a>, 0>,
}

#[derive(Asn1Write)]
struct TrustList<'a> {
    usage: SequenceOfWriter<'a, ObjectIdentifier>,
    identifier: &'a [u8],
    made: UtcTime,
    algorithm: Algorithm,
    members: SequenceOfWriter<'a, Entry<'a>>,
    extensions: Explicit<SequenceOfWriter<'a, Extension<'a>>, 0>,
}

#[derive(Asn1Write)]
struct Algorithm {
    kind: ObjectIdentifier,
    parameters: Null,
}

#[derive(Asn1Write)]
struct Entry<'a> {
    digest: &'a [u8],
    attributes: SetOfWriter<'a, Tlv<'a>>,
}

#[derive(Asn1Write)]
struct Attribute<'a, T: asn1::Asn1Writable<Error = asn1::WriteError>> {
    kind: ObjectIdentifier,
    values: SetOfWriter<'a, T>,
}

#[derive(Asn1Write)]
struct NameValue<'a> {
    name: BMPString<'a>,
    flags: u32,
    value: &'a [u8],
}

#[derive(Asn1Write)]
struct Extension<'a> {
    kind: ObjectIdentifier,
    value: &'a [u8],
}

#[derive(Asn1Write)]
struct IndirectData<'a> {
    data: Tlv<'a>,
    digest: DigestInfo<'a>,
}

#[derive(Asn1Write)]
struct DigestInfo<'a> {
    algorithm: Algorithm,
    digest: &'a [u8],
}

/// `SpcLink` with an empty file name, in its outer and inner tag.
type NoFile<'a> = Explicit<Implicit<&'a [u8], 0>, 2>;

#[derive(Asn1Write)]
struct FlatData<'a> {
    kind: ObjectIdentifier,
    file: NoFile<'a>,
}

#[derive(Asn1Write)]
struct PeData<'a> {
    kind: ObjectIdentifier,
    image: PeImageData<'a>,
}

#[derive(Asn1Write)]
struct PeImageData<'a> {
    flags: BitString<'a>,
    file: Explicit<NoFile<'a>, 0>,
}

/// UTF-16, big-endian for an ASN.1 string, little-endian with a NUL for a value.
fn utf16(text: &str, big: bool) -> Vec<u8> {
    if big {
        text.encode_utf16().flat_map(u16::to_be_bytes).collect()
    } else {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    }
}

fn encode<T: asn1::Asn1Writable<Error = asn1::WriteError>>(value: &T) -> anyhow::Result<Vec<u8>> {
    asn1::write_single(value).map_err(|error| anyhow::anyhow!("ASN.1: {error}"))
}

fn name_value(name: &str, value: &str) -> anyhow::Result<Vec<u8>> {
    let (name, value) = (utf16(name, true), utf16(value, false));
    let name = BMPString::new(&name).context("a name is no BMPString")?;
    encode(&NameValue { name, flags: NAME_VALUE_FLAGS, value: &value })
}

fn tlv(bytes: &[u8]) -> anyhow::Result<Tlv<'_>> {
    asn1::parse_single(bytes).map_err(|error| anyhow::anyhow!("ASN.1: {error}"))
}

fn attribute(kind: ObjectIdentifier, value: &[u8]) -> anyhow::Result<Vec<u8>> {
    let value = [tlv(value)?];
    encode(&Attribute { kind, values: SetOfWriter::new(&value[..]) })
}

/// A member's digest and its attributes, encoded.
struct Encoded {
    digest: [u8; 32],
    attributes: Vec<Vec<u8>>,
}

fn member(member: &Member<'_>) -> anyhow::Result<Encoded> {
    let image = PeFile64::parse(member.content).ok();
    let digest: [u8; 32] = match &image {
        Some(image) => {
            let mut hash = Hash(Sha256::new());
            let done = authenticode_digest(&Image(image), &mut hash);
            done.map_err(|_| anyhow::anyhow!("{}: the image's headers make no sense", member.name))?;
            hash.0.finalize().into()
        }
        None => Sha256::digest(member.content).into(),
    };
    let empty: &[u8] = &[];
    let no_file = || Explicit::new(Implicit::new(empty));
    let (information, data) = if image.is_some() {
        let flags = BitString::new(&[0xa0], 5).context("image flags")?;
        let image = PeImageData { flags, file: Explicit::new(no_file()) };
        (encode(&Implicit::<_, 0>::new(empty))?, encode(&PeData { kind: PE_IMAGE_DATA, image })?)
    } else {
        (encode(&Implicit::<_, 2>::new(empty))?, encode(&FlatData { kind: FLAT_DATA, file: no_file() })?)
    };
    let digest_info = DigestInfo { algorithm: Algorithm { kind: SHA256, parameters: () }, digest: &digest };
    let indirect = encode(&IndirectData { data: tlv(&data)?, digest: digest_info })?;
    let attributes = vec![
        attribute(MEMBER_INFO2, &information)?,
        attribute(NAME_VALUE, &name_value("File", member.name)?)?,
        attribute(NAME_VALUE, &name_value("OSAttr", OS_OF_MEMBERS)?)?,
        attribute(INDIRECT_DATA, &indirect)?,
    ];
    Ok(Encoded { digest, attributes })
}

/// An unsigned catalog of `members` for the devices with `hardware_ids`, made at `made` (seconds since 1970).
///
/// The same input makes the same bytes.
///
/// # Errors
/// An image whose headers make no sense, or a time before 1970 or after 2049.
pub fn write(members: &[Member<'_>], hardware_ids: &[String], made: u64) -> anyhow::Result<Vec<u8>> {
    let mut encoded = members.iter().map(member).collect::<anyhow::Result<Vec<_>>>()?;
    encoded.sort_by_key(|member| member.digest);
    let attributes = encoded
        .iter()
        .map(|member| member.attributes.iter().map(|bytes| tlv(bytes)).collect::<anyhow::Result<Vec<_>>>());
    let attributes = attributes.collect::<anyhow::Result<Vec<_>>>()?;
    let entries: Vec<Entry<'_>> = encoded
        .iter()
        .zip(&attributes)
        .map(|(member, attributes)| Entry { digest: &member.digest, attributes: SetOfWriter::new(&attributes[..]) })
        .collect();

    let mut extensions = vec![name_value("OS", OS_OF_CATALOG)?];
    for (number, id) in hardware_ids.iter().enumerate() {
        extensions.push(name_value(&format!("HWID{}", number + 1), &id.to_ascii_lowercase())?);
    }
    let extensions: Vec<Extension<'_>> = extensions.iter().map(|value| Extension { kind: NAME_VALUE, value }).collect();

    // The identifier is to be unique for a catalog: so is a digest of what it says.
    let mut identifier = Sha256::new();
    for member in &encoded {
        identifier.update(member.digest);
    }
    for id in hardware_ids {
        identifier.update(id);
    }
    let identifier = identifier.finalize();

    let usage = [CATALOG_LIST];
    let list = TrustList {
        usage: SequenceOfWriter::new(&usage[..]),
        identifier: &identifier[..16],
        made: utc(made)?,
        algorithm: Algorithm { kind: CATALOG_LIST_MEMBER2, parameters: () },
        members: SequenceOfWriter::new(&entries[..]),
        extensions: Explicit::new(SequenceOfWriter::new(&extensions[..])),
    };
    encode(&ContentInfo {
        kind: SIGNED_DATA,
        content: Explicit::new(SignedData {
            version: 1,
            digests: SetOfWriter::new(&[]),
            content: TrustListInfo { kind: TRUST_LIST, content: Explicit::new(list) },
            signers: SetOfWriter::new(&[]),
        }),
    })
}

/// Civil time of seconds since 1970 (the algorithm of proleptic Gregorian days).
fn utc(seconds: u64) -> anyhow::Result<UtcTime> {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    let time = asn1::DateTime::new(
        year as u16,
        month as u8,
        day as u8,
        (second / 3_600) as u8,
        (second / 60 % 60) as u8,
        (second % 60) as u8,
    );
    time.and_then(UtcTime::new).map_err(|error| anyhow::anyhow!("{seconds} seconds since 1970: {error}"))
}

struct Hash(Sha256);

impl digest_for_authenticode::Update for Hash {
    fn update(&mut self, data: &[u8]) {
        Digest::update(&mut self.0, data);
    }
}

struct Image<'a>(&'a PeFile64<'a>);

impl PeTrait for Image<'_> {
    fn data(&self) -> &[u8] {
        self.0.data()
    }

    fn num_sections(&self) -> usize {
        self.0.section_table().len()
    }

    fn section_data_range(&self, index: usize) -> Result<std::ops::Range<usize>, PeOffsetError> {
        // Sections are counted from 1.
        let section = self.0.section_table().iter().nth(index.wrapping_sub(1)).ok_or(PeOffsetError)?;
        let start = section.pointer_to_raw_data.get(LE) as usize;
        let end = start.checked_add(section.size_of_raw_data.get(LE) as usize).ok_or(PeOffsetError)?;
        Ok(start..end)
    }

    fn certificate_table_range(&self) -> Result<Option<std::ops::Range<usize>>, PeOffsetError> {
        let Some(directory) = self.0.data_directory(IMAGE_DIRECTORY_ENTRY_SECURITY) else { return Ok(None) };
        let (start, size) = (directory.virtual_address.get(LE) as usize, directory.size.get(LE) as usize);
        let end = start.checked_add(size).ok_or(PeOffsetError)?;
        Ok((size != 0).then_some(start..end))
    }

    fn offsets(&self) -> Result<PeOffsets, PeOffsetError> {
        /// `CheckSum` and the data directories in the optional header of a 64-bit image.
        const CHECKSUM: usize = 64;
        const DIRECTORIES: usize = 112;
        let headers: &ImageNtHeaders64 = self.0.nt_headers();
        let optional = self.0.dos_header().nt_headers_offset() as usize + 4 + size_of::<object::pe::ImageFileHeader>();
        let check_sum = optional + CHECKSUM;
        let security_data_dir = optional + DIRECTORIES + 8 * IMAGE_DIRECTORY_ENTRY_SECURITY;
        let after_header = headers.optional_header().size_of_headers() as usize;
        if security_data_dir + 8 > after_header {
            return Err(PeOffsetError);
        }
        Ok(PeOffsets {
            check_sum,
            after_check_sum: check_sum + 4,
            security_data_dir,
            after_security_data_dir: security_data_dir + 8,
            after_header,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_as_the_calendar_has_them() {
        let text = |seconds| {
            let time = utc(seconds).unwrap();
            let time = time.as_datetime();
            format!(
                "{}-{}-{} {}:{}:{}",
                time.year(),
                time.month(),
                time.day(),
                time.hour(),
                time.minute(),
                time.second()
            )
        };
        assert_eq!(text(0), "1970-1-1 0:0:0");
        assert_eq!(text(951_782_400), "2000-2-29 0:0:0");
        assert_eq!(text(1_763_769_599), "2025-11-21 23:59:59");
        assert!(utc(u64::MAX / 2).is_err());
    }

    #[test]
    fn members_are_sorted_and_the_bytes_are_the_same_each_time() {
        let files = [("b.inf", b"two".as_slice()), ("a.inf", b"one".as_slice())];
        let members: Vec<_> = files.iter().map(|(name, content)| Member { name, content }).collect();
        let ids = [String::from(r"XENPV\VBD&REV_01")];
        let catalog = write(&members, &ids, 1_763_769_600).unwrap();
        let reversed: Vec<_> = files.iter().rev().map(|(name, content)| Member { name, content }).collect();
        assert_eq!(catalog, write(&reversed, &ids, 1_763_769_600).unwrap());
        let place = |content: &[u8]| {
            let digest = Sha256::digest(content);
            catalog.windows(32).position(|window| window == &digest[..]).expect("the digest")
        };
        let in_order = Sha256::digest(b"one") < Sha256::digest(b"two");
        assert_eq!(place(b"one") < place(b"two"), in_order);
        let id = utf16(r"xenpv\vbd&rev_01", false);
        assert!(catalog.windows(id.len()).any(|window| window == id));
    }
}
