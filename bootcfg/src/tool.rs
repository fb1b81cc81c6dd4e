//! The two programs of Windows that know about boots: `bcdedit` and `manage-bde`.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::process;

/// How long one may take: `manage-bde` asks a service of Windows, which may be busy or broken.
const LIMIT: Duration = Duration::from_mins(1);

/// What a program left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; `None`: it was stopped.
    pub code: Option<i32>,
    /// What it printed.
    pub text: String,
}

/// Whether BitLocker protects the system drive now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitLocker {
    /// It does: a boot that is measured to be another than the last asks for the recovery key.
    Protecting,
    /// It does not, or it is suspended, or there is none.
    Off,
}

/// Runs the programs.
pub trait Tool {
    /// Runs `bcdedit`.
    ///
    /// # Errors
    /// It cannot be run.
    fn bcdedit(&self, arguments: &[&str]) -> io::Result<Output>;

    /// Runs `manage-bde`. `None`: this Windows has none, and so no BitLocker.
    ///
    /// # Errors
    /// It cannot be run.
    fn manage_bde(&self, arguments: &[&str]) -> io::Result<Option<Output>>;
}

/// Whether BitLocker protects that drive (`C:`). Told by the exit code, which no language changes.
/// <https://learn.microsoft.com/windows-server/administration/windows-commands/manage-bde-status>
///
/// # Errors
/// [`Error::Program`]; [`Error::BitLockerUnknown`].
pub fn bit_locker<T: Tool + ?Sized>(tool: &T, drive: &str) -> Result<BitLocker> {
    let output = tool.manage_bde(&["-status", drive, "-protectionaserrorlevel"]);
    match output.map_err(|error| Error::Program("manage-bde", error))? {
        Some(Output { code: Some(0), .. }) => Ok(BitLocker::Protecting),
        None | Some(Output { code: Some(1), .. }) => Ok(BitLocker::Off),
        Some(Output { code, .. }) => Err(Error::BitLockerUnknown(code)),
    }
}

/// The programs of the running Windows.
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Those of `%SystemRoot%\System32`: nobody's search path decides what an administrator runs.
    pub fn of_windows() -> Self {
        let root = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into());
        Self { folder: PathBuf::from(root).join("System32") }
    }

    fn run(&self, name: &str, arguments: &[&str]) -> io::Result<Output> {
        let output = process::output(Command::new(self.folder.join(name)).args(arguments), LIMIT)?;
        // It is printed in the console's code page. What is read of it is ASCII.
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(Output { code: output.status.code(), text })
    }
}

impl Tool for Programs {
    fn bcdedit(&self, arguments: &[&str]) -> io::Result<Output> {
        self.run("bcdedit.exe", arguments)
    }

    fn manage_bde(&self, arguments: &[&str]) -> io::Result<Option<Output>> {
        match self.run("manage-bde.exe", arguments) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            output => output.map(Some),
        }
    }
}
