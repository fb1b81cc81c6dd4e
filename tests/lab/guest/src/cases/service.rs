//! shutdownmon and the toolstack. The service's own loop and client run beside the agent in dom0; each wire message that they
//! exchange with xenstore goes through a handle that is open on xenpci's device here, as a program of Windows has it.

use crate::power::Reason;
use crate::world::{self, ask};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use nt::io::security::Token;
use nt::io::user::{Overlapped, UserFile};
use suites::case::{Case, Ctx, Failure, Setup};
use suites::program::{GENERIC_READ, GENERIC_WRITE, link};
use suites::{check, fail};

use super::{case, obey};

/// Bytes of a read: the longest message.
const MESSAGE: usize = 16 + 4096;
/// Milliseconds in which the service does what is due.
const PATIENCE_MS: u64 = 30_000;

const SHUTDOWN: &str = "control/shutdown";
/// What the service offers.
const FEATURES: [&str; 2] = ["control/feature-poweroff", "control/feature-reboot"];
/// What it and xenpci tell, as the agent's service has it.
const PUBLISHED: [(&str, &str); 10] = [
    (FEATURES[0], "1"),
    (FEATURES[1], "1"),
    ("control/feature-suspend", "1"),
    ("attr/PVAddons/Installed", "1"),
    ("attr/os/class", "windows NT"),
    ("attr/os/build", "19045"),
    ("data/os_name", "the lab's guest"),
    ("data/host_name", "lab"),
    ("attr/vif/0/ipv4/0", "10.77.0.2"),
    ("attr/vif/0/ipv6/0", "fd77::2"),
];

/// The cases.
pub const CASES: &[Case] = &[
    case(
        "lab/service",
        "shutdownmon over xenpci's device: what it publishes, unknown requests, its stop, xl restore, then xl reboot",
        |_| Setup::one_vif(),
        reboot,
    ),
    case(
        "lab/service-late",
        "xl shutdown -w before shutdownmon runs: nothing happens until it comes up, then Windows goes off",
        |_| Setup::one_disk(4),
        late,
    ),
];

/// The handle, and the read that always waits on it.
struct Service {
    file: UserFile,
    read: Option<Overlapped>,
}

impl Service {
    /// Opens the device as a service may, and has the service started.
    fn start() -> Result<Self, Failure> {
        let file = UserFile::open(&link()?, GENERIC_READ | GENERIC_WRITE, Token::System)
            .map_err(|status| format!("the service cannot open the device: {status:#x}"))?;
        ask("service-start", &[]);
        Ok(Self { file, read: None })
    }

    /// Carries what there is both ways; what Windows is asked for, if anything.
    fn exchange(&mut self, ctx: &mut Ctx<'_>) -> Result<String, Failure> {
        let mut came = Vec::new();
        if let Some(read) = self.read.take_if(|read| read.is_done()) {
            let (status, _, bytes) = read.wait();
            check!(status == 0 && !bytes.is_empty(), "a read ended with {status:#x} and {} bytes", bytes.len());
            ctx.count("bytes read", bytes.len() as u64);
            came = bytes;
        }
        if self.read.is_none() {
            self.read = Some(self.file.read(MESSAGE).map_err(|status| format!("a read is refused: {status:#x}"))?);
        }
        let (asked, message) = ask("service", &came);
        if !message.is_empty() {
            let written = self.file.write(&message).map_err(|status| format!("a write is refused: {status:#x}"))?;
            check!(written == message.len(), "{written} of {} bytes were written", message.len());
            ctx.count("messages written", 1);
        } else if came.is_empty() && asked.is_empty() {
            ctx.world.sleep_ms(2);
        }
        Ok(asked)
    }

    /// Goes on until the service asks for that, and for nothing else before.
    fn until_asked(&mut self, ctx: &mut Ctx<'_>, what: &str) -> Result<(), Failure> {
        let begun = nt::platform::platform().interrupt_time();
        loop {
            match self.exchange(ctx)? {
                asked if asked == what => return Ok(()),
                asked if !asked.is_empty() => fail!("the service asks for `{asked}`, `{what}` is due"),
                _ => {}
            }
            check!(
                passed(begun) < PATIENCE_MS,
                "{PATIENCE_MS} ms have passed and the service does not ask for `{what}`"
            );
        }
    }

    /// Goes on until a node of the domain has that value; it asks for nothing meanwhile.
    fn until_node(&mut self, ctx: &mut Ctx<'_>, path: &str, value: &str) -> Result<(), Failure> {
        let begun = nt::platform::platform().interrupt_time();
        let path = format!("{}/{path}", ctx.world.home());
        loop {
            let found = ctx.world.store_read(&path);
            if found.as_deref() == Some(value) {
                return Ok(());
            }
            check!(passed(begun) < PATIENCE_MS, "{PATIENCE_MS} ms have passed and {path} is {found:?}, not {value:?}");
            for _ in 0..10 {
                let asked = self.exchange(ctx)?;
                check!(asked.is_empty(), "the service asks for `{asked}`");
            }
        }
    }

    /// Everything is published.
    fn until_published(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Failure> {
        for (path, value) in PUBLISHED {
            self.until_node(ctx, path, value)?;
            ctx.count("nodes seen", 1);
        }
        // libxl makes the nodes, empty.
        for withheld in ["control/feature-s3", "control/feature-s4"] {
            let found = ctx.world.store_read(&format!("{}/{withheld}", ctx.world.home())).unwrap_or_default();
            check!(found.is_empty(), "{withheld} is {found:?}");
        }
        Ok(())
    }
}

/// Milliseconds since an interrupt time.
fn passed(begun: u64) -> u64 {
    (nt::platform::platform().interrupt_time() - begun) / 10_000
}

fn node(ctx: &Ctx<'_>, path: &str) -> Option<String> {
    ctx.world.store_read(&format!("{}/{path}", ctx.world.home()))
}

fn reboot(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut service = Service::start()?;
    service.until_published(ctx)?;
    for request in ["dance", "s3"] {
        ctx.world.store_write(&format!("{}/{SHUTDOWN}", ctx.world.home()), request);
        // Acknowledged; that nothing follows is seen by what it asks for next.
        service.until_node(ctx, SHUTDOWN, "")?;
        ctx.count("requests ignored", 1);
    }

    // Stopped, it withdraws what it offers; started again on a handle of its own, it offers it again.
    ask("service-stop", &[]);
    service.until_asked(ctx, "stopped")?;
    drop(service);
    for path in FEATURES {
        let found = node(ctx, path);
        check!(found.as_deref() == Some("0"), "{path} is {found:?} after the service has stopped");
    }
    let mut service = Service::start()?;
    service.until_published(ctx)?;

    // In the domain that was restored there is nothing of it until it has heard of that; the handle stays.
    ctx.world.suspend(false);
    service.until_asked(ctx, "clock")?;
    check!(ctx.world.xen_stats().suspends == 1, "the toolstack did not finish");
    service.until_published(ctx)?;

    let domains = ask("domains", &[]).0;
    check!(domains.lines().any(|line| line.starts_with("lab ")), "xl list has no such domain: {domains}");
    world::toolstack("reboot");
    service.until_asked(ctx, "reboot")?;
    check!(node(ctx, SHUTDOWN).as_deref() == Some(""), "the request is not acknowledged");
    ctx.want("nodes seen", 3 * PUBLISHED.len() as u64);
    ctx.want("requests ignored", 2);
    ctx.want("messages written", 40);
    obey(ctx, Reason::Reboot)
}

fn late(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    world::toolstack("shutdown");
    let begun = nt::platform::platform().interrupt_time();
    while node(ctx, SHUTDOWN).as_deref() != Some("poweroff") {
        check!(passed(begun) < PATIENCE_MS, "xl does not ask");
        ctx.world.sleep_ms(50);
    }
    ctx.world.sleep_ms(1000);
    check!(node(ctx, SHUTDOWN).as_deref() == Some("poweroff"), "somebody took the request, and there is no service");
    let mut service = Service::start()?;
    service.until_asked(ctx, "poweroff")?;
    check!(node(ctx, SHUTDOWN).as_deref() == Some(""), "the request is not acknowledged");
    ctx.want("messages written", 10);
    obey(ctx, Reason::PowerOff)
}
