//! What a boot of a story is told, and what it tells: JSON between the story and the process of the boot.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::network::Used;

/// A driver package that was made of one of the built ones: another version, with the same image or one that is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Other {
    /// The driver.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its image is the built one.
    pub works: bool,
}

impl Other {
    /// The name of its INF, which is not that of the built package's.
    pub fn inf(&self) -> String {
        format!("{}-{}.inf", self.name, self.version)
    }
}

/// Something that a person does in a boot, before the service looks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Act {
    /// Runs the installer: packages, boot entries, service.
    Install,
    /// Runs the uninstaller.
    Uninstall,
    /// Puts a driver onto its devices by the Device Manager: "Roll Back Driver", or an update.
    Driver(Other),
    /// Gives the card that is there a static IPv4 and an IPv6 address.
    Configure(String, String),
    /// `shutdownmon arm`.
    Arm,
    /// `shutdownmon disarm`.
    Disarm,
    /// Somebody else orders the next boot, as Windows Update does: the entry that Windows' setup made.
    OrderOther,
}

/// How the device model lets devices be unplugged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unplug {
    /// Version 1 of the protocol.
    Usual,
    /// Not at all: it is too old.
    None,
    /// These drivers are on its black list.
    Refusing,
}

/// The host that a machine runs on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// The unplug protocol.
    pub unplug: Unplug,
    /// An emulated network card with a paravirtual twin.
    pub nic: bool,
    /// A network card of the host's, passed through.
    pub passed_through: bool,
    /// dom0 serves the paravirtual disk. Else nobody can connect to it.
    pub disk_backend: bool,
}

impl Default for Host {
    fn default() -> Self {
        Self { unplug: Unplug::Usual, nic: true, passed_through: false, disk_backend: true }
    }
}

/// When a boot dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Death {
    /// At that preemption point.
    Step(u64),
    /// Right after the boot volume was found: the hive is not writable yet.
    AtVolume,
    /// When the hive has just become writable.
    HiveWritable,
    /// When the service has run that many milliseconds.
    Service(u64),
    /// Right after that many changes of the boot configuration.
    BootChange(u32),
}

/// A boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// The machine's disk and registry.
    pub folder: PathBuf,
    /// Where driver packages are.
    pub drivers: PathBuf,
    /// The version that they have; `None`: as they were built.
    pub version: Option<String>,
    /// Those that came to the driver store beside them.
    pub others: Vec<Other>,
    /// `SystemStartOptions`, from the boot manager.
    pub options: String,
    /// The host.
    pub host: Host,
    /// What is done in it.
    pub acts: Vec<Act>,
    /// Seconds from the service's start to an orderly shutdown.
    pub runs_s: u64,
    /// When it dies; `None`: it is shut down in order.
    pub dies: Option<Death>,
    /// What `manage-bde -status -protectionaserrorlevel` ends with.
    pub bit_locker: i32,
}

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// In order.
    Shutdown,
    /// The power went.
    PowerCut,
    /// INACCESSIBLE_BOOT_DEVICE.
    NoVolume,
}

/// Which of the two a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Twin {
    /// The device model's.
    Emulated,
    /// The driver's.
    Paravirtual,
}

/// What a boot tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub end: End,
    /// The disk that Windows ran from. `None`: it came to no disk.
    pub disk: Option<Twin>,
    /// The network cards on the PCI bus, passed-through ones among them, as vendor and device.
    pub nics: Vec<(u16, u16)>,
    /// The network card that Windows used, with its addresses.
    pub network: Option<Used>,
    /// What the service said.
    pub service: Vec<String>,
    /// Preemption points.
    pub steps: u64,
    /// What went wrong, if the boot itself found it: a disk there twice, data lost.
    pub failure: Option<String>,
    /// The drivers' log.
    pub log: Vec<String>,
}

/// Files of a machine's folder.
pub mod file {
    /// The system disk's image.
    pub const DISK: &str = "disk.img";
    /// The registry as it is on the disk.
    pub const REGISTRY: &str = "registry.reg";
    /// The boot configuration.
    pub const BOOT: &str = "bcd.json";
    /// How many records of the oracle are known to be on the disk.
    pub const RECORDS: &str = "records";
    /// What xentool remembers of network settings.
    pub const NETWORK: &str = "network.json";
    /// What a boot tells.
    pub const REPORT: &str = "report.json";
    /// What a boot is told.
    pub const ORDER: &str = "order.json";
}

/// Writes a file of a machine as a whole.
///
/// # Errors
/// It cannot be written.
pub fn put(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> anyhow::Result<()> {
    Ok(std::fs::write(folder.join(name), content)?)
}

/// Reads a file of a machine.
///
/// # Errors
/// It cannot be read.
pub fn get(folder: &Path, name: &str) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(folder.join(name))?)
}
