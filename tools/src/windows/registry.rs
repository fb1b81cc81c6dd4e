//! The registry, from a key below `HKEY_LOCAL_MACHINE`.

use std::io::{self, Error};

use windows_registry::{Key, LOCAL_MACHINE};

use crate::registry::{Registry, RegistryMut, Value};

/// `HRESULT_FROM_WIN32(ERROR_FILE_NOT_FOUND)`.
const NOT_FOUND: i32 = 0x8007_0002_u32.cast_signed();

/// What stands below one key.
pub struct LocalMachine {
    root: &'static str,
}

impl LocalMachine {
    /// That of the Windows that runs.
    pub fn system() -> Self {
        Self { root: "SYSTEM" }
    }

    /// That of a hive that was loaded under this name.
    pub fn at(root: &'static str) -> Self {
        Self { root }
    }

    fn open(&self, key: &str) -> io::Result<Option<Key>> {
        there(LOCAL_MACHINE.open(format!("{}\\{key}", self.root)))
    }
}

fn there<T>(found: windows_registry::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code().0 == NOT_FOUND => Ok(None),
        Err(error) => Err(Error::from(error)),
    }
}

impl Registry for LocalMachine {
    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
        let Some(key) = self.open(key)? else { return Ok(None) };
        let value = there(key.get_value(name))?;
        Ok(value.map(|value| Value { kind: value.ty().into(), data: value.to_vec() }))
    }

    fn has_key(&self, key: &str) -> io::Result<bool> {
        Ok(self.open(key)?.is_some())
    }

    fn subkeys(&self, key: &str) -> io::Result<Vec<String>> {
        let Some(key) = self.open(key)? else { return Ok(Vec::new()) };
        Ok(key.keys()?.collect())
    }

    fn names(&self, key: &str) -> io::Result<Vec<String>> {
        let Some(key) = self.open(key)? else { return Ok(Vec::new()) };
        Ok(key.values()?.map(|(name, _)| name).collect())
    }
}

impl RegistryMut for LocalMachine {
    fn set(&mut self, key: &str, name: &str, value: &Value) -> io::Result<()> {
        let key = LOCAL_MACHINE.create(format!("{}\\{key}", self.root))?;
        Ok(key.set_bytes(name, value.kind.into(), &value.data)?)
    }

    fn remove(&mut self, key: &str, name: &str) -> io::Result<()> {
        let options = LOCAL_MACHINE.options().write().open(format!("{}\\{key}", self.root));
        let Some(key) = there(options)? else { return Ok(()) };
        there(key.remove_value(name)).map(drop)
    }
}
