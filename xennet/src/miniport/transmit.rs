//! Sending: net buffer lists into a transmit queue, and what became of them back to Windows. One lock a queue.

use alloc::boxed::Box;
use core::{
    num::NonZeroU16,
    sync::atomic::{AtomicU32, Ordering},
};

use wdm::{
    memory::{Shared, try_box},
    ndis::{
        CancelId, SendChain, SendList, SendPacket,
        abi::packet::{checksum, ieee_8021q, large_send},
        status::NdisStatus,
    },
    spinlock::SpinLock,
};
use xenbus::{
    client::{Event, EventHandler},
    interface::EventOutcome,
};

use super::{
    adapter::Common,
    counters::Traffic,
    filter::{Address, Class},
    raw::SharedPages,
};
use crate::front::{
    self, Offload, Progress, Run,
    headers::{ETHERNET, TCP, TYPE_IPV4, TYPE_IPV6, UDP, u16_at, u32_at},
    tx::{self, Status},
};

/// Packets that a queue holds; what comes beyond them waits as lists.
const PACKETS: usize = 512;
/// Responses taken in one DPC.
const BUDGET: u32 = 256;
/// Finished packets that are taken under one hold of the lock.
const BATCH: u32 = 64;

/// A packet on its way.
pub struct Frame {
    packet: SendPacket,
    offload: Offload,
    class: Class,
}

impl front::Packet for Frame {
    fn len(&self) -> u32 {
        self.packet.len()
    }

    fn offload(&self) -> Offload {
        self.offload
    }

    fn run(&mut self, offset: u32) -> Option<Run> {
        let slice = self.packet.slice(offset)?;
        Some(Run { address: slice.frame << wdm::pages::PAGE_SHIFT | u64::from(slice.offset), bytes: slice.len })
    }

    fn has_destination(&mut self, address: Address) {
        self.class = Class::of(address);
    }

    #[inline]
    fn first<const N: usize>(&self) -> Option<[u8; N]> {
        self.packet.first()
    }

    fn copy(&mut self, offset: u32, out: &mut [u8]) -> bool {
        self.packet.copy(offset, out) == out.len()
    }
}

/// What Windows asks for with a list; None: for what cannot be.
fn offload_of(common: &Common, sums: u32, large: u32, tag: u32) -> Option<Offload> {
    let vlan = if tag == 0 && common.vlan_id() == 0 {
        None
    } else {
        common.tag_to_insert(
            (tag & ieee_8021q::PRIORITY_MASK) as u16,
            tag & ieee_8021q::CFI != 0,
            (tag >> ieee_8021q::VLAN_SHIFT & ieee_8021q::VLAN_MASK) as u16,
        )
    };
    let size = large & large_send::MSS_MASK;
    if size != 0 {
        if large & large_send::TYPE_V2 == 0 {
            return None;
        }
        let segment = NonZeroU16::new(u16::try_from(size).ok()?);
        return Some(Offload { segment, vlan, ..Offload::default() });
    }
    Some(Offload {
        ip_checksum: sums & checksum::IP_HEADER != 0 && sums & checksum::IS_IPV4 != 0,
        tcp_checksum: sums & checksum::TCP != 0,
        udp_checksum: sums & checksum::UDP != 0,
        segment: None,
        vlan,
    })
}

/// Bytes of a frame in which addresses and ports are looked for: Ethernet, IPv4 with options or IPv6, ports.
const FLOW_BYTES: usize = 78;
/// Those where there are no options and it is IPv4.
const USUAL_BYTES: usize = 38;

/// A number that all packets of a flow have in common, so that they stay in one queue and in order: Windows' own hash, or
/// one over the addresses and, of TCP and UDP, the ports. IRQL <= DISPATCH_LEVEL.
pub fn flow_of(list: &SendList) -> u32 {
    let told = list.hash();
    if told != 0 {
        return told;
    }
    match list.packet().and_then(|packet| packet.first::<USUAL_BYTES>()) {
        Some(bytes) if bytes[12..15] == [8, 0, 0x45] => hash_v4(&bytes),
        _ => flow_of_any(list),
    }
}

/// As [`flow_of`], of a packet of any form.
#[inline(never)]
fn flow_of_any(list: &SendList) -> u32 {
    let mut bytes = [0; FLOW_BYTES];
    let Some(packet) = list.packet() else { return 0 };
    packet.copy(0, &mut bytes);
    match u16_at(&bytes, ETHERNET - 2) {
        Some(TYPE_IPV4) => hash_v4(&bytes),
        Some(TYPE_IPV6) => hash_v6(&bytes),
        _ => 0,
    }
}

/// Mixes the word at `at` in.
#[inline]
fn mix(mixed: u32, bytes: &[u8], at: usize) -> u32 {
    (mixed ^ u32_at(bytes, at).unwrap_or(0)).wrapping_mul(0x9e37_79b1)
}

/// As the ports are mixed in, where there are any.
#[inline]
fn ports(protocol: u8, bytes: &[u8], at: usize) -> u32 {
    if matches!(protocol, TCP | UDP) { u32_at(bytes, at).unwrap_or(0) } else { 0 }
}

#[inline]
fn hash_v4<const N: usize>(bytes: &[u8; N]) -> u32 {
    const { assert!(N >= USUAL_BYTES) };
    // Of a fragment, only the first has ports.
    let whole = bytes[20] & 0x3f == 0 && bytes[21] == 0;
    let protocol = if whole { bytes[23] } else { 0 };
    let transport = ETHERNET + usize::from(bytes[14] & 15) * 4;
    mix(mix(ports(protocol, bytes, transport), bytes, 26), bytes, 30) >> 16
}

fn hash_v6(bytes: &[u8; FLOW_BYTES]) -> u32 {
    (22..54).step_by(4).fold(ports(bytes[20], bytes, 54), |mixed, at| mix(mixed, bytes, at)) >> 16
}

/// What sending uses, under the lock.
pub struct Hot {
    /// The queue.
    pub ring: Box<tx::Queue<Frame, SharedPages>>,
    /// Its event channel, while there is one.
    pub event: Option<Event>,
    /// The connection has fewer queues than this one's number: what is to be sent goes by another.
    retired: bool,
    /// Lists that have packets for which there was no room yet.
    waiting: SendChain,
    /// What was sent.
    pub traffic: Traffic,
}

/// The sending side of a queue.
pub struct Transmit {
    common: Shared<Common>,
    /// Lists that NDIS has not got back. Counted down only then, since a pause may end when it is 0.
    lists: AtomicU32,
    /// Never held while NDIS is called.
    pub hot: SpinLock<Hot>,
}

impl Hot {
    /// Moves lists that wait into the queue, as far as there is room. Those that ended at once go to `done`.
    fn fill(&mut self, common: &Common, done: &mut SendChain) {
        while let Some(list) = self.waiting.front() {
            let (sums, large, tag) = (list.checksum(), list.large_send(), list.tag());
            let Some(offload) = offload_of(common, sums, large, tag) else {
                self.traffic.errors += 1;
                // It leaves this chain before it joins the other.
                if let Some(list) = self.waiting.pop().and_then(|list| list.abort(NdisStatus::INVALID_PACKET)) {
                    done.push(list);
                }
                continue;
            };
            while let Some(packet) = list.packet() {
                if self.ring.send(Frame { packet, offload, class: Class::Unicast }).is_err() {
                    // No room: it stays the list's.
                    return;
                }
                list.advance();
            }
            let Some(list) = self.waiting.pop() else { return };
            if list.is_empty() {
                done.push(list);
            } else {
                list.leave();
            }
        }
    }

    /// A packet has ended.
    fn finish(&mut self, frame: Frame, status: Status, done: &mut SendChain) {
        if status == Status::Sent {
            self.traffic.count(frame.class, 1, frame.packet.len().into());
            if let Some(list) = frame.packet.finish(NdisStatus::SUCCESS) {
                done.push(list);
            }
            return;
        }
        self.fail(frame, status, done);
    }

    /// A packet was not sent.
    #[cold]
    #[inline(never)]
    fn fail(&mut self, frame: Frame, status: Status, done: &mut SendChain) {
        let status = match status {
            Status::Sent => NdisStatus::SUCCESS,
            Status::Dropped | Status::Resources => {
                self.traffic.discards += 1;
                NdisStatus::RESOURCES
            }
            Status::Malformed => {
                self.traffic.errors += 1;
                NdisStatus::INVALID_PACKET
            }
            Status::Gone => {
                self.traffic.discards += 1;
                NdisStatus::ADAPTER_REMOVED
            }
        };
        if let Some(list) = frame.packet.finish(status) {
            done.push(list);
        }
    }

    /// Gives up what the backend has nothing of, where `which` holds.
    fn abort(&mut self, status: NdisStatus, id: Option<CancelId>, done: &mut SendChain) {
        while let Some(frame) = self.ring.cancel(|frame| id.is_none_or(|id| frame.packet.is_cancelled_by(id))) {
            self.traffic.discards += 1;
            if let Some(list) = frame.packet.finish(status) {
                done.push(list);
            }
        }
        let mut kept = SendChain::new();
        while let Some(list) = self.waiting.pop() {
            if id.is_some_and(|id| !list.is_cancelled_by(id)) {
                kept.push(list);
            } else if let Some(list) = list.abort(status) {
                done.push(list);
            }
        }
        self.waiting = kept;
    }
}

/// Not inlined, to keep what is made off the caller's frame.
#[inline(never)]
fn make_ring(address: Address) -> Result<Box<tx::Queue<Frame, SharedPages>>, NdisStatus> {
    Ok(try_box(tx::Queue::new(PACKETS, address).ok_or(NdisStatus::RESOURCES)?)?)
}

impl Transmit {
    /// A queue that is not connected; `address` is the adapter's.
    ///
    /// # Errors
    /// No memory.
    pub fn new(common: Shared<Common>, address: Address) -> Result<Self, NdisStatus> {
        let ring = make_ring(address)?;
        Ok(Self {
            common,
            lists: AtomicU32::new(0),
            hot: SpinLock::new(Hot {
                ring,
                event: None,
                retired: false,
                waiting: SendChain::new(),
                traffic: Traffic::default(),
            }),
        })
    }

    /// Sends lists. They come back, all of them, if the connection has no such queue any more. IRQL <= DISPATCH_LEVEL.
    #[must_use = "lists that come back are still to be sent"]
    pub fn send(&self, mut lists: SendChain, dispatch: bool) -> Option<SendChain> {
        let mut done = SendChain::new();
        let more = {
            let mut hot = self.hot.lock();
            if hot.retired {
                return Some(lists);
            }
            self.lists.fetch_add(lists.len(), Ordering::AcqRel);
            if !self.common.is_sending() {
                drop(hot);
                self.refuse(lists, dispatch);
                return None;
            }
            hot.waiting.append(core::mem::take(&mut lists));
            hot.fill(&self.common, &mut done);
            let progress = hot.ring.flush(&self.common.client);
            self.tell(&hot, progress)
        };
        self.complete(done, dispatch);
        if more {
            self.catch_up();
        }
        None
    }

    /// Completes lists that cannot be sent at the moment.
    fn refuse(&self, mut lists: SendChain, dispatch: bool) {
        let status = self.common.why_not_sending();
        let mut done = SendChain::new();
        while let Some(list) = lists.pop() {
            if let Some(list) = list.abort(status) {
                done.push(list);
            }
        }
        self.complete(done, dispatch);
    }

    fn complete(&self, done: SendChain, dispatch: bool) {
        let count = done.len();
        if count > 0 {
            self.common.ndis.complete_sends(done, dispatch);
            self.lists.fetch_sub(count, Ordering::AcqRel);
            self.common.look_whether_paused();
        }
    }

    /// Whether the connection has this queue. If not, what waits is given up, and what is sent from now on comes back.
    /// IRQL <= DISPATCH_LEVEL.
    pub fn set_retired(&self, retired: bool) {
        let mut done = SendChain::new();
        {
            let mut hot = self.hot.lock();
            hot.retired = retired;
            if retired {
                hot.abort(NdisStatus::RESOURCES, None, &mut done);
            }
        }
        self.complete(done, false);
    }

    /// Does what the queue asks for after a step; whether there is more to take.
    fn tell(&self, hot: &Hot, progress: Progress) -> bool {
        if progress.notify
            && let Some(event) = hot.event
        {
            self.common.client.send(event);
        }
        if hot.ring.is_broken() || hot.ring.has_held() || hot.ring.multicast_refused() {
            self.common.work.set();
        }
        progress.more
    }

    /// Takes what the backend answered and completes it, until nothing is left or the budget is; only then is an event
    /// asked for. IRQL <= DISPATCH_LEVEL.
    pub fn drain(&self, budget: u32) -> EventOutcome {
        let mut left = budget;
        loop {
            let mut done = SendChain::new();
            let quiet = {
                let mut hot = self.hot.lock();
                let mut taken = 0;
                while taken < BATCH
                    && let Some((frame, status)) = hot.ring.complete(&self.common.client, &mut left)
                {
                    hot.finish(frame, status, &mut done);
                    taken += 1;
                }
                if taken < BATCH {
                    hot.fill(&self.common, &mut done);
                    let progress = hot.ring.rearm(&self.common.client);
                    !self.tell(&hot, progress)
                } else {
                    false
                }
            };
            self.complete(done, false);
            if quiet {
                return if left == budget { EventOutcome::Spurious } else { EventOutcome::Done };
            }
            if left == 0 {
                return EventOutcome::More;
            }
        }
    }

    /// Takes what the backend has answered by now. What goes beyond the budget comes with the event's callback, which nobody
    /// else would have run, or at once where there is no event. IRQL <= DISPATCH_LEVEL.
    pub fn catch_up(&self) {
        while matches!(self.drain(BUDGET), EventOutcome::More) {
            let event = self.hot.lock().event;
            if let Some(event) = event {
                self.common.client.trigger(event);
                return;
            }
        }
    }

    /// Has the queue make a step, and does what it asks for. IRQL <= DISPATCH_LEVEL.
    pub fn step(&self, step: impl FnOnce(&mut tx::Queue<Frame, SharedPages>) -> Progress) {
        let more = {
            let mut hot = self.hot.lock();
            let progress = step(&mut hot.ring);
            self.tell(&hot, progress)
        };
        if more {
            self.catch_up();
        }
    }

    /// Gives up what the backend has nothing of: all of it, or what goes by `id`. IRQL <= DISPATCH_LEVEL.
    pub fn abort(&self, status: NdisStatus, id: Option<CancelId>) {
        let mut done = SendChain::new();
        self.hot.lock().abort(status, id, &mut done);
        self.complete(done, false);
    }

    /// Lists that are not completed. IRQL <= DISPATCH_LEVEL.
    pub fn lists(&self) -> u32 {
        self.lists.load(Ordering::Acquire)
    }
}

impl EventHandler for Transmit {
    fn event(&self) -> EventOutcome {
        if self.common.is_frozen() {
            return EventOutcome::Done;
        }
        self.drain(BUDGET)
    }
}
