//! Side by side: our drivers' guest and a Linux guest, one paused while the other is measured: [`disk`], [`net`]. What is
//! measured goes to `bench` of the run's evidence, one line a measurement; the host makes the table.
//!
//! FOLDER has `bench` (rounds, milliseconds of warm-up and of measuring, `disk`, `net` or `all`, loads if not all) and `linux/`
//! (kernel and initial RAM disk) beside what a case needs. Each guest asks `bench REPORT` by the mailbox, and the answer is
//! what it is to do.

mod disk;
mod net;
mod peer;

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::dom0::run;
use crate::load::Load;
use crate::mailbox::{Mailbox, Request};
use crate::privcmd;

const POLL: Duration = Duration::from_millis(2);
/// Until a guest has booted: Linux's kernel is loaded by the firmware, through a port.
const BOOT: Duration = Duration::from_mins(5);
/// How often a guest is made that does not boot. SeaBIOS was seen to hang where it enters the kernel's loader.
const BOOTS: u32 = 2;
/// Until a guest found its devices, or answers.
const PATIENCE: Duration = Duration::from_mins(1);

/// How it is done.
struct Plan {
    rounds: u32,
    warm_up: Duration,
    window: Duration,
    disk: bool,
    net: bool,
    /// Names of the loads; empty: all.
    loads: Vec<String>,
}

impl Plan {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [rounds, warm_up, window, rows @ ("disk" | "net" | "all"), ref loads @ ..] = words[..] else {
            bail!("this is no plan: {text}")
        };
        let time = |word: &str| anyhow::Ok(Duration::from_millis(word.parse()?));
        let loads: Vec<String> = loads.iter().map(|&name| name.to_owned()).collect();
        let plan = Self {
            rounds: rounds.parse()?,
            warm_up: time(warm_up)?,
            window: time(window)?,
            disk: rows != "net",
            net: rows != "disk",
            loads,
        };
        let all = plan.all();
        if let Some(name) = plan.loads.iter().find(|name| all.iter().all(|(load, _, _)| load != name)) {
            bail!("there is no load {name}");
        }
        Ok(plan)
    }

    /// The loads there are: a name, the guest's words, and whether it is the disk's.
    fn all(&self) -> Vec<(&'static str, &'static str, bool)> {
        let disk = disk::LOADS.iter().filter(|_| self.disk).map(|&(name, words)| (name, words, true));
        let net = net::LOADS.iter().filter(|_| self.net).map(|&(name, words)| (name, words, false));
        disk.chain(net).collect()
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
    /// Makes it, with `load` in its memory, and waits until it asks for work. One that does not boot is destroyed and made
    /// again, which is told to the host and added to `notes`.
    fn new(
        name: &'static str,
        config: &str,
        load: Option<&Load>,
        evidence: &Path,
        notes: &mut String,
    ) -> anyhow::Result<Self> {
        let file = evidence.join(format!("{name}.cfg"));
        fs::write(&file, format!("name=\"{name}\"\n{config}"))?;
        let mut boot = 1;
        loop {
            let mut guest = Self::make(name, &file, load)?;
            if guest.report(BOOT)?.is_some() {
                return Ok(guest);
            }
            let (seconds, domain) = (BOOT.as_secs(), guest.domain);
            let why = format!(
                "{name} has not booted in {seconds} s, try {boot} of {BOOTS}; its console's lines begin with (d{domain})"
            );
            if boot == BOOTS {
                bail!(why);
            }
            drop(guest);
            run("xl", &["destroy", name]).with_context(|| why.clone())?;
            println!("lab-bench {why}; made again");
            notes.extend([&why, "; made again\n"]);
            boot += 1;
        }
    }

    /// Makes it, and lets it begin.
    fn make(name: &'static str, file: &Path, load: Option<&Load>) -> anyhow::Result<Self> {
        run("xl", &["create", "-p", &file.to_string_lossy()]).with_context(|| format!("{name} cannot be made"))?;
        let domain = run("xl", &["domid", name])?.parse()?;
        if let Some(load) = load {
            load.write(domain)?;
        }
        privcmd::unpause(domain)?;
        Ok(Self { name, domain, mailbox: Mailbox::map(domain)?, request: None })
    }

    /// Waits until the guest asks for the next: its report on what it did. `None`: it said nothing for so long.
    fn report(&mut self, patience: Duration) -> anyhow::Result<Option<String>> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if let Some(request) = self.mailbox.poll() {
                match request.text.split_once(' ') {
                    Some(("bench", report)) => {
                        let report = report.to_owned();
                        self.request = Some(request);
                        return Ok(Some(report));
                    }
                    // Our guest asks for it in every case.
                    _ if request.text == "callback" => {
                        let value = privcmd::callback_irq(self.domain)?.to_string();
                        self.mailbox.answer(&request, Ok((value, Vec::new())));
                    }
                    _ => bail!("{} says: {}", self.name, request.text),
                }
            }
            std::thread::sleep(POLL);
        }
        Ok(None)
    }

    /// The same; silence is an error.
    fn wait(&mut self, patience: Duration) -> anyhow::Result<String> {
        let report = self.report(patience)?;
        report.with_context(|| format!("{} does not answer in {} s", self.name, patience.as_secs()))
    }

    fn answer(&mut self, text: &str) -> anyhow::Result<()> {
        let request = self.request.take().with_context(|| format!("{} did not ask", self.name))?;
        self.mailbox.answer(&request, Ok((text.to_owned(), Vec::new())));
        Ok(())
    }
}

/// What is counted of a device at one moment.
struct Counts {
    /// Units of the load: requests, datagrams, bytes of a stream.
    done: u64,
    /// Notifications that dom0 got.
    events: u64,
    /// Requests of the disk's ring, or frames of the interface both ways.
    ring: u64,
}

/// Reads what there is to count of a guest.
type Meter = Box<dyn Fn(&Guest) -> anyhow::Result<Counts>>;

/// One of those that are compared.
struct Row {
    /// 0: our guest, 1: Linux.
    guest: usize,
    /// Rows of a group are measured one after the other, and take turns in who is first.
    group: usize,
    setting: &'static str,
    who: &'static str,
    /// What the guest is told; `{run}` is the measurement's number.
    request: String,
    meter: Meter,
}

/// Counts and times at one moment.
struct Sample {
    time: Instant,
    guest: u64,
    dom0: u64,
    counts: Counts,
}

impl Sample {
    fn take(guest: &Guest, row: &Row) -> anyhow::Result<Self> {
        Ok(Self {
            time: Instant::now(),
            guest: privcmd::cpu_time(guest.domain)?,
            dom0: privcmd::cpu_time(0)?,
            counts: (row.meter)(guest)?,
        })
    }
}

/// Interrupts in /proc/interrupts of those whose name fits: `NUMBER: count of each processor, then words, the last of which is
/// the name`.
fn events(text: &str, fits: impl Fn(&str) -> bool) -> u64 {
    let of =
        |line: &str| -> u64 { line.split_ascii_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum() };
    text.lines().filter(|line| line.split_ascii_whitespace().last().is_some_and(&fits)).map(of).sum()
}

/// What one measurement gave; displayed as a line for the host.
struct Measured {
    nanoseconds: u128,
    done: u64,
    guest: u64,
    dom0: u64,
    events: u64,
    ring: u64,
    /// Of the whole run, warm-up and end included, as the guest counts: units, and interrupts of the device.
    units: u64,
    interrupts: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} {} {} {} {} {}",
            self.nanoseconds, self.done, self.guest, self.dom0, self.events, self.ring, self.units, self.interrupts
        )
    }
}

/// Runs a load in a guest that is paused before and after.
fn measure(plan: &Plan, guest: &mut Guest, number: u32, row: &Row) -> anyhow::Result<Measured> {
    let request = row.request.replace("{run}", &number.to_string());
    guest.mailbox.begin_load();
    peer::begin();
    privcmd::unpause(guest.domain)?;
    guest.answer(&request)?;
    let end = Instant::now() + PATIENCE;
    while (row.meter)(guest)?.done == 0 {
        if Instant::now() > end {
            bail!("{}: {request}: nothing was done in {} s", row.who, PATIENCE.as_secs());
        }
        std::thread::sleep(POLL);
    }
    std::thread::sleep(plan.warm_up);
    let first = Sample::take(guest, row)?;
    std::thread::sleep(plan.window);
    let last = Sample::take(guest, row)?;
    guest.mailbox.end_load(number);
    peer::end();
    let report = guest.wait(PATIENCE)?;
    privcmd::pause(guest.domain)?;
    let words: Vec<&str> = report.split(' ').collect();
    let ["done", run, units, "0", interrupts] = words[..] else { bail!("{}: {request}: {report}", row.who) };
    let (from, to) = (&first.counts, &last.counts);
    if run != number.to_string() || to.done <= from.done {
        bail!("{}: {request}: {report}, and {} when measuring began, {} at its end", row.who, from.done, to.done);
    }
    Ok(Measured {
        nanoseconds: (last.time - first.time).as_nanos(),
        done: to.done - from.done,
        guest: last.guest - first.guest,
        dom0: last.dom0 - first.dom0,
        events: to.events - from.events,
        ring: to.ring - from.ring,
        units: units.parse()?,
        interrupts: interrupts.parse()?,
    })
}

/// Both guests' configurations: the same but for what is booted, and the emulated interfaces.
fn configurations(folder: &Path, load: &Load, net: bool) -> [String; 2] {
    let folder = folder.display();
    let common = "type=\"hvm\"\nvcpus=1\nvga=\"none\"\nusb=0\nxen_platform_pci=1\ntsc_mode=\"native\"\n\
                  on_poweroff=\"destroy\"\non_reboot=\"destroy\"\non_crash=\"destroy\"\n";
    let vifs = [0, 1].map(|guest| if net { net::configuration(guest) } else { String::new() });
    let ours = format!(
        "{common}{}kernel=\"{}\"\nmemory=64\ncmdline=\"vcpus=1 case=lab/bench seed=1 {}\"\n",
        vifs[0],
        load.stub().display(),
        load.argument()
    );
    // The pages of the mailbox are kept out of Linux's memory; the emulated interfaces stay beside the other one.
    let linux = format!(
        "{common}{}kernel=\"{folder}/linux/vmlinuz\"\nramdisk=\"{folder}/linux/initrd\"\nmemory=192\n\
         cmdline=\"console=hvc0 quiet mitigations=off panic=1 memmap=0x11000$0x20000 xen_emul_unplug=unnecessary\"\n",
        vifs[1]
    );
    [ours, linux]
}

/// Runs it all. The measurements that there are by then are kept if it fails.
pub fn bench(folder: &Path, out: &Path) -> anyhow::Result<()> {
    let plan = Plan::parse(&fs::read_to_string(folder.join("bench"))?)?;
    let evidence = out.join("bench-guests");
    fs::create_dir_all(&evidence)?;
    let mut results = fs::File::create(out.join("bench"))?;
    if plan.net {
        net::bridges()?;
    }
    let load = Load::new(&folder.join("guest"), &folder.join("drivers.tar"))?;
    let [ours, linux] = configurations(folder, &load, plan.net);
    let mut notes = String::new();
    println!("lab-bench the Linux guest boots");
    let mut linux = Guest::new("lab-linux", &linux, None, &evidence, &mut notes)?;
    linux.answer("load xen-blkfront")?;
    let loaded = linux.wait(PATIENCE)?;
    if loaded != "good" {
        bail!("Linux: {loaded}");
    }
    println!("lab-bench our guest boots");
    let ours = Guest::new("lab", &ours, Some(&load), &evidence, &mut notes)?;
    let mut guests = [ours, linux];
    if plan.disk {
        notes += &disk::prepare(&guests)?;
    }
    if plan.net {
        notes += &net::prepare(&mut guests)?;
    }
    for note in notes.lines() {
        writeln!(results, "note {note}")?;
    }
    for guest in &guests {
        privcmd::pause(guest.domain)?;
    }

    let mut count = 0;
    for round in 1..=plan.rounds {
        for (load, words, is_disk) in plan.all() {
            if !plan.loads.is_empty() && plan.loads.iter().all(|own| own != load) {
                continue;
            }
            println!("lab-bench round {round} of {}: {load}", plan.rounds);
            let rows = if is_disk { disk::rows(words) } else { net::rows(words) };
            for group in rows.chunk_by(|one, next| one.group == next.group) {
                for turn in 0..group.len() {
                    // Each goes first as often as the others.
                    let row = &group[(turn + round as usize) % group.len()];
                    let other = 1 - row.guest;
                    let idle = privcmd::cpu_time(guests[other].domain)?;
                    count += 1;
                    let measured = measure(&plan, &mut guests[row.guest], count, row)?;
                    let ran = privcmd::cpu_time(guests[other].domain)? - idle;
                    if ran != 0 {
                        bail!("{} ran {ran} ns while it was paused", guests[other].name);
                    }
                    writeln!(results, "measured {round} {load} {} {} {measured}", row.setting, row.who)?;
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
    fn counts_interrupts_by_name() {
        let text = "            CPU0\n  54:        120   xen-dyn    -event     blkif-backend\n\
                    55:        3   xen-dyn    -event     blkif-backend\n 56:   9  xen-dyn  -event  vif1.0-q0-tx\n\
                    57:  2  xen-dyn  -event  vif1.0-q0-rx\n 58:  4  xen-dyn  -event  vif1.01-q0-rx\n";
        assert_eq!(events(text, |name| name == "blkif-backend"), 123);
        assert_eq!(events(text, |name| name.starts_with("vif1.0-")), 11);
    }

    #[test]
    fn a_plan_is_read() {
        let plan = Plan::parse("7 30 100 net tcp-in udp-out\n").expect("a plan");
        assert!(plan.net && !plan.disk && plan.rounds == 7 && plan.loads.len() == 2);
        assert!(Plan::parse("7 30 100 net read-4k-1\n").is_err());
        assert!(Plan::parse("7 30 100 tape\n").is_err());
    }
}
