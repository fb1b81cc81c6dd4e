//! The keywords of an adapter: the values below its key that the INF's `Ndi\params` describes.

use core::ops::RangeInclusive;

use super::{
    abi::{self, ConfigurationObject, Handle, NdisString, ObjectHeader, object},
    adapter::Adapter,
    status::NdisStatus,
};
use crate::{string::UnicodeBuf, warning};

/// An adapter's open configuration.
pub struct Configuration {
    handle: Handle,
}

impl Configuration {
    /// Opens it.
    ///
    /// # Errors
    /// NDIS's.
    pub fn open(adapter: Adapter) -> Result<Self, NdisStatus> {
        let wanted = ConfigurationObject {
            header: ObjectHeader::new(object::CONFIGURATION_OBJECT, 1, abi::CONFIGURATION_OBJECT_SIZE),
            ndis_handle: adapter.as_raw(),
            flags: 0,
        };
        let mut handle: Handle = core::ptr::null_mut();
        // SAFETY: the adapter is NDIS's; the result is a local.
        NdisStatus(unsafe { abi::NdisOpenConfigurationEx(&raw const wanted, &raw mut handle) }).ok()?;
        Ok(Self { handle })
    }

    /// The decimal number of a keyword, or `default` where it is missing. One that is malformed or out of range is the
    /// default too, and a log line says so.
    ///
    /// # Errors
    /// [`NdisStatus::RESOURCES`].
    pub fn number(&self, keyword: &str, default: u32, range: RangeInclusive<u32>) -> Result<u32, NdisStatus> {
        let name = UnicodeBuf::from_text(keyword).map_err(|_| NdisStatus::RESOURCES)?;
        let characters = name.characters();
        let bytes = size_of_val(characters) as u16;
        let name = NdisString { length: bytes, maximum_length: bytes, buffer: characters.as_ptr().cast_mut() };
        let mut status = NdisStatus::SUCCESS.0;
        let mut parameter = core::ptr::null();
        // SAFETY: the handle is open; the other pointers are to locals; NDIS only reads the name.
        unsafe {
            abi::NdisReadConfiguration(
                &raw mut status,
                &raw mut parameter,
                self.handle,
                &raw const name,
                abi::PARAMETER_INTEGER,
            );
        }
        if !NdisStatus(status).is_success() || parameter.is_null() {
            // NDIS answers NDIS_STATUS_FAILURE for a missing keyword and for one that it cannot turn into a number.
            return Ok(default);
        }
        // SAFETY: NDIS keeps what it read until the configuration is closed.
        let parameter = unsafe { &*parameter };
        if !matches!(parameter.kind, abi::PARAMETER_INTEGER | abi::PARAMETER_HEX_INTEGER) {
            warning!("{keyword} is of kind {}, not a number; {default} is used", parameter.kind);
            return Ok(default);
        }
        if !range.contains(&parameter.integer) {
            warning!(
                "{keyword} = {} is not within {} to {}; {default} is used",
                parameter.integer,
                range.start(),
                range.end()
            );
            return Ok(default);
        }
        Ok(parameter.integer)
    }

    /// The address of the keyword `NetworkAddress`, as many bytes as the user gave, at most six. None: there is none,
    /// or it is no address.
    pub fn network_address(&self) -> Option<([u8; 6], usize)> {
        let mut status = NdisStatus::SUCCESS.0;
        let mut address = core::ptr::null();
        let mut length = 0;
        // SAFETY: the handle is open; the other pointers are to locals.
        unsafe {
            abi::NdisReadNetworkAddress(&raw mut status, &raw mut address, &raw mut length, self.handle);
        }
        if !NdisStatus(status).is_success() || address.is_null() {
            return None;
        }
        let mut bytes = [0; 6];
        let count = (length as usize).min(bytes.len());
        // SAFETY: NDIS keeps `length` bytes there until the configuration is closed.
        let given = unsafe { core::slice::from_raw_parts(address, count) };
        for (to, from) in bytes.iter_mut().zip(given) {
            *to = *from;
        }
        Some((bytes, length as usize))
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed once.
        unsafe { abi::NdisCloseConfiguration(self.handle) }
    }
}
