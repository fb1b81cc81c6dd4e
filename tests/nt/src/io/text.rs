//! Between `UNICODE_STRING` and Rust's strings.
use super::kernel::pool_alloc;
use crate::rtl::abi::UnicodeString;
use alloc::string::String;
use alloc::vec::Vec;

/// The text of a counted string; NULL is empty. Lone surrogates become U+FFFD.
///
/// # Safety
/// `text` is NULL or valid.
pub unsafe fn from_unicode(text: *const UnicodeString) -> String {
    // SAFETY: per the contract.
    unsafe {
        if text.is_null() || (*text).buffer.is_null() {
            return String::new();
        }
        let units: Vec<u16> = (0..usize::from((*text).length) / 2).map(|i| (*text).buffer.add(i).read()).collect();
        String::from_utf16_lossy(&units)
    }
}

/// The text of a NUL-terminated string; NULL is empty.
///
/// # Safety
/// `text` is NULL or terminated.
pub unsafe fn from_wide(text: *const u16) -> String {
    let mut units = Vec::new();
    if !text.is_null() {
        // SAFETY: the terminator is not passed.
        unsafe {
            let mut at = text;
            while at.read() != 0 {
                units.push(at.read());
                at = at.add(1);
            }
        }
    }
    String::from_utf16_lossy(&units)
}

/// The strings of a list that ends with an empty one; NULL is empty.
///
/// # Safety
/// `list` is NULL or terminated.
pub unsafe fn from_multi(list: *const u16) -> Vec<String> {
    let mut out = Vec::new();
    if list.is_null() {
        return out;
    }
    let mut at = list;
    loop {
        // SAFETY: the list's end is not passed.
        let text = unsafe { from_wide(at) };
        if text.is_empty() {
            return out;
        }
        // SAFETY: behind the terminator of a string that is not the last.
        at = unsafe { at.add(text.encode_utf16().count() + 1) };
        out.push(text);
    }
}

/// Writes the UTF-16 units of `text`, without a terminator.
///
/// # Safety
/// `to` has room.
pub unsafe fn copy_utf16(text: &str, to: *mut u16) {
    for (index, unit) in text.encode_utf16().enumerate() {
        // SAFETY: per the contract.
        unsafe { to.add(index).write_unaligned(unit) };
    }
}

/// A counted string with a terminated buffer in pool, freed with `RtlFreeUnicodeString` or by tag.
pub fn to_unicode(text: &str) -> UnicodeString {
    let units = text.encode_utf16().count();
    let buffer = pool_alloc(2 * (units + 1), u32::from_le_bytes(*b"Strg")).cast::<u16>();
    if buffer.is_null() {
        return UnicodeString { length: 0, maximum_length: 0, buffer };
    }
    // SAFETY: room for the text; the pool is zeroed.
    unsafe { copy_utf16(text, buffer) };
    UnicodeString { length: (2 * units) as u16, maximum_length: (2 * units + 2) as u16, buffer }
}
