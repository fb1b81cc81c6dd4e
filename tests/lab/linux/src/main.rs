//! PID 1 of the Linux guest that the lab compares with: makes the few file systems, takes requests from the agent by the
//! [`mailbox`], loads the modules it is told, sets interfaces up and runs the load it is told ([`disk`],
//! [`net`]).
//!
//! The guest's side of the agent's `bench.rs`; `tests/lab/guest/src/bench.rs` is the same for our drivers.

mod disk;
mod mailbox;
mod net;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use anyhow::{Context, bail};

use mailbox::Mailbox;

/// Where the modules are, each with the order in which it and what it needs are loaded.
const MODULES: &str = "/modules";

fn mount(kind: &str, place: &str) -> anyhow::Result<()> {
    fs::create_dir_all(place)?;
    let (kind, place) = (CString::new(kind)?, CString::new(place)?);
    // SAFETY: three strings that live on; no flags, no data.
    if unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) } != 0 {
        bail!("cannot mount {place:?}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Loads a driver and what it needs.
fn load(driver: &str) -> anyhow::Result<()> {
    let order =
        fs::read_to_string(format!("{MODULES}/{driver}.deps")).with_context(|| format!("no module {driver}"))?;
    for module in order.lines() {
        let file = File::open(format!("{MODULES}/{module}"))?;
        // SAFETY: a file and an empty string, which live on.
        if unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) } != 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EEXIST) {
                bail!("{module}: {error}");
            }
        }
    }
    Ok(())
}

/// Carries a request out: what is reported to the agent.
fn carry_out(mailbox: &Mailbox, request: &str) -> anyhow::Result<String> {
    let words: Vec<&str> = request.split_ascii_whitespace().collect();
    match words[..] {
        ["load", driver] => load(driver).map(|()| String::from("good")),
        ["up", driver, mac, address] => net::up(driver, mac, address.parse()?).map(|()| String::from("good")),
        ["net", run, index, protocol, direction] => {
            let shape = net::Shape { index: index.parse()?, tcp: protocol == "tcp", out: direction == "out" };
            net::run(mailbox, run.parse()?, &shape)
        }
        ["disk", run, index, way, order, bytes, depth] => {
            let shape = disk::Shape {
                index: index.parse()?,
                write: way == "write",
                random: order == "random",
                bytes: bytes.parse()?,
                depth: depth.parse()?,
            };
            disk::run(mailbox, run.parse()?, &shape)
        }
        _ => bail!("`{request}` is no request"),
    }
}

fn serve() -> anyhow::Result<()> {
    mount("devtmpfs", "/dev")?;
    mount("proc", "/proc")?;
    mount("sysfs", "/sys")?;
    let mailbox = Mailbox::map()?;
    let mut report = String::from("ready");
    loop {
        let request = mailbox.ask(&format!("bench {report}"));
        report = carry_out(&mailbox, &request).unwrap_or_else(|error| format!("failed {error:#}"));
    }
}

fn main() {
    if let Err(error) = serve() {
        // The kernel's log is the only place that anybody sees; it panics when this returns.
        if let Ok(mut log) = File::create("/dev/kmsg") {
            let _ = writeln!(log, "lab-linux: {error:#}");
        }
    }
}
