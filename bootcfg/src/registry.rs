//! The registry, as far as boots are concerned, and what stands in it.
//!
//! Keys are named below `HKLM\SYSTEM\CurrentControlSet`. What is to be known of the two entries stands in
//! `Services\xenhide\Boot`: `Default`, `LoadOptions` (absent if there were none) and `Paravirtual`.

use std::io;

use crate::setup::{Memory, Record};
use crate::store::Id;

/// Where the record stands.
pub const BOOT: &str = r"Services\xenhide\Boot";

/// The registry. A key or value that is not there is no error.
pub trait Registry {
    /// A REG_DWORD. One of another type is an error.
    ///
    /// # Errors
    /// It cannot be read.
    fn number(&self, key: &str, name: &str) -> io::Result<Option<u32>>;

    /// A REG_SZ. One of another type is an error.
    ///
    /// # Errors
    /// It cannot be read.
    fn text(&self, key: &str, name: &str) -> io::Result<Option<String>>;

    /// Names of a key's values.
    ///
    /// # Errors
    /// It cannot be read.
    fn values(&self, key: &str) -> io::Result<Vec<String>>;

    /// Whether the key is there.
    ///
    /// # Errors
    /// It cannot be read.
    fn exists(&self, key: &str) -> io::Result<bool>;

    /// Sets a REG_DWORD, and makes the key.
    ///
    /// # Errors
    /// It cannot be written.
    fn set_number(&self, key: &str, name: &str, value: u32) -> io::Result<()>;

    /// Sets a REG_SZ, and makes the key.
    ///
    /// # Errors
    /// It cannot be written.
    fn set_text(&self, key: &str, name: &str, value: &str) -> io::Result<()>;

    /// Removes a value.
    ///
    /// # Errors
    /// It cannot be removed.
    fn remove_value(&self, key: &str, name: &str) -> io::Result<()>;

    /// Removes a key and all below it.
    ///
    /// # Errors
    /// It cannot be removed.
    fn remove_key(&self, key: &str) -> io::Result<()>;

    /// Returns when everything written so far is on the disk.
    ///
    /// # Errors
    /// It cannot be written there.
    fn flush(&self) -> io::Result<()>;
}

/// The record in the registry.
pub struct Kept<'r, R: ?Sized>(pub &'r R);

impl<R: Registry + ?Sized> Memory for Kept<'_, R> {
    fn record(&self) -> io::Result<Option<Record>> {
        let id = |name| Ok::<_, io::Error>(self.0.text(BOOT, name)?.as_deref().and_then(Id::parse));
        let Some(default) = id("Default")? else { return Ok(None) };
        let load_options = self.0.text(BOOT, "LoadOptions")?;
        Ok(Some(Record { default, load_options, paravirtual: id("Paravirtual")? }))
    }

    fn remember(&self, record: &Record) -> io::Result<()> {
        // `Default` makes it a record, so it goes first when a record is replaced, and comes last.
        let kept = self.record()?;
        if kept.as_ref() == Some(record) {
            return Ok(());
        }
        if kept.is_some_and(|kept| (&kept.default, &kept.load_options) != (&record.default, &record.load_options)) {
            self.0.remove_value(BOOT, "Default")?;
        }
        match &record.load_options {
            Some(options) => self.0.set_text(BOOT, "LoadOptions", options)?,
            None => self.0.remove_value(BOOT, "LoadOptions")?,
        }
        match &record.paravirtual {
            Some(id) => self.0.set_text(BOOT, "Paravirtual", id.as_str())?,
            None => self.0.remove_value(BOOT, "Paravirtual")?,
        }
        self.0.set_text(BOOT, "Default", record.default.as_str())?;
        self.0.flush()
    }

    fn forget(&self) -> io::Result<()> {
        for name in ["Default", "LoadOptions", "Paravirtual"] {
            self.0.remove_value(BOOT, name)?;
        }
        self.0.flush()
    }
}

#[cfg(windows)]
pub use windows::SystemRegistry;

#[cfg(windows)]
mod windows {
    use std::io;

    use windows_registry::{Key, LOCAL_MACHINE, Type, Value};
    use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_SUCCESS};
    use windows_sys::Win32::System::Registry::RegFlushKey;

    use super::Registry;

    const CONTROL_SET: &str = r"SYSTEM\CurrentControlSet";

    /// The running Windows' registry.
    pub struct SystemRegistry;

    fn path(key: &str) -> String {
        format!(r"{CONTROL_SET}\{key}")
    }

    /// What is not there is `None`.
    fn found<T>(outcome: windows_registry::Result<T>) -> io::Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let error = io::Error::from(error);
                if error.kind() == io::ErrorKind::NotFound || is_not_found(&error) { Ok(None) } else { Err(error) }
            }
        }
    }

    /// The crate's errors are HRESULTs.
    fn is_not_found(error: &io::Error) -> bool {
        const FACILITY_WIN32: u32 = 0x8007_0000;
        error.raw_os_error().is_some_and(|code| code.cast_unsigned() == FACILITY_WIN32 | ERROR_FILE_NOT_FOUND)
    }

    fn value(key: &str, name: &str) -> io::Result<Option<Value>> {
        match found(LOCAL_MACHINE.open(path(key)))? {
            None => Ok(None),
            Some(key) => found(key.get_value(name)),
        }
    }

    fn wrong(key: &str, name: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!(r"{key}\{name} has the wrong type"))
    }

    fn writable(key: &str) -> io::Result<Key> {
        Ok(LOCAL_MACHINE.create(path(key))?)
    }

    impl Registry for SystemRegistry {
        fn number(&self, key: &str, name: &str) -> io::Result<Option<u32>> {
            match value(key, name)? {
                None => Ok(None),
                Some(value) => {
                    if value.ty() != Type::U32 {
                        return Err(wrong(key, name));
                    }
                    u32::try_from(value).map(Some).map_err(|_| wrong(key, name))
                }
            }
        }

        fn text(&self, key: &str, name: &str) -> io::Result<Option<String>> {
            match value(key, name)? {
                None => Ok(None),
                Some(value) => {
                    if value.ty() != Type::String {
                        return Err(wrong(key, name));
                    }
                    String::try_from(value).map(Some).map_err(|_| wrong(key, name))
                }
            }
        }

        fn values(&self, key: &str) -> io::Result<Vec<String>> {
            match found(LOCAL_MACHINE.open(path(key)))? {
                None => Ok(Vec::new()),
                Some(key) => Ok(key.values()?.map(|(name, _)| name).collect()),
            }
        }

        fn exists(&self, key: &str) -> io::Result<bool> {
            Ok(found(LOCAL_MACHINE.open(path(key)))?.is_some())
        }

        fn set_number(&self, key: &str, name: &str, value: u32) -> io::Result<()> {
            Ok(writable(key)?.set_u32(name, value)?)
        }

        fn set_text(&self, key: &str, name: &str, value: &str) -> io::Result<()> {
            Ok(writable(key)?.set_string(name, value)?)
        }

        fn remove_value(&self, key: &str, name: &str) -> io::Result<()> {
            if value(key, name)?.is_some() {
                writable(key)?.remove_value(name)?;
            }
            Ok(())
        }

        fn remove_key(&self, key: &str) -> io::Result<()> {
            if self.exists(key)? {
                LOCAL_MACHINE.remove_tree(path(key))?;
            }
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            let key = LOCAL_MACHINE.open("SYSTEM")?;
            // SAFETY: the key is open until the end of the call.
            let outcome = unsafe { RegFlushKey(key.as_raw()) };
            if outcome == ERROR_SUCCESS { Ok(()) } else { Err(io::Error::from_raw_os_error(outcome.cast_signed())) }
        }
    }
}
