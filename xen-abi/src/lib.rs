//! Xen's public ABI as data: layouts, constants, ring arithmetic, wire codecs.
//!
//! No operating system, no I/O, no allocation. Everything here is the x86-64 ABI that an HVM guest sees; the source of
//! each item is the public header named in its module (`xen/include/public` of the Xen source, Debian's `libxen-dev`).
//! A host test compiles those headers and compares sizes, offsets and constants with what stands here.
//!
//! Memory that another domain may write at any time is only touched through [`shared`]: by atomic accesses, each value
//! read once and by value. The rings ([`ring`], [`xenstore::ring`]) are safe code on top of it.
#![no_std]
#![deny(unsafe_code)]

pub mod blkif;
pub mod cpuid;
pub mod detect;
pub mod errno;
pub mod event;
pub mod grant;
pub mod hvm;
pub mod hypercall;
pub mod memory;
pub mod netif;
pub mod platform;
pub mod ring;
pub mod sched;
pub mod shared;
pub mod shared_info;
pub mod unplug;
pub mod vcpu;
pub mod xenbus;
pub mod xenstore;

/// Bytes of a page, and of every frame that is shared with Xen or another domain.
pub const PAGE_SIZE: usize = 4096;
/// `log2` of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// A domain's number (`domid_t`).
pub type DomId = u16;
/// The caller's own domain, wherever a hypercall takes a domain (`DOMID_SELF`).
pub const DOMID_SELF: DomId = 0x7FF0;
/// Ordinary domains have numbers below this (`DOMID_FIRST_RESERVED`).
pub const DOMID_FIRST_RESERVED: DomId = 0x7FF0;
/// No domain (`DOMID_INVALID`).
pub const DOMID_INVALID: DomId = 0x7FF4;
