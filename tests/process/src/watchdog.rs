//! Ends a run that hangs, with a report of who spins and who waits. In the seeded mode its bounds count what the machine
//! does and simulated time, never real time, so a hang is as reproducible as everything else; in the mode with threads the
//! keeper looks at the host's clock.

use crate::{host, processor, threads};
use nt::ke::sched::{self, Thread};
use nt::{loader, verifier};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::Relaxed};

/// What the report of a run says that ended with a power cut.
pub const POWER_CUT: &str = "the power was cut";
/// A processor that spins this often and does nothing else never comes out of it.
const MOST_SPINS: u64 = 3_000_000;
/// Simulated time that the run's first thread may wait at one place, in units of 100 ns: half an hour.
const LONGEST_WAIT: u64 = 30 * 60 * 10_000_000;

static SPINS: [AtomicU64; processor::MAX] = [const { AtomicU64::new(0) }; processor::MAX];
static STEPS: AtomicU64 = AtomicU64::new(0);
static MOST_STEPS: AtomicU64 = AtomicU64::new(u64::MAX);
static DIES_AT: AtomicU64 = AtomicU64::new(u64::MAX);
static FIRST: AtomicPtr<Thread> = AtomicPtr::new(std::ptr::null_mut());
static BARKED: AtomicBool = AtomicBool::new(false);

/// Sets the greatest number of preemption points of the run, and the one at which the power goes.
pub fn set_up(most_steps: u64, dies_at: Option<u64>) {
    MOST_STEPS.store(most_steps, Relaxed);
    DIES_AT.store(dies_at.unwrap_or(u64::MAX), Relaxed);
}

/// Names the thread that the run is about.
pub fn watch(first: *mut Thread) {
    FIRST.store(first, Relaxed);
}

/// Preemption points so far.
pub fn steps() -> u64 {
    STEPS.load(Relaxed)
}

/// At every preemption point.
pub fn step(spins: bool) {
    let current = processor::current();
    let steps = STEPS.fetch_add(1, Relaxed) + 1;
    if steps >= DIES_AT.load(Relaxed) {
        host::stop_with(POWER_CUT);
    }
    let counter = &SPINS[current as usize];
    let spun = if spins { counter.load(Relaxed) + 1 } else { 0 };
    counter.store(spun, Relaxed);
    if spun > MOST_SPINS {
        bark(&format!("processor {current} spins and does not come out of it"));
    }
    if steps > MOST_STEPS.load(Relaxed) {
        bark(&format!("the run has not come to its end within {steps} preemption points"));
    }
}

/// When every processor idles, before time passes.
pub fn idle() {
    let first = FIRST.load(Relaxed);
    if !first.is_null() && sched::waiting_for(first).is_some_and(|waited| waited > LONGEST_WAIT) {
        bark("the run's first thread waits for what does not come");
    }
}

/// Ends the run.
pub fn bark(why: &str) -> ! {
    if threads::on() {
        threads::stop_all();
    }
    let states: Vec<String> = (0..processor::count()).map(processor::describe).collect();
    processor::disable();
    verifier::stop_judging();
    if BARKED.swap(true, Relaxed) {
        host::stop_with("hang: the report itself waits for a lock that is held");
    }
    let mut report = format!("hang: {why}; {} ms of simulated time\n", processor::now_ns() / 1_000_000);
    for (vcpu, state) in states.iter().enumerate() {
        let spins = SPINS[vcpu].load(Relaxed);
        let last = loader::describe(verifier::caller_on(vcpu as u32));
        let _ = writeln!(report, "processor {vcpu}: {state}, {spins} spins in a row, last driver call from {last}");
    }
    sched::describe_threads(&mut report, processor::stack_pointer);
    host::stop_with(report.trim_end())
}
