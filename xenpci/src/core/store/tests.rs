//! The client against a small xenstored in the same thread.

use std::cell::RefCell;
use std::collections::BTreeMap;

use xen_abi::shared::SharedRegion;
use xen_abi::xenstore::Header;
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
