//! From an upcall to the callbacks, and back to unmasking.

use core::{sync::atomic::Ordering, time::Duration};

use wdm::{
    dpc::Dpc,
    memory::Shared,
    status::{Result, Status},
    time, warning,
};
use xen_abi::event::Port;
use xenbus::interface::EventOutcome;

use super::{Events, channel::Channel};
use crate::core::{
    event::{Unmask, take_upcall},
    hypercall::{event_send, event_unmask},
};

/// Callbacks that one DPC runs at most before it queues itself again.
pub(super) const BUDGET: usize = 64;

impl Events {
    pub(super) fn dpc(&self, index: usize) -> Result<Shared<Dpc>> {
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
    pub(super) fn kick(&self) {
        for index in 0..self.cpus.len() {
            self.queue(index);
        }
    }

    /// A processor's DPC. IRQL = DISPATCH_LEVEL.
    pub(super) fn run(&self, index: usize) {
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
            EventOutcome::More => {
                // The next call may find that this one took the last of it: that says nothing against the peer.
                channel.throttle.lock().worked();
                self.trigger(channel);
            }
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

    pub(super) fn mask(&self, port: Port) {
        if self.is_broken() {
            return;
        }
        match &self.fifo {
            Some(fifo) => fifo.mask(port),
            None => self.two_level.mask(port),
        };
    }

    /// Lets the next event through. IRQL <= DISPATCH_LEVEL.
    pub(super) fn unmask(&self, channel: &Channel) {
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

    pub(super) fn set_timer(&self, due: u64) {
        let timer = self.timer.lock();
        let Some(timer) = timer.as_ref() else { return };
        let set = self.timer_due.load(Ordering::Relaxed);
        if set == 0 || due < set {
            self.timer_due.store(due, Ordering::Relaxed);
            timer.set(Duration::from_micros(due.saturating_sub(now()).max(1)));
        }
    }

    /// The timer's DPC: unmasks what waited long enough. IRQL = DISPATCH_LEVEL.
    pub(super) fn unmask_due(&self) {
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
}

/// Microseconds of a clock that never runs backward. Any IRQL.
pub(super) fn now() -> u64 {
    time::monotonic().as_micros() as u64
}
