//! A look at IRP_MJ_PNP before storport has it.
//!
//! Storport calls a physical miniport for stop and removal at DIRQL only (`ScsiStopAdapter`), where nothing can be
//! waited for. A miniport that has a peer to take leave of needs PASSIVE_LEVEL, so the driver object's IRP_MJ_PNP entry
//! is replaced after StorPortInitialize has filled it in, and every IRP goes on to storport.

use core::{
    ffi::c_void,
    ptr::NonNull,
    sync::atomic::{AtomicPtr, Ordering},
};

use wdk_sys::{DEVICE_OBJECT, DRIVER_OBJECT, IRP, NTSTATUS, PDRIVER_OBJECT};

use crate::{
    irp::{Irp, major},
    pnp::PnpRequest,
    status::Status,
};

/// What the miniport does with a PnP request. All of it at PASSIVE_LEVEL.
pub trait PnpFilter {
    /// Before storport has it. An error completes the IRP with that status, and storport does not see it.
    ///
    /// # Errors
    /// For requests that may fail only.
    fn before(device: NonNull<c_void>, request: &PnpRequest) -> crate::Result;
    /// After storport's routine returned; `pending` if it has not completed the IRP yet. After a removal the device
    /// object may be gone: its address is only a name.
    fn after(device: NonNull<c_void>, request: &PnpRequest, pending: bool);
}

/// Storport's own entry: the same for every adapter, since it belongs to the driver object.
static STORPORT: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

type Dispatch = unsafe extern "C" fn(*mut DEVICE_OBJECT, *mut IRP) -> NTSTATUS;

/// Puts `F` before storport.
///
/// # Safety
/// `driver` is DriverEntry's own argument, StorPortInitialize has succeeded for it, and this is called once.
pub unsafe fn hook_pnp<F: PnpFilter>(driver: *mut c_void) {
    // SAFETY: DriverEntry may change its driver object.
    let driver: &mut DRIVER_OBJECT = unsafe { &mut *(driver as PDRIVER_OBJECT) };
    let entry = &mut driver.MajorFunction[usize::from(major::PNP)];
    if let Some(storport) = entry.replace(pnp::<F>) {
        STORPORT.store(storport as *mut c_void, Ordering::Release);
    }
}

unsafe extern "C" fn pnp<F: PnpFilter>(device: *mut DEVICE_OBJECT, irp: *mut IRP) -> NTSTATUS {
    let storport = STORPORT.load(Ordering::Acquire);
    // SAFETY: the IRP is this driver's until it is passed on.
    let (Some(name), Some(irp)) = (NonNull::new(device.cast::<c_void>()), unsafe { Irp::from_raw(irp) }) else {
        return Status::INVALID_PARAMETER.0;
    };
    let request = irp.pnp();
    if let Err(status) = F::before(name, &request) {
        return irp.complete(status).status().0;
    }
    let irp = irp.into_raw();
    // SAFETY: `hook_pnp` stored storport's dispatch routine there before any IRP could come.
    let storport = unsafe { core::mem::transmute::<*mut c_void, Dispatch>(storport) };
    // SAFETY: device and IRP go on as they came.
    let status = unsafe { storport(device, irp) };
    F::after(name, &request, status == Status::PENDING.0);
    status
}
