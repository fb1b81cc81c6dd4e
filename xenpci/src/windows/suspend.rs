//! The bus's own threads: one follows `control/shutdown` and takes the domain through a migration in the order of
//! [`crate::core::suspend`], one follows `device` and has the children compared with it.
//!
//! The first touches no paged memory, registry or file: the disk behind the bus may hold the page file, and it is frozen
//! meanwhile.

use alloc::vec::Vec;
use core::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use wdm::{
    capture,
    event::{Event, EventKind},
    memory::Shared,
    status::{Result, Status},
    thread::Thread,
};

use super::{
    emulated,
    fdo::{self, Fdo},
    pdo::Pdo,
    platform::{Platform, store_status},
    store as windows_store,
};
use crate::core::{
    hypercall::{self, Resumed},
    store::{self, NO_TRANSACTION, WatchId},
    suspend::{Outcome, Step, Suspend},
};

/// What the toolstack asks for.
const SHUTDOWN: &[u8] = b"control/shutdown";
/// The devices.
const DEVICE: &[u8] = b"device";
/// How long all frontends together may take to freeze.
const FREEZE_TIME: Duration = Duration::from_secs(10);
/// How long the next migration waits for a frontend that is still reconnecting after this one.
const RESUME_TIME: Duration = Duration::from_mins(2);
/// Times that a transaction is tried.
const TRIES: u32 = 16;

/// What both threads share with the watches.
struct Signals {
    shutdown: Event,
    device: Event,
    stopping: AtomicBool,
}

/// The threads; dropping it ends them.
pub(crate) struct BusThreads {
    fdo: Shared<Fdo>,
    signals: Shared<Signals>,
    watches: [Option<WatchId>; 2],
    threads: Vec<Thread>,
}

impl BusThreads {
    /// Starts both, and tells the toolstack that the domain can be suspended.
    pub(crate) fn start(fdo: Shared<Fdo>, platform: &Shared<Platform>) -> Result<Self> {
        let signals = Shared::new(Signals {
            shutdown: Event::new(EventKind::Synchronization, false)?,
            device: Event::new(EventKind::Synchronization, false)?,
            stopping: AtomicBool::new(false),
        })?;
        let mut this =
            Self { fdo: fdo.clone(), signals: signals.clone(), watches: [None; 2], threads: wdm::memory::try_vec(2)? };
        let (shared, bus) = (signals.clone(), fdo.clone());
        this.threads.push(Thread::spawn(move || {
            while wait(&shared, &shared.device) {
                fdo::rescan(&bus);
            }
        })?);
        let (shared, used) = (signals.clone(), platform.clone());
        this.threads.push(Thread::spawn(move || {
            while wait(&shared, &shared.shutdown) {
                if asked_to_suspend(&used) {
                    migrate(&fdo, &used);
                    shared.device.set();
                }
            }
        })?);
        let shared = signals.clone();
        this.watches[0] = Some(platform.store().watch(DEVICE, move |_| shared.device.set())?);
        let shared = signals.clone();
        this.watches[1] = Some(platform.store().watch(SHUTDOWN, move |_| shared.shutdown.set())?);
        publish(platform);
        Ok(this)
    }
}

impl BusThreads {
    /// Has the devices compared with the store soon. IRQL <= DISPATCH_LEVEL.
    pub(crate) fn rescan(&self) {
        self.signals.device.set();
    }
}

impl Drop for BusThreads {
    fn drop(&mut self) {
        if let Some(platform) = self.fdo.platform() {
            for watch in self.watches.iter_mut().filter_map(Option::take) {
                platform.store().unwatch(watch);
            }
        }
        self.signals.stopping.store(true, Ordering::Release);
        self.signals.shutdown.set();
        self.signals.device.set();
        self.threads.clear();
    }
}

/// Waits for a signal; `false`: it is time to end.
fn wait(signals: &Signals, event: &Event) -> bool {
    event.wait();
    !signals.stopping.load(Ordering::Acquire)
}

/// Says what the toolstack may ask for.
fn publish(platform: &Platform) {
    if let Err(error) = store::write(&**platform.store(), NO_TRANSACTION, b"control/feature-suspend", b"1") {
        wdm::warning!("control/feature-suspend: {error}");
    }
}

fn asked_to_suspend(platform: &Platform) -> bool {
    match store::read(&**platform.store(), NO_TRANSACTION, SHUTDOWN) {
        Ok(value) if value == b"suspend" => true,
        Ok(value) => {
            if !value.is_empty() {
                wdm::info!("control/shutdown = {}: not for this driver", value.escape_ascii());
            }
            false
        }
        Err(error) => {
            wdm::debug!("control/shutdown: {error}");
            false
        }
    }
}

/// Writes an empty value to `control/shutdown`, as long as it still says "suspend".
fn acknowledge(platform: &Platform) -> Result {
    store::transaction(&**platform.store(), TRIES, |store, transaction| {
        let value = store::read(store, transaction, SHUTDOWN)?;
        if value == b"suspend" {
            store::write(store, transaction, SHUTDOWN, b"")?;
        }
        Ok(value == b"suspend")
    })
    .map_err(store_status)
    .and_then(|taken| if taken { Ok(()) } else { Err(Status::CANCELLED) })
}

/// One migration, from the request to the frontends' thaw.
fn migrate(fdo: &Fdo, platform: &Shared<Platform>) {
    wdm::info!("suspending");
    let mut machine = Suspend::new();
    let mut pdos: Vec<Shared<Pdo>> = Vec::new();
    loop {
        let outcome = match machine.step() {
            Step::Acknowledge => outcome(acknowledge(platform)),
            Step::FreezeDevices => outcome(fdo.pdos().and_then(|found| {
                pdos = found;
                freeze(&pdos)
            })),
            Step::FreezeStore => outcome(platform.store().freeze().map(|()| platform.events().freeze())),
            Step::CaptureProcessors => {
                captured(platform, &mut machine);
                continue;
            }
            Step::ReconnectStore => {
                platform.events().thaw();
                outcome(windows_store::reconnect(platform.store()))
            }
            Step::ThawStore => {
                platform.events().thaw();
                platform.store().thaw();
                Outcome::Done
            }
            Step::ResumeDevices { cancelled } => {
                if !cancelled && let Ok(found) = fdo.pdos() {
                    // Also those whose driver started while the others were frozen: their channels are void, too.
                    pdos = found;
                }
                resume(&pdos, cancelled);
                Outcome::Done
            }
            Step::Republish => {
                publish(platform);
                Outcome::Done
            }
            // Done while the processors are captured.
            Step::Hypercall
            | Step::Unplug
            | Step::MapSharedInfo
            | Step::MapGrantTable
            | Step::SetUpEvents
            | Step::ReleaseProcessors => Outcome::Done,
            Step::Finished => break,
        };
        machine.next(outcome);
    }
    match machine.failed() {
        None => wdm::info!("suspend: done"),
        Some(step) => wdm::error!("suspend: {step:?} failed"),
    }
    for pdo in &pdos {
        if !pdo.child().finish(RESUME_TIME) {
            wdm::warning!("{}: is still reconnecting", pdo.name());
        }
    }
}

fn outcome(result: Result) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(status) => {
            wdm::warning!("suspend: {status}");
            Outcome::Failed
        }
    }
}

/// Has every frontend stop submitting, in parallel.
fn freeze(pdos: &[Shared<Pdo>]) -> Result {
    for pdo in pdos {
        pdo.child().begin_freeze();
    }
    for pdo in pdos {
        if !pdo.child().finish(FREEZE_TIME) {
            wdm::warning!("{}: does not freeze", pdo.name());
            return Err(Status::IO_TIMEOUT);
        }
    }
    Ok(())
}

/// Has every frontend go on, in parallel.
fn resume(pdos: &[Shared<Pdo>], cancelled: bool) {
    for pdo in pdos {
        pdo.child().begin_resume(cancelled);
    }
}

/// The steps from the capture of the processors to their release. Everything that they need is held before.
fn captured(platform: &Platform, machine: &mut Suspend) {
    let grants = platform.grants().hold();
    let events = platform.events().hold();
    let new_domain = AtomicBool::new(false);
    let owner = platform.events().line_cpu() as u32;
    let mut work = || {
        let mut last = Outcome::Done;
        loop {
            let done = match machine.next(last) {
                Step::Hypercall => match hypercall::suspend(&platform.gate()) {
                    Ok(Resumed::NewDomain) => {
                        new_domain.store(true, Ordering::Release);
                        last = Outcome::Done;
                        continue;
                    }
                    Ok(Resumed::Cancelled) => {
                        last = Outcome::Cancelled;
                        continue;
                    }
                    Err(error) => {
                        wdm::error!("SCHEDOP_shutdown: {error}");
                        Err(Status::UNSUCCESSFUL)
                    }
                },
                Step::Unplug => emulated::unplug_again(platform.unplugged()),
                Step::MapSharedInfo => platform.events().map_shared_info(),
                Step::MapGrantTable => platform.grants().resume(&grants),
                Step::SetUpEvents => platform.events().set_up(&events),
                _ => return,
            };
            last = if done.is_ok() { Outcome::Done } else { Outcome::Failed };
        }
    };
    let each = |index| {
        if new_domain.load(Ordering::Acquire) {
            // It was logged; the upcalls of that processor do not come.
            let _ = platform.events().register_vcpu_info(index);
        }
    };
    let captured = capture::with_processors_captured(owner, &mut work, &each);
    drop(events);
    drop(grants);
    if let Err(status) = captured {
        machine.next(outcome(Err(status)));
        return;
    }
    if new_domain.load(Ordering::Acquire) {
        platform.events().forget_all();
        platform.grants().resumed();
    }
}
