//! One step: what was there before it, doing it, undoing it. Each can be done any number of times.

use std::io;

use bootcfg::registry::Kept;
use bootcfg::{Bcd, setup};
use serde::{Deserialize, Serialize};

use crate::boot::{self, ControlSet};
use crate::inf::Identity;
use crate::machine::{CertificateStore, Machine, Output, StoredDriver, Value};
use crate::manifest::{Before, put, unfinished};
use crate::package::{self, Package, join};
use crate::plan::SERVICE_NAME;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Step {
    /// A registry key.
    Key {
        /// Below `HKEY_LOCAL_MACHINE`.
        key: String,
    },
    /// A registry value.
    Value {
        /// Its key.
        key: String,
        /// Its name.
        name: String,
        /// What it is set to.
        value: Value,
    },
    /// A folder.
    Folder {
        /// Where.
        path: String,
    },
    /// A file of the package.
    File {
        /// Its path in the package.
        from: String,
        /// Where it is put.
        path: String,
        /// Its check sum; the list of files has none.
        sha256: String,
    },
    /// A certificate of the package that is trusted from now on.
    Certificate {
        /// By whom.
        store: CertificateStore,
        /// Its path in the package.
        file: String,
        /// Its check sum.
        sha256: String,
    },
    /// Windows' test mode.
    TestSigning {
        /// The boot entry that is put into it. An uninstallation may run in the boot of another one.
        entry: String,
    },
    /// A driver package.
    Driver {
        /// Its name.
        name: String,
        /// Its provider: others have drivers of that name too.
        provider: String,
    },
    /// Static network settings go along with the network card.
    NetworkSettings {
        /// The program that knows how.
        program: String,
        /// The file in which it remembers.
        state: String,
    },
    /// The service.
    Service {
        /// Its program, which installs and removes it.
        program: String,
    },
    /// The rest of an uninstallation goes on when Windows starts next, whether or not somebody logs on.
    Resume {
        /// The command that goes on.
        command: String,
    },
    /// The two boot entries.
    BootEntries {
        /// Whether the new one is in Windows' test mode.
        test_signing: bool,
    },
}

/// Whether Windows has to be restarted for it.
pub type Restart = bool;

/// The enumerator of the devices that xenpci shows.
const ENUMERATOR: &str = "XENPV";

/// The scheduled task of [`Step::Resume`].
const TASK: &str = "Xen PV drivers uninstallation";

/// Runs the program that manages scheduled tasks.
/// <https://learn.microsoft.com/windows-server/administration/windows-commands/schtasks>
fn schtasks(machine: &impl Machine, arguments: &[&str]) -> io::Result<Output> {
    machine.run(&format!(r"{}\schtasks.exe", machine.system_folder()), arguments)
}

/// Runs a program of ours; what it says goes to the log.
fn run(machine: &impl Machine, program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = machine.run(program, arguments)?;
    for line in output.text.lines().filter(|line| !line.trim().is_empty()) {
        machine.note(&format!("    {}", line.trim_end()));
    }
    if output.code == 0 {
        return Ok(());
    }
    let last = output.text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(io::Error::other(format!("{program} {} ends with {}: {last}", arguments.join(" "), output.code)))
}

/// The packages in the driver store that are this driver, of whatever version.
fn stored(machine: &impl Machine, name: &str, provider: &str) -> io::Result<Vec<StoredDriver>> {
    let catalog = format!("{name}.cat");
    let is = |identity: &Identity| identity.catalog == catalog && identity.provider == provider;
    Ok(machine.stored_drivers()?.into_iter().filter(|driver| is(&driver.identity)).collect())
}

impl Step {
    /// What it is about: two steps with the same subject are one after the other, never side by side.
    pub fn subject(&self) -> String {
        match self {
            Self::Key { key } => format!("key {key}"),
            Self::Value { key, name, .. } => format!(r"value {key}\{name}"),
            Self::Folder { path } => format!("folder {path}"),
            Self::File { path, .. } => format!("file {path}"),
            Self::Certificate { store, sha256, .. } => format!("certificate {sha256} in {store:?}"),
            Self::TestSigning { entry } => format!("Windows' test mode, boot entry {entry}"),
            Self::Driver { name, .. } => format!("driver {name}"),
            Self::NetworkSettings { .. } => "network settings".into(),
            Self::Service { .. } => "service".into(),
            Self::Resume { .. } => "scheduled task for the rest".into(),
            Self::BootEntries { .. } => "boot entries".into(),
        }
    }

    /// What is there before it.
    ///
    /// # Errors
    /// It cannot be found out.
    pub fn before(&self, machine: &impl Machine) -> io::Result<Before> {
        let there = |there: bool| if there { Before::Present } else { Before::Absent };
        Ok(match self {
            Self::Key { key } => there(machine.has_key(key)),
            Self::Value { key, name, .. } => machine.value(key, name)?.map_or(Before::Absent, Before::Value),
            Self::Folder { path } => there(machine.has_folder(path)),
            Self::Certificate { store, sha256, .. } => there(machine.has_certificate(*store, sha256)?),
            Self::TestSigning { entry } => {
                there(boot::test_signing(machine.boot_tool(), entry).map_err(io::Error::other)?)
            }
            // These are nobody else's: what lies there under their names is an earlier version.
            Self::File { .. }
            | Self::Driver { .. }
            | Self::NetworkSettings { .. }
            | Self::Service { .. }
            | Self::Resume { .. }
            | Self::BootEntries { .. } => Before::Absent,
        })
    }

    /// Does it.
    ///
    /// # Errors
    /// Why it is not done.
    pub fn act(&self, machine: &impl Machine, package: &Package) -> io::Result<Restart> {
        match self {
            Self::Key { key } => machine.make_key(key)?,
            Self::Value { key, name, value } => machine.set_value(key, name, value)?,
            Self::Folder { path } => machine.make_folder(path)?,
            Self::File { from, path, sha256 } => {
                let content = package.content(machine, from, sha256)?;
                if machine.read(path)?.as_ref() != Some(&content) {
                    put(machine, path, &content)?;
                }
            }
            Self::Certificate { store, file, sha256 } => {
                machine.add_certificate(*store, &package.content(machine, file, sha256)?)?;
            }
            Self::TestSigning { entry } => {
                boot::set_test_signing(machine.boot_tool(), entry, true).map_err(io::Error::other)?;
                return Ok(true);
            }
            Self::Driver { name, provider } => {
                let inf = join(&package.folder, &package::inf(name));
                machine.install_driver(&inf)?;
                let version = package.identity(machine, name)?.version;
                if !stored(machine, name, provider)?.iter().any(|driver| driver.identity.version == version) {
                    return Err(io::Error::other("Windows reports success, but it is not in the driver store"));
                }
                // Boot-start drivers begin to work with the next start.
                return Ok(true);
            }
            Self::NetworkSettings { program, state } => {
                run(machine, program, &["network", "remember", "--state", state])?;
            }
            Self::Service { program } => run(machine, program, &["install"])?,
            Self::Resume { .. } => self.schedule(machine)?,
            Self::BootEntries { test_signing } => {
                let tool = machine.boot_tool();
                let made = setup::set_up(&Bcd::new(tool), &Kept(&ControlSet(machine)), &machine.system_drive());
                let made = made.map_err(io::Error::other)?;
                machine.note(&format!("    {}: emulated devices (NOGPLPV), the default", made.emulated));
                machine.note(&format!("    {}: paravirtual devices (GPLPV)", made.paravirtual));
                for other in &made.others {
                    machine
                        .note(&format!("    {other}: has GPLPV too and was not made by this setup; it is left alone"));
                }
                if *test_signing {
                    boot::set_test_signing(tool, made.paravirtual.as_str(), true).map_err(io::Error::other)?;
                }
            }
        }
        Ok(false)
    }

    /// Does a [`Step::Resume`], which needs nothing of the package; another step is not done by it.
    ///
    /// # Errors
    /// Why it is not done.
    pub fn schedule(&self, machine: &impl Machine) -> io::Result<()> {
        let Self::Resume { command } = self else { return Ok(()) };
        let arguments = ["/create", "/tn", TASK, "/sc", "onstart", "/ru", "SYSTEM", "/tr", command, "/f"];
        let output = schtasks(machine, &arguments)?;
        if output.code != 0 {
            return Err(io::Error::other(format!("schtasks ends with {}: {}", output.code, output.text.trim())));
        }
        Ok(())
    }

    /// Undoes it.
    ///
    /// # Errors
    /// Why it is not undone.
    pub fn undo(&self, machine: &impl Machine, before: &Before) -> io::Result<Restart> {
        if *before == Before::Present {
            return Ok(false);
        }
        match self {
            Self::Key { key } => machine.remove_key(key)?,
            Self::Value { key, name, .. } => match before {
                Before::Value(old) => machine.set_value(key, name, old)?,
                _ => machine.remove_value(key, name)?,
            },
            Self::Folder { path } => machine.remove_folder(path)?,
            Self::File { path, .. } => {
                machine.remove_file(&unfinished(path))?;
                machine.remove_file(path)?;
            }
            Self::Certificate { store, sha256, .. } => machine.remove_certificate(*store, sha256)?,
            Self::TestSigning { entry } => {
                boot::set_test_signing(machine.boot_tool(), entry, false).map_err(io::Error::other)?;
                return Ok(true);
            }
            Self::Driver { name, provider } => {
                let mut restart = machine.remove_devices(ENUMERATOR, name)?;
                for driver in stored(machine, name, provider)? {
                    restart |= machine.remove_driver(&driver.published)?;
                }
                machine.remove_service(name)?;
                return Ok(restart);
            }
            Self::NetworkSettings { program, state } => {
                if machine.read(state)?.is_some() {
                    run(machine, program, &["network", "copy", "--to", "emulated", "--state", state])?;
                    machine.remove_file(state)?;
                }
            }
            Self::Service { program } => {
                if machine.read(program)?.is_some() {
                    run(machine, program, &["uninstall"])?;
                } else {
                    // It was never put there, or somebody took it away.
                    machine.stop_service(SERVICE_NAME)?;
                    machine.remove_service(SERVICE_NAME)?;
                }
            }
            Self::Resume { .. } => {
                // Where Windows has no such task there is nothing to remove.
                if schtasks(machine, &["/query", "/tn", TASK])?.code == 0 {
                    let output = schtasks(machine, &["/delete", "/tn", TASK, "/f"])?;
                    if output.code != 0 {
                        return Err(io::Error::other(format!("schtasks: {}", output.text.trim())));
                    }
                }
            }
            Self::BootEntries { .. } => {
                let bcd = Bcd::new(machine.boot_tool());
                setup::take_down(&bcd, &Kept(&ControlSet(machine)), &machine.system_drive())
                    .map_err(io::Error::other)?;
            }
        }
        Ok(false)
    }
}
