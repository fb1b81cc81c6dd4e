//! A backend that sends events without work behind them: the driver takes them ever more rarely.

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::load::{Load, Shape};
use crate::check;
use crate::guest::Disk;
use crate::world::{DiskSpec, Hostile};

/// Bursts of events, one each 10 us of simulated time: half a second of storm.
const BURSTS: u32 = 50_000;
/// Most upcalls in that time. A throttle that lets two empty events pass and then waits 1, 2, 4, ... ms takes about ten
/// events; some upcalls are for timers and for the store.
const UPCALLS: u64 = 100;

/// The cases.
pub const CASES: &[Case] = &[Case {
    name: "hostile/event-storm-throttled",
    summary: "50,000 bursts of events without work in half a second: at most 100 upcalls, then the disk works on",
    quick: true,
    timeout_s: 120,
    setup: |_| Setup { disks: alloc::vec![DiskSpec::new(0, 4)], ..Setup::default() },
    run: throttled,
}];

fn upcalls(ctx: &Ctx<'_>) -> u64 {
    let stats = ctx.world.xen_stats();
    stats.vector_upcalls + stats.intx_upcalls
}

fn throttled(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape { largest: 32 << 10, ..Shape::default() });
    load.run(ctx, 100)?;
    let before = upcalls(ctx);
    ctx.world.misbehave(0, Hostile::EventStorm, BURSTS);
    ctx.world.sleep_ms(1_000);
    let taken = upcalls(ctx) - before;
    ctx.set("bursts", ctx.world.misbehaved(0, Hostile::EventStorm));
    ctx.set("upcalls in the storm", taken);
    ctx.want("bursts", u64::from(BURSTS));
    ctx.want("upcalls in the storm", 1);
    check!(taken <= UPCALLS, "{taken} upcalls were taken in a storm of events, {UPCALLS} are enough");
    load.run(ctx, 100)?;
    load.verify_all(ctx)
}
