//! The object manager: reference counts, the name space, handles.
//!
//! Every object has an [`Header`] in front of its body; drivers hold pointers to the body, as in Windows. Whoever makes
//! an object takes its memory from [`allocate`]. Sources:
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/managing-kernel-objects>.
// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

pub mod event;
pub mod handle;
pub mod namespace;

use crate::io::kernel::{pool_alloc, pool_free, violation};
use core::ffi::c_void;
use core::mem::size_of;
use core::sync::atomic::{AtomicIsize, Ordering};

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A name of names.
    Directory = 1,
    /// A name for another name.
    SymbolicLink,
    /// DEVICE_OBJECT.
    Device,
    /// DRIVER_OBJECT.
    Driver,
    /// FILE_OBJECT.
    File,
    /// KEVENT.
    Event,
    /// A registry key.
    Key,
    /// KTHREAD.
    Thread,
    /// A callback object.
    Callback,
    /// The one process there is.
    Process,
}

const MAGIC: u32 = 0x4F62_6A48;
const TAG: u32 = u32::from_le_bytes(*b"ObjT");

/// What stands in front of an object.
#[repr(C, align(16))]
pub struct Header {
    magic: u32,
    kind: Kind,
    /// References by pointer; a handle counts as one too.
    pointers: AtomicIsize,
    /// Open handles.
    pub(crate) handles: AtomicIsize,
    /// Called with the body when the last reference goes.
    delete: Option<unsafe fn(*mut c_void)>,
    /// Called with the body when the last handle is closed.
    pub(crate) close: Option<unsafe fn(*mut c_void)>,
    bytes: usize,
}

/// Allocates a zeroed object of `size` bytes in nonpaged pool, with one reference. NULL without memory.
/// IRQL <= DISPATCH_LEVEL.
pub fn allocate(kind: Kind, size: usize, delete: Option<unsafe fn(*mut c_void)>) -> *mut c_void {
    let memory = pool_alloc(size_of::<Header>() + size, TAG).cast::<Header>();
    if memory.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: the block has room for the header.
    unsafe {
        memory.write(Header {
            magic: MAGIC,
            kind,
            pointers: AtomicIsize::new(1),
            handles: AtomicIsize::new(0),
            delete,
            close: None,
            bytes: size,
        });
        memory.add(1).cast()
    }
}

/// The header of an object. A pointer that is no object is reported.
///
/// # Safety
/// `body` points into mapped memory with a header's bytes in front of it.
pub unsafe fn header<'a>(body: *mut c_void) -> &'a Header {
    // SAFETY: per the contract; the magic number tells the rest.
    unsafe {
        let header = body.cast::<Header>().sub(1);
        if body.is_null() || (*header).magic != MAGIC {
            violation("OBJECT", format_args!("{body:p} is not an object, or was deleted"));
        }
        &*header
    }
}

/// Sets what happens when the last handle is closed.
///
/// # Safety
/// `body` is an object that no one else knows yet.
pub unsafe fn set_close(body: *mut c_void, close: unsafe fn(*mut c_void)) {
    // SAFETY: per the contract.
    unsafe { (*body.cast::<Header>().sub(1)).close = Some(close) };
}

/// What an object is.
///
/// # Safety
/// As [`header`].
pub unsafe fn kind(body: *mut c_void) -> Kind {
    // SAFETY: per the contract.
    unsafe { header(body).kind }
}

/// References that an object has.
///
/// # Safety
/// As [`header`].
pub unsafe fn references(body: *mut c_void) -> isize {
    // SAFETY: per the contract.
    unsafe { header(body).pointers.load(Ordering::Acquire) }
}

/// Takes a reference. IRQL <= DISPATCH_LEVEL. Returns the new count.
///
/// # Safety
/// `body` is an object that the caller has a reference to.
pub unsafe extern "win64" fn ObfReferenceObject(body: *mut c_void) -> isize {
    // SAFETY: per the contract.
    unsafe { header(body).pointers.fetch_add(1, Ordering::AcqRel) + 1 }
}

/// Gives a reference back; the last one deletes the object. IRQL <= DISPATCH_LEVEL. Returns the new count.
///
/// # Safety
/// `body` is an object that the caller has a reference to.
pub unsafe extern "win64" fn ObfDereferenceObject(body: *mut c_void) -> isize {
    // SAFETY: per the contract.
    unsafe {
        let header = header(body);
        let left = header.pointers.fetch_sub(1, Ordering::AcqRel) - 1;
        if left < 0 {
            // REFERENCE_BY_POINTER
            crate::ke::KeBugCheckEx(0x18, 0, body as usize, 2, left as usize);
        }
        if left == 0 {
            if let Some(delete) = header.delete {
                delete(body);
            }
            free(body);
        }
        left
    }
}

unsafe fn free(body: *mut c_void) {
    // SAFETY: the last reference is gone, the memory came from `allocate`.
    unsafe {
        let header = body.cast::<Header>().sub(1);
        (*header).magic = 0;
        core::ptr::write_bytes(body.cast::<u8>(), 0xDD, (*header).bytes);
        pool_free(header.cast(), TAG);
    }
}

/// ObReferenceObjectByPointer: a reference, if the type is the one expected (NULL: any, in kernel mode).
/// IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// `body` is an object.
pub unsafe extern "win64" fn ObReferenceObjectByPointer(
    body: *mut c_void,
    _access: u32,
    kind: *const handle::TypeObject,
    _mode: i8,
) -> crate::status::NtStatus {
    // SAFETY: per the contract.
    unsafe {
        if !kind.is_null() && (*kind).kind != header(body).kind {
            return crate::status::STATUS_OBJECT_TYPE_MISMATCH;
        }
        ObfReferenceObject(body);
        crate::status::STATUS_SUCCESS
    }
}

/// `ObDereferenceObjectDeferDelete`: what goes with the last reference goes on a worker thread. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// As for [`ObfDereferenceObject`].
pub unsafe extern "win64" fn ObDereferenceObjectDeferDelete(object: *mut c_void) {
    let object = object as usize;
    // SAFETY: the caller's reference is this work's now.
    crate::storport::work::queue(alloc::boxed::Box::new(move || unsafe {
        ObfDereferenceObject(object as *mut c_void);
    }));
}

crate::exports! {
    /// Names of ntoskrnl.exe in this area.
    pub static EXPORTS in "ntoskrnl.exe";
    fn ObfReferenceObject;
    fn ObfDereferenceObject;
    fn ObDereferenceObjectDeferDelete;
    fn ObReferenceObjectByPointer;
    fn ObReferenceObjectByHandle = handle::ObReferenceObjectByHandle;
    fn ObOpenObjectByPointer = handle::ObOpenObjectByPointer;
    fn ZwClose = handle::ZwClose;
    fn NtClose = handle::ZwClose;
    fn ZwCreateEvent = event::ZwCreateEvent;
    fn ZwSetEvent = event::ZwSetEvent;
    fn ZwClearEvent = event::ZwClearEvent;
    fn ZwWaitForSingleObject = event::ZwWaitForSingleObject;
    fn ZwMakeTemporaryObject = handle::ZwMakeTemporaryObject;
    fn ZwCreateDirectoryObject = namespace::ZwCreateDirectoryObject;
    fn ZwOpenSymbolicLinkObject = namespace::ZwOpenSymbolicLinkObject;
    fn ZwQuerySymbolicLinkObject = namespace::ZwQuerySymbolicLinkObject;
    fn ZwCreateSymbolicLinkObject = namespace::ZwCreateSymbolicLinkObject;
    data PsThreadType = handle::PsThreadType;
    data IoFileObjectType = handle::IoFileObjectType;
    data ExEventObjectType = handle::ExEventObjectType;
    data IoDeviceObjectType = handle::IoDeviceObjectType;
    data IoDriverObjectType = handle::IoDriverObjectType;
    data PsProcessType = handle::PsProcessType;
}
