//! The PnP manager: the tree of devices, and the one thread that changes it.
//!
//! What drivers ask for ([`report`]) and what suites ask for ([`control`]) is queued; the worker takes one thing after
//! the other, at PASSIVE_LEVEL. [`settle`] waits until it has nothing left to do. Source:
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/state-transitions-for-pnp-devices>.
// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

pub mod arbiter;
pub mod boot;
pub mod control;
pub mod enumerate;
pub mod interface;
mod messages;
pub mod pci;
pub mod property;
pub mod remove;
pub mod report;
pub mod resource;
pub mod root;
pub mod send;
pub mod start;

use crate::inf::install::{Files, Store};
use crate::io::abi::*;
use crate::io::kernel::spawn;
use crate::ke::{self, abi::Event};
use crate::sync::IrqLock;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::ptr;

/// A device's number in the tree; never used again.
pub type NodeId = u64;

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its bus reported it; no driver is on it.
    Enumerated,
    /// AddDevice was called for its drivers.
    Added,
    /// It works.
    Started,
    /// It was asked whether it can stop, and said yes.
    StopQueried,
    /// Its resources are being moved.
    Stopped,
    /// It was asked whether it can go, and said yes.
    RemoveQueried,
    /// It is gone and its drivers know; files are still open on it.
    SurpriseRemoved,
    /// Its drivers are off it; the bus still reports it.
    Removed,
}

/// Why a device does not work (`CM_PROB_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// CM_PROB_NOT_CONFIGURED: no driver fits.
    NotConfigured,
    /// CM_PROB_DRIVER_FAILED_LOAD: that service did not load.
    FailedLoad,
    /// CM_PROB_FAILED_ADD: AddDevice failed, with that status.
    FailedAdd(NtStatus),
    /// CM_PROB_FAILED_START: IRP_MN_START_DEVICE failed, with that status.
    FailedStart(NtStatus),
    /// CM_PROB_NORMAL_CONFLICT: its resources are not free.
    Conflict,
    /// CM_PROB_DISABLED.
    Disabled,
    /// CM_PROB_FAILED_POST_START: a driver said that it failed (PNP_DEVICE_FAILED).
    FailedPostStart,
    /// CM_PROB_HELD_FOR_EJECT.
    HeldForEject,
    /// CM_PROB_FAILED_INSTALL: the INF could not be carried out.
    FailedInstall,
}

/// A device of the tree.
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its physical device object, to which the node holds a reference.
    pub pdo: *mut DeviceObject,
    /// Its parent; None for the root.
    pub parent: Option<NodeId>,
    /// Its children, in the order they came.
    pub children: Vec<NodeId>,
    /// Its instance path: `PCI\VEN_...\3&...`.
    pub instance: String,
    /// Where it stands.
    pub state: State,
    /// Why it does not work.
    pub problem: Option<Problem>,
    /// Most specific first.
    pub hardware_ids: Vec<String>,
    /// Most specific first.
    pub compatible_ids: Vec<String>,
    /// What it told last.
    pub capabilities: DeviceCapabilities,
    /// Bus type, interface type and number that it told.
    pub bus: Option<PnpBusInformation>,
    /// What the device decoded when it was found.
    pub boot: Vec<resource::CmDescriptor>,
    /// What it got.
    pub assignment: arbiter::Assignment,
    /// The service of its function driver.
    pub service: Option<String>,
    /// Its bus reports it.
    pub present: bool,
    /// Paging, hibernation, dump and boot files on the path through it.
    pub usage: [u32; 5],
}

/// What [`tree`] tells of a device.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its number.
    pub id: NodeId,
    /// Its parent.
    pub parent: Option<NodeId>,
    /// Depth below the root.
    pub depth: usize,
    /// Its instance path.
    pub instance: String,
    /// Where it stands.
    pub state: State,
    /// Why it does not work.
    pub problem: Option<Problem>,
    /// The service of its function driver.
    pub service: Option<String>,
    /// The names of the drivers of its stack, from the bottom.
    pub stack: Vec<String>,
    /// What it got.
    pub resources: Vec<resource::CmDescriptor>,
}

type Work = Box<dyn FnOnce() + Send>;

pub(crate) struct Tree {
    pub nodes: BTreeMap<NodeId, Node>,
    pub next: NodeId,
    pub arbiter: arbiter::Arbiter,
    queue: VecDeque<Work>,
    busy: bool,
}
// SAFETY: device objects belong to no processor.
unsafe impl Send for Tree {}

/// The packages that devices may be installed from, and the files of the system volume.
#[derive(Default)]
pub(crate) struct Library {
    pub store: Store,
    pub files: Files,
}

static TREE: IrqLock<Option<Tree>> = IrqLock::new(None);
static LIBRARY: IrqLock<Option<Library>> = IrqLock::new(None);
/// Wakes the worker.
static WAKE: StaticEvent = StaticEvent(core::cell::UnsafeCell::new(Event {
    header: ke::abi::DispatcherHeader {
        kind: ke::abi::OBJECT_SYNCHRONIZATION_EVENT,
        flags: 0,
        size: 6,
        inserted: 0,
        signal_state: 0,
        wait_list: ke::abi::ListEntry::unlinked(),
    },
}));

struct StaticEvent(core::cell::UnsafeCell<Event>);
// SAFETY: an event is used through the kernel's functions only.
unsafe impl Sync for StaticEvent {}

/// The root of the tree.
pub const ROOT: NodeId = 1;

/// Works on the tree. Never calls a driver meanwhile. Any IRQL.
pub(crate) fn with<T>(body: impl FnOnce(&mut Tree) -> T) -> T {
    let mut tree = TREE.lock();
    body(tree.as_mut().expect("the PnP manager runs"))
}

/// Works on packages and files.
pub(crate) fn with_library<T>(body: impl FnOnce(&mut Library) -> T) -> T {
    let mut library = LIBRARY.lock();
    body(library.get_or_insert_with(Library::default))
}

/// Works on one device; None if it is no longer there.
pub(crate) fn with_node<T>(id: NodeId, body: impl FnOnce(&mut Node) -> T) -> Option<T> {
    with(|tree| tree.nodes.get_mut(&id).map(body))
}

/// An arbiter that knows what belongs to the machine itself: RAM, the firmware's first megabyte, the chipset's window,
/// the ports of the system board and of PCI configuration, and the lines of timer, cascade, clock and ACPI.
fn machine_arbiter(cpus: u64) -> arbiter::Arbiter {
    let mut arbiter = arbiter::Arbiter::new(cpus);
    let firmware = [(0, 0x10_0000), (0xfec0_0000, 0x140_0000)];
    let ram = crate::platform::platform().memory_ranges().into_iter().map(|range| (range.base, range.len));
    for (start, length) in firmware.into_iter().chain(ram) {
        arbiter.reserve(resource::TYPE_MEMORY, start, length, arbiter::SYSTEM);
    }
    for (start, length) in [(0, 0x100), (0xcf8, 8)] {
        arbiter.reserve(resource::TYPE_PORT, start, length, arbiter::SYSTEM);
    }
    for line in [0, 2, 8, 9] {
        arbiter.reserve_line(line);
    }
    arbiter
}

/// Starts the manager: an empty tree and its worker. Once, at PASSIVE_LEVEL.
pub fn init() {
    let cpus = crate::platform::platform().processors();
    let mask = if cpus >= 64 { u64::MAX } else { (1 << cpus) - 1 };
    *TREE.lock() = Some(Tree {
        nodes: BTreeMap::new(),
        next: ROOT,
        arbiter: machine_arbiter(mask),
        queue: VecDeque::new(),
        busy: false,
    });
    // SAFETY: the event is static and not used yet.
    unsafe { ke::KeInitializeEvent(WAKE.0.get(), 1, 0) };
    spawn(Box::new(worker));
}

fn worker() {
    loop {
        let work = with(|tree| {
            let work = tree.queue.pop_front();
            tree.busy = work.is_some();
            work
        });
        match work {
            Some(work) => work(),
            // SAFETY: a system thread at PASSIVE_LEVEL; the event is static.
            None => unsafe {
                ke::KeWaitForSingleObject(WAKE.0.get().cast(), 0, 0, 0, ptr::null_mut());
            },
        }
    }
}

/// Gives the worker something to do. IRQL <= DISPATCH_LEVEL.
pub(crate) fn queue(work: impl FnOnce() + Send + 'static) {
    with(|tree| tree.queue.push_back(Box::new(work)));
    // SAFETY: the event is static.
    unsafe { ke::KeSetEvent(WAKE.0.get(), 0, 0) };
}

/// Has the worker do something and waits for the answer. IRQL = PASSIVE_LEVEL, not on the worker itself.
pub(crate) fn call<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    struct Shared<T> {
        event: core::cell::UnsafeCell<Event>,
        answer: IrqLock<Option<T>>,
    }
    // SAFETY: the event is used through the kernel's functions only.
    unsafe impl<T: Send> Sync for Shared<T> {}
    // SAFETY: as above.
    unsafe impl<T: Send> Send for Shared<T> {}
    let shared = alloc::sync::Arc::new(Shared {
        // SAFETY: initialized below before it is used.
        event: core::cell::UnsafeCell::new(unsafe { core::mem::zeroed() }),
        answer: IrqLock::new(None),
    });
    // SAFETY: fresh memory that stays where it is.
    unsafe { ke::KeInitializeEvent(shared.event.get(), 0, 0) };
    let theirs = alloc::sync::Arc::clone(&shared);
    queue(move || {
        let answer = work();
        *theirs.answer.lock() = Some(answer);
        // SAFETY: the Arc keeps the event.
        unsafe { ke::KeSetEvent(theirs.event.get(), 0, 0) };
    });
    // SAFETY: the Arc keeps the event.
    unsafe { ke::KeWaitForSingleObject(shared.event.get().cast(), 0, 0, 0, ptr::null_mut()) };
    let answer = shared.answer.lock().take();
    answer.expect("the worker answered")
}

/// Waits until the worker has done all that was asked, and all that came of it. IRQL = PASSIVE_LEVEL.
pub fn settle() {
    loop {
        call(|| ());
        if with(|tree| tree.queue.is_empty()) {
            return;
        }
    }
}

/// The node of a PDO.
pub fn node_of(pdo: *mut DeviceObject) -> Option<NodeId> {
    with(|tree| tree.nodes.values().find(|n| n.pdo == pdo).map(|n| n.id))
}

/// The node whose stack a device is in.
pub fn node_of_stack(device: *mut DeviceObject) -> Option<NodeId> {
    let mut at = device;
    // SAFETY: the caller's device is valid, and so are those below it.
    unsafe {
        while !(*(*at).object_extension).attached_to.is_null() {
            at = (*(*at).object_extension).attached_to;
        }
    }
    node_of(at)
}

/// The node with that instance path.
pub fn find(instance: &str) -> Option<NodeId> {
    with(|tree| tree.nodes.values().find(|n| n.instance.eq_ignore_ascii_case(instance)).map(|n| n.id))
}

/// Called when the memory of a device object goes.
pub(crate) fn device_gone(device: *mut DeviceObject) {
    let mut tree = TREE.lock();
    if let Some(tree) = tree.as_mut()
        && let Some(node) = tree.nodes.values_mut().find(|n| n.pdo == device)
    {
        node.pdo = ptr::null_mut();
    }
}

/// The tree, parents before children.
pub fn tree() -> Vec<NodeInfo> {
    let mut out = Vec::new();
    let mut walk = alloc::vec![(ROOT, 0)];
    while let Some((id, depth)) = walk.pop() {
        let found = with(|tree| {
            tree.nodes.get(&id).map(|node| {
                let info = NodeInfo {
                    id,
                    parent: node.parent,
                    depth,
                    instance: node.instance.clone(),
                    state: node.state,
                    problem: node.problem,
                    service: node.service.clone(),
                    stack: Vec::new(),
                    resources: node.assignment.translated.clone(),
                };
                (info, node.pdo, node.children.clone())
            })
        });
        let Some((mut info, pdo, children)) = found else { continue };
        if !pdo.is_null() {
            // SAFETY: the node holds a reference to its device.
            let stack = unsafe { crate::io::device::stack(pdo) };
            // SAFETY: devices of a stack are valid.
            info.stack = stack.iter().map(|d| crate::io::driver::name_of(unsafe { (**d).driver })).collect();
        }
        out.push(info);
        walk.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
    }
    out
}

pub use report::IoInvalidateDeviceRelations;

crate::exports! {
    /// Names of ntoskrnl.exe in this area.
    pub static EXPORTS in "ntoskrnl.exe";
    fn IoInvalidateDeviceRelations;
    fn IoInvalidateDeviceState = report::IoInvalidateDeviceState;
    fn IoRequestDeviceEject = report::IoRequestDeviceEject;
    fn IoReportDetectedDevice = report::IoReportDetectedDevice;
    fn IoReportRootDevice = report::IoReportRootDevice;
    fn IoRegisterPlugPlayNotification = report::IoRegisterPlugPlayNotification;
    fn IoUnregisterPlugPlayNotification = report::IoUnregisterPlugPlayNotification;
    fn IoUnregisterPlugPlayNotificationEx = report::IoUnregisterPlugPlayNotification;
    fn IoReportTargetDeviceChange = report::IoReportTargetDeviceChange;
    fn IoReportTargetDeviceChangeAsynchronous = report::IoReportTargetDeviceChangeAsynchronous;
    fn IoGetDeviceProperty = property::IoGetDeviceProperty;
    fn IoGetDevicePropertyData = property::IoGetDevicePropertyData;
    fn IoSetDevicePropertyData = property::IoSetDevicePropertyData;
    fn IoOpenDeviceRegistryKey = property::IoOpenDeviceRegistryKey;
    fn IoOpenDriverRegistryKey = property::IoOpenDriverRegistryKey;
    fn IoRegisterDeviceInterface = interface::IoRegisterDeviceInterface;
    fn IoSetDeviceInterfaceState = interface::IoSetDeviceInterfaceState;
    fn IoGetDeviceInterfaces = interface::IoGetDeviceInterfaces;
    fn IoOpenDeviceInterfaceRegistryKey = interface::IoOpenDeviceInterfaceRegistryKey;
}
