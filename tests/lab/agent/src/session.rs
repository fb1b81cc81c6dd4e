//! One guest from its creation to its end. What its suite asks for meanwhile is in [`requests`](crate::requests).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::Case;
use crate::dom0::{self, DISKS, Disk, number, run};
use crate::load::Load;
use crate::mailbox::Mailbox;
use crate::net::Vifs;
use crate::privcmd;
use crate::serial::Serial;
use crate::service::Service;
use crate::store::{self, Conflicts, TRACE};

/// The guest's name.
pub const NAME: &str = "lab";
const POLL: Duration = Duration::from_millis(2);
/// How often the domain's life is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// What dom0 gets to let go of a destroyed domain.
const CLEAN: Duration = Duration::from_secs(15);

/// What is to be done once the guest knows that its request was taken.
pub enum Due {
    /// `xl save -c`.
    Checkpoint,
    /// `xl save` and `xl restore`.
    Migrate,
    /// `xl destroy`, while the disk with this number is busy.
    Destroy(u32),
    /// `xl destroy`, while the interface with this number is busy; the guest's counters are part of the verdict.
    DestroyVif(u32, String),
    /// The guest shuts itself down; `xl` must see this reason. The guest's counters are part of the verdict.
    AwaitShutdown(u32, String),
}

/// A guest that runs a case.
pub struct Session {
    /// Its number at the moment.
    pub domain: u16,
    mailbox: Option<Mailbox>,
    /// Its disks, also those that were detached.
    pub disks: Vec<Disk>,
    /// `xl` commands that need the guest's help and so cannot be waited for.
    pub children: Vec<Child>,
    evidence: PathBuf,
    /// Saved and restored.
    pub suspends: u32,
    /// Saved, and went on.
    pub cancelled: u32,
    /// See [`Due`].
    pub due: Option<Due>,
    /// What the case came to, once it is known.
    pub verdict: Option<String>,
    /// Writes that fall into the guest's transactions.
    pub conflicts: Option<Conflicts>,
    /// Its network interfaces.
    pub vifs: Vifs,
    /// shutdownmon, while the case has it run.
    pub service: Option<Service>,
    /// A command of `xl` that must succeed for the case to have passed.
    pub toolstack: Option<Child>,
    /// Its serial port, if that is a pty.
    pub serial: Option<Serial>,
    /// What was negotiated for each device, for the summary.
    pub notes: BTreeMap<String, String>,
    start: Instant,
    timeline: String,
}

/// The configuration of a guest: `twins` has the lines of its emulated devices, `extra` the user's, which win.
fn configuration(load: &Load, case: &Case, twins: &str, extra: &str) -> String {
    let vcpus = extra
        .lines()
        .find_map(|line| line.split_once('=').filter(|(key, _)| key.trim() == "vcpus")?.1.trim().parse().ok())
        .unwrap_or(case.vcpus);
    format!(
        "name=\"{NAME}\"\ntype=\"hvm\"\nkernel=\"{0}\"\n\
         cmdline=\"vcpus={vcpus} case={1} seed={2} serial={4} {3}\"\nmemory=64\nvcpus={vcpus}\nvga=\"none\"\nusb=0\n\
         xen_platform_pci=1\non_poweroff=\"destroy\"\non_reboot=\"destroy\"\non_crash=\"destroy\"\n{5}{twins}{extra}",
        load.stub().display(),
        case.name,
        case.seed,
        load.argument(),
        u8::from(case.serial),
        if case.serial { "serial=\"pty\"\n" } else { "" }
    )
}

impl Session {
    /// Makes the guest.
    pub fn new(folder: &Path, evidence: &Path, case: &Case) -> anyhow::Result<Self> {
        let config = evidence.join("guest.cfg");
        let extra = fs::read_to_string(folder.join("extra.cfg")).unwrap_or_default();
        let load = Load::new(&folder.join("guest"), &folder.join(format!("{}.tar", case.drivers)))?;
        for entry in fs::read_dir(DISKS)?.flatten() {
            fs::remove_file(entry.path())?;
        }
        // The trace begins with each case, or it would fill dom0's memory.
        fs::OpenOptions::new().write(true).truncate(true).open(TRACE).context("xenstored writes no trace")?;
        let mut session = Self {
            domain: 0,
            mailbox: None,
            disks: Vec::new(),
            children: Vec::new(),
            evidence: evidence.to_owned(),
            suspends: 0,
            cancelled: 0,
            due: None,
            verdict: None,
            conflicts: None,
            vifs: Vifs::new(),
            service: None,
            toolstack: None,
            serial: None,
            notes: BTreeMap::new(),
            start: Instant::now(),
            timeline: String::new(),
        };
        if let Err(error) = session.create(&config, &load, case, &extra) {
            // It must not stand in the next guest's way; what went wrong first is what is told.
            let _ = session.finish();
            return Err(error);
        }
        Ok(session)
    }

    /// Makes the guest with what is behind its devices, and lets it begin.
    fn create(&mut self, config: &Path, load: &Load, case: &Case, extra: &str) -> anyhow::Result<()> {
        let twins = if case.twins { self.make_twins()? } else { String::new() };
        fs::write(config, configuration(load, case, &twins, extra))?;
        run("xl", &["create", "-p", &config.to_string_lossy()]).context("the guest cannot be made")?;
        self.mark("created");
        self.connect()?;
        if case.serial {
            self.serial = Some(Serial::open(self.domain, &self.evidence)?);
        }
        self.begin(load)
    }

    /// Lets the guest, which was made paused, begin.
    fn begin(&mut self, load: &Load) -> anyhow::Result<()> {
        load.write(self.domain)?;
        privcmd::unpause(self.domain)?;
        self.mark("begun");
        Ok(())
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        self.domain = run("xl", &["domid", NAME])?.parse()?;
        self.mailbox = Some(Mailbox::map(self.domain)?);
        Ok(())
    }

    /// A file of the evidence that a program writes.
    pub fn output(&self, name: &str) -> anyhow::Result<fs::File> {
        let file = fs::OpenOptions::new().create(true).append(true).open(self.evidence.join(name));
        file.with_context(|| format!("cannot write {name}"))
    }

    /// Adds to a file of the evidence.
    pub fn append(&self, name: &str, data: &[u8]) -> anyhow::Result<()> {
        Ok(self.output(name)?.write_all(data)?)
    }

    /// A line of the timeline, which is kept as evidence.
    fn mark(&mut self, what: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.timeline, "{:8.2} {what}", self.start.elapsed().as_secs_f64());
    }

    /// Carries out requests until the case has a result. What it returns begins with `passed` or `failed`.
    pub fn serve(&mut self, seconds: u64) -> anyhow::Result<String> {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut looked = Instant::now();
        loop {
            if let Some(request) = self.mailbox.as_ref().and_then(Mailbox::poll) {
                let result = self.carry_out(&request).map_err(|error| format!("{error:#}"));
                self.mark(&request.text);
                if let Some(mailbox) = &self.mailbox {
                    mailbox.answer(&request, result);
                }
                match self.due.take() {
                    Some(Due::Checkpoint) => self.checkpoint()?,
                    Some(Due::Migrate) => self.migrate()?,
                    Some(Due::Destroy(index)) => {
                        return self.destroy_under_load(|session| session.disk_requests(index));
                    }
                    Some(Due::DestroyVif(index, counters)) => {
                        self.note_vifs();
                        let verdict = self.destroy_under_load(|session| session.vif_frames(index))?;
                        return Ok(format!("{verdict}, {counters}"));
                    }
                    Some(Due::AwaitShutdown(reason, counters)) => {
                        return Ok(format!("{}{counters}", self.await_shutdown(reason, end)?));
                    }
                    None => {}
                }
                if let Some(verdict) = self.verdict.take() {
                    return Ok(verdict);
                }
                continue;
            }
            std::thread::sleep(POLL);
            self.children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
            if Instant::now() > end {
                bail!("killed after {seconds} s");
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                if run("xl", &["domid", NAME]).is_err() {
                    bail!("the guest is gone without a result");
                }
            }
        }
    }

    /// Destroys the guest if it is there, keeps what it leaves, and sees that dom0 is as it was before.
    ///
    /// # Errors
    /// What is left of the domain.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        self.keep("xenstore", store::tree());
        for index in self.disks.iter().map(|disk| disk.index).collect::<Vec<_>>() {
            self.note(index);
        }
        self.note_vifs();
        self.keep(
            "snmp",
            ["/proc/net/snmp", "/proc/net/snmp6"]
                .map(fs::read_to_string)
                .into_iter()
                .collect::<Result<_, _>>()
                .map_err(Into::into),
        );
        self.mark("end");
        // On Xen's console, which the host has.
        self.keep("grants-before-destroy", run("xl", &["debug-keys", "g"]));
        self.mailbox = None;
        self.mark("evidence kept");
        if run("xl", &["domid", NAME]).is_ok() {
            self.keep("destroy", run("xl", &["destroy", NAME]));
        }
        self.mark("destroyed");
        self.service = None;
        self.serial = None;
        for child in self.children.iter_mut().chain(&mut self.toolstack) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(conflicts) = self.conflicts.take() {
            conflicts.end()?;
        }
        let clean = self.wait_until_clean();
        self.keep("domains-after", run("xl", &["list"]));
        for name in [format!("qemu-dm-{NAME}.log"), format!("xl-{NAME}.log")] {
            let _ = fs::rename(Path::new("/var/log/xen").join(&name), self.evidence.join(&name));
        }
        self.keep("xenstored-trace", Ok(String::new()));
        let _ = fs::copy(TRACE, self.evidence.join("xenstored-trace"));
        self.mark("clean");
        self.keep("timeline", Ok(self.timeline.clone()));
        for note in self.notes.values() {
            println!("lab-note {note}");
        }
        clean
    }

    /// Evidence. The run's result does not depend on what cannot be written: the host says what is missing.
    fn keep(&self, name: &str, text: anyhow::Result<String>) {
        let text = text.unwrap_or_else(|error| format!("{error:#}\n"));
        let _ = fs::write(self.evidence.join(name), text);
    }

    /// Remembers what was negotiated for a disk, if it is connected.
    pub fn note(&mut self, index: u32) {
        if let Ok(text) = self.negotiated(index) {
            self.notes.insert(dom0::name(index), text);
        }
    }

    /// Waits until nothing of the domain is left.
    fn wait_until_clean(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + CLEAN;
        loop {
            let left = self.left();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("dom0 is not clean: {}", left.join(", "));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What is there of the domain.
    fn left(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        let domains = run("xl", &["list"]).unwrap_or_else(|error| format!("{error:#}"));
        // A zombie is `(null)`.
        left.extend(domains.lines().skip(1).filter(|line| !line.starts_with("Domain-0")).map(str::to_owned));
        for class in ["vbd", "qdisk", "vif"] {
            let path = format!("/local/domain/0/backend/{class}/{}", self.domain);
            // QEMU 7.2 may write below a device's directory when the toolstack has removed it, and takes that directory
            // away again, but not the one above it, which then outlives the domain: empty, it is nothing of ours.
            let there = if class == "qdisk" {
                store::list(&path).map(|names| !names.is_empty())
            } else {
                store::exists(&path)
            };
            match there {
                Ok(false) => {}
                Ok(true) => left.push(path),
                Err(error) => left.push(format!("{error:#}")),
            }
        }
        for disk in &mut self.disks {
            // blkback lets the device go a moment after the domain.
            if let Err(error) = disk.free() {
                left.push(format!("{error:#}"));
            }
        }
        left.extend(self.vifs_left());
        if left.is_empty()
            && let Err(error) = self.free_vifs()
        {
            left.push(format!("{error:#}"));
        }
        left
    }

    fn checkpoint(&mut self) -> anyhow::Result<()> {
        run("xl", &["save", "-c", NAME, "/tmp/lab-save"])?;
        self.cancelled += 1;
        self.mark("checkpoint done");
        fs::remove_file("/tmp/lab-save").context("the saved image cannot be removed")
    }

    fn migrate(&mut self) -> anyhow::Result<()> {
        // The mapping would keep the old domain's memory.
        self.mailbox = None;
        run("xl", &["save", NAME, "/tmp/lab-save"])?;
        self.mark("saved");
        run("xl", &["restore", "/tmp/lab-save"])?;
        self.connect()?;
        self.suspends += 1;
        self.mark("restored");
        fs::remove_file("/tmp/lab-save").context("the saved image cannot be removed")
    }

    /// Requests that blkback carried out for a disk.
    fn disk_requests(&self, index: u32) -> u64 {
        self.statistics(index).iter().map(|text| text.parse::<u64>().unwrap_or(0)).sum()
    }

    /// `xl destroy` while a backend's `count` of what it carried out grows: [`Self::finish`] judges what is left.
    fn destroy_under_load(&mut self, count: impl Fn(&Self) -> u64) -> anyhow::Result<String> {
        std::thread::sleep(Duration::from_secs(1));
        let first = count(self);
        std::thread::sleep(Duration::from_secs(1));
        let second = count(self);
        if second == first {
            bail!("there was no load to destroy the domain under: {first} requests, a second later still so");
        }
        run("xl", &["destroy", NAME])?;
        self.mark("destroyed under load");
        Ok(format!("passed requests of the last second {}, requests before {second}", second - first))
    }

    /// Waits until `xl` says why the domain shut down.
    fn await_shutdown(&mut self, reason: u32, end: Instant) -> anyhow::Result<String> {
        let log = format!("/var/log/xen/xl-{NAME}.log");
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if let Some(line) = text.lines().find(|line| line.contains("has shut down, reason code")) {
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                let code = words.iter().position(|word| *word == "code").and_then(|at| words.get(at + 1));
                if code.and_then(|code| code.parse().ok()) != Some(reason) {
                    bail!("xl says `{line}`, reason {reason} was due");
                }
                if run("xl", &["domid", NAME]).is_err() {
                    self.end_toolstack(end)?;
                    return Ok(format!("passed reason in xl's log {reason}"));
                }
            }
            if Instant::now() > end {
                bail!("xl has not seen the domain shut down: {text}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A command of `xl` was obeyed: it says so itself, too.
    fn end_toolstack(&mut self, end: Instant) -> anyhow::Result<()> {
        let Some(mut child) = self.toolstack.take() else { return Ok(()) };
        loop {
            if let Some(status) = child.try_wait()? {
                if !status.success() {
                    bail!("xl ended with {status}");
                }
                return Ok(());
            }
            if Instant::now() > end {
                let _ = child.kill();
                bail!("the domain is gone and xl still waits for it");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A disk of the guest.
    pub fn disk(&self, index: u32) -> anyhow::Result<&Disk> {
        self.disks.iter().find(|disk| disk.index == index).with_context(|| format!("there is no disk {index}"))
    }

    /// The frontend's directory of a disk.
    pub fn frontend(&self, index: u32) -> String {
        format!("/local/domain/{}/device/vbd/{}", self.domain, number(index))
    }

    /// The backend's directory of a disk.
    pub fn backend(&self, index: u32) -> anyhow::Result<String> {
        store::read(&format!("{}/backend", self.frontend(index)))
    }
}
