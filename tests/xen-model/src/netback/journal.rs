//! Every frame that crossed between guest and backend, in both directions: the oracle by which suites judge.

use std::collections::VecDeque;

use super::frame::Frame;

/// Which way a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest sent it.
    FromGuest,
    /// The guest was given it.
    ToGuest,
}

/// One frame that crossed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// Which way.
    pub direction: Direction,
    /// The queue.
    pub queue: usize,
    /// Ring slots that it took, extra info included.
    pub slots: usize,
    /// Bytes of the first slot of a frame of the guest's.
    pub first_slot: usize,
    /// The frame as it stood in the guest's pages.
    pub frame: Frame,
    /// What the wire made of a frame of the guest's: its segments, checksums finished.
    pub wire: Vec<Vec<u8>>,
}

/// The record of one vif: the last [`NetJournal::limit`] frames.
#[derive(Debug)]
pub struct NetJournal {
    entries: VecDeque<Crossing>,
    dropped: u64,
    /// Frames that are kept; older ones are forgotten.
    pub limit: usize,
}

impl Default for NetJournal {
    fn default() -> Self {
        Self { entries: VecDeque::new(), dropped: 0, limit: 1024 }
    }
}

impl NetJournal {
    pub(super) fn push(&mut self, entry: Crossing) {
        self.entries.push_back(entry);
        while self.entries.len() > self.limit {
            self.entries.pop_front();
            self.dropped += 1;
        }
    }

    /// The frames that are kept, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Crossing> {
        self.entries.iter()
    }

    /// Frames that were forgotten because there were too many.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Forgets what there is.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.dropped = 0;
    }
}
