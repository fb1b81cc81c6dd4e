//! Memory operations (`xen/include/public/memory.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::DomId;

/// `XENMEM_increase_reservation`.
pub const INCREASE_RESERVATION: u32 = 0;
/// `XENMEM_decrease_reservation`: [`Reservation`]; returns the extents given back.
pub const DECREASE_RESERVATION: u32 = 1;
/// `XENMEM_current_reservation`.
pub const CURRENT_RESERVATION: u32 = 3;
/// `XENMEM_maximum_reservation`.
pub const MAXIMUM_RESERVATION: u32 = 4;
/// `XENMEM_populate_physmap`: [`Reservation`]; returns the extents populated.
pub const POPULATE_PHYSMAP: u32 = 6;
/// `XENMEM_add_to_physmap`: [`AddToPhysmap`].
pub const ADD_TO_PHYSMAP: u32 = 7;
/// `XENMEM_memory_map`.
pub const MEMORY_MAP: u32 = 9;
/// `XENMEM_maximum_gpfn`.
pub const MAXIMUM_GPFN: u32 = 14;
/// `XENMEM_remove_from_physmap`: [`RemoveFromPhysmap`].
pub const REMOVE_FROM_PHYSMAP: u32 = 15;

/// `XENMAPSPACE_shared_info`.
pub const SPACE_SHARED_INFO: u32 = 0;
/// `XENMAPSPACE_grant_table`.
pub const SPACE_GRANT_TABLE: u32 = 1;

/// `struct xen_memory_reservation`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reservation {
    /// Address of the list of guest frame numbers (64-bit each).
    pub extent_start: u64,
    /// Entries of the list.
    pub extent_count: u64,
    /// `log2` of the pages of an extent.
    pub extent_order: u32,
    /// `XENMEMF_*`.
    pub mem_flags: u32,
    /// Whose memory.
    pub domid: DomId,
    /// Padding.
    pub pad: [u16; 3],
}

/// `struct xen_add_to_physmap`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddToPhysmap {
    /// Whose physical memory.
    pub domid: DomId,
    /// Only for ranges.
    pub size: u16,
    /// `XENMAPSPACE_*`.
    pub space: u32,
    /// Which frame of the space.
    pub idx: u64,
    /// Where it is to appear. What was there before is dropped.
    pub gpfn: u64,
}

/// `struct xen_remove_from_physmap`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoveFromPhysmap {
    /// Whose physical memory.
    pub domid: DomId,
    /// Padding.
    pub pad: [u16; 3],
    /// Which frame.
    pub gpfn: u64,
}

const _: () = {
    assert!(size_of::<Reservation>() == 32);
    assert!(core::mem::offset_of!(Reservation, domid) == 24);
    assert!(size_of::<AddToPhysmap>() == 24);
    assert!(core::mem::offset_of!(AddToPhysmap, gpfn) == 16);
    assert!(size_of::<RemoveFromPhysmap>() == 16);
};
