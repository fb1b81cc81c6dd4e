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

/// The sum of the pseudo-header of TCP or UDP, `upper` bytes of it with its header. None: `bytes` is shorter than the
/// headers.
pub fn pseudo(bytes: &[u8], headers: &Headers, upper: u32) -> Option<Sum> {
    let at = usize::from(headers.network);
    let addresses = match headers.version {
        Version::V4 => bytes.get(at + 12..at + 20)?,
        Version::V6 => bytes.get(at + 8..at + 40)?,
    };
    let mut sum = Sum::new();
    sum.add(addresses);
    sum.add_u32(upper);
    sum.add_u32(u32::from(headers.protocol));
    Some(sum)
}

/// Fills the checksum of an IPv4 header in; nothing for IPv6.
pub fn fill_ip(bytes: &mut [u8], headers: &Headers) {
    if headers.version == Version::V6 {
        return;
    }
    let (at, end) = (usize::from(headers.network), usize::from(headers.transport));
    put_u16(bytes, at + 10, 0);
    if let Some(header) = bytes.get(at..end) {
        let mut sum = Sum::new();
        sum.add(header);
        let value = sum.finish();
        put_u16(bytes, at + 10, value);
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

/// Puts the pseudo-header's sum into the field, as a peer that does the rest expects. False: there is no such field.
pub fn fill_pseudo(bytes: &mut [u8], headers: &Headers, upper: u32) -> bool {
    let (Some(field), Some(sum)) = (headers.checksum_at(), pseudo(bytes, headers, upper)) else { return false };
    put_u16(bytes, field, sum.folded());
    true
}
