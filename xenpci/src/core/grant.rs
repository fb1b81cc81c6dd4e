//! The grant table: which entries are free, and what the used ones let other domains do.
//!
//! Two parts. [`GrantEntries`] is the table itself, mapped over up to [`MAX_FRAMES`] frames: giving and ending access
//! is atomic, takes no lock and allocates nothing. [`GrantPool`] is the list of free entries, which the Windows half
//! keeps behind a spin lock.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use xen_abi::DomId;
use xen_abi::grant::{
    ENTRIES_PER_FRAME, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_WRITING, GrantRef, OFFSET_DOMID, OFFSET_FLAGS,
    OFFSET_FRAME, RESERVED, entry,
};
use xen_abi::shared::{FrameTable, SharedRegion};

/// Frames of the table that are used at most: 64 Ki entries, 256 MiB granted at once. Xen's default limit is 64.
pub const MAX_FRAMES: usize = 128;

/// Why an entry was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// No such entry, or one of the toolstack's.
    BadReference,
    /// The entry grants something already.
    InUse,
    /// The guest frame's number does not fit into an entry of version 1.
    FrameTooHigh,
    /// The peer still has the page mapped, or a copy is under way. The entry is unchanged: the page must be kept.
    StillMapped,
}

/// The table's entries.
#[derive(Debug, Default)]
pub struct GrantEntries {
    frames: FrameTable<MAX_FRAMES>,
    /// The frames are not there any more.
    lost: AtomicBool,
}

impl GrantEntries {
    /// A table without frames.
    pub const fn new() -> Self {
        Self { frames: FrameTable::new(), lost: AtomicBool::new(false) }
    }

    /// Whether the frames are not there: a resume could not map them. Nothing touches an entry as long as that is so.
    /// Any IRQL.
    pub fn set_lost(&self, lost: bool) {
        self.lost.store(lost, Ordering::Release);
    }

    /// Adds the mapped frame `index` of the table. `false` if it is not a page, or the index is taken or too large.
    /// IRQL <= DISPATCH_LEVEL.
    #[must_use]
    pub fn add_frame(&self, index: usize, frame: SharedRegion) -> bool {
        self.frames.set(index, frame)
    }

    fn find(&self, reference: GrantRef) -> Result<(SharedRegion, usize), GrantError> {
        if reference < RESERVED || self.lost.load(Ordering::Acquire) {
            return Err(GrantError::BadReference);
        }
        let (frame, offset) = entry(reference);
        Ok((self.frames.get(frame).ok_or(GrantError::BadReference)?, offset))
    }

    /// Lets domain `domid` map or copy guest frame `gfn`. The caller has the reference from the pool, and nobody else
    /// uses it. Any IRQL.
    ///
    /// # Errors
    /// [`GrantError`]: nothing was granted.
    pub fn access(&self, reference: GrantRef, domid: DomId, gfn: u64, read_only: bool) -> Result<(), GrantError> {
        let (frame, offset) = self.find(reference)?;
        let gfn = u32::try_from(gfn).map_err(|_| GrantError::FrameTooHigh)?;
        let flags = frame.atomic_u16(offset + OFFSET_FLAGS);
        if flags.load(Ordering::Acquire) != 0 {
            return Err(GrantError::InUse);
        }
        frame.atomic_u32(offset + OFFSET_FRAME).store(gfn, Ordering::Relaxed);
        frame.atomic_u16(offset + OFFSET_DOMID).store(domid, Ordering::Relaxed);
        // The flags make the rest of the entry count, so they go last.
        let grant = GTF_PERMIT_ACCESS | if read_only { GTF_READONLY } else { 0 };
        flags.store(grant, Ordering::Release);
        Ok(())
    }

    /// Ends the access: tests and clears in one atomic step, so that no mapping can come in between. Any IRQL.
    ///
    /// # Errors
    /// [`GrantError::StillMapped`]: the entry still grants access, and the page must not be used for anything else.
    pub fn end(&self, reference: GrantRef) -> Result<(), GrantError> {
        let (frame, offset) = self.find(reference)?;
        let flags = frame.atomic_u16(offset + OFFSET_FLAGS);
        let mut now = flags.load(Ordering::Acquire);
        loop {
            if now & (GTF_READING | GTF_WRITING) != 0 {
                return Err(GrantError::StillMapped);
            }
            // Full order: what the peer wrote is seen after this, and what we write next comes after it.
            match flags.compare_exchange(now, 0, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                // Only Xen changes the bits meanwhile; each failure means that it did.
                Err(changed) => now = changed,
            }
        }
    }

    /// Whether the entry grants nothing. Any IRQL.
    pub fn is_idle(&self, reference: GrantRef) -> bool {
        self.find(reference)
            .is_ok_and(|(frame, offset)| frame.atomic_u16(offset + OFFSET_FLAGS).load(Ordering::Acquire) == 0)
    }

    /// Empties the mapped frames, except for the toolstack's entries: after a resume in a new domain, where nothing of
    /// the old grants counts and no peer has the table yet. Any IRQL.
    pub fn forget_all(&self) {
        for index in 0..self.frames.capacity() {
            let Some(frame) = self.frames.get(index) else { continue };
            let first = if index == 0 { RESERVED } else { 0 };
            for number in first..ENTRIES_PER_FRAME {
                frame.atomic_u64(number as usize * 8).store(0, Ordering::Release);
            }
        }
    }
}

/// How many entries there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantCounts {
    /// Entries of the frames that the table has, without the toolstack's.
    pub total: u32,
    /// Free ones.
    pub free: u32,
    /// Given out.
    pub used: u32,
    /// Lost, since a peer did not let go of them.
    pub leaked: u32,
    /// Entries that further frames would bring.
    pub can_grow: u32,
}

/// No entry is free. The frames to add before it is worth trying again, 0: the table has its greatest size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// Frames that would be enough.
    pub frames_wanted: u32,
}

/// Why a frame's entries were not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowError {
    /// There is no memory.
    NoMemory,
    /// The table has its greatest size.
    AtLimit,
}

/// What became of a reference that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// It is free.
    Free,
    /// It still grants access; it is lost until the domain ends. Log it.
    Leaked,
    /// It was not given out. Log it; nothing was changed.
    NotAllocated,
}

/// The free entries.
#[derive(Debug, Default)]
pub struct GrantPool {
    /// Used as a stack: the entry freed last is the warmest.
    free: Vec<GrantRef>,
    /// A bit an entry: given out.
    allocated: Vec<u64>,
    frames: u32,
    max_frames: u32,
    leaked: u32,
}

impl GrantPool {
    /// An empty pool for a table that may have `max_frames` frames (`GNTTABOP_query_size`).
    pub fn new(max_frames: u32) -> Self {
        Self { max_frames: max_frames.min(MAX_FRAMES as u32), ..Self::default() }
    }

    /// Frames that the pool knows.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Frames that the table may have.
    pub fn max_frames(&self) -> u32 {
        self.max_frames
    }

    /// After a resume: the new host's limit. It never falls below what is in use.
    pub fn set_max_frames(&mut self, max_frames: u32) {
        self.max_frames = max_frames.min(MAX_FRAMES as u32).max(self.frames);
    }

    /// Makes the entries of the next frame, which was mapped and [added](GrantEntries::add_frame), free. Allocates
    /// nonpaged memory. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// [`GrowError`]: nothing was changed.
    pub fn grow(&mut self) -> Result<(), GrowError> {
        if self.frames >= self.max_frames {
            return Err(GrowError::AtLimit);
        }
        let entries = ENTRIES_PER_FRAME as usize;
        // Room for every entry there is, so that giving one back never allocates.
        let all = (self.frames as usize + 1) * entries;
        self.free.try_reserve_exact(all - self.free.len()).map_err(|_| GrowError::NoMemory)?;
        self.allocated.try_reserve_exact(entries / 64).map_err(|_| GrowError::NoMemory)?;
        let first = self.frames * ENTRIES_PER_FRAME;
        let skip = if self.frames == 0 { RESERVED } else { 0 };
        self.free.extend((first + skip..first + ENTRIES_PER_FRAME).rev());
        self.allocated.extend(core::iter::repeat_n(0, entries / 64));
        self.frames += 1;
        Ok(())
    }

    fn bit(&mut self, reference: GrantRef) -> Option<(&mut u64, u64)> {
        Some((self.allocated.get_mut(reference as usize / 64)?, 1 << (reference % 64)))
    }

    /// Takes entries out, as many as `out` has room for; all or none. IRQL <= DISPATCH_LEVEL, allocates nothing.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn allocate(&mut self, out: &mut [GrantRef]) -> Result<(), Exhausted> {
        if self.free.len() < out.len() {
            let missing = (out.len() - self.free.len()).div_ceil(ENTRIES_PER_FRAME as usize) as u32;
            let possible = self.max_frames.saturating_sub(self.frames);
            return Err(Exhausted { frames_wanted: if missing <= possible { missing } else { 0 } });
        }
        for place in out {
            let Some(reference) = self.free.pop() else { return Err(Exhausted { frames_wanted: 0 }) };
            if let Some((word, bit)) = self.bit(reference) {
                *word |= bit;
            }
            *place = reference;
        }
        Ok(())
    }

    /// Gives an entry back. IRQL <= DISPATCH_LEVEL, allocates nothing.
    #[must_use]
    pub fn release(&mut self, entries: &GrantEntries, reference: GrantRef) -> Freed {
        let Some((word, bit)) = self.bit(reference).filter(|(word, bit)| **word & bit != 0) else {
            return Freed::NotAllocated;
        };
        *word &= !bit;
        if entries.is_idle(reference) {
            self.free.push(reference);
            Freed::Free
        } else {
            self.leaked += 1;
            Freed::Leaked
        }
    }

    /// Takes the lost entries back: after a resume in a new domain, when [`GrantEntries::forget_all`] has run.
    /// IRQL <= DISPATCH_LEVEL, allocates nothing.
    pub fn recover_leaked(&mut self) {
        if self.leaked == 0 {
            return;
        }
        // An entry that is neither free nor given out is a lost one.
        self.free.clear();
        for reference in (RESERVED..self.frames * ENTRIES_PER_FRAME).rev() {
            let given_out =
                self.allocated.get(reference as usize / 64).is_some_and(|word| word >> (reference % 64) & 1 != 0);
            if !given_out {
                self.free.push(reference);
            }
        }
        self.leaked = 0;
    }

    /// How many entries there are of each kind.
    pub fn counts(&self) -> GrantCounts {
        let total = (self.frames * ENTRIES_PER_FRAME).saturating_sub(RESERVED);
        let free = self.free.len() as u32;
        GrantCounts {
            total,
            free,
            used: total - free - self.leaked,
            leaked: self.leaked,
            can_grow: (self.max_frames - self.frames) * ENTRIES_PER_FRAME,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::core::testing::page;

    fn table(frames: usize, max: u32) -> (GrantEntries, GrantPool, Vec<SharedRegion>) {
        let entries = GrantEntries::new();
        let mut pool = GrantPool::new(max);
        let pages: Vec<_> = (0..frames).map(|_| page()).collect();
        for (index, page) in pages.iter().enumerate() {
            assert!(entries.add_frame(index, *page));
            pool.grow().unwrap();
        }
        (entries, pool, pages)
    }

    #[test]
    fn every_entry_is_given_out_once_and_none_of_the_toolstacks() {
        let (_, mut pool, _) = table(2, 4);
        assert_eq!(pool.counts(), GrantCounts { total: 1016, free: 1016, used: 0, leaked: 0, can_grow: 1024 });
        let mut all = vec![0; 1016];
        pool.allocate(&mut all).unwrap();
        let distinct: HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 1016);
        assert!(all.iter().all(|reference| (RESERVED..1024).contains(reference)));
        assert_eq!(pool.allocate(&mut [0]), Err(Exhausted { frames_wanted: 1 }));
        assert_eq!(pool.allocate(&mut [0; 1500]), Err(Exhausted { frames_wanted: 0 }));
    }

    #[test]
    fn a_table_that_a_resume_lost_is_not_touched() {
        let (entries, _, pages) = table(1, 1);
        entries.access(8, 3, 0x1234, false).unwrap();
        entries.set_lost(true);
        assert_eq!(entries.end(8), Err(GrantError::BadReference));
        assert_eq!(entries.access(9, 3, 0x1234, false), Err(GrantError::BadReference));
        assert_ne!(pages[0].atomic_u64(8 * 8).load(Ordering::Relaxed), 0);
        entries.set_lost(false);
        assert_eq!(entries.end(8), Ok(()));
    }

    #[test]
    fn allocation_is_all_or_none() {
        let (_, mut pool, _) = table(1, 1);
        assert_eq!(pool.allocate(&mut [0; 505]), Err(Exhausted { frames_wanted: 0 }));
        assert_eq!(pool.counts().free, 504);
        assert_eq!(pool.grow(), Err(GrowError::AtLimit));
    }

    #[test]
    fn an_entry_says_what_it_grants() {
        let (entries, mut pool, pages) = table(2, 2);
        let mut reference = [0];
        pool.allocate(&mut reference).unwrap();
        let [reference] = reference;
        entries.access(reference, 3, 0x1234, true).unwrap();
        let (frame, offset) = entry(reference);
        let raw = pages[frame].atomic_u64(offset).load(Ordering::Relaxed);
        assert_eq!(raw, 0x1234 << 32 | 3 << 16 | u64::from(GTF_PERMIT_ACCESS | GTF_READONLY));
        assert_eq!(entries.access(reference, 3, 1, false), Err(GrantError::InUse));
        assert_eq!(entries.access(reference + 1, 3, 1 << 32, false), Err(GrantError::FrameTooHigh));
        assert_eq!(entries.access(1, 3, 1, false), Err(GrantError::BadReference));
        assert_eq!(entries.access(1024, 3, 1, false), Err(GrantError::BadReference));
        entries.end(reference).unwrap();
        assert!(entries.is_idle(reference));
    }

    #[test]
    fn a_page_that_is_mapped_is_not_let_go() {
        let (entries, mut pool, pages) = table(1, 1);
        let mut references = [0; 2];
        pool.allocate(&mut references).unwrap();
        let [kept, other] = references;
        entries.access(kept, 0, 7, false).unwrap();
        let (frame, offset) = entry(kept);
        let flags = pages[frame].atomic_u16(offset);
        for bit in [GTF_READING, GTF_WRITING] {
            flags.fetch_or(bit, Ordering::Relaxed);
            assert_eq!(entries.end(kept), Err(GrantError::StillMapped));
            assert_eq!(flags.load(Ordering::Relaxed), GTF_PERMIT_ACCESS | bit, "unchanged");
            flags.fetch_and(!bit, Ordering::Relaxed);
        }
        assert_eq!(pool.release(&entries, kept), Freed::Leaked);
        assert_eq!(pool.release(&entries, kept), Freed::NotAllocated);
        assert_eq!(pool.release(&entries, other), Freed::Free);
        assert_eq!(pool.release(&entries, other), Freed::NotAllocated);
        assert_eq!(pool.release(&entries, 3), Freed::NotAllocated);
        assert_eq!(pool.release(&entries, u32::MAX), Freed::NotAllocated);
        assert_eq!(pool.counts(), GrantCounts { total: 504, free: 503, used: 0, leaked: 1, can_grow: 0 });
        entries.forget_all();
        pool.recover_leaked();
        assert_eq!(pool.counts().free, 504);
    }

    #[test]
    fn a_new_domain_keeps_what_is_given_out_and_the_toolstacks_entries() {
        let (entries, mut pool, pages) = table(1, 1);
        pages[0].atomic_u64(8).store(77, Ordering::Relaxed);
        let mut references = [0; 3];
        pool.allocate(&mut references).unwrap();
        entries.access(references[0], 0, 7, false).unwrap();
        entries.access(references[1], 0, 7, false).unwrap();
        assert_eq!(pool.release(&entries, references[1]), Freed::Leaked);
        entries.forget_all();
        pool.recover_leaked();
        assert_eq!(pages[0].atomic_u64(8).load(Ordering::Relaxed), 77);
        assert_eq!(pool.counts(), GrantCounts { total: 504, free: 502, used: 2, leaked: 0, can_grow: 0 });
        let mut rest = vec![0; 502];
        pool.allocate(&mut rest).unwrap();
        assert!(!rest.contains(&references[0]) && !rest.contains(&references[2]));
    }

    #[test]
    fn ending_and_mapping_at_the_same_time_never_both_succeed() {
        let (entries, _, pages) = table(1, 1);
        let flags = pages[0].atomic_u16(9 * 8);
        for _ in 0..2000 {
            entries.access(9, 0, 7, false).unwrap();
            let (ended, mapped) = std::thread::scope(|scope| {
                // As Xen does: only an entry that grants access gets the bits.
                let xen = scope.spawn(|| {
                    let mut now = flags.load(Ordering::Relaxed);
                    while now & GTF_PERMIT_ACCESS != 0 {
                        match flags.compare_exchange(now, now | GTF_WRITING, Ordering::SeqCst, Ordering::SeqCst) {
                            Ok(_) => return true,
                            Err(changed) => now = changed,
                        }
                    }
                    false
                });
                (entries.end(9).is_ok(), xen.join().unwrap())
            });
            assert_ne!(ended, mapped);
            flags.store(0, Ordering::Relaxed);
        }
    }
}
