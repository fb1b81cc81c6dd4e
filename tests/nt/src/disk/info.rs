//! What a disk tells of itself: capacities, INQUIRY pages, sense data. No NT type in it.

use alloc::string::String;
use alloc::vec::Vec;

/// Sense data in short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Its qualifier.
    pub ascq: u8,
}

impl Sense {
    /// Reads fixed (70h, 71h) or descriptor (72h, 73h) format.
    pub fn parse(bytes: &[u8]) -> Option<Sense> {
        let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
        match bytes.first()? & 0x7f {
            0x70 | 0x71 if bytes.len() >= 8 => Some(Sense { key: at(2) & 15, asc: at(12), ascq: at(13) }),
            0x72 | 0x73 if bytes.len() >= 4 => Some(Sense { key: at(1) & 15, asc: at(2), ascq: at(3) }),
            _ => None,
        }
    }
}

/// What the class driver does about a failed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It succeeded after all.
    Success,
    /// Again at once.
    Retry,
    /// Again after so many milliseconds.
    RetryAfter(u32),
    /// Again, and the capacity is to be read anew.
    Resized,
    /// The caller is told.
    Fail,
}

/// The rules of the class driver, as classpnp's documentation gives them: busy and transport errors are tried again, a
/// unit attention is noted and tried again, what the target refuses is not.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/classpnp/nf-classpnp-classinterpretsenseinfo>
pub fn judge(srb_status: u8, scsi_status: u8, sense: Option<Sense>) -> Verdict {
    match srb_status & 0x3f {
        0x01 => return Verdict::Success,
        // Busy, no resources, internal error.
        0x05 | 0x26 | 0x30 => return Verdict::RetryAfter(100),
        // Aborted, time-outs, bus reset, parity, phase errors, flushed.
        0x02 | 0x09 | 0x0b | 0x0e | 0x0f | 0x13 | 0x14 | 0x16 => return Verdict::Retry,
        // Error, sense to be looked at; underrun.
        0x04 | 0x12 => {}
        _ => return Verdict::Fail,
    }
    if matches!(scsi_status, 0x08 | 0x28) {
        return Verdict::RetryAfter(100);
    }
    let Some(sense) = sense else {
        return if srb_status & 0x3f == 0x12 { Verdict::Success } else { Verdict::Retry };
    };
    match (sense.key, sense.asc, sense.ascq) {
        (0 | 1, ..) => Verdict::Success,
        (2, 4, 1) => Verdict::RetryAfter(500),
        // A medium that may be another one has a capacity of its own.
        (6, 0x2a, 9) | (6, 0x28, 0) => Verdict::Resized,
        (6 | 0xb, ..) => Verdict::Retry,
        _ => Verdict::Fail,
    }
}

/// What is known of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Info {
    /// INQUIRY vendor, trimmed.
    pub vendor: String,
    /// INQUIRY product, trimmed.
    pub product: String,
    /// INQUIRY revision, trimmed.
    pub revision: String,
    /// Page 80h, trimmed.
    pub serial: String,
    /// Designators of page 83h, raw.
    pub designators: Vec<Vec<u8>>,
    /// Pages that page 00h lists.
    pub pages: Vec<u8>,
    /// Peripheral device type.
    pub device_type: u8,
    /// Removable medium.
    pub removable: bool,
    /// Bytes of a logical block.
    pub block: u32,
    /// Bytes of a physical block.
    pub physical_block: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// The medium cannot be written.
    pub read_only: bool,
    /// A volatile write cache is on (mode page 8).
    pub write_cache: bool,
    /// DPO and FUA are understood.
    pub fua: bool,
    /// Blocks of one UNMAP at most; 0: no UNMAP.
    pub max_unmap_blocks: u32,
    /// Descriptors of one UNMAP at most.
    pub max_unmap_descriptors: u32,
    /// Bytes of one transfer at most, as the adapter's length and number of pages give it.
    pub max_transfer: u32,
}

impl Info {
    /// Bytes of the disk.
    pub fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.block)
    }

    /// Takes INQUIRY data in.
    pub fn inquiry(&mut self, data: &[u8]) {
        let text = |r: core::ops::Range<usize>| data.get(r).map(trimmed).unwrap_or_default();
        self.device_type = data.first().map_or(0, |b| b & 0x1f);
        self.removable = data.get(1).is_some_and(|b| b & 0x80 != 0);
        (self.vendor, self.product, self.revision) = (text(8..16), text(16..32), text(32..36));
    }

    /// Takes READ CAPACITY (16) in.
    pub fn capacity16(&mut self, data: &[u8; 32]) {
        let last = u64::from_be_bytes([data[0], data[1], data[2], data[3], data[4], data[5], data[6], data[7]]);
        self.blocks = last.wrapping_add(1);
        self.block = u32::from_be_bytes([data[8], data[9], data[10], data[11]]);
        self.physical_block = self.block << (data[13] & 15);
    }

    /// Takes READ CAPACITY (10) in.
    pub fn capacity10(&mut self, data: [u8; 8]) {
        self.blocks = u64::from(u32::from_be_bytes([data[0], data[1], data[2], data[3]])) + 1;
        self.block = u32::from_be_bytes([data[4], data[5], data[6], data[7]]);
        self.physical_block = self.block;
    }

    /// Takes a vital product data page in.
    pub fn page(&mut self, data: &[u8]) {
        let [_, page, high, low, ..] = *data else { return };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let body = &data[4..(4 + length).min(data.len())];
        match page {
            0x00 => self.pages = body.to_vec(),
            0x80 => self.serial = trimmed(body),
            0x83 => {
                let mut rest = body;
                while let [_, _, _, len, tail @ ..] = rest {
                    let n = usize::from(*len).min(tail.len());
                    self.designators.push(rest[..4 + n].to_vec());
                    rest = &tail[n..];
                }
            }
            0xb0 if data.len() >= 28 => {
                let word = |i: usize| u32::from_be_bytes([data[i], data[i + 1], data[i + 2], data[i + 3]]);
                (self.max_unmap_blocks, self.max_unmap_descriptors) = (word(20), word(24));
            }
            _ => {}
        }
    }

    /// Takes MODE SENSE (6) with the caching page in.
    pub fn mode6(&mut self, data: &[u8]) {
        let [_, _, specific, descriptors, rest @ ..] = data else { return };
        self.read_only = specific & 0x80 != 0;
        self.fua = specific & 0x10 != 0;
        let page = rest.get(usize::from(*descriptors)..).unwrap_or_default();
        self.write_cache = page.first().is_some_and(|p| p & 0x3f == 8) && page.get(2).is_some_and(|b| b & 4 != 0);
    }
}

fn trimmed(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|b| if (0x20..0x7f).contains(b) { char::from(*b) } else { ' ' }).collect();
    text.trim().into()
}

/// READ or WRITE for a range: 10 bytes where they do, else 16.
pub fn read_write_cdb(write: bool, lba: u64, blocks: u32, fua: bool) -> ([u8; 16], usize) {
    let mut cdb = [0; 16];
    cdb[1] = if fua { 8 } else { 0 };
    if let (Ok(lba), Ok(blocks)) = (u32::try_from(lba), u16::try_from(blocks)) {
        cdb[0] = if write { 0x2a } else { 0x28 };
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
        return (cdb, 10);
    }
    cdb[0] = if write { 0x8a } else { 0x88 };
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    (cdb, 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sense_formats() {
        let mut fixed = [0u8; 18];
        (fixed[0], fixed[2], fixed[12], fixed[13]) = (0x70, 6, 0x2a, 9);
        let resized = Some(Sense { key: 6, asc: 0x2a, ascq: 9 });
        assert_eq!(Sense::parse(&fixed), resized);
        assert_eq!(Sense::parse(&[0x72, 6, 0x2a, 9, 0, 0, 0, 0]), resized);
        assert_eq!(Sense::parse(&[0; 18]), None);
        assert_eq!(judge(0x84, 2, resized), Verdict::Resized);
        assert_eq!(judge(0x84, 2, Some(Sense { key: 6, asc: 0x28, ascq: 0 })), Verdict::Resized);
        assert_eq!(judge(0x84, 2, Some(Sense { key: 5, asc: 0x20, ascq: 0 })), Verdict::Fail);
        assert_eq!(judge(0x05, 0, None), Verdict::RetryAfter(100));
        assert_eq!(judge(0x08, 0, None), Verdict::Fail);
    }

    #[test]
    fn commands_take_the_short_form_where_it_does() {
        let (cdb, len) = read_write_cdb(false, 8, 1, false);
        assert_eq!((&cdb[..len], len), (&[0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0][..], 10));
        assert_eq!(read_write_cdb(true, 1 << 32, 1, true).0[..3], [0x8a, 8, 0]);
        assert_eq!(read_write_cdb(true, 0, 65536, false).1, 16);
    }

    #[test]
    fn pages() {
        let mut info = Info::default();
        info.page(&[0, 0x80, 0, 4, b'a', b'b', b' ', b' ']);
        info.page(&[0, 0, 0, 2, 0, 0x80]);
        info.page(&[0, 0x83, 0, 6, 1, 3, 0, 2, 7, 8]);
        info.mode6(&[0, 0, 0x90, 0, 8, 0x12, 4]);
        assert_eq!((info.serial.as_str(), info.pages.as_slice()), ("ab", &[0, 0x80][..]));
        assert_eq!(info.designators, [[1, 3, 0, 2, 7, 8]]);
        assert!(info.read_only && info.fua && info.write_cache);
    }
}
