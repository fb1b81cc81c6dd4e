//! A hive file as a [`Registry`]: for a Windows that does not run, on whatever machine its disk can be read.
//!
//! Only numbers that are there are changed, in their place: no cell moves, so nothing else in the file can be damaged. A hive
//! that Windows has not closed is refused: what is newest stands in its log, which only Windows can put in.

use std::fs::OpenOptions;
use std::io::{self, Error, ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;

use nt_hive::{Hive, KeyNode, KeyValueData, NtHiveError};

use crate::registry::{Registry, Value};

/// A hive in memory, and where it was changed.
pub struct HiveFile {
    content: Vec<u8>,
    changed: Vec<usize>,
}

fn damaged(error: &NtHiveError) -> Error {
    let text = match error {
        NtHiveError::SequenceNumberMismatch { primary, secondary } => format!(
            "Windows did not close this hive (sequence numbers {primary} and {secondary}), so what is newest is in its log \
             files. Start WinPE or the recovery environment on this machine and repair there: Windows puts the log in"
        ),
        error => format!("this is no hive, or it is damaged: {error}"),
    };
    Error::new(ErrorKind::InvalidData, text)
}

impl HiveFile {
    /// Takes the bytes of a hive file.
    ///
    /// # Errors
    /// This is no hive, it is damaged, or Windows did not close it.
    pub fn new(content: Vec<u8>) -> io::Result<Self> {
        Hive::new(content.as_slice())
            .map_err(|error| damaged(&error))?
            .root_key_node()
            .map_err(|error| damaged(&error))?;
        Ok(Self { content, changed: Vec::new() })
    }

    /// Reads a hive file.
    ///
    /// # Errors
    /// The file cannot be read, and those of [`new`](Self::new).
    pub fn read(file: &Path) -> io::Result<Self> {
        Self::new(std::fs::read(file)?)
    }

    /// Writes what was changed into the file, each number by itself: with any part of them written the hive is whole. The file
    /// stays the same one, with its access list.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(file)?;
        for place in &self.changed {
            file.seek(SeekFrom::Start(*place as u64))?;
            file.write_all(&self.content[*place..place + 4])?;
        }
        file.sync_all()
    }

    fn with_key<T>(
        &self,
        path: &str,
        use_key: impl FnOnce(KeyNode<'_, &[u8]>) -> Result<T, NtHiveError>,
    ) -> io::Result<Option<T>> {
        let hive = Hive::new(self.content.as_slice()).map_err(|error| damaged(&error))?;
        let mut key = hive.root_key_node().map_err(|error| damaged(&error))?;
        for name in path.split('\\').filter(|name| !name.is_empty()) {
            match key.subkey(name) {
                None => return Ok(None),
                Some(found) => key = found.map_err(|error| damaged(&error))?,
            }
        }
        use_key(key).map(Some).map_err(|error| damaged(&error))
    }

    /// Changes a number that is there, in its place.
    ///
    /// # Errors
    /// There is no such number, or the hive is damaged. Nothing is changed.
    pub fn set_number(&mut self, key: &str, name: &str, number: u32) -> io::Result<()> {
        let base = self.content.as_ptr() as usize;
        let place = self.with_key(key, |key| {
            let Some(value) = key.value(name) else { return Ok(None) };
            let value = value?;
            value.dword_data()?;
            match value.data()? {
                KeyValueData::Small(data) => Ok(Some(data.as_ptr() as usize - base)),
                KeyValueData::Big(_) => Ok(None),
            }
        })?;
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no number {key}\\{name}"));
        let place = place.flatten().ok_or_else(missing)?;
        self.content.get_mut(place..place + 4).ok_or_else(missing)?.copy_from_slice(&number.to_le_bytes());
        self.changed.push(place);
        Ok(())
    }
}

impl Registry for HiveFile {
    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
        let found = self.with_key(key, |key| {
            let Some(value) = key.value(name) else { return Ok(None) };
            let value = value?;
            Ok(Some(Value { kind: value.data_type()? as u32, data: value.data()?.into_vec()? }))
        })?;
        Ok(found.flatten())
    }

    fn has_key(&self, key: &str) -> io::Result<bool> {
        Ok(self.with_key(key, |_| Ok(()))?.is_some())
    }

    fn subkeys(&self, key: &str) -> io::Result<Vec<String>> {
        let names = self.with_key(key, |key| {
            let Some(below) = key.subkeys() else { return Ok(Vec::new()) };
            below?.map(|key| Ok(key?.name()?.to_string_lossy())).collect()
        })?;
        Ok(names.unwrap_or_default())
    }

    fn names(&self, key: &str) -> io::Result<Vec<String>> {
        let names = self.with_key(key, |key| {
            let Some(values) = key.values() else { return Ok(Vec::new()) };
            values?.map(|value| Ok(value?.name()?.to_string_lossy())).collect()
        })?;
        Ok(names.unwrap_or_default())
    }
}
