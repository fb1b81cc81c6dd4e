use std::collections::BTreeMap;

use xen_abi::xenstore::decode::Decoder;

use super::*;
use crate::core::store::tests::Pair;
use crate::core::testing::page;

/// Users of one client.
struct Users {
    pair: Pair,
    totals: Totals,
    sessions: BTreeMap<u32, Session>,
}

/// A message that a user reads: type, id, payload.
type Got = (u32, u32, Vec<u8>);

fn message(kind: MessageType, id: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header::new(kind, id, transaction, &[payload]).unwrap();
    [&header.to_bytes()[..], payload].concat()
}

impl Users {
    fn new(count: u32) -> Self {
        let sessions = (0..count).map(|number| (number, Session::new().unwrap())).collect();
        Self { pair: Pair::new(512), totals: Totals::new(), sessions }
    }

    fn write(&mut self, user: u32, bytes: &[u8]) -> Result<Option<RequestId>, Refusal> {
        let session = self.sessions.get_mut(&user).unwrap();
        session.write(&mut self.pair.client.borrow_mut(), &self.totals, bytes)
    }

    /// Runs until nothing moves.
    fn settle(&mut self) {
        let answered = self.pair.settle();
        let client = &mut *self.pair.client.borrow_mut();
        let mut taken = Vec::new();
        for session in self.sessions.values_mut() {
            session.take_answers(client, &self.totals, |id| taken.push(id));
        }
        taken.retain(|id| !answered.contains(id));
        assert_eq!(taken, [], "answers that nobody was woken for");
        while let Some(event) = client.next_event() {
            self.sessions.values_mut().any(|session| session.fired(event.watch, &event.path));
        }
    }

    /// Everything that a user can read.
    fn read(&mut self, user: u32) -> Vec<Got> {
        self.settle();
        let session = self.sessions.get_mut(&user).unwrap();
        let (mut decoder, mut got, mut room) = (Decoder::new(vec![0; PAYLOAD_MAX]), Vec::new(), [0; 13]);
        loop {
            let count = session.read(&mut room);
            let mut rest = &room[..count];
            while !rest.is_empty() {
                rest = &rest[decoder.feed(rest).unwrap()..];
                if let Some(message) = decoder.message() {
                    got.push((message.header.kind, message.header.req_id, message.payload.to_vec()));
                    decoder.next();
                }
            }
            if count < room.len() {
                assert!(!session.has_output());
                return got;
            }
        }
    }

    fn ask(&mut self, user: u32, kind: MessageType, transaction: u32, payload: &[u8]) -> Got {
        self.write(user, &message(kind, 7, transaction, payload)).unwrap();
        self.read(user).into_iter().find(|got| got.0 != 15).unwrap()
    }

    fn begin(&mut self, user: u32) -> u32 {
        payload::transaction_id(&self.ask(user, MessageType::TransactionStart, 0, b"\0").2).unwrap()
    }

    fn close(&mut self, user: u32) -> bool {
        let session = self.sessions.get_mut(&user).unwrap();
        session.close(&mut self.pair.client.borrow_mut(), &self.totals)
    }
}

fn error(name: &str) -> Got {
    (16, 7, [name.as_bytes(), b"\0"].concat())
}

#[test]
fn the_same_ids_are_different_requests() {
    let mut users = Users::new(2);
    for user in 0..2 {
        let payload = [b"node\0value of ", user.to_string().as_bytes()].concat();
        users.write(user, &message(MessageType::Write, 5, 0, &payload)).unwrap();
        users.write(user, &message(MessageType::Read, 5, 0, b"node\0")).unwrap();
    }
    let both: Vec<_> = (0..2).map(|user| users.read(user)).collect();
    assert_eq!(both[0], [(11, 5, b"OK\0".to_vec()), (2, 5, b"value of 0".to_vec())]);
    assert_eq!(both[1], [(11, 5, b"OK\0".to_vec()), (2, 5, b"value of 1".to_vec())]);
}

#[test]
fn replies_come_in_the_order_of_the_requests() {
    let mut users = Users::new(1);
    let client = || users.pair.client.borrow_mut();
    let mut session = Session::new().unwrap();
    let mut send = |id, kind, transaction, payload: &[u8]| {
        session.write(&mut client(), &users.totals, &message(kind, id, transaction, payload)).unwrap()
    };
    let ids: Vec<_> = (1..=3).filter_map(|id| send(id, MessageType::Read, 0, b"a\0")).collect();
    // This one is answered here, and waits for those before it.
    assert_eq!(send(4, MessageType::TransactionEnd, 9, b"T\0"), None);
    assert!(!session.has_output());
    users.pair.settle();
    let mut taken = Vec::new();
    session.take_answers(&mut client(), &users.totals, |id| taken.push(id));
    assert_eq!(taken, ids);
    users.sessions.insert(0, session);
    assert_eq!(users.read(0).iter().map(|got| got.1).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn what_is_another_users_cannot_be_named() {
    let mut users = Users::new(2);
    let transaction = users.begin(0);
    assert_eq!(users.ask(1, MessageType::Read, transaction, b"a\0"), error("ENOENT"));
    assert_eq!(users.ask(1, MessageType::TransactionEnd, transaction, b"T\0"), error("ENOENT"));
    assert_eq!(users.ask(0, MessageType::TransactionEnd, transaction, b"T\0").2, b"OK\0");
    assert_eq!(users.ask(0, MessageType::Watch, 0, b"a\0token\0").2, b"OK\0");
    assert_eq!(users.ask(0, MessageType::Watch, 0, b"a\0token\0"), error("EEXIST"));
    assert_eq!(users.ask(1, MessageType::Unwatch, 0, b"a\0token\0"), error("ENOENT"));
    // Nor the driver's: the token that goes over the wire is never a user's.
    let drivers = users.pair.client.borrow_mut().add_watch(b"device").unwrap();
    let payload = [b"device\0", &drivers.token()[..], b"\0"].concat();
    assert_eq!(users.ask(1, MessageType::Unwatch, 0, &payload), error("ENOENT"));
    assert_eq!(users.ask(1, MessageType::Watch, 0, &payload).2, b"OK\0");
    let (kind, _, sent) = users.pair.server.borrow().log.last().unwrap().clone();
    assert!(kind == 4 && sent != payload, "the user's token went over the wire");
    let kinds = (0..32).filter_map(MessageType::from_number);
    for kind in kinds.filter(|kind| matches!(kind.number(), 0 | 8 | 9 | 15..=26) && kind.number() != 22) {
        assert_eq!(users.write(1, &message(kind, 1, 0, b"\0")), Err(Refusal::Malformed), "{kind:?}");
    }
}

#[test]
fn a_close_ends_what_is_open_and_only_that() {
    let mut users = Users::new(2);
    let (first, second) = (users.begin(0), users.begin(1));
    users.ask(0, MessageType::Watch, 0, b"a\0token\0");
    users.ask(1, MessageType::Watch, 0, b"a\0token\0");
    users.write(0, &message(MessageType::TransactionStart, 1, 0, b"\0")).unwrap();
    let before = users.pair.server.borrow().log.len();
    assert!(users.close(0));
    users.sessions.remove(&0);
    users.settle();
    let log = users.pair.server.borrow().log[before..].to_vec();
    assert!(log.contains(&(7, first, b"F\0".to_vec())), "{log:?}");
    assert_eq!(log.iter().filter(|(kind, ..)| *kind == 5).count(), 1, "{log:?}");
    assert!(!log.iter().any(|(kind, transaction, _)| *kind == 7 && *transaction == second), "{log:?}");
    users.pair.server.borrow_mut().event(b"a", b"nobody's");
    assert_eq!(users.ask(1, MessageType::TransactionEnd, second, b"T\0").2, b"OK\0");
    assert!(users.close(1) && users.totals.is_idle());
}

#[test]
fn a_close_waits_for_room() {
    let mut users = Users::new(1);
    users.begin(0);
    users.ask(0, MessageType::Watch, 0, b"a\0token\0");
    users.pair.server.borrow_mut().mute = true;
    // The driver's own requests take every slot.
    while users.pair.submit(MessageType::Read, NO_TRANSACTION, &[b"x\0"]).is_ok() {}
    assert!(!users.close(0) && !users.totals.is_idle());
    users.pair.settle();
    let mut client = users.pair.client.borrow_mut();
    let _ = client.disconnect(|_| {});
    drop(client);
    assert!(users.close(0), "without a connection there is nothing to end");
    assert!(users.totals.is_idle());
}

#[test]
fn a_new_domain_voids_transactions_and_keeps_watches() {
    let mut users = Users::new(1);
    let transaction = users.begin(0);
    users.ask(0, MessageType::Watch, 0, b"a\0token\0");
    users.pair.server.borrow_mut().mute = true;
    users.write(0, &message(MessageType::Read, 9, transaction, b"a\0")).unwrap();
    users.settle();
    let mut woken = Vec::new();
    users.pair.client.borrow_mut().connect(page(), |id| woken.push(id));
    assert_eq!(woken.len(), 1);
    let session = users.sessions.get_mut(&0).unwrap();
    let mut taken = Vec::new();
    session.take_answers(&mut users.pair.client.borrow_mut(), &users.totals, |id| taken.push(id));
    assert_eq!(taken, woken);
    let again = message(MessageType::TransactionEnd, 10, transaction, b"T\0");
    assert_eq!(session.write(&mut users.pair.client.borrow_mut(), &users.totals, &again), Ok(None));
    let mut room = [0; 256];
    let count = session.read(&mut room);
    assert_eq!(room[..count].windows(7).filter(|window| window == b"EAGAIN\0").count(), 2);
    assert_eq!(users.pair.client.borrow().watches().count(), 1, "to be set again");
}

#[test]
fn events_that_nobody_reads_are_summed_up() {
    let mut users = Users::new(1);
    users.ask(0, MessageType::Watch, 0, b"data\0token\0");
    assert_eq!(users.read(0), [], "the first event was read with the answer");
    let token = users.sessions[&0].watches[0].id.token();
    for number in 0..1000 {
        users.pair.server.borrow_mut().event(format!("data/{number}").as_bytes(), &token);
        users.settle();
    }
    let events = users.read(0);
    assert_eq!(events.len(), EVENTS_OF_WATCH + 1);
    assert_eq!(events.last().unwrap().2, b"data\0token\0");
    // A watch that ends while its event is half read: the rest of it comes, and no other.
    for number in 0..3 {
        users.pair.server.borrow_mut().event(format!("data/{number}").as_bytes(), &token);
        users.settle();
    }
    let session = users.sessions.get_mut(&0).unwrap();
    let mut part = [0; 20];
    assert_eq!(session.read(&mut part), 20);
    users.write(0, &message(MessageType::Unwatch, 3, 0, b"data\0token\0")).unwrap();
    users.settle();
    let session = users.sessions.get_mut(&0).unwrap();
    let mut rest = [0; 256];
    let count = session.read(&mut rest);
    assert_eq!(&rest[..count], [b"/0\0token\0", &message(MessageType::Unwatch, 3, 0, b"OK\0")[..]].concat());
}

#[test]
fn nothing_that_is_written_does_harm() {
    /// Numbers from a fixed start: a run is the same each time.
    struct Dice(u64);
    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }
    }
    let mut dice = Dice(1);
    let mut users = Users::new(3);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..100_000_u32 {
        let user = dice.below(3) as u32;
        let kind = [1, 2, 3, 4, 5, 6, 7, 11, 12, 13][dice.below(10) as usize];
        let payload: &[u8] = match kind {
            4 | 5 => [&b"a\0t\0"[..], b"b\0t\0", b"b\0u\0", b"b\0", b"\0\0"][dice.below(5) as usize],
            6 => b"\0",
            7 => [b"T\0", b"F\0"][dice.below(2) as usize],
            _ => [&b"a\0"[..], b"a\0value", b"", b"\xFF"][dice.below(4) as usize],
        };
        let transaction = if dice.below(3) == 0 { dice.below(50) as u32 } else { 0 };
        let mut bytes =
            Header { kind, req_id: round, tx_id: transaction, len: payload.len() as u32 }.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        match dice.below(20) {
            0 => bytes.truncate(dice.below(bytes.len() as u64 + 1) as usize),
            1 => bytes[dice.below(16) as usize] = dice.below(256) as u8,
            _ => {}
        }
        // What the header says after that, which a server of a few lines could not follow.
        let kind = bytes.first().copied().unwrap_or_default();
        if kind == 22 || bytes.get(1..4).is_some_and(|rest| rest != [0; 3]) {
            continue;
        }
        match users.write(user, &bytes) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
        match dice.below(16) {
            0..4 => drop(users.read(user)),
            4 => users.settle(),
            5 if dice.below(20) == 0 => {
                assert!(users.close(user));
                users.sessions.insert(user, Session::new().unwrap());
            }
            _ => {}
        }
    }
    assert!(taken > 30_000 && refused > 10_000, "{taken} taken, {refused} refused");
    for user in 0..3 {
        assert!(users.close(user));
    }
    users.settle();
    assert!(users.totals.is_idle());
    assert_eq!(users.pair.client.borrow().watches().count(), 0);
    assert!(users.pair.client.borrow().is_quiet());
}
