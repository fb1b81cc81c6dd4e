//! Keeping the books of a transmit queue: slots taken and freed, packets ended, held and put back into the queue.

use xenbus::{
    client::{Bus, Error},
    pages::Memory,
};

use super::{
    Queue,
    table::{Entry, Held, Slot, Status},
};
use crate::front::{NONE, Packet};

impl<P: Packet, M: Memory> Queue<P, M> {
    /// Finishes a packet of which nothing is out and nothing is left.
    #[inline]
    pub(super) fn settle(&mut self, index: u16) -> Option<(P, Status)> {
        let entry = self.entries.get(usize::from(index))?;
        if entry.outstanding > 0 || entry.held > 0 || entry.queued {
            return None;
        }
        self.remove(index)
    }

    #[inline]
    pub(super) fn remove(&mut self, index: u16) -> Option<(P, Status)> {
        let entry = self.entries.get_mut(usize::from(index))?;
        let packet = entry.packet.take()?;
        entry.next = self.free_entries;
        self.free_entries = index;
        Some((packet, entry.status))
    }

    /// One packet that ends because the device is gone, and has no page with the peer.
    pub(super) fn take_failed<B: Bus>(&mut self, bus: &B) -> Option<(P, Status)> {
        if self.in_flight > 0 {
            for index in 0..self.slots.len() {
                let Some(owner) = self.slots.busy(index as u16).map(|slot| slot.entry) else { continue };
                self.retire(bus, index as u16);
                if let Some(entry) = self.entries.get_mut(usize::from(owner)) {
                    entry.status = Status::Gone;
                }
            }
            self.in_flight = 0;
        }
        loop {
            let ended = self.finished.pop(&mut self.entries);
            let index = ended.or_else(|| self.waiting.pop(&mut self.entries)).or_else(|| {
                let free = |entry: &Entry<P>| entry.packet.is_some() && entry.held == 0;
                self.entries.iter().position(free).map(|index| index as u16)
            })?;
            let entry = self.entries.get_mut(usize::from(index))?;
            if ended.is_none() {
                entry.status = Status::Gone;
            }
            // A held one is taken when the peer lets go.
            if entry.held == 0 {
                return self.remove(index);
            }
        }
    }

    /// Takes a slot for a request of `entry`'s: its number and the request's id.
    pub(super) fn take_slot(&mut self, entry: u16) -> Option<(u16, u16)> {
        let taken = self.slots.take(entry, 0)?;
        if let Some(owner) = self.entries.get_mut(usize::from(entry)) {
            owner.outstanding += 1;
        }
        Some(taken)
    }

    /// Frees a slot, if it is taken, and what its request used.
    pub(super) fn retire<B: Bus>(&mut self, bus: &B, index: u16) {
        if let Some(slot) = self.slots.release(index) {
            self.retired(bus, slot);
        }
    }

    /// A slot was freed, and what its request used is free with it. A page that the peer keeps makes its packet held.
    #[inline]
    pub(super) fn retired<B: Bus>(&mut self, bus: &B, slot: Slot) {
        let Slot { entry, reference, bounce, .. } = slot;
        if bounce != NONE {
            self.bounces.push(bounce);
        }
        if let Some(owner) = self.entries.get_mut(usize::from(entry)) {
            owner.outstanding = owner.outstanding.saturating_sub(1);
        }
        if reference == 0 {
            return;
        }
        match bus.grant_end(reference) {
            Ok(()) => self.stock.push(reference),
            Err(error) => self.hold(bus, entry, reference, error),
        }
    }

    /// The peer keeps a page of a packet's: the packet stays here until it lets go.
    #[cold]
    pub(super) fn hold<B: Bus>(&mut self, bus: &B, entry: u16, reference: u32, error: Error) {
        self.distrust(bus, format_args!("grant {reference} of an answered request: {error}"));
        self.held.push(Held { reference, entry });
        if let Some(owner) = self.entries.get_mut(usize::from(entry)) {
            owner.held += 1;
        }
    }

    /// Looks whether the peer let go of pages meanwhile.
    pub(super) fn retry_held<B: Bus>(&mut self, bus: &B) {
        let mut index = 0;
        while let Some(held) = self.held.get(index).copied() {
            if bus.grant_end(held.reference).is_err() {
                index += 1;
                continue;
            }
            bus.grant_free(&[held.reference]);
            self.held.swap_remove(index);
            let Some(owner) = self.entries.get_mut(usize::from(held.entry)) else { continue };
            owner.held = owner.held.saturating_sub(1);
            if owner.held == 0 && owner.outstanding == 0 && !owner.queued {
                let list = if core::mem::take(&mut owner.redo) { &mut self.waiting } else { &mut self.finished };
                list.push(&mut self.entries, held.entry);
            }
        }
    }

    /// Every packet that is to be sent again goes back into the queue, in the order of arrival; those that are held
    /// follow when the peer lets go.
    pub(super) fn requeue(&mut self) {
        while self.waiting.pop(&mut self.entries).is_some() {}
        while self.finished.pop(&mut self.entries).is_some() {}
        let mut after = None;
        loop {
            let next = self
                .entries
                .iter()
                .enumerate()
                .filter(|(_, entry)| entry.packet.is_some() && after.is_none_or(|after| entry.arrival > after))
                .min_by_key(|(_, entry)| entry.arrival)
                .map(|(index, entry)| (index as u16, entry.arrival));
            let Some((index, arrival)) = next else { return };
            after = Some(arrival);
            let Some(entry) = self.entries.get_mut(usize::from(index)) else { return };
            entry.outstanding = 0;
            if entry.held > 0 {
                continue;
            }
            let list = if core::mem::take(&mut entry.redo) {
                entry.issued = 0;
                &mut self.waiting
            } else {
                &mut self.finished
            };
            list.push(&mut self.entries, index);
        }
    }
}
