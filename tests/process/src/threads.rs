//! The mode with real threads: each virtual processor is an OS thread, and all of them run at the same time on the host's
//! processors. What is found this way is what two processors do to each other between any two instructions; what is given
//! up is that the same seed is the same run.
//!
//! One more thread, the keeper, is everything that is not the guest: it lets the model work under the model's lock, moves
//! the clock, and watches for hangs. Time is the host's, slowed down by [`PACE`]; while every processor idles it jumps to
//! whatever comes next.
//!
//! An interrupt is taken where the personality asks for it (a lowered IRQL, interrupts enabled, a call of an export, a
//! turn of a spin loop) and between any two instructions of a driver: there a signal stops the processor. A signal that
//! finds the processor in the personality does nothing, for a lock of this process may be held there; the next place
//! that asks, or the next tick, takes the interrupt instead.
//!
//! Ticks come to all processors at the same moments, from timers of the kernel. One that finds a driver's code may keep
//! the processor there for a while, as a hypervisor does that runs somebody else: what was begun stays half done while the
//! others go on. A tick in a driver's code, and a driver's call of an export, also show when and on which of the host's
//! processors that was. Two that were so at once are what this mode is for, and are counted.

use crate::{processor, watchdog};
use nt::ke::stack;
use std::cell::Cell;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Barrier, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Nanoseconds of the host in one of the machine's: the personality is built for debugging and shares the host with
/// others, and no time-out of a driver is to run out because of that.
const PACE: u64 = 4;
/// Nanoseconds from one tick to the next.
const TICK_NS: u64 = 100_000;
/// Nanoseconds for which a tick takes a processor away at most.
const AWAY_NS: u64 = 300_000;
/// Two processors that were in drivers' code within this time were there at once.
const NEAR_NS: u64 = 2_000;
/// Spins of a loop from one visit to Linux's scheduler to the next.
const SPINS_A_YIELD: u32 = 64;
/// The longest that a processor may do nothing but spin.
const LONGEST_SPIN: Duration = Duration::from_secs(10);
/// The longest that the keeper sleeps.
const NAP: Duration = Duration::from_millis(2);
/// How long processors get to stand still.
const PATIENCE: Duration = Duration::from_millis(300);
/// Of so many calls of exports, one is followed by a pause of the processor.
const RARITY: u64 = 64;
/// Nanoseconds of such a pause at most.
const PAUSE_NS: u64 = 8_000;
/// Most images at a time.
const IMAGES: usize = 64;
/// Tells a processor that an interrupt is pending, or that it is to stand still.
const KICK: i32 = libc::SIGUSR1;
/// A tick.
const TICK: i32 = libc::SIGUSR2;

/// An OS thread that carries a processor.
struct Seat {
    /// Linux's number of the thread; 0: it has not started.
    tid: AtomicI32,
    thread: OnceLock<Thread>,
    /// A kick is on its way.
    kicked: AtomicBool,
    /// It stands still for good, at this instruction (0: in the personality) with this stack pointer.
    still: AtomicBool,
    rip: AtomicUsize,
    rsp: AtomicUsize,
    /// Since when it does nothing but spin, in nanoseconds of the host; 0: it does not.
    spins_since: AtomicU64,
    spins: AtomicU32,
    /// When it was last known to be in a driver's code: nanoseconds of the host, and the host's processor.
    sample: AtomicU64,
    dice: AtomicU64,
}

static SEATS: [Seat; processor::MAX] = [const {
    Seat {
        tid: AtomicI32::new(0),
        thread: OnceLock::new(),
        kicked: AtomicBool::new(false),
        still: AtomicBool::new(false),
        rip: AtomicUsize::new(0),
        rsp: AtomicUsize::new(0),
        spins_since: AtomicU64::new(0),
        spins: AtomicU32::new(0),
        sample: AtomicU64::new(0),
        dice: AtomicU64::new(0),
    }
}; processor::MAX];
/// The images' first and last addresses, readable in a signal handler; 0: a free place.
static RANGES: [(AtomicUsize, AtomicUsize); IMAGES] = [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; IMAGES];
static ON: AtomicBool = AtomicBool::new(false);
static RUNNING: AtomicBool = AtomicBool::new(false);
/// Nobody is to do anything any more.
static STOPPING: AtomicBool = AtomicBool::new(false);
/// The run is over.
static ENDED: AtomicBool = AtomicBool::new(false);
/// Real seconds that the run may take.
static LIMIT_S: AtomicU64 = AtomicU64::new(u64::MAX);
/// Nanoseconds by which the clock was put forward while everybody idled.
static SKIPPED_NS: AtomicU64 = AtomicU64::new(0);
static START: OnceLock<Instant> = OnceLock::new();
static MAIN: OnceLock<Thread> = OnceLock::new();
static KEEPER: OnceLock<Thread> = OnceLock::new();
static RANGES_LOCK: Mutex<()> = Mutex::new(());
/// The last moment at which two processors were in drivers' code.
static LAST_PAIR: AtomicU64 = AtomicU64::new(0);
static AT_ONCE: AtomicU64 = AtomicU64::new(0);
static BETWEEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The processor that this OS thread carries; [`processor::MAX`]: none.
    static OWN: Cell<usize> = const { Cell::new(processor::MAX) };
}

/// What the mode counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// Moments, of two microseconds, in which two processors were in drivers' code on two processors of the host.
    pub at_once: u64,
    /// Interrupts that were taken between two instructions of a driver.
    pub interrupts_between: u64,
}

/// Switches the mode on. Before anything else.
pub fn set_up(seed: u64, limit: Duration) {
    ON.store(true, SeqCst);
    LIMIT_S.store(limit.as_secs(), Relaxed);
    START.get_or_init(Instant::now);
    for (seat, number) in SEATS.iter().zip(1..) {
        // An xorshift generator each, which must not start from zero.
        seat.dice.store((seed.wrapping_mul(number) ^ 0x9e37_79b9_7f4a_7c15) | 1, Relaxed);
    }
}

/// Whether processors are OS threads.
pub fn on() -> bool {
    ON.load(Relaxed)
}

/// Whether the machine runs.
pub fn running() -> bool {
    RUNNING.load(Relaxed)
}

/// What was counted so far.
pub fn overlap() -> Overlap {
    Overlap { at_once: AT_ONCE.load(Relaxed), interrupts_between: BETWEEN.load(Relaxed) }
}

/// The processor that the calling OS thread carries; [`processor::MAX`]: none.
///
/// Not inlined, and volatile: the caller may go on on another OS thread after any change of stacks, so that neither the
/// value nor its place may be kept across one.
#[inline(never)]
pub fn own() -> usize {
    // SAFETY: the thread's own cell.
    OWN.with(|own| unsafe { own.as_ptr().read_volatile() })
}

fn seat() -> Option<&'static Seat> {
    SEATS.get(own())
}

/// Real nanoseconds since the mode was switched on.
fn real_ns() -> u64 {
    START.get().map_or(0, |start| start.elapsed().as_nanos() as u64)
}

/// The machine's time.
pub fn now_ns() -> u64 {
    real_ns() / PACE + SKIPPED_NS.load(SeqCst)
}

/// An image has come.
pub fn add(start: usize, end: usize) {
    let _one_at_a_time = RANGES_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let free = RANGES.iter().find(|range| range.0.load(Relaxed) == 0).expect("a place for an image");
    free.1.store(end, SeqCst);
    free.0.store(start, SeqCst);
}

/// An image goes.
pub fn forget(start: usize) {
    for range in RANGES.iter().filter(|range| range.0.load(Relaxed) == start) {
        range.0.store(0, SeqCst);
    }
}

/// Whether an address is in an image: without a lock, for signal handlers.
fn in_driver(address: usize) -> bool {
    RANGES.iter().any(|(start, end)| {
        let start = start.load(Relaxed);
        start != 0 && (start..end.load(Relaxed)).contains(&address)
    })
}

/// Tells a processor, not the caller's own, that something is pending.
pub fn notify(vcpu: u32, was_halted: bool) {
    let seat = &SEATS[vcpu as usize];
    if was_halted {
        if let Some(thread) = seat.thread.get() {
            thread.unpark();
        }
    } else if !seat.kicked.swap(true, SeqCst) {
        kick(seat);
    }
}

fn kick(seat: &Seat) {
    let tid = seat.tid.load(SeqCst);
    if tid != 0 {
        // SAFETY: a thread of this process, which never ends before the process does.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, KICK) };
    }
}

/// Something that the keeper has to see happened.
pub fn wake_keeper() {
    if let Some(keeper) = KEEPER.get() {
        keeper.unpark();
    }
}

/// Both signals of this mode. True: the signal was one of them.
pub fn signalled(signal: i32, rip: usize, rsp: usize) -> bool {
    if signal != KICK && signal != TICK {
        return false;
    }
    let Some(seat) = seat() else { return true };
    seat.kicked.store(false, SeqCst);
    let driver = in_driver(rip);
    if driver {
        sample(seat);
        if signal == TICK {
            take_away(seat);
        }
        if STOPPING.load(SeqCst) {
            stand_still(rip, rsp);
        }
        if processor::due() {
            BETWEEN.fetch_add(1, Relaxed);
            processor::deliver();
        }
    }
    true
}

/// Notes that the processor is, or was just now, in a driver's code, and whether another one is.
fn sample(own: &Seat) {
    let now = real_ns();
    // SAFETY: has no requirements.
    let core = (unsafe { libc::sched_getcpu() } as u64) & 0xfff;
    own.sample.store(now << 12 | core, SeqCst);
    let others = SEATS[..processor::count() as usize].iter().filter(|seat| !std::ptr::eq(*seat, own));
    let at_once = others.map(|seat| seat.sample.load(SeqCst)).any(|other| {
        let (then, there) = (other >> 12, other & 0xfff);
        other != 0 && there != core && then.abs_diff(now) < NEAR_NS
    });
    // Both may see each other: once a moment.
    let moment = now / NEAR_NS;
    if at_once && LAST_PAIR.swap(moment, SeqCst) != moment {
        AT_ONCE.fetch_add(1, Relaxed);
    }
}

/// Takes the processor away between two instructions of a driver, now and then, as a hypervisor does: whatever it has
/// begun there stays half done while the others go on.
fn take_away(seat: &Seat) {
    let dice = dice(seat) >> 16;
    if dice.is_multiple_of(2) {
        std::thread::sleep(Duration::from_nanos(dice % AWAY_NS));
    }
}

/// A random number of the processor's own.
fn dice(seat: &Seat) -> u64 {
    let mut value = seat.dice.load(Relaxed);
    value ^= value << 13;
    value ^= value >> 7;
    value ^= value << 17;
    seat.dice.store(value, Relaxed);
    value
}

/// A spin loop found its condition false.
pub fn spin() {
    let Some(seat) = seat() else {
        std::thread::yield_now();
        return;
    };
    if STOPPING.load(SeqCst) {
        stand_still(0, here());
    }
    let spins = seat.spins.load(Relaxed).wrapping_add(1);
    seat.spins.store(spins, Relaxed);
    if spins.is_multiple_of(SPINS_A_YIELD) {
        if seat.spins_since.load(Relaxed) == 0 {
            seat.spins_since.store(real_ns(), Relaxed);
        }
        std::thread::yield_now();
    }
}

/// A driver called an export.
pub fn called() {
    if let Some(seat) = seat() {
        sample(seat);
    }
    pause();
}

/// A driver called an export, or a lock was given back: what comes next comes a little later, now and then, so that
/// others get in between.
pub fn pause() {
    let Some(seat) = seat() else { return };
    seat.spins_since.store(0, Relaxed);
    let dice = dice(seat) >> 16;
    if dice.is_multiple_of(RARITY) {
        let end = real_ns() + dice / RARITY % PAUSE_NS;
        while real_ns() < end {
            std::hint::spin_loop();
        }
    }
}

/// Lets the machine's time pass on the caller's processor. Interrupts come in meanwhile.
pub fn stall(ns: u64) {
    let end = now_ns() + ns;
    while now_ns() < end {
        std::hint::spin_loop();
        processor::deliver();
    }
}

/// Where interrupts are enabled: the end of the run is as good as one.
pub fn perhaps_stand_still() {
    if STOPPING.load(SeqCst) && seat().is_some() {
        stand_still(0, here());
    }
}

/// An address on the stack that runs.
fn here() -> usize {
    let local = 0_u8;
    (&raw const local) as usize
}

/// The end of a processor.
fn stand_still(rip: usize, rsp: usize) -> ! {
    if let Some(seat) = seat() {
        seat.rip.store(rip, SeqCst);
        seat.rsp.store(rsp, SeqCst);
        seat.still.store(true, SeqCst);
    }
    loop {
        std::thread::park();
    }
}

/// Waits for an interrupt. `pending` says whether there is one; `halted` is cleared by whoever brings one.
pub fn halt(halted: &AtomicBool, pending: impl Fn() -> bool) {
    halted.store(true, SeqCst);
    if let Some(seat) = seat() {
        seat.spins_since.store(0, Relaxed);
    }
    if processor::all_idle() {
        wake_keeper();
    }
    loop {
        perhaps_stand_still();
        if pending() {
            halted.store(false, SeqCst);
        }
        if !halted.load(SeqCst) {
            return;
        }
        std::thread::park();
    }
}

/// What a processor is at, for reports.
pub fn describe(vcpu: u32) -> String {
    let seat = &SEATS[vcpu as usize];
    let since = seat.spins_since.load(Relaxed);
    let spins = if since == 0 {
        String::new()
    } else {
        format!(", spins for {} ms of the host's time", real_ns().saturating_sub(since) / 1_000_000)
    };
    let place = match (seat.still.load(SeqCst), seat.rip.load(SeqCst)) {
        (false, _) => "works in the bench".to_owned(),
        (true, 0) => "stands in the bench".to_owned(),
        (true, rip) => format!("stands at {}", nt::loader::describe(rip)),
    };
    format!(", {place}{spins}")
}

/// Where the stack of a processor that stands still ends; 0 if it does not.
pub fn stack_pointer(vcpu: u32) -> usize {
    let seat = &SEATS[vcpu as usize];
    if seat.still.load(SeqCst) { seat.rsp.load(SeqCst) } else { 0 }
}

/// Makes every processor but the caller's stand still where that is safe: between two instructions of a driver, or where
/// the personality waits or enables interrupts. One that comes to no such place in time goes on.
pub fn stop_all() {
    STOPPING.store(true, SeqCst);
    let own = own();
    let others = || SEATS[..processor::count() as usize].iter().enumerate().filter(|&(at, _)| at != own);
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && others().any(|(_, seat)| !seat.still.load(SeqCst)) {
        for (_, seat) in others().filter(|(_, seat)| !seat.still.load(SeqCst)) {
            if let Some(thread) = seat.thread.get() {
                thread.unpark();
            }
            kick(seat);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Ends the machine from any of its threads, which does nothing more.
pub fn leave() -> ! {
    ENDED.store(true, SeqCst);
    if let Some(main) = MAIN.get() {
        main.unpark();
    }
    stand_still(0, here())
}

/// Runs processors whose contexts end at `stacks`, until [`leave`].
///
/// # Panics
/// Linux gives no thread or timer.
pub fn run(stacks: &[usize]) {
    MAIN.get_or_init(std::thread::current);
    let all_here = std::sync::Arc::new(Barrier::new(stacks.len() + 1));
    let first_tick = real_clock_ns() + 1_000_000;
    let cores = cores();
    for (vcpu, &stack) in stacks.iter().enumerate() {
        let all_here = all_here.clone();
        let core = (!cores.is_empty()).then(|| cores[vcpu % cores.len()]);
        let carry = move || {
            OWN.set(vcpu);
            if let Some(core) = core {
                stay_on(core);
            }
            let seat = &SEATS[vcpu];
            seat.thread.get_or_init(std::thread::current);
            // SAFETY: has no requirements.
            let tid = unsafe { libc::gettid() };
            tick_from(tid, first_tick);
            seat.tid.store(tid, SeqCst);
            all_here.wait();
            drop(all_here);
            let mut never = 0_usize;
            // SAFETY: the context was made for this processor and is used once; nothing goes back to this stack.
            unsafe { stack::change(&raw mut never, stack) };
        };
        std::thread::Builder::new().name(format!("cpu{vcpu}")).spawn(carry).expect("a thread for a processor");
    }
    RUNNING.store(true, SeqCst);
    let keeper = std::thread::Builder::new().name("keeper".into()).spawn(keep).expect("a thread for the keeper");
    KEEPER.get_or_init(|| keeper.thread().clone());
    all_here.wait();
    while !ENDED.load(SeqCst) {
        std::thread::park();
    }
    stop_all();
    RUNNING.store(false, SeqCst);
}

/// The host's processors that this process may run on.
fn cores() -> Vec<usize> {
    // SAFETY: plain data; the call fills as much as is given.
    let (set, done) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let done = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) == 0;
        (set, done)
    };
    // SAFETY: looks at a bit of the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&core| done && unsafe { libc::CPU_ISSET(core, &set) }).collect()
}

/// Keeps the calling thread on one of the host's processors. Linux likes to put threads that wake each other on the same
/// one, where they take turns. Where that is refused, they do.
fn stay_on(core: usize) {
    // SAFETY: plain data, for the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// The clock that ticks are timed by, in nanoseconds.
fn real_clock_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Has ticks come to a thread, the first at a time of the real clock.
fn tick_from(tid: i32, first_ns: u64) {
    let time = |ns: u64| libc::timespec {
        tv_sec: (ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: the structures are plain data, and complete; the timer stays as long as the process does.
    let done = unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = TICK;
        event.sigev_notify_thread_id = tid;
        let mut timer: libc::timer_t = std::mem::zeroed();
        let when = libc::itimerspec { it_interval: time(TICK_NS), it_value: time(first_ns) };
        libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) == 0
            && libc::timer_settime(timer, libc::TIMER_ABSTIME, &raw const when, std::ptr::null_mut()) == 0
    };
    assert!(done, "a timer for ticks: {}", std::io::Error::last_os_error());
}

/// The keeper.
fn keep() {
    while !ENDED.load(SeqCst) {
        let moved = processor::step_model();
        processor::tick();
        guard();
        if moved {
            continue;
        }
        // Nobody but the keeper wakes the first of them up again, or sets the clock: what is asked from here on stays so.
        if processor::all_idle() {
            if processor::step_model() {
                continue;
            }
            let next = processor::next_deadline_ns();
            if next == u64::MAX {
                watchdog::bark("deadlock: every processor idles, no timer is set, and no backend has work");
            }
            watchdog::idle();
            SKIPPED_NS.fetch_add(next.saturating_sub(now_ns()), SeqCst);
            continue;
        }
        let left = processor::next_deadline_ns().saturating_sub(now_ns()).saturating_mul(PACE);
        std::thread::park_timeout(Duration::from_nanos(left).min(NAP));
    }
}

/// Ends a run that hangs.
fn guard() {
    let now = real_ns();
    let limit = LIMIT_S.load(Relaxed);
    if now / 1_000_000_000 >= limit {
        watchdog::bark(&format!("the run has not come to its end within {limit} s"));
    }
    for (vcpu, seat) in SEATS[..processor::count() as usize].iter().enumerate() {
        let since = seat.spins_since.load(Relaxed);
        if since != 0 && now.saturating_sub(since) > LONGEST_SPIN.as_nanos() as u64 {
            watchdog::bark(&format!("processor {vcpu} spins and does not come out of it"));
        }
    }
}

/// The signals that [`signalled`] wants.
pub const SIGNALS: [i32; 2] = [KICK, TICK];

/// The first line of a run.
pub fn introduction(vcpus: u32) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "threads mode: {vcpus} processors on {cores} of the host; not repeatable; single steps, watched shared pages, \
         delayed stores, failures by count and power cuts are off"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_come_and_go() {
        add(0x1000, 0x3000);
        add(0x5000, 0x6000);
        assert!(in_driver(0x1000) && in_driver(0x2fff) && in_driver(0x5000));
        assert!(!in_driver(0xfff) && !in_driver(0x3000) && !in_driver(0));
        forget(0x1000);
        assert!(!in_driver(0x1000) && in_driver(0x5000));
        forget(0x5000);
    }

    #[test]
    fn a_thread_that_carries_no_processor_has_no_seat() {
        assert_eq!(own(), processor::MAX);
        assert!(signalled(KICK, 0, 0) && signalled(TICK, 0, 0) && !signalled(libc::SIGSEGV, 0, 0));
    }
}
