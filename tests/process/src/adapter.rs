//! A PCI host bus adapter for tests of drivers: ports, a page of memory, a line interrupt, and MSI-X with a table.
//!
//! It moves no data: it has what a driver reaches an adapter by. There are two ranges besides the ports, and both are
//! memory that reads back what was written: one page for the driver, and two with the MSI-X table and its pending bits.
//! PCI Local Bus Specification 3.0, sections 6.1 (configuration space), 6.2.5 (base addresses) and 6.8.2 (MSI-X).
//!
//! | Port | Bytes | What |
//! |---|---|---|
//! | 0x00 | 4 | reads [`IDENTITY`] |
//! | 0x04 | 4 | written: interrupts, with the message of that number, or by the line while MSI-X is off |
//! | 0x08 | 1 | reads 1 while the line is up; any write takes it down |
//! | 0x10 | 1, 2, 4 | four bytes that read back |
//! | 0x18 | 1, 2, 4 | a queue of bytes: what was written first is read first, ones from an empty one |

use crate::frames::{ProcessMachine, frame};
use crate::processor;
use nt::platform::{PAGE_SIZE, PciAddress};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use xen_model::{Gfn, Machine as _, Mfn, layout};

/// Where it is.
pub const PLACE: PciAddress = PciAddress { bus: 0, device: 5, function: 0 };
/// What its first port reads.
const IDENTITY: u32 = 0x5441_4248;
/// Entries of the MSI-X table.
const MESSAGES: usize = 8;
/// The MSI-X capability, and its bits for the whole function.
const MSIX: usize = 0x40;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK: u16 = 1 << 14;
/// Command register: ports and memory are decoded.
const DECODE_PORTS: u8 = 1;
const DECODE_MEMORY: u8 = 2;
/// Base address registers: offset in configuration space, bytes, bits that say the kind.
const PORTS: (usize, u32, u32) = (0x10, 0x20, 1);
const MEMORY: (usize, u32, u32) = (0x14, PAGE_SIZE as u32, 0);
const TABLE: (usize, u32, u32) = (0x18, 2 * PAGE_SIZE as u32, 4);

/// The adapter.
struct Adapter {
    config: [u8; 256],
    /// The page of memory, the MSI-X table, the pending bits.
    frames: [Mfn; 3],
    /// Where the guest sees them now.
    shown: Option<[Gfn; 3]>,
    scratch: [u8; 4],
    queue: VecDeque<u8>,
}

static ADAPTER: Mutex<Option<Adapter>> = Mutex::new(None);
/// A message waits for its mask to go.
static WAITS: AtomicBool = AtomicBool::new(false);

fn with<R>(body: impl FnOnce(&mut Adapter) -> R) -> Option<R> {
    ADAPTER.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_mut().map(body)
}

/// Puts the adapter into the machine, set up as firmware leaves it. Before anything runs.
///
/// # Errors
/// There are no frames for its memory.
pub fn plug_in(id: u16) -> anyhow::Result<()> {
    let mut frames = [0; 3];
    for place in &mut frames {
        *place = ProcessMachine.alloc_frame().ok_or_else(|| anyhow::anyhow!("no frame for the adapter's memory"))?;
    }
    let mut config = [0; 256];
    // A vendor that belongs to nobody; mass storage, SCSI.
    config[..2].copy_from_slice(&[0x34, 0x12]);
    config[2..4].copy_from_slice(&id.to_le_bytes());
    config[0x06] = 0x10;
    config[0x0b] = 1;
    config[0x10..0x14].copy_from_slice(&(0xc200_u32 | PORTS.2).to_le_bytes());
    config[0x14..0x18].copy_from_slice(&0xf400_0000_u32.to_le_bytes());
    config[0x18..0x1c].copy_from_slice(&(0xf401_0000_u32 | TABLE.2).to_le_bytes());
    config[0x2c..0x30].copy_from_slice(&[0x34, 0x12, 0x01, 0x00]);
    config[0x34] = MSIX as u8;
    config[0x3c..0x3e].copy_from_slice(&[11, 1]);
    // Table at the start of the third range, which register 2 is for; pending bits in its second page.
    config[MSIX] = 0x11;
    config[MSIX + 2] = MESSAGES as u8 - 1;
    config[MSIX + 4] = 2;
    config[MSIX + 8..MSIX + 12].copy_from_slice(&(PAGE_SIZE as u32 | 2).to_le_bytes());
    let mut adapter = Adapter { config, frames, shown: None, scratch: [0; 4], queue: VecDeque::new() };
    for entry in 0..MESSAGES {
        // Masked after a reset.
        adapter.set_long(1, 16 * entry + 12, 1);
    }
    adapter.set_config(4, &[DECODE_PORTS | DECODE_MEMORY]);
    *ADAPTER.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(adapter);
    Ok(())
}

/// Whether it is in the machine.
pub fn is_in() -> bool {
    with(|_| ()).is_some()
}

/// Reads configuration space.
pub fn config_read(offset: usize, buf: &mut [u8]) {
    with(|adapter| {
        for (at, byte) in buf.iter_mut().enumerate() {
            *byte = adapter.config.get(offset + at).copied().unwrap_or(0xff);
        }
    });
}

/// Writes configuration space.
pub fn config_write(offset: usize, bytes: &[u8]) {
    with(|adapter| adapter.set_config(offset, bytes));
}

/// Its interrupt line.
pub fn line() -> u32 {
    layout::pci_intx_gsi(PLACE.device, 0)
}

/// Reads a port. `None`: it is not one of the adapter's.
pub fn port_in(port: u16, width: u8) -> Option<u32> {
    with(|adapter| {
        let register = adapter.register(port)?;
        let mut bytes = [0; 4];
        let wide = &mut bytes[..usize::from(width)];
        match register {
            0x00 => wide.copy_from_slice(&IDENTITY.to_le_bytes()[..wide.len()]),
            0x08 => wide[0] = u8::from(adapter.config[6] & 8 != 0),
            0x10..=0x13 => {
                for (at, byte) in wide.iter_mut().enumerate() {
                    *byte = adapter.scratch.get(usize::from(register - 0x10) + at).copied().unwrap_or(0xff);
                }
            }
            0x18 => wide.fill_with(|| adapter.queue.pop_front().unwrap_or(0xff)),
            _ => wide.fill(0xff),
        }
        Some(u32::from_le_bytes(bytes))
    })
    .flatten()
}

/// Writes a port. False: it is not one of the adapter's.
pub fn port_out(port: u16, width: u8, value: u32) -> bool {
    with(|adapter| {
        let Some(register) = adapter.register(port) else { return false };
        let bytes = &value.to_le_bytes()[..usize::from(width)];
        match register {
            0x04 => adapter.interrupt(value as usize),
            0x08 => adapter.set_line(false),
            0x10..=0x13 => {
                for (at, byte) in bytes.iter().enumerate() {
                    if let Some(place) = adapter.scratch.get_mut(usize::from(register - 0x10) + at) {
                        *place = *byte;
                    }
                }
            }
            0x18 => adapter.queue.extend(bytes),
            _ => {}
        }
        true
    })
    .unwrap_or(false)
}

/// Sends what waited for a mask that is gone now. False: nothing did.
pub fn work() -> bool {
    WAITS.load(Relaxed) && with(Adapter::send).unwrap_or(false)
}

impl Adapter {
    fn long(&self, page: usize, offset: usize) -> u32 {
        // SAFETY: the alias of a frame of the adapter's own, within its page; the guest may write it at any time.
        unsafe { frame(self.frames[page]).add(offset).cast::<u32>().read_volatile() }
    }

    fn set_long(&mut self, page: usize, offset: usize, value: u32) {
        // SAFETY: as above.
        unsafe { frame(self.frames[page]).add(offset).cast::<u32>().write_volatile(value) };
    }

    fn base(&self, (at, size, kind): (usize, u32, u32)) -> u64 {
        let low = u32::from_le_bytes(self.config[at..at + 4].try_into().expect("four bytes"));
        let high =
            if kind == 4 { u32::from_le_bytes(self.config[at + 4..at + 8].try_into().expect("four bytes")) } else { 0 };
        u64::from(low & !(size - 1)) | u64::from(high) << 32
    }

    fn register(&self, port: u16) -> Option<u16> {
        let register = port.checked_sub(self.base(PORTS) as u16)?;
        (self.config[4] & DECODE_PORTS != 0 && u32::from(register) < PORTS.1).then_some(register)
    }

    fn set_config(&mut self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            match at {
                4 => self.config[at] = byte & 0b111,
                5 => self.config[at] = byte & 0b100,
                0x10..0x20 | 0x3c => self.config[at] = *byte,
                0x43 => self.config[at] = byte & 0xc0,
                _ => {}
            }
        }
        for (at, size, kind) in [PORTS, MEMORY, TABLE] {
            let value = u32::from_le_bytes(self.config[at..at + 4].try_into().expect("four bytes"));
            self.config[at..at + 4].copy_from_slice(&(value & !(size - 1) | kind).to_le_bytes());
        }
        self.show();
        self.send();
    }

    /// Has the guest see the pages where the base addresses say, or not at all.
    fn show(&mut self) {
        let page = |range: u64| range / PAGE_SIZE as u64;
        let (memory, table) = (page(self.base(MEMORY)), page(self.base(TABLE)));
        let wanted = (self.config[4] & DECODE_MEMORY != 0).then_some([memory, table, table + 1]);
        if wanted == self.shown {
            return;
        }
        for gfn in self.shown.into_iter().flatten() {
            ProcessMachine.set_p2m(gfn, None);
        }
        for (gfn, mfn) in wanted.into_iter().flatten().zip(self.frames) {
            ProcessMachine.set_p2m(gfn, Some(mfn));
        }
        self.shown = wanted;
    }

    fn control(&self) -> u16 {
        u16::from_le_bytes([self.config[MSIX + 2], self.config[MSIX + 3]])
    }

    fn set_line(&mut self, up: bool) {
        // Interrupt Status.
        self.config[6] = 0x10 | u8::from(up) << 3;
        // Interrupt Disable.
        processor::set_line(line(), up && self.config[5] & 4 == 0);
    }

    fn interrupt(&mut self, message: usize) {
        if self.control() & MSIX_ENABLE == 0 {
            self.set_line(true);
        } else if message < MESSAGES {
            self.set_long(2, 0, self.long(2, 0) | 1 << message);
            self.send();
        }
    }

    /// Sends the pending messages that nothing masks. False: there is none.
    fn send(&mut self) -> bool {
        let pending = self.long(2, 0);
        let mut left = pending;
        if self.control() & (MSIX_ENABLE | MSIX_MASK) == MSIX_ENABLE {
            for message in (0..MESSAGES).filter(|message| pending >> message & 1 != 0) {
                let entry = 16 * message;
                if self.long(1, entry + 12) & 1 != 0 {
                    continue;
                }
                left &= !(1 << message);
                let (address, data) = (self.long(1, entry), self.long(1, entry + 8));
                // A write to elsewhere is no interrupt. The id of a local APIC is twice the processor's number.
                if address >> 20 == 0xfee && self.long(1, entry + 4) == 0 && address >> 12 & 1 == 0 {
                    processor::make_pending(address >> 13 & 0x7f, data as u8);
                }
            }
            self.set_long(2, 0, left);
        }
        WAITS.store(left != 0, Relaxed);
        left != pending
    }
}
