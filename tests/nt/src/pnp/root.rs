//! The root of the tree: `\Driver\PnpManager` enumerates what no bus finds (the PCI root bus, root-enumerated drivers,
//! devices that drivers reported).
use super::{ROOT, State, enumerate, with_library, with_node};
use crate::inf::install::CONTROL_SET;
use crate::inf::models::root_models;
use crate::io::abi::*;
use crate::io::device::IoCreateDevice;
use crate::io::driver;
use crate::io::irp::{IofCompleteRequest, current};
use crate::io::kernel::paged_alloc;
use crate::io::status::*;
use crate::io::text;
use crate::ob::ObfReferenceObject;
use crate::reg::{self, hive};
use crate::rtl::abi::Guid;
use crate::sync::IrqLock;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ptr;

/// GUID_BUS_TYPE_INTERNAL.
const BUS_TYPE_INTERNAL: Guid =
    Guid { data1: 0x1530_ea73, data2: 0x086b, data3: 0x11d1, data4: [0xa0, 0x9f, 0x00, 0xc0, 0x4f, 0xc3, 0x40, 0xb1] };

/// A child of the root.
struct Child {
    device: *mut DeviceObject,
    device_id: String,
    instance: String,
    hardware: Vec<String>,
}

struct Children(Vec<Child>);
// SAFETY: device objects belong to no processor.
unsafe impl Send for Children {}

static CHILDREN: IrqLock<Children> = IrqLock::new(Children(Vec::new()));

/// The string in paged pool, as answers to IRP_MN_QUERY_ID are; lists get a second terminator.
pub(crate) fn pool_string(text: &str, list: bool) -> usize {
    let units = text.encode_utf16().count();
    let memory = paged_alloc(2 * (units + 1 + usize::from(list)), u32::from_le_bytes(*b"PpId"));
    if !memory.is_null() {
        // SAFETY: room for the text; the rest is zero.
        unsafe { text::copy_utf16(text, memory.cast()) };
    }
    memory as usize
}

/// A list of strings in paged pool.
pub(crate) fn pool_list(list: &[String]) -> usize {
    let joined = list.join("\0");
    pool_string(&joined, true)
}

/// Completes an IRP with a result.
///
/// # Safety
/// The IRP belongs to the caller.
pub(crate) unsafe fn complete(irp: *mut Irp, status: NtStatus, information: usize) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        (*irp).io_status = IoStatusBlock::new(status, information);
        IofCompleteRequest(irp, 0);
    }
    status
}

unsafe extern "win64" fn pnp(device: *mut DeviceObject, irp: *mut Irp) -> NtStatus {
    // SAFETY: an IRP that came to this driver.
    unsafe {
        let location = current(irp);
        let before = (*irp).io_status;
        let (status, information) = match (*location).minor {
            mn::START_DEVICE
            | mn::QUERY_REMOVE_DEVICE
            | mn::CANCEL_REMOVE_DEVICE
            | mn::REMOVE_DEVICE
            | mn::QUERY_STOP_DEVICE
            | mn::STOP_DEVICE
            | mn::CANCEL_STOP_DEVICE
            | mn::SURPRISE_REMOVAL
            | mn::DEVICE_USAGE_NOTIFICATION => (STATUS_SUCCESS, 0),
            mn::QUERY_ID => {
                let children = CHILDREN.lock();
                let child = children.0.iter().find(|c| c.device == device);
                let found = child.map(|c| (c.device_id.clone(), c.instance.clone(), c.hardware.clone()));
                drop(children);
                let Some((device_id, instance, hardware)) = found else {
                    return complete(irp, STATUS_NO_SUCH_DEVICE, 0);
                };
                let memory = match (*location).parameters.id_type {
                    super::send::ID_DEVICE => pool_string(&device_id, false),
                    super::send::ID_INSTANCE => pool_string(&instance, false),
                    super::send::ID_HARDWARE => pool_list(&hardware),
                    _ => return complete(irp, before.status, before.information),
                };
                (if memory == 0 { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }, memory)
            }
            mn::QUERY_CAPABILITIES => {
                (*(*location).parameters.capabilities).bits |= caps::UNIQUE_ID | caps::SILENT_INSTALL;
                (STATUS_SUCCESS, 0)
            }
            mn::QUERY_BUS_INFORMATION => {
                let memory = paged_alloc(size_of::<PnpBusInformation>(), u32::from_le_bytes(*b"PpBi"));
                if memory.is_null() {
                    (STATUS_INSUFFICIENT_RESOURCES, 0)
                } else {
                    let information = PnpBusInformation { guid: BUS_TYPE_INTERNAL, interface_type: 0, number: 0 };
                    memory.cast::<PnpBusInformation>().write(information);
                    (STATUS_SUCCESS, memory as usize)
                }
            }
            mn::QUERY_DEVICE_RELATIONS
                if (*location).parameters.relation_type == super::send::TARGET_DEVICE_RELATION =>
            {
                (STATUS_SUCCESS, target_relation(device))
            }
            _ => (before.status, before.information),
        };
        complete(irp, status, information)
    }
}

/// The answer to TargetDeviceRelation of a PDO: itself.
pub(crate) fn target_relation(device: *mut DeviceObject) -> usize {
    let memory = paged_alloc(size_of::<DeviceRelations>(), u32::from_le_bytes(*b"PpDr"));
    if !memory.is_null() {
        // SAFETY: room for one object; the receiver gets a reference.
        unsafe {
            ObfReferenceObject(device.cast());
            memory.cast::<DeviceRelations>().write(DeviceRelations { count: 1, objects: [device] });
        }
    }
    memory as usize
}

unsafe extern "win64" fn power(_: *mut DeviceObject, irp: *mut Irp) -> NtStatus {
    // SAFETY: an IRP that came to this driver.
    unsafe {
        let status = match (*current(irp)).minor {
            mn::SET_POWER | mn::QUERY_POWER => STATUS_SUCCESS,
            _ => (*irp).io_status.status,
        };
        crate::po::PoStartNextPowerIrp(irp);
        complete(irp, status, 0)
    }
}

/// WMI requests end here as they came: the root's devices have no blocks.
unsafe extern "win64" fn system_control(_: *mut DeviceObject, irp: *mut Irp) -> NtStatus {
    // SAFETY: an IRP that came to this driver.
    unsafe {
        let before = (*irp).io_status;
        complete(irp, before.status, before.information)
    }
}

/// Makes the root and its driver. Once.
pub(crate) fn init() {
    let made = driver::builtin("PnpManager", |driver| {
        driver.major[usize::from(mj::PNP)] = Some(pnp);
        driver.major[usize::from(mj::POWER)] = Some(power);
        driver.major[usize::from(mj::SYSTEM_CONTROL)] = Some(system_control);
    });
    assert!(made.is_ok(), "the root bus driver could not be made");
    enumerate::insert_root();
    with_node(ROOT, |n| n.state = State::Started);
}

/// Adds a child of the root. With `bring_up` its driver is looked for (on the worker); without, its driver is the caller.
///
/// # Errors
/// There is no memory.
pub(crate) fn add(
    device_id: &str,
    instance: &str,
    hardware: &[String],
    bring_up: bool,
) -> Result<*mut DeviceObject, NtStatus> {
    let driver = driver::find("PnpManager").ok_or(STATUS_UNSUCCESSFUL)?;
    let mut device = ptr::null_mut();
    // SAFETY: valid arguments.
    unsafe {
        // FILE_DEVICE_CONTROLLER
        let flags = crate::io::device::FILE_AUTOGENERATED_DEVICE_NAME;
        let status = IoCreateDevice(driver, 0, ptr::null(), 4, flags, 0, &raw mut device);
        if status < 0 {
            return Err(status);
        }
        (*device).flags &= !do_flags::DEVICE_INITIALIZING;
        // The node's reference.
        ObfReferenceObject(device.cast());
    }
    CHILDREN.lock().0.push(Child {
        device,
        device_id: device_id.to_string(),
        instance: instance.to_string(),
        hardware: hardware.to_vec(),
    });
    if let Some(id) = enumerate::adopt(ROOT, device) {
        if bring_up {
            enumerate::bring_up(id);
        } else {
            with_node(id, |n| n.state = State::Started);
        }
    }
    Ok(device)
}

/// Makes the devices of packages for root-enumerated devices, as the setup program that comes with such a package does
/// (`SetupDiCreateDeviceInfo` with DICD_GENERATE_ID): `ROOT\<class>\nnnn` with the model's identifier. One that an
/// earlier boot made keeps its path. On the worker.
pub(crate) fn make_devices() {
    let wanted: Vec<(String, String)> = with_library(|library| {
        let packages = library.store.packages().iter();
        packages
            .flat_map(|package| {
                let class = package.inf.entry("Version", "Class").unwrap_or("Unknown").to_ascii_uppercase();
                root_models(&package.inf).into_iter().map(move |id| (class.clone(), id))
            })
            .collect()
    });
    for (class, id) in wanted {
        if CHILDREN.lock().0.iter().any(|c| c.hardware.iter().any(|h| h.eq_ignore_ascii_case(&id))) {
            continue;
        }
        let device_id = alloc::format!(r"ROOT\{class}");
        let instance = instance_for(&device_id, &id);
        // Without memory there is no device; the tree shows that it is not there.
        let _ = add(&device_id, &instance, core::slice::from_ref(&id), true);
    }
}

/// The instance that has this identifier, or the first that is free.
fn instance_for(device_id: &str, hardware: &str) -> String {
    reg::with(|registry| {
        let Ok(key) = registry.open(None, &alloc::format!(r"{CONTROL_SET}\Enum\{device_id}")) else {
            return String::from("0000");
        };
        let known = registry.subkeys(key).unwrap_or_default();
        let owner = |name: &String| {
            let device = registry.open(Some(key), name).ok()?;
            let value = registry.value(device, "HardwareID").ok()?;
            hive::multi_sz_list(&value.data).first().cloned()
        };
        if let Some(mine) = known.iter().find(|name| owner(name).is_some_and(|id| id.eq_ignore_ascii_case(hardware))) {
            return mine.clone();
        }
        let free = (0..=known.len()).map(|n| alloc::format!("{n:04}")).find(|name| !known.contains(name));
        free.unwrap_or_default()
    })
}
