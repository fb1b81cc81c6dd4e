//! Pages that a peer may be given access to, and grant references for them.

use xen_abi::shared::SharedMemory;

use crate::client::Bus;

/// Pages that the peer may be given access to: zeroed, ours for as long as the value lives.
pub trait Memory: SharedMemory {
    /// The guest frame number of page `index`.
    fn frame(&self, index: usize) -> Option<u64>;
    /// Keeps the pages for ever: the peer may still write them.
    fn leak(self);
    /// Copies bytes out of a page that no peer has access to.
    fn copy_out(&self, offset: usize, out: &mut [u8]) {
        self.read(offset, out);
    }
    /// Copies bytes into a page that no peer may write; it sees them once it is told of them by [`SharedMemory`].
    fn copy_in(&self, offset: usize, data: &[u8]) {
        self.write(offset, data);
    }
    /// Zeroes bytes, of a page that no peer has access to.
    fn scrub(&self, offset: usize, len: usize) {
        const ZEROS: [u8; 512] = [0; 512];
        let mut at = offset;
        while at < offset + len {
            let part = ZEROS.get(..offset + len - at).unwrap_or(&ZEROS);
            self.write(at, part);
            at += part.len();
        }
    }
}

/// Takes as many grant references as `out` has room for, or as there are. How many. PASSIVE_LEVEL, so that the bus may
/// grow its table; what it can give at a higher IRQL is what happens to be free.
pub fn take_references<B: Bus>(bus: &B, out: &mut [u32]) -> usize {
    let room = out.len();
    let mut filled = 0;
    let mut step = room;
    while step > 0 && filled < room {
        let end = (filled + step).min(room);
        let taken = out.get_mut(filled..end).is_some_and(|part| bus.grant_alloc(part).is_ok());
        if taken {
            filled = end;
        } else {
            step /= 2;
        }
    }
    filled
}

/// Gives references back that no page of ours needs any more. One whose access the peer did not let go of stays taken:
/// true if there was such a one, and then the pages behind them must not be used again. IRQL <= DISPATCH_LEVEL.
pub fn give_references<B: Bus>(bus: &B, references: &[u32]) -> bool {
    let mut kept = false;
    for reference in references {
        // Those that were never granted end at once.
        if bus.grant_end(*reference).is_ok() {
            bus.grant_free(&[*reference]);
        } else {
            kept = true;
        }
    }
    kept
}
