//! A request as the ring sees it, and what the ring needs from its owner.

use super::ring::Tables;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Disk to buffer.
    Read,
    /// Buffer to disk.
    Write,
    /// Disk to nowhere.
    Verify,
    /// Put everything on stable storage.
    Flush,
    /// Discard the ranges that [`Request::discard`] names.
    Discard,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All of it was done.
    Done,
    /// The backend reported an error.
    Error,
    /// The backend does not know the operation.
    Unsupported,
    /// The device is gone, or its backend broke the protocol.
    Gone,
}

/// Where a request stands. It lives in memory that its owner has for each request (an SRB extension).
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties of a request")]
pub struct Io {
    /// What to do.
    pub kind: Kind,
    /// First sector of 512 bytes on the disk.
    pub sector: u64,
    /// Sectors; for a discard the number of ranges; unused for a flush.
    pub count: u32,
    /// A write that is done only when it is on stable storage.
    pub force: bool,
    /// Everything before it is done first, everything after it waits.
    pub ordered: bool,
    /// The buffer is not made of whole sectors in memory: copy through pages of our own.
    pub bounce: bool,
    pub(super) issued: u32,
    pub(super) flushing: bool,
    pub(super) status: Status,
}

impl Io {
    /// A new request.
    pub const fn new(kind: Kind, sector: u64, count: u32) -> Self {
        Self {
            kind,
            sector,
            count,
            force: false,
            ordered: false,
            bounce: false,
            issued: 0,
            flushing: false,
            status: Status::Done,
        }
    }

    /// Whether its data go through pages of our own.
    pub(super) fn bounces(&self) -> bool {
        !self.flushing && (self.bounce && self.kind != Kind::Flush || self.kind == Kind::Verify)
    }

    /// Whether nothing of it is left to hand out.
    pub(super) fn all_out(&self) -> bool {
        let whole = if self.flushing || self.kind == Kind::Flush { 1 } else { self.count };
        self.issued >= whole
    }

    /// Begins anew: what was handed out is forgotten. A forced write whose data are on the disk but not flushed is
    /// written again, because the cache that held it may be gone.
    pub(super) const fn rewind(&mut self) {
        self.issued = 0;
        self.flushing = false;
        self.status = Status::Done;
    }
}

/// Physically contiguous bytes of a request's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes that follow it; at least 1.
    pub bytes: u32,
}

/// A request: an owning handle. IRQL <= DISPATCH_LEVEL for all of it.
pub trait Request {
    /// Where it stands.
    fn io(&self) -> &Io;
    /// Where it stands.
    fn io_mut(&mut self) -> &mut Io;
    /// The run that begins at byte `offset` of the buffer; None behind its end. Mostly asked in rising order.
    fn run(&mut self, offset: u32) -> Option<Run>;
    /// `len` bytes of the buffer from `offset` on, of a request with [`Io::bounce`].
    fn bytes(&mut self, offset: u32, len: u32) -> Option<&mut [u8]>;
    /// Range `index` of a discard: first sector and sectors, inside the disk.
    fn discard(&self, index: u32) -> Option<(u64, u64)>;
}

/// An entry of the table of requests that the ring holds.
pub struct Entry<R> {
    pub(super) request: Option<R>,
    /// Parts that are with the backend.
    pub(super) outstanding: u16,
    /// Grants of its buffer that the peer did not let go of.
    pub(super) held: u16,
    /// In the queue of requests with parts to hand out.
    pub(super) queued: bool,
    /// The next one in the queue, or in the free list.
    pub(super) next: u16,
    /// To be issued again, to the next backend.
    pub(super) redo: bool,
    /// Order of arrival.
    pub(super) arrival: u64,
}

impl<R> Entry<R> {
    /// An empty entry.
    pub const fn new() -> Self {
        Self { request: None, outstanding: 0, held: 0, queued: false, next: super::ring::NONE, redo: false, arrival: 0 }
    }

    /// Whether its request was carried out, or failed, as far as answers say: nothing of it has to be issued any more.
    pub(super) fn is_complete(&self) -> bool
    where
        R: Request,
    {
        let io = self.request.as_ref().map(Request::io);
        io.is_some_and(|io| io.status != Status::Done || (io.all_out() && (io.flushing || !io.force)))
    }
}

impl<R> Default for Entry<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// A queue of entries, linked through [`Entry::next`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    head: u16,
    tail: u16,
}

impl Queue {
    pub(super) const EMPTY: Self = Self { head: super::ring::NONE, tail: super::ring::NONE };

    pub(super) const fn head(self) -> Option<u16> {
        if self.head == super::ring::NONE { None } else { Some(self.head) }
    }

    pub(super) fn push<R, T: Tables<R>>(&mut self, tables: &mut T, index: u16) {
        if let Some(entry) = tables.entries().get_mut(usize::from(index)) {
            entry.next = super::ring::NONE;
            entry.queued = true;
        }
        match tables.entries().get_mut(usize::from(self.tail)) {
            Some(tail) => tail.next = index,
            None => self.head = index,
        }
        self.tail = index;
    }

    pub(super) fn push_front<R, T: Tables<R>>(&mut self, tables: &mut T, index: u16) {
        if let Some(entry) = tables.entries().get_mut(usize::from(index)) {
            entry.next = self.head;
            entry.queued = true;
        }
        if self.head == super::ring::NONE {
            self.tail = index;
        }
        self.head = index;
    }

    pub(super) fn pop<R, T: Tables<R>>(&mut self, tables: &mut T) -> Option<u16> {
        let index = self.head()?;
        let entry = tables.entries().get_mut(usize::from(index))?;
        entry.queued = false;
        self.head = entry.next;
        if self.head == super::ring::NONE {
            self.tail = super::ring::NONE;
        }
        Some(index)
    }
}
