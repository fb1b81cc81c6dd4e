//! Offloads: what is left to the other side must come out byte for byte as software would have made it.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use nt::ndis::oid_abi::oid;
use nt::net::Client;
use nt::net::checksum::transmit;
use rand::RngExt;

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::net_load::{Streams, endpoint, judge, network};
use crate::net_guest::{Layout, Nic, Outgoing, Received, filter};
use crate::network::{Checksum, Crossing, Frame, VifSpec};
use crate::packet::{Form, Transport, flag, payload};
use crate::{check, fail};

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "net/lso",
        summary: "Large sends of many MSS, header lengths and memory layouts: the wire carries what software would send",
        quick: true,
        timeout_s: 240,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: |ctx| large_sends(ctx, true),
    },
    Case {
        name: "net/lso-without-backend",
        summary: "The same with a backend that takes no large packets: the driver segments",
        quick: true,
        timeout_s: 240,
        setup: |_| Setup { vifs: vec![VifSpec { gso: false, ..VifSpec::new(0) }], stepping: false, ..Setup::default() },
        run: |ctx| large_sends(ctx, false),
    },
    Case {
        name: "net/checksums-out",
        summary: "Checksums left to the adapter, every header form with options, extensions and tags: the wire has them right",
        quick: true,
        timeout_s: 240,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: checksums_out,
    },
    Case {
        name: "net/checksums-out-without-backend",
        summary: "The same with a backend that takes no blank checksums: the driver fills them in",
        quick: true,
        timeout_s: 240,
        setup: |_| Setup {
            vifs: vec![VifSpec { gso: false, checksums: false, ..VifSpec::new(0) }],
            stepping: false,
            ..Setup::default()
        },
        run: checksums_out,
    },
    Case {
        name: "net/checksums-in",
        summary: "Frames with right, wrong, blank and checked checksums: what Windows is told of each is true",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: checksums_in,
    },
    Case {
        name: "net/large-receives",
        summary: "Large packets from the backend come with their count of segments, and in segments where RSC is off",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: large_receives,
    },
    Case {
        name: "net/layouts",
        summary: "Frames cut to any number of MDLs at any offsets leave as they are; too many slots are bounced",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: layouts,
    },
    Case {
        name: "net/untrusted-backend",
        summary: "The same with `trusted` 0: no byte besides the frame is in a page that the backend can map",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup {
            vifs: vec![VifSpec { trusted: Some(false), ..VifSpec::new(0) }],
            stepping: false,
            ..Setup::default()
        },
        run: layouts,
    },
    Case {
        name: "net/vlan",
        summary: "Tags are put in and taken out, with and without offloads, and carry id and priority end to end",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: vlan,
    },
    Case {
        name: "net/offloads-toggled",
        summary: "Every offload is switched off and on again and again while streams run: none breaks",
        quick: false,
        timeout_s: 300,
        setup: |_| Setup { stepping: false, ..Setup::one_vif() },
        run: offloads_toggled,
    },
];

/// Simulated milliseconds that a handful of frames get.
const FRAMES_MS: u64 = 10_000;
/// The host's port to which nobody listens: what these cases send.
const PORT: u16 = 40_000;

/// Sends lists and waits until all are back, well.
fn send_all(ctx: &Ctx<'_>, client: &Client, lists: &[Outgoing]) -> Result<(), Failure> {
    let Some(sendings) = client.send(lists) else { fail!("the guest has no memory to send") };
    let mut waited = 0;
    for (n, sending) in sendings.iter().enumerate() {
        while sending.status().is_none() {
            check!(waited < FRAMES_MS, "send {n} of {} never ends", sendings.len());
            ctx.world.sleep_ms(1);
            waited += 1;
        }
        let status = sending.status().unwrap_or(-1);
        check!(status == 0, "send {n} ended with {status:#x}");
    }
    Ok(())
}

/// Whether a frame is one of these cases' own, behind a tag or not.
fn is_own(bytes: &[u8], form: &Form) -> bool {
    let mac = if form.from_guest { form.guest_mac } else { form.host_mac };
    let behind_tag = if bytes.get(12..14) == Some(&[0x81, 0]) { 16 } else { 12 };
    let kind: &[u8] = if form.v6 { &[0x86, 0xdd] } else { &[8, 0] };
    bytes.get(6..12) == Some(&mac) && bytes.get(behind_tag..behind_tag + 2) == Some(kind)
}

/// The own frames of the guest's that crossed since they were forgotten.
fn crossed(ctx: &Ctx<'_>, form: &Form) -> Result<Vec<Crossing>, Failure> {
    let all = network(ctx)?.crossings(0);
    Ok(all.into_iter().filter(|c| c.from_guest && is_own(&c.frame.bytes, form)).collect())
}

/// Holds what the wire carried against what software makes.
fn compare(ctx: &mut Ctx<'_>, form: &Form, wanted: &[Vec<u8>], what: &str) -> Result<(), Failure> {
    let wire: Vec<Vec<u8>> = crossed(ctx, form)?.into_iter().flat_map(|crossing| crossing.wire).collect();
    check!(wire.len() == wanted.len(), "{what}: {} frames on the wire, {} are due; {form:?}", wire.len(), wanted.len());
    for (n, (seen, due)) in wire.iter().zip(wanted).enumerate() {
        if seen != due {
            let at = seen.iter().zip(due).position(|(a, b)| a != b).unwrap_or(seen.len().min(due.len()));
            fail!(
                "{what}: frame {n} of {} differs at byte {at} of {} and {}; {form:?}",
                wire.len(),
                seen.len(),
                due.len()
            );
        }
        ctx.count("frames compared", 1);
    }
    Ok(())
}

/// A layout by the seed: pieces, offsets in pages, bytes before and behind.
fn any_layout(ctx: &mut Ctx<'_>, len: usize, most_pieces: usize) -> Layout {
    let count = ctx.rng.random_range(0..most_pieces);
    let pieces = (0..count).map(|_| ctx.rng.random_range(1..=(len / count.max(1)).max(1))).collect();
    let offsets = (0..=count).map(|_| ctx.rng.random_range(0..4096)).collect();
    Layout { pieces, offsets, lead: ctx.rng.random_range(0..64), tail: ctx.rng.random_range(0..64) }
}

fn forms(mac: [u8; 6], transports: &[Transport]) -> Vec<Form> {
    let mut list = Vec::new();
    for v6 in [false, true] {
        for &transport in transports {
            for extension in [0, 8, 24, 40] {
                list.push(Form { v6, transport, extension, ports: (49_000, PORT), ..Form::tcp(mac) });
            }
        }
    }
    list
}

fn large_sends(ctx: &mut Ctx<'_>, offered: bool) -> Result<(), Failure> {
    let nic = Nic::find(ctx, 0)?;
    nic.wait_link(ctx, true, 30_000)?;
    let client = nic.raw_filtered(filter::DIRECTED)?;
    let options = [0, 4, 12, 20, 40].map(|options| Transport::Tcp { options });
    for form in forms(nic.mac(), &options) {
        let at = form.layout();
        let most_mss = 1514 - at.payload;
        let random = ctx.rng.random_range(100..most_mss);
        for mss in [536, 1000, random, most_mss] {
            for len in [mss + 1, 3 * mss, ctx.rng.random_range(mss + 1..60_000)] {
                let whole = form.build(
                    ctx.rng.random(),
                    flag::ACK | flag::PSH | flag::FIN | flag::CWR,
                    &payload(mss as u32, len),
                );
                let wanted = form.segments(&whole, mss);
                let mut handed = whole;
                form.blank(&mut handed, false);
                // Windows leaves the length of what it does not send itself to the miniport.
                if ctx.rng.random_range(0..2) == 0 {
                    let field = at.ip + if form.v6 { 4 } else { 2 };
                    handed[field..field + 2].fill(0);
                }
                let mut layout = any_layout(ctx, len, 12);
                layout.pieces.insert(0, at.payload);
                let list = Outgoing::laid_out(handed, layout).large(mss as u32, at.transport as u32, form.v6);
                network(ctx)?.forget_crossings(0);
                send_all(ctx, &client, &[list])?;
                compare(ctx, &form, &wanted, &format!("a large send of {len} bytes, MSS {mss}"))?;
                ctx.count("large sends", 1);
            }
        }
    }
    let stats = judge(ctx, 0)?;
    ctx.set("large packets from the guest", stats.large_from_guest);
    check!(offered || stats.large_from_guest == 0, "large packets that the backend did not offer to take");
    ctx.want("large sends", 480);
    ctx.want("frames compared", 4000);
    if offered {
        ctx.want("large packets from the guest", 400);
    }
    Ok(())
}

/// The out-of-band word for a form.
fn left_out(form: &Form) -> u32 {
    let family = if form.v6 { transmit::IPV6 } else { transmit::IPV4 };
    let transport = if form.transport == Transport::Udp { transmit::UDP } else { transmit::TCP };
    family | transport | (form.layout().transport as u32) << transmit::OFFSET_SHIFT
}

fn checksums_out(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let nic = Nic::find(ctx, 0)?;
    nic.wait_link(ctx, true, 30_000)?;
    let client = nic.raw_filtered(filter::DIRECTED)?;
    let transports = [Transport::Tcp { options: 0 }, Transport::Tcp { options: 40 }, Transport::Udp];
    for form in forms(nic.mac(), &transports) {
        for tagged in [false, true] {
            for len in [0, 1, 2, 63, 64, 777, 1300] {
                let seen = Form { tag: tagged.then_some(0x6000 | 0x123), ..form };
                let wanted = seen.build(7, flag::ACK, &payload(len as u32, len));
                let mut handed = form.build(7, flag::ACK, &payload(len as u32, len));
                form.blank(&mut handed, true);
                let mut info = left_out(&form);
                if !form.v6 && len % 2 == 1 {
                    let header = form.layout().ip + 10;
                    handed[header..header + 2].fill(0);
                    info |= transmit::IP_HEADER;
                }
                let layout = any_layout(ctx, handed.len(), 4);
                let mut list = Outgoing { checksum: info, ..Outgoing::laid_out(handed, layout) };
                if tagged {
                    list = list.tagged(0x123, 3);
                }
                network(ctx)?.forget_crossings(0);
                send_all(ctx, &client, &[list])?;
                compare(ctx, &form, &[wanted], &format!("{len} bytes, tagged {tagged}"))?;
            }
        }
    }
    judge(ctx, 0)?;
    ctx.want("frames compared", 300);
    Ok(())
}

/// Takes frames of the own form until `count` are there or time is up.
fn receive(ctx: &Ctx<'_>, client: &Client, form: &Form, count: usize) -> Result<Vec<Received>, Failure> {
    let mut list = Vec::new();
    let mut waited = 0;
    while list.len() < count {
        let came: VecDeque<Received> = client.take();
        list.extend(came.into_iter().filter(|frame| is_own(&frame.bytes(), form)));
        if list.len() < count {
            if waited >= FRAMES_MS {
                let stats = network(ctx)?.vif_stats(0);
                fail!(
                    "{} of {count} frames came, the backend gave {} and dropped {}; {form:?}",
                    list.len(),
                    stats.to_guest,
                    stats.dropped_to_guest
                );
            }
            ctx.world.sleep_ms(1);
            waited += 1;
        }
    }
    Ok(list)
}

/// Forms of packets to the guest.
fn forms_in(mac: [u8; 6], transports: &[Transport]) -> Vec<Form> {
    forms(mac, transports).into_iter().map(|form| Form { from_guest: false, ..form }).collect()
}

fn checksums_in(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let nic = Nic::find(ctx, 0)?;
    nic.wait_link(ctx, true, 30_000)?;
    let client = nic.raw_filtered(filter::DIRECTED)?;
    for form in forms_in(nic.mac(), &[Transport::Tcp { options: 12 }, Transport::Udp]) {
        for (checksum, wrong) in [
            (Checksum::Unknown, false),
            (Checksum::Unknown, true),
            (Checksum::Validated, false),
            (Checksum::Blank, false),
        ] {
            for len in [1, 64, 1200] {
                let whole = form.build(1, flag::ACK, &payload(len as u32, len));
                let mut bytes = whole.clone();
                if wrong {
                    let last = bytes.len() - 1;
                    bytes[last] ^= 0x10;
                }
                if checksum == Checksum::Blank {
                    form.blank(&mut bytes, true);
                }
                network(ctx)?.send_frame(0, Frame { bytes: bytes.clone(), checksum, mss: None });
                let frame = receive(ctx, &client, &form, 1)?.remove(0);
                let vouched = frame.metadata.tcp_good() || frame.metadata.udp_good();
                let seen = frame.bytes();
                check!(!(wrong && vouched), "a frame with a wrong checksum is called right; {form:?}");
                check!(wrong || !frame.metadata.bad(), "a right frame is called wrong: {checksum:?} {form:?}");
                let at = form.layout();
                // A blank checksum may stay blank only if the driver vouches for the frame.
                check!(
                    seen == whole || seen == bytes && (vouched || checksum != Checksum::Blank),
                    "a frame came with other bytes: {checksum:?}, vouched {vouched}, {form:?}"
                );
                check!(seen[at.payload..] == bytes[at.payload..], "the payload differs; {form:?}");
                ctx.count("frames received", 1);
                ctx.count("frames vouched for", u64::from(vouched));
            }
        }
    }
    judge(ctx, 0)?;
    ctx.want("frames received", 150);
    ctx.want("frames vouched for", 30);
    Ok(())
}

/// `NDIS_OFFLOAD_PARAMETERS`, revision 3: checksums, LSO and RSC. 0 leaves a thing as it is.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddndis/ns-ntddndis-_ndis_offload_parameters>
fn parameters(checksums: u8, lso: u8, rsc: u8) -> Vec<u8> {
    let mut bytes = vec![0x80, 3, 26, 0];
    bytes.extend_from_slice(&[checksums; 5]);
    // LsoV1, IPsecV1, LsoV2IPv4, LsoV2IPv6, TcpConnectionIPv4, TcpConnectionIPv6, and padding before Flags.
    bytes.extend_from_slice(&[0, 0, lso, lso, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 4]);
    // IPsecV2, IPsecV2IPv4, RscIPv4, RscIPv6, EncapsulatedPacketTaskOffload, EncapsulationTypes.
    bytes.extend_from_slice(&[0, 0, rsc, rsc, 0, 0]);
    bytes
}

/// Switches checksums, LSO and RSC.
fn switch(nic: &Nic, checksums: bool, lso: bool, rsc: bool) -> Result<(), Failure> {
    // NDIS_OFFLOAD_PARAMETERS_TX_RX_DISABLED, _TX_RX_ENABLED; _LSOV2_DISABLED, _ENABLED; _RSC_DISABLED, _ENABLED.
    let word = |on: bool, enabled: u8| if on { enabled } else { 1 };
    let bytes = parameters(word(checksums, 4), word(lso, 2), word(rsc, 2));
    let answer = nic.adapter().set(oid::TCP_OFFLOAD_PARAMETERS, &bytes);
    check!(answer.ok(), "OID_TCP_OFFLOAD_PARAMETERS is refused with {:#x}", answer.status);
    Ok(())
}

fn large_receives(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let nic = Nic::find(ctx, 0)?;
    nic.wait_link(ctx, true, 30_000)?;
    let client = nic.raw_filtered(filter::DIRECTED)?;
    for rsc in [true, false] {
        let before = network(ctx)?.vif_stats(0).connections;
        switch(&nic, true, true, rsc)?;
        // The backend learns of it by a new handshake.
        let mut waited = 0;
        while !rsc && network(ctx)?.vif_stats(0).connections == before {
            check!(waited < FRAMES_MS, "the backend is not told that RSC is off");
            ctx.world.sleep_ms(5);
            waited += 5;
        }
        nic.wait_link(ctx, true, 30_000)?;
        for v6 in [false, true] {
            for (mss, len) in [(1400, 2800), (1400, 2801), (536, 30_000), (1428, 60_000)] {
                let transport = Transport::Tcp { options: 12 };
                let form = Form { v6, from_guest: false, transport, ports: (49_000, PORT), ..Form::tcp(nic.mac()) };
                let at = form.layout();
                let whole = form.build(1000, flag::ACK | flag::PSH, &payload(len as u32, len));
                let mut bytes = whole.clone();
                form.blank(&mut bytes, true);
                let segments = form.segments(&whole, mss);
                network(ctx)?.send_frame(0, Frame { bytes, checksum: Checksum::Blank, mss: Some(mss as u16) });
                let mut data = Vec::new();
                let (mut count, mut frames) = (0, 0);
                while data.len() < len {
                    for frame in receive(ctx, &client, &form, 1)? {
                        let seen = frame.bytes();
                        let sequence = 1000 + data.len() as u32;
                        check!(
                            seen[at.transport + 4..at.transport + 8] == sequence.to_be_bytes(),
                            "the sequence number of frame {frames} does not go on; {form:?}"
                        );
                        data.extend_from_slice(&seen[at.payload..]);
                        count += usize::from(frame.metadata.segments().max(1));
                        frames += 1;
                        check!(rsc || frame.metadata.segments() == 0, "RSC is off and a coalesced frame came");
                        ctx.count("coalesced frames", u64::from(frame.metadata.segments() > 1));
                    }
                }
                check!(data == payload(len as u32, len), "the payload differs; {form:?}");
                check!(count == segments.len(), "{count} segments are told of, {} were sent; {form:?}", segments.len());
                ctx.count("large packets received", 1);
            }
        }
    }
    judge(ctx, 0)?;
    ctx.want("large packets received", 16);
    ctx.want("coalesced frames", 4);
    Ok(())
}

fn layouts(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let nic = Nic::find(ctx, 0)?;
    nic.wait_link(ctx, true, 30_000)?;
    let client = nic.raw_filtered(filter::DIRECTED)?;
    let form = Form { transport: Transport::Udp, ports: (49_000, PORT), ..Form::tcp(nic.mac()) };
    for round in 0..150usize {
        let count = ctx.rng.random_range(1..6usize);
        let mut lists = Vec::new();
        let mut wanted = Vec::new();
        for n in 0..count {
            let len = ctx.rng.random_range(1..1400usize);
            let bytes = form.build(0, 0, &payload((round * 8 + n) as u32, len));
            let pieces = if round % 10 == 0 { 60 } else { 8 };
            let layout = any_layout(ctx, bytes.len(), pieces);
            wanted.push(bytes.clone());
            lists.push(Outgoing::laid_out(bytes, layout));
        }
        network(ctx)?.forget_crossings(0);
        send_all(ctx, &client, &lists)?;
        compare(ctx, &form, &wanted, &format!("round {round}"))?;
    }
    judge(ctx, 0)?;
    ctx.want("frames compared", 300);
    Ok(())
}

fn vlan(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let nic = Nic::find(ctx, 0)?;
    nic.wait_link(ctx, true, 30_000)?;
    let client = nic.raw_filtered(filter::DIRECTED)?;
    for (id, priority) in [(0u16, 5u8), (1, 0), (42, 7), (4094, 3)] {
        let plain = Form { transport: Transport::Udp, ports: (49_000, PORT), ..Form::tcp(nic.mac()) };
        let tagged = Form { tag: Some(u16::from(priority) << 13 | id), ..plain };
        let data = payload(id.into(), 300);
        network(ctx)?.forget_crossings(0);
        send_all(ctx, &client, &[Outgoing::frame(plain.build(0, 0, &data)).tagged(id, priority)])?;
        compare(ctx, &plain, &[tagged.build(0, 0, &data)], "a tagged frame")?;

        let from_host = Form { from_guest: false, ..tagged };
        let bytes = from_host.build(0, 0, &data);
        network(ctx)?.send_frame(0, Frame { bytes, checksum: Checksum::Unknown, mss: None });
        let frame = receive(ctx, &client, &from_host, 1)?.remove(0);
        check!(
            (frame.metadata.vlan_id(), frame.metadata.priority()) == (id, priority),
            "a tag of {id}, priority {priority} came as {}, {}",
            frame.metadata.vlan_id(),
            frame.metadata.priority()
        );
        let untagged = Form { tag: None, ..from_host };
        check!(frame.bytes() == untagged.build(0, 0, &data), "the frame behind tag {id} differs");
        ctx.count("tags both ways", 1);
    }
    judge(ctx, 0)?;
    ctx.want("tags both ways", 4);
    Ok(())
}

fn offloads_toggled(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let (nic, stack) = endpoint(ctx, 0)?;
    let mut streams = Streams::open(ctx, &stack, nic.host_v4(), 2, 2_000_000)?;
    let mut more = Streams::open(ctx, &stack, nic.host_v6(), 1, 1_000_000)?;
    for round in 0..100u32 {
        let checksums = round & 1 == 0;
        stack.set_offload(false);
        switch(&nic, checksums, round & 2 == 0, round & 4 == 0)?;
        stack.set_offload(checksums);
        streams.step(ctx, 6000)?;
        more.step(ctx, 3000)?;
        ctx.count("switches", 1);
    }
    streams.finish(ctx)?;
    more.finish(ctx)?;
    judge(ctx, 0)?;
    ctx.want("switches", 100);
    ctx.want("streams verified", 6);
    Ok(())
}
