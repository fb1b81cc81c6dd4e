//! Device queues (`KDEVICE_QUEUE`).

use super::abi::*;
use super::spinlock;

unsafe fn entry_of(entry: *mut ListEntry) -> *mut DeviceQueueEntry {
    entry.cast()
}

/// Runs `body` with the queue's lock. IRQL = DISPATCH_LEVEL.
unsafe fn locked<R>(queue: *mut DeviceQueue, body: impl FnOnce(&mut DeviceQueue) -> R) -> R {
    // SAFETY: the caller gives an initialised queue; the lock guards it.
    unsafe {
        spinlock::acquire(&raw mut (*queue).lock);
        let result = body(&mut *queue);
        spinlock::release(&raw mut (*queue).lock);
        result
    }
}

/// `KeInitializeDeviceQueue`. Any IRQL.
pub unsafe extern "win64" fn KeInitializeDeviceQueue(queue: *mut DeviceQueue) {
    // SAFETY: the caller gives memory for a queue.
    unsafe {
        queue.write(DeviceQueue {
            kind: 0x14,
            size: size_of::<DeviceQueue>() as i16,
            list: ListEntry::unlinked(),
            lock: 0,
            busy: 0,
        });
        ListEntry::init(&raw mut (*queue).list);
    }
}

/// `KeInsertDeviceQueue`: 1 if queued, 0 if the queue was idle and is busy now. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeInsertDeviceQueue(queue: *mut DeviceQueue, entry: *mut DeviceQueueEntry) -> u8 {
    // SAFETY: the caller's contract.
    unsafe {
        locked(queue, |queue| {
            if queue.busy == 0 {
                queue.busy = 1;
                (*entry).inserted = 0;
                return 0;
            }
            ListEntry::push_back(&raw mut queue.list, &raw mut (*entry).entry);
            (*entry).inserted = 1;
            1
        })
    }
}

/// `KeInsertByKeyDeviceQueue`: behind entries of the same or a smaller key. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeInsertByKeyDeviceQueue(
    queue: *mut DeviceQueue,
    entry: *mut DeviceQueueEntry,
    key: u32,
) -> u8 {
    // SAFETY: the caller's contract.
    unsafe {
        locked(queue, |queue| {
            (*entry).key = key;
            if queue.busy == 0 {
                queue.busy = 1;
                (*entry).inserted = 0;
                return 0;
            }
            let head = &raw mut queue.list;
            let mut after = (*head).prev;
            while !core::ptr::eq(after, head) && (*entry_of(after)).key > key {
                after = (*after).prev;
            }
            ListEntry::push_front(after, &raw mut (*entry).entry);
            (*entry).inserted = 1;
            1
        })
    }
}

/// `KeRemoveDeviceQueue`: null and idle if empty. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeRemoveDeviceQueue(queue: *mut DeviceQueue) -> *mut DeviceQueueEntry {
    // SAFETY: the caller's contract.
    unsafe {
        locked(queue, |queue| {
            let entry = entry_of(ListEntry::pop_front(&raw mut queue.list));
            if entry.is_null() {
                queue.busy = 0;
            } else {
                (*entry).inserted = 0;
            }
            entry
        })
    }
}

/// `KeRemoveByKeyDeviceQueue`: the first of at least `key`, else the first. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeRemoveByKeyDeviceQueue(queue: *mut DeviceQueue, key: u32) -> *mut DeviceQueueEntry {
    // SAFETY: the caller's contract.
    unsafe {
        locked(queue, |queue| {
            let head = &raw mut queue.list;
            if ListEntry::is_empty(head) {
                queue.busy = 0;
                return core::ptr::null_mut();
            }
            let mut found = (*head).next;
            while !core::ptr::eq(found, head) && (*entry_of(found)).key < key {
                found = (*found).next;
            }
            if core::ptr::eq(found, head) {
                found = (*head).next;
            }
            ListEntry::remove(found);
            (*entry_of(found)).inserted = 0;
            entry_of(found)
        })
    }
}

/// `KeRemoveEntryDeviceQueue`: 1 if it was queued. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeRemoveEntryDeviceQueue(queue: *mut DeviceQueue, entry: *mut DeviceQueueEntry) -> u8 {
    // SAFETY: the caller's contract.
    unsafe {
        let old = super::KfRaiseIrql(DISPATCH_LEVEL);
        let was = locked(queue, |_| {
            let was = (*entry).inserted;
            if was != 0 {
                (*entry).inserted = 0;
                ListEntry::remove(&raw mut (*entry).entry);
            }
            was
        });
        super::KeLowerIrql(old);
        was
    }
}
