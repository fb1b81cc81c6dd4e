//! What a disk must hold: a stamp for every 512-byte unit, and the bytes that belong to it.
//!
//! A unit's bytes name the disk, the unit and the stamp, so a failure says what stands where it should not: old data,
//! another unit's data, another disk's data, or bytes that nobody wrote.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of the smallest piece that is told apart.
pub const UNIT: usize = 512;

/// The stamp of a unit whose content is not known: a write to it failed.
const UNKNOWN: u32 = u32::MAX;

const MAGIC: u32 = 0x4b53_4458;

/// The expected content of one disk. Stamp 0 is a unit of zeros: never written, or discarded.
pub struct Oracle {
    disk: u32,
    stamps: Vec<u32>,
    next: u32,
}

impl Oracle {
    /// A disk of `units` units that holds zeros. `disk` tells it from others.
    pub fn new(disk: u32, units: usize) -> Self {
        Self { disk, stamps: vec![0; units], next: 1 }
    }

    /// Number of units.
    pub fn units(&self) -> usize {
        self.stamps.len()
    }

    /// The disk grew or shrank; new units hold zeros.
    pub fn resize(&mut self, units: usize) {
        self.stamps.resize(units, 0);
    }

    /// A stamp that was not used before.
    pub fn fresh_stamp(&mut self) -> u32 {
        let stamp = self.next;
        self.next += 1;
        stamp
    }

    /// Fills `buf` with what units `first..` hold once they were written with `stamp`.
    pub fn fill(&self, first: usize, stamp: u32, buf: &mut [u8]) {
        for (n, unit) in buf.chunks_exact_mut(UNIT).enumerate() {
            fill_unit(self.disk, (first + n) as u32, stamp, unit);
        }
    }

    /// A write of `count` units with `stamp` was reported done.
    pub fn wrote(&mut self, first: usize, count: usize, stamp: u32) {
        self.stamps[first..first + count].fill(stamp);
    }

    /// What the units hold is not known any more; they are not checked until they are written again.
    pub fn forget(&mut self, first: usize, count: usize) {
        self.stamps[first..first + count].fill(UNKNOWN);
    }

    /// Checks what was read from unit `first` on.
    ///
    /// # Errors
    /// The first unit that is wrong, and what stands in it.
    pub fn check(&self, first: usize, buf: &[u8]) -> Result<(), String> {
        let mut want = [0; UNIT];
        for (n, unit) in buf.chunks_exact(UNIT).enumerate() {
            let number = first + n;
            if self.stamps[number] == UNKNOWN {
                continue;
            }
            fill_unit(self.disk, number as u32, self.stamps[number], &mut want);
            if unit != want {
                return Err(format!(
                    "disk {} unit {number}: expected stamp {}, found {}",
                    self.disk,
                    self.stamps[number],
                    self.describe(number, unit)
                ));
            }
        }
        Ok(())
    }

    /// Whether `unit` is what unit `number` holds once written with `stamp`.
    pub fn is(&self, number: usize, stamp: u32, unit: &[u8]) -> bool {
        let mut want = [0; UNIT];
        fill_unit(self.disk, number as u32, stamp, &mut want);
        unit == want
    }

    fn describe(&self, number: usize, unit: &[u8]) -> String {
        if unit.iter().all(|&byte| byte == 0) {
            return "zeros".into();
        }
        let word = |n: usize| u32::from_le_bytes([unit[4 * n], unit[4 * n + 1], unit[4 * n + 2], unit[4 * n + 3]]);
        if word(0) != MAGIC {
            return format!("bytes that nobody wrote ({:02x?} ...)", &unit[..16]);
        }
        let (disk, at, stamp) = (word(1), word(2), word(3));
        let mut want = [0; UNIT];
        fill_unit(disk, at, stamp, &mut want);
        let whole = if unit == want { "" } else { ", torn" };
        if disk != self.disk {
            format!("disk {disk} unit {at} stamp {stamp}{whole}")
        } else if at as usize != number {
            format!("unit {at} stamp {stamp}{whole}")
        } else {
            format!("stamp {stamp}{whole}")
        }
    }
}

fn fill_unit(disk: u32, number: u32, stamp: u32, unit: &mut [u8]) {
    if stamp == 0 {
        unit.fill(0);
        return;
    }
    let mut state = u64::from(number) << 32 ^ u64::from(stamp) ^ u64::from(disk) << 17 ^ 0x9e37_79b9_7f4a_7c15;
    for word in unit.chunks_exact_mut(8) {
        // xorshift64*: any mix will do, as long as neighbours differ everywhere.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        word.copy_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    for (n, word) in [MAGIC, disk, number, stamp].into_iter().enumerate() {
        unit[4 * n..4 * n + 4].copy_from_slice(&word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_wrong() {
        let mut oracle = Oracle::new(7, 16);
        let mut buf = vec![0; 2 * UNIT];
        assert_eq!(oracle.check(3, &buf), Ok(()));
        let stamp = oracle.fresh_stamp();
        oracle.fill(3, stamp, &mut buf);
        oracle.wrote(3, 2, stamp);
        assert_eq!(oracle.check(3, &buf), Ok(()));
        let says = |oracle: &Oracle, buf: &[u8], what: &str| {
            let error = oracle.check(3, buf).expect_err("a fault");
            assert!(error.contains(what), "{error}");
        };
        let mut bad = buf.clone();
        bad[UNIT + 300] ^= 1;
        says(&oracle, &bad, "stamp 1, torn");
        let mut swapped = buf[UNIT..].to_vec();
        swapped.extend_from_slice(&buf[..UNIT]);
        says(&oracle, &swapped, "unit 4 stamp 1");
        says(&oracle, &[0; UNIT], "zeros");
        says(&oracle, &[0xaa; UNIT], "nobody wrote");
        let newer = oracle.fresh_stamp();
        oracle.wrote(3, 1, newer);
        says(&oracle, &buf, "expected stamp 2, found stamp 1");
    }
}
