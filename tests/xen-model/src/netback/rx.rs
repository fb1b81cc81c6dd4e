//! The guest's receive ring as netback serves it: frames wait until the guest has given enough buffers, each is copied
//! into them slot by slot, in the ring's order, with extra info behind the first.

use std::collections::VecDeque;

use super::Context;
use super::frame::{self, Checksum, Frame, Headers};
use super::journal::{Crossing, Direction};
use super::ring::BackRing;
use crate::abi::netif;
use crate::hv::Hypervisor;
use crate::machine::{Mfn, PAGE_SIZE};
use crate::observe::{Delivery, GuestErrorKind};
use hostile::NetHostile;

/// Frames of one round (`RX_BATCH_SIZE`).
const BUDGET: usize = 64;
/// Bytes that wait at most (`XENVIF_RX_QUEUE_BYTES`).
const QUEUE_BYTES: usize = 128 * PAGE_SIZE;
/// Nanoseconds that a frame waits for buffers at most (`rx_drain_timeout_msecs`).
const DRAIN_NS: u64 = 10_000_000_000;
/// The same where the guest does not say when it gives buffers; the backend looks again that often.
const POLL_NS: u64 = 30_000_000;
/// Nanoseconds without a buffer after which the guest's receive side counts as stalled (`rx_stall_timeout_msecs`).
const STALL_NS: u64 = 60_000_000_000;

#[derive(Debug)]
struct Waiting {
    frame: Frame,
    expires: u64,
}

/// A page that a hostile backend keeps.
#[derive(Debug)]
struct Kept {
    reference: u32,
    mfn: Mfn,
}

/// One receive ring.
#[derive(Debug)]
pub(super) struct Receive {
    ring: BackRing,
    /// The event channel: dom0's end.
    pub(super) port: u32,
    queue: VecDeque<Waiting>,
    bytes: usize,
    /// What waits before the queue.
    outside: VecDeque<Frame>,
    wake_at: Option<u64>,
    last_frame_ns: u64,
    stalled: bool,
    kept: Vec<Kept>,
    /// A false `rsp_prod` stands in the ring: nothing is given any more, so that it is seen.
    lied: bool,
    /// Impossible indices were seen.
    broken: bool,
}

impl Receive {
    /// The ring's page.
    pub(super) fn ring_frame(&self) -> Mfn {
        self.ring.frame()
    }

    pub(super) fn new(ring: BackRing, port: u32, now: u64) -> Self {
        Self {
            ring,
            port,
            queue: VecDeque::new(),
            bytes: 0,
            outside: VecDeque::new(),
            wake_at: None,
            last_frame_ns: now,
            stalled: false,
            kept: Vec::new(),
            lied: false,
            broken: false,
        }
    }

    /// Frames that wait for buffers.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.outside.len()
    }

    /// Whether the guest gave no buffer for so long that the carrier is off.
    pub(super) fn stalled(&self) -> bool {
        self.stalled
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        let expiry = self.queue.front().map(|head| head.expires);
        self.wake_at.into_iter().chain(expiry).min().filter(|_| !self.lied && !self.broken)
    }

    /// An event of the guest's arrived, or a frame.
    pub(super) fn kick(&mut self, at: u64) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    /// Takes the ring down; what waits is lost.
    pub(super) fn disconnect(mut self, ctx: &mut Context<'_>) {
        ctx.stats.dropped_to_guest += self.waiting() as u64;
        self.release_kept(ctx.hv);
        self.ring.disconnect(ctx.hv);
    }

    pub(super) fn release_kept(&mut self, hv: &mut Hypervisor) {
        for kept in std::mem::take(&mut self.kept) {
            hv.unmap_grant(kept.reference, false);
        }
    }

    /// `xenvif_rx_queue_tail`: a frame for the guest. If it may be `joined`, it is put to the one before where both belong
    /// to one TCP stream.
    pub(super) fn enqueue(&mut self, ctx: &mut Context<'_>, frame: Frame, joined: bool) {
        let f = ctx.shared.features;
        if joined
            && frame.checksum == Checksum::Unknown
            && let Some(tail) = self.queue.back_mut()
            && frame::join(&mut tail.frame, &frame.bytes)
        {
            self.bytes += frame.bytes.len();
            ctx.stats.joined_to_guest += 1;
            return;
        }
        if !f.sg && frame.bytes.len() > PAGE_SIZE {
            ctx.stats.dropped_to_guest += 1;
            return;
        }
        if self.bytes >= QUEUE_BYTES || !self.outside.is_empty() {
            if self.outside.len() < ctx.options.queue_len {
                self.outside.push_back(frame);
            } else {
                ctx.stats.dropped_to_guest += 1;
            }
            return;
        }
        self.append(ctx, frame);
    }

    /// `xenvif_rx_dequeue`: room in the queue lets in what waits before it.
    fn let_in(&mut self, ctx: &mut Context<'_>) {
        while self.bytes < QUEUE_BYTES
            && let Some(frame) = self.outside.pop_front()
        {
            self.append(ctx, frame);
        }
    }

    fn append(&mut self, ctx: &mut Context<'_>, frame: Frame) {
        let f = ctx.shared.features;
        self.bytes += frame.bytes.len();
        let patience = if f.rx_notify { DRAIN_NS } else { POLL_NS };
        self.queue.push_back(Waiting { frame, expires: ctx.hv.now_ns + patience });
        self.kick(ctx.hv.now_ns + ctx.options.wake_ns);
    }

    /// Gives frames to the guest while it has buffers; whether anything was done.
    pub(super) fn step(&mut self, ctx: &mut Context<'_>, queue: usize) -> bool {
        if self.lied || self.broken {
            return false;
        }
        let now = ctx.hv.now_ns;
        let mut moved = self.drop_expired(ctx);
        if self.wake_at.is_none_or(|at| at > now) {
            return moved;
        }
        self.wake_at = None;
        self.scribble(ctx);
        for _ in 0..BUDGET {
            if self.queue.is_empty() || !self.buffers_available(ctx) {
                break;
            }
            let Some(Waiting { frame, .. }) = self.queue.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(frame.bytes.len());
            self.let_in(ctx);
            self.give(ctx, queue, frame);
            self.last_frame_ns = now;
            moved = true;
            if self.lied {
                return true;
            }
        }
        self.publish(ctx);
        let available = self.ring.waiting(ctx.hv).unwrap_or(0) > 0;
        if ctx.shared.features.rx_notify {
            if !available && !self.stalled && now > self.last_frame_ns + STALL_NS {
                self.stalled = true;
                ctx.stats.stalls += 1;
            } else if available && self.stalled {
                self.stalled = false;
                self.last_frame_ns = now;
            }
        }
        if moved && !self.queue.is_empty() && available {
            self.kick(now);
        }
        moved
    }

    fn publish(&mut self, ctx: &mut Context<'_>) {
        if self.ring.push(ctx.hv) {
            ctx.hv.dom0_send(self.port);
            ctx.stats.notifications_sent += 1;
        }
    }

    fn drop_expired(&mut self, ctx: &mut Context<'_>) -> bool {
        let mut dropped = false;
        while self.queue.front().is_some_and(|head| head.expires <= ctx.hv.now_ns) {
            if let Some(head) = self.queue.pop_front() {
                self.bytes = self.bytes.saturating_sub(head.frame.bytes.len());
            }
            ctx.stats.expired_to_guest += 1;
            dropped = true;
        }
        self.let_in(ctx);
        dropped
    }

    /// `xenvif_rx_ring_slots_available`: whether the first frame fits; if not, the event is armed.
    fn buffers_available(&mut self, ctx: &mut Context<'_>) -> bool {
        let Some(head) = self.queue.front() else { return false };
        let needed = (slots(ctx, &head.frame) + extras(ctx, &head.frame).len()) as u32;
        loop {
            let waiting = match self.ring.waiting(ctx.hv) {
                Ok(waiting) => waiting,
                Err(why) => {
                    ctx.hv.guest_error(GuestErrorKind::BadRing, format!("vif {}: {why}", ctx.options.index));
                    self.broken = true;
                    return false;
                }
            };
            if waiting >= needed {
                return true;
            }
            let prod = self.ring.req_cons.wrapping_add(waiting);
            if !self.ring.arm(ctx.hv, prod.wrapping_add(1), prod) {
                ctx.stats.starved += 1;
                return false;
            }
        }
    }

    /// The next buffer of the guest's: id and grant reference.
    fn buffer(&mut self, hv: &Hypervisor) -> (u16, u32) {
        let b: [u8; netif::RX_ENTRY] = self.ring.request(hv, self.ring.req_cons);
        self.ring.req_cons = self.ring.req_cons.wrapping_add(1);
        (u16::from_le_bytes([b[0], b[1]]), u32::from_le_bytes([b[4], b[5], b[6], b[7]]))
    }

    /// Copies a frame into the guest's buffers, which are enough.
    fn give(&mut self, ctx: &mut Context<'_>, queue: usize, mut frame: Frame) {
        if ctx.plans.due(NetHostile::RxChecksumNonsense) {
            frame = Frame { bytes: vec![0xa5; 90], checksum: Checksum::Blank, mss: Some(7), hash: None };
        }
        let mut infos = extras(ctx, &frame);
        let (zero, bad_type) = (ctx.plans.due(NetHostile::RxGsoSizeZero), ctx.plans.due(NetHostile::RxGsoBadType));
        if zero || bad_type {
            let (size, kind) = if zero { (0, netif::GSO_TCPV4) } else { (1448, 9) };
            infos.retain(|info| info[0] != netif::EXTRA_GSO);
            infos.insert(0, gso_info(size, kind));
        }
        if ctx.plans.due(NetHostile::RxBadExtra) {
            infos.push([0x77, 0, 1, 2, 3, 4, 5, 6]);
        }
        let available = self.ring.waiting(ctx.hv).unwrap_or(0) as usize;
        let endless = ctx.plans.due(NetHostile::RxEndlessExtras);
        if endless {
            infos.resize(available.saturating_sub(1).max(1), gso_info(1448, netif::GSO_TCPV4));
        }
        let count = slots(ctx, &frame);
        // A hostile frame takes no more than there is.
        infos.truncate(available.saturating_sub(count));
        let headroom = ctx.shared.features.headroom;
        let chunks: Vec<&[u8]> = frame.bytes.chunks(PAGE_SIZE - headroom).collect();
        let chain = ctx.plans.due(NetHostile::RxEndlessChain);
        let mut crossed = 0;
        for (n, chunk) in chunks.iter().enumerate() {
            let more = n + 1 < chunks.len() || chain;
            let mut flags = if more { netif::RXF_MORE_DATA } else { 0 };
            if n == 0 {
                flags |= match frame.checksum {
                    Checksum::Unknown => 0,
                    Checksum::Validated => netif::RXF_DATA_VALIDATED,
                    Checksum::Blank => netif::RXF_DATA_VALIDATED | netif::RXF_CSUM_BLANK,
                };
                if !infos.is_empty() {
                    flags |= netif::RXF_EXTRA_INFO;
                }
            }
            self.data(ctx, chunk, headroom, flags, n * (PAGE_SIZE - headroom));
            crossed += 1;
            if n == 0 {
                for (i, info) in infos.iter().enumerate() {
                    let mut info = *info;
                    if i + 1 < infos.len() || endless {
                        info[1] |= netif::EXTRA_FLAG_MORE;
                    }
                    // The slot's buffer is not used; its request is answered by the extra info.
                    self.buffer(ctx.hv);
                    self.ring.respond(ctx.hv, &info);
                    crossed += 1;
                }
            }
        }
        if chain {
            while self.ring.waiting(ctx.hv).is_ok_and(|left| left > 0) {
                self.data(ctx, &[0x5a; 64], headroom, netif::RXF_MORE_DATA, frame.bytes.len());
                crossed += 1;
            }
        }
        self.lie(ctx);
        let stats = &mut *ctx.stats;
        stats.frames_to_guest += 1;
        stats.bytes_to_guest += frame.bytes.len() as u64;
        stats.gso_to_guest += u64::from(frame.mss.is_some());
        stats.blank_to_guest += u64::from(frame.checksum == Checksum::Blank);
        stats.most_rx_slots = stats.most_rx_slots.max(crossed);
        if stats.to_guest_by_queue.len() <= queue {
            stats.to_guest_by_queue.resize(queue + 1, 0);
        }
        stats.to_guest_by_queue[queue] += 1;
        ctx.journal.push(Crossing {
            direction: Direction::ToGuest,
            queue,
            slots: crossed,
            first_slot: 0,
            frame,
            wire: Vec::new(),
        });
    }

    /// One slot of data, which has the frame's bytes from `at` on.
    fn data(&mut self, ctx: &mut Context<'_>, chunk: &[u8], headroom: usize, flags: u16, at: usize) {
        let (id, reference) = self.buffer(ctx.hv);
        let mut status = (headroom + chunk.len()) as i16;
        if let Ok(mfn) = ctx.hv.copy_to_grant(reference, headroom, chunk) {
            ctx.hv.delivered(Delivery { mfn, offset: headroom, len: chunk.len(), at });
        } else {
            status = netif::RSP_ERROR;
            ctx.stats.rx_errors += 1;
        }
        let (mut said_id, mut offset, mut flags) = (id, 0u16, flags);
        if ctx.plans.due(NetHostile::RxWrongId) {
            said_id = id ^ 0x1f;
        }
        if ctx.plans.due(NetHostile::RxBeyondPage) {
            (offset, status) = (4000, 500);
        }
        if ctx.plans.due(NetHostile::RxErrorStatus) {
            status = -2;
        }
        if at == 0 && ctx.plans.due(NetHostile::RxRunt) {
            status = 5;
            flags &= !netif::RXF_MORE_DATA;
        }
        if ctx.plans.due(NetHostile::RxKeepGrant)
            && let Ok(mfn) = ctx.hv.map_grant(reference, false)
        {
            self.kept.push(Kept { reference, mfn });
        }
        let mut bytes = [0; netif::RX_ENTRY];
        bytes[..2].copy_from_slice(&said_id.to_le_bytes());
        bytes[2..4].copy_from_slice(&offset.to_le_bytes());
        bytes[4..6].copy_from_slice(&flags.to_le_bytes());
        bytes[6..].copy_from_slice(&status.to_le_bytes());
        self.ring.respond(ctx.hv, &bytes);
        ctx.stats.rx_responses += 1;
    }

    /// The misdeeds that come with publishing.
    fn lie(&mut self, ctx: &mut Context<'_>) {
        if ctx.plans.due(NetHostile::RxRewriteResponse) {
            self.publish(ctx);
            self.ring.rewrite_last(ctx.hv, &[0x5a; netif::RX_ENTRY]);
        }
        let (ahead, backward) =
            (ctx.plans.due(NetHostile::RxProducerAhead), ctx.plans.due(NetHostile::RxProducerBackward));
        if ahead || backward {
            self.publish(ctx);
            let said = if ahead { self.ring.rsp_prod.wrapping_add(263) } else { self.ring.rsp_prod.wrapping_sub(3) };
            self.ring.lie(ctx.hv, said);
            ctx.hv.dom0_send(self.port);
            self.lied = true;
        }
    }

    /// A backend that kept pages writes to them.
    fn scribble(&mut self, ctx: &mut Context<'_>) {
        for kept in &self.kept {
            ctx.hv.mem().write(kept.mfn, 0, &[0xee; PAGE_SIZE]);
        }
    }
}

/// Data slots that a frame takes.
fn slots(ctx: &Context<'_>, frame: &Frame) -> usize {
    frame.bytes.len().div_ceil(PAGE_SIZE - ctx.shared.features.headroom).max(1)
}

fn gso_info(size: u16, kind: u8) -> [u8; netif::RX_ENTRY] {
    let size = size.to_le_bytes();
    [netif::EXTRA_GSO, 0, size[0], size[1], kind, 0, 0, 0]
}

/// The extra infos of a frame, in the order of their types as Linux sends them.
fn extras(ctx: &Context<'_>, frame: &Frame) -> Vec<[u8; netif::RX_ENTRY]> {
    let mut infos = Vec::new();
    if let Some(mss) = frame.mss {
        let v6 = Headers::parse(&frame.bytes).is_some_and(|h| h.v6);
        infos.push(gso_info(mss, if v6 { netif::GSO_TCPV6 } else { netif::GSO_TCPV4 }));
    }
    if let Some(hash) = frame.hash {
        let v = hash.value.to_le_bytes();
        infos.push([netif::EXTRA_HASH, 0, hash.kind, netif::HASH_TOEPLITZ as u8, v[0], v[1], v[2], v[3]]);
    }
    let headroom = ctx.shared.features.headroom as u16;
    if headroom > 0 {
        let h = headroom.to_le_bytes();
        infos.push([netif::EXTRA_XDP, 0, h[0], h[1], 0, 0, 0, 0]);
    }
    infos
}
