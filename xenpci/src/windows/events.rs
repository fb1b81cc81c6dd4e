//! Event channels: [`crate::core::event`] behind interrupts and DPCs.
//!
//! An upcall's service routine only takes the pending byte and queues the DPC of its processor. The DPC takes the ready
//! ports off Xen's structures (each is masked then), puts their channels on the processor's run list and runs a bounded
//! number of them. A channel is unmasked when its callback is done, later if there was nothing to do again and again.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use wdm::{
    cpu,
    device::DeviceObject,
    dpc::{self, Dpc},
    event::{Mutex, MutexGuard},
    interrupt::Interrupt,
    memory::{Shared, try_box, try_push, try_vec},
    resource::InterruptResource,
    spinlock::SpinLock,
    status::{Result, Status},
    time,
    timer::Timer,
    warning,
};
use xen_abi::{
    DomId,
    event::{
        Port,
        fifo::{MASKED, WORDS_PER_PAGE},
    },
    hvm::{PARAM_CALLBACK_IRQ, callback_gsi, callback_vector},
    memory::SPACE_SHARED_INFO,
    shared::SharedRegion,
    shared_info::{VCPU_INFO_SIZE, vcpu_info_offset},
};
use xenbus::interface::EventOutcome;

use super::{
    Settings,
    hypercall::Gate,
    shared::{Frame, FrameSource, RamPage},
};
use crate::core::{
    event::{Fifo, FifoQueues, Throttle, TwoLevel, Unmask, take_upcall},
    hypercall::{
        event_alloc_unbound, event_bind_vcpu, event_close, event_expand_array, event_init_control, event_reset,
        event_send, event_unmask, insist, register_vcpu_info, set_param, set_upcall_vector,
    },
    ports::{PortError, PortTable},
};

/// Callbacks that one DPC runs at most before it queues itself again.
const BUDGET: usize = 64;

/// What a channel runs, at DISPATCH_LEVEL.
type Handler = Box<dyn Fn() -> EventOutcome + Send + Sync>;

/// An open event channel.
pub(crate) struct Channel {
    port: AtomicU32,
    /// Migrations before the port was made.
    generation: AtomicU32,
    /// Index of the processor that its upcalls come to.
    cpu: AtomicU32,
    handler: Handler,
    throttle: SpinLock<Throttle>,
    /// On a run list.
    queued: AtomicBool,
    /// Its callback runs now.
    running: AtomicBool,
    /// It was asked for while it ran.
    again: AtomicBool,
    /// When to unmask it, in microseconds of [`time::monotonic`]; 0: not waiting.
    unmask_at: AtomicU64,
    /// No callback any more.
    closed: AtomicBool,
    /// The domain that the port belonged to is gone.
    void: AtomicBool,
}

impl Channel {
    /// A channel without a port.
    fn create<F>(cpu: usize, handler: F) -> Result<Shared<Self>>
    where
        F: Fn() -> EventOutcome + Send + Sync + 'static,
    {
        Shared::new(Self {
            port: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            cpu: AtomicU32::new(cpu as u32),
            handler: try_box(handler)?,
            throttle: SpinLock::new(Throttle::new()),
            queued: AtomicBool::new(false),
            running: AtomicBool::new(false),
            again: AtomicBool::new(false),
            unmask_at: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            void: AtomicBool::new(false),
        })
    }

    /// The port; 0 once it is void. Any IRQL.
    pub(crate) fn port(&self) -> Port {
        if self.void.load(Ordering::Acquire) { 0 } else { self.port.load(Ordering::Relaxed) }
    }
}

/// A processor's side.
struct Cpu {
    vcpu: u32,
    vcpu_info: SharedRegion,
    queues: Option<SpinLock<FifoQueues>>,
    /// The queues are a new domain's: what was next in the old one is forgotten before the next scan.
    restart: AtomicBool,
    /// FIFO: the control block. vCPUs from 32 on: their `vcpu_info`, too.
    pages: Vec<RamPage>,
    run: SpinLock<VecDeque<Shared<Channel>>>,
    /// Where the next 2-level scan begins.
    start: AtomicU32,
}

/// How upcalls come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// Not connected.
    None,
    /// One vector a processor.
    Vectors,
    /// The device's interrupt line, for vCPU 0 alone.
    Line,
}

/// What only starts, stops and resumes change.
struct Wiring {
    delivery: Delivery,
    interrupts: Vec<Interrupt>,
    /// Vector by processor index, for resuming.
    vectors: Vec<u8>,
    /// `HVM_PARAM_CALLBACK_IRQ`.
    callback: u64,
}

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

/// Shared info in its frame, given back when it is dropped.
struct SharedInfo {
    gate: Gate,
    frame: Option<Frame>,
}

impl SharedInfo {
    fn new(gate: Gate, source: &FrameSource) -> Result<Self> {
        let this = Self { gate, frame: Some(source.hole(gate)?) };
        this.map()?;
        Ok(this)
    }

    /// Has Xen put the page in its place. IRQL <= IPI_LEVEL.
    fn map(&self) -> Result {
        self.frame.as_ref().ok_or(Status::DEVICE_NOT_READY)?.fill(self.gate, SPACE_SHARED_INFO, 0).map_err(|error| {
            wdm::error!("shared info cannot be mapped: {error}");
            Status::INSUFFICIENT_RESOURCES
        })
    }

    fn region(&self) -> Result<SharedRegion> {
        Ok(self.frame.as_ref().ok_or(Status::DEVICE_NOT_READY)?.region())
    }
}

impl Drop for SharedInfo {
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            frame.restore(self.gate);
        }
    }
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
            let made = cpu::run_on(index as u32, || Cpu::new(gate, &shared_info, vcpu))?;
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
            let dpc = Dpc::on_processor(cpu::processor(index as u32)?, move || this.run(index))?;
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

    /// Connects the interrupts that the device was given: a vector a processor if there are enough, else the line.
    pub(crate) fn connect(&self, pdo: DeviceObject, resources: &[InterruptResource]) -> Result {
        let mut wiring = self.wiring.lock();
        let line = resources.iter().find(|resource| !resource.message);
        let vectors = if Settings::vectors() {
            self.connect_vectors(pdo, resources, &mut wiring)
        } else {
            Err(Status::NOT_SUPPORTED)
        };
        match (vectors, line) {
            (Ok(()), _) => wiring.delivery = Delivery::Vectors,
            (Err(status), Some(line)) => {
                wdm::info!("no upcall vectors ({status}): interrupt line {}", line.raw_vector);
                self.connect_line(pdo, line, &mut wiring)?;
                wiring.delivery = Delivery::Line;
                self.gather();
            }
            (Err(status), None) => {
                wdm::error!("neither upcall vectors ({status}) nor an interrupt line");
                return Err(Status::DEVICE_CONFIGURATION_ERROR);
            }
        }
        // Never zero: to the toolstack that means that there are no PV drivers. With vectors nothing comes this way.
        wiring.callback = match (line, wiring.vectors.first()) {
            (Some(line), _) if line.raw_vector != 0 => callback_gsi(line.raw_vector),
            (_, Some(&vector)) => callback_vector(vector),
            _ => return Err(Status::DEVICE_CONFIGURATION_ERROR),
        };
        insist(|| set_param(&self.gate, PARAM_CALLBACK_IRQ, wiring.callback)).map_err(|error| {
            wdm::error!("HVM_PARAM_CALLBACK_IRQ = {:#x}: {error}", wiring.callback);
            Status::NOT_SUPPORTED
        })?;
        wdm::info!("upcalls by {:?}, callback {:#x}", wiring.delivery, wiring.callback);
        self.kick();
        Ok(())
    }

    /// Moves every channel to the processor that the line is for: the device may have had vectors before a stop.
    fn gather(&self) {
        let index = self.line_cpu();
        let table = self.table.lock();
        for (port, channel) in table.iter() {
            if channel.cpu.swap(index as u32, Ordering::Relaxed) != index as u32
                && let Err(error) = event_bind_vcpu(&self.gate, port, self.cpus[index].vcpu)
            {
                warning!("EVTCHNOP_bind_vcpu of port {port}: {error}");
            }
        }
    }

    fn connect_vectors(&self, pdo: DeviceObject, resources: &[InterruptResource], wiring: &mut Wiring) -> Result {
        let mut interrupts = try_vec(self.cpus.len())?;
        let mut vectors = try_vec(self.cpus.len())?;
        for (index, cpu) in self.cpus.iter().enumerate() {
            let processor = cpu::processor(index as u32)?;
            let resource = resources
                .iter()
                .find(|resource| {
                    resource.message && resource.group == processor.group && resource.affinity == processor.mask
                })
                .ok_or(Status::NOT_FOUND)?;
            let vector = u8::try_from(resource.vector).map_err(|_| Status::DEVICE_CONFIGURATION_ERROR)?;
            let (vcpu_info, dpc, broken) = (cpu.vcpu_info, self.dpc(index)?, self.broken.clone());
            let interrupt = Interrupt::connect(pdo, resource, move || {
                if !broken.load(Ordering::Acquire) {
                    take_upcall(&vcpu_info);
                    dpc.queue();
                }
                true
            })?;
            interrupts.push(interrupt);
            vectors.push(vector);
        }
        // vCPU 0 comes last: Xen takes no vector back, and the line is for a vCPU 0 that has none.
        let line = self.line_cpu();
        let order = (0..self.cpus.len()).filter(|index| *index != line).chain([line]);
        for index in order {
            let (cpu, vector) = (&self.cpus[index], vectors[index]);
            if let Err(error) = insist(|| set_upcall_vector(&self.gate, cpu.vcpu, vector)) {
                wdm::info!("no upcall vector for vCPU {}: {error}", cpu.vcpu);
                self.clear_vectors();
                return Err(Status::NOT_SUPPORTED);
            }
        }
        (wiring.interrupts, wiring.vectors) = (interrupts, vectors);
        Ok(())
    }

    fn connect_line(&self, pdo: DeviceObject, resource: &InterruptResource, wiring: &mut Wiring) -> Result {
        let index = self.line_cpu();
        let (vcpu_info, dpc, broken) = (self.cpus[index].vcpu_info, self.dpc(index)?, self.broken.clone());
        let interrupt = Interrupt::connect(pdo, resource, move || {
            // The line falls when Xen sees the byte cleared. A line may be shared: the byte says whose it is.
            let ours = !broken.load(Ordering::Acquire) && take_upcall(&vcpu_info);
            if ours {
                dpc.queue();
            }
            ours
        })?;
        wiring.interrupts = try_vec(1)?;
        wiring.interrupts.push(interrupt);
        wiring.vectors = Vec::new();
        Ok(())
    }

    /// Takes the interrupts away. Events stay pending until [`Events::connect`].
    pub(crate) fn disconnect(&self) {
        let mut wiring = self.wiring.lock();
        if wiring.delivery == Delivery::Vectors {
            self.clear_vectors();
        }
        wiring.delivery = Delivery::None;
        wiring.interrupts.clear();
        wiring.vectors.clear();
    }

    fn clear_vectors(&self) {
        for cpu in &self.cpus {
            // An error means that it has no vector.
            let _ = set_upcall_vector(&self.gate, cpu.vcpu, 0);
        }
    }

    /// The index of vCPU 0. It is told of events that no other processor was chosen for, and it makes the hypercall of a
    /// suspend: the toolstack sets the return code of a cancelled one in that vCPU's registers. Any IRQL.
    pub(crate) fn line_cpu(&self) -> usize {
        self.cpus.iter().position(|cpu| cpu.vcpu == 0).unwrap_or_default()
    }

    fn dpc(&self, index: usize) -> Result<Shared<Dpc>> {
        self.dpcs.lock().get(index).cloned().ok_or(Status::DEVICE_NOT_READY)
    }

    /// Queues a processor's DPC. IRQL <= DISPATCH_LEVEL.
    fn queue(&self, index: usize) {
        // Under the lock: the last reference to a DPC may not be dropped here.
        if let Some(dpc) = self.dpcs.lock().get(index) {
            dpc.queue();
        }
    }

    /// Has every processor look for events. IRQL <= DISPATCH_LEVEL.
    fn kick(&self) {
        for index in 0..self.cpus.len() {
            self.queue(index);
        }
    }

    /// A processor's DPC. IRQL = DISPATCH_LEVEL.
    fn run(&self, index: usize) {
        let idle = self.frozen.load(Ordering::Acquire) || self.is_broken();
        let Some(cpu) = self.cpus.get(index).filter(|_| !idle) else { return };
        // What Xen has set since the interrupt is found by this very scan.
        take_upcall(&cpu.vcpu_info);
        if let (Some(fifo), Some(queues)) = (&self.fifo, &cpu.queues) {
            let mut queues = queues.lock();
            if cpu.restart.swap(false, Ordering::AcqRel) {
                queues.restart();
            }
            queues.scan(fifo, |port| self.found(index, port));
        } else {
            let start = cpu.start.fetch_add(1, Ordering::Relaxed);
            self.two_level.scan(&cpu.vcpu_info, start, |port| self.found(index, port));
        }
        for _ in 0..BUDGET {
            let Some(channel) = cpu.run.lock().pop_front() else { return };
            channel.queued.store(false, Ordering::Release);
            self.call(&channel);
        }
        self.queue(index);
    }

    /// A port is ready, and masked now. IRQL = DISPATCH_LEVEL.
    fn found(&self, index: usize, port: Port) {
        let channel = self.table.lock().get(port).cloned();
        match channel {
            Some(channel) => self.enqueue(&channel, index),
            // It stays masked: it was closed just now, or nobody opened it.
            None => wdm::debug!("an event for port {port}, which nobody has"),
        }
    }

    /// Puts a channel on a run list. IRQL <= DISPATCH_LEVEL.
    fn enqueue(&self, channel: &Shared<Channel>, index: usize) {
        let Some(cpu) = self.cpus.get(index) else { return };
        if channel.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut run = cpu.run.lock();
        if run.len() < run.capacity() {
            run.push_back(channel.clone());
        } else {
            // Every open channel has its place on every list, so this is never reached; it must not allocate here.
            channel.queued.store(false, Ordering::Release);
        }
    }

    /// Runs a channel's callback. IRQL = DISPATCH_LEVEL.
    fn call(&self, channel: &Shared<Channel>) {
        if channel.closed.load(Ordering::Acquire) {
            return;
        }
        if channel.running.swap(true, Ordering::AcqRel) {
            channel.again.store(true, Ordering::Release);
            if !channel.running.load(Ordering::Acquire) && channel.again.swap(false, Ordering::AcqRel) {
                self.trigger(channel);
            }
            return;
        }
        let outcome = (channel.handler)();
        channel.running.store(false, Ordering::Release);
        if channel.again.swap(false, Ordering::AcqRel) {
            self.trigger(channel);
        }
        match outcome {
            EventOutcome::Done => {
                channel.throttle.lock().worked();
                self.unmask(channel);
            }
            EventOutcome::Spurious => {
                let delay = channel.throttle.lock().was_spurious();
                if delay == 0 {
                    self.unmask(channel);
                } else {
                    self.unmask_later(channel, delay);
                }
            }
            EventOutcome::More => self.trigger(channel),
        }
    }

    /// Runs a channel's callback soon, as if an event had come. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn trigger(&self, channel: &Shared<Channel>) {
        let index = channel.cpu.load(Ordering::Relaxed) as usize;
        self.enqueue(channel, index);
        self.queue(index);
    }

    /// Sends an event to the other end. Any IRQL.
    pub(crate) fn send(&self, channel: &Channel) {
        let port = channel.port();
        if port != 0
            && let Err(error) = event_send(&self.gate, port)
        {
            wdm::debug!("EVTCHNOP_send on port {port}: {error}");
        }
    }

    /// Whether events are gone for good. Any IRQL.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn mask(&self, port: Port) {
        if self.is_broken() {
            return;
        }
        match &self.fifo {
            Some(fifo) => fifo.mask(port),
            None => self.two_level.mask(port),
        };
    }

    /// Lets the next event through. IRQL <= DISPATCH_LEVEL.
    fn unmask(&self, channel: &Channel) {
        let port = channel.port();
        if port == 0 || channel.closed.load(Ordering::Acquire) || self.is_broken() {
            return;
        }
        let left = match &self.fifo {
            Some(fifo) => fifo.unmask(port),
            None => self.two_level.unmask(port),
        };
        if left == Unmask::Hypercall
            && let Err(error) = event_unmask(&self.gate, port)
        {
            warning!("EVTCHNOP_unmask of port {port}: {error}");
        }
    }

    /// Unmasks a channel after `delay` microseconds: its peer sends events without work. IRQL = DISPATCH_LEVEL.
    fn unmask_later(&self, channel: &Channel, delay: u64) {
        let due = now() + delay;
        channel.unmask_at.store(due, Ordering::Release);
        self.set_timer(due);
    }

    fn set_timer(&self, due: u64) {
        let timer = self.timer.lock();
        let Some(timer) = timer.as_ref() else { return };
        let set = self.timer_due.load(Ordering::Relaxed);
        if set == 0 || due < set {
            self.timer_due.store(due, Ordering::Relaxed);
            timer.set(Duration::from_micros(due.saturating_sub(now()).max(1)));
        }
    }

    /// The timer's DPC: unmasks what waited long enough. IRQL = DISPATCH_LEVEL.
    fn unmask_due(&self) {
        self.timer_due.store(0, Ordering::Relaxed);
        if self.frozen.load(Ordering::Acquire) {
            return;
        }
        let now = now();
        let mut next = u64::MAX;
        {
            let table = self.table.lock();
            for (_, channel) in table.iter() {
                match channel.unmask_at.load(Ordering::Acquire) {
                    0 => {}
                    due if due <= now => {
                        channel.unmask_at.store(0, Ordering::Release);
                        self.unmask(channel);
                    }
                    due => next = next.min(due),
                }
            }
        }
        if next != u64::MAX {
            self.set_timer(next);
        }
    }

    /// Makes a channel that domain `remote` may bind to. Where every processor has a vector, channels go to one after the
    /// other, so that several devices keep several processors busy.
    pub(crate) fn open<F>(&self, remote: DomId, handler: F) -> Result<Shared<Channel>>
    where
        F: Fn() -> EventOutcome + Send + Sync + 'static,
    {
        let channel = Channel::create(self.line_cpu(), handler)?;
        loop {
            let generation = self.generation();
            let port = event_alloc_unbound(&self.gate, remote).map_err(|error| {
                warning!("EVTCHNOP_alloc_unbound for domain {remote}: {error}");
                Status::INSUFFICIENT_RESOURCES
            })?;
            if let Some(cpu) = self.next_cpu()
                && event_bind_vcpu(&self.gate, port, self.cpus[cpu].vcpu).is_ok()
            {
                channel.cpu.store(cpu as u32, Ordering::Relaxed);
            }
            match self.register(&channel, port, generation) {
                Ok(()) => return Ok(channel),
                // The port went with the old domain. Migrations take longer than this: it does not go on for ever.
                Err(Status::RETRY) => {}
                Err(status) => {
                    if self.generation() == generation {
                        // An error leaves a port that nobody uses; there is nothing else to do about it.
                        let _ = event_close(&self.gate, port);
                    }
                    return Err(status);
                }
            }
        }
    }

    /// The processor for the next channel, if there is a choice.
    fn next_cpu(&self) -> Option<usize> {
        let by_vector = self.wiring.lock().delivery == Delivery::Vectors;
        by_vector.then(|| self.next_cpu.fetch_add(1, Ordering::Relaxed) % self.cpus.len())
    }

    /// Migrations so far: to be read before a port is made or looked up, for [`Events::adopt`]. Any IRQL.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Handles a port that is open already: the store's.
    ///
    /// # Errors
    /// [`Status::RETRY`]: there was a migration since `generation` was read.
    pub(crate) fn adopt<F>(&self, port: Port, generation: u32, handler: F) -> Result<Shared<Channel>>
    where
        F: Fn() -> EventOutcome + Send + Sync + 'static,
    {
        let channel = Channel::create(self.line_cpu(), handler)?;
        self.register(&channel, port, generation)?;
        Ok(channel)
    }

    /// Lets events of a port through to a channel.
    fn register(&self, channel: &Shared<Channel>, port: Port, generation: u32) -> Result {
        if self.is_broken() {
            return Err(Status::NOT_SUPPORTED);
        }
        self.make_word(port)?;
        channel.port.store(port, Ordering::Relaxed);
        channel.generation.store(generation, Ordering::Relaxed);
        let open = self.table.lock().iter().count() + 1;
        for cpu in &self.cpus {
            // Closed channels may still be on a list until its DPC has run.
            cpu.run.lock().try_reserve(2 * open + BUDGET).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        }
        let void = self.table.lock().insert(port, generation, channel.clone()).map_err(|error| match error {
            PortError::NoMemory => Status::INSUFFICIENT_RESOURCES,
            PortError::Stale => Status::RETRY,
            PortError::BadPort | PortError::Taken => Status::DEVICE_PROTOCOL_ERROR,
        })?;
        if let Some(void) = void {
            void.void.store(true, Ordering::Release);
        }
        self.unmask(channel);
        Ok(())
    }

    /// Sees to it that a port has its FIFO event word.
    fn make_word(&self, port: Port) -> Result {
        let Some(fifo) = &self.fifo else { return Ok(()) };
        let mut array = self.array.lock();
        while !fifo.has_word(port) {
            let page = RamPage::new()?;
            let region = page.region().ok_or(Status::INSUFFICIENT_RESOURCES)?;
            let gfn = page.gfn();
            array.try_reserve(1).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
            array.push(page);
            if !fifo.add_page(region) {
                return Err(Status::INSUFFICIENT_RESOURCES);
            }
            event_expand_array(&self.gate, gfn).map_err(|error| {
                wdm::error!("EVTCHNOP_expand_array: {error}");
                Status::INSUFFICIENT_RESOURCES
            })?;
        }
        Ok(())
    }

    /// Takes a channel's handler away and leaves its port open: the toolstack's. No callback runs after it returned. The
    /// port, or 0 if there is none any more. PASSIVE_LEVEL.
    pub(crate) fn release(&self, channel: &Shared<Channel>) -> Port {
        if channel.closed.swap(true, Ordering::AcqRel) {
            return 0;
        }
        let port = channel.port();
        // In a new domain the number may be another's.
        let mut ours = port != 0 && channel.generation.load(Ordering::Relaxed) == self.generation();
        if ours {
            self.mask(port);
            let handler = self.table.lock().remove(port, |known| Shared::same(known, channel));
            ours = handler.is_some();
        }
        // A DPC that found the channel before it was closed is through after this.
        dpc::flush();
        if ours { port } else { 0 }
    }

    /// Closes a channel. No callback runs after it returned. PASSIVE_LEVEL.
    pub(crate) fn close(&self, channel: &Shared<Channel>) {
        let port = self.release(channel);
        if port != 0
            && let Err(error) = event_close(&self.gate, port)
        {
            warning!("EVTCHNOP_close of port {port}: {error}");
        }
    }

    /// Moves a channel's upcalls to the processor with an index. PASSIVE_LEVEL.
    pub(crate) fn bind(&self, channel: &Shared<Channel>, index: u32) -> Result {
        if self.wiring.lock().delivery != Delivery::Vectors {
            return Err(Status::NOT_SUPPORTED);
        }
        let cpu = self.cpus.get(index as usize).ok_or(Status::INVALID_PARAMETER)?;
        let port = channel.port();
        if port == 0 {
            return Err(Status::DEVICE_NOT_CONNECTED);
        }
        self.mask(port);
        let moved = event_bind_vcpu(&self.gate, port, cpu.vcpu);
        if moved.is_ok() {
            channel.cpu.store(index, Ordering::Relaxed);
        }
        // What came meanwhile is looked for by the callback itself, which also unmasks.
        self.trigger(channel);
        moved.map_err(|error| {
            warning!("EVTCHNOP_bind_vcpu of port {port} to {}: {error}", cpu.vcpu);
            Status::UNSUCCESSFUL
        })
    }

    /// Processors that can take upcalls. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn processors(&self) -> u16 {
        self.cpus.len() as u16
    }

    /// Before a suspend: after this no DPC touches shared memory. PASSIVE_LEVEL.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
        dpc::flush();
    }

    /// Lets DPCs go on, and has them look for what came meanwhile. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn thaw(&self) {
        self.frozen.store(false, Ordering::SeqCst);
        self.kick();
        // The timer may have expired while it was not to touch anything.
        self.set_timer(now());
    }

    /// Puts shared info in its place in a new domain. While frozen. IRQL <= IPI_LEVEL.
    pub(crate) fn map_shared_info(&self) -> Result {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.shared_info.map().inspect_err(|_| self.broken.store(true, Ordering::Release))?;
        self.two_level.mask_all();
        Ok(())
    }

    /// Registers the `vcpu_info` of the processor with an index in a new domain, on that processor. While frozen.
    /// IRQL <= IPI_LEVEL.
    pub(crate) fn register_vcpu_info(&self, index: u32) -> Result {
        self.cpus.get(index as usize).map_or(Ok(()), |cpu| cpu.register_vcpu_info(self.gate))
    }

    /// Takes what [`Events::set_up`] needs, so that it may run where no lock can be taken. PASSIVE_LEVEL.
    pub(crate) fn hold(&self) -> Held<'_> {
        Held { wiring: self.wiring.lock(), array: self.array.lock() }
    }

    /// Control blocks, event words, upcall vectors and the callback in a new domain. While frozen. IRQL <= IPI_LEVEL.
    pub(crate) fn set_up(&self, held: &Held<'_>) -> Result {
        self.set_up_all(held).inspect_err(|_| self.broken.store(true, Ordering::Release))
    }

    fn set_up_all(&self, held: &Held<'_>) -> Result {
        if self.fifo.is_some() {
            for cpu in &self.cpus {
                let control = cpu.pages.first().ok_or(Status::DEVICE_NOT_READY)?;
                FifoQueues::clear(&control.region().ok_or(Status::DEVICE_NOT_READY)?);
                cpu.restart.store(true, Ordering::Release);
                insist(|| event_init_control(&self.gate, control.gfn(), cpu.vcpu)).map_err(|error| {
                    wdm::error!("EVTCHNOP_init_control for vCPU {}: {error}", cpu.vcpu);
                    Status::UNSUCCESSFUL
                })?;
            }
            for page in held.array.iter() {
                let region = page.region().ok_or(Status::DEVICE_NOT_READY)?;
                for word in 0..WORDS_PER_PAGE {
                    region.atomic_u32(word as usize * 4).store(MASKED, Ordering::Relaxed);
                }
                insist(|| event_expand_array(&self.gate, page.gfn())).map_err(|error| {
                    wdm::error!("EVTCHNOP_expand_array: {error}");
                    Status::UNSUCCESSFUL
                })?;
            }
        }
        for (cpu, &vector) in self.cpus.iter().zip(&held.wiring.vectors) {
            insist(|| set_upcall_vector(&self.gate, cpu.vcpu, vector)).map_err(|error| {
                wdm::error!("the upcall vector of vCPU {}: {error}", cpu.vcpu);
                Status::UNSUCCESSFUL
            })?;
        }
        insist(|| set_param(&self.gate, PARAM_CALLBACK_IRQ, held.wiring.callback)).map_err(|error| {
            wdm::error!("HVM_PARAM_CALLBACK_IRQ: {error}");
            Status::UNSUCCESSFUL
        })
    }

    /// Every channel of the old domain is void: its owner may still close it. PASSIVE_LEVEL.
    pub(crate) fn forget_all(&self) {
        self.forget_older(self.generation());
    }

    fn forget_older(&self, generation: u32) {
        loop {
            // Dropped without the lock: what a handler holds may not be given up at DISPATCH_LEVEL.
            let old = self.table.lock().take_older(generation);
            let Some(channel) = old else { return };
            channel.void.store(true, Ordering::Release);
        }
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

/// See [`Events::hold`].
pub(crate) struct Held<'a> {
    array: MutexGuard<'a, Vec<RamPage>>,
    wiring: MutexGuard<'a, Wiring>,
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

impl Cpu {
    fn new(gate: Gate, shared_info: &SharedInfo, vcpu: u32) -> Result<Self> {
        let control = RamPage::new()?;
        let region = control.region().ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let mut pages = try_vec(2)?;
        pages.push(control);
        let vcpu_info = if let Some(offset) = vcpu_info_offset(vcpu) {
            shared_info.region()?.slice(offset, VCPU_INFO_SIZE).ok_or(Status::UNSUCCESSFUL)?
        } else {
            let page = RamPage::new_for_vcpu_info()?;
            let region = page.region().ok_or(Status::INSUFFICIENT_RESOURCES)?;
            pages.push(page);
            region
        };
        let cpu = Self {
            vcpu,
            vcpu_info,
            queues: Some(SpinLock::new(FifoQueues::new(region))),
            restart: AtomicBool::new(false),
            pages,
            run: SpinLock::new(VecDeque::new()),
            start: AtomicU32::new(0),
        };
        cpu.register_vcpu_info(gate)?;
        Ok(cpu)
    }

    /// Tells Xen where the `vcpu_info` is, if it is not in shared info. Xen takes it from the vCPU itself alone, so it
    /// runs there. IRQL <= IPI_LEVEL.
    fn register_vcpu_info(&self, gate: Gate) -> Result {
        let Some(page) = self.pages.iter().find(|page| page.keeps_vcpu_info()) else { return Ok(()) };
        insist(|| register_vcpu_info(&gate, self.vcpu, page.gfn(), 0)).map_err(|error| {
            wdm::error!("VCPUOP_register_vcpu_info of vCPU {}: {error}", self.vcpu);
            Status::NOT_SUPPORTED
        })
    }
}

/// Gives every processor its control block; `false`: this Xen has no FIFO layout.
fn start_fifo(gate: Gate, cpus: &mut [Cpu]) -> Result<bool> {
    for (index, cpu) in cpus.iter().enumerate() {
        let Some(control) = cpu.pages.first() else { return Ok(false) };
        if let Err(error) = event_init_control(&gate, control.gfn(), cpu.vcpu) {
            wdm::info!("no FIFO event channels: vCPU {}: {error}", cpu.vcpu);
            if index != 0 {
                // The layout changed with the first processor: back to 2-level.
                if let Err(error) = event_reset(&gate) {
                    wdm::error!("EVTCHNOP_reset: {error}");
                    for page in cpus.iter_mut().flat_map(|cpu| cpu.pages.drain(..)) {
                        page.leak();
                    }
                    return Err(Status::NOT_SUPPORTED);
                }
            }
            return Ok(false);
        }
    }
    Ok(true)
}

/// Microseconds of a clock that never runs backward. Any IRQL.
fn now() -> u64 {
    time::monotonic().as_micros() as u64
}
