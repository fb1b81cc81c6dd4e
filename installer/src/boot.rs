//! What the boot entries need of the machine: the registry, where their record stands, and Windows' test mode.

use std::io;

use bootcfg::registry::Registry;
use bootcfg::{Error, Tool, output};

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

fn bcdedit(tool: &dyn Tool, arguments: &[&str]) -> Result<String, Error> {
    let output = tool.bcdedit(arguments).map_err(|error| Error::Program("bcdedit", error))?;
    if output.code == Some(0) {
        return Ok(output.text);
    }
    let said = output.text.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(Error::Refused { arguments: arguments.join(" "), said })
}

/// Whether the running Windows' entry says anything about the test mode. Its answer, yes or no, is translated and not
/// looked at: one that is there is left as it is unless it is set.
///
/// # Errors
/// What `bcdedit` refuses.
pub fn test_signing(tool: &dyn Tool) -> Result<bool, Error> {
    let text = bcdedit(tool, &["/enum", "{current}", "/v"])?;
    Ok(output::objects(&text)?.iter().any(|object| object.value("testsigning").is_some()))
}

/// Sets an entry's test mode, or takes its element away.
///
/// # Errors
/// What `bcdedit` refuses.
pub fn set_test_signing(tool: &dyn Tool, entry: &str, on: bool) -> Result<(), Error> {
    if on {
        return bcdedit(tool, &["/set", entry, "testsigning", "on"]).map(drop);
    }
    let text = bcdedit(tool, &["/enum", entry, "/v"])?;
    if output::objects(&text)?.iter().any(|object| object.value("testsigning").is_some()) {
        bcdedit(tool, &["/deletevalue", entry, "testsigning"])?;
    }
    Ok(())
}
