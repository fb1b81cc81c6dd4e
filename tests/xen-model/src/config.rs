//! What kind of Xen, guest and host are modelled.

use crate::emulated::DeviceModel;

/// The processor vendor that CPUID shows; it decides between `vmcall` and `vmmcall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuVendor {
    /// `GenuineIntel`: `vmcall`.
    Intel,
    /// `AuthenticAMD`: `vmmcall`.
    Amd,
    /// `HygonGenuine`: `vmmcall`.
    Hygon,
}

/// Limits that xenstored puts on one guest, with xenstored's own defaults.
#[derive(Clone, Copy, Debug)]
pub struct Quotas {
    /// Nodes that the guest may own.
    pub nodes: usize,
    /// Watches that the guest may set.
    pub watches: usize,
    /// Transactions that the guest may have open.
    pub transactions: usize,
    /// Bytes of one node's value.
    pub value_size: usize,
    /// Entries of one node's permissions.
    pub perms: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Self { nodes: 1000, watches: 128, transactions: 10, value_size: 2048, perms: 5 }
    }
}

/// The modelled host and guest. [`Config::default`] is Xen 4.17 with an HVM guest of one virtual CPU, as `xl` makes it.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether there is a Xen at all. `false`: no CPUID leaves, and a hypercall is a guest error.
    pub present: bool,
    /// Virtual CPUs, 1 to 64.
    pub vcpus: u32,
    /// Viridian enlightenments: Hyper-V's CPUID leaves come first and Xen's move to 0x4000_0100.
    pub viridian: bool,
    /// Xen's version.
    pub xen_version: (u16, u16),
    /// Whether FIFO event channels exist (`EVTCHNOP_init_control`); otherwise 2-level only.
    pub fifo: bool,
    /// Whether `HVMOP_set_evtchn_upcall_vector` exists.
    pub vector_upcalls: bool,
    /// The grant table's largest size in frames.
    pub max_grant_frames: u32,
    /// The highest event channel port that may be used (libxl's `event_channels`, 1023 by default).
    pub max_event_port: u32,
    /// Pages that the guest may own (`XENMEM_populate_physmap` stops there). RAM present at start counts.
    pub max_pages: u64,
    /// RAM pages that the machine had in place at the start.
    pub ram_pages: u64,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// The processor vendor.
    pub cpu_vendor: CpuVendor,
    /// The guest's domain id at the start; each save and restore takes the next.
    pub domid: u16,
    /// The frequency of the guest's time-stamp counter, for the clock page.
    pub tsc_khz: u32,
    /// Wall-clock time at the start, in seconds since 1970.
    pub wallclock_sec: u64,
    /// xenstored's limits.
    pub quotas: Quotas,
    /// The platform device's PCI device id: 1, or 2 as XenServer has it.
    pub platform_device_id: u16,
    /// What else the device model offers, and how it lets it be unplugged.
    pub device_model: DeviceModel,
    /// Of 1000 commits of the guest, how many fail with `EAGAIN` although nobody interfered, as under a busy toolstack.
    pub store_conflicts_permille: u16,
    /// Whether xenstored offers `XENSTORE_SERVER_FEATURE_RECONNECTION` and the `error` field.
    pub store_reconnect: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            present: true,
            vcpus: 1,
            viridian: false,
            xen_version: (4, 17),
            fifo: true,
            vector_upcalls: true,
            max_grant_frames: 64,
            max_event_port: 1023,
            max_pages: u64::MAX,
            ram_pages: 0,
            seed: 1,
            cpu_vendor: CpuVendor::Intel,
            domid: 1,
            tsc_khz: 2_000_000,
            wallclock_sec: 1_700_000_000,
            quotas: Quotas::default(),
            platform_device_id: 1,
            device_model: DeviceModel::default(),
            store_conflicts_permille: 0,
            store_reconnect: true,
        }
    }
}
