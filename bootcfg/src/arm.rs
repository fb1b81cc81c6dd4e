//! Which boot is next.

use crate::bcd::Bcd;
use crate::error::{Error, Result};
use crate::options::Mode;
use crate::store::{Id, Store};
use crate::tool::Tool;

/// Whether the entry can be the next boot, once: what follows it must be the same Windows from the emulated devices, and
/// the boot manager must use the order up. Pure.
///
/// # Errors
/// Why not: [`Error::Persistent`], [`Error::NoDefault`], [`Error::DefaultParavirtual`], [`Error::NoEntry`],
/// [`Error::Edited`], [`Error::OtherDefault`], [`Error::Taken`].
pub fn check(store: &Store, paravirtual: &Id) -> Result<()> {
    if store.persistent_sequence {
        return Err(Error::Persistent);
    }
    let default = store.default_entry()?;
    if default.id == *paravirtual || default.mode() == Mode::Paravirtual {
        return Err(Error::DefaultParavirtual(default.id.clone()));
    }
    let entry = store.entry(paravirtual).ok_or(Error::NoEntry)?;
    if entry.mode() != Mode::Paravirtual {
        return Err(Error::Edited(entry.id.clone()));
    }
    if !entry.same_system(default) {
        return Err(Error::OtherDefault(default.id.clone()));
    }
    match store.boot_sequence.first() {
        Some(id) if id != paravirtual => Err(Error::Taken(id.clone())),
        _ => Ok(()),
    }
}

/// Makes the entry the next boot, once. It is no error if it is that already. With `drive`, BitLocker must not protect
/// that drive; the two entries differ in what it measures.
///
/// # Errors
/// As for [`check`]; BitLocker; what `bcdedit` refuses.
pub fn arm<T: Tool + ?Sized>(bcd: &Bcd<'_, T>, paravirtual: &Id, drive: Option<&str>) -> Result<()> {
    let store = bcd.read()?;
    check(&store, paravirtual)?;
    if let Some(drive) = drive {
        bcd.check_bit_locker(drive)?;
    }
    if store.boot_sequence == [paravirtual.clone()] {
        return Ok(());
    }
    bcd.set_next(paravirtual)
}

/// Who is to boot next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Whatever the default entry is.
    Default,
    /// The paravirtual entry.
    Paravirtual,
    /// An entry of somebody else's.
    Other,
}

/// Who is to boot next.
///
/// # Errors
/// What `bcdedit` refuses.
pub fn next<T: Tool + ?Sized>(bcd: &Bcd<'_, T>, paravirtual: &Id) -> Result<Next> {
    Ok(match bcd.read()?.boot_sequence.first() {
        None => Next::Default,
        Some(id) if id == paravirtual => Next::Paravirtual,
        Some(_) => Next::Other,
    })
}
