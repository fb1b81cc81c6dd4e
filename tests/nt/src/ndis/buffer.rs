//! Looking at and moving the data of a NET_BUFFER.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/nbl/nf-nbl-ndisgetdatabuffer>

use super::abi::*;
use super::packet::*;
use super::pool::position;
use super::violation;
use crate::mm::mdl::system_address;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;

/// The pieces of a buffer's data: address and bytes. `None`: the MDLs end before the data, or one cannot be mapped.
///
/// # Safety
/// The buffer is valid.
pub unsafe fn pieces(buffer: *mut Nb) -> Option<Vec<(*mut u8, usize)>> {
    let mut out = Vec::new();
    // SAFETY: the caller's promise.
    unsafe {
        let mut skip = (*buffer).data_offset as usize;
        let mut left = (*buffer).data_length as usize;
        for mdl in mdls((*buffer).mdl_chain) {
            if left == 0 {
                break;
            }
            let bytes = (*mdl).byte_count as usize;
            if skip >= bytes {
                skip -= bytes;
                continue;
            }
            let address = system_address(mdl).cast::<u8>();
            if address.is_null() {
                return None;
            }
            let count = (bytes - skip).min(left);
            out.push((address.add(skip), count));
            left -= count;
            skip = 0;
        }
        (left == 0).then_some(out)
    }
}

/// A copy of a buffer's data. `None` as for [`pieces`].
///
/// # Safety
/// The buffer is valid and its memory mapped.
pub unsafe fn copy_out(buffer: *mut Nb) -> Option<Vec<u8>> {
    // SAFETY: the caller's promise.
    unsafe {
        let mut out = Vec::with_capacity((*buffer).data_length as usize);
        for (address, bytes) in pieces(buffer)? {
            out.extend_from_slice(core::slice::from_raw_parts(address, bytes));
        }
        Some(out)
    }
}

/// `NdisGetDataBuffer`: the first bytes of the data in one piece: where they are, or copied to `storage`. Null: there are
/// fewer, or they are in pieces and there is no storage. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisGetDataBuffer(
    buffer: *mut Nb,
    needed: u32,
    storage: *mut c_void,
    align_multiple: u32,
    align_offset: u32,
) -> *mut c_void {
    // SAFETY: the caller gives a buffer and storage of that size or none.
    unsafe {
        if needed == 0 || (*buffer).data_length < needed {
            return ptr::null_mut();
        }
        let mdl = (*buffer).current_mdl;
        let offset = (*buffer).current_mdl_offset;
        if offset + needed <= (*mdl).byte_count {
            let base = system_address(mdl).cast::<u8>();
            if base.is_null() {
                return ptr::null_mut();
            }
            let address = base.add(offset as usize);
            if align_multiple <= 1
                || (address as usize).wrapping_sub(align_offset as usize).is_multiple_of(align_multiple as usize)
            {
                return address.cast();
            }
        }
        if storage.is_null() {
            return ptr::null_mut();
        }
        let Some(pieces) = pieces(buffer) else { return ptr::null_mut() };
        let mut done = 0;
        for (address, bytes) in pieces {
            let count = bytes.min(needed as usize - done);
            ptr::copy_nonoverlapping(address, storage.cast::<u8>().add(done), count);
            done += count;
        }
        storage
    }
}

/// `NdisAdvanceNetBufferDataStart`: leaves out bytes at the front. IRQL <= DISPATCH_LEVEL. MDLs are never freed here, as no
/// call of this port adds one in front.
pub unsafe extern "win64" fn NdisAdvanceNetBufferDataStart(
    buffer: *mut Nb,
    bytes: u32,
    _free_mdl: u8,
    _free_handler: *const c_void,
) {
    // SAFETY: the caller gives a buffer.
    unsafe {
        if bytes > (*buffer).data_length {
            violation("NdisAdvanceNetBufferDataStart", format_args!("{bytes} of {} bytes", (*buffer).data_length));
        }
        (*buffer).data_offset += bytes;
        (*buffer).data_length -= bytes;
        position(buffer);
    }
}

/// `NdisRetreatNetBufferDataStart`: takes in bytes in front of the data. Without room there NDIS_STATUS_RESOURCES: this
/// port adds no MDL. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisRetreatNetBufferDataStart(
    buffer: *mut Nb,
    bytes: u32,
    _back_fill: u32,
    _allocate_handler: *const c_void,
) -> NdisStatus {
    // SAFETY: the caller gives a buffer.
    unsafe {
        if bytes > (*buffer).data_offset {
            return NDIS_STATUS_RESOURCES;
        }
        (*buffer).data_offset -= bytes;
        (*buffer).data_length += bytes;
        position(buffer);
    }
    NDIS_STATUS_SUCCESS
}

/// `NdisAdvanceNetBufferListDataStart`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAdvanceNetBufferListDataStart(
    list: *mut Nbl,
    bytes: u32,
    free_mdl: u8,
    free_handler: *const c_void,
) {
    // SAFETY: the caller gives a list.
    unsafe { buffers(list).for_each(|b| NdisAdvanceNetBufferDataStart(b, bytes, free_mdl, free_handler)) };
}

/// `NdisRetreatNetBufferListDataStart`: all buffers or none. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisRetreatNetBufferListDataStart(
    list: *mut Nbl,
    bytes: u32,
    back_fill: u32,
    allocate_handler: *const c_void,
    _free_handler: *const c_void,
) -> NdisStatus {
    // SAFETY: the caller gives a list.
    unsafe {
        if buffers(list).any(|buffer| (*buffer).data_offset < bytes) {
            return NDIS_STATUS_RESOURCES;
        }
        for buffer in buffers(list) {
            NdisRetreatNetBufferDataStart(buffer, bytes, back_fill, allocate_handler);
        }
    }
    NDIS_STATUS_SUCCESS
}

/// `NdisCopyFromNetBufferToNetBuffer`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisCopyFromNetBufferToNetBuffer(
    to: *mut Nb,
    to_offset: u32,
    bytes: u32,
    from: *mut Nb,
    from_offset: u32,
    copied: *mut u32,
) -> NdisStatus {
    // SAFETY: the caller gives buffers.
    unsafe {
        copied.write(0);
        let (Some(source), Some(target)) = (copy_out(from), pieces(to)) else { return NDIS_STATUS_RESOURCES };
        let source = source.get(from_offset as usize..).unwrap_or(&[]);
        let source = &source[..source.len().min(bytes as usize)];
        let (mut skip, mut done) = (to_offset as usize, 0);
        for (address, length) in target {
            if skip >= length {
                skip -= length;
                continue;
            }
            let count = (length - skip).min(source.len() - done);
            ptr::copy_nonoverlapping(source[done..].as_ptr(), address.add(skip), count);
            done += count;
            skip = 0;
        }
        copied.write(done as u32);
    }
    NDIS_STATUS_SUCCESS
}
