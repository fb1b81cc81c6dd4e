//! What `char` and `wchar_t` have in common, so that each string function is written once for both.

/// A character of a C string: a byte or a UTF-16 unit.
pub trait Unit: Copy + Eq + Ord {
    /// The terminator.
    const NUL: Self;
    /// Its value.
    fn code(self) -> u32;
    /// The character with that value, cut to its width.
    fn from_code(code: u32) -> Self;
    /// Whether it is a UTF-16 unit.
    const WIDE: bool;
}

impl Unit for u8 {
    const NUL: u8 = 0;
    const WIDE: bool = false;
    fn code(self) -> u32 {
        u32::from(self)
    }
    fn from_code(code: u32) -> u8 {
        code as u8
    }
}

impl Unit for u16 {
    const NUL: u16 = 0;
    const WIDE: bool = true;
    fn code(self) -> u32 {
        u32::from(self)
    }
    fn from_code(code: u32) -> u16 {
        code as u16
    }
}

/// The lower-case form in the C locale: only A to Z change.
pub fn lower(code: u32) -> u32 {
    if (u32::from(b'A')..=u32::from(b'Z')).contains(&code) { code + 32 } else { code }
}

/// The upper-case form in the C locale: only a to z change.
pub fn upper(code: u32) -> u32 {
    if (u32::from(b'a')..=u32::from(b'z')).contains(&code) { code - 32 } else { code }
}

/// Units before the terminator.
///
/// # Safety
/// `s` is a NUL-terminated string.
pub unsafe fn length<T: Unit>(s: *const T) -> usize {
    let mut n = 0;
    // SAFETY: the terminator is not passed.
    while unsafe { s.add(n).read_unaligned() } != T::NUL {
        n += 1;
    }
    n
}

/// Units before the terminator, at most `max`.
///
/// # Safety
/// `s` has `max` units or a terminator before them.
pub unsafe fn bounded_length<T: Unit>(s: *const T, max: usize) -> usize {
    let mut n = 0;
    // SAFETY: neither the bound nor the terminator is passed.
    while n < max && unsafe { s.add(n).read_unaligned() } != T::NUL {
        n += 1;
    }
    n
}

/// Compares at most `max` units after `map`, stops at the terminator.
///
/// # Safety
/// Both are NUL-terminated or have `max` units.
pub unsafe fn compare<T: Unit>(a: *const T, b: *const T, max: usize, map: fn(u32) -> u32) -> i32 {
    for i in 0..max {
        // SAFETY: the loop ends at the terminator or the bound.
        let (x, y) = unsafe { (a.add(i).read_unaligned(), b.add(i).read_unaligned()) };
        let (x, y) = (map(x.code()), map(y.code()));
        if x != y {
            return if x < y { -1 } else { 1 };
        }
        if x == 0 {
            break;
        }
    }
    0
}

/// Leaves a character as it is.
pub fn same(code: u32) -> u32 {
    code
}

/// The first (or, `last`, the last) place of `c`, the terminator included; null if it is absent.
///
/// # Safety
/// `s` is NUL-terminated.
pub unsafe fn find<T: Unit>(s: *const T, c: T, last: bool) -> *const T {
    let mut found = core::ptr::null();
    let mut p = s;
    loop {
        // SAFETY: the terminator is not passed.
        let unit = unsafe { p.read_unaligned() };
        if unit == c {
            found = p;
            if !last {
                return found;
            }
        }
        if unit == T::NUL {
            return found;
        }
        // SAFETY: the terminator was not reached yet.
        p = unsafe { p.add(1) };
    }
}

/// The first place of `needle` in `hay`; `hay` itself if `needle` is empty; null if absent.
///
/// # Safety
/// Both are NUL-terminated.
pub unsafe fn find_string<T: Unit>(hay: *const T, needle: *const T) -> *const T {
    // SAFETY: the caller's promise.
    let (hay_len, needle_len) = unsafe { (length(hay), length(needle)) };
    for start in 0..=hay_len.saturating_sub(needle_len) {
        if start + needle_len > hay_len {
            break;
        }
        // SAFETY: `start + needle_len` is within `hay`.
        if unsafe { compare(hay.add(start), needle, needle_len, same) } == 0 {
            // SAFETY: as above.
            return unsafe { hay.add(start) };
        }
    }
    core::ptr::null()
}

/// Copies a string with its terminator.
///
/// # Safety
/// `dst` has room, `src` is NUL-terminated.
pub unsafe fn copy<T: Unit>(dst: *mut T, src: *const T) {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::copy_nonoverlapping(src, dst, length(src) + 1) };
}

/// `strncpy`: exactly `max` units are written, filled up with terminators.
///
/// # Safety
/// `dst` has `max` units, `src` as many or a terminator.
pub unsafe fn copy_bounded<T: Unit>(dst: *mut T, src: *const T, max: usize) {
    // SAFETY: the caller's promise.
    let n = unsafe { bounded_length(src, max) };
    // SAFETY: `n <= max`.
    unsafe { core::ptr::copy_nonoverlapping(src, dst, n) };
    for i in n..max {
        // SAFETY: `i < max`.
        unsafe { dst.add(i).write_unaligned(T::NUL) };
    }
}

/// `strncat`: appends at most `max` units and a terminator.
///
/// # Safety
/// `dst` is a NUL-terminated string with room for as much.
pub unsafe fn append<T: Unit>(dst: *mut T, src: *const T, max: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let end = dst.add(length(dst));
        let n = bounded_length(src, max);
        core::ptr::copy_nonoverlapping(src, end, n);
        end.add(n).write_unaligned(T::NUL);
    }
}

/// `strtoull` with the number's sign and whether it overflowed: (value, negative, overflowed, end).
///
/// # Safety
/// `s` is NUL-terminated.
pub unsafe fn parse_integer<T: Unit>(s: *const T, base: u32) -> (u64, bool, bool, *const T) {
    // SAFETY: every step below stops at the terminator.
    let at = |i: usize| unsafe { s.add(i).read_unaligned() }.code();
    let mut i = 0;
    while matches!(at(i), 0x20 | 0x09..=0x0d) {
        i += 1;
    }
    let mut negative = false;
    if at(i) == u32::from(b'-') || at(i) == u32::from(b'+') {
        negative = at(i) == u32::from(b'-');
        i += 1;
    }
    let mut base = base;
    let hex_prefix = at(i) == u32::from(b'0') && lower(at(i + 1)) == u32::from(b'x');
    if (base == 0 || base == 16) && hex_prefix && digit(at(i + 2)) < 16 {
        base = 16;
        i += 2;
    } else if base == 0 {
        base = if at(i) == u32::from(b'0') { 8 } else { 10 };
    }
    let first = i;
    let (mut value, mut overflow) = (0u64, false);
    while digit(at(i)) < base {
        let (v, o1) = value.overflowing_mul(u64::from(base));
        let (v, o2) = v.overflowing_add(u64::from(digit(at(i))));
        overflow |= o1 | o2;
        value = v;
        i += 1;
    }
    let end = if i == first { 0 } else { i };
    // SAFETY: `end` is not past the terminator.
    (value, negative, overflow, unsafe { s.add(end) })
}

/// The value of a digit in any base up to 36, or `u32::MAX`.
pub fn digit(code: u32) -> u32 {
    char::from_u32(code).and_then(|c| c.to_digit(36)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_follow_c() {
        let parse = |s: &[u8], base| {
            // SAFETY: every test string is NUL-terminated.
            let (v, neg, over, end) = unsafe { parse_integer(s.as_ptr(), base) };
            (v, neg, over, end as usize - s.as_ptr() as usize)
        };
        assert_eq!(parse(b"  -12x\0", 10), (12, true, false, 5));
        assert_eq!(parse(b"0x1F\0", 0), (31, false, false, 4));
        assert_eq!(parse(b"0x\0", 16), (0, false, false, 1));
        assert_eq!(parse(b"017\0", 0), (15, false, false, 3));
        assert_eq!(parse(b"zz\0", 10), (0, false, false, 0));
        assert_eq!(parse(b"18446744073709551616\0", 10), (0, false, true, 20));
    }

    #[test]
    fn search_and_compare() {
        let hay = b"abcabd\0";
        // SAFETY: every test string is NUL-terminated.
        unsafe {
            assert_eq!(find_string(hay.as_ptr(), c"abd".as_ptr().cast()), hay.as_ptr().add(3));
            assert!(find_string(hay.as_ptr(), c"x".as_ptr().cast()).is_null());
            assert_eq!(find(hay.as_ptr(), b'a', true), hay.as_ptr().add(3));
            assert_eq!(find(hay.as_ptr(), 0, false), hay.as_ptr().add(6));
            let (a, b) = (c"ABC".as_ptr().cast::<u8>(), c"abd".as_ptr().cast::<u8>());
            assert_eq!(compare(a, b, 2, lower), 0);
            assert_eq!(compare(a, b, 3, lower), -1);
        }
    }
}
