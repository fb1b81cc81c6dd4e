//! BUS_INTERFACE_STANDARD for a bus whose children do DMA without hardware: a backend reaches every page of the guest.
//!
//! What a child's `IoGetDmaAdapter` gets is the platform's own adapter, made for a 64-bit bus master with
//! scatter/gather, whatever the child's DEVICE_DESCRIPTION says. Such an adapter has no map registers and never copies:
//! the physical pages of a request are those of the caller's buffer.

use core::ffi::c_void;

use wdk_sys::{DMA_ADAPTER, ntddk};

use crate::device::DeviceObject;

/// `GUID_BUS_INTERFACE_STANDARD`, as it lies in memory.
pub const BUS_INTERFACE_STANDARD_GUID: [u8; 16] =
    [0x80, 0x82, 0x6b, 0x49, 0x25, 0x6f, 0xd0, 0x11, 0xbe, 0xaf, 0x08, 0x00, 0x2b, 0xe2, 0x09, 0x2f];

/// The version of BUS_INTERFACE_STANDARD.
pub const BUS_INTERFACE_STANDARD_VERSION: u16 = 1;

/// DEVICE_DESCRIPTION up to version 3 (Windows 8), which not every header set knows:
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_device_description>
#[derive(Clone, Copy)]
#[repr(C)]
struct DeviceDescription {
    version: u32,
    master: u8,
    scatter_gather: u8,
    demand_mode: u8,
    auto_initialize: u8,
    dma_32bit_addresses: u8,
    ignore_count: u8,
    reserved1: u8,
    dma_64bit_addresses: u8,
    bus_number: u32,
    dma_channel: u32,
    interface_type: i32,
    dma_width: u32,
    dma_speed: u32,
    maximum_length: u32,
    dma_port: u32,
    dma_address_width: u32,
    dma_controller_instance: u32,
    dma_request_line: u32,
    device_address: i64,
}

const _: () = {
    assert!(size_of::<DeviceDescription>() == 0x40);
    assert!(core::mem::offset_of!(DeviceDescription, dma_64bit_addresses) == 0xb);
    assert!(core::mem::offset_of!(DeviceDescription, maximum_length) == 0x20);
    assert!(core::mem::offset_of!(DeviceDescription, dma_address_width) == 0x28);
    assert!(core::mem::offset_of!(DeviceDescription, device_address) == 0x38);
    assert!(size_of::<BusInterfaceStandard>() == 0x40);
};

/// Length of DEVICE_DESCRIPTION versions 0 to 2.
const DESCRIPTION_V2: usize = 0x28;

/// BUS_INTERFACE_STANDARD: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_bus_interface_standard>
#[derive(Clone, Copy)]
#[repr(C)]
pub struct BusInterfaceStandard {
    /// Bytes of the table.
    pub size: u16,
    /// [`BUS_INTERFACE_STANDARD_VERSION`].
    pub version: u16,
    /// First argument of every function.
    pub context: *mut c_void,
    /// Takes a reference.
    pub reference: unsafe extern "C" fn(context: *mut c_void),
    /// Gives it back.
    pub dereference: unsafe extern "C" fn(context: *mut c_void),
    /// Translates a bus address to a physical one.
    pub translate: unsafe extern "C" fn(
        context: *mut c_void,
        address: i64,
        length: u32,
        space: *mut u32,
        translated: *mut i64,
    ) -> u8,
    /// Makes a DMA adapter.
    pub get_dma_adapter: unsafe extern "C" fn(
        context: *mut c_void,
        description: *mut c_void,
        map_registers: *mut u32,
    ) -> *mut DMA_ADAPTER,
    /// Writes configuration space: the result is how many bytes were written.
    pub set_bus_data:
        unsafe extern "C" fn(context: *mut c_void, space: u32, buffer: *mut c_void, offset: u32, length: u32) -> u32,
    /// Reads configuration space: the result is how many bytes were read.
    pub get_bus_data:
        unsafe extern "C" fn(context: *mut c_void, space: u32, buffer: *mut c_void, offset: u32, length: u32) -> u32,
}

/// Makes the platform's adapter for a 64-bit bus master out of a child's description. PASSIVE_LEVEL.
///
/// # Safety
/// `parent` is the PDO of a device on a PCI bus; `description` is the DEVICE_DESCRIPTION and `map_registers` the result
/// pointer that the child's `IoGetDmaAdapter` passed.
pub unsafe fn non_bouncing_adapter(
    parent: DeviceObject,
    description: *const c_void,
    map_registers: *mut u32,
) -> *mut DMA_ADAPTER {
    let mut ours = DeviceDescription {
        version: 0,
        master: 0,
        scatter_gather: 0,
        demand_mode: 0,
        auto_initialize: 0,
        dma_32bit_addresses: 0,
        ignore_count: 0,
        reserved1: 0,
        dma_64bit_addresses: 0,
        bus_number: 0,
        dma_channel: 0,
        interface_type: 0,
        dma_width: 0,
        dma_speed: 0,
        maximum_length: 0,
        dma_port: 0,
        dma_address_width: 0,
        dma_controller_instance: 0,
        dma_request_line: 0,
        device_address: 0,
    };
    // SAFETY: the description is as long as its version says; version 3 is the longest.
    unsafe {
        let version = description.cast::<u32>().read();
        let length = if version >= 3 { size_of::<DeviceDescription>() } else { DESCRIPTION_V2 };
        core::ptr::copy_nonoverlapping(description.cast::<u8>(), (&raw mut ours).cast(), length);
    }
    ours.master = 1;
    ours.scatter_gather = 1;
    ours.demand_mode = 0;
    ours.dma_32bit_addresses = 1;
    ours.dma_64bit_addresses = 1;
    ours.interface_type = wdk_sys::_INTERFACE_TYPE::PCIBus;
    if ours.version >= 3 {
        ours.dma_address_width = 64;
    }
    // SAFETY: the description is complete for its version; the other arguments are the caller's.
    unsafe { ntddk::IoGetDmaAdapter(parent.as_raw(), (&raw mut ours).cast(), map_registers) }
}
