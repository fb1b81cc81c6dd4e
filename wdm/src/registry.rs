//! A driver's parameters: registry values read with their type and range checked.
//!
//! A value that is missing is the default. A value of the wrong type or out of range is the default too, and one log
//! line names it.

use core::ops::RangeInclusive;

use wdk_sys::{
    _KEY_VALUE_INFORMATION_CLASS, HANDLE, KEY_READ, KEY_VALUE_PARTIAL_INFORMATION, OBJ_CASE_INSENSITIVE,
    OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES, REG_DWORD, ntddk,
};

use crate::{
    status::{Result, Status},
    string::{UnicodeBuf, UnicodeStr},
    warning,
};

/// An open registry key.
pub struct Key {
    handle: HANDLE,
}

// SAFETY: a kernel handle is valid in every thread.
unsafe impl Send for Key {}

impl Key {
    /// Opens a key by its full path (`\Registry\Machine\...`) for reading.
    ///
    /// # Errors
    /// [`Status::OBJECT_NAME_NOT_FOUND`] and what `ZwOpenKey` returns.
    pub fn open(path: UnicodeStr<'_>) -> Result<Self> {
        let mut name = path.as_raw();
        let mut attributes = OBJECT_ATTRIBUTES {
            Length: size_of::<OBJECT_ATTRIBUTES>() as u32,
            ObjectName: &raw mut name,
            Attributes: OBJ_KERNEL_HANDLE | OBJ_CASE_INSENSITIVE,
            ..Default::default()
        };
        let mut handle: HANDLE = core::ptr::null_mut();
        // SAFETY: all pointers are to locals that outlive the call; the name's buffer outlives `path`.
        Status(unsafe { ntddk::ZwOpenKey(&raw mut handle, KEY_READ, &raw mut attributes) }).ok()?;
        Ok(Self { handle })
    }

    /// Reads a value: its type and its bytes in `buffer`.
    ///
    /// # Errors
    /// [`Status::OBJECT_NAME_NOT_FOUND`]; [`Status::BUFFER_OVERFLOW`] where it is longer than the buffer has room for;
    /// what `ZwQueryValueKey` returns.
    fn value<'a>(&self, name: &str, buffer: &'a mut ValueBuffer) -> Result<(u32, &'a [u8])> {
        let name = UnicodeBuf::from_text(name)?;
        let mut name = name.as_unicode()?.as_raw();
        let mut needed = 0;
        // SAFETY: the buffer is aligned for the structure and its size is passed; the other pointers are to locals.
        Status(unsafe {
            ntddk::ZwQueryValueKey(
                self.handle,
                &raw mut name,
                _KEY_VALUE_INFORMATION_CLASS::KeyValuePartialInformation,
                buffer.0.as_mut_ptr().cast(),
                size_of_val(&buffer.0) as u32,
                &raw mut needed,
            )
        })
        .ok()?;
        let base = buffer.0.as_ptr().cast::<u8>();
        // SAFETY: the call succeeded, so the fixed part was written.
        let info = unsafe { &*base.cast::<KEY_VALUE_PARTIAL_INFORMATION>() };
        let start = core::mem::offset_of!(KEY_VALUE_PARTIAL_INFORMATION, Data);
        let length = (info.DataLength as usize).min(size_of_val(&buffer.0) - start);
        // SAFETY: start + length lies within the buffer.
        Ok((info.Type, unsafe { core::slice::from_raw_parts(base.add(start), length) }))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: the handle is open and closed once. Closing an open kernel handle cannot fail.
        let _ = unsafe { ntddk::ZwClose(self.handle) };
    }
}

/// Room for `KEY_VALUE_PARTIAL_INFORMATION` and 48 bytes of data.
struct ValueBuffer([u64; 8]);

/// The `Parameters` key below a driver's service key. A missing key reads as one without values.
pub struct Parameters {
    key: Option<Key>,
}

impl Parameters {
    /// Opens `<service key>\Parameters`; `service` is what DriverEntry got as its registry path.
    pub fn open(service: UnicodeStr<'_>) -> Self {
        let key = UnicodeBuf::from_characters(service.characters()).and_then(|mut path| {
            path.push("\\Parameters")?;
            Key::open(path.as_unicode()?)
        });
        match key {
            Ok(key) => Self { key: Some(key) },
            Err(Status::OBJECT_NAME_NOT_FOUND) => Self { key: None },
            Err(status) => {
                warning!("the Parameters key cannot be opened ({status}); every value has its default");
                Self { key: None }
            }
        }
    }

    /// A REG_DWORD within `range`, or `default`.
    pub fn number(&self, name: &str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let Some(key) = &self.key else { return default };
        let mut buffer = ValueBuffer([0; 8]);
        match key.value(name, &mut buffer) {
            Ok((REG_DWORD, &[a, b, c, d])) => {
                let value = u32::from_le_bytes([a, b, c, d]);
                if range.contains(&value) {
                    return value;
                }
                warning!("{name} = {value} is not within {} to {}; {default} is used", range.start(), range.end());
            }
            Ok((kind, bytes)) => {
                warning!("{name} is of type {kind} with {} bytes, not a REG_DWORD; {default} is used", bytes.len());
            }
            Err(Status::OBJECT_NAME_NOT_FOUND) => {}
            Err(Status::BUFFER_OVERFLOW) => warning!("{name} is too long for a REG_DWORD; {default} is used"),
            Err(status) => warning!("{name} cannot be read ({status}); {default} is used"),
        }
        default
    }

    /// A REG_DWORD 0 or 1, or `default`.
    pub fn switch(&self, name: &str, default: bool) -> bool {
        self.number(name, default.into(), 0..=1) != 0
    }
}
