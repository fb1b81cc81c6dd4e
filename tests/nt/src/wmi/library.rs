//! wmilib.sys: answers WMI requests for a driver out of a table of blocks and a few callbacks.
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/calling-wmisystemcontrol-to-handle-wmi-irps>

use super::abi::*;
use crate::io::abi::{DeviceObject, Irp, mj};
use crate::io::irp::{IofCompleteRequest, current};
use crate::rtl::abi::{Guid, UnicodeString};
use crate::status::*;
use core::ffi::c_void;
use core::ptr;

/// `IrpProcessed`, `IrpNotCompleted`, `IrpNotWmi`, `IrpForward`.
const PROCESSED: i32 = 0;
const NOT_COMPLETED: i32 = 1;
const NOT_WMI: i32 = 2;
const FORWARD: i32 = 3;
/// STATUS_WMI_GUID_NOT_FOUND, STATUS_WMI_INSTANCE_NOT_FOUND, STATUS_WMI_READ_ONLY.
const GUID_NOT_FOUND: NtStatus = 0xc000_0295_u32 as i32;
const INSTANCE_NOT_FOUND: NtStatus = 0xc000_0296_u32 as i32;
const READ_ONLY: NtStatus = 0xc000_02c6_u32 as i32;
/// Where the fixed part of each kind of WNODE ends: the pairs of WNODE_ALL_DATA, the data of the others.
const ALL_DATA_PAIRS: usize = 0x3c;
/// Fields of the WNODEs of one instance.
const INSTANCE_INDEX: usize = 0x34;

type QueryRegInfo = unsafe extern "win64" fn(
    *mut DeviceObject,
    flags: *mut u32,
    instance: *mut UnicodeString,
    registry: *mut *mut UnicodeString,
    mof: *mut UnicodeString,
    pdo: *mut *mut DeviceObject,
) -> NtStatus;
type QueryBlock = unsafe extern "win64" fn(
    *mut DeviceObject,
    *mut Irp,
    guid: u32,
    instance: u32,
    count: u32,
    lengths: *mut u32,
    room: u32,
    buffer: *mut u8,
) -> NtStatus;
type SetBlock = unsafe extern "win64" fn(*mut DeviceObject, *mut Irp, u32, u32, bytes: u32, *mut u8) -> NtStatus;
type SetItem = unsafe extern "win64" fn(*mut DeviceObject, *mut Irp, u32, u32, item: u32, u32, *mut u8) -> NtStatus;
type Execute =
    unsafe extern "win64" fn(*mut DeviceObject, *mut Irp, u32, u32, method: u32, u32, room: u32, *mut u8) -> NtStatus;
type Control = unsafe extern "win64" fn(*mut DeviceObject, *mut Irp, guid: u32, what: i32, enable: u8) -> NtStatus;

/// `WMIGUIDREGINFO`.
#[repr(C)]
pub struct GuidRegInfo {
    guid: *const Guid,
    instances: u32,
    flags: u32,
}

/// `WMILIB_CONTEXT`.
#[repr(C)]
pub struct Context {
    count: u32,
    list: *const GuidRegInfo,
    query_reg_info: Option<QueryRegInfo>,
    query_block: Option<QueryBlock>,
    set_block: Option<SetBlock>,
    set_item: Option<SetItem>,
    execute: Option<Execute>,
    control: Option<Control>,
}

const _: () = assert!(size_of::<GuidRegInfo>() == 0x10 && size_of::<Context>() == 0x40);

/// The buffer of a WMI request.
struct Node {
    at: *mut u8,
    bytes: usize,
}

impl Node {
    unsafe fn get(&self, offset: usize) -> u32 {
        // SAFETY: the caller has checked the size.
        unsafe { self.at.add(offset).cast::<u32>().read_unaligned() }
    }

    unsafe fn set(&self, offset: usize, value: usize) {
        // SAFETY: the caller has checked the size.
        unsafe { self.at.add(offset).cast::<u32>().write_unaligned(value as u32) };
    }
}

/// The registration of the driver's blocks as a WMIREGINFO. The status and the bytes written.
unsafe fn register(context: &Context, device: *mut DeviceObject, node: &Node) -> (NtStatus, usize) {
    // SAFETY: the driver's routine with what it is documented to get; sizes are checked before anything is written.
    unsafe {
        let Some(query) = context.query_reg_info else { return (STATUS_INVALID_DEVICE_REQUEST, 0) };
        let (mut flags, mut pdo, mut path) = (0, ptr::null_mut(), ptr::null_mut::<UnicodeString>());
        let (mut name, mut mof): (UnicodeString, UnicodeString) = core::mem::zeroed();
        let status = query(device, &raw mut flags, &raw mut name, &raw mut path, &raw mut mof, &raw mut pdo);
        if !nt_success(status) {
            return (status, 0);
        }
        let base = flags & REG_BASENAME != 0;
        let table = REG_GUIDS + context.count as usize * REG_GUID_BYTES;
        let strings = [(base, &raw const name), (true, path.cast_const()), (true, &raw const mof)];
        let length = |string: *const UnicodeString| if string.is_null() { 0 } else { usize::from((*string).length) };
        let total = strings.iter().filter(|(wanted, _)| *wanted).fold(table, |sum, (_, s)| sum + 2 + length(*s));
        if total > node.bytes {
            if node.bytes >= 4 {
                node.set(0, total);
            }
            if base {
                crate::ex::ExFreePool(name.buffer.cast());
            }
            return (STATUS_BUFFER_TOO_SMALL, 4.min(node.bytes));
        }
        ptr::write_bytes(node.at, 0, total);
        node.set(0, total);
        node.set(16, context.count as usize);
        let mut end = table;
        let mut places = [0; 3];
        for (place, (_, string)) in places.iter_mut().zip(strings).filter(|(_, (wanted, _))| *wanted) {
            *place = end;
            let bytes = length(string);
            node.at.add(end).cast::<u16>().write_unaligned(bytes as u16);
            if bytes != 0 {
                ptr::copy_nonoverlapping((*string).buffer.cast::<u8>(), node.at.add(end + 2), bytes);
            }
            end += 2 + bytes;
        }
        node.set(8, places[1]);
        node.set(12, places[2]);
        for index in 0..context.count as usize {
            let block = &*context.list.add(index);
            let at = REG_GUIDS + index * REG_GUID_BYTES;
            ptr::copy_nonoverlapping(block.guid.cast::<u8>(), node.at.add(at), 16);
            node.set(at + 16, (block.flags | flags) as usize);
            node.set(at + 20, block.instances as usize);
            if flags & REG_PDO != 0 {
                node.at.add(at + 24).cast::<usize>().write_unaligned(pdo.addr());
                // WMI takes a reference for each block away again.
                crate::ob::ObfReferenceObject(pdo.cast());
            } else if base {
                node.set(at + 24, places[0]);
            }
        }
        if base {
            crate::ex::ExFreePool(name.buffer.cast());
        }
        (STATUS_SUCCESS, total)
    }
}

/// The data of WNODE_ALL_DATA begins here.
fn all_data_start(instances: u32) -> usize {
    (ALL_DATA_PAIRS + 8 * instances as usize).next_multiple_of(8)
}

/// `WmiSystemControl`: handles an IRP_MJ_SYSTEM_CONTROL. `disposition` says what is left to the driver.
/// IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn WmiSystemControl(
    context: *const Context,
    device: *mut DeviceObject,
    irp: *mut Irp,
    disposition: *mut i32,
) -> NtStatus {
    // SAFETY: the driver gives its context, its device and a request that it got.
    unsafe {
        let (context, location) = (&*context, &*current(irp));
        let [provider, path, bytes, buffer] = location.parameters.wmi;
        let node = Node { at: buffer.cast(), bytes: bytes.addr() };
        let minor = location.minor;
        if location.major != mj::SYSTEM_CONTROL || !matches!(minor, QUERY_ALL_DATA..=EXECUTE_METHOD | REGINFO_EX) {
            disposition.write(NOT_WMI);
            return (*irp).io_status.status;
        }
        if provider != device.cast() {
            disposition.write(FORWARD);
            return (*irp).io_status.status;
        }
        disposition.write(NOT_COMPLETED);
        let done = |status: NtStatus, information: usize| {
            (*irp).io_status.status = status;
            (*irp).io_status.information = information;
            status
        };
        if matches!(minor, REGINFO | REGINFO_EX) {
            let (status, information) = register(context, device, &node);
            return done(status, information);
        }
        let wanted = path.cast::<Guid>();
        let Some(index) = (0..context.count).find(|&n| *(*context.list.add(n as usize)).guid == *wanted) else {
            return done(GUID_NOT_FOUND, 0);
        };
        let count = (*context.list.add(index as usize)).instances;
        if matches!(minor, ENABLE_EVENTS..=DISABLE_COLLECTION) {
            let Some(control) = context.control else { return done(STATUS_SUCCESS, 0) };
            let (what, enable) = (i32::from(minor >= 6), u8::from(minor.is_multiple_of(2)));
            disposition.write(PROCESSED);
            return control(device, irp, index, what, enable);
        }
        // The field that says where the data begins, and the one behind it with its size.
        let offset_field = match minor {
            QUERY_ALL_DATA => {
                let Some(query) = context.query_block else { return done(STATUS_INVALID_DEVICE_REQUEST, 0) };
                let start = all_data_start(count);
                if node.bytes < ALL_DATA_PAIRS {
                    return done(STATUS_BUFFER_TOO_SMALL, 0);
                }
                let room = node.bytes.saturating_sub(start);
                ptr::write_bytes(node.at.add(HEADER_BYTES), 0, start.min(node.bytes) - HEADER_BYTES);
                // Also where nothing fits: what is needed is counted from there.
                node.set(HEADER_BYTES, start);
                node.set(HEADER_BYTES + 4, count as usize);
                let lengths = if room == 0 { ptr::null_mut() } else { node.at.add(ALL_DATA_PAIRS).cast::<u32>() };
                let data = if room == 0 { ptr::null_mut() } else { node.at.add(start) };
                disposition.write(PROCESSED);
                return query(device, irp, index, 0, count, lengths, room as u32, data);
            }
            QUERY_SINGLE_INSTANCE | CHANGE_SINGLE_INSTANCE => 0x38,
            _ => 0x3c,
        };
        if node.bytes < offset_field + 8 {
            return done(STATUS_BUFFER_TOO_SMALL, 0);
        }
        let (instance, start) = (node.get(INSTANCE_INDEX), node.get(offset_field) as usize);
        let (size, number) = (node.get(offset_field + 4), node.get(0x38));
        let room = node.bytes.saturating_sub(start);
        if instance >= count {
            return done(INSTANCE_NOT_FOUND, 0);
        }
        let input = minor != QUERY_SINGLE_INSTANCE;
        if start > node.bytes || input && size as usize > room {
            return done(STATUS_INVALID_PARAMETER, 0);
        }
        let data = node.at.add(start);
        let (query, room) = (context.query_block, room as u32);
        let refused = match minor {
            QUERY_SINGLE_INSTANCE if query.is_none() => Some(STATUS_INVALID_DEVICE_REQUEST),
            CHANGE_SINGLE_INSTANCE if context.set_block.is_none() => Some(READ_ONLY),
            CHANGE_SINGLE_ITEM if context.set_item.is_none() => Some(READ_ONLY),
            EXECUTE_METHOD if context.execute.is_none() => Some(STATUS_INVALID_DEVICE_REQUEST),
            _ => None,
        };
        if let Some(status) = refused {
            return done(status, 0);
        }
        disposition.write(PROCESSED);
        let lengths = node.at.add(offset_field + 4).cast::<u32>();
        match (minor, query, context.set_block, context.set_item, context.execute) {
            (QUERY_SINGLE_INSTANCE, Some(query), ..) => query(device, irp, index, instance, 1, lengths, room, data),
            (CHANGE_SINGLE_INSTANCE, _, Some(set), ..) => set(device, irp, index, instance, size, data),
            (CHANGE_SINGLE_ITEM, _, _, Some(set), _) => set(device, irp, index, instance, number, size, data),
            (_, _, _, _, Some(execute)) => execute(device, irp, index, instance, number, size, room, data),
            _ => STATUS_INVALID_DEVICE_REQUEST,
        }
    }
}

/// `WmiCompleteRequest`: the result of a callback; completes the request. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn WmiCompleteRequest(
    _device: *mut DeviceObject,
    irp: *mut Irp,
    status: NtStatus,
    used: u32,
    boost: i8,
) -> NtStatus {
    // SAFETY: the driver gives a request whose sizes WmiSystemControl has checked.
    unsafe {
        let location = &*current(irp);
        let [_, _, bytes, buffer] = location.parameters.wmi;
        let node = Node { at: buffer.cast(), bytes: bytes.addr() };
        let used = used as usize;
        let (mut status, mut information) = (status, 0);
        let start = match location.minor {
            QUERY_ALL_DATA => Some((node.get(HEADER_BYTES) as usize, 0)),
            QUERY_SINGLE_INSTANCE => Some((node.get(0x38) as usize, 0x3c)),
            EXECUTE_METHOD => Some((node.get(0x3c) as usize, 0x40)),
            _ => None,
        };
        if let Some((start, size_field)) = start {
            if status == STATUS_BUFFER_TOO_SMALL && node.bytes >= TOO_SMALL_BYTES {
                let flags = node.get(FLAGS) | FLAG_TOO_SMALL;
                node.set(0, TOO_SMALL_BYTES);
                node.set(FLAGS, flags as usize);
                node.set(SIZE_NEEDED, start.max(HEADER_BYTES) + used);
                (status, information) = (STATUS_SUCCESS, TOO_SMALL_BYTES);
            } else if nt_success(status) {
                node.set(0, start + used);
                information = start + used;
                if size_field != 0 {
                    node.set(size_field, used);
                } else {
                    pairs(&node, start);
                }
            }
        }
        (*irp).io_status.status = status;
        (*irp).io_status.information = information;
        IofCompleteRequest(irp, boost);
        status
    }
}

/// Turns the lengths that the driver wrote into pairs of offset and length. An instance begins at a multiple of 8.
unsafe fn pairs(node: &Node, start: usize) {
    // SAFETY: WmiSystemControl has made room for a pair for each instance.
    unsafe {
        let count = node.get(HEADER_BYTES + 4) as usize;
        let lengths: alloc::vec::Vec<usize> = (0..count).map(|n| node.get(ALL_DATA_PAIRS + 4 * n) as usize).collect();
        let mut at = start;
        for (n, length) in lengths.into_iter().enumerate() {
            node.set(ALL_DATA_PAIRS + 8 * n, at);
            node.set(ALL_DATA_PAIRS + 8 * n + 4, length);
            at += length.next_multiple_of(8);
        }
        let flags = node.get(FLAGS) & !FLAG_FIXED_INSTANCE_SIZE;
        node.set(FLAGS, flags as usize);
    }
}

/// `WmiFireEvent`: sends an event whose data is a block of pool, which is freed here. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn WmiFireEvent(
    device: *mut DeviceObject,
    guid: *const Guid,
    instance: u32,
    bytes: u32,
    data: *mut c_void,
) -> NtStatus {
    const DATA: usize = 0x40;
    // SAFETY: the driver gives a GUID and a block with so many bytes, or none.
    unsafe {
        let total = DATA + if data.is_null() { 0 } else { bytes as usize };
        let at = crate::io::kernel::pool_alloc(total, u32::from_le_bytes(*b"Wmii"));
        let mut status = STATUS_INSUFFICIENT_RESOURCES;
        if !at.is_null() {
            let node = Node { at, bytes: total };
            node.set(0, total);
            node.set(4, super::IoWMIDeviceObjectToProviderId(device) as usize);
            ptr::copy_nonoverlapping(guid.cast::<u8>(), at.add(GUID_AT), 16);
            node.set(FLAGS, FLAG_EVENT_ITEM as usize);
            node.set(INSTANCE_INDEX, instance as usize);
            node.set(0x38, DATA);
            node.set(0x3c, total - DATA);
            ptr::copy_nonoverlapping(data.cast::<u8>(), at.add(DATA), total - DATA);
            status = super::IoWMIWriteEvent(at.cast());
            if !nt_success(status) {
                crate::ex::ExFreePool(at.cast());
            }
        }
        if !data.is_null() {
            crate::ex::ExFreePool(data);
        }
        status
    }
}
