//! Handles. All are kernel handles of the one process.
use super::{Kind, ObfDereferenceObject, ObfReferenceObject, header};
use crate::io::kernel::violation;
use crate::status::*;
use crate::sync::IrqLock;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::Ordering;

/// `OBJECT_HANDLE_INFORMATION`.
#[repr(C)]
pub struct HandleInformation {
    /// OBJ_* attributes.
    pub attributes: u32,
    /// Access granted.
    pub access: u32,
}

/// What `PsThreadType` and its like point to: drivers only pass it on.
///
/// In Windows it begins with an empty LIST_ENTRY, which points to itself. So it is here: mingw-w64's headers import these
/// variables with one level too many, and a driver built with them reads the first word for the object's address.
#[repr(C)]
pub struct TypeObject {
    list: [*const TypeObject; 2],
    /// The type.
    pub kind: Kind,
}

// SAFETY: a static that is never written.
unsafe impl Sync for TypeObject {}

/// An exported `POBJECT_TYPE *`.
#[repr(transparent)]
pub struct TypePointer(*const TypeObject);
// SAFETY: points to a static that is never written.
unsafe impl Sync for TypePointer {}

macro_rules! types {
    ($($(#[$doc:meta])* $name:ident $object:ident $kind:ident;)*) => {
        $(
            static $object: TypeObject = TypeObject { list: [&raw const $object; 2], kind: Kind::$kind };
            $(#[$doc])*
            #[allow(non_upper_case_globals, reason = "the name of the export")]
            pub static $name: TypePointer = TypePointer(&raw const $object);
        )*
    };
}

types! {
    /// Threads.
    PsThreadType THREAD Thread;
    /// Processes.
    PsProcessType PROCESS Process;
    /// File objects.
    IoFileObjectType FILE File;
    /// Events.
    ExEventObjectType EVENT Event;
    /// Device objects.
    IoDeviceObjectType DEVICE Device;
    /// Driver objects.
    IoDriverObjectType DRIVER Driver;
}

struct Slot {
    object: *mut c_void,
    access: u32,
}

struct Table(Vec<Option<Slot>>);
// SAFETY: objects belong to no processor.
unsafe impl Send for Table {}

static HANDLES: IrqLock<Table> = IrqLock::new(Table(Vec::new()));

/// Kernel handles are negative numbers on x64.
const KERNEL: usize = 0xFFFF_FFFF_8000_0000;

fn index_of(handle: *mut c_void) -> Option<usize> {
    let value = handle as usize;
    (value & KERNEL == KERNEL).then_some((value & !KERNEL) / 4).and_then(|n| n.checked_sub(1))
}

/// Handles that are open now.
pub fn open_handles() -> usize {
    HANDLES.lock().0.iter().flatten().count()
}

/// Makes a handle for an object; the handle holds the caller's reference from now on. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// `object` is an object and the caller owns a reference to it.
pub unsafe fn insert(object: *mut c_void, access: u32) -> *mut c_void {
    // SAFETY: per the contract.
    unsafe { header(object).handles.fetch_add(1, Ordering::AcqRel) };
    let mut table = HANDLES.lock();
    let index = table.0.iter().position(Option::is_none).unwrap_or(table.0.len());
    let slot = Some(Slot { object, access });
    if index == table.0.len() {
        table.0.push(slot);
    } else {
        table.0[index] = slot;
    }
    (KERNEL | ((index + 1) * 4)) as *mut c_void
}

/// The object behind a handle, referenced, if it is of that type. IRQL = PASSIVE_LEVEL.
///
/// # Errors
/// The handle is not open, or names something else.
pub fn reference(handle: *mut c_void, kind: Option<Kind>) -> Result<*mut c_void, NtStatus> {
    // ZwCurrentThread
    if handle as isize == -2 && matches!(kind, None | Some(Kind::Thread)) {
        // SAFETY: the current thread is an object.
        unsafe {
            let thread = crate::ke::KeGetCurrentThread().cast();
            ObfReferenceObject(thread);
            return Ok(thread);
        }
    }
    let index = index_of(handle).ok_or(STATUS_INVALID_HANDLE)?;
    let table = HANDLES.lock();
    let slot = table.0.get(index).and_then(Option::as_ref).ok_or(STATUS_INVALID_HANDLE)?;
    // SAFETY: the handle holds a reference, and the table is locked.
    unsafe {
        if kind.is_some_and(|kind| kind != header(slot.object).kind) {
            return Err(STATUS_OBJECT_TYPE_MISMATCH);
        }
        ObfReferenceObject(slot.object);
    }
    Ok(slot.object)
}

/// Gives the object behind a handle to the caller, with a reference. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// `object` is valid, `information` valid or NULL.
pub unsafe extern "win64" fn ObReferenceObjectByHandle(
    handle: *mut c_void,
    access: u32,
    kind: *const TypeObject,
    _mode: i8,
    object: *mut *mut c_void,
    information: *mut HandleInformation,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        *object = ptr::null_mut();
        let wanted = if kind.is_null() { None } else { Some((*kind).kind) };
        match reference(handle, wanted) {
            Ok(found) => {
                *object = found;
                if !information.is_null() {
                    *information = HandleInformation { attributes: 0, access };
                }
                STATUS_SUCCESS
            }
            Err(status) => status,
        }
    }
}

/// Opens a handle to an object. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// `object` is an object, `handle` is valid.
pub unsafe extern "win64" fn ObOpenObjectByPointer(
    object: *mut c_void,
    _attributes: u32,
    _access_state: *mut c_void,
    access: u32,
    kind: *const TypeObject,
    _mode: i8,
    handle: *mut *mut c_void,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        if !kind.is_null() && (*kind).kind != header(object).kind {
            return STATUS_OBJECT_TYPE_MISMATCH;
        }
        ObfReferenceObject(object);
        *handle = insert(object, access);
        STATUS_SUCCESS
    }
}

/// Closes a handle. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// None needed; a handle that is not open is reported, as Driver Verifier does.
pub unsafe extern "win64" fn ZwClose(handle: *mut c_void) -> NtStatus {
    if matches!(handle as isize, -1 | -2) {
        return STATUS_SUCCESS;
    }
    let slot = index_of(handle).and_then(|index| HANDLES.lock().0.get_mut(index).and_then(Option::take));
    let Some(slot) = slot else {
        violation("HANDLE", format_args!("ZwClose: the handle {handle:p} is not open"));
    };
    // SAFETY: the handle held a reference.
    unsafe {
        let header = header(slot.object);
        if header.handles.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(close) = header.close
        {
            close(slot.object);
        }
        ObfDereferenceObject(slot.object);
    }
    STATUS_SUCCESS
}

/// The access that a handle was opened with.
pub fn access(handle: *mut c_void) -> Option<u32> {
    let index = index_of(handle)?;
    HANDLES.lock().0.get(index)?.as_ref().map(|slot| slot.access)
}

/// Takes an object's name away once its handles are closed. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn ZwMakeTemporaryObject(handle: *mut c_void) -> NtStatus {
    match reference(handle, None) {
        Ok(object) => {
            super::namespace::remove_object(object);
            // SAFETY: referenced above.
            unsafe { ObfDereferenceObject(object) };
            STATUS_SUCCESS
        }
        Err(status) => status,
    }
}
