//! Requests built for a driver, device pointers, remove locks.
use super::abi::*;
use super::device::IoGetAttachedDeviceReference;
use super::irp::{IoAllocateIrp, IoFreeIrp, next, send_and_wait};
use super::kernel::{pool_alloc, pool_free, violation};
use super::status::*;
use super::text;
use crate::ke::{self, abi::Event};
use crate::mm;
use crate::ob::{self, Kind, namespace};
use crate::rtl::abi::UnicodeString;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::Ordering;

const TAG: u32 = u32::from_le_bytes(*b"IoBf");

/// An IRP for a read, a write or a flush, with its buffer as the device wants it. NULL without memory.
unsafe fn build(
    major: u8,
    device: *mut DeviceObject,
    buffer: *mut c_void,
    length: u32,
    offset: *const i64,
    iosb: *mut IoStatusBlock,
) -> *mut Irp {
    // SAFETY: the callers' contract.
    unsafe {
        let irp = IoAllocateIrp((*device).stack_size, 0);
        if irp.is_null() {
            return irp;
        }
        (*irp).thread = ke::KeGetCurrentThread().cast();
        (*irp).user_iosb = iosb;
        let location = next(irp);
        (*location).major = major;
        let moves = matches!(major, mj::READ | mj::WRITE);
        if moves {
            let mut parameters: ReadWrite = core::mem::zeroed();
            parameters.length = length;
            parameters.offset = if offset.is_null() { 0 } else { *offset };
            (*location).parameters.read_write = parameters;
        }
        (*irp).user_buffer = buffer;
        let flags = (*device).flags;
        if !moves || length == 0 {
            return irp;
        }
        if flags & do_flags::BUFFERED_IO != 0 {
            let system = pool_alloc(length as usize, TAG);
            if system.is_null() {
                IoFreeIrp(irp);
                return ptr::null_mut();
            }
            (*irp).associated = system.cast();
            (*irp).flags |= irp_flags::BUFFERED_IO | irp_flags::DEALLOCATE_BUFFER;
            if major == mj::READ {
                (*irp).flags |= irp_flags::INPUT_OPERATION;
            } else {
                ptr::copy_nonoverlapping(buffer.cast::<u8>(), system, length as usize);
            }
        } else if flags & do_flags::DIRECT_IO != 0 {
            let mdl = mm::mdl::IoAllocateMdl(buffer.cast(), length, 0, 0, ptr::null_mut());
            if mdl.is_null() {
                IoFreeIrp(irp);
                return ptr::null_mut();
            }
            // IoWriteAccess for a read: the device writes memory.
            mm::mdl::MmProbeAndLockPages(mdl, 0, i32::from(major == mj::READ));
            (*irp).mdl = mdl.cast();
        }
        irp
    }
}

/// An IRP that is completed to the caller's completion routine, which frees it. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The device is valid, the buffer has `length` bytes.
pub unsafe extern "win64" fn IoBuildAsynchronousFsdRequest(
    major: u32,
    device: *mut DeviceObject,
    buffer: *mut c_void,
    length: u32,
    offset: *const i64,
    iosb: *mut IoStatusBlock,
) -> *mut Irp {
    // SAFETY: per the contract.
    unsafe { build(major as u8, device, buffer, length, offset, iosb) }
}

/// An IRP that sets an event when it is completed. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// As above; event and status block stay valid until it is completed.
pub unsafe extern "win64" fn IoBuildSynchronousFsdRequest(
    major: u32,
    device: *mut DeviceObject,
    buffer: *mut c_void,
    length: u32,
    offset: *const i64,
    event: *mut Event,
    iosb: *mut IoStatusBlock,
) -> *mut Irp {
    // SAFETY: per the contract.
    unsafe {
        let irp = build(major as u8, device, buffer, length, offset, iosb);
        if !irp.is_null() {
            (*irp).user_event = event;
            (*irp).flags |= irp_flags::SYNCHRONOUS_API;
        }
        irp
    }
}

/// A device control IRP that sets an event when it is completed. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The buffers have their lengths; event and status block stay valid until it is completed.
pub unsafe extern "win64" fn IoBuildDeviceIoControlRequest(
    code: u32,
    device: *mut DeviceObject,
    input: *mut c_void,
    input_length: u32,
    output: *mut c_void,
    output_length: u32,
    internal: u8,
    event: *mut Event,
    iosb: *mut IoStatusBlock,
) -> *mut Irp {
    // SAFETY: per the contract.
    unsafe {
        let irp = IoAllocateIrp((*device).stack_size, 0);
        if irp.is_null() {
            return irp;
        }
        (*irp).thread = ke::KeGetCurrentThread().cast();
        (*irp).user_iosb = iosb;
        (*irp).user_event = event;
        (*irp).flags = irp_flags::SYNCHRONOUS_API;
        let location = next(irp);
        (*location).major = if internal != 0 { mj::INTERNAL_DEVICE_CONTROL } else { mj::DEVICE_CONTROL };
        let mut parameters: DeviceIoControl = core::mem::zeroed();
        parameters.code = code;
        parameters.input_length = input_length;
        parameters.output_length = output_length;
        let fail = |irp| {
            IoFreeIrp(irp);
            ptr::null_mut()
        };
        match code & 3 {
            // METHOD_BUFFERED
            0 => {
                let size = input_length.max(output_length) as usize;
                if size != 0 {
                    let system = pool_alloc(size, TAG);
                    if system.is_null() {
                        return fail(irp);
                    }
                    if !input.is_null() {
                        ptr::copy_nonoverlapping(input.cast::<u8>(), system, input_length as usize);
                    }
                    (*irp).associated = system.cast();
                    (*irp).user_buffer = output;
                    (*irp).flags |= irp_flags::BUFFERED_IO | irp_flags::DEALLOCATE_BUFFER;
                    if !output.is_null() {
                        (*irp).flags |= irp_flags::INPUT_OPERATION;
                    }
                }
            }
            // METHOD_IN_DIRECT, METHOD_OUT_DIRECT
            method @ (1 | 2) => {
                if !input.is_null() && input_length != 0 {
                    let system = pool_alloc(input_length as usize, TAG);
                    if system.is_null() {
                        return fail(irp);
                    }
                    ptr::copy_nonoverlapping(input.cast::<u8>(), system, input_length as usize);
                    (*irp).associated = system.cast();
                    (*irp).flags |= irp_flags::BUFFERED_IO | irp_flags::DEALLOCATE_BUFFER;
                }
                if !output.is_null() && output_length != 0 {
                    let mdl = mm::mdl::IoAllocateMdl(output.cast(), output_length, 0, 0, ptr::null_mut());
                    if mdl.is_null() {
                        if !(*irp).associated.is_null() {
                            pool_free((*irp).associated.cast(), TAG);
                        }
                        return fail(irp);
                    }
                    mm::mdl::MmProbeAndLockPages(mdl, 0, i32::from(method == 2));
                    (*irp).mdl = mdl.cast();
                }
            }
            // METHOD_NEITHER
            _ => {
                parameters.type3_input = input;
                (*irp).user_buffer = output;
            }
        }
        (*location).parameters.ioctl = parameters;
        irp
    }
}

/// Sends a device control request to the top of a stack and waits. Gives the status and the bytes returned.
///
/// # Safety
/// The device is valid, the buffers have their lengths. IRQL = PASSIVE_LEVEL.
pub unsafe fn control(
    device: *mut DeviceObject,
    code: u32,
    input: &[u8],
    output: &mut [u8],
    internal: bool,
) -> (NtStatus, usize) {
    // SAFETY: per the contract; event and block outlive the wait.
    unsafe {
        let top = IoGetAttachedDeviceReference(device);
        let mut event = core::mem::zeroed::<Event>();
        ke::KeInitializeEvent(&raw mut event, 0, 0);
        let mut iosb = IoStatusBlock::new(0, 0);
        let pointer = |p: *mut u8, len: usize| if len == 0 { ptr::null_mut() } else { p.cast() };
        let irp = IoBuildDeviceIoControlRequest(
            code,
            top,
            pointer(input.as_ptr().cast_mut(), input.len()),
            input.len() as u32,
            pointer(output.as_mut_ptr(), output.len()),
            output.len() as u32,
            u8::from(internal),
            &raw mut event,
            &raw mut iosb,
        );
        if irp.is_null() {
            ob::ObfDereferenceObject(top.cast());
            return (STATUS_INSUFFICIENT_RESOURCES, 0);
        }
        let mut status = super::irp::IofCallDriver(top, irp);
        if status == STATUS_PENDING {
            super::irp::wait_for(&raw mut event);
            status = ptr::read_volatile(&raw const iosb.status);
        }
        ob::ObfDereferenceObject(top.cast());
        (status, iosb.information)
    }
}

/// The top of the stack of a named device, and a file object on it. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoGetDeviceObjectPointer(
    name: *const UnicodeString,
    access: u32,
    file: *mut *mut FileObject,
    device: *mut *mut DeviceObject,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        match super::file::open(&text::from_unicode(name), access, 0) {
            Ok(opened) => {
                *file = opened;
                *device = super::device::top((*opened).device);
                STATUS_SUCCESS
            }
            Err(status) => status,
        }
    }
}

/// Prepares a remove lock. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The lock's memory is the caller's.
pub unsafe extern "win64" fn IoInitializeRemoveLockEx(
    lock: *mut RemoveLock,
    _tag: u32,
    _minutes: u32,
    _high_watermark: u32,
    _size: u32,
) {
    // SAFETY: per the contract.
    unsafe {
        (*lock).removed.store(0, Ordering::Release);
        (*lock).count.store(1, Ordering::Release);
        ke::KeInitializeEvent(&raw mut (*lock).event, 1, 0);
    }
}

/// Takes a remove lock; STATUS_DELETE_PENDING once the device goes. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The lock is initialized.
pub unsafe extern "win64" fn IoAcquireRemoveLockEx(
    lock: *mut RemoveLock,
    _tag: *mut c_void,
    _file: *const u8,
    _line: u32,
    size: u32,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        (*lock).count.fetch_add(1, Ordering::AcqRel);
        if (*lock).removed.load(Ordering::Acquire) != 0 {
            IoReleaseRemoveLockEx(lock, ptr::null_mut(), size);
            return STATUS_DELETE_PENDING;
        }
        STATUS_SUCCESS
    }
}

/// Gives a remove lock back. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The caller holds it.
pub unsafe extern "win64" fn IoReleaseRemoveLockEx(lock: *mut RemoveLock, _tag: *mut c_void, _size: u32) {
    // SAFETY: per the contract; what the contract forbids is reported.
    unsafe {
        let left = (*lock).count.fetch_sub(1, Ordering::AcqRel) - 1;
        if left < 0 {
            violation("REMOVE-LOCK", format_args!("a remove lock was released more often than acquired"));
        }
        if left == 0 {
            ke::KeSetEvent(&raw mut (*lock).event, 0, 0);
        }
    }
}

/// Marks the device as going and waits for all other holders. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The caller holds the lock.
pub unsafe extern "win64" fn IoReleaseRemoveLockAndWaitEx(lock: *mut RemoveLock, tag: *mut c_void, size: u32) {
    // SAFETY: per the contract.
    unsafe {
        (*lock).removed.store(1, Ordering::Release);
        IoReleaseRemoveLockEx(lock, tag, size);
        if (*lock).count.fetch_sub(1, Ordering::AcqRel) - 1 > 0 {
            super::irp::wait_for(&raw mut (*lock).event);
        }
    }
}

unsafe fn named_event(name: *const UnicodeString, handle: *mut Handle, kind: i32) -> *mut Event {
    // SAFETY: the callers' contract.
    unsafe {
        *handle = ptr::null_mut();
        let path = text::from_unicode(name);
        let object = match namespace::lookup(&path, false) {
            Ok((object, _)) if ob::kind(object) == Kind::Event => object,
            Ok((object, _)) => {
                ob::ObfDereferenceObject(object);
                return ptr::null_mut();
            }
            Err(_) => {
                let object = ob::allocate(Kind::Event, size_of::<Event>(), None);
                if object.is_null() {
                    return ptr::null_mut();
                }
                // Events that drivers create this way start signalled.
                ke::KeInitializeEvent(object.cast(), kind, 1);
                if !path.is_empty() {
                    ob::ObfReferenceObject(object);
                    if namespace::insert(&path, object).is_err() {
                        ob::ObfDereferenceObject(object);
                        ob::ObfDereferenceObject(object);
                        return ptr::null_mut();
                    }
                }
                object
            }
        };
        *handle = ob::handle::insert(object, 0x1F_0003);
        object.cast()
    }
}

/// Opens or makes a named notification event; its handle keeps it. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoCreateNotificationEvent(name: *const UnicodeString, handle: *mut Handle) -> *mut Event {
    // SAFETY: per the contract.
    unsafe { named_event(name, handle, 0) }
}

/// Opens or makes a named synchronization event; its handle keeps it. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoCreateSynchronizationEvent(
    name: *const UnicodeString,
    handle: *mut Handle,
) -> *mut Event {
    // SAFETY: per the contract.
    unsafe { named_event(name, handle, 1) }
}

/// Synchronously forwards a request that this crate made (for [`super::file`]).
///
/// # Safety
/// As [`send_and_wait`].
pub(crate) unsafe fn deliver(device: *mut DeviceObject, irp: *mut Irp) -> (NtStatus, usize) {
    // SAFETY: per the contract.
    unsafe {
        let status = send_and_wait(device, irp);
        (status, (*irp).io_status.information)
    }
}
