//! A frontend as `xenbus::interface` sees it: its store directory, its thread, its watches, channels and grants.
//!
//! The frontend's driver holds references on it through the interface, so it outlives the PDO if need be.

use alloc::vec::Vec;
use core::{
    sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicUsize, Ordering},
    time::Duration,
};

use wdm::{
    device::DeviceObject,
    event::{Event, EventKind, Mutex},
    memory::{Shared, try_push, try_vec},
    spinlock::SpinLock,
    status::{Result, Status},
    thread::{self, Thread},
    warning,
};
use xen_abi::DomId;
use xenbus::interface::{DeviceInfo, LogLevel};

use super::{
    interface::{ForeignSuspend, ForeignWatch},
    platform::{Platform, store_status},
};
use crate::core::{
    enumerate::DeviceName,
    store::{self, NO_TRANSACTION, WatchId},
};

/// Longest path of a change that is remembered; a longer one is told as the watch's own.
const PATH_MAX: usize = 192;

/// What the child's thread is asked to do besides watches.
mod request {
    pub const NONE: u8 = 0;
    pub const FREEZE: u8 = 1;
    pub const RESUME: u8 = 2;
    pub const RESUME_CANCELLED: u8 = 3;
}

/// What changed last below a watched path.
struct Changed {
    bytes: [u8; PATH_MAX],
    len: usize,
}

/// A watch of a child.
pub(crate) struct Watch {
    callback: ForeignWatch,
    path: Vec<u8>,
    pending: AtomicBool,
    changed: SpinLock<Changed>,
    id: SpinLock<Option<WatchId>>,
    ended: AtomicBool,
}

/// A frontend's side of the bus.
pub(crate) struct Child {
    platform: Shared<Platform>,
    name: DeviceName,
    backend: AtomicU16,
    /// The PDO, until it is deleted.
    pdo: SpinLock<Option<DeviceObject>>,
    bus: SpinLock<Option<DeviceObject>>,
    missing: AtomicBool,
    watches: Mutex<Vec<Shared<Watch>>>,
    suspend: SpinLock<Option<ForeignSuspend>>,
    /// Held while a callback runs.
    calling: Mutex<()>,
    request: AtomicU8,
    /// The request was done.
    done: Event,
    frozen: AtomicBool,
    wake: Event,
    stopping: AtomicBool,
    thread: Mutex<Option<Thread>>,
    thread_id: AtomicUsize,
}

impl Child {
    /// The side of `device/<class>/<id>` whose PDO is `pdo`, on the bus whose own PDO is `bus`.
    pub(crate) fn create(
        platform: Shared<Platform>,
        name: DeviceName,
        pdo: DeviceObject,
        bus: DeviceObject,
    ) -> Result<Shared<Self>> {
        let child = Shared::new(Self {
            platform,
            name,
            backend: AtomicU16::new(0),
            pdo: SpinLock::new(Some(pdo)),
            bus: SpinLock::new(Some(bus)),
            missing: AtomicBool::new(false),
            watches: Mutex::new(Vec::new())?,
            suspend: SpinLock::new(None),
            calling: Mutex::new(())?,
            request: AtomicU8::new(request::NONE),
            done: Event::new(EventKind::Synchronization, false)?,
            frozen: AtomicBool::new(false),
            wake: Event::new(EventKind::Synchronization, false)?,
            stopping: AtomicBool::new(false),
            thread: Mutex::new(None)?,
            thread_id: AtomicUsize::new(0),
        })?;
        child.read_backend()?;
        let this = child.clone();
        *child.thread.lock() = Some(Thread::spawn(move || this.work())?);
        Ok(child)
    }

    /// Ends the thread and the watches: the PDO is about to be deleted, and its driver is gone.
    pub(crate) fn disconnect(&self) {
        *self.pdo.lock() = None;
        *self.bus.lock() = None;
        self.stopping.store(true, Ordering::Release);
        self.wake.set();
        drop(self.thread.lock().take());
        let watches = core::mem::take(&mut *self.watches.lock());
        for watch in watches {
            warning!("{}: a watch was left behind", self.name);
            self.end(&watch);
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &DeviceName {
        &self.name
    }

    /// The connection to Xen.
    pub(crate) fn platform(&self) -> &Platform {
        &self.platform
    }

    /// The PDO of the platform device, until the child's own is deleted. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn bus(&self) -> Option<DeviceObject> {
        *self.bus.lock()
    }

    /// Whose backend it is. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn backend(&self) -> DomId {
        self.backend.load(Ordering::Relaxed)
    }

    fn read_backend(&self) -> Result {
        let path = self.path(b"backend-id")?;
        let number = store::read_number(&**self.platform.store(), NO_TRANSACTION, &path).map_err(|error| {
            warning!("{}: backend-id: {error}", self.name);
            store_status(error)
        })?;
        let domid = u16::try_from(number).ok().filter(|domid| *domid < xen_abi::DOMID_FIRST_RESERVED);
        let Some(domid) = domid else {
            warning!("{}: backend-id {number} is no domain", self.name);
            return Err(Status::DEVICE_PROTOCOL_ERROR);
        };
        self.backend.store(domid, Ordering::Relaxed);
        Ok(())
    }

    /// A path of the interface as the store knows it: below the frontend's directory unless it is absolute.
    pub(crate) fn path(&self, path: &[u8]) -> Result<Vec<u8>> {
        let home = self.name.path();
        let absolute = path.first() == Some(&b'/');
        let mut full = try_vec(home.as_bytes().len() + 1 + path.len())?;
        if !absolute {
            full.extend_from_slice(home.as_bytes());
            if !path.is_empty() {
                full.push(b'/');
            }
        }
        full.extend_from_slice(path);
        Ok(full)
    }

    /// What the interface tells. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn info(&self) -> DeviceInfo {
        let home = self.name.path();
        let counts = self.platform.grants().counts();
        let mut path = [0; 64];
        let length = home.as_bytes().len().min(path.len());
        path[..length].copy_from_slice(&home.as_bytes()[..length]);
        DeviceInfo {
            backend_domid: self.backend(),
            cpus: self.platform.events().processors(),
            grants_available: counts.free + counts.can_grow,
            path_len: length as u32,
            path,
        }
    }

    /// Writes a log line with the device's path before it. Any IRQL.
    pub(crate) fn log(&self, level: LogLevel, text: &str) {
        let name = &self.name;
        match level {
            LogLevel::Error => wdm::error!("{name}: {text}"),
            LogLevel::Warning => wdm::warning!("{name}: {text}"),
            LogLevel::Info => wdm::info!("{name}: {text}"),
            LogLevel::Debug => wdm::debug!("{name}: {text}"),
        }
    }

    /// Asks Windows to eject the device. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn request_eject(&self) {
        // The lock keeps the PDO from being deleted meanwhile.
        if let Some(pdo) = *self.pdo.lock() {
            pdo.request_eject();
        }
    }

    /// Has the bus report the device missing. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn report_missing(&self) {
        self.missing.store(true, Ordering::Release);
        if let Some(bus) = *self.bus.lock() {
            bus.invalidate(wdm::device::Relations::Bus);
        }
    }

    /// Whether its driver has said that it is gone. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn is_missing(&self) -> bool {
        self.missing.load(Ordering::Acquire)
    }

    /// Sets a watch whose callback runs on the child's thread.
    pub(crate) fn watch(this: &Shared<Self>, path: &[u8], callback: ForeignWatch) -> Result<Shared<Watch>> {
        let path = this.path(path)?;
        let watch = Shared::new(Watch {
            callback,
            path,
            pending: AtomicBool::new(false),
            changed: SpinLock::new(Changed { bytes: [0; PATH_MAX], len: 0 }),
            id: SpinLock::new(None),
            ended: AtomicBool::new(false),
        })?;
        try_push(&mut this.watches.lock(), watch.clone())?;
        let (child, fired) = (this.clone(), watch.clone());
        let set = this.platform.store().watch(&watch.path, move |path| {
            fired.note(path);
            child.wake.set();
        });
        match set {
            Ok(id) => {
                *watch.id.lock() = Some(id);
                Ok(watch)
            }
            Err(status) => {
                // No waiting for a callback: the caller may hold what one of another watch is waiting for.
                this.forget(&watch);
                Err(status)
            }
        }
    }

    /// Ends a watch. No callback runs after it returned, unless it is called from that callback.
    pub(crate) fn unwatch(&self, watch: &Shared<Watch>) {
        self.forget(watch);
        self.wait_for_callback();
    }

    fn forget(&self, watch: &Shared<Watch>) {
        self.watches.lock().retain(|known| !Shared::same(known, watch));
        self.end(watch);
    }

    fn end(&self, watch: &Watch) {
        watch.ended.store(true, Ordering::Release);
        let id = watch.id.lock().take();
        if let Some(id) = id {
            self.platform.store().unwatch(id);
        }
    }

    /// Waits until the callback that runs now, if any, has returned.
    fn wait_for_callback(&self) {
        if self.thread_id.load(Ordering::Acquire) != thread::current_id() {
            drop(self.calling.lock());
        }
    }

    /// Says what to do around a suspend; one at a time.
    pub(crate) fn register_suspend(&self, callbacks: ForeignSuspend) -> Result {
        let mut registered = self.suspend.lock();
        if registered.is_some() {
            return Err(Status::INVALID_PARAMETER);
        }
        *registered = Some(callbacks);
        Ok(())
    }

    /// Takes that back, and waits for a callback that runs.
    pub(crate) fn unregister_suspend(&self) {
        *self.suspend.lock() = None;
        self.wait_for_callback();
    }

    /// Has the child's thread freeze the frontend. [`Child::finish`] waits for it.
    pub(crate) fn begin_freeze(&self) {
        self.ask(request::FREEZE);
    }

    /// Has the child's thread resume the frontend. [`Child::finish`] waits for it.
    pub(crate) fn begin_resume(&self, cancelled: bool) {
        self.ask(if cancelled { request::RESUME_CANCELLED } else { request::RESUME });
    }

    fn ask(&self, what: u8) {
        self.done.clear();
        self.request.store(what, Ordering::Release);
        self.wake.set();
    }

    /// Waits for what was asked; `false`: it takes too long.
    pub(crate) fn finish(&self, bound: Duration) -> bool {
        self.stopping.load(Ordering::Acquire) || self.done.wait_for(bound) || self.stopping.load(Ordering::Acquire)
    }

    /// The child's thread.
    fn work(&self) {
        self.thread_id.store(thread::current_id(), Ordering::Release);
        while !self.stopping.load(Ordering::Acquire) {
            self.wake.wait();
            let what = self.request.swap(request::NONE, Ordering::AcqRel);
            if what != request::NONE {
                self.around_suspend(what);
                self.done.set();
            }
            if !self.frozen.load(Ordering::Relaxed) {
                self.run_watches();
            }
        }
        // Whoever waits for a request that came too late goes on.
        self.done.set();
    }

    fn around_suspend(&self, what: u8) {
        self.frozen.store(what == request::FREEZE, Ordering::Relaxed);
        if what == request::RESUME
            && let Err(status) = self.read_backend()
        {
            warning!("{}: the backend after the resume: {status}", self.name);
        }
        let calling = self.calling.lock();
        let callbacks = *self.suspend.lock();
        if let Some(callbacks) = callbacks {
            match what {
                request::FREEZE => callbacks.freeze(),
                _ => callbacks.resume(what == request::RESUME_CANCELLED),
            }
        }
        drop(calling);
        // Watches that fired while it was frozen.
        self.wake.set();
    }

    fn run_watches(&self) {
        loop {
            let next = {
                let watches = self.watches.lock();
                watches.iter().find(|watch| watch.pending.swap(false, Ordering::AcqRel)).cloned()
            };
            let Some(watch) = next else { return };
            let calling = self.calling.lock();
            if !watch.ended.load(Ordering::Acquire) {
                let (bytes, len) = {
                    let changed = watch.changed.lock();
                    (changed.bytes, changed.len)
                };
                watch.callback.call(if len == 0 { &watch.path } else { &bytes[..len] });
            }
            drop(calling);
            if self.stopping.load(Ordering::Acquire) || self.request.load(Ordering::Acquire) != request::NONE {
                // What is left is run after that.
                self.wake.set();
                return;
            }
        }
    }
}

impl Watch {
    /// Remembers that something changed. On the store's thread.
    fn note(&self, path: &[u8]) {
        {
            let mut changed = self.changed.lock();
            changed.len = if path.len() <= PATH_MAX { path.len() } else { 0 };
            let len = changed.len;
            changed.bytes[..len].copy_from_slice(&path[..len]);
        }
        self.pending.store(true, Ordering::Release);
    }
}
