//! The kernel core: IRQL, spin locks, threads, waits, DPCs, timers, interrupts, processors, time, bug checks.

// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, non_upper_case_globals, ambiguous_glob_reexports, unused_qualifications)]
#![allow(clippy::missing_safety_doc)]

pub mod abi;
pub mod bugcheck;
pub mod cpu;
pub mod debug;
pub mod dpc;
pub mod interrupt;
pub mod irql;
pub mod kqueue;
pub mod object;
pub mod queue;
pub mod sched;
pub mod shared;
pub mod spinlock;
pub mod stack;
pub mod thread;
pub mod time;
pub mod timer;
pub mod wait;

pub use abi::{APC_LEVEL, CLOCK_LEVEL, DISPATCH_LEVEL, HIGH_LEVEL, IPI_LEVEL, Kirql, PASSIVE_LEVEL};
pub use bugcheck::{
    KeBugCheck, KeBugCheckEx, KeDeregisterBugCheckCallback, KeDeregisterBugCheckReasonCallback,
    KeInitializeCrashDumpHeader, KeRegisterBugCheckCallback, KeRegisterBugCheckReasonCallback, KiBugCheckData,
};
pub use cpu::{
    KeDeregisterProcessorChangeCallback, KeGetCurrentNodeNumber, KeGetCurrentProcessorNumber,
    KeGetCurrentProcessorNumberEx, KeGetProcessorIndexFromNumber, KeGetProcessorNumberFromIndex, KeIpiGenericCall,
    KeQueryActiveGroupCount, KeQueryActiveProcessorCount, KeQueryActiveProcessorCountEx, KeQueryActiveProcessors,
    KeQueryGroupAffinity, KeQueryHighestNodeNumber, KeQueryMaximumGroupCount, KeQueryMaximumProcessorCount,
    KeQueryMaximumProcessorCountEx, KeRegisterProcessorChangeCallback, KeRevertToUserAffinityThread,
    KeRevertToUserAffinityThreadEx, KeRevertToUserGroupAffinityThread, KeSetSystemAffinityThread,
    KeSetSystemAffinityThreadEx, KeSetSystemGroupAffinityThread,
};
pub use debug::*;
pub use dpc::*;
pub use interrupt::*;
pub use irql::*;
pub use object::*;
pub use queue::*;
pub use sched::{CLOCK_VECTOR, DISPATCH_VECTOR, IPI_VECTOR, Thread, initialize, run_processor};
pub use spinlock::*;
pub use thread::*;
pub use time::*;
pub use timer::*;
pub use wait::*;

/// `InitSafeBootMode`: 0 in a normal boot, 1 to 3 in a safe one; set by [`crate::pnp::boot`].
pub static mut InitSafeBootMode: u32 = 0;
/// `KeNumberProcessors`; set by [`start`].
pub static mut KeNumberProcessors: i8 = 1;
/// `NtBuildNumber`: 19041, a free build.
pub static NtBuildNumber: u32 = 0xf000_4a61;

/// Brings the core up: after the platform is installed, before any processor runs.
pub fn start() {
    // SAFETY: nothing else runs yet.
    unsafe { KeNumberProcessors = crate::platform::platform().processors() as i8 };
    crate::verifier::start();
    initialize();
}

/// Whether something lies in a range of addresses.
type Check = fn(usize, usize) -> bool;

/// What refers to a range of memory that is going: a rule's name, or `None`.
pub fn reference_into(start: usize, end: usize) -> Option<&'static str> {
    let checks: [(Check, &str); 5] = [
        (interrupt::any_in, "a connected interrupt"),
        (bugcheck::any_in, "a bug check callback"),
        (cpu::any_in, "a processor change callback"),
        (debug::any_in, "a debug print callback"),
        (notify::any_in, "a notify routine"),
    ];
    let queued = queued_in(start, end);
    queued.or_else(|| checks.into_iter().find(|(check, _)| check(start, end)).map(|(_, what)| what))
}

/// What is queued in a range of memory that is going: a DPC, or one whose routine lies there, or a timer. Any IRQL.
pub fn queued_in(start: usize, end: usize) -> Option<&'static str> {
    let mut dispatcher = sched::dispatcher();
    if dpc::any_in(&dispatcher, start, end) {
        return Some("a queued DPC");
    }
    timer::any_in(&mut dispatcher, start, end).then_some("a set timer")
}

crate::exports! {
    /// The core's names of ntoskrnl.exe.
    pub static EXPORTS in "ntoskrnl.exe";
    fn KeGetCurrentIrql;
    fn KfRaiseIrql;
    fn KeRaiseIrql;
    fn KeLowerIrql;
    fn KfLowerIrql = KeLowerIrql;
    fn KeRaiseIrqlToDpcLevel;
    fn KfAcquireSpinLock = KeAcquireSpinLockRaiseToDpc;
    fn KfReleaseSpinLock = KeReleaseSpinLock;
    fn KeInitializeSpinLock;
    fn KeAcquireSpinLockRaiseToDpc;
    fn KeAcquireSpinLockRaiseToSynch;
    fn KeReleaseSpinLock;
    fn KeAcquireSpinLockAtDpcLevel;
    fn KeReleaseSpinLockFromDpcLevel;
    fn KeTryToAcquireSpinLockAtDpcLevel;
    fn KeTestSpinLock;
    fn KeAcquireInStackQueuedSpinLock;
    fn KeReleaseInStackQueuedSpinLock;
    fn KeAcquireInStackQueuedSpinLockAtDpcLevel;
    fn KeReleaseInStackQueuedSpinLockFromDpcLevel;
    fn KeInitializeEvent;
    fn KeSetEvent;
    fn KePulseEvent;
    fn KeResetEvent;
    fn KeClearEvent;
    fn KeReadStateEvent;
    fn KeInitializeSemaphore;
    fn KeReleaseSemaphore;
    fn KeReadStateSemaphore;
    fn KeInitializeMutex;
    fn KeReleaseMutex;
    fn KeReadStateMutex;
    fn KeWaitForSingleObject;
    fn KeWaitForMutexObject;
    fn KeWaitForMultipleObjects;
    fn KeDelayExecutionThread;
    fn ZwYieldExecution;
    fn KeInitializeTimer;
    fn KeInitializeTimerEx;
    fn KeSetTimer;
    fn KeSetTimerEx;
    fn KeSetCoalescableTimer;
    fn KeCancelTimer;
    fn KeReadStateTimer;
    fn KeInitializeDpc;
    fn KeInitializeThreadedDpc;
    fn KeInsertQueueDpc;
    fn KeRemoveQueueDpc;
    fn KeSetImportanceDpc;
    fn KeSetTargetProcessorDpc;
    fn KeSetTargetProcessorDpcEx;
    fn KeFlushQueuedDpcs;
    fn KeIsExecutingDpc;
    fn KeAcquireInterruptSpinLock;
    fn KeReleaseInterruptSpinLock;
    fn KeSynchronizeExecution;
    fn KeGetCurrentProcessorNumber;
    fn KeGetCurrentProcessorNumberEx;
    fn KeGetProcessorIndexFromNumber;
    fn KeGetProcessorNumberFromIndex;
    fn KeQueryActiveProcessorCount;
    fn KeQueryActiveProcessorCountEx;
    fn KeQueryMaximumProcessorCount;
    fn KeQueryMaximumProcessorCountEx;
    fn KeQueryActiveProcessors;
    fn KeQueryGroupAffinity;
    fn KeQueryActiveGroupCount;
    fn KeQueryMaximumGroupCount;
    fn KeQueryHighestNodeNumber;
    fn KeGetCurrentNodeNumber;
    fn KeIpiGenericCall;
    fn KeSetSystemAffinityThread;
    fn KeSetSystemAffinityThreadEx;
    fn KeRevertToUserAffinityThread;
    fn KeRevertToUserAffinityThreadEx;
    fn KeSetSystemGroupAffinityThread;
    fn KeRevertToUserGroupAffinityThread;
    fn KeRegisterProcessorChangeCallback;
    fn KeDeregisterProcessorChangeCallback;
    fn KeQueryInterruptTime;
    fn KeQueryInterruptTimePrecise;
    fn KeQueryUnbiasedInterruptTime;
    fn KeQuerySystemTime = KeQuerySystemTimePrecise;
    fn KeQuerySystemTimePrecise;
    fn KeQueryTickCount;
    fn KeQueryTimeIncrement;
    fn ExSystemTimeToLocalTime;
    fn ExLocalTimeToSystemTime = ExSystemTimeToLocalTime;
    fn ExSetTimerResolution;
    fn KeInitializeDeviceQueue;
    fn KeInsertDeviceQueue;
    fn KeInsertByKeyDeviceQueue;
    fn KeRemoveDeviceQueue;
    fn KeRemoveByKeyDeviceQueue;
    fn KeRemoveByKeyDeviceQueueIfBusy = KeRemoveByKeyDeviceQueue;
    fn KeRemoveEntryDeviceQueue;
    fn KeInitializeQueue = kqueue::KeInitializeQueue;
    fn KeInsertQueue = kqueue::KeInsertQueue;
    fn KeInsertHeadQueue = kqueue::KeInsertHeadQueue;
    fn KeRemoveQueue = kqueue::KeRemoveQueue;
    fn KeRemoveQueueEx = kqueue::KeRemoveQueueEx;
    fn KeReadStateQueue = kqueue::KeReadStateQueue;
    fn KeRundownQueue = kqueue::KeRundownQueue;
    fn KeRegisterBugCheckCallback;
    fn KeDeregisterBugCheckCallback;
    fn KeRegisterBugCheckReasonCallback;
    fn KeDeregisterBugCheckReasonCallback;
    fn KeInitializeCrashDumpHeader;
    fn KeBugCheck;
    fn KeBugCheckEx;
    fn PsCreateSystemThread;
    fn PsTerminateSystemThread;
    fn KeGetCurrentThread;
    fn PsGetCurrentThread = KeGetCurrentThread;
    fn PsGetCurrentThreadId;
    fn PsGetThreadId;
    fn PsGetThreadProcessId;
    fn PsIsThreadTerminating;
    fn PsGetCurrentProcess;
    fn KeStackAttachProcess = thread::KeStackAttachProcess;
    fn KeUnstackDetachProcess = thread::KeUnstackDetachProcess;
    fn KeGetRecommendedSharedDataAlignment = cpu::KeGetRecommendedSharedDataAlignment;
    fn KeQueryNodeActiveAffinity = cpu::KeQueryNodeActiveAffinity;
    fn IoGetCurrentProcess = PsGetCurrentProcess;
    fn PsGetCurrentProcessId;
    fn PsGetProcessId;
    fn PsGetProcessImageFileName;
    fn PsIsSystemThread;
    fn PsGetCurrentProcessSessionId;
    fn KeSetPriorityThread;
    fn KeQueryPriorityThread;
    fn KeSetBasePriorityThread;
    fn KeEnterCriticalRegion;
    fn KeLeaveCriticalRegion;
    fn KeAreApcsDisabled;
    fn KeAreAllApcsDisabled;
    fn PsSetCreateProcessNotifyRoutine;
    fn PsSetCreateThreadNotifyRoutine;
    fn PsRemoveCreateThreadNotifyRoutine;
    fn PsSetLoadImageNotifyRoutine;
    fn PsRemoveLoadImageNotifyRoutine;
    fn DbgPrint;
    fn RtlAssert = debug::RtlAssert;
    fn DbgPrintEx;
    fn vDbgPrintEx;
    fn vDbgPrintExWithPrefix;
    fn DbgQueryDebugFilterState;
    fn DbgSetDebugFilterState;
    fn DbgSetDebugPrintCallback;
    fn DbgBreakPoint;
    data InitSafeBootMode;
    data KiBugCheckData;
    data KeNumberProcessors;
    data NtBuildNumber;
}

crate::exports! {
    /// The core's names of hal.dll.
    pub static HAL_EXPORTS in "hal.dll";
    fn KeQueryPerformanceCounter;
    fn KeStallExecutionProcessor;
    fn KeRaiseIrqlToSynchLevel;
}
