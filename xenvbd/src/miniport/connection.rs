//! The connection to the backend: carries out what the state machine of [`xenbus::frontend`] says. All of it at
//! PASSIVE_LEVEL, on the bus's thread for the device or on a PnP thread, one at a time under [`Adapter::control`].

use core::{sync::atomic::Ordering, time::Duration};

use wdm::{memory::try_vec, status::Status as NtStatus};
use xen_abi::xenbus::XenbusState;
use xenbus::{
    client::{Bus, Client, Device, Error, Result, Transaction, Watch},
    frontend::{Action, Frontend},
    interface::{EventOutcome, LogLevel},
    path::Path,
};

use super::{
    adapter::Adapter,
    raw::{self, SharedPages},
    settings,
};
use crate::{
    front::{
        self,
        config::{self, Spelling},
        ring::take_references,
    },
    scsi::{Sense, Serial},
};

/// Responses taken in one DPC.
const EVENT_BUDGET: u32 = 256;
/// Seconds that each step of closing waits for the backend.
const CLOSE_STEP: u64 = 5;
/// Most waits of closing: each step of ours ends one too.
const CLOSE_STEPS: u32 = 8;
/// Attempts at a step for which there is no memory, and the time that they take together.
const TRIES: u32 = 8;
const PATIENCE: Duration = Duration::from_millis(400);

/// What the connection is about.
pub struct Control {
    frontend: Frontend,
    backend: Option<Path>,
    watch: Option<Watch>,
    device: u32,
    cdrom: bool,
    serial: Serial,
    suspend_registered: bool,
    closed: bool,
}

/// Whether QEMU shows the same disk as an emulated one that no unplug removes: a CD-ROM among the first four.
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
    /// Reads what does not change as long as the device is there.
    ///
    /// # Errors
    /// [`NtStatus::NO_SUCH_DEVICE`]: the device is not for this driver. Or the store's error.
    pub fn read(client: &Client) -> wdm::Result<Self> {
        let info = client.info();
        let own = info.path.get(..info.path_len as usize).unwrap_or(&[]);
        // The directory's last part is the device's number, whatever its nodes say.
        let name = own.rsplit(|byte| *byte == b'/').next().unwrap_or(&[]);
        let device = config::decimal(name).and_then(|number| u32::try_from(number).ok());
        let Some(device) = device else {
            client.log(LogLevel::Error, format_args!("the directory's name is no device number"));
            return Err(NtStatus::NO_SUCH_DEVICE);
        };
        let mut kind = [0; 16];
        let cdrom = match client.read(Transaction::NONE, b"device-type", &mut kind) {
            Ok(len) => kind.get(..len) == Some(b"cdrom"),
            Err(_) => false,
        };
        if cdrom && has_emulated_twin(device) {
            client.log(LogLevel::Info, format_args!("CD-ROM {device} is emulated too and left to that"));
            return Err(NtStatus::NO_SUCH_DEVICE);
        }
        Ok(Self {
            frontend: Frontend::new(),
            backend: None,
            watch: None,
            device,
            cdrom,
            serial: Serial::NONE,
            suspend_registered: false,
            closed: false,
        })
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
                    self.client.log(LogLevel::Warning, format_args!("the backend's state is none; ignored"));
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
        let online = insist(|| config::number(&self.client, backend, "online")).ok().flatten().unwrap_or(0) == 1;
        Some((state, online))
    }

    /// Does what the state machine says until it waits.
    fn drive(&self, control: &mut Control, first: Action) {
        let mut action = first;
        loop {
            action = match action {
                Action::Wait => break,
                Action::Write(state) => {
                    if let Err(error) = insist(|| config::write_state(&self.client, state as u32)) {
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
        self.progress.set();
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
            self.drain(EVENT_BUDGET);
        }
        self.tell(before, unit);
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
        self.tell(before, before.map_or(unit, |before| crate::scsi::Unit { sectors: unit.sectors, ..before }));
        Ok(())
    }

    /// Tells Windows what changed.
    fn tell(&self, before: Option<crate::scsi::Unit>, now: crate::scsi::Unit) {
        let changed = match before {
            Some(before) if before.sectors != now.sectors || before.block != now.block => {
                self.attention.raise(Sense::CAPACITY_CHANGED);
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
        self.drain(EVENT_BUDGET);
    }

    /// No request can be served any more: those that can be are completed with NO_DEVICE.
    pub fn abandon(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.hot.lock().ring.give_up();
        self.drain(EVENT_BUDGET);
    }

    /// The backend has had its time for the next step.
    pub fn nudge(&self) {
        let mut control = self.control.lock();
        let action = control.frontend.timed_out();
        self.drive(&mut control, action);
    }

    /// Takes leave of the backend and gives everything back. Bounded.
    pub fn close(&self) {
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

impl Device for Adapter {
    fn store_changed(&self, _path: &[u8]) {
        let mut control = self.control.lock();
        let Some(backend) = control.backend else { return };
        let Some((state, online)) = self.backend_state(&backend) else { return };
        let action = control.frontend.backend(state, online);
        self.drive(&mut control, action);
    }

    fn event(&self) -> EventOutcome {
        if self.frozen.load(Ordering::Acquire) {
            return EventOutcome::Done;
        }
        self.drain(EVENT_BUDGET)
    }

    fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
        // Whoever holds the lock now is the last to touch the ring.
        self.hot.lock().ring.freeze();
    }

    fn resume(&self, cancelled: bool) {
        self.frozen.store(false, Ordering::Release);
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
                self.drain(EVENT_BUDGET);
            }
            return;
        }
        let mut control = self.control.lock();
        self.detach();
        control.frontend.resumed();
        // This is the thread of the watches, so none of their callbacks runs.
        if let Some(watch) = control.watch.take() {
            self.client.unwatch(watch);
        }
        if let Err(error) = insist(|| self.follow(&mut control)) {
            self.client.log(LogLevel::Error, format_args!("no backend after the resume: {error}"));
        }
    }
}
