//! From responses to packets: what a packet is made of, and what it must not be made of.

use core::fmt;

use xen_abi::netif::{DecodeError, Extra, GsoType, RxFlags, RxResponse, RxSlot};
use xenbus::pages::Memory;

use super::{FRAGMENTS, Place, Posted, Queue};
use crate::front::{
    NONE, PAGE,
    headers::{self, Headers, MOST, TCP, Unparsed, Version},
};

/// Bytes of a packet that are looked at first.
const GLANCE: usize = 96;

/// Part of a received packet. One word, to be handled as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(8))]
pub struct Fragment {
    /// Page of the pool.
    pub buffer: u16,
    /// Where in it the data begin.
    pub offset: u16,
    /// Bytes; at least 1.
    pub len: u16,
}

/// What the backend says of a packet's TCP or UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing.
    Unknown,
    /// The checksum is right.
    Validated,
    /// The data are right; the field holds the pseudo-header's sum only. See [`Queue::fill_checksum`].
    Blank,
}

/// A packet that stands for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Of what; the headers agree.
    pub kind: GsoType,
    /// Bytes of payload of each, at least 1.
    pub size: u16,
}

/// A received packet. Its buffers are the caller's until [`Queue::give_back`].
#[derive(Clone, Copy, Debug)]
pub struct Received {
    fragments: [Fragment; FRAGMENTS],
    count: usize,
    /// Bytes of all fragments.
    pub len: u32,
    /// What is known of its checksum.
    pub checksum: Checksum,
    /// It stands for several.
    pub gso: Option<Gso>,
    /// Number of the bit in [`HashTypes`](xen_abi::netif::HashTypes), and the hash, where the backend was told to hash.
    pub hash: Option<(u8, u32)>,
    /// Its headers, if it is IP and they lie in the first fragment.
    pub headers: Option<Headers>,
}

impl Received {
    const EMPTY: Self = Self {
        fragments: [Fragment { buffer: NONE, offset: 0, len: 0 }; FRAGMENTS],
        count: 0,
        len: 0,
        checksum: Checksum::Unknown,
        gso: None,
        hash: None,
        headers: None,
    };

    /// The packet's parts, in order; at least one.
    pub fn fragments(&self) -> &[Fragment] {
        self.fragments.get(..self.count).unwrap_or(&[])
    }

    /// Adds a part. False: there are too many.
    fn push(&mut self, fragment: Fragment) -> bool {
        let Some(place) = self.fragments.get_mut(self.count) else { return false };
        *place = fragment;
        self.count += 1;
        self.len += u32::from(fragment.len);
        true
    }
}

/// A packet of which not everything has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partial {
    packet: Received,
    /// Inside of a packet.
    begun: bool,
    /// The next slot is an extra.
    extra: bool,
    /// Data follow.
    more: bool,
    /// Kinds of extras that came, a bit each.
    kinds: u8,
    /// It is to be dropped: the backend's fault, or too long.
    error: bool,
    long: bool,
}

impl Partial {
    pub(super) const NONE: Self =
        Self { packet: Received::EMPTY, begun: false, extra: false, more: false, kinds: 0, error: false, long: false };

    /// Whether a packet has come, and all of it.
    pub(super) const fn is_complete(&self) -> bool {
        self.begun && !self.extra && !self.more
    }

    /// Nothing has come of the next one.
    #[inline]
    pub(super) const fn reset(&mut self) {
        let Received { count, len, checksum, gso, hash, headers, .. } = Received::EMPTY;
        let packet = &mut self.packet;
        (packet.count, packet.len, packet.checksum) = (count, len, checksum);
        (packet.gso, packet.hash, packet.headers) = (gso, hash, headers);
        let Self { begun, extra, more, kinds, error, long, .. } = Self::NONE;
        (self.begun, self.extra, self.more, self.kinds, self.error, self.long) =
            (begun, extra, more, kinds, error, long);
    }

    /// What came of it.
    pub(super) fn fragments(&self) -> &[Fragment] {
        self.packet.fragments()
    }
}

/// What is wrong with a response.
pub(super) enum Wrong {
    Id(u16, u16),
    Response(DecodeError, RxResponse),
    Extra(DecodeError, u8),
    Repeated(u8),
    Misplaced(u8),
    LateExtra,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(is, due) => write!(f, "response id {is:#x} where {due:#x} is due"),
            Self::Response(error, response) => {
                let RxResponse { offset, flags, status, .. } = response;
                write!(f, "response with offset {offset}, status {status}, flags {flags:#x}: {error}")
            }
            Self::Extra(error, kind) => write!(f, "extra of type {kind}: {error}"),
            Self::Repeated(kind) => write!(f, "extra of type {kind} twice in a packet"),
            Self::Misplaced(kind) => write!(f, "extra of type {kind} in a received packet"),
            Self::LateExtra => f.write_str("extras behind a later fragment"),
        }
    }
}

impl<M: Memory> Queue<M> {
    /// Adds a slot to the packet that is coming in.
    #[inline]
    pub(super) fn assemble(&mut self, posted: Posted, raw: RxSlot) -> Result<(), Wrong> {
        if self.partial.extra {
            self.assemble_extra(raw)?;
            // Nothing is in the page of an extra.
            self.release(posted.buffer);
            return Ok(());
        }
        let response = raw.response();
        if response.id != posted.id {
            return Err(Wrong::Id(response.id, posted.id));
        }
        let fragment = response.decode().map_err(|error| Wrong::Response(error, response))?;
        let partial = &mut self.partial;
        let extra = fragment.flags.contains(RxFlags::EXTRA_INFO);
        if partial.begun && extra {
            return Err(Wrong::LateExtra);
        }
        if !partial.begun {
            partial.packet.checksum = if fragment.flags.contains(RxFlags::CSUM_BLANK) {
                Checksum::Blank
            } else if fragment.flags.contains(RxFlags::DATA_VALIDATED) {
                Checksum::Validated
            } else {
                Checksum::Unknown
            };
        }
        partial.begun = true;
        partial.extra = extra;
        partial.more = fragment.flags.contains(RxFlags::MORE_DATA);
        let Posted { buffer, .. } = posted;
        match fragment.len {
            None => partial.error = true,
            Some(0) => {}
            Some(len) => {
                if partial.packet.push(Fragment { buffer, offset: fragment.offset, len }) {
                    return Ok(());
                }
                partial.long = true;
            }
        }
        self.release(buffer);
        Ok(())
    }

    fn assemble_extra(&mut self, raw: RxSlot) -> Result<(), Wrong> {
        let raw = raw.extra();
        let extra = raw.decode().map_err(|error| Wrong::Extra(error, raw.kind))?;
        let partial = &mut self.partial;
        let bit = 1_u8.checked_shl(u32::from(raw.kind)).unwrap_or(0);
        if partial.kinds & bit != 0 {
            return Err(Wrong::Repeated(raw.kind));
        }
        partial.kinds |= bit;
        match extra {
            Extra::Gso { kind, size } => partial.packet.gso = Some(Gso { kind, size }),
            Extra::Hash { kind, value, .. } => partial.packet.hash = Some((kind, value)),
            Extra::Xdp { .. } => {}
            Extra::McastAdd(_) | Extra::McastDel(_) => return Err(Wrong::Misplaced(raw.kind)),
        }
        partial.extra = raw.more();
        Ok(())
    }

    /// The packet is complete: it goes out, or is dropped.
    #[inline]
    pub(super) fn finish(&mut self) -> Option<Received> {
        let Partial { packet, error, long, .. } = &self.partial;
        let sound = !error && !long && packet.len as usize >= headers::ETHERNET;
        let Some(headers) = (if sound { self.parse() } else { None }) else {
            return self.drop_finished();
        };
        let Self { partial, buffers, counters, .. } = self;
        let packet = &mut partial.packet;
        for fragment in packet.fragments() {
            if let Some(buffer) = buffers.get_mut(usize::from(fragment.buffer)) {
                buffer.place = Place::Out { offset: fragment.offset, len: fragment.len };
            }
        }
        counters.packets += 1;
        counters.bytes += u64::from(packet.len);
        packet.headers = headers;
        let packet = *packet;
        partial.reset();
        Some(packet)
    }

    #[cold]
    fn drop_finished(&mut self) -> Option<Received> {
        if self.partial.error {
            self.counters.errors += 1;
        } else {
            self.counters.malformed += 1;
        }
        self.drop_partial();
        None
    }

    /// The headers of the packet that came, if it has such; its first bytes are [`Queue::head`] from now on. None: what
    /// the backend says of the packet is not true of it.
    #[expect(clippy::option_option, reason = "a packet without headers is one of the good ones")]
    #[inline]
    fn parse(&mut self) -> Option<Option<Headers>> {
        let Self { partial, pool, head, head_len, .. } = self;
        let packet = &partial.packet;
        let first = packet.fragments().first()?;
        let at = usize::from(first.buffer) * PAGE + usize::from(first.offset);
        let most = usize::from(first.len).min(MOST);
        let mut want = most.min(GLANCE);
        let parsed = loop {
            let bytes = head.get_mut(..want)?;
            // Its grant has ended.
            pool.as_ref()?.copy_out(at, bytes);
            *head_len = want;
            match headers::parse(bytes) {
                Err(Unparsed::Short) if want < most => want = most,
                parsed => break parsed.ok(),
            }
        };
        if packet.checksum == Checksum::Blank {
            let headers = parsed?;
            headers.checksum_at()?;
            if headers.routed || !headers.fits(packet.len) {
                return None;
            }
        }
        if let Some(gso) = packet.gso {
            let headers = parsed?;
            let version = match gso.kind {
                GsoType::TcpV4 => Version::V4,
                GsoType::TcpV6 => Version::V6,
            };
            if !headers.is(TCP) || headers.version != version || !headers.fits(packet.len) {
                return None;
            }
        }
        Some(parsed)
    }
}
