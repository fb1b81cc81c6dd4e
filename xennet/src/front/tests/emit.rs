//! From packets to requests: what goes as it is, what is copied, what is changed on the way.

use core::num::NonZeroU16;
use std::{vec, vec::Vec};

use super::{
    Random,
    frames::{Shape, fold},
    sender::{ALL, PACKETS, Rig},
    tx::plain,
};
use crate::front::{Abilities, Offload, tx::Status};

#[test]
fn a_small_packet_is_copied_into_one_request_without_a_grant() {
    let mut rig = Rig::connected(16, ALL);
    let made = rig.bus.made.get();
    let frame = plain(128);
    rig.send(&frame, &[14, 34, 42], Offload::default());
    assert!(rig.flush().notify);
    let sent = rig.served();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].bytes.as_slice(), sent[0].ids.len(), sent[0].first), (frame.as_slice(), 1, 128));
    assert_eq!(rig.bus.made.get(), made, "no grant was made");
    assert_eq!(rig.finished(), [(0, Status::Sent)]);
    assert!(rig.is_idle());
}

#[test]
fn headers_are_linear_and_payload_is_not_copied() {
    let mut rig = Rig::connected(16, ALL);
    let shape = Shape::tcp4((0..1446_u32).map(|at| at as u8).collect());
    let frame = shape.whole();
    for cuts in [&[54][..], &[14, 34, 54], &[10, 20, 40, 700], &[54, 1000, 1001]] {
        let made = rig.bus.made.get();
        rig.send(&frame, cuts, Offload::default());
        let _ = rig.flush();
        let sent = rig.served();
        assert_eq!(sent[0].bytes, frame, "{cuts:?}");
        assert!(sent[0].first >= 54 && sent[0].first < 256, "{cuts:?}: {}", sent[0].first);
        assert!(sent[0].ids.len() as u64 == 1 + rig.bus.made.get() - made);
    }
    let counters = rig.queue.counters();
    assert_eq!((counters.packets, counters.bounced), (4, 0));
    assert!(counters.copied <= 4 * 256);
    assert_eq!(rig.finished().len(), 4);
}

/// A frame whose checksum field holds the pseudo-header's sum, as Windows leaves it.
fn half_summed(shape: &Shape) -> Vec<u8> {
    let mut frame = shape.whole();
    let sum = fold(shape.pseudo(&frame));
    let field = shape.transport() + if shape.tcp { 16 } else { 6 };
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn a_packet_in_one_page_goes_as_it_is() {
    let payload: Vec<u8> = (0..1400_u32).map(|at| (at * 7) as u8).collect();
    let tcp = Shape { tcp_options: 12, ..Shape::tcp4(payload.clone()) };
    let options = Shape { options: 8, ..tcp.clone() };
    let tagged = Shape { tag: Some(0x2064), ..tcp.clone() };
    let asked = Offload { tcp_checksum: true, udp_checksum: true, ..Offload::default() };
    for shape in [tcp, Shape::udp4(payload.clone()), options, tagged, Shape::tcp6(payload)] {
        for (frame, offload) in [(shape.whole(), Offload::default()), (half_summed(&shape), asked)] {
            let mut rig = Rig::connected(16, ALL);
            let made = rig.bus.made.get();
            rig.send(&frame, &[], offload);
            let _ = rig.flush();
            let sent = rig.served();
            assert_eq!((sent[0].bytes.as_slice(), sent[0].ids.len()), (frame.as_slice(), 1));
            assert_eq!(sent[0].wire(&shape, false), [shape.whole()]);
            assert_eq!((rig.queue.counters().copied, rig.bus.made.get() - made), (0, 1));
            assert_eq!(rig.finished(), [(0, Status::Sent)]);
            assert!(rig.is_idle());
        }
    }
}

#[test]
fn headers_in_a_page_of_their_own_go_beside_the_payload() {
    let payload: Vec<u8> = (0..1200_u32).map(|at| (at * 7) as u8).collect();
    let plain = Shape::tcp4(payload.clone());
    let options = Shape { tcp_options: 12, ..plain.clone() };
    let asked = Offload { tcp_checksum: true, udp_checksum: true, ..Offload::default() };
    for (shape, cut, copied) in [
        (plain.clone(), 54, 54),
        (options.clone(), 66, 66),
        // Some payload comes with the headers.
        (options.clone(), 96, 96),
        (Shape::udp4(payload), 42, 42),
        // Not all of the headers are in the first piece, which the general way finds out.
        (options, 60, 66),
        (plain, 42, 54),
    ] {
        for (frame, offload) in [(shape.whole(), Offload::default()), (half_summed(&shape), asked)] {
            let mut rig = Rig::connected(16, ALL);
            let made = rig.bus.made.get();
            rig.send(&frame, &[cut], offload);
            let _ = rig.flush();
            let sent = rig.served();
            assert_eq!((sent[0].bytes.as_slice(), sent[0].ids.len()), (frame.as_slice(), 2), "{cut}");
            assert_eq!(sent[0].wire(&shape, false), [shape.whole()], "{cut}");
            assert_eq!((rig.queue.counters().copied, rig.bus.made.get() - made), (copied, 1), "{cut}");
            assert_eq!(rig.finished(), [(0, Status::Sent)]);
            assert!(rig.is_idle());
        }
    }
}

#[test]
fn what_has_to_be_changed_is_changed_in_a_copy_of_the_headers() {
    let shape = Shape::tcp4((0..1400_u32).map(|at| at as u8).collect());
    let sum = Offload { tcp_checksum: true, ..Offload::default() };
    let both = Offload { ip_checksum: true, ..sum };
    let tag = Offload { vlan: Some(0x2064), ..Offload::default() };
    let none = Abilities { checksum_v4: false, ..ALL };
    // No sum in the field, a wrong one there, one for the IP header, a tag, and a backend that fills in nothing.
    for (frame, offload, abilities) in [
        (shape.frame(), both, ALL),
        (shape.whole(), sum, ALL),
        (half_summed(&shape), both, ALL),
        (shape.whole(), tag, ALL),
        (half_summed(&shape), sum, none),
    ] {
        let mut rig = Rig::connected(16, abilities);
        rig.send(&frame, &[], offload);
        let _ = rig.flush();
        let sent = rig.served();
        let due = shape.wire(&Offload { vlan: offload.vlan, ..both });
        assert_eq!(sent[0].wire(&shape, offload.vlan.is_some()), due, "{offload:?}");
        assert!(rig.queue.counters().copied >= 54, "{offload:?}");
        assert_eq!(rig.finished(), [(0, Status::Sent)]);
    }
}

#[test]
fn what_contradicts_itself_does_not_go_as_it_is() {
    let shape = Shape::udp4(vec![5; 1000]);
    let asked = Offload { udp_checksum: true, ..Offload::default() };
    let broken = |at: usize, byte: u8| {
        let mut frame = half_summed(&shape);
        frame[at] = byte;
        frame
    };
    // An IP length beyond the frame, or below its headers; a fragment; another protocol.
    for frame in [broken(16, 0xFF), broken(16, 0), broken(20, 0x20), broken(23, 6), broken(23, 1)] {
        let mut rig = Rig::connected(16, ALL);
        rig.send(&frame, &[], asked);
        let _ = rig.flush();
        assert_eq!(rig.finished(), [(0, Status::Malformed)]);
        assert!(rig.served().is_empty());
    }
}

#[test]
fn every_header_form_goes_over_the_wire_as_it_should() {
    let mut random = Random(4);
    let half = Abilities { checksum_v6: false, gso_v6: false, ..ALL };
    let none = Abilities { checksum_v4: false, checksum_v6: false, gso_v4: false, gso_v6: false, ..ALL };
    let distrusted = Abilities { trusted: false, ..ALL };
    let mut largest = 0;
    for abilities in [ALL, half, none, distrusted, Abilities { scatter: false, ..ALL }] {
        for round in 0..160 {
            let mut rig = Rig::connected(64, abilities);
            let v6 = random.once_in(2);
            let tcp = !random.once_in(3);
            let large = tcp && random.once_in(2);
            let most = if large { 62_000 } else { 1400 };
            let count = random.below(most) as usize;
            let extensions = match random.below(4) {
                0 if v6 => vec![(0, 8), (60, 16)],
                1 if v6 => vec![(43, 24)],
                2 if v6 => vec![(44, 8)],
                _ => vec![],
            };
            let shape = Shape {
                v6,
                tcp,
                tag: random.once_in(4).then_some(0x2064),
                options: if v6 { 0 } else { random.below(11) as usize * 4 },
                extensions,
                tcp_options: random.below(11) as usize * 4,
                tcp_flags: [0x10, 0x18, 0x99, 0x19][random.below(4) as usize],
                payload: random.bytes(count),
            };
            let size = NonZeroU16::new(500 + random.below(900) as u16);
            let offload = Offload {
                ip_checksum: !v6 && random.once_in(2),
                tcp_checksum: tcp && (large || random.once_in(2)),
                udp_checksum: !tcp && random.once_in(2),
                segment: if large { size } else { None },
                vlan: random.once_in(3).then_some(0xA005),
            };
            let mut frame = shape.frame();
            if large && random.once_in(2) {
                // Windows may leave the length of a large packet to the driver.
                let at = shape.network() + if v6 { 4 } else { 2 };
                frame[at..at + 2].fill(0);
            }
            let cuts: Vec<usize> = match random.below(4) {
                0 => vec![],
                1 => vec![14, shape.transport(), shape.header_len()],
                2 => vec![shape.header_len()],
                _ => (1..=random.below(40) as usize).map(|cut| cut * frame.len() / 41).collect(),
            };
            rig.send(&frame, &cuts, offload);
            let mut wire = Vec::new();
            loop {
                let _ = rig.flush();
                let sent = rig.served();
                if sent.is_empty() {
                    break;
                }
                for packet in &sent {
                    largest = largest.max(packet.bytes.len());
                    if !large || abilities.gso_v4 {
                        assert!(packet.first >= shape.header_len().min(packet.bytes.len()), "headers are linear");
                    }
                    wire.extend(packet.wire(&shape, offload.vlan.is_some()));
                }
                for (_, status) in rig.finished() {
                    assert_eq!(status, Status::Sent);
                }
            }
            let due = shape.wire(&offload);
            assert_eq!(wire.len(), due.len(), "{abilities:?} round {round} {offload:?}");
            for (is, due) in wire.iter().zip(&due) {
                assert!(is == due, "{abilities:?} round {round} {offload:?}\n{is:02x?}\n{due:02x?}");
            }
            assert!(rig.is_idle());
            assert!(!rig.queue.is_broken());
        }
    }
    assert!(largest > 40_000, "large packets went to the backend whole");
}

#[test]
fn too_many_pieces_are_copied_together() {
    let mut rig = Rig::connected(16, ALL);
    let frame = plain(1500);
    let cuts: Vec<_> = (1..70).map(|cut| cut * 20).collect();
    rig.send(&frame, &cuts, Offload::default());
    let _ = rig.flush();
    let sent = rig.served();
    assert_eq!((sent[0].bytes.as_slice(), sent[0].ids.len()), (frame.as_slice(), 1));
    assert_eq!(rig.queue.counters().bounced, 1);
    // Thirteen pieces, of which four lie in two pages, just fit.
    let cuts: Vec<_> = (1..13).map(|cut| cut * 70).collect();
    rig.send(&frame, &cuts, Offload::default());
    let _ = rig.flush();
    let sent = rig.served();
    assert!(sent[0].ids.len() == 17 && sent[0].bytes == frame);
    assert_eq!(rig.queue.counters().bounced, 1);
}

#[test]
fn nothing_but_the_packet_is_seen_where_the_backend_is_not_trusted() {
    let mut rig = Rig::connected(16, Abilities { trusted: false, ..ALL });
    let frame = plain(1500);
    rig.send(&frame, &[], Offload::default());
    let _ = rig.flush();
    assert_eq!(rig.bus.live(PACKETS), [0; 0], "a page of the packet's");
    assert_eq!(rig.served()[0].bytes, frame);
}
