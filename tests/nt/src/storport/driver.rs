//! StorPortInitialize, AddDevice and the dispatch routines that the port driver gives a miniport's driver object.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportinitialize>

use super::abi::*;
use super::adapter::{Adapter, Unit};
use super::{fdo, pdo};
use crate::io::abi::{DeviceObject, DriverObject, Irp, do_flags, mj};
use crate::io::device::{IoAttachDeviceToDeviceStack, IoCreateDevice, IoDeleteDevice};
use crate::io::irp::{IofCallDriver, IofCompleteRequest, copy_to_next, current, skip};
use crate::rtl::abi::STATUS_REVISION_MISMATCH;
use crate::status::*;
use crate::sync::IrqLock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

/// A miniport that called StorPortInitialize.
struct Miniport {
    driver: *mut DriverObject,
    hw: HwInitializationData,
    context: *mut c_void,
}

// SAFETY: the pointers are those of loaded drivers, which every processor may use.
unsafe impl Send for Miniport {}

static MINIPORTS: IrqLock<Vec<Miniport>> = IrqLock::new(Vec::new());
static ADAPTERS: IrqLock<Vec<Arc<Adapter>>> = IrqLock::new(Vec::new());
static NEXT_PORT: AtomicU32 = AtomicU32::new(0);

/// What a device object of the port driver is.
pub enum Role {
    /// An adapter.
    Adapter(Arc<Adapter>),
    /// A logical unit.
    Unit(Arc<Adapter>, Arc<Unit>),
}

/// The role of a device object, kept in its extension.
///
/// # Safety
/// `device` is one of the port driver's.
pub unsafe fn role<'a>(device: *mut DeviceObject) -> &'a Role {
    // SAFETY: the caller's promise; a role is never moved while its device stands.
    unsafe { &**(*device).extension.cast::<*const Role>() }
}

/// Puts a role into a new device object.
///
/// # Safety
/// `device` was created with an extension of a pointer's size.
pub unsafe fn set_role(device: *mut DeviceObject, role: Role) {
    let role = alloc::boxed::Box::into_raw(alloc::boxed::Box::new(role));
    // SAFETY: the caller's promise.
    unsafe { (*device).extension.cast::<*const Role>().write(role) };
}

/// Takes the role out and deletes the device object.
///
/// # Safety
/// Nothing uses the device any more.
pub unsafe fn delete(device: *mut DeviceObject) {
    // SAFETY: the caller's promise.
    unsafe {
        let role = (*device).extension.cast::<*mut Role>().read();
        IoDeleteDevice(device);
        drop(alloc::boxed::Box::from_raw(role));
    }
}

/// The adapters that stand now.
pub fn adapters() -> Vec<Arc<Adapter>> {
    ADAPTERS.lock().clone()
}

/// Forgets an adapter.
pub fn forget(adapter: &Arc<Adapter>) {
    let gone: Vec<_> = {
        let mut all = ADAPTERS.lock();
        let (gone, left) = core::mem::take(&mut *all).into_iter().partition(|a| Arc::ptr_eq(a, adapter));
        *all = left;
        gone
    };
    drop(gone);
}

/// `StorPortInitialize`: `driver` null asks for a crash dump stack, which there is none of here.
/// IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn StorPortInitialize(
    driver: *mut DriverObject,
    registry_path: *mut c_void,
    data: *const HwInitializationData,
    context: *mut c_void,
) -> u32 {
    // SAFETY: the caller gives its driver object and a structure as long as its size says.
    unsafe {
        if driver.is_null() || registry_path.is_null() {
            return STATUS_NOT_SUPPORTED as u32;
        }
        let size = (*data).size as usize;
        if !(HW_INITIALIZATION_DATA_BASE..=size_of::<HwInitializationData>()).contains(&size) || !size.is_multiple_of(8)
        {
            return STATUS_REVISION_MISMATCH as u32;
        }
        let mut hw: HwInitializationData = core::mem::zeroed();
        ptr::copy_nonoverlapping(data.cast::<u8>(), (&raw mut hw).cast::<u8>(), size);
        if size == VIRTUAL_HW_INITIALIZATION_DATA_BYTES {
            hw.feature_support |= STOR_FEATURE_VIRTUAL_MINIPORT;
        }
        let complete = hw.hw_find_adapter.is_some() && hw.hw_initialize.is_some() && hw.hw_start_io.is_some();
        if !complete || hw.hw_reset_bus.is_none() {
            return STATUS_INVALID_PARAMETER as u32;
        }
        let all_true = hw.need_physical_addresses != 0
            && hw.tagged_queuing != 0
            && hw.auto_request_sense != 0
            && hw.multiple_request_per_lu != 0;
        let is_virtual = hw.feature_support & STOR_FEATURE_VIRTUAL_MINIPORT != 0;
        // <https://learn.microsoft.com/windows-hardware/drivers/storage/initialization-of-storage-virtual-miniport-drivers>
        let good = if is_virtual { hw.hw_free_adapter_resources.is_some() } else { all_true };
        if !good {
            return STATUS_INVALID_PARAMETER as u32;
        }
        MINIPORTS.lock().push(Miniport { driver, hw, context });
        (*(*driver).extension).add_device = Some(add_device);
        (*driver).unload = Some(unload);
        for major in &mut (*driver).major {
            *major = Some(dispatch);
        }
    }
    STATUS_SUCCESS as u32
}

unsafe extern "win64" fn unload(driver: *mut DriverObject) {
    MINIPORTS.lock().retain(|m| m.driver != driver);
}

/// `FILE_DEVICE_CONTROLLER`.
const FILE_DEVICE_CONTROLLER: u32 = 4;

unsafe extern "win64" fn add_device(driver: *mut DriverObject, pdo: *mut DeviceObject) -> NtStatus {
    let Some((hw, context)) = MINIPORTS.lock().iter().find(|m| m.driver == driver).map(|m| (m.hw, m.context)) else {
        return STATUS_NO_SUCH_DEVICE;
    };
    // SAFETY: driver and PDO are the caller's; the new device is set up before it is used.
    unsafe {
        let mut fdo = ptr::null_mut();
        let status = IoCreateDevice(
            driver,
            size_of::<usize>() as u32,
            ptr::null_mut(),
            FILE_DEVICE_CONTROLLER,
            0x100 | crate::io::device::FILE_AUTOGENERATED_DEVICE_NAME,
            0,
            &raw mut fdo,
        );
        if !nt_success(status) {
            return status;
        }
        let lower = IoAttachDeviceToDeviceStack(fdo, pdo);
        if lower.is_null() {
            IoDeleteDevice(fdo);
            return STATUS_NO_SUCH_DEVICE;
        }
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed) as u16;
        let adapter = Adapter::new(hw, context, driver, (fdo, pdo, lower), port);
        set_role(fdo, Role::Adapter(adapter.clone()));
        ADAPTERS.lock().push(adapter);
        (*fdo).flags |= do_flags::DIRECT_IO | ((*lower).flags & do_flags::POWER_PAGABLE);
        (*fdo).flags &= !do_flags::DEVICE_INITIALIZING;
    }
    STATUS_SUCCESS
}

/// Completes an IRP at once.
///
/// # Safety
/// The caller owns the IRP.
pub unsafe fn finish(irp: *mut Irp, status: NtStatus, information: usize) -> NtStatus {
    // SAFETY: the caller's promise.
    unsafe {
        (*irp).io_status.status = status;
        (*irp).io_status.information = information;
        IofCompleteRequest(irp, 0);
    }
    status
}

/// Passes an IRP to the next device down.
///
/// # Safety
/// The caller owns the IRP.
pub unsafe fn pass(lower: *mut DeviceObject, irp: *mut Irp) -> NtStatus {
    // SAFETY: the caller's promise.
    unsafe {
        skip(irp);
        IofCallDriver(lower, irp)
    }
}

/// Passes an IRP down and waits for it. The caller owns it again. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The caller owns the IRP.
pub unsafe fn pass_and_wait(lower: *mut DeviceObject, irp: *mut Irp) -> NtStatus {
    // SAFETY: the caller's promise.
    unsafe {
        copy_to_next(irp);
        crate::io::irp::send_and_wait(lower, irp)
    }
}

unsafe extern "win64" fn dispatch(device: *mut DeviceObject, irp: *mut Irp) -> NtStatus {
    // SAFETY: the I/O manager gives a device of this driver and an IRP for it.
    unsafe {
        let location = &*current(irp);
        match (role(device), location.major) {
            (Role::Adapter(adapter), mj::PNP) => fdo::pnp(adapter, irp),
            (Role::Adapter(adapter), mj::POWER) => fdo::power(adapter, irp),
            (Role::Adapter(adapter), mj::DEVICE_CONTROL) => fdo::control(adapter, irp),
            (Role::Adapter(adapter), mj::SYSTEM_CONTROL) => pass(adapter.lower, irp),
            (Role::Unit(adapter, unit), mj::PNP) => pdo::pnp(adapter, unit, irp),
            (Role::Unit(adapter, unit), mj::POWER) => pdo::power(adapter, unit, irp),
            (Role::Unit(adapter, unit), mj::INTERNAL_DEVICE_CONTROL) => pdo::scsi(adapter, unit, irp),
            (Role::Unit(adapter, unit), mj::DEVICE_CONTROL) => pdo::control(adapter, unit, irp),
            (Role::Unit(..), mj::SYSTEM_CONTROL) => {
                let status = (*irp).io_status.status;
                finish(irp, status, (*irp).io_status.information)
            }
            (_, mj::CREATE | mj::CLOSE | mj::CLEANUP) => finish(irp, STATUS_SUCCESS, 0),
            _ => finish(irp, STATUS_INVALID_DEVICE_REQUEST, 0),
        }
    }
}
