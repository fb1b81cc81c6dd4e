//! The verifier, always on: rules that Driver Verifier and the documentation give, checked on every call that a driver
//! makes. A broken rule ends the run with a report: which driver, which offset, which rule.

use crate::ke::abi::*;
use crate::ke::{bugcheck, sched};
use crate::loader;
use crate::platform::{Point, platform};
use crate::sync::IrqLock;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use hashbrown::HashSet;
use rustc_hash::FxBuildHasher;

/// DRIVER_VERIFIER_DETECTED_VIOLATION.
const DETECTED: u32 = 0xc4;
/// DRIVER_IRQL_NOT_LESS_OR_EQUAL.
const IRQL_NOT_LESS: u32 = 0xd1;
/// DPC_WATCHDOG_VIOLATION.
const DPC_WATCHDOG: u32 = 0x133;
/// A DPC may run this long, in 100 ns units.
const DPC_BUDGET: u64 = 20_000_000;
/// Processors that are kept book of.
const CPUS: usize = 64;
/// Spin locks that a processor may hold at once.
const LOCKS: usize = 16;

/// Address behind the last call that a driver made, by processor.
static LAST_CALL: [AtomicUsize; CPUS] = [const { AtomicUsize::new(0) }; CPUS];
/// Spin locks held, by processor.
static HELD: [[AtomicUsize; LOCKS]; CPUS] = [const { [const { AtomicUsize::new(0) }; LOCKS] }; CPUS];
/// How many of them.
static COUNT: [AtomicUsize; CPUS] = [const { AtomicUsize::new(0) }; CPUS];
/// See [`Order`].
static ORDER: IrqLock<Order> =
    IrqLock::new(Order { pairs: HashSet::with_hasher(FxBuildHasher), locks: BTreeSet::new() });
/// Longest DPC so far, in 100 ns units.
static LONGEST_DPC: AtomicU64 = AtomicU64::new(0);
static DPCS: AtomicU64 = AtomicU64::new(0);
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
static SPURIOUS: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);
/// A report is being made: what it reads is nobody's access.
static REPORTS: AtomicBool = AtomicBool::new(false);

/// What is known of the order in which locks are taken.
struct Order {
    /// The second was taken with the first held.
    pairs: HashSet<(usize, usize), FxBuildHasher>,
    /// Every lock of a pair, so that memory without one is told at once.
    locks: BTreeSet<usize>,
}

/// Figures of the run so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Calls from drivers.
    pub calls: u64,
    /// DPCs that ran.
    pub dpcs: u64,
    /// The longest of them, in 100 ns units.
    pub longest_dpc: u64,
    /// Device interrupts delivered.
    pub interrupts: u64,
    /// Of these, with nobody connected.
    pub spurious: u64,
}

/// Figures of the run so far.
pub fn figures() -> Figures {
    Figures {
        calls: CALLS.load(Ordering::Relaxed),
        dpcs: DPCS.load(Ordering::Relaxed),
        longest_dpc: LONGEST_DPC.load(Ordering::Relaxed),
        interrupts: INTERRUPTS.load(Ordering::Relaxed),
        spurious: SPURIOUS.load(Ordering::Relaxed),
    }
}

/// Prepares the book-keeping. Before any driver is loaded.
pub(crate) fn start() {
    for slot in LAST_CALL.iter().chain(HELD.iter().flatten()).chain(&COUNT) {
        slot.store(0, Ordering::Relaxed);
    }
}

fn cpu() -> usize {
    platform().current_processor() as usize % CPUS
}

/// A driver broke a rule: ends the run. Any IRQL.
pub fn violation(rule: &str, detail: fmt::Arguments<'_>) -> ! {
    stop(DETECTED, rule, detail)
}

fn stop(code: u32, rule: &str, detail: fmt::Arguments<'_>) -> ! {
    let mut report = String::new();
    let _ = writeln!(report, "violation: {rule}: {detail}");
    bugcheck::stop(code, [0; 4], report)
}

pub(crate) fn irql_change(rule: &str, old: Kirql, new: Kirql) -> ! {
    stop(DETECTED, rule, format_args!("from {old} to {new}"))
}

pub(crate) fn irql_violation(what: &str, irql: Kirql, most: Kirql) -> ! {
    stop(DETECTED, "IRQL", format_args!("{what} at IRQL {irql}, allowed up to {most}"))
}

pub(crate) fn lock_violation(rule: &str, lock: usize) -> ! {
    let place = loader::describe(lock);
    stop(DETECTED, "spin lock", format_args!("{rule}: {lock:#x} {place}"))
}

/// A spin lock was taken by this processor.
pub(crate) fn lock_taken(lock: usize) {
    let cpu = cpu();
    // An interrupt between this and the end takes and gives back its own locks.
    let count = COUNT[cpu].load(Ordering::Relaxed);
    COUNT[cpu].store(count + 1, Ordering::Relaxed);
    let held = &HELD[cpu];
    if count == 0 {
        held[0].store(lock, Ordering::Relaxed);
        return;
    }
    let (mut free, mut left) = (None, count);
    for slot in held {
        if left == 0 && free.is_some() {
            break;
        }
        let other = slot.load(Ordering::Relaxed);
        if other == 0 {
            free.get_or_insert(slot);
            continue;
        }
        left = left.saturating_sub(1);
        let mut order = ORDER.lock();
        // One that is known was judged when it came to be.
        if order.pairs.contains(&(other, lock)) {
            continue;
        }
        if order.pairs.contains(&(lock, other)) {
            drop(order);
            lock_violation("taken with another one held that was once taken after it (lock order)", lock);
        }
        order.pairs.insert((other, lock));
        order.locks.extend([lock, other]);
    }
    match free {
        Some(slot) => slot.store(lock, Ordering::Relaxed),
        None => lock_violation("too many spin locks held at once", lock),
    }
}

/// A spin lock is about to be given back by this processor.
pub(crate) fn lock_released(lock: usize) {
    let cpu = cpu();
    for slot in &HELD[cpu] {
        if slot.load(Ordering::Relaxed) == lock {
            slot.store(0, Ordering::Relaxed);
            COUNT[cpu].fetch_sub(1, Ordering::Relaxed);
            return;
        }
    }
    lock_violation("released but not held by this processor", lock);
}

/// Spin locks that this processor holds.
pub fn locks_held() -> usize {
    COUNT[cpu()].load(Ordering::Relaxed)
}

/// Memory goes: a lock in it must be free, and what was known of its order is void.
pub(crate) fn memory_freed(start: usize, end: usize) {
    // Each block that is freed comes here: only the processors that there are.
    for (held, count) in HELD.iter().zip(&COUNT).take(platform().processors() as usize) {
        if count.load(Ordering::Relaxed) == 0 {
            continue;
        }
        for lock in held.iter().map(|slot| slot.load(Ordering::Relaxed)) {
            if (start..end).contains(&lock) {
                lock_violation("memory of a held spin lock is freed", lock);
            }
        }
    }
    let mut order = ORDER.lock();
    if order.locks.range(start..end).next().is_some() {
        order.pairs.retain(|(a, b)| !(start..end).contains(a) && !(start..end).contains(b));
        order.locks.retain(|lock| !(start..end).contains(lock));
    }
}

/// A processor leaves its thread.
pub(crate) fn thread_switched(_cpu: u32) {
    if locks_held() != 0 {
        let lock = HELD[cpu()].iter().map(|slot| slot.load(Ordering::Relaxed)).find(|&lock| lock != 0);
        // The dispatcher lock is held with a thread half switched: the report needs neither.
        lock_violation("a thread is switched away with a spin lock held", lock.unwrap_or(0));
    }
}

/// A thread is about to wait.
pub(crate) fn thread_waits() {
    thread_switched(0);
}

/// A thread ends.
pub(crate) fn thread_ends(thread: *mut sched::Thread) {
    let irql = platform().irql();
    if irql != PASSIVE_LEVEL {
        irql_violation("a thread ends", irql, PASSIVE_LEVEL);
    }
    // SAFETY: the current thread is valid.
    if unsafe { (*thread).apc_disable } != 0 {
        violation("thread", format_args!("it ends inside a critical region or with a mutex held"));
    }
}

/// A DPC starts; returns the time.
pub(crate) fn dpc_starts(_routine: usize) -> u64 {
    DPCS.fetch_add(1, Ordering::Relaxed);
    platform().interrupt_time()
}

/// A DPC ended.
pub(crate) fn dpc_ended(routine: usize, started: u64) {
    let irql = platform().irql();
    if irql != DISPATCH_LEVEL {
        violation("DPC", format_args!("{} came back at IRQL {irql}", loader::describe(routine)));
    }
    if locks_held() != 0 {
        violation("DPC", format_args!("{} came back with a spin lock held", loader::describe(routine)));
    }
    let took = platform().interrupt_time().saturating_sub(started);
    LONGEST_DPC.fetch_max(took, Ordering::Relaxed);
    if took > DPC_BUDGET {
        stop(DPC_WATCHDOG, "DPC", format_args!("{} ran for {} us", loader::describe(routine), took / 10));
    }
}

/// A device interrupt is delivered to `count` service routines.
pub(crate) fn interrupt_taken(_vector: u8, count: usize) {
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    if count == 0 {
        SPURIOUS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Called by the thunk of every function that a driver imports, before the function: checks the IRQL, notes the caller,
/// and lets other processors run. Returns what the driver gets instead of the function's work, where a failure of an
/// allocation is planted. Any IRQL.
///
/// # Safety
/// `frame` is where the return address of the driver's call stands.
pub(crate) unsafe extern "win64" fn on_call(thunk: &loader::Thunk, frame: *const u64) -> Option<&'static u64> {
    // SAFETY: the caller's promise.
    let return_address = unsafe { frame.read() } as usize;
    let platform = platform();
    CALLS.fetch_add(1, Ordering::Relaxed);
    let irql = platform.irql();
    if irql > thunk.max_irql {
        // The report names this call.
        LAST_CALL[platform.current_processor() as usize % CPUS].store(return_address, Ordering::Relaxed);
        irql_violation(thunk.name, irql, thunk.max_irql);
    }
    let before = platform.current_processor();
    LAST_CALL[before as usize % CPUS].store(return_address, Ordering::Relaxed);
    let thread = if irql < DISPATCH_LEVEL { sched::current() } else { sched::current_on(before) };
    if !thread.is_null() {
        // SAFETY: the current thread is valid; the field is for reports alone.
        unsafe { (*thread).caller = return_address };
    }
    platform.preempt(Point::Call);
    // Others may have called meanwhile, and a thread below DISPATCH_LEVEL may go on elsewhere.
    let here = if irql < DISPATCH_LEVEL { platform.current_processor() } else { before };
    LAST_CALL[here as usize % CPUS].store(return_address, Ordering::Relaxed);
    // SAFETY: the caller's promise.
    let failure = thunk.refusal.and_then(|refusal| unsafe { refusal.result(frame) });
    failure.filter(|_| crate::ex::fault::due())
}

/// The address behind the driver's call that this processor serves. Any IRQL.
pub fn caller() -> usize {
    LAST_CALL[cpu()].load(Ordering::Relaxed)
}

/// As [`caller`], of any processor. Any IRQL.
pub fn caller_on(processor: u32) -> usize {
    LAST_CALL.get(processor as usize).map_or(0, |call| call.load(Ordering::Relaxed))
}

/// Adds to a report who called, as far as it can be found.
pub(crate) fn describe_callers(report: &mut String) {
    let caller = caller();
    if caller != 0 {
        let _ = writeln!(report, "  last call from {}", loader::describe(caller));
    }
    let thread = sched::current();
    // SAFETY: the current thread is valid.
    let Some((low, high)) = (!thread.is_null()).then(|| unsafe { (*thread).stack_range() }).flatten() else { return };
    let here = (&raw const caller) as usize;
    if !(low..high).contains(&here) {
        return;
    }
    describe_stack(report, here, high);
}

/// Adds the addresses of driver code that stand on a stack between two addresses, the innermost first.
pub fn describe_stack(report: &mut String, low: usize, high: usize) {
    let mut found: Vec<usize> = Vec::new();
    let mut at = low & !7;
    while at + 8 <= high && found.len() < 24 {
        // SAFETY: the caller gives a range of the current stack, which is mapped.
        let value = unsafe { (at as *const usize).read_volatile() };
        if loader::follows_call(value) {
            found.push(value);
        }
        at += 8;
    }
    for address in found {
        let _ = writeln!(report, "  stack: {}", loader::describe(address));
    }
}

/// What a page fault means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The access is to memory that an exception handler of the driver may deal with.
    Raise,
    /// Ends the run.
    Fatal,
}

/// Reports a fault that no handler took: the platform calls it with what it knows. Any IRQL.
pub fn fatal_fault(code: u32, what: fmt::Arguments<'_>, rip: usize, address: usize, stack: (usize, usize)) -> ! {
    let mut report = String::new();
    let _ = writeln!(report, "fault: {what}");
    let _ = writeln!(report, "  at {}, address {address:#x}", loader::describe(rip));
    if let Some(note) = crate::ex::pool::describe(address) {
        let _ = writeln!(report, "  the address is {note}");
    }
    describe_stack(&mut report, stack.0, stack.1);
    let code = if code == 0 { IRQL_NOT_LESS } else { code };
    bugcheck::stop(code, [address, platform().irql() as usize, 0, rip], report)
}

/// Says that a report is made from now on, which may read whatever there is. Any IRQL.
pub fn stop_judging() {
    REPORTS.store(true, Ordering::Relaxed);
}

/// Whether accesses to memory are judged still. Any IRQL.
pub fn judges() -> bool {
    !REPORTS.load(Ordering::Relaxed)
}

/// Pageable memory that is not pinned was touched at DISPATCH_LEVEL or above: the platform calls it with the address, what
/// was done (0 read, 1 written, 8 executed), and where. Windows stops with the same code and parameters.
/// <https://learn.microsoft.com/windows-hardware/drivers/debugger/bug-check-0xd1--driver-irql-not-less-or-equal>
pub fn paged_touch(address: usize, access: u64, rip: usize) -> ! {
    stop_judging();
    let irql = platform().irql();
    let done = match access {
        0 => "read",
        1 => "written",
        _ => "executed",
    };
    // What an export did for its caller is the caller's.
    let place = if loader::is_code(rip) { rip } else { caller() };
    let what = crate::ex::pool::describe(address).unwrap_or_else(|| loader::describe(address));
    let mut report = String::new();
    let _ = writeln!(report, "violation: paged access: paged memory touched at IRQL {irql}");
    let _ = writeln!(report, "  {done} at {}: {what}", loader::describe(place));
    bugcheck::stop(IRQL_NOT_LESS, [address, irql as usize, access as usize, rip], report)
}

/// The highest IRQL at which a function may be called, from its documentation.
pub fn max_irql(name: &str) -> Kirql {
    const PASSIVE: &[&str] = &[
        "PsCreateSystemThread",
        "PsTerminateSystemThread",
        "PsSetCreateProcessNotifyRoutine",
        "PsSetLoadImageNotifyRoutine",
        "PsRemoveLoadImageNotifyRoutine",
        "KeFlushQueuedDpcs",
        "IoAttachDeviceToDeviceStack",
        "IoAttachDeviceToDeviceStackSafe",
        "IoConnectInterrupt",
        "IoConnectInterruptEx",
        "IoDisconnectInterrupt",
        "IoDisconnectInterruptEx",
        "IoCreateSymbolicLink",
        "IoDeleteSymbolicLink",
        "IoDetachDevice",
        "IoForwardIrpSynchronously",
        "IoGetDeviceObjectPointer",
        "IoGetDeviceProperty",
        "IoOpenDeviceRegistryKey",
        "IoOpenDriverRegistryKey",
        "IoRegisterDeviceInterface",
        "IoBuildDeviceIoControlRequest",
        "IoBuildSynchronousFsdRequest",
        "IoReleaseRemoveLockAndWaitEx",
        "IoReportDetectedDevice",
        "ExCreateCallback",
        "ExRegisterCallback",
        "MmAddPhysicalMemory",
        "MmGetPhysicalMemoryRanges",
        "MmGetSystemRoutineAddress",
        "ObReferenceObjectByHandle",
        "RtlQueryRegistryValues",
        "RtlWriteRegistryValue",
        "RtlCheckRegistryKey",
        "RtlAnsiStringToUnicodeString",
        "RtlUnicodeStringToAnsiString",
        "RtlUpcaseUnicodeString",
        "RtlUnicodeStringToInteger",
        "RtlStringFromGUID",
        "RtlGUIDFromString",
        "RtlGetVersion",
        "RtlFreeUnicodeString",
        "RtlFreeAnsiString",
        "StorPortInitialize",
        "StorPortGetBusData",
    ];
    const APC: &[&str] = &[
        "IoCreateDevice",
        "IoDeleteDevice",
        "IoSetDeviceInterfaceState",
        "ExAcquireFastMutex",
        "ExReleaseFastMutex",
        "ExTryToAcquireFastMutex",
        "ExAcquireResourceExclusiveLite",
        "ExAcquireResourceSharedLite",
        "KeDelayExecutionThread",
        "KeEnterCriticalRegion",
        "KeLeaveCriticalRegion",
        "KeSetSystemAffinityThread",
        "KeSetSystemGroupAffinityThread",
        "KeRevertToUserAffinityThread",
        "KeRevertToUserGroupAffinityThread",
        "KeWaitForMutexObject",
        "MmAllocatePagesForMdl",
        "MmFreePagesFromMdl",
        "MmLockPagableDataSection",
        "MmPageEntireDriver",
    ];
    const DISPATCH: &[&str] = &[
        "ExAllocatePool",
        "ExAllocatePool2",
        "ExAllocatePool3",
        "ExAllocatePoolWithTag",
        "ExAllocatePoolWithTagPriority",
        "ExAllocatePoolWithQuotaTag",
        "ExFreePool",
        "ExFreePoolWithTag",
        "ExFreePool2",
        "IoAcquireCancelSpinLock",
        "IoAllocateIrp",
        "IoAllocateMdl",
        "IoAllocateWorkItem",
        "IofCallDriver",
        "IofCompleteRequest",
        "IoFreeIrp",
        "IoFreeMdl",
        "IoFreeWorkItem",
        "IoInvalidateDeviceRelations",
        "IoInvalidateDeviceState",
        "IoQueueWorkItem",
        "IoRequestDeviceEject",
        "KeAcquireSpinLockRaiseToDpc",
        "KeAcquireInStackQueuedSpinLock",
        "KeCancelTimer",
        "KeClearEvent",
        "KeReleaseMutex",
        "KeReleaseSemaphore",
        "KeReleaseSpinLock",
        "KeReleaseSpinLockFromDpcLevel",
        "KeResetEvent",
        "KeSetEvent",
        "KeSetPriorityThread",
        "KeSetTimer",
        "KeSetTimerEx",
        "KeWaitForMultipleObjects",
        "KeWaitForSingleObject",
        "MmAllocateContiguousMemory",
        "MmBuildMdlForNonPagedPool",
        "MmFreeContiguousMemory",
        "MmMapIoSpace",
        "MmMapLockedPages",
        "MmMapLockedPagesSpecifyCache",
        "MmProbeAndLockPages",
        "MmUnlockPages",
        "MmUnmapIoSpace",
        "MmUnmapLockedPages",
        "ObfDereferenceObject",
        "ObfReferenceObject",
        "PoCallDriver",
        "PoRequestPowerIrp",
        "PoStartNextPowerIrp",
        "StorPortGetScatterGatherList",
    ];
    if let Some(irql) = crate::ndis::max_irql(name) {
        irql
    } else if name.starts_with("Zw") || PASSIVE.contains(&name) {
        PASSIVE_LEVEL
    } else if APC.contains(&name) {
        APC_LEVEL
    } else if DISPATCH.contains(&name) {
        DISPATCH_LEVEL
    } else {
        HIGH_LEVEL
    }
}
