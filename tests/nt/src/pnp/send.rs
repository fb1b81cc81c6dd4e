//! PnP requests as the PnP manager sends them: from the top of a device's stack, waited for.
use crate::io::abi::*;
use crate::io::device::IoGetAttachedDeviceReference;
use crate::io::irp::{self, IoAllocateIrp, IoFreeIrp};
use crate::io::kernel::{pool_free, violation};
use crate::io::status::*;
use crate::io::text;
use crate::ob::ObfDereferenceObject;
use crate::rtl::abi::Guid;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::mem::zeroed;

/// BusQueryDeviceID.
pub const ID_DEVICE: i32 = 0;
/// BusQueryHardwareIDs.
pub const ID_HARDWARE: i32 = 1;
/// BusQueryCompatibleIDs.
pub const ID_COMPATIBLE: i32 = 2;
/// BusQueryInstanceID.
pub const ID_INSTANCE: i32 = 3;
/// BusRelations.
pub const BUS_RELATIONS: i32 = 0;
/// RemovalRelations.
pub const REMOVAL_RELATIONS: i32 = 3;
/// TargetDeviceRelation.
pub const TARGET_DEVICE_RELATION: i32 = 4;

/// Sends one request to the top of the stack of `device`. IRQL = PASSIVE_LEVEL. Gives status and information.
///
/// # Safety
/// The device is valid, the parameters fit the request.
pub unsafe fn request(
    device: *mut DeviceObject,
    major: u8,
    minor: u8,
    parameters: Option<Parameters>,
) -> (NtStatus, usize) {
    // A driver that does not know the request leaves the status alone.
    // SAFETY: per the contract.
    unsafe { request_with(device, major, minor, parameters, IoStatusBlock::new(STATUS_NOT_SUPPORTED, 0)) }
}

/// As [`request`], with the status block that the request sets out with.
unsafe fn request_with(
    device: *mut DeviceObject,
    major: u8,
    minor: u8,
    parameters: Option<Parameters>,
    before: IoStatusBlock,
) -> (NtStatus, usize) {
    // SAFETY: per the contract; the stack is referenced while the IRP is on its way.
    unsafe {
        let top = IoGetAttachedDeviceReference(device);
        let packet = IoAllocateIrp((*top).stack_size, 0);
        if packet.is_null() {
            ObfDereferenceObject(top.cast());
            return (STATUS_INSUFFICIENT_RESOURCES, 0);
        }
        (*packet).io_status = before;
        (*packet).thread = crate::ke::KeGetCurrentThread().cast();
        let location = irp::next(packet);
        (*location).major = major;
        (*location).minor = minor;
        if let Some(parameters) = parameters {
            (*location).parameters = parameters;
        }
        let status = irp::send_and_wait(top, packet);
        let information = (*packet).io_status.information;
        IoFreeIrp(packet);
        ObfDereferenceObject(top.cast());
        (status, information)
    }
}

/// A PnP request without parameters.
///
/// # Safety
/// As [`request`].
pub unsafe fn simple(device: *mut DeviceObject, minor: u8) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { request(device, mj::PNP, minor, None).0 }
}

fn parameters() -> Parameters {
    Parameters { others: [core::ptr::null_mut(); 4] }
}

/// IRP_MN_QUERY_ID for one string.
///
/// # Safety
/// As [`request`].
pub unsafe fn query_id(device: *mut DeviceObject, kind: i32) -> Option<String> {
    // SAFETY: per the contract; the string is the receiver's to free.
    unsafe {
        let mut p = parameters();
        p.id_type = kind;
        let (status, information) = request(device, mj::PNP, mn::QUERY_ID, Some(p));
        if status < 0 || information == 0 {
            return None;
        }
        let id = text::from_wide(information as *const u16);
        pool_free(information as *mut u8, 0);
        check_id(&id);
        Some(id)
    }
}

/// IRP_MN_QUERY_ID for a list.
///
/// # Safety
/// As [`request`].
pub unsafe fn query_ids(device: *mut DeviceObject, kind: i32) -> Vec<String> {
    // SAFETY: per the contract; the list is the receiver's to free.
    unsafe {
        let mut p = parameters();
        p.id_type = kind;
        let (status, information) = request(device, mj::PNP, mn::QUERY_ID, Some(p));
        if status < 0 || information == 0 {
            return Vec::new();
        }
        let ids = text::from_multi(information as *const u16);
        pool_free(information as *mut u8, 0);
        for id in &ids {
            check_id(id);
        }
        ids
    }
}

/// A bus driver that gives an identifier with a character outside of ASCII's printable ones, or with a comma, ends
/// Windows with bug check PNP_DETECTED_FATAL_ERROR.
/// <https://learn.microsoft.com/windows-hardware/drivers/debugger/bug-check-0xca--pnp-detected-fatal-error>
fn check_id(id: &str) {
    if id.is_empty() || id.chars().count() > 199 || id.chars().any(|c| !(' '..='\u{7f}').contains(&c) || c == ',') {
        violation("PNP-ID", format_args!("a bus driver gave the identifier {id:?}"));
    }
}

/// IRP_MN_QUERY_DEVICE_TEXT.
///
/// # Safety
/// As [`request`].
pub unsafe fn query_text(device: *mut DeviceObject, kind: i32) -> Option<String> {
    // SAFETY: per the contract; the string is the receiver's to free.
    unsafe {
        let mut text: QueryDeviceText = zeroed();
        text.kind = kind;
        text.locale = 0x409;
        let mut p = parameters();
        p.text = text;
        let (status, information) = request(device, mj::PNP, mn::QUERY_DEVICE_TEXT, Some(p));
        if status < 0 || information == 0 {
            return None;
        }
        let text = text::from_wide(information as *const u16);
        pool_free(information as *mut u8, 0);
        Some(text)
    }
}

/// IRP_MN_QUERY_CAPABILITIES.
///
/// # Safety
/// As [`request`].
pub unsafe fn query_capabilities(device: *mut DeviceObject) -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::query();
    let mut p = parameters();
    p.capabilities = &raw mut capabilities;
    // SAFETY: per the contract.
    let (status, _) = unsafe { request(device, mj::PNP, mn::QUERY_CAPABILITIES, Some(p)) };
    if status < 0 { DeviceCapabilities::query() } else { capabilities }
}

/// IRP_MN_QUERY_DEVICE_RELATIONS. Each device comes with a reference.
///
/// # Safety
/// As [`request`].
///
/// # Errors
/// What the stack answered.
pub unsafe fn query_relations(device: *mut DeviceObject, kind: i32) -> Result<Vec<*mut DeviceObject>, NtStatus> {
    // SAFETY: per the contract; the list is the receiver's to free.
    unsafe {
        let mut p = parameters();
        p.relation_type = kind;
        let (status, information) = request(device, mj::PNP, mn::QUERY_DEVICE_RELATIONS, Some(p));
        if status < 0 {
            return Err(status);
        }
        if information == 0 {
            return Ok(Vec::new());
        }
        let relations = information as *const DeviceRelations;
        let first = (&raw const (*relations).objects).cast::<*mut DeviceObject>();
        let list = (0..(*relations).count as usize).map(|i| first.add(i).read()).collect();
        pool_free(information as *mut u8, 0);
        Ok(list)
    }
}

/// IRP_MN_QUERY_BUS_INFORMATION.
///
/// # Safety
/// As [`request`].
pub unsafe fn query_bus_information(device: *mut DeviceObject) -> Option<PnpBusInformation> {
    // SAFETY: per the contract; the answer is the receiver's to free.
    unsafe {
        let (status, information) = request(device, mj::PNP, mn::QUERY_BUS_INFORMATION, None);
        if status < 0 || information == 0 {
            return None;
        }
        let found = (information as *const PnpBusInformation).read();
        pool_free(information as *mut u8, 0);
        Some(found)
    }
}

/// IRP_MN_QUERY_INTERFACE.
///
/// # Safety
/// As [`request`]; `interface` has `size` bytes.
pub unsafe fn query_interface(
    device: *mut DeviceObject,
    guid: &Guid,
    size: u16,
    version: u16,
    interface: *mut c_void,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let mut p = parameters();
        let specific = core::ptr::null_mut();
        p.query_interface =
            QueryInterface { interface_type: guid, size, version, interface: interface.cast(), specific };
        request(device, mj::PNP, mn::QUERY_INTERFACE, Some(p)).0
    }
}

/// IRP_MN_DEVICE_USAGE_NOTIFICATION.
///
/// # Safety
/// As [`request`].
pub unsafe fn usage_notification(device: *mut DeviceObject, kind: i32, in_path: bool) -> NtStatus {
    let mut p = parameters();
    p.usage = UsageNotification::new(in_path, kind);
    // SAFETY: per the contract.
    unsafe { request(device, mj::PNP, mn::DEVICE_USAGE_NOTIFICATION, Some(p)).0 }
}

/// IRP_MN_START_DEVICE.
///
/// # Safety
/// As [`request`]; the lists are NULL or valid.
pub unsafe fn start(device: *mut DeviceObject, raw: *mut c_void, translated: *mut c_void) -> NtStatus {
    let mut p = parameters();
    p.start = StartDevice { raw, translated };
    // SAFETY: per the contract.
    unsafe { request(device, mj::PNP, mn::START_DEVICE, Some(p)).0 }
}

/// The bytes of the list that a query for resources or requirements gave, which is freed.
///
/// # Safety
/// `list` came from such a query.
unsafe fn take_list(list: usize, length: impl Fn(*const u8) -> usize) -> Vec<u8> {
    // SAFETY: per the contract.
    unsafe {
        let bytes = core::slice::from_raw_parts(list as *const u8, length(list as *const u8)).to_vec();
        pool_free(list as *mut u8, 0);
        bytes
    }
}

/// Bytes of a CM_RESOURCE_LIST in memory.
///
/// # Safety
/// `list` is one.
pub unsafe fn cm_list_bytes(list: *const u8) -> usize {
    // SAFETY: per the contract.
    unsafe {
        let mut at = 4;
        for _ in 0..list.cast::<u32>().read_unaligned() {
            let count = list.add(at + 12).cast::<u32>().read_unaligned();
            at += 16 + 20 * count as usize;
        }
        at
    }
}

/// IRP_MN_QUERY_RESOURCES: what the device decodes now, as the bytes of a CM_RESOURCE_LIST.
///
/// # Safety
/// As [`request`].
pub unsafe fn query_resources(device: *mut DeviceObject) -> Vec<u8> {
    // SAFETY: per the contract.
    unsafe {
        let (status, information) = request(device, mj::PNP, mn::QUERY_RESOURCES, None);
        if status < 0 || information == 0 {
            return Vec::new();
        }
        take_list(information, |list| cm_list_bytes(list))
    }
}

/// IRP_MN_QUERY_RESOURCE_REQUIREMENTS, as the bytes of an IO_RESOURCE_REQUIREMENTS_LIST.
///
/// # Safety
/// As [`request`].
pub unsafe fn query_requirements(device: *mut DeviceObject) -> Vec<u8> {
    // SAFETY: per the contract.
    unsafe {
        let (status, information) = request(device, mj::PNP, mn::QUERY_RESOURCE_REQUIREMENTS, None);
        if status < 0 || information == 0 {
            return Vec::new();
        }
        take_list(information, |list| list.cast::<u32>().read_unaligned() as usize)
    }
}

/// IRP_MN_FILTER_RESOURCE_REQUIREMENTS: the list as the drivers want it.
///
/// # Safety
/// As [`request`].
pub unsafe fn filter_requirements(device: *mut DeviceObject, list: Vec<u8>) -> Vec<u8> {
    // SAFETY: per the contract; a driver that makes a new list frees the one it was given.
    unsafe {
        let memory = crate::io::kernel::paged_alloc(list.len(), u32::from_le_bytes(*b"PpRe"));
        if memory.is_null() {
            return list;
        }
        core::ptr::copy_nonoverlapping(list.as_ptr(), memory, list.len());
        let mut p = parameters();
        p.requirements = if list.is_empty() { core::ptr::null_mut() } else { memory.cast() };
        // Unlike other requests this one sets out as a success, with the list for an answer: drivers forward it and look
        // at the result before they add to it.
        let before = if list.is_empty() {
            IoStatusBlock::new(STATUS_NOT_SUPPORTED, 0)
        } else {
            IoStatusBlock::new(STATUS_SUCCESS, memory as usize)
        };
        let (status, information) = request_with(device, mj::PNP, mn::FILTER_RESOURCE_REQUIREMENTS, Some(p), before);
        if status < 0 || information == 0 {
            pool_free(memory, 0);
            return list;
        }
        if information != memory as usize && list.is_empty() {
            pool_free(memory, 0);
        }
        take_list(information, |list| list.cast::<u32>().read_unaligned() as usize)
    }
}
