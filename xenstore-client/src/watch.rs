//! Watches.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use xen_abi::xenstore::MessageType;

use crate::client::Inner;
use crate::{Error, Result};

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The node of that path, or something below it, may have changed. Relative if the watch is.
    Changed(String),
    /// The connection is lost: nothing comes any more.
    Disconnected,
}

/// A watch of a node and everything below it; dropping it ends it. It fires once at once.
#[derive(Debug)]
pub struct Watch {
    inner: Arc<Inner>,
    path: String,
    token: String,
    /// `None` if a callback takes the changes.
    changes: Option<Receiver<Change>>,
}

impl Watch {
    pub(crate) fn new(inner: Arc<Inner>, path: String, token: String, changes: Option<Receiver<Change>>) -> Self {
        Self { inner, path, token, changes }
    }

    /// What is watched.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Waits for a change; its path.
    ///
    /// # Errors
    /// [`Error::Disconnected`]; also at once for a watch whose changes go to a callback.
    pub fn wait(&self) -> Result<String> {
        match self.changes.as_ref().map(Receiver::recv) {
            Some(Ok(Change::Changed(path))) => Ok(path),
            _ => Err(Error::Disconnected),
        }
    }

    /// As [`Watch::wait`], at most for `timeout`.
    ///
    /// # Errors
    /// As there; [`Error::TimedOut`].
    pub fn wait_for(&self, timeout: Duration) -> Result<String> {
        match self.changes.as_ref().map(|changes| changes.recv_timeout(timeout)) {
            Some(Ok(Change::Changed(path))) => Ok(path),
            Some(Err(RecvTimeoutError::Timeout)) => Err(Error::TimedOut),
            _ => Err(Error::Disconnected),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inner.forget_watch(&self.token);
        // A lost connection has ended it already.
        let parts: [&[u8]; 4] = [self.path.as_bytes(), b"\0", self.token.as_bytes(), b"\0"];
        let _ = self.inner.request(MessageType::Unwatch, 0, &parts);
    }
}
