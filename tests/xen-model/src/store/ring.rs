//! xenstored's end of the guest's ring page: bytes come and go in seeded portions, so that a client that believes in
//! whole messages is found out.

use std::collections::VecDeque;

use super::{Client, Message, Store};
use crate::abi::xs;
use crate::hv::Hypervisor;
use crate::layout;
use crate::machine::Mfn;
use crate::observe::{GuestErrorKind, TraceEvent};

/// The connection over the ring.
#[derive(Debug)]
pub(crate) struct StoreRing {
    /// Dom0's port.
    port: u32,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// The guest sent an event and not all that it may mean has been done.
    kicked: bool,
    /// The ring was full: nothing is written until the guest sends an event, as it must after it made room.
    stalled: bool,
    /// The guest broke the protocol: nothing more is read until it reconnects.
    dead: bool,
}

impl StoreRing {
    /// Connects to the guest's ring, as xenstored does when the toolstack introduces the domain.
    pub(crate) fn introduce(hv: &mut Hypervisor, guest_port: u32) -> Self {
        let port = hv.dom0_bind(guest_port).expect("a new domain has its store port unbound");
        let (input, output) = (Vec::new(), VecDeque::new());
        let ring = Self { port, input, output, kicked: true, stalled: false, dead: false };
        if let Some(mfn) = hv.machine().mfn_of(layout::STORE_GFN) {
            let features = if hv.cfg.store_reconnect { xs::FEATURE_RECONNECTION | xs::FEATURE_ERROR } else { 0 };
            hv.mem().write_u32(mfn, xs::SERVER_FEATURES, features);
        }
        ring
    }

    /// Does a bounded amount of work; whether anything moved.
    pub(crate) fn step(&mut self, hv: &mut Hypervisor, store: &mut Store) -> bool {
        let Some(mfn) = hv.machine().mfn_of(layout::STORE_GFN) else { return false };
        if hv.dom0_take_pending(self.port) {
            self.kicked = true;
            self.stalled = false;
        }
        if self.kicked && hv.cfg.store_reconnect && hv.mem().read_u32(mfn, xs::CONNECTION) == 1 {
            self.reconnect(hv, store, mfn);
            return true;
        }
        let mut moved = false;
        if self.kicked && !self.dead {
            moved |= self.read(hv, mfn);
        }
        moved |= self.handle(hv, store);
        self.fill(hv, store);
        let written = !self.stalled && !self.output.is_empty() && self.write(hv, mfn);
        if moved || written {
            hv.dom0_send(self.port);
        } else {
            self.kicked = false;
        }
        moved || written
    }

    fn reconnect(&mut self, hv: &mut Hypervisor, store: &mut Store, mfn: Mfn) {
        self.input.clear();
        self.output.clear();
        self.dead = false;
        self.stalled = false;
        store.reset_guest(hv.domid);
        for index in [xs::REQ_CONS, xs::REQ_PROD, xs::RSP_CONS, xs::RSP_PROD, xs::ERROR] {
            hv.mem().write_u32(mfn, index, 0);
        }
        hv.mem().write_u32(mfn, xs::CONNECTION, 0);
        hv.dom0_send(self.port);
    }

    fn fail(&mut self, hv: &mut Hypervisor, mfn: Mfn, code: u32, detail: String) {
        hv.guest_error(GuestErrorKind::StoreProtocol, detail);
        hv.mem().write_u32(mfn, xs::ERROR, code);
        self.dead = true;
    }

    fn read(&mut self, hv: &mut Hypervisor, mfn: Mfn) -> bool {
        let (prod, cons) = (hv.mem().read_u32(mfn, xs::REQ_PROD), hv.mem().read_u32(mfn, xs::REQ_CONS));
        let there = prod.wrapping_sub(cons);
        if there > xs::RING_SIZE {
            self.fail(hv, mfn, xs::ERROR_RINGIDX, format!("xenstore ring: req_prod {prod:#x}, req_cons {cons:#x}"));
            return false;
        }
        if there == 0 {
            return false;
        }
        let portion = 1 + hv.below(u64::from(there)) as u32;
        for i in 0..portion {
            let at = (cons.wrapping_add(i) % xs::RING_SIZE) as usize;
            self.input.push(hv.mem().read_u8(mfn, xs::REQ + at));
        }
        hv.mem().write_u32(mfn, xs::REQ_CONS, cons.wrapping_add(portion));
        true
    }

    /// Answers one whole request, if there is one.
    fn handle(&mut self, hv: &mut Hypervisor, store: &mut Store) -> bool {
        if self.dead || self.input.len() < xs::HEADER {
            return false;
        }
        let word = |i: usize| u32::from_le_bytes(self.input[i * 4..i * 4 + 4].try_into().expect("four bytes"));
        let (kind, req_id, tx_id, len) = (word(0), word(1), word(2), word(3) as usize);
        if len > xs::PAYLOAD_MAX {
            if let Some(mfn) = hv.machine().mfn_of(layout::STORE_GFN) {
                self.fail(hv, mfn, xs::ERROR_PROTO, format!("xenstore request of {len} bytes"));
            }
            return false;
        }
        if self.input.len() < xs::HEADER + len {
            return false;
        }
        let payload = self.input[xs::HEADER..xs::HEADER + len].to_vec();
        self.input.drain(..xs::HEADER + len);
        hv.trace(|| TraceEvent::Store { from_guest: true, header: [kind, req_id, tx_id], payload: payload.clone() });
        hv.counters.store_requests += 1;
        let busy = hv.below(1000) < u64::from(hv.cfg.store_conflicts_permille);
        store.guest_request(&Message { kind, req_id, tx_id, payload }, busy);
        hv.counters.store_conflicts += store.take_conflicts();
        true
    }

    /// Puts waiting messages into the byte stream.
    fn fill(&mut self, hv: &mut Hypervisor, store: &mut Store) {
        if self.dead || !self.output.is_empty() {
            return;
        }
        let Some(message) = store.next_message(Client::Guest) else { return };
        if message.kind == xs::WATCH_EVENT {
            hv.counters.store_events += 1;
        }
        let header = [message.kind, message.req_id, message.tx_id];
        for word in header.into_iter().chain([message.payload.len() as u32]) {
            self.output.extend(word.to_le_bytes());
        }
        self.output.extend(&message.payload);
        hv.trace(|| TraceEvent::Store { from_guest: false, header, payload: message.payload });
    }

    fn write(&mut self, hv: &mut Hypervisor, mfn: Mfn) -> bool {
        let (prod, cons) = (hv.mem().read_u32(mfn, xs::RSP_PROD), hv.mem().read_u32(mfn, xs::RSP_CONS));
        let used = prod.wrapping_sub(cons);
        if used > xs::RING_SIZE {
            self.fail(hv, mfn, xs::ERROR_RINGIDX, format!("xenstore ring: rsp_prod {prod:#x}, rsp_cons {cons:#x}"));
            return false;
        }
        let room = (xs::RING_SIZE - used).min(self.output.len() as u32);
        if room == 0 {
            self.stalled = true;
            return false;
        }
        let portion = 1 + hv.below(u64::from(room)) as u32;
        for i in 0..portion {
            let at = (prod.wrapping_add(i) % xs::RING_SIZE) as usize;
            let byte = self.output.pop_front().expect("no more than there is");
            hv.mem().write_u8(mfn, xs::RSP + at, byte);
        }
        hv.mem().write_u32(mfn, xs::RSP_PROD, prod.wrapping_add(portion));
        true
    }
}
