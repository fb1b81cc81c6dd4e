//! The log's last lines, kept for the suites.

use crate::lock::Lock;
use alloc::collections::VecDeque;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

/// Lines that are kept.
const MOST: usize = 2000;

static LINES: Lock<VecDeque<String>> = Lock::new(VecDeque::new());

/// Keeps a line. Any IRQL.
pub fn keep(line: &str) {
    let mut lines = LINES.lock();
    if lines.len() == MOST {
        lines.pop_front();
    }
    lines.push_back(line.to_string());
}

/// The lines, the oldest first.
pub fn lines() -> Vec<String> {
    LINES.lock().iter().cloned().collect()
}
