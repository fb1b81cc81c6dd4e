//! The loop: connects to xenstore, publishes, obeys; connects again when the connection is lost.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use xenstore_client::{Change, Client, Error, Result, Store};

use crate::facts::{FAMILIES, parse_mac};
use crate::{Level, Request, System};

const SHUTDOWN: &str = "control/shutdown";
/// What the toolstack may ask for while this runs. `feature-suspend` is xenpci's: it suspends without this service.
/// Sleep is not offered: a sleeping guest would need a disk driver for hibernation files.
const FEATURES: [&str; 2] = ["control/feature-poweroff", "control/feature-reboot"];
/// How often what is told of Windows is looked at.
const REFRESH: Duration = Duration::from_secs(15);
/// Most names of a directory that are looked at.
const NAMES: usize = 256;
/// How long to wait before connecting again: at first, and at most.
const PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// What the loop waits for.
enum Event {
    Changed,
    Disconnected,
    Stop,
}

/// Ends a [`Monitor`].
#[derive(Clone)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    /// Has [`Monitor::run`] withdraw what it published and return.
    pub fn stop(&self) {
        // A monitor that is gone has stopped.
        let _ = self.0.send(Event::Stop);
    }
}

/// The monitor of one domain.
pub struct Monitor<'s, S> {
    system: &'s S,
    events: (Sender<Event>, Receiver<Event>),
}

/// Why a connection is not served any more.
enum End {
    Stopped,
    Lost(Error),
}

/// What is published on a connection.
#[derive(Default)]
struct Published(BTreeMap<String, String>);

impl Published {
    /// Addresses that an earlier run of the service told: they go, or are told anew.
    fn left_over(client: &Client) -> Result<Self> {
        let mut nodes = BTreeMap::new();
        for vif in names(client, "attr/vif")? {
            for family in FAMILIES {
                let folder = format!("attr/vif/{vif}/{family}");
                for index in names(client, &folder)? {
                    nodes.insert(format!("{folder}/{index}"), String::new());
                }
            }
        }
        Ok(Self(nodes))
    }

    /// Writes what is new and removes what is gone. A node that xenstored refuses is told once and left out.
    fn update<S: System>(&mut self, client: &Client, system: &S, wanted: BTreeMap<String, String>) -> Result<()> {
        for (path, value) in &wanted {
            if self.0.get(path) != Some(value) {
                unless_lost(client.write(path, value), |error| {
                    if !self.0.contains_key(path) {
                        system.note(Level::Warning, &format!("{path} cannot be written: {error}"));
                    }
                })?;
            }
        }
        for path in self.0.keys().filter(|path| !wanted.contains_key(*path)) {
            unless_lost(client.remove(path), |error| {
                system.note(Level::Warning, &format!("{path} cannot be removed: {error}"));
            })?;
        }
        self.0 = wanted;
        Ok(())
    }
}

/// What xenstored answers is told by `otherwise`; an error of the connection is the caller's.
fn unless_lost(outcome: Result<()>, otherwise: impl FnOnce(Error)) -> Result<()> {
    match outcome {
        Err(error @ (Error::Store(_) | Error::Quota | Error::Invalid(_))) => {
            otherwise(error);
            Ok(())
        }
        outcome => outcome,
    }
}

/// The names below a node; none if xenstored does not say any.
fn names(client: &Client, path: &str) -> Result<Vec<String>> {
    match client.list(path) {
        Err(Error::Store(_) | Error::NotText | Error::Invalid(_)) => Ok(Vec::new()),
        names => Ok(names?.into_iter().take(NAMES).collect()),
    }
}

/// Whether what this offers stands in the domain's directory.
fn is_offered(client: &Client) -> Result<bool> {
    match client.read(FEATURES[0]) {
        Ok(value) => Ok(value == b"1"),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the toolstack wants.
fn requested(store: &impl Store) -> Result<Request> {
    match store.read(SHUTDOWN) {
        Ok(value) => Ok(Request::parse(&value)),
        Err(error) if error.is_not_found() => Ok(Request::None),
        Err(error) => Err(error),
    }
}

impl<'s, S: System> Monitor<'s, S> {
    /// A monitor for that operating system.
    pub fn new(system: &'s S) -> Self {
        Self { system, events: mpsc::channel() }
    }

    /// What ends it.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.events.0.clone())
    }

    /// Connects, publishes and obeys until it is stopped. A connection that is lost, or cannot be made yet, is made again
    /// by `connect`: xenpci may be updated, or come up later.
    pub fn run(&self, mut connect: impl FnMut() -> Result<Client>) {
        let mut pause = PAUSE[0];
        let mut told = None;
        loop {
            let error = match connect() {
                Ok(client) => {
                    self.system.note(Level::Information, "connected to xenstore");
                    let begun = Instant::now();
                    match self.serve(&client) {
                        End::Stopped => return,
                        End::Lost(error) => {
                            if begun.elapsed() > PAUSE[1] {
                                pause = PAUSE[0];
                            }
                            told = None;
                            error
                        }
                    }
                }
                Err(error) => error,
            };
            // The same once, however often it is tried.
            let text = error.to_string();
            if told.as_ref() != Some(&text) {
                self.system.note(Level::Warning, &format!("{text}; trying again"));
                told = Some(text);
            }
            if self.stopped_within(pause) {
                return;
            }
            pause = (2 * pause).min(PAUSE[1]);
        }
    }

    /// Waits; whether it was stopped meanwhile.
    fn stopped_within(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            match self.events.1.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Stop) => return true,
                // Of the connection that was lost.
                Ok(Event::Changed | Event::Disconnected) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    fn serve(&self, client: &Client) -> End {
        let mut published = Published::default();
        let end = self.follow(client, &mut published);
        if matches!(end, End::Stopped) {
            // Not removed: libxl made them for the guest to write, below a directory that only dom0 may add to.
            for path in FEATURES {
                if let Err(error) = client.write(path, "0") {
                    self.system.note(Level::Warning, &format!("{path} cannot be withdrawn: {error}"));
                }
            }
        }
        end
    }

    /// Until the connection ends.
    fn follow(&self, client: &Client, published: &mut Published) -> End {
        if let Err(error) = self.publish(client, published) {
            return End::Lost(error);
        }
        let sender = self.events.0.clone();
        let watch = client.watch_with(SHUTDOWN, move |change| {
            let event = match change {
                Change::Changed(_) => Event::Changed,
                Change::Disconnected => Event::Disconnected,
            };
            // Nobody listens any more when the monitor is gone.
            let _ = sender.send(event);
        });
        // It stands until the loop ends.
        let _watch = match watch {
            Ok(watch) => watch,
            Err(error) => return End::Lost(error),
        };
        loop {
            match self.events.1.recv_timeout(REFRESH) {
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => break End::Stopped,
                Ok(Event::Disconnected) => {
                    if !client.is_connected() {
                        break End::Lost(Error::Disconnected);
                    }
                }
                Ok(Event::Changed) => {
                    if let Err(error) = self.look(client, published) {
                        break End::Lost(error);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.publish_facts(client, published) {
                        break End::Lost(error);
                    }
                }
            }
        }
    }

    fn publish(&self, client: &Client, published: &mut Published) -> Result<()> {
        *published = Published::left_over(client)?;
        for path in FEATURES {
            unless_lost(client.write(path, "1"), |error| {
                self.system.note(Level::Error, &format!("{path} cannot be written: {error}"));
            })?;
        }
        self.publish_facts(client, published)
    }

    fn publish_facts(&self, client: &Client, published: &mut Published) -> Result<()> {
        let mut vifs = Vec::new();
        for name in names(client, "device/vif")? {
            let Ok(number) = name.parse() else { continue };
            match client.read_string(&format!("device/vif/{name}/mac")) {
                Ok(text) => vifs.extend(parse_mac(&text).map(|mac| (number, mac))),
                Err(Error::Store(_) | Error::NotText | Error::Invalid(_)) => {}
                Err(error) => return Err(error),
            }
        }
        published.update(client, self.system, self.system.facts().nodes(&vifs))
    }

    /// Takes a request and acknowledges it, and does it.
    fn look(&self, client: &Client, published: &mut Published) -> Result<()> {
        let taken = client.transaction(|transaction| {
            let request = requested(transaction)?;
            // An empty node says that the request was taken.
            if request.is_ours() {
                transaction.write(SHUTDOWN, "")?;
            }
            Ok(request)
        });
        let request = match taken {
            // A toolstack that keeps the node to itself is obeyed all the same.
            Err(error @ Error::Store(_)) => {
                self.system.note(Level::Warning, &format!("{SHUTDOWN} cannot be acknowledged: {error}"));
                requested(client)?
            }
            taken => taken?,
        };
        match request {
            // A new domain's directory has none of what was published in the old one; libxl makes this node there, empty.
            Request::None => {
                if !is_offered(client)? {
                    self.system.note(Level::Information, "the domain was migrated or restored");
                    if let Err(error) = self.system.set_clock() {
                        self.system.note(Level::Warning, &format!("the clock cannot be set: {error}"));
                    }
                    self.publish(client, published)?;
                }
            }
            Request::Suspend => {}
            Request::Shutdown(how) => {
                self.system.note(Level::Information, &format!("the toolstack wants Windows to {how}"));
                if let Err(error) = self.system.shut_down(how) {
                    self.system.note(Level::Error, &format!("Windows cannot {how}: {error}"));
                }
            }
            Request::Sleep(what) => self.system.note(Level::Warning, &format!("`{what}` is not supported; ignored")),
            Request::Unknown(what) => {
                self.system.note(Level::Warning, &format!("control/shutdown = `{what}` is not known; ignored"));
            }
        }
        Ok(())
    }
}
