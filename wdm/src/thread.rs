//! System threads.

use alloc::boxed::Box;
use core::ffi::c_void;

use wdk_sys::{_MODE, CLIENT_ID, HANDLE, OBJ_KERNEL_HANDLE, OBJECT_ATTRIBUTES, SYNCHRONIZE, THREAD_ALL_ACCESS, ntddk};

use crate::{
    event::wait_for,
    memory::try_box,
    status::{Result, Status},
};

/// What a thread runs.
type Body = Box<dyn FnOnce() + Send>;

/// A system thread. Dropping it waits for the thread's end, so tell it to end first.
pub struct Thread {
    object: *mut c_void,
    id: usize,
}

// SAFETY: the object is a referenced kernel thread, which any thread may wait for.
unsafe impl Send for Thread {}
// SAFETY: see above.
unsafe impl Sync for Thread {}

impl Thread {
    /// Starts a thread that runs `body` at PASSIVE_LEVEL.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`] and what `PsCreateSystemThread` returns.
    pub fn spawn<F: FnOnce() + Send + 'static>(body: F) -> Result<Self> {
        let body: Body = try_box(body)?;
        let context = Box::into_raw(try_box(body)?);
        let mut attributes = OBJECT_ATTRIBUTES {
            Length: size_of::<OBJECT_ATTRIBUTES>() as u32,
            Attributes: OBJ_KERNEL_HANDLE,
            ..Default::default()
        };
        let mut handle: HANDLE = core::ptr::null_mut();
        let mut id = CLIENT_ID::default();
        // SAFETY: handle and attributes are local; the context is handed over to `run` if and only if this succeeds.
        let status = Status(unsafe {
            ntddk::PsCreateSystemThread(
                &raw mut handle,
                THREAD_ALL_ACCESS,
                &raw mut attributes,
                core::ptr::null_mut(),
                &raw mut id,
                Some(run),
                context.cast(),
            )
        });
        if let Err(status) = status.ok() {
            // SAFETY: no thread was made, so the context is still ours.
            drop(unsafe { Box::from_raw(context) });
            return Err(status);
        }
        let mut object: *mut c_void = core::ptr::null_mut();
        // SAFETY: the handle is open; a kernel-mode caller may leave the type out, and a full-access handle of its own
        // grants what is asked for.
        let referenced = Status(unsafe {
            ntddk::ObReferenceObjectByHandle(
                handle,
                SYNCHRONIZE,
                core::ptr::null_mut(),
                _MODE::KernelMode as i8,
                &raw mut object,
                core::ptr::null_mut(),
            )
        });
        // It cannot fail, and a thread that nobody could wait for must not go on.
        assert!(referenced.is_success(), "a thread's own handle could not be referenced");
        // SAFETY: the handle is open and not used again. Closing a kernel handle that is open cannot fail.
        let _ = unsafe { ntddk::ZwClose(handle) };
        Ok(Self { object, id: id.UniqueThread as usize })
    }

    /// Whether the caller is this thread. IRQL <= DISPATCH_LEVEL.
    pub fn is_current(&self) -> bool {
        self.id == current_id()
    }

    /// Waits for the thread's end.
    pub fn join(self) {
        drop(self);
    }
}

/// The calling thread's id. Any IRQL; in an interrupt or a DPC it is the id of the thread that was interrupted.
pub fn current_id() -> usize {
    // SAFETY: it has no requirement.
    unsafe { ntddk::PsGetCurrentThreadId() as usize }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Without a timeout the wait ends only with the thread.
        let _ = wait_for(self.object, None);
        // SAFETY: the reference was taken in `spawn`.
        unsafe { ntddk::ObfDereferenceObject(self.object) };
    }
}

unsafe extern "C" fn run(context: *mut c_void) {
    // SAFETY: the context is the box that `spawn` gave away.
    let body = unsafe { Box::from_raw(context.cast::<Body>()) };
    body();
    // SAFETY: this is a system thread of ours at PASSIVE_LEVEL. The call does not return.
    let _ = unsafe { ntddk::PsTerminateSystemThread(0) };
}
