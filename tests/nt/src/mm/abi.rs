//! The memory descriptor list, from public documentation.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_mdl>

use core::ffi::c_void;
use core::mem::offset_of;

/// `MDL`; the page frame numbers follow it.
#[repr(C)]
pub struct Mdl {
    /// Next of a chain.
    pub next: *mut Mdl,
    /// Bytes of this structure and of the frame numbers.
    pub size: i16,
    /// `MDL_*`.
    pub flags: i16,
    /// Reserved.
    pub reserved: u32,
    /// The process whose pages these are.
    pub process: *mut c_void,
    /// Where it is mapped, if the flags say so.
    pub mapped_system_va: *mut c_void,
    /// First page of the buffer.
    pub start_va: *mut c_void,
    /// Bytes of the buffer.
    pub byte_count: u32,
    /// Offset into the first page.
    pub byte_offset: u32,
}

/// `MDL_MAPPED_TO_SYSTEM_VA`.
pub const MDL_MAPPED_TO_SYSTEM_VA: i16 = 0x1;
/// `MDL_PAGES_LOCKED`.
pub const MDL_PAGES_LOCKED: i16 = 0x2;
/// `MDL_SOURCE_IS_NONPAGED_POOL`.
pub const MDL_SOURCE_IS_NONPAGED_POOL: i16 = 0x4;
/// `MDL_PARTIAL`.
pub const MDL_PARTIAL: i16 = 0x10;
/// `MDL_PARTIAL_HAS_BEEN_MAPPED`.
pub const MDL_PARTIAL_HAS_BEEN_MAPPED: i16 = 0x20;
/// `MDL_WRITE_OPERATION`.
pub const MDL_WRITE_OPERATION: i16 = 0x80;
/// `MDL_PARENT_MAPPED_SYSTEM_VA`.
pub const MDL_PARENT_MAPPED_SYSTEM_VA: i16 = 0x100;

impl Mdl {
    /// The buffer's address, `MmGetMdlVirtualAddress`.
    pub fn virtual_address(&self) -> usize {
        self.start_va as usize + self.byte_offset as usize
    }

    /// Pages that it describes.
    pub fn pages(&self) -> usize {
        (self.byte_offset as usize + self.byte_count as usize).div_ceil(4096)
    }

    /// The frame numbers, `MmGetMdlPfnArray`.
    pub fn frames(&self) -> *mut u64 {
        // Not derived from `self`: the numbers lie behind what a reference to the structure covers.
        core::ptr::with_exposed_provenance_mut((&raw const *self).expose_provenance() + size_of::<Self>())
    }
}

const _: () = {
    assert!(size_of::<Mdl>() == 0x30 && offset_of!(Mdl, flags) == 0xa);
    assert!(offset_of!(Mdl, mapped_system_va) == 0x18 && offset_of!(Mdl, byte_offset) == 0x2c);
};
