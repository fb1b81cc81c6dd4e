//! Work for a system worker thread, as a closure.

use crate::ex::{ExQueueWorkItem, WorkItem};
use crate::ke::abi::ListEntry;
use alloc::boxed::Box;
use core::ffi::c_void;

/// A queued closure: the work item comes first, so that its address is that of the whole.
struct Job {
    item: WorkItem,
    body: Box<dyn FnOnce()>,
}

/// Runs `body` on a system worker thread at PASSIVE_LEVEL. IRQL <= DISPATCH_LEVEL.
pub fn queue(body: Box<dyn FnOnce()>) {
    let item = WorkItem { entry: ListEntry::unlinked(), routine: Some(run), parameter: core::ptr::null_mut() };
    let job = Box::into_raw(Box::new(Job { item, body }));
    // SAFETY: the job lives until its routine takes it.
    unsafe {
        (*job).item.parameter = job.cast();
        ExQueueWorkItem(&raw mut (*job).item, 1);
    }
}

unsafe extern "win64" fn run(job: *mut c_void) {
    // SAFETY: made in `queue`, given to this routine once.
    let job = unsafe { Box::from_raw(job.cast::<Job>()) };
    (job.body)();
}
