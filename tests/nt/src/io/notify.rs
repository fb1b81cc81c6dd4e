//! Shutdown notification, the error log, and what the system counts of devices.
use super::abi::*;
use super::irp::{IoAllocateIrp, IoFreeIrp, next, send_and_wait};
use super::kernel::{note, pool_alloc, pool_free};
use super::status::*;
use crate::ob::{ObfDereferenceObject, ObfReferenceObject};
use crate::sync::IrqLock;
use alloc::vec::Vec;
use core::ffi::c_void;

struct Devices {
    first: Vec<*mut DeviceObject>,
    last: Vec<*mut DeviceObject>,
}
// SAFETY: device objects belong to no processor.
unsafe impl Send for Devices {}

static SHUTDOWN: IrqLock<Devices> = IrqLock::new(Devices { first: Vec::new(), last: Vec::new() });

unsafe fn register(device: *mut DeviceObject, last: bool) -> NtStatus {
    // SAFETY: the callers' device is valid.
    unsafe {
        (*device).flags |= do_flags::SHUTDOWN_REGISTERED;
        ObfReferenceObject(device.cast());
    }
    let mut all = SHUTDOWN.lock();
    let list = if last { &mut all.last } else { &mut all.first };
    // The one who registered last is told first.
    list.insert(0, device);
    STATUS_SUCCESS
}

/// Asks for IRP_MJ_SHUTDOWN before file systems are flushed. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The device is valid.
pub unsafe extern "win64" fn IoRegisterShutdownNotification(device: *mut DeviceObject) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { register(device, false) }
}

/// Asks for IRP_MJ_SHUTDOWN after that. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The device is valid.
pub unsafe extern "win64" fn IoRegisterLastChanceShutdownNotification(device: *mut DeviceObject) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { register(device, true) }
}

/// Takes that back. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The device is valid.
pub unsafe extern "win64" fn IoUnregisterShutdownNotification(device: *mut DeviceObject) {
    // SAFETY: per the contract.
    unsafe { forget_shutdown(device) };
}

/// Takes a device off both lists.
///
/// # Safety
/// The device is valid.
pub(crate) unsafe fn forget_shutdown(device: *mut DeviceObject) {
    let count = {
        let mut all = SHUTDOWN.lock();
        let before = all.first.len() + all.last.len();
        all.first.retain(|d| *d != device);
        all.last.retain(|d| *d != device);
        before - all.first.len() - all.last.len()
    };
    // SAFETY: each entry held a reference.
    unsafe {
        (*device).flags &= !do_flags::SHUTDOWN_REGISTERED;
        for _ in 0..count {
            ObfDereferenceObject(device.cast());
        }
    }
}

/// Sends IRP_MJ_SHUTDOWN to all who asked for it. IRQL = PASSIVE_LEVEL.
pub(crate) fn send_shutdown() {
    let order: Vec<usize> = {
        let all = SHUTDOWN.lock();
        all.first.iter().chain(&all.last).map(|d| *d as usize).collect()
    };
    for device in order {
        // SAFETY: the list holds references.
        unsafe {
            let device = super::device::top(device as *mut DeviceObject);
            let irp = IoAllocateIrp((*device).stack_size, 0);
            if irp.is_null() {
                continue;
            }
            (*irp).io_status = IoStatusBlock::new(STATUS_NOT_SUPPORTED, 0);
            (*next(irp)).major = mj::SHUTDOWN;
            send_and_wait(device, irp);
            IoFreeIrp(irp);
        }
    }
}

/// `IO_ERROR_LOG_PACKET`: the part that is logged.
#[repr(C)]
pub struct ErrorLogPacket {
    major: u8,
    retry: u8,
    dump_size: u16,
    strings: u16,
    string_offset: u16,
    category: u16,
    error: NtStatus,
    unique: u32,
    final_status: NtStatus,
}

const ERROR_LOG: u32 = u32::from_le_bytes(*b"IoEr");

/// Allocates an entry of the error log. IRQL <= DISPATCH_LEVEL. NULL: too large, or no memory.
///
/// # Safety
/// The object is a device or driver.
pub unsafe extern "win64" fn IoAllocateErrorLogEntry(_object: *mut c_void, size: u8) -> *mut ErrorLogPacket {
    // ERROR_LOG_MAXIMUM_SIZE
    if size > 240 || usize::from(size) < size_of::<ErrorLogPacket>() {
        return core::ptr::null_mut();
    }
    pool_alloc(usize::from(size), ERROR_LOG).cast()
}

/// Logs an entry and frees it. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The entry came from [`IoAllocateErrorLogEntry`].
pub unsafe extern "win64" fn IoWriteErrorLogEntry(entry: *mut ErrorLogPacket) {
    // SAFETY: per the contract.
    unsafe {
        note(format_args!(
            "event log: error {:#x}, status {:#x}, unique value {}",
            (*entry).error,
            (*entry).final_status,
            (*entry).unique
        ));
    }
    pool_free(entry.cast(), ERROR_LOG);
}

/// Frees an entry that is not logged. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// As above.
pub unsafe extern "win64" fn IoFreeErrorLogEntry(entry: *mut ErrorLogPacket) {
    pool_free(entry.cast(), ERROR_LOG);
}

/// `CONFIGURATION_INFORMATION`.
#[repr(C)]
pub struct Configuration {
    disks: u32,
    floppies: u32,
    cdroms: u32,
    tapes: u32,
    scsi_ports: u32,
    serial_ports: u32,
    parallel_ports: u32,
    primary_claimed: u8,
    secondary_claimed: u8,
    version: u32,
    medium_changers: u32,
}

const _: () = assert!(size_of::<Configuration>() == 0x28);

struct SharedConfiguration(core::cell::UnsafeCell<Configuration>);
// SAFETY: drivers count in it with interlocked operations or at initialization, as documented.
unsafe impl Sync for SharedConfiguration {}

static CONFIGURATION: SharedConfiguration = SharedConfiguration(core::cell::UnsafeCell::new(Configuration {
    disks: 0,
    floppies: 0,
    cdroms: 0,
    tapes: 0,
    scsi_ports: 0,
    serial_ports: 0,
    parallel_ports: 0,
    primary_claimed: 0,
    secondary_claimed: 0,
    version: 0x28,
    medium_changers: 0,
}));

/// The system's counts of devices, for drivers to read and update. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn IoGetConfigurationInformation() -> *mut Configuration {
    CONFIGURATION.0.get()
}

/// What the firmware told of old devices: nothing, there is no such hardware. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn IoQueryDeviceDescription(
    _bus_type: *mut i32,
    _bus: *mut u32,
    _controller_type: *mut i32,
    _controller: *mut u32,
    _peripheral_type: *mut i32,
    _peripheral: *mut u32,
    _routine: *mut c_void,
    _context: *mut c_void,
) -> NtStatus {
    STATUS_OBJECT_NAME_NOT_FOUND
}
