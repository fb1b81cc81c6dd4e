//! A lock for the personality's own data: spins with interrupts off, so it may be taken at any IRQL.

use crate::platform::{Point, platform};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

/// A spin lock that keeps interrupts of the processor off while held. Never call a driver with it held.
pub struct IrqLock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through the guard alone, by one processor at a time.
unsafe impl<T> Sync for IrqLock<T> {}
// SAFETY: the lock owns its value; the kinds of value kept here are data of the personality, which no processor owns.
unsafe impl<T> Send for IrqLock<T> {}

impl<T> IrqLock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Takes the lock. Any IRQL.
    pub fn lock(&self) -> IrqGuard<'_, T> {
        let platform = platform();
        let enabled = platform.disable_interrupts();
        while self.taken.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            platform.preempt(Point::Spin);
            core::hint::spin_loop();
        }
        IrqGuard { lock: self, enabled }
    }

    /// The value, of a lock that nobody has any more.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }

    /// Takes the lock if it is free. Any IRQL.
    pub fn try_lock(&self) -> Option<IrqGuard<'_, T>> {
        let enabled = platform().disable_interrupts();
        if self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            platform().restore_interrupts(enabled);
            return None;
        }
        Some(IrqGuard { lock: self, enabled })
    }

    /// The value, for the one processor that holds the lock without a guard.
    pub fn data(&self) -> *mut T {
        self.value.get()
    }

    /// Gives the lock back without a guard, as [`IrqGuard::keep`] left it. Interrupts stay off.
    ///
    /// # Safety
    /// This processor holds the lock by a guard that was kept.
    pub unsafe fn release(&self) {
        self.taken.store(false, Ordering::Release);
    }
}

/// Holds an [`IrqLock`].
pub struct IrqGuard<'a, T> {
    lock: &'a IrqLock<T>,
    enabled: bool,
}

impl<T> IrqGuard<'_, T> {
    /// Forgets the guard with the lock taken and interrupts off; returns whether they were on.
    pub fn keep(self) -> bool {
        let enabled = self.enabled;
        core::mem::forget(self);
        enabled
    }
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for IrqGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.taken.store(false, Ordering::Release);
        platform().restore_interrupts(self.enabled);
    }
}
