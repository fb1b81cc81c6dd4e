//! `RtlQueryRegistryValues` and its kin. IRQL = PASSIVE_LEVEL.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlqueryregistryvalues>
use super::hive::{self, KeyId, Value};
use crate::inf::install::CONTROL_SET;
use crate::io::kernel::{paged_alloc, pool_free, system_time};
use crate::io::status::*;
use crate::io::text;
use crate::rtl::abi::UnicodeString;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;

/// `RTL_QUERY_REGISTRY_ROUTINE`.
pub type QueryRoutine = unsafe extern "win64" fn(
    name: *const u16,
    kind: u32,
    data: *mut c_void,
    length: u32,
    context: *mut c_void,
    entry: *mut c_void,
) -> NtStatus;

/// `RTL_QUERY_REGISTRY_TABLE`.
#[repr(C)]
pub struct QueryTable {
    routine: Option<QueryRoutine>,
    flags: u32,
    name: *const u16,
    entry_context: *mut c_void,
    default_type: u32,
    default_data: *mut c_void,
    default_length: u32,
}

const _: () = assert!(size_of::<QueryTable>() == 56);

const SUBKEY: u32 = 0x01;
const TOPKEY: u32 = 0x02;
const REQUIRED: u32 = 0x04;
const NOVALUE: u32 = 0x08;
const NOEXPAND: u32 = 0x10;
const DIRECT: u32 = 0x20;
const DELETE: u32 = 0x40;
const TYPECHECK: u32 = 0x100;
const TAG: u32 = u32::from_le_bytes(*b"RqRv");

unsafe fn path_of(relative: u32, path: *const u16) -> Result<String, NtStatus> {
    const OPTIONAL: u32 = 0x8000_0000;
    // SAFETY: the callers' contract.
    let below = unsafe { text::from_wide(path) };
    let base = match relative & !OPTIONAL {
        0 => return Ok(below),
        1 => alloc::format!(r"{CONTROL_SET}\Services"),
        2 => alloc::format!(r"{CONTROL_SET}\Control"),
        3 => r"\Registry\Machine\Software\Microsoft\Windows NT\CurrentVersion".to_string(),
        4 => r"\Registry\Machine\Hardware\DeviceMap".to_string(),
        5 => r"\Registry\User\.Default".to_string(),
        _ => return Err(STATUS_INVALID_PARAMETER),
    };
    Ok(if below.is_empty() { base } else { alloc::format!(r"{base}\{below}") })
}

const RTL_REGISTRY_HANDLE: u32 = 0x4000_0000;

unsafe fn key_of(relative: u32, path: *const u16) -> Result<KeyId, NtStatus> {
    if relative & RTL_REGISTRY_HANDLE != 0 {
        return super::zw::key_of(path.cast_mut().cast());
    }
    // SAFETY: the callers' contract.
    let path = unsafe { path_of(relative, path)? };
    super::with(|hive| hive.open(None, &path)).map_err(|_| STATUS_OBJECT_NAME_NOT_FOUND)
}

/// Replaces the variables of a REG_EXPAND_SZ that a boot knows.
fn expand(value: &Value) -> Vec<u8> {
    let text = hive::sz_text(&value.data);
    let lower = text.to_ascii_lowercase();
    match lower.find("%systemroot%") {
        Some(at) => hive::sz(&alloc::format!(r"{}\SystemRoot{}", &text[..at], &text[at + 12..])),
        None => value.data.clone(),
    }
}

/// Puts a value where QUERY_REGISTRY_DIRECT wants it.
unsafe fn direct(value: &Value, target: *mut c_void) -> NtStatus {
    // SAFETY: the driver's table says what the target is.
    unsafe {
        match value.kind {
            hive::REG_SZ | hive::REG_EXPAND_SZ | hive::REG_MULTI_SZ => {
                let string = target.cast::<UnicodeString>();
                let mut bytes = value.data.clone();
                bytes.truncate(0xfffe);
                if value.kind != hive::REG_MULTI_SZ && !bytes.ends_with(&[0, 0]) {
                    bytes.extend([0, 0]);
                }
                let length = if value.kind == hive::REG_MULTI_SZ { bytes.len() } else { bytes.len() - 2 };
                if (*string).buffer.is_null() {
                    let memory = paged_alloc(bytes.len(), u32::from_le_bytes(*b"Strg"));
                    if memory.is_null() {
                        return STATUS_NO_MEMORY;
                    }
                    (*string).buffer = memory.cast();
                    (*string).maximum_length = bytes.len() as u16;
                } else if bytes.len() > usize::from((*string).maximum_length) {
                    return STATUS_BUFFER_TOO_SMALL;
                }
                ptr::copy_nonoverlapping(bytes.as_ptr(), (*string).buffer.cast(), bytes.len());
                (*string).length = length as u16;
            }
            _ if value.data.len() <= 4 => {
                ptr::copy_nonoverlapping(value.data.as_ptr(), target.cast::<u8>(), value.data.len());
            }
            kind => {
                // The buffer starts with its size, negative; a positive one gets length and type first.
                let size = target.cast::<i32>().read_unaligned();
                if size < 0 {
                    if value.data.len() > size.unsigned_abs() as usize {
                        return STATUS_BUFFER_TOO_SMALL;
                    }
                    ptr::copy_nonoverlapping(value.data.as_ptr(), target.cast::<u8>(), value.data.len());
                } else {
                    if value.data.len() + 8 > size as usize {
                        return STATUS_BUFFER_TOO_SMALL;
                    }
                    target.cast::<u32>().write_unaligned(value.data.len() as u32);
                    target.cast::<u32>().add(1).write_unaligned(kind);
                    ptr::copy_nonoverlapping(value.data.as_ptr(), target.cast::<u8>().add(8), value.data.len());
                }
            }
        }
    }
    STATUS_SUCCESS
}

unsafe fn hand_over(entry: &QueryTable, value: &Value, context: *mut c_void) -> NtStatus {
    // SAFETY: the driver's table.
    unsafe {
        let mut value = value.clone();
        if entry.flags & DIRECT != 0 {
            if entry.flags & TYPECHECK != 0 && entry.default_type >> 24 != value.kind {
                return STATUS_OBJECT_TYPE_MISMATCH;
            }
            if value.kind == hive::REG_EXPAND_SZ && entry.flags & NOEXPAND == 0 {
                value.data = expand(&value);
            }
            return direct(&value, entry.entry_context);
        }
        let Some(routine) = entry.routine else { return STATUS_INVALID_PARAMETER };
        let name = text::to_unicode(&value.name);
        let call = |kind: u32, data: &[u8]| {
            let memory = paged_alloc(data.len(), TAG);
            if memory.is_null() {
                return STATUS_NO_MEMORY;
            }
            ptr::copy_nonoverlapping(data.as_ptr(), memory, data.len());
            let data_length = data.len() as u32;
            let status = routine(name.buffer, kind, memory.cast(), data_length, context, entry.entry_context);
            pool_free(memory, TAG);
            status
        };
        let status = if value.kind == hive::REG_MULTI_SZ && entry.flags & NOEXPAND == 0 {
            // One call for each string.
            let mut status = STATUS_SUCCESS;
            for text in hive::multi_sz_list(&value.data) {
                status = call(hive::REG_SZ, &hive::sz(&text));
                if status < 0 {
                    break;
                }
            }
            status
        } else if value.kind == hive::REG_EXPAND_SZ && entry.flags & NOEXPAND == 0 {
            call(hive::REG_SZ, &expand(&value))
        } else {
            call(value.kind, &value.data)
        };
        pool_free(name.buffer.cast(), 0);
        // A routine that finds its buffer too small is not a failure of the query.
        if status == STATUS_BUFFER_TOO_SMALL { STATUS_SUCCESS } else { status }
    }
}

unsafe fn default_value(entry: &QueryTable, name: &str) -> Option<Value> {
    let kind = entry.default_type & 0x00ff_ffff;
    if kind == hive::REG_NONE || (entry.default_data.is_null() && entry.default_length == 0) {
        return None;
    }
    // SAFETY: the driver's table; a string without a length is terminated.
    let data = unsafe {
        if entry.default_length == 0 {
            match kind {
                hive::REG_SZ | hive::REG_EXPAND_SZ => hive::sz(&text::from_wide(entry.default_data.cast())),
                hive::REG_MULTI_SZ => hive::multi_sz(&text::from_multi(entry.default_data.cast())),
                _ => Vec::new(),
            }
        } else {
            core::slice::from_raw_parts(entry.default_data.cast::<u8>(), entry.default_length as usize).to_vec()
        }
    };
    Some(Value { name: name.to_string(), kind, data })
}

/// Looks up what a table names and hands it to the table's routines.
///
/// # Safety
/// The table ends with an empty entry and is valid.
pub unsafe extern "win64" fn RtlQueryRegistryValues(
    relative: u32,
    path: *const u16,
    table: *mut QueryTable,
    context: *mut c_void,
    _environment: *mut c_void,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let top = match key_of(relative, path) {
            Ok(key) => key,
            Err(status) => return status,
        };
        let mut key = top;
        let mut at = table;
        loop {
            let entry = &*at;
            if entry.routine.is_none() && entry.flags & (SUBKEY | DIRECT) == 0 {
                return STATUS_SUCCESS;
            }
            at = at.add(1);
            let name = text::from_wide(entry.name);
            if entry.flags & DIRECT != 0
                && (entry.name.is_null() || entry.flags & SUBKEY != 0 || entry.routine.is_some())
            {
                return STATUS_INVALID_PARAMETER;
            }
            if entry.flags & (TOPKEY | SUBKEY) != 0 {
                key = top;
            }
            if entry.flags & SUBKEY != 0 {
                match super::with(|hive| hive.open(Some(top), &name)) {
                    Ok(sub) => key = sub,
                    Err(_) if entry.flags & REQUIRED == 0 => {
                        // The entries below a missing optional subkey find nothing.
                        while !((*at).routine.is_none() && (*at).flags & (SUBKEY | DIRECT) == 0)
                            && (*at).flags & (SUBKEY | TOPKEY) == 0
                        {
                            if (*at).flags & REQUIRED != 0 {
                                return STATUS_OBJECT_NAME_NOT_FOUND;
                            }
                            at = at.add(1);
                        }
                        continue;
                    }
                    Err(_) => return STATUS_OBJECT_NAME_NOT_FOUND,
                }
                if entry.routine.is_none() {
                    continue;
                }
            }
            if entry.flags & NOVALUE != 0 {
                if let Some(routine) = entry.routine {
                    let status = routine(ptr::null(), 0, ptr::null_mut(), 0, context, entry.entry_context);
                    if status < 0 {
                        return status;
                    }
                }
                continue;
            }
            let all = entry.name.is_null() || entry.flags & SUBKEY != 0;
            let values: Vec<Value> = super::with(|hive| {
                if all {
                    hive.values(key).map(<[Value]>::to_vec).unwrap_or_default()
                } else {
                    hive.value(key, &name).cloned().into_iter().collect()
                }
            });
            if values.is_empty() {
                if entry.flags & REQUIRED != 0 {
                    return STATUS_OBJECT_NAME_NOT_FOUND;
                }
                if !all && let Some(value) = default_value(entry, &name) {
                    let status = if entry.flags & DIRECT != 0 {
                        direct(&value, entry.entry_context)
                    } else {
                        hand_over(entry, &value, context)
                    };
                    if status < 0 {
                        return status;
                    }
                }
                continue;
            }
            for value in values {
                let status = hand_over(entry, &value, context);
                if status < 0 {
                    return status;
                }
                if entry.flags & DELETE != 0 {
                    let _ = super::with(|hive| hive.delete_value(key, &value.name, system_time()));
                }
            }
        }
    }
}

/// Sets a value.
///
/// # Safety
/// The strings are terminated, `data` has `length` bytes.
pub unsafe extern "win64" fn RtlWriteRegistryValue(
    relative: u32,
    path: *const u16,
    name: *const u16,
    kind: u32,
    data: *const u8,
    length: u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let name = text::from_wide(name);
        let data = core::slice::from_raw_parts(data, length as usize).to_vec();
        let key = match key_of(relative, path) {
            Ok(key) => key,
            // The last key of a path is made.
            Err(STATUS_OBJECT_NAME_NOT_FOUND) if relative & RTL_REGISTRY_HANDLE == 0 => {
                let path = match path_of(relative, path) {
                    Ok(path) => path,
                    Err(status) => return status,
                };
                match super::with(|hive| hive.create(None, &path, false, system_time())) {
                    Ok((key, _)) => key,
                    Err(_) => return STATUS_OBJECT_NAME_NOT_FOUND,
                }
            }
            Err(status) => return status,
        };
        match super::with(|hive| hive.set_value(key, &name, kind, data, system_time())) {
            Ok(()) => STATUS_SUCCESS,
            Err(_) => STATUS_INVALID_PARAMETER,
        }
    }
}

/// Deletes a value.
///
/// # Safety
/// The strings are terminated.
pub unsafe extern "win64" fn RtlDeleteRegistryValue(relative: u32, path: *const u16, name: *const u16) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let name = text::from_wide(name);
        match key_of(relative, path) {
            Ok(key) => match super::with(|hive| hive.delete_value(key, &name, system_time())) {
                Ok(()) => STATUS_SUCCESS,
                Err(_) => STATUS_OBJECT_NAME_NOT_FOUND,
            },
            Err(status) => status,
        }
    }
}

/// Whether a key is there.
///
/// # Safety
/// The string is terminated.
pub unsafe extern "win64" fn RtlCheckRegistryKey(relative: u32, path: *const u16) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { key_of(relative, path).err().unwrap_or(STATUS_SUCCESS) }
}

/// Makes a key.
///
/// # Safety
/// The string is terminated.
pub unsafe extern "win64" fn RtlCreateRegistryKey(relative: u32, path: *const u16) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        match path_of(relative, path) {
            Ok(path) => match super::with(|hive| hive.create(None, &path, false, system_time())) {
                Ok(_) => STATUS_SUCCESS,
                Err(_) => STATUS_OBJECT_NAME_NOT_FOUND,
            },
            Err(status) => status,
        }
    }
}
