//! HVM operations and parameters (`xen/include/public/hvm/hvm_op.h`, `hvm/params.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::DomId;

/// `HVMOP_set_param`: [`Param`].
pub const SET_PARAM: u32 = 0;
/// `HVMOP_get_param`: [`Param`].
pub const GET_PARAM: u32 = 1;
/// `HVMOP_get_time`: [`GetTime`].
pub const GET_TIME: u32 = 10;
/// `HVMOP_set_evtchn_upcall_vector`: [`UpcallVector`].
pub const SET_EVTCHN_UPCALL_VECTOR: u32 = 23;

/// `HVM_PARAM_CALLBACK_IRQ`: see [`callback_vector`] and its siblings.
pub const PARAM_CALLBACK_IRQ: u32 = 0;
/// `HVM_PARAM_STORE_PFN`: guest frame of the xenstore ring.
pub const PARAM_STORE_PFN: u32 = 1;
/// `HVM_PARAM_STORE_EVTCHN`: its event channel.
pub const PARAM_STORE_EVTCHN: u32 = 2;
/// `HVM_PARAM_IOREQ_PFN`.
pub const PARAM_IOREQ_PFN: u32 = 5;
/// `HVM_PARAM_VIRIDIAN`.
pub const PARAM_VIRIDIAN: u32 = 9;
/// `HVM_PARAM_CONSOLE_PFN`: guest frame of the console ring.
pub const PARAM_CONSOLE_PFN: u32 = 17;
/// `HVM_PARAM_CONSOLE_EVTCHN`: its event channel.
pub const PARAM_CONSOLE_EVTCHN: u32 = 18;
/// `HVM_NR_PARAMS`.
pub const PARAM_COUNT: u32 = 39;

/// [`PARAM_CALLBACK_IRQ`]: the interrupt line `gsi`. 0 means no PV drivers to the toolstack; never use it.
pub const fn callback_gsi(gsi: u32) -> u64 {
    gsi as u64
}

/// [`PARAM_CALLBACK_IRQ`]: the interrupt pin (0 to 3 for INTA to INTD) of a PCI device.
pub const fn callback_pci_intx(domain: u16, bus: u8, device: u8, function: u8, pin: u8) -> u64 {
    1 << 56
        | (domain as u64) << 32
        | (bus as u64) << 16
        | ((device & 0x1F) as u64) << 11
        | ((function & 7) as u64) << 8
        | (pin & 3) as u64
}

/// [`PARAM_CALLBACK_IRQ`]: that vector on whichever CPU the event is for.
pub const fn callback_vector(vector: u8) -> u64 {
    2 << 56 | vector as u64
}

/// `struct xen_hvm_param`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Param {
    /// Whose.
    pub domid: DomId,
    /// Padding.
    pub pad: u16,
    /// `HVM_PARAM_*`.
    pub index: u32,
    /// In or out.
    pub value: u64,
}

/// `struct xen_hvm_get_time`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetTime {
    /// Guest time in ns.
    pub now: u64,
}

/// `struct xen_hvm_evtchn_upcall_vector`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UpcallVector {
    /// Xen's number of the virtual CPU.
    pub vcpu: u32,
    /// Its vector. 0 goes back to [`PARAM_CALLBACK_IRQ`].
    pub vector: u8,
    /// Padding.
    pub pad: [u8; 3],
}

const _: () = {
    assert!(size_of::<Param>() == 16);
    assert!(size_of::<GetTime>() == 8);
    assert!(size_of::<UpcallVector>() == 8);
};
