//! The string functions that know the size of their destination. What does not fit leaves an empty string and an error.
//! <https://learn.microsoft.com/cpp/c-runtime-library/reference/strcpy-s-wcscpy-s-mbscpy-s>. Any IRQL, if the memory is
//! resident.

/// `EINVAL`.
const EINVAL: i32 = 22;
/// `ERANGE`.
const ERANGE: i32 = 34;
/// `STRUNCATE`.
const STRUNCATE: i32 = 80;
/// `_TRUNCATE`: as much as fits.
const TRUNCATE: usize = usize::MAX;

/// Copies at most `count` units of `source` behind what `to` holds, with a terminator. `append`: what it holds is kept.
///
/// # Safety
/// `to` is null or has `size` units; `source` is null, terminated, or `count` units long.
unsafe fn put<T: Copy + Default + PartialEq>(
    to: *mut T,
    size: usize,
    source: *const T,
    count: usize,
    append: bool,
) -> i32 {
    let end = T::default();
    // SAFETY: the caller's promise; every index of `to` is below `size`.
    unsafe {
        if to.is_null() || size == 0 {
            return EINVAL;
        }
        let mut at = if append { (0..size).find(|&n| *to.add(n) == end).unwrap_or(size) } else { 0 };
        if source.is_null() && count != 0 || at == size {
            to.write(end);
            return EINVAL;
        }
        let mut n = 0;
        while n < count && *source.add(n) != end {
            if at + 1 == size {
                if count == TRUNCATE {
                    to.add(at).write(end);
                    return STRUNCATE;
                }
                to.write(end);
                return ERANGE;
            }
            to.add(at).write(*source.add(n));
            (at, n) = (at + 1, n + 1);
        }
        to.add(at).write(end);
    }
    0
}

/// All that there is: a string without a bound, which is never cut off.
const WHOLE: usize = usize::MAX - 1;

macro_rules! family {
    ($unit:ty, $copy:ident, $append:ident, $copy_some:ident, $append_some:ident) => {
        #[doc = concat!("`", stringify!($copy), "`.")]
        pub unsafe extern "win64" fn $copy(to: *mut $unit, size: usize, source: *const $unit) -> i32 {
            // SAFETY: the C function's contract.
            unsafe { put(to, size, source, WHOLE, false) }
        }

        #[doc = concat!("`", stringify!($append), "`.")]
        pub unsafe extern "win64" fn $append(to: *mut $unit, size: usize, source: *const $unit) -> i32 {
            // SAFETY: the C function's contract.
            unsafe { put(to, size, source, WHOLE, true) }
        }

        #[doc = concat!("`", stringify!($copy_some), "`.")]
        pub unsafe extern "win64" fn $copy_some(
            to: *mut $unit,
            size: usize,
            source: *const $unit,
            count: usize,
        ) -> i32 {
            // SAFETY: the C function's contract.
            unsafe { put(to, size, source, count, false) }
        }

        #[doc = concat!("`", stringify!($append_some), "`.")]
        pub unsafe extern "win64" fn $append_some(
            to: *mut $unit,
            size: usize,
            source: *const $unit,
            count: usize,
        ) -> i32 {
            // SAFETY: the C function's contract.
            unsafe { put(to, size, source, count, true) }
        }
    };
}

family!(u8, strcpy_s, strcat_s, strncpy_s, strncat_s);
family!(u16, wcscpy_s, wcscat_s, wcsncpy_s, wcsncat_s);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_leaves_nothing_but_where_it_may_be_cut() {
        let mut to = *b"xxxx";
        let at = to.as_mut_ptr();
        // SAFETY: four bytes, terminated sources.
        unsafe {
            assert_eq!((strcpy_s(at, 4, c"abc".as_ptr().cast()), &to), (0, b"abc\0"));
            assert_eq!((strcpy_s(at, 4, c"abcd".as_ptr().cast()), to[0]), (ERANGE, 0));
            assert_eq!((strncpy_s(at, 4, c"abcdef".as_ptr().cast(), 2), &to[..3]), (0, &b"ab\0"[..]));
            assert_eq!((strcat_s(at, 4, c"c".as_ptr().cast()), &to), (0, b"abc\0"));
            assert_eq!((strcat_s(at, 4, c"d".as_ptr().cast()), to[0]), (ERANGE, 0));
            assert_eq!((strncpy_s(at, 4, c"abcdef".as_ptr().cast(), TRUNCATE), &to), (STRUNCATE, b"abc\0"));
            assert_eq!(strcpy_s(at, 0, c"".as_ptr().cast()), EINVAL);
            assert_eq!((strcpy_s(at, 4, core::ptr::null()), to[0]), (EINVAL, 0));
        }
    }
}
