//! `Zw*Key`: keys by handle. IRQL = PASSIVE_LEVEL, all of them.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/using-the-registry-in-a-driver>
use super::hive::{HiveError, KeyId, Value};
use crate::io::kernel::system_time;
use crate::io::status::*;
use crate::io::text;
use crate::ob::namespace::ObjectAttributes;
use crate::ob::{self, Kind, ObfDereferenceObject, handle};
use crate::rtl::abi::UnicodeString;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;

const REG_OPTION_VOLATILE: u32 = 1;
const REG_CREATED_NEW_KEY: u32 = 1;
const REG_OPENED_EXISTING_KEY: u32 = 2;
const KEY_SET_VALUE: u32 = 2;
const KEY_CREATE_SUB_KEY: u32 = 4;

fn status_of(error: HiveError) -> NtStatus {
    match error {
        HiveError::NotFound => STATUS_OBJECT_NAME_NOT_FOUND,
        HiveError::BadPath => STATUS_OBJECT_PATH_SYNTAX_BAD,
        HiveError::KeyDeleted => STATUS_KEY_DELETED,
        HiveError::CannotDelete => STATUS_CANNOT_DELETE,
        HiveError::ChildMustBeVolatile => STATUS_CHILD_MUST_BE_VOLATILE,
        HiveError::NoMoreEntries => STATUS_NO_MORE_ENTRIES,
        HiveError::NameTooLong => STATUS_INVALID_PARAMETER,
    }
}

/// Makes a handle to a key.
pub(crate) fn open_handle(key: KeyId, access: u32) -> Result<*mut c_void, NtStatus> {
    let object = ob::allocate(Kind::Key, size_of::<KeyId>(), None);
    if object.is_null() {
        return Err(STATUS_INSUFFICIENT_RESOURCES);
    }
    // SAFETY: a fresh object with room for the number.
    unsafe {
        object.cast::<KeyId>().write(key);
        Ok(handle::insert(object, access))
    }
}

/// The key behind a handle.
pub(crate) fn key_of(key: *mut c_void) -> Result<KeyId, NtStatus> {
    let object = handle::reference(key, Some(Kind::Key))?;
    // SAFETY: a key object, referenced.
    unsafe {
        let id = object.cast::<KeyId>().read();
        ObfDereferenceObject(object);
        Ok(id)
    }
}

fn writable(key: *mut c_void, wanted: u32) -> Result<(), NtStatus> {
    // GENERIC_ALL, GENERIC_WRITE and MAXIMUM_ALLOWED include it.
    const ALL: u32 = 0x1000_0000 | 0x4000_0000 | 0x0200_0000;
    let access = handle::access(key).ok_or(STATUS_INVALID_HANDLE)?;
    if access & (wanted | ALL) == 0 { Err(STATUS_ACCESS_DENIED) } else { Ok(()) }
}

unsafe fn named(attributes: *const ObjectAttributes) -> Result<(Option<KeyId>, String), NtStatus> {
    // SAFETY: the callers' contract.
    unsafe {
        if attributes.is_null() || (*attributes).length != size_of::<ObjectAttributes>() as u32 {
            return Err(STATUS_INVALID_PARAMETER);
        }
        let root = (*attributes).root;
        let root = if root.is_null() { None } else { Some(key_of(root)?) };
        Ok((root, text::from_unicode((*attributes).name)))
    }
}

fn result(done: Result<(), NtStatus>) -> NtStatus {
    done.err().unwrap_or(STATUS_SUCCESS)
}

/// Opens a key, or makes it.
///
/// # Safety
/// The pointers are valid; `class` and `disposition` may be NULL.
pub unsafe extern "win64" fn ZwCreateKey(
    key: *mut *mut c_void,
    access: u32,
    attributes: *const ObjectAttributes,
    _title: u32,
    class: *const UnicodeString,
    options: u32,
    disposition: *mut u32,
) -> NtStatus {
    // SAFETY: per the contract.
    result(unsafe {
        (|| {
            let (root, path) = named(attributes)?;
            let class = text::from_unicode(class);
            let volatile = options & REG_OPTION_VOLATILE != 0;
            let (id, made) = super::with(|hive| {
                let (id, made) = hive.create(root, &path, volatile, system_time()).map_err(status_of)?;
                if made && !class.is_empty() {
                    hive.set_class(id, &class).map_err(status_of)?;
                }
                Ok::<_, NtStatus>((id, made))
            })?;
            *key = open_handle(id, access)?;
            if !disposition.is_null() {
                *disposition = if made { REG_CREATED_NEW_KEY } else { REG_OPENED_EXISTING_KEY };
            }
            Ok(())
        })()
    })
}

/// Opens a key.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn ZwOpenKey(
    key: *mut *mut c_void,
    access: u32,
    attributes: *const ObjectAttributes,
) -> NtStatus {
    // SAFETY: per the contract.
    result(unsafe {
        (|| {
            let (root, path) = named(attributes)?;
            let id = super::with(|hive| hive.open(root, &path)).map_err(status_of)?;
            *key = open_handle(id, access)?;
            Ok(())
        })()
    })
}

/// Opens a key, with options that change nothing here.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn ZwOpenKeyEx(
    key: *mut *mut c_void,
    access: u32,
    attributes: *const ObjectAttributes,
    _options: u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { ZwOpenKey(key, access, attributes) }
}

/// Deletes a key without subkeys.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn ZwDeleteKey(key: *mut c_void) -> NtStatus {
    result(key_of(key).and_then(|id| super::with(|hive| hive.delete_key(id, system_time())).map_err(status_of)))
}

/// Deletes a value.
///
/// # Safety
/// The name is valid.
pub unsafe extern "win64" fn ZwDeleteValueKey(key: *mut c_void, name: *const UnicodeString) -> NtStatus {
    // SAFETY: per the contract.
    let name = unsafe { text::from_unicode(name) };
    result(key_of(key).and_then(|id| {
        writable(key, KEY_SET_VALUE)?;
        super::with(|hive| hive.delete_value(id, &name, system_time())).map_err(status_of)
    }))
}

/// Sets a value.
///
/// # Safety
/// The name is valid, `data` has `size` bytes.
pub unsafe extern "win64" fn ZwSetValueKey(
    key: *mut c_void,
    name: *const UnicodeString,
    _title: u32,
    kind: u32,
    data: *const u8,
    size: u32,
) -> NtStatus {
    // SAFETY: per the contract.
    let (name, data) = unsafe {
        let data = if data.is_null() { Vec::new() } else { core::slice::from_raw_parts(data, size as usize).to_vec() };
        (text::from_unicode(name), data)
    };
    result(key_of(key).and_then(|id| {
        writable(key, KEY_SET_VALUE | KEY_CREATE_SUB_KEY)?;
        super::with(|hive| hive.set_value(id, &name, kind, data, system_time())).map_err(status_of)
    }))
}

/// Writes the hive to the disk. It succeeds before the hive is writable too, and does nothing then.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn ZwFlushKey(key: *mut c_void) -> NtStatus {
    result(key_of(key).map(|_| {
        super::with(super::hive::Hive::flush);
    }))
}

/// Puts an answer into the caller's buffer: its fixed part must fit (else STATUS_BUFFER_TOO_SMALL), the rest may be cut
/// (STATUS_BUFFER_OVERFLOW). The length needed is always told.
unsafe fn give(answer: &[u8], fixed: usize, buffer: *mut u8, length: u32, needed: *mut u32) -> NtStatus {
    // SAFETY: the callers' contract: the buffer has `length` bytes.
    unsafe {
        *needed = answer.len() as u32;
        let room = length as usize;
        if room < fixed {
            return STATUS_BUFFER_TOO_SMALL;
        }
        core::ptr::copy_nonoverlapping(answer.as_ptr(), buffer, room.min(answer.len()));
        if room < answer.len() { STATUS_BUFFER_OVERFLOW } else { STATUS_SUCCESS }
    }
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The KEY_VALUE_*_INFORMATION of a value, and the length of its fixed part.
fn value_information(value: &Value, class: i32) -> Option<(Vec<u8>, usize)> {
    let name = wide(&value.name);
    let mut out = Vec::new();
    let mut put = |v: u32| out.extend(v.to_le_bytes());
    put(0);
    put(value.kind);
    let fixed = match class {
        // KeyValueBasicInformation
        0 => {
            put(name.len() as u32);
            out.extend(&name);
            12
        }
        // KeyValueFullInformation and its form with aligned data
        1 | 3 => {
            let align = if class == 3 { 8 } else { 4 };
            let offset = (20 + name.len()).div_ceil(align) * align;
            put(offset as u32);
            put(value.data.len() as u32);
            put(name.len() as u32);
            out.extend(&name);
            out.resize(offset, 0);
            out.extend(&value.data);
            20
        }
        // KeyValuePartialInformation
        2 => {
            put(value.data.len() as u32);
            out.extend(&value.data);
            12
        }
        // KeyValuePartialInformationAlign64
        4 => {
            let mut aligned = value.kind.to_le_bytes().to_vec();
            aligned.extend((value.data.len() as u32).to_le_bytes());
            aligned.extend(&value.data);
            return Some((aligned, 8));
        }
        _ => return None,
    };
    Some((out, fixed))
}

/// A value.
///
/// # Safety
/// The pointers are valid, the buffer has `length` bytes.
pub unsafe extern "win64" fn ZwQueryValueKey(
    key: *mut c_void,
    name: *const UnicodeString,
    class: i32,
    buffer: *mut u8,
    length: u32,
    needed: *mut u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let name = text::from_unicode(name);
        let value = key_of(key).and_then(|id| super::with(|hive| hive.value(id, &name).cloned()).map_err(status_of));
        match value {
            Ok(value) => match value_information(&value, class) {
                Some((answer, fixed)) => give(&answer, fixed, buffer, length, needed),
                None => STATUS_INVALID_PARAMETER,
            },
            Err(status) => status,
        }
    }
}

/// The `index`-th value.
///
/// # Safety
/// As above.
pub unsafe extern "win64" fn ZwEnumerateValueKey(
    key: *mut c_void,
    index: u32,
    class: i32,
    buffer: *mut u8,
    length: u32,
    needed: *mut u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let value = key_of(key)
            .and_then(|id| super::with(|hive| hive.value_at(id, index as usize).cloned()).map_err(status_of));
        match value {
            Ok(value) => match value_information(&value, class) {
                Some((answer, fixed)) => give(&answer, fixed, buffer, length, needed),
                None => STATUS_INVALID_PARAMETER,
            },
            Err(status) => status,
        }
    }
}

/// The KEY_*_INFORMATION of a key, and the length of its fixed part.
fn key_information(id: KeyId, class: i32) -> Result<(Vec<u8>, usize), NtStatus> {
    let (info, path) = super::with(|hive| Ok::<_, HiveError>((hive.info(id)?, hive.path(id)?))).map_err(status_of)?;
    let (name, class_name) = (wide(&info.name), wide(&info.class));
    let mut out = info.last_write.to_le_bytes().to_vec();
    let mut put = |v: usize| out.extend((v as u32).to_le_bytes());
    let fixed = match class {
        // KeyBasicInformation
        0 => {
            put(0);
            put(name.len());
            out.extend(&name);
            16
        }
        // KeyNodeInformation
        1 => {
            let offset = 24 + name.len();
            put(0);
            put(if class_name.is_empty() { usize::MAX } else { offset });
            put(class_name.len());
            put(name.len());
            out.extend(&name);
            out.extend(&class_name);
            24
        }
        // KeyFullInformation
        2 => {
            put(0);
            put(if class_name.is_empty() { usize::MAX } else { 44 });
            put(class_name.len());
            put(info.subkeys);
            put(2 * info.max_subkey_name);
            put(2 * info.max_class);
            put(info.values);
            put(2 * info.max_value_name);
            put(info.max_value_data);
            out.extend(&class_name);
            44
        }
        // KeyNameInformation
        3 => {
            let path = wide(&path);
            let mut named = (path.len() as u32).to_le_bytes().to_vec();
            named.extend(&path);
            return Ok((named, 4));
        }
        _ => return Err(STATUS_INVALID_PARAMETER),
    };
    Ok((out, fixed))
}

/// What there is to know of a key.
///
/// # Safety
/// The pointers are valid, the buffer has `length` bytes.
pub unsafe extern "win64" fn ZwQueryKey(
    key: *mut c_void,
    class: i32,
    buffer: *mut u8,
    length: u32,
    needed: *mut u32,
) -> NtStatus {
    match key_of(key).and_then(|id| key_information(id, class)) {
        // SAFETY: per the contract.
        Ok((answer, fixed)) => unsafe { give(&answer, fixed, buffer, length, needed) },
        Err(status) => status,
    }
}

/// The `index`-th subkey.
///
/// # Safety
/// As above.
pub unsafe extern "win64" fn ZwEnumerateKey(
    key: *mut c_void,
    index: u32,
    class: i32,
    buffer: *mut u8,
    length: u32,
    needed: *mut u32,
) -> NtStatus {
    let found = key_of(key)
        .and_then(|id| super::with(|hive| hive.subkey_at(id, index as usize)).map_err(status_of))
        .and_then(|id| key_information(id, class));
    match found {
        // SAFETY: per the contract.
        Ok((answer, fixed)) => unsafe { give(&answer, fixed, buffer, length, needed) },
        Err(status) => status,
    }
}
