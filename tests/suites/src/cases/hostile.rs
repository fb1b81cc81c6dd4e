//! A backend that lies: the request or the device ends in order, the log names the device and the value, nothing else is
//! harmed, nothing is retried for ever.

use alloc::format;

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::load::{Load, Shape};
use crate::check;
use crate::guest::Disk;
use crate::world::{DiskSpec, Hostile};

/// The victim is xvdb; xvda must not notice.
fn setup(_: u64) -> Setup {
    Setup { disks: alloc::vec![DiskSpec::new(0, 4), DiskSpec::new(1, 4)], ..Setup::default() }
}

/// What must be true of the victim afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The device was shut down: the log says so, each request ended.
    Broken,
    /// The device goes on and its data is right.
    GoesOn,
    /// Either, as long as each request ended.
    Ends,
}

macro_rules! case {
    ($name:literal, $summary:literal, $how:ident, $then:ident) => {
        Case {
            name: concat!("hostile/", $name),
            summary: $summary,
            quick: true,
            timeout_s: 120,
            setup,
            run: |ctx| while_connected(ctx, Hostile::$how, Then::$then),
        }
    };
}

/// The cases.
pub const CASES: &[Case] = &[
    case!("id-out-of-range", "A response id that is no slot", IdOutOfRange, Broken),
    case!("id-not-outstanding", "A response id whose slot is free", IdNotOutstanding, Broken),
    case!("duplicate-id", "The same response twice", DuplicateId, Broken),
    case!("wrong-operation", "A response with another operation", WrongOperation, Broken),
    case!("producer-ahead", "rsp_prod jumps ahead of what was requested", ProducerAhead, Broken),
    case!("producer-backward", "rsp_prod runs backward", ProducerBackward, Broken),
    case!("grant-kept-mapped", "A grant is still mapped when its response comes", GrantKeptMapped, Broken),
    case!("no-response", "A response that never comes: no page is given back early", NoResponse, Ends),
    case!("vanish", "Backend and directory vanish with I/O in flight", Vanish, Ends),
    case!("bad-status", "A status that does not exist: the request fails, the device goes on", BadStatus, Ends),
    case!("rewrite-response", "A response changes after it was published: read once", RewriteResponse, Ends),
    case!("state-flap", "The backend's state flaps while connected", StateFlap, Ends),
    case!("event-storm", "Events without work: throttled, the processor stays usable", EventStorm, GoesOn),
    case!("watch-storm", "Watch events without end", WatchStorm, GoesOn),
    Case {
        name: "hostile/absurd-keys",
        summary: "Sizes and feature keys that are 0, negative, huge or no numbers: bounded or refused, with a line",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { disks: alloc::vec![DiskSpec::new(0, 4)], ..Setup::default() },
        run: |ctx| at_handshake(ctx, Hostile::AbsurdKeys),
    },
    Case {
        name: "hostile/state-skip",
        summary: "Connected before the frontend offered a ring",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { disks: alloc::vec![DiskSpec::new(0, 4)], ..Setup::default() },
        run: |ctx| at_handshake(ctx, Hostile::StateSkip),
    },
];

fn bystander(ctx: &mut Ctx<'_>, load: &mut Load) -> Result<(), Failure> {
    load.run(ctx, 100)?;
    load.verify_all(ctx).map_err(|failure| Failure(format!("the other disk: {failure}")))
}

/// Whether a log line since `from` names the victim.
fn named(ctx: &Ctx<'_>, from: usize) -> bool {
    let log = ctx.world.log();
    log[from.min(log.len())..].iter().any(|line| line.contains("device/vbd/51728"))
}

fn while_connected(ctx: &mut Ctx<'_>, how: Hostile, then: Then) -> Result<(), Failure> {
    let mut other = Load::new(Disk::find(ctx, 0)?, Shape::default());
    // A kept page of the driver's own (a misaligned buffer is copied through those) is given up, and the device goes on;
    // it is a kept page of Windows' that breaks it.
    let misaligned = how != Hostile::GrantKeptMapped;
    let shape = Shape { depth: 12, largest: 32 << 10, misaligned, ..Shape::default() };
    let mut victim = Load::new(Disk::find(ctx, 1)?, shape);
    victim.run(ctx, 40)?;
    victim.fill_queue(ctx);
    let started = ctx.world.log().len();
    let times = match how {
        Hostile::EventStorm => 2000,
        // Each is 64 writes of the state, and each of those is read and refreshed by the driver.
        Hostile::WatchStorm => 100,
        _ => 1,
    };
    ctx.world.misbehave(1, how, times);
    // Requests may fail now; each must end. A device that was shut down fails the later ones at once.
    let mut failed = 0;
    for _ in 0..20 {
        victim.fill_queue(ctx);
        ctx.world.sleep_ms(20);
        failed += victim.drain_ended();
    }
    // What is still there is not lost but held: the backend did not answer it, or has a page of it mapped, and a page
    // that the peer may write is not given back to Windows. It ends when the backend lets go, as it does when dom0
    // restarts it.
    ctx.world.sleep_ms(2_000);
    failed += victim.drain_ended();
    ctx.set("requests held", victim.in_flight() as u64);
    if victim.in_flight() > 0 {
        ctx.world.restart_backend(1);
        ctx.world.sleep_ms(5_000);
        failed += victim.drain_ended();
        check!(victim.in_flight() == 0, "{} requests have not ended after the backend let go", victim.in_flight());
    }
    ctx.set("times it misbehaved", ctx.world.misbehaved(1, how));
    ctx.set("requests that ended with an error", failed);
    ctx.want("times it misbehaved", 1);
    match then {
        Then::Broken => {
            check!(named(ctx, started), "the log does not name device/vbd/51728");
            check!(failed > 0, "a backend that lied was believed: no request failed");
        }
        Then::GoesOn => {
            check!(failed == 0, "{failed} requests failed though nothing was wrong with them");
            victim.verify_all(ctx)?;
        }
        Then::Ends => {}
    }
    bystander(ctx, &mut other)
}

fn at_handshake(ctx: &mut Ctx<'_>, how: Hostile) -> Result<(), Failure> {
    let mut other = Load::new(Disk::find(ctx, 0)?, Shape::default());
    let started = ctx.world.log().len();
    for _ in 0..8 {
        ctx.world.attach_disk(&DiskSpec::new(1, 4));
        ctx.world.misbehave(1, how, 1);
        ctx.world.sleep_ms(2_000);
        // It may connect with safe defaults or stay away; where it is there, its requests must end.
        if Disk::present(1)
            && let Ok(disk) = Disk::find_within(ctx, 1, 2_000)
        {
            let mut victim = Load::new(disk, Shape { depth: 4, largest: 8 << 10, ..Shape::default() });
            victim.fill_queue(ctx);
            ctx.count("requests that ended with an error", victim.drain_any());
        }
        ctx.count("times it misbehaved", ctx.world.misbehaved(1, how));
        ctx.world.detach_disk(1);
        ctx.world.sleep_ms(2_000);
    }
    ctx.want("times it misbehaved", 4);
    if how == Hostile::AbsurdKeys {
        check!(named(ctx, started), "the log does not name device/vbd/51728");
    }
    bystander(ctx, &mut other)
}
