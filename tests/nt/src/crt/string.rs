//! The string functions of the C runtime that ntoskrnl exports, for `char` and for `wchar_t`. Any IRQL, if the memory
//! is resident. Case folding is that of the C locale, as the kernel has no other.

use super::unit;

macro_rules! exported {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:expr;)*) => {
        $(
            $(#[$doc])*
            pub unsafe extern "win64" fn $name($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller keeps the contract of the C function: strings are terminated or as long as the
                // bound, destinations have room.
                unsafe { $body }
            }
        )*
    };
}

exported! {
    /// `strlen`.
    fn strlen(s: *const u8) -> usize = unit::length(s);
    /// `strnlen`.
    fn strnlen(s: *const u8, max: usize) -> usize = unit::bounded_length(s, max);
    /// `strcmp`.
    fn strcmp(a: *const u8, b: *const u8) -> i32 = unit::compare(a, b, usize::MAX, unit::same);
    /// `strncmp`.
    fn strncmp(a: *const u8, b: *const u8, max: usize) -> i32 = unit::compare(a, b, max, unit::same);
    /// `_stricmp`.
    fn _stricmp(a: *const u8, b: *const u8) -> i32 = unit::compare(a, b, usize::MAX, unit::lower);
    /// `_strnicmp`.
    fn _strnicmp(a: *const u8, b: *const u8, max: usize) -> i32 = unit::compare(a, b, max, unit::lower);
    /// `strchr`.
    fn strchr(s: *const u8, c: i32) -> *const u8 = unit::find(s, c as u8, false);
    /// `strrchr`.
    fn strrchr(s: *const u8, c: i32) -> *const u8 = unit::find(s, c as u8, true);
    /// `strstr`.
    fn strstr(s: *const u8, needle: *const u8) -> *const u8 = unit::find_string(s, needle);
    /// `strcpy`.
    fn strcpy(dst: *mut u8, src: *const u8) -> *mut u8 = { unit::copy(dst, src); dst };
    /// `strncpy`.
    fn strncpy(dst: *mut u8, src: *const u8, max: usize) -> *mut u8 = { unit::copy_bounded(dst, src, max); dst };
    /// `strcat`.
    fn strcat(dst: *mut u8, src: *const u8) -> *mut u8 = { unit::append(dst, src, usize::MAX); dst };
    /// `strncat`.
    fn strncat(dst: *mut u8, src: *const u8, max: usize) -> *mut u8 = { unit::append(dst, src, max); dst };
    /// `_strlwr`: in place, C locale.
    fn _strlwr(s: *mut u8) -> *mut u8 = { map_in_place(s, unit::lower); s };
    /// `_strupr`: in place, C locale.
    fn _strupr(s: *mut u8) -> *mut u8 = { map_in_place(s, unit::upper); s };
    /// `wcslen`.
    fn wcslen(s: *const u16) -> usize = unit::length(s);
    /// `wcsnlen`.
    fn wcsnlen(s: *const u16, max: usize) -> usize = unit::bounded_length(s, max);
    /// `wcscmp`.
    fn wcscmp(a: *const u16, b: *const u16) -> i32 = unit::compare(a, b, usize::MAX, unit::same);
    /// `wcsncmp`.
    fn wcsncmp(a: *const u16, b: *const u16, max: usize) -> i32 = unit::compare(a, b, max, unit::same);
    /// `_wcsicmp`.
    fn _wcsicmp(a: *const u16, b: *const u16) -> i32 = unit::compare(a, b, usize::MAX, unit::lower);
    /// `_wcsnicmp`.
    fn _wcsnicmp(a: *const u16, b: *const u16, max: usize) -> i32 = unit::compare(a, b, max, unit::lower);
    /// `wcschr`.
    fn wcschr(s: *const u16, c: u16) -> *const u16 = unit::find(s, c, false);
    /// `wcsrchr`.
    fn wcsrchr(s: *const u16, c: u16) -> *const u16 = unit::find(s, c, true);
    /// `wcsstr`.
    fn wcsstr(s: *const u16, needle: *const u16) -> *const u16 = unit::find_string(s, needle);
    /// `wcscpy`.
    fn wcscpy(dst: *mut u16, src: *const u16) -> *mut u16 = { unit::copy(dst, src); dst };
    /// `wcsncpy`.
    fn wcsncpy(dst: *mut u16, src: *const u16, max: usize) -> *mut u16 = { unit::copy_bounded(dst, src, max); dst };
    /// `wcscat`.
    fn wcscat(dst: *mut u16, src: *const u16) -> *mut u16 = { unit::append(dst, src, usize::MAX); dst };
    /// `wcsncat`.
    fn wcsncat(dst: *mut u16, src: *const u16, max: usize) -> *mut u16 = { unit::append(dst, src, max); dst };
    /// `_wcslwr`: in place, C locale.
    fn _wcslwr(s: *mut u16) -> *mut u16 = { map_in_place(s, unit::lower); s };
    /// `_wcsupr`: in place, C locale.
    fn _wcsupr(s: *mut u16) -> *mut u16 = { map_in_place(s, unit::upper); s };
}

/// Maps every character of a string in place.
///
/// # Safety
/// `s` is NUL-terminated and writable.
unsafe fn map_in_place<T: unit::Unit>(s: *mut T, map: fn(u32) -> u32) {
    // SAFETY: only the units before the terminator are touched.
    unsafe {
        for i in 0..unit::length(s) {
            let p = s.add(i);
            p.write_unaligned(T::from_code(map(p.read_unaligned().code())));
        }
    }
}
