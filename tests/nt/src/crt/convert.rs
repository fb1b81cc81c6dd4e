//! Characters and numbers of the C runtime. Any IRQL, if the memory is resident.

use super::unit;

/// `atoi`. Wraps on overflow, as the kernel's does.
pub unsafe extern "win64" fn atoi(s: *const u8) -> i32 {
    // SAFETY: the caller gives a NUL-terminated string.
    unsafe { _atoi64(s) as i32 }
}

/// `atol`: `long` has 32 bits.
pub unsafe extern "win64" fn atol(s: *const u8) -> i32 {
    // SAFETY: the caller gives a NUL-terminated string.
    unsafe { atoi(s) }
}

/// `_atoi64`.
pub unsafe extern "win64" fn _atoi64(s: *const u8) -> i64 {
    // SAFETY: the caller gives a NUL-terminated string.
    let (value, negative, _, _) = unsafe { unit::parse_integer(s, 10) };
    if negative { (value as i64).wrapping_neg() } else { value as i64 }
}

/// `_wtoi`.
pub unsafe extern "win64" fn _wtoi(s: *const u16) -> i32 {
    // SAFETY: the caller gives a NUL-terminated string.
    let (value, negative, _, _) = unsafe { unit::parse_integer(s, 10) };
    if negative { (value as i32).wrapping_neg() } else { value as i32 }
}

/// `_strtoui64`: `u64::MAX` on overflow; a minus sign negates, as C says.
pub unsafe extern "win64" fn _strtoui64(s: *const u8, end: *mut *const u8, base: i32) -> u64 {
    // SAFETY: the caller gives a NUL-terminated string, and `end` is null or writable.
    let (value, negative, overflow, stop) = unsafe { unit::parse_integer(s, base as u32) };
    // SAFETY: as above.
    unsafe { store(end, stop) };
    match (overflow, negative) {
        (true, _) => u64::MAX,
        (false, true) => value.wrapping_neg(),
        (false, false) => value,
    }
}

/// `strtoul`: `long` has 32 bits.
pub unsafe extern "win64" fn strtoul(s: *const u8, end: *mut *const u8, base: i32) -> u32 {
    // SAFETY: the caller gives a NUL-terminated string, and `end` is null or writable.
    let (value, negative, overflow, stop) = unsafe { unit::parse_integer(s, base as u32) };
    // SAFETY: as above.
    unsafe { store(end, stop) };
    match u32::try_from(value) {
        Ok(v) if !overflow => {
            if negative {
                v.wrapping_neg()
            } else {
                v
            }
        }
        _ => u32::MAX,
    }
}

/// `strtol`: `long` has 32 bits.
pub unsafe extern "win64" fn strtol(s: *const u8, end: *mut *const u8, base: i32) -> i32 {
    // SAFETY: the caller gives a NUL-terminated string, and `end` is null or writable.
    let (value, negative, overflow, stop) = unsafe { unit::parse_integer(s, base as u32) };
    // SAFETY: as above.
    unsafe { store(end, stop) };
    let limit = if negative { 1u64 << 31 } else { (1u64 << 31) - 1 };
    match (overflow || value > limit, negative) {
        (true, true) => i32::MIN,
        (true, false) => i32::MAX,
        (false, true) => (value as i64).wrapping_neg() as i32,
        (false, false) => value as i32,
    }
}

/// Stores where the number ended, if it was asked for.
///
/// # Safety
/// `end` is null or writable.
unsafe fn store(end: *mut *const u8, stop: *const u8) {
    if !end.is_null() {
        // SAFETY: the caller's promise.
        unsafe { end.write(stop) };
    }
}

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident = $test:expr;)*) => {
        $(
            $(#[$doc])*
            pub extern "win64" fn $name(c: i32) -> i32 {
                let test: fn(u8) -> bool = $test;
                i32::from(u8::try_from(c).is_ok_and(test))
            }
        )*
    };
}

classes! {
    /// `isdigit`.
    isdigit = |c| c.is_ascii_digit();
    /// `isxdigit`.
    isxdigit = |c| c.is_ascii_hexdigit();
    /// `isalpha`.
    isalpha = |c| c.is_ascii_alphabetic();
    /// `isalnum`.
    isalnum = |c| c.is_ascii_alphanumeric();
    /// `isspace`.
    isspace = |c| matches!(c, b' ' | 9..=13);
    /// `isupper`.
    isupper = |c| c.is_ascii_uppercase();
    /// `islower`.
    islower = |c| c.is_ascii_lowercase();
    /// `isprint`.
    isprint = |c| matches!(c, 0x20..=0x7e);
}

/// `tolower`.
pub extern "win64" fn tolower(c: i32) -> i32 {
    if isupper(c) == 0 { c } else { c + 32 }
}

/// `toupper`.
pub extern "win64" fn toupper(c: i32) -> i32 {
    if islower(c) == 0 { c } else { c - 32 }
}

/// `towlower`, C locale.
pub extern "win64" fn towlower(c: u16) -> u16 {
    unit::lower(u32::from(c)) as u16
}

/// `towupper`, C locale.
pub extern "win64" fn towupper(c: u16) -> u16 {
    unit::upper(u32::from(c)) as u16
}
