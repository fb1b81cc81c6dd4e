//! Lines to the outside: Xen's port 0xE9, which appears on Xen's console as `(dN)`; the serial port, where there is one.

use crate::hypercall;
use crate::lock::Lock;
use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicBool, Ordering};
use x86_64::instructions::port::Port;

/// Xen's debug port for guests (XEN_HVM_DEBUGCONS_IOPORT).
const PORT: u16 = 0xe9;
/// Xen prints a guest's line in pieces of 198 characters; pieces are marked instead.
const MOST: usize = 180;

/// The first serial port: a 16550.
const SERIAL: u16 = 0x3f8;

static OUTPUT: Lock<()> = Lock::new(());
static WITH_SERIAL: AtomicBool = AtomicBool::new(false);

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

/// From now on [`log`] has the serial port: 115200 baud, 8 data bits, no parity, polled.
pub fn start_serial() {
    /// Registers and values: divisor 1, 8N1, no interrupts, FIFOs on and empty, DTR and RTS.
    const SETUP: [(u16, u8); 7] = [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 0x03), (2, 0x07), (4, 0x03)];
    for (register, value) in SETUP {
        // SAFETY: the serial port's registers, which nobody else uses here.
        unsafe { Port::new(SERIAL + register).write(value) };
    }
    WITH_SERIAL.store(true, Ordering::Release);
}

/// Prints a line of the log of Windows over the serial port, where a kernel debugger would read it. Any IRQL.
pub fn log(line: &str) {
    /// The line status register, and its bit for an empty transmitter.
    const STATUS: (u16, u8) = (5, 1 << 5);
    if !WITH_SERIAL.load(Ordering::Acquire) {
        return;
    }
    let _output = OUTPUT.lock();
    for byte in line.bytes().chain(*b"\r\n") {
        // SAFETY: as above.
        unsafe {
            while Port::<u8>::new(SERIAL + STATUS.0).read() & STATUS.1 == 0 {
                core::hint::spin_loop();
            }
            Port::new(SERIAL).write(byte);
        }
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
