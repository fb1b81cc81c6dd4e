//! Threads and the scheduler: one queue of ready threads for all processors, 32 priorities, one lock for everything
//! that waits, is waited for or runs. The lock is held with interrupts off and never while a driver is called.

use super::abi::*;
use super::stack;
use crate::platform::platform;
use crate::sync::{IrqGuard, IrqLock};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::ffi::c_void;
use core::fmt::Write as _;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

/// The vector of the dispatch software interrupt: DPCs, then a switch to a better thread.
pub const DISPATCH_VECTOR: u8 = 0x2f;
/// The clock's vector.
pub const CLOCK_VECTOR: u8 = 0xd1;
/// The vector of interprocessor calls.
pub const IPI_VECTOR: u8 = 0xe1;
/// Bytes of a kernel stack. Windows gives 24 KiB; the frames of the personality itself need more in a process.
pub const STACK_BYTES: usize = 128 << 10;
/// `MAXIMUM_WAIT_OBJECTS`.
pub const MAXIMUM_WAIT_OBJECTS: usize = 64;
/// A thread runs this long (100 ns) while others of its priority are ready.
const QUANTUM: u64 = 300_000;
/// `KTHREAD.Priority` of a new system thread.
pub const DEFAULT_PRIORITY: u8 = 8;

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, or on the ready queue.
    Ready,
    /// On a processor.
    Running,
    /// In a wait.
    Waiting,
    /// Over.
    Terminated,
}

/// One wait of a thread for one object (`KWAIT_BLOCK`).
#[repr(C)]
pub struct WaitBlock {
    /// On the object's list.
    pub entry: ListEntry,
    /// Who waits.
    pub thread: *mut Thread,
    /// For what.
    pub object: *mut DispatcherHeader,
}

/// The routine of a thread (`KSTART_ROUTINE`).
pub type StartRoutine = unsafe extern "win64" fn(context: *mut c_void);

/// `KTHREAD`: opaque to drivers but for its header.
#[repr(C)]
pub struct Thread {
    /// Signalled when the thread is over.
    pub header: DispatcherHeader,
    pub(super) rsp: usize,
    stack: Option<NonNull<u8>>,
    pub(super) irql: Kirql,
    /// What it does.
    pub state: State,
    /// 0 to 31; the idle threads' is not used.
    pub priority: u8,
    /// Processors that it may run on.
    pub affinity: u64,
    /// The affinity to go back to.
    pub user_affinity: u64,
    /// Where it runs or ran last.
    pub processor: u32,
    idle: bool,
    start: Option<StartRoutine>,
    context: *mut c_void,
    /// A number that names it, as PsGetThreadId shows it.
    pub id: u32,
    /// What it ended with.
    pub exit_status: i32,
    /// `KeEnterCriticalRegion` depth, negative.
    pub apc_disable: i32,
    /// Mutexes that it owns.
    pub(super) mutexes: ListEntry,
    pub(super) blocks: [WaitBlock; MAXIMUM_WAIT_OBJECTS],
    pub(super) block_count: usize,
    pub(super) wait_all: bool,
    pub(super) wait_result: i32,
    pub(super) wait_timer: Timer,
    pub(super) quantum_end: u64,
    /// When it began or ended to run, in interrupt time.
    since: u64,
    /// Address of the driver call that the thread makes, for reports.
    pub caller: usize,
    /// Called when the thread is over and off its stack.
    pub(super) release: Option<unsafe fn(*mut Thread)>,
}

/// What the scheduler knows of a processor.
pub(super) struct Cpu {
    pub(super) current: *mut Thread,
    idle: *mut Thread,
    /// A dispatch interrupt is on its way because of a ready thread.
    poked: bool,
    zombie: *mut Thread,
    pub(super) dpcs: VecDeque<*mut Dpc>,
    pub(super) in_dpc: bool,
}

/// Everything under the dispatcher lock.
pub(super) struct Dispatcher {
    ready: Vec<VecDeque<*mut Thread>>,
    pub(super) cpus: Vec<Cpu>,
    pub(super) timers: ListEntry,
    /// Every thread that is not over, but for the idle ones.
    threads: Vec<*mut Thread>,
    next_id: u32,
}

static DISPATCHER: IrqLock<Dispatcher> = IrqLock::new(Dispatcher {
    ready: Vec::new(),
    cpus: Vec::new(),
    timers: ListEntry::unlinked(),
    threads: Vec::new(),
    next_id: 4,
});

/// Processors that there may be.
const MOST_PROCESSORS: usize = 64;
/// The areas that GS points at, by processor. Each is written once, before its processor starts.
static AREAS: [AtomicPtr<Kpcr>; MOST_PROCESSORS] = [const { AtomicPtr::new(null_mut()) }; MOST_PROCESSORS];

/// The dispatcher, locked. Any IRQL.
pub(super) fn dispatcher() -> IrqGuard<'static, Dispatcher> {
    DISPATCHER.lock()
}

/// Whether any thread may be switched to yet.
pub fn started() -> bool {
    !dispatcher().cpus.is_empty()
}

impl Thread {
    fn new() -> Self {
        const BLOCK: WaitBlock = WaitBlock { entry: ListEntry::unlinked(), thread: null_mut(), object: null_mut() };
        Self {
            header: DispatcherHeader {
                kind: OBJECT_THREAD,
                flags: 0,
                size: 0,
                inserted: 0,
                signal_state: 0,
                wait_list: ListEntry::unlinked(),
            },
            rsp: 0,
            stack: None,
            irql: PASSIVE_LEVEL,
            state: State::Ready,
            priority: DEFAULT_PRIORITY,
            affinity: u64::MAX,
            user_affinity: u64::MAX,
            processor: 0,
            idle: false,
            start: None,
            context: null_mut(),
            id: 0,
            exit_status: 0,
            apc_disable: 0,
            mutexes: ListEntry::unlinked(),
            blocks: [BLOCK; MAXIMUM_WAIT_OBJECTS],
            block_count: 0,
            wait_all: false,
            wait_result: 0,
            wait_timer: Timer {
                header: DispatcherHeader {
                    kind: OBJECT_NOTIFICATION_TIMER,
                    flags: 0,
                    size: 0,
                    inserted: 0,
                    signal_state: 0,
                    wait_list: ListEntry::unlinked(),
                },
                due: 0,
                entry: ListEntry::unlinked(),
                dpc: null_mut(),
                processor: super::timer::WAIT_MARK,
                period: 0,
            },
            quantum_end: 0,
            since: 0,
            caller: 0,
            release: None,
        }
    }

    /// Writes a fresh thread to `place` and makes what points into it point there.
    unsafe fn place(place: *mut Self) {
        // SAFETY: the caller gives memory for a thread.
        unsafe {
            place.write(Self::new());
            ListEntry::init(&raw mut (*place).header.wait_list);
            ListEntry::init(&raw mut (*place).mutexes);
            ListEntry::init(&raw mut (*place).wait_timer.header.wait_list);
        }
    }

    /// Lower and upper end of its stack, if the scheduler gave it one.
    pub fn stack_range(&self) -> Option<(usize, usize)> {
        self.stack.map(|top| (top.as_ptr() as usize - STACK_BYTES, top.as_ptr() as usize))
    }
}

/// The first frame of a thread: calls `enter` on an aligned stack.
#[unsafe(naked)]
unsafe extern "sysv64" fn first_frame() {
    naked_asm!("xor ebp, ebp", "call {enter}", "ud2", enter = sym enter_thread)
}

/// Runs a new thread: the lock is held as the switch left it.
unsafe extern "sysv64" fn enter_thread() -> ! {
    // SAFETY: this is the far side of a switch.
    unsafe { finish_switch(PASSIVE_LEVEL, true) };
    let thread = current();
    // SAFETY: a current thread is valid; its start routine was set when it was made.
    unsafe {
        if let Some(start) = (*thread).start {
            start((*thread).context);
        }
        exit(0)
    }
}

/// Finishes a switch on its far side: cleans up, sets the IRQL, lets go of the lock.
///
/// # Safety
/// Directly after a switch, with the dispatcher lock held by this processor.
unsafe fn finish_switch(irql: Kirql, enabled: bool) {
    // SAFETY: the lock is held; nobody else has a reference to its data.
    let zombie = unsafe {
        let cpu = platform().current_processor() as usize;
        let data = DISPATCHER.data();
        core::mem::replace(&mut (&mut *data).cpus[cpu].zombie, null_mut())
    };
    platform().set_irql(irql);
    // SAFETY: this processor holds it.
    unsafe { DISPATCHER.release() };
    if !zombie.is_null() {
        // SAFETY: the thread is over and off its stack; nobody else frees it.
        unsafe {
            if let Some(top) = (*zombie).stack.take() {
                platform().free_stack(top, STACK_BYTES);
            }
            if let Some(release) = (*zombie).release {
                release(zombie);
            }
        }
    }
    platform().restore_interrupts(enabled);
}

impl Dispatcher {
    fn best_ready(&self, cpu: usize) -> Option<u8> {
        let bit = 1u64 << cpu;
        (0..32u8).rev().find(|&p| {
            // SAFETY: threads on the ready queue are valid.
            self.ready[p as usize].iter().any(|&t| unsafe { (*t).affinity & bit != 0 })
        })
    }

    fn take_ready(&mut self, cpu: usize, priority: u8) -> Option<*mut Thread> {
        let bit = 1u64 << cpu;
        let queue = &mut self.ready[priority as usize];
        // SAFETY: threads on the ready queue are valid.
        let at = queue.iter().position(|&t| unsafe { (*t).affinity & bit != 0 })?;
        queue.remove(at)
    }

    /// Puts a thread on the ready queue and makes a processor look.
    ///
    /// # Safety
    /// The thread is valid and neither running nor ready.
    pub(super) unsafe fn make_ready(&mut self, thread: *mut Thread, front: bool) {
        // SAFETY: the caller's promise.
        let (priority, affinity) = unsafe {
            (*thread).state = State::Ready;
            ((*thread).priority, (*thread).affinity)
        };
        let queue = &mut self.ready[priority as usize];
        if front {
            queue.push_front(thread);
        } else {
            queue.push_back(thread);
        }
        let here = platform().current_processor() as usize;
        let allowed = |cpu: &usize| affinity & (1 << cpu) != 0;
        // SAFETY: the current thread of a processor is valid.
        let idle = |cpu: &usize| unsafe { (*self.cpus[*cpu].current).idle };
        // SAFETY: the thread ran on this processor, if it ran.
        let last = unsafe { (*thread).processor as usize };
        let chosen = [last, here]
            .into_iter()
            .chain(0..self.cpus.len())
            .filter(allowed)
            .find(|cpu| idle(cpu) && !self.cpus[*cpu].poked)
            .or_else(|| {
                let lowest = (0..self.cpus.len())
                    .filter(allowed)
                    // SAFETY: as above.
                    .min_by_key(|cpu| unsafe { ((*self.cpus[*cpu].current).priority, *cpu != here) })?;
                // SAFETY: as above.
                unsafe { ((*self.cpus[lowest].current).priority < priority).then_some(lowest) }
            });
        if let Some(cpu) = chosen {
            self.cpus[cpu].poked = true;
            platform().request_interrupt(cpu as u32, DISPATCH_VECTOR);
        }
    }

    /// Whether any thread is ready, for the clock to end quanta.
    pub(super) fn any_ready(&self) -> bool {
        self.ready.iter().any(|queue| !queue.is_empty())
    }
}

/// Leaves the current thread for the best ready one, or for idleness. Returns when the thread runs again.
///
/// # Safety
/// The current thread's state is set and it is on the list that belongs to it. IRQL <= DISPATCH_LEVEL.
pub(super) unsafe fn switch_away(mut guard: IrqGuard<'static, Dispatcher>) {
    let cpu = platform().current_processor() as usize;
    let previous = guard.cpus[cpu].current;
    guard.cpus[cpu].poked = false;
    let next = match guard.best_ready(cpu).and_then(|priority| guard.take_ready(cpu, priority)) {
        Some(next) => next,
        None => guard.cpus[cpu].idle,
    };
    // SAFETY: both threads are valid; the lock is held until the far side of the switch gives it back.
    unsafe {
        (*next).state = State::Running;
        (*next).processor = cpu as u32;
        (*next).quantum_end = platform().interrupt_time() + QUANTUM;
        if core::ptr::eq(next, previous) {
            return;
        }
        (*previous).since = platform().interrupt_time();
        (*next).since = (*previous).since;
        guard.cpus[cpu].current = next;
        if (*previous).state == State::Terminated {
            guard.cpus[cpu].zombie = previous;
        }
        let area = area(cpu as u32);
        (*area).current_thread = next;
        (*previous).irql = platform().irql();
        crate::verifier::thread_switched(cpu as u32);
        let enabled = guard.keep();
        stack::change(&raw mut (*previous).rsp, (*next).rsp);
        finish_switch((*previous).irql, enabled);
    }
}

/// Switches to a better thread if there is one, or to one as good if the quantum is over. IRQL = DISPATCH_LEVEL, from
/// the dispatch interrupt that interrupted PASSIVE_LEVEL or APC_LEVEL.
pub(super) fn reschedule() {
    let mut guard = dispatcher();
    let cpu = platform().current_processor() as usize;
    let current = guard.cpus[cpu].current;
    guard.cpus[cpu].poked = false;
    let Some(best) = guard.best_ready(cpu) else { return };
    // SAFETY: the current thread of a processor is valid.
    unsafe {
        let expired = platform().interrupt_time() >= (*current).quantum_end;
        let misplaced = !(*current).idle && (*current).affinity & (1 << cpu) == 0;
        let better = (*current).idle || best > (*current).priority || (best == (*current).priority && expired);
        if !better && !misplaced {
            return;
        }
        (*current).state = State::Ready;
        let priority = (*current).priority as usize;
        if (*current).idle {
            // The idle thread is on no queue: it runs where nothing else does.
        } else if expired {
            guard.ready[priority].push_back(current);
        } else {
            guard.ready[priority].push_front(current);
        }
        switch_away(guard);
    }
}

/// The thread that runs here. Null before the scheduler started. Any IRQL.
pub fn current() -> *mut Thread {
    let enabled = platform().disable_interrupts();
    let thread = current_on(platform().current_processor());
    platform().restore_interrupts(enabled);
    thread
}

/// The thread that runs on the processor that executes this, which is `processor`: it is told by those that cannot leave it.
/// Null before the scheduler started. IRQL >= DISPATCH_LEVEL, or interrupts off.
pub fn current_on(processor: u32) -> *mut Thread {
    let area = area(processor);
    // SAFETY: an area is valid for ever once it is made.
    if area.is_null() { null_mut() } else { unsafe { (*area).current_thread } }
}

/// The processor control region of a processor; null before it started.
pub fn area(processor: u32) -> *mut Kpcr {
    AREAS.get(processor as usize).map_or(null_mut(), |area| area.load(Ordering::Acquire))
}

/// Prepares the scheduler for all processors, 64 at most. Once, before any processor enters [`run_processor`].
pub fn initialize() {
    let count = (platform().processors() as usize).min(MOST_PROCESSORS);
    for (index, place) in AREAS.iter().enumerate().take(count) {
        let idle = Box::leak(Box::new_uninit()).as_mut_ptr();
        let area = Box::into_raw(Box::new(Kpcr {
            head: [0; 3],
            own: null_mut(),
            current_prcb: null_mut(),
            fill1: [0; 5],
            irql: 0,
            fill2: [0; 37],
            mxcsr: 0x1f80,
            number: index as u32,
            current_thread: idle,
            next_thread: null_mut(),
            idle_thread: idle,
            fill3: [0; 460],
        }));
        // SAFETY: both were just made.
        unsafe {
            Thread::place(idle);
            (*idle).idle = true;
            (*idle).priority = 0;
            (*idle).affinity = 1 << index;
            (*idle).state = State::Running;
            (*idle).processor = index as u32;
            (*area).own = area;
            (*area).current_prcb = (&raw mut (*area).mxcsr).cast();
        }
        place.store(area, Ordering::Release);
        let mut guard = dispatcher();
        if guard.ready.is_empty() {
            guard.ready = (0..32).map(|_| VecDeque::new()).collect();
        }
        guard.cpus.push(Cpu {
            current: idle,
            idle,
            poked: false,
            zombie: null_mut(),
            dpcs: VecDeque::new(),
            in_dpc: false,
        });
    }
    // SAFETY: the list head is a field of a static.
    unsafe { ListEntry::init(&raw mut (*DISPATCHER.data()).timers) };
}

/// The life of a processor: idles, and is interrupted for everything else. Call it once on each, with interrupts off.
pub fn run_processor() -> ! {
    let processor = platform().current_processor();
    platform().set_processor_area(area(processor).cast());
    platform().set_irql(PASSIVE_LEVEL);
    platform().restore_interrupts(true);
    loop {
        platform().halt();
    }
}

/// Makes a thread in memory that `memory` points to, `size_of::<Thread>()` bytes, and starts it. `release` is called
/// when it is over and its stack is gone. `None`: no stack.
///
/// # Safety
/// The memory stays until `release`. `start(context)` may be called at PASSIVE_LEVEL.
pub unsafe fn start_thread(
    memory: *mut Thread,
    start: StartRoutine,
    context: *mut c_void,
    priority: u8,
    release: unsafe fn(*mut Thread),
) -> Option<()> {
    let top = platform().alloc_stack(STACK_BYTES)?;
    // SAFETY: the caller gives memory; the stack is fresh and large enough for what is written to it.
    unsafe {
        Thread::place(memory);
        let thread = &mut *memory;
        thread.stack = Some(top);
        thread.start = Some(start);
        thread.context = context;
        thread.priority = priority;
        thread.release = Some(release);
        let count = platform().processors();
        thread.affinity = if count >= 64 { u64::MAX } else { (1 << count) - 1 };
        thread.user_affinity = thread.affinity;
        thread.rsp = stack::prepare(top.as_ptr() as usize, first_frame);
        let mut guard = dispatcher();
        thread.id = guard.next_id;
        guard.next_id += 4;
        guard.threads.push(memory);
        guard.make_ready(memory, false);
    }
    Some(())
}

/// Ends the current thread. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// Nothing on the thread's stack is needed any more.
pub unsafe fn exit(status: i32) -> ! {
    let thread = current();
    crate::verifier::thread_ends(thread);
    let mut guard = dispatcher();
    // SAFETY: the current thread is valid; the lock is held.
    unsafe {
        (*thread).exit_status = status;
        guard.threads.retain(|&other| !core::ptr::eq(other, thread));
        super::object::abandon_mutexes(&mut guard, thread);
        (*thread).state = State::Terminated;
        (*thread).header.signal_state = 1;
        super::wait::signal(&mut guard, &raw mut (*thread).header);
        switch_away(guard);
    }
    unreachable!("a thread that is over was switched to")
}

/// Changes the processors that the current thread may run on, and moves it there. IRQL <= APC_LEVEL.
pub fn set_affinity(affinity: u64) {
    let thread = current();
    let mut guard = dispatcher();
    let cpu = platform().current_processor() as usize;
    // SAFETY: the current thread is valid; the lock is held.
    unsafe {
        (*thread).affinity = affinity;
        if affinity & (1 << cpu) != 0 {
            return;
        }
        guard.make_ready(thread, true);
        switch_away(guard);
    }
}

/// Changes a thread's priority; returns the old one. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The thread is valid.
pub unsafe fn set_priority(thread: *mut Thread, priority: u8) -> u8 {
    let mut guard = dispatcher();
    // SAFETY: the caller's promise; the lock is held.
    unsafe {
        let old = (*thread).priority;
        if (*thread).state == State::Ready && !(*thread).idle {
            guard.ready[old as usize].retain(|&t| !core::ptr::eq(t, thread));
            (*thread).priority = priority;
            guard.make_ready(thread, false);
        } else {
            (*thread).priority = priority;
            if (*thread).state == State::Running && priority < old && guard.any_ready() {
                platform().request_interrupt((*thread).processor, DISPATCH_VECTOR);
            }
        }
        old
    }
}

/// A copy of what each thread on a processor is, for reports. Any IRQL.
pub fn running() -> Vec<*mut Thread> {
    dispatcher().cpus.iter().map(|cpu| cpu.current).collect()
}

/// How long a thread has been waiting, in units of 100 ns; `None`: it does not wait, or is over. Any IRQL.
pub fn waiting_for(thread: *mut Thread) -> Option<u64> {
    let guard = dispatcher();
    let thread = *guard.threads.iter().find(|&&known| core::ptr::eq(known, thread))?;
    // SAFETY: threads on the list are valid while the lock is held.
    let (state, since) = unsafe { ((*thread).state, (*thread).since) };
    (state == State::Waiting).then(|| platform().interrupt_time().saturating_sub(since))
}

/// Adds every thread to a report: what it does or waits for, since when, its last call as a driver, and the driver code
/// on its stack. `stack_pointer` gives the one of a processor. For a machine that goes no further: any IRQL, with
/// interrupts off and all other processors standing still.
pub fn describe_threads(report: &mut String, stack_pointer: impl Fn(u32) -> usize) {
    let Some(guard) = DISPATCHER.try_lock() else {
        let _ = writeln!(report, "the dispatcher lock is held: threads cannot be listed");
        return;
    };
    let now = platform().interrupt_time();
    for &thread in &guard.threads {
        // SAFETY: threads on the list are valid while the lock is held.
        let thread = unsafe { &*thread };
        let since = now.saturating_sub(thread.since) / 10_000;
        let start = thread.start.map_or(0, |start| start as usize);
        let _ = write!(report, "thread {}: {:?} for {since} ms", thread.id, thread.state);
        if thread.state == State::Running {
            let _ = write!(report, " on processor {}", thread.processor);
        }
        let _ = writeln!(
            report,
            ", priority {}, started at {}, last call from {}",
            thread.priority,
            crate::loader::describe(start),
            crate::loader::describe(thread.caller)
        );
        if thread.state == State::Waiting {
            let timed = if thread.wait_timer.header.inserted != 0 { "with a limit" } else { "without a limit" };
            for block in &thread.blocks[..thread.block_count] {
                // SAFETY: an object stays as long as a thread waits for it.
                let kind = unsafe { (*block.object).kind };
                let name = match kind {
                    OBJECT_NOTIFICATION_EVENT | OBJECT_SYNCHRONIZATION_EVENT => "an event",
                    OBJECT_MUTANT => "a mutex",
                    OBJECT_SEMAPHORE => "a semaphore",
                    OBJECT_THREAD => "a thread",
                    OBJECT_NOTIFICATION_TIMER | OBJECT_SYNCHRONIZATION_TIMER => "a timer",
                    _ => "an object",
                };
                let _ = writeln!(report, "  waits for {name} at {:#x} {timed}", block.object as usize);
            }
        }
        if let Some((low, high)) = thread.stack_range() {
            let at = if thread.state == State::Running { stack_pointer(thread.processor) } else { thread.rsp };
            if (low..high).contains(&at) {
                crate::verifier::describe_stack(report, at, high);
            }
        }
    }
}
