//! `sprintf` and its kin: where the formatted text goes, how it is cut and what is returned. IRQL = PASSIVE_LEVEL for
//! the wide forms and for wide arguments (the tables for the code page are paged), any IRQL otherwise.
//! <https://learn.microsoft.com/cpp/c-runtime-library/reference/vsnprintf-vsnprintf-vsnprintf-l-vsnwprintf-vsnwprintf-l>

use super::format::{Arguments, format};
use super::unit::Unit;

/// Formats into `count` units. The text is terminated only if there is room, as the documentation says of the
/// functions without `_s`. Returns the units written, or -1 if they did not all fit.
///
/// # Safety
/// `buffer` has `count` units; `fmt` and `arguments` fit each other.
unsafe fn bounded<T: Unit>(buffer: *mut T, count: usize, fmt: *const T, arguments: Arguments) -> i32 {
    let mut at = 0;
    let mut put = |unit: T| {
        if at < count {
            // SAFETY: within the caller's buffer.
            unsafe { buffer.add(at).write_unaligned(unit) };
        }
        at += 1;
    };
    // SAFETY: the caller's promise.
    let needed = unsafe { format(&mut put, fmt, arguments) };
    if needed < count {
        // SAFETY: within the caller's buffer.
        unsafe { buffer.add(needed).write_unaligned(T::NUL) };
    }
    if needed > count && !(buffer.is_null() && count == 0) { -1 } else { needed as i32 }
}

/// As [`bounded`], always terminated: the rule of the `_s` functions. -1 (and an empty text, unless `truncate`) if it
/// did not fit.
///
/// # Safety
/// As [`bounded`].
unsafe fn secure<T: Unit>(buffer: *mut T, count: usize, truncate: bool, fmt: *const T, arguments: Arguments) -> i32 {
    if buffer.is_null() || count == 0 {
        return -1;
    }
    // SAFETY: the caller's promise.
    let n = unsafe { bounded(buffer, count, fmt, arguments) };
    let fits = usize::try_from(n).is_ok_and(|n| n < count);
    if !fits {
        let end = if truncate { count - 1 } else { 0 };
        // SAFETY: `end < count`.
        unsafe { buffer.add(end).write_unaligned(T::NUL) };
        return -1;
    }
    n
}

/// Room that a function without a bound is taken to have.
const UNBOUNDED: usize = i32::MAX as usize;

macro_rules! list_forms {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*; $list:ident) = $body:expr;)*) => {
        $(
            $(#[$doc])*
            pub unsafe extern "win64" fn $name($($arg: $ty,)* $list: *const u64) -> i32 {
                // SAFETY: the caller keeps the contract of the C function: a format that fits the arguments, a
                // buffer with as much room as it says.
                unsafe {
                    let $list = Arguments::new($list);
                    $body
                }
            }
        )*
    };
}

list_forms! {
    /// `_vsnprintf`.
    fn _vsnprintf(buffer: *mut u8, count: usize, fmt: *const u8; list) = bounded(buffer, count, fmt, list);
    /// `_vsnwprintf`.
    fn _vsnwprintf(buffer: *mut u16, count: usize, fmt: *const u16; list) = bounded(buffer, count, fmt, list);
    /// `vsprintf`.
    fn vsprintf(buffer: *mut u8, fmt: *const u8; list) = bounded(buffer, UNBOUNDED, fmt, list);
    /// `vsprintf_s`.
    fn vsprintf_s(buffer: *mut u8, count: usize, fmt: *const u8; list) = secure(buffer, count, false, fmt, list);
    /// `vswprintf_s`.
    fn vswprintf_s(buffer: *mut u16, count: usize, fmt: *const u16; list) = secure(buffer, count, false, fmt, list);
    /// `_vsnprintf_s`: `max` of `usize::MAX` (`_TRUNCATE`) cuts the text.
    fn _vsnprintf_s(buffer: *mut u8, count: usize, max: usize, fmt: *const u8; list) =
        secure(buffer, count.min(max.saturating_add(1)), true, fmt, list);
    /// `_vsnwprintf_s`: as `_vsnprintf_s`.
    fn _vsnwprintf_s(buffer: *mut u16, count: usize, max: usize, fmt: *const u16; list) =
        secure(buffer, count.min(max.saturating_add(1)), true, fmt, list);
}

macro_rules! variadic_bodies {
    ($($(#[$doc:meta])* $name:ident = $list_form:ident($($index:literal),*);)*) => {
        $(
            $(#[$doc])*
            unsafe extern "win64" fn $name(args: *const u64) -> u64 {
                const FIXED: usize = [$($index),*].len();
                // SAFETY: the shim spilled the caller's arguments to an array; the fixed ones come first.
                unsafe { $list_form($(args.add($index).read() as usize as _,)* args.add(FIXED)) as u32 as u64 }
            }
        )*
    };
}

variadic_bodies! {
    /// `sprintf`, behind its shim.
    sprintf_body = vsprintf(0, 1);
    /// `swprintf` without a bound, as ntoskrnl exports it, behind its shim.
    swprintf_body = vswprintf(0, 1);
    /// `_snprintf`, behind its shim.
    snprintf_body = _vsnprintf(0, 1, 2);
    /// `_snwprintf`, behind its shim.
    snwprintf_body = _vsnwprintf(0, 1, 2);
    /// `sprintf_s`, behind its shim.
    sprintf_s_body = vsprintf_s(0, 1, 2);
    /// `swprintf_s`, behind its shim.
    swprintf_s_body = vswprintf_s(0, 1, 2);
    /// `_snprintf_s`, behind its shim.
    snprintf_s_body = _vsnprintf_s(0, 1, 2, 3);
    /// `_snwprintf_s`, behind its shim.
    snwprintf_s_body = _vsnwprintf_s(0, 1, 2, 3);
}

crate::variadic! {
    /// `sprintf`.
    pub fn sprintf => sprintf_body;
    /// `swprintf`.
    pub fn swprintf => swprintf_body;
    /// `_snprintf`.
    pub fn _snprintf => snprintf_body;
    /// `_snwprintf`.
    pub fn _snwprintf => snwprintf_body;
    /// `sprintf_s`.
    pub fn sprintf_s => sprintf_s_body;
    /// `swprintf_s`.
    pub fn swprintf_s => swprintf_s_body;
    /// `_snprintf_s`.
    pub fn _snprintf_s => snprintf_s_body;
    /// `_snwprintf_s`.
    pub fn _snwprintf_s => snwprintf_s_body;
}

/// `vswprintf` without a bound.
pub unsafe extern "win64" fn vswprintf(buffer: *mut u16, fmt: *const u16, list: *const u64) -> i32 {
    // SAFETY: the caller keeps the contract of the C function.
    unsafe { bounded(buffer, UNBOUNDED, fmt, Arguments::new(list)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let mut buf = [b'#'; 8];
        let args = [12345u64];
        let fmt = c"%d".as_ptr().cast::<u8>();
        // SAFETY: the bounds given are those of `buf`.
        unsafe {
            assert_eq!(_vsnprintf(buf.as_mut_ptr(), 8, fmt, args.as_ptr()), 5);
            assert_eq!(&buf, b"12345\0##");
            assert_eq!(_vsnprintf(buf.as_mut_ptr(), 5, fmt, args.as_ptr()), 5);
            assert_eq!(_vsnprintf(buf.as_mut_ptr(), 3, fmt, args.as_ptr()), -1);
            assert_eq!(_vsnprintf(core::ptr::null_mut(), 0, fmt, args.as_ptr()), 5);
            assert_eq!(vsprintf_s(buf.as_mut_ptr(), 5, fmt, args.as_ptr()), -1);
            assert_eq!(buf[0], 0);
            assert_eq!(_vsnprintf_s(buf.as_mut_ptr(), 8, 3, fmt, args.as_ptr()), -1);
            assert_eq!(&buf[..4], b"123\0");
        }
        let all = [buf.as_mut_ptr() as u64, fmt as u64, 42];
        // SAFETY: what a shim would have spilled.
        assert_eq!(unsafe { sprintf_body(all.as_ptr()) }, 2);
        assert_eq!(&buf[..3], b"42\0");
    }
}
