//! Memory descriptor lists: made, filled, locked, mapped, and what may not be done to them.
//!
//! Any IRQL up to DISPATCH_LEVEL, if the pages are resident, unless a function says otherwise.

use super::abi::*;
use super::{TAG_MDL, violation};
use crate::ex::{ExAllocatePoolWithTag, ExFreePool};
use crate::io::abi::Irp;
use crate::platform::{Cache, PAGE_SIZE, platform};
use crate::seh::abi::{Context, STATUS_ACCESS_VIOLATION};
use crate::seh::context::raising_export;
use crate::seh::dispatch::raise_status;
use crate::status::{NtStatus, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use core::ffi::c_void;
use core::ptr::{self, NonNull};

/// `NonPagedPoolNx`.
const NON_PAGED_POOL_NX: i32 = 512;

/// `MmSizeOfMdl`: bytes of an MDL for a buffer. Any IRQL.
pub unsafe extern "win64" fn MmSizeOfMdl(base: *const c_void, length: usize) -> usize {
    let pages = ((base as usize & (PAGE_SIZE - 1)) + length).div_ceil(PAGE_SIZE);
    size_of::<Mdl>() + pages * size_of::<u64>()
}

/// `IoAllocateMdl`. With an IRP it is put into it: as its first MDL, or, `secondary`, at the end of its chain.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioallocatemdl>
pub unsafe extern "win64" fn IoAllocateMdl(
    base: *mut c_void,
    length: u32,
    secondary: u8,
    _charge_quota: u8,
    irp: *mut Irp,
) -> *mut Mdl {
    // SAFETY: the size was computed for this buffer; the caller gives a valid IRP or null.
    unsafe {
        let size = MmSizeOfMdl(base, length as usize);
        if length == 0 || size > i16::MAX as usize {
            return ptr::null_mut();
        }
        let mdl = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, size, TAG_MDL).cast::<Mdl>();
        if mdl.is_null() {
            return mdl;
        }
        initialize(mdl, base as usize, length, size);
        if !irp.is_null() {
            let first = (*irp).mdl.cast::<Mdl>();
            if secondary == 0 || first.is_null() {
                (*irp).mdl = mdl.cast();
            } else {
                let mut last = first;
                while !(*last).next.is_null() {
                    last = (*last).next;
                }
                (*last).next = mdl;
            }
        }
        mdl
    }
}

/// `MmInitializeMdl`, as the macro of wdm.h does it; the frame numbers are left alone.
///
/// # Safety
/// `mdl` has `size` bytes.
pub unsafe fn initialize(mdl: *mut Mdl, base: usize, length: u32, size: usize) {
    let value = Mdl {
        next: ptr::null_mut(),
        size: size as i16,
        flags: 0,
        reserved: 0,
        process: ptr::null_mut(),
        mapped_system_va: ptr::null_mut(),
        start_va: (base & !(PAGE_SIZE - 1)) as *mut c_void,
        byte_count: length,
        byte_offset: (base & (PAGE_SIZE - 1)) as u32,
    };
    // SAFETY: the caller's promise.
    unsafe { mdl.write(value) };
}

/// `IoFreeMdl`: a partial MDL that was mapped is unmapped; one whose pages are locked is a mistake.
pub unsafe extern "win64" fn IoFreeMdl(mdl: *mut Mdl) {
    // SAFETY: the caller gives an MDL of `IoAllocateMdl`.
    unsafe {
        let flags = (*mdl).flags;
        if flags & MDL_PARTIAL_HAS_BEEN_MAPPED != 0 {
            unmap(&mut *mdl);
        } else if flags & MDL_PARTIAL == 0 && flags & MDL_PAGES_LOCKED != 0 {
            violation("IoFreeMdl: the pages of the MDL are still locked", mdl as usize, flags as usize);
        }
        ExFreePool(mdl.cast());
    }
}

/// `MmBuildMdlForNonPagedPool`: the buffer's pages, which stay where they are.
pub unsafe extern "win64" fn MmBuildMdlForNonPagedPool(mdl: *mut Mdl) {
    // SAFETY: the caller gives an MDL for a buffer of resident memory.
    unsafe {
        if (*mdl).flags & (MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL | MDL_PARTIAL) != 0
        {
            violation("MmBuildMdlForNonPagedPool: the MDL is in use", mdl as usize, (*mdl).flags as usize);
        }
        if !fill(&*mdl) {
            violation("MmBuildMdlForNonPagedPool: no such memory", mdl as usize, (*mdl).virtual_address());
        }
        (*mdl).mapped_system_va = (*mdl).virtual_address() as *mut c_void;
        (*mdl).flags |= MDL_SOURCE_IS_NONPAGED_POOL;
    }
}

/// Writes the frame numbers of the buffer. False: a page is not there.
///
/// # Safety
/// The MDL has room for them.
unsafe fn fill(mdl: &Mdl) -> bool {
    for i in 0..mdl.pages() {
        let Some(address) = platform().physical_address(mdl.start_va as usize + i * PAGE_SIZE) else { return false };
        // SAFETY: the caller's promise.
        unsafe { mdl.frames().add(i).write(address / PAGE_SIZE as u64) };
    }
    true
}

raising_export! {
    /// `MmProbeAndLockPages`: mode (0 kernel, 1 user), operation (0 read, 1 write, 2 modify). Raises
    /// STATUS_ACCESS_VIOLATION if a page is not there. IRQL <= APC_LEVEL for pageable memory.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmprobeandlockpages>
    fn MmProbeAndLockPages(mdl: *mut Mdl, mode: i8, operation: i32) = probe_and_lock_body;
}

unsafe extern "win64" fn probe_and_lock_body(mdl: u64, _mode: u64, operation: u64, _: u64, at: *mut Context) -> u64 {
    // SAFETY: the caller gives an MDL; the shim took its context.
    unsafe {
        let mdl = &mut *(mdl as *mut Mdl);
        if mdl.flags & (MDL_PAGES_LOCKED | MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL | MDL_PARTIAL) != 0 {
            violation("MmProbeAndLockPages: the MDL is in use", &raw const *mdl as usize, mdl.flags as usize);
        }
        if !fill(mdl) {
            raise_status(STATUS_ACCESS_VIOLATION, at);
        }
        pin(mdl, mdl.pages(), true);
        mdl.flags |= MDL_PAGES_LOCKED | if operation as u32 == 0 { 0 } else { MDL_WRITE_OPERATION };
    }
    0
}

/// `MmUnlockPages`: unmaps first if it is mapped.
pub unsafe extern "win64" fn MmUnlockPages(mdl: *mut Mdl) {
    // SAFETY: the caller gives an MDL that it locked.
    unsafe {
        let mdl = &mut *mdl;
        if mdl.flags & MDL_PAGES_LOCKED == 0 || mdl.flags & (MDL_PARTIAL | MDL_SOURCE_IS_NONPAGED_POOL) != 0 {
            violation("MmUnlockPages: the pages are not locked", &raw const *mdl as usize, mdl.flags as usize);
        }
        if mdl.flags & MDL_MAPPED_TO_SYSTEM_VA != 0 {
            unmap(mdl);
        }
        pin(mdl, mdl.pages(), false);
        mdl.flags &= !(MDL_PAGES_LOCKED | MDL_WRITE_OPERATION);
    }
}

/// Keeps the first pages of a buffer resident, or does so no more.
fn pin(mdl: &Mdl, pages: usize, pin: bool) {
    match NonNull::new(mdl.start_va.cast()) {
        Some(base) if pin => platform().pin(base, pages),
        Some(base) => platform().unpin(base, pages),
        None => {}
    }
}

/// `MmMapLockedPages`: as [`MmMapLockedPagesSpecifyCache`], cached.
pub unsafe extern "win64" fn MmMapLockedPages(mdl: *mut Mdl, mode: i8) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { MmMapLockedPagesSpecifyCache(mdl, mode, 1, ptr::null_mut(), 1, 16) }
}

/// The cache attribute of a `MEMORY_CACHING_TYPE`.
pub fn cache_of(kind: u32) -> Cache {
    match kind {
        0 => Cache::None,
        2 => Cache::Combine,
        _ => Cache::Write,
    }
}

/// `MmMapLockedPagesSpecifyCache`, for the system only: there is no user space. Null without address space.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmmaplockedpagesspecifycache>
pub unsafe extern "win64" fn MmMapLockedPagesSpecifyCache(
    mdl: *mut Mdl,
    mode: i8,
    cache: u32,
    _requested: *mut c_void,
    bug_check_on_failure: u32,
    _priority: u32,
) -> *mut c_void {
    // SAFETY: the caller gives an MDL with pages.
    unsafe {
        let mdl = &mut *mdl;
        let at = &raw const *mdl as usize;
        if mode != 0 {
            violation("MmMapLockedPagesSpecifyCache: there is no user space to map into", at, mode as usize);
        }
        if mdl.flags & MDL_SOURCE_IS_NONPAGED_POOL != 0 {
            return mdl.mapped_system_va;
        }
        if mdl.flags & MDL_MAPPED_TO_SYSTEM_VA != 0 {
            violation("MmMapLockedPagesSpecifyCache: the MDL is mapped already", at, mdl.flags as usize);
        }
        if mdl.flags & (MDL_PAGES_LOCKED | MDL_PARTIAL) == 0 {
            violation("MmMapLockedPagesSpecifyCache: the pages are not locked", at, mdl.flags as usize);
        }
        let frames = core::slice::from_raw_parts(mdl.frames(), mdl.pages());
        let Some(base) = platform().map_frames(frames, cache_of(cache)) else {
            if bug_check_on_failure != 0 {
                violation("MmMapLockedPagesSpecifyCache: no address space left", at, mdl.byte_count as usize);
            }
            return ptr::null_mut();
        };
        mdl.mapped_system_va = base.as_ptr().add(mdl.byte_offset as usize).cast();
        mdl.flags |= MDL_MAPPED_TO_SYSTEM_VA;
        if mdl.flags & MDL_PARTIAL != 0 {
            mdl.flags |= MDL_PARTIAL_HAS_BEEN_MAPPED;
        }
        mdl.mapped_system_va
    }
}

/// `MmUnmapLockedPages`.
pub unsafe extern "win64" fn MmUnmapLockedPages(base: *mut c_void, mdl: *mut Mdl) {
    // SAFETY: the caller gives an MDL that is mapped.
    unsafe {
        let mdl = &mut *mdl;
        if mdl.flags & MDL_MAPPED_TO_SYSTEM_VA == 0 || mdl.mapped_system_va != base {
            violation("MmUnmapLockedPages: it is not mapped there", &raw const *mdl as usize, base as usize);
        }
        unmap(mdl);
    }
}

/// Takes the mapping away.
fn unmap(mdl: &mut Mdl) {
    let base = mdl.mapped_system_va as usize & !(PAGE_SIZE - 1);
    if let Some(base) = NonNull::new(base as *mut u8) {
        platform().unmap_frames(base, mdl.pages());
    }
    mdl.mapped_system_va = ptr::null_mut();
    mdl.flags &= !(MDL_MAPPED_TO_SYSTEM_VA | MDL_PARTIAL_HAS_BEEN_MAPPED);
}

/// `MmGetSystemAddressForMdlSafe`, as the macro of wdm.h does it.
///
/// # Safety
/// The MDL has pages.
pub unsafe fn system_address(mdl: *mut Mdl) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe {
        if (*mdl).flags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0 {
            (*mdl).mapped_system_va
        } else {
            MmMapLockedPagesSpecifyCache(mdl, 0, 1, ptr::null_mut(), 0, 16)
        }
    }
}

/// `IoBuildPartialMdl`: a part of the source's buffer; length 0 means to its end.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iobuildpartialmdl>
pub unsafe extern "win64" fn IoBuildPartialMdl(source: *mut Mdl, target: *mut Mdl, base: *mut c_void, length: u32) {
    // SAFETY: the caller gives a source with pages and a target that is large enough, which is checked.
    unsafe {
        let (source, target) = (&*source, &mut *target);
        let start = source.virtual_address();
        let offset = (base as usize).wrapping_sub(start);
        let length = if length == 0 { source.byte_count.saturating_sub(offset as u32) } else { length };
        if offset as u64 + u64::from(length) > u64::from(source.byte_count) {
            violation("IoBuildPartialMdl: beyond the source's buffer", base as usize, length as usize);
        }
        if MmSizeOfMdl(base, length as usize) > target.size as usize {
            violation("IoBuildPartialMdl: the target MDL is too small", &raw const *target as usize, length as usize);
        }
        target.process = source.process;
        target.start_va = (base as usize & !(PAGE_SIZE - 1)) as *mut c_void;
        target.byte_offset = (base as usize & (PAGE_SIZE - 1)) as u32;
        target.byte_count = length;
        target.flags = (target.flags & !(MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL)) | MDL_PARTIAL;
        if source.flags & MDL_SOURCE_IS_NONPAGED_POOL != 0 {
            target.flags |= MDL_SOURCE_IS_NONPAGED_POOL;
            target.mapped_system_va = source.mapped_system_va.cast::<u8>().add(offset).cast();
        } else if source.flags & MDL_MAPPED_TO_SYSTEM_VA != 0 {
            target.flags |= MDL_MAPPED_TO_SYSTEM_VA | MDL_PARENT_MAPPED_SYSTEM_VA;
            target.mapped_system_va = source.mapped_system_va.cast::<u8>().add(offset).cast();
        }
        let first = (target.start_va as usize - source.start_va as usize) / PAGE_SIZE;
        ptr::copy_nonoverlapping(source.frames().add(first), target.frames(), target.pages());
    }
}

/// `MmAdvanceMdl`: the buffer starts `bytes` later.
pub unsafe extern "win64" fn MmAdvanceMdl(mdl: *mut Mdl, bytes: u32) -> NtStatus {
    // SAFETY: the caller gives an MDL with pages.
    unsafe {
        let mdl = &mut *mdl;
        if bytes >= mdl.byte_count {
            return STATUS_INVALID_PARAMETER;
        }
        let offset = mdl.byte_offset as usize + bytes as usize;
        let skipped = offset / PAGE_SIZE;
        if mdl.flags & (MDL_PAGES_LOCKED | MDL_PARTIAL) == MDL_PAGES_LOCKED {
            pin(mdl, skipped, false);
        }
        mdl.byte_count -= bytes;
        mdl.byte_offset = (offset % PAGE_SIZE) as u32;
        mdl.start_va = mdl.start_va.cast::<u8>().add(skipped * PAGE_SIZE).cast();
        ptr::copy(mdl.frames().add(skipped), mdl.frames(), mdl.pages());
        if mdl.flags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL) != 0 {
            mdl.mapped_system_va = mdl.mapped_system_va.cast::<u8>().add(bytes as usize).cast();
        }
    }
    STATUS_SUCCESS
}

/// `MmAllocatePagesForMdl`: as [`MmAllocatePagesForMdlEx`], cached.
pub unsafe extern "win64" fn MmAllocatePagesForMdl(low: u64, high: u64, skip: u64, total: usize) -> *mut Mdl {
    // SAFETY: no pointer goes in.
    unsafe { MmAllocatePagesForMdlEx(low, high, skip, total, 1, 0) }
}

/// `MM_ALLOCATE_FULLY_REQUIRED`.
const MM_ALLOCATE_FULLY_REQUIRED: u32 = 4;

/// `MmAllocatePagesForMdlEx`: physical pages that are mapped nowhere, zeroed, as many as there are (all or none with
/// MM_ALLOCATE_FULLY_REQUIRED). IRQL <= APC_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmallocatepagesformdlex>
pub unsafe extern "win64" fn MmAllocatePagesForMdlEx(
    low: u64,
    high: u64,
    _skip: u64,
    total: usize,
    _cache: u32,
    flags: u32,
) -> *mut Mdl {
    let pages = total.div_ceil(PAGE_SIZE);
    if pages == 0 || u32::try_from(total).is_err() {
        return ptr::null_mut();
    }
    // SAFETY: the MDL has room for all frame numbers. Its size field is too narrow for the largest ones, as in Windows.
    unsafe {
        let size = MmSizeOfMdl(ptr::null(), pages * PAGE_SIZE);
        let mdl = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, size, TAG_MDL).cast::<Mdl>();
        if mdl.is_null() {
            return mdl;
        }
        initialize(mdl, 0, 0, size);
        let mut got = 0;
        while got < pages {
            let Some(frame) = platform().alloc_frame(low, high) else { break };
            (*mdl).frames().add(got).write(frame);
            got += 1;
        }
        if got == 0 || (got < pages && flags & MM_ALLOCATE_FULLY_REQUIRED != 0) {
            for i in 0..got {
                platform().free_frame((*mdl).frames().add(i).read());
            }
            ExFreePool(mdl.cast());
            return ptr::null_mut();
        }
        (*mdl).byte_count = (got * PAGE_SIZE) as u32;
        (*mdl).flags = MDL_PAGES_LOCKED;
        mdl
    }
}

/// `MmFreePagesFromMdl`: the pages, not the MDL, which the caller frees with `ExFreePool`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn MmFreePagesFromMdl(mdl: *mut Mdl) {
    // SAFETY: the caller gives an MDL of `MmAllocatePagesForMdl`.
    unsafe {
        let mdl = &mut *mdl;
        if mdl.flags & MDL_MAPPED_TO_SYSTEM_VA != 0 {
            violation("MmFreePagesFromMdl: the pages are still mapped", &raw const *mdl as usize, mdl.flags as usize);
        }
        if mdl.flags & MDL_PAGES_LOCKED == 0 {
            violation("MmFreePagesFromMdl: the pages were freed before", &raw const *mdl as usize, mdl.flags as usize);
        }
        for i in 0..mdl.pages() {
            platform().free_frame(mdl.frames().add(i).read());
        }
        mdl.flags &= !MDL_PAGES_LOCKED;
        mdl.byte_count = 0;
    }
}

/// `MmProtectMdlSystemAddress`: protections are not tracked for mappings; the arguments are checked.
pub unsafe extern "win64" fn MmProtectMdlSystemAddress(mdl: *mut Mdl, _protection: u32) -> NtStatus {
    // SAFETY: the caller gives an MDL.
    if unsafe { (*mdl).flags } & MDL_MAPPED_TO_SYSTEM_VA == 0 { 0xC000_0019_u32 as i32 } else { STATUS_SUCCESS }
}
