//! xennet: an NDIS miniport that is the frontend of Xen's network protocol.
//!
//! - [`front`]: the frontend: negotiation, the rings, headers and checksums. Pure.
//! - `miniport`: NDIS's and the bus's side, on Windows.
#![cfg_attr(windows, no_std)]

extern crate alloc;

pub mod front;
#[cfg(windows)]
mod miniport;

#[cfg(windows)]
#[global_allocator]
static ALLOCATOR: wdk_alloc::WdkAllocator = wdk_alloc::WdkAllocator;

#[cfg(windows)]
extern crate wdk_panic;
