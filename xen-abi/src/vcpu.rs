//! Operations on virtual CPUs (`xen/include/public/vcpu.h`), those that an HVM guest may use.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `VCPUOP_register_vcpu_info`: [`RegisterVcpuInfo`]. Once a CPU and domain; needed for CPUs from 32 on.
pub const REGISTER_VCPU_INFO: u32 = 10;
/// `VCPUOP_set_periodic_timer`: [`SetPeriodicTimer`].
pub const SET_PERIODIC_TIMER: u32 = 6;
/// `VCPUOP_stop_periodic_timer`: no argument.
pub const STOP_PERIODIC_TIMER: u32 = 7;
/// `VCPUOP_set_singleshot_timer`.
pub const SET_SINGLESHOT_TIMER: u32 = 8;
/// `VCPUOP_stop_singleshot_timer`.
pub const STOP_SINGLESHOT_TIMER: u32 = 9;

/// `struct vcpu_register_vcpu_info`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterVcpuInfo {
    /// Guest frame of the page.
    pub gfn: u64,
    /// Offset in it; the structure may not cross the page's end.
    pub offset: u32,
    /// Reserved.
    pub reserved: u32,
}

/// `struct vcpu_set_periodic_timer`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetPeriodicTimer {
    /// The period in ns.
    pub period_ns: u64,
}

const _: () = {
    assert!(size_of::<RegisterVcpuInfo>() == 16);
    assert!(size_of::<SetPeriodicTimer>() == 8);
};
