//! Numbers, GUIDs and times as text and back. IRQL = PASSIVE_LEVEL unless it says otherwise.

use super::abi::*;
use super::string::{RtlCreateUnicodeString, wide};
use crate::crt::unit::{self, digit};

/// `RtlUnicodeStringToInteger`: leading blanks, a sign, `0x`, `0o`, `0b` prefixes if `base` is 0; stops at the first
/// character that is no digit.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-rtlunicodestringtointeger>
pub unsafe extern "win64" fn RtlUnicodeStringToInteger(
    string: *const UnicodeString,
    base: u32,
    value: *mut u32,
) -> i32 {
    // SAFETY: the caller gives a valid string and a writable result.
    unsafe {
        match parse(wide(string).iter().map(|u| u32::from(*u)), base) {
            Some(v) => {
                value.write(v);
                STATUS_SUCCESS
            }
            None => STATUS_INVALID_PARAMETER,
        }
    }
}

/// `RtlCharToInteger`: as [`RtlUnicodeStringToInteger`] for a NUL-terminated string.
pub unsafe extern "win64" fn RtlCharToInteger(string: *const u8, base: u32, value: *mut u32) -> i32 {
    // SAFETY: the caller gives a terminated string and a writable result.
    unsafe {
        let len = unit::length(string);
        match parse((0..len).map(|i| u32::from(string.add(i).read())), base) {
            Some(v) => {
                value.write(v);
                STATUS_SUCCESS
            }
            None => STATUS_INVALID_PARAMETER,
        }
    }
}

/// The number that the text starts with; wraps at 32 bits. `None`: the base is not 0, 2, 8, 10 or 16.
fn parse(text: impl Iterator<Item = u32>, base: u32) -> Option<u32> {
    let mut text = text.skip_while(|c| *c <= 0x20).peekable();
    let mut negative = false;
    if let Some(sign) = text.next_if(|c| *c == u32::from(b'-') || *c == u32::from(b'+')) {
        negative = sign == u32::from(b'-');
    }
    let mut base = base;
    if base == 0 {
        base = 10;
        if text.next_if_eq(&u32::from(b'0')).is_some() {
            for (letter, b) in [(b'b', 2), (b'o', 8), (b'x', 16)] {
                if text.next_if_eq(&u32::from(letter)).is_some() {
                    base = b;
                }
            }
        }
    } else if !matches!(base, 2 | 8 | 10 | 16) {
        return None;
    }
    let mut value = 0u32;
    while let Some(c) = text.next_if(|c| digit(*c) < base) {
        value = value.wrapping_mul(base).wrapping_add(digit(c));
    }
    Some(if negative { value.wrapping_neg() } else { value })
}

/// `RtlIntegerToUnicodeString`: upper-case digits, terminated if there is room.
pub unsafe extern "win64" fn RtlIntegerToUnicodeString(value: u32, base: u32, string: *mut UnicodeString) -> i32 {
    // SAFETY: the caller gives a valid string.
    unsafe { RtlInt64ToUnicodeString(u64::from(value), base, string) }
}

/// `RtlInt64ToUnicodeString`: as [`RtlIntegerToUnicodeString`].
pub unsafe extern "win64" fn RtlInt64ToUnicodeString(mut value: u64, base: u32, string: *mut UnicodeString) -> i32 {
    let base = match base {
        0 => 10,
        2 | 8 | 10 | 16 => u64::from(base),
        _ => return STATUS_INVALID_PARAMETER,
    };
    let mut digits = [0u16; 64];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = u16::from(b"0123456789ABCDEF"[(value % base) as usize]);
        value /= base;
        if value == 0 {
            break;
        }
    }
    let digits = &digits[at..];
    // SAFETY: the caller gives a valid string; the room was checked.
    unsafe {
        let room = usize::from((*string).maximum_length / 2);
        if digits.len() > room {
            return STATUS_BUFFER_OVERFLOW;
        }
        core::ptr::copy_nonoverlapping(digits.as_ptr(), (*string).buffer, digits.len());
        if digits.len() < room {
            (*string).buffer.add(digits.len()).write(0);
        }
        (*string).length = (digits.len() * 2) as u16;
    }
    STATUS_SUCCESS
}

/// `RtlStringFromGUID`: `{xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx}` in upper case, in pool; freed by
/// `RtlFreeUnicodeString`.
pub unsafe extern "win64" fn RtlStringFromGUID(guid: *const Guid, string: *mut UnicodeString) -> i32 {
    // SAFETY: the caller gives a GUID and a writable structure.
    unsafe {
        let text = guid_text(&guid.read_unaligned());
        if RtlCreateUnicodeString(string, text.as_ptr()) == 0 { STATUS_NO_MEMORY } else { STATUS_SUCCESS }
    }
}

/// The registry form of a GUID, terminated.
pub fn guid_text(guid: &Guid) -> [u16; 39] {
    let mut text = [0u16; 39];
    let mut at = 0;
    let mut put = |byte: u8| {
        text[at] = u16::from(byte);
        at += 1;
    };
    let hex = |put: &mut dyn FnMut(u8), value: u32, digits: u32| {
        for i in (0..digits).rev() {
            put(b"0123456789ABCDEF"[(value >> (i * 4)) as usize & 15]);
        }
    };
    put(b'{');
    hex(&mut put, guid.data1, 8);
    put(b'-');
    hex(&mut put, u32::from(guid.data2), 4);
    put(b'-');
    hex(&mut put, u32::from(guid.data3), 4);
    put(b'-');
    for (i, byte) in guid.data4.iter().enumerate() {
        if i == 2 {
            put(b'-');
        }
        hex(&mut put, u32::from(*byte), 2);
    }
    put(b'}');
    text
}

/// `RtlGUIDFromString`: the form that [`RtlStringFromGUID`] writes, either case.
pub unsafe extern "win64" fn RtlGUIDFromString(string: *const UnicodeString, guid: *mut Guid) -> i32 {
    // SAFETY: the caller gives a valid string and a writable GUID.
    unsafe {
        match parse_guid(wide(string)) {
            Some(g) => {
                guid.write_unaligned(g);
                STATUS_SUCCESS
            }
            None => STATUS_INVALID_PARAMETER,
        }
    }
}

/// Reads `{xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx}`.
pub fn parse_guid(text: &[u16]) -> Option<Guid> {
    if text.len() < 38 {
        return None;
    }
    let mut nibbles = [0u8; 32];
    let mut n = 0;
    for (i, unit) in text[..38].iter().enumerate() {
        let expected = match i {
            0 => Some(b'{'),
            9 | 14 | 19 | 24 => Some(b'-'),
            37 => Some(b'}'),
            _ => None,
        };
        match expected {
            Some(c) if *unit != u16::from(c) => return None,
            Some(_) => {}
            None => {
                let value = digit(u32::from(*unit));
                if value > 15 {
                    return None;
                }
                nibbles[n] = value as u8;
                n += 1;
            }
        }
    }
    let number = |from: usize, to: usize| nibbles[from..to].iter().fold(0u32, |v, d| v << 4 | u32::from(*d));
    let mut data4 = [0u8; 8];
    for (i, byte) in data4.iter_mut().enumerate() {
        *byte = number(16 + i * 2, 18 + i * 2) as u8;
    }
    Some(Guid { data1: number(0, 8), data2: number(8, 12) as u16, data3: number(12, 16) as u16, data4 })
}

/// 100 ns units in a day.
const DAY: i64 = 24 * 3600 * 10_000_000;

/// Days from 1601-01-01 to the first of January of `year`.
fn days_before_year(year: i64) -> i64 {
    let y = year - 1601;
    y * 365 + y / 4 - y / 100 + y / 400
}

/// Days of a month, 1 to 12.
fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `RtlTimeToTimeFields`: 100 ns units since 1601-01-01. Any IRQL.
pub unsafe extern "win64" fn RtlTimeToTimeFields(time: *const i64, fields: *mut TimeFields) {
    // SAFETY: the caller gives a time and writable fields.
    unsafe { fields.write(time_fields(time.read())) };
}

/// The calendar form of a time, the years of [`TimeFields`].
pub fn time_fields(time: i64) -> TimeFields {
    let days = time.div_euclid(DAY);
    let ms = time.rem_euclid(DAY) / 10_000;
    let mut year = 1601 + days / 366;
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    let mut rest = days - days_before_year(year);
    let mut month = 1;
    while rest >= days_in_month(year, month) {
        rest -= days_in_month(year, month);
        month += 1;
    }
    TimeFields {
        year: year as i16,
        month: month as i16,
        day: rest as i16 + 1,
        hour: (ms / 3_600_000) as i16,
        minute: (ms / 60_000 % 60) as i16,
        second: (ms / 1000 % 60) as i16,
        milliseconds: (ms % 1000) as i16,
        weekday: (days + 1).rem_euclid(7) as i16,
    }
}

/// `RtlTimeFieldsToTime`: FALSE if a field is out of range. Any IRQL.
pub unsafe extern "win64" fn RtlTimeFieldsToTime(fields: *const TimeFields, time: *mut i64) -> u8 {
    // SAFETY: the caller gives fields and a writable time.
    unsafe {
        let f = fields.read();
        let (year, month, day) = (i64::from(f.year), i64::from(f.month), i64::from(f.day));
        let in_range = (1601..=30827).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day)
            && (0..24).contains(&f.hour)
            && (0..60).contains(&f.minute)
            && (0..60).contains(&f.second)
            && (0..1000).contains(&f.milliseconds);
        if !in_range {
            return 0;
        }
        let days = days_before_year(year) + (1..month).map(|m| days_in_month(year, m)).sum::<i64>() + day - 1;
        let ms = ((i64::from(f.hour) * 60 + i64::from(f.minute)) * 60 + i64::from(f.second)) * 1000
            + i64::from(f.milliseconds);
        time.write(days * DAY + ms * 10_000);
    }
    1
}

/// Seconds between 1601 and 1970.
const EPOCH_1970: i64 = 11_644_473_600;
/// Seconds between 1601 and 1980.
const EPOCH_1980: i64 = 11_960_006_400;

/// # Safety
/// `time` is readable, `seconds` writable.
unsafe fn seconds_since(time: *const i64, seconds: *mut u32, epoch: i64) -> u8 {
    // SAFETY: the caller's promise.
    unsafe {
        match u32::try_from(time.read() / 10_000_000 - epoch) {
            Ok(s) => {
                seconds.write(s);
                1
            }
            Err(_) => 0,
        }
    }
}

/// `RtlTimeToSecondsSince1970`: FALSE if it does not fit. Any IRQL.
pub unsafe extern "win64" fn RtlTimeToSecondsSince1970(time: *const i64, seconds: *mut u32) -> u8 {
    // SAFETY: the caller gives both.
    unsafe { seconds_since(time, seconds, EPOCH_1970) }
}

/// `RtlTimeToSecondsSince1980`: FALSE if it does not fit. Any IRQL.
pub unsafe extern "win64" fn RtlTimeToSecondsSince1980(time: *const i64, seconds: *mut u32) -> u8 {
    // SAFETY: the caller gives both.
    unsafe { seconds_since(time, seconds, EPOCH_1980) }
}

/// `RtlSecondsSince1970ToTime`. Any IRQL.
pub unsafe extern "win64" fn RtlSecondsSince1970ToTime(seconds: u32, time: *mut i64) {
    // SAFETY: the caller gives a writable time.
    unsafe { time.write((i64::from(seconds) + EPOCH_1970) * 10_000_000) };
}

/// `RtlSecondsSince1980ToTime`. Any IRQL.
pub unsafe extern "win64" fn RtlSecondsSince1980ToTime(seconds: u32, time: *mut i64) {
    // SAFETY: the caller gives a writable time.
    unsafe { time.write((i64::from(seconds) + EPOCH_1980) * 10_000_000) };
}

/// `RtlRandomEx` (and `RtlRandom`): uniform below 2^31 - 1. The sequence depends on the seed alone.
pub unsafe extern "win64" fn RtlRandomEx(seed: *mut u32) -> u32 {
    // SAFETY: the caller gives a seed.
    unsafe {
        // The multiplicative generator of Park and Miller, with 2^31 - 1 as its modulus.
        let state = u64::from(*seed) % 0x7fff_ffff;
        let next = (if state == 0 { 1 } else { state }) * 48271 % 0x7fff_ffff;
        seed.write(next as u32);
        next as u32
    }
}

/// `RtlUlongByteSwap`. Any IRQL.
pub extern "win64" fn RtlUlongByteSwap(value: u32) -> u32 {
    value.swap_bytes()
}

/// `RtlUshortByteSwap`. Any IRQL.
pub extern "win64" fn RtlUshortByteSwap(value: u16) -> u16 {
    value.swap_bytes()
}

/// `RtlUlonglongByteSwap`. Any IRQL.
pub extern "win64" fn RtlUlonglongByteSwap(value: u64) -> u64 {
    value.swap_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> alloc::vec::Vec<u32> {
        s.chars().map(u32::from).collect()
    }

    #[test]
    fn integers() {
        let p = |s: &str, base| parse(text(s).into_iter(), base);
        assert_eq!(p("  42abc", 0), Some(42));
        assert_eq!(p("0x1f", 0), Some(31));
        assert_eq!(p("0b101", 0), Some(5));
        assert_eq!(p("0o17", 0), Some(15));
        assert_eq!(p("-1", 10), Some(u32::MAX));
        assert_eq!(p("ff", 16), Some(255));
        assert_eq!(p("1", 7), None);
    }

    #[test]
    fn guids_go_there_and_back() {
        let guid = Guid { data1: 0x1234_5678, data2: 0x9abc, data3: 0xdef0, data4: [1, 2, 3, 4, 5, 6, 7, 8] };
        let written = guid_text(&guid);
        let readable: alloc::string::String =
            char::decode_utf16(written[..38].iter().copied()).map(Result::unwrap).collect();
        assert_eq!(readable, "{12345678-9ABC-DEF0-0102-030405060708}");
        assert_eq!(parse_guid(&written[..38]), Some(guid));
        assert_eq!(parse_guid(&written[..37]), None);
    }

    #[test]
    fn times_go_there_and_back() {
        // 2000-02-29 12:34:56.789, a Tuesday.
        let f = TimeFields {
            year: 2000,
            month: 2,
            day: 29,
            hour: 12,
            minute: 34,
            second: 56,
            milliseconds: 789,
            weekday: 2,
        };
        let mut time = 0;
        // SAFETY: both live here.
        assert_eq!(unsafe { RtlTimeFieldsToTime(&f, &mut time) }, 1);
        assert_eq!(time_fields(time), f);
        assert_eq!(time_fields(0).weekday, 1);
        let mut s = 0;
        // SAFETY: both live here.
        assert_eq!(unsafe { RtlTimeToSecondsSince1970(&(EPOCH_1970 * 10_000_000), &mut s) }, 1);
        assert_eq!((s, time_fields(EPOCH_1970 * 10_000_000).year), (0, 1970));
    }
}
