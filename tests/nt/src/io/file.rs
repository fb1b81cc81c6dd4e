//! File objects: opening devices by name, and reading, writing and controlling them by handle.
use super::abi::*;
use super::device::IoGetAttachedDeviceReference;
use super::irp::{IoAllocateIrp, IoFreeIrp, next};
use super::kernel::pool_free;
use super::request::deliver;
use super::security::{self, Token};
use super::status::*;
use super::text;
use crate::ke;
use crate::ob::namespace::{self, ObjectAttributes};
use crate::ob::{self, Kind, ObfDereferenceObject, handle};
use core::ffi::c_void;
use core::mem::zeroed;
use core::ptr;
use core::sync::atomic::{AtomicI32, Ordering};

const FO_FILE_OPEN_CANCELLED: u32 = 0x20_0000;

/// Sends a request of a file to its device's stack and waits.
unsafe fn send(
    file: *mut FileObject,
    major: u8,
    setup: impl FnOnce(*mut Irp, &mut StackLocation),
) -> (NtStatus, usize) {
    // SAFETY: the callers' file is valid, and holds its device.
    unsafe {
        let top = IoGetAttachedDeviceReference((*file).device);
        let irp = IoAllocateIrp((*top).stack_size, 0);
        if irp.is_null() {
            ObfDereferenceObject(top.cast());
            return (STATUS_INSUFFICIENT_RESOURCES, 0);
        }
        (*irp).thread = ke::KeGetCurrentThread().cast();
        (*irp).flags = irp_flags::SYNCHRONOUS_API;
        (*irp).original_file = file;
        let location = next(irp);
        (*location).major = major;
        (*location).file = file;
        setup(irp, &mut *location);
        let done = deliver(top, irp);
        IoFreeIrp(irp);
        ObfDereferenceObject(top.cast());
        done
    }
}

unsafe fn closed(body: *mut c_void) {
    // SAFETY: the last handle of a file object.
    unsafe {
        let file = body.cast::<FileObject>();
        if (*file).flags & FO_FILE_OPEN_CANCELLED == 0 {
            send(file, mj::CLEANUP, |_, _| {});
        }
        let device = (*file).device;
        AtomicI32::from_ptr(&raw mut (*device).reference_count).fetch_sub(1, Ordering::AcqRel);
        crate::pnp::remove::handle_closed(device);
    }
}

unsafe fn deleted(body: *mut c_void) {
    // SAFETY: the last reference of a file object.
    unsafe {
        let file = body.cast::<FileObject>();
        if (*file).flags & FO_FILE_OPEN_CANCELLED == 0 {
            // The object is on its way out: the driver must not take a reference any more.
            send(file, mj::CLOSE, |_, _| {});
        }
        if !(*file).name.buffer.is_null() {
            pool_free((*file).name.buffer.cast(), 0);
        }
        ObfDereferenceObject((*file).device.cast());
    }
}

/// Opens a device, or a name on it. Gives a file object with one reference.
///
/// # Errors
/// The name leads to no device, or what the device answered.
///
/// # Safety
/// IRQL = PASSIVE_LEVEL.
pub unsafe fn open(path: &str, access: u32, share: u16) -> Result<*mut FileObject, NtStatus> {
    // SAFETY: per the contract.
    unsafe { open_as(path, access, share, None) }
}

/// As [`open`], for a user with that token; `None`: for the kernel, which is not checked.
///
/// # Errors
/// As there; STATUS_ACCESS_DENIED.
///
/// # Safety
/// IRQL = PASSIVE_LEVEL.
pub unsafe fn open_as(path: &str, access: u32, share: u16, token: Option<Token>) -> Result<*mut FileObject, NtStatus> {
    let (object, rest) = namespace::lookup(path, false)?;
    // SAFETY: the object is referenced, the file object fresh.
    unsafe {
        if ob::kind(object) != Kind::Device {
            ObfDereferenceObject(object);
            return Err(STATUS_OBJECT_TYPE_MISMATCH);
        }
        let device = object.cast::<DeviceObject>();
        let refuse = |status| {
            ObfDereferenceObject(object);
            Err(status)
        };
        if (*device).flags & do_flags::DEVICE_INITIALIZING != 0 {
            return refuse(STATUS_NO_SUCH_DEVICE);
        }
        if let Some(token) = token
            && let Err(status) = security::check(device, &rest, access, token)
        {
            return refuse(status);
        }
        let count = AtomicI32::from_ptr(&raw mut (*device).reference_count);
        if count.fetch_add(1, Ordering::AcqRel) > 0 && (*device).flags & do_flags::EXCLUSIVE != 0 {
            count.fetch_sub(1, Ordering::AcqRel);
            return refuse(STATUS_ACCESS_DENIED);
        }
        let body = ob::allocate(Kind::File, size_of::<FileObject>(), Some(deleted));
        if body.is_null() {
            count.fetch_sub(1, Ordering::AcqRel);
            return refuse(STATUS_INSUFFICIENT_RESOURCES);
        }
        ob::set_close(body, closed);
        let file = body.cast::<FileObject>();
        (*file).kind = IO_TYPE_FILE;
        (*file).size = size_of::<FileObject>() as i16;
        (*file).device = device;
        (*file).name = text::to_unicode(&rest);
        // FO_SYNCHRONOUS_IO
        (*file).flags = 2;
        ke::KeInitializeEvent(&raw mut (*file).event, 0, 0);
        ke::KeInitializeEvent(&raw mut (*file).lock, 1, 0);
        let (status, _) = send(file, mj::CREATE, |_, location| {
            let mut create: Create = zeroed();
            // FILE_OPEN
            create.options = 1 << 24;
            create.share = share;
            location.parameters.create = create;
        });
        if status < 0 {
            (*file).flags |= FO_FILE_OPEN_CANCELLED;
            count.fetch_sub(1, Ordering::AcqRel);
            ObfDereferenceObject(body);
            return Err(status);
        }
        // A file object without a handle (IoGetDeviceObjectPointer) holds the device by reference alone.
        count.fetch_sub(1, Ordering::AcqRel);
        Ok(file)
    }
}

/// A handle for an open file; it takes the caller's reference over.
///
/// # Safety
/// The file came from [`open`] or [`open_as`]. IRQL = PASSIVE_LEVEL.
pub unsafe fn handle_of(file: *mut FileObject, access: u32) -> Handle {
    // SAFETY: per the contract.
    unsafe {
        AtomicI32::from_ptr(&raw mut (*(*file).device).reference_count).fetch_add(1, Ordering::AcqRel);
        handle::insert(file.cast(), access)
    }
}

unsafe fn create(
    result: *mut Handle,
    access: u32,
    attributes: *const ObjectAttributes,
    iosb: *mut IoStatusBlock,
    share: u32,
) -> NtStatus {
    // SAFETY: the callers' contract.
    unsafe {
        let opened = namespace::path_of(attributes).and_then(|path| open(&path, access, share as u16));
        let status = match opened {
            Ok(file) => {
                *result = handle_of(file, access);
                STATUS_SUCCESS
            }
            Err(status) => status,
        };
        // FILE_OPENED
        *iosb = IoStatusBlock::new(status, usize::from(status >= 0));
        status
    }
}

/// Opens a device or a name on it. IRQL = PASSIVE_LEVEL. There is no file system: a path on a volume is not found.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn ZwCreateFile(
    result: *mut Handle,
    access: u32,
    attributes: *const ObjectAttributes,
    iosb: *mut IoStatusBlock,
    _allocation: *const i64,
    _file_attributes: u32,
    share: u32,
    _disposition: u32,
    _options: u32,
    _ea: *mut c_void,
    _ea_length: u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { create(result, access, attributes, iosb, share) }
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
    _options: u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { create(result, access, attributes, iosb, share) }
}

/// Builds a request by handle with the request builders, which know how the device wants its buffer.
unsafe fn transfer(
    key: Handle,
    major: u8,
    iosb: *mut IoStatusBlock,
    buffer: *mut c_void,
    length: u32,
    offset: *const i64,
) -> NtStatus {
    // SAFETY: the callers' contract; event and block outlive the wait.
    unsafe {
        let object = match handle::reference(key, Some(Kind::File)) {
            Ok(object) => object,
            Err(status) => return status,
        };
        let file = object.cast::<FileObject>();
        let top = IoGetAttachedDeviceReference((*file).device);
        let mut event = zeroed::<ke::abi::Event>();
        ke::KeInitializeEvent(&raw mut event, 0, 0);
        let at = if offset.is_null() { (*file).offset } else { *offset };
        let irp = super::request::IoBuildSynchronousFsdRequest(
            u32::from(major),
            top,
            buffer,
            length,
            &raw const at,
            &raw mut event,
            iosb,
        );
        let mut status = STATUS_INSUFFICIENT_RESOURCES;
        if !irp.is_null() {
            (*next(irp)).file = file;
            status = super::irp::IofCallDriver(top, irp);
            if status == STATUS_PENDING {
                super::irp::wait_for(&raw mut event);
                status = ptr::read_volatile(&raw const (*iosb).status);
            }
            if status >= 0 {
                (*file).offset = at + (*iosb).information as i64;
            }
        }
        ObfDereferenceObject(top.cast());
        ObfDereferenceObject(object);
        status
    }
}

/// Reads, and waits. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn ZwReadFile(
    file: Handle,
    _event: Handle,
    _apc: *mut c_void,
    _apc_context: *mut c_void,
    iosb: *mut IoStatusBlock,
    buffer: *mut c_void,
    length: u32,
    offset: *const i64,
    _key: *const u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { transfer(file, mj::READ, iosb, buffer, length, offset) }
}

/// Writes, and waits. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn ZwWriteFile(
    file: Handle,
    _event: Handle,
    _apc: *mut c_void,
    _apc_context: *mut c_void,
    iosb: *mut IoStatusBlock,
    buffer: *mut c_void,
    length: u32,
    offset: *const i64,
    _key: *const u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe { transfer(file, mj::WRITE, iosb, buffer, length, offset) }
}

/// Device control by handle, and waits. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn ZwDeviceIoControlFile(
    file: Handle,
    _event: Handle,
    _apc: *mut c_void,
    _apc_context: *mut c_void,
    iosb: *mut IoStatusBlock,
    code: u32,
    input: *mut c_void,
    input_length: u32,
    output: *mut c_void,
    output_length: u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        let object = match handle::reference(file, Some(Kind::File)) {
            Ok(object) => object,
            Err(status) => return status,
        };
        let slice = |p: *mut c_void, len: u32| {
            if p.is_null() { &mut [][..] } else { core::slice::from_raw_parts_mut(p.cast::<u8>(), len as usize) }
        };
        let device = (*object.cast::<FileObject>()).device;
        let (status, information) =
            super::request::control(device, code, slice(input, input_length), slice(output, output_length), false);
        *iosb = IoStatusBlock::new(status, information);
        ObfDereferenceObject(object);
        status
    }
}
