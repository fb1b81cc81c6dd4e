//! Processors: their numbers, calls between them, registered callbacks for changes.

use super::abi::*;
use super::sched::{self, IPI_VECTOR};
use super::spinlock;
use crate::platform::{Point, platform};
use crate::status::*;
use crate::sync::IrqLock;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// `KIPI_BROADCAST_WORKER`.
pub type BroadcastWorker = unsafe extern "win64" fn(argument: usize) -> usize;

/// Bits of all processors.
pub fn all_processors() -> u64 {
    match platform().processors() {
        64.. => u64::MAX,
        count => (1 << count) - 1,
    }
}

/// `KeGetCurrentProcessorNumber`. Any IRQL.
pub unsafe extern "win64" fn KeGetCurrentProcessorNumber() -> u32 {
    platform().current_processor()
}

/// `KeGetCurrentProcessorNumberEx`: returns the index and writes the number if asked. Any IRQL.
pub unsafe extern "win64" fn KeGetCurrentProcessorNumberEx(number: *mut ProcessorNumber) -> u32 {
    let index = platform().current_processor();
    if !number.is_null() {
        // SAFETY: the caller gives a place.
        unsafe { number.write(ProcessorNumber { group: 0, number: index as u8, reserved: 0 }) }
    }
    index
}

/// `KeGetProcessorIndexFromNumber`: 0xffffffff if there is no such processor. Any IRQL.
pub unsafe extern "win64" fn KeGetProcessorIndexFromNumber(number: *const ProcessorNumber) -> u32 {
    // SAFETY: the caller gives a number.
    let number = unsafe { *number };
    let exists = number.group == 0 && number.reserved == 0 && u32::from(number.number) < platform().processors();
    if exists { u32::from(number.number) } else { u32::MAX }
}

/// `KeGetProcessorNumberFromIndex`. Any IRQL.
pub unsafe extern "win64" fn KeGetProcessorNumberFromIndex(index: u32, number: *mut ProcessorNumber) -> NtStatus {
    if index >= platform().processors() {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the caller gives a place.
    unsafe { number.write(ProcessorNumber { group: 0, number: index as u8, reserved: 0 }) };
    STATUS_SUCCESS
}

/// Whether a group number stands for processors here: group 0, or ALL_PROCESSOR_GROUPS.
fn known_group(group: u16) -> bool {
    matches!(group, 0 | 0xffff)
}

/// `KeQueryActiveProcessorCount`: all are active. Any IRQL.
pub unsafe extern "win64" fn KeQueryActiveProcessorCount(affinity: *mut u64) -> u32 {
    if !affinity.is_null() {
        // SAFETY: the caller gives a place.
        unsafe { affinity.write(all_processors()) }
    }
    platform().processors()
}

/// `KeQueryActiveProcessorCountEx`. Any IRQL.
pub unsafe extern "win64" fn KeQueryActiveProcessorCountEx(group: u16) -> u32 {
    if known_group(group) { platform().processors() } else { 0 }
}

/// `KeQueryMaximumProcessorCount`. Any IRQL.
pub unsafe extern "win64" fn KeQueryMaximumProcessorCount() -> u32 {
    platform().processors()
}

/// `KeQueryMaximumProcessorCountEx`. Any IRQL.
pub unsafe extern "win64" fn KeQueryMaximumProcessorCountEx(group: u16) -> u32 {
    if known_group(group) { platform().processors() } else { 0 }
}

/// `KeQueryActiveProcessors`. Any IRQL.
pub unsafe extern "win64" fn KeQueryActiveProcessors() -> u64 {
    all_processors()
}

/// `KeQueryGroupAffinity`. Any IRQL.
pub unsafe extern "win64" fn KeQueryGroupAffinity(group: u16) -> u64 {
    if group == 0 { all_processors() } else { 0 }
}

/// `KeQueryActiveGroupCount`. Any IRQL.
pub unsafe extern "win64" fn KeQueryActiveGroupCount() -> u16 {
    1
}

/// `KeQueryMaximumGroupCount`. Any IRQL.
pub unsafe extern "win64" fn KeQueryMaximumGroupCount() -> u16 {
    1
}

/// `KeQueryHighestNodeNumber`: one node. Any IRQL.
pub unsafe extern "win64" fn KeQueryHighestNodeNumber() -> u16 {
    0
}

/// `KeGetCurrentNodeNumber`. Any IRQL.
pub unsafe extern "win64" fn KeGetCurrentNodeNumber() -> u16 {
    0
}

/// What interprocessor calls share.
struct Call {
    routine: AtomicUsize,
    argument: AtomicUsize,
    arrived: AtomicU32,
    go: AtomicU32,
    done: AtomicU32,
}

static CALL: Call = Call {
    routine: AtomicUsize::new(0),
    argument: AtomicUsize::new(0),
    arrived: AtomicU32::new(0),
    go: AtomicU32::new(0),
    done: AtomicU32::new(0),
};
/// One call at a time.
static mut CALL_LOCK: usize = 0;

fn spin_until(condition: impl Fn() -> bool) {
    while !condition() {
        platform().preempt(Point::Spin);
        core::hint::spin_loop();
    }
}

/// The interprocessor interrupt, with interrupts disabled at IPI_LEVEL.
pub(super) fn take_ipi() {
    let routine = CALL.routine.load(Ordering::Acquire);
    if routine == 0 {
        return;
    }
    let turn = CALL.go.load(Ordering::Acquire);
    CALL.arrived.fetch_add(1, Ordering::AcqRel);
    spin_until(|| CALL.go.load(Ordering::Acquire) != turn);
    // SAFETY: the initiator stored a broadcast worker and waits until all are done.
    unsafe {
        let routine = core::mem::transmute::<usize, BroadcastWorker>(routine);
        routine(CALL.argument.load(Ordering::Acquire));
    }
    CALL.done.fetch_add(1, Ordering::AcqRel);
}

/// `KeIpiGenericCall`: runs the worker on all processors at once at IPI_LEVEL. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeIpiGenericCall(routine: BroadcastWorker, argument: usize) -> usize {
    let platform = platform();
    // SAFETY: the caller's contract; the lock is a word that only this function uses.
    unsafe {
        let old = super::KfRaiseIrql(12);
        spinlock::acquire(&raw mut CALL_LOCK);
        let own = platform.current_processor();
        let others = platform.processors() - 1;
        CALL.arrived.store(0, Ordering::Relaxed);
        CALL.done.store(0, Ordering::Relaxed);
        CALL.argument.store(argument, Ordering::Relaxed);
        CALL.routine.store(routine as usize, Ordering::Release);
        for cpu in (0..platform.processors()).filter(|&cpu| cpu != own) {
            platform.request_interrupt(cpu, IPI_VECTOR);
        }
        spin_until(|| CALL.arrived.load(Ordering::Acquire) == others);
        platform.set_irql(IPI_LEVEL);
        CALL.go.fetch_add(1, Ordering::AcqRel);
        let result = routine(argument);
        spin_until(|| CALL.done.load(Ordering::Acquire) == others);
        CALL.routine.store(0, Ordering::Release);
        platform.set_irql(12);
        spinlock::release(&raw mut CALL_LOCK);
        super::KeLowerIrql(old);
        result
    }
}

unsafe extern "win64" fn nothing(_: usize) -> usize {
    0
}

/// Returns when every processor has been outside of interrupt service once. IRQL <= DISPATCH_LEVEL.
pub(super) fn synchronize() {
    // SAFETY: a worker that does nothing. Processors take it when they leave device IRQLs only if that is below
    // IPI_LEVEL with interrupts on, so a routine that was being looked up has been called by then.
    unsafe { KeIpiGenericCall(nothing, 0) };
    let thread = sched::current();
    if thread.is_null() || platform().irql() > APC_LEVEL {
        return;
    }
    // Visiting each processor as a thread proves that no interrupt is in service there.
    // SAFETY: the current thread is valid.
    let before = unsafe { (*thread).affinity };
    for cpu in 0..platform().processors() {
        sched::set_affinity(1 << cpu);
    }
    sched::set_affinity(before);
}

/// `KeGetRecommendedSharedDataAlignment`: a line of the cache. Any IRQL.
pub unsafe extern "win64" fn KeGetRecommendedSharedDataAlignment() -> u32 {
    64
}

/// `KeQueryNodeActiveAffinity`: there is one node, with all processors. Either result may be NULL. Any IRQL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kequerynodeactiveaffinity>
pub unsafe extern "win64" fn KeQueryNodeActiveAffinity(node: u16, affinity: *mut GroupAffinity, count: *mut u16) {
    let mask = if node == 0 { all_processors() } else { 0 };
    // SAFETY: the caller gives places or NULL.
    unsafe {
        if let Some(affinity) = affinity.as_mut() {
            *affinity = GroupAffinity { mask, group: 0, reserved: [0; 3] };
        }
        if let Some(count) = count.as_mut() {
            *count = mask.count_ones() as u16;
        }
    }
}

/// `KeSetSystemAffinityThread`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeSetSystemAffinityThread(affinity: u64) {
    // SAFETY: as below.
    unsafe { KeSetSystemAffinityThreadEx(affinity) };
}

/// `KeSetSystemAffinityThreadEx`: returns the affinity before. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeSetSystemAffinityThreadEx(affinity: u64) -> u64 {
    let thread = sched::current();
    // SAFETY: the current thread is valid.
    let old = unsafe { (*thread).affinity };
    let wanted = affinity & all_processors();
    if wanted != 0 {
        sched::set_affinity(wanted);
    }
    old
}

/// `KeRevertToUserAffinityThread`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeRevertToUserAffinityThread() {
    // SAFETY: the current thread is valid.
    sched::set_affinity(unsafe { (*sched::current()).user_affinity });
}

/// `KeRevertToUserAffinityThreadEx`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeRevertToUserAffinityThreadEx(affinity: u64) {
    // SAFETY: as above.
    let affinity = if affinity == 0 { unsafe { (*sched::current()).user_affinity } } else { affinity };
    sched::set_affinity(affinity & all_processors());
}

/// `KeSetSystemGroupAffinityThread`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeSetSystemGroupAffinityThread(
    affinity: *const GroupAffinity,
    previous: *mut GroupAffinity,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let wanted = if (*affinity).group == 0 { (*affinity).mask } else { 0 };
        let old = KeSetSystemAffinityThreadEx(wanted);
        if !previous.is_null() {
            previous.write(GroupAffinity { mask: old, group: 0, reserved: [0; 3] });
        }
    }
}

/// `KeRevertToUserGroupAffinityThread`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeRevertToUserGroupAffinityThread(previous: *const GroupAffinity) {
    // SAFETY: the caller's contract.
    unsafe { KeRevertToUserAffinityThreadEx((*previous).mask) }
}

/// `KE_PROCESSOR_CHANGE_NOTIFY_CONTEXT`.
#[repr(C)]
pub struct ProcessorChange {
    /// 0: start, 1: complete, 2: failure.
    pub state: i32,
    /// Index.
    pub index: u32,
    /// An NTSTATUS.
    pub status: NtStatus,
    /// Number.
    pub number: ProcessorNumber,
}

/// `PROCESSOR_CALLBACK_FUNCTION`.
pub type ProcessorCallback =
    unsafe extern "win64" fn(context: *mut c_void, change: *mut ProcessorChange, status: *mut NtStatus);

struct Registration(*mut c_void, ProcessorCallback);
// SAFETY: a name and a routine, both of no processor.
unsafe impl Send for Registration {}
static CHANGES: IrqLock<Vec<Registration>> = IrqLock::new(Vec::new());

/// `KeRegisterProcessorChangeCallback`. Processors do not change here; with KE_PROCESSOR_CHANGE_ADD_EXISTING (1) the
/// callback is called for those that are there. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeRegisterProcessorChangeCallback(
    callback: ProcessorCallback,
    context: *mut c_void,
    flags: u32,
) -> *mut c_void {
    let handle = Box::into_raw(Box::new(0_u64)).cast::<c_void>();
    if flags & 1 != 0 {
        for state in 0..2 {
            for index in 0..platform().processors() {
                let number = ProcessorNumber { group: 0, number: index as u8, reserved: 0 };
                let mut change = ProcessorChange { state, index, status: STATUS_SUCCESS, number };
                let mut status = STATUS_SUCCESS;
                // SAFETY: the driver's callback with valid arguments.
                unsafe { callback(context, &raw mut change, &raw mut status) };
                if status < 0 {
                    // SAFETY: made above and given to nobody.
                    drop(unsafe { Box::from_raw(handle.cast::<u64>()) });
                    return core::ptr::null_mut();
                }
            }
        }
    }
    CHANGES.lock().push(Registration(handle, callback));
    handle
}

/// `KeDeregisterProcessorChangeCallback`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeDeregisterProcessorChangeCallback(handle: *mut c_void) {
    let mut changes = CHANGES.lock();
    let before = changes.len();
    changes.retain(|registration| !core::ptr::eq(registration.0, handle));
    if changes.len() != before {
        // SAFETY: it was on the list, so it came from the registration above.
        drop(unsafe { Box::from_raw(handle.cast::<u64>()) });
    }
}

/// Whether a registered callback lies in a range of memory that is going.
pub fn any_in(start: usize, end: usize) -> bool {
    CHANGES.lock().iter().any(|registration| (start..end).contains(&(registration.1 as usize)))
}
