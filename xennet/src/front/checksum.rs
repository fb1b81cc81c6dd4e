//! The Internet checksum (RFC 1071), and where it goes in IPv4, TCP and UDP.

use super::headers::{Headers, UDP, Version, put_u16};

/// A sum of 16-bit words in ones' complement, over pieces of any length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    total: u64,
    /// An odd number of bytes was added.
    odd: bool,
}

impl Sum {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { total: 0, odd: false }
    }

    /// Adds bytes that follow those added before. Any IRQL.
    pub fn add(&mut self, mut bytes: &[u8]) {
        let Some((first, rest)) = bytes.split_first() else { return };
        if self.odd {
            self.total += u64::from(*first);
            self.odd = false;
            bytes = rest;
        }
        // Words of any width that is a multiple of 16 bits give the same sum; 32 bits leave room for carries.
        let mut total = 0;
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let word = u64::from_be_bytes(*word);
            total += (word >> 32) + (word & 0xFFFF_FFFF);
        }
        let (words, rest) = rest.as_chunks::<2>();
        for word in words {
            total += u64::from(u16::from_be_bytes(*word));
        }
        if let [last] = rest {
            total += u64::from(*last) << 8;
        }
        self.total += total;
        self.total = (self.total & 0xFFFF_FFFF) + (self.total >> 32);
        self.odd = !rest.is_empty();
    }

    /// As [`Sum::add`], for a multiple of four bytes that is known here; an even number of bytes was added before.
    #[inline]
    fn add_words<const N: usize>(&mut self, bytes: &[u8; N]) {
        const { assert!(N.is_multiple_of(4)) };
        let (words, _) = bytes.as_chunks::<4>();
        for word in words {
            self.total += u64::from(u32::from_be_bytes(*word));
        }
    }

    /// Adds a number of 32 bits, as big-endian bytes; an even number of bytes was added before.
    pub const fn add_u32(&mut self, value: u32) {
        self.total += value as u64;
    }

    /// The sum, folded: what stands in the field of a packet of which only the pseudo-header was added.
    pub const fn folded(self) -> u16 {
        let mut total = self.total;
        while total >> 16 != 0 {
            total = (total & 0xFFFF) + (total >> 16);
        }
        total as u16
    }

    /// The checksum: the sum's complement.
    pub const fn finish(self) -> u16 {
        !self.folded()
    }
}

/// The sum of an IPv4 header, which is the header's checksum where that field is 0, and 0 where it is right. None: `bytes`
/// is shorter than the header. Any IRQL.
#[inline]
pub fn of_ip(bytes: &[u8], headers: &Headers) -> Option<u16> {
    let header = bytes.get(usize::from(headers.network)..usize::from(headers.transport))?;
    let mut sum = Sum::new();
    match header.first_chunk::<20>() {
        Some(short) if header.len() == short.len() => sum.add_words(short),
        _ => sum.add(header),
    }
    Some(sum.finish())
}

/// The sum of the pseudo-header of TCP or UDP, `upper` bytes of it with its header. None: `bytes` is shorter than the
/// headers.
pub fn pseudo(bytes: &[u8], headers: &Headers, upper: u32) -> Option<Sum> {
    let at = usize::from(headers.network);
    let mut sum = Sum::new();
    match headers.version {
        Version::V4 => sum.add_words::<8>(bytes.get(at + 12..)?.first_chunk()?),
        Version::V6 => sum.add_words::<32>(bytes.get(at + 8..)?.first_chunk()?),
    }
    sum.add_u32(upper);
    sum.add_u32(u32::from(headers.protocol));
    Some(sum)
}

/// Fills the checksum of an IPv4 header in; nothing for IPv6.
pub fn fill_ip(bytes: &mut [u8], headers: &Headers) {
    if headers.version == Version::V6 {
        return;
    }
    let field = usize::from(headers.network) + 10;
    put_u16(bytes, field, 0);
    if let Some(value) = of_ip(bytes, headers) {
        put_u16(bytes, field, value);
    }
}

/// What stands in the field for a checksum: UDP has no zero.
const fn as_sent(protocol: u8, checksum: u16) -> u16 {
    if protocol == UDP && checksum == 0 { 0xFFFF } else { checksum }
}

/// Fills the checksum of TCP or UDP in. `bytes` begins with all headers; `rest` adds what follows them, up to `upper`
/// bytes from the transport header on. False: there is no such checksum, or `rest` could not. Any IRQL.
pub fn fill(bytes: &mut [u8], headers: &Headers, upper: u32, rest: impl FnOnce(&mut Sum) -> bool) -> bool {
    let (Some(field), Some(mut sum)) = (headers.checksum_at(), pseudo(bytes, headers, upper)) else { return false };
    put_u16(bytes, field, 0);
    let Some(header) = bytes.get(usize::from(headers.transport)..usize::from(headers.len)) else { return false };
    sum.add(header);
    if !rest(&mut sum) {
        return false;
    }
    put_u16(bytes, field, as_sent(headers.protocol, sum.finish()));
    true
}

/// Puts the pseudo-header's sum into the field, as a peer that does the rest expects: whether something else stood there.
/// None: there is no such field.
#[inline]
pub fn fill_pseudo(bytes: &mut [u8], headers: &Headers, upper: u32) -> Option<bool> {
    let (field, sum) = (headers.checksum_at()?, pseudo(bytes, headers, upper)?.folded());
    let place = bytes.get_mut(field..)?.first_chunk_mut()?;
    let before = core::mem::replace(place, sum.to_be_bytes());
    Some(before != sum.to_be_bytes())
}
