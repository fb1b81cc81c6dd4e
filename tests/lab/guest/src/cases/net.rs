//! Cases of the network that only a real dom0 makes sense for: Linux's netback, `xl`, `ethtool`, bridges.
//! A guest takes seconds to boot, so each case does several things.

use crate::network::{self, Figures};
use crate::{processor, suspend, trap};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use nt::net::{Stack, checksum};
use sha2::{Digest as _, Sha256};
use suites::case::{Case, Ctx, Failure, Setup};
use suites::cases::net_load::{Streams, download, endpoint, failed, judge, network, upload};
use suites::check;
use suites::net_guest::{Nic, Outgoing, filter};
use suites::network::{VifSpec, port};
use suites::packet::{Form, Transport, flag, payload};

use super::{case, logged};

/// Milliseconds that a device gets to go, and a series of pings to end.
const PATIENCE_MS: u64 = 60_000;
/// Bytes of a transfer that is to come through.
const BULK: u64 = 300_000;
/// Bytes that a running stream moves at a time.
const STEP: usize = 8000;

/// The cases.
pub const CASES: &[Case] = &[
    case(
        "lab/net",
        "netback: MAC, carrier, pings, TCP both ways; ethtool's offloads off and on; hot-plug, suspends and xl destroy under \
         traffic",
        |_| Setup::one_vif(),
        |ctx| everything(ctx, 5, 3),
    ),
    case(
        "lab/net-long",
        "The same with 20 hot-plugs and 10 saves",
        |_| Setup::one_vif(),
        |ctx| everything(ctx, 20, 10),
    ),
    case(
        "lab/net-wide",
        "Two queues on two processors, an interface with MTU 9000, and a VLAN's tag from end to end",
        |_| Setup {
            vifs: alloc::vec![
                VifSpec::new(0),
                VifSpec { mtu: Some(9000), ..VifSpec::new(1) },
                VifSpec { vlan: Some(VLAN), ..VifSpec::new(2) },
            ],
            ..Setup::default()
        },
        wide,
    ),
];

fn everything(ctx: &mut Ctx<'_>, plugs: u64, saves: u64) -> Result<(), Failure> {
    basics(ctx)?;
    large_sends(ctx)?;
    let (nic, stack) = endpoint(ctx, 0)?;
    offloads(ctx, &nic, &stack)?;
    hot_plug(ctx, &nic, &stack, plugs)?;
    suspends(ctx, &nic, &stack, saves)?;
    let stats = judge(ctx, 0)?;
    ctx.set("frames from the guest since the last restore", stats.from_guest);
    ctx.set("coalesced packets received", stack.counters().coalesced.load(Ordering::Relaxed));
    ctx.want("coalesced packets received", 1);
    destroy(ctx, &nic, &stack)
}

/// dom0 pings the guest.
fn pings(ctx: &mut Ctx<'_>, index: u32, v6: bool, size: usize) -> Result<(), Failure> {
    let net = network(ctx)?;
    net.ping_guest(index, v6, size, 5, 5000);
    let mut waited = 0;
    let report = loop {
        let report = net.ping_report(index);
        if report.done {
            break report;
        }
        check!(waited < PATIENCE_MS, "the pings of dom0 never end");
        ctx.world.sleep_ms(50);
        waited += 50;
    };
    check!(report.sent == 5 && report.good == 5 && report.bad == 0, "pings of {size} bytes from dom0: {report:?}");
    ctx.count("pings in", report.good);
    Ok(())
}

/// Link, address, pings, TCP.
fn basics(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    let mac = nic.mac().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    check!(VifSpec::new(0).mac == Some(mac.as_str()), "the adapter's address is {mac}");
    check!(nic.mtu() == 1500, "the adapter's MTU is {}", nic.mtu());
    for host in [nic.host_v4(), nic.host_v6()] {
        for size in [0, 56, 1452] {
            stack.ping(host, &payload(size as u32, size), 5000).map_err(failed("a ping"))?;
            ctx.count("pings out", 1);
        }
    }
    stack.ping(nic.host_v4(), &payload(1, 4000), 5000).map_err(failed("a ping in fragments"))?;
    for (v6, size) in [(false, 56), (false, 1472), (true, 56), (true, 1452)] {
        pings(ctx, 0, v6, size)?;
    }
    for offload in [false, true] {
        stack.set_offload(offload);
        for host in [nic.host_v4(), nic.host_v6()] {
            upload(ctx, &stack, host, BULK as usize)?;
            download(ctx, &stack, host, BULK)?;
        }
    }
    for up in [false, true] {
        network(ctx)?.set_carrier(0, up);
        nic.wait_link(ctx, up, 10_000)?;
        ctx.count("link changes", 1);
    }
    judge(ctx, 0)?;
    ctx.want("pings out", 6);
    ctx.want("pings in", 20);
    ctx.want("link changes", 2);
    Ok(())
}

/// A conversation with the sink made by hand, as TCPIP would have it with large send offload: netback gets packets of 16 KB,
/// and what it makes of them has the right hash.
fn large_sends(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    const FIRST: u32 = 0x7fff_f000;
    const LARGE: usize = 16_000;
    const COUNT: u32 = 3;
    const SYN: u8 = 2;
    const RESET: u8 = 4;
    let nic = Nic::find(ctx, 0)?;
    nic.wait_link(ctx, true, 30_000)?;
    let client = nic.raw_filtered(filter::DIRECTED)?;
    let before = network::figures(0);
    for v6 in [false, true] {
        let ports = (50_000 + u16::from(v6), port::SINK);
        let form = Form { v6, host_mac: network::host_mac(0), ports, ..Form::tcp(nic.mac()) };
        let at = form.layout();
        let segment = |sequence: u32, acknowledged: u32, flags: u8, data: &[u8]| {
            let mut bytes = form.build(sequence, flags, data);
            bytes[at.transport + 8..at.transport + 12].copy_from_slice(&acknowledged.to_be_bytes());
            bytes
        };
        let plain = |mut bytes: Vec<u8>| {
            let checksum = checksum::leave_to_adapter(&mut bytes);
            Outgoing { checksum, ..Outgoing::frame(bytes) }
        };
        let send = |outgoing| client.send(&[outgoing]).map(drop).ok_or_else(|| Failure("no memory for a frame".into()));
        // The next segment of the host's: sequence number, flags, data.
        let receive = |ctx: &Ctx<'_>| {
            for _ in 0..1000 {
                while let Some(frame) = client.next().map(|frame| frame.bytes()) {
                    let Some(tcp) = frame.get(at.transport..at.transport + 20) else { continue };
                    let ours = frame[12..14] == if v6 { [0x86, 0xdd] } else { [8, 0] }
                        && tcp[..4] == [ports.1.to_be_bytes(), ports.0.to_be_bytes()].concat();
                    let length = usize::from(u16::from_be_bytes(if v6 {
                        [frame[18], frame[19]]
                    } else {
                        [frame[16], frame[17]]
                    }));
                    let end = at.ip + length + if v6 { 40 } else { 0 };
                    let data = frame.get(at.transport + usize::from(tcp[12] >> 4) * 4..end);
                    if let (true, Some(data)) = (ours, data) {
                        return Ok((u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]), tcp[13], data.to_vec()));
                    }
                }
                ctx.world.sleep_ms(5);
            }
            Err(Failure("the sink does not answer".into()))
        };
        send(plain(segment(FIRST, 0, SYN, &[])))?;
        let (theirs, flags, _) = receive(ctx)?;
        check!(flags == SYN | flag::ACK, "the sink answers a SYN with flags {flags:#x}");
        let mut expected = theirs.wrapping_add(1);
        let (mut next, mut sha) = (FIRST + 1, Sha256::new());
        for number in 0..COUNT {
            let data = payload(number, LARGE);
            sha.update(&data);
            let mut bytes = segment(next, expected, flag::ACK | flag::PSH, &data);
            form.blank(&mut bytes, false);
            send(Outgoing::frame(bytes).large(1514 - at.payload as u32, at.transport as u32, v6))?;
            next = next.wrapping_add(LARGE as u32);
            ctx.count("large sends", 1);
        }
        send(plain(segment(next, expected, flag::ACK | flag::FIN, &[])))?;
        let mut answer = Vec::new();
        while answer.len() < 40 {
            let (sequence, flags, data) = receive(ctx)?;
            check!(flags & RESET == 0, "the sink resets the connection");
            if sequence == expected {
                expected = expected.wrapping_add(data.len() as u32);
                answer.extend(data);
            }
        }
        send(plain(segment(next.wrapping_add(1), expected, RESET | flag::ACK, &[])))?;
        let came = u64::from_le_bytes(answer[..8].try_into().unwrap_or_default());
        check!(came == u64::from(COUNT) * LARGE as u64, "{came} bytes of {COUNT} large sends came");
        check!(answer[8..40] == sha.finalize()[..], "the large sends came with other bytes");
    }
    let after = network::figures(0);
    let size = (after.bytes[0] - before.bytes[0]) / (after.frames[0] - before.frames[0]).max(1);
    ctx.set("bytes of an average frame out, large sends", size);
    judge(ctx, 0)?;
    ctx.want("large sends", 6);
    ctx.want("bytes of an average frame out, large sends", 1515);
    Ok(())
}

/// Bytes of an average frame to the guest between two looks.
fn average(before: &Figures, after: &Figures) -> u64 {
    (after.bytes[1] - before.bytes[1]) / (after.frames[1] - before.frames[1]).max(1)
}

/// Switches the offloads of dom0's end, with traffic after each.
fn offloads(ctx: &mut Ctx<'_>, nic: &Nic, stack: &Stack) -> Result<(), Failure> {
    let transfer = |ctx: &mut Ctx<'_>, what: &str| {
        let before = (network::figures(0), stack.counters().vouched.load(Ordering::Relaxed));
        for host in [nic.host_v4(), nic.host_v6()] {
            let told = |failure: Failure| Failure(format!("{what}: {failure}"));
            upload(ctx, stack, host, 60_000).map_err(told)?;
            download(ctx, stack, host, BULK).map_err(told)?;
        }
        let vouched = stack.counters().vouched.load(Ordering::Relaxed) - before.1;
        Ok::<_, Failure>((average(&before.0, &network::figures(0)), vouched))
    };
    let (large, vouched) = transfer(ctx, "all offloads on")?;
    ctx.set("bytes of an average frame in, offloads on", large);
    check!(large > 1514, "with segmentation offload the average frame to the guest has {large} bytes");
    check!(vouched > 0, "with checksum offload no frame came with a checksum that somebody vouched for");
    for feature in ["tso", "gso", "sg", "tx"] {
        for on in [false, true] {
            let now = network::set_offload(0, feature, on);
            let (size, _) = transfer(ctx, &format!("{feature} {on}: {now}"))?;
            // Linux segments in software then, before netback, but only where neither it nor GSO may leave it to the guest.
            if !on && matches!(feature, "sg" | "tx") {
                check!(size <= 1514, "{feature} is off ({now}), yet the average frame has {size} bytes");
                ctx.count("offloads that were seen to be off", 1);
            }
            ctx.count("offload switches", 1);
        }
    }
    let (size, _) = transfer(ctx, "all offloads on again")?;
    check!(size > 1514, "the offloads are on again, yet the average frame has {size} bytes");
    judge(ctx, 0)?;
    ctx.want("offload switches", 8);
    ctx.want("offloads that were seen to be off", 2);
    Ok(())
}

/// `xl network-attach` and `network-detach` of another interface while streams run on the first.
fn hot_plug(ctx: &mut Ctx<'_>, nic: &Nic, stack: &Stack, rounds: u64) -> Result<(), Failure> {
    let mut streams = Streams::open(ctx, stack, nic.host_v4(), 1, rounds * 60 * STEP as u64)?;
    for round in 0..rounds {
        let at = |failure: Failure| Failure(format!("hot-plug {round}: {failure}"));
        network(ctx)?.attach_vif(&VifSpec::new(1));
        let (other, second) = endpoint(ctx, 1).map_err(at)?;
        second.ping(other.host_v4(), &payload(round as u32, 700), 10_000).map_err(failed("a ping")).map_err(at)?;
        upload(ctx, &second, other.host_v6(), 3000).map_err(at)?;
        streams.step(ctx, STEP).map_err(at)?;
        judge(ctx, 1).map_err(at)?;
        network(ctx)?.detach_vif(1);
        drop((other, second));
        let mut waited = 0;
        while !network(ctx)?.vif_gone(1) || Nic::present(1) {
            check!(waited < PATIENCE_MS, "hot-plug {round}: {waited} ms after the detach the interface is still there");
            if waited < 1000 {
                streams.step(ctx, STEP).map_err(at)?;
            }
            ctx.world.sleep_ms(50);
            waited += 50;
        }
        ctx.count("hot-plugs", 1);
    }
    streams.finish(ctx)?;
    ctx.want("hot-plugs", rounds);
    Ok(())
}

/// Saves and restores, and one suspend that is cancelled, while streams run that go on.
fn suspends(ctx: &mut Ctx<'_>, nic: &Nic, stack: &Stack, rounds: u64) -> Result<(), Failure> {
    let mut old = Streams::open(ctx, stack, nic.host_v4(), 1, (rounds + 1) * BULK * 3)?;
    let mut new = Streams::open(ctx, stack, nic.host_v6(), 1, (rounds + 1) * BULK)?;
    for round in 0..=rounds {
        let at = |failure: Failure| Failure(format!("suspend {round}: {failure}"));
        let cancel = round == rounds;
        let connections = network(ctx)?.vif_stats(0).connections;
        let before = suspend::in_flight().len();
        ctx.world.suspend(cancel);
        while suspend::in_flight().len() == before {
            old.step(ctx, STEP / 4).map_err(at)?;
            ctx.count("steps while the toolstack saves", 1);
            ctx.world.sleep_ms(20);
        }
        let stats = ctx.world.xen_stats();
        let done = stats.suspends + stats.cancelled_suspends;
        check!(done == round + 1, "suspend {round}: the toolstack did not finish");
        // The streams may have room for a step before the interface is connected again.
        let mut waited = 0;
        while !cancel && network(ctx)?.vif_stats(0).connections == connections {
            check!(waited < PATIENCE_MS, "suspend {round}: {waited} ms after the restore netback is not connected");
            ctx.world.sleep_ms(50);
            waited += 50;
        }
        for _ in 0..5 {
            old.step(ctx, STEP).map_err(at)?;
            new.step(ctx, STEP).map_err(at)?;
        }
        pings(ctx, 0, false, 500).map_err(at)?;
        let connections = network(ctx)?.vif_stats(0).connections - connections;
        check!(connections == u64::from(!cancel), "suspend {round}: {connections} handshakes with netback");
        ctx.count(if cancel { "suspends cancelled" } else { "saves" }, 1);
    }
    check!(logged(ctx, "xenpci: suspend: done") as u64 == rounds + 1, "xenpci did not get through every suspend");
    ctx.want("saves", rounds);
    ctx.want("suspends cancelled", 1);
    ctx.want("steps while the toolstack saves", rounds);
    old.finish(ctx)?;
    new.finish(ctx)?;
    ctx.want("streams verified", 6);
    Ok(())
}

/// `xl destroy` under traffic. The domain does not see the end of this.
fn destroy(ctx: &mut Ctx<'_>, nic: &Nic, stack: &Stack) -> Result<(), Failure> {
    ctx.check_wanted()?;
    let counters: Vec<String> = ctx.counters().iter().map(|(name, value)| format!("{name} {value}")).collect();
    let mut streams = Streams::open(ctx, stack, nic.host_v4(), 2, 1 << 40)?;
    network::destroy_under_traffic(0, &counters.join(", "));
    loop {
        streams.step(ctx, STEP)?;
    }
}

/// The VLAN that dom0 is on.
const VLAN: u16 = 5;

fn wide(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    two_queues(ctx)?;
    jumbo(ctx)?;
    vlan(ctx)
}

fn two_queues(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let count = processor::count();
    check!(count == 2, "the machine has {count} processors");
    let (nic, stack) = endpoint(ctx, 0)?;
    let stats = network(ctx)?.vif_stats(0);
    check!(stats.queues == 2, "{} queues with two processors and two offered", stats.queues);
    // Flows enough for each to fall on both queues.
    let mut streams = Streams::open(ctx, &stack, nic.host_v4(), 8, 20 * STEP as u64)?;
    let mut more = Streams::open(ctx, &stack, nic.host_v6(), 4, 20 * STEP as u64)?;
    for _ in 0..20 {
        streams.step(ctx, STEP)?;
        more.step(ctx, STEP)?;
    }
    streams.finish(ctx)?;
    more.finish(ctx)?;
    let events = network::figures(0).events;
    check!(events.len() == 2 && events.iter().all(|&count| count > 0), "events of netback's queues: {events:?}");
    ctx.set("events of netback's queue 0", events[0]);
    ctx.set("events of netback's queue 1", events[1]);
    for (name, processor) in [("device interrupts of processor 0", 0), ("device interrupts of processor 1", 1)] {
        ctx.set(name, trap::device_interrupts_of(processor));
        ctx.want(name, 1);
    }
    judge(ctx, 0)?;
    ctx.want("streams verified", 24);
    Ok(())
}

fn jumbo(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let nic = Nic::find(ctx, 1)?;
    nic.set_keyword("*JumboPacket", "9014")?;
    nic.restart_device()?;
    let (nic, stack) = endpoint(ctx, 1)?;
    check!(nic.mtu() == 9000, "the adapter's MTU is {}", nic.mtu());
    let before = network::figures(1);
    for size in [4000, 8972] {
        stack.ping(nic.host_v4(), &payload(1, size), 5000).map_err(failed("a large ping"))?;
        stack.ping(nic.host_v6(), &payload(1, size - 20), 5000).map_err(failed("a large ping"))?;
        ctx.count("large pings", 2);
    }
    let after = network::figures(1);
    // Each in one frame, which no fragments and no segments are.
    let most =
        [0, 1].map(|way| (after.bytes[way] - before.bytes[way]) / (after.frames[way] - before.frames[way]).max(1));
    check!(most.iter().all(|&bytes| bytes > 1514), "average frames of the large pings have {most:?} bytes");
    pings(ctx, 1, false, 8972)?;
    pings(ctx, 1, true, 8952)?;
    upload(ctx, &stack, nic.host_v4(), BULK as usize)?;
    download(ctx, &stack, nic.host_v6(), BULK)?;
    judge(ctx, 1)?;
    ctx.want("large pings", 4);
    Ok(())
}

/// A request for the host's hardware address, which also tells it the guest's.
fn arp(mac: [u8; 6], index: u8) -> Vec<u8> {
    let mut frame = alloc::vec![0xff; 6];
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[10, 77, index, 2, 0, 0, 0, 0, 0, 0, 10, 77, index, 1]);
    frame
}

fn vlan(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    const PRIORITY: u8 = 3;
    let nic = Nic::find(ctx, 2)?;
    nic.wait_link(ctx, true, 30_000)?;
    let client = nic.raw_filtered(filter::DIRECTED | filter::BROADCAST)?;
    // Waits for a frame of dom0's that a test accepts.
    let await_frame = |ctx: &Ctx<'_>, ms: u64, wanted: &dyn Fn(&[u8]) -> bool| {
        let mut waited = 0;
        loop {
            while let Some(frame) = client.next() {
                if wanted(&frame.bytes()) {
                    return Some((frame.bytes(), frame.metadata.vlan_id()));
                }
            }
            if waited >= ms {
                return None;
            }
            ctx.world.sleep_ms(5);
            waited += 5;
        }
    };
    let is_reply = |bytes: &[u8]| bytes.get(12..14) == Some(&[8, 6]) && bytes.get(20..22) == Some(&[0, 2]);
    let send = |outgoing| client.send(&[outgoing]).map(drop).ok_or_else(|| Failure("no memory for a frame".into()));

    // Without its tag the host hears nothing, with it the answer has the tag too.
    send(Outgoing::frame(arp(nic.mac(), 2)))?;
    check!(await_frame(ctx, 300, &is_reply).is_none(), "the host on VLAN {VLAN} answered a frame without a tag");
    send(Outgoing::frame(arp(nic.mac(), 2)).tagged(VLAN, PRIORITY))?;
    let Some((reply, tag)) = await_frame(ctx, 5000, &is_reply) else {
        suites::fail!("the host on VLAN {VLAN} does not answer a request with its tag");
    };
    check!(tag == VLAN, "the answer came with VLAN {tag}");
    ctx.count("tagged answers", 1);
    let mut host_mac = [0; 6];
    host_mac.copy_from_slice(&reply[6..12]);

    // A datagram to the echo port: the same bytes, the same tag.
    for size in [18, 700, 1400] {
        let ports = (49_000, port::ECHO);
        let form = Form { index: 2, host_mac, transport: Transport::Udp, ports, ..Form::tcp(nic.mac()) };
        let data = payload(size as u32, size);
        send(Outgoing::frame(form.build(0, 0, &data)).tagged(VLAN, PRIORITY))?;
        let is_echo = |bytes: &[u8]| bytes.get(23) == Some(&17) && bytes.get(34..36) == Some(&[0, 7]);
        let Some((echo, tag)) = await_frame(ctx, 5000, &is_echo) else {
            suites::fail!("a tagged datagram of {size} bytes is not echoed");
        };
        check!(tag == VLAN, "the echo came with VLAN {tag}");
        check!(echo.get(42..42 + size) == Some(data.as_slice()), "the echo of {size} bytes has other bytes");
        ctx.count("tagged answers", 1);
    }
    ctx.want("tagged answers", 4);
    Ok(())
}
