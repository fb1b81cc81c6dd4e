//! Fast mutexes, resources, reader-writer spin locks, run-down protection.

use crate::ke::abi::*;
use crate::ke::{self, sched, spinlock};
use crate::platform::{Point, platform};
use crate::status::*;
use crate::sync::IrqLock;
use crate::verifier;
use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};

unsafe fn count<'a>(mutex: *mut FastMutex) -> &'a AtomicI32 {
    // SAFETY: the caller gives a fast mutex; its count is only used atomically.
    unsafe { AtomicI32::from_ptr(&raw mut (*mutex).count) }
}

/// `ExInitializeFastMutex`. Any IRQL.
pub unsafe extern "win64" fn ExInitializeFastMutex(mutex: *mut FastMutex) {
    // SAFETY: the caller gives memory for a fast mutex.
    unsafe {
        (*mutex).count = 1;
        (*mutex).owner = null_mut();
        (*mutex).contention = 0;
        (*mutex).old_irql = 0;
        ke::KeInitializeEvent(&raw mut (*mutex).event, 1, 0);
    }
}

/// Waits for the mutex without changing the IRQL.
unsafe fn lock(mutex: *mut FastMutex) {
    // SAFETY: the caller gives a fast mutex.
    unsafe {
        let me: *mut c_void = sched::current().cast();
        if core::ptr::eq((*mutex).owner, me) && !me.is_null() {
            verifier::violation("fast mutex", format_args!("{mutex:p} is taken twice by one thread"));
        }
        if count(mutex).fetch_sub(1, Ordering::Acquire) != 1 {
            (*mutex).contention += 1;
            ke::KeWaitForSingleObject((&raw mut (*mutex).event).cast(), 0, 0, 0, core::ptr::null());
        }
        (*mutex).owner = me;
    }
}

unsafe fn unlock(mutex: *mut FastMutex) {
    // SAFETY: the caller gives a fast mutex that it owns.
    unsafe {
        if !core::ptr::eq((*mutex).owner, sched::current().cast()) {
            verifier::violation("fast mutex", format_args!("{mutex:p} is released by a thread that does not own it"));
        }
        (*mutex).owner = null_mut();
        if count(mutex).fetch_add(1, Ordering::Release) != 0 {
            ke::KeSetEvent(&raw mut (*mutex).event, 0, 0);
        }
    }
}

/// `ExAcquireFastMutex`: raises to APC_LEVEL. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn ExAcquireFastMutex(mutex: *mut FastMutex) {
    // SAFETY: the caller's contract.
    unsafe {
        let old = ke::KfRaiseIrql(APC_LEVEL);
        lock(mutex);
        (*mutex).old_irql = u32::from(old);
    }
}

/// `ExReleaseFastMutex`. IRQL = APC_LEVEL.
pub unsafe extern "win64" fn ExReleaseFastMutex(mutex: *mut FastMutex) {
    // SAFETY: the caller's contract.
    unsafe {
        let old = (*mutex).old_irql as Kirql;
        unlock(mutex);
        ke::KeLowerIrql(old);
    }
}

/// `ExTryToAcquireFastMutex`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn ExTryToAcquireFastMutex(mutex: *mut FastMutex) -> u8 {
    // SAFETY: the caller's contract.
    unsafe {
        let old = ke::KfRaiseIrql(APC_LEVEL);
        if count(mutex).compare_exchange(1, 0, Ordering::Acquire, Ordering::Relaxed).is_err() {
            ke::KeLowerIrql(old);
            return 0;
        }
        (*mutex).owner = sched::current().cast();
        (*mutex).old_irql = u32::from(old);
        1
    }
}

/// `ExAcquireFastMutexUnsafe` (and KeAcquireGuardedMutex): the IRQL stays. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn ExAcquireFastMutexUnsafe(mutex: *mut FastMutex) {
    // SAFETY: the caller's contract.
    unsafe { lock(mutex) }
}

/// `ExReleaseFastMutexUnsafe` (and KeReleaseGuardedMutex).
pub unsafe extern "win64" fn ExReleaseFastMutexUnsafe(mutex: *mut FastMutex) {
    // SAFETY: the caller's contract.
    unsafe { unlock(mutex) }
}

/// `ERESOURCE`: opaque but for its size.
#[repr(C)]
pub struct Resource {
    list: ListEntry,
    owners: *mut c_void,
    /// Readers (positive) or recursions of the writer (negative).
    active: i32,
    waiters: u32,
    event: *mut Event,
    writer: *mut c_void,
    fill: [u64; 7],
}

const _: () = assert!(size_of::<Resource>() == 0x68 && offset_of!(Resource, active) == 0x18);

static RESOURCES: IrqLock<()> = IrqLock::new(());

/// `ExInitializeResourceLite`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExInitializeResourceLite(resource: *mut Resource) -> NtStatus {
    // SAFETY: the caller gives memory for a resource.
    unsafe {
        let event = alloc::boxed::Box::into_raw(alloc::boxed::Box::<Event>::new_uninit()).cast::<Event>();
        ke::KeInitializeEvent(event, 0, 0);
        resource.write(Resource {
            list: ListEntry::unlinked(),
            owners: null_mut(),
            active: 0,
            waiters: 0,
            event,
            writer: null_mut(),
            fill: [0; 7],
        });
    }
    STATUS_SUCCESS
}

/// `ExDeleteResourceLite`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExDeleteResourceLite(resource: *mut Resource) -> NtStatus {
    // SAFETY: the caller gives an initialised resource that nobody uses.
    unsafe {
        if (*resource).active != 0 {
            verifier::violation("resource", format_args!("{resource:p} is deleted while it is held"));
        }
        drop(alloc::boxed::Box::from_raw((*resource).event));
        (*resource).event = null_mut();
    }
    STATUS_SUCCESS
}

unsafe fn acquire(resource: *mut Resource, exclusive: bool, wait: bool) -> u8 {
    let me: *mut c_void = sched::current().cast();
    loop {
        // SAFETY: the caller gives an initialised resource; the lock guards its fields.
        unsafe {
            let guard = RESOURCES.lock();
            let mine = core::ptr::eq((*resource).writer, me);
            if mine || (exclusive && (*resource).active == 0) {
                (*resource).writer = me;
                (*resource).active -= 1;
                return 1;
            }
            if !exclusive && (*resource).active >= 0 && ((*resource).waiters == 0 || (*resource).active == 0) {
                (*resource).active += 1;
                return 1;
            }
            if !wait {
                return 0;
            }
            if exclusive {
                (*resource).waiters += 1;
            }
            ke::KeResetEvent((*resource).event);
            drop(guard);
            ke::KeWaitForSingleObject((*resource).event.cast(), 0, 0, 0, core::ptr::null());
            let _guard = RESOURCES.lock();
            if exclusive {
                (*resource).waiters -= 1;
            }
        }
    }
}

/// `ExAcquireResourceExclusiveLite`. IRQL <= APC_LEVEL, in a critical region.
pub unsafe extern "win64" fn ExAcquireResourceExclusiveLite(resource: *mut Resource, wait: u8) -> u8 {
    // SAFETY: the caller's contract.
    unsafe { acquire(resource, true, wait != 0) }
}

/// `ExAcquireResourceSharedLite`. IRQL <= APC_LEVEL, in a critical region.
pub unsafe extern "win64" fn ExAcquireResourceSharedLite(resource: *mut Resource, wait: u8) -> u8 {
    // SAFETY: the caller's contract.
    unsafe { acquire(resource, false, wait != 0) }
}

/// `ExReleaseResourceLite`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExReleaseResourceLite(resource: *mut Resource) {
    // SAFETY: the caller's contract; the lock guards the fields.
    unsafe {
        let guard = RESOURCES.lock();
        match (*resource).active {
            0 => {
                drop(guard);
                verifier::violation("resource", format_args!("{resource:p} is released but not held"));
            }
            1.. => (*resource).active -= 1,
            _ => {
                (*resource).active += 1;
                if (*resource).active == 0 {
                    (*resource).writer = null_mut();
                }
            }
        }
        let free = (*resource).active == 0;
        drop(guard);
        if free {
            ke::KeSetEvent((*resource).event, 0, 0);
        }
    }
}

/// `ExIsResourceAcquiredExclusiveLite`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExIsResourceAcquiredExclusiveLite(resource: *mut Resource) -> u8 {
    let _guard = RESOURCES.lock();
    // SAFETY: the caller's contract; the lock is held.
    unsafe { u8::from(core::ptr::eq((*resource).writer, sched::current().cast())) }
}

/// The writer's bit of an EX_SPIN_LOCK.
const WRITER: u32 = 0x8000_0000;

unsafe fn spin_word<'a>(lock: *mut i32) -> &'a AtomicU32 {
    // SAFETY: the caller gives an EX_SPIN_LOCK, which is only used atomically.
    unsafe { AtomicU32::from_ptr(lock.cast()) }
}

unsafe fn spin(mut attempt: impl FnMut() -> bool) {
    while !attempt() {
        platform().preempt(Point::Spin);
        core::hint::spin_loop();
    }
}

/// `ExAcquireSpinLockSharedAtDpcLevel`. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExAcquireSpinLockSharedAtDpcLevel(lock: *mut i32) {
    // SAFETY: the caller's contract.
    unsafe {
        let word = spin_word(lock);
        spin(|| {
            let now = word.load(Ordering::Relaxed);
            now & WRITER == 0 && word.compare_exchange(now, now + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
    }
}

/// `ExReleaseSpinLockSharedFromDpcLevel`. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExReleaseSpinLockSharedFromDpcLevel(lock: *mut i32) {
    // SAFETY: the caller's contract.
    unsafe {
        if spin_word(lock).fetch_sub(1, Ordering::Release) & !WRITER == 0 {
            verifier::violation("ex spin lock", format_args!("{lock:p} is released but not held shared"));
        }
    }
}

/// `ExAcquireSpinLockExclusiveAtDpcLevel`. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExAcquireSpinLockExclusiveAtDpcLevel(lock: *mut i32) {
    // SAFETY: the caller's contract.
    unsafe {
        let word = spin_word(lock);
        // The bit first, which keeps new readers out; then the readers that are in go.
        spin(|| word.fetch_or(WRITER, Ordering::Acquire) & WRITER == 0);
        spin(|| word.load(Ordering::Acquire) == WRITER);
    }
}

/// `ExReleaseSpinLockExclusiveFromDpcLevel`. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExReleaseSpinLockExclusiveFromDpcLevel(lock: *mut i32) {
    // SAFETY: the caller's contract.
    unsafe {
        if spin_word(lock).swap(0, Ordering::Release) != WRITER {
            verifier::violation("ex spin lock", format_args!("{lock:p} is released but not held exclusive"));
        }
    }
}

/// `ExAcquireSpinLockShared`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExAcquireSpinLockShared(lock: *mut i32) -> Kirql {
    // SAFETY: the caller's contract.
    unsafe {
        let old = ke::KfRaiseIrql(DISPATCH_LEVEL);
        ExAcquireSpinLockSharedAtDpcLevel(lock);
        old
    }
}

/// `ExReleaseSpinLockShared`. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExReleaseSpinLockShared(lock: *mut i32, old: Kirql) {
    // SAFETY: the caller's contract.
    unsafe {
        ExReleaseSpinLockSharedFromDpcLevel(lock);
        ke::KeLowerIrql(old);
    }
}

/// `ExAcquireSpinLockExclusive`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExAcquireSpinLockExclusive(lock: *mut i32) -> Kirql {
    // SAFETY: the caller's contract.
    unsafe {
        let old = ke::KfRaiseIrql(DISPATCH_LEVEL);
        ExAcquireSpinLockExclusiveAtDpcLevel(lock);
        old
    }
}

/// `ExReleaseSpinLockExclusive`. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExReleaseSpinLockExclusive(lock: *mut i32, old: Kirql) {
    // SAFETY: the caller's contract.
    unsafe {
        ExReleaseSpinLockExclusiveFromDpcLevel(lock);
        ke::KeLowerIrql(old);
    }
}

/// `ExTryConvertSharedSpinLockExclusive`. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExTryConvertSharedSpinLockExclusive(lock: *mut i32) -> u32 {
    // SAFETY: the caller's contract.
    u32::from(unsafe { spin_word(lock).compare_exchange(1, WRITER, Ordering::Acquire, Ordering::Relaxed).is_ok() })
}

/// The low bit of an EX_RUNDOWN_REF: run-down has begun. Each reference counts two.
const RUNDOWN: usize = 1;

unsafe fn rundown<'a>(reference: *mut usize) -> &'a AtomicUsize {
    // SAFETY: the caller gives an EX_RUNDOWN_REF, which is only used atomically.
    unsafe { AtomicUsize::from_ptr(reference) }
}

/// `ExInitializeRundownProtection`. Any IRQL.
pub unsafe extern "win64" fn ExInitializeRundownProtection(reference: *mut usize) {
    // SAFETY: the caller gives memory for one.
    unsafe { reference.write(0) }
}

/// `ExReInitializeRundownProtection`. Any IRQL.
pub unsafe extern "win64" fn ExReInitializeRundownProtection(reference: *mut usize) {
    // SAFETY: the caller gives one that has run down.
    unsafe { reference.write(0) }
}

/// `ExAcquireRundownProtection`. Any IRQL.
pub unsafe extern "win64" fn ExAcquireRundownProtection(reference: *mut usize) -> u8 {
    // SAFETY: the caller's contract.
    let word = unsafe { rundown(reference) };
    let taken = word.fetch_update(Ordering::Acquire, Ordering::Relaxed, |v| (v & RUNDOWN == 0).then_some(v + 2));
    u8::from(taken.is_ok())
}

/// `ExReleaseRundownProtection`. Any IRQL.
pub unsafe extern "win64" fn ExReleaseRundownProtection(reference: *mut usize) {
    // SAFETY: the caller's contract.
    if unsafe { rundown(reference) }.fetch_sub(2, Ordering::Release) < 2 {
        verifier::violation("run-down", format_args!("{reference:p} is released more often than acquired"));
    }
}

/// `ExWaitForRundownProtectionRelease`. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn ExWaitForRundownProtectionRelease(reference: *mut usize) {
    // SAFETY: the caller's contract.
    let word = unsafe { rundown(reference) };
    word.fetch_or(RUNDOWN, Ordering::AcqRel);
    while word.load(Ordering::Acquire) != RUNDOWN {
        ke::wait::sleep(-10_000);
    }
}

/// `ExRundownCompleted`. Any IRQL.
pub unsafe extern "win64" fn ExRundownCompleted(reference: *mut usize) {
    // SAFETY: the caller's contract.
    unsafe { rundown(reference) }.store(RUNDOWN, Ordering::Release);
}

/// Bytes of a cache-aware reference. It is one word here: the copies by processor are a matter of speed.
const CACHE_AWARE_BYTES: usize = 64;

/// `ExSizeOfRundownProtectionCacheAware`. Any IRQL.
pub unsafe extern "win64" fn ExSizeOfRundownProtectionCacheAware() -> usize {
    CACHE_AWARE_BYTES
}

/// `ExInitializeRundownProtectionCacheAware`. Any IRQL.
pub unsafe extern "win64" fn ExInitializeRundownProtectionCacheAware(reference: *mut usize, _bytes: usize) {
    // SAFETY: the caller gives memory for one.
    unsafe { reference.write(0) }
}

/// `ExAllocateCacheAwareRundownProtection`: null without memory. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExAllocateCacheAwareRundownProtection(kind: i32, tag: u32) -> *mut usize {
    // SAFETY: an allocation on behalf of the driver; it is written where there is one.
    unsafe {
        let reference = super::pool::driver::ExAllocatePoolWithTag(kind, CACHE_AWARE_BYTES, tag).cast::<usize>();
        if !reference.is_null() {
            reference.write(0);
        }
        reference
    }
}

/// `ExFreeCacheAwareRundownProtection`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn ExFreeCacheAwareRundownProtection(reference: *mut usize) {
    // SAFETY: the caller gives one of ExAllocateCacheAwareRundownProtection.
    unsafe { super::pool::driver::ExFreePool(reference.cast()) }
}

/// `ExAcquireSpinLock` helpers of the personality: a plain KSPIN_LOCK tried once. IRQL >= DISPATCH_LEVEL.
///
/// # Safety
/// `lock` is a KSPIN_LOCK.
pub unsafe fn try_spin_lock(lock: *mut usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { spinlock::try_acquire(lock) }
}
