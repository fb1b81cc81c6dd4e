//! What Windows does to an adapter beside sending and receiving: power states, keywords out of range, lists that cannot be
//! sent among others that can.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use nt::net::checksum::transmit;

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::net_load::{download, endpoint, failed, judge, network, upload};
use crate::net_guest::{Nic, Outgoing, filter};
use crate::packet::{Form, Transport, flag, payload};
use crate::{check, fail};

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "net/power",
        summary: "5 times into D3 and back: traffic before and after, a new handshake each time",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: power,
    },
    Case {
        name: "net/keywords",
        summary: "Every keyword below, above and beside its range: the adapter comes up with the default and carries traffic",
        quick: true,
        timeout_s: 180,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: keywords,
    },
    Case {
        name: "net/refused-lists",
        summary: "Lists that ask for what is not offered, in one chain with others: those fail, the others go out",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_vif(),
        run: refused_lists,
    },
];

fn power(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    for round in 0..5 {
        let (nic, stack) = endpoint(ctx, 0)?;
        upload(ctx, &stack, nic.host_v4(), 20_000)?;
        download(ctx, &stack, nic.host_v6(), 20_000)?;
        drop(stack);
        let before = network(ctx)?.vif_stats(0).connections;
        nic.set_power(false)?;
        check!(!nic.link_up(), "round {round}: the link is up in D3");
        nic.set_power(true)?;
        nic.wait_link(ctx, true, 30_000)?;
        let made = network(ctx)?.vif_stats(0).connections - before;
        check!(made == 1, "round {round}: {made} handshakes for one way back to D0");
        ctx.count("power cycles", 1);
    }
    let (nic, stack) = endpoint(ctx, 0)?;
    upload(ctx, &stack, nic.host_v4(), 20_000)?;
    judge(ctx, 0)?;
    ctx.want("power cycles", 5);
    ctx.want("bytes sent by TCP", 120_000);
    Ok(())
}

/// Each keyword with a number, and its largest value.
const NUMBERS: [(&str, u32); 14] = [
    ("*JumboPacket", 9014),
    ("*IPChecksumOffloadIPv4", 3),
    ("*TCPChecksumOffloadIPv4", 3),
    ("*UDPChecksumOffloadIPv4", 3),
    ("*TCPChecksumOffloadIPv6", 3),
    ("*UDPChecksumOffloadIPv6", 3),
    ("*LsoV2IPv4", 1),
    ("*LsoV2IPv6", 1),
    ("*RscIPv4", 1),
    ("*RscIPv6", 1),
    ("*RSS", 1),
    ("*NumRssQueues", 8),
    ("*PriorityVLANTag", 3),
    ("VlanID", 4094),
];

fn keywords(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let own = Nic::find(ctx, 0)?.mac();
    let offloads = |nic: &Nic| format!("{:x?}", nic.adapter().about.lock().offload);
    let default = offloads(&Nic::find(ctx, 0)?);
    // What NetworkAddress is beside them: no address, a group, none, one digit short.
    let beside = [("-1", "zz"), ("4294967295", "010203040506"), ("abc", "000000000000"), ("", "02030405060")];
    for (index, (text, address)) in beside.into_iter().enumerate() {
        let nic = Nic::find(ctx, 0)?;
        for (keyword, most) in NUMBERS {
            let above = format!("{}", most + 1);
            nic.set_keyword(keyword, if index == 0 { &above } else { text })?;
        }
        nic.set_keyword("NetworkAddress", address)?;
        nic.restart_device()?;
        let (nic, stack) = endpoint(ctx, 0)?;
        check!(nic.mac() == own, "with {text:?} and {address:?} the address is {:x?}", nic.mac());
        check!(nic.mtu() == 1500, "with {text:?} the MTU is {}", nic.mtu());
        check!(offloads(&nic) == default, "with {text:?} the offloads are {}", offloads(&nic));
        stack.ping(nic.host_v4(), &payload(1, 900), 5000).map_err(failed("a ping"))?;
        upload(ctx, &stack, nic.host_v6(), 10_000)?;
        ctx.count("restarts", 1);
    }
    let nic = Nic::find(ctx, 0)?;
    nic.set_keyword("NetworkAddress", "02A0B0C0D0E0")?;
    nic.restart_device()?;
    let (nic, stack) = endpoint(ctx, 0)?;
    check!(nic.mac() == [0x02, 0xA0, 0xB0, 0xC0, 0xD0, 0xE0], "the address is {:x?}", nic.mac());
    stack.ping(nic.host_v4(), &payload(1, 900), 5000).map_err(failed("a ping"))?;
    judge(ctx, 0)?;
    ctx.want("restarts", 4);
    Ok(())
}

fn refused_lists(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let nic = Nic::find(ctx, 0)?;
    nic.wait_link(ctx, true, 30_000)?;
    let client = nic.raw_filtered(filter::DIRECTED)?;
    let form = Form { transport: Transport::Udp, ports: (49_000, 40_000), ..Form::tcp(nic.mac()) };
    let whole = Outgoing::frame(form.build(1, flag::ACK, &payload(1, 700)));
    // Version 1 of LSO, which is not offered; a checksum of TCP where there is none; a frame without its headers.
    let lso = Outgoing { large_send: 500, ..whole.clone() };
    let sum = Outgoing { checksum: transmit::IPV4 | transmit::TCP, ..whole.clone() };
    let short = Outgoing::frame(vec![0; 13]);
    for bad in [lso, sum, short] {
        for place in 0..3 {
            let mut lists: Vec<Outgoing> = vec![whole.clone(); 3];
            lists.insert(place, bad.clone());
            let before = network(ctx)?.vif_stats(0).from_guest;
            let Some(sendings) = client.send(&lists) else { fail!("the guest has no memory to send") };
            let mut waited = 0;
            while !sendings.iter().all(|sending| sending.status().is_some()) {
                check!(waited < 5000, "of a chain with a list that cannot be sent some never come back");
                ctx.world.sleep_ms(1);
                waited += 1;
            }
            for (index, sending) in sendings.iter().enumerate() {
                let status = sending.status().unwrap_or(0);
                check!((status == 0) == (index != place), "list {index} of the chain ended with {status:#x}");
            }
            let sent = network(ctx)?.vif_stats(0).from_guest - before;
            check!(sent == 3, "{sent} of 3 frames went out");
            ctx.count("lists refused", 1);
        }
    }
    ctx.want("lists refused", 9);
    Ok(())
}
