//! The connection to the backend: carries out what the state machine of [`xenbus::frontend`] says. All of it at
//! PASSIVE_LEVEL, on the bus's thread for the device, on the keeper's, or on one of NDIS's, one at a time under
//! [`Adapter::control`].

use alloc::boxed::Box;
use core::{sync::atomic::Ordering, time::Duration};

use wdm::{
    memory::try_box,
    ndis::{LinkState, status::NdisStatus},
    time::monotonic,
};
use xen_abi::{unplug::Unplug, xenbus::XenbusState};
use xenbus::{
    client::{Bus, Client, Device, Error, Result, Transaction, Watch},
    frontend::{Action, Frontend, Wait},
    interface::LogLevel,
    path::Path,
    store,
};

use super::{adapter::Adapter, raw, rings::ControlRing, scale::Scale};
use crate::front::config::{self, ConfigError, Plan};

/// Seconds that starting waits for a backend.
const START_SECONDS: u32 = 5;
/// Seconds that each step of closing waits for the backend.
const CLOSE_STEP: u64 = 5;
/// Most waits of closing: each step of ours ends one too.
const CLOSE_STEPS: u32 = 8;
/// Attempts at a step for which there is no memory, and the time that they take together.
const TRIES: u32 = 8;
const PATIENCE: Duration = Duration::from_millis(400);
/// How long packets wait for a backend after a migration.
const MOVE_PATIENCE: Duration = Duration::from_secs(30);
/// How often addresses are announced after a migration.
pub const ANNOUNCEMENTS: u32 = 3;
/// The link where there is none.
pub const DOWN: LinkState = LinkState { up: false, speed: config::DEFAULT_SPEED };

/// What the connection is about.
#[expect(clippy::struct_field_names, reason = "`control_ring` is what netif.h calls it")]
pub struct Control {
    /// The state machine.
    pub frontend: Frontend,
    /// What the state machine waits for, and until when.
    pub waiting: Option<(Wait, Duration)>,
    /// Announcements that are left, and when the next is due.
    pub announcing: Option<(u32, Duration)>,
    /// After a migration: until when Windows is not told that the link is down.
    pub moving: Option<Duration>,
    /// When a pause that is not complete has waited long enough.
    pub pause_due: Option<Duration>,
    /// Its directory.
    pub backend: Option<Path>,
    watches: [Option<Watch>; 4],
    /// What the toolstack says of the interface.
    pub device: config::Device,
    /// What was agreed with the backend that is connected.
    pub plan: Option<Plan>,
    /// The control ring, while there is one.
    pub control_ring: Option<ControlRing>,
    /// How received packets are spread.
    pub scale: Scale,
    suspend_registered: bool,
    closed: bool,
}

impl Control {
    /// Reads what does not change as long as the device is there.
    ///
    /// # Errors
    /// [`NdisStatus::FAILURE`]: there is no usable address, or the device is emulated in this boot.
    #[inline(never)]
    pub fn read(client: &Client) -> core::result::Result<Box<Self>, NdisStatus> {
        let device = config::device(client).map_err(|error| {
            client.log(LogLevel::Error, format_args!("the interface cannot be used: {error}"));
            NdisStatus::FAILURE
        })?;
        if has_emulated_twin(client) && !client.unplugged().contains(Unplug::NICS) {
            client.log(LogLevel::Info, format_args!("the interface is emulated in this boot and left to that"));
            return Err(NdisStatus::FAILURE);
        }
        Ok(try_box(Self {
            frontend: Frontend::new(),
            waiting: None,
            announcing: None,
            moving: None,
            pause_due: None,
            backend: None,
            watches: [None, None, None, None],
            device,
            plan: None,
            control_ring: None,
            scale: Scale::new(),
            suspend_registered: false,
            closed: false,
        })?)
    }

    /// Whether starting has nothing to wait for any more.
    fn is_settled(&self) -> bool {
        self.frontend.is_connected() || self.frontend.has_failed() || self.frontend.has_vanished() || self.closed
    }
}

/// Whether the toolstack gave the interface an emulated twin.
#[inline(never)]
fn has_emulated_twin(client: &Client) -> bool {
    let mut buf = [0; xenbus::path::MAX];
    let mut kind = || -> Option<bool> {
        let len = client.read(Transaction::NONE, b"backend", &mut buf).ok()?;
        let kind = Path::new(buf.get(..len)?).ok()?.join("type").ok()?;
        let mut text = [0; 16];
        let len = client.read(Transaction::NONE, kind.as_bytes(), &mut text).ok()?;
        Some(text.get(..len)? == b"vif_ioemu")
    };
    kind().unwrap_or(false)
}

/// The link as backend and toolstack have it.
///
/// # Errors
/// The store's.
pub fn link(client: &Client, backend: &Path) -> core::result::Result<LinkState, ConfigError> {
    Ok(if config::carrier(client, backend)? { LinkState { up: true, speed: config::speed(client)? } } else { DOWN })
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
    /// Finds the backend and starts to follow its state.
    pub fn begin(&self) {
        let client = &self.common.client;
        let mut control = self.control.lock();
        if !control.suspend_registered {
            match raw::register_suspend(client, self) {
                Ok(()) => control.suspend_registered = true,
                Err(error) => {
                    client.log(LogLevel::Error, format_args!("no suspend callbacks: {error}"));
                    return;
                }
            }
        }
        if let Err(error) = insist(|| self.follow(&mut control)) {
            client.log(LogLevel::Error, format_args!("no backend: {error}"));
        }
    }

    /// Waits a while for the connection. One that comes later raises the link then.
    pub fn await_connection(&self) {
        let mut left = START_SECONDS;
        while left > 0 && !self.control.lock().is_settled() {
            if !self.progress.wait_for(Duration::from_secs(1)) {
                left -= 1;
            }
        }
    }

    /// Reads where the backend is and sets the watches, the first call of which starts the state machine.
    fn follow(&self, control: &mut Control) -> Result {
        let client = &self.common.client;
        let mut buf = [0; xenbus::path::MAX];
        let len = client.read(Transaction::NONE, b"backend", &mut buf)?;
        let backend = Path::new(buf.get(..len).unwrap_or(&[])).map_err(|_| Error::Protocol)?;
        let join = |key| backend.join(key).map_err(|_| Error::Protocol);
        let (state, carrier) = (join("state")?, join("carrier")?);
        control.backend = Some(backend);
        let paths = [state.as_bytes(), carrier.as_bytes(), b"disconnect", b"speed"];
        for (place, path) in control.watches.iter_mut().zip(paths) {
            if place.is_none() {
                *place = Some(raw::watch(client, path, self)?);
            }
        }
        Ok(())
    }

    fn unfollow(&self, control: &mut Control) {
        for watch in control.watches.iter_mut().filter_map(Option::take) {
            self.common.client.unwatch(watch);
        }
    }

    /// The backend's state and whether it is online. None: what stands there is no state, or could not be read.
    fn backend_state(&self, backend: &Path) -> Option<(XenbusState, bool)> {
        let client = &self.common.client;
        let mut value = [0; 16];
        let path = backend.join("state").ok()?;
        let state = match insist(|| client.read(Transaction::NONE, path.as_bytes(), &mut value)) {
            Ok(len) => {
                let text = value.get(..len).unwrap_or(&[]);
                let state = XenbusState::parse(text);
                if state.is_none() {
                    let text = text.escape_ascii();
                    client.log(LogLevel::Warning, format_args!("the backend's state = \"{text}\": none, ignored"));
                }
                state?
            }
            // The store denies a missing node, where its parent is none that the domain may read.
            Err(Error::NotFound | Error::Denied) => XenbusState::Unknown,
            Err(error) => {
                client.log(LogLevel::Warning, format_args!("the backend's state cannot be read: {error}"));
                return None;
            }
        };
        let online = insist(|| store::number(client, backend, "online")).ok().flatten().unwrap_or(0) == 1;
        Some((state, online))
    }

    /// Does what the state machine says until it waits.
    pub fn drive(&self, control: &mut Control, first: Action) {
        let client = &self.common.client;
        let mut action = first;
        loop {
            action = match action {
                Action::Wait | Action::Refresh => break,
                Action::Write(state) => {
                    // netback passes over Initialised: it connects to a frontend that says Connected
                    // (drivers/net/xen-netback/xenbus.c, frontend_changed). When that is due, it was said before.
                    let told = match state {
                        XenbusState::Initialised => Some(XenbusState::Connected),
                        XenbusState::Connected => None,
                        state => Some(state),
                    };
                    if let Some(told) = told
                        && let Err(error) = insist(|| store::write_state(client, told as u32))
                    {
                        client.log(LogLevel::Error, format_args!("state {told} cannot be written: {error}"));
                    }
                    control.frontend.state_written(state)
                }
                Action::Publish => {
                    let done = self.publish(control);
                    if let Err(error) = done {
                        client.log(LogLevel::Error, format_args!("the rings cannot be published: {error}"));
                        self.detach(control);
                    }
                    control.frontend.done(done.is_ok())
                }
                Action::Attach => {
                    let done = insist(|| self.attach(control));
                    if let Err(error) = done {
                        client.log(LogLevel::Error, format_args!("the connection cannot be used: {error}"));
                    }
                    control.frontend.done(done.is_ok())
                }
                Action::Detach => {
                    self.detach(control);
                    control.frontend.done(true)
                }
                Action::Eject => {
                    client.log(LogLevel::Info, format_args!("the backend wants to close: asking for an eject"));
                    client.request_eject();
                    break;
                }
                Action::Vanished => {
                    client.log(LogLevel::Error, format_args!("the backend is gone"));
                    self.abandon();
                    client.report_missing();
                    break;
                }
                Action::Closed => {
                    control.closed = true;
                    break;
                }
            };
        }
        if control.frontend.has_failed() {
            control.moving = None;
        }
        if !control.frontend.is_connected() {
            self.drop_link(control);
        }
        control.waiting = control.frontend.patience().map(|(wait, seconds)| match control.waiting {
            // Whatever the backend does meanwhile, the time runs on.
            Some((before, due)) if before == wait => (wait, due),
            _ => (wait, monotonic() + Duration::from_secs(seconds.into())),
        });
        self.common.work.set();
        self.progress.set();
    }

    /// There is no connection: Windows is told, unless it is about to come back after a migration.
    pub fn drop_link(&self, control: &Control) {
        if control.moving.is_none() {
            self.set_link(DOWN);
            self.stop_serving(NdisStatus::MEDIA_DISCONNECTED);
        }
    }

    /// Sends have nothing to wait for.
    pub fn stop_serving(&self, status: NdisStatus) {
        self.common.set_serving(false);
        for queue in &self.queues {
            queue.tx.abort(status, None);
        }
    }

    /// Reads again what the offloads decide when a connection is made.
    pub fn reconnect_for_offloads(&self) {
        let mut control = self.control.lock();
        let offloads = *self.offloads.lock();
        let stale =
            control.plan.is_some_and(|plan| plan.wishes.gso_v4 != offloads.rsc4 || plan.wishes.gso_v6 != offloads.rsc6);
        if stale {
            let action = control.frontend.reconnect();
            self.drive(&mut control, action);
        }
    }

    /// No packet can be sent any more.
    pub fn abandon(&self) {
        self.common.set_gone();
        self.common.set_serving(false);
        for queue in &self.queues {
            queue.tx.hot.lock().ring.give_up();
            queue.tx.abort(NdisStatus::ADAPTER_REMOVED, None);
            queue.tx.catch_up();
        }
        self.set_link(DOWN);
    }

    /// While closing for good: the backend has had its time for the next step.
    fn nudge(&self) {
        let mut control = self.control.lock();
        let action = control.frontend.timed_out();
        self.drive(&mut control, action);
    }

    /// Takes leave of the backend. Bounded.
    fn disconnect(&self) {
        {
            let mut control = self.control.lock();
            control.announcing = None;
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
        let watches = core::mem::take(&mut self.control.lock().watches);
        for watch in watches.into_iter().flatten() {
            self.common.client.unwatch(watch);
        }
    }

    /// Low power and back: the connection does not outlive it.
    pub fn set_power(&self, on: bool) {
        if on {
            {
                let mut control = self.control.lock();
                control.frontend = Frontend::new();
                control.closed = false;
            }
            self.begin();
        } else {
            self.stop_serving(NdisStatus::LOW_POWER_STATE);
            self.disconnect();
            self.detach(&mut self.control.lock());
        }
    }

    /// Takes leave of the backend and gives everything back. Bounded.
    pub fn close(&self) {
        self.stopping.store(true, Ordering::Release);
        self.common.work.set();
        // Waits for its end.
        drop(self.keeper.lock().take());
        let registered = core::mem::take(&mut self.control.lock().suspend_registered);
        if registered {
            self.common.client.suspend_unregister();
        }
        self.disconnect();
        self.abandon();
        self.detach(&mut self.control.lock());
    }
}

impl Device for Adapter {
    fn store_changed(&self, path: &[u8]) {
        let client = &self.common.client;
        let mut control = self.control.lock();
        self.look_for_fault(&mut control);
        let Some(backend) = control.backend else { return };
        if !path.ends_with(b"/state") {
            if control.frontend.is_connected() {
                match link(client, &backend) {
                    Ok(link) => self.set_link(link),
                    Err(error) => client.log(LogLevel::Warning, format_args!("{error}")),
                }
            }
            return;
        }
        let Some((state, online)) = self.backend_state(&backend) else { return };
        if matches!(state, XenbusState::Connected) && control.frontend.offered_nothing() {
            let line = format_args!("the backend's state = {} ({state}) before a ring was offered", state as u32);
            client.log(LogLevel::Warning, line);
        }
        let action = control.frontend.backend(state, online);
        self.drive(&mut control, action);
    }

    fn freeze(&self) {
        self.common.set_frozen(true);
        for queue in &self.queues {
            // Whoever holds a lock now is the last to touch its ring.
            queue.tx.hot.lock().ring.freeze();
            queue.rx.hot.lock().ring.freeze();
        }
    }

    fn resume(&self, cancelled: bool) {
        let client = &self.common.client;
        self.common.set_frozen(false);
        self.common.work.set();
        if cancelled {
            for queue in self.active_queues() {
                queue.tx.step(|ring| ring.thaw(client));
                queue.rx.step(|ring| ring.thaw(client));
            }
            return;
        }
        let mut control = self.control.lock();
        if control.frontend.is_connected() {
            control.moving = Some(monotonic() + MOVE_PATIENCE);
        }
        self.detach(&mut control);
        control.frontend.resumed();
        control.waiting = None;
        control.announcing = None;
        // This is the thread of the watches, so none of their callbacks runs.
        self.unfollow(&mut control);
        if let Err(error) = insist(|| self.follow(&mut control)) {
            client.log(LogLevel::Error, format_args!("no backend after the resume: {error}"));
        }
    }
}
