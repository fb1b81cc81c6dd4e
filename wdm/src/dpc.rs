//! Deferred procedure calls.

use alloc::boxed::Box;
use core::{cell::UnsafeCell, ffi::c_void};

use wdk_sys::{_KDPC_IMPORTANCE, KDPC, PROCESSOR_NUMBER, ntddk};

use crate::{
    cpu::Processor,
    memory::try_box,
    status::{Result, Status},
};

struct Inner {
    dpc: UnsafeCell<KDPC>,
    routine: Box<dyn Fn() + Send + Sync>,
}

/// A DPC. Dropping it takes it off the queue and waits until it does not run any more (PASSIVE_LEVEL).
pub struct Dpc {
    inner: Box<Inner>,
}

// SAFETY: a KDPC is made to be used from every processor; the routine is Send and Sync.
unsafe impl Send for Dpc {}
// SAFETY: see above.
unsafe impl Sync for Dpc {}

impl Dpc {
    /// A DPC that runs `routine` at DISPATCH_LEVEL on the processor that queued it. It may run on several processors
    /// at once if it is queued again while it runs and has no processor of its own.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`].
    pub fn new<F: Fn() + Send + Sync + 'static>(routine: F) -> Result<Self> {
        let routine: Box<dyn Fn() + Send + Sync> = try_box(routine)?;
        let inner = try_box(Inner { dpc: UnsafeCell::new(KDPC::default()), routine })?;
        let context = core::ptr::from_ref::<Inner>(&inner).cast_mut().cast();
        // SAFETY: the KDPC is in nonpaged pool and nobody else knows it; the context lives as long.
        unsafe { ntddk::KeInitializeDpc(inner.dpc.get(), Some(run), context) };
        Ok(Self { inner })
    }

    /// As [`Dpc::new`], always on one processor, and ahead of other DPCs there.
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`] and what `KeSetTargetProcessorDpcEx` returns.
    pub fn on_processor<F: Fn() + Send + Sync + 'static>(processor: Processor, routine: F) -> Result<Self> {
        let dpc = Self::new(routine)?;
        let mut number = PROCESSOR_NUMBER { Group: processor.group, Number: processor.number, Reserved: 0 };
        // SAFETY: the KDPC is initialised and not queued.
        unsafe {
            Status(ntddk::KeSetTargetProcessorDpcEx(dpc.inner.dpc.get(), &raw mut number)).ok()?;
            ntddk::KeSetImportanceDpc(dpc.inner.dpc.get(), _KDPC_IMPORTANCE::HighImportance);
        }
        Ok(dpc)
    }

    /// Queues it; nothing happens if it is queued already. Any IRQL.
    pub fn queue(&self) {
        // SAFETY: the KDPC is initialised and lives until it is flushed.
        unsafe { ntddk::KeInsertQueueDpc(self.inner.dpc.get(), core::ptr::null_mut(), core::ptr::null_mut()) };
    }

    pub(crate) fn as_ptr(&self) -> *mut KDPC {
        self.inner.dpc.get()
    }
}

impl Drop for Dpc {
    fn drop(&mut self) {
        // SAFETY: the KDPC is initialised. Afterwards no processor runs it nor has it queued.
        unsafe {
            ntddk::KeRemoveQueueDpc(self.inner.dpc.get());
            ntddk::KeFlushQueuedDpcs();
        }
    }
}

/// Waits until every DPC that was queued on any processor has run.
pub fn flush() {
    // SAFETY: it has no requirement but PASSIVE_LEVEL.
    unsafe { ntddk::KeFlushQueuedDpcs() }
}

unsafe extern "C" fn run(_dpc: *mut KDPC, context: *mut c_void, _first: *mut c_void, _second: *mut c_void) {
    // SAFETY: the context is the inner value, which lives until the DPC is flushed.
    let inner = unsafe { &*context.cast::<Inner>() };
    (inner.routine)();
}
