//! The client of xenstore: many requests in flight, replies found by their id, watches, transactions.
//!
//! [`StoreClient`] owns the guest's end of the store page and everything in flight. It never waits: the Windows half
//! keeps it behind a spin lock, calls [`StoreClient::pump`] after each submission and from the event channel's DPC, and
//! does the waiting in its implementation of [`Store`], on which the blocking functions of `calls.rs` stand ([`read`],
//! [`write`], [`directory`], [`transaction`]).
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
use xen_abi::xenstore::{HEADER_SIZE, MessageType, PAYLOAD_MAX};

mod calls;
mod request;
mod watch;

pub use calls::{
    Store, directory, read, read_number, remove, reset_watches, transaction, transaction_end, transaction_start,
    unwatch, watch, write,
};
pub use request::{NO_TRANSACTION, Request, StoreError, Transaction};
use watch::Watch;
pub use watch::{Event, Token, WatchId};

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

#[cfg(test)]
pub(in crate::core) mod tests;
