//! The connection: requests by id, and the thread that takes in what comes.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use xen_abi::xenstore::decode::{Decoder, Message};
use xen_abi::xenstore::{Header, MessageType, PAYLOAD_MAX, payload};

use crate::store::{Store, Transaction, done, text};
use crate::watch::{Change, Watch};
use crate::{Error, Result, Transport};

/// How long an answer may take, unless [`Client::set_timeout`] says otherwise. A suspend lasts longer than that only on
/// a machine in trouble.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Times that a transaction is run.
const TRIES: u32 = 32;
/// Bytes that are taken in at once.
const CHUNK: usize = 8192;

type Sink = Arc<dyn Fn(Change) + Send + Sync>;

/// What is open on the connection.
#[derive(Default)]
struct Open {
    last_id: u32,
    waiting: HashMap<u32, SyncSender<Result<Vec<u8>>>>,
    watches: HashMap<String, Sink>,
    last_watch: u64,
    lost: bool,
}

/// What the client and its watches share with the thread.
pub(crate) struct Inner {
    transport: Box<dyn Transport>,
    open: Mutex<Open>,
    /// Held while a message is sent: its bytes may not be mixed with another's.
    sending: Mutex<()>,
    /// Milliseconds.
    timeout: AtomicU64,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn request(&self, kind: MessageType, transaction: u32, parts: &[&[u8]]) -> Result<Vec<u8>> {
        let (sender, answer) = mpsc::sync_channel(1);
        let id = {
            let mut open = self.open();
            if open.lost {
                return Err(Error::Disconnected);
            }
            while open.waiting.contains_key(&open.last_id) {
                open.last_id = open.last_id.wrapping_add(1);
            }
            let id = open.last_id;
            open.last_id = id.wrapping_add(1);
            open.waiting.insert(id, sender);
            id
        };
        let sent = Header::new(kind, id, transaction, parts)
            .map_err(|_| Error::Invalid("a path, a value or a name is too long"))
            .and_then(|header| {
                let mut message = header.to_bytes().to_vec();
                for part in parts {
                    message.extend_from_slice(part);
                }
                let _one = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
                self.transport.send(&message).map_err(|error| match error.kind() {
                    io::ErrorKind::QuotaExceeded => Error::Quota,
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Error::Disconnected,
                    _ => Error::Io(error),
                })
            });
        if let Err(error) = sent {
            self.open().waiting.remove(&id);
            return Err(error);
        }
        let timeout = Duration::from_millis(self.timeout.load(Ordering::Relaxed));
        match answer.recv_timeout(timeout) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(Error::Disconnected),
            Err(RecvTimeoutError::Timeout) => {
                self.open().waiting.remove(&id);
                Err(Error::TimedOut)
            }
        }
    }

    pub(crate) fn forget_watch(&self, token: &str) {
        self.open().watches.remove(token);
    }

    /// The thread: takes in what comes, until the connection ends.
    fn take_in(&self) {
        let mut decoder = Decoder::new(vec![0; PAYLOAD_MAX]);
        let mut chunk = vec![0; CHUNK];
        'connection: loop {
            let mut rest = match self.transport.receive(&mut chunk) {
                Ok(0) => break,
                Ok(count) => &chunk[..count],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            while !rest.is_empty() {
                // A length that cannot be: the stream cannot be followed any further.
                let Ok(taken) = decoder.feed(rest) else { break 'connection };
                rest = &rest[taken..];
                if let Some(message) = decoder.message() {
                    self.dispatch(message);
                    decoder.next();
                }
            }
        }
        self.transport.shut_down();
        let (waiting, watches) = {
            let mut open = self.open();
            open.lost = true;
            (std::mem::take(&mut open.waiting), std::mem::take(&mut open.watches))
        };
        // Whoever waits finds its channel closed.
        drop(waiting);
        for sink in watches.into_values() {
            sink(Change::Disconnected);
        }
    }

    fn dispatch(&self, message: Message<'_>) {
        match message.header.message_type() {
            Some(MessageType::WatchEvent) => {
                let Ok((path, token)) = payload::watch_event(message.payload) else { return };
                let sink = std::str::from_utf8(token).ok().and_then(|token| self.open().watches.get(token).cloned());
                // One that was ended just now has nobody any more.
                if let Some(sink) = sink {
                    sink(Change::Changed(String::from_utf8_lossy(path).into_owned()));
                }
            }
            kind => {
                // One that came too late has nobody any more.
                let Some(waiter) = self.open().waiting.remove(&message.header.req_id) else { return };
                let answer = match kind {
                    Some(MessageType::Error) => Err(match payload::error(message.payload) {
                        Ok(errno) => Error::Store(errno),
                        Err(malformed) => malformed.into(),
                    }),
                    _ => Ok(message.payload.to_vec()),
                };
                // The waiter may have given up just now.
                let _ = waiter.send(answer);
            }
        }
    }
}

/// A connection to xenstore. See the crate's description.
#[derive(Debug)]
pub struct Client {
    inner: Arc<Inner>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// A client over a connected transport.
    ///
    /// # Errors
    /// [`Error::Io`]: no thread can be made.
    pub fn new(transport: impl Transport) -> Result<Self> {
        let inner = Arc::new(Inner {
            transport: Box::new(transport),
            open: Mutex::default(),
            sending: Mutex::new(()),
            timeout: AtomicU64::new(ANSWER_TIME.as_millis() as u64),
        });
        let theirs = Arc::clone(&inner);
        let thread =
            std::thread::Builder::new().name("xenstore".into()).spawn(move || theirs.take_in()).map_err(Error::Io)?;
        Ok(Self { inner, thread: Some(thread) })
    }

    /// A client of the first Xen platform device that works.
    ///
    /// # Errors
    /// [`Error::NoDevice`], [`Error::AccessDenied`], [`Error::Io`].
    #[cfg(windows)]
    pub fn open() -> Result<Self> {
        Self::new(crate::Device::open()?)
    }

    /// A client of a xenstored's socket.
    ///
    /// # Errors
    /// [`Error::Io`].
    #[cfg(unix)]
    pub fn connect_unix(path: impl AsRef<std::path::Path>) -> Result<Self> {
        Self::new(std::os::unix::net::UnixStream::connect(path).map_err(Error::Io)?)
    }

    /// How long an answer may take from now on; 30 seconds unless this is called.
    pub fn set_timeout(&self, timeout: Duration) {
        self.inner.timeout.store(timeout.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether the connection stands.
    pub fn is_connected(&self) -> bool {
        !self.inner.open().lost
    }

    /// Watches a node and everything below it.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Quota`].
    pub fn watch(&self, path: &str) -> Result<Watch> {
        let (sender, changes) = mpsc::channel();
        // A watch that was dropped takes no more.
        let sink = move |change| drop(sender.send(change));
        self.set_watch(path, Arc::new(sink), Some(changes))
    }

    /// Watches a node and everything below it; `callback` is called on the connection's own thread for each change, and
    /// at last when the connection is lost. It must not call this client: it sends a message to who does.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Quota`].
    pub fn watch_with(&self, path: &str, callback: impl Fn(Change) + Send + Sync + 'static) -> Result<Watch> {
        self.set_watch(path, Arc::new(callback), None)
    }

    fn set_watch(&self, path: &str, sink: Sink, changes: Option<mpsc::Receiver<Change>>) -> Result<Watch> {
        let bytes = text(path)?;
        let token = {
            let mut open = self.inner.open();
            open.last_watch += 1;
            let token = open.last_watch.to_string();
            // Before xenstored knows: its first event follows the answer at once.
            open.watches.insert(token.clone(), sink);
            token
        };
        if let Err(error) = done(self.inner.request(MessageType::Watch, 0, &[bytes, b"\0", token.as_bytes(), b"\0"])) {
            self.inner.forget_watch(&token);
            return Err(error);
        }
        Ok(Watch::new(Arc::clone(&self.inner), path.to_owned(), token, changes))
    }

    /// Runs `body` in a transaction and commits it, again as long as somebody else interferes, 32 times at most.
    ///
    /// # Errors
    /// The last error: the body's, or that of ending the transaction.
    pub fn transaction<T>(&self, mut body: impl FnMut(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut tries = 1;
        loop {
            let transaction = Transaction::begin(self)?;
            let outcome = match body(&transaction) {
                Ok(value) => transaction.commit().map(|()| value),
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    pub(crate) fn send(&self, kind: MessageType, transaction: u32, parts: &[&[u8]]) -> Result<Vec<u8>> {
        self.inner.request(kind, transaction, parts)
    }
}

impl Store for Client {
    fn request(&self, kind: MessageType, parts: &[&[u8]]) -> Result<Vec<u8>> {
        self.send(kind, 0, parts)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.inner.transport.shut_down();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // It ends by itself; a callback that panicked has said so.
            let _ = thread.join();
        }
    }
}
