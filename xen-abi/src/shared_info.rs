//! The shared info page and the per-CPU `vcpu_info` (`xen/include/public/xen.h`, `arch-x86/xen.h`,
//! `arch-x86/xen-x86_64.h`), 64-bit layout.
//!
//! Which of its two layouts Xen uses follows the mode of the CPU that makes the first hypercall (32-bit or 64-bit); a
//! 64-bit Windows gets this one. The structures here give sizes and offsets; a live page is accessed through
//! [`SharedRegion`](crate::shared::SharedRegion) at the `OFFSET_*` constants.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// CPUs whose `vcpu_info` lies in the shared info page (`XEN_LEGACY_MAX_VCPUS`). Further ones register their own.
pub const LEGACY_MAX_VCPUS: usize = 32;

/// `struct vcpu_time_info`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Odd while Xen writes; changes with every update.
    pub version: u32,
    /// Padding.
    pub pad0: u32,
    /// TSC at the last update.
    pub tsc_timestamp: u64,
    /// Nanoseconds since boot at the last update.
    pub system_time: u64,
    /// Multiplier of TSC differences, a 32-bit fraction.
    pub tsc_to_system_mul: u32,
    /// Shift of TSC differences before that.
    pub tsc_shift: i8,
    /// `XEN_PVCLOCK_*`.
    pub flags: u8,
    /// Padding.
    pub pad1: [u8; 2],
}

impl VcpuTimeInfo {
    /// Nanoseconds since boot at time stamp `tsc`. `self` must be a consistent copy: [`version`](Self::version) even
    /// and unchanged over the copying.
    pub const fn nanoseconds(&self, tsc: u64) -> u64 {
        let delta = tsc.wrapping_sub(self.tsc_timestamp);
        let shift = self.tsc_shift.unsigned_abs() as u32;
        let scaled = if shift >= 64 {
            0
        } else if self.tsc_shift < 0 {
            delta >> shift
        } else {
            delta << shift
        };
        let product = scaled as u128 * self.tsc_to_system_mul as u128;
        self.system_time.wrapping_add((product >> 32) as u64)
    }
}

/// `struct vcpu_info`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// Non-zero: events are pending. Cleared by the guest before it looks for them.
    pub evtchn_upcall_pending: u8,
    /// Not used for HVM guests.
    pub evtchn_upcall_mask: u8,
    /// Padding.
    pub pad: [u8; 6],
    /// 2-level events: words of the pending array that have something.
    pub evtchn_pending_sel: u64,
    /// `struct arch_vcpu_info`: CR2 of PV guests.
    pub arch_cr2: u64,
    /// `struct arch_vcpu_info`: padding.
    pub arch_pad: u64,
    /// Time.
    pub time: VcpuTimeInfo,
}

/// `struct shared_info`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    /// Of the first CPUs.
    pub vcpu_info: [VcpuInfo; LEGACY_MAX_VCPUS],
    /// 2-level events: pending.
    pub evtchn_pending: [u64; 64],
    /// 2-level events: masked.
    pub evtchn_mask: [u64; 64],
    /// Odd while Xen writes the wall clock.
    pub wc_version: u32,
    /// Seconds, lower half: the Unix time at boot.
    pub wc_sec: u32,
    /// Nanoseconds of it.
    pub wc_nsec: u32,
    /// Seconds, upper half.
    pub wc_sec_hi: u32,
    /// `struct arch_shared_info`, of no use to HVM guests.
    pub arch: [u64; 6],
}

/// Offset of a CPU's `vcpu_info` in the shared info page; `None` from [`LEGACY_MAX_VCPUS`] on.
pub const fn vcpu_info_offset(vcpu: u32) -> Option<usize> {
    if (vcpu as usize) < LEGACY_MAX_VCPUS { Some(vcpu as usize * VCPU_INFO_SIZE) } else { None }
}

/// Bytes of a `vcpu_info`.
pub const VCPU_INFO_SIZE: usize = size_of::<VcpuInfo>();
/// Offset in `vcpu_info`: the pending byte.
pub const OFFSET_UPCALL_PENDING: usize = offset_of!(VcpuInfo, evtchn_upcall_pending);
/// Offset in `vcpu_info`: the selector.
pub const OFFSET_PENDING_SEL: usize = offset_of!(VcpuInfo, evtchn_pending_sel);
/// Offset in `vcpu_info`: time.
pub const OFFSET_TIME: usize = offset_of!(VcpuInfo, time);
/// Offset in the shared info page: pending words.
pub const OFFSET_EVTCHN_PENDING: usize = offset_of!(SharedInfo, evtchn_pending);
/// Offset in the shared info page: mask words.
pub const OFFSET_EVTCHN_MASK: usize = offset_of!(SharedInfo, evtchn_mask);
/// Offset in the shared info page: the wall clock's version.
pub const OFFSET_WC_VERSION: usize = offset_of!(SharedInfo, wc_version);

const _: () = {
    assert!(size_of::<VcpuTimeInfo>() == 32);
    assert!(size_of::<VcpuInfo>() == 64);
    assert!(OFFSET_PENDING_SEL == 8);
    assert!(OFFSET_TIME == 32);
    assert!(OFFSET_EVTCHN_PENDING == 2048);
    assert!(OFFSET_EVTCHN_MASK == 2560);
    assert!(OFFSET_WC_VERSION == 3072);
    assert!(offset_of!(SharedInfo, wc_sec_hi) == 3084);
    assert!(size_of::<SharedInfo>() == 3136);
};
