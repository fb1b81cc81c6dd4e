//! Waits: `KeWaitForSingleObject`, `KeWaitForMultipleObjects`, `KeDelayExecutionThread`, and what signals do to waiters.

use super::abi::*;
use super::sched::{self, Dispatcher, MAXIMUM_WAIT_OBJECTS, State, Thread};
use super::{object, timer};
use crate::platform::platform;
use crate::status::*;
use crate::verifier;
use core::ffi::c_void;

/// Whether a wait of `thread` for `object` would be satisfied now.
///
/// # Safety
/// Both are valid; the lock is held.
unsafe fn is_signalled(object: *mut DispatcherHeader, thread: *mut Thread) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        (*object).signal_state > 0
            || ((*object).kind == OBJECT_MUTANT && core::ptr::eq((*object.cast::<Mutex>()).owner, thread))
    }
}

/// What a satisfied wait does to the object. True: the mutex was abandoned by its last owner.
///
/// # Safety
/// As [`is_signalled`], and the object is signalled for the thread.
unsafe fn consume(object: *mut DispatcherHeader, thread: *mut Thread) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        match (*object).kind & 0x7f {
            OBJECT_SYNCHRONIZATION_EVENT | OBJECT_SYNCHRONIZATION_TIMER => (*object).signal_state = 0,
            OBJECT_SEMAPHORE | OBJECT_QUEUE => (*object).signal_state -= 1,
            OBJECT_MUTANT => return object::take_mutex(object.cast(), thread),
            _ => {}
        }
        false
    }
}

/// Takes a thread off all lists of its wait and makes it ready with `result`.
///
/// # Safety
/// The thread waits; the lock is held.
pub(super) unsafe fn end_wait(dispatcher: &mut Dispatcher, thread: *mut Thread, result: i32) {
    // SAFETY: the caller's promise; the blocks in use are linked.
    unsafe {
        for block in &mut (&mut (*thread).blocks)[..(*thread).block_count] {
            ListEntry::remove(&raw mut block.entry);
        }
        (*thread).block_count = 0;
        timer::remove(&raw mut (*thread).wait_timer);
        (*thread).wait_result = result;
        dispatcher.make_ready(thread, false);
    }
}

/// An object became signalled: satisfies waits in their order while it stays so.
///
/// # Safety
/// The object is valid; the lock is held.
pub(super) unsafe fn signal(dispatcher: &mut Dispatcher, object: *mut DispatcherHeader) {
    // SAFETY: the caller's promise; entries on a wait list are the first field of wait blocks of waiting threads.
    unsafe {
        let head = &raw mut (*object).wait_list;
        let mut entry = (*head).next;
        while !core::ptr::eq(entry, head) && (*object).signal_state > 0 {
            let block = entry.cast::<sched::WaitBlock>();
            entry = (*entry).next;
            let thread = (*block).thread;
            let count = (*thread).block_count;
            if (*thread).wait_all {
                let blocks = &(&(*thread).blocks)[..count];
                if !blocks.iter().all(|block| is_signalled(block.object, thread)) {
                    continue;
                }
                let mut result = STATUS_WAIT_0;
                for block in blocks {
                    if consume(block.object, thread) {
                        result = STATUS_ABANDONED;
                    }
                }
                end_wait(dispatcher, thread, result);
                // The lists changed: start again.
                entry = (*head).next;
            } else {
                let first = (&raw const (*thread).blocks).cast::<sched::WaitBlock>();
                let index = block.cast_const().offset_from(first) as i32;
                let abandoned = consume(object, thread);
                // The same object may be in the wait twice.
                while !core::ptr::eq(entry, head) && core::ptr::eq((*entry.cast::<sched::WaitBlock>()).thread, thread) {
                    entry = (*entry).next;
                }
                end_wait(dispatcher, thread, if abandoned { STATUS_ABANDONED + index } else { index });
            }
        }
    }
}

/// Turns a LARGE_INTEGER timeout into interrupt time: negative is relative, positive is absolute system time.
pub(super) fn due_time(timeout: i64) -> u64 {
    let now = platform().interrupt_time();
    if timeout < 0 {
        now.saturating_add(timeout.unsigned_abs())
    } else {
        (timeout as u64).saturating_sub(platform().boot_time()).max(now)
    }
}

/// Waits for objects of the personality or of drivers. `timeout`: `None` for ever, else as documented for
/// KeWaitForSingleObject. IRQL <= APC_LEVEL, or DISPATCH_LEVEL with a timeout of zero.
///
/// # Safety
/// The objects are initialised dispatcher objects that stay while the wait lasts.
pub unsafe fn wait(objects: &[*mut DispatcherHeader], all: bool, timeout: Option<i64>) -> NtStatus {
    let thread = sched::current();
    let irql = platform().irql();
    if irql > APC_LEVEL && timeout != Some(0) {
        verifier::irql_violation("a wait that may block", irql, APC_LEVEL);
    }
    let mut guard = sched::dispatcher();
    // SAFETY: the current thread is valid; the caller promises the objects; the lock is held.
    unsafe {
        if all {
            if objects.iter().all(|&object| is_signalled(object, thread)) {
                let mut abandoned = false;
                for &object in objects {
                    abandoned |= consume(object, thread);
                }
                return if abandoned { STATUS_ABANDONED } else { STATUS_SUCCESS };
            }
        } else if let Some(index) = objects.iter().position(|&object| is_signalled(object, thread)) {
            let abandoned = consume(objects[index], thread);
            return if abandoned { STATUS_ABANDONED } else { STATUS_WAIT_0 } + index as i32;
        }
        if timeout == Some(0) {
            return STATUS_TIMEOUT;
        }
        verifier::thread_waits();
        (*thread).wait_all = all;
        (*thread).block_count = objects.len();
        for (block, &object) in (*thread).blocks.iter_mut().zip(objects) {
            block.thread = thread;
            block.object = object;
            ListEntry::push_back(&raw mut (*object).wait_list, &raw mut block.entry);
        }
        if let Some(timeout) = timeout {
            (*thread).wait_timer.due = due_time(timeout);
            timer::insert(&mut guard, &raw mut (*thread).wait_timer);
        }
        (*thread).state = State::Waiting;
        sched::switch_away(guard);
        (*thread).wait_result
    }
}

/// The thread whose wait's time-out this timer is, if it is one.
///
/// # Safety
/// The timer is valid; the lock is held; `threads` are what runs or waits.
pub(super) unsafe fn expire(dispatcher: &mut Dispatcher, timer: *mut Timer) {
    // SAFETY: only `wait_timer` fields carry this mark, so the thread around it is valid.
    unsafe {
        let thread = timer.byte_sub(core::mem::offset_of!(Thread, wait_timer)).cast::<Thread>();
        if (*thread).state == State::Waiting {
            end_wait(dispatcher, thread, STATUS_TIMEOUT);
        }
    }
}

/// `KeWaitForSingleObject`. IRQL <= APC_LEVEL, or DISPATCH_LEVEL with a timeout of zero. Alerts do not happen here.
pub unsafe extern "win64" fn KeWaitForSingleObject(
    object: *mut c_void,
    _reason: i32,
    _mode: i8,
    _alertable: u8,
    timeout: *const i64,
) -> NtStatus {
    // SAFETY: the caller's contract.
    unsafe { wait(&[object.cast()], false, timeout.as_ref().copied()) }
}

/// `KeWaitForMutexObject`: the same function by another name.
pub unsafe extern "win64" fn KeWaitForMutexObject(
    object: *mut c_void,
    reason: i32,
    mode: i8,
    alertable: u8,
    timeout: *const i64,
) -> NtStatus {
    // SAFETY: the caller's contract.
    unsafe { KeWaitForSingleObject(object, reason, mode, alertable, timeout) }
}

/// `KeWaitForMultipleObjects`. As KeWaitForSingleObject; `kind` 0 waits for all, 1 for any.
pub unsafe extern "win64" fn KeWaitForMultipleObjects(
    count: u32,
    objects: *const *mut c_void,
    kind: i32,
    _reason: i32,
    _mode: i8,
    _alertable: u8,
    timeout: *const i64,
    blocks: *mut c_void,
) -> NtStatus {
    let limit = if blocks.is_null() { 3 } else { MAXIMUM_WAIT_OBJECTS };
    if count as usize > limit || count == 0 {
        // SAFETY: MAXIMUM_WAIT_OBJECTS_EXCEEDED, as documented.
        unsafe { super::KeBugCheck(0xc) }
    }
    // SAFETY: the caller's contract.
    unsafe {
        let objects = core::slice::from_raw_parts(objects.cast::<*mut DispatcherHeader>(), count as usize);
        wait(objects, kind == 0, timeout.as_ref().copied())
    }
}

/// Sleeps. IRQL <= APC_LEVEL.
pub fn sleep(timeout: i64) -> NtStatus {
    if timeout == 0 {
        yield_processor();
        return STATUS_SUCCESS;
    }
    // SAFETY: no objects.
    let status = unsafe { wait(&[], false, Some(timeout)) };
    if status == STATUS_TIMEOUT { STATUS_SUCCESS } else { status }
}

/// Lets another ready thread run. IRQL <= APC_LEVEL.
pub fn yield_processor() {
    let mut guard = sched::dispatcher();
    if guard.any_ready() {
        let thread = sched::current();
        // SAFETY: the current thread is valid; the lock is held.
        unsafe {
            guard.make_ready(thread, false);
            sched::switch_away(guard);
        }
    }
}

/// `KeDelayExecutionThread`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeDelayExecutionThread(_mode: i8, _alertable: u8, interval: *const i64) -> NtStatus {
    // SAFETY: the caller gives an interval.
    sleep(unsafe { *interval })
}

/// `ZwYieldExecution`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn ZwYieldExecution() -> NtStatus {
    yield_processor();
    STATUS_SUCCESS
}
