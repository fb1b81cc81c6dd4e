//! The shared ring as blkback serves it: take requests until none are left, then arm the event; map, execute, unmap,
//! answer, notify if the frontend asked for it.

use std::collections::{BTreeMap, BTreeSet};

use super::backing::SECTOR;
use super::journal::{Journal, JournalEntry, hash};
use super::misdeeds::Plans;
use super::{Backing, DiskOptions, DiskStats, Order, Server};
use crate::abi::blkif;
use crate::hv::Hypervisor;
use crate::machine::{Mfn, PAGE_SIZE};
use crate::observe::{GuestErrorKind, TraceEvent};
use hostile::Hostile;

/// Of so many steps of the model, one changes a response that is to be rewritten.
const REWRITE_RARITY: u64 = 6;
/// Nanoseconds from one burst of an event storm to the next.
const STORM_NS: u64 = 10_000;
/// Events of a burst.
const STORM_EVENTS: u32 = 64;

/// A range of a granted page, in sectors of 512 bytes.
#[derive(Clone, Copy, Debug)]
struct Segment {
    reference: u32,
    first: u8,
    last: u8,
}

/// What is to be done for a request.
#[derive(Debug)]
enum Work {
    Read {
        sector: u64,
    },
    /// `flush`: a write barrier, which also waits for everything before it.
    Write {
        sector: u64,
        flush: bool,
    },
    Flush,
    Discard {
        sector: u64,
        count: u64,
    },
    /// Nothing: it was refused with this status.
    Refused(i16),
}

/// A request that was taken from the ring and not yet answered.
#[derive(Debug)]
struct Active {
    id: u64,
    /// As the response names it.
    operation: u8,
    work: Work,
    segments: Vec<(Segment, Mfn)>,
    ready_at: u64,
}

/// A connected ring.
#[derive(Debug)]
pub(super) struct Ring {
    references: Vec<u32>,
    frames: Vec<Mfn>,
    entries: u32,
    port: u32,
    req_cons: u32,
    rsp_prod: u32,
    active: Vec<Active>,
    /// An event came and the ring was not emptied since.
    wake: bool,
    /// An event came, and the backend's thread runs from this time on.
    wake_at: Option<u64>,
    /// The ring was emptied, and the backend asks to be told of more at this time.
    arm_at: Option<u64>,
    /// The disk is done with some requests, and dom0 answers them at this time.
    softirq_at: Option<u64>,
    /// Impossible indices were seen: the ring is not served any more.
    broken: bool,
    /// Grants kept mapped from one request to the next, if both sides want that.
    persistent: Option<BTreeMap<u32, Mfn>>,
    /// Data grants that a hostile backend keeps: reference and whether it is mapped read-only.
    kept: Vec<(u32, bool)>,
    /// Those that it keeps beyond its own close.
    kept_for_good: Vec<(u32, bool)>,
    /// A published response whose bytes are to change: its index.
    rewrite: Option<u32>,
    /// When the next burst of an event storm may come.
    storm_at: u64,
    last_id: u64,
    /// A false `rsp_prod` stands in the ring. Nothing is answered any more, so that it is seen.
    lied: bool,
}

/// What one disk has besides its ring.
pub(super) struct Context<'a> {
    pub(super) hv: &'a mut Hypervisor,
    pub(super) options: &'a DiskOptions,
    pub(super) backing: &'a mut dyn Backing,
    pub(super) journal: &'a mut Journal,
    pub(super) stats: &'a mut DiskStats,
    pub(super) plans: &'a mut Plans,
    pub(super) references: &'a mut BTreeSet<u32>,
}

impl Ring {
    /// Maps the ring and binds the event channel. `Err`: why not.
    pub(super) fn connect(
        hv: &mut Hypervisor,
        references: Vec<u32>,
        guest_port: u32,
        persistent: bool,
    ) -> Result<Self, String> {
        let mut frames = Vec::new();
        for (i, reference) in references.iter().enumerate() {
            match hv.map_grant(*reference, false) {
                Ok(mfn) => frames.push(mfn),
                Err(error) => {
                    for reference in &references[..i] {
                        hv.unmap_grant(*reference, false);
                    }
                    return Err(format!("ring reference {reference}: {error:?}"));
                }
            }
        }
        let port = match hv.dom0_bind(guest_port) {
            Ok(port) => port,
            Err(errno) => {
                for reference in &references {
                    hv.unmap_grant(*reference, false);
                }
                return Err(format!("event channel {guest_port}: {errno}"));
            }
        };
        let room = (references.len() * PAGE_SIZE - blkif::RING_HEADER) / blkif::ENTRY;
        let entries = 1 << room.ilog2();
        // A backend that takes a ring over goes on where its responses ended.
        let start = hv.mem().read_u32(frames[0], blkif::RING_RSP_PROD);
        Ok(Self {
            references,
            entries,
            port,
            req_cons: start,
            rsp_prod: start,
            active: Vec::new(),
            wake: true,
            wake_at: None,
            arm_at: None,
            softirq_at: None,
            broken: false,
            persistent: persistent.then(BTreeMap::new),
            kept: Vec::new(),
            kept_for_good: Vec::new(),
            rewrite: None,
            storm_at: 0,
            last_id: 0,
            lied: false,
            frames,
        })
    }

    /// The ring's pages.
    pub(super) fn frames(&self) -> &[Mfn] {
        &self.frames
    }

    pub(super) fn in_flight(&self) -> usize {
        self.active.len()
    }

    /// When the next request may be done; `None`: nothing waits.
    pub(super) fn deadline(&self, options: &DiskOptions) -> Option<u64> {
        if self.lied {
            return None;
        }
        let ready = self.eligible(options.order).iter().map(|a| a.ready_at).min();
        let answered = self.softirq_at.or(ready.map(|at| at + options.softirq_ns));
        answered.into_iter().chain(self.wake_at).chain(self.arm_at).min()
    }

    /// Whether dom0 ends bios now: some time after the first of them is done.
    fn softirq(&mut self, ctx: &Context<'_>) -> bool {
        let (now, delay) = (ctx.hv.now_ns, ctx.options.softirq_ns);
        if delay == 0 {
            return true;
        }
        if self.softirq_at.is_none() {
            let done = self.eligible(ctx.options.order).iter().map(|a| a.ready_at).min().filter(|at| *at <= now);
            self.softirq_at = done.map(|at| at + delay);
        }
        self.softirq_at.take_if(|at| *at <= now).is_some()
    }

    /// When the next burst of an event storm may come.
    pub(super) fn storm_at(&self) -> u64 {
        self.storm_at
    }

    /// The requests of which one may be finished next. A barrier waits for everything before it, and everything after
    /// waits for the barrier.
    fn eligible(&self, order: Order) -> &[Active] {
        let count = match order {
            Order::InOrder => 1,
            Order::OutOfOrder => {
                let barrier = |a: &Active| matches!(a.work, Work::Write { flush: true, .. });
                self.active.iter().position(barrier).map_or(self.active.len(), |at| at.max(1))
            }
        };
        &self.active[..count.min(self.active.len())]
    }

    /// Gives everything of the guest's back but what a hostile backend keeps for good, which is the result. Requests in
    /// flight are neither done nor answered.
    pub(super) fn disconnect(mut self, hv: &mut Hypervisor, stats: &mut DiskStats) -> Vec<(u32, bool)> {
        for active in std::mem::take(&mut self.active) {
            self.unmap_data(hv, stats, &active);
        }
        for reference in std::mem::take(&mut self.persistent).unwrap_or_default().into_keys() {
            hv.unmap_grant(reference, false);
            stats.grant_unmaps += 1;
        }
        for (reference, readonly) in std::mem::take(&mut self.kept) {
            hv.unmap_grant(reference, readonly);
            stats.grant_unmaps += 1;
        }
        for reference in &self.references {
            hv.unmap_grant(*reference, false);
        }
        hv.dom0_close(self.port);
        self.kept_for_good
    }

    /// Pages of the ring.
    pub(super) fn pages(&self) -> usize {
        self.references.len()
    }

    /// Ends the grants that a hostile backend kept.
    pub(super) fn release_kept(&mut self, hv: &mut Hypervisor, stats: &mut DiskStats) {
        for (reference, readonly) in std::mem::take(&mut self.kept) {
            hv.unmap_grant(reference, readonly);
            stats.grant_unmaps += 1;
        }
    }

    /// Takes new requests and finishes some that are ready; whether anything was done.
    pub(super) fn step(&mut self, ctx: &mut Context<'_>) -> bool {
        if ctx.hv.dom0_take_pending(self.port) {
            ctx.stats.notifications_received += 1;
            if !self.wake {
                self.wake_at.get_or_insert(ctx.hv.now_ns + ctx.options.wake_ns);
            }
        }
        if self.wake_at.is_some_and(|at| at <= ctx.hv.now_ns) {
            self.wake_at = None;
            self.wake = true;
        }
        let mut moved = self.rewrite_response(ctx.hv);
        let elsewhere = self.arm_at.is_some_and(|at| at > ctx.hv.now_ns);
        if self.arm_at.is_some() && !elsewhere && self.is_asked(ctx.hv) {
            ctx.stats.found += 1;
        }
        if self.wake && !self.broken && !elsewhere {
            moved |= self.take_requests(ctx);
        }
        let all = ctx.options.softirq_ns > 0;
        let budget = if all { u32::MAX } else { 1 + ctx.hv.below(u64::from(ctx.options.completions_per_step)) as u32 };
        let budget = if self.softirq(ctx) { budget } else { 0 };
        for _ in 0..budget {
            if self.lied {
                break;
            }
            let Some(index) = self.pick(ctx) else { break };
            let active = self.active.remove(index);
            self.finish(ctx, &active, true);
            moved = true;
        }
        if self.storm_at <= ctx.hv.now_ns && ctx.plans.due(Hostile::EventStorm) {
            for _ in 0..STORM_EVENTS {
                ctx.hv.dom0_send(self.port);
            }
            self.storm_at = ctx.hv.now_ns + STORM_NS;
            moved = true;
        }
        moved
    }

    /// Changes the bytes of a published response at some moment, unless the frontend has used the slot again.
    fn rewrite_response(&mut self, hv: &mut Hypervisor) -> bool {
        let Some(index) = self.rewrite.filter(|_| hv.below(REWRITE_RARITY) == 0) else { return false };
        self.rewrite = None;
        let asked = hv.mem().read_u32(self.frames[0], blkif::RING_REQ_PROD);
        if asked.wrapping_sub(index) <= self.entries {
            self.copy_in(hv, self.slot(index), &[0x5a; blkif::RESPONSE]);
        }
        true
    }

    /// Finishes everything that was taken, as blkback does before it disconnects.
    pub(super) fn drain(&mut self, ctx: &mut Context<'_>) {
        for active in std::mem::take(&mut self.active) {
            let answer = !self.lied;
            self.finish(ctx, &active, answer);
        }
    }

    /// The guest is saved now: of what is in flight some is done and answered, some done but not answered, some neither.
    pub(super) fn cut_off(&mut self, ctx: &mut Context<'_>) {
        for active in std::mem::take(&mut self.active) {
            match ctx.hv.below(3) {
                0 => self.finish(ctx, &active, true),
                1 => self.finish(ctx, &active, false),
                _ => self.unmap_data(ctx.hv, ctx.stats, &active),
            }
        }
    }

    /// Which of the requests in flight to finish next, if one is ready.
    fn pick(&self, ctx: &mut Context<'_>) -> Option<usize> {
        if ctx.options.held {
            return None;
        }
        let now = ctx.hv.now_ns;
        let eligible = self.eligible(ctx.options.order);
        let ready = || eligible.iter().enumerate().filter(|(_, a)| a.ready_at <= now).map(|(i, _)| i);
        let nth = ctx.hv.below(ready().count() as u64) as usize;
        ready().nth(nth)
    }

    /// `do_block_io_op`.
    fn take_requests(&mut self, ctx: &mut Context<'_>) -> bool {
        let mut moved = false;
        loop {
            let prod = ctx.hv.mem().read_u32(self.frames[0], blkif::RING_REQ_PROD);
            if prod.wrapping_sub(self.rsp_prod) > self.entries {
                ctx.hv.guest_error(
                    GuestErrorKind::BadRing,
                    format!("req_prod {prod:#x} with rsp_prod {:#x} on a ring of {}", self.rsp_prod, self.entries),
                );
                self.broken = true;
                return moved;
            }
            let (vdev, req_cons, rsp_prod) = (ctx.options.vdev, self.req_cons, self.rsp_prod);
            ctx.hv.trace(|| TraceEvent::Ring { vdev, req_prod: prod, req_cons, rsp_prod });
            while self.req_cons != prod {
                if self.active.len() as u32 >= ctx.options.max_active.min(self.entries) {
                    return moved;
                }
                let mut bytes = [0; blkif::ENTRY];
                self.copy_out(ctx.hv, self.slot(self.req_cons), &mut bytes);
                self.req_cons = self.req_cons.wrapping_add(1);
                let active = Self::decode(&mut self.persistent, ctx, &bytes);
                // A discard is carried out on the spot: its response is out before blkback looks for more requests.
                let at_once = matches!(active.work, Work::Discard { .. }) && ctx.options.server == Server::Blkback;
                if at_once && !ctx.options.held && !self.lied {
                    self.finish(ctx, &active, true);
                    return true;
                }
                self.active.push(active);
                ctx.stats.max_in_flight = ctx.stats.max_in_flight.max(self.active.len());
                let segments = self.active.last().map_or(0, |active| active.segments.len());
                ctx.stats.max_segments = ctx.stats.max_segments.max(segments);
                moved = true;
            }
            let more = match ctx.options.server {
                Server::Blkback if ctx.options.arm_ns > 0 && self.arm_at.is_none() => {
                    self.arm_at = Some(ctx.hv.now_ns + ctx.options.arm_ns);
                    return moved;
                }
                Server::Blkback => {
                    self.arm_at = None;
                    self.final_check(ctx.hv)
                }
                // It looks again when it answers.
                Server::Qdisk => false,
            };
            if !more {
                self.wake = false;
                return moved;
            }
            ctx.stats.found += 1;
        }
    }

    /// `RING_FINAL_CHECK_FOR_REQUESTS`: arms the event, then looks once more.
    fn final_check(&self, hv: &mut Hypervisor) -> bool {
        hv.mem().write_u32(self.frames[0], blkif::RING_REQ_EVENT, self.req_cons.wrapping_add(1));
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.is_asked(hv)
    }

    /// `RING_HAS_UNCONSUMED_REQUESTS`.
    fn is_asked(&self, hv: &Hypervisor) -> bool {
        hv.mem().read_u32(self.frames[0], blkif::RING_REQ_PROD) != self.req_cons
    }

    fn slot(&self, index: u32) -> usize {
        blkif::RING_HEADER + (index & (self.entries - 1)) as usize * blkif::ENTRY
    }

    fn copy_out(&self, hv: &Hypervisor, mut at: usize, mut buf: &mut [u8]) {
        while !buf.is_empty() {
            let n = buf.len().min(PAGE_SIZE - at % PAGE_SIZE);
            let (head, tail) = buf.split_at_mut(n);
            hv.mem().read(self.frames[at / PAGE_SIZE], at % PAGE_SIZE, head);
            (at, buf) = (at + n, tail);
        }
    }

    fn copy_in(&self, hv: &Hypervisor, mut at: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let n = bytes.len().min(PAGE_SIZE - at % PAGE_SIZE);
            hv.mem().write(self.frames[at / PAGE_SIZE], at % PAGE_SIZE, &bytes[..n]);
            (at, bytes) = (at + n, &bytes[n..]);
        }
    }

    /// Reads a request and maps what it names, as blkback's dispatch functions do.
    fn decode(persistent: &mut Option<BTreeMap<u32, Mfn>>, ctx: &mut Context<'_>, bytes: &[u8]) -> Active {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let ready_at = ctx.hv.now_ns + ctx.options.latency_ns + ctx.hv.below(ctx.options.latency_jitter_ns);
        let id = u64_at(8);
        let mut active =
            Active { id, operation: bytes[0], work: Work::Refused(blkif::RSP_ERROR), segments: Vec::new(), ready_at };
        match bytes[0] {
            blkif::OP_READ | blkif::OP_WRITE | blkif::OP_WRITE_BARRIER | blkif::OP_FLUSH => {
                let count = usize::from(bytes[1]);
                if count > blkif::MAX_SEGMENTS as usize {
                    bad_request(ctx, format!("{count} segments in a direct request"));
                    return active;
                }
                let segments: Vec<_> = bytes[24..24 + count * blkif::SEGMENT].chunks_exact(8).map(segment).collect();
                Self::prepare(persistent, ctx, &mut active, u64_at(16), &segments);
            }
            blkif::OP_INDIRECT if ctx.options.max_indirect_segments.is_some() => {
                active.operation = bytes[1];
                let count = u32::from(u16::from_le_bytes([bytes[2], bytes[3]]));
                if !matches!(bytes[1], blkif::OP_READ | blkif::OP_WRITE)
                    || count == 0
                    || Some(count) > ctx.options.max_indirect_segments
                    || count > blkif::SEGMENTS_PER_INDIRECT_PAGE * blkif::MAX_INDIRECT_PAGES as u32
                {
                    bad_request(ctx, format!("indirect operation {} with {count} segments", bytes[1]));
                    return active;
                }
                ctx.stats.indirect += 1;
                let Some(segments) = read_indirect(ctx, bytes, count) else { return active };
                Self::prepare(persistent, ctx, &mut active, u64_at(16), &segments);
            }
            blkif::OP_DISCARD if ctx.options.discard.is_some() => {
                let (sector, count) = (u64_at(16), u64_at(24));
                if sector.checked_add(count).is_none_or(|end| end > ctx.backing.sectors()) || ctx.options.read_only {
                    bad_request(ctx, format!("discard of {count} sectors at {sector}"));
                } else {
                    active.work = Work::Discard { sector, count };
                }
            }
            _ => active.work = Work::Refused(blkif::RSP_EOPNOTSUPP),
        }
        active
    }

    /// `dispatch_rw_block_io`.
    fn prepare(
        persistent: &mut Option<BTreeMap<u32, Mfn>>,
        ctx: &mut Context<'_>,
        active: &mut Active,
        sector: u64,
        segments: &[Segment],
    ) {
        let flush = matches!(active.operation, blkif::OP_WRITE_BARRIER | blkif::OP_FLUSH);
        let offered = match active.operation {
            blkif::OP_WRITE_BARRIER => ctx.options.barrier,
            blkif::OP_FLUSH => ctx.options.flush,
            _ => true,
        };
        if !offered {
            active.work = Work::Refused(blkif::RSP_EOPNOTSUPP);
            return;
        }
        if segments.is_empty() && !flush {
            return bad_request(ctx, "no segment".to_owned());
        }
        if active.operation != blkif::OP_READ && ctx.options.read_only {
            return bad_request(ctx, "write to a read-only disk".to_owned());
        }
        let mut count = 0;
        for s in segments {
            if s.last < s.first || usize::from(s.last) >= PAGE_SIZE / SECTOR {
                return bad_request(ctx, format!("segment of sectors {} to {}", s.first, s.last));
            }
            count += u64::from(s.last - s.first) + 1;
        }
        if sector.checked_add(count).is_none_or(|end| end > ctx.backing.sectors()) && count > 0 {
            return bad_request(ctx, format!("{count} sectors at {sector}, beyond the end"));
        }
        // Each segment has to be made of the disk's own sectors.
        let unit = u64::from(ctx.options.sector_size) / SECTOR as u64;
        let whole = |s: &Segment| sector.is_multiple_of(unit) && (u64::from(s.last - s.first) + 1).is_multiple_of(unit);
        if !segments.iter().all(whole) {
            return bad_request(ctx, format!("{count} sectors at {sector} on sectors of {} bytes", unit * 512));
        }
        let readonly = active.operation != blkif::OP_READ && persistent.is_none();
        for s in segments {
            let kept = persistent.as_ref().and_then(|p| p.get(&s.reference).copied());
            let mapped = kept.map_or_else(|| ctx.hv.map_grant(s.reference, readonly), Ok);
            let Ok(mfn) = mapped else {
                // All or nothing: what was mapped already goes back.
                if persistent.is_none() {
                    for (s, _) in std::mem::take(&mut active.segments) {
                        ctx.hv.unmap_grant(s.reference, readonly);
                        ctx.stats.grant_unmaps += 1;
                    }
                }
                active.segments.clear();
                ctx.stats.errors += 1;
                return;
            };
            if kept.is_none() {
                ctx.references.insert(s.reference);
                ctx.stats.grant_maps += 1;
                if let Some(p) = persistent {
                    p.insert(s.reference, mfn);
                }
            }
            active.segments.push((*s, mfn));
        }
        active.work = match active.operation {
            blkif::OP_READ => Work::Read { sector },
            blkif::OP_WRITE => Work::Write { sector, flush: false },
            _ if segments.is_empty() => Work::Flush,
            _ => Work::Write { sector, flush: true },
        };
    }

    fn unmap_data(&mut self, hv: &mut Hypervisor, stats: &mut DiskStats, active: &Active) {
        if self.persistent.is_some() {
            return;
        }
        for (s, _) in &active.segments {
            hv.unmap_grant(s.reference, active.operation != blkif::OP_READ);
            stats.grant_unmaps += 1;
        }
    }

    /// Does a request, ends its maps and answers it if `answer`.
    fn finish(&mut self, ctx: &mut Context<'_>, active: &Active, answer: bool) {
        let status = execute(ctx, active, answer);
        if answer && self.persistent.is_none() && !active.segments.is_empty() && ctx.plans.due(Hostile::GrantKeptMapped)
        {
            let readonly = active.operation != blkif::OP_READ;
            self.kept.extend(active.segments.iter().map(|(s, _)| (s.reference, readonly)));
        } else if answer
            && self.persistent.is_none()
            && !active.segments.is_empty()
            && ctx.plans.due(Hostile::GrantKeptForGood)
        {
            let readonly = active.operation != blkif::OP_READ;
            self.kept_for_good.extend(active.segments.iter().map(|(s, _)| (s.reference, readonly)));
        } else {
            self.unmap_data(ctx.hv, ctx.stats, active);
        }
        if answer {
            self.respond(ctx, active.id, active.operation, status);
        }
    }

    fn respond(&mut self, ctx: &mut Context<'_>, id: u64, operation: u8, status: i16) {
        let plans = &mut *ctx.plans;
        if plans.due(Hostile::NoResponse) {
            return;
        }
        let (mut said_id, mut said_operation, mut said_status) = (id, operation, status);
        if plans.due(Hostile::IdOutOfRange) {
            said_id = id ^ (0xdead_0000_0000_0000 | 1 << 20);
        }
        if plans.due(Hostile::IdNotOutstanding) {
            let outstanding = |id: u64| self.active.iter().any(|a| a.id == id);
            let absent = (0..u64::from(self.entries)).map(|n| id ^ n).find(|n| *n != id && !outstanding(*n));
            said_id = absent.unwrap_or(!id);
        }
        if plans.due(Hostile::DuplicateId) {
            said_id = self.last_id;
        }
        // The id that a frontend gave a slot before differs in its high part: whatever is above the ring's size.
        if plans.due(Hostile::StaleId) {
            said_id = id ^ 1 << 16;
        }
        if plans.due(Hostile::WrongOperation) {
            said_operation = operation ^ 1;
        }
        if plans.due(Hostile::BadStatus) {
            said_status = 0x7b;
        }
        let (ahead, backward) = (plans.due(Hostile::ProducerAhead), plans.due(Hostile::ProducerBackward));
        self.lied |= ahead || backward;
        let rewrite = plans.due(Hostile::RewriteResponse);
        self.last_id = id;

        let mut bytes = [0; blkif::RESPONSE];
        bytes[..8].copy_from_slice(&said_id.to_le_bytes());
        bytes[8] = said_operation;
        bytes[10..12].copy_from_slice(&said_status.to_le_bytes());
        let at = self.slot(self.rsp_prod);
        self.copy_in(ctx.hv, at, &bytes);

        let old = self.rsp_prod;
        self.rsp_prod = old.wrapping_add(1);
        let said_prod = if ahead {
            self.rsp_prod.wrapping_add(self.entries + 7)
        } else if backward {
            // Behind whatever the frontend has taken by now.
            self.rsp_prod.wrapping_sub(self.entries + 7)
        } else {
            self.rsp_prod
        };
        ctx.hv.mem().write_u32(self.frames[0], blkif::RING_RSP_PROD, said_prod);
        // RING_PUSH_RESPONSES_AND_CHECK_NOTIFY.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let event = ctx.hv.mem().read_u32(self.frames[0], blkif::RING_RSP_EVENT);
        let notify = self.rsp_prod.wrapping_sub(event) < self.rsp_prod.wrapping_sub(old) || ahead || backward;
        // `xen_block_send_response` (QEMU's hw/block/dataplane/xen-block.c): while requests are in flight, it looks by itself.
        if ctx.options.server == Server::Qdisk {
            let all_answered = self.rsp_prod == self.req_cons;
            let more = if all_answered { self.final_check(ctx.hv) } else { self.is_asked(ctx.hv) };
            self.wake |= more;
            ctx.stats.found += u64::from(more);
        }
        if notify {
            ctx.hv.dom0_send(self.port);
            ctx.stats.notifications_sent += 1;
        }
        if rewrite {
            self.rewrite = Some(old);
        }
        ctx.stats.responses += 1;
    }
}

fn segment(bytes: &[u8]) -> Segment {
    Segment { reference: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), first: bytes[4], last: bytes[5] }
}

fn bad_request(ctx: &mut Context<'_>, detail: String) {
    ctx.stats.errors += 1;
    ctx.hv.guest_error(GuestErrorKind::BadRequest, detail);
}

/// Reads the segments of an indirect request out of its pages.
fn read_indirect(ctx: &mut Context<'_>, bytes: &[u8], count: u32) -> Option<Vec<Segment>> {
    let mut segments = Vec::with_capacity(count as usize);
    for page in 0..count.div_ceil(blkif::SEGMENTS_PER_INDIRECT_PAGE) as usize {
        let at = 28 + page * 4;
        let reference = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let mfn = ctx.hv.map_grant(reference, true).ok()?;
        ctx.references.insert(reference);
        ctx.stats.grant_maps += 1;
        let mut list = vec![0; PAGE_SIZE];
        ctx.hv.mem().read(mfn, 0, &mut list);
        ctx.hv.unmap_grant(reference, true);
        ctx.stats.grant_unmaps += 1;
        let left = count as usize - segments.len();
        segments.extend(list.chunks_exact(blkif::SEGMENT).take(left).map(segment));
    }
    Some(segments)
}

/// Does what a request asks; its status.
fn execute(ctx: &mut Context<'_>, active: &Active, answered: bool) -> i16 {
    let bytes: usize = active.segments.iter().map(|(s, _)| (usize::from(s.last - s.first) + 1) * SECTOR).sum();
    let count = (bytes / SECTOR) as u32;
    let result = match active.work {
        Work::Refused(status) => return status,
        Work::Read { sector } => {
            let mut data = vec![0; bytes];
            let result = ctx.backing.read(sector, &mut data);
            if result.is_ok() {
                let mut rest = &data[..];
                for (s, mfn) in &active.segments {
                    let (part, tail) = rest.split_at((usize::from(s.last - s.first) + 1) * SECTOR);
                    ctx.hv.mem().write(*mfn, usize::from(s.first) * SECTOR, part);
                    rest = tail;
                }
                ctx.stats.reads += 1;
                ctx.stats.bytes_read += bytes as u64;
                ctx.journal.push(JournalEntry::Read { sector, count });
            }
            result
        }
        Work::Write { sector, flush } => {
            let mut data = vec![0; bytes];
            let mut rest = &mut data[..];
            for (s, mfn) in &active.segments {
                let (part, tail) = rest.split_at_mut((usize::from(s.last - s.first) + 1) * SECTOR);
                ctx.hv.mem().read(*mfn, usize::from(s.first) * SECTOR, part);
                rest = tail;
            }
            let flushed = if flush { ctx.backing.flush() } else { Ok(()) };
            let result = flushed.and_then(|()| ctx.backing.write(sector, &data));
            if result.is_ok() {
                if flush {
                    ctx.stats.barriers += 1;
                    ctx.journal.push(JournalEntry::Flush);
                }
                ctx.stats.writes += 1;
                ctx.stats.bytes_written += bytes as u64;
                ctx.journal.push(JournalEntry::Write { sector, count, hash: hash(&data), answered });
            }
            let after = if flush { ctx.backing.flush() } else { Ok(()) };
            if flush && result.is_ok() && after.is_ok() {
                ctx.journal.push(JournalEntry::Flush);
            }
            result.and(after)
        }
        Work::Flush => {
            let result = ctx.backing.flush();
            if result.is_ok() {
                ctx.stats.flushes += 1;
                ctx.journal.push(JournalEntry::Flush);
            }
            result
        }
        Work::Discard { sector, count } => {
            let result = ctx.backing.discard(sector, count);
            if result.is_ok() {
                ctx.stats.discards += 1;
                ctx.journal.push(JournalEntry::Discard { sector, count });
            }
            result
        }
    };
    ctx.hv.counters.bytes_moved += bytes as u64;
    if result.is_err() {
        ctx.stats.errors += 1;
        return blkif::RSP_ERROR;
    }
    blkif::RSP_OKAY
}
