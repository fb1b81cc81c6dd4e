//! Events by handle, and waiting for what a handle stands for.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-zwcreateevent>,
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-zwwaitforsingleobject>
use super::namespace::{self, ObjectAttributes};
use super::{Kind, ObfDereferenceObject, ObfReferenceObject, allocate, handle, kind};
use crate::io::abi::FileObject;
use crate::ke::{self, abi::Event};
use crate::status::*;
use core::ffi::c_void;

/// `OBJ_OPENIF`: an event of that name is opened.
const OPENIF: u32 = 0x80;
/// `STATUS_OBJECT_NAME_EXISTS` and `STATUS_OBJECT_NAME_COLLISION`.
const NAME_EXISTS: NtStatus = 0x4000_0000;
const NAME_COLLISION: NtStatus = 0xC000_0035_u32 as i32;

/// `ZwCreateEvent`. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid; the attributes may be NULL.
pub unsafe extern "win64" fn ZwCreateEvent(
    result: *mut *mut c_void,
    access: u32,
    attributes: *const ObjectAttributes,
    event_type: i32,
    set: u8,
) -> NtStatus {
    if !matches!(event_type, 0 | 1) {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: per the contract.
    unsafe {
        let name = match attributes.as_ref() {
            Some(given) if !given.name.is_null() && (*given.name).length != 0 => match namespace::path_of(attributes) {
                Ok(path) => Some(path),
                Err(status) => return status,
            },
            _ => None,
        };
        if let Some(path) = &name
            && let Ok((object, _)) = namespace::lookup(path, false)
        {
            if kind(object) == Kind::Event && (*attributes).attributes & OPENIF != 0 {
                result.write(handle::insert(object, access));
                return NAME_EXISTS;
            }
            ObfDereferenceObject(object);
            return NAME_COLLISION;
        }
        let object = allocate(Kind::Event, size_of::<Event>(), None);
        if object.is_null() {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        ke::KeInitializeEvent(object.cast(), event_type, set);
        if let Some(path) = name {
            ObfReferenceObject(object);
            if let Err(status) = namespace::insert(&path, object) {
                ObfDereferenceObject(object);
                ObfDereferenceObject(object);
                return status;
            }
        }
        result.write(handle::insert(object, access));
    }
    STATUS_SUCCESS
}

/// What an event's handle stands for, for as long as `then` runs.
unsafe fn with_event(event: *mut c_void, then: impl FnOnce(*mut Event)) -> NtStatus {
    match handle::reference(event, Some(Kind::Event)) {
        // SAFETY: referenced here.
        Ok(object) => unsafe {
            then(object.cast());
            ObfDereferenceObject(object);
            STATUS_SUCCESS
        },
        Err(status) => status,
    }
}

/// `ZwSetEvent`: the state before goes to `before`, if that is given. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointer is valid or NULL.
pub unsafe extern "win64" fn ZwSetEvent(event: *mut c_void, before: *mut i32) -> NtStatus {
    // SAFETY: per the contract; the event is referenced.
    unsafe {
        with_event(event, |event| {
            let old = ke::KeSetEvent(event, 0, 0);
            if let Some(before) = before.as_mut() {
                *before = old;
            }
        })
    }
}

/// `ZwClearEvent`. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn ZwClearEvent(event: *mut c_void) -> NtStatus {
    // SAFETY: the event is referenced.
    unsafe { with_event(event, |event| ke::KeClearEvent(event)) }
}

/// `ZwWaitForSingleObject`: for an event, the end of a thread, or a request of a file. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The time is valid or NULL.
pub unsafe extern "win64" fn ZwWaitForSingleObject(
    object: *mut c_void,
    alertable: u8,
    timeout: *const i64,
) -> NtStatus {
    let object = match handle::reference(object, None) {
        Ok(object) => object,
        Err(status) => return status,
    };
    // SAFETY: referenced here; per the contract.
    unsafe {
        let waited = match kind(object) {
            Kind::Event | Kind::Thread => object,
            Kind::File => (&raw mut (*object.cast::<FileObject>()).event).cast(),
            _ => {
                ObfDereferenceObject(object);
                return STATUS_OBJECT_TYPE_MISMATCH;
            }
        };
        let status = ke::KeWaitForSingleObject(waited, 0, 0, alertable, timeout);
        ObfDereferenceObject(object);
        status
    }
}
