//! The NDIS port under a miniport that was not written for it: `tests/foreign/fndis.c` loops back what is sent, and breaks
//! one rule of NDIS at a time where it is told to.

mod common;

use common::{in_child, run};
use nt::ndis::adapter::{Adapter, State, adapters};
use nt::ndis::flow::Received;
use nt::ndis::oid_abi::filter;
use nt::net::{Client, Layout, Outgoing, Stack, StackConfig};
use nt::reg::hive;
use process::{BenchConfig, Ctx, Outcome};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// OID_GEN_XMIT_OK, which the miniport answers later.
const XMIT_OK: u32 = 0x0002_0101;

/// The folder of the miniport's package; says so and gives `None` where it was not built.
fn package() -> Option<PathBuf> {
    let folder = std::env::var_os("FOREIGN_DRIVERS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/foreign/x64"), PathBuf::from);
    if folder.join("fndis/fndis.sys").is_file() {
        return Some(folder.join("fndis"));
    }
    println!("skipped: the drivers of tests/foreign were not built");
    None
}

fn adapter(ctx: &Ctx) -> Arc<Adapter> {
    adapters().into_iter().find(|a| a.state() == State::Running).unwrap_or_else(|| panic!("none: {:#?}", ctx.log()))
}

/// Boots with the miniport; what became of the machine.
fn machine(drivers: PathBuf, body: impl FnOnce(&Ctx)) -> Option<String> {
    let verbose = std::env::var_os("PROCESS_TEST_VERBOSE").is_some();
    let seed = std::env::var("PROCESS_TEST_SEED").map_or(1, |text| text.parse().expect("a number"));
    let outcome = run(BenchConfig { drivers, verbose, seed, vcpus: 2, ..BenchConfig::default() }, |ctx| {
        let packages = ctx.packages().expect("the folder is readable");
        nt::pnp::boot::boot(nt::pnp::boot::BootConfig { packages, ..Default::default() }).expect("a boot");
        body(ctx);
    });
    if let Outcome::Stopped(stop) = outcome { Some(stop.report) } else { None }
}

fn honest(name: &str, body: impl FnOnce(&Ctx)) {
    let Some(drivers) = package() else { return };
    in_child(name, || {
        if let Some(report) = machine(drivers, body) {
            panic!("{report}");
        }
    });
}

/// A frame from the adapter to itself, `size` bytes.
fn frame(adapter: &Arc<Adapter>, size: usize, stamp: u8) -> Vec<u8> {
    let address = adapter.about.lock().current_address;
    let mut bytes = [address, address].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.extend((bytes.len()..size).map(|n| stamp ^ n as u8));
    bytes
}

fn client(adapter: &Arc<Adapter>) -> Client {
    let client = Client::bind(adapter).expect("a binding");
    assert_eq!(client.set_filter(filter::DIRECTED | filter::BROADCAST), 0);
    client
}

/// Waits until all that was sent is back.
fn drain(ctx: &Ctx, client: &Client) {
    for _ in 0..1000 {
        if client.counters().out.load(Ordering::Acquire) == 0 {
            return;
        }
        ctx.sleep_ms(1);
    }
    panic!("{:?} lists are still out", client.counters().out);
}

/// Disables the adapter's device and enables it with a keyword changed.
fn restart_with(ctx: &Ctx, keyword: &str, value: &str) -> Arc<Adapter> {
    let set = r"\Registry\Machine\SYSTEM\CurrentControlSet";
    let info = nt::pnp::tree().into_iter().find(|n| n.service.as_deref() == Some("fndis")).expect("the device");
    nt::reg::with(|hive| {
        let device = hive.open(None, &format!(r"{set}\Enum\{}", info.instance)).expect("its key");
        let driver = hive::sz_text(&hive.value(device, "Driver").expect("its driver key").data);
        let key = hive.open(None, &format!(r"{set}\Control\Class\{driver}")).expect("the software key");
        assert!(hive.value(key, "Misbehave").is_ok(), "the default of Ndi\\params is not there");
        hive.set_value(key, keyword, hive::REG_SZ, hive::sz(value), 0).expect("a value");
    });
    nt::pnp::control::disable(info.id).expect("a device that may be disabled");
    assert!(adapters().is_empty(), "the adapter outlives its device");
    nt::pnp::control::enable(info.id).expect("a device that may be enabled");
    nt::pnp::settle();
    adapter(ctx)
}

#[test]
fn frames_go_round_in_every_layout() {
    honest("frames_go_round_in_every_layout", |ctx| {
        let adapter = adapter(ctx);
        assert_eq!(adapter.about.lock().mtu, 1500);
        let client = client(&adapter);
        let layouts = [
            Layout::default(),
            Layout { pieces: vec![14, 20, 1, 1, 7], offsets: vec![4090, 0, 4095, 17], lead: 40, tail: 9 },
            Layout { pieces: vec![60; 20], offsets: vec![100], lead: 0, tail: 0 },
        ];
        let mut sent = Vec::new();
        for (stamp, layout) in layouts.iter().enumerate() {
            for size in [14, 60, 61, 1000, 1514] {
                let bytes = frame(&adapter, size, stamp as u8);
                let list = Outgoing::laid_out(bytes.clone(), layout.clone());
                let sending = client.send(&[list]).expect("memory").remove(0);
                sent.push(bytes);
                drain(ctx, &client);
                assert_eq!(sending.status(), Some(0));
            }
        }
        let came: Vec<Vec<u8>> = client.take().iter().map(Received::bytes).collect();
        assert!(came == sent, "{} frames came back of {}", came.len(), sent.len());
        let figures = &adapter.counters;
        assert!(figures.low_resources.load(Ordering::Relaxed) >= 3);
        assert_eq!(figures.unfiltered.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn frames_that_are_held_end_a_pause_late() {
    honest("frames_that_are_held_end_a_pause_late", |ctx| {
        let adapter = adapter(ctx);
        let client = client(&adapter);
        client.hold(true);
        for round in 0..50_u8 {
            let lists: Vec<Outgoing> = (0..20).map(|_| Outgoing::frame(frame(&adapter, 100, round))).collect();
            let sendings = client.send(&lists).expect("memory");
            if round % 2 == 0 {
                adapter.cancel_sends(7);
            }
            adapter.pause_and_restart().expect("a restart");
            drain(ctx, &client);
            let ends: Vec<_> = sendings.iter().map(|s| s.status().expect("an end")).collect();
            assert!(ends.iter().all(|status| *status == 0), "{ends:x?}");
        }
        assert_eq!(adapter.counters.pauses.load(Ordering::Relaxed), 50);
        assert!(client.take().len() >= 500);
        assert_eq!(adapter.in_flight(), (0, 0));
        // What is cancelled before the timer fires comes back as that.
        let list = Outgoing { cancel_id: 7, ..Outgoing::frame(frame(&adapter, 100, 0)) };
        let sending = client.send(&[list]).expect("memory").remove(0);
        adapter.cancel_sends(7);
        drain(ctx, &client);
        let status = sending.status().map(i32::cast_unsigned);
        assert!(matches!(status, Some(0 | 0xc001_000c)), "{status:x?}");
    });
}

#[test]
fn requests_are_answered_now_and_later() {
    honest("requests_are_answered_now_and_later", |ctx| {
        let adapter = adapter(ctx);
        let client = client(&adapter);
        client.send(&[Outgoing::frame(frame(&adapter, 60, 1))]).expect("memory");
        drain(ctx, &client);
        let answer = adapter.query(XMIT_OK, 4);
        assert!(answer.ok() && answer.data == 1_u32.to_le_bytes(), "{answer:x?}");
        let short = adapter.query(XMIT_OK, 3);
        assert_eq!((short.status as u32, short.needed), (0xc001_0016, 4));
        assert_eq!(adapter.query(0x1234, 4).status as u32, 0xc000_00bb);
        assert!(adapter.reset().is_ok());
    });
}

#[test]
fn keywords_and_the_network_address_count_at_the_next_start() {
    honest("keywords_and_the_network_address_count_at_the_next_start", |ctx| {
        let before = adapter(ctx).about.lock().current_address;
        let after = restart_with(ctx, "NetworkAddress", "02-00-5e-10-20-30").about.lock().current_address;
        assert_eq!(before, *b"\x02FNDIS");
        assert_eq!(after, [0x02, 0, 0x5e, 0x10, 0x20, 0x30]);
        let node = nt::pnp::tree().into_iter().find(|n| n.service.as_deref() == Some("fndis")).expect("the device");
        nt::pnp::control::remove(node.id).expect("a device that may go");
        assert!(!nt::io::driver::loaded().iter().any(|name| name == "fndis"), "the driver stays loaded");
    });
}

#[test]
fn an_endpoint_talks_to_itself() {
    honest("an_endpoint_talks_to_itself", |ctx| {
        let adapter = adapter(ctx);
        let config = StackConfig::new([10, 0, 0, 1], [0xfd00, 0, 0, 0, 0, 0, 0, 1], 1);
        let stack = Stack::new(&adapter, &config).expect("an endpoint");
        // Nobody answers at another address: the request for it comes back and is not taken for an answer.
        let nobody = smoltcp::wire::IpAddress::v4(10, 0, 0, 2);
        assert!(stack.ping(nobody, &[1, 2, 3], 3000).is_err());
        assert!(stack.counters().sent.load(Ordering::Relaxed) >= 1);
        assert!(stack.counters().received.load(Ordering::Relaxed) >= 1);
    });
}

#[test]
fn low_power_stops_traffic_and_d0_starts_it_again() {
    honest("low_power_stops_traffic_and_d0_starts_it_again", |ctx| {
        let adapter = adapter(ctx);
        let client = client(&adapter);
        let send = || {
            let sending = client.send(&[Outgoing::frame(frame(&adapter, 60, 1))]).expect("memory").remove(0);
            drain(ctx, &client);
            sending.status().map(i32::cast_unsigned)
        };
        for _ in 0..3 {
            assert_eq!(send(), Some(0));
            assert_eq!(adapter.request_power(4), 0);
            assert_eq!(adapter.state(), State::Paused);
            assert_eq!(send(), Some(0xc023_002f));
            assert_eq!(adapter.request_power(1), 0);
            assert_eq!(adapter.state(), State::Running);
        }
        assert_eq!(send(), Some(0));
    });
}

#[test]
fn a_surprise_takes_the_adapter_from_its_protocols() {
    honest("a_surprise_takes_the_adapter_from_its_protocols", |ctx| {
        let adapter = adapter(ctx);
        let client = client(&adapter);
        client.hold(true);
        client.send(&[Outgoing::frame(frame(&adapter, 60, 1))]).expect("memory");
        ctx.sleep_ms(5);
        let node = nt::pnp::tree().into_iter().find(|n| n.service.as_deref() == Some("fndis")).expect("the device");
        nt::pnp::control::surprise(node.id);
        assert!(client.is_gone() && adapters().is_empty());
        assert_eq!(adapter.state(), State::Halted);
        assert!(Client::bind(&adapter).is_none());
    });
}

/// With rule `number` broken, `body` must end the run with a report that says `what`.
fn broken(name: &str, number: u32, what: &str, body: impl FnOnce(&Ctx, &Arc<Adapter>)) {
    let Some(drivers) = package() else { return };
    in_child(name, || {
        let report = machine(drivers, |ctx| {
            let adapter = restart_with(ctx, "Misbehave", &number.to_string());
            body(ctx, &adapter);
        });
        let report = report.unwrap_or_else(|| panic!("rule {number} is broken and nothing was seen"));
        assert!(report.contains(what), "rule {number}: {report}");
    });
}

/// Sends a frame and gives it time to come round.
fn one_frame(ctx: &Ctx, adapter: &Arc<Adapter>) {
    let client = client(adapter);
    client.hold(true);
    client.send(&[Outgoing::frame(frame(adapter, 60, 1))]).expect("memory");
    drain(ctx, &client);
}

#[test]
fn a_send_completed_twice_is_seen() {
    broken("a_send_completed_twice_is_seen", 1, "NdisMSendNetBufferListsComplete", one_frame);
}

#[test]
fn a_frame_indicated_while_it_is_held_is_seen() {
    broken("a_frame_indicated_while_it_is_held_is_seen", 2, "belongs to Indicated", one_frame);
}

#[test]
fn a_frame_indicated_while_paused_is_seen() {
    broken("a_frame_indicated_while_paused_is_seen", 3, "the adapter is Paused", |_, adapter| {
        adapter.stop_traffic(1);
        let _ = adapter.reset();
    });
}

#[test]
fn a_pause_that_ends_too_early_is_seen() {
    broken("a_pause_that_ends_too_early_is_seen", 4, "sends not completed", |_, adapter| {
        let client = client(adapter);
        client.send(&[Outgoing::frame(frame(adapter, 60, 1))]).expect("memory");
        let _ = adapter.pause_and_restart();
    });
}

#[test]
fn a_pool_left_behind_is_seen() {
    broken("a_pool_left_behind_is_seen", 5, "left behind ListPool", |ctx, _| {
        restart_with(ctx, "Misbehave", "0");
    });
}

#[test]
fn a_request_answered_twice_is_seen() {
    broken("a_request_answered_twice_is_seen", 6, "is not the request that is pending", |ctx, adapter| {
        adapter.query(XMIT_OK, 4);
        ctx.sleep_ms(10);
    });
}

#[test]
fn a_wrong_count_of_lists_is_seen() {
    broken("a_wrong_count_of_lists_is_seen", 7, "NumberOfNetBufferLists is 2", one_frame);
}

#[test]
fn a_wrong_source_handle_is_seen() {
    broken("a_wrong_source_handle_is_seen", 8, "SourceHandle is not", one_frame);
}

#[test]
fn a_packet_that_comes_back_changed_is_seen() {
    broken("a_packet_that_comes_back_changed_is_seen", 9, "other buffers or MDLs", one_frame);
}

#[test]
fn a_lie_about_the_irql_is_seen() {
    broken("a_lie_about_the_irql_is_seen", 10, "DISPATCH_LEVEL at another IRQL", one_frame);
}

#[test]
fn an_answer_longer_than_its_buffer_is_seen() {
    broken("an_answer_longer_than_its_buffer_is_seen", 11, "5 bytes written of 4", |_, adapter| {
        adapter.query(XMIT_OK, 4);
    });
}

#[test]
fn a_frame_longer_than_the_mtu_is_seen() {
    broken("a_frame_longer_than_the_mtu_is_seen", 12, "longer than the MTU", one_frame);
}
