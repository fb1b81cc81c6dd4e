//! xenvbd: a storport miniport that is the frontend of Xen's block protocol.
//!
//! - [`scsi`]: the disk that Windows sees, as commands and answers. Pure.
//! - [`front`]: the frontend of the block protocol: negotiation and the ring. Pure.
//! - `miniport`: storport's and the bus's side, on Windows. `miniport::raw` has DriverEntry.
#![cfg_attr(windows, no_std)]

extern crate alloc;

pub mod front;
#[cfg(windows)]
mod miniport;
pub mod scsi;

#[cfg(windows)]
#[global_allocator]
static ALLOCATOR: wdk_alloc::WdkAllocator = wdk_alloc::WdkAllocator;

#[cfg(windows)]
extern crate wdk_panic;
