//! The one door to the Windows kernel: thin, checked wrappers over wdk-sys.
//!
//! A driver's own code holds almost no `unsafe`, because what Windows asks of a caller is either checked here at run
//! time, or is part of a type (a lock is released by its guard, a DPC is flushed before its memory goes), or is the
//! IRQL, which every function names in its documentation unless it is for PASSIVE_LEVEL only.
//!
//! [`status`] and the layouts of [`storport`] and [`ndis`] also compile on the host; everything else is Windows only.
#![cfg_attr(windows, no_std)]

#[cfg(windows)]
extern crate alloc;

pub mod ndis;
pub mod status;
pub mod storport;

#[cfg(windows)]
pub mod capture;
#[cfg(windows)]
pub mod cpu;
#[cfg(windows)]
pub mod device;
#[cfg(windows)]
pub mod dma;
#[cfg(windows)]
pub mod dpc;
#[cfg(windows)]
pub mod driver;
#[cfg(windows)]
pub mod event;
#[cfg(windows)]
pub mod file;
#[cfg(windows)]
pub mod interface;
#[cfg(windows)]
pub mod interrupt;
#[cfg(windows)]
pub mod irp;
#[cfg(windows)]
pub mod irp_queue;
#[cfg(windows)]
mod layout;
#[cfg(windows)]
pub mod log;
#[cfg(windows)]
pub mod memory;
#[cfg(windows)]
pub mod pages;
#[cfg(windows)]
pub mod pnp;
#[cfg(windows)]
pub mod port;
#[cfg(windows)]
pub mod power;
#[cfg(windows)]
pub mod registry;
#[cfg(windows)]
pub mod remove_lock;
#[cfg(windows)]
pub mod resource;
#[cfg(windows)]
pub mod spinlock;
#[cfg(windows)]
pub mod string;
#[cfg(windows)]
pub mod thread;
#[cfg(windows)]
pub mod time;
#[cfg(windows)]
pub mod timer;

pub use status::{Result, Status};

/// The kernel's own types and functions, for the few places in a driver that declare an entry point.
#[cfg(windows)]
pub use wdk_sys as sys;
