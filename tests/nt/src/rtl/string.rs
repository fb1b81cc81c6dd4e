//! Counted strings: `ANSI_STRING` and `UNICODE_STRING`.
//!
//! Functions that change case or convert use paged tables in Windows: IRQL = PASSIVE_LEVEL. The others: any IRQL, if the
//! strings are resident. The code page is Latin-1, a part of the usual 1252.
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/summary-of-kernel-mode-safe-string-functions>

use super::abi::*;
use crate::crt::unit;
use core::ptr;

/// Tag of strings that the run-time library allocated.
const TAG: u32 = u32::from_le_bytes(*b"Strg");
/// `PagedPool`.
const PAGED_POOL: i32 = 1;

/// The upper-case form of a UTF-16 unit, by the simple mapping that Windows' table has.
pub fn upcase(unit: u16) -> u16 {
    one_to_one(unit, char::from_u32(u32::from(unit)).map(char::to_uppercase))
}

/// The lower-case form of a UTF-16 unit.
pub fn downcase(unit: u16) -> u16 {
    one_to_one(unit, char::from_u32(u32::from(unit)).map(char::to_lowercase))
}

/// The mapped character if it is one unit again, else the unit itself.
fn one_to_one(unit: u16, mapped: Option<impl Iterator<Item = char>>) -> u16 {
    let Some(mut mapped) = mapped else { return unit };
    match (mapped.next().and_then(|c| u16::try_from(u32::from(c)).ok()), mapped.next()) {
        (Some(one), None) => one,
        _ => unit,
    }
}

/// The ANSI byte of a UTF-16 unit.
fn to_ansi(unit: u16) -> u8 {
    u8::try_from(unit).unwrap_or(b'?')
}

/// The units of a string, read as its length says.
///
/// # Safety
/// `string` is null or a valid counted string; the slice is used only while the string stands.
pub unsafe fn wide<'a>(string: *const UnicodeString) -> &'a [u16] {
    // SAFETY: the caller's promise.
    unsafe {
        match string.as_ref() {
            Some(s) if s.length >= 2 && !s.buffer.is_null() => {
                core::slice::from_raw_parts(s.buffer, usize::from(s.length / 2))
            }
            _ => &[],
        }
    }
}

/// The bytes of a string, read as its length says.
///
/// # Safety
/// As [`wide`].
pub unsafe fn narrow<'a>(string: *const AnsiString) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe {
        match string.as_ref() {
            Some(s) if s.length >= 1 && !s.buffer.is_null() => {
                core::slice::from_raw_parts(s.buffer, usize::from(s.length))
            }
            _ => &[],
        }
    }
}

/// `RtlInitUnicodeString`: cut at 0xFFFC bytes, as `USHORT` lengths allow.
pub unsafe extern "win64" fn RtlInitUnicodeString(dst: *mut UnicodeString, src: *const u16) {
    let bytes = if src.is_null() {
        None
    } else {
        // SAFETY: the caller gives a NUL-terminated string.
        Some((unsafe { unit::length(src) } * 2).min(0xfffc) as u16)
    };
    let value = UnicodeString {
        length: bytes.unwrap_or(0),
        maximum_length: bytes.map_or(0, |b| b + 2),
        buffer: src.cast_mut(),
    };
    // SAFETY: the caller gives a writable structure.
    unsafe { dst.write(value) };
}

/// `RtlInitUnicodeStringEx`: STATUS_NAME_TOO_LONG instead of a cut.
pub unsafe extern "win64" fn RtlInitUnicodeStringEx(dst: *mut UnicodeString, src: *const u16) -> i32 {
    // SAFETY: the caller gives a NUL-terminated string or null, and a writable structure.
    unsafe {
        if !src.is_null() && unit::length(src) * 2 > 0xfffc {
            return 0xC000_0106_u32 as i32;
        }
        RtlInitUnicodeString(dst, src);
    }
    STATUS_SUCCESS
}

/// `RtlInitAnsiString` (and `RtlInitString`).
pub unsafe extern "win64" fn RtlInitAnsiString(dst: *mut AnsiString, src: *const u8) {
    let bytes = if src.is_null() {
        None
    } else {
        // SAFETY: the caller gives a NUL-terminated string.
        Some(unsafe { unit::length(src) }.min(0xfffe) as u16)
    };
    let value =
        AnsiString { length: bytes.unwrap_or(0), maximum_length: bytes.map_or(0, |b| b + 1), buffer: src.cast_mut() };
    // SAFETY: the caller gives a writable structure.
    unsafe { dst.write(value) };
}

/// `RtlCopyUnicodeString`: as much as fits; terminated if there is room.
pub unsafe extern "win64" fn RtlCopyUnicodeString(dst: *mut UnicodeString, src: *const UnicodeString) {
    // SAFETY: the caller gives valid strings; `n` is within both.
    unsafe {
        let from = wide(src);
        let room = usize::from((*dst).maximum_length / 2);
        let n = from.len().min(room);
        ptr::copy(from.as_ptr(), (*dst).buffer, n);
        (*dst).length = (n * 2) as u16;
        if n < room {
            (*dst).buffer.add(n).write(0);
        }
    }
}

/// `RtlCopyString`: as much as fits.
pub unsafe extern "win64" fn RtlCopyString(dst: *mut AnsiString, src: *const AnsiString) {
    // SAFETY: the caller gives valid strings; `n` is within both.
    unsafe {
        let from = narrow(src);
        let n = from.len().min(usize::from((*dst).maximum_length));
        ptr::copy(from.as_ptr(), (*dst).buffer, n);
        (*dst).length = n as u16;
    }
}

/// `RtlAppendUnicodeStringToString`: STATUS_BUFFER_TOO_SMALL leaves the destination as it was.
pub unsafe extern "win64" fn RtlAppendUnicodeStringToString(dst: *mut UnicodeString, src: *const UnicodeString) -> i32 {
    // SAFETY: the caller gives valid strings; the room was checked.
    unsafe {
        let from = wide(src);
        let (used, room) = (usize::from((*dst).length / 2), usize::from((*dst).maximum_length / 2));
        if used + from.len() > room {
            return STATUS_BUFFER_TOO_SMALL;
        }
        let end = (*dst).buffer.add(used);
        ptr::copy(from.as_ptr(), end, from.len());
        (*dst).length += (from.len() * 2) as u16;
        if used + from.len() < room {
            end.add(from.len()).write(0);
        }
    }
    STATUS_SUCCESS
}

/// `RtlAppendUnicodeToString`: the source is NUL-terminated, or null for nothing.
pub unsafe extern "win64" fn RtlAppendUnicodeToString(dst: *mut UnicodeString, src: *const u16) -> i32 {
    // SAFETY: the caller gives a valid string and a terminated one.
    unsafe {
        if !src.is_null() && unit::length(src) * 2 > 0xfffc {
            return STATUS_BUFFER_TOO_SMALL;
        }
        let mut s = UnicodeString { length: 0, maximum_length: 0, buffer: ptr::null_mut() };
        RtlInitUnicodeString(&mut s, src);
        RtlAppendUnicodeStringToString(dst, &s)
    }
}

/// Compares two sequences as the Rtl functions do: the first difference, else the difference of the lengths in bytes.
fn order<T: unit::Unit>(a: &[T], b: &[T], map: fn(T) -> u16) -> i32 {
    for (x, y) in a.iter().zip(b) {
        let d = i32::from(map(*x)) - i32::from(map(*y));
        if d != 0 {
            return d;
        }
    }
    (a.len() as i32 - b.len() as i32) * size_of::<T>() as i32
}

/// `RtlCompareUnicodeString`: <0, 0, >0.
pub unsafe extern "win64" fn RtlCompareUnicodeString(
    a: *const UnicodeString,
    b: *const UnicodeString,
    insensitive: u8,
) -> i32 {
    // SAFETY: the caller gives valid strings.
    unsafe { order(wide(a), wide(b), if insensitive == 0 { |u| u } else { upcase }) }
}

/// `RtlEqualUnicodeString`.
pub unsafe extern "win64" fn RtlEqualUnicodeString(
    a: *const UnicodeString,
    b: *const UnicodeString,
    insensitive: u8,
) -> u8 {
    // SAFETY: the caller gives valid strings.
    u8::from(unsafe { RtlCompareUnicodeString(a, b, insensitive) } == 0)
}

/// `RtlPrefixUnicodeString`: whether `b` starts with `a`.
pub unsafe extern "win64" fn RtlPrefixUnicodeString(
    a: *const UnicodeString,
    b: *const UnicodeString,
    insensitive: u8,
) -> u8 {
    // SAFETY: the caller gives valid strings.
    let (a, b) = unsafe { (wide(a), wide(b)) };
    let map = if insensitive == 0 { |u| u } else { upcase };
    u8::from(b.len() >= a.len() && order(a, &b[..a.len()], map) == 0)
}

/// `RtlCompareString`.
pub unsafe extern "win64" fn RtlCompareString(a: *const AnsiString, b: *const AnsiString, insensitive: u8) -> i32 {
    let map: fn(u8) -> u16 = if insensitive == 0 { u16::from } else { |b| upcase(u16::from(b)) };
    // SAFETY: the caller gives valid strings.
    unsafe { order(narrow(a), narrow(b), map) }
}

/// `RtlEqualString`.
pub unsafe extern "win64" fn RtlEqualString(a: *const AnsiString, b: *const AnsiString, insensitive: u8) -> u8 {
    // SAFETY: the caller gives valid strings.
    u8::from(unsafe { RtlCompareString(a, b, insensitive) } == 0)
}

/// `RtlUpcaseUnicodeChar`.
pub extern "win64" fn RtlUpcaseUnicodeChar(unit: u16) -> u16 {
    upcase(unit)
}

/// `RtlDowncaseUnicodeChar`.
pub extern "win64" fn RtlDowncaseUnicodeChar(unit: u16) -> u16 {
    downcase(unit)
}

/// `RtlUpcaseUnicodeString`. With `allocate` the buffer is to be freed by `RtlFreeUnicodeString`.
pub unsafe extern "win64" fn RtlUpcaseUnicodeString(
    dst: *mut UnicodeString,
    src: *const UnicodeString,
    allocate: u8,
) -> i32 {
    // SAFETY: the caller gives valid strings.
    unsafe { map_string(dst, src, allocate, upcase) }
}

/// `RtlDowncaseUnicodeString`. With `allocate` the buffer is to be freed by `RtlFreeUnicodeString`.
pub unsafe extern "win64" fn RtlDowncaseUnicodeString(
    dst: *mut UnicodeString,
    src: *const UnicodeString,
    allocate: u8,
) -> i32 {
    // SAFETY: the caller gives valid strings.
    unsafe { map_string(dst, src, allocate, downcase) }
}

/// # Safety
/// Both are valid strings; `dst` may be without a buffer if `allocate` is set.
unsafe fn map_string(dst: *mut UnicodeString, src: *const UnicodeString, allocate: u8, map: fn(u16) -> u16) -> i32 {
    // SAFETY: the caller's promise; the room was checked or made.
    unsafe {
        let from = wide(src);
        let bytes = (from.len() * 2) as u16;
        if allocate != 0 {
            let buffer = allocate_bytes(usize::from(bytes).max(2)).cast::<u16>();
            if buffer.is_null() {
                return STATUS_NO_MEMORY;
            }
            *dst = UnicodeString { length: bytes, maximum_length: bytes, buffer };
        } else if (*dst).maximum_length < bytes {
            return STATUS_BUFFER_OVERFLOW;
        }
        for (i, unit) in from.iter().enumerate() {
            (*dst).buffer.add(i).write(map(*unit));
        }
        (*dst).length = bytes;
    }
    STATUS_SUCCESS
}

/// `RtlxAnsiStringToUnicodeSize`: bytes with the terminator.
pub unsafe extern "win64" fn RtlxAnsiStringToUnicodeSize(src: *const AnsiString) -> u32 {
    // SAFETY: the caller gives a valid string.
    unsafe { (u32::from((*src).length) + 1) * 2 }
}

/// `RtlxUnicodeStringToAnsiSize`: bytes with the terminator.
pub unsafe extern "win64" fn RtlxUnicodeStringToAnsiSize(src: *const UnicodeString) -> u32 {
    // SAFETY: the caller gives a valid string.
    unsafe { u32::from((*src).length) / 2 + 1 }
}

/// `RtlAnsiStringToUnicodeString`. The result is terminated.
pub unsafe extern "win64" fn RtlAnsiStringToUnicodeString(
    dst: *mut UnicodeString,
    src: *const AnsiString,
    allocate: u8,
) -> i32 {
    // SAFETY: the caller gives valid strings; the room was checked or made.
    unsafe {
        let from = narrow(src);
        let bytes = (from.len() + 1) * 2;
        if bytes > 0xffff {
            return STATUS_INVALID_PARAMETER_2;
        }
        if allocate != 0 {
            let buffer = allocate_bytes(bytes).cast::<u16>();
            if buffer.is_null() {
                return STATUS_NO_MEMORY;
            }
            *dst = UnicodeString { length: 0, maximum_length: bytes as u16, buffer };
        } else if usize::from((*dst).maximum_length) < bytes {
            return STATUS_BUFFER_OVERFLOW;
        }
        for (i, byte) in from.iter().enumerate() {
            (*dst).buffer.add(i).write(u16::from(*byte));
        }
        (*dst).buffer.add(from.len()).write(0);
        (*dst).length = bytes as u16 - 2;
    }
    STATUS_SUCCESS
}

/// `RtlUnicodeStringToAnsiString`. The result is terminated. Without `allocate` and with too little room it is cut and
/// STATUS_BUFFER_OVERFLOW is returned.
pub unsafe extern "win64" fn RtlUnicodeStringToAnsiString(
    dst: *mut AnsiString,
    src: *const UnicodeString,
    allocate: u8,
) -> i32 {
    // SAFETY: the caller gives valid strings; the room was checked or made.
    unsafe {
        let from = wide(src);
        let mut status = STATUS_SUCCESS;
        let mut n = from.len();
        if allocate != 0 {
            let buffer = allocate_bytes(n + 1);
            if buffer.is_null() {
                return STATUS_NO_MEMORY;
            }
            *dst = AnsiString { length: 0, maximum_length: (n + 1) as u16, buffer };
        } else if usize::from((*dst).maximum_length) < n + 1 {
            if (*dst).maximum_length == 0 {
                return STATUS_BUFFER_OVERFLOW;
            }
            n = usize::from((*dst).maximum_length) - 1;
            status = STATUS_BUFFER_OVERFLOW;
        }
        for (i, unit) in from[..n].iter().enumerate() {
            (*dst).buffer.add(i).write(to_ansi(*unit));
        }
        (*dst).buffer.add(n).write(0);
        (*dst).length = n as u16;
        status
    }
}

/// `RtlMultiByteToUnicodeN`.
pub unsafe extern "win64" fn RtlMultiByteToUnicodeN(
    dst: *mut u16,
    room: u32,
    written: *mut u32,
    src: *const u8,
    len: u32,
) -> i32 {
    let n = (room / 2).min(len);
    // SAFETY: the caller gives both buffers with these sizes; `written` is null or writable.
    unsafe {
        for i in 0..n as usize {
            dst.add(i).write_unaligned(u16::from(src.add(i).read()));
        }
        if !written.is_null() {
            written.write(n * 2);
        }
    }
    STATUS_SUCCESS
}

/// `RtlUnicodeToMultiByteN`.
pub unsafe extern "win64" fn RtlUnicodeToMultiByteN(
    dst: *mut u8,
    room: u32,
    written: *mut u32,
    src: *const u16,
    len: u32,
) -> i32 {
    let n = room.min(len / 2);
    // SAFETY: the caller gives both buffers with these sizes; `written` is null or writable.
    unsafe {
        for i in 0..n as usize {
            dst.add(i).write(to_ansi(src.add(i).read_unaligned()));
        }
        if !written.is_null() {
            written.write(n);
        }
    }
    STATUS_SUCCESS
}

/// `RtlUnicodeToUTF8N`. A null `dst` asks for the size. STATUS_SOME_NOT_MAPPED if a lone surrogate was replaced.
pub unsafe extern "win64" fn RtlUnicodeToUTF8N(
    dst: *mut u8,
    room: u32,
    written: *mut u32,
    src: *const u16,
    len: u32,
) -> i32 {
    let (mut at, mut status) = (0usize, STATUS_SUCCESS);
    // SAFETY: the caller gives both buffers with these sizes; `written` is null or writable.
    unsafe {
        let units = (0..len as usize / 2).map(|i| src.add(i).read_unaligned());
        for decoded in char::decode_utf16(units) {
            let c = decoded.unwrap_or_else(|_| {
                status = STATUS_SOME_NOT_MAPPED;
                char::REPLACEMENT_CHARACTER
            });
            let mut utf8 = [0u8; 4];
            let bytes = c.encode_utf8(&mut utf8).as_bytes();
            if !dst.is_null() {
                if at + bytes.len() > room as usize {
                    status = STATUS_BUFFER_TOO_SMALL;
                    break;
                }
                ptr::copy_nonoverlapping(bytes.as_ptr(), dst.add(at), bytes.len());
            }
            at += bytes.len();
        }
        if !written.is_null() {
            written.write(at as u32);
        }
    }
    status
}

/// `RtlUTF8ToUnicodeN`. A null `dst` asks for the size. STATUS_SOME_NOT_MAPPED if a bad sequence was replaced.
pub unsafe extern "win64" fn RtlUTF8ToUnicodeN(
    dst: *mut u16,
    room: u32,
    written: *mut u32,
    src: *const u8,
    len: u32,
) -> i32 {
    let (mut at, mut status) = (0usize, STATUS_SUCCESS);
    // SAFETY: the caller gives both buffers with these sizes; `written` is null or writable.
    unsafe {
        let bytes = core::slice::from_raw_parts(src, len as usize);
        'all: for chunk in bytes.utf8_chunks() {
            let bad = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
            if bad.is_some() {
                status = STATUS_SOME_NOT_MAPPED;
            }
            for c in chunk.valid().chars().chain(bad) {
                let mut utf16 = [0u16; 2];
                for unit in c.encode_utf16(&mut utf16).iter() {
                    if !dst.is_null() {
                        if (at + 1) * 2 > room as usize {
                            status = STATUS_BUFFER_TOO_SMALL;
                            break 'all;
                        }
                        dst.add(at).write_unaligned(*unit);
                    }
                    at += 1;
                }
            }
        }
        if !written.is_null() {
            written.write(at as u32 * 2);
        }
    }
    status
}

/// `RtlCreateUnicodeString`: a copy of a NUL-terminated string in paged pool. FALSE without memory.
pub unsafe extern "win64" fn RtlCreateUnicodeString(dst: *mut UnicodeString, src: *const u16) -> u8 {
    // SAFETY: the caller gives a terminated string and a writable structure; the copy has room.
    unsafe {
        let bytes = (unit::length(src) + 1) * 2;
        if bytes > 0xfffe {
            return 0;
        }
        let buffer = allocate_bytes(bytes).cast::<u16>();
        if buffer.is_null() {
            return 0;
        }
        ptr::copy_nonoverlapping(src, buffer, bytes / 2);
        *dst = UnicodeString { length: bytes as u16 - 2, maximum_length: bytes as u16, buffer };
    }
    1
}

/// `RtlDuplicateUnicodeString`: flag 1 terminates the copy, flag 2 allocates one of an empty string too.
pub unsafe extern "win64" fn RtlDuplicateUnicodeString(
    flags: u32,
    src: *const UnicodeString,
    dst: *mut UnicodeString,
) -> i32 {
    if src.is_null() || dst.is_null() || flags > 3 || flags == 2 {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the caller gives valid strings; the copy has room.
    unsafe {
        let from = wide(src);
        let terminate = flags & 1 != 0;
        if from.is_empty() && flags & 2 == 0 {
            *dst = UnicodeString { length: 0, maximum_length: 0, buffer: ptr::null_mut() };
            return STATUS_SUCCESS;
        }
        let units = from.len() + usize::from(terminate);
        let buffer = allocate_bytes((units * 2).max(2)).cast::<u16>();
        if buffer.is_null() {
            return STATUS_NO_MEMORY;
        }
        ptr::copy_nonoverlapping(from.as_ptr(), buffer, from.len());
        if terminate {
            buffer.add(from.len()).write(0);
        }
        *dst = UnicodeString { length: (from.len() * 2) as u16, maximum_length: (units * 2) as u16, buffer };
    }
    STATUS_SUCCESS
}

/// `RtlFreeUnicodeString`: frees a buffer of the run-time library and clears the string.
pub unsafe extern "win64" fn RtlFreeUnicodeString(string: *mut UnicodeString) {
    // SAFETY: the caller gives a string that the run-time library made, or one without a buffer.
    unsafe {
        if !(*string).buffer.is_null() {
            crate::ex::ExFreePool((*string).buffer.cast());
            *string = UnicodeString { length: 0, maximum_length: 0, buffer: ptr::null_mut() };
        }
    }
}

/// `RtlFreeAnsiString`: as [`RtlFreeUnicodeString`].
pub unsafe extern "win64" fn RtlFreeAnsiString(string: *mut AnsiString) {
    // SAFETY: the caller gives a string that the run-time library made, or one without a buffer.
    unsafe {
        if !(*string).buffer.is_null() {
            crate::ex::ExFreePool((*string).buffer.cast());
            *string = AnsiString { length: 0, maximum_length: 0, buffer: ptr::null_mut() };
        }
    }
}

/// Paged pool for a string, or null.
///
/// # Safety
/// As `ExAllocatePoolWithTag`.
unsafe fn allocate_bytes(bytes: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { crate::ex::ExAllocatePoolWithTag(PAGED_POOL, bytes, TAG) }.cast()
}

/// `RtlHashUnicodeString`: algorithms 0 (default) and 1 (x65599).
pub unsafe extern "win64" fn RtlHashUnicodeString(
    string: *const UnicodeString,
    insensitive: u8,
    algorithm: u32,
    hash: *mut u32,
) -> i32 {
    if string.is_null() || hash.is_null() || algorithm > 1 {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the caller gives a valid string and a writable result.
    unsafe {
        let map = if insensitive == 0 { |u| u } else { upcase };
        let value = wide(string).iter().fold(0u32, |h, u| h.wrapping_mul(65599).wrapping_add(u32::from(map(*u))));
        hash.write(value);
    }
    STATUS_SUCCESS
}
