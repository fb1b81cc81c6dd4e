//! xenstore: [`crate::core::store`] with an event channel, bounded waits, and a thread that hands watch events on. The
//! users' handles ([`super::control`]) go through it, too.

use alloc::{boxed::Box, vec::Vec};
use core::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use wdm::{
    event::{Event, EventKind, Mutex},
    irp::{Dispatched, Irp},
    memory::{Shared, try_box, try_copy, try_push, try_vec},
    spinlock::SpinLock,
    status::{Result, Status},
    thread::Thread,
    time, warning,
};
use xen_abi::{
    hvm::{PARAM_STORE_EVTCHN, PARAM_STORE_PFN},
    shared::SharedRegion,
    xenstore::MessageType,
};
use xenbus::interface::EventOutcome;

use super::{
    control::{Control, Handle},
    events::{Channel, Events},
    hypercall::Gate,
    platform::store_status,
    shared::ForeignPage,
};
use crate::core::{
    hypercall::{get_param, insist},
    store::{self, MAX_IN_FLIGHT, Request, RequestId, StoreClient, StoreError, Transaction, WatchId},
};

/// How long an answer may take. xenstored answers in well under a millisecond; a busy dom0 may need seconds.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// How long requests in flight may take to end before a suspend.
const QUIET_TIME: Duration = Duration::from_secs(10);
/// How long a lack of memory is waited out when the connection depends on it.
const MEMORY_TIME: Duration = Duration::from_secs(10);
/// Between two looks at something that no event announces.
const POLL: Duration = Duration::from_millis(1);

/// What is done with a watch's events, on the store's thread: quickly, and without asking the store anything.
type Sink = Box<dyn Fn(&[u8]) + Send + Sync>;

/// xenstore.
pub(crate) struct Store {
    gate: Gate,
    events: Shared<Events>,
    client: SpinLock<StoreClient<SharedRegion>>,
    /// The channel, where it is needed at DISPATCH_LEVEL.
    channel: SpinLock<Option<Shared<Channel>>>,
    /// The ring's page.
    page: Mutex<Option<ForeignPage>>,
    /// By slot: the answer is there.
    answered: Vec<Event>,
    sinks: Mutex<Vec<(WatchId, Shared<Sink>)>>,
    /// The users' handles.
    control: Control,
    /// Watch events wait, or answers to users' requests.
    fired: Event,
    /// Between freezing and thawing: the ring is not touched.
    paused: AtomicBool,
    stopping: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Store {
    /// Connects.
    pub(crate) fn start(gate: Gate, events: Shared<Events>) -> Result<Shared<Self>> {
        let mut answered = try_vec(MAX_IN_FLIGHT)?;
        for _ in 0..MAX_IN_FLIGHT {
            answered.push(Event::new(EventKind::Synchronization, false)?);
        }
        let store = Shared::new(Self {
            gate,
            events,
            client: SpinLock::new(StoreClient::new().map_err(store_status)?),
            channel: SpinLock::new(None),
            page: Mutex::new(None)?,
            answered,
            sinks: Mutex::new(Vec::new())?,
            control: Control::new()?,
            fired: Event::new(EventKind::Synchronization, false)?,
            paused: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            thread: Mutex::new(None)?,
        })?;
        connect(&store)?;
        let this = store.clone();
        match Thread::spawn(move || this.deliver()) {
            Ok(thread) => *store.thread.lock() = Some(thread),
            Err(status) => {
                store.stop();
                return Err(status);
            }
        }
        // An earlier instance of the driver may have left watches behind. Not every xenstored knows the request.
        if let Err(error) = store::reset_watches(&*store) {
            wdm::debug!("watches cannot be reset: {error}");
        }
        Ok(store)
    }

    /// Ends the connection: every request that waits fails, and no watch fires any more.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.fired.set();
        drop(self.thread.lock().take());
        self.disconnect();
        self.sinks.lock().clear();
    }

    /// Ends the connection: every request that waits fails, and every later one.
    fn disconnect(&self) {
        self.control.remove();
        let channel = self.channel.lock().take();
        if let Some(channel) = channel {
            // The port is the toolstack's: it stays, for the next driver to find.
            self.events.release(&channel);
        }
        let _ = self.client.lock().disconnect(|id| self.answer(id));
        let page = self.page.lock().take();
        drop(page);
    }

    fn answer(&self, id: RequestId) {
        if self.control.is_ready(id) {
            self.fired.set();
        } else if let Some(event) = self.answered.get(id.slot()) {
            event.set();
        }
    }

    /// Moves bytes both ways; whether there is more to do. IRQL <= DISPATCH_LEVEL.
    fn pump(&self) -> bool {
        let pumped = {
            let mut client = self.client.lock();
            if self.paused.load(Ordering::Relaxed) || !client.is_connected() {
                return false;
            }
            client.pump(|id| self.answer(id))
        };
        match pumped {
            Ok(pumped) => {
                if pumped.notify {
                    let channel = self.channel.lock().clone();
                    if let Some(channel) = channel {
                        self.events.send(&channel);
                    }
                }
                if pumped.events {
                    self.fired.set();
                }
                pumped.more
            }
            Err(error) => {
                wdm::error!("the connection to xenstored is given up: {error}");
                // The thread tells the users.
                self.fired.set();
                false
            }
        }
    }

    /// The store's thread: hands watch events and the answers to users' requests on.
    fn deliver(&self) {
        let mut all_closed = true;
        loop {
            if all_closed {
                self.fired.wait();
            } else {
                // What a closed handle left open waits for a free slot, which nothing announces.
                let _ = self.fired.wait_for(POLL);
            }
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            if !self.client.lock().is_connected() {
                self.control.remove();
            }
            all_closed = self.control.finish_closing(&self.client);
            while self.pump() {}
            loop {
                let (event, odd) = {
                    let mut client = self.client.lock();
                    (client.next_event(), client.take_oddities())
                };
                // The answer to a watch came before its first event, and goes to the user before it.
                self.control.answers(&self.client);
                if odd != store::Oddities::default() {
                    warning!("xenstored: {odd:?}");
                }
                let Some(event) = event else { break };
                let sink = {
                    let sinks = self.sinks.lock();
                    sinks.iter().find(|(id, _)| *id == event.watch).map(|(_, sink)| sink.clone())
                };
                match sink {
                    Some(sink) => sink(&event.path),
                    None => self.control.fired(event.watch, &event.path),
                }
            }
        }
    }

    /// Opens a handle for a user.
    ///
    /// # Errors
    /// See [`Control::open`].
    pub(crate) fn open(&self) -> Result<Shared<Handle>> {
        self.control.open()
    }

    /// A user's IRP_MJ_READ. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn user_read(&self, handle: &Handle, irp: Irp) -> Dispatched {
        self.control.read(handle, irp)
    }

    /// A user's IRP_MJ_WRITE. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn user_write(&self, handle: &Shared<Handle>, irp: Irp) -> Dispatched {
        let dispatched = self.control.write(&self.client, handle, irp);
        while self.pump() {}
        dispatched
    }

    /// A user's last handle to a file is closed.
    pub(crate) fn user_close(&self, handle: &Handle) {
        self.control.close(handle);
        self.fired.set();
    }

    /// The device is gone by surprise: users get no further.
    pub(crate) fn remove_users(&self) {
        self.control.remove();
    }

    /// Sets a watch. `sink` is called once at once.
    pub(crate) fn watch<F: Fn(&[u8]) + Send + Sync + 'static>(&self, path: &[u8], sink: F) -> Result<WatchId> {
        let sink: Sink = try_box(sink)?;
        let sink = Shared::new(sink)?;
        let id = self.client.lock().add_watch(path).map_err(store_status)?;
        let set = try_push(&mut self.sinks.lock(), (id, sink))
            .and_then(|()| store::watch(self, path, id).map_err(store_status));
        if set.is_err() {
            self.forget(id);
        }
        set.map(|()| id)
    }

    fn forget(&self, id: WatchId) -> Option<Vec<u8>> {
        self.sinks.lock().retain(|(known, _)| *known != id);
        self.client.lock().remove_watch(id)
    }

    /// Ends a watch. A call of its sink may still be under way.
    pub(crate) fn unwatch(&self, id: WatchId) {
        if let Some(path) = self.forget(id)
            && let Err(error) = store::unwatch(self, &path, id)
        {
            wdm::debug!("a watch cannot be ended: {error}");
        }
    }

    /// Before a suspend: keeps new requests back, lets those in flight end, then leaves the ring alone.
    ///
    /// # Errors
    /// [`Status::IO_TIMEOUT`]: xenstored did not answer. [`Store::thaw`] is due all the same.
    pub(crate) fn freeze(&self) -> Result {
        self.client.lock().freeze();
        let mut waited = Duration::ZERO;
        loop {
            while self.pump() {}
            {
                let client = self.client.lock();
                if client.is_quiet() {
                    self.paused.store(true, Ordering::Relaxed);
                    return Ok(());
                }
            }
            if waited >= QUIET_TIME {
                return Err(Status::IO_TIMEOUT);
            }
            time::sleep(POLL);
            waited += POLL;
        }
    }

    /// Lets requests go on in a domain in which nothing happened.
    pub(crate) fn thaw(&self) {
        self.client.lock().thaw();
        self.paused.store(false, Ordering::Relaxed);
        while self.pump() {}
    }
}

/// Connects by the HVM parameters, which a new domain has anew. Requests that wait are sent again.
fn connect(store: &Shared<Store>) -> Result {
    let parameter = |index| {
        insist(|| get_param(&store.gate, index)).ok().filter(|value| *value != 0).ok_or_else(|| {
            wdm::error!("xenstore has neither page nor event channel here");
            Status::NOT_SUPPORTED
        })
    };
    let generation = store.events.generation();
    if store.events.is_broken() {
        return Err(Status::NOT_SUPPORTED);
    }
    let gfn = parameter(PARAM_STORE_PFN)?;
    let port = u32::try_from(parameter(PARAM_STORE_EVTCHN)?).map_err(|_| Status::DEVICE_PROTOCOL_ERROR)?;
    let mut kept = store.page.lock();
    let page = match kept.take() {
        Some(page) if page.gfn() == gfn => page,
        _ => ForeignPage::new(gfn)?,
    };
    let this = store.clone();
    let channel = store
        .events
        .adopt(port, generation, move || if this.pump() { EventOutcome::More } else { EventOutcome::Done })?;
    store.client.lock().connect(page.region(), |id| store.answer(id));
    let old = store.channel.lock().replace(channel);
    drop(old);
    store.paused.store(false, Ordering::Relaxed);
    *kept = Some(page);
    drop(kept);
    while store.pump() {}
    Ok(())
}

/// Does what may lack memory until it has it, for a while.
fn patiently<T>(mut step: impl FnMut() -> Result<T>) -> Result<T> {
    let mut waited = Duration::ZERO;
    loop {
        match step() {
            Err(Status::INSUFFICIENT_RESOURCES) if waited < MEMORY_TIME => {
                time::sleep(POLL);
                waited += POLL;
            }
            done => return done,
        }
    }
}

/// In a new domain: connects, and sets every watch again. The guest is deaf for good without, so a lack of memory is
/// waited out for a while.
pub(crate) fn reconnect(store: &Shared<Store>) -> Result {
    if let Err(status) = patiently(|| connect(store)) {
        wdm::error!("no connection to xenstore in the new domain ({status}): the devices do not come back");
        store.disconnect();
        return Err(status);
    }
    let mut watches = patiently(|| {
        let client = store.client.lock();
        let count = client.watches().count();
        let mut watches = try_vec(count)?;
        for (id, path) in client.watches() {
            watches.push((id, try_copy(path)?));
        }
        Ok(watches)
    })?;
    for (id, path) in watches.drain(..) {
        if let Err(error) = store::watch(&**store, &path, id) {
            warning!("a watch cannot be set again: {error}");
        }
    }
    Ok(())
}

impl store::Store for Store {
    fn request(
        &self,
        kind: MessageType,
        transaction: Transaction,
        parts: &[&[u8]],
    ) -> core::result::Result<Vec<u8>, StoreError> {
        let mut request = Request::new(kind, transaction, parts)?;
        let mut waited = Duration::ZERO;
        let id = loop {
            let mut client = self.client.lock();
            match client.submit(request) {
                Ok(id) => {
                    // Nobody sets it before the request is sent, which is not before the lock is released.
                    if let Some(event) = self.answered.get(id.slot()) {
                        event.clear();
                    }
                    break id;
                }
                Err((StoreError::Busy, back)) if waited < ANSWER_TIME => request = back,
                Err((error, _)) => return Err(error),
            }
            drop(client);
            time::sleep(POLL);
            waited += POLL;
        };
        while self.pump() {}
        let event = self.answered.get(id.slot()).ok_or(StoreError::Protocol)?;
        loop {
            let in_time = event.wait_for(ANSWER_TIME);
            let mut client = self.client.lock();
            if let Some(answer) = client.take(id) {
                return answer;
            }
            // A suspend keeps requests back for as long as it lasts.
            if !in_time && !self.paused.load(Ordering::Relaxed) {
                client.abandon(id);
                return Err(StoreError::TimedOut);
            }
        }
    }
}
