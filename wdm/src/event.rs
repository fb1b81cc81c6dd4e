//! Kernel events, and a mutual exclusion lock for PASSIVE_LEVEL made of one.

use alloc::boxed::Box;
use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    time::Duration,
};

use wdk_sys::{_EVENT_TYPE, _KWAIT_REASON, _MODE, KEVENT, ntddk};

use crate::{
    memory::try_box,
    status::{Result, Status},
    time::relative_due_time,
};

/// What happens to an event when a wait on it succeeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It stays signalled until it is cleared; all waiters go on.
    Notification,
    /// It clears itself; one waiter goes on.
    Synchronization,
}

/// A KEVENT in nonpaged pool, so that the [`Event`] itself may be moved.
pub struct Event {
    event: Box<UnsafeCell<KEVENT>>,
}

// SAFETY: a KEVENT is made to be used by several threads and processors at once.
unsafe impl Send for Event {}
// SAFETY: see above.
unsafe impl Sync for Event {}

impl Event {
    /// A new event.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    pub fn new(kind: EventKind, signalled: bool) -> Result<Self> {
        let event = try_box(UnsafeCell::new(KEVENT::default()))?;
        let kind = match kind {
            EventKind::Notification => _EVENT_TYPE::NotificationEvent,
            EventKind::Synchronization => _EVENT_TYPE::SynchronizationEvent,
        };
        // SAFETY: the memory is a KEVENT in nonpaged pool that nobody else knows.
        unsafe { ntddk::KeInitializeEvent(event.get(), kind, signalled.into()) };
        Ok(Self { event })
    }

    /// Signals it. IRQL <= DISPATCH_LEVEL.
    pub fn set(&self) {
        // SAFETY: the event is initialised; Wait is FALSE.
        unsafe { ntddk::KeSetEvent(self.event.get(), 0, 0) };
    }

    /// Takes the signal back. IRQL <= DISPATCH_LEVEL.
    pub fn clear(&self) {
        // SAFETY: the event is initialised.
        unsafe { ntddk::KeClearEvent(self.event.get()) };
    }

    /// Whether it is signalled now. IRQL <= DISPATCH_LEVEL.
    pub fn is_set(&self) -> bool {
        // SAFETY: the event is initialised.
        unsafe { ntddk::KeReadStateEvent(self.event.get()) != 0 }
    }

    /// Waits for the signal without a bound. IRQL <= APC_LEVEL.
    pub fn wait(&self) {
        // A non-alertable kernel-mode wait without a timeout ends only when the object is signalled.
        let _ = wait_for(self.event.get().cast(), None);
    }

    /// Waits for the signal; `false`: it did not come in time. IRQL <= APC_LEVEL.
    #[must_use]
    pub fn wait_for(&self, timeout: Duration) -> bool {
        wait_for(self.event.get().cast(), Some(timeout)) == Status::SUCCESS
    }

    /// The event itself, for a Windows function that signals it.
    pub fn as_ptr(&self) -> *mut KEVENT {
        self.event.get()
    }
}

/// Waits for a dispatcher object, kernel mode, not alertable. IRQL <= APC_LEVEL.
pub(crate) fn wait_for(object: *mut core::ffi::c_void, timeout: Option<Duration>) -> Status {
    let mut due = timeout.map(relative_due_time).unwrap_or_default();
    let due = if timeout.is_some() { &raw mut due } else { core::ptr::null_mut() };
    // SAFETY: every caller in this crate passes an initialised dispatcher object; `due` lives on this stack.
    Status(unsafe { ntddk::KeWaitForSingleObject(object, _KWAIT_REASON::Executive, _MODE::KernelMode as i8, 0, due) })
}

/// A value that one thread at a time may use. Unlike a fast mutex it leaves the IRQL alone, so files, the registry and
/// waits are allowed while it is held. Not recursive.
pub struct Mutex<T> {
    free: Event,
    value: UnsafeCell<T>,
}

// SAFETY: the event lets one thread at the value at a time.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// An unlocked mutex.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    pub fn new(value: T) -> Result<Self> {
        Ok(Self { free: Event::new(EventKind::Synchronization, true)?, value: UnsafeCell::new(value) })
    }

    /// Takes the lock. IRQL <= APC_LEVEL.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.free.wait();
        MutexGuard { mutex: self }
    }
}

/// A held [`Mutex`].
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mutex is held.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the mutex is held, and the guard is borrowed mutably.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.mutex.free.set();
    }
}
