//! The headers of an Ethernet frame: where they are, how long they are. Bounded, whatever stands in them.

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of an 802.1Q tag.
pub const TAG: usize = 4;
/// Most bytes of headers that are dealt with: Ethernet, tag, IP with options or extension headers, TCP with options.
pub const MOST: usize = 256;
/// Extension headers of IPv6 that are walked over.
const EXTENSIONS: usize = 8;

/// Type of a tag.
pub const TYPE_VLAN: u16 = 0x8100;
/// Type of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// Type of IPv6.
pub const TYPE_IPV6: u16 = 0x86DD;
/// Type of ARP.
pub const TYPE_ARP: u16 = 0x0806;

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where the headers of an IP packet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Offset of the IP header.
    pub network: u16,
    /// Which IP.
    pub version: Version,
    /// Offset of what follows the IP header, its options and extension headers.
    pub transport: u16,
    /// Protocol number of that.
    pub protocol: u8,
    /// Part of a fragmented packet: what stands at `transport` need not be a header.
    pub fragment: bool,
    /// The addresses in the IP header are not those that the checksum is made over: it has a route with stops to come.
    pub routed: bool,
    /// Bytes of all headers, with those of TCP or UDP if there are any: the offset of the payload.
    pub len: u16,
    /// Bytes from the IP header on, as it says itself. Some senders leave it to the segmentation.
    pub ip_len: u32,
}

impl Headers {
    /// Whether it is a whole TCP packet, or a whole UDP one.
    pub const fn is(&self, protocol: u8) -> bool {
        self.protocol == protocol && !self.fragment
    }

    /// Offset of the checksum field of TCP or UDP.
    pub const fn checksum_at(&self) -> Option<usize> {
        match self.protocol {
            TCP if !self.fragment => Some(self.transport as usize + 16),
            UDP if !self.fragment => Some(self.transport as usize + 6),
            _ => None,
        }
    }

    /// Whether the frame holds what the IP header says, of `len` bytes of the frame (which may have padding behind).
    pub const fn fits(&self, len: u32) -> bool {
        self.network as u32 + self.ip_len <= len && self.network as u32 + self.ip_len >= self.len as u32
    }
}

/// Why there are no [`Headers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unparsed {
    /// More bytes than there are.
    Short,
    /// Not IP.
    Other,
    /// IP that contradicts itself.
    Malformed,
}

/// The big-endian number at `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// The big-endian number at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Writes a big-endian number at `at`, where there is room for it.
pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = value.to_be_bytes();
    }
}

/// Writes a big-endian number at `at`, where there is room for it.
pub fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = value.to_be_bytes();
    }
}

/// Offset of what follows the Ethernet header and its tags (two at most), and its type.
pub fn network(bytes: &[u8]) -> Option<(usize, u16)> {
    let mut at = ETHERNET;
    let mut kind = u16_at(bytes, at - 2)?;
    for _ in 0..2 {
        if kind != TYPE_VLAN {
            break;
        }
        at += TAG;
        kind = u16_at(bytes, at - 2)?;
    }
    Some((at, kind))
}

/// Bytes of Ethernet, IPv4 and TCP, all without options.
pub const USUAL: usize = ETHERNET + 20 + 20;

/// Whether these are of the usual kind: IPv4 without options or a tag, not a fragment. Any IRQL.
#[inline]
pub const fn is_usual(bytes: &[u8; USUAL]) -> bool {
    let whole = u16::from_be_bytes([bytes[20], bytes[21]]) & 0x3FFF == 0;
    u16::from_be_bytes([bytes[12], bytes[13]]) == TYPE_IPV4 && bytes[14] == 0x45 && whole
}

/// Finds the headers in the first bytes of a frame. Any IRQL.
///
/// # Errors
/// [`Unparsed`].
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Headers, Unparsed> {
    match parse_usual(bytes) {
        Some(headers) => Ok(headers),
        None => parse_any(bytes),
    }
}

/// As [`parse`], of what most packets are. None: it is none of those.
#[inline]
fn parse_usual(bytes: &[u8]) -> Option<Headers> {
    let fixed: &[u8; USUAL] = bytes.first_chunk().filter(|bytes| is_usual(bytes))?;
    let transport = ETHERNET + 20;
    let upper = match fixed[23] {
        TCP => usize::from(fixed[transport + 12] >> 4) * 4,
        UDP => 8,
        _ => return None,
    };
    if upper < if fixed[23] == TCP { 20 } else { 8 } || transport + upper > bytes.len() {
        return None;
    }
    Some(Headers {
        network: ETHERNET as u16,
        version: Version::V4,
        transport: transport as u16,
        protocol: fixed[23],
        fragment: false,
        routed: false,
        len: (transport + upper) as u16,
        ip_len: u32::from(u16::from_be_bytes([fixed[16], fixed[17]])),
    })
}

#[inline(never)]
fn parse_any(bytes: &[u8]) -> Result<Headers, Unparsed> {
    let (at, kind) = network(bytes).ok_or(Unparsed::Short)?;
    let ip = bytes.get(at..).ok_or(Unparsed::Short)?;
    let mut headers = match kind {
        TYPE_IPV4 => parse_v4(ip, at)?,
        TYPE_IPV6 => parse_v6(ip, at)?,
        _ => return Err(Unparsed::Other),
    };
    let transport = usize::from(headers.transport);
    let upper = match headers.protocol {
        _ if headers.fragment => 0,
        TCP => {
            let offset = *bytes.get(transport + 12).ok_or(Unparsed::Short)? >> 4;
            match usize::from(offset) * 4 {
                len @ 20.. => len,
                _ => return Err(Unparsed::Malformed),
            }
        }
        UDP => 8,
        _ => 0,
    };
    let len = transport + upper;
    if len > bytes.len() {
        return Err(Unparsed::Short);
    }
    headers.len = len as u16;
    Ok(headers)
}

fn parse_v4(ip: &[u8], at: usize) -> Result<Headers, Unparsed> {
    let fixed: &[u8; 20] = ip.first_chunk().ok_or(Unparsed::Short)?;
    let len = usize::from(fixed[0] & 15) * 4;
    if fixed[0] >> 4 != 4 || len < 20 {
        return Err(Unparsed::Malformed);
    }
    Ok(Headers {
        network: at as u16,
        version: Version::V4,
        transport: (at + len) as u16,
        protocol: fixed[9],
        // More fragments, or not the first.
        fragment: u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3FFF != 0,
        routed: false,
        len: 0,
        ip_len: u32::from(u16::from_be_bytes([fixed[2], fixed[3]])),
    })
}

fn parse_v6(ip: &[u8], at: usize) -> Result<Headers, Unparsed> {
    let fixed: &[u8; 40] = ip.first_chunk().ok_or(Unparsed::Short)?;
    if fixed[0] >> 4 != 6 {
        return Err(Unparsed::Malformed);
    }
    let mut next = fixed[6];
    let mut len = 40;
    let (mut fragment, mut routed) = (false, false);
    for _ in 0..EXTENSIONS {
        let header = || ip.get(len..).and_then(|rest| rest.first_chunk::<8>()).ok_or(Unparsed::Short);
        match next {
            // Hop-by-hop and destination options, routing.
            0 | 60 | 43 => {
                let header = header()?;
                routed |= next == 43 && header[3] != 0;
                next = header[0];
                len += (usize::from(header[1]) + 1) * 8;
            }
            // Fragment.
            44 => {
                let header = header()?;
                next = header[0];
                fragment |= u16::from_be_bytes([header[2], header[3]]) & 0xFFF9 != 0;
                len += 8;
                if fragment {
                    break;
                }
            }
            // Authentication.
            51 => {
                let header = header()?;
                next = header[0];
                len += (usize::from(header[1]) + 2) * 4;
            }
            _ => break,
        }
        if len > MOST {
            return Err(Unparsed::Short);
        }
    }
    if matches!(next, 0 | 43 | 44 | 51 | 60) && !fragment {
        return Err(Unparsed::Malformed);
    }
    Ok(Headers {
        network: at as u16,
        version: Version::V6,
        transport: (at + len) as u16,
        protocol: next,
        fragment,
        routed,
        len: 0,
        ip_len: u32::from(u16::from_be_bytes([fixed[4], fixed[5]])) + 40,
    })
}
