//! Packets of TCP that are larger than the MTU, as smoltcp's segmentation offload hands them over: a large send (LSO version 2)
//! where the adapter takes one, cut into segments here where it does not.
//! <https://learn.microsoft.com/windows-hardware/drivers/network/offloading-the-segmentation-of-large-tcp-packets>

use super::checksum::{self, Transport};
use super::client::Made;
use super::packet::{Outgoing, Room};
use crate::ndis::abi::LsoV2;
use crate::ndis::oid_abi::ENCAPSULATION_802_3;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Flags of TCP that only the last segment has.
const FIN: u8 = 1;
const PSH: u8 = 8;
/// Bytes of the largest packet that the stack may make, Ethernet header included. What IPv4 counts is less.
pub const LARGEST: usize = 0xf000 + ETHERNET + 40;

/// What an adapter segments of IPv4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Large {
    /// Bytes of TCP data in a packet at most; 0: none at all.
    pub most: usize,
    /// Segments that a packet must come to at least.
    pub least: usize,
}

impl Large {
    /// As the adapter says it.
    pub fn new(offered: &LsoV2) -> Self {
        if offered.v4_encapsulation & ENCAPSULATION_802_3 == 0 {
            return Self::default();
        }
        Self { most: offered.v4_max as usize, least: offered.v4_min_segments as usize }
    }

    /// Whether it takes a packet of so many bytes of data.
    fn takes(self, data: usize, mss: usize) -> bool {
        data <= self.most && data.div_ceil(mss) >= self.least
    }
}

/// Where a frame lies.
pub enum Bytes {
    /// In memory of its own.
    Own(Vec<u8>),
    /// Where it may be sent from.
    Room(Room),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Room(room) => room,
        }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Room(room) => room,
        }
    }
}

/// A frame as the stack makes it.
pub struct Frame {
    /// Its bytes, without checksums of TCP and UDP.
    pub bytes: Bytes,
    /// Bytes of data of a segment, where the frame is to be cut.
    pub mss: Option<usize>,
}

impl Frame {
    /// The frames that it may come to on the wire.
    pub fn count(&self) -> usize {
        self.mss.map_or(1, |mss| self.bytes.len().div_ceil(mss))
    }

    /// What is sent for it. `offload`: checksums are left to the adapter, and segmentation as far as it does it.
    pub fn send(self, offload: Option<Large>, out: &mut Vec<Made>) {
        let one = |mut bytes: Bytes| {
            let about = if offload.is_some() {
                Outgoing { checksum: checksum::leave_to_adapter(&mut bytes), ..Outgoing::default() }
            } else {
                checksum::fill(&mut bytes);
                Outgoing::default()
            };
            made(bytes, about)
        };
        let tcp = checksum::transport(&self.bytes).filter(|at| at.tcp && !at.v6);
        let (Some(mss), Some(at)) = (self.mss, tcp) else {
            out.push(one(self.bytes));
            return;
        };
        let headers = at.offset + usize::from(self.bytes[at.offset + 12] >> 4) * 4;
        let data = self.bytes.len().saturating_sub(headers);
        if offload.is_some_and(|large| large.takes(data, mss)) {
            out.push(large_send(self.bytes, at, mss));
        } else {
            out.extend(segments(&self.bytes, at, headers, mss).map(|bytes| one(Bytes::Own(bytes))));
        }
    }
}

/// The list of a frame; `about` is the list without it.
fn made(bytes: Bytes, about: Outgoing) -> Made {
    match bytes {
        Bytes::Own(bytes) => Made::Apart(Outgoing { packets: Outgoing::frame(bytes).packets, ..about }),
        Bytes::Room(room) => Made::InPlace(room, about),
    }
}

/// A large send: the adapter counts length and checksums of each segment; the sum of the pseudo header is without the length.
fn large_send(mut frame: Bytes, at: Transport, mss: usize) -> Made {
    frame[ETHERNET + 2..ETHERNET + 4].fill(0);
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let mut pseudo = frame[ETHERNET + 12..ETHERNET + 20].to_vec();
    pseudo.extend([0, 6]);
    frame[at.offset + 16..at.offset + 18].copy_from_slice(&checksum::sum(&pseudo).to_be_bytes());
    made(frame, Outgoing::default().large(mss as u32, at.offset as u32, false))
}

/// The segments of a packet of IPv4, without checksums of TCP.
fn segments(frame: &[u8], at: Transport, headers: usize, mss: usize) -> impl Iterator<Item = Vec<u8>> {
    let (tcp, data) = (at.offset, &frame[headers..]);
    let last = data.len().div_ceil(mss).saturating_sub(1);
    let ident = u16::from_be_bytes([frame[ETHERNET + 4], frame[ETHERNET + 5]]);
    let first = frame[tcp + 4..tcp + 8].iter().fold(0, |all, byte| all << 8 | u32::from(*byte));
    data.chunks(mss).enumerate().map(move |(index, piece)| {
        let mut out = Vec::with_capacity(headers + piece.len());
        out.extend_from_slice(&frame[..headers]);
        out.extend_from_slice(piece);
        let length = (out.len() - ETHERNET) as u16;
        out[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&length.to_be_bytes());
        out[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&ident.wrapping_add(index as u16).to_be_bytes());
        out[ETHERNET + 10..ETHERNET + 12].fill(0);
        let header = !checksum::sum(&out[ETHERNET..tcp]);
        out[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&header.to_be_bytes());
        let sequence = first.wrapping_add((index * mss) as u32);
        out[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        if index != last {
            out[tcp + 13] &= !(FIN | PSH);
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of TCP with an acknowledgement, a push and so much data.
    fn packet(length: usize) -> Vec<u8> {
        let mut frame = alloc::vec![0_u8; 54];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&((40 + length) as u16).to_be_bytes());
        frame[18..20].copy_from_slice(&[0xff, 0xff]);
        (frame[22], frame[23]) = (64, 6);
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let header = !checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        frame[34..38].copy_from_slice(&[1, 2, 3, 4]);
        frame[38..42].copy_from_slice(&0xffff_ff00_u32.to_be_bytes());
        (frame[46], frame[47]) = (0x50, 0x18);
        frame.extend((0..length).map(|n| n as u8));
        frame
    }

    fn sent(length: usize, mss: Option<usize>, offload: Option<Large>) -> Vec<Outgoing> {
        let mut out = Vec::new();
        Frame { bytes: Bytes::Own(packet(length)), mss }.send(offload, &mut out);
        let apart = |made| match made {
            Made::Apart(list) => list,
            Made::InPlace(..) => panic!("nothing was made in place"),
        };
        out.into_iter().map(apart).collect()
    }

    const OFFERED: Large = Large { most: 2500, least: 2 };

    #[test]
    fn what_the_adapter_takes_goes_as_one() {
        let out = sent(2500, Some(1000), Some(OFFERED));
        assert_eq!(out.len(), 1);
        let (list, bytes) = (&out[0], &out[0].packets[0].bytes);
        assert_eq!((list.large_send, bytes.len()), (0x3e8 | 0x22 << 20 | 1 << 30, 2554));
        assert_eq!(bytes[16..18], [0, 0]);
        // The sum of the addresses and the protocol.
        let wanted = checksum::sum(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 6]);
        assert_eq!(bytes[50..52], wanted.to_be_bytes());
    }

    #[test]
    fn what_it_does_not_take_is_cut() {
        for (length, offload) in [(2501, Some(OFFERED)), (2501, Some(Large::default())), (2501, None)] {
            let out = sent(length, Some(1000), offload);
            assert_eq!(out.iter().map(|list| list.packets[0].bytes.len()).collect::<Vec<_>>(), [1054, 1054, 555]);
            for (index, list) in out.iter().enumerate() {
                let bytes = &list.packets[0].bytes;
                assert_eq!((list.large_send, list.checksum != 0), (0, offload.is_some()));
                assert_eq!(checksum::sum(&bytes[14..34]), 0xffff, "the header's sum");
                assert_eq!(bytes[18..20], (0xffff_u16).wrapping_add(index as u16).to_be_bytes());
                assert_eq!(bytes[38..42], 0xffff_ff00_u32.wrapping_add(1000 * index as u32).to_be_bytes());
                assert_eq!(bytes[47], if index == 2 { 0x18 } else { 0x10 });
                assert_eq!(bytes[54], (1000 * index) as u8);
                assert_eq!(checksum::verify(bytes), offload.is_none());
            }
        }
    }

    #[test]
    fn a_frame_that_is_not_to_be_cut_stays_whole() {
        let out = sent(1000, None, Some(OFFERED));
        assert_eq!((out.len(), out[0].large_send, out[0].checksum != 0), (1, 0, true));
        let out = sent(1000, None, None);
        assert!(checksum::verify(&out[0].packets[0].bytes));
    }
}
