//! Event channels: [`crate::core::event`] behind interrupts and DPCs.
//!
//! An upcall's service routine only takes the pending byte and queues the DPC of its processor. The DPC takes the ready
//! ports off Xen's structures (each is masked then), puts their channels on the processor's run list and runs a bounded
//! number of them. A channel is unmasked when its callback is done, later if there was nothing to do again and again.
//!
//! [`wiring`]: interrupts. [`delivery`]: from an upcall to the callbacks. [`channel`]: channels and their ports.
//! [`suspend`]: a new domain. [`cpu`]: a processor's side.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use wdm::{
    cpu as processors,
    dpc::Dpc,
    event::Mutex,
    memory::{Shared, try_push, try_vec},
    spinlock::SpinLock,
    status::{Result, Status},
    timer::Timer,
    warning,
};
use xen_abi::hvm::PARAM_CALLBACK_IRQ;

use super::{
    Settings,
    hypercall::Gate,
    shared::{FrameSource, RamPage},
};
use crate::core::{
    event::{Fifo, TwoLevel},
    hypercall::{event_reset, set_param},
    ports::PortTable,
};

mod channel;
mod cpu;
mod delivery;
mod suspend;
mod wiring;

pub(crate) use channel::Channel;
use cpu::{Cpu, SharedInfo, start_fifo};
use wiring::{Delivery, Wiring};

/// The domain's event channels.
pub(crate) struct Events {
    gate: Gate,
    shared_info: SharedInfo,
    two_level: TwoLevel,
    fifo: Option<Fifo>,
    cpus: Vec<Cpu>,
    /// One DPC a processor; filled by [`Events::connect`], before the first upcall.
    dpcs: SpinLock<Vec<Shared<Dpc>>>,
    table: SpinLock<PortTable<Shared<Channel>>>,
    /// FIFO event words, in their order. Held while the array grows.
    array: Mutex<Vec<RamPage>>,
    wiring: Mutex<Wiring>,
    timer: SpinLock<Option<Shared<Timer>>>,
    /// When the timer expires, in microseconds of [`time::monotonic`]; 0: it is not set.
    timer_due: AtomicU64,
    /// Between freezing and resuming: no DPC touches anything.
    frozen: AtomicBool,
    /// Migrations so far.
    generation: AtomicU32,
    /// Whose turn it is to be given a channel.
    next_cpu: AtomicUsize,
    /// Shared info is not where it was, or Xen does not know where events go: nothing is touched any more. For good,
    /// since only another migration could mend it, and none can be done without events.
    broken: Shared<AtomicBool>,
}

impl Events {
    /// Maps shared info and chooses the layout. No upcall comes before [`Events::connect`]. `vcpus` has Xen's number of
    /// each processor by Windows' index.
    pub(crate) fn start(gate: Gate, source: &FrameSource, vcpus: &[u32]) -> Result<Shared<Self>> {
        // An earlier instance of the driver may have left channels and control blocks behind.
        event_reset(&gate).map_err(|error| {
            wdm::error!("EVTCHNOP_reset: {error}");
            Status::NOT_SUPPORTED
        })?;
        let shared_info = SharedInfo::new(gate, source)?;
        let two_level = TwoLevel::new(shared_info.region()?);
        two_level.mask_all();
        let mut cpus = try_vec(vcpus.len())?;
        for (index, &vcpu) in vcpus.iter().enumerate() {
            // There: a running vCPU registers its `vcpu_info` itself.
            let made = processors::run_on(index as u32, || Cpu::new(gate, &shared_info, vcpu))?;
            try_push(&mut cpus, made?)?;
        }
        let array = Mutex::new(Vec::new())?;
        let wiring =
            Mutex::new(Wiring { delivery: Delivery::None, interrupts: Vec::new(), vectors: Vec::new(), callback: 0 })?;
        // From here on Xen may have the control blocks: they go back through the Drop of what follows.
        let fifo = Settings::fifo() && start_fifo(gate, &mut cpus)?;
        if !fifo {
            for cpu in &mut cpus {
                cpu.queues = None;
            }
        }
        let events = Shared::new(Self {
            gate,
            shared_info,
            two_level,
            fifo: fifo.then(Fifo::new),
            cpus,
            dpcs: SpinLock::new(Vec::new()),
            table: SpinLock::new(PortTable::new()),
            array,
            wiring,
            timer: SpinLock::new(None),
            timer_due: AtomicU64::new(0),
            frozen: AtomicBool::new(false),
            generation: AtomicU32::new(0),
            next_cpu: AtomicUsize::new(0),
            broken: Shared::new(AtomicBool::new(false))?,
        })?;
        let mut dpcs = try_vec(vcpus.len())?;
        for index in 0..vcpus.len() {
            let this = events.clone();
            let dpc = Dpc::on_processor(processors::processor(index as u32)?, move || this.run(index))?;
            dpcs.push(Shared::new(dpc)?);
        }
        let this = events.clone();
        let timer = Shared::new(Timer::new(move || this.unmask_due())?)?;
        // Last: now they refer to each other, until `stop`.
        *events.dpcs.lock() = dpcs;
        *events.timer.lock() = Some(timer);
        wdm::info!("event channels: {}, {} processors", if fifo { "FIFO" } else { "2-level" }, vcpus.len());
        Ok(events)
    }

    /// Whether events are gone for good. Any IRQL.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Migrations so far: to be read before a port is made or looked up, for [`Events::adopt`]. Any IRQL.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Processors that can take upcalls. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn processors(&self) -> u16 {
        self.cpus.len() as u16
    }

    /// Takes the interrupts and every channel away, and breaks the circle of DPCs and their owner. PASSIVE_LEVEL.
    pub(crate) fn stop(&self) {
        self.disconnect();
        // The toolstack is told that there are no PV drivers any more.
        if let Err(error) = set_param(&self.gate, PARAM_CALLBACK_IRQ, 0) {
            warning!("HVM_PARAM_CALLBACK_IRQ: {error}");
        }
        self.frozen.store(true, Ordering::SeqCst);
        let timer = self.timer.lock().take();
        drop(timer);
        let dpcs = core::mem::take(&mut *self.dpcs.lock());
        drop(dpcs);
        self.forget_older(self.generation().wrapping_add(1));
        for cpu in &self.cpus {
            let left = core::mem::take(&mut *cpu.run.lock());
            drop(left);
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Xen lets go of control blocks and event words by a reset, and of shared info when its frame is taken away.
        let reset = event_reset(&self.gate);
        if let Err(error) = reset {
            warning!("EVTCHNOP_reset: {error}; the pages that Xen has are lost");
        }
        let array = core::mem::take(&mut *self.array.lock());
        let pages = array.into_iter().chain(self.cpus.drain(..).flat_map(|cpu| cpu.pages));
        for page in pages {
            if reset.is_err() {
                page.leak();
            }
        }
    }
}
