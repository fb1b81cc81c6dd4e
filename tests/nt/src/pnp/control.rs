//! What a suite or the system can do to devices. Each call waits until the PnP worker has done it.
use super::{NodeId, Problem, State, call, enumerate, remove, send, start, with, with_node};
use crate::inf::install::CONTROL_SET;
use crate::io::abi::*;
use crate::io::kernel::now;
use crate::io::status::*;
use crate::reg::{self, hive};

fn set_disabled(instance: &str, disabled: bool) {
    reg::with(|registry| {
        if let Ok(key) = registry.open(None, &alloc::format!(r"{CONTROL_SET}\Enum\{instance}")) {
            let data = u32::from(disabled).to_le_bytes().to_vec();
            let _ = registry.set_value(key, "ConfigFlags", hive::REG_DWORD, data, now());
        }
    });
}

/// Asks a device to go and takes its drivers off it; the bus still reports it.
///
/// # Errors
/// The refusal of the device or of one below it.
pub fn remove(id: NodeId) -> Result<(), NtStatus> {
    call(move || remove::ordered(id))
}

/// The first half of [`remove()`]: asks a device to go. It and those below it wait for [`remove_asked`] or [`call_off`].
///
/// # Errors
/// The refusal of the device or of one below it.
pub fn ask(id: NodeId) -> Result<(), NtStatus> {
    call(move || remove::ask(id))
}

/// The second half, after [`ask`].
pub fn remove_asked(id: NodeId) {
    call(move || remove::go(id));
}

/// The removal that was asked for does not come.
pub fn call_off(id: NodeId) {
    call(move || remove::call_off(id));
}

/// As [`remove()`], and keeps it so over a boot.
///
/// # Errors
/// As there.
pub fn disable(id: NodeId) -> Result<(), NtStatus> {
    call(move || {
        remove::ordered(id)?;
        if let Some(instance) = with_node(id, |n| {
            n.problem = Some(Problem::Disabled);
            n.instance.clone()
        }) {
            set_disabled(&instance, true);
        }
        Ok(())
    })
}

/// Brings a disabled or removed device to work again.
///
/// # Errors
/// It does not exist, or is at work.
pub fn enable(id: NodeId) -> Result<(), NtStatus> {
    call(move || {
        let Some((instance, state)) = with_node(id, |n| (n.instance.clone(), n.state)) else {
            return Err(STATUS_NO_SUCH_DEVICE);
        };
        if !matches!(state, State::Enumerated | State::Removed) {
            return Err(STATUS_INVALID_DEVICE_STATE);
        }
        set_disabled(&instance, false);
        with_node(id, |n| n.problem = None);
        enumerate::bring_up(id);
        Ok(())
    })
}

/// Ejects a device.
///
/// # Errors
/// The refusal, or STATUS_NOT_SUPPORTED.
pub fn eject(id: NodeId) -> Result<(), NtStatus> {
    call(move || remove::eject(id))
}

/// The device is torn out: surprise removal, whatever the bus says.
pub fn surprise(id: NodeId) {
    call(move || remove::surprise(id));
}

/// Stops a device, assigns its resources anew, starts it. True: it works.
pub fn rebalance(id: NodeId) -> bool {
    call(move || start::rebalance(id))
}

/// Asks a bus for its children again.
pub fn rescan(id: NodeId) {
    call(move || enumerate::enumerate(id));
}

/// Tells a device that a paging (1), hibernation (2), dump (3) or boot (4) file is put on it or taken off. Where its
/// stack refuses, nothing changes.
///
/// # Errors
/// The refusal.
pub fn set_usage(id: NodeId, kind: i32, in_path: bool) -> Result<(), NtStatus> {
    call(move || {
        let Some((pdo, State::Started)) = with_node(id, |n| (n.pdo, n.state)) else {
            return Err(STATUS_NO_SUCH_DEVICE);
        };
        let slot = usize::try_from(kind).ok().filter(|k| (1..5).contains(k)).ok_or(STATUS_INVALID_PARAMETER)?;
        // SAFETY: the node holds a reference to its device.
        let status = unsafe { send::usage_notification(pdo, kind, in_path) };
        if status < 0 {
            return Err(status);
        }
        with_node(id, |n| {
            n.usage[slot] = if in_path { n.usage[slot] + 1 } else { n.usage[slot].saturating_sub(1) };
        });
        Ok(())
    })
}

/// Sends any PnP or power request to a device's stack, for suites that test answers.
///
/// # Errors
/// The device does not exist.
///
/// # Safety
/// The parameters fit the request.
pub unsafe fn request(
    id: NodeId,
    major: u8,
    minor: u8,
    parameters: Option<Parameters>,
) -> Result<(NtStatus, usize), NtStatus> {
    let pdo = with_node(id, |n| n.pdo).filter(|p| !p.is_null()).ok_or(STATUS_NO_SUCH_DEVICE)?;
    // SAFETY: the node holds a reference to its device; the rest per the contract.
    Ok(unsafe { send::request(pdo, major, minor, parameters) })
}

/// All started devices, parents before children.
pub fn started() -> alloc::vec::Vec<NodeId> {
    let order: alloc::vec::Vec<NodeId> = super::tree().into_iter().map(|n| n.id).collect();
    order
        .into_iter()
        .filter(|id| with(|tree| tree.nodes.get(id).is_some_and(|n| n.state == State::Started && !n.pdo.is_null())))
        .collect()
}
