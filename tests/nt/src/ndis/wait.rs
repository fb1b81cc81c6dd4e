//! What the port waits with: a gate that one side opens, and turns that are taken one after the other.

use crate::ke;
use crate::ke::abi::Event;
use crate::status::STATUS_SUCCESS;
use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::ptr;

/// An event of the kernel in memory that stays where it is.
pub struct Gate(Box<UnsafeCell<Event>>);

// SAFETY: an event is used through the kernel's functions only.
unsafe impl Send for Gate {}
// SAFETY: as above.
unsafe impl Sync for Gate {}

/// `SynchronizationEvent`: lets one waiter through and closes again.
const SYNCHRONIZATION: i32 = 1;

impl Gate {
    /// A gate, open or not. IRQL <= DISPATCH_LEVEL.
    pub fn new(open: bool) -> Self {
        // SAFETY: initialized before anyone sees it.
        unsafe {
            let gate = Self(Box::new(UnsafeCell::new(core::mem::zeroed())));
            ke::KeInitializeEvent(gate.0.get(), SYNCHRONIZATION, u8::from(open));
            gate
        }
    }

    /// Lets one waiter through. IRQL <= DISPATCH_LEVEL.
    pub fn open(&self) {
        // SAFETY: initialized.
        unsafe { ke::KeSetEvent(self.0.get(), 0, 0) };
    }

    /// Waits to be let through. IRQL = PASSIVE_LEVEL.
    pub fn wait(&self) {
        // SAFETY: initialized.
        unsafe { ke::KeWaitForSingleObject(self.0.get().cast(), 0, 0, 0, ptr::null_mut()) };
    }

    /// As [`Gate::wait`], for so many milliseconds at most. Whether it was let through.
    pub fn wait_ms(&self, ms: u64) -> bool {
        let mut due = -(ms.min(1 << 40) as i64 * 10_000);
        // SAFETY: initialized; the time lives through the call.
        unsafe { ke::KeWaitForSingleObject(self.0.get().cast(), 0, 0, 0, &raw mut due) == STATUS_SUCCESS }
    }
}

/// Turns: what one thread does between taking and giving back, no other does meanwhile.
pub struct Turns(Gate);

impl Default for Turns {
    fn default() -> Self {
        Self(Gate::new(true))
    }
}

impl Turns {
    /// Takes the turn. IRQL = PASSIVE_LEVEL.
    pub fn take(&self) -> Turn<'_> {
        self.0.wait();
        Turn(&self.0)
    }
}

/// The turn, until it is dropped.
pub struct Turn<'a>(&'a Gate);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Sleeps. IRQL = PASSIVE_LEVEL.
pub fn sleep_ms(ms: u64) {
    let due = -(ms as i64 * 10_000);
    // SAFETY: the time lives through the call.
    unsafe { ke::KeDelayExecutionThread(0, 0, &raw const due) };
}
