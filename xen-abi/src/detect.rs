//! Whether this machine is a Xen guest, and how to make a hypercall there. Makes no hypercall itself.

use crate::cpuid::{
    BASE_STEP, END_OF_BASES, FIRST_BASE, HvmFeatures, LEAF_HVM, LEAF_VERSION, Registers, SIGNATURE, VENDOR_AMD,
    VENDOR_CENTAUR, VENDOR_HYGON, VENDOR_INTEL, VENDOR_SHANGHAI, signature, vendor,
};
use crate::hypercall::Version;

/// The oldest Xen that the drivers run on: per-CPU upcall vectors, FIFO events and the fixes of their first years.
pub const OLDEST_XEN: Version = Version { major: 4, minor: 6 };

/// The CPUID instruction. Any IRQL.
pub trait Cpuid {
    /// EAX, EBX, ECX, EDX of a leaf, sub-leaf 0, on the CPU that this runs on.
    fn cpuid(&self, leaf: u32) -> Registers;
}

/// Which instruction enters the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `vmcall`: Intel's, and that of the makers who follow Intel.
    Vmcall,
    /// `vmmcall`: AMD's and Hygon's.
    Vmmcall,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xen {
    /// The leaf with Xen's signature.
    pub base: u32,
    /// Its version.
    pub version: Version,
    /// How to call it.
    pub instruction: Instruction,
    /// What it says to HVM guests.
    pub features: HvmFeatures,
    /// Whether another interface, Viridian as a rule, comes before Xen's leaves.
    pub viridian: bool,
}

/// Why there is no working with Xen here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotXen {
    /// The CPU says that it is under no hypervisor.
    NoHypervisor,
    /// No leaf has Xen's signature: another hypervisor, or one between Xen and Windows.
    OtherHypervisor,
    /// Xen is older than [`OLDEST_XEN`].
    TooOld(Version),
    /// The CPU's maker is not known, hence not the instruction.
    UnknownCpu([u32; 3]),
}

impl core::fmt::Display for NotXen {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoHypervisor => f.write_str("not under a hypervisor"),
            Self::OtherHypervisor => f.write_str("Xen's CPUID leaves are not visible"),
            Self::TooOld(version) => write!(f, "Xen {version} is older than {OLDEST_XEN}"),
            Self::UnknownCpu(vendor) => write!(f, "unknown CPU vendor {vendor:08x?}"),
        }
    }
}

/// CPUID leaf 1, ECX: under a hypervisor.
const HYPERVISOR_PRESENT: u32 = 1 << 31;

/// Looks for Xen.
///
/// # Errors
/// [`NotXen`]: make no hypercall, unplug nothing.
pub fn detect<C: Cpuid + ?Sized>(cpu: &C) -> Result<Xen, NotXen> {
    if cpu.cpuid(1)[2] & HYPERVISOR_PRESENT == 0 {
        return Err(NotXen::NoHypervisor);
    }
    let base = (FIRST_BASE..END_OF_BASES)
        .step_by(BASE_STEP as usize)
        .find(|base| {
            let leaf = cpu.cpuid(*base);
            // EAX is the last leaf; the ones that are read below must exist.
            signature(leaf) == SIGNATURE && leaf[0] >= *base + 2 && leaf[0] < *base + BASE_STEP
        })
        .ok_or(NotXen::OtherHypervisor)?;
    let version = Version::from_raw(cpu.cpuid(base + LEAF_VERSION)[0]);
    if version < OLDEST_XEN {
        return Err(NotXen::TooOld(version));
    }
    let instruction = match vendor(cpu.cpuid(0)) {
        VENDOR_INTEL | VENDOR_CENTAUR | VENDOR_SHANGHAI => Instruction::Vmcall,
        VENDOR_AMD | VENDOR_HYGON => Instruction::Vmmcall,
        other => return Err(NotXen::UnknownCpu(other)),
    };
    let features = if cpu.cpuid(base)[0] >= base + LEAF_HVM {
        HvmFeatures::from_bits_truncate(cpu.cpuid(base + LEAF_HVM)[0])
    } else {
        HvmFeatures::empty()
    };
    Ok(Xen { base, version, instruction, features, viridian: base != FIRST_BASE })
}

/// Xen's number of the virtual CPU that this runs on, if Xen tells (since 4.7). Otherwise it is half the APIC id, which
/// is how Xen's toolstack gives those out.
pub fn vcpu_id<C: Cpuid + ?Sized>(cpu: &C, xen: &Xen) -> Option<u32> {
    if !xen.features.contains(HvmFeatures::VCPU_ID_PRESENT) {
        return None;
    }
    let leaf = cpu.cpuid(xen.base + LEAF_HVM);
    HvmFeatures::from_bits_truncate(leaf[0]).contains(HvmFeatures::VCPU_ID_PRESENT).then_some(leaf[1])
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashMap;

    use super::*;

    struct Leaves(HashMap<u32, Registers>);

    impl Cpuid for Leaves {
        fn cpuid(&self, leaf: u32) -> Registers {
            self.0.get(&leaf).copied().unwrap_or([0; 4])
        }
    }

    fn machine(base: u32, version: u32, vendor: [u32; 3]) -> Leaves {
        Leaves(HashMap::from([
            (0, [13, vendor[0], vendor[1], vendor[2]]),
            (1, [0, 0, HYPERVISOR_PRESENT, 0]),
            (base, [base + 4, SIGNATURE[0], SIGNATURE[1], SIGNATURE[2]]),
            (base + 1, [version, 0, 0, 0]),
            (base + 4, [0x18, 3, 7, 0]),
        ]))
    }

    #[test]
    fn finds_xen_with_and_without_viridian() {
        for (base, viridian) in [(0x4000_0000, false), (0x4000_0100, true), (0x4000_FF00, true)] {
            let cpu = machine(base, 0x0004_0011, VENDOR_INTEL);
            let xen = detect(&cpu).unwrap();
            assert_eq!((xen.base, xen.viridian, xen.version.minor), (base, viridian, 17));
            assert_eq!(xen.instruction, Instruction::Vmcall);
            assert_eq!(vcpu_id(&cpu, &xen), Some(3));
        }
    }

    #[test]
    fn chooses_the_instruction_by_vendor() {
        let of = |vendor| detect(&machine(0x4000_0000, 0x0004_0013, vendor)).map(|xen| xen.instruction);
        assert_eq!(of(VENDOR_AMD), Ok(Instruction::Vmmcall));
        assert_eq!(of(VENDOR_HYGON), Ok(Instruction::Vmmcall));
        assert_eq!(of(VENDOR_SHANGHAI), Ok(Instruction::Vmcall));
        assert_eq!(of([1, 2, 3]), Err(NotXen::UnknownCpu([1, 2, 3])));
    }

    #[test]
    fn refuses_what_is_not_xen_or_too_old() {
        let mut bare = machine(0x4000_0000, 0x0004_0011, VENDOR_AMD);
        bare.0.insert(1, [0; 4]);
        assert_eq!(detect(&bare), Err(NotXen::NoHypervisor));
        let mut other = machine(0x4000_0000, 0x0004_0011, VENDOR_AMD);
        other.0.insert(0x4000_0000, [0x4000_0005, 0x7263_694d, 0x666f_736f, 0x7648_2074]);
        assert_eq!(detect(&other), Err(NotXen::OtherHypervisor));
        let old = machine(0x4000_0000, 0x0004_0005, VENDOR_AMD);
        assert_eq!(detect(&old), Err(NotXen::TooOld(Version { major: 4, minor: 5 })));
        let mut absurd = machine(0x4000_0000, 0x0004_0011, VENDOR_AMD);
        absurd.0.insert(0x4000_0000, [0, SIGNATURE[0], SIGNATURE[1], SIGNATURE[2]]);
        assert_eq!(detect(&absurd), Err(NotXen::OtherHypervisor));
    }

    #[test]
    fn tells_no_vcpu_id_that_xen_does_not_tell() {
        let mut cpu = machine(0x4000_0100, 0x0004_0011, VENDOR_INTEL);
        cpu.0.insert(0x4000_0104, [0; 4]);
        let xen = detect(&cpu).unwrap();
        assert_eq!(vcpu_id(&cpu, &xen), None);
    }
}
