//! Bringing a device to work: its driver loaded, its resources assigned, IRP_MN_START_DEVICE.
use super::resource::{Requirements, cm_resource_list};
use super::{NodeId, Problem, State, arbiter, enumerate, send, with, with_library, with_node};
use crate::inf::install::CONTROL_SET;
use crate::io::abi::*;
use crate::io::driver;
use crate::io::kernel::{note, paged_alloc, pool_free};
use crate::io::status::*;
use crate::reg::{self, hive};
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;

/// SERVICE_DISABLED.
const SERVICE_DISABLED: u32 = 4;

/// The driver of a service, loaded if it is not yet. IRQL = PASSIVE_LEVEL.
///
/// # Errors
/// There is no such service, it is disabled, its image is missing, or it does not load.
pub fn load_service(service: &str) -> Result<*mut DriverObject, NtStatus> {
    if let Some(found) = driver::find(service) {
        return Ok(found);
    }
    let path = alloc::format!(r"{CONTROL_SET}\Services\{service}");
    let (image, start) = reg::with(|registry| {
        let key = registry.open(None, &path).map_err(|_| STATUS_OBJECT_NAME_NOT_FOUND)?;
        let image = registry.value(key, "ImagePath").map(|v| hive::sz_text(&v.data)).unwrap_or_default();
        let start = registry
            .value(key, "Start")
            .ok()
            .and_then(|v| v.data.get(..4))
            .map_or(3, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let default = || alloc::format!(r"System32\drivers\{service}.sys");
        Ok::<_, NtStatus>((if image.is_empty() { default() } else { image }, start))
    })?;
    if start == SERVICE_DISABLED {
        return Err(STATUS_DRIVER_UNABLE_TO_LOAD);
    }
    let Some(bytes) = with_library(|library| library.files.read(&image)) else {
        note(format_args!("{service}: {image} does not exist"));
        return Err(STATUS_NO_SUCH_FILE);
    };
    let name = image.rsplit('\\').next().unwrap_or(&image);
    driver::load(service, name, &bytes)
}

/// A list in pool for the time of a request; NULL if it is empty.
struct PoolList(*mut u8);

impl PoolList {
    fn new(bytes: &[u8]) -> Self {
        let memory =
            if bytes.is_empty() { ptr::null_mut() } else { paged_alloc(bytes.len(), u32::from_le_bytes(*b"PpRs")) };
        if !memory.is_null() {
            // SAFETY: allocated with that size.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len()) };
        }
        Self(memory)
    }

    fn pointer(&self) -> *mut c_void {
        self.0.cast()
    }
}

impl Drop for PoolList {
    fn drop(&mut self) {
        if !self.0.is_null() {
            pool_free(self.0, 0);
        }
    }
}

/// Assigns resources to a device whose drivers are on it.
fn assign(id: NodeId) -> Result<(), Problem> {
    let Some((pdo, boot)) = with_node(id, |n| (n.pdo, n.boot.clone())) else {
        return Err(Problem::NotConfigured);
    };
    // Asked here, with the INF installed: it may say that the device wants messages.
    // <https://learn.microsoft.com/windows-hardware/drivers/kernel/irp-mn-query-resource-requirements>
    // SAFETY: the node holds a reference to its device.
    let filtered = unsafe { send::filter_requirements(pdo, send::query_requirements(pdo)) };
    if filtered.is_empty() {
        // A device that asks for nothing keeps what it decodes.
        with_node(id, |n| {
            n.assignment = arbiter::Assignment { raw: n.boot.clone(), translated: n.boot.clone() };
        });
        return Ok(());
    }
    let Some(asked) = Requirements::parse(&filtered) else {
        crate::io::kernel::violation(
            "PNP-REQUIREMENTS",
            format_args!("a filtered resource requirements list has counts that run past its size"),
        );
    };
    with(|tree| {
        tree.arbiter.release(id);
        let Some(assignment) = tree.arbiter.assign(&asked, &boot, id) else { return Err(Problem::Conflict) };
        if let Some(node) = tree.nodes.get_mut(&id) {
            node.assignment = assignment;
        }
        Ok(())
    })
}

/// Sends IRP_MN_START_DEVICE with what was assigned.
fn send_start(id: NodeId) -> NtStatus {
    let Some((pdo, assignment, bus)) = with_node(id, |n| (n.pdo, n.assignment.clone(), n.bus)) else {
        return STATUS_NO_SUCH_DEVICE;
    };
    let (kind, number) = bus.map_or((0, 0), |b| (b.interface_type as u32, b.number));
    let list = |descriptors: &Vec<_>| {
        if descriptors.is_empty() { Vec::new() } else { cm_resource_list(kind, number, descriptors) }
    };
    let (raw, translated) = (PoolList::new(&list(&assignment.raw)), PoolList::new(&list(&assignment.translated)));
    // SAFETY: the node holds a reference to its device; the lists live until the request is done.
    unsafe { send::start(pdo, raw.pointer(), translated.pointer()) }
}

/// Starts a device whose drivers are on it, and finds its children.
pub(crate) fn start(id: NodeId) {
    if let Err(problem) = assign(id) {
        with_node(id, |n| n.problem = Some(problem));
        super::remove::take_down(id);
        return;
    }
    let status = send_start(id);
    let Some((pdo, instance)) = with_node(id, |n| (n.pdo, n.instance.clone())) else { return };
    if status < 0 {
        note(format_args!("PnP: {instance}: start failed with {status:#x}"));
        with_node(id, |n| n.problem = Some(Problem::FailedStart(status)));
        super::remove::take_down(id);
        return;
    }
    // SAFETY: the node holds a reference to its device.
    let capabilities = unsafe { send::query_capabilities(pdo) };
    with_node(id, |n| {
        n.state = State::Started;
        n.capabilities = capabilities;
    });
    note(format_args!("PnP: {instance}: started"));
    if check_state(id) {
        enumerate::enumerate(id);
    }
}

/// `PNP_DEVICE_*` of IRP_MN_QUERY_PNP_DEVICE_STATE.
mod device_state {
    pub const DISABLED: usize = 0x1;
    pub const FAILED: usize = 0x4;
    pub const REMOVED: usize = 0x8;
    pub const RESOURCE_REQUIREMENTS_CHANGED: usize = 0x10;
}

/// Asks a started device for its PnP state and acts on it. False: it is no longer started.
pub(crate) fn check_state(id: NodeId) -> bool {
    let Some((pdo, State::Started)) = with_node(id, |n| (n.pdo, n.state)) else { return false };
    // SAFETY: the node holds a reference to its device.
    let (status, state) = unsafe { send::request(pdo, mj::PNP, mn::QUERY_PNP_DEVICE_STATE, None) };
    if status < 0 {
        return true;
    }
    if state & (device_state::FAILED | device_state::REMOVED | device_state::DISABLED) != 0 {
        with_node(id, |n| n.problem = Some(Problem::FailedPostStart));
        super::remove::surprise(id);
        return false;
    }
    if state & device_state::RESOURCE_REQUIREMENTS_CHANGED != 0 {
        return rebalance(id);
    }
    true
}

/// Stops a device and starts it with newly assigned resources. False: it does not work any longer.
pub(crate) fn rebalance(id: NodeId) -> bool {
    let Some((pdo, State::Started)) = with_node(id, |n| (n.pdo, n.state)) else { return false };
    // SAFETY: the node holds a reference to its device.
    unsafe {
        if send::simple(pdo, mn::QUERY_STOP_DEVICE) < 0 {
            send::simple(pdo, mn::CANCEL_STOP_DEVICE);
            return true;
        }
        with_node(id, |n| n.state = State::StopQueried);
        send::simple(pdo, mn::STOP_DEVICE);
        with_node(id, |n| n.state = State::Stopped);
    }
    let fault = match assign(id) {
        Err(problem) => Some(problem),
        Ok(()) => match send_start(id) {
            status if status < 0 => Some(Problem::FailedStart(status)),
            _ => None,
        },
    };
    if let Some(problem) = fault {
        with_node(id, |n| n.problem = Some(problem));
        super::remove::surprise(id);
        return false;
    }
    with_node(id, |n| n.state = State::Started);
    true
}
