//! The handshake: keys offered, the frontend's state followed, its keys read, rings mapped. As xen-netback's `xenbus.c`.

use super::ctrl::Control;
use super::ring::BackRing;
use super::rx::Receive;
use super::tx::Transmit;
use super::{Features, Link, Queue, Shared, Vif};
use crate::abi::netif;
use crate::blkback::state;
use crate::hv::Hypervisor;
use crate::observe::GuestErrorKind;
use crate::store::Store;
use hostile::NetHostile;

impl Vif {
    /// `netback_probe`: writes the keys, then waits for the frontend.
    pub(super) fn offer(&mut self, store: &mut Store, hv: &mut Hypervisor) {
        const ABSURD: [&str; 9] =
            ["0", "-1", "18446744073709551616", "4294967296", "abc", "", "1e9", "0x10", "18446744073709551615"];
        let o = &self.options;
        let flag = |on: bool| u32::from(on).to_string();
        let mut keys = vec![
            ("feature-sg", flag(o.sg)),
            ("feature-gso-tcpv4", flag(o.gso_v4)),
            ("feature-gso-tcpv6", flag(o.gso_v6)),
            ("feature-ipv6-csum-offload", flag(o.checksum_v6)),
            ("feature-rx-copy", flag(o.rx_copy)),
            ("feature-xdp-headroom", flag(o.xdp_headroom)),
            ("feature-rx-flip", flag(false)),
            ("feature-multicast-control", flag(o.multicast_control)),
            ("feature-dynamic-multicast-control", flag(o.dynamic_multicast_control)),
            ("feature-split-event-channels", flag(o.split_events)),
            ("feature-ctrl-ring", flag(o.control_ring)),
        ];
        if o.no_checksum_v4 {
            keys.push(("feature-no-csum-offload", flag(true)));
        }
        self.offers += 1;
        if self.plans.due(NetHostile::QueueCountChanges) {
            let counts = ["7", "1", "3", "0", "2", "4000000000"];
            keys.push(("multi-queue-max-queues", counts[self.offers as usize % counts.len()].to_owned()));
        } else if let Some(most) = self.options.max_queues {
            keys.push(("multi-queue-max-queues", most.to_string()));
        }
        let back = self.backend_path();
        let absurd = self.plans.due(NetHostile::AbsurdKeys);
        for (key, value) in keys {
            if self.options.omitted.contains(&key) {
                continue;
            }
            let value = if absurd { ABSURD[hv.below(ABSURD.len() as u64) as usize].to_owned() } else { value };
            store.write(&format!("{back}/{key}"), value);
        }
        if self.plans.due(NetHostile::StateSkip) {
            self.switch(store, state::CONNECTED);
            self.state = Some(state::INIT_WAIT);
        } else {
            self.switch(store, state::INIT_WAIT);
        }
        // The hotplug script runs when the network device is there.
        store.write(&format!("{back}/hotplug-status"), "connected");
    }

    /// `frontend_changed` and `set_backend_state`.
    pub(super) fn frontend_moved(&mut self, hv: &mut Hypervisor, store: &mut Store) {
        let front = self.frontend_path();
        let Some(there) = store.read_number(&format!("{front}/state")) else { return };
        match there as u32 {
            state::INITIALISING if self.state == Some(state::CLOSED) => self.offer(store, hv),
            state::INITIALISING if self.state == Some(state::CONNECTED) => {
                self.drop_link(hv, store, true);
                self.switch(store, state::CLOSING);
                self.switch(store, state::CLOSED);
                self.switch(store, state::INIT_WAIT);
            }
            state::CONNECTED if self.state == Some(state::INIT_WAIT) => match self.connect(hv, store) {
                Ok(()) => self.switch(store, state::CONNECTED),
                Err(why) => {
                    hv.guest_error(GuestErrorKind::BadNegotiation, format!("vif {}: {why}", self.options.index));
                    store.write(&format!("{}/error", self.backend_path()), why);
                    self.switch(store, state::CLOSING);
                }
            },
            state::CLOSING if self.state != Some(state::CLOSED) => {
                self.drop_link(hv, store, true);
                self.switch(store, state::CLOSING);
            }
            state::CLOSED => {
                self.drop_link(hv, store, true);
                self.switch(store, state::CLOSED);
            }
            _ => {}
        }
    }

    /// `connect`: flags, control ring, queues.
    fn connect(&mut self, hv: &mut Hypervisor, store: &mut Store) -> Result<(), String> {
        let front = self.frontend_path();
        let set = |store: &mut Store, name: &str| {
            store.read_number(&format!("{front}/{name}")).is_some_and(|value| value != 0)
        };
        let most = self.options.max_queues.unwrap_or(1);
        let queues = match store.read_str(&format!("{front}/multi-queue-num-queues")) {
            None => 1,
            Some(text) => text.parse::<u32>().map_err(|_| format!("multi-queue-num-queues is {text:?}"))?,
        };
        if queues == 0 || queues > most {
            return Err(format!("{queues} queues, at most {most} were offered"));
        }
        if !set(store, "request-rx-copy") {
            return Err("no request-rx-copy".to_owned());
        }
        let headroom = store.read_number(&format!("{front}/xdp-headroom")).unwrap_or(0) as usize;
        let features = Features {
            sg: set(store, "feature-sg"),
            gso_v4: set(store, "feature-gso-tcpv4"),
            gso_v6: set(store, "feature-gso-tcpv6"),
            checksum_v4: !set(store, "feature-no-csum-offload"),
            checksum_v6: set(store, "feature-ipv6-csum-offload"),
            rx_notify: set(store, "feature-rx-notify"),
            // `XEN_NETIF_MAX_XDP_HEADROOM`.
            headroom: if headroom <= 0x7fff { headroom.min(2048) } else { 0 },
            multicast_control: false,
        };
        let number = |store: &mut Store, path: &str| -> Result<u32, String> {
            let text = store.read_str(path).ok_or_else(|| format!("no {path}"))?;
            text.parse().map_err(|_| format!("{path} is {text:?}"))
        };
        let mut link = Link {
            queues: Vec::new(),
            control: None,
            shared: Shared { features, queues: queues as usize, ..Shared::default() },
        };
        let mut connect_all = || -> Result<(), String> {
            if store.read(&format!("{front}/ctrl-ring-ref")).is_some() {
                let reference = number(store, &format!("{front}/ctrl-ring-ref"))?;
                let port = number(store, &format!("{front}/event-channel-ctrl"))?;
                let ring = BackRing::connect(hv, reference, netif::CTRL_ENTRY)?;
                let port = bind(hv, port, &[&ring])?;
                link.control = Some(Control::new(ring, port));
            }
            for n in 0..queues {
                let base = if queues == 1 { front.clone() } else { format!("{front}/queue-{n}") };
                let tx_ref = number(store, &format!("{base}/tx-ring-ref"))?;
                let rx_ref = number(store, &format!("{base}/rx-ring-ref"))?;
                let split = number(store, &format!("{base}/event-channel-tx"))
                    .and_then(|tx| Ok((tx, number(store, &format!("{base}/event-channel-rx"))?)));
                let ports = match split {
                    Ok((tx, rx)) => (tx, Some(rx)),
                    Err(_) => (number(store, &format!("{base}/event-channel"))?, None),
                };
                link.queues.push(connect_queue(hv, tx_ref, rx_ref, ports)?);
            }
            Ok(())
        };
        let result = connect_all();
        if let Some(Queue { tx, .. }) = link.queues.first_mut() {
            // What the guest put there before the handshake is looked at without an event.
            tx.event(hv.now_ns, 0);
        }
        self.link = Some(link);
        if let Err(why) = result {
            self.drop_link(hv, store, false);
            return Err(why);
        }
        self.sample_multicast(store);
        if self.options.dynamic_multicast_control {
            store.watch(&format!("{front}/request-multicast-control"), &self.multicast_token());
        }
        self.stats.connects += 1;
        self.stats.queues = queues as usize;
        Ok(())
    }

    pub(super) fn sample_multicast(&mut self, store: &mut Store) {
        let path = format!("{}/request-multicast-control", self.frontend_path());
        let wanted = self.options.multicast_control && store.read_number(&path).is_some_and(|value| value != 0);
        if let Some(link) = &mut self.link {
            link.shared.features.multicast_control = wanted;
        }
    }
}

/// Binds an event channel; if that fails the rings that were mapped for it are given back.
fn bind(hv: &mut Hypervisor, port: u32, rings: &[&BackRing]) -> Result<u32, String> {
    hv.dom0_bind(port).map_err(|errno| {
        for ring in rings {
            ring.disconnect(hv);
        }
        format!("event channel {port}: {errno}")
    })
}

/// `xenvif_connect_data`: ports are transmit's, and receive's if it has one of its own.
fn connect_queue(hv: &mut Hypervisor, tx_ref: u32, rx_ref: u32, ports: (u32, Option<u32>)) -> Result<Queue, String> {
    let tx = BackRing::connect(hv, tx_ref, netif::TX_ENTRY)?;
    let rx = BackRing::connect(hv, rx_ref, netif::RX_ENTRY).inspect_err(|_| tx.disconnect(hv))?;
    let tx_port = bind(hv, ports.0, &[&tx, &rx])?;
    let rx_port = match ports.1 {
        None => tx_port,
        Some(port) => bind(hv, port, &[&tx, &rx]).inspect_err(|_| hv.dom0_close(tx_port))?,
    };
    let now = hv.now_ns;
    Ok(Queue { tx: Transmit::new(tx, tx_port), rx: Receive::new(rx, rx_port, now) })
}
