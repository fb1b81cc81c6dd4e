//! Where things are in the guest: RAM, special pages, the platform device, interrupt lines.

use crate::machine::Gfn;

/// The xenstore ring page (libxc's special page 4 below 0xff000).
pub const STORE_GFN: Gfn = 0xfeffc;
/// The console ring page (special page 7).
pub const CONSOLE_GFN: Gfn = 0xfefff;
/// The last guest frame that a page can be put at: 46 bits of address.
pub const LAST_GFN: Gfn = (1 << 34) - 1;
/// First byte of the hole below 4 GiB that holds devices.
pub const MMIO_HOLE: u64 = 0xf000_0000;
/// The platform device's number on PCI bus 0, as QEMU's xenfv machine places it.
pub const PLATFORM_DEVICE: u8 = 2;

/// What a range of guest-physical addresses is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum E820Kind {
    /// Usable RAM (type 1).
    Ram,
    /// Reserved (type 2).
    Reserved,
}

/// One range of the firmware's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: E820Kind,
}

/// The memory map of an HVM guest with `ram` bytes, as hvmloader makes it: RAM that does not fit below
/// [`MMIO_HOLE`] continues at 4 GiB.
pub fn e820(ram: u64) -> Vec<E820Entry> {
    const LOW_END: u64 = 0x9_fc00;
    const HIGH: u64 = 0x10_0000;
    let below = ram.min(MMIO_HOLE);
    let mut map = vec![
        E820Entry { start: 0, size: LOW_END, kind: E820Kind::Ram },
        E820Entry { start: LOW_END, size: 0xa_0000 - LOW_END, kind: E820Kind::Reserved },
        E820Entry { start: 0xf_0000, size: HIGH - 0xf_0000, kind: E820Kind::Reserved },
        E820Entry { start: HIGH, size: below.saturating_sub(HIGH), kind: E820Kind::Ram },
        E820Entry { start: 0xfc00_0000, size: 0x1_0000_0000 - 0xfc00_0000, kind: E820Kind::Reserved },
    ];
    if ram > below {
        map.push(E820Entry { start: 0x1_0000_0000, size: ram - below, kind: E820Kind::Ram });
    }
    map
}

/// The IOAPIC input of a PCI device's interrupt pin (0 = INTA), as Xen's virtual chip set wires it.
pub fn pci_intx_gsi(device: u8, pin: u8) -> u32 {
    let device = u32::from(device);
    (((device << 2) + (device >> 3) + u32::from(pin)) & 31) + 16
}
