//! The device model's devices: what a case wants of them, and how a guest looks for them, by PCI configuration space and
//! the ATA ports. The scan is the guest's own: it works on a real device model too.

use alloc::vec::Vec;

use nt::platform::{PciAddress, platform};

/// A drive on an IDE channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// A disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
}

/// The unplug protocol that the device model speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// None: it is too old.
    None,
    /// That version.
    Version(u8),
    /// Version 1, and the drivers are on its black list.
    Refusing,
}

/// What the device model emulates.
#[derive(Clone, Debug)]
pub struct DeviceModel {
    /// How devices are unplugged.
    pub protocol: Protocol,
    /// Primary master and slave, secondary master and slave.
    pub drives: [Option<Drive>; 4],
    /// A network card.
    pub nic: bool,
    /// A network card of the host's, passed through.
    pub passed_through: bool,
}

impl Default for DeviceModel {
    fn default() -> Self {
        Self { protocol: Protocol::Version(1), drives: [None; 4], nic: false, passed_through: false }
    }
}

impl DeviceModel {
    /// A machine as `xl` makes it: a disk, a CD-ROM drive, a card; and one that is passed through.
    pub fn usual() -> Self {
        Self {
            drives: [Some(Drive::Disk), None, Some(Drive::Cdrom), None],
            nic: true,
            passed_through: true,
            ..Self::default()
        }
    }
}

const COMMAND_BASE: [u16; 2] = [0x1f0, 0x170];
const IDENTIFY_DEVICE: u32 = 0xec;
/// 16-bit words of the answer.
const SECTOR_WORDS: usize = 256;

/// The drives that answer IDENTIFY DEVICE: primary master and slave, secondary master and slave (ATA/ATAPI-7, 6.16).
pub fn drives() -> [Option<Drive>; 4] {
    let ports = platform();
    core::array::from_fn(|place| {
        let base = COMMAND_BASE[place / 2];
        ports.port_write(base + 6, 1, 0xa0 | (place as u32 & 1) << 4);
        // The drive has 400 ns to set its status: four reads of it take that long.
        let settled = |_| ports.port_read(base + 7, 1);
        if (0..4).map(settled).last().is_none_or(|status| status == 0 || status == 0xff) {
            return None;
        }
        ports.port_write(base + 7, 1, IDENTIFY_DEVICE);
        let status = (0..4).map(settled).last()?;
        let signature = (ports.port_read(base + 4, 1), ports.port_read(base + 5, 1));
        match signature {
            (0x14, 0xeb) => Some(Drive::Cdrom),
            _ if status == 0 => None,
            _ => {
                // Until its answer is read the drive takes no other register write, and the other drive cannot be chosen.
                for _ in 0..SECTOR_WORDS {
                    ports.port_read(base, 2);
                }
                Some(Drive::Disk)
            }
        }
    })
}

/// Vendor and device of the network cards on the PCI bus.
pub fn nics() -> Vec<(u16, u16)> {
    let read = |at: PciAddress, offset| {
        let mut bytes = [0; 2];
        platform().pci_read(at, offset, &mut bytes);
        u16::from_le_bytes(bytes)
    };
    let functions = platform().pci_functions();
    functions.into_iter().filter(|at| read(*at, 0xa) == 0x0200).map(|at| (read(at, 0), read(at, 2))).collect()
}
