//! Disks come and go: by the toolstack, by Windows, by surprise.

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::load::{Load, Shape};
use crate::check;
use crate::guest::Disk;
use crate::world::DiskSpec;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "hotplug/attach-detach",
        summary: "20 times attach, use, detach, with load on another disk",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_disk(8),
        run: |ctx| attach_detach(ctx, 20),
    },
    Case {
        name: "hotplug/attach-detach-x1000",
        summary: "1,000 times attach, use, detach, with load on another disk",
        quick: false,
        timeout_s: 900,
        setup: |_| Setup { stepping: false, ..Setup::one_disk(8) },
        run: |ctx| attach_detach(ctx, 1000),
    },
    Case {
        name: "hotplug/backend-restart",
        summary: "The backend closes or dies and comes back under load: connected again, nothing lost",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_disk(8),
        run: backend_restart,
    },
    Case {
        name: "hotplug/detach-under-load",
        summary: "The backend closes with I/O in flight: each request ends, the device goes in order",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { disks: alloc::vec![DiskSpec::new(0, 8), DiskSpec::new(1, 8)], ..Setup::default() },
        run: detach_under_load,
    },
];

fn attach_detach(ctx: &mut Ctx<'_>, rounds: u64) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape { largest: 16 << 10, ..Shape::default() });
    for round in 0..rounds {
        load.fill_queue(ctx);
        ctx.world.attach_disk(&DiskSpec::new(1, 4));
        let mut other = Load::new(
            Disk::find(ctx, 1).map_err(|failure| Failure(alloc::format!("round {round}: {failure}")))?,
            Shape { largest: 16 << 10, depth: 4, ..Shape::default() },
        );
        other.run(ctx, 6)?;
        other.drain(ctx)?;
        drop(other);
        load.run(ctx, 2)?;
        ctx.world.detach_disk(1);
        let mut waited = 0;
        while !ctx.world.disk_gone(1) || Disk::present(1) {
            check!(
                waited < 30_000,
                "round {round}: {waited} ms after the detach: gone from the store {}, seen by Windows {}",
                ctx.world.disk_gone(1),
                Disk::present(1)
            );
            ctx.world.sleep_ms(10);
            waited += 10;
        }
        ctx.count("rounds", 1);
    }
    load.verify_all(ctx)?;
    ctx.want("rounds", rounds);
    ctx.want("requests verified", rounds * 6);
    Ok(())
}

fn backend_restart(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape { largest: 32 << 10, ..Shape::default() });
    for round in 0..6 {
        load.run(ctx, 30)?;
        load.fill_queue(ctx);
        if round % 2 == 0 {
            ctx.world.restart_backend(0);
            ctx.count("restarts", 1);
        } else {
            ctx.world.crash_backend(0);
            ctx.count("deaths", 1);
        }
        load.run(ctx, 30)?;
    }
    load.verify_all(ctx)?;
    ctx.want("restarts", 3);
    ctx.want("deaths", 3);
    Ok(())
}

fn detach_under_load(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 1)?, Shape { depth: 16, ..Shape::default() });
    load.run(ctx, 50)?;
    load.fill_queue(ctx);
    let before = ctx.world.disk_stats(1).grants_permitted;
    ctx.world.detach_disk(1);
    // Windows may end requests with an error once the device is on its way out; each must end.
    let failed = load.drain_any();
    ctx.count("requests that ended with an error", failed);
    drop(load);
    let mut waited = 0;
    while !ctx.world.disk_gone(1) {
        check!(waited < 30_000, "{waited} ms after the detach the backend is still there");
        ctx.world.sleep_ms(10);
        waited += 10;
    }
    // The frontend lets go of the ring once the backend is closed, which the toolstack may see first.
    let mut left = ctx.world.disk_stats(1);
    while (left.grants_mapped, left.grants_permitted) != (0, 0) && waited < 30_000 {
        ctx.world.sleep_ms(10);
        waited += 10;
        left = ctx.world.disk_stats(1);
    }
    ctx.set("grants permitted while attached", before);
    ctx.want("grants permitted while attached", 16);
    check!(
        (left.grants_mapped, left.grants_permitted) == (0, 0),
        "the detached disk's backend has {} grants mapped and may map {}",
        left.grants_mapped,
        left.grants_permitted
    );
    // The other disk goes on.
    let mut other = Load::new(Disk::find(ctx, 0)?, Shape::default());
    other.run(ctx, 100)?;
    other.verify_all(ctx)?;
    ctx.want("requests verified", 150);
    Ok(())
}
