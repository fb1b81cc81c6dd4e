//! The IOAPIC: lines of devices to vectors of processors.

use crate::lock::Lock;
use crate::{memory, processor};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use nt::platform::{Cache, PAGE_SIZE};

/// Where the IOAPIC is on every PC, and where Xen puts it.
const ADDRESS: u64 = 0xfec0_0000;
const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;
const LEVEL_LOW: u32 = 1 << 15 | 1 << 13;
const MASKED: u32 = 1 << 16;

struct IoApic {
    registers: NonNull<u32>,
    lines: u32,
}

// SAFETY: the registers belong to no processor.
unsafe impl Send for IoApic {}

/// Vectors that a line is routed to.
static ROUTED: [AtomicBool; 256] = [const { AtomicBool::new(false) }; 256];

/// Whether a vector comes by a line.
pub fn is_line(vector: u8) -> bool {
    ROUTED[vector as usize].load(Ordering::Relaxed)
}

static IOAPIC: Lock<Option<IoApic>> = Lock::new(None);

impl IoApic {
    fn select(&self, register: u32) -> NonNull<u32> {
        // SAFETY: the index register; the data register stands 16 bytes behind it, in the same mapping.
        unsafe {
            self.registers.write_volatile(register);
            self.registers.add(4)
        }
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: the data register.
        unsafe { self.select(register).read_volatile() }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: the data register.
        unsafe { self.select(register).write_volatile(value) }
    }
}

/// Maps the IOAPIC and masks every line.
pub fn start() {
    let registers = memory::map_frames(&[ADDRESS / PAGE_SIZE as u64], Cache::None).expect("no memory for a mapping");
    let mut ioapic = IoApic { registers: registers.cast(), lines: 0 };
    ioapic.lines = (ioapic.read(VERSION) >> 16 & 0xff) + 1;
    for line in 0..ioapic.lines {
        ioapic.write(FIRST_ENTRY + 2 * line, MASKED);
    }
    *IOAPIC.lock() = Some(ioapic);
}

/// Routes a level-triggered, active-low line, as PCI's are, or masks it.
pub fn route(line: u32, to: Option<(u32, u8)>) {
    let guard = IOAPIC.lock();
    let Some(ioapic) = guard.as_ref().filter(|ioapic| line < ioapic.lines) else { return };
    let entry = FIRST_ENTRY + 2 * line;
    ioapic.write(entry, MASKED);
    if let Some((cpu, vector)) = to {
        ROUTED[vector as usize].store(true, Ordering::Relaxed);
        ioapic.write(entry + 1, u32::from(processor::destination(cpu)) << 24);
        ioapic.write(entry, LEVEL_LOW | u32::from(vector));
    }
}
