//! Layouts of the I/O manager, declared from public documentation (x64).
//!
//! Each structure is documented under its Windows name at
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/>. Sizes and offsets are asserted at the end.
use crate::ke::abi::{DeviceQueue, DeviceQueueEntry, Dpc, Event, ListEntry};
use crate::rtl::abi::UnicodeString;
use core::ffi::c_void;
use core::mem::offset_of;

pub use crate::status::NtStatus;
/// A handle; the kernel's have the upper bits set.
pub type Handle = *mut c_void;
/// A driver's dispatch routine (`DRIVER_DISPATCH`).
pub type Dispatch = unsafe extern "win64" fn(device: *mut DeviceObject, irp: *mut Irp) -> NtStatus;
/// `IO_COMPLETION_ROUTINE`.
pub type CompletionRoutine =
    unsafe extern "win64" fn(device: *mut DeviceObject, irp: *mut Irp, context: *mut c_void) -> NtStatus;
/// `DRIVER_CANCEL`; called with the cancel spin lock held, and releases it.
pub type CancelRoutine = unsafe extern "win64" fn(device: *mut DeviceObject, irp: *mut Irp);
/// `DRIVER_STARTIO`.
pub type StartIo = unsafe extern "win64" fn(device: *mut DeviceObject, irp: *mut Irp);
/// `DRIVER_UNLOAD`.
pub type Unload = unsafe extern "win64" fn(driver: *mut DriverObject);
/// `DRIVER_ADD_DEVICE`.
pub type AddDevice = unsafe extern "win64" fn(driver: *mut DriverObject, pdo: *mut DeviceObject) -> NtStatus;
/// `DRIVER_INITIALIZE`.
pub type DriverInitialize =
    unsafe extern "win64" fn(driver: *mut DriverObject, registry_path: *mut UnicodeString) -> NtStatus;

/// `IO_TYPE_DEVICE`.
pub const IO_TYPE_DEVICE: i16 = 3;
/// `IO_TYPE_DRIVER`.
pub const IO_TYPE_DRIVER: i16 = 4;
/// `IO_TYPE_FILE`.
pub const IO_TYPE_FILE: i16 = 5;
/// `IO_TYPE_IRP`.
pub const IO_TYPE_IRP: i16 = 6;

/// Major function codes (`IRP_MJ_*`).
pub mod mj {
    /// IRP_MJ_CREATE
    pub const CREATE: u8 = 0x00;
    /// IRP_MJ_CLOSE
    pub const CLOSE: u8 = 0x02;
    /// IRP_MJ_READ
    pub const READ: u8 = 0x03;
    /// IRP_MJ_WRITE
    pub const WRITE: u8 = 0x04;
    /// IRP_MJ_QUERY_INFORMATION
    pub const QUERY_INFORMATION: u8 = 0x05;
    /// IRP_MJ_SET_INFORMATION
    pub const SET_INFORMATION: u8 = 0x06;
    /// IRP_MJ_FLUSH_BUFFERS
    pub const FLUSH_BUFFERS: u8 = 0x09;
    /// IRP_MJ_DEVICE_CONTROL
    pub const DEVICE_CONTROL: u8 = 0x0e;
    /// IRP_MJ_INTERNAL_DEVICE_CONTROL, IRP_MJ_SCSI
    pub const INTERNAL_DEVICE_CONTROL: u8 = 0x0f;
    /// IRP_MJ_SHUTDOWN
    pub const SHUTDOWN: u8 = 0x10;
    /// IRP_MJ_CLEANUP
    pub const CLEANUP: u8 = 0x12;
    /// IRP_MJ_POWER
    pub const POWER: u8 = 0x16;
    /// IRP_MJ_SYSTEM_CONTROL
    pub const SYSTEM_CONTROL: u8 = 0x17;
    /// IRP_MJ_PNP
    pub const PNP: u8 = 0x1b;
    /// IRP_MJ_MAXIMUM_FUNCTION
    pub const MAXIMUM: u8 = 0x1b;
}

/// Minor function codes of IRP_MJ_PNP (`IRP_MN_*`).
pub mod mn {
    /// IRP_MN_START_DEVICE
    pub const START_DEVICE: u8 = 0x00;
    /// IRP_MN_QUERY_REMOVE_DEVICE
    pub const QUERY_REMOVE_DEVICE: u8 = 0x01;
    /// IRP_MN_REMOVE_DEVICE
    pub const REMOVE_DEVICE: u8 = 0x02;
    /// IRP_MN_CANCEL_REMOVE_DEVICE
    pub const CANCEL_REMOVE_DEVICE: u8 = 0x03;
    /// IRP_MN_STOP_DEVICE
    pub const STOP_DEVICE: u8 = 0x04;
    /// IRP_MN_QUERY_STOP_DEVICE
    pub const QUERY_STOP_DEVICE: u8 = 0x05;
    /// IRP_MN_CANCEL_STOP_DEVICE
    pub const CANCEL_STOP_DEVICE: u8 = 0x06;
    /// IRP_MN_QUERY_DEVICE_RELATIONS
    pub const QUERY_DEVICE_RELATIONS: u8 = 0x07;
    /// IRP_MN_QUERY_INTERFACE
    pub const QUERY_INTERFACE: u8 = 0x08;
    /// IRP_MN_QUERY_CAPABILITIES
    pub const QUERY_CAPABILITIES: u8 = 0x09;
    /// IRP_MN_QUERY_RESOURCES
    pub const QUERY_RESOURCES: u8 = 0x0a;
    /// IRP_MN_QUERY_RESOURCE_REQUIREMENTS
    pub const QUERY_RESOURCE_REQUIREMENTS: u8 = 0x0b;
    /// IRP_MN_QUERY_DEVICE_TEXT
    pub const QUERY_DEVICE_TEXT: u8 = 0x0c;
    /// IRP_MN_FILTER_RESOURCE_REQUIREMENTS
    pub const FILTER_RESOURCE_REQUIREMENTS: u8 = 0x0d;
    /// IRP_MN_READ_CONFIG
    pub const READ_CONFIG: u8 = 0x0f;
    /// IRP_MN_WRITE_CONFIG
    pub const WRITE_CONFIG: u8 = 0x10;
    /// IRP_MN_EJECT
    pub const EJECT: u8 = 0x11;
    /// IRP_MN_SET_LOCK
    pub const SET_LOCK: u8 = 0x12;
    /// IRP_MN_QUERY_ID
    pub const QUERY_ID: u8 = 0x13;
    /// IRP_MN_QUERY_PNP_DEVICE_STATE
    pub const QUERY_PNP_DEVICE_STATE: u8 = 0x14;
    /// IRP_MN_QUERY_BUS_INFORMATION
    pub const QUERY_BUS_INFORMATION: u8 = 0x15;
    /// IRP_MN_DEVICE_USAGE_NOTIFICATION
    pub const DEVICE_USAGE_NOTIFICATION: u8 = 0x16;
    /// IRP_MN_SURPRISE_REMOVAL
    pub const SURPRISE_REMOVAL: u8 = 0x17;
    /// IRP_MN_DEVICE_ENUMERATED
    pub const DEVICE_ENUMERATED: u8 = 0x19;
    /// IRP_MN_WAIT_WAKE of IRP_MJ_POWER
    pub const WAIT_WAKE: u8 = 0x00;
    /// IRP_MN_POWER_SEQUENCE of IRP_MJ_POWER
    pub const POWER_SEQUENCE: u8 = 0x01;
    /// IRP_MN_SET_POWER of IRP_MJ_POWER
    pub const SET_POWER: u8 = 0x02;
    /// IRP_MN_QUERY_POWER of IRP_MJ_POWER
    pub const QUERY_POWER: u8 = 0x03;
}

/// Bits of `IO_STACK_LOCATION.Control`.
pub mod sl {
    /// SL_PENDING_RETURNED
    pub const PENDING_RETURNED: u8 = 0x01;
    /// SL_ERROR_RETURNED
    pub const ERROR_RETURNED: u8 = 0x02;
    /// SL_INVOKE_ON_CANCEL
    pub const INVOKE_ON_CANCEL: u8 = 0x20;
    /// SL_INVOKE_ON_SUCCESS
    pub const INVOKE_ON_SUCCESS: u8 = 0x40;
    /// SL_INVOKE_ON_ERROR
    pub const INVOKE_ON_ERROR: u8 = 0x80;
}

/// Bits of `IRP.Flags`.
pub mod irp_flags {
    /// IRP_PAGING_IO
    pub const PAGING_IO: u32 = 0x02;
    /// IRP_SYNCHRONOUS_API
    pub const SYNCHRONOUS_API: u32 = 0x04;
    /// IRP_ASSOCIATED_IRP
    pub const ASSOCIATED_IRP: u32 = 0x08;
    /// IRP_BUFFERED_IO
    pub const BUFFERED_IO: u32 = 0x10;
    /// IRP_DEALLOCATE_BUFFER
    pub const DEALLOCATE_BUFFER: u32 = 0x20;
    /// IRP_INPUT_OPERATION
    pub const INPUT_OPERATION: u32 = 0x40;
    /// IRP_CLOSE_OPERATION
    pub const CLOSE_OPERATION: u32 = 0x400;
}

/// Bits of `DEVICE_OBJECT.Flags`.
pub mod do_flags {
    /// DO_EXCLUSIVE
    pub const EXCLUSIVE: u32 = 0x08;
    /// DO_BUFFERED_IO
    pub const BUFFERED_IO: u32 = 0x04;
    /// DO_DIRECT_IO
    pub const DIRECT_IO: u32 = 0x10;
    /// DO_MAP_IO_BUFFER
    pub const MAP_IO_BUFFER: u32 = 0x20;
    /// DO_DEVICE_HAS_NAME
    pub const DEVICE_HAS_NAME: u32 = 0x40;
    /// DO_DEVICE_INITIALIZING
    pub const DEVICE_INITIALIZING: u32 = 0x80;
    /// DO_SHUTDOWN_REGISTERED
    pub const SHUTDOWN_REGISTERED: u32 = 0x800;
    /// DO_BUS_ENUMERATED_DEVICE
    pub const BUS_ENUMERATED_DEVICE: u32 = 0x1000;
    /// DO_POWER_PAGABLE
    pub const POWER_PAGABLE: u32 = 0x2000;
    /// DO_POWER_INRUSH
    pub const POWER_INRUSH: u32 = 0x4000;
}

/// `IO_STATUS_BLOCK`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IoStatusBlock {
    /// The status; `Pointer` in the other arm of the union.
    pub status: NtStatus,
    pad: u32,
    /// Bytes transferred, or what the request defines.
    pub information: usize,
}

impl IoStatusBlock {
    /// A block with that content.
    pub const fn new(status: NtStatus, information: usize) -> Self {
        Self { status, pad: 0, information }
    }
}

/// `WAIT_CONTEXT_BLOCK`: a device's wait for an adapter channel.
#[repr(C)]
pub struct WaitContextBlock {
    /// Place in the adapter's queue.
    pub entry: DeviceQueueEntry,
    /// `DRIVER_CONTROL`.
    pub routine: *mut c_void,
    /// Its last argument.
    pub context: *mut c_void,
    /// Map registers asked for.
    pub map_registers: u32,
    /// The device.
    pub device: *mut c_void,
    /// The IRP passed to the routine.
    pub irp: *mut c_void,
    /// Used by the adapter.
    pub dpc: *mut Dpc,
}

/// `DEVICE_OBJECT`.
#[repr(C, align(16))]
pub struct DeviceObject {
    /// [`IO_TYPE_DEVICE`].
    pub kind: i16,
    /// Bytes of this structure and of the extension.
    pub size: u16,
    /// Open handles.
    pub reference_count: i32,
    /// Its driver.
    pub driver: *mut DriverObject,
    /// The driver's next device.
    pub next: *mut DeviceObject,
    /// The device attached on top.
    pub attached: *mut DeviceObject,
    /// What StartIo works on.
    pub current_irp: *mut Irp,
    /// `IO_TIMER`, ours.
    pub timer: *mut c_void,
    /// `DO_*`.
    pub flags: u32,
    /// `FILE_*` characteristics.
    pub characteristics: u32,
    /// Volume parameter block.
    pub vpb: *mut c_void,
    /// The driver's own.
    pub extension: *mut c_void,
    /// `FILE_DEVICE_*`.
    pub device_type: u32,
    /// Stack locations an IRP to it needs.
    pub stack_size: i8,
    /// Wait for an adapter channel.
    pub queue: WaitContextBlock,
    /// Alignment of buffers, as a mask.
    pub alignment_requirement: u32,
    /// IRPs that wait for StartIo.
    pub device_queue: DeviceQueue,
    /// `IoInitializeDpcRequest`.
    pub dpc: Dpc,
    /// Used by file systems.
    pub active_thread_count: u32,
    /// Who may open it.
    pub security_descriptor: *mut c_void,
    /// Used by the I/O manager.
    pub device_lock: Event,
    /// Used by file systems.
    pub sector_size: u16,
    spare: u16,
    /// The part that drivers do not see.
    pub object_extension: *mut DeviceObjectExtension,
    reserved: *mut c_void,
}

/// `DEVOBJ_EXTENSION`: the documented head, and what this I/O manager keeps behind it.
#[repr(C)]
pub struct DeviceObjectExtension {
    /// 13.
    pub kind: i16,
    /// 0.
    pub size: u16,
    /// The device.
    pub device: *mut DeviceObject,
    /// The device that this one is attached to.
    pub attached_to: *mut DeviceObject,
    /// The PnP manager's node, for a PDO: see [`crate::pnp`].
    pub node: *const c_void,
    /// References held by pointers, besides the handles counted in the device object.
    pub pointers: core::sync::atomic::AtomicIsize,
    /// `IoDeleteDevice` was called.
    pub deleted: core::sync::atomic::AtomicBool,
    /// Powers states told by `PoSetPowerState`: system, device.
    pub power: [core::sync::atomic::AtomicU32; 2],
    /// StartIo attributes (`IoSetStartIoAttributes`), and whether StartIo runs: bits of `startio`.
    pub start_io: core::sync::atomic::AtomicU32,
    /// The key of the packet that waits for StartIo to end.
    pub start_io_key: core::sync::atomic::AtomicU32,
}

/// `DRIVER_EXTENSION`: the documented head.
#[repr(C)]
pub struct DriverExtension {
    /// The driver.
    pub driver: *mut DriverObject,
    /// Its AddDevice routine.
    pub add_device: Option<AddDevice>,
    /// Calls of reinitialization routines so far.
    pub count: u32,
    /// The service's name.
    pub service_key_name: UnicodeString,
}

/// `DRIVER_OBJECT`.
#[repr(C)]
pub struct DriverObject {
    /// [`IO_TYPE_DRIVER`].
    pub kind: i16,
    /// Bytes of this structure.
    pub size: i16,
    /// Its devices, linked by [`DeviceObject::next`].
    pub devices: *mut DeviceObject,
    /// `DRVO_*`.
    pub flags: u32,
    /// Where its image starts.
    pub start: *mut c_void,
    /// Bytes of the image.
    pub image_size: u32,
    /// The loader's record.
    pub section: *mut c_void,
    /// More of it.
    pub extension: *mut DriverExtension,
    /// `\Driver\name`.
    pub name: UnicodeString,
    /// `\Registry\Machine\Hardware\Description\System`.
    pub hardware_database: *mut UnicodeString,
    /// File systems' fast path.
    pub fast_io: *mut c_void,
    /// DriverEntry.
    pub init: Option<DriverInitialize>,
    /// StartIo.
    pub start_io: Option<StartIo>,
    /// Unload.
    pub unload: Option<Unload>,
    /// Dispatch routines by `IRP_MJ_*`.
    pub major: [Option<Dispatch>; mj::MAXIMUM as usize + 1],
}

/// `IRP`.
#[repr(C, align(16))]
pub struct Irp {
    /// [`IO_TYPE_IRP`].
    pub kind: i16,
    /// Bytes of the IRP and its stack locations.
    pub size: u16,
    /// The buffer, for direct I/O.
    pub mdl: *mut c_void,
    /// `IRP_*`.
    pub flags: u32,
    /// MasterIrp, IrpCount or SystemBuffer.
    pub associated: *mut c_void,
    /// The requesting thread's list.
    pub thread_list: ListEntry,
    /// The result.
    pub io_status: IoStatusBlock,
    /// KernelMode = 0, UserMode = 1.
    pub requestor_mode: i8,
    /// Whether the location below returned pending; for completion routines.
    pub pending_returned: u8,
    /// Stack locations.
    pub stack_count: i8,
    /// The current one, counted from 1; `stack_count` + 1 before the first.
    pub current_location: i8,
    /// Whether it was cancelled.
    pub cancel: u8,
    /// The IRQL to lower to when the cancel lock is released.
    pub cancel_irql: u8,
    /// APC environment.
    pub apc_environment: i8,
    /// How it was allocated; ours.
    pub allocation_flags: u8,
    /// Where the result is copied to.
    pub user_iosb: *mut IoStatusBlock,
    /// Set at completion.
    pub user_event: *mut Event,
    /// UserApcRoutine and UserApcContext, or AllocationSize.
    pub overlay: [usize; 2],
    /// The cancel routine, exchanged atomically.
    pub cancel_routine: core::sync::atomic::AtomicUsize,
    /// The caller's buffer.
    pub user_buffer: *mut c_void,
    /// DriverContext, or a DeviceQueueEntry.
    pub driver_context: [*mut c_void; 4],
    /// The requesting thread.
    pub thread: *mut c_void,
    /// Auxiliary buffer.
    pub auxiliary: *mut c_void,
    /// For the owning driver's lists.
    pub list: ListEntry,
    /// The current stack location.
    pub current: *mut StackLocation,
    /// The file object it came through.
    pub original_file: *mut FileObject,
    /// IrpExtension.
    pub extension: *mut c_void,
}

/// `IO_STACK_LOCATION`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StackLocation {
    /// `IRP_MJ_*`.
    pub major: u8,
    /// `IRP_MN_*`.
    pub minor: u8,
    /// `SL_*` flags of the request.
    pub flags: u8,
    /// `SL_*` of completion, see [`sl`].
    pub control: u8,
    /// By request.
    pub parameters: Parameters,
    /// The device it was sent to.
    pub device: *mut DeviceObject,
    /// The file.
    pub file: *mut FileObject,
    /// Completion routine of the driver above.
    pub completion: Option<CompletionRoutine>,
    /// Its context.
    pub context: *mut c_void,
}

/// `IO_STACK_LOCATION.Parameters`.
#[derive(Clone, Copy)]
#[repr(C)]
pub union Parameters {
    /// Others.
    pub others: [*mut c_void; 4],
    /// Create.
    pub create: Create,
    /// Read and Write.
    pub read_write: ReadWrite,
    /// DeviceIoControl and FileSystemControl.
    pub ioctl: DeviceIoControl,
    /// QueryFile.
    pub query_file: QueryFile,
    /// QueryDeviceRelations: `DEVICE_RELATION_TYPE`.
    pub relation_type: i32,
    /// QueryId: `BUS_QUERY_ID_TYPE`.
    pub id_type: i32,
    /// QueryInterface.
    pub query_interface: QueryInterface,
    /// DeviceCapabilities.
    pub capabilities: *mut DeviceCapabilities,
    /// FilterResourceRequirements.
    pub requirements: *mut c_void,
    /// ReadWriteConfig.
    pub config: ReadWriteConfig,
    /// SetLock.
    pub lock: u8,
    /// QueryDeviceText.
    pub text: QueryDeviceText,
    /// UsageNotification.
    pub usage: UsageNotification,
    /// Power.
    pub power: Power,
    /// StartDevice.
    pub start: StartDevice,
    /// WMI.
    pub wmi: [*mut c_void; 4],
}

/// `IO_SECURITY_CONTEXT`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SecurityContext {
    /// `SECURITY_QUALITY_OF_SERVICE`, or null.
    pub quality: *mut c_void,
    /// How far the access was granted.
    pub state: *mut AccessState,
    /// What is asked for.
    pub access: u32,
    /// `FILE_*` options.
    pub options: u32,
}

/// `ACCESS_STATE`; what is not named is zero.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AccessState {
    operation: u64,
    evaluated: [u8; 4],
    flags: u32,
    /// Not granted yet.
    pub remaining: u32,
    /// Granted.
    pub granted: u32,
    /// Asked for.
    pub original: u32,
    rest: [u64; 16],
}

/// Parameters of IRP_MJ_CREATE.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Create {
    /// `IO_SECURITY_CONTEXT`.
    pub security: *mut c_void,
    /// Disposition in the upper 8 bits.
    pub options: u32,
    pad: u32,
    /// `FILE_ATTRIBUTE_*`.
    pub attributes: u16,
    /// `FILE_SHARE_*`.
    pub share: u16,
    pad2: u32,
    /// Length of extended attributes.
    pub ea_length: u32,
}

/// Parameters of IRP_MJ_READ and IRP_MJ_WRITE.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ReadWrite {
    /// Bytes.
    pub length: u32,
    pad: u32,
    /// Key.
    pub key: u32,
    /// Flags.
    pub flags: u32,
    /// Where on the device.
    pub offset: i64,
}

/// Parameters of IRP_MJ_DEVICE_CONTROL.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct DeviceIoControl {
    /// Bytes of the output buffer.
    pub output_length: u32,
    pad: u32,
    /// Bytes of the input buffer.
    pub input_length: u32,
    pad2: u32,
    /// The code.
    pub code: u32,
    pad3: u32,
    /// The caller's input buffer, for METHOD_NEITHER.
    pub type3_input: *mut c_void,
}

/// Parameters of IRP_MJ_QUERY_INFORMATION.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct QueryFile {
    /// Bytes of the buffer.
    pub length: u32,
    pad: u32,
    /// `FILE_INFORMATION_CLASS`.
    pub class: i32,
}

/// Parameters of IRP_MN_QUERY_INTERFACE.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct QueryInterface {
    /// The interface's GUID.
    pub interface_type: *const crate::rtl::abi::Guid,
    /// Bytes of the buffer.
    pub size: u16,
    /// Version asked for.
    pub version: u16,
    /// The buffer.
    pub interface: *mut Interface,
    /// What the interface defines.
    pub specific: *mut c_void,
}

/// Parameters of IRP_MN_READ_CONFIG and IRP_MN_WRITE_CONFIG.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ReadWriteConfig {
    /// `PCI_WHICHSPACE_*`.
    pub space: u32,
    pad: u32,
    /// The buffer.
    pub buffer: *mut c_void,
    /// Where in the space.
    pub offset: u32,
    pad2: u32,
    /// Bytes.
    pub length: u32,
}

/// Parameters of IRP_MN_QUERY_DEVICE_TEXT.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct QueryDeviceText {
    /// `DEVICE_TEXT_TYPE`: 0 description, 1 location.
    pub kind: i32,
    pad: u32,
    /// Language.
    pub locale: u32,
}

/// Parameters of IRP_MN_DEVICE_USAGE_NOTIFICATION.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UsageNotification {
    /// 1 = the file is being put there, 0 = it goes.
    pub in_path: u8,
    reserved: [u8; 7],
    /// `DEVICE_USAGE_NOTIFICATION_TYPE`: 1 paging, 2 hibernation, 3 dump, 4 boot.
    pub kind: i32,
}

impl UsageNotification {
    /// The parameters.
    pub const fn new(in_path: bool, kind: i32) -> Self {
        Self { in_path: in_path as u8, reserved: [0; 7], kind }
    }
}

/// Parameters of IRP_MJ_POWER.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Power {
    /// SystemPowerStateContext.
    pub context: u32,
    pad: u32,
    /// `POWER_STATE_TYPE`: 0 system, 1 device.
    pub kind: i32,
    pad2: u32,
    /// `POWER_STATE`.
    pub state: i32,
    pad3: u32,
    /// `POWER_ACTION`.
    pub action: i32,
}

impl Power {
    /// The parameters.
    pub const fn new(kind: i32, state: i32, action: i32) -> Self {
        Self { context: 0, pad: 0, kind, pad2: 0, state, pad3: 0, action }
    }
}

/// Parameters of IRP_MN_START_DEVICE.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StartDevice {
    /// What the device decodes.
    pub raw: *mut c_void,
    /// What the processor uses.
    pub translated: *mut c_void,
}

/// `FILE_OBJECT`.
#[repr(C)]
pub struct FileObject {
    /// [`IO_TYPE_FILE`].
    pub kind: i16,
    /// Bytes of this structure.
    pub size: i16,
    /// The device.
    pub device: *mut DeviceObject,
    /// Volume parameter block.
    pub vpb: *mut c_void,
    /// The driver's own.
    pub fs_context: *mut c_void,
    /// The driver's own.
    pub fs_context2: *mut c_void,
    /// Cache manager's.
    pub section: *mut c_void,
    /// Cache manager's.
    pub cache_map: *mut c_void,
    /// Result of the close.
    pub final_status: NtStatus,
    /// The file it was opened relative to.
    pub related: *mut FileObject,
    /// LockOperation, DeletePending, Read-, Write-, DeleteAccess, SharedRead, SharedWrite, SharedDelete.
    pub access: [u8; 8],
    /// `FO_*`.
    pub flags: u32,
    /// What follows the device's name.
    pub name: UnicodeString,
    /// Position of synchronous I/O.
    pub offset: i64,
    /// Threads that wait for the lock.
    pub waiters: u32,
    /// Whether the lock is taken.
    pub busy: u32,
    /// Byte-range lock.
    pub last_lock: *mut c_void,
    /// The lock.
    pub lock: Event,
    /// Set when an operation completes.
    pub event: Event,
    /// Completion port.
    pub completion: *mut c_void,
    /// Guards the list.
    pub irp_list_lock: usize,
    /// IRPs.
    pub irp_list: ListEntry,
    /// Extension.
    pub extension: *mut c_void,
}

/// `DEVICE_CAPABILITIES`, version 1.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct DeviceCapabilities {
    /// Bytes of this structure.
    pub size: u16,
    /// 1.
    pub version: u16,
    /// See [`caps`].
    pub bits: u32,
    /// Address on the bus.
    pub address: u32,
    /// Slot number for the user.
    pub ui_number: u32,
    /// Device power state by system power state.
    pub device_state: [i32; 7],
    /// The deepest system state that it wakes from.
    pub system_wake: i32,
    /// The deepest device state that it wakes from.
    pub device_wake: i32,
    /// Latency in 100 us.
    pub d1_latency: u32,
    /// Latency in 100 us.
    pub d2_latency: u32,
    /// Latency in 100 us.
    pub d3_latency: u32,
}

impl DeviceCapabilities {
    /// As a query for capabilities starts out.
    pub const fn query() -> Self {
        Self {
            size: 64,
            version: 1,
            bits: 0,
            address: u32::MAX,
            ui_number: u32::MAX,
            device_state: [0; 7],
            system_wake: 0,
            device_wake: 0,
            d1_latency: 0,
            d2_latency: 0,
            d3_latency: 0,
        }
    }
}

/// Bits of [`DeviceCapabilities::bits`].
pub mod caps {
    /// LockSupported
    pub const LOCK_SUPPORTED: u32 = 1 << 2;
    /// EjectSupported
    pub const EJECT_SUPPORTED: u32 = 1 << 3;
    /// Removable
    pub const REMOVABLE: u32 = 1 << 4;
    /// UniqueID
    pub const UNIQUE_ID: u32 = 1 << 6;
    /// SilentInstall
    pub const SILENT_INSTALL: u32 = 1 << 7;
    /// RawDeviceOK
    pub const RAW_DEVICE_OK: u32 = 1 << 8;
    /// SurpriseRemovalOK
    pub const SURPRISE_REMOVAL_OK: u32 = 1 << 9;
    /// HardwareDisabled
    pub const HARDWARE_DISABLED: u32 = 1 << 14;
}

/// `INTERFACE`: the head of every interface.
#[repr(C)]
pub struct Interface {
    /// Bytes.
    pub size: u16,
    /// Version.
    pub version: u16,
    /// First argument of the functions.
    pub context: *mut c_void,
    /// Takes a reference.
    pub reference: Option<unsafe extern "win64" fn(*mut c_void)>,
    /// Gives it back.
    pub dereference: Option<unsafe extern "win64" fn(*mut c_void)>,
}

/// `GET_SET_DEVICE_DATA`.
pub type GetSetDeviceData =
    unsafe extern "win64" fn(context: *mut c_void, kind: u32, buffer: *mut c_void, offset: u32, length: u32) -> u32;

/// `BUS_INTERFACE_STANDARD`.
#[repr(C)]
pub struct BusInterfaceStandard {
    /// The head.
    pub head: Interface,
    /// Bus address to system address.
    pub translate_bus_address: Option<
        unsafe extern "win64" fn(*mut c_void, bus: i64, length: u32, space: *mut u32, translated: *mut i64) -> u8,
    >,
    /// The DMA adapter.
    pub get_dma_adapter: Option<unsafe extern "win64" fn(*mut c_void, *mut c_void, *mut u32) -> *mut c_void>,
    /// Writes configuration space.
    pub set_bus_data: Option<GetSetDeviceData>,
    /// Reads configuration space.
    pub get_bus_data: Option<GetSetDeviceData>,
}

/// `DEVICE_RELATIONS`: the head; `objects` continues past its end.
#[repr(C)]
pub struct DeviceRelations {
    /// How many.
    pub count: u32,
    /// The first of them.
    pub objects: [*mut DeviceObject; 1],
}

/// `PNP_BUS_INFORMATION`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PnpBusInformation {
    /// The bus type's GUID.
    pub guid: crate::rtl::abi::Guid,
    /// `INTERFACE_TYPE`.
    pub interface_type: i32,
    /// Number of the bus.
    pub number: u32,
}

/// `IO_REMOVE_LOCK` as retail builds of drivers have it; checked builds append a debug block that is left alone.
#[repr(C)]
pub struct RemoveLock {
    /// Set by IoReleaseRemoveLockAndWait.
    pub removed: core::sync::atomic::AtomicU8,
    reserved: [u8; 3],
    /// Holders, and one for the lock itself.
    pub count: core::sync::atomic::AtomicI32,
    /// Signalled when the last holder lets go.
    pub event: Event,
}

const _: () = {
    assert!(size_of::<IoStatusBlock>() == 16);
    assert!(size_of::<WaitContextBlock>() == 0x48 && offset_of!(WaitContextBlock, device) == 0x30);

    assert!(size_of::<DeviceObject>() == 0x150 && align_of::<DeviceObject>() == 16);
    assert!(offset_of!(DeviceObject, driver) == 0x8);
    assert!(offset_of!(DeviceObject, attached) == 0x18);
    assert!(offset_of!(DeviceObject, flags) == 0x30);
    assert!(offset_of!(DeviceObject, extension) == 0x40);
    assert!(offset_of!(DeviceObject, stack_size) == 0x4c);
    assert!(offset_of!(DeviceObject, queue) == 0x50);
    assert!(offset_of!(DeviceObject, alignment_requirement) == 0x98);
    assert!(offset_of!(DeviceObject, device_queue) == 0xa0);
    assert!(offset_of!(DeviceObject, dpc) == 0xc8);
    assert!(offset_of!(DeviceObject, security_descriptor) == 0x110);
    assert!(offset_of!(DeviceObject, device_lock) == 0x118);
    assert!(offset_of!(DeviceObject, sector_size) == 0x130);
    assert!(offset_of!(DeviceObject, object_extension) == 0x138);
    assert!(offset_of!(DeviceObjectExtension, attached_to) == 0x10);

    assert!(size_of::<DriverExtension>() == 0x28 && offset_of!(DriverExtension, service_key_name) == 0x18);
    assert!(size_of::<DriverObject>() == 0x150);
    assert!(offset_of!(DriverObject, start) == 0x18);
    assert!(offset_of!(DriverObject, extension) == 0x30);
    assert!(offset_of!(DriverObject, name) == 0x38);
    assert!(offset_of!(DriverObject, init) == 0x58);
    assert!(offset_of!(DriverObject, unload) == 0x68);
    assert!(offset_of!(DriverObject, major) == 0x70);

    assert!(size_of::<Irp>() == 0xd0 && align_of::<Irp>() == 16);
    assert!(offset_of!(Irp, associated) == 0x18);
    assert!(offset_of!(Irp, io_status) == 0x30);
    assert!(offset_of!(Irp, current_location) == 0x43);
    assert!(offset_of!(Irp, user_iosb) == 0x48);
    assert!(offset_of!(Irp, cancel_routine) == 0x68);
    assert!(offset_of!(Irp, user_buffer) == 0x70);
    assert!(offset_of!(Irp, driver_context) == 0x78);
    assert!(offset_of!(Irp, thread) == 0x98);
    assert!(offset_of!(Irp, list) == 0xa8);
    assert!(offset_of!(Irp, current) == 0xb8);
    assert!(offset_of!(Irp, original_file) == 0xc0);

    assert!(size_of::<StackLocation>() == 0x48);
    assert!(offset_of!(StackLocation, parameters) == 0x8);
    assert!(offset_of!(StackLocation, device) == 0x28);
    assert!(offset_of!(StackLocation, completion) == 0x38);
    assert!(size_of::<Parameters>() == 0x20);
    assert!(offset_of!(Create, share) == 0x12 && offset_of!(Create, ea_length) == 0x18);
    assert!(offset_of!(ReadWrite, key) == 8 && offset_of!(ReadWrite, offset) == 0x10);
    assert!(offset_of!(DeviceIoControl, code) == 0x10 && offset_of!(DeviceIoControl, type3_input) == 0x18);
    assert!(offset_of!(QueryInterface, interface) == 0x10 && offset_of!(QueryInterface, version) == 0xa);
    assert!(offset_of!(ReadWriteConfig, offset) == 0x10 && offset_of!(ReadWriteConfig, length) == 0x18);
    assert!(offset_of!(UsageNotification, kind) == 8);
    assert!(offset_of!(Power, kind) == 8 && offset_of!(Power, state) == 0x10 && offset_of!(Power, action) == 0x18);

    assert!(size_of::<FileObject>() == 0xd8);
    assert!(offset_of!(FileObject, fs_context) == 0x18);
    assert!(offset_of!(FileObject, flags) == 0x50);
    assert!(offset_of!(FileObject, name) == 0x58);
    assert!(offset_of!(FileObject, lock) == 0x80);

    assert!(size_of::<DeviceCapabilities>() == 64);
    assert!(offset_of!(DeviceCapabilities, device_state) == 0x10);
    assert!(size_of::<Interface>() == 0x20);
    assert!(size_of::<BusInterfaceStandard>() == 0x40);
    assert!(size_of::<DeviceRelations>() == 16);
    assert!(size_of::<PnpBusInformation>() == 24);
    assert!(size_of::<RemoveLock>() == 0x20);
};
