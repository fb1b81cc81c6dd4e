//! Making the two boot entries, and taking them away again.
//!
//! Each may be cut off between any two steps, by a power cut say, and be run again: it finds what is there and goes on.
//! The default entry is changed last when the two are made, so that until then every boot is what it was.

use std::io;

use crate::bcd::Bcd;
use crate::error::{Error, Result};
use crate::options::{self, EMULATED, Mode, PARAVIRTUAL};
use crate::store::{Entry, Id, Store};
use crate::tool::Tool;

/// The end of the paravirtual entry's name in the boot menu.
pub const SUFFIX: &str = " (Xen PV drivers)";

/// What must be known to undo it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The entry that was the default.
    pub default: Id,
    /// Its load options as they were.
    pub load_options: Option<String>,
    /// The entry for the paravirtual devices, once it is made.
    pub paravirtual: Option<Id>,
}

/// Where the record is kept.
pub trait Memory {
    /// The record, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    fn record(&self) -> io::Result<Option<Record>>;

    /// Keeps a record. It is on the disk when this returns.
    ///
    /// # Errors
    /// It cannot be written.
    fn remember(&self, record: &Record) -> io::Result<()>;

    /// Forgets the record. None is no error.
    ///
    /// # Errors
    /// It cannot be removed.
    fn forget(&self) -> io::Result<()>;
}

/// What was made, or was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The default entry, with `NOGPLPV`.
    pub emulated: Id,
    /// The entry with `GPLPV`.
    pub paravirtual: Id,
    /// Other entries of this Windows that ask for paravirtual devices, of older drivers or by hand. They are left alone.
    pub others: Vec<Id>,
}

/// The paravirtual entry that was made for this Windows: the recorded one, or one that was made and not recorded any more.
fn made_before<'s>(store: &'s Store, default: &Entry, record: Option<&Record>) -> Option<&'s Entry> {
    let recorded = record.and_then(|record| store.entry(record.paravirtual.as_ref()?));
    let by_name = || store.entries.iter().find(|entry| entry.id != default.id && entry.description.ends_with(SUFFIX));
    recorded.or_else(by_name).filter(|entry| entry.same_system(default))
}

fn memory_error(error: io::Error) -> Error {
    Error::Memory(error)
}

/// Makes the two entries of the running Windows, or puts right what is there. `drive` is the system drive, `C:`.
///
/// # Errors
/// [`Error::BitLocker`] and the other reasons not to begin; what `bcdedit` refuses. Run again, it goes on where it was.
pub fn set_up<T: Tool + ?Sized, M: Memory + ?Sized>(bcd: &Bcd<'_, T>, memory: &M, drive: &str) -> Result<Made> {
    let store = bcd.read()?;
    let default = store.default_entry()?;
    let current = bcd.current()?;
    if !store.entry(&current).is_some_and(|current| current.same_system(default)) {
        return Err(Error::OtherDefault(default.id.clone()));
    }
    if store.persistent_sequence {
        return Err(Error::Persistent);
    }
    let recorded = memory.record().map_err(memory_error)?;
    if recorded.as_ref().is_some_and(|record| record.paravirtual.as_ref() == Some(&default.id)) {
        return Err(Error::DefaultParavirtual(default.id.clone()));
    }
    let found = made_before(&store, default, recorded.as_ref());
    let done = default.mode() == Mode::Emulated && found.is_some_and(|entry| entry.mode() == Mode::Paravirtual);
    if !done {
        bcd.check_bit_locker(drive)?;
    }
    // What is recorded of this default stands: its options may be changed already.
    let mut record = match recorded {
        Some(record) if record.default == default.id => record,
        _ => Record { default: default.id.clone(), load_options: default.load_options.clone(), paravirtual: None },
    };
    memory.remember(&record).map_err(memory_error)?;
    let paravirtual = match found {
        Some(entry) => entry.id.clone(),
        None => bcd.copy(&default.id, &name(&default.description))?,
    };
    if record.paravirtual.as_ref() != Some(&paravirtual) {
        record.paravirtual = Some(paravirtual.clone());
        memory.remember(&record).map_err(memory_error)?;
    }
    let before = |entry: &Entry| entry.load_options.clone().unwrap_or_default();
    if found.is_none_or(|entry| entry.mode() != Mode::Paravirtual) {
        let options = before(found.unwrap_or(default));
        bcd.set_load_options(&paravirtual, Some(&options::with(&options, PARAVIRTUAL)))?;
    }
    if default.mode() != Mode::Emulated {
        bcd.set_load_options(&default.id, Some(&options::with(&before(default), EMULATED)))?;
    }
    let other = |entry: &&Entry| {
        entry.same_system(default)
            && entry.mode() == Mode::Paravirtual
            && ![&paravirtual, &default.id].contains(&&entry.id)
    };
    let others = store.entries.iter().filter(other).map(|entry| entry.id.clone()).collect();
    Ok(Made { emulated: default.id.clone(), paravirtual, others })
}

/// The paravirtual entry's name. A description in another alphabet does not come through `bcdedit` unharmed.
fn name(description: &str) -> String {
    let plain = !description.is_empty() && description.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    format!("{}{SUFFIX}", if plain { description } else { "Windows" })
}

/// Takes away what [`set_up`] made: the default entry is as it was before.
///
/// # Errors
/// [`Error::BitLocker`]; what `bcdedit` refuses. Run again, it goes on where it was.
pub fn take_down<T: Tool + ?Sized, M: Memory + ?Sized>(bcd: &Bcd<'_, T>, memory: &M, drive: &str) -> Result<()> {
    let Some(record) = memory.record().map_err(memory_error)? else { return Ok(()) };
    let store = bcd.read()?;
    let default = store.entry(&record.default);
    let made = match default {
        Some(default) => made_before(&store, default, Some(&record)),
        None => record.paravirtual.as_ref().and_then(|id| store.entry(id)),
    };
    if default.is_some_and(|entry| entry.mode() == Mode::Emulated) || made.is_some() {
        bcd.check_bit_locker(drive)?;
    }
    if let Some(made) = made {
        bcd.clear_next(&made.id)?;
        if store.default.as_ref() == Some(&made.id) {
            let Some(default) = default else { return Err(Error::NoDefault) };
            bcd.set_default(&default.id)?;
        }
    }
    if let Some(default) = default {
        let found = default.load_options.as_deref();
        let original = record.load_options.as_deref();
        if found == Some(options::with(original.unwrap_or_default(), EMULATED).as_str()) {
            if found != original {
                bcd.set_load_options(&default.id, original)?;
            }
        } else if let Some(found) = found.filter(|found| options::mode(found) == Mode::Emulated) {
            // Somebody else's words were added since: they stay.
            let rest = options::without(found);
            bcd.set_load_options(&default.id, (!rest.is_empty()).then_some(rest.as_str()))?;
        }
    }
    if let Some(made) = made {
        bcd.delete(&made.id)?;
    }
    memory.forget().map_err(memory_error)
}
