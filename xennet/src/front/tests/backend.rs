//! The other end: a netback that is as strict as Linux's, and answers whatever a test tells it to.

use std::{vec, vec::Vec};

use xen_abi::{
    netif::{
        Extra, GsoType, RSP_NULL, RSP_OKAY, RawExtra, Rx, RxFlags, RxRequest, RxResponse, Tx, TxFlags, TxRequest,
        TxResponse,
    },
    ring::BackRing,
};

use fake_bus::{Pages, Ram, TestBus};

use super::frames::{Shape, fold, words};

/// A packet as it came over the ring.
#[derive(Clone, Debug)]
pub struct Sent {
    pub ids: Vec<u16>,
    pub extras: Vec<Extra>,
    pub flags: TxFlags,
    pub bytes: Vec<u8>,
    /// Bytes in the first slot.
    pub first: usize,
}

impl Sent {
    /// What a backend puts on the wire: it fills the checksum in and segments. `shape` tells where the headers are.
    pub fn wire(&self, shape: &Shape, tag: bool) -> Vec<Vec<u8>> {
        let mut bytes = self.bytes.clone();
        let taken: Vec<u8> = if tag { bytes.splice(12..16, []).collect() } else { vec![] };
        let mut frames = match self.extras.as_slice() {
            [] if self.flags.contains(TxFlags::CSUM_BLANK) => {
                // Linux's takes the pseudo-header's sum from the field.
                let one = Shape { payload: bytes[shape.header_len()..].to_vec(), ..shape.clone() };
                let transport = shape.transport();
                let field = transport + if shape.tcp { 16 } else { 6 };
                assert_eq!(fold(one.pseudo(&bytes)).to_be_bytes(), bytes[field..field + 2], "the pseudo-header's sum");
                let mut sum = !fold(words(&bytes[transport..]));
                if !shape.tcp && sum == 0 {
                    sum = 0xFFFF;
                }
                bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
                vec![bytes]
            }
            [] => vec![bytes],
            [Extra::Gso { kind, size }] => {
                assert_eq!(*kind == GsoType::TcpV6, shape.v6);
                assert!(self.flags.contains(TxFlags::CSUM_BLANK));
                let transport = shape.transport();
                assert_eq!(fold(shape.pseudo(&bytes)).to_be_bytes(), bytes[transport + 16..transport + 18]);
                let network = shape.network();
                let (at, len) = if shape.v6 {
                    (network + 4, bytes.len() - network - 40)
                } else {
                    (network + 2, bytes.len() - network)
                };
                assert_eq!(bytes[at..at + 2], (len as u16).to_be_bytes(), "the IP header's length");
                if !shape.v6 {
                    assert_eq!(fold(words(&bytes[network..transport])), 0xFFFF, "the IP header's checksum");
                }
                assert!(self.first >= shape.header_len(), "headers in the first slot");
                let whole = Shape { payload: bytes[shape.header_len()..].to_vec(), ..shape.clone() };
                whole.wire(&crate::front::Offload {
                    segment: core::num::NonZeroU16::new(*size),
                    ..crate::front::Offload::default()
                })
            }
            other => panic!("extras {other:?}"),
        };
        for frame in &mut frames {
            frame.splice(12..12, taken.iter().copied());
        }
        frames
    }
}

/// A connected backend's end of one queue.
pub struct Backend {
    pub ram: Ram,
    pub tx: Option<BackRing<Tx, Pages>>,
    pub rx: Option<BackRing<Rx, Pages>>,
    /// Most slots of a packet.
    pub most: usize,
}

impl Backend {
    pub fn tx(ram: &Ram, ring: Pages) -> Self {
        Self { ram: ram.clone(), tx: Some(BackRing::attach(ring).unwrap()), rx: None, most: 18 }
    }

    pub fn rx(ram: &Ram, ring: Pages) -> Self {
        Self { ram: ram.clone(), tx: None, rx: Some(BackRing::attach(ring).unwrap()), most: 18 }
    }

    /// Takes the next packet off the transmit ring. A change of the multicast filter is one without bytes.
    pub fn take(&mut self, bus: &TestBus) -> Option<Sent> {
        let ring = self.tx.as_mut().unwrap();
        let first: TxRequest = ring.take().unwrap()?.into();
        let flags = TxFlags::from_bits(first.flags).expect("unknown flags");
        let mut extras = Vec::new();
        let mut more = flags.contains(TxFlags::EXTRA_INFO);
        while more {
            let raw = RawExtra::from(ring.take().unwrap().expect("an extra"));
            extras.push(raw.decode().unwrap());
            more = raw.more();
        }
        let mut sent = Sent { ids: vec![first.id], extras, flags, bytes: vec![], first: 0 };
        if matches!(sent.extras.first(), Some(Extra::McastAdd(_) | Extra::McastDel(_))) {
            return Some(sent);
        }
        assert!(first.size >= 14, "Linux's netback closes the connection");
        let mut slots = vec![first];
        let mut more = flags.contains(TxFlags::MORE_DATA);
        while more {
            let next: TxRequest = ring.take().unwrap().expect("the rest of the packet").into();
            assert_eq!(next.flags & !TxFlags::MORE_DATA.bits(), 0);
            more = next.flags & TxFlags::MORE_DATA.bits() != 0;
            sent.ids.push(next.id);
            slots.push(next);
        }
        assert!(slots.len() <= self.most, "{} slots", slots.len());
        let rest: usize = slots[1..].iter().map(|slot| usize::from(slot.size)).sum();
        sent.first = usize::from(first.size).checked_sub(rest).expect("the first size is that of the packet");
        for (index, slot) in slots.iter().enumerate() {
            let len = if index == 0 { sent.first } else { usize::from(slot.size) };
            assert!(len > 0 && usize::from(slot.offset) + len <= 4096, "inside of the page");
            let grant = bus.grant(slot.gref);
            assert!(grant.read_only);
            sent.bytes.extend(self.ram.bytes(grant.frame * 4096 + u64::from(slot.offset), len));
        }
        let mut ids = sent.ids.clone();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), sent.ids.len(), "ids are different");
        Some(sent)
    }

    /// Answers a packet as Linux does: its first request, its extras, the others.
    pub fn answer(&mut self, sent: &Sent, status: i16) {
        let ring = self.tx.as_mut().unwrap();
        for (index, id) in sent.ids.iter().enumerate() {
            ring.push(&TxResponse { id: *id, status }).unwrap();
            if index == 0 {
                for _ in &sent.extras {
                    // Linux leaves what stood there.
                    ring.push(&TxResponse { id: 0xBEEF, status: RSP_NULL }).unwrap();
                }
            }
        }
        let _ = ring.publish();
    }

    /// Takes and answers everything; the packets.
    pub fn run(&mut self, bus: &TestBus) -> Vec<Sent> {
        let mut all = Vec::new();
        loop {
            while let Some(sent) = self.take(bus) {
                self.answer(&sent, RSP_OKAY);
                all.push(sent);
            }
            if !self.tx.as_mut().unwrap().final_check().unwrap() {
                return all;
            }
        }
    }

    /// A raw answer on the transmit ring.
    pub fn say(&mut self, id: u16, status: i16) {
        let ring = self.tx.as_mut().unwrap();
        ring.push(&TxResponse { id, status }).unwrap();
        let _ = ring.publish();
    }

    /// The next empty page of the receive ring; where there is none, it asks for an event with the next one.
    pub fn page(&mut self) -> Option<RxRequest> {
        let ring = self.rx.as_mut().unwrap();
        let page = ring.take().unwrap();
        if page.is_none() {
            assert!(!ring.final_check().unwrap());
        }
        page
    }

    /// Puts bytes into an empty page.
    pub fn fill(&self, bus: &TestBus, request: RxRequest, offset: u16, bytes: &[u8]) {
        let grant = bus.grant(request.gref);
        assert!(!grant.read_only);
        self.ram.write(grant.frame * 4096 + u64::from(offset), bytes);
    }

    pub fn push(&mut self, response: RxResponse) {
        self.rx.as_mut().unwrap().push(&response.into()).unwrap();
    }

    pub fn push_extra(&mut self, extra: RawExtra) {
        self.rx.as_mut().unwrap().push(&extra.into()).unwrap();
    }

    pub fn publish(&mut self) -> bool {
        self.rx.as_mut().unwrap().publish()
    }

    /// Gives the guest a packet, as Linux does: pages filled from `offset` on, extras behind the first.
    pub fn deliver(&mut self, bus: &TestBus, bytes: &[u8], flags: RxFlags, extras: &[Extra], offset: u16) {
        let room = 4096 - usize::from(offset);
        let parts: Vec<_> = bytes.chunks(room).collect();
        for (index, part) in parts.iter().enumerate() {
            let request = self.page().expect("an empty page");
            self.fill(bus, request, offset, part);
            let mut flags = if index == 0 { flags } else { RxFlags::empty() };
            flags.set(RxFlags::EXTRA_INFO, index == 0 && !extras.is_empty());
            flags.set(RxFlags::MORE_DATA, index + 1 < parts.len());
            self.push(RxResponse { id: request.id, offset, flags: flags.bits(), status: part.len() as i16 });
            if index == 0 {
                for (number, extra) in extras.iter().enumerate() {
                    self.page().expect("an empty page for an extra");
                    self.push_extra(extra.encode(number + 1 < extras.len()));
                }
            }
        }
        let _ = self.publish();
    }
}
