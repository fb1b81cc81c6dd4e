//! One user's connection to xenstore: what a handle of the device interface may ask, and what it has open.
//!
//! [`Session`] takes whole messages and gives a stream of bytes, by the rules of [`xenbus::control`]. It owns nothing but
//! its own numbers: a request goes to the [`StoreClient`] that everybody uses, with an id, a transaction and a watch
//! token of the driver's. So no user can name another's, nor the driver's. It never waits; all of it may run at
//! DISPATCH_LEVEL.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use xen_abi::errno::Errno;
use xen_abi::shared::SharedMemory;
use xen_abi::xenstore::{HEADER_SIZE, Header, MessageType, PAYLOAD_MAX, payload};
use xenbus::control::{ALL_REQUESTS, ALL_TRANSACTIONS, ALL_WATCHES, REPLIES, TOKEN_MAX, TRANSACTIONS, WATCHES};

use super::store::{NO_TRANSACTION, Request, RequestId, StoreClient, StoreError, Transaction, WatchId};

/// Events of one watch that wait to be read. Beyond that the user is told the watch's own path.
const EVENTS_OF_WATCH: usize = 4;

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no message, or not one that a user may send.
    Malformed,
    /// The handle, or all handles together, have too much open.
    Quota,
    /// There is no memory.
    NoMemory,
    /// There is no connection to xenstore.
    Disconnected,
}

/// What all sessions have open together.
#[derive(Debug, Default)]
pub struct Totals {
    requests: AtomicUsize,
    transactions: AtomicUsize,
    watches: AtomicUsize,
}

impl Totals {
    /// Nothing is open.
    pub const fn new() -> Self {
        Self { requests: AtomicUsize::new(0), transactions: AtomicUsize::new(0), watches: AtomicUsize::new(0) }
    }

    /// Whether nothing is open.
    pub fn is_idle(&self) -> bool {
        [&self.requests, &self.transactions, &self.watches].iter().all(|count| count.load(Ordering::Relaxed) == 0)
    }
}

fn take(count: &AtomicUsize, most: usize) -> Result<(), Refusal> {
    let more = |open: usize| (open < most).then_some(open + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map(drop).map_err(|_| Refusal::Quota)
}

fn give_back(count: &AtomicUsize) {
    count.fetch_sub(1, Ordering::Relaxed);
}

/// A request that was not answered yet.
#[derive(Debug)]
struct Pending {
    user_id: u32,
    answer: Answer,
}

/// Where the answer to a request comes from.
#[derive(Debug)]
enum Answer {
    /// From xenstored, to this request of ours.
    Store { id: RequestId, kind: MessageType, then: Then },
    /// It is the text of an error, and waits for those before it.
    Error(Vec<u8>),
}

/// What the answer changes.
#[derive(Debug)]
enum Then {
    Nothing,
    /// A watch is set, or it is not.
    Watch(WatchId),
    /// A transaction is open; the request that drops it.
    Transaction(Request),
}

impl Pending {
    fn begins_a_transaction(&self) -> bool {
        matches!(self.answer, Answer::Store { then: Then::Transaction(_), .. })
    }
}

#[derive(Debug)]
struct Watch {
    id: WatchId,
    path: Vec<u8>,
    token: Vec<u8>,
    /// The request that ends it.
    end: Request,
    /// Events that wait to be read.
    waiting: usize,
    /// It fired, but there was no room to remember where.
    lost: bool,
}

#[derive(Debug)]
struct Open {
    id: Transaction,
    /// The request that drops it.
    end: Request,
}

/// A message for the user.
#[derive(Debug)]
struct Message {
    header: [u8; HEADER_SIZE],
    payload: Vec<u8>,
    /// The watch whose event it is; else it is a reply.
    watch: Option<WatchId>,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    /// In the order in which they came, which is that of the replies.
    pending: VecDeque<Pending>,
    watches: Vec<Watch>,
    transactions: Vec<Open>,
    messages: VecDeque<Message>,
    /// Bytes of the first message that were read.
    read: usize,
    /// Replies among the messages.
    replies: usize,
}

impl Session {
    /// A session with nothing open. Allocates; IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`Refusal::NoMemory`].
    pub fn new() -> Result<Self, Refusal> {
        let mut pending = VecDeque::new();
        pending.try_reserve_exact(REPLIES).map_err(|_| Refusal::NoMemory)?;
        let mut watches = Vec::new();
        watches.try_reserve_exact(WATCHES).map_err(|_| Refusal::NoMemory)?;
        let mut transactions = Vec::new();
        transactions.try_reserve_exact(TRANSACTIONS).map_err(|_| Refusal::NoMemory)?;
        let mut messages = VecDeque::new();
        // And one that is half read when its watch ends.
        messages.try_reserve_exact(REPLIES + WATCHES * EVENTS_OF_WATCH + 1).map_err(|_| Refusal::NoMemory)?;
        Ok(Self { pending, watches, transactions, messages, read: 0, replies: 0 })
    }

    /// Takes one message: the request that is on its way now, if any. Others are answered here. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was done.
    pub fn write<M: SharedMemory>(
        &mut self,
        client: &mut StoreClient<M>,
        totals: &Totals,
        message: &[u8],
    ) -> Result<Option<RequestId>, Refusal> {
        let (header, kind, payload) = parse(message)?;
        if self.pending.len() + self.replies >= REPLIES {
            return Err(Refusal::Quota);
        }
        if !client.is_connected() {
            return Err(Refusal::Disconnected);
        }
        let reply_to = (header.req_id, kind, header.tx_id);
        match kind {
            MessageType::Watch => self.watch(client, totals, reply_to, payload),
            MessageType::Unwatch => self.unwatch(client, totals, reply_to, payload),
            MessageType::TransactionStart => {
                if header.tx_id != 0 {
                    return self.answer_error(reply_to, Errno::EBUSY).map(|()| None);
                }
                self.begin(client, totals, reply_to, payload)
            }
            _ => self.plain(client, totals, reply_to, payload),
        }
    }

    /// Sends a request, counted.
    fn submit<M: SharedMemory>(
        &mut self,
        client: &mut StoreClient<M>,
        totals: &Totals,
        (user_id, kind, user_tx): (u32, MessageType, u32),
        request: Request,
        then: Then,
    ) -> Result<Option<RequestId>, (Refusal, Then)> {
        if let Err(refusal) = take(&totals.requests, ALL_REQUESTS) {
            return Err((refusal, then));
        }
        let (error, then) = match client.submit(request) {
            Ok(id) => {
                self.pending.push_back(Pending { user_id, answer: Answer::Store { id, kind, then } });
                return Ok(Some(id));
            }
            Err((error, _)) => (error, then),
        };
        give_back(&totals.requests);
        match error {
            StoreError::Answer(errno) => match self.answer_error((user_id, kind, user_tx), errno) {
                Ok(()) => Ok(None),
                Err(refusal) => Err((refusal, then)),
            },
            StoreError::Busy => Err((Refusal::Quota, then)),
            StoreError::NoMemory => Err((Refusal::NoMemory, then)),
            StoreError::TooLong | StoreError::Protocol => Err((Refusal::Malformed, then)),
            StoreError::Disconnected | StoreError::TimedOut => Err((Refusal::Disconnected, then)),
        }
    }

    fn plain<M: SharedMemory>(
        &mut self,
        client: &mut StoreClient<M>,
        totals: &Totals,
        reply_to: (u32, MessageType, u32),
        payload: &[u8],
    ) -> Result<Option<RequestId>, Refusal> {
        let (_, kind, transaction) = reply_to;
        let place = self.transactions.iter().position(|open| open.id == transaction);
        let known = transaction == NO_TRANSACTION || place.is_some();
        if !known || (kind == MessageType::TransactionEnd && place.is_none()) {
            return self.answer_error(reply_to, Errno::ENOENT).map(|()| None);
        }
        let request = Request::new(kind, transaction, &[payload]).map_err(refusal)?;
        let sent = self.submit(client, totals, reply_to, request, Then::Nothing).map_err(|(refusal, _)| refusal)?;
        if kind == MessageType::TransactionEnd
            && let Some(place) = place
        {
            self.transactions.swap_remove(place);
            give_back(&totals.transactions);
        }
        Ok(sent)
    }

    fn begin<M: SharedMemory>(
        &mut self,
        client: &mut StoreClient<M>,
        totals: &Totals,
        reply_to: (u32, MessageType, u32),
        payload: &[u8],
    ) -> Result<Option<RequestId>, Refusal> {
        let starting = self.pending.iter().filter(|pending| pending.begins_a_transaction()).count();
        if self.transactions.len() + starting >= TRANSACTIONS {
            return Err(Refusal::Quota);
        }
        let request = Request::new(MessageType::TransactionStart, NO_TRANSACTION, &[payload]).map_err(refusal)?;
        let end = Request::for_nobody(MessageType::TransactionEnd, &[b"F\0"]).map_err(refusal)?;
        take(&totals.transactions, ALL_TRANSACTIONS)?;
        let sent = self.submit(client, totals, reply_to, request, Then::Transaction(end));
        if !matches!(sent, Ok(Some(_))) {
            give_back(&totals.transactions);
        }
        sent.map_err(|(refusal, _)| refusal)
    }

    fn watch<M: SharedMemory>(
        &mut self,
        client: &mut StoreClient<M>,
        totals: &Totals,
        reply_to: (u32, MessageType, u32),
        payload: &[u8],
    ) -> Result<Option<RequestId>, Refusal> {
        let (path, token) = path_and_token(payload)?;
        if self.watches.iter().any(|watch| watch.path == path && watch.token == token) {
            return self.answer_error(reply_to, Errno::EEXIST).map(|()| None);
        }
        if self.watches.len() >= WATCHES {
            return Err(Refusal::Quota);
        }
        let (path, token) = (copy(path)?, copy(token)?);
        take(&totals.watches, ALL_WATCHES)?;
        let made = client.add_watch(&path).map_err(refusal).and_then(|id| {
            let parts: [&[u8]; 4] = [&path, b"\0", &id.token(), b"\0"];
            let both = Request::new(MessageType::Watch, NO_TRANSACTION, &parts)
                .and_then(|request| Ok((request, Request::for_nobody(MessageType::Unwatch, &parts)?)));
            both.map(|(request, end)| (id, request, end)).map_err(|error| {
                client.remove_watch(id);
                refusal(error)
            })
        });
        let (id, request, end) = made.inspect_err(|_| give_back(&totals.watches))?;
        self.watches.push(Watch { id, path, token, end, waiting: 0, lost: false });
        let sent = self.submit(client, totals, reply_to, request, Then::Watch(id));
        if !matches!(sent, Ok(Some(_))) {
            self.forget_watch(client, totals, id);
        }
        sent.map_err(|(refusal, _)| refusal)
    }

    fn unwatch<M: SharedMemory>(
        &mut self,
        client: &mut StoreClient<M>,
        totals: &Totals,
        reply_to: (u32, MessageType, u32),
        payload: &[u8],
    ) -> Result<Option<RequestId>, Refusal> {
        let (path, token) = path_and_token(payload)?;
        let found = self.watches.iter().find(|watch| watch.path == path && watch.token == token);
        let Some(id) = found.map(|watch| watch.id) else {
            return self.answer_error(reply_to, Errno::ENOENT).map(|()| None);
        };
        let parts: [&[u8]; 4] = [path, b"\0", &id.token(), b"\0"];
        let request = Request::new(MessageType::Unwatch, NO_TRANSACTION, &parts).map_err(refusal)?;
        let sent = self.submit(client, totals, reply_to, request, Then::Nothing).map_err(|(refusal, _)| refusal)?;
        self.forget_watch(client, totals, id);
        Ok(sent)
    }

    /// Takes a watch out, and its events that were not read. Its request stays whose it is.
    fn forget_watch<M: SharedMemory>(&mut self, client: &mut StoreClient<M>, totals: &Totals, id: WatchId) {
        let Some(place) = self.watches.iter().position(|watch| watch.id == id) else { return };
        self.watches.swap_remove(place);
        client.remove_watch(id);
        give_back(&totals.watches);
        // The first message may have been read in part: the user gets the rest of it.
        let begun = self.read != 0;
        let mut first = true;
        self.messages.retain(|message| {
            let keep = message.watch != Some(id) || (begun && first);
            first = false;
            keep
        });
    }

    /// Takes the answers that are there, in the order of the requests: one that is not there yet holds up the later ones.
    /// `taken` is told of each request that is no longer under way. IRQL <= DISPATCH_LEVEL.
    pub fn take_answers<M: SharedMemory>(
        &mut self,
        client: &mut StoreClient<M>,
        totals: &Totals,
        mut taken: impl FnMut(RequestId),
    ) {
        while let Some(Pending { user_id, answer }) = self.pending.pop_front() {
            match answer {
                Answer::Error(text) => self.reply(MessageType::Error.number(), user_id, text),
                Answer::Store { id, kind, then } => {
                    let Some(answer) = client.take(id) else {
                        self.pending.push_front(Pending { user_id, answer: Answer::Store { id, kind, then } });
                        return;
                    };
                    give_back(&totals.requests);
                    self.answered(client, totals, (user_id, kind, then), answer);
                    taken(id);
                }
            }
        }
    }

    fn answered<M: SharedMemory>(
        &mut self,
        client: &mut StoreClient<M>,
        totals: &Totals,
        (user_id, kind, then): (u32, MessageType, Then),
        answer: Result<Vec<u8>, StoreError>,
    ) {
        match then {
            Then::Watch(watch) if answer.is_err() => self.forget_watch(client, totals, watch),
            Then::Transaction(mut end) => {
                let opened = answer.as_ref().ok().and_then(|reply| payload::transaction_id(reply).ok());
                if let Some(id) = opened {
                    end.put_into(id);
                    self.transactions.push(Open { id, end });
                } else {
                    give_back(&totals.transactions);
                }
            }
            Then::Watch(_) | Then::Nothing => {}
        }
        match answer {
            Ok(reply) => self.reply(kind.number(), user_id, reply),
            Err(error) => {
                let errno = match error {
                    StoreError::Answer(errno) => errno,
                    StoreError::NoMemory => Errno::ENOMEM,
                    StoreError::Busy => Errno::EBUSY,
                    StoreError::TooLong => Errno::E2BIG,
                    StoreError::Protocol | StoreError::TimedOut | StoreError::Disconnected => Errno::EIO,
                };
                // Without memory for a handful of bytes the reply is an empty error, which is an error, too.
                self.reply(MessageType::Error.number(), user_id, error_text(errno).unwrap_or_default());
            }
        }
    }

    fn answer_error(&mut self, (user_id, ..): (u32, MessageType, u32), errno: Errno) -> Result<(), Refusal> {
        let text = error_text(errno)?;
        if self.pending.is_empty() {
            self.reply(MessageType::Error.number(), user_id, text);
        } else {
            self.pending.push_back(Pending { user_id, answer: Answer::Error(text) });
        }
        Ok(())
    }

    /// Room for it was made by [`Session::new`].
    fn reply(&mut self, kind: u32, user_id: u32, payload: Vec<u8>) {
        let header = Header { kind, req_id: user_id, tx_id: 0, len: payload.len() as u32 };
        self.messages.push_back(Message { header: header.to_bytes(), payload, watch: None });
        self.replies += 1;
    }

    /// A watch fired; `false`: it is not this session's. IRQL <= DISPATCH_LEVEL.
    pub fn fired(&mut self, id: WatchId, path: &[u8]) -> bool {
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) else { return false };
        let same = |message: &Message| {
            let rest = message.payload.strip_prefix(path);
            message.watch == Some(id) && rest.is_some_and(|rest| rest.first() == Some(&0))
        };
        // One that waits already tells as much: the user looks when it has read it, not before.
        let half_read = usize::from(self.read != 0);
        if watch.lost || self.messages.iter().skip(half_read).any(same) {
            return true;
        }
        match event(path, &watch.token) {
            Some(message) if watch.waiting < EVENTS_OF_WATCH => {
                watch.waiting += 1;
                self.messages.push_back(Message { watch: Some(id), ..message });
            }
            _ => watch.lost = true,
        }
        true
    }

    /// Whether there is something to read. IRQL <= DISPATCH_LEVEL.
    pub fn has_output(&self) -> bool {
        !self.messages.is_empty() || self.watches.iter().any(|watch| watch.lost)
    }

    /// Moves as many bytes to `buffer` as there are and as fit; how many. IRQL <= DISPATCH_LEVEL.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut done = 0;
        while done < buffer.len() {
            if self.messages.is_empty() && !self.sum_up() {
                break;
            }
            let Some(message) = self.messages.front() else { break };
            let total = HEADER_SIZE + message.payload.len();
            let bytes = if self.read < HEADER_SIZE {
                &message.header[self.read..]
            } else {
                &message.payload[self.read - HEADER_SIZE..]
            };
            let count = bytes.len().min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&bytes[..count]);
            (done, self.read) = (done + count, self.read + count);
            if self.read == total {
                self.read = 0;
                self.retire();
            }
        }
        done
    }

    /// The first message was read.
    fn retire(&mut self) {
        let Some(message) = self.messages.pop_front() else { return };
        match message.watch {
            None => self.replies -= 1,
            Some(id) => {
                if let Some(watch) = self.watches.iter_mut().find(|watch| watch.id == id) {
                    watch.waiting -= 1;
                }
            }
        }
    }

    /// Makes the event of a watch that fired too often to remember where; `false`: there is none, or no memory.
    fn sum_up(&mut self) -> bool {
        let Some(watch) = self.watches.iter_mut().find(|watch| watch.lost) else { return false };
        let Some(message) = event(&watch.path, &watch.token) else { return false };
        (watch.lost, watch.waiting) = (false, watch.waiting + 1);
        let id = watch.id;
        self.messages.push_back(Message { watch: Some(id), ..message });
        true
    }

    /// The requests under way. IRQL <= DISPATCH_LEVEL.
    pub fn pending(&self) -> impl Iterator<Item = RequestId> {
        self.pending.iter().filter_map(|pending| match pending.answer {
            Answer::Store { id, .. } => Some(id),
            Answer::Error(_) => None,
        })
    }

    /// Ends what is open; `false`: there is no room for all of it now, call again. Nothing else is called from the first
    /// time on. IRQL <= DISPATCH_LEVEL.
    pub fn close<M: SharedMemory>(&mut self, client: &mut StoreClient<M>, totals: &Totals) -> bool {
        self.messages.clear();
        for pending in self.pending.drain(..) {
            if pending.begins_a_transaction() {
                give_back(&totals.transactions);
            }
            if let Answer::Store { id, .. } = pending.answer {
                client.abandon(id);
                give_back(&totals.requests);
            }
        }
        while let Some(open) = self.transactions.pop() {
            if let Err(end) = client.submit_for_nobody(open.end) {
                self.transactions.push(Open { id: open.id, end });
                return false;
            }
            give_back(&totals.transactions);
        }
        while let Some(watch) = self.watches.pop() {
            client.remove_watch(watch.id);
            match client.submit_for_nobody(watch.end) {
                Ok(()) => give_back(&totals.watches),
                Err(end) => {
                    self.watches.push(Watch { end, ..watch });
                    return false;
                }
            }
        }
        true
    }
}

/// Checks a message's form; its header, type and payload.
fn parse(message: &[u8]) -> Result<(Header, MessageType, &[u8]), Refusal> {
    let (head, payload) = message.split_first_chunk::<HEADER_SIZE>().ok_or(Refusal::Malformed)?;
    let header = Header::from_bytes(head);
    if payload.len() > PAYLOAD_MAX || header.len as usize != payload.len() {
        return Err(Refusal::Malformed);
    }
    match header.message_type() {
        Some(
            kind @ (MessageType::Directory
            | MessageType::DirectoryPart
            | MessageType::Read
            | MessageType::GetPerms
            | MessageType::SetPerms
            | MessageType::Watch
            | MessageType::Unwatch
            | MessageType::TransactionStart
            | MessageType::TransactionEnd
            | MessageType::GetDomainPath
            | MessageType::Write
            | MessageType::Mkdir
            | MessageType::Rm),
        ) => Ok((header, kind, payload)),
        // Not for a guest's users: the driver's own watches and transactions would go with them, or they are dom0's.
        _ => Err(Refusal::Malformed),
    }
}

fn path_and_token(payload: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let (path, token) = payload::watch_event(payload).map_err(|_| Refusal::Malformed)?;
    if path.is_empty() || token.is_empty() || token.len() > TOKEN_MAX {
        return Err(Refusal::Malformed);
    }
    Ok((path, token))
}

fn event(path: &[u8], token: &[u8]) -> Option<Message> {
    let parts: [&[u8]; 4] = [path, b"\0", token, b"\0"];
    let header = Header::new(MessageType::WatchEvent, 0, 0, &parts).ok()?;
    let mut payload = Vec::new();
    payload.try_reserve_exact(header.len as usize).ok()?;
    for part in parts {
        payload.extend_from_slice(part);
    }
    Some(Message { header: header.to_bytes(), payload, watch: None })
}

fn error_text(errno: Errno) -> Result<Vec<u8>, Refusal> {
    let mut text = Vec::new();
    let name = errno.name().unwrap_or("EIO").as_bytes();
    text.try_reserve_exact(name.len() + 1).map_err(|_| Refusal::NoMemory)?;
    text.extend_from_slice(name);
    text.push(0);
    Ok(text)
}

fn copy(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| Refusal::NoMemory)?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::NoMemory => Refusal::NoMemory,
        StoreError::Busy => Refusal::Quota,
        StoreError::Disconnected | StoreError::TimedOut => Refusal::Disconnected,
        StoreError::Answer(_) | StoreError::Protocol | StoreError::TooLong => Refusal::Malformed,
    }
}

#[cfg(test)]
mod tests;
