//! Front and back end of the shared ring against each other, and each against a hostile peer.

#[path = "../fuzz/bodies.rs"]
#[allow(dead_code)]
mod bodies;

use bodies::Memory;
use xen_abi::blkif::{
    Blkif, Command, DecodeError, Direction, MAX_INDIRECT_PAGES, OP_READ, RSP_OKAY, RawRequest, RawResponse, Request,
    Segment, Segments, indirect_pages,
};
use xen_abi::ring::{BackRing, FrontRing, Full, REQ_PROD, RSP_PROD, RingError, RingProtocol, slots};
use xen_abi::shared::SharedMemory;

type Front<'a> = FrontRing<Blkif, &'a Memory>;
type Back<'a> = BackRing<Blkif, &'a Memory>;

fn read(id: u64) -> RawRequest {
    let segments = [Segment::new(9, 0, 7).unwrap()].into_iter().collect();
    Request { id, handle: 51712, command: Command::Rw { direction: Direction::Read, sector: id * 8, segments } }
        .encode()
}

#[test]
fn sizes_are_powers_of_two() {
    assert_eq!(Blkif::slots(4096), 32);
    assert_eq!(Blkif::slots(16 * 4096), 512);
    assert_eq!((slots(64, 112), slots(63, 1), slots(176, 112), slots(4096, 0)), (0, 0, 1, 0));
    assert_eq!(Front::new(&Memory::new(100)).err(), Some(RingError::TooSmall));
}

#[test]
fn many_rounds_of_any_size_arrive_in_order() {
    for pages in [1, 2, 16] {
        let memory = Memory::new(pages * 4096);
        let mut front = Front::new(&memory).unwrap();
        let mut back = Back::attach(&memory).unwrap();
        let (mut sent, mut served, mut answered) = (0_u64, 0_u64, 0_u64);
        for round in 0_u32..3000 {
            for _ in 0..=round % (front.slots() + 3) {
                match front.push(&read(sent)) {
                    Ok(()) => sent += 1,
                    Err(Full) => break,
                }
            }
            let _ = front.publish();
            while let Some(raw) = back.take().unwrap() {
                assert_eq!(raw.id(), served);
                served += 1;
                back.push(&RawResponse::new(raw.id(), raw.operation(), RSP_OKAY)).unwrap();
            }
            let _ = back.publish();
            while let Some(response) = front.take().unwrap() {
                assert_eq!((response.id, response.operation), (answered, OP_READ));
                answered += 1;
            }
            assert_eq!((sent, front.free()), (answered, front.slots()));
        }
        assert!(sent > 3000);
    }
}

#[test]
fn indices_wrap_around() {
    let memory = Memory::new(4096);
    let start = u32::MAX - 5;
    memory.store_u32(REQ_PROD, start);
    memory.store_u32(RSP_PROD, start);
    let mut back = Back::attach(&memory).unwrap();
    for step in 1..=20_u32 {
        memory.store_u32(REQ_PROD, start.wrapping_add(step));
        assert!(back.take().unwrap().is_some());
        assert!(back.take().unwrap().is_none());
        back.push(&RawResponse::new(0, 0, 0)).unwrap();
        let _ = back.publish();
        assert_eq!(memory.load_u32(RSP_PROD), start.wrapping_add(step));
    }
}

#[test]
fn only_the_awaited_index_asks_for_an_event() {
    let memory = Memory::new(4096);
    let mut front = Front::new(&memory).unwrap();
    let mut back = Back::attach(&memory).unwrap();
    assert!(!front.publish(), "nothing to publish");
    front.push(&read(0)).unwrap();
    assert!(front.publish(), "the first request wakes the backend");
    front.push(&read(1)).unwrap();
    assert!(!front.publish(), "the backend has not asked again");
    assert!(back.take().unwrap().is_some());
    assert!(back.final_check().unwrap(), "one is left");
    assert!(back.take().unwrap().is_some());
    assert!(!back.final_check().unwrap());
    front.push(&read(2)).unwrap();
    assert!(front.publish());
    // Responses: asked for only after the third.
    assert!(!front.final_check_after(3).unwrap());
    back.take().unwrap();
    for (id, wanted) in [(0, false), (1, false), (2, true)] {
        back.push(&RawResponse::new(id, OP_READ, RSP_OKAY)).unwrap();
        assert_eq!(back.publish(), wanted);
    }
    // More than are outstanding would never come.
    while front.take().unwrap().is_some() {}
    front.push(&read(3)).unwrap();
    let _ = front.publish();
    assert!(!front.final_check_after(9).unwrap());
    back.take().unwrap();
    back.push(&RawResponse::new(3, OP_READ, RSP_OKAY)).unwrap();
    assert!(back.publish());
}

#[test]
fn a_backend_that_lies_is_found_out() {
    let lie = |produced: &[u32]| {
        let memory = Memory::new(4096);
        let mut front = Front::new(&memory).unwrap();
        for id in 0..4 {
            front.push(&read(id)).unwrap();
        }
        let _ = front.publish();
        let mut last = Ok(());
        for index in produced {
            memory.store_u32(RSP_PROD, *index);
            last = front.final_check().map(drop);
        }
        (last, front.take().map(drop), front.is_broken())
    };
    assert_eq!(lie(&[5]), (Err(RingError::Overrun), Err(RingError::Broken), true));
    assert_eq!(lie(&[u32::MAX]), (Err(RingError::Backwards), Err(RingError::Broken), true));
    assert_eq!(lie(&[3, 2]), (Err(RingError::Backwards), Err(RingError::Broken), true));
    assert_eq!(lie(&[4]), (Ok(()), Ok(()), false));
}

#[test]
fn responses_to_unpublished_requests_are_refused() {
    let memory = Memory::new(4096);
    let mut front = Front::new(&memory).unwrap();
    front.push(&read(0)).unwrap();
    memory.store_u32(RSP_PROD, 1);
    assert_eq!(front.take(), Err(RingError::Overrun));
}

#[test]
fn a_frontend_that_lies_is_found_out() {
    let memory = Memory::new(4096);
    let mut back = Back::attach(&memory).unwrap();
    memory.store_u32(REQ_PROD, 33);
    assert_eq!(back.take(), Err(RingError::Overrun));
    memory.store_u32(REQ_PROD, 33);
    assert!(Back::attach(&memory).is_err());
    memory.store_u32(REQ_PROD, 2);
    let mut back = Back::attach(&memory).unwrap();
    back.take().unwrap();
    back.take().unwrap();
    // Two are unanswered: 30 more are possible, not 32.
    memory.store_u32(REQ_PROD, 35);
    assert_eq!(back.take(), Err(RingError::Overrun));
}

#[test]
fn a_restarted_backend_goes_on_with_what_is_unanswered() {
    let memory = Memory::new(4096);
    let mut front = Front::new(&memory).unwrap();
    for id in 0..3 {
        front.push(&read(id)).unwrap();
    }
    let _ = front.publish();
    let mut back = Back::attach(&memory).unwrap();
    back.take().unwrap();
    back.push(&RawResponse::new(0, OP_READ, RSP_OKAY)).unwrap();
    let _ = back.publish();
    back.take().unwrap();
    let mut back = Back::attach(&memory).unwrap();
    assert_eq!(back.take().unwrap().map(|raw| raw.id()), Some(1));
}

#[test]
fn every_command_survives_the_slot() {
    let segments: Segments = (0..11).map(|n| Segment::new(n, 1, 5).unwrap()).collect();
    let commands = [
        Command::Rw { direction: Direction::Write, sector: 12, segments },
        Command::Barrier { sector: 3, segments: Segments::new() },
        Command::Barrier { sector: 3, segments },
        Command::Flush,
        Command::Discard { sector: 1 << 40, sector_count: 8, secure: true },
        Command::Indirect {
            direction: Direction::Read,
            sector: 77,
            segment_count: 4096,
            pages: [1, 2, 3, 4, 5, 6, 7, 8],
        },
    ];
    for command in commands {
        let request = Request { id: u64::MAX - 1, handle: 51712, command };
        let raw = request.encode();
        assert_eq!((raw.id(), raw.operation()), (request.id, command.operation()));
        assert_eq!(Request::decode(&raw), Ok(request));
    }
    assert_eq!(segments.sectors(), 55);
    assert_eq!((indirect_pages(1), indirect_pages(512), indirect_pages(513)), (1, 1, 2));
}

#[test]
fn wrong_slots_are_refused_by_field() {
    let decode = |command| Request::decode(&Request { id: 1, handle: 0, command }.encode());
    let none = Segments::new();
    let some: Segments = Segment::new(1, 0, 7).into_iter().collect();
    let pages = [0; MAX_INDIRECT_PAGES];
    let indirect = |segment_count| Command::Indirect { direction: Direction::Read, sector: 0, segment_count, pages };
    assert_eq!(
        decode(Command::Rw { direction: Direction::Read, sector: 0, segments: none }),
        Err(DecodeError::SegmentCount(0))
    );
    assert_eq!(decode(indirect(0)), Err(DecodeError::SegmentCount(0)));
    assert_eq!(decode(indirect(4097)), Err(DecodeError::SegmentCount(4097)));
    assert_eq!(
        decode(Command::Rw { direction: Direction::Read, sector: u64::MAX - 7, segments: some }),
        Err(DecodeError::Range)
    );
    assert_eq!(decode(Command::Discard { sector: u64::MAX, sector_count: 1, secure: false }), Err(DecodeError::Range));
    assert_eq!((Segment::new(1, 8, 8), Segment::new(1, 3, 2)), (None, None));
}
