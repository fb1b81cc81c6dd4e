//! The ring against a backend written here, and negotiation against a store written here.

use std::{boxed::Box, vec, vec::Vec};

use fake_bus::{Pages, Ram, TestBus};
use xen_abi::{
    blkif::{self, Blkif, Command, Direction, RawResponse},
    ring::BackRing,
    shared::SharedMemory,
};
use xenbus::{pages::take_references, path::Path};

use super::{
    config::{self, FlushBy, RingOffer, Spelling},
    io::{Io, Kind, Request, Run, Status},
    ring::{Abilities, BOUNCE_PAGES, FixedTables, HeapTables, Ring, SetupError, Tables},
};

/// A request over RAM from `address` on, or, where that is not in whole sectors, over `bytes`.
struct Test {
    io: Io,
    name: u32,
    address: u64,
    bytes: Vec<u8>,
    ranges: Vec<(u64, u64)>,
}

type Boxed = Box<Test>;

impl Request for Boxed {
    fn io(&self) -> &Io {
        &self.io
    }
    fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }
    fn run(&mut self, offset: u32) -> Option<Run> {
        // Runs of two pages.
        let address = self.address + u64::from(offset);
        Some(Run { address, bytes: 8192 - (address % 8192) as u32 })
    }
    fn bytes(&mut self, offset: u32, len: u32) -> Option<&mut [u8]> {
        self.bytes.get_mut(offset as usize..(offset + len) as usize)
    }
    fn discard(&self, index: u32) -> Option<(u64, u64)> {
        self.ranges.get(index as usize).copied()
    }
}

#[expect(clippy::unnecessary_box_returns, reason = "the ring's handle is the box")]
fn request(name: u32, kind: Kind, sector: u64, count: u32) -> Boxed {
    let address = 0x4000_0000 + u64::from(name) * 0x80_0000 + 0x200;
    Box::new(Test { io: Io::new(kind, sector, count), name, address, bytes: Vec::new(), ranges: Vec::new() })
}

/// The other end.
struct Backend {
    ram: Ram,
    ring: BackRing<Blkif, Pages>,
    disk: Vec<u8>,
    flushes: u32,
    discards: Vec<(u64, u64)>,
    largest: usize,
    served: u32,
}

impl Backend {
    fn new(ram: &Ram, ring: Pages) -> Self {
        let ring = BackRing::attach(ring).unwrap();
        Self {
            ram: ram.clone(),
            ring,
            disk: (0..8 << 20).map(|at: u32| (at / 512 * 7 + at) as u8).collect(),
            flushes: 0,
            discards: Vec::new(),
            largest: 0,
            served: 0,
        }
    }

    /// Takes the next request and carries it out; its answer.
    fn serve(&mut self, bus: &TestBus) -> Option<RawResponse> {
        let raw = self.ring.take().unwrap()?;
        self.served += 1;
        let request = blkif::Request::decode(&raw).unwrap();
        match request.command {
            Command::Rw { direction, sector, segments } => {
                let list: Vec<_> = segments.iter().collect();
                self.transfer(bus, direction, sector, &list);
            }
            Command::Indirect { direction, sector, segment_count, pages } => {
                let grant = bus.grant(pages[0]);
                assert!(grant.read_only);
                let mut bytes = vec![0; usize::from(segment_count) * 8];
                self.ram.read(grant.frame * 4096, &mut bytes);
                let list: Vec<_> = bytes
                    .chunks(8)
                    .map(|raw| {
                        let gref = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
                        blkif::Segment::new(gref, raw[4], raw[5]).unwrap()
                    })
                    .collect();
                self.transfer(bus, direction, sector, &list);
            }
            Command::Flush | Command::Barrier { .. } => self.flushes += 1,
            Command::Discard { sector, sector_count, .. } => self.discards.push((sector, sector_count)),
        }
        Some(RawResponse::new(request.id, request.command.answered_as(), blkif::RSP_OKAY))
    }

    fn transfer(&mut self, bus: &TestBus, direction: Direction, sector: u64, list: &[blkif::Segment]) {
        self.largest = self.largest.max(list.len());
        let mut at = sector as usize * 512;
        for segment in list {
            let grant = bus.grant(segment.gref());
            let (offset, len) = segment.bytes();
            let address = grant.frame * 4096 + offset as u64;
            match direction {
                Direction::Read => {
                    assert!(!grant.read_only);
                    self.ram.write(address, &self.disk[at..at + len]);
                }
                Direction::Write => {
                    assert!(grant.read_only);
                    self.ram.read(address, &mut self.disk[at..at + len]);
                }
            }
            at += len;
        }
    }

    fn run(&mut self, bus: &TestBus) {
        while let Some(response) = self.serve(bus) {
            self.answer(&response);
        }
    }

    fn answer(&mut self, response: &RawResponse) {
        self.ring.push(response).unwrap();
        let _ = self.ring.publish();
    }
}

type TestRing<T = HeapTables<Boxed>> = Ring<Boxed, Pages, T>;

const ALL: Abilities = Abilities { flush: Some(FlushBy::Flush), indirect: 256 };

fn ring(ram: &Ram) -> TestRing {
    Ring::new(HeapTables::new(64, 512, 8, 600).unwrap(), Pages::new(ram, 0x9000, 8 + 2 * BOUNCE_PAGES), 7).unwrap()
}

fn attach<T: Tables<Boxed>>(ring: &mut TestRing<T>, bus: &TestBus, memory: Pages) -> Result<(), SetupError> {
    let mut references = vec![0; ring.references_wanted(memory.size() / 4096)];
    let taken = take_references(bus, &mut references);
    ring.attach(bus, memory, &references[..taken])
}

fn connect<T: Tables<Boxed>>(
    ring: &mut TestRing<T>,
    bus: &TestBus,
    ram: &Ram,
    pages: usize,
    abilities: Abilities,
) -> Backend {
    let memory = Pages::new(ram, 0xA000 + bus.made.get(), pages);
    attach(ring, bus, memory.clone()).unwrap();
    assert_eq!(ring.ring_refs().len(), pages);
    let backend = Backend::new(ram, memory);
    ring.start(bus, abilities);
    backend
}

fn finished<T: Tables<Boxed>>(ring: &mut TestRing<T>, bus: &TestBus) -> Vec<(Boxed, Status)> {
    let mut all = Vec::new();
    loop {
        let mut budget = u32::MAX;
        while let Some(one) = ring.take_finished(bus, &mut budget) {
            all.push(one);
        }
        if !ring.rearm(bus).more {
            return all;
        }
    }
}

/// Runs until the ring is idle.
fn settle<T: Tables<Boxed>>(ring: &mut TestRing<T>, bus: &TestBus, backend: &mut Backend) -> Vec<(Boxed, Status)> {
    let mut all = Vec::new();
    for _ in 0..10_000 {
        backend.run(bus);
        all.extend(finished(ring, bus));
        if ring.is_idle() {
            return all;
        }
    }
    panic!("no end");
}

fn submit<T: Tables<Boxed>>(ring: &mut TestRing<T>, bus: &TestBus, request: Boxed) -> bool {
    ring.submit(bus, request).ok().expect("no room").notify
}

#[test]
fn reads_and_writes_move_the_right_bytes() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 2, ALL);
    let idle = bus.live(0..u64::MAX).len();
    for (name, count) in [1, 7, 8, 9, 88, 100, 2048, 8191].into_iter().enumerate() {
        let read = request(name as u32, Kind::Read, 3, count);
        let mut write = request(name as u32 + 20, Kind::Write, 3, count);
        submit(&mut ring, &bus, read);
        let done = settle(&mut ring, &bus, &mut backend);
        assert_eq!((done.len(), done[0].1), (1, Status::Done));
        let len = count as usize * 512;
        let mut got = vec![0; len];
        ram.read(done[0].0.address, &mut got);
        assert!(got == backend.disk[1536..1536 + len], "{count} sectors");
        let data: Vec<u8> = (0..len).map(|at| (at / 3) as u8 ^ 0x5a).collect();
        ram.write(write.address, &data);
        write.io.force = true;
        let flushes = backend.flushes;
        submit(&mut ring, &bus, write);
        assert_eq!(settle(&mut ring, &bus, &mut backend)[0].1, Status::Done);
        assert!(backend.disk[1536..1536 + len] == data);
        assert_eq!(backend.flushes, flushes + 1, "a forced write is flushed");
        assert_eq!(bus.live(0..u64::MAX).len(), idle, "every grant of the request is ended");
    }
    assert_eq!(backend.largest, 256);
}

#[test]
fn small_rings_and_direct_segments_do_as_well() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, Abilities { flush: None, indirect: 0 });
    for name in 0..8 {
        submit(&mut ring, &bus, request(name, Kind::Read, 0, 8192));
    }
    let done = settle(&mut ring, &bus, &mut backend);
    assert_eq!(done.len(), 8);
    assert_eq!(backend.largest, 11);
    assert!(done.iter().all(|(_, status)| *status == Status::Done));
}

#[test]
fn few_grants_are_enough() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    bus.limit.set(1 + 24);
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    for name in 0..4 {
        submit(&mut ring, &bus, request(name, Kind::Write, 0, 4096));
    }
    assert_eq!(settle(&mut ring, &bus, &mut backend).len(), 4);
    let before = bus.out();
    bus.limit.set(before + 8);
    let mut none = self::ring(&ram);
    assert!(attach(&mut none, &bus, Pages::new(&ram, 0xF000, 1)).is_err());
    assert_eq!(bus.out(), before, "a ring that cannot be made keeps no reference");
}

#[test]
fn unaligned_buffers_are_copied() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    let mut write = request(1, Kind::Write, 5, 300);
    write.io.bounce = true;
    write.bytes = (0..300 * 512).map(|at| (at * 13 / 7) as u8).collect();
    let expected = write.bytes.clone();
    submit(&mut ring, &bus, write);
    settle(&mut ring, &bus, &mut backend);
    assert!(backend.disk[5 * 512..305 * 512] == expected);
    let mut read = request(2, Kind::Read, 5, 300);
    read.io.bounce = true;
    read.bytes = vec![0; 300 * 512];
    submit(&mut ring, &bus, read);
    let done = settle(&mut ring, &bus, &mut backend);
    assert!(done[0].0.bytes == expected);
}

#[test]
fn flush_discard_and_verify() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    submit(&mut ring, &bus, request(1, Kind::Flush, 0, 0));
    let mut discard = request(2, Kind::Discard, 0, 3);
    discard.ranges = vec![(8, 16), (0, 0), (100, 4)];
    submit(&mut ring, &bus, discard);
    submit(&mut ring, &bus, request(3, Kind::Verify, 0, 5000));
    let done = settle(&mut ring, &bus, &mut backend);
    assert!(done.len() == 3 && done.iter().all(|(_, status)| *status == Status::Done));
    assert_eq!(backend.flushes, 1);
    assert_eq!(backend.discards, [(8, 16), (100, 4)]);
}

#[test]
fn a_flush_that_nobody_knows_is_not_said_to_be_done() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    submit(&mut ring, &bus, request(1, Kind::Flush, 0, 0));
    let mut response = backend.serve(&bus).unwrap();
    response.status = blkif::RSP_EOPNOTSUPP;
    backend.answer(&response);
    assert_eq!(finished(&mut ring, &bus)[0].1, Status::Unsupported);
    assert_eq!(ring.flush_by(), None);
    let next = ring.submit(&bus, request(2, Kind::Flush, 0, 0)).ok().unwrap();
    assert!(next.more);
    assert_eq!(finished(&mut ring, &bus)[0].1, Status::Unsupported);
}

#[test]
fn an_error_of_one_part_is_the_requests() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, Abilities { flush: None, indirect: 0 });
    submit(&mut ring, &bus, request(1, Kind::Read, 0, 4096));
    let mut response = backend.serve(&bus).unwrap();
    response.status = blkif::RSP_ERROR;
    backend.answer(&response);
    let done = settle(&mut ring, &bus, &mut backend);
    assert_eq!((done.len(), done[0].1), (1, Status::Error));
    assert!(!ring.is_broken());
}

#[test]
fn ordered_requests_stand_alone() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    submit(&mut ring, &bus, request(1, Kind::Read, 0, 8));
    let mut ordered = request(2, Kind::Read, 0, 8);
    ordered.io.ordered = true;
    submit(&mut ring, &bus, ordered);
    submit(&mut ring, &bus, request(3, Kind::Read, 0, 8));
    for name in 1..=3 {
        assert_eq!(ring.in_flight(), 1);
        backend.run(&bus);
        let done = finished(&mut ring, &bus);
        assert_eq!((done.len(), done[0].0.name), (1, name));
    }
}

#[test]
fn wrong_responses_break_the_ring() {
    type Wrong = fn(&mut RawResponse);
    let wrongs: [Wrong; 4] = [
        |response| response.id = 0x1_ffff,
        |response| response.id += 1 << 16,
        |response| response.operation ^= 1,
        |response| response.id += 1,
    ];
    for wrong in wrongs {
        let (ram, bus) = (Ram::default(), TestBus::new());
        let mut ring = ring(&ram);
        let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
        submit(&mut ring, &bus, request(1, Kind::Read, 0, 8));
        let mut response = backend.serve(&bus).unwrap();
        wrong(&mut response);
        backend.answer(&response);
        assert_eq!(finished(&mut ring, &bus).len(), 0);
        assert!(ring.is_broken());
        let said = format!("response id {:#x}, operation {}:", response.id, response.operation);
        assert!(bus.logged(&said), "{}", bus.log_text());
        // Nothing is handed out, looked at or ended any more.
        let next = ring.submit(&bus, request(2, Kind::Read, 0, 8)).ok().unwrap();
        assert!(!next.more && !next.notify);
        assert_eq!(finished(&mut ring, &bus).len(), 0);
        // Both go to the next backend.
        ring.detach(&bus);
        assert!(!ring.is_broken());
        assert_eq!(bus.out(), 0);
        let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
        let done = settle(&mut ring, &bus, &mut backend);
        assert_eq!(
            done.iter().map(|(r, status)| (r.name, *status)).collect::<Vec<_>>(),
            [1, 2].map(|n| (n, Status::Done))
        );
    }
}

#[test]
fn what_a_broken_ring_leaves_fails_when_the_disk_is_given_up() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    connect(&mut ring, &bus, &ram, 1, ALL);
    submit(&mut ring, &bus, request(1, Kind::Read, 0, 8));
    submit(&mut ring, &bus, request(2, Kind::Write, 8, 8));
    ring.distrust(&bus, format_args!("no answer"));
    assert_eq!(finished(&mut ring, &bus).len(), 0);
    ring.detach(&bus);
    ring.give_up();
    assert_eq!(finished(&mut ring, &bus).iter().map(|(_, status)| *status).collect::<Vec<_>>(), [Status::Gone; 2]);
    assert!(ring.submit(&bus, request(3, Kind::Read, 0, 8)).ok().unwrap().more);
    assert_eq!(finished(&mut ring, &bus)[0].1, Status::Gone);
}

#[test]
fn a_request_whose_page_is_kept_is_not_issued_again_before_it_is_free() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    connect(&mut ring, &bus, &ram, 1, ALL);
    submit(&mut ring, &bus, request(1, Kind::Read, 0, 8));
    submit(&mut ring, &bus, request(2, Kind::Read, 8, 8));
    let kept = bus.live(0x4_0000..u64::MAX).first().copied();
    bus.kept.borrow_mut().push(kept.unwrap());
    ring.distrust(&bus, format_args!("no answer"));
    ring.detach(&bus);
    assert_eq!(bus.live(0..u64::MAX).len(), 1, "all but the kept one are ended");
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    for _ in 0..3 {
        backend.run(&bus);
        let done = finished(&mut ring, &bus);
        assert!(done.iter().all(|(request, status)| request.name == 1 && *status == Status::Done));
    }
    assert_eq!((backend.served, ring.has_held(), ring.is_broken()), (1, true, false));
    bus.kept.borrow_mut().clear();
    let done = settle(&mut ring, &bus, &mut backend);
    assert_eq!((done[0].0.name, done[0].1, backend.served), (2, Status::Done, 2));
}

#[test]
fn a_second_answer_to_one_request_breaks_the_ring() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    submit(&mut ring, &bus, request(1, Kind::Read, 0, 8));
    submit(&mut ring, &bus, request(2, Kind::Read, 0, 8));
    let first = backend.serve(&bus).unwrap();
    backend.serve(&bus).unwrap();
    backend.answer(&first);
    backend.answer(&first);
    let done = finished(&mut ring, &bus);
    assert!(ring.is_broken());
    assert_eq!(done.iter().map(|(_, status)| *status).collect::<Vec<_>>(), [Status::Done]);
}

#[test]
fn an_index_that_runs_away_breaks_the_ring() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let backend = connect(&mut ring, &bus, &ram, 1, ALL);
    submit(&mut ring, &bus, request(1, Kind::Read, 0, 8));
    backend.ring.memory().store_u32(xen_abi::ring::RSP_PROD, 1000);
    assert_eq!(finished(&mut ring, &bus).len(), 0);
    assert!(ring.is_broken());
    assert!(bus.logged("rsp_prod 0x3e8, not within 0x0..=0x1"), "{}", bus.log_text());
}

#[test]
fn a_page_that_the_peer_keeps_holds_its_request() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    submit(&mut ring, &bus, request(1, Kind::Read, 0, 8));
    submit(&mut ring, &bus, request(2, Kind::Read, 8, 8));
    let kept = bus.live(0x4_0000..u64::MAX).first().copied();
    bus.kept.borrow_mut().push(kept.unwrap());
    backend.run(&bus);
    assert!(finished(&mut ring, &bus).len() <= 1);
    assert!(ring.is_broken() && ring.has_held());
    assert!(!ring.is_idle());
    bus.kept.borrow_mut().clear();
    let done = finished(&mut ring, &bus);
    assert!(!done.is_empty() && ring.is_idle());
    assert!(!ring.has_held());
}

#[test]
fn a_kept_bounce_page_costs_the_page_and_not_the_data() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    backend.disk[..4096].fill(0xA7);
    let mut read = request(1, Kind::Read, 0, 8);
    read.io.bounce = true;
    read.bytes = vec![0; 4096];
    let before = bus.live(0..u64::MAX);
    submit(&mut ring, &bus, read);
    let grants = bus.live(0..u64::MAX);
    bus.kept.borrow_mut().extend(grants.iter().filter(|reference| !before.contains(reference)));
    let done = settle(&mut ring, &bus, &mut backend);
    assert_eq!(done[0].1, Status::Done);
    assert!(done[0].0.bytes.iter().all(|byte| *byte == 0xA7));
    assert!(!ring.is_broken() && !ring.has_held());
}

#[test]
fn requests_without_bounce_pages_go_past_those_that_wait_for_some() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    for name in 0..6 {
        let mut bounced = request(name, Kind::Read, u64::from(name) * 8, 8);
        bounced.io.bounce = true;
        bounced.bytes = vec![0; 4096];
        submit(&mut ring, &bus, bounced);
    }
    submit(&mut ring, &bus, request(6, Kind::Read, 64, 8));
    assert_eq!(ring.in_flight(), 3, "two groups of bounce pages, and the one that needs none");
    // An ordered one waits for all of them, and the one after it for that.
    let mut ordered = request(7, Kind::Write, 72, 8);
    ordered.io.ordered = true;
    submit(&mut ring, &bus, ordered);
    submit(&mut ring, &bus, request(8, Kind::Read, 80, 8));
    assert_eq!(ring.in_flight(), 3);
    let done = settle(&mut ring, &bus, &mut backend);
    let names: Vec<u32> = done.iter().map(|(request, _)| request.name).collect();
    assert_eq!(names, [0, 1, 6, 2, 3, 4, 5, 7, 8]);
}

#[test]
fn requests_survive_a_new_backend_in_their_order() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 2, ALL);
    for name in 0..40 {
        submit(&mut ring, &bus, request(name, Kind::Write, u64::from(name), 9));
    }
    let response = backend.serve(&bus).unwrap();
    backend.answer(&response);
    assert_eq!(finished(&mut ring, &bus).len(), 1);
    assert!(ring.in_flight() > 0);
    ring.freeze();
    submit(&mut ring, &bus, request(40, Kind::Read, 0, 2000));
    ring.detach(&bus);
    assert_eq!(bus.out(), 0, "nothing is left behind");
    let mut backend = connect(&mut ring, &bus, &ram, 1, Abilities { flush: None, indirect: 0 });
    assert!(ring.in_flight() > 0);
    let done = settle(&mut ring, &bus, &mut backend);
    assert_eq!(done.iter().map(|(request, _)| request.name).collect::<Vec<_>>(), (1..=40).collect::<Vec<_>>());
    assert!(done.iter().all(|(_, status)| *status == Status::Done));
}

#[test]
fn a_cancelled_suspend_issues_nothing_twice() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    submit(&mut ring, &bus, request(1, Kind::Write, 0, 8));
    ring.freeze();
    submit(&mut ring, &bus, request(2, Kind::Write, 8, 8));
    assert_eq!(ring.in_flight(), 1);
    ring.thaw(&bus);
    assert_eq!(settle(&mut ring, &bus, &mut backend).len(), 2);
    assert_eq!(backend.served, 2);
}

#[test]
fn a_full_table_gives_the_request_back() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    for name in 0..64 {
        submit(&mut ring, &bus, request(name, Kind::Read, 0, 8));
    }
    assert!(ring.is_full());
    let Err(back) = ring.submit(&bus, request(99, Kind::Read, 0, 8)) else { panic!("taken") };
    assert_eq!(back.name, 99);
    ring.give_up();
    assert_eq!(finished(&mut ring, &bus).len(), 64);
}

#[test]
fn one_notification_for_a_batch() {
    let (ram, bus) = (Ram::default(), TestBus::new());
    let mut ring = ring(&ram);
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    let notified = (0..32).filter(|name| submit(&mut ring, &bus, request(*name, Kind::Read, 0, 8))).count();
    assert_eq!(notified, 1);
    assert_eq!(settle(&mut ring, &bus, &mut backend).len(), 32);
}

#[test]
fn a_dump_needs_32_kib_and_no_allocation() {
    type Dump = FixedTables<Boxed, 2, 32, 12>;
    let (ram, bus) = (Ram::default(), TestBus::new());
    // All that it needs: the books, one page of ring, two bounce pages.
    let pool = Pages::new(&ram, 0x9000, 2);
    assert!(size_of::<TestRing<Dump>>() + 4096 + pool.size() <= 32 * 1024);
    let mut ring: TestRing<Dump> = Ring::new(Dump::new(), pool, 7).unwrap();
    let mut backend = connect(&mut ring, &bus, &ram, 1, ALL);
    for round in 0..100_u32 {
        let data = vec![round as u8; 64 * 512];
        let write = request(1, Kind::Write, u64::from(round) * 64, 64);
        ram.write(write.address, &data);
        submit(&mut ring, &bus, write);
        let done = settle(&mut ring, &bus, &mut backend);
        assert_eq!(done[0].1, Status::Done);
        let mut unaligned = request(1, Kind::Read, u64::from(round) * 64, 64);
        unaligned.io.bounce = true;
        unaligned.bytes = vec![0; 64 * 512];
        submit(&mut ring, &bus, unaligned);
        assert!(settle(&mut ring, &bus, &mut backend)[0].0.bytes == data);
        let at = round as usize * 64 * 512;
        assert!(backend.disk[at..at + data.len()] == data);
    }
}

const BACKEND: &str = "/local/domain/0/backend/vbd/1/51712";

fn backend_of(keys: &[(&str, &str)]) -> (TestBus, Path) {
    let bus = TestBus::new();
    for (key, value) in keys {
        bus.set(&std::format!("{BACKEND}/{key}"), value);
    }
    (bus, Path::new(BACKEND.as_bytes()).unwrap())
}

#[test]
fn rings_are_offered_in_both_spellings() {
    let offer = |keys: &[(&str, &str)]| {
        let (bus, backend) = backend_of(keys);
        config::ring_offer(&bus, &backend, 16).unwrap()
    };
    assert_eq!(offer(&[("max-ring-page-order", "4")]), RingOffer { pages: 16, spelling: Spelling::Order });
    assert_eq!(offer(&[("max-ring-page-order", "99999999999")]).pages, 16);
    assert_eq!(offer(&[("max-ring-pages", "15")]), RingOffer { pages: 8, spelling: Spelling::Pages });
    assert_eq!(offer(&[("max-ring-pages", "0")]).pages, 1);
    assert_eq!(offer(&[("max-ring-page-order", "-1")]).pages, 1);
    assert_eq!(offer(&[]).pages, 1);
}

#[test]
fn publishing_leaves_no_old_keys() {
    let bus = TestBus::new();
    config::publish(&bus, &[8, 9, 10, 11], Spelling::Order, 5).unwrap();
    assert_eq!(bus.get("ring-page-order").unwrap(), "2");
    assert_eq!(bus.get("ring-ref3").unwrap(), "11");
    assert_eq!(bus.get("event-channel").unwrap(), "5");
    config::publish(&bus, &[8, 9], Spelling::Pages, 5).unwrap();
    assert_eq!(bus.get("num-ring-pages").unwrap(), "2");
    assert_eq!(bus.get("ring-page-order"), None);
    config::publish(&bus, &[12], Spelling::Pages, 5).unwrap();
    assert_eq!(bus.get("ring-ref").unwrap(), "12");
    assert_eq!(bus.get("num-ring-pages"), None);
    assert_eq!(bus.get("protocol").unwrap(), "x86_64-abi");
}

#[test]
fn parameters_are_bounded() {
    let parameters = |keys: &[(&str, &str)]| {
        let (bus, backend) = backend_of(keys);
        config::parameters(&bus, &backend, false).unwrap()
    };
    let plain = parameters(&[("sectors", "2048")]).unwrap();
    assert_eq!((plain.sectors, plain.sector_size, plain.physical_sector_size), (2048, 512, 512));
    assert_eq!(plain.abilities, Abilities { flush: None, indirect: 0 });
    let full = parameters(&[
        ("sectors", "2049"),
        ("sector-size", "4096"),
        ("physical-sector-size", "8192"),
        ("mode", "w"),
        ("feature-barrier", "1"),
        ("feature-flush-cache", "1"),
        ("feature-max-indirect-segments", "4294967295"),
        ("feature-discard", "1"),
        ("discard-granularity", "65536"),
        ("discard-alignment", "4096"),
    ])
    .unwrap();
    assert_eq!((full.sectors, full.physical_sector_size), (2048, 8192));
    assert_eq!(full.abilities, ALL);
    assert_eq!(full.discard.map(|discard| (discard.granularity, discard.alignment)), Some((128, 8)));
    assert!(parameters(&[("sectors", "2048"), ("mode", "r")]).unwrap().read_only);
    assert!(parameters(&[("sectors", "2048"), ("info", "4")]).unwrap().read_only);
    for bad in ["", "-1", "0x10", "18446744073709551615", "99999999999999999999", "many"] {
        assert_eq!(parameters(&[("sectors", bad)]), None, "{bad}");
    }
    for bad in ["0", "513", "65536", "-512"] {
        let got = parameters(&[("sectors", "2048"), ("sector-size", bad)]);
        assert!(got.is_none_or(|parameters| parameters.sector_size == 512), "{bad}");
    }
}
