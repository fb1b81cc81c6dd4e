//! The registry as these tools see it: keys by path, values as bytes of a type. Paths are below `HKEY_LOCAL_MACHINE\SYSTEM`,
//! names count in either case.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// `REG_SZ`.
pub const TEXT: u32 = 1;
/// `REG_EXPAND_SZ`.
pub const EXPAND_TEXT: u32 = 2;
/// `REG_DWORD`.
pub const NUMBER: u32 = 4;
/// `REG_MULTI_SZ`.
pub const LIST: u32 = 7;

/// A value: its type as Windows numbers it, and its bytes as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// `REG_*`.
    pub kind: u32,
    /// The bytes, with the NUL that ends a text if there is one.
    pub data: Vec<u8>,
}

impl Value {
    /// A `REG_DWORD`.
    pub fn number(number: u32) -> Self {
        Self { kind: NUMBER, data: number.to_le_bytes().to_vec() }
    }

    /// A `REG_SZ`.
    pub fn text(text: &str) -> Self {
        Self { kind: TEXT, data: text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect() }
    }

    /// A `REG_MULTI_SZ`.
    pub fn list(texts: &[&str]) -> Self {
        let units = texts.iter().flat_map(|text| text.encode_utf16().chain([0])).chain([0]);
        Self { kind: LIST, data: units.flat_map(u16::to_le_bytes).collect() }
    }

    /// The number of a `REG_DWORD`.
    pub fn as_number(&self) -> Option<u32> {
        let data = (self.kind == NUMBER).then_some(self.data.as_slice())?;
        Some(u32::from_le_bytes(data.try_into().ok()?))
    }

    /// The text of a `REG_SZ` or `REG_EXPAND_SZ`, up to its first NUL.
    pub fn as_text(&self) -> Option<String> {
        matches!(self.kind, TEXT | EXPAND_TEXT).then(|| self.parts().into_iter().next().unwrap_or_default())
    }

    /// The texts of a `REG_MULTI_SZ`, without empty ones.
    pub fn as_list(&self) -> Option<Vec<String>> {
        (self.kind == LIST).then(|| self.parts().into_iter().filter(|part| !part.is_empty()).collect())
    }

    fn parts(&self) -> Vec<String> {
        let units: Vec<u16> = self.data.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        units.split(|unit| *unit == 0).map(String::from_utf16_lossy).collect()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(number) = self.as_number() {
            write!(f, "{number}")
        } else if let Some(text) = self.as_text() {
            write!(f, "\"{text}\"")
        } else if let Some(list) = self.as_list() {
            write!(f, "[{}]", list.join(", "))
        } else {
            write!(f, "type {}, {} bytes", self.kind, self.data.len())
        }
    }
}

/// Reading. A key or value that is not there is `None` or an empty list, never an error.
pub trait Registry {
    /// A value.
    ///
    /// # Errors
    /// The registry cannot be read, or is damaged.
    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>>;

    /// Whether a key is there.
    ///
    /// # Errors
    /// As [`value`](Self::value).
    fn has_key(&self, key: &str) -> io::Result<bool>;

    /// The names of the keys right below a key.
    ///
    /// # Errors
    /// As [`value`](Self::value).
    fn subkeys(&self, key: &str) -> io::Result<Vec<String>>;

    /// The names of the values of a key; the default value's is empty.
    ///
    /// # Errors
    /// As [`value`](Self::value).
    fn names(&self, key: &str) -> io::Result<Vec<String>>;
}

/// Writing.
pub trait RegistryMut: Registry {
    /// Sets a value; what of the key's path is not there is made.
    ///
    /// # Errors
    /// The registry cannot be written.
    fn set(&mut self, key: &str, name: &str, value: &Value) -> io::Result<()>;

    /// Removes a value. One that is not there is removed already.
    ///
    /// # Errors
    /// The registry cannot be written.
    fn remove(&mut self, key: &str, name: &str) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_windows_writes_them() {
        assert_eq!(Value::number(7).as_number(), Some(7));
        assert_eq!(Value { kind: NUMBER, data: vec![1, 2, 3] }.as_number(), None);
        assert_eq!(Value { kind: 3, data: vec![1, 2, 3, 4] }.as_number(), None);
        assert_eq!(Value::text("Zürich").as_text().as_deref(), Some("Zürich"));
        // Without a NUL, and with an odd byte at the end.
        assert_eq!(Value { kind: TEXT, data: b"a\0b\0c".to_vec() }.as_text().as_deref(), Some("ab"));
        assert_eq!(Value::list(&["192.0.2.1", "192.0.2.2"]).as_list().unwrap(), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(Value::list(&[]).as_list().unwrap(), [""; 0]);
        assert_eq!(Value::list(&["a", "b"]).to_string(), "[a, b]");
    }
}
