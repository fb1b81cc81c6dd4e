//! The ring: requests in, blkif requests to the backend, checked responses back.
//!
//! - A request is split into parts, each one slot of the ring; what does not fit waits in a queue, in the order of
//!   arrival. Exhaustion of slots, grants, indirect or bounce pages is waited out, never an error. One part can always
//!   be made when nothing is in flight, so the queue moves.
//! - Nothing is allocated after [`Ring::new`]. Grants come from a stock that [`Ring::attach`] is given.
//! - A response is copied out and must name a slot that is in flight, with its current sequence number and its
//!   operation. Anything else breaks the ring: neither responses nor indices are looked at any more, and nothing is
//!   handed out. No request ends by that. The owner closes the connection, in order, and calls [`Ring::detach`]; what
//!   was not finished is issued again to the next backend, or fails after [`Ring::give_up`].
//! - A buffer page whose grant cannot be ended belongs to the peer as long as that is so: its request is held, neither
//!   finished nor issued again, and the ring is broken. A page of our own is retired instead.
//! - Parts may be reordered by the backend among themselves and with other requests, as SCSI's simple tasks may be;
//!   [`Io::ordered`] makes one that is not.
//!
//! The ring knows no locks, threads, interrupts or time: the caller serializes calls, and a caller without interrupts
//! (a crash dump) calls [`Ring::take_finished`] in a loop.

use alloc::vec::Vec;
use core::fmt;

use xen_abi::{
    blkif::{self, Blkif, Command, Direction, Segment, Segments},
    ring::{FrontRing, RingError},
};
use xenbus::{
    client::{Bus, Error},
    interface::LogLevel,
    pages::Memory,
};

use super::{
    config::{FlushBy, MAX_RING_PAGES},
    io::{Entry, Io, Kind, Queue, Request, Status},
};

/// No index.
pub const NONE: u16 = u16::MAX;
/// Bytes of a page.
pub const PAGE: u32 = 4096;
/// Bytes of a ring sector.
const SECTOR: u32 = 512;
/// Most segments of one indirect request that are used: 1 MiB, and half a page of descriptors.
pub const INDIRECT_SEGMENTS: usize = 256;
/// Pages of a group of bounce pages, and so the most that a bounced part uses.
pub const BOUNCE_PAGES: usize = 8;

/// A slot's bookkeeping.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    busy: bool,
    operation: u8,
    entry: u16,
    indirect: u16,
    bounce: u16,
    next: u16,
    refs: u16,
    sequence: u32,
    /// First sector of the part in the request, and how many.
    offset: u32,
    sectors: u32,
    direct: [u32; blkif::MAX_SEGMENTS],
}

impl Slot {
    /// A free slot.
    pub const FREE: Self = Self {
        busy: false,
        operation: 0,
        entry: NONE,
        indirect: NONE,
        bounce: NONE,
        next: NONE,
        refs: 0,
        sequence: 0,
        offset: 0,
        sectors: 0,
        direct: [0; blkif::MAX_SEGMENTS],
    };
}

/// An indirect page: its grant stands for as long as the ring does, the references in it are kept privately.
#[derive(Clone, Copy, Debug)]
pub struct Indirect {
    reference: u32,
    next: u16,
    refs: [u32; INDIRECT_SEGMENTS],
}

impl Indirect {
    /// Not set up.
    pub const EMPTY: Self = Self { reference: 0, next: NONE, refs: [0; INDIRECT_SEGMENTS] };
}

/// A buffer page that the peer did not let go of.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    reference: u32,
    entry: u16,
}

/// Where the ring keeps its books: on the heap, or in arrays for a ring without allocation.
pub trait Tables<R> {
    /// One for each request that the ring takes at once; fewer than [`NONE`].
    fn entries(&mut self) -> &mut [Entry<R>];
    /// One for each slot of the ring; more are not used.
    fn slots(&mut self) -> &mut [Slot];
    /// One for each indirect page; none: no indirect requests.
    fn indirects(&mut self) -> &mut [Indirect];
    /// One for each grant reference of the stock.
    fn stock(&mut self) -> &mut [u32];
    /// As many as the stock has.
    fn held(&mut self) -> &mut [Held];
}

/// Tables on the heap, allocated once.
pub struct HeapTables<R> {
    entries: Vec<Entry<R>>,
    slots: Vec<Slot>,
    indirects: Vec<Indirect>,
    stock: Vec<u32>,
    held: Vec<Held>,
}

fn filled<T>(count: usize, mut item: impl FnMut() -> T) -> Option<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(count).ok()?;
    vec.extend((0..count).map(|_| item()));
    Some(vec)
}

impl<R> HeapTables<R> {
    /// Tables of the given sizes; None: no memory.
    pub fn new(entries: usize, slots: usize, indirects: usize, stock: usize) -> Option<Self> {
        Some(Self {
            entries: filled(entries.min(usize::from(NONE)), Entry::new)?,
            slots: filled(slots, || Slot::FREE)?,
            indirects: filled(indirects, || Indirect::EMPTY)?,
            stock: filled(stock, || 0)?,
            held: filled(stock, || Held { reference: 0, entry: NONE })?,
        })
    }
}

impl<R> Tables<R> for HeapTables<R> {
    fn entries(&mut self) -> &mut [Entry<R>] {
        &mut self.entries
    }
    fn slots(&mut self) -> &mut [Slot] {
        &mut self.slots
    }
    fn indirects(&mut self) -> &mut [Indirect] {
        &mut self.indirects
    }
    fn stock(&mut self) -> &mut [u32] {
        &mut self.stock
    }
    fn held(&mut self) -> &mut [Held] {
        &mut self.held
    }
}

/// Tables in arrays, without indirect pages: small enough for a crash dump.
pub struct FixedTables<R, const ENTRIES: usize, const SLOTS: usize, const STOCK: usize> {
    entries: [Entry<R>; ENTRIES],
    slots: [Slot; SLOTS],
    stock: [u32; STOCK],
    held: [Held; STOCK],
}

impl<R, const ENTRIES: usize, const SLOTS: usize, const STOCK: usize> FixedTables<R, ENTRIES, SLOTS, STOCK> {
    /// Empty tables.
    pub const fn new() -> Self {
        Self {
            entries: [const { Entry::new() }; ENTRIES],
            slots: [Slot::FREE; SLOTS],
            stock: [0; STOCK],
            held: [Held { reference: 0, entry: NONE }; STOCK],
        }
    }
}

impl<R, const ENTRIES: usize, const SLOTS: usize, const STOCK: usize> Default
    for FixedTables<R, ENTRIES, SLOTS, STOCK>
{
    fn default() -> Self {
        Self::new()
    }
}

impl<R, const ENTRIES: usize, const SLOTS: usize, const STOCK: usize> Tables<R>
    for FixedTables<R, ENTRIES, SLOTS, STOCK>
{
    fn entries(&mut self) -> &mut [Entry<R>] {
        &mut self.entries
    }
    fn slots(&mut self) -> &mut [Slot] {
        &mut self.slots
    }
    fn indirects(&mut self) -> &mut [Indirect] {
        &mut []
    }
    fn stock(&mut self) -> &mut [u32] {
        &mut self.stock
    }
    fn held(&mut self) -> &mut [Held] {
        &mut self.held
    }
}

/// What the backend can do, as far as the ring has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// How to flush.
    pub flush: Option<FlushBy>,
    /// Segments in an indirect request; 0 or up to 11: not used.
    pub indirect: u16,
}

/// Why a ring could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// No grant references.
    NoGrants,
    /// The memory is too small or has no frames.
    Memory,
}

/// Pages and references that a connected ring uses.
struct Link<M: Memory> {
    ring: FrontRing<Blkif, M>,
    ring_refs: [u32; MAX_RING_PAGES],
    ring_pages: usize,
    abilities: Abilities,
    running: bool,
}

/// The ring. See the module.
pub struct Ring<R, M: Memory, T> {
    tables: T,
    /// Indirect pages first, then groups of bounce pages.
    pool: Option<M>,
    /// Pages of a group: [`BOUNCE_PAGES`], or fewer in a small pool.
    group_pages: usize,
    bounce_groups: u16,
    /// Groups with a page that the peer keeps, one bit each.
    lost_groups: u16,
    link: Option<Link<M>>,
    handle: u16,
    queue: Queue,
    /// Requests that wait for bounce pages; those behind them that need none go past them.
    parked: Queue,
    /// Requests that ended without a response to say so.
    finished: Queue,
    free_entries: u16,
    free_slots: u16,
    free_indirects: u16,
    free_bounces: [u16; 16],
    bounces: u16,
    stock_used: usize,
    stock_size: usize,
    held_used: usize,
    in_flight: u32,
    arrivals: u64,
    ordered: u16,
    broken: bool,
    /// Some of the pool's pages are the peer's for ever.
    pool_leaks: bool,
    gone: bool,
    _request: core::marker::PhantomData<R>,
}

/// What became of an attempt to hand out the next part.
enum Step {
    Pushed,
    /// Pushed, and that was the last.
    Last,
    /// There are no bounce pages at the moment.
    Parked,
    Exhausted,
    /// Nothing is left to hand out.
    AllOut,
}

impl<R: Request, M: Memory, T: Tables<R>> Ring<R, M, T> {
    /// A ring that is not connected. `pool` has the indirect pages (as many as `tables` has places for) and after them
    /// the bounce pages: up to 16 groups of [`BOUNCE_PAGES`], or one smaller group.
    ///
    /// # Errors
    /// [`SetupError::Memory`]: the pool has no bounce page.
    pub fn new(mut tables: T, pool: M, handle: u16) -> Result<Self, SetupError> {
        let pages = pool.size() / PAGE as usize;
        let indirects = tables.indirects().len();
        let bounces = pages.saturating_sub(indirects);
        let group_pages = bounces.min(BOUNCE_PAGES);
        if group_pages == 0 || (0..pages).any(|page| pool.frame(page).is_none()) {
            return Err(SetupError::Memory);
        }
        let mut ring = Self {
            tables,
            pool: Some(pool),
            group_pages,
            bounce_groups: (bounces / group_pages).min(16) as u16,
            lost_groups: 0,
            link: None,
            handle,
            queue: Queue::EMPTY,
            parked: Queue::EMPTY,
            finished: Queue::EMPTY,
            free_entries: NONE,
            free_slots: NONE,
            free_indirects: NONE,
            free_bounces: [NONE; 16],
            bounces: 0,
            stock_used: 0,
            stock_size: 0,
            held_used: 0,
            in_flight: 0,
            arrivals: 0,
            ordered: NONE,
            broken: false,
            pool_leaks: false,
            gone: false,
            _request: core::marker::PhantomData,
        };
        let entries = ring.tables.entries();
        let last = entries.len();
        for (index, entry) in entries.iter_mut().enumerate() {
            entry.next = if index + 1 < last { index as u16 + 1 } else { NONE };
        }
        ring.free_entries = if last == 0 { NONE } else { 0 };
        Ok(ring)
    }

    /// Grant references that a ring of `pages` pages can make use of.
    pub fn references_wanted(&mut self, pages: usize) -> usize {
        pages.min(MAX_RING_PAGES) + self.tables.stock().len()
    }

    /// Makes the shared ring in `memory` (1, 2, 4, 8 or 16 pages) and grants it to the backend. The references of its
    /// pages are what goes into the store. Requests wait until [`Ring::start`]. IRQL <= DISPATCH_LEVEL.
    ///
    /// `references` come from [`xenbus::pages::take_references`], which may have to grow the bus's table and so runs at PASSIVE_LEVEL,
    /// outside of the lock around the ring. The ring keeps as many as [`Ring::references_wanted`] says and gives the
    /// others back.
    ///
    /// # Errors
    /// [`SetupError`]; the memory and the references are freed, nothing is granted.
    pub fn attach<B: Bus>(&mut self, bus: &B, memory: M, references: &[u32]) -> Result<(), SetupError> {
        let pages = (memory.size() / PAGE as usize).min(MAX_RING_PAGES);
        // There is a place for each page of the stock that the peer may come to keep.
        let room = self.tables.stock().len().saturating_sub(self.held_used);
        let Some((own, others)) = references.split_at_checked(pages) else {
            Self::free_refs(bus, references);
            return Err(SetupError::NoGrants);
        };
        let (stock, surplus) = others.split_at(others.len().min(room));
        Self::free_refs(bus, surplus);
        let granted = own.iter().enumerate().try_for_each(|(page, reference)| {
            let frame = memory.frame(page).ok_or(SetupError::Memory)?;
            bus.grant_access(*reference, frame, false).map_err(|_| SetupError::NoGrants)
        });
        let enough = if stock.len() > blkif::MAX_SEGMENTS { Ok(()) } else { Err(SetupError::NoGrants) };
        let made = granted.and(enough).and_then(|()| FrontRing::new(memory).map_err(|_| SetupError::Memory));
        let ring = match made {
            Ok(ring) => ring,
            Err(error) => {
                Self::free_refs(bus, own);
                Self::free_refs(bus, stock);
                return Err(error);
            }
        };
        let mut ring_refs = [0; MAX_RING_PAGES];
        for (place, reference) in ring_refs.iter_mut().zip(own) {
            *place = *reference;
        }
        for (place, reference) in self.tables.stock().iter_mut().zip(stock) {
            *place = *reference;
        }
        self.stock_used = stock.len();
        self.stock_size = stock.len();
        let abilities = Abilities { flush: None, indirect: 0 };
        self.link = Some(Link { ring, ring_refs, ring_pages: pages, abilities, running: false });
        self.lay_out_slots();
        self.broken = false;
        Ok(())
    }

    /// References of the ring's pages.
    pub fn ring_refs(&self) -> &[u32] {
        self.link.as_ref().and_then(|link| link.ring_refs.get(..link.ring_pages)).unwrap_or(&[])
    }

    /// The backend is connected: hand out what waits. IRQL <= DISPATCH_LEVEL.
    pub fn start<B: Bus>(&mut self, bus: &B, abilities: Abilities) -> Rearm {
        let Some(link) = &mut self.link else { return Rearm { notify: false, more: false } };
        link.abilities = abilities;
        link.running = true;
        self.lay_out_pool(bus);
        self.rearm(bus)
    }

    /// Stops handing out parts; what is in flight stays so. IRQL <= DISPATCH_LEVEL.
    pub fn freeze(&mut self) {
        if let Some(link) = &mut self.link {
            link.running = false;
        }
    }

    /// Goes on after [`Ring::freeze`] with the same backend. IRQL <= DISPATCH_LEVEL.
    pub fn thaw<B: Bus>(&mut self, bus: &B) -> Rearm {
        if let Some(link) = &mut self.link {
            link.running = true;
        }
        self.rearm(bus)
    }

    /// Lets go of the backend: every request that is not finished waits, in its order of arrival, for the next
    /// [`Ring::start`]. Grants that cannot be ended keep their request held; it waits for them first. IRQL <=
    /// DISPATCH_LEVEL.
    pub fn detach<B: Bus>(&mut self, bus: &B) {
        let Some(link) = self.link.take() else { return };
        for entry in self.tables.entries() {
            // All its answers came, and it only waits for a page: that is not done twice.
            let answered = entry.outstanding == 0 && !entry.queued;
            entry.redo = entry.request.is_some() && !(answered && entry.is_complete());
        }
        for index in 0..self.tables.slots().len() {
            if self.tables.slots().get(index).is_some_and(|slot| slot.busy) {
                self.retire(bus, index as u16, false);
            }
        }
        self.in_flight = 0;
        self.ordered = NONE;
        self.return_pool(bus);
        let mut leaks = false;
        for reference in link.ring_refs.iter().take(link.ring_pages) {
            if bus.grant_end(*reference).is_ok() {
                bus.grant_free(&[*reference]);
            } else {
                leaks = true;
            }
        }
        let memory = link.ring.into_memory();
        if leaks {
            bus.log(LogLevel::Warning, format_args!("the backend keeps the ring: its pages are given up"));
            memory.leak();
        }
        let used = self.stock_used;
        if let Some(stock) = self.tables.stock().get(..used) {
            bus.grant_free(stock);
        }
        self.stock_used = 0;
        self.stock_size = 0;
        self.requeue();
        self.broken = false;
        if self.held_used > 0 {
            let (pages, waiting) =
                (self.held_used, self.tables.entries().iter().filter(|entry| entry.held > 0).count());
            bus.log(
                LogLevel::Warning,
                format_args!("the backend keeps {pages} pages mapped: {waiting} requests are held until it lets go"),
            );
        }
    }

    /// Takes a request. Err: no room, the request comes back; try again after a completion. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// The request itself.
    pub fn submit<B: Bus>(&mut self, bus: &B, request: R) -> Result<Rearm, R> {
        let index = self.free_entries;
        let Some(entry) = self.tables.entries().get_mut(usize::from(index)) else { return Err(request) };
        let next = entry.next;
        let arrival = self.arrivals;
        *entry = Entry { request: Some(request), arrival, ..Entry::new() };
        self.free_entries = next;
        self.arrivals += 1;
        self.queue.push(&mut self.tables, index);
        let notify = self.pump(bus);
        Ok(Rearm { notify, more: self.gone || self.finished.head().is_some() })
    }

    /// Whether the ring has no room for another request. IRQL <= DISPATCH_LEVEL.
    pub const fn is_full(&self) -> bool {
        self.free_entries == NONE
    }

    /// Whether any request is in the ring. IRQL <= DISPATCH_LEVEL.
    pub fn is_idle(&mut self) -> bool {
        self.tables.entries().iter().all(|entry| entry.request.is_none())
    }

    /// Whether the backend broke the protocol, or keeps a page that it has no right to any more, and the connection is
    /// still to be closed.
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// The owner found the backend at fault: as if it had broken the protocol. `why` goes into the log. IRQL <=
    /// DISPATCH_LEVEL.
    pub fn distrust<B: Bus>(&mut self, bus: &B, why: fmt::Arguments<'_>) {
        if !self.broken && self.link.is_some() {
            bus.log(LogLevel::Error, format_args!("{why}: the backend is not believed any more"));
            self.broken = true;
        }
    }

    /// Whether some request waits for the peer to let go of its pages.
    pub const fn has_held(&self) -> bool {
        self.held_used > 0
    }

    /// Parts that are with the backend.
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The disk is gone for good: every request fails, now and from now on. Requests whose pages the peer may write are
    /// held.
    pub fn give_up(&mut self) {
        self.gone = true;
    }

    /// How flushes are done; None: they are not.
    pub fn flush_by(&self) -> Option<FlushBy> {
        self.link.as_ref().and_then(|link| link.abilities.flush)
    }

    /// Takes responses, at most `budget` of them, until a request is finished: that request and how it ended. None:
    /// nothing is finished; call [`Ring::rearm`] before waiting for an event. IRQL <= DISPATCH_LEVEL.
    pub fn take_finished<B: Bus>(&mut self, bus: &B, budget: &mut u32) -> Option<(R, Status)> {
        if self.held_used > 0 {
            self.retry_held(bus);
        }
        if self.gone {
            return self.take_failed(bus);
        }
        while let Some(index) = self.finished.pop(&mut self.tables) {
            if let Some(finished) = self.settle(index) {
                return Some(finished);
            }
        }
        while *budget > 0 && !self.broken {
            let link = self.link.as_mut()?;
            let response = match link.ring.take() {
                Ok(Some(response)) => response,
                Ok(None) => break,
                Err(error) => {
                    self.break_ring(bus, error);
                    return None;
                }
            };
            *budget -= 1;
            let Some(index) = self.check(&response) else {
                let blkif::RawResponse { id, operation, .. } = response;
                self.distrust(bus, format_args!("response id {id:#x}, operation {operation}: no such request is out"));
                return None;
            };
            if let Some(finished) = self.part_done(bus, index, response.status) {
                return Some(finished);
            }
        }
        None
    }

    /// After [`Ring::take_finished`] had nothing: hands out what waits and asks for an event with the next response.
    /// `more`: responses came meanwhile, look again. `notify`: tell the backend. IRQL <= DISPATCH_LEVEL.
    pub fn rearm<B: Bus>(&mut self, bus: &B) -> Rearm {
        let notify = self.pump(bus);
        if self.gone || self.broken {
            // What could be failed was taken already, and the peer's indices are not looked at any more.
            return Rearm { notify, more: self.finished.head().is_some() };
        }
        let more = match self.link.as_mut().map(|link| link.ring.final_check()) {
            Some(Ok(more)) => more,
            Some(Err(error)) => {
                self.break_ring(bus, error);
                false
            }
            None => false,
        };
        Rearm { notify, more: more || self.finished.head().is_some() }
    }

    fn break_ring<B: Bus>(&mut self, bus: &B, error: RingError) {
        let (index, taken, asked) = self.link.as_ref().map_or((0, 0, 0), |link| link.ring.refused());
        let range = format_args!("rsp_prod {index:#x}, not within {taken:#x}..={asked:#x}");
        self.distrust(bus, format_args!("{error}: {range}"));
    }

    /// The slot that a response belongs to. None: it names no slot in flight, or another operation.
    fn check(&mut self, response: &blkif::RawResponse) -> Option<u16> {
        let index = (response.id & 0xffff) as usize;
        let slot = self.tables.slots().get(index)?;
        let right = slot.busy && response.id >> 16 == u64::from(slot.sequence) && response.operation == slot.operation;
        right.then_some(index as u16)
    }

    /// A part was answered: its grants are ended, its pages and its slot freed. The request, if that was the last of
    /// it.
    fn part_done<B: Bus>(&mut self, bus: &B, slot: u16, status: i16) -> Option<(R, Status)> {
        let Slot { operation, entry, .. } = *self.tables.slots().get(usize::from(slot))?;
        self.retire(bus, slot, status == blkif::RSP_OKAY);
        self.in_flight = self.in_flight.saturating_sub(1);
        if status == blkif::RSP_EOPNOTSUPP
            && let Some(link) = &mut self.link
        {
            match operation {
                // Flush not known after all: a barrier may be.
                blkif::OP_FLUSH | blkif::OP_WRITE_BARRIER => link.abilities.flush = None,
                _ => {}
            }
        }
        let io = self.tables.entries().get_mut(usize::from(entry))?.request.as_mut()?.io_mut();
        if io.status == Status::Done {
            io.status = match status {
                blkif::RSP_OKAY => Status::Done,
                blkif::RSP_EOPNOTSUPP => Status::Unsupported,
                _ => Status::Error,
            };
        }
        self.settle(entry)
    }

    /// Finishes a request of which nothing is out and nothing is left, or sends its flush after it.
    fn settle(&mut self, index: u16) -> Option<(R, Status)> {
        let entry = self.tables.entries().get_mut(usize::from(index))?;
        if entry.outstanding > 0 || entry.held > 0 || entry.queued {
            return None;
        }
        let io = entry.request.as_mut()?.io_mut();
        if io.force && !io.flushing && io.status == Status::Done {
            io.flushing = true;
            io.issued = 0;
            self.queue.push_front(&mut self.tables, index);
            return None;
        }
        self.remove(index)
    }

    fn remove(&mut self, index: u16) -> Option<(R, Status)> {
        let free = self.free_entries;
        let entry = self.tables.entries().get_mut(usize::from(index))?;
        let request = entry.request.take()?;
        entry.next = free;
        self.free_entries = index;
        if self.ordered == index {
            self.ordered = NONE;
        }
        let status = request.io().status;
        Some((request, status))
    }

    /// One request that ends because the disk is gone, and has no page with the peer.
    fn take_failed<B: Bus>(&mut self, bus: &B) -> Option<(R, Status)> {
        for index in 0..self.tables.slots().len() {
            let Some(slot) = self.tables.slots().get(index).filter(|slot| slot.busy) else { continue };
            let owner = usize::from(slot.entry);
            self.retire(bus, index as u16, false);
            if let Some(request) = self.tables.entries().get_mut(owner).and_then(|entry| entry.request.as_mut()) {
                request.io_mut().status = Status::Gone;
            }
        }
        self.in_flight = 0;
        for queue in [&mut self.queue, &mut self.parked, &mut self.finished] {
            while queue.pop(&mut self.tables).is_some() {}
        }
        let free = |entry: &Entry<R>| entry.request.is_some() && entry.held == 0;
        let index = self.tables.entries().iter().position(free)?;
        // Some have all their answers and only waited for a page to come back.
        let complete = self.tables.entries().get(index).is_some_and(Entry::is_complete);
        let (request, status) = self.remove(index as u16)?;
        Some((request, if complete { status } else { Status::Gone }))
    }

    /// Hands out parts while there is room. True: notify the backend.
    fn pump<B: Bus>(&mut self, bus: &B) -> bool {
        if self.gone || self.broken || !self.link.as_ref().is_some_and(|link| link.running) {
            return false;
        }
        if self.queue.head().is_none() && self.parked.head().is_none() {
            // What was pushed before is published.
            return false;
        }
        while let Some(index) = self.next_request() {
            if self.ordered != NONE && self.ordered != index {
                break;
            }
            match self.next_part(bus, index) {
                Step::Pushed => {}
                Step::Last => {
                    self.queue.pop(&mut self.tables);
                }
                Step::Parked => {
                    self.queue.pop(&mut self.tables);
                    self.parked.push(&mut self.tables, index);
                }
                Step::Exhausted => break,
                Step::AllOut => {
                    self.queue.pop(&mut self.tables);
                    let idle = |entry: &Entry<R>| entry.outstanding == 0 && entry.held == 0;
                    if self.tables.entries().get(usize::from(index)).is_some_and(idle) {
                        self.finished.push(&mut self.tables, index);
                    }
                }
            }
        }
        let waits = |ring: &Self| ring.queue.head().is_some() || ring.parked.head().is_some();
        if self.in_flight == 0 && self.held_used == 0 && waits(self) {
            // Nothing will come back that could be waited for.
            self.distrust(bus, format_args!("the backend kept everything that I/O needs"));
        }
        self.link.as_mut().is_some_and(|link| link.ring.publish())
    }

    /// The request to hand out next: those that waited for bounce pages come first once there are some.
    fn next_request(&mut self) -> Option<u16> {
        if self.parked.head().is_some()
            && self.bounces > 0
            && let Some(index) = self.parked.pop(&mut self.tables)
        {
            self.queue.push_front(&mut self.tables, index);
        }
        self.queue.head()
    }

    fn next_part<B: Bus>(&mut self, bus: &B, index: u16) -> Step {
        let Some(entry) = self.tables.entries().get_mut(usize::from(index)) else { return Step::AllOut };
        let outstanding = entry.outstanding;
        let Some(io) = entry.request.as_ref().map(|request| *request.io()) else { return Step::AllOut };
        if io.status != Status::Done || io.all_out() {
            return Step::AllOut;
        }
        if io.ordered && self.ordered == NONE {
            let before = self.in_flight > u32::from(outstanding) || self.held_used > 0 || self.parked.head().is_some();
            if before {
                return Step::Exhausted;
            }
            self.ordered = index;
        }
        if self.free_slots == NONE {
            return Step::Exhausted;
        }
        if self.bounces == 0 && io.bounces() {
            return Step::Parked;
        }
        let pushed = if io.flushing || io.kind == Kind::Flush {
            self.push_flush(index)
        } else {
            match io.kind {
                Kind::Discard => self.push_discard(index, &io),
                _ => self.push_transfer(bus, index, &io),
            }
        };
        match pushed {
            Some(true) => {
                // A part of it is out, so its answer will finish it.
                let entry = self.tables.entries().get(usize::from(index));
                let last = entry.is_some_and(|entry| {
                    entry.outstanding > 0 && entry.request.as_ref().is_some_and(|request| request.io().all_out())
                });
                if last { Step::Last } else { Step::Pushed }
            }
            Some(false) => Step::Exhausted,
            None => {
                // The request cannot be carried out: its owner has no memory or no range behind it.
                self.fail_entry(index);
                Step::AllOut
            }
        }
    }

    /// Marks a request that cannot be carried out.
    fn fail_entry(&mut self, index: u16) {
        if let Some(request) =
            self.tables.entries().get_mut(usize::from(index)).and_then(|entry| entry.request.as_mut())
        {
            request.io_mut().status = Status::Unsupported;
        }
    }

    /// Takes a slot for a part; the caller pushes it.
    fn take_slot(&mut self, entry: u16, offset: u32, sectors: u32) -> Option<(u16, u64)> {
        let index = self.free_slots;
        let slot = self.tables.slots().get_mut(usize::from(index))?;
        self.free_slots = slot.next;
        slot.busy = true;
        slot.entry = entry;
        slot.indirect = NONE;
        slot.bounce = NONE;
        slot.refs = 0;
        slot.offset = offset;
        slot.sectors = sectors;
        slot.sequence = slot.sequence.wrapping_add(1);
        let id = (u64::from(slot.sequence) << 16) | u64::from(index);
        self.tables.entries().get_mut(usize::from(entry))?.outstanding += 1;
        Some((index, id))
    }

    /// Puts a part's command on the ring. There is a slot of ours for each of the ring's and no more, so that has room.
    fn push(&mut self, slot: u16, id: u64, command: &Command, issued: u32) -> Option<bool> {
        let request = blkif::Request { id, handle: self.handle, command: *command };
        let state = self.tables.slots().get_mut(usize::from(slot))?;
        state.operation = command.answered_as();
        let index = state.entry;
        self.link.as_mut()?.ring.push(&request.encode()).ok()?;
        self.in_flight += 1;
        let entry = self.tables.entries().get_mut(usize::from(index))?;
        entry.request.as_mut()?.io_mut().issued += issued;
        Some(true)
    }

    fn push_flush(&mut self, index: u16) -> Option<bool> {
        let command = match self.flush_by()? {
            FlushBy::Flush => Command::Flush,
            FlushBy::Barrier => Command::Barrier { sector: 0, segments: Segments::new() },
        };
        let Some((slot, id)) = self.take_slot(index, 0, 0) else { return Some(false) };
        self.push(slot, id, &command, 1)
    }

    fn push_discard(&mut self, index: u16, io: &Io) -> Option<bool> {
        let request = self.tables.entries().get_mut(usize::from(index))?.request.as_ref()?;
        let (sector, sector_count) = request.discard(io.issued)?;
        if sector_count == 0 {
            // Nothing to do for this range; the last range has to be a part, or nobody would finish the request.
            if io.issued + 1 < io.count {
                let entry = self.tables.entries().get_mut(usize::from(index))?;
                entry.request.as_mut()?.io_mut().issued += 1;
                return Some(true);
            }
            let Some((slot, id)) = self.take_slot(index, 0, 0) else { return Some(false) };
            let command = Command::Discard { sector: 0, sector_count: 0, secure: false };
            return self.push(slot, id, &command, 1);
        }
        let Some((slot, id)) = self.take_slot(index, 0, 0) else { return Some(false) };
        self.push(slot, id, &Command::Discard { sector, sector_count, secure: false }, 1)
    }

    /// Hands out the next part of a read, write or verify. None: the buffer is shorter than the request.
    fn push_transfer<B: Bus>(&mut self, bus: &B, index: u16, io: &Io) -> Option<bool> {
        let left = io.count - io.issued;
        let (limit, indirect) = self.part_limit(io, left);
        if limit == 0 {
            return Some(false);
        }
        let bounce = if io.bounces() {
            let Some(group) = self.take_bounce() else { return Some(false) };
            group
        } else {
            NONE
        };
        let Some((slot, id)) = self.take_slot(index, io.issued, 0) else {
            self.put_bounce(bounce);
            return Some(false);
        };
        let indirect = if indirect { self.take_indirect() } else { NONE };
        if let Some(state) = self.tables.slots().get_mut(usize::from(slot)) {
            state.indirect = indirect;
            state.bounce = bounce;
        }
        let mut inline = Segments::new();
        let sectors = self.grant_part(bus, index, slot, io, limit, &mut inline);
        let Some(sectors) = sectors.filter(|sectors| *sectors > 0) else {
            self.retire(bus, slot, false);
            return None;
        };
        let direction = if io.kind == Kind::Write { Direction::Write } else { Direction::Read };
        let sector = io.sector + u64::from(io.issued);
        let state = self.tables.slots().get_mut(usize::from(slot))?;
        state.sectors = sectors;
        let segment_count = state.refs;
        let command = match self.tables.indirects().get(usize::from(indirect)) {
            Some(page) => {
                let mut pages = [0; blkif::MAX_INDIRECT_PAGES];
                pages[0] = page.reference;
                Command::Indirect { direction, sector, segment_count, pages }
            }
            None => Command::Rw { direction, sector, segments: inline },
        };
        self.push(slot, id, &command, sectors)
    }

    /// How many segments the next part may have, and whether it goes indirect.
    fn part_limit(&mut self, io: &Io, left: u32) -> (usize, bool) {
        let stock = self.stock_used;
        if io.bounces() {
            return (stock.min(self.group_pages), false);
        }
        let direct = blkif::MAX_SEGMENTS;
        let most = self.link.as_ref().map_or(0, |link| usize::from(link.abilities.indirect));
        // Sectors left do not say how many pages they lie in; one more than whole pages is the most.
        let wanted = left.div_ceil(PAGE / SECTOR) as usize + 1;
        if wanted > direct && most > direct && self.free_indirects != NONE && stock > direct {
            (stock.min(most), true)
        } else {
            (stock.min(direct), false)
        }
    }

    /// Grants the pages of a part, up to `limit`. How many sectors they make: 0 or None where the buffer ends too
    /// early.
    fn grant_part<B: Bus>(
        &mut self,
        bus: &B,
        index: u16,
        slot: u16,
        io: &Io,
        limit: usize,
        inline: &mut Segments,
    ) -> Option<u32> {
        let per_page = PAGE / SECTOR;
        let mut sectors = 0;
        for number in 0..limit {
            let left = io.count - io.issued - sectors;
            if left == 0 {
                break;
            }
            let bounce = self.tables.slots().get(usize::from(slot))?.bounce;
            let (frame, first, count) = if bounce == NONE {
                let offset = (io.issued + sectors).checked_mul(SECTOR)?;
                let request = self.tables.entries().get_mut(usize::from(index))?.request.as_mut()?;
                let run = request.run(offset)?;
                let first = (run.address % u64::from(PAGE)) as u32 / SECTOR;
                let count = (run.bytes / SECTOR).min(per_page - first).min(left);
                if count == 0 || !run.address.is_multiple_of(u64::from(SECTOR)) {
                    return None;
                }
                (run.address / u64::from(PAGE), first, count)
            } else {
                let count = per_page.min(left);
                let page = self.bounce_page(bounce, number);
                let frame = self.pool.as_ref()?.frame(page)?;
                if io.kind == Kind::Write {
                    self.copy_out(index, page, io.issued + sectors, count)?;
                }
                (frame, 0, count)
            };
            let reference = self.draw()?;
            if bus.grant_access(reference, frame, io.kind == Kind::Write).is_err() {
                self.deposit(reference);
                return None;
            }
            let segment = Segment::new(reference, first as u8, (first + count - 1) as u8)?;
            self.record(slot, number, reference, segment, inline)?;
            sectors += count;
        }
        Some(sectors)
    }

    /// Writes a segment into the slot or the indirect page, and remembers its reference privately.
    fn record(
        &mut self,
        slot: u16,
        number: usize,
        reference: u32,
        segment: Segment,
        inline: &mut Segments,
    ) -> Option<()> {
        let state = self.tables.slots().get_mut(usize::from(slot))?;
        state.refs += 1;
        let indirect = usize::from(state.indirect);
        if state.indirect == NONE {
            *state.direct.get_mut(number)? = reference;
            return inline.push(segment).then_some(());
        }
        *self.tables.indirects().get_mut(indirect)?.refs.get_mut(number)? = reference;
        let raw = segment.encode();
        let mut bytes = [0; 8];
        let (head, tail) = bytes.split_at_mut(4);
        head.copy_from_slice(&raw.gref.to_le_bytes());
        tail.copy_from_slice(&[raw.first_sector, raw.last_sector, 0, 0]);
        self.pool.as_ref()?.write(indirect * PAGE as usize + number * bytes.len(), &bytes);
        Some(())
    }

    fn bounce_page(&mut self, group: u16, number: usize) -> usize {
        self.tables.indirects().len() + usize::from(group) * self.group_pages + number
    }

    fn copy_out(&mut self, index: u16, page: usize, sector: u32, count: u32) -> Option<()> {
        let request = self.tables.entries().get_mut(usize::from(index))?.request.as_mut()?;
        let bytes = request.bytes(sector.checked_mul(SECTOR)?, count * SECTOR)?;
        let pool = self.pool.as_ref()?;
        let at = page * PAGE as usize;
        pool.write(at, bytes);
        // What is left of the page is not the backend's business.
        let zeros = [0; SECTOR as usize];
        for rest in count..PAGE / SECTOR {
            pool.write(at + (rest * SECTOR) as usize, &zeros);
        }
        Some(())
    }

    fn copy_in(&mut self, slot: u16) {
        let Some(part) = self.tables.slots().get(usize::from(slot)).copied() else { return };
        let first = self.bounce_page(part.bounce, 0);
        let Self { tables, pool, .. } = self;
        let request = tables.entries().get_mut(usize::from(part.entry)).and_then(|entry| entry.request.as_mut());
        if let (Some(request), Some(pool)) = (request, pool)
            && let Some(offset) = part.offset.checked_mul(SECTOR)
            && let Some(bytes) = request.bytes(offset, part.sectors * SECTOR)
        {
            pool.read(first * PAGE as usize, bytes);
        }
    }

    /// Ends a part's grants and frees its slot and pages. `copy`: its data came, and a bounced read is copied.
    fn retire<B: Bus>(&mut self, bus: &B, slot: u16, copy: bool) {
        let Some(part) = self.tables.slots().get(usize::from(slot)) else { return };
        let Slot { entry: owner, indirect, bounce, refs, .. } = *part;
        let own = bounce != NONE;
        let mut own_kept = false;
        for number in 0..usize::from(refs) {
            let reference = if indirect == NONE {
                self.tables.slots().get(usize::from(slot)).and_then(|part| part.direct.get(number).copied())
            } else {
                self.tables.indirects().get(usize::from(indirect)).and_then(|page| page.refs.get(number).copied())
            };
            let Some(reference) = reference else { break };
            match bus.grant_end(reference) {
                Ok(()) => self.deposit(reference),
                Err(_) if own => own_kept = true,
                Err(error) => self.hold(bus, owner, reference, error),
            }
        }
        if own {
            let request = self.tables.entries().get(usize::from(owner)).and_then(|entry| entry.request.as_ref());
            if copy && request.is_some_and(|request| request.io().kind == Kind::Read) {
                self.copy_in(slot);
            }
            if own_kept {
                // The pages of the group are the peer's; nobody else gets them. The references are lost with them.
                bus.log(LogLevel::Warning, format_args!("the backend keeps a bounce page: it is given up"));
                self.pool_leaks = true;
                self.lost_groups |= 1 << (bounce & 15);
            } else {
                self.put_bounce(bounce);
            }
        }
        if indirect != NONE {
            let free = self.free_indirects;
            if let Some(page) = self.tables.indirects().get_mut(usize::from(indirect)) {
                page.next = free;
                self.free_indirects = indirect;
            }
        }
        if let Some(entry) = self.tables.entries().get_mut(usize::from(owner)) {
            entry.outstanding = entry.outstanding.saturating_sub(1);
        }
        let free = self.free_slots;
        if let Some(state) = self.tables.slots().get_mut(usize::from(slot)) {
            // What else is in it is written when it is taken.
            state.busy = false;
            state.next = free;
            self.free_slots = slot;
        }
    }

    /// The peer keeps a page of Windows': its request stays here until it lets go.
    fn hold<B: Bus>(&mut self, bus: &B, entry: u16, reference: u32, error: Error) {
        self.distrust(bus, format_args!("grant {reference} of an answered request: {error}"));
        let used = self.held_used;
        if let Some(place) = self.tables.held().get_mut(used) {
            *place = Held { reference, entry };
            self.held_used += 1;
        }
        if let Some(owner) = self.tables.entries().get_mut(usize::from(entry)) {
            owner.held += 1;
        }
    }

    /// Looks whether the peer let go of pages meanwhile.
    fn retry_held<B: Bus>(&mut self, bus: &B) {
        let mut index = 0;
        while index < self.held_used {
            let Some(held) = self.tables.held().get(index).copied() else { return };
            if bus.grant_end(held.reference).is_err() {
                index += 1;
                continue;
            }
            bus.grant_free(&[held.reference]);
            if let Some(owner) = self.tables.entries().get_mut(usize::from(held.entry)) {
                owner.held = owner.held.saturating_sub(1);
                if owner.held == 0 && owner.outstanding == 0 && !owner.queued {
                    let queue = if core::mem::take(&mut owner.redo) { &mut self.queue } else { &mut self.finished };
                    queue.push(&mut self.tables, held.entry);
                }
            }
            self.held_used -= 1;
            let last = self.held_used;
            self.tables.held().swap(index, last);
        }
    }

    /// Every request that is to be issued again goes back into the queue, in the order of arrival; those that are held
    /// follow when the peer lets go.
    fn requeue(&mut self) {
        for queue in [&mut self.queue, &mut self.parked, &mut self.finished] {
            while queue.pop(&mut self.tables).is_some() {}
        }
        let mut after = None;
        loop {
            let next = self
                .tables
                .entries()
                .iter()
                .enumerate()
                .filter(|(_, entry)| entry.redo && after.is_none_or(|after| entry.arrival > after))
                .min_by_key(|(_, entry)| entry.arrival)
                .map(|(index, entry)| (index as u16, entry.arrival));
            let Some((index, arrival)) = next else { return };
            after = Some(arrival);
            if let Some(entry) = self.tables.entries().get_mut(usize::from(index)) {
                entry.outstanding = 0;
                entry.queued = false;
                if let Some(request) = &mut entry.request {
                    request.io_mut().rewind();
                }
                if entry.held > 0 {
                    continue;
                }
                entry.redo = false;
            }
            self.queue.push(&mut self.tables, index);
        }
    }

    fn free_refs<B: Bus>(bus: &B, refs: &[u32]) {
        for reference in refs {
            // Those that were never granted end at once; nobody has mapped the others yet.
            if bus.grant_end(*reference).is_ok() {
                bus.grant_free(&[*reference]);
            }
        }
    }

    fn draw(&mut self) -> Option<u32> {
        let top = self.stock_used.checked_sub(1)?;
        let reference = *self.tables.stock().get(top)?;
        self.stock_used = top;
        Some(reference)
    }

    fn deposit(&mut self, reference: u32) {
        let top = self.stock_used;
        if let Some(place) = self.tables.stock().get_mut(top) {
            *place = reference;
            self.stock_used += 1;
        }
    }

    fn lay_out_slots(&mut self) {
        let usable = self.link.as_ref().map_or(0, |link| link.ring.slots() as usize);
        let slots = self.tables.slots();
        let usable = usable.min(slots.len());
        for (index, slot) in slots.iter_mut().enumerate() {
            let next = if index + 1 < usable { index as u16 + 1 } else { NONE };
            // Sequence numbers go on: a response to an earlier ring is not mistaken for one of this.
            *slot = Slot { sequence: slot.sequence, next, ..Slot::FREE };
        }
        self.free_slots = if usable == 0 { NONE } else { 0 };
    }

    /// Grants the indirect pages, read-only and once, and lays the free lists out.
    fn lay_out_pool<B: Bus>(&mut self, bus: &B) {
        self.free_indirects = NONE;
        let wanted = self.link.as_ref().is_some_and(|link| usize::from(link.abilities.indirect) > blkif::MAX_SEGMENTS);
        let pages = if wanted { self.tables.indirects().len() } else { 0 };
        for index in 0..pages {
            // Half of the stock stays for buffers.
            if self.stock_used <= self.stock_size / 2 {
                break;
            }
            let (Some(frame), Some(reference)) = (self.pool.as_ref().and_then(|pool| pool.frame(index)), self.draw())
            else {
                break;
            };
            if bus.grant_access(reference, frame, true).is_err() {
                self.deposit(reference);
                break;
            }
            let free = self.free_indirects;
            if let Some(page) = self.tables.indirects().get_mut(index) {
                page.reference = reference;
                page.next = free;
                self.free_indirects = index as u16;
            }
        }
        self.bounces = 0;
        let lost = self.lost_groups;
        for group in (0..self.bounce_groups).filter(|group| lost & (1 << group) == 0) {
            self.put_bounce(group);
        }
    }

    /// Ends the indirect pages' grants.
    fn return_pool<B: Bus>(&mut self, bus: &B) {
        for index in 0..self.tables.indirects().len() {
            let Some(page) = self.tables.indirects().get_mut(index) else { return };
            let reference = core::mem::take(&mut page.reference);
            if reference == 0 {
                continue;
            }
            if bus.grant_end(reference).is_ok() {
                self.deposit(reference);
            } else {
                self.pool_leaks = true;
            }
        }
        self.free_indirects = NONE;
    }

    fn take_indirect(&mut self) -> u16 {
        let index = self.free_indirects;
        match self.tables.indirects().get(usize::from(index)) {
            Some(page) => {
                self.free_indirects = page.next;
                index
            }
            None => NONE,
        }
    }

    fn take_bounce(&mut self) -> Option<u16> {
        let top = self.bounces.checked_sub(1)?;
        let group = *self.free_bounces.get(usize::from(top))?;
        self.bounces = top;
        Some(group)
    }

    fn put_bounce(&mut self, group: u16) {
        if group == NONE {
            return;
        }
        if let Some(place) = self.free_bounces.get_mut(usize::from(self.bounces)) {
            *place = group;
            self.bounces += 1;
        }
    }
}

impl<R, M: Memory, T> Drop for Ring<R, M, T> {
    fn drop(&mut self) {
        // The peer may still use some of the pages; all of them, if nobody detached the ring.
        let attached = self.link.take();
        if (self.pool_leaks || attached.is_some())
            && let Some(pool) = self.pool.take()
        {
            pool.leak();
        }
        if let Some(link) = attached {
            link.ring.into_memory().leak();
        }
    }
}

/// See [`Ring::rearm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rearm {
    /// Tell the backend.
    pub notify: bool,
    /// Look for finished requests again.
    pub more: bool,
}
