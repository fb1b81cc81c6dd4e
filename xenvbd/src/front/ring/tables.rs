//! Where the ring keeps its books: slots, indirect pages, what the peer did not let go of.

use alloc::vec::Vec;

use xen_abi::blkif;

use super::NONE;
use crate::front::io::Entry;

/// Most segments of one indirect request that are used: 1 MiB, and half a page of descriptors.
pub const INDIRECT_SEGMENTS: usize = 256;

/// A slot's bookkeeping.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub(super) busy: bool,
    pub(super) operation: u8,
    pub(super) entry: u16,
    pub(super) indirect: u16,
    pub(super) bounce: u16,
    pub(super) next: u16,
    pub(super) refs: u16,
    pub(super) sequence: u32,
    /// First sector of the part in the request, and how many.
    pub(super) offset: u32,
    pub(super) sectors: u32,
    pub(super) direct: [u32; blkif::MAX_SEGMENTS],
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
    pub(super) reference: u32,
    pub(super) next: u16,
    pub(super) refs: [u32; INDIRECT_SEGMENTS],
}

impl Indirect {
    /// Not set up.
    pub const EMPTY: Self = Self { reference: 0, next: NONE, refs: [0; INDIRECT_SEGMENTS] };
}

/// A buffer page that the peer did not let go of.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub(super) reference: u32,
    pub(super) entry: u16,
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
