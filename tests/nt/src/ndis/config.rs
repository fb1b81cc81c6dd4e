//! The adapter's keywords: its software key. IRQL = PASSIVE_LEVEL.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ndis/nf-ndis-ndisreadconfiguration>

use super::abi::*;
use super::adapter::{self, TAG};
use super::owned::{self, Kind};
use crate::io::abi::DeviceObject;
use crate::io::kernel::{pool_alloc, pool_free};
use crate::io::text::from_unicode;
use crate::pnp::property::{IoGetDeviceProperty, IoOpenDeviceRegistryKey};
use crate::reg::hive;
use crate::storport::registry::{query, set};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;

/// An open configuration: the key, and what was given out of it.
struct Configuration {
    key: *mut c_void,
    given: Vec<*mut u8>,
}

/// `PLUGPLAY_REGKEY_DRIVER`.
const SOFTWARE_KEY: u32 = 2;
/// `KEY_ALL_ACCESS`.
const ALL_ACCESS: u32 = 0xf003f;

/// Runs `body` with a device's software key.
fn with_software_key<R>(pdo: *mut DeviceObject, body: impl FnOnce(*mut c_void) -> R) -> Option<R> {
    let mut key = ptr::null_mut();
    // SAFETY: the caller's PDO; the handle is closed here.
    unsafe {
        if IoOpenDeviceRegistryKey(pdo, SOFTWARE_KEY, ALL_ACCESS, &raw mut key) < 0 {
            return None;
        }
        let result = body(key);
        crate::ob::handle::ZwClose(key);
        Some(result)
    }
}

/// A text of a device's software key.
pub(super) fn software_text(pdo: *mut DeviceObject, name: &str) -> Option<String> {
    with_software_key(pdo, |key| query(key, name))?.map(|(_, data)| hive::sz_text(&data))
}

/// A device's description, DevicePropertyDeviceDescription.
pub(super) fn description(pdo: *mut DeviceObject) -> String {
    let mut data = alloc::vec![0_u8; 512];
    let mut used = 0;
    // SAFETY: the buffer has the size that is told.
    let status = unsafe { IoGetDeviceProperty(pdo, 0, data.len() as u32, data.as_mut_ptr(), &raw mut used) };
    if status < 0 { String::new() } else { hive::sz_text(&data[..used as usize]) }
}

/// `NdisOpenConfigurationEx`.
pub unsafe extern "win64" fn NdisOpenConfigurationEx(
    object: *const ConfigurationObject,
    handle: *mut Handle,
) -> NdisStatus {
    // SAFETY: the caller gives an object and room for a handle.
    unsafe {
        let size = crate::through!(ConfigurationObject, flags, u32);
        if (*object).header.kind != object::CONFIGURATION_OBJECT || usize::from((*object).header.size) < size {
            return NDIS_STATUS_INVALID_PARAMETER;
        }
        let adapter = adapter::of((*object).handle, "NdisOpenConfigurationEx");
        let mut key = ptr::null_mut();
        let status = IoOpenDeviceRegistryKey(adapter.pdo, SOFTWARE_KEY, ALL_ACCESS, &raw mut key);
        if status < 0 {
            return status;
        }
        let open = Box::into_raw(Box::new(Configuration { key, given: Vec::new() }));
        owned::add(Kind::Configuration, open as usize, (*object).handle);
        handle.write(open.cast());
    }
    NDIS_STATUS_SUCCESS
}

/// `NdisCloseConfiguration`: what was read goes with it.
pub unsafe extern "win64" fn NdisCloseConfiguration(handle: Handle) {
    owned::remove(Kind::Configuration, handle as usize, "NdisCloseConfiguration");
    // SAFETY: made by NdisOpenConfigurationEx and not closed yet.
    unsafe {
        let open = Box::from_raw(handle.cast::<Configuration>());
        crate::ob::handle::ZwClose(open.key);
        for block in &open.given {
            pool_free(*block, TAG);
        }
    }
}

/// Memory that lives as long as the configuration is open.
unsafe fn give(handle: Handle, bytes: &[u8]) -> *mut u8 {
    let block = pool_alloc(bytes.len().max(1), TAG);
    if !block.is_null() {
        // SAFETY: allocated with that size; the handle is open.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), block, bytes.len());
            (*handle.cast::<Configuration>()).given.push(block);
        }
    }
    block
}

/// Keywords that NDIS answers itself.
fn built_in(name: &str) -> Option<u32> {
    match name {
        // NdisEnvironmentWindowsNt
        "Environment" => Some(1),
        // NdisProcessorAmd64
        "ProcessorType" => Some(8),
        "NdisVersion" => Some(0x0006_001e),
        _ => None,
    }
}

/// A text as a number: decimal, or hexadecimal.
fn number(text: &str, hex: bool) -> Option<u32> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match (digits, hex) {
        (Some(digits), _) => u32::from_str_radix(digits, 16).ok(),
        (None, true) => u32::from_str_radix(text, 16).ok(),
        (None, false) => text.parse::<u32>().ok().or_else(|| text.parse::<i32>().ok().map(i32::cast_unsigned)),
    }
}

/// `NdisReadConfiguration`: a text is turned into a number where a number is asked for.
pub unsafe extern "win64" fn NdisReadConfiguration(
    status: *mut NdisStatus,
    value: *mut *mut ConfigurationParameter,
    handle: Handle,
    keyword: *const NdisString,
    kind: i32,
) {
    // SAFETY: the caller gives places for status and value, an open handle and a keyword.
    unsafe {
        owned::check(Kind::Configuration, handle as usize, "NdisReadConfiguration");
        let name = from_unicode(keyword);
        status.write(NDIS_STATUS_FAILURE);
        let wants_number = matches!(kind, parameter::INTEGER | parameter::HEX_INTEGER);
        let found = match built_in(&name) {
            Some(number) => Some((hive::REG_DWORD, number.to_le_bytes().to_vec())),
            None => query((*handle.cast::<Configuration>()).key, &name),
        };
        let Some((registry_kind, data)) = found else { return };
        let integer = match registry_kind {
            hive::REG_DWORD => data.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)),
            hive::REG_SZ if wants_number => number(&hive::sz_text(&data), kind == parameter::HEX_INTEGER),
            _ => None,
        };
        let data_of = if let Some(integer) = integer {
            (parameter::INTEGER, ParameterData { integer })
        } else {
            let parameter_kind = match registry_kind {
                hive::REG_SZ | hive::REG_EXPAND_SZ if !wants_number => parameter::STRING,
                hive::REG_MULTI_SZ if !wants_number => parameter::MULTI_STRING,
                hive::REG_BINARY => parameter::BINARY,
                _ => return,
            };
            let block = give(handle, &data);
            if block.is_null() {
                status.write(NDIS_STATUS_RESOURCES);
                return;
            }
            let bytes = data.len() as u16;
            let data = if parameter_kind == parameter::BINARY {
                ParameterData { binary: ParameterBinary { length: bytes, buffer: block } }
            } else {
                // The terminator does not count.
                let length = if parameter_kind == parameter::STRING { bytes.saturating_sub(2) } else { bytes };
                ParameterData { string: ParameterString { length, maximum_length: bytes, buffer: block.cast() } }
            };
            (parameter_kind, data)
        };
        let block = give(handle, &[0; size_of::<ConfigurationParameter>()]).cast::<ConfigurationParameter>();
        if block.is_null() {
            status.write(NDIS_STATUS_RESOURCES);
            return;
        }
        block.write(ConfigurationParameter { kind: data_of.0, data: data_of.1 });
        value.write(block);
        status.write(NDIS_STATUS_SUCCESS);
    }
}

/// `NdisWriteConfiguration`: numbers and texts.
pub unsafe extern "win64" fn NdisWriteConfiguration(
    status: *mut NdisStatus,
    handle: Handle,
    keyword: *const NdisString,
    value: *const ConfigurationParameter,
) {
    // SAFETY: the caller gives a place for the status, an open handle, a keyword and a parameter of the kind it says.
    unsafe {
        owned::check(Kind::Configuration, handle as usize, "NdisWriteConfiguration");
        let key = (*handle.cast::<Configuration>()).key;
        let name = from_unicode(keyword);
        let text = |string: ParameterString| {
            core::slice::from_raw_parts(string.buffer.cast::<u8>(), usize::from(string.length)).to_vec()
        };
        let (kind, data) = match (*value).kind {
            parameter::INTEGER | parameter::HEX_INTEGER => {
                (hive::REG_DWORD, (*value).data.integer.to_le_bytes().to_vec())
            }
            parameter::STRING => {
                let mut data = text((*value).data.string);
                data.extend([0, 0]);
                (hive::REG_SZ, data)
            }
            parameter::MULTI_STRING => (hive::REG_MULTI_SZ, text((*value).data.string)),
            _ => {
                let binary = (*value).data.binary;
                (hive::REG_BINARY, core::slice::from_raw_parts(binary.buffer, usize::from(binary.length)).to_vec())
            }
        };
        status.write(if set(key, &name, kind, &data) { NDIS_STATUS_SUCCESS } else { NDIS_STATUS_FAILURE });
    }
}

/// `NdisReadNetworkAddress`: the keyword NetworkAddress, hexadecimal digits with or without dashes. A failure if there is
/// none or it is not that.
pub unsafe extern "win64" fn NdisReadNetworkAddress(
    status: *mut NdisStatus,
    address: *mut *mut u8,
    length: *mut u32,
    handle: Handle,
) {
    // SAFETY: the caller gives places for the answers and an open handle.
    unsafe {
        owned::check(Kind::Configuration, handle as usize, "NdisReadNetworkAddress");
        status.write(NDIS_STATUS_FAILURE);
        let Some((_, data)) = query((*handle.cast::<Configuration>()).key, "NetworkAddress") else { return };
        let text: Vec<char> = hive::sz_text(&data).chars().filter(|c| !matches!(c, '-' | ':')).collect();
        let digits: Option<Vec<u8>> = text.iter().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        let Some(digits) = digits.filter(|d| !d.is_empty() && d.len() % 2 == 0) else { return };
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        let block = give(handle, &bytes);
        if block.is_null() {
            status.write(NDIS_STATUS_RESOURCES);
            return;
        }
        address.write(block);
        length.write(bytes.len() as u32);
        status.write(NDIS_STATUS_SUCCESS);
    }
}
