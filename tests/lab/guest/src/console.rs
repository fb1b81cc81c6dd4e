//! Lines to the outside: Xen's port 0xE9, which appears on Xen's console as `(dN)`; the serial port, where there is one.

use crate::hypercall;
use crate::lock::Lock;
use core::fmt::{self, Write as _};
use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550};
use x86_64::instructions::port::Port;

/// Xen's debug port for guests (XEN_HVM_DEBUGCONS_IOPORT).
const PORT: u16 = 0xe9;
/// Xen prints a guest's line in pieces of 198 characters; pieces are marked instead.
const MOST: usize = 180;

/// The first serial port: a 16550.
const SERIAL: u16 = 0x3f8;

static OUTPUT: Lock<()> = Lock::new(());
static UART: Lock<Option<Uart16550<PioBackend>>> = Lock::new(None);

/// How a run ends, as the last line says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every case ran; each one's line says how.
    Done,
    /// The guest kernel itself broke.
    Panic,
    /// `nt` stopped the machine: bug check, broken rule.
    Stopped,
}

struct Line {
    column: usize,
}

fn put(byte: u8) {
    // SAFETY: writes to Xen's debug port print and do nothing else.
    unsafe { Port::new(PORT).write(byte) };
}

impl Line {
    fn end(&mut self) {
        put(b'\n');
        self.column = 0;
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.end();
                continue;
            }
            if self.column == MOST {
                put(b'\\');
                self.end();
            }
            put(if (0x20..0x7f).contains(&byte) { byte } else { b'?' });
            self.column += 1;
        }
        Ok(())
    }
}

/// Prints one line. Any IRQL.
pub fn print(text: fmt::Arguments<'_>) {
    let _output = OUTPUT.lock();
    let mut line = Line { column: 0 };
    let _ = line.write_fmt(text);
    if line.column > 0 {
        line.end();
    }
}

/// From now on [`log`] has the serial port, if there is one: 115200 baud, 8 data bits, no parity, polled.
pub fn start_serial() {
    // SAFETY: the serial port's registers, which nobody else uses here.
    let Ok(mut port) = (unsafe { Uart16550::new_port(SERIAL) }) else { return };
    // Nobody needs to be at the other end.
    if port.init(Config { baud_rate: BaudRate::Baud115200, ..Config::default() }).is_ok() {
        *UART.lock() = Some(port);
    }
}

/// Prints a line of the log of Windows over the serial port, where a kernel debugger would read it. Any IRQL.
pub fn log(line: &str) {
    if let Some(port) = &mut *UART.lock() {
        port.send_bytes_exact(line.as_bytes());
        port.send_bytes_exact(b"\r\n");
    }
}

/// The frame pointer of the caller.
#[expect(clippy::inline_always, reason = "called, it would read its own frame")]
#[inline(always)]
pub fn frame_pointer() -> usize {
    let value: usize;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Prints how the run ended and stops this processor for good. Where something broke Xen is told of a crash, so that the
/// agent need not wait; else the lab's side kills the domain.
pub fn end(verdict: Verdict) -> ! {
    /// `SHUTDOWN_crash` of Xen's public/sched.h.
    const CRASH: u32 = 3;
    print(format_args!("lab: END {verdict:?}"));
    if verdict != Verdict::Done {
        hypercall::shutdown(CRASH);
    }
    loop {
        x86_64::instructions::interrupts::enable_and_hlt();
    }
}
