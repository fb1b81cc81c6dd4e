//! Partition tables of disks, the old interface: `IoReadPartitionTableEx` and its kin. IRQL = PASSIVE_LEVEL.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-ioreadpartitiontableex>. Master boot records
//! with their chains of extended partitions are read and, but for those chains, written; GUID partition tables (`gpt`)
//! are read and written, with the protective record in front of them.
use super::abi::*;
use super::blocks::{Geometry, geometry, read, transfer, write};
use super::gpt;
use super::kernel::{note, paged_alloc};
use super::status::*;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;

/// Bytes of a boot record, at the start of its block.
const RECORD: usize = 512;
const TAG: u32 = u32::from_le_bytes(*b"FsRt");
/// PARTITION_STYLE_MBR and PARTITION_STYLE_GPT.
const STYLE_MBR: u32 = 0;
const STYLE_GPT: u32 = 1;
const TABLE: usize = 0x1be;
const DISK_SIGNATURE: usize = 0x1b8;
/// The type of the one partition of a protective record.
const GPT_PROTECTIVE: u8 = 0xee;
/// Types of a partition that holds a chain of others.
const EXTENDED: [u8; 2] = [0x05, 0x0f];
/// The most records of a chain.
const MOST_RECORDS: usize = 128;
/// Bytes of `DRIVE_LAYOUT_INFORMATION_EX` before its entries, and of a `PARTITION_INFORMATION_EX`.
const LAYOUT_HEAD: usize = 48;
const LAYOUT_ENTRY: usize = 144;

/// Writes both copies of a table. At each moment one of them is whole, if one was: what the disk holds back is on it before
/// the second is begun.
unsafe fn write_table(device: *mut DeviceObject, disk: Geometry, table: &gpt::Table) -> Result<(), NtStatus> {
    for copy in table.copies(disk.block, disk.blocks)? {
        // SAFETY: the callers' device.
        unsafe {
            for (first, data) in copy {
                write(device, disk, first, &data)?;
            }
            match transfer(device, mj::FLUSH_BUFFERS, 0, ptr::null_mut(), 0) {
                // A disk that has no such request holds nothing back.
                STATUS_INVALID_DEVICE_REQUEST | STATUS_NOT_SUPPORTED | STATUS_NOT_IMPLEMENTED => {}
                status if status < 0 => return Err(status),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Reads a disk's table, the backup where the primary one is broken.
unsafe fn read_table(device: *mut DeviceObject, disk: Geometry) -> Result<gpt::Table, NtStatus> {
    // SAFETY: the callers' device.
    gpt::read_table(disk.block, disk.blocks, &mut |first, bytes| unsafe { read(device, disk, first, bytes) })
}

/// Reads the boot record, lets `change` work on it, and writes its block back.
unsafe fn with_record(device: *mut DeviceObject, change: impl FnOnce(&mut [u8]) -> Result<(), NtStatus>) -> NtStatus {
    let work = || {
        // SAFETY: the callers' device.
        unsafe {
            let disk = geometry(device)?;
            let mut block = read(device, disk, 0, disk.block)?;
            change(&mut block[..RECORD])?;
            write(device, disk, 0, &block)
        }
    };
    work().err().unwrap_or(STATUS_SUCCESS)
}

/// A 32-bit number of a structure.
pub(super) fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn is_record(record: &[u8]) -> bool {
    record[510..512] == [0x55, 0xaa]
}

/// The four entries of a record: type, whether it is active, first block, blocks.
fn entries(record: &[u8]) -> [(u8, bool, u32, u32); 4] {
    core::array::from_fn(|index| {
        let from = &record[TABLE + 16 * index..][..16];
        (from[4], from[0] & 0x80 != 0, number(from, 8), number(from, 12))
    })
}

/// Whether a record says that the disk has a GUID partition table: the protective partition is its only one. A hybrid
/// record counts as a master boot record.
fn is_protective(record: &[u8]) -> bool {
    let mut used = entries(record).into_iter().filter(|entry| entry.0 != 0);
    is_record(record) && used.next().is_some_and(|entry| entry.0 == GPT_PROTECTIVE) && used.next().is_none()
}

/// A `DRIVE_LAYOUT_INFORMATION_EX` that is being made.
struct Layout(Vec<u8>);

impl Layout {
    fn new(style: u32) -> Self {
        let mut head = alloc::vec![0; LAYOUT_HEAD];
        head[..4].copy_from_slice(&style.to_le_bytes());
        Self(head)
    }

    /// Adds an entry, with what stands in all of them; the rest of it is zero.
    fn entry(&mut self, start: u64, length: u64, partition: u32) -> &mut [u8] {
        let at = self.0.len();
        let style = self.0[..4].to_vec();
        self.0.resize(at + LAYOUT_ENTRY, 0);
        let entry = &mut self.0[at..];
        entry[..4].copy_from_slice(&style);
        entry[8..16].copy_from_slice(&start.to_le_bytes());
        entry[16..24].copy_from_slice(&length.to_le_bytes());
        entry[24..28].copy_from_slice(&partition.to_le_bytes());
        entry
    }

    /// Puts the count of entries in.
    fn finish(mut self) -> Vec<u8> {
        let count = ((self.0.len() - LAYOUT_HEAD) / LAYOUT_ENTRY) as u32;
        self.0[4..8].copy_from_slice(&count.to_le_bytes());
        self.0
    }

    /// The four entries of one record. `base`: the block that they count from; `link`: the one that a chain's count from.
    fn record(&mut self, record: &[u8], block: usize, base: u64, link: u64, next: &mut u32) {
        for (kind, active, first, blocks) in entries(record) {
            let holds = EXTENDED.contains(&kind);
            let first = u64::from(first)
                + if kind == 0 {
                    0
                } else if holds {
                    link
                } else {
                    base
                };
            // A partition that holds others has no number.
            *next += u32::from(kind != 0 && !holds);
            let own = if kind == 0 || holds { 0 } else { *next };
            let to = self.entry(first * block as u64, u64::from(blocks) * block as u64, own);
            to[32] = kind;
            to[33] = u8::from(active);
            // Recognized: the types that Windows' own file systems use.
            to[34] = u8::from(matches!(kind, 1 | 4 | 6 | 7 | 0xb | 0xc | 0xe));
            to[36..40].copy_from_slice(&(first as u32).to_le_bytes());
        }
    }
}

/// A disk's layout.
unsafe fn layout_of(device: *mut DeviceObject) -> Result<Vec<u8>, NtStatus> {
    // SAFETY: the callers' device.
    unsafe {
        let disk = geometry(device)?;
        let record = read(device, disk, 0, disk.block)?;
        if is_protective(&record) {
            return gpt_layout(device, disk);
        }
        let mut layout = Layout::new(STYLE_MBR);
        // A disk without a record has four empty entries, like one with an empty record.
        if !is_record(&record) {
            (0..4).for_each(|_| _ = layout.entry(0, 0, 0));
            return Ok(layout.finish());
        }
        layout.0[8..12].copy_from_slice(&record[DISK_SIGNATURE..DISK_SIGNATURE + 4]);
        layout.0[12..16].copy_from_slice(&checksum(&record).to_le_bytes());
        let mut next = 0;
        layout.record(&record, disk.block, 0, 0, &mut next);
        let held =
            |record: &[u8]| entries(record).into_iter().find(|e| EXTENDED.contains(&e.0)).map(|e| u64::from(e.2));
        let chain = held(&record);
        let mut places = Vec::new();
        let mut place = chain;
        while let (Some(start), Some(at)) = (chain, place) {
            // A chain that runs in a circle, off the disk or on and on ends where it does.
            if at == 0 || at >= disk.blocks || places.contains(&at) || places.len() == MOST_RECORDS {
                note(format_args!("partitions: the chain of extended partitions is broken at block {at}"));
                break;
            }
            places.push(at);
            let record = read(device, disk, at, disk.block)?;
            if !is_record(&record) {
                break;
            }
            layout.record(&record, disk.block, at, start, &mut next);
            place = held(&record).map(|link| start + link);
        }
        Ok(layout.finish())
    }
}

/// The layout of a disk with a GUID partition table.
unsafe fn gpt_layout(device: *mut DeviceObject, disk: Geometry) -> Result<Vec<u8>, NtStatus> {
    // SAFETY: the callers' device.
    let table = unsafe { read_table(device, disk)? };
    if table.backup {
        note(format_args!("partitions: the primary GUID partition table is broken, its backup is used"));
    }
    let block = disk.block as u64;
    let mut layout = Layout::new(STYLE_GPT);
    layout.0[8..24].copy_from_slice(&table.disk);
    layout.0[24..32].copy_from_slice(&(table.usable.0 * block).to_le_bytes());
    layout.0[32..40].copy_from_slice(&((table.usable.1 - table.usable.0 + 1) * block).to_le_bytes());
    layout.0[40..44].copy_from_slice(&table.room.to_le_bytes());
    for (index, partition) in table.partitions.iter().enumerate() {
        let (first, last) = partition.blocks;
        let to = layout.entry(first * block, (last - first + 1) * block, index as u32 + 1);
        to[32..48].copy_from_slice(&partition.kind);
        to[48..64].copy_from_slice(&partition.id);
        to[64..72].copy_from_slice(&partition.attributes.to_le_bytes());
        to[72..144].copy_from_slice(&partition.name);
    }
    Ok(layout.finish())
}

/// What makes the sum of all words of a record zero.
fn checksum(record: &[u8]) -> u32 {
    let words = record[..RECORD].as_chunks::<4>().0;
    words.iter().fold(0_u32, |sum, word| sum.wrapping_sub(u32::from_le_bytes(*word)))
}

/// Reads a disk's partitions into a `DRIVE_LAYOUT_INFORMATION_EX` in pool, which the caller frees.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoReadPartitionTableEx(device: *mut DeviceObject, layout: *mut *mut u8) -> NtStatus {
    // SAFETY: per the contract; the block has room for the whole layout.
    unsafe {
        let made = match layout_of(device) {
            Ok(made) => made,
            Err(status) => return status,
        };
        let memory = paged_alloc(made.len(), TAG);
        if memory.is_null() {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        ptr::copy_nonoverlapping(made.as_ptr(), memory, made.len());
        *layout = memory;
        STATUS_SUCCESS
    }
}

/// Reads what tells a disk from others: signature and sum of its boot record, or the GUID of its table.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-ioreaddisksignature>
///
/// # Safety
/// The pointers are valid; `signature` is a `DISK_SIGNATURE` of 20 bytes.
pub unsafe extern "win64" fn IoReadDiskSignature(
    device: *mut DeviceObject,
    bytes_per_sector: u32,
    signature: *mut u8,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let read_it = || {
            let disk = geometry(device)?;
            if bytes_per_sector as usize != disk.block {
                return Err(STATUS_INVALID_PARAMETER);
            }
            let record = read(device, disk, 0, disk.block)?;
            let mut out = [0; 20];
            if is_protective(&record) {
                let table = read_table(device, disk)?;
                out[..4].copy_from_slice(&STYLE_GPT.to_le_bytes());
                out[4..20].copy_from_slice(&table.disk);
            } else if is_record(&record) {
                out[4..8].copy_from_slice(&record[DISK_SIGNATURE..DISK_SIGNATURE + 4]);
                out[8..12].copy_from_slice(&checksum(&record).to_le_bytes());
            } else {
                return Err(STATUS_DISK_CORRUPT_ERROR);
            }
            Ok(out)
        };
        match read_it() {
            Ok(out) => {
                ptr::copy_nonoverlapping(out.as_ptr(), signature, out.len());
                STATUS_SUCCESS
            }
            Err(status) => status,
        }
    }
}

/// A 64-bit number of a structure.
pub(super) fn wide(bytes: &[u8], at: usize) -> u64 {
    u64::from(number(bytes, at)) | u64::from(number(bytes, at + 4)) << 32
}

/// A GUID of a structure.
fn guid(bytes: &[u8], at: usize) -> [u8; 16] {
    core::array::from_fn(|n| bytes[at + n])
}

/// Start and length in bytes as the first block and the last one.
fn blocks_of(disk: Geometry, start: u64, length: u64) -> Result<(u64, u64), NtStatus> {
    let block = disk.block as u64;
    let end = start.checked_add(length).ok_or(STATUS_INVALID_PARAMETER)?;
    if length == 0 || !start.is_multiple_of(block) || !length.is_multiple_of(block) {
        return Err(STATUS_INVALID_PARAMETER);
    }
    Ok((start / block, end / block - 1))
}

/// The table that a layout with GUID partitions asks for.
fn table_of(disk: Geometry, head: &[u8], entries: &[u8]) -> Result<gpt::Table, NtStatus> {
    let mut table = gpt::Table::new(disk.block, disk.blocks, guid(head, 8), number(head, 40))?;
    let usable = blocks_of(disk, wide(head, 24), wide(head, 32))?;
    if usable.0 < table.usable.0 || usable.1 > table.usable.1 {
        return Err(STATUS_INVALID_PARAMETER);
    }
    table.usable = usable;
    for (slot, entry) in entries.chunks_exact(LAYOUT_ENTRY).enumerate() {
        let kind = guid(entry, 32);
        if number(entry, 0) != STYLE_GPT {
            return Err(STATUS_INVALID_PARAMETER);
        }
        if kind == [0; 16] {
            continue;
        }
        let blocks = blocks_of(disk, wide(entry, 8), wide(entry, 16))?;
        let name = core::array::from_fn(|n| entry[72 + n]);
        table.put(gpt::Partition { slot, kind, id: guid(entry, 48), blocks, attributes: wide(entry, 64), name })?;
    }
    Ok(table)
}

/// Writes the partitions of a `DRIVE_LAYOUT_INFORMATION_EX`, of the style that the disk has: STATUS_UNSUCCESSFUL if sector
/// zero says another. Of a master boot record's, at most four: no chain is written.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-iowritepartitiontableex>
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoWritePartitionTableEx(device: *mut DeviceObject, layout: *const u8) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let head = core::slice::from_raw_parts(layout, LAYOUT_HEAD);
        let (style, count) = (number(head, 0), number(head, 4) as usize);
        let entries = core::slice::from_raw_parts(layout.add(LAYOUT_HEAD), count * LAYOUT_ENTRY);
        let Ok(disk) = geometry(device) else { return STATUS_DEVICE_NOT_READY };
        match style {
            STYLE_MBR if count <= 4 => with_record(device, |record| write_record(disk, record, head, entries)),
            STYLE_MBR => STATUS_NOT_SUPPORTED,
            STYLE_GPT => {
                let write_it = || {
                    if !is_protective(&read(device, disk, 0, disk.block)?) {
                        return Err(STATUS_UNSUCCESSFUL);
                    }
                    let mut table = table_of(disk, head, entries)?;
                    table.backup = read_table(device, disk).is_ok_and(|old| old.backup);
                    write_table(device, disk, &table)
                };
                write_it().err().unwrap_or(STATUS_SUCCESS)
            }
            _ => STATUS_INVALID_PARAMETER,
        }
    }
}

/// Puts the entries of a layout in a master boot record.
fn write_record(disk: Geometry, record: &mut [u8], head: &[u8], entries: &[u8]) -> Result<(), NtStatus> {
    if !is_record(record) || is_protective(record) {
        return Err(STATUS_UNSUCCESSFUL);
    }
    record[DISK_SIGNATURE..DISK_SIGNATURE + 4].copy_from_slice(&head[8..12]);
    record[TABLE..TABLE + 64].fill(0);
    for (index, entry) in entries.chunks_exact(LAYOUT_ENTRY).enumerate() {
        let (start, sectors) = (wide(entry, 8) / disk.block as u64, wide(entry, 16) / disk.block as u64);
        let (Ok(start), Ok(sectors)) = (u32::try_from(start), u32::try_from(sectors)) else {
            return Err(STATUS_INVALID_PARAMETER);
        };
        let to = &mut record[TABLE + 16 * index..][..16];
        to[0] = if entry[33] != 0 { 0x80 } else { 0 };
        to[4] = entry[32];
        to[8..12].copy_from_slice(&start.to_le_bytes());
        to[12..16].copy_from_slice(&sectors.to_le_bytes());
    }
    Ok(())
}

/// Writes an empty table, as a `CREATE_DISK` asks; NULL deletes what there is. The record comes last with a GUID partition
/// table and first without one: until it is written the disk has what it had.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-iocreatedisk>
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoCreateDisk(device: *mut DeviceObject, disk: *const c_void) -> NtStatus {
    // SAFETY: per the contract; PartitionStyle comes first, then the signature, or the GUID and the count of partitions.
    unsafe {
        let what = disk.cast::<u8>();
        let style = if what.is_null() { STYLE_MBR } else { what.cast::<u32>().read_unaligned() };
        let create = || {
            let disk = geometry(device)?;
            match style {
                STYLE_MBR => {
                    let signature = if what.is_null() { 0 } else { what.cast::<u32>().add(1).read_unaligned() };
                    record(device, signature, None)?;
                    // What is left of a GUID partition table is not to be taken for one.
                    for place in [1, disk.blocks.saturating_sub(1)] {
                        if gpt::is_header(&read(device, disk, place, disk.block)?) {
                            write(device, disk, place, &alloc::vec![0; disk.block])?;
                        }
                    }
                    Ok(())
                }
                STYLE_GPT => {
                    let what = core::slice::from_raw_parts(what, 24);
                    let mut table = gpt::Table::new(disk.block, disk.blocks, guid(what, 4), number(what, 20))?;
                    table.backup = read_table(device, disk).is_ok_and(|old| old.backup);
                    write_table(device, disk, &table)?;
                    record(device, 0, Some(u32::try_from(disk.blocks - 1).unwrap_or(u32::MAX)))
                }
                _ => Err(STATUS_INVALID_PARAMETER),
            }
        };
        create().err().unwrap_or(STATUS_SUCCESS)
    }
}

/// Writes a boot record with no partition, or with the protective one of so many blocks.
unsafe fn record(device: *mut DeviceObject, signature: u32, protected: Option<u32>) -> Result<(), NtStatus> {
    // SAFETY: the callers' device.
    let status = unsafe {
        with_record(device, |record| {
            record[DISK_SIGNATURE..DISK_SIGNATURE + 4].copy_from_slice(&signature.to_le_bytes());
            record[TABLE..TABLE + 64].fill(0);
            if let Some(blocks) = protected {
                // From cylinder, head and sector 0/0/2 on, to an end that these cannot name.
                record[TABLE..TABLE + 8].copy_from_slice(&[0, 0, 2, 0, GPT_PROTECTIVE, 0xff, 0xff, 0xff]);
                record[TABLE + 8..TABLE + 12].copy_from_slice(&1_u32.to_le_bytes());
                record[TABLE + 12..TABLE + 16].copy_from_slice(&blocks.to_le_bytes());
            }
            record[510..].copy_from_slice(&[0x55, 0xaa]);
            Ok(())
        })
    };
    if status < 0 { Err(status) } else { Ok(()) }
}

/// Whether a disk's partition table has no errors; with `fix` a broken copy of a GUID partition table is made from the other
/// one. STATUS_DISK_CORRUPT_ERROR if there are errors, and some are left.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-ioverifypartitiontable>
///
/// # Safety
/// The device is valid.
pub unsafe extern "win64" fn IoVerifyPartitionTable(device: *mut DeviceObject, fix: u8) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let verify = || {
            let disk = geometry(device)?;
            let record = read(device, disk, 0, disk.block)?;
            if !is_protective(&record) {
                return if is_record(&record) { Ok(()) } else { Err(STATUS_DISK_CORRUPT_ERROR) };
            }
            let copy = |backup| {
                gpt::read_copy(disk.block, disk.blocks, backup, &mut |at, bytes| read(device, disk, at, bytes))
            };
            match (copy(false), copy(true)) {
                (Ok(primary), Ok(backup)) if primary.same(&backup) => Ok(()),
                (Ok(table), _) | (_, Ok(table)) if fix != 0 => write_table(device, disk, &table),
                _ => Err(STATUS_DISK_CORRUPT_ERROR),
            }
        };
        verify().err().unwrap_or(STATUS_SUCCESS)
    }
}

unsafe fn set_type(device: *mut DeviceObject, partition: u32, kind: u8) -> NtStatus {
    if !(1..=4).contains(&partition) {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the callers' device.
    unsafe {
        with_record(device, |record| {
            let at = TABLE + 16 * (partition as usize - 1);
            if !is_record(record) || record[at + 4] == 0 || record[at + 4] == GPT_PROTECTIVE {
                return Err(STATUS_INVALID_PARAMETER);
            }
            record[at + 4] = kind;
            Ok(())
        })
    }
}

/// Sets what a `SET_PARTITION_INFORMATION_EX` says of a partition: its type, or type, GUID, attributes and name.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-iosetpartitioninformationex>
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoSetPartitionInformationEx(
    device: *mut DeviceObject,
    partition: u32,
    information: *const u8,
) -> NtStatus {
    // SAFETY: per the contract; PartitionStyle comes first, the rest at offset 8.
    unsafe {
        match information.cast::<u32>().read_unaligned() {
            STYLE_MBR => set_type(device, partition, information.add(8).read()),
            STYLE_GPT => {
                let set = || {
                    let disk = geometry(device)?;
                    if !is_protective(&read(device, disk, 0, disk.block)?) {
                        return Err(STATUS_INVALID_PARAMETER);
                    }
                    let mut table = read_table(device, disk)?;
                    let place = (partition as usize).checked_sub(1);
                    let old = place.and_then(|place| table.partitions.get(place)).ok_or(STATUS_INVALID_PARAMETER)?;
                    let new = core::slice::from_raw_parts(information.add(8), 112);
                    let (slot, blocks, attributes) = (old.slot, old.blocks, wide(new, 32));
                    let name = core::array::from_fn(|n| new[40 + n]);
                    let (kind, id) = (guid(new, 0), guid(new, 16));
                    table.put(gpt::Partition { slot, kind, id, blocks, attributes, name })?;
                    write_table(device, disk, &table)
                };
                set().err().unwrap_or(STATUS_SUCCESS)
            }
            _ => STATUS_INVALID_PARAMETER,
        }
    }
}

/// Sets the type of a partition.
///
/// # Safety
/// The device is valid.
pub unsafe extern "win64" fn IoSetPartitionInformation(
    device: *mut DeviceObject,
    _sector_size: u32,
    partition: u32,
    kind: u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { set_type(device, partition, kind as u8) }
}
