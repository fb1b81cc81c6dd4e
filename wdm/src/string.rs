//! UNICODE_STRINGs from Rust text and back.

use alloc::vec::Vec;
use core::marker::PhantomData;

use wdk_sys::UNICODE_STRING;

use crate::{
    memory::try_vec,
    status::{Result, Status},
};

/// A UNICODE_STRING that borrows its characters.
#[derive(Clone, Copy)]
pub struct UnicodeStr<'a> {
    string: UNICODE_STRING,
    characters: PhantomData<&'a [u16]>,
}

impl<'a> UnicodeStr<'a> {
    /// Over UTF-16 characters without a NUL.
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`]: longer than 32766 characters.
    pub fn new(characters: &'a [u16]) -> Result<Self> {
        let bytes = u16::try_from(size_of_val(characters)).map_err(|_| Status::INVALID_PARAMETER)?;
        let string = UNICODE_STRING { Length: bytes, MaximumLength: bytes, Buffer: characters.as_ptr().cast_mut() };
        Ok(Self { string, characters: PhantomData })
    }

    /// What Windows handed over; an empty string for a null pointer.
    ///
    /// # Safety
    /// `string` is null or points to a UNICODE_STRING that stays valid and unchanged for `'a`.
    pub unsafe fn from_raw(string: *const UNICODE_STRING) -> Self {
        // SAFETY: by contract.
        let string = unsafe { string.as_ref() }.copied().unwrap_or_default();
        Self { string, characters: PhantomData }
    }

    /// The characters.
    pub fn characters(&self) -> &'a [u16] {
        if self.string.Buffer.is_null() {
            return &[];
        }
        // SAFETY: the constructors saw to it that the buffer has `Length` bytes for 'a.
        unsafe { core::slice::from_raw_parts(self.string.Buffer, usize::from(self.string.Length) / 2) }
    }

    /// For a Windows function that only reads it.
    pub fn as_raw(&self) -> UNICODE_STRING {
        self.string
    }
}

/// Owned UTF-16 characters in nonpaged pool.
#[derive(Default)]
pub struct UnicodeBuf {
    characters: Vec<u16>,
}

impl UnicodeBuf {
    /// The same text in UTF-16.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    pub fn from_text(text: &str) -> Result<Self> {
        let mut buf = Self::default();
        buf.push(text)?;
        Ok(buf)
    }

    /// A copy.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    pub fn from_characters(characters: &[u16]) -> Result<Self> {
        let mut buf = try_vec(characters.len())?;
        buf.extend_from_slice(characters);
        Ok(Self { characters: buf })
    }

    /// Appends text.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`]; the text so far is unchanged.
    pub fn push(&mut self, text: &str) -> Result {
        self.characters.try_reserve(text.encode_utf16().count()).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        self.characters.extend(text.encode_utf16());
        Ok(())
    }

    /// The characters.
    pub fn characters(&self) -> &[u16] {
        &self.characters
    }

    /// As a UNICODE_STRING.
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`]: longer than 32766 characters.
    pub fn as_unicode(&self) -> Result<UnicodeStr<'_>> {
        UnicodeStr::new(&self.characters)
    }
}

/// The GUID type from the bytes as they lie in memory (first three fields little-endian).
pub fn guid(bytes: &[u8; 16]) -> wdk_sys::GUID {
    let mut tail = [0; 8];
    tail.copy_from_slice(&bytes[8..]);
    wdk_sys::GUID {
        Data1: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        Data2: u16::from_le_bytes([bytes[4], bytes[5]]),
        Data3: u16::from_le_bytes([bytes[6], bytes[7]]),
        Data4: tail,
    }
}

/// The bytes of a GUID as they lie in memory.
pub fn guid_bytes(guid: &wdk_sys::GUID) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&guid.Data1.to_le_bytes());
    bytes[4..6].copy_from_slice(&guid.Data2.to_le_bytes());
    bytes[6..8].copy_from_slice(&guid.Data3.to_le_bytes());
    bytes[8..].copy_from_slice(&guid.Data4);
    bytes
}
