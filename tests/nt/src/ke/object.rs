//! Events, semaphores and mutexes.

use super::abi::*;
use super::sched::{self, Dispatcher, Thread};
use super::wait;
use crate::platform::{Point, platform};
use crate::status::*;
use core::ptr::null_mut;

/// Writes a header.
///
/// # Safety
/// `header` is the start of an object of `bytes` bytes that nobody uses.
pub(super) unsafe fn init_header(header: *mut DispatcherHeader, kind: u8, bytes: usize, state: i32) {
    // SAFETY: the caller's promise.
    unsafe {
        (*header).kind = kind;
        (*header).flags = 0;
        (*header).size = (bytes / 4) as u8;
        (*header).inserted = 0;
        (*header).signal_state = state;
        ListEntry::init(&raw mut (*header).wait_list);
    }
}

/// `KeInitializeEvent`: `kind` 0 notification, 1 synchronization. Any IRQL.
pub unsafe extern "win64" fn KeInitializeEvent(event: *mut Event, kind: i32, state: u8) {
    // SAFETY: the caller gives memory for an event.
    unsafe { init_header(event.cast(), kind as u8, size_of::<Event>(), i32::from(state != 0)) }
}

/// `KeSetEvent`: returns the old state. IRQL <= DISPATCH_LEVEL. With `wait`, the caller's next call is a wait, which may
/// come later here than in Windows: nothing depends on its being atomic.
pub unsafe extern "win64" fn KeSetEvent(event: *mut Event, _increment: i32, _wait: u8) -> i32 {
    let mut guard = sched::dispatcher();
    // SAFETY: the caller gives an event; the lock is held.
    unsafe {
        let old = (*event).header.signal_state;
        (*event).header.signal_state = 1;
        wait::signal(&mut guard, event.cast());
        old
    }
}

/// `KePulseEvent`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KePulseEvent(event: *mut Event, _increment: i32, _wait: u8) -> i32 {
    let mut guard = sched::dispatcher();
    // SAFETY: the caller gives an event; the lock is held.
    unsafe {
        let old = (*event).header.signal_state;
        (*event).header.signal_state = 1;
        wait::signal(&mut guard, event.cast());
        (*event).header.signal_state = 0;
        old
    }
}

/// `KeResetEvent`: returns the old state. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeResetEvent(event: *mut Event) -> i32 {
    let _guard = sched::dispatcher();
    // SAFETY: the caller gives an event; the lock is held.
    unsafe { core::mem::replace(&mut (*event).header.signal_state, 0) }
}

/// `KeClearEvent`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeClearEvent(event: *mut Event) {
    // SAFETY: the caller gives an event.
    unsafe { KeResetEvent(event) };
}

/// `KeReadStateEvent`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeReadStateEvent(event: *mut Event) -> i32 {
    platform().preempt(Point::Spin);
    let _guard = sched::dispatcher();
    // SAFETY: the caller gives an event; the lock is held.
    unsafe { (*event).header.signal_state }
}

/// `KeInitializeSemaphore`. Any IRQL.
pub unsafe extern "win64" fn KeInitializeSemaphore(semaphore: *mut Semaphore, count: i32, limit: i32) {
    // SAFETY: the caller gives memory for a semaphore.
    unsafe {
        init_header(semaphore.cast(), OBJECT_SEMAPHORE, size_of::<Semaphore>(), count);
        (*semaphore).limit = limit;
    }
}

/// `KeReleaseSemaphore`: returns the old count. Above the limit it raises STATUS_SEMAPHORE_LIMIT_EXCEEDED, which is a
/// bug check here. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeReleaseSemaphore(
    semaphore: *mut Semaphore,
    _increment: i32,
    adjustment: i32,
    _wait: u8,
) -> i32 {
    let mut guard = sched::dispatcher();
    // SAFETY: the caller gives a semaphore; the lock is held.
    unsafe {
        let old = (*semaphore).header.signal_state;
        match old.checked_add(adjustment) {
            Some(new) if adjustment > 0 && new <= (*semaphore).limit => {
                (*semaphore).header.signal_state = new;
                wait::signal(&mut guard, semaphore.cast());
                old
            }
            _ => {
                drop(guard);
                super::KeBugCheckEx(0x1e, STATUS_SEMAPHORE_LIMIT_EXCEEDED as u32 as usize, semaphore as usize, 0, 0)
            }
        }
    }
}

/// `KeReadStateSemaphore`. Any IRQL.
pub unsafe extern "win64" fn KeReadStateSemaphore(semaphore: *mut Semaphore) -> i32 {
    let _guard = sched::dispatcher();
    // SAFETY: the caller gives a semaphore; the lock is held.
    unsafe { (*semaphore).header.signal_state }
}

/// `KeInitializeMutex`. Any IRQL.
pub unsafe extern "win64" fn KeInitializeMutex(mutex: *mut Mutex, _level: u32) {
    // SAFETY: the caller gives memory for a mutex.
    unsafe {
        init_header(mutex.cast(), OBJECT_MUTANT, size_of::<Mutex>(), 1);
        (*mutex).owned = ListEntry::unlinked();
        (*mutex).owner = null_mut();
        (*mutex).abandoned = 0;
        (*mutex).apc_disable = 1;
    }
}

/// One acquisition by a thread. True: the last owner abandoned it.
///
/// # Safety
/// Both are valid, the mutex is free or owned by the thread, and the lock is held.
pub(super) unsafe fn take_mutex(mutex: *mut Mutex, thread: *mut Thread) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        (*mutex).header.signal_state -= 1;
        if (*mutex).header.signal_state == 0 {
            (*mutex).owner = thread;
            ListEntry::push_back(&raw mut (*thread).mutexes, &raw mut (*mutex).owned);
            (*thread).apc_disable -= i32::from((*mutex).apc_disable);
            return core::mem::replace(&mut (*mutex).abandoned, 0) != 0;
        }
        false
    }
}

/// `KeReleaseMutex`: returns the old state; bug checks if the caller is not the owner (documented:
/// STATUS_MUTANT_NOT_OWNED is raised). IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeReleaseMutex(mutex: *mut Mutex, _wait: u8) -> i32 {
    let thread = sched::current();
    let mut guard = sched::dispatcher();
    // SAFETY: the caller gives a mutex; the lock is held.
    unsafe {
        if !core::ptr::eq((*mutex).owner, thread) {
            drop(guard);
            super::KeBugCheckEx(0x1e, STATUS_MUTANT_NOT_OWNED as u32 as usize, mutex as usize, 0, 0)
        }
        let old = (*mutex).header.signal_state;
        (*mutex).header.signal_state += 1;
        if (*mutex).header.signal_state == 1 {
            (*mutex).owner = null_mut();
            ListEntry::remove(&raw mut (*mutex).owned);
            (*thread).apc_disable += i32::from((*mutex).apc_disable);
            wait::signal(&mut guard, mutex.cast());
        }
        old
    }
}

/// `KeReadStateMutex`. Any IRQL.
pub unsafe extern "win64" fn KeReadStateMutex(mutex: *mut Mutex) -> i32 {
    let _guard = sched::dispatcher();
    // SAFETY: the caller gives a mutex; the lock is held.
    unsafe { (*mutex).header.signal_state }
}

/// The mutexes of a thread that ends become free and abandoned.
///
/// # Safety
/// The thread is valid and the lock held.
pub(super) unsafe fn abandon_mutexes(dispatcher: &mut Dispatcher, thread: *mut Thread) {
    // SAFETY: the caller's promise; entries on the list are fields of mutexes.
    unsafe {
        loop {
            let entry = ListEntry::pop_front(&raw mut (*thread).mutexes);
            if entry.is_null() {
                return;
            }
            let mutex = entry.byte_sub(core::mem::offset_of!(Mutex, owned)).cast::<Mutex>();
            (*mutex).owner = null_mut();
            (*mutex).abandoned = 1;
            (*mutex).header.signal_state = 1;
            wait::signal(dispatcher, mutex.cast());
        }
    }
}
