//! What was in flight at each suspend: counted when the processors are captured for the hypercall, from when on Windows'
//! counts stand still.

use crate::lock::Lock;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// xenpci has said that it suspends, and not yet that it is done.
static RUNNING: AtomicBool = AtomicBool::new(false);
/// Commands that the port drivers had when the processors were captured last.
static LAST: AtomicU64 = AtomicU64::new(0);
static COUNTS: Lock<Vec<u64>> = Lock::new(Vec::new());

/// A line of the log. Any IRQL.
pub fn note_line(line: &str) {
    if line == "xenpci: suspending" {
        LAST.store(0, Ordering::Relaxed);
        RUNNING.store(true, Ordering::Release);
    } else if line.starts_with("xenpci: suspend: ") && RUNNING.swap(false, Ordering::AcqRel) {
        COUNTS.lock().push(LAST.load(Ordering::Relaxed));
    }
}

/// This processor goes to IPI_LEVEL, as the one does that carries out a broadcast. The last one before the driver says
/// that it is done was the capture: nothing else asks for one meanwhile.
pub fn note_capture() {
    if RUNNING.load(Ordering::Acquire) {
        let disks = nt::disk::disks();
        let count = disks.iter().map(|disk| disk.counters.in_flight.load(Ordering::Relaxed) as u64).sum();
        LAST.fetch_max(count, Ordering::Relaxed);
    }
}

/// Commands that were in flight at each suspend so far, cancelled ones too.
pub fn in_flight() -> Vec<u64> {
    COUNTS.lock().clone()
}
