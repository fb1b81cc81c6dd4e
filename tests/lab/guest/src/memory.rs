//! Memory: frames, page tables, the heap.
//!
//! - The image stands where it was loaded, one attribute a section: no page is both writable and executable.
//! - All RAM is mapped once more, never executable, at [`DIRECT`]; page tables and the heap live there.
//! - What `nt` hands out stands in a window of its own, page by page, each range with an unmapped page before it.
//!   Addresses of the window are never used twice, so a stale pointer faults and a stale TLB entry of another processor
//!   harms nobody. (Its page tables stay: 4 KiB for 2 MiB of window.)

use crate::boot::Loaded;
use crate::lock::{Lock, RawLock};
use alloc::vec::Vec;
use core::ptr::NonNull;
use nt::platform::{Cache, MemoryRange, PAGE_SIZE, Protection};
use talc::{TalcLock, source::Manual};
use x86_64::PhysAddr;
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

/// Where all RAM is mapped.
const DIRECT: usize = 0xffff_8000_0000_0000;
/// First byte of the window.
const WINDOW: usize = 0xffff_c000_0000_0000;
/// Behind its last byte.
const WINDOW_END: usize = 0xffff_e000_0000_0000;
/// The boot tables map this much, and more RAM is not used.
const MOST_RAM: u64 = 1 << 30;
/// Frames below are the firmware's.
const FIRST_FRAME: u64 = 0x100;
/// Bytes of a large page.
const LARGE: u64 = 2 << 20;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const UNCACHED: u64 = 1 << 4;
const LARGE_PAGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

#[global_allocator]
static HEAP: TalcLock<RawLock, Manual> = TalcLock::new(Manual);

static MEMORY: Lock<Option<Memory>> = Lock::new(None);

unsafe extern "C" {
    static image_start: u8;
    static text_end: u8;
    static rodata_end: u8;
    static image_end: u8;
}

/// Which frames are taken: one bit each.
struct Frames {
    taken: &'static mut [u64],
    count: u64,
    next: u64,
}

impl Frames {
    fn is_taken(&self, frame: u64) -> bool {
        self.taken[frame as usize / 64] & 1 << (frame % 64) != 0
    }

    fn set(&mut self, frame: u64, taken: bool) {
        let word = &mut self.taken[frame as usize / 64];
        if taken {
            *word |= 1 << (frame % 64);
        } else {
            *word &= !(1 << (frame % 64));
        }
    }

    /// Takes `pages` frames in a row within `low..=high` (frame numbers), not across a multiple of `boundary` frames
    /// (0: no matter).
    fn take(&mut self, pages: u64, low: u64, high: u64, boundary: u64) -> Option<u64> {
        let low = low.max(FIRST_FRAME);
        let end = high.checked_add(1)?.min(self.count);
        let first = if pages == 1 && (low..end).contains(&self.next) { self.next } else { low };
        let found = self.find(pages, first, end, boundary).or_else(|| self.find(pages, low, end, boundary))?;
        (found..found + pages).for_each(|frame| self.set(frame, true));
        if pages == 1 {
            self.next = found + 1;
        }
        Some(found)
    }

    fn find(&self, pages: u64, low: u64, end: u64, boundary: u64) -> Option<u64> {
        let (mut start, mut at) = (low, low);
        while at < end {
            if self.is_taken(at) {
                start = at + 1;
            } else if boundary != 0 && at > start && at.is_multiple_of(boundary) {
                start = at;
            }
            at += 1;
            if at - start >= pages && pages != 0 {
                return Some(start);
            }
        }
        None
    }
}

struct Memory {
    frames: Frames,
    root: u64,
    /// The next address of the window.
    next: usize,
    ram: Vec<MemoryRange>,
}

/// Where a frame of RAM is in the direct map.
fn direct(frame: u64) -> *mut u8 {
    (DIRECT + frame as usize * PAGE_SIZE) as *mut u8
}

/// The bytes at a physical address of RAM.
pub fn physical(address: u64) -> *mut u8 {
    (DIRECT as u64 + address) as *mut u8
}

fn flags(protection: Protection, cache: Cache) -> u64 {
    let access = match protection {
        Protection::None => 0,
        Protection::Read => PRESENT | NO_EXECUTE,
        Protection::ReadWrite => PRESENT | WRITABLE | NO_EXECUTE,
        Protection::ReadExecute => PRESENT,
        Protection::ReadWriteExecute => PRESENT | WRITABLE,
    };
    // The PAT as the processor resets it has no write-combining entry: uncached is what is left of it.
    match cache {
        Cache::Write => access,
        Cache::None | Cache::Combine => access | WRITE_THROUGH | UNCACHED,
    }
}

impl Memory {
    fn zeroed_frame(&mut self) -> Option<u64> {
        let frame = self.frames.take(1, 0, u64::MAX - 1, 0)?;
        // SAFETY: the frame was free, and RAM is in the direct map.
        unsafe { direct(frame).write_bytes(0, PAGE_SIZE) };
        Some(frame)
    }

    /// The entry of the last level for an address. `make`: tables that lack are made. `None`: no table, no memory, or
    /// a large page.
    fn entry(&mut self, address: usize, make: bool) -> Option<*mut u64> {
        let mut table = self.root;
        for level in (1..4).rev() {
            let index = address >> (12 + 9 * level) & 511;
            let entry = direct(table).cast::<u64>().wrapping_add(index);
            // SAFETY: an entry of a page table, which is a frame of RAM; the lock of `MEMORY` is held.
            unsafe {
                if *entry & PRESENT == 0 {
                    if !make {
                        return None;
                    }
                    *entry = self.zeroed_frame()? << 12 | PRESENT | WRITABLE;
                }
                if *entry & LARGE_PAGE != 0 {
                    return None;
                }
                table = (*entry & ADDRESS) >> 12;
            }
        }
        Some(direct(table).cast::<u64>().wrapping_add(address >> 12 & 511))
    }

    /// Takes addresses of the window, after a page that stays unmapped.
    fn addresses(&mut self, pages: usize) -> Option<usize> {
        let at = self.next + PAGE_SIZE;
        let end = at.checked_add(pages.checked_mul(PAGE_SIZE)?).filter(|&end| end <= WINDOW_END)?;
        self.next = end;
        Some(at)
    }

    /// Maps frames at fresh addresses. The frames of a mapping that fails are the caller's still.
    fn map(&mut self, frames: impl ExactSizeIterator<Item = u64>, flags: u64) -> Option<NonNull<u8>> {
        let start = self.addresses(frames.len())?;
        for (index, frame) in frames.enumerate() {
            let entry = self.entry(start + index * PAGE_SIZE, true)?;
            // SAFETY: an entry that nobody used before: addresses are handed out once.
            unsafe { *entry = frame << 12 & ADDRESS | flags };
        }
        NonNull::new(start as *mut u8)
    }

    /// Takes mappings away; returns how the frames are to be had through `each`.
    fn unmap(&mut self, base: NonNull<u8>, pages: usize, mut each: impl FnMut(&mut Self, u64)) {
        for index in 0..pages {
            let address = base.as_ptr() as usize + index * PAGE_SIZE;
            if let Some(entry) = self.entry(address, false) {
                // SAFETY: an entry of the range that the caller gives back.
                let old = unsafe { core::mem::replace(&mut *entry, 0) };
                tlb::flush(x86_64::VirtAddr::new(address as u64));
                each(self, (old & ADDRESS) >> 12);
            }
        }
    }
}

/// Pages of the last level, or large ones, below a table of that level (3: the root) that may be executed, and those of them
/// that may also be written.
fn executable_below(table: u64, level: u32) -> (u64, u64) {
    let mut sum = (0, 0);
    for index in 0..512 {
        // SAFETY: an entry of a page table, which is a frame of RAM; the lock of `MEMORY` is held.
        let entry = unsafe { direct(table).cast::<u64>().add(index).read() };
        // What an upper level forbids, no lower one allows.
        if entry & PRESENT == 0 || entry & NO_EXECUTE != 0 {
            continue;
        }
        let below = if level == 0 || entry & LARGE_PAGE != 0 {
            (1, u64::from(entry & WRITABLE != 0))
        } else {
            executable_below((entry & ADDRESS) >> 12, level - 1)
        };
        sum = (sum.0 + below.0, sum.1 + below.1);
    }
    sum
}

/// Pages that may be executed, and those of them that may also be written, by the tables that are in force.
pub fn executable() -> (u64, u64) {
    MEMORY.lock().as_ref().map_or((0, 0), |memory| executable_below(memory.root, 3))
}

/// Takes memory over: frames, page tables, heap.
///
/// # Safety
/// Once, with the boot tables in force.
pub unsafe fn start(loaded: &Loaded) {
    let ram = &loaded.ram[..loaded.ram_count];
    let end = ram.iter().map(|(base, bytes)| base + bytes).filter(|&end| end <= MOST_RAM).max().unwrap_or(0);
    let count = end / PAGE_SIZE as u64;
    let up = |address: u64| address.next_multiple_of(PAGE_SIZE as u64);
    // Behind the image and the archive: the bitmap, then the heap, which takes a quarter of RAM.
    let bitmap_at = up(loaded.archive.1.max((&raw const image_end) as u64));
    let words = count.div_ceil(64) as usize;
    let heap_at = up(bitmap_at + words as u64 * 8);
    let heap_bytes = (end / 4).next_multiple_of(PAGE_SIZE as u64);
    let used_end = heap_at + heap_bytes;
    // SAFETY: the range is RAM behind everything that was loaded, and the direct map is there already.
    let taken = unsafe {
        let words_at = physical(bitmap_at).cast::<u64>();
        words_at.write_bytes(0xff, words);
        core::slice::from_raw_parts_mut(words_at, words)
    };
    let mut frames = Frames { taken, count, next: 0 };
    for &(base, bytes) in ram.iter().filter(|(base, bytes)| base + bytes <= MOST_RAM) {
        let first = base.div_ceil(PAGE_SIZE as u64).max(FIRST_FRAME);
        for frame in first..(base + bytes) / PAGE_SIZE as u64 {
            let address = frame * PAGE_SIZE as u64;
            if !((&raw const image_start) as u64..used_end).contains(&address) {
                frames.set(frame, false);
            }
        }
    }
    // SAFETY: RAM that nobody else uses, marked as taken.
    unsafe { HEAP.lock().claim(physical(heap_at), heap_bytes as usize) };

    let root = frames.take(1, 0, u64::MAX - 1, 0).expect("no memory for page tables");
    // SAFETY: a fresh frame in the direct map.
    unsafe { direct(root).write_bytes(0, PAGE_SIZE) };
    let ranges = ram.iter().map(|&(base, len)| MemoryRange { base, len }).collect();
    let mut memory = Memory { frames, root, next: WINDOW, ram: ranges };
    map_direct(&mut memory, end);
    map_image(&mut memory);
    // SAFETY: the new tables map everything that is in use: the image, this stack inside of it, and the direct map.
    unsafe { Cr3::write(PhysFrame::containing_address(PhysAddr::new(root << 12)), Cr3Flags::empty()) };
    *MEMORY.lock() = Some(memory);
}

/// Maps RAM at [`DIRECT`] with large pages.
fn map_direct(memory: &mut Memory, end: u64) {
    let table = memory.zeroed_frame().zip(memory.zeroed_frame()).expect("no memory for page tables");
    // SAFETY: fresh frames and the root, which is not in force yet.
    unsafe {
        direct(memory.root).cast::<u64>().add(DIRECT >> 39 & 511).write(table.0 << 12 | PRESENT | WRITABLE);
        direct(table.0).cast::<u64>().write(table.1 << 12 | PRESENT | WRITABLE);
        for large in 0..end.div_ceil(LARGE) {
            let entry = (large * LARGE) | PRESENT | WRITABLE | LARGE_PAGE | NO_EXECUTE;
            direct(table.1).cast::<u64>().add(large as usize).write(entry);
        }
    }
}

/// Maps the image where it is, with the attributes of its sections.
fn map_image(memory: &mut Memory) {
    let sections = [
        (&raw const image_start, &raw const text_end, Protection::ReadExecute),
        (&raw const text_end, &raw const rodata_end, Protection::Read),
        (&raw const rodata_end, &raw const image_end, Protection::ReadWrite),
    ];
    for (start, end, protection) in sections {
        for address in (start as usize..end as usize).step_by(PAGE_SIZE) {
            let entry = memory.entry(address, true).expect("no memory for page tables");
            // SAFETY: an entry of tables that are not in force yet.
            unsafe { *entry = address as u64 | flags(protection, Cache::Write) };
        }
    }
}

fn with<T>(body: impl FnOnce(&mut Memory) -> T) -> T {
    body(MEMORY.lock().as_mut().expect("memory is started"))
}

/// Whether an address is in the code of this image.
pub fn is_own_code(address: usize) -> bool {
    ((&raw const image_start) as usize..(&raw const text_end) as usize).contains(&address)
}

/// See `Platform::alloc_pages`.
pub fn alloc_pages(pages: usize) -> Option<NonNull<u8>> {
    with(|memory| {
        let mut frames = Vec::with_capacity(pages);
        for _ in 0..pages {
            match memory.zeroed_frame() {
                Some(frame) => frames.push(frame),
                None => break,
            }
        }
        let whole = frames.len() == pages;
        let base =
            whole.then(|| memory.map(frames.iter().copied(), flags(Protection::ReadWrite, Cache::Write))).flatten();
        if base.is_none() {
            for &frame in &frames {
                memory.frames.set(frame, false);
            }
        }
        base
    })
}

/// See `Platform::alloc_contiguous`.
pub fn alloc_contiguous(pages: usize, low: u64, high: u64, boundary: u64, cache: Cache) -> Option<NonNull<u8>> {
    let page = PAGE_SIZE as u64;
    let last = (high.saturating_add(1) / page).checked_sub(1)?;
    with(|memory| {
        let first = memory.frames.take(pages as u64, low.div_ceil(page), last, boundary / page)?;
        for frame in first..first + pages as u64 {
            // SAFETY: frames of RAM that were free.
            unsafe { direct(frame).write_bytes(0, PAGE_SIZE) };
        }
        let base = memory.map((0..pages).map(|index| first + index as u64), flags(Protection::ReadWrite, cache));
        if base.is_none() {
            (first..first + pages as u64).for_each(|frame| memory.frames.set(frame, false));
        }
        base
    })
}

/// See `Platform::free_pages`.
pub fn free_pages(base: NonNull<u8>, pages: usize) {
    with(|memory| memory.unmap(base, pages, |memory, frame| memory.frames.set(frame, false)));
}

/// See `Platform::protect`.
pub fn protect(base: NonNull<u8>, pages: usize, protection: Protection) {
    with(|memory| {
        for index in 0..pages {
            let address = base.as_ptr() as usize + index * PAGE_SIZE;
            let entry = memory.entry(address, false).expect("pages of alloc_pages are mapped");
            // SAFETY: an entry of pages that the caller owns.
            unsafe { *entry = *entry & ADDRESS | flags(protection, Cache::Write) };
            tlb::flush(x86_64::VirtAddr::new(address as u64));
        }
    });
}

/// See `Platform::physical_address`.
pub fn physical_address(address: usize) -> Option<u64> {
    let offset = (address & (PAGE_SIZE - 1)) as u64;
    with(|memory| {
        let in_ram = (DIRECT..DIRECT + (memory.frames.count as usize) * PAGE_SIZE).contains(&address);
        if in_ram {
            return Some((address - DIRECT) as u64);
        }
        // SAFETY: reads an entry of a page table.
        let entry = unsafe { *memory.entry(address, false)? };
        (entry & PRESENT != 0).then_some(entry & ADDRESS | offset)
    })
}

/// See `Platform::map_frames`.
pub fn map_frames(frames: &[u64], cache: Cache) -> Option<NonNull<u8>> {
    with(|memory| memory.map(frames.iter().copied(), flags(Protection::ReadWrite, cache)))
}

/// See `Platform::unmap_frames`.
pub fn unmap_frames(base: NonNull<u8>, pages: usize) {
    with(|memory| memory.unmap(base, pages, |_, _| ()));
}

/// See `Platform::alloc_frame`: a page within a range of bytes, mapped nowhere but in the direct map.
pub fn alloc_frame(low: u64, high: u64) -> Option<u64> {
    let page = PAGE_SIZE as u64;
    with(|memory| {
        let frame = memory.frames.take(1, low.div_ceil(page), high / page, 0)?;
        // SAFETY: a frame of RAM that was free.
        unsafe { direct(frame).write_bytes(0, PAGE_SIZE) };
        Some(frame)
    })
}

/// See `Platform::free_frame`.
pub fn free_frame(frame: u64) {
    with(|memory| memory.frames.set(frame, false));
}

/// See `Platform::memory_ranges`.
pub fn ranges() -> Vec<MemoryRange> {
    with(|memory| memory.ram.clone())
}

/// Whether a word can be read: mapped in the window, the image or the direct map.
pub fn is_mapped(address: usize) -> bool {
    physical_address(address).is_some()
}
