//! The whole host as the bench holds it: hypervisor, xenstored, toolstack, backends.

use std::io;

use crate::abi::{errno, hypercall, sched};
use crate::blkback::{Disk, DiskSpec, Hostile, HostilePlan};
use crate::config::Config;
use crate::emulated::Emulated;
use crate::hv::{GrantedRef, Hypervisor, Outcome, PortState};
use crate::layout;
use crate::machine::{Machine, Mfn};
use crate::netback::{Frame, NetHostile, Peer, Vif, VifOptions};
use crate::observe::{Counters, Delivery, Fault, GuestError, GuestErrorKind, TraceEvent, TraceSink};
use crate::platform::PlatformDevice;
use crate::store::{Perm, Store, StoreRing, home};

/// What a suspended guest finds when it runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SuspendPlan {
    /// It was saved and restored: a new domain.
    Restore,
    /// The save was cancelled, or it was only a checkpoint: nothing changed.
    Cancel,
}

/// A Xen host with one HVM guest.
///
/// It has no thread and no clock of its own: the bench calls [`Xen::hypercall`], the ports and [`Xen::step`] from one
/// thread at a time and says what time it is. The same calls with the same seed give the same results.
pub struct Xen {
    hv: Hypervisor,
    store: Store,
    ring: StoreRing,
    disks: Vec<Disk>,
    vifs: Vec<Vif>,
    platform: PlatformDevice,
    emulated: Emulated,
    suspend: Option<SuspendPlan>,
    shutdown: Option<u32>,
}

impl Xen {
    /// Starts a host and creates the guest. The machine has the guest's RAM in place already.
    pub fn new(config: Config, machine: Box<dyn Machine>) -> Self {
        let mut hv = Hypervisor::new(config, machine);
        let mut store = Store::new(hv.domid, hv.cfg.quotas);
        build_home(&hv, &mut store);
        let ring = introduce(&mut hv);
        let line = layout::pci_intx_gsi(layout::PLATFORM_DEVICE, 0);
        let model = hv.cfg.device_model.clone();
        let platform = PlatformDevice::new(hv.cfg.platform_device_id, line as u8, model.unplug);
        let emulated = Emulated::new(model);
        Self { hv, store, ring, disks: Vec::new(), vifs: Vec::new(), platform, emulated, suspend: None, shutdown: None }
    }

    // What the guest does.

    /// A CPUID leaf as the guest sees it: EAX, EBX, ECX, EDX. `None`: the model has no opinion on that leaf.
    pub fn cpuid(&self, vcpu: u32, leaf: u32, sub_leaf: u32) -> Option<[u32; 4]> {
        self.hv.cpuid(vcpu, leaf, sub_leaf)
    }

    /// A hypercall: number in RAX, arguments in RDI, RSI, RDX, R10, R8, pointers as guest virtual addresses.
    ///
    /// A suspend happens within the call: it returns 0 in the restored domain, 1 if it was cancelled and virtual CPU 0
    /// made it. After another
    /// shutdown, [`Xen::shutdown_reason`] tells and no virtual CPU must run again.
    pub fn hypercall(&mut self, vcpu: u32, op: u32, args: [u64; 5]) -> i64 {
        let result = match self.hv.hypercall(vcpu, op, args) {
            Outcome::Done(result) => return result,
            Outcome::Shutdown(sched::SHUTDOWN_SUSPEND) => match self.suspend.take() {
                Some(SuspendPlan::Restore) => {
                    self.save_and_restore();
                    0
                }
                Some(SuspendPlan::Cancel) => {
                    self.hv.counters.suspends_cancelled += 1;
                    self.hv.counters.in_flight_at_suspend += self.in_flight() as u64;
                    self.cancelled_code(vcpu)
                }
                None => {
                    self.shutdown = Some(sched::SHUTDOWN_SUSPEND);
                    0
                }
            },
            Outcome::Shutdown(reason) => {
                self.shutdown = Some(reason);
                0
            }
        };
        let args = [args[0], args[1]];
        self.hv.trace(|| TraceEvent::Hypercall { vcpu, op: hypercall::SCHED_OP, args, result });
        result
    }

    /// Reads an I/O port of the device model. `None`: none of its ports.
    pub fn port_in(&mut self, port: u16, width: u8) -> Option<u32> {
        let gone = self.platform.unplugged();
        self.platform.port_in(port, width).or_else(|| self.emulated.port_in(port, width, gone))
    }

    /// Writes an I/O port of the device model. `false`: none of its ports.
    pub fn port_out(&mut self, port: u16, width: u8, value: u32) -> bool {
        let gone = self.platform.unplugged();
        self.platform.port_out(port, width, value) || self.emulated.port_out(port, width, value, gone)
    }

    /// The PCI functions of bus 0 beside the platform device: device and function.
    pub fn pci_functions(&self) -> Vec<(u8, u8)> {
        self.emulated.functions(self.platform.unplugged())
    }

    /// Reads the configuration space of one of [`Xen::pci_functions`]; ones where there is none.
    pub fn pci_function_read(&self, at: (u8, u8), offset: usize, buf: &mut [u8]) {
        if self.pci_functions().contains(&at) { Emulated::config_read(at, offset, buf) } else { buf.fill(0xff) }
    }

    /// Reads the platform device's PCI configuration space.
    pub fn pci_config_read(&self, offset: usize, buf: &mut [u8]) {
        self.platform.config_read(offset, buf);
    }

    /// Writes the platform device's PCI configuration space.
    pub fn pci_config_write(&mut self, offset: usize, bytes: &[u8]) {
        self.platform.config_write(offset, bytes);
    }

    /// The platform device: BARs, log lines, what was unplugged.
    pub fn platform(&self) -> &PlatformDevice {
        &self.platform
    }

    // Time.

    /// Lets xenstored and the backends do a bounded, seeded amount of work; whether anything was done. `now_ns` is the
    /// bench's time, which must not run backward.
    pub fn step(&mut self, now_ns: u64) -> bool {
        self.hv.now_ns = self.hv.now_ns.max(now_ns);
        if !self.hv.cfg.present || self.shutdown.is_some() {
            return false;
        }
        let mut moved = self.ring.step(&mut self.hv, &mut self.store);
        while let Some(token) = self.store.next_event() {
            if let Some(disk) = self.disks.iter_mut().find(|d| d.token() == token) {
                disk.on_frontend_event();
            }
            for vif in &mut self.vifs {
                if vif.on_watch(&token) {
                    break;
                }
            }
            moved = true;
        }
        let first = self.hv.below(self.disks.len() as u64) as usize;
        for i in 0..self.disks.len() {
            let disk = (first + i) % self.disks.len();
            moved |= self.disks[disk].step(&mut self.hv, &mut self.store);
        }
        for vif in &mut self.vifs {
            moved |= vif.step(&mut self.hv, &mut self.store);
        }
        self.hv.sync_line();
        moved
    }

    /// When the next request in flight may complete or a network peer has something to do, if one waits for its time. A
    /// bench with nothing else to do moves its clock there.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let vifs = self.vifs.iter().filter_map(Vif::deadline);
        self.disks.iter().filter_map(Disk::deadline).chain(vifs).min()
    }

    /// Brings the level-triggered callback line up to date, as Xen does at every entry into the guest. Call it before the
    /// line's level decides about an interrupt, and at the interrupt's EOI.
    pub fn sync_interrupt_line(&mut self) {
        self.hv.sync_line();
    }

    // What the toolstack does.

    /// `xl block-attach`, or a disk of the guest's configuration. An earlier disk of that number is removed first.
    pub fn attach_disk(&mut self, spec: DiskSpec) {
        let vdev = spec.options.vdev;
        if let Some(at) = self.disks.iter().position(|d| d.vdev() == vdev) {
            let mut old = self.disks.remove(at);
            old.remove(&mut self.hv, &mut self.store);
        }
        self.disks.push(Disk::attach(spec, &self.hv, &mut self.store));
    }

    /// `xl block-detach`: asks the frontend to close. [`Disk::is_attached`] says when it is done.
    pub fn detach_disk(&mut self, vdev: u32) {
        if let Some(disk) = self.disks.iter_mut().find(|d| d.vdev() == vdev) {
            disk.detach(&mut self.store);
        }
    }

    /// Removes disk and directories at once, without asking (`--force`).
    pub fn surprise_detach(&mut self, vdev: u32) {
        if let Some(disk) = self.disks.iter_mut().find(|d| d.vdev() == vdev) {
            disk.remove(&mut self.hv, &mut self.store);
        }
    }

    /// The backend and its directory vanish; the frontend's directory stays.
    pub fn destroy_backend(&mut self, vdev: u32) {
        if let Some(disk) = self.disks.iter_mut().find(|d| d.vdev() == vdev) {
            disk.vanish(&mut self.hv, &mut self.store);
        }
    }

    /// The backend starts anew: orderly (Closing, and online stays 1), or `abrupt`, with its ring lost at once. A backend
    /// that vanished comes back with fresh directories.
    pub fn restart_backend(&mut self, vdev: u32, abrupt: bool) {
        if let Some(disk) = self.disks.iter_mut().find(|d| d.vdev() == vdev) {
            disk.restart(&mut self.hv, &mut self.store, abrupt);
        }
    }

    /// Changes a disk's size, in sectors of 512 bytes, while it runs. The frontend is told at its next request.
    ///
    /// # Errors
    /// The backing cannot have that size, or there is no such disk.
    pub fn resize_disk(&mut self, vdev: u32, sectors: u64) -> io::Result<()> {
        let disk = self.disks.iter_mut().find(|d| d.vdev() == vdev);
        disk.ok_or(io::ErrorKind::NotFound)?.resize(sectors)
    }

    /// `xl network-attach`, or a network interface of the guest's configuration. An earlier one of that number is removed
    /// first.
    pub fn attach_vif(&mut self, options: VifOptions, peer: Box<dyn Peer>) {
        if let Some(at) = self.vifs.iter().position(|v| v.index() == options.index) {
            let mut old = self.vifs.remove(at);
            old.remove(&mut self.hv, &mut self.store);
        }
        self.vifs.push(Vif::attach(options, peer, &self.hv, &mut self.store));
    }

    /// `xl network-detach`: asks the frontend to close. [`Vif::is_attached`] says when it is done.
    pub fn detach_vif(&mut self, index: u32) {
        if let Some(vif) = self.vifs.iter_mut().find(|v| v.index() == index) {
            vif.detach(&self.hv, &mut self.store);
        }
    }

    /// The network backend and its directory vanish; the frontend's directory stays.
    pub fn destroy_vif_backend(&mut self, index: u32) {
        if let Some(vif) = self.vifs.iter_mut().find(|v| v.index() == index) {
            vif.vanish(&mut self.hv, &mut self.store);
        }
    }

    /// The network backend closes, and connects again once the frontend does. One that vanished comes back with fresh
    /// directories.
    pub fn restart_vif_backend(&mut self, index: u32) {
        if let Some(vif) = self.vifs.iter_mut().find(|v| v.index() == index) {
            vif.restart(&mut self.store);
        }
    }

    /// Writes the backend's `carrier`.
    pub fn set_vif_carrier(&mut self, index: u32, up: bool) {
        if let Some(vif) = self.vifs.iter_mut().find(|v| v.index() == index) {
            vif.set_carrier(&mut self.store, up);
        }
    }

    /// Puts a frame before the guest as it stands, as if it came from the bridge. `false`: nobody is connected.
    pub fn send_to_vif(&mut self, index: u32, frame: Frame) -> bool {
        let vif = self.vifs.iter_mut().find(|v| v.index() == index);
        vif.is_some_and(|vif| vif.send_to_guest(&mut self.hv, frame))
    }

    /// Asks the guest to suspend (`xl save`). With `cancel` the save is given up after the guest suspended.
    pub fn suspend(&mut self, cancel: bool) {
        self.suspend = Some(if cancel { SuspendPlan::Cancel } else { SuspendPlan::Restore });
        self.request_power("suspend");
    }

    /// Whether a suspend was asked for and has not happened yet.
    pub fn suspend_pending(&self) -> bool {
        self.suspend.is_some()
    }

    /// Writes `control/shutdown`: `poweroff`, `reboot`, `halt`, `suspend`.
    pub fn request_power(&mut self, what: &str) {
        let path = format!("{}/control/shutdown", home(self.hv.domid));
        self.store.write(&path, what);
    }

    /// Whether the guest acknowledged the last request, by emptying `control/shutdown`.
    pub fn power_request_acknowledged(&mut self) -> bool {
        let path = format!("{}/control/shutdown", home(self.hv.domid));
        self.store.read(&path).is_none_or(|v| v.is_empty())
    }

    /// The reason (`SHUTDOWN_*`) for which the guest stopped for good: 0 power-off, 1 reboot, 2 a suspend that nobody
    /// asked for, 3 crash.
    pub fn shutdown_reason(&self) -> Option<u32> {
        self.shutdown
    }

    /// What a cancelled suspend returns. `xc_domain_resume` sets RAX of virtual CPU 0, whoever made the hypercall: on
    /// another one the guest sees Xen's own 0, takes itself for restored, and virtual CPU 0 has lost a register.
    fn cancelled_code(&mut self, vcpu: u32) -> i64 {
        if vcpu == 0 {
            return 1;
        }
        let detail = format!("virtual CPU {vcpu} made the hypercall of a suspend that was cancelled");
        self.hv.guest_error(GuestErrorKind::SuspendOnWrongCpu, detail);
        0
    }

    fn in_flight(&self) -> usize {
        self.disks.iter().map(Disk::in_flight).sum()
    }

    fn save_and_restore(&mut self) {
        self.hv.counters.suspends += 1;
        for disk in &mut self.disks {
            self.hv.counters.in_flight_at_suspend += disk.save(&mut self.hv, &mut self.store) as u64;
        }
        for vif in &mut self.vifs {
            vif.save(&mut self.hv, &mut self.store);
        }
        let old = home(self.hv.domid);
        self.store.remove(&old);
        self.hv.restore_into_new_domain();
        self.platform.replug();
        self.store.reset_guest(self.hv.domid);
        build_home(&self.hv, &mut self.store);
        self.ring = introduce(&mut self.hv);
        for disk in &mut self.disks {
            disk.restore(self.hv.domid, &mut self.store);
        }
        for vif in &mut self.vifs {
            vif.restore(self.hv.domid, &mut self.store);
        }
    }

    // What a suite looks at, and how it interferes.

    /// The frames that the guest shares with Xen, xenstored or a backend for as long as both run: whatever is there may
    /// be read and written by the other side between any two accesses of the guest. Pages granted for one request's
    /// data are not among them.
    pub fn shared_frames(&self) -> Vec<Mfn> {
        let disks = self.disks.iter().flat_map(Disk::ring_frames).copied();
        let vifs = self.vifs.iter().flat_map(Vif::ring_frames);
        self.hv.shared_frames().chain(disks).chain(vifs).collect()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.hv.cfg
    }

    /// The guest's domain id at the moment.
    pub fn domid(&self) -> u16 {
        self.hv.domid
    }

    /// A disk by its device number.
    pub fn disk(&self, vdev: u32) -> Option<&Disk> {
        self.disks.iter().find(|d| d.vdev() == vdev)
    }

    /// A disk by its device number.
    pub fn disk_mut(&mut self, vdev: u32) -> Option<&mut Disk> {
        self.disks.iter_mut().find(|d| d.vdev() == vdev)
    }

    /// All disks.
    pub fn disks(&self) -> &[Disk] {
        &self.disks
    }

    /// A network interface by its number.
    pub fn vif(&self, index: u32) -> Option<&Vif> {
        self.vifs.iter().find(|v| v.index() == index)
    }

    /// A network interface by its number.
    pub fn vif_mut(&mut self, index: u32) -> Option<&mut Vif> {
        self.vifs.iter_mut().find(|v| v.index() == index)
    }

    /// All network interfaces.
    pub fn vifs(&self) -> &[Vif] {
        &self.vifs
    }

    /// xenstored, as a process of dom0 talks to it.
    pub fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.hv.counters
    }

    /// From now on, notes which pages netback puts frames into, until [`Xen::take_deliveries`] has them; or no more.
    pub fn note_deliveries(&mut self, note: bool) {
        self.hv.note_deliveries(note);
    }

    /// What was noted since the last call, in order.
    pub fn take_deliveries(&mut self) -> Vec<Delivery> {
        self.hv.take_deliveries()
    }

    /// What the guest did wrong so far.
    pub fn guest_errors(&self) -> &[GuestError] {
        self.hv.errors()
    }

    /// Takes the record of what the guest did wrong.
    pub fn take_guest_errors(&mut self) -> Vec<GuestError> {
        self.hv.take_errors()
    }

    /// Makes the backend of a disk misbehave.
    ///
    /// # Errors
    /// There is no such disk.
    pub fn inject_hostile(&mut self, vdev: u32, plan: HostilePlan) -> io::Result<()> {
        self.disk_mut(vdev).ok_or(io::ErrorKind::NotFound)?.inject(plan);
        Ok(())
    }

    /// As [`Xen::inject_hostile`], once, at a moment that the seed picks among the next `occasions`.
    ///
    /// # Errors
    /// There is no such disk.
    pub fn inject_hostile_within(&mut self, vdev: u32, kind: Hostile, occasions: u32) -> io::Result<()> {
        let after = self.hv.below(u64::from(occasions)) as u32;
        self.inject_hostile(vdev, HostilePlan { kind, after, times: 1 })
    }

    /// Drops the plans for a disk and gives back the grants that a hostile backend kept mapped.
    pub fn clear_hostile(&mut self, vdev: u32) {
        if let Some(disk) = self.disks.iter_mut().find(|d| d.vdev() == vdev) {
            disk.clear_hostile(&mut self.hv);
        }
    }

    /// Makes the backend of a network interface misbehave.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn inject_net_hostile(&mut self, index: u32, plan: HostilePlan<NetHostile>) -> io::Result<()> {
        self.vif_mut(index).ok_or(io::ErrorKind::NotFound)?.inject(plan);
        Ok(())
    }

    /// Drops the plans for a network interface and gives back the grants that a hostile backend kept mapped.
    pub fn clear_net_hostile(&mut self, index: u32) {
        if let Some(vif) = self.vifs.iter_mut().find(|v| v.index() == index) {
            vif.clear_hostile(&mut self.hv);
        }
    }

    /// Makes one later hypercall fail.
    pub fn fail_hypercall(&mut self, fault: Fault) {
        self.hv.add_fault(fault);
    }

    /// Makes the `n`-th (from 0) call of hypercall `op` from now on fail with `-ENOMEM`.
    pub fn fail_nth_hypercall(&mut self, op: u32, n: u64) {
        self.fail_hypercall(Fault { op: Some(op), sub: None, after: n, errno: errno::ENOMEM, lasting: false });
    }

    /// Drops the faults that have not fired.
    pub fn clear_faults(&mut self) {
        self.hv.clear_faults();
    }

    /// Sends trace events to `sink` from now on; `None` ends that.
    pub fn set_trace(&mut self, sink: Option<TraceSink>) {
        self.hv.set_sink(sink);
    }

    /// What an event channel port of the guest's is used for.
    pub fn port_state(&self, port: u32) -> PortState {
        self.hv.port_state(port)
    }

    /// Event channel ports that the guest has in use.
    pub fn open_ports(&self) -> usize {
        self.hv.open_ports()
    }

    /// The grant references that permit access now.
    pub fn granted(&self) -> Vec<GrantedRef> {
        self.hv.granted()
    }

    /// References that backends have mapped now.
    pub fn mapped_grants(&self) -> usize {
        self.hv.mapped_grants()
    }

    /// An HVM parameter as the toolstack reads it; libxl takes a zero `HVM_PARAM_CALLBACK_IRQ` for "no PV drivers".
    pub fn hvm_param(&self, index: u32) -> u64 {
        self.hv.param(index)
    }

    /// Raises a virtual interrupt (`VIRQ_*`). `false`: the guest has not bound it there.
    pub fn raise_virq(&mut self, vcpu: u32, virq: u32) -> bool {
        self.hv.raise_virq(vcpu, virq)
    }
}

/// Tells xenconsoled and xenstored of the domain.
fn introduce(hv: &mut Hypervisor) -> StoreRing {
    let console = hv.param(crate::abi::hvm::PARAM_CONSOLE_EVTCHN) as u32;
    hv.dom0_bind(console).expect("the console's channel waits for xenconsoled");
    let port = hv.param(crate::abi::hvm::PARAM_STORE_EVTCHN) as u32;
    StoreRing::introduce(hv, port)
}

/// The guest's UUID.
const VM_UUID: &str = "8d2b6f0e-4c1a-4f53-9b0e-5a1f3c7d9e21";

/// The guest's home directory as libxl lays it out.
fn build_home(hv: &Hypervisor, store: &mut Store) {
    let (id, path) = (hv.domid, home(hv.domid));
    let read_only = [Perm::none(0), Perm::read(id)];
    let own = [Perm::none(id)];
    store.set_perms("/local/domain/0", &[Perm::none(0)]);
    store.write("/local/domain/0/domid", "0");
    store.set_perms(&path, &read_only);
    for key in ["cpu", "memory", "device", "control", "store", "console"] {
        store.set_perms(&format!("{path}/{key}"), &read_only);
    }
    for key in [
        "control/shutdown",
        "control/feature-poweroff",
        "control/feature-reboot",
        "control/feature-suspend",
        "control/sysrq",
        "data",
        "drivers",
        "feature",
        "attr",
        "error",
    ] {
        store.set_perms(&format!("{path}/{key}"), &own);
    }
    // libxl: the UUID outlives the domain id, so a restored guest finds the same.
    store.write(&format!("{path}/vm"), format!("/vm/{VM_UUID}"));
    store.write(&format!("/vm/{VM_UUID}/uuid"), VM_UUID);
    store.write(&format!("/vm/{VM_UUID}/name"), "guest");
    store.write(&format!("{path}/name"), "guest");
    store.write(&format!("{path}/domid"), id.to_string());
    store.write(&format!("{path}/control/platform-feature-xs_reset_watches"), "1");
    store.write(&format!("{path}/control/platform-feature-multiprocessor-suspend"), "1");
    store.write(&format!("{path}/memory/target"), (hv.cfg.ram_pages * 4).to_string());
    store.write(&format!("{path}/store/ring-ref"), layout::STORE_GFN.to_string());
    for vcpu in 0..hv.cfg.vcpus {
        store.write(&format!("{path}/cpu/{vcpu}/availability"), "online");
    }
    // Where a guest may ask for an event channel instead of a watch to be suspended by: no device, though it stands there.
    store.set_perms(&format!("{path}/device/suspend/event-channel"), &own);
    // Every HVM guest of xl has a keyboard whose backend, QEMU, waits for a frontend.
    let (front, back) = (format!("{path}/device/vkbd/0"), format!("/local/domain/0/backend/vkbd/{id}/0"));
    store.set_perms(&back, &[Perm::none(0), Perm::read(id)]);
    store.set_perms(&front, &[Perm::none(id), Perm::read(0)]);
    for (key, value) in [("backend", back.as_str()), ("backend-id", "0"), ("state", "1")] {
        store.write(&format!("{front}/{key}"), value);
    }
    let number = id.to_string();
    for (key, value) in [
        ("frontend", front.as_str()),
        ("frontend-id", &number),
        ("online", "1"),
        ("feature-abs-pointer", "1"),
        ("feature-raw-pointer", "1"),
        ("hotplug-status", "connected"),
        ("state", "2"),
    ] {
        store.write(&format!("{back}/{key}"), value);
    }
}
