//! Each allocation and each hypercall fails in turn, from the first driver's load on.
//!
//! A run with one failure must end in order: the disk is there or it is not, a request succeeds with right data or fails,
//! nothing leaks, nothing crashes. Where a hypercall fails for good less is asked: the machine goes on, no data is wrong, the
//! log says what failed and does not fill up. The runner walks through the numbers until a run in which the failure did not
//! come up.

use nt::pnp::{self, Problem};
use nt::status::{STATUS_INSUFFICIENT_RESOURCES, STATUS_NOT_SUPPORTED};

use crate::case::{Case, Ctx, Failure, Fault, Setup};
use crate::cases::control;
use crate::cases::load::{Load, Shape};
use crate::check;
use crate::guest::Disk;

/// Milliseconds in which a disk that the toolstack takes away is gone.
const LEAVE_MS: u64 = 60_000;
/// Milliseconds that requests get to end where a hypercall fails for good.
const END_MS: u64 = 5_000;
/// Lines that the drivers may write about a hypercall that fails for good.
const LINES: usize = 400;

/// The cases: the seed is the number of the call that fails.
pub const CASES: &[Case] = &[
    Case {
        name: "faults/allocation",
        summary: "The n-th allocation of a driver fails (n = the seed); the runner walks n until none is left",
        quick: false,
        timeout_s: 60,
        setup: |seed| Setup { fault: Some(Fault::Allocation(seed)), stepping: false, ..Setup::one_disk(2) },
        run: survive,
    },
    Case {
        name: "faults/hypercall",
        summary: "The n-th hypercall of a driver fails (n = the seed); the runner walks n until none is left",
        quick: false,
        timeout_s: 60,
        setup: |seed| Setup { fault: Some(Fault::Hypercall(seed)), stepping: false, ..Setup::one_disk(2) },
        run: survive,
    },
    Case {
        name: "faults/hypercall-lasting",
        summary: "The n-th hypercall of a driver fails, and from then on every one of its kind; the runner walks n",
        quick: false,
        timeout_s: 60,
        setup: |seed| Setup { fault: Some(Fault::HypercallLasting(seed)), stepping: false, ..Setup::one_disk(2) },
        run: endure,
    },
];

fn survive(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let refused = control::use_for_a_while(ctx)?;
    ctx.count("users' requests that were refused", refused);
    if let Ok(disk) = Disk::find_within(ctx, 0, 5_000) {
        let mut load = Load::new(disk, Shape { largest: 64 << 10, ..Shape::default() });
        for _ in 0..10 {
            load.fill_queue(ctx);
            let failed = load.drain_checked()?;
            ctx.count("requests that ended with an error", failed);
        }
        ctx.world.suspend(false);
        ctx.world.sleep_ms(2_000);
        load.fill_queue(ctx);
        let failed = load.drain_checked()?;
        ctx.count("requests that ended with an error", failed);
        ctx.count("requests", load.done());
        if failed == 0 {
            // One failure passes; nothing of it is left.
            load.verify_all(ctx)?;
        }
        drop(load);
        // The device goes and its driver is unloaded, which finds what either forgot to give back.
        ctx.world.detach_disk(0);
        let mut waited = 0;
        while Disk::present(0) {
            check!(waited < LEAVE_MS, "{waited} ms after the detach Windows still has the disk");
            ctx.world.sleep_ms(100);
            waited += 100;
        }
        ctx.count("disks that left in order", 1);
    } else {
        ctx.count("no disk", 1);
    }
    ctx.set("fault fired", u64::from(ctx.world.fault_fired()));
    Ok(())
}

fn endure(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    if let Ok(disk) = Disk::find_within(ctx, 0, 5_000) {
        let mut load = Load::new(disk, Shape { largest: 64 << 10, ..Shape::default() });
        for round in 0..6 {
            if round == 3 {
                ctx.world.suspend(false);
            }
            if load.in_flight() == 0 {
                load.fill_queue(ctx);
            }
            let mut waited = 0;
            while load.in_flight() > 0 && waited < END_MS {
                ctx.world.sleep_ms(20);
                waited += 20;
                let failed = load.drain_ended_checked()?;
                ctx.count("requests that ended with an error", failed);
            }
        }
        ctx.count("requests", load.done());
        ctx.count("requests that did not end", load.in_flight() as u64);
        // Those stay with the driver for good: the backend may still use their pages.
        core::mem::forget(load);
        ctx.world.detach_disk(0);
        ctx.world.sleep_ms(LEAVE_MS);
    } else {
        ctx.count("no disk", 1);
    }
    let fired = ctx.world.fault_fired();
    ctx.set("fault fired", u64::from(fired));
    let log = ctx.world.log();
    let bus = pnp::tree().into_iter().find(|node| node.instance.starts_with("PCI\\VEN_5853"));
    let bus = bus.ok_or("the platform device is gone from the tree")?;
    if let Some(Problem::FailedStart(status)) = bus.problem {
        check!(
            matches!(status, STATUS_NOT_SUPPORTED | STATUS_INSUFFICIENT_RESOURCES),
            "the platform device failed to start with {status:#x}"
        );
        let lines = log.iter().filter(|line| line.contains("the platform device does not start")).count();
        check!(lines == 1, "{lines} lines say that the platform device does not start");
        ctx.count("refused to start", 1);
    } else {
        check!(bus.problem.is_none(), "the platform device has the problem {:?}", bus.problem);
    }
    check!(log.len() < LINES, "{} lines in the log of one failure", log.len());
    Ok(())
}
