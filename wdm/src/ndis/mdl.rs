//! Memory descriptor lists of packets: the pages of one, and its mapping.

use core::ptr::NonNull;

use wdk_sys::{_MEMORY_CACHING_TYPE, _MODE, MDL, ntddk};

use crate::{
    pages::{PAGE_SHIFT, PAGE_SIZE},
    status::{Result, Status},
};

/// `MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL`: MappedSystemVa is valid.
const HAS_ADDRESS: i16 = 0x1 | 0x4;
/// `NormalPagePriority | MdlMappingNoExecute`.
const MAPPING_PRIORITY: u32 = 16 | 0x4000_0000;

/// A piece of a packet within one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The guest frame number.
    pub frame: u64,
    /// Where it begins in the page.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// A place in a chain of MDLs that is asked for pieces in mostly rising order.
#[derive(Clone, Copy)]
pub struct Cursor {
    first: *mut MDL,
    mdl: *mut MDL,
    /// Bytes of the chain before `mdl`.
    start: u32,
}

impl Cursor {
    /// At the beginning of a chain.
    pub const fn new(first: *mut MDL) -> Self {
        Self { first, mdl: first, start: 0 }
    }

    /// The piece that begins at byte `offset` of the chain; it ends with its page or its MDL. None: the chain is not that
    /// long. Any IRQL.
    ///
    /// # Safety
    /// The chain's pages are locked or nonpaged, and it has not changed since the cursor was made.
    #[inline]
    pub unsafe fn slice(&mut self, offset: u32) -> Option<Slice> {
        if offset < self.start {
            *self = Self::new(self.first);
        }
        loop {
            // SAFETY: by contract.
            let mdl = unsafe { self.mdl.as_ref() }?;
            let into = offset - self.start;
            if into < mdl.ByteCount {
                let start = mdl.ByteOffset as usize + into as usize;
                let place = start % PAGE_SIZE;
                // SAFETY: the frames follow the header (MmGetMdlPfnArray), one for each page that the buffer touches;
                // the index is that of a byte in it.
                let frame = unsafe { core::ptr::from_ref(mdl).add(1).cast::<u64>().add(start >> PAGE_SHIFT).read() };
                let len = (mdl.ByteCount - into).min((PAGE_SIZE - place) as u32);
                return Some(Slice { frame, offset: place as u32, len });
            }
            self.start = self.start.checked_add(mdl.ByteCount)?;
            self.mdl = mdl.Next;
        }
    }
}

/// The address of an MDL's buffer, mapped now if need be; what owns the MDL takes the mapping away when it frees it.
/// IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `mdl` is an MDL whose pages are locked or nonpaged.
#[inline]
unsafe fn address(mdl: *mut MDL) -> Option<NonNull<u8>> {
    // SAFETY: by contract. This is MmGetSystemAddressForMdlSafe.
    let address = unsafe {
        if (*mdl).MdlFlags & HAS_ADDRESS != 0 {
            (*mdl).MappedSystemVa
        } else {
            ntddk::MmMapLockedPagesSpecifyCache(
                mdl,
                _MODE::KernelMode as i8,
                _MEMORY_CACHING_TYPE::MmCached,
                core::ptr::null_mut(),
                0,
                MAPPING_PRIORITY as _,
            )
        }
    };
    NonNull::new(address.cast())
}

/// The `N` bytes from `offset` on of an MDL that is mapped and has them all. Any IRQL.
///
/// # Safety
/// `mdl` is null or an MDL whose pages are locked or nonpaged.
#[inline]
pub unsafe fn first<const N: usize>(mdl: *mut MDL, offset: u32) -> Option<[u8; N]> {
    // SAFETY: by contract.
    let mdl = unsafe { mdl.as_ref() }?;
    if mdl.MdlFlags & HAS_ADDRESS == 0 || offset as usize + N > mdl.ByteCount as usize {
        return None;
    }
    let base = NonNull::new(mdl.MappedSystemVa.cast::<u8>())?;
    // SAFETY: all of it is within the buffer that is mapped.
    Some(unsafe { base.add(offset as usize).cast::<[u8; N]>().read_unaligned() })
}

/// Copies `out.len()` bytes from `offset` on out of a chain. How many there were to copy; fewer too where a buffer cannot
/// be mapped. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `mdl` is null or a chain of MDLs whose pages are locked or nonpaged.
#[inline]
pub unsafe fn copy_out(mut mdl: *mut MDL, offset: u32, out: &mut [u8]) -> usize {
    let wanted = out.len();
    let (mut rest, mut skip) = (out, offset as usize);
    while !rest.is_empty()
        // SAFETY: by contract.
        && let Some(here) = unsafe { mdl.as_ref() }
    {
        let count = here.ByteCount as usize;
        if skip >= count {
            skip -= count;
        } else {
            // SAFETY: by contract.
            let Some(base) = (unsafe { address(mdl) }) else { break };
            let (part, behind) = rest.split_at_mut(rest.len().min(count - skip));
            // SAFETY: `skip + part.len()` is within the buffer that was mapped; the caller's buffer is no part of the
            // packet.
            unsafe { core::ptr::copy_nonoverlapping(base.as_ptr().add(skip), part.as_mut_ptr(), part.len()) };
            (rest, skip) = (behind, 0);
        }
        mdl = here.Next;
    }
    wanted - rest.len()
}

/// An MDL of one nonpaged page of the driver's own, which is cut to the piece of it that holds data.
pub struct PageMdl {
    mdl: NonNull<MDL>,
    page: NonNull<u8>,
}

// SAFETY: the MDL is owned by this value.
unsafe impl Send for PageMdl {}
// SAFETY: what changes it needs exclusive use of the page, which its users see to.
unsafe impl Sync for PageMdl {}

impl PageMdl {
    /// An MDL of the page. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    ///
    /// # Safety
    /// `page` is the address of a nonpaged page that outlives the value.
    pub unsafe fn new(page: NonNull<u8>) -> Result<Self> {
        // SAFETY: no IRP is involved.
        let mdl = unsafe { ntddk::IoAllocateMdl(page.as_ptr().cast(), PAGE_SIZE as u32, 0, 0, core::ptr::null_mut()) };
        let mdl = NonNull::new(mdl).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        // SAFETY: the buffer is nonpaged.
        unsafe { ntddk::MmBuildMdlForNonPagedPool(mdl.as_ptr()) };
        Ok(Self { mdl, page })
    }

    /// The MDL.
    pub const fn as_ptr(&self) -> *mut MDL {
        self.mdl.as_ptr()
    }

    /// Makes the MDL describe `len` bytes from `offset` on, and `next` the one behind it. Both are cut to the page.
    /// IRQL <= DISPATCH_LEVEL.
    ///
    /// # Safety
    /// Nobody else uses the MDL at the moment.
    #[inline]
    pub unsafe fn describe(&self, offset: u32, len: u32, next: *mut MDL) {
        let offset = offset.min(PAGE_SIZE as u32);
        let len = len.min(PAGE_SIZE as u32 - offset);
        let mdl = self.mdl.as_ptr();
        // SAFETY: the MDL is ours alone for now. This is what MmInitializeMdl writes for a buffer in the same page; the
        // frame number behind the header stays.
        unsafe {
            (*mdl).Next = next;
            (*mdl).ByteOffset = offset;
            (*mdl).ByteCount = len;
            (*mdl).MappedSystemVa = self.page.as_ptr().add(offset as usize).cast();
        }
    }
}

impl Drop for PageMdl {
    fn drop(&mut self) {
        // SAFETY: the MDL came from IoAllocateMdl and is not in use any more.
        unsafe { ntddk::IoFreeMdl(self.mdl.as_ptr()) }
    }
}
