//! Deferred procedure calls. A DPC runs at DISPATCH_LEVEL on the processor whose queue it is on, from the dispatch
//! software interrupt.

use super::abi::*;
use super::sched::{self, DISPATCH_VECTOR, Dispatcher};
use crate::platform::{Point, platform};
use crate::status::*;
use crate::verifier;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering};

/// What stands in `KDPC.Type`.
const DPC: u8 = 0x13;
const THREADED_DPC: u8 = 0x18;
/// `KDPC.Number` of a targeted DPC is the processor plus this.
const TARGETED: u16 = 0x500;
/// `HighImportance`.
const HIGH: u8 = 2;

/// Queues a DPC. True: it was not queued yet.
///
/// # Safety
/// The DPC is initialised; the lock is held.
pub(super) unsafe fn insert(
    dispatcher: &mut Dispatcher,
    dpc: *mut Dpc,
    argument1: *mut c_void,
    argument2: *mut c_void,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if !(*dpc).data.is_null() {
            return false;
        }
        let here = platform().current_processor();
        let target = if (*dpc).number >= TARGETED { u32::from((*dpc).number - TARGETED) } else { here };
        let target = if (target as usize) < dispatcher.cpus.len() { target } else { here };
        (*dpc).argument1 = argument1;
        (*dpc).argument2 = argument2;
        (*dpc).data = (target as usize + 1) as *mut c_void;
        let queue = &mut dispatcher.cpus[target as usize].dpcs;
        if (*dpc).importance == HIGH {
            queue.push_front(dpc);
        } else {
            queue.push_back(dpc);
        }
        // A processor that runs its DPCs looks for more before it stops.
        if !dispatcher.cpus[target as usize].in_dpc {
            platform().request_interrupt(target, DISPATCH_VECTOR);
        }
        true
    }
}

/// Runs the DPCs of this processor. IRQL = DISPATCH_LEVEL.
pub(super) fn drain() {
    loop {
        let (dpc, call) = {
            let mut guard = sched::dispatcher();
            let cpu = platform().current_processor() as usize;
            let Some(dpc) = guard.cpus[cpu].dpcs.pop_front() else {
                guard.cpus[cpu].in_dpc = false;
                return;
            };
            guard.cpus[cpu].in_dpc = true;
            // SAFETY: a queued DPC is valid. From here on it may be queued again or freed.
            unsafe {
                (*dpc).data = null_mut();
                (dpc, ((*dpc).routine, (*dpc).context, (*dpc).argument1, (*dpc).argument2))
            }
        };
        if let Some(routine) = call.0 {
            let started = verifier::dpc_starts(routine as usize);
            // SAFETY: the driver's routine with the arguments it asked for, at DISPATCH_LEVEL.
            unsafe { routine(dpc, call.1, call.2, call.3) };
            verifier::dpc_ended(routine as usize, started);
        }
    }
}

unsafe fn init(dpc: *mut Dpc, kind: u8, routine: Option<DeferredRoutine>, context: *mut c_void) {
    // SAFETY: the caller gives memory for a DPC.
    unsafe {
        dpc.write(Dpc {
            kind,
            importance: 1,
            number: 0,
            next: null_mut(),
            history: 0,
            routine,
            context,
            argument1: null_mut(),
            argument2: null_mut(),
            data: null_mut(),
        });
    }
}

/// `KeInitializeDpc`. Any IRQL.
pub unsafe extern "win64" fn KeInitializeDpc(dpc: *mut Dpc, routine: Option<DeferredRoutine>, context: *mut c_void) {
    // SAFETY: the caller gives memory for a DPC.
    unsafe { init(dpc, DPC, routine, context) }
}

/// `KeInitializeThreadedDpc`: runs at DISPATCH_LEVEL here, as the documentation allows. Any IRQL.
pub unsafe extern "win64" fn KeInitializeThreadedDpc(
    dpc: *mut Dpc,
    routine: Option<DeferredRoutine>,
    context: *mut c_void,
) {
    // SAFETY: the caller gives memory for a DPC.
    unsafe { init(dpc, THREADED_DPC, routine, context) }
}

/// `KeInsertQueueDpc`: 1 if it was not queued yet. Any IRQL.
pub unsafe extern "win64" fn KeInsertQueueDpc(dpc: *mut Dpc, argument1: *mut c_void, argument2: *mut c_void) -> u8 {
    // SAFETY: the caller gives a DPC.
    unsafe {
        if !matches!((*dpc).kind, DPC | THREADED_DPC) {
            verifier::violation("KeInsertQueueDpc", format_args!("the DPC at {dpc:p} is not initialised"));
        }
        u8::from(insert(&mut sched::dispatcher(), dpc, argument1, argument2))
    }
}

/// `KeRemoveQueueDpc`: 1 if it was queued. Any IRQL.
pub unsafe extern "win64" fn KeRemoveQueueDpc(dpc: *mut Dpc) -> u8 {
    let mut guard = sched::dispatcher();
    // SAFETY: the caller gives a DPC; the lock is held.
    unsafe {
        let cpu = (*dpc).data as usize;
        if cpu == 0 {
            return 0;
        }
        guard.cpus[cpu - 1].dpcs.retain(|&queued| !core::ptr::eq(queued, dpc));
        (*dpc).data = null_mut();
        1
    }
}

/// `KeSetImportanceDpc`. Any IRQL.
pub unsafe extern "win64" fn KeSetImportanceDpc(dpc: *mut Dpc, importance: i32) {
    // SAFETY: the caller gives a DPC that is not queued.
    unsafe { (*dpc).importance = importance as u8 }
}

/// `KeSetTargetProcessorDpc`. Any IRQL.
pub unsafe extern "win64" fn KeSetTargetProcessorDpc(dpc: *mut Dpc, number: i8) {
    // SAFETY: the caller gives a DPC that is not queued.
    unsafe { (*dpc).number = TARGETED + u16::from(number as u8) }
}

/// `KeSetTargetProcessorDpcEx`. Any IRQL.
pub unsafe extern "win64" fn KeSetTargetProcessorDpcEx(dpc: *mut Dpc, number: *const ProcessorNumber) -> NtStatus {
    // SAFETY: the caller gives a DPC that is not queued, and a number.
    unsafe {
        let number = *number;
        if number.group != 0 || u32::from(number.number) >= platform().processors() || number.reserved != 0 {
            return STATUS_INVALID_PARAMETER;
        }
        (*dpc).number = TARGETED + u16::from(number.number);
        STATUS_SUCCESS
    }
}

unsafe extern "win64" fn count_down(_: *mut Dpc, context: *mut c_void, _: *mut c_void, _: *mut c_void) {
    // SAFETY: the context is the counter of `KeFlushQueuedDpcs`, which waits for it.
    unsafe { (*context.cast::<AtomicU32>()).fetch_sub(1, Ordering::AcqRel) };
}

/// `KeFlushQueuedDpcs`: returns when every DPC that was queued on any processor has ended. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn KeFlushQueuedDpcs() {
    let count = platform().processors();
    let left = AtomicU32::new(count);
    let mut dpcs: alloc::vec::Vec<Dpc> = alloc::vec::Vec::with_capacity(count as usize);
    for index in 0..count as usize {
        // SAFETY: within the capacity; the vector is not moved while DPCs are queued.
        unsafe {
            let dpc = dpcs.as_mut_ptr().add(index);
            init(dpc, DPC, Some(count_down), (&raw const left).cast_mut().cast());
            (*dpc).number = TARGETED + index as u16;
            insert(&mut sched::dispatcher(), dpc, null_mut(), null_mut());
        }
    }
    while left.load(Ordering::Acquire) != 0 {
        platform().preempt(Point::Spin);
        core::hint::spin_loop();
    }
}

/// `KeIsDpcActive` (called KeIsExecutingDpc in headers): 1 inside a DPC of this processor. Any IRQL.
pub unsafe extern "win64" fn KeIsExecutingDpc() -> u8 {
    let guard = sched::dispatcher();
    u8::from(guard.cpus.get(platform().current_processor() as usize).is_some_and(|cpu| cpu.in_dpc))
}

/// Whether a queued DPC or its routine lies in a range of memory.
pub(super) fn any_in(dispatcher: &Dispatcher, start: usize, end: usize) -> bool {
    let range = start..end;
    dispatcher.cpus.iter().flat_map(|cpu| cpu.dpcs.iter()).any(|&dpc| {
        // SAFETY: a queued DPC is valid.
        range.contains(&(dpc as usize)) || unsafe { (*dpc).routine.is_some_and(|r| range.contains(&(r as usize))) }
    })
}
