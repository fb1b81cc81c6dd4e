//! Whether this machine is one that the suite can be installed on, now. Pure: everything about it is in [`Facts`].

use std::fmt;

use bootcfg::{BitLocker, tool};

use crate::foreign::{self, Foreign};
use crate::machine::{Machine, StoredDriver};
use crate::package::{Package, Signature};
use crate::plan::{Choice, Component};

/// The first Windows whose driver packages are isolated as these are: 10 version 2004, Server 2022.
pub const FIRST_BUILD: u32 = 19041;
/// `IMAGE_FILE_MACHINE_AMD64`.
pub const X64: u16 = 0x8664;
/// Bytes that Windows needs beside the package: its driver store, its records, its restore points.
const ROOM: u64 = 128 << 20;

/// A service or driver of the service manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `ImagePath`.
    pub image: String,
}

/// A device that Windows knows, present or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its instance path: `XENBUS\VEN_XS0001&DEV_VBD\_`.
    pub id: String,
    /// The service that drives it.
    pub service: String,
}

/// What there is to know of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The processor's architecture, whatever this process is: `IMAGE_FILE_MACHINE_*`.
    pub architecture: u16,
    /// The build of Windows.
    pub build: u32,
    /// This process may do what an administrator may.
    pub administrator: bool,
    /// Secure Boot is on.
    pub secure_boot: bool,
    /// Memory integrity (HVCI) is on.
    pub memory_integrity: bool,
    /// This boot is in Windows' test mode.
    pub test_mode: bool,
    /// Free bytes on the system drive; `None`: unknown.
    pub free: Option<u64>,
    /// Services and drivers whose name is that of a Xen driver of any suite.
    pub services: Vec<Service>,
    /// Driver packages that did not come with Windows.
    pub drivers: Vec<StoredDriver>,
    /// Devices of Xen buses of any suite, and the platform device.
    pub devices: Vec<Device>,
}

/// Why it cannot be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another processor.
    Architecture(u16),
    /// An older Windows.
    Windows(u32),
    /// Not an administrator.
    NotAdministrator,
    /// Secure Boot refuses what is signed for tests.
    SecureBoot,
    /// Memory integrity refuses what is signed for tests.
    MemoryIntegrity,
    /// It is signed for tests, and Windows is not in its test mode.
    NoTestMode,
    /// Another suite's drivers.
    Foreign(Foreign),
    /// BitLocker guards what the boot entries say.
    BitLocker(String),
    /// Too little space: bytes that are free, bytes that it takes.
    Space(u64, u64),
}

impl Refusal {
    /// The exit code that says it.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Architecture(_) | Self::Windows(_) => 3,
            Self::NotAdministrator => 4,
            Self::SecureBoot | Self::MemoryIntegrity | Self::NoTestMode => 5,
            Self::Foreign(_) => 6,
            Self::BitLocker(_) => 11,
            Self::Space(..) => 13,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Architecture(other) => write!(f, "the drivers are for x64 processors, and this one is 0x{other:04x}"),
            Self::Windows(build) => write!(
                f,
                "Windows 10 version 2004 (build {FIRST_BUILD}), Server 2022 or later is needed, and this is build {build}"
            ),
            Self::NotAdministrator => f.write_str("only an administrator can install drivers: run it as one"),
            Self::SecureBoot => f.write_str(
                "the drivers are signed for tests, and Secure Boot is on, which refuses them: turn it off in the \
                 machine's firmware (xl.cfg: a firmware without it), or take a release that Microsoft has signed",
            ),
            Self::MemoryIntegrity => f.write_str(
                "the drivers are signed for tests, and memory integrity is on, which refuses them: turn it off in \
                 Windows Security, Device security, Core isolation, and restart; or take a release that Microsoft has \
                 signed",
            ),
            Self::NoTestMode => f.write_str(
                "the drivers are signed for tests, and Windows is not in its test mode: install with --test-signing \
                 (/TESTSIGNING), which turns it on, or take a release that Microsoft has signed",
            ),
            Self::Foreign(foreign) => foreign.fmt(f),
            Self::BitLocker(what) => f.write_str(what),
            Self::Space(free, needed) => {
                write!(f, "{} MiB are needed on the system drive, and {} MiB are free", needed >> 20, free >> 20)
            }
        }
    }
}

/// What of the machine itself stands against it, without the boot entries.
pub fn of_facts(facts: &Facts, signature: Signature, size: u64, test_signing: bool) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let mut refuse = |condition: bool, refusal: Refusal| {
        if condition {
            refusals.push(refusal);
        }
    };
    refuse(facts.architecture != X64, Refusal::Architecture(facts.architecture));
    refuse(facts.build < FIRST_BUILD, Refusal::Windows(facts.build));
    refuse(!facts.administrator, Refusal::NotAdministrator);
    if signature == Signature::Test {
        refuse(facts.secure_boot, Refusal::SecureBoot);
        refuse(facts.memory_integrity, Refusal::MemoryIntegrity);
        refuse(!facts.secure_boot && !facts.test_mode && !test_signing, Refusal::NoTestMode);
    }
    for foreign in foreign::found(facts) {
        refuse(true, Refusal::Foreign(foreign));
    }
    // The package lies there twice: in its folder and in the driver store.
    let needed = 2 * size + ROOM;
    if let Some(free) = facts.free {
        refuse(free < needed, Refusal::Space(free, needed));
    }
    refusals
}

/// Everything that stands against it. `boot_made`: the boot entries are there already.
pub fn refusals(
    machine: &impl Machine,
    facts: &Facts,
    package: &Package,
    choice: &Choice,
    boot_made: bool,
) -> Vec<Refusal> {
    let mut refusals = of_facts(facts, package.signature, package.size(), choice.test_signing);
    let changes = choice.test_signing || (choice.components.contains(&Component::Boot) && !boot_made);
    if changes && facts.administrator {
        let refusal = match tool::bit_locker(machine.boot_tool(), &machine.system_drive()) {
            Ok(BitLocker::Off) => None,
            Ok(BitLocker::Protecting) => Some(bootcfg::Error::BitLocker),
            Err(error) => Some(error),
        };
        refusals.extend(refusal.map(|error| Refusal::BitLocker(error.to_string())));
    }
    refusals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts { architecture: X64, build: 19045, administrator: true, ..Facts::default() }
    }

    #[test]
    fn each_reason_is_named() {
        use Refusal::*;
        let arm = 0xaa64;
        let table = [
            (good(), Signature::Release, false, vec![]),
            (Facts { architecture: arm, ..good() }, Signature::Release, false, vec![Architecture(arm)]),
            (Facts { build: 19040, ..good() }, Signature::Release, false, vec![Windows(19040)]),
            (Facts { build: 19041, ..good() }, Signature::Release, false, vec![]),
            (Facts { administrator: false, ..good() }, Signature::Release, false, vec![NotAdministrator]),
            // What Microsoft signed does not care.
            (Facts { secure_boot: true, memory_integrity: true, ..good() }, Signature::Release, false, vec![]),
            (good(), Signature::Test, false, vec![NoTestMode]),
            (good(), Signature::Test, true, vec![]),
            (Facts { test_mode: true, ..good() }, Signature::Test, false, vec![]),
            // The test mode cannot be turned on while Secure Boot is.
            (Facts { secure_boot: true, ..good() }, Signature::Test, true, vec![SecureBoot]),
            (Facts { secure_boot: true, ..good() }, Signature::Test, false, vec![SecureBoot]),
            (
                Facts { memory_integrity: true, test_mode: true, ..good() },
                Signature::Test,
                false,
                vec![MemoryIntegrity],
            ),
            (
                Facts { build: 7601, administrator: false, ..good() },
                Signature::Test,
                false,
                vec![Windows(7601), NotAdministrator, NoTestMode],
            ),
        ];
        for (facts, signature, test_signing, expected) in table {
            assert_eq!(of_facts(&facts, signature, 0, test_signing), expected, "{facts:?} {signature:?}");
        }
    }

    #[test]
    fn room_for_the_package_and_its_copy_is_needed() {
        let facts = Facts { free: Some(ROOM + 200), ..good() };
        assert_eq!(of_facts(&facts, Signature::Release, 100, false), []);
        assert_eq!(of_facts(&facts, Signature::Release, 101, false), [Refusal::Space(ROOM + 200, ROOM + 202)]);
    }

    #[test]
    fn every_reason_has_an_exit_code_of_its_own_kind() {
        let foreign = Foreign { suite: foreign::Suite::Gplpv, evidence: vec!["x".into()] };
        let codes = [
            Refusal::Windows(1),
            Refusal::NotAdministrator,
            Refusal::SecureBoot,
            Refusal::Foreign(foreign),
            Refusal::BitLocker(String::new()),
            Refusal::Space(0, 1),
        ]
        .map(|refusal| refusal.exit_code());
        assert_eq!(codes, [3, 4, 5, 6, 11, 13]);
    }
}
