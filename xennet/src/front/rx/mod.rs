//! A receive queue: a pool of pages, empty ones to the backend, packets in them back.
//!
//! - A page's grant is ended, and that is checked, before anyone looks at what is in it. From then on it is ours alone.
//! - A response is copied out. It must have the id of the request in its place, flags that were offered, and data inside
//!   of the page; an extra must be of a kind that a received packet has, and each kind comes once. Anything else breaks
//!   the queue: nothing is looked at any more. What contradicts itself in a packet's own headers is dropped and counted.
//! - A page that the peer keeps is used no more until it lets go, and the queue is broken.
//! - Pages that were handed out are scrubbed, where they were used, before the backend gets them again.
//!
//! Nothing is allocated after [`Queue::new`]. The queue knows no locks, threads, interrupts or time: the caller
//! serializes calls. IRQL <= DISPATCH_LEVEL for all but [`Queue::new`].

mod packet;

use alloc::vec::Vec;
use core::fmt;

use xen_abi::{
    netif::{Rx, RxRequest},
    ring::{FrontRing, RingError},
};
use xenbus::{
    client::Bus,
    interface::LogLevel,
    pages::{Memory, give_references},
};

use super::{
    NONE, PAGE, Progress, SetupError,
    checksum::{self, Sum},
    filled,
    headers::MOST,
};
use packet::Partial;
pub use packet::{Checksum, Fragment, Gso, Received};

/// Slots of a ring of one page.
const SLOTS: usize = 256;
/// Empty pages that are given to the backend together, while it has a good many.
const REFILL: usize = 16;
/// Most fragments of a packet; Linux's netfront takes no more either.
pub const FRAGMENTS: usize = xen_abi::netif::SLOTS_PER_PACKET + 1;
/// Fewest references that a connection can do with: a packet of the largest size at a time.
const LEAST_REFERENCES: usize = FRAGMENTS + 4;

/// What a queue did, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets received.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Packets that the backend could not put into their pages.
    pub errors: u64,
    /// Packets that contradict themselves or were too long.
    pub malformed: u64,
}

/// Where a page of the pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    /// With the backend, or in a packet that is not complete.
    Ours,
    /// With the owner of a packet, which used this much of it.
    Out {
        offset: u16,
        len: u16,
    },
    /// Kept by a backend.
    Kept,
}

/// A page of the pool.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    frame: u64,
    place: Place,
}

/// A request that is with the backend.
#[derive(Clone, Copy, Debug)]
struct Posted {
    buffer: u16,
    id: u16,
    reference: u32,
}

/// A page that a backend did not let go of.
#[derive(Clone, Copy, Debug)]
struct Kept {
    buffer: u16,
    reference: u32,
}

/// A connection.
struct Link<M: Memory> {
    ring: FrontRing<Rx, M>,
    ring_ref: u32,
    running: bool,
}

/// A receive queue. See the module.
pub struct Queue<M: Memory> {
    pool: Option<M>,
    buffers: Vec<Buffer>,
    free: Vec<u16>,
    posted: Vec<Posted>,
    stock: Vec<u32>,
    kept: Vec<Kept>,
    link: Option<Link<M>>,
    /// Requests pushed and responses taken, of this connection.
    pushed: u32,
    taken: u32,
    /// Added to the ids' upper half, so that no two connections begin alike.
    generation: u8,
    partial: Partial,
    /// The first bytes of the packet that came last, and how many.
    head: [u8; MOST],
    head_len: usize,
    counters: Counters,
    broken: bool,
}

impl<M: Memory> Queue<M> {
    /// A queue that is not connected, with the pages of `pool`. None: no memory, or pages without frames.
    /// PASSIVE_LEVEL.
    pub fn new(pool: M) -> Option<Self> {
        let count = (pool.size() / PAGE).min(usize::from(NONE));
        let mut buffers = Vec::new();
        buffers.try_reserve_exact(count).ok()?;
        for page in 0..count {
            buffers.push(Buffer { frame: pool.frame(page)?, place: Place::Free });
        }
        let mut queue = Self {
            pool: Some(pool),
            buffers,
            free: filled(count, |index| (count - 1 - index) as u16)?,
            posted: filled(SLOTS, |_| Posted { buffer: NONE, id: 0, reference: 0 })?,
            stock: Vec::new(),
            kept: Vec::new(),
            link: None,
            pushed: 0,
            taken: 0,
            generation: 0,
            partial: Partial::NONE,
            head: [0; MOST],
            head_len: 0,
            counters: Counters::default(),
            broken: false,
        };
        queue.stock.try_reserve_exact(SLOTS).ok()?;
        queue.kept.try_reserve_exact(count).ok()?;
        Some(queue)
    }

    /// Grant references that a connection makes use of.
    pub const fn references_wanted(&self) -> usize {
        1 + SLOTS
    }

    /// Makes the shared ring in `ring` (one page) and grants it to the backend, with as many empty pages as there are.
    ///
    /// `references` come from [`xenbus::pages::take_references`]; as many as [`Queue::references_wanted`] says are kept,
    /// the others given back.
    ///
    /// # Errors
    /// [`SetupError`]; memory and references are freed, nothing is granted.
    pub fn attach<B: Bus>(&mut self, bus: &B, ring: M, references: &[u32]) -> Result<(), SetupError> {
        self.retry_kept(bus);
        let (mine, surplus) = references.split_at(references.len().min(self.references_wanted()));
        give_references(bus, surplus);
        let made = match mine.split_first() {
            Some((ring_ref, stock)) if stock.len() >= LEAST_REFERENCES => Self::share(bus, ring, *ring_ref),
            _ => Err(SetupError::NoGrants),
        };
        match made {
            Ok(link) => {
                self.link = Some(link);
                self.stock.clear();
                self.stock.extend_from_slice(mine.get(1..).unwrap_or(&[]));
                (self.pushed, self.taken) = (0, 0);
                self.generation = self.generation.wrapping_add(1);
                self.broken = false;
                // Published with the ring: the backend finds pages when it connects. Nobody listens yet.
                self.refill(bus);
                Ok(())
            }
            Err(error) => {
                give_references(bus, mine);
                Err(error)
            }
        }
    }

    fn share<B: Bus>(bus: &B, ring: M, reference: u32) -> Result<Link<M>, SetupError> {
        if ring.size() != PAGE {
            return Err(SetupError::Memory);
        }
        let frame = ring.frame(0).ok_or(SetupError::Memory)?;
        bus.grant_access(reference, frame, false).map_err(|_| SetupError::NoGrants)?;
        let ring = FrontRing::new(ring).map_err(|_| SetupError::Memory)?;
        Ok(Link { ring, ring_ref: reference, running: false })
    }

    /// Reference of the ring's page, for the store. None: not attached.
    pub fn ring_ref(&self) -> Option<u32> {
        self.link.as_ref().map(|link| link.ring_ref)
    }

    /// The backend is connected.
    pub fn start<B: Bus>(&mut self, bus: &B) -> Progress {
        if let Some(link) = &mut self.link {
            link.running = true;
        }
        let progress = self.rearm(bus);
        // It looked at the ring before it listened, if at all.
        Progress { notify: self.link.is_some(), ..progress }
    }

    /// Takes nothing and gives nothing until [`Queue::thaw`] or [`Queue::detach`].
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

    /// Lets go of the backend. What it has sent and was not taken is lost; packets that were handed out stay so.
    pub fn detach<B: Bus>(&mut self, bus: &B) {
        let Some(link) = self.link.take() else { return };
        self.drop_partial();
        while self.taken != self.pushed {
            let slot = self.taken as usize % SLOTS;
            self.taken = self.taken.wrapping_add(1);
            if let Some(posted) = self.posted.get(slot).copied()
                && self.end(bus, posted)
            {
                self.release(posted.buffer);
            }
        }
        if give_references(bus, &[link.ring_ref]) {
            bus.log(LogLevel::Warning, format_args!("the backend keeps a receive ring: its page is given up"));
            link.ring.into_memory().leak();
        }
        bus.log(LogLevel::Debug, format_args!("receive: {:?}", self.counters));
        bus.grant_free(&self.stock);
        self.stock.clear();
        self.broken = false;
        if !self.kept.is_empty() {
            let pages = self.kept.len();
            bus.log(LogLevel::Warning, format_args!("the backend keeps {pages} receive pages until it lets go"));
        }
    }

    /// The next packet; at most `budget` responses are taken. None: no complete one; call [`Queue::rearm`] before
    /// waiting for an event.
    pub fn poll<B: Bus>(&mut self, bus: &B, budget: &mut u32) -> Option<Received> {
        while *budget > 0 && !self.broken {
            let link = self.link.as_mut().filter(|link| link.running)?;
            let raw = match link.ring.take() {
                Ok(Some(raw)) => raw,
                Ok(None) => return None,
                Err(error) => {
                    self.break_ring(bus, error);
                    return None;
                }
            };
            *budget -= 1;
            let slot = self.taken as usize % SLOTS;
            self.taken = self.taken.wrapping_add(1);
            let posted = self.posted.get(slot).copied()?;
            if !self.end(bus, posted) {
                self.distrust(bus, format_args!("grant {} of a filled page is still used", posted.reference));
                return None;
            }
            self.stock.push(posted.reference);
            if let Err(why) = self.assemble(posted, raw) {
                // Its page, and those of the packet that it belongs to, are ours again.
                self.release(posted.buffer);
                self.drop_partial();
                self.distrust(bus, format_args!("{why}"));
                return None;
            }
            if self.partial.is_complete()
                && let Some(packet) = self.finish()
            {
                return Some(packet);
            }
        }
        None
    }

    /// After [`Queue::poll`] had nothing: gives the backend empty pages and asks for an event with the next response.
    pub fn rearm<B: Bus>(&mut self, bus: &B) -> Progress {
        let notify = self.refill(bus);
        if self.broken {
            return Progress { notify, more: false };
        }
        let more = match self.link.as_mut().filter(|link| link.running).map(|link| link.ring.final_check()) {
            Some(Ok(more)) => more,
            Some(Err(error)) => {
                self.break_ring(bus, error);
                false
            }
            None => false,
        };
        Progress { notify, more }
    }

    /// Gives the backend empty pages, after some came back: once there are enough of them, or it has few. True: notify
    /// it. What is left to give goes with the next [`Queue::rearm`].
    #[inline]
    #[must_use = "the backend may sleep until it is told"]
    pub fn replenish<B: Bus>(&mut self, bus: &B) -> bool {
        let Some(link) = self.link.as_ref().filter(|link| link.running) else { return false };
        let room = link.ring.free() as usize;
        (room >= SLOTS / 2 || room >= REFILL && self.free.len() >= REFILL) && self.refill(bus)
    }

    /// The owner of a packet has done with a page of it. Others are ignored.
    pub fn give_back(&mut self, buffer: u16) {
        let Some(Place::Out { offset, len }) = self.buffers.get(usize::from(buffer)).map(|buffer| buffer.place) else {
            return;
        };
        if let Some(pool) = &self.pool {
            pool.scrub(usize::from(buffer) * PAGE + usize::from(offset), usize::from(len));
        }
        self.release(buffer);
    }

    /// The first bytes of the packet that [`Queue::poll`] gave last, from its first fragment: with all headers that were
    /// found, or as many as Ethernet has, where the fragment has them.
    pub fn head(&self) -> &[u8] {
        self.head.get(..self.head_len).unwrap_or(&[])
    }

    /// Copies from a page that was handed out. False: outside of what the backend filled.
    pub fn read(&self, buffer: u16, offset: usize, out: &mut [u8]) -> bool {
        let right = self.is_out(buffer, offset, out.len());
        if let Some(pool) = self.pool.as_ref().filter(|_| right) {
            pool.read(usize::from(buffer) * PAGE + offset, out);
        }
        right
    }

    /// Writes to a page that was handed out. False: outside of what the backend filled.
    pub fn write(&self, buffer: u16, offset: usize, data: &[u8]) -> bool {
        let right = self.is_out(buffer, offset, data.len());
        if let Some(pool) = self.pool.as_ref().filter(|_| right) {
            pool.write(usize::from(buffer) * PAGE + offset, data);
        }
        right
    }

    /// Fills the checksum of a packet with [`Checksum::Blank`] in, for receivers that look at it. False: it has none.
    pub fn fill_checksum(&self, packet: &Received) -> bool {
        let (Some(headers), Some(first)) = (packet.headers, packet.fragments().first()) else { return false };
        let mut bytes = [0; MOST];
        let Some(head) = bytes.get_mut(..usize::from(headers.len)) else { return false };
        if !self.read(first.buffer, usize::from(first.offset), head) || !headers.fits(packet.len) {
            return false;
        }
        let upper = u32::from(headers.network) + headers.ip_len - u32::from(headers.transport);
        let mut left = (u32::from(headers.transport) + upper - u32::from(headers.len)) as usize;
        let mut skip = usize::from(headers.len);
        let filled = checksum::fill(head, &headers, upper, |sum| {
            for fragment in packet.fragments() {
                let here = (usize::from(fragment.len) - skip).min(left);
                if !self.sum(fragment.buffer, usize::from(fragment.offset) + skip, here, sum) {
                    return false;
                }
                skip = 0;
                left -= here;
            }
            left == 0
        });
        filled && self.write(first.buffer, usize::from(first.offset), head)
    }

    /// Pages that could be given to the backend, or are with it.
    pub fn available(&self) -> usize {
        self.free.len() + self.pushed.wrapping_sub(self.taken) as usize
    }

    /// Whether the backend broke the protocol, or keeps a page that it has no right to any more, and the connection is
    /// still to be closed.
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// What the queue did.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The owner found the backend at fault: as if it had broken the protocol. `why` goes into the log.
    #[cold]
    pub fn distrust<B: Bus>(&mut self, bus: &B, why: fmt::Arguments<'_>) {
        if !self.broken && self.link.is_some() {
            bus.log(LogLevel::Error, format_args!("receive: {why}: the backend is not believed any more"));
            self.broken = true;
        }
    }

    #[cold]
    fn break_ring<B: Bus>(&mut self, bus: &B, error: RingError) {
        let (index, taken, asked) = self.link.as_ref().map_or((0, 0, 0), |link| link.ring.refused());
        self.distrust(bus, format_args!("{error}: rsp_prod {index:#x}, not within {taken:#x}..={asked:#x}"));
    }

    /// Whether these bytes of a page are with a packet's owner.
    fn is_out(&self, buffer: u16, offset: usize, len: usize) -> bool {
        match self.buffers.get(usize::from(buffer)).map(|buffer| buffer.place) {
            Some(Place::Out { offset: from, len: most }) => {
                offset >= usize::from(from) && offset + len <= usize::from(from) + usize::from(most)
            }
            _ => false,
        }
    }

    fn sum(&self, buffer: u16, offset: usize, count: usize, sum: &mut Sum) -> bool {
        let mut piece = [0; 256];
        let mut done = 0;
        while done < count {
            let here = (count - done).min(piece.len());
            let Some(bytes) = piece.get_mut(..here) else { return false };
            if !self.read(buffer, offset + done, bytes) {
                return false;
            }
            sum.add(bytes);
            done += here;
        }
        true
    }

    /// Ends a page's grant. False: the peer keeps it.
    #[inline]
    fn end<B: Bus>(&mut self, bus: &B, posted: Posted) -> bool {
        let Posted { buffer, reference, .. } = posted;
        let ended = bus.grant_end(reference).is_ok();
        if !ended {
            self.set_place(buffer, Place::Kept);
            self.kept.push(Kept { buffer, reference });
        } else if self.link.is_none() {
            bus.grant_free(&[reference]);
        }
        ended
    }

    /// Looks whether backends let go of pages meanwhile.
    fn retry_kept<B: Bus>(&mut self, bus: &B) {
        let mut index = 0;
        while let Some(kept) = self.kept.get(index).copied() {
            if bus.grant_end(kept.reference).is_err() {
                index += 1;
                continue;
            }
            bus.grant_free(&[kept.reference]);
            self.kept.swap_remove(index);
            self.release(kept.buffer);
        }
    }

    fn set_place(&mut self, buffer: u16, place: Place) {
        if let Some(buffer) = self.buffers.get_mut(usize::from(buffer)) {
            buffer.place = place;
        }
    }

    /// A page is free again. There is room for each of them once.
    fn release(&mut self, buffer: u16) {
        self.set_place(buffer, Place::Free);
        self.free.push(buffer);
    }

    /// Gives up what came of a packet.
    fn drop_partial(&mut self) {
        let Self { partial, buffers, free, .. } = self;
        for fragment in partial.fragments() {
            if let Some(buffer) = buffers.get_mut(usize::from(fragment.buffer)) {
                buffer.place = Place::Free;
            }
            free.push(fragment.buffer);
        }
        partial.reset();
    }

    /// Posts empty pages. True: notify the backend.
    fn refill<B: Bus>(&mut self, bus: &B) -> bool {
        if self.broken {
            return false;
        }
        let Some(link) = &mut self.link else { return false };
        while link.ring.free() > 0
            && let Some(reference) = self.stock.last().copied()
            && let Some(buffer) = self.free.last().copied()
        {
            let Some(frame) = self.buffers.get(usize::from(buffer)).map(|buffer| buffer.frame) else { break };
            if bus.grant_access(reference, frame, false).is_err() {
                break;
            }
            let slot = self.pushed as usize % SLOTS;
            let generation = ((self.pushed >> 8) as u8).wrapping_add(self.generation);
            let id = u16::from(generation) << 8 | slot as u16;
            if link.ring.push(&RxRequest { id, pad: 0, gref: reference }).is_err() {
                break;
            }
            self.stock.pop();
            self.free.pop();
            if let Some(buffer) = self.buffers.get_mut(usize::from(buffer)) {
                buffer.place = Place::Ours;
            }
            if let Some(posted) = self.posted.get_mut(slot) {
                *posted = Posted { buffer, id, reference };
            }
            self.pushed = self.pushed.wrapping_add(1);
        }
        link.ring.publish()
    }
}

impl<M: Memory> Drop for Queue<M> {
    fn drop(&mut self) {
        // The peer may still write to some of the pages; to all that were posted, if nobody detached the queue.
        let link = self.link.take();
        if (link.is_some() || !self.kept.is_empty())
            && let Some(pool) = self.pool.take()
        {
            pool.leak();
        }
        if let Some(link) = link {
            link.ring.into_memory().leak();
        }
    }
}
