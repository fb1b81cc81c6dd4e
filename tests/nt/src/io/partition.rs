//! Partition tables of disks, the old interface: `IoReadPartitionTableEx` and its kin. IRQL = PASSIVE_LEVEL.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-ioreadpartitiontableex>. Master boot records
//! with their chains of extended partitions are read and, but for those chains, written; GUID partition tables (`gpt`)
//! are read, and refused with STATUS_NOT_SUPPORTED where they are to be written.
use super::abi::*;
use super::gpt;
use super::irp::{IofCallDriver, wait_for};
use super::kernel::{note, paged_alloc, pool_alloc, pool_free};
use super::request::{IoBuildSynchronousFsdRequest, control};
use super::status::*;
use crate::ke::{self, abi::Event};
use alloc::vec::Vec;
use core::ffi::c_void;
use core::mem::zeroed;
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
const IOCTL_DISK_GET_DRIVE_GEOMETRY_EX: u32 = 0x0007_00a0;

/// A disk's blocks.
#[derive(Clone, Copy)]
struct Geometry {
    block: usize,
    blocks: u64,
}

/// Asks a disk for its blocks.
unsafe fn geometry(device: *mut DeviceObject) -> Result<Geometry, NtStatus> {
    let mut answer = [0; 32];
    // SAFETY: the callers' device.
    let (status, _) = unsafe { control(device, IOCTL_DISK_GET_DRIVE_GEOMETRY_EX, &[], &mut answer, false) };
    if status < 0 {
        return Err(status);
    }
    let block = number(&answer, 20) as usize;
    if !block.is_power_of_two() || !(RECORD..=0x10000).contains(&block) {
        return Err(STATUS_INVALID_PARAMETER);
    }
    let bytes = u64::from(number(&answer, 24)) | u64::from(number(&answer, 28)) << 32;
    Ok(Geometry { block, blocks: bytes / block as u64 })
}

/// Reads or writes whole blocks.
unsafe fn transfer(device: *mut DeviceObject, start: i64, buffer: *mut u8, bytes: usize, write: bool) -> NtStatus {
    // SAFETY: the callers' device; the buffer has so many bytes; event and block outlive the wait.
    unsafe {
        let mut event: Event = zeroed();
        ke::KeInitializeEvent(&raw mut event, 0, 0);
        let mut iosb = IoStatusBlock::new(0, 0);
        let major = if write { mj::WRITE } else { mj::READ };
        let irp = IoBuildSynchronousFsdRequest(
            u32::from(major),
            device,
            buffer.cast(),
            bytes as u32,
            &raw const start,
            &raw mut event,
            &raw mut iosb,
        );
        if irp.is_null() {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        let status = IofCallDriver(device, irp);
        if status != STATUS_PENDING {
            return status;
        }
        wait_for(&raw mut event);
        ptr::read_volatile(&raw const iosb.status)
    }
}

/// Reads whole blocks of a disk.
unsafe fn read(device: *mut DeviceObject, disk: Geometry, first: u64, bytes: usize) -> Result<Vec<u8>, NtStatus> {
    let inside = first.checked_add((bytes / disk.block) as u64).is_some_and(|end| end <= disk.blocks);
    if !inside || bytes == 0 {
        return Err(STATUS_DISK_CORRUPT_ERROR);
    }
    let memory = pool_alloc(bytes, TAG);
    if memory.is_null() {
        return Err(STATUS_INSUFFICIENT_RESOURCES);
    }
    // SAFETY: the callers' device; the block has so many bytes, zeroes where the disk gave fewer.
    unsafe {
        ptr::write_bytes(memory, 0, bytes);
        let status = transfer(device, (first * disk.block as u64) as i64, memory, bytes, false);
        let data = core::slice::from_raw_parts(memory, bytes).to_vec();
        pool_free(memory, TAG);
        if status < 0 { Err(status) } else { Ok(data) }
    }
}

/// Reads the boot record, lets `change` work on it, and writes its block back.
unsafe fn with_record(device: *mut DeviceObject, change: impl FnOnce(&mut [u8]) -> Result<(), NtStatus>) -> NtStatus {
    // SAFETY: the callers' device; the buffer has a block.
    unsafe {
        let disk = match geometry(device) {
            Ok(disk) => disk,
            Err(status) => return status,
        };
        let memory = pool_alloc(disk.block, TAG);
        if memory.is_null() {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        let status = match transfer(device, 0, memory, disk.block, false) {
            status if status < 0 => status,
            _ => match change(core::slice::from_raw_parts_mut(memory, RECORD)) {
                Ok(()) => transfer(device, 0, memory, disk.block, true),
                Err(status) => status,
            },
        };
        pool_free(memory, TAG);
        status
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
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
    let table =
        gpt::read_table(disk.block, disk.blocks, &mut |first, bytes| unsafe { read(device, disk, first, bytes) })?;
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
                let table = gpt::read_table(disk.block, disk.blocks, &mut |at, bytes| read(device, disk, at, bytes))?;
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

/// Writes the partitions of a `DRIVE_LAYOUT_INFORMATION_EX` with at most four entries.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoWritePartitionTableEx(device: *mut DeviceObject, layout: *const u8) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let head = core::slice::from_raw_parts(layout, LAYOUT_HEAD);
        let count = number(head, 4) as usize;
        if number(head, 0) != STYLE_MBR || count > 4 {
            return STATUS_NOT_SUPPORTED;
        }
        let entries = core::slice::from_raw_parts(layout.add(LAYOUT_HEAD), count * LAYOUT_ENTRY);
        let disk = match geometry(device) {
            Ok(disk) => disk,
            Err(status) => return status,
        };
        with_record(device, |record| {
            if is_protective(record) {
                return Err(STATUS_NOT_SUPPORTED);
            }
            record[DISK_SIGNATURE..DISK_SIGNATURE + 4].copy_from_slice(&head[8..12]);
            record[TABLE..TABLE + 64].fill(0);
            for (index, entry) in entries.chunks_exact(LAYOUT_ENTRY).enumerate() {
                let wide = |at: usize| u64::from(number(entry, at)) | u64::from(number(entry, at + 4)) << 32;
                let (start, sectors) = (wide(8) / disk.block as u64, wide(16) / disk.block as u64);
                let (Ok(start), Ok(sectors)) = (u32::try_from(start), u32::try_from(sectors)) else {
                    return Err(STATUS_INVALID_PARAMETER);
                };
                let to = &mut record[TABLE + 16 * index..][..16];
                to[0] = if entry[33] != 0 { 0x80 } else { 0 };
                to[4] = entry[32];
                to[8..12].copy_from_slice(&start.to_le_bytes());
                to[12..16].copy_from_slice(&sectors.to_le_bytes());
            }
            record[510..].copy_from_slice(&[0x55, 0xaa]);
            Ok(())
        })
    }
}

/// Writes an empty table, as a `CREATE_DISK` asks (NULL: without a signature).
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoCreateDisk(device: *mut DeviceObject, disk: *const c_void) -> NtStatus {
    // SAFETY: per the contract; PartitionStyle and the signature are the first two numbers.
    unsafe {
        let (style, signature) = if disk.is_null() {
            (STYLE_MBR, 0)
        } else {
            (disk.cast::<u32>().read_unaligned(), disk.cast::<u32>().add(1).read_unaligned())
        };
        if style != STYLE_MBR {
            return STATUS_NOT_SUPPORTED;
        }
        with_record(device, |record| {
            record[DISK_SIGNATURE..DISK_SIGNATURE + 4].copy_from_slice(&u32::to_le_bytes(signature));
            record[TABLE..TABLE + 64].fill(0);
            record[510..].copy_from_slice(&[0x55, 0xaa]);
            Ok(())
        })
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

/// Sets the type of a partition, from a `SET_PARTITION_INFORMATION_EX`.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoSetPartitionInformationEx(
    device: *mut DeviceObject,
    partition: u32,
    information: *const u8,
) -> NtStatus {
    // SAFETY: per the contract; PartitionStyle comes first, the type at offset 8.
    unsafe {
        if information.cast::<u32>().read_unaligned() != STYLE_MBR {
            return STATUS_NOT_SUPPORTED;
        }
        set_type(device, partition, information.add(8).read())
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
