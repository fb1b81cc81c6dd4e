//! shutdownmon: the service that obeys the toolstack.
//!
//! What it does with xenstore is [`shutdownmon_core`]. Here is the rest:
//!
//! - [`arming`]: whether the next boot uses the paravirtual devices.
//! - [`collect`]: what a bug report needs.
//! - [`event_text`]: a text as the event log takes it.
//! - `windows`: Windows as a [`System`](shutdownmon_core::System), the service, the event log.

pub mod arming;
pub mod collect;
pub mod event_text;
#[cfg(windows)]
pub mod windows;
