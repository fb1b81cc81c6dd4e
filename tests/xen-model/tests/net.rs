//! A vif with a tiny frontend: handshake, both directions, segmentation, control ring, hostile acts.

mod guest;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use guest::{DATA, Guest};
use xen_model::netback::{
    Checksum, Direction, Frame, NetHostile, Peer, Stack, StackOptions, Vif, VifOptions, frame, toeplitz,
};
use xen_model::{Config, GuestErrorKind, HostilePlan};

const RINGS: u64 = 40;
/// Pages for receive buffers and, behind them, for what is sent.
const BUFFERS: u64 = 48;
const SEND: u64 = DATA + BUFFERS;
const SHARED_RING: u64 = 4096;
const BLANK: u16 = 1;
const MORE: u16 = 4;
const EXTRA: u16 = 8;

const GUEST_MAC: [u8; 6] = [0x00, 0x16, 0x3e, 0x4e, 0x54, 0x10];

/// One ring of the frontend's, with slots of `slot` bytes.
struct Ring {
    base: u64,
    slot: u64,
    req_prod: u32,
    rsp_cons: u32,
}

impl Ring {
    fn new(guest: &Guest, gfn: u64, slot: u64) -> Self {
        let base = gfn * SHARED_RING;
        guest.write(base, &[0; 4096]);
        guest.write(base + 4, &1u32.to_le_bytes());
        guest.write(base + 12, &1u32.to_le_bytes());
        Self { base, slot, req_prod: 0, rsp_cons: 0 }
    }
    fn at(&self, index: u32) -> u64 {
        self.base + 64 + u64::from(index & 255) * self.slot
    }
    fn push(&mut self, guest: &Guest, bytes: &[u8]) {
        guest.write(self.at(self.req_prod), bytes);
        self.req_prod += 1;
    }
    fn publish(&self, guest: &Guest) {
        guest.write(self.base, &self.req_prod.to_le_bytes());
    }
    fn responses<const N: usize>(&mut self, guest: &Guest) -> Vec<[u8; N]> {
        let prod = guest.read_u32(self.base + 8);
        let list = (self.rsp_cons..prod).map(|index| {
            let mut bytes = [0; N];
            guest.machine.read(self.at(index), &mut bytes).expect("mapped");
            bytes
        });
        let list = list.collect();
        self.rsp_cons = prod;
        guest.write(self.base + 12, &(prod + 1).to_le_bytes());
        list
    }
}

/// What a receive slot came to: its id, offset, flags, status, or the eight bytes as extra info.
#[derive(Debug)]
struct Received {
    bytes: Vec<u8>,
    flags: u16,
    extras: Vec<[u8; 8]>,
}

struct Front {
    tx: Ring,
    rx: Ring,
    ctrl: Ring,
    ports: [u32; 3],
    /// References of the receive buffers, by id.
    buffers: Vec<u32>,
}

impl Front {
    fn connect(guest: &mut Guest, keys: &[(&str, &str)]) -> Self {
        guest.settle();
        let path = "device/vif/0";
        let back = guest.read(&format!("{path}/backend")).expect("a backend");
        assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok("2"));
        let tx = Ring::new(guest, RINGS, 12);
        let mut rx = Ring::new(guest, RINGS + 1, 8);
        let ctrl = Ring::new(guest, RINGS + 2, 16);
        let refs: Vec<u32> = (0..3).map(|n| guest.grant(RINGS + n, false)).collect();
        let ports = [guest.alloc_unbound(), guest.alloc_unbound(), guest.alloc_unbound()];
        let buffers: Vec<u32> = (0..BUFFERS).map(|n| guest.grant(DATA + n, false)).collect();
        for (id, reference) in buffers.iter().enumerate() {
            rx.push(guest, &request(id as u16, *reference));
        }
        rx.publish(guest);
        let numbers = [
            ("tx-ring-ref", refs[0]),
            ("rx-ring-ref", refs[1]),
            ("ctrl-ring-ref", refs[2]),
            ("event-channel-tx", ports[0]),
            ("event-channel-rx", ports[1]),
            ("event-channel-ctrl", ports[2]),
            ("request-rx-copy", 1),
            ("feature-rx-notify", 1),
            ("feature-sg", 1),
        ];
        for (key, value) in numbers {
            guest.write_store(0, &format!("{path}/{key}"), &value.to_string()).expect("written");
        }
        for (key, value) in keys {
            guest.write_store(0, &format!("{path}/{key}"), value).expect("written");
        }
        guest.write_store(0, &format!("{path}/state"), "4").expect("written");
        guest.settle();
        assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok("4"));
        Self { tx, rx, ctrl, ports, buffers }
    }

    /// Puts a packet's slots into the ring: parts stand in pages of their own. The first slot's flags, and extra infos.
    fn queue(&mut self, guest: &mut Guest, parts: &[&[u8]], flags: u16, extras: &[[u8; 8]], page: u64) {
        let total: usize = parts.iter().map(|p| p.len()).sum();
        for (n, part) in parts.iter().enumerate() {
            let gfn = SEND + page + n as u64;
            guest.write(gfn * 4096 + 16, part);
            let reference = guest.grant(gfn, true);
            let size = if n == 0 { total } else { part.len() };
            let mut slot_flags = if n + 1 < parts.len() { MORE } else { 0 };
            if n == 0 {
                slot_flags |= flags | if extras.is_empty() { 0 } else { EXTRA };
            }
            let mut bytes = reference.to_le_bytes().to_vec();
            for half in [16u16, slot_flags, (page as u16) << 4 | n as u16, size as u16] {
                bytes.extend_from_slice(&half.to_le_bytes());
            }
            self.tx.push(guest, &bytes);
            if n == 0 {
                for (i, extra) in extras.iter().enumerate() {
                    let mut extra = *extra;
                    extra[1] = u8::from(i + 1 < extras.len());
                    self.tx.push(guest, &[&extra[..], &[0; 4]].concat());
                }
            }
        }
        self.tx.publish(guest);
    }

    fn send(&mut self, guest: &mut Guest, parts: &[&[u8]], flags: u16, extras: &[[u8; 8]]) {
        self.queue(guest, parts, flags, extras, 0);
        guest.send(self.ports[0]);
        guest.settle();
    }

    /// The answers to what was sent: id and status.
    fn answers(&mut self, guest: &Guest) -> Vec<(u16, i16)> {
        let list = self.tx.responses::<4>(guest).into_iter();
        list.map(|b| (u16::from_le_bytes([b[0], b[1]]), i16::from_le_bytes([b[2], b[3]]))).collect()
    }

    /// What came, put together, and the buffers given back.
    fn received(&mut self, guest: &mut Guest) -> Vec<Received> {
        let mut frames: Vec<Received> = Vec::new();
        let (mut more_data, mut more_extra) = (false, false);
        for (n, b) in self.rx.responses::<8>(guest).into_iter().enumerate() {
            let half = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
            let id = (self.rx.rsp_cons as usize + n) as u16;
            if more_extra {
                more_extra = b[1] & 1 != 0;
                frames.last_mut().expect("a first slot").extras.push(b);
                continue;
            }
            let (offset, flags, status) = (half(2), half(4), half(6) as i16);
            assert!(status >= 0, "slot {id}: status {status}");
            let mut data = vec![0; status as usize];
            let page = DATA + u64::from(half(0));
            guest.machine.read(page * 4096 + u64::from(offset), &mut data).expect("mapped");
            if more_data {
                frames.last_mut().expect("a first slot").bytes.extend(data);
            } else {
                frames.push(Received { bytes: data, flags, extras: Vec::new() });
                more_extra = flags & EXTRA != 0;
            }
            more_data = flags & MORE != 0;
        }
        while self.rx.req_prod < self.rx.rsp_cons + BUFFERS as u32 {
            let id = (self.rx.req_prod as usize % self.buffers.len()) as u16;
            self.rx.push(guest, &request(id, self.buffers[usize::from(id)]));
        }
        self.rx.publish(guest);
        guest.send(self.ports[1]);
        guest.settle();
        frames
    }

    /// One control request: status and data of its answer.
    fn control(&mut self, guest: &mut Guest, kind: u16, data: [u32; 3]) -> (u32, u32) {
        let mut bytes = [7u16.to_le_bytes(), kind.to_le_bytes()].concat();
        bytes.extend(data.iter().flat_map(|word| word.to_le_bytes()));
        self.ctrl.push(guest, &bytes);
        self.ctrl.publish(guest);
        guest.send(self.ports[2]);
        guest.settle();
        let answers = self.ctrl.responses::<12>(guest);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0][..4], [7u16.to_le_bytes(), kind.to_le_bytes()].concat());
        let word = |at: usize| u32::from_le_bytes(answers[0][at..at + 4].try_into().expect("four bytes"));
        (word(4), word(8))
    }
}

fn request(id: u16, reference: u32) -> Vec<u8> {
    [&id.to_le_bytes()[..], &[0; 2], &reference.to_le_bytes()].concat()
}

fn guest(options: VifOptions) -> Guest {
    let mut guest = Guest::new(Config::default());
    let mtu = options.mtu_bytes();
    guest.xen.attach_vif(options, Box::new(Stack::new(StackOptions::new(0, mtu, 1))));
    guest
}

/// A wire on which the test puts frames.
#[derive(Clone, Default)]
struct Feeder(Arc<Mutex<VecDeque<Vec<u8>>>>);

impl Peer for Feeder {
    fn receive(&mut self, _frame: Vec<u8>) {}
    fn poll(&mut self, _now_ns: u64) -> bool {
        false
    }
    fn transmit(&mut self) -> Option<Vec<u8>> {
        self.0.lock().expect("no test panics with it").pop_front()
    }
    fn deadline(&self) -> Option<u64> {
        None
    }
}

fn arp_request() -> Vec<u8> {
    let mut bytes = [&[0xff; 6][..], &GUEST_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    bytes.extend([&GUEST_MAC[..], &[10, 77, 0, 2], &[0; 6], &[10, 77, 0, 1]].concat());
    bytes
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0x02, 0x77, 0, 0, 0, 0][..], &GUEST_MAC, &[8, 0, 0x45, 0]].concat();
    bytes.extend_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1]);
    let sum: u32 = bytes[14..].chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(p[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A TCP segment with an unknown connection's numbers.
fn tcp(len: usize) -> Vec<u8> {
    let mut segment = vec![0x30, 0x39, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0];
    segment.extend((0..len).map(|n| (n * 31) as u8));
    let mut bytes = ipv4(6, &segment);
    assert!(frame::blank_checksum(&mut bytes));
    bytes
}

fn stats(guest: &Guest) -> &xen_model::netback::VifStats {
    guest.xen.vif(0).expect("attached").stats()
}

fn no_errors(guest: &mut Guest) {
    assert_eq!(format!("{:?}", guest.xen.take_guest_errors()), "[]");
}

/// As libxl 4.17 and Linux's netback write it, whatever the configuration says: seen in the lab.
#[test]
fn the_toolstack_says_mtu_and_trusted() {
    let mut plain = guest(VifOptions::new(0));
    plain.settle();
    let read = |guest: &mut Guest, path: &str| guest.read(path).ok();
    assert_eq!(read(&mut plain, "device/vif/0/mtu").as_deref(), Some("1500"));
    assert_eq!(read(&mut plain, "device/vif/0/trusted").as_deref(), Some("1"));
    let back = read(&mut plain, "device/vif/0/backend").expect("the backend's directory");
    assert_eq!(read(&mut plain, &format!("{back}/mtu")), None, "the backend's directory has it where it is configured");
    assert_eq!(read(&mut plain, &format!("{back}/hotplug-status")).as_deref(), Some("connected"));
    let mut jumbo = guest(VifOptions { mtu: Some(9000), ..VifOptions::new(0) });
    jumbo.settle();
    assert_eq!(read(&mut jumbo, "device/vif/0/mtu").as_deref(), Some("9000"));
    assert_eq!(read(&mut jumbo, &format!("{back}/mtu")).as_deref(), Some("9000"));
}

#[test]
fn arp_and_ping_through_the_peer() {
    let mut guest = guest(VifOptions::new(0));
    let mut front = Front::connect(&mut guest, &[]);
    front.send(&mut guest, &[&arp_request()], 0, &[]);
    assert_eq!(front.answers(&guest), [(0, 0)]);
    // The peer reports its multicast groups as well.
    let mut frames = front.received(&mut guest);
    frames.retain(|frame| frame.bytes[0] & 1 == 0);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].bytes[..6], GUEST_MAC);
    assert_eq!(frames[0].bytes[20..22], [0, 2], "a reply");

    let mut echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1];
    echo.extend(0..=255);
    let sum: u32 = echo.chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(p[1])).sum();
    echo[2..4].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    let packet = ipv4(1, &echo);
    // The head in one page, the rest in two more.
    front.send(&mut guest, &[&packet[..60], &packet[60..61], &packet[61..]], 0, &[]);
    let mut answers = front.answers(&guest);
    answers.sort_unstable();
    assert_eq!(answers, [(0, 0), (1, 0), (2, 0)]);
    let frames = front.received(&mut guest);
    assert_eq!(frames.len(), 1, "the echo");
    assert_eq!(frames[0].bytes[42..], echo[8..]);
    no_errors(&mut guest);
    assert_eq!(guest.xen.mapped_grants(), 3, "the rings alone stay mapped");
    let vif = guest.xen.vif(0).expect("attached");
    let own = |bytes: &[u8]| bytes[0] & 1 == 0 || bytes[6..12] == GUEST_MAC;
    let directions: Vec<_> = vif.journal().entries().filter(|c| own(&c.frame.bytes)).map(|c| c.direction).collect();
    assert_eq!(directions, [Direction::FromGuest, Direction::ToGuest, Direction::FromGuest, Direction::ToGuest]);
}

#[test]
fn large_packets_are_segmented_with_right_checksums() {
    let mut guest = guest(VifOptions::new(0));
    let mut front = Front::connect(&mut guest, &[]);
    let packet = tcp(5000);
    let gso = [1, 0, 0xe8, 3, 1, 0, 0, 0];
    front.send(&mut guest, &[&packet[..1000], &packet[1000..4000], &packet[4000..]], BLANK | 2, &[gso]);
    let mut answers = front.answers(&guest);
    assert!(answers.contains(&(0, 1)), "the extra info's slot is answered with NULL: {answers:?}");
    answers.retain(|(_, status)| *status == 0);
    assert_eq!(answers.len(), 3);
    assert_eq!((stats(&guest).gso_from_guest, stats(&guest).segments_from_guest), (1, 5));
    assert_eq!(stats(&guest).split_headers, 0);
    let crossing = guest.xen.vif(0).expect("attached").journal().entries().next().expect("one").clone();
    assert_eq!((crossing.frame.bytes, crossing.frame.mss, crossing.slots), (packet, Some(1000), 4));
    assert_eq!(crossing.frame.checksum, Checksum::Blank);
    let stack = guest.xen.vif_mut(0).and_then(|v| v.stack()).expect("the stack");
    assert_eq!((stack.stats().frames_in, stack.stats().bad_checksums), (5, 0));
    no_errors(&mut guest);
}

#[test]
fn what_linux_takes_for_malicious_switches_the_vif_off() {
    type Send = fn(&mut Front, &mut Guest);
    let cases: [(&str, Send); 5] = [
        ("missing extra info", |f, g| {
            f.queue(g, &[&tcp(10)], EXTRA, &[], 0);
        }),
        ("extra info of type 9", |f, g| f.queue(g, &[&tcp(10)], BLANK, &[[9, 0, 0, 0, 0, 0, 0, 0]], 0)),
        ("segmentation of type 1 to 0 bytes", |f, g| {
            f.queue(g, &[&tcp(10)], BLANK, &[[1, 0, 0, 0, 1, 0, 0, 0]], 0);
        }),
        ("more_data, but no slot", |f, g| f.queue(g, &[&tcp(10)], MORE, &[], 0)),
        ("req_prod", |f, g| g.write(f.tx.base, &1000u32.to_le_bytes())),
    ];
    for (what, send) in cases {
        let mut guest = guest(VifOptions::new(0));
        let mut front = Front::connect(&mut guest, &[]);
        send(&mut front, &mut guest);
        guest.send(front.ports[0]);
        guest.settle();
        assert!(guest.xen.vif(0).expect("attached").is_disabled(), "{what}");
        let errors = guest.xen.take_guest_errors();
        assert!(errors.len() == 1 && errors[0].detail.contains(what), "{what}: {errors:?}");
        assert_eq!(front.answers(&guest), []);
    }
}

#[test]
fn too_many_slots_and_wrong_sizes_are_refused_whole() {
    let mut guest = guest(VifOptions::new(0));
    let mut front = Front::connect(&mut guest, &[]);
    let head = tcp(100);
    let mut parts = vec![&head[..]];
    parts.resize(20, &[1; 8]);
    front.send(&mut guest, &parts, 0, &[]);
    assert_eq!(front.answers(&guest).iter().filter(|(_, status)| *status == -1).count(), 20);
    front.send(&mut guest, &[&[0; 10]], 0, &[]);
    assert_eq!(front.answers(&guest), [(0, -1)]);
    assert!(guest.xen.take_guest_errors().iter().all(|e| e.kind == GuestErrorKind::BadRequest));
    // A blank checksum where there is none, or not the pseudo header's sum.
    front.send(&mut guest, &[&arp_request()], BLANK, &[]);
    let mut wrong = tcp(10);
    wrong[50] ^= 0xff;
    front.send(&mut guest, &[&wrong], BLANK, &[]);
    let errors = guest.xen.take_guest_errors();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(!guest.xen.vif(0).expect("attached").is_disabled());
}

#[test]
fn frames_for_the_guest_come_as_it_asked_for_them() {
    // Two segments of one stream from the wire, which a guest that takes large packets gets as one.
    let whole = tcp(2500);
    let segments = frame::segment(&whole, false, 1300).expect("TCP");
    let wire = Feeder::default();
    let wired = |options: VifOptions| {
        let mut guest = Guest::new(Config::default());
        guest.xen.attach_vif(options, Box::new(wire.clone()));
        guest
    };
    let put = |guest: &mut Guest| {
        wire.0.lock().expect("no test panics with it").extend(segments.iter().cloned());
        guest.settle();
    };
    let mut with = wired(VifOptions { wake_ns: 1000, ..VifOptions::new(0) });
    let mut front = Front::connect(&mut with, &[("feature-gso-tcpv4", "1")]);
    put(&mut with);
    let frames = front.received(&mut with);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].bytes, whole);
    assert_eq!(frames[0].flags & 3, 3, "validated and blank");
    assert_eq!(frames[0].extras, [[1, 0, 0x14, 5, 1, 0, 0, 0]]);

    let mut without = wired(VifOptions::new(0));
    let mut front = Front::connect(&mut without, &[("feature-no-csum-offload", "1")]);
    put(&mut without);
    let frames = front.received(&mut without);
    assert_eq!(frames.iter().map(|f| &f.bytes).collect::<Vec<_>>(), segments.iter().collect::<Vec<_>>());
    assert!(frames.iter().all(|f| f.flags & 3 == 0 && f.extras.is_empty()));

    // A jumbo frame takes several slots.
    let jumbo = VifOptions { mtu: Some(9000), ..VifOptions::new(0) };
    let mut guest = guest(jumbo);
    let mut front = Front::connect(&mut guest, &[]);
    let mut big = vec![0x77; 9014];
    big[..14].copy_from_slice(&[0, 0x16, 0x3e, 0x4e, 0x54, 0x10, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    assert!(guest.xen.send_to_vif(0, Frame::from_wire(big.clone())));
    guest.settle();
    let frames = front.received(&mut guest);
    assert_eq!((frames.len(), stats(&guest).most_rx_slots), (1, 3));
    assert_eq!(frames[0].bytes, big);
}

#[test]
fn frames_wait_for_buffers_and_then_come_in_order() {
    let mut guest = guest(VifOptions::new(0));
    let mut front = Front::connect(&mut guest, &[]);
    let numbered = |n: u8| [&GUEST_MAC[..], &[2, 0, 0, 0, 0, 1, 0x88, 0xb5, n], &[0; 60]].concat();
    for n in 0..80 {
        assert!(guest.xen.send_to_vif(0, Frame::from_wire(numbered(n))));
        guest.xen.step(guest.now);
    }
    assert_eq!(guest.xen.vif(0).map(Vif::waiting_to_guest), Some(80 - BUFFERS as usize));
    assert!(stats(&guest).starved > 0);
    let mut seen: Vec<u8> = front.received(&mut guest).iter().map(|f| f.bytes[14]).collect();
    seen.extend(front.received(&mut guest).iter().map(|f| f.bytes[14]));
    assert_eq!(seen, (0..80).collect::<Vec<u8>>());
    // Without buffers they are dropped after a while.
    for n in 0..80 {
        guest.xen.send_to_vif(0, Frame::from_wire(numbered(n)));
    }
    guest.settle();
    assert_eq!(guest.xen.vif(0).map(Vif::waiting_to_guest), Some(0));
    assert_eq!(stats(&guest).expired_to_guest, 80 - BUFFERS);
}

#[test]
fn what_a_full_queue_does_not_take_waits_before_it() {
    const LEN: usize = 60_000;
    // 8 of them are less than half a ring of pages, so that a ninth is let in.
    for (queue_len, wait, dropped) in [(0, 9, 3), (2, 11, 1)] {
        let mut guest = guest(VifOptions { queue_len, ..VifOptions::new(0) });
        let mut front = Front::connect(&mut guest, &[]);
        let before = stats(&guest).dropped_to_guest;
        front.received(&mut guest);
        guest.xen.note_deliveries(true);
        let frame = |n: u8| {
            let head = [&GUEST_MAC[..], &[2, 0, 0, 0, 0, 1, 0x88, 0xb5, n]].concat();
            Frame::from_wire([&head[..], &vec![n; LEN - head.len()]].concat())
        };
        for n in 0..12 {
            guest.xen.send_to_vif(0, frame(n));
        }
        assert_eq!(guest.xen.vif(0).map(Vif::waiting_to_guest), Some(wait));
        assert_eq!(stats(&guest).dropped_to_guest - before, dropped);
        guest.xen.step(guest.now);
        let given = BUFFERS as usize / LEN.div_ceil(4096);
        assert_eq!(guest.xen.vif(0).map(Vif::waiting_to_guest), Some(wait - given));
        let deliveries = guest.xen.take_deliveries();
        assert_eq!(deliveries.iter().map(|piece| piece.len).sum::<usize>(), given * LEN);
        assert_eq!(deliveries.iter().map(|piece| piece.at).take(3).collect::<Vec<_>>(), [0, 4096, 8192]);
        // What waited before the queue is in it now, and there is room again.
        guest.xen.send_to_vif(0, frame(12));
        assert_eq!(guest.xen.vif(0).map(Vif::waiting_to_guest), Some(wait - given + 1));
        assert_eq!(stats(&guest).dropped_to_guest - before, dropped);
        for first in [0, given] {
            let seen: Vec<usize> = front.received(&mut guest).iter().map(|f| usize::from(f.bytes[14])).collect();
            assert_eq!(seen, (first..first + given).collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_control_ring_steers_packets() {
    let key: Vec<u8> = (0..40).map(|n| n * 5 + 1).collect();
    let mut guest = guest(VifOptions::new(0));
    let mut front = Front::connect(&mut guest, &[]);
    assert_eq!(front.control(&mut guest, 1, [0; 3]), (1, 0), "no flags without an algorithm");
    assert_eq!(front.control(&mut guest, 2, [15, 0, 0]), (2, 0));
    assert_eq!(front.control(&mut guest, 7, [2, 0, 0]), (2, 0));
    assert_eq!(front.control(&mut guest, 7, [1, 0, 0]), (0, 0));
    assert_eq!(front.control(&mut guest, 1, [0; 3]), (0, 15));
    assert_eq!(front.control(&mut guest, 2, [15, 0, 0]), (0, 0));
    guest.write(SEND * 4096, &key);
    let reference = guest.grant(SEND, true);
    assert_eq!(front.control(&mut guest, 3, [reference, 41, 0]), (2, 0));
    assert_eq!(front.control(&mut guest, 3, [reference, 40, 0]), (0, 0));
    assert_eq!(front.control(&mut guest, 4, [0; 3]), (0, 128));
    assert_eq!(front.control(&mut guest, 5, [129, 0, 0]), (2, 0));
    assert_eq!(front.control(&mut guest, 5, [4, 0, 0]), (0, 0));
    guest.write(SEND * 4096, &[0; 16]);
    assert_eq!(front.control(&mut guest, 6, [reference, 4, 1]), (2, 0), "beyond the table");
    assert_eq!(front.control(&mut guest, 6, [reference, 4, 0]), (0, 0));
    guest.write(SEND * 4096, &[1]);
    assert_eq!(front.control(&mut guest, 6, [reference, 1, 0]), (2, 0), "there is one queue");
    assert_eq!(front.control(&mut guest, 8, [0; 3]), (1, 0));

    let mut packet = tcp(10);
    frame::finish_checksum(&mut packet).expect("TCP");
    assert!(guest.xen.send_to_vif(0, Frame::from_wire(packet.clone())));
    guest.settle();
    let frames = front.received(&mut guest);
    let hash = toeplitz::hash(&key, &[&packet[26..34], &packet[34..38]].concat());
    let extra = [&[4, 0, 1, 1][..], &hash.to_le_bytes()].concat();
    assert_eq!(frames[0].extras, [<[u8; 8]>::try_from(extra).expect("eight bytes")]);
    no_errors(&mut guest);
}

#[test]
fn multicast_is_filtered_as_asked() {
    let mut guest = guest(VifOptions::new(0));
    let mut front = Front::connect(&mut guest, &[("request-multicast-control", "1")]);
    let group = [0x01, 0, 0x5e, 1, 2, 3];
    let frame = |to: [u8; 6]| Frame::from_wire([&to[..], &GUEST_MAC, &[0x88, 0xb5], &[0; 50]].concat());
    for to in [group, [0xff; 6], GUEST_MAC] {
        guest.xen.send_to_vif(0, frame(to));
    }
    guest.settle();
    assert_eq!(front.received(&mut guest).len(), 2);
    let change = |kind: u8| [kind, 0, group[0], group[1], group[2], group[3], group[4], group[5]];
    front.send(&mut guest, &[&[0; 14]], 0, &[change(2)]);
    assert_eq!(front.answers(&guest), [(0, 0), (0, 1)]);
    guest.xen.send_to_vif(0, frame(group));
    guest.settle();
    assert_eq!(front.received(&mut guest).len(), 1);
    front.send(&mut guest, &[&[0; 14]], 0, &[change(3)]);
    guest.xen.send_to_vif(0, frame(group));
    guest.settle();
    assert_eq!(front.received(&mut guest).len(), 0);
    // Dynamic: off again.
    guest.write_store(0, "device/vif/0/request-multicast-control", "0").expect("written");
    guest.settle();
    guest.xen.send_to_vif(0, frame(group));
    guest.settle();
    assert_eq!(front.received(&mut guest).len(), 1);
    assert_eq!(stats(&guest).filtered_to_guest, 2);
    no_errors(&mut guest);
}

#[test]
fn closing_gives_everything_back_and_connecting_again_works() {
    let mut guest = guest(VifOptions::new(0));
    let mut front = Front::connect(&mut guest, &[]);
    front.send(&mut guest, &[&arp_request()], 0, &[]);
    let path = "device/vif/0";
    let back = guest.read(&format!("{path}/backend")).expect("a backend");
    for (state, then) in [("5", "5"), ("6", "6"), ("1", "2")] {
        guest.write_store(0, &format!("{path}/state"), state).expect("written");
        guest.settle();
        assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok(then));
    }
    assert_eq!(guest.xen.mapped_grants(), 0);
    Front::connect(&mut guest, &[]);
    assert_eq!(stats(&guest).connects, 2);
    guest.xen.detach_vif(0);
    assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok("5"));
    guest.write_store(0, &format!("{path}/state"), "6").expect("written");
    guest.settle();
    assert!(!guest.xen.vif(0).expect("known").is_attached());
    assert_eq!(stats(&guest).forced, 0);
    assert_eq!(guest.xen.mapped_grants(), 0);
    no_errors(&mut guest);
}

#[test]
fn impossible_negotiations_are_refused() {
    for (key, value, why) in [
        ("multi-queue-num-queues", "9", "9 queues"),
        ("multi-queue-num-queues", "0", "0 queues"),
        ("multi-queue-num-queues", "2", "queue-0/tx-ring-ref"),
        ("request-rx-copy", "0", "no request-rx-copy"),
        ("tx-ring-ref", "500", "ring reference 500"),
        ("event-channel-tx", "999", "event channel 999"),
    ] {
        let mut guest = guest(VifOptions::new(0));
        let path = "device/vif/0";
        guest.settle();
        let back = guest.read(&format!("{path}/backend")).expect("a backend");
        let refs: Vec<u32> = (0..2).map(|n| guest.grant(RINGS + n, false)).collect();
        let ports = [guest.alloc_unbound(), guest.alloc_unbound()];
        for (key, value) in [
            ("tx-ring-ref", refs[0].to_string()),
            ("rx-ring-ref", refs[1].to_string()),
            ("event-channel-tx", ports[0].to_string()),
            ("event-channel-rx", ports[1].to_string()),
            ("request-rx-copy", "1".to_owned()),
            (key, value.to_owned()),
            ("state", "4".to_owned()),
        ] {
            guest.write_store(0, &format!("{path}/{key}"), &value).expect("written");
        }
        guest.settle();
        assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok("5"), "{key}");
        assert_eq!(guest.xen.mapped_grants(), 0, "{key}");
        let errors = guest.xen.take_guest_errors();
        assert!(
            errors.iter().any(|e| e.kind == GuestErrorKind::BadNegotiation && e.detail.contains(why)),
            "{errors:?}"
        );
    }
}

#[test]
fn every_hostile_act_happens() {
    for kind in NetHostile::ALL {
        let mut guest = guest(VifOptions::new(0));
        let at_handshake =
            matches!(kind, NetHostile::AbsurdKeys | NetHostile::QueueCountChanges | NetHostile::StateSkip);
        let plan = HostilePlan { kind, after: 0, times: 1 };
        if at_handshake {
            guest.xen.inject_net_hostile(0, plan).expect("there is one");
            guest.settle();
        } else {
            let mut front = Front::connect(&mut guest, &[]);
            front.send(&mut guest, &[&arp_request()], 0, &[]);
            front.received(&mut guest);
            guest.xen.inject_net_hostile(0, plan).expect("there is one");
            front.queue(&mut guest, &[&tcp(2000)[..1500], &[0; 554]], 0, &[], 2);
            guest.send(front.ports[0]);
            guest.xen.step(guest.now);
            front.ctrl.push(&guest, &[1, 0, 7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            front.ctrl.publish(&guest);
            guest.send(front.ports[2]);
            guest.xen.send_to_vif(0, Frame::from_wire(arp_request()));
            guest.settle();
        }
        let fired = guest.xen.vif(0).expect("known").hostile_fired().get(&kind).copied();
        assert_eq!(fired, Some(1), "{kind:?}");
        guest.xen.clear_net_hostile(0);
    }
}

#[test]
fn a_vlan_is_kept_from_end_to_end() {
    let mut stack = Stack::new(StackOptions { vlan: Some(42), ..StackOptions::new(0, 1500, 1) });
    stack.receive(arp_request());
    stack.poll(0);
    assert_eq!(stack.transmit(), None, "untagged frames are not for it");
    let mut tagged = arp_request();
    tagged.splice(12..12, [0x81, 0, 0x60, 42]);
    stack.receive(tagged);
    stack.poll(0);
    let reply = stack.transmit().expect("a reply");
    assert_eq!(reply[12..18], [0x81, 0, 0, 42, 8, 6]);
}

#[test]
fn a_save_cuts_the_rings_off_and_the_guest_connects_anew() {
    let mut guest = guest(VifOptions { held: true, ..VifOptions::new(0) });
    let mut front = Front::connect(&mut guest, &[]);
    let packet = tcp(1000);
    front.send(&mut guest, &[&packet], BLANK, &[]);
    assert_eq!(guest.xen.vif(0).map(Vif::in_flight), Some(1));
    guest.xen.suspend(false);
    guest.call(0, guest::SCHED_OP, 2, &2u32.to_le_bytes(), 0);
    guest.start();
    assert_eq!(stats(&guest).in_flight_at_suspend, 1);
    guest.xen.vif_mut(0).expect("attached").hold(false);
    let mut front = Front::connect(&mut guest, &[]);
    front.send(&mut guest, &[&arp_request()], 0, &[]);
    assert!(front.received(&mut guest).iter().any(|frame| frame.bytes.starts_with(&GUEST_MAC)));
    no_errors(&mut guest);
}
