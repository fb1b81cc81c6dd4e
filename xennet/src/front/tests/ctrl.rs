//! The control ring.

use std::{cell::RefCell, rc::Rc, string::ToString, vec::Vec};

use xen_abi::{
    netif::{Ctrl, CtrlRequest, CtrlResponse, CtrlStatus, HashTypes},
    ring::{BackRing, RSP_PROD},
    shared::SharedMemory,
};

use crate::front::{
    SetupError,
    ctrl::{CtrlError, Hash, REFERENCES, Ring, Wait},
};
use fake_bus::{Pages, Ram, TestBus};

/// What a backend was told.
#[derive(Default)]
struct State {
    algorithm: u32,
    flags: u32,
    key: Vec<u8>,
    mapping: Vec<u32>,
}

/// How a backend answers.
type Answer = fn(&CtrlRequest, CtrlResponse) -> Option<CtrlResponse>;

/// A backend that answers whenever somebody waits for it.
struct Peer<'a> {
    bus: &'a TestBus,
    ram: Ram,
    memory: Pages,
    ring: BackRing<Ctrl, Pages>,
    state: Rc<RefCell<State>>,
    answer: Answer,
    notified: u32,
    patience: u32,
}

impl Peer<'_> {
    fn carry_out(&self, request: &CtrlRequest) -> (u32, u32) {
        let mut state = self.state.borrow_mut();
        let bytes = |count: usize| {
            let grant = self.bus.grant(request.data[0]);
            assert!(grant.read_only);
            self.ram.bytes(grant.frame * 4096, count)
        };
        let [value, count, offset] = request.data;
        match request.kind {
            7 if value < 2 => state.algorithm = value,
            1 => return (0, 15),
            2 => state.flags = value,
            3 => state.key = bytes(count as usize),
            4 => return (0, 128),
            5 => state.mapping = std::vec![0; value as usize],
            6 => {
                let words: Vec<u32> = bytes(count as usize * 4)
                    .chunks(4)
                    .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
                    .collect();
                state.mapping[offset as usize..][..words.len()].copy_from_slice(&words);
            }
            _ => return (1, 0),
        }
        (0, 0)
    }
}

impl Wait for Peer<'_> {
    fn notify(&mut self) {
        self.notified += 1;
    }
    fn wait(&mut self) -> bool {
        while let Some(request) = self.ring.take().unwrap() {
            let (status, data) = self.carry_out(&request);
            let response = CtrlResponse { id: request.id, kind: request.kind, status, data };
            if let Some(response) = (self.answer)(&request, response) {
                self.ring.push(&response).unwrap();
                let _ = self.ring.publish();
            }
        }
        let _ = self.ring.final_check();
        self.patience = self.patience.saturating_sub(1);
        self.patience > 0
    }
}

const KEY: [u8; 40] = [0x6D; 40];
const MAPPING: [u16; 128] = {
    let mut mapping = [0; 128];
    let mut at = 0;
    while at < 128 {
        mapping[at] = at as u16 % 3;
        at += 1;
    }
    mapping
};

fn hash() -> Hash<'static> {
    Hash { types: HashTypes::all(), key: &KEY, mapping: &MAPPING, queues: 3 }
}

fn connect(bus: &TestBus, answer: Answer) -> (Ring<Pages>, Peer<'_>) {
    let ram = Ram::default();
    let (memory, page) = (Pages::new(&ram, 0x100, 1), Pages::new(&ram, 0x101, 1));
    let references = bus.references(REFERENCES).try_into().unwrap();
    let ring = Ring::new(bus, memory.clone(), page, references).unwrap();
    assert_eq!(bus.grant(ring.ring_ref().unwrap()).frame, 0x100);
    let back = BackRing::attach(memory.clone()).unwrap();
    let peer = Peer { bus, ram, memory, ring: back, state: Rc::default(), answer, notified: 0, patience: 100 };
    (ring, peer)
}

#[test]
fn the_hash_is_set_and_cleared() {
    let bus = TestBus::new();
    let (mut ring, mut peer) = connect(&bus, |_, response| Some(response));
    let narrow = Hash { types: HashTypes::IPV4_TCP | HashTypes::IPV6_TCP, ..hash() };
    for hash in [hash(), narrow] {
        assert_eq!(ring.set_hash(&bus, &hash, &mut peer), Ok(hash.types));
        let state = peer.state.borrow();
        assert_eq!((state.algorithm, state.flags), (1, hash.types.bits()));
        assert_eq!(state.key, KEY);
        assert!(state.mapping.iter().copied().eq(MAPPING.iter().map(|queue| u32::from(*queue))));
    }
    assert_eq!(peer.notified, 14, "once a request");
    assert_eq!(ring.clear_hash(&bus, &mut peer), Ok(()));
    assert_eq!(peer.state.borrow().algorithm, 0);
    ring.close(&bus);
    assert_eq!(bus.out(), 0);
    assert_eq!(ring.set_hash(&bus, &hash(), &mut peer), Err(CtrlError::Silent));
}

#[test]
fn what_cannot_be_asked_for_is_not() {
    let bus = TestBus::new();
    let (mut ring, mut peer) = connect(&bus, |_, response| Some(response));
    for wrong in [
        Hash { key: &[0; 41], ..hash() },
        Hash { mapping: &[], ..hash() },
        Hash { mapping: &[0; 129], ..hash() },
        Hash { mapping: &[0, 3], ..hash() },
        Hash { types: HashTypes::empty(), ..hash() },
    ] {
        assert_eq!(ring.set_hash(&bus, &wrong, &mut peer), Err(CtrlError::Parameter));
    }
    assert_eq!(peer.notified, 0);
    ring.close(&bus);
}

#[test]
fn a_refusal_is_reported_and_nothing_half_done_stays() {
    let bus = TestBus::new();
    let cases: [(Answer, CtrlError); 5] = [
        (
            |request, response| Some(CtrlResponse { status: if request.kind == 3 { 3 } else { 0 }, ..response }),
            CtrlError::Refused(3, CtrlStatus::BufferOverflow),
        ),
        (
            |request, response| Some(CtrlResponse { status: u32::from(request.kind == 7) * 2, ..response }),
            CtrlError::Refused(7, CtrlStatus::InvalidParameter),
        ),
        (
            |request, response| {
                Some(CtrlResponse { data: if request.kind == 4 { 64 } else { response.data }, ..response })
            },
            CtrlError::Mapping(64),
        ),
        (
            |request, response| {
                Some(CtrlResponse { data: if request.kind == 1 { 0xF0 } else { response.data }, ..response })
            },
            CtrlError::Types(0xF0),
        ),
        (
            |request, response| Some(CtrlResponse { status: u32::from(request.kind == 6), ..response }),
            CtrlError::Refused(6, CtrlStatus::NotSupported),
        ),
    ];
    for (answer, due) in cases {
        let (mut ring, mut peer) = connect(&bus, answer);
        assert_eq!(ring.set_hash(&bus, &hash(), &mut peer), Err(due), "{due}");
        assert_eq!(peer.state.borrow().algorithm, 0, "{due}");
        assert!(!ring.is_broken());
        ring.close(&bus);
    }
}

#[test]
fn a_silent_backend_is_asked_no_more() {
    let bus = TestBus::new();
    let (mut ring, mut peer) = connect(&bus, |request, response| (request.kind != 2).then_some(response));
    assert_eq!(ring.set_hash(&bus, &hash(), &mut peer), Err(CtrlError::Timeout(2)));
    let notified = peer.notified;
    peer.answer = |_, response| Some(response);
    assert_eq!(ring.set_hash(&bus, &hash(), &mut peer), Err(CtrlError::Silent));
    assert_eq!(peer.notified, notified);
    assert_eq!(CtrlError::Timeout(2).to_string(), "control request 2 was not answered in time");
    ring.close(&bus);
}

#[test]
fn lies_break_the_ring() {
    let lies: [(Answer, &str); 4] = [
        (|_, response| Some(CtrlResponse { id: response.id ^ 0x100, ..response }), "response id 256"),
        (|_, response| Some(CtrlResponse { kind: 200, ..response }), "type 200"),
        (|_, response| Some(CtrlResponse { status: 4, ..response }), "status 4"),
        (|_, response| Some(CtrlResponse { status: u32::MAX, ..response }), "status 4294967295"),
    ];
    for (lie, text) in lies {
        let bus = TestBus::new();
        let (mut ring, mut peer) = connect(&bus, lie);
        assert_eq!(ring.set_hash(&bus, &hash(), &mut peer), Err(CtrlError::Broken));
        assert!(ring.is_broken() && bus.logged(text), "{}", bus.log_text());
        assert_eq!(ring.clear_hash(&bus, &mut peer), Err(CtrlError::Broken));
        ring.close(&bus);
    }
    for index in [5, 0x8000_0000, u32::MAX] {
        let bus = TestBus::new();
        let (mut ring, mut peer) = connect(&bus, |_, _| None);
        peer.memory.store_u32(RSP_PROD, index);
        assert_eq!(ring.set_hash(&bus, &hash(), &mut peer), Err(CtrlError::Broken));
        assert!(bus.logged("rsp_prod"));
        ring.close(&bus);
    }
}

#[test]
fn pages_that_the_peer_keeps_are_given_up() {
    let bus = TestBus::new();
    let (mut ring, peer) = connect(&bus, |_, response| Some(response));
    bus.kept.borrow_mut().push(ring.ring_ref().unwrap());
    ring.close(&bus);
    assert_eq!((peer.memory.leaked.get(), bus.out()), (1, 1));
    // And so they are where nobody closes the ring.
    let (ring, peer) = connect(&bus, |_, response| Some(response));
    drop(ring);
    assert_eq!(peer.memory.leaked.get(), 1);
    // No memory for a ring: the references come back.
    let ram = Ram::default();
    let references = bus.references(REFERENCES).try_into().unwrap();
    let out = bus.out();
    let made = Ring::new(&bus, Pages::new(&ram, 9, 2), Pages::new(&ram, 20, 1), references);
    assert_eq!(made.err(), Some(SetupError::Memory));
    assert_eq!(bus.out(), out - REFERENCES);
}
