//! The service's parameters, read once in DriverEntry.

use core::sync::atomic::{AtomicU32, Ordering};

use wdm::{log::Level, registry::Parameters, string::UnicodeStr};

use crate::front::config::MAX_RING_PAGES;

static CONNECT_TIMEOUT: AtomicU32 = AtomicU32::new(60);
static RING_PAGES: AtomicU32 = AtomicU32::new(MAX_RING_PAGES as u32);
static INDIRECT_PAGES: AtomicU32 = AtomicU32::new(64);

/// Reads them. What is missing, or of the wrong type or out of range, is the default.
pub fn read(service: UnicodeStr<'_>) {
    let parameters = Parameters::open(service);
    let level = parameters.number("LogLevel", Level::Info as u32, 0..=3);
    wdm::log::set_level(Level::from_number(level).unwrap_or(Level::Info));
    CONNECT_TIMEOUT.store(parameters.number("ConnectTimeout", 60, 1..=600), Ordering::Relaxed);
    RING_PAGES.store(parameters.number("RingPages", MAX_RING_PAGES as u32, 1..=16), Ordering::Relaxed);
    INDIRECT_PAGES.store(parameters.number("IndirectPages", 64, 0..=512), Ordering::Relaxed);
}

/// Seconds that starting waits for the backend.
pub fn connect_timeout() -> u32 {
    CONNECT_TIMEOUT.load(Ordering::Relaxed)
}

/// Most pages of a ring.
pub fn ring_pages() -> usize {
    RING_PAGES.load(Ordering::Relaxed) as usize
}

/// Pages for indirect requests.
pub fn indirect_pages() -> usize {
    INDIRECT_PAGES.load(Ordering::Relaxed) as usize
}
