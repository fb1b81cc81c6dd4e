//! A backend that lies: the log says what it wrote, the connection is closed in order and made again, each request ends or
//! is held for a page that the peer still has, nothing else is harmed, nothing is retried for ever.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::case::{Case, Ctx, Failure, Often, Setup};
use crate::cases::load::{Load, Shape};
use crate::check;
use crate::guest::{self, Disk};
use crate::world::{DiskSpec, Hostile};

/// Disk 1 is the victim; disk 0 must not notice.
fn setup(_: u64) -> Setup {
    Setup { disks: alloc::vec![DiskSpec::new(0, 4), DiskSpec::new(1, 4)], ..Setup::default() }
}

/// As [`setup`], and whenever the driver looks at a shared page the other side may run.
fn watched(seed: u64) -> Setup {
    Setup { shared_access: Often::Always, ..setup(seed) }
}

/// XenbusState (io/xenbus.h), as far as the cases look at it.
mod state {
    pub const INITIALISING: u32 = 1;
    pub const INITIALISED: u32 = 3;
    pub const CONNECTED: u32 = 4;
    pub const CLOSING: u32 = 5;
    pub const CLOSED: u32 = 6;
}

/// What the driver does about one failure: closes in order, then connects again.
const AROUND: [u32; 5] = [state::CLOSING, state::CLOSED, state::INITIALISING, state::INITIALISED, state::CONNECTED];
/// Failures that a backend may have (`xenbus::frontend`): after the last the disk has failed for good.
const FAILURES: usize = 5;

/// What must be true of the victim afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The device was closed in order and connected again, once for each lie; every request was carried out.
    ConnectsAgain,
    /// As [`Then::ConnectsAgain`] for those lies that were seen, and there may be none.
    MayConnectAgain,
    /// The device goes on as if nothing was, and its data is right.
    GoesOn,
    /// Each request ended, just so many with an error, and the device was not closed.
    Fails(u64),
    /// Each request ended.
    Ends,
}

/// One way to lie while connected.
struct Lie {
    how: Hostile,
    times: u32,
    /// What a line of the log about the victim must have.
    says: &'static str,
    then: Then,
    /// Milliseconds that the driver may take to come over it.
    within_ms: u64,
}

macro_rules! case {
    ($name:literal, $summary:literal, $setup:ident, $timeout:literal, $lie:expr) => {
        Case {
            name: concat!("hostile/", $name),
            summary: $summary,
            quick: true,
            timeout_s: $timeout,
            setup: $setup,
            run: |ctx| while_connected(ctx, &$lie),
        }
    };
}

/// A lie that breaks the ring, told once.
const fn broken(how: Hostile, says: &'static str) -> Lie {
    Lie { how, times: 1, says, then: Then::ConnectsAgain, within_ms: 10_000 }
}

/// The cases.
pub const CASES: &[Case] = &[
    case!(
        "id-out-of-range",
        "A response id that is no slot",
        setup,
        120,
        broken(Hostile::IdOutOfRange, "response id 0xdead")
    ),
    case!(
        "id-not-outstanding",
        "A response id whose slot is free",
        setup,
        120,
        broken(Hostile::IdNotOutstanding, "no such request is out")
    ),
    case!(
        "duplicate-id",
        "The same response twice",
        setup,
        120,
        broken(Hostile::DuplicateId, "no such request is out")
    ),
    case!(
        "stale-id",
        "A response with an id that its slot had before",
        setup,
        120,
        broken(Hostile::StaleId, "no such request is out")
    ),
    case!(
        "wrong-operation",
        "A response with another operation",
        setup,
        120,
        broken(Hostile::WrongOperation, "no such request is out")
    ),
    case!(
        "producer-ahead",
        "rsp_prod jumps ahead of what was requested",
        setup,
        120,
        broken(Hostile::ProducerAhead, "the peer's ring index ran ahead: rsp_prod 0x")
    ),
    case!(
        "producer-backward",
        "rsp_prod runs backward",
        setup,
        120,
        broken(Hostile::ProducerBackward, "the peer's ring index went back: rsp_prod 0x")
    ),
    case!(
        "grant-kept-mapped",
        "A grant is still mapped when its response comes: the request is held until the backend has closed",
        setup,
        120,
        broken(Hostile::GrantKeptMapped, "of an answered request: still in use by the peer")
    ),
    case!(
        "no-response",
        "A response that never comes: asked for by resets, a bounded number of times, then the backend is closed",
        setup,
        240,
        Lie {
            within_ms: 200_000,
            ..broken(Hostile::NoResponse, "in spite of 12 resets: the backend is not believed any more")
        }
    ),
    case!(
        "rewrite-response",
        "A response changes after it was published, also while it is read: read once",
        watched,
        240,
        Lie { times: 4, then: Then::MayConnectAgain, within_ms: 30_000, ..broken(Hostile::RewriteResponse, "") }
    ),
    case!(
        "bad-status",
        "A status that does not exist: the request fails, the device goes on",
        setup,
        120,
        Lie { then: Then::Fails(1), ..broken(Hostile::BadStatus, "") }
    ),
    case!(
        "vanish",
        "Backend and directory vanish with I/O in flight",
        setup,
        120,
        Lie { then: Then::Ends, ..broken(Hostile::Vanish, "the backend is gone") }
    ),
    case!(
        "state-flap",
        "The backend's state flaps while connected",
        setup,
        120,
        Lie { then: Then::Ends, ..broken(Hostile::StateFlap, "") }
    ),
    case!(
        "event-storm",
        "Events without work: throttled, the processor stays usable",
        setup,
        120,
        Lie { times: 2000, then: Then::GoesOn, ..broken(Hostile::EventStorm, "") }
    ),
    case!(
        "watch-storm",
        "Watch events without end",
        setup,
        120,
        Lie { times: 2000, then: Then::GoesOn, ..broken(Hostile::WatchStorm, "") }
    ),
    Case {
        name: "hostile/always-lies",
        summary: "A backend that lies whenever it is connected: after five failures the disk has failed for good",
        quick: true,
        timeout_s: 120,
        setup,
        run: always_lies,
    },
    Case {
        name: "hostile/grant-kept-for-good",
        summary: "Pages that stay mapped beyond the backend's close: just their requests are held, until it lets go",
        quick: true,
        timeout_s: 120,
        setup,
        run: |ctx| kept_for_good(ctx, true),
    },
    Case {
        name: "hostile/grant-kept-unanswered",
        summary: "The same, of a request that is never answered: it is not issued again before the backend lets go",
        quick: true,
        timeout_s: 240,
        setup,
        run: |ctx| kept_for_good(ctx, false),
    },
    Case {
        name: "hostile/absurd-keys",
        summary: "Sizes and feature keys that are 0, negative, huge or no numbers: bounded or refused, with a line each",
        quick: true,
        timeout_s: 240,
        setup: |_| Setup { disks: alloc::vec![DiskSpec::new(0, 4)], ..Setup::default() },
        run: absurd_keys,
    },
    Case {
        name: "hostile/state-skip",
        summary: "Connected before the frontend offered a ring",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { disks: alloc::vec![DiskSpec::new(0, 4)], ..Setup::default() },
        run: state_skip,
    },
];

fn bystander(ctx: &mut Ctx<'_>, load: &mut Load) -> Result<(), Failure> {
    load.run(ctx, 100)?;
    load.verify_all(ctx).map_err(|failure| Failure(format!("the other disk: {failure}")))
}

/// What the log says of the victim since line `from`.
fn said(ctx: &Ctx<'_>, from: usize) -> Vec<String> {
    let name = format!("device/vbd/{}:", guest::vdev(1));
    ctx.world.log().into_iter().skip(from).filter(|line| line.contains(&name)).collect()
}

/// Lets requests end until all have or the time is over; how many failed.
fn let_end(ctx: &Ctx<'_>, victim: &mut Load, within_ms: u64) -> Result<u64, Failure> {
    let (mut failed, mut waited) = (0, 0);
    loop {
        failed += victim.drain_ended_checked()?;
        if victim.in_flight() == 0 || waited >= within_ms {
            return Ok(failed);
        }
        ctx.world.sleep_ms(20);
        waited += 20;
    }
}

fn while_connected(ctx: &mut Ctx<'_>, lie: &Lie) -> Result<(), Failure> {
    let mut other = Load::new(Disk::find(ctx, 0)?, Shape::default());
    // A kept page of the driver's own (a misaligned buffer is copied through those) is given up, and the device goes on;
    // it is a kept page of Windows' that breaks it.
    let misaligned = lie.how != Hostile::GrantKeptMapped;
    let shape = Shape { depth: 12, largest: 32 << 10, misaligned, ..Shape::default() };
    let mut victim = Load::new(Disk::find(ctx, 1)?, shape);
    victim.run(ctx, 40)?;
    victim.fill_queue(ctx);
    let (lines, states) = (ctx.world.log().len(), ctx.world.frontend_states(1).len());
    let before = ctx.world.disk_stats(1);
    ctx.world.misbehave(1, lie.how, lie.times);
    let mut failed = 0;
    for _ in 0..20 {
        victim.fill_queue(ctx);
        ctx.world.sleep_ms(20);
        failed += victim.drain_ended_checked()?;
    }
    failed += let_end(ctx, &mut victim, lie.within_ms)?;
    check!(victim.in_flight() == 0, "{} requests have not ended after {} ms", victim.in_flight(), lie.within_ms);
    ctx.set("times it misbehaved", ctx.world.misbehaved(1, lie.how));
    ctx.want("times it misbehaved", u64::from(lie.times));
    ctx.set("requests that ended with an error", failed);
    let said = said(ctx, lines);
    check!(
        lie.says.is_empty() || said.iter().any(|line| line.contains(lie.says)),
        "no line says \"{}\": {said:?}",
        lie.says
    );
    let now = ctx.world.disk_stats(1);
    let states = ctx.world.frontend_states(1).split_off(states);
    let times = now.connections - before.connections;
    ctx.set("times it was connected again", times);
    match lie.then {
        Then::ConnectsAgain | Then::MayConnectAgain => {
            check!(times == u64::from(lie.times) || lie.then == Then::MayConnectAgain, "connected again {times} times");
            check!(states == AROUND.repeat(times as usize), "the frontend's states were {states:?}");
            check!(failed == 0, "{failed} requests failed, all of which could have been issued again");
            victim.verify_all(ctx)?;
        }
        Then::GoesOn => {
            check!(states.is_empty(), "the frontend's states were {states:?}");
            check!(failed == 0, "{failed} requests failed though nothing was wrong with them");
            victim.verify_all(ctx)?;
        }
        Then::Fails(count) => {
            check!(states.is_empty(), "the frontend's states were {states:?}");
            check!(failed == count, "{failed} requests failed, {count} had reason to");
            victim.verify_all(ctx)?;
        }
        Then::Ends => {}
    }
    bystander(ctx, &mut other)
}

fn always_lies(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut other = Load::new(Disk::find(ctx, 0)?, Shape::default());
    let mut victim = Load::new(Disk::find(ctx, 1)?, Shape { depth: 12, largest: 32 << 10, ..Shape::default() });
    victim.run(ctx, 40)?;
    victim.fill_queue(ctx);
    let (lines, states) = (ctx.world.log().len(), ctx.world.frontend_states(1).len());
    ctx.world.misbehave(1, Hostile::WrongOperation, u32::MAX);
    let failed = let_end(ctx, &mut victim, 60_000)?;
    check!(victim.in_flight() == 0, "{} requests have not ended", victim.in_flight());
    check!(failed > 0, "a backend that lied was believed: no request failed");
    let now = ctx.world.disk_stats(1);
    check!(now.connections == FAILURES as u64, "{} connections were made", now.connections);
    check!((now.grants_mapped, now.grants_permitted) == (0, 0), "grants are left: {now:?}");
    let mut all = AROUND.repeat(FAILURES - 1);
    all.extend([state::CLOSING, state::CLOSED]);
    let seen = ctx.world.frontend_states(1).split_off(states);
    check!(seen == all, "the frontend's states were {seen:?}");
    let said = said(ctx, lines);
    check!(said.iter().any(|line| line.contains("the disk has failed for good")), "the log does not say so: {said:?}");
    // Later requests fail at once, and the backend may offer itself as it likes.
    for _ in 0..3 {
        ctx.world.restart_backend(1);
        victim.fill_queue(ctx);
        let refused = victim.in_flight() as u64;
        let failed = let_end(ctx, &mut victim, 1_000)?;
        check!(victim.in_flight() == 0 && failed == refused, "{failed} of {refused} later requests failed at once");
        ctx.count("requests that ended with an error", failed);
        ctx.world.sleep_ms(60_000);
    }
    let later = ctx.world.disk_stats(1);
    check!(later.connections == FAILURES as u64, "it was connected again: {} times", later.connections);
    ctx.want("requests that ended with an error", 30);
    bystander(ctx, &mut other)
}

fn kept_for_good(ctx: &mut Ctx<'_>, answered: bool) -> Result<(), Failure> {
    let mut other = Load::new(Disk::find(ctx, 0)?, Shape::default());
    let shape = Shape { depth: 12, largest: 32 << 10, misaligned: false, ..Shape::default() };
    let mut victim = Load::new(Disk::find(ctx, 1)?, shape);
    victim.run(ctx, 40)?;
    let connections = ctx.world.disk_stats(1).connections;
    victim.fill_queue(ctx);
    ctx.world.misbehave(1, Hostile::GrantKeptForGood, 1);
    if !answered {
        ctx.world.misbehave(1, Hostile::NoResponse, 1);
    }
    let mut failed = let_end(ctx, &mut victim, if answered { 20_000 } else { 200_000 })?;
    // The one whose pages are mapped is still there, and no other: the disk goes on without it.
    ctx.set("requests held", victim.in_flight() as u64);
    ctx.want("requests held", 1);
    check!(victim.in_flight() == 1, "{} requests have not ended, one has its pages mapped", victim.in_flight());
    let held = ctx.world.disk_stats(1);
    check!(held.connections == connections + 1, "connected {} times", held.connections - connections);
    check!(held.in_flight == 0, "the backend has {} requests", held.in_flight);
    let around = ctx.world.frontend_states(1);
    check!(around.ends_with(&AROUND), "the frontend's states were {around:?}");
    for _ in 0..5 {
        victim.fill_queue(ctx);
        failed += let_end(ctx, &mut victim, 200)?;
        check!(victim.in_flight() == 1, "{} requests are in flight, one of them held", victim.in_flight());
    }
    // Dom0 starts the backend again, and with that its maps go.
    ctx.world.restart_backend(1);
    failed += let_end(ctx, &mut victim, 10_000)?;
    check!(victim.in_flight() == 0, "the request is held though its pages are not mapped any more");
    check!(failed == 0, "{failed} requests failed");
    victim.verify_all(ctx)?;
    bystander(ctx, &mut other)
}

/// Whether a driver must say something about a value that it reads for a key: independent of the driver's own judgement,
/// from xen/include/public/io/blkif.h. Keys that a frontend without persistent grants and queues does not read are not in it,
/// nor is the barrier, which matters only where there is no flush.
fn must_be_named(key: &str, value: &str) -> bool {
    let number = value.parse::<u64>().ok();
    match key {
        "multi-queue-max-queues" | "feature-persistent" | "feature-barrier" | "discard-secure" => false,
        _ if number.is_none() => true,
        "feature-flush-cache" | "feature-discard" => number > Some(1),
        "sector-size" => !matches!(number, Some(512 | 1024 | 2048 | 4096)),
        "physical-sector-size" => !number.is_some_and(|size| size.is_power_of_two() && (512..=1 << 20).contains(&size)),
        "sectors" => number >= Some(1 << 54),
        "info" => number > Some(7),
        "max-ring-page-order" => number > Some(16),
        "feature-max-indirect-segments" => number > Some(65535),
        "discard-granularity" | "discard-alignment" => number > Some(u64::from(u32::MAX) - 1),
        _ => false,
    }
}

fn absurd_keys(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut other = Load::new(Disk::find(ctx, 0)?, Shape::default());
    for _ in 0..24 {
        let lines = ctx.world.log().len();
        ctx.world.attach_disk(&DiskSpec::new(1, 4));
        // One key of those that are offered, one of those that come with Connected.
        ctx.world.misbehave(1, Hostile::AbsurdKeys, 2);
        // It may connect with safe defaults or have to try again, and a disk of no sectors is none to Windows; where it is
        // there, its requests must end.
        if let Ok(disk) = Disk::find_within(ctx, 1, 5_000) {
            ctx.count("times it connected", 1);
            let mut victim = Load::new(disk, Shape { depth: 4, largest: 8 << 10, ..Shape::default() });
            victim.fill_queue(ctx);
            ctx.count("requests that ended with an error", let_end(ctx, &mut victim, 5_000)?);
            check!(victim.in_flight() == 0, "{} requests have not ended", victim.in_flight());
        }
        let said = said(ctx, lines);
        for (key, value) in ctx.world.absurd_values(1) {
            ctx.count("absurd values", 1);
            if !must_be_named(&key, &value) {
                continue;
            }
            ctx.count("absurd values that were named", 1);
            let named = |line: &&String| {
                let after = line.split_once(&format!("{key} = ")).map(|(_, after)| after.trim_start_matches('"'));
                after.is_some_and(|after| after.starts_with(value.as_str()))
            };
            check!(said.iter().any(|line| named(&line)), "no line names {key} = \"{value}\": {said:?}");
        }
        leave(ctx)?;
    }
    ctx.want("absurd values", 40);
    ctx.want("absurd values that were named", 12);
    ctx.want("times it connected", 20);
    bystander(ctx, &mut other)
}

fn state_skip(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut other = Load::new(Disk::find(ctx, 0)?, Shape::default());
    for _ in 0..4 {
        let lines = ctx.world.log().len();
        ctx.world.attach_disk(&DiskSpec::new(1, 4));
        ctx.world.misbehave(1, Hostile::StateSkip, 1);
        // What it says is not believed; closed and opened again it is a backend like any other.
        let mut victim = Load::new(Disk::find(ctx, 1)?, Shape { depth: 4, largest: 8 << 10, ..Shape::default() });
        victim.run(ctx, 20)?;
        victim.drain(ctx)?;
        let said = said(ctx, lines);
        let line = "the backend's state = 4 (Connected) before a ring was offered";
        check!(said.iter().any(|said| said.contains(line)), "no line says \"{line}\": {said:?}");
        let states = ctx.world.frontend_states(1);
        let first = states.iter().position(|seen| *seen != state::INITIALISING).unwrap_or(0);
        check!(states[first..] == AROUND, "the frontend's states were {states:?}");
        ctx.count("times it misbehaved", ctx.world.misbehaved(1, Hostile::StateSkip));
        leave(ctx)?;
    }
    ctx.want("times it misbehaved", 4);
    bystander(ctx, &mut other)
}

/// Detaches the victim and waits until Windows has let go of it.
fn leave(ctx: &Ctx<'_>) -> Result<(), Failure> {
    ctx.world.detach_disk(1);
    let mut waited = 0;
    while !ctx.world.disk_gone(1) || Disk::present(1) {
        check!(waited < 30_000, "{waited} ms after the detach the disk is still there");
        ctx.world.sleep_ms(20);
        waited += 20;
    }
    Ok(())
}
