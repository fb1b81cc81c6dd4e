//! Frames, and what becomes of them on a wire: checksums and segments by the plainest arithmetic there is.

use std::{vec, vec::Vec};

use crate::front::Offload;

/// What stands in a frame of TCP or UDP.
#[derive(Clone)]
pub struct Shape {
    pub v6: bool,
    /// TCP, or UDP.
    pub tcp: bool,
    /// A tag in the frame itself.
    pub tag: Option<u16>,
    /// Bytes of IPv4 options: a multiple of 4.
    pub options: usize,
    /// Extension headers of IPv6: type and bytes (a multiple of 8).
    pub extensions: Vec<(u8, usize)>,
    /// Bytes of TCP options: a multiple of 4.
    pub tcp_options: usize,
    pub tcp_flags: u8,
    pub payload: Vec<u8>,
}

impl Shape {
    pub fn tcp4(payload: Vec<u8>) -> Self {
        Self {
            v6: false,
            tcp: true,
            tag: None,
            options: 0,
            extensions: vec![],
            tcp_options: 0,
            tcp_flags: 0x18,
            payload,
        }
    }

    pub fn tcp6(payload: Vec<u8>) -> Self {
        Self { v6: true, ..Self::tcp4(payload) }
    }

    pub fn udp4(payload: Vec<u8>) -> Self {
        Self { tcp: false, ..Self::tcp4(payload) }
    }

    /// The frame, with every checksum zero.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2];
        frame.extend(MAC);
        if let Some(tag) = self.tag {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(if self.v6 { [0x86, 0xDD] } else { [8, 0] });
        let mut upper = Vec::new();
        upper.extend([0x12, 0x34, 0x00, 0x50]);
        if self.tcp {
            upper.extend([0xFF, 0xFF, 0xFF, 0x00, 0, 0, 0, 9]);
            upper.extend([((20 + self.tcp_options) * 4) as u8, self.tcp_flags, 1, 2, 0, 0, 0, 0]);
            upper.extend((0..self.tcp_options).map(|_| 1));
        } else {
            upper.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            upper.extend([0, 0]);
        }
        upper.extend(&self.payload);
        let protocol = if self.tcp { 6 } else { 17 };
        if self.v6 {
            let mut extensions = Vec::new();
            for (index, (_, len)) in self.extensions.iter().enumerate() {
                let next = self.extensions.get(index + 1).map_or(protocol, |(kind, _)| *kind);
                let mut header = vec![0; *len];
                header[0] = next;
                let fragment = self.extensions[index].0 == 44;
                header[1] = if fragment { 0 } else { (len / 8 - 1) as u8 };
                extensions.extend(header);
            }
            let len = (extensions.len() + upper.len()) as u16;
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([self.extensions.first().map_or(protocol, |(kind, _)| *kind), 64]);
            frame.extend([0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            frame.extend([0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            frame.extend(extensions);
        } else {
            let len = (20 + self.options + upper.len()) as u16;
            frame.extend([0x40 | ((20 + self.options) / 4) as u8, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([0xFF, 0xFE, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            frame.extend((0..self.options).map(|_| 1));
        }
        frame.extend(upper);
        frame
    }

    pub fn network(&self) -> usize {
        14 + if self.tag.is_some() { 4 } else { 0 }
    }

    pub fn transport(&self) -> usize {
        let ip = if self.v6 { 40 } else { 20 };
        self.network() + ip + self.options + self.extensions.iter().map(|(_, len)| len).sum::<usize>()
    }

    pub fn header_len(&self) -> usize {
        self.transport() + if self.tcp { 20 + self.tcp_options } else { 8 }
    }

    /// The frame with every checksum right.
    pub fn whole(&self) -> Vec<u8> {
        let mut frame = self.frame();
        self.fill(&mut frame);
        frame
    }

    /// Writes all checksums of a frame of this shape.
    fn fill(&self, frame: &mut [u8]) {
        let (network, transport) = (self.network(), self.transport());
        if !self.v6 {
            frame[network + 10..network + 12].fill(0);
            let sum = !fold(words(&frame[network..transport]));
            frame[network + 10..network + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let field = transport + if self.tcp { 16 } else { 6 };
        frame[field..field + 2].fill(0);
        let mut sum = !fold(self.pseudo(frame) + words(&frame[transport..]));
        if !self.tcp && sum == 0 {
            sum = 0xFFFF;
        }
        frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// The pseudo-header's sum.
    pub fn pseudo(&self, frame: &[u8]) -> u64 {
        let network = self.network();
        let addresses = if self.v6 { &frame[network + 8..network + 40] } else { &frame[network + 12..network + 20] };
        words(addresses) + (frame.len() - self.transport()) as u64 + if self.tcp { 6 } else { 17 }
    }

    /// What goes over the wire for a frame of this shape.
    pub fn wire(&self, offload: &Offload) -> Vec<Vec<u8>> {
        let mut frames = match offload.segment {
            Some(size) if self.payload.len() > usize::from(size.get()) => self.segments(size.get().into()),
            _ => {
                let mut frame = self.frame();
                let whole = self.whole();
                let (network, field) = (self.network(), self.transport() + if self.tcp { 16 } else { 6 });
                if (offload.ip_checksum || offload.segment.is_some()) && !self.v6 {
                    frame[network + 10..network + 12].copy_from_slice(&whole[network + 10..network + 12]);
                }
                if offload.tcp_checksum || offload.udp_checksum || offload.segment.is_some() {
                    frame[field..field + 2].copy_from_slice(&whole[field..field + 2]);
                }
                vec![frame]
            }
        };
        if let Some(tag) = offload.vlan {
            for frame in &mut frames {
                let [high, low] = tag.to_be_bytes();
                frame.splice(12..12, [0x81, 0, high, low]);
            }
        }
        frames
    }

    /// The frames that this one stands for.
    fn segments(&self, size: usize) -> Vec<Vec<u8>> {
        let parts: Vec<_> = self.payload.chunks(size).collect();
        parts
            .iter()
            .enumerate()
            .map(|(index, part)| {
                let last = index + 1 == parts.len();
                let mut flags = self.tcp_flags;
                if !last {
                    flags &= !0x09;
                }
                if index > 0 {
                    flags &= !0x80;
                }
                let one = Self { tcp_flags: flags, payload: part.to_vec(), ..self.clone() };
                let mut frame = one.frame();
                if !self.v6 {
                    let at = self.network() + 4;
                    let id = u16::from_be_bytes([frame[at], frame[at + 1]]).wrapping_add(index as u16);
                    frame[at..at + 2].copy_from_slice(&id.to_be_bytes());
                }
                let at = self.transport() + 4;
                let sequence = u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
                let sequence = sequence.wrapping_add((index * size) as u32);
                frame[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
                one.fill(&mut frame);
                frame
            })
            .collect()
    }
}

/// The guest's address.
pub const MAC: [u8; 6] = [0, 0x16, 0x3E, 1, 2, 3];

/// The sum of big-endian words.
pub fn words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0))).sum()
}

pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}
