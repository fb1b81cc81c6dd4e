//! xenhide: takes QEMU's emulated disks and network cards away before Windows finds them, if this boot is to use the
//! paravirtual ones.
//!
//! A boot-start driver of the first load-order group, with no device and no filter: it decides once, writes the unplug
//! port, and leaves a note of what it did. If it is not loaded, Windows boots from the emulated devices.
//!
//! - [`policy`] is the decision. Pure.
//! - `windows` reads what the decision needs, has DriverEntry, and leaves the note.
#![cfg_attr(windows, no_std)]

pub mod policy;
#[cfg(windows)]
mod windows;
