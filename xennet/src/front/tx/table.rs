//! The books of a transmit queue: packets, slots, and lists of them.

use alloc::vec::Vec;

use crate::front::{NONE, filled};

/// How a packet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The backend took it.
    Sent,
    /// The backend dropped it or found something wrong with it.
    Dropped,
    /// It contradicts itself, or asks for what cannot be done with it.
    Malformed,
    /// Its memory cannot be reached now.
    Resources,
    /// The device is gone.
    Gone,
}

/// Owner of a slot that carries a frame of our own.
pub(super) const OWN: u16 = NONE - 1;
/// Owner of a slot that carries a change of the multicast filter.
pub(super) const FILTER: u16 = NONE - 2;
/// Most packets of a queue.
pub(super) const MOST_ENTRIES: usize = FILTER as usize;

/// A request's bookkeeping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub busy: bool,
    /// Tells its uses apart; upper half of the id.
    pub sequence: u8,
    /// The packet's entry, [`OWN`] or [`FILTER`].
    pub entry: u16,
    /// The grant that ends with the answer; 0: a page of the pool, whose grant stays.
    pub reference: u32,
    /// The page of the pool that is free with the answer.
    pub bounce: u16,
    /// The next free slot.
    pub next: u16,
}

impl Slot {
    pub const FREE: Self = Self { busy: false, sequence: 0, entry: NONE, reference: 0, bounce: NONE, next: NONE };
}

/// Every slot of a ring, and which are free.
pub(super) struct Slots {
    list: Vec<Slot>,
    first_free: u16,
    free: usize,
}

impl Slots {
    /// None free yet. None: no memory.
    pub fn new(count: usize) -> Option<Self> {
        Some(Self { list: filled(count, |_| Slot::FREE)?, first_free: NONE, free: 0 })
    }

    /// All free. Sequence numbers go on: a response to an earlier ring is not mistaken for one of the next.
    pub fn lay_out(&mut self) {
        let count = self.list.len();
        for (index, slot) in self.list.iter_mut().enumerate() {
            let next = if index + 1 < count { index as u16 + 1 } else { NONE };
            *slot = Slot { sequence: slot.sequence, next, ..Slot::FREE };
        }
        self.first_free = 0;
        self.free = count;
    }

    /// How many are free.
    pub const fn free(&self) -> usize {
        self.free
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// One that is taken.
    pub fn busy(&self, index: u16) -> Option<&Slot> {
        self.list.get(usize::from(index)).filter(|slot| slot.busy)
    }

    /// Takes one for a request of `entry`'s, with a page of the packet's by this reference (0: one of the pool): its
    /// number and the request's id.
    #[inline]
    pub fn take(&mut self, entry: u16, reference: u32) -> Option<(u16, u16)> {
        let index = self.first_free;
        let slot = self.list.get_mut(usize::from(index))?;
        self.first_free = slot.next;
        self.free -= 1;
        *slot = Slot { busy: true, sequence: slot.sequence.wrapping_add(1), entry, reference, ..Slot::FREE };
        Some((index, u16::from(slot.sequence) << 8 | index))
    }

    /// Its request has a page of the pool.
    pub fn bounce(&mut self, index: u16, page: u16) {
        if let Some(slot) = self.list.get_mut(usize::from(index)) {
            slot.bounce = page;
        }
    }

    /// Frees one that is taken: what it was.
    pub fn release(&mut self, index: u16) -> Option<Slot> {
        let id = u16::from(self.busy(index)?.sequence) << 8 | index;
        self.answered(id)
    }

    /// Frees the one whose request has this id: what it was. None: no such request is out.
    #[inline]
    pub fn answered(&mut self, id: u16) -> Option<Slot> {
        let index = id & 0xff;
        let slot = self.list.get_mut(usize::from(index))?;
        if !slot.busy || id >> 8 != u16::from(slot.sequence) {
            return None;
        }
        let was = *slot;
        slot.busy = false;
        slot.next = self.first_free;
        self.first_free = index;
        self.free += 1;
        Some(was)
    }
}

/// A page of a packet that the peer did not let go of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub reference: u32,
    pub entry: u16,
}

/// A packet of the queue.
pub(super) struct Entry<P> {
    pub packet: Option<P>,
    /// Requests that are with the backend.
    pub outstanding: u16,
    /// Grants of its pages that the peer did not let go of.
    pub held: u16,
    /// Waits to be handed out, wholly or in part.
    pub queued: bool,
    /// To be sent again, by the next connection.
    pub redo: bool,
    /// The next one in a list.
    pub next: u16,
    /// Bytes of payload that were handed out in segments of our own making.
    pub issued: u32,
    /// Order of arrival.
    pub arrival: u64,
    pub status: Status,
}

impl<P> Entry<P> {
    pub const fn new() -> Self {
        Self {
            packet: None,
            outstanding: 0,
            held: 0,
            queued: false,
            redo: false,
            next: NONE,
            issued: 0,
            arrival: 0,
            status: Status::Sent,
        }
    }
}

/// A list of entries, in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u16,
    tail: u16,
}

impl List {
    pub const EMPTY: Self = Self { head: NONE, tail: NONE };

    pub const fn head(self) -> Option<u16> {
        if self.head == NONE { None } else { Some(self.head) }
    }

    pub fn push<P>(&mut self, entries: &mut [Entry<P>], index: u16) {
        if let Some(entry) = entries.get_mut(usize::from(index)) {
            entry.next = NONE;
            entry.queued = true;
        }
        match entries.get_mut(usize::from(self.tail)) {
            Some(tail) => tail.next = index,
            None => self.head = index,
        }
        self.tail = index;
    }

    pub fn pop<P>(&mut self, entries: &mut [Entry<P>]) -> Option<u16> {
        let index = self.head()?;
        let entry = entries.get_mut(usize::from(index))?;
        entry.queued = false;
        self.head = entry.next;
        if self.head == NONE {
            self.tail = NONE;
        }
        Some(index)
    }

    /// Takes the first entry out for which `which` holds.
    pub fn remove<P>(&mut self, entries: &mut [Entry<P>], mut which: impl FnMut(&Entry<P>) -> bool) -> Option<u16> {
        let (mut before, mut at) = (NONE, self.head);
        loop {
            let entry = entries.get_mut(usize::from(at))?;
            let next = entry.next;
            if which(entry) {
                entry.queued = false;
                match entries.get_mut(usize::from(before)) {
                    Some(before) => before.next = next,
                    None => self.head = next,
                }
                if next == NONE {
                    self.tail = before;
                }
                return Some(at);
            }
            before = at;
            at = next;
        }
    }
}
