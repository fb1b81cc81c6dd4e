//! NET_BUFFER_LIST, NET_BUFFER, their pools and what stands out of band, NDIS 6.30, x64, from public documentation.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/nbl/ns-nbl-net_buffer_list>,
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/nblinfo/ne-nblinfo-ndis_net_buffer_list_info>

#![allow(missing_docs)]

use super::abi::{Handle, Header};
use crate::mm::abi::Mdl;
use core::ffi::c_void;
use core::mem::offset_of;

/// Entries of the out-of-band array: 24 in NDIS 6.30; later systems have up to four more behind them.
pub const INFO_COUNT: usize = 28;

/// `NET_BUFFER_LIST`.
#[repr(C, align(16))]
pub struct Nbl {
    pub next: *mut Nbl,
    pub first: *mut Nb,
    pub context: *mut NblContext,
    pub parent: *mut Nbl,
    pub pool: Handle,
    pub padding: usize,
    pub ndis_reserved: [*mut c_void; 2],
    pub protocol_reserved: [*mut c_void; 4],
    pub miniport_reserved: [*mut c_void; 2],
    pub scratch: *mut c_void,
    pub source: Handle,
    pub nbl_flags: u32,
    pub child_count: i32,
    pub flags: u32,
    pub status: i32,
    pub info: [usize; INFO_COUNT],
}

/// `NET_BUFFER`.
#[repr(C, align(16))]
pub struct Nb {
    pub next: *mut Nb,
    pub current_mdl: *mut Mdl,
    pub current_mdl_offset: u32,
    pub padding1: u32,
    pub data_length: u32,
    pub data_length_high: u32,
    pub mdl_chain: *mut Mdl,
    pub data_offset: u32,
    pub padding2: u32,
    pub checksum_bias: u16,
    pub reserved: u16,
    pub padding3: u32,
    pub pool: Handle,
    pub ndis_reserved: [*mut c_void; 2],
    pub protocol_reserved: [*mut c_void; 6],
    pub miniport_reserved: [*mut c_void; 4],
    pub physical: u64,
    pub sg_list: *mut c_void,
}

/// `NET_BUFFER_LIST_CONTEXT`; its data follow.
#[repr(C, align(16))]
pub struct NblContext {
    pub next: *mut NblContext,
    pub size: u16,
    pub offset: u16,
}

/// `NET_BUFFER_LIST_POOL_PARAMETERS`.
#[repr(C)]
pub struct NblPoolParameters {
    pub header: Header,
    pub protocol: u8,
    pub allocate_nb: u8,
    pub context_size: u16,
    pub tag: u32,
    pub data_size: u32,
}

/// `NET_BUFFER_POOL_PARAMETERS`.
#[repr(C)]
pub struct NbPoolParameters {
    pub header: Header,
    pub tag: u32,
    pub data_size: u32,
}

/// Places in [`Nbl::info`], `NDIS_NET_BUFFER_LIST_INFO`.
pub mod info {
    pub const CHECKSUM: usize = 0;
    pub const LARGE_SEND: usize = 2;
    pub const IEEE_8021Q: usize = 4;
    pub const CANCEL_ID: usize = 5;
    pub const FRAME_TYPE: usize = 7;
    pub const HASH_VALUE: usize = 8;
    pub const HASH_INFO: usize = 9;
    pub const RSC: usize = 22;
    pub const RSC_TIMESTAMP_DELTA: usize = 23;
}

/// `NDIS_SEND_FLAGS_DISPATCH_LEVEL`, `NDIS_SEND_COMPLETE_FLAGS_DISPATCH_LEVEL`, `NDIS_RECEIVE_FLAGS_DISPATCH_LEVEL`,
/// `NDIS_RETURN_FLAGS_DISPATCH_LEVEL`: the caller is at DISPATCH_LEVEL.
pub const FLAGS_DISPATCH_LEVEL: u32 = 1;
/// `NDIS_RECEIVE_FLAGS_RESOURCES`.
pub const RECEIVE_FLAGS_RESOURCES: u32 = 2;

/// The lists of a chain.
///
/// # Safety
/// The chain is valid and not changed while it is walked: each list is read before the next one is yielded.
pub unsafe fn lists(first: *mut Nbl) -> impl Iterator<Item = *mut Nbl> {
    let mut at = first;
    core::iter::from_fn(move || {
        let list = at;
        // SAFETY: the caller's promise.
        (!list.is_null()).then(|| unsafe {
            at = (*list).next;
            list
        })
    })
}

/// The buffers of a list.
///
/// # Safety
/// As [`lists`].
pub unsafe fn buffers(list: *mut Nbl) -> impl Iterator<Item = *mut Nb> {
    // SAFETY: the caller's promise.
    let mut at = unsafe { (*list).first };
    core::iter::from_fn(move || {
        let buffer = at;
        // SAFETY: the caller's promise.
        (!buffer.is_null()).then(|| unsafe {
            at = (*buffer).next;
            buffer
        })
    })
}

/// The MDLs of a chain.
///
/// # Safety
/// As [`lists`].
pub unsafe fn mdls(first: *mut Mdl) -> impl Iterator<Item = *mut Mdl> {
    let mut at = first;
    core::iter::from_fn(move || {
        let mdl = at;
        // SAFETY: the caller's promise.
        (!mdl.is_null()).then(|| unsafe {
            at = (*mdl).next;
            mdl
        })
    })
}

const _: () = {
    assert!(offset_of!(Nbl, pool) == 0x20 && offset_of!(Nbl, ndis_reserved) == 0x30);
    assert!(offset_of!(Nbl, protocol_reserved) == 0x40 && offset_of!(Nbl, miniport_reserved) == 0x60);
    assert!(offset_of!(Nbl, source) == 0x78 && offset_of!(Nbl, nbl_flags) == 0x80);
    assert!(offset_of!(Nbl, status) == 0x8c && offset_of!(Nbl, info) == 0x90);
    assert!(offset_of!(Nb, data_length) == 0x18 && offset_of!(Nb, mdl_chain) == 0x20);
    assert!(offset_of!(Nb, data_offset) == 0x28 && offset_of!(Nb, pool) == 0x38);
    assert!(offset_of!(Nb, protocol_reserved) == 0x50 && offset_of!(Nb, miniport_reserved) == 0x80);
    assert!(offset_of!(Nb, physical) == 0xa0 && size_of::<Nb>() == 0xb0);
    assert!(size_of::<NblPoolParameters>() == 0x10 && size_of::<NbPoolParameters>() == 0xc);
    assert!(size_of::<NblContext>() == 0x10);
};
