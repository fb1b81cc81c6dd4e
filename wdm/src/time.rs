//! Clocks and delays.

use core::time::Duration;

use wdk_sys::{_MODE, LARGE_INTEGER, ntddk};

/// `duration` as Windows' relative due time: a negative count of 100 ns.
pub(crate) fn relative_due_time(duration: Duration) -> LARGE_INTEGER {
    let ticks = i64::try_from(duration.as_nanos() / 100).unwrap_or(i64::MAX);
    LARGE_INTEGER { QuadPart: -ticks }
}

/// Time since some fixed moment before the driver was loaded. Never runs backward. Any IRQL.
pub fn monotonic() -> Duration {
    let mut frequency = LARGE_INTEGER::default();
    // SAFETY: the result goes to a local variable.
    let counter = unsafe { ntddk::KeQueryPerformanceCounter(&raw mut frequency) };
    // SAFETY: LARGE_INTEGER's members are views of the same 64 bits.
    let (ticks, hertz) = unsafe { (counter.QuadPart.max(0) as u128, frequency.QuadPart.max(1) as u128) };
    Duration::from_nanos((ticks * 1_000_000_000 / hertz) as u64)
}

/// Sleeps. IRQL <= APC_LEVEL.
pub fn sleep(duration: Duration) {
    let mut due = relative_due_time(duration);
    // SAFETY: the interval is a local variable; the wait is in kernel mode and not alertable. Its status is success.
    let _ = unsafe { ntddk::KeDelayExecutionThread(_MODE::KernelMode as i8, 0, &raw mut due) };
}
