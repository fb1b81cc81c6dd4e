//! Bus driver for the Xen platform device.
//!
//! [`core`] is what can be said without Windows: hypercalls, event channels, grants, the store's protocol,
//! enumeration, the order of a migration. It builds and tests on the host. `windows` is the driver around it: DriverEntry,
//! the platform device's FDO, a PDO for each frontend, and the interface that `xenbus` describes.
#![cfg_attr(windows, no_std)]

extern crate alloc;

pub mod core;
#[cfg(windows)]
mod windows;
