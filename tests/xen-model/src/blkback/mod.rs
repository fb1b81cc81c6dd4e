//! The block backend: xenbus states and keys as Linux's xen-blkback has them. The ring is in `ring`.

mod backing;
mod journal;
mod misdeeds;
mod offer;
mod ring;

use std::collections::{BTreeMap, BTreeSet};

pub use backing::{Backing, FileBacking, MemoryBacking, SECTOR};
pub use hostile::Hostile;
pub use journal::{Journal, JournalEntry, hash};
pub use misdeeds::HostilePlan;

use crate::hv::Hypervisor;
use crate::machine::Mfn;
use crate::observe::GuestErrorKind;
use crate::store::{Perm, Store, home};
pub(crate) use misdeeds::Plans;
use ring::{Context, Ring};

/// XenbusState (io/xenbus.h).
pub(crate) mod state {
    pub const INITIALISING: u32 = 1;
    pub const INIT_WAIT: u32 = 2;
    pub const INITIALISED: u32 = 3;
    pub const CONNECTED: u32 = 4;
    pub const CLOSING: u32 = 5;
    pub const CLOSED: u32 = 6;
}

/// In which order requests are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they came.
    InOrder,
    /// Any that is ready, by the seed; only a barrier keeps its place.
    OutOfOrder,
}

/// Which program serves the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Linux's blkback. It says what the disk can do when the frontend's ring is there.
    Blkback,
    /// QEMU's block backend. It says everything before it waits for the frontend, and asks to be told of requests only
    /// when it has answered all that it took.
    Qdisk,
}

/// How the backend says that it takes rings of several pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingKeys {
    /// `max-ring-page-order`, as Linux does.
    Order,
    /// `max-ring-pages`, the other spelling.
    Pages,
    /// Both.
    Both,
    /// Not at all: one page.
    None,
}

/// Discard, as it is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscardOptions {
    /// `discard-granularity` in bytes.
    pub granularity: u32,
    /// `discard-alignment` in bytes.
    pub alignment: u32,
    /// `discard-secure`.
    pub secure: bool,
}

/// Everything about a disk but its contents. Each feature can be switched off.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Who serves it.
    pub server: Server,
    /// The virtual device number: 51712 is xvda.
    pub vdev: u32,
    /// `mode`: `r` instead of `w`.
    pub read_only: bool,
    /// `sector-size` in bytes: 512 or 4096.
    pub sector_size: u32,
    /// `physical-sector-size` in bytes; `None`: no such key.
    pub physical_sector_size: Option<u32>,
    /// The largest ring: 0 for one page to 4 for sixteen.
    pub max_ring_page_order: u32,
    /// How that is offered.
    pub ring_keys: RingKeys,
    /// `feature-max-indirect-segments`; `None`: no indirect requests.
    pub max_indirect_segments: Option<u32>,
    /// `feature-flush-cache`.
    pub flush: bool,
    /// `feature-barrier`.
    pub barrier: bool,
    /// `feature-discard`.
    pub discard: Option<DiscardOptions>,
    /// `feature-persistent`.
    pub persistent: bool,
    /// `device-type` is `cdrom`.
    pub cdrom: bool,
    /// The medium can be removed.
    pub removable: bool,
    /// Keys that the backend never writes, as a broken toolstack or backend leaves them out.
    pub omitted: Vec<&'static str>,
    /// The order of completion.
    pub order: Order,
    /// Nanoseconds from an event to the moment at which the backend's thread runs.
    pub wake_ns: u64,
    /// Nanoseconds from the moment at which blkback's thread has emptied the ring to the one at which it asks to be told of
    /// more. dom0 may do something else between, and answer what was taken.
    pub arm_ns: u64,
    /// Nanoseconds from the moment at which the disk is done with a request to the one at which dom0 answers it, and with
    /// it every other that is done by then: the disk's interrupt and the softirq that ends bios. 0: the backend answers
    /// each when it is done, as no dom0 does; it gives the suites more moments to fall between.
    pub softirq_ns: u64,
    /// Nanoseconds that a request takes at least.
    pub latency_ns: u64,
    /// Up to how many more it may take, by the seed.
    pub latency_jitter_ns: u64,
    /// Requests that are done at most in one step of the model.
    pub completions_per_step: u32,
    /// Requests that the backend takes at a time; blkback has as many as the ring holds.
    pub max_active: u32,
    /// Takes requests but finishes none, for suites that want a full queue. See [`Disk::hold`].
    pub held: bool,
}

impl DiskOptions {
    /// A disk as Linux's blkback offers it by default, persistent grants off.
    pub fn new(vdev: u32) -> Self {
        Self {
            server: Server::Blkback,
            vdev,
            read_only: false,
            sector_size: 512,
            physical_sector_size: Some(512),
            max_ring_page_order: 4,
            ring_keys: RingKeys::Order,
            max_indirect_segments: Some(256),
            flush: true,
            barrier: true,
            discard: Some(DiscardOptions { granularity: 4096, alignment: 0, secure: false }),
            persistent: false,
            cdrom: false,
            removable: false,
            omitted: Vec::new(),
            order: Order::OutOfOrder,
            wake_ns: 0,
            arm_ns: 0,
            softirq_ns: 0,
            latency_ns: 20_000,
            latency_jitter_ns: 10_000,
            completions_per_step: 32,
            max_active: u32::MAX,
            held: false,
        }
    }

    /// A disk as QEMU's block backend offers it: no indirect requests, no barriers, no persistent grants.
    pub fn qdisk(vdev: u32) -> Self {
        Self {
            server: Server::Qdisk,
            physical_sector_size: None,
            max_indirect_segments: None,
            barrier: false,
            discard: Some(DiscardOptions { granularity: 512, alignment: 0, secure: false }),
            ..Self::new(vdev)
        }
    }
}

/// A disk to attach.
pub struct DiskSpec {
    /// What it is.
    pub options: DiskOptions,
    /// What is on it.
    pub backing: Box<dyn Backing>,
}

impl DiskSpec {
    /// A disk with default options.
    pub fn new(vdev: u32, backing: impl Backing + 'static) -> Self {
        Self { options: DiskOptions::new(vdev), backing: Box::new(backing) }
    }
}

/// What a disk counted since it was attached.
#[derive(Clone, Debug, Default)]
pub struct DiskStats {
    /// Read requests done.
    pub reads: u64,
    /// Write requests done.
    pub writes: u64,
    /// Flush requests done.
    pub flushes: u64,
    /// Barriers with data done.
    pub barriers: u64,
    /// Discards done.
    pub discards: u64,
    /// Indirect requests taken.
    pub indirect: u64,
    /// Responses sent.
    pub responses: u64,
    /// Requests refused or failed.
    pub errors: u64,
    /// Bytes read from the disk.
    pub bytes_read: u64,
    /// Bytes written to it.
    pub bytes_written: u64,
    /// Events sent to the guest for the ring.
    pub notifications_sent: u64,
    /// Events received for the ring.
    pub notifications_received: u64,
    /// Data and indirect grants mapped.
    pub grant_maps: u64,
    /// Data and indirect grants unmapped.
    pub grant_unmaps: u64,
    /// The most requests that were in flight at once.
    pub max_in_flight: usize,
    /// Segments of the largest request.
    pub max_segments: usize,
    /// Handshakes done.
    pub connects: u64,
    /// Ring pages of the last handshake.
    pub ring_pages: usize,
    /// How often the backend found requests of which it had not been told.
    pub found: u64,
}

/// One disk of the guest, with its backend.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Disk {
    options: DiskOptions,
    backing: Box<dyn Backing>,
    stats: DiskStats,
    journal: Journal,
    plans: Plans,
    domid: u16,
    /// The backend's own state; `None`: there is no backend.
    state: Option<u32>,
    /// The backend driver has still to probe the device.
    probe: bool,
    /// The frontend's state node changed.
    frontend_changed: bool,
    ring: Option<Ring>,
    /// The frontend's states as the backend saw them.
    frontend_states: Vec<u32>,
    /// References that were ever mapped.
    references: BTreeSet<u32>,
    /// Absurd values that were written, with their keys.
    absurd: Vec<(&'static str, String)>,
    /// Data grants of closed rings that a hostile backend keeps: reference and whether it is mapped read-only.
    kept: Vec<(u32, bool)>,
    /// The size that the frontend was told last.
    sectors_told: u64,
    /// The toolstack removes the directories once the backend is closed.
    detaching: bool,
    attached: bool,
}

impl Disk {
    pub(crate) fn attach(spec: DiskSpec, hv: &Hypervisor, store: &mut Store) -> Self {
        let mut disk = Self {
            options: spec.options,
            backing: spec.backing,
            stats: DiskStats::default(),
            journal: Journal::default(),
            plans: Plans::default(),
            domid: hv.domid,
            state: None,
            probe: false,
            frontend_changed: false,
            ring: None,
            frontend_states: Vec::new(),
            references: BTreeSet::new(),
            absurd: Vec::new(),
            kept: Vec::new(),
            sectors_told: 0,
            detaching: false,
            attached: true,
        };
        disk.create(hv.domid, store);
        disk
    }

    /// The device's number.
    pub fn vdev(&self) -> u32 {
        self.options.vdev
    }

    /// The options as they are.
    pub fn options(&self) -> &DiskOptions {
        &self.options
    }

    /// What was counted.
    pub fn stats(&self) -> &DiskStats {
        &self.stats
    }

    /// What was done to the contents.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The journal, to clear it or to record reads too.
    pub fn journal_mut(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// The contents.
    pub fn backing(&mut self) -> &mut dyn Backing {
        self.backing.as_mut()
    }

    /// Holds finished requests back, or lets them go. A close, a save or a restart ends them all the same.
    pub fn hold(&mut self, held: bool) {
        self.options.held = held;
    }

    /// Hostile acts by kind.
    pub fn hostile_fired(&self) -> &BTreeMap<Hostile, u64> {
        self.plans.fired()
    }

    /// Absurd values that the backend wrote, with their keys, in order.
    pub fn absurd_values(&self) -> &[(&'static str, String)] {
        &self.absurd
    }

    /// The frontend's states as the backend saw them, in order, since the disk was attached.
    pub fn frontend_states(&self) -> &[u32] {
        &self.frontend_states
    }

    /// Grant references that the backend has had mapped since the disk was attached.
    pub fn references(&self) -> &BTreeSet<u32> {
        &self.references
    }

    /// Grants of the guest's that the backend has mapped: ring, data and indirect pages.
    pub fn mapped_grants(&self) -> u64 {
        self.stats.grant_maps - self.stats.grant_unmaps + self.ring.as_ref().map_or(0, |ring| ring.pages() as u64)
    }

    /// Whether the toolstack still has it attached.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether frontend and backend are connected.
    pub fn is_connected(&self) -> bool {
        self.ring.is_some()
    }

    /// Requests taken and not answered.
    pub fn in_flight(&self) -> usize {
        self.ring.as_ref().map_or(0, Ring::in_flight)
    }

    /// The ring's pages, while it is connected.
    pub(crate) fn ring_frames(&self) -> &[Mfn] {
        self.ring.as_ref().map_or(&[], Ring::frames)
    }

    /// The backend's directory.
    pub fn backend_path(&self) -> String {
        let class = match self.options.server {
            Server::Blkback => "vbd",
            Server::Qdisk => "qdisk",
        };
        format!("{}/backend/{class}/{}/{}", home(0), self.domid, self.options.vdev)
    }

    /// The frontend's directory.
    pub fn frontend_path(&self) -> String {
        format!("{}/device/vbd/{}", home(self.domid), self.options.vdev)
    }

    pub(crate) fn token(&self) -> String {
        format!("vbd-{}", self.options.vdev)
    }

    pub(crate) fn inject(&mut self, plan: HostilePlan) {
        self.plans.add(plan);
    }

    pub(crate) fn clear_hostile(&mut self, hv: &mut Hypervisor) {
        self.plans.clear();
        if let Some(ring) = &mut self.ring {
            ring.release_kept(hv, &mut self.stats);
        }
        self.release_kept(hv);
    }

    /// Ends the grants of closed rings that a hostile backend kept.
    fn release_kept(&mut self, hv: &mut Hypervisor) {
        for (reference, readonly) in std::mem::take(&mut self.kept) {
            hv.unmap_grant(reference, readonly);
            self.stats.grant_unmaps += 1;
        }
    }

    pub(crate) fn on_frontend_event(&mut self) {
        self.frontend_changed = true;
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        let ring = self.ring.as_ref()?;
        let request = if self.options.held { None } else { ring.deadline(&self.options) };
        let storm = self.plans.planned(Hostile::EventStorm).then(|| ring.storm_at());
        request.into_iter().chain(storm).min()
    }

    /// Writes both directories, as libxl does for a domain.
    fn create(&mut self, domid: u16, store: &mut Store) {
        self.domid = domid;
        let (back, front) = (self.backend_path(), self.frontend_path());
        store.remove(&back);
        store.remove(&front);
        store.set_perms(&back, &[Perm::none(0), Perm::read(domid)]);
        store.set_perms(&front, &[Perm::none(domid), Perm::read(0)]);
        let vdev = self.options.vdev.to_string();
        let kind = if self.options.cdrom { "cdrom" } else { "disk" };
        for (key, value) in [
            ("backend", back.as_str()),
            ("backend-id", "0"),
            ("state", "1"),
            ("virtual-device", &vdev),
            ("device-type", kind),
        ] {
            store.write(&format!("{front}/{key}"), value);
        }
        for (key, value) in [
            ("frontend", front.as_str()),
            ("frontend-id", &domid.to_string()),
            ("online", "1"),
            ("removable", if self.options.removable { "1" } else { "0" }),
            ("bootable", "1"),
            ("state", "1"),
            ("dev", &device_name(self.options.vdev)),
            ("type", "phy"),
            ("mode", if self.options.read_only { "r" } else { "w" }),
            ("device-type", kind),
            ("discard-enable", if self.options.discard.is_some() { "1" } else { "0" }),
            ("hotplug-status", "connected"),
        ] {
            store.write(&format!("{back}/{key}"), value);
        }
        self.state = Some(state::INITIALISING);
        self.probe = true;
        self.detaching = false;
        let token = self.token();
        store.watch(&format!("{front}/state"), &token);
    }

    fn context<'a>(&'a mut self, hv: &'a mut Hypervisor) -> (Context<'a>, &'a mut Option<Ring>) {
        let ctx = Context {
            hv,
            options: &self.options,
            backing: self.backing.as_mut(),
            journal: &mut self.journal,
            stats: &mut self.stats,
            plans: &mut self.plans,
            references: &mut self.references,
        };
        (ctx, &mut self.ring)
    }

    fn switch(&mut self, store: &mut Store, to: u32) {
        self.state = Some(to);
        store.write(&format!("{}/state", self.backend_path()), to.to_string());
    }

    /// Does a bounded amount of work; whether anything was done.
    pub(crate) fn step(&mut self, hv: &mut Hypervisor, store: &mut Store) -> bool {
        let Some(now_in) = self.state else { return false };
        let mut moved = false;
        if self.probe {
            self.probe = false;
            self.offer(store, hv);
            if self.plans.due(Hostile::StateSkip) {
                self.switch(store, state::CONNECTED);
                self.state = Some(state::INIT_WAIT);
            } else {
                self.switch(store, state::INIT_WAIT);
            }
            moved = true;
        } else if std::mem::take(&mut self.frontend_changed) {
            self.frontend_moved(hv, store);
            moved = true;
        }
        if self.detaching && self.state == Some(state::CLOSED) {
            self.remove(hv, store);
            return true;
        }
        if self.ring.is_some() {
            if self.in_flight() > 0 && self.plans.due(Hostile::Vanish) {
                self.vanish(hv, store);
                return true;
            }
            let (mut ctx, ring) = self.context(hv);
            if let Some(ring) = ring
                && ring.step(&mut ctx)
            {
                moved = true;
                self.tell_size(store);
            }
        }
        if now_in == state::CONNECTED {
            if self.plans.due(Hostile::StateFlap) {
                let path = format!("{}/state", self.backend_path());
                for s in [state::INIT_WAIT, state::CLOSING, state::INITIALISING, 9, 0, state::CONNECTED] {
                    store.write(&path, s.to_string());
                }
                moved = true;
            }
            if self.plans.due(Hostile::WatchStorm) {
                let path = format!("{}/state", self.backend_path());
                for _ in 0..64 {
                    store.write(&path, state::CONNECTED.to_string());
                }
                moved = true;
            }
        }
        moved
    }

    /// `frontend_changed`.
    fn frontend_moved(&mut self, hv: &mut Hypervisor, store: &mut Store) {
        let front = self.frontend_path();
        let Some(there) = store.read_number(&format!("{front}/state")) else { return };
        if self.frontend_states.last() != Some(&(there as u32)) {
            self.frontend_states.push(there as u32);
        }
        match there as u32 {
            state::INITIALISING if self.state == Some(state::CLOSED) => self.switch(store, state::INIT_WAIT),
            state::INITIALISED | state::CONNECTED if !matches!(self.state, Some(state::CONNECTED | state::CLOSING)) => {
                self.drop_ring(hv, true);
                match self.connect(hv, store) {
                    Ok(()) => self.switch(store, state::CONNECTED),
                    Err(why) => {
                        hv.guest_error(GuestErrorKind::BadNegotiation, format!("vbd {}: {why}", self.options.vdev));
                        store.write(&format!("{}/error", self.backend_path()), why);
                        self.switch(store, state::CLOSING);
                    }
                }
            }
            state::CLOSING if self.state != Some(state::CLOSED) => self.switch(store, state::CLOSING),
            state::CLOSED => {
                self.drop_ring(hv, true);
                self.switch(store, state::CLOSED);
            }
            _ => {}
        }
    }

    /// `connect_ring`, then `connect`.
    fn connect(&mut self, hv: &mut Hypervisor, store: &mut Store) -> Result<(), String> {
        let (back, front) = (self.backend_path(), self.frontend_path());
        let key = |store: &mut Store, name: &str| store.read_str(&format!("{front}/{name}"));
        let wanted = |store: &mut Store, name: &str| -> Result<u32, String> {
            let text = key(store, name).ok_or_else(|| format!("no {name}"))?;
            text.parse().map_err(|_| format!("{name} is {text:?}"))
        };
        if let Some(protocol) = key(store, "protocol")
            && protocol != "x86_64-abi"
        {
            return Err(format!("protocol {protocol:?}"));
        }
        if key(store, "multi-queue-num-queues").is_some_and(|n| n != "1") {
            return Err("more queues than offered".to_owned());
        }
        // As Linux reads it: the references carry numbers if and only if the ring's size was written.
        let (pages, numbered) = if key(store, "ring-page-order").is_some() {
            (1u32.checked_shl(wanted(store, "ring-page-order")?).unwrap_or(u32::MAX), true)
        } else if key(store, "num-ring-pages").is_some() {
            (wanted(store, "num-ring-pages")?, true)
        } else {
            (1, false)
        };
        let largest = if self.options.ring_keys == RingKeys::None { 1 } else { 1 << self.options.max_ring_page_order };
        if !pages.is_power_of_two() || pages > largest {
            return Err(format!("a ring of {pages} pages, at most {largest} were offered"));
        }
        let mut references = Vec::new();
        for i in 0..pages {
            let name = if numbered { format!("ring-ref{i}") } else { "ring-ref".to_owned() };
            references.push(wanted(store, &name)?);
        }
        let port = wanted(store, "event-channel")?;
        let persistent = self.options.persistent && key(store, "feature-persistent").is_some_and(|v| v == "1");
        self.stats.ring_pages = references.len();
        self.references.extend(&references);
        self.ring = Some(Ring::connect(hv, references, port, persistent)?);

        if self.options.server == Server::Blkback {
            let keys = [self.feature_keys(), self.medium_keys()].concat();
            self.write_keys(store, hv, &back, keys);
        }
        self.stats.connects += 1;
        self.journal.push(JournalEntry::Connected);
        Ok(())
    }

    /// Takes the ring down; with `drain`, what is in flight is done and answered first.
    fn drop_ring(&mut self, hv: &mut Hypervisor, drain: bool) {
        let (mut ctx, ring) = self.context(hv);
        let Some(mut ring) = ring.take() else { return };
        if drain {
            ring.drain(&mut ctx);
        }
        let kept = ring.disconnect(ctx.hv, ctx.stats);
        self.kept.extend(kept);
    }

    /// `xl block-detach`: asks, and removes the directories when the backend is closed.
    pub(crate) fn detach(&mut self, store: &mut Store) {
        if self.state.is_none() {
            return;
        }
        self.detaching = true;
        store.write(&format!("{}/online", self.backend_path()), "0");
        self.switch(store, state::CLOSING);
    }

    /// The toolstack removes everything, whatever the frontend does (`xl block-detach --force`).
    pub(crate) fn remove(&mut self, hv: &mut Hypervisor, store: &mut Store) {
        self.drop_ring(hv, false);
        let (front, back, token) = (self.frontend_path(), self.backend_path(), self.token());
        store.unwatch(&format!("{front}/state"), &token);
        store.remove_with_empty_parents(&back);
        store.remove_with_empty_parents(&front);
        self.state = None;
        self.attached = false;
        self.detaching = false;
    }

    /// The backend and its directory are gone; the frontend's directory stays.
    pub(crate) fn vanish(&mut self, hv: &mut Hypervisor, store: &mut Store) {
        self.drop_ring(hv, false);
        let (front, back, token) = (self.frontend_path(), self.backend_path(), self.token());
        store.unwatch(&format!("{front}/state"), &token);
        store.remove_with_empty_parents(&back);
        self.state = None;
    }

    /// The backend starts anew. Orderly: it closes and waits for the frontend to close and connect again. Abrupt: its
    /// ring is gone at once, requests in flight with it, and it waits for a new one. One that is closed offers itself.
    pub(crate) fn restart(&mut self, hv: &mut Hypervisor, store: &mut Store, abrupt: bool) {
        self.release_kept(hv);
        match self.state {
            None => self.create(self.domid, store),
            Some(_) if abrupt => {
                self.drop_ring(hv, false);
                self.switch(store, state::CLOSED);
                self.probe = true;
            }
            Some(state::CONNECTED) => self.switch(store, state::CLOSING),
            // Closed with nobody who opens it: it offers itself.
            Some(state::CLOSED) => self.switch(store, state::INIT_WAIT),
            // It is on its way already; what it said last is what the frontend acts upon.
            Some(_) => {}
        }
    }

    /// The disk has another size from now on. The frontend is told at its next request: Linux's blkback looks only then.
    pub(crate) fn resize(&mut self, sectors: u64) -> std::io::Result<()> {
        self.backing.resize(sectors)
    }

    /// `xen_vbd_resize`: tells the frontend of another size.
    fn tell_size(&mut self, store: &mut Store) {
        let sectors = self.backing.sectors();
        if let Some(now_in) = self.state
            && sectors != self.sectors_told
        {
            self.sectors_told = sectors;
            let back = self.backend_path();
            store.write(&format!("{back}/sectors"), sectors.to_string());
            store.write(&format!("{back}/state"), now_in.to_string());
        }
    }

    /// First half of a save: the old domain's ring is cut off. Returns how many requests were in flight.
    pub(crate) fn save(&mut self, hv: &mut Hypervisor, store: &mut Store) -> usize {
        let in_flight = self.in_flight();
        let (mut ctx, ring) = self.context(hv);
        if let Some(mut ring) = ring.take() {
            ring.cut_off(&mut ctx);
            let kept = ring.disconnect(ctx.hv, ctx.stats);
            self.kept.extend(kept);
        }
        self.release_kept(hv);
        let (front, back, token) = (self.frontend_path(), self.backend_path(), self.token());
        store.unwatch(&format!("{front}/state"), &token);
        store.remove_with_empty_parents(&back);
        self.state = None;
        self.frontend_changed = false;
        self.journal.push(JournalEntry::Suspended);
        in_flight
    }

    /// Second half: fresh directories for the new domain.
    pub(crate) fn restore(&mut self, domid: u16, store: &mut Store) {
        if self.attached {
            self.create(domid, store);
        }
    }
}

/// The device's name in a Linux guest: `xvda` for 51712.
fn device_name(vdev: u32) -> String {
    match vdev {
        51712..=51967 => {
            let (disk, partition) = ((vdev - 51712) / 16, (vdev - 51712) % 16);
            let letter = char::from(b'a' + disk as u8);
            if partition == 0 { format!("xvd{letter}") } else { format!("xvd{letter}{partition}") }
        }
        _ => format!("vd{vdev}"),
    }
}
