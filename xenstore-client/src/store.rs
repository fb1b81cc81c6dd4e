//! What can be asked of xenstore, in a transaction or outside.

use xen_abi::errno::Errno;
use xen_abi::xenstore::{MessageType, payload};

use crate::client::Client;
use crate::{Error, Result};

/// Longest directory that is read, in bytes.
const DIRECTORY_MAX: usize = 1 << 20;
/// Times that a directory that changes under way is read again.
const DIRECTORY_TRIES: u32 = 8;

/// Where requests go: a [`Client`] or a [`Transaction`]. Relative paths are below the domain's own home.
pub trait Store {
    /// Sends a request whose payload is `parts`, one behind the other, and waits for the answer's payload.
    ///
    /// # Errors
    /// [`Error`].
    fn request(&self, kind: MessageType, parts: &[&[u8]]) -> Result<Vec<u8>>;

    /// A node's value.
    ///
    /// # Errors
    /// [`Error`]; see [`Error::is_not_found`].
    fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.request(MessageType::Read, &[text(path)?, b"\0"])
    }

    /// A node's value as text.
    ///
    /// # Errors
    /// [`Error`]; [`Error::NotText`].
    fn read_string(&self, path: &str) -> Result<String> {
        String::from_utf8(self.read(path)?).map_err(|_| Error::NotText)
    }

    /// Whether there is such a node.
    ///
    /// # Errors
    /// [`Error`], but not for a node that is not there.
    fn exists(&self, path: &str) -> Result<bool> {
        match self.read(path) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a node, which is made if it does not exist.
    ///
    /// # Errors
    /// [`Error`].
    fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<()>
    where
        Self: Sized,
    {
        done(self.request(MessageType::Write, &[text(path)?, b"\0", value.as_ref()]))
    }

    /// Makes an empty node; one that exists stays as it is.
    ///
    /// # Errors
    /// [`Error`].
    fn make_dir(&self, path: &str) -> Result<()> {
        done(self.request(MessageType::Mkdir, &[text(path)?, b"\0"]))
    }

    /// Removes a node and everything below it. One that is not there is removed already.
    ///
    /// # Errors
    /// [`Error`].
    fn remove(&self, path: &str) -> Result<()> {
        match done(self.request(MessageType::Rm, &[text(path)?, b"\0"])) {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome,
        }
    }

    /// The names below a node.
    ///
    /// # Errors
    /// [`Error`]; `EAGAIN` if they change all the time.
    fn list(&self, path: &str) -> Result<Vec<String>> {
        let path = text(path)?;
        match self.request(MessageType::Directory, &[path, b"\0"]) {
            Err(Error::Store(Errno::E2BIG)) => {}
            reply => return names(&reply?),
        }
        for _ in 0..DIRECTORY_TRIES {
            if let Some(list) = in_parts(self, path)? {
                return names(&list);
            }
        }
        Err(Error::Store(Errno::EAGAIN))
    }
}

/// `None` if the directory changed between two parts.
fn in_parts<S: Store + ?Sized>(store: &S, path: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut names = Vec::new();
    let mut generation = None;
    loop {
        let offset = names.len().to_string();
        let reply = store.request(MessageType::DirectoryPart, &[path, b"\0", offset.as_bytes(), b"\0"])?;
        let part = payload::directory_part(&reply)?;
        if *generation.get_or_insert(part.generation) != part.generation {
            return Ok(None);
        }
        names.extend_from_slice(part.names.as_bytes());
        if part.last {
            return Ok(Some(names));
        }
        if names.len() > DIRECTORY_MAX {
            return Err(Error::Store(Errno::E2BIG));
        }
    }
}

fn names(list: &[u8]) -> Result<Vec<String>> {
    let text = |name: &[u8]| String::from_utf8(name.to_vec()).map_err(|_| Error::NotText);
    payload::directory(list)?.map(text).collect()
}

/// A path as it is sent.
pub(crate) fn text(path: &str) -> Result<&[u8]> {
    if path.is_empty() || path.bytes().any(|byte| byte == 0) {
        return Err(Error::Invalid("a path is empty or has a NUL in it"));
    }
    Ok(path.as_bytes())
}

/// The reply of a request that has none but `OK`.
pub(crate) fn done(reply: Result<Vec<u8>>) -> Result<()> {
    Ok(payload::ok(&reply?)?)
}

/// An open transaction: what is written through it is seen by nobody else until it is committed. Dropped without
/// [`commit`](Self::commit) it changes nothing.
#[derive(Debug)]
pub struct Transaction<'c> {
    client: &'c Client,
    id: u32,
    open: bool,
}

impl<'c> Transaction<'c> {
    /// Begins one. [`Client::transaction`] also runs it again where that is due.
    ///
    /// # Errors
    /// [`Error`].
    pub fn begin(client: &'c Client) -> Result<Self> {
        let reply = client.send(MessageType::TransactionStart, 0, &[b"\0"])?;
        Ok(Self { client, id: payload::transaction_id(&reply)?, open: true })
    }

    /// Has all of it done at once.
    ///
    /// # Errors
    /// [`Error`]; see [`Error::is_conflict`]: nothing was done.
    pub fn commit(mut self) -> Result<()> {
        self.end(b"T\0")
    }

    fn end(&mut self, how: &[u8]) -> Result<()> {
        self.open = false;
        done(self.client.send(MessageType::TransactionEnd, self.id, &[how]))
    }
}

impl Store for Transaction<'_> {
    fn request(&self, kind: MessageType, parts: &[&[u8]]) -> Result<Vec<u8>> {
        self.client.send(kind, self.id, parts)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.open {
            // A lost connection has ended it already.
            let _ = self.end(b"F\0");
        }
    }
}
