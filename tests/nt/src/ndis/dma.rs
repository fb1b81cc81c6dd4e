//! Scatter/gather DMA and shared memory of a bus-master miniport, over the DMA adapter of its PDO.
//! <https://learn.microsoft.com/windows-hardware/drivers/network/ndis-scatter-gather-dma>

use super::abi::*;
use super::adapter::{self, Adapter};
use super::owned::{self, Kind};
use super::packet::Nb;
use super::violation;
use crate::storport::abi::ScatterGatherList;
use crate::storport::dma::{DeviceDescription, DmaAdapter};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_void;
use core::ptr;

/// A registration for scatter/gather DMA.
struct Dma {
    adapter: Arc<Adapter>,
    below: *mut DmaAdapter,
    process: ProcessSgList,
}

/// `NDIS_SG_DMA_64_BIT_ADDRESS`.
const SG_DMA_64_BIT: u32 = 1;
/// Bytes that a scatter/gather list may take here: of 32 elements.
const LIST_BYTES: u32 = 16 + 24 * 32;

/// The DMA adapter of a device; null if its bus has none.
fn get(adapter: &Adapter, most: u32, bits64: bool) -> *mut DmaAdapter {
    let wide = u8::from(bits64);
    let description = DeviceDescription {
        version: 1,
        flags: [1, 1, 0, 0, 1 - wide, 0, 0, wide],
        bus_number: 0,
        dma_channel: 0,
        // PCIBus
        interface_type: 5,
        dma_width: 0,
        dma_speed: 0,
        maximum_length: most,
        dma_port: 0,
        version3: [0; 6],
    };
    let mut registers = 0_u32;
    // SAFETY: the PDO stands below the adapter.
    unsafe {
        crate::hal::IoGetDmaAdapter(adapter.pdo, (&raw const description).cast_mut().cast(), &raw mut registers).cast()
    }
}

/// `NdisMRegisterScatterGatherDma`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisMRegisterScatterGatherDma(
    handle: Handle,
    description: *mut SgDmaDescription,
    out: *mut Handle,
) -> NdisStatus {
    const CALL: &str = "NdisMRegisterScatterGatherDma";
    let adapter = adapter::of(handle, CALL);
    // SAFETY: the caller gives a description and a place for the handle.
    unsafe {
        let given = &mut *description;
        let size = crate::through!(SgDmaDescription, list_size, u32);
        let Some(process) = given.process_list else { return NDIS_STATUS_INVALID_PARAMETER };
        if given.header.kind != object::SG_DMA_DESCRIPTION || usize::from(given.header.size) < size {
            return NDIS_STATUS_INVALID_PARAMETER;
        }
        if adapter.about.lock().flags & NDIS_MINIPORT_ATTRIBUTES_BUS_MASTER == 0 {
            violation(CALL, format_args!("the miniport did not set NDIS_MINIPORT_ATTRIBUTES_BUS_MASTER"));
        }
        let dma = get(&adapter, given.maximum_mapping, given.flags & SG_DMA_64_BIT != 0);
        if dma.is_null() {
            return NDIS_STATUS_RESOURCES;
        }
        given.list_size = LIST_BYTES;
        let object = Box::into_raw(Box::new(Dma { adapter, below: dma, process }));
        owned::add(Kind::Dma, object as usize, handle);
        out.write(object.cast());
    }
    NDIS_STATUS_SUCCESS
}

/// `NdisMDeregisterScatterGatherDma`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisMDeregisterScatterGatherDma(handle: Handle) {
    owned::remove(Kind::Dma, handle as usize, "NdisMDeregisterScatterGatherDma");
    // SAFETY: it was a registration in use.
    unsafe {
        let object = Box::from_raw(handle.cast::<Dma>());
        if let Some(put) = (*(*object.below).operations).put_dma_adapter {
            put(object.below);
        }
    }
}

/// What the list routine needs to reach the miniport's.
struct Call {
    process: ProcessSgList,
    context: *mut c_void,
    buffer: *mut Nb,
    owner: Handle,
}

unsafe extern "win64" fn list_ready(
    device: *mut crate::io::abi::DeviceObject,
    _irp: *mut c_void,
    list: *mut ScatterGatherList,
    call: *mut c_void,
) {
    // SAFETY: made by NdisMAllocateNetBufferSGList for this one call.
    unsafe {
        let call = Box::from_raw(call.cast::<Call>());
        owned::add(Kind::SgList, list as usize, call.owner);
        (*call.buffer).sg_list = list.cast();
        (call.process)(device.cast(), ptr::null_mut(), list.cast(), call.context);
    }
}

/// `NdisMAllocateNetBufferSGList`: the miniport's routine gets the list, at once or later. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisMAllocateNetBufferSGList(
    handle: Handle,
    buffer: *mut Nb,
    context: *mut c_void,
    flags: u32,
    _list: *mut c_void,
    _list_bytes: u32,
) -> NdisStatus {
    owned::check(Kind::Dma, handle as usize, "NdisMAllocateNetBufferSGList");
    // SAFETY: it is a registration in use; the caller gives a buffer with data.
    unsafe {
        let object = &*handle.cast::<Dma>();
        let Some(build) = (*(*object.below).operations).get_scatter_gather_list else {
            return NDIS_STATUS_NOT_SUPPORTED;
        };
        let owner = object.adapter.handle();
        let call = Box::into_raw(Box::new(Call { process: object.process, context, buffer, owner }));
        let mdl = (*buffer).current_mdl;
        let va = (*mdl).virtual_address() + (*buffer).current_mdl_offset as usize;
        // NDIS_SG_LIST_WRITE_TO_DEVICE
        let to_device = u8::from(flags & 1 != 0);
        let length = (*buffer).data_length;
        let status =
            build(object.below, object.adapter.fdo, mdl, va as *mut c_void, length, list_ready, call.cast(), to_device);
        if status < 0 {
            drop(Box::from_raw(call));
        }
        status
    }
}

/// `NdisMFreeNetBufferSGList`. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisMFreeNetBufferSGList(handle: Handle, list: *mut c_void, buffer: *mut Nb) {
    const CALL: &str = "NdisMFreeNetBufferSGList";
    owned::check(Kind::Dma, handle as usize, CALL);
    owned::remove(Kind::SgList, list as usize, CALL);
    // SAFETY: a registration and a list in use.
    unsafe {
        let object = &*handle.cast::<Dma>();
        (*buffer).sg_list = ptr::null_mut();
        if let Some(put) = (*(*object.below).operations).put_scatter_gather_list {
            put(object.below, list.cast(), 1);
        }
    }
}

/// `NdisMAllocateSharedMemory`: memory that device and driver see. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisMAllocateSharedMemory(
    handle: Handle,
    length: u32,
    cached: u8,
    address: *mut *mut c_void,
    physical: *mut u64,
) {
    let _adapter = adapter::of(handle, "NdisMAllocateSharedMemory");
    // SAFETY: the caller gives places for both addresses.
    unsafe {
        let kind = u32::from(cached != 0);
        let base = crate::mm::memory::MmAllocateContiguousMemorySpecifyCache(length as usize, 0, u64::MAX, 0, kind);
        address.write(base);
        if base.is_null() {
            return;
        }
        owned::add(Kind::SharedMemory, base as usize, handle);
        physical.write(crate::mm::memory::MmGetPhysicalAddress(base));
    }
}

/// `NdisMFreeSharedMemory`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisMFreeSharedMemory(
    _handle: Handle,
    _length: u32,
    _cached: u8,
    address: *mut c_void,
    _physical: u64,
) {
    owned::remove(Kind::SharedMemory, address as usize, "NdisMFreeSharedMemory");
    // SAFETY: allocated above.
    unsafe { crate::mm::memory::MmFreeContiguousMemory(address) };
}
