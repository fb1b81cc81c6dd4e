//! Contiguous memory, device memory, physical addresses, and what the memory manager tells.

use super::mdl::cache_of;
use super::{TAG_RANGES, violation};
use crate::ex::ExAllocatePoolWithTag;
use crate::platform::{Cache, PAGE_SIZE, platform};
use crate::rtl::abi::UnicodeString;
use crate::status::{NtStatus, STATUS_NOT_SUPPORTED};
use crate::sync::IrqLock;
use alloc::collections::BTreeMap;
use core::ffi::c_void;
use core::ptr::{self, NonNull};

/// What a block of this module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Contiguous,
    NonCached,
    Device,
}

/// Blocks that are in use: base, kind and pages.
static BLOCKS: IrqLock<BTreeMap<usize, (Block, usize)>> = IrqLock::new(BTreeMap::new());

/// Notes a block.
fn keep(base: Option<NonNull<u8>>, kind: Block, pages: usize) -> *mut c_void {
    let Some(base) = base else { return ptr::null_mut() };
    BLOCKS.lock().insert(base.as_ptr() as usize, (kind, pages));
    base.as_ptr().cast()
}

/// Takes a block out. A block that is not there, or of another kind, is a mistake of the driver.
fn take(base: *mut c_void, kind: Block, call: &'static str) -> Option<(NonNull<u8>, usize)> {
    let found = BLOCKS.lock().remove(&(base as usize));
    match found {
        Some((k, pages)) if k == kind => Some((NonNull::new(base.cast())?, pages)),
        _ => violation(call, base as usize, 0),
    }
}

/// Blocks that are still in use: for the leak check at the end. Any IRQL.
pub fn blocks_in_use() -> usize {
    BLOCKS.lock().len()
}

/// `MmAllocateContiguousMemory`: cached, anywhere up to `highest`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn MmAllocateContiguousMemory(bytes: usize, highest: u64) -> *mut c_void {
    contiguous(bytes, 0, highest, 0, Cache::Write)
}

/// `MmAllocateContiguousMemorySpecifyCache`. IRQL <= DISPATCH_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmallocatecontiguousmemoryspecifycache>
pub unsafe extern "win64" fn MmAllocateContiguousMemorySpecifyCache(
    bytes: usize,
    low: u64,
    high: u64,
    boundary: u64,
    cache: u32,
) -> *mut c_void {
    contiguous(bytes, low, high, boundary, cache_of(cache))
}

/// `MmAllocateContiguousMemorySpecifyCacheNode`: there is one node. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn MmAllocateContiguousMemorySpecifyCacheNode(
    bytes: usize,
    low: u64,
    high: u64,
    boundary: u64,
    cache: u32,
    _node: u32,
) -> *mut c_void {
    contiguous(bytes, low, high, boundary, cache_of(cache))
}

/// `MmAllocateContiguousNodeMemory`: `protect` may hold PAGE_NOCACHE (0x200) or PAGE_WRITECOMBINE (0x400).
/// IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn MmAllocateContiguousNodeMemory(
    bytes: usize,
    low: u64,
    high: u64,
    boundary: u64,
    protect: u32,
    _node: u32,
) -> *mut c_void {
    contiguous(bytes, low, high, boundary, cache_of_protection(protect))
}

/// The cache attribute of a `PAGE_*` protection.
fn cache_of_protection(protect: u32) -> Cache {
    match protect & 0x600 {
        0x200 => Cache::None,
        0x400 => Cache::Combine,
        _ => Cache::Write,
    }
}

fn contiguous(bytes: usize, low: u64, high: u64, boundary: u64, cache: Cache) -> *mut c_void {
    let pages = bytes.div_ceil(PAGE_SIZE);
    if pages == 0 {
        return ptr::null_mut();
    }
    keep(platform().alloc_contiguous(pages, low, high, boundary, cache), Block::Contiguous, pages)
}

/// `MmFreeContiguousMemory`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn MmFreeContiguousMemory(base: *mut c_void) {
    if let Some((base, pages)) = take(base, Block::Contiguous, "MmFreeContiguousMemory: not such a block") {
        platform().free_pages(base, pages);
    }
}

/// `MmFreeContiguousMemorySpecifyCache`: the size must be that of the allocation. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn MmFreeContiguousMemorySpecifyCache(base: *mut c_void, bytes: usize, _cache: u32) {
    if let Some((block, pages)) = take(base, Block::Contiguous, "MmFreeContiguousMemorySpecifyCache: not such a block")
    {
        if bytes.div_ceil(PAGE_SIZE) != pages {
            violation("MmFreeContiguousMemorySpecifyCache: another size", base as usize, bytes);
        }
        platform().free_pages(block, pages);
    }
}

/// `MmAllocateNonCachedMemory`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn MmAllocateNonCachedMemory(bytes: usize) -> *mut c_void {
    let pages = bytes.div_ceil(PAGE_SIZE);
    if pages == 0 {
        return ptr::null_mut();
    }
    keep(platform().alloc_pages(pages), Block::NonCached, pages)
}

/// `MmFreeNonCachedMemory`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn MmFreeNonCachedMemory(base: *mut c_void, bytes: usize) {
    if let Some((block, pages)) = take(base, Block::NonCached, "MmFreeNonCachedMemory: not such a block") {
        if bytes.div_ceil(PAGE_SIZE) != pages {
            violation("MmFreeNonCachedMemory: another size", base as usize, bytes);
        }
        platform().free_pages(block, pages);
    }
}

/// `MmMapIoSpace`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn MmMapIoSpace(address: u64, bytes: usize, cache: u32) -> *mut c_void {
    map_device(address, bytes, cache_of(cache))
}

/// `MmMapIoSpaceEx`: `protect` may hold PAGE_NOCACHE or PAGE_WRITECOMBINE. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn MmMapIoSpaceEx(address: u64, bytes: usize, protect: u32) -> *mut c_void {
    map_device(address, bytes, cache_of_protection(protect))
}

fn map_device(address: u64, bytes: usize, cache: Cache) -> *mut c_void {
    if bytes == 0 {
        violation("MmMapIoSpace: nothing to map", address as usize, 0);
    }
    let offset = address as usize & (PAGE_SIZE - 1);
    let pages = (offset + bytes).div_ceil(PAGE_SIZE);
    let first = address / PAGE_SIZE as u64;
    let frames: alloc::vec::Vec<u64> = (first..first + pages as u64).collect();
    let base = keep(platform().map_frames(&frames, cache), Block::Device, pages);
    if base.is_null() { base } else { base.wrapping_byte_add(offset) }
}

/// `MmUnmapIoSpace`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn MmUnmapIoSpace(base: *mut c_void, bytes: usize) {
    let offset = base as usize & (PAGE_SIZE - 1);
    let start = base.wrapping_byte_sub(offset);
    if let Some((block, pages)) = take(start, Block::Device, "MmUnmapIoSpace: not such a mapping") {
        if (offset + bytes).div_ceil(PAGE_SIZE) != pages {
            violation("MmUnmapIoSpace: another size", base as usize, bytes);
        }
        platform().unmap_frames(block, pages);
    }
}

/// `MmGetPhysicalAddress`: 0 for what is not mapped. Any IRQL.
pub unsafe extern "win64" fn MmGetPhysicalAddress(address: *const c_void) -> u64 {
    platform().physical_address(address as usize).unwrap_or(0)
}

/// `MmIsAddressValid`. Any IRQL.
pub unsafe extern "win64" fn MmIsAddressValid(address: *const c_void) -> u8 {
    u8::from(platform().physical_address(address as usize).is_some())
}

/// `PHYSICAL_MEMORY_RANGE`.
#[repr(C)]
struct PhysicalMemoryRange {
    base: u64,
    bytes: u64,
}

/// `MmGetPhysicalMemoryRanges`: an array in pool that ends with an empty range; the caller frees it.
/// IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn MmGetPhysicalMemoryRanges() -> *mut c_void {
    let ranges = platform().memory_ranges();
    let bytes = (ranges.len() + 1) * size_of::<PhysicalMemoryRange>();
    // SAFETY: the block has room for all ranges and the empty one.
    unsafe {
        let block = ExAllocatePoolWithTag(512, bytes, TAG_RANGES).cast::<PhysicalMemoryRange>();
        if !block.is_null() {
            for (i, range) in ranges.iter().enumerate() {
                block.add(i).write(PhysicalMemoryRange { base: range.base, bytes: range.len });
            }
            block.add(ranges.len()).write(PhysicalMemoryRange { base: 0, bytes: 0 });
        }
        block.cast()
    }
}

/// `MmAddPhysicalMemory`: this machine's memory does not grow. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn MmAddPhysicalMemory(_start: *mut u64, _bytes: *mut u64) -> NtStatus {
    STATUS_NOT_SUPPORTED
}

/// `MmRemovePhysicalMemory`: this machine's memory does not shrink. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn MmRemovePhysicalMemory(_start: *mut u64, _bytes: *mut u64) -> NtStatus {
    STATUS_NOT_SUPPORTED
}

/// `MmGetSystemRoutineAddress`: an export of ntoskrnl.exe or hal.dll by name. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn MmGetSystemRoutineAddress(name: *const UnicodeString) -> *const c_void {
    // SAFETY: the caller gives a valid string.
    let units = unsafe { crate::rtl::string::wide(name) };
    let text: alloc::string::String = char::decode_utf16(units.iter().copied()).map(|c| c.unwrap_or('?')).collect();
    crate::loader::routine_address(&text).map_or(ptr::null(), |address| address as *const c_void)
}

/// `MmQuerySystemSize`: `MmLargeSystem`. Any IRQL.
pub unsafe extern "win64" fn MmQuerySystemSize() -> u32 {
    2
}

/// `MmIsThisAnNtAsSystem`: FALSE: a workstation. Any IRQL.
pub unsafe extern "win64" fn MmIsThisAnNtAsSystem() -> u8 {
    0
}
