//! Memory that another domain, or Xen, may read and write at any moment.
//!
//! The only module with `unsafe` in this crate. It turns an address into [`SharedRegion`], which offers nothing but
//! bounds-checked atomic accesses, so that a peer that writes at the wrong moment can change values but never break
//! Rust's rules. Every access reads or writes a value exactly once; what was read is a copy that the peer cannot
//! change any more.
#![allow(unsafe_code)]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::PAGE_SIZE;

/// Access to a piece of shared memory, in bytes from its start.
///
/// Loads and stores are single, relaxed accesses; the rings add the fences. Offsets are the caller's own arithmetic,
/// never a peer's number: an implementation may panic when one is outside [`size`](Self::size).
///
/// All methods may be called at any IRQL at which the memory is mapped.
pub trait SharedMemory {
    /// Bytes of the region.
    fn size(&self) -> usize;
    /// Loads the 32-bit word at `offset`, a multiple of 4.
    fn load_u32(&self, offset: usize) -> u32;
    /// Stores the 32-bit word at `offset`, a multiple of 4.
    fn store_u32(&self, offset: usize, value: u32);
    /// Copies `out.len()` bytes from `offset` on out of the region. Each byte is read once.
    fn read(&self, offset: usize, out: &mut [u8]);
    /// Copies `data` into the region from `offset` on. Each byte is written once.
    fn write(&self, offset: usize, data: &[u8]);
}

impl<M: SharedMemory + ?Sized> SharedMemory for &M {
    fn size(&self) -> usize {
        (**self).size()
    }
    fn load_u32(&self, offset: usize) -> u32 {
        (**self).load_u32(offset)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        (**self).store_u32(offset, value);
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        (**self).read(offset, out);
    }
    fn write(&self, offset: usize, data: &[u8]) {
        (**self).write(offset, data);
    }
}

/// A mapped, virtually contiguous piece of shared memory.
///
/// It is a view, not an owner: a copy does not keep the mapping alive. See [`SharedRegion::new`].
#[derive(Clone, Copy, Debug)]
pub struct SharedRegion {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the region hands out atomic accesses only, and `new` demands that the memory may be used from any thread.
unsafe impl Send for SharedRegion {}
// SAFETY: as above.
unsafe impl Sync for SharedRegion {}

impl SharedRegion {
    /// Takes `len` bytes from `base` on as shared memory.
    ///
    /// # Safety
    /// - `base` is a multiple of 8 and `len` bytes from it on are mapped, readable and writable, from any thread, for
    ///   as long as this value or a copy of it is used.
    /// - Meanwhile this program makes no Rust reference to that memory and accesses it through `SharedRegion` only
    ///   (what other domains do to it does not matter).
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    /// Address of the first byte.
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes of the region.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the region has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part of `len` bytes at `offset`, a multiple of 8; `None` if it does not lie inside.
    pub fn slice(&self, offset: usize, len: usize) -> Option<Self> {
        if !offset.is_multiple_of(8) || offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is at most `self.len`, so the pointer stays inside the region or one past its end.
        let base = unsafe { self.base.add(offset) };
        Some(Self { base, len })
    }

    /// The address of a `T` at `offset`.
    ///
    /// # Panics
    /// When `T` does not lie inside the region or would be misaligned there: the caller's arithmetic is wrong.
    #[inline]
    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(
            offset.is_multiple_of(align_of::<T>()) && offset <= self.len && self.len - offset >= size_of::<T>(),
            "access outside of a shared region"
        );
        // SAFETY: checked to lie inside the region.
        unsafe { self.base.add(offset) }.as_ptr().cast()
    }

    /// The address of `len` bytes at `offset`.
    ///
    /// # Panics
    /// When they do not lie inside the region: the caller's arithmetic is wrong.
    #[inline]
    fn range(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= self.len && self.len - offset >= len, "access outside of a shared region");
        // SAFETY: checked to lie inside the region.
        unsafe { self.base.add(offset) }.as_ptr()
    }

    /// The byte at `offset`. Any IRQL.
    ///
    /// # Panics
    /// When `offset` is outside: the caller's arithmetic is wrong. The same holds for the wider ones.
    #[inline]
    pub fn atomic_u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: `at` checked bounds and alignment; `new` promised mapped memory that is only accessed atomically.
        unsafe { AtomicU8::from_ptr(self.at(offset)) }
    }

    /// The 16-bit word at `offset`, a multiple of 2. Any IRQL.
    #[inline]
    pub fn atomic_u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: as in `atomic_u8`.
        unsafe { AtomicU16::from_ptr(self.at(offset)) }
    }

    /// The 32-bit word at `offset`, a multiple of 4. Any IRQL.
    #[inline]
    pub fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `atomic_u8`.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    /// The 64-bit word at `offset`, a multiple of 8. Any IRQL.
    #[inline]
    pub fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `atomic_u8`.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// Sets every byte to zero. Any IRQL.
    pub fn clear(&self) {
        let mut offset = 0;
        while self.len - offset >= 8 {
            self.atomic_u64(offset).store(0, Ordering::Relaxed);
            offset += 8;
        }
        while offset < self.len {
            self.atomic_u8(offset).store(0, Ordering::Relaxed);
            offset += 1;
        }
    }
}

impl SharedMemory for SharedRegion {
    fn size(&self) -> usize {
        self.len
    }

    #[inline]
    fn load_u32(&self, offset: usize) -> u32 {
        self.atomic_u32(offset).load(Ordering::Relaxed)
    }

    #[inline]
    fn store_u32(&self, offset: usize, value: u32) {
        self.atomic_u32(offset).store(value, Ordering::Relaxed);
    }

    #[inline]
    fn read(&self, offset: usize, out: &mut [u8]) {
        let mut at = self.range(offset, out.len());
        let mut rest = out;
        if offset.is_multiple_of(8) {
            let (words, tail) = rest.as_chunks_mut::<8>();
            for word in words {
                // SAFETY: `range` checked that as many bytes as `rest` has follow; the base is a multiple of 8 and so is the
                // offset. `new` promised mapped memory that is only accessed atomically.
                let (value, next) = unsafe { (AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed), at.add(8)) };
                *word = value.to_le_bytes();
                at = next;
            }
            rest = tail;
        }
        if offset.is_multiple_of(4) {
            let (words, tail) = rest.as_chunks_mut::<4>();
            for word in words {
                // SAFETY: as above; what was read before is a multiple of 8, so `at` is one of 4.
                let (value, next) = unsafe { (AtomicU32::from_ptr(at.cast()).load(Ordering::Relaxed), at.add(4)) };
                *word = value.to_le_bytes();
                at = next;
            }
            rest = tail;
        }
        for byte in rest {
            // SAFETY: as above; a byte is always aligned.
            unsafe {
                *byte = AtomicU8::from_ptr(at).load(Ordering::Relaxed);
                at = at.add(1);
            }
        }
    }

    #[inline]
    fn write(&self, offset: usize, data: &[u8]) {
        let mut at = self.range(offset, data.len());
        let mut rest = data;
        if offset.is_multiple_of(8) {
            let (words, tail) = rest.as_chunks::<8>();
            for word in words {
                // SAFETY: as in `read`.
                unsafe {
                    AtomicU64::from_ptr(at.cast()).store(u64::from_le_bytes(*word), Ordering::Relaxed);
                    at = at.add(8);
                }
            }
            rest = tail;
        }
        if offset.is_multiple_of(4) {
            let (words, tail) = rest.as_chunks::<4>();
            for word in words {
                // SAFETY: as in `read`.
                unsafe {
                    AtomicU32::from_ptr(at.cast()).store(u32::from_le_bytes(*word), Ordering::Relaxed);
                    at = at.add(4);
                }
            }
            rest = tail;
        }
        for byte in rest {
            // SAFETY: as in `read`.
            unsafe {
                AtomicU8::from_ptr(at).store(*byte, Ordering::Relaxed);
                at = at.add(1);
            }
        }
    }
}

/// Up to `N` shared pages that are added one by one and never removed, read without a lock: the frames of the grant
/// table and of the FIFO event array.
#[derive(Debug)]
pub struct FrameTable<const N: usize> {
    pages: [AtomicPtr<u8>; N],
}

impl<const N: usize> FrameTable<N> {
    /// An empty table.
    pub const fn new() -> Self {
        Self { pages: [const { AtomicPtr::new(core::ptr::null_mut()) }; N] }
    }

    /// Pages that fit.
    pub const fn capacity(&self) -> usize {
        N
    }

    /// Page `index`, once it was set. Any IRQL.
    #[inline]
    pub fn get(&self, index: usize) -> Option<SharedRegion> {
        let base = NonNull::new(self.pages.get(index)?.load(Ordering::Acquire))?;
        // SAFETY: only `set` stores pointers, and each came out of a region of PAGE_SIZE bytes, whose maker promised
        // what `SharedRegion::new` asks for.
        Some(unsafe { SharedRegion::new(base, PAGE_SIZE) })
    }

    /// Puts `page` at `index`. `false`, and nothing is changed, if the index is too large, the page is smaller than
    /// [`PAGE_SIZE`] or the index is taken. Any IRQL.
    ///
    /// The page stays in use for as long as the table; it must stay mapped that long.
    #[must_use]
    pub fn set(&self, index: usize, page: SharedRegion) -> bool {
        let Some(slot) = self.pages.get(index) else { return false };
        page.len() >= PAGE_SIZE
            && slot
                .compare_exchange(core::ptr::null_mut(), page.base().as_ptr(), Ordering::Release, Ordering::Relaxed)
                .is_ok()
    }
}

impl<const N: usize> Default for FrameTable<N> {
    fn default() -> Self {
        Self::new()
    }
}
