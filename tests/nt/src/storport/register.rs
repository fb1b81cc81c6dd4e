//! Ports and device registers, by the functions that a miniport calls in place of instructions of its own. Any IRQL.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportreadregisterulong>

use crate::platform::platform;
use core::ffi::c_void;
use core::sync::atomic::{Ordering, fence};

/// The number of a port, which the miniport has as a pointer.
fn port<T>(at: *const T) -> u16 {
    at.addr() as u16
}

/// Declares the functions of one width: of registers, then of ports; one value, then many to or from one place.
macro_rules! width {
    ($type:ty, $bytes:literal, $read:ident, $write:ident, $read_many:ident, $write_many:ident,
     $in:ident, $out:ident, $in_many:ident, $out_many:ident) => {
        #[doc = concat!("`", stringify!($read), "`.")]
        pub unsafe extern "win64" fn $read(_extension: *mut c_void, register: *const $type) -> $type {
            // SAFETY: the miniport gives a mapped register.
            let value = unsafe { register.read_volatile() };
            fence(Ordering::SeqCst);
            value
        }

        #[doc = concat!("`", stringify!($write), "`.")]
        pub unsafe extern "win64" fn $write(_extension: *mut c_void, register: *mut $type, value: $type) {
            // SAFETY: the miniport gives a mapped register.
            unsafe { register.write_volatile(value) };
            fence(Ordering::SeqCst);
        }

        #[doc = concat!("`", stringify!($read_many), "`: from registers in a row.")]
        pub unsafe extern "win64" fn $read_many(
            _extension: *mut c_void,
            register: *const $type,
            buffer: *mut $type,
            count: u32,
        ) {
            // SAFETY: the miniport gives so many mapped registers and a buffer for as many values.
            unsafe { (0..count as usize).for_each(|i| buffer.add(i).write(register.add(i).read_volatile())) };
            fence(Ordering::SeqCst);
        }

        #[doc = concat!("`", stringify!($write_many), "`: to registers in a row.")]
        pub unsafe extern "win64" fn $write_many(
            _extension: *mut c_void,
            register: *mut $type,
            buffer: *const $type,
            count: u32,
        ) {
            // SAFETY: the miniport gives so many mapped registers and a buffer of as many values.
            unsafe { (0..count as usize).for_each(|i| register.add(i).write_volatile(buffer.add(i).read())) };
            fence(Ordering::SeqCst);
        }

        #[doc = concat!("`", stringify!($in), "`.")]
        pub unsafe extern "win64" fn $in(_extension: *mut c_void, at: *const $type) -> $type {
            platform().port_read(port(at), $bytes) as $type
        }

        #[doc = concat!("`", stringify!($out), "`.")]
        pub unsafe extern "win64" fn $out(_extension: *mut c_void, at: *mut $type, value: $type) {
            platform().port_write(port(at), $bytes, u32::from(value));
        }

        #[doc = concat!("`", stringify!($in_many), "`: from one port again and again.")]
        pub unsafe extern "win64" fn $in_many(
            _extension: *mut c_void,
            at: *const $type,
            buffer: *mut $type,
            count: u32,
        ) {
            // SAFETY: the miniport gives a buffer for so many values.
            unsafe {
                (0..count as usize).for_each(|i| buffer.add(i).write(platform().port_read(port(at), $bytes) as $type));
            }
        }

        #[doc = concat!("`", stringify!($out_many), "`: to one port again and again.")]
        pub unsafe extern "win64" fn $out_many(
            _extension: *mut c_void,
            at: *mut $type,
            buffer: *const $type,
            count: u32,
        ) {
            // SAFETY: the miniport gives a buffer of so many values.
            unsafe {
                (0..count as usize)
                    .for_each(|i| platform().port_write(port(at), $bytes, u32::from(buffer.add(i).read())));
            }
        }
    };
}

width!(
    u8,
    1,
    StorPortReadRegisterUchar,
    StorPortWriteRegisterUchar,
    StorPortReadRegisterBufferUchar,
    StorPortWriteRegisterBufferUchar,
    StorPortReadPortUchar,
    StorPortWritePortUchar,
    StorPortReadPortBufferUchar,
    StorPortWritePortBufferUchar
);
width!(
    u16,
    2,
    StorPortReadRegisterUshort,
    StorPortWriteRegisterUshort,
    StorPortReadRegisterBufferUshort,
    StorPortWriteRegisterBufferUshort,
    StorPortReadPortUshort,
    StorPortWritePortUshort,
    StorPortReadPortBufferUshort,
    StorPortWritePortBufferUshort
);
width!(
    u32,
    4,
    StorPortReadRegisterUlong,
    StorPortWriteRegisterUlong,
    StorPortReadRegisterBufferUlong,
    StorPortWriteRegisterBufferUlong,
    StorPortReadPortUlong,
    StorPortWritePortUlong,
    StorPortReadPortBufferUlong,
    StorPortWritePortBufferUlong
);
