//! Spin locks of drivers: `KSPIN_LOCK` is one word, zero when free. Bit 0 is set while held, the rest says by whom, so
//! that a release by another processor is seen.

use super::abi::*;
use crate::platform::{Point, platform};
use crate::verifier;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The word of a lock.
///
/// # Safety
/// `lock` is a valid, aligned KSPIN_LOCK.
unsafe fn word<'a>(lock: *mut usize) -> &'a AtomicUsize {
    // SAFETY: the caller's promise; all access to the word is atomic.
    unsafe { AtomicUsize::from_ptr(lock) }
}

/// What the word of a lock says while this processor holds it.
fn mark() -> usize {
    ((platform().current_processor() as usize + 1) << 8) | 1
}

/// Takes the lock at the IRQL that stands.
///
/// # Safety
/// `lock` is a valid KSPIN_LOCK and the IRQL is at least DISPATCH_LEVEL.
pub unsafe fn acquire(lock: *mut usize) {
    // SAFETY: the caller's promise.
    let word = unsafe { word(lock) };
    let mark = mark();
    loop {
        match word.compare_exchange_weak(0, mark, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => break,
            Err(held) if held == mark => verifier::lock_violation("a spin lock is taken twice", lock as usize),
            Err(held) if held != 0 && (held & 1 == 0 || held >> 8 == 0 || held >> 8 > 256) => {
                verifier::lock_violation("a spin lock is not initialised or was overwritten", lock as usize);
            }
            Err(_) => {
                platform().preempt(Point::Spin);
                core::hint::spin_loop();
            }
        }
    }
    verifier::lock_taken(lock as usize);
}

/// Takes the lock if it is free.
///
/// # Safety
/// As [`acquire`].
pub unsafe fn try_acquire(lock: *mut usize) -> bool {
    // SAFETY: the caller's promise.
    let word = unsafe { word(lock) };
    let taken = word.compare_exchange(0, mark(), Ordering::Acquire, Ordering::Relaxed).is_ok();
    if taken {
        verifier::lock_taken(lock as usize);
    }
    taken
}

/// Gives the lock back.
///
/// # Safety
/// As [`acquire`].
pub unsafe fn release(lock: *mut usize) {
    verifier::lock_released(lock as usize);
    // SAFETY: the caller's promise.
    let word = unsafe { word(lock) };
    if word.compare_exchange(mark(), 0, Ordering::Release, Ordering::Relaxed).is_err() {
        verifier::lock_violation("a spin lock is released by a processor that does not hold it", lock as usize);
    }
}

/// `KeInitializeSpinLock`. Any IRQL.
pub unsafe extern "win64" fn KeInitializeSpinLock(lock: *mut usize) {
    // SAFETY: the caller gives a lock that nobody uses yet.
    unsafe { lock.write(0) }
}

/// `KeAcquireSpinLockRaiseToDpc`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeAcquireSpinLockRaiseToDpc(lock: *mut usize) -> Kirql {
    // SAFETY: the caller's contract.
    unsafe {
        let old = super::KfRaiseIrql(DISPATCH_LEVEL);
        acquire(lock);
        old
    }
}

/// `KeAcquireSpinLockRaiseToSynch`.
pub unsafe extern "win64" fn KeAcquireSpinLockRaiseToSynch(lock: *mut usize) -> Kirql {
    // SAFETY: the caller's contract.
    unsafe {
        let old = super::KeRaiseIrqlToSynchLevel();
        acquire(lock);
        old
    }
}

/// `KeReleaseSpinLock`. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeReleaseSpinLock(lock: *mut usize, old: Kirql) {
    // SAFETY: the caller's contract.
    unsafe {
        release(lock);
        super::KeLowerIrql(old);
    }
}

/// `KeAcquireSpinLockAtDpcLevel`. IRQL >= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeAcquireSpinLockAtDpcLevel(lock: *mut usize) {
    // SAFETY: the caller's contract.
    unsafe { acquire(lock) }
}

/// `KeReleaseSpinLockFromDpcLevel`. IRQL >= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeReleaseSpinLockFromDpcLevel(lock: *mut usize) {
    // SAFETY: the caller's contract.
    unsafe { release(lock) }
}

/// `KeTryToAcquireSpinLockAtDpcLevel`. IRQL >= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeTryToAcquireSpinLockAtDpcLevel(lock: *mut usize) -> u8 {
    // SAFETY: the caller's contract.
    unsafe { u8::from(try_acquire(lock)) }
}

/// `KeTestSpinLock`: 1 if it is free. Any IRQL.
pub unsafe extern "win64" fn KeTestSpinLock(lock: *mut usize) -> u8 {
    // SAFETY: the caller's contract.
    unsafe { u8::from(word(lock).load(Ordering::Relaxed) == 0) }
}

/// `KeAcquireInStackQueuedSpinLock`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeAcquireInStackQueuedSpinLock(lock: *mut usize, handle: *mut LockQueueHandle) {
    // SAFETY: the caller's contract.
    unsafe {
        let old_irql = KeAcquireSpinLockRaiseToDpc(lock);
        handle.write(LockQueueHandle { next: core::ptr::null_mut(), lock, old_irql });
    }
}

/// `KeReleaseInStackQueuedSpinLock`. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeReleaseInStackQueuedSpinLock(handle: *mut LockQueueHandle) {
    // SAFETY: the caller's contract.
    unsafe { KeReleaseSpinLock((*handle).lock, (*handle).old_irql) }
}

/// `KeAcquireInStackQueuedSpinLockAtDpcLevel`. IRQL >= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeAcquireInStackQueuedSpinLockAtDpcLevel(lock: *mut usize, handle: *mut LockQueueHandle) {
    // SAFETY: the caller's contract.
    unsafe {
        acquire(lock);
        handle.write(LockQueueHandle { next: core::ptr::null_mut(), lock, old_irql: DISPATCH_LEVEL });
    }
}

/// `KeReleaseInStackQueuedSpinLockFromDpcLevel`. IRQL >= DISPATCH_LEVEL.
pub unsafe extern "win64" fn KeReleaseInStackQueuedSpinLockFromDpcLevel(handle: *mut LockQueueHandle) {
    // SAFETY: the caller's contract.
    unsafe { release((*handle).lock) }
}
