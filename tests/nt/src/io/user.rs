//! What a user-mode program does with a device: finds its interface, opens it with a token, reads and writes overlapped,
//! cancels, closes.
use super::abi::*;
use super::device::IoGetAttachedDeviceReference;
use super::file;
use super::irp::{self, IoCancelIrp, IoFreeIrp, IofCallDriver, next};
use super::kernel::pool_free;
use super::request;
use super::security::{self, Token};
use super::status::*;
use crate::ke::{self, abi::Event};
use crate::ob::{ObfDereferenceObject, ObfReferenceObject, handle};
use crate::platform::{PAGE_SIZE, platform};
use crate::pnp;
use crate::rtl::abi::Guid;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::mem::zeroed;
use core::ptr::{self, NonNull};

/// UserMode.
const USER_MODE: i8 = 1;

/// The links of the enabled interfaces of a class.
pub fn interfaces(class: [u8; 16]) -> Vec<String> {
    let c = class;
    pnp::interface::enabled(&Guid {
        data1: u32::from_le_bytes([c[0], c[1], c[2], c[3]]),
        data2: u16::from_le_bytes([c[4], c[5]]),
        data3: u16::from_le_bytes([c[6], c[7]]),
        data4: [c[8], c[9], c[10], c[11], c[12], c[13], c[14], c[15]],
    })
}

/// An open file. Dropping it closes its handle.
pub struct UserFile {
    handle: *mut c_void,
    file: *mut FileObject,
    access: u32,
}

// SAFETY: handles and file objects belong to no processor.
unsafe impl Send for UserFile {}
// SAFETY: as above; the I/O manager's functions may be called by several threads.
unsafe impl Sync for UserFile {}

impl UserFile {
    /// Opens a name with a token and an access mask (`GENERIC_*`). IRQL = PASSIVE_LEVEL.
    ///
    /// # Errors
    /// STATUS_ACCESS_DENIED, or what the device answered.
    pub fn open(path: &str, access: u32, token: Token) -> Result<Self, NtStatus> {
        // SAFETY: PASSIVE_LEVEL, as the caller says.
        unsafe {
            let file = file::open_as(path, file::How::plainly(access, 0), Some(token))?;
            let handle = file::handle_of(file, access);
            Ok(Self { handle, file, access: security::rights(access) })
        }
    }

    unsafe fn start(&self, major: u8, bytes: &[u8]) -> Result<Overlapped, NtStatus> {
        let wanted = if major == mj::READ { security::READ } else { security::WRITE };
        if self.access & wanted == 0 {
            return Err(STATUS_ACCESS_DENIED);
        }
        // SAFETY: the file is open; what the IRP points to lives until `Overlapped` is dropped, which waits for it.
        unsafe {
            let top = IoGetAttachedDeviceReference((*self.file).device);
            let Some(buffer) = UserBuffer::of(bytes) else {
                ObfDereferenceObject(top.cast());
                return Err(STATUS_INSUFFICIENT_RESOURCES);
            };
            let mut event: Box<Event> = Box::new(zeroed());
            ke::KeInitializeEvent(&raw mut *event, 0, 0);
            let irp = request::IoBuildAsynchronousFsdRequest(
                u32::from(major),
                top,
                buffer.base.as_ptr().cast(),
                buffer.length as u32,
                ptr::null(),
                ptr::null_mut(),
            );
            if irp.is_null() {
                ObfDereferenceObject(top.cast());
                return Err(STATUS_INSUFFICIENT_RESOURCES);
            }
            (*irp).requestor_mode = USER_MODE;
            (*irp).original_file = self.file;
            (*next(irp)).file = self.file;
            irp::set_completion(irp, keep, (&raw mut *event).cast());
            ObfReferenceObject(self.file.cast());
            IofCallDriver(top, irp);
            ObfDereferenceObject(top.cast());
            Ok(Overlapped { irp, file: self.file, event, buffer, read: major == mj::READ })
        }
    }

    /// Starts a read of at most `length` bytes. IRQL = PASSIVE_LEVEL.
    ///
    /// # Errors
    /// The handle may not read, or there is no memory.
    pub fn read(&self, length: usize) -> Result<Overlapped, NtStatus> {
        // SAFETY: PASSIVE_LEVEL, as the caller says.
        unsafe { self.start(mj::READ, &alloc::vec![0; length]) }
    }

    /// Writes and waits. IRQL = PASSIVE_LEVEL.
    ///
    /// # Errors
    /// What the device answered, or that the handle may not write.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, NtStatus> {
        // SAFETY: PASSIVE_LEVEL, as the caller says.
        let written = unsafe { self.start(mj::WRITE, bytes) }?;
        let (status, moved, _) = written.wait();
        if status < 0 { Err(status) } else { Ok(moved) }
    }
}

impl Drop for UserFile {
    fn drop(&mut self) {
        // SAFETY: the handle is open.
        unsafe { handle::ZwClose(self.handle) };
    }
}

/// A program's buffer: pageable memory, which a driver locks before it touches it at DISPATCH_LEVEL.
struct UserBuffer {
    base: NonNull<u8>,
    pages: usize,
    length: usize,
}

impl UserBuffer {
    /// With these bytes in it. `None`: no memory.
    fn of(bytes: &[u8]) -> Option<Self> {
        let pages = bytes.len().div_ceil(PAGE_SIZE).max(1);
        let base = platform().alloc_pages(pages)?;
        platform().set_pageable(base, pages, true);
        // SAFETY: fresh pages with room for the bytes, written at PASSIVE_LEVEL.
        unsafe { base.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Some(Self { base, pages, length: bytes.len() })
    }
}

impl Drop for UserBuffer {
    fn drop(&mut self) {
        platform().free_pages(self.base, self.pages);
    }
}

/// The IRP stays the originator's: it may be cancelled until it is done.
unsafe extern "win64" fn keep(_: *mut DeviceObject, _irp: *mut Irp, context: *mut c_void) -> NtStatus {
    // SAFETY: the context is the event of an `Overlapped`, which waits for it.
    unsafe { ke::KeSetEvent(context.cast(), 0, 0) };
    STATUS_MORE_PROCESSING_REQUIRED
}

/// A read or write under way. Dropping it cancels it and waits.
pub struct Overlapped {
    irp: *mut Irp,
    file: *mut FileObject,
    event: Box<Event>,
    buffer: UserBuffer,
    read: bool,
}

// SAFETY: an IRP belongs to no processor.
unsafe impl Send for Overlapped {}

impl Overlapped {
    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        // SAFETY: the event is initialized.
        unsafe { ke::KeReadStateEvent((&raw const *self.event).cast_mut()) != 0 }
    }

    /// Asks for its end. IRQL = PASSIVE_LEVEL.
    pub fn cancel(&self) {
        // SAFETY: the IRP stays until this value is dropped.
        unsafe { IoCancelIrp(self.irp) };
    }

    /// Waits for its end: status, bytes moved, and the bytes that were read. IRQL = PASSIVE_LEVEL.
    pub fn wait(mut self) -> (NtStatus, usize, Vec<u8>) {
        self.settle();
        // SAFETY: the IRP is done and this value's.
        let IoStatusBlock { status, information, .. } = unsafe { (*self.irp).io_status };
        let mut bytes = Vec::new();
        if self.read && status >= 0 {
            // SAFETY: with buffered I/O the system buffer is as long as the caller's.
            let system = unsafe { (*self.irp).associated.cast::<u8>() };
            let moved = information.min(self.buffer.length);
            if !system.is_null() {
                // SAFETY: as above.
                bytes.extend_from_slice(unsafe { core::slice::from_raw_parts(system, moved) });
            }
        }
        (status, information, bytes)
    }

    fn settle(&mut self) {
        // SAFETY: the event is set when the IRP is done.
        unsafe { irp::wait_for(&raw mut *self.event) };
    }
}

impl Drop for Overlapped {
    fn drop(&mut self) {
        if !self.is_done() {
            self.cancel();
        }
        self.settle();
        // SAFETY: the IRP is done and this value's, as is its system buffer; the file was referenced for it.
        unsafe {
            if (*self.irp).flags & irp_flags::DEALLOCATE_BUFFER != 0 {
                pool_free((*self.irp).associated.cast(), 0);
            }
            IoFreeIrp(self.irp);
            ObfDereferenceObject(self.file.cast());
        }
    }
}
