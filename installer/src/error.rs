//! Why the setup does not do what it was asked for, and the exit code that says so.

use std::fmt;
use std::io;

use crate::check::Refusal;
use crate::inf::Version;

/// Exit code: done.
pub const DONE: u8 = 0;
/// Exit code, as Windows' own installer has it: done, and Windows has to be restarted.
/// <https://learn.microsoft.com/windows/win32/msi/error-codes>
pub const RESTART: i32 = 3010;

/// See the module.
#[derive(Debug)]
pub enum Error {
    /// The package is not whole.
    Package(String),
    /// The machine is none that it can be installed on, or not now.
    Refused(Vec<Refusal>),
    /// What is installed is newer.
    Newer {
        /// What is installed.
        installed: String,
        /// What was to be installed.
        offered: Version,
    },
    /// The record of what was changed cannot be used.
    Record(String),
    /// A step failed. What was done until then is recorded.
    Step {
        /// What was to be done.
        what: String,
        /// Why it was not.
        error: io::Error,
    },
    /// There is nothing to repair.
    NotInstalled,
}

impl Error {
    /// The exit code.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Refused(refusals) => refusals.first().map_or(10, Refusal::exit_code),
            Self::Package(_) => 7,
            Self::Newer { .. } => 8,
            Self::NotInstalled => 9,
            Self::Step { .. } => 10,
            Self::Record(_) => 12,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package(what) => write!(f, "the package cannot be used; nothing was changed; get it again: {what}"),
            Self::Refused(refusals) => {
                f.write_str("nothing was changed:")?;
                refusals.iter().try_for_each(|refusal| write!(f, "\n{refusal}"))
            }
            Self::Newer { installed, offered } => write!(
                f,
                "nothing was changed: version {installed} is installed, and {offered} is older; uninstall first to go back"
            ),
            Self::Record(what) => write!(f, "the record of what was changed: {what}"),
            Self::Step { what, error } => {
                write!(f, "{what}: {error}\nwhat was done until here is recorded: run this again, or uninstall")
            }
            Self::NotInstalled => f.write_str("nothing is installed"),
        }
    }
}

impl std::error::Error for Error {}
