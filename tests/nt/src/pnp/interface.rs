//! Device interfaces: symbolic links by class.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/install/device-interface-classes>
use super::{node_of, report, with_node};
use crate::inf::install::CONTROL_SET;
use crate::io::abi::*;
use crate::io::kernel::{paged_alloc, system_time};
use crate::io::status::*;
use crate::io::text;
use crate::ob::namespace;
use crate::reg::{self, zw};
use crate::rtl::abi::{Guid, UnicodeString};
use crate::sync::IrqLock;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;

struct Registered {
    guid: Guid,
    link: String,
    target: String,
    pdo: usize,
    enabled: bool,
}

static INTERFACES: IrqLock<Vec<Registered>> = IrqLock::new(Vec::new());

/// `DEVICE_INTERFACE_CHANGE_NOTIFICATION`.
#[repr(C)]
struct ChangeNotification {
    version: u16,
    size: u16,
    event: Guid,
    class: Guid,
    link: *mut UnicodeString,
}

/// GUID_DEVICE_INTERFACE_ARRIVAL.
const ARRIVAL: Guid =
    Guid { data1: 0xcb3a_4004, data2: 0x46f0, data3: 0x11d0, data4: [0xb0, 0x8f, 0x00, 0x60, 0x97, 0x13, 0x05, 0x3f] };
/// GUID_DEVICE_INTERFACE_REMOVAL.
const REMOVAL: Guid =
    Guid { data1: 0xcb3a_4005, data2: 0x46f0, data3: 0x11d0, data4: [0xb0, 0x8f, 0x00, 0x60, 0x97, 0x13, 0x05, 0x3f] };

fn guid_text(guid: &Guid) -> String {
    let d = guid.data4;
    alloc::format!(
        "{{{:08x}-{:04x}-{:04x}-{:02x}{:02x}-{:02x}{:02x}{:02x}{:02x}{:02x}{:02x}}}",
        guid.data1,
        guid.data2,
        guid.data3,
        d[0],
        d[1],
        d[2],
        d[3],
        d[4],
        d[5],
        d[6],
        d[7]
    )
}

/// Registers an interface of a device and gives its symbolic link. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid; `reference` may be NULL.
pub unsafe extern "win64" fn IoRegisterDeviceInterface(
    pdo: *mut DeviceObject,
    guid: *const Guid,
    reference: *const UnicodeString,
    link: *mut UnicodeString,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let Some(instance) = node_of(pdo).and_then(|id| with_node(id, |n| n.instance.clone())) else {
            return STATUS_INVALID_DEVICE_REQUEST;
        };
        let Some(target) = namespace::name_of(pdo.cast()) else { return STATUS_INVALID_DEVICE_REQUEST };
        let reference = text::from_unicode(reference);
        let mut name = alloc::format!(r"\??\{}#{}", instance.replace('\\', "#"), guid_text(&*guid));
        let mut target = target;
        if !reference.is_empty() {
            name = alloc::format!(r"{name}\{reference}");
            target = alloc::format!(r"{target}\{reference}");
        }
        {
            let mut all = INTERFACES.lock();
            if !all.iter().any(|i| i.link.eq_ignore_ascii_case(&name)) {
                all.push(Registered { guid: *guid, link: name.clone(), target, pdo: pdo as usize, enabled: false });
            }
        }
        *link = text::to_unicode(&name);
        if (*link).buffer.is_null() { STATUS_INSUFFICIENT_RESOURCES } else { STATUS_SUCCESS }
    }
}

/// The links of a class that are enabled.
pub(crate) fn enabled(guid: &Guid) -> Vec<String> {
    INTERFACES.lock().iter().filter(|i| i.enabled && i.guid == *guid).map(|i| i.link.clone()).collect()
}

/// Tells of an interface that came or went.
pub(crate) fn notify(guid: &Guid, link: &str, arrival: bool, only: Option<usize>) {
    let mut string = text::to_unicode(link);
    let mut notification = ChangeNotification {
        version: 1,
        size: size_of::<ChangeNotification>() as u16,
        event: if arrival { ARRIVAL } else { REMOVAL },
        class: *guid,
        link: &raw mut string,
    };
    report::notify_interface(guid, only, (&raw mut notification).cast::<c_void>());
    crate::io::kernel::pool_free(string.buffer.cast(), 0);
}

/// Enables or disables an interface. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The string is valid.
pub unsafe extern "win64" fn IoSetDeviceInterfaceState(link: *const UnicodeString, enable: u8) -> NtStatus {
    // SAFETY: per the contract.
    let name = unsafe { text::from_unicode(link) };
    let enable = enable != 0;
    let found = {
        let mut all = INTERFACES.lock();
        match all.iter_mut().find(|i| i.link.eq_ignore_ascii_case(&name)) {
            Some(interface) if interface.enabled == enable => {
                return if enable { STATUS_OBJECT_NAME_EXISTS } else { STATUS_OBJECT_NAME_NOT_FOUND };
            }
            Some(interface) => {
                interface.enabled = enable;
                Some((interface.guid, interface.target.clone()))
            }
            None => None,
        }
    };
    let Some((guid, target)) = found else { return STATUS_OBJECT_NAME_NOT_FOUND };
    let done = if enable { namespace::create_link(&name, &target) } else { namespace::remove(&name) };
    notify(&guid, &name, enable, None);
    done.err().unwrap_or(STATUS_SUCCESS)
}

/// The enabled interfaces of a class, as a list of strings in pool. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid; `pdo` may be NULL.
pub unsafe extern "win64" fn IoGetDeviceInterfaces(
    guid: *const Guid,
    pdo: *mut DeviceObject,
    flags: u32,
    list: *mut *mut u16,
) -> NtStatus {
    const INCLUDE_NONACTIVE: u32 = 1;
    // SAFETY: per the contract.
    unsafe {
        let found: Vec<String> = INTERFACES
            .lock()
            .iter()
            .filter(|i| i.guid == *guid && (i.enabled || flags & INCLUDE_NONACTIVE != 0))
            .filter(|i| pdo.is_null() || i.pdo == pdo as usize)
            .map(|i| i.link.clone())
            .collect();
        let bytes = reg::hive::multi_sz(&found);
        let memory = paged_alloc(bytes.len().max(4), u32::from_le_bytes(*b"IoIf"));
        if memory.is_null() {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len());
        *list = memory.cast();
        STATUS_SUCCESS
    }
}

/// Opens the registry key of an interface. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoOpenDeviceInterfaceRegistryKey(
    link: *const UnicodeString,
    access: u32,
    key: *mut Handle,
) -> NtStatus {
    // SAFETY: per the contract.
    let name = unsafe { text::from_unicode(link) };
    let known = INTERFACES.lock().iter().find(|i| i.link.eq_ignore_ascii_case(&name)).map(|i| guid_text(&i.guid));
    let Some(class) = known else { return STATUS_OBJECT_NAME_NOT_FOUND };
    let leaf = name.trim_start_matches(r"\??\").replace('\\', "#");
    let path = alloc::format!(r"{CONTROL_SET}\Control\DeviceClasses\{class}\##?#{leaf}\#\Device Parameters");
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
