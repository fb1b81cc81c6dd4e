//! From a packet to requests in the ring: all of a packet's, or none.

use alloc::vec::Vec;

use xen_abi::netif::{Extra, MAX_TX_SIZE, SLOTS_PER_PACKET, TxFlags, TxRequest};
use xenbus::{
    client::{Bus, Error},
    pages::Memory,
};

use super::{
    CHUNK, Queue,
    head::{Head, SMALL, Work},
    plain::Plain,
    table::Status,
};
use crate::front::{
    PAGE, Packet, Run,
    headers::{MOST, TAG},
    segment::{self, Segment},
};

/// Bytes that most heads are not longer than.
const HEAD: usize = 96;
/// Bytes copied at a time where a packet cannot be granted.
const PIECE: usize = 512;

/// Flags of a packet whose checksum the backend fills in.
pub(super) const BLANK: TxFlags = TxFlags::CSUM_BLANK.union(TxFlags::DATA_VALIDATED);

/// What became of an attempt to hand a packet out.
pub(super) enum Step {
    /// All of it is out.
    Out,
    /// A segment of it is out.
    Part,
    /// There is no room now.
    Exhausted,
    /// It cannot be sent.
    Refused(Status),
}

/// What preparing a packet led to.
enum Prepared {
    /// It goes from where it is, with these flags.
    AsItIs(TxFlags),
    /// It was dealt with.
    Done(Step),
}

impl From<Step> for Prepared {
    fn from(step: Step) -> Self {
        Self::Done(step)
    }
}

/// Part of a page of the packet's.
#[derive(Clone, Copy)]
struct Piece {
    frame: u64,
    offset: u16,
    len: u16,
}

impl Piece {
    /// All `len` bytes of a packet that begins with this run, if that is in one page.
    #[inline]
    fn whole(first: Run, len: u32) -> Option<Self> {
        let offset = (first.address % PAGE as u64) as u32;
        let right = first.bytes >= len && len <= PAGE as u32 - offset;
        right.then_some(Self { frame: first.address / PAGE as u64, offset: offset as u16, len: len as u16 })
    }
}

/// The pages behind a packet's head.
pub(super) struct Pieces(Vec<Piece>);

impl Pieces {
    /// How many slots a packet has for them.
    const MOST: usize = SLOTS_PER_PACKET - 1;

    /// None yet, with room for all that a packet may have. None: no memory.
    pub fn new() -> Option<Self> {
        let mut list = Vec::new();
        list.try_reserve_exact(Self::MOST).ok()?;
        Some(Self(list))
    }

    /// Finds the pages from `from` on. None: they are more than there are slots for, or `run` has no answer.
    fn find<P: Packet>(&mut self, packet: &mut P, from: u32) -> Option<()> {
        self.0.clear();
        let len = packet.len();
        let mut at = from;
        while at < len {
            let run = packet.run(at)?;
            let (mut address, mut left) = (run.address, run.bytes.min(len - at));
            if left == 0 {
                return None;
            }
            at += left;
            while left > 0 {
                let offset = (address % PAGE as u64) as u32;
                let here = left.min(PAGE as u32 - offset);
                self.add(address / PAGE as u64, offset as u16, here as u16)?;
                address += u64::from(here);
                left -= here;
            }
        }
        Some(())
    }

    fn add(&mut self, frame: u64, offset: u16, len: u16) -> Option<()> {
        if let Some(last) = self.0.last_mut()
            && last.frame == frame
            && last.offset + last.len == offset
        {
            last.len += len;
            return Some(());
        }
        if self.0.len() >= Self::MOST {
            return None;
        }
        self.0.push(Piece { frame, offset, len });
        Some(())
    }
}

/// Feeds `count` bytes of the packet from `from` on to `each`, in pieces.
fn for_bytes<P: Packet>(packet: &mut P, from: u32, count: u32, mut each: impl FnMut(&[u8])) -> bool {
    let mut piece = [0; PIECE];
    let mut done = 0;
    while done < count {
        let here = (count - done).min(PIECE as u32);
        let Some(bytes) = piece.get_mut(..here as usize) else { return false };
        if !packet.copy(from + done, bytes) {
            return false;
        }
        each(bytes);
        done += here;
    }
    true
}

impl<P: Packet, M: Memory> Queue<P, M> {
    /// Hands out what is left of a packet, or the next segment of it.
    #[inline]
    pub(super) fn emit<B: Bus>(&mut self, bus: &B, index: u16) -> Step {
        if self.room() == 0 {
            return Step::Exhausted;
        }
        let Self { entries, link, stock, learned, .. } = self;
        let Some(abilities) = link.as_ref().map(|link| link.abilities) else { return Step::Exhausted };
        let Some(entry) = entries.get_mut(usize::from(index)) else { return Step::Out };
        if entry.status != Status::Sent {
            // A segment of it failed: the others need not be sent.
            return Step::Refused(entry.status);
        }
        let Some(packet) = entry.packet.as_mut() else { return Step::Out };
        let (len, offload) = (packet.len(), packet.offload());
        let Some(first) = packet.run(0) else {
            return Step::Refused(if len == 0 { Status::Malformed } else { Status::Resources });
        };
        // Where all of it is, if it may go from there.
        let granted = abilities.trusted && len > SMALL && !stock.is_empty();
        let whole = if granted { Piece::whole(first, len) } else { None };
        let mut flags = None;
        if whole.is_some()
            && let Some(bytes) = packet.first()
            && let Some(plain) = Plain::new(&bytes)
        {
            flags = plain.as_it_is(len, &offload, abilities.checksum_v4);
            if flags.is_some() {
                packet.has_destination(plain.destination());
                learned.note_v4(plain.source());
            }
        }
        if flags.is_none()
            && granted
            && abilities.scatter
            && offload.segment.is_none()
            && first.bytes <= HEAD as u32
            && let Some(step) = self.emit_apart(bus, index, first.bytes)
        {
            return step;
        }
        let flags = match flags {
            Some(flags) => flags,
            None => match self.prepare(bus, index, first.bytes, whole.is_some()) {
                Prepared::AsItIs(flags) => flags,
                Prepared::Done(step) => return step,
            },
        };
        let Some(piece) = whole else { return Step::Exhausted };
        self.push_whole(bus, index, piece, flags)
    }

    /// A packet that needs no change, with a first run of `count` bytes that is not much more than its headers, and all the
    /// rest in one page: as TCP's packets come, with headers of the stack's and payload of a program's. The run goes in a
    /// chunk of the pool, the rest from where it is. None: the packet is another. The caller found a reference.
    #[inline]
    fn emit_apart<B: Bus>(&mut self, bus: &B, index: u16, count: u32) -> Option<Step> {
        let room = self.room();
        let Self { entries, slots, link, stock, counters, in_flight, learned, .. } = self;
        let (link, entry) = (link.as_mut()?, entries.get_mut(usize::from(index))?);
        let packet = entry.packet.as_mut()?;
        let rest = packet.run(count)?;
        let rest = Piece::whole(rest, packet.len() - count)?;
        let mut head = [0; HEAD];
        if !packet.copy(0, head.get_mut(..count as usize)?) {
            return None;
        }
        let plain = Plain::new(head.first_chunk()?).filter(|plain| plain.headers().is_some_and(|end| end <= count))?;
        let flags = plain.as_it_is(packet.len(), &packet.offload(), link.abilities.checksum_v4)?;
        if room < 2 {
            return Some(Step::Exhausted);
        }
        packet.has_destination(plain.destination());
        learned.note_v4(plain.source());
        // There is room for both, so nothing is left half done.
        let (gref, (slot, id)) = (stock.pop()?, slots.take(index, 0)?);
        let (_, rest_id) = slots.take(index, gref)?;
        let at = usize::from(slot) * CHUNK;
        let pool_ref = link.pool_refs.get(at / PAGE).copied()?;
        link.pool.copy_in(at, &head);
        let (size, first) = (count as u16 + rest.len, flags | TxFlags::MORE_DATA);
        let request = TxRequest { gref: pool_ref, offset: (at % PAGE) as u16, flags: first.bits(), id, size };
        let mut pushed = u16::from(link.ring.push(&request.into()).is_ok());
        let granted = bus.grant_access(gref, rest.frame, true);
        if granted.is_ok() {
            let request = TxRequest { gref, offset: rest.offset, flags: 0, id: rest_id, size: rest.len };
            pushed += u16::from(link.ring.push(&request.into()).is_ok());
        }
        *in_flight += u32::from(pushed);
        entry.outstanding += pushed;
        counters.granted += 1;
        counters.copied += u64::from(count);
        counters.packets += 1;
        counters.bytes += u64::from(size);
        if let Err(error) = granted {
            self.ungranted(bus, gref, error);
        }
        Some(Step::Out)
    }

    /// The general part of [`Queue::emit`]: for a packet that has to be changed, is in several pieces, or is no usual
    /// one. Its first run has `first` bytes; `whole`: it may go from where it is.
    #[inline(never)]
    fn prepare<B: Bus>(&mut self, bus: &B, index: u16, first: u32, whole: bool) -> Prepared {
        let Self { entries, link, learned, counters, .. } = self;
        let Some(abilities) = link.as_ref().map(|link| link.abilities) else { return Step::Exhausted.into() };
        let Some(entry) = entries.get_mut(usize::from(index)) else { return Step::Out.into() };
        let Some(packet) = entry.packet.as_mut() else { return Step::Out.into() };
        let (len, offload) = (packet.len(), packet.offload());
        let mut head = Head::EMPTY;
        if let Err(status) = head.read(packet, first) {
            return Step::Refused(status).into();
        }
        if entry.issued == 0 {
            packet.has_destination(head.destination());
            if offload.vlan.is_none() {
                learned.note(head.bytes.get(..head.len).unwrap_or(&[]), head.headers.as_ref());
            }
        }
        let work = match head.prepare(len, &offload, abilities) {
            Ok(work) => work,
            Err(status) => return Step::Refused(status).into(),
        };
        if whole && !head.changed && offload.vlan.is_none() {
            match work {
                Work::Plain => return Prepared::AsItIs(TxFlags::empty()),
                Work::Blank => return Prepared::AsItIs(BLANK),
                _ => {}
            }
        }
        if let Work::Segments(size) = work {
            return self.emit_segment(index, &head, size).into();
        }
        let tag = if offload.vlan.is_some() { TAG as u32 } else { 0 };
        if len.saturating_add(tag) > MAX_TX_SIZE {
            return Step::Refused(Status::Malformed).into();
        }
        if work == Work::Checksum {
            let (upper, rest) = (head.upper(len), head.rest);
            let filled = head.checksum(upper, |sum, count| for_bytes(packet, rest, count, |bytes| sum.add(bytes)));
            if !filled {
                return Step::Refused(Status::Resources).into();
            }
            counters.checksummed += 1;
        }
        if let Some(tag) = offload.vlan {
            head.insert_tag(tag);
        }
        self.push_changed(bus, index, &head, len, work).into()
    }

    /// A packet with the headers that it is to have.
    fn push_changed<B: Bus>(&mut self, bus: &B, index: u16, head: &Head, len: u32, work: Work) -> Step {
        let (flags, extra) = match work {
            Work::Blank => (BLANK, None),
            Work::Large(kind, size) => (BLANK, Some(Extra::Gso { kind, size })),
            _ => (TxFlags::empty(), None),
        };
        let Self { entries, link, pieces, stock, in_flight, .. } = self;
        // Nothing but the copy: neither grants nor pages are needed.
        if head.rest >= len && head.len <= CHUNK {
            pieces.0.clear();
            return self.push_scattered(bus, index, head, len, flags, extra);
        }
        let able = link.as_ref().is_some_and(|link| link.abilities.scatter && link.abilities.trusted);
        let packet = entries.get_mut(usize::from(index)).and_then(|entry| entry.packet.as_mut());
        if able && packet.is_some_and(|packet| pieces.find(packet, head.rest).is_some()) {
            if stock.len() >= pieces.0.len() {
                return self.push_scattered(bus, index, head, len, flags, extra);
            }
            if *in_flight > 0 {
                return Step::Exhausted;
            }
            // The peer keeps so many grants that this would wait for ever.
        }
        self.push_copied(index, head, len - head.rest, flags, extra)
    }

    /// Requests that still have room, each with a slot of our own.
    #[inline]
    fn room(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.ring.free() as usize).min(self.slots.free())
    }

    /// A reference that is ours and unused was refused: the bus contradicts itself.
    #[cold]
    #[inline(never)]
    fn ungranted<B: Bus>(&mut self, bus: &B, gref: u32, error: Error) {
        self.distrust(bus, format_args!("grant {gref} for a packet: {error}"));
    }

    /// All of a packet as it is, in one request: its page is granted. The caller found room and a reference.
    #[inline]
    fn push_whole<B: Bus>(&mut self, bus: &B, index: u16, piece: Piece, flags: TxFlags) -> Step {
        let Self { entries, slots, link, stock, counters, in_flight, .. } = self;
        let (Some(link), Some(gref)) = (link, stock.pop()) else { return Step::Exhausted };
        let Some((_, id)) = slots.take(index, gref) else { return Step::Exhausted };
        if let Err(error) = bus.grant_access(gref, piece.frame, true) {
            self.ungranted(bus, gref, error);
            return Step::Exhausted;
        }
        let request = TxRequest { gref, offset: piece.offset, flags: flags.bits(), id, size: piece.len };
        if link.ring.push(&request.into()).is_ok() {
            *in_flight += 1;
            if let Some(entry) = entries.get_mut(usize::from(index)) {
                entry.outstanding += 1;
            }
        }
        counters.granted += 1;
        counters.packets += 1;
        counters.bytes += u64::from(piece.len);
        Step::Out
    }

    /// The head in a chunk of the pool, the pieces granted where they are.
    fn push_scattered<B: Bus>(
        &mut self,
        bus: &B,
        index: u16,
        head: &Head,
        len: u32,
        flags: TxFlags,
        extra: Option<Extra>,
    ) -> Step {
        if self.room() < 1 + self.pieces.0.len() + usize::from(extra.is_some()) {
            return Step::Exhausted;
        }
        let Self { slots, link, stock, pieces: Pieces(pieces), counters, .. } = self;
        let (Some(link), Some((slot, id))) = (link, slots.take(index, 0)) else { return Step::Exhausted };
        let at = usize::from(slot) * CHUNK;
        // Behind the head is nothing, or more of the packet: a length that is known here costs less than the exact one.
        match head.bytes.first_chunk::<HEAD>() {
            Some(short) if head.len <= HEAD => link.pool.copy_in(at, short),
            _ => link.pool.copy_in(at, &head.bytes),
        }
        let Some(gref) = link.pool_refs.get(at / PAGE).copied() else { return Step::Exhausted };
        let total = len - head.rest + head.len as u32;
        let mut more = if pieces.is_empty() { flags } else { flags | TxFlags::MORE_DATA };
        if extra.is_some() {
            more |= TxFlags::EXTRA_INFO;
        }
        let (offset, mut pushed) = ((at % PAGE) as u16, 0);
        let request = TxRequest { gref, offset, flags: more.bits(), id, size: total as u16 };
        pushed += u32::from(link.ring.push(&request.into()).is_ok());
        if let Some(extra) = extra {
            self.extras += u32::from(link.ring.push(&extra.encode(false).into()).is_ok());
        }
        let mut refused = None;
        let mut left = pieces.len();
        for piece in pieces.iter() {
            // Room, slots and references were counted before.
            let Some(gref) = stock.pop() else { break };
            let Some((_, id)) = slots.take(index, gref) else { break };
            if let Err(error) = bus.grant_access(gref, piece.frame, true) {
                refused = Some((gref, error));
                break;
            }
            left -= 1;
            let flags = if left > 0 { TxFlags::MORE_DATA } else { TxFlags::empty() };
            let request = TxRequest { gref, offset: piece.offset, flags: flags.bits(), id, size: piece.len };
            pushed += u32::from(link.ring.push(&request.into()).is_ok());
        }
        counters.granted += pieces.len() as u64;
        counters.copied += head.len as u64;
        self.in_flight += pushed;
        if let Some(entry) = self.entries.get_mut(usize::from(index)) {
            entry.outstanding += pushed as u16;
        }
        if let Some((gref, error)) = refused {
            self.ungranted(bus, gref, error);
        }
        self.count(total, extra);
        Step::Out
    }

    /// Everything copied into pages of the pool: the head and `count` bytes of the packet from where it ends.
    fn push_copied(&mut self, index: u16, head: &Head, count: u32, flags: TxFlags, extra: Option<Extra>) -> Step {
        let total = head.len + count as usize;
        let pages = total.div_ceil(PAGE);
        let scatter = self.link.as_ref().is_some_and(|link| link.abilities.scatter);
        if pages > if scatter { SLOTS_PER_PACKET.min(self.bounces_made) } else { 1 } {
            return Step::Refused(Status::Malformed);
        }
        if self.room() < pages + usize::from(extra.is_some()) || self.bounces.len() < pages {
            return Step::Exhausted;
        }
        if !self.copy_packet(index, head, count) {
            return Step::Refused(Status::Resources);
        }
        self.push_pages(index, total, flags, extra);
        self.counters.bounced += 1;
        self.count(total as u32, extra);
        Step::Out
    }

    /// Copies head and bytes into the pages that [`Queue::push_pages`] takes next.
    fn copy_packet(&mut self, index: u16, head: &Head, count: u32) -> bool {
        let Self { entries, link, bounces, counters, .. } = self;
        let packet = entries.get_mut(usize::from(index)).and_then(|entry| entry.packet.as_mut());
        let (Some(packet), Some(link)) = (packet, link) else { return false };
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            let mut bytes = bytes;
            while !bytes.is_empty() {
                // The last page of the stack is taken first.
                let Some(page) = (bounces.len()).checked_sub(at / PAGE + 1).and_then(|page| bounces.get(page)) else {
                    return;
                };
                let (here, rest) = bytes.split_at(bytes.len().min(PAGE - at % PAGE));
                link.pool.copy_in(usize::from(*page) * PAGE + at % PAGE, here);
                at += here.len();
                bytes = rest;
            }
        };
        put(head.bytes.get(..head.len).unwrap_or(&[]));
        let done = for_bytes(packet, head.rest, count, put);
        counters.copied += head.len as u64 + u64::from(count);
        done
    }

    /// Requests for `total` bytes in pages from the top of the stack.
    fn push_pages(&mut self, index: u16, total: usize, flags: TxFlags, extra: Option<Extra>) {
        let mut left = total;
        let mut first = true;
        while left > 0 {
            let here = left.min(PAGE);
            left -= here;
            let Some(page) = self.bounces.pop() else { return };
            let Some((slot, id)) = self.take_slot(index) else { return };
            self.slots.bounce(slot, page);
            let Some(gref) = self.link.as_ref().and_then(|link| link.pool_refs.get(usize::from(page)).copied()) else {
                return;
            };
            let more = if left > 0 { TxFlags::MORE_DATA } else { TxFlags::empty() };
            if first {
                let flags = (flags | more).bits();
                self.push_first(&TxRequest { gref, offset: 0, flags, id, size: total as u16 }, extra);
                first = false;
            } else {
                self.push_request(&TxRequest { gref, offset: 0, flags: more.bits(), id, size: here as u16 });
            }
        }
    }

    /// The next segment of a packet that the backend does not cut.
    fn emit_segment(&mut self, index: u16, head: &Head, size: u16) -> Step {
        let Some(headers) = head.headers else { return Step::Refused(Status::Malformed) };
        let Some(entry) = self.entries.get_mut(usize::from(index)) else { return Step::Out };
        let Some(packet) = entry.packet.as_mut() else { return Step::Out };
        let (offload, payload) = (packet.offload(), packet.len() - u32::from(headers.len));
        let Some(segment) = segment::at(entry.issued, payload, size) else { return Step::Out };
        let Some(mut head) = head.of_segment(&segment) else { return Step::Refused(Status::Malformed) };
        let Some(abilities) = self.link.as_ref().map(|link| link.abilities) else { return Step::Exhausted };
        let upper = u32::from(headers.len - headers.transport) + segment.len;
        let mut flags = TxFlags::empty();
        if abilities.checksum(headers.version) && head.pseudo(upper) {
            flags = BLANK;
        } else {
            let rest = head.rest;
            if !head.checksum(upper, |sum, count| for_bytes(packet, rest, count, |bytes| sum.add(bytes))) {
                return Step::Refused(Status::Resources);
            }
        }
        if let Some(tag) = offload.vlan {
            head.insert_tag(tag);
        }
        match self.push_copied(index, &head, segment.len, flags, None) {
            Step::Out => {}
            other => return other,
        }
        self.counters.segments += 1;
        let Segment { offset, len, last, .. } = segment;
        if let Some(entry) = self.entries.get_mut(usize::from(index)) {
            entry.issued = offset + len;
        }
        if last { Step::Out } else { Step::Part }
    }

    /// The packet's first request, and its extra.
    fn push_first(&mut self, request: &TxRequest, extra: Option<Extra>) {
        match extra {
            None => self.push_request(request),
            Some(extra) => {
                let flags = request.flags | TxFlags::EXTRA_INFO.bits();
                self.push_request(&TxRequest { flags, ..*request });
                self.push_extra(extra);
            }
        }
    }

    /// An extra behind the request pushed last.
    pub(super) fn push_extra(&mut self, extra: Extra) {
        if let Some(link) = &mut self.link
            && link.ring.push(&extra.encode(false).into()).is_ok()
        {
            self.extras += 1;
        }
    }

    /// Puts a request on the ring, where the caller found room for it.
    pub(super) fn push_request(&mut self, request: &TxRequest) {
        if let Some(link) = &mut self.link
            && link.ring.push(&(*request).into()).is_ok()
        {
            self.in_flight += 1;
        }
    }

    fn count(&mut self, bytes: u32, extra: Option<Extra>) {
        self.counters.packets += 1;
        self.counters.bytes += u64::from(bytes);
        self.counters.large += u64::from(extra.is_some());
    }
}

const _: () = assert!(MOST <= CHUNK);
