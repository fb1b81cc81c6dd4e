//! The network end to end: link, addresses, neighbours, ping, TCP, UDP, jumbo frames, VLANs.

use alloc::vec::Vec;

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::net_load::{
    Streams, datagrams_in, datagrams_out, download, endpoint, failed, judge, network, upload,
};
use crate::check;
use crate::net_guest::{Nic, filter};
use crate::network::{VifSpec, datagram, port};
use crate::packet::payload;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "net/link-and-mac",
        summary: "Windows has the adapter with the MAC of the configuration; the link follows carrier and speed",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_vif(),
        run: link_and_mac,
    },
    Case {
        name: "net/ping",
        summary: "ARP, neighbour discovery, and pings of all sizes both ways, IPv4 and IPv6, fragments too",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_vif(),
        run: ping,
    },
    Case {
        name: "net/tcp",
        summary: "TCP both ways, IPv4 and IPv6, judged by hash",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_vif(),
        run: tcp,
    },
    Case {
        name: "net/tcp-plain",
        summary: "The same with a backend that offers nothing: one queue, one event channel, no offload, no scatter-gather",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { vifs: alloc::vec![plain()], ..Setup::default() },
        run: tcp,
    },
    Case {
        name: "net/tcp-loss",
        summary: "TCP over a wire that loses 2 frames of 100: all comes through",
        quick: false,
        timeout_s: 240,
        setup: |_| Setup {
            vifs: alloc::vec![VifSpec { loss_permille: 20, ..VifSpec::new(0) }],
            stepping: false,
            ..Setup::default()
        },
        run: tcp_loss,
    },
    Case {
        name: "net/connections",
        summary: "64 TCP connections at once, both ways, judged by hash",
        quick: false,
        timeout_s: 300,
        setup: |_| Setup { stepping: false, vcpus: 4, ..Setup::one_vif() },
        run: connections,
    },
    Case {
        name: "net/udp",
        summary: "Datagrams of all sizes both ways: each is accounted for, none changed, none twice",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_vif(),
        run: udp,
    },
    Case {
        name: "net/jumbo",
        summary: "An MTU of 9000: large pings and TCP both ways",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { vifs: alloc::vec![VifSpec { mtu: Some(9000), ..VifSpec::new(0) }], ..Setup::default() },
        run: jumbo,
    },
    Case {
        name: "net/two-adapters",
        summary: "Two interfaces carry traffic at once, each its own",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { vifs: alloc::vec![VifSpec::new(0), VifSpec::new(1)], ..Setup::default() },
        run: two_adapters,
    },
];

/// A backend without any feature but rx-copy.
fn plain() -> VifSpec {
    VifSpec {
        queues: None,
        sg: false,
        gso: false,
        checksums: false,
        split_events: false,
        multicast_control: false,
        control_ring: false,
        offload_to_guest: false,
        ..VifSpec::new(0)
    }
}

fn link_and_mac(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let nic = Nic::find(ctx, 0)?;
    nic.wait_link(ctx, true, 30_000)?;
    let mac = nic.mac();
    let text = mac.iter().map(|byte| alloc::format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    check!(VifSpec::new(0).mac == Some(text.as_str()), "the adapter's address is {text}");
    check!(nic.mtu() == 1500, "the adapter's MTU is {}", nic.mtu());
    for up in [false, true] {
        network(ctx)?.set_carrier(0, up);
        nic.wait_link(ctx, up, 10_000)?;
        ctx.count("link changes", 1);
    }
    // What the toolstack says of the speed, and what Windows is told: nonsense says nothing.
    let key = alloc::format!("{}/device/vif/0/speed", ctx.world.home());
    let gigabit = 1_000_000_000;
    check!(nic.adapter().link().xmit_speed == 10 * gigabit, "no speed is set: {:?}", nic.adapter().link());
    for (text, wanted) in
        [("25", 25 * gigabit), ("100M", gigabit / 10), ("4 lanes", 10 * gigabit), ("400g", 400 * gigabit)]
    {
        ctx.world.store_write(&key, text);
        let mut waited = 0;
        while nic.adapter().link().xmit_speed != wanted || nic.adapter().link().rcv_speed != wanted {
            check!(waited < 10_000, "speed = {text}: Windows was told {:?}", nic.adapter().link());
            ctx.world.sleep_ms(5);
            waited += 5;
        }
        check!(nic.link_up(), "speed = {text}: the link is down");
        ctx.count("speeds told", 1);
    }
    ctx.want("speeds told", 4);
    let stats = network(ctx)?.vif_stats(0);
    check!(stats.connections == 1, "{} handshakes for one boot", stats.connections);
    check!(stats.queues == 2, "{} queues with two processors and two offered", stats.queues);
    ctx.want("link changes", 2);
    Ok(())
}

/// Lets the host ping the guest `count` times and judges the answers.
fn ping_guest(ctx: &mut Ctx<'_>, v6: bool, size: usize, count: u32, interval_us: u64) -> Result<(), Failure> {
    let net = network(ctx)?;
    net.ping_guest(0, v6, size, count, interval_us);
    let mut waited = 0;
    while !net.ping_report(0).done {
        check!(waited < 20_000, "the pings of the host never end: {:?}", net.ping_report(0));
        ctx.world.sleep_ms(20);
        waited += 20;
    }
    let report = net.ping_report(0);
    check!(report.good == report.sent && report.bad == 0, "pings of {size} bytes from the host: {report:?}");
    ctx.count("pings in", report.good);
    Ok(())
}

fn ping(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    for host in [nic.host_v4(), nic.host_v6()] {
        let header = if host == nic.host_v4() { 28 } else { 48 };
        let most = nic.mtu() - header;
        for size in 0..=most {
            stack.ping(host, &payload(size as u32, size), 5000).map_err(failed("a ping"))?;
            ctx.count("pings out", 1);
        }
    }
    for (v6, size) in [(false, 0), (false, 64), (false, 1472), (true, 64), (true, 1452)] {
        ping_guest(ctx, v6, size, 20, 1000)?;
    }
    // Beyond the MTU: fragments, which smoltcp does not make of IPv6. The sizes grow and each is answered before the next is sent:
    // smoltcp 0.14.0 sums an ICMP message in fragments over all of its fragmentation buffer (`Packet::fill_checksum` of
    // wire/icmpv4.rs), and begins another datagram before the last one's fragments are out (`Interface::poll_egress`).
    for size in [1473, 1480, 2000, 2952, 2953, 4000, 8000, 16_000] {
        stack.ping(nic.host_v4(), &payload(size as u32, size), 5000).map_err(failed("a ping in fragments"))?;
        ping_guest(ctx, false, size, 3, 100_000)?;
        ctx.count("pings in fragments", 4);
    }
    judge(ctx, 0)?;
    ctx.want("pings out", 1473 + 1453);
    ctx.want("pings in", 100);
    ctx.want("pings in fragments", 32);
    Ok(())
}

fn tcp(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    for offload in [false, true] {
        stack.set_offload(offload);
        for host in [nic.host_v4(), nic.host_v6()] {
            for len in [0, 1, 1460, 300_000] {
                upload(ctx, &stack, host, len)?;
                download(ctx, &stack, host, len as u64)?;
            }
        }
    }
    // One flow, so one queue: several times the pages that it has.
    download(ctx, &stack, nic.host_v4(), 3_000_000)?;
    let stats = judge(ctx, 0)?;
    ctx.set("large packets to the guest", stats.large_to_guest);
    ctx.set("blank checksums from the guest", stats.blank_from_guest);
    ctx.want("bytes sent by TCP", 1_200_000);
    ctx.want("bytes received by TCP", 4_200_000);
    Ok(())
}

fn tcp_loss(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    for host in [nic.host_v4(), nic.host_v6()] {
        upload(ctx, &stack, host, 400_000)?;
        download(ctx, &stack, host, 400_000)?;
    }
    let stats = judge(ctx, 0)?;
    ctx.set("frames lost", stats.lost_on_wire);
    ctx.want("frames lost", 10);
    ctx.want("bytes sent by TCP", 800_000);
    ctx.want("bytes received by TCP", 800_000);
    Ok(())
}

fn connections(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    let mut streams = Streams::open(ctx, &stack, nic.host_v4(), 32, 64_000)?;
    for _ in 0..8 {
        streams.step(ctx, 8000)?;
    }
    let most = network(ctx)?.vif_stats(0).most_tcp_connections;
    ctx.set("connections at once", most);
    streams.finish(ctx)?;
    judge(ctx, 0)?;
    ctx.want("connections at once", 64);
    ctx.want("streams verified", 64);
    Ok(())
}

fn udp(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    for host in [nic.host_v4(), nic.host_v6()] {
        for (count, size) in [(200, 12), (200, 18), (200, 512), (200, 1452), (200, 1472)] {
            // The largest that IPv6 has room for is smaller.
            let size = if host == nic.host_v6() { size.min(1452) } else { size };
            let [good, bad, duplicates, reordered] = datagrams_out(&stack, host, count, size)?;
            check!(
                good == u64::from(count) && bad == 0 && duplicates == 0,
                "of {count} datagrams of {size} bytes {good} came, {duplicates} twice, {bad} changed; {:?}; {:?}",
                stack.counters(),
                network(ctx)?.vif_stats(0)
            );
            ctx.count("datagrams out", good);
            ctx.count("datagrams out, reordered", reordered);
            let (good, reordered) = datagrams_in(&stack, host, count.min(100), size as u32)?;
            check!(good == u64::from(count.min(100)), "of {} datagrams of {size} bytes {good} came", count.min(100));
            check!(reordered == 0, "{reordered} datagrams of one flow came out of order");
            ctx.count("datagrams in", good);
        }
    }
    // In fragments, and one at a time: see `ping`.
    let socket = stack.udp(3003).map_err(failed("a UDP socket"))?;
    for size in [1473, 1480, 2952, 2953, 8000, 16_000] {
        let sent = datagram(size as u32, size);
        socket.send_to(nic.host_v4(), port::ECHO, &sent, 5000).map_err(failed("a datagram in fragments"))?;
        let (back, _) = socket.receive_from(5000).map_err(failed("its echo"))?;
        check!(back == sent, "of a datagram of {size} bytes {} came back, or others", back.len());
        ctx.count("datagrams in fragments", 1);
    }
    judge(ctx, 0)?;
    ctx.want("datagrams in fragments", 6);
    ctx.want("datagrams out", 1600);
    ctx.want("datagrams in", 800);
    Ok(())
}

fn jumbo(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let nic = Nic::find(ctx, 0)?;
    nic.set_keyword("*JumboPacket", "9014")?;
    nic.restart_device()?;
    let (nic, stack) = endpoint(ctx, 0)?;
    check!(nic.mtu() == 9000, "the adapter's MTU is {}", nic.mtu());
    for size in [1473, 4000, 8000, 8972] {
        stack.ping(nic.host_v4(), &payload(1, size), 5000).map_err(failed("a large ping"))?;
        stack.ping(nic.host_v6(), &payload(1, size - 20), 5000).map_err(failed("a large ping"))?;
        ctx.count("large pings", 2);
    }
    upload(ctx, &stack, nic.host_v4(), 400_000)?;
    download(ctx, &stack, nic.host_v6(), 400_000)?;
    judge(ctx, 0)?;
    let largest = network(ctx)?.crossings(0).iter().map(|crossing| crossing.frame.bytes.len()).max().unwrap_or(0);
    ctx.set("largest frame", largest as u64);
    ctx.want("large pings", 8);
    ctx.want("largest frame", 9014);
    Ok(())
}

fn two_adapters(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (first, one) = endpoint(ctx, 0)?;
    let (second, other) = endpoint(ctx, 1)?;
    check!(first.mac() != second.mac(), "both adapters have the address {:x?}", first.mac());
    let mut left = Streams::open(ctx, &one, first.host_v4(), 2, 100_000)?;
    let mut right = Streams::open(ctx, &other, second.host_v4(), 2, 100_000)?;
    for _ in 0..10 {
        left.step(ctx, 8000)?;
        right.step(ctx, 8000)?;
    }
    left.finish(ctx)?;
    right.finish(ctx)?;
    // Each hears its own wire alone.
    let client = second.raw_filtered(filter::PROMISCUOUS)?;
    one.ping(first.host_v4(), &payload(1, 100), 5000).map_err(failed("a ping"))?;
    let foreign = client.take().iter().filter(|frame| frame.bytes()[..6] == first.mac()).count();
    check!(foreign == 0, "{foreign} frames of one interface came in on the other");
    for index in [0, 1] {
        judge(ctx, index)?;
    }
    ctx.want("streams verified", 8);
    Ok(())
}
