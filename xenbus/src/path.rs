//! Store paths of bounded length, built without allocation.

/// The longest absolute path that xenstore takes (`XENSTORE_ABS_PATH_MAX` is 3072) is far longer than any path of a
/// device; this is room enough for those.
pub const MAX: usize = 128;

/// A path, built by joining parts.
#[derive(Clone, Copy)]
pub struct Path {
    bytes: [u8; MAX],
    len: usize,
}

/// The path does not fit into [`MAX`] bytes, or has bytes that xenstore does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPath;

impl Path {
    /// A path of its own.
    ///
    /// # Errors
    /// [`BadPath`].
    pub fn new(path: &[u8]) -> Result<Self, BadPath> {
        Self { bytes: [0; MAX], len: 0 }.append(path)
    }

    /// This path, a slash, and `part`.
    ///
    /// # Errors
    /// [`BadPath`].
    pub fn join(&self, part: &str) -> Result<Self, BadPath> {
        self.append(b"/")?.append(part.as_bytes())
    }

    /// The bytes, without a NUL.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    fn append(mut self, part: &[u8]) -> Result<Self, BadPath> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
        let end = self.len + part.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(BadPath)?;
        if !part.iter().all(allowed) {
            return Err(BadPath);
        }
        room.copy_from_slice(part);
        self.len = end;
        Ok(self)
    }
}

impl core::fmt::Display for Path {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(core::str::from_utf8(self.as_bytes()).unwrap_or("?"))
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn joins_and_refuses() {
        let base = Path::new(b"/local/domain/0/backend/vbd/1/51712").unwrap();
        assert_eq!(base.join("state").unwrap().to_string(), "/local/domain/0/backend/vbd/1/51712/state");
        assert!(Path::new(&[b'a'; MAX + 1]).is_err());
        assert!(Path::new(b"a\0b").is_err());
        assert!(Path::new(&[b'a'; MAX]).unwrap().join("x").is_err());
    }
}
