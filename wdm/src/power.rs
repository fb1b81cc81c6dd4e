//! IRP_MJ_POWER for a device's power policy owner and for a bus's children.

use core::ffi::c_void;

use wdk_sys::{
    _DEVICE_POWER_STATE, _POWER_STATE_TYPE, _SYSTEM_POWER_STATE, DEVICE_OBJECT, IO_STATUS_BLOCK, IRP, PIO_STATUS_BLOCK,
    POWER_STATE, ntddk,
};

use crate::{
    device::DeviceObject,
    irp::{Dispatched, Irp, complete_raw, copy_to_next},
    status::Status,
};

/// Minor function codes of IRP_MJ_POWER.
mod minor {
    pub const SET_POWER: u8 = 0x02;
    pub const QUERY_POWER: u8 = 0x03;
}

/// What a power IRP is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// `IRP_MN_SET_POWER` for a device state, D0 = 1 to D3 = 4.
    SetDevice(u32),
    /// `IRP_MN_QUERY_POWER` for a device state.
    QueryDevice(u32),
    /// `IRP_MN_SET_POWER` for a system state, S0 = 1.
    SetSystem(u32),
    /// `IRP_MN_QUERY_POWER` for a system state.
    QuerySystem(u32),
    /// Anything else.
    Other,
}

impl Irp {
    /// What an IRP_MJ_POWER asks. IRQL <= DISPATCH_LEVEL.
    #[allow(clippy::unnecessary_cast, reason = "enumerations are signed in the WDK's headers, unsigned in mingw's")]
    pub fn power(&self) -> PowerRequest {
        // SAFETY: the major function says which member is valid; State's members are views of one word.
        let (kind, system, device) = unsafe {
            let power = &self.stack().Parameters.Power;
            (power.Type, power.State.SystemState as u32, power.State.DeviceState as u32)
        };
        let for_device = kind == _POWER_STATE_TYPE::DevicePowerState;
        match self.minor() {
            minor::SET_POWER if for_device => PowerRequest::SetDevice(device),
            minor::QUERY_POWER if for_device => PowerRequest::QueryDevice(device),
            minor::SET_POWER => PowerRequest::SetSystem(system),
            minor::QUERY_POWER => PowerRequest::QuerySystem(system),
            _ => PowerRequest::Other,
        }
    }

    /// Passes a system power IRP on and, once the drivers below are done with it, asks for the device power IRP that
    /// goes with it: the task of the power policy owner. The system IRP completes with the outcome of the device IRP.
    /// IRQL <= DISPATCH_LEVEL.
    ///
    /// `device` is the FDO that calls; `lower` is the device below it.
    pub fn forward_system_power(self, device: DeviceObject, lower: DeviceObject) -> Dispatched {
        self.pend(|irp| {
            // SAFETY: the IRP is this driver's, and the FDO, being attached, gave it a stack location for the one
            // below. What IofCallDriver returns is of no use: the completion routine takes the IRP back.
            unsafe {
                copy_to_next(irp, system_power_done, device.as_raw().cast());
                let _ = ntddk::IofCallDriver(lower.as_raw(), irp);
            }
        })
    }
}

/// The drivers below are done with a system power IRP. IRQL <= DISPATCH_LEVEL.
unsafe extern "C" fn system_power_done(_device: *mut DEVICE_OBJECT, irp: *mut IRP, context: *mut c_void) -> i32 {
    // SAFETY: the IRP is this driver's again; its current stack location is the driver's own. The status union's
    // members start with the same word.
    let (status, minor, system) = unsafe {
        let stack = (*irp).Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation;
        let status = Status((*irp).IoStatus.__bindgen_anon_1.Status);
        (status, (*stack).MinorFunction, (*stack).Parameters.Power.State.SystemState)
    };
    if !status.is_success() {
        // The dispatch routine returned STATUS_PENDING and marked the IRP, so it just goes on up.
        return Status::SUCCESS.0;
    }
    let working = system == _SYSTEM_POWER_STATE::PowerSystemWorking;
    let state = if working { _DEVICE_POWER_STATE::PowerDeviceD0 } else { _DEVICE_POWER_STATE::PowerDeviceD3 };
    // SAFETY: the device is in a stack; the callback gets the system IRP, which stays until it completes it.
    let requested = Status(unsafe {
        ntddk::PoRequestPowerIrp(
            context.cast(),
            minor,
            POWER_STATE { DeviceState: state },
            Some(device_power_done),
            irp.cast(),
            core::ptr::null_mut(),
        )
    });
    if requested == Status::PENDING {
        return Status::MORE_PROCESSING_REQUIRED.0;
    }
    // SAFETY: no callback will come, so the IRP is still this driver's.
    unsafe { (*irp).IoStatus.__bindgen_anon_1.Status = requested.0 }
    Status::SUCCESS.0
}

/// The device power IRP is done: so is the system power IRP, `context`. IRQL <= DISPATCH_LEVEL.
unsafe extern "C" fn device_power_done(
    _device: *mut DEVICE_OBJECT,
    _minor: u8,
    _state: POWER_STATE,
    context: *mut c_void,
    outcome: PIO_STATUS_BLOCK,
) {
    let irp = context.cast::<IRP>();
    // SAFETY: the power manager passes the device IRP's status; the system IRP was kept for this.
    unsafe {
        let outcome: &IO_STATUS_BLOCK = &*outcome;
        (*irp).IoStatus.__bindgen_anon_1.Status = outcome.__bindgen_anon_1.Status;
        complete_raw(irp);
    }
}

/// Tells the power manager which power state the device is in now. IRQL <= DISPATCH_LEVEL.
pub fn set_device_state(device: DeviceObject, state: u32) {
    // SAFETY: the device is valid; what comes back is the state before.
    let _ = unsafe {
        ntddk::PoSetPowerState(
            device.as_raw(),
            _POWER_STATE_TYPE::DevicePowerState,
            POWER_STATE { DeviceState: state as _ },
        )
    };
}
