//! Frames made by hand, and what hardware must make of them: the oracle for offloads. Written apart from driver and
//! backend, straight from RFC 791, 8200, 9293, 768, 1071 and from NDIS's pages on segmentation and RSS hashing.

use alloc::vec;
use alloc::vec::Vec;

/// TCP's flags.
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 1;
    /// PSH.
    pub const PSH: u8 = 8;
    /// ACK.
    pub const ACK: u8 = 16;
    /// CWR.
    pub const CWR: u8 = 128;
}

/// Bytes that differ from place to place and from seed to seed.
pub fn payload(seed: u32, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        (x >> 11) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// One's complement sum of 16-bit words, RFC 1071.
fn sum(bytes: &[u8]) -> u32 {
    let mut total = 0u64;
    for (n, byte) in bytes.iter().enumerate() {
        total += u64::from(*byte) << if n % 2 == 0 { 8 } else { 0 };
    }
    while total > 0xffff {
        total = (total >> 16) + (total & 0xffff);
    }
    total as u32
}

fn complement(a: u32, b: u32) -> u16 {
    let total = a + b;
    !((total >> 16) + (total & 0xffff)) as u16
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The transport of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP with so many bytes of options (a multiple of 4, at most 40).
    Tcp {
        /// Bytes of options.
        options: usize,
    },
    /// UDP.
    Udp,
}

/// The form of a packet from the guest to the host of its interface, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The interface.
    pub index: u32,
    /// From the guest; otherwise to it.
    pub from_guest: bool,
    /// The guest's MAC.
    pub guest_mac: [u8; 6],
    /// The host's MAC.
    pub host_mac: [u8; 6],
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// Bytes of IPv4 options, or of an IPv6 hop-by-hop header: multiples of 4 and 8.
    pub extension: usize,
    /// An 802.1Q tag.
    pub tag: Option<u16>,
    /// TCP or UDP.
    pub transport: Transport,
    /// The guest's and the host's port.
    pub ports: (u16, u16),
}

/// Where the parts of a packet begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The IP header.
    pub ip: usize,
    /// The transport header.
    pub transport: usize,
    /// The payload.
    pub payload: usize,
}

impl Form {
    /// A plain TCP packet over IPv4 from the guest of interface 0.
    pub fn tcp(guest_mac: [u8; 6]) -> Self {
        Self {
            index: 0,
            from_guest: true,
            guest_mac,
            host_mac: [0x02, 0x77, 0, 0, 0, 0],
            v6: false,
            extension: 0,
            tag: None,
            transport: Transport::Tcp { options: 0 },
            ports: (49152, 40000),
        }
    }

    /// Where the parts begin.
    pub fn layout(&self) -> Layout {
        let ip = if self.tag.is_some() { 18 } else { 14 };
        let transport = ip + if self.v6 { 40 } else { 20 } + self.extension;
        let header = match self.transport {
            Transport::Tcp { options } => 20 + options,
            Transport::Udp => 8,
        };
        Layout { ip, transport, payload: transport + header }
    }

    fn addresses(&self) -> (Vec<u8>, Vec<u8>) {
        let n = self.index as u8;
        let (guest, host) = if self.v6 {
            let address = |last: u8| [0xfd, 0x77, 0, n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last].to_vec();
            (address(2), address(1))
        } else {
            (vec![10, 77, n, 2], vec![10, 77, n, 1])
        };
        if self.from_guest { (guest, host) } else { (host, guest) }
    }

    fn source_and_destination_ports(&self) -> (u16, u16) {
        let (guest, host) = self.ports;
        if self.from_guest { (guest, host) } else { (host, guest) }
    }

    /// The packet with right checksums. `sequence` and `flags` are TCP's.
    pub fn build(&self, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let layout = self.layout();
        let (to, from) =
            if self.from_guest { (self.host_mac, self.guest_mac) } else { (self.guest_mac, self.host_mac) };
        let mut out = [to, from].concat();
        if let Some(tag) = self.tag {
            out.extend_from_slice(&[0x81, 0]);
            out.extend_from_slice(&tag.to_be_bytes());
        }
        let protocol = if self.transport == Transport::Udp { 17 } else { 6 };
        let length = layout.payload - layout.transport + payload.len();
        let (source, destination) = self.addresses();
        if self.v6 {
            out.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend_from_slice(&((self.extension + length) as u16).to_be_bytes());
            out.extend_from_slice(&[if self.extension > 0 { 0 } else { protocol }, 64]);
            out.extend(source.iter().chain(&destination));
            if self.extension > 0 {
                out.extend_from_slice(&[protocol, (self.extension / 8 - 1) as u8, 1, (self.extension - 4) as u8]);
                out.extend(core::iter::repeat_n(0, self.extension - 4));
            }
        } else {
            let header = 20 + self.extension;
            out.extend_from_slice(&[8, 0, 0x40 | (header / 4) as u8, 0]);
            out.extend_from_slice(&((header + length) as u16).to_be_bytes());
            out.extend_from_slice(&[0x51, 0x7e, 0x40, 0, 64, protocol, 0, 0]);
            out.extend(source.iter().chain(&destination));
            // No-operation options.
            out.extend(core::iter::repeat_n(1, self.extension));
        }
        let (source_port, destination_port) = self.source_and_destination_ports();
        out.extend_from_slice(&source_port.to_be_bytes());
        out.extend_from_slice(&destination_port.to_be_bytes());
        match self.transport {
            Transport::Tcp { options } => {
                out.extend_from_slice(&sequence.to_be_bytes());
                out.extend_from_slice(&0x0102_0304u32.to_be_bytes());
                out.extend_from_slice(&[(((20 + options) / 4) << 4) as u8, flags, 0x20, 0, 0, 0, 0, 0]);
                out.extend(core::iter::repeat_n(1, options));
            }
            Transport::Udp => {
                out.extend_from_slice(&(length as u16).to_be_bytes());
                out.extend_from_slice(&[0, 0]);
            }
        }
        out.extend_from_slice(payload);
        self.finish(&mut out);
        out
    }

    fn checksum_at(&self) -> usize {
        self.layout().transport + if self.transport == Transport::Udp { 6 } else { 16 }
    }

    fn pseudo(&self, length: usize) -> Vec<u8> {
        let (source, destination) = self.addresses();
        let protocol = if self.transport == Transport::Udp { 17u32 } else { 6 };
        [source, destination, (length as u32).to_be_bytes().to_vec(), protocol.to_be_bytes().to_vec()].concat()
    }

    /// Puts the checksums of IPv4 header and transport in.
    fn finish(&self, out: &mut [u8]) {
        let layout = self.layout();
        if !self.v6 {
            put16(out, layout.ip + 10, 0);
            let header = complement(sum(&out[layout.ip..layout.transport]), 0);
            put16(out, layout.ip + 10, header);
        }
        let at = self.checksum_at();
        put16(out, at, 0);
        let value = complement(sum(&self.pseudo(out.len() - layout.transport)), sum(&out[layout.transport..]));
        put16(out, at, if value == 0 && self.transport == Transport::Udp { 0xffff } else { value });
    }

    /// Replaces the transport checksum by the pseudo header's sum, as who leaves the rest to hardware does. Without
    /// `length` that sum leaves the length out, as NDIS wants it for segmentation.
    pub fn blank(&self, out: &mut [u8], length: bool) {
        let bytes = if length { out.len() - self.layout().transport } else { 0 };
        let value = sum(&self.pseudo(bytes)) as u16;
        put16(out, self.checksum_at(), value);
    }

    /// The segments that hardware must make of a TCP packet: `mss` payload bytes each, the sequence number and IPv4's
    /// identification counting on, FIN and PSH on the last alone, CWR on the first alone, right checksums.
    pub fn segments(&self, whole: &[u8], mss: usize) -> Vec<Vec<u8>> {
        let layout = self.layout();
        let (head, data) = whole.split_at(layout.payload);
        let first = u32::from_be_bytes([
            head[layout.transport + 4],
            head[layout.transport + 5],
            head[layout.transport + 6],
            head[layout.transport + 7],
        ]);
        let count = data.len().div_ceil(mss);
        let mut list = Vec::with_capacity(count);
        for (n, part) in data.chunks(mss).enumerate() {
            let mut out = head.to_vec();
            out.extend_from_slice(part);
            let ip_length = out.len() - layout.ip;
            if self.v6 {
                put16(&mut out, layout.ip + 4, (ip_length - 40) as u16);
            } else {
                put16(&mut out, layout.ip + 2, ip_length as u16);
                let id = u16::from_be_bytes([head[layout.ip + 4], head[layout.ip + 5]]);
                put16(&mut out, layout.ip + 4, id.wrapping_add(n as u16));
            }
            let sequence = first.wrapping_add((n * mss) as u32);
            out[layout.transport + 4..layout.transport + 8].copy_from_slice(&sequence.to_be_bytes());
            let flags = &mut out[layout.transport + 13];
            if n + 1 < count {
                *flags &= !(flag::FIN | flag::PSH);
            }
            if n > 0 {
                *flags &= !flag::CWR;
            }
            self.finish(&mut out);
            list.push(out);
        }
        list
    }

    /// The bytes over which Windows' RSS hash of the packet goes, as the receiver sees it: addresses, and with `ports`
    /// the ports.
    pub fn hash_input(&self, ports: bool) -> Vec<u8> {
        let (source, destination) = self.addresses();
        let mut input = [source, destination].concat();
        if ports {
            let (source, destination) = self.source_and_destination_ports();
            input.extend_from_slice(&source.to_be_bytes());
            input.extend_from_slice(&destination.to_be_bytes());
        }
        input
    }
}

/// Microsoft's Toeplitz hash: for each set bit of the input, the 32 key bits that begin at its place.
pub fn toeplitz(key: &[u8; 40], input: &[u8]) -> u32 {
    let mut value = 0;
    for place in 0..input.len() * 8 {
        if input[place / 8] & (0x80 >> (place % 8)) != 0 {
            for n in 0..32 {
                let at = place + n;
                let bit = key.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
                value ^= u32::from(bit) << (31 - n);
            }
        }
    }
    value
}

/// The key of "Verifying the RSS Hash Calculation" in Microsoft's documentation.
pub const TOEPLITZ_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn forms() -> impl Iterator<Item = Form> {
        let transports = [Transport::Tcp { options: 0 }, Transport::Tcp { options: 40 }, Transport::Udp];
        [false, true].into_iter().flat_map(move |v6| {
            transports.into_iter().flat_map(move |transport| {
                [0, 8, 24].into_iter().flat_map(move |extension| {
                    [None, Some(0x602a)].map(|tag| Form {
                        v6,
                        extension,
                        tag,
                        transport,
                        ..Form::tcp([0, 0x16, 0x3e, 1, 2, 3])
                    })
                })
            })
        })
    }

    #[test]
    fn checksums_add_up() {
        for form in forms() {
            for len in [0, 1, 7, 1000] {
                let packet = form.build(5, flag::ACK, &payload(1, len));
                let layout = form.layout();
                assert_eq!(packet.len(), layout.payload + len);
                let transport = &packet[layout.transport..];
                let pseudo = form.pseudo(transport.len());
                assert_eq!(complement(sum(&pseudo), sum(transport)), 0, "{form:?}");
                if !form.v6 {
                    assert_eq!(sum(&packet[layout.ip..layout.transport]), 0xffff);
                }
            }
        }
    }

    #[test]
    fn segments_carry_everything_once() {
        let form = Form { v6: true, transport: Transport::Tcp { options: 12 }, ..Form::tcp([0; 6]) };
        let data = payload(9, 4001);
        let whole = form.build(u32::MAX - 100, flag::ACK | flag::PSH | flag::FIN | flag::CWR, &data);
        let segments = form.segments(&whole, 1000);
        let at = form.layout();
        let joined: Vec<u8> = segments.iter().flat_map(|s| s[at.payload..].iter().copied()).collect();
        assert_eq!(joined, data);
        let flags: Vec<u8> = segments.iter().map(|s| s[at.transport + 13]).collect();
        assert_eq!(flags, [flag::ACK | flag::CWR, flag::ACK, flag::ACK, flag::ACK, flag::ACK | flag::PSH | flag::FIN]);
        assert_eq!(segments[1][at.transport + 4..at.transport + 8], (899u32).to_be_bytes());
    }

    #[test]
    fn published_hashes() {
        let input = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(&TOEPLITZ_KEY, &input), 0x51cc_c178);
        assert_eq!(toeplitz(&TOEPLITZ_KEY, &input[..8]), 0x323e_8fc2);
        let v6 = [
            0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7, 0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00,
            0x00, 0x03, 0, 0, 0, 0, 0, 0, 0, 1, 0x0a, 0xea, 0x06, 0xe6,
        ];
        assert_eq!(toeplitz(&TOEPLITZ_KEY, &v6), 0x4020_7d3d);
        assert_eq!(toeplitz(&TOEPLITZ_KEY, &v6[..32]), 0x2cc1_8cd5);
    }
}
