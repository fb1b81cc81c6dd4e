//! The transmit queue.

use core::num::NonZeroU16;
use std::{collections::HashMap, format, string::ToString, vec, vec::Vec};

use xen_abi::netif::{Extra, RSP_DROPPED, RSP_ERROR, RSP_OKAY, TxFlags};
use xenbus::path::Path;

use fake_bus::TestBus;

use super::{
    Random,
    frames::{MAC, Shape},
    sender::{ALL, Rig},
};
use crate::front::{
    Abilities, Offload, SetupError,
    announce::Learned,
    config::{Wishes, negotiate},
    tx::{MULTICAST_ADDRESSES, POOL_PAGES, Status},
};

/// A datagram of so many bytes.
pub fn plain(bytes: usize) -> Vec<u8> {
    let mut frame = Shape::udp4((0..bytes - 42).map(|at| at as u8).collect()).whole();
    frame.truncate(bytes);
    frame
}

#[test]
fn without_room_packets_wait_in_order() {
    for limit in [usize::MAX, 60] {
        let mut rig = Rig::new(512);
        rig.bus.limit.set(limit);
        rig.connect(ALL);
        let mut bytes = HashMap::new();
        for number in 0..400_usize {
            let frame = plain(200 + number * 7 % 1200);
            // Two to five requests each, so that the ring's end comes at every place in a packet.
            let cuts: Vec<_> = [42, 100, 150].into_iter().take(number % 4).collect();
            let name = rig.send(&frame, &cuts, Offload::default());
            bytes.insert(name, frame);
        }
        let mut served = Vec::new();
        for _ in 0..500 {
            let _ = rig.flush();
            // Some at a time.
            for _ in 0..3 {
                if let Some(sent) = rig.backend.as_mut().unwrap().take(&rig.bus) {
                    rig.backend.as_mut().unwrap().answer(&sent, RSP_OKAY);
                    served.push(sent.bytes);
                }
            }
            rig.finished();
        }
        assert_eq!(served.len(), 400);
        for (number, is) in served.iter().enumerate() {
            assert_eq!(Some(is), bytes.get(&(number as u32)));
        }
        assert!(rig.is_idle());
    }
}

#[test]
fn a_full_queue_gives_the_packet_back() {
    let mut rig = Rig::new(4);
    for _ in 0..4 {
        rig.send(&plain(100), &[], Offload::default());
    }
    assert!(rig.queue.is_full());
    let packet = rig.packet(&plain(100), &[], Offload::default());
    let back = rig.queue.send(packet).err().unwrap();
    assert_eq!(back.name, 4);
    rig.connect(ALL);
    assert_eq!(rig.served().len(), 4);
    assert_eq!(rig.finished().len(), 4);
    assert!(rig.queue.send(back).is_ok());
}

#[test]
fn a_failed_packet_says_so() {
    let mut rig = Rig::connected(16, ALL);
    for (status, due) in [(RSP_ERROR, Status::Dropped), (RSP_DROPPED, Status::Dropped), (RSP_OKAY, Status::Sent)] {
        rig.send(&plain(1000), &[42, 500], Offload::default());
        let _ = rig.flush();
        let sent = rig.backend.as_mut().unwrap().take(&rig.bus).unwrap();
        rig.backend.as_mut().unwrap().answer(&sent, status);
        let finished = rig.finished();
        assert_eq!(finished.len(), 1);
        assert_eq!(finished[0].1, due);
    }
    assert_eq!(rig.queue.counters().dropped, 2);
}

#[test]
fn what_cannot_be_sent_is_refused_and_the_next_one_goes_out() {
    let mut rig = Rig::connected(64, ALL);
    let some = |offload: Offload| offload;
    let tcp = Offload { tcp_checksum: true, ..Offload::default() };
    let large = Offload { segment: NonZeroU16::new(1000), ..Offload::default() };
    let mut truncated = Shape::tcp4(vec![1; 400]).frame();
    truncated.truncate(40);
    let mut short_header = Shape::tcp4(vec![1; 400]).frame();
    short_header[46] = 0x40;
    let mut long_ip = Shape::tcp4(vec![1; 400]).frame();
    long_ip[16..18].copy_from_slice(&2000_u16.to_be_bytes());
    let mut fragment = Shape::tcp4(vec![1; 4000]).frame();
    fragment[20] |= 0x20;
    let mut version = Shape::tcp4(vec![1; 400]).frame();
    version[14] = 0x55;
    let mut endless = Shape { extensions: vec![(0, 8); 12], ..Shape::tcp6(vec![1; 600]) }.frame();
    let mut routed = Shape { extensions: vec![(43, 24)], ..Shape::tcp6(vec![1; 400]) }.frame();
    routed[57] = 1;
    let mut arp = vec![0xFF; 12];
    arp.extend([8, 6]);
    arp.extend([0; 46]);
    for (frame, offload) in [
        (vec![0; 13], some(Offload::default())),
        (truncated.clone(), tcp),
        (short_header, tcp),
        (long_ip, tcp),
        (fragment.clone(), tcp),
        (fragment, large),
        (version, tcp),
        (arp.clone(), tcp),
        (arp, large),
        (Shape::udp4(vec![1; 3000]).frame(), large),
        (Shape::udp4(vec![1; 300]).frame(), tcp),
        (Shape::tcp6(vec![1; 300]).frame(), some(Offload { ip_checksum: true, ..Offload::default() })),
        (core::mem::take(&mut endless), tcp),
        (routed, tcp),
        (vec![0x55; 0xFFFF + 1], some(Offload::default())),
        (vec![0x55; 0xFFFF - 3], some(Offload { vlan: Some(1), ..Offload::default() })),
    ] {
        let name = rig.send(&frame, &[14], offload);
        let good = rig.send(&plain(100), &[], Offload::default());
        let progress = rig.flush();
        assert!(progress.more, "the refused one has ended");
        assert_eq!(rig.served().len(), 1, "{} bytes {offload:?}", frame.len());
        assert_eq!(
            rig.finished(),
            [(name, Status::Malformed), (good, Status::Sent)],
            "{} bytes {offload:?}",
            frame.len()
        );
    }
    assert_eq!(rig.queue.counters().refused, 16);
    assert!(!rig.queue.is_broken());
    // And one that cannot be reached.
    let mut packet = rig.packet(&plain(500), &[], Offload::default());
    packet.mapped = false;
    assert!(rig.queue.send(packet).is_ok());
    let _ = rig.flush();
    assert_eq!(rig.finished()[0].1, Status::Resources);
}

#[test]
fn an_exact_largest_packet_fits() {
    let mut rig = Rig::connected(4, ALL);
    let shape = Shape::tcp4((0..65_535 - 54_u32).map(|at| (at / 3) as u8).collect());
    let offload = Offload { segment: NonZeroU16::new(1460), tcp_checksum: true, ..Offload::default() };
    rig.send(&shape.frame(), &[54, 60, 40_000], offload);
    let _ = rig.flush();
    let sent = rig.served();
    assert_eq!((sent.len(), sent[0].bytes.len()), (1, 65_535));
    assert_eq!(sent[0].extras, [Extra::Gso { kind: xen_abi::netif::GsoType::TcpV4, size: 1460 }]);
    assert!(sent[0].wire(&shape, false) == shape.wire(&offload));
    // With a tag it is too long for a slot, and cut here.
    rig.finished();
    let offload = Offload { vlan: Some(5), ..offload };
    rig.send(&shape.frame(), &[54, 60, 40_000], offload);
    let mut wire = Vec::new();
    for _ in 0..8 {
        let _ = rig.flush();
        wire.extend(rig.served().iter().flat_map(|sent| sent.wire(&shape, true)));
        rig.finished();
    }
    assert!(wire == shape.wire(&offload));
    assert_eq!(rig.queue.counters().segments as usize, wire.len());
}

#[test]
fn a_packet_that_is_cut_here_goes_in_portions() {
    let shape = Shape::tcp4((0..60_000_u32).map(|at| (at / 7) as u8).collect());
    let offload = Offload { segment: NonZeroU16::new(500), ..Offload::default() };
    let due = shape.wire(&offload);
    let less = Abilities { gso_v4: false, ..ALL };
    let mut rig = Rig::connected(4, less);
    let name = rig.send(&shape.frame(), &[54], offload);
    let _ = rig.flush();
    let portion = rig.served();
    assert!(!portion.is_empty() && portion.len() < due.len());
    // Answered, but the rest is still to come: that is not cancelled.
    assert!(rig.queue.complete(&rig.bus, &mut u32::MAX.clone()).is_none());
    assert!(rig.queue.cancel(|_| true).is_none());
    // A new connection gets all of it.
    rig.queue.detach(&rig.bus);
    rig.connect(less);
    let mut wire = Vec::new();
    loop {
        let sent = rig.served();
        wire.extend(sent.iter().flat_map(|sent| sent.wire(&shape, false)));
        let ended = rig.finished();
        if !ended.is_empty() {
            assert_eq!(ended, [(name, Status::Sent)]);
            break;
        }
    }
    assert!(wire == due);
    // When a segment is not taken, the rest is not sent.
    let name = rig.send(&shape.frame(), &[54], offload);
    let _ = rig.flush();
    let first = rig.backend.as_mut().unwrap().take(&rig.bus).unwrap();
    rig.backend.as_mut().unwrap().answer(&first, RSP_ERROR);
    assert_eq!(rig.served().len() + 1, portion.len());
    assert_eq!(rig.finished(), [(name, Status::Dropped)]);
    assert!(rig.served().is_empty());
}

#[test]
fn packets_are_cancelled_only_while_they_wait() {
    let mut rig = Rig::new(16);
    let names: Vec<_> = (0..5).map(|_| rig.send(&plain(300), &[42], Offload::default())).collect();
    let cancelled = rig.queue.cancel(|packet| packet.name == names[2]).unwrap();
    assert_eq!(cancelled.name, names[2]);
    let first = rig.queue.cancel(|packet| packet.name == names[0]).unwrap();
    let last = rig.queue.cancel(|packet| packet.name == names[4]).unwrap();
    assert_eq!((first.name, last.name), (names[0], names[4]));
    drop((cancelled, first, last));
    rig.connect(ALL);
    assert!(rig.queue.cancel(|_| true).is_none(), "all are with the backend");
    let name = rig.send(&plain(300), &[42], Offload::default());
    assert_eq!(rig.queue.cancel(|_| true).unwrap().name, name);
    rig.served();
    assert_eq!(rig.finished(), [(names[1], Status::Sent), (names[3], Status::Sent)]);
    assert!(rig.is_idle());
}

#[test]
fn a_new_connection_gets_what_was_not_answered_in_order() {
    let mut random = Random(9);
    for _ in 0..40 {
        let mut rig = Rig::connected(256, ALL);
        let mut due = Vec::new();
        let mut sizes = HashMap::new();
        for _ in 0..60 {
            let shape = Shape::tcp4(random.bytes(2000 + random.0 as usize % 3000));
            let large = Offload { segment: NonZeroU16::new(1000), ..Offload::default() };
            let name = rig.send(&shape.frame(), &[54], large);
            sizes.insert(name, shape);
            due.push(name);
        }
        let _ = rig.flush();
        // Some are answered, in any order.
        let mut taken = Vec::new();
        while let Some(sent) = rig.backend.as_mut().unwrap().take(&rig.bus) {
            taken.push(sent);
        }
        for sent in &taken {
            if random.once_in(2) {
                rig.backend.as_mut().unwrap().answer(sent, RSP_OKAY);
            }
        }
        // The new backend does less.
        let fewer = Abilities { gso_v4: random.once_in(2), checksum_v4: random.once_in(2), ..ALL };
        for (name, status) in rig.finished() {
            assert_eq!(status, Status::Sent);
            due.retain(|other| *other != name);
        }
        rig.queue.freeze();
        rig.queue.detach(&rig.bus);
        assert_eq!((rig.bus.out(), rig.leaked()), (0, 0), "everything was given back");
        rig.connect(fewer);
        let mut wire = Vec::new();
        for _ in 0..200 {
            let _ = rig.flush();
            for sent in rig.served() {
                wire.extend(sent.wire(&Shape::tcp4(vec![]), false));
            }
            for (name, status) in rig.finished() {
                assert_eq!((status, due.remove(0)), (Status::Sent, name), "in order");
            }
        }
        assert_eq!(due, [0; 0]);
        let all: Vec<_> = wire.iter().map(|frame| &frame[54..]).collect::<Vec<_>>().concat();
        assert!(rig.is_idle());
        let large = Offload { segment: NonZeroU16::new(1000), ..Offload::default() };
        let answered: usize = all.len();
        let expected: usize = sizes.values().map(|shape| shape.payload.len()).sum();
        assert!(answered <= expected);
        let mut frames: Vec<_> = sizes.values().flat_map(|shape| shape.wire(&large)).collect();
        frames.sort();
        for frame in &wire {
            assert!(frames.binary_search(frame).is_ok(), "a frame that nobody sent");
        }
        assert_eq!(rig.dropped.get() as usize, sizes.len(), "every packet came back to its owner");
    }
}

#[test]
fn freeze_and_thaw_keep_the_connection() {
    let mut rig = Rig::connected(16, ALL);
    rig.send(&plain(600), &[], Offload::default());
    let _ = rig.flush();
    rig.queue.freeze();
    let second = rig.send(&plain(700), &[], Offload::default());
    assert!(!rig.flush().notify);
    assert_eq!(rig.served().len(), 1);
    let progress = rig.queue.thaw(&rig.bus);
    assert!(progress.notify && progress.more);
    assert_eq!(rig.served().len(), 1);
    assert_eq!(rig.finished().last(), Some(&(second, Status::Sent)));
}

#[test]
fn a_queue_that_is_not_connected_again_gives_its_packets_away() {
    let mut rig = Rig::connected(64, ALL);
    let names: Vec<_> = (0..20).map(|_| rig.send(&plain(600), &[42], Offload::default())).collect();
    let _ = rig.flush();
    assert!(rig.queue.cancel(|_| true).is_none());
    rig.queue.detach(&rig.bus);
    let mut other = Rig::connected(64, ALL);
    other.ram = rig.ram.clone();
    while let Some(packet) = rig.queue.cancel(|_| true) {
        assert!(other.queue.send(packet).is_ok());
    }
    other.backend.as_mut().unwrap().ram = rig.ram.clone();
    let _ = other.flush();
    let backend = other.backend.as_mut().unwrap();
    let mut count = 0;
    // Rings and pool of the second rig are in its own memory: only requests are looked at.
    let ring = backend.tx.as_mut().unwrap();
    while let Some(slot) = ring.take().unwrap() {
        let request = xen_abi::netif::TxRequest::from(slot);
        count += usize::from(request.flags & TxFlags::MORE_DATA.bits() == 0);
        ring.push(&xen_abi::netif::TxResponse { id: request.id, status: RSP_OKAY }).unwrap();
    }
    let _ = ring.publish();
    assert_eq!(count, 20);
    let finished: Vec<_> = other.finished().into_iter().map(|(name, _)| name).collect();
    assert_eq!(finished, names);
}

#[test]
fn the_number_of_queues_may_change_with_each_connection() {
    const BACKEND: &str = "/local/domain/0/backend/vif/1/0";
    let path = Path::new(BACKEND.as_bytes()).unwrap();
    let wishes = Wishes {
        queues: 4,
        checksum_v4: true,
        checksum_v6: true,
        gso_v4: true,
        gso_v6: true,
        multicast: false,
        control: false,
    };
    let mut rigs: Vec<_> = (0..4).map(|_| Rig::new(256)).collect();
    // One memory, since packets move from queue to queue.
    let ram = rigs[0].ram.clone();
    for (number, rig) in rigs.iter_mut().enumerate() {
        rig.share(&ram, number as u64);
    }
    let mut served: Vec<Vec<u8>> = Vec::new();
    let mut due: Vec<Vec<u8>> = Vec::new();
    for offered in [4, 1, 3, 2, 4] {
        let store = TestBus::new();
        store.set(&format!("{BACKEND}/feature-rx-copy"), "1");
        store.set(&format!("{BACKEND}/feature-sg"), "1");
        store.set(&format!("{BACKEND}/multi-queue-max-queues"), &offered.to_string());
        let plan = negotiate(&store, &path, true, &wishes).unwrap();
        assert_eq!(plan.queues, offered);
        let count = usize::from(plan.queues);
        // What waits in a queue that is not connected again goes to one that is.
        for old in count..4 {
            let (kept, others) = rigs.split_at_mut(old);
            while let Some(packet) = others[0].queue.cancel(|_| true) {
                assert!(kept[old % count].queue.send(packet).is_ok());
            }
            assert!(others[0].queue.cancel(|_| true).is_none());
        }
        for rig in &mut rigs[..count] {
            rig.connect(plan.abilities);
        }
        for number in 0..40 {
            let frame = Shape::udp4(vec![due.len() as u8; 200 + due.len()]).whole();
            rigs[number % count].send(&frame, &[42], Offload::default());
            due.push(frame);
        }
        for rig in &mut rigs[..count] {
            let _ = rig.flush();
            // The first few are served; the connection ends with the others at the backend.
            for _ in 0..7 {
                let backend = rig.backend.as_mut().unwrap();
                let sent = backend.take(&rig.bus).unwrap();
                backend.answer(&sent, RSP_OKAY);
                served.push(sent.bytes);
            }
            rig.finished();
            rig.queue.detach(&rig.bus);
            assert_eq!(rig.bus.out(), 0);
        }
    }
    for rig in &mut rigs {
        rig.connect(ALL);
        served.extend(rig.served().into_iter().map(|sent| sent.bytes));
        rig.finished();
        assert!(rig.is_idle());
    }
    served.sort();
    due.sort();
    assert!(served == due, "each packet once");
}

#[test]
fn a_device_that_is_gone_ends_every_packet_once() {
    let mut rig = Rig::connected(64, ALL);
    let mut names: Vec<_> = (0..40).map(|_| rig.send(&plain(9000), &[42], Offload::default())).collect();
    let _ = rig.flush();
    rig.queue.give_up();
    names.push(rig.send(&plain(100), &[], Offload::default()));
    assert!(rig.flush().more);
    let mut ended = rig.finished();
    ended.sort_unstable_by_key(|(name, _)| *name);
    assert_eq!(ended, names.iter().map(|name| (*name, Status::Gone)).collect::<Vec<_>>());
    rig.queue.detach(&rig.bus);
    assert_eq!(rig.bus.out(), 0);
}

#[test]
fn too_few_references_are_an_error_and_nothing_stays() {
    for limit in [0, 1, POOL_PAGES + 1] {
        let mut rig = Rig::new(4);
        rig.bus.limit.set(limit);
        assert_eq!(rig.attach(), Err(SetupError::NoGrants));
        assert_eq!((rig.bus.out(), rig.leaked()), (0, 0));
    }
    let mut rig = Rig::new(4);
    rig.bus.limit.set(POOL_PAGES + 2);
    rig.connect(ALL);
    // One reference for packets: what needs more is copied.
    rig.send(&plain(4000), &[42, 1000, 2000], Offload::default());
    let _ = rig.flush();
    assert_eq!(rig.served()[0].bytes.len(), 4000);
    assert_eq!(rig.finished().len(), 1);
    assert!(!rig.queue.is_broken());
}

#[test]
fn the_multicast_filter_is_told_and_told_again() {
    let mut rig = Rig::connected(16, ALL);
    let address = |number: u8| [1, 0, 0x5E, 0, 0, number];
    assert!(rig.queue.set_multicast(&[address(1), address(2)]));
    assert!(rig.flush().notify);
    let told = |rig: &mut Rig| -> Vec<Extra> { rig.served().iter().flat_map(|sent| sent.extras.clone()).collect() };
    assert_eq!(told(&mut rig), [Extra::McastAdd(address(1)), Extra::McastAdd(address(2))]);
    assert!(rig.queue.set_multicast(&[address(2), address(3)]));
    let _ = rig.flush();
    assert_eq!(told(&mut rig), [Extra::McastDel(address(1)), Extra::McastAdd(address(3))]);
    rig.finished();
    assert!(!rig.queue.set_multicast(&[address(0); MULTICAST_ADDRESSES + 1]));
    rig.queue.detach(&rig.bus);
    rig.connect(ALL);
    assert_eq!(told(&mut rig), [Extra::McastAdd(address(2)), Extra::McastAdd(address(3))]);
    rig.finished();
    assert!(!rig.queue.multicast_refused());
    assert!(rig.queue.set_multicast(&[address(9)]));
    let _ = rig.flush();
    let sent = rig.backend.as_mut().unwrap().take(&rig.bus).unwrap();
    rig.backend.as_mut().unwrap().answer(&sent, RSP_ERROR);
    rig.finished();
    assert!(rig.queue.multicast_refused() && !rig.queue.is_broken());
    // A filter as long as can be, with a ring that has no room for it at once.
    let many: Vec<_> = (0..MULTICAST_ADDRESSES as u8).map(address).collect();
    assert!(rig.queue.set_multicast(&many));
    let mut all = Vec::new();
    for _ in 0..4 {
        let _ = rig.flush();
        all.extend(told(&mut rig));
        rig.finished();
    }
    for address in many {
        assert_eq!(all.iter().filter(|extra| **extra == Extra::McastAdd(address)).count(), 1);
    }
}

#[test]
fn addresses_are_announced_after_a_resume() {
    let mut rig = Rig::connected(16, ALL);
    rig.send(&Shape::tcp4(vec![0; 900]).whole(), &[54], Offload::default());
    rig.send(&Shape::tcp6(vec![0; 900]).whole(), &[74], Offload::default());
    let _ = rig.flush();
    rig.served();
    rig.finished();
    rig.queue.detach(&rig.bus);
    rig.connect(ALL);
    let mut learned = Learned::new(MAC);
    learned.merge(rig.queue.learned());
    assert!(rig.queue.announce(&rig.bus, &learned).notify);
    let sent = rig.served();
    assert_eq!(sent.len(), 2);
    assert_eq!((&sent[0].bytes[12..14], &sent[0].bytes[28..32]), (&[8, 6][..], &[10, 0, 0, 1][..]));
    assert_eq!((&sent[1].bytes[12..14], sent[1].bytes[54]), (&[0x86, 0xDD][..], 136));
    assert!(rig.finished().is_empty(), "nobody owns them");
    // What they used is free again: there is room for twice as many as slots.
    for _ in 0..256 {
        let _ = rig.queue.announce(&rig.bus, &learned);
        assert_eq!(rig.served().len(), 2);
        rig.finished();
    }
    // Not before it is connected.
    rig.queue.freeze();
    assert!(!rig.queue.announce(&rig.bus, &learned).notify);
}

#[test]
fn a_batch_is_one_notification_and_events_are_asked_for_once() {
    let mut rig = Rig::connected(512, ALL);
    for _ in 0..100 {
        rig.send(&plain(1000), &[42], Offload::default());
    }
    assert!(rig.flush().notify);
    // The backend has not looked yet: it needs no second one.
    for _ in 0..20 {
        rig.send(&plain(1000), &[42], Offload::default());
    }
    assert!(!rig.flush().notify);
    assert_eq!(rig.served().len(), 120);
    assert_eq!(rig.finished().len(), 120);
}
