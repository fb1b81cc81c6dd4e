//! What the device model emulates beside the platform device: IDE drives, a network card, and a card that is passed through
//! from the host. As far as software can look for them: PCI configuration space and the ATA ports.
//!
//! QEMU takes drives and emulated cards away when the guest unplugs them; the IDE controller itself, CD-ROM drives and
//! passed-through cards stay (QEMU's `hw/i386/xen/xen_platform.c`).

use crate::platform::Unplugged;

/// A drive on an IDE channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// A disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
}

/// The unplug protocol of the device model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnplugProtocol {
    /// None at all.
    None,
    /// That version; 0 and 1 are described.
    Version(u8),
    /// Version 1, and these drivers are on the black list.
    Refusing,
}

/// The device model.
#[derive(Clone, Debug)]
pub struct DeviceModel {
    /// The protocol by which devices are unplugged.
    pub unplug: UnplugProtocol,
    /// The drives: primary master and slave, secondary master and slave.
    pub ide: [Option<Drive>; 4],
    /// An emulated network card.
    pub nic: bool,
    /// A network card of the host, passed through.
    pub passed_through: bool,
}

impl Default for DeviceModel {
    fn default() -> Self {
        Self { unplug: UnplugProtocol::Version(1), ide: [None; 4], nic: false, passed_through: false }
    }
}

/// PCI device and function of the IDE controller, the emulated and the passed-through card.
const IDE: (u8, u8) = (1, 1);
const NIC: (u8, u8) = (4, 0);
const PASSED_THROUGH: (u8, u8) = (5, 0);

/// Vendor, device, class and sub-class.
fn identity(at: (u8, u8)) -> [u16; 3] {
    match at {
        IDE => [0x8086, 0x7010, 0x0101],
        NIC => [0x10ec, 0x8139, 0x0200],
        _ => [0x8086, 0x1521, 0x0200],
    }
}

/// A channel's registers, as far as a drive is looked for with them.
#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    /// The drive that is selected: 0 or 1.
    selected: usize,
    /// What the last command left: status, and the two signature bytes.
    answer: [(u8, u8, u8); 2],
    /// 16-bit words of its data that were not read yet.
    data: [u16; 2],
}

/// The devices.
#[derive(Debug)]
pub(crate) struct Emulated {
    config: DeviceModel,
    channels: [Channel; 2],
}

const COMMAND_BASE: [u16; 2] = [0x1f0, 0x170];
const IDENTIFY_DEVICE: u8 = 0xec;
/// Ready, seek complete.
const READY: u8 = 0x50;
const DATA_REQUEST: u8 = 0x08;
const ERROR: u8 = 0x01;
/// Words of IDENTIFY DEVICE's answer.
const IDENTITY_WORDS: u16 = 256;

impl Emulated {
    pub(crate) fn new(config: DeviceModel) -> Self {
        let mut channels = [Channel::default(); 2];
        for channel in &mut channels {
            channel.answer = [(READY, 0, 0); 2];
        }
        Self { config, channels }
    }

    /// The PCI functions that answer, as device and function.
    pub(crate) fn functions(&self, gone: Unplugged) -> Vec<(u8, u8)> {
        let mut functions = Vec::new();
        functions.extend(self.config.ide.iter().any(Option::is_some).then_some(IDE));
        functions.extend((self.config.nic && !gone.nics).then_some(NIC));
        functions.extend(self.config.passed_through.then_some(PASSED_THROUGH));
        functions
    }

    /// Reads the configuration space of a function that answers.
    pub(crate) fn config_read(at: (u8, u8), offset: usize, buf: &mut [u8]) {
        let [vendor, device, class] = identity(at);
        let mut space = [0_u8; 256];
        space[..2].copy_from_slice(&vendor.to_le_bytes());
        space[2..4].copy_from_slice(&device.to_le_bytes());
        space[0xa..0xc].copy_from_slice(&class.to_le_bytes());
        if at.1 != 0 {
            space[0xe] = 0x80;
        }
        for (place, byte) in buf.iter_mut().enumerate() {
            *byte = space.get(offset + place).copied().unwrap_or(0xff);
        }
    }

    fn drive(&self, channel: usize, unit: usize, gone: Unplugged) -> Option<Drive> {
        let place = 2 * channel + unit;
        self.config.ide[place].filter(|drive| {
            let unplugged = gone.ide_disks || (gone.aux_ide_disks && place != 0);
            *drive == Drive::Cdrom || !unplugged
        })
    }

    fn register(port: u16) -> Option<(usize, u16)> {
        (0..2).find_map(|channel| {
            let register = port.checked_sub(COMMAND_BASE[channel])?;
            (register < 8).then_some((channel, register))
        })
    }

    /// Reads a port. `None`: not one of these.
    pub(crate) fn port_in(&mut self, port: u16, width: u8, gone: Unplugged) -> Option<u32> {
        let (channel, register) = Self::register(port)?;
        if self.drive(channel, self.channels[channel].selected, gone).is_none() {
            return Some(0);
        }
        let registers = &mut self.channels[channel];
        let unit = registers.selected;
        if (register, width) == (0, 2) && registers.data[unit] != 0 {
            registers.data[unit] -= 1;
            if registers.data[unit] == 0 {
                registers.answer[unit].0 &= !DATA_REQUEST;
            }
        }
        let (status, middle, high) = registers.answer[registers.selected];
        Some(match (register, width) {
            (4, 1) => middle.into(),
            (5, 1) => high.into(),
            (6, 1) => 0xa0 | (registers.selected as u32) << 4,
            (7, 1) => status.into(),
            _ => 0,
        })
    }

    /// Writes a port. `false`: not one of these.
    pub(crate) fn port_out(&mut self, port: u16, width: u8, value: u32, gone: Unplugged) -> bool {
        let Some((channel, register)) = Self::register(port) else { return false };
        let unit = self.channels[channel].selected;
        let waits = self.channels[channel].answer[unit].0 & DATA_REQUEST != 0;
        if waits && self.drive(channel, unit, gone).is_some() {
            // QEMU ignores writes to the registers, and commands, until the data is read (`hw/ide/core.c`): the other drive
            // cannot be selected either.
            return true;
        }
        match (register, width) {
            (6, 1) => self.channels[channel].selected = (value >> 4 & 1) as usize,
            (7, 1) if value as u8 == IDENTIFY_DEVICE => {
                let answer = match self.drive(channel, unit, gone) {
                    Some(Drive::Disk) => (READY | DATA_REQUEST, 0, 0),
                    // The command is aborted; the signature tells a packet device.
                    Some(Drive::Cdrom) => (READY | ERROR, 0x14, 0xeb),
                    None => (0, 0, 0),
                };
                self.channels[channel].answer[unit] = answer;
                self.channels[channel].data[unit] = if answer.0 & DATA_REQUEST == 0 { 0 } else { IDENTITY_WORDS };
            }
            _ => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a scan by IDENTIFY DEVICE finds.
    fn scan(emulated: &mut Emulated, gone: Unplugged) -> [Option<Drive>; 4] {
        std::array::from_fn(|place| {
            let base = COMMAND_BASE[place / 2];
            emulated.port_out(base + 6, 1, 0xa0 | (place as u32 % 2) << 4, gone);
            emulated.port_out(base + 7, 1, IDENTIFY_DEVICE.into(), gone);
            let status = emulated.port_in(base + 7, 1, gone)?;
            if status == 0 {
                return None;
            }
            if emulated.port_in(base + 5, 1, gone) == Some(0xeb) {
                return Some(Drive::Cdrom);
            }
            for _ in 0..IDENTITY_WORDS {
                emulated.port_in(base, 2, gone);
            }
            Some(Drive::Disk)
        })
    }

    #[test]
    fn a_drive_with_data_to_be_read_stays_selected() {
        let config = DeviceModel { ide: [Some(Drive::Disk), None, None, None], ..DeviceModel::default() };
        let mut emulated = Emulated::new(config);
        let none = Unplugged::default();
        let (base, status) = (COMMAND_BASE[0], COMMAND_BASE[0] + 7);
        emulated.port_out(status, 1, IDENTIFY_DEVICE.into(), none);
        let select_other = |emulated: &mut Emulated| emulated.port_out(base + 6, 1, 0xb0, none);
        select_other(&mut emulated);
        assert_eq!(emulated.port_in(status, 1, none), Some((READY | DATA_REQUEST).into()));
        for _ in 0..IDENTITY_WORDS {
            emulated.port_in(base, 2, none);
        }
        assert_eq!(emulated.port_in(status, 1, none), Some(READY.into()));
        select_other(&mut emulated);
        assert_eq!(emulated.port_in(status, 1, none), Some(0));
    }

    #[test]
    fn unplugged_drives_and_cards_are_gone_and_the_rest_stays() {
        let ide = [Some(Drive::Disk), Some(Drive::Disk), Some(Drive::Cdrom), None];
        let config = DeviceModel { ide, nic: true, passed_through: true, ..DeviceModel::default() };
        let mut emulated = Emulated::new(config);
        let none = Unplugged::default();
        assert_eq!(scan(&mut emulated, none), ide);
        assert_eq!(emulated.functions(none), [IDE, NIC, PASSED_THROUGH]);
        let aux = Unplugged { aux_ide_disks: true, ..none };
        assert_eq!(scan(&mut emulated, aux), [Some(Drive::Disk), None, Some(Drive::Cdrom), None]);
        let all = Unplugged { ide_disks: true, nics: true, nvme: true, ..none };
        assert_eq!(scan(&mut emulated, all), [None, None, Some(Drive::Cdrom), None]);
        assert_eq!(emulated.functions(all), [IDE, PASSED_THROUGH]);
    }
}
