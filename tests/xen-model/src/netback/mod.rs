//! The network backend: xenbus states and keys as Linux's xen-netback has them. Rings are in `tx`, `rx` and `ctrl`; what
//! Linux's stack does with frames behind it is in `frame`; what is at the other end of the wire is a [`Peer`].

mod ctrl;
pub mod frame;
mod handshake;
mod journal;
mod options;
mod peer;
mod ring;
mod rx;
mod stack;
mod syn;
pub mod toeplitz;
mod tx;

use std::collections::BTreeMap;

pub use frame::{Checksum, Frame, PacketHash};
pub use hostile::NetHostile;
pub use journal::{Crossing, Direction, NetJournal};
use options::DEFAULT_MTU;
pub use options::{VifOptions, VifStats};
pub use peer::{NoPeer, Peer};
pub use stack::{PingReport, Stack, StackOptions, StackStats, UdpReport, stream_bytes};

use crate::blkback::{HostilePlan, Plans, state};
use crate::hv::Hypervisor;
use crate::machine::Mfn;
use crate::store::{Perm, Store, home};
use ctrl::{Control, Hashing};
use rx::Receive;
use tx::Transmit;

/// Nanoseconds that the toolstack gives a detach (libxl's `LIBXL_DESTROY_TIMEOUT`).
const DETACH_NS: u64 = 10_000_000_000;

/// What the frontend asked for (`read_xenbus_vif_flags`).
#[derive(Clone, Copy, Debug, Default)]
struct Features {
    sg: bool,
    gso_v4: bool,
    gso_v6: bool,
    checksum_v4: bool,
    checksum_v6: bool,
    rx_notify: bool,
    /// Bytes before the data of each receive slot.
    headroom: usize,
    /// `request-multicast-control`.
    multicast_control: bool,
}

/// What all queues of a connected vif share.
#[derive(Debug, Default)]
struct Shared {
    features: Features,
    hashing: Hashing,
    multicast: Vec<[u8; 6]>,
    queues: usize,
    /// The guest sent something malicious: nothing is done for it any more.
    disabled: bool,
}

struct Queue {
    tx: Transmit,
    rx: Receive,
}

/// A connected frontend.
struct Link {
    queues: Vec<Queue>,
    control: Option<Control>,
    shared: Shared,
}

/// What one vif has besides its rings.
struct Context<'a> {
    hv: &'a mut Hypervisor,
    options: &'a VifOptions,
    stats: &'a mut VifStats,
    journal: &'a mut NetJournal,
    plans: &'a mut Plans<NetHostile>,
    shared: &'a mut Shared,
}

/// One network interface of the guest, with its backend and what is behind it.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Vif {
    options: VifOptions,
    peer: Box<dyn Peer>,
    stats: VifStats,
    journal: NetJournal,
    plans: Plans<NetHostile>,
    domid: u16,
    /// The backend's own state; `None`: there is no backend.
    state: Option<u32>,
    /// The backend driver has still to probe the device.
    probe: bool,
    /// The frontend's state node changed.
    frontend_changed: bool,
    /// The frontend's `request-multicast-control` changed.
    multicast_changed: bool,
    link: Option<Link>,
    /// The toolstack removes the directories once the backend is closed, and at this time whatever it is.
    detaching: Option<u64>,
    attached: bool,
    /// Handshakes that offered another number of queues than the one before.
    offers: u32,
}

impl Vif {
    pub(crate) fn attach(options: VifOptions, peer: Box<dyn Peer>, hv: &Hypervisor, store: &mut Store) -> Self {
        let mut vif = Self {
            options,
            peer,
            stats: VifStats::default(),
            journal: NetJournal::default(),
            plans: Plans::default(),
            domid: hv.domid,
            state: None,
            probe: false,
            frontend_changed: false,
            multicast_changed: false,
            link: None,
            detaching: None,
            attached: true,
            offers: 0,
        };
        vif.create(hv.domid, store);
        vif
    }

    /// The device's number.
    pub fn index(&self) -> u32 {
        self.options.index
    }

    /// The options as they are.
    pub fn options(&self) -> &VifOptions {
        &self.options
    }

    /// The options, to change them. Features count from the next handshake on.
    pub fn options_mut(&mut self) -> &mut VifOptions {
        &mut self.options
    }

    /// What was counted.
    pub fn stats(&self) -> &VifStats {
        &self.stats
    }

    /// What crossed.
    pub fn journal(&self) -> &NetJournal {
        &self.journal
    }

    /// What crossed, to clear it or to keep more.
    pub fn journal_mut(&mut self) -> &mut NetJournal {
        &mut self.journal
    }

    /// The in-process peer, if that is what is at the other end.
    pub fn stack(&mut self) -> Option<&mut Stack> {
        self.peer.stack()
    }

    /// Holds answers to transmitted frames back, or lets them go.
    pub fn hold(&mut self, held: bool) {
        self.options.held = held;
    }

    /// Hostile acts by kind.
    pub fn hostile_fired(&self) -> &BTreeMap<NetHostile, u64> {
        self.plans.fired()
    }

    /// Whether the toolstack still has it attached.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether frontend and backend are connected.
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Whether the guest sent something for which Linux switches a vif off.
    pub fn is_disabled(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.shared.disabled)
    }

    /// The multicast addresses that the guest registered.
    pub fn multicast_list(&self) -> &[[u8; 6]] {
        self.link.as_ref().map_or(&[], |link| &link.shared.multicast)
    }

    /// The rings' pages, while it is connected.
    pub(crate) fn ring_frames(&self) -> impl Iterator<Item = Mfn> {
        self.link.iter().flat_map(|link| {
            let queues = link.queues.iter().flat_map(|queue| [queue.tx.ring_frame(), queue.rx.ring_frame()]);
            queues.chain(link.control.iter().map(Control::ring_frame))
        })
    }

    /// Transmit slots taken and not answered.
    pub fn in_flight(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.queues.iter().map(|q| q.tx.in_flight()).sum())
    }

    /// Frames that wait for buffers of the guest's.
    pub fn waiting_to_guest(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.queues.iter().map(|q| q.rx.waiting()).sum())
    }

    /// Whether the guest gave no buffers for so long that netback has turned the carrier off.
    pub fn is_stalled(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.queues.iter().any(|q| q.rx.stalled()))
    }

    /// The backend's directory.
    pub fn backend_path(&self) -> String {
        format!("{}/backend/vif/{}/{}", home(0), self.domid, self.options.index)
    }

    /// The frontend's directory.
    pub fn frontend_path(&self) -> String {
        format!("{}/device/vif/{}", home(self.domid), self.options.index)
    }

    pub(crate) fn inject(&mut self, plan: HostilePlan<NetHostile>) {
        self.plans.add(plan);
    }

    pub(crate) fn clear_hostile(&mut self, hv: &mut Hypervisor) {
        self.plans.clear();
        for queue in self.link.iter_mut().flat_map(|link| &mut link.queues) {
            queue.tx.release_kept(hv);
            queue.rx.release_kept(hv);
        }
    }

    fn state_token(&self) -> String {
        format!("vif-{}", self.options.index)
    }

    fn multicast_token(&self) -> String {
        format!("vif-{}-multicast", self.options.index)
    }

    /// A watch of dom0's fired; whether it was one of this vif's.
    pub(crate) fn on_watch(&mut self, token: &str) -> bool {
        let (state, multicast) = (token == self.state_token(), token == self.multicast_token());
        self.frontend_changed |= state;
        self.multicast_changed |= multicast;
        state || multicast
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        let link = self.link.iter().flat_map(|link| &link.queues);
        let rings = link.flat_map(|q| [q.tx.deadline(&self.options), q.rx.deadline()]);
        rings.chain([self.peer.deadline(), self.detaching]).flatten().min()
    }

    /// Writes both directories, as libxl does for a domain, and its hotplug script for the MTU.
    fn create(&mut self, domid: u16, store: &mut Store) {
        self.domid = domid;
        let (back, front) = (self.backend_path(), self.frontend_path());
        store.remove(&back);
        store.remove(&front);
        store.set_perms(&back, &[Perm::none(0), Perm::read(domid)]);
        store.set_perms(&front, &[Perm::none(domid), Perm::read(0)]);
        let index = self.options.index.to_string();
        for (key, value) in [("backend", back.as_str()), ("backend-id", "0"), ("state", "1"), ("handle", &index)] {
            store.write(&format!("{front}/{key}"), value);
        }
        for (key, value) in [
            ("frontend", front.as_str()),
            ("frontend-id", &domid.to_string()),
            ("online", "1"),
            ("state", "1"),
            ("script", "/etc/xen/scripts/vif-bridge"),
            ("bridge", "xenbr0"),
            ("handle", &index),
            ("type", "vif"),
            ("hotplug-status", ""),
        ] {
            store.write(&format!("{back}/{key}"), value);
        }
        if let Some(mac) = &self.options.mac {
            store.write(&format!("{front}/mac"), mac);
            store.write(&format!("{back}/mac"), mac);
        }
        if let Some(mtu) = self.options.mtu {
            store.write(&format!("{front}/mtu"), mtu.to_string());
            if mtu != DEFAULT_MTU {
                store.write(&format!("{back}/mtu"), mtu.to_string());
            }
        }
        if let Some(trusted) = self.options.trusted {
            store.write(&format!("{front}/trusted"), if trusted { "1" } else { "0" });
        }
        self.state = Some(state::INITIALISING);
        self.probe = true;
        self.detaching = None;
        store.watch(&format!("{front}/state"), &self.state_token());
    }

    fn context<'a>(&'a mut self, hv: &'a mut Hypervisor) -> Option<Parts<'a>> {
        let link = self.link.as_mut()?;
        let ctx = Context {
            hv,
            options: &self.options,
            stats: &mut self.stats,
            journal: &mut self.journal,
            plans: &mut self.plans,
            shared: &mut link.shared,
        };
        Some(Parts { ctx, queues: &mut link.queues, control: &mut link.control, peer: self.peer.as_mut() })
    }

    fn switch(&mut self, store: &mut Store, to: u32) {
        self.state = Some(to);
        store.write(&format!("{}/state", self.backend_path()), to.to_string());
    }

    /// Does a bounded amount of work; whether anything was done.
    pub(crate) fn step(&mut self, hv: &mut Hypervisor, store: &mut Store) -> bool {
        let mut moved = self.peer.poll(hv.now_ns);
        let Some(now_in) = self.state else {
            // Nobody is connected: what the peer sends is lost.
            while self.peer.transmit().is_some() {
                self.stats.dropped_to_guest += 1;
            }
            return moved;
        };
        if self.probe {
            self.probe = false;
            self.offer(store, hv);
            moved = true;
        } else if std::mem::take(&mut self.frontend_changed) {
            self.frontend_moved(hv, store);
            moved = true;
        }
        if std::mem::take(&mut self.multicast_changed) && self.options.dynamic_multicast_control {
            self.sample_multicast(store);
        }
        if let Some(until) = self.detaching
            && (self.state == Some(state::CLOSED) || hv.now_ns >= until)
        {
            self.stats.forced += u64::from(self.state != Some(state::CLOSED));
            self.remove(hv, store);
            return true;
        }
        if self.link.is_some() && self.in_flight() > 0 && self.plans.due(NetHostile::Vanish) {
            self.vanish(hv, store);
            return true;
        }
        moved |= self.traffic(hv);
        if now_in == state::CONNECTED {
            moved |= self.misbehave_in_store(store);
        }
        moved
    }

    fn misbehave_in_store(&mut self, store: &mut Store) -> bool {
        let path = format!("{}/state", self.backend_path());
        let flap = self.plans.due(NetHostile::StateFlap);
        if flap {
            for s in [state::INIT_WAIT, state::CLOSING, state::INITIALISING, 9, 0, state::CONNECTED] {
                store.write(&path, s.to_string());
            }
        }
        let storm = self.plans.due(NetHostile::WatchStorm);
        if storm {
            for _ in 0..64 {
                store.write(&path, state::CONNECTED.to_string());
            }
        }
        flap || storm
    }

    /// Moves frames in both directions.
    fn traffic(&mut self, hv: &mut Hypervisor) -> bool {
        let Some(Parts { mut ctx, queues, control, peer }) = self.context(hv) else {
            while self.peer.transmit().is_some() {
                self.stats.dropped_to_guest += 1;
            }
            return false;
        };
        let mut moved = false;
        let (now, wake_ns) = (ctx.hv.now_ns, ctx.options.wake_ns);
        if let Some(control) = control
            && ctx.hv.dom0_take_pending(control.port)
        {
            ctx.stats.notifications_received += 1;
            moved |= control.step(&mut ctx);
        }
        let mut wire = Vec::new();
        for (n, queue) in queues.iter_mut().enumerate() {
            let shared_port = queue.tx.port == queue.rx.port;
            if ctx.hv.dom0_take_pending(queue.tx.port) {
                ctx.stats.notifications_received += 1;
                queue.tx.event(now, wake_ns);
                if shared_port {
                    queue.rx.kick(now + wake_ns);
                }
            }
            if !shared_port && ctx.hv.dom0_take_pending(queue.rx.port) {
                ctx.stats.notifications_received += 1;
                queue.rx.kick(now + wake_ns);
            }
            moved |= queue.tx.step(&mut ctx, n, &mut wire);
        }
        let mut arrived = false;
        for frame in wire {
            if frame.len() > ctx.options.mtu_bytes() + 14 + tags(&frame) {
                ctx.stats.oversized += 1;
            } else if lost(&mut ctx) {
                ctx.stats.lost_on_wire += 1;
            } else {
                peer.receive(frame);
                arrived = true;
            }
        }
        if arrived {
            moved = true;
            peer.poll(now);
        }
        while let Some(bytes) = peer.transmit() {
            moved = true;
            if lost(&mut ctx) {
                ctx.stats.lost_on_wire += 1;
            } else {
                to_guest(&mut ctx, queues, Frame::from_wire(bytes), true);
            }
        }
        for (n, queue) in queues.iter_mut().enumerate() {
            if !ctx.shared.disabled {
                moved |= queue.rx.step(&mut ctx, n);
            }
            if ctx.plans.due(NetHostile::EventStorm) {
                for _ in 0..64 {
                    ctx.hv.dom0_send(queue.tx.port);
                    ctx.hv.dom0_send(queue.rx.port);
                }
                moved = true;
            }
        }
        moved
    }

    /// Puts a frame of dom0's before the guest as it stands, whatever it is. `false`: nobody is connected.
    pub(crate) fn send_to_guest(&mut self, hv: &mut Hypervisor, frame: Frame) -> bool {
        let Some(Parts { mut ctx, queues, .. }) = self.context(hv) else { return false };
        to_guest(&mut ctx, queues, frame, false);
        true
    }

    /// Takes the rings down; with `answer`, what is in flight is answered first.
    fn drop_link(&mut self, hv: &mut Hypervisor, store: &mut Store, answer: bool) {
        let path = format!("{}/request-multicast-control", self.frontend_path());
        store.unwatch(&path, &self.multicast_token());
        let Some(mut link) = self.link.take() else { return };
        let mut ctx = Context {
            hv,
            options: &self.options,
            stats: &mut self.stats,
            journal: &mut self.journal,
            plans: &mut self.plans,
            shared: &mut link.shared,
        };
        for Queue { tx, rx } in link.queues {
            let ports = [tx.port, rx.port];
            tx.disconnect(&mut ctx, answer);
            rx.disconnect(&mut ctx);
            for port in ports {
                ctx.hv.dom0_close(port);
            }
        }
        if let Some(control) = link.control {
            control.disconnect(ctx.hv);
        }
    }

    /// `xl network-detach`: asks, and removes the directories when the backend is closed.
    pub(crate) fn detach(&mut self, hv: &Hypervisor, store: &mut Store) {
        if self.state.is_none() {
            // There is no backend to ask.
            store.remove_with_empty_parents(&self.frontend_path());
            self.attached = false;
            return;
        }
        self.detaching = Some(hv.now_ns + DETACH_NS);
        store.write(&format!("{}/online", self.backend_path()), "0");
        self.switch(store, state::CLOSING);
    }

    fn forget(&mut self, hv: &mut Hypervisor, store: &mut Store) {
        self.drop_link(hv, store, false);
        let (front, back, token) = (self.frontend_path(), self.backend_path(), self.state_token());
        store.unwatch(&format!("{front}/state"), &token);
        store.remove_with_empty_parents(&back);
        self.state = None;
    }

    /// The toolstack removes everything, whatever the frontend does.
    pub(crate) fn remove(&mut self, hv: &mut Hypervisor, store: &mut Store) {
        self.forget(hv, store);
        store.remove_with_empty_parents(&self.frontend_path());
        self.attached = false;
        self.detaching = None;
    }

    /// The backend and its directory are gone; the frontend's directory stays.
    pub(crate) fn vanish(&mut self, hv: &mut Hypervisor, store: &mut Store) {
        self.forget(hv, store);
    }

    /// The backend starts anew: it closes and waits for the frontend to close and connect again. One that nobody is
    /// connected to offers its keys again; one that vanished comes back with fresh directories.
    pub(crate) fn restart(&mut self, store: &mut Store) {
        match self.state {
            None => self.create(self.domid, store),
            Some(_) if self.link.is_none() => {
                self.switch(store, state::CLOSED);
                self.probe = true;
            }
            Some(_) => self.switch(store, state::CLOSING),
        }
    }

    /// `carrier` of the backend's directory.
    pub(crate) fn set_carrier(&mut self, store: &mut Store, up: bool) {
        store.write(&format!("{}/carrier", self.backend_path()), if up { "1" } else { "0" });
    }

    /// First half of a save: the old domain's rings are cut off.
    pub(crate) fn save(&mut self, hv: &mut Hypervisor, store: &mut Store) {
        self.stats.in_flight_at_suspend += self.in_flight() as u64;
        if let Some(Parts { mut ctx, queues, .. }) = self.context(hv) {
            for queue in queues {
                queue.tx.cut_off(&mut ctx);
            }
        }
        self.forget(hv, store);
        self.frontend_changed = false;
        self.multicast_changed = false;
    }

    /// Second half: fresh directories for the new domain.
    pub(crate) fn restore(&mut self, domid: u16, store: &mut Store) {
        if self.attached {
            self.create(domid, store);
        }
    }
}

struct Parts<'a> {
    ctx: Context<'a>,
    queues: &'a mut Vec<Queue>,
    control: &'a mut Option<Control>,
    peer: &'a mut dyn Peer,
}

/// `xenvif_start_xmit`. With `offload` what the network stack does before it for an interface of these features.
fn to_guest(ctx: &mut Context<'_>, queues: &mut [Queue], mut frame: Frame, offload: bool) {
    let f = ctx.shared.features;
    if queues.is_empty() || ctx.shared.disabled {
        ctx.stats.dropped_to_guest += 1;
        return;
    }
    if f.multicast_control
        && frame::is_multicast(&frame.bytes)
        && !ctx.shared.multicast.iter().any(|address| frame.bytes.starts_with(address))
    {
        ctx.stats.filtered_to_guest += 1;
        return;
    }
    let (queue, hash) = ctx.shared.hashing.choose(&frame, queues.len());
    frame.hash = hash;
    let headers = frame::Headers::parse(&frame.bytes);
    let takes_blank = headers.is_some_and(|h| if h.v6 { f.checksum_v6 } else { f.checksum_v4 });
    let joinable = ctx.options.coalesce && f.sg && headers.is_some_and(|h| if h.v6 { f.gso_v6 } else { f.gso_v4 });
    let is_tcp = headers.is_some_and(|h| h.protocol == frame::TCP && !h.fragment);
    // A stream's segments keep their checksums until they are joined, which blanks them.
    if offload
        && frame.checksum == Checksum::Unknown
        && ctx.options.blank_to_guest
        && takes_blank
        && !(joinable && is_tcp)
        && frame::verify_checksum(&frame.bytes) == Some(true)
        && frame::blank_checksum(&mut frame.bytes)
    {
        frame.checksum = Checksum::Blank;
    }
    // What the guest does not take is finished for it.
    let takes_large = f.sg && headers.is_some_and(|h| if h.v6 { f.gso_v6 } else { f.gso_v4 });
    if let Some(mss) = frame.mss.filter(|_| !takes_large)
        && let Some(segments) = frame::segment(&frame.bytes, headers.is_some_and(|h| h.v6), mss.into())
    {
        for segment in segments {
            let part = Frame { hash: frame.hash, ..Frame::from_wire(segment) };
            queues[queue].rx.enqueue(ctx, part, false);
        }
        return;
    }
    if frame.checksum == Checksum::Blank && !takes_blank && frame::finish_checksum(&mut frame.bytes).is_ok() {
        frame.checksum = Checksum::Unknown;
    }
    queues[queue].rx.enqueue(ctx, frame, offload && joinable);
}

/// Bytes of the VLAN tags of a frame.
fn tags(frame: &[u8]) -> usize {
    if frame.get(12..14) == Some(&[0x81, 0x00]) { 4 } else { 0 }
}

fn lost(ctx: &mut Context<'_>) -> bool {
    let permille = u64::from(ctx.options.loss_permille);
    permille > 0 && ctx.hv.below(1000) < permille
}
