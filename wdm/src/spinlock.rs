//! Spin locks that raise to DISPATCH_LEVEL.

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
};

use wdk_sys::{KIRQL, KSPIN_LOCK, ntddk};

/// The current IRQL. Any IRQL.
pub fn current_irql() -> u8 {
    // SAFETY: it has no requirement.
    unsafe { ntddk::KeGetCurrentIrql() }
}

/// PASSIVE_LEVEL.
pub const PASSIVE_LEVEL: u8 = 0;
/// DISPATCH_LEVEL.
pub const DISPATCH_LEVEL: u8 = 2;

/// A value behind a KSPIN_LOCK. Lives in nonpaged memory: a static, a device extension, or the pool.
pub struct SpinLock<T> {
    lock: UnsafeCell<KSPIN_LOCK>,
    value: UnsafeCell<T>,
}

// SAFETY: the lock lets one processor at the value at a time.
unsafe impl<T: Send> Sync for SpinLock<T> {}
// SAFETY: an unlocked spin lock is a plain word.
unsafe impl<T: Send> Send for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// An unlocked lock. (`KeInitializeSpinLock` writes a zero.)
    pub const fn new(value: T) -> Self {
        Self { lock: UnsafeCell::new(0), value: UnsafeCell::new(value) }
    }

    /// Takes the lock; the guard restores the IRQL. Guards are dropped in the reverse order of their making.
    /// IRQL <= DISPATCH_LEVEL; DISPATCH_LEVEL until the guard is dropped.
    pub fn lock(&self) -> SpinGuard<'_, T> {
        // SAFETY: the word is a spin lock in nonpaged memory for as long as `self` lives.
        let irql = unsafe { ntddk::KeAcquireSpinLockRaiseToDpc(self.lock.get()) };
        SpinGuard { lock: self, irql }
    }

    /// The value, where the caller has the only reference anyway. Any IRQL.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

/// A held [`SpinLock`].
pub struct SpinGuard<'a, T> {
    lock: &'a SpinLock<T>,
    irql: KIRQL,
}

impl<T> Deref for SpinGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for SpinGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for SpinGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: this guard took the lock at `irql`.
        unsafe { ntddk::KeReleaseSpinLock(self.lock.lock.get(), self.irql) }
    }
}
