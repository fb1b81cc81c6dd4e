//! The shared ring of Xen's PV protocols (`xen/include/public/io/ring.h`), both ends of it, written once.
//!
//! A ring is a power of two of slots behind a 64-byte header with four free-running 32-bit indices. A slot carries a
//! request one way and later a response the other way. The producer of either kind publishes by moving its index, and
//! notifies the other end only if that end's event index was passed (the event-index protocol).
//!
//! Nothing that the other end writes is believed: a producer index may never be ahead by more than what can be
//! outstanding, nor go back behind what was seen before. Either is a [`RingError`], and the ring refuses from then on.
//! Slots are copied out before anyone looks at them.
//!
//! No function here allocates or waits. All may be called at any IRQL; the caller sees to it that one processor at a
//! time uses one end (`&mut self`).

use core::marker::PhantomData;
use core::sync::atomic::{Ordering, fence};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::shared::SharedMemory;

/// Offset of the index up to which requests are published.
pub const REQ_PROD: usize = 0;
/// Offset of the request index at which the backend wants a notification.
pub const REQ_EVENT: usize = 4;
/// Offset of the index up to which responses are published.
pub const RSP_PROD: usize = 8;
/// Offset of the response index at which the frontend wants a notification.
pub const RSP_EVENT: usize = 12;
/// Offset of the first slot.
pub const SLOTS: usize = 64;

/// What travels over a ring.
pub trait RingProtocol {
    /// A request, as its bytes stand in a slot.
    type Request: FromBytes + IntoBytes + Immutable + Copy;
    /// A response, as its bytes stand in a slot.
    type Response: FromBytes + IntoBytes + Immutable + Copy;
    /// Bytes of a slot: the larger of the two.
    const SLOT_SIZE: usize = if size_of::<Self::Request>() > size_of::<Self::Response>() {
        size_of::<Self::Request>()
    } else {
        size_of::<Self::Response>()
    };
    /// Slots of a ring of `bytes` bytes (one page, or more that lie in a row): the largest power of two that fits
    /// behind the header, 0 if none does.
    fn slots(bytes: usize) -> u32 {
        slots(bytes, Self::SLOT_SIZE)
    }
}

/// Slots of `slot_size` bytes in a ring of `bytes` bytes: a power of two, or 0.
pub const fn slots(bytes: usize, slot_size: usize) -> u32 {
    if bytes < SLOTS || slot_size == 0 {
        return 0;
    }
    let fit = (bytes - SLOTS) / slot_size;
    if fit == 0 { 0 } else { 1 << fit.ilog2() }
}

/// What is wrong with a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// The memory is too small for one slot.
    TooSmall,
    /// The peer's producer index ran ahead by more than can be outstanding.
    Overrun,
    /// The peer's producer index went back.
    Backwards,
    /// An earlier error stands; the ring is used no more.
    Broken,
}

impl core::fmt::Display for RingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::TooSmall => "the ring is too small for one slot",
            Self::Overrun => "the peer's ring index ran ahead",
            Self::Backwards => "the peer's ring index went back",
            Self::Broken => "the ring is broken since an earlier error",
        })
    }
}

/// No slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The half that both ends have in common: an index that this end consumes up to and the peer produces.
#[derive(Clone, Copy, Debug)]
struct Inbox {
    /// Offset of the peer's producer index.
    producer_at: usize,
    /// Offset of our event index.
    event_at: usize,
    /// Consumed up to here.
    consumed: u32,
    /// The peer's producer index, as last read and checked.
    seen: u32,
    /// The producer index that was found wrong.
    refused: u32,
    broken: bool,
}

impl Inbox {
    /// Reads the producer index once and checks it: at most `limit` entries may be unconsumed, and none may vanish.
    fn refresh<M: SharedMemory>(&mut self, memory: &M, limit: u32) -> Result<(), RingError> {
        if self.broken {
            return Err(RingError::Broken);
        }
        let produced = memory.load_u32(self.producer_at);
        let ahead = produced.wrapping_sub(self.consumed);
        let known = self.seen.wrapping_sub(self.consumed);
        self.refused = produced;
        if ahead > limit {
            self.broken = true;
            // Which of the two lies is only a matter of naming: a distance in the upper half is a step back.
            return Err(if ahead > u32::MAX / 2 { RingError::Backwards } else { RingError::Overrun });
        }
        if ahead < known {
            self.broken = true;
            return Err(RingError::Backwards);
        }
        self.seen = produced;
        // What the peer wrote before it moved the index is read after it.
        fence(Ordering::Acquire);
        Ok(())
    }

    fn known(&self) -> u32 {
        self.seen.wrapping_sub(self.consumed)
    }

    /// Asks for a notification once `after` more entries than consumed exist, then looks once more.
    fn final_check<M: SharedMemory>(&mut self, memory: &M, limit: u32, after: u32) -> Result<bool, RingError> {
        self.refresh(memory, limit)?;
        if self.known() > 0 {
            return Ok(true);
        }
        memory.store_u32(self.event_at, self.consumed.wrapping_add(after.max(1)));
        // The store must be visible before the index is read again, or both ends sleep.
        fence(Ordering::SeqCst);
        self.refresh(memory, limit)?;
        Ok(self.known() > 0)
    }
}

/// The half that both ends have in common: an index that this end produces.
#[derive(Clone, Copy, Debug)]
struct Outbox {
    producer_at: usize,
    /// Offset of the peer's event index.
    event_at: usize,
    /// Written up to here, not all of it published.
    private: u32,
    /// Published up to here.
    published: u32,
}

impl Outbox {
    /// Publishes what was written; whether the peer wants a notification.
    fn publish<M: SharedMemory>(&mut self, memory: &M) -> bool {
        let old = self.published;
        let new = self.private;
        if old == new {
            return false;
        }
        // The slots' contents go before the index.
        fence(Ordering::Release);
        memory.store_u32(self.producer_at, new);
        self.published = new;
        // The index must be visible before the event index is read, or both ends sleep.
        fence(Ordering::SeqCst);
        let event = memory.load_u32(self.event_at);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }
}

fn slot_offset(index: u32, slots: u32, slot_size: usize) -> usize {
    SLOTS + (index & (slots - 1)) as usize * slot_size
}

/// The frontend's end: produces requests, consumes responses.
///
/// `M` is the ring's memory: one page, or more pages that lie in a row in this end's address space.
#[derive(Debug)]
pub struct FrontRing<P: RingProtocol, M: SharedMemory> {
    memory: M,
    slots: u32,
    requests: Outbox,
    responses: Inbox,
    protocol: PhantomData<fn(P)>,
}

impl<P: RingProtocol, M: SharedMemory> FrontRing<P, M> {
    /// Makes a fresh ring in `memory`: clears it and sets the indices as the protocol begins. The peer must not be
    /// connected to it yet.
    ///
    /// # Errors
    /// [`RingError::TooSmall`].
    pub fn new(memory: M) -> Result<Self, RingError> {
        let slots = P::slots(memory.size());
        if slots == 0 {
            return Err(RingError::TooSmall);
        }
        let zero = [0_u8; 64];
        let mut at = 0;
        while at < memory.size() {
            let part = zero.len().min(memory.size() - at);
            memory.write(at, &zero[..part]);
            at += part;
        }
        memory.store_u32(REQ_EVENT, 1);
        memory.store_u32(RSP_EVENT, 1);
        fence(Ordering::Release);
        Ok(Self {
            memory,
            slots,
            requests: Outbox { producer_at: REQ_PROD, event_at: REQ_EVENT, private: 0, published: 0 },
            responses: Inbox {
                producer_at: RSP_PROD,
                event_at: RSP_EVENT,
                consumed: 0,
                seen: 0,
                refused: 0,
                broken: false,
            },
            protocol: PhantomData,
        })
    }

    /// Slots of the ring, a power of two.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Requests, published or not, whose responses were not taken yet.
    pub fn outstanding(&self) -> u32 {
        self.requests.private.wrapping_sub(self.responses.consumed)
    }

    /// Requests that still fit.
    pub fn free(&self) -> u32 {
        self.slots - self.outstanding()
    }

    /// Requests that were pushed but not published.
    pub fn unpublished(&self) -> u32 {
        self.requests.private.wrapping_sub(self.requests.published)
    }

    /// The memory that the ring lies in.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Gives the memory back. The peer must have let go of it.
    pub fn into_memory(self) -> M {
        self.memory
    }

    /// Whether an index of the peer was found wrong.
    pub fn is_broken(&self) -> bool {
        self.responses.broken
    }

    /// For a log line about a broken ring: the response index that was refused, up to where responses were taken, and up
    /// to where requests were published.
    pub fn refused(&self) -> (u32, u32, u32) {
        (self.responses.refused, self.responses.consumed, self.requests.published)
    }

    /// Writes a request into the next slot. The peer sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`Full`] if no slot is free.
    #[inline]
    pub fn push(&mut self, request: &P::Request) -> Result<(), Full> {
        if self.outstanding() >= self.slots {
            return Err(Full);
        }
        self.memory.write(slot_offset(self.requests.private, self.slots, P::SLOT_SIZE), request.as_bytes());
        self.requests.private = self.requests.private.wrapping_add(1);
        Ok(())
    }

    /// Shows the peer every request pushed so far (`RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`). `true`: the peer asked to
    /// be notified; send one event.
    #[inline]
    #[must_use = "the peer may sleep until it is notified"]
    pub fn publish(&mut self) -> bool {
        self.requests.publish(&self.memory)
    }

    /// Copies the next response out and frees its slot; `None` if there is none.
    ///
    /// # Errors
    /// [`RingError`] if the peer's index is impossible: more responses than published requests, or going back.
    #[inline]
    pub fn take(&mut self) -> Result<Option<P::Response>, RingError> {
        if self.responses.broken {
            return Err(RingError::Broken);
        }
        if self.responses.known() == 0 {
            let limit = self.requests.published.wrapping_sub(self.responses.consumed);
            self.responses.refresh(&self.memory, limit)?;
            if self.responses.known() == 0 {
                return Ok(None);
            }
        }
        let mut response = P::Response::new_zeroed();
        self.memory.read(slot_offset(self.responses.consumed, self.slots, P::SLOT_SIZE), response.as_mut_bytes());
        self.responses.consumed = self.responses.consumed.wrapping_add(1);
        Ok(Some(response))
    }

    /// Asks for a notification at the next response, then looks again (`RING_FINAL_CHECK_FOR_RESPONSES`). `true`:
    /// there are responses already, take them and check again; `false`: an event will come.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    #[inline]
    pub fn final_check(&mut self) -> Result<bool, RingError> {
        self.final_check_after(1)
    }

    /// As [`final_check`](Self::final_check), but asks for the notification only when `after` responses have come (at
    /// least one, at most as many as are outstanding, or it would never come).
    ///
    /// # Errors
    /// As [`take`](Self::take).
    #[inline]
    pub fn final_check_after(&mut self, after: u32) -> Result<bool, RingError> {
        let limit = self.requests.published.wrapping_sub(self.responses.consumed);
        self.responses.final_check(&self.memory, limit, after.min(limit))
    }
}

/// The backend's end: consumes requests, produces responses.
#[derive(Debug)]
pub struct BackRing<P: RingProtocol, M: SharedMemory> {
    memory: M,
    slots: u32,
    requests: Inbox,
    responses: Outbox,
    protocol: PhantomData<fn(P)>,
}

impl<P: RingProtocol, M: SharedMemory> BackRing<P, M> {
    /// Connects to the ring that a frontend made in `memory`. Begins where the ring's response index stands, so that a
    /// backend that was restarted goes on with the requests that were not answered (`BACK_RING_ATTACH`).
    ///
    /// # Errors
    /// [`RingError::TooSmall`]; [`RingError::Overrun`] if the indices in the ring are impossible.
    pub fn attach(memory: M) -> Result<Self, RingError> {
        let slots = P::slots(memory.size());
        if slots == 0 {
            return Err(RingError::TooSmall);
        }
        let answered = memory.load_u32(RSP_PROD);
        let mut requests = Inbox {
            producer_at: REQ_PROD,
            event_at: REQ_EVENT,
            consumed: answered,
            seen: answered,
            refused: answered,
            broken: false,
        };
        requests.refresh(&memory, slots)?;
        Ok(Self {
            memory,
            slots,
            requests,
            responses: Outbox { producer_at: RSP_PROD, event_at: RSP_EVENT, private: answered, published: answered },
            protocol: PhantomData,
        })
    }

    /// Slots of the ring, a power of two.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Requests that were taken and not answered.
    pub fn unanswered(&self) -> u32 {
        self.requests.consumed.wrapping_sub(self.responses.private)
    }

    /// The memory that the ring lies in.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Gives the memory back.
    pub fn into_memory(self) -> M {
        self.memory
    }

    /// Whether an index of the peer was found wrong.
    pub fn is_broken(&self) -> bool {
        self.requests.broken
    }

    /// Most requests that may be unconsumed: every slot that is not waiting for its answer.
    fn limit(&self) -> u32 {
        self.slots - self.unanswered()
    }

    /// Copies the next request out; `None` if there is none.
    ///
    /// # Errors
    /// [`RingError`] if the peer's index is impossible: more requests than slots, or going back.
    #[inline]
    pub fn take(&mut self) -> Result<Option<P::Request>, RingError> {
        if self.requests.broken {
            return Err(RingError::Broken);
        }
        if self.requests.known() == 0 {
            let limit = self.limit();
            self.requests.refresh(&self.memory, limit)?;
            if self.requests.known() == 0 {
                return Ok(None);
            }
        }
        let mut request = P::Request::new_zeroed();
        self.memory.read(slot_offset(self.requests.consumed, self.slots, P::SLOT_SIZE), request.as_mut_bytes());
        self.requests.consumed = self.requests.consumed.wrapping_add(1);
        Ok(Some(request))
    }

    /// Writes a response into the next slot. The peer sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`Full`] if every request taken so far has its answer.
    #[inline]
    pub fn push(&mut self, response: &P::Response) -> Result<(), Full> {
        if self.unanswered() == 0 {
            return Err(Full);
        }
        self.memory.write(slot_offset(self.responses.private, self.slots, P::SLOT_SIZE), response.as_bytes());
        self.responses.private = self.responses.private.wrapping_add(1);
        Ok(())
    }

    /// Shows the peer every response pushed so far. `true`: it asked to be notified; send one event.
    #[inline]
    #[must_use = "the peer may sleep until it is notified"]
    pub fn publish(&mut self) -> bool {
        self.responses.publish(&self.memory)
    }

    /// Asks for a notification at the next request, then looks again (`RING_FINAL_CHECK_FOR_REQUESTS`). `true`: there
    /// are requests already; `false`: an event will come.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    #[inline]
    pub fn final_check(&mut self) -> Result<bool, RingError> {
        let limit = self.limit();
        self.requests.final_check(&self.memory, limit, 1)
    }
}
