//! Threads, waits, timers, DPCs, IRQL and pool on the simulated machine.

mod common;

use common::{in_child, run};
use nt::ke::abi::*;
use nt::ke::*;
use process::{BenchConfig, Ctx, Outcome};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

fn done<R: std::fmt::Debug>(outcome: Outcome<R>) -> R {
    match outcome {
        Outcome::Done(result) => result,
        Outcome::Stopped(stop) => panic!("{}", stop.report),
    }
}

fn violation(outcome: Outcome<()>) -> String {
    match outcome {
        Outcome::Done(()) => panic!("the rule was not enforced"),
        Outcome::Stopped(stop) => stop.report,
    }
}

fn config(vcpus: u32, seed: u64) -> BenchConfig {
    BenchConfig { vcpus, seed, ram_mib: 64, ..BenchConfig::default() }
}

/// What the threads of `contend` share.
struct Shared {
    lock: usize,
    plain: u64,
    left: AtomicU32,
    over: Event,
}

unsafe extern "win64" fn contender(context: *mut c_void) {
    // SAFETY: the shared state outlives the threads; `plain` is guarded by the lock.
    unsafe {
        let shared = &mut *context.cast::<Shared>();
        for _ in 0..200 {
            let old = KeAcquireSpinLockRaiseToDpc(&raw mut shared.lock);
            let value = shared.plain;
            nt::platform::platform().preempt(nt::platform::Point::Call);
            shared.plain = value + 1;
            KeReleaseSpinLock(&raw mut shared.lock, old);
        }
        if shared.left.fetch_sub(1, SeqCst) == 1 {
            KeSetEvent(&raw mut shared.over, 0, 0);
        }
    }
}

fn contend(ctx: &Ctx) -> (u64, u64, u64) {
    let mut shared = Box::new(Shared { lock: 0, plain: 0, left: AtomicU32::new(6), over: unsafe_zeroed_event() });
    // SAFETY: the state is boxed and waited for.
    unsafe {
        let place: *mut Shared = &raw mut *shared;
        KeInitializeEvent(&raw mut (*place).over, 0, 0);
        for _ in 0..6 {
            let thread = create(contender, place.cast(), 8).expect("a thread");
            nt::ob::ObfDereferenceObject(thread.cast());
        }
        KeWaitForSingleObject((&raw mut (*place).over).cast(), 0, 0, 0, std::ptr::null());
        ((*place).plain, ctx.trace_hash(), ctx.switches())
    }
}

fn unsafe_zeroed_event() -> Event {
    Event {
        header: DispatcherHeader {
            kind: 0,
            flags: 0,
            size: 0,
            inserted: 0,
            signal_state: 0,
            wait_list: ListEntry::unlinked(),
        },
    }
}

#[test]
fn spin_locks_exclude() {
    in_child("spin_locks_exclude", || {
        let (sum, hash, switches) = done(run(config(4, 7), contend));
        assert_eq!(sum, 1200);
        assert!(switches > 10, "the scheduler switched {switches} times only");
        println!("trace {hash:#x}");
    });
}

#[test]
fn one_seed_is_one_run() {
    let hash = |seed: &str| {
        let output = std::process::Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "hash_of_a_run", "--ignored", "--nocapture"])
            .env("PROCESS_TEST_SEED", seed)
            .output()
            .expect("this binary runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split("trace ").nth(1).expect("a hash").lines().next().expect("a line").to_owned()
    };
    let first = hash("3");
    assert_eq!(first, hash("3"));
    assert_ne!(first, hash("4"));
}

#[test]
#[ignore = "run by one_seed_is_one_run"]
fn hash_of_a_run() {
    let Ok(seed) = std::env::var("PROCESS_TEST_SEED") else { return };
    let (_, hash, _) = done(run(config(4, seed.parse().expect("a number")), contend));
    println!("trace {hash:#x}");
}

#[test]
fn waits_time_out_and_timers_fire() {
    in_child("waits_time_out_and_timers_fire", || {
        done(run(config(2, 1), |ctx| {
            // SAFETY: objects on this stack, which outlives their use.
            unsafe {
                let mut event = unsafe_zeroed_event();
                KeInitializeEvent(&raw mut event, 1, 0);
                let before = ctx.now_ns();
                let timeout = -50_000_i64;
                let status = KeWaitForSingleObject((&raw mut event).cast(), 0, 0, 0, &raw const timeout);
                assert_eq!(status, nt::status::STATUS_TIMEOUT);
                let waited = ctx.now_ns() - before;
                assert!((5_000_000..6_000_000).contains(&waited), "{waited}");

                let mut timer: Timer = std::mem::zeroed();
                KeInitializeTimerEx(&raw mut timer, 1);
                KeSetTimerEx(&raw mut timer, -10_000, 2, null_mut());
                for _ in 0..5 {
                    let status = KeWaitForSingleObject((&raw mut timer).cast(), 0, 0, 0, std::ptr::null());
                    assert_eq!(status, 0);
                }
                assert_eq!(KeCancelTimer(&raw mut timer), 1);

                let mut mutex: Mutex = std::mem::zeroed();
                KeInitializeMutex(&raw mut mutex, 0);
                for _ in 0..3 {
                    KeWaitForSingleObject((&raw mut mutex).cast(), 0, 0, 0, std::ptr::null());
                }
                assert_eq!(KeReadStateMutex(&raw mut mutex), -2);
                for _ in 0..3 {
                    KeReleaseMutex(&raw mut mutex, 0);
                }
                KeSetEvent(&raw mut event, 0, 0);
                let mut other = unsafe_zeroed_event();
                KeInitializeEvent(&raw mut other, 0, 0);
                let objects = [(&raw mut other).cast(), (&raw mut event).cast::<c_void>()];
                let status = KeWaitForMultipleObjects(2, objects.as_ptr(), 1, 0, 0, 0, std::ptr::null(), null_mut());
                assert_eq!(status, 1);
            }
        }));
    });
}

static DPC_CPU: AtomicU32 = AtomicU32::new(u32::MAX);

unsafe extern "win64" fn note_cpu(_: *mut Dpc, _: *mut c_void, _: *mut c_void, _: *mut c_void) {
    assert_eq!(nt::platform::platform().irql(), DISPATCH_LEVEL);
    DPC_CPU.store(nt::platform::platform().current_processor(), SeqCst);
}

#[test]
fn dpcs_run_where_they_are_sent() {
    in_child("dpcs_run_where_they_are_sent", || {
        done(run(config(4, 5), |_| {
            // SAFETY: the DPC outlives its run, which the flush waits for.
            unsafe {
                let mut dpc: Dpc = std::mem::zeroed();
                KeInitializeDpc(&raw mut dpc, Some(note_cpu), null_mut());
                for target in 0..4_u8 {
                    let number = ProcessorNumber { group: 0, number: target, reserved: 0 };
                    assert_eq!(KeSetTargetProcessorDpcEx(&raw mut dpc, &raw const number), 0);
                    assert_eq!(KeInsertQueueDpc(&raw mut dpc, null_mut(), null_mut()), 1);
                    KeFlushQueuedDpcs();
                    assert_eq!(DPC_CPU.load(SeqCst), u32::from(target));
                }
                // At DISPATCH_LEVEL the own processor's DPC waits.
                let old = KfRaiseIrql(DISPATCH_LEVEL);
                let here = KeGetCurrentProcessorNumber();
                KeSetTargetProcessorDpc(&raw mut dpc, here as i8);
                DPC_CPU.store(99, SeqCst);
                KeInsertQueueDpc(&raw mut dpc, null_mut(), null_mut());
                assert_eq!(DPC_CPU.load(SeqCst), 99);
                KeLowerIrql(old);
                assert_eq!(DPC_CPU.load(SeqCst), here);
            }
        }));
    });
}

static IPI_SEEN: AtomicU32 = AtomicU32::new(0);

unsafe extern "win64" fn everywhere(_: usize) -> usize {
    assert_eq!(nt::platform::platform().irql(), IPI_LEVEL);
    IPI_SEEN.fetch_or(1 << nt::platform::platform().current_processor(), SeqCst);
    0
}

#[test]
fn a_generic_call_reaches_every_processor() {
    in_child("a_generic_call_reaches_every_processor", || {
        done(run(config(8, 2), |_| {
            // SAFETY: a worker that only notes where it ran.
            unsafe { KeIpiGenericCall(everywhere, 0) };
        }));
        assert_eq!(IPI_SEEN.load(SeqCst), 0xff);
    });
}

#[test]
fn pool_overruns_are_found() {
    in_child("pool_overruns_are_found", || {
        let report = violation(run(config(1, 1), |_| {
            // SAFETY: the overrun stays inside of the block's fence.
            unsafe {
                let block = nt::ex::ExAllocatePoolWithTag(512, 100, u32::from_le_bytes(*b"Test")).cast::<u8>();
                block.add(100).write(1);
                nt::ex::ExFreePool(block.cast());
            }
        }));
        assert!(report.contains("overrun") && report.contains("Test"), "{report}");
    });
}

#[test]
fn double_frees_are_found() {
    in_child("double_frees_are_found", || {
        let report = violation(run(config(1, 1), |_| {
            // SAFETY: the second free is what is tested; it is refused before it touches anything.
            unsafe {
                let block = nt::ex::ExAllocatePoolWithTag(512, 5000, u32::from_le_bytes(*b"Test"));
                nt::ex::ExFreePool(block);
                nt::ex::ExFreePool(block);
            }
        }));
        assert!(report.contains("freed"), "{report}");
    });
}

#[test]
fn waiting_at_dispatch_level_is_found() {
    in_child("waiting_at_dispatch_level_is_found", || {
        let report = violation(run(config(1, 1), |_| {
            // SAFETY: the wait is refused before it blocks.
            unsafe {
                let mut event = unsafe_zeroed_event();
                KeInitializeEvent(&raw mut event, 0, 0);
                KfRaiseIrql(DISPATCH_LEVEL);
                KeWaitForSingleObject((&raw mut event).cast(), 0, 0, 0, std::ptr::null());
            }
        }));
        assert!(report.contains("IRQL 2"), "{report}");
    });
}

#[test]
fn lock_order_is_kept() {
    in_child("lock_order_is_kept", || {
        let report = violation(run(config(1, 1), |_| {
            let (mut a, mut b) = (0_usize, 0_usize);
            // SAFETY: two locks of this stack.
            unsafe {
                let old = KeAcquireSpinLockRaiseToDpc(&raw mut a);
                KeAcquireSpinLockAtDpcLevel(&raw mut b);
                KeReleaseSpinLockFromDpcLevel(&raw mut b);
                KeReleaseSpinLockFromDpcLevel(&raw mut a);
                KeAcquireSpinLockAtDpcLevel(&raw mut b);
                KeAcquireSpinLockAtDpcLevel(&raw mut a);
                KeLowerIrql(old);
            }
        }));
        assert!(report.contains("lock order"), "{report}");
    });
}

#[test]
fn a_dead_end_is_reported() {
    in_child("a_dead_end_is_reported", || {
        let report = violation(run(config(2, 1), |_| {
            // SAFETY: an event that nobody sets.
            unsafe {
                let mut event = unsafe_zeroed_event();
                KeInitializeEvent(&raw mut event, 0, 0);
                KeWaitForSingleObject((&raw mut event).cast(), 0, 0, 0, std::ptr::null());
            }
        }));
        assert!(report.contains("deadlock"), "{report}");
    });
}

/// Waits for an event that nobody sets.
fn wait_for_ever() {
    // SAFETY: an event of this stack.
    unsafe {
        let mut event = unsafe_zeroed_event();
        KeInitializeEvent(&raw mut event, 0, 0);
        KeWaitForSingleObject((&raw mut event).cast(), 0, 0, 0, std::ptr::null());
    }
}

#[test]
fn a_processor_that_spins_for_ever_is_named() {
    in_child("a_processor_that_spins_for_ever_is_named", || {
        unsafe extern "win64" fn spinner(_: *mut c_void) {
            loop {
                nt::platform::platform().preempt(nt::platform::Point::Spin);
            }
        }
        let report = violation(run(config(2, 1), |_| {
            // SAFETY: the routine uses no context.
            unsafe { create(spinner, null_mut(), 8) }.expect("a thread");
            wait_for_ever();
        }));
        assert!(report.starts_with("hang: processor") && report.contains("spins"), "{report}");
        assert!(report.contains("waits for an event"), "who waits is not named: {report}");
    });
}

#[test]
fn a_wait_without_end_is_found_though_time_goes_on() {
    in_child("a_wait_without_end_is_found_though_time_goes_on", || {
        unsafe extern "win64" fn sleeper(_: *mut c_void) {
            loop {
                sleep(-10_000_000);
            }
        }
        let report = violation(run(config(2, 1), |_| {
            // SAFETY: the routine uses no context.
            unsafe { create(sleeper, null_mut(), 8) }.expect("a thread");
            wait_for_ever();
        }));
        assert!(report.starts_with("hang: the run's first thread waits"), "{report}");
    });
}

#[test]
fn a_run_has_a_budget_of_steps() {
    in_child("a_run_has_a_budget_of_steps", || {
        let report = violation(run(BenchConfig { most_steps: 10_000, ..config(1, 1) }, |_| {
            loop {
                nt::platform::platform().preempt(nt::platform::Point::Call);
            }
        }));
        assert!(report.starts_with("hang: the run has not come to its end"), "{report}");
    });
}
