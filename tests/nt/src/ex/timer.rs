//! Executive timers (`EX_TIMER`): timers with a callback, made by the system.
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/exxxxtimer-routines-and-ex-timer-objects>

use crate::io::kernel::{pool_alloc, pool_free};
use crate::ke::abi::{Dpc, Timer};
use crate::ke::{self, KeInitializeDpc, KeInitializeTimerEx, KeSetTimerEx};
use core::ffi::c_void;
use core::ptr::null_mut;

const TAG: u32 = u32::from_le_bytes(*b"ExTm");
/// `EX_TIMER_NOTIFICATION`: the timer is of the notification type.
const NOTIFICATION: u32 = 1 << 31;
/// 100 ns units in a millisecond.
const MILLISECOND: i64 = 10_000;

type Callback = unsafe extern "win64" fn(*mut ExTimer, *mut c_void);
type Deleted = unsafe extern "win64" fn(*mut c_void);

/// `EX_TIMER`. A driver may wait for it, so the kernel's timer comes first.
#[repr(C)]
pub struct ExTimer {
    timer: Timer,
    dpc: Dpc,
    callback: Option<Callback>,
    context: *mut c_void,
}

/// `EXT_DELETE_PARAMETERS`.
#[repr(C)]
pub struct DeleteParameters {
    version: u32,
    reserved: u32,
    callback: Option<Deleted>,
    context: *mut c_void,
}

unsafe extern "win64" fn expired(_: *mut Dpc, context: *mut c_void, _: *mut c_void, _: *mut c_void) {
    let timer = context.cast::<ExTimer>();
    // SAFETY: a timer is deleted only once its DPC has run.
    unsafe {
        if let Some(callback) = (*timer).callback {
            callback(timer, (*timer).context);
        }
    }
}

/// `ExAllocateTimer`; null without memory. The callback runs at DISPATCH_LEVEL. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExAllocateTimer(
    callback: Option<Callback>,
    context: *mut c_void,
    attributes: u32,
) -> *mut ExTimer {
    let timer = pool_alloc(size_of::<ExTimer>(), TAG).cast::<ExTimer>();
    if !timer.is_null() {
        // SAFETY: fresh memory.
        unsafe {
            KeInitializeTimerEx(&raw mut (*timer).timer, i32::from(attributes & NOTIFICATION == 0));
            KeInitializeDpc(&raw mut (*timer).dpc, Some(expired), timer.cast());
            (*timer).callback = callback;
            (*timer).context = context;
        }
    }
    timer
}

/// `ExSetTimer`: `due` and `period` in 100 ns units. 1: it was set. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExSetTimer(timer: *mut ExTimer, due: i64, period: i64, _parameters: *const c_void) -> u8 {
    // SAFETY: the caller gives a timer of ExAllocateTimer. Periods below a millisecond are rounded up to one.
    unsafe {
        let period = (period + MILLISECOND - 1) / MILLISECOND;
        KeSetTimerEx(&raw mut (*timer).timer, due, period as i32, &raw mut (*timer).dpc)
    }
}

/// `ExCancelTimer`: 1 if it was set. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExCancelTimer(timer: *mut ExTimer, _parameters: *mut c_void) -> u8 {
    // SAFETY: the caller gives a timer of ExAllocateTimer.
    unsafe { ke::KeCancelTimer(&raw mut (*timer).timer) }
}

/// `ExDeleteTimer`: cancels where it is asked to, waits for a callback that runs, calls the delete callback. 1: it was
/// set. IRQL <= DISPATCH_LEVEL, or <= APC_LEVEL with `wait`.
pub unsafe extern "win64" fn ExDeleteTimer(
    timer: *mut ExTimer,
    cancel: u8,
    wait: u8,
    parameters: *const DeleteParameters,
) -> u8 {
    // SAFETY: the caller gives a timer of ExAllocateTimer and does not use it any more.
    unsafe {
        if wait != 0 && cancel == 0 {
            crate::verifier::violation("ExDeleteTimer", format_args!("to wait without to cancel"));
        }
        let was = ke::KeCancelTimer(&raw mut (*timer).timer);
        let queued = ke::KeRemoveQueueDpc(&raw mut (*timer).dpc) != 0;
        let (callback, context) = parameters.as_ref().map_or((None, null_mut()), |p| (p.callback, p.context));
        if !queued && ke::KeGetCurrentIrql() < ke::abi::DISPATCH_LEVEL {
            // One that runs on another processor is over when this returns.
            ke::KeFlushQueuedDpcs();
        }
        pool_free(timer.cast(), TAG);
        if let Some(callback) = callback {
            callback(context);
        }
        was
    }
}
