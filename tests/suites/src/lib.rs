//! What is tested: written once, run on every platform of the bench.
//!
//! - [`case`]: what a case is, its limits and its minimum-effect counters.
//! - [`world`]: what a case may do on the other side: dom0, its toolstack and the block backends.
//! - [`emulated`]: the device model's devices, and how a guest looks for them.
//! - [`guest`]: what a case may do inside: the disks that Windows sees.
//! - [`net_guest`]: the same for network adapters, with a TCP/IP endpoint on them.
//! - [`network`]: what a case may do at the other end of a network interface.
//! - [`program`]: a user-mode program that talks to xenstore.
//! - [`oracle`]: what a disk must hold, kept outside guest and backend.
//! - [`packet`]: frames made by hand, and what hardware must make of them.
//! - the modules below `cases`: the cases themselves, one subject a file.
#![no_std]

extern crate alloc;

pub mod case;
pub mod cases;
pub mod emulated;
pub mod guest;
pub mod net_guest;
pub mod network;
pub mod oracle;
pub mod packet;
pub mod program;
pub mod world;

pub use case::{Case, Ctx, Failure, Setup};
