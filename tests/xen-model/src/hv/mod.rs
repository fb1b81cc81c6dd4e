//! The hypervisor: one HVM domain, its hypercalls, and what dom0 may do with it.

mod event;
mod fifo;
mod grant;
mod hvm;
mod memory;
mod misc;

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

pub use event::PortState;
pub use grant::{GrantError, GrantedRef};

use crate::abi::{errno, hvm as hvm_abi, hypercall};
use crate::config::Config;
use crate::layout;
use crate::machine::{Gfn, Machine, Mem, Mfn, PAGE_SIZE};
use crate::observe::{Counters, Delivery, Fault, GuestError, GuestErrorKind, TraceEvent, TraceSink};

/// What a hypercall comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It returns this.
    Done(i64),
    /// `SCHEDOP_shutdown` with this reason: the toolstack decides what follows.
    Shutdown(u32),
}

/// A hypercall's own result: a value, or a negated error number.
pub(crate) type Result<T> = core::result::Result<T, i64>;

/// One virtual CPU as far as events go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vcpu {
    /// Where its `vcpu_info` is, if `VCPUOP_register_vcpu_info` moved it.
    info: Option<(Mfn, usize)>,
    /// Its upcall vector; 0: none.
    upcall_vector: u8,
    /// Port by virtual IRQ.
    virqs: BTreeMap<u32, u32>,
}

/// The modelled hypervisor with its one guest.
pub(crate) struct Hypervisor {
    pub(crate) cfg: Config,
    machine: Box<dyn Machine>,
    pub(crate) counters: Counters,
    errors: Vec<GuestError>,
    /// What netback delivered, where that is noted.
    deliveries: Option<Vec<Delivery>>,
    sink: Option<TraceSink>,
    faults: Vec<Fault>,
    pub(crate) rng: Pcg64,
    /// The guest's domain id.
    pub(crate) domid: u16,
    pub(crate) now_ns: u64,
    vcpus: Vec<Vcpu>,
    shared_info: Mfn,
    /// Frames that belong to Xen (shared info, grant table) and where the guest sees them.
    xen_frames: BTreeMap<Mfn, Option<Gfn>>,
    /// Frames that something besides the physical map uses: grant maps and FIFO pages.
    pins: BTreeMap<Mfn, u32>,
    /// Pinned frames that the guest gave up: freed with the last pin.
    doomed: BTreeSet<Mfn>,
    ports: event::Ports,
    fifo: Option<fifo::Fifo>,
    grants: grant::GrantTable,
    params: [u64; hvm_abi::NR_PARAMS as usize],
    pages: u64,
    /// The interrupt line that is asserted.
    line: Option<u32>,
}

impl Hypervisor {
    pub(crate) fn new(cfg: Config, machine: Box<dyn Machine>) -> Self {
        let mut hv = Self {
            rng: Pcg64::seed_from_u64(cfg.seed),
            domid: cfg.domid,
            now_ns: 0,
            vcpus: vec![Vcpu::default(); cfg.vcpus as usize],
            shared_info: 0,
            xen_frames: BTreeMap::new(),
            pins: BTreeMap::new(),
            doomed: BTreeSet::new(),
            ports: event::Ports::default(),
            fifo: None,
            grants: grant::GrantTable::default(),
            params: [0; hvm_abi::NR_PARAMS as usize],
            pages: cfg.ram_pages,
            line: None,
            counters: Counters::default(),
            errors: Vec::new(),
            deliveries: None,
            sink: None,
            faults: Vec::new(),
            cfg,
            machine,
        };
        for gfn in [layout::STORE_GFN, layout::CONSOLE_GFN] {
            let mfn = hv.machine.alloc_frame().expect("the machine has memory for the special pages");
            hv.machine.set_p2m(gfn, Some(mfn));
        }
        hv.build_domain();
        hv
    }

    /// Gives the domain a fresh shared info page, grant table and parameters, as its builder does.
    fn build_domain(&mut self) {
        self.shared_info = self.new_xen_frame().expect("the machine has memory for the shared info page");
        self.init_clock();
        self.grants = grant::GrantTable::default();
        self.grow_grants(1).expect("the machine has memory for the first grant frame");
        self.seed_grants();
        self.params = [0; hvm_abi::NR_PARAMS as usize];
        self.params[hvm_abi::PARAM_STORE_PFN as usize] = layout::STORE_GFN;
        self.params[hvm_abi::PARAM_CONSOLE_PFN as usize] = layout::CONSOLE_GFN;
        self.params[hvm_abi::PARAM_VIRIDIAN as usize] = u64::from(self.cfg.viridian);
        self.params[hvm_abi::PARAM_PAE_ENABLED as usize] = 1;
        let store = self.alloc_port_for_dom0();
        let console = self.alloc_port_for_dom0();
        self.alloc_device_model_ports();
        self.params[hvm_abi::PARAM_STORE_EVTCHN as usize] = u64::from(store);
        self.params[hvm_abi::PARAM_CONSOLE_EVTCHN as usize] = u64::from(console);
    }

    /// Moves the guest into a new domain, as save and restore do: what Xen kept for the old one is gone. Where the guest
    /// saw a frame of Xen's there is nothing: `XEN_DOMCTL_getpageframeinfo3` calls such a frame XTAB, so the save leaves
    /// it out, and the restore puts no memory there.
    pub(crate) fn restore_into_new_domain(&mut self) {
        self.release_seeded_grants();
        for (mfn, gfn) in std::mem::take(&mut self.xen_frames) {
            if let Some(gfn) = gfn {
                self.machine.set_p2m(gfn, None);
            }
            self.machine.free_frame(mfn);
        }
        self.drop_fifo();
        self.ports = event::Ports::default();
        for vcpu in 0..self.vcpus.len() {
            if let Some((mfn, _)) = std::mem::take(&mut self.vcpus[vcpu]).info {
                self.unpin(mfn);
            }
        }
        if let Some(gsi) = self.line.take() {
            self.machine.set_intx(gsi, false);
        }
        self.domid += 1;
        self.build_domain();
        // The restore clears the special pages.
        for gfn in [layout::STORE_GFN, layout::CONSOLE_GFN] {
            if let Some(mfn) = self.machine.mfn_of(gfn) {
                self.mem().write(mfn, 0, &[0; PAGE_SIZE]);
            }
        }
    }

    pub(crate) fn mem(&self) -> Mem<'_> {
        Mem(self.machine.as_ref())
    }

    pub(crate) fn machine(&mut self) -> &mut dyn Machine {
        self.machine.as_mut()
    }

    /// A number below `bound` (0 if that is 0).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.rng.random_range(0..bound) }
    }

    pub(crate) fn guest_error(&mut self, kind: GuestErrorKind, detail: String) {
        self.errors.push(GuestError { kind, detail });
    }

    pub(crate) fn note_deliveries(&mut self, note: bool) {
        self.deliveries = note.then(Vec::new);
    }

    pub(crate) fn delivered(&mut self, delivery: Delivery) {
        self.deliveries.as_mut().into_iter().for_each(|noted| noted.push(delivery));
    }

    pub(crate) fn take_deliveries(&mut self) -> Vec<Delivery> {
        self.deliveries.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn errors(&self) -> &[GuestError] {
        &self.errors
    }

    pub(crate) fn take_errors(&mut self) -> Vec<GuestError> {
        std::mem::take(&mut self.errors)
    }

    pub(crate) fn set_sink(&mut self, sink: Option<TraceSink>) {
        self.sink = sink;
    }

    pub(crate) fn trace(&mut self, event: impl FnOnce() -> TraceEvent) {
        if let Some(sink) = &mut self.sink {
            sink(&event());
        }
    }

    pub(crate) fn add_fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(crate) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// Whether this call is one that shall fail; counts it off.
    fn injected(&mut self, op: u32, sub: u64) -> Option<i64> {
        let hit = self.faults.iter_mut().position(|f| {
            if f.op.is_some_and(|o| o != op) || f.sub.is_some_and(|s| s != sub) {
                return false;
            }
            if f.after > 0 {
                f.after -= 1;
                return false;
            }
            true
        })?;
        self.counters.injected_failures += 1;
        let fault = &mut self.faults[hit];
        let errno = fault.errno;
        if fault.lasting {
            (fault.op, fault.sub) = (Some(op), Some(sub));
        } else {
            self.faults.remove(hit);
        }
        Some(errno)
    }

    /// One hypercall of the guest.
    pub(crate) fn hypercall(&mut self, vcpu: u32, op: u32, args: [u64; 5]) -> Outcome {
        if !self.cfg.present {
            self.guest_error(GuestErrorKind::HypercallWithoutXen, format!("hypercall {op} where there is no Xen"));
            return Outcome::Done(errno::ENOSYS);
        }
        // xen_version and memory_op take the sub-operation first like all others; its upper bits carry continuations.
        let sub = if op == hypercall::MEMORY_OP { args[0] & 0x3f } else { args[0] };
        *self.counters.hypercalls.entry((op, sub)).or_default() += 1;
        let outcome = match self.injected(op, sub) {
            Some(errno) => Outcome::Done(errno),
            None => self.dispatch(vcpu, op, sub, args),
        };
        if let Outcome::Done(result) = outcome {
            if result < 0 {
                *self.counters.failed_hypercalls.entry((op, sub)).or_default() += 1;
            }
            self.trace(|| TraceEvent::Hypercall { vcpu, op, args: [args[0], args[1]], result });
        }
        self.sync_line();
        outcome
    }

    fn dispatch(&mut self, vcpu: u32, op: u32, sub: u64, args: [u64; 5]) -> Outcome {
        let result = match op {
            hypercall::MEMORY_OP => self.memory_op(sub, args[1]),
            hypercall::XEN_VERSION => self.xen_version(sub, args[1]),
            hypercall::CONSOLE_IO => Err(errno::EPERM),
            hypercall::GRANT_TABLE_OP => self.grant_table_op(sub, args[1], args[2] as u32),
            hypercall::VCPU_OP => self.vcpu_op(vcpu, sub, args[1], args[2]),
            hypercall::SCHED_OP => match self.sched_op(sub, args[1]) {
                Ok(Some(reason)) => return Outcome::Shutdown(reason),
                Ok(None) => Ok(0),
                Err(errno) => Err(errno),
            },
            hypercall::EVENT_CHANNEL_OP => self.event_channel_op(sub, args[1]),
            hypercall::HVM_OP => self.hvm_op(sub, args[1]),
            _ => Err(errno::ENOSYS),
        };
        Outcome::Done(match result {
            Ok(value) | Err(value) => value,
        })
    }

    /// Reads a hypercall's argument structure.
    pub(crate) fn arg<const N: usize>(&self, va: u64) -> Result<Arg<N>> {
        let mut bytes = [0; N];
        self.mem().copy_from_guest(va, &mut bytes).ok_or(errno::EFAULT)?;
        Ok(Arg(bytes))
    }

    /// Writes a hypercall's argument structure, or a part of it, back.
    pub(crate) fn put(&self, va: u64, bytes: &[u8]) -> Result<()> {
        self.mem().copy_to_guest(va, bytes).ok_or(errno::EFAULT)
    }

    fn check_self(&self, domid: u16) -> Result<()> {
        if domid == crate::abi::DOMID_SELF || domid == self.domid { Ok(()) } else { Err(errno::EPERM) }
    }

    /// Frames that guest and Xen, or guest and xenstored, both write: shared info, grant table, event words, store page.
    pub(crate) fn shared_frames(&self) -> impl Iterator<Item = Mfn> {
        let info = self.vcpus.iter().filter_map(|vcpu| vcpu.info.map(|(mfn, _)| mfn));
        let store = self.machine.mfn_of(layout::STORE_GFN);
        self.xen_frames.keys().copied().chain(self.fifo_frames()).chain(info).chain(store)
    }

    fn new_xen_frame(&mut self) -> Result<Mfn> {
        let mfn = self.machine.alloc_frame().ok_or(errno::ENOMEM)?;
        self.xen_frames.insert(mfn, None);
        Ok(mfn)
    }

    pub(crate) fn pin(&mut self, mfn: Mfn) {
        *self.pins.entry(mfn).or_default() += 1;
    }

    pub(crate) fn unpin(&mut self, mfn: Mfn) {
        let Some(n) = self.pins.get_mut(&mfn) else { return };
        *n -= 1;
        if *n == 0 {
            self.pins.remove(&mfn);
            if self.doomed.remove(&mfn) {
                self.machine.free_frame(mfn);
            }
        }
    }

    /// Takes what is at `gfn` out of the physical map. RAM goes back to the machine, a frame of Xen's stays Xen's.
    fn remove_page(&mut self, gfn: Gfn) -> bool {
        let Some(mfn) = self.machine.mfn_of(gfn) else { return false };
        self.machine.set_p2m(gfn, None);
        if let Some(seen_at) = self.xen_frames.get_mut(&mfn) {
            *seen_at = None;
            return true;
        }
        self.pages = self.pages.saturating_sub(1);
        if self.pins.contains_key(&mfn) {
            if self.grants.is_mapped(mfn) {
                self.guest_error(
                    GuestErrorKind::FreedWhileGranted,
                    format!("gfn {gfn:#x} given up while a backend has it mapped"),
                );
            }
            self.doomed.insert(mfn);
        } else {
            self.machine.free_frame(mfn);
        }
        true
    }
}

/// The bytes of an argument structure, read by offset.
pub(crate) struct Arg<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> Arg<N> {
    pub(crate) fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }
}
