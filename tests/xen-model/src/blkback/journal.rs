//! What a disk really went through, in order: the oracle by which suites judge.

/// One thing that was done to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalEntry {
    /// Sectors were read.
    Read {
        /// First sector of 512 bytes.
        sector: u64,
        /// Sectors.
        count: u32,
    },
    /// Sectors were written.
    Write {
        /// First sector of 512 bytes.
        sector: u64,
        /// Sectors.
        count: u32,
        /// [`hash`] of the bytes.
        hash: u64,
        /// Whether the guest got the answer (a save in between can take it away).
        answered: bool,
    },
    /// Everything before was made durable.
    Flush,
    /// A range was forgotten.
    Discard {
        /// First sector of 512 bytes.
        sector: u64,
        /// Sectors.
        count: u64,
    },
    /// The frontend connected.
    Connected,
    /// The guest was saved and restored.
    Suspended,
}

/// FNV-1a over 64 bits. It tells different data apart; it does not resist an attacker.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// The record of one disk. Reads are recorded only on request, as there are many.
#[derive(Debug, Default)]
pub struct Journal {
    entries: Vec<JournalEntry>,
    /// Whether reads are recorded too.
    pub record_reads: bool,
}

impl Journal {
    pub(crate) fn push(&mut self, entry: JournalEntry) {
        if self.record_reads || !matches!(entry, JournalEntry::Read { .. }) {
            self.entries.push(entry);
        }
    }

    /// Everything so far, oldest first.
    pub fn entries(&self) -> &[JournalEntry] {
        &self.entries
    }

    /// Forgets what there is.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Writes done after the last flush: what a power cut might take.
    pub fn unflushed_writes(&self) -> usize {
        self.entries
            .iter()
            .rev()
            .take_while(|e| **e != JournalEntry::Flush)
            .filter(|e| matches!(e, JournalEntry::Write { .. }))
            .count()
    }
}
