//! Protocols on an adapter, and what is counted of its traffic.

use super::abi::pause;
use super::adapter::Adapter;
use super::oid_abi::{filter, oid};
use super::packet::Nbl;
use crate::io::kernel::note;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

static NEXT_BINDING: AtomicUsize = AtomicUsize::new(1);

/// What is bound to an adapter: a protocol. Calls may come on any processor.
pub trait Protocol: Send + Sync {
    /// Frames came in. They go back to the miniport when the last copy of each is dropped. IRQL <= DISPATCH_LEVEL.
    fn receive(&self, frames: &[super::flow::Received]);
    /// Lists of this binding came back from the miniport, in a chain. IRQL <= DISPATCH_LEVEL.
    fn sent(&self, chain: *mut Nbl);
    /// The miniport indicated a status. IRQL <= DISPATCH_LEVEL.
    fn status(&self, code: u32, data: &[u8]);
    /// Traffic stops: frames that are held must be dropped soon. IRQL = PASSIVE_LEVEL.
    fn pausing(&self);
    /// Traffic goes on. IRQL = PASSIVE_LEVEL.
    fn restarted(&self);
    /// The adapter goes for good. IRQL = PASSIVE_LEVEL.
    fn unbound(&self);
}

/// A protocol on an adapter.
pub struct Binding {
    /// Who it is.
    pub protocol: Arc<dyn Protocol>,
    /// What stands in `NET_BUFFER_LIST.SourceHandle` of what it sends.
    pub id: usize,
}

/// Figures of an adapter; all only grow.
#[derive(Default)]
pub struct Counters {
    /// Lists given to the miniport.
    pub sent: AtomicU64,
    /// Calls of its send function.
    pub send_calls: AtomicU64,
    /// Lists completed.
    pub completed: AtomicU64,
    /// Calls that completed them.
    pub complete_calls: AtomicU64,
    /// Lists that were refused because of a pause, by the port.
    pub refused: AtomicU64,
    /// Lists indicated.
    pub indicated: AtomicU64,
    /// Calls that indicated them.
    pub indicate_calls: AtomicU64,
    /// Of these lists, those with NDIS_RECEIVE_FLAGS_RESOURCES.
    pub low_resources: AtomicU64,
    /// Calls that returned lists.
    pub return_calls: AtomicU64,
    /// Frames indicated that the packet filter does not ask for.
    pub unfiltered: AtomicU64,
    /// Pauses done.
    pub pauses: AtomicU64,
    /// Resets done.
    pub resets: AtomicU64,
    /// OID requests done.
    pub oids: AtomicU64,
}

impl Adapter {
    /// The bindings now.
    pub(super) fn bound(&self) -> Vec<Arc<Binding>> {
        self.bindings.lock().clone()
    }

    /// Binds a protocol. IRQL = PASSIVE_LEVEL. `None`: the adapter is going.
    pub fn bind(&self, protocol: Arc<dyn Protocol>) -> Option<Arc<Binding>> {
        let binding = Arc::new(Binding { protocol, id: NEXT_BINDING.fetch_add(1, Ordering::Relaxed) });
        let mut bindings = self.bindings.lock();
        if self.is_gone() {
            return None;
        }
        bindings.push(binding.clone());
        Some(binding)
    }

    /// Takes a binding away: the adapter pauses, so nothing of it is out, and goes on. The last one takes the packet filter
    /// with it. IRQL = PASSIVE_LEVEL.
    pub fn unbind(self: &Arc<Self>, binding: &Arc<Binding>) {
        let running = self.stop_traffic(pause::UNBIND_PROTOCOL);
        let last = {
            let mut bindings = self.bindings.lock();
            bindings.retain(|b| !Arc::ptr_eq(b, binding));
            bindings.is_empty()
        };
        if running && last {
            let _ = self.set(oid::GEN_CURRENT_PACKET_FILTER, &0_u32.to_le_bytes());
        }
        if running && let Err(status) = self.resume_traffic() {
            note(format_args!("ndis: {}: MiniportRestart failed with {status:#x}", self.instance));
        }
    }

    /// Whether the packet filter asks for a frame to this address.
    pub(super) fn wants(&self, destination: &[u8]) -> bool {
        let bits = self.filter.load(Ordering::Acquire);
        let kind = if destination == [0xff; 6] {
            filter::BROADCAST | filter::ALL_MULTICAST
        } else if destination[0] & 1 != 0 {
            filter::MULTICAST | filter::ALL_MULTICAST
        } else if destination == self.about.lock().current_address {
            filter::DIRECTED
        } else {
            0
        };
        bits & (kind | filter::PROMISCUOUS) != 0
    }
}
