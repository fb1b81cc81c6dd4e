//! The remove lock: IRP_MN_REMOVE_DEVICE waits for whatever is still under way on the device.

use alloc::boxed::Box;
use core::cell::UnsafeCell;

use wdk_sys::{IO_REMOVE_LOCK, ntddk};

use crate::{
    memory::try_box,
    status::{Result, Status},
};

/// Pool tag of the lock's own bookkeeping under Driver Verifier.
const TAG: u32 = u32::from_le_bytes(*b"XenR");

/// An IO_REMOVE_LOCK in nonpaged pool.
pub struct RemoveLock {
    lock: Box<UnsafeCell<IO_REMOVE_LOCK>>,
}

// SAFETY: a remove lock is made to be used from every thread and processor.
unsafe impl Send for RemoveLock {}
// SAFETY: see above.
unsafe impl Sync for RemoveLock {}

impl RemoveLock {
    /// A new lock, one per device.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    pub fn new() -> Result<Self> {
        let lock = try_box(UnsafeCell::new(IO_REMOVE_LOCK::default()))?;
        // SAFETY: the memory is a lock of the size that is passed, and nobody else knows it.
        unsafe { ntddk::IoInitializeRemoveLockEx(lock.get(), TAG, 0, 0, size_of::<IO_REMOVE_LOCK>() as u32) }
        Ok(Self { lock })
    }

    /// Keeps the device from being removed while the guard lives. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`Status::DELETE_PENDING`]: it is being removed.
    pub fn acquire(&self) -> Result<RemoveGuard<'_>> {
        // SAFETY: the lock is initialised; tag and file name are only kept for a debugger.
        Status(unsafe {
            ntddk::IoAcquireRemoveLockEx(
                self.lock.get(),
                core::ptr::null_mut(),
                c"".as_ptr().cast(),
                0,
                size_of::<IO_REMOVE_LOCK>() as u32,
            )
        })
        .ok()?;
        Ok(RemoveGuard { lock: self })
    }
}

/// An acquired [`RemoveLock`].
pub struct RemoveGuard<'a> {
    lock: &'a RemoveLock,
}

impl RemoveGuard<'_> {
    /// Lets nobody in any more and waits until everybody else is out. For IRP_MN_REMOVE_DEVICE. PASSIVE_LEVEL.
    pub fn release_and_wait(self) {
        let lock = self.lock.lock.get();
        core::mem::forget(self);
        // SAFETY: this guard's hold is released here instead of in Drop.
        unsafe {
            ntddk::IoReleaseRemoveLockAndWaitEx(lock, core::ptr::null_mut(), size_of::<IO_REMOVE_LOCK>() as u32);
        }
    }
}

impl Drop for RemoveGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: this guard holds the lock.
        unsafe {
            ntddk::IoReleaseRemoveLockEx(
                self.lock.lock.get(),
                core::ptr::null_mut(),
                size_of::<IO_REMOVE_LOCK>() as u32,
            );
        }
    }
}
