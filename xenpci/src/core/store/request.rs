//! One request of xenstore, with all the memory that it will need, and why it may have no answer.

use alloc::vec::Vec;

use xen_abi::errno::Errno;
use xen_abi::xenstore::payload;
use xen_abi::xenstore::{HEADER_SIZE, Header, MessageType, PAYLOAD_MAX, TooLong};

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// xenstored's answer is an error.
    Answer(Errno),
    /// The answer is not one to this request, or not of its form.
    Protocol,
    /// No answer came within the wait's bound.
    TimedOut,
    /// Too many requests, transactions or watches: try again.
    Busy,
    /// There is no memory.
    NoMemory,
    /// The request is longer than the protocol allows.
    TooLong,
    /// The connection is lost: xenstored's indices or lengths are impossible, or there is none.
    Disconnected,
}

impl From<TooLong> for StoreError {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

impl From<payload::Malformed> for StoreError {
    fn from(_: payload::Malformed) -> Self {
        Self::Protocol
    }
}

impl core::fmt::Display for StoreError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Answer(errno) => write!(f, "xenstore: {errno}"),
            Self::Protocol => f.write_str("xenstore: the answer does not fit the request"),
            Self::TimedOut => f.write_str("xenstore: no answer in time"),
            Self::Busy => f.write_str("xenstore: too many requests"),
            Self::NoMemory => f.write_str("xenstore: no memory"),
            Self::TooLong => f.write_str("xenstore: the request is too long"),
            Self::Disconnected => f.write_str("xenstore: not connected"),
        }
    }
}

/// Number of a transaction, [`NO_TRANSACTION`] or one that [`transaction_start`] returned.
pub type Transaction = u32;
/// Not in a transaction.
pub const NO_TRANSACTION: Transaction = 0;

/// A request with all the memory that it will need.
#[derive(Debug)]
pub struct Request {
    pub(super) kind: MessageType,
    pub(super) transaction: Transaction,
    /// The message as it goes over the wire.
    pub(super) message: Vec<u8>,
    /// The reply's payload.
    pub(super) reply: Vec<u8>,
}

impl Request {
    /// A request whose payload is `parts`, one behind the other. Allocates; IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`StoreError::TooLong`], [`StoreError::NoMemory`].
    pub fn new(kind: MessageType, transaction: Transaction, parts: &[&[u8]]) -> Result<Self, StoreError> {
        let header = Header::new(kind, 0, 0, parts)?;
        let mut message = Vec::new();
        // Room for a `TransactionEnd` in any case, see `StoreClient::undo_transaction`.
        let room = (HEADER_SIZE + header.len as usize).max(HEADER_SIZE + 2);
        message.try_reserve_exact(room).map_err(|_| StoreError::NoMemory)?;
        let mut reply = Vec::new();
        reply.try_reserve_exact(PAYLOAD_MAX).map_err(|_| StoreError::NoMemory)?;
        message.extend_from_slice(&header.to_bytes());
        for part in parts {
            message.extend_from_slice(part);
        }
        Ok(Self { kind, transaction, message, reply })
    }

    /// As [`Request::new`], outside of a transaction, for [`StoreClient::submit_for_nobody`]: without room for an answer.
    ///
    /// # Errors
    /// As there.
    pub fn for_nobody(kind: MessageType, parts: &[&[u8]]) -> Result<Self, StoreError> {
        let mut request = Self::new(kind, NO_TRANSACTION, parts)?;
        request.reply = Vec::new();
        Ok(request)
    }

    /// Puts it into a transaction. Any IRQL.
    pub fn put_into(&mut self, transaction: Transaction) {
        self.transaction = transaction;
    }

    /// Writes id and xenstored's transaction number into the message.
    pub(super) fn address(&mut self, id: u32, tx_id: u32) {
        let header =
            Header { kind: self.kind.number(), req_id: id, tx_id, len: (self.message.len() - HEADER_SIZE) as u32 };
        self.message[..HEADER_SIZE].copy_from_slice(&header.to_bytes());
    }
}
