//! The page over which a guest and xenstored talk: two rings of 1024 bytes (`struct xenstore_domain_interface`).
//!
//! Each side checks the other's indices: a distance above 1024 is an error, and nothing is read or written.
//! No function waits or allocates. Any IRQL; one processor at a time uses one end (`&mut self`).

use core::sync::atomic::{Ordering, fence};

use crate::shared::SharedMemory;

/// Bytes of either ring.
pub const RING_SIZE: u32 = 1024;
/// Offset of the requests.
pub const OFFSET_REQ: usize = 0;
/// Offset of the replies and watch events.
pub const OFFSET_RSP: usize = 1024;
/// Offset of xenstored's index into the requests.
pub const OFFSET_REQ_CONS: usize = 2048;
/// Offset of the guest's index into the requests.
pub const OFFSET_REQ_PROD: usize = 2052;
/// Offset of the guest's index into the replies.
pub const OFFSET_RSP_CONS: usize = 2056;
/// Offset of xenstored's index into the replies.
pub const OFFSET_RSP_PROD: usize = 2060;
/// Offset of [`ServerFeatures`].
pub const OFFSET_SERVER_FEATURES: usize = 2064;
/// Offset of the connection's state: [`CONNECTED`] or [`RECONNECT`].
pub const OFFSET_CONNECTION: usize = 2068;
/// Offset of the reason why xenstored gave the connection up.
pub const OFFSET_ERROR: usize = 2072;
/// Bytes of the structure.
pub const INTERFACE_SIZE: usize = 2076;

/// `XENSTORE_CONNECTED`.
pub const CONNECTED: u32 = 0;
/// `XENSTORE_RECONNECT`: the guest asked for a new connection; xenstored has not made it yet.
pub const RECONNECT: u32 = 1;

/// `XENSTORE_ERROR_NONE`.
pub const ERROR_NONE: u32 = 0;
/// `XENSTORE_ERROR_COMM`.
pub const ERROR_COMM: u32 = 1;
/// `XENSTORE_ERROR_RINGIDX`.
pub const ERROR_RINGIDX: u32 = 2;
/// `XENSTORE_ERROR_PROTO`.
pub const ERROR_PROTO: u32 = 3;

bitflags::bitflags! {
    /// What xenstored can do with the page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ServerFeatures: u32 {
        /// The connection can be made anew.
        const RECONNECTION = 1;
        /// The error field exists.
        const ERROR = 2;
    }
}

/// The peer's index is further from ours than the ring is long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIndex;

/// One direction of the page, as its producer or its consumer sees it.
#[derive(Clone, Copy, Debug)]
struct Stream {
    data: usize,
    producer: usize,
    consumer: usize,
}

const REQUESTS: Stream = Stream { data: OFFSET_REQ, producer: OFFSET_REQ_PROD, consumer: OFFSET_REQ_CONS };
const REPLIES: Stream = Stream { data: OFFSET_RSP, producer: OFFSET_RSP_PROD, consumer: OFFSET_RSP_CONS };

impl Stream {
    /// Writes as much of `data` as there is room for. `own` is our producer index, kept outside of shared memory.
    fn write<M: SharedMemory>(self, memory: &M, own: &mut u32, data: &[u8]) -> Result<usize, BadIndex> {
        let used = own.wrapping_sub(memory.load_u32(self.consumer));
        if used > RING_SIZE {
            return Err(BadIndex);
        }
        // The peer has read what lies behind its index before we write over it.
        fence(Ordering::SeqCst);
        let count = data.len().min((RING_SIZE - used) as usize);
        let start = (*own % RING_SIZE) as usize;
        let first = count.min(RING_SIZE as usize - start);
        memory.write(self.data + start, &data[..first]);
        memory.write(self.data, &data[first..count]);
        // The bytes go before the index.
        fence(Ordering::Release);
        *own = own.wrapping_add(count as u32);
        memory.store_u32(self.producer, *own);
        Ok(count)
    }

    /// Reads as much as there is and `out` holds. `own` is our consumer index, kept outside of shared memory.
    fn read<M: SharedMemory>(self, memory: &M, own: &mut u32, out: &mut [u8]) -> Result<usize, BadIndex> {
        let available = memory.load_u32(self.producer).wrapping_sub(*own);
        if available > RING_SIZE {
            return Err(BadIndex);
        }
        // The index is read before the bytes.
        fence(Ordering::Acquire);
        let count = out.len().min(available as usize);
        let start = (*own % RING_SIZE) as usize;
        let first = count.min(RING_SIZE as usize - start);
        memory.read(self.data + start, &mut out[..first]);
        memory.read(self.data, &mut out[first..count]);
        // The bytes are read before the peer may write over them.
        fence(Ordering::SeqCst);
        *own = own.wrapping_add(count as u32);
        memory.store_u32(self.consumer, *own);
        Ok(count)
    }
}

/// The guest's end.
#[derive(Debug)]
pub struct GuestEnd<M: SharedMemory> {
    memory: M,
    req_prod: u32,
    rsp_cons: u32,
}

impl<M: SharedMemory> GuestEnd<M> {
    /// Takes the page over as it is: goes on where its own indices stand. Replies that lie there from an earlier user
    /// of the page are dropped with [`discard_replies`](Self::discard_replies).
    pub fn attach(memory: M) -> Self {
        let req_prod = memory.load_u32(OFFSET_REQ_PROD);
        let rsp_cons = memory.load_u32(OFFSET_RSP_CONS);
        Self { memory, req_prod, rsp_cons }
    }

    /// The page.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Writes as much of a request as there is room for; the number of bytes. Then xenstored is to be notified.
    ///
    /// # Errors
    /// [`BadIndex`].
    pub fn write(&mut self, data: &[u8]) -> Result<usize, BadIndex> {
        REQUESTS.write(&self.memory, &mut self.req_prod, data)
    }

    /// Reads as many bytes as there are, at most `out.len()`; their number. Then xenstored is to be notified.
    ///
    /// # Errors
    /// [`BadIndex`].
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, BadIndex> {
        REPLIES.read(&self.memory, &mut self.rsp_cons, out)
    }

    /// Drops whatever xenstored has sent and nobody has read.
    pub fn discard_replies(&mut self) {
        self.rsp_cons = self.memory.load_u32(OFFSET_RSP_PROD);
        self.memory.store_u32(OFFSET_RSP_CONS, self.rsp_cons);
    }

    /// Whether xenstored has taken every byte that was written.
    pub fn requests_taken(&self) -> bool {
        self.memory.load_u32(OFFSET_REQ_CONS) == self.req_prod
    }

    /// What xenstored can do.
    pub fn server_features(&self) -> ServerFeatures {
        ServerFeatures::from_bits_truncate(self.memory.load_u32(OFFSET_SERVER_FEATURES))
    }

    /// Why xenstored gave the connection up; 0 if it did not, or does not say.
    pub fn server_error(&self) -> u32 {
        if self.server_features().contains(ServerFeatures::ERROR) { self.memory.load_u32(OFFSET_ERROR) } else { 0 }
    }

    /// Asks xenstored for a new connection; it drops everything of the old one, sets all indices to zero and then the
    /// state to [`CONNECTED`]. xenstored is to be notified. `false`: it cannot do that.
    #[must_use]
    pub fn request_reconnect(&mut self) -> bool {
        if !self.server_features().contains(ServerFeatures::RECONNECTION) {
            return false;
        }
        self.memory.store_u32(OFFSET_CONNECTION, RECONNECT);
        true
    }

    /// Whether the connection asked for is there; takes the new indices over if so.
    pub fn reconnected(&mut self) -> bool {
        if self.memory.load_u32(OFFSET_CONNECTION) != CONNECTED {
            return false;
        }
        fence(Ordering::Acquire);
        self.req_prod = self.memory.load_u32(OFFSET_REQ_PROD);
        self.rsp_cons = self.memory.load_u32(OFFSET_RSP_CONS);
        true
    }
}

/// xenstored's end.
#[derive(Debug)]
pub struct ServerEnd<M: SharedMemory> {
    memory: M,
    req_cons: u32,
    rsp_prod: u32,
}

impl<M: SharedMemory> ServerEnd<M> {
    /// Takes the page over as it is.
    pub fn attach(memory: M) -> Self {
        let req_cons = memory.load_u32(OFFSET_REQ_CONS);
        let rsp_prod = memory.load_u32(OFFSET_RSP_PROD);
        Self { memory, req_cons, rsp_prod }
    }

    /// The page.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Reads as many bytes as there are, at most `out.len()`; their number.
    ///
    /// # Errors
    /// [`BadIndex`].
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, BadIndex> {
        REQUESTS.read(&self.memory, &mut self.req_cons, out)
    }

    /// Writes as much of a reply or an event as there is room for; the number of bytes.
    ///
    /// # Errors
    /// [`BadIndex`].
    pub fn write(&mut self, data: &[u8]) -> Result<usize, BadIndex> {
        REPLIES.write(&self.memory, &mut self.rsp_prod, data)
    }

    /// Says what this server can do.
    pub fn set_features(&mut self, features: ServerFeatures) {
        self.memory.store_u32(OFFSET_SERVER_FEATURES, features.bits());
    }

    /// Says why the connection is given up.
    pub fn set_error(&mut self, error: u32) {
        self.memory.store_u32(OFFSET_ERROR, error);
    }

    /// Whether the guest asks for a new connection.
    pub fn reconnect_requested(&self) -> bool {
        self.memory.load_u32(OFFSET_CONNECTION) == RECONNECT
    }

    /// Makes a new connection: all indices zero, no error, then [`CONNECTED`].
    pub fn reconnect(&mut self) {
        for offset in [OFFSET_REQ_CONS, OFFSET_REQ_PROD, OFFSET_RSP_CONS, OFFSET_RSP_PROD, OFFSET_ERROR] {
            self.memory.store_u32(offset, 0);
        }
        (self.req_cons, self.rsp_prod) = (0, 0);
        fence(Ordering::Release);
        self.memory.store_u32(OFFSET_CONNECTION, CONNECTED);
    }
}
