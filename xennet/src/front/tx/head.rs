//! The first bytes of a packet, copied so that they are in one piece and can be changed.

use crate::front::{
    Abilities, Offload, Packet,
    checksum::{self, Sum},
    headers::{self, ETHERNET, Headers, MOST, TAG, TCP, TYPE_VLAN, UDP, Unparsed, Version, put_u16},
    segment::{self, Segment},
    tx::table::Status,
};
use xen_abi::netif::{GsoType, MAX_TX_SIZE};

/// A packet that is not longer is copied whole: Linux's netback copies as many bytes itself
/// (`XEN_NETBACK_TX_COPY_LEN`), and there is nothing left that would need a grant.
pub const SMALL: u32 = 128;
/// Bytes looked at first where the packet's first piece is shorter: Ethernet, IPv4 and TCP with few options.
const GLANCE: u32 = 64;
/// Bytes looked at first where it is much longer: Ethernet, IPv6 and TCP with the usual options.
const LOOK: u32 = 96;

/// What a packet's slots have to say, and what is left to do for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing.
    Plain,
    /// The backend fills the checksum in.
    Blank,
    /// The checksum is made over all of the payload.
    Checksum,
    /// The backend cuts it into segments.
    Large(GsoType, u16),
    /// It is cut here.
    Segments(u16),
}

/// The copy.
pub struct Head {
    pub bytes: [u8; MOST],
    /// How many there are, with an inserted tag.
    pub len: usize,
    /// Where in the packet the rest begins.
    pub rest: u32,
    pub headers: Option<Headers>,
    /// The bytes are not those of the packet any more.
    pub changed: bool,
}

impl Head {
    /// Of no packet yet.
    pub const EMPTY: Self = Self { bytes: [0; MOST], len: 0, rest: 0, headers: None, changed: false };

    /// Copies what has to be in one piece: all headers, and the packet's `first` piece, so many bytes, if that is not
    /// much more.
    #[inline]
    pub fn read<P: Packet>(&mut self, packet: &mut P, first: u32) -> Result<(), Status> {
        let len = packet.len();
        if (len as usize) < ETHERNET {
            return Err(Status::Malformed);
        }
        // A tag may come in.
        let most = len.min((MOST - TAG) as u32);
        let mut want = match first {
            _ if len <= SMALL => len,
            // It does not end here, so that no more than its headers is of use.
            _ if first > most => LOOK,
            _ => first.max(GLANCE).min(most),
        };
        let parsed = loop {
            let bytes = self.bytes.get_mut(..want as usize).unwrap_or(&mut []);
            if !packet.copy(0, bytes) {
                return Err(Status::Resources);
            }
            match headers::parse(bytes) {
                Err(Unparsed::Short) if want < most => want = most,
                parsed => break parsed,
            }
        };
        self.headers = parsed.ok();
        let needed = self.headers.map_or(want.min(GLANCE), |headers| u32::from(headers.len));
        // Where a piece of the packet ends with the copy, nothing of that piece needs a slot.
        let taken = if len <= SMALL || (first == want && first >= needed) { want } else { needed };
        self.len = taken as usize;
        self.rest = taken;
        Ok(())
    }

    /// The destination's address.
    pub const fn destination(&self) -> [u8; 6] {
        let [a0, a1, a2, a3, a4, a5, ..] = self.bytes;
        [a0, a1, a2, a3, a4, a5]
    }

    /// Does to the copy what the offloads ask for, as far as the headers alone are concerned.
    #[inline]
    pub fn prepare(&mut self, len: u32, offload: &Offload, abilities: Abilities) -> Result<Work, Status> {
        if let Some(size) = offload.segment {
            return self.prepare_large(len, size.get(), offload.vlan.is_some(), abilities);
        }
        let wants_sum = offload.tcp_checksum || offload.udp_checksum;
        if !wants_sum && !offload.ip_checksum {
            return Ok(Work::Plain);
        }
        let Self { bytes, headers: Some(headers), changed, .. } = self else { return Err(Status::Malformed) };
        if headers.routed && headers.checksum_at().is_some() {
            return Err(Status::Malformed);
        }
        if offload.ip_checksum {
            if headers.version == Version::V6 {
                return Err(Status::Malformed);
            }
            checksum::fill_ip(bytes, headers);
            *changed = true;
        }
        if !wants_sum {
            return Ok(Work::Plain);
        }
        let named = (offload.tcp_checksum && headers.is(TCP)) || (offload.udp_checksum && headers.is(UDP));
        if !named || !headers.fits(len) {
            return Err(Status::Malformed);
        }
        let upper = headers.network as u32 + headers.ip_len - u32::from(headers.transport);
        if !abilities.checksum(headers.version) {
            return Ok(Work::Checksum);
        }
        // Windows has put the pseudo-header's sum there; what it has not, is made right here.
        let Some(other) = checksum::fill_pseudo(bytes, headers, upper) else { return Ok(Work::Checksum) };
        *changed |= other;
        Ok(Work::Blank)
    }

    /// As [`Head::prepare`], for a packet to be cut into segments of `size` bytes of payload.
    #[inline(never)]
    fn prepare_large(&mut self, len: u32, size: u16, tagged: bool, abilities: Abilities) -> Result<Work, Status> {
        let Some(headers) = self.headers.filter(|headers| headers.is(TCP) && !headers.routed) else {
            return Err(Status::Malformed);
        };
        let bytes = self.bytes.get_mut(..self.len).ok_or(Status::Malformed)?;
        self.changed = true;
        if len - u32::from(headers.len) > u32::from(size) {
            return Ok(large(bytes, &headers, len, size, tagged, abilities));
        }
        // One segment: what the sender left open is filled in here.
        segment::set_length(bytes, &headers, len).ok_or(Status::Malformed)?;
        checksum::fill_ip(bytes, &headers);
        self.headers = Some(Headers { ip_len: len - u32::from(headers.network), ..headers });
        let upper = len - u32::from(headers.transport);
        let blank = abilities.checksum(headers.version) && checksum::fill_pseudo(bytes, &headers, upper).is_some();
        Ok(if blank { Work::Blank } else { Work::Checksum })
    }

    /// Bytes from the transport header on: padding behind the IP packet is not among them.
    pub fn upper(&self, len: u32) -> u32 {
        self.headers.map_or(0, |headers| {
            let end = (u32::from(headers.network) + headers.ip_len).min(len);
            end.saturating_sub(u32::from(headers.transport))
        })
    }

    /// Puts the pseudo-header's sum where the checksum goes. False: there is no such place.
    pub fn pseudo(&mut self, upper: u32) -> bool {
        let (Some(headers), Some(bytes)) = (self.headers, self.bytes.get_mut(..self.len)) else { return false };
        checksum::fill_pseudo(bytes, &headers, upper).is_some()
    }

    /// Fills the checksum in; `rest` adds `count` bytes that follow the copy.
    pub fn checksum(&mut self, upper: u32, rest: impl FnOnce(&mut Sum, u32) -> bool) -> bool {
        let Some(headers) = self.headers else { return false };
        let Some((head, tail)) =
            self.bytes.get_mut(..self.len).and_then(|head| head.split_at_mut_checked(headers.len.into()))
        else {
            return false;
        };
        let payload = (u32::from(headers.transport) + upper).saturating_sub(u32::from(headers.len));
        checksum::fill(head, &headers, upper, |sum| {
            let here = tail.len().min(payload as usize);
            sum.add(tail.get(..here).unwrap_or(&[]));
            rest(sum, payload - here as u32)
        })
    }

    /// The copy for one segment of a large packet: its headers only.
    pub fn of_segment(&self, segment: &Segment) -> Option<Self> {
        let headers = self.headers?;
        let rest = u32::from(headers.len) + segment.offset;
        let mut head = Self { len: headers.len.into(), rest, changed: true, ..*self };
        segment::make_header(head.bytes.get_mut(..head.len)?, &headers, segment)?;
        Some(head)
    }

    /// Inserts an 802.1Q tag behind the addresses. The offsets in [`Head::headers`] are not those of the copy any more.
    pub fn insert_tag(&mut self, tag: u16) {
        let at = ETHERNET - 2;
        if self.len + TAG <= self.bytes.len() {
            self.bytes.copy_within(at..self.len, at + TAG);
            put_u16(&mut self.bytes, at, TYPE_VLAN);
            put_u16(&mut self.bytes, at + 2, tag);
            self.len += TAG;
            self.changed = true;
        }
    }
}

/// A packet of more than one segment: for the backend if it can, else cut here.
fn large(bytes: &mut [u8], headers: &Headers, len: u32, size: u16, tagged: bool, abilities: Abilities) -> Work {
    let kind = match headers.version {
        Version::V4 => GsoType::TcpV4,
        Version::V6 => GsoType::TcpV6,
    };
    let tag = if tagged { TAG as u32 } else { 0 };
    if !abilities.segments(headers.version)
        || len + tag > MAX_TX_SIZE
        || segment::set_length(bytes, headers, len).is_none()
    {
        return Work::Segments(size);
    }
    checksum::fill_ip(bytes, headers);
    checksum::fill_pseudo(bytes, headers, len - u32::from(headers.transport));
    Work::Large(kind, size)
}
