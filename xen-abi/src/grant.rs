//! Grant tables, version 1 (`xen/include/public/grant_table.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{DomId, PAGE_SIZE};

/// Number of an entry (`grant_ref_t`).
pub type GrantRef = u32;

/// Entries that the toolstack uses (`GNTTAB_NR_RESERVED_ENTRIES`); never free.
pub const RESERVED: u32 = 8;
/// Entries of a frame.
pub const ENTRIES_PER_FRAME: u32 = (PAGE_SIZE / size_of::<EntryV1>()) as u32;

/// `GNTTABOP_map_grant_ref`: [`MapGrantRef`].
pub const MAP_GRANT_REF: u32 = 0;
/// `GNTTABOP_unmap_grant_ref`: [`UnmapGrantRef`].
pub const UNMAP_GRANT_REF: u32 = 1;
/// `GNTTABOP_setup_table`: [`SetupTable`].
pub const SETUP_TABLE: u32 = 2;
/// `GNTTABOP_copy`: [`Copy`].
pub const COPY: u32 = 5;
/// `GNTTABOP_query_size`: [`QuerySize`].
pub const QUERY_SIZE: u32 = 6;
/// `GNTTABOP_set_version`: [`SetVersion`].
pub const SET_VERSION: u32 = 8;
/// `GNTTABOP_get_version`.
pub const GET_VERSION: u32 = 10;

/// `GTF_permit_access`: the entry grants access. (Bits 0 and 1 are the type; 0 is an unused entry.)
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// `GTF_type_mask`.
pub const GTF_TYPE_MASK: u16 = 3;
/// `GTF_readonly`.
pub const GTF_READONLY: u16 = 1 << 2;
/// `GTF_reading`: Xen's: mapped for reading, or being copied from.
pub const GTF_READING: u16 = 1 << 3;
/// `GTF_writing`: Xen's: mapped for writing, or being copied to.
pub const GTF_WRITING: u16 = 1 << 4;

/// Offset in an entry: flags, 16 bits.
pub const OFFSET_FLAGS: usize = 0;
/// Offset in an entry: the domain, 16 bits.
pub const OFFSET_DOMID: usize = 2;
/// Offset in an entry: the frame, 32 bits.
pub const OFFSET_FRAME: usize = 4;

/// Frame of the table and offset in it of an entry.
pub const fn entry(reference: GrantRef) -> (usize, usize) {
    ((reference / ENTRIES_PER_FRAME) as usize, (reference % ENTRIES_PER_FRAME) as usize * size_of::<EntryV1>())
}

/// `struct grant_entry_v1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EntryV1 {
    /// `GTF_*`.
    pub flags: u16,
    /// Who may.
    pub domid: DomId,
    /// Which guest frame: below 2^32.
    pub frame: u32,
}

/// `struct gnttab_map_grant_ref`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapGrantRef {
    /// Where to map it.
    pub host_addr: u64,
    /// `GNTMAP_*`.
    pub flags: u32,
    /// Which grant.
    pub reference: GrantRef,
    /// Whose.
    pub dom: DomId,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Out: for unmapping.
    pub handle: u32,
    /// Out: address on the bus.
    pub dev_bus_addr: u64,
}

/// `struct gnttab_unmap_grant_ref`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapGrantRef {
    /// Where it is mapped.
    pub host_addr: u64,
    /// Address on the bus.
    pub dev_bus_addr: u64,
    /// From mapping.
    pub handle: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// `struct gnttab_setup_table`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetupTable {
    /// Whose table.
    pub dom: DomId,
    /// Padding.
    pub pad0: u16,
    /// Frames it should have at least.
    pub nr_frames: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad1: [u16; 3],
    /// Address of the list that is filled.
    pub frame_list: u64,
}

/// `struct gnttab_query_size`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QuerySize {
    /// Whose table.
    pub dom: DomId,
    /// Padding.
    pub pad0: u16,
    /// Out: frames it has.
    pub nr_frames: u32,
    /// Out: frames it may have.
    pub max_nr_frames: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad1: u16,
}

/// `struct gnttab_set_version`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetVersion {
    /// In: the version wanted, out: the one in use.
    pub version: u32,
}

/// `struct gnttab_copy_ptr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyEnd {
    /// A grant or a guest frame.
    pub reference_or_gfn: u64,
    /// Whose.
    pub domid: DomId,
    /// Offset in the page.
    pub offset: u16,
    /// Padding.
    pub pad: u32,
}

/// `struct gnttab_copy`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantCopy {
    /// From where.
    pub source: CopyEnd,
    /// Whereto.
    pub dest: CopyEnd,
    /// Bytes.
    pub len: u16,
    /// `GNTCOPY_*`.
    pub flags: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// `GNTCOPY_source_gref`.
pub const COPY_SOURCE_GREF: u16 = 1;
/// `GNTCOPY_dest_gref`.
pub const COPY_DEST_GREF: u16 = 2;

/// `GNTMAP_device_map`.
pub const MAP_DEVICE: u32 = 1;
/// `GNTMAP_host_map`.
pub const MAP_HOST: u32 = 2;
/// `GNTMAP_readonly`.
pub const MAP_READONLY: u32 = 4;

/// `GNTST_okay`.
pub const STATUS_OKAY: i16 = 0;
/// `GNTST_general_error`.
pub const STATUS_GENERAL_ERROR: i16 = -1;
/// `GNTST_bad_domain`.
pub const STATUS_BAD_DOMAIN: i16 = -2;
/// `GNTST_bad_gntref`.
pub const STATUS_BAD_GNTREF: i16 = -3;
/// `GNTST_bad_handle`.
pub const STATUS_BAD_HANDLE: i16 = -4;
/// `GNTST_bad_virt_addr`.
pub const STATUS_BAD_VIRT_ADDR: i16 = -5;
/// `GNTST_bad_dev_addr`.
pub const STATUS_BAD_DEV_ADDR: i16 = -6;
/// `GNTST_no_device_space`.
pub const STATUS_NO_DEVICE_SPACE: i16 = -7;
/// `GNTST_permission_denied`.
pub const STATUS_PERMISSION_DENIED: i16 = -8;
/// `GNTST_bad_page`.
pub const STATUS_BAD_PAGE: i16 = -9;
/// `GNTST_bad_copy_arg`.
pub const STATUS_BAD_COPY_ARG: i16 = -10;
/// `GNTST_address_too_big`.
pub const STATUS_ADDRESS_TOO_BIG: i16 = -11;
/// `GNTST_eagain`.
pub const STATUS_EAGAIN: i16 = -12;
/// `GNTST_no_space`.
pub const STATUS_NO_SPACE: i16 = -13;

const _: () = {
    assert!(size_of::<EntryV1>() == 8);
    assert!(ENTRIES_PER_FRAME == 512);
    assert!(core::mem::offset_of!(EntryV1, domid) == OFFSET_DOMID);
    assert!(core::mem::offset_of!(EntryV1, frame) == OFFSET_FRAME);
    assert!(size_of::<MapGrantRef>() == 32);
    assert!(size_of::<UnmapGrantRef>() == 24);
    assert!(size_of::<SetupTable>() == 24);
    assert!(size_of::<QuerySize>() == 16);
    assert!(size_of::<CopyEnd>() == 16);
    assert!(size_of::<GrantCopy>() == 40);
};
