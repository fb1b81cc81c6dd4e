//! The network rows: one stream of TCP each way, and datagrams in frames of 64 bytes each way, between dom0 ([`peer`]) and
//! our guest, Linux's xen-netfront, and Linux on the emulated e1000 and rtl8139. Each interface has a bridge of its own, on
//! which dom0 has 10.77.N.1 and the guest 10.77.N.2.

use std::fmt::Write as _;
use std::fs;

use anyhow::bail;

use super::{Counts, Guest, PATIENCE, Row, peer};
use crate::dom0::run;
use crate::store;

/// The loads: a name, and the words that a guest gets.
pub const LOADS: [(&str, &str); 4] =
    [("tcp-out", "tcp out"), ("tcp-in", "tcp in"), ("udp-out", "udp out"), ("udp-in", "udp in")];

/// An interface that is measured; its place is the N of its bridge.
struct Port {
    who: &'static str,
    /// Ours, or Linux.
    guest: usize,
    /// Its number in the guest's configuration.
    number: u32,
    /// As the configuration has it.
    kind: &'static str,
    /// Linux's driver: the module, and the name that the driver has in sysfs.
    driver: (&'static str, &'static str),
}

const PORTS: [Port; 4] = [
    Port { who: "ours", guest: 0, number: 0, kind: "type=vif", driver: ("", "") },
    Port { who: "linux", guest: 1, number: 0, kind: "type=vif", driver: ("xen-netfront", "vif") },
    Port { who: "e1000", guest: 1, number: 1, kind: "type=ioemu,model=e1000", driver: ("e1000", "e1000") },
    Port { who: "rtl8139", guest: 1, number: 2, kind: "type=ioemu,model=rtl8139", driver: ("8139cp", "8139cp") },
];

fn mac(index: usize) -> String {
    format!("00:16:3e:4e:54:1{index}")
}

/// A guest's interfaces, for its configuration.
pub fn configuration(guest: usize) -> String {
    let own = PORTS.iter().enumerate().filter(|(_, port)| port.guest == guest);
    let list: Vec<String> = own
        .map(|(index, port)| format!("\"{},bridge=lab{index},script=vif-fast,mac={}\"", port.kind, mac(index)))
        .collect();
    format!("vif=[{}]\n", list.join(","))
}

/// Makes the bridges. Before the guests.
pub fn bridges() -> anyhow::Result<()> {
    for index in 0..PORTS.len() {
        let bridge = format!("lab{index}");
        run("ip", &["link", "add", &bridge, "address", &format!("00:16:3e:4e:55:0{index}"), "type", "bridge"])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        run("ip", &["addr", "add", &format!("10.77.{index}.1/24"), "dev", &bridge])?;
        // Our guest's load answers no ARP; so nobody needs to.
        let guest = format!("10.77.{index}.2");
        run("ip", &["neigh", "replace", &guest, "lladdr", &mac(index), "dev", &bridge, "nud", "permanent"])?;
    }
    peer::start()
}

/// Has Linux load its drivers and set its interfaces up: what was negotiated, a line each.
pub fn prepare(guests: &mut [Guest; 2]) -> anyhow::Result<String> {
    let mut notes = String::new();
    for (index, port) in PORTS.iter().enumerate() {
        let guest = &mut guests[port.guest];
        if port.guest == 1 {
            let (module, driver) = port.driver;
            for request in [format!("load {module}"), format!("up {driver} {} 10.77.{index}.2", mac(index))] {
                guest.answer(&request)?;
                let report = guest.wait(PATIENCE)?;
                if report != "good" {
                    bail!("{}: {request}: {report}", guest.name);
                }
            }
        }
        let front = format!("/local/domain/{}/device/vif/{}", guest.domain, port.number);
        let read = |key: &str| store::read(&format!("{front}/{key}")).unwrap_or_else(|_| "-".into());
        if port.kind == "type=vif" {
            writeln!(
                notes,
                "{}: state {}, queues {}, sg {}, gso v4 {}",
                port.who,
                read("state"),
                read("multi-queue-num-queues"),
                read("feature-sg"),
                read("feature-gso-tcpv4"),
            )?;
        } else {
            // The hotplug script sees to the paravirtual twin alone.
            let (tap, bridge) = (format!("vif{}.{}-emu", guest.domain, port.number), format!("lab{index}"));
            run("ip", &["link", "set", &tap, "master", &bridge, "up"])?;
        }
    }
    Ok(notes)
}

/// What is measured of each load: all interfaces.
pub fn rows(words: &'static str) -> Vec<Row> {
    let ports = PORTS.iter().enumerate();
    ports
        .map(|(index, port)| Row {
            guest: port.guest,
            group: 0,
            setting: "net",
            who: port.who,
            request: format!("net {{run}} {index} {words}"),
            meter: Box::new(move |guest| counts(guest, port, words.ends_with("out"))),
        })
        .collect()
}

/// Whether an event channel is a device model's, by its name: `evtchn:` and the program's, cut off.
fn is_device_model(name: &str) -> bool {
    name.strip_prefix("evtchn:").is_some_and(|program| program.contains("qemu"))
}

fn counts(guest: &Guest, port: &Port, out: bool) -> anyhow::Result<Counts> {
    let mut device = format!("vif{}.{}", guest.domain, port.number);
    let emulated = port.kind != "type=vif";
    let text = fs::read_to_string("/proc/interrupts")?;
    // Of an emulated interface: the device model's requests. The other guest is paused, so its own device model rests.
    let queue = format!("{device}-");
    let events = super::events(&text, |name| if emulated { is_device_model(name) } else { name.starts_with(&queue) });
    if emulated {
        device += "-emu";
    }
    let count = |name: &str| {
        let path = format!("/sys/class/net/{device}/statistics/{name}");
        anyhow::Ok(fs::read_to_string(path)?.trim().parse::<u64>()?)
    };
    let done = if out { peer::received() } else { guest.mailbox.done() };
    Ok(Counts { done, events, ring: count("rx_packets")? + count("tx_packets")? })
}
