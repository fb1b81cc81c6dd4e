//! Responses: checked, matched to what is out, and what then has ended.

use xen_abi::{blkif, ring::RingError};
use xenbus::{client::Bus, pages::Memory};

use super::{NONE, PAGE, Rearm, Ring, SECTOR, Slot, Tables};
use crate::front::io::{Entry, Request, Status};

impl<R: Request, M: Memory, T: Tables<R>> Ring<R, M, T> {
    /// Takes responses, at most `budget` of them, until a request is finished: that request and how it ended. None:
    /// nothing is finished; call [`Ring::rearm`] before waiting for an event. IRQL <= DISPATCH_LEVEL.
    pub fn take_finished<B: Bus>(&mut self, bus: &B, budget: &mut u32) -> Option<(R, Status)> {
        if self.held_used > 0 {
            self.retry_held(bus);
        }
        if self.gone {
            return self.take_failed(bus);
        }
        while let Some(index) = self.finished.pop(&mut self.tables) {
            if let Some(finished) = self.settle(index) {
                return Some(finished);
            }
        }
        while *budget > 0 && !self.broken {
            let link = self.link.as_mut()?;
            let response = match link.ring.take() {
                Ok(Some(response)) => response,
                Ok(None) => break,
                Err(error) => {
                    self.break_ring(bus, error);
                    return None;
                }
            };
            *budget -= 1;
            let Some(index) = self.check(&response) else {
                let blkif::RawResponse { id, operation, .. } = response;
                self.distrust(bus, format_args!("response id {id:#x}, operation {operation}: no such request is out"));
                return None;
            };
            if let Some(finished) = self.part_done(bus, index, response.status) {
                return Some(finished);
            }
        }
        None
    }

    /// After [`Ring::take_finished`] had nothing: hands out what waits and asks for an event with the next response.
    /// `more`: responses came meanwhile, look again. `notify`: tell the backend. IRQL <= DISPATCH_LEVEL.
    pub fn rearm<B: Bus>(&mut self, bus: &B) -> Rearm {
        let notify = self.pump(bus);
        if self.gone || self.broken {
            // What could be failed was taken already, and the peer's indices are not looked at any more.
            return Rearm { notify, more: self.finished.head().is_some() };
        }
        let more = match self.link.as_mut().map(|link| link.ring.final_check()) {
            Some(Ok(more)) => more,
            Some(Err(error)) => {
                self.break_ring(bus, error);
                false
            }
            None => false,
        };
        Rearm { notify, more: more || self.finished.head().is_some() }
    }

    fn break_ring<B: Bus>(&mut self, bus: &B, error: RingError) {
        let (index, taken, asked) = self.link.as_ref().map_or((0, 0, 0), |link| link.ring.refused());
        let range = format_args!("rsp_prod {index:#x}, not within {taken:#x}..={asked:#x}");
        self.distrust(bus, format_args!("{error}: {range}"));
    }

    /// The slot that a response belongs to. None: it names no slot in flight, or another operation.
    fn check(&mut self, response: &blkif::RawResponse) -> Option<u16> {
        let index = (response.id & 0xffff) as usize;
        let slot = self.tables.slots().get(index)?;
        let right = slot.busy && response.id >> 16 == u64::from(slot.sequence) && response.operation == slot.operation;
        right.then_some(index as u16)
    }

    /// A part was answered: its grants are ended, its pages and its slot freed. The request, if that was the last of
    /// it.
    fn part_done<B: Bus>(&mut self, bus: &B, slot: u16, status: i16) -> Option<(R, Status)> {
        let Slot { operation, entry, .. } = *self.tables.slots().get(usize::from(slot))?;
        self.retire(bus, slot, status == blkif::RSP_OKAY);
        self.in_flight = self.in_flight.saturating_sub(1);
        if status == blkif::RSP_EOPNOTSUPP
            && let Some(link) = &mut self.link
        {
            match operation {
                // Flush not known after all: a barrier may be.
                blkif::OP_FLUSH | blkif::OP_WRITE_BARRIER => link.abilities.flush = None,
                _ => {}
            }
        }
        let io = self.tables.entries().get_mut(usize::from(entry))?.request.as_mut()?.io_mut();
        if io.status == Status::Done {
            io.status = match status {
                blkif::RSP_OKAY => Status::Done,
                blkif::RSP_EOPNOTSUPP => Status::Unsupported,
                _ => Status::Error,
            };
        }
        self.settle(entry)
    }

    /// Finishes a request of which nothing is out and nothing is left, or sends its flush after it.
    fn settle(&mut self, index: u16) -> Option<(R, Status)> {
        let entry = self.tables.entries().get_mut(usize::from(index))?;
        if entry.outstanding > 0 || entry.held > 0 || entry.queued {
            return None;
        }
        let io = entry.request.as_mut()?.io_mut();
        if io.force && !io.flushing && io.status == Status::Done {
            io.flushing = true;
            io.issued = 0;
            self.queue.push_front(&mut self.tables, index);
            return None;
        }
        self.remove(index)
    }

    fn remove(&mut self, index: u16) -> Option<(R, Status)> {
        let free = self.free_entries;
        let entry = self.tables.entries().get_mut(usize::from(index))?;
        let request = entry.request.take()?;
        entry.next = free;
        self.free_entries = index;
        if self.ordered == index {
            self.ordered = NONE;
        }
        let status = request.io().status;
        Some((request, status))
    }

    /// One request that ends because the disk is gone, and has no page with the peer.
    fn take_failed<B: Bus>(&mut self, bus: &B) -> Option<(R, Status)> {
        for index in 0..self.tables.slots().len() {
            let Some(slot) = self.tables.slots().get(index).filter(|slot| slot.busy) else { continue };
            let owner = usize::from(slot.entry);
            self.retire(bus, index as u16, false);
            if let Some(request) = self.tables.entries().get_mut(owner).and_then(|entry| entry.request.as_mut()) {
                request.io_mut().status = Status::Gone;
            }
        }
        self.in_flight = 0;
        for queue in [&mut self.queue, &mut self.parked, &mut self.finished] {
            while queue.pop(&mut self.tables).is_some() {}
        }
        let free = |entry: &Entry<R>| entry.request.is_some() && entry.held == 0;
        let index = self.tables.entries().iter().position(free)?;
        // Some have all their answers and only waited for a page to come back.
        let complete = self.tables.entries().get(index).is_some_and(Entry::is_complete);
        let (request, status) = self.remove(index as u16)?;
        Some((request, if complete { status } else { Status::Gone }))
    }

    pub(super) fn copy_in(&mut self, slot: u16) {
        let Some(part) = self.tables.slots().get(usize::from(slot)).copied() else { return };
        let first = self.bounce_page(part.bounce, 0);
        let Self { tables, pool, .. } = self;
        let request = tables.entries().get_mut(usize::from(part.entry)).and_then(|entry| entry.request.as_mut());
        if let (Some(request), Some(pool)) = (request, pool)
            && let Some(offset) = part.offset.checked_mul(SECTOR)
            && let Some(bytes) = request.bytes(offset, part.sectors * SECTOR)
        {
            pool.read(first * PAGE as usize, bytes);
        }
    }
}
