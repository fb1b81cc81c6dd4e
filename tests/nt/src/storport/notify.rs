//! StorPortNotification: what a miniport tells the port driver.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportnotification>

use super::abi::*;
use super::adapter::{self, Adapter};
use super::{change, extended, fdo, interrupt, violation};
use crate::ke;
use crate::ke::abi::{DISPATCH_LEVEL, Dpc};
use crate::ke::irql::*;
use crate::ke::spinlock::*;
use core::ffi::c_void;
use core::sync::atomic::Ordering;

crate::variadic! {
    /// `StorPortNotification`: type, device extension, and what the type asks for. IRQL as the type says.
    pub fn StorPortNotification => notification;
}

unsafe extern "win64" fn notification(args: *const u64) -> u64 {
    // SAFETY: the shim spilled the arguments, which are those that the type asks for.
    unsafe {
        let argument = |i: usize| args.add(i).read() as usize;
        let pointer = |i: usize| argument(i) as *mut c_void;
        let adapter = adapter::of(pointer(1));
        match argument(0) as u32 {
            // RequestComplete
            0 => adapter.complete(pointer(2)),
            // What needs no answer here: NextRequest, NextLuRequest, ResetDetected, WMIEvent, WMIReregister,
            // BufferOverrunDetected, TraceNotification, IoTargetRequestServiceTime.
            1..=3 | 8 | 9 | 13 | 14 | 0x1006 => {}
            // RequestTimerCall: routine, microseconds.
            6 => request_timer(adapter, argument(2), argument(3) as u32),
            // BusChangeDetected
            7 => request_rescan(adapter),
            // LinkUp, LinkDown
            10 => {
                adapter.state.lock().gate.resume();
                adapter.queue_pump();
            }
            11 => adapter.state.lock().gate.pause(30),
            // QueryTickCount
            12 => (pointer(2).cast::<u64>()).write(ke::KeQueryInterruptTime() / u64::from(ke::KeQueryTimeIncrement())),
            // EnablePassiveInitialization: routine, result.
            0x1000 => {
                adapter.passive_initialize.store(argument(2), Ordering::Release);
                pointer(3).cast::<u32>().write(1);
            }
            // InitializeDpc: DPC, routine.
            0x1001 => {
                let dpc = pointer(2).cast::<StorDpc>();
                let routine = argument(3);
                (*dpc).lock = 0;
                ke::KeInitializeDpc((&raw mut (*dpc).dpc).cast(), Some(hw_dpc), routine as *mut c_void);
                // The KDPC's history field, which the kernel does not use, leads back to the adapter.
                (*(&raw mut (*dpc).dpc).cast::<Dpc>()).history = &raw const *adapter as usize;
            }
            // IssueDpc: DPC, two arguments; the result replaces the first of them.
            0x1002 => {
                let dpc = pointer(2).cast::<Dpc>();
                return u64::from(ke::KeInsertQueueDpc(dpc, pointer(3), pointer(4)));
            }
            // AcquireSpinLock: lock, context, handle.
            0x1003 => acquire(adapter, argument(2) as u32, pointer(3), pointer(4).cast()),
            // ReleaseSpinLock: handle.
            0x1004 => release(adapter, pointer(2).cast()),
            // StateChangeDetectedCall: entity, address, attributes, routine, context, status.
            0x1005 => {
                let routine = core::mem::transmute::<*mut c_void, Option<HwStateChange>>(pointer(5));
                let status = change::note(adapter, argument(2) as u32, pointer(3).cast(), routine, pointer(6));
                if status == STOR_STATUS_SUCCESS {
                    request_rescan(adapter);
                }
                pointer(7).cast::<u32>().write(status);
            }
            // AsyncNotificationDetected: address, flags, status.
            0x1007 => {
                let status = extended::notified(adapter, pointer(2).cast(), argument(3) as u64);
                if status == STOR_STATUS_SUCCESS {
                    request_rescan(adapter);
                }
                pointer(4).cast::<u32>().write(status);
            }
            kind => violation("StorPortNotification: an unknown type", kind as usize, 0),
        }
    }
    0
}

/// A rescan may be asked for at DIRQL.
fn request_rescan(adapter: &Adapter) {
    // SAFETY: any IRQL.
    if unsafe { KeGetCurrentIrql() } <= DISPATCH_LEVEL {
        fdo::rescan(adapter);
    } else {
        adapter.rescan_wanted.store(true, Ordering::Release);
        adapter.queue_pump();
    }
}

/// Sets, or with 0 microseconds cancels, the miniport's one timer.
fn request_timer(adapter: &Adapter, routine: usize, microseconds: u32) {
    // SAFETY: timer and DPC live as long as the adapter.
    unsafe {
        let pair = adapter.hw_timer.get();
        if microseconds == 0 {
            ke::KeCancelTimer(&raw mut (*pair).0);
            return;
        }
        adapter.hw_timer_routine.store(routine, Ordering::Release);
        ke::KeSetTimer(&raw mut (*pair).0, -10 * i64::from(microseconds), &raw mut (*pair).1);
    }
}

unsafe extern "win64" fn hw_dpc(dpc: *mut Dpc, routine: *mut c_void, a1: *mut c_void, a2: *mut c_void) {
    // SAFETY: set up by InitializeDpc, for an adapter that outlives its DPCs.
    unsafe {
        let adapter = &*((*dpc).history as *const Adapter);
        let routine = core::mem::transmute::<*mut c_void, HwDpc>(routine);
        routine(dpc.cast(), adapter.extension(), a1, a2);
    }
}

/// StorPortAcquireSpinLock: 1 a DPC's lock, 2 the StartIo lock, 3 the interrupt lock.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportacquirespinlock>
unsafe fn acquire(adapter: &Adapter, kind: u32, context: *mut c_void, handle: *mut StorLockHandle) {
    // SAFETY: the miniport gives a handle, and for a DPC's lock the DPC.
    unsafe {
        (*handle).lock = kind;
        (*handle).queue = [0, 0];
        let irql = KeGetCurrentIrql();
        (*handle).old_irql = irql;
        match kind {
            1 => {
                if irql > DISPATCH_LEVEL {
                    violation("StorPortAcquireSpinLock: a DPC's lock above DISPATCH_LEVEL", usize::from(irql), 0);
                }
                let lock = &raw mut (*context.cast::<StorDpc>()).lock;
                (*handle).queue[1] = lock as usize;
                KfRaiseIrql(DISPATCH_LEVEL);
                KeAcquireSpinLockAtDpcLevel(lock);
            }
            2 => {
                if irql > DISPATCH_LEVEL {
                    violation("StorPortAcquireSpinLock: the StartIo lock above DISPATCH_LEVEL", usize::from(irql), 0);
                }
                KfRaiseIrql(DISPATCH_LEVEL);
                adapter.acquire_start_io();
            }
            3 => (*handle).old_irql = interrupt::acquire_all(adapter).unwrap_or(irql),
            _ => violation("StorPortAcquireSpinLock: an unknown lock", kind as usize, 0),
        }
    }
}

/// StorPortReleaseSpinLock.
unsafe fn release(adapter: &Adapter, handle: *mut StorLockHandle) {
    // SAFETY: the miniport gives the handle of an acquired lock.
    unsafe {
        let old = (*handle).old_irql;
        match (*handle).lock {
            1 => {
                let lock = (*handle).queue[1] as *mut usize;
                KeReleaseSpinLockFromDpcLevel(lock);
                KeLowerIrql(old);
            }
            2 => {
                adapter.release_start_io();
                KeLowerIrql(old);
            }
            3 => interrupt::release_all(adapter, old),
            kind => violation("StorPortReleaseSpinLock: a handle that was not acquired", kind as usize, 0),
        }
        (*handle).lock = 0;
    }
}
