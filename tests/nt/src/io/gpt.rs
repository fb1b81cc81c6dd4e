//! GUID partition tables, read and checked: the primary one, or the backup at the end of the disk where that is broken.
//! And written: one copy after the other, so that at each moment one of them is whole.
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
/// The least entries of a table that is made: 16 KiB are reserved for them.
const LEAST_ENTRIES: u32 = 128;
/// The most entries, and the most bytes of an entry, that are read.
const MOST_ENTRIES: u32 = 1024;
const MOST_ENTRY: usize = 1024;

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its place among the entries, from 0 on.
    pub slot: usize,
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

/// What is to be written: a first block, and the bytes from there on.
pub type Piece = (u64, Vec<u8>);

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
    /// Bytes of an entry.
    entry: usize,
    /// All entries as they are on the disk.
    entries: Vec<u8>,
}

impl Table {
    /// A table without partitions, for a disk with so many blocks. `room` is what is asked for.
    ///
    /// # Errors
    /// STATUS_INVALID_PARAMETER: the disk is too small, or nobody reads a table that large.
    pub fn new(block: usize, blocks: u64, disk: [u8; 16], room: u32) -> Result<Self, NtStatus> {
        let room = room.max(LEAST_ENTRIES);
        if room > MOST_ENTRIES {
            return Err(STATUS_INVALID_PARAMETER);
        }
        let entries = alloc::vec![0; ENTRY * room as usize];
        let length = entries.len().div_ceil(block) as u64;
        // Record, header, entries; entries, header.
        let last = blocks.checked_sub(length + 2).filter(|last| *last >= 2 + length).ok_or(STATUS_INVALID_PARAMETER)?;
        let usable = (2 + length, last);
        Ok(Self { disk, usable, room, partitions: Vec::new(), backup: false, entry: ENTRY, entries })
    }

    /// Whether another copy says the same.
    pub fn same(&self, other: &Self) -> bool {
        let of = |table: &Self| (table.disk, table.usable, table.room, table.entry);
        of(self) == of(other) && self.entries == other.entries
    }

    /// Puts a partition in its place, in which there is none or the one that it replaces.
    ///
    /// # Errors
    /// STATUS_INVALID_PARAMETER: there is no such place, or its blocks are not free.
    pub fn put(&mut self, partition: Partition) -> Result<(), NtStatus> {
        let (slot, (first, last)) = (partition.slot, partition.blocks);
        let clash = |other: &Partition| other.slot != slot && first <= other.blocks.1 && other.blocks.0 <= last;
        let outside = first > last || first < self.usable.0 || last > self.usable.1;
        if slot >= self.room as usize || outside || partition.kind == [0; 16] || self.partitions.iter().any(clash) {
            return Err(STATUS_INVALID_PARAMETER);
        }
        let to = &mut self.entries[slot * self.entry..][..ENTRY];
        to[..16].copy_from_slice(&partition.kind);
        to[16..32].copy_from_slice(&partition.id);
        to[32..40].copy_from_slice(&first.to_le_bytes());
        to[40..48].copy_from_slice(&last.to_le_bytes());
        to[48..56].copy_from_slice(&partition.attributes.to_le_bytes());
        to[56..128].copy_from_slice(&partition.name);
        self.partitions.retain(|other| other.slot != slot);
        let at = self.partitions.partition_point(|other| other.slot < slot);
        self.partitions.insert(at, partition);
        Ok(())
    }

    /// The blocks of both copies, in the order in which they are to be written, each copy whole on the disk before the next
    /// begins: the one that the table was not read from comes first.
    ///
    /// # Errors
    /// STATUS_INVALID_PARAMETER: the copies would lie on the blocks of partitions.
    pub fn copies(&self, block: usize, blocks: u64) -> Result<[[Piece; 2]; 2], NtStatus> {
        let mut entries = self.entries.clone();
        entries.resize(entries.len().next_multiple_of(block), 0);
        let length = (entries.len() / block) as u64;
        let last = blocks.checked_sub(1).ok_or(STATUS_INVALID_PARAMETER)?;
        let behind = last.checked_sub(length).ok_or(STATUS_INVALID_PARAMETER)?;
        if self.usable.0 < 2 + length || self.usable.1 >= behind {
            return Err(STATUS_INVALID_PARAMETER);
        }
        let copy = |place: u64, other: u64, first: u64| {
            let mut header = alloc::vec![0; block];
            header[..8].copy_from_slice(&SIGNATURE);
            let longs = [(8, REVISION), (12, HEADER as u32), (80, self.room), (84, self.entry as u32)];
            for (at, value) in longs.into_iter().chain([(88, crc32(&self.entries))]) {
                header[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            for (at, value) in [(24, place), (32, other), (40, self.usable.0), (48, self.usable.1), (72, first)] {
                header[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            header[56..72].copy_from_slice(&self.disk);
            let sum = crc32(&header[..HEADER]);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            [(first, entries.clone()), (place, header)]
        };
        let (primary, backup) = (copy(1, last, 2), copy(last, 1, behind));
        Ok(if self.backup { [primary, backup] } else { [backup, primary] })
    }
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
    read_copy(block, blocks, false, read).or_else(|_| read_copy(block, blocks, true, read))
}

/// Reads one copy of a disk's table, as [`read_table`] does.
///
/// # Errors
/// STATUS_DISK_CORRUPT_ERROR: it is not whole; else what `read` says.
pub fn read_copy(
    block: usize,
    blocks: u64,
    backup: bool,
    read: &mut dyn FnMut(u64, usize) -> Result<Vec<u8>, NtStatus>,
) -> Result<Table, NtStatus> {
    let last = blocks.checked_sub(1).ok_or(STATUS_DISK_CORRUPT_ERROR)?;
    one(block, last, if backup { last } else { 1 }, read)
}

/// Whether a header, whole or not, stands in a block.
pub fn is_header(block: &[u8]) -> bool {
    block.starts_with(&SIGNATURE)
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
    let mut entries = read(first, length)?;
    entries.truncate(bytes * room as usize);
    if entries.len() != bytes * room as usize || crc32(&entries) != long(&header, 88) {
        return Err(WRONG);
    }
    let mut partitions: Vec<Partition> = Vec::new();
    let used = |(_, entry): &(usize, &[u8])| entry[..16] != [0; 16];
    for (slot, entry) in entries.chunks_exact(bytes).enumerate().filter(used) {
        let blocks = (wide(entry, 32), wide(entry, 40));
        let clash = partitions.iter().any(|other| blocks.0 <= other.blocks.1 && other.blocks.0 <= blocks.1);
        if blocks.0 > blocks.1 || blocks.0 < usable.0 || blocks.1 > usable.1 || clash {
            return Err(WRONG);
        }
        let mut name = [0; 72];
        name.copy_from_slice(&entry[56..128]);
        let (kind, id) = (guid(entry, 0), guid(entry, 16));
        partitions.push(Partition { slot, kind, id, blocks, attributes: wide(entry, 48), name });
    }
    let disk = guid(&header, 56);
    Ok(Table { disk, usable, room, partitions, backup: place != 1, entry: bytes, entries })
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

    fn partition(slot: usize, first: u64, last: u64) -> Partition {
        let name = [b'x'; 72];
        Partition { slot, kind: [3; 16], id: [slot as u8; 16], blocks: (first, last), attributes: 1 << 60, name }
    }

    /// Writes the copies of a table, but no more than so many blocks of them.
    fn write(disk: &mut [u8], block: usize, table: &Table, mut left: usize) {
        for (first, bytes) in table.copies(block, BLOCKS).unwrap().into_iter().flatten() {
            let count = left.min(bytes.len() / block);
            put(disk, first as usize * block, &bytes[..count * block]);
            left -= count;
        }
    }

    #[test]
    fn a_table_that_is_written_is_read_from_both_copies() {
        for block in [512, 4096] {
            let mut disk = alloc::vec![0; BLOCKS as usize * block];
            let mut table = Table::new(block, BLOCKS, [9; 16], 0).unwrap();
            assert_eq!((table.room, table.usable.0), (128, 2 + (16384 / block) as u64));
            table.put(partition(5, 60, 69)).unwrap();
            table.put(partition(1, 70, 79)).unwrap();
            write(&mut disk, block, &table, usize::MAX);
            assert_eq!(read(&disk, block).unwrap(), table);
            disk[block + 30] ^= 1;
            table.backup = true;
            assert_eq!(read(&disk, block).unwrap(), table);
        }
    }

    #[test]
    fn a_power_cut_at_any_block_leaves_the_old_table_or_the_new_one() {
        let whole = disk(512);
        let mut broken = whole.clone();
        broken[512 + 60] ^= 1;
        for before in [whole, broken] {
            let old = read(&before, 512).unwrap();
            let mut new = old.clone();
            new.put(partition(7, 100, 120)).unwrap();
            let mut seen = [false; 2];
            for written in 0..=66 {
                let mut disk = before.clone();
                write(&mut disk, 512, &new, written);
                let after = read(&disk, 512).unwrap();
                assert!(after.partitions == old.partitions || after.partitions == new.partitions, "after {written}");
                seen[usize::from(after.partitions == new.partitions)] = true;
            }
            assert_eq!(seen, [true; 2]);
        }
    }

    #[test]
    fn partitions_that_do_not_fit_are_not_put() {
        let mut table = Table::new(512, BLOCKS, [0; 16], 128).unwrap();
        table.put(partition(0, 40, 49)).unwrap();
        let untyped = Partition { kind: [0; 16], ..partition(1, 60, 61) };
        let wrong = [(1, 49, 60), (1, 33, 39), (1, 200, 223), (1, 60, 59), (128, 60, 60)];
        for one in wrong.map(|(slot, first, last)| partition(slot, first, last)).into_iter().chain([untyped]) {
            assert_eq!(table.put(one), Err(STATUS_INVALID_PARAMETER));
        }
        // In its own place it may grow.
        table.put(partition(0, 34, 222)).unwrap();
        assert_eq!(Table::new(512, BLOCKS, [0; 16], 1025), Err(STATUS_INVALID_PARAMETER));
        assert_eq!(Table::new(512, 67, [0; 16], 0), Err(STATUS_INVALID_PARAMETER));
        assert_eq!(Table::new(512, 68, [0; 16], 0).unwrap().usable, (34, 34));
    }

    #[test]
    fn a_disk_without_blocks_has_no_table() {
        let mut read = |_, _| -> Result<Vec<u8>, NtStatus> { panic!("nothing is to be read") };
        assert_eq!(read_table(512, 0, &mut read), Err(STATUS_DISK_CORRUPT_ERROR));
    }
}
