//! The memory functions of the C runtime that ntoskrnl exports. Any IRQL, if the memory is resident.

use core::ptr;

/// `memcpy`. Returns `dst`.
pub unsafe extern "win64" fn memcpy(dst: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller gives two ranges of `len` bytes that do not overlap, as C asks.
    unsafe { ptr::copy_nonoverlapping(src, dst, len) };
    dst
}

/// `memmove`. Returns `dst`.
pub unsafe extern "win64" fn memmove(dst: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller gives two ranges of `len` bytes.
    unsafe { ptr::copy(src, dst, len) };
    dst
}

/// `memset`. Returns `dst`.
pub unsafe extern "win64" fn memset(dst: *mut u8, value: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller gives a range of `len` bytes.
    unsafe { ptr::write_bytes(dst, value as u8, len) };
    dst
}

/// `memcmp`: the sign of the first difference, bytes taken as unsigned.
pub unsafe extern "win64" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for i in 0..len {
        // SAFETY: the caller gives two ranges of `len` bytes.
        let (x, y) = unsafe { (a.add(i).read(), b.add(i).read()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// `memchr`: the first byte equal to `value`, or null.
pub unsafe extern "win64" fn memchr(s: *const u8, value: i32, len: usize) -> *const u8 {
    for i in 0..len {
        // SAFETY: the caller gives a range of `len` bytes.
        let p = unsafe { s.add(i) };
        // SAFETY: as above.
        if unsafe { p.read() } == value as u8 {
            return p;
        }
    }
    ptr::null()
}
