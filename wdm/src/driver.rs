//! The driver object: entry points and the way from an IRP to the device that it is for.

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicPtr, Ordering},
};

use wdk_sys::{DEVICE_OBJECT, DRIVER_OBJECT, IRP, NTSTATUS, PDEVICE_OBJECT, PDRIVER_OBJECT};

use crate::{
    device::{Device, DeviceObject, device_of},
    irp::{Irp, major},
    status::{Result, Status},
    string::UnicodeStr,
};

/// The driver's own DRIVER_OBJECT, valid until the driver is unloaded.
#[derive(Clone, Copy)]
pub struct DriverObject {
    object: NonNull<DRIVER_OBJECT>,
}

// SAFETY: the object is only passed back to the I/O manager.
unsafe impl Send for DriverObject {}
// SAFETY: see above.
unsafe impl Sync for DriverObject {}

impl DriverObject {
    /// The pointer.
    pub fn as_raw(self) -> PDRIVER_OBJECT {
        self.object.as_ptr()
    }
}

/// The driver object of this image.
static DRIVER: AtomicPtr<DRIVER_OBJECT> = AtomicPtr::new(core::ptr::null_mut());

/// Notes which driver object this image is: from DriverEntry, for [`keep_loaded`].
///
/// # Safety
/// The argument is what DriverEntry got.
pub unsafe fn remember(driver: PDRIVER_OBJECT) {
    DRIVER.store(driver, Ordering::Release);
}

/// Has the driver stay loaded until the next boot: memory that it took is lost, since somebody outside may still write
/// it. Without an Unload routine the I/O manager unloads no driver. Any IRQL.
pub fn keep_loaded() {
    let driver = DRIVER.load(Ordering::Acquire);
    if !driver.is_null() {
        // SAFETY: the driver object lives as long as this image; the word is only read, by the I/O manager.
        unsafe { (&raw mut (*driver).DriverUnload).write_volatile(None) }
    }
}

/// A PnP driver all of whose device objects are of one Rust type.
pub trait Driver {
    /// What its device objects are.
    type Device: Device;

    /// First thing, from DriverEntry. `service` is the path of the service's registry key.
    ///
    /// # Errors
    /// The driver is not loaded.
    fn init(service: UnicodeStr<'_>) -> Result;

    /// A device was found that the driver is for: makes an FDO and attaches it.
    ///
    /// # Errors
    /// The device gets no FDO from this driver.
    fn add_device(driver: DriverObject, pdo: DeviceObject) -> Result;

    /// Last thing, when every device is gone.
    fn unload();
}

/// DriverEntry of a driver: fills the driver object in. Use [`driver_entry!`](crate::driver_entry).
///
/// # Safety
/// The arguments are what DriverEntry got.
pub unsafe fn entry<D: Driver>(driver: PDRIVER_OBJECT, service: *const wdk_sys::UNICODE_STRING) -> NTSTATUS {
    // SAFETY: the driver object is DriverEntry's own.
    unsafe { remember(driver) };
    // SAFETY: the registry path stays valid during DriverEntry.
    let service = unsafe { UnicodeStr::from_raw(service) };
    if let Err(status) = D::init(service) {
        return status.0;
    }
    // SAFETY: the driver object is the driver's to fill in during DriverEntry, as is its extension.
    unsafe {
        let driver = &mut *driver;
        for code in [
            major::PNP,
            major::POWER,
            major::SYSTEM_CONTROL,
            major::CREATE,
            major::READ,
            major::WRITE,
            major::CLEANUP,
            major::CLOSE,
        ] {
            driver.MajorFunction[usize::from(code)] = Some(dispatch::<D::Device>);
        }
        driver.DriverUnload = Some(unload::<D>);
        (*driver.DriverExtension).AddDevice = Some(add_device::<D>);
    }
    Status::SUCCESS.0
}

/// A driver without devices: all of its work is done when it is loaded.
pub trait Service {
    /// First thing, from DriverEntry. `service` is the path of the service's registry key.
    ///
    /// # Errors
    /// The driver is not loaded.
    fn init(service: UnicodeStr<'_>) -> Result;
}

/// DriverEntry of a driver without devices. Use [`service_entry!`](crate::service_entry).
///
/// # Safety
/// The arguments are what DriverEntry got.
pub unsafe fn entry_of_service<S: Service>(
    driver: PDRIVER_OBJECT,
    service: *const wdk_sys::UNICODE_STRING,
) -> NTSTATUS {
    // SAFETY: the registry path stays valid during DriverEntry, and the driver object is the driver's to fill in.
    let service = unsafe {
        (*driver).DriverUnload = Some(nothing_to_unload);
        UnicodeStr::from_raw(service)
    };
    Status::from(S::init(service)).0
}

unsafe extern "C" fn nothing_to_unload(_driver: PDRIVER_OBJECT) {}

unsafe extern "C" fn add_device<D: Driver>(driver: PDRIVER_OBJECT, pdo: PDEVICE_OBJECT) -> NTSTATUS {
    let Some(object) = NonNull::new(driver) else { return Status::INVALID_PARAMETER.0 };
    // SAFETY: the PnP manager passes a PDO that outlives every device attached to it.
    let Some(pdo) = (unsafe { DeviceObject::from_raw(pdo) }) else { return Status::INVALID_PARAMETER.0 };
    Status::from(D::add_device(DriverObject { object }, pdo)).0
}

unsafe extern "C" fn unload<D: Driver>(_driver: PDRIVER_OBJECT) {
    D::unload();
}

unsafe extern "C" fn dispatch<D: Device>(device: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    // SAFETY: the I/O manager sends IRPs only to device objects that `NewDevice::publish` let them in to, all of which
    // are of the driver's one kind.
    let device = unsafe { device_of::<D>(device) };
    // SAFETY: the IRP is this driver's now.
    match (unsafe { Irp::from_raw(irp) }, device) {
        (Some(irp), Some(device)) => device.dispatch(irp).status().0,
        (Some(irp), None) => irp.complete(Status::NO_SUCH_DEVICE).status().0,
        (None, _) => Status::INVALID_PARAMETER.0,
    }
}

/// Defines DriverEntry for a type that implements [`Service`](crate::driver::Service).
#[macro_export]
macro_rules! service_entry {
    ($service:ty) => {
        /// What Windows calls first.
        ///
        /// # Safety
        /// Called by the I/O manager alone.
        #[unsafe(export_name = "DriverEntry")]
        pub unsafe extern "system" fn driver_entry(
            driver: $crate::sys::PDRIVER_OBJECT,
            service: $crate::sys::PCUNICODE_STRING,
        ) -> $crate::sys::NTSTATUS {
            // SAFETY: the arguments are DriverEntry's own.
            unsafe { $crate::driver::entry_of_service::<$service>(driver, service) }
        }
    };
}

/// Defines DriverEntry for a type that implements [`Driver`].
#[macro_export]
macro_rules! driver_entry {
    ($driver:ty) => {
        /// What Windows calls first.
        ///
        /// # Safety
        /// Called by the I/O manager alone.
        #[unsafe(export_name = "DriverEntry")]
        pub unsafe extern "system" fn driver_entry(
            driver: $crate::sys::PDRIVER_OBJECT,
            service: $crate::sys::PCUNICODE_STRING,
        ) -> $crate::sys::NTSTATUS {
            // SAFETY: the arguments are DriverEntry's own.
            unsafe { $crate::driver::entry::<$driver>(driver, service) }
        }
    };
}
