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

/// An entry's options, if they can be written back as they are. A letter that the console's code page lacks is printed as a
/// question mark.
fn readable(entry: &Entry) -> Result<&str> {
    let options = entry.load_options.as_deref().unwrap_or_default();
    if options.is_ascii() && !options.contains('?') { Ok(options) } else { Err(Error::Letters(entry.id.clone())) }
}

/// The options with which an entry asks for `mode`; `None`: it does.
fn changed(entry: &Entry, mode: Mode) -> Result<Option<String>> {
    let word = if mode == Mode::Emulated { EMULATED } else { PARAVIRTUAL };
    if entry.mode() == mode { Ok(None) } else { Ok(Some(options::with(readable(entry)?, word))) }
}

/// What the options of the recorded entry become without the word that it was given: what they were, or, where somebody
/// changed them since, those without the word. `None`: they stay.
fn restored(entry: &Entry, record: &Record) -> Result<Option<String>> {
    let original = record.load_options.as_deref().unwrap_or_default();
    if options::mode(original) == Mode::Emulated || entry.mode() != Mode::Emulated {
        return Ok(None);
    }
    let unchanged = entry.load_options.as_deref() == Some(options::with(original, EMULATED).as_str());
    Ok(Some(if unchanged { original.to_owned() } else { options::without(readable(entry)?) }))
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
    let emulated = changed(default, Mode::Emulated)?;
    let copied = match found {
        Some(entry) => changed(entry, Mode::Paravirtual)?,
        None => Some(options::with(readable(default)?, PARAVIRTUAL)),
    };
    // Another entry was the default until now: it gets back what it had.
    let former = recorded.as_ref().filter(|record| record.default != default.id);
    let back = match former.and_then(|record| Some((store.entry(&record.default)?, record))) {
        Some((entry, record)) => restored(entry, record)?.map(|options| (entry, options)),
        None => None,
    };
    if emulated.is_some() || copied.is_some() || back.is_some() {
        bcd.check_bit_locker(drive)?;
    }
    if let Some((entry, options)) = back {
        bcd.set_load_options(&entry.id, &options)?;
    }
    // What is recorded of this default stands: its options may be changed already.
    let mut record = match recorded {
        Some(record) if record.default == default.id => record,
        _ => Record {
            default: default.id.clone(),
            load_options: default.load_options.clone(),
            paravirtual: found.map(|entry| entry.id.clone()),
        },
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
    if let Some(options) = copied {
        bcd.set_load_options(&paravirtual, &options)?;
    }
    if let Some(options) = emulated {
        bcd.set_load_options(&default.id, &options)?;
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
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'?';
    let plain = !description.is_empty() && description.bytes().all(plain);
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
    let back = match default {
        Some(default) => restored(default, &record)?,
        None => None,
    };
    if back.is_some() || made.is_some() {
        bcd.check_bit_locker(drive)?;
    }
    let is_default = made.is_some_and(|made| store.default.as_ref() == Some(&made.id));
    if let Some(made) = made {
        bcd.clear_next(&made.id)?;
    }
    if let Some(default) = default {
        if is_default {
            bcd.set_default(&default.id)?;
        }
        if let Some(options) = back {
            bcd.set_load_options(&default.id, &options)?;
        }
    }
    if let Some(made) = made {
        // Where somebody deleted the entry that was the default, this one may be what starts Windows: it stays, with
        // neither word.
        let others = store.entries.iter().any(|entry| entry.id != made.id && entry.same_system(made));
        if default.is_some() || (others && !is_default) {
            bcd.delete(&made.id)?;
        } else if [Mode::Paravirtual, Mode::Emulated].contains(&made.mode()) {
            bcd.set_load_options(&made.id, &options::without(readable(made)?))?;
        }
    }
    memory.forget().map_err(memory_error)
}
