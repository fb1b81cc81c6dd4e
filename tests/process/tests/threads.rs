//! The mode with real threads: processors run at the same time, and a run that hangs is ended with a report.

mod common;

use common::{in_child, run};
use nt::ke::abi::*;
use nt::ke::*;
use nt::platform::{Point, platform};
use process::{BenchConfig, Ctx, Outcome};
use std::ffi::c_void;
use std::ptr::null;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

fn config(vcpus: u32, limit_s: u64) -> BenchConfig {
    BenchConfig { vcpus, ram_mib: 64, threads: Some(Duration::from_secs(limit_s)), ..BenchConfig::default() }
}

fn done<R>(outcome: Outcome<R>) -> R {
    match outcome {
        Outcome::Done(result) => result,
        Outcome::Stopped(stop) => panic!("{}", stop.report),
    }
}

fn report<R>(outcome: Outcome<R>) -> String {
    match outcome {
        Outcome::Done(_) => panic!("the run came to its end"),
        Outcome::Stopped(stop) => stop.report,
    }
}

/// What the threads of a test share.
struct Shared {
    lock: usize,
    plain: u64,
    turn: AtomicU32,
    left: AtomicU32,
    over: Event,
}

/// Runs `count` threads of `routine`, and waits for them. Each counts `left` down at its end.
fn with_threads(count: u32, routine: sched::StartRoutine) -> Shared {
    let header =
        DispatcherHeader { kind: 0, flags: 0, size: 0, inserted: 0, signal_state: 0, wait_list: ListEntry::unlinked() };
    let mut shared = Box::new(Shared {
        lock: 0,
        plain: 0,
        turn: AtomicU32::new(0),
        left: AtomicU32::new(count),
        over: Event { header },
    });
    // SAFETY: the state is boxed, and waited for.
    unsafe {
        let place: *mut Shared = &raw mut *shared;
        KeInitializeEvent(&raw mut (*place).over, 0, 0);
        for _ in 0..count {
            let thread = create(routine, place.cast(), 8).expect("a thread");
            nt::ob::ObfDereferenceObject(thread.cast());
        }
        KeWaitForSingleObject((&raw mut (*place).over).cast(), 0, 0, 0, null());
    }
    *shared
}

unsafe fn is_over(shared: *mut Shared) {
    // SAFETY: the shared state outlives the threads.
    unsafe {
        if (*shared).left.fetch_sub(1, SeqCst) == 1 {
            KeSetEvent(&raw mut (*shared).over, 0, 0);
        }
    }
}

/// Passes a turn to and fro without anything that could let another processor go on.
unsafe extern "win64" fn passer(context: *mut c_void) {
    // SAFETY: the shared state outlives the threads.
    unsafe {
        let shared = context.cast::<Shared>();
        let old = KfRaiseIrql(DISPATCH_LEVEL);
        let own = (*shared).turn.fetch_add(1000, SeqCst) / 1000;
        for round in 0..100 {
            while (*shared).turn.load(SeqCst) != 2000 + 2 * round + own {
                std::hint::spin_loop();
            }
            (*shared).turn.fetch_add(1, SeqCst);
        }
        KeLowerIrql(old);
        is_over(shared);
    }
}

#[test]
fn processors_run_at_the_same_time() {
    in_child("processors_run_at_the_same_time", || {
        let shared = done(run(config(2, 30), |_: &Ctx| with_threads(2, passer)));
        assert_eq!(shared.turn.load(SeqCst), 2200);
    });
}

unsafe extern "win64" fn contender(context: *mut c_void) {
    // SAFETY: the shared state outlives the threads; `plain` is guarded by the lock.
    unsafe {
        let shared = context.cast::<Shared>();
        for _ in 0..2000 {
            let old = KeAcquireSpinLockRaiseToDpc(&raw mut (*shared).lock);
            (*shared).plain += 1;
            KeReleaseSpinLock(&raw mut (*shared).lock, old);
        }
        is_over(shared);
    }
}

#[test]
fn a_spin_lock_keeps_others_out() {
    in_child("a_spin_lock_keeps_others_out", || {
        let shared = done(run(config(4, 30), |_: &Ctx| with_threads(6, contender)));
        assert_eq!(shared.plain, 12_000);
    });
}

#[test]
fn time_jumps_while_everybody_sleeps() {
    in_child("time_jumps_while_everybody_sleeps", || {
        let slept = done(run(config(2, 30), |ctx: &Ctx| {
            let before = ctx.now_ns();
            ctx.sleep_ms(3_600_000);
            ctx.now_ns() - before
        }));
        assert!(slept >= 3_600_000_000_000);
    });
}

#[test]
fn a_deadlock_is_reported() {
    in_child("a_deadlock_is_reported", || {
        unsafe extern "win64" fn nothing(_: *mut c_void) {}
        let report = report(run(config(2, 30), |_: &Ctx| with_threads(1, nothing)));
        assert!(report.starts_with("hang: deadlock: every processor idles"), "{report}");
        assert!(report.contains("processor 1: halted") && report.contains("waits for an event"), "{report}");
    });
}

unsafe extern "win64" fn spinner(_: *mut c_void) {
    loop {
        platform().preempt(Point::Spin);
    }
}

#[test]
fn a_run_without_an_end_is_ended() {
    in_child("a_run_without_an_end_is_ended", || {
        let report = report(run(config(2, 1), |_: &Ctx| with_threads(1, spinner)));
        assert!(report.starts_with("hang: the run has not come to its end within 1 s"), "{report}");
        assert!(report.contains("stands in the bench, spins for"), "{report}");
    });
}
