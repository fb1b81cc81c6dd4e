//! What is asked of a store that can be waited for: one function a request, and transactions that run again.

use alloc::vec::Vec;

use xen_abi::errno::Errno;
use xen_abi::xenstore::MessageType;
use xen_abi::xenstore::payload::{self, Decimal, decimal};

use super::{NO_TRANSACTION, StoreError, Transaction, WatchId};

/// A store that can be waited for. The Windows half implements it with a bounded wait; IRQL = PASSIVE_LEVEL, as for
/// every function below that takes one.
pub trait Store {
    /// Sends a request whose payload is `parts`, one behind the other, and waits for the answer's payload.
    ///
    /// # Errors
    /// [`StoreError`].
    fn request(&self, kind: MessageType, transaction: Transaction, parts: &[&[u8]]) -> Result<Vec<u8>, StoreError>;
}

/// A node's value.
///
/// # Errors
/// [`StoreError`]; `ENOENT` if there is no such node.
pub fn read<S: Store + ?Sized>(store: &S, transaction: Transaction, path: &[u8]) -> Result<Vec<u8>, StoreError> {
    store.request(MessageType::Read, transaction, &[path, b"\0"])
}

/// A node's value, if it is a decimal number.
///
/// # Errors
/// [`StoreError`]; [`StoreError::Protocol`] if it is no number.
pub fn read_number<S: Store + ?Sized>(store: &S, transaction: Transaction, path: &[u8]) -> Result<u64, StoreError> {
    Ok(payload::number(&read(store, transaction, path)?)?)
}

fn acknowledged(reply: Result<Vec<u8>, StoreError>) -> Result<(), StoreError> {
    Ok(payload::ok(&reply?)?)
}

/// Writes a node, which is made if it does not exist.
///
/// # Errors
/// [`StoreError`].
pub fn write<S: Store + ?Sized>(
    store: &S,
    transaction: Transaction,
    path: &[u8],
    value: &[u8],
) -> Result<(), StoreError> {
    acknowledged(store.request(MessageType::Write, transaction, &[path, b"\0", value]))
}

/// Removes a node and everything below it.
///
/// # Errors
/// [`StoreError`]; `ENOENT` if there is no such node.
pub fn remove<S: Store + ?Sized>(store: &S, transaction: Transaction, path: &[u8]) -> Result<(), StoreError> {
    acknowledged(store.request(MessageType::Rm, transaction, &[path, b"\0"]))
}

/// Times that a directory that changes under way is read again.
const DIRECTORY_TRIES: u32 = 8;
/// Longest directory that is read, in bytes.
const DIRECTORY_MAX: usize = 256 * 1024;

/// Names below a node, each with a NUL at its end ([`payload::directory`] takes them apart). One that does not fit into
/// a reply is read in parts.
///
/// # Errors
/// [`StoreError`]; `EAGAIN` if it changes all the time, `E2BIG` if it is longer than 256 KiB.
pub fn directory<S: Store + ?Sized>(store: &S, transaction: Transaction, path: &[u8]) -> Result<Vec<u8>, StoreError> {
    match store.request(MessageType::Directory, transaction, &[path, b"\0"]) {
        Err(StoreError::Answer(Errno::E2BIG)) => {}
        reply => {
            let names = reply?;
            payload::directory(&names)?;
            return Ok(names);
        }
    }
    for _ in 0..DIRECTORY_TRIES {
        if let Some(names) = directory_in_parts(store, transaction, path)? {
            return Ok(names);
        }
    }
    Err(StoreError::Answer(Errno::EAGAIN))
}

/// `None` if the directory changed between two parts.
fn directory_in_parts<S: Store + ?Sized>(
    store: &S,
    transaction: Transaction,
    path: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    let mut names: Vec<u8> = Vec::new();
    let mut generation = None;
    loop {
        let mut room = Decimal::default();
        let offset = decimal(names.len() as u32, &mut room);
        let reply = store.request(MessageType::DirectoryPart, transaction, &[path, b"\0", offset, b"\0"])?;
        let part = payload::directory_part(&reply)?;
        if *generation.get_or_insert(part.generation) != part.generation {
            return Ok(None);
        }
        let bytes = part.names.as_bytes();
        if names.len() + bytes.len() > DIRECTORY_MAX {
            return Err(StoreError::Answer(Errno::E2BIG));
        }
        names.try_reserve(bytes.len()).map_err(|_| StoreError::NoMemory)?;
        names.extend_from_slice(bytes);
        if part.last {
            return Ok(Some(names));
        }
    }
}

/// Sets a watch that [`StoreClient::add_watch`] has an entry for. It fires once at once.
///
/// # Errors
/// [`StoreError`].
pub fn watch<S: Store + ?Sized>(store: &S, path: &[u8], watch: WatchId) -> Result<(), StoreError> {
    acknowledged(store.request(MessageType::Watch, NO_TRANSACTION, &[path, b"\0", &watch.token(), b"\0"]))
}

/// Ends a watch.
///
/// # Errors
/// [`StoreError`]; `ENOENT` if xenstored does not have it.
pub fn unwatch<S: Store + ?Sized>(store: &S, path: &[u8], watch: WatchId) -> Result<(), StoreError> {
    acknowledged(store.request(MessageType::Unwatch, NO_TRANSACTION, &[path, b"\0", &watch.token(), b"\0"]))
}

/// Ends all watches and transactions that an earlier driver left behind.
///
/// # Errors
/// [`StoreError`]; `ENOSYS` or `EINVAL` of a xenstored that does not know the request.
pub fn reset_watches<S: Store + ?Sized>(store: &S) -> Result<(), StoreError> {
    acknowledged(store.request(MessageType::ResetWatches, NO_TRANSACTION, &[b"\0"]))
}

/// Begins a transaction.
///
/// # Errors
/// [`StoreError`].
pub fn transaction_start<S: Store + ?Sized>(store: &S) -> Result<Transaction, StoreError> {
    let reply = store.request(MessageType::TransactionStart, NO_TRANSACTION, &[b"\0"])?;
    Ok(payload::transaction_id(&reply)?)
}

/// Ends a transaction.
///
/// # Errors
/// [`StoreError`]; `EAGAIN`: somebody else changed what it has read, nothing was written, run it again.
pub fn transaction_end<S: Store + ?Sized>(store: &S, transaction: Transaction, commit: bool) -> Result<(), StoreError> {
    let what: &[u8] = if commit { b"T\0" } else { b"F\0" };
    acknowledged(store.request(MessageType::TransactionEnd, transaction, &[what]))
}

/// Runs `body` in a transaction, again as long as that ends with `EAGAIN`, at most `tries` times.
///
/// # Errors
/// The last error: `body`'s, or that of ending the transaction.
pub fn transaction<S: Store + ?Sized, T>(
    store: &S,
    tries: u32,
    mut body: impl FnMut(&S, Transaction) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    const AGAIN: StoreError = StoreError::Answer(Errno::EAGAIN);
    let mut last = AGAIN;
    for _ in 0..tries {
        let number = transaction_start(store)?;
        let result = body(store, number);
        let ended = transaction_end(store, number, result.is_ok());
        match (result, ended) {
            (Ok(value), Ok(())) => return Ok(value),
            (Ok(_), Err(error)) | (Err(error), _) if error == AGAIN => last = error,
            (Ok(_), Err(error)) | (Err(error), _) => return Err(error),
        }
    }
    Err(last)
}
