//! Negotiation.

use std::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use xenbus::{client::Error, path::Path};

use crate::front::{
    Abilities,
    config::{
        self, ConfigError, ControlKeys, DEFAULT_SPEED, Device, MAX_SPEED, MIN_SPEED, Plan, Ports, Problem, QueueKeys,
        Wishes, carrier, device, negotiate, publish, speed,
    },
};
use fake_bus::TestBus;

const BACKEND: &str = "/local/domain/0/backend/vif/1/0";

fn backend() -> Path {
    Path::new(BACKEND.as_bytes()).unwrap()
}

const WISHES: Wishes = Wishes {
    queues: 4,
    checksum_v4: true,
    checksum_v6: true,
    gso_v4: true,
    gso_v6: true,
    multicast: true,
    control: true,
};

fn bus(keys: &[(&str, &str)]) -> TestBus {
    let bus = TestBus::new();
    for (key, value) in keys {
        bus.set(&format!("{BACKEND}/{key}"), value);
    }
    bus
}

/// What a Linux backend of today offers.
const LINUX: [(&str, &str); 12] = [
    ("feature-rx-copy", "1"),
    ("feature-rx-flip", "0"),
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
    ("feature-multicast-control", "1"),
    ("feature-dynamic-multicast-control", "1"),
    ("feature-split-event-channels", "1"),
    ("multi-queue-max-queues", "2"),
    ("feature-ctrl-ring", "1"),
    ("feature-xdp-headroom", "1"),
];

fn plan(bus: &TestBus) -> Result<Plan, ConfigError> {
    negotiate(bus, &backend(), true, &WISHES)
}

#[test]
fn everything_is_used_that_is_offered() {
    let plan = plan(&bus(&LINUX)).unwrap();
    let abilities =
        Abilities { scatter: true, checksum_v4: true, checksum_v6: true, gso_v4: true, gso_v6: true, trusted: true };
    assert_eq!(
        plan,
        Plan {
            queues: 2,
            split: true,
            abilities,
            multicast: true,
            dynamic_multicast: true,
            control: true,
            wishes: WISHES
        }
    );
}

#[test]
fn nothing_is_used_that_is_not() {
    let bus = bus(&[("feature-rx-copy", "1"), ("feature-no-csum-offload", "1")]);
    let plan = negotiate(&bus, &backend(), false, &WISHES).unwrap();
    assert_eq!(plan.abilities, Abilities { trusted: false, ..Abilities::NONE });
    assert_eq!((plan.queues, plan.split, plan.multicast, plan.control), (1, false, false, false));
    // And nothing that was not wished for.
    let none = Wishes { queues: 0, multicast: false, control: false, ..WISHES };
    let plan = negotiate(&self::bus(&LINUX), &backend(), true, &none).unwrap();
    assert_eq!((plan.queues, plan.multicast, plan.control), (1, false, false));
    let many = Wishes { queues: 400, ..WISHES };
    let bus = self::bus(&LINUX);
    bus.set(&format!("{BACKEND}/multi-queue-max-queues"), "64");
    assert_eq!(negotiate(&bus, &backend(), true, &many).unwrap().queues, config::MAX_QUEUES);
}

#[test]
fn a_backend_that_cannot_copy_is_refused() {
    for (value, text) in [
        (None, "feature-rx-copy is missing"),
        (Some("0"), "feature-rx-copy = 0 is not within 1..=1"),
        (Some("2"), "feature-rx-copy = 2 is not within 0..=1"),
        (Some("yes"), "feature-rx-copy = \"yes\" is not a number"),
    ] {
        let bus = bus(&[]);
        if let Some(value) = value {
            bus.set(&format!("{BACKEND}/feature-rx-copy"), value);
        }
        assert_eq!(plan(&bus).unwrap_err().to_string(), text);
    }
}

#[test]
fn absurd_values_are_logged_with_their_key_and_not_used() {
    let absurd =
        ["2", "-1", "4294967296", "18446744073709551616", "yes", "", "\u{1}\n", "1 1", "0x1", &"9".repeat(500)];
    for (key, _) in LINUX.iter().filter(|(key, _)| !key.contains("rx") && !key.contains("xdp")) {
        let without = bus(&LINUX);
        xenbus::client::Bus::remove(&without, xenbus::client::Transaction::NONE, format!("{BACKEND}/{key}").as_bytes())
            .unwrap();
        let due = plan(&without).unwrap();
        for value in absurd {
            if *key == "multi-queue-max-queues" && value == "2" {
                continue;
            }
            let bus = bus(&LINUX);
            bus.set(&format!("{BACKEND}/{key}"), value);
            assert_eq!(plan(&bus).unwrap(), due, "{key} = {value}");
            assert!(bus.logged(key), "{key} = {value}");
        }
    }
    let bus = bus(&LINUX);
    bus.set(&format!("{BACKEND}/multi-queue-max-queues"), "0");
    assert_eq!(plan(&bus).unwrap().queues, 1);
    assert!(bus.logged("multi-queue-max-queues = 0 is not within 1..=65535; taken as 1"), "{}", bus.log_text());
}

#[test]
fn the_interface_is_what_the_toolstack_says() {
    let bus = TestBus::new();
    assert_eq!(device(&bus).unwrap_err().to_string(), "mac is missing");
    bus.set("mac", "00:16:3e:AB:cd:0f");
    let mac = [0, 0x16, 0x3E, 0xAB, 0xCD, 0x0F];
    assert_eq!(device(&bus).unwrap(), Device { mac, mtu: 1500, trusted: true });
    bus.set("mtu", "9000");
    bus.set("trusted", "0");
    assert_eq!(device(&bus).unwrap(), Device { mac, mtu: 9000, trusted: false });
    for mtu in ["0", "67", "65522", "1e3"] {
        bus.set("mtu", mtu);
        assert_eq!(device(&bus).unwrap().mtu, 1500);
    }
    assert!(bus.logged("mtu = 65522 is not within 68..=65521; taken as 1500"));
    for (mac, text) in [
        ("", "mac = \"\" is not a MAC address"),
        ("00:16:3e:ab:cd", "mac = \"00:16:3e:ab:cd\" is not a MAC address"),
        ("00:16:3e:ab:cd:0f:00", "mac = \"00:16:3e:ab:cd:0f:00\" is not a MAC address"),
        ("0:16:3e:ab:cd:0f", "mac = \"0:16:3e:ab:cd:0f\" is not a MAC address"),
        ("00:16:3e:ab:cd:0g", "mac = \"00:16:3e:ab:cd:0g\" is not a MAC address"),
        ("+0:16:3e:ab:cd:00", "mac = \"+0:16:3e:ab:cd:00\" is not a MAC address"),
        ("01:00:5e:00:00:01", "mac = 01:00:5e:00:00:01 is not the address of one station"),
        ("ff:ff:ff:ff:ff:ff", "mac = ff:ff:ff:ff:ff:ff is not the address of one station"),
        ("00:00:00:00:00:00", "mac = 00:00:00:00:00:00 is not the address of one station"),
    ] {
        bus.set("mac", mac);
        assert_eq!(device(&bus).unwrap_err().to_string(), text);
    }
    bus.set("mac", &"a".repeat(300));
    assert_eq!(device(&bus).unwrap_err(), ConfigError { key: "mac", problem: Problem::TooLong });
}

#[test]
fn the_carrier_needs_both_sides() {
    let bus = TestBus::new();
    let see = |carrier_key: Option<&str>, disconnect: Option<&str>| {
        for (path, value) in [(format!("{BACKEND}/carrier"), carrier_key), ("disconnect".to_string(), disconnect)] {
            bus.set(&path, value.unwrap_or("x"));
        }
        carrier(&bus, &backend()).unwrap()
    };
    assert!(see(None, None), "nonsense says nothing");
    assert!(see(Some("1"), Some("0")));
    assert!(!see(Some("0"), Some("0")));
    assert!(!see(Some("1"), Some("1")));
    assert!(carrier(&TestBus::new(), &backend()).unwrap());
}

#[test]
fn a_speed_has_a_unit_and_bounds() {
    let bus = TestBus::new();
    assert_eq!(speed(&bus), Ok(DEFAULT_SPEED));
    let see = |text: &str| {
        bus.set("speed", text);
        speed(&bus).unwrap()
    };
    for (text, wanted) in [
        ("1", 1_000_000_000),
        ("100M", 100_000_000),
        (" 25g\0", 25_000_000_000),
        ("1K", MIN_SPEED),
        ("400G", MAX_SPEED),
        ("2500m", 2_500_000_000),
    ] {
        assert_eq!(see(text), wanted, "{text}");
    }
    let absurd =
        ["", "G", "0", "0K", "401", "1T", "-1", "1.5G", "10 Gbps", "18446744073709551615", "99999999999999999999M"];
    for text in absurd {
        assert_eq!(see(text), DEFAULT_SPEED, "{text}");
    }
    assert_eq!(see(&"9".repeat(300)), DEFAULT_SPEED);
}

fn keys(number: u32, split: bool) -> QueueKeys {
    let ports =
        if split { Ports::Split { tx: number * 10 + 2, rx: number * 10 + 3 } } else { Ports::One(number * 10 + 2) };
    QueueKeys { tx_ref: number * 10, rx_ref: number * 10 + 1, ports }
}

#[test]
fn each_connection_writes_its_own_keys_and_leaves_no_others() {
    let bus = bus(&LINUX);
    bus.set(&format!("{BACKEND}/multi-queue-max-queues"), "3");
    let several = plan(&bus).unwrap();
    let all: Vec<_> = (1..=3).map(|number| keys(number, true)).collect();
    publish(&bus, &several, &all, Some(ControlKeys { ring_ref: 77, port: 78 })).unwrap();
    let own = |bus: &TestBus| -> Vec<(String, String)> {
        let own: Vec<_> = bus.keys().into_iter().filter(|key| !key.starts_with('/')).collect();
        own.into_iter().map(|key| (key.clone(), bus.get(&key).unwrap())).collect()
    };
    let features = [
        ("feature-gso-tcpv4", "1"),
        ("feature-gso-tcpv6", "1"),
        ("feature-ipv6-csum-offload", "1"),
        ("feature-no-csum-offload", "0"),
        ("feature-rx-notify", "1"),
        ("feature-sg", "1"),
        ("request-multicast-control", "1"),
        ("request-rx-copy", "1"),
    ];
    let check = |bus: &TestBus, more: &[(&str, &str)], features: &[(&str, &str)]| {
        let mut due: Vec<(String, String)> =
            more.iter().chain(features).map(|(key, value)| (key.to_string(), value.to_string())).collect();
        due.sort();
        assert_eq!(own(bus), due);
    };
    let three = [
        ("ctrl-ring-ref", "77"),
        ("event-channel-ctrl", "78"),
        ("multi-queue-num-queues", "3"),
        ("queue-0/event-channel-rx", "13"),
        ("queue-0/event-channel-tx", "12"),
        ("queue-0/rx-ring-ref", "11"),
        ("queue-0/tx-ring-ref", "10"),
        ("queue-1/event-channel-rx", "23"),
        ("queue-1/event-channel-tx", "22"),
        ("queue-1/rx-ring-ref", "21"),
        ("queue-1/tx-ring-ref", "20"),
        ("queue-2/event-channel-rx", "33"),
        ("queue-2/event-channel-tx", "32"),
        ("queue-2/rx-ring-ref", "31"),
        ("queue-2/tx-ring-ref", "30"),
    ];
    check(&bus, &three, &features);
    // The next backend has one queue, one channel for both directions, and no control ring.
    let one = Plan { queues: 1, split: false, control: false, ..several };
    publish(&bus, &one, &[keys(5, false)], None).unwrap();
    check(&bus, &[("event-channel", "52"), ("rx-ring-ref", "51"), ("tx-ring-ref", "50")], &features);
    // The one after that has two; and offloads were turned off.
    let off = Wishes { checksum_v4: false, checksum_v6: false, gso_v4: false, gso_v6: false, ..WISHES };
    let two = Plan { queues: 2, split: false, multicast: false, wishes: off, ..several };
    publish(&bus, &two, &[keys(6, false), keys(7, false)], None).unwrap();
    check(
        &bus,
        &[
            ("multi-queue-num-queues", "2"),
            ("queue-0/event-channel", "62"),
            ("queue-0/rx-ring-ref", "61"),
            ("queue-0/tx-ring-ref", "60"),
            ("queue-1/event-channel", "72"),
            ("queue-1/rx-ring-ref", "71"),
            ("queue-1/tx-ring-ref", "70"),
        ],
        &[
            ("feature-gso-tcpv4", "0"),
            ("feature-gso-tcpv6", "0"),
            ("feature-ipv6-csum-offload", "0"),
            ("feature-no-csum-offload", "1"),
            ("feature-rx-notify", "1"),
            ("feature-sg", "1"),
            ("request-multicast-control", "0"),
            ("request-rx-copy", "1"),
        ],
    );
    config::request_multicast_filter(&bus, true).unwrap();
    assert_eq!(bus.get("request-multicast-control").as_deref(), Some("1"));
    assert_eq!(publish(&bus, &two, &[keys(6, false)], None), Err(Error::Protocol));
}
