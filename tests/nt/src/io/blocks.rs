//! Blocks of a disk, read and written by IRPs. IRQL = PASSIVE_LEVEL.
use super::abi::*;
use super::irp::{IofCallDriver, wait_for};
use super::kernel::{pool_alloc, pool_free};
use super::request::{IoBuildSynchronousFsdRequest, control};
use super::status::*;
use crate::ke::{self, abi::Event};
use alloc::vec::Vec;
use core::mem::zeroed;
use core::ptr;

const TAG: u32 = u32::from_le_bytes(*b"FsRt");
const IOCTL_DISK_GET_DRIVE_GEOMETRY_EX: u32 = 0x0007_00a0;

/// A disk's blocks.
#[derive(Clone, Copy)]
pub struct Geometry {
    /// Bytes of a block.
    pub block: usize,
    /// How many there are.
    pub blocks: u64,
}

/// Asks a disk for its blocks.
///
/// # Errors
/// What it answers; STATUS_INVALID_PARAMETER for blocks that no disk has.
///
/// # Safety
/// The device is valid.
pub unsafe fn geometry(device: *mut DeviceObject) -> Result<Geometry, NtStatus> {
    let mut answer = [0; 32];
    // SAFETY: the callers' device.
    let (status, _) = unsafe { control(device, IOCTL_DISK_GET_DRIVE_GEOMETRY_EX, &[], &mut answer, false) };
    if status < 0 {
        return Err(status);
    }
    let block = super::partition::number(&answer, 20) as usize;
    if !block.is_power_of_two() || !(512..=0x10000).contains(&block) {
        return Err(STATUS_INVALID_PARAMETER);
    }
    let bytes = super::partition::wide(&answer, 24);
    Ok(Geometry { block, blocks: bytes / block as u64 })
}

/// Reads or writes whole blocks, or without any flushes what the disk holds back.
///
/// # Safety
/// The device is valid, the buffer has so many bytes.
pub unsafe fn transfer(device: *mut DeviceObject, major: u8, start: i64, buffer: *mut u8, bytes: usize) -> NtStatus {
    // SAFETY: the callers' device; the buffer has so many bytes; event and block outlive the wait.
    unsafe {
        let mut event: Event = zeroed();
        ke::KeInitializeEvent(&raw mut event, 0, 0);
        let mut iosb = IoStatusBlock::new(0, 0);
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
///
/// # Errors
/// STATUS_DISK_CORRUPT_ERROR: it has no such blocks; STATUS_INSUFFICIENT_RESOURCES; what it answers.
///
/// # Safety
/// The device is valid.
pub unsafe fn read(device: *mut DeviceObject, disk: Geometry, first: u64, bytes: usize) -> Result<Vec<u8>, NtStatus> {
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
        let status = transfer(device, mj::READ, (first * disk.block as u64) as i64, memory, bytes);
        let data = core::slice::from_raw_parts(memory, bytes).to_vec();
        pool_free(memory, TAG);
        if status < 0 { Err(status) } else { Ok(data) }
    }
}

/// Writes whole blocks of a disk.
///
/// # Errors
/// STATUS_INSUFFICIENT_RESOURCES; what it answers.
///
/// # Safety
/// The device is valid.
pub unsafe fn write(device: *mut DeviceObject, disk: Geometry, first: u64, data: &[u8]) -> Result<(), NtStatus> {
    let memory = pool_alloc(data.len(), TAG);
    if memory.is_null() {
        return Err(STATUS_INSUFFICIENT_RESOURCES);
    }
    // SAFETY: the callers' device; the buffer has so many bytes.
    unsafe {
        ptr::copy_nonoverlapping(data.as_ptr(), memory, data.len());
        let status = transfer(device, mj::WRITE, (first * disk.block as u64) as i64, memory, data.len());
        pool_free(memory, TAG);
        if status < 0 { Err(status) } else { Ok(()) }
    }
}
