//! CDBs: decoding, range checks, and the answers that need no disk.

use super::{
    Sense, inquiry, mode,
    unit::{SECTOR, Unit},
};

/// Operation codes, by their names in SPC-4, SBC-3 and MMC-5.
mod op {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const READ_6: u8 = 0x08;
    pub const WRITE_6: u8 = 0x0A;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SENSE_6: u8 = 0x1A;
    pub const START_STOP_UNIT: u8 = 0x1B;
    pub const PREVENT_ALLOW: u8 = 0x1E;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2A;
    pub const VERIFY_10: u8 = 0x2F;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const UNMAP: u8 = 0x42;
    pub const READ_TOC: u8 = 0x43;
    pub const MODE_SENSE_10: u8 = 0x5A;
    pub const READ_16: u8 = 0x88;
    pub const WRITE_16: u8 = 0x8A;
    pub const VERIFY_16: u8 = 0x8F;
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9E;
    pub const REPORT_LUNS: u8 = 0xA0;
    pub const READ_12: u8 = 0xA8;
    pub const WRITE_12: u8 = 0xAA;
    pub const VERIFY_12: u8 = 0xAF;
}

/// The service action of READ CAPACITY(16).
const READ_CAPACITY_16: u8 = 0x10;

/// Which way blocks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferKind {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
    /// From the disk to nowhere: VERIFY.
    Verify,
}

/// Blocks to move, in ring sectors; inside the disk, and at most as long as the data buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Which way.
    pub kind: TransferKind,
    /// First ring sector.
    pub sector: u64,
    /// Ring sectors, at least one.
    pub sectors: u32,
    /// On stable storage when done.
    pub force: bool,
}

/// What a command comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Move blocks.
    Transfer(Transfer),
    /// Flush the write cache.
    Flush,
    /// Unmap what the list in the data buffer names; so many descriptors, each checked once.
    Unmap(u32),
    /// Done, with so many bytes in the data buffer.
    Done(u32),
    /// Failed.
    Fail(Sense),
}

/// Big-endian reads out of a CDB whose length was checked. Out of range reads are 0.
struct Cdb<'a>(&'a [u8]);

impl Cdb<'_> {
    fn u8(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn uint<const LEN: usize>(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk::<LEN>);
        bytes.map_or(0, |bytes| bytes.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }
}

/// The CDB length of an operation code, by its group (SPC-4 4.2.5.1).
const fn cdb_length(operation: u8) -> Option<usize> {
    match operation >> 5 {
        0 => Some(6),
        1 | 2 => Some(10),
        4 => Some(16),
        5 => Some(12),
        _ => None,
    }
}

/// Decodes a command and answers it where that needs no disk. `data` is the mapped buffer of a command that is neither
/// read nor write, `data_len` the length of the request's buffer whether mapped or not. IRQL <= DISPATCH_LEVEL.
pub fn decode(unit: &Unit, cdb: &[u8], data: &mut [u8], data_len: u32) -> Outcome {
    let Some(&operation) = cdb.first() else { return Outcome::Fail(Sense::INVALID_FIELD_IN_CDB) };
    let Some(length) = cdb_length(operation) else { return Outcome::Fail(Sense::INVALID_OPCODE) };
    if cdb.len() < length {
        return Outcome::Fail(Sense::INVALID_FIELD_IN_CDB);
    }
    if unit.sectors == 0 && needs_medium(operation) {
        return Outcome::Fail(Sense::NO_MEDIUM);
    }
    let cdb = Cdb(cdb);
    match blocks(operation, &cdb) {
        Some(ask) => transfer(unit, ask, data_len),
        None => other(unit, operation, &cdb, data),
    }
}

/// Whether a command moves blocks, so that its buffer need not be mapped.
pub fn moves_blocks(cdb: &[u8]) -> bool {
    cdb.first().is_some_and(|operation| transfer_kind(*operation).is_some())
}

/// Whether a command is an INQUIRY: what storport asks a unit first.
pub fn is_inquiry(cdb: &[u8]) -> bool {
    cdb.first() == Some(&op::INQUIRY)
}

/// Whether a command is answered with a pending unit attention instead (SAM-5 5.14: not these three).
pub fn reports_attention(cdb: &[u8]) -> bool {
    !matches!(cdb.first(), Some(&(op::INQUIRY | op::REQUEST_SENSE | op::REPORT_LUNS)))
}

/// What a block command asks for, in logical blocks.
#[derive(Clone, Copy)]
struct Ask {
    kind: TransferKind,
    block: u64,
    count: u64,
    force: bool,
    /// BYTCHK, or protection information.
    refused: bool,
}

const fn transfer_kind(operation: u8) -> Option<TransferKind> {
    Some(match operation {
        op::READ_6 | op::READ_10 | op::READ_12 | op::READ_16 => TransferKind::Read,
        op::WRITE_6 | op::WRITE_10 | op::WRITE_12 | op::WRITE_16 => TransferKind::Write,
        op::VERIFY_10 | op::VERIFY_12 | op::VERIFY_16 => TransferKind::Verify,
        _ => return None,
    })
}

/// Whether a drive without a medium is NOT READY for a command. A disk of no blocks is one, too.
const fn needs_medium(operation: u8) -> bool {
    transfer_kind(operation).is_some()
        || matches!(
            operation,
            op::TEST_UNIT_READY
                | op::READ_CAPACITY_10
                | op::SERVICE_ACTION_IN_16
                | op::SYNCHRONIZE_CACHE_10
                | op::SYNCHRONIZE_CACHE_16
                | op::UNMAP
                | op::READ_TOC
        )
}

fn blocks(operation: u8, cdb: &Cdb<'_>) -> Option<Ask> {
    let kind = transfer_kind(operation)?;
    let flags = cdb.u8(1);
    if matches!(operation, op::READ_6 | op::WRITE_6) {
        let count = match cdb.u8(4) {
            0 => 256,
            count => u64::from(count),
        };
        return Some(Ask { kind, block: cdb.uint::<3>(1) & 0x1f_ffff, count, force: false, refused: false });
    }
    let (block, count) = match operation {
        op::READ_10 | op::WRITE_10 | op::VERIFY_10 => (cdb.uint::<4>(2), cdb.uint::<2>(7)),
        op::READ_12 | op::WRITE_12 | op::VERIFY_12 => (cdb.uint::<4>(2), cdb.uint::<4>(6)),
        _ => (cdb.uint::<8>(2), cdb.uint::<4>(10)),
    };
    let verify = kind == TransferKind::Verify;
    let refused = flags & 0xE0 != 0 || (verify && flags & 0x06 != 0);
    Some(Ask { kind, block, count, force: !verify && flags & 0x08 != 0, refused })
}

fn transfer(unit: &Unit, ask: Ask, data_len: u32) -> Outcome {
    let Ask { kind, block, count, force, refused } = ask;
    if refused || (force && !unit.cache) {
        return Outcome::Fail(Sense::INVALID_FIELD_IN_CDB);
    }
    if kind == TransferKind::Write && (unit.read_only || unit.cdrom) {
        return Outcome::Fail(Sense::WRITE_PROTECTED);
    }
    let total = unit.blocks();
    if block > total || count > total - block {
        return Outcome::Fail(Sense::LBA_OUT_OF_RANGE);
    }
    if count == 0 {
        return Outcome::Done(0);
    }
    let per_block = unit.sectors_per_block();
    let Some(sectors) = u32::try_from(count).ok().and_then(|count| count.checked_mul(per_block)) else {
        return Outcome::Fail(Sense::INVALID_FIELD_IN_CDB);
    };
    // A buffer shorter than the blocks asked for: the request contradicts itself, and nothing is moved.
    let in_buffer = u64::from(sectors) * u64::from(SECTOR);
    if kind != TransferKind::Verify && in_buffer > u64::from(data_len) {
        return Outcome::Fail(Sense::INVALID_FIELD_IN_CDB);
    }
    Outcome::Transfer(Transfer { kind, sector: block * u64::from(per_block), sectors, force })
}

fn other(unit: &Unit, operation: u8, cdb: &Cdb<'_>, data: &mut [u8]) -> Outcome {
    match operation {
        op::TEST_UNIT_READY => Outcome::Done(0),
        op::REQUEST_SENSE => reply(data, cdb.uint::<1>(4), &Sense::NONE.encode()),
        op::INQUIRY => {
            let allocation = cdb.uint::<2>(3);
            let page = cdb.u8(2);
            match cdb.u8(1) & 0x03 {
                0 if page == 0 => reply(data, allocation, inquiry::standard(unit).as_bytes()),
                1 => match inquiry::vital(unit, page) {
                    Some(answer) => reply(data, allocation, answer.as_bytes()),
                    None => Outcome::Fail(Sense::INVALID_FIELD_IN_CDB),
                },
                _ => Outcome::Fail(Sense::INVALID_FIELD_IN_CDB),
            }
        }
        op::MODE_SENSE_6 | op::MODE_SENSE_10 => {
            let ten = operation == op::MODE_SENSE_10;
            let ask = mode_ask(cdb, ten);
            let allocation = if ten { cdb.uint::<2>(7) } else { cdb.uint::<1>(4) };
            match mode::sense(unit, ask) {
                Ok(answer) => reply(data, allocation, answer.as_bytes()),
                Err(sense) => Outcome::Fail(sense),
            }
        }
        op::START_STOP_UNIT => {
            // LOEJ: the tray is the backend's. A stop leaves nothing unwritten behind.
            let (eject, start) = (cdb.u8(4) & 0x02 != 0, cdb.u8(4) & 0x01 != 0);
            match (eject, start) {
                (true, _) => Outcome::Fail(Sense::INVALID_FIELD_IN_CDB),
                (false, false) if unit.cache && !unit.read_only => Outcome::Flush,
                (false, _) => Outcome::Done(0),
            }
        }
        op::PREVENT_ALLOW if unit.removable => Outcome::Done(0),
        op::READ_CAPACITY_10 => reply(data, 8, inquiry::capacity10(unit).as_bytes()),
        op::SERVICE_ACTION_IN_16 if cdb.u8(1) & 0x1f == READ_CAPACITY_16 => {
            reply(data, cdb.uint::<4>(10), inquiry::capacity16(unit).as_bytes())
        }
        // The operation code is known, its service action is not: a field of the CDB, not the code, is wrong.
        op::SERVICE_ACTION_IN_16 => Outcome::Fail(Sense::INVALID_FIELD_IN_CDB),
        op::SYNCHRONIZE_CACHE_10 | op::SYNCHRONIZE_CACHE_16 => synchronize(unit, operation, cdb),
        op::UNMAP if unit.discard.is_some() => unmap(unit, cdb, data),
        op::REPORT_LUNS => {
            let allocation = cdb.uint::<4>(6);
            if allocation < 16 || cdb.u8(2) > 2 {
                return Outcome::Fail(Sense::INVALID_FIELD_IN_CDB);
            }
            // One logical unit, number 0; well-known ones (select 1) there are none.
            let mut list = [0; 16];
            let len = if cdb.u8(2) == 1 { 8 } else { 16 };
            list[3] = (len - 8) as u8;
            reply(data, allocation, list.get(..len).unwrap_or(&[]))
        }
        op::READ_TOC if unit.cdrom => {
            let format = match cdb.u8(2) & 0x0f {
                0 => cdb.u8(9) >> 6,
                format => format,
            };
            match inquiry::toc(unit, format, cdb.u8(1) & 0x02 != 0) {
                Some(answer) => reply(data, cdb.uint::<2>(7), answer.as_bytes()),
                None => Outcome::Fail(Sense::INVALID_FIELD_IN_CDB),
            }
        }
        _ => Outcome::Fail(Sense::INVALID_OPCODE),
    }
}

/// The fields that MODE SENSE(6) and (10) have in common.
fn mode_ask(cdb: &Cdb<'_>, ten: bool) -> mode::Ask {
    mode::Ask {
        ten,
        no_descriptor: cdb.u8(1) & 0x08 != 0,
        control: cdb.u8(2) >> 6,
        page: cdb.u8(2) & 0x3f,
        subpage: cdb.u8(3),
    }
}

fn synchronize(unit: &Unit, operation: u8, cdb: &Cdb<'_>) -> Outcome {
    let (block, count) = if operation == op::SYNCHRONIZE_CACHE_10 {
        (cdb.uint::<4>(2), cdb.uint::<2>(7))
    } else {
        (cdb.uint::<8>(2), cdb.uint::<4>(10))
    };
    if !unit.cache {
        // Nothing can be flushed, so nothing is said to have been.
        return Outcome::Fail(Sense::INVALID_OPCODE);
    }
    if block > unit.blocks() || count > unit.blocks() - block {
        return Outcome::Fail(Sense::LBA_OUT_OF_RANGE);
    }
    // A range is flushed by flushing all.
    Outcome::Flush
}

/// Bytes before the first descriptor of an UNMAP list.
const UNMAP_HEADER: usize = 8;
/// Bytes of a descriptor.
const UNMAP_DESCRIPTOR: usize = 16;

fn unmap(unit: &Unit, cdb: &Cdb<'_>, data: &[u8]) -> Outcome {
    if unit.read_only {
        return Outcome::Fail(Sense::WRITE_PROTECTED);
    }
    if cdb.u8(1) & 0x01 != 0 {
        // ANCHOR.
        return Outcome::Fail(Sense::INVALID_FIELD_IN_CDB);
    }
    let length = cdb.uint::<2>(7) as usize;
    if length == 0 {
        return Outcome::Done(0);
    }
    let Some(list) = data.get(..length) else { return Outcome::Fail(Sense::INVALID_FIELD_IN_CDB) };
    let Some(count) = unmap_count(list) else { return Outcome::Fail(Sense::LIST_LENGTH) };
    if count > inquiry::UNMAP_DESCRIPTORS {
        return Outcome::Fail(Sense::INVALID_FIELD_IN_LIST);
    }
    // All of it is checked before any of it is done.
    for index in 0..count {
        if unmap_range(unit, list, index).is_none() {
            return Outcome::Fail(Sense::LBA_OUT_OF_RANGE);
        }
    }
    if count == 0 { Outcome::Done(0) } else { Outcome::Unmap(count) }
}

/// Descriptors of an UNMAP list; None if the list is shorter than its header says or than a header.
pub fn unmap_count(list: &[u8]) -> Option<u32> {
    let length = usize::from(u16::from_be_bytes([*list.get(2)?, *list.get(3)?]));
    if list.len() < UNMAP_HEADER || length > list.len() - UNMAP_HEADER {
        return None;
    }
    // A partial descriptor at the end is ignored (SBC-3 5.28.2).
    u32::try_from(length / UNMAP_DESCRIPTOR).ok()
}

/// Ring sectors of a descriptor, read once: first and count. None if they are not inside the disk.
pub fn unmap_range(unit: &Unit, list: &[u8], index: u32) -> Option<(u64, u64)> {
    let at = UNMAP_HEADER + index as usize * UNMAP_DESCRIPTOR;
    let raw: [u8; 12] = list.get(at..at + 12)?.try_into().ok()?;
    let descriptor = Cdb(&raw);
    let (block, count) = (descriptor.uint::<8>(0), descriptor.uint::<4>(8));
    let total = unit.blocks();
    if block > total || count > total - block {
        return None;
    }
    let per_block = u64::from(unit.sectors_per_block());
    Some((block * per_block, count * per_block))
}

/// Copies an answer as far as both the allocation length and the buffer go.
fn reply(data: &mut [u8], allocation: u64, answer: &[u8]) -> Outcome {
    let allocation = usize::try_from(allocation).unwrap_or(usize::MAX);
    let len = answer.len().min(allocation).min(data.len());
    if let (Some(to), Some(from)) = (data.get_mut(..len), answer.get(..len)) {
        to.copy_from_slice(from);
    }
    Outcome::Done(len as u32)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests may run out of memory")]
mod tests {
    use std::vec::Vec;

    use super::{
        TransferKind::{Read, Write},
        *,
    };
    use crate::scsi::{Discard, Serial};

    fn unit() -> Unit {
        Unit {
            sectors: 1 << 20,
            block: 512,
            physical_exponent: 3,
            read_only: false,
            removable: false,
            cdrom: false,
            cache: true,
            discard: Some(Discard { granularity: 8, alignment: 0 }),
            serial: Serial::new(b"7d444840-9dc0-11d1-b245-5ffdce74fad2", 51712),
            max_transfer: 4 << 20,
        }
    }

    fn run(unit: &Unit, cdb: &[u8], data: &mut [u8]) -> Outcome {
        let len = data.len() as u32;
        decode(unit, cdb, data, len)
    }

    fn moved(kind: TransferKind, sector: u64, sectors: u32, force: bool) -> Outcome {
        Outcome::Transfer(Transfer { kind, sector, sectors, force })
    }

    #[test]
    fn reads_and_writes_of_every_length() {
        let u = unit();
        let mut data = std::vec![0; 131_072];
        assert_eq!(run(&u, &[0x08, 1, 2, 3, 4, 0], &mut data), moved(Read, 0x1_0203, 4, false));
        assert_eq!(run(&u, &[0x08, 0, 0, 1, 0, 0], &mut data), moved(Read, 1, 256, false));
        assert_eq!(run(&u, &[0x0A, 0, 0, 1, 2, 0], &mut data), moved(Write, 1, 2, false));
        assert_eq!(run(&u, &[0x28, 0, 0, 1, 2, 3, 0, 0, 9, 0], &mut data), moved(Read, 0x1_0203, 9, false));
        assert_eq!(run(&u, &[0x2A, 8, 0, 1, 2, 3, 0, 0, 9, 0], &mut data), moved(Write, 0x1_0203, 9, true));
        assert_eq!(run(&u, &[0xA8, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0], &mut data), moved(Read, 7, 3, false));
        assert_eq!(run(&u, &[0xAA, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0], &mut data), moved(Write, 7, 3, false));
        let cdb = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0];
        assert_eq!(run(&u, &cdb, &mut data), moved(Read, 5, 6, false));
        let cdb = [0x8A, 8, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0];
        assert_eq!(run(&u, &cdb, &mut data), moved(Write, 5, 6, true));
        assert_eq!(run(&u, &[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut data), Outcome::Done(0));
    }

    #[test]
    fn blocks_of_4k_are_eight_sectors() {
        let u = Unit { block: 4096, physical_exponent: 0, ..unit() };
        let mut data = [0; 8192];
        assert_eq!(run(&u, &[0x28, 0, 0, 0, 0, 3, 0, 0, 2, 0], &mut data), moved(Read, 24, 16, false));
        assert_eq!(run(&u, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut data), Outcome::Done(8));
        assert_eq!(&data[..8], &[0, 1, 0xff, 0xff, 0, 0, 0x10, 0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let u = unit();
        let mut data = [0; 512];
        let fail = Outcome::Fail;
        assert_eq!(run(&u, &[0x28, 0, 0, 0x10, 0, 0, 0, 0, 1, 0], &mut data), fail(Sense::LBA_OUT_OF_RANGE));
        assert_eq!(run(&u, &[0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0], &mut data), fail(Sense::INVALID_FIELD_IN_CDB));
        assert_eq!(run(&u, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1], &mut data), fail(Sense::INVALID_FIELD_IN_CDB));
        assert_eq!(run(&u, &[], &mut data), fail(Sense::INVALID_FIELD_IN_CDB));
        assert_eq!(run(&u, &[0xC0; 16], &mut data), fail(Sense::INVALID_OPCODE));
        let huge = [0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0];
        assert_eq!(run(&u, &huge, &mut data), fail(Sense::LBA_OUT_OF_RANGE));
        let read_only = Unit { read_only: true, ..u };
        assert_eq!(run(&read_only, &[0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0], &mut data), fail(Sense::WRITE_PROTECTED));
        // A forced write without a flush, and protection information.
        let plain = Unit { cache: false, ..u };
        assert_eq!(run(&plain, &[0x2A, 8, 0, 0, 0, 0, 0, 0, 1, 0], &mut data), fail(Sense::INVALID_FIELD_IN_CDB));
        assert_eq!(run(&u, &[0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0], &mut data), fail(Sense::INVALID_FIELD_IN_CDB));
    }

    #[test]
    fn verify_reads_and_does_not_compare() {
        let u = unit();
        let cdb = [0x2F, 0, 0, 0, 0, 1, 0, 0xff, 0xff, 0];
        assert_eq!(run(&u, &cdb, &mut []), moved(TransferKind::Verify, 1, 0xffff, false));
        let compare = [0x2F, 2, 0, 0, 0, 1, 0, 0, 1, 0];
        assert_eq!(run(&u, &compare, &mut [0; 512]), Outcome::Fail(Sense::INVALID_FIELD_IN_CDB));
    }

    #[test]
    fn flushes_only_what_can_be_flushed() {
        let u = unit();
        assert_eq!(run(&u, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut []), Outcome::Flush);
        let mut cdb = [0; 16];
        cdb[0] = 0x91;
        assert_eq!(run(&u, &cdb, &mut []), Outcome::Flush);
        let plain = Unit { cache: false, ..u };
        assert_eq!(run(&plain, &cdb, &mut []), Outcome::Fail(Sense::INVALID_OPCODE));
        let mut data = [0; 64];
        assert_eq!(run(&plain, &[0x1A, 8, 8, 0, 64, 0], &mut data), Outcome::Done(24));
        assert_eq!((data[2], data[6]), (0, 0), "no DPOFUA, no WCE");
        assert_eq!(run(&u, &[0x1A, 8, 8, 0, 64, 0], &mut data), Outcome::Done(24));
        assert_eq!((data[2], data[6]), (0x10, 0x04));
    }

    #[test]
    fn mode_pages() {
        let u = Unit { read_only: true, ..unit() };
        let mut data = [0; 128];
        assert_eq!(run(&u, &[0x5A, 0, 0x3f, 0, 0, 0, 0, 0, 128, 0], &mut data), Outcome::Done(8 + 8 + 20 + 12));
        assert_eq!(u16::from_be_bytes([data[0], data[1]]), 46);
        assert_eq!((data[3], data[7]), (0x90, 8));
        assert_eq!(run(&u, &[0x1A, 0, 0xC8, 0, 64, 0], &mut data), Outcome::Fail(Sense::SAVING_NOT_SUPPORTED));
        assert_eq!(run(&u, &[0x1A, 0, 0x05, 0, 64, 0], &mut data), Outcome::Fail(Sense::INVALID_FIELD_IN_CDB));
    }

    #[test]
    fn inquiry_and_pages() {
        let u = unit();
        let mut data = [0; 255];
        assert_eq!(run(&u, &[0x12, 0, 0, 0, 255, 0], &mut data), Outcome::Done(36));
        assert_eq!(&data[8..32], b"XEN     PV DISK         ");
        assert_eq!(run(&u, &[0x12, 0, 0, 0, 5, 0], &mut data), Outcome::Done(5));
        assert_eq!(run(&u, &[0x12, 1, 0, 0, 255, 0], &mut data), Outcome::Done(10));
        assert_eq!(&data[4..10], &[0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2]);
        assert_eq!(run(&u, &[0x12, 1, 0x80, 0, 255, 0], &mut data), Outcome::Done(42));
        assert_eq!(&data[4..42], u.serial.as_bytes());
        assert!(matches!(run(&u, &[0x12, 1, 0x83, 0, 255, 0], &mut data), Outcome::Done(_)));
        assert_eq!(data[8 + 8 + 38], 0x01);
        assert_eq!(run(&u, &[0x12, 1, 0xB0, 0, 255, 0], &mut data), Outcome::Done(64));
        assert_eq!(&data[6..12], &[0, 8, 0, 0, 0x20, 0]);
        assert_eq!(run(&u, &[0x12, 1, 0xB2, 0, 255, 0], &mut data), Outcome::Done(8));
        assert_eq!((data[5], data[6]), (0x80, 0x02));
        assert_eq!(run(&u, &[0x12, 1, 0xC0, 0, 255, 0], &mut data), Outcome::Fail(Sense::INVALID_FIELD_IN_CDB));
        assert_eq!(run(&u, &[0x12, 0, 0x80, 0, 255, 0], &mut data), Outcome::Fail(Sense::INVALID_FIELD_IN_CDB));
    }

    #[test]
    fn capacity_16() {
        let mut data = [0; 32];
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x9E, 0x10, 32);
        assert_eq!(run(&unit(), &cdb, &mut data), Outcome::Done(32));
        assert_eq!(&data[..12], &[0, 0, 0, 0, 0, 0x0f, 0xff, 0xff, 0, 0, 2, 0]);
        assert_eq!((data[13], data[14]), (3, 0x80));
    }

    fn unmap_list(ranges: &[(u64, u32)]) -> Vec<u8> {
        let mut list = std::vec![0; 8];
        for (block, count) in ranges {
            list.extend(block.to_be_bytes());
            list.extend(count.to_be_bytes());
            list.extend([0; 4]);
        }
        let len = (list.len() - 8) as u16;
        list[..2].copy_from_slice(&(len + 6).to_be_bytes());
        list[2..4].copy_from_slice(&len.to_be_bytes());
        list
    }

    #[test]
    fn unmap_lists_are_checked_whole() {
        let u = unit();
        let mut list = unmap_list(&[(8, 8), (100, 1)]);
        let cdb = |len: u16| [0x42, 0, 0, 0, 0, 0, 0, len.to_be_bytes()[0], len.to_be_bytes()[1], 0];
        let len = list.len() as u16;
        assert_eq!(run(&u, &cdb(len), &mut list), Outcome::Unmap(2));
        assert_eq!(unmap_range(&u, &list, 1), Some((100, 1)));
        assert_eq!(run(&u, &cdb(len + 1), &mut list), Outcome::Fail(Sense::INVALID_FIELD_IN_CDB));
        assert_eq!(run(&u, &cdb(9), &mut list), Outcome::Fail(Sense::LIST_LENGTH));
        assert_eq!(run(&u, &cdb(0), &mut list), Outcome::Done(0));
        let mut outside = unmap_list(&[(8, 8), (u64::MAX, 1)]);
        assert_eq!(run(&u, &cdb(40), &mut outside), Outcome::Fail(Sense::LBA_OUT_OF_RANGE));
        let none = Unit { discard: None, ..u };
        assert_eq!(run(&none, &cdb(len), &mut list), Outcome::Fail(Sense::INVALID_OPCODE));
    }

    #[test]
    fn other_commands() {
        let u = unit();
        let mut data = [0xff; 32];
        assert_eq!(run(&u, &[0; 6], &mut []), Outcome::Done(0));
        assert_eq!(run(&u, &[3, 0, 0, 0, 18, 0], &mut data), Outcome::Done(18));
        assert_eq!(run(&u, &[0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], &mut data), Outcome::Done(16));
        assert_eq!(&data[..8], &[0, 0, 0, 8, 0, 0, 0, 0]);
        let short = [0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
        assert_eq!(run(&u, &short, &mut data), Outcome::Fail(Sense::INVALID_FIELD_IN_CDB));
        assert_eq!(run(&u, &[0x1B, 0, 0, 0, 0, 0], &mut []), Outcome::Flush);
        assert_eq!(run(&u, &[0x1B, 0, 0, 0, 1, 0], &mut []), Outcome::Done(0));
        assert_eq!(run(&u, &[0x1B, 0, 0, 0, 2, 0], &mut []), Outcome::Fail(Sense::INVALID_FIELD_IN_CDB));
        let empty = Unit { sectors: 0, ..u };
        for operation in [0x00, 0x08, 0x25, 0x28, 0x2A, 0x2F, 0x35, 0x88, 0x9E] {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1]) = (operation, if operation == 0x9E { 0x10 } else { 0 });
            assert_eq!(run(&empty, &cdb, &mut data), Outcome::Fail(Sense::NO_MEDIUM), "{operation:#x}");
        }
        assert_eq!(run(&empty, &[0x12, 0, 0, 0, 32, 0], &mut data), Outcome::Done(32));
        let cdrom = Unit { cdrom: true, removable: true, block: 2048, ..u };
        assert_eq!(run(&cdrom, &[0x43, 0, 0, 0, 0, 0, 0, 0, 32, 0], &mut data), Outcome::Done(20));
        assert_eq!(run(&u, &[0x43, 0, 0, 0, 0, 0, 0, 0, 32, 0], &mut data), Outcome::Fail(Sense::INVALID_OPCODE));
    }

    #[test]
    fn no_cdb_makes_it_panic() {
        let u = unit();
        let mut seed = 7_u64;
        let mut data = [0; 64];
        for _ in 0..200_000 {
            let mut cdb = [0; 16];
            for byte in &mut cdb {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (seed >> 40) as u8;
            }
            let len = (seed >> 33) as usize % 17;
            if let Outcome::Transfer(t) = run(&u, &cdb[..len], &mut data) {
                assert!(t.sector + u64::from(t.sectors) <= u.sectors);
                assert!(t.kind == TransferKind::Verify || t.sectors as usize * 512 <= data.len());
            }
        }
    }
}
