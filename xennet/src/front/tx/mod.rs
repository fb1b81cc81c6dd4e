//! A transmit queue: packets in, requests to the backend, checked responses back.
//!
//! - A packet that lies in one page and needs no change is one request, for that page, granted where it is. Any other is
//!   one request for its head (all headers, copied into a page of our own whose grant stands as long as the connection),
//!   an extra where it is to be segmented, and one request for each page behind the head, granted where it is. What
//!   needs more requests than a backend takes, or may not be seen as a whole page, is copied.
//! - What does not fit waits, in the order of arrival. Exhaustion of ring, grants or pages is waited out.
//! - Nothing is allocated after [`Queue::new`]. Grants come from a stock that [`Queue::attach`] is given.
//! - A response is copied out and must name a request that is out, with its current sequence number, and a known status;
//!   one without an id must have an extra that it answers. Anything else breaks the queue: nothing is looked at or
//!   handed out any more. The owner closes the connection, in order, and calls [`Queue::detach`]; what was not answered
//!   is sent again by the next connection, or fails after [`Queue::give_up`].
//! - A page whose grant cannot be ended belongs to the peer as long as that is so: its packet is held, neither finished
//!   nor sent again, and the queue is broken.
//!
//! The queue knows no locks, threads, interrupts or time: the caller serializes calls. IRQL <= DISPATCH_LEVEL for all
//! but [`Queue::new`].

mod books;
mod emit;
mod head;
mod own;
mod plain;
mod table;

use alloc::vec::Vec;
use core::fmt;

use xen_abi::{
    netif::{RSP_OKAY, Tx, TxResponse, TxStatus},
    ring::FrontRing,
};
use xenbus::{
    client::Bus,
    interface::LogLevel,
    pages::{Memory, give_references},
};

use super::{Abilities, NONE, PAGE, Packet, Progress, SetupError, announce::Learned, filled};
use emit::{Pieces, Step};
use own::Filter;
pub use own::MULTICAST_ADDRESSES;
pub use table::Status;
use table::{Entry, FILTER, Held, List, MOST_ENTRIES, Slot, Slots};

/// Slots of a ring of one page.
const SLOTS: usize = 256;
/// Bytes that a slot has for a packet's head.
const CHUNK: usize = 256;
/// Pages with the heads.
const HEAD_PAGES: usize = SLOTS * CHUNK / PAGE;
/// Pages for packets that are copied.
const BOUNCE_PAGES: usize = 32;
/// Pages that [`Queue::attach`] wants besides the ring's.
pub const POOL_PAGES: usize = HEAD_PAGES + BOUNCE_PAGES;
/// References of the pages that are granted for as long as the connection lasts.
const FIXED_REFERENCES: usize = 1 + POOL_PAGES;

/// What a queue did, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets handed to the backend; each segment of our own making counts.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Of those, packets that the backend segments.
    pub large: u64,
    /// Of those, segments made here.
    pub segments: u64,
    /// Packets whose checksum was made here.
    pub checksummed: u64,
    /// Packets that were copied as a whole.
    pub bounced: u64,
    /// Bytes copied.
    pub copied: u64,
    /// Pages granted.
    pub granted: u64,
    /// Packets that the backend did not take.
    pub dropped: u64,
    /// Packets that could not be sent as they were.
    pub refused: u64,
}

/// Pages and references of a connection.
struct Link<M: Memory> {
    ring: FrontRing<Tx, M>,
    pool: M,
    ring_ref: u32,
    /// Of the pool's pages.
    pool_refs: [u32; POOL_PAGES],
    abilities: Abilities,
    running: bool,
}

/// A transmit queue. See the module.
pub struct Queue<P, M: Memory> {
    entries: Vec<Entry<P>>,
    free_entries: u16,
    waiting: List,
    /// Packets that ended without a response to say so.
    finished: List,
    slots: Slots,
    /// References for packets' pages.
    stock: Vec<u32>,
    /// Free pages for copies.
    bounces: Vec<u16>,
    bounces_made: usize,
    held: Vec<Held>,
    link: Option<Link<M>>,
    in_flight: u32,
    /// Extras that were not answered yet.
    extras: u32,
    arrivals: u64,
    learned: Learned,
    filter: Filter,
    /// Of the packet that is handed out at the moment.
    pieces: Pieces,
    counters: Counters,
    broken: bool,
    gone: bool,
}

impl<P: Packet, M: Memory> Queue<P, M> {
    /// A queue that is not connected, for as many packets at once, of the interface with the address `mac`. None: no
    /// memory. PASSIVE_LEVEL.
    pub fn new(packets: usize, mac: [u8; 6]) -> Option<Self> {
        let count = packets.clamp(1, MOST_ENTRIES);
        let mut entries = filled(count, |_| Entry::new())?;
        for (index, entry) in entries.iter_mut().enumerate() {
            entry.next = if index + 1 < count { index as u16 + 1 } else { NONE };
        }
        let mut queue = Self {
            entries,
            free_entries: 0,
            waiting: List::EMPTY,
            finished: List::EMPTY,
            slots: Slots::new(SLOTS)?,
            stock: Vec::new(),
            bounces: Vec::new(),
            bounces_made: BOUNCE_PAGES,
            held: Vec::new(),
            link: None,
            in_flight: 0,
            extras: 0,
            arrivals: 0,
            learned: Learned::new(mac),
            filter: Filter::new()?,
            pieces: Pieces::new()?,
            counters: Counters::default(),
            broken: false,
            gone: false,
        };
        queue.stock.try_reserve_exact(SLOTS).ok()?;
        queue.bounces.try_reserve_exact(BOUNCE_PAGES).ok()?;
        queue.held.try_reserve_exact(SLOTS).ok()?;
        Some(queue)
    }

    /// Grant references that a connection makes use of.
    pub fn references_wanted(&self) -> usize {
        FIXED_REFERENCES + SLOTS - self.held.len()
    }

    /// Makes the shared ring in `ring` (one page) and grants it to the backend, and the pages of `pool`
    /// ([`POOL_PAGES`]), which the backend may only read. Packets wait until [`Queue::start`].
    ///
    /// `references` come from [`xenbus::pages::take_references`]; as many as [`Queue::references_wanted`] says are kept,
    /// the others given back.
    ///
    /// # Errors
    /// [`SetupError`]; memory and references are freed, nothing is granted.
    pub fn attach<B: Bus>(&mut self, bus: &B, ring: M, pool: M, references: &[u32]) -> Result<(), SetupError> {
        let (kept, surplus) = references.split_at(references.len().min(self.references_wanted()));
        give_references(bus, surplus);
        let made = match kept.split_first_chunk::<FIXED_REFERENCES>() {
            Some((fixed, stock)) if !stock.is_empty() => self.connect(bus, ring, pool, fixed, stock),
            _ => Err(SetupError::NoGrants),
        };
        if made.is_err() {
            give_references(bus, kept);
        }
        made
    }

    fn connect<B: Bus>(
        &mut self,
        bus: &B,
        ring: M,
        pool: M,
        fixed: &[u32; FIXED_REFERENCES],
        stock: &[u32],
    ) -> Result<(), SetupError> {
        let [ring_ref, pool_refs @ ..] = *fixed;
        if ring.size() != PAGE || pool.size() != POOL_PAGES * PAGE {
            return Err(SetupError::Memory);
        }
        let frame = ring.frame(0).ok_or(SetupError::Memory)?;
        bus.grant_access(ring_ref, frame, false).map_err(|_| SetupError::NoGrants)?;
        for (page, reference) in pool_refs.iter().enumerate() {
            let frame = pool.frame(page).ok_or(SetupError::Memory)?;
            bus.grant_access(*reference, frame, true).map_err(|_| SetupError::NoGrants)?;
        }
        let ring = FrontRing::new(ring).map_err(|_| SetupError::Memory)?;
        self.link = Some(Link { ring, pool, ring_ref, pool_refs, abilities: Abilities::NONE, running: false });
        self.stock.clear();
        self.stock.extend_from_slice(stock);
        self.bounces.clear();
        self.bounces.extend(HEAD_PAGES as u16..POOL_PAGES as u16);
        self.slots.lay_out();
        self.in_flight = 0;
        self.extras = 0;
        self.broken = false;
        self.filter.forget();
        Ok(())
    }

    /// Reference of the ring's page, for the store. None: not attached.
    pub fn ring_ref(&self) -> Option<u32> {
        self.link.as_ref().map(|link| link.ring_ref)
    }

    /// The backend is connected: hand out what waits.
    pub fn start<B: Bus>(&mut self, bus: &B, abilities: Abilities) -> Progress {
        if let Some(link) = &mut self.link {
            link.abilities = abilities;
            link.running = true;
        }
        self.rearm(bus)
    }

    /// Stops handing out packets; what is in flight stays so.
    pub fn freeze(&mut self) {
        if let Some(link) = &mut self.link {
            link.running = false;
        }
    }

    /// Goes on after [`Queue::freeze`] with the same backend.
    pub fn thaw<B: Bus>(&mut self, bus: &B) -> Progress {
        if let Some(link) = &mut self.link {
            link.running = true;
        }
        self.rearm(bus)
    }

    /// Lets go of the backend: every packet that is not finished waits, in its order of arrival, for the next
    /// [`Queue::start`]. One with a page that the peer keeps waits for that first.
    pub fn detach<B: Bus>(&mut self, bus: &B) {
        if self.link.is_none() {
            return;
        }
        for entry in &mut self.entries {
            // All its answers came, and it only waits for a page, or for its owner: that is not sent twice.
            let answered = entry.outstanding == 0 && !entry.queued;
            entry.redo |= entry.packet.is_some() && !answered && entry.status == Status::Sent;
        }
        for index in 0..self.slots.len() {
            // Those that are free stay so.
            self.retire(bus, index as u16);
        }
        let Some(Link { ring, pool, ring_ref, pool_refs, .. }) = self.link.take() else { return };
        let kept_ring = give_references(bus, &[ring_ref]);
        let kept_pool = give_references(bus, &pool_refs);
        if kept_ring {
            ring.into_memory().leak();
        }
        if kept_pool {
            pool.leak();
        }
        if kept_ring || kept_pool {
            bus.log(LogLevel::Warning, format_args!("the backend keeps pages of a transmit queue: they are given up"));
        }
        bus.log(LogLevel::Debug, format_args!("transmit: {:?}", self.counters));
        bus.grant_free(&self.stock);
        self.stock.clear();
        self.bounces.clear();
        self.in_flight = 0;
        self.extras = 0;
        self.broken = false;
        self.requeue();
        if !self.held.is_empty() {
            let pages = self.held.len();
            bus.log(
                LogLevel::Warning,
                format_args!("the backend keeps {pages} pages of packets: they are held until it lets go"),
            );
        }
    }

    /// Takes a packet; [`Queue::flush`] hands it out.
    ///
    /// # Errors
    /// No room: the packet comes back. Try again after a completion.
    pub fn send(&mut self, packet: P) -> Result<(), P> {
        let index = self.free_entries;
        let Some(entry) = self.entries.get_mut(usize::from(index)) else { return Err(packet) };
        self.free_entries = entry.next;
        *entry = Entry { packet: Some(packet), arrival: self.arrivals, ..Entry::new() };
        self.arrivals += 1;
        self.waiting.push(&mut self.entries, index);
        Ok(())
    }

    /// Hands out what waits, as far as there is room: once after a batch of [`Queue::send`]. `more`: packets ended
    /// without the backend, see [`Queue::complete`].
    pub fn flush<B: Bus>(&mut self, bus: &B) -> Progress {
        let notify = self.pump(bus);
        Progress { notify, more: self.gone || self.finished.head().is_some() }
    }

    /// Takes responses, at most `budget` of them, until a packet is finished: that packet and how it ended. None:
    /// nothing is finished; call [`Queue::rearm`] before waiting for an event.
    pub fn complete<B: Bus>(&mut self, bus: &B, budget: &mut u32) -> Option<(P, Status)> {
        if !self.held.is_empty() {
            self.retry_held(bus);
        }
        if self.gone {
            return self.take_failed(bus);
        }
        while let Some(index) = self.finished.pop(&mut self.entries) {
            if let Some(finished) = self.settle(index) {
                return Some(finished);
            }
        }
        while *budget > 0 && !self.broken {
            let response = match self.link.as_mut()?.ring.take() {
                Ok(Some(response)) => response,
                Ok(None) => break,
                Err(error) => {
                    self.break_ring(bus, error);
                    return None;
                }
            };
            *budget -= 1;
            if let Some(finished) = self.answered(bus, response) {
                return Some(finished);
            }
        }
        None
    }

    /// After [`Queue::complete`] had nothing: hands out what waits and asks for an event with the next response.
    pub fn rearm<B: Bus>(&mut self, bus: &B) -> Progress {
        let notify = self.pump(bus);
        if self.gone || self.broken {
            return Progress { notify, more: self.finished.head().is_some() };
        }
        let more = match self.link.as_mut().map(|link| link.ring.final_check()) {
            Some(Ok(more)) => more,
            Some(Err(error)) => {
                self.break_ring(bus, error);
                false
            }
            None => false,
        };
        Progress { notify, more: more || self.finished.head().is_some() }
    }

    /// Takes back a packet that waits and of which nothing was handed out, the first for which `which` holds: because it
    /// is not to be sent any more, or by another queue, where this one is not connected again.
    pub fn cancel(&mut self, mut which: impl FnMut(&P) -> bool) -> Option<P> {
        let index = self.waiting.remove(&mut self.entries, |entry| {
            entry.outstanding == 0
                && entry.held == 0
                && entry.issued == 0
                && entry.packet.as_ref().is_some_and(&mut which)
        })?;
        self.remove(index).map(|(packet, _)| packet)
    }

    /// Whether there is no room for another packet.
    pub const fn is_full(&self) -> bool {
        self.free_entries == NONE
    }

    /// Whether the backend broke the protocol, or keeps a page that it has no right to any more, and the connection is
    /// still to be closed.
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether some packet waits for the peer to let go of its pages.
    pub const fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// What the queue did.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Addresses that were learned from what was sent.
    pub const fn learned(&self) -> &Learned {
        &self.learned
    }

    /// The device is gone for good: every packet fails, now and from now on. Packets whose pages the peer may read are
    /// held.
    pub const fn give_up(&mut self) {
        self.gone = true;
    }

    /// The owner found the backend at fault: as if it had broken the protocol. `why` goes into the log.
    #[cold]
    pub fn distrust<B: Bus>(&mut self, bus: &B, why: fmt::Arguments<'_>) {
        if !self.broken && self.link.is_some() {
            bus.log(LogLevel::Error, format_args!("transmit: {why}: the backend is not believed any more"));
            self.broken = true;
        }
    }

    #[cold]
    fn break_ring<B: Bus>(&mut self, bus: &B, error: xen_abi::ring::RingError) {
        let (index, taken, asked) = self.link.as_ref().map_or((0, 0, 0), |link| link.ring.refused());
        self.distrust(bus, format_args!("{error}: rsp_prod {index:#x}, not within {taken:#x}..={asked:#x}"));
    }

    /// Hands out packets while there is room. True: notify the backend.
    fn pump<B: Bus>(&mut self, bus: &B) -> bool {
        if self.gone || self.broken || !self.link.as_ref().is_some_and(|link| link.running) {
            return false;
        }
        self.push_filter();
        while let Some(index) = self.waiting.head() {
            match self.emit(bus, index) {
                Step::Part => {}
                Step::Exhausted => {
                    if self.in_flight == 0 && self.extras == 0 {
                        // Nothing will come back that could be waited for.
                        self.distrust(bus, format_args!("the backend kept everything that sending needs"));
                    }
                    break;
                }
                Step::Out => {
                    self.waiting.pop(&mut self.entries);
                }
                Step::Refused(status) => {
                    self.waiting.pop(&mut self.entries);
                    self.refuse(index, status);
                }
            }
            if self.broken {
                break;
            }
        }
        self.link.as_mut().is_some_and(|link| link.ring.publish())
    }

    fn refuse(&mut self, index: u16, status: Status) {
        let Some(entry) = self.entries.get_mut(usize::from(index)) else { return };
        if entry.status == Status::Sent {
            self.counters.refused += 1;
            entry.status = status;
        }
        if entry.outstanding == 0 && entry.held == 0 {
            self.finished.push(&mut self.entries, index);
        }
    }

    /// A response. The packet that ended with it.
    fn answered<B: Bus>(&mut self, bus: &B, response: TxResponse) -> Option<(P, Status)> {
        let TxResponse { id, status } = response;
        let okay = status == RSP_OKAY;
        if !okay && !self.is_refusal(bus, response) {
            return None;
        }
        let Some(slot) = self.slots.answered(id) else {
            self.distrust(bus, format_args!("response id {id:#x}, status {status}: no such request is out"));
            return None;
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        let Slot { entry: owner, reference, bounce, .. } = slot;
        let Some(entry) = self.entries.get_mut(usize::from(owner)) else {
            self.retired(bus, slot);
            if owner == FILTER {
                self.filter.answered(okay);
            }
            return None;
        };
        // As in `retired`, with one look at the books.
        entry.outstanding = entry.outstanding.saturating_sub(1);
        if !okay && entry.status == Status::Sent {
            entry.status = Status::Dropped;
            self.counters.dropped += 1;
        }
        if bounce != NONE {
            self.bounces.push(bounce);
        }
        if reference != 0 {
            match bus.grant_end(reference) {
                Ok(()) => self.stock.push(reference),
                Err(error) => {
                    self.hold(bus, owner, reference, error);
                    return None;
                }
            }
        }
        if entry.outstanding > 0 || entry.held > 0 || entry.queued {
            return None;
        }
        let packet = entry.packet.take()?;
        entry.next = self.free_entries;
        self.free_entries = owner;
        Some((packet, entry.status))
    }

    /// Whether a response that is none of success is of a request. The others answer an extra, or break the queue.
    #[cold]
    fn is_refusal<B: Bus>(&mut self, bus: &B, response: TxResponse) -> bool {
        let TxResponse { id, status } = response;
        match TxStatus::decode(status) {
            Ok(TxStatus::Null) => {
                if let Some(left) = self.extras.checked_sub(1) {
                    self.extras = left;
                } else {
                    self.distrust(bus, format_args!("status {status} without an extra to answer"));
                }
                false
            }
            Ok(_) => true,
            Err(_) => {
                self.distrust(bus, format_args!("response id {id:#x}, status {status}: no such status"));
                false
            }
        }
    }
}

impl<P, M: Memory> Drop for Queue<P, M> {
    fn drop(&mut self) {
        // The peer may still use the pages, if nobody detached the queue.
        if let Some(link) = self.link.take() {
            link.pool.leak();
            link.ring.into_memory().leak();
        }
    }
}
