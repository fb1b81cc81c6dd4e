//! The DMA adapter of an adapter's PDO, as far as storport uses it.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_dma_operations>

use super::abi::ScatterGatherList;
use crate::io::abi::DeviceObject;
use crate::mm::abi::Mdl;
use core::ffi::c_void;
use core::mem::offset_of;

/// `DRIVER_LIST_CONTROL`.
pub type ListControl = unsafe extern "win64" fn(
    device: *mut DeviceObject,
    irp: *mut c_void,
    list: *mut ScatterGatherList,
    context: *mut c_void,
);

/// `DMA_ADAPTER`.
#[repr(C)]
pub struct DmaAdapter {
    /// 1 to 3.
    pub version: u16,
    /// Bytes.
    pub size: u16,
    /// Its functions.
    pub operations: *const DmaOperations,
}

/// `DMA_OPERATIONS` up to the version 2 part that storport uses.
#[repr(C)]
pub struct DmaOperations {
    /// Bytes.
    pub size: u32,
    /// `PutDmaAdapter`.
    pub put_dma_adapter: Option<unsafe extern "win64" fn(*mut DmaAdapter)>,
    /// `AllocateCommonBuffer`.
    pub allocate_common_buffer:
        Option<unsafe extern "win64" fn(*mut DmaAdapter, u32, *mut u64, cached: u8) -> *mut c_void>,
    /// `FreeCommonBuffer`.
    pub free_common_buffer: Option<unsafe extern "win64" fn(*mut DmaAdapter, u32, u64, *mut c_void, cached: u8)>,
    /// Channels and map registers.
    pub channels: [*const c_void; 5],
    /// `GetDmaAlignment`.
    pub get_dma_alignment: Option<unsafe extern "win64" fn(*mut DmaAdapter) -> u32>,
    /// `ReadDmaCounter`.
    pub read_dma_counter: *const c_void,
    /// `GetScatterGatherList`.
    pub get_scatter_gather_list: Option<
        unsafe extern "win64" fn(
            *mut DmaAdapter,
            *mut DeviceObject,
            *mut Mdl,
            va: *mut c_void,
            length: u32,
            ListControl,
            context: *mut c_void,
            to_device: u8,
        ) -> i32,
    >,
    /// `PutScatterGatherList`.
    pub put_scatter_gather_list:
        Option<unsafe extern "win64" fn(*mut DmaAdapter, *mut ScatterGatherList, to_device: u8)>,
    /// `CalculateScatterGatherList`.
    pub calculate_scatter_gather_list: *const c_void,
    /// `BuildScatterGatherList`.
    pub build_scatter_gather_list: Option<Build>,
}

/// `BuildScatterGatherList`.
type Build = unsafe extern "win64" fn(
    *mut DmaAdapter,
    *mut DeviceObject,
    *mut Mdl,
    va: *mut c_void,
    length: u32,
    ListControl,
    context: *mut c_void,
    to_device: u8,
    buffer: *mut c_void,
    room: u32,
) -> i32;

impl DmaAdapter {
    /// `BuildScatterGatherList`, which adapters of version 1 do not have.
    ///
    /// # Safety
    /// The adapter is a whole one.
    pub unsafe fn build(&self) -> Option<Build> {
        const END: usize = offset_of!(DmaOperations, build_scatter_gather_list) + size_of::<usize>();
        // SAFETY: the caller's promise: the table has as many bytes as its size says.
        unsafe {
            let operations = self.operations;
            if self.version < 2 || ((*operations).size as usize) < END {
                return None;
            }
            (&raw const (*operations).build_scatter_gather_list).read()
        }
    }
}

/// `DEVICE_DESCRIPTION`.
#[repr(C)]
pub struct DeviceDescription {
    /// 2 (`DEVICE_DESCRIPTION_VERSION2`): the adapter builds lists in memory that it is given.
    pub version: u32,
    /// Master, ScatterGather, DemandMode, AutoInitialize, Dma32BitAddresses, IgnoreCount, reserved, Dma64BitAddresses.
    pub flags: [u8; 8],
    /// Bus number.
    pub bus_number: u32,
    /// Channel.
    pub dma_channel: u32,
    /// `INTERFACE_TYPE`.
    pub interface_type: i32,
    /// `DMA_WIDTH`.
    pub dma_width: u32,
    /// `DMA_SPEED`.
    pub dma_speed: u32,
    /// Bytes.
    pub maximum_length: u32,
    /// Port.
    pub dma_port: u32,
    /// Version 3: address width, controller, request line, device address.
    pub version3: [u32; 6],
}

const _: () = {
    assert!(size_of::<DmaAdapter>() == 16);
    assert!(offset_of!(DmaOperations, get_dma_alignment) == 0x48);
    assert!(offset_of!(DmaOperations, get_scatter_gather_list) == 0x58);
    assert!(offset_of!(DmaOperations, build_scatter_gather_list) == 0x70);
    assert!(size_of::<DeviceDescription>() == 0x40);
};
