//! What goes in and out of the books: slots, references, indirect and bounce pages, pages that are held.

use xen_abi::blkif;
use xenbus::{
    client::{Bus, Error},
    interface::LogLevel,
    pages::Memory,
};

use super::{Held, NONE, Ring, Slot, Tables};
use crate::front::io::{Kind, Request};

impl<R: Request, M: Memory, T: Tables<R>> Ring<R, M, T> {
    pub(super) fn bounce_page(&mut self, group: u16, number: usize) -> usize {
        self.tables.indirects().len() + usize::from(group) * self.group_pages + number
    }

    /// Ends a part's grants and frees its slot and pages. `copy`: its data came, and a bounced read is copied.
    pub(super) fn retire<B: Bus>(&mut self, bus: &B, slot: u16, copy: bool) {
        let Some(part) = self.tables.slots().get(usize::from(slot)) else { return };
        let Slot { entry: owner, indirect, bounce, refs, .. } = *part;
        let own = bounce != NONE;
        let mut own_kept = false;
        for number in 0..usize::from(refs) {
            let reference = if indirect == NONE {
                self.tables.slots().get(usize::from(slot)).and_then(|part| part.direct.get(number).copied())
            } else {
                self.tables.indirects().get(usize::from(indirect)).and_then(|page| page.refs.get(number).copied())
            };
            let Some(reference) = reference else { break };
            match bus.grant_end(reference) {
                Ok(()) => self.deposit(reference),
                Err(_) if own => own_kept = true,
                Err(error) => self.hold(bus, owner, reference, error),
            }
        }
        if own {
            let request = self.tables.entries().get(usize::from(owner)).and_then(|entry| entry.request.as_ref());
            if copy && request.is_some_and(|request| request.io().kind == Kind::Read) {
                self.copy_in(slot);
            }
            if own_kept {
                // The pages of the group are the peer's; nobody else gets them. The references are lost with them.
                bus.log(LogLevel::Warning, format_args!("the backend keeps a bounce page: it is given up"));
                self.pool_leaks = true;
                self.lost_groups |= 1 << (bounce & 15);
            } else {
                self.put_bounce(bounce);
            }
        }
        if indirect != NONE {
            let free = self.free_indirects;
            if let Some(page) = self.tables.indirects().get_mut(usize::from(indirect)) {
                page.next = free;
                self.free_indirects = indirect;
            }
        }
        if let Some(entry) = self.tables.entries().get_mut(usize::from(owner)) {
            entry.outstanding = entry.outstanding.saturating_sub(1);
        }
        let free = self.free_slots;
        if let Some(state) = self.tables.slots().get_mut(usize::from(slot)) {
            // What else is in it is written when it is taken.
            state.busy = false;
            state.next = free;
            self.free_slots = slot;
        }
    }

    /// The peer keeps a page of Windows': its request stays here until it lets go.
    fn hold<B: Bus>(&mut self, bus: &B, entry: u16, reference: u32, error: Error) {
        self.distrust(bus, format_args!("grant {reference} of an answered request: {error}"));
        let used = self.held_used;
        if let Some(place) = self.tables.held().get_mut(used) {
            *place = Held { reference, entry };
            self.held_used += 1;
        }
        if let Some(owner) = self.tables.entries().get_mut(usize::from(entry)) {
            owner.held += 1;
        }
    }

    /// Looks whether the peer let go of pages meanwhile.
    pub(super) fn retry_held<B: Bus>(&mut self, bus: &B) {
        let mut index = 0;
        while index < self.held_used {
            let Some(held) = self.tables.held().get(index).copied() else { return };
            if bus.grant_end(held.reference).is_err() {
                index += 1;
                continue;
            }
            bus.grant_free(&[held.reference]);
            if let Some(owner) = self.tables.entries().get_mut(usize::from(held.entry)) {
                owner.held = owner.held.saturating_sub(1);
                if owner.held == 0 && owner.outstanding == 0 && !owner.queued {
                    let queue = if core::mem::take(&mut owner.redo) { &mut self.queue } else { &mut self.finished };
                    queue.push(&mut self.tables, held.entry);
                }
            }
            self.held_used -= 1;
            let last = self.held_used;
            self.tables.held().swap(index, last);
        }
    }

    /// Every request that is to be issued again goes back into the queue, in the order of arrival; those that are held
    /// follow when the peer lets go.
    pub(super) fn requeue(&mut self) {
        for queue in [&mut self.queue, &mut self.parked, &mut self.finished] {
            while queue.pop(&mut self.tables).is_some() {}
        }
        let mut after = None;
        loop {
            let next = self
                .tables
                .entries()
                .iter()
                .enumerate()
                .filter(|(_, entry)| entry.redo && after.is_none_or(|after| entry.arrival > after))
                .min_by_key(|(_, entry)| entry.arrival)
                .map(|(index, entry)| (index as u16, entry.arrival));
            let Some((index, arrival)) = next else { return };
            after = Some(arrival);
            if let Some(entry) = self.tables.entries().get_mut(usize::from(index)) {
                entry.outstanding = 0;
                entry.queued = false;
                if let Some(request) = &mut entry.request {
                    request.io_mut().rewind();
                }
                if entry.held > 0 {
                    continue;
                }
                entry.redo = false;
            }
            self.queue.push(&mut self.tables, index);
        }
    }

    pub(super) fn free_refs<B: Bus>(bus: &B, refs: &[u32]) {
        for reference in refs {
            // Those that were never granted end at once; nobody has mapped the others yet.
            if bus.grant_end(*reference).is_ok() {
                bus.grant_free(&[*reference]);
            }
        }
    }

    pub(super) fn draw(&mut self) -> Option<u32> {
        let top = self.stock_used.checked_sub(1)?;
        let reference = *self.tables.stock().get(top)?;
        self.stock_used = top;
        Some(reference)
    }

    pub(super) fn deposit(&mut self, reference: u32) {
        let top = self.stock_used;
        if let Some(place) = self.tables.stock().get_mut(top) {
            *place = reference;
            self.stock_used += 1;
        }
    }

    pub(super) fn lay_out_slots(&mut self) {
        let usable = self.link.as_ref().map_or(0, |link| link.ring.slots() as usize);
        let slots = self.tables.slots();
        let usable = usable.min(slots.len());
        for (index, slot) in slots.iter_mut().enumerate() {
            let next = if index + 1 < usable { index as u16 + 1 } else { NONE };
            // Sequence numbers go on: a response to an earlier ring is not mistaken for one of this.
            *slot = Slot { sequence: slot.sequence, next, ..Slot::FREE };
        }
        self.free_slots = if usable == 0 { NONE } else { 0 };
    }

    /// Grants the indirect pages, read-only and once, and lays the free lists out.
    pub(super) fn lay_out_pool<B: Bus>(&mut self, bus: &B) {
        self.free_indirects = NONE;
        let wanted = self.link.as_ref().is_some_and(|link| usize::from(link.abilities.indirect) > blkif::MAX_SEGMENTS);
        let pages = if wanted { self.tables.indirects().len() } else { 0 };
        for index in 0..pages {
            // Half of the stock stays for buffers.
            if self.stock_used <= self.stock_size / 2 {
                break;
            }
            let (Some(frame), Some(reference)) = (self.pool.as_ref().and_then(|pool| pool.frame(index)), self.draw())
            else {
                break;
            };
            if bus.grant_access(reference, frame, true).is_err() {
                self.deposit(reference);
                break;
            }
            let free = self.free_indirects;
            if let Some(page) = self.tables.indirects().get_mut(index) {
                page.reference = reference;
                page.next = free;
                self.free_indirects = index as u16;
            }
        }
        self.bounces = 0;
        let lost = self.lost_groups;
        for group in (0..self.bounce_groups).filter(|group| lost & (1 << group) == 0) {
            self.put_bounce(group);
        }
    }

    /// Ends the indirect pages' grants.
    pub(super) fn return_pool<B: Bus>(&mut self, bus: &B) {
        for index in 0..self.tables.indirects().len() {
            let Some(page) = self.tables.indirects().get_mut(index) else { return };
            let reference = core::mem::take(&mut page.reference);
            if reference == 0 {
                continue;
            }
            if bus.grant_end(reference).is_ok() {
                self.deposit(reference);
            } else {
                self.pool_leaks = true;
            }
        }
        self.free_indirects = NONE;
    }

    pub(super) fn take_indirect(&mut self) -> u16 {
        let index = self.free_indirects;
        match self.tables.indirects().get(usize::from(index)) {
            Some(page) => {
                self.free_indirects = page.next;
                index
            }
            None => NONE,
        }
    }

    pub(super) fn take_bounce(&mut self) -> Option<u16> {
        let top = self.bounces.checked_sub(1)?;
        let group = *self.free_bounces.get(usize::from(top))?;
        self.bounces = top;
        Some(group)
    }

    pub(super) fn put_bounce(&mut self, group: u16) {
        if group == NONE {
            return;
        }
        if let Some(place) = self.free_bounces.get_mut(usize::from(self.bounces)) {
            *place = group;
            self.bounces += 1;
        }
    }
}
