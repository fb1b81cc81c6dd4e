//! Cancel-safe IRP queues: the driver keeps the queue and its lock, this keeps cancelling right.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/cancel-safe-irp-queues>. IRQL <= DISPATCH_LEVEL
//! throughout, and that of the driver's callbacks is its own lock's.
use super::abi::*;
use super::irp::{IoReleaseCancelSpinLock, mark_pending};
use super::status::*;
use crate::ke::abi::Kirql;
use core::ffi::c_void;
use core::mem::size_of;
use core::ptr;
use core::sync::atomic::Ordering;

/// `IO_TYPE_CSQ_IRP_CONTEXT`, `IO_TYPE_CSQ`, `IO_TYPE_CSQ_EX`.
const CONTEXT: u32 = 1;
const PLAIN: u32 = 2;
const EXTENDED: u32 = 3;
/// The place in DriverContext that the documentation keeps for these routines.
const PLACE: usize = 3;

/// CsqInsertIrp, or CsqInsertIrpEx where the type says so; the former returns nothing.
type Insert = unsafe extern "win64" fn(*mut Csq, *mut Irp, *mut c_void) -> NtStatus;
type Remove = unsafe extern "win64" fn(*mut Csq, *mut Irp);
type Peek = unsafe extern "win64" fn(*mut Csq, *mut Irp, *mut c_void) -> *mut Irp;
type Acquire = unsafe extern "win64" fn(*mut Csq, *mut Kirql);
type Release = unsafe extern "win64" fn(*mut Csq, Kirql);

/// `IO_CSQ`.
#[repr(C)]
pub struct Csq {
    /// [`PLAIN`] or [`EXTENDED`].
    kind: u32,
    insert: Insert,
    remove: Remove,
    peek: Peek,
    acquire: Acquire,
    release: Release,
    complete_canceled: Remove,
    reserved: *mut c_void,
}

/// `IO_CSQ_IRP_CONTEXT`.
#[repr(C)]
pub struct CsqContext {
    /// [`CONTEXT`].
    kind: u32,
    irp: *mut Irp,
    csq: *mut Csq,
}

const _: () = assert!(size_of::<Csq>() == 0x40 && size_of::<CsqContext>() == 0x18);

unsafe fn initialize(
    csq: *mut Csq,
    kind: u32,
    insert: Insert,
    rest: (Remove, Peek, Acquire, Release, Remove),
) -> NtStatus {
    let (remove, peek, acquire, release, complete_canceled) = rest;
    // SAFETY: the caller gives room for a queue.
    unsafe {
        csq.write(Csq { kind, insert, remove, peek, acquire, release, complete_canceled, reserved: ptr::null_mut() });
    }
    STATUS_SUCCESS
}

/// Initializes a queue whose insert routine has no result.
///
/// # Safety
/// `csq` is room for a queue, the routines are those of the documentation.
pub unsafe extern "win64" fn IoCsqInitialize(
    csq: *mut Csq,
    insert: Insert,
    remove: Remove,
    peek: Peek,
    acquire: Acquire,
    release: Release,
    complete_canceled: Remove,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { initialize(csq, PLAIN, insert, (remove, peek, acquire, release, complete_canceled)) }
}

/// Initializes a queue whose insert routine may refuse.
///
/// # Safety
/// As [`IoCsqInitialize`].
pub unsafe extern "win64" fn IoCsqInitializeEx(
    csq: *mut Csq,
    insert: Insert,
    remove: Remove,
    peek: Peek,
    acquire: Acquire,
    release: Release,
    complete_canceled: Remove,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { initialize(csq, EXTENDED, insert, (remove, peek, acquire, release, complete_canceled)) }
}

/// Forgets which queue an IRP is in; with the queue's lock held.
unsafe fn forget(irp: *mut Irp) {
    // SAFETY: the place holds a context or a queue, whose first member is its type.
    unsafe {
        let place = &raw mut (*irp).driver_context[PLACE];
        if *(*place).cast::<u32>() == CONTEXT {
            (*(*place).cast::<CsqContext>()).irp = ptr::null_mut();
        }
        *place = ptr::null_mut();
    }
}

/// The cancel routine of every IRP that is in a queue.
unsafe extern "win64" fn cancel(_device: *mut DeviceObject, irp: *mut Irp) {
    // SAFETY: whoever cancels holds the cancel spin lock, and the IRP is in a queue.
    unsafe {
        IoReleaseCancelSpinLock((*irp).cancel_irql);
        let place = (*irp).driver_context[PLACE];
        let csq = if *place.cast::<u32>() == CONTEXT { (*place.cast::<CsqContext>()).csq } else { place.cast() };
        let mut irql = 0;
        ((*csq).acquire)(csq, &raw mut irql);
        ((*csq).remove)(csq, irp);
        forget(irp);
        ((*csq).release)(csq, irql);
        ((*csq).complete_canceled)(csq, irp);
    }
}

/// Puts an IRP in a queue and marks it pending. One that is cancelled already goes to the driver's
/// CsqCompleteCanceledIrp. An extended queue's refusal is returned; the IRP is the caller's then.
///
/// # Safety
/// Queue and IRP are valid; `context` may be NULL.
pub unsafe extern "win64" fn IoCsqInsertIrpEx(
    csq: *mut Csq,
    irp: *mut Irp,
    context: *mut CsqContext,
    insert_context: *mut c_void,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let mut irql = 0;
        ((*csq).acquire)(csq, &raw mut irql);
        let place = if context.is_null() {
            csq.cast::<c_void>()
        } else {
            context.write(CsqContext { kind: CONTEXT, irp, csq });
            context.cast()
        };
        (*irp).driver_context[PLACE] = place;
        let status = ((*csq).insert)(csq, irp, insert_context);
        let status = if (*csq).kind == EXTENDED { status } else { STATUS_SUCCESS };
        if status < 0 {
            forget(irp);
            ((*csq).release)(csq, irql);
            return status;
        }
        mark_pending(irp);
        (*irp).cancel_routine.store(cancel as *const () as usize, Ordering::SeqCst);
        // Whoever takes the cancel routine off completes the IRP.
        if (*irp).cancel != 0 && (*irp).cancel_routine.swap(0, Ordering::SeqCst) != 0 {
            ((*csq).remove)(csq, irp);
            forget(irp);
            ((*csq).release)(csq, irql);
            ((*csq).complete_canceled)(csq, irp);
        } else {
            ((*csq).release)(csq, irql);
        }
        status
    }
}

/// [`IoCsqInsertIrpEx`] without a context of the insertion.
///
/// # Safety
/// As [`IoCsqInsertIrpEx`].
pub unsafe extern "win64" fn IoCsqInsertIrp(csq: *mut Csq, irp: *mut Irp, context: *mut CsqContext) {
    // SAFETY: per the contract.
    unsafe { IoCsqInsertIrpEx(csq, irp, context, ptr::null_mut()) };
}

/// Takes the IRP of a context out of its queue; NULL where it left it already or is being cancelled.
///
/// # Safety
/// Queue and context are valid.
pub unsafe extern "win64" fn IoCsqRemoveIrp(csq: *mut Csq, context: *mut CsqContext) -> *mut Irp {
    // SAFETY: per the contract; the lock guards the context.
    unsafe {
        let mut irql = 0;
        ((*csq).acquire)(csq, &raw mut irql);
        let mut irp = (*context).irp;
        if !irp.is_null() {
            if (*irp).cancel_routine.swap(0, Ordering::SeqCst) == 0 {
                irp = ptr::null_mut();
            } else {
                ((*csq).remove)(csq, irp);
                forget(irp);
            }
        }
        ((*csq).release)(csq, irql);
        irp
    }
}

/// Takes the next IRP that fits `peek_context` out of the queue, passing over those that are being cancelled. NULL
/// where there is none.
///
/// # Safety
/// The queue is valid.
pub unsafe extern "win64" fn IoCsqRemoveNextIrp(csq: *mut Csq, peek_context: *mut c_void) -> *mut Irp {
    // SAFETY: per the contract.
    unsafe {
        let mut irql = 0;
        ((*csq).acquire)(csq, &raw mut irql);
        let mut irp = ((*csq).peek)(csq, ptr::null_mut(), peek_context);
        while !irp.is_null() {
            if (*irp).cancel_routine.swap(0, Ordering::SeqCst) != 0 {
                ((*csq).remove)(csq, irp);
                forget(irp);
                break;
            }
            irp = ((*csq).peek)(csq, irp, peek_context);
        }
        ((*csq).release)(csq, irql);
        irp
    }
}
