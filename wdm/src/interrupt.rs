//! Interrupts.

use alloc::boxed::Box;
use core::ffi::c_void;

use wdk_sys::{
    _KINTERRUPT_MODE, BOOLEAN, IO_CONNECT_INTERRUPT_PARAMETERS, IO_DISCONNECT_INTERRUPT_PARAMETERS, PKINTERRUPT, ntddk,
};

use crate::{
    device::DeviceObject,
    memory::try_box,
    resource::InterruptResource,
    status::{Result, Status},
};

/// `CONNECT_FULLY_SPECIFIED`.
const CONNECT_FULLY_SPECIFIED: u32 = 1;
/// `CONNECT_FULLY_SPECIFIED_GROUP`: the processor group is given too.
const CONNECT_FULLY_SPECIFIED_GROUP: u32 = 4;

/// What an interrupt service routine runs. `true`: the interrupt was the device's.
type Service = Box<dyn Fn() -> bool + Send + Sync>;

/// A connected interrupt. Dropping it disconnects it, after which the routine does not run any more.
pub struct Interrupt {
    object: PKINTERRUPT,
    version: u32,
    /// What the routine's context points to: dropped after the interrupt is disconnected.
    _service: Box<Service>,
}

// SAFETY: the interrupt object is only used to disconnect.
unsafe impl Send for Interrupt {}
// SAFETY: see above.
unsafe impl Sync for Interrupt {}

impl Interrupt {
    /// Connects `service` to an interrupt that `pdo`'s stack was assigned. `service` runs at the interrupt's IRQL.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`] and what `IoConnectInterruptEx` returns.
    pub fn connect<F>(pdo: DeviceObject, resource: &InterruptResource, service: F) -> Result<Self>
    where
        F: Fn() -> bool + Send + Sync + 'static,
    {
        let service: Service = try_box(service)?;
        let service = try_box(service)?;
        let mut object: PKINTERRUPT = core::ptr::null_mut();
        let version = if resource.group == 0 { CONNECT_FULLY_SPECIFIED } else { CONNECT_FULLY_SPECIFIED_GROUP };
        let mut parameters = IO_CONNECT_INTERRUPT_PARAMETERS { Version: version, ..Default::default() };
        let mode = if resource.latched { _KINTERRUPT_MODE::Latched } else { _KINTERRUPT_MODE::LevelSensitive };
        // SAFETY: this member goes with the version. The context is boxed and outlives the connection.
        let status = Status(unsafe {
            let full = &mut parameters.__bindgen_anon_1.FullySpecified;
            full.PhysicalDeviceObject = pdo.as_raw();
            full.InterruptObject = &raw mut object;
            full.ServiceRoutine = Some(serve);
            full.ServiceContext = core::ptr::from_ref::<Service>(&service).cast_mut().cast();
            full.SpinLock = core::ptr::null_mut();
            full.SynchronizeIrql = resource.irql;
            full.FloatingSave = 0;
            full.ShareVector = resource.shared.into();
            full.Vector = resource.vector;
            full.Irql = resource.irql;
            full.InterruptMode = mode;
            full.ProcessorEnableMask = resource.affinity as _;
            full.Group = resource.group;
            ntddk::IoConnectInterruptEx(&raw mut parameters)
        });
        status.ok()?;
        Ok(Self { object, version, _service: service })
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        let mut parameters = IO_DISCONNECT_INTERRUPT_PARAMETERS { Version: self.version, ..Default::default() };
        parameters.ConnectionContext.InterruptObject = self.object;
        // SAFETY: the interrupt was connected with this version and is disconnected once.
        unsafe { ntddk::IoDisconnectInterruptEx(&raw mut parameters) }
    }
}

/// The interrupt service routine. IRQL = the interrupt's.
unsafe extern "C" fn serve(_interrupt: PKINTERRUPT, context: *mut c_void) -> BOOLEAN {
    // SAFETY: the context is the boxed closure, which outlives the connection.
    let service = unsafe { &*context.cast::<Service>() };
    service().into()
}
