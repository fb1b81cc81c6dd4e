//! Stories: several boots of one machine in a row, with its registry, disk and boot configuration kept in between.
//!
//! Between two boots stands the boot manager (`bcd-model`), which uses the boot sequence up before Windows starts. Each
//! boot is a process of its own ([`boot`]) with the built drivers; what installer and service do in it is done by their own
//! code over the modelled registry and `bcdedit` ([`windows`]).
//!
//! After every boot of every story it must hold: no two boots in a row failed; no disk was there twice; every record that
//! was ever acknowledged stands on the disk; a passed-through card is there; and whether a boot used the emulated or the
//! paravirtual disk is what the story says.

mod boot;
mod longer;
mod network;
pub mod order;
mod windows;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use bcd_model::{BOOT_MANAGER, Bcd, Kind};
use std::collections::{BTreeMap, BTreeSet};

use crate::case::ResultLine;
use order::{Act, Death, End, Host, Order, Other, Report, Twin, Unplug, file};

pub use boot::run as run_boot;

/// Bytes of the system disk.
const DISK: u64 = 4 << 20;
/// Seconds that a boot runs, if it is to be a good one; and a short one.
const LONG: u64 = 80;
const SHORT: u64 = 5;
/// The emulated card and the passed-through one.
const EMULATED_NIC: (u16, u16) = (0x10ec, 0x8139);
const PASSED_THROUGH: (u16, u16) = (0x8086, 0x1521);

/// The registry of a computer before our drivers came.
const REGISTRY: &str = r#"Windows Registry Editor Version 5.00

[\Registry\Machine\SYSTEM\ControlSet001\Services\storahci]
"Start"=dword:00000000

[\Registry\Machine\SYSTEM\ControlSet001\Services\stornvme]
"Start"=dword:00000000

[\Registry\Machine\SYSTEM\ControlSet001\Services\pciide]
"Start"=dword:00000000

[\Registry\Machine\SYSTEM\ControlSet001\Services\intelide]
"Start"=dword:00000000

[\Registry\Machine\SYSTEM\ControlSet001\Services\atapi]
"Start"=dword:00000000
"#;

/// A story.
pub struct Story {
    /// Its name among the cases.
    pub name: &'static str,
    /// What it shows, in one line.
    pub summary: &'static str,
    /// Whether `--quick` runs it.
    pub quick: bool,
    /// Wall-clock seconds after which it has failed.
    pub timeout_s: u32,
    run: fn(&mut Machine) -> anyhow::Result<()>,
}

const fn story(name: &'static str, summary: &'static str, run: fn(&mut Machine) -> anyhow::Result<()>) -> Story {
    Story { name, summary, quick: true, timeout_s: 120, run }
}

/// The stories.
pub const STORIES: &[Story] = &[
    story(
        "story/first-install",
        "Installed in an emulated boot; one restart, and the paravirtual devices are used",
        |m| {
            m.boot_as(Twin::Emulated, LONG)?;
            m.install()?;
            m.boot_as(Twin::Paravirtual, LONG)?;
            m.boot_as(Twin::Paravirtual, SHORT)?;
            m.boot_as(Twin::Paravirtual, SHORT)?;
            ensure!(m.last()?.nics.is_empty(), "the emulated card stayed");
            Ok(())
        },
    ),
    story("story/no-network-card", "A machine without a network card arms its disks all the same", |m| {
        m.host.nic = false;
        m.install()?;
        m.boot_as(Twin::Paravirtual, LONG)
    }),
    story("story/passed-through", "A card that is passed through stays, whatever is unplugged", |m| {
        m.host.passed_through = true;
        m.install()?;
        m.boot_as(Twin::Paravirtual, LONG)?;
        ensure!(m.last()?.nics == [PASSED_THROUGH], "the cards are {:x?}", m.last()?.nics);
        m.boot_as(Twin::Paravirtual, SHORT)
    }),
    story(
        "story/dies-and-recovers",
        "A boot that dies at each stage is followed by an emulated one, and that by a good one",
        |m| {
            m.install()?;
            m.boot_as(Twin::Paravirtual, LONG)?;
            for death in [
                Death::Step(2_000),
                Death::AtVolume,
                Death::HiveWritable,
                Death::Service(0),
                Death::Service(2_000),
                Death::Service(70_000),
            ] {
                m.boot_to_death(death)?;
                m.boot_as(Twin::Emulated, LONG)?;
                m.boot_as(Twin::Paravirtual, LONG)?;
            }
            Ok(())
        },
    ),
    story(
        "story/dies-while-arming",
        "The power goes when the next boot has just been ordered: it is a good one",
        |m| {
            m.install()?;
            m.boot_to_death(Death::BootChange(1))?;
            m.boot_as(Twin::Paravirtual, LONG)
        },
    ),
    story(
        "story/dies-while-installing",
        "The power goes after each step of the installer: Windows boots, and installing again finishes",
        |m| {
            for changes in 1..=4 {
                m.start_over()?;
                m.acts = vec![Act::Install];
                m.boot_to_death(Death::BootChange(changes))?;
                m.boot_as(if changes < 4 { Twin::Emulated } else { Twin::Paravirtual }, SHORT)?;
                m.install_again()?;
                m.boot_as(Twin::Paravirtual, LONG)?;
            }
            Ok(())
        },
    ),
    story(
        "story/never-comes-up",
        "Boots that die again and again: two are tried, never two in a row, then it stays emulated until asked",
        |m| {
            m.install()?;
            m.host.disk_backend = false;
            m.boot_without_volume()?;
            m.host.disk_backend = true;
            m.boot_as(Twin::Emulated, LONG)?;
            m.host.disk_backend = false;
            m.boot_without_volume()?;
            m.host.disk_backend = true;
            for _ in 0..3 {
                m.boot_as(Twin::Emulated, LONG)?;
            }
            ensure!(m.last_said("2 boots from the paravirtual devices failed in a row"), "nobody was told");
            m.acts = vec![Act::Arm];
            m.boot_as(Twin::Emulated, LONG)?;
            m.boot_as(Twin::Paravirtual, LONG)
        },
    ),
    story("story/backend-gone", "The paravirtual disk does not answer while it is withheld: nothing is armed", |m| {
        m.host.disk_backend = false;
        m.host.nic = false;
        m.install()?;
        ensure!(m.last_said("has not worked yet"), "nobody was told: {:?}", m.last()?.service);
        for _ in 0..2 {
            m.boot_as(Twin::Emulated, LONG)?;
        }
        m.host.disk_backend = true;
        m.boot_as(Twin::Emulated, LONG)?;
        m.boot_as(Twin::Paravirtual, LONG)
    }),
    story("story/safe-mode", "Safe mode uses the emulated devices, and what was armed stands afterwards", |m| {
        m.install()?;
        m.boot_as(Twin::Paravirtual, LONG)?;
        let entry = m.bcd.get(BOOT_MANAGER, "bootsequence").first().cloned().context("an entry is next")?;
        m.bcd.put(&entry, Kind::Loader, "safeboot", &["Minimal"]);
        m.boot_as(Twin::Emulated, LONG)?;
        m.bcd.put(&entry, Kind::Loader, "safeboot", &[]);
        m.boot_as(Twin::Emulated, LONG)?;
        m.boot_as(Twin::Paravirtual, LONG)
    }),
    story("story/nogplpv", "NOGPLPV in the paravirtual entry, by hand: emulated, and it is left alone", |m| {
        m.install()?;
        let entry = m.bcd.get(BOOT_MANAGER, "bootsequence").first().cloned().context("an entry is next")?;
        m.bcd.put(&entry, Kind::Loader, "loadoptions", &["GPLPV NOGPLPV"]);
        m.boot_as(Twin::Emulated, LONG)?;
        m.boot_as(Twin::Emulated, LONG)?;
        ensure!(m.last_said("does not have the option GPLPV any more"), "nobody was told: {:?}", m.last()?.service);
        m.bcd.put(&entry, Kind::Loader, "loadoptions", &["GPLPV"]);
        m.boot_as(Twin::Emulated, LONG)?;
        m.boot_as(Twin::Paravirtual, LONG)
    }),
    story(
        "story/disarmed",
        "Switched off by the administrator: emulated from the next boot on, until switched on",
        |m| {
            m.install()?;
            m.acts = vec![Act::Disarm];
            m.boot_as(Twin::Paravirtual, LONG)?;
            m.boot_as(Twin::Emulated, LONG)?;
            m.acts = vec![Act::Arm];
            m.boot_as(Twin::Emulated, LONG)?;
            m.boot_as(Twin::Paravirtual, LONG)
        },
    ),
    story(
        "story/static-address",
        "A static address survives installation, paravirtual and fall-back boots, and the uninstallation, untouched",
        |m| {
            let configure = |last: u32| Act::Configure(format!("192.0.2.{last}"), format!("2001:db8::{last}"));
            m.acts = vec![configure(10), Act::Install];
            m.boot_as(Twin::Emulated, LONG)?;
            m.boot_as(Twin::Paravirtual, LONG)?;
            m.used(Twin::Paravirtual, "192.0.2.10", "2001:db8::10")?;
            ensure!(!m.last_said("nothing to change"), "it says what nobody needs: {:?}", m.last()?.service);
            m.boot_to_death(Death::AtVolume)?;
            // The fall-back boot, and somebody changes the address in it.
            m.acts = vec![configure(11)];
            m.boot_as(Twin::Emulated, LONG)?;
            m.used(Twin::Emulated, "192.0.2.10", "2001:db8::10")?;
            m.boot_as(Twin::Paravirtual, SHORT)?;
            m.used(Twin::Paravirtual, "192.0.2.11", "2001:db8::11")?;
            ensure!(m.last()?.service.iter().any(|line| line.contains("2001:db8::11")), "{:?}", m.last()?.service);
            m.boot_as(Twin::Paravirtual, SHORT)?;
            ensure!(!m.last_said("network settings"), "nothing had to be done: {:?}", m.last()?.service);
            m.acts = vec![configure(12), Act::Disarm];
            m.boot_as(Twin::Paravirtual, SHORT)?;
            m.acts = vec![Act::Uninstall];
            m.boot_as(Twin::Emulated, SHORT)?;
            m.used(Twin::Emulated, "192.0.2.12", "2001:db8::12")?;
            m.boot_as(Twin::Emulated, SHORT)?;
            m.used(Twin::Emulated, "192.0.2.12", "2001:db8::12")
        },
    ),
    story(
        "story/upgrade",
        "Another version over this one, up and down: one restart, and earlier failures are forgotten",
        |m| {
            for other in ["0.0.9", "9.9.9"] {
                m.start_over()?;
                m.install()?;
                m.registry_edit("\"Version\"=", other)?;
                m.registry_number("Failures", 2)?;
                m.boot_as(Twin::Paravirtual, SHORT)?;
                m.install_again()?;
                m.boot_as(Twin::Paravirtual, LONG)?;
                ensure!(m.registry_text()?.contains("\"Failures\"=dword:00000000"), "the failures of {other} count");
            }
            Ok(())
        },
    ),
    story(
        "story/downgrade",
        "Drivers rolled back under a newer service, one that does not load among them; all removed and an older version installed",
        longer::downgrade,
    ),
    story(
        "story/uninstall",
        "Uninstalled in a paravirtual boot: the next is emulated, and the boot entries are as they were",
        |m| {
            let before = m.bcd.objects().to_vec();
            m.install()?;
            m.boot_as(Twin::Paravirtual, LONG)?;
            m.acts = vec![Act::Uninstall];
            m.boot_as(Twin::Paravirtual, LONG)?;
            ensure!(m.bcd.objects() == before, "the boot entries are not as they were: {:?}", m.bcd.objects());
            m.boot_as(Twin::Emulated, LONG)?;
            m.boot_as(Twin::Emulated, SHORT)?;
            let left = m.registry_text()?;
            // The devices' own keys are the installer's affair; these decide a boot.
            let keys = [r"\Services\xen", r"\Services\shutdownmon", r"\Enum\XENPV"];
            let left: Vec<&str> = left.lines().filter(|line| keys.iter().any(|key| line.contains(key))).collect();
            ensure!(left.is_empty(), "left in the registry: {left:#?}");
            m.install()?;
            m.boot_as(Twin::Paravirtual, LONG)
        },
    ),
    story(
        "story/old-device-model",
        "A host that cannot unplug, or refuses to: emulated, whatever is armed, and no failure",
        |m| {
            m.install()?;
            for unplug in [Unplug::None, Unplug::Refusing] {
                m.host.unplug = unplug;
                for _ in 0..3 {
                    m.boot_as(Twin::Emulated, LONG)?;
                }
                // Moved to a better host.
                m.host.unplug = Unplug::Usual;
                m.boot_as(Twin::Paravirtual, LONG)?;
            }
            Ok(())
        },
    ),
    story(
        "story/bit-locker",
        "BitLocker protects the drive: nothing is armed and somebody is told; suspended, it goes on",
        |m| {
            m.install()?;
            m.bit_locker = 0;
            m.boot_as(Twin::Paravirtual, LONG)?;
            ensure!(m.last_said("BitLocker protects"), "nobody was told: {:?}", m.last()?.service);
            m.boot_as(Twin::Emulated, LONG)?;
            m.boot_as(Twin::Emulated, LONG)?;
            m.bit_locker = 1;
            m.boot_as(Twin::Emulated, LONG)?;
            m.boot_as(Twin::Paravirtual, LONG)
        },
    ),
    story(
        "story/someone-elses-boot",
        "Somebody else ordered the next boot: it is not replaced, and counts as no failure",
        |m| {
            m.acts = vec![Act::Install, Act::OrderOther];
            m.boot_as(Twin::Emulated, LONG)?;
            ensure!(m.last_said("already given to"), "nobody was told: {:?}", m.last()?.service);
            m.boot_as(Twin::Emulated, LONG)?;
            m.acts = vec![Act::OrderOther];
            m.boot_as(Twin::Paravirtual, LONG)?;
            ensure!(m.last_said("somebody else ordered"), "nobody was told: {:?}", m.last()?.service);
            m.boot_as(Twin::Emulated, LONG)?;
            ensure!(!m.last_said("did not come up"), "it counts as a failure: {:?}", m.last()?.service);
            m.boot_as(Twin::Paravirtual, LONG)
        },
    ),
    Story {
        name: "story/power-cut-walk",
        summary: "A paravirtual boot loses power at one moment after the other: the next boot is good, the one after it paravirtual",
        quick: false,
        timeout_s: 900,
        run: longer::power_cut_walk,
    },
];

/// A machine and what came of its boots.
pub struct Machine {
    folder: tempfile::TempDir,
    drivers: PathBuf,
    seed: u64,
    bcd: Bcd,
    host: Host,
    bit_locker: i32,
    /// The version of the suite's packages, if not the built one.
    version: Option<String>,
    /// Driver packages beside them.
    others: Vec<Other>,
    /// What is done in the next boot.
    acts: Vec<Act>,
    reports: Vec<Report>,
    /// Boots that failed in a row.
    failed: u32,
    boots: u64,
    died: u64,
    paravirtual: u64,
}

/// What a machine is put back to.
struct Kept {
    bcd: Bcd,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Machine {
    fn new(drivers: &Path, seed: u64) -> anyhow::Result<Self> {
        let machine = Self {
            folder: tempfile::tempdir()?,
            drivers: std::path::absolute(drivers)?,
            seed,
            bcd: Bcd::installed(),
            host: Host::default(),
            bit_locker: 1,
            version: None,
            others: Vec::new(),
            acts: Vec::new(),
            reports: Vec::new(),
            failed: 0,
            boots: 0,
            died: 0,
            paravirtual: 0,
        };
        machine.format()?;
        Ok(machine)
    }

    fn format(&self) -> anyhow::Result<()> {
        let folder = self.folder.path();
        std::fs::File::create(folder.join(file::DISK))?.set_len(DISK)?;
        order::put(folder, file::REGISTRY, format!("{REGISTRY}{}", network::untouched()))?;
        order::put(folder, file::RECORDS, "0")
    }

    /// A new machine in the place of this one.
    fn start_over(&mut self) -> anyhow::Result<()> {
        self.bcd = Bcd::installed();
        self.failed = 0;
        self.others.clear();
        self.format()
    }

    fn keep(&self) -> anyhow::Result<Kept> {
        let read = |name| Ok((name, std::fs::read(self.folder.path().join(name))?));
        let files = [file::DISK, file::REGISTRY, file::RECORDS].into_iter().map(read).collect::<anyhow::Result<_>>()?;
        Ok(Kept { bcd: self.bcd.clone(), files })
    }

    fn put_back(&mut self, kept: &Kept) -> anyhow::Result<()> {
        self.bcd = kept.bcd.clone();
        self.failed = 0;
        kept.files.iter().try_for_each(|(name, content)| order::put(self.folder.path(), name, content))
    }

    fn last(&self) -> anyhow::Result<&Report> {
        self.reports.last().context("no boot yet")
    }

    /// That the last boot used that card, with that IPv4 address from its first moment on, and that IPv6 address in the end.
    fn used(&self, card: Twin, ipv4: &str, ipv6: &str) -> anyhow::Result<()> {
        let used = self.last()?.network.as_ref().context("no card was there")?;
        ensure!(used.card == card, "the boot used the card {used:?}, not the {card:?} one");
        ensure!(used.first.as_deref() == Some(ipv4), "the card started without {ipv4}: {used:?}");
        ensure!(used.ipv6.iter().any(|address| address == ipv6), "the card has no {ipv6}: {used:?}");
        Ok(())
    }

    /// That these INFs are what the devices' drivers came from. The registry has more: of devices that were removed.
    fn driven_by(&self, infs: &[String]) -> anyhow::Result<()> {
        let text = self.registry_text()?;
        let keys = || text.split("\n[").map(|key| key.split_once(']').unwrap_or((key, "")));
        let value = |values: &str, name: &str| {
            let mut found =
                values.lines().filter_map(|line| line.strip_prefix(&format!("\"{name}\"=\""))?.strip_suffix('"'));
            found.next().map(|text| text.replace(r"\\", r"\"))
        };
        let devices = keys().filter(|(key, _)| key.contains(r"\Enum\"));
        let drivers: Vec<String> = devices.filter_map(|(_, values)| value(values, "Driver")).collect();
        let classes =
            keys().filter(|(key, _)| drivers.iter().any(|driver| key.ends_with(&format!(r"\Class\{driver}"))));
        let found = classes.filter_map(|(_, values)| value(values, "InfPath")).filter(|inf| inf.starts_with("xen"));
        let found: BTreeSet<String> = found.collect();
        ensure!(found == infs.iter().cloned().collect(), "the drivers are {found:?}");
        Ok(())
    }

    fn last_said(&self, text: &str) -> bool {
        self.reports.last().is_some_and(|report| report.service.iter().any(|line| line.contains(text)))
    }

    fn registry_text(&self) -> anyhow::Result<String> {
        order::get(self.folder.path(), file::REGISTRY)
    }

    /// Changes a text value of the registry on the disk.
    fn registry_edit(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let text = self.registry_text()?;
        let line = text.lines().find(|line| line.starts_with(name)).context("the value is there")?;
        order::put(self.folder.path(), file::REGISTRY, text.replace(line, &format!("{name}\"{value}\"")))
    }

    /// Changes a number of the registry on the disk.
    fn registry_number(&self, name: &str, value: u32) -> anyhow::Result<()> {
        let text = self.registry_text()?;
        let start = format!("\"{name}\"=dword:");
        let line = text.lines().find(|line| line.starts_with(&start)).context("the value is there")?;
        order::put(self.folder.path(), file::REGISTRY, text.replace(line, &format!("{start}{value:08x}")))
    }

    /// One boot: the boot manager, then Windows in a process of its own.
    fn boot(&mut self, runs_s: u64, dies: Option<Death>) -> anyhow::Result<&Report> {
        let started = self.bcd.start().context("the boot manager finds nothing to start")?;
        self.boots += 1;
        let folder = self.folder.path();
        let order = Order {
            seed: self.seed.wrapping_add(self.boots),
            folder: folder.to_owned(),
            drivers: self.drivers.clone(),
            version: self.version.clone(),
            others: self.others.clone(),
            options: started.options.clone(),
            host: self.host.clone(),
            acts: std::mem::take(&mut self.acts),
            runs_s,
            dies,
            bit_locker: self.bit_locker,
        };
        let came = order.acts.iter().filter_map(|act| if let Act::Driver(other) = act { Some(other) } else { None });
        self.others.extend(came.cloned());
        order::put(folder, file::BOOT, serde_json::to_vec(&self.bcd)?)?;
        order::put(folder, file::ORDER, serde_json::to_vec(&order)?)?;
        let output = Command::new(std::env::current_exe()?).arg("boot").arg(folder.join(file::ORDER)).output()?;
        if !output.status.success() {
            bail!("boot {}: {}", self.boots, String::from_utf8_lossy(&output.stderr).trim());
        }
        self.bcd = serde_json::from_str(&order::get(folder, file::BOOT)?)?;
        let report: Report = serde_json::from_str(&order::get(folder, file::REPORT)?)?;
        println!(
            "boot {}: {:?} by {}, {}; {}",
            self.boots,
            report.end,
            started.options.trim(),
            report.disk.map_or_else(|| "no disk".to_owned(), |disk| format!("{disk:?}")),
            report.service.join("; ")
        );
        self.judge(&report)?;
        self.reports.push(report);
        self.last()
    }

    /// What must hold after every boot.
    fn judge(&mut self, report: &Report) -> anyhow::Result<()> {
        if let Some(failure) = &report.failure {
            for line in &report.log {
                println!("  {line}");
            }
            bail!("boot {}: {failure}", self.boots);
        }
        self.failed = if report.end == End::Shutdown { 0 } else { self.failed + 1 };
        self.died += u64::from(report.end != End::Shutdown);
        self.paravirtual += u64::from(report.disk == Some(Twin::Paravirtual));
        ensure!(self.failed < 2, "boot {}: two boots in a row failed", self.boots);
        if report.end == End::Shutdown {
            let passed_through = report.nics.contains(&PASSED_THROUGH);
            ensure!(
                passed_through == self.host.passed_through,
                "boot {}: the cards are {:x?}",
                self.boots,
                report.nics
            );
            let emulated = self.host.nic && report.disk == Some(Twin::Emulated);
            let found = report.nics.contains(&EMULATED_NIC);
            // Cards are armed apart from disks.
            let paravirtual = report.network.as_ref().is_some_and(|used| used.card == Twin::Paravirtual);
            ensure!(!emulated || found != paravirtual, "boot {}: the card is there twice, or not at all", self.boots);
        }
        Ok(())
    }

    /// A boot that must come up, on that disk, and is shut down after so many seconds.
    fn boot_as(&mut self, disk: Twin, runs_s: u64) -> anyhow::Result<()> {
        let boots = self.boots + 1;
        let report = self.boot(runs_s, None)?;
        ensure!(report.end == End::Shutdown, "boot {boots} did not come up");
        ensure!(report.disk == Some(disk), "boot {boots} is to use the disk {disk:?}: {:#?}", report.log);
        Ok(())
    }

    /// A boot that must come up.
    fn boot_somehow(&mut self) -> anyhow::Result<()> {
        let boots = self.boots + 1;
        ensure!(self.boot(LONG, None)?.end == End::Shutdown, "boot {boots} did not come up");
        Ok(())
    }

    /// A boot that loses its power.
    fn boot_to_death(&mut self, death: Death) -> anyhow::Result<()> {
        let boots = self.boots + 1;
        let report = self.boot(LONG, Some(death))?;
        ensure!(report.end == End::PowerCut, "boot {boots} did not come to {death:?}");
        Ok(())
    }

    /// A boot that finds no volume.
    fn boot_without_volume(&mut self) -> anyhow::Result<()> {
        let boots = self.boots + 1;
        let report = self.boot(LONG, None)?;
        ensure!(report.end == End::NoVolume, "boot {boots} found a volume: {:?}", report.disk);
        Ok(())
    }

    /// The installer in an emulated boot.
    fn install(&mut self) -> anyhow::Result<()> {
        self.acts = vec![Act::Install];
        self.boot_as(Twin::Emulated, LONG)
    }

    /// The installer once more, over whatever is there.
    fn install_again(&mut self) -> anyhow::Result<()> {
        self.acts = vec![Act::Install];
        self.boot_somehow()
    }
}

/// Tells a story; the last line printed is the result.
///
/// # Errors
/// The story cannot be begun.
pub fn run(story: &Story, seed: u64, drivers: &Path) -> anyhow::Result<ExitCode> {
    let mut machine = Machine::new(drivers, seed)?;
    let outcome = (story.run)(&mut machine);
    let counters =
        [("boots", machine.boots), ("boots that died", machine.died), ("paravirtual boots", machine.paravirtual)];
    let line = ResultLine {
        passed: outcome.is_ok(),
        failure: outcome.err().map(|error| format!("{error:#}")),
        counters: counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>(),
        trace: String::new(),
    };
    println!("RESULT {}", serde_json::to_string(&line)?);
    Ok(if line.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
