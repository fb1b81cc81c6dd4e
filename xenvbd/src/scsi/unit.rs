//! What the logical unit is: size, block size, abilities, serial number, and what it has to tell its initiator.

use core::sync::atomic::{AtomicU32, Ordering};

use super::Sense;

/// Bytes of a ring sector. Blkif counts in these, whatever the disk's block size is.
pub const SECTOR: u32 = 512;

/// The longest serial number.
pub const SERIAL_MAX: usize = 48;

/// A serial number: printable ASCII, empty where the disk has none that is certainly unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial {
    bytes: [u8; SERIAL_MAX],
    len: u8,
}

impl Serial {
    /// No serial number.
    pub const NONE: Self = Self { bytes: [0; SERIAL_MAX], len: 0 };

    /// The serial number of the disk with that virtual device number in the domain with that UUID (as the store
    /// writes it): it does not change with host, domain id or reboot, and no other disk has it.
    pub fn new(uuid: &[u8], device: u32) -> Self {
        let mut serial = Self::NONE;
        for byte in uuid {
            if byte.is_ascii_hexdigit() {
                serial.push(byte.to_ascii_lowercase());
            }
        }
        if usize::from(serial.len) != 32 {
            return Self::NONE;
        }
        serial.push(b'-');
        let mut digits = [0_u8; 10];
        let mut rest = device;
        let mut count = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        for digit in digits.iter().skip(digits.len() - count) {
            serial.push(*digit);
        }
        serial
    }

    /// The characters.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// A 60-bit digest of it, for the locally assigned name of VPD page 83 (FNV-1a).
    pub fn digest(&self) -> u64 {
        let hash = self.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        hash & 0x0fff_ffff_ffff_ffff
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(usize::from(self.len)) {
            *slot = byte;
            self.len += 1;
        }
    }
}

/// What the backend's discard can do, in ring sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Unit of deallocation.
    pub granularity: u32,
    /// Offset of the first such unit.
    pub alignment: u32,
}

/// The logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties of a disk")]
pub struct Unit {
    /// Size in ring sectors of 512 bytes; a whole number of blocks.
    pub sectors: u64,
    /// Bytes of a logical block: 512 to 4096 (2048 for a CD-ROM).
    pub block: u32,
    /// Log2 of logical blocks in a physical one.
    pub physical_exponent: u8,
    /// Writes are refused.
    pub read_only: bool,
    /// The medium can be taken out.
    pub removable: bool,
    /// A CD-ROM.
    pub cdrom: bool,
    /// There is a write cache, and a way to flush it.
    pub cache: bool,
    /// UNMAP.
    pub discard: Option<Discard>,
    /// Serial number.
    pub serial: Serial,
    /// Most bytes of one transfer.
    pub max_transfer: u32,
}

impl Unit {
    /// Size in logical blocks.
    pub const fn blocks(&self) -> u64 {
        self.sectors / self.sectors_per_block() as u64
    }

    /// Ring sectors in a logical block.
    pub const fn sectors_per_block(&self) -> u32 {
        self.block / SECTOR
    }
}

/// What the unit has to tell with UNIT ATTENTION, once each.
#[derive(Debug, Default)]
pub struct Attention(AtomicU32);

const ATTENTIONS: [Sense; 4] = [Sense::RESET, Sense::MEDIUM_CHANGED, Sense::CAPACITY_CHANGED, Sense::MODE_CHANGED];

impl Attention {
    /// Nothing to tell.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Has `sense` told with the next command. Senses that are not unit attentions are ignored. Any IRQL.
    pub fn raise(&self, sense: Sense) {
        if let Some(bit) = ATTENTIONS.iter().position(|known| *known == sense) {
            self.0.fetch_or(1 << bit, Ordering::Relaxed);
        }
    }

    /// Takes the most important one. Any IRQL.
    pub fn take(&self) -> Option<Sense> {
        // The usual case costs one load.
        let pending = self.0.load(Ordering::Relaxed);
        if pending == 0 {
            return None;
        }
        let bit = pending.trailing_zeros();
        let before = self.0.fetch_and(!(1 << bit), Ordering::Relaxed);
        if before & (1 << bit) == 0 { None } else { ATTENTIONS.get(bit as usize).copied() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_stable_and_different() {
        let uuid = b"7d444840-9dc0-11d1-b245-5ffdce74fad2";
        let a = Serial::new(uuid, 51712);
        assert_eq!(a.as_bytes(), b"7d4448409dc011d1b2455ffdce74fad2-51712");
        assert_eq!(Serial::new(b"7D444840-9DC0-11D1-B245-5FFDCE74FAD2", 51712), a);
        assert_ne!(Serial::new(uuid, 51728).digest(), a.digest());
        assert_eq!(Serial::new(uuid, 0).as_bytes().last(), Some(&b'0'));
        assert_eq!(Serial::new(b"short", 1), Serial::NONE);
    }

    #[test]
    fn attentions_are_told_once() {
        let attention = Attention::new();
        assert_eq!(attention.take(), None);
        attention.raise(Sense::CAPACITY_CHANGED);
        attention.raise(Sense::RESET);
        attention.raise(Sense::WRITE_PROTECTED);
        assert_eq!(attention.take(), Some(Sense::RESET));
        assert_eq!(attention.take(), Some(Sense::CAPACITY_CHANGED));
        assert_eq!(attention.take(), None);
    }
}
