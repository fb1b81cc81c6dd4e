//! What is kept in the registry from boot to boot.
//!
//! `Services\xenhide\Parameters`: `Disks`, `Nics` (what xenhide may unplug). `Services\xenhide\Boot`: `Due`, `Failures`,
//! `NicsFailed`, `Version`, beside the record of the boot entries. `Services\shutdownmon\Parameters`: `Arm`, `BitLocker`,
//! `Network`, which are the administrator's.

use std::io;

use bootcfg::registry::{BOOT, Registry};

const XENHIDE: &str = r"Services\xenhide\Parameters";
const PARAMETERS: &str = r"Services\shutdownmon\Parameters";
/// The drivers' version: what failed with another does not count.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the administrator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Arm at all.
    pub arm: bool,
    /// Also where BitLocker protects the system drive.
    pub bit_locker: bool,
    /// Network settings go along with the cards.
    pub network: bool,
}

impl Switches {
    /// Reads them.
    ///
    /// # Errors
    /// The registry cannot be read, or a value has the wrong type.
    pub fn read<R: Registry + ?Sized>(registry: &R) -> io::Result<Self> {
        Ok(Self {
            arm: registry.number(PARAMETERS, "Arm")?.unwrap_or(1) != 0,
            bit_locker: registry.number(PARAMETERS, "BitLocker")?.unwrap_or(0) == 1,
            network: registry.number(PARAMETERS, "Network")?.unwrap_or(1) != 0,
        })
    }

    /// Switches arming. It is on the disk when this returns.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn set_arm<R: Registry + ?Sized>(registry: &R, arm: bool) -> io::Result<()> {
        registry.set_number(PARAMETERS, "Arm", arm.into())?;
        registry.flush()
    }
}

/// What came of earlier boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// A boot from the paravirtual devices was ordered, and has not been seen to be good.
    pub due: bool,
    /// Such boots in a row that were not good.
    pub failures: u32,
    /// Network cards were unplugged, and their twins did not work.
    pub nics_failed: bool,
}

impl Tries {
    /// Reads them. Failures of another version are forgotten.
    ///
    /// # Errors
    /// The registry cannot be read, or a value has the wrong type.
    pub fn read<R: Registry + ?Sized>(registry: &R) -> io::Result<Self> {
        let number = |name| Ok::<_, io::Error>(registry.number(BOOT, name)?.unwrap_or(0));
        let due = number("Due")? != 0;
        if registry.text(BOOT, "Version")?.as_deref() != Some(VERSION) {
            return Ok(Self { due, ..Self::default() });
        }
        Ok(Self { due, failures: number("Failures")?, nics_failed: number("NicsFailed")? != 0 })
    }

    /// Writes them, if they are not `before`. They are on the disk when this returns.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub fn write<R: Registry + ?Sized>(self, registry: &R, before: Self) -> io::Result<()> {
        if self == before && registry.text(BOOT, "Version")?.as_deref() == Some(VERSION) {
            return Ok(());
        }
        registry.set_number(BOOT, "Failures", self.failures)?;
        registry.set_number(BOOT, "NicsFailed", self.nics_failed.into())?;
        registry.set_text(BOOT, "Version", VERSION)?;
        registry.set_number(BOOT, "Due", self.due.into())?;
        registry.flush()
    }
}

/// Forgets what came of earlier boots.
///
/// # Errors
/// The registry cannot be written.
pub fn forget<R: Registry + ?Sized>(registry: &R) -> io::Result<()> {
    for name in ["Due", "Failures", "NicsFailed", "Version"] {
        registry.remove_value(BOOT, name)?;
    }
    registry.flush()
}

/// Whether disks and network cards may be unplugged.
///
/// # Errors
/// The registry cannot be read.
pub fn armed<R: Registry + ?Sized>(registry: &R) -> io::Result<[bool; 2]> {
    let one = |name| Ok::<_, io::Error>(registry.number(XENHIDE, name)?.unwrap_or(0) == 1);
    Ok([one("Disks")?, one("Nics")?])
}

/// Says whether disks and network cards may be unplugged. What stands as it should is not written.
///
/// # Errors
/// The registry cannot be read or written.
pub fn set_armed<R: Registry + ?Sized>(registry: &R, disks: bool, nics: bool) -> io::Result<()> {
    let before = armed(registry)?;
    for ((name, before), armed) in [("Disks", before[0]), ("Nics", before[1])].into_iter().zip([disks, nics]) {
        if before != armed {
            registry.set_number(XENHIDE, name, armed.into())?;
        }
    }
    registry.flush()
}
