//! Numbers of the hypercalls that an HVM guest may make (`xen/include/public/xen.h`), and Xen's version
//! (`xen/include/public/version.h`).
//!
//! Calling convention on x86-64: number in RAX, arguments in RDI, RSI, RDX, R10, R8, result in RAX. Pointers are guest
//! virtual addresses; the memory must be present.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `__HYPERVISOR_memory_op`.
pub const MEMORY_OP: u32 = 12;
/// `__HYPERVISOR_multicall`.
pub const MULTICALL: u32 = 13;
/// `__HYPERVISOR_xen_version`.
pub const XEN_VERSION: u32 = 17;
/// `__HYPERVISOR_console_io`.
pub const CONSOLE_IO: u32 = 18;
/// `__HYPERVISOR_grant_table_op`.
pub const GRANT_TABLE_OP: u32 = 20;
/// `__HYPERVISOR_vcpu_op`.
pub const VCPU_OP: u32 = 24;
/// `__HYPERVISOR_sched_op`.
pub const SCHED_OP: u32 = 29;
/// `__HYPERVISOR_event_channel_op`.
pub const EVENT_CHANNEL_OP: u32 = 32;
/// `__HYPERVISOR_physdev_op`.
pub const PHYSDEV_OP: u32 = 33;
/// `__HYPERVISOR_hvm_op`.
pub const HVM_OP: u32 = 34;

/// `XENVER_version`: returns the version, major in the upper half.
pub const XENVER_VERSION: u32 = 0;
/// `XENVER_extraversion`: fills 16 bytes.
pub const XENVER_EXTRAVERSION: u32 = 1;
/// `XENVER_get_features`: see [`FeatureInfo`].
pub const XENVER_GET_FEATURES: u32 = 6;
/// Bytes that `XENVER_extraversion` fills.
pub const EXTRAVERSION_LEN: usize = 16;

/// Xen's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The 4 of 4.17.
    pub major: u16,
    /// The 17 of 4.17.
    pub minor: u16,
}

impl Version {
    /// From EAX of the version leaf, or from what `XENVER_version` returns.
    pub const fn from_raw(raw: u32) -> Self {
        Self { major: (raw >> 16) as u16, minor: raw as u16 }
    }

    /// As Xen reports it.
    pub const fn to_raw(self) -> u32 {
        (self.major as u32) << 16 | self.minor as u32
    }
}

impl core::fmt::Display for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// `struct xen_feature_info`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FeatureInfo {
    /// In: which 32 features.
    pub submap_idx: u32,
    /// Out: the features.
    pub submap: u32,
}

bitflags::bitflags! {
    /// `XENFEAT_*` of submap 0, those that concern an HVM guest.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// Physical addresses are translated.
        const AUTO_TRANSLATED_PHYSMAP = 1 << 2;
        /// `HVM_PARAM_CALLBACK_IRQ` takes a vector.
        const HVM_CALLBACK_VECTOR = 1 << 8;
        /// The time information is safe to use.
        const HVM_SAFE_PVCLOCK = 1 << 9;
        /// Physical interrupts as event channels.
        const HVM_PIRQS = 1 << 10;
        /// The control domain.
        const DOM0 = 1 << 11;
    }
}

const _: () = assert!(size_of::<FeatureInfo>() == 8);
