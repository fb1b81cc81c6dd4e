//! Log lines: to the kernel debugger, and on Xen to the hypervisor's and the device model's logs.
//!
//! A driver names itself once with [`init`], then uses [`error!`](crate::error), [`warning!`](crate::warning),
//! [`info!`](crate::info) and [`debug!`](crate::debug). A line is formatted on the stack and cut at
//! [`LINE`] bytes. Any IRQL, but the debugger's own rules hold: above DISPATCH_LEVEL `DbgPrintEx` may only be used with
//! what this module gives it, a narrow string.

use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering},
};

use wdk::fmt::FormatBuffer;
use wdk_sys::ntddk;

use crate::port;

/// The longest line in bytes, with a NUL in place of its end.
pub const LINE: usize = 512;

/// Xen's console port of an HVM guest, and QEMU's (hw/i386/xen: port 0xe9 is taken by Xen itself).
const PORTS: [u16; 2] = [0xE9, 0x12];

/// `DPFLTR_IHVDRIVER_ID`.
const COMPONENT: u32 = 77;

/// Severity, as in the registry value `LogLevel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// Something failed for good.
    Error = 0,
    /// Something is wrong and was dealt with.
    Warning = 1,
    /// What an administrator may want to know.
    Info = 2,
    /// What a driver engineer may want to know.
    Debug = 3,
}

impl Level {
    /// From the registry's number.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Error),
            1 => Some(Self::Warning),
            2 => Some(Self::Info),
            3 => Some(Self::Debug),
            _ => None,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Error => "error: ",
            Self::Warning => "warning: ",
            Self::Info => "",
            Self::Debug => "debug: ",
        }
    }

    /// `DPFLTR_ERROR_LEVEL` to `DPFLTR_INFO_LEVEL`: error 0, warning 1, trace 2, info 3.
    const fn filter(self) -> u32 {
        match self {
            Self::Error => 0,
            Self::Warning => 1,
            Self::Info => 2,
            Self::Debug => 3,
        }
    }
}

static NAME: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static NAME_LEN: AtomicUsize = AtomicUsize::new(0);
static LEVEL: AtomicU32 = AtomicU32::new(Level::Info as u32);
static ON_XEN: AtomicBool = AtomicBool::new(false);

/// Says what the lines begin with. Once, first thing in DriverEntry.
pub fn init(name: &'static str) {
    NAME_LEN.store(0, Ordering::Relaxed);
    NAME.store(name.as_ptr().cast_mut(), Ordering::Relaxed);
    NAME_LEN.store(name.len(), Ordering::Release);
}

/// Drops lines that are less severe than `level`. Any IRQL.
pub fn set_level(level: Level) {
    LEVEL.store(level as u32, Ordering::Relaxed);
}

/// Whether a line of that level would be written. Any IRQL.
pub fn enabled(level: Level) -> bool {
    level as u32 <= LEVEL.load(Ordering::Relaxed)
}

/// Lets lines also go to the ports of Xen and QEMU. Call it only where Xen was found.
pub fn use_ports() {
    ON_XEN.store(true, Ordering::Relaxed);
}

/// Text without control characters: a line is one line, whatever a peer's strings hold.
struct Line(FormatBuffer<LINE>);

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (number, part) in text.split(|c: char| c.is_ascii_control()).enumerate() {
            if number > 0 {
                self.0.write_str(" ")?;
            }
            self.0.write_str(part)?;
        }
        Ok(())
    }
}

/// Writes one line. Any IRQL. Use the macros.
pub fn write(level: Level, text: fmt::Arguments<'_>) {
    if !enabled(level) {
        return;
    }
    let mut line = Line(FormatBuffer::new());
    let len = NAME_LEN.load(Ordering::Acquire);
    // SAFETY: `init` stored pointer and length of one 'static str, the length last; before that there is no length.
    let name = if len == 0 { &[] } else { unsafe { core::slice::from_raw_parts(NAME.load(Ordering::Relaxed), len) } };
    let (name, sign) = (core::str::from_utf8(name).unwrap_or_default(), if len == 0 { "" } else { ": " });
    // An error means that the line is cut: the buffer has what went in.
    let _ = write!(line, "{name}{sign}{}{text}", level.word());
    let line = line.0;
    // SAFETY: the format takes one NUL-terminated string.
    unsafe { ntddk::DbgPrintEx(COMPONENT, level.filter(), c"%s\n".as_ptr().cast(), line.as_c_str().as_ptr()) };
    if ON_XEN.load(Ordering::Relaxed) {
        for number in PORTS {
            // SAFETY: on Xen both ports are log ports for an HVM guest.
            unsafe {
                port::write_bytes(number, line.as_str().as_bytes());
                port::write_bytes(number, b"\n");
            }
        }
    }
}

/// Logs what failed for good. Any IRQL.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, ::core::format_args!($($arg)*)) };
}

/// Logs what is wrong and was dealt with. Any IRQL.
#[macro_export]
macro_rules! warning {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warning, ::core::format_args!($($arg)*)) };
}

/// Logs what an administrator may want to know. Any IRQL.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, ::core::format_args!($($arg)*)) };
}

/// Logs what a driver engineer may want to know. Any IRQL.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Debug, ::core::format_args!($($arg)*)) };
}
