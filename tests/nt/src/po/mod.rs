//! Power: power requests and the shutdown of the system.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/implementing-power-management>
// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

pub mod setting;

use crate::io::abi::*;
use crate::io::irp::{self, IoAllocateIrp, IoFreeIrp, IofCallDriver};
use crate::io::status::*;
use crate::pnp;
use core::ffi::c_void;
use core::sync::atomic::Ordering;

/// `REQUEST_POWER_COMPLETE`.
pub type RequestComplete = unsafe extern "win64" fn(
    device: *mut DeviceObject,
    minor: u8,
    state: i32,
    context: *mut c_void,
    iosb: *mut IoStatusBlock,
);

/// PowerSystemWorking.
pub const SYSTEM_WORKING: i32 = 1;
/// PowerSystemShutdown.
pub const SYSTEM_SHUTDOWN: i32 = 6;
/// PowerDeviceD0.
pub const DEVICE_D0: i32 = 1;
/// PowerDeviceD3.
pub const DEVICE_D3: i32 = 4;
/// PowerActionShutdown.
const ACTION_SHUTDOWN: i32 = 4;
/// PowerActionShutdownReset.
const ACTION_RESET: i32 = 5;

/// Passes a power IRP on. IRQL <= DISPATCH_LEVEL. Since Windows Vista the same as IoCallDriver.
///
/// # Safety
/// As [`IofCallDriver`].
pub unsafe extern "win64" fn PoCallDriver(device: *mut DeviceObject, irp: *mut Irp) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { IofCallDriver(device, irp) }
}

/// Says that the next power IRP may come. IRQL <= DISPATCH_LEVEL. Since Windows Vista without effect.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn PoStartNextPowerIrp(_irp: *mut Irp) {}

/// Notes a device's power state and returns the one before. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The device is valid.
pub unsafe extern "win64" fn PoSetPowerState(device: *mut DeviceObject, kind: i32, state: i32) -> i32 {
    // SAFETY: per the contract.
    unsafe {
        let slot = &(*(*device).object_extension).power[usize::from(kind != 0)];
        slot.swap(state as u32, Ordering::AcqRel) as i32
    }
}

/// What a request of [`PoRequestPowerIrp`] carries to its end.
struct Request {
    complete: Option<RequestComplete>,
    context: *mut c_void,
    pdo: *mut DeviceObject,
    top: *mut DeviceObject,
    minor: u8,
    state: i32,
}

unsafe extern "win64" fn requested(_: *mut DeviceObject, irp: *mut Irp, context: *mut c_void) -> NtStatus {
    // SAFETY: the context is the box of `PoRequestPowerIrp`; the IRP is ours.
    unsafe {
        let request = alloc::boxed::Box::from_raw(context.cast::<Request>());
        let mut iosb = (*irp).io_status;
        if let Some(complete) = request.complete {
            complete(request.pdo, request.minor, request.state, request.context, &raw mut iosb);
        }
        IoFreeIrp(irp);
        crate::ob::ObfDereferenceObject(request.top.cast());
    }
    STATUS_MORE_PROCESSING_REQUIRED
}

/// Sends a power IRP to the top of a device's stack. IRQL <= DISPATCH_LEVEL (a set-power request that the device
/// handles at PASSIVE_LEVEL: PASSIVE_LEVEL).
///
/// # Safety
/// The device is valid; the routine may be called until it was.
pub unsafe extern "win64" fn PoRequestPowerIrp(
    device: *mut DeviceObject,
    minor: u8,
    state: i32,
    complete: Option<RequestComplete>,
    context: *mut c_void,
    result: *mut *mut Irp,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        if !matches!(minor, mn::WAIT_WAKE | mn::SET_POWER | mn::QUERY_POWER) {
            return STATUS_INVALID_PARAMETER_1;
        }
        let top = crate::io::device::IoGetAttachedDeviceReference(device);
        let packet = IoAllocateIrp((*top).stack_size + 1, 0);
        if packet.is_null() {
            crate::ob::ObfDereferenceObject(top.cast());
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        (*packet).io_status = IoStatusBlock::new(STATUS_NOT_SUPPORTED, 0);
        // The first location belongs to the power manager: it remembers the device.
        (*packet).current_location -= 1;
        (*packet).current = (*packet).current.sub(1);
        (*(*packet).current).device = device;
        let location = irp::next(packet);
        (*location).major = mj::POWER;
        (*location).minor = minor;
        if minor == mn::WAIT_WAKE {
            (*location).parameters.others[0] = state as usize as *mut c_void;
        } else {
            (*location).parameters.power = Power::new(1, state, 0);
        }
        let request = alloc::boxed::Box::new(Request { complete, context, pdo: device, top, minor, state });
        irp::set_completion(packet, requested, alloc::boxed::Box::into_raw(request).cast());
        if !result.is_null() {
            *result = packet;
        }
        PoCallDriver(top, packet);
        STATUS_PENDING
    }
}

/// Marks a device as busy for idle detection. Any IRQL. Nothing is powered down for being idle here.
///
/// # Safety
/// `counter` is NULL or came from [`PoRegisterDeviceForIdleDetection`].
pub unsafe extern "win64" fn PoSetDeviceBusyEx(_counter: *mut u32) {}

/// Asks for idle detection. IRQL = PASSIVE_LEVEL. NULL: there is none.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn PoRegisterDeviceForIdleDetection(
    _device: *mut DeviceObject,
    _conservation: u32,
    _performance: u32,
    _state: i32,
) -> *mut u32 {
    core::ptr::null_mut()
}

/// The system's power state changes: sends a system power IRP to one stack.
unsafe fn system(device: *mut DeviceObject, minor: u8, state: i32, action: i32) -> NtStatus {
    // SAFETY: the caller's device is valid.
    unsafe {
        let parameters = Parameters { power: Power::new(0, state, action) };
        pnp::send::request(device, mj::POWER, minor, Some(parameters)).0
    }
}

/// Shuts the system down in order: registered drivers get IRP_MJ_SHUTDOWN, the registry goes to the disk, then every
/// device gets IRP_MN_SET_POWER for the shutdown state, children before parents. IRQL = PASSIVE_LEVEL.
pub fn shutdown(restart: bool) {
    pnp::settle();
    crate::io::notify::send_shutdown();
    crate::reg::with(|registry| {
        registry.flush();
    });
    let action = if restart { ACTION_RESET } else { ACTION_SHUTDOWN };
    for id in pnp::control::started().into_iter().rev() {
        let Some(pdo) = pnp::with_node(id, |n| n.pdo) else { continue };
        // SAFETY: the node holds a reference to its device.
        let status = unsafe { system(pdo, mn::SET_POWER, SYSTEM_SHUTDOWN, action) };
        if status < 0 && status != STATUS_NOT_SUPPORTED {
            crate::io::kernel::note(format_args!("power: a device answered {status:#x} to the shutdown"));
        }
    }
}

crate::exports! {
    /// Names of ntoskrnl.exe in this area.
    pub static EXPORTS in "ntoskrnl.exe";
    fn PoCallDriver;
    fn PoStartNextPowerIrp;
    fn PoSetPowerState;
    fn PoRequestPowerIrp;
    fn PoSetDeviceBusyEx;
    fn PoRegisterDeviceForIdleDetection;
    fn PoRegisterPowerSettingCallback = setting::PoRegisterPowerSettingCallback;
    fn PoUnregisterPowerSettingCallback = setting::PoUnregisterPowerSettingCallback;
}
