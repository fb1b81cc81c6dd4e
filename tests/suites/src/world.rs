//! What a case may do outside the guest: dom0, its toolstack and the block backends.
//!
//! On the process platform this is `tests/xen-model`; in the lab it is a real dom0 behind a serial line.

use alloc::string::String;
use alloc::vec::Vec;

pub use hostile::Hostile;

use crate::network::Network;

/// A disk as the toolstack configures it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// See [`crate::guest::vdev`]: 0 is xvde.
    pub index: u32,
    /// 512-byte units.
    pub units: u64,
    /// Logical sector size in bytes: 512 or 4096 (2048 for a CD-ROM).
    pub sector_size: u32,
    /// Physical sector size in bytes.
    pub physical_sector_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// A CD-ROM.
    pub cdrom: bool,
    /// The medium can be taken out.
    pub removable: bool,
    /// Largest ring the backend offers, as a power of two of pages.
    pub max_ring_order: u32,
    /// Most indirect segments, 0 for none.
    pub max_indirect: u32,
    /// feature-flush-cache.
    pub flush: bool,
    /// feature-barrier.
    pub barrier: bool,
    /// feature-discard.
    pub discard: bool,
    /// Keys that the backend never writes.
    pub omitted: &'static [&'static str],
    /// What serves it.
    pub backend: Backend,
}

/// What serves a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Linux's blkback.
    Blkback,
    /// The same in a busy dom0: requests are answered before it asks to be told of more.
    BusyBlkback,
    /// QEMU's block backend: no indirect requests, no barriers. It asks to be told of more when all is answered.
    Qdisk,
}

impl DiskSpec {
    /// A plain disk of `mib` MiB with everything that Linux's blkback offers.
    pub fn new(index: u32, mib: u64) -> Self {
        Self {
            index,
            units: mib * 2048,
            sector_size: 512,
            physical_sector_size: 512,
            read_only: false,
            cdrom: false,
            removable: false,
            max_ring_order: 4,
            max_indirect: 256,
            flush: true,
            barrier: true,
            discard: true,
            omitted: &[],
            backend: Backend::Blkback,
        }
    }
}

/// Figures of one disk's backend since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Read requests executed.
    pub reads: u64,
    /// Write requests executed.
    pub writes: u64,
    /// Flushes and empty barriers executed.
    pub flushes: u64,
    /// Discards executed.
    pub discards: u64,
    /// Requests taken off the ring and not answered yet.
    pub in_flight: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Most requests that were in flight at once.
    pub most_in_flight: u64,
    /// Segments of the largest request.
    pub most_segments: u64,
    /// Handshakes done.
    pub connections: u64,
    /// How often the backend found requests of which it had not been told.
    pub found: u64,
    /// Grants of the guest's that this backend has mapped now: ring, data and indirect pages.
    pub grants_mapped: u64,
    /// Of the grant references that this backend ever mapped those that permit access now.
    pub grants_permitted: u64,
}

/// Figures of the hypervisor since the boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XenStats {
    /// Hypercalls of the guest.
    pub hypercalls: u64,
    /// EVTCHNOP_send of the guest.
    pub sends: u64,
    /// Upcalls delivered by vector.
    pub vector_upcalls: u64,
    /// Upcalls delivered by the PCI interrupt.
    pub intx_upcalls: u64,
    /// Virtual processors that got upcalls by vector for events of devices.
    pub vcpus_with_upcalls: u64,
    /// Upcalls to virtual processors whose `vcpu_info` is not in shared info.
    pub high_vcpu_upcalls: u64,
    /// Pages that the guest gave back to Xen.
    pub ballooned: u64,
    /// Suspends that ran to their end, cancelled ones not counted.
    pub suspends: u64,
    /// Suspends that were cancelled.
    pub cancelled_suspends: u64,
    /// Requests that were in flight when the guest suspended, over all disks and suspends.
    pub in_flight_at_suspend: u64,
    /// Grants that backends have mapped now.
    pub grants_mapped: u64,
}

/// See the module.
pub trait World {
    /// Attaches a disk; Windows finds it by itself.
    fn attach_disk(&self, spec: &DiskSpec);
    /// `xl block-detach`: the backend asks for an orderly close.
    fn detach_disk(&self, index: u32);
    /// Whether the toolstack has let go of the disk: both directories are gone.
    fn disk_gone(&self, index: u32) -> bool;
    /// The backend closes, reopens and offers the same disk again.
    fn restart_backend(&self, index: u32);
    /// The backend dies, as one whose process is killed: closed from one moment to the next, then offers the disk again.
    fn crash_backend(&self, index: u32);
    /// The disk grows or shrinks while in use.
    fn resize_disk(&self, index: u32, units: u64);
    /// Reads 512-byte units of the backing store, past the backend.
    fn read_backing(&self, index: u32, unit: u64, buf: &mut [u8]);
    /// Writes 512-byte units of the backing store, past the backend. Only while the guest does no I/O to them.
    fn write_backing(&self, index: u32, unit: u64, buf: &[u8]);
    /// Units that were written by requests since the last flush, that is: what a power cut could lose.
    fn unflushed_units(&self, index: u32) -> u64;
    /// Figures of the disk's backend.
    fn disk_stats(&self, index: u32) -> DiskStats;
    /// Holds the backend's responses back, or lets them go.
    fn hold_responses(&self, index: u32, hold: bool);
    /// Makes the backend misbehave `times` times from now on (keys and skipped states: at its next handshakes).
    fn misbehave(&self, index: u32, how: Hostile, times: u32);
    /// How often the misbehaviour happened.
    fn misbehaved(&self, index: u32, how: Hostile) -> u64;
    /// The frontend's states as the disk's backend saw them, in order.
    fn frontend_states(&self, index: u32) -> Vec<u32>;
    /// Keys of the disk's backend that it wrote absurd values to, with the values, in order.
    fn absurd_values(&self, index: u32) -> Vec<(String, String)>;
    /// Asks for a suspend; `cancel` makes the hypercall return 1 with nothing changed.
    fn suspend(&self, cancel: bool);
    /// Figures of the hypervisor.
    fn xen_stats(&self) -> XenStats;
    /// What the guest did that a correct guest does not do: bad grants, bad requests, protocol errors. Must be empty
    /// unless a backend lied.
    fn guest_errors(&self) -> Vec<String>;
    /// Whether the armed [`crate::case::Fault`] has fired.
    fn fault_fired(&self) -> bool;
    /// dom0 writes a node.
    fn store_write(&self, path: &str, value: &str);
    /// dom0 reads a node.
    fn store_read(&self, path: &str) -> Option<String>;
    /// dom0 removes a node.
    fn store_remove(&self, path: &str);
    /// The domain's home in the store: `/local/domain/1`.
    fn home(&self) -> String;
    /// The drivers' log lines so far.
    fn log(&self) -> Vec<String>;
    /// The other end of network interfaces. `None`: this platform has none.
    fn network(&self) -> Option<&dyn Network>;
    /// Lets simulated or real time pass, with the calling thread asleep.
    fn sleep_ms(&self, ms: u64);
}
