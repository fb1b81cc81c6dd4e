//! Side by side: our drivers' guest and a Linux guest, each with the same loop device as disks, one paused while the other
//! is measured. What is measured goes to `bench` of the run's evidence, one line a measurement; the host makes the table.
//!
//! FOLDER has `bench` (rounds, milliseconds of warm-up and of measuring, loads if not all) and `linux/` (kernel and initial RAM disk) beside
//! what a case needs. Each guest asks `bench REPORT` by the mailbox, and the answer is what it is to do.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::dom0::{Disk, Kind, name, number, run};
use crate::mailbox::{Mailbox, Request};
use crate::privcmd;

/// 512-byte blocks of the disk.
const UNITS: u64 = 64 << 11;
/// blkback's switch for persistent grants, read when a disk is attached.
const PERSISTENT: &str = "/sys/module/xen_blkback/parameters/feature_persistent";
const POLL: Duration = Duration::from_millis(2);
/// Until a guest has booted: Linux's kernel is loaded by the firmware, through a port.
const BOOT: Duration = Duration::from_mins(5);
/// Until a guest found its disks, or answers.
const PATIENCE: Duration = Duration::from_mins(1);

/// The loads: a name, and the words that a guest gets.
const LOADS: [(&str, &str); 6] = [
    ("read-4k-1", "read random 4096 1"),
    ("write-4k-1", "write random 4096 1"),
    ("read-4k-32", "read random 4096 32"),
    ("write-4k-32", "write random 4096 32"),
    ("read-64k-16", "read sequential 65536 16"),
    ("write-64k-16", "write sequential 65536 16"),
];
/// The disks: blkback's `feature_persistent` while disk 0 and disk 1 are attached; None: its default.
const SETTINGS: [(&str, Option<&str>); 2] = [("off", Some("N")), ("default", None)];

/// How it is done.
struct Plan {
    rounds: u32,
    warm_up: Duration,
    window: Duration,
    /// Names of the loads; empty: all.
    loads: Vec<String>,
}

impl Plan {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(folder.join("bench"))?;
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [rounds, warm_up, window, ref loads @ ..] = words[..] else { bail!("this is no plan: {text}") };
        let time = |word: &str| anyhow::Ok(Duration::from_millis(word.parse()?));
        if let Some(name) = loads.iter().find(|name| LOADS.iter().all(|(load, _)| load != *name)) {
            bail!("there is no load {name}");
        }
        let loads = loads.iter().map(|&name| name.to_owned()).collect();
        Ok(Self { rounds: rounds.parse()?, warm_up: time(warm_up)?, window: time(window)?, loads })
    }
}

/// A guest that waits for what it is to do.
struct Guest {
    name: &'static str,
    domain: u16,
    mailbox: Mailbox,
    request: Option<Request>,
}

impl Guest {
    /// Makes it and waits until it asks for work.
    fn new(name: &'static str, config: &str, evidence: &Path) -> anyhow::Result<Self> {
        let file = evidence.join(format!("{name}.cfg"));
        fs::write(&file, format!("name=\"{name}\"\n{config}"))?;
        run("xl", &["create", &file.to_string_lossy()]).with_context(|| format!("{name} cannot be made"))?;
        let domain = run("xl", &["domid", name])?.parse()?;
        let mut guest = Self { name, domain, mailbox: Mailbox::map(domain)?, request: None };
        guest.wait(BOOT)?;
        Ok(guest)
    }

    /// Waits until the guest asks for the next: its report on what it did.
    fn wait(&mut self, patience: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + patience;
        loop {
            if let Some(request) = self.mailbox.poll() {
                match request.text.split_once(' ') {
                    Some(("bench", report)) => {
                        let report = report.to_owned();
                        self.request = Some(request);
                        return Ok(report);
                    }
                    // Our guest asks for it in every case.
                    _ if request.text == "callback" => {
                        let value = privcmd::callback_irq(self.domain)?.to_string();
                        self.mailbox.answer(&request, Ok((value, Vec::new())));
                    }
                    _ => bail!("{} says: {}", self.name, request.text),
                }
            }
            if Instant::now() > end {
                bail!("{} does not answer", self.name);
            }
            std::thread::sleep(POLL);
        }
    }

    fn answer(&mut self, text: &str) -> anyhow::Result<()> {
        let request = self.request.take().with_context(|| format!("{} did not ask", self.name))?;
        self.mailbox.answer(&request, Ok((text.to_owned(), Vec::new())));
        Ok(())
    }

    /// Attaches a device as this guest's disk and waits until it is connected.
    fn attach(&self, index: u32, device: &str) -> anyhow::Result<String> {
        let disk = format!("format=raw,vdev={},access=rw,script=block-fast,target={device}", name(index));
        run("xl", &["block-attach", self.name, &disk])?;
        let back = format!("/local/domain/0/backend/vbd/{}/{}", self.domain, number(index));
        let front = format!("/local/domain/{}/device/vbd/{}", self.domain, number(index));
        let read = |path: String| run("xenstore-read", &[&path]).unwrap_or_else(|_| "-".into());
        let end = Instant::now() + PATIENCE;
        while read(format!("{back}/state")) != "4" || read(format!("{front}/state")) != "4" {
            if Instant::now() > end {
                bail!("{}: {} does not connect", self.name, name(index));
            }
            std::thread::sleep(POLL);
        }
        Ok(format!(
            "{} {}: ring page order {}, feature-persistent {} (back) {} (front), indirect segments offered {}",
            self.name,
            name(index),
            read(format!("{front}/ring-page-order")),
            read(format!("{back}/feature-persistent")),
            read(format!("{front}/feature-persistent")),
            read(format!("{back}/feature-max-indirect-segments")),
        ))
    }
}

/// Counts at one moment.
#[derive(Clone, Copy)]
struct Sample {
    time: Instant,
    done: u64,
    guest: u64,
    dom0: u64,
    /// Notifications that blkback got.
    events: u64,
    /// Requests of the ring that it carried out.
    ring: u64,
}

impl Sample {
    fn take(guest: &Guest, disk: u32) -> anyhow::Result<Self> {
        let folder = format!("/sys/bus/xen-backend/devices/vbd-{}-{}/statistics", guest.domain, number(disk));
        let count = |name: &str| anyhow::Ok(fs::read_to_string(format!("{folder}/{name}"))?.trim().parse::<u64>()?);
        Ok(Self {
            time: Instant::now(),
            done: guest.mailbox.done(),
            guest: privcmd::cpu_time(guest.domain)?,
            dom0: privcmd::cpu_time(0)?,
            events: events(&fs::read_to_string("/proc/interrupts")?),
            ring: count("rd_req")? + count("wr_req")?,
        })
    }
}

/// Interrupts of blkback in /proc/interrupts: `NUMBER: count of each processor, then words`.
fn events(text: &str) -> u64 {
    let of =
        |line: &str| -> u64 { line.split_ascii_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum() };
    text.lines().filter(|line| line.ends_with("blkif-backend")).map(of).sum()
}

/// What one measurement gave; displayed as a line for the host.
struct Measured {
    nanoseconds: u128,
    done: u64,
    guest: u64,
    dom0: u64,
    events: u64,
    ring: u64,
    /// Of the whole run, warm-up and end included, as the guest counts: requests, and interrupts of its disks.
    requests: u64,
    interrupts: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} {} {} {} {} {}",
            self.nanoseconds, self.done, self.guest, self.dom0, self.events, self.ring, self.requests, self.interrupts
        )
    }
}

/// Runs a load in a guest that is paused before and after.
fn measure(plan: &Plan, guest: &mut Guest, number: u32, disk: u32, load: &str) -> anyhow::Result<Measured> {
    privcmd::unpause(guest.domain)?;
    guest.mailbox.begin_load();
    guest.answer(&format!("disk {number} {disk} {load}"))?;
    let end = Instant::now() + PATIENCE;
    while guest.mailbox.done() == 0 {
        if Instant::now() > end {
            bail!("{}: {load}: nothing was done in {} s", guest.name, PATIENCE.as_secs());
        }
        std::thread::sleep(POLL);
    }
    std::thread::sleep(plan.warm_up);
    let first = Sample::take(guest, disk)?;
    std::thread::sleep(plan.window);
    let last = Sample::take(guest, disk)?;
    guest.mailbox.end_load(number);
    let report = guest.wait(PATIENCE)?;
    privcmd::pause(guest.domain)?;
    let words: Vec<&str> = report.split(' ').collect();
    let ["done", run, requests, "0", interrupts] = words[..] else { bail!("{}: {load}: {report}", guest.name) };
    if run != number.to_string() || last.done <= first.done {
        bail!(
            "{}: {load}: {report}, and {} requests when measuring began, {} at its end",
            guest.name,
            first.done,
            last.done
        );
    }
    Ok(Measured {
        nanoseconds: (last.time - first.time).as_nanos(),
        done: last.done - first.done,
        guest: last.guest - first.guest,
        dom0: last.dom0 - first.dom0,
        events: last.events - first.events,
        ring: last.ring - first.ring,
        requests: requests.parse()?,
        interrupts: interrupts.parse()?,
    })
}

/// Both guests' configurations: the same but for what is booted.
fn configurations(folder: &Path) -> [String; 2] {
    let folder = folder.display();
    let common = "type=\"hvm\"\nvcpus=1\nvga=\"none\"\nusb=0\nxen_platform_pci=1\ntsc_mode=\"native\"\n\
                  on_poweroff=\"destroy\"\non_reboot=\"destroy\"\non_crash=\"destroy\"\n";
    let ours = format!(
        "{common}kernel=\"{folder}/guest\"\nramdisk=\"{folder}/drivers.tar\"\nmemory=64\n\
         cmdline=\"vcpus=1 case=lab/bench seed=1\"\n"
    );
    // The pages of the mailbox are kept out of Linux's memory.
    let linux = format!(
        "{common}kernel=\"{folder}/linux/vmlinuz\"\nramdisk=\"{folder}/linux/initrd\"\nmemory=192\n\
         cmdline=\"console=hvc0 quiet mitigations=off panic=1 memmap=0x11000$0x20000\"\n"
    );
    [ours, linux]
}

/// Runs it all. The measurements that there are by then are kept if it fails.
pub fn bench(folder: &Path, out: &Path) -> anyhow::Result<()> {
    let plan = Plan::read(folder)?;
    let evidence = out.join("bench-guests");
    fs::create_dir_all(&evidence)?;
    let mut results = fs::File::create(out.join("bench"))?;
    let disk = Disk::make(0, Kind::Phy, UNITS, 512)?;
    // Blocks of its own for every page: a hole would be read without any copy from the file.
    fs::OpenOptions::new().write(true).open(&disk.file)?.write_all(&vec![0xa5; UNITS as usize * 512])?;
    let device = disk.device.as_deref().context("there is no loop device")?;

    let [ours, linux] = configurations(folder);
    println!("lab-bench the Linux guest boots");
    let mut linux = Guest::new("lab-linux", &linux, &evidence)?;
    linux.answer("load xen-blkfront")?;
    let loaded = linux.wait(PATIENCE)?;
    if loaded != "loaded" {
        bail!("Linux: {loaded}");
    }
    println!("lab-bench our guest boots");
    let ours = Guest::new("lab", &ours, &evidence)?;
    let usual = fs::read_to_string(PERSISTENT).context("blkback is not there")?;
    let mut guests = [ours, linux];
    let mut notes = format!("blkback's feature_persistent is {} by default\n", usual.trim());
    for (index, (_, persistent)) in SETTINGS.iter().enumerate() {
        fs::write(PERSISTENT, persistent.unwrap_or(usual.trim()))?;
        for guest in &guests {
            writeln!(notes, "{}", guest.attach(index as u32, device)?)?;
        }
    }
    for note in notes.lines() {
        writeln!(results, "note {note}")?;
    }
    for guest in &guests {
        privcmd::pause(guest.domain)?;
    }

    let mut count = 0;
    for round in 1..=plan.rounds {
        println!("lab-bench round {round} of {}", plan.rounds);
        for (load, words) in
            LOADS.iter().filter(|(name, _)| plan.loads.is_empty() || plan.loads.iter().any(|own| own == name))
        {
            for (index, (setting, _)) in SETTINGS.iter().enumerate() {
                for turn in 0..2 {
                    // Each goes first as often as the other.
                    let (own, other) = ((turn + round as usize) % 2, (turn + round as usize + 1) % 2);
                    let idle = privcmd::cpu_time(guests[other].domain)?;
                    count += 1;
                    let measured = measure(&plan, &mut guests[own], count, index as u32, words)?;
                    let ran = privcmd::cpu_time(guests[other].domain)? - idle;
                    if ran != 0 {
                        bail!("{} ran {ran} ns while it was paused", guests[other].name);
                    }
                    writeln!(results, "measured {round} {load} {setting} {} {measured}", guests[own].name)?;
                }
            }
        }
    }
    writeln!(results, "end")?;
    for guest in &guests {
        run("xl", &["destroy", guest.name])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_interrupts_of_blkback() {
        let text = "            CPU0\n  54:        120   xen-dyn    -event     blkif-backend\n\
                    55:        3   xen-dyn    -event     blkif-backend\n 56:   9  xen-dyn  -event  vif1.0\n";
        assert_eq!(events(text), 123);
    }
}
