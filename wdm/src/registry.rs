//! The registry: keys, and a driver's parameters, values read with their type and range checked.
//!
//! A parameter that is missing is the default. One of the wrong type or out of range is the default too, and one log
//! line names it.

use core::ops::RangeInclusive;

use wdk_sys::{
    _KEY_VALUE_INFORMATION_CLASS, HANDLE, KEY_READ, KEY_VALUE_PARTIAL_INFORMATION, KEY_WRITE, OBJ_CASE_INSENSITIVE,
    OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES, REG_DWORD, REG_OPTION_VOLATILE, REG_SZ, ntddk,
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

    /// Opens a key for writing, and makes it where it is not there: one that lives as long as Windows runs and is never
    /// on the disk.
    ///
    /// # Errors
    /// What `ZwCreateKey` returns.
    pub fn create_volatile(path: UnicodeStr<'_>) -> Result<Self> {
        let mut name = path.as_raw();
        let mut attributes = OBJECT_ATTRIBUTES {
            Length: size_of::<OBJECT_ATTRIBUTES>() as u32,
            ObjectName: &raw mut name,
            Attributes: OBJ_KERNEL_HANDLE | OBJ_CASE_INSENSITIVE,
            ..Default::default()
        };
        let mut handle: HANDLE = core::ptr::null_mut();
        // SAFETY: the pointers that are not null are to locals that outlive the call.
        Status(unsafe {
            ntddk::ZwCreateKey(
                &raw mut handle,
                KEY_READ | KEY_WRITE,
                &raw mut attributes,
                0,
                core::ptr::null_mut(),
                REG_OPTION_VOLATILE,
                core::ptr::null_mut(),
            )
        })
        .ok()?;
        Ok(Self { handle })
    }

    /// Writes a REG_DWORD.
    ///
    /// # Errors
    /// What `ZwSetValueKey` returns.
    pub fn set_number(&self, name: &str, value: u32) -> Result {
        self.set(name, REG_DWORD, &value.to_le_bytes())
    }

    /// Writes a REG_SZ.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`] and what `ZwSetValueKey` returns.
    pub fn set_text(&self, name: &str, text: &str) -> Result {
        let mut bytes = crate::memory::try_vec(2 * (text.encode_utf16().count() + 1))?;
        bytes.extend(text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
        self.set(name, REG_SZ, &bytes)
    }

    fn set(&self, name: &str, kind: u32, data: &[u8]) -> Result {
        let name = UnicodeBuf::from_text(name)?;
        let mut name = name.as_unicode()?.as_raw();
        // SAFETY: name and data outlive the call, which only reads them; the data's length goes with it.
        Status(unsafe {
            ntddk::ZwSetValueKey(
                self.handle,
                &raw mut name,
                0,
                kind,
                data.as_ptr().cast_mut().cast(),
                data.len() as u32,
            )
        })
        .ok()
    }

    /// Reads a REG_DWORD.
    ///
    /// # Errors
    /// [`Status::OBJECT_NAME_NOT_FOUND`]; [`Status::OBJECT_TYPE_MISMATCH`]; what `ZwQueryValueKey` returns.
    pub fn number(&self, name: &str) -> Result<u32> {
        match self.value(name, &mut ValueBuffer([0; 8]))? {
            (REG_DWORD, &[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d])),
            _ => Err(Status::OBJECT_TYPE_MISMATCH),
        }
    }

    /// Reads a REG_SZ of at most [`TEXT_MAX`] characters into `text`; returns how many there are, without the NUL.
    ///
    /// # Errors
    /// [`Status::OBJECT_NAME_NOT_FOUND`]; [`Status::OBJECT_TYPE_MISMATCH`]; [`Status::BUFFER_OVERFLOW`] where it is
    /// longer; what `ZwQueryValueKey` returns.
    pub fn text(&self, name: &str, text: &mut [u16; TEXT_MAX]) -> Result<usize> {
        let mut buffer = ValueBuffer([0; TEXT_MAX / 4 + 2]);
        let (kind, bytes) = self.value(name, &mut buffer)?;
        if kind != REG_SZ {
            return Err(Status::OBJECT_TYPE_MISMATCH);
        }
        let mut len = 0;
        let characters = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
        for (place, character) in text.iter_mut().zip(characters.take_while(|character| *character != 0)) {
            *place = character;
            len += 1;
        }
        Ok(len)
    }

    /// Reads a value: its type and its bytes in `buffer`.
    ///
    /// # Errors
    /// [`Status::OBJECT_NAME_NOT_FOUND`]; [`Status::BUFFER_OVERFLOW`] where it is longer than the buffer has room for;
    /// what `ZwQueryValueKey` returns.
    fn value<'a, const N: usize>(&self, name: &str, buffer: &'a mut ValueBuffer<N>) -> Result<(u32, &'a [u8])> {
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

/// Longest text that [`Key::text`] reads, in characters.
pub const TEXT_MAX: usize = 512;

/// Room for `KEY_VALUE_PARTIAL_INFORMATION`, which takes 12 bytes before the data, and for the data: `8 * N` in all.
struct ValueBuffer<const N: usize>([u64; N]);

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
