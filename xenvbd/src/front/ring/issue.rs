//! Requests on their way out: split into parts, granted, written into the ring.

use xen_abi::blkif::{self, Command, Direction, Segment, Segments};
use xenbus::{client::Bus, pages::Memory};

use super::{NONE, PAGE, Ring, SECTOR, Tables};
use crate::front::{
    config::FlushBy,
    io::{Entry, Io, Kind, Request, Status},
};

/// What became of an attempt to hand out the next part.
enum Step {
    Pushed,
    /// Pushed, and that was the last.
    Last,
    /// There are no bounce pages at the moment.
    Parked,
    Exhausted,
    /// Nothing is left to hand out.
    AllOut,
}

impl<R: Request, M: Memory, T: Tables<R>> Ring<R, M, T> {
    /// Hands out parts while there is room. True: notify the backend.
    pub(super) fn pump<B: Bus>(&mut self, bus: &B) -> bool {
        if self.gone || self.broken || !self.link.as_ref().is_some_and(|link| link.running) {
            return false;
        }
        if self.queue.head().is_none() && self.parked.head().is_none() {
            // What was pushed before is published.
            return false;
        }
        while let Some(index) = self.next_request() {
            if self.ordered != NONE && self.ordered != index {
                break;
            }
            match self.next_part(bus, index) {
                Step::Pushed => {}
                Step::Last => {
                    self.queue.pop(&mut self.tables);
                }
                Step::Parked => {
                    self.queue.pop(&mut self.tables);
                    self.parked.push(&mut self.tables, index);
                }
                Step::Exhausted => break,
                Step::AllOut => {
                    self.queue.pop(&mut self.tables);
                    let idle = |entry: &Entry<R>| entry.outstanding == 0 && entry.held == 0;
                    if self.tables.entries().get(usize::from(index)).is_some_and(idle) {
                        self.finished.push(&mut self.tables, index);
                    }
                }
            }
        }
        let waits = |ring: &Self| ring.queue.head().is_some() || ring.parked.head().is_some();
        if self.in_flight == 0 && self.held_used == 0 && waits(self) {
            // Nothing will come back that could be waited for.
            self.distrust(bus, format_args!("the backend kept everything that I/O needs"));
        }
        self.link.as_mut().is_some_and(|link| link.ring.publish())
    }

    /// The request to hand out next: those that waited for bounce pages come first once there are some.
    fn next_request(&mut self) -> Option<u16> {
        if self.parked.head().is_some()
            && self.bounces > 0
            && let Some(index) = self.parked.pop(&mut self.tables)
        {
            self.queue.push_front(&mut self.tables, index);
        }
        self.queue.head()
    }

    fn next_part<B: Bus>(&mut self, bus: &B, index: u16) -> Step {
        let Some(entry) = self.tables.entries().get_mut(usize::from(index)) else { return Step::AllOut };
        let outstanding = entry.outstanding;
        let Some(io) = entry.request.as_ref().map(|request| *request.io()) else { return Step::AllOut };
        if io.status != Status::Done || io.all_out() {
            return Step::AllOut;
        }
        if io.ordered && self.ordered == NONE {
            let before = self.in_flight > u32::from(outstanding) || self.held_used > 0 || self.parked.head().is_some();
            if before {
                return Step::Exhausted;
            }
            self.ordered = index;
        }
        if self.free_slots == NONE {
            return Step::Exhausted;
        }
        if self.bounces == 0 && io.bounces() {
            return Step::Parked;
        }
        let pushed = if io.flushing || io.kind == Kind::Flush {
            self.push_flush(index)
        } else {
            match io.kind {
                Kind::Discard => self.push_discard(index, &io),
                _ => self.push_transfer(bus, index, &io),
            }
        };
        match pushed {
            Some(true) => {
                // A part of it is out, so its answer will finish it.
                let entry = self.tables.entries().get(usize::from(index));
                let last = entry.is_some_and(|entry| {
                    entry.outstanding > 0 && entry.request.as_ref().is_some_and(|request| request.io().all_out())
                });
                if last { Step::Last } else { Step::Pushed }
            }
            Some(false) => Step::Exhausted,
            None => {
                // The request cannot be carried out: its owner has no memory or no range behind it.
                self.fail_entry(index);
                Step::AllOut
            }
        }
    }

    /// Marks a request that cannot be carried out.
    fn fail_entry(&mut self, index: u16) {
        if let Some(request) =
            self.tables.entries().get_mut(usize::from(index)).and_then(|entry| entry.request.as_mut())
        {
            request.io_mut().status = Status::Unsupported;
        }
    }

    /// Takes a slot for a part; the caller pushes it.
    fn take_slot(&mut self, entry: u16, offset: u32, sectors: u32) -> Option<(u16, u64)> {
        let index = self.free_slots;
        let slot = self.tables.slots().get_mut(usize::from(index))?;
        self.free_slots = slot.next;
        slot.busy = true;
        slot.entry = entry;
        slot.indirect = NONE;
        slot.bounce = NONE;
        slot.refs = 0;
        slot.offset = offset;
        slot.sectors = sectors;
        slot.sequence = slot.sequence.wrapping_add(1);
        let id = (u64::from(slot.sequence) << 16) | u64::from(index);
        self.tables.entries().get_mut(usize::from(entry))?.outstanding += 1;
        Some((index, id))
    }

    /// Puts a part's command on the ring. There is a slot of ours for each of the ring's and no more, so that has room.
    pub(super) fn push(&mut self, slot: u16, id: u64, command: &Command, issued: u32) -> Option<bool> {
        let request = blkif::Request { id, handle: self.handle, command: *command };
        let state = self.tables.slots().get_mut(usize::from(slot))?;
        state.operation = command.answered_as();
        let index = state.entry;
        self.link.as_mut()?.ring.push(&request.encode()).ok()?;
        self.in_flight += 1;
        let entry = self.tables.entries().get_mut(usize::from(index))?;
        entry.request.as_mut()?.io_mut().issued += issued;
        Some(true)
    }

    fn push_flush(&mut self, index: u16) -> Option<bool> {
        let command = match self.flush_by()? {
            FlushBy::Flush => Command::Flush,
            FlushBy::Barrier => Command::Barrier { sector: 0, segments: Segments::new() },
        };
        let Some((slot, id)) = self.take_slot(index, 0, 0) else { return Some(false) };
        self.push(slot, id, &command, 1)
    }

    fn push_discard(&mut self, index: u16, io: &Io) -> Option<bool> {
        let request = self.tables.entries().get_mut(usize::from(index))?.request.as_ref()?;
        let (sector, sector_count) = request.discard(io.issued)?;
        if sector_count == 0 {
            // Nothing to do for this range; the last range has to be a part, or nobody would finish the request.
            if io.issued + 1 < io.count {
                let entry = self.tables.entries().get_mut(usize::from(index))?;
                entry.request.as_mut()?.io_mut().issued += 1;
                return Some(true);
            }
            let Some((slot, id)) = self.take_slot(index, 0, 0) else { return Some(false) };
            let command = Command::Discard { sector: 0, sector_count: 0, secure: false };
            return self.push(slot, id, &command, 1);
        }
        let Some((slot, id)) = self.take_slot(index, 0, 0) else { return Some(false) };
        self.push(slot, id, &Command::Discard { sector, sector_count, secure: false }, 1)
    }

    /// Hands out the next part of a read, write or verify. None: the buffer is shorter than the request.
    fn push_transfer<B: Bus>(&mut self, bus: &B, index: u16, io: &Io) -> Option<bool> {
        let left = io.count - io.issued;
        let (limit, indirect) = self.part_limit(io, left);
        if limit == 0 {
            return Some(false);
        }
        let bounce = if io.bounces() {
            let Some(group) = self.take_bounce() else { return Some(false) };
            group
        } else {
            NONE
        };
        let Some((slot, id)) = self.take_slot(index, io.issued, 0) else {
            self.put_bounce(bounce);
            return Some(false);
        };
        let indirect = if indirect { self.take_indirect() } else { NONE };
        if let Some(state) = self.tables.slots().get_mut(usize::from(slot)) {
            state.indirect = indirect;
            state.bounce = bounce;
        }
        let mut inline = Segments::new();
        let sectors = self.grant_part(bus, index, slot, io, limit, &mut inline);
        let Some(sectors) = sectors.filter(|sectors| *sectors > 0) else {
            self.retire(bus, slot, false);
            return None;
        };
        let direction = if io.kind == Kind::Write { Direction::Write } else { Direction::Read };
        let sector = io.sector + u64::from(io.issued);
        let state = self.tables.slots().get_mut(usize::from(slot))?;
        state.sectors = sectors;
        let segment_count = state.refs;
        let command = match self.tables.indirects().get(usize::from(indirect)) {
            Some(page) => {
                let mut pages = [0; blkif::MAX_INDIRECT_PAGES];
                pages[0] = page.reference;
                Command::Indirect { direction, sector, segment_count, pages }
            }
            None => Command::Rw { direction, sector, segments: inline },
        };
        self.push(slot, id, &command, sectors)
    }

    /// How many segments the next part may have, and whether it goes indirect.
    fn part_limit(&mut self, io: &Io, left: u32) -> (usize, bool) {
        let stock = self.stock_used;
        if io.bounces() {
            return (stock.min(self.group_pages), false);
        }
        let direct = blkif::MAX_SEGMENTS;
        let most = self.link.as_ref().map_or(0, |link| usize::from(link.abilities.indirect));
        // Sectors left do not say how many pages they lie in; one more than whole pages is the most.
        let wanted = left.div_ceil(PAGE / SECTOR) as usize + 1;
        if wanted > direct && most > direct && self.free_indirects != NONE && stock > direct {
            (stock.min(most), true)
        } else {
            (stock.min(direct), false)
        }
    }

    /// Grants the pages of a part, up to `limit`. How many sectors they make: 0 or None where the buffer ends too
    /// early.
    fn grant_part<B: Bus>(
        &mut self,
        bus: &B,
        index: u16,
        slot: u16,
        io: &Io,
        limit: usize,
        inline: &mut Segments,
    ) -> Option<u32> {
        let per_page = PAGE / SECTOR;
        let mut sectors = 0;
        for number in 0..limit {
            let left = io.count - io.issued - sectors;
            if left == 0 {
                break;
            }
            let bounce = self.tables.slots().get(usize::from(slot))?.bounce;
            let (frame, first, count) = if bounce == NONE {
                let offset = (io.issued + sectors).checked_mul(SECTOR)?;
                let request = self.tables.entries().get_mut(usize::from(index))?.request.as_mut()?;
                let run = request.run(offset)?;
                let first = (run.address % u64::from(PAGE)) as u32 / SECTOR;
                let count = (run.bytes / SECTOR).min(per_page - first).min(left);
                if count == 0 || !run.address.is_multiple_of(u64::from(SECTOR)) {
                    return None;
                }
                (run.address / u64::from(PAGE), first, count)
            } else {
                let count = per_page.min(left);
                let page = self.bounce_page(bounce, number);
                let frame = self.pool.as_ref()?.frame(page)?;
                if io.kind == Kind::Write {
                    self.copy_out(index, page, io.issued + sectors, count)?;
                }
                (frame, 0, count)
            };
            let reference = self.draw()?;
            if bus.grant_access(reference, frame, io.kind == Kind::Write).is_err() {
                self.deposit(reference);
                return None;
            }
            let segment = Segment::new(reference, first as u8, (first + count - 1) as u8)?;
            self.record(slot, number, reference, segment, inline)?;
            sectors += count;
        }
        Some(sectors)
    }

    /// Writes a segment into the slot or the indirect page, and remembers its reference privately.
    fn record(
        &mut self,
        slot: u16,
        number: usize,
        reference: u32,
        segment: Segment,
        inline: &mut Segments,
    ) -> Option<()> {
        let state = self.tables.slots().get_mut(usize::from(slot))?;
        state.refs += 1;
        let indirect = usize::from(state.indirect);
        if state.indirect == NONE {
            *state.direct.get_mut(number)? = reference;
            return inline.push(segment).then_some(());
        }
        *self.tables.indirects().get_mut(indirect)?.refs.get_mut(number)? = reference;
        let raw = segment.encode();
        let mut bytes = [0; 8];
        let (head, tail) = bytes.split_at_mut(4);
        head.copy_from_slice(&raw.gref.to_le_bytes());
        tail.copy_from_slice(&[raw.first_sector, raw.last_sector, 0, 0]);
        self.pool.as_ref()?.write(indirect * PAGE as usize + number * bytes.len(), &bytes);
        Some(())
    }

    fn copy_out(&mut self, index: u16, page: usize, sector: u32, count: u32) -> Option<()> {
        let request = self.tables.entries().get_mut(usize::from(index))?.request.as_mut()?;
        let bytes = request.bytes(sector.checked_mul(SECTOR)?, count * SECTOR)?;
        let pool = self.pool.as_ref()?;
        let at = page * PAGE as usize;
        pool.write(at, bytes);
        // What is left of the page is not the backend's business.
        let zeros = [0; SECTOR as usize];
        for rest in count..PAGE / SECTOR {
            pool.write(at + (rest * SECTOR) as usize, &zeros);
        }
        Some(())
    }
}
