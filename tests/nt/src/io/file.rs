//! File objects: opening devices by name. What drivers do with them by handle is in `handle`.
use super::abi::*;
use super::device::IoGetAttachedDeviceReference;
use super::irp::{IoAllocateIrp, IoFreeIrp, next};
use super::kernel::pool_free;
use super::request::deliver;
use super::security::{self, Token};
use super::status::*;
use super::text;
use crate::ke;
use crate::ob::namespace;
use crate::ob::{self, Kind, ObfDereferenceObject, handle};
use core::ffi::c_void;
use core::mem::zeroed;
use core::ptr;
use core::sync::atomic::{AtomicI32, Ordering};

const FO_FILE_OPEN_CANCELLED: u32 = 0x20_0000;
/// `FO_SYNCHRONOUS_IO`.
pub(super) const FO_SYNCHRONOUS_IO: u32 = 0x2;
/// `FILE_SYNCHRONOUS_IO_NONALERT`.
const FILE_SYNCHRONOUS_IO_NONALERT: u32 = 0x20;
/// `FO_*` of `FILE_*` options: write through, sequential only, no intermediate buffering, alertable, synchronous.
const FLAGS_OF_OPTIONS: [(u32, u32); 6] =
    [(0x2, 0x10), (0x4, 0x20), (0x8, 0x8), (0x10, 0x4), (0x10, FO_SYNCHRONOUS_IO), (0x20, FO_SYNCHRONOUS_IO)];

/// How a file is opened.
#[derive(Clone, Copy)]
pub struct How {
    /// What is asked for.
    pub access: u32,
    /// `FILE_ATTRIBUTE_*`.
    pub attributes: u16,
    /// `FILE_SHARE_*`.
    pub share: u16,
    /// `FILE_OPEN` and its kin.
    pub disposition: u32,
    /// `FILE_*`.
    pub options: u32,
}

impl How {
    /// As the kernel opens a device, for synchronous requests.
    pub fn plainly(access: u32, share: u16) -> Self {
        // FILE_OPEN
        Self { access, attributes: 0, share, disposition: 1, options: FILE_SYNCHRONOUS_IO_NONALERT }
    }
}

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
    unsafe { open_as(path, How::plainly(access, share), None) }
}

/// As [`open`], for a user with that token; `None`: for the kernel, which is not checked.
///
/// # Errors
/// As there; STATUS_ACCESS_DENIED.
///
/// # Safety
/// IRQL = PASSIVE_LEVEL.
pub unsafe fn open_as(path: &str, how: How, token: Option<Token>) -> Result<*mut FileObject, NtStatus> {
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
            && let Err(status) = security::check(device, &rest, how.access, token)
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
        let flags = FLAGS_OF_OPTIONS.iter().filter(|(option, _)| how.options & option != 0);
        (*file).flags = flags.fold(0, |flags, (_, flag)| flags | flag);
        ke::KeInitializeEvent(&raw mut (*file).event, 0, 0);
        ke::KeInitializeEvent(&raw mut (*file).lock, 1, 0);
        let mut state: AccessState = zeroed();
        (state.granted, state.original) = (how.access, how.access);
        let mut context = SecurityContext {
            quality: ptr::null_mut(),
            state: &raw mut state,
            access: how.access,
            options: how.options,
        };
        let (status, _) = send(file, mj::CREATE, |_, location| {
            let mut create: Create = zeroed();
            create.security = (&raw mut context).cast();
            create.options = how.disposition << 24 | how.options & 0xff_ffff;
            create.attributes = how.attributes;
            create.share = how.share;
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
