//! Pool: every block is known, fenced on both sides, filled when it is given and when it is freed, and charged to the
//! driver that took it. Blocks below a page are 16-byte aligned and never cross a page; larger ones are page-aligned.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exallocatepool2>

use super::fault;
use crate::ke::abi::*;
use crate::platform::{PAGE_SIZE, platform};
use crate::sync::IrqLock;
use crate::{loader, verifier};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::{NonNull, null_mut};

/// Bytes of the fence before and behind a block.
const FENCE: usize = 16;
const FENCE_BYTE: u8 = 0xfd;
const FRESH: u8 = 0xcd;
const FREED: u8 = 0xdd;
/// Freed blocks that wait before their memory is used again.
const QUARANTINE: usize = 256;
/// `PROTECTED_POOL`: a bit of a tag that asks for protection.
const PROTECTED: u32 = 0x8000_0000;
/// The largest block that shares a page with others.
const LARGEST_SMALL: usize = PAGE_SIZE - 2 * FENCE;

/// `POOL_TYPE`: PagedPool is the low bit.
const PAGED: i32 = 1;
/// `POOL_RAISE_IF_ALLOCATION_FAILURE` and the old `MustSucceed`.
const RAISE: i32 = 0x10;
/// `POOL_FLAG_UNINITIALIZED`.
const FLAG_UNINITIALIZED: u64 = 2;
/// `POOL_FLAG_RAISE_ON_FAILURE`.
const FLAG_RAISE: u64 = 0x20;
/// `POOL_FLAG_PAGED`.
const FLAG_PAGED: u64 = 0x100;
/// `POOL_FLAG_NON_PAGED` and `POOL_FLAG_NON_PAGED_EXECUTE`.
const FLAG_NON_PAGED: u64 = 0x40 | 0x80;

struct Block {
    bytes: usize,
    tag: u32,
    paged: bool,
    caller: usize,
    /// Pages of its own; 0: it lies in a shared page.
    pages: usize,
    class: usize,
}

/// Where small blocks of one kind lie. Pageable ones have pages of their own.
struct Places {
    /// Free places by class: a class is its size in units of 16 bytes, up to a page.
    free: BTreeMap<usize, Vec<usize>>,
    quarantine: VecDeque<(usize, usize, usize)>,
}

impl Places {
    const fn new() -> Self {
        Self { free: BTreeMap::new(), quarantine: VecDeque::new() }
    }
}

struct Pool {
    blocks: BTreeMap<usize, Block>,
    nonpaged: Places,
    paged: Places,
    freed: VecDeque<(usize, Freed)>,
}

#[derive(Clone, Copy)]
struct Freed {
    bytes: usize,
    tag: u32,
    caller: usize,
}

static POOL: IrqLock<Pool> = IrqLock::new(Pool {
    blocks: BTreeMap::new(),
    nonpaged: Places::new(),
    paged: Places::new(),
    freed: VecDeque::new(),
});

/// Blocks and bytes that drivers (`of_drivers`) or all hold now.
pub fn in_use(of_drivers: bool) -> (usize, usize) {
    let pool = POOL.lock();
    let callers: Vec<(usize, usize)> = pool.blocks.values().map(|block| (block.caller, block.bytes)).collect();
    drop(pool);
    callers
        .iter()
        .filter(|(caller, _)| !of_drivers || loader::image_of(*caller).is_some())
        .fold((0, 0), |(count, sum), (_, bytes)| (count + 1, sum + bytes))
}

fn tag_text(tag: u32) -> String {
    tag.to_le_bytes().iter().map(|&b| if b.is_ascii_graphic() || b == b' ' { b as char } else { '.' }).collect()
}

/// Whether the call that is served came from a driver: the thunk noted its address, and the export that allocates for
/// the personality itself is not reached through one.
fn driver_caller(from_driver: bool) -> usize {
    if from_driver { verifier::caller() } else { 0 }
}

/// The class of a small block.
fn class_of(bytes: usize) -> usize {
    (bytes + 2 * FENCE).div_ceil(16)
}

/// Fresh pages.
fn pages(count: usize, paged: bool) -> Option<NonNull<u8>> {
    let base = platform().alloc_pages(count)?;
    if paged {
        platform().set_pageable(base, count, true);
    }
    Some(base)
}

impl Pool {
    fn places(&mut self, paged: bool) -> &mut Places {
        if paged { &mut self.paged } else { &mut self.nonpaged }
    }

    /// A place for a small block of a class, cut from a fresh page if need be.
    fn small(&mut self, class: usize, paged: bool) -> Option<usize> {
        let free = self.places(paged).free.entry(class).or_default();
        if let Some(place) = free.pop() {
            return Some(place);
        }
        let page = pages(1, paged)?.as_ptr() as usize;
        let bytes = class * 16;
        free.extend((0..PAGE_SIZE / bytes).map(|index| page + index * bytes));
        free.pop()
    }
}

/// Allocates. `None`: no memory.
fn allocate(bytes: usize, tag: u32, paged: bool, zero: bool, caller: usize) -> Option<NonNull<u8>> {
    if caller != 0 && fault::due() {
        return None;
    }
    let mut pool = POOL.lock();
    let (address, pages, class) = if bytes <= LARGEST_SMALL {
        let class = class_of(bytes);
        let place = pool.small(class, paged)?;
        let behind = place + FENCE + bytes;
        // SAFETY: the place has `class * 16` bytes that are free: a fence, the block, and what is left as its other fence.
        unsafe {
            (place as *mut u8).write_bytes(FENCE_BYTE, FENCE);
            (behind as *mut u8).write_bytes(FENCE_BYTE, place + class * 16 - behind);
        }
        (place + FENCE, 0, class)
    } else {
        let count = bytes.div_ceil(PAGE_SIZE);
        let base = pages(count, paged)?.as_ptr();
        // SAFETY: fresh pages. What lies behind the block in its last page is its fence.
        unsafe { base.add(bytes).write_bytes(FENCE_BYTE, count * PAGE_SIZE - bytes) };
        (base as usize, count, 0)
    };
    // SAFETY: the block's own bytes.
    unsafe { (address as *mut u8).write_bytes(if zero { 0 } else { FRESH }, bytes) };
    pool.blocks.insert(address, Block { bytes, tag, paged, caller, pages, class });
    NonNull::new(address as *mut u8)
}

/// Whether every byte from `start` to `end` is `byte`. By words where it can: it is asked for each block that is freed.
///
/// # Safety
/// The bytes are readable.
pub unsafe fn are_all(start: usize, end: usize, byte: u8) -> bool {
    let words = start.next_multiple_of(8).min(end)..end - end % 8;
    let single = |range: core::ops::Range<usize>| {
        // SAFETY: the caller's promise.
        range.into_iter().all(|at| unsafe { (at as *const u8).read() } == byte)
    };
    let wide = u64::from_ne_bytes([byte; 8]);
    // SAFETY: the caller's promise; the addresses are aligned.
    let differs = |at: usize| unsafe { (at as *const u64).read() } ^ wide;
    let fours = words.len() / 32 * 32;
    single(start..words.start)
        && (words.start..words.start + fours)
            .step_by(32)
            .all(|at| differs(at) | differs(at + 8) | differs(at + 16) | differs(at + 24) == 0)
        && (words.start + fours..words.end).step_by(8).all(|at| differs(at) == 0)
        && single(words.end.max(words.start)..end)
}

/// Whether the fences of a block are whole.
///
/// # Safety
/// The block is allocated.
unsafe fn fences_whole(address: usize, block: &Block) -> bool {
    // SAFETY: the caller's promise: fences are part of the block's place.
    let all = |start: usize, end: usize| unsafe { are_all(start, end, FENCE_BYTE) };
    if block.pages == 0 {
        let place = address - FENCE;
        all(place, address) && all(address + block.bytes, place + block.class * 16)
    } else {
        all(address + block.bytes, address + block.pages * PAGE_SIZE)
    }
}

/// Frees. `tag` 0 fits any.
fn free(address: usize, tag: u32, caller: usize) {
    let mut pool = POOL.lock();
    let Some(block) = pool.blocks.remove(&address) else {
        drop(pool);
        let what = describe(address).unwrap_or_else(|| String::from("no block of the pool"));
        verifier::violation("pool", format_args!("{address:#x} is freed, which is {what}"));
    };
    let irql = platform().irql();
    if block.paged && irql > APC_LEVEL {
        drop(pool);
        verifier::violation("pool", format_args!("paged pool is freed at IRQL {irql}"));
    }
    if tag != 0 && (tag ^ block.tag) & !PROTECTED != 0 {
        drop(pool);
        verifier::violation(
            "pool",
            format_args!(
                "the block at {address:#x} has the tag {:?} and is freed with {:?}",
                tag_text(block.tag),
                tag_text(tag)
            ),
        );
    }
    // SAFETY: the block was allocated until now.
    if !unsafe { fences_whole(address, &block) } {
        drop(pool);
        verifier::violation(
            "pool",
            format_args!(
                "the block at {address:#x} of {} bytes, tag {:?}, from {} was overrun or underrun",
                block.bytes,
                tag_text(block.tag),
                loader::describe(block.caller)
            ),
        );
    }
    pool.freed.push_back((address, Freed { bytes: block.bytes, tag: block.tag, caller }));
    if pool.freed.len() > 4096 {
        pool.freed.pop_front();
    }
    if block.pages != 0 {
        drop(pool);
        check_objects(address, block.bytes);
        if let Some(base) = NonNull::new(address as *mut u8) {
            platform().free_pages(base, block.pages);
        }
        return;
    }
    // SAFETY: the block's own bytes, which nobody may use any more.
    unsafe { (address as *mut u8).write_bytes(FREED, block.bytes) };
    // Each kind by itself: nonpaged blocks are freed at DISPATCH_LEVEL, too, where the others may not be looked at.
    let places = pool.places(block.paged);
    places.quarantine.push_back((address, block.bytes, block.class));
    let mut touched = None;
    if places.quarantine.len() > QUARANTINE
        && let Some((old, bytes, class)) = places.quarantine.pop_front()
    {
        // SAFETY: quarantined memory belongs to the pool.
        if !unsafe { are_all(old, old + bytes, FREED) } {
            touched = Some(old);
        }
        places.free.entry(class).or_default().push(old - FENCE);
    }
    drop(pool);
    check_objects(address, block.bytes);
    if let Some(old) = touched {
        let what = describe(old).unwrap_or_default();
        verifier::violation("pool", format_args!("{old:#x} was written to after it was freed: {what}"));
    }
}

/// What must not be in memory that is freed or used for something else: queued DPCs, set timers, held locks.
/// IRQL <= DISPATCH_LEVEL.
pub fn check_objects(address: usize, bytes: usize) {
    verifier::memory_freed(address, address + bytes);
    if let Some(what) = crate::ke::queued_in(address, address + bytes) {
        verifier::violation("pool", format_args!("memory of {what} is freed, {address:#x}"));
    }
}

/// Checks the fences of every block; the address of the first that is broken. For the end of a run.
pub fn check_all() -> Option<usize> {
    let pool = POOL.lock();
    // SAFETY: blocks of the table are allocated.
    pool.blocks.iter().find(|(address, block)| !unsafe { fences_whole(**address, block) }).map(|(address, _)| *address)
}

/// What the pool knows of an address. Any IRQL.
pub fn describe(address: usize) -> Option<String> {
    let pool = POOL.lock();
    let live =
        pool.blocks.range(..=address).next_back().filter(|(start, block)| address < **start + block.bytes + FENCE);
    if let Some((&start, block)) = live {
        let (bytes, tag, caller, paged) = (block.bytes, block.tag, block.caller, block.paged);
        drop(pool);
        return Some(format!(
            "{:#x} into a {} block of {bytes} bytes, tag {:?}, from {}",
            address - start,
            if paged { "paged" } else { "nonpaged" },
            tag_text(tag),
            loader::describe(caller)
        ));
    }
    let freed = pool
        .freed
        .iter()
        .rev()
        .find(|(start, freed)| (*start..*start + freed.bytes.max(1)).contains(&address))
        .copied();
    drop(pool);
    let (start, freed) = freed?;
    Some(format!(
        "{:#x} into a block of {} bytes, tag {:?}, that was freed by {}",
        address - start,
        freed.bytes,
        tag_text(freed.tag),
        loader::describe(freed.caller)
    ))
}

/// The first block that code between two addresses allocated and that is in use still.
pub fn first_leak(start: usize, end: usize) -> Option<String> {
    let pool = POOL.lock();
    let mut leaks = pool.blocks.iter().filter(|(_, block)| (start..end).contains(&block.caller));
    let (&address, block) = leaks.next()?;
    let (bytes, tag, caller) = (block.bytes, block.tag, block.caller);
    let more = leaks.count();
    drop(pool);
    Some(format!(
        "{bytes} bytes at {address:#x}, tag {:?}, from {}, and {more} more blocks",
        tag_text(tag),
        loader::describe(caller)
    ))
}

/// The rules of every allocation of a driver, then the allocation.
unsafe fn take(kind: i32, bytes: usize, tag: u32, zero: bool, from_driver: bool) -> *mut c_void {
    let irql = platform().irql();
    let paged = kind & PAGED != 0;
    if from_driver {
        if paged && irql > APC_LEVEL {
            verifier::irql_violation("an allocation of paged pool", irql, APC_LEVEL);
        }
        if tag == 0 {
            verifier::violation("pool", format_args!("an allocation with the tag 0"));
        }
    }
    let block = allocate(bytes.max(1), tag, paged, zero, driver_caller(from_driver));
    match block {
        Some(block) => block.as_ptr().cast(),
        None if kind & RAISE != 0 => {
            // SAFETY: MUST_SUCCEED_POOL_EMPTY: an exception that drivers do not handle as a rule.
            unsafe { crate::ke::KeBugCheckEx(0x41, bytes, 0, 0, 0) }
        }
        None => null_mut(),
    }
}

/// `ExAllocatePoolWithTag`, as the personality itself calls it: never fails by injection.
///
/// # Safety
/// None needed; the block is not initialised.
pub unsafe extern "win64" fn ExAllocatePoolWithTag(kind: i32, bytes: usize, tag: u32) -> *mut c_void {
    // SAFETY: any arguments.
    unsafe { take(kind, bytes, tag, false, false) }
}

/// `ExFreePool`, as the personality itself calls it.
pub unsafe extern "win64" fn ExFreePool(block: *mut c_void) {
    free(block as usize, 0, 0);
}

/// `ExFreePoolWithTag`, as the personality itself calls it.
pub unsafe extern "win64" fn ExFreePoolWithTag(block: *mut c_void, tag: u32) {
    free(block as usize, tag, 0);
}

/// The same functions as drivers reach them: charged to the caller, and failing when asked to.
pub mod driver {
    use super::*;

    /// `ExAllocatePool`: the tag is `None`.
    pub unsafe extern "win64" fn ExAllocatePool(kind: i32, bytes: usize) -> *mut c_void {
        // SAFETY: any arguments.
        unsafe { take(kind, bytes, u32::from_le_bytes(*b"None"), false, true) }
    }

    /// `ExAllocatePoolWithTag`. IRQL <= DISPATCH_LEVEL, paged pool <= APC_LEVEL.
    pub unsafe extern "win64" fn ExAllocatePoolWithTag(kind: i32, bytes: usize, tag: u32) -> *mut c_void {
        // SAFETY: any arguments.
        unsafe { take(kind, bytes, tag, false, true) }
    }

    /// `ExAllocatePoolWithTagPriority`.
    pub unsafe extern "win64" fn ExAllocatePoolWithTagPriority(
        kind: i32,
        bytes: usize,
        tag: u32,
        _priority: i32,
    ) -> *mut c_void {
        // SAFETY: any arguments.
        unsafe { take(kind, bytes, tag, false, true) }
    }

    /// `ExAllocatePoolWithQuotaTag`: raises on failure unless POOL_QUOTA_FAIL_INSTEAD_OF_RAISE (8) is set.
    pub unsafe extern "win64" fn ExAllocatePoolWithQuotaTag(kind: i32, bytes: usize, tag: u32) -> *mut c_void {
        let kind = if kind & 8 == 0 { kind | RAISE } else { kind & !8 };
        // SAFETY: any arguments.
        unsafe { take(kind, bytes, tag, false, true) }
    }

    /// `ExAllocatePool2`: zeroed unless asked otherwise; NULL for flags without a kind of pool.
    pub unsafe extern "win64" fn ExAllocatePool2(flags: u64, bytes: usize, tag: u32) -> *mut c_void {
        let paged = flags & FLAG_PAGED != 0;
        if bytes == 0 || paged == (flags & FLAG_NON_PAGED != 0) {
            return null_mut();
        }
        let kind = i32::from(paged) | if flags & FLAG_RAISE != 0 { RAISE } else { 0 };
        // SAFETY: any arguments.
        unsafe { take(kind, bytes, tag, flags & FLAG_UNINITIALIZED == 0, true) }
    }

    /// `ExAllocatePool3`: extended parameters that are required are not known, so they are refused.
    pub unsafe extern "win64" fn ExAllocatePool3(
        flags: u64,
        bytes: usize,
        tag: u32,
        parameters: *const u64,
        count: u32,
    ) -> *mut c_void {
        // SAFETY: the caller gives `count` parameters of 16 bytes: a type in the low byte, bit 8 says optional.
        let required = (0..count as usize).any(|i| unsafe { *parameters.add(i * 2) } & 0x100 == 0);
        if required {
            return null_mut();
        }
        // SAFETY: any arguments.
        unsafe { ExAllocatePool2(flags, bytes, tag) }
    }

    /// `ExFreePool`. IRQL <= DISPATCH_LEVEL, paged pool <= APC_LEVEL.
    pub unsafe extern "win64" fn ExFreePool(block: *mut c_void) {
        free(block as usize, 0, verifier::caller());
    }

    /// `ExFreePoolWithTag`.
    pub unsafe extern "win64" fn ExFreePoolWithTag(block: *mut c_void, tag: u32) {
        free(block as usize, tag, verifier::caller());
    }

    /// `ExFreePool2`.
    pub unsafe extern "win64" fn ExFreePool2(block: *mut c_void, tag: u32, _parameters: *const u64, _count: u32) {
        free(block as usize, tag, verifier::caller());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found_wherever_it_is() {
        let mut bytes = [FREED; 40];
        let base = bytes.as_ptr() as usize;
        for start in 0..bytes.len() {
            for end in start..=bytes.len() {
                // SAFETY: inside of the array.
                assert!(unsafe { are_all(base + start, base + end, FREED) }, "{start}..{end}");
                for at in 0..bytes.len() {
                    // SAFETY: as above; written through the pointer that is read.
                    let whole = unsafe {
                        bytes.as_mut_ptr().add(at).write_volatile(0);
                        let whole = are_all(base + start, base + end, FREED);
                        bytes.as_mut_ptr().add(at).write_volatile(FREED);
                        whole
                    };
                    assert_eq!(whole, !(start..end).contains(&at), "{start}..{end}, byte {at}");
                }
            }
        }
    }
}
