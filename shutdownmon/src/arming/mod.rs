//! Arming: whether the next boot uses the paravirtual devices.
//!
//! The default boot entry uses the emulated devices. After a good boot the next one, and that one alone, is given to the
//! entry for the paravirtual ones. A boot is good when the service runs for [`GOOD_AFTER`], or is told of an orderly
//! shutdown before, and every device whose emulated twin was unplugged works. A boot that dies is followed by an emulated
//! one; [`decide::MOST_FAILURES`] such in a row, and the machine stays emulated until the drivers change or somebody asks.
//!
//! - [`facts`]: what is known of this boot.
//! - [`decide`]: what follows from it. Pure.
//! - [`state`]: what is kept from boot to boot.
//! - [`overrides`]: that the emulated disks' drivers start, whenever they are needed.

pub mod decide;
pub mod facts;
pub mod overrides;
pub mod state;

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bootcfg::arm::{self, Next};
use bootcfg::registry::{Kept, Registry};
use bootcfg::setup::Memory;
use bootcfg::{Bcd, Error, Id, Mode, Tool};

use decide::{Decision, decide};
use facts::{Facts, Nodes};
use shutdownmon_core::Level;
use state::{Switches, Tries};

/// How long the service must have run for the boot to be a good one. A frontend gets a minute to connect.
pub const GOOD_AFTER: Duration = Duration::from_secs(75);
/// How often the devices are looked at after that.
pub const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// How often the drivers of the other kind of boot are kept startable: Windows may put them off at any time, and write that to
/// the disk, and that kind of boot may be the next.
const STARTABLE_EVERY: Duration = Duration::from_secs(3);
/// Looks that are left out after something was refused: an administrator may put it right.
const REST: u32 = 15;

/// Why the service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It alone is stopped.
    Stop,
    /// Windows goes down in order.
    Shutdown,
}

/// Time, and the end.
pub trait Wait {
    /// Lets time pass, and says if the service is to end meanwhile.
    fn wait(&self, time: Duration) -> Option<End>;
}

impl Wait for Receiver<End> {
    fn wait(&self, time: Duration) -> Option<End> {
        match self.recv_timeout(time) {
            Ok(end) => Some(end),
            Err(RecvTimeoutError::Disconnected) => Some(End::Stop),
            Err(RecvTimeoutError::Timeout) => None,
        }
    }
}

/// Has network settings go along ([`xentool::network::command::carry`]), and is given whom to tell.
pub type Carry<'c> = dyn Fn(&mut dyn FnMut(&str)) -> anyhow::Result<()> + 'c;

/// Keeps the next boot what it is to be.
pub struct Keeper<'a, R: ?Sized, T: ?Sized> {
    registry: &'a R,
    tool: &'a T,
    /// The system drive: `C:`.
    drive: &'a str,
    note: &'a dyn Fn(Level, &str),
    /// What was decided last in this run, and carried out.
    last: Option<Decision>,
    /// What was said in this run: the same once.
    said: Vec<String>,
    /// Looks to leave out.
    rest: u32,
}

impl<'a, R: Registry + ?Sized, T: Tool + ?Sized> Keeper<'a, R, T> {
    /// A keeper that says what it does to `note`.
    pub fn new(registry: &'a R, tool: &'a T, drive: &'a str, note: &'a dyn Fn(Level, &str)) -> Self {
        Self { registry, tool, drive, note, last: None, said: Vec::new(), rest: 0 }
    }

    /// Keeps the drivers startable that the other kind of boot needs. At the service's start, at its stop, and in between:
    /// Windows may put them off at any time.
    /// Each line is said once in a run.
    pub fn keep_startable(&mut self) {
        let mut cleared = false;
        for driver in overrides::DRIVERS {
            match overrides::clear(self.registry, driver) {
                Ok(true) => {
                    cleared = true;
                    self.say(Level::Information, format!("{driver} is startable at boot again"));
                }
                Ok(false) => {}
                Err(error) => self.say(
                    Level::Warning,
                    format!("{driver} cannot be kept startable at boot: {error}; an emulated boot may need it"),
                ),
            }
        }
        // The next boot may be sooner than Windows writes by itself.
        if let Err(error) = if cleared { self.registry.flush() } else { Ok(()) } {
            let text = format!("what is startable at boot again cannot be written to the disk: {error}");
            self.say(Level::Warning, text);
        }
    }

    /// The service's work until it ends: looks when the boot is a good one, and now and then after that. `connect` reaches
    /// xenstore for one look, so that nothing is held open in between. `carry` has the network settings go along to the cards
    /// of the other kind of boot: at the start, before anything is armed, and at the end.
    pub fn keep<N: Nodes>(&mut self, wait: &impl Wait, connect: impl Fn() -> io::Result<N>, carry: &Carry<'_>) {
        let (mut up, mut next_look, mut looked) = (Duration::ZERO, GOOD_AFTER, false);
        self.keep_startable();
        self.carry(carry);
        let end = loop {
            self.keep_startable();
            if let Some(end) = wait.wait(STARTABLE_EVERY) {
                break end;
            }
            up += STARTABLE_EVERY;
            if up >= next_look {
                // Before anything else that is written to the disk, and would take along what Windows put off meanwhile.
                self.keep_startable();
                if !looked {
                    self.carry(carry);
                }
                self.look(&connect);
                (next_look, looked) = (up + LOOK_AGAIN, true);
            }
        };
        self.keep_startable();
        self.carry(carry);
        // An orderly shutdown shows a good boot as well as the time does.
        if end == End::Shutdown && !looked {
            self.look(&connect);
        }
        self.keep_startable();
    }

    /// Decides, and does what follows. What stands as it should is not touched.
    pub fn look<N: Nodes>(&mut self, connect: impl Fn() -> io::Result<N>) {
        if self.rest > 0 {
            self.rest -= 1;
            return;
        }
        let looked = connect()
            .map_err(|error| format!("what works is not known, so nothing is armed: {error}"))
            .and_then(|nodes| self.try_look(&nodes));
        if let Err(text) = looked {
            self.say(Level::Warning, text);
        }
    }

    /// Network settings go along, unless the administrator has switched that off.
    fn carry(&mut self, carry: &Carry<'_>) {
        let mut lines = Vec::new();
        let outcome = match Switches::read(self.registry) {
            Ok(switches) if !switches.network => return,
            Ok(_) => carry(&mut |line| lines.push(line.to_owned())),
            Err(error) => Err(error.into()),
        };
        for line in lines {
            self.say(Level::Information, format!("network settings: {line}"));
        }
        if let Err(error) = outcome {
            self.say(Level::Warning, format!("network settings are not carried along: {error:#}"));
        }
    }

    fn say(&mut self, level: Level, text: String) {
        if !self.said.contains(&text) {
            (self.note)(level, &text);
            self.said.push(text);
        }
    }

    fn try_look<N: Nodes + ?Sized>(&mut self, nodes: &N) -> Result<(), String> {
        let registry_error = |error| format!("what is armed cannot be looked at: {error}");
        let switches = Switches::read(self.registry).map_err(registry_error)?;
        let tries = Tries::read(self.registry).map_err(registry_error)?;
        let record = Kept(self.registry).record().map_err(registry_error)?;
        let entry = record.and_then(|record| record.paravirtual);
        let bcd = Bcd::new(self.tool);
        // Who is next is asked once, and where it decides: whether an armed boot was started, and died.
        let next = match (&entry, &self.last) {
            (Some(entry), None) if tries.due => {
                let next = arm::next(&bcd, entry);
                Some(next.map_err(|error| format!("who boots next is not known: {error}"))?)
            }
            (Some(_), Some(last)) if last.arm => Some(Next::Paravirtual),
            _ => None,
        };
        let facts =
            Facts::gather(self.registry, nodes).map_err(|error| format!("the devices are not known: {error}"))?;
        let decision = decide(&facts, tries, switches.arm && entry.is_some(), next);
        if self.last.as_ref() == Some(&decision) {
            return Ok(());
        }
        let done = self.carry_out(&decision, tries, entry.as_ref(), switches, &facts);
        let order = decision.order().filter(|_| done.is_ok());
        for text in decision.says.iter().cloned().chain(order) {
            self.say(Level::Information, text);
        }
        self.last = done.is_ok().then_some(decision);
        done.map_err(|error| {
            self.rest = REST;
            format!("the next boot is not ordered: {error}")
        })
    }

    fn carry_out(
        &self,
        decision: &Decision,
        before: Tries,
        entry: Option<&Id>,
        switches: Switches,
        facts: &Facts,
    ) -> Result<(), Error> {
        let bcd = Bcd::new(self.tool);
        state::set_armed(self.registry, decision.disks, decision.nics).map_err(Error::Memory)?;
        let Some(paravirtual) = entry.filter(|_| decision.arm) else {
            if let Some(entry) = entry.filter(|_| facts.mode != Mode::Safe) {
                bcd.clear_next(entry)?;
            }
            return decision.tries.write(self.registry, before).map_err(Error::Memory);
        };
        // On the disk before the boot manager knows of it: a boot that dies is told by this.
        decision.tries.write(self.registry, before).map_err(Error::Memory)?;
        let drive = (!switches.bit_locker).then_some(self.drive);
        let armed = arm::arm(&bcd, paravirtual, drive);
        if armed.is_err() {
            // Nothing is due then.
            Tries { due: false, ..decision.tries }.write(self.registry, decision.tries).map_err(Error::Memory)?;
        }
        armed
    }
}

/// Has the service arm again, as after new drivers: what failed before is forgotten.
///
/// # Errors
/// The registry cannot be written.
pub fn ask<R: Registry + ?Sized>(registry: &R) -> io::Result<()> {
    overrides::clear_all(registry)?;
    state::forget(registry)?;
    Switches::set_arm(registry, true)
}

/// The next boots use the emulated devices until somebody asks ([`ask`]).
///
/// # Errors
/// The registry or the boot configuration cannot be written.
pub fn disarm<R: Registry + ?Sized, T: Tool + ?Sized>(registry: &R, tool: &T) -> Result<(), Error> {
    overrides::clear_all(registry).map_err(Error::Memory)?;
    Switches::set_arm(registry, false).map_err(Error::Memory)?;
    stand_down(registry, tool)
}

/// The next boot is the default one, and the emulated devices stay: for a service that goes. What the administrator wants of a
/// service is not touched.
///
/// # Errors
/// The registry or the boot configuration cannot be written.
pub fn stand_down<R: Registry + ?Sized, T: Tool + ?Sized>(registry: &R, tool: &T) -> Result<(), Error> {
    overrides::clear_all(registry).map_err(Error::Memory)?;
    state::set_armed(registry, false, false).map_err(Error::Memory)?;
    let record = Kept(registry).record().map_err(Error::Memory)?;
    if let Some(entry) = record.and_then(|record| record.paravirtual) {
        Bcd::new(tool).clear_next(&entry)?;
    }
    state::forget(registry).map_err(Error::Memory)
}

/// How it stands, in lines for a person.
///
/// # Errors
/// The registry or the boot configuration cannot be read.
pub fn status<R: Registry + ?Sized, T: Tool + ?Sized>(registry: &R, tool: &T) -> Result<Vec<String>, Error> {
    let switches = Switches::read(registry).map_err(Error::Memory)?;
    let tries = Tries::read(registry).map_err(Error::Memory)?;
    let [disks, nics] = state::armed(registry).map_err(Error::Memory)?;
    let on = |on| if on { "armed" } else { "not armed" };
    let mut lines = vec![format!("disks: {}; network cards: {}", on(disks), on(nics))];
    if !switches.arm {
        lines.push("arming is switched off: `shutdownmon arm` switches it on".into());
    }
    if tries.failures > 0 {
        lines.push(format!("boots from the paravirtual devices that failed in a row: {}", tries.failures));
    }
    let record = Kept(registry).record().map_err(Error::Memory)?;
    lines.push(match record.and_then(|record| record.paravirtual) {
        None => "there are no boot entries for the paravirtual devices: install again".into(),
        Some(entry) => match arm::next(&Bcd::new(tool), &entry)? {
            Next::Paravirtual => format!("next boot: paravirtual devices ({entry})"),
            Next::Default => "next boot: the default entry".into(),
            Next::Other => "next boot: another entry, by somebody else's order".into(),
        },
    });
    Ok(lines)
}
