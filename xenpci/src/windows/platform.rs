//! The connection to Xen: what a started platform device holds.

use wdm::{
    cpu,
    device::DeviceObject,
    memory::{Shared, try_vec},
    port,
    resource::InterruptResource,
    status::{Result, Status},
};

use super::{
    Settings, emulated, events::Events, fdo::Processor, grants::Grants, hypercall::Gate, shared::FrameSource,
    store::Store,
};
use xen_abi::{detect, unplug::Unplug};

/// Everything that children use. Lives as long as the platform device or any child's interface.
pub(crate) struct Platform {
    gate: Gate,
    store: Shared<Store>,
    grants: Grants,
    events: Shared<Events>,
    unplugged: Unplug,
    /// Last: frames of the others may lie in it.
    source: FrameSource,
}

/// A running platform, as its FDO has it.
pub(crate) struct Started {
    platform: Shared<Platform>,
}

impl Platform {
    /// Sets everything up, up to the connection to xenstore.
    pub(crate) fn start(
        xen: &detect::Xen,
        pdo: DeviceObject,
        bar: Option<(u64, u32)>,
        interrupts: &[InterruptResource],
    ) -> Result<Started> {
        let gate = Gate::new(xen.instruction);
        let count = cpu::count();
        let mut vcpus = try_vec(count as usize)?;
        for index in 0..count {
            vcpus.push(cpu::run_on(index, || vcpu_id(xen))?);
        }
        let source = FrameSource::new(bar, Settings::bar());
        let events = Events::start(gate, &source, &vcpus)?;
        let running = Grants::start(gate, &source).and_then(|grants| {
            events.connect(pdo, interrupts)?;
            let store = Store::start(gate, events.clone())?;
            Ok((grants, store))
        });
        let (grants, store) = match running {
            Ok(running) => running,
            Err(status) => {
                events.stop();
                return Err(status);
            }
        };
        let counts = grants.counts();
        wdm::info!("{} grants, up to {}", counts.total, counts.total + counts.can_grow);
        let unplugged = emulated::unplugged();
        let (used_store, used_events) = (store.clone(), events.clone());
        let platform = Shared::new(Self { gate, store, grants, events, unplugged, source }).inspect_err(|_| {
            used_store.stop();
            used_events.stop();
        })?;
        Ok(Started { platform })
    }

    /// Makes hypercalls.
    pub(crate) fn gate(&self) -> Gate {
        self.gate
    }

    /// xenstore.
    pub(crate) fn store(&self) -> &Shared<Store> {
        &self.store
    }

    /// The grant table.
    pub(crate) fn grants(&self) -> &Grants {
        &self.grants
    }

    /// Takes grant references. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn allocate_grants(&self, references: &mut [u32]) -> Result {
        self.grants.allocate(&self.source, references)
    }

    /// What was unplugged of the emulated devices in this boot. Any IRQL.
    pub(crate) fn unplugged(&self) -> Unplug {
        self.unplugged
    }

    /// The event channels.
    pub(crate) fn events(&self) -> &Shared<Events> {
        &self.events
    }
}

impl Started {
    /// What children use.
    pub(crate) fn platform(&self) -> &Shared<Platform> {
        &self.platform
    }

    /// The device was given interrupts again, after a stop.
    pub(crate) fn connect_interrupts(&self, pdo: DeviceObject, interrupts: &[InterruptResource]) -> Result {
        self.platform.events.connect(pdo, interrupts)
    }

    /// The device's interrupts are taken away for a while.
    pub(crate) fn disconnect_interrupts(&self) {
        self.platform.events.disconnect();
    }

    /// The device is removed.
    pub(crate) fn stop(self) {
        self.platform.store.stop();
        self.platform.events.stop();
    }
}

/// Xen's number of the processor that this runs on.
fn vcpu_id(xen: &detect::Xen) -> u32 {
    detect::vcpu_id(&Processor, xen).unwrap_or_else(|| {
        // CPUID leaf 1, EBX: the initial APIC id, which the toolstack makes twice the vCPU's number.
        let [_, ebx, ..] = port::cpuid(1, 0);
        ebx >> 25
    })
}

/// The store's errors as NTSTATUS values, as `xenbus::interface` names them.
pub(crate) fn store_status(error: crate::core::store::StoreError) -> Status {
    use crate::core::store::StoreError;
    use xen_abi::errno::Errno;
    match error {
        StoreError::Answer(Errno::ENOENT) => Status::OBJECT_NAME_NOT_FOUND,
        StoreError::Answer(Errno::EACCES) => Status::ACCESS_DENIED,
        StoreError::Answer(Errno::EAGAIN) => Status::RETRY,
        StoreError::Answer(Errno::EINVAL) | StoreError::TooLong => Status::INVALID_PARAMETER,
        StoreError::Answer(_) => Status::UNSUCCESSFUL,
        StoreError::Protocol | StoreError::Disconnected => Status::DEVICE_PROTOCOL_ERROR,
        StoreError::TimedOut => Status::IO_TIMEOUT,
        StoreError::Busy | StoreError::NoMemory => Status::INSUFFICIENT_RESOURCES,
    }
}
