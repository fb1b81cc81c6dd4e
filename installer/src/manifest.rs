//! The record of what was changed: written before each change, read to undo it.
//!
//! It holds what was there before, so that undoing restores it; it does not hold what is done already. After a power cut
//! the last changes of the registry may be lost although they were made, so whoever goes on does every step again.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::inf::Version;
use crate::machine::{Machine, Value};
use crate::package::join;
use crate::plan::Component;
use crate::step::Step;

/// The file's name.
pub const NAME: &str = "manifest.json";
/// The layout of the file. One that is newer is left alone.
const FORMAT: u32 = 1;

/// Where the setup was going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// To install.
    Install,
    /// To take everything away.
    Uninstall,
}

/// What was there before a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Before {
    /// Nothing.
    Absent,
    /// The same as after it: there is nothing to undo.
    Present,
    /// This value.
    Value(Value),
}

/// A step and what was there before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The step.
    pub step: Step,
    /// What was there before.
    pub before: Before,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The version that is installed, or is being.
    pub version: String,
    /// Where the setup was going.
    pub goal: Goal,
    /// Whether it got there.
    pub complete: bool,
    /// What was chosen.
    pub components: Vec<Component>,
    /// Whether Windows' test mode was asked for.
    pub test_signing: bool,
    /// The steps in their order.
    pub records: Vec<Record>,
}

impl Manifest {
    /// One without records.
    pub fn new(version: Version) -> Self {
        Self {
            format: FORMAT,
            version: version.to_string(),
            goal: Goal::Install,
            complete: false,
            components: Vec::new(),
            test_signing: false,
            records: Vec::new(),
        }
    }

    /// Reads the one in `root`; `None`: nothing was ever changed, or all of it was undone.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn load(machine: &impl Machine, root: &str) -> Result<Option<Self>, Error> {
        let path = join(root, NAME);
        let wrong = |what: String| Error::Record(format!("{path}: {what}"));
        let Some(content) = machine.read(&path).map_err(|error| wrong(error.to_string()))? else { return Ok(None) };
        let manifest: Self = serde_json::from_slice(&content).map_err(|error| wrong(error.to_string()))?;
        if manifest.format > FORMAT {
            return Err(wrong("it was written by a newer version; use that one".into()));
        }
        Ok(Some(manifest))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Record`].
    pub fn save(&self, machine: &impl Machine, root: &str) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| Error::Record(error.to_string()))?;
        let path = join(root, NAME);
        put(machine, &path, &text).map_err(|error| Error::Record(format!("{path}: {error}")))
    }

    /// The record of the same thing as `step`, whatever is to be done to it.
    pub fn record_of(&self, step: &Step) -> Option<usize> {
        let subject = step.subject();
        self.records.iter().position(|record| record.step.subject() == subject)
    }
}

/// The name that a file has until it is whole.
pub fn unfinished(path: &str) -> String {
    format!("{path}.new")
}

/// Puts a file in its place, whole or not at all.
///
/// # Errors
/// No space; somebody else has it open.
pub fn put(machine: &impl Machine, path: &str, content: &[u8]) -> std::io::Result<()> {
    let new = unfinished(path);
    machine.write(&new, content)?;
    machine.rename(&new, path)
}
