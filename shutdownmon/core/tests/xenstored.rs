//! The monitor against Debian's own C xenstored: what the toolstack writes is obeyed and acknowledged, what is to be told is
//! there, and goes when it is to go.
//!
//! xenstored is the unmodified program of the distribution; `fakexen.c`, preloaded, stands for the Xen that it asks. To its
//! socket's clients it takes them for dom0, so `control/shutdown` is `/local/domain/0/control/shutdown` here.
#![cfg(unix)]

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use shutdownmon_core::{Adapter, Facts, Level, Monitor, Shutdown, System};
use xenstore_client::{Client, Error, Store, Transport};

const XENSTORED: &str = "/usr/lib/xen-4.17/bin/xenstored";
const HOME: &str = "/local/domain/0";
const PATIENCE: Duration = Duration::from_secs(20);

/// A running xenstored in a folder of its own.
struct Xenstored {
    child: Child,
    folder: PathBuf,
}

impl Xenstored {
    /// `None`: this machine has no xenstored, or no compiler for what it is preloaded with.
    fn start(name: &str) -> Option<Self> {
        if !Path::new(XENSTORED).exists() {
            println!("skipped: there is no {XENSTORED} (Debian: xen-utils-4.17)");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("shutdownmon-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let library = folder.join("fakexen.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakexen.c");
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
        if !compiled.is_ok_and(|status| status.success()) {
            println!("skipped: tests/fakexen.c cannot be compiled (Debian: gcc, libc6-dev)");
            return None;
        }
        let daemon = Self { child: Self::spawn(&folder), folder };
        daemon.connect();
        Some(daemon)
    }

    fn spawn(folder: &Path) -> Child {
        Command::new(XENSTORED)
            .args(["-N", "-I"])
            .env("LD_PRELOAD", folder.join("fakexen.so"))
            .env("XENSTORED_RUNDIR", folder)
            .env("XENSTORED_ROOTDIR", folder)
            .stdin(Stdio::null())
            .spawn()
            .expect("xenstored starts")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// A connection of the toolstack's.
    fn connect(&self) -> Client {
        let client = wait("xenstored answers", || Client::connect_unix(self.socket()).ok());
        client.set_timeout(PATIENCE);
        client
    }

    /// It dies, and comes back with nothing in it.
    fn restart(&mut self) {
        self.kill();
        self.child = Self::spawn(&self.folder);
        self.connect();
    }

    fn kill(&mut self) {
        self.child.kill().expect("xenstored runs");
        self.child.wait().expect("xenstored ends");
        let _ = std::fs::remove_file(self.socket());
    }
}

impl Drop for Xenstored {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Windows, as the test has it: what it was asked for, and what it says of itself.
#[derive(Default)]
struct Recorded {
    shutdowns: Mutex<Vec<Shutdown>>,
    clocks: Mutex<u32>,
    notes: Mutex<Vec<(Level, String)>>,
    facts: Mutex<Facts>,
    refuses: bool,
}

impl Recorded {
    fn noted(&self, text: &str) -> bool {
        self.notes.lock().unwrap().iter().any(|(_, note)| note.contains(text))
    }
}

impl System for Recorded {
    fn shut_down(&self, how: Shutdown) -> std::io::Result<()> {
        self.shutdowns.lock().unwrap().push(how);
        if self.refuses { Err(std::io::Error::other("a user has unsaved work")) } else { Ok(()) }
    }

    fn facts(&self) -> Facts {
        self.facts.lock().unwrap().clone()
    }

    fn set_clock(&self) -> std::io::Result<()> {
        *self.clocks.lock().unwrap() += 1;
        Ok(())
    }

    fn note(&self, level: Level, text: &str) {
        self.notes.lock().unwrap().push((level, text.into()));
    }
}

/// Runs `body` beside a monitor.
fn monitored(system: &Recorded, daemon: &mut Xenstored, body: impl FnOnce(&mut Xenstored)) {
    monitored_over(Client::connect_unix, system, daemon, body);
}

/// The same, over connections of a kind.
fn monitored_over(
    connect: fn(PathBuf) -> Result<Client, Error>,
    system: &Recorded,
    daemon: &mut Xenstored,
    body: impl FnOnce(&mut Xenstored),
) {
    let socket = daemon.socket();
    let monitor = Monitor::new(system);
    let stopper = monitor.stopper();
    std::thread::scope(|scope| {
        // The loop keeps its thread: it is `Sync` nowhere.
        let running = scope.spawn(|| {
            let monitor = monitor;
            monitor.run(|| connect(socket.clone()));
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(daemon)));
        stopper.stop();
        running.join().expect("the monitor ends well");
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

fn path(name: &str) -> String {
    format!("{HOME}/{name}")
}

#[test]
fn requests_are_obeyed_and_acknowledged() {
    let Some(mut daemon) = Xenstored::start("requests") else { return };
    let system = Recorded::default();
    monitored(&system, &mut daemon, |daemon| {
        let toolstack = daemon.connect();
        let acknowledged = |value: &str| {
            toolstack.write(&path("control/shutdown"), value).expect("written");
            wait("the request is acknowledged", || {
                toolstack.read(&path("control/shutdown")).ok()?.is_empty().then_some(())
            });
        };
        wait("features", || toolstack.exists(&path("control/feature-reboot")).ok()?.then_some(()));
        acknowledged("reboot");
        wait("a restart", || (*system.shutdowns.lock().unwrap() == [Shutdown::Reboot]).then_some(()));
        acknowledged("poweroff");
        acknowledged("halt");
        let all = [Shutdown::Reboot, Shutdown::PowerOff, Shutdown::PowerOff];
        wait("two shut-downs", || (*system.shutdowns.lock().unwrap() == all).then_some(()));
        for (value, note) in
            [("s3", "`s3` is not supported"), ("s4", "`s4` is not"), ("make\ttea", "`make\\ttea` is not known")]
        {
            acknowledged(value);
            wait(note, || system.noted(note).then_some(()));
        }
        // Not for this service: left for xenpci.
        toolstack.write(&path("control/shutdown"), "suspend").expect("written");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(toolstack.read_string(&path("control/shutdown")).unwrap(), "suspend");
        assert_eq!(*system.shutdowns.lock().unwrap(), all);
    });
    let toolstack = daemon.connect();
    for name in ["control/feature-reboot", "control/feature-poweroff"] {
        assert_eq!(toolstack.read_string(&path(name)).unwrap(), "0", "{name} is offered by nobody");
    }
}

#[test]
fn a_request_from_before_the_start_is_obeyed_and_a_refusal_is_told() {
    let Some(mut daemon) = Xenstored::start("early") else { return };
    daemon.connect().write(&path("control/shutdown"), "poweroff").expect("written");
    let system = Recorded { refuses: true, ..Recorded::default() };
    monitored(&system, &mut daemon, |_| {
        wait("the shut-down", || (*system.shutdowns.lock().unwrap() == [Shutdown::PowerOff]).then_some(()));
        wait("the refusal", || system.noted("a user has unsaved work").then_some(()));
    });
}

/// A connection on which `control/shutdown` cannot be written: its name becomes one that xenstored refuses.
struct Closed(UnixStream);

impl Closed {
    fn connect(socket: PathBuf) -> Result<Client, Error> {
        Client::new(Self(UnixStream::connect(socket).map_err(Error::Io)?))
    }
}

impl Transport for Closed {
    fn receive(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.receive(buffer)
    }

    fn send(&self, message: &[u8]) -> std::io::Result<()> {
        // XS_WRITE, and a header of four numbers.
        let (header, payload) = message.split_at(16);
        if header[..4] == 11_u32.to_le_bytes() && payload.starts_with(b"control/shutdown\0") {
            return self.0.send(&[header, b"control?shutdown\0", &payload[17..]].concat());
        }
        self.0.send(message)
    }

    fn shut_down(&self) {
        self.0.shut_down();
    }
}

#[test]
fn a_request_that_cannot_be_acknowledged_is_obeyed() {
    let Some(mut daemon) = Xenstored::start("closed") else { return };
    let system = Recorded::default();
    monitored_over(Closed::connect, &system, &mut daemon, |daemon| {
        let toolstack = daemon.connect();
        toolstack.write(&path("control/shutdown"), "reboot").expect("written");
        wait("a restart", || (*system.shutdowns.lock().unwrap() == [Shutdown::Reboot]).then_some(()));
        assert!(system.noted("control/shutdown cannot be acknowledged"));
        assert_eq!(toolstack.read_string(&path("control/shutdown")).unwrap(), "reboot");
    });
}

#[test]
fn addresses_of_an_earlier_run_go() {
    let Some(mut daemon) = Xenstored::start("stale") else { return };
    let system = Recorded::default();
    let adapter = Adapter { mac: [0, 0x16, 0x3e, 1, 2, 3], addresses: vec!["192.0.2.7".parse().unwrap()] };
    system.facts.lock().unwrap().adapters = vec![adapter];
    let toolstack = daemon.connect();
    toolstack.write(&path("device/vif/2/mac"), "00:16:3e:01:02:03").expect("written");
    for name in ["attr/vif/2/ipv4/0", "attr/vif/2/ipv4/1", "attr/vif/2/ipv6/0", "attr/vif/7/ipv4/0"] {
        toolstack.write(&path(name), "192.0.2.99").expect("written");
    }
    monitored(&system, &mut daemon, |_| {
        wait("the address", || (toolstack.read(&path("attr/vif/2/ipv4/0")).ok()? == b"192.0.2.7").then_some(()));
        for name in ["attr/vif/2/ipv4/1", "attr/vif/2/ipv6/0", "attr/vif/7/ipv4/0"] {
            wait(name, || (!toolstack.exists(&path(name)).ok()?).then_some(()));
        }
    });
}

#[test]
fn what_windows_is_stands_in_the_store() {
    let Some(mut daemon) = Xenstored::start("facts") else { return };
    let system = Recorded::default();
    let adapter = Adapter { mac: [0, 0x16, 0x3e, 1, 2, 3], addresses: vec!["192.0.2.7".parse().unwrap()] };
    *system.facts.lock().unwrap() = Facts {
        name: "Windows".into(),
        version: [10, 0, 19041],
        host: "PC".into(),
        adapters: vec![adapter],
        ..Facts::default()
    };
    daemon.connect().write(&path("device/vif/2/mac"), "00:16:3e:01:02:03").expect("written");
    monitored(&system, &mut daemon, |daemon| {
        let toolstack = daemon.connect();
        let has =
            |name: &str, value: &str| wait(name, || (toolstack.read_string(&path(name)).ok()? == value).then_some(()));
        has("attr/vif/2/ipv4/0", "192.0.2.7");
        has("data/os_buildver", "19041");
        has("attr/PVAddons/Installed", "1");
        // The machine goes on elsewhere: its directory is a new one, and the watch fires.
        for name in ["control", "data", "attr"] {
            toolstack.remove(&path(name)).expect("removed");
        }
        // As libxl makes them for every domain.
        for name in ["control/feature-poweroff", "control/feature-reboot", "control/shutdown"] {
            toolstack.write(&path(name), "").expect("written");
        }
        has("control/feature-poweroff", "1");
        has("control/feature-reboot", "1");
        has("data/os_buildver", "19041");
        has("attr/vif/2/ipv4/0", "192.0.2.7");
        wait("the clock", || (*system.clocks.lock().unwrap() > 0).then_some(()));
    });
}

#[test]
fn a_lost_connection_is_made_again() {
    let Some(mut daemon) = Xenstored::start("lost") else { return };
    let system = Recorded::default();
    monitored(&system, &mut daemon, |daemon| {
        for round in 1..=2 {
            let toolstack = daemon.connect();
            wait("features", || toolstack.exists(&path("control/feature-reboot")).ok()?.then_some(()));
            toolstack.write(&path("control/shutdown"), "reboot").expect("written");
            wait("a restart", || (system.shutdowns.lock().unwrap().len() == round).then_some(()));
            daemon.restart();
        }
        assert!(system.noted("trying again"));
    });
}
