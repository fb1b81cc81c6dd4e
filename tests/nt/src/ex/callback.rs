//! Callback objects and system work items.

use crate::ke::abi::*;
use crate::ke::{self, sched};
use crate::ob;
use crate::platform::platform;
use crate::rtl::abi::UnicodeString;
use crate::status::*;
use crate::sync::IrqLock;
use crate::verifier;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr::null_mut;

/// `CALLBACK_FUNCTION`.
pub type CallbackFunction =
    unsafe extern "win64" fn(context: *mut c_void, argument1: *mut c_void, argument2: *mut c_void);

/// A registration, by the address of a box that is its handle.
struct Registration {
    handle: usize,
    object: usize,
    function: CallbackFunction,
    context: usize,
}

static REGISTRATIONS: IrqLock<Vec<Registration>> = IrqLock::new(Vec::new());
/// Named callback objects, which go with their last reference: Windows has SetSystemTime, PowerState and ProcessorAdd from the start.
static OBJECTS: IrqLock<Vec<(String, usize)>> = IrqLock::new(Vec::new());
/// Objects that take one routine alone.
static SINGLE: IrqLock<Vec<usize>> = IrqLock::new(Vec::new());

/// The head of `OBJECT_ATTRIBUTES`.
#[repr(C)]
struct ObjectAttributes {
    length: u32,
    root: *mut c_void,
    name: *const UnicodeString,
    attributes: u32,
}

/// `OBJ_PERMANENT`.
const PERMANENT: u32 = 0x10;

/// A callback object is gone.
unsafe fn forget(object: *mut c_void) {
    OBJECTS.lock().retain(|(_, other)| *other != object as usize);
    SINGLE.lock().retain(|other| *other != object as usize);
}

unsafe fn name_of(attributes: *const ObjectAttributes) -> Option<String> {
    // SAFETY: the caller gives OBJECT_ATTRIBUTES or NULL.
    unsafe {
        let name = attributes.as_ref()?.name.as_ref()?;
        let units = core::slice::from_raw_parts(name.buffer, name.length as usize / 2);
        Some(String::from_utf16_lossy(units))
    }
}

/// `ExCreateCallback`. IRQL = PASSIVE_LEVEL. STATUS_UNSUCCESSFUL without a name.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-excreatecallback>
pub unsafe extern "win64" fn ExCreateCallback(
    object: *mut *mut c_void,
    attributes: *const c_void,
    create: u8,
    multiple: u8,
) -> NtStatus {
    const SYSTEM: [&str; 3] = ["\\Callback\\SetSystemTime", "\\Callback\\PowerState", "\\Callback\\ProcessorAdd"];
    // SAFETY: the caller's contract.
    unsafe {
        let Some(name) = name_of(attributes.cast()) else { return STATUS_UNSUCCESSFUL };
        {
            let objects = OBJECTS.lock();
            if let Some((_, found)) = objects.iter().find(|(other, _)| other.eq_ignore_ascii_case(&name)) {
                *object = *found as *mut c_void;
                ob::ObfReferenceObject(*object);
                return STATUS_SUCCESS;
            }
        }
        let of_system = SYSTEM.iter().any(|system| system.eq_ignore_ascii_case(&name));
        if create == 0 && !of_system {
            return STATUS_OBJECT_NAME_NOT_FOUND;
        }
        let made = ob::allocate(ob::Kind::Callback, 64, Some(forget));
        if made.is_null() {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        if of_system || (*attributes.cast::<ObjectAttributes>()).attributes & PERMANENT != 0 {
            ob::ObfReferenceObject(made);
        }
        OBJECTS.lock().push((name, made as usize));
        if multiple == 0 && !of_system {
            SINGLE.lock().push(made as usize);
        }
        *object = made;
    }
    STATUS_SUCCESS
}

/// `ExRegisterCallback`: NULL if the object takes one routine alone, and has it. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn ExRegisterCallback(
    object: *mut c_void,
    function: CallbackFunction,
    context: *mut c_void,
) -> *mut c_void {
    let single = SINGLE.lock().contains(&(object as usize));
    if single && REGISTRATIONS.lock().iter().any(|registration| registration.object == object as usize) {
        return null_mut();
    }
    let handle = Box::into_raw(Box::new(0_u64)) as usize;
    // SAFETY: the caller gives a callback object.
    unsafe { ob::ObfReferenceObject(object) };
    REGISTRATIONS.lock().push(Registration { handle, object: object as usize, function, context: context as usize });
    handle as *mut c_void
}

/// `ExUnregisterCallback`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn ExUnregisterCallback(handle: *mut c_void) {
    let found = {
        let mut registrations = REGISTRATIONS.lock();
        let at = registrations.iter().position(|registration| registration.handle == handle as usize);
        at.map(|at| registrations.swap_remove(at))
    };
    match found {
        // SAFETY: the handle was made by the registration, which held a reference.
        Some(registration) => unsafe {
            drop(Box::from_raw(registration.handle as *mut u64));
            ob::ObfDereferenceObject(registration.object as *mut c_void);
        },
        None => verifier::violation("ExUnregisterCallback", format_args!("{handle:p} is not registered")),
    }
}

/// `ExNotifyCallback`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExNotifyCallback(object: *mut c_void, argument1: *mut c_void, argument2: *mut c_void) {
    let calls: Vec<(CallbackFunction, usize)> = REGISTRATIONS
        .lock()
        .iter()
        .filter(|registration| registration.object == object as usize)
        .map(|registration| (registration.function, registration.context))
        .collect();
    for (function, context) in calls {
        // SAFETY: registered for such calls.
        unsafe { function(context as *mut c_void, argument1, argument2) };
    }
}

/// `WORK_QUEUE_ITEM`.
#[repr(C)]
pub struct WorkItem {
    /// On the queue; Flink NULL: not queued.
    pub entry: ListEntry,
    /// The routine.
    pub routine: Option<unsafe extern "win64" fn(*mut c_void)>,
    /// Its parameter.
    pub parameter: *mut c_void,
}

const _: () = assert!(size_of::<WorkItem>() == 0x20);

/// Worker threads of each queue.
const WORKERS: usize = 2;

struct WorkQueue {
    items: VecDeque<usize>,
    workers: usize,
}

static QUEUES: IrqLock<[WorkQueue; 3]> = IrqLock::new([const { WorkQueue { items: VecDeque::new(), workers: 0 } }; 3]);
static mut ITEMS_READY: [Semaphore; 3] = [const {
    Semaphore {
        header: DispatcherHeader {
            kind: OBJECT_SEMAPHORE,
            flags: 0,
            size: 8,
            inserted: 0,
            signal_state: 0,
            wait_list: ListEntry::unlinked(),
        },
        limit: i32::MAX,
    }
}; 3];

/// Starts the worker threads. After the scheduler runs. IRQL = PASSIVE_LEVEL.
///
/// # Errors
/// The status of the thread that did not start.
pub fn start_workers() -> Result<(), NtStatus> {
    for queue in 0..3_usize {
        // SAFETY: nobody uses the semaphores before the workers are counted.
        unsafe {
            let semaphore = (&raw mut ITEMS_READY).cast::<Semaphore>().add(queue);
            ke::KeInitializeSemaphore(semaphore, 0, i32::MAX);
            for _ in 0..WORKERS {
                let priority = [13, 12, 15][queue];
                let thread = ke::thread::create(worker, queue as *mut c_void, priority)?;
                ob::ObfDereferenceObject(thread.cast());
                QUEUES.lock()[queue].workers += 1;
            }
        }
    }
    Ok(())
}

unsafe extern "win64" fn worker(queue: *mut c_void) {
    let queue = queue as usize;
    loop {
        // SAFETY: the semaphore lives for ever; items are valid until their routine is called.
        unsafe {
            let semaphore = (&raw mut ITEMS_READY).cast::<Semaphore>().add(queue);
            ke::KeWaitForSingleObject(semaphore.cast(), 0, 0, 0, core::ptr::null());
            let Some(item) = QUEUES.lock()[queue].items.pop_front() else { continue };
            let item = item as *mut WorkItem;
            let (routine, parameter) = ((*item).routine, (*item).parameter);
            (*item).entry.next = null_mut();
            if let Some(routine) = routine {
                routine(parameter);
            }
            let irql = platform().irql();
            if irql != PASSIVE_LEVEL || (*sched::current()).apc_disable != 0 {
                verifier::violation("work item", format_args!("a routine came back at IRQL {irql} or in a region"));
            }
        }
    }
}

/// `ExQueueWorkItem`: 0 critical, 1 delayed, 2 hypercritical. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExQueueWorkItem(item: *mut WorkItem, queue: i32) {
    let queue = queue.clamp(0, 2) as usize;
    // SAFETY: the caller gives an initialised item.
    unsafe {
        if !(*item).entry.next.is_null() {
            verifier::violation("ExQueueWorkItem", format_args!("{item:p} is queued already"));
        }
        (*item).entry.next = &raw mut (*item).entry;
        QUEUES.lock()[queue].items.push_back(item as usize);
        let semaphore = (&raw mut ITEMS_READY).cast::<Semaphore>().add(queue);
        ke::KeReleaseSemaphore(semaphore, 0, 1, 0);
    }
}

/// Work items that wait for a worker.
pub fn waiting() -> usize {
    QUEUES.lock().iter().map(|queue| queue.items.len()).sum()
}
