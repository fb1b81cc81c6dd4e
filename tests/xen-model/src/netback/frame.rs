//! Ethernet frames with what travels beside them: where headers are, checksums, segmentation and its opposite.
//!
//! This is the work of Linux's stack behind netback, done a second time in plain code: what a driver leaves to the other
//! side is finished here, and what comes out is what stands on the wire.

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 16;
const CWR: u8 = 128;

/// What is known of the transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing: it is in the frame and has to be checked.
    Unknown,
    /// Somebody checked it already.
    Validated,
    /// The field holds the sum of the pseudo header alone; whoever puts the frame on a wire has to finish it.
    Blank,
}

/// Which hash a packet carries (`XEN_NETIF_CTRL_HASH_TYPE_*`) and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketHash {
    /// The number of the type: 0 IPv4, 1 IPv4 with TCP, 2 IPv6, 3 IPv6 with TCP.
    pub kind: u8,
    /// The hash.
    pub value: u32,
}

/// One packet between guest and backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// From the Ethernet header on, without the frame check sequence.
    pub bytes: Vec<u8>,
    /// The transport checksum.
    pub checksum: Checksum,
    /// Payload bytes of a segment, where the packet is to be segmented or was put together from segments.
    pub mss: Option<u16>,
    /// The hash beside it.
    pub hash: Option<PacketHash>,
}

impl Frame {
    /// A frame as it comes from a wire.
    pub fn from_wire(bytes: Vec<u8>) -> Self {
        Self { bytes, checksum: Checksum::Unknown, mss: None, hash: None }
    }
}

/// Where the parts of an IP packet begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Offset of the IP header.
    pub ip: usize,
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// The transport protocol.
    pub protocol: u8,
    /// Offset of the transport header.
    pub transport: usize,
    /// Where the IP packet ends; padding may follow.
    pub end: usize,
    /// A fragment: no offload applies to it.
    pub fragment: bool,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(be16(bytes, at)?) << 16 | u32::from(be16(bytes, at + 2)?))
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

impl Headers {
    /// Finds the headers of an IP packet, behind VLAN tags and IPv6 extension headers. `None`: it is no IP packet, or its
    /// headers are not whole.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut at = 12;
        while be16(bytes, at)? == ETHERTYPE_VLAN {
            at += 4;
        }
        let ip = at + 2;
        match be16(bytes, at)? {
            ETHERTYPE_IPV4 => Self::parse_v4(bytes, ip),
            ETHERTYPE_IPV6 => Self::parse_v6(bytes, ip),
            _ => None,
        }
    }

    fn parse_v4(bytes: &[u8], ip: usize) -> Option<Self> {
        let first = *bytes.get(ip)?;
        let header = usize::from(first & 15) * 4;
        let end = ip + usize::from(be16(bytes, ip + 2)?);
        if first >> 4 != 4 || header < 20 || end < ip + header || end > bytes.len() {
            return None;
        }
        let fragment = be16(bytes, ip + 6)? & 0x3fff != 0;
        Some(Self { ip, v6: false, protocol: bytes[ip + 9], transport: ip + header, end, fragment })
    }

    fn parse_v6(bytes: &[u8], ip: usize) -> Option<Self> {
        let end = ip + 40 + usize::from(be16(bytes, ip + 4)?);
        if bytes.get(ip)? >> 4 != 6 || end > bytes.len() {
            return None;
        }
        let (mut protocol, mut transport, mut fragment) = (bytes[ip + 6], ip + 40, false);
        loop {
            let length = match protocol {
                // Hop-by-hop options, routing, destination options.
                0 | 43 | 60 => (usize::from(*bytes.get(transport + 1)?) + 1) * 8,
                44 => {
                    fragment = true;
                    8
                }
                // Authentication.
                51 => (usize::from(*bytes.get(transport + 1)?) + 2) * 4,
                _ => break,
            };
            protocol = *bytes.get(transport)?;
            transport += length;
            if transport > end {
                return None;
            }
        }
        Some(Self { ip, v6: true, protocol, transport, end, fragment })
    }

    /// Where the payload begins; for protocols other than TCP and UDP, the transport header.
    pub fn payload(&self, bytes: &[u8]) -> usize {
        match self.protocol {
            TCP => self.transport + usize::from(bytes.get(self.transport + 12).copied().unwrap_or(0) >> 4) * 4,
            UDP => self.transport + 8,
            _ => self.transport,
        }
    }

    /// Offset of the transport checksum of TCP and UDP.
    fn checksum_field(&self) -> Option<usize> {
        let at = self.transport
            + match self.protocol {
                TCP => 16,
                UDP => 6,
                _ => return None,
            };
        (!self.fragment && at + 2 <= self.end).then_some(at)
    }

    /// Source address, destination address.
    fn addresses<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        if self.v6 { &bytes[self.ip + 8..self.ip + 40] } else { &bytes[self.ip + 12..self.ip + 20] }
    }

    /// The folded sum of the pseudo header, for `len` bytes of transport header and payload.
    fn pseudo(&self, bytes: &[u8], len: usize) -> u16 {
        let fixed = u64::from(self.protocol) + (len as u64 & 0xffff) + (len as u64 >> 16);
        fold(sum(self.addresses(bytes)) + fixed)
    }

    /// The bytes that the hash of a packet goes over, and the type's number: with ports for TCP if `tcp`.
    pub fn hash_input(&self, bytes: &[u8], tcp: bool) -> Vec<u8> {
        let mut input = self.addresses(bytes).to_vec();
        if tcp {
            input.extend_from_slice(&bytes[self.transport..self.transport + 4]);
        }
        input
    }
}

fn sum(bytes: &[u8]) -> u64 {
    let mut pairs = bytes.chunks_exact(2);
    let whole: u64 = pairs.by_ref().map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    whole + pairs.remainder().first().map_or(0, |last| u64::from(*last) << 8)
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Why a frame's checksum cannot be finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumError {
    /// It is no whole TCP or UDP packet: Linux's `skb_checksum_setup` drops it.
    NoField,
    /// The field did not hold the sum of the pseudo header, so what was finished is wrong.
    WrongPartial,
}

/// Finishes the transport checksum of a frame whose field holds the pseudo header's sum, as hardware does: by adding up,
/// whatever stands there.
///
/// # Errors
/// See [`ChecksumError`].
pub fn finish_checksum(bytes: &mut [u8]) -> Result<(), ChecksumError> {
    let headers = Headers::parse(bytes).ok_or(ChecksumError::NoField)?;
    let field = headers.checksum_field().ok_or(ChecksumError::NoField)?;
    let expected = headers.pseudo(bytes, headers.end - headers.transport);
    let found = be16(bytes, field);
    let total = !fold(sum(&bytes[headers.transport..headers.end]));
    put16(bytes, field, if total == 0 && headers.protocol == UDP { 0xffff } else { total });
    // Zero and all ones are the same in this arithmetic.
    let same = |a: u16, b: u16| a == b || (a.is_multiple_of(0xffff) && b.is_multiple_of(0xffff));
    if found.is_some_and(|found| same(found, expected)) { Ok(()) } else { Err(ChecksumError::WrongPartial) }
}

/// Puts the sum of the pseudo header into the checksum field. `false`: the frame has none.
pub fn blank_checksum(bytes: &mut [u8]) -> bool {
    let Some(headers) = Headers::parse(bytes) else { return false };
    let Some(field) = headers.checksum_field() else { return false };
    let partial = headers.pseudo(bytes, headers.end - headers.transport);
    put16(bytes, field, partial);
    true
}

/// Whether the transport checksum of a TCP or UDP packet is right (a UDP packet over IPv4 may have none), and that of the
/// IPv4 header. `None`: there is no such checksum.
pub fn verify_checksum(bytes: &[u8]) -> Option<bool> {
    let headers = Headers::parse(bytes)?;
    let header_right = headers.v6 || fold(sum(&bytes[headers.ip..headers.transport])) == 0xffff;
    let Some(field) = headers.checksum_field() else { return Some(header_right).filter(|_| !headers.v6) };
    if headers.protocol == UDP && !headers.v6 && be16(bytes, field) == Some(0) {
        return Some(header_right);
    }
    let pseudo = headers.pseudo(bytes, headers.end - headers.transport);
    let whole = fold(sum(&bytes[headers.transport..headers.end]) + u64::from(pseudo));
    Some(header_right && whole == 0xffff)
}

/// Cuts a TCP packet into segments of `mss` payload bytes, with finished checksums: what a card with segmentation offload
/// puts on the wire. `None`: it is no TCP packet of that IP version, or a fragment.
pub fn segment(bytes: &[u8], v6: bool, mss: usize) -> Option<Vec<Vec<u8>>> {
    let headers = Headers::parse(bytes)?;
    let start = headers.payload(bytes);
    if headers.protocol != TCP || headers.v6 != v6 || headers.fragment || start > headers.end || mss == 0 {
        return None;
    }
    if start < headers.transport + 20 {
        return None;
    }
    let payload = &bytes[start..headers.end];
    let sequence = be32(bytes, headers.transport + 4)?;
    let identification = be16(bytes, headers.ip + 4)?;
    let flags = bytes[headers.transport + 13];
    let count = payload.len().div_ceil(mss).max(1);
    let mut segments = Vec::with_capacity(count);
    for n in 0..count {
        let part = &payload[n * mss..payload.len().min((n + 1) * mss)];
        let mut out = bytes[..start].to_vec();
        out.extend_from_slice(part);
        if v6 {
            put16(&mut out, headers.ip + 4, (start - headers.ip - 40 + part.len()) as u16);
        } else {
            put16(&mut out, headers.ip + 2, (start - headers.ip + part.len()) as u16);
            put16(&mut out, headers.ip + 4, identification.wrapping_add(n as u16));
            put16(&mut out, headers.ip + 10, 0);
            let header = !fold(sum(&out[headers.ip..headers.transport]));
            put16(&mut out, headers.ip + 10, header);
        }
        let at = headers.transport;
        out[at + 4..at + 8].copy_from_slice(&sequence.wrapping_add((n * mss) as u32).to_be_bytes());
        let last = n + 1 == count;
        out[at + 13] = flags & !(if last { 0 } else { FIN | PSH }) & !(if n == 0 { 0 } else { CWR });
        blank_checksum(&mut out);
        finish_checksum(&mut out).ok()?;
        segments.push(out);
    }
    Some(segments)
}

/// Appends `next` to `head` if it goes on where `head` ends, as Linux's GRO does: the same flow and headers, the next
/// sequence number, both without other flags than ACK (and PSH on the last). `head` stays below 64 KiB. Checksums of the
/// joined packet are blank.
pub fn join(head: &mut Frame, next: &[u8]) -> bool {
    let (Some(a), Some(b)) = (Headers::parse(&head.bytes), Headers::parse(next)) else { return false };
    let (first, second) = (a.payload(&head.bytes), b.payload(next));
    let tcp = |h: &Headers| h.protocol == TCP && !h.fragment && h.transport == h.ip + if h.v6 { 40 } else { 20 };
    if !tcp(&a) || !tcp(&b) || a.v6 != b.v6 || a.ip != b.ip || first != second || second >= b.end || first >= a.end {
        return false;
    }
    if a.end != head.bytes.len() || b.end != next.len() || verify_checksum(next) != Some(true) {
        return false;
    }
    let (held, added) = (a.end - first, b.end - second);
    let mss = head.mss.map_or(held, usize::from);
    let t = a.transport;
    let same = |from: usize, to: usize| head.bytes[from..to] == next[from..to];
    let plain = |bytes: &[u8]| bytes[t + 13] & !PSH == ACK;
    // Ethernet, version and class; TTL and addresses; ports; acknowledgement; window; options.
    let (class, hop) = if a.v6 { (4, 6) } else { (2, 6) };
    let alike = same(0, a.ip + class)
        && same(a.ip + hop, a.ip + if a.v6 { 40 } else { 10 })
        && a.addresses(&head.bytes) == b.addresses(next)
        && same(t, t + 4)
        && same(t + 8, t + 13)
        && same(t + 14, t + 16)
        && same(t + 20, first);
    let sequence = be32(&head.bytes, t + 4).map(|s| s.wrapping_add(held as u32));
    if !alike || !plain(&head.bytes) || !plain(next) || head.bytes[t + 13] & PSH != 0 {
        return false;
    }
    if sequence != be32(next, t + 4) || held % mss != 0 || added > mss || a.end - a.ip + added > 0xffff {
        return false;
    }
    if held == mss && head.mss.is_none() && verify_checksum(&head.bytes) != Some(true) {
        return false;
    }
    head.bytes.extend_from_slice(&next[second..]);
    head.bytes[t + 13] |= next[t + 13];
    let end = head.bytes.len();
    if a.v6 {
        put16(&mut head.bytes, a.ip + 4, (end - a.ip - 40) as u16);
    } else {
        put16(&mut head.bytes, a.ip + 2, (end - a.ip) as u16);
        put16(&mut head.bytes, a.ip + 10, 0);
        let header = !fold(sum(&head.bytes[a.ip..t]));
        put16(&mut head.bytes, a.ip + 10, header);
    }
    blank_checksum(&mut head.bytes);
    head.checksum = Checksum::Blank;
    head.mss = Some(mss as u16);
    true
}

/// Whether a frame is for a group: multicast, but not broadcast.
pub fn is_multicast(bytes: &[u8]) -> bool {
    bytes.len() >= ETHERNET && bytes[0] & 1 != 0 && bytes[..6] != [0xff; 6]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP packet with `len` payload bytes; the checksum field holds the pseudo header's sum.
    fn packet(v6: bool, len: usize, options: usize) -> Vec<u8> {
        let mut bytes = vec![0x02; 12];
        bytes.extend_from_slice(&if v6 { [0x86, 0xdd] } else { [8, 0] });
        let tcp = 20 + options;
        if v6 {
            bytes.extend_from_slice(&[0x60, 0, 0, 0]);
            bytes.extend_from_slice(&((tcp + len) as u16).to_be_bytes());
            bytes.extend_from_slice(&[TCP, 64]);
            bytes.extend((0..32).map(|n| n * 3));
        } else {
            bytes.extend_from_slice(&[0x45, 0]);
            bytes.extend_from_slice(&((20 + tcp + len) as u16).to_be_bytes());
            bytes.extend_from_slice(&[0x12, 0xff, 0x40, 0, 64, TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let header = !fold(sum(&bytes[14..34]));
            put16(&mut bytes, 24, header);
        }
        bytes.extend_from_slice(&[0x30, 0x39, 0, 80, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1]);
        bytes.extend_from_slice(&[(tcp as u8 / 4) << 4, ACK | PSH, 4, 0, 0, 0, 0, 0]);
        bytes.extend(std::iter::repeat_n(1, options));
        bytes.extend((0..len).map(|n| (n * 7) as u8));
        assert!(blank_checksum(&mut bytes));
        bytes
    }

    #[test]
    fn checksums_are_finished_and_verified() {
        for v6 in [false, true] {
            for len in [0, 1, 2, 999, 1460] {
                let mut bytes = packet(v6, len, 12);
                assert_eq!(verify_checksum(&bytes), Some(false), "{len}");
                assert_eq!(finish_checksum(&mut bytes), Ok(()));
                assert_eq!(verify_checksum(&bytes), Some(true));
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                assert_eq!(verify_checksum(&bytes), Some(false));
                let mut wrong = packet(v6, len, 12);
                let field = Headers::parse(&wrong).and_then(|h| h.checksum_field()).expect("TCP");
                wrong[field] ^= 0x55;
                assert_eq!(finish_checksum(&mut wrong), Err(ChecksumError::WrongPartial));
            }
        }
        assert_eq!(finish_checksum(&mut [0; 60]), Err(ChecksumError::NoField));
    }

    #[test]
    fn joining_undoes_segmenting() {
        for v6 in [false, true] {
            for mss in [1, 100, 1448] {
                let whole = packet(v6, 5000, 12);
                let segments = segment(&whole, v6, mss).expect("TCP");
                assert_eq!(segments.len(), 5000usize.div_ceil(mss));
                let mut joined = Frame::from_wire(segments[0].clone());
                for next in &segments[1..] {
                    assert!(join(&mut joined, next));
                }
                assert_eq!(joined.bytes, whole);
                assert_eq!((joined.checksum, joined.mss), (Checksum::Blank, Some(mss as u16)));
                assert!(!join(&mut joined, &segments[1]), "what is old does not go on");
            }
        }
    }

    #[test]
    fn headers_behind_tags_and_extensions_are_found() {
        let plain = packet(true, 10, 0);
        let mut tagged = plain[..12].to_vec();
        tagged.extend_from_slice(&[0x81, 0, 0, 5]);
        tagged.extend_from_slice(&plain[12..18]);
        tagged.extend_from_slice(&(20 + 10 + 8u16).to_be_bytes());
        tagged.extend_from_slice(&[0, 64]);
        tagged.extend_from_slice(&plain[22..54]);
        tagged.extend_from_slice(&[TCP, 0, 1, 4, 0, 0, 0, 0]);
        tagged.extend_from_slice(&plain[54..]);
        let headers = Headers::parse(&tagged).expect("an IP packet");
        assert_eq!((headers.ip, headers.transport, headers.protocol), (18, 66, TCP));
        assert_eq!(headers.payload(&tagged), 86);
        for cut in 0..tagged.len() {
            // Whatever is missing, nothing is read beyond the end.
            Headers::parse(&tagged[..cut]);
            verify_checksum(&tagged[..cut]);
        }
    }
}
