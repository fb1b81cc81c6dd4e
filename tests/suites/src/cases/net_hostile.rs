//! A network backend that lies: Windows goes on, another interface does not notice, no byte is wrong, the log names the
//! device, the interface goes in order and a new one works.

use alloc::format;

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::net_load::{download, endpoint, network, upload};
use crate::check;
use crate::net_guest::Nic;
use crate::network::{Checksum, Frame, NetHostile, VifSpec};
use crate::packet::{Form, Transport, flag, payload};

/// Interface 0 is the victim; interface 1 must not notice.
fn setup(_: u64) -> Setup {
    Setup { vifs: alloc::vec![VifSpec::new(0), VifSpec::new(1)], stepping: false, ..Setup::default() }
}

/// What a lie looks like, and what must come of it.
struct Lie {
    how: NetHostile,
    times: u32,
    /// The log must have a line about the victim.
    said: bool,
}

const fn lie(how: NetHostile, times: u32, said: bool) -> Lie {
    Lie { how, times, said }
}

macro_rules! cases {
    ($($name:literal, $lie:expr, $summary:literal;)*) => {
        &[$(Case {
            name: concat!("hostile-net/", $name),
            summary: $summary,
            quick: true,
            timeout_s: 120,
            setup,
            run: |ctx| connected(ctx, &$lie),
        }),*]
    };
}

/// The lies of a connected backend.
pub const CASES: &[Case] = cases! {
    "tx-id-out-of-range", lie(NetHostile::TxIdOutOfRange, 1, true), "A transmit response whose id is no slot";
    "tx-id-not-outstanding", lie(NetHostile::TxIdNotOutstanding, 1, true), "A transmit response for a slot that is free";
    "tx-duplicate-id", lie(NetHostile::TxDuplicateId, 3, true), "The same transmit response twice";
    "tx-bad-status", lie(NetHostile::TxBadStatus, 3, true), "A transmit status that does not exist";
    "tx-null-status", lie(NetHostile::TxNullStatus, 3, true), "The status of extra info without extra info";
    "tx-producer-ahead", lie(NetHostile::TxProducerAhead, 1, true), "The transmit ring's rsp_prod jumps ahead";
    "tx-producer-backward", lie(NetHostile::TxProducerBackward, 1, true), "The transmit ring's rsp_prod runs backward";
    "tx-no-response", lie(NetHostile::TxNoResponse, 2, false), "Transmit responses that never come";
    "tx-keep-grant", lie(NetHostile::TxKeepGrant, 2, true), "A sent frame's pages stay mapped after the response";
    "rx-wrong-id", lie(NetHostile::RxWrongId, 1, true), "A receive response with another slot's id";
    "rx-beyond-page", lie(NetHostile::RxBeyondPage, 1, true), "Offset and status reach beyond the page";
    "rx-error-status", lie(NetHostile::RxErrorStatus, 3, false), "A receive status below zero";
    "rx-runt", lie(NetHostile::RxRunt, 3, false), "A frame shorter than an Ethernet header";
    "rx-bad-extra", lie(NetHostile::RxBadExtra, 1, true), "Extra info of a type that does not exist";
    "rx-endless-extras", lie(NetHostile::RxEndlessExtras, 1, true), "Extra info without end";
    "rx-endless-chain", lie(NetHostile::RxEndlessChain, 1, false), "A chain of slots without end";
    "rx-producer-ahead", lie(NetHostile::RxProducerAhead, 1, true), "The receive ring's rsp_prod jumps ahead";
    "rx-producer-backward", lie(NetHostile::RxProducerBackward, 1, true), "The receive ring's rsp_prod runs backward";
    "rx-keep-grant", lie(NetHostile::RxKeepGrant, 4, true), "Receive buffers stay mapped and are written to later";
    "rx-gso-size-zero", lie(NetHostile::RxGsoSizeZero, 2, true), "Segmentation info of size 0";
    "rx-gso-bad-type", lie(NetHostile::RxGsoBadType, 2, true), "Segmentation info of a type that does not exist";
    "rx-checksum-nonsense", lie(NetHostile::RxChecksumNonsense, 4, false), "Blank checksum and segments on no IP packet";
    "rx-rewrite-response", lie(NetHostile::RxRewriteResponse, 3, false), "A receive response changes after it was published";
    "event-storm", lie(NetHostile::EventStorm, 200, false), "Events without end and without reason";
    "state-flap", lie(NetHostile::StateFlap, 3, false), "The backend's state flaps";
    "watch-storm", lie(NetHostile::WatchStorm, 50, false), "The backend's state is written again and again";
    "vanish", lie(NetHostile::Vanish, 1, false), "The backend and its directory vanish with frames in flight";
};

/// The lies of a handshake.
pub const HANDSHAKES: &[Case] = &[
    Case {
        name: "hostile-net/absurd-keys",
        summary: "Feature keys and queue counts that are 0, negative, huge or no numbers, at 20 handshakes",
        quick: true,
        timeout_s: 120,
        setup,
        run: |ctx| handshakes(ctx, NetHostile::AbsurdKeys, 20),
    },
    Case {
        name: "hostile-net/queue-count-changes",
        summary: "Another number of queues is offered at every handshake",
        quick: true,
        timeout_s: 120,
        setup,
        run: |ctx| handshakes(ctx, NetHostile::QueueCountChanges, 6),
    },
    Case {
        name: "hostile-net/state-skip",
        summary: "The backend is connected before the frontend offered rings",
        quick: true,
        timeout_s: 120,
        setup,
        run: |ctx| handshakes(ctx, NetHostile::StateSkip, 3),
    },
    Case {
        name: "hostile-net/control-wrong-id",
        summary: "Control responses with another id, at 3 handshakes",
        quick: true,
        timeout_s: 120,
        setup,
        run: |ctx| handshakes(ctx, NetHostile::CtrlWrongId, 3),
    },
    Case {
        name: "hostile-net/control-no-response",
        summary: "Control requests that are never answered, at 3 handshakes",
        quick: true,
        timeout_s: 120,
        setup,
        run: |ctx| handshakes(ctx, NetHostile::CtrlNoResponse, 3),
    },
];

/// Simulated milliseconds that the driver gets to come over a lie.
const SETTLE_MS: u64 = 3_000;

/// Tries to use the victim. What fails is allowed to fail, but no byte may be wrong.
fn try_traffic(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let Ok(nic) = Nic::find_within(ctx, 0, 100) else { return Ok(()) };
    let Ok(stack) = nic.stack(&nic.config(ctx.seed)) else { return Ok(()) };
    for size in [0, 500, 1472] {
        // Failing is allowed; what comes back is compared.
        let answered = stack.ping(nic.host_v4(), &payload(size as u32, size), 300).is_ok();
        ctx.count("pings of the victim answered", u64::from(answered));
    }
    // Each kind of slot: several for one frame, large ones, both checksums.
    for (v6, mss) in [(false, None), (true, Some(1400))] {
        let form = Form { v6, from_guest: false, transport: Transport::Tcp { options: 12 }, ..Form::tcp(nic.mac()) };
        let mut bytes = form.build(1, flag::ACK, &payload(2, if mss.is_some() { 9000 } else { 1000 }));
        form.blank(&mut bytes, true);
        network(ctx)?.send_frame(0, Frame { bytes, checksum: Checksum::Blank, mss });
    }
    ctx.world.sleep_ms(50);
    Ok(())
}

/// The other interface works as if nothing was.
fn other_works(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 1)?;
    upload(ctx, &stack, nic.host_v4(), 40_000)?;
    download(ctx, &stack, nic.host_v6(), 40_000)?;
    ctx.count("transfers on the other interface", 2);
    Ok(())
}

/// Takes the victim away and puts another in its place, which must work.
fn replace(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    network(ctx)?.behave_vif(0);
    network(ctx)?.detach_vif(0);
    let mut waited = 0;
    while Nic::present(0) {
        check!(waited < 60_000, "{waited} ms after the detach Windows still has the victim");
        ctx.world.sleep_ms(20);
        waited += 20;
    }
    // The bus sees that it is gone before the next comes.
    ctx.world.sleep_ms(SETTLE_MS);
    network(ctx)?.attach_vif(&VifSpec::new(0));
    let (nic, stack) = endpoint(ctx, 0)?;
    upload(ctx, &stack, nic.host_v4(), 40_000)?;
    download(ctx, &stack, nic.host_v4(), 40_000)?;
    ctx.count("replaced", 1);
    Ok(())
}

fn connected(ctx: &mut Ctx<'_>, lie: &Lie) -> Result<(), Failure> {
    {
        let (nic, stack) = endpoint(ctx, 0)?;
        upload(ctx, &stack, nic.host_v4(), 20_000)?;
        download(ctx, &stack, nic.host_v4(), 20_000)?;
    }
    let lines = ctx.world.log().len();
    network(ctx)?.misbehave_vif(0, lie.how, lie.times);
    for _ in 0..6 {
        try_traffic(ctx)?;
        if network(ctx)?.vif_misbehaved(0, lie.how) >= u64::from(lie.times) {
            break;
        }
    }
    let times = network(ctx)?.vif_misbehaved(0, lie.how);
    ctx.set("lies told", times);
    ctx.world.sleep_ms(SETTLE_MS);
    let said = ctx.world.log().into_iter().skip(lines).filter(|line| line.contains("vif/0")).count();
    ctx.set("lines of the log about the victim", said as u64);
    check!(!lie.said || said > 0, "the log says nothing of the victim");
    check!(said < 100, "{said} lines of the log about one lie");
    other_works(ctx)?;
    replace(ctx)?;
    ctx.want("lies told", 1);
    ctx.want("transfers on the other interface", 2);
    ctx.want("replaced", 1);
    Ok(())
}

fn handshakes(ctx: &mut Ctx<'_>, how: NetHostile, rounds: u32) -> Result<(), Failure> {
    drop(endpoint(ctx, 0)?);
    for round in 0..rounds {
        network(ctx)?.misbehave_vif(0, how, 1);
        network(ctx)?.restart_vif(0);
        ctx.world.sleep_ms(SETTLE_MS);
        try_traffic(ctx).map_err(|failure| Failure(format!("round {round}: {failure}")))?;
        ctx.count("handshakes", 1);
    }
    let times = network(ctx)?.vif_misbehaved(0, how);
    ctx.set("lies told", times);
    other_works(ctx)?;
    replace(ctx)?;
    ctx.want("lies told", 1);
    ctx.want("handshakes", u64::from(rounds));
    ctx.want("transfers on the other interface", 2);
    ctx.want("replaced", 1);
    Ok(())
}
