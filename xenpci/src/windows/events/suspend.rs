//! What a suspend and a new domain ask of event channels.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use wdm::{
    dpc,
    event::MutexGuard,
    status::{Result, Status},
};
use xen_abi::{
    event::fifo::{MASKED, WORDS_PER_PAGE},
    hvm::PARAM_CALLBACK_IRQ,
};

use super::{Events, delivery::now, wiring::Wiring};
use crate::core::{
    event::FifoQueues,
    hypercall::{event_expand_array, event_init_control, insist, set_param, set_upcall_vector},
};
use crate::windows::shared::RamPage;

impl Events {
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
}

/// See [`Events::hold`].
pub(crate) struct Held<'a> {
    array: MutexGuard<'a, Vec<RamPage>>,
    wiring: MutexGuard<'a, Wiring>,
}
