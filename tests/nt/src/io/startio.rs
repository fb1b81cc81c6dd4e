//! StartIo queueing and the device's timer: the ways of simple drivers.
use super::abi::*;
use super::irp::{IoAcquireCancelSpinLock, IoReleaseCancelSpinLock};
use crate::ke::{self, abi::*};
use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::Ordering;

/// Bits of `DeviceObjectExtension::start_io`: StartIo is not called from within itself; what it is called with cannot be
/// cancelled; it runs; it is to be called again when it ends, with a packet that may be cancelled, by key.
const DEFERRED: u32 = 0x1;
const NON_CANCELABLE: u32 = 0x2;
const RUNS: u32 = 0x4;
const AGAIN: u32 = 0x8;
const CANCELABLE: u32 = 0x10;
const KEYED: u32 = 0x20;

/// Sets how StartIo is called. IRQL <= DISPATCH_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-iosetstartioattributes>
///
/// # Safety
/// The device is valid, and has no packet yet.
pub unsafe extern "win64" fn IoSetStartIoAttributes(device: *mut DeviceObject, deferred: u8, non_cancelable: u8) {
    let bits = if deferred != 0 { DEFERRED } else { 0 } | if non_cancelable != 0 { NON_CANCELABLE } else { 0 };
    // SAFETY: per the contract.
    unsafe { (*(*device).object_extension).start_io.store(bits, Ordering::Release) };
}

fn entry_of(irp: *mut Irp) -> *mut DeviceQueueEntry {
    // SAFETY: only the address is made; the queue entry shares memory with DriverContext.
    unsafe { (&raw mut (*irp).driver_context).cast() }
}

fn irp_of(entry: *mut DeviceQueueEntry) -> *mut Irp {
    entry.cast::<u8>().wrapping_sub(offset_of!(Irp, driver_context)).cast()
}

unsafe fn call_start(device: *mut DeviceObject, irp: *mut Irp) {
    // SAFETY: a driver that queues has a StartIo routine.
    unsafe {
        let Some(start_io) = (*(*device).driver).start_io else {
            super::kernel::violation("STARTIO", format_args!("IoStartPacket in a driver without StartIo"));
        };
        let extension = (*device).object_extension;
        if (*extension).start_io.load(Ordering::Acquire) & DEFERRED == 0 {
            start_io(device, irp);
            return;
        }
        (*extension).start_io.fetch_or(RUNS, Ordering::AcqRel);
        start_io(device, irp);
        let after = (*extension).start_io.fetch_and(DEFERRED | NON_CANCELABLE, Ordering::AcqRel);
        if after & AGAIN != 0 {
            let key = (after & KEYED != 0).then(|| (*extension).start_io_key.load(Ordering::Acquire));
            start_next(device, u8::from(after & CANCELABLE != 0), key);
        }
    }
}

/// Starts an IRP, or queues it while the device is busy. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// Device and IRP are valid; `key` and `cancel` may be NULL.
pub unsafe extern "win64" fn IoStartPacket(
    device: *mut DeviceObject,
    irp: *mut Irp,
    key: *const u32,
    cancel: Option<CancelRoutine>,
) {
    // SAFETY: per the contract.
    unsafe {
        let old = ke::KfRaiseIrql(DISPATCH_LEVEL);
        let mut irql = 0;
        if let Some(cancel) = cancel {
            IoAcquireCancelSpinLock(&raw mut irql);
            (*irp).cancel_routine.store(cancel as usize, Ordering::Release);
        }
        let queue = &raw mut (*device).device_queue;
        let queued = if key.is_null() {
            ke::KeInsertDeviceQueue(queue, entry_of(irp))
        } else {
            ke::KeInsertByKeyDeviceQueue(queue, entry_of(irp), *key)
        };
        if queued == 0 {
            (*device).current_irp = irp;
            if cancel.is_some() {
                IoReleaseCancelSpinLock(irql);
            }
            call_start(device, irp);
        } else if cancel.is_some() {
            if (*irp).cancel != 0 && (*irp).cancel_routine.swap(0, Ordering::AcqRel) != 0 {
                (*irp).cancel_irql = irql;
                // The cancel routine releases the lock.
                if let Some(cancel) = cancel {
                    cancel(device, irp);
                }
            } else {
                IoReleaseCancelSpinLock(irql);
            }
        }
        ke::KeLowerIrql(old);
    }
}

unsafe fn start_next(device: *mut DeviceObject, cancelable: u8, key: Option<u32>) {
    // SAFETY: the callers' contract.
    unsafe {
        let extension = (*device).object_extension;
        let attributes = (*extension).start_io.load(Ordering::Acquire);
        if attributes & RUNS != 0 {
            (*extension).start_io_key.store(key.unwrap_or(0), Ordering::Release);
            let how = if cancelable != 0 { CANCELABLE } else { 0 } | if key.is_some() { KEYED } else { 0 };
            (*extension).start_io.fetch_or(AGAIN | how, Ordering::AcqRel);
            return;
        }
        let mut irql = 0;
        if cancelable != 0 {
            IoAcquireCancelSpinLock(&raw mut irql);
        }
        (*device).current_irp = ptr::null_mut();
        let queue = &raw mut (*device).device_queue;
        let entry = match key {
            Some(key) => ke::KeRemoveByKeyDeviceQueue(queue, key),
            None => ke::KeRemoveDeviceQueue(queue),
        };
        let irp = if entry.is_null() { ptr::null_mut() } else { irp_of(entry) };
        (*device).current_irp = irp;
        if !irp.is_null() && attributes & NON_CANCELABLE != 0 {
            (*irp).cancel_routine.store(0, Ordering::Release);
        }
        if cancelable != 0 {
            IoReleaseCancelSpinLock(irql);
        }
        if !irp.is_null() {
            call_start(device, irp);
        }
    }
}

/// Starts the next queued IRP. IRQL = DISPATCH_LEVEL.
///
/// # Safety
/// The device is valid.
pub unsafe extern "win64" fn IoStartNextPacket(device: *mut DeviceObject, cancelable: u8) {
    // SAFETY: per the contract.
    unsafe { start_next(device, cancelable, None) };
}

/// Starts the next queued IRP by key. IRQL = DISPATCH_LEVEL.
///
/// # Safety
/// The device is valid.
pub unsafe extern "win64" fn IoStartNextPacketByKey(device: *mut DeviceObject, cancelable: u8, key: u32) {
    // SAFETY: per the contract.
    unsafe { start_next(device, cancelable, Some(key)) };
}

/// `IO_TIMER_ROUTINE`; called once a second at DISPATCH_LEVEL.
pub type TimerRoutine = unsafe extern "win64" fn(device: *mut DeviceObject, context: *mut c_void);

/// What [`IoInitializeTimer`] makes.
#[repr(C)]
struct DeviceTimer {
    timer: Timer,
    dpc: Dpc,
    device: *mut DeviceObject,
    routine: TimerRoutine,
    context: *mut c_void,
}

unsafe extern "win64" fn fire(_: *mut Dpc, context: *mut c_void, _: *mut c_void, _: *mut c_void) {
    // SAFETY: the context is the timer that the DPC belongs to.
    unsafe {
        let timer = context.cast::<DeviceTimer>();
        ((*timer).routine)((*timer).device, (*timer).context);
    }
}

const TAG: u32 = u32::from_le_bytes(*b"IoTi");

/// Gives a device a routine that is called once a second. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The device is valid.
pub unsafe extern "win64" fn IoInitializeTimer(
    device: *mut DeviceObject,
    routine: TimerRoutine,
    context: *mut c_void,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        if (*device).timer.is_null() {
            let memory = super::kernel::pool_alloc(size_of::<DeviceTimer>(), TAG).cast::<DeviceTimer>();
            if memory.is_null() {
                return super::status::STATUS_INSUFFICIENT_RESOURCES;
            }
            ke::KeInitializeTimer(&raw mut (*memory).timer);
            ke::KeInitializeDpc(&raw mut (*memory).dpc, Some(fire), memory.cast());
            (*device).timer = memory.cast();
        }
        let timer = (*device).timer.cast::<DeviceTimer>();
        (*timer).device = device;
        (*timer).routine = routine;
        (*timer).context = context;
        super::status::STATUS_SUCCESS
    }
}

/// Lets the timer run. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The device has a timer.
pub unsafe extern "win64" fn IoStartTimer(device: *mut DeviceObject) {
    // SAFETY: per the contract; 1 s from now, then each second.
    unsafe {
        let timer = (*device).timer.cast::<DeviceTimer>();
        ke::KeSetTimerEx(&raw mut (*timer).timer, -10_000_000, 1000, &raw mut (*timer).dpc);
    }
}

/// Stops the timer. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The device has a timer.
pub unsafe extern "win64" fn IoStopTimer(device: *mut DeviceObject) {
    // SAFETY: per the contract.
    unsafe {
        let timer = (*device).timer.cast::<DeviceTimer>();
        ke::KeCancelTimer(&raw mut (*timer).timer);
    }
}

/// Takes the timer of a device that is deleted away.
///
/// # Safety
/// The device has a timer.
pub(crate) unsafe fn remove_timer(device: *mut DeviceObject) {
    // SAFETY: per the contract.
    unsafe {
        IoStopTimer(device);
        ke::KeFlushQueuedDpcs();
        super::kernel::pool_free((*device).timer.cast(), TAG);
        (*device).timer = ptr::null_mut();
    }
}
