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
//! Here: making, connecting, freezing and leaving a ring, and what the caller may ask of it. The rest by subject:
//! `issue.rs` (out), `answer.rs` (back), `books.rs` and `tables.rs` (what is kept about both).
//!
//! The ring knows no locks, threads, interrupts or time: the caller serializes calls, and a caller without interrupts
//! (a crash dump) calls [`Ring::take_finished`] in a loop.

use core::fmt;

use xen_abi::{
    blkif::{self, Blkif},
    ring::FrontRing,
};
use xenbus::{client::Bus, interface::LogLevel, pages::Memory};

use super::{
    config::{FlushBy, MAX_RING_PAGES},
    io::{Entry, Queue, Request},
};

mod answer;
mod books;
mod issue;
mod tables;

pub use tables::{FixedTables, HeapTables, Held, INDIRECT_SEGMENTS, Indirect, Slot, Tables};

/// No index.
pub const NONE: u16 = u16::MAX;
/// Bytes of a page.
pub const PAGE: u32 = 4096;
/// Bytes of a ring sector.
const SECTOR: u32 = 512;
/// Pages of a group of bounce pages, and so the most that a bounced part uses.
pub const BOUNCE_PAGES: usize = 8;

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
