//! The connection to the backend: carries out what the state machine of [`xenbus::frontend`] says. All of it at
//! PASSIVE_LEVEL, on the bus's thread for the device or on a PnP thread, one at a time under [`Adapter::control`].

use core::{sync::atomic::Ordering, time::Duration};

use wdm::{memory::try_vec, status::Status as NtStatus, time::monotonic};
use xen_abi::{unplug::Unplug, xenbus::XenbusState};
use xenbus::{
    client::{Bus, Client, Device, Error, EventHandler, Result, Transaction, Watch},
    frontend::{ATTEMPTS, Action, Frontend, Wait},
    interface::{EventOutcome, LogLevel},
    pages::take_references,
    path::Path,
    store,
};

use super::{
    adapter::{Adapter, BUDGET},
    raw::{self, SharedPages},
    settings,
};
use crate::{
    front::{
        self,
        config::{self, Spelling},
    },
    scsi::{Sense, Serial},
};

/// Seconds that each step of closing waits for the backend.
const CLOSE_STEP: u64 = 5;
/// Most waits of closing: each step of ours ends one too.
const CLOSE_STEPS: u32 = 8;
/// Attempts at a step for which there is no memory, and the time that they take together.
const TRIES: u32 = 8;
const PATIENCE: Duration = Duration::from_millis(400);

/// The least time between two looks of the keeper.
const TICK: Duration = Duration::from_millis(1);

/// What the connection is about.
pub struct Control {
    frontend: Frontend,
    /// What the frontend waits for, and until when.
    waiting: Option<(Wait, Duration)>,
    backend: Option<Path>,
    watch: Option<Watch>,
    device: u32,
    cdrom: bool,
    serial: Serial,
    suspend_registered: bool,
    closed: bool,
}

/// Whether QEMU shows the same disk as an emulated one, until it is unplugged: it does so with the first four.
fn has_emulated_twin(device: u32) -> bool {
    match device >> 8 {
        // IDE: hda to hdd.
        3 | 22 => true,
        // sda to sdp and xvda to xvdp, sixteen minors each.
        8 | 202 => (device & 0xff) >> 4 < 4,
        _ => false,
    }
}

impl Control {
    /// Reads what does not change as long as the device is there; and whether the disk is to be withheld from Windows.
    ///
    /// # Errors
    /// [`NtStatus::NO_SUCH_DEVICE`]: the device is not for this driver. Or the store's error.
    pub fn read(client: &Client) -> wdm::Result<(Self, bool)> {
        let info = client.info();
        let own = info.path.get(..info.path_len as usize).unwrap_or(&[]);
        // The directory's last part is the device's number, whatever its nodes say.
        let name = own.rsplit(|byte| *byte == b'/').next().unwrap_or(&[]);
        let device = store::decimal(name).and_then(|number| u32::try_from(number).ok());
        let Some(device) = device else {
            client.log(LogLevel::Error, format_args!("the directory's name is no device number"));
            return Err(NtStatus::NO_SUCH_DEVICE);
        };
        let mut kind = [0; 16];
        let cdrom = match client.read(Transaction::NONE, b"device-type", &mut kind) {
            Ok(len) => kind.get(..len) == Some(b"cdrom"),
            Err(_) => false,
        };
        let twin = has_emulated_twin(device);
        if twin && cdrom {
            // No unplug takes a CD-ROM drive away.
            client.log(LogLevel::Info, format_args!("CD-ROM {device} is emulated too and left to that"));
            return Err(NtStatus::NO_SUCH_DEVICE);
        }
        let withheld = twin && !client.unplugged().contains(Unplug::IDE_DISKS);
        if withheld {
            client.log(LogLevel::Info, format_args!("disk {device} is emulated in this boot and left to that"));
        }
        let control = Self {
            frontend: Frontend::new(),
            waiting: None,
            backend: None,
            watch: None,
            device,
            cdrom,
            serial: Serial::NONE,
            suspend_registered: false,
            closed: false,
        };
        Ok((control, withheld))
    }

    /// The `handle` of ring requests.
    pub fn handle(&self) -> u16 {
        self.device as u16
    }

    /// Whether starting has nothing to wait for any more.
    pub fn is_settled(&self) -> bool {
        self.frontend.is_connected() || self.frontend.has_failed() || self.frontend.has_vanished() || self.closed
    }
}

/// The serial number, from the domain's UUID: the backend's `frontend` key names the domain's directory, whose `vm` is
/// `/vm/<uuid>`.
#[inline(never)]
fn read_serial(client: &Client, backend: &Path, device: u32) -> Serial {
    let mut buf = [0; xenbus::path::MAX];
    let mut serial = || -> Option<Serial> {
        let len = client.read(Transaction::NONE, backend.join("frontend").ok()?.as_bytes(), &mut buf).ok()?;
        let frontend = buf.get(..len)?;
        let home = frontend.len().checked_sub(client.info().path_len as usize)?;
        let home = Path::new(frontend.get(..home)?.strip_suffix(b"/")?).ok()?;
        let mut vm = [0; 64];
        let len = client.read(Transaction::NONE, home.join("vm").ok()?.as_bytes(), &mut vm).ok()?;
        let uuid = vm.get(..len)?.rsplit(|byte| *byte == b'/').next()?;
        Some(Serial::new(uuid, device))
    };
    match serial() {
        Some(serial) if serial != Serial::NONE => serial,
        _ => {
            client.log(LogLevel::Warning, format_args!("the domain's UUID cannot be read: no serial number"));
            Serial::NONE
        }
    }
}

/// Does a step again where memory is short at the moment, in [`PATIENCE`] in all: nothing would come back to it later.
fn insist<T>(mut step: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..TRIES {
        match step() {
            Err(Error::NoResources) => wdm::time::sleep(PATIENCE / TRIES),
            done => return done,
        }
    }
    step()
}

impl Adapter {
    /// Finds the backend and starts to follow its state. False: it cannot be found.
    pub fn begin(&self) -> bool {
        let mut control = self.control.lock();
        if !control.suspend_registered {
            match raw::register_suspend(&self.client, self) {
                Ok(()) => control.suspend_registered = true,
                Err(error) => {
                    self.client.log(LogLevel::Error, format_args!("no suspend callbacks: {error}"));
                    return false;
                }
            }
        }
        match insist(|| self.follow(&mut control)) {
            Ok(()) => true,
            Err(error) => {
                self.client.log(LogLevel::Error, format_args!("no backend: {error}"));
                false
            }
        }
    }

    /// Reads where the backend is and sets the watch on its state, whose first call starts the state machine.
    fn follow(&self, control: &mut Control) -> Result {
        let mut buf = [0; xenbus::path::MAX];
        let len = self.client.read(Transaction::NONE, b"backend", &mut buf)?;
        let backend = Path::new(buf.get(..len).unwrap_or(&[])).map_err(|_| Error::Protocol)?;
        if control.serial == Serial::NONE {
            control.serial = read_serial(&self.client, &backend, control.device);
        }
        let state = backend.join("state").map_err(|_| Error::Protocol)?;
        control.backend = Some(backend);
        control.watch = Some(raw::watch(&self.client, state.as_bytes(), self)?);
        Ok(())
    }

    /// The backend's state and whether it is online. None: what stands there is no state, or could not be read.
    fn backend_state(&self, backend: &Path) -> Option<(XenbusState, bool)> {
        let mut value = [0; 16];
        let path = backend.join("state").ok()?;
        let state = match insist(|| self.client.read(Transaction::NONE, path.as_bytes(), &mut value)) {
            Ok(len) => {
                let state = XenbusState::parse(value.get(..len).unwrap_or(&[]));
                if state.is_none() {
                    let text = value.get(..len).unwrap_or(&[]).escape_ascii();
                    self.client.log(LogLevel::Warning, format_args!("the backend's state = \"{text}\": none, ignored"));
                }
                state?
            }
            // The store denies a missing node, where its parent is none that the domain may read.
            Err(Error::NotFound | Error::Denied) => XenbusState::Unknown,
            Err(error) => {
                self.client.log(LogLevel::Warning, format_args!("the backend's state cannot be read: {error}"));
                return None;
            }
        };
        let online = insist(|| store::number(&self.client, backend, "online")).ok().flatten().unwrap_or(0) == 1;
        Some((state, online))
    }

    /// Does what the state machine says until it waits.
    fn drive(&self, control: &mut Control, first: Action) {
        let mut action = first;
        loop {
            action = match action {
                Action::Wait => break,
                Action::Write(state) => {
                    if let Err(error) = insist(|| store::write_state(&self.client, state as u32)) {
                        self.client.log(LogLevel::Error, format_args!("state {state} cannot be written: {error}"));
                    }
                    control.frontend.state_written(state)
                }
                Action::Publish => {
                    let done = self.publish(control);
                    if let Err(error) = done {
                        self.client.log(LogLevel::Error, format_args!("the ring cannot be published: {error}"));
                        self.detach();
                    }
                    control.frontend.done(done.is_ok())
                }
                Action::Attach => {
                    let done = insist(|| self.attach(control));
                    if let Err(error) = done {
                        self.client.log(LogLevel::Error, format_args!("the backend's parameters: {error}"));
                    }
                    control.frontend.done(done.is_ok())
                }
                Action::Refresh => {
                    if let Err(error) = self.refresh(control) {
                        self.client.log(LogLevel::Warning, format_args!("the backend's parameters: {error}"));
                    }
                    break;
                }
                Action::Detach => {
                    self.detach();
                    control.frontend.done(true)
                }
                Action::Eject => {
                    self.client.log(LogLevel::Info, format_args!("the backend wants to close: asking for an eject"));
                    self.client.request_eject();
                    break;
                }
                Action::Vanished => {
                    self.client.log(LogLevel::Error, format_args!("the backend is gone"));
                    self.abandon();
                    self.client.report_missing();
                    break;
                }
                Action::Closed => {
                    control.closed = true;
                    break;
                }
            };
        }
        if control.frontend.is_lost() && !self.lost.swap(true, Ordering::AcqRel) {
            self.lose();
        }
        control.waiting = control.frontend.patience().map(|(wait, seconds)| match control.waiting {
            // Whatever the backend does meanwhile, the time runs on.
            Some((before, due)) if before == wait => (wait, due),
            _ => (wait, monotonic() + Duration::from_secs(seconds.into())),
        });
        self.work.set();
        self.progress.set();
    }

    /// The keeper's thread: closes a connection whose ring is broken, and keeps the time that a backend at fault has.
    /// A thread of our own, because the page file may be on the disk and system work items may wait for that.
    pub fn keep(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            let due = self.control.lock().waiting.map(|(_, due)| due);
            match due.filter(|_| !self.frozen.load(Ordering::Acquire)) {
                None => self.work.wait(),
                Some(due) => {
                    // Whether something was signalled or the time has passed is seen below.
                    let _ = self.work.wait_for(due.saturating_sub(monotonic()).max(TICK));
                }
            }
            if self.stopping.load(Ordering::Acquire) || self.frozen.load(Ordering::Acquire) {
                continue;
            }
            if self.answered.swap(false, Ordering::AcqRel) {
                self.client.log(LogLevel::Info, format_args!("the disk answers; it may be used in a boot with GPLPV"));
                self.client.report_working();
            }
            let mut control = self.control.lock();
            self.look_for_fault(&mut control);
            if let Some((wait, due)) = control.waiting
                && monotonic() >= due
            {
                control.waiting = None;
                let peer = control.frontend.peer();
                self.client
                    .log(LogLevel::Info, format_args!("{wait:?}: time has passed, the backend's state is {peer}"));
                let action = control.frontend.timed_out();
                self.drive(&mut control, action);
            }
        }
    }

    /// Has a connection closed whose ring is broken.
    fn look_for_fault(&self, control: &mut Control) {
        if !self.hot.lock().ring.is_broken() {
            return;
        }
        let action = control.frontend.fault();
        if action != Action::Wait {
            let failures = control.frontend.failures();
            self.client.log(LogLevel::Error, format_args!("closing the connection: failure {failures} of {ATTEMPTS}"));
            self.drive(control, action);
        }
    }

    /// The backend failed too often. Requests that wait for it fail, as do all that come from now on; those whose pages
    /// it still maps follow when it lets go.
    fn lose(&self) {
        self.client.log(LogLevel::Error, format_args!("{ATTEMPTS} failures: the disk has failed for good"));
        self.hot.lock().ring.give_up();
        self.catch_up();
    }

    /// Sets ring and event channel up and writes them into the store.
    fn publish(&self, control: &Control) -> Result {
        let backend = control.backend.as_ref().ok_or(Error::Protocol)?;
        let offer = config::ring_offer(&self.client, backend, settings::ring_pages())?;
        let memory = SharedPages::new(offer.pages).map_err(|_| Error::NoResources)?;
        let (event, port) = raw::open_event(&self.client, self)?;
        let wanted = {
            let mut hot = self.hot.lock();
            hot.event = Some(event);
            hot.ring.references_wanted(offer.pages)
        };
        let mut references = try_vec(wanted).map_err(|_| Error::NoResources)?;
        references.resize(wanted, 0);
        // Before the lock, since the bus can grow its table at PASSIVE_LEVEL only.
        let taken = take_references(&self.client, &mut references);
        let mut refs = [0; config::MAX_RING_PAGES];
        let count = {
            let mut hot = self.hot.lock();
            let references = references.get(..taken).unwrap_or(&[]);
            hot.ring.attach(&self.client, memory, references).map_err(|_| Error::NoResources)?;
            let granted = hot.ring.ring_refs();
            for (to, from) in refs.iter_mut().zip(granted) {
                *to = *from;
            }
            granted.len()
        };
        let refs = refs.get(..count).unwrap_or(&[]);
        config::publish(&self.client, refs, offer.spelling, port)?;
        let spelling = match offer.spelling {
            Spelling::Order => "order",
            Spelling::Pages => "count",
        };
        self.client.log(LogLevel::Debug, format_args!("ring of {count} pages (by {spelling}), event channel {port}"));
        Ok(())
    }

    /// Reads what the backend is and starts the ring.
    fn attach(&self, control: &Control) -> Result {
        let backend = control.backend.as_ref().ok_or(Error::Protocol)?;
        let parameters = config::parameters(&self.client, backend, control.cdrom)?.ok_or(Error::Protocol)?;
        let unit = front::unit(&parameters, control.serial);
        self.client.log(
            LogLevel::Info,
            format_args!(
                "connected: {} sectors, blocks of {}/{}, {}, flush {:?}, indirect {}, discard {:?}",
                unit.sectors,
                unit.block,
                parameters.physical_sector_size,
                if unit.read_only { "read-only" } else { "read-write" },
                parameters.abilities.flush,
                parameters.abilities.indirect,
                unit.discard,
            ),
        );
        let (before, more) = {
            let mut hot = self.hot.lock();
            let before = hot.unit.replace(unit);
            let next = hot.ring.start(&self.client, parameters.abilities);
            if next.notify
                && let Some(event) = hot.event
            {
                self.client.send(event);
            }
            (before, next.more)
        };
        if more {
            self.catch_up();
        }
        if self.withheld {
            return self.look(&unit);
        }
        self.tell(before, unit);
        Ok(())
    }

    /// Reads a withheld disk's first block: [`Adapter::answered`] says whether it came.
    fn look(&self, unit: &crate::scsi::Unit) -> Result {
        let request = raw::SrbRequest::verify_start(unit).map_err(|_| Error::NoResources)?;
        let mut hot = self.hot.lock();
        // The ring is empty: nothing but this is ever sent to a withheld disk.
        let next = hot.ring.submit(&self.client, request).map_err(|_| Error::NoResources)?;
        if next.notify
            && let Some(event) = hot.event
        {
            self.client.send(event);
        }
        Ok(())
    }

    /// The backend says again that it is connected: the disk may have another size.
    fn refresh(&self, control: &Control) -> Result {
        let backend = control.backend.as_ref().ok_or(Error::Protocol)?;
        let parameters = config::parameters(&self.client, backend, control.cdrom)?.ok_or(Error::Protocol)?;
        let unit = front::unit(&parameters, control.serial);
        let before = {
            let mut hot = self.hot.lock();
            let before = hot.unit;
            if let Some(known) = &mut hot.unit {
                // Only the size of a connected disk changes; the rest was negotiated.
                known.sectors = unit.sectors;
            }
            before
        };
        if before.is_some_and(|before| before.sectors != unit.sectors) {
            self.client.log(LogLevel::Info, format_args!("resized to {} sectors", unit.sectors));
        }
        if self.withheld {
            return Ok(());
        }
        self.tell(before, before.map_or(unit, |before| crate::scsi::Unit { sectors: unit.sectors, ..before }));
        Ok(())
    }

    /// Tells Windows what changed.
    fn tell(&self, before: Option<crate::scsi::Unit>, now: crate::scsi::Unit) {
        let changed = match before {
            Some(before) if before.sectors != now.sectors || before.block != now.block => {
                let inserted = before.sectors == 0;
                self.attention.raise(if inserted { Sense::MEDIUM_CHANGED } else { Sense::CAPACITY_CHANGED });
                true
            }
            Some(before) if before != now => {
                self.attention.raise(Sense::MODE_CHANGED);
                false
            }
            Some(_) => false,
            None => true,
        };
        if changed && self.started.load(Ordering::Acquire) {
            self.storport.bus_change_detected();
        }
    }

    /// Frees ring and event channel. Answers that have arrived are taken first; all other requests wait.
    fn detach(&self) {
        self.drain(u32::MAX);
        let event = {
            let mut hot = self.hot.lock();
            hot.ring.freeze();
            hot.event.take()
        };
        if let Some(event) = event {
            self.client.close_event(event);
        }
        self.hot.lock().ring.detach(&self.client);
        // What only waited for a page to come back may be finished now.
        self.catch_up();
    }

    /// No request can be served any more: those that can be are completed with NO_DEVICE.
    pub fn abandon(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.hot.lock().ring.give_up();
        self.catch_up();
    }

    /// While closing for good: the backend has had its time for the next step.
    fn nudge(&self) {
        let mut control = self.control.lock();
        let action = control.frontend.timed_out();
        self.drive(&mut control, action);
    }

    /// Takes leave of the backend and gives everything back. Bounded.
    pub fn close(&self) {
        self.stopping.store(true, Ordering::Release);
        self.work.set();
        // Waits for its end.
        drop(self.keeper.lock().take());
        let registered = core::mem::take(&mut self.control.lock().suspend_registered);
        if registered {
            self.client.suspend_unregister();
        }
        {
            let mut control = self.control.lock();
            let action = control.frontend.close();
            self.drive(&mut control, action);
        }
        for _ in 0..CLOSE_STEPS {
            if self.control.lock().closed {
                break;
            }
            // The watch's callback makes the steps that the backend answers.
            if !self.progress.wait_for(Duration::from_secs(CLOSE_STEP)) {
                self.nudge();
            }
        }
        // Not under the lock, which a callback may be waiting for.
        let watch = self.control.lock().watch.take();
        if let Some(watch) = watch {
            self.client.unwatch(watch);
        }
        self.abandon();
        self.detach();
    }
}

impl EventHandler for Adapter {
    fn event(&self) -> EventOutcome {
        if self.frozen.load(Ordering::Acquire) {
            return EventOutcome::Done;
        }
        self.drain(BUDGET)
    }
}

impl Device for Adapter {
    fn store_changed(&self, _path: &[u8]) {
        let mut control = self.control.lock();
        self.look_for_fault(&mut control);
        let Some(backend) = control.backend else { return };
        let Some((state, online)) = self.backend_state(&backend) else { return };
        if matches!(state, XenbusState::Connected) && control.frontend.offered_nothing() {
            let line = format_args!("the backend's state = {} ({state}) before a ring was offered", state as u32);
            self.client.log(LogLevel::Warning, line);
        }
        let action = control.frontend.backend(state, online);
        self.drive(&mut control, action);
    }

    fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
        // Whoever holds the lock now is the last to touch the ring.
        self.hot.lock().ring.freeze();
    }

    fn resume(&self, cancelled: bool) {
        self.frozen.store(false, Ordering::Release);
        self.work.set();
        if cancelled {
            let next = {
                let mut hot = self.hot.lock();
                let next = hot.ring.thaw(&self.client);
                if next.notify
                    && let Some(event) = hot.event
                {
                    self.client.send(event);
                }
                next
            };
            if next.more {
                // An event may have come while frozen and was not looked at.
                self.catch_up();
            }
            return;
        }
        let mut control = self.control.lock();
        self.detach();
        control.frontend.resumed();
        control.waiting = None;
        // This is the thread of the watches, so none of their callbacks runs.
        if let Some(watch) = control.watch.take() {
            self.client.unwatch(watch);
        }
        if let Err(error) = insist(|| self.follow(&mut control)) {
            self.client.log(LogLevel::Error, format_args!("no backend after the resume: {error}"));
        }
    }
}
