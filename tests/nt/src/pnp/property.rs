//! Device properties and registry keys of devices.
use super::{node_of, with_node};
use crate::inf::install::CONTROL_SET;
use crate::io::abi::*;
use crate::io::kernel::system_time;
use crate::io::status::*;
use crate::reg::{self, hive, zw};
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;

const PLUGPLAY_REGKEY_DEVICE: u32 = 1;
const PLUGPLAY_REGKEY_DRIVER: u32 = 2;

/// A value of the device's instance key.
fn from_registry(instance: &str, name: &str) -> Option<Vec<u8>> {
    reg::with(|registry| {
        let key = registry.open(None, &alloc::format!(r"{CONTROL_SET}\Enum\{instance}")).ok()?;
        registry.value(key, name).ok().map(|v| v.data.clone())
    })
}

/// A property of a device as the bytes that IoGetDeviceProperty gives.
fn property(pdo: *mut DeviceObject, which: i32) -> Result<Vec<u8>, NtStatus> {
    let id = node_of(pdo).ok_or(STATUS_INVALID_DEVICE_REQUEST)?;
    let (instance, bus, capabilities, present, assignment, boot) =
        with_node(id, |n| (n.instance.clone(), n.bus, n.capabilities, n.present, n.assignment.clone(), n.boot.clone()))
            .ok_or(STATUS_NO_SUCH_DEVICE)?;
    let text = |name: &str| from_registry(&instance, name).ok_or(STATUS_OBJECT_NAME_NOT_FOUND);
    let of_bus = |part: fn(&PnpBusInformation) -> Vec<u8>| bus.as_ref().map(part).ok_or(STATUS_OBJECT_NAME_NOT_FOUND);
    let list = |descriptors: &[super::resource::CmDescriptor]| {
        let (kind, number) = bus.map_or((0, 0), |b| (b.interface_type as u32, b.number));
        if descriptors.is_empty() { Vec::new() } else { super::resource::cm_resource_list(kind, number, descriptors) }
    };
    match which {
        0 => text("DeviceDesc"),
        1 => text("HardwareID"),
        2 => text("CompatibleIDs"),
        // DevicePropertyBootConfiguration, DevicePropertyBootConfigurationTranslated
        3 => Ok(list(&boot)),
        4 => Ok(list(&assignment.translated)),
        5 => text("Class"),
        6 => text("ClassGUID"),
        7 => text("Driver"),
        8 => text("Mfg"),
        9 => text("FriendlyName"),
        10 => text("LocationInformation"),
        // DevicePropertyPhysicalDeviceObjectName
        11 => {
            let name = crate::ob::namespace::name_of(pdo.cast()).ok_or(STATUS_OBJECT_NAME_NOT_FOUND)?;
            Ok(hive::sz(&name))
        }
        12 => of_bus(|b| guid_bytes(&b.guid)),
        13 => of_bus(|b| b.interface_type.to_le_bytes().to_vec()),
        14 => of_bus(|b| b.number.to_le_bytes().to_vec()),
        // DevicePropertyEnumeratorName
        15 => Ok(hive::sz(instance.split('\\').next().unwrap_or(""))),
        16 if capabilities.address != u32::MAX => Ok(capabilities.address.to_le_bytes().to_vec()),
        17 if capabilities.ui_number != u32::MAX => Ok(capabilities.ui_number.to_le_bytes().to_vec()),
        // DevicePropertyInstallState: InstallStateInstalled
        18 => Ok(0u32.to_le_bytes().to_vec()),
        // DevicePropertyRemovalPolicy: orderly or surprise removal expected, or none
        19 => {
            let bits = capabilities.bits;
            let policy: u32 = if !present || bits & caps::REMOVABLE == 0 {
                1
            } else if bits & caps::SURPRISE_REMOVAL_OK != 0 {
                3
            } else {
                2
            };
            Ok(policy.to_le_bytes().to_vec())
        }
        16 | 17 => Err(STATUS_OBJECT_NAME_NOT_FOUND),
        _ => Err(STATUS_INVALID_PARAMETER_2),
    }
}

const STATUS_INVALID_PARAMETER_2: NtStatus = 0xC000_00F0_u32 as i32;

fn guid_bytes(guid: &crate::rtl::abi::Guid) -> Vec<u8> {
    let mut out = guid.data1.to_le_bytes().to_vec();
    out.extend(guid.data2.to_le_bytes());
    out.extend(guid.data3.to_le_bytes());
    out.extend(guid.data4);
    out
}

/// A property of a device. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The device is a PDO, the buffer has `length` bytes.
pub unsafe extern "win64" fn IoGetDeviceProperty(
    pdo: *mut DeviceObject,
    which: i32,
    length: u32,
    buffer: *mut u8,
    needed: *mut u32,
) -> NtStatus {
    match property(pdo, which) {
        // SAFETY: per the contract.
        Ok(bytes) => unsafe {
            *needed = bytes.len() as u32;
            if bytes.len() > length as usize {
                return STATUS_BUFFER_TOO_SMALL;
            }
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer, bytes.len());
            STATUS_SUCCESS
        },
        Err(status) => {
            // SAFETY: per the contract.
            unsafe { *needed = 0 };
            status
        }
    }
}

fn key_path(instance: &str, kind: u32) -> Result<String, NtStatus> {
    if kind & PLUGPLAY_REGKEY_DRIVER != 0 {
        let driver = from_registry(instance, "Driver").ok_or(STATUS_OBJECT_NAME_NOT_FOUND)?;
        return Ok(alloc::format!(r"{CONTROL_SET}\Control\Class\{}", hive::sz_text(&driver)));
    }
    if kind & PLUGPLAY_REGKEY_DEVICE != 0 {
        return Ok(alloc::format!(r"{CONTROL_SET}\Enum\{instance}\Device Parameters"));
    }
    Err(STATUS_INVALID_PARAMETER)
}

/// Opens a device's hardware or software key. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The device is a PDO.
pub unsafe extern "win64" fn IoOpenDeviceRegistryKey(
    pdo: *mut DeviceObject,
    kind: u32,
    access: u32,
    key: *mut Handle,
) -> NtStatus {
    let done = node_of(pdo)
        .and_then(|id| with_node(id, |n| n.instance.clone()))
        .ok_or(STATUS_INVALID_DEVICE_REQUEST)
        .and_then(|instance| key_path(&instance, kind))
        .and_then(|path| {
            reg::with(|registry| registry.create_path(&path, system_time())).map_err(|_| STATUS_OBJECT_NAME_NOT_FOUND)
        })
        .and_then(|id| zw::open_handle(id, access));
    match done {
        Ok(handle) => {
            // SAFETY: per the contract.
            unsafe { *key = handle };
            STATUS_SUCCESS
        }
        Err(status) => status,
    }
}

/// Opens a driver's `Parameters` key (DriverRegKeyParameters), or a state key below its service. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The driver is valid.
pub unsafe extern "win64" fn IoOpenDriverRegistryKey(
    driver: *mut DriverObject,
    kind: i32,
    access: u32,
    _flags: u32,
    key: *mut Handle,
) -> NtStatus {
    let service = crate::io::driver::name_of(driver);
    let below = match kind {
        0 => "Parameters",
        1 => "State",
        2 => "SharedState",
        _ => return STATUS_INVALID_PARAMETER,
    };
    let path = alloc::format!(r"{CONTROL_SET}\Services\{service}\{below}");
    let done = reg::with(|registry| registry.create_path(&path, system_time()))
        .map_err(|_| STATUS_OBJECT_NAME_NOT_FOUND)
        .and_then(|id| zw::open_handle(id, access));
    match done {
        Ok(handle) => {
            // SAFETY: per the contract.
            unsafe { *key = handle };
            STATUS_SUCCESS
        }
        Err(status) => status,
    }
}

/// A property by key (`DEVPROPKEY`), which nobody sets here. IRQL <= APC_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoGetDevicePropertyData(
    _pdo: *mut DeviceObject,
    _key: *const c_void,
    _locale: u32,
    _flags: u32,
    _size: u32,
    _data: *mut c_void,
    needed: *mut u32,
    _kind: *mut u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { *needed = 0 };
    STATUS_OBJECT_NAME_NOT_FOUND
}
