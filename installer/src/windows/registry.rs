//! The registry below `HKEY_LOCAL_MACHINE`.

use std::io;

use windows_registry::{LOCAL_MACHINE, Type};
use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_SUCCESS};
use windows_sys::Win32::System::Registry::RegFlushKey;

use crate::machine::Value;

/// What is not there is `None`. The crate's errors are HRESULTs.
fn found<T>(outcome: windows_registry::Result<T>) -> io::Result<Option<T>> {
    const FACILITY_WIN32: u32 = 0x8007_0000;
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.code().0.cast_unsigned() == FACILITY_WIN32 | ERROR_FILE_NOT_FOUND => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub fn has_key(key: &str) -> bool {
    LOCAL_MACHINE.open(key).is_ok()
}

pub fn make_key(key: &str) -> io::Result<()> {
    LOCAL_MACHINE.create(key)?;
    Ok(())
}

pub fn remove_key(key: &str) -> io::Result<()> {
    let Some(open) = found(LOCAL_MACHINE.open(key))? else { return Ok(()) };
    if open.keys()?.next().is_some() || open.values()?.next().is_some() {
        return Ok(());
    }
    drop(open);
    remove_tree(key)
}

pub fn remove_tree(key: &str) -> io::Result<()> {
    if has_key(key) {
        LOCAL_MACHINE.remove_tree(key)?;
    }
    Ok(())
}

pub fn key_names(key: &str) -> io::Result<Vec<String>> {
    match found(LOCAL_MACHINE.open(key))? {
        None => Ok(Vec::new()),
        Some(key) => Ok(key.keys()?.collect()),
    }
}

pub fn value_names(key: &str) -> io::Result<Vec<String>> {
    match found(LOCAL_MACHINE.open(key))? {
        None => Ok(Vec::new()),
        Some(key) => Ok(key.values()?.map(|(name, _)| name).collect()),
    }
}

pub fn value(key: &str, name: &str) -> io::Result<Option<Value>> {
    let Some(open) = found(LOCAL_MACHINE.open(key))? else { return Ok(None) };
    let Some(value) = found(open.get_value(name))? else { return Ok(None) };
    match value.ty() {
        Type::U32 => Ok(Some(Value::Number(value.try_into()?))),
        Type::String | Type::ExpandString => Ok(Some(Value::Text(value.try_into()?))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!(r"{key}\{name} is of another type"))),
    }
}

pub fn set_value(key: &str, name: &str, value: &Value) -> io::Result<()> {
    let key = LOCAL_MACHINE.create(key)?;
    match value {
        Value::Text(text) => key.set_string(name, text)?,
        Value::Number(number) => key.set_u32(name, *number)?,
    }
    Ok(())
}

pub fn remove_value(key: &str, name: &str) -> io::Result<()> {
    let Some(open) = found(LOCAL_MACHINE.open(key))? else { return Ok(()) };
    if found(open.get_value(name))?.is_some() {
        LOCAL_MACHINE.create(key)?.remove_value(name)?;
    }
    Ok(())
}

pub fn flush() -> io::Result<()> {
    for hive in ["SOFTWARE", "SYSTEM"] {
        let key = LOCAL_MACHINE.open(hive)?;
        // SAFETY: the key is open until the end of the call.
        let outcome = unsafe { RegFlushKey(key.as_raw()) };
        if outcome != ERROR_SUCCESS {
            return Err(io::Error::from_raw_os_error(outcome.cast_signed()));
        }
    }
    Ok(())
}
