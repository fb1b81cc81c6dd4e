//! Headers, checksums, segments and announcements: against plain arithmetic, and against any bytes at all.

use std::{vec, vec::Vec};

use super::{
    Random,
    frames::{MAC, Shape, fold, words},
};
use crate::front::{
    announce::Learned,
    checksum::{self, Sum},
    headers::{self, MOST, TCP, UDP, Unparsed, Version, parse},
    segment,
};

fn shapes(random: &mut Random) -> Shape {
    let v6 = random.once_in(2);
    let extensions = match random.below(5) {
        0 => vec![(0, 8)],
        1 => vec![(0, 16), (43, 24), (60, 8)],
        2 => vec![(44, 8)],
        _ => vec![],
    };
    let count = random.below(1400) as usize;
    Shape {
        v6,
        tcp: random.once_in(2),
        tag: random.once_in(3).then_some(7),
        options: if v6 { 0 } else { random.below(11) as usize * 4 },
        extensions: if v6 { extensions } else { vec![] },
        tcp_options: random.below(11) as usize * 4,
        tcp_flags: 0x10,
        payload: random.bytes(count),
    }
}

#[test]
fn headers_are_found_and_checksums_are_right() {
    let mut random = Random(1);
    for _ in 0..500 {
        let shape = shapes(&mut random);
        let whole = shape.whole();
        let found = parse(&whole).unwrap();
        assert_eq!(usize::from(found.network), shape.network());
        assert_eq!(usize::from(found.transport), shape.transport());
        assert_eq!(usize::from(found.len), shape.header_len());
        assert_eq!(found.version == Version::V6, shape.v6);
        assert!(found.is(if shape.tcp { TCP } else { UDP }) && !found.routed);
        assert!(found.fits(whole.len() as u32) && !found.fits(whole.len() as u32 - 1));
        // Every prefix that lacks a header's byte is too short, and says so.
        for len in 0..shape.header_len() {
            assert_eq!(parse(&whole[..len]), Err(Unparsed::Short), "{len}");
        }
        let mut again = shape.frame();
        let (head, tail) = again.split_at_mut(shape.header_len());
        checksum::fill_ip(head, &found);
        let upper = (whole.len() - shape.transport()) as u32;
        assert!(checksum::fill(head, &found, upper, |sum| {
            tail.chunks(7).for_each(|part| sum.add(part));
            true
        }));
        assert_eq!(again, whole);
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    for v6 in [false, true] {
        let mut shape = Shape { v6, ..Shape::udp4(vec![3; 40]) };
        // What is missing to a sum of ones.
        let frame = shape.frame();
        let sum = fold(shape.pseudo(&frame) + words(&frame[shape.transport()..]));
        shape.payload[..2].copy_from_slice(&fold(0x0303 + u64::from(!sum)).to_be_bytes());
        let mut frame = shape.frame();
        let found = parse(&frame).unwrap();
        let upper = (frame.len() - shape.transport()) as u32;
        let (head, tail) = frame.split_at_mut(shape.header_len());
        checksum::fill_ip(head, &found);
        assert!(checksum::fill(head, &found, upper, |sum| {
            sum.add(tail);
            true
        }));
        let field = shape.transport() + 6;
        assert_eq!(frame[field..field + 2], [0xFF, 0xFF]);
        assert_eq!(fold(shape.pseudo(&frame) + words(&frame[shape.transport()..])), 0xFFFF);
    }
}

#[test]
fn a_sum_does_not_depend_on_the_cuts() {
    let mut random = Random(2);
    for _ in 0..500 {
        let count = random.below(300) as usize;
        let bytes = random.bytes(count);
        let mut sum = Sum::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (part, others) = rest.split_at(random.below(rest.len() as u64 + 1) as usize);
            sum.add(part);
            rest = others;
        }
        // Zero has two forms in ones' complement.
        assert_eq!(sum.folded() % 0xFFFF, fold(words(&bytes)) % 0xFFFF);
    }
    let mut all = Sum::new();
    all.add(&vec![0xFF; 100_000]);
    assert_eq!(all.folded(), 0xFFFF);
}

#[test]
fn any_bytes_are_survived() {
    let mut random = Random(3);
    let (mut found, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let shape = shapes(&mut random);
        let mut bytes = shape.frame();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len().min(80) as u64) as usize;
            bytes[at] = random.next() as u8;
        }
        bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        match parse(&bytes[..bytes.len().min(MOST)]) {
            Ok(headers) => {
                found += 1;
                assert!(headers.network < headers.transport && headers.transport <= headers.len);
                assert!(usize::from(headers.len) <= bytes.len());
                if let Some(field) = headers.checksum_at() {
                    assert!(field + 2 <= usize::from(headers.len));
                }
                let mut copy = bytes.clone();
                checksum::fill_ip(&mut copy, &headers);
                let _ = checksum::fill_pseudo(&mut copy, &headers, 0);
                let _ = checksum::fill(&mut copy, &headers, u32::MAX, |_| true);
                if headers.is(TCP)
                    && let Some(segment) = segment::at(0, 5000, random.next() as u16)
                {
                    let _ = segment::make_header(&mut copy, &headers, &segment);
                }
            }
            Err(_) => refused += 1,
        }
        let mut learned = Learned::new(MAC);
        learned.note(&bytes, parse(&bytes).ok().as_ref());
    }
    assert!(found > 5000 && refused > 4000, "{found} {refused}");
}

#[test]
fn segments_cover_the_payload_once() {
    for (payload, size) in [(1, 1), (1000, 1460), (1460, 1460), (1461, 1460), (64_000, 536), (10, 0)] {
        let (mut at, mut number) = (0, 0);
        while let Some(segment) = segment::at(at, payload, size) {
            assert_eq!((segment.offset, segment.number), (at, number));
            assert!(segment.len >= 1 && segment.len <= u32::from(size.max(1)));
            at += segment.len;
            number += 1;
            assert_eq!(segment.last, at == payload);
        }
        assert_eq!(at, payload);
    }
}

#[test]
fn addresses_are_learned_from_own_frames_only() {
    let mut learned = Learned::new(MAC);
    let mut note = |frame: &[u8]| {
        learned.note(frame, parse(frame).ok().as_ref());
        (learned.v4().to_vec(), learned.v6().to_vec())
    };
    let tcp4 = Shape::tcp4(vec![]).frame();
    let mut foreign = tcp4.clone();
    foreign[11] ^= 1;
    assert_eq!(note(&foreign), (vec![], vec![]));
    let tagged = Shape { tag: Some(5), ..Shape::tcp4(vec![]) }.frame();
    assert_eq!(note(&tagged), (vec![], vec![]));
    for first in [0, 127, 224, 255] {
        let mut none = tcp4.clone();
        none[26] = first;
        assert_eq!(note(&none), (vec![], vec![]));
    }
    assert_eq!(note(&tcp4).0, [[10, 0, 0, 1]]);
    assert_eq!(note(&tcp4).0.len(), 1);
    // An ARP request's sender; an address probe has none.
    let mut arp = vec![0xFF; 6];
    arp.extend(MAC);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(MAC);
    arp.extend([10, 0, 0, 7, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    assert_eq!(note(&arp).0, [[10, 0, 0, 1], [10, 0, 0, 7]]);
    arp[28..32].fill(0);
    assert_eq!(note(&arp).0.len(), 2);
    let tcp6 = Shape::tcp6(vec![]).frame();
    assert_eq!(note(&tcp6).1.len(), 1);
    for source in [[0xFF; 16], [0; 16]] {
        let mut none = tcp6.clone();
        none[22..38].copy_from_slice(&source);
        assert_eq!(note(&none).1.len(), 1);
    }
    // A neighbour advertisement's target.
    let mut advertisement = tcp6[..54].to_vec();
    advertisement[20] = 58;
    advertisement.extend([136, 0, 0, 0, 0, 0, 0, 0]);
    advertisement.extend([0xFD, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
    assert_eq!(note(&advertisement).1.len(), 2);
    // The newest ones are kept.
    for number in 1..=50 {
        let mut other = tcp4.clone();
        other[29] = number;
        note(&other);
    }
    let (v4, _) = note(&tcp4);
    assert_eq!(v4.len(), 8);
    assert!(v4.contains(&[10, 0, 0, 50]) && !v4.contains(&[10, 0, 0, 30]));
}

#[test]
fn announcements_are_well_formed() {
    let mut learned = Learned::new(MAC);
    for shape in [Shape::tcp4(vec![]), Shape::tcp6(vec![])] {
        let frame = shape.frame();
        learned.note(&frame, parse(&frame).ok().as_ref());
    }
    let mut merged = Learned::new(MAC);
    merged.merge(&learned);
    let frames: Vec<Vec<u8>> = merged.frames().map(|frame| frame.bytes().to_vec()).collect();
    let [arp, advertisement] = frames.as_slice() else { panic!("{frames:?}") };
    let mut due = vec![0xFF; 6];
    due.extend(MAC);
    due.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    due.extend(MAC);
    due.extend([10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    assert_eq!(arp, &due);

    assert_eq!(advertisement.len(), 86);
    let headers = parse(advertisement).unwrap();
    assert!(headers.is(headers::ICMPV6) && headers.fits(86));
    assert_eq!(advertisement[21], 255, "no router is crossed");
    assert_eq!(advertisement[22..38], advertisement[62..78], "source and target");
    assert_eq!(advertisement[78..], [[2, 1].as_slice(), &MAC].concat()[..], "the link-layer address");
    let sum = words(&advertisement[22..54]) + 32 + 58 + words(&advertisement[54..]);
    assert_eq!(fold(sum), 0xFFFF);
}
