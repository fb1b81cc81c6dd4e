//! The Xen platform device (PCI 5853:0001): configuration space, and the I/O ports by which drivers unplug the emulated
//! devices and write log lines.

use crate::emulated::UnplugProtocol;

/// What the guest unplugged.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unplugged {
    /// The emulated IDE disks (CD-ROM drives stay).
    pub ide_disks: bool,
    /// The emulated network cards.
    pub nics: bool,
    /// IDE disks other than the first.
    pub aux_ide_disks: bool,
    /// NVMe disks.
    pub nvme: bool,
}

/// Bytes of the I/O BAR.
const IO_BAR_SIZE: u32 = 0x100;
/// Bytes of the memory BAR.
const MEMORY_BAR_SIZE: u32 = 0x100_0000;
const FIXED_PORTS: u16 = 0x10;
const UNPLUG_MAGIC: u16 = 0x49d2;
/// What stands in the magic's place for a driver on the black list.
const REFUSED_MAGIC: u16 = 0xd249;
const LOG_PORT: u16 = 0xe9;
const LOG_LINE_MAX: usize = 1024;

/// The device.
#[derive(Debug)]
pub struct PlatformDevice {
    config: [u8; 256],
    protocol: UnplugProtocol,
    unplugged: Unplugged,
    product: Option<u16>,
    build: Option<u32>,
    /// Unfinished lines of the two log ports.
    partial: [Vec<u8>; 2],
    lines: Vec<String>,
}

impl PlatformDevice {
    pub(crate) fn new(device_id: u16, interrupt_line: u8, protocol: UnplugProtocol) -> Self {
        let mut config = [0; 256];
        config[..2].copy_from_slice(&0x5853u16.to_le_bytes());
        config[2..4].copy_from_slice(&device_id.to_le_bytes());
        config[4] = 0b11; // I/O and memory decode on, as firmware leaves it
        config[8] = 1; // revision
        config[0xa] = 0x80; // sub-class, class: unassigned
        config[0xb] = 0xff;
        config[0x10..0x14].copy_from_slice(&(0xc000u32 | 1).to_le_bytes());
        config[0x14..0x18].copy_from_slice(&(0xf200_0000u32 | 8).to_le_bytes());
        config[0x2c..0x2e].copy_from_slice(&0x5853u16.to_le_bytes());
        config[0x2e..0x30].copy_from_slice(&1u16.to_le_bytes());
        config[0x3c] = interrupt_line;
        config[0x3d] = 1; // INTA
        Self {
            config,
            protocol,
            unplugged: Unplugged::default(),
            product: None,
            build: None,
            partial: [Vec::new(), Vec::new()],
            lines: Vec::new(),
        }
    }

    /// Reads configuration space; bytes beyond its end read as ones.
    pub fn config_read(&self, offset: usize, buf: &mut [u8]) {
        for (i, byte) in buf.iter_mut().enumerate() {
            *byte = self.config.get(offset + i).copied().unwrap_or(0xff);
        }
    }

    /// Writes configuration space. Only the command register, the BARs and the interrupt line can be written.
    pub fn config_write(&mut self, offset: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let at = offset + i;
            match at {
                4 => self.config[at] = byte & 0b111,
                5 => self.config[at] = byte & 0b100,
                0x10..0x18 | 0x3c => self.config[at] = *byte,
                _ => {}
            }
        }
        self.fix_bar(0x10, IO_BAR_SIZE, 1);
        self.fix_bar(0x14, MEMORY_BAR_SIZE, 8);
    }

    /// Address bits below a BAR's size read as zero, its kind bits as they are.
    fn fix_bar(&mut self, at: usize, size: u32, kind: u32) {
        let value = u32::from_le_bytes(self.config[at..at + 4].try_into().expect("four bytes"));
        self.config[at..at + 4].copy_from_slice(&(value & !(size - 1) | kind).to_le_bytes());
    }

    /// Base and size of the I/O BAR.
    pub fn io_bar(&self) -> (u16, u32) {
        (u16::from_le_bytes([self.config[0x10] & 0xfc, self.config[0x11]]), IO_BAR_SIZE)
    }

    /// Base and size of the memory BAR.
    pub fn memory_bar(&self) -> (u64, u32) {
        let value = u32::from_le_bytes(self.config[0x14..0x18].try_into().expect("four bytes"));
        (u64::from(value & !0xf), MEMORY_BAR_SIZE)
    }

    /// The device model starts anew, as after a restore: what was unplugged is there again.
    pub(crate) fn replug(&mut self) {
        self.unplugged = Unplugged::default();
        (self.product, self.build) = (None, None);
    }

    fn register(&self, port: u16) -> Option<u16> {
        let (base, size) = self.io_bar();
        match port {
            FIXED_PORTS..=0x1f => Some(port - FIXED_PORTS),
            _ => port.checked_sub(base).filter(|at| self.config[4] & 1 != 0 && u32::from(*at) < size.min(16)),
        }
    }

    /// Reads a port of `width` bytes. `None`: not a port of this device.
    pub fn port_in(&self, port: u16, width: u8) -> Option<u32> {
        if port == LOG_PORT {
            return Some(0xe9);
        }
        let register = self.register(port)?;
        let version = match self.protocol {
            UnplugProtocol::None => 0xff,
            UnplugProtocol::Version(version) => version,
            UnplugProtocol::Refusing => 1,
        };
        Some(match (register, width) {
            (0, 2) if self.protocol == UnplugProtocol::None => 0xffff,
            (0, 2) if self.refuses() => u32::from(REFUSED_MAGIC),
            (0, 2) => u32::from(UNPLUG_MAGIC),
            (0, 1) => 0,
            (2, 1) => u32::from(version),
            (_, 1) => 0xff,
            (_, 2) => 0xffff,
            _ => u32::MAX,
        })
    }

    /// Writes a port of `width` bytes. `false`: not a port of this device.
    pub fn port_out(&mut self, port: u16, width: u8, value: u32) -> bool {
        if port == LOG_PORT {
            self.log(0, value as u8);
            return true;
        }
        let Some(register) = self.register(port) else { return false };
        match (register, width) {
            // A driver that was refused and goes on all the same gets nothing.
            (0, 2) if self.protocol != UnplugProtocol::None && !self.refuses() => {
                self.unplugged.ide_disks |= value & 1 != 0;
                self.unplugged.nics |= value & 2 != 0;
                self.unplugged.aux_ide_disks |= value & 4 != 0;
                self.unplugged.nvme |= value & 8 != 0;
            }
            (0, 4) => self.build = Some(value),
            (2, 2) => self.product = Some(value as u16),
            (2, 1) => self.log(1, value as u8),
            _ => {}
        }
        true
    }

    /// Whether a driver introduced itself that is on the black list.
    fn refuses(&self) -> bool {
        self.protocol == UnplugProtocol::Refusing && self.build.is_some()
    }

    fn log(&mut self, which: usize, byte: u8) {
        let line = &mut self.partial[which];
        if byte != b'\n' {
            if byte != b'\r' && byte != 0 {
                line.push(byte);
            }
            if line.len() < LOG_LINE_MAX {
                return;
            }
        }
        let line = std::mem::take(line);
        self.lines.push(String::from_utf8_lossy(&line).into_owned());
    }

    /// The lines written to ports 0xE9 and 0x12 so far.
    pub fn log_lines(&self) -> &[String] {
        &self.lines
    }

    /// What is unplugged. After a restore nothing is, until the guest does it again.
    pub fn unplugged(&self) -> Unplugged {
        self.unplugged
    }

    /// Product and build number that the drivers named.
    pub fn driver_identity(&self) -> (Option<u16>, Option<u32>) {
        (self.product, self.build)
    }
}
