//! What is put together before it goes to the adapter: segments of one TCP stream, one behind the other, become a large send,
//! as TCPIP's do where the adapter offers segmentation (LSO version 2).
//! <https://learn.microsoft.com/windows-hardware/drivers/network/offloading-the-segmentation-of-large-tcp-packets>

use super::checksum::{self, Transport};
use super::packet::Outgoing;
use crate::ndis::abi::LsoV2;
use crate::ndis::oid_abi::ENCAPSULATION_802_3;
use alloc::vec::Vec;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Flags of TCP.
const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 16;

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
}

/// Segments that are put together.
struct Group {
    frame: Vec<u8>,
    at: Transport,
    /// Bytes of headers, and of data of every segment but the last.
    headers: usize,
    mss: usize,
    count: usize,
    next: u32,
    open: bool,
}

fn sequence(frame: &[u8], transport: usize) -> u32 {
    frame[transport + 4..transport + 8].iter().fold(0, |all, byte| all << 8 | u32::from(*byte))
}

impl Group {
    /// A group of one, if the frame is a segment with data.
    fn new(frame: Vec<u8>, at: Transport) -> Result<Self, Vec<u8>> {
        let headers = at.offset + usize::from(frame.get(at.offset + 12).copied().unwrap_or(0) >> 4) * 4;
        let end = at.offset + at.length;
        if !at.tcp || at.v6 || headers >= end || end != frame.len() || frame[at.offset + 13] & !PSH != ACK {
            return Err(frame);
        }
        let mss = end - headers;
        let next = sequence(&frame, at.offset).wrapping_add(mss as u32);
        let open = frame[at.offset + 13] & PSH == 0;
        Ok(Self { frame, at, headers, mss, count: 1, next, open })
    }

    /// Takes the next segment in, unless it is of another stream, out of order or too much.
    fn take(&mut self, frame: &[u8], at: Transport, most: usize) -> bool {
        let (tcp, headers) = (self.at.offset, self.headers);
        let end = at.offset + at.length;
        let same = |range: core::ops::Range<usize>| frame[range.clone()] == self.frame[range];
        let fits = self.open
            && at.tcp
            && !at.v6
            && at.offset == tcp
            && end == frame.len()
            && frame.len() > headers
            && frame.len() - headers <= self.mss
            && self.frame.len() - headers + frame.len() - headers <= most
            // Ethernet, version, service; fragmentation, lifetime, protocol; addresses.
            && same(0..ETHERNET + 2)
            && same(ETHERNET + 6..ETHERNET + 10)
            && same(ETHERNET + 12..tcp)
            // Ports; acknowledgement, length; window; options.
            && same(tcp..tcp + 4)
            && same(tcp + 8..tcp + 13)
            && frame[tcp + 13] & !(PSH | FIN) == ACK
            && same(tcp + 14..tcp + 16)
            && same(tcp + 18..headers)
            && sequence(frame, tcp) == self.next;
        if fits {
            if self.count == 1 {
                self.frame.reserve_exact(most);
            }
            let data = &frame[headers..];
            self.frame.extend_from_slice(data);
            self.frame[tcp + 13] |= frame[tcp + 13];
            self.next = self.next.wrapping_add(data.len() as u32);
            self.count += 1;
            // What comes behind a short one, a push or the end is another packet.
            self.open = data.len() == self.mss && frame[tcp + 13] & (PSH | FIN) == 0;
        }
        fits
    }

    fn finish(mut self) -> Outgoing {
        if self.count == 1 {
            return single(self.frame);
        }
        let (ip, tcp) = (ETHERNET, self.at.offset);
        // The adapter counts length and checksum of each segment; the sum of the pseudo header is without the length.
        self.frame[ip + 2..ip + 4].fill(0);
        self.frame[ip + 10..ip + 12].fill(0);
        let words = self.frame[ip + 12..ip + 20].chunks_exact(2);
        let sum: u32 = words.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>() + 6;
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = ((folded & 0xffff) + (folded >> 16)) as u16;
        self.frame[tcp + 16..tcp + 18].copy_from_slice(&folded.to_be_bytes());
        Outgoing::frame(self.frame).large(self.mss as u32, tcp as u32, false)
    }
}

/// A frame as it is, its checksum left to the adapter.
fn single(mut frame: Vec<u8>) -> Outgoing {
    let checksum = checksum::leave_to_adapter(&mut frame);
    Outgoing { checksum, ..Outgoing::frame(frame) }
}

/// Frames whose checksums are left to the adapter, those of one stream put together as far as it segments them.
pub fn coalesce(frames: Vec<Vec<u8>>, large: Large) -> Vec<Outgoing> {
    let mut out = Vec::with_capacity(frames.len());
    let mut group: Option<Group> = None;
    // Fewer segments than the adapter takes are not worth a packet; of two it takes any.
    let any = large.most != 0 && large.least <= 2;
    for frame in frames {
        let at = checksum::transport(&frame).filter(|_| any);
        if let (Some(at), Some(group)) = (at, &mut group)
            && group.take(&frame, at, large.most)
        {
            continue;
        }
        out.extend(group.take().map(Group::finish));
        match at.ok_or(()) {
            Ok(at) => match Group::new(frame, at) {
                Ok(first) => group = Some(first),
                Err(frame) => out.push(single(frame)),
            },
            Err(()) => out.push(single(frame)),
        }
    }
    out.extend(group.map(Group::finish));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment of a stream.
    fn segment(sequence: u32, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut frame = alloc::vec![0_u8; 54];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&(40 + data.len() as u16).to_be_bytes());
        (frame[22], frame[23]) = (64, 6);
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let header = !checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        frame[34..38].copy_from_slice(&[1, 2, 3, 4]);
        frame[38..42].copy_from_slice(&sequence.to_be_bytes());
        (frame[46], frame[47]) = (0x50, flags);
        frame.extend_from_slice(data);
        frame
    }

    const OFFERED: Large = Large { most: 2500, least: 2 };

    #[test]
    fn segments_of_a_stream_become_one() {
        let frames = (0..4).map(|n| segment(1000 + n * 1000, ACK, &[n as u8; 1000])).collect();
        let out = coalesce(frames, OFFERED);
        let lengths: Vec<usize> = out.iter().map(|list| list.packets[0].bytes.len()).collect();
        assert_eq!(lengths, [2054, 2054]);
        assert_eq!(out[0].large_send, 0x3e8 | 0x22 << 20 | 1 << 30);
        assert_eq!(&out[0].packets[0].bytes[1053..1055], &[0, 1]);
        assert_eq!(sequence(&out[1].packets[0].bytes, 34), 3000);
        // The sum of the addresses and the protocol.
        let wanted = checksum::sum(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 6]);
        assert_eq!(out[0].packets[0].bytes[50..52], wanted.to_be_bytes());
    }

    #[test]
    fn what_does_not_follow_stays_alone() {
        let short = segment(2000, ACK | PSH, &[1; 10]);
        let frames = alloc::vec![
            segment(1000, ACK, &[0; 1000]),
            short,
            segment(2010, ACK, &[0; 1000]),
            segment(9000, ACK, &[0; 1000]),
            segment(10_000, ACK, &[]),
        ];
        let out = coalesce(frames, OFFERED);
        let lengths: Vec<usize> = out.iter().map(|list| list.packets[0].bytes.len()).collect();
        assert_eq!(lengths, [1064, 1054, 1054, 54]);
        assert_eq!(out[0].packets[0].bytes[47], ACK | PSH);
        assert!(out[1..].iter().all(|list| list.large_send == 0 && list.checksum != 0));
        let two = (0..2).map(|n| segment(n * 1000, ACK, &[0; 1000])).collect();
        assert_eq!(coalesce(two, Large::default()).len(), 2);
    }
}
