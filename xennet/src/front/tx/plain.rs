//! What most packets are, seen in few steps: untagged IPv4 without options, TCP or UDP in it, and nothing to be changed.
//!
//! Says of such a packet what [`Head`](super::head::Head) would find out. Whatever is not quite so is left to that.

use xen_abi::netif::TxFlags;

use super::emit::BLANK;
use crate::front::{
    Offload,
    checksum::Sum,
    headers::{ETHERNET, TCP, UDP, USUAL, is_usual},
};

/// Offset of the IPv4 header, and of what follows it.
const IP: usize = ETHERNET;
const UPPER: usize = IP + 20;

/// The first bytes of a packet of this kind, which is a copy.
pub struct Plain<'a>(&'a [u8; USUAL]);

impl<'a> Plain<'a> {
    /// None: it is of another kind.
    #[inline]
    pub const fn new(bytes: &'a [u8; USUAL]) -> Option<Self> {
        if is_usual(bytes) { Some(Self(bytes)) } else { None }
    }

    /// The two bytes at `at`.
    #[inline]
    const fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// The destination's address.
    #[inline]
    pub const fn destination(&self) -> [u8; 6] {
        let [a0, a1, a2, a3, a4, a5, ..] = *self.0;
        [a0, a1, a2, a3, a4, a5]
    }

    /// The sender's address, and its IPv4 address.
    #[inline]
    pub const fn source(&self) -> ([u8; 6], [u8; 4]) {
        let [_, _, _, _, _, _, a0, a1, a2, a3, a4, a5, ..] = *self.0;
        ([a0, a1, a2, a3, a4, a5], [self.0[26], self.0[27], self.0[28], self.0[29]])
    }

    /// Bytes of all its headers. None: they are not TCP's or UDP's.
    #[inline]
    pub fn headers(&self) -> Option<u32> {
        match self.0[IP + 9] {
            TCP => Some(UPPER as u32 + u32::from(self.0[UPPER + 12] >> 4).max(5) * 4),
            UDP => Some(UPPER as u32 + 8),
            _ => None,
        }
    }

    /// Flags with which it goes as it is, `len` bytes of it in all; `sums`: the backend fills checksums in. None: something
    /// is still to be done, or amiss.
    #[inline]
    pub fn as_it_is(&self, len: u32, offload: &Offload, sums: bool) -> Option<TxFlags> {
        if offload.segment.is_some() || offload.vlan.is_some() || offload.ip_checksum {
            return None;
        }
        if !offload.tcp_checksum && !offload.udp_checksum {
            return Some(TxFlags::empty());
        }
        let protocol = self.0[IP + 9];
        let (asked, headers, field) = match protocol {
            TCP => (offload.tcp_checksum, u32::from(self.0[UPPER + 12] >> 4) * 4, UPPER + 16),
            UDP => (offload.udp_checksum, 8, UPPER + 6),
            _ => return None,
        };
        let upper = u32::from(self.word(IP + 2)).checked_sub(20)?;
        let fits = headers >= 8 && upper >= headers && UPPER as u32 + upper <= len;
        if !asked || !sums || !fits || protocol == TCP && headers < 20 {
            return None;
        }
        // The sum of the pseudo-header has to stand in the field. It is made of words as they lie there: with its bytes
        // swapped it is the same sum (RFC 1071, 2 B).
        let [.., a0, a1, a2, a3, b0, b1, b2, b3] = *self.0.first_chunk::<UPPER>()?;
        let mut sum = Sum::new();
        sum.add_u32(u32::from_ne_bytes([a0, a1, a2, a3]));
        sum.add_u32(u32::from_ne_bytes([b0, b1, b2, b3]));
        sum.add_u32((upper as u16 + u16::from(protocol)).to_be().into());
        let there = u16::from_ne_bytes([self.0[field], self.0[field + 1]]);
        (there == sum.folded()).then_some(BLANK)
    }
}
