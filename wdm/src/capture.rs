//! Capturing every processor, so that a chosen one alone may act for a moment.

use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use wdk_sys::{ULONG_PTR, ntddk};

use crate::{
    cpu,
    status::{Result, Status},
};

struct Capture<'a> {
    owner: u32,
    others: u32,
    arrived: AtomicU32,
    done: AtomicBool,
    /// Used by the owner alone.
    work: UnsafeCell<&'a mut (dyn FnMut() + Send)>,
    each: &'a (dyn Fn(u32) + Sync),
}

/// Runs `work` on the processor with index `owner` at IPI_LEVEL while every other active processor spins at that level,
/// so that no other code runs on any of them, interrupt service routines included. Then every processor, before it goes
/// on, runs `each` with its index at that level, at the same time as the others. Neither takes a lock that another
/// processor may hold: take those before. IRQL <= DISPATCH_LEVEL.
///
/// # Errors
/// [`Status::INVALID_PARAMETER`]: there is no processor `owner`. Nothing ran.
pub fn with_processors_captured(owner: u32, work: &mut (dyn FnMut() + Send), each: &(dyn Fn(u32) + Sync)) -> Result {
    let count = cpu::count();
    if owner >= count {
        return Err(Status::INVALID_PARAMETER);
    }
    let capture = Capture {
        owner,
        others: count - 1,
        arrived: AtomicU32::new(0),
        done: AtomicBool::new(false),
        work: UnsafeCell::new(work),
        each,
    };
    // SAFETY: the call returns when the routine has returned on every processor, so the context outlives its use.
    unsafe { ntddk::KeIpiGenericCall(Some(captured), core::ptr::from_ref(&capture) as ULONG_PTR) };
    Ok(())
}

/// Runs on every processor at once. IRQL = IPI_LEVEL.
unsafe extern "C" fn captured(context: ULONG_PTR) -> ULONG_PTR {
    // SAFETY: the context lives until this has returned on every processor.
    let capture = unsafe { &*(context as *const Capture<'_>) };
    let index = cpu::current();
    if index == capture.owner {
        while capture.arrived.load(Ordering::Acquire) != capture.others {
            core::hint::spin_loop();
        }
        // SAFETY: only the owner gets here, once.
        (unsafe { &mut *capture.work.get() })();
        capture.done.store(true, Ordering::Release);
    } else {
        capture.arrived.fetch_add(1, Ordering::Release);
        while !capture.done.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
    }
    (capture.each)(index);
    0
}
