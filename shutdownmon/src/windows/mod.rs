//! Windows as a [`System`](shutdownmon_core::System), and the service.

pub mod arming;
pub mod collect;
pub mod console;
mod event_log;
pub mod service;
mod system;

pub use system::Windows;
