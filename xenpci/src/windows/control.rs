//! The device interface for users: [`crate::core::control`] behind file objects and IRPs.
//!
//! A write hands its message over and completes. Answers and events are put into the handle's session on the store's
//! thread, which also completes the reads that wait. Nothing here is paged: the store's thread serves the disks, too.
//! The system buffers of reads and writes are the I/O manager's copies, so what is checked is what is used.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use wdm::{
    event::Mutex,
    irp::{Dispatched, Irp},
    irp_queue::IrpQueue,
    memory::{Shared, try_push, try_vec},
    spinlock::SpinLock,
    status::{Result, Status},
};
use xen_abi::shared::SharedRegion;
use xenbus::control::HANDLES;

use crate::core::{
    control::{Refusal, Session, Totals},
    store::{MAX_IN_FLIGHT, RequestId, StoreClient, WatchId},
};

/// Reads of one handle that may wait.
const READS: usize = 16;

/// One open handle.
pub(crate) struct Handle {
    session: SpinLock<Session>,
    reads: IrpQueue,
    /// Its cleanup has begun.
    closed: AtomicBool,
}

/// All of them. A part of the store: it is called with the store's client locked or lockable.
pub(crate) struct Control {
    totals: Totals,
    handles: Mutex<Vec<Shared<Handle>>>,
    /// By slot of the client: whose request it is.
    owners: SpinLock<Vec<Option<Shared<Handle>>>>,
    /// A bit for each slot that has an owner.
    owned: AtomicU64,
    /// A bit for each such slot whose answer is there.
    ready: AtomicU64,
    /// Handles are closed and not yet done with.
    closing: AtomicBool,
    /// The device is gone.
    removed: AtomicBool,
}

/// The store's client.
type Client = SpinLock<StoreClient<SharedRegion>>;

const _: () = assert!(MAX_IN_FLIGHT <= 64);

impl Control {
    /// Without handles.
    pub(crate) fn new() -> Result<Self> {
        let mut owners = try_vec(MAX_IN_FLIGHT)?;
        owners.resize_with(MAX_IN_FLIGHT, || None);
        Ok(Self {
            totals: Totals::new(),
            handles: Mutex::new(try_vec(HANDLES)?)?,
            owners: SpinLock::new(owners),
            owned: AtomicU64::new(0),
            ready: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            removed: AtomicBool::new(false),
        })
    }

    /// `IRP_MJ_CREATE`: whoever comes as far as this is SYSTEM or an administrator.
    ///
    /// # Errors
    /// [`Status::QUOTA_EXCEEDED`], [`Status::INSUFFICIENT_RESOURCES`], [`Status::DEVICE_REMOVED`].
    pub(crate) fn open(&self) -> Result<Shared<Handle>> {
        let session = Session::new().map_err(status)?;
        let handle = Shared::new(Handle {
            session: SpinLock::new(session),
            reads: IrpQueue::new(READS)?,
            closed: AtomicBool::new(false),
        })?;
        let mut handles = self.handles.lock();
        if self.removed.load(Ordering::Acquire) {
            return Err(Status::DEVICE_REMOVED);
        }
        if handles.len() >= HANDLES {
            return Err(Status::QUOTA_EXCEEDED);
        }
        try_push(&mut handles, handle.clone())?;
        Ok(handle)
    }

    /// `IRP_MJ_WRITE`: one message. The caller pumps the store afterwards. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn write(&self, client: &Client, handle: &Shared<Handle>, irp: Irp) -> Dispatched {
        if self.removed.load(Ordering::Acquire) || handle.closed.load(Ordering::Acquire) {
            return irp.complete(Status::DEVICE_REMOVED);
        }
        let length = irp.written().len();
        let taken = {
            let mut session = handle.session.lock();
            let mut client = client.lock();
            let taken = session.write(&mut client, &self.totals, irp.written());
            if let Ok(Some(id)) = taken {
                // Nobody answers it before it is sent, which is not before the client is unlocked.
                let mut owners = self.owners.lock();
                if let Some(owner) = owners.get_mut(id.slot()) {
                    *owner = Some(handle.clone());
                    self.owned.fetch_or(1 << id.slot(), Ordering::AcqRel);
                }
            }
            taken
        };
        match taken {
            Ok(_) => {
                // What was answered here.
                handle.serve(self);
                irp.complete_moved(length)
            }
            Err(refusal) => irp.complete(status(refusal)),
        }
    }

    /// `IRP_MJ_READ`. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn read(&self, handle: &Handle, mut irp: Irp) -> Dispatched {
        if irp.read_buffer().is_empty() {
            return irp.complete_moved(0);
        }
        let dispatched = handle.reads.insert(irp);
        handle.serve(self);
        dispatched
    }

    /// `IRP_MJ_CLEANUP`: no read waits any more. What the handle has open is ended on the store's thread, which the
    /// caller wakes.
    pub(crate) fn close(&self, handle: &Handle) {
        handle.closed.store(true, Ordering::Release);
        self.closing.store(true, Ordering::Release);
        handle.reads.complete_all(Status::CANCELLED);
    }

    /// The device is gone, or goes: reads end, and nothing is taken any more.
    pub(crate) fn remove(&self) {
        let mut handles = self.handles.lock();
        self.removed.store(true, Ordering::Release);
        for handle in handles.drain(..) {
            handle.reads.complete_all(Status::DEVICE_REMOVED);
        }
        drop(handles);
        for slot in 0..MAX_IN_FLIGHT {
            let owner = self.owners.lock().get_mut(slot).and_then(Option::take);
            drop(owner);
        }
    }

    /// Whether the answer in a slot is a handle's; the store's thread is to be woken then. With the client locked;
    /// IRQL <= DISPATCH_LEVEL.
    pub(crate) fn is_ready(&self, id: RequestId) -> bool {
        let bit = 1 << id.slot();
        let owned = self.owned.load(Ordering::Acquire) & bit != 0;
        if owned {
            self.ready.fetch_or(bit, Ordering::AcqRel);
        }
        owned
    }

    /// Hands the answers that are there to their handles. On the store's thread.
    pub(crate) fn answers(&self, client: &Client) {
        let mut ready = self.ready.swap(0, Ordering::AcqRel);
        while ready != 0 {
            let slot = ready.trailing_zeros() as usize;
            ready &= ready - 1;
            let owner = self.owners.lock().get(slot).cloned().flatten();
            let Some(handle) = owner else { continue };
            let mut session = handle.session.lock();
            session.take_answers(&mut client.lock(), &self.totals, |id| self.disown(id.slot()));
            drop(session);
            handle.serve(self);
        }
    }

    /// With the client locked, so that the slot is not another's yet. The handle has other references.
    fn disown(&self, slot: usize) {
        self.owned.fetch_and(!(1 << slot), Ordering::AcqRel);
        if let Some(owner) = self.owners.lock().get_mut(slot) {
            *owner = None;
        }
    }

    /// Hands a watch event to the handle whose watch it is, if it is one's. On the store's thread.
    pub(crate) fn fired(&self, id: WatchId, path: &[u8]) {
        let found = {
            let handles = self.handles.lock();
            handles.iter().find(|handle| handle.session.lock().fired(id, path)).cloned()
        };
        if let Some(handle) = found {
            handle.serve(self);
        }
    }

    /// Ends what closed handles have open, as far as there is room; `false`: it is to be called again soon. On the store's
    /// thread.
    pub(crate) fn finish_closing(&self, client: &Client) -> bool {
        if !self.closing.swap(false, Ordering::AcqRel) {
            return true;
        }
        let mut handles = self.handles.lock();
        handles.retain(|handle| {
            if !handle.closed.load(Ordering::Acquire) {
                return true;
            }
            let mut session = handle.session.lock();
            let mut client = client.lock();
            for id in session.pending() {
                self.disown(id.slot());
            }
            let done = session.close(&mut client, &self.totals);
            if !done {
                self.closing.store(true, Ordering::Release);
            }
            !done
        });
        !self.closing.load(Ordering::Acquire)
    }
}

impl Handle {
    /// Completes reads as long as there is something to read. IRQL <= DISPATCH_LEVEL.
    fn serve(&self, control: &Control) {
        loop {
            let (irp, count) = {
                let mut session = self.session.lock();
                let gone = control.removed.load(Ordering::Acquire);
                // The reads of a closed handle are cancelled by whoever closes it.
                if self.closed.load(Ordering::Acquire) || (!gone && !session.has_output()) {
                    return;
                }
                let Some(mut irp) = self.reads.pop() else { return };
                let count = if gone { None } else { Some(session.read(irp.read_buffer())) };
                (irp, count)
            };
            let _ = match count {
                Some(count) => irp.complete_moved(count),
                None => irp.complete(Status::DEVICE_REMOVED),
            };
        }
    }
}

fn status(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Malformed => Status::INVALID_PARAMETER,
        Refusal::Quota => Status::QUOTA_EXCEEDED,
        Refusal::NoMemory => Status::INSUFFICIENT_RESOURCES,
        Refusal::Disconnected => Status::DEVICE_NOT_CONNECTED,
    }
}
