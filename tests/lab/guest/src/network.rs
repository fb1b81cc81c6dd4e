//! The suites' [`Network`] in the lab: Linux's netback, a bridge for each interface, and dom0 itself behind it.

use crate::mailbox;
use crate::world::{Dom0, absent, ask};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use nt::ndis::adapter::{State, adapters};
use nt::ndis::oid_abi::oid;
use suites::network::{Crossing, Frame, NetHostile, Network, PingReport, VifSpec, VifStats};
use suites::world::World as _;

/// Where OID_GEN_STATISTICS has ifOutErrors.
const OUT_ERRORS: usize = 88;

/// The hardware address of dom0 on an interface's bridge, as the agent gives it.
pub fn host_mac(index: u32) -> [u8; 6] {
    [0, 0x16, 0x3e, 0x4e, 0x55, index as u8]
}

/// What dom0 says of an interface, in the order of the agent's answer.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Frames from the guest and to it; a large packet is one.
    pub frames: [u64; 2],
    /// Bytes from the guest and to it.
    pub bytes: [u64; 2],
    /// Events that netback got for each queue.
    pub events: Vec<u64>,
    queues: u64,
    bad_checksums: u64,
    connections: u64,
    dropped: u64,
}

/// What dom0 says of an interface.
pub fn figures(index: u32) -> Figures {
    let text = ask(&format!("vif-stats {index}"), &[]).0;
    let mut words = text.split(' ').map(|word| word.parse().unwrap_or(0));
    let mut next = || words.next().unwrap_or(0);
    let frames = [next(), next()];
    let bytes = [next(), next()];
    let (queues, bad_checksums, connections, dropped) = (next(), next(), next(), next());
    Figures { frames, bytes, events: words.collect(), queues, bad_checksums, connections, dropped }
}

/// Turns an offload of dom0's end on or off, by `ethtool -K`: what its offloads are then.
pub fn set_offload(index: u32, feature: &str, on: bool) -> String {
    ask(&format!("vif-offload {index} {feature} {}", if on { "on" } else { "off" }), &[]).0
}

/// The agent destroys this domain while the interface is busy, and judges what is left. The caller goes on until it is
/// gone. The text becomes a part of the verdict.
pub fn destroy_under_traffic(index: u32, text: &str) {
    ask(&format!("vif-destroy {index} {text}"), &[]);
}

/// Frames that the backend answered with an error, as the miniport of an interface counts them.
fn refused(index: u32) -> u64 {
    let end = format!(r"\{index}");
    let running = adapters().into_iter().filter(|adapter| adapter.state() == State::Running);
    let ours = running.filter(|adapter| {
        let node = nt::pnp::node_of(adapter.pdo);
        let info = node.and_then(|node| nt::pnp::tree().into_iter().find(|info| info.id == node));
        info.is_some_and(|info| info.instance.contains("VIF") && info.instance.ends_with(end.as_str()))
    });
    ours.filter_map(|adapter| {
        let answer = adapter.query(oid::GEN_STATISTICS, size_of::<nt::ndis::oid_abi::Statistics>());
        Some(u64::from_le_bytes(answer.data.get(OUT_ERRORS..OUT_ERRORS + 8)?.try_into().ok()?))
    })
    .sum()
}

impl Network for Dom0 {
    fn attach_vif(&self, spec: &VifSpec) {
        let VifSpec { index, mac, mtu, vlan, queues, .. } = spec;
        let (mtu, vlan, queues) = (mtu.filter(|mtu| *mtu != 1500).unwrap_or(0), vlan.unwrap_or(0), queues.unwrap_or(1));
        ask(&format!("vif-attach {index} {} {mtu} {vlan} {queues}", mac.unwrap_or("-")), &[]);
    }
    fn detach_vif(&self, index: u32) {
        ask(&format!("vif-detach {index}"), &[]);
    }
    fn vif_gone(&self, index: u32) -> bool {
        ask(&format!("vif-gone {index}"), &[]).0 == "1"
    }
    fn restart_vif(&self, _index: u32) {
        absent("way to restart a backend")
    }
    /// Linux's netback has no such key; the toolstack's one is in the frontend's directory.
    fn set_carrier(&self, index: u32, up: bool) {
        let path = format!("{}/device/vif/{index}/disconnect", self.home());
        self.store_write(&path, if up { "0" } else { "1" });
    }
    // Linux's backend cannot be held.
    fn hold_answers(&self, _index: u32, _hold: bool) {}
    fn vif_stats(&self, index: u32) -> VifStats {
        let figures = figures(index);
        let device = format!("vif/{index}: connected: ");
        VifStats {
            from_guest: figures.frames[0],
            to_guest: figures.frames[1],
            dropped_to_guest: figures.dropped,
            refused: refused(index),
            queues: figures.queues,
            bad_checksums: figures.bad_checksums,
            most_tcp_connections: figures.connections,
            connections: self.log().iter().filter(|line| line.contains(device.as_str())).count() as u64,
            ..VifStats::default()
        }
    }
    fn misbehave_vif(&self, _index: u32, _how: NetHostile, _times: u32) {
        absent("hostile backend")
    }
    fn vif_misbehaved(&self, _index: u32, _how: NetHostile) -> u64 {
        0
    }
    fn behave_vif(&self, _index: u32) {}
    fn crossings(&self, _index: u32) -> Vec<Crossing> {
        absent("view of the frames that cross")
    }
    fn forget_crossings(&self, _index: u32) {}
    fn send_frame(&self, _index: u32, _frame: Frame) {
        absent("way to make netback send a frame as it stands")
    }
    fn ping_guest(&self, index: u32, v6: bool, size: usize, count: u32, interval_us: u64) {
        let version = if v6 { 6 } else { 4 };
        ask(&format!("vif-ping {index} {version} {size} {count} {interval_us}"), &[]);
    }
    fn ping_report(&self, _index: u32) -> PingReport {
        let text = ask("vif-pings", &[]).0;
        let mut words = text.split(' ').map(|word| word.parse().unwrap_or(0));
        let mut next = || words.next().unwrap_or(0);
        PingReport { sent: next(), good: next(), bad: next(), done: next() == 1 }
    }
    fn multicast_list(&self, _index: u32) -> Vec<[u8; 6]> {
        absent("view of netback's multicast list")
    }
    fn vif_backend_path(&self, index: u32) -> String {
        let path = format!("{}/device/vif/{index}/backend", self.home());
        mailbox::ask(&format!("store-read {path}"), &[]).map_or_else(|_| String::new(), |answer| answer.0)
    }
}
