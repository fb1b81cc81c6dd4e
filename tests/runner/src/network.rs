//! The suites' [`Network`] on the process platform: netback of `xen-model`, with its in-process host behind it.

use suites::network::{Checksum, Crossing, Frame, NetHostile, Network, PingReport, VifSpec, VifStats};
use xen_model::netback::{self, Direction, Stack, StackOptions, Vif, VifOptions};
use xen_model::{HostilePlan, Xen};

use crate::world::ModelWorld;

/// The model's interface of a suite's specification, with a host behind it.
pub fn attach(xen: &mut Xen, spec: &VifSpec) {
    let options = VifOptions {
        mac: spec.mac.map(str::to_owned),
        mtu: spec.mtu,
        trusted: spec.trusted,
        max_queues: spec.queues,
        sg: spec.sg,
        gso_v4: spec.gso,
        gso_v6: spec.gso,
        no_checksum_v4: !spec.checksums,
        checksum_v6: spec.checksums,
        split_events: spec.split_events,
        multicast_control: spec.multicast_control,
        dynamic_multicast_control: spec.multicast_control,
        control_ring: spec.control_ring,
        loss_permille: spec.loss_permille,
        coalesce: spec.offload_to_guest,
        blank_to_guest: spec.offload_to_guest,
        omitted: spec.omitted.to_vec(),
        ..VifOptions::new(spec.index)
    };
    let seed = xen.config().seed;
    let host = StackOptions { vlan: spec.vlan, ..StackOptions::new(spec.index, options.mtu_bytes(), seed) };
    xen.attach_vif(options, Box::new(Stack::new(host)));
}

fn checksum(known: netback::Checksum) -> Checksum {
    match known {
        netback::Checksum::Unknown => Checksum::Unknown,
        netback::Checksum::Validated => Checksum::Validated,
        netback::Checksum::Blank => Checksum::Blank,
    }
}

fn crossing(entry: &netback::Crossing) -> Crossing {
    Crossing {
        from_guest: entry.direction == Direction::FromGuest,
        queue: entry.queue as u32,
        hash: entry.frame.hash.map(|hash| hash.value),
        frame: Frame {
            bytes: entry.frame.bytes.clone(),
            checksum: checksum(entry.frame.checksum),
            mss: entry.frame.mss,
        },
        wire: entry.wire.clone(),
    }
}

impl ModelWorld<'_> {
    fn vif<T>(&self, index: u32, look: impl FnOnce(&mut Vif) -> T) -> Option<T> {
        self.ctx.xen(|xen| xen.vif_mut(index).map(look))
    }
}

impl Network for ModelWorld<'_> {
    fn attach_vif(&self, spec: &VifSpec) {
        self.ctx.xen(|xen| attach(xen, spec));
    }

    fn detach_vif(&self, index: u32) {
        self.ctx.xen(|xen| xen.detach_vif(index));
    }

    fn vif_gone(&self, index: u32) -> bool {
        self.vif(index, |vif| !vif.is_attached()).unwrap_or(true)
    }

    fn restart_vif(&self, index: u32) {
        self.ctx.xen(|xen| xen.restart_vif_backend(index));
    }

    fn set_carrier(&self, index: u32, up: bool) {
        self.ctx.xen(|xen| xen.set_vif_carrier(index, up));
    }

    fn hold_answers(&self, index: u32, hold: bool) {
        self.vif(index, |vif| vif.hold(hold));
    }

    fn vif_stats(&self, index: u32) -> VifStats {
        let stats = self.vif(index, |vif| {
            let host = vif.stack().map(|stack| stack.stats()).unwrap_or_default();
            let stats = vif.stats();
            VifStats {
                from_guest: stats.frames_from_guest,
                to_guest: stats.frames_to_guest,
                from_guest_by_queue: stats.from_guest_by_queue.clone(),
                to_guest_by_queue: stats.to_guest_by_queue.clone(),
                large_from_guest: stats.gso_from_guest,
                large_to_guest: stats.gso_to_guest,
                blank_from_guest: stats.blank_from_guest,
                blank_to_guest: stats.blank_to_guest,
                split_headers: stats.split_headers,
                dropped_to_guest: stats.dropped_to_guest + stats.expired_to_guest,
                filtered_to_guest: stats.filtered_to_guest,
                oversized: stats.oversized,
                lost_on_wire: stats.lost_on_wire,
                starved: stats.starved,
                in_flight: vif.in_flight() as u64,
                most_in_flight: stats.most_in_flight as u64,
                in_flight_at_suspend: stats.in_flight_at_suspend,
                refused: stats.tx_errors + stats.rx_errors + stats.fatal,
                control_requests: stats.control_requests - stats.control_refused,
                connections: stats.connects,
                queues: stats.queues as u64,
                forced: stats.forced,
                bad_checksums: host.bad_checksums,
                most_tcp_connections: host.most_connections,
            }
        });
        stats.unwrap_or_default()
    }

    fn misbehave_vif(&self, index: u32, how: NetHostile, times: u32) {
        let plan = HostilePlan { kind: how, after: 0, times };
        self.ctx.xen(|xen| xen.inject_net_hostile(index, plan)).expect("the interface is there");
    }

    fn vif_misbehaved(&self, index: u32, how: NetHostile) -> u64 {
        self.vif(index, |vif| vif.hostile_fired().get(&how).copied().unwrap_or(0)).unwrap_or(0)
    }

    fn behave_vif(&self, index: u32) {
        self.ctx.xen(|xen| xen.clear_net_hostile(index));
    }

    fn crossings(&self, index: u32) -> Vec<Crossing> {
        self.vif(index, |vif| vif.journal().entries().map(crossing).collect()).unwrap_or_default()
    }

    fn forget_crossings(&self, index: u32) {
        self.vif(index, |vif| vif.journal_mut().clear());
    }

    fn send_frame(&self, index: u32, frame: Frame) {
        let checksum = match frame.checksum {
            Checksum::Unknown => netback::Checksum::Unknown,
            Checksum::Validated => netback::Checksum::Validated,
            Checksum::Blank => netback::Checksum::Blank,
        };
        let frame = netback::Frame { bytes: frame.bytes, checksum, mss: frame.mss, hash: None };
        self.ctx.xen(|xen| xen.send_to_vif(index, frame));
    }

    fn ping_guest(&self, index: u32, v6: bool, size: usize, count: u32, interval_us: u64) {
        self.vif(index, |vif| vif.stack().map(|stack| stack.ping(v6, size, count, interval_us * 1000)));
    }

    fn ping_report(&self, index: u32) -> PingReport {
        let report = self.vif(index, |vif| vif.stack().map(|stack| stack.ping_report())).flatten();
        let report = report.unwrap_or_default();
        PingReport { sent: report.sent, good: report.good, bad: report.bad, done: report.done }
    }

    fn multicast_list(&self, index: u32) -> Vec<[u8; 6]> {
        self.vif(index, |vif| vif.multicast_list().to_vec()).unwrap_or_default()
    }

    fn vif_backend_path(&self, index: u32) -> String {
        self.vif(index, |vif| vif.backend_path()).unwrap_or_default()
    }
}
