//! Receiving: packets out of a receive queue, judged and indicated in batches, and their pages back. One lock a queue.

use alloc::boxed::Box;

use wdm::{
    memory::{Shared, try_box},
    ndis::{
        Fragment, Packet, ReceiveBatch, ReceiveChain, ReceivePool,
        abi::{packet::checksum, rss::hash},
        status::NdisStatus,
    },
    spinlock::SpinLock,
};
use xen_abi::netif::HashTypes;
use xenbus::{
    client::{Event, EventHandler},
    interface::EventOutcome,
};

use super::{
    adapter::Common,
    counters::Traffic,
    filter::{Class, Filter},
    raw::SharedPages,
    settings::{HEADER, Offloads},
};
use crate::front::{
    Progress,
    checksum::of_ip,
    headers::{Headers, TAG, TCP, TYPE_VLAN, UDP, Version, u16_at},
    rx::{self, Checksum, Received},
};

/// Pages of a queue: a ring of them with the backend, three with Windows.
const PAGES: usize = 1024;
/// With fewer pages than this left for the backend, packets are only lent to Windows.
const SCARCE: usize = 128;
/// Responses taken in one DPC.
const BUDGET: u32 = 256;
/// Packets that are indicated together.
const BATCH: u32 = 64;
/// Bytes of an Ethernet header with a tag.
const TAGGED: usize = HEADER as usize + TAG;

/// What receiving uses, under the lock.
pub struct Hot {
    /// The queue.
    pub ring: Box<rx::Queue<SharedPages>>,
    /// A list for each page of it.
    lists: ReceivePool,
    /// Its event channel, while there is one.
    pub event: Option<Event>,
    /// What Windows wants.
    pub filter: Filter,
    /// Which checks Windows leaves to us.
    pub offloads: Offloads,
    /// Packets that Windows has.
    lent: u32,
    /// What was received.
    pub traffic: Traffic,
}

/// The receiving side of a queue.
pub struct Receive {
    common: Shared<Common>,
    mtu: u32,
    /// Never held while NDIS is called.
    pub hot: SpinLock<Hot>,
}

/// A packet that Windows is to have.
struct Judged {
    packet: Packet,
    class: Class,
    /// Bytes to leave out at its beginning.
    skip: u16,
}

impl Hot {
    /// Whether Windows wants the packet, and what is told of it. None: it is dropped, and counted.
    fn judge(&mut self, common: &Common, mtu: u32, received: &Received) -> Option<Judged> {
        let judged = self.examine(common, mtu, received);
        match judged {
            Ok(judged) => Some(judged),
            Err(Refused::Unwanted) => None,
            Err(Refused::Bad) => {
                self.traffic.errors += 1;
                None
            }
            Err(Refused::Coalesced) => {
                self.traffic.discards += 1;
                None
            }
        }
    }

    fn examine(&self, common: &Common, mtu: u32, received: &Received) -> Result<Judged, Refused> {
        let first = received.fragments().first().ok_or(Refused::Bad)?;
        let head = self.ring.head();
        let (Some(&destination), Some(mut kind)) = (head.first_chunk(), u16_at(head, 12)) else {
            return Err(Refused::Bad);
        };
        let class = Class::of(destination);
        if !self.filter.accepts(destination, class) {
            return Err(Refused::Unwanted);
        }
        let (mut skip, mut tag) = (0, None);
        if kind == TYPE_VLAN && head.len() >= TAGGED {
            tag = u16_at(head, 14);
            kind = u16_at(head, 16).unwrap_or(0);
            skip = TAG as u16;
        }
        let shown = common.tag_to_show(tag).ok_or(Refused::Unwanted)?;
        let len = received.len - u32::from(skip);
        if received.gso.is_none() && len > mtu + HEADER {
            return Err(Refused::Bad);
        }
        if skip > 0 {
            // The addresses move up to where the tag ends.
            let addresses = head.first_chunk::<12>().ok_or(Refused::Bad)?;
            if !self.ring.write(first.buffer, usize::from(first.offset + skip), addresses) {
                return Err(Refused::Bad);
            }
        }
        let mut packet = Packet { frame_type: kind, tag: shown_tag(shown), ..Packet::default() };
        if let Some(headers) = &received.headers {
            packet.checksum = self.checksum(received, headers)?;
            packet.segments = self.segments(received, headers)?;
        }
        if let Some((kind, value)) = received.hash {
            packet.hash = value;
            packet.hash_info = hash_info(kind);
        }
        Ok(Judged { packet, class, skip })
    }

    /// What is told of the checksums. Those that Windows wants to check itself are made right first.
    fn checksum(&self, received: &Received, headers: &Headers) -> Result<u32, Refused> {
        let offloads = &self.offloads;
        let v4 = headers.version == Version::V4;
        let mut told = 0;
        if v4 && offloads.ipv4.rx {
            told |= if self.ip_header_is_right(headers) { checksum::IP_SUCCEEDED } else { checksum::IP_FAILED };
        }
        if received.checksum == Checksum::Unknown {
            return Ok(told);
        }
        let (wanted, right) = match (headers.protocol, v4) {
            (TCP, true) => (offloads.tcp4.rx, checksum::TCP_SUCCEEDED),
            (TCP, false) => (offloads.tcp6.rx, checksum::TCP_SUCCEEDED),
            (UDP, true) => (offloads.udp4.rx, checksum::UDP_SUCCEEDED),
            (UDP, false) => (offloads.udp6.rx, checksum::UDP_SUCCEEDED),
            _ => return Ok(told),
        };
        let blank = received.checksum == Checksum::Blank;
        if wanted {
            let no_value = if blank && headers.protocol == TCP { checksum::TCP_VALUE_INVALID } else { 0 };
            return Ok(told | right | no_value);
        }
        if blank && !self.ring.fill_checksum(received) {
            return Err(Refused::Bad);
        }
        Ok(told)
    }

    fn ip_header_is_right(&self, headers: &Headers) -> bool {
        of_ip(self.ring.head(), headers) == Some(0)
    }

    /// Segments of a coalesced packet; 0 for an ordinary one.
    fn segments(&self, received: &Received, headers: &Headers) -> Result<u16, Refused> {
        let Some(gso) = received.gso else { return Ok(0) };
        let wanted = match headers.version {
            Version::V4 => self.offloads.rsc4,
            Version::V6 => self.offloads.rsc6,
        };
        let payload = u32::from(headers.network) + headers.ip_len - u32::from(headers.len);
        let count = payload.div_ceil(u32::from(gso.size).max(1));
        if count > 1 && !wanted {
            return Err(Refused::Coalesced);
        }
        // One segment alone is an ordinary packet.
        Ok(if count > 1 { u16::try_from(count).map_err(|_| Refused::Bad)? } else { 0 })
    }
}

/// Why a packet is dropped.
enum Refused {
    /// It goes past the filter.
    Unwanted,
    /// It contradicts itself.
    Bad,
    /// It is coalesced, which Windows has switched off since the backend was told what it may send.
    Coalesced,
}

/// A tag as `NDIS_NET_BUFFER_LIST_8021Q_INFO`.
fn shown_tag(tag: u16) -> u32 {
    let (priority, cfi, vlan) = (u32::from(tag >> 13), u32::from(tag >> 12 & 1), u32::from(tag & 0xfff));
    priority | cfi << 3 | vlan << 4
}

/// The backend's kind of hash as NDIS names it.
fn hash_info(kind: u8) -> u32 {
    let kind = match HashTypes::from_bits_truncate(1_u32.checked_shl(kind.into()).unwrap_or(0)) {
        HashTypes::IPV4 => hash::IPV4,
        HashTypes::IPV4_TCP => hash::TCP_IPV4,
        HashTypes::IPV6 => hash::IPV6,
        HashTypes::IPV6_TCP => hash::TCP_IPV6,
        _ => return 0,
    };
    hash::FUNCTION_TOEPLITZ | kind
}

/// Not inlined, to keep what is made off the caller's frame.
#[inline(never)]
fn make_ring(pages: SharedPages) -> Result<Box<rx::Queue<SharedPages>>, NdisStatus> {
    Ok(try_box(rx::Queue::new(pages).ok_or(NdisStatus::RESOURCES)?)?)
}

impl Receive {
    /// A queue that is not connected. `index` is what its packets are told apart by.
    ///
    /// # Errors
    /// No memory.
    pub fn new(
        common: Shared<Common>,
        mtu: u32,
        index: u32,
        filter: &Filter,
        offloads: Offloads,
    ) -> Result<Self, NdisStatus> {
        let pages = SharedPages::new(PAGES)?;
        let lists = pages.receive_pool(common.ndis, index)?;
        let ring = make_ring(pages)?;
        let hot = Hot { ring, lists, event: None, filter: *filter, offloads, lent: 0, traffic: Traffic::default() };
        Ok(Self { common, mtu, hot: SpinLock::new(hot) })
    }

    /// Does what the queue asks for after a step; whether there is more to take.
    fn tell(&self, hot: &Hot, progress: Progress) -> bool {
        if progress.notify
            && let Some(event) = hot.event
        {
            self.common.client.send(event);
        }
        if hot.ring.is_broken() {
            self.common.work.set();
        }
        progress.more
    }

    /// Has the queue make a step, and does what it asks for: what there is to take is taken in the event's DPC.
    /// IRQL <= DISPATCH_LEVEL.
    pub fn step(&self, step: impl FnOnce(&mut rx::Queue<SharedPages>) -> Progress) {
        let mut hot = self.hot.lock();
        let progress = step(&mut hot.ring);
        if self.tell(&hot, progress)
            && let Some(event) = hot.event
        {
            self.common.client.trigger(event);
        }
    }

    /// Takes what the backend sent and indicates it, until nothing is left or the budget is; only then is an event asked
    /// for. IRQL = DISPATCH_LEVEL.
    fn drain(&self, budget: u32) -> EventOutcome {
        let mut left = budget;
        loop {
            let mut batch = ReceiveBatch::new();
            let (quiet, lend) = {
                let mut hot = self.hot.lock();
                let hot = &mut *hot;
                let running = self.common.is_running();
                let mut ended = false;
                while batch.len() < BATCH {
                    let Some(received) = hot.ring.poll(&self.common.client, &mut left) else {
                        ended = true;
                        break;
                    };
                    self.collect(hot, &mut batch, &received, running);
                }
                let quiet = if ended {
                    let progress = hot.ring.rearm(&self.common.client);
                    !self.tell(hot, progress)
                } else {
                    false
                };
                hot.lent += batch.len();
                (quiet, hot.ring.available() < SCARCE)
            };
            if let Some(returned) = self.common.ndis.indicate_receives(batch, lend) {
                self.take_back(returned);
            }
            if quiet {
                return if left == budget { EventOutcome::Spurious } else { EventOutcome::Done };
            }
            if left == 0 {
                return EventOutcome::More;
            }
        }
    }

    /// Puts a packet into the batch, or its pages back.
    fn collect(&self, hot: &mut Hot, batch: &mut ReceiveBatch, received: &Received, running: bool) {
        let judged = if running { hot.judge(&self.common, self.mtu, received) } else { None };
        if let Some(Judged { packet, class, skip }) = judged {
            let fragments = received.fragments().iter().enumerate().map(|(number, part)| {
                let skip = if number == 0 { u32::from(skip) } else { 0 };
                Fragment {
                    page: part.buffer.into(),
                    offset: u32::from(part.offset) + skip,
                    len: u32::from(part.len) - skip,
                }
            });
            if hot.lists.push(batch, fragments, &packet) {
                let bytes = u64::from(received.len) - u64::from(skip);
                hot.traffic.count(class, 1, bytes);
                return;
            }
        }
        for fragment in received.fragments() {
            hot.ring.give_back(fragment.buffer);
        }
    }

    /// Has the pages of packets of this queue back, and gives them to the backend. IRQL <= DISPATCH_LEVEL.
    pub fn take_back(&self, mut packets: ReceiveChain) {
        {
            let mut hot = self.hot.lock();
            let hot = &mut *hot;
            while let Some(packet) = packets.pop() {
                for page in hot.lists.pages(packet) {
                    hot.ring.give_back(page as u16);
                }
                hot.lent = hot.lent.saturating_sub(1);
            }
            if !self.common.is_frozen() && hot.ring.replenish(&self.common.client) {
                self.tell(hot, Progress { notify: true, more: false });
            }
        }
        self.common.look_whether_paused();
    }

    /// Packets that Windows has. IRQL <= DISPATCH_LEVEL.
    pub fn lent(&self) -> u32 {
        self.hot.lock().lent
    }
}

impl EventHandler for Receive {
    fn event(&self) -> EventOutcome {
        if self.common.is_frozen() {
            return EventOutcome::Done;
        }
        self.drain(BUDGET)
    }
}
