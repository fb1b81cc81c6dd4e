//! Interfaces that stop, go and come back while streams run: pause and restart, reset, hot-plug, backend restarts, suspends.

use alloc::format;
use alloc::vec::Vec;

use nt::net::Client;

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::net_load::{Streams, download, endpoint, failed, judge, network, upload};
use crate::net_guest::{Nic, Outgoing, Sending, filter};
use crate::network::{NetHostile, VifSpec};
use crate::packet::{Form, Transport, flag, payload};
use crate::{check, fail};

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "net/pause",
        summary: "20 times paused and restarted with streams running: they go on",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_vif(),
        run: |ctx| pause(ctx, 20),
    },
    Case {
        name: "net/pause-x1000",
        summary: "1,000 times paused and restarted with streams running",
        quick: false,
        timeout_s: 900,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: |ctx| pause(ctx, 1000),
    },
    Case {
        name: "net/restart-device",
        summary: "The device is disabled and enabled 20 times: each time the adapter is there and works",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: restart_device,
    },
    Case {
        name: "net/hotplug",
        summary: "20 times attach, use, detach, with streams on another interface",
        quick: true,
        timeout_s: 180,
        setup: |_| Setup::one_vif(),
        run: |ctx| hotplug(ctx, 20),
    },
    Case {
        name: "net/hotplug-x1000",
        summary: "1,000 times attach, use, detach, with streams on another interface",
        quick: false,
        timeout_s: 1800,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: |ctx| hotplug(ctx, 1000),
    },
    Case {
        name: "net/backend-restart",
        summary: "The backend closes and comes back 20 times with streams running: they go on",
        quick: true,
        timeout_s: 180,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: backend_restart,
    },
    Case {
        name: "net/queue-counts",
        summary: "Suspends and restarts to backends with more and fewer queues, all queues full: no send is left behind",
        quick: true,
        timeout_s: 180,
        setup: |_| Setup {
            stepping: false,
            vcpus: 4,
            vifs: alloc::vec![VifSpec { queues: Some(4), ..VifSpec::new(0) }],
            ..Setup::default()
        },
        run: queue_counts,
    },
    Case {
        name: "net/suspend",
        summary: "20 suspends with streams running, every third cancelled: they go on, neighbours are told",
        quick: true,
        timeout_s: 180,
        setup: |_| Setup::one_vif(),
        run: |ctx| suspend(ctx, 20),
    },
    Case {
        name: "net/suspend-x1000",
        summary: "1,000 suspends with streams running, every third cancelled",
        quick: false,
        timeout_s: 1800,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: |ctx| suspend(ctx, 1000),
    },
    Case {
        name: "net/exhaustion",
        summary: "A backend that answers nothing for a while: sends wait, none is lost, none fails",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: exhaustion,
    },
];

/// Bytes that each stream of these cases carries at most: more than any of them moves.
const PLENTY: u64 = 1 << 32;
/// Lists of a flood: more than four queues of the driver's have room for.
const FLOOD: u32 = 6000;

fn pause(ctx: &mut Ctx<'_>, rounds: u64) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    let mut streams = Streams::open(ctx, &stack, nic.host_v4(), 2, rounds * 4000 + 20_000)?;
    for round in 0..rounds {
        streams.step(ctx, 2000)?;
        let paused = nic.adapter().pause_and_restart();
        check!(paused.is_ok(), "round {round}: {paused:x?}");
        ctx.count("pauses", 1);
        streams.step(ctx, 2000)?;
    }
    streams.finish(ctx)?;
    judge(ctx, 0)?;
    ctx.want("pauses", rounds);
    ctx.want("streams verified", 4);
    Ok(())
}

fn restart_device(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    for _ in 0..20 {
        let (nic, stack) = endpoint(ctx, 0)?;
        upload(ctx, &stack, nic.host_v4(), 20_000)?;
        download(ctx, &stack, nic.host_v6(), 20_000)?;
        drop(stack);
        nic.restart_device()?;
        ctx.count("restarts", 1);
    }
    let stats = judge(ctx, 0)?;
    check!(stats.connections >= 20, "{} handshakes for 20 restarts", stats.connections);
    ctx.want("restarts", 20);
    ctx.want("bytes sent by TCP", 400_000);
    Ok(())
}

fn hotplug(ctx: &mut Ctx<'_>, rounds: u64) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    let mut streams = Streams::open(ctx, &stack, nic.host_v4(), 1, rounds * 2000 + 20_000)?;
    for round in 0..rounds {
        let at = |failure: Failure| Failure(format!("round {round}: {failure}"));
        network(ctx)?.attach_vif(&VifSpec::new(1));
        let (other, second) = endpoint(ctx, 1).map_err(at)?;
        second.ping(other.host_v4(), &payload(round as u32, 700), 5000).map_err(failed("a ping")).map_err(at)?;
        upload(ctx, &second, other.host_v6(), 3000).map_err(at)?;
        streams.step(ctx, 2000)?;
        judge(ctx, 1)?;
        network(ctx)?.detach_vif(1);
        drop((other, second));
        let mut waited = 0;
        while !network(ctx)?.vif_gone(1) || Nic::present(1) {
            check!(
                waited < 30_000,
                "round {round}: {waited} ms after the detach: gone from the store {}, seen by Windows {}",
                network(ctx)?.vif_gone(1),
                Nic::present(1)
            );
            ctx.world.sleep_ms(10);
            waited += 10;
        }
        check!(
            network(ctx)?.vif_stats(1).forced == 0,
            "round {round}: the toolstack had to take the interface by force"
        );
        ctx.count("rounds", 1);
    }
    streams.finish(ctx)?;
    judge(ctx, 0)?;
    ctx.want("rounds", rounds);
    ctx.want("streams verified", 2);
    Ok(())
}

fn backend_restart(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    let mut streams = Streams::open(ctx, &stack, nic.host_v4(), 2, 200_000)?;
    for _ in 0..20 {
        streams.step(ctx, 4000)?;
        let before = network(ctx)?.vif_stats(0).connections;
        network(ctx)?.restart_vif(0);
        streams.step(ctx, 4000)?;
        let mut waited = 0;
        while network(ctx)?.vif_stats(0).connections == before {
            check!(waited < 30_000, "{waited} ms after the backend's restart nobody is connected");
            ctx.world.sleep_ms(5);
            waited += 5;
        }
        ctx.count("restarts", 1);
    }
    streams.finish(ctx)?;
    judge(ctx, 0)?;
    ctx.want("restarts", 20);
    ctx.want("streams verified", 4);
    Ok(())
}

/// So many small frames of four flows, each in a list of its own: more than queues of the driver's take.
fn flood(nic: &Nic, client: &Client) -> Result<Vec<Sending>, Failure> {
    let form = Form { transport: Transport::Udp, ports: (49_000, 40_000), ..Form::tcp(nic.mac()) };
    let frame = Outgoing::frame(form.build(1, flag::ACK, &payload(1, 18)));
    let mut sendings = Vec::new();
    for chain in 0..FLOOD / 100 {
        // Runs of ten go through one queue, as the hash says.
        let hash = |index: u32| ((chain * 10 + index / 10) % 4 + 4, 0);
        let lists: Vec<Outgoing> = (0..100).map(|index| Outgoing { hash: hash(index), ..frame.clone() }).collect();
        let Some(sent) = client.send(&lists) else { fail!("the guest has no memory to send") };
        sendings.extend(sent);
    }
    Ok(sendings)
}

fn queue_counts(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    let client = nic.raw_filtered(filter::DIRECTED)?;
    let mut last = network(ctx)?.vif_stats(0).queues;
    for round in 0..12 {
        upload(ctx, &stack, nic.host_v4(), 20_000)?;
        network(ctx)?.hold_answers(0, true);
        let sendings = flood(&nic, &client)?;
        let waiting = sendings.iter().filter(|sending| sending.status().is_none()).count();
        let before = network(ctx)?.vif_stats(0).connections;
        network(ctx)?.misbehave_vif(0, NetHostile::QueueCountChanges, 1);
        if round % 2 == 0 {
            ctx.world.suspend(false);
        } else {
            network(ctx)?.restart_vif(0);
        }
        let mut waited = 0;
        while network(ctx)?.vif_stats(0).connections == before {
            check!(waited < 30_000, "round {round}: {waited} ms and nobody is connected");
            ctx.world.sleep_ms(5);
            waited += 5;
        }
        network(ctx)?.hold_answers(0, false);
        let queues = network(ctx)?.vif_stats(0).queues;
        waited = 0;
        while let Some(left) = sendings.iter().position(|sending| sending.status().is_none()) {
            check!(
                waited < 5000,
                "round {round}: send {left} of {FLOOD} is out, with {queues} queues instead of {last}"
            );
            ctx.world.sleep_ms(5);
            waited += 5;
        }
        let given_up = sendings.iter().filter(|sending| sending.status() != Some(0)).count();
        check!(queues < last || given_up == 0, "{given_up} sends failed, with {queues} queues instead of {last}");
        ctx.count("sends that waited", waiting as u64);
        ctx.count("sends given up", given_up as u64);
        ctx.count("connections with fewer queues", u64::from(queues < last));
        ctx.count("connections with more queues", u64::from(queues > last));
        last = queues;
    }
    upload(ctx, &stack, nic.host_v4(), 20_000)?;
    judge(ctx, 0)?;
    ctx.want("sends that waited", 5000);
    ctx.want("sends given up", 1);
    ctx.want("connections with fewer queues", 3);
    ctx.want("connections with more queues", 3);
    Ok(())
}

/// Frames of the guest's since the last look that tell neighbours of an IPv4 or IPv6 address: gratuitous ARP, unsolicited
/// neighbour advertisements.
fn announcements(ctx: &Ctx<'_>, mac: [u8; 6]) -> Result<(u64, u64), Failure> {
    let (mut v4, mut v6) = (0, 0);
    for crossing in network(ctx)?.crossings(0).iter().filter(|crossing| crossing.from_guest) {
        let frame = &crossing.frame.bytes;
        if frame.get(6..12) != Some(&mac) {
            continue;
        }
        let arp = frame.get(12..14) == Some(&[8, 6]);
        // Sender and target address of ARP are the same.
        v4 += u64::from(arp && frame.len() >= 42 && frame[28..32] == frame[38..42] && frame[..6] == [0xff; 6]);
        let nd = frame.get(12..14) == Some(&[0x86, 0xdd]) && frame.get(20) == Some(&58) && frame.get(54) == Some(&136);
        // Not an answer: the solicited flag is clear.
        v6 += u64::from(nd && frame[58] & 0x40 == 0);
    }
    Ok((v4, v6))
}

fn suspend(ctx: &mut Ctx<'_>, rounds: u64) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    let mut streams = Streams::open(ctx, &stack, nic.host_v4(), 1, PLENTY.min(rounds * 6000 + 40_000))?;
    let mut more = Streams::open(ctx, &stack, nic.host_v6(), 1, PLENTY.min(rounds * 6000 + 40_000))?;
    for round in 0..rounds {
        let before = ctx.world.xen_stats();
        let cancel = round % 3 == 2;
        // Sent frames stay with the backend until the suspend is through.
        network(ctx)?.hold_answers(0, true);
        streams.step(ctx, 3000)?;
        more.step(ctx, 3000)?;
        network(ctx)?.forget_crossings(0);
        ctx.world.suspend(cancel);
        streams.step(ctx, 3000)?;
        more.step(ctx, 3000)?;
        let mut waited = 0;
        loop {
            let stats = ctx.world.xen_stats();
            if stats.suspends + stats.cancelled_suspends > before.suspends + before.cancelled_suspends {
                break;
            }
            check!(waited < 60_000, "round {round}: {waited} ms and no suspend");
            ctx.world.sleep_ms(2);
            waited += 2;
        }
        network(ctx)?.hold_answers(0, false);
        if !cancel && round < 6 {
            // Three times each, so that a lost one does no harm.
            let mut waited = 0;
            while announcements(ctx, nic.mac())? < (3, 3) {
                let seen = announcements(ctx, nic.mac())?;
                check!(seen.0 < 3 || seen.1 < 3, "announcements {seen:?}");
                check!(waited < 20_000, "round {round}: the guest announced itself {seen:?} times");
                ctx.world.sleep_ms(50);
                waited += 50;
            }
            ctx.count("announcements seen", 1);
        }
        ctx.count(if cancel { "cancelled" } else { "suspends" }, 1);
    }
    streams.finish(ctx)?;
    more.finish(ctx)?;
    let stats = judge(ctx, 0)?;
    ctx.set("in flight at suspend", stats.in_flight_at_suspend);
    ctx.want("suspends", rounds * 2 / 3);
    ctx.want("cancelled", rounds / 3);
    ctx.want("announcements seen", 3);
    ctx.want("streams verified", 4);
    ctx.want("in flight at suspend", 1);
    Ok(())
}

fn exhaustion(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    upload(ctx, &stack, nic.host_v4(), 1000)?;
    for round in 0..5u32 {
        network(ctx)?.hold_answers(0, true);
        // More than the ring holds.
        let socket = stack.udp(3002).map_err(failed("a UDP socket"))?;
        for number in 0..600 {
            let bytes = crate::network::datagram(number, 1000);
            if socket.send_to(nic.host_v4(), crate::network::port::SINK, &bytes, 20).is_err() {
                break;
            }
        }
        // What the endpoint still has goes out, as far as there is room.
        ctx.world.sleep_ms(20);
        let full = network(ctx)?.vif_stats(0).in_flight;
        ctx.set("slots in flight", full);
        check!(nic.link_up(), "round {round}: the link went down");
        network(ctx)?.hold_answers(0, false);
        drop(socket);
        upload(ctx, &stack, nic.host_v4(), 50_000)?;
        ctx.count("rounds", 1);
    }
    let failed = stack.client().counters().failed.load(core::sync::atomic::Ordering::Relaxed);
    check!(failed == 0, "{failed} sends failed because the ring was full");
    judge(ctx, 0)?;
    ctx.want("rounds", 5);
    ctx.want("slots in flight", 200);
    Ok(())
}
