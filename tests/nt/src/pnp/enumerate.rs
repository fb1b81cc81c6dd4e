//! Finding devices: asks a bus for its children, takes them into the tree, and gives up those that are gone.
use super::send::{self, BUS_RELATIONS, ID_COMPATIBLE, ID_DEVICE, ID_HARDWARE, ID_INSTANCE};
use super::{Node, NodeId, Problem, State, arbiter, resource, start, with, with_library, with_node};
use crate::inf::install::CONTROL_SET;
use crate::io::abi::*;
use crate::io::kernel::{note, now, violation};
use crate::io::status::*;
use crate::ob::ObfDereferenceObject;
use crate::reg::{self, hive};
use alloc::string::String;
use alloc::vec::Vec;
use core::ptr;

/// A new node for a PDO whose reference the node takes over.
pub(crate) fn insert(parent: Option<NodeId>, pdo: *mut DeviceObject, instance: String) -> NodeId {
    with(|tree| {
        let id = tree.next;
        tree.next += 1;
        tree.nodes.insert(
            id,
            Node {
                id,
                pdo,
                parent,
                children: Vec::new(),
                instance,
                state: State::Enumerated,
                problem: None,
                hardware_ids: Vec::new(),
                compatible_ids: Vec::new(),
                capabilities: DeviceCapabilities::query(),
                bus: None,
                boot: Vec::new(),
                assignment: arbiter::Assignment::default(),
                service: None,
                present: true,
                usage: [0; 5],
            },
        );
        if let Some(parent) = parent.and_then(|p| tree.nodes.get_mut(&p)) {
            parent.children.push(id);
        }
        id
    })
}

/// A hash of a text that is the same in every boot (FNV-1a).
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b.to_ascii_uppercase())).wrapping_mul(0x0100_0193))
}

/// The instance path. Where the bus does not promise that its identifier is unique in the system, the parent's place
/// is put before it, as Windows does.
fn instance_path(parent: NodeId, device_id: &str, instance: Option<&str>, unique: bool) -> String {
    let instance = instance.unwrap_or("0");
    if unique {
        return alloc::format!("{device_id}\\{instance}");
    }
    let (above, depth) = with(|tree| {
        let mut depth = 1;
        let mut at = tree.nodes.get(&parent);
        while let Some(up) = at.and_then(|n| n.parent) {
            depth += 1;
            at = tree.nodes.get(&up);
        }
        (tree.nodes.get(&parent).map(|n| n.instance.clone()).unwrap_or_default(), depth)
    });
    alloc::format!("{device_id}\\{depth}&{:x}&0&{instance}", hash(&above))
}

/// Asks the bus `id` for its children and brings the tree in line, then brings up what is new.
pub(crate) fn enumerate(id: NodeId) {
    let Some((pdo, State::Started)) = with_node(id, |node| (node.pdo, node.state)) else { return };
    if pdo.is_null() {
        return;
    }
    // SAFETY: the node holds a reference to its device.
    let reported = match unsafe { send::query_relations(pdo, BUS_RELATIONS) } {
        Ok(list) => list,
        // Not a bus.
        Err(STATUS_NOT_SUPPORTED) => return,
        Err(status) => {
            note(format_args!("PnP: bus relations of node {id} failed with {status:#x}"));
            return;
        }
    };
    let known: Vec<(NodeId, *mut DeviceObject)> = with(|tree| {
        let children = tree.nodes.get(&id).map(|n| n.children.clone()).unwrap_or_default();
        children.iter().filter_map(|c| tree.nodes.get(c)).map(|n| (n.id, n.pdo)).collect()
    });
    for (child, pdo) in &known {
        if !reported.contains(pdo) {
            with_node(*child, |node| node.present = false);
            super::remove::missing(*child);
        }
    }
    let mut fresh = Vec::new();
    for pdo in reported {
        if known.iter().any(|(_, p)| *p == pdo) {
            // SAFETY: the list came with a reference, and the node has its own.
            unsafe { ObfDereferenceObject(pdo.cast()) };
            continue;
        }
        // SAFETY: the list came with a reference.
        if unsafe { (*pdo).kind } != IO_TYPE_DEVICE {
            violation("PNP-RELATIONS", format_args!("a bus driver reported {pdo:p}, which is no device object"));
        }
        // SAFETY: as above.
        if unsafe { (*pdo).flags } & do_flags::DEVICE_INITIALIZING != 0 {
            violation("PNP-INITIALIZING", format_args!("a bus driver reported a PDO with DO_DEVICE_INITIALIZING set"));
        }
        if let Some(child) = adopt(id, pdo) {
            fresh.push(child);
        }
    }
    for child in fresh {
        bring_up(child);
    }
}

/// Learns what there is to know of a new PDO, whose reference it takes over. None: it tells no device identifier.
pub(crate) fn adopt(parent: NodeId, pdo: *mut DeviceObject) -> Option<NodeId> {
    // SAFETY: the caller has a reference, which the node takes over.
    unsafe {
        (*pdo).flags |= do_flags::BUS_ENUMERATED_DEVICE;
        let device_id = send::query_id(pdo, ID_DEVICE);
        let Some(device_id) = device_id else {
            note(format_args!("PnP: a device below node {parent} has no device identifier"));
            ObfDereferenceObject(pdo.cast());
            return None;
        };
        let capabilities = send::query_capabilities(pdo);
        let instance_id = send::query_id(pdo, ID_INSTANCE);
        let unique = capabilities.bits & caps::UNIQUE_ID != 0;
        let instance = instance_path(parent, &device_id, instance_id.as_deref(), unique);
        if super::find(&instance).is_some() {
            // PNP_DETECTED_FATAL_ERROR, duplicate PDO
            violation("PNP-DUPLICATE", format_args!("two devices have the instance path {instance}"));
        }
        let id = insert(Some(parent), pdo, instance.clone());
        let hardware_ids = send::query_ids(pdo, ID_HARDWARE);
        let compatible_ids = send::query_ids(pdo, ID_COMPATIBLE);
        let description = send::query_text(pdo, 0);
        let location = send::query_text(pdo, 1);
        let bus = send::query_bus_information(pdo);
        let boot = resource::parse_cm_resource_list(&send::query_resources(pdo)).unwrap_or_default();
        reg::with(|registry| {
            let path = alloc::format!(r"{CONTROL_SET}\Enum\{instance}");
            let Ok(key) = registry.create_path(&path, now()) else { return };
            let _ = registry.create(Some(key), "Device Parameters", false, now());
            let mut set = |name: &str, kind: u32, data: Vec<u8>| {
                let _ = registry.set_value(key, name, kind, data, now());
            };
            set("HardwareID", hive::REG_MULTI_SZ, hive::multi_sz(&hardware_ids));
            set("CompatibleIDs", hive::REG_MULTI_SZ, hive::multi_sz(&compatible_ids));
            // The capabilities that devices share with SetupDi start at LockSupported.
            set("Capabilities", hive::REG_DWORD, (capabilities.bits >> 2).to_le_bytes().to_vec());
            if capabilities.ui_number != u32::MAX {
                set("UINumber", hive::REG_DWORD, capabilities.ui_number.to_le_bytes().to_vec());
            }
            if let Some(text) = &location {
                set("LocationInformation", hive::REG_SZ, hive::sz(text));
            }
            if let Some(text) = &description {
                set("BusReportedDeviceDesc", hive::REG_SZ, hive::sz(text));
            }
        });
        with_node(id, |node| {
            node.hardware_ids = hardware_ids;
            node.compatible_ids = compatible_ids;
            node.capabilities = capabilities;
            node.bus = bus;
            node.boot = boot;
        });
        Some(id)
    }
}

/// What the registry says of a device.
struct Configured {
    service: Option<String>,
    class: Option<String>,
    disabled: bool,
}

fn configured(instance: &str) -> Configured {
    const CONFIGFLAG_DISABLED: u32 = 1;
    reg::with(|registry| {
        let path = alloc::format!(r"{CONTROL_SET}\Enum\{instance}");
        let key = registry.open(None, &path).ok();
        let text = |name: &str| {
            key.and_then(|key| registry.value(key, name).ok()).map(|v| hive::sz_text(&v.data)).filter(|t| !t.is_empty())
        };
        let flags = key.and_then(|key| registry.value(key, "ConfigFlags").ok());
        let flags = flags.and_then(|v| v.data.get(..4)).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Configured { service: text("Service"), class: text("ClassGUID"), disabled: flags & CONFIGFLAG_DISABLED != 0 }
    })
}

/// Installs the best driver on a device that has none. Returns whether one was found.
fn install(id: NodeId) -> Result<bool, ()> {
    let Some((instance, hardware, compatible)) =
        with_node(id, |n| (n.instance.clone(), n.hardware_ids.clone(), n.compatible_ids.clone()))
    else {
        return Err(());
    };
    with_library(|library| {
        let Some((index, found)) = library.store.best(&hardware, &compatible) else { return Ok(false) };
        let package = library.store.packages()[index].name.clone();
        let done = reg::with(|registry| {
            library.store.install_device(index, &found, &instance, registry, &mut library.files, now())
        });
        match done {
            Ok(done) => {
                note(format_args!("PnP: {instance}: {package}, {}, rank {:#x}", found.id, found.rank));
                for text in done.notes {
                    note(format_args!("PnP: {package}: {text}"));
                }
                Ok(true)
            }
            Err(error) => {
                note(format_args!("PnP: {instance}: {package} cannot be installed: {error}"));
                Err(())
            }
        }
    })
}

/// Filters of a list in the registry.
fn filters(path: &str, name: &str) -> Vec<String> {
    reg::with(|registry| {
        let value = registry.open(None, path).and_then(|key| registry.value(key, name).cloned());
        value.map(|v| hive::multi_sz_list(&v.data)).unwrap_or_default()
    })
}

/// Brings a device that is enumerated or was removed to work: driver, AddDevice, resources, start, children.
pub(crate) fn bring_up(id: NodeId) {
    let Some((instance, raw_ok)) =
        with_node(id, |n| (n.instance.clone(), n.capabilities.bits & caps::RAW_DEVICE_OK != 0))
    else {
        return;
    };
    let mut known = configured(&instance);
    if known.disabled {
        with_node(id, |n| n.problem = Some(Problem::Disabled));
        return;
    }
    if known.service.is_none() && known.class.is_none() {
        match install(id) {
            Ok(true) => known = configured(&instance),
            Ok(false) if raw_ok => {}
            Ok(false) => {
                with_node(id, |n| n.problem = Some(Problem::NotConfigured));
                note(format_args!("PnP: no driver fits {instance}"));
                return;
            }
            Err(()) => {
                with_node(id, |n| n.problem = Some(Problem::FailedInstall));
                return;
            }
        }
    }
    let device_path = alloc::format!(r"{CONTROL_SET}\Enum\{instance}");
    let class_path =
        known.class.as_ref().map(|class| alloc::format!(r"{CONTROL_SET}\Control\Class\{class}")).unwrap_or_default();
    // Bottom up: lower filters of device and class, the function driver, upper filters of device and class.
    let mut chain: Vec<(String, bool)> = Vec::new();
    let lower = filters(&device_path, "LowerFilters").into_iter().chain(filters(&class_path, "LowerFilters"));
    chain.extend(lower.map(|name| (name, false)));
    chain.extend(known.service.clone().map(|name| (name, true)));
    let upper = filters(&device_path, "UpperFilters").into_iter().chain(filters(&class_path, "UpperFilters"));
    chain.extend(upper.map(|name| (name, false)));

    with_node(id, |n| {
        n.problem = None;
        n.service.clone_from(&known.service);
    });
    let Some(pdo) = with_node(id, |n| n.pdo) else { return };
    for (service, function) in chain {
        let Ok(driver) = start::load_service(&service) else {
            // A filter that does not load keeps the device down too (0x7B on a boot disk).
            note(format_args!("PnP: {instance}: the driver {service} is not there"));
            with_node(id, |n| n.problem = Some(Problem::FailedLoad));
            super::remove::take_down(id);
            return;
        };
        // SAFETY: driver and device are valid.
        let status = unsafe {
            match (*(*driver).extension).add_device {
                Some(add_device) => add_device(driver, pdo),
                None => STATUS_NOT_SUPPORTED,
            }
        };
        if status < 0 {
            note(format_args!("PnP: {instance}: AddDevice of {service} failed with {status:#x}"));
            if function {
                with_node(id, |n| n.problem = Some(Problem::FailedAdd(status)));
                super::remove::take_down(id);
                return;
            }
        }
        // SAFETY: the node holds a reference to its device.
        for device in unsafe { crate::io::device::stack(pdo) } {
            // SAFETY: a device of the stack.
            if unsafe { (*device).flags } & do_flags::DEVICE_INITIALIZING != 0 {
                violation(
                    "PNP-INITIALIZING",
                    format_args!("AddDevice of {service} left DO_DEVICE_INITIALIZING set in its device"),
                );
            }
        }
    }
    with_node(id, |n| n.state = State::Added);
    start::start(id);
}

/// Puts the root of the tree in.
pub(crate) fn insert_root() {
    insert(None, ptr::null_mut(), String::from("HTREE\\ROOT\\0"));
}
