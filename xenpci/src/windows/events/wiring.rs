//! How upcalls reach the DPCs: a vector a processor, or the device's interrupt line.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use wdm::{
    cpu,
    device::DeviceObject,
    interrupt::Interrupt,
    memory::try_vec,
    resource::InterruptResource,
    status::{Result, Status},
    warning,
};
use xen_abi::hvm::{PARAM_CALLBACK_IRQ, callback_gsi, callback_vector};

use super::Events;
use crate::core::{
    event::take_upcall,
    hypercall::{event_bind_vcpu, insist, set_param, set_upcall_vector},
};
use crate::windows::Settings;

/// How upcalls come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Not connected.
    None,
    /// One vector a processor.
    Vectors,
    /// The device's interrupt line, for vCPU 0 alone.
    Line,
}

/// What only starts, stops and resumes change.
pub(super) struct Wiring {
    pub(super) delivery: Delivery,
    pub(super) interrupts: Vec<Interrupt>,
    /// Vector by processor index, for resuming.
    pub(super) vectors: Vec<u8>,
    /// `HVM_PARAM_CALLBACK_IRQ`.
    pub(super) callback: u64,
}

impl Events {
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
}
