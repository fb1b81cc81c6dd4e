//! Work items of devices: routines run by system threads at PASSIVE_LEVEL.
use super::abi::*;
use super::kernel::{pool_alloc, pool_free, violation};
use crate::ob::{ObfDereferenceObject, ObfReferenceObject};
use crate::sync::IrqLock;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// `IO_WORKITEM_ROUTINE`.
pub type WorkRoutine = unsafe extern "win64" fn(device: *mut DeviceObject, context: *mut c_void);
/// `IO_WORKITEM_ROUTINE_EX`.
pub type WorkRoutineEx = unsafe extern "win64" fn(object: *mut c_void, context: *mut c_void, item: *mut WorkItem);

const TAG: u32 = u32::from_le_bytes(*b"IoWi");
/// Threads that run work items.
const THREADS: usize = 4;

#[derive(Clone, Copy)]
enum Routine {
    None,
    Plain(WorkRoutine),
    Extended(WorkRoutineEx),
}

/// `IO_WORKITEM`: opaque to drivers.
#[repr(C)]
pub struct WorkItem {
    device: *mut DeviceObject,
    routine: Routine,
    context: *mut c_void,
    queued: AtomicBool,
}

struct Queue(VecDeque<*mut WorkItem>);
// SAFETY: work items belong to no processor.
unsafe impl Send for Queue {}

static QUEUE: IrqLock<Queue> = IrqLock::new(Queue(VecDeque::new()));
static RUNNING: AtomicUsize = AtomicUsize::new(0);
static WAKE: super::kernel::StaticSemaphore = super::kernel::StaticSemaphore::new();

/// Starts the threads. Once, at PASSIVE_LEVEL.
pub(crate) fn init() {
    WAKE.init();
    for _ in 0..THREADS {
        super::kernel::spawn(Box::new(worker));
    }
}

fn worker() {
    loop {
        WAKE.wait();
        let item = QUEUE.lock().0.pop_front();
        let Some(item) = item else { continue };
        RUNNING.fetch_add(1, Ordering::AcqRel);
        // SAFETY: the item stays valid until its routine runs, which may free it: nothing of it is used afterwards.
        unsafe {
            let (device, routine, context) = ((*item).device, (*item).routine, (*item).context);
            (*item).queued.store(false, Ordering::Release);
            match routine {
                Routine::Plain(routine) => routine(device, context),
                Routine::Extended(routine) => routine(device.cast(), context, item),
                Routine::None => {}
            }
            if crate::ke::KeGetCurrentIrql() != 0 {
                violation("WORK-ITEM", format_args!("a work item came back above PASSIVE_LEVEL"));
            }
            ObfDereferenceObject(device.cast());
        }
        RUNNING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether no work item is queued or running.
pub fn idle() -> bool {
    RUNNING.load(Ordering::Acquire) == 0 && QUEUE.lock().0.is_empty()
}

/// Allocates a work item. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The device is valid.
pub unsafe extern "win64" fn IoAllocateWorkItem(device: *mut DeviceObject) -> *mut WorkItem {
    let item = pool_alloc(size_of::<WorkItem>(), TAG).cast::<WorkItem>();
    if !item.is_null() {
        // SAFETY: fresh memory.
        unsafe { IoInitializeWorkItem(device.cast(), item) };
    }
    item
}

/// Frees a work item that is not queued. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The item is the caller's.
pub unsafe extern "win64" fn IoFreeWorkItem(item: *mut WorkItem) {
    // SAFETY: per the contract; what the contract forbids is reported.
    unsafe {
        if (*item).queued.load(Ordering::Acquire) {
            violation("WORK-ITEM", format_args!("IoFreeWorkItem: the item is queued"));
        }
    }
    pool_free(item.cast(), TAG);
}

/// Bytes of a work item. Any IRQL.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn IoSizeofWorkItem() -> u32 {
    size_of::<WorkItem>() as u32
}

/// Prepares a work item in the caller's memory. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The memory has [`IoSizeofWorkItem`] bytes; the object is a device or driver.
pub unsafe extern "win64" fn IoInitializeWorkItem(object: *mut c_void, item: *mut WorkItem) {
    // SAFETY: per the contract.
    unsafe {
        item.write(WorkItem {
            device: object.cast(),
            routine: Routine::None,
            context: ptr::null_mut(),
            queued: AtomicBool::new(false),
        });
    }
}

/// Ends the use of a work item in the caller's memory. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The item is the caller's.
pub unsafe extern "win64" fn IoUninitializeWorkItem(item: *mut WorkItem) {
    // SAFETY: per the contract; what the contract forbids is reported.
    unsafe {
        if (*item).queued.load(Ordering::Acquire) {
            violation("WORK-ITEM", format_args!("IoUninitializeWorkItem: the item is queued"));
        }
    }
}

unsafe fn queue(item: *mut WorkItem, routine: Routine, context: *mut c_void) {
    // SAFETY: the callers' contract.
    unsafe {
        if (*item).queued.swap(true, Ordering::AcqRel) {
            // WORKER_THREAD_... : an item that is queued twice corrupts the list in Windows.
            violation("WORK-ITEM", format_args!("a work item was queued that is queued already"));
        }
        (*item).routine = routine;
        (*item).context = context;
        ObfReferenceObject((*item).device.cast());
    }
    QUEUE.lock().0.push_back(item);
    WAKE.release();
}

/// Queues a routine. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The item is allocated and not queued.
pub unsafe extern "win64" fn IoQueueWorkItem(
    item: *mut WorkItem,
    routine: WorkRoutine,
    _queue_type: i32,
    context: *mut c_void,
) {
    // SAFETY: per the contract.
    unsafe { queue(item, Routine::Plain(routine), context) };
}

/// Queues a routine that gets the item. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The item is allocated and not queued.
pub unsafe extern "win64" fn IoQueueWorkItemEx(
    item: *mut WorkItem,
    routine: WorkRoutineEx,
    _queue_type: i32,
    context: *mut c_void,
) {
    // SAFETY: per the contract.
    unsafe { queue(item, Routine::Extended(routine), context) };
}
