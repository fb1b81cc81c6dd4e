//! Layouts and numbers between storport and its miniports, at the level of Windows 10, x64, from public documentation.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/>,
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/srb/>

use core::ffi::c_void;
use core::mem::offset_of;

/// `STOR_STATUS_SUCCESS`.
pub const STOR_STATUS_SUCCESS: u32 = 0;
/// `STOR_STATUS_UNSUCCESSFUL`.
pub const STOR_STATUS_UNSUCCESSFUL: u32 = 0xC100_0001;
/// `STOR_STATUS_NOT_IMPLEMENTED`.
pub const STOR_STATUS_NOT_IMPLEMENTED: u32 = 0xC100_0002;
/// `STOR_STATUS_INSUFFICIENT_RESOURCES`.
pub const STOR_STATUS_INSUFFICIENT_RESOURCES: u32 = 0xC100_0003;
/// `STOR_STATUS_BUFFER_TOO_SMALL`.
pub const STOR_STATUS_BUFFER_TOO_SMALL: u32 = 0xC100_0004;
/// `STOR_STATUS_INVALID_PARAMETER`.
pub const STOR_STATUS_INVALID_PARAMETER: u32 = 0xC100_0006;
/// `STOR_STATUS_INVALID_DEVICE_REQUEST`.
pub const STOR_STATUS_INVALID_DEVICE_REQUEST: u32 = 0xC100_0007;
/// `STOR_STATUS_INVALID_IRQL`.
pub const STOR_STATUS_INVALID_IRQL: u32 = 0xC100_0008;
/// `STOR_STATUS_INVALID_DEVICE_STATE`.
pub const STOR_STATUS_INVALID_DEVICE_STATE: u32 = 0xC100_0009;
/// `STOR_STATUS_INVALID_BUFFER_SIZE`.
pub const STOR_STATUS_INVALID_BUFFER_SIZE: u32 = 0xC100_000A;
/// `STOR_STATUS_UNSUPPORTED_VERSION`.
pub const STOR_STATUS_UNSUPPORTED_VERSION: u32 = 0xC100_000B;
/// `STOR_STATUS_BUSY`.
pub const STOR_STATUS_BUSY: u32 = 0xC100_000C;

/// `HW_INITIALIZE`, `HW_INTERRUPT`, `HW_PASSIVE_INITIALIZE_ROUTINE`.
pub type HwBoolean = unsafe extern "win64" fn(extension: *mut c_void) -> u8;
/// `HW_STARTIO`, `HW_BUILDIO`.
pub type HwSrb = unsafe extern "win64" fn(extension: *mut c_void, srb: *mut c_void) -> u8;
/// `HW_FIND_ADAPTER`.
pub type HwFindAdapter = unsafe extern "win64" fn(
    extension: *mut c_void,
    context: *mut c_void,
    bus_information: *mut c_void,
    arguments: *const u8,
    config: *mut PortConfiguration,
    again: *mut u8,
) -> u32;
/// `HW_RESET_BUS`.
pub type HwResetBus = unsafe extern "win64" fn(extension: *mut c_void, path: u32) -> u8;
/// `HW_ADAPTER_CONTROL`, `HW_UNIT_CONTROL`.
pub type HwControl = unsafe extern "win64" fn(extension: *mut c_void, kind: u32, parameters: *mut c_void) -> u32;
/// `HW_TIMER`, `HW_FREE_ADAPTER_RESOURCES`.
pub type HwVoid = unsafe extern "win64" fn(extension: *mut c_void);
/// `HW_TIMER_EX`.
pub type HwTimerEx = unsafe extern "win64" fn(extension: *mut c_void, context: *mut c_void);
/// `HW_WORKITEM`.
pub type HwWorkItem = unsafe extern "win64" fn(extension: *mut c_void, context: *mut c_void, worker: *mut c_void);
/// `HW_DPC_ROUTINE`.
pub type HwDpc =
    unsafe extern "win64" fn(dpc: *mut StorDpc, extension: *mut c_void, argument1: *mut c_void, argument2: *mut c_void);
/// `HW_MESSAGE_SIGNALED_INTERRUPT_ROUTINE`.
pub type HwMessageInterrupt = unsafe extern "win64" fn(extension: *mut c_void, message: u32) -> u8;
/// `HW_STATE_CHANGE`.
pub type HwStateChange = unsafe extern "win64" fn(
    extension: *mut c_void,
    context: *mut c_void,
    address_type: i16,
    address: *mut c_void,
    status: u32,
);
/// `STOR_SYNCHRONIZED_ACCESS`.
pub type SynchronizedAccess = unsafe extern "win64" fn(extension: *mut c_void, context: *mut c_void) -> u8;

/// `HW_INITIALIZATION_DATA`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HwInitializationData {
    /// Bytes of the structure the miniport was built with.
    pub size: u32,
    /// `INTERFACE_TYPE`.
    pub interface_type: i32,
    /// Required.
    pub hw_initialize: Option<HwBoolean>,
    /// Required.
    pub hw_start_io: Option<HwSrb>,
    /// Required unless the adapter has no interrupt.
    pub hw_interrupt: Option<HwBoolean>,
    /// Required. A virtual miniport's takes other arguments.
    pub hw_find_adapter: Option<HwFindAdapter>,
    /// Required.
    pub hw_reset_bus: Option<HwResetBus>,
    /// Not used by storport.
    pub hw_dma_started: *const c_void,
    /// Not used by storport.
    pub hw_adapter_state: *const c_void,
    /// Bytes.
    pub device_extension_size: u32,
    /// Bytes a logical unit.
    pub lu_extension_size: u32,
    /// Bytes a request.
    pub srb_extension_size: u32,
    /// Access ranges that the adapter takes.
    pub number_of_access_ranges: u32,
    /// Reserved.
    pub reserved: *const c_void,
    /// `STOR_MAP_*`.
    pub map_buffers: u8,
    /// Must be TRUE.
    pub need_physical_addresses: u8,
    /// Must be TRUE.
    pub tagged_queuing: u8,
    /// Must be TRUE.
    pub auto_request_sense: u8,
    /// Must be TRUE.
    pub multiple_request_per_lu: u8,
    /// Not used.
    pub receive_event: u8,
    /// Not used.
    pub vendor_id_length: u16,
    /// Not used.
    pub vendor_id: *const c_void,
    /// `PortVersionFlags`.
    pub port_version_flags: u16,
    /// Not used.
    pub device_id_length: u16,
    /// Not used.
    pub device_id: *const c_void,
    /// Adapter control.
    pub hw_adapter_control: Option<HwControl>,
    /// Called without a lock before `hw_start_io`.
    pub hw_build_io: Option<HwSrb>,
    /// Virtual miniports.
    pub hw_free_adapter_resources: Option<HwVoid>,
    /// Virtual miniports.
    pub hw_process_service_request: Option<unsafe extern "win64" fn(*mut c_void, *mut c_void)>,
    /// Virtual miniports.
    pub hw_complete_service_irp: Option<HwVoid>,
    /// Tracing.
    pub hw_initialize_tracing: *const c_void,
    /// Tracing.
    pub hw_cleanup_tracing: *const c_void,
    /// Tracing.
    pub hw_tracing_enabled: *const c_void,
    /// `STOR_FEATURE_*`.
    pub feature_support: u32,
    /// `SRB_TYPE_FLAG_*`.
    pub srb_type_flags: u32,
    /// `ADDRESS_TYPE_FLAG_*`.
    pub address_type_flags: u32,
    /// Reserved.
    pub reserved1: u32,
    /// Unit control.
    pub hw_unit_control: Option<HwControl>,
}

/// The part that a Windows Server 2003 miniport fills in: up to `hw_build_io`.
pub const HW_INITIALIZATION_DATA_BASE: usize = offset_of!(HwInitializationData, hw_free_adapter_resources);
/// Bytes of `VIRTUAL_HW_INITIALIZATION_DATA`, the form before FeatureSupport: it ends behind HwCleanupTracing, and its
/// size alone says that the miniport is a virtual one.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/ns-storport-_virtual_hw_initialization_data>
pub const VIRTUAL_HW_INITIALIZATION_DATA_BYTES: usize = 0xb0;

/// `VIRTUAL_HW_FIND_ADAPTER`, what HwFindAdapter of a virtual miniport is: its second to fourth arguments are the PDO,
/// the adapter's own device object and the next device down.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nc-storport-virtual_hw_find_adapter>
pub type VirtualHwFindAdapter = unsafe extern "win64" fn(
    *mut c_void,
    pdo: *mut c_void,
    fdo: *mut c_void,
    lower: *mut c_void,
    arguments: *const c_void,
    config: *mut PortConfiguration,
    again: *mut u8,
) -> u32;

/// `STOR_FEATURE_VIRTUAL_MINIPORT`.
pub const STOR_FEATURE_VIRTUAL_MINIPORT: u32 = 1;
/// `SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK`.
pub const SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK: u32 = 1;
/// `SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK`.
pub const SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK: u32 = 2;
/// `STOR_MAP_NON_READ_WRITE_BUFFERS`.
pub const STOR_MAP_NON_READ_WRITE_BUFFERS: u8 = 2;
/// `STOR_MAP_ALL_BUFFERS_INCLUDING_READ_WRITE`.
pub const STOR_MAP_ALL_BUFFERS_INCLUDING_READ_WRITE: u8 = 3;

/// `ACCESS_RANGE`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AccessRange {
    /// Bus address.
    pub start: u64,
    /// Bytes.
    pub length: u32,
    /// TRUE: memory, FALSE: ports.
    pub in_memory: u8,
}

/// `MEMORY_REGION`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemoryRegion {
    /// Where it is mapped.
    pub virtual_base: *mut u8,
    /// Where it is.
    pub physical_base: u64,
    /// Bytes.
    pub length: u32,
}

/// `PORT_CONFIGURATION_INFORMATION`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PortConfiguration {
    /// Bytes of this structure.
    pub length: u32,
    /// Bus number.
    pub system_io_bus_number: u32,
    /// `INTERFACE_TYPE`.
    pub interface_type: i32,
    /// Interrupt level.
    pub bus_interrupt_level: u32,
    /// Interrupt vector.
    pub bus_interrupt_vector: u32,
    /// `KINTERRUPT_MODE`.
    pub interrupt_mode: u32,
    /// Bytes.
    pub maximum_transfer_length: u32,
    /// Elements of a scatter/gather list, as documented for storport: breaks + 1.
    pub number_of_physical_breaks: u32,
    /// DMA of ISA times.
    pub dma_isa: [u32; 4],
    /// Data buffers are aligned to this mask.
    pub alignment_mask: u32,
    /// Ranges at `access_ranges`.
    pub number_of_access_ranges: u32,
    /// The adapter's resources.
    pub access_ranges: *mut AccessRange,
    /// Crash dump data.
    pub miniport_dump_data: *mut c_void,
    /// Buses, 1 to 255.
    pub number_of_buses: u8,
    /// The adapter's own id on each bus; 0xff: none.
    pub initiator_bus_id: [u8; 8],
    /// Must be TRUE.
    pub scatter_gather: u8,
    /// Must be TRUE.
    pub master: u8,
    /// The adapter caches writes: it gets flush and shutdown requests.
    pub caches_data: u8,
    /// Scans the bus from the top.
    pub adapter_scans_down: u8,
    /// Not used.
    pub at_disk_claimed: [u8; 2],
    /// Not used.
    pub dma_32_bit_addresses: u8,
    /// Not used.
    pub demand_mode: u8,
    /// `STOR_MAP_*`.
    pub map_buffers: u8,
    /// Must be TRUE.
    pub need_physical_addresses: u8,
    /// Must be TRUE.
    pub tagged_queuing: u8,
    /// Must be TRUE.
    pub auto_request_sense: u8,
    /// Must be TRUE.
    pub multiple_request_per_lu: u8,
    /// Not used.
    pub receive_event: u8,
    /// Not used.
    pub real_mode_initialized: u8,
    /// Not used.
    pub buffer_access_port_controlled: u8,
    /// Targets a bus.
    pub maximum_number_of_targets: u8,
    /// Kind of request that the port driver will use.
    pub srb_type: u8,
    /// Kind of address that the port driver will use.
    pub address_type: u8,
    /// Slot.
    pub slot_number: u32,
    /// Second interrupt and DMA channel, not used.
    pub second: [u32; 7],
    /// Bytes.
    pub device_extension_size: u32,
    /// Bytes a logical unit.
    pub lu_extension_size: u32,
    /// Bytes a request.
    pub srb_extension_size: u32,
    /// `SCSI_DMA64_*`.
    pub dma_64_bit_addresses: u8,
    /// The adapter can reset a target.
    pub reset_target_supported: u8,
    /// Logical units a target.
    pub maximum_number_of_logical_units: u8,
    /// WMI.
    pub wmi_data_provider: u8,
    /// `STOR_SYNCHRONIZATION_MODEL`: 0 half, 1 full duplex.
    pub synchronization_model: u32,
    /// The routine for message-signaled interrupts.
    pub hw_ms_interrupt_routine: Option<HwMessageInterrupt>,
    /// `INTERRUPT_SYNCHRONIZATION_MODE`.
    pub interrupt_synchronization_mode: u32,
    /// Crash dump memory.
    pub dump_region: MemoryRegion,
    /// Crash dump memory that is asked for.
    pub requested_dump_buffer_size: u32,
    /// Virtual miniport.
    pub virtual_device: u8,
    /// `DUMP_MODE_*`.
    pub dump_mode: u8,
    /// DMA width in bits.
    pub dma_address_width: u8,
    /// Reserved.
    pub extended_flags1: u32,
    /// Requests that the adapter holds.
    pub max_number_of_io: u32,
    /// Requests that a logical unit holds.
    pub max_ios_per_lun: u32,
    /// Its depth to start with.
    pub initial_lun_queue_depth: u32,
    /// Microseconds that a bus is held after a reset.
    pub bus_reset_hold_time: u32,
    /// `STOR_ADAPTER_*`.
    pub feature_support: u32,
}

/// `SCSI_REQUEST_BLOCK`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ScsiRequestBlock {
    /// Bytes of this structure.
    pub length: u16,
    /// `SRB_FUNCTION_*`.
    pub function: u8,
    /// `SRB_STATUS_*`.
    pub srb_status: u8,
    /// The target's status.
    pub scsi_status: u8,
    /// Bus.
    pub path_id: u8,
    /// Target.
    pub target_id: u8,
    /// Logical unit.
    pub lun: u8,
    /// Tag.
    pub queue_tag: u8,
    /// Kind of tag.
    pub queue_action: u8,
    /// Bytes of `cdb` in use.
    pub cdb_length: u8,
    /// Bytes at `sense_info_buffer`.
    pub sense_info_buffer_length: u8,
    /// `SRB_FLAGS_*`.
    pub srb_flags: u32,
    /// Bytes at `data_buffer`; after completion, bytes moved.
    pub data_transfer_length: u32,
    /// Seconds.
    pub time_out_value: u32,
    /// System address, or as the MDL says.
    pub data_buffer: *mut c_void,
    /// Sense data.
    pub sense_info_buffer: *mut c_void,
    /// Next request.
    pub next_srb: *mut ScsiRequestBlock,
    /// The IRP.
    pub original_request: *mut c_void,
    /// The miniport's part.
    pub srb_extension: *mut c_void,
    /// Internal status, or the key to sort by.
    pub internal_status: u32,
    /// Reserved.
    pub reserved: u32,
    /// The command.
    pub cdb: [u8; 16],
}

/// `STORAGE_REQUEST_BLOCK`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StorageRequestBlock {
    /// Bytes of this head.
    pub length: u16,
    /// `SRB_FUNCTION_STORAGE_REQUEST_BLOCK`.
    pub function: u8,
    /// `SRB_STATUS_*`.
    pub srb_status: u8,
    /// Reserved.
    pub reserved_uchar1: [u8; 4],
    /// `SRBX`.
    pub signature: u32,
    /// 1.
    pub version: u32,
    /// Bytes of all of it.
    pub srb_length: u32,
    /// `SRB_FUNCTION_*`.
    pub srb_function: u32,
    /// `SRB_FLAGS_*`.
    pub srb_flags: u32,
    /// Reserved.
    pub reserved_ulong1: u32,
    /// Tag.
    pub request_tag: u32,
    /// Priority.
    pub request_priority: u16,
    /// Kind of tag.
    pub request_attribute: u16,
    /// Seconds.
    pub time_out_value: u32,
    /// Internal status.
    pub system_status: u32,
    /// 0.
    pub zero_guard1: u32,
    /// Where the address stands.
    pub address_offset: u32,
    /// Entries of `srb_ex_data_offset`.
    pub num_srb_ex_data: u32,
    /// Bytes at `data_buffer`; after completion, bytes moved.
    pub data_transfer_length: u32,
    /// System address, or as the MDL says.
    pub data_buffer: *mut c_void,
    /// 0.
    pub zero_guard2: *mut c_void,
    /// The IRP.
    pub original_request: *mut c_void,
    /// The class driver's.
    pub class_context: *mut c_void,
    /// The port driver's.
    pub port_context: *mut c_void,
    /// The miniport's part.
    pub miniport_context: *mut c_void,
    /// Next request.
    pub next_srb: *mut StorageRequestBlock,
    /// Where the extended data stands.
    pub srb_ex_data_offset: [u32; 1],
}

/// `STOR_ADDR_BTL8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct StorAddrBtl8 {
    /// `STOR_ADDRESS_TYPE_BTL8` = 1.
    pub kind: u16,
    /// Port number.
    pub port: u16,
    /// 4.
    pub address_length: u32,
    /// Bus.
    pub path: u8,
    /// Target.
    pub target: u8,
    /// Logical unit.
    pub lun: u8,
    /// Reserved.
    pub reserved: u8,
}

/// `STOR_LOG_EVENT_DETAILS`.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/ns-storport-_stor_log_event_details>
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StorLogEventDetails {
    /// 0x100.
    pub interface_revision: u32,
    /// Bytes of this structure.
    pub size: u32,
    /// 0.
    pub flags: u32,
    /// Adapter, unit or target.
    pub association: u32,
    /// Bus.
    pub path_id: u32,
    /// Target.
    pub target_id: u32,
    /// Logical unit.
    pub lun_id: u32,
    /// TRUE: the code is storport's, not the system's.
    pub specific: u8,
    /// What happened.
    pub error_code: u32,
    /// Where, in the miniport's own numbers.
    pub unique_id: u32,
    /// Bytes of data.
    pub dump_data_size: u32,
    /// Data.
    pub dump_data: *const c_void,
    /// Strings.
    pub string_count: u32,
    /// The strings, each ended by a zero.
    pub string_list: *const *const u16,
}

/// `SRBEX_DATA_SCSI_CDB16`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SrbExDataScsiCdb16 {
    /// `SrbExDataTypeScsiCdb16` = 0x40.
    pub kind: u32,
    /// 0x20.
    pub length: u32,
    /// The target's status.
    pub scsi_status: u8,
    /// Bytes at `sense_info_buffer`.
    pub sense_info_buffer_length: u8,
    /// Bytes of `cdb` in use.
    pub cdb_length: u8,
    /// Reserved.
    pub reserved: u8,
    /// Reserved.
    pub reserved1: u32,
    /// Sense data.
    pub sense_info_buffer: *mut c_void,
    /// The command.
    pub cdb: [u8; 16],
}

/// `SCSI_PNP_REQUEST_BLOCK`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ScsiPnpRequestBlock {
    /// 0x58.
    pub length: u16,
    /// `SRB_FUNCTION_PNP`.
    pub function: u8,
    /// `SRB_STATUS_*`.
    pub srb_status: u8,
    /// Minor code.
    pub pnp_sub_function: u8,
    /// Bus.
    pub path_id: u8,
    /// Target.
    pub target_id: u8,
    /// Logical unit.
    pub lun: u8,
    /// `STOR_PNP_ACTION`.
    pub pnp_action: u32,
    /// `SRB_FLAGS_*`.
    pub srb_flags: u32,
    /// Bytes at `data_buffer`.
    pub data_transfer_length: u32,
    /// Seconds.
    pub time_out_value: u32,
    /// Data.
    pub data_buffer: *mut c_void,
    /// Not used.
    pub sense_info_buffer: *mut c_void,
    /// Not used.
    pub next_srb: *mut c_void,
    /// The IRP.
    pub original_request: *mut c_void,
    /// The miniport's part.
    pub srb_extension: *mut c_void,
    /// 1: for the adapter.
    pub srb_pnp_flags: u32,
    /// Reserved.
    pub reserved: u32,
    /// Reserved.
    pub reserved4: [u8; 16],
}

/// `SCSI_POWER_REQUEST_BLOCK`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ScsiPowerRequestBlock {
    /// 0x58.
    pub length: u16,
    /// `SRB_FUNCTION_POWER`.
    pub function: u8,
    /// `SRB_STATUS_*`.
    pub srb_status: u8,
    /// 1: for the adapter.
    pub srb_power_flags: u8,
    /// Bus.
    pub path_id: u8,
    /// Target.
    pub target_id: u8,
    /// Logical unit.
    pub lun: u8,
    /// `STOR_DEVICE_POWER_STATE`.
    pub device_power_state: u32,
    /// `SRB_FLAGS_*`.
    pub srb_flags: u32,
    /// Bytes.
    pub data_transfer_length: u32,
    /// Seconds.
    pub time_out_value: u32,
    /// Data.
    pub data_buffer: *mut c_void,
    /// Not used.
    pub sense_info_buffer: *mut c_void,
    /// Not used.
    pub next_srb: *mut c_void,
    /// The IRP.
    pub original_request: *mut c_void,
    /// The miniport's part.
    pub srb_extension: *mut c_void,
    /// `STOR_POWER_ACTION`.
    pub power_action: u32,
    /// Reserved.
    pub reserved: u32,
    /// Reserved.
    pub reserved5: [u8; 16],
}

/// `STOR_SCATTER_GATHER_ELEMENT`, the same as `SCATTER_GATHER_ELEMENT`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ScatterGatherElement {
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// Reserved.
    pub reserved: usize,
}

/// The head of `STOR_SCATTER_GATHER_LIST`; the elements follow.
#[repr(C)]
pub struct ScatterGatherList {
    /// Elements.
    pub count: u32,
    /// Reserved.
    pub reserved: usize,
}

/// `STOR_DPC`: a KDPC and a spin lock.
#[repr(C)]
pub struct StorDpc {
    /// The KDPC.
    pub dpc: [u64; 8],
    /// The lock that `DpcLock` takes.
    pub lock: usize,
}

/// `STOR_LOCK_HANDLE`.
#[repr(C)]
pub struct StorLockHandle {
    /// `STOR_SPINLOCK`: 1 DPC, 2 StartIo, 3 interrupt.
    pub lock: u32,
    /// The queue part of the handle: next, lock.
    pub queue: [usize; 2],
    /// The IRQL before.
    pub old_irql: u8,
}

/// `PERF_CONFIGURATION_DATA`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PerfConfigurationData {
    /// 1 to 6.
    pub version: u32,
    /// Bytes of this structure.
    pub size: u32,
    /// `STOR_PERF_*`.
    pub flags: u32,
    /// Channels.
    pub concurrent_channels: u32,
    /// Messages that redirect, from.
    pub first_redirection_message: u32,
    /// Messages that redirect, to.
    pub last_redirection_message: u32,
    /// Node of the device, version 3.
    pub device_node: u32,
    /// Reserved.
    pub reserved: u32,
    /// An affinity a message, version 3.
    pub message_targets: *mut c_void,
}

/// `STARTIO_PERFORMANCE_PARAMETERS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StartIoPerformanceParameters {
    /// 1.
    pub version: u32,
    /// 16.
    pub size: u32,
    /// The message that the completion should use.
    pub message_number: u32,
    /// The channel that the request should use.
    pub channel_number: u32,
}

/// `MESSAGE_INTERRUPT_INFORMATION`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MessageInterruptInformation {
    /// Message.
    pub message_id: u32,
    /// Its data.
    pub message_data: u32,
    /// Its address.
    pub message_address: u64,
    /// Vector.
    pub interrupt_vector: u32,
    /// IRQL.
    pub interrupt_level: u32,
    /// `KINTERRUPT_MODE`.
    pub interrupt_mode: u32,
}

/// `SCSI_SUPPORTED_CONTROL_TYPE_LIST` with room for all types.
#[repr(C)]
pub struct SupportedControlTypes {
    /// Entries.
    pub max_control_type: u32,
    /// TRUE: supported.
    pub supported: [u8; 32],
}

macro_rules! numbers {
    ($kind:ty: $($(#[$doc:meta])* $name:ident = $value:expr;)*) => { $($(#[$doc])* pub const $name: $kind = $value;)* };
}

numbers! { u8:
    /// `SRB_FUNCTION_EXECUTE_SCSI`.
    SRB_FUNCTION_EXECUTE_SCSI = 0;
    /// `SRB_FUNCTION_CLAIM_DEVICE`.
    SRB_FUNCTION_CLAIM_DEVICE = 1;
    /// `SRB_FUNCTION_IO_CONTROL`.
    SRB_FUNCTION_IO_CONTROL = 2;
    /// `SRB_FUNCTION_RELEASE_QUEUE`.
    SRB_FUNCTION_RELEASE_QUEUE = 4;
    /// `SRB_FUNCTION_RELEASE_DEVICE`.
    SRB_FUNCTION_RELEASE_DEVICE = 6;
    /// `SRB_FUNCTION_SHUTDOWN`.
    SRB_FUNCTION_SHUTDOWN = 7;
    /// `SRB_FUNCTION_FLUSH`.
    SRB_FUNCTION_FLUSH = 8;
    /// `SRB_FUNCTION_ABORT_COMMAND`.
    SRB_FUNCTION_ABORT_COMMAND = 0x10;
    /// `SRB_FUNCTION_RESET_BUS`.
    SRB_FUNCTION_RESET_BUS = 0x12;
    /// `SRB_FUNCTION_RESET_DEVICE`.
    SRB_FUNCTION_RESET_DEVICE = 0x13;
    /// `SRB_FUNCTION_FLUSH_QUEUE`.
    SRB_FUNCTION_FLUSH_QUEUE = 0x15;
    /// `SRB_FUNCTION_LOCK_QUEUE`.
    SRB_FUNCTION_LOCK_QUEUE = 0x18;
    /// `SRB_FUNCTION_UNLOCK_QUEUE`.
    SRB_FUNCTION_UNLOCK_QUEUE = 0x19;
    /// `SRB_FUNCTION_RESET_LOGICAL_UNIT`.
    SRB_FUNCTION_RESET_LOGICAL_UNIT = 0x20;
    /// `SRB_FUNCTION_POWER`.
    SRB_FUNCTION_POWER = 0x24;
    /// `SRB_FUNCTION_PNP`.
    SRB_FUNCTION_PNP = 0x25;
    /// `SRB_FUNCTION_DUMP_POINTERS`.
    SRB_FUNCTION_DUMP_POINTERS = 0x26;
    /// `SRB_FUNCTION_FREE_DUMP_POINTERS`.
    SRB_FUNCTION_FREE_DUMP_POINTERS = 0x27;
    /// `SRB_FUNCTION_STORAGE_REQUEST_BLOCK`: the request is a [`StorageRequestBlock`].
    SRB_FUNCTION_STORAGE_REQUEST_BLOCK = 0x28;

    /// `SRB_STATUS_PENDING`.
    SRB_STATUS_PENDING = 0;
    /// `SRB_STATUS_SUCCESS`.
    SRB_STATUS_SUCCESS = 1;
    /// `SRB_STATUS_ABORTED`.
    SRB_STATUS_ABORTED = 2;
    /// `SRB_STATUS_ERROR`.
    SRB_STATUS_ERROR = 4;
    /// `SRB_STATUS_BUSY`.
    SRB_STATUS_BUSY = 5;
    /// `SRB_STATUS_INVALID_REQUEST`.
    SRB_STATUS_INVALID_REQUEST = 6;
    /// `SRB_STATUS_INVALID_PATH_ID`.
    SRB_STATUS_INVALID_PATH_ID = 7;
    /// `SRB_STATUS_NO_DEVICE`.
    SRB_STATUS_NO_DEVICE = 8;
    /// `SRB_STATUS_TIMEOUT`.
    SRB_STATUS_TIMEOUT = 9;
    /// `SRB_STATUS_SELECTION_TIMEOUT`.
    SRB_STATUS_SELECTION_TIMEOUT = 0x0a;
    /// `SRB_STATUS_BUS_RESET`.
    SRB_STATUS_BUS_RESET = 0x0e;
    /// `SRB_STATUS_NO_HBA`.
    SRB_STATUS_NO_HBA = 0x11;
    /// `SRB_STATUS_DATA_OVERRUN`.
    SRB_STATUS_DATA_OVERRUN = 0x12;
    /// `SRB_STATUS_REQUEST_FLUSHED`.
    SRB_STATUS_REQUEST_FLUSHED = 0x16;
    /// `SRB_STATUS_INVALID_LUN`.
    SRB_STATUS_INVALID_LUN = 0x20;
    /// `SRB_STATUS_INVALID_TARGET_ID`.
    SRB_STATUS_INVALID_TARGET_ID = 0x21;
    /// `SRB_STATUS_BAD_FUNCTION`.
    SRB_STATUS_BAD_FUNCTION = 0x22;
    /// `SRB_STATUS_NOT_POWERED`.
    SRB_STATUS_NOT_POWERED = 0x24;
    /// `SRB_STATUS_INTERNAL_ERROR`.
    SRB_STATUS_INTERNAL_ERROR = 0x30;
    /// `SRB_STATUS_QUEUE_FROZEN`: a flag.
    SRB_STATUS_QUEUE_FROZEN = 0x40;
    /// `SRB_STATUS_AUTOSENSE_VALID`: a flag.
    SRB_STATUS_AUTOSENSE_VALID = 0x80;

    /// `SCSISTAT_GOOD`.
    SCSISTAT_GOOD = 0;
    /// `SCSISTAT_CHECK_CONDITION`.
    SCSISTAT_CHECK_CONDITION = 2;
    /// `SCSISTAT_BUSY`.
    SCSISTAT_BUSY = 8;
    /// `SCSISTAT_QUEUE_FULL`.
    SCSISTAT_QUEUE_FULL = 0x28;
}

numbers! { u32:
    /// `SRB_FLAGS_QUEUE_ACTION_ENABLE`.
    SRB_FLAGS_QUEUE_ACTION_ENABLE = 0x2;
    /// `SRB_FLAGS_DISABLE_SYNCH_TRANSFER`.
    SRB_FLAGS_DISABLE_SYNCH_TRANSFER = 0x8;
    /// `SRB_FLAGS_BYPASS_FROZEN_QUEUE`.
    SRB_FLAGS_BYPASS_FROZEN_QUEUE = 0x10;
    /// `SRB_FLAGS_DATA_IN`.
    SRB_FLAGS_DATA_IN = 0x40;
    /// `SRB_FLAGS_DATA_OUT`.
    SRB_FLAGS_DATA_OUT = 0x80;
    /// `SRB_FLAGS_NO_QUEUE_FREEZE`.
    SRB_FLAGS_NO_QUEUE_FREEZE = 0x100;
    /// `SRB_FLAGS_BYPASS_LOCKED_QUEUE`.
    SRB_FLAGS_BYPASS_LOCKED_QUEUE = 0x8_0000;

    /// `SP_RETURN_NOT_FOUND`.
    SP_RETURN_NOT_FOUND = 0;
    /// `SP_RETURN_FOUND`.
    SP_RETURN_FOUND = 1;
    /// `SP_RETURN_ERROR`.
    SP_RETURN_ERROR = 2;
    /// `SP_RETURN_BAD_CONFIG`.
    SP_RETURN_BAD_CONFIG = 3;
    /// `SP_UNINITIALIZED_VALUE`.
    SP_UNINITIALIZED_VALUE = u32::MAX;

    /// `ScsiQuerySupportedControlTypes`.
    SCSI_QUERY_SUPPORTED_CONTROL_TYPES = 0;
    /// `ScsiStopAdapter`.
    SCSI_STOP_ADAPTER = 1;
    /// `ScsiRestartAdapter`.
    SCSI_RESTART_ADAPTER = 2;
    /// `ScsiSetBootConfig`.
    SCSI_SET_BOOT_CONFIG = 3;
    /// `ScsiSetRunningConfig`.
    SCSI_SET_RUNNING_CONFIG = 4;
    /// `ScsiAdapterSurpriseRemoval`.
    SCSI_ADAPTER_SURPRISE_REMOVAL = 16;
    /// Adapter control types that there are.
    SCSI_ADAPTER_CONTROL_MAX = 18;

    /// `ScsiQuerySupportedUnitControlTypes`.
    SCSI_QUERY_SUPPORTED_UNIT_CONTROL_TYPES = 0;
    /// `ScsiUnitStart`.
    SCSI_UNIT_START = 2;
    /// `ScsiUnitRemove`.
    SCSI_UNIT_REMOVE = 9;
    /// `ScsiUnitSurpriseRemoval`.
    SCSI_UNIT_SURPRISE_REMOVAL = 10;
    /// Unit control types that there are.
    SCSI_UNIT_CONTROL_MAX = 17;
}

/// `SRB_SIGNATURE`.
pub const SRB_SIGNATURE: u32 = 0x5352_4258;

const _: () = {
    assert!(size_of::<HwInitializationData>() == 0xd0);
    assert!(offset_of!(HwInitializationData, hw_initialize) == 8);
    assert!(offset_of!(HwInitializationData, device_extension_size) == 0x40);
    assert!(offset_of!(HwInitializationData, map_buffers) == 0x58);
    assert!(offset_of!(HwInitializationData, vendor_id) == 0x60);
    assert!(offset_of!(HwInitializationData, hw_adapter_control) == 0x78);
    assert!(offset_of!(HwInitializationData, feature_support) == 0xb8);
    assert!(offset_of!(HwInitializationData, hw_unit_control) == 0xc8);
    assert!(HW_INITIALIZATION_DATA_BASE == 0x88);
    assert!(size_of::<AccessRange>() == 16 && size_of::<MemoryRegion>() == 24);
    assert!(size_of::<PortConfiguration>() == 0xe0);
    assert!(offset_of!(PortConfiguration, maximum_transfer_length) == 0x18);
    assert!(offset_of!(PortConfiguration, alignment_mask) == 0x30);
    assert!(offset_of!(PortConfiguration, access_ranges) == 0x38);
    assert!(offset_of!(PortConfiguration, number_of_buses) == 0x48);
    assert!(offset_of!(PortConfiguration, scatter_gather) == 0x51);
    assert!(offset_of!(PortConfiguration, map_buffers) == 0x59);
    assert!(offset_of!(PortConfiguration, maximum_number_of_targets) == 0x61);
    assert!(offset_of!(PortConfiguration, slot_number) == 0x64);
    assert!(offset_of!(PortConfiguration, device_extension_size) == 0x84);
    assert!(offset_of!(PortConfiguration, dma_64_bit_addresses) == 0x90);
    assert!(offset_of!(PortConfiguration, synchronization_model) == 0x94);
    assert!(offset_of!(PortConfiguration, hw_ms_interrupt_routine) == 0x98);
    assert!(offset_of!(PortConfiguration, dump_region) == 0xa8);
    assert!(offset_of!(PortConfiguration, max_number_of_io) == 0xcc);
    assert!(offset_of!(PortConfiguration, feature_support) == 0xdc);
    assert!(size_of::<ScsiRequestBlock>() == 0x58);
    assert!(offset_of!(ScsiRequestBlock, data_buffer) == 0x18 && offset_of!(ScsiRequestBlock, srb_extension) == 0x38);
    assert!(offset_of!(ScsiRequestBlock, cdb) == 0x48);
    assert!(size_of::<ScsiPnpRequestBlock>() == 0x58 && offset_of!(ScsiPnpRequestBlock, srb_pnp_flags) == 0x40);
    assert!(size_of::<ScsiPowerRequestBlock>() == 0x58 && offset_of!(ScsiPowerRequestBlock, power_action) == 0x40);
    assert!(size_of::<StorageRequestBlock>() == 0x80);
    assert!(
        offset_of!(StorageRequestBlock, srb_length) == 0x10 && offset_of!(StorageRequestBlock, data_buffer) == 0x40
    );
    assert!(offset_of!(StorageRequestBlock, miniport_context) == 0x68);
    assert!(size_of::<StorAddrBtl8>() == 12 && size_of::<StorLogEventDetails>() == 0x48);
    assert!(
        offset_of!(StorLogEventDetails, error_code) == 0x20 && offset_of!(StorLogEventDetails, string_list) == 0x40
    );
    assert!(size_of::<SrbExDataScsiCdb16>() == 0x28 && offset_of!(SrbExDataScsiCdb16, cdb) == 0x18);
    assert!(size_of::<ScatterGatherElement>() == 24 && size_of::<ScatterGatherList>() == 16);
    assert!(size_of::<StorDpc>() == 0x48 && size_of::<StorLockHandle>() == 0x20);
    assert!(size_of::<PerfConfigurationData>() == 0x28 && size_of::<StartIoPerformanceParameters>() == 16);
    assert!(size_of::<MessageInterruptInformation>() == 0x20);
};
