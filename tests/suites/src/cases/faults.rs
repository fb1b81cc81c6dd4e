//! Each allocation and each hypercall fails in turn, from the first driver's load on.
//!
//! A run with one failure must end in order: the disk is there or it is not, a request succeeds with right data or fails,
//! nothing leaks, nothing crashes. The runner walks through the numbers until a run in which the failure did not come up.

use crate::case::{Case, Ctx, Failure, Fault, Setup};
use crate::cases::load::{Load, Shape};
use crate::check;
use crate::guest::Disk;

/// Milliseconds in which a disk that the toolstack takes away is gone.
const LEAVE_MS: u64 = 60_000;

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
];

fn survive(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
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
