//! The receive queue.

use std::{vec, vec::Vec};

use xen_abi::netif::{Extra, GsoType, HASH_TOEPLITZ, RSP_DROPPED, RSP_ERROR, RxFlags, RxResponse};

use fake_bus::{Pages, Ram, TestBus};

use super::{Random, backend::Backend, frames::Shape};
use crate::front::{
    SetupError,
    rx::{Checksum, FRAGMENTS, Gso, Queue, Received},
};

/// A queue, its bus, and a backend.
pub struct Rig {
    pub bus: TestBus,
    pub ram: Ram,
    pub queue: Queue<Pages>,
    pub backend: Option<Backend>,
    pub pool: Pages,
    next_frame: u64,
    ring: Option<Pages>,
}

impl Rig {
    pub fn new(pages: usize) -> Self {
        let ram = Ram::default();
        let pool = Pages::new(&ram, 0x9000, pages);
        let queue = Queue::new(pool.clone()).unwrap();
        Self { bus: TestBus::new(), ram, queue, backend: None, pool, next_frame: 0x1_0000, ring: None }
    }

    pub fn connected(pages: usize) -> Self {
        let mut rig = Self::new(pages);
        rig.connect();
        rig
    }

    pub fn attach(&mut self) -> Result<(), SetupError> {
        self.next_frame += 1;
        let ring = Pages::new(&self.ram, self.next_frame, 1);
        self.ring = Some(ring.clone());
        let references = self.bus.references(self.queue.references_wanted());
        self.queue.attach(&self.bus, ring, &references)
    }

    pub fn connect(&mut self) {
        self.attach().unwrap();
        self.backend = Some(Backend::rx(&self.ram, self.ring.clone().unwrap()));
        assert!(self.queue.start(&self.bus).notify);
    }

    pub fn peer(&mut self) -> &mut Backend {
        self.backend.as_mut().unwrap()
    }

    pub fn deliver(&mut self, bytes: &[u8], flags: RxFlags, extras: &[Extra], offset: u16) {
        self.backend.as_mut().unwrap().deliver(&self.bus, bytes, flags, extras, offset);
    }

    pub fn poll(&mut self) -> Option<Received> {
        self.queue.poll(&self.bus, &mut u32::MAX.clone())
    }

    /// A packet's bytes, read by its owner.
    pub fn bytes(&self, packet: &Received) -> Vec<u8> {
        let mut all = Vec::new();
        for fragment in packet.fragments() {
            let frame = self.pool.address(usize::from(fragment.buffer) * 4096) / 4096;
            assert!(!self.bus.is_shared(frame), "the peer can write to what is looked at");
            let mut bytes = vec![0; usize::from(fragment.len)];
            assert!(self.queue.read(fragment.buffer, usize::from(fragment.offset), &mut bytes));
            all.extend(bytes);
        }
        assert_eq!(all.len(), packet.len as usize);
        all
    }

    pub fn give_back(&mut self, packet: &Received) {
        for fragment in packet.fragments() {
            self.queue.give_back(fragment.buffer);
        }
    }

    /// Leaked pages, the pool and the last ring.
    pub fn leaked(&self) -> u32 {
        self.pool.leaked.get() + self.ring.as_ref().map_or(0, |ring| ring.leaked.get())
    }
}

const BLANK: RxFlags = RxFlags::CSUM_BLANK.union(RxFlags::DATA_VALIDATED);

#[test]
fn packets_of_all_kinds_come_through_again_and_again() {
    let mut random = Random(5);
    let mut rig = Rig::connected(700);
    let mut out: Vec<(Received, Vec<u8>)> = Vec::new();
    let mut count = 0;
    for _ in 0..1500 {
        let v6 = random.once_in(2);
        let large = random.once_in(4);
        let most = if large { 60_000 } else { 1400 };
        let len = random.below(most) as usize;
        let shape = Shape { tcp: large || random.once_in(2), v6, ..Shape::tcp4(random.bytes(len)) };
        let frame = shape.frame();
        let kind = if v6 { GsoType::TcpV6 } else { GsoType::TcpV4 };
        let mut extras = Vec::new();
        if large {
            extras.push(Extra::Gso { kind, size: 1448 });
        }
        if random.once_in(2) {
            extras.push(Extra::Hash { kind: 1, algorithm: HASH_TOEPLITZ, value: random.next() as u32 });
        }
        if random.once_in(8) {
            extras.push(Extra::Xdp { headroom: 256 });
        }
        let flags = [RxFlags::empty(), RxFlags::DATA_VALIDATED, BLANK][random.below(3) as usize];
        rig.deliver(&frame, flags, &extras, [0, 256][random.below(2) as usize]);
        let packet = rig.poll().expect("a packet");
        assert_eq!(rig.bytes(&packet), frame);
        count += 1;
        let checksum = [Checksum::Unknown, Checksum::Validated, Checksum::Blank];
        assert_eq!(packet.checksum, checksum[[0, 1, 3].iter().position(|bits| *bits == flags.bits()).unwrap()]);
        assert_eq!(packet.gso, large.then_some(Gso { kind, size: 1448 }));
        let hash = extras.iter().find_map(|extra| match extra {
            Extra::Hash { kind, value, .. } => Some((*kind, *value)),
            _ => None,
        });
        assert_eq!(packet.hash, hash);
        assert_eq!(packet.headers.map(|headers| usize::from(headers.len)), Some(shape.header_len()));
        if packet.checksum == Checksum::Blank {
            assert!(rig.queue.fill_checksum(&packet));
            let mut due = shape.whole();
            let network = shape.network();
            if !v6 {
                due[network + 10..network + 12].fill(0);
            }
            assert!(rig.bytes(&packet) == due);
        }
        let now = rig.bytes(&packet);
        out.push((packet, now));
        assert!(rig.poll().is_none());
        // Owners keep some for a while.
        while out.len() > 20 || (!out.is_empty() && random.once_in(2)) {
            let (packet, bytes) = out.swap_remove(random.below(out.len() as u64) as usize);
            assert!(rig.bytes(&packet) == bytes, "nobody else wrote to it");
            rig.give_back(&packet);
        }
        if rig.queue.rearm(&rig.bus).more {
            assert!(rig.poll().is_none());
        }
    }
    for (packet, _) in &out {
        rig.give_back(packet);
    }
    assert_eq!(rig.queue.counters().packets, count);
    assert_eq!(rig.queue.counters().malformed, 0);
    rig.queue.detach(&rig.bus);
    assert_eq!((rig.bus.out(), rig.leaked(), rig.queue.available()), (0, 0, 700));
}

#[test]
fn a_page_is_scrubbed_before_the_backend_gets_it_again() {
    let mut rig = Rig::connected(1 + FRAGMENTS);
    let frame = Shape::udp4(vec![0xAA; 900]).whole();
    rig.deliver(&frame, RxFlags::empty(), &[], 100);
    let packet = rig.poll().unwrap();
    let fragment = packet.fragments()[0];
    // The guest decrypts in place.
    assert!(rig.queue.write(fragment.buffer, usize::from(fragment.offset) + 42, b"a secret"));
    let address = rig.pool.address(usize::from(fragment.buffer) * 4096);
    rig.give_back(&packet);
    while rig.peer().page().is_some() {}
    assert!(!rig.bus.is_shared(address / 4096));
    assert!(rig.queue.replenish(&rig.bus));
    assert!(rig.bus.is_shared(address / 4096));
    assert!(rig.ram.bytes(address, 4096).iter().all(|byte| *byte == 0));
}

#[test]
fn only_what_was_handed_out_can_be_touched_or_given_back() {
    let mut rig = Rig::connected(64);
    rig.deliver(&Shape::udp4(vec![1; 100]).whole(), RxFlags::empty(), &[], 100);
    let packet = rig.poll().unwrap();
    let fragment = packet.fragments()[0];
    let mut byte = [0];
    assert!(!rig.queue.read(fragment.buffer, 99, &mut byte));
    assert!(!rig.queue.read(fragment.buffer, usize::from(fragment.offset + fragment.len), &mut byte));
    for other in (0..64).filter(|other| *other != fragment.buffer).chain([64, u16::MAX]) {
        assert!(!rig.queue.write(other, 0, &byte), "not with its owner");
        rig.queue.give_back(other);
    }
    let before = rig.queue.available();
    rig.queue.give_back(fragment.buffer);
    rig.queue.give_back(fragment.buffer);
    assert_eq!(rig.queue.available(), before + 1, "once");
}

#[test]
fn errors_of_the_backend_are_dropped_and_counted() {
    let mut rig = Rig::connected(300);
    for (round, status) in [RSP_ERROR, RSP_DROPPED].into_iter().enumerate() {
        let request = rig.peer().page().unwrap();
        rig.peer().push(RxResponse { id: request.id, offset: 0, flags: 0, status });
        rig.peer().publish();
        assert!(rig.poll().is_none());
        assert_eq!(rig.queue.counters().errors, round as u64 + 1);
    }
    // In the middle of a packet: all of it goes, and the next one is whole.
    let more = RxFlags::MORE_DATA.bits();
    for (flags, status) in [(more, 2000), (more, RSP_ERROR), (0, 2000)] {
        let request = rig.peer().page().unwrap();
        rig.peer().push(RxResponse { id: request.id, offset: 0, flags, status });
    }
    rig.peer().publish();
    let frame = Shape::udp4(vec![1; 100]).whole();
    rig.deliver(&frame, RxFlags::empty(), &[], 0);
    let packet = rig.poll().unwrap();
    assert_eq!(rig.bytes(&packet), frame);
    assert_eq!((rig.queue.counters().errors, rig.queue.counters().packets), (3, 1));
    let _ = rig.queue.rearm(&rig.bus);
    assert_eq!(rig.queue.available(), 299);
}

#[test]
fn a_packet_in_parts_waits_for_the_rest() {
    let mut rig = Rig::connected(300);
    let frame = Shape::udp4(vec![7; 6000]).whole();
    let first = rig.peer().page().unwrap();
    rig.backend.as_ref().unwrap().fill(&rig.bus, first, 0, &frame[..4096]);
    let more = RxFlags::MORE_DATA.bits();
    rig.peer().push(RxResponse { id: first.id, offset: 0, flags: more, status: 4096 });
    rig.peer().publish();
    assert!(rig.poll().is_none());
    let _ = rig.queue.rearm(&rig.bus);
    let second = rig.peer().page().unwrap();
    rig.backend.as_ref().unwrap().fill(&rig.bus, second, 10, &frame[4096..]);
    rig.peer().push(RxResponse { id: second.id, offset: 10, flags: 0, status: (frame.len() - 4096) as i16 });
    rig.peer().publish();
    let packet = rig.poll().unwrap();
    assert_eq!(rig.bytes(&packet), frame);
    // A new connection does not see the beginning of an old one's.
    let third = rig.peer().page().unwrap();
    rig.peer().push(RxResponse { id: third.id, offset: 0, flags: more, status: 4096 });
    rig.peer().publish();
    assert!(rig.poll().is_none());
    rig.queue.detach(&rig.bus);
    rig.connect();
    rig.deliver(&frame, RxFlags::empty(), &[], 0);
    let again = rig.poll().unwrap();
    assert_eq!(rig.bytes(&again), frame);
    assert_eq!(rig.bytes(&packet), frame, "what was handed out outlives the connection");
    rig.give_back(&packet);
    rig.give_back(&again);
    let _ = rig.queue.rearm(&rig.bus);
    assert_eq!(rig.queue.available(), 300);
}

#[test]
fn the_budget_is_kept() {
    let mut rig = Rig::connected(300);
    for _ in 0..50 {
        rig.deliver(&Shape::udp4(vec![1; 100]).whole(), RxFlags::empty(), &[], 0);
    }
    let mut budget = 20;
    let mut packets = 0;
    while rig.queue.poll(&rig.bus, &mut budget).is_some() {
        packets += 1;
    }
    assert_eq!((packets, budget), (20, 0));
    assert!(rig.queue.rearm(&rig.bus).more);
}

#[test]
fn exhausted_pages_are_waited_out() {
    let mut rig = Rig::connected(40);
    let frame = Shape::udp4(vec![1; 100]).whole();
    let mut out = Vec::new();
    for _ in 0..40 {
        rig.deliver(&frame, RxFlags::empty(), &[], 0);
        out.push(rig.poll().unwrap());
        let _ = rig.queue.rearm(&rig.bus);
    }
    assert_eq!(rig.queue.available(), 0);
    assert!(rig.peer().page().is_none());
    for packet in &out {
        rig.give_back(packet);
    }
    assert!(rig.queue.replenish(&rig.bus));
    rig.deliver(&frame, RxFlags::empty(), &[], 0);
    assert!(rig.poll().is_some());
}

#[test]
fn freeze_leaves_everything_as_it_is() {
    let mut rig = Rig::connected(300);
    rig.queue.freeze();
    rig.deliver(&Shape::udp4(vec![1; 100]).whole(), RxFlags::empty(), &[], 0);
    assert!(rig.poll().is_none());
    assert!(!rig.queue.rearm(&rig.bus).more && !rig.queue.replenish(&rig.bus));
    assert!(rig.queue.thaw(&rig.bus).more);
    assert!(rig.poll().is_some());
}

#[test]
fn too_few_references_are_an_error_and_nothing_stays() {
    for limit in [0, 1, 10] {
        let mut rig = Rig::new(300);
        rig.bus.limit.set(limit);
        assert_eq!(rig.attach(), Err(SetupError::NoGrants));
        assert_eq!((rig.bus.out(), rig.leaked()), (0, 0));
    }
    // With fewer than slots, fewer pages are given.
    let mut rig = Rig::new(300);
    rig.bus.limit.set(41);
    rig.connect();
    let mut pages = 0;
    while rig.peer().page().is_some() {
        pages += 1;
    }
    assert_eq!(pages, 40);
}
