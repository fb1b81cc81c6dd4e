//! Kernel queues (`KQUEUE`): lists that threads wait on. Every waiting thread is served; the bound on how many of them
//! run at once is a matter of speed and is not kept.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-keremovequeue>

use super::abi::*;
use super::{object, sched, wait};
use crate::status::*;
use core::ffi::c_void;
use core::ptr::null_mut;

/// `KQUEUE`.
#[repr(C)]
pub struct KernelQueue {
    /// Its signal state is the number of entries that no wait has taken yet.
    header: DispatcherHeader,
    entries: ListEntry,
    current: u32,
    maximum: u32,
    threads: ListEntry,
}

const _: () = assert!(size_of::<KernelQueue>() == 0x40);

/// `KeInitializeQueue`: `count` threads may run at once, 0 for as many as there are processors. Any IRQL.
pub unsafe extern "win64" fn KeInitializeQueue(queue: *mut KernelQueue, count: u32) {
    // SAFETY: the caller gives memory for a queue.
    unsafe {
        object::init_header(queue.cast(), OBJECT_QUEUE, size_of::<KernelQueue>(), 0);
        ListEntry::init(&raw mut (*queue).entries);
        ListEntry::init(&raw mut (*queue).threads);
        (*queue).current = 0;
        (*queue).maximum = if count == 0 { crate::platform::platform().processors() } else { count };
    }
}

unsafe fn insert(queue: *mut KernelQueue, entry: *mut ListEntry, front: bool) -> i32 {
    let mut guard = sched::dispatcher();
    // SAFETY: the caller gives an initialised queue and an entry of its own; the lock is held.
    unsafe {
        let head = &raw mut (*queue).entries;
        if front {
            ListEntry::push_front(head, entry);
        } else {
            ListEntry::push_back(head, entry);
        }
        let old = (*queue).header.signal_state;
        (*queue).header.signal_state = old + 1;
        wait::signal(&mut guard, queue.cast());
        old
    }
}

/// `KeInsertQueue`: returns the entries that were there. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeInsertQueue(queue: *mut KernelQueue, entry: *mut ListEntry) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { insert(queue, entry, false) }
}

/// `KeInsertHeadQueue`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeInsertHeadQueue(queue: *mut KernelQueue, entry: *mut ListEntry) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { insert(queue, entry, true) }
}

/// The first entry, null where a run-down took it away.
unsafe fn take(queue: *mut KernelQueue) -> *mut ListEntry {
    let _guard = sched::dispatcher();
    // SAFETY: the caller gives an initialised queue; the lock is held.
    unsafe {
        let head = &raw mut (*queue).entries;
        if ListEntry::is_empty(head) {
            return null_mut();
        }
        let entry = (*head).next;
        ListEntry::remove(entry);
        entry
    }
}

/// `KeRemoveQueue`: the entry, or the status of a wait that ended without one. IRQL <= APC_LEVEL, or DISPATCH_LEVEL
/// with a timeout of zero.
pub unsafe extern "win64" fn KeRemoveQueue(queue: *mut KernelQueue, mode: i8, timeout: *const i64) -> *mut ListEntry {
    // SAFETY: the caller's contract.
    unsafe {
        let status = wait::KeWaitForSingleObject(queue.cast::<c_void>(), 0, mode, 0, timeout);
        if status != STATUS_WAIT_0 {
            return status as usize as *mut ListEntry;
        }
        let entry = take(queue);
        if entry.is_null() { STATUS_ABANDONED as usize as *mut ListEntry } else { entry }
    }
}

/// `KeRemoveQueueEx`: up to `count` entries; the number of them, or the status of the wait. IRQL as above.
pub unsafe extern "win64" fn KeRemoveQueueEx(
    queue: *mut KernelQueue,
    mode: i8,
    _alertable: u8,
    timeout: *const i64,
    entries: *mut *mut ListEntry,
    count: u32,
) -> u32 {
    // SAFETY: the caller's contract: room for so many entries.
    unsafe {
        let status = wait::KeWaitForSingleObject(queue.cast::<c_void>(), 0, mode, 0, timeout);
        if status != STATUS_WAIT_0 {
            return status as u32;
        }
        let mut taken = 0;
        loop {
            let entry = take(queue);
            if entry.is_null() {
                return if taken == 0 { STATUS_ABANDONED as u32 } else { taken };
            }
            entries.add(taken as usize).write(entry);
            taken += 1;
            // Another one only if it is there at once.
            if taken == count || wait::KeWaitForSingleObject(queue.cast::<c_void>(), 0, mode, 0, &0) != STATUS_WAIT_0 {
                return taken;
            }
        }
    }
}

/// `KeReadStateQueue`: the entries. Any IRQL.
pub unsafe extern "win64" fn KeReadStateQueue(queue: *mut KernelQueue) -> i32 {
    let _guard = sched::dispatcher();
    // SAFETY: the caller gives an initialised queue; the lock is held.
    unsafe { (*queue).header.signal_state }
}

/// `KeRundownQueue`: takes all entries; the first of them, linked to the others in a circle, or null. Threads that wait
/// are let go without an entry. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeRundownQueue(queue: *mut KernelQueue) -> *mut ListEntry {
    let mut guard = sched::dispatcher();
    // SAFETY: the caller gives an initialised queue; the lock is held.
    unsafe {
        let head = &raw mut (*queue).entries;
        let first = if ListEntry::is_empty(head) { null_mut() } else { (*head).next };
        ListEntry::remove(head);
        ListEntry::init(head);
        // So that every waiter is served; each finds nothing.
        (*queue).header.signal_state = i32::MAX;
        wait::signal(&mut guard, queue.cast());
        (*queue).header.signal_state = 0;
        first
    }
}
