//! GUID partition tables, read and checked: the primary one, or the backup at the end of the disk where that is broken.
//!
//! UEFI Specification 2.10, section 5.3. Everything on the disk is a stranger's: sizes and places are bounded before they
//! are used, and a table of which anything is wrong counts as none.
use super::status::*;
use alloc::vec::Vec;

/// `EFI PART`.
const SIGNATURE: [u8; 8] = *b"EFI PART";
const REVISION: u32 = 0x0001_0000;
/// Bytes of a header without what is reserved behind it.
const HEADER: usize = 92;
/// The least bytes of an entry; a larger one has twice that, or four times, and so on.
const ENTRY: usize = 128;
/// The most entries, and the most bytes of an entry, that are read.
const MOST_ENTRIES: u32 = 1024;
const MOST_ENTRY: usize = 1024;

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its type's GUID.
    pub kind: [u8; 16],
    /// Its own GUID.
    pub id: [u8; 16],
    /// First and last block.
    pub blocks: (u64, u64),
    /// Attributes.
    pub attributes: u64,
    /// Its name: 36 characters of UTF-16.
    pub name: [u8; 72],
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The disk's GUID.
    pub disk: [u8; 16],
    /// The first and the last block that partitions may have.
    pub usable: (u64, u64),
    /// Entries that the table has room for.
    pub room: u32,
    /// The partitions, in the order of the table.
    pub partitions: Vec<Partition>,
    /// It is the backup.
    pub backup: bool,
}

/// CRC-32 of IEEE 802.3, as UEFI counts it.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 != 0 { 0xedb8_8320 } else { 0 })
    })
}

fn long(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn wide(bytes: &[u8], at: usize) -> u64 {
    u64::from(long(bytes, at)) | u64::from(long(bytes, at + 4)) << 32
}

fn guid(bytes: &[u8], at: usize) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&bytes[at..at + 16]);
    out
}

/// Reads a disk's table. `read` reads a number of bytes, a multiple of the block's, from a block on.
///
/// # Errors
/// STATUS_DISK_CORRUPT_ERROR: neither table is whole; else what `read` says of the last one that was tried.
pub fn read_table(
    block: usize,
    blocks: u64,
    read: &mut dyn FnMut(u64, usize) -> Result<Vec<u8>, NtStatus>,
) -> Result<Table, NtStatus> {
    let last = blocks.checked_sub(1).ok_or(STATUS_DISK_CORRUPT_ERROR)?;
    one(block, last, 1, read).or_else(|_| one(block, last, last, read))
}

/// The table whose header is at a block.
fn one(
    block: usize,
    last: u64,
    place: u64,
    read: &mut dyn FnMut(u64, usize) -> Result<Vec<u8>, NtStatus>,
) -> Result<Table, NtStatus> {
    const WRONG: NtStatus = STATUS_DISK_CORRUPT_ERROR;
    let mut header = read(place, block)?;
    let size = long(&header, 12) as usize;
    if header.get(..8) != Some(&SIGNATURE) || long(&header, 8) < REVISION || !(HEADER..=header.len()).contains(&size) {
        return Err(WRONG);
    }
    let sum = long(&header, 16);
    header[16..20].fill(0);
    if crc32(&header[..size]) != sum || wide(&header, 24) != place {
        return Err(WRONG);
    }
    let usable = (wide(&header, 40), wide(&header, 48));
    let (first, room, bytes) = (wide(&header, 72), long(&header, 80), long(&header, 84) as usize);
    let sized = bytes.is_multiple_of(ENTRY) && (bytes / ENTRY).is_power_of_two() && bytes <= MOST_ENTRY;
    // The boot record, the first header and the last block are never a partition's.
    let bounded = 2 <= usable.0 && usable.0 <= usable.1 && usable.1 < last;
    if !sized || !(1..=MOST_ENTRIES).contains(&room) || !bounded {
        return Err(WRONG);
    }
    let length = (bytes * room as usize).next_multiple_of(block);
    let end = first.checked_add((length / block) as u64).filter(|end| *end <= last + 1).ok_or(WRONG)?;
    // The entries lie outside of what partitions may have, and not on the headers.
    if first < 2 || first <= place && place < end || first <= usable.1 && usable.0 < end {
        return Err(WRONG);
    }
    let entries = read(first, length)?;
    let entries = entries.get(..bytes * room as usize).ok_or(WRONG)?;
    if crc32(entries) != long(&header, 88) {
        return Err(WRONG);
    }
    let mut partitions: Vec<Partition> = Vec::new();
    for entry in entries.chunks_exact(bytes).filter(|entry| entry[..16] != [0; 16]) {
        let blocks = (wide(entry, 32), wide(entry, 40));
        let clash = partitions.iter().any(|other| blocks.0 <= other.blocks.1 && other.blocks.0 <= blocks.1);
        if blocks.0 > blocks.1 || blocks.0 < usable.0 || blocks.1 > usable.1 || clash {
            return Err(WRONG);
        }
        let mut name = [0; 72];
        name.copy_from_slice(&entry[56..128]);
        let (kind, id) = (guid(entry, 0), guid(entry, 16));
        partitions.push(Partition { kind, id, blocks, attributes: wide(entry, 48), name });
    }
    Ok(Table { disk: guid(&header, 56), usable, room, partitions, backup: place != 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: u64 = 256;

    fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn seal(disk: &mut [u8], block: usize, place: usize, entries: usize) {
        let sum = crc32(&disk[entries * block..][..16384]);
        put(disk, place * block + 88, &sum.to_le_bytes());
        put(disk, place * block + 16, &[0; 4]);
        let sum = crc32(&disk[place * block..][..HEADER]);
        put(disk, place * block + 16, &sum.to_le_bytes());
    }

    /// A disk with two partitions, both tables whole.
    fn disk(block: usize) -> Vec<u8> {
        let length = 16384 / block;
        let mut disk = alloc::vec![0; BLOCKS as usize * block];
        let last = BLOCKS as usize - 1;
        for (place, other, entries) in [(1, last, 2), (last, 1, last - length)] {
            let at = place * block;
            put(&mut disk, at, &SIGNATURE);
            put(&mut disk, at + 8, &REVISION.to_le_bytes());
            put(&mut disk, at + 12, &(HEADER as u32).to_le_bytes());
            for (field, value) in [(24, place), (32, other), (40, 2 + length), (48, last - length - 1), (72, entries)] {
                put(&mut disk, at + field, &(value as u64).to_le_bytes());
            }
            put(&mut disk, at + 56, &[0xd1; 16]);
            put(&mut disk, at + 80, &128u32.to_le_bytes());
            put(&mut disk, at + 84, &128u32.to_le_bytes());
            for (slot, first, end) in [(0, 40u64, 59u64), (2, 60, 99)] {
                let at = entries * block + 128 * slot;
                put(&mut disk, at, &[0xa0 + slot as u8; 16]);
                put(&mut disk, at + 16, &[0xb0 + slot as u8; 16]);
                put(&mut disk, at + 32, &first.to_le_bytes());
                put(&mut disk, at + 40, &end.to_le_bytes());
                put(&mut disk, at + 56, b"n\0a\0");
            }
            seal(&mut disk, block, place, entries);
        }
        disk
    }

    fn read(disk: &[u8], block: usize) -> Result<Table, NtStatus> {
        read_table(block, BLOCKS, &mut |first, bytes| {
            let at = usize::try_from(first).ok().and_then(|first| first.checked_mul(block));
            let range = at.and_then(|at| disk.get(at..at.checked_add(bytes)?));
            range.map(<[u8]>::to_vec).ok_or_else(|| panic!("a read of {bytes} bytes at block {first}"))
        })
    }

    #[test]
    fn the_sum_is_that_of_ieee() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_whole_table_is_read_with_blocks_of_both_sizes() {
        for block in [512, 4096] {
            let table = read(&disk(block), block).unwrap();
            assert_eq!((table.partitions.len(), table.room, table.backup), (2, 128, false));
            assert_eq!(table.partitions[1].blocks, (60, 99));
            assert_eq!((table.partitions[1].kind, table.disk), ([0xa2; 16], [0xd1; 16]));
        }
    }

    #[test]
    fn a_broken_primary_table_gives_way_to_the_backup() {
        for broken in [512, 512 + 24, 512 + 40, 512 + 88, 1024 + 40] {
            let mut disk = disk(512);
            disk[broken] ^= 1;
            let table = read(&disk, 512).unwrap();
            assert!(table.backup && table.partitions.len() == 2);
            // And the backup alone is not enough for what is broken in both.
            disk[(BLOCKS as usize - 1) * 512 + 60] ^= 1;
            assert_eq!(read(&disk, 512), Err(STATUS_DISK_CORRUPT_ERROR));
        }
    }

    /// Every field of both headers with a hostile value, and the sums right: nothing is read out of bounds, nothing
    /// panics, and what is wrong is refused.
    #[test]
    fn fields_that_lie_are_refused() {
        let last = BLOCKS as usize - 1;
        let hostile: &[(usize, u64, usize)] = &[
            (12, 0, 4),
            (12, 91, 4),
            (12, 513, 4),
            (12, u64::MAX, 4),
            (24, 2, 8),
            (40, 300, 8),
            (40, 0, 8),
            (48, 33, 8),
            (48, u64::MAX, 8),
            (72, 0, 8),
            (72, 1, 8),
            (72, 100, 8),
            (72, u64::MAX, 8),
            (72, u64::MAX - 3, 8),
            (80, 0, 4),
            (80, u64::MAX, 4),
            (80, 1025, 4),
            (84, 0, 4),
            (84, 64, 4),
            (84, 384, 4),
            (84, u64::MAX, 4),
            (84, 0x8000_0000, 4),
        ];
        for &(field, value, width) in hostile {
            let mut disk = disk(512);
            for (place, entries) in [(1, 2), (last, last - 32)] {
                put(&mut disk, place * 512 + field, &value.to_le_bytes()[..width]);
                let sum = crc32(&disk[entries * 512..][..16384]);
                put(&mut disk, place * 512 + 88, &sum.to_le_bytes());
                put(&mut disk, place * 512 + 16, &[0; 4]);
                let size = (long(&disk, place * 512 + 12) as usize).clamp(0, 512);
                let sum = crc32(&disk[place * 512..][..size]);
                put(&mut disk, place * 512 + 16, &sum.to_le_bytes());
            }
            assert_eq!(read(&disk, 512), Err(STATUS_DISK_CORRUPT_ERROR), "field {field} is {value:#x}");
        }
    }

    #[test]
    fn partitions_that_overlap_or_lie_outside_are_refused() {
        let last = BLOCKS as usize - 1;
        for (first, end) in [(50_u64, 70_u64), (99, 60), (10, 99), (60, 240), (0, u64::MAX), (u64::MAX, u64::MAX)] {
            let mut disk = disk(512);
            for (place, entries) in [(1, 2), (last, last - 32)] {
                put(&mut disk, entries * 512 + 256 + 32, &first.to_le_bytes());
                put(&mut disk, entries * 512 + 256 + 40, &end.to_le_bytes());
                seal(&mut disk, 512, place, entries);
            }
            assert_eq!(read(&disk, 512), Err(STATUS_DISK_CORRUPT_ERROR), "{first} to {end}");
        }
    }

    #[test]
    fn a_disk_without_blocks_has_no_table() {
        let mut read = |_, _| -> Result<Vec<u8>, NtStatus> { panic!("nothing is to be read") };
        assert_eq!(read_table(512, 0, &mut read), Err(STATUS_DISK_CORRUPT_ERROR));
    }
}
