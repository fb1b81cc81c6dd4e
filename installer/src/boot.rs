//! What the boot entries need of the machine: the registry, where their record stands, and Windows' test mode.

use std::io;

use bootcfg::registry::Registry;
use bootcfg::{Bcd, Error, Tool};

use crate::machine::{Machine, Value};

/// The machine's registry below `SYSTEM\CurrentControlSet`.
pub struct ControlSet<'m, M>(pub &'m M);

fn path(key: &str) -> String {
    format!(r"SYSTEM\CurrentControlSet\{key}")
}

impl<M: Machine> ControlSet<'_, M> {
    fn set(&self, key: &str, name: &str, value: &Value) -> io::Result<()> {
        let key = path(key);
        if !self.0.has_key(&key) {
            self.0.make_key(&key)?;
        }
        self.0.set_value(&key, name, value)
    }
}

fn wrong(key: &str, name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!(r"{key}\{name} has the wrong type"))
}

impl<M: Machine> Registry for ControlSet<'_, M> {
    fn number(&self, key: &str, name: &str) -> io::Result<Option<u32>> {
        match self.0.value(&path(key), name)? {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(Value::Text(_)) => Err(wrong(key, name)),
        }
    }

    fn text(&self, key: &str, name: &str) -> io::Result<Option<String>> {
        match self.0.value(&path(key), name)? {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Number(_)) => Err(wrong(key, name)),
        }
    }

    fn values(&self, key: &str) -> io::Result<Vec<String>> {
        self.0.value_names(&path(key))
    }

    fn exists(&self, key: &str) -> io::Result<bool> {
        Ok(self.0.has_key(&path(key)))
    }

    fn set_number(&self, key: &str, name: &str, value: u32) -> io::Result<()> {
        self.set(key, name, &Value::Number(value))
    }

    fn set_text(&self, key: &str, name: &str, value: &str) -> io::Result<()> {
        self.set(key, name, &Value::Text(value.into()))
    }

    fn remove_value(&self, key: &str, name: &str) -> io::Result<()> {
        self.0.remove_value(&path(key), name)
    }

    fn remove_key(&self, key: &str) -> io::Result<()> {
        self.0.remove_tree(&path(key))
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush_registry()
    }
}

/// An element that says nothing of what it is: its values are translated.
const TEST_SIGNING: &str = "testsigning";

/// Whether an entry says anything about the test mode. Its answer, yes or no, is not looked at: one that is there is left as it
/// is unless it is set.
///
/// # Errors
/// What `bcdedit` refuses.
pub fn test_signing(tool: &dyn Tool, entry: &str) -> Result<bool, Error> {
    let objects = Bcd::new(tool).objects()?;
    let entry = objects.iter().find(|object| object.id.as_str() == entry);
    Ok(entry.is_some_and(|entry| entry.value(TEST_SIGNING).is_some()))
}

/// Sets an entry's test mode, or takes its element away. An entry that is not there has none.
///
/// # Errors
/// What `bcdedit` refuses.
pub fn set_test_signing(tool: &dyn Tool, entry: &str, on: bool) -> Result<(), Error> {
    if on {
        return Bcd::new(tool).run(&["/set", entry, TEST_SIGNING, "on"]).map(drop);
    }
    if test_signing(tool, entry)? {
        Bcd::new(tool).run(&["/deletevalue", entry, TEST_SIGNING])?;
    }
    Ok(())
}
