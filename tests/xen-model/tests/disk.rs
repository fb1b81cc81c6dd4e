//! The block backend against a frontend over `xen-abi`.

mod guest;

use guest::*;
use xen_abi::blkif::{Command, Direction, Request, Segments};
use xen_abi::ring::RingError;
use xen_abi::shared::SharedMemory;
use xen_model::{
    Backing, Config, DiskOptions, DiskSpec, FileBacking, GuestErrorKind, Hostile, HostilePlan, JournalEntry,
    MemoryBacking, Order, RingKeys, TraceEvent, hash, layout,
};

const VDEV: u32 = 51712;

fn attach(seed: u64, change: impl FnOnce(&mut DiskOptions)) -> (Guest, MemoryBacking) {
    let mut guest = Guest::new(Config { seed, ..Config::default() });
    let backing = MemoryBacking::new(2048);
    let mut spec = DiskSpec::new(VDEV, backing.clone());
    change(&mut spec.options);
    guest.xen.attach_disk(spec);
    (guest, backing)
}

fn fill(guest: &Guest, gfn: u64, byte: u8) {
    guest.write(gfn << 12, &[byte; 4096]);
}

#[test]
fn data_goes_both_ways() {
    for (seed, order) in [(1, 0), (2, 2), (3, 4)] {
        let (mut guest, backing) = attach(seed, |_| {});
        let mut front = Front::connect(&mut guest, VDEV, order);
        assert_eq!(guest.xen.disk(VDEV).expect("attached").stats().ring_pages, 1 << order);
        for i in 0..30u64 {
            fill(&guest, DATA + i, i as u8 + 1);
            front.push(&mut guest, i, Direction::Write, i * 8, DATA + i, 1);
        }
        let mut done = front.finish(&mut guest);
        done.sort_unstable();
        assert!(done.iter().enumerate().all(|(i, d)| *d == (i as u64, 1, 0)), "{done:?}");
        backing.with(|b| assert!((0..30).all(|i| b[i * 4096..(i + 1) * 4096].iter().all(|x| *x == i as u8 + 1))));
        front.push(&mut guest, 7, Direction::Read, 8, DATA + 40, 2);
        assert_eq!(front.finish(&mut guest), [(7, 0, 0)]);
        let mut page = [0; 4096];
        guest.machine.read((DATA + 41) << 12, &mut page).expect("mapped");
        assert_eq!(page, [3; 4096]);
        assert!(guest.xen.guest_errors().is_empty(), "{:?}", guest.xen.guest_errors());
        assert_eq!(guest.xen.mapped_grants(), 1 << order, "only the ring is still mapped");
        let writes = guest.xen.disk(VDEV).expect("attached").journal().entries();
        let expected = hash(&[5; 4096]);
        assert!(writes.iter().any(
            |e| matches!(e, JournalEntry::Write { sector: 32, count: 8, hash, answered: true } if *hash == expected)
        ));
    }
}

#[test]
fn depth_needs_few_notifications() {
    let (mut guest, _) = attach(1, |o| o.latency_jitter_ns = 0);
    let mut front = Front::connect(&mut guest, VDEV, 0);
    for i in 0..32 {
        front.push(&mut guest, i, Direction::Read, 0, DATA + i, 1);
    }
    front.finish(&mut guest);
    let stats = guest.xen.disk(VDEV).expect("attached").stats();
    assert_eq!((stats.reads, stats.max_in_flight), (32, 32));
    assert!(stats.notifications_received <= 3 && stats.notifications_sent <= 8, "{stats:?}");
}

#[test]
fn same_seed_same_run() {
    let run = |seed| {
        let (mut guest, _) = attach(seed, |_| {});
        let mut front = Front::connect(&mut guest, VDEV, 0);
        for i in 0..32 {
            front.push(&mut guest, i, Direction::Read, 0, DATA + i, 1);
        }
        let order: Vec<u64> = front.finish(&mut guest).iter().map(|d| d.0).collect();
        order
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
    assert_ne!(run(5), (0..32).collect::<Vec<_>>());
}

#[test]
fn in_order_when_asked() {
    let (mut guest, _) = attach(5, |o| o.order = Order::InOrder);
    let mut front = Front::connect(&mut guest, VDEV, 0);
    for i in 0..32 {
        front.push(&mut guest, i, Direction::Read, 0, DATA + i, 1);
    }
    assert!(front.finish(&mut guest).iter().map(|d| d.0).eq(0..32));
}

#[test]
fn features_can_be_switched_off() {
    let (mut guest, _) = attach(1, |o| {
        o.flush = false;
        o.barrier = false;
        o.discard = None;
        o.max_indirect_segments = None;
        o.ring_keys = RingKeys::None;
        o.read_only = true;
        o.removable = true;
    });
    let mut front = Front::connect(&mut guest, VDEV, 0);
    let back = guest.read("device/vbd/51712/backend").expect("a backend");
    assert_eq!(guest.read(&format!("{back}/feature-flush-cache")).as_deref(), Ok("0"));
    assert_eq!(guest.read(&format!("{back}/feature-discard")).unwrap_err(), "ENOENT");
    assert_eq!(guest.read(&format!("{back}/max-ring-page-order")).unwrap_err(), "ENOENT");
    assert_eq!(guest.read(&format!("{back}/info")).as_deref(), Ok("6"));
    let empty = Segments::new();
    for command in [
        Command::Flush,
        Command::Barrier { sector: 0, segments: empty },
        Command::Discard { sector: 0, sector_count: 8, secure: false },
        Command::Indirect { direction: Direction::Read, sector: 0, segment_count: 1, pages: [0; 8] },
    ] {
        front.ring.push(&Request { id: 1, handle: 0, command }.encode()).expect("a slot");
        assert_eq!(front.finish(&mut guest)[0].2, -2, "{command:?}");
    }
    front.push(&mut guest, 1, Direction::Write, 0, DATA, 1);
    assert_eq!(front.finish(&mut guest)[0].2, -1, "read-only");
    assert_eq!(guest.xen.guest_errors()[0].kind, GuestErrorKind::BadRequest);
}

#[test]
fn a_discard_is_answered_before_more_is_looked_for() {
    let (mut guest, _) = attach(1, |_| {});
    let mut front = Front::connect(&mut guest, VDEV, 0);
    guest.settle();
    let discard = |id| {
        let command = Command::Discard { sector: 0, sector_count: 8, secure: false };
        Request { id, handle: 0, command }.encode()
    };
    front.ring.push(&discard(1)).expect("a free slot");
    assert!(front.ring.publish());
    guest.send(front.port);
    while front.ring.take().expect("sane indices").is_none() {
        assert!(guest.xen.step(guest.now), "the response comes");
    }
    // The backend has not asked to be told of the next request: it looks by itself.
    front.ring.push(&discard(2)).expect("a free slot");
    assert!(!front.ring.publish());
    assert_eq!(front.finish(&mut guest), [(2, 5, 0)]);
}

#[test]
fn blkback_may_answer_before_it_asks_to_be_told_of_more() {
    let (mut guest, _) = attach(1, |o| o.arm_ns = 10 * (o.latency_ns + o.latency_jitter_ns));
    let mut front = Front::connect(&mut guest, VDEV, 0);
    guest.settle();
    front.push(&mut guest, 1, Direction::Read, 0, DATA, 1);
    assert!(front.ring.publish());
    guest.send(front.port);
    let response = loop {
        if let Some(response) = front.ring.take().expect("sane indices") {
            break response;
        }
        if !guest.xen.step(guest.now) {
            guest.now = guest.xen.next_deadline_ns().expect("a request in flight");
        }
    };
    assert_eq!(response.id, 1);
    // The next request is none to tell of: the thread finds it when it goes on.
    front.push(&mut guest, 2, Direction::Read, 8, DATA, 1);
    assert!(!front.ring.publish());
    assert_eq!(front.finish(&mut guest), [(2, 0, 0)]);
    // At rest it wants to be told again.
    guest.settle();
    front.push(&mut guest, 3, Direction::Read, 8, DATA, 1);
    assert!(front.ring.publish());
    guest.send(front.port);
    assert_eq!(front.finish(&mut guest), [(3, 0, 0)]);
}

#[test]
fn qdisk_says_everything_first_and_asks_to_be_told_when_all_is_answered() {
    let (mut guest, _) = attach(1, |o| *o = DiskOptions { order: Order::InOrder, ..DiskOptions::qdisk(VDEV) });
    guest.settle();
    let back = guest.read(&format!("device/vbd/{VDEV}/backend")).expect("a backend");
    assert!(back.contains("/backend/qdisk/"), "{back}");
    let mut key = |name: &str| guest.read(&format!("{back}/{name}"));
    assert_eq!(key("state").as_deref(), Ok("2"));
    for there in ["sectors", "sector-size", "info", "feature-flush-cache", "feature-discard", "max-ring-page-order"] {
        assert!(key(there).is_ok(), "{there}");
    }
    for absent in [
        "multi-queue-max-queues",
        "feature-max-indirect-segments",
        "feature-barrier",
        "feature-persistent",
        "discard-secure",
        "physical-sector-size",
    ] {
        assert_eq!(key(absent), Err("ENOENT".to_owned()), "{absent}");
    }
    let mut front = Front::connect(&mut guest, VDEV, 0);
    guest.settle();
    front.push(&mut guest, 1, Direction::Read, 0, DATA, 1);
    assert!(front.ring.publish());
    guest.send(front.port);
    assert!(guest.xen.step(guest.now), "the request is taken");
    // It has one in flight, and will look by itself.
    front.push(&mut guest, 2, Direction::Read, 8, DATA + 1, 1);
    assert!(!front.ring.publish());
    assert_eq!(front.finish(&mut guest), [(1, 0, 0), (2, 0, 0)]);
    guest.settle();
    // All is answered: it wants to be told.
    front.push(&mut guest, 3, Direction::Read, 16, DATA, 1);
    assert!(front.ring.publish());
    guest.send(front.port);
    assert_eq!(front.finish(&mut guest), [(3, 0, 0)]);
}

#[test]
fn flush_discard_and_indirect() {
    let (mut guest, backing) = attach(1, |_| {});
    let mut front = Front::connect(&mut guest, VDEV, 0);
    // 20 pages by indirect segments.
    for i in 0..20 {
        fill(&guest, DATA + i, 0x40 + i as u8);
        let reference = guest.grant(DATA + i, true);
        let mut segment = [0; 8];
        segment[..4].copy_from_slice(&reference.to_le_bytes());
        segment[5] = 7;
        guest.write((FREE << 12) + i * 8, &segment);
    }
    let mut pages = [0; 8];
    pages[0] = guest.grant(FREE, true);
    let command = Command::Indirect { direction: Direction::Write, sector: 80, segment_count: 20, pages };
    front.ring.push(&Request { id: 3, handle: 0, command }.encode()).expect("a slot");
    assert_eq!(front.finish(&mut guest), [(3, 1, 0)], "the answer names the operation within");
    backing.with(|b| assert_eq!(b[80 * 512 + 19 * 4096], 0x53));
    let disk = guest.xen.disk(VDEV).expect("attached");
    assert_eq!((disk.stats().indirect, disk.journal().unflushed_writes()), (1, 1));
    for (id, command) in [
        (4, Command::Flush),
        (5, Command::Discard { sector: 80, sector_count: 160, secure: false }),
        (6, Command::Discard { sector: 2000, sector_count: 49, secure: false }),
    ] {
        front.ring.push(&Request { id, handle: 0, command }.encode()).expect("a slot");
        assert_eq!(front.finish(&mut guest)[0].2, if id == 6 { -1 } else { 0 });
    }
    backing.with(|b| assert_eq!(b[80 * 512 + 19 * 4096], 0));
    let disk = guest.xen.disk(VDEV).expect("attached");
    assert_eq!(disk.journal().unflushed_writes(), 0);
    assert_eq!((disk.stats().flushes, disk.stats().discards), (1, 1));
}

#[test]
fn grants_are_checked() {
    let (mut guest, _) = attach(1, |_| {});
    let mut front = Front::connect(&mut guest, VDEV, 0);
    let refs = front.push(&mut guest, 1, Direction::Read, 0, DATA, 1);
    guest.set_grant(refs[0], 5, DATA); // read-only, but the backend has to write
    assert_eq!(front.finish(&mut guest), [(1, 0, -1)]);
    let refs = front.push(&mut guest, 2, Direction::Write, 0, DATA, 1);
    guest.set_grant(refs[0], 0, DATA);
    assert_eq!(front.finish(&mut guest), [(2, 1, -1)]);
    let refs = front.push(&mut guest, 3, Direction::Write, 0, DATA, 1);
    guest.set_grant(refs[0], 1, 0xdead);
    assert_eq!(front.finish(&mut guest), [(3, 1, -1)]);
    assert_eq!(guest.grant_flags(refs[0]), 1, "nothing stays mapped");
    assert!(guest.xen.guest_errors().iter().all(|e| e.kind == GuestErrorKind::BadGrant));
    assert_eq!(guest.xen.counters().grant_refused, 3);
    // Taking a grant back by force while it is mapped is noticed.
    let refs = front.push(&mut guest, 4, Direction::Write, 0, DATA, 1);
    front.publish(&mut guest);
    guest.xen.step(guest.now);
    assert_eq!(guest.grant_flags(refs[0]) & 8, 8);
    guest.set_grant(refs[0], 0, 0);
    front.finish(&mut guest);
    assert_eq!(guest.xen.guest_errors().last().expect("one more").kind, GuestErrorKind::FreedWhileGranted);
}

#[test]
fn requests_beyond_the_end_and_misaligned_are_refused() {
    let (mut guest, _) = attach(1, |o| o.sector_size = 4096);
    let mut front = Front::connect(&mut guest, VDEV, 0);
    for (sector, status) in [(2040, 0), (2041, -1), (2048, -1), (u64::MAX - 3, -1), (4, -1)] {
        front.push(&mut guest, sector, Direction::Read, sector, DATA, 1);
        assert_eq!(front.finish(&mut guest), [(sector, 0, status)]);
    }
}

#[test]
fn orderly_detach_and_return() {
    let (mut guest, _) = attach(1, |_| {});
    for _ in 0..20 {
        let mut front = Front::connect(&mut guest, VDEV, 1);
        front.push(&mut guest, 1, Direction::Read, 0, DATA, 1);
        front.publish(&mut guest);
        guest.xen.detach_disk(VDEV);
        let back = guest.read("device/vbd/51712/backend").expect("a backend");
        assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok("5"));
        assert_eq!(guest.read(&format!("{back}/online")).as_deref(), Ok("0"));
        front.finish(&mut guest);
        guest.write_store(0, "device/vbd/51712/state", "5").expect("written");
        guest.write_store(0, "device/vbd/51712/state", "6").expect("written");
        guest.settle();
        assert!(!guest.xen.disk(VDEV).expect("known").is_attached());
        assert_eq!(guest.read("device/vbd/51712/state").unwrap_err(), "ENOENT");
        assert_eq!(guest.xen.mapped_grants(), 0);
        assert_eq!(guest.event_op(3, &[front.port]), 0);
        guest.start();
        guest.xen.attach_disk(DiskSpec::new(VDEV, MemoryBacking::new(64)));
    }
    assert!(guest.xen.guest_errors().is_empty(), "{:?}", guest.xen.guest_errors());
}

#[test]
fn the_backend_restarts_and_the_frontend_comes_back() {
    let (mut guest, _) = attach(1, |_| {});
    let mut front = Front::connect(&mut guest, VDEV, 0);
    front.push(&mut guest, 1, Direction::Read, 0, DATA, 1);
    front.finish(&mut guest);
    guest.xen.restart_backend(VDEV, false);
    guest.write_store(0, "device/vbd/51712/state", "6").expect("written");
    guest.settle();
    guest.write_store(0, "device/vbd/51712/state", "1").expect("written");
    let mut front = Front::connect(&mut guest, VDEV, 0);
    guest.xen.restart_backend(VDEV, true);
    assert_eq!(guest.xen.mapped_grants(), 0);
    guest.write_store(0, "device/vbd/51712/state", "1").expect("written");
    front.ring = Front::connect(&mut guest, VDEV, 0).ring;
    assert_eq!(guest.xen.disk(VDEV).expect("attached").stats().connects, 3);
}

#[test]
fn resize_is_announced_at_the_next_request() {
    let (mut guest, _) = attach(1, |_| {});
    let mut front = Front::connect(&mut guest, VDEV, 0);
    let back = guest.read("device/vbd/51712/backend").expect("a backend");
    guest.store_call(xen_abi::xenstore::MessageType::Watch, 0, &[&format!("{back}/state"), "w"]).expect("watched");
    guest.watch_events();
    guest.xen.resize_disk(VDEV, 4096).expect("memory grows");
    guest.settle();
    assert_eq!(guest.watch_events().len(), 0, "Linux's blkback does not look at an idle disk");
    front.push(&mut guest, 1, Direction::Read, 0, DATA, 1);
    front.publish(&mut guest);
    guest.settle();
    assert_eq!(guest.watch_events().len(), 1);
    assert_eq!(guest.read(&format!("{back}/sectors")).as_deref(), Ok("4096"));
}

#[test]
fn the_indirect_limit_is_offered_before_the_ring() {
    let (mut guest, _) = attach(1, |_| {});
    guest.settle();
    let back = guest.read("device/vbd/51712/backend").expect("a backend");
    assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok("2"));
    assert_eq!(guest.read(&format!("{back}/feature-max-indirect-segments")).as_deref(), Ok("256"));
    assert!(guest.read(&format!("{back}/feature-flush-cache")).is_err());
    assert!(guest.read(&format!("{back}/sectors")).is_err());
}

#[test]
fn suspend_takes_the_old_domain_away() {
    let (mut guest, _) = attach(3, |_| {});
    let mut cut = 0;
    for round in 1..20u16 {
        let mut front = Front::connect(&mut guest, VDEV, 0);
        for i in 0..8 {
            front.push(&mut guest, i, Direction::Write, i * 8, DATA + i, 1);
        }
        front.publish(&mut guest);
        guest.xen.step(guest.now);
        cut += guest.xen.disk(VDEV).expect("attached").in_flight();
        guest.xen.port_out(0x10, 2, 1);
        guest.xen.suspend(false);
        assert_eq!(guest.read("control/shutdown").as_deref(), Ok("suspend"));
        let console = layout::CONSOLE_GFN << 12;
        guest.write(console, &[0xee; 8]);
        assert_eq!(guest.call(0, SCHED_OP, 2, &[2, 0, 0, 0], 0).0, 0);
        assert_eq!(guest.xen.domid(), round + 1);
        assert!(!guest.xen.platform().unplugged().ide_disks, "the emulated disks are back");
        assert_eq!(guest.xen.mapped_grants(), 0);
        // The save leaves Xen's frames out: where the guest saw them there is nothing. The console's page is cleared.
        let mut bytes = [0; 8];
        assert_eq!(guest.machine.read(SHARED_INFO << 12, &mut bytes), None);
        assert_eq!(guest.machine.read(GRANTS << 12, &mut bytes), None);
        guest.machine.read(console, &mut bytes).expect("a special page");
        assert_eq!(bytes, [0; 8]);
        assert_eq!(guest.hvm_param(0), 0);
        guest.start();
        assert_eq!(guest.read("domid"), Ok((round + 1).to_string()));
        assert_eq!(
            guest.read("device/vbd/51712/backend"),
            Ok(format!("/local/domain/0/backend/vbd/{}/51712", round + 1))
        );
        assert_eq!(guest.read("device/vbd/51712/state").as_deref(), Ok("1"));
    }
    assert!(cut > 0);
    assert_eq!(guest.xen.counters().suspends, 19);
    assert!(guest.xen.counters().in_flight_at_suspend > 0);
    assert!(guest.xen.guest_errors().is_empty(), "{:?}", guest.xen.guest_errors());
}

#[test]
fn a_cancelled_suspend_changes_nothing() {
    let (mut guest, _) = attach(3, |_| {});
    let mut front = Front::connect(&mut guest, VDEV, 0);
    front.push(&mut guest, 9, Direction::Read, 0, DATA, 1);
    front.publish(&mut guest);
    guest.xen.suspend(true);
    assert_eq!(guest.call(0, SCHED_OP, 2, &[2, 0, 0, 0], 0).0, 1);
    assert_eq!(guest.xen.domid(), 1);
    assert_eq!(front.finish(&mut guest), [(9, 0, 0)]);
    assert!(!guest.xen.suspend_pending());
}

#[test]
fn only_virtual_cpu_0_learns_that_a_suspend_was_cancelled() {
    let (mut guest, _) = attach(3, |_| {});
    guest.xen.suspend(true);
    assert_eq!(guest.call(1, SCHED_OP, 2, &[2, 0, 0, 0], 0).0, 0);
    let kinds: Vec<_> = guest.xen.take_guest_errors().into_iter().map(|error| error.kind).collect();
    assert_eq!(kinds, [GuestErrorKind::SuspendOnWrongCpu]);
    guest.xen.suspend(false);
    assert_eq!(guest.call(1, SCHED_OP, 2, &[2, 0, 0, 0], 0).0, 0);
    assert!(guest.xen.guest_errors().is_empty(), "a restored guest is told by Xen itself");
}

#[test]
fn every_hostile_act_fires_and_is_counted() {
    for kind in Hostile::ALL {
        let (mut guest, _) = attach(4, |_| {});
        let handshake = matches!(kind, Hostile::AbsurdKeys | Hostile::StateSkip);
        if handshake {
            guest.xen.inject_hostile(VDEV, HostilePlan { kind, after: 0, times: 1 }).expect("a disk");
            guest.settle();
            let back = guest.read("device/vbd/51712/backend").expect("a backend");
            if kind == Hostile::StateSkip {
                assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok("4"));
            } else {
                let written = guest.xen.disk(VDEV).expect("known").absurd_values().to_vec();
                let [(key, value)] = &written[..] else { panic!("not one absurd value: {written:?}") };
                assert_eq!(guest.read(&format!("{back}/{key}")).as_ref(), Ok(value));
            }
        } else {
            let mut front = Front::connect(&mut guest, VDEV, 0);
            guest.xen.inject_hostile(VDEV, HostilePlan { kind, after: 0, times: 1 }).expect("a disk");
            for i in 0..4 {
                front.push(&mut guest, 10 + i, Direction::Read, 0, DATA + i, 1);
            }
            front.publish(&mut guest);
            guest.settle();
            let mut ids = Vec::new();
            let mut broken = None;
            loop {
                match front.ring.take() {
                    Ok(Some(r)) => ids.push((r.id, r.operation, r.status)),
                    Ok(None) => break,
                    Err(error) => {
                        broken = Some(error);
                        break;
                    }
                }
            }
            let good = |d: &(u64, u8, i16)| (10..14).contains(&d.0) && d.1 == 0 && d.2 == 0;
            match kind {
                Hostile::ProducerAhead | Hostile::ProducerBackward => {}
                Hostile::NoResponse => assert_eq!(ids.len(), 3),
                Hostile::Vanish => assert!(ids.is_empty() && guest.xen.mapped_grants() == 0),
                Hostile::GrantKeptMapped => {
                    assert_eq!(guest.xen.mapped_grants(), 2);
                    guest.xen.clear_hostile(VDEV);
                    assert_eq!(guest.xen.mapped_grants(), 1);
                }
                Hostile::GrantKeptForGood => {
                    assert_eq!(guest.xen.mapped_grants(), 2);
                    guest.xen.clear_hostile(VDEV);
                    assert_eq!(guest.xen.mapped_grants(), 2);
                }
                Hostile::StateFlap | Hostile::EventStorm | Hostile::WatchStorm => assert!(ids.iter().all(good)),
                _ => {
                    let mut seen: Vec<_> = ids.iter().filter(|d| good(d)).map(|d| d.0).collect();
                    seen.sort_unstable();
                    seen.dedup();
                    assert!(seen.len() < 4, "{kind:?}: {ids:?}");
                }
            }
            assert!(broken.is_none() || broken == Some(RingError::Overrun) || broken == Some(RingError::Backwards));
        }
        assert_eq!(guest.xen.disk(VDEV).expect("known").hostile_fired().get(&kind), Some(&1), "{kind:?}");
    }
}

#[test]
fn bad_indices_and_keys_are_the_guests_error() {
    let (mut guest, _) = attach(1, |_| {});
    let front = Front::connect(&mut guest, VDEV, 0);
    front.ring.memory().store_u32(0, 1000);
    guest.send(front.port);
    guest.settle();
    assert_eq!(guest.xen.take_guest_errors()[0].kind, GuestErrorKind::BadRing);

    let (mut guest, _) = attach(1, |_| {});
    guest.settle();
    guest.write_store(0, "device/vbd/51712/ring-ref", "what").expect("written");
    guest.write_store(0, "device/vbd/51712/state", "3").expect("written");
    guest.settle();
    assert_eq!(guest.xen.guest_errors()[0].kind, GuestErrorKind::BadNegotiation);
    let back = guest.read("device/vbd/51712/backend").expect("a backend");
    assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok("5"));
}

#[test]
fn two_disks_at_once() {
    let (mut guest, _) = attach(1, |_| {});
    guest.xen.attach_disk(DiskSpec::new(51728, MemoryBacking::new(64)));
    guest.settle();
    let list = guest.store_call(xen_abi::xenstore::MessageType::Directory, 0, &["device/vbd"]).expect("listed");
    assert_eq!(list, b"51712\x0051728\0");
    assert_eq!(guest.xen.disks().len(), 2);
}

#[test]
fn a_barrier_keeps_its_place() {
    for seed in 0..20 {
        let (mut guest, _) = attach(seed, |_| {});
        let mut front = Front::connect(&mut guest, VDEV, 0);
        for i in 0..11 {
            if i == 5 {
                let reference = guest.grant(DATA + i, true);
                let segments = xen_abi::blkif::Segment::new(reference, 0, 7).into_iter().collect();
                let command = Command::Barrier { sector: i * 8, segments };
                front.ring.push(&Request { id: i, handle: 0, command }.encode()).expect("a slot");
            } else {
                front.push(&mut guest, i, Direction::Write, i * 8, DATA + i, 1);
            }
        }
        let order: Vec<u64> = front.finish(&mut guest).iter().map(|d| d.0).collect();
        assert_eq!(order[5], 5, "{order:?}");
        assert!(order[..5].iter().all(|id| *id < 5), "{order:?}");
        let disk = guest.xen.disk(VDEV).expect("attached");
        assert_eq!(disk.stats().barriers, 1);
        assert_eq!(disk.journal().unflushed_writes(), 5);
    }
}

#[test]
fn persistent_grants_stay_mapped_if_both_want_it() {
    let (mut guest, _) = attach(1, |o| o.persistent = true);
    guest.write_store(0, "device/vbd/51712/feature-persistent", "1").expect("written");
    let mut front = Front::connect(&mut guest, VDEV, 0);
    let reference = guest.grant(DATA, false);
    for id in 0..5 {
        let segments = xen_abi::blkif::Segment::new(reference, 0, 7).into_iter().collect();
        let command = Command::Rw { direction: Direction::Write, sector: 0, segments };
        front.ring.push(&Request { id, handle: 0, command }.encode()).expect("a slot");
        assert_eq!(front.finish(&mut guest), [(id, 1, 0)]);
    }
    assert_eq!(guest.xen.disk(VDEV).expect("attached").stats().grant_maps, 1);
    assert_eq!(guest.grant_flags(reference), 1 | 8 | 16);
    guest.write_store(0, "device/vbd/51712/state", "6").expect("written");
    guest.settle();
    assert_eq!(guest.grant_flags(reference), 1);
}

#[test]
fn the_trace_tells_what_happened() {
    let (mut guest, _) = attach(1, |_| {});
    let events = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = events.clone();
    guest.xen.set_trace(Some(Box::new(move |e| sink.lock().expect("not poisoned").push(e.clone()))));
    let mut front = Front::connect(&mut guest, VDEV, 0);
    front.push(&mut guest, 1, Direction::Read, 0, DATA, 1);
    front.finish(&mut guest);
    guest.xen.set_trace(None);
    let events = events.lock().expect("not poisoned");
    let has = |f: fn(&TraceEvent) -> bool| events.iter().any(f);
    assert!(has(|e| matches!(e, TraceEvent::Hypercall { op: 32, args: [4, _], result: 0, .. })));
    assert!(has(|e| matches!(e, TraceEvent::Store { from_guest: true, header: [11, ..], .. })));
    assert!(has(|e| matches!(e, TraceEvent::Store { from_guest: false, .. })));
    assert!(has(|e| matches!(e, TraceEvent::Ring { vdev: VDEV, req_prod: 1, req_cons: 0, rsp_prod: 0 })));
    assert!(has(|e| matches!(e, TraceEvent::Event { .. })));
}

#[test]
fn the_host_may_move_between_threads() {
    fn check<T: Send>(_: &T) {}
    check(&attach(1, |_| {}).0.xen);
}

#[test]
fn a_file_serves_as_a_disk() {
    let path = std::env::temp_dir().join(format!("xen-model-{}.img", std::process::id()));
    let file =
        std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
    file.set_len(64 * 512).expect("a size");
    let mut disk = FileBacking::new(file).expect("a disk");
    assert_eq!(disk.sectors(), 64);
    disk.write(3, &[7; 1024]).expect("written");
    disk.discard(4, 40).expect("discarded");
    disk.resize(65).expect("resized");
    disk.flush().expect("flushed");
    let bytes = std::fs::read(&path).expect("the file is there");
    std::fs::remove_file(&path).expect("the file is ours");
    assert_eq!(bytes.len(), 65 * 512);
    assert!(bytes[3 * 512..4 * 512].iter().all(|b| *b == 7) && bytes[4 * 512..].iter().all(|b| *b == 0));
    assert!(disk.read(65, &mut [0; 512]).is_err());
}

#[test]
fn no_request_takes_the_backend_down() {
    for seed in 1..40 {
        let (mut guest, _) = attach(seed, |_| {});
        let front = Front::connect(&mut guest, VDEV, 2);
        let memory = front.ring.memory();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let refs: Vec<u32> = (0..8).map(|i| guest.grant(DATA + i, i % 2 == 0)).collect();
        let mut published = 0u32;
        for _ in 0..64 {
            for slot in 0..128 {
                let mut bytes = [0; 112];
                for chunk in bytes.chunks_exact_mut(8) {
                    let value = match random() % 3 {
                        0 => random(),
                        1 => u64::from(refs[(random() % 8) as usize]) | (random() % 8) << 32 | (random() % 9) << 40,
                        _ => random() % 2100,
                    };
                    chunk.copy_from_slice(&value.to_le_bytes());
                }
                bytes[0] = (random() % 8) as u8;
                bytes[1] = (random() % 14) as u8;
                memory.write(64 + slot * 112, &bytes);
            }
            published = published.wrapping_add((random() % 128) as u32);
            memory.store_u32(0, published);
            guest.send(front.port);
            guest.settle();
        }
        let disk = guest.xen.disk(VDEV).expect("attached");
        assert!(disk.stats().responses > 1000 && disk.in_flight() == 0);
        guest.xen.surprise_detach(VDEV);
        assert_eq!(guest.xen.mapped_grants(), 0);
    }
}
