//! IRPs of drivers above the disk: reads and writes by byte offset, and the queries that a partition manager makes.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntdddisk/>

use super::driver::Disk;
use super::io::{Buffer, Operation};
use crate::io::abi::{Irp, mj};
use crate::io::irp::{current, mark_pending};
use crate::mm::abi::Mdl;
use crate::mm::mdl::system_address;
use crate::status::*;
use crate::storport::driver::{finish, pass};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;

/// `STATUS_IO_DEVICE_ERROR`.
const STATUS_IO_DEVICE_ERROR: NtStatus = 0xC000_0185_u32 as i32;

/// IRP_MJ_READ and IRP_MJ_WRITE: done on a worker thread, through a buffer of the disk's own. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The caller owns the IRP.
pub unsafe fn read_write(disk: &Arc<Disk>, irp: *mut Irp) -> NtStatus {
    // SAFETY: the caller's promise; the IRP stays until it is completed here.
    unsafe {
        let location = *current(irp);
        let (length, offset) = (location.parameters.read_write.length, location.parameters.read_write.offset);
        let info = disk.info();
        let block = u64::from(info.block.max(1));
        let range = u64::try_from(offset).ok().and_then(|o| o.checked_add(u64::from(length)));
        if !u64::from(length).is_multiple_of(block)
            || range.is_none_or(|end| end > info.bytes())
            || !(offset as u64).is_multiple_of(block)
        {
            return finish(irp, STATUS_INVALID_PARAMETER, 0);
        }
        if length == 0 {
            return finish(irp, STATUS_SUCCESS, 0);
        }
        let mdl = (*irp).mdl.cast::<Mdl>();
        let address = if mdl.is_null() { (*irp).user_buffer } else { system_address(mdl) };
        if address.is_null() {
            return finish(irp, STATUS_INSUFFICIENT_RESOURCES, 0);
        }
        mark_pending(irp);
        let write = location.major == mj::WRITE;
        let (disk, irp, address) = (disk.clone(), irp as usize, address as usize);
        crate::storport::work::queue(Box::new(move || {
            let bytes = core::slice::from_raw_parts_mut(address as *mut u8, length as usize);
            let offset = offset as u64;
            let (operation, buffer) = if write {
                (Operation::Write { offset, fua: false }, Buffer::of(bytes, 0))
            } else {
                (Operation::Read { offset }, Buffer::new(bytes.len(), 0))
            };
            let status = match buffer.and_then(|buffer| disk.start(operation, Some(buffer))) {
                Some(ticket) => {
                    let (outcome, buffer) = ticket.wait();
                    if let Some(buffer) = buffer
                        && outcome.good
                        && !write
                    {
                        bytes.copy_from_slice(buffer.bytes());
                    }
                    if outcome.good { STATUS_SUCCESS } else { STATUS_IO_DEVICE_ERROR }
                }
                None => STATUS_INSUFFICIENT_RESOURCES,
            };
            let moved = if nt_success(status) { length as usize } else { 0 };
            finish(irp as *mut Irp, status, moved);
        }));
    }
    STATUS_PENDING
}

/// IRP_MJ_DEVICE_CONTROL: what is not answered here goes down.
///
/// # Safety
/// The caller owns the IRP.
pub unsafe fn control(disk: &Arc<Disk>, irp: *mut Irp) -> NtStatus {
    let info = disk.info();
    let mut geometry = Vec::new();
    // FixedMedia 12 or RemovableMedia 11; 255 tracks a cylinder, 63 sectors a track.
    geometry.extend((info.blocks / (255 * 63)).to_le_bytes());
    for value in [if info.removable { 11u32 } else { 12 }, 255, 63, info.block] {
        geometry.extend(value.to_le_bytes());
    }
    // SAFETY: the caller's promise; the system buffer has room for the output.
    unsafe {
        let ioctl = (*current(irp)).parameters.ioctl;
        let answer = match ioctl.code {
            // IOCTL_DISK_GET_DRIVE_GEOMETRY
            0x0007_0000 => geometry,
            // IOCTL_DISK_GET_DRIVE_GEOMETRY_EX
            0x0007_00a0 => {
                geometry.extend(info.bytes().to_le_bytes());
                geometry
            }
            // IOCTL_DISK_GET_LENGTH_INFO
            0x0007_405c => info.bytes().to_le_bytes().to_vec(),
            // IOCTL_STORAGE_GET_DEVICE_NUMBER: FILE_DEVICE_DISK, number, no partition.
            0x002d_1080 => [7, disk.number as u32, u32::MAX].iter().flat_map(|v| v.to_le_bytes()).collect(),
            // IOCTL_DISK_IS_WRITABLE
            0x0007_0024 => {
                // STATUS_MEDIA_WRITE_PROTECTED
                let status = if info.read_only { 0xC000_00A2_u32 as i32 } else { STATUS_SUCCESS };
                return finish(irp, status, 0);
            }
            _ => return pass(disk.lower, irp),
        };
        if (ioctl.output_length as usize) < answer.len() {
            return finish(irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        ptr::copy_nonoverlapping(answer.as_ptr(), (*irp).associated.cast::<u8>(), answer.len());
        finish(irp, STATUS_SUCCESS, answer.len())
    }
}
