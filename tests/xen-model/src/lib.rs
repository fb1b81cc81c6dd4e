//! A Xen host as a library: hypervisor, xenstored, toolstack, block and network backends for one HVM guest.
//!
//! Everything is deterministic: no threads, no clocks, chance comes from [`Config::seed`]. The bench implements
//! [`Machine`], feeds the guest's CPUID, hypercalls, ports and configuration accesses into [`Xen`], and calls
//! [`Xen::step`] between the guest's steps. What the guest does wrong is recorded ([`Xen::guest_errors`]), what was
//! written to a disk is in its [`Journal`] and what crossed a network interface in its [`netback::NetJournal`], and backends
//! misbehave on request ([`Hostile`], [`netback::NetHostile`]).
//!
//! Xen's ABI is declared here a second time, from Xen's public headers, and not taken from the drivers' `xen-abi`: a
//! number that is wrong there shows.

mod abi;
mod blkback;
mod config;
mod emulated;
mod hv;
pub mod layout;
mod machine;
pub mod netback;
mod observe;
mod platform;
mod store;
mod xen;

pub use blkback::{
    Backing, DiscardOptions, Disk, DiskOptions, DiskSpec, DiskStats, FileBacking, Hostile, HostilePlan, Journal,
    JournalEntry, MemoryBacking, Order, RingKeys, SECTOR, Server, hash,
};
pub use config::{Config, CpuVendor, Quotas};
pub use emulated::{DeviceModel, Drive, UnplugProtocol};
pub use hv::{GrantError, GrantedRef, PortState};
pub use machine::{Gfn, Machine, Mfn, PAGE_SIZE, TestInterrupts, TestMachine};
pub use observe::{Counters, Delivery, Fault, GuestError, GuestErrorKind, TraceEvent, TraceSink};
pub use platform::{PlatformDevice, Unplugged};
pub use store::{Perm, Store, StoreError};
pub use xen::Xen;
