//! A tiny guest: hypercalls, a store client and a blkif frontend over the drivers' own `xen-abi`, so that the model's
//! second declaration of the ABI and the drivers' first are held against each other.
#![allow(dead_code)] // each test file uses its part of the guest

use std::collections::VecDeque;

use xen_abi::blkif::{Blkif, Command, Direction, Request, Segment, Segments};
use xen_abi::ring::FrontRing;
use xen_abi::shared::SharedMemory;
use xen_abi::xenstore::decode::Decoder;
use xen_abi::xenstore::ring::GuestEnd;
use xen_abi::xenstore::{Header, MessageType};
use xen_model::{Config, TestMachine, Xen, layout};
use zerocopy::IntoBytes;

pub const MEMORY_OP: u32 = 12;
pub const XEN_VERSION: u32 = 17;
pub const GRANT_TABLE_OP: u32 = 20;
pub const VCPU_OP: u32 = 24;
pub const SCHED_OP: u32 = 29;
pub const EVENT_CHANNEL_OP: u32 = 32;
pub const HVM_OP: u32 = 34;
pub const DOMID_SELF: u16 = 0x7ff0;

/// Guest frames by use.
const SCRATCH: u64 = 1;
pub const SHARED_INFO: u64 = 16;
pub const GRANTS: u64 = 17;
pub const FREE: u64 = 24;
pub const RING: u64 = 40;
pub const DATA: u64 = 64;
const PAGES: u64 = 256;

/// Guest memory as the drivers' ABI crate wants it.
#[derive(Clone)]
pub struct View {
    machine: TestMachine,
    base: u64,
    size: usize,
}

impl SharedMemory for View {
    fn size(&self) -> usize {
        self.size
    }
    fn load_u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        self.machine.read(self.base + offset as u64, out).expect("mapped");
    }
    fn write(&self, offset: usize, data: &[u8]) {
        self.machine.write(self.base + offset as u64, data).expect("mapped");
    }
}

/// A message that xenstored sent.
#[derive(Clone, Debug)]
pub struct Reply {
    pub kind: u32,
    pub req_id: u32,
    pub payload: Vec<u8>,
}

pub struct Guest {
    pub machine: TestMachine,
    pub xen: Xen,
    pub now: u64,
    pub events: VecDeque<Reply>,
    store_port: u32,
    store: GuestEnd<View>,
    decoder: Decoder<Vec<u8>>,
    next_id: u32,
    next_ref: u32,
}

impl Guest {
    #[allow(clippy::needless_pass_by_value)] // callers write the configuration in place
    pub fn new(config: Config) -> Self {
        let machine = TestMachine::new(PAGES);
        let xen = Xen::new(Config { ram_pages: PAGES, ..config }, Box::new(machine.clone()));
        let view = View { machine: machine.clone(), base: layout::STORE_GFN << 12, size: 4096 };
        let mut guest = Self {
            store: GuestEnd::attach(view),
            machine,
            xen,
            now: 0,
            events: VecDeque::new(),
            store_port: 0,
            decoder: Decoder::new(vec![0; 4096]),
            next_id: 1,
            next_ref: 8,
        };
        guest.start();
        guest
    }

    /// Maps shared info and the first grant frame, finds the store. Again after a restore.
    pub fn start(&mut self) {
        assert_eq!(self.add_to_physmap(0, 0, SHARED_INFO), 0);
        assert_eq!(self.add_to_physmap(1, 0, GRANTS), 0);
        self.store_port = self.hvm_param(2) as u32;
        let view = self.view(layout::STORE_GFN, 1);
        self.store = GuestEnd::attach(view);
        self.decoder = Decoder::new(vec![0; 4096]);
        self.next_ref = 8;
        self.events.clear();
    }

    pub fn view(&self, gfn: u64, pages: usize) -> View {
        View { machine: self.machine.clone(), base: gfn << 12, size: pages * 4096 }
    }

    pub fn read_u32(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.machine.read(address, &mut bytes).expect("mapped");
        u32::from_le_bytes(bytes)
    }

    pub fn read_u64(&self, address: u64) -> u64 {
        u64::from(self.read_u32(address)) | u64::from(self.read_u32(address + 4)) << 32
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.machine.write(address, bytes).expect("mapped");
    }

    /// A hypercall whose structure is `arg`; what it returns and the structure as Xen left it.
    pub fn call(&mut self, vcpu: u32, op: u32, cmd: u64, arg: &[u8], extra: u64) -> (i64, Vec<u8>) {
        let at = SCRATCH << 12;
        self.write(at, arg);
        // vcpu_op has the virtual CPU second and the pointer third; the others the pointer second.
        let args = if op == VCPU_OP { [cmd, extra, at, 0, 0] } else { [cmd, at, extra, 0, 0] };
        let result = self.xen.hypercall(vcpu, op, args);
        let mut out = vec![0; arg.len()];
        self.machine.read(at, &mut out).expect("mapped");
        (result, out)
    }

    pub fn add_to_physmap(&mut self, space: u32, idx: u64, gfn: u64) -> i64 {
        let mut arg = [0; 24];
        arg[..2].copy_from_slice(&DOMID_SELF.to_le_bytes());
        arg[4..8].copy_from_slice(&space.to_le_bytes());
        arg[8..16].copy_from_slice(&idx.to_le_bytes());
        arg[16..].copy_from_slice(&gfn.to_le_bytes());
        self.call(0, MEMORY_OP, 7, &arg, 0).0
    }

    pub fn reservation(&mut self, cmd: u64, gfns: &[u64]) -> i64 {
        let list = (SCRATCH << 12) + 2048;
        let bytes: Vec<u8> = gfns.iter().flat_map(|g| g.to_le_bytes()).collect();
        self.write(list, &bytes);
        let mut arg = [0; 32];
        arg[..8].copy_from_slice(&list.to_le_bytes());
        arg[8..16].copy_from_slice(&(gfns.len() as u64).to_le_bytes());
        arg[24..26].copy_from_slice(&DOMID_SELF.to_le_bytes());
        self.call(0, MEMORY_OP, cmd, &arg, 0).0
    }

    pub fn hvm_param(&mut self, index: u32) -> u64 {
        let (result, out) = self.call(0, HVM_OP, 1, &param(index, 0), 0);
        assert_eq!(result, 0, "parameter {index}");
        u64::from_le_bytes(out[8..].try_into().expect("eight bytes"))
    }

    pub fn set_hvm_param(&mut self, index: u32, value: u64) -> i64 {
        self.call(0, HVM_OP, 0, &param(index, value), 0).0
    }

    pub fn alloc_unbound(&mut self) -> u32 {
        let mut arg = [0; 8];
        arg[..2].copy_from_slice(&DOMID_SELF.to_le_bytes());
        let (result, out) = self.call(0, EVENT_CHANNEL_OP, 6, &arg, 0);
        assert_eq!(result, 0);
        u32::from_le_bytes(out[4..].try_into().expect("four bytes"))
    }

    /// An event channel operation whose structure is one or two words.
    pub fn event_op(&mut self, cmd: u64, words: &[u32]) -> i64 {
        let arg: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.call(0, EVENT_CHANNEL_OP, cmd, &arg, 0).0
    }

    pub fn send(&mut self, port: u32) {
        assert_eq!(self.event_op(4, &[port]), 0);
    }

    /// Lets the host work until it has nothing left to do, with time going on.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.xen.step(self.now) {
                continue;
            }
            match self.xen.next_deadline_ns() {
                Some(at) if at > self.now => self.now = at,
                _ => return,
            }
        }
        panic!("the host never comes to rest");
    }

    pub fn grant(&mut self, gfn: u64, readonly: bool) -> u32 {
        let reference = self.next_ref;
        self.next_ref += 1;
        assert!(reference < 512);
        self.set_grant(reference, 1 | if readonly { 4 } else { 0 }, gfn);
        reference
    }

    pub fn set_grant(&self, reference: u32, flags: u16, gfn: u64) {
        let at = (GRANTS << 12) + u64::from(reference) * 8;
        self.write(at + 4, &(gfn as u32).to_le_bytes());
        self.write(at, &u32::from(flags).to_le_bytes());
    }

    pub fn grant_flags(&self, reference: u32) -> u16 {
        self.read_u32((GRANTS << 12) + u64::from(reference) * 8) as u16
    }

    // The store.

    fn pump(&mut self) -> Option<Reply> {
        let mut buf = [0; 97];
        let mut done = None;
        let count = self.store.read(&mut buf).expect("xenstored's indices are right");
        let mut rest = &buf[..count];
        while !rest.is_empty() {
            let n = self.decoder.feed(rest).expect("well-formed");
            rest = &rest[n..];
            done = done.or(self.whole());
        }
        if count > 0 {
            self.send(self.store_port);
        }
        done
    }

    /// Takes a whole message out of the decoder: an event is put aside, a reply returned.
    fn whole(&mut self) -> Option<Reply> {
        let message = self.decoder.message()?;
        let Header { kind, req_id, .. } = message.header;
        let reply = Reply { kind, req_id, payload: message.payload.to_vec() };
        self.decoder.next();
        if kind == MessageType::WatchEvent.number() {
            self.events.push_back(reply);
            return None;
        }
        Some(reply)
    }

    pub fn store_request(&mut self, kind: u32, tx_id: u32, payload: &[u8]) -> Reply {
        let req_id = self.next_id;
        self.next_id += 1;
        let header = Header { kind, req_id, tx_id, len: payload.len() as u32 };
        let bytes = [header.as_bytes(), payload].concat();
        let mut rest = &bytes[..];
        let mut answer = None;
        for _ in 0..100_000 {
            if !rest.is_empty() {
                let n = self.store.write(rest).expect("xenstored's indices are right");
                rest = &rest[n..];
                self.send(self.store_port);
            }
            self.xen.step(self.now);
            answer = answer.or(self.pump());
            if let Some(reply) = &answer
                && rest.is_empty()
            {
                assert_eq!(reply.req_id, req_id);
                return reply.clone();
            }
        }
        panic!("no answer to request {kind}");
    }

    /// A request of strings, each ended by NUL; the answer's payload or the error's name.
    pub fn store_call(&mut self, kind: MessageType, tx: u32, parts: &[&str]) -> Result<Vec<u8>, String> {
        let payload: Vec<u8> = parts.iter().flat_map(|p| p.bytes().chain([0])).collect();
        self.store_result(kind, tx, &payload)
    }

    pub fn store_result(&mut self, kind: MessageType, tx: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        let reply = self.store_request(kind.number(), tx, payload);
        if reply.kind == MessageType::Error.number() {
            return Err(String::from_utf8_lossy(&reply.payload).trim_end_matches('\0').to_owned());
        }
        assert_eq!(reply.kind, kind.number());
        Ok(reply.payload)
    }

    pub fn read(&mut self, path: &str) -> Result<String, String> {
        let value = self.store_call(MessageType::Read, 0, &[path])?;
        Ok(String::from_utf8(value).expect("text"))
    }

    pub fn write_store(&mut self, tx: u32, path: &str, value: &str) -> Result<(), String> {
        let payload = [path.as_bytes(), &[0], value.as_bytes()].concat();
        self.store_result(MessageType::Write, tx, &payload).map(|_| ())
    }

    pub fn begin(&mut self) -> Result<u32, String> {
        let id = self.store_call(MessageType::TransactionStart, 0, &[""])?;
        Ok(String::from_utf8_lossy(&id).trim_end_matches('\0').parse().expect("a number"))
    }

    pub fn end(&mut self, tx: u32, commit: bool) -> Result<(), String> {
        self.store_call(MessageType::TransactionEnd, tx, &[if commit { "T" } else { "F" }]).map(|_| ())
    }

    /// Waits for what xenstored still has to say; the events, path and token each.
    pub fn watch_events(&mut self) -> Vec<(String, String)> {
        for _ in 0..10_000 {
            let moved = self.xen.step(self.now);
            let reply = self.pump();
            assert!(reply.is_none(), "a reply to nothing");
            if !moved && !self.decoder.in_message() && self.decoder.missing() == 16 {
                break;
            }
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.events
            .drain(..)
            .map(|e| {
                let mut parts = e.payload.split(|b| *b == 0);
                (text(parts.next().unwrap_or_default()), text(parts.next().unwrap_or_default()))
            })
            .collect()
    }
}

fn param(index: u32, value: u64) -> [u8; 16] {
    let mut arg = [0; 16];
    arg[..2].copy_from_slice(&DOMID_SELF.to_le_bytes());
    arg[4..8].copy_from_slice(&index.to_le_bytes());
    arg[8..].copy_from_slice(&value.to_le_bytes());
    arg
}

/// A connected blkif frontend.
pub struct Front {
    pub ring: FrontRing<Blkif, View>,
    pub port: u32,
    pub path: String,
    pub ring_refs: Vec<u32>,
}

impl Front {
    /// The handshake, as a frontend does it.
    pub fn connect(guest: &mut Guest, vdev: u32, order: u32) -> Self {
        let path = format!("device/vbd/{vdev}");
        let back = guest.read(&format!("{path}/backend")).expect("a backend");
        guest.settle();
        assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok("2"));
        let ring_refs: Vec<u32> = (0..1 << order).map(|i| guest.grant(RING + i, false)).collect();
        let ring = FrontRing::new(guest.view(RING, 1 << order)).expect("room for slots");
        let port = guest.alloc_unbound();
        let tx = guest.begin().expect("a transaction");
        if order == 0 {
            guest.write_store(tx, &format!("{path}/ring-ref"), &ring_refs[0].to_string()).expect("written");
        } else {
            guest.write_store(tx, &format!("{path}/ring-page-order"), &order.to_string()).expect("written");
            for (i, reference) in ring_refs.iter().enumerate() {
                guest.write_store(tx, &format!("{path}/ring-ref{i}"), &reference.to_string()).expect("written");
            }
        }
        guest.write_store(tx, &format!("{path}/event-channel"), &port.to_string()).expect("written");
        guest.write_store(tx, &format!("{path}/protocol"), "x86_64-abi").expect("written");
        guest.write_store(tx, &format!("{path}/state"), "3").expect("written");
        guest.end(tx, true).expect("no conflict");
        guest.settle();
        assert_eq!(guest.read(&format!("{back}/state")).as_deref(), Ok("4"));
        guest.write_store(0, &format!("{path}/state"), "4").expect("written");
        guest.settle();
        Self { ring, port, path, ring_refs }
    }

    /// Puts a request for whole pages from guest frame `gfn` on into the ring; the references used.
    pub fn push(
        &mut self,
        guest: &mut Guest,
        id: u64,
        direction: Direction,
        sector: u64,
        gfn: u64,
        pages: u64,
    ) -> Vec<u32> {
        let write = direction == Direction::Write;
        let refs: Vec<u32> = (0..pages).map(|i| guest.grant(gfn + i, write)).collect();
        let segments: Segments = refs.iter().filter_map(|r| Segment::new(*r, 0, 7)).collect();
        let command = Command::Rw { direction, sector, segments };
        self.ring.push(&Request { id, handle: 0, command }.encode()).expect("a free slot");
        refs
    }

    pub fn publish(&mut self, guest: &mut Guest) {
        if self.ring.publish() {
            guest.send(self.port);
        }
    }

    /// Waits for all that is outstanding: id and status of each response.
    pub fn finish(&mut self, guest: &mut Guest) -> Vec<(u64, u8, i16)> {
        let mut done = Vec::new();
        self.publish(guest);
        for _ in 0..10_000 {
            while let Some(response) = self.ring.take().expect("sane indices") {
                done.push((response.id, response.operation, response.status));
            }
            if self.ring.outstanding() == 0 {
                return done;
            }
            if !self.ring.final_check().expect("sane indices") {
                guest.settle();
            }
        }
        panic!("{} responses never came", self.ring.outstanding());
    }
}
