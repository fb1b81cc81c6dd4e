//! A spin lock with interrupts off while it is held, for the platform's own data.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};
use x86_64::instructions::interrupts;

/// A value behind a spin lock. Usable at any IRQL, in interrupts too.
pub struct Lock<T> {
    raw: RawLock,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through the guard alone, by one processor at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        Self { raw: RawLock::new(), value: UnsafeCell::new(value) }
    }

    /// Takes the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        self.raw.take();
        Guard(self)
    }
}

/// Holds a [`Lock`].
pub struct Guard<'a, T>(&'a Lock<T>);

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.0.raw.give();
    }
}

/// The lock itself, as the heap needs it.
pub struct RawLock {
    taken: AtomicBool,
    enabled: AtomicBool,
}

impl RawLock {
    /// An unlocked lock.
    pub const fn new() -> Self {
        Self { taken: AtomicBool::new(false), enabled: AtomicBool::new(false) }
    }

    fn take(&self) {
        let enabled = interrupts::are_enabled();
        interrupts::disable();
        while self.taken.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            core::hint::spin_loop();
        }
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    fn give(&self) {
        let enabled = self.enabled.load(Ordering::Relaxed);
        self.taken.store(false, Ordering::Release);
        if enabled {
            interrupts::enable();
        }
    }
}

// SAFETY: `take` returns to one processor at a time until that one calls `give`.
unsafe impl lock_api::RawMutex for RawLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self::new();
    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        self.take();
    }

    fn try_lock(&self) -> bool {
        let enabled = interrupts::are_enabled();
        interrupts::disable();
        let won = self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if won {
            self.enabled.store(enabled, Ordering::Relaxed);
        } else if enabled {
            interrupts::enable();
        }
        won
    }

    unsafe fn unlock(&self) {
        self.give();
    }
}
