//! A protocol that sends and receives frames as they are.

use super::packet::{Done, Outgoing, Pools, Room, pieces};
use crate::ndis::adapter::Adapter;
use crate::ndis::binding::{Binding, Protocol};
use crate::ndis::flow::Received;
use crate::ndis::oid_abi::oid;
use crate::ndis::packet::Nbl;
use crate::ndis::wait::Gate;
use crate::sync::IrqLock;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// What a client has seen; all but `out` only grow.
#[derive(Default)]
pub struct Counters {
    /// Frames received.
    pub received: AtomicU64,
    /// Of these, dropped because the queue was full.
    pub dropped: AtomicU64,
    /// Lists that came back from a send.
    pub sent: AtomicU64,
    /// Of these, with another status than success.
    pub failed: AtomicU64,
    /// Lists that are out.
    pub out: AtomicUsize,
    /// Restarts seen.
    pub restarts: AtomicU64,
}

/// The part that the port calls.
struct Inner {
    pools: Arc<Pools>,
    queue: IrqLock<VecDeque<Received>>,
    most: AtomicUsize,
    hold: AtomicBool,
    /// The miniport waits for its memory: nothing of it is kept.
    pausing: AtomicBool,
    gone: AtomicBool,
    arrived: Gate,
    statuses: IrqLock<Vec<(u32, Vec<u8>)>>,
    counters: Counters,
}

/// Frames that a client keeps until they are taken.
const QUEUE: usize = 4096;
/// Status indications that it keeps.
const STATUSES: usize = 256;

impl Protocol for Inner {
    fn receive(&self, frames: &[Received]) {
        self.counters.received.fetch_add(frames.len() as u64, Ordering::Relaxed);
        let hold = self.hold.load(Ordering::Acquire);
        for frame in frames {
            let mut frame = if hold { frame.clone() } else { frame.copied() };
            loop {
                let mut queue = self.queue.lock();
                if frame.is_held() && self.pausing.load(Ordering::Acquire) {
                    drop(queue);
                    frame = frame.copied();
                    continue;
                }
                let room = queue.len() < self.most.load(Ordering::Acquire);
                if room {
                    queue.push_back(frame);
                }
                drop(queue);
                self.counters.dropped.fetch_add(u64::from(!room), Ordering::Relaxed);
                break;
            }
        }
        self.arrived.open();
    }

    fn sent(&self, chain: *mut Nbl) {
        // SAFETY: the port gives back lists of this client's.
        let (all, bad) = unsafe { self.pools.take_apart_all(chain) };
        self.counters.sent.fetch_add(all, Ordering::Relaxed);
        self.counters.failed.fetch_add(bad, Ordering::Relaxed);
        self.counters.out.fetch_sub(all as usize, Ordering::AcqRel);
        self.arrived.open();
    }

    fn status(&self, code: u32, data: &[u8]) {
        let mut statuses = self.statuses.lock();
        if statuses.len() < STATUSES {
            statuses.push((code, data.to_vec()));
        }
        drop(statuses);
        self.arrived.open();
    }

    fn pausing(&self) {
        // What is queued goes on as a copy, and so does what comes from now on.
        let held = {
            let mut queue = self.queue.lock();
            self.pausing.store(true, Ordering::Release);
            core::mem::take(&mut *queue)
        };
        let mut copies: VecDeque<Received> = held.iter().map(Received::copied).collect();
        drop(held);
        let mut queue = self.queue.lock();
        copies.append(&mut queue);
        *queue = copies;
    }

    fn restarted(&self) {
        self.pausing.store(false, Ordering::Release);
        self.counters.restarts.fetch_add(1, Ordering::Relaxed);
        self.arrived.open();
    }

    fn unbound(&self) {
        self.gone.store(true, Ordering::Release);
        let queue = core::mem::take(&mut *self.queue.lock());
        drop(queue);
        self.arrived.open();
    }
}

/// A send that was started.
pub struct Sending(Arc<Done>);

impl Sending {
    /// NDIS_STATUS_* once it is done.
    pub fn status(&self) -> Option<i32> {
        self.0.status()
    }
}

/// A list that is to go.
pub enum Made {
    /// Its frame lies where it is sent from; what else stands in the list, without a packet.
    InPlace(Room, Outgoing),
    /// Its frames are copied.
    Apart(Outgoing),
}

/// A protocol bound to an adapter. Dropping it unbinds it: the adapter pauses and goes on.
pub struct Client {
    adapter: Arc<Adapter>,
    binding: Arc<Binding>,
    inner: Arc<Inner>,
}

impl Client {
    /// Binds to an adapter. IRQL = PASSIVE_LEVEL. `None`: the adapter is going, or there is no memory.
    pub fn bind(adapter: &Arc<Adapter>) -> Option<Self> {
        let inner = Arc::new(Inner {
            pools: Arc::new(Pools::new()?),
            queue: IrqLock::new(VecDeque::new()),
            most: AtomicUsize::new(QUEUE),
            hold: AtomicBool::new(false),
            pausing: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            arrived: Gate::new(false),
            statuses: IrqLock::new(Vec::new()),
            counters: Counters::default(),
        });
        let binding = adapter.bind(inner.clone())?;
        Some(Self { adapter: adapter.clone(), binding, inner })
    }

    /// The adapter.
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }

    /// What it has seen.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Whether the adapter is gone.
    pub fn is_gone(&self) -> bool {
        self.inner.gone.load(Ordering::Acquire)
    }

    /// Whether the adapter pauses or is paused: a protocol sends nothing then. What is sent all the same comes back.
    pub fn is_paused(&self) -> bool {
        self.inner.pausing.load(Ordering::Acquire)
    }

    /// Whether received frames stay in the miniport's memory until they are taken and dropped.
    pub fn hold(&self, hold: bool) {
        self.inner.hold.store(hold, Ordering::Release);
    }

    /// How many frames are kept until they are taken.
    pub fn limit(&self, frames: usize) {
        self.inner.most.store(frames, Ordering::Release);
    }

    /// Sets the packet filter. IRQL = PASSIVE_LEVEL. NDIS_STATUS_*.
    pub fn set_filter(&self, bits: u32) -> i32 {
        self.adapter.set(oid::GEN_CURRENT_PACKET_FILTER, &bits.to_le_bytes()).status
    }

    /// Sets the multicast list. IRQL = PASSIVE_LEVEL. NDIS_STATUS_*.
    pub fn set_multicast(&self, addresses: &[[u8; 6]]) -> i32 {
        self.adapter.set(oid::ETH_MULTICAST_LIST, &addresses.concat()).status
    }

    /// Sends lists in one chain. IRQL <= DISPATCH_LEVEL. `None` without memory: nothing was sent.
    pub fn send(&self, lists: &[Outgoing]) -> Option<Vec<Sending>> {
        Some(self.start(self.build(lists)?))
    }

    /// As [`Client::send`]. Before anything goes, `look` is shown where each list's bytes lie: address and number, piece
    /// by piece.
    pub fn send_shown(&self, lists: &[Outgoing], look: impl FnOnce(&[Vec<(usize, usize)>])) -> Option<Vec<Sending>> {
        let built = self.build(lists)?;
        // SAFETY: just made by these pools, and not sent yet.
        look(&built.iter().map(|(list, _)| unsafe { pieces(*list) }).collect::<Vec<_>>());
        Some(self.start(built))
    }

    /// Makes lists. `None` without memory: there are none.
    fn build(&self, lists: &[Outgoing]) -> Option<Vec<(*mut Nbl, Arc<Done>)>> {
        let mut built = Vec::with_capacity(lists.len());
        for outgoing in lists {
            let Some(one) = self.inner.pools.build(outgoing) else {
                self.discard(built);
                return None;
            };
            built.push(one);
        }
        Some(built)
    }

    /// Where [`Room`]s for [`Client::send_made`] come from.
    pub(super) fn pools(&self) -> &Arc<Pools> {
        &self.inner.pools
    }

    /// As [`Client::send`], of lists some of which are made already.
    pub fn send_made(&self, lists: Vec<Made>) -> Option<Vec<Sending>> {
        let mut built = Vec::with_capacity(lists.len());
        for made in lists {
            let one = match made {
                Made::InPlace(room, about) => Some(room.build(&about)),
                Made::Apart(outgoing) => self.inner.pools.build(&outgoing),
            };
            let Some(one) = one else {
                self.discard(built);
                return None;
            };
            built.push(one);
        }
        Some(self.start(built))
    }

    fn discard(&self, built: Vec<(*mut Nbl, Arc<Done>)>) {
        for (list, _) in built {
            // SAFETY: just made, nobody else has it.
            unsafe { self.inner.pools.take_apart(list) };
        }
    }

    /// Sends lists in one chain.
    fn start(&self, built: Vec<(*mut Nbl, Arc<Done>)>) -> Vec<Sending> {
        let mut chain = ptr::null_mut();
        for (list, _) in built.iter().rev() {
            // SAFETY: just made, nobody else has it.
            unsafe { (**list).next = chain };
            chain = *list;
        }
        self.inner.counters.out.fetch_add(built.len(), Ordering::AcqRel);
        if !chain.is_null() {
            // SAFETY: the lists are whole; they come back to `sent`.
            unsafe { self.adapter.send(&self.binding, chain) };
        }
        built.into_iter().map(|(_, done)| Sending(done)).collect()
    }

    /// The next frame, if there is one. IRQL <= DISPATCH_LEVEL.
    pub fn next(&self) -> Option<Received> {
        self.inner.queue.lock().pop_front()
    }

    /// All frames that are there. IRQL <= DISPATCH_LEVEL.
    pub fn take(&self) -> VecDeque<Received> {
        core::mem::take(&mut *self.inner.queue.lock())
    }

    /// Waits for a frame, a completion, a status or the end of the adapter. IRQL = PASSIVE_LEVEL. False: nothing came.
    pub fn wait_ms(&self, ms: u64) -> bool {
        self.inner.arrived.wait_ms(ms)
    }

    /// Lets a waiter of [`Client::wait_ms`] go on. IRQL <= DISPATCH_LEVEL.
    pub fn wake(&self) {
        self.inner.arrived.open();
    }

    /// Status indications since the last call: code and data. IRQL <= DISPATCH_LEVEL.
    pub fn statuses(&self) -> Vec<(u32, Vec<u8>)> {
        core::mem::take(&mut *self.inner.statuses.lock())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.adapter.unbind(&self.binding);
    }
}
