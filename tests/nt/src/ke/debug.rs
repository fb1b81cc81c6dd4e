//! `DbgPrint` and its kin.

use crate::crt::format::{Arguments, format};
use crate::platform::platform;
use crate::status::*;
use crate::sync::IrqLock;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;

/// Text of debug output whose line has not ended yet.
static PARTIAL: IrqLock<Vec<u8>> = IrqLock::new(Vec::new());
static CALLBACKS: IrqLock<Vec<usize>> = IrqLock::new(Vec::new());

/// Most characters of one print: what DbgPrint is documented to transmit.
const MOST: usize = 512;

/// Formats and prints. Any IRQL.
///
/// # Safety
/// `text` is a NUL-terminated format that fits the arguments.
unsafe fn print(prefix: &[u8], text: *const u8, arguments: *const u64, component: u32, level: u32) {
    let mut line: Vec<u8> = prefix.to_vec();
    let mut put = |byte: u8| {
        if line.len() < MOST {
            line.push(byte);
        }
    };
    // SAFETY: the caller's promise.
    unsafe { format(&mut put, text, Arguments::new(arguments)) };
    let callbacks: Vec<usize> = CALLBACKS.lock().clone();
    for callback in callbacks {
        let text = AnsiText { length: line.len() as u16, maximum: line.len() as u16, buffer: line.as_mut_ptr() };
        // SAFETY: registered as DEBUG_PRINT_CALLBACK.
        unsafe {
            let callback = core::mem::transmute::<usize, unsafe extern "win64" fn(*const AnsiText, u32, u32)>(callback);
            callback(&raw const text, component, level);
        }
    }
    let mut lines = Vec::new();
    {
        let mut partial = PARTIAL.lock();
        for byte in line {
            match byte {
                b'\n' => lines.push(core::mem::take(&mut *partial)),
                b'\r' => {}
                byte => partial.push(byte),
            }
        }
    }
    for line in lines {
        platform().log(&String::from_utf8_lossy(&line));
    }
}

/// `STRING`.
#[repr(C)]
struct AnsiText {
    length: u16,
    maximum: u16,
    buffer: *mut u8,
}

unsafe extern "win64" fn dbg_print(args: *const u64) -> u64 {
    // SAFETY: the shim gives the arguments: the format, then what it takes.
    unsafe { print(b"", *args as *const u8, args.add(1), 101, 3) };
    0
}

unsafe extern "win64" fn dbg_print_ex(args: *const u64) -> u64 {
    // SAFETY: component, level, format, then what it takes.
    unsafe { print(b"", *args.add(2) as *const u8, args.add(3), *args as u32, *args.add(1) as u32) };
    0
}

crate::variadic! {
    /// `DbgPrint`. Any IRQL <= DIRQL.
    pub fn DbgPrint => dbg_print;
    /// `DbgPrintEx`: every component and level is on. Any IRQL <= DIRQL.
    pub fn DbgPrintEx => dbg_print_ex;
}

/// `vDbgPrintEx`. Any IRQL <= DIRQL.
pub unsafe extern "win64" fn vDbgPrintEx(component: u32, level: u32, text: *const u8, list: *const u64) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { print(b"", text, list, component, level) };
    0
}

/// `vDbgPrintExWithPrefix`. Any IRQL <= DIRQL.
pub unsafe extern "win64" fn vDbgPrintExWithPrefix(
    prefix: *const u8,
    component: u32,
    level: u32,
    text: *const u8,
    list: *const u64,
) -> u32 {
    // SAFETY: the caller's contract: the prefix is NUL-terminated.
    unsafe { print(core::ffi::CStr::from_ptr(prefix.cast()).to_bytes(), text, list, component, level) };
    0
}

/// `DbgQueryDebugFilterState`: everything is on. Any IRQL.
pub unsafe extern "win64" fn DbgQueryDebugFilterState(_component: u32, _level: u32) -> NtStatus {
    1
}

/// `DbgSetDebugFilterState`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn DbgSetDebugFilterState(_component: u32, _level: u32, _state: u8) -> NtStatus {
    STATUS_SUCCESS
}

/// `DbgSetDebugPrintCallback`: adds or removes a callback. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn DbgSetDebugPrintCallback(callback: *const c_void, enable: u8) -> NtStatus {
    let mut callbacks = CALLBACKS.lock();
    if enable != 0 {
        callbacks.push(callback as usize);
    } else {
        callbacks.retain(|&c| c != callback as usize);
    }
    STATUS_SUCCESS
}

/// Whether a callback lies in a range of memory that is going.
pub fn any_in(start: usize, end: usize) -> bool {
    CALLBACKS.lock().iter().any(|callback| (start..end).contains(callback))
}

/// `RtlAssert`: what the ASSERT of a checked driver calls. No debugger is there to go on, so it ends the run. Any IRQL.
pub unsafe extern "win64" fn RtlAssert(what: *const u8, file: *const u8, line: u32, message: *const u8) {
    let text = |pointer: *const u8| {
        if pointer.is_null() {
            return String::new();
        }
        // SAFETY: the caller gives NUL-terminated texts.
        unsafe { String::from_utf8_lossy(core::ffi::CStr::from_ptr(pointer.cast()).to_bytes()).into_owned() }
    };
    let (what, file, message) = (text(what), text(file), text(message));
    crate::verifier::violation("ASSERT", format_args!("{file}:{line}: {what} {message}"))
}

/// `DbgBreakPoint` and `DbgBreakPointWithStatus`: no debugger is there, so it is a bug check. Any IRQL.
pub unsafe extern "win64" fn DbgBreakPoint() {
    // SAFETY: KMODE_EXCEPTION_NOT_HANDLED with STATUS_BREAKPOINT.
    unsafe { super::KeBugCheckEx(0x1e, 0x8000_0003, 0, 0, 0) }
}
