//! Memory, timers, work items, and what a miniport asks of the system.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ndis/>

use super::abi::*;
use super::adapter::{self, TAG};
use super::owned::{self, Kind};
use super::violation;
use crate::ex::{ExAllocatePoolWithTag, ExFreePool};
use crate::io::kernel::note;
use crate::ke::abi::{Dpc, Timer};
use crate::ke::{KeCancelTimer, KeInitializeDpc, KeInitializeTimer, KeSetTimerEx};
use crate::storport::work;
use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

/// `NonPagedPoolNx`.
const NON_PAGED_POOL_NX: i32 = 512;

/// `NdisAllocateMemoryWithTagPriority`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAllocateMemoryWithTagPriority(
    owner: Handle,
    length: u32,
    tag: u32,
    _priority: i32,
) -> *mut c_void {
    // SAFETY: a plain allocation.
    let block = unsafe { ExAllocatePoolWithTag(NON_PAGED_POOL_NX, length as usize, tag) };
    if !block.is_null() {
        owned::add(Kind::Memory, block as usize, owner);
    }
    block
}

/// `NdisFreeMemory`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisFreeMemory(block: *mut c_void, _length: u32, _flags: u32) {
    owned::remove(Kind::Memory, block as usize, "NdisFreeMemory");
    // SAFETY: allocated above.
    unsafe { ExFreePool(block) };
}

/// `NdisFreeMemoryWithTagPriority`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisFreeMemoryWithTagPriority(_owner: Handle, block: *mut c_void, _tag: u32) {
    // SAFETY: checked there.
    unsafe { NdisFreeMemory(block, 0, 0) };
}

/// A timer object.
struct TimerObject {
    timer: UnsafeCell<Timer>,
    dpc: UnsafeCell<Dpc>,
    function: TimerFunction,
    context: UnsafeCell<*mut c_void>,
    default_context: *mut c_void,
}

unsafe extern "win64" fn timer_fired(_: *mut Dpc, object: *mut c_void, first: *mut c_void, second: *mut c_void) {
    // SAFETY: the context is the timer object, which is not freed while it is set.
    unsafe {
        let object = &*object.cast::<TimerObject>();
        (object.function)(first, *object.context.get(), second, ptr::null_mut());
    }
}

/// `NdisAllocateTimerObject`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAllocateTimerObject(
    owner: Handle,
    characteristics: *const TimerCharacteristics,
    handle: *mut Handle,
) -> NdisStatus {
    // SAFETY: the caller gives characteristics and a place for the handle.
    unsafe {
        let given = &*characteristics;
        let Some(function) = given.function.filter(|_| given.header.kind == object::TIMER_CHARACTERISTICS) else {
            return NDIS_STATUS_INVALID_PARAMETER;
        };
        let timer = Box::into_raw(Box::new(TimerObject {
            timer: UnsafeCell::new(core::mem::zeroed()),
            dpc: UnsafeCell::new(core::mem::zeroed()),
            function,
            context: UnsafeCell::new(given.context),
            default_context: given.context,
        }));
        KeInitializeTimer((*timer).timer.get());
        KeInitializeDpc((*timer).dpc.get(), Some(timer_fired), timer.cast());
        owned::add(Kind::Timer, timer as usize, owner);
        handle.write(timer.cast());
    }
    NDIS_STATUS_SUCCESS
}

/// `NdisSetTimerObject`: `period` in milliseconds. TRUE: it was set already. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisSetTimerObject(handle: Handle, due: i64, period: i32, context: *mut c_void) -> u8 {
    owned::check(Kind::Timer, handle as usize, "NdisSetTimerObject");
    // SAFETY: it is a timer object in use.
    unsafe {
        let timer = &*handle.cast::<TimerObject>();
        *timer.context.get() = if context.is_null() { timer.default_context } else { context };
        KeSetTimerEx(timer.timer.get(), due, period, timer.dpc.get())
    }
}

/// `NdisCancelTimerObject`. TRUE: it was set. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisCancelTimerObject(handle: Handle) -> u8 {
    owned::check(Kind::Timer, handle as usize, "NdisCancelTimerObject");
    // SAFETY: it is a timer object in use.
    unsafe { KeCancelTimer((*handle.cast::<TimerObject>()).timer.get()) }
}

/// `NdisFreeTimerObject`: it must not be set. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisFreeTimerObject(handle: Handle) {
    const CALL: &str = "NdisFreeTimerObject";
    owned::remove(Kind::Timer, handle as usize, CALL);
    // SAFETY: it was a timer object in use; its DPC ran or does not come any more.
    unsafe {
        let timer = handle.cast::<TimerObject>();
        if KeCancelTimer((*timer).timer.get()) != 0 {
            violation(CALL, format_args!("the timer {handle:p} is freed while it is set"));
        }
        crate::ke::KeFlushQueuedDpcs();
        drop(Box::from_raw(timer));
    }
}

/// A work item.
struct WorkItem {
    queued: AtomicBool,
}

type WorkRoutine = unsafe extern "win64" fn(context: *mut c_void, item: Handle);

/// `NdisAllocateIoWorkItem`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAllocateIoWorkItem(owner: Handle) -> Handle {
    let item = Box::into_raw(Box::new(WorkItem { queued: AtomicBool::new(false) }));
    owned::add(Kind::WorkItem, item as usize, owner);
    item.cast()
}

/// `NdisQueueIoWorkItem`: the routine may free or queue it again. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisQueueIoWorkItem(item: Handle, routine: WorkRoutine, context: *mut c_void) {
    const CALL: &str = "NdisQueueIoWorkItem";
    owned::check(Kind::WorkItem, item as usize, CALL);
    // SAFETY: it is a work item in use.
    if unsafe { (*item.cast::<WorkItem>()).queued.swap(true, Ordering::AcqRel) } {
        violation(CALL, format_args!("the work item {item:p} is queued already"));
    }
    let (item, context) = (item as usize, context as usize);
    work::queue(Box::new(move || {
        let item = item as Handle;
        // SAFETY: the routine is the driver's with the context it asked for; the item is not freed while it is queued.
        unsafe {
            (*item.cast::<WorkItem>()).queued.store(false, Ordering::Release);
            routine(context as *mut c_void, item);
        }
    }));
}

/// `NdisFreeIoWorkItem`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisFreeIoWorkItem(item: Handle) {
    const CALL: &str = "NdisFreeIoWorkItem";
    owned::remove(Kind::WorkItem, item as usize, CALL);
    // SAFETY: it was a work item in use.
    unsafe {
        let item = Box::from_raw(item.cast::<WorkItem>());
        if item.queued.load(Ordering::Acquire) {
            violation(CALL, format_args!("the work item is freed while it is queued"));
        }
    }
}

/// `NdisMGetDeviceProperty`: the device objects and the resources of an adapter. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisMGetDeviceProperty(
    handle: Handle,
    physical: *mut *mut c_void,
    functional: *mut *mut c_void,
    next: *mut *mut c_void,
    allocated: *mut *mut c_void,
    translated: *mut *mut c_void,
) {
    let adapter = adapter::of(handle, "NdisMGetDeviceProperty");
    let list = adapter.resource_copy.load(Ordering::Acquire);
    // SAFETY: the caller gives places or nulls.
    unsafe {
        for (place, value) in [
            (physical, adapter.pdo.cast::<c_void>()),
            (functional, adapter.fdo.cast()),
            (next, adapter.lower.cast()),
            (allocated, list.cast()),
            (translated, list.cast()),
        ] {
            if !place.is_null() {
                place.write(value);
            }
        }
    }
}

/// `NdisMQueryAdapterInstanceName`: the device's description, in memory that the caller frees with NdisFreeMemory.
/// IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisMQueryAdapterInstanceName(name: *mut NdisString, handle: Handle) -> NdisStatus {
    let adapter = adapter::of(handle, "NdisMQueryAdapterInstanceName");
    let text: alloc::vec::Vec<u16> = super::config::description(adapter.pdo).encode_utf16().collect();
    let bytes = text.len() as u16 * 2;
    // SAFETY: the caller gives a place; the block has the size.
    unsafe {
        let block = NdisAllocateMemoryWithTagPriority(handle, u32::from(bytes).max(2), TAG, 0).cast::<u16>();
        if block.is_null() {
            return NDIS_STATUS_RESOURCES;
        }
        ptr::copy_nonoverlapping(text.as_ptr(), block, text.len());
        name.write(NdisString { length: bytes, maximum_length: bytes, buffer: block });
    }
    NDIS_STATUS_SUCCESS
}

/// What `NdisWriteErrorLogEntry` does: the event goes to the log.
unsafe extern "win64" fn write_error(args: *const u64) -> u64 {
    // SAFETY: handle, code and count are fixed; as many values follow as the count says.
    unsafe {
        let (handle, code, count) = (args.read(), args.add(1).read() as u32, args.add(2).read() as u32 as usize);
        let values: alloc::vec::Vec<u64> = (0..count.min(16)).map(|at| args.add(3 + at).read()).collect();
        let name = adapter::find(handle as usize as Handle).map(|a| a.instance.clone()).unwrap_or_default();
        note(format_args!("ndis: {name}: error log entry {code:#010x} {values:x?}"));
    }
    0
}

crate::variadic! {
    /// `NdisWriteErrorLogEntry`. IRQL <= DISPATCH_LEVEL.
    pub fn NdisWriteErrorLogEntry => write_error;
}

/// `NdisGetRssProcessorInformation`: all processors, in the order of their numbers. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisGetRssProcessorInformation(
    _handle: Handle,
    info: *mut RssProcessorInfo,
    size: *mut usize,
) -> NdisStatus {
    let processors = crate::platform::platform().processors();
    let head = size_of::<RssProcessorInfo>().next_multiple_of(8);
    let needed = head + processors as usize * size_of::<RssProcessor>();
    // SAFETY: the caller gives a buffer of the size it says.
    unsafe {
        let room = size.read();
        size.write(needed);
        if room < needed {
            return NDIS_STATUS_BUFFER_TOO_SHORT;
        }
        info.write(RssProcessorInfo {
            header: Header::new(object::DEFAULT, 1, size_of::<RssProcessorInfo>()),
            flags: 0,
            base: (0, 0, 0),
            max_processors: processors,
            default_profile: 0,
            processors_offset: head as u32,
            processor_count: processors,
            processor_size: size_of::<RssProcessor>() as u32,
        });
        let list = info.cast::<u8>().add(head).cast::<RssProcessor>();
        for number in 0..processors as usize {
            list.add(number).write(RssProcessor {
                group: 0,
                number: number as u8,
                reserved: 0,
                preference: 0,
                alignment: 0,
            });
        }
    }
    NDIS_STATUS_SUCCESS
}

/// `NdisGroupActiveProcessorCount`. Any IRQL.
pub unsafe extern "win64" fn NdisGroupActiveProcessorCount(_group: u16) -> u32 {
    crate::platform::platform().processors()
}

/// `NdisMSleep`: microseconds. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn NdisMSleep(microseconds: u32) {
    let due = -(i64::from(microseconds) * 10);
    // SAFETY: the time lives through the call.
    unsafe { crate::ke::KeDelayExecutionThread(0, 0, &raw const due) };
}
