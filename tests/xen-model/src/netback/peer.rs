//! What is at the other end of a vif's wire.

use super::stack::Stack;

/// The other end of the wire: it is given the frames that the guest sent, as a wire would carry them, and has frames for
/// the guest.
pub trait Peer: Send {
    /// A frame arrives: whole, with finished checksums, no larger than the MTU.
    fn receive(&mut self, frame: Vec<u8>);
    /// Works on what arrived and on what is due by now; whether anything was done. Time is the bench's.
    fn poll(&mut self, now_ns: u64) -> bool;
    /// The next frame for the guest.
    fn transmit(&mut self) -> Option<Vec<u8>>;
    /// When `poll` has something to do again.
    fn deadline(&self) -> Option<u64>;
    /// The in-process stack, for peers that are one.
    fn stack(&mut self) -> Option<&mut Stack> {
        None
    }
}

/// Nobody: frames of the guest's are lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeer;

impl Peer for NoPeer {
    fn receive(&mut self, _frame: Vec<u8>) {}
    fn poll(&mut self, _now_ns: u64) -> bool {
        false
    }
    fn transmit(&mut self) -> Option<Vec<u8>> {
        None
    }
    fn deadline(&self) -> Option<u64> {
        None
    }
}
