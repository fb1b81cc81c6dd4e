//! From a packet to requests in the ring: all of a packet's, or none.

use xen_abi::netif::{Extra, MAX_TX_SIZE, SLOTS_PER_PACKET, TxFlags, TxRequest};
use xenbus::{client::Bus, pages::Memory};

use super::{
    CHUNK, Queue,
    head::{Head, Work},
    table::Status,
};
use crate::front::{
    PAGE, Packet,
    headers::{MOST, TAG},
    segment::{self, Segment},
};

/// Bytes copied at a time where a packet cannot be granted.
const PIECE: usize = 512;

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

/// Part of a page of the packet's.
#[derive(Clone, Copy)]
struct Piece {
    frame: u64,
    offset: u16,
    len: u16,
}

/// The pages behind a packet's head.
struct Pieces {
    list: [Piece; SLOTS_PER_PACKET - 1],
    count: usize,
}

impl Pieces {
    /// The pages from `from` on. None: more than there are slots for, or `run` has no answer.
    fn of<P: Packet>(packet: &mut P, from: u32) -> Option<Self> {
        let mut pieces = Self { list: [Piece { frame: 0, offset: 0, len: 0 }; SLOTS_PER_PACKET - 1], count: 0 };
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
                pieces.add(address / PAGE as u64, offset as u16, here as u16)?;
                address += u64::from(here);
                left -= here;
            }
        }
        Some(pieces)
    }

    fn add(&mut self, frame: u64, offset: u16, len: u16) -> Option<()> {
        if let Some(last) = self.count.checked_sub(1).and_then(|last| self.list.get_mut(last))
            && last.frame == frame
            && last.offset + last.len == offset
        {
            last.len += len;
            return Some(());
        }
        *self.list.get_mut(self.count)? = Piece { frame, offset, len };
        self.count += 1;
        Some(())
    }

    fn list(&self) -> &[Piece] {
        self.list.get(..self.count).unwrap_or(&[])
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
    pub(super) fn emit<B: Bus>(&mut self, bus: &B, index: u16) -> Step {
        let Some(abilities) = self.link.as_ref().map(|link| link.abilities) else { return Step::Exhausted };
        if self.room() == 0 {
            return Step::Exhausted;
        }
        let Some(entry) = self.entries.get_mut(usize::from(index)) else { return Step::Out };
        if entry.status != Status::Sent {
            // A segment of it failed: the others need not be sent.
            return Step::Refused(entry.status);
        }
        let issued = entry.issued;
        let Some(packet) = entry.packet.as_mut() else { return Step::Out };
        let (len, offload) = (packet.len(), packet.offload());
        let mut head = match Head::read(packet) {
            Ok(head) => head,
            Err(status) => return Step::Refused(status),
        };
        if issued == 0 && offload.vlan.is_none() {
            self.learned.note(head.bytes.get(..head.len).unwrap_or(&[]), head.headers.as_ref());
        }
        let work = match head.prepare(len, &offload, abilities) {
            Ok(work) => work,
            Err(status) => return Step::Refused(status),
        };
        if let Work::Segments(size) = work {
            return self.emit_segment(index, &head, size);
        }
        let tag = if offload.vlan.is_some() { TAG as u32 } else { 0 };
        if len.saturating_add(tag) > MAX_TX_SIZE {
            return Step::Refused(Status::Malformed);
        }
        let Some(packet) = self.entries.get_mut(usize::from(index)).and_then(|entry| entry.packet.as_mut()) else {
            return Step::Out;
        };
        if work == Work::Checksum {
            let (upper, rest) = (head.upper(len), head.rest);
            let filled = head.checksum(upper, |sum, count| for_bytes(packet, rest, count, |bytes| sum.add(bytes)));
            if !filled {
                return Step::Refused(Status::Resources);
            }
            self.counters.checksummed += 1;
        }
        if let Some(tag) = offload.vlan {
            head.insert_tag(tag);
        }
        let (flags, extra) = match work {
            Work::Blank => (TxFlags::CSUM_BLANK | TxFlags::DATA_VALIDATED, None),
            Work::Large(kind, size) => (TxFlags::CSUM_BLANK | TxFlags::DATA_VALIDATED, Some(Extra::Gso { kind, size })),
            _ => (TxFlags::empty(), None),
        };
        // Nothing but the copy: neither grants nor pages are needed.
        if head.rest >= len && head.len <= CHUNK {
            return self.push_scattered(bus, index, &head, len, flags, extra, &[]);
        }
        if abilities.scatter
            && abilities.trusted
            && let Some(pieces) = Pieces::of(packet, head.rest)
        {
            let enough = self.stock.len() >= pieces.count;
            if enough || self.in_flight > 0 {
                return if enough {
                    self.push_scattered(bus, index, &head, len, flags, extra, pieces.list())
                } else {
                    Step::Exhausted
                };
            }
            // The peer keeps so many grants that this would wait for ever.
        }
        let count = len - head.rest;
        self.push_copied(index, &head, count, flags, extra)
    }

    /// Requests that still have room, each with a slot of our own.
    fn room(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.ring.free() as usize).min(self.free_count)
    }

    /// The head in a chunk of the pool, the pieces granted where they are.
    #[expect(clippy::too_many_arguments, reason = "what a packet's requests are made of")]
    fn push_scattered<B: Bus>(
        &mut self,
        bus: &B,
        index: u16,
        head: &Head,
        len: u32,
        flags: TxFlags,
        extra: Option<Extra>,
        pieces: &[Piece],
    ) -> Step {
        if self.room() < 1 + pieces.len() + usize::from(extra.is_some()) {
            return Step::Exhausted;
        }
        let total = len - head.rest + head.len as u32;
        let Some((slot, id)) = self.take_slot(index) else { return Step::Exhausted };
        let at = usize::from(slot) * CHUNK;
        let Some(link) = &self.link else { return Step::Exhausted };
        link.pool.write(at, head.bytes.get(..head.len).unwrap_or(&[]));
        let Some(gref) = link.pool_refs.get(at / PAGE).copied() else { return Step::Exhausted };
        let more = if pieces.is_empty() { TxFlags::empty() } else { TxFlags::MORE_DATA };
        let offset = (at % PAGE) as u16;
        self.push_first(&TxRequest { gref, offset, flags: (flags | more).bits(), id, size: total as u16 }, extra);
        for (number, piece) in pieces.iter().enumerate() {
            // Room, slots and references were counted before.
            let Some((slot, id)) = self.take_slot(index) else { break };
            let Some(gref) = self.stock.pop() else { break };
            if let Some(state) = self.slots.get_mut(usize::from(slot)) {
                state.reference = gref;
            }
            if let Err(error) = bus.grant_access(gref, piece.frame, true) {
                // The reference is ours and unused: the bus would have to contradict itself.
                self.distrust(bus, format_args!("grant {gref} for a packet: {error}"));
            }
            let more = if number + 1 < pieces.len() { TxFlags::MORE_DATA } else { TxFlags::empty() };
            self.push_request(&TxRequest { gref, offset: piece.offset, flags: more.bits(), id, size: piece.len });
        }
        self.counters.granted += pieces.len() as u64;
        self.counters.copied += head.len as u64;
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
                link.pool.write(usize::from(*page) * PAGE + at % PAGE, here);
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
            if let Some(state) = self.slots.get_mut(usize::from(slot)) {
                state.bounce = page;
            }
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
            flags = TxFlags::CSUM_BLANK | TxFlags::DATA_VALIDATED;
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
