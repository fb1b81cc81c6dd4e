//! The netif frontend: no Windows in it. It is told what happened and returns what has to be done; it never calls the
//! miniport.
//!
//! - [`config`]: what frontend and backend say to each other in the store. PASSIVE_LEVEL.
//! - [`tx`], [`rx`]: one queue each; a device has as many pairs as were negotiated. The caller serializes the calls to
//!   one of them, so each has a lock of its own and no lock is shared between queues.
//! - [`ctrl`]: the control ring, by which the backend is told how to spread packets over queues. PASSIVE_LEVEL.
//! - [`headers`], [`checksum`], [`segment`]: packets' headers, and in software what a backend does not do.
//! - [`announce`]: the addresses that are made known again after a migration.

pub mod announce;
pub mod checksum;
pub mod config;
pub mod ctrl;
pub mod headers;
pub mod rx;
pub mod segment;
#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_macros, reason = "tests may run out of memory")]
mod tests;
pub mod tx;

use alloc::vec::Vec;
use core::num::NonZeroU16;

use headers::Version;

/// Bytes of a page.
pub const PAGE: usize = xen_abi::PAGE_SIZE;
/// No index.
pub(crate) const NONE: u16 = u16::MAX;

/// What the backend can do with packets that it is given, as negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Packets of more than one slot (`feature-sg`).
    pub scatter: bool,
    /// Checksums of TCP and UDP over IPv4 (no `feature-no-csum-offload`).
    pub checksum_v4: bool,
    /// Checksums of TCP and UDP over IPv6 (`feature-ipv6-csum-offload`).
    pub checksum_v6: bool,
    /// Segmentation of TCP over IPv4 (`feature-gso-tcpv4`).
    pub gso_v4: bool,
    /// Segmentation of TCP over IPv6 (`feature-gso-tcpv6`).
    pub gso_v6: bool,
    /// The backend may see what else stands in a packet's pages. If not, packets are copied into pages of our own.
    pub trusted: bool,
}

impl Abilities {
    /// Nothing but packets of one slot.
    pub const NONE: Self =
        Self { scatter: false, checksum_v4: false, checksum_v6: false, gso_v4: false, gso_v6: false, trusted: true };

    /// Whether it fills checksums of TCP and UDP over this IP in.
    const fn checksum(self, version: Version) -> bool {
        match version {
            Version::V4 => self.checksum_v4,
            Version::V6 => self.checksum_v6,
        }
    }

    /// Whether it segments TCP over this IP: no segment without a checksum, and no such packet in one slot.
    const fn segments(self, version: Version) -> bool {
        let able = match version {
            Version::V4 => self.gso_v4,
            Version::V6 => self.gso_v6,
        };
        able && self.checksum(version) && self.scatter
    }
}

/// What is still to be done for a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Fill the checksum of the IPv4 header in.
    pub ip_checksum: bool,
    /// Fill the TCP checksum in.
    pub tcp_checksum: bool,
    /// Fill the UDP checksum in.
    pub udp_checksum: bool,
    /// Cut it into TCP segments of at most this many bytes of payload, each with all its checksums.
    pub segment: Option<NonZeroU16>,
    /// Insert an 802.1Q tag with this priority and VLAN.
    pub vlan: Option<u16>,
}

/// Physically contiguous bytes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes that follow it; at least 1.
    pub bytes: u32,
}

/// A packet to send: an owning handle. IRQL <= DISPATCH_LEVEL for all of it.
///
/// The front never writes into a packet: headers that have to be changed are changed in a copy.
pub trait Packet {
    /// Its bytes, with the Ethernet header.
    fn len(&self) -> u32;
    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// What is still to be done for it.
    fn offload(&self) -> Offload;
    /// The run that begins at byte `offset`; None behind the end. Mostly asked in rising order.
    fn run(&mut self, offset: u32) -> Option<Run>;
    /// Whom it is for, as soon as that is known: when it is handed out.
    fn has_destination(&mut self, address: [u8; 6]);
    /// A copy of the first `N` bytes, where that takes no more than a look. None: [`Packet::copy`] may still have them.
    fn first<const N: usize>(&self) -> Option<[u8; N]>;
    /// Copies the bytes from `offset` on. False: there are not so many, or no mapping of them can be had now.
    fn copy(&mut self, offset: u32, out: &mut [u8]) -> bool;
}

/// What to do after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the backend may sleep until it is told"]
pub struct Progress {
    /// Send the queue's event.
    pub notify: bool,
    /// There is more to take already: look again.
    pub more: bool,
}

/// Why a queue could not be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// Too few grant references.
    NoGrants,
    /// The memory is too small or has no frames.
    Memory,
}

impl core::fmt::Display for SetupError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NoGrants => "too few grant references",
            Self::Memory => "unusable memory for a ring",
        })
    }
}

/// A table of `count` items, allocated once. None: no memory.
fn filled<T>(count: usize, item: impl FnMut(usize) -> T) -> Option<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(count).ok()?;
    vec.extend((0..count).map(item));
    Some(vec)
}
