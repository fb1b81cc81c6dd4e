//! IRPs that wait, each of which may be cancelled at any moment.
//!
//! The rules are those of
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/cancel-safe-irp-queues>: whoever takes the cancel routine
//! off an IRP completes it, be it the queue's owner or the I/O manager on the way to the cancel routine.

use alloc::collections::VecDeque;
use core::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use wdk_sys::{DEVICE_OBJECT, IRP, ntddk};

use crate::{
    irp::{Dispatched, Irp},
    memory::Shared,
    spinlock::SpinLock,
    status::{Result, Status},
};

/// A pointer to an IRP that the queue owns.
struct Waiting(*mut IRP);

// SAFETY: an IRP is processed by any thread.
unsafe impl Send for Waiting {}

type Queue = SpinLock<VecDeque<Waiting>>;

/// A bounded queue of pended IRPs, first in, first out. It outlives every IRP in it: its owner is reached by the IRPs'
/// file object.
pub struct IrpQueue {
    queue: Shared<Queue>,
}

/// The cancel routine of an IRP, as a word that is exchanged (`IoSetCancelRoutine`).
///
/// # Safety
/// The IRP is valid.
unsafe fn routine<'a>(irp: *mut IRP) -> &'a AtomicPtr<core::ffi::c_void> {
    // SAFETY: by contract; the word is as large as a pointer and aligned, and the I/O manager only exchanges it, too.
    unsafe { AtomicPtr::from_ptr((&raw mut (*irp).CancelRoutine).cast()) }
}

/// Where an IRP keeps its queue.
///
/// # Safety
/// The IRP is valid and the driver's.
unsafe fn context<'a>(irp: *mut IRP) -> &'a mut *mut core::ffi::c_void {
    // SAFETY: by contract: DriverContext is the driver's while it has the IRP.
    unsafe { &mut (*irp).Tail.Overlay.__bindgen_anon_1.__bindgen_anon_1.DriverContext[0] }
}

impl IrpQueue {
    /// An empty queue with room for `most`.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    pub fn new(most: usize) -> Result<Self> {
        let mut queue = VecDeque::new();
        queue.try_reserve_exact(most).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        Ok(Self { queue: Shared::new(SpinLock::new(queue))? })
    }

    /// Has an IRP wait. Without room it is completed with [`Status::QUOTA_EXCEEDED`]. IRQL <= DISPATCH_LEVEL.
    pub fn insert(&self, irp: Irp) -> Dispatched {
        let mut queue = self.queue.lock();
        if queue.len() == queue.capacity() {
            drop(queue);
            return irp.complete(Status::QUOTA_EXCEEDED);
        }
        let mut cancelled = None;
        let dispatched = irp.pend(|irp| {
            // SAFETY: the IRP is the driver's; the queue outlives it.
            unsafe { *context(irp) = ptr::from_ref::<Queue>(&self.queue).cast_mut().cast() };
            queue.push_back(Waiting(irp));
            // SAFETY: as above. A cancel routine that runs from now on waits for the lock.
            unsafe {
                routine(irp).store(cancel as *mut _, Ordering::SeqCst);
                if ptr::read_volatile(&raw const (*irp).Cancel) != 0
                    && !routine(irp).swap(ptr::null_mut(), Ordering::SeqCst).is_null()
                {
                    // It was cancelled before it came here, and nobody else has seen the routine.
                    queue.pop_back();
                    cancelled = Some(irp);
                }
            }
        });
        drop(queue);
        if let Some(irp) = cancelled {
            finish(irp, Status::CANCELLED);
        }
        dispatched
    }

    /// Takes the first IRP out. IRQL <= DISPATCH_LEVEL.
    pub fn pop(&self) -> Option<Irp> {
        let mut queue = self.queue.lock();
        loop {
            let Waiting(irp) = queue.pop_front()?;
            // SAFETY: an IRP in the queue is valid: its cancel routine takes it out, under the lock, before it completes it.
            if !unsafe { routine(irp) }.swap(ptr::null_mut(), Ordering::SeqCst).is_null() {
                // SAFETY: nobody else completes it from now on.
                return unsafe { Irp::from_raw(irp) };
            }
            // It is being cancelled: its cancel routine waits for the lock, and completes it.
        }
    }

    /// Completes every IRP with `status`. IRQL <= DISPATCH_LEVEL.
    pub fn complete_all(&self, status: Status) {
        while let Some(irp) = self.pop() {
            let _ = irp.complete(status);
        }
    }
}

fn finish(irp: *mut IRP, status: Status) {
    // SAFETY: the caller has the IRP, and nobody else does.
    if let Some(mut irp) = unsafe { Irp::from_raw(irp) } {
        irp.set_information(0);
        let _ = irp.complete(status);
    }
}

/// IRQL = DISPATCH_LEVEL on entry, with the cancel spin lock held.
unsafe extern "C" fn cancel(_device: *mut DEVICE_OBJECT, irp: *mut IRP) {
    // SAFETY: the I/O manager holds the cancel spin lock and keeps the IRQL of before in the IRP.
    unsafe { ntddk::IoReleaseCancelSpinLock((*irp).CancelIrql) };
    // SAFETY: `insert` put the queue there; it outlives the IRP, which is not completed yet.
    let queue = unsafe { &*(*context(irp)).cast::<Queue>() };
    queue.lock().retain(|waiting| waiting.0 != irp);
    finish(irp, Status::CANCELLED);
}
