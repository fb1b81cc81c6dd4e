//! Whole pages: for shared rings and indirect descriptors, to map Xen's own frames over, and device memory.

use core::ptr::NonNull;

use wdk_sys::{_MEMORY_CACHING_TYPE, _MODE, MDL, PAGE_READWRITE, PHYSICAL_ADDRESS, POOL_FLAG_NON_PAGED, ntddk};

use crate::{
    driver,
    status::{Result, Status},
};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// Pool tag of everything this module allocates.
const TAG: u32 = u32::from_le_bytes(*b"XenP");
/// `MM_ALLOCATE_FULLY_REQUIRED`: all pages or none.
const MM_ALLOCATE_FULLY_REQUIRED: u32 = 0x4;
/// `NormalPagePriority | MdlMappingNoExecute`.
const MAPPING_PRIORITY: u32 = 16 | 0x4000_0000;
/// `PAGE_NOCACHE`.
const PAGE_NOCACHE: u32 = 0x200;

/// The guest frame number of the page that a nonpaged kernel address lies in. Any IRQL.
///
/// # Safety
/// `address` is a valid address in nonpaged memory.
pub unsafe fn frame_of(address: *const u8) -> u64 {
    // SAFETY: by contract.
    let physical = unsafe { ntddk::MmGetPhysicalAddress(address.cast_mut().cast()) };
    // SAFETY: PHYSICAL_ADDRESS's members are views of the same 64 bits.
    (unsafe { physical.QuadPart }) as u64 >> PAGE_SHIFT
}

/// Zeroed nonpaged pages, virtually contiguous, that share no page with anything else.
///
/// An allocation of a page or more is page-aligned:
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exallocatepool2>
pub struct Pages {
    address: NonNull<u8>,
    count: usize,
}

// SAFETY: the pages are plain memory that this value owns.
unsafe impl Send for Pages {}
// SAFETY: a shared reference only gives out the address.
unsafe impl Sync for Pages {}

impl Pages {
    /// Allocates `count` pages. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`]; [`Status::INVALID_PARAMETER`] for no pages.
    pub fn new(count: usize) -> Result<Self> {
        let bytes = count.checked_mul(PAGE_SIZE).filter(|&bytes| bytes != 0).ok_or(Status::INVALID_PARAMETER)?;
        // SAFETY: the size is not zero.
        let memory = unsafe { ntddk::ExAllocatePool2(POOL_FLAG_NON_PAGED, bytes as _, TAG) };
        let address = NonNull::new(memory.cast::<u8>()).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let pages = Self { address, count };
        if pages.address.addr().get().is_multiple_of(PAGE_SIZE) {
            Ok(pages)
        } else {
            Err(Status::INSUFFICIENT_RESOURCES)
        }
    }

    /// The first byte. Any IRQL.
    pub fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// Number of pages. Any IRQL.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The guest frame number of page `index`, if there is such a page. Any IRQL.
    pub fn frame(&self, index: usize) -> Option<u64> {
        if index >= self.count {
            return None;
        }
        // SAFETY: the address lies in pages that this value owns.
        Some(unsafe { frame_of(self.address.as_ptr().add(index * PAGE_SIZE)) })
    }

    /// Never gives the pages back: for pages that a peer may still write. The driver stays loaded. Any IRQL.
    pub fn leak(self) {
        driver::keep_loaded();
        core::mem::forget(self);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the memory came from the pool with this tag, and is freed once. IRQL <= DISPATCH_LEVEL.
        unsafe { ntddk::ExFreePoolWithTag(self.address.as_ptr().cast(), TAG) }
    }
}

/// Pages of RAM without a mapping, described by an MDL: what a hypervisor's frames can be put in the place of.
pub struct MdlPages {
    mdl: NonNull<MDL>,
    count: usize,
    mapping: Option<NonNull<u8>>,
}

// SAFETY: the MDL and its pages are owned by this value.
unsafe impl Send for MdlPages {}
// SAFETY: a shared reference only reads the frame list and gives out the address.
unsafe impl Sync for MdlPages {}

impl MdlPages {
    /// Takes `count` pages from the system.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`]; [`Status::INVALID_PARAMETER`] for no pages.
    pub fn new(count: usize) -> Result<Self> {
        let bytes = count.checked_mul(PAGE_SIZE).filter(|&bytes| bytes != 0).ok_or(Status::INVALID_PARAMETER)?;
        // SAFETY: the range is all of memory; the result is checked.
        let mdl = unsafe {
            ntddk::MmAllocatePagesForMdlEx(
                PHYSICAL_ADDRESS { QuadPart: 0 },
                PHYSICAL_ADDRESS { QuadPart: i64::MAX },
                PHYSICAL_ADDRESS { QuadPart: 0 },
                bytes as _,
                _MEMORY_CACHING_TYPE::MmCached,
                MM_ALLOCATE_FULLY_REQUIRED,
            )
        };
        let mdl = NonNull::new(mdl).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        Ok(Self { mdl, count, mapping: None })
    }

    /// Number of pages. Any IRQL.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The guest frame numbers, in the order of the mapping. Any IRQL.
    pub fn frames(&self) -> &[u64] {
        const { assert!(size_of::<wdk_sys::PFN_NUMBER>() == 8) }
        // SAFETY: the frame list follows the MDL's header (MmGetMdlPfnArray) and has one entry a page, all of which
        // were required to be there.
        unsafe { core::slice::from_raw_parts(self.mdl.as_ptr().add(1).cast(), self.count) }
    }

    /// Maps the pages, cached, never executable; the same address each time.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    pub fn map(&mut self) -> Result<NonNull<u8>> {
        if let Some(address) = self.mapping {
            return Ok(address);
        }
        // SAFETY: the MDL describes locked pages. In kernel mode a failure is a null pointer since BugCheckOnFailure
        // is FALSE.
        let address = unsafe {
            ntddk::MmMapLockedPagesSpecifyCache(
                self.mdl.as_ptr(),
                _MODE::KernelMode as i8,
                _MEMORY_CACHING_TYPE::MmCached,
                core::ptr::null_mut(),
                0,
                MAPPING_PRIORITY as _,
            )
        };
        let address = NonNull::new(address.cast::<u8>()).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        self.mapping = Some(address);
        Ok(address)
    }

    /// Takes the mapping away; nothing may use its address any more.
    pub fn unmap(&mut self) {
        if let Some(address) = self.mapping.take() {
            // SAFETY: the address came from mapping this MDL.
            unsafe { ntddk::MmUnmapLockedPages(address.as_ptr().cast(), self.mdl.as_ptr()) }
        }
    }

    /// Never gives the pages back: for frames that are no RAM any more. The mapping stays, and so does the driver.
    /// Any IRQL.
    pub fn leak(self) {
        driver::keep_loaded();
        core::mem::forget(self);
    }
}

impl Drop for MdlPages {
    fn drop(&mut self) {
        self.unmap();
        // SAFETY: the pages and the MDL came from MmAllocatePagesForMdlEx, which has both freed in this order.
        unsafe {
            ntddk::MmFreePagesFromMdl(self.mdl.as_ptr());
            ntddk::ExFreePool(self.mdl.as_ptr().cast());
        }
    }
}

/// How device memory is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Write-back: there is RAM behind it, whatever the memory map says.
    Cached,
    /// Uncached: registers.
    Uncached,
}

/// Mapped memory that is not the system's RAM.
pub struct IoSpace {
    address: NonNull<u8>,
    bytes: usize,
    physical: u64,
}

// SAFETY: the mapping is owned by this value.
unsafe impl Send for IoSpace {}
// SAFETY: a shared reference only gives out the address.
unsafe impl Sync for IoSpace {}

impl IoSpace {
    /// Maps `bytes` at a translated physical address, readable, writable, not executable.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    pub fn new(physical: u64, bytes: usize, caching: Caching) -> Result<Self> {
        let protection = match caching {
            Caching::Cached => PAGE_READWRITE,
            Caching::Uncached => PAGE_READWRITE | PAGE_NOCACHE,
        };
        let start = PHYSICAL_ADDRESS { QuadPart: physical as i64 };
        // SAFETY: mapping has no requirement on the caller's memory; the result is checked.
        let address = unsafe { ntddk::MmMapIoSpaceEx(start, bytes as _, protection) };
        let address = NonNull::new(address.cast::<u8>()).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        Ok(Self { address, bytes, physical })
    }

    /// The first byte. Any IRQL.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.address
    }

    /// Length in bytes. Any IRQL.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The guest frame number of the first page. Any IRQL.
    pub fn first_frame(&self) -> u64 {
        self.physical >> PAGE_SHIFT
    }
}

impl Drop for IoSpace {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, with this length.
        unsafe { ntddk::MmUnmapIoSpace(self.address.as_ptr().cast(), self.bytes as _) }
    }
}
