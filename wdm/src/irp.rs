//! IRPs: an [`Irp`] is owned by the dispatch routine and leaves it in exactly one way, which the type [`Dispatched`]
//! makes sure of.

use core::{ffi::c_void, mem::ManuallyDrop, ptr::NonNull};

use wdk_sys::{IO_NO_INCREMENT, IO_STACK_LOCATION, IRP, SL_PENDING_RETURNED, ntddk};

use crate::{device::DeviceObject, status::Status};

/// `IRP_MJ_CREATE` and the other major functions that a bus driver sees.
pub mod major {
    /// `IRP_MJ_CREATE`.
    pub const CREATE: u8 = 0x00;
    /// `IRP_MJ_CLOSE`.
    pub const CLOSE: u8 = 0x02;
    /// `IRP_MJ_READ`.
    pub const READ: u8 = 0x03;
    /// `IRP_MJ_WRITE`.
    pub const WRITE: u8 = 0x04;
    /// `IRP_MJ_CLEANUP`.
    pub const CLEANUP: u8 = 0x12;
    /// `IRP_MJ_POWER`.
    pub const POWER: u8 = 0x16;
    /// `IRP_MJ_SYSTEM_CONTROL`.
    pub const SYSTEM_CONTROL: u8 = 0x17;
    /// `IRP_MJ_PNP`.
    pub const PNP: u8 = 0x1b;
}

/// An IRP that the driver owns now.
#[must_use]
pub struct Irp {
    irp: NonNull<IRP>,
}

/// The proof that an IRP was completed, passed on or pended, and what the dispatch routine returns for it.
#[must_use]
pub struct Dispatched(Status);

impl Dispatched {
    /// The dispatch routine's result.
    pub fn status(self) -> Status {
        self.0
    }
}

// SAFETY: an IRP is processed by any thread.
unsafe impl Send for Irp {}

impl Irp {
    /// What the I/O manager handed over.
    ///
    /// # Safety
    /// `irp` is a valid IRP whose current stack location is the driver's, and nobody else uses it.
    pub(crate) unsafe fn from_raw(irp: *mut IRP) -> Option<Self> {
        NonNull::new(irp).map(|irp| Self { irp })
    }

    /// Gives it away as a pointer, for a completion routine.
    pub(crate) fn into_raw(self) -> *mut IRP {
        let irp = ManuallyDrop::new(self);
        irp.irp.as_ptr()
    }

    /// `IoGetCurrentIrpStackLocation`.
    pub(crate) fn stack(&self) -> &IO_STACK_LOCATION {
        // SAFETY: the IRP is valid and has a current stack location.
        unsafe { &*(*self.irp.as_ptr()).Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation }
    }

    /// `AssociatedIrp.SystemBuffer`.
    pub(crate) fn system_buffer(&self) -> *mut u8 {
        // SAFETY: the IRP is valid; it has no master.
        unsafe { (*self.irp.as_ptr()).AssociatedIrp.SystemBuffer.cast() }
    }

    /// The major function code: see [`major`]. IRQL <= DISPATCH_LEVEL.
    pub fn major(&self) -> u8 {
        self.stack().MajorFunction
    }

    /// The minor function code. IRQL <= DISPATCH_LEVEL.
    pub fn minor(&self) -> u8 {
        self.stack().MinorFunction
    }

    /// `IoStatus.Status` as it stands. IRQL <= DISPATCH_LEVEL.
    pub fn status(&self) -> Status {
        // SAFETY: the IRP is valid; the union's members start with the same word.
        Status(unsafe { (*self.irp.as_ptr()).IoStatus.__bindgen_anon_1.Status })
    }

    /// Sets `IoStatus.Status`. IRQL <= DISPATCH_LEVEL.
    pub fn set_status(&mut self, status: Status) {
        // SAFETY: the IRP is valid and the driver's.
        unsafe { (*self.irp.as_ptr()).IoStatus.__bindgen_anon_1.Status = status.0 }
    }

    /// `IoStatus.Information` as it stands. IRQL <= DISPATCH_LEVEL.
    pub fn information(&self) -> usize {
        // SAFETY: the IRP is valid.
        unsafe { (*self.irp.as_ptr()).IoStatus.Information as usize }
    }

    /// Sets `IoStatus.Information`. IRQL <= DISPATCH_LEVEL.
    pub fn set_information(&mut self, information: usize) {
        // SAFETY: the IRP is valid and the driver's.
        unsafe { (*self.irp.as_ptr()).IoStatus.Information = information as _ }
    }

    /// Completes it. IRQL <= DISPATCH_LEVEL.
    pub fn complete(mut self, status: Status) -> Dispatched {
        self.set_status(status);
        // SAFETY: the IRP is the driver's and is given up here.
        unsafe { ntddk::IofCompleteRequest(self.into_raw(), IO_NO_INCREMENT as i8) };
        Dispatched(status)
    }

    /// Completes it with the status that it has: what a PDO does with what it does not know. IRQL <= DISPATCH_LEVEL.
    pub fn complete_unchanged(self) -> Dispatched {
        let status = self.status();
        self.complete(status)
    }

    /// Passes it on to the device below, which completes it. IRQL <= DISPATCH_LEVEL.
    pub fn forward(self, lower: DeviceObject) -> Dispatched {
        let irp = self.into_raw();
        // SAFETY: IoSkipCurrentIrpStackLocation: the next driver gets this very stack location.
        unsafe {
            (*irp).CurrentLocation += 1;
            let overlay = &mut (*irp).Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1;
            overlay.CurrentStackLocation = overlay.CurrentStackLocation.add(1);
        }
        // SAFETY: the IRP is given up here; the device below is valid while this driver is attached to it.
        Dispatched(Status(unsafe { ntddk::IofCallDriver(lower.as_raw(), irp) }))
    }

    /// Passes it on and waits until the drivers below are done; then it is this driver's again. PASSIVE_LEVEL.
    pub fn forward_and_wait(&mut self, lower: DeviceObject) -> Status {
        // SAFETY: the IRP is the driver's; the device below is valid while this driver is attached to it.
        let sent = unsafe { ntddk::IoForwardIrpSynchronously(lower.as_raw(), self.irp.as_ptr()) };
        if sent == 0 {
            // No stack location was left: the IRP was built for a smaller stack.
            self.set_status(Status::INVALID_PARAMETER);
        }
        self.status()
    }

    /// `IoMarkIrpPending`, then gives it away: the dispatch routine returns STATUS_PENDING and `then` sees to it that
    /// the IRP is completed. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn pend(self, then: impl FnOnce(*mut IRP)) -> Dispatched {
        let irp = self.into_raw();
        // SAFETY: the IRP is the driver's until `then` takes it.
        unsafe {
            let stack = (*irp).Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation;
            (*stack).Control |= SL_PENDING_RETURNED as u8;
        }
        then(irp);
        Dispatched(Status::PENDING)
    }
}

/// Completes an IRP that was pended. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The IRP is the driver's, its status is set, and it is not used afterwards.
pub(crate) unsafe fn complete_raw(irp: *mut IRP) {
    // SAFETY: by contract.
    unsafe { ntddk::IofCompleteRequest(irp, IO_NO_INCREMENT as i8) }
}

/// A completion routine.
pub(crate) type Completion =
    unsafe extern "C" fn(device: *mut wdk_sys::DEVICE_OBJECT, irp: *mut IRP, context: *mut c_void) -> i32;

/// `IoCopyCurrentIrpStackLocationToNext` and `IoSetCompletionRoutine` for every outcome. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The IRP is the driver's and has a next stack location; `context` fits `routine`.
pub(crate) unsafe fn copy_to_next(irp: *mut IRP, routine: Completion, context: *mut c_void) {
    /// `SL_INVOKE_ON_CANCEL | SL_INVOKE_ON_SUCCESS | SL_INVOKE_ON_ERROR`.
    const INVOKE_ALWAYS: u8 = 0x20 | 0x40 | 0x80;
    // SAFETY: by contract. The next location lies just below the current one; the completion routine belongs there.
    unsafe {
        let current = (*irp).Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation;
        let next = current.sub(1);
        *next = *current;
        (*next).CompletionRoutine = Some(routine);
        (*next).Context = context;
        (*next).Control = INVOKE_ALWAYS;
    }
}
