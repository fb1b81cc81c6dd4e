//! The client of xenstore: many requests in flight, replies found by their id, watches, transactions.
//!
//! [`StoreClient`] owns the guest's end of the store page and everything in flight. It never waits: the Windows half
//! keeps it behind a spin lock, calls [`StoreClient::pump`] after each submission and from the event channel's DPC, and
//! does the waiting in its implementation of [`Store`], on which the blocking functions at the end of this file stand
//! ([`read`], [`write`], [`directory`], [`transaction`]).
//!
//! What comes from the other side is checked always: indices, lengths, ids, types. Tokens of watches are numbers with a
//! generation, never pointers. Nothing is allocated while a request is in flight; its buffers are made beforehand, by
//! [`Request::new`].
//!
//! Transactions have numbers of our own towards callers. So one that was begun before a migration is told apart from
//! a new one to which the new xenstored gave the same number: the old one's requests end with `EAGAIN`.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use xen_abi::errno::Errno;
use xen_abi::shared::SharedMemory;
use xen_abi::xenstore::decode::{Decoder, Message};
use xen_abi::xenstore::payload::{self, Decimal, decimal};
use xen_abi::xenstore::ring::GuestEnd;
use xen_abi::xenstore::{HEADER_SIZE, Header, MessageType, PAYLOAD_MAX, TooLong};

/// Requests that may be in flight.
pub const MAX_IN_FLIGHT: usize = 64;
/// Transactions that may be open. xenstored's own limit is ten as a rule.
pub const MAX_TRANSACTIONS: usize = 64;
/// Watches that may be registered. xenstored's own limit is 128 as a rule.
pub const MAX_WATCHES: usize = 1024;
/// Watch events that are kept until someone takes them. Beyond that only which watches fired is remembered.
pub const MAX_EVENTS: usize = 1024;
/// Of these, how many may be one watch's: no watch that fires and fires takes another's place.
pub const MAX_EVENTS_OF_WATCH: usize = 8;
/// Messages that one [`StoreClient::pump`] takes in at most.
const PUMP_MESSAGES: u32 = 64;

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
    kind: MessageType,
    transaction: Transaction,
    /// The message as it goes over the wire.
    message: Vec<u8>,
    /// The reply's payload.
    reply: Vec<u8>,
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
    fn address(&mut self, id: u32, tx_id: u32) {
        let header =
            Header { kind: self.kind.number(), req_id: id, tx_id, len: (self.message.len() - HEADER_SIZE) as u32 };
        self.message[..HEADER_SIZE].copy_from_slice(&header.to_bytes());
    }
}

/// Names a request in flight. Its last eight bits are the slot, the others a sequence: an answer that comes too late
/// finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(u32);

impl RequestId {
    /// The slot, below [`MAX_IN_FLIGHT`]: where the Windows half keeps what its waiter waits on.
    pub fn slot(self) -> usize {
        (self.0 & 0xFF) as usize
    }
}

#[derive(Debug)]
enum State {
    Free,
    /// Nothing of it was written yet.
    Queued,
    /// Part of it was written.
    Sending(usize),
    /// All of it was written.
    Sent,
    Answered(Result<(), StoreError>),
}

#[derive(Debug)]
struct Slot {
    state: State,
    id: u32,
    /// Order of submission.
    ticket: u64,
    /// Nobody waits any more.
    abandoned: bool,
    request: Option<Request>,
}

/// Names a watch. Its last ten bits are the place in the table, the others a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchId(u32);

/// A watch's token, as it goes over the wire.
pub type Token = [u8; 8];

impl WatchId {
    /// The token: eight hexadecimal digits.
    pub fn token(self) -> Token {
        let mut token = [0; 8];
        for (place, digit) in token.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(self.0 >> (28 - 4 * place)) as usize & 0xF];
        }
        token
    }

    /// The watch that a token names.
    pub fn from_token(token: &[u8]) -> Option<Self> {
        if token.len() != 8 {
            return None;
        }
        token
            .iter()
            .try_fold(0_u32, |value, byte| match byte {
                b'0'..=b'9' => Some(value << 4 | u32::from(byte - b'0')),
                b'a'..=b'f' => Some(value << 4 | u32::from(byte - b'a' + 10)),
                _ => None,
            })
            .map(Self)
    }

    fn index(self) -> usize {
        (self.0 & 0x3FF) as usize
    }
}

#[derive(Debug)]
struct Watch {
    id: WatchId,
    path: Vec<u8>,
    /// Its events that wait.
    waiting: usize,
    /// It fired, but there was no room to remember where.
    lost: bool,
}

/// A watch that fired.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// Which watch.
    pub watch: WatchId,
    /// What changed, as xenstored says it: relative if the watch is.
    pub path: Vec<u8>,
}

/// What [`StoreClient::pump`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Pumped {
    /// Send an event to xenstored.
    pub notify: bool,
    /// Watch events wait: see [`StoreClient::next_event`].
    pub events: bool,
    /// There is more to take in: call again, from a fresh DPC.
    pub more: bool,
}

/// What was odd, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Replies that nobody waits for.
    pub stray_replies: u32,
    /// Events of watches that are not registered.
    pub stray_events: u32,
    /// Messages that are not of their form.
    pub malformed: u32,
}

/// The client.
#[derive(Debug)]
pub struct StoreClient<M: SharedMemory> {
    ring: Option<GuestEnd<M>>,
    decoder: Decoder<Vec<u8>>,
    desk: Desk,
    frozen: bool,
}

/// Everything but the ring.
#[derive(Debug)]
struct Desk {
    slots: Vec<Slot>,
    sequence: u32,
    ticket: u64,
    /// Number of ours, number of xenstored's.
    transactions: Vec<(Transaction, u32)>,
    next_transaction: Transaction,
    watches: Vec<Option<Watch>>,
    watch_generation: u32,
    events: VecDeque<Event>,
    oddities: Oddities,
}

impl<M: SharedMemory> StoreClient<M> {
    /// A client without a connection. Allocates; IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`StoreError::NoMemory`].
    pub fn new() -> Result<Self, StoreError> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(MAX_IN_FLIGHT).map_err(|_| StoreError::NoMemory)?;
        slots.resize_with(MAX_IN_FLIGHT, || Slot {
            state: State::Free,
            id: 0,
            ticket: 0,
            abandoned: false,
            request: None,
        });
        let mut transactions = Vec::new();
        transactions.try_reserve_exact(MAX_TRANSACTIONS).map_err(|_| StoreError::NoMemory)?;
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(PAYLOAD_MAX).map_err(|_| StoreError::NoMemory)?;
        buffer.resize(PAYLOAD_MAX, 0);
        Ok(Self {
            ring: None,
            decoder: Decoder::new(buffer),
            desk: Desk {
                slots,
                sequence: 0,
                ticket: 0,
                transactions,
                next_transaction: 1,
                watches: Vec::new(),
                watch_generation: 0,
                events: VecDeque::new(),
                oddities: Oddities::default(),
            },
            frozen: false,
        })
    }

    /// Connects to the mapped store page, at the beginning or in a new domain. What an earlier user of the page left
    /// unread is dropped. Every open transaction ends, requests in flight that were in one end with `EAGAIN`; all
    /// others are sent again. The caller then sets its watches again ([`watches`](Self::watches)) and calls
    /// [`pump`](Self::pump). `wake` is called for requests that ended. Thaws. IRQL <= DISPATCH_LEVEL.
    pub fn connect(&mut self, page: M, mut wake: impl FnMut(RequestId)) {
        let mut ring = GuestEnd::attach(page);
        ring.discard_replies();
        self.ring = Some(ring);
        self.decoder.reset();
        self.frozen = false;
        self.desk.transactions.clear();
        for slot in &mut self.desk.slots {
            if !matches!(slot.state, State::Queued | State::Sending(_) | State::Sent) {
                continue;
            }
            let in_transaction = slot.request.as_ref().is_none_or(|request| request.transaction != NO_TRANSACTION);
            if slot.abandoned {
                slot.free();
            } else if in_transaction {
                slot.state = State::Answered(Err(StoreError::Answer(Errno::EAGAIN)));
                wake(RequestId(slot.id));
            } else {
                slot.state = State::Queued;
            }
        }
    }

    /// Gives the connection up. Requests in flight end with [`StoreError::Disconnected`]. IRQL <= DISPATCH_LEVEL.
    pub fn disconnect(&mut self, mut wake: impl FnMut(RequestId)) -> Option<M>
    where
        M: Copy,
    {
        let page = self.ring.take().map(|ring| *ring.memory());
        self.desk.fail_all(&mut wake);
        page
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.ring.is_some()
    }

    /// Keeps new requests back; what was sent goes on. IRQL <= DISPATCH_LEVEL.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Sends what was kept back, at the next [`pump`](Self::pump). IRQL <= DISPATCH_LEVEL.
    pub fn thaw(&mut self) {
        self.frozen = false;
    }

    /// Whether nothing that matters is between us and xenstored: it has taken every byte, no message is half read, and
    /// every request that somebody waits for has its answer. IRQL <= DISPATCH_LEVEL.
    pub fn is_quiet(&self) -> bool {
        let waits = |slot: &Slot| match slot.state {
            State::Sending(_) => true,
            State::Sent => !slot.abandoned,
            State::Free | State::Queued | State::Answered(_) => false,
        };
        !self.decoder.in_message()
            && self.ring.as_ref().is_none_or(GuestEnd::requests_taken)
            && !self.desk.slots.iter().any(waits)
    }

    /// Takes a request over. [`pump`](Self::pump) sends it. Allocates nothing; IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// The request is given back with [`StoreError::Busy`], with [`StoreError::Disconnected`], or with `EAGAIN` if its
    /// transaction is of an earlier connection.
    pub fn submit(&mut self, mut request: Request) -> Result<RequestId, (StoreError, Request)> {
        if self.ring.is_none() {
            return Err((StoreError::Disconnected, request));
        }
        let desk = &mut self.desk;
        let starts = desk
            .slots
            .iter()
            .filter_map(|slot| slot.request.as_ref())
            .filter(|request| request.kind == MessageType::TransactionStart)
            .count();
        if request.kind == MessageType::TransactionStart && desk.transactions.len() + starts >= MAX_TRANSACTIONS {
            return Err((StoreError::Busy, request));
        }
        let Some(index) = desk.slots.iter().position(|slot| matches!(slot.state, State::Free)) else {
            return Err((StoreError::Busy, request));
        };
        let tx_id = if request.transaction == NO_TRANSACTION {
            0
        } else {
            let Some(place) = desk.transactions.iter().position(|(ours, _)| *ours == request.transaction) else {
                return Err((StoreError::Answer(Errno::EAGAIN), request));
            };
            let (_, theirs) = desk.transactions[place];
            if request.kind == MessageType::TransactionEnd {
                desk.transactions.swap_remove(place);
            }
            theirs
        };
        desk.sequence = desk.sequence.wrapping_add(1) & 0x00FF_FFFF;
        desk.ticket += 1;
        let id = desk.sequence << 8 | index as u32;
        request.address(id, tx_id);
        desk.slots[index] =
            Slot { state: State::Queued, id, ticket: desk.ticket, abandoned: false, request: Some(request) };
        Ok(RequestId(id))
    }

    /// Takes a request over whose answer nobody waits for: one that ends something. If what it ends is gone already, there
    /// is nothing to send. Allocates nothing; IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// The request is given back: no slot is free.
    pub fn submit_for_nobody(&mut self, request: Request) -> Result<(), Request> {
        match self.submit(request) {
            Ok(id) => {
                self.desk.slots[id.slot()].abandoned = true;
                Ok(())
            }
            Err((StoreError::Busy, request)) => Err(request),
            Err(_) => Ok(()),
        }
    }

    /// The answer, once it is there; its slot is free then. `None` while it is not. IRQL <= DISPATCH_LEVEL.
    pub fn take(&mut self, id: RequestId) -> Option<Result<Vec<u8>, StoreError>> {
        let slot = self.desk.slots.get_mut(id.slot()).filter(|slot| slot.id == id.0)?;
        let State::Answered(result) = slot.state else { return None };
        let request = slot.request.take();
        slot.free();
        Some(result.and_then(|()| request.map(|request| request.reply).ok_or(StoreError::Protocol)))
    }

    /// Nobody waits for the answer any more: it is dropped when it comes. A transaction that such a request begins is
    /// ended again. IRQL <= DISPATCH_LEVEL.
    pub fn abandon(&mut self, id: RequestId) {
        let Some(slot) = self.desk.slots.get_mut(id.slot()).filter(|slot| slot.id == id.0) else { return };
        match slot.state {
            State::Free => {}
            State::Sending(_) | State::Sent => slot.abandoned = true,
            State::Answered(Ok(()))
                if slot.request.as_ref().is_some_and(|request| request.kind == MessageType::TransactionStart) =>
            {
                let ours = slot.request.as_ref().and_then(|request| payload::transaction_id(&request.reply).ok());
                let place = ours.and_then(|ours| self.desk.transactions.iter().position(|pair| pair.0 == ours));
                match place {
                    Some(place) => {
                        let (_, theirs) = self.desk.transactions.swap_remove(place);
                        slot.undo_transaction(theirs);
                    }
                    None => slot.free(),
                }
            }
            State::Queued | State::Answered(_) => slot.free(),
        }
    }

    /// Moves bytes both ways as far as they go. `wake` is called for each request that has its answer. Allocates only
    /// to remember watch events. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`StoreError::Disconnected`]: the connection is given up, every request in flight has ended. Log it.
    pub fn pump(&mut self, mut wake: impl FnMut(RequestId)) -> Result<Pumped, StoreError> {
        let result = self.exchange(&mut wake);
        if result.is_err() {
            self.ring = None;
            self.desk.fail_all(&mut wake);
        }
        result
    }

    fn exchange(&mut self, wake: &mut impl FnMut(RequestId)) -> Result<Pumped, StoreError> {
        let Some(ring) = &mut self.ring else { return Err(StoreError::Disconnected) };
        let mut pumped = Pumped::default();
        let mut messages = 0;
        loop {
            pumped.notify |= self.desk.send(ring, self.frozen)?;
            let mut chunk = [0_u8; 256];
            let count = ring.read(&mut chunk).map_err(|_| StoreError::Disconnected)?;
            if count == 0 {
                break;
            }
            pumped.notify = true;
            let mut rest = &chunk[..count];
            while !rest.is_empty() {
                let taken = self.decoder.feed(rest).map_err(|_| StoreError::Disconnected)?;
                rest = &rest[taken..];
                if let Some(message) = self.decoder.message() {
                    self.desk.receive(message, wake);
                    messages += 1;
                    self.decoder.next();
                }
            }
            if messages >= PUMP_MESSAGES {
                pumped.more = true;
                break;
            }
        }
        pumped.events = self.has_events();
        Ok(pumped)
    }

    /// Makes an entry for a watch of `path`; the caller then sends [`MessageType::Watch`] with path and
    /// [token](WatchId::token), see [`watch`], and takes the entry back if that fails. Allocates;
    /// IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`StoreError::NoMemory`], [`StoreError::Busy`].
    pub fn add_watch(&mut self, path: &[u8]) -> Result<WatchId, StoreError> {
        let desk = &mut self.desk;
        let mut copy = Vec::new();
        copy.try_reserve_exact(path.len()).map_err(|_| StoreError::NoMemory)?;
        copy.extend_from_slice(path);
        let index = match desk.watches.iter().position(Option::is_none) {
            Some(index) => index,
            None if desk.watches.len() >= MAX_WATCHES => return Err(StoreError::Busy),
            None => {
                desk.watches.try_reserve(1).map_err(|_| StoreError::NoMemory)?;
                desk.watches.push(None);
                desk.watches.len() - 1
            }
        };
        desk.watch_generation = desk.watch_generation.wrapping_add(1);
        let id = WatchId(desk.watch_generation << 10 | index as u32);
        desk.watches[index] = Some(Watch { id, path: copy, waiting: 0, lost: false });
        Ok(id)
    }

    /// Takes a watch's entry and its waiting events away; its path, for [`MessageType::Unwatch`]. Events that are on
    /// the way find nobody. IRQL <= DISPATCH_LEVEL.
    pub fn remove_watch(&mut self, id: WatchId) -> Option<Vec<u8>> {
        let entry = self.desk.watches.get_mut(id.index())?;
        if entry.as_ref()?.id != id {
            return None;
        }
        self.desk.events.retain(|event| event.watch != id);
        entry.take().map(|watch| watch.path)
    }

    /// The registered watches and their paths: to be set again after a migration. IRQL <= DISPATCH_LEVEL.
    pub fn watches(&self) -> impl Iterator<Item = (WatchId, &[u8])> {
        self.desk.watches.iter().flatten().map(|watch| (watch.id, watch.path.as_slice()))
    }

    /// Whether a watch event waits.
    pub fn has_events(&self) -> bool {
        !self.desk.events.is_empty() || self.desk.watches.iter().flatten().any(|watch| watch.lost)
    }

    /// The next watch event. For a watch of whose events too many came its own path is given: anything below it may
    /// have changed. IRQL <= DISPATCH_LEVEL.
    pub fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.desk.events.pop_front() {
            if let Some(Some(watch)) = self.desk.watches.get_mut(event.watch.index())
                && watch.id == event.watch
            {
                watch.waiting -= 1;
            }
            return Some(event);
        }
        let watch = self.desk.watches.iter_mut().flatten().find(|watch| watch.lost)?;
        let mut path = Vec::new();
        // Without memory it stays lost; the next call tries again.
        path.try_reserve_exact(watch.path.len()).ok()?;
        path.extend_from_slice(&watch.path);
        watch.lost = false;
        Some(Event { watch: watch.id, path })
    }

    /// What was odd since the last call.
    pub fn take_oddities(&mut self) -> Oddities {
        core::mem::take(&mut self.desk.oddities)
    }
}

impl Slot {
    fn free(&mut self) {
        self.state = State::Free;
        self.abandoned = false;
        self.request = None;
    }

    /// Makes the request one that ends xenstored's transaction `theirs`, for nobody.
    fn undo_transaction(&mut self, theirs: u32) {
        let Some(request) = &mut self.request else { return };
        request.kind = MessageType::TransactionEnd;
        request.message.truncate(HEADER_SIZE);
        // `Request::new` made room for this.
        request.message.extend_from_slice(b"F\0");
        request.address(self.id, theirs);
        self.abandoned = true;
        self.state = State::Queued;
    }
}

impl Desk {
    fn fail_all(&mut self, wake: &mut impl FnMut(RequestId)) {
        self.transactions.clear();
        for slot in &mut self.slots {
            match slot.state {
                State::Free | State::Answered(_) => {}
                _ if slot.abandoned => slot.free(),
                _ => {
                    slot.state = State::Answered(Err(StoreError::Disconnected));
                    wake(RequestId(slot.id));
                }
            }
        }
    }

    /// Writes requests in the order of their submission, as far as there is room; whether any byte was written.
    fn send<M: SharedMemory>(&mut self, ring: &mut GuestEnd<M>, frozen: bool) -> Result<bool, StoreError> {
        let mut wrote = false;
        loop {
            // A request that was begun goes first, whatever happens: its bytes may not be mixed with others'.
            let begun = self.slots.iter().position(|slot| matches!(slot.state, State::Sending(_)));
            let next = || {
                let queued = self.slots.iter().enumerate().filter(|(_, slot)| matches!(slot.state, State::Queued));
                queued.min_by_key(|(_, slot)| slot.ticket).map(|(index, _)| index)
            };
            let Some(index) = begun.or_else(|| if frozen { None } else { next() }) else { return Ok(wrote) };
            let slot = &mut self.slots[index];
            let done = if let State::Sending(done) = slot.state { done } else { 0 };
            let Some(request) = &slot.request else {
                slot.free();
                continue;
            };
            let count = ring.write(&request.message[done..]).map_err(|_| StoreError::Disconnected)?;
            wrote |= count > 0;
            if done + count == request.message.len() {
                slot.state = State::Sent;
                continue;
            }
            if done + count > 0 {
                slot.state = State::Sending(done + count);
            }
            return Ok(wrote);
        }
    }

    fn receive(&mut self, message: Message<'_>, wake: &mut impl FnMut(RequestId)) {
        if message.header.message_type() == Some(MessageType::WatchEvent) {
            self.fire(message.payload);
            return;
        }
        let id = RequestId(message.header.req_id);
        let slot = self.slots.get_mut(id.slot()).filter(|slot| slot.id == id.0 && matches!(slot.state, State::Sent));
        let Some((slot, mut request)) = slot.and_then(|slot| slot.request.take().map(|request| (slot, request))) else {
            self.oddities.stray_replies = self.oddities.stray_replies.saturating_add(1);
            return;
        };
        let mut result = match message.header.message_type() {
            Some(MessageType::Error) => {
                Err(payload::error(message.payload).map_or(StoreError::Protocol, StoreError::Answer))
            }
            Some(kind) if kind == request.kind => Ok(()),
            _ => Err(StoreError::Protocol),
        };
        request.reply.clear();
        if result.is_ok() && request.kind == MessageType::TransactionStart {
            match payload::transaction_id(message.payload) {
                Ok(theirs) if slot.abandoned => {
                    slot.request = Some(request);
                    slot.undo_transaction(theirs);
                    return;
                }
                Ok(theirs) => {
                    let ours = self.next_transaction;
                    self.next_transaction = ours.wrapping_add(1).max(1);
                    // `submit` has seen to it that there is room.
                    self.transactions.push((ours, theirs));
                    request.reply.extend_from_slice(decimal(ours, &mut Decimal::default()));
                    request.reply.push(0);
                }
                Err(_) => result = Err(StoreError::Protocol),
            }
        } else if result.is_ok() && !slot.abandoned {
            // At most PAYLOAD_MAX bytes, for which `Request::new` made room.
            request.reply.extend_from_slice(message.payload);
        }
        if result == Err(StoreError::Protocol) {
            self.oddities.malformed = self.oddities.malformed.saturating_add(1);
        }
        if slot.abandoned {
            slot.free();
            return;
        }
        slot.request = Some(request);
        slot.state = State::Answered(result);
        wake(id);
    }

    fn fire(&mut self, event: &[u8]) {
        let Ok((path, token)) = payload::watch_event(event) else {
            self.oddities.malformed = self.oddities.malformed.saturating_add(1);
            return;
        };
        let watch = WatchId::from_token(token).and_then(|id| {
            let watch = self.watches.get_mut(id.index())?.as_mut()?;
            (watch.id == id).then_some(watch)
        });
        let Some(watch) = watch else {
            self.oddities.stray_events = self.oddities.stray_events.saturating_add(1);
            return;
        };
        // One that waits already tells as much: the watcher looks when it is called, not before.
        if watch.lost || self.events.iter().any(|event| event.watch == watch.id && event.path == path) {
            return;
        }
        let mut copy = Vec::new();
        if self.events.len() >= MAX_EVENTS
            || watch.waiting >= MAX_EVENTS_OF_WATCH
            || self.events.try_reserve(1).is_err()
            || copy.try_reserve_exact(path.len()).is_err()
        {
            watch.lost = true;
            return;
        }
        copy.extend_from_slice(path);
        watch.waiting += 1;
        self.events.push_back(Event { watch: watch.id, path: copy });
    }
}

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

#[cfg(test)]
pub(in crate::core) mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use xen_abi::shared::SharedRegion;
    use xen_abi::xenstore::ring::{OFFSET_RSP_PROD, ServerEnd};

    use super::*;
    use crate::core::testing::page;

    /// A xenstored that knows no transactions but by number.
    pub(in crate::core) struct Server {
        end: ServerEnd<SharedRegion>,
        decoder: Decoder<Vec<u8>>,
        nodes: BTreeMap<Vec<u8>, Vec<u8>>,
        out: VecDeque<u8>,
        /// Requests, in the order in which they came.
        pub(in crate::core) log: Vec<(u32, u32, Vec<u8>)>,
        next_transaction: u32,
        /// Transactions that end with `EAGAIN` before one goes through.
        conflicts: u32,
        pub(in crate::core) mute: bool,
    }

    impl Server {
        fn new(page: SharedRegion) -> Self {
            Self {
                end: ServerEnd::attach(page),
                decoder: Decoder::new(vec![0; PAYLOAD_MAX]),
                nodes: BTreeMap::new(),
                out: VecDeque::new(),
                log: Vec::new(),
                next_transaction: 0,
                conflicts: 0,
                mute: false,
            }
        }

        fn send(&mut self, kind: u32, req_id: u32, tx_id: u32, payload: &[u8]) {
            let header = Header { kind, req_id, tx_id, len: payload.len() as u32 };
            self.out.extend(header.to_bytes());
            self.out.extend(payload);
        }

        pub(in crate::core) fn event(&mut self, path: &[u8], token: &[u8]) {
            self.send(15, 0, 0, &[path, b"\0", token, b"\0"].concat());
        }

        /// Does what it can; whether it did anything.
        fn step(&mut self, chunk: usize) -> bool {
            let mut did = false;
            let mut bytes = vec![0; chunk];
            let count = self.end.read(&mut bytes).unwrap();
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                did = true;
                let taken = self.decoder.feed(rest).unwrap();
                rest = &rest[taken..];
                if let Some(message) = self.decoder.message() {
                    let (header, payload) = (message.header, message.payload.to_vec());
                    self.decoder.next();
                    self.log.push((header.kind, header.tx_id, payload.clone()));
                    if !self.mute {
                        self.answer(header, &payload);
                    }
                }
            }
            let part: Vec<u8> = self.out.iter().copied().take(chunk).collect();
            let sent = self.end.write(&part).unwrap();
            self.out.drain(..sent);
            did || sent > 0
        }

        fn answer(&mut self, header: Header, payload: &[u8]) {
            let path = payload.split(|byte| *byte == 0).next().unwrap();
            let error = |name: &[u8]| (16, [name, b"\0"].concat());
            let ok = (header.kind, b"OK\0".to_vec());
            let (kind, reply) = match header.message_type().unwrap() {
                MessageType::Read => match self.nodes.get(path) {
                    Some(value) => (header.kind, value.clone()),
                    None => error(b"ENOENT"),
                },
                MessageType::Write => {
                    self.nodes.insert(path.to_vec(), payload.get(path.len() + 1..).unwrap_or_default().to_vec());
                    ok
                }
                MessageType::Rm => {
                    if self.nodes.remove(path).is_some() {
                        ok
                    } else {
                        error(b"ENOENT")
                    }
                }
                MessageType::Directory => {
                    let names = self.names();
                    if names.len() > PAYLOAD_MAX { error(b"E2BIG") } else { (header.kind, names) }
                }
                MessageType::DirectoryPart => {
                    let names = self.names();
                    let offset = payload::number(payload[path.len() + 1..].split_last().unwrap().1).unwrap() as usize;
                    let mut end = (offset + 1000).min(names.len());
                    while end < names.len() && names[end - 1] != 0 {
                        end -= 1;
                    }
                    let last: &[u8] = if end == names.len() { b"\0" } else { b"" };
                    (header.kind, [b"5\0", &names[offset..end], last].concat())
                }
                MessageType::TransactionStart => {
                    self.next_transaction += 1;
                    (header.kind, format!("{}\0", self.next_transaction).into_bytes())
                }
                MessageType::TransactionEnd if payload == b"T\0" && self.conflicts > 0 => {
                    self.conflicts -= 1;
                    error(b"EAGAIN")
                }
                MessageType::Watch => {
                    let token = payload[path.len() + 1..].split_last().unwrap().1.to_vec();
                    self.send(header.kind, header.req_id, header.tx_id, b"OK\0");
                    self.event(path, &token);
                    return;
                }
                _ => ok,
            };
            self.send(kind, header.req_id, header.tx_id, &reply);
        }

        fn names(&self) -> Vec<u8> {
            self.nodes.keys().flat_map(|name| [name, &b"\0"[..]].concat()).collect()
        }
    }

    /// Client and server in one thread: waiting is working.
    pub(in crate::core) struct Pair {
        pub(in crate::core) client: RefCell<StoreClient<SharedRegion>>,
        pub(in crate::core) server: RefCell<Server>,
        chunk: usize,
    }

    impl Pair {
        pub(in crate::core) fn new(chunk: usize) -> Self {
            let page = page();
            let mut client = StoreClient::new().unwrap();
            client.connect(page, |_| {});
            Self { client: RefCell::new(client), server: RefCell::new(Server::new(page)), chunk }
        }

        pub(in crate::core) fn submit(
            &self,
            kind: MessageType,
            transaction: Transaction,
            parts: &[&[u8]],
        ) -> Result<RequestId, StoreError> {
            let request = Request::new(kind, transaction, parts)?;
            self.client.borrow_mut().submit(request).map_err(|(error, _)| error)
        }

        /// Runs until nothing moves; ids in the order of their ends.
        pub(in crate::core) fn settle(&self) -> Vec<RequestId> {
            let mut woken = Vec::new();
            loop {
                let pumped = self.client.borrow_mut().pump(|id| woken.push(id)).unwrap();
                if !self.server.borrow_mut().step(self.chunk) && !pumped.more && !pumped.notify {
                    return woken;
                }
            }
        }

        fn take(&self, id: RequestId) -> Option<Result<Vec<u8>, StoreError>> {
            self.client.borrow_mut().take(id)
        }

        fn last_request(&self) -> (u32, u32, Vec<u8>) {
            self.server.borrow().log.last().unwrap().clone()
        }
    }

    impl Store for Pair {
        fn request(&self, kind: MessageType, transaction: Transaction, parts: &[&[u8]]) -> Result<Vec<u8>, StoreError> {
            let id = self.submit(kind, transaction, parts)?;
            self.settle();
            self.take(id).ok_or(StoreError::TimedOut)?
        }
    }

    const ENOENT: StoreError = StoreError::Answer(Errno::ENOENT);
    const EAGAIN: StoreError = StoreError::Answer(Errno::EAGAIN);

    #[test]
    fn nodes_are_written_read_and_removed() {
        for chunk in [1, 7, 1024] {
            let pair = Pair::new(chunk);
            let long = vec![b'x'; 4000];
            write(&pair, NO_TRANSACTION, b"a", &long).unwrap();
            assert_eq!(read(&pair, NO_TRANSACTION, b"a").unwrap(), long);
            write(&pair, NO_TRANSACTION, b"n", b"17").unwrap();
            assert_eq!(read_number(&pair, NO_TRANSACTION, b"n"), Ok(17));
            assert_eq!(read_number(&pair, NO_TRANSACTION, b"a"), Err(StoreError::Protocol));
            assert_eq!(directory(&pair, NO_TRANSACTION, b"x").unwrap(), b"a\0n\0");
            remove(&pair, NO_TRANSACTION, b"a").unwrap();
            assert_eq!(read(&pair, NO_TRANSACTION, b"a"), Err(ENOENT));
            reset_watches(&pair).unwrap();
            assert_eq!(write(&pair, NO_TRANSACTION, b"a", &[0; 4096]), Err(StoreError::TooLong));
            assert_eq!(pair.client.borrow_mut().take_oddities(), Oddities::default());
        }
    }

    #[test]
    fn a_long_directory_is_read_in_parts() {
        let pair = Pair::new(300);
        for number in 0..2000 {
            pair.server.borrow_mut().nodes.insert(format!("node-{number:05}").into_bytes(), vec![]);
        }
        let names = directory(&pair, NO_TRANSACTION, b"x").unwrap();
        assert_eq!(payload::directory(&names).unwrap().count(), 2000);
    }

    #[test]
    fn many_requests_are_in_flight_and_the_answers_find_them() {
        let pair = Pair::new(100);
        let ids: Vec<_> = (0..MAX_IN_FLIGHT)
            .map(|n| {
                pair.server.borrow_mut().nodes.insert(n.to_string().into_bytes(), vec![n as u8]);
                pair.submit(MessageType::Read, NO_TRANSACTION, &[n.to_string().as_bytes(), b"\0"]).unwrap()
            })
            .collect();
        assert_eq!(pair.submit(MessageType::Read, NO_TRANSACTION, &[b"0\0"]), Err(StoreError::Busy));
        assert_eq!(pair.settle(), ids, "in order");
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(pair.take(*id), Some(Ok(vec![n as u8])));
            assert_eq!(pair.take(*id), None);
        }
    }

    #[test]
    fn replies_that_do_not_fit_are_told_apart() {
        let pair = Pair::new(1024);
        pair.server.borrow_mut().mute = true;
        let id = pair.submit(MessageType::Read, NO_TRANSACTION, &[b"a\0"]).unwrap();
        pair.settle();
        pair.server.borrow_mut().send(2, id.0 ^ 0x100, 0, b"an old one");
        pair.server.borrow_mut().send(2, id.0 | 0xFF, 0, b"no slot");
        pair.server.borrow_mut().send(99, 0, 0, b"");
        assert_eq!(pair.settle(), []);
        pair.server.borrow_mut().send(11, id.0, 0, b"OK\0");
        assert_eq!(pair.settle(), [id]);
        assert_eq!(pair.take(id), Some(Err(StoreError::Protocol)));
        let odd = pair.client.borrow_mut().take_oddities();
        assert_eq!((odd.stray_replies, odd.malformed), (3, 1));
    }

    #[test]
    fn what_nobody_waits_for_is_dropped_when_it_comes() {
        let pair = Pair::new(1024);
        pair.server.borrow_mut().mute = true;
        let late = pair.submit(MessageType::Read, NO_TRANSACTION, &[b"a\0"]).unwrap();
        pair.settle();
        assert!(!pair.client.borrow().is_quiet());
        pair.client.borrow_mut().abandon(late);
        assert!(pair.client.borrow().is_quiet());
        pair.server.borrow_mut().send(2, late.0, 0, b"late");
        assert_eq!(pair.settle(), []);
        assert_eq!(pair.client.borrow_mut().take_oddities(), Oddities::default());
        let unsent = pair.submit(MessageType::Read, NO_TRANSACTION, &[b"b\0"]).unwrap();
        pair.client.borrow_mut().abandon(unsent);
        pair.settle();
        assert_eq!(pair.last_request().2, b"a\0");
    }

    #[test]
    fn an_abandoned_transaction_is_ended() {
        let pair = Pair::new(1024);
        let id = pair.submit(MessageType::TransactionStart, NO_TRANSACTION, &[b"\0"]).unwrap();
        let _ = pair.client.borrow_mut().pump(|_| {}).unwrap();
        pair.client.borrow_mut().abandon(id);
        pair.settle();
        assert_eq!(pair.last_request(), (7, 1, b"F\0".to_vec()));
        // The same when the answer is there already.
        let id = pair.submit(MessageType::TransactionStart, NO_TRANSACTION, &[b"\0"]).unwrap();
        pair.settle();
        pair.client.borrow_mut().abandon(id);
        pair.settle();
        assert_eq!(pair.last_request(), (7, 2, b"F\0".to_vec()));
        assert!(pair.client.borrow().desk.slots.iter().all(|slot| matches!(slot.state, State::Free)));
    }

    #[test]
    fn transactions_run_again_as_long_as_they_are_told_to() {
        let pair = Pair::new(1024);
        pair.server.borrow_mut().conflicts = 3;
        let mut runs = 0;
        let result = transaction(&pair, 5, |store, number| {
            runs += 1;
            write(store, number, b"a", b"1")?;
            Ok(runs)
        });
        assert_eq!(result, Ok(4));
        pair.server.borrow_mut().conflicts = 9;
        assert_eq!(transaction(&pair, 2, |_, _| Ok(())), Err(EAGAIN));
        assert_eq!(transaction(&pair, 2, |store, number| read(store, number, b"none")), Err(ENOENT));
        assert_eq!(pair.last_request().2, b"F\0");
        assert_eq!(read(&pair, 77, b"a"), Err(EAGAIN), "no such transaction");
    }

    #[test]
    fn watches_fire_and_stop() {
        let pair = Pair::new(1024);
        let id = pair.client.borrow_mut().add_watch(b"device").unwrap();
        watch(&pair, b"device", id).unwrap();
        let next = || pair.client.borrow_mut().next_event();
        assert_eq!(next(), Some(Event { watch: id, path: b"device".to_vec() }));
        for path in [&b"device/vbd"[..], b"device/vif", b"device/vbd"] {
            pair.server.borrow_mut().event(path, &id.token());
        }
        pair.server.borrow_mut().event(b"x", b"00000000");
        pair.server.borrow_mut().event(b"x", b"not a token");
        pair.settle();
        assert_eq!(next().unwrap().path, b"device/vbd");
        assert_eq!(next().unwrap().path, b"device/vif");
        assert_eq!(next(), None);
        assert_eq!(pair.client.borrow_mut().take_oddities().stray_events, 2);
        pair.server.borrow_mut().event(b"device/vbd", &id.token());
        pair.settle();
        assert_eq!(pair.client.borrow_mut().remove_watch(id), Some(b"device".to_vec()));
        assert_eq!(next(), None);
        let again = pair.client.borrow_mut().add_watch(b"device").unwrap();
        assert_ne!(again, id, "an old token must not find the new watch");
        assert_eq!(pair.client.borrow_mut().remove_watch(id), None);
    }

    #[test]
    fn a_storm_of_events_is_summed_up() {
        let pair = Pair::new(1024);
        let (id, other) = {
            let mut client = pair.client.borrow_mut();
            (client.add_watch(b"device").unwrap(), client.add_watch(b"control").unwrap())
        };
        let storm = |count: usize| {
            for number in 0..count {
                pair.server.borrow_mut().event(format!("device/{number}").as_bytes(), &id.token());
                pair.settle();
            }
        };
        let next = || pair.client.borrow_mut().next_event();
        storm(2 * MAX_EVENTS);
        pair.server.borrow_mut().event(b"control/shutdown", &other.token());
        pair.settle();
        // What is kept does not grow with the storm, and another watch's event is not lost in it.
        let kept: Vec<Event> = core::iter::from_fn(next).collect();
        assert_eq!(kept.iter().filter(|event| event.watch == id).count(), MAX_EVENTS_OF_WATCH + 1);
        assert!(kept.contains(&Event { watch: other, path: b"control/shutdown".to_vec() }));
        assert_eq!(kept.last().unwrap(), &Event { watch: id, path: b"device".to_vec() }, "what was summed up");
        assert!(!pair.client.borrow().has_events());
        // What was taken makes room again.
        storm(3);
        assert_eq!(core::iter::from_fn(next).count(), 3);
    }

    #[test]
    fn a_new_domain_gets_what_is_unanswered_and_ends_what_it_cannot_know() {
        let pair = Pair::new(1024);
        let old = transaction_start(&pair).unwrap();
        pair.server.borrow_mut().mute = true;
        let plain = pair.submit(MessageType::Read, NO_TRANSACTION, &[b"a\0"]).unwrap();
        let inside = pair.submit(MessageType::Read, old, &[b"a\0"]).unwrap();
        let nobodys = pair.submit(MessageType::Read, NO_TRANSACTION, &[b"b\0"]).unwrap();
        pair.settle();
        pair.client.borrow_mut().abandon(nobodys);
        pair.client.borrow_mut().freeze();
        let held = pair.submit(MessageType::Read, NO_TRANSACTION, &[b"c\0"]).unwrap();
        pair.settle();
        assert_eq!(pair.server.borrow().log.len(), 4, "frozen");

        let page = page();
        let mut woken = Vec::new();
        pair.client.borrow_mut().connect(page, |id| woken.push(id));
        *pair.server.borrow_mut() = Server::new(page);
        assert_eq!(woken, [inside]);
        assert_eq!(pair.take(inside), Some(Err(EAGAIN)));
        assert_eq!(pair.settle(), [plain, held]);
        assert_eq!((pair.take(plain), pair.take(held)), (Some(Err(ENOENT)), Some(Err(ENOENT))));
        // The new xenstored counts from one again: the old number must not mean its transaction.
        let new = transaction_start(&pair).unwrap();
        assert_ne!(new, old);
        assert_eq!(read(&pair, old, b"a"), Err(EAGAIN));
        assert_eq!(read(&pair, new, b"a"), Err(ENOENT));
    }

    #[test]
    fn freezing_lets_what_was_begun_go_on() {
        let pair = Pair::new(64);
        let long = vec![b'y'; 3000];
        let id = pair.submit(MessageType::Write, NO_TRANSACTION, &[b"a\0", &long]).unwrap();
        let _ = pair.client.borrow_mut().pump(|_| {}).unwrap();
        pair.client.borrow_mut().freeze();
        assert!(!pair.client.borrow().is_quiet());
        let later = pair.submit(MessageType::Read, NO_TRANSACTION, &[b"a\0"]).unwrap();
        assert_eq!(pair.settle(), [id]);
        assert!(pair.client.borrow().is_quiet());
        pair.client.borrow_mut().thaw();
        assert_eq!(pair.settle(), [later]);
    }

    #[test]
    fn an_impossible_index_ends_everything_once() {
        let page = page();
        let mut client = StoreClient::new().unwrap();
        let request = || Request::new(MessageType::Read, NO_TRANSACTION, &[b"a\0"]).unwrap();
        assert!(matches!(client.submit(request()), Err((StoreError::Disconnected, _))));
        client.connect(page, |_| {});
        let id = client.submit(request()).unwrap();
        page.store_u32(OFFSET_RSP_PROD, 5000);
        let mut woken = Vec::new();
        assert_eq!(client.pump(|id| woken.push(id)), Err(StoreError::Disconnected));
        assert_eq!(woken, [id]);
        assert_eq!(client.take(id), Some(Err(StoreError::Disconnected)));
        assert!(!client.is_connected());
        assert_eq!(client.disconnect(|_| {}).map(|page| page.len()), None);
    }

    #[test]
    fn bytes_left_by_an_earlier_user_are_not_taken_for_a_reply() {
        let page = page();
        let mut server = Server::new(page);
        server.send(2, 0x100, 0, b"old");
        server.step(1024);
        let mut client = StoreClient::new().unwrap();
        client.connect(page, |_| {});
        let pumped = client.pump(|_| {}).unwrap();
        assert_eq!(pumped, Pumped::default());
    }
}
