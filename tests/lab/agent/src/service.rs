//! shutdownmon's own loop and its xenstore client, unchanged, for a guest that has a handle open on xenpci's device: the wire
//! messages go through the mailbox to and from that handle. What the service asks of Windows the guest is told.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use shutdownmon_core::{Adapter, Facts, Level, Monitor, Shutdown, Stopper, System};
use xenstore_client::{Client, Transport};

use crate::session::Session;

/// What the guest is told when the loop has ended.
const STOPPED: &str = "stopped";

/// Between the guest's handle and the client.
#[derive(Default)]
struct Pipe {
    ends: Mutex<Ends>,
    arrived: Condvar,
}

#[derive(Default)]
struct Ends {
    /// Messages that are to be written to the handle.
    outgoing: VecDeque<Vec<u8>>,
    /// What was read from the handle.
    incoming: VecDeque<u8>,
    /// What is asked of Windows.
    asked: VecDeque<&'static str>,
    closed: bool,
}

impl Pipe {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's end.
struct Handle(Arc<Pipe>);

impl Transport for Handle {
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ends = self.0.ends();
        while ends.incoming.is_empty() {
            if ends.closed {
                return Ok(0);
            }
            ends = self.0.arrived.wait(ends).unwrap_or_else(PoisonError::into_inner);
        }
        io::Read::read(&mut ends.incoming, buffer)
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        let mut ends = self.0.ends();
        if ends.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        ends.outgoing.push_back(message.to_vec());
        Ok(())
    }

    fn shut_down(&self) {
        self.0.ends().closed = true;
        self.0.arrived.notify_all();
    }
}

/// The guest as the service sees it.
struct Guest {
    pipe: Arc<Pipe>,
    notes: File,
    adapters: Vec<Adapter>,
}

impl System for Guest {
    fn shut_down(&self, how: Shutdown) -> io::Result<()> {
        self.pipe.ends().asked.push_back(match how {
            Shutdown::PowerOff => "poweroff",
            Shutdown::Reboot => "reboot",
        });
        Ok(())
    }

    fn facts(&self) -> Facts {
        Facts {
            name: "the lab's guest".into(),
            version: [10, 0, 19045],
            host: "lab".into(),
            memory: [64 << 10, 16 << 10],
            adapters: self.adapters.clone(),
            ..Facts::default()
        }
    }

    fn set_clock(&self) -> io::Result<()> {
        self.pipe.ends().asked.push_back("clock");
        Ok(())
    }

    fn note(&self, level: Level, text: &str) {
        // Evidence alone.
        let _ = writeln!(&self.notes, "{level:?}: {text}");
    }
}

/// The service while it runs.
pub struct Service {
    pipe: Arc<Pipe>,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts it for a guest, whose first network interface has the addresses that dom0 expects there.
    pub fn start(session: &Session) -> anyhow::Result<Self> {
        let pipe = Arc::new(Pipe::default());
        let adapter = Adapter {
            mac: [0, 0x16, 0x3e, 0x4e, 0x54, 0x10],
            addresses: vec!["10.77.0.2".parse()?, "fd77::2".parse()?],
        };
        let guest = Guest { pipe: Arc::clone(&pipe), notes: session.output("service")?, adapters: vec![adapter] };
        let (sender, stopper) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("service".into()).spawn(move || {
            let monitor = Monitor::new(&guest);
            // It has somebody who waits for it.
            let _ = sender.send(monitor.stopper());
            monitor.run(|| Client::new(Handle(Arc::clone(&guest.pipe))));
        })?;
        Ok(Self { pipe, stopper: stopper.recv()?, thread: Some(thread) })
    }

    /// Takes what the guest read from its handle. Text: what Windows is to do, or [`STOPPED`]. Data: a message that is to be
    /// written to the handle.
    pub fn exchange(&mut self, read: &[u8]) -> (String, Vec<u8>) {
        let stopped = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        let mut ends = self.pipe.ends();
        ends.incoming.extend(read);
        self.pipe.arrived.notify_all();
        let message = ends.outgoing.pop_front().unwrap_or_default();
        let asked = ends.asked.pop_front().unwrap_or_default();
        let asked = if stopped && message.is_empty() && asked.is_empty() { STOPPED } else { asked };
        (asked.to_owned(), message)
    }

    /// Has it withdraw what it published, and end.
    pub fn stop(&self) {
        self.stopper.stop();
    }
}

impl Drop for Service {
    /// The domain may be gone: what the loop waits for does not come.
    fn drop(&mut self) {
        self.stopper.stop();
        Handle(Arc::clone(&self.pipe)).shut_down();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
