//! Device properties and registry keys of devices.
use super::{node_of, with_node};
use crate::inf::install::CONTROL_SET;
use crate::io::abi::*;
use crate::io::kernel::system_time;
use crate::io::status::*;
use crate::reg::{self, hive, zw};
use crate::sync::IrqLock;
use alloc::string::String;
use alloc::vec::Vec;

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

/// What a device is called: its friendly name, or its description.
pub fn name_of_device(pdo: *mut DeviceObject) -> Option<String> {
    let text = property(pdo, 9).or_else(|_| property(pdo, 0)).ok()?;
    let units: Vec<u16> =
        text.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).take_while(|u| *u != 0).collect();
    Some(String::from_utf16_lossy(&units))
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

/// `DEVPROPKEY`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct PropertyKey {
    format: crate::rtl::abi::Guid,
    id: u32,
}

/// A property that was set: of which device, under which key and locale, its type and value.
struct Property {
    instance: String,
    key: PropertyKey,
    locale: u32,
    kind: u32,
    value: Vec<u8>,
}

static PROPERTIES: IrqLock<Vec<Property>> = IrqLock::new(Vec::new());

/// Device keys that tell what `IoGetDeviceProperty` tells, by the last part of their format's GUID and their number.
/// <https://learn.microsoft.com/windows-hardware/drivers/install/devpkey-device-devicedesc> and its neighbours
const DEVICE_KEYS: crate::rtl::abi::Guid = crate::rtl::abi::Guid {
    data1: 0xa45c_254e,
    data2: 0xdf1c,
    data3: 0x4efd,
    data4: [0x80, 0x20, 0x67, 0xd1, 0x46, 0xa8, 0x50, 0xe0],
};
/// `DEVPROP_TYPE_STRING`, `_STRING_LIST`, `_GUID`, `_UINT32`.
const STRING: u32 = 0x12;
const STRING_LIST: u32 = 0x2012;
const GUID_TYPE: u32 = 0xd;
const UINT32: u32 = 0x7;
/// Number of the key, `DEVICE_REGISTRY_PROPERTY`, type.
const OF_DEVICE: [(u32, i32, u32); 12] = [
    (2, 0, STRING),
    (3, 1, STRING_LIST),
    (4, 2, STRING_LIST),
    (9, 5, STRING),
    (11, 7, STRING),
    (13, 8, STRING),
    (14, 9, STRING),
    (15, 10, STRING),
    (16, 11, STRING),
    (21, 12, GUID_TYPE),
    (23, 14, UINT32),
    (24, 15, STRING),
];

/// The value and the type of a property by key.
fn keyed(pdo: *mut DeviceObject, key: PropertyKey, locale: u32) -> Result<(Vec<u8>, u32), NtStatus> {
    let id = node_of(pdo).ok_or(STATUS_INVALID_DEVICE_REQUEST)?;
    let instance = with_node(id, |n| n.instance.clone()).ok_or(STATUS_NO_SUCH_DEVICE)?;
    let own = |set: &&Property| set.instance == instance && set.key == key && set.locale == locale;
    if let Some(set) = PROPERTIES.lock().iter().find(own) {
        return Ok((set.value.clone(), set.kind));
    }
    let known = OF_DEVICE.iter().find(|(number, ..)| key.format == DEVICE_KEYS && key.id == *number);
    let (_, which, kind) = known.ok_or(STATUS_OBJECT_NAME_NOT_FOUND)?;
    Ok((property(pdo, *which).map_err(|_| STATUS_OBJECT_NAME_NOT_FOUND)?, *kind))
}

/// Sets a property by key, or with no data takes it away. IRQL <= APC_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iosetdevicepropertydata>
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoSetDevicePropertyData(
    pdo: *mut DeviceObject,
    key: *const PropertyKey,
    locale: u32,
    _flags: u32,
    kind: u32,
    size: u32,
    data: *const u8,
) -> NtStatus {
    let Some(instance) = node_of(pdo).and_then(|id| with_node(id, |n| n.instance.clone())) else {
        return STATUS_INVALID_DEVICE_REQUEST;
    };
    // SAFETY: per the contract.
    let (key, value) = unsafe {
        let value = (!data.is_null()).then(|| core::slice::from_raw_parts(data, size as usize).to_vec());
        (*key, value)
    };
    let mut properties = PROPERTIES.lock();
    properties.retain(|set| set.instance != instance || set.key != key || set.locale != locale);
    if let Some(value) = value {
        properties.push(Property { instance, key, locale, kind, value });
    }
    STATUS_SUCCESS
}

/// A property by key: one that was set, or one that `IoGetDeviceProperty` has too. IRQL <= APC_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iogetdevicepropertydata>
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoGetDevicePropertyData(
    pdo: *mut DeviceObject,
    key: *const PropertyKey,
    locale: u32,
    _flags: u32,
    size: u32,
    data: *mut u8,
    needed: *mut u32,
    kind: *mut u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        match keyed(pdo, *key, locale) {
            Ok((value, its)) => {
                *needed = value.len() as u32;
                if value.len() > size as usize {
                    return STATUS_BUFFER_TOO_SMALL;
                }
                *kind = its;
                core::ptr::copy_nonoverlapping(value.as_ptr(), data, value.len());
                STATUS_SUCCESS
            }
            Err(status) => {
                *needed = 0;
                status
            }
        }
    }
}
