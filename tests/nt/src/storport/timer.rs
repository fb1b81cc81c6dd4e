//! Timers and work items that a miniport makes for itself, known by the handles that it was given.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportrequesttimer>,
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportqueueworkitem> and the pages of
//! the functions that make and free them.

use super::abi::*;
use super::adapter::Adapter;
use super::work;
use crate::ke;
use crate::ke::abi::{DISPATCH_LEVEL, Dpc, Timer};
use crate::ke::irql::*;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::mem::{transmute, zeroed};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// What an adapter's miniport made and has not freed.
#[derive(Default)]
pub struct Made {
    timers: Vec<*mut HwTimer>,
    workers: Vec<*mut Worker>,
}

// SAFETY: the handles lead to what this list owns; they are used by NT functions and atomics alone.
unsafe impl Send for Made {}

/// A timer.
pub struct HwTimer {
    timer: Timer,
    dpc: Dpc,
    /// Sets or cancels the timer for who may not.
    starter: Dpc,
    adapter: *const Adapter,
    /// What is called; 0 while it is not set.
    routine: AtomicUsize,
    context: AtomicUsize,
    microseconds: AtomicU64,
}

/// A work item.
pub struct Worker {
    queued: AtomicBool,
}

/// Whether the IRQL is above DISPATCH_LEVEL.
fn too_high() -> bool {
    // SAFETY: any IRQL.
    unsafe { KeGetCurrentIrql() > DISPATCH_LEVEL }
}

/// StorPortInitializeTimer. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `handle` is null or has room for a handle.
pub unsafe fn initialize_timer(adapter: &Adapter, handle: *mut *mut HwTimer) -> u32 {
    if too_high() {
        return STOR_STATUS_INVALID_IRQL;
    }
    if handle.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    // SAFETY: all zero is valid for timer and DPCs, which are initialised before they are used.
    unsafe {
        let timer = Box::into_raw(Box::new(HwTimer {
            timer: zeroed(),
            dpc: zeroed(),
            starter: zeroed(),
            adapter,
            routine: AtomicUsize::new(0),
            context: AtomicUsize::new(0),
            microseconds: AtomicU64::new(0),
        }));
        ke::KeInitializeTimer(&raw mut (*timer).timer);
        ke::KeInitializeDpc(&raw mut (*timer).dpc, Some(timer_routine), timer.cast());
        ke::KeInitializeDpc(&raw mut (*timer).starter, Some(starter_routine), timer.cast());
        adapter.made.lock().timers.push(timer);
        handle.write(timer);
    }
    STOR_STATUS_SUCCESS
}

/// StorPortRequestTimer: sets a timer that is not set, or with 0 microseconds cancels it. Above DISPATCH_LEVEL it takes
/// effect once the IRQL is no higher. Any IRQL up to DIRQL.
///
/// # Safety
/// The routine is 0 or a `HW_TIMER_EX`.
pub unsafe fn request_timer(
    adapter: &Adapter,
    timer: *mut HwTimer,
    routine: usize,
    context: usize,
    microseconds: u64,
) -> u32 {
    if !adapter.made.lock().timers.contains(&timer) || microseconds != 0 && routine == 0 {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the timer is the adapter's; the miniport does not free it meanwhile.
    unsafe {
        if microseconds == 0 {
            (*timer).routine.store(0, Ordering::Release);
        } else if (*timer).routine.compare_exchange(0, routine, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return STOR_STATUS_BUSY;
        } else {
            (*timer).context.store(context, Ordering::Release);
        }
        (*timer).microseconds.store(microseconds, Ordering::Release);
        if too_high() {
            ke::KeInsertQueueDpc(&raw mut (*timer).starter, ptr::null_mut(), ptr::null_mut());
        } else {
            start(timer);
        }
    }
    STOR_STATUS_SUCCESS
}

/// StorPortFreeTimer. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The miniport does not use the timer any more.
pub unsafe fn free_timer(adapter: &Adapter, timer: *mut HwTimer) -> u32 {
    if too_high() {
        return STOR_STATUS_INVALID_IRQL;
    }
    if timer.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    {
        let mut made = adapter.made.lock();
        let Some(at) = made.timers.iter().position(|known| *known == timer) else { return STOR_STATUS_UNSUCCESSFUL };
        made.timers.swap_remove(at);
    }
    let timer = timer as usize;
    // SAFETY: the timer was the adapter's and is nobody's now; it goes when no DPC of it runs any more.
    unsafe {
        cancel(timer as *mut HwTimer);
        work::queue(Box::new(move || {
            ke::KeFlushQueuedDpcs();
            drop(Box::from_raw(timer as *mut HwTimer));
        }));
    }
    STOR_STATUS_SUCCESS
}

/// Sets the timer to what was asked for last. IRQL <= DISPATCH_LEVEL.
unsafe fn start(timer: *mut HwTimer) {
    // SAFETY: the callers' timer.
    unsafe {
        match (*timer).microseconds.load(Ordering::Acquire) {
            0 => cancel(timer),
            n => _ = ke::KeSetTimer(&raw mut (*timer).timer, -10 * n as i64, &raw mut (*timer).dpc),
        }
    }
}

/// Cancels a timer; its routine is not called any more. IRQL <= DISPATCH_LEVEL.
unsafe fn cancel(timer: *mut HwTimer) {
    // SAFETY: the callers' timer.
    unsafe {
        (*timer).routine.store(0, Ordering::Release);
        ke::KeCancelTimer(&raw mut (*timer).timer);
        ke::KeRemoveQueueDpc(&raw mut (*timer).starter);
        ke::KeRemoveQueueDpc(&raw mut (*timer).dpc);
    }
}

unsafe extern "win64" fn starter_routine(_: *mut Dpc, timer: *mut c_void, _: *mut c_void, _: *mut c_void) {
    // SAFETY: the timer outlives its DPCs.
    unsafe { start(timer.cast()) };
}

unsafe extern "win64" fn timer_routine(_: *mut Dpc, timer: *mut c_void, _: *mut c_void, _: *mut c_void) {
    // SAFETY: the timer outlives its DPCs; the routine is the miniport's. It may set the timer again.
    unsafe {
        let timer = &*timer.cast::<HwTimer>();
        let context = timer.context.load(Ordering::Acquire);
        let routine = timer.routine.swap(0, Ordering::AcqRel);
        if routine != 0 {
            let routine = transmute::<usize, HwTimerEx>(routine);
            routine((*timer.adapter).extension(), context as *mut c_void);
        }
    }
}

/// StorPortInitializeWorker. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `handle` is null or has room for a handle.
pub unsafe fn initialize_worker(adapter: &Adapter, handle: *mut *mut Worker) -> u32 {
    if too_high() {
        return STOR_STATUS_INVALID_IRQL;
    }
    if handle.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let worker = Box::into_raw(Box::new(Worker { queued: AtomicBool::new(false) }));
    adapter.made.lock().workers.push(worker);
    // SAFETY: the caller's promise.
    unsafe { handle.write(worker) };
    STOR_STATUS_SUCCESS
}

/// StorPortQueueWorkItem. The routine may queue or free its work item. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The routine is 0 or a `HW_WORKITEM`.
pub unsafe fn queue_work(adapter: &Adapter, routine: usize, worker: *mut Worker, context: usize) -> u32 {
    if too_high() {
        return STOR_STATUS_INVALID_IRQL;
    }
    if routine == 0 || !adapter.made.lock().workers.contains(&worker) {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    if adapter.going.load(Ordering::Acquire) {
        return STOR_STATUS_INVALID_DEVICE_STATE;
    }
    // SAFETY: the work item is the adapter's; the miniport does not free it meanwhile.
    if unsafe { (*worker).queued.swap(true, Ordering::AcqRel) } {
        return STOR_STATUS_BUSY;
    }
    adapter.working.fetch_add(1, Ordering::AcqRel);
    let job = (&raw const *adapter as usize, worker as usize);
    work::queue(Box::new(move || {
        // SAFETY: an adapter waits for its work items before it goes; the routine is the miniport's.
        unsafe {
            let (adapter, worker) = (&*(job.0 as *const Adapter), job.1 as *mut Worker);
            (*worker).queued.store(false, Ordering::Release);
            let routine = transmute::<usize, HwWorkItem>(routine);
            routine(adapter.extension(), context as *mut c_void, worker.cast());
            adapter.working.fetch_sub(1, Ordering::AcqRel);
        }
    }));
    STOR_STATUS_SUCCESS
}

/// StorPortFreeWorker. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The miniport does not use the work item any more.
pub unsafe fn free_worker(adapter: &Adapter, worker: *mut Worker) -> u32 {
    if too_high() {
        return STOR_STATUS_INVALID_IRQL;
    }
    if worker.is_null() {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let mut made = adapter.made.lock();
    let Some(at) = made.workers.iter().position(|known| *known == worker) else { return STOR_STATUS_UNSUCCESSFUL };
    // SAFETY: the work item is the adapter's.
    unsafe {
        if (*worker).queued.load(Ordering::Acquire) {
            return STOR_STATUS_BUSY;
        }
        made.workers.swap_remove(at);
        drop(made);
        drop(Box::from_raw(worker));
    }
    STOR_STATUS_SUCCESS
}

/// The adapter stops: its timers do not come any more. IRQL <= DISPATCH_LEVEL.
pub fn stop(adapter: &Adapter) {
    let timers = adapter.made.lock().timers.clone();
    for timer in timers {
        // SAFETY: the timer is the adapter's, whose miniport makes and frees nothing while it is stopped.
        unsafe { cancel(timer) };
    }
}

/// The adapter goes: waits for work items, and frees what its miniport left. No timer is set and no DPC of one runs.
/// IRQL = PASSIVE_LEVEL.
pub fn end(adapter: &Adapter) {
    while adapter.working.load(Ordering::Acquire) != 0 {
        // 1 ms.
        let interval = -10_000_i64;
        // SAFETY: a thread at PASSIVE_LEVEL.
        unsafe { ke::KeDelayExecutionThread(0, 0, &raw const interval) };
    }
    let made = core::mem::take(&mut *adapter.made.lock());
    // SAFETY: made here, and freed once.
    unsafe {
        for timer in made.timers {
            drop(Box::from_raw(timer));
        }
        for worker in made.workers {
            drop(Box::from_raw(worker));
        }
    }
}
