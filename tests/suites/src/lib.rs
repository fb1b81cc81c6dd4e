//! What is tested: written once, run on every platform of the bench.
//!
//! - [`case`]: what a case is, its limits and its minimum-effect counters.
//! - [`world`]: what a case may do on the other side: dom0, its toolstack and the block backends.
//! - [`guest`]: what a case may do inside: the disks that Windows sees.
//! - [`oracle`]: what a disk must hold, kept outside guest and backend.
//! - the modules below `cases`: the cases themselves, one subject a file.
#![no_std]

extern crate alloc;

pub mod case;
pub mod cases;
pub mod guest;
pub mod oracle;
pub mod world;

pub use case::{Case, Ctx, Failure, Setup};
