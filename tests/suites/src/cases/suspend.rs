//! Suspend, resume and cancelled suspend under verified load.

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::load::{Load, Shape};
use crate::check;
use crate::guest::Disk;
use crate::world::DiskSpec;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "suspend/resume",
        summary: "10 suspends and resumes under load, nothing lost",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_disk(8),
        run: |ctx| suspend(ctx, 10, 1, |_| false),
    },
    Case {
        name: "suspend/cancelled",
        summary: "10 cancelled suspends under load: only thawed, nothing written twice",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_disk(8),
        run: cancelled,
    },
    Case {
        name: "suspend/resume-x1000",
        summary: "1,000 suspends and resumes, every third cancelled, under load on two disks and four processors",
        quick: false,
        timeout_s: 900,
        setup: |_| Setup {
            stepping: false,
            vcpus: 4,
            disks: alloc::vec![DiskSpec::new(0, 8), DiskSpec::new(1, 8)],
            ..Setup::default()
        },
        run: |ctx| suspend(ctx, 1000, 2, |round| round % 3 == 2),
    },
    Case {
        name: "suspend/attach-during",
        summary: "A disk comes in the middle of each of 20 suspends: it is found in the new domain and works",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_disk(4),
        run: attach_during,
    },
    Case {
        name: "suspend/resume-line-interrupt",
        summary: "Suspend and resume on 2-level event channels and the PCI interrupt",
        quick: false,
        timeout_s: 120,
        setup: |_| Setup { fifo: false, vectors: false, ..Setup::one_disk(8) },
        run: |ctx| suspend(ctx, 20, 1, |round| round % 4 == 3),
    },
];

fn suspend(ctx: &mut Ctx<'_>, rounds: u64, disks: u32, cancel: fn(u64) -> bool) -> Result<(), Failure> {
    let mut loads = alloc::vec::Vec::new();
    for index in 0..disks {
        loads.push(Load::new(Disk::find(ctx, index)?, Shape { largest: 64 << 10, ..Shape::default() }));
    }
    for round in 0..rounds {
        for load in &mut loads {
            load.run(ctx, 4)?;
        }
        for index in 0..disks {
            ctx.world.hold_responses(index, true);
        }
        for load in &mut loads {
            load.fill_queue(ctx);
        }
        let cancel = cancel(round);
        let before = ctx.world.xen_stats();
        ctx.world.suspend(cancel);
        let mut waited = 0;
        loop {
            let now = ctx.world.xen_stats();
            if now.suspends + now.cancelled_suspends > before.suspends + before.cancelled_suspends {
                break;
            }
            check!(waited < 60_000, "round {round}: {waited} ms after the request the guest has not suspended");
            ctx.world.sleep_ms(10);
            waited += 10;
        }
        for index in 0..disks {
            ctx.world.hold_responses(index, false);
        }
        for load in &mut loads {
            load.drain(ctx)?;
        }
    }
    for load in &mut loads {
        load.run(ctx, 20)?;
        load.verify_all(ctx)?;
    }
    let stats = ctx.world.xen_stats();
    ctx.set("suspends", stats.suspends);
    ctx.set("cancelled", stats.cancelled_suspends);
    ctx.set("in flight at suspend", stats.in_flight_at_suspend);
    check!(
        stats.suspends + stats.cancelled_suspends == rounds,
        "{} suspends and {} cancelled ones of {rounds}",
        stats.suspends,
        stats.cancelled_suspends
    );
    ctx.want("in flight at suspend", rounds);
    Ok(())
}

fn cancelled(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let before = ctx.world.disk_stats(0);
    suspend(ctx, 10, 1, |_| true)?;
    let after = ctx.world.disk_stats(0);
    check!(ctx.world.xen_stats().cancelled_suspends == 10, "not every suspend was cancelled");
    check!(after.connections == before.connections, "the backend was connected again after a cancelled suspend");
    ctx.want("cancelled", 10);
    Ok(())
}

fn attach_during(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape { largest: 16 << 10, ..Shape::default() });
    for round in 0..20_u64 {
        load.fill_queue(ctx);
        let before = ctx.world.xen_stats().suspends;
        // Now a little before the suspend, now a little after its beginning.
        if round % 2 == 0 {
            ctx.world.attach_disk(&DiskSpec::new(1, 2));
            ctx.world.sleep_ms(round % 5);
            ctx.world.suspend(false);
        } else {
            ctx.world.suspend(false);
            ctx.world.sleep_ms(round % 3);
            ctx.world.attach_disk(&DiskSpec::new(1, 2));
        }
        let mut other = Load::new(Disk::find(ctx, 1)?, Shape { largest: 16 << 10, ..Shape::default() });
        other.run(ctx, 5)?;
        other.drain(ctx)?;
        drop(other);
        load.drain(ctx)?;
        let mut waited = 0;
        while ctx.world.xen_stats().suspends == before {
            check!(waited < 60_000, "round {round}: {waited} ms after the request the guest has not suspended");
            ctx.world.sleep_ms(10);
            waited += 10;
        }
        ctx.world.detach_disk(1);
        let mut waited = 0;
        while !ctx.world.disk_gone(1) || Disk::present(1) {
            check!(waited < 60_000, "round {round}: {waited} ms after the detach the disk is still there");
            ctx.world.sleep_ms(10);
            waited += 10;
        }
        ctx.count("rounds", 1);
    }
    load.verify_all(ctx)?;
    ctx.want("rounds", 20);
    Ok(())
}
