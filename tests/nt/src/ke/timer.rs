//! Timers.

use super::abi::*;
use super::sched::{self, Dispatcher};
use super::{dpc, object, wait};
use crate::platform::platform;
use core::ptr::null_mut;

/// Marks the timers of waits (in `KTIMER.Processor`, which drivers do not set).
pub(super) const WAIT_MARK: u32 = 0x7761_6974;
/// The clock's period that KeQueryTimeIncrement shows, in 100 ns units: 64 ticks a second.
pub const TIME_INCREMENT: u32 = 156_250;

/// Puts a timer with its due time on the queue.
///
/// # Safety
/// The timer is valid and on no queue; the lock is held.
pub(super) unsafe fn insert(dispatcher: &mut Dispatcher, timer: *mut Timer) {
    // SAFETY: the caller's promise; entries of the queue are fields of timers.
    unsafe {
        let head = &raw mut dispatcher.timers;
        let mut after = (*head).prev;
        while !core::ptr::eq(after, head) && (*of(after)).due > (*timer).due {
            after = (*after).prev;
        }
        // `push_front` of a list whose head is the entry to stand after.
        ListEntry::push_front(after, &raw mut (*timer).entry);
        (*timer).header.inserted = 1;
    }
    arm(dispatcher);
}

/// Takes a timer off the queue. True: it was on it.
///
/// # Safety
/// The timer is valid; the lock is held.
pub(super) unsafe fn remove(timer: *mut Timer) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if (*timer).header.inserted == 0 {
            return false;
        }
        (*timer).header.inserted = 0;
        ListEntry::remove(&raw mut (*timer).entry);
        true
    }
}

fn of(entry: *mut ListEntry) -> *mut Timer {
    entry.wrapping_byte_sub(core::mem::offset_of!(Timer, entry)).cast()
}

/// Sets the clock for the first timer, and for the end of a quantum if threads are ready.
fn arm(dispatcher: &mut Dispatcher) {
    let head = &raw mut dispatcher.timers;
    // SAFETY: the list is that of the locked dispatcher.
    let mut when = unsafe { if ListEntry::is_empty(head) { u64::MAX } else { (*of((*head).next)).due } };
    if dispatcher.any_ready() {
        when = when.min(platform().interrupt_time() + u64::from(TIME_INCREMENT));
    }
    platform().set_timer(when);
}

/// The clock interrupt: expires what is due. IRQL = CLOCK_LEVEL.
pub(super) fn clock_interrupt() {
    let mut guard = sched::dispatcher();
    let now = platform().interrupt_time();
    let head = &raw mut guard.timers;
    // SAFETY: the lock is held; entries of the queue are fields of timers.
    unsafe {
        while !ListEntry::is_empty(head) {
            let timer = of((*head).next);
            if (*timer).due > now {
                break;
            }
            remove(timer);
            if (*timer).processor == WAIT_MARK {
                wait::expire(&mut guard, timer);
                continue;
            }
            (*timer).header.signal_state = 1;
            wait::signal(&mut guard, timer.cast());
            if !(*timer).dpc.is_null() {
                dpc::insert(&mut guard, (*timer).dpc, null_mut(), null_mut());
            }
            if (*timer).period != 0 {
                (*timer).due = now + u64::from((*timer).period) * 10_000;
                insert(&mut guard, timer);
            }
        }
        let any_ready = guard.any_ready();
        arm(&mut guard);
        if any_ready {
            for cpu in 0..guard.cpus.len() {
                platform().request_interrupt(cpu as u32, sched::DISPATCH_VECTOR);
            }
        }
    }
}

/// `KeInitializeTimer`. Any IRQL.
pub unsafe extern "win64" fn KeInitializeTimer(timer: *mut Timer) {
    // SAFETY: the caller gives memory for a timer.
    unsafe { KeInitializeTimerEx(timer, 0) }
}

/// `KeInitializeTimerEx`: `kind` 0 notification, 1 synchronization. Any IRQL.
pub unsafe extern "win64" fn KeInitializeTimerEx(timer: *mut Timer, kind: i32) {
    // SAFETY: the caller gives memory for a timer.
    unsafe {
        object::init_header(timer.cast(), OBJECT_NOTIFICATION_TIMER + kind as u8, size_of::<Timer>(), 0);
        (*timer).due = 0;
        (*timer).entry = ListEntry::unlinked();
        (*timer).dpc = null_mut();
        (*timer).processor = 0;
        (*timer).period = 0;
    }
}

/// `KeSetTimer`: 1 if it was set already. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeSetTimer(timer: *mut Timer, due: i64, dpc: *mut Dpc) -> u8 {
    // SAFETY: the caller's contract.
    unsafe { KeSetTimerEx(timer, due, 0, dpc) }
}

/// `KeSetTimerEx`: `period` in milliseconds. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeSetTimerEx(timer: *mut Timer, due: i64, period: i32, dpc: *mut Dpc) -> u8 {
    let mut guard = sched::dispatcher();
    // SAFETY: the caller gives an initialised timer; the lock is held.
    unsafe {
        let was = remove(timer);
        (*timer).header.signal_state = 0;
        (*timer).due = wait::due_time(due);
        (*timer).period = period.max(0) as u32;
        (*timer).dpc = dpc;
        insert(&mut guard, timer);
        u8::from(was)
    }
}

/// `KeSetCoalescableTimer`: the tolerance is not used. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeSetCoalescableTimer(
    timer: *mut Timer,
    due: i64,
    period: u32,
    _tolerance: u32,
    dpc: *mut Dpc,
) -> u8 {
    // SAFETY: the caller's contract.
    unsafe { KeSetTimerEx(timer, due, period as i32, dpc) }
}

/// `KeCancelTimer`: 1 if it was set. Its DPC may be queued or running still. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeCancelTimer(timer: *mut Timer) -> u8 {
    let _guard = sched::dispatcher();
    // SAFETY: the caller gives an initialised timer; the lock is held.
    unsafe {
        (*timer).period = 0;
        u8::from(remove(timer))
    }
}

/// `KeReadStateTimer`. Any IRQL.
pub unsafe extern "win64" fn KeReadStateTimer(timer: *mut Timer) -> u8 {
    let _guard = sched::dispatcher();
    // SAFETY: the caller gives an initialised timer; the lock is held.
    unsafe { u8::from((*timer).header.signal_state > 0) }
}

/// Whether a set timer lies in a range of memory.
pub(super) fn any_in(dispatcher: &mut Dispatcher, start: usize, end: usize) -> bool {
    let head = &raw mut dispatcher.timers;
    // SAFETY: the lock is held; entries of the queue are fields of timers.
    unsafe {
        if (*head).next.is_null() {
            return false;
        }
        let mut entry = (*head).next;
        while !core::ptr::eq(entry, head) {
            if (start..end).contains(&(of(entry) as usize)) {
                return true;
            }
            entry = (*entry).next;
        }
    }
    false
}
