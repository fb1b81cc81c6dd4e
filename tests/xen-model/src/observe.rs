//! What the model counts, records and can be told to get wrong: counters, guest errors, the trace, failing hypercalls.

use std::collections::BTreeMap;
use std::fmt;

use crate::machine::Mfn;

/// How often things happened since the start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Hypercalls by number and sub-operation.
    pub hypercalls: BTreeMap<(u32, u64), u64>,
    /// Hypercalls that returned a negative value, by number and sub-operation.
    pub failed_hypercalls: BTreeMap<(u32, u64), u64>,
    /// `EVTCHNOP_send` calls of the guest.
    pub guest_sends: u64,
    /// Events that backends sent to the guest.
    pub backend_sends: u64,
    /// Upcalls by `(vcpu, vector)`; vector 0 stands for the interrupt line.
    pub upcalls: BTreeMap<(u32, u8), u64>,
    /// Grants that backends mapped.
    pub grant_maps: u64,
    /// Grants that backends unmapped.
    pub grant_unmaps: u64,
    /// Grants that backends copied to or from (`GNTTABOP_copy`).
    pub grant_copies: u64,
    /// Grant maps and copies that were refused.
    pub grant_refused: u64,
    /// Bytes that backends moved between the guest's pages and disks, and copied to or from granted pages.
    pub bytes_moved: u64,
    /// Requests that xenstored answered for the guest.
    pub store_requests: u64,
    /// Watch events that xenstored sent to the guest.
    pub store_events: u64,
    /// Transactions of the guest that ended in `EAGAIN`.
    pub store_conflicts: u64,
    /// Saves and restores done.
    pub suspends: u64,
    /// Suspends that were cancelled.
    pub suspends_cancelled: u64,
    /// Ring requests in flight in block backends at the moments of save.
    pub in_flight_at_suspend: u64,
    /// Hypercalls that were made to fail.
    pub injected_failures: u64,
}

impl Counters {
    /// Hypercalls of one number, whatever the sub-operation.
    pub fn hypercalls_of(&self, op: u32) -> u64 {
        self.hypercalls.iter().filter(|((o, _), _)| *o == op).map(|(_, n)| n).sum()
    }

    /// All upcalls.
    pub fn upcalls_total(&self) -> u64 {
        self.upcalls.values().sum()
    }
}

/// A piece of a frame that netback put into a page of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The page's frame.
    pub mfn: Mfn,
    /// Where in the page the piece begins.
    pub offset: usize,
    /// Its bytes.
    pub len: usize,
    /// Where in the network frame it begins.
    pub at: usize,
}

/// What the guest did that a correct guest does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuestErrorKind {
    /// A hypercall where there is no Xen.
    HypercallWithoutXen,
    /// A grant reference in a request that cannot be mapped: not granted, wrong domain, read-only, no such page.
    BadGrant,
    /// Ring indices that are not possible.
    BadRing,
    /// A request that Linux's blkback or netback refuses.
    BadRequest,
    /// Memory was populated over a page that is still there.
    PopulatedTwice,
    /// A page was given up or replaced while a backend still has it mapped by grant.
    FreedWhileGranted,
    /// A FIFO event was ready but no control block or event word was there to say so.
    FifoNotReady,
    /// A xenstore request that breaks the protocol.
    StoreProtocol,
    /// The frontend's negotiation keys make no sense.
    BadNegotiation,
    /// The guest suspended on another virtual CPU than 0, the only one whose return code the toolstack sets.
    SuspendOnWrongCpu,
}

/// One record of such a thing.
#[derive(Clone, Debug)]
pub struct GuestError {
    /// What sort.
    pub kind: GuestErrorKind,
    /// One line for people.
    pub detail: String,
}

impl fmt::Display for GuestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail)
    }
}

/// One recorded step, for comparison with a trace of the real thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceEvent {
    /// A hypercall and its result.
    Hypercall {
        /// The virtual CPU.
        vcpu: u32,
        /// The hypercall's number.
        op: u32,
        /// Its first two arguments: sub-operation and argument or pointer.
        args: [u64; 2],
        /// What it returned.
        result: i64,
    },
    /// A xenstore message, whole.
    Store {
        /// Whether the guest sent it (otherwise xenstored did).
        from_guest: bool,
        /// Type, request id, transaction id.
        header: [u32; 3],
        /// The payload.
        payload: Vec<u8>,
    },
    /// Ring indices as a block backend saw them.
    Ring {
        /// The virtual device number.
        vdev: u32,
        /// `req_prod` as read.
        req_prod: u32,
        /// The backend's consumer index.
        req_cons: u32,
        /// `rsp_prod` as published.
        rsp_prod: u32,
    },
    /// An event to the guest.
    Event {
        /// The guest's port.
        port: u32,
    },
}

/// Receives trace events as they happen.
pub type TraceSink = Box<dyn FnMut(&TraceEvent) + Send>;

/// A hypercall that shall fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The hypercall's number; `None`: any.
    pub op: Option<u32>,
    /// Its sub-operation; `None`: any.
    pub sub: Option<u64>,
    /// How many matching calls pass first.
    pub after: u64,
    /// The (negative) value returned instead of doing anything.
    pub errno: i64,
    /// Whether every later call of the operation that failed fails as well.
    pub lasting: bool,
}
