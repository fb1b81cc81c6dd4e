//! Storport's binary interface, x64, Windows 10.
//!
//! Source: the `storport.h` pages of <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/>. Names are
//! Rust's; the doc comment of each item gives Windows' name where it differs by more than spelling. Everything here is
//! data, so it compiles and is checked on every host; the imports exist on Windows only.

use core::ffi::c_void;

/// `StorPortInitialize`'s and an adapter's status: an NTSTATUS as unsigned.
pub type StorStatus = u32;
/// `STOR_STATUS_SUCCESS`.
pub const STOR_STATUS_SUCCESS: StorStatus = 0;

/// `INTERFACE_TYPE::Internal`: the bus of a device that has no bus of its own.
pub const INTERFACE_TYPE_INTERNAL: i32 = 0;

/// `SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK`: the miniport takes classic SRBs.
pub const SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK: u32 = 1;
/// `STOR_MAP_NON_READ_WRITE_BUFFERS`: storport maps the data buffer of every SRB that is not a read or a write.
pub const STOR_MAP_NON_READ_WRITE_BUFFERS: u8 = 2;
/// `SCSI_DMA64_MINIPORT_FULL64BIT_SUPPORTED`, the value of `Dma64BitAddresses`.
pub const DMA64_FULL_SUPPORT: u8 = 0x80;
/// `StorSynchronizeFullDuplex`: start-I/O and interrupt do not exclude each other.
pub const STOR_SYNCHRONIZE_FULL_DUPLEX: i32 = 1;

/// `SP_RETURN_NOT_FOUND`: HwFindAdapter saw no adapter.
pub const SP_RETURN_NOT_FOUND: u32 = 0;
/// `SP_RETURN_FOUND`.
pub const SP_RETURN_FOUND: u32 = 1;
/// `SP_RETURN_ERROR`.
pub const SP_RETURN_ERROR: u32 = 2;

/// Values of [`ScsiRequestBlock::function`].
pub mod srb_function {
    /// A SCSI command in [`super::ScsiRequestBlock::cdb`].
    pub const EXECUTE_SCSI: u8 = 0x00;
    /// A driver-defined control request.
    pub const IO_CONTROL: u8 = 0x02;
    /// The system goes down: write caches must be flushed.
    pub const SHUTDOWN: u8 = 0x07;
    /// Write caches must be flushed.
    pub const FLUSH: u8 = 0x08;
    /// Reset the bus.
    pub const RESET_BUS: u8 = 0x12;
    /// Reset the target.
    pub const RESET_DEVICE: u8 = 0x13;
    /// Windows management instrumentation.
    pub const WMI: u8 = 0x17;
    /// Reset the logical unit.
    pub const RESET_LOGICAL_UNIT: u8 = 0x20;
    /// Power; the block is a `SCSI_POWER_REQUEST_BLOCK`.
    pub const POWER: u8 = 0x24;
    /// PnP; the block is a `SCSI_PNP_REQUEST_BLOCK`.
    pub const PNP: u8 = 0x25;
    /// What a crash dump needs to know of the adapter.
    pub const DUMP_POINTERS: u8 = 0x26;
    /// Gives that back.
    pub const FREE_DUMP_POINTERS: u8 = 0x27;
}

/// Values of [`ScsiRequestBlock::srb_status`].
pub mod srb_status {
    /// Still with the miniport.
    pub const PENDING: u8 = 0x00;
    /// Done.
    pub const SUCCESS: u8 = 0x01;
    /// The request was aborted.
    pub const ABORTED: u8 = 0x02;
    /// A SCSI error; sense data says which.
    pub const ERROR: u8 = 0x04;
    /// Not now; storport tries again.
    pub const BUSY: u8 = 0x05;
    /// The request is not one that the miniport knows.
    pub const INVALID_REQUEST: u8 = 0x06;
    /// No such bus.
    pub const INVALID_PATH_ID: u8 = 0x07;
    /// No device answers there.
    pub const NO_DEVICE: u8 = 0x08;
    /// A bus reset ended the request.
    pub const BUS_RESET: u8 = 0x0E;
    /// Fewer or more bytes than asked for; `data_transfer_length` has the count.
    pub const DATA_OVERRUN: u8 = 0x12;
    /// No such logical unit.
    pub const INVALID_LUN: u8 = 0x20;
    /// No such target.
    pub const INVALID_TARGET_ID: u8 = 0x21;
    /// The function is not known.
    pub const BAD_FUNCTION: u8 = 0x22;
    /// Flag: the sense buffer holds sense data.
    pub const AUTOSENSE_VALID: u8 = 0x80;
}

/// Bits of [`ScsiRequestBlock::srb_flags`].
pub mod srb_flags {
    /// Do not fill the sense buffer.
    pub const DISABLE_AUTOSENSE: u32 = 0x0000_0020;
    /// Data come from the device.
    pub const DATA_IN: u32 = 0x0000_0040;
    /// Data go to the device.
    pub const DATA_OUT: u32 = 0x0000_0080;
    /// The queue action below is valid.
    pub const QUEUE_ACTION_ENABLE: u32 = 0x0000_0002;
}

/// `SRB_ORDERED_QUEUE_TAG_REQUEST`, a value of [`ScsiRequestBlock::queue_action`].
pub const SRB_ORDERED_QUEUE_TAG_REQUEST: u8 = 0x22;

/// `SCSI_REQUEST_BLOCK`.
///
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/srb/ns-srb-_scsi_request_block>
#[repr(C)]
pub struct ScsiRequestBlock {
    /// Size of this structure.
    pub length: u16,
    /// See [`srb_function`].
    pub function: u8,
    /// See [`srb_status`].
    pub srb_status: u8,
    /// The SCSI status byte; `PnPSubFunction`/`SrbPowerFlags` in the siblings.
    pub scsi_status: u8,
    /// Bus.
    pub path_id: u8,
    /// Target.
    pub target_id: u8,
    /// Logical unit.
    pub lun: u8,
    /// Tag; start of `PnPAction`/`DevicePowerState` in the siblings.
    pub queue_tag: u8,
    /// Ordering asked for.
    pub queue_action: u8,
    /// Bytes used of `cdb`.
    pub cdb_length: u8,
    /// Room in the sense buffer; on completion the bytes of sense data.
    pub sense_info_buffer_length: u8,
    /// See [`srb_flags`].
    pub srb_flags: u32,
    /// Bytes to transfer; on completion the bytes transferred.
    pub data_transfer_length: u32,
    /// Seconds.
    pub time_out_value: u32,
    /// System address of the data where `MapBuffers` says that there is one.
    pub data_buffer: *mut c_void,
    /// Where sense data go.
    pub sense_info_buffer: *mut c_void,
    /// Storport's.
    pub next_srb: *mut Self,
    /// Storport's.
    pub original_request: *mut c_void,
    /// The miniport's own memory for this request, `SrbExtensionSize` bytes, cleared by nobody.
    pub srb_extension: *mut c_void,
    /// `InternalStatus`, `QueueSortKey` or `LinkTimeoutValue`.
    pub queue_sort_key: u32,
    /// Reserved.
    pub reserved: u32,
    /// The command.
    pub cdb: [u8; 16],
}

/// `STOR_SCATTER_GATHER_ELEMENT`: a physically contiguous run.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ScatterGatherElement {
    /// Guest-physical address.
    pub physical_address: u64,
    /// Bytes.
    pub length: u32,
    /// Storport's.
    pub reserved: usize,
}

/// `STOR_SCATTER_GATHER_LIST`; the elements follow.
#[repr(C)]
pub struct ScatterGatherList {
    /// Elements that follow.
    pub number_of_elements: u32,
    /// Storport's.
    pub reserved: usize,
    /// The first of them.
    pub list: [ScatterGatherElement; 0],
}

/// `MEMORY_REGION`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemoryRegion {
    /// Virtual address.
    pub virtual_base: *mut c_void,
    /// Physical address.
    pub physical_base: u64,
    /// Bytes.
    pub length: u32,
}

/// `PORT_CONFIGURATION_INFORMATION`.
///
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/ns-storport-_port_configuration_information>
#[repr(C)]
pub struct PortConfigurationInformation {
    /// Size of this structure.
    pub length: u32,
    /// Bus number.
    pub system_io_bus_number: u32,
    /// `INTERFACE_TYPE`.
    pub adapter_interface_type: i32,
    /// Interrupt.
    pub bus_interrupt_level: u32,
    /// Interrupt.
    pub bus_interrupt_vector: u32,
    /// `KINTERRUPT_MODE`.
    pub interrupt_mode: i32,
    /// Most bytes in one request.
    pub maximum_transfer_length: u32,
    /// Most elements in one scatter-gather list.
    pub number_of_physical_breaks: u32,
    /// DMA of old.
    pub dma_channel: u32,
    /// DMA of old.
    pub dma_port: u32,
    /// DMA of old.
    pub dma_width: i32,
    /// DMA of old.
    pub dma_speed: i32,
    /// Alignment of data buffers less one.
    pub alignment_mask: u32,
    /// Elements of `access_ranges`.
    pub number_of_access_ranges: u32,
    /// Bus-relative ranges.
    pub access_ranges: *mut c_void,
    /// In dump mode: what the miniport left there.
    pub miniport_dump_data: *mut c_void,
    /// SCSI buses.
    pub number_of_buses: u8,
    /// The adapter's own ids.
    pub initiator_bus_id: [u8; 8],
    /// Can do scatter-gather.
    pub scatter_gather: u8,
    /// Is a bus master.
    pub master: u8,
    /// Has a cache of its own.
    pub caches_data: u8,
    /// Of old.
    pub adapter_scans_down: u8,
    /// Of old.
    pub atdisk_primary_claimed: u8,
    /// Of old.
    pub atdisk_secondary_claimed: u8,
    /// 32-bit DMA only.
    pub dma32_bit_addresses: u8,
    /// Of old.
    pub demand_mode: u8,
    /// See [`STOR_MAP_NON_READ_WRITE_BUFFERS`].
    pub map_buffers: u8,
    /// Must be set.
    pub need_physical_addresses: u8,
    /// Must be set.
    pub tagged_queuing: u8,
    /// Must be set.
    pub auto_request_sense: u8,
    /// Must be set.
    pub multiple_request_per_lu: u8,
    /// Of old.
    pub receive_event: u8,
    /// Of old.
    pub real_mode_initialized: u8,
    /// Of old.
    pub buffer_access_scsi_port_controlled: u8,
    /// Targets on a bus.
    pub maximum_number_of_targets: u8,
    /// `SRB_TYPE_*`.
    pub srb_type: u8,
    /// `STORAGE_ADDRESS_TYPE_*`.
    pub address_type: u8,
    /// Slot.
    pub slot_number: u32,
    /// Second interrupt of old.
    pub bus_interrupt_level2: u32,
    /// Second interrupt of old.
    pub bus_interrupt_vector2: u32,
    /// Second interrupt of old.
    pub interrupt_mode2: i32,
    /// DMA of old.
    pub dma_channel2: u32,
    /// DMA of old.
    pub dma_port2: u32,
    /// DMA of old.
    pub dma_width2: i32,
    /// DMA of old.
    pub dma_speed2: i32,
    /// Bytes per adapter.
    pub device_extension_size: u32,
    /// Bytes per logical unit.
    pub specific_lu_extension_size: u32,
    /// Bytes per SRB.
    pub srb_extension_size: u32,
    /// See [`DMA64_FULL_SUPPORT`].
    pub dma64_bit_addresses: u8,
    /// `SRB_FUNCTION_RESET_DEVICE` is taken.
    pub reset_target_supported: u8,
    /// Logical units of a target.
    pub maximum_number_of_logical_units: u8,
    /// WMI.
    pub wmi_data_provider: u8,
    /// See [`STOR_SYNCHRONIZE_FULL_DUPLEX`].
    pub synchronization_model: i32,
    /// MSI routine.
    pub hw_ms_interrupt_routine: *mut c_void,
    /// MSI.
    pub interrupt_synchronization_mode: i32,
    /// Dump memory.
    pub dump_region: MemoryRegion,
    /// Dump memory asked for.
    pub requested_dump_buffer_size: u32,
    /// A virtual miniport.
    pub virtual_device: u8,
    /// `DUMP_MODE_*`; 0 = not a dump.
    pub dump_mode: u8,
    /// Flags.
    pub extended_flags1: u32,
    /// Requests that the adapter takes at once.
    pub max_number_of_io: u32,
    /// Requests that a logical unit takes at once.
    pub max_ios_per_lun: u32,
    /// Queue depth to begin with.
    pub initial_lun_queue_depth: u32,
    /// Microseconds that storport holds requests back after a reset.
    pub bus_reset_hold_time: u32,
    /// `STOR_ADAPTER_FEATURE_*`.
    pub feature_support: u32,
}

/// `HW_INITIALIZE`, IRQL = DIRQL.
pub type HwInitialize = unsafe extern "C" fn(extension: *mut c_void) -> u8;
/// `HW_STARTIO`, IRQL = DISPATCH_LEVEL; `HW_BUILDIO` has the same shape.
pub type HwStartIo = unsafe extern "C" fn(extension: *mut c_void, srb: *mut ScsiRequestBlock) -> u8;
/// `HW_INTERRUPT`, IRQL = DIRQL.
pub type HwInterrupt = unsafe extern "C" fn(extension: *mut c_void) -> u8;
/// `HW_FIND_ADAPTER`, IRQL = PASSIVE_LEVEL.
pub type HwFindAdapter = unsafe extern "C" fn(
    extension: *mut c_void,
    context: *mut c_void,
    bus_information: *mut c_void,
    arguments: *mut u8,
    config: *mut PortConfigurationInformation,
    again: *mut u8,
) -> u32;
/// `HW_RESET_BUS`, IRQL = DISPATCH_LEVEL.
pub type HwResetBus = unsafe extern "C" fn(extension: *mut c_void, path_id: u32) -> u8;
/// `HW_ADAPTER_CONTROL`; the IRQL depends on the control type: PASSIVE_LEVEL to DIRQL.
pub type HwAdapterControl = unsafe extern "C" fn(extension: *mut c_void, control: i32, parameters: *mut c_void) -> i32;
/// `HW_PASSIVE_INITIALIZE_ROUTINE`, IRQL = PASSIVE_LEVEL.
pub type HwPassiveInitialize = unsafe extern "C" fn(extension: *mut c_void) -> u8;
/// `HW_TIMER`, IRQL = DISPATCH_LEVEL.
pub type HwTimer = unsafe extern "C" fn(extension: *mut c_void);

/// Values of the control type of [`HwAdapterControl`].
pub mod adapter_control {
    /// Which of the others are supported. PASSIVE_LEVEL.
    pub const QUERY_SUPPORTED: i32 = 0;
    /// Stop; no request is outstanding. DIRQL.
    pub const STOP: i32 = 1;
    /// Start again after a stop for power. DIRQL.
    pub const RESTART: i32 = 2;
    /// The adapter was removed by surprise.
    pub const SURPRISE_REMOVAL: i32 = 16;
    /// `ScsiAdapterControlSuccess`.
    pub const SUCCESS: i32 = 0;
    /// `ScsiAdapterControlUnsuccessful`.
    pub const UNSUCCESSFUL: i32 = 1;
}

/// `SCSI_SUPPORTED_CONTROL_TYPE_LIST`; one byte a type follows.
#[repr(C)]
pub struct SupportedControlTypeList {
    /// How many bytes follow.
    pub max_control_type: u32,
    /// The first of them.
    pub supported: [u8; 0],
}

/// `HW_INITIALIZATION_DATA`.
///
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/ns-storport-_hw_initialization_data>
#[repr(C)]
pub struct HwInitializationData {
    /// Size of this structure.
    pub size: u32,
    /// `INTERFACE_TYPE`.
    pub adapter_interface_type: i32,
    /// Required.
    pub hw_initialize: Option<HwInitialize>,
    /// Required.
    pub hw_start_io: Option<HwStartIo>,
    /// Required for a physical miniport with an interrupt.
    pub hw_interrupt: Option<HwInterrupt>,
    /// Required.
    pub hw_find_adapter: Option<HwFindAdapter>,
    /// Required.
    pub hw_reset_bus: Option<HwResetBus>,
    /// Not used by storport.
    pub hw_dma_started: *mut c_void,
    /// Not used by storport.
    pub hw_adapter_state: *mut c_void,
    /// Bytes per adapter.
    pub device_extension_size: u32,
    /// Bytes per logical unit.
    pub specific_lu_extension_size: u32,
    /// Bytes per SRB.
    pub srb_extension_size: u32,
    /// Bus-relative ranges that the adapter needs.
    pub number_of_access_ranges: u32,
    /// Reserved.
    pub reserved: *mut c_void,
    /// See [`STOR_MAP_NON_READ_WRITE_BUFFERS`].
    pub map_buffers: u8,
    /// Must be set.
    pub need_physical_addresses: u8,
    /// Must be set.
    pub tagged_queuing: u8,
    /// Must be set.
    pub auto_request_sense: u8,
    /// Must be set.
    pub multiple_request_per_lu: u8,
    /// Of old.
    pub receive_event: u8,
    /// Of old.
    pub vendor_id_length: u16,
    /// Of old.
    pub vendor_id: *mut c_void,
    /// Of old.
    pub port_version_flags: u16,
    /// Of old.
    pub device_id_length: u16,
    /// Of old.
    pub device_id: *mut c_void,
    /// Required.
    pub hw_adapter_control: Option<HwAdapterControl>,
    /// Optional.
    pub hw_build_io: Option<HwStartIo>,
    /// Virtual miniports only.
    pub hw_free_adapter_resources: *mut c_void,
    /// Virtual miniports only.
    pub hw_process_service_request: *mut c_void,
    /// Virtual miniports only.
    pub hw_complete_service_irp: *mut c_void,
    /// Tracing.
    pub hw_initialize_tracing: *mut c_void,
    /// Tracing.
    pub hw_cleanup_tracing: *mut c_void,
    /// Tracing.
    pub hw_tracing_enabled: *mut c_void,
    /// `STOR_FEATURE_*`.
    pub feature_support: u32,
    /// See [`SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK`].
    pub srb_type_flags: u32,
    /// `ADDRESS_TYPE_FLAG_*`.
    pub address_type_flags: u32,
    /// Reserved.
    pub reserved1: u32,
    /// Optional.
    pub hw_unit_control: *mut c_void,
}

/// First argument of `StorPortNotification`: `SCSI_NOTIFICATION_TYPE`.
pub mod notification {
    /// An SRB is done; argument: the SRB.
    pub const REQUEST_COMPLETE: i32 = 0;
    /// A bus reset was seen.
    pub const RESET_DETECTED: i32 = 3;
    /// Asks for a timer call; arguments: routine, microseconds.
    pub const REQUEST_TIMER_CALL: i32 = 6;
    /// The set of devices changed; argument: path id.
    pub const BUS_CHANGE_DETECTED: i32 = 7;
    /// Asks for a call at PASSIVE_LEVEL during initialization; arguments: routine, result.
    pub const ENABLE_PASSIVE_INITIALIZATION: i32 = 0x1000;
}

/// First argument of `StorPortExtendedFunction`: `STORPORT_FUNCTION_CODE`.
pub mod extended_function {
    /// `StorPortGetSystemAddress`: maps an SRB's data buffer. IRQL <= DISPATCH_LEVEL.
    pub const GET_SYSTEM_ADDRESS: i32 = 5;
    /// `StorPortGetDeviceObjects`: FDO, PDO and the device below the FDO. PASSIVE_LEVEL.
    pub const GET_DEVICE_OBJECTS: i32 = 8;
}

#[cfg(windows)]
#[link(name = "storport", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportinitialize>
    pub fn StorPortInitialize(
        driver_object: *mut c_void,
        registry_path: *mut c_void,
        data: *mut HwInitializationData,
        context: *mut c_void,
    ) -> StorStatus;
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportnotification>
    pub fn StorPortNotification(kind: i32, extension: *mut c_void, ...);
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportextendedfunction>
    pub fn StorPortExtendedFunction(code: i32, extension: *mut c_void, ...) -> StorStatus;
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportgetscattergatherlist>
    pub fn StorPortGetScatterGatherList(extension: *mut c_void, srb: *mut ScsiRequestBlock) -> *mut ScatterGatherList;
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportsetdevicequeuedepth>
    pub fn StorPortSetDeviceQueueDepth(extension: *mut c_void, path: u8, target: u8, lun: u8, depth: u32) -> u8;
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;
    type S = ScsiRequestBlock;
    assert!(size_of::<S>() == 0x58);
    assert!(offset_of!(S, srb_flags) == 0x0c);
    assert!(offset_of!(S, data_transfer_length) == 0x10);
    assert!(offset_of!(S, time_out_value) == 0x14);
    assert!(offset_of!(S, data_buffer) == 0x18);
    assert!(offset_of!(S, sense_info_buffer) == 0x20);
    assert!(offset_of!(S, original_request) == 0x30);
    assert!(offset_of!(S, srb_extension) == 0x38);
    assert!(offset_of!(S, queue_sort_key) == 0x40);
    assert!(offset_of!(S, cdb) == 0x48);
};

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;
    type H = HwInitializationData;
    assert!(size_of::<H>() == 0xd0);
    assert!(offset_of!(H, hw_initialize) == 0x08);
    assert!(offset_of!(H, hw_find_adapter) == 0x20);
    assert!(offset_of!(H, hw_reset_bus) == 0x28);
    assert!(offset_of!(H, device_extension_size) == 0x40);
    assert!(offset_of!(H, srb_extension_size) == 0x48);
    assert!(offset_of!(H, map_buffers) == 0x58);
    assert!(offset_of!(H, vendor_id_length) == 0x5e);
    assert!(offset_of!(H, hw_adapter_control) == 0x78);
    assert!(offset_of!(H, hw_build_io) == 0x80);
    assert!(offset_of!(H, hw_free_adapter_resources) == 0x88);
    assert!(offset_of!(H, feature_support) == 0xb8);
    assert!(offset_of!(H, srb_type_flags) == 0xbc);
    assert!(offset_of!(H, hw_unit_control) == 0xc8);
};

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;
    type P = PortConfigurationInformation;
    assert!(size_of::<P>() == 0xe0);
    assert!(offset_of!(P, maximum_transfer_length) == 0x18);
    assert!(offset_of!(P, number_of_physical_breaks) == 0x1c);
    assert!(offset_of!(P, alignment_mask) == 0x30);
    assert!(offset_of!(P, access_ranges) == 0x38);
    assert!(offset_of!(P, number_of_buses) == 0x48);
    assert!(offset_of!(P, scatter_gather) == 0x51);
    assert!(offset_of!(P, map_buffers) == 0x59);
    assert!(offset_of!(P, maximum_number_of_targets) == 0x61);
    assert!(offset_of!(P, slot_number) == 0x64);
    assert!(offset_of!(P, srb_extension_size) == 0x8c);
    assert!(offset_of!(P, dma64_bit_addresses) == 0x90);
    assert!(offset_of!(P, maximum_number_of_logical_units) == 0x92);
    assert!(offset_of!(P, synchronization_model) == 0x94);
    assert!(offset_of!(P, hw_ms_interrupt_routine) == 0x98);
    assert!(offset_of!(P, dump_region) == 0xa8);
    assert!(offset_of!(P, requested_dump_buffer_size) == 0xc0);
    assert!(offset_of!(P, virtual_device) == 0xc4);
    assert!(offset_of!(P, dump_mode) == 0xc5);
    assert!(offset_of!(P, extended_flags1) == 0xc8);
    assert!(offset_of!(P, max_number_of_io) == 0xcc);
    assert!(offset_of!(P, max_ios_per_lun) == 0xd0);
    assert!(offset_of!(P, initial_lun_queue_depth) == 0xd4);
    assert!(offset_of!(P, feature_support) == 0xdc);

    assert!(size_of::<ScatterGatherElement>() == 0x18);
    assert!(offset_of!(ScatterGatherElement, length) == 8);
    assert!(offset_of!(ScatterGatherList, list) == 0x10);
    assert!(size_of::<MemoryRegion>() == 0x18);
    assert!(offset_of!(SupportedControlTypeList, supported) == 4);
};
