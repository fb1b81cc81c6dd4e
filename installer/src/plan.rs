//! Which steps an installation takes, in their order.

use bootcfg::Bcd;
use serde::{Deserialize, Serialize};

use crate::inf::Version;
use crate::machine::{CertificateStore, Machine, Value};
use crate::package::{self, AUTHORITY, LIST, Package, Signature, join};
use crate::step::Step;

/// What can be chosen. The bus driver is always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// Paravirtual disks.
    Disk,
    /// Paravirtual network cards.
    Network,
    /// A driver without a function for devices that Windows has no use for.
    Stub,
    /// The boot entries, and the driver that takes the emulated devices away.
    Boot,
    /// The service.
    Service,
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Component {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Disk, Self::Network, Self::Stub, Self::Boot, Self::Service];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Stub => "stub",
            Self::Boot => "boot",
            Self::Service => "service",
        }
    }
}

/// The drivers in the order of their installation, and what each belongs to. The bus comes after those of its children, so
/// that they are there when it shows them.
const DRIVERS: [(&str, Option<Component>); 5] = [
    ("xenvbd", Some(Component::Disk)),
    ("xennet", Some(Component::Network)),
    ("xenstub", Some(Component::Stub)),
    ("xenpci", None),
    ("xenhide", Some(Component::Boot)),
];

/// The service's program.
pub const SERVICE: &str = "shutdownmon.exe";
/// The service's name.
pub const SERVICE_NAME: &str = "shutdownmon";
/// What takes everything away again. It comes with the installer, not with the package.
pub const UNINSTALLER: &str = "uninstall.exe";
/// The tool that carries network settings over, and the file of what it remembers.
pub const TOOL: &str = "xentool.exe";
const NETWORK_SETTINGS: &str = "network.json";

/// Where Windows lists what can be removed.
/// <https://learn.microsoft.com/windows/win32/msi/uninstall-registry-key>
pub const LISTED: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall\Xen PV drivers";

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The components.
    pub components: Vec<Component>,
    /// Whether Windows is to be put into its test mode.
    pub test_signing: bool,
    /// The check sum of the uninstaller that lies in the package's folder, if one does.
    pub uninstaller: Option<String>,
}

fn listed(root: &str, version: Version, size: u64) -> Vec<Step> {
    let text =
        |name: &str, value: String| Step::Value { key: LISTED.into(), name: name.into(), value: Value::Text(value) };
    let number =
        |name: &str, value: u32| Step::Value { key: LISTED.into(), name: name.into(), value: Value::Number(value) };
    let uninstaller = join(root, UNINSTALLER);
    vec![
        Step::Key { key: LISTED.into() },
        text("DisplayName", "Xen PV drivers".into()),
        text("DisplayVersion", version.to_string()),
        text("Publisher", "Xen PV drivers".into()),
        text("InstallLocation", root.into()),
        text("UninstallString", format!("\"{uninstaller}\"")),
        text("QuietUninstallString", format!("\"{uninstaller}\" /S")),
        number("EstimatedSize", u32::try_from(size / 1024).unwrap_or(u32::MAX)),
        number("NoModify", 1),
        number("NoRepair", 1),
    ]
}

/// The folders that a file needs below the root, parents first.
fn folders(root: &str, package: &Package) -> Vec<Step> {
    let mut paths: Vec<String> = Vec::new();
    for file in &package.files {
        for (end, _) in file.path.match_indices('/') {
            let path = join(root, &file.path[..end]);
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.into_iter().map(|path| Step::Folder { path }).collect()
}

/// The steps that install `package` into `root`.
///
/// # Errors
/// A driver's INF cannot be read, or the boot configuration.
pub fn plan(machine: &impl Machine, package: &Package, root: &str, choice: &Choice) -> std::io::Result<Vec<Step>> {
    let mut steps = listed(root, package.version, package.size());
    let file = |from: &str, sha256: &str| Step::File {
        from: from.to_owned(),
        path: join(root, from),
        sha256: sha256.to_owned(),
    };
    steps.extend(choice.uninstaller.iter().map(|sha256| file(UNINSTALLER, sha256)));
    steps.extend(folders(root, package));
    steps.extend(package.files.iter().map(|entry| file(&entry.path, &entry.sha256)));
    steps.push(file(LIST, ""));
    if let (Signature::Test, Some(authority)) = (package.signature, package.file(AUTHORITY)) {
        for store in [CertificateStore::Root, CertificateStore::TrustedPublisher] {
            steps.push(Step::Certificate { store, file: AUTHORITY.into(), sha256: authority.sha256.clone() });
        }
    }
    if choice.test_signing {
        let entry = Bcd::new(machine.boot_tool()).current().map_err(std::io::Error::other)?;
        steps.push(Step::TestSigning { entry: entry.to_string() });
    }
    for (driver, component) in DRIVERS {
        let wanted = component.is_none_or(|component| choice.components.contains(&component));
        if wanted && package.file(&package::inf(driver)).is_some() {
            let identity = package.identity(machine, driver)?;
            steps.push(Step::Driver { name: driver.into(), provider: identity.provider });
        }
    }
    let wanted = |component, file| choice.components.contains(&component) && package.file(file).is_some();
    if wanted(Component::Network, TOOL) {
        steps.push(Step::NetworkSettings { program: join(root, TOOL), state: join(root, NETWORK_SETTINGS) });
    }
    if wanted(Component::Service, SERVICE) {
        steps.push(Step::Service { program: join(root, SERVICE) });
    }
    if wanted(Component::Boot, package::inf("xenhide").as_str()) {
        steps.push(Step::BootEntries { test_signing: choice.test_signing });
    }
    Ok(steps)
}
