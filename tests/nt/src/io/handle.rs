//! Files by handle: opened, read, written and controlled.
//!
//! A file that was opened for synchronous requests makes its caller wait and has a position. Any other gives
//! STATUS_PENDING where the driver is not done at once, and the caller's event says when.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-zwcreatefile>,
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-zwreadfile>
use super::abi::*;
use super::device::IoGetAttachedDeviceReference;
use super::file::{FO_SYNCHRONOUS_IO, How, handle_of, open_as};
use super::irp::{self, IofCallDriver, next, wait_for};
use super::request::{IoBuildDeviceIoControlRequest, IoBuildSynchronousFsdRequest};
use super::status::*;
use crate::ke::{self, abi::Event};
use crate::ob::namespace::{self, ObjectAttributes};
use crate::ob::{Kind, ObfDereferenceObject, handle};
use crate::storport::work;
use alloc::boxed::Box;
use core::ffi::c_void;
use core::mem::zeroed;
use core::ptr;

/// `SYNCHRONIZE`.
const SYNCHRONIZE: u32 = 0x10_0000;
/// `FILE_SYNCHRONOUS_IO_ALERT` and `FILE_SYNCHRONOUS_IO_NONALERT`.
const SYNCHRONOUS: u32 = 0x30;
/// `FILE_OVERWRITE_IF`, the last of the dispositions.
const LAST_DISPOSITION: u32 = 5;
/// `FILE_USE_FILE_POINTER_POSITION`, as an offset.
const POSITION: i64 = -2;

unsafe fn create(
    result: *mut Handle,
    attributes: *const ObjectAttributes,
    iosb: *mut IoStatusBlock,
    how: How,
) -> NtStatus {
    // Who waits must be allowed to.
    let waits = how.options & SYNCHRONOUS;
    if how.disposition > LAST_DISPOSITION || waits == SYNCHRONOUS || waits != 0 && how.access & SYNCHRONIZE == 0 {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the callers' contract.
    unsafe {
        let opened = namespace::path_of(attributes).and_then(|path| open_as(&path, how, None));
        let status = match opened {
            Ok(file) => {
                *result = handle_of(file, how.access);
                STATUS_SUCCESS
            }
            Err(status) => status,
        };
        // FILE_OPENED
        *iosb = IoStatusBlock::new(status, usize::from(status >= 0));
        status
    }
}

/// Opens a device or a name on it. IRQL = PASSIVE_LEVEL. There is no file system: a path on a volume is not found, and
/// what is there is opened whatever the disposition.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn ZwCreateFile(
    result: *mut Handle,
    access: u32,
    attributes: *const ObjectAttributes,
    iosb: *mut IoStatusBlock,
    _allocation: *const i64,
    file_attributes: u32,
    share: u32,
    disposition: u32,
    options: u32,
    _ea: *mut c_void,
    _ea_length: u32,
) -> NtStatus {
    let how = How { access, attributes: file_attributes as u16, share: share as u16, disposition, options };
    // SAFETY: per the contract.
    unsafe { create(result, attributes, iosb, how) }
}

/// As [`ZwCreateFile`], opening only. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// As there.
pub unsafe extern "win64" fn ZwOpenFile(
    result: *mut Handle,
    access: u32,
    attributes: *const ObjectAttributes,
    iosb: *mut IoStatusBlock,
    share: u32,
    options: u32,
) -> NtStatus {
    // FILE_OPEN
    let how = How { access, attributes: 0, share: share as u16, disposition: 1, options };
    // SAFETY: per the contract.
    unsafe { create(result, attributes, iosb, how) }
}

/// What a request of a file keeps till it is done.
struct Kept {
    file: *mut FileObject,
    top: *mut DeviceObject,
    /// The caller's event; null without one.
    event: *mut Event,
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: each was referenced for this request.
        unsafe {
            ObfDereferenceObject(self.top.cast());
            ObfDereferenceObject(self.file.cast());
            if !self.event.is_null() {
                ObfDereferenceObject(self.event.cast());
            }
        }
    }
}

impl Kept {
    /// References what the handles stand for; the event is not set from now on.
    fn new(file: Handle, event: Handle) -> Result<Kept, NtStatus> {
        let object = handle::reference(file, Some(Kind::File))?.cast::<FileObject>();
        // SAFETY: the file is referenced, and holds its device; an event's object is one.
        unsafe {
            let mut kept =
                Kept { file: object, top: IoGetAttachedDeviceReference((*object).device), event: ptr::null_mut() };
            if !event.is_null() {
                kept.event = handle::reference(event, Some(Kind::Event))?.cast();
                ke::KeClearEvent(kept.event);
            }
            Ok(kept)
        }
    }

    fn waits(&self) -> bool {
        // SAFETY: the file is referenced.
        unsafe { (*self.file).flags & FO_SYNCHRONOUS_IO != 0 }
    }

    /// What is set when a request that nobody waits for is done: the caller's event, or the file's own.
    fn signal(&self) -> *mut Event {
        if !self.event.is_null() {
            return self.event;
        }
        // SAFETY: the file is referenced.
        unsafe {
            let own = &raw mut (*self.file).event;
            ke::KeClearEvent(own);
            own
        }
    }

    /// Sends a request of the file's. It sets `event`, and fills in the caller's status block.
    unsafe fn send(self, irp: *mut Irp, event: *mut Event, iosb: *mut IoStatusBlock) -> NtStatus {
        if irp.is_null() {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        // SAFETY: the callers' request, for the device that is kept.
        unsafe {
            (*next(irp)).file = self.file;
            (*irp).original_file = self.file;
            let top = self.top;
            if !self.waits() {
                irp::set_completion(irp, ended, Box::into_raw(Box::new(self)).cast());
                return IofCallDriver(top, irp);
            }
            let mut status = IofCallDriver(top, irp);
            if status == STATUS_PENDING {
                wait_for(event);
                status = ptr::read_volatile(&raw const (*iosb).status);
            }
            if !self.event.is_null() {
                ke::KeSetEvent(self.event, 0, 0);
            }
            status
        }
    }
}

/// A request of a file that nobody waits for is done.
unsafe extern "win64" fn ended(_: *mut DeviceObject, _: *mut Irp, kept: *mut c_void) -> NtStatus {
    let kept = kept as usize;
    // SAFETY: the context is that of the request. Objects go at PASSIVE_LEVEL, and the event is still to be set.
    work::queue(Box::new(move || drop(unsafe { Box::from_raw(kept as *mut Kept) })));
    STATUS_SUCCESS
}

unsafe fn transfer(
    file: Handle,
    event: Handle,
    major: u8,
    iosb: *mut IoStatusBlock,
    buffer: *mut c_void,
    length: u32,
    offset: *const i64,
) -> NtStatus {
    // SAFETY: the callers' contract; the event outlives the wait.
    unsafe {
        let kept = match Kept::new(file, event) {
            Ok(kept) => kept,
            Err(status) => return status,
        };
        let at = match offset.as_ref() {
            None | Some(&POSITION) if !kept.waits() => return STATUS_INVALID_PARAMETER,
            None | Some(&POSITION) => (*kept.file).offset,
            Some(offset) => *offset,
        };
        let mut own: Event = zeroed();
        ke::KeInitializeEvent(&raw mut own, 0, 0);
        let (waits, object) = (kept.waits(), kept.file);
        let event = if waits { &raw mut own } else { kept.signal() };
        let irp = IoBuildSynchronousFsdRequest(u32::from(major), kept.top, buffer, length, &raw const at, event, iosb);
        // The file is the caller's handle's, too.
        let status = kept.send(irp, event, iosb);
        if waits && status >= 0 {
            (*object).offset = at + (*iosb).information as i64;
        }
        status
    }
}

/// Reads. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid until the request is done.
pub unsafe extern "win64" fn ZwReadFile(
    file: Handle,
    event: Handle,
    _apc: *mut c_void,
    _apc_context: *mut c_void,
    iosb: *mut IoStatusBlock,
    buffer: *mut c_void,
    length: u32,
    offset: *const i64,
    _key: *const u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { transfer(file, event, mj::READ, iosb, buffer, length, offset) }
}

/// Writes. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid until the request is done.
pub unsafe extern "win64" fn ZwWriteFile(
    file: Handle,
    event: Handle,
    _apc: *mut c_void,
    _apc_context: *mut c_void,
    iosb: *mut IoStatusBlock,
    buffer: *mut c_void,
    length: u32,
    offset: *const i64,
    _key: *const u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { transfer(file, event, mj::WRITE, iosb, buffer, length, offset) }
}

/// Device control. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid until the request is done.
pub unsafe extern "win64" fn ZwDeviceIoControlFile(
    file: Handle,
    event: Handle,
    _apc: *mut c_void,
    _apc_context: *mut c_void,
    iosb: *mut IoStatusBlock,
    code: u32,
    input: *mut c_void,
    input_length: u32,
    output: *mut c_void,
    output_length: u32,
) -> NtStatus {
    // SAFETY: per the contract; the event outlives the wait.
    unsafe {
        let kept = match Kept::new(file, event) {
            Ok(kept) => kept,
            Err(status) => return status,
        };
        let mut own: Event = zeroed();
        ke::KeInitializeEvent(&raw mut own, 0, 0);
        let event = if kept.waits() { &raw mut own } else { kept.signal() };
        let irp =
            IoBuildDeviceIoControlRequest(code, kept.top, input, input_length, output, output_length, 0, event, iosb);
        kept.send(irp, event, iosb)
    }
}
