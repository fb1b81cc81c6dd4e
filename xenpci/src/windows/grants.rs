//! The grant table: [`crate::core::grant`] over mapped frames, growing on demand.

use alloc::{boxed::Box, vec::Vec};
use core::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use wdm::{
    event::{Mutex, MutexGuard},
    memory::{try_box_zeroed, try_push, try_vec},
    spinlock::{PASSIVE_LEVEL, SpinLock, current_irql},
    status::{Result, Status},
    time, warning,
};
use xen_abi::{DomId, memory::SPACE_GRANT_TABLE};

use super::{
    hypercall::Gate,
    shared::{Frame, FrameSource},
};
use crate::core::{
    grant::{Freed, GrantCounts, GrantEntries, GrantError, GrantPool},
    hypercall::{grant_query_size, grant_set_version_1},
};

/// How long the table is not grown after that has failed.
const GROW_PAUSE: Duration = Duration::from_secs(1);

/// The domain's grant table.
pub(crate) struct Grants {
    gate: Gate,
    entries: Box<GrantEntries>,
    pool: SpinLock<GrantPool>,
    /// The table's frames in their order. Held while the table grows.
    frames: Mutex<Vec<Frame>>,
    /// Until when growing is not tried, in microseconds of [`time::monotonic`]; 0: the last time went well.
    no_growth_until: AtomicU64,
}

/// What must be held while the table is put in place again: see [`Grants::hold`].
pub(crate) struct Held<'a> {
    frames: MutexGuard<'a, Vec<Frame>>,
}

impl Grants {
    /// A table with its first frame.
    pub(crate) fn start(gate: Gate, source: &FrameSource) -> Result<Self> {
        // ENOSYS: there is no version but the first.
        if let Err(error) = grant_set_version_1(&gate) {
            wdm::debug!("grant table version 1: {error}");
        }
        let (_, max) = grant_query_size(&gate).map_err(|error| {
            wdm::error!("the grant table's size: {error}");
            Status::NOT_SUPPORTED
        })?;
        let grants = Self {
            gate,
            entries: try_box_zeroed()?,
            pool: SpinLock::new(GrantPool::new(max)),
            frames: Mutex::new(try_vec(max.min(64) as usize)?)?,
            no_growth_until: AtomicU64::new(0),
        };
        grants.grow(source)?;
        Ok(grants)
    }

    /// Adds a frame. After a failure that is not tried again for a while.
    fn grow(&self, source: &FrameSource) -> Result {
        let now = time::monotonic().as_micros() as u64;
        let until = self.no_growth_until.load(Ordering::Relaxed);
        if now < until {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        let grown = self.add_frame(source);
        let pause = if grown.is_ok() { 0 } else { now + GROW_PAUSE.as_micros() as u64 };
        self.no_growth_until.store(pause, Ordering::Relaxed);
        match grown {
            Err(status) if until == 0 => warning!("the grant table cannot grow: {status}"),
            Ok(()) if until != 0 => wdm::info!("the grant table grows again"),
            _ => {}
        }
        grown
    }

    fn add_frame(&self, source: &FrameSource) -> Result {
        let gate = self.gate;
        let mut frames = self.frames.lock();
        let index = frames.len();
        if index as u32 >= self.pool.lock().max_frames() {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        frames.try_reserve(1).map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        let frame = source.hole(gate)?;
        if let Err(error) = frame.fill(gate, SPACE_GRANT_TABLE, index as u64) {
            wdm::debug!("add_to_physmap of grant frame {index}: {error}");
            frame.restore(gate);
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        let region = frame.region();
        try_push(&mut frames, frame)?;
        if !self.entries.add_frame(index, region) {
            return Err(Status::UNSUCCESSFUL);
        }
        self.pool.lock().grow().map_err(|_| Status::INSUFFICIENT_RESOURCES)?;
        wdm::debug!("the grant table has {} frames", index + 1);
        Ok(())
    }

    /// Takes references out, all or none. IRQL <= DISPATCH_LEVEL; the table grows at PASSIVE_LEVEL only.
    pub(crate) fn allocate(&self, source: &FrameSource, references: &mut [u32]) -> Result {
        loop {
            let Err(exhausted) = self.pool.lock().allocate(references) else { return Ok(()) };
            if exhausted.frames_wanted == 0 || current_irql() != PASSIVE_LEVEL {
                return Err(Status::INSUFFICIENT_RESOURCES);
            }
            for _ in 0..exhausted.frames_wanted {
                self.grow(source)?;
            }
        }
    }

    /// Gives references back. One that still grants access is lost, and logged. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn release(&self, references: &[u32]) {
        let mut pool = self.pool.lock();
        let mut lost = 0;
        for &reference in references {
            match pool.release(&self.entries, reference) {
                Freed::Free => {}
                Freed::Leaked => lost += 1,
                Freed::NotAllocated => warning!("grant {reference} was given back but not given out"),
            }
        }
        if lost != 0 {
            warning!("{lost} grants are still in use by the backend: lost");
        }
    }

    /// Lets `domid` use a page. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn access(&self, reference: u32, domid: DomId, gfn: u64, read_only: bool) -> Result {
        self.entries.access(reference, domid, gfn, read_only).map_err(status)
    }

    /// Ends that. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn end(&self, reference: u32) -> Result {
        self.entries.end(reference).map_err(status)
    }

    /// How many references there are of each kind. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn counts(&self) -> GrantCounts {
        self.pool.lock().counts()
    }

    /// Keeps the table from growing, so that [`Grants::resume`] may run where no lock can be taken.
    pub(crate) fn hold(&self) -> Held<'_> {
        Held { frames: self.frames.lock() }
    }

    /// Puts the frames in place in a new domain; every access of before is void. IRQL <= IPI_LEVEL.
    pub(crate) fn resume(&self, held: &Held<'_>) -> Result {
        self.entries.set_lost(true);
        for (index, frame) in held.frames.iter().enumerate() {
            frame.fill(self.gate, SPACE_GRANT_TABLE, index as u64).map_err(|error| {
                wdm::error!("add_to_physmap of grant frame {index}: {error}; no access is granted any more");
                Status::INSUFFICIENT_RESOURCES
            })?;
        }
        self.entries.set_lost(false);
        self.entries.forget_all();
        Ok(())
    }

    /// After [`Grants::resume`], where locks can be taken again: the new host's limit, and what was lost is back.
    pub(crate) fn resumed(&self) {
        let size = grant_query_size(&self.gate);
        let mut pool = self.pool.lock();
        if let Ok((_, max)) = size {
            pool.set_max_frames(max);
        }
        pool.recover_leaked();
    }
}

impl Drop for Grants {
    /// Gives the frames back. PASSIVE_LEVEL.
    fn drop(&mut self) {
        let counts = self.counts();
        if counts.used != 0 || counts.leaked != 0 {
            warning!("{} grants are in use and {} are lost: the table stays", counts.used, counts.leaked);
            return;
        }
        for frame in self.frames.lock().drain(..).rev() {
            frame.restore(self.gate);
        }
        wdm::info!("no grant is in use: the table is given back");
    }
}

fn status(error: GrantError) -> Status {
    match error {
        GrantError::StillMapped => Status::DEVICE_BUSY,
        GrantError::BadReference | GrantError::InUse | GrantError::FrameTooHigh => Status::INVALID_PARAMETER,
    }
}
