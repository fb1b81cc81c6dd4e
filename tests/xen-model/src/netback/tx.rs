//! The guest's transmit ring as netback serves it: take packets until none are left, then arm the event; check, copy the
//! head and map the rest, hand the frame on, answer each slot.

use super::Context;
use super::frame::{self, Checksum, ChecksumError, Frame, Headers, PacketHash};
use super::journal::{Crossing, Direction};
use super::options::VifOptions;
use super::ring::BackRing;
use crate::abi::netif;
use crate::blkback::hash;
use crate::hv::Hypervisor;
use crate::machine::{Mfn, PAGE_SIZE};
use crate::observe::GuestErrorKind;
use hostile::NetHostile;

/// Packets of one round (`XENVIF_NAPI_WEIGHT`).
const BUDGET: usize = 64;
/// Slots after the first at which Linux takes a frontend for malicious (`fatal_skb_slots`).
const FATAL_SLOTS: usize = 20;
/// Bytes that are copied rather than mapped (`XEN_NETBACK_TX_COPY_LEN`).
const COPY_LEN: usize = 128;
/// The smallest packet: an Ethernet header.
const LEAST: usize = 14;

/// A request as it was read, once.
#[derive(Clone, Copy, Debug)]
struct Request {
    reference: u32,
    offset: usize,
    flags: u16,
    id: u16,
    size: usize,
}

impl Request {
    fn read(ring: &BackRing, hv: &Hypervisor, index: u32) -> Self {
        let b: [u8; netif::TX_ENTRY] = ring.request(hv, index);
        let word = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        Self {
            reference: u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            offset: word(4).into(),
            flags: word(6),
            id: word(8),
            size: word(10).into(),
        }
    }
}

/// A slot of a packet in flight.
#[derive(Debug)]
struct Slot {
    request: Request,
    /// The page, where it stays mapped until the answer.
    mapped: Option<Mfn>,
    status: i16,
}

/// A packet that was taken and not yet answered.
#[derive(Debug)]
struct Pending {
    slots: Vec<Slot>,
    extras: usize,
    ready_at: u64,
    /// Hash of the bytes that are still mapped: the guest must leave them alone until the answer.
    digest: u64,
}

impl Pending {
    /// Whether pages of the guest's are still in use.
    fn mapped(&self) -> bool {
        self.slots.iter().any(|slot| slot.mapped.is_some())
    }
}

/// Extra infos of a packet, by type.
type Extras = [Option<[u8; netif::TX_ENTRY]>; 6];

/// What is to become of the packet that was read.
enum Parsed {
    Packet {
        slots: Vec<Request>,
        extras: Extras,
        extra_count: usize,
    },
    /// It was answered already.
    Answered,
    /// The vif is disabled.
    Fatal,
}

/// One transmit ring.
#[derive(Debug)]
pub(super) struct Transmit {
    ring: BackRing,
    /// The event channel: dom0's end.
    pub(super) port: u32,
    pending: Vec<Pending>,
    wake: bool,
    wake_at: Option<u64>,
    /// Grants that a hostile backend keeps.
    kept: Vec<u32>,
    last_id: u16,
    /// A false `rsp_prod` stands in the ring: nothing is answered any more, so that it is seen.
    lied: bool,
}

impl Transmit {
    /// The ring's page.
    pub(super) fn ring_frame(&self) -> Mfn {
        self.ring.frame()
    }

    pub(super) fn new(ring: BackRing, port: u32) -> Self {
        let (pending, kept) = (Vec::new(), Vec::new());
        Self { ring, port, pending, wake: true, wake_at: None, kept, last_id: 0, lied: false }
    }

    /// Slots that wait for an answer.
    pub(super) fn in_flight(&self) -> usize {
        self.pending.iter().map(|p| p.slots.len()).sum()
    }

    pub(super) fn deadline(&self, options: &VifOptions) -> Option<u64> {
        let at_once = self.pending.iter().filter(|p| !p.mapped()).map(|p| p.ready_at);
        let ready = at_once.chain(self.unmaps_at(options)).filter(|_| !options.held && !self.lied).min();
        ready.into_iter().chain(self.wake_at).min()
    }

    /// When the thread runs next that unmaps pages and answers (`xenvif_dealloc_kthread`): the first page that nobody uses
    /// any more wakes it, and it takes all that are free by then.
    fn unmaps_at(&self, options: &VifOptions) -> Option<u64> {
        self.pending.iter().filter(|p| p.mapped()).map(|p| p.ready_at + options.unmap_ns).min()
    }

    /// An event of the guest's arrived.
    pub(super) fn event(&mut self, now: u64, wake_ns: u64) {
        if !self.wake {
            self.wake_at.get_or_insert(now + wake_ns);
        }
    }

    pub(super) fn release_kept(&mut self, hv: &mut Hypervisor) {
        for reference in std::mem::take(&mut self.kept) {
            hv.unmap_grant(reference, true);
        }
    }

    /// Takes the ring down. With `answer`, what is in flight is answered first.
    pub(super) fn disconnect(mut self, ctx: &mut Context<'_>, answer: bool) {
        for pending in std::mem::take(&mut self.pending) {
            self.finish(ctx, &pending, answer && !self.lied);
        }
        if !self.lied {
            self.publish(ctx);
        }
        self.release_kept(ctx.hv);
        self.ring.disconnect(ctx.hv);
    }

    /// The guest is saved now: some of what is in flight is answered, some not.
    pub(super) fn cut_off(&mut self, ctx: &mut Context<'_>) {
        for pending in std::mem::take(&mut self.pending) {
            let answer = ctx.hv.below(2) == 0 && !self.lied;
            self.finish(ctx, &pending, answer);
        }
    }

    /// Takes packets and answers those that are through; whether anything was done. The frames that the wire gets are
    /// appended to `wire`.
    pub(super) fn step(&mut self, ctx: &mut Context<'_>, queue: usize, wire: &mut Vec<Vec<u8>>) -> bool {
        let now = ctx.hv.now_ns;
        if self.wake_at.is_some_and(|at| at <= now) {
            self.wake_at = None;
            self.wake = true;
        }
        let mut moved = false;
        if self.wake && !ctx.shared.disabled {
            moved |= self.take(ctx, queue, wire);
        }
        if self.lied || ctx.options.held {
            return moved;
        }
        let unmaps = self.unmaps_at(ctx.options).is_some_and(|at| at <= now);
        loop {
            let ready = |p: &&Pending| p.ready_at <= now && (unmaps || !p.mapped());
            let count = self.pending.iter().filter(ready).count() as u64;
            if count == 0 {
                break;
            }
            // In which order the stack lets go of frames is not the frontend's to know.
            let nth = if ctx.options.out_of_order { ctx.hv.below(count) as usize } else { 0 };
            let Some(at) = self.pending.iter().enumerate().filter(|(_, p)| ready(p)).map(|(i, _)| i).nth(nth) else {
                break;
            };
            let pending = self.pending.remove(at);
            self.finish(ctx, &pending, true);
            moved = true;
            if self.lied {
                return true;
            }
        }
        self.publish(ctx);
        moved
    }

    fn publish(&mut self, ctx: &mut Context<'_>) {
        if self.ring.push(ctx.hv) {
            ctx.hv.dom0_send(self.port);
            ctx.stats.notifications_sent += 1;
        }
    }

    fn take(&mut self, ctx: &mut Context<'_>, queue: usize, wire: &mut Vec<Vec<u8>>) -> bool {
        for taken in 0.. {
            let waiting = match self.ring.waiting(ctx.hv) {
                Ok(waiting) => waiting,
                Err(why) => {
                    fatal(ctx, GuestErrorKind::BadRing, &why);
                    return true;
                }
            };
            if waiting == 0 {
                // RING_FINAL_CHECK_FOR_REQUESTS.
                let cons = self.ring.req_cons;
                if !self.ring.arm(ctx.hv, cons.wrapping_add(1), cons) {
                    self.wake = false;
                    return taken > 0;
                }
                continue;
            }
            if taken >= BUDGET {
                return true;
            }
            match self.parse(ctx, waiting as usize) {
                Parsed::Packet { slots, extras, extra_count } => {
                    self.packet(ctx, queue, slots, &extras, extra_count, wire);
                }
                Parsed::Answered => {}
                Parsed::Fatal => return true,
            }
        }
        unreachable!("the loop ends by itself")
    }

    /// Reads one packet's requests, with the checks of `xenvif_tx_build_gops` and what it calls.
    fn parse(&mut self, ctx: &mut Context<'_>, mut left: usize) -> Parsed {
        let mut first = Request::read(&self.ring, ctx.hv, self.ring.req_cons);
        self.ring.req_cons = self.ring.req_cons.wrapping_add(1);
        left -= 1;
        let mut extras = Extras::default();
        let mut extra_count = 0;
        if first.flags & netif::TXF_EXTRA_INFO != 0 {
            loop {
                if left == 0 {
                    fatal(ctx, GuestErrorKind::BadRequest, "missing extra info");
                    return Parsed::Fatal;
                }
                let extra: [u8; netif::TX_ENTRY] = self.ring.request(ctx.hv, self.ring.req_cons);
                self.ring.req_cons = self.ring.req_cons.wrapping_add(1);
                left -= 1;
                extra_count += 1;
                if extra[0] == 0 || usize::from(extra[0]) >= extras.len() {
                    fatal(ctx, GuestErrorKind::BadRequest, &format!("extra info of type {}", extra[0]));
                    return Parsed::Fatal;
                }
                extras[usize::from(extra[0])] = Some(extra);
                if extra[1] & netif::EXTRA_FLAG_MORE == 0 {
                    break;
                }
            }
        }
        if let Some(status) = multicast(ctx, &extras) {
            self.answer(ctx, first.id, status, extra_count);
            ctx.stats.multicast_requests += 1;
            return Parsed::Answered;
        }
        // What the following slots hold is taken off the first one's size, which is the whole packet's.
        let mut slots = vec![first];
        let mut dropped = None;
        let mut more = first.flags & netif::TXF_MORE_DATA != 0;
        while more {
            let following = slots.len() - 1;
            if left == 0 {
                fatal(ctx, GuestErrorKind::BadRequest, &format!("more_data, but no slot after {following}"));
                return Parsed::Fatal;
            }
            if following >= FATAL_SLOTS {
                fatal(ctx, GuestErrorKind::BadRequest, &format!("a packet of more than {following} slots"));
                return Parsed::Fatal;
            }
            let request = Request::read(&self.ring, ctx.hv, self.ring.req_cons);
            self.ring.req_cons = self.ring.req_cons.wrapping_add(1);
            left -= 1;
            if following >= netif::SLOTS_MIN {
                dropped.get_or_insert_with(|| format!("a packet of more than {} slots", netif::SLOTS_MIN));
            }
            if request.size > first.size {
                dropped.get_or_insert_with(|| format!("slots of {} bytes more than the packet", request.size));
            }
            first.size = first.size.wrapping_sub(request.size) & 0xffff;
            if request.offset + request.size > PAGE_SIZE {
                let Request { offset, size, .. } = request;
                fatal(
                    ctx,
                    GuestErrorKind::BadRequest,
                    &format!("a slot crosses its page: offset {offset}, size {size}"),
                );
                return Parsed::Fatal;
            }
            more = request.flags & netif::TXF_MORE_DATA != 0;
            slots.push(request);
        }
        slots[0].size = first.size;
        if dropped.is_none() && first.size < LEAST {
            dropped = Some(format!("a first slot of {} bytes", first.size));
        }
        if let Some(why) = dropped {
            bad_request(ctx, &why);
            for (n, slot) in slots.iter().enumerate() {
                self.answer(ctx, slot.id, netif::RSP_ERROR, if n == 0 { extra_count } else { 0 });
            }
            return Parsed::Answered;
        }
        if first.offset + first.size > PAGE_SIZE {
            let Request { offset, size, .. } = first;
            fatal(ctx, GuestErrorKind::BadRequest, &format!("the first slot: offset {offset}, size {size}"));
            return Parsed::Fatal;
        }
        if let Some(gso) = extras[usize::from(netif::EXTRA_GSO)] {
            let size = u16::from_le_bytes([gso[2], gso[3]]);
            if size == 0 || !matches!(gso[4], netif::GSO_TCPV4 | netif::GSO_TCPV6) {
                fatal(ctx, GuestErrorKind::BadRequest, &format!("segmentation of type {} to {size} bytes", gso[4]));
                return Parsed::Fatal;
            }
        }
        Parsed::Packet { slots, extras, extra_count }
    }

    /// Copies and maps a packet's pages, and hands its bytes on.
    fn packet(
        &mut self,
        ctx: &mut Context<'_>,
        queue: usize,
        requests: Vec<Request>,
        extras: &Extras,
        extra_count: usize,
        wire: &mut Vec<Vec<u8>>,
    ) {
        let (first, crossed) = (requests[0], requests.len() + extra_count);
        let mut bytes = vec![0; first.size.min(COPY_LEN)];
        let mut failed = ctx.hv.copy_from_grant(first.reference, first.offset, &mut bytes).is_err();
        let mut slots = Vec::with_capacity(requests.len());
        for (n, request) in requests.into_iter().enumerate() {
            let from = if n == 0 { bytes.len() } else { 0 };
            let mut slot = Slot { request, mapped: None, status: netif::RSP_OKAY };
            if n == 0 && failed {
                slot.status = netif::RSP_ERROR;
            } else if request.size > from {
                if let Ok(mfn) = ctx.hv.map_grant(request.reference, true) {
                    let start = bytes.len();
                    bytes.resize(start + request.size - from, 0);
                    ctx.hv.mem().read(mfn, request.offset + from, &mut bytes[start..]);
                    slot.mapped = Some(mfn);
                } else {
                    slot.status = netif::RSP_ERROR;
                    failed = true;
                }
            }
            slots.push(slot);
        }
        let held = slots.iter().any(|slot| slot.mapped.is_some()) && !failed;
        let mut pending = Pending { slots, extras: extra_count, ready_at: ctx.hv.now_ns, digest: 0 };
        if held {
            let jitter = ctx.hv.below(ctx.options.latency_jitter_ns);
            pending.ready_at += ctx.options.latency_ns + jitter;
            pending.digest = digest(ctx.hv, &pending.slots);
        }
        ctx.stats.tx_requests += crossed as u64;
        ctx.stats.most_tx_slots = ctx.stats.most_tx_slots.max(crossed);
        self.pending.push(pending);
        ctx.stats.most_in_flight = ctx.stats.most_in_flight.max(self.in_flight());
        if failed {
            ctx.stats.tx_errors += 1;
            return;
        }
        let gso = extras[usize::from(netif::EXTRA_GSO)];
        let packet_hash = extras[usize::from(netif::EXTRA_HASH)]
            .map(|e| PacketHash { kind: e[2], value: u32::from_le_bytes([e[4], e[5], e[6], e[7]]) });
        let checksum = if first.flags & netif::TXF_CSUM_BLANK != 0 {
            Checksum::Blank
        } else if first.flags & netif::TXF_DATA_VALIDATED != 0 {
            Checksum::Validated
        } else {
            Checksum::Unknown
        };
        let mss = gso.map(|e| u16::from_le_bytes([e[2], e[3]]));
        let frame = Frame { bytes, checksum, mss, hash: packet_hash };
        let v6 = gso.is_some_and(|e| e[4] == netif::GSO_TCPV6);
        account(ctx, queue, &frame, crossed, first.size);
        let before = wire.len();
        hand_on(ctx, &frame, v6, wire);
        ctx.journal.push(Crossing {
            direction: Direction::FromGuest,
            queue,
            slots: crossed,
            first_slot: first.size,
            frame,
            wire: wire[before..].to_vec(),
        });
    }

    /// Ends a packet's maps and answers its slots if `answer`.
    fn finish(&mut self, ctx: &mut Context<'_>, pending: &Pending, answer: bool) {
        if pending.digest != 0 && pending.digest != digest(ctx.hv, &pending.slots) {
            bad_request(ctx, "the frame changed before it was answered");
        }
        let keep = answer && pending.digest != 0 && ctx.plans.due(NetHostile::TxKeepGrant);
        for (n, slot) in pending.slots.iter().enumerate() {
            if slot.mapped.is_some() {
                if keep {
                    self.kept.push(slot.request.reference);
                } else {
                    ctx.hv.unmap_grant(slot.request.reference, true);
                }
            }
            if answer {
                self.answer(ctx, slot.request.id, slot.status, if n == 0 { pending.extras } else { 0 });
            }
            if self.lied {
                return;
            }
        }
    }

    /// `make_tx_response`: one for the slot, and an empty one for each extra info behind it.
    fn answer(&mut self, ctx: &mut Context<'_>, id: u16, status: i16, extras: usize) {
        if ctx.plans.due(NetHostile::TxNoResponse) {
            return;
        }
        let (mut said_id, mut said_status) = (id, status);
        if ctx.plans.due(NetHostile::TxIdOutOfRange) {
            said_id = id ^ 0xbe00;
        }
        if ctx.plans.due(NetHostile::TxIdNotOutstanding) {
            let known = |id: u16| self.pending.iter().flat_map(|p| &p.slots).any(|s| s.request.id == id);
            said_id = (0..256).map(|n| id ^ n).find(|n| *n != id && !known(*n)).unwrap_or(!id);
        }
        if ctx.plans.due(NetHostile::TxDuplicateId) {
            said_id = self.last_id;
        }
        if ctx.plans.due(NetHostile::TxBadStatus) {
            said_status = 0x7b;
        }
        if ctx.plans.due(NetHostile::TxNullStatus) {
            said_status = netif::RSP_NULL;
        }
        self.last_id = id;
        self.respond(ctx.hv, said_id, said_status);
        for _ in 0..extras {
            self.respond(ctx.hv, 0, netif::RSP_NULL);
        }
        ctx.stats.tx_responses += 1 + extras as u64;
        let (ahead, backward) =
            (ctx.plans.due(NetHostile::TxProducerAhead), ctx.plans.due(NetHostile::TxProducerBackward));
        if ahead || backward {
            let said = if ahead { self.ring.rsp_prod.wrapping_add(263) } else { self.ring.rsp_prod.wrapping_sub(3) };
            self.publish(ctx);
            self.ring.lie(ctx.hv, said);
            ctx.hv.dom0_send(self.port);
            self.lied = true;
        }
    }

    fn respond(&mut self, hv: &Hypervisor, id: u16, status: i16) {
        let mut bytes = [0; netif::TX_RESPONSE];
        bytes[..2].copy_from_slice(&id.to_le_bytes());
        bytes[2..].copy_from_slice(&status.to_le_bytes());
        self.ring.respond(hv, &bytes);
    }
}

/// A multicast address to be added or removed; the status of the answer.
fn multicast(ctx: &mut Context<'_>, extras: &Extras) -> Option<i16> {
    /// `XEN_NETBK_MCAST_MAX`.
    const MOST: usize = 64;
    let address = |e: [u8; netif::TX_ENTRY]| [e[2], e[3], e[4], e[5], e[6], e[7]];
    let list = &mut ctx.shared.multicast;
    if let Some(extra) = extras[usize::from(netif::EXTRA_MCAST_ADD)] {
        if list.len() >= MOST {
            return Some(netif::RSP_ERROR);
        }
        list.push(address(extra));
        return Some(netif::RSP_OKAY);
    }
    let extra = extras[usize::from(netif::EXTRA_MCAST_DEL)]?;
    if let Some(at) = list.iter().position(|a| *a == address(extra)) {
        list.remove(at);
    }
    Some(netif::RSP_OKAY)
}

/// Counts a packet, and holds it against what the backend had offered.
fn account(ctx: &mut Context<'_>, queue: usize, frame: &Frame, slots: usize, first_slot: usize) {
    let stats = &mut *ctx.stats;
    stats.frames_from_guest += 1;
    stats.bytes_from_guest += frame.bytes.len() as u64;
    stats.gso_from_guest += u64::from(frame.mss.is_some());
    stats.blank_from_guest += u64::from(frame.checksum == Checksum::Blank);
    if stats.from_guest_by_queue.len() <= queue {
        stats.from_guest_by_queue.resize(queue + 1, 0);
    }
    stats.from_guest_by_queue[queue] += 1;
    let headers = Headers::parse(&frame.bytes);
    let offloaded = frame.checksum == Checksum::Blank || frame.mss.is_some();
    if offloaded && headers.is_some_and(|h| h.payload(&frame.bytes) > first_slot) {
        stats.split_headers += 1;
    }
    let v6 = headers.is_some_and(|h| h.v6);
    let o = ctx.options;
    let blank = frame.checksum == Checksum::Blank;
    for (broken, what) in [
        (slots > 1 + usize::from(frame.mss.is_some()) + usize::from(frame.hash.is_some()) && !o.sg, "feature-sg"),
        (frame.mss.is_some() && !v6 && !o.gso_v4, "feature-gso-tcpv4"),
        (frame.mss.is_some() && v6 && !o.gso_v6, "feature-gso-tcpv6"),
        (blank && !v6 && o.no_checksum_v4, "IPv4 checksums"),
        (blank && v6 && !o.checksum_v6, "feature-ipv6-csum-offload"),
        (frame.hash.is_some() && !o.control_ring, "feature-ctrl-ring"),
    ] {
        if broken {
            bad_request(ctx, &format!("a packet that needs {what}, which was not offered"));
        }
    }
}

/// What becomes of a packet behind netback: segmented, its checksum finished, on the wire.
fn hand_on(ctx: &mut Context<'_>, frame: &Frame, v6: bool, wire: &mut Vec<Vec<u8>>) {
    let mut bytes = frame.bytes.clone();
    if let Some(mss) = frame.mss {
        if frame.checksum != Checksum::Blank {
            // Linux mends it: rx_gso_checksum_fixup.
            ctx.stats.gso_without_blank += 1;
        } else if frame::finish_checksum(&mut bytes) == Err(ChecksumError::WrongPartial) {
            bad_request(ctx, "a packet to be segmented without the pseudo header's sum in it");
        }
        match frame::segment(&frame.bytes, v6, mss.into()) {
            Some(segments) => {
                ctx.stats.segments_from_guest += segments.len() as u64;
                wire.extend(segments);
            }
            None => bad_request(ctx, "a packet to be segmented that is no TCP packet"),
        }
        return;
    }
    if frame.checksum == Checksum::Blank {
        match frame::finish_checksum(&mut bytes) {
            Ok(()) => {}
            Err(ChecksumError::NoField) => {
                bad_request(ctx, "a blank checksum in a packet that has none");
                return;
            }
            Err(ChecksumError::WrongPartial) => {
                bad_request(ctx, "a blank checksum without the pseudo header's sum in it");
            }
        }
    }
    wire.push(bytes);
}

/// Hash of what is mapped of a packet; never 0.
fn digest(hv: &Hypervisor, slots: &[Slot]) -> u64 {
    let mut bytes = Vec::new();
    for slot in slots {
        if let Some(mfn) = slot.mapped {
            let start = bytes.len();
            bytes.resize(start + slot.request.size, 0);
            hv.mem().read(mfn, slot.request.offset, &mut bytes[start..]);
        }
    }
    hash(&bytes) | 1
}

/// A packet that Linux drops with an error.
fn bad_request(ctx: &mut Context<'_>, detail: &str) {
    ctx.stats.tx_errors += 1;
    let vif = ctx.options.index;
    ctx.hv.guest_error(GuestErrorKind::BadRequest, format!("vif {vif}: {detail}"));
}

/// `xenvif_fatal_tx_err`: the vif is switched off until it connects anew.
fn fatal(ctx: &mut Context<'_>, kind: GuestErrorKind, detail: &str) {
    ctx.shared.disabled = true;
    ctx.stats.fatal += 1;
    let vif = ctx.options.index;
    ctx.hv.guest_error(kind, format!("vif {vif} is disabled: {detail}"));
}
