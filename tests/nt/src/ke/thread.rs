//! What drivers see of threads: `Ps*`, priorities, critical regions.

use super::sched::{self, StartRoutine, Thread};
use crate::ob;
use crate::platform::platform;
use crate::status::*;
use crate::verifier;
use core::ffi::c_void;

/// The one process: System. Its first bytes are a dispatcher header that is never signalled.
static SYSTEM_PROCESS: [u64; 64] = [3; 64];

unsafe fn released(thread: *mut Thread) {
    // SAFETY: the thread is an object, and this is the reference that its running held.
    unsafe { ob::ObfDereferenceObject(thread.cast()) };
}

/// Makes and starts a system thread; the caller gets a reference. IRQL = PASSIVE_LEVEL.
///
/// # Errors
/// STATUS_INSUFFICIENT_RESOURCES: no memory for it.
///
/// # Safety
/// `start(context)` may be called at PASSIVE_LEVEL.
pub unsafe fn create(start: StartRoutine, context: *mut c_void, priority: u8) -> Result<*mut Thread, NtStatus> {
    let thread = ob::allocate(ob::Kind::Thread, size_of::<Thread>(), None).cast::<Thread>();
    if thread.is_null() {
        return Err(STATUS_INSUFFICIENT_RESOURCES);
    }
    // SAFETY: memory for a thread, with one reference for the thread's own life and one for the caller.
    unsafe {
        ob::ObfReferenceObject(thread.cast());
        if sched::start_thread(thread, start, context, priority, released).is_none() {
            ob::ObfDereferenceObject(thread.cast());
            ob::ObfDereferenceObject(thread.cast());
            return Err(STATUS_INSUFFICIENT_RESOURCES);
        }
    }
    Ok(thread)
}

/// `PsCreateSystemThread`. IRQL = PASSIVE_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-pscreatesystemthread>
pub unsafe extern "win64" fn PsCreateSystemThread(
    handle: *mut *mut c_void,
    access: u32,
    _attributes: *mut c_void,
    _process: *mut c_void,
    client_id: *mut c_void,
    start: StartRoutine,
    context: *mut c_void,
) -> NtStatus {
    // SAFETY: the caller's contract.
    unsafe {
        match create(start, context, sched::DEFAULT_PRIORITY) {
            Ok(thread) => {
                if !client_id.is_null() {
                    client_id.cast::<[usize; 2]>().write([4, (*thread).id as usize]);
                }
                handle.write(ob::handle::insert(thread.cast(), access));
                STATUS_SUCCESS
            }
            Err(status) => status,
        }
    }
}

/// `PsTerminateSystemThread`: does not return. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn PsTerminateSystemThread(status: NtStatus) -> NtStatus {
    // SAFETY: the caller ends itself.
    unsafe { sched::exit(status) }
}

/// `KeGetCurrentThread` (and PsGetCurrentThread). Any IRQL.
pub unsafe extern "win64" fn KeGetCurrentThread() -> *mut Thread {
    sched::current()
}

/// `PsGetCurrentThreadId`. Any IRQL.
pub unsafe extern "win64" fn PsGetCurrentThreadId() -> *mut c_void {
    // SAFETY: the current thread is valid.
    unsafe { (*sched::current()).id as usize as *mut c_void }
}

/// `PsGetThreadId`. Any IRQL.
pub unsafe extern "win64" fn PsGetThreadId(thread: *mut Thread) -> *mut c_void {
    // SAFETY: the caller gives a thread.
    unsafe { (*thread).id as usize as *mut c_void }
}

/// `PsGetThreadProcessId`: 4, the System process. Any IRQL.
pub unsafe extern "win64" fn PsGetThreadProcessId(_thread: *mut Thread) -> *mut c_void {
    4_usize as *mut c_void
}

/// `PsIsThreadTerminating`. Any IRQL.
pub unsafe extern "win64" fn PsIsThreadTerminating(thread: *mut Thread) -> u8 {
    // SAFETY: the caller gives a thread that it holds a reference to.
    u8::from(unsafe { (*thread).state == sched::State::Terminated })
}

/// `PsGetCurrentProcess` (and IoGetCurrentProcess): System. Any IRQL.
pub unsafe extern "win64" fn PsGetCurrentProcess() -> *mut c_void {
    (&raw const SYSTEM_PROCESS).cast_mut().cast()
}

/// `KAPC_STATE`: the process comes behind two list heads.
#[repr(C)]
pub struct ApcState {
    lists: [usize; 4],
    process: *mut c_void,
    flags: [u8; 8],
}

/// `KeStackAttachProcess`: there is one process, whose memory every thread has. IRQL <= APC_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-kestackattachprocess>
pub unsafe extern "win64" fn KeStackAttachProcess(process: *mut c_void, state: *mut ApcState) {
    // SAFETY: the caller gives a process, and room for the state.
    unsafe {
        if process != PsGetCurrentProcess() {
            verifier::violation("KeStackAttachProcess", format_args!("{process:p} is no process"));
        }
        state.write(ApcState { lists: [0; 4], process, flags: [0; 8] });
    }
}

/// `KeUnstackDetachProcess`: once for each [`KeStackAttachProcess`]. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeUnstackDetachProcess(state: *mut ApcState) {
    // SAFETY: the caller gives the state that it was given.
    let attached = unsafe { core::mem::replace(&mut (*state).process, core::ptr::null_mut()) };
    // SAFETY: no pointer goes in.
    if attached != unsafe { PsGetCurrentProcess() } {
        verifier::violation("KeUnstackDetachProcess", format_args!("the state at {state:p} is not that of an attach"));
    }
}

/// `PsGetCurrentProcessId`: 4, the System process. Any IRQL.
pub unsafe extern "win64" fn PsGetCurrentProcessId() -> *mut c_void {
    4_usize as *mut c_void
}

/// `PsGetProcessId`. Any IRQL.
pub unsafe extern "win64" fn PsGetProcessId(_process: *mut c_void) -> *mut c_void {
    4_usize as *mut c_void
}

/// `PsGetProcessImageFileName`: at most 15 characters. Any IRQL.
pub unsafe extern "win64" fn PsGetProcessImageFileName(_process: *mut c_void) -> *const u8 {
    c"System".as_ptr().cast()
}

/// `PsIsSystemThread`: all are. Any IRQL.
pub unsafe extern "win64" fn PsIsSystemThread(_thread: *mut Thread) -> u8 {
    1
}

/// `PsGetVersion`'s neighbour `PsGetCurrentProcessSessionId`: session 0. Any IRQL.
pub unsafe extern "win64" fn PsGetCurrentProcessSessionId() -> u32 {
    0
}

/// `KeSetPriorityThread`: returns the old priority. LOW_PRIORITY is the zero page thread's alone: a driver that asks for
/// it gets the lowest that there is besides. IRQL <= DISPATCH_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kesetprioritythread>
pub unsafe extern "win64" fn KeSetPriorityThread(thread: *mut Thread, priority: i32) -> i32 {
    if !(0..=31).contains(&priority) {
        verifier::violation("KeSetPriorityThread", format_args!("the priority {priority} is not one of 0 to 31"));
    }
    // SAFETY: the caller gives a thread.
    i32::from(unsafe { sched::set_priority(thread, priority.max(1) as u8) })
}

/// `KeQueryPriorityThread`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeQueryPriorityThread(thread: *mut Thread) -> i32 {
    // SAFETY: the caller gives a thread.
    i32::from(unsafe { (*thread).priority })
}

/// `KeSetBasePriorityThread`: the increment is applied to the middle of the class. Returns the old increment.
pub unsafe extern "win64" fn KeSetBasePriorityThread(thread: *mut Thread, increment: i32) -> i32 {
    let base = i32::from(sched::DEFAULT_PRIORITY);
    // SAFETY: the caller gives a thread.
    i32::from(unsafe { sched::set_priority(thread, (base + increment).clamp(1, 31) as u8) }) - base
}

/// `KeEnterCriticalRegion`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeEnterCriticalRegion() {
    // SAFETY: the current thread is valid and only it changes this field here.
    unsafe { (*sched::current()).apc_disable -= 1 }
}

/// `KeLeaveCriticalRegion`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeLeaveCriticalRegion() {
    // SAFETY: as above.
    unsafe {
        let thread = sched::current();
        if (*thread).apc_disable >= 0 {
            verifier::violation("KeLeaveCriticalRegion", format_args!("left more often than entered"));
        }
        (*thread).apc_disable += 1;
    }
}

/// `KeAreApcsDisabled`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn KeAreApcsDisabled() -> u8 {
    // SAFETY: as above.
    u8::from(unsafe { (*sched::current()).apc_disable != 0 })
}

/// `KeAreAllApcsDisabled`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeAreAllApcsDisabled() -> u8 {
    u8::from(platform().irql() >= super::APC_LEVEL)
}

/// `PsSetCreateProcessNotifyRoutine`: no process starts here, so the routine is only noted. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn PsSetCreateProcessNotifyRoutine(routine: *const c_void, remove: u8) -> NtStatus {
    notify::change(&notify::PROCESS, routine, remove != 0)
}

/// `PsSetCreateThreadNotifyRoutine`: as for processes.
pub unsafe extern "win64" fn PsSetCreateThreadNotifyRoutine(routine: *const c_void) -> NtStatus {
    notify::change(&notify::THREAD, routine, false)
}

/// `PsRemoveCreateThreadNotifyRoutine`.
pub unsafe extern "win64" fn PsRemoveCreateThreadNotifyRoutine(routine: *const c_void) -> NtStatus {
    notify::change(&notify::THREAD, routine, true)
}

/// `PsSetLoadImageNotifyRoutine`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn PsSetLoadImageNotifyRoutine(routine: *const c_void) -> NtStatus {
    notify::change(&notify::IMAGE, routine, false)
}

/// `PsRemoveLoadImageNotifyRoutine`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn PsRemoveLoadImageNotifyRoutine(routine: *const c_void) -> NtStatus {
    notify::change(&notify::IMAGE, routine, true)
}

/// The routines that want to know of images, processes and threads.
pub mod notify {
    use crate::status::*;
    use crate::sync::IrqLock;
    use alloc::vec::Vec;
    use core::ffi::c_void;

    /// Routines of one kind, by address.
    pub type List = IrqLock<Vec<usize>>;
    /// Of processes.
    pub static PROCESS: List = IrqLock::new(Vec::new());
    /// Of threads.
    pub static THREAD: List = IrqLock::new(Vec::new());
    /// Of images: the loader calls them.
    pub static IMAGE: List = IrqLock::new(Vec::new());

    /// Adds or removes a routine.
    pub fn change(list: &List, routine: *const c_void, remove: bool) -> NtStatus {
        let mut list = list.lock();
        let at = list.iter().position(|&r| r == routine as usize);
        match (at, remove) {
            (Some(at), true) => {
                list.remove(at);
                STATUS_SUCCESS
            }
            (None, true) => STATUS_PROCEDURE_NOT_FOUND,
            (Some(_), false) => STATUS_INVALID_PARAMETER,
            (None, false) => {
                list.push(routine as usize);
                STATUS_SUCCESS
            }
        }
    }

    /// Whether a routine lies in a range of memory that is going.
    pub fn any_in(start: usize, end: usize) -> bool {
        [&PROCESS, &THREAD, &IMAGE].iter().any(|list| list.lock().iter().any(|r| (start..end).contains(r)))
    }
}
