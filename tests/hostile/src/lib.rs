//! The ways in which a backend misbehaves, by name: suites ask for them, the Xen model does them.
#![no_std]

mod block;
mod net;

pub use block::Hostile;
pub use net::NetHostile;
