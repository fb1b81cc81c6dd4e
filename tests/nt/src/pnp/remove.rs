//! Taking devices away: asked, by surprise, by eject; with everything below them.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/removing-a-device>.
use super::{NodeId, Problem, State, enumerate, send, with, with_node};
use crate::io::abi::*;
use crate::io::device::stack;
use crate::io::driver;
use crate::io::kernel::{note, violation};
use crate::io::status::*;
use crate::ob::ObfDereferenceObject;
use alloc::vec::Vec;

/// A device and all below it, children before parents.
fn subtree(id: NodeId) -> Vec<NodeId> {
    with(|tree| {
        let mut order = Vec::new();
        let mut walk = alloc::vec![id];
        while let Some(at) = walk.pop() {
            order.push(at);
            walk.extend(tree.nodes.get(&at).map(|n| n.children.clone()).unwrap_or_default());
        }
        order.reverse();
        order
    })
}

fn drivers_on(state: State) -> bool {
    !matches!(state, State::Enumerated | State::Removed)
}

/// Handles that are open on a stack.
fn open_files(pdo: *mut DeviceObject) -> i32 {
    // SAFETY: the node holds a reference to its device, whose stack is valid.
    unsafe { stack(pdo).into_iter().map(|d| core::ptr::read_volatile(&raw const (*d).reference_count)).sum() }
}

/// Sends IRP_MN_REMOVE_DEVICE to one device and checks that its drivers let go.
fn remove_one(id: NodeId) {
    let Some((pdo, state, instance)) = with_node(id, |n| (n.pdo, n.state, n.instance.clone())) else { return };
    let present = with_node(id, |n| n.present).unwrap_or(false);
    // SAFETY: the node holds a reference to its device, whose stack is valid.
    let mut drivers: Vec<_> = unsafe { stack(pdo).into_iter().skip(1).map(|d| driver::name_of((*d).driver)).collect() };
    drivers.extend(with_node(id, |n| n.service.clone()).flatten());
    if drivers_on(state) || !present {
        // SAFETY: the node holds a reference to its device.
        unsafe {
            send::simple(pdo, mn::REMOVE_DEVICE);
            if !(*pdo).attached.is_null() {
                violation(
                    "PNP-REMOVE",
                    format_args!("{instance}: a device is still attached after IRP_MN_REMOVE_DEVICE"),
                );
            }
        }
    }
    with(|tree| {
        tree.arbiter.release(id);
        if let Some(node) = tree.nodes.get_mut(&id) {
            node.state = State::Removed;
            node.assignment = super::arbiter::Assignment::default();
        }
    });
    if !present {
        forget(id);
    }
    // A driver without devices is unloaded, if it can be.
    for name in drivers {
        let _ = driver::unload(&name);
    }
}

/// Takes a device out of the tree; its bus has let go of it.
fn forget(id: NodeId) {
    let pdo = with(|tree| {
        let node = tree.nodes.remove(&id)?;
        if let Some(parent) = node.parent.and_then(|p| tree.nodes.get_mut(&p)) {
            parent.children.retain(|c| *c != id);
        }
        Some(node.pdo)
    });
    if let Some(pdo) = pdo.filter(|p| !p.is_null()) {
        // SAFETY: the node held a reference.
        unsafe { ObfDereferenceObject(pdo.cast()) };
    }
}

/// Takes the drivers off a device that could not start.
pub(crate) fn take_down(id: NodeId) {
    // SAFETY: the node holds a reference to its device.
    let attached = with_node(id, |n| unsafe { !(*n.pdo).attached.is_null() }).unwrap_or(false);
    with_node(id, |n| n.state = if attached { State::Added } else { State::Enumerated });
    remove_one(id);
}

/// The bus no longer reports a device: it and all below it go by surprise.
pub(crate) fn missing(id: NodeId) {
    for below in subtree(id) {
        with_node(below, |n| n.present = false);
    }
    surprise(id);
}

/// Surprise removal of a device and all below it. Those that are in use lose their files first.
pub(crate) fn surprise(id: NodeId) {
    let order = subtree(id);
    for &below in &order {
        let Some((pdo, state)) = with_node(below, |n| (n.pdo, n.state)) else { continue };
        if matches!(state, State::Started | State::Stopped | State::StopQueried | State::RemoveQueried) {
            // SAFETY: the node holds a reference to its device.
            unsafe { send::simple(pdo, mn::SURPRISE_REMOVAL) };
            with_node(below, |n| n.state = State::SurpriseRemoved);
        }
    }
    finish(&order);
}

/// Removes those of a list on which no file is open; the others when their last handle is closed.
fn finish(order: &[NodeId]) {
    for &id in order {
        let Some((pdo, children)) = with_node(id, |n| (n.pdo, n.children.len())) else { continue };
        let waits = children != 0
            && with_node(id, |n| n.children.clone()).is_some_and(|c| {
                c.iter().any(|c| with_node(*c, |n| n.state == State::SurpriseRemoved).unwrap_or(false))
            });
        if !waits && open_files(pdo) == 0 {
            remove_one(id);
        }
    }
}

/// The last handle of a device was closed: a removal that waited for it goes on.
pub(crate) fn handle_closed(device: *mut DeviceObject) {
    let Some(id) = super::node_of_stack(device) else { return };
    let waiting = with_node(id, |n| n.state == State::SurpriseRemoved).unwrap_or(false);
    if waiting {
        super::queue(move || {
            let mut at = Some(id);
            while let Some(id) = at {
                let parent = with_node(id, |n| n.parent).flatten();
                if with_node(id, |n| n.state) == Some(State::SurpriseRemoved) {
                    finish(&subtree(id));
                }
                at = parent;
            }
        });
    }
}

/// Asks a device and all below it whether they can go. On a refusal all are told that it is off.
fn query(order: &[NodeId]) -> Result<(), NtStatus> {
    let mut asked: Vec<NodeId> = Vec::new();
    let mut refusal = None;
    for &id in order {
        let Some((pdo, State::Started)) = with_node(id, |n| (n.pdo, n.state)) else { continue };
        asked.push(id);
        // SAFETY: the node holds a reference to its device.
        let status = unsafe { send::simple(pdo, mn::QUERY_REMOVE_DEVICE) };
        if status < 0 {
            refusal = Some(status);
            break;
        }
        if open_files(pdo) != 0 {
            refusal = Some(STATUS_DEVICE_BUSY);
            break;
        }
        with_node(id, |n| n.state = State::RemoveQueried);
    }
    let Some(status) = refusal else { return Ok(()) };
    cancel(&asked);
    Err(status)
}

/// Tells devices that were asked that it is off.
fn cancel(asked: &[NodeId]) {
    for &id in asked.iter().rev() {
        let Some(pdo) = with_node(id, |n| n.pdo) else { continue };
        // SAFETY: the node holds a reference to its device.
        unsafe { send::simple(pdo, mn::CANCEL_REMOVE_DEVICE) };
        with_node(id, |n| n.state = State::Started);
    }
}

/// The first half of an orderly removal: all agree, or nothing happens.
///
/// # Errors
/// The first refusal.
pub(crate) fn ask(id: NodeId) -> Result<(), NtStatus> {
    query(&subtree(id))
}

/// The removal that all have agreed to does not come.
pub(crate) fn call_off(id: NodeId) {
    let mut asked = subtree(id);
    asked.retain(|id| with_node(*id, |n| n.state) == Some(State::RemoveQueried));
    cancel(&asked);
}

/// An orderly removal: all agree, or nothing happens.
///
/// # Errors
/// The first refusal.
pub(crate) fn ordered(id: NodeId) -> Result<(), NtStatus> {
    ask(id)?;
    go(id);
    Ok(())
}

/// The second half of an orderly removal.
pub(crate) fn go(id: NodeId) {
    for below in subtree(id) {
        if below != id {
            // What is below a removed device is gone with it: its bus has no driver any more.
            with_node(below, |n| n.present = false);
        }
        remove_one(below);
    }
}

/// Ejects a device: asked, removed, then IRP_MN_EJECT to its bus, which is enumerated again.
///
/// # Errors
/// The device refused to go, or its bus cannot eject.
pub(crate) fn eject(id: NodeId) -> Result<(), NtStatus> {
    let Some((pdo, parent, instance, bits)) =
        with_node(id, |n| (n.pdo, n.parent, n.instance.clone(), n.capabilities.bits))
    else {
        return Err(STATUS_NO_SUCH_DEVICE);
    };
    if bits & caps::EJECT_SUPPORTED == 0 {
        return Err(STATUS_NOT_SUPPORTED);
    }
    if let Err(status) = ordered(id) {
        note(format_args!("PnP: {instance}: eject refused with {status:#x}"));
        return Err(status);
    }
    with_node(id, |n| n.problem = Some(Problem::HeldForEject));
    // SAFETY: the node holds a reference to its device.
    let status = unsafe { send::simple(pdo, mn::EJECT) };
    if let Some(parent) = parent {
        enumerate::enumerate(parent);
    }
    if status < 0 { Err(status) } else { Ok(()) }
}
