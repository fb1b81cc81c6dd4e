//! An NT personality: what ntoskrnl, hal, storport and ndis export, over a [`platform::Platform`].
//!
//! The exports are `unsafe extern "win64"` functions with their documented names and meaning, and the same functions are
//! the interface between the parts of this crate. Layouts are declared here from public documentation, apart from those
//! that the drivers use, so that a misbelief on either side shows. One boot per process.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod crt;
pub mod disk;
pub mod ex;
pub mod exports;
pub mod hal;
pub mod inf;
pub mod io;
pub mod ke;
pub mod loader;
pub mod mm;
pub mod ndis;
pub mod net;
pub mod ob;
pub mod platform;
pub mod pnp;
pub mod po;
pub mod reg;
pub mod rtl;
pub mod seh;
pub mod status;
pub mod storport;
pub mod sync;
pub mod verifier;
pub mod wmi;
