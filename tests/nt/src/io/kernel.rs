//! What the I/O manager uses of the rest of the kernel, in the form it needs.
use crate::platform::platform;
use crate::{ex, ke, mm};
use alloc::boxed::Box;
use core::ffi::c_void;
use core::fmt;
use core::ptr;

/// NonPagedPoolNx.
const NON_PAGED_POOL_NX: i32 = 512;

/// Zeroed nonpaged memory, or NULL. IRQL <= DISPATCH_LEVEL.
pub fn pool_alloc(size: usize, tag: u32) -> *mut u8 {
    // SAFETY: any size and tag may be asked for.
    unsafe {
        let memory = ex::ExAllocatePoolWithTag(NON_PAGED_POOL_NX, size, tag).cast::<u8>();
        if !memory.is_null() {
            ptr::write_bytes(memory, 0, size);
        }
        memory
    }
}

/// Zeroed paged memory, or NULL: what callers free with ExFreePool. IRQL <= APC_LEVEL.
pub fn paged_alloc(size: usize, tag: u32) -> *mut u8 {
    const PAGED_POOL: i32 = 1;
    // SAFETY: any size and tag may be asked for.
    unsafe {
        let memory = ex::ExAllocatePoolWithTag(PAGED_POOL, size.max(1), tag).cast::<u8>();
        if !memory.is_null() {
            ptr::write_bytes(memory, 0, size);
        }
        memory
    }
}

/// Gives memory back. A tag of 0 fits any. IRQL <= DISPATCH_LEVEL.
pub fn pool_free(memory: *mut u8, tag: u32) {
    // SAFETY: the callers hold what they free.
    unsafe { if tag == 0 { ex::ExFreePool(memory.cast()) } else { ex::ExFreePoolWithTag(memory.cast(), tag) } }
}

/// A driver broke a rule: the run ends with a report.
pub fn violation(rule: &'static str, detail: fmt::Arguments<'_>) -> ! {
    crate::verifier::violation(rule, detail)
}

/// A line of the log.
pub fn note(text: fmt::Arguments<'_>) {
    platform().log(&alloc::format!("{text}"));
}

/// Time since the boot, 100 ns.
pub fn now() -> u64 {
    platform().interrupt_time()
}

/// System time now, 100 ns since 1601.
pub fn system_time() -> u64 {
    platform().boot_time() + platform().interrupt_time()
}

/// The next MDL of a chain.
///
/// # Safety
/// `mdl` is an MDL.
pub unsafe fn mdl_next(mdl: *mut c_void) -> *mut c_void {
    // SAFETY: Next is the first member.
    unsafe { *mdl.cast::<*mut c_void>() }
}

/// Unlocks and frees an MDL.
///
/// # Safety
/// The MDL belongs to the I/O manager.
pub unsafe fn mdl_release(mdl: *mut c_void) {
    const MDL_PAGES_LOCKED: i16 = 2;
    // SAFETY: per the contract; MdlFlags is at offset 10.
    unsafe {
        if *mdl.cast::<u8>().add(10).cast::<i16>() & MDL_PAGES_LOCKED != 0 {
            mm::MmUnlockPages(mdl.cast());
        }
        mm::IoFreeMdl(mdl.cast());
    }
}

unsafe extern "win64" fn run(context: *mut c_void) {
    // SAFETY: made in `spawn`.
    let body = unsafe { Box::from_raw(context.cast::<Box<dyn FnOnce()>>()) };
    body();
    // SAFETY: a system thread at PASSIVE_LEVEL.
    unsafe { ke::PsTerminateSystemThread(0) };
}

/// Starts a system thread. IRQL = PASSIVE_LEVEL.
pub fn spawn(body: Box<dyn FnOnce()>) {
    let context = Box::into_raw(Box::new(body));
    let mut handle = ptr::null_mut();
    // SAFETY: the context is a leaked box that the thread takes.
    unsafe {
        let status = ke::PsCreateSystemThread(
            &raw mut handle,
            0x1F_FFFF,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            run,
            context.cast(),
        );
        assert!(status >= 0, "a system thread of the I/O manager could not start: {status:#x}");
        crate::ob::handle::ZwClose(handle);
    }
}

/// A semaphore in static memory.
pub struct StaticSemaphore(core::cell::UnsafeCell<ke::abi::Semaphore>);
// SAFETY: a semaphore is used through the kernel's functions only.
unsafe impl Sync for StaticSemaphore {}

impl Default for StaticSemaphore {
    fn default() -> Self {
        Self::new()
    }
}

impl StaticSemaphore {
    /// One that [`Self::init`] has to make usable.
    pub const fn new() -> Self {
        Self(core::cell::UnsafeCell::new(ke::abi::Semaphore {
            header: ke::abi::DispatcherHeader {
                kind: ke::abi::OBJECT_SEMAPHORE,
                flags: 0,
                size: 8,
                inserted: 0,
                signal_state: 0,
                wait_list: ke::abi::ListEntry::unlinked(),
            },
            limit: i32::MAX,
        }))
    }

    /// Makes it usable, at zero. IRQL <= DISPATCH_LEVEL.
    pub fn init(&self) {
        // SAFETY: static memory that nobody waits on yet.
        unsafe { ke::KeInitializeSemaphore(self.0.get(), 0, i32::MAX) };
    }

    /// Lets one waiter go on. IRQL <= DISPATCH_LEVEL.
    pub fn release(&self) {
        // SAFETY: initialized.
        unsafe { ke::KeReleaseSemaphore(self.0.get(), 0, 1, 0) };
    }

    /// Waits. IRQL = PASSIVE_LEVEL.
    pub fn wait(&self) {
        // SAFETY: initialized.
        unsafe { ke::KeWaitForSingleObject(self.0.get().cast(), 0, 0, 0, ptr::null_mut()) };
    }
}
