//! A network backend that lies: Windows goes on, another interface does not notice, no byte is wrong, the log names the
//! device, the interface goes in order and a new one works.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

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
    /// What a line of the log about the victim must have; None: there need be none.
    says: Option<&'static str>,
}

/// A lie that a line of the log must name.
const fn told(how: NetHostile, times: u32, says: &'static str) -> Lie {
    Lie { how, times, says: Some(says) }
}

/// A lie that harms nobody, so that nothing need be said.
const fn untold(how: NetHostile, times: u32) -> Lie {
    Lie { how, times, says: None }
}

const NOT_OUT: &str = "no such request is out";
const AHEAD: &str = "the peer's ring index ran ahead";
const BACKWARD: &str = "the peer's ring index went back";
const DISTRUST: &str = "the backend is not believed any more";

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
    "tx-id-out-of-range", told(NetHostile::TxIdOutOfRange, 1, NOT_OUT), "A transmit response whose id is no slot";
    "tx-id-not-outstanding", told(NetHostile::TxIdNotOutstanding, 1, NOT_OUT),
        "A transmit response for a slot that is free";
    "tx-duplicate-id", told(NetHostile::TxDuplicateId, 3, NOT_OUT), "The same transmit response twice";
    "tx-bad-status", told(NetHostile::TxBadStatus, 3, "no such status"), "A transmit status that does not exist";
    "tx-null-status", told(NetHostile::TxNullStatus, 3, "without an extra to answer"),
        "The status of extra info without extra info";
    "tx-producer-ahead", told(NetHostile::TxProducerAhead, 1, AHEAD), "The transmit ring's rsp_prod jumps ahead";
    "tx-producer-backward", told(NetHostile::TxProducerBackward, 1, BACKWARD),
        "The transmit ring's rsp_prod runs backward";
    "tx-no-response", untold(NetHostile::TxNoResponse, 2), "Transmit responses that never come";
    "tx-keep-grant", told(NetHostile::TxKeepGrant, 2, "of an answered request"),
        "A sent frame's pages stay mapped after the response";
    "rx-wrong-id", told(NetHostile::RxWrongId, 1, DISTRUST), "A receive response with another slot's id";
    "rx-beyond-page", told(NetHostile::RxBeyondPage, 1, DISTRUST), "Offset and status reach beyond the page";
    "rx-error-status", untold(NetHostile::RxErrorStatus, 3), "A receive status below zero";
    "rx-runt", untold(NetHostile::RxRunt, 3), "A frame shorter than an Ethernet header";
    "rx-bad-extra", told(NetHostile::RxBadExtra, 1, DISTRUST), "Extra info of a type that does not exist";
    "rx-endless-extras", told(NetHostile::RxEndlessExtras, 1, DISTRUST), "Extra info without end";
    "rx-endless-chain", untold(NetHostile::RxEndlessChain, 1), "A chain of slots without end";
    "rx-producer-ahead", told(NetHostile::RxProducerAhead, 1, AHEAD), "The receive ring's rsp_prod jumps ahead";
    "rx-producer-backward", told(NetHostile::RxProducerBackward, 1, BACKWARD),
        "The receive ring's rsp_prod runs backward";
    "rx-keep-grant", told(NetHostile::RxKeepGrant, 4, "of a filled page is still used"),
        "Receive buffers stay mapped and are written to later";
    "rx-gso-size-zero", told(NetHostile::RxGsoSizeZero, 2, DISTRUST), "Segmentation info of size 0";
    "rx-gso-bad-type", told(NetHostile::RxGsoBadType, 2, DISTRUST), "Segmentation info of a type that does not exist";
    "rx-checksum-nonsense", untold(NetHostile::RxChecksumNonsense, 4), "Blank checksum and segments on no IP packet";
    "rx-rewrite-response", untold(NetHostile::RxRewriteResponse, 3),
        "A receive response changes after it was published";
    "event-storm", untold(NetHostile::EventStorm, 200), "Events without end and without reason";
    "state-flap", untold(NetHostile::StateFlap, 3), "The backend's state flaps";
    "watch-storm", untold(NetHostile::WatchStorm, 50), "The backend's state is written again and again";
    "vanish", untold(NetHostile::Vanish, 1), "The backend and its directory vanish with frames in flight";
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
    let said: Vec<String> = ctx.world.log().into_iter().skip(lines).filter(|line| line.contains("vif/0")).collect();
    ctx.set("lines of the log about the victim", said.len() as u64);
    if let Some(says) = lie.says {
        check!(said.iter().any(|line| line.contains(says)), "no line says \"{says}\": {said:?}");
    }
    check!(said.len() < 100, "{} lines of the log about one lie", said.len());
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
