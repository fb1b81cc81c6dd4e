//! The registry as miniports see it: the `Parameters\Device` keys of their service, and their device's own key.
//! IRQL = PASSIVE_LEVEL.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportregistryread>

use super::abi::*;
use super::adapter::{self, Adapter, NON_PAGED_POOL_NX, TAG};
use crate::ex::{ExAllocatePoolWithTag, ExFreePool};
use crate::io::driver::name_of;
use crate::io::text::to_unicode;
use crate::ob::namespace::ObjectAttributes;
use crate::pnp::property::IoOpenDeviceRegistryKey;
use crate::reg::zw::{ZwCreateKey, ZwQueryValueKey, ZwSetValueKey};
use crate::rtl::string::RtlFreeUnicodeString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;

/// `MINIPORT_REG_SZ`.
const MINIPORT_REG_SZ: u32 = 1;
/// `MINIPORT_REG_MULTI_SZ`.
const MINIPORT_REG_MULTI_SZ: u32 = 7;
/// Bytes of data that a value may have here.
const LIMIT: usize = 4096;

/// A NUL-terminated narrow string.
///
/// # Safety
/// `text` is null or such a string.
unsafe fn narrow(text: *const u8) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { (0..crate::crt::unit::length(text)).map(|i| char::from(text.add(i).read())).collect() }
}

/// Opens (or makes) a key and runs `body` with its handle.
fn with_key<R>(parent: *mut c_void, path: &str, body: impl FnOnce(*mut c_void) -> R) -> Option<R> {
    let mut name = to_unicode(path);
    // SAFETY: name and attributes live until the call returned; the handle is closed here.
    unsafe {
        // OBJ_CASE_INSENSITIVE and OBJ_KERNEL_HANDLE.
        let attributes = ObjectAttributes {
            length: size_of::<ObjectAttributes>() as u32,
            root: parent,
            name: &raw const name,
            attributes: 0x240,
            security: ptr::null_mut(),
            quality: ptr::null_mut(),
        };
        let mut handle = ptr::null_mut();
        let status = ZwCreateKey(&raw mut handle, 0xF003F, &raw const attributes, 0, ptr::null(), 0, ptr::null_mut());
        let result = (status >= 0).then(|| {
            let result = body(handle);
            crate::ob::handle::ZwClose(handle);
            result
        });
        RtlFreeUnicodeString(&raw mut name);
        result
    }
}

/// Type and data of a value.
pub(crate) fn query(key: *mut c_void, name: &str) -> Option<(u32, Vec<u8>)> {
    let mut text = to_unicode(name);
    let mut buffer = alloc::vec![0u8; LIMIT + 12];
    let mut used = 0u32;
    // SAFETY: the buffer has the size that is told.
    unsafe {
        // KeyValuePartialInformation: title index, type, length, data.
        let status = ZwQueryValueKey(key, &raw const text, 2, buffer.as_mut_ptr(), buffer.len() as u32, &raw mut used);
        RtlFreeUnicodeString(&raw mut text);
        if status < 0 {
            return None;
        }
    }
    let word = |i: usize| u32::from_le_bytes([buffer[i], buffer[i + 1], buffer[i + 2], buffer[i + 3]]);
    let (kind, length) = (word(4), word(8) as usize);
    Some((kind, buffer.get(12..12 + length)?.to_vec()))
}

/// Sets a value.
pub(crate) fn set(key: *mut c_void, name: &str, kind: u32, data: &[u8]) -> bool {
    let mut text = to_unicode(name);
    // SAFETY: name and data live until the call returned.
    unsafe {
        let status = ZwSetValueKey(key, &raw mut text, 0, kind, data.as_ptr().cast_mut().cast(), data.len() as u32);
        RtlFreeUnicodeString(&raw mut text);
        status >= 0
    }
}

/// Strings are narrow for miniports of these functions, and wide in the registry.
fn to_miniport(kind: u32, data: &[u8]) -> Vec<u8> {
    if matches!(kind, MINIPORT_REG_SZ | MINIPORT_REG_MULTI_SZ) {
        data.as_chunks::<2>().0.iter().map(|u| u8::try_from(u16::from_le_bytes(*u)).unwrap_or(b'?')).collect()
    } else {
        data.to_vec()
    }
}

/// The other way round.
fn to_registry(kind: u32, data: &[u8]) -> Vec<u8> {
    if matches!(kind, MINIPORT_REG_SZ | MINIPORT_REG_MULTI_SZ) {
        data.iter().flat_map(|b| [*b, 0]).collect()
    } else {
        data.to_vec()
    }
}

/// The service's key for all adapters (`global`) or for one.
fn parameters(adapter: &Adapter, global: bool) -> String {
    let service = name_of(adapter.driver);
    let number = if global { String::new() } else { format!("{}", adapter.port) };
    format!(r"\Registry\Machine\System\CurrentControlSet\Services\{service}\Parameters\Device{number}")
}

/// `StorPortAllocateRegistryBuffer`: zeroed; at most one at a time is asked for. Null without memory.
pub unsafe extern "win64" fn StorPortAllocateRegistryBuffer(extension: *mut c_void, length: *mut u32) -> *mut u8 {
    // SAFETY: the miniport gives its extension and a length.
    unsafe {
        adapter::of(extension);
        let bytes = (*length as usize).min(LIMIT);
        let block = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, bytes.max(1), TAG).cast::<u8>();
        if block.is_null() {
            length.write(0);
        } else {
            ptr::write_bytes(block, 0, bytes);
            length.write(bytes as u32);
        }
        block
    }
}

/// `StorPortFreeRegistryBuffer`.
pub unsafe extern "win64" fn StorPortFreeRegistryBuffer(extension: *mut c_void, buffer: *mut u8) {
    // SAFETY: the miniport gives its extension and a buffer of the function above.
    unsafe {
        adapter::of(extension);
        ExFreePool(buffer.cast());
    }
}

/// `StorPortRegistryRead`: FALSE if there is no such value, it has another type, or it does not fit, when `length` says
/// how much it needs.
pub unsafe extern "win64" fn StorPortRegistryRead(
    extension: *mut c_void,
    name: *const u8,
    global: u32,
    kind: u32,
    buffer: *mut u8,
    length: *mut u32,
) -> u8 {
    // SAFETY: the miniport gives its extension, a terminated name and a buffer of that length.
    unsafe {
        let adapter = adapter::of(extension);
        let found = with_key(ptr::null_mut(), &parameters(adapter, global != 0), |key| query(key, &narrow(name)));
        let Some(Some((has, data))) = found else { return 0 };
        if has != kind {
            return 0;
        }
        let data = to_miniport(kind, &data);
        let room = length.read() as usize;
        length.write(data.len() as u32);
        if data.len() > room {
            return 0;
        }
        ptr::copy_nonoverlapping(data.as_ptr(), buffer, data.len());
    }
    1
}

/// `StorPortRegistryWrite`: FALSE if it could not be written.
pub unsafe extern "win64" fn StorPortRegistryWrite(
    extension: *mut c_void,
    name: *const u8,
    global: u32,
    kind: u32,
    buffer: *const u8,
    length: u32,
) -> u8 {
    // SAFETY: the miniport gives its extension, a terminated name and a buffer of that length.
    unsafe {
        let adapter = adapter::of(extension);
        let data = to_registry(kind, core::slice::from_raw_parts(buffer, length as usize));
        let path = parameters(adapter, global != 0);
        u8::from(with_key(ptr::null_mut(), &path, |key| set(key, &narrow(name), kind, &data)).unwrap_or(false))
    }
}

/// Runs `body` with a key below the adapter's hardware key.
fn with_adapter_key<R>(adapter: &Adapter, subkey: &str, body: impl FnOnce(*mut c_void) -> R) -> Option<R> {
    let mut key = ptr::null_mut();
    // SAFETY: the PDO stands below the adapter; the handle is closed here.
    unsafe {
        // PLUGPLAY_REGKEY_DEVICE
        if IoOpenDeviceRegistryKey(adapter.pdo, 1, 0xF003F, &raw mut key) < 0 {
            return None;
        }
        let result = if subkey.is_empty() { Some(body(key)) } else { with_key(key, subkey, body) };
        crate::ob::handle::ZwClose(key);
        result
    }
}

/// `StorPortRegistryReadAdapterKey`: the data as the registry has it; `*data` null asks for a buffer.
///
/// # Safety
/// Pointers as the function documents them.
pub unsafe fn read_adapter_key(
    adapter: &Adapter,
    subkey: *const u8,
    name: *const u8,
    kind: u32,
    data: *mut *mut c_void,
    length: *mut u32,
) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let found = with_adapter_key(adapter, &narrow(subkey), |key| query(key, &narrow(name)));
        let Some(Some((has, value))) = found else { return STOR_STATUS_UNSUCCESSFUL };
        if has != kind {
            return STOR_STATUS_INVALID_PARAMETER;
        }
        let room = length.read() as usize;
        length.write(value.len() as u32);
        if (*data).is_null() || value.len() > room {
            return STOR_STATUS_BUFFER_TOO_SMALL;
        }
        ptr::copy_nonoverlapping(value.as_ptr(), (*data).cast::<u8>(), value.len());
    }
    STOR_STATUS_SUCCESS
}

/// `StorPortRegistryWriteAdapterKey`.
///
/// # Safety
/// Pointers as the function documents them.
pub unsafe fn write_adapter_key(
    adapter: &Adapter,
    subkey: *const u8,
    name: *const u8,
    kind: u32,
    data: *const u8,
    length: u32,
) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = core::slice::from_raw_parts(data, length as usize);
        match with_adapter_key(adapter, &narrow(subkey), |key| set(key, &narrow(name), kind, bytes)) {
            Some(true) => STOR_STATUS_SUCCESS,
            _ => STOR_STATUS_UNSUCCESSFUL,
        }
    }
}
