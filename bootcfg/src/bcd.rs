//! The system's boot configuration: one command of `bcdedit` for each question and each change.
//! <https://learn.microsoft.com/windows-hardware/drivers/devtest/bcdedit--set> and the pages beside it.

use crate::error::{Error, Result};
use crate::output::{self, Object};
use crate::store::{Id, Store};
use crate::tool::{self, BitLocker, Tool};

/// Characters of a refusal that are shown.
const SHOWN: usize = 300;

/// See the module.
pub struct Bcd<'t, T: ?Sized> {
    tool: &'t T,
}

impl<'t, T: Tool + ?Sized> Bcd<'t, T> {
    /// The system's, through that tool.
    pub fn new(tool: &'t T) -> Self {
        Self { tool }
    }

    /// Runs `bcdedit`; what it printed.
    ///
    /// # Errors
    /// [`Error::Program`], [`Error::Refused`].
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.tool.bcdedit(arguments).map_err(|error| Error::Program("bcdedit", error))?;
        if output.code == Some(0) {
            return Ok(output.text);
        }
        let said = output.text.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(Error::Refused { arguments: arguments.join(" "), said: said.chars().take(SHOWN).collect() })
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Error::Program`], [`Error::Refused`], [`Error::Output`], [`Error::NoManager`].
    pub fn read(&self) -> Result<Store> {
        Store::new(&self.objects()?)
    }

    /// Reads everything that is in it.
    ///
    /// # Errors
    /// As for [`Bcd::read`].
    pub fn objects(&self) -> Result<Vec<Object>> {
        output::objects(&self.run(&["/enum", "all", "/v"])?)
    }

    /// The running Windows' entry.
    ///
    /// # Errors
    /// As for [`Bcd::read`].
    pub fn current(&self) -> Result<Id> {
        let text = self.run(&["/enum", Id::current().as_str(), "/v"])?;
        let first = output::objects(&text)?.into_iter().next();
        first.map(|object| object.id).ok_or(Error::Output(1, "the running Windows' entry"))
    }

    /// Copies an entry under that description, and returns the copy's identifier.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::NotDone`]: no copy is named.
    pub fn copy(&self, of: &Id, description: &str) -> Result<Id> {
        let text = self.run(&["/copy", of.as_str(), "/d", description])?;
        output::identifier_in(&text).ok_or(Error::NotDone("it names no copy"))
    }

    /// Sets an entry's load options; empty ones are removed.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::NotDone`]: they are others when they are read back.
    pub fn set_load_options(&self, id: &Id, options: &str) -> Result<()> {
        if options.is_empty() {
            self.run(&["/deletevalue", id.as_str(), "loadoptions"])?;
        } else {
            self.run(&["/set", id.as_str(), "loadoptions", options])?;
        }
        let store = self.read()?;
        let found = store.entry(id).and_then(|entry| entry.load_options.as_deref()).unwrap_or_default();
        if found == options { Ok(()) } else { Err(Error::NotDone("the load options are not what was set")) }
    }

    /// Deletes an entry, and every mention of it in the boot manager.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn delete(&self, id: &Id) -> Result<()> {
        self.run(&["/delete", id.as_str(), "/cleanup"]).map(drop)
    }

    /// Has the boot manager start that entry next, once.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::NotDone`]: it is not so when it is read back.
    pub fn set_next(&self, id: &Id) -> Result<()> {
        self.run(&["/bootsequence", id.as_str()])?;
        let sequence = self.read()?.boot_sequence;
        if sequence == [id.clone()] { Ok(()) } else { Err(Error::NotDone("the boot sequence is not what was set")) }
    }

    /// Takes an entry out of the boot sequence. One that is not in it is no error.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::NotDone`]: it is still there when it is read back.
    pub fn clear_next(&self, id: &Id) -> Result<()> {
        if !self.read()?.boot_sequence.contains(id) {
            return Ok(());
        }
        self.run(&["/bootsequence", id.as_str(), "/remove"])?;
        let left = self.read()?.boot_sequence.contains(id);
        if left { Err(Error::NotDone("the entry is still in the boot sequence")) } else { Ok(()) }
    }

    /// Makes an entry the default.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::NotDone`]: it is not so when it is read back.
    pub fn set_default(&self, id: &Id) -> Result<()> {
        self.run(&["/default", id.as_str()])?;
        let done = self.read()?.default.as_ref() == Some(id);
        if done { Ok(()) } else { Err(Error::NotDone("the default entry is not what was set")) }
    }

    /// That BitLocker does not stand against a change of what is booted.
    ///
    /// # Errors
    /// [`Error::BitLocker`], [`Error::BitLockerUnknown`], [`Error::Program`].
    pub fn check_bit_locker(&self, drive: &str) -> Result<()> {
        match tool::bit_locker(self.tool, drive)? {
            BitLocker::Off => Ok(()),
            BitLocker::Protecting => Err(Error::BitLocker),
        }
    }
}
