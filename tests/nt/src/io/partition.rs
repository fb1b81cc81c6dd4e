//! Partition tables of disks, the old interface: `IoReadPartitionTableEx` and its kin, for disks with a master boot
//! record. IRQL = PASSIVE_LEVEL.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-ioreadpartitiontableex>. A GUID partition
//! table is recognized and refused with STATUS_NOT_SUPPORTED.
use super::abi::*;
use super::irp::{IofCallDriver, wait_for};
use super::kernel::{paged_alloc, pool_alloc, pool_free};
use super::request::IoBuildSynchronousFsdRequest;
use super::status::*;
use crate::ke::{self, abi::Event};
use core::ffi::c_void;
use core::mem::zeroed;
use core::ptr;

const SECTOR: usize = 512;
const TAG: u32 = u32::from_le_bytes(*b"FsRt");
/// PARTITION_STYLE_MBR.
const STYLE_MBR: u32 = 0;
const TABLE: usize = 0x1be;
const DISK_SIGNATURE: usize = 0x1b8;
/// The type of the one partition of a protective record.
const GPT_PROTECTIVE: u8 = 0xee;
/// Bytes of `DRIVE_LAYOUT_INFORMATION_EX` before its entries, and of a `PARTITION_INFORMATION_EX`.
const LAYOUT_HEAD: usize = 48;
const LAYOUT_ENTRY: usize = 144;

/// Reads or writes the first sector.
unsafe fn boot_record(device: *mut DeviceObject, sector: *mut u8, write: bool) -> NtStatus {
    // SAFETY: the callers' device; the buffer has a sector; event and block outlive the wait.
    unsafe {
        let mut event: Event = zeroed();
        ke::KeInitializeEvent(&raw mut event, 0, 0);
        let mut iosb = IoStatusBlock::new(0, 0);
        let start = 0i64;
        let major = if write { mj::WRITE } else { mj::READ };
        let irp = IoBuildSynchronousFsdRequest(
            u32::from(major),
            device,
            sector.cast(),
            SECTOR as u32,
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

/// Reads the first sector, lets `change` work on it, and writes it back if `change` says so.
unsafe fn with_record(device: *mut DeviceObject, change: impl FnOnce(&mut [u8]) -> Result<bool, NtStatus>) -> NtStatus {
    let memory = pool_alloc(SECTOR, TAG);
    if memory.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the callers' device; the block has a sector.
    let status = unsafe {
        match boot_record(device, memory, false) {
            status if status < 0 => status,
            _ => match change(core::slice::from_raw_parts_mut(memory, SECTOR)) {
                Ok(true) => boot_record(device, memory, true),
                Ok(false) => STATUS_SUCCESS,
                Err(status) => status,
            },
        }
    };
    pool_free(memory, TAG);
    status
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads a disk's partitions into a `DRIVE_LAYOUT_INFORMATION_EX` in pool, which the caller frees.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoReadPartitionTableEx(device: *mut DeviceObject, layout: *mut *mut u8) -> NtStatus {
    let size = LAYOUT_HEAD + 4 * LAYOUT_ENTRY;
    let memory = paged_alloc(size, TAG);
    if memory.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the block has `size` bytes; the rest per the contract.
    unsafe {
        let out = core::slice::from_raw_parts_mut(memory, size);
        let status = with_record(device, |record| {
            out[..4].copy_from_slice(&STYLE_MBR.to_le_bytes());
            // A disk without a record has four empty entries, like one with an empty record.
            out[4..8].copy_from_slice(&4u32.to_le_bytes());
            if record[510..] != [0x55, 0xaa] {
                return Ok(false);
            }
            out[8..12].copy_from_slice(&record[DISK_SIGNATURE..DISK_SIGNATURE + 4]);
            for index in 0..4 {
                let from = &record[TABLE + 16 * index..][..16];
                let kind = from[4];
                if kind == GPT_PROTECTIVE {
                    return Err(STATUS_NOT_SUPPORTED);
                }
                let (start, sectors) = (number(from, 8), number(from, 12));
                let to = &mut out[LAYOUT_HEAD + LAYOUT_ENTRY * index..][..LAYOUT_ENTRY];
                to[8..16].copy_from_slice(&(u64::from(start) * SECTOR as u64).to_le_bytes());
                to[16..24].copy_from_slice(&(u64::from(sectors) * SECTOR as u64).to_le_bytes());
                let used = if kind == 0 { 0 } else { index as u32 + 1 };
                to[24..28].copy_from_slice(&used.to_le_bytes());
                to[32] = kind;
                to[33] = u8::from(from[0] & 0x80 != 0);
                // Recognized: the types that Windows' own file systems use.
                to[34] = u8::from(matches!(kind, 1 | 4 | 6 | 7 | 0xb | 0xc | 0xe));
                to[36..40].copy_from_slice(&start.to_le_bytes());
            }
            Ok(false)
        });
        if status < 0 {
            pool_free(memory, TAG);
            return status;
        }
        *layout = memory;
        STATUS_SUCCESS
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
        with_record(device, |record| {
            record[DISK_SIGNATURE..DISK_SIGNATURE + 4].copy_from_slice(&head[8..12]);
            record[TABLE..TABLE + 64].fill(0);
            for (index, entry) in entries.chunks_exact(LAYOUT_ENTRY).enumerate() {
                let wide = |at: usize| u64::from(number(entry, at)) | u64::from(number(entry, at + 4)) << 32;
                let (start, sectors) = (wide(8) / SECTOR as u64, wide(16) / SECTOR as u64);
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
            Ok(true)
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
            Ok(true)
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
            if record[510..] != [0x55, 0xaa] || record[at + 4] == 0 || record[at + 4] == GPT_PROTECTIVE {
                return Err(STATUS_INVALID_PARAMETER);
            }
            record[at + 4] = kind;
            Ok(true)
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
