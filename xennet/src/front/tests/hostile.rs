//! Backends that lie: each lie is noticed, logged and survived, nothing is lost, and no page is given back while the
//! peer has it.

use core::num::NonZeroU16;
use std::{collections::HashMap, vec, vec::Vec};

use xen_abi::{
    netif::{
        EXTRA_FLAG_MORE, Extra, GSO_TCPV4, GsoType, HASH_TOEPLITZ, RSP_NULL, RSP_OKAY, RawExtra, RxFlags, RxRequest,
        RxResponse, TxResponse,
    },
    ring::RSP_PROD,
    shared::SharedMemory,
};

use super::{
    Random,
    frames::Shape,
    rx,
    sender::{ALL, PACKETS, Rig},
};
use crate::front::{Abilities, Offload, rx::FRAGMENTS, tx::Status};

fn frame() -> Vec<u8> {
    Shape::udp4(vec![7; 900]).whole()
}

/// A transmit rig with three packets at the backend.
fn tx_rig() -> (Rig, Vec<super::backend::Sent>) {
    let mut rig = Rig::connected(64, ALL);
    for _ in 0..3 {
        rig.send(&frame(), &[42], Offload::default());
    }
    let _ = rig.flush();
    let backend = rig.backend.as_mut().unwrap();
    let sent: Vec<_> = core::iter::from_fn(|| backend.take(&rig.bus)).collect();
    assert_eq!(sent.len(), 3);
    (rig, sent)
}

/// After a lie: nothing moves, and the next connection sends everything, once.
fn tx_recovers(mut rig: Rig, text: &str) {
    assert!(rig.finished().is_empty(), "{text}: a packet ended by a lie");
    assert!(rig.queue.is_broken(), "{text}");
    assert!(rig.bus.logged(text), "{text}: {}", rig.bus.log_text());
    rig.send(&frame(), &[42], Offload::default());
    assert!(!rig.flush().notify, "{text}: nothing is handed out any more");
    assert!(rig.finished().is_empty());
    rig.queue.detach(&rig.bus);
    assert_eq!(rig.bus.out(), 0, "{text}");
    rig.connect(ALL);
    assert_eq!(rig.served().len(), 4, "{text}");
    let due: Vec<_> = (0..4).map(|name| (name, Status::Sent)).collect();
    assert_eq!(rig.finished(), due, "{text}");
}

#[test]
fn transmit_responses_name_what_is_out() {
    // A slot that is free, another use of a slot, and what no slot has.
    for change in [0x0009_u16, 0x0100, 0xFF00, 0x00FF] {
        let (mut rig, sent) = tx_rig();
        let id = sent[0].ids[0] ^ change;
        assert!(!sent.iter().any(|sent| sent.ids.contains(&id)));
        rig.backend.as_mut().unwrap().say(id, RSP_OKAY);
        tx_recovers(rig, "no such request is out");
    }
    // The same answer twice.
    let (mut rig, sent) = tx_rig();
    let backend = rig.backend.as_mut().unwrap();
    backend.say(sent[0].ids[0], RSP_OKAY);
    backend.say(sent[0].ids[0], RSP_OKAY);
    tx_recovers(rig, "no such request is out");
}

#[test]
fn transmit_responses_of_an_earlier_connection_are_none_of_this() {
    let (mut rig, sent) = tx_rig();
    rig.queue.detach(&rig.bus);
    rig.connect(ALL);
    let backend = rig.backend.as_mut().unwrap();
    while backend.take(&rig.bus).is_some() {}
    backend.say(sent[1].ids[1], RSP_OKAY);
    tx_recovers(rig, "no such request is out");
}

#[test]
fn transmit_statuses_are_known() {
    for status in [2, -3, i16::MAX, i16::MIN] {
        let (mut rig, sent) = tx_rig();
        rig.backend.as_mut().unwrap().say(sent[0].ids[0], status);
        tx_recovers(rig, "no such status");
    }
    let (mut rig, sent) = tx_rig();
    rig.backend.as_mut().unwrap().say(sent[0].ids[0], RSP_NULL);
    tx_recovers(rig, "without an extra to answer");
}

#[test]
fn an_extra_is_answered_once() {
    let mut rig = Rig::connected(64, ALL);
    let offload = Offload { segment: NonZeroU16::new(1000), tcp_checksum: true, ..Offload::default() };
    rig.send(&Shape::tcp4(vec![1; 3000]).frame(), &[54], offload);
    let _ = rig.flush();
    let backend = rig.backend.as_mut().unwrap();
    let sent = backend.take(&rig.bus).unwrap();
    assert_eq!(sent.extras.len(), 1);
    backend.say(0, RSP_NULL);
    backend.say(0, RSP_NULL);
    assert!(rig.finished().is_empty() && rig.queue.is_broken());
}

#[test]
fn transmit_indices_go_forward_and_not_too_far() {
    for index in [7, 100, 0x8000_0000, u32::MAX] {
        let (rig, _) = tx_rig();
        rig.backend.as_ref().unwrap().tx.as_ref().unwrap().memory().store_u32(RSP_PROD, index);
        tx_recovers(rig, "rsp_prod");
    }
    // Back behind what was seen.
    let (mut rig, sent) = tx_rig();
    rig.backend.as_mut().unwrap().answer(&sent[0], RSP_OKAY);
    assert_eq!(rig.finished().len(), 1);
    rig.backend.as_ref().unwrap().tx.as_ref().unwrap().memory().store_u32(RSP_PROD, 0);
    assert!(rig.finished().is_empty() && rig.queue.is_broken());
    assert!(rig.bus.logged("went back"));
}

#[test]
fn a_page_that_the_peer_keeps_keeps_its_packet() {
    for answered in [true, false] {
        let (mut rig, sent) = tx_rig();
        rig.bus.keeps_all.set(true);
        if answered {
            rig.backend.as_mut().unwrap().answer(&sent[0], RSP_OKAY);
            assert!(rig.finished().is_empty(), "the peer may still read its page");
            assert!(rig.queue.is_broken() && rig.bus.logged("still in use"));
        }
        rig.queue.detach(&rig.bus);
        assert!(rig.queue.has_held());
        assert_eq!(rig.leaked(), 2, "ring and pool are given up");
        assert!(rig.finished().is_empty());
        // A new connection does not send what the old backend has.
        rig.connect(ALL);
        assert_eq!(rig.served().len(), 0);
        assert!(rig.finished().is_empty());
        rig.queue.detach(&rig.bus);
        rig.queue.give_up();
        assert!(rig.finished().is_empty(), "not even when the device is gone");
        rig.bus.keeps_all.set(false);
        let mut ended = rig.finished();
        ended.sort_unstable_by_key(|(name, _)| *name);
        let first = if answered { Status::Sent } else { Status::Gone };
        assert_eq!(ended, [(0, first), (1, Status::Gone), (2, Status::Gone)]);
    }
}

#[test]
fn a_packet_is_sent_again_when_the_peer_has_let_go() {
    let (mut rig, _) = tx_rig();
    rig.bus.keeps_all.set(true);
    rig.queue.detach(&rig.bus);
    rig.bus.keeps_all.set(false);
    rig.connect(ALL);
    assert!(rig.finished().is_empty());
    assert_eq!(rig.served().len(), 3);
    assert_eq!(rig.finished().len(), 3);
    assert!(!rig.queue.has_held() && rig.is_idle());
}

#[test]
fn an_event_storm_finds_nothing_to_do() {
    let (mut rig, sent) = tx_rig();
    for _ in 0..10_000 {
        let mut budget = 64;
        assert!(rig.queue.complete(&rig.bus, &mut budget).is_none());
        assert_eq!(budget, 64);
        let progress = rig.queue.rearm(&rig.bus);
        assert!(!progress.notify && !progress.more);
    }
    for sent in &sent {
        rig.backend.as_mut().unwrap().answer(sent, RSP_OKAY);
    }
    assert_eq!(rig.finished().len(), 3);
}

#[test]
fn whatever_a_backend_answers_no_packet_is_lost_or_ends_twice() {
    let mut random = Random(11);
    let (mut broken, mut held, mut ended_well) = (0, 0, 0);
    for _ in 0..150 {
        let abilities = Abilities { gso_v4: random.once_in(2), checksum_v4: random.once_in(2), ..ALL };
        let mut rig = Rig::connected(128, abilities);
        let mut state: HashMap<u32, u32> = HashMap::new();
        let mut end = |ended: Vec<(u32, Status)>| {
            for (name, status) in ended {
                *state.entry(name).or_default() += 1;
                ended_well += u32::from(status == Status::Sent);
            }
        };
        let mut count = 0;
        for _ in 0..60 {
            let backend = rig.backend.as_mut().unwrap();
            let ring = backend.tx.as_mut().unwrap();
            match random.below(16) {
                0 => {
                    let _ = ring.push(&TxResponse { id: random.next() as u16, status: random.next() as i16 });
                    let _ = ring.publish();
                }
                1 => ring.memory().store_u32(RSP_PROD, random.next() as u32),
                2 => {
                    let at = ring.memory().load_u32(RSP_PROD);
                    ring.memory().store_u32(RSP_PROD, at.wrapping_add(random.below(4) as u32));
                }
                3 => {
                    let mut kept = rig.bus.live(0..u64::MAX);
                    kept.retain(|_| random.once_in(10));
                    *rig.bus.kept.borrow_mut() = kept;
                }
                4 => rig.bus.kept.borrow_mut().clear(),
                5 => {
                    rig.queue.detach(&rig.bus);
                    broken += 1;
                    held += u32::from(rig.queue.has_held());
                    rig.connect(abilities);
                }
                6 if !rig.queue.is_broken() => {
                    let _ = rig.flush();
                    rig.backend.as_mut().unwrap().run(&rig.bus);
                }
                _ => {
                    let len = random.below(3000) as usize;
                    let segment = NonZeroU16::new(if random.once_in(2) { 500 } else { 0 });
                    let offload = Offload { segment, ..Offload::default() };
                    let packet = rig.packet(&Shape::tcp4(vec![1; len]).whole(), &[54], offload);
                    let accepted = rig.queue.send(packet);
                    count += 1;
                    if let Err(packet) = accepted {
                        end(vec![(packet.name, Status::Gone)]);
                    }
                    let _ = rig.flush();
                }
            }
            end(rig.finished());
            if rig.queue.is_broken() {
                rig.queue.detach(&rig.bus);
                held += u32::from(rig.queue.has_held());
                broken += 1;
                rig.connect(abilities);
            }
        }
        rig.bus.kept.borrow_mut().clear();
        rig.queue.detach(&rig.bus);
        rig.queue.give_up();
        end(rig.finished());
        assert!(rig.is_idle());
        assert_eq!(state.len(), count as usize);
        assert!(state.values().all(|times| *times == 1));
        assert_eq!(rig.bus.live(PACKETS), [0; 0], "no page of a packet is granted any more");
    }
    assert!(broken > 100 && held > 20 && ended_well > 100, "{broken} {held} {ended_well}");
}

/// After a lie: no packet comes, and the next connection serves.
fn rx_recovers(mut rig: rx::Rig, text: &str) {
    assert!(rig.poll().is_none(), "{text}: a packet came");
    assert!(rig.queue.is_broken(), "{text}");
    assert!(rig.bus.logged(text), "{text}: {}", rig.bus.log_text());
    assert!(rig.poll().is_none());
    assert!(!rig.queue.rearm(&rig.bus).notify);
    rig.queue.detach(&rig.bus);
    assert_eq!((rig.bus.out(), rig.queue.available()), (0, 300), "{text}");
    rig.connect();
    rig.deliver(&frame(), RxFlags::empty(), &[], 0);
    let packet = rig.poll().expect(text);
    assert_eq!(rig.bytes(&packet), frame());
}

/// A receive rig, and a response with a good id that a test changes.
fn rx_rig() -> (rx::Rig, RxResponse) {
    let mut rig = rx::Rig::connected(300);
    let request = rig.peer().page().unwrap();
    rig.backend.as_ref().unwrap().fill(&rig.bus, request, 0, &frame());
    let status = frame().len() as i16;
    (rig, RxResponse { id: request.id, offset: 0, flags: 0, status })
}

/// A right response, made a wrong one.
type Lie = fn(RxResponse) -> RxResponse;

#[test]
fn receive_responses_keep_to_their_page_and_place() {
    let lies: [(Lie, &str); 10] = [
        (|right| RxResponse { id: right.id ^ 1, ..right }, "response id 0x101 where 0x100 is due"),
        (|right| RxResponse { id: right.id ^ 0x100, ..right }, "response id 0x0 where 0x100 is due"),
        (|right| RxResponse { id: 0xFFFF, ..right }, "response id 0xffff"),
        (|right| RxResponse { offset: 4096, status: 1, ..right }, "offset 4096, status 1"),
        (|right| RxResponse { status: 4097, ..right }, "status 4097"),
        (|right| RxResponse { offset: 0xFFFF, status: 0x7FFF, ..right }, "data outside of the page"),
        (|right| RxResponse { offset: 3300, ..right }, "data outside of the page"),
        (|right| RxResponse { flags: 0x20, ..right }, "flags 0x20"),
        (|right| RxResponse { flags: 0x8000, ..right }, "flags that are unknown"),
        (|right| RxResponse { flags: RxFlags::GSO_PREFIX.bits(), ..right }, "were not offered"),
    ];
    for (lie, text) in lies {
        let (mut rig, right) = rx_rig();
        rig.peer().push(lie(right));
        rig.peer().publish();
        rx_recovers(rig, text);
    }
    // The right answers in the wrong order.
    let (mut rig, right) = rx_rig();
    let other = rig.peer().page().unwrap();
    rig.peer().push(RxResponse { id: other.id, ..right });
    rig.peer().push(right);
    rig.peer().publish();
    rx_recovers(rig, "is due");
}

#[test]
fn receive_extras_are_known_and_come_once() {
    let raw = |kind, flags, data| RawExtra { kind, flags, data };
    let gso = Extra::Gso { kind: GsoType::TcpV4, size: 1000 };
    let hash = Extra::Hash { kind: 0, algorithm: HASH_TOEPLITZ, value: 1 };
    for (extras, text) in [
        (vec![raw(0, 0, [0; 6])], "extra of type 0: an unknown extra"),
        (vec![raw(6, 0, [0; 6])], "extra of type 6: an unknown extra"),
        (vec![raw(255, 0, [0; 6])], "extra of type 255"),
        (vec![raw(1, 0, [0, 0, GSO_TCPV4, 0, 0, 0])], "an impossible segmentation"),
        (vec![raw(1, 0, [1, 0, 9, 0, 0, 0])], "an impossible segmentation"),
        (vec![raw(4, 0, [9, HASH_TOEPLITZ, 0, 0, 0, 0])], "an unknown kind of hash"),
        (vec![raw(1, 0xFE, [1, 0, GSO_TCPV4, 0, 0, 0])], "flags that are unknown"),
        (vec![Extra::McastAdd([1; 6]).encode(false)], "extra of type 2 in a received packet"),
        (vec![gso.encode(true), gso.encode(false)], "extra of type 1 twice"),
        (vec![hash.encode(true), gso.encode(true), hash.encode(true)], "extra of type 4 twice"),
    ] {
        let (mut rig, right) = rx_rig();
        rig.peer().push(RxResponse { flags: RxFlags::EXTRA_INFO.bits(), ..right });
        for extra in extras {
            rig.peer().page().unwrap();
            rig.peer().push_extra(extra);
        }
        rig.peer().publish();
        rx_recovers(rig, text);
    }
    // A chain without an end is one with repetitions, whatever the ring's length.
    let (mut rig, right) = rx_rig();
    rig.peer().push(RxResponse { flags: RxFlags::EXTRA_INFO.bits(), ..right });
    let mut count = 0;
    while rig.peer().page().is_some() {
        let kinds = [gso, hash, Extra::Xdp { headroom: 0 }];
        let extra = kinds[count % 3].encode(true);
        assert_eq!(extra.flags, EXTRA_FLAG_MORE);
        rig.peer().push_extra(extra);
        count += 1;
    }
    assert_eq!(count, 255);
    rig.peer().publish();
    rx_recovers(rig, "twice in a packet");
    // Behind a later fragment.
    let (mut rig, right) = rx_rig();
    rig.peer().push(RxResponse { flags: RxFlags::MORE_DATA.bits(), ..right });
    let next = rig.peer().page().unwrap();
    rig.peer().push(RxResponse { id: next.id, flags: RxFlags::EXTRA_INFO.bits(), ..right });
    rig.peer().publish();
    rx_recovers(rig, "extras behind a later fragment");
}

#[test]
fn a_packet_without_end_is_dropped_and_its_pages_are_not_lost() {
    let mut rig = rx::Rig::connected(300);
    for parts in [FRAGMENTS + 1, 256, 700] {
        let before = rig.queue.counters().malformed;
        for part in 0..parts {
            let RxRequest { id, .. } = rig.peer().page().expect("pages come back while the packet goes on");
            let more = if part + 1 < parts { RxFlags::MORE_DATA.bits() } else { 0 };
            rig.peer().push(RxResponse { id, offset: 0, flags: more, status: 100 });
            rig.peer().publish();
            assert!(rig.poll().is_none());
            let _ = rig.queue.rearm(&rig.bus);
        }
        assert_eq!(rig.queue.counters().malformed, before + 1);
        assert!(!rig.queue.is_broken());
    }
    assert_eq!(rig.queue.available(), 300);
}

#[test]
fn what_is_said_of_a_packet_must_be_true_of_it() {
    let mut rig = rx::Rig::connected(300);
    let blank = RxFlags::CSUM_BLANK | RxFlags::DATA_VALIDATED;
    let v4 = Extra::Gso { kind: GsoType::TcpV4, size: 500 };
    let v6 = Extra::Gso { kind: GsoType::TcpV6, size: 500 };
    let tcp = Shape::tcp4(vec![1; 2000]).frame();
    let mut fragment = tcp.clone();
    fragment[20] |= 0x20;
    let mut longer = tcp.clone();
    longer[16..18].copy_from_slice(&3000_u16.to_be_bytes());
    let mut shorter = tcp.clone();
    shorter[16..18].copy_from_slice(&30_u16.to_be_bytes());
    let mut icmp = tcp.clone();
    icmp[23] = 1;
    let mut version = tcp.clone();
    version[14] = 0x65;
    let mut routed = Shape { extensions: vec![(43, 24)], ..Shape::tcp6(vec![1; 400]) }.frame();
    routed[57] = 1;
    let mut arp = vec![0xFF; 12];
    arp.extend([8, 6]);
    arp.extend([0; 46]);
    let mut dropped = 0;
    for (bytes, flags, extras) in [
        (&arp, blank, vec![]),
        (&fragment, blank, vec![]),
        (&longer, blank, vec![]),
        (&shorter, blank, vec![]),
        (&icmp, blank, vec![]),
        (&version, blank, vec![]),
        (&routed, blank, vec![]),
        (&tcp, blank, vec![v6]),
        (&Shape::tcp6(vec![1; 2000]).frame(), blank, vec![v4]),
        (&Shape::udp4(vec![1; 2000]).frame(), blank, vec![v4]),
        (&arp, RxFlags::empty(), vec![v4]),
        (&fragment, RxFlags::empty(), vec![v4]),
        (&longer, RxFlags::empty(), vec![v4]),
        (&tcp[..13].to_vec(), RxFlags::empty(), vec![]),
    ] {
        rig.deliver(bytes, flags, &extras, 0);
        assert!(rig.poll().is_none(), "{flags:?} {extras:?}");
        dropped += 1;
        assert_eq!(rig.queue.counters().malformed, dropped);
        // The same without the claim is an ordinary packet, whatever is in it.
        if bytes.len() >= 14 {
            rig.deliver(bytes, RxFlags::empty(), &[], 0);
            let packet = rig.poll().unwrap();
            assert_eq!(&rig.bytes(&packet), bytes);
            rig.give_back(&packet);
        }
        let _ = rig.queue.rearm(&rig.bus);
        assert!(!rig.queue.is_broken());
    }
    assert_eq!(rig.queue.available(), 300);
}

#[test]
fn receive_indices_go_forward_and_not_too_far() {
    for index in [257, 0x8000_0000, u32::MAX] {
        let (rig, _) = rx_rig();
        rig.backend.as_ref().unwrap().rx.as_ref().unwrap().memory().store_u32(RSP_PROD, index);
        rx_recovers(rig, "rsp_prod");
    }
    let (mut rig, right) = rx_rig();
    rig.peer().push(right);
    rig.peer().publish();
    assert!(rig.poll().is_some());
    rig.backend.as_ref().unwrap().rx.as_ref().unwrap().memory().store_u32(RSP_PROD, 0);
    assert!(rig.poll().is_none() && rig.queue.is_broken());
    assert!(rig.bus.logged("went back"));
}

#[test]
fn a_page_that_the_peer_can_write_is_not_looked_at() {
    let (mut rig, right) = rx_rig();
    let before = rig.queue.available();
    rig.bus.keeps_all.set(true);
    rig.peer().push(right);
    rig.peer().publish();
    assert!(rig.poll().is_none());
    assert!(rig.queue.is_broken() && rig.bus.logged("still used"));
    rig.queue.detach(&rig.bus);
    assert!(rig.queue.available() < before, "what is kept is not used");
    rig.bus.keeps_all.set(false);
    // A ring that is kept is leaked with its page; the pages come back with the next connection.
    assert_eq!(rig.leaked(), 1);
    rig.connect();
    assert_eq!(rig.queue.available(), 300);
    rig.deliver(&frame(), RxFlags::empty(), &[], 0);
    assert!(rig.poll().is_some());
}

#[test]
fn a_queue_that_is_dropped_gives_up_what_the_peer_may_have() {
    let rig = rx::Rig::connected(300);
    let pool = rig.pool.leaked.clone();
    drop(rig.queue);
    assert_eq!(pool.get(), 1);
    let (mut rig, _) = tx_rig();
    rig.queue = crate::front::tx::Queue::new(1, [2; 6]).unwrap();
    assert_eq!(rig.leaked(), 2);
    let mut rig = rx::Rig::connected(300);
    rig.queue.detach(&rig.bus);
    let pool = rig.pool.leaked.clone();
    drop(rig.queue);
    assert_eq!(pool.get(), 0);
}

#[test]
fn whatever_a_backend_fills_in_no_page_is_lost() {
    let mut random = Random(12);
    let (mut broken, mut packets) = (0, 0);
    for _ in 0..200 {
        let mut rig = rx::Rig::connected(300);
        let mut out = Vec::new();
        for _ in 0..80 {
            match random.below(12) {
                0 => {
                    let ring = rig.peer().rx.as_mut().unwrap();
                    ring.memory().store_u32(RSP_PROD, random.next() as u32);
                }
                1 | 2 => {
                    // A response of any bytes, or an extra.
                    if let Some(request) = rig.peer().page() {
                        let id = if random.once_in(8) { random.next() as u16 } else { request.id };
                        let flags = random.next() as u16 & if random.once_in(4) { 0xFFFF } else { 0xF };
                        let status = random.below(4200) as i16 - 20;
                        rig.peer().push(RxResponse { id, offset: random.below(300) as u16, flags, status });
                        rig.peer().publish();
                    }
                }
                3 if rig.peer().page().is_some() => {
                    let bytes = random.next().to_le_bytes();
                    let [kind, flags, data @ ..] = bytes;
                    rig.peer().push_extra(RawExtra { kind: kind % 7, flags: flags & 1, data });
                    rig.peer().publish();
                }
                4 => {
                    let mut kept = rig.bus.live(0..u64::MAX);
                    kept.retain(|_| random.once_in(20));
                    *rig.bus.kept.borrow_mut() = kept;
                }
                5 => rig.bus.kept.borrow_mut().clear(),
                _ => {
                    let len = 20 + random.below(5000) as usize;
                    let bytes = random.bytes(len);
                    if rig.peer().rx.as_ref().unwrap().unanswered() == 0 {
                        rig.deliver(&bytes, RxFlags::from_bits_truncate(random.next() as u16 & 3), &[], 0);
                    }
                }
            }
            while let Some(packet) = rig.poll() {
                rig.bytes(&packet);
                out.push(packet);
                packets += 1;
            }
            let _ = rig.queue.rearm(&rig.bus);
            while !out.is_empty() && random.once_in(2) {
                let packet = out.swap_remove(random.below(out.len() as u64) as usize);
                rig.give_back(&packet);
            }
            if rig.queue.is_broken() {
                broken += 1;
                rig.queue.detach(&rig.bus);
                rig.connect();
            }
        }
        for packet in &out {
            rig.give_back(packet);
        }
        rig.bus.kept.borrow_mut().clear();
        rig.queue.detach(&rig.bus);
        // The next connection asks for what was kept.
        rig.attach().unwrap();
        rig.queue.detach(&rig.bus);
        assert_eq!(rig.queue.available(), 300);
        assert_eq!(rig.bus.live(0..0x9001), [0; 0], "no page of the pool is granted any more");
    }
    assert!(broken > 100 && packets > 500, "{broken} {packets}");
}
