//! TCP segmentation in software, for backends that do not do it: the header of each segment (RFC 793, 2675 excluded).

use super::{
    checksum,
    headers::{Headers, Version, put_u16, put_u32, u16_at, u32_at},
};

/// FIN and PSH: on the last segment only.
const LAST_ONLY: u8 = 0x01 | 0x08;
/// CWR: on the first segment only.
const FIRST_ONLY: u8 = 0x80;

/// A segment of a large packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which one, from 0.
    pub number: u16,
    /// Where in the payload it begins.
    pub offset: u32,
    /// Bytes of payload.
    pub len: u32,
    /// The last one.
    pub last: bool,
}

/// The segment of `payload` bytes that begins at `offset`, a multiple of `size`. None behind the end.
pub fn at(offset: u32, payload: u32, size: u16) -> Option<Segment> {
    let left = payload.checked_sub(offset).filter(|left| *left > 0)?;
    let size = u32::from(size.max(1));
    Some(Segment { number: (offset / size) as u16, offset, len: left.min(size), last: left <= size })
}

/// Makes the large packet's headers those of one segment, but for TCP's checksum. None: `bytes` is too short for them.
pub fn make_header(bytes: &mut [u8], headers: &Headers, segment: &Segment) -> Option<()> {
    let (network, transport) = (usize::from(headers.network), usize::from(headers.transport));
    set_length(bytes, headers, u32::from(headers.len) + segment.len)?;
    if headers.version == Version::V4 {
        let id = u16_at(bytes, network + 4)?;
        put_u16(bytes, network + 4, id.wrapping_add(segment.number));
    }
    checksum::fill_ip(bytes, headers);
    let sequence = u32_at(bytes, transport + 4)?;
    put_u32(bytes, transport + 4, sequence.wrapping_add(segment.offset));
    let flags = bytes.get_mut(transport + 13)?;
    if !segment.last {
        *flags &= !LAST_ONLY;
    }
    if segment.number > 0 {
        *flags &= !FIRST_ONLY;
    }
    Some(())
}

/// Writes the IP header's length for a frame of `len` bytes. None: too short, or longer than the field can say.
pub fn set_length(bytes: &mut [u8], headers: &Headers, len: u32) -> Option<()> {
    let at = usize::from(headers.network);
    let ip = len.checked_sub(u32::from(headers.network))?;
    let (field, value) = match headers.version {
        Version::V4 => (at + 2, ip),
        Version::V6 => (at + 4, ip.checked_sub(40)?),
    };
    let value = u16::try_from(value).ok()?;
    bytes.get(field..field + 2)?;
    put_u16(bytes, field, value);
    Some(())
}
