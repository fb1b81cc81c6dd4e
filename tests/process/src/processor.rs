//! The virtual processors: contexts, interrupt state, the seeded scheduler, simulated time.
//!
//! In the seeded mode everything here runs on the one OS thread that carries the machine, and the cells are atomics only
//! so that no `static mut` is needed. In the mode with [`threads`] each processor is an OS thread of its own: it alone
//! writes its cells, but for what is pending and whether it is halted.

use crate::threads;
use nt::ke::{self, CLOCK_VECTOR, stack};
use nt::platform::{PAGE_SIZE, Point};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};

/// Most processors.
pub const MAX: usize = 64;
/// Bytes of the stack on which a processor starts and idles.
const BOOT_STACK: usize = 256 << 10;
/// Nanoseconds that pass at a preemption point.
const STEP_NS: u64 = 120;
/// Nanoseconds that a processor is taken away for at most, at a time.
const AWAY_NS: u32 = 40_000;

/// One processor.
struct Vcpu {
    pending: [AtomicU64; 4],
    irql: AtomicU8,
    enabled: AtomicBool,
    halted: AtomicBool,
    rsp: AtomicUsize,
    area: AtomicUsize,
}

/// The processors, and one more for OS threads that carry none: its interrupts are never enabled.
static VCPUS: [Vcpu; MAX + 1] = [const {
    Vcpu {
        pending: [const { AtomicU64::new(0) }; 4],
        irql: AtomicU8::new(0),
        enabled: AtomicBool::new(false),
        halted: AtomicBool::new(false),
        rsp: AtomicUsize::new(0),
        area: AtomicUsize::new(0),
    }
}; MAX + 1];
static COUNT: AtomicU32 = AtomicU32::new(1);
static CURRENT: AtomicU32 = AtomicU32::new(0);
static NOW_NS: AtomicU64 = AtomicU64::new(0);
static CLOCK: AtomicU64 = AtomicU64::new(u64::MAX);
static HOST_RSP: AtomicUsize = AtomicUsize::new(0);
static TRACE: AtomicU64 = AtomicU64::new(0xcbf2_9ce4_8422_2325);
static SWITCHES: AtomicU64 = AtomicU64::new(0);
static RNG: Mutex<Option<Pcg64>> = Mutex::new(None);

/// A line of the IOAPIC.
#[derive(Clone, Copy, Default)]
struct Line {
    level: bool,
    to: Option<(u32, u8)>,
}
static LINES: Mutex<BTreeMap<u32, Line>> = Mutex::new(BTreeMap::new());

fn me() -> &'static Vcpu {
    &VCPUS[if threads::on() { threads::own() } else { CURRENT.load(Relaxed) as usize }]
}

/// A random number below `limit`.
pub fn below(limit: u32) -> u32 {
    let mut rng = RNG.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    rng.as_mut().map_or(0, |rng| rng.random_range(0..limit))
}

/// A random word.
pub fn random() -> u64 {
    let mut rng = RNG.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    rng.as_mut().map_or(0, RngExt::random)
}

/// Mixes an event into the hash that proves two runs to be the same.
pub fn trace(event: u64) {
    if threads::on() {
        return;
    }
    TRACE.store((TRACE.load(Relaxed) ^ event).wrapping_mul(0x0100_0000_01b3), Relaxed);
}

/// The hash of everything that happened so far.
pub fn trace_hash() -> u64 {
    TRACE.load(Relaxed)
}

/// How often one processor was left for another.
pub fn switches() -> u64 {
    SWITCHES.load(Relaxed)
}

/// The machine's time.
pub fn now_ns() -> u64 {
    if threads::on() { threads::now_ns() } else { NOW_NS.load(Relaxed) }
}

/// Lets simulated time pass; with threads it passes by itself.
pub fn advance(ns: u64) {
    if threads::on() {
        return;
    }
    NOW_NS.fetch_add(ns, Relaxed);
    tick();
}

/// A processor waits for time to pass.
pub fn stall(ns: u64) {
    if threads::on() {
        threads::stall(ns);
    } else {
        advance(ns);
        preempt(Point::Spin);
    }
}

/// Has the clock interrupt if it is time.
pub fn tick() {
    let clock = CLOCK.load(Relaxed);
    // With threads somebody may set it anew meanwhile.
    if now_ns() / 100 >= clock && CLOCK.compare_exchange(clock, u64::MAX, SeqCst, Relaxed).is_ok() {
        make_pending(0, CLOCK_VECTOR);
    }
}

/// Asks for the clock's vector at a time.
pub fn set_clock(when: u64) {
    CLOCK.store(when, SeqCst);
    tick();
    if threads::on() {
        threads::wake_keeper();
    }
}

/// The processor that runs; 0 on an OS thread that carries none.
pub fn current() -> u32 {
    if threads::on() { (threads::own() % MAX) as u32 } else { CURRENT.load(Relaxed) }
}

/// How many there are.
pub fn count() -> u32 {
    COUNT.load(Relaxed)
}

/// CR8 of the processor that runs.
pub fn irql() -> u8 {
    me().irql.load(Relaxed)
}

/// Writes CR8.
pub fn set_irql(irql: u8) {
    me().irql.store(irql, Relaxed);
    crate::paged::irql_is(irql);
    deliver();
}

/// Clears IF.
pub fn disable() -> bool {
    me().enabled.swap(false, Relaxed)
}

/// Whether IF is set.
pub fn enabled() -> bool {
    me().enabled.load(Relaxed)
}

/// Sets IF.
pub fn restore(enabled: bool) {
    me().enabled.store(enabled, Relaxed);
    if enabled {
        deliver();
    }
}

/// Makes a vector pending; nothing runs.
pub fn make_pending(vcpu: u32, vector: u8) {
    if let Some(cpu) = VCPUS[..count() as usize].get(vcpu as usize) {
        cpu.pending[vector as usize / 64].fetch_or(1 << (vector % 64), SeqCst);
        let halted = cpu.halted.swap(false, SeqCst);
        if threads::on() && threads::own() != vcpu as usize {
            threads::notify(vcpu, halted);
        }
    }
}

/// Makes a vector pending and delivers it if it is for the processor that runs.
pub fn request(vcpu: u32, vector: u8) {
    make_pending(vcpu, vector);
    if vcpu == current() {
        deliver();
    }
}

/// The level of an interrupt line changed.
pub fn set_line(gsi: u32, level: bool) {
    let mut lines = LINES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let line = lines.entry(gsi).or_default();
    let rose = level && !line.level;
    line.level = level;
    let to = line.to;
    drop(lines);
    if rose && let Some((vcpu, vector)) = to {
        make_pending(vcpu, vector);
    }
}

/// Where an interrupt line goes.
pub fn route(gsi: u32, to: Option<(u32, u8)>) {
    let mut lines = LINES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let line = lines.entry(gsi).or_default();
    line.to = to;
    let raised = line.level;
    drop(lines);
    if raised && let Some((vcpu, vector)) = to {
        make_pending(vcpu, vector);
    }
}

/// EOI: a level-triggered line that is still raised interrupts again.
pub fn end_of_interrupt(vector: u8) {
    crate::host::with_xen(xen_model::Xen::sync_interrupt_line);
    let lines = LINES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let again: Vec<(u32, u8)> =
        lines.values().filter(|line| line.level).filter_map(|line| line.to).filter(|to| to.1 == vector).collect();
    drop(lines);
    for (vcpu, vector) in again {
        make_pending(vcpu, vector);
    }
}

fn deliverable(vcpu: &Vcpu) -> Option<u8> {
    let word = (0..4).rev().find(|&word| vcpu.pending[word].load(SeqCst) != 0)?;
    let bit = vcpu.pending[word].load(Relaxed).ilog2();
    let vector = (word as u32 * 64 + bit) as u8;
    (vector >> 4 > vcpu.irql.load(Relaxed)).then_some(vector)
}

/// Whether [`deliver`] would deliver anything.
pub fn due() -> bool {
    let vcpu = me();
    vcpu.enabled.load(Relaxed) && deliverable(vcpu).is_some()
}

/// Delivers what is pending and not masked, on the stack that runs. The thread may come back on another processor.
pub fn deliver() {
    loop {
        let vcpu = me();
        if !vcpu.enabled.load(Relaxed) {
            return;
        }
        if threads::on() {
            threads::perhaps_stand_still();
        }
        let Some(vector) = deliverable(vcpu) else { return };
        vcpu.pending[vector as usize / 64].fetch_and(!(1 << (vector % 64)), SeqCst);
        vcpu.enabled.store(false, Relaxed);
        trace(u64::from(current()) << 8 | u64::from(vector));
        ke::interrupt::dispatch(vector);
        me().enabled.store(true, Relaxed);
    }
}

/// Lets the model work. False: it had nothing to do.
pub fn step_model() -> bool {
    let moved = crate::host::with_xen(|xen| xen.step(now_ns())).unwrap_or(false) | crate::adapter::work();
    if moved {
        trace(0x57e9);
    }
    moved
}

/// A preemption point.
pub fn preempt(point: Point) {
    if threads::on() {
        match point {
            Point::Spin => threads::spin(),
            Point::Call => threads::called(),
            Point::Release => threads::pause(),
        }
        deliver();
        return;
    }
    if HOST_RSP.load(Relaxed) == 0 {
        return;
    }
    crate::watchdog::step(point == Point::Spin);
    crate::step::perhaps_open();
    crate::touch::window();
    advance(STEP_NS);
    let dice = below(64);
    if point == Point::Spin || dice < 4 {
        step_model();
    }
    deliver();
    let leave = match point {
        Point::Spin => true,
        Point::Call => dice.is_multiple_of(8),
        Point::Release => dice.is_multiple_of(16),
    };
    if leave && count() > 1 {
        let others = count() - 1;
        let start = below(others);
        let own = current();
        let next = (0..others).map(|step| (own + 1 + (start + step) % others) % count()).find(|&n| runnable(n));
        if let Some(next) = next {
            switch(next);
            deliver();
        }
    } else if point == Point::Spin && count() == 1 {
        // A lone processor that spins waits for the model or for time.
        advance(1000);
        deliver();
    }
}

/// A preemption between two instructions of a driver: an interrupt may come in, and another processor may go on.
pub fn preempt_here() {
    advance(STEP_NS);
    if below(4) == 0 {
        step_model();
    }
    deliver();
    if count() > 1 && below(2) == 0 {
        let others = count() - 1;
        let (own, start) = (current(), below(others));
        let next = (0..others).map(|step| (own + 1 + (start + step) % others) % count()).find(|&n| runnable(n));
        if let Some(next) = next {
            switch(next);
            deliver();
        }
    }
}

/// A preemption before an access to a page that the other side writes too.
pub fn preempt_at_access() {
    crate::watchdog::step(false);
    match below(16) {
        0 => others_work(),
        1..4 => {
            advance(STEP_NS);
            step_model();
        }
        4 | 5 => preempt_here(),
        _ => {}
    }
}

/// The hypervisor takes the processor away for a while: time passes and the model works, and nothing of the guest runs.
pub fn others_work() {
    for _ in 0..=below(3) {
        advance(u64::from(below(AWAY_NS)));
        step_model();
    }
}

/// What a processor is at, for reports.
pub fn describe(vcpu: u32) -> String {
    let cpu = &VCPUS[vcpu as usize];
    let halted = if cpu.halted.load(Relaxed) { "halted" } else { "runs" };
    let interrupts = if cpu.enabled.load(Relaxed) { "on" } else { "off" };
    let pending: Vec<String> = (0..=255_u8)
        .filter(|vector| cpu.pending[*vector as usize / 64].load(Relaxed) >> (vector % 64) & 1 != 0)
        .map(|vector| format!("{vector:#x}"))
        .collect();
    let place = if threads::on() { threads::describe(vcpu) } else { String::new() };
    format!(
        "{halted}, IRQL {}, interrupts {interrupts}, pending [{}]{place}",
        cpu.irql.load(Relaxed),
        pending.join(", ")
    )
}

/// Where a processor's stack ends now: its saved one, or the caller's on the processor that runs.
pub fn stack_pointer(vcpu: u32) -> usize {
    if threads::on() {
        return threads::stack_pointer(vcpu);
    }
    if vcpu == current() {
        let here = 0_u8;
        return (&raw const here) as usize;
    }
    VCPUS[vcpu as usize].rsp.load(Relaxed)
}

fn runnable(vcpu: u32) -> bool {
    !VCPUS[vcpu as usize].halted.load(Relaxed)
}

/// Whether every processor waits for an interrupt and none is pending.
pub fn all_idle() -> bool {
    VCPUS[..count() as usize]
        .iter()
        .all(|vcpu| vcpu.halted.load(SeqCst) && vcpu.pending.iter().all(|word| word.load(SeqCst) == 0))
}

/// When the clock, or the model, next wants something.
pub fn next_deadline_ns() -> u64 {
    let clock = CLOCK.load(Relaxed).saturating_mul(100);
    let model = crate::host::with_xen(|xen| xen.next_deadline_ns()).flatten().unwrap_or(u64::MAX);
    clock.min(model)
}

/// Waits for an interrupt.
pub fn halt() {
    if threads::on() {
        let vcpu = me();
        threads::halt(&vcpu.halted, || deliverable(vcpu).is_some());
        deliver();
        return;
    }
    me().halted.store(true, Relaxed);
    let mut idle_steps = 0_u32;
    loop {
        if !me().halted.load(Relaxed) {
            deliver();
            return;
        }
        let start = below(count());
        if let Some(next) = (0..count()).map(|step| (start + step) % count()).find(|&n| runnable(n)) {
            idle_steps = 0;
            if next != current() {
                switch(next);
            }
            continue;
        }
        if step_model() {
            advance(STEP_NS);
            idle_steps += 1;
            if idle_steps < 100_000 {
                continue;
            }
            crate::watchdog::bark("the model works on and on while every processor idles");
        }
        let next = next_deadline_ns();
        if next == u64::MAX {
            crate::watchdog::bark("deadlock: every processor idles, no timer is set, and no backend has work");
        }
        crate::watchdog::idle();
        advance(next.saturating_sub(now_ns()).max(1));
    }
}

/// Leaves this processor for another, on the other's stack.
fn switch(next: u32) {
    let from = current();
    SWITCHES.fetch_add(1, Relaxed);
    trace(0xc9_0000 | u64::from(next));
    CURRENT.store(next, Relaxed);
    crate::paged::irql_is(irql());
    load_area();
    // SAFETY: the other context was saved by this function or made by `run`.
    unsafe { stack::change(VCPUS[from as usize].rsp.as_ptr(), VCPUS[next as usize].rsp.load(Relaxed)) };
}

fn load_area() {
    const ARCH_SET_GS: i64 = 0x1001;
    // SAFETY: sets GS base, which nothing but driver code uses in this process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, me().area.load(Relaxed)) };
}

/// GS base of the processor that runs.
pub fn set_area(area: usize) {
    me().area.store(area, Relaxed);
    load_area();
}

/// Says how many processors there are and what decides between them. Before anything else.
pub fn prepare(vcpus: u32, seed: u64) {
    COUNT.store(vcpus, Relaxed);
    *RNG.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Pcg64::seed_from_u64(seed));
}

/// Runs the machine until [`leave`].
pub fn run() {
    for vcpu in &VCPUS[..count() as usize] {
        // Guest memory, as every stack that a driver may run on: hypercalls take pointers into it.
        let stack = crate::frames::memory().alloc_pages(BOOT_STACK / PAGE_SIZE).expect("RAM for the first stacks");
        let top = stack.as_ptr() as usize + BOOT_STACK;
        // SAFETY: the end of the fresh stack.
        vcpu.rsp.store(unsafe { stack::prepare(top, first) }, Relaxed);
    }
    if threads::on() {
        let stacks: Vec<usize> = VCPUS[..count() as usize].iter().map(|vcpu| vcpu.rsp.load(Relaxed)).collect();
        threads::run(&stacks);
        return;
    }
    CURRENT.store(0, Relaxed);
    // SAFETY: the context was made above; `leave` comes back here.
    unsafe { stack::change(HOST_RSP.as_ptr(), VCPUS[0].rsp.load(Relaxed)) };
    HOST_RSP.store(0, Relaxed);
}

/// Ends the machine: goes back to where [`run`] was called.
pub fn leave() -> ! {
    if threads::on() {
        threads::leave();
    }
    let mut nowhere = 0_usize;
    // SAFETY: `run` stored its context; nothing of the machine runs again.
    unsafe { stack::change(&raw mut nowhere, HOST_RSP.load(Relaxed)) };
    unreachable!("the machine was left")
}

/// Whether the machine runs.
pub fn running() -> bool {
    HOST_RSP.load(Relaxed) != 0 || threads::running()
}

#[unsafe(naked)]
unsafe extern "sysv64" fn first() {
    core::arch::naked_asm!("xor ebp, ebp", "call {enter}", "ud2", enter = sym enter)
}

extern "sysv64" fn enter() -> ! {
    ke::run_processor()
}
