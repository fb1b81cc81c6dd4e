//! INQUIRY and its vital product data pages (SPC-4 6.6 and 7.8, SBC-3 6.6).

use super::unit::{SECTOR, Unit};

/// The longest answer.
pub const MAX: usize = 128;
const VENDOR: &[u8; 8] = b"XEN     ";
const PRODUCT_DISK: &[u8; 16] = b"PV DISK         ";
const PRODUCT_CDROM: &[u8; 16] = b"PV CD-ROM       ";
const REVISION: &[u8; 4] = b"0001";
/// Most descriptors in one UNMAP list.
pub const UNMAP_DESCRIPTORS: u32 = 256;

/// An answer under construction.
pub struct Answer {
    bytes: [u8; MAX],
    len: usize,
}

impl Answer {
    /// `len` zero bytes.
    pub const fn zeroed(len: usize) -> Self {
        Self { bytes: [0; MAX], len: if len < MAX { len } else { MAX } }
    }

    /// What was built.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// Writes at a place. What does not fit is dropped, which the constant offsets of the callers rule out.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Writes behind what is there.
    pub fn push(&mut self, bytes: &[u8]) {
        let at = self.len;
        if at + bytes.len() <= MAX {
            self.put(at, bytes);
            self.len += bytes.len();
        }
    }
}

const fn peripheral(unit: &Unit) -> u8 {
    if unit.cdrom { 0x05 } else { 0x00 }
}

/// Standard INQUIRY data.
pub fn standard(unit: &Unit) -> Answer {
    let mut answer = Answer::zeroed(36);
    answer.put(
        0,
        &[
            peripheral(unit),
            if unit.removable { 0x80 } else { 0 },
            // SPC-4, response data format 2.
            0x06,
            0x02,
            36 - 5,
            0,
            0,
            // CMDQUE.
            0x02,
        ],
    );
    answer.put(8, VENDOR);
    answer.put(16, if unit.cdrom { PRODUCT_CDROM } else { PRODUCT_DISK });
    answer.put(32, REVISION);
    answer
}

/// A vital product data page; None if the unit does not have it.
pub fn vital(unit: &Unit, page: u8) -> Option<Answer> {
    let mut answer = Answer::zeroed(4);
    match page {
        0x00 => {
            answer.push(&[0x00]);
            if !unit.serial.as_bytes().is_empty() {
                answer.push(&[0x80]);
            }
            answer.push(&[0x83]);
            if !unit.cdrom {
                answer.push(&[0xB0, 0xB1, 0xB2]);
            }
        }
        0x80 if !unit.serial.as_bytes().is_empty() => answer.push(unit.serial.as_bytes()),
        0x83 => identification(unit, &mut answer),
        0xB0 if !unit.cdrom => limits(unit, &mut answer),
        0xB1 if !unit.cdrom => {
            answer = Answer::zeroed(64);
            // Backing that takes discards is told as non-rotating; else the rate is not reported.
            answer.put(4, &u16::from(unit.discard.is_some()).to_be_bytes());
        }
        0xB2 if !unit.cdrom => {
            // LBPU, and thin provisioning, where UNMAP works. What is read from an unmapped block is not promised.
            let (lbpu, provisioning) = if unit.discard.is_some() { (0x80, 0x02) } else { (0, 0) };
            answer.push(&[0, lbpu, provisioning, 0]);
        }
        _ => return None,
    }
    let length = (answer.len - 4) as u16;
    answer.put(0, &[peripheral(unit), page]);
    answer.put(2, &length.to_be_bytes());
    Some(answer)
}

fn identification(unit: &Unit, answer: &mut Answer) {
    let serial = unit.serial.as_bytes();
    // T10 vendor identification, ASCII.
    answer.push(&[0x02, 0x01, 0x00, (VENDOR.len() + serial.len()) as u8]);
    answer.push(VENDOR);
    answer.push(serial);
    if !serial.is_empty() {
        // NAA 3, locally assigned, binary.
        answer.push(&[0x01, 0x03, 0x00, 8]);
        answer.push(&((3 << 60) | unit.serial.digest()).to_be_bytes());
    }
}

fn limits(unit: &Unit, answer: &mut Answer) {
    *answer = Answer::zeroed(64);
    let blocks = |bytes: u32| bytes / unit.block;
    let granularity = 1_u16 << unit.physical_exponent.min(15);
    answer.put(6, &granularity.to_be_bytes());
    answer.put(8, &blocks(unit.max_transfer).to_be_bytes());
    answer.put(12, &blocks(unit.max_transfer).to_be_bytes());
    if let Some(discard) = unit.discard {
        let per_block = unit.sectors_per_block();
        // Any length may be unmapped at once.
        answer.put(20, &u32::MAX.to_be_bytes());
        answer.put(24, &UNMAP_DESCRIPTORS.to_be_bytes());
        answer.put(28, &(discard.granularity / per_block).max(1).to_be_bytes());
        if discard.alignment % per_block == 0 {
            answer.put(32, &((1 << 31) | (discard.alignment / per_block)).to_be_bytes());
        }
    }
}

/// READ CAPACITY(10).
pub fn capacity10(unit: &Unit) -> Answer {
    let mut answer = Answer::zeroed(8);
    let last = u32::try_from(unit.blocks().saturating_sub(1)).unwrap_or(u32::MAX);
    answer.put(0, &last.to_be_bytes());
    answer.put(4, &unit.block.to_be_bytes());
    answer
}

/// READ CAPACITY(16).
pub fn capacity16(unit: &Unit) -> Answer {
    let mut answer = Answer::zeroed(32);
    answer.put(0, &unit.blocks().saturating_sub(1).to_be_bytes());
    answer.put(8, &unit.block.to_be_bytes());
    // LBPME where UNMAP works.
    answer.put(13, &[unit.physical_exponent & 0x0f, if unit.discard.is_some() { 0x80 } else { 0 }]);
    answer
}

/// READ TOC of a disc with one data track (MMC-5 6.26, formats 0 and 1).
pub fn toc(unit: &Unit, format: u8, msf: bool) -> Option<Answer> {
    let address = |block: u64| -> [u8; 4] {
        if msf {
            let frames = block.saturating_add(150);
            let part = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
            [0, part(frames / (75 * 60)), part(frames / 75 % 60), part(frames % 75)]
        } else {
            u32::try_from(block).unwrap_or(u32::MAX).to_be_bytes()
        }
    };
    let mut answer = Answer::zeroed(4);
    match format {
        0 => {
            answer.push(&[0, 0x14, 1, 0]);
            answer.push(&address(0));
            answer.push(&[0, 0x14, 0xAA, 0]);
            answer.push(&address(unit.sectors * u64::from(SECTOR) / 2048));
        }
        1 => {
            answer.push(&[0, 0x14, 1, 0]);
            answer.push(&address(0));
        }
        _ => return None,
    }
    let length = (answer.len - 2) as u16;
    answer.put(0, &length.to_be_bytes());
    answer.put(2, &[1, 1]);
    Some(answer)
}
