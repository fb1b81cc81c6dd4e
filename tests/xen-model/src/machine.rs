//! The seam between the model and the machine it stands in: frames, the physical map, interrupts.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a frame.
pub const PAGE_SIZE: usize = 4096;

/// A machine frame number: names a frame of the host, as `alloc_frame` gave it.
pub type Mfn = u64;
/// A guest frame number: a page of the guest's physical address space.
pub type Gfn = u64;

/// What the model needs from the machine.
///
/// The model calls it while the bench holds the model, often in the middle of a hypercall. An implementation must not
/// call back into the model and must not run guest code: `raise_vector` and `set_intx` only note what is pending.
///
/// # Safety
/// `frame` must return a pointer to 4096 readable and writable bytes, aligned to 4096, that stays valid until
/// `free_frame` was called for that frame, whatever the guest's own mappings do. The bytes belong to guest and model
/// alike: nobody may hold a Rust reference to them.
pub unsafe trait Machine: Send {
    /// The always-mapped alias of a frame.
    fn frame(&self, mfn: Mfn) -> *mut u8;
    /// Takes a zeroed frame. `None`: the machine has no memory left.
    fn alloc_frame(&mut self) -> Option<Mfn>;
    /// Gives a frame back. The model calls it when nothing maps the frame any more.
    fn free_frame(&mut self, mfn: Mfn);
    /// Says what the guest sees at `gfn` from now on. `None`: nothing; the guest's accesses fault.
    fn set_p2m(&mut self, gfn: Gfn, mfn: Option<Mfn>);
    /// What is at `gfn`: RAM, or a frame that the model put there. The guest may name any number.
    fn mfn_of(&self, gfn: Gfn) -> Option<Mfn>;
    /// Translates a guest virtual address by the page tables that the guest uses now: frame and offset in it.
    fn va_to_frame(&self, va: u64) -> Option<(Mfn, usize)>;
    /// Makes an edge interrupt pending in the local APIC of a virtual CPU (`vlapic_set_irq`).
    fn raise_vector(&mut self, vcpu: u32, vector: u8);
    /// Sets the level of an interrupt line of the IOAPIC.
    fn set_intx(&mut self, gsi: u32, level: bool);
}

/// Typed access to the frames of a machine. Every access is atomic or a plain byte copy: guest and model share frames.
#[derive(Clone, Copy)]
pub(crate) struct Mem<'a>(pub(crate) &'a dyn Machine);

macro_rules! atomic_access {
    ($read:ident, $write:ident, $cell:ident, $atomic:ty, $value:ty) => {
        fn $cell(&self, mfn: Mfn, offset: usize) -> &'a $atomic {
            assert!(offset.is_multiple_of(size_of::<$value>()) && offset + size_of::<$value>() <= PAGE_SIZE);
            // SAFETY: the trait promises 4096 valid, page-aligned bytes; the assertion keeps the cell inside and
            // aligned. Atomics may be shared with the guest.
            unsafe { &*self.0.frame(mfn).add(offset).cast::<$atomic>() }
        }
        /// Reads one value (acquire).
        pub(crate) fn $read(&self, mfn: Mfn, offset: usize) -> $value {
            self.$cell(mfn, offset).load(Ordering::Acquire)
        }
        /// Writes one value (release).
        pub(crate) fn $write(&self, mfn: Mfn, offset: usize, value: $value) {
            self.$cell(mfn, offset).store(value, Ordering::Release);
        }
    };
}

impl<'a> Mem<'a> {
    atomic_access!(read_u8, write_u8, cell_u8, AtomicU8, u8);
    atomic_access!(read_u32, write_u32, cell_u32, AtomicU32, u32);
    atomic_access!(read_u64, write_u64, cell_u64, AtomicU64, u64);

    /// Sets a bit of a little-endian bit map of 64-bit words; returns what it was.
    pub(crate) fn test_and_set(&self, mfn: Mfn, offset: usize, bit: u32) -> bool {
        let mask = 1u64 << (bit % 64);
        self.cell_u64(mfn, offset + bit as usize / 64 * 8).fetch_or(mask, Ordering::AcqRel) & mask != 0
    }

    /// Clears a bit of a bit map; returns what it was.
    pub(crate) fn test_and_clear(&self, mfn: Mfn, offset: usize, bit: u32) -> bool {
        let mask = 1u64 << (bit % 64);
        self.cell_u64(mfn, offset + bit as usize / 64 * 8).fetch_and(!mask, Ordering::AcqRel) & mask != 0
    }

    /// Reads a bit of a bit map.
    pub(crate) fn test(&self, mfn: Mfn, offset: usize, bit: u32) -> bool {
        self.read_u64(mfn, offset + bit as usize / 64 * 8) & (1 << (bit % 64)) != 0
    }

    /// Sets bits of a 32-bit word; returns the word as it was.
    pub(crate) fn or_u32(&self, mfn: Mfn, offset: usize, bits: u32) -> u32 {
        self.cell_u32(mfn, offset).fetch_or(bits, Ordering::AcqRel)
    }

    /// Clears bits of a 32-bit word; returns the word as it was.
    pub(crate) fn clear_u32(&self, mfn: Mfn, offset: usize, bits: u32) -> u32 {
        self.cell_u32(mfn, offset).fetch_and(!bits, Ordering::AcqRel)
    }

    /// Compares and exchanges a 32-bit word.
    pub(crate) fn cas_u32(&self, mfn: Mfn, offset: usize, old: u32, new: u32) -> Result<u32, u32> {
        self.cell_u32(mfn, offset).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }

    /// Writes an 8-bit cell; returns what it was.
    pub(crate) fn swap_u8(&self, mfn: Mfn, offset: usize, value: u8) -> u8 {
        self.cell_u8(mfn, offset).swap(value, Ordering::AcqRel)
    }

    /// Clears bits of a 16-bit word; returns the word as it was.
    pub(crate) fn clear_u16(&self, mfn: Mfn, offset: usize, bits: u16) -> u16 {
        assert!(offset.is_multiple_of(2) && offset + 2 <= PAGE_SIZE);
        // SAFETY: as in `atomic_access`.
        let cell = unsafe { &*self.0.frame(mfn).add(offset).cast::<AtomicU16>() };
        cell.fetch_and(!bits, Ordering::AcqRel)
    }

    /// Copies bytes out of a frame.
    pub(crate) fn read(&self, mfn: Mfn, offset: usize, buf: &mut [u8]) {
        assert!(offset + buf.len() <= PAGE_SIZE);
        // SAFETY: in bounds of the frame (asserted). The guest may write at the same time, as it may under a real
        // hypervisor; the bytes are checked as data afterwards and no reference to them is made.
        unsafe { std::ptr::copy_nonoverlapping(self.0.frame(mfn).add(offset), buf.as_mut_ptr(), buf.len()) }
    }

    /// Copies bytes into a frame.
    pub(crate) fn write(&self, mfn: Mfn, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= PAGE_SIZE);
        // SAFETY: in bounds of the frame (asserted); no reference to the frame's bytes exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.frame(mfn).add(offset), bytes.len()) }
    }

    /// Copies from guest virtual memory, page by page. `None`: `-EFAULT`.
    pub(crate) fn copy_from_guest(&self, mut va: u64, mut buf: &mut [u8]) -> Option<()> {
        while !buf.is_empty() {
            let (mfn, offset) = self.0.va_to_frame(va)?;
            let n = buf.len().min(PAGE_SIZE - offset);
            let (head, tail) = buf.split_at_mut(n);
            self.read(mfn, offset, head);
            buf = tail;
            va = va.checked_add(n as u64)?;
        }
        Some(())
    }

    /// Copies to guest virtual memory, page by page. `None`: `-EFAULT`; pages before the bad one are written.
    pub(crate) fn copy_to_guest(&self, mut va: u64, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let (mfn, offset) = self.0.va_to_frame(va)?;
            let n = bytes.len().min(PAGE_SIZE - offset);
            self.write(mfn, offset, &bytes[..n]);
            bytes = &bytes[n..];
            va = va.checked_add(n as u64)?;
        }
        Some(())
    }
}

/// A page of host memory, aligned as a frame is.
#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; PAGE_SIZE]>);

/// What a [`TestMachine`] was told about interrupts.
#[derive(Clone, Debug, Default)]
pub struct TestInterrupts {
    /// `(vcpu, vector)` in order.
    pub vectors: Vec<(u32, u8)>,
    /// `(gsi, level)` in order.
    pub lines: Vec<(u32, bool)>,
}

#[derive(Default)]
struct TestState {
    frames: HashMap<Mfn, Box<Page>>,
    p2m: HashMap<Gfn, Mfn>,
    next: Mfn,
    interrupts: TestInterrupts,
}

// SAFETY: pages are boxed and freed by `free_frame` alone; the bytes are in an UnsafeCell to which no reference is ever
// made, so pages move between threads only as raw memory.
unsafe impl Send for TestState {}

/// A machine of plain host memory, for tests without a bench: guest virtual addresses equal guest physical ones, and
/// interrupts are written down. Clones share one machine: the model gets one, the test's tiny guest keeps another.
#[derive(Clone, Default)]
pub struct TestMachine(Arc<Mutex<TestState>>);

impl TestMachine {
    /// A machine with `pages` pages of RAM from guest frame 0 on.
    pub fn new(pages: u64) -> Self {
        let mut machine = Self::default();
        for gfn in 0..pages {
            let mfn = machine.alloc_frame();
            machine.set_p2m(gfn, mfn);
        }
        machine
    }

    fn state(&self) -> MutexGuard<'_, TestState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was told about interrupts so far.
    pub fn take_interrupts(&self) -> TestInterrupts {
        std::mem::take(&mut self.state().interrupts)
    }

    /// Reads guest memory as the guest does. `None`: nothing is mapped there.
    pub fn read(&self, address: u64, buf: &mut [u8]) -> Option<()> {
        Mem(self).copy_from_guest(address, buf)
    }

    /// Writes guest memory as the guest does. `None`: nothing is mapped there.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Option<()> {
        Mem(self).copy_to_guest(address, bytes)
    }
}

// SAFETY: alignment and size come from `Page`; a page is boxed, so it stays where it is until `free_frame`.
unsafe impl Machine for TestMachine {
    fn frame(&self, mfn: Mfn) -> *mut u8 {
        self.state().frames.get(&mfn).expect("a frame that was allocated").0.get().cast()
    }

    fn alloc_frame(&mut self) -> Option<Mfn> {
        let mut state = self.state();
        state.next += 1;
        let mfn = 0x1000 + state.next;
        state.frames.insert(mfn, Box::new(Page(UnsafeCell::new([0; PAGE_SIZE]))));
        Some(mfn)
    }

    fn free_frame(&mut self, mfn: Mfn) {
        self.state().frames.remove(&mfn);
    }

    fn set_p2m(&mut self, gfn: Gfn, mfn: Option<Mfn>) {
        match mfn {
            Some(mfn) => self.state().p2m.insert(gfn, mfn),
            None => self.state().p2m.remove(&gfn),
        };
    }

    fn mfn_of(&self, gfn: Gfn) -> Option<Mfn> {
        self.state().p2m.get(&gfn).copied()
    }

    fn va_to_frame(&self, va: u64) -> Option<(Mfn, usize)> {
        Some((self.mfn_of(va / PAGE_SIZE as u64)?, va as usize % PAGE_SIZE))
    }

    fn raise_vector(&mut self, vcpu: u32, vector: u8) {
        self.state().interrupts.vectors.push((vcpu, vector));
    }

    fn set_intx(&mut self, gsi: u32, level: bool) {
        self.state().interrupts.lines.push((gsi, level));
    }
}
