//! Xen's CPUID leaves (`xen/include/public/arch-x86/cpuid.h`).
//!
//! Without Viridian Xen's leaves begin at 0x4000_0000, with it those are Microsoft's and Xen's begin at 0x4000_0100.
//! A hypervisor in between may put more bases before them; every 0x100 up to 0x4001_0000 is a possible one.

/// What the instruction leaves in EAX, EBX, ECX, EDX.
pub type Registers = [u32; 4];

/// The first possible base.
pub const FIRST_BASE: u32 = 0x4000_0000;
/// Bases lie below this.
pub const END_OF_BASES: u32 = 0x4001_0000;
/// Distance from one possible base to the next.
pub const BASE_STEP: u32 = 0x100;

/// `XenVMMXenVMM` as EBX, ECX, EDX of a base leaf.
pub const SIGNATURE: [u32; 3] = [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e];
/// `Microsoft Hv` as EBX, ECX, EDX of a base leaf: Viridian, or Hyper-V itself.
pub const SIGNATURE_MICROSOFT: [u32; 3] = [0x7263_694d, 0x666f_736f, 0x7648_2074];

/// Offset from the base: Xen's version in EAX, major in the upper half.
pub const LEAF_VERSION: u32 = 1;
/// Offset from the base: hypercall pages in EAX, their MSR in EBX, features in ECX.
pub const LEAF_HYPERCALL: u32 = 2;
/// Offset from the base: time.
pub const LEAF_TIME: u32 = 3;
/// Offset from the base: what HVM guests are told.
pub const LEAF_HVM: u32 = 4;

bitflags::bitflags! {
    /// EAX of [`LEAF_HVM`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct HvmFeatures: u32 {
        /// The local APIC's registers are virtualized by hardware.
        const APIC_ACCESS_VIRT = 1 << 0;
        /// x2APIC accesses are virtualized by hardware.
        const X2APIC_VIRT = 1 << 1;
        /// Foreign mappings have IOMMU entries.
        const IOMMU_MAPPINGS = 1 << 2;
        /// EBX is the virtual CPU's id. Read it on that CPU.
        const VCPU_ID_PRESENT = 1 << 3;
        /// ECX is the domain's id.
        const DOMID_PRESENT = 1 << 4;
        /// Extended destination ids.
        const EXT_DEST_ID = 1 << 5;
        /// `HVMOP_set_evtchn_upcall_vector` needs no EOI tricks: it behaves as the other vectors do.
        const UPCALL_VECTOR = 1 << 6;
    }
}

/// `GenuineIntel` as EBX, ECX, EDX of leaf 0.
pub const VENDOR_INTEL: [u32; 3] = [0x756e_6547, 0x6c65_746e, 0x4965_6e69];
/// `AuthenticAMD` as EBX, ECX, EDX of leaf 0.
pub const VENDOR_AMD: [u32; 3] = [0x6874_7541, 0x444d_4163, 0x6974_6e65];
/// `HygonGenuine` as EBX, ECX, EDX of leaf 0.
pub const VENDOR_HYGON: [u32; 3] = [0x6f67_7948, 0x656e_6975, 0x6e65_476e];
/// `CentaurHauls` as EBX, ECX, EDX of leaf 0.
pub const VENDOR_CENTAUR: [u32; 3] = [0x746e_6543, 0x736c_7561, 0x4872_7561];
/// `  Shanghai  ` as EBX, ECX, EDX of leaf 0.
pub const VENDOR_SHANGHAI: [u32; 3] = [0x6853_2020, 0x2020_6961, 0x6867_6e61];

/// The name in EBX, ECX, EDX of a base leaf.
pub const fn signature(leaf: Registers) -> [u32; 3] {
    [leaf[1], leaf[2], leaf[3]]
}

/// The vendor in leaf 0, in the order of the `VENDOR_*` constants (leaf 0 spells it EBX, EDX, ECX).
pub const fn vendor(leaf: Registers) -> [u32; 3] {
    [leaf[1], leaf[2], leaf[3]]
}
