//! Channels: made, adopted, moved, closed, void after a migration.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use wdm::{
    dpc,
    memory::{Shared, try_box},
    spinlock::SpinLock,
    status::{Result, Status},
    warning,
};
use xen_abi::{DomId, event::Port};
use xenbus::interface::EventOutcome;

use super::{Events, delivery::BUDGET, wiring::Delivery};
use crate::core::{
    event::Throttle,
    hypercall::{event_alloc_unbound, event_bind_vcpu, event_close, event_expand_array},
    ports::PortError,
};
use crate::windows::shared::RamPage;

/// What a channel runs, at DISPATCH_LEVEL.
type Handler = Box<dyn Fn() -> EventOutcome + Send + Sync>;

/// An open event channel.
pub(crate) struct Channel {
    port: AtomicU32,
    /// Migrations before the port was made.
    generation: AtomicU32,
    /// Index of the processor that its upcalls come to.
    pub(super) cpu: AtomicU32,
    pub(super) handler: Handler,
    pub(super) throttle: SpinLock<Throttle>,
    /// On a run list.
    pub(super) queued: AtomicBool,
    /// Its callback runs now.
    pub(super) running: AtomicBool,
    /// It was asked for while it ran.
    pub(super) again: AtomicBool,
    /// When to unmask it, in microseconds of [`time::monotonic`]; 0: not waiting.
    pub(super) unmask_at: AtomicU64,
    /// No callback any more.
    pub(super) closed: AtomicBool,
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

impl Events {
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

    /// Every channel of the old domain is void: its owner may still close it. PASSIVE_LEVEL.
    pub(crate) fn forget_all(&self) {
        self.forget_older(self.generation());
    }

    pub(super) fn forget_older(&self, generation: u32) {
        loop {
            // Dropped without the lock: what a handler holds may not be given up at DISPATCH_LEVEL.
            let old = self.table.lock().take_older(generation);
            let Some(channel) = old else { return };
            channel.void.store(true, Ordering::Release);
        }
    }
}
