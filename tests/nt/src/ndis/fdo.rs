//! The adapter's device object: start, stop, removal, power.
//! <https://learn.microsoft.com/windows-hardware/drivers/network/adding-a-network-adapter>,
//! <https://learn.microsoft.com/windows-hardware/drivers/network/ndis-power-management>

use super::abi::*;
use super::adapter::{Adapter, State};
use super::driver;
use super::oid_abi::oid;
use crate::io::abi::{Irp, Parameters, Power, caps, mj, mn};
use crate::io::device::IoDetachDevice;
use crate::io::irp::{current, skip};
use crate::io::kernel::note;
use crate::io::notify::{IoRegisterShutdownNotification, IoUnregisterShutdownNotification};
use crate::status::*;
use crate::storport::driver::{finish, pass, pass_and_wait};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::sync::atomic::Ordering;

/// The bytes of a `CM_RESOURCE_LIST`.
unsafe fn list_bytes(list: *mut c_void) -> Vec<u8> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: the PnP manager gives a whole list.
    unsafe {
        let bytes = crate::pnp::send::cm_list_bytes(list.cast());
        core::slice::from_raw_parts(list.cast::<u8>(), bytes).to_vec()
    }
}

/// IRP_MJ_PNP. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The caller owns the IRP, which is for the adapter's device object.
pub unsafe fn pnp(adapter: &Arc<Adapter>, irp: *mut Irp) -> NtStatus {
    // SAFETY: the caller's promise.
    unsafe {
        let location = *current(irp);
        match location.minor {
            mn::START_DEVICE => {
                let mut status = pass_and_wait(adapter.lower, irp);
                if nt_success(status) {
                    let lists = location.parameters.start;
                    *adapter.resources.lock() = (list_bytes(lists.raw), list_bytes(lists.translated));
                    status = start(adapter);
                }
                finish(irp, status, 0)
            }
            mn::STOP_DEVICE => {
                adapter.halt(halt::STOPPED);
                (*irp).io_status.status = STATUS_SUCCESS;
                pass(adapter.lower, irp)
            }
            mn::SURPRISE_REMOVAL => {
                if adapter.state() != State::Halted {
                    adapter.notify(pnp_event::SURPRISE_REMOVED, &mut []);
                }
                adapter.unbind_all();
                adapter.halt(halt::SURPRISE_REMOVED);
                (*irp).io_status.status = STATUS_SUCCESS;
                pass(adapter.lower, irp)
            }
            mn::REMOVE_DEVICE => {
                adapter.unbind_all();
                adapter.halt(halt::DEVICE_DISABLED);
                IoUnregisterShutdownNotification(adapter.fdo);
                (*irp).io_status.status = STATUS_SUCCESS;
                let lower = adapter.lower;
                let status = pass(lower, irp);
                IoDetachDevice(lower);
                adapter.forget();
                driver::delete(adapter.fdo);
                status
            }
            mn::QUERY_CAPABILITIES => {
                let status = pass_and_wait(adapter.lower, irp);
                let capabilities = location.parameters.capabilities;
                let ok = adapter.about.lock().flags & NDIS_MINIPORT_ATTRIBUTES_SURPRISE_REMOVE_OK != 0;
                if nt_success(status) && ok && !capabilities.is_null() {
                    (*capabilities).bits |= caps::SURPRISE_REMOVAL_OK;
                }
                finish(irp, status, 0)
            }
            mn::QUERY_STOP_DEVICE | mn::CANCEL_STOP_DEVICE | mn::QUERY_REMOVE_DEVICE | mn::CANCEL_REMOVE_DEVICE => {
                (*irp).io_status.status = STATUS_SUCCESS;
                pass(adapter.lower, irp)
            }
            _ => pass(adapter.lower, irp),
        }
    }
}

/// Initializes the adapter; a failure of the miniport is the start's.
unsafe fn start(adapter: &Arc<Adapter>) -> NtStatus {
    match adapter.start() {
        Ok(()) => {
            // SAFETY: the device is the port's.
            let status = unsafe { IoRegisterShutdownNotification(adapter.fdo) };
            if nt_success(status) { STATUS_SUCCESS } else { status }
        }
        Err(status) => {
            note(format_args!("ndis: {}: the miniport does not start: {status:#x}", adapter.instance));
            // A restart that failed leaves an adapter that was initialized.
            adapter.halt(halt::DEVICE_DISABLED);
            if nt_success(status) { STATUS_UNSUCCESSFUL } else { status }
        }
    }
}

/// `PowerDeviceD0`.
const D0: i32 = 1;
/// `DevicePowerState` of POWER_STATE_TYPE.
const DEVICE_POWER: i32 = 1;

/// IRP_MJ_POWER. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The caller owns the IRP.
pub unsafe fn power(adapter: &Arc<Adapter>, irp: *mut Irp) -> NtStatus {
    // SAFETY: the caller's promise.
    unsafe {
        let location = *current(irp);
        let power = location.parameters.power;
        let set = location.minor == mn::SET_POWER && power.kind == DEVICE_POWER;
        if set && power.state > D0 && adapter.state() != State::Halted {
            go_down(adapter, power.state);
        } else if set && power.state == D0 {
            crate::io::irp::copy_to_next(irp);
            crate::io::irp::send_and_wait(adapter.lower, irp);
            come_up(adapter);
            crate::po::PoStartNextPowerIrp(irp);
            return finish(irp, STATUS_SUCCESS, 0);
        }
        crate::po::PoStartNextPowerIrp(irp);
        skip(irp);
        crate::po::PoCallDriver(adapter.lower, irp)
    }
}

impl Adapter {
    /// Sends its device a power state, as the power manager does: 1 is D0, 4 is D3. IRQL = PASSIVE_LEVEL.
    pub fn request_power(&self, state: i32) -> NtStatus {
        let parameters = Parameters { power: Power::new(DEVICE_POWER, state, 0) };
        // SAFETY: the PDO stands below the adapter; the parameters are those of a power request.
        unsafe { crate::pnp::send::request(self.pdo, mj::POWER, mn::SET_POWER, Some(parameters)).0 }
    }
}

/// Whether the miniport is told of power states rather than halted.
fn keeps(adapter: &Adapter) -> bool {
    let about = adapter.about.lock();
    about.power || about.flags & NDIS_MINIPORT_ATTRIBUTES_NO_HALT_ON_SUSPEND != 0
}

/// D0 -> lower: pause, OID_PNP_SET_POWER; or halt.
fn go_down(adapter: &Arc<Adapter>, state: i32) {
    if adapter.low_power.swap(true, Ordering::AcqRel) {
        return;
    }
    if !keeps(adapter) {
        adapter.halt(halt::POWERED_DOWN);
        return;
    }
    if adapter.about.lock().flags & NDIS_MINIPORT_ATTRIBUTES_NO_PAUSE_ON_SUSPEND == 0 {
        adapter.stop_traffic(pause::LOW_POWER);
    }
    let answer = adapter.set(oid::PNP_SET_POWER, &state.to_le_bytes());
    if !answer.ok() {
        super::violation("OID_PNP_SET_POWER", format_args!("it failed with {:#x}; it must not", answer.status));
    }
}

/// Lower -> D0: OID_PNP_SET_POWER, restart; or initialize.
fn come_up(adapter: &Arc<Adapter>) {
    if !adapter.low_power.load(Ordering::Acquire) {
        return;
    }
    let done = if keeps(adapter) {
        let answer = adapter.set(oid::PNP_SET_POWER, &D0.to_le_bytes());
        adapter.low_power.store(false, Ordering::Release);
        if answer.ok() && adapter.state() == State::Paused { adapter.resume_traffic() } else { Err(answer.status) }
    } else {
        adapter.low_power.store(false, Ordering::Release);
        adapter.start()
    };
    if let Err(status) = done
        && status != NDIS_STATUS_SUCCESS
    {
        note(format_args!("ndis: {}: it does not come back from low power: {status:#x}", adapter.instance));
    }
}
