//! One-shot timers that run a DPC.

use alloc::boxed::Box;
use core::{cell::UnsafeCell, time::Duration};

use wdk_sys::{_TIMER_TYPE, KTIMER, ntddk};

use crate::{dpc::Dpc, memory::try_box, status::Result, time::relative_due_time};

/// A timer. Dropping it cancels it and waits until its routine does not run any more (PASSIVE_LEVEL).
pub struct Timer {
    timer: Box<UnsafeCell<KTIMER>>,
    dpc: Dpc,
}

// SAFETY: a KTIMER is made to be used from every processor.
unsafe impl Send for Timer {}
// SAFETY: see above.
unsafe impl Sync for Timer {}

impl Timer {
    /// A timer that runs `routine` at DISPATCH_LEVEL each time it expires.
    ///
    /// # Errors
    /// [`crate::Status::INSUFFICIENT_RESOURCES`].
    pub fn new<F: Fn() + Send + Sync + 'static>(routine: F) -> Result<Self> {
        let dpc = Dpc::new(routine)?;
        let timer = try_box(UnsafeCell::new(KTIMER::default()))?;
        // SAFETY: the KTIMER is in nonpaged pool and nobody else knows it.
        unsafe { ntddk::KeInitializeTimerEx(timer.get(), _TIMER_TYPE::NotificationTimer) };
        Ok(Self { timer, dpc })
    }

    /// Lets it expire once after `delay`, instead of when it was set to before. IRQL <= DISPATCH_LEVEL.
    pub fn set(&self, delay: Duration) {
        // SAFETY: timer and DPC are initialised and live until they are cancelled and flushed.
        unsafe { ntddk::KeSetTimer(self.timer.get(), relative_due_time(delay), self.dpc.as_ptr()) };
    }

    /// Stops it. Its routine may still be running. IRQL <= DISPATCH_LEVEL.
    pub fn cancel(&self) {
        // SAFETY: the timer is initialised.
        unsafe { ntddk::KeCancelTimer(self.timer.get()) };
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // The DPC, dropped next, is flushed, so a routine that queued itself just now is waited for.
        self.cancel();
    }
}
