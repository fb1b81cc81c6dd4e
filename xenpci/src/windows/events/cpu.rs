//! A processor's side, and shared info.

use alloc::{collections::VecDeque, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU32};

use wdm::{
    memory::{Shared, try_vec},
    spinlock::SpinLock,
    status::{Result, Status},
};
use xen_abi::{
    memory::SPACE_SHARED_INFO,
    shared::SharedRegion,
    shared_info::{VCPU_INFO_SIZE, vcpu_info_offset},
};

use super::channel::Channel;
use crate::core::{
    event::FifoQueues,
    hypercall::{event_init_control, event_reset, insist, register_vcpu_info},
};
use crate::windows::{
    hypercall::Gate,
    shared::{Frame, FrameSource, RamPage},
};

/// A processor's side.
pub(super) struct Cpu {
    pub(super) vcpu: u32,
    pub(super) vcpu_info: SharedRegion,
    pub(super) queues: Option<SpinLock<FifoQueues>>,
    /// The queues are a new domain's: what was next in the old one is forgotten before the next scan.
    pub(super) restart: AtomicBool,
    /// FIFO: the control block. vCPUs from 32 on: their `vcpu_info`, too.
    pub(super) pages: Vec<RamPage>,
    pub(super) run: SpinLock<VecDeque<Shared<Channel>>>,
    /// Where the next 2-level scan begins.
    pub(super) start: AtomicU32,
}

impl Cpu {
    pub(super) fn new(gate: Gate, shared_info: &SharedInfo, vcpu: u32) -> Result<Self> {
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
    pub(super) fn register_vcpu_info(&self, gate: Gate) -> Result {
        let Some(page) = self.pages.iter().find(|page| page.keeps_vcpu_info()) else { return Ok(()) };
        insist(|| register_vcpu_info(&gate, self.vcpu, page.gfn(), 0)).map_err(|error| {
            wdm::error!("VCPUOP_register_vcpu_info of vCPU {}: {error}", self.vcpu);
            Status::NOT_SUPPORTED
        })
    }
}

/// Shared info in its frame, given back when it is dropped.
pub(super) struct SharedInfo {
    gate: Gate,
    frame: Option<Frame>,
}

impl SharedInfo {
    pub(super) fn new(gate: Gate, source: &FrameSource) -> Result<Self> {
        let this = Self { gate, frame: Some(source.hole(gate)?) };
        this.map()?;
        Ok(this)
    }

    /// Has Xen put the page in its place. IRQL <= IPI_LEVEL.
    pub(super) fn map(&self) -> Result {
        self.frame.as_ref().ok_or(Status::DEVICE_NOT_READY)?.fill(self.gate, SPACE_SHARED_INFO, 0).map_err(|error| {
            wdm::error!("shared info cannot be mapped: {error}");
            Status::INSUFFICIENT_RESOURCES
        })
    }

    pub(super) fn region(&self) -> Result<SharedRegion> {
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

/// Gives every processor its control block; `false`: this Xen has no FIFO layout.
pub(super) fn start_fifo(gate: Gate, cpus: &mut [Cpu]) -> Result<bool> {
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
