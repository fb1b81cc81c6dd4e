//! `cargo xtask lab`: the built drivers in ring 0 on a real Xen, against real Linux backends, under QEMU's emulation.
//! How it works and how to write a case: docs/lab.md.
//!
//! [`image`] makes the dom0, once; [`guest`] builds the guest kernel and dom0's agent; [`machine`] is QEMU; [`follow`]
//! reads its console; [`crash`] judges a guest that was to crash. Everything of a run is collected below `target/lab/<run>/`.

mod bench;
mod crash;
mod follow;
mod guest;
mod image;
mod machine;

use std::collections::BTreeSet;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use crate::symbolize::Symbols;
use crate::{foreign, packages, workspace};
use crash::Crash;
use follow::{Outcome, Progress};
use machine::{Clock, Machine};

/// Seconds from QEMU's start until dom0's toolstack must be there. It takes 12 on an idle machine.
const BOOT_LIMIT: u64 = 180;
/// Seconds that a run may take: the default cases take less than a quarter of it on an idle machine.
const TIMEOUT: u64 = 1800;
/// As [`TIMEOUT`], where all cases are run.
const FULL_TIMEOUT: u64 = 3 * TIMEOUT;
/// Fewer cases than these are not worth a second machine, whose start takes as long as one or two of them.
const CASES_A_MACHINE: usize = 5;
/// Most machines at once, whatever the host has: each takes 1.5 GiB.
const MOST_MACHINES: usize = 4;
/// Free bytes that a run needs below `target/`.
const RUN_BYTES: u64 = 300 << 20;
/// Fewer free bytes than these end it: QEMU writes its console no more then.
const LAST_BYTES: u64 = 4 << 20;
/// How often the free bytes are counted.
const SPACE_LOOK: Duration = Duration::from_secs(5);

/// Arguments of `cargo xtask lab`.
#[derive(clap::Args)]
pub struct Args {
    /// Only the case with this name, or the cases whose names contain this text; may be given again
    #[arg(long)]
    suite: Vec<String>,
    /// List the cases and stop
    #[arg(long)]
    list: bool,
    /// All cases, not the default ones alone
    #[arg(long)]
    full: bool,
    /// Lines for the guest's configuration (xl.cfg), which win over ours
    #[arg(long)]
    config: Option<PathBuf>,
    /// A folder of .inf + .sys packages to run instead of ours
    #[arg(long)]
    drivers: Option<PathBuf>,
    /// Leave dom0 running when the cases are done
    #[arg(long)]
    keep: bool,
    /// Seconds that the whole run may take [default: 1800, or 5400 with --full]
    #[arg(long)]
    timeout: Option<u64>,
    /// Machines at once, the cases dealt out among them [default: one a processor, if there are cases enough]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=16))]
    machines: Option<u64>,
    /// Seed of every case
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write every result to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    comparison: bench::Options,
}

impl Args {
    /// What no argument means.
    fn plain() -> Self {
        Self {
            suite: Vec::new(),
            list: false,
            full: false,
            config: None,
            drivers: None,
            keep: false,
            timeout: None,
            machines: None,
            seed: 1,
            json: None,
            comparison: bench::Options::default(),
        }
    }

    /// Seconds that the whole run may take.
    fn timeout(&self) -> u64 {
        self.timeout.unwrap_or(if self.full { FULL_TIMEOUT } else { TIMEOUT })
    }

    /// How many machines so many cases are dealt out among.
    fn machines(&self, cases: usize) -> usize {
        let wanted = self.machines.and_then(|wanted| usize::try_from(wanted).ok()).unwrap_or_else(|| {
            let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            (cases / CASES_A_MACHINE).min(processors).min(MOST_MACHINES)
        });
        // What is left running is one.
        if self.keep { 1 } else { wanted.clamp(1, cases.max(1)) }
    }
}

/// A line of `tests/lab/cases.txt`.
struct Case {
    name: String,
    seconds: u64,
    default: bool,
    /// Virtual processors of its guest.
    vcpus: u32,
    /// What its guest has beside what every guest has, as the agent reads it.
    machine: String,
    /// A driver of `tests/foreign` that its guest has beside ours.
    foreign: Option<String>,
    /// The guest is to crash, and how.
    crash: Option<Crash>,
}

/// The archive of drivers of guests that have one of `tests/foreign` too.
fn archive_with(foreign: &str) -> String {
    format!("drivers-{foreign}")
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let file = workspace::root().join("tests/lab/cases.txt");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [name, seconds, kind @ ("d" | "f"), vcpus, ref machine @ ..] = words[..] else {
                bail!("tests/lab/cases.txt: {line}")
            };
            let (mut words, mut foreign, mut crash) = (Vec::new(), None, None);
            for word in machine {
                if let Some(name) = word.strip_prefix("foreign=") {
                    foreign = Some(name.to_owned());
                    words.push(format!("drivers={}", archive_with(name)));
                } else if let Some(text) = word.strip_prefix("crash=") {
                    crash = Some(Crash::parse(text).with_context(|| format!("tests/lab/cases.txt: {line}"))?);
                } else {
                    words.push((*word).to_owned());
                }
            }
            Ok(Case {
                name: name.to_owned(),
                seconds: seconds.parse()?,
                default: kind == "d",
                vcpus: vcpus.parse()?,
                machine: words.join(" "),
                foreign,
                crash,
            })
        })
        .collect()
}

/// Runs the command.
///
/// # Errors
/// Where the lab itself does not work; a case that fails is exit code 1.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.comparison.bench {
        return bench::run(args);
    }
    let mut chosen = cases()?;
    if !args.suite.is_empty() {
        let names: Vec<String> = chosen.iter().map(|case| case.name.clone()).collect();
        // A name as it stands means that case alone.
        let wanted = |name: &str, part: &String| name == part || !names.contains(part) && name.contains(part.as_str());
        chosen.retain(|case| args.suite.iter().any(|part| wanted(&case.name, part)));
    } else if !args.full && !args.list {
        chosen.retain(|case| case.default);
    }
    if chosen.is_empty() {
        bail!("no case has that name; see cargo xtask lab --list");
    }
    if args.list {
        for case in &chosen {
            println!("{}{}", case.name, if case.default { "" } else { "  [--full]" });
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.drivers.is_none() {
        crate::build::all()?;
    }
    let start = Instant::now();
    let outcomes = run_cases(args, &chosen)?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&outcomes)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let passed = passed(&outcomes);
    println!("{:.0} s", start.elapsed().as_secs_f64());
    println!("{passed} passed, {} failed, 0 skipped", outcomes.len() - passed);
    Ok(if passed == outcomes.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn passed(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.passed).count()
}

/// Has clippy look at the lab's programs. `None`: there is no clippy.
///
/// # Errors
/// A tool that is missing, or what clippy finds.
pub fn lint() -> anyhow::Result<()> {
    guest::lint()
}

/// Runs the default cases with our drivers, which are built already: how many passed, how many failed.
///
/// # Errors
/// Where the lab cannot run on this machine.
pub fn run_default() -> anyhow::Result<(usize, usize)> {
    let mut chosen = cases()?;
    chosen.retain(|case| case.default);
    let args = Args::plain();
    let outcomes = run_cases(&args, &chosen)?;
    let passed = passed(&outcomes);
    Ok((passed, outcomes.len() - passed))
}

/// Runs the chosen cases with drivers that are built already.
fn run_cases(args: &Args, chosen: &[Case]) -> anyhow::Result<Vec<Outcome>> {
    let target = workspace::root().join("target");
    packages::ensure(&[&packages::QEMU])?;
    let hands = deal(chosen, args.machines(chosen.len()));
    need_space(&target.join("lab"), RUN_BYTES * hands.len() as u64)?;
    let drivers = args.drivers.clone().unwrap_or_else(|| target.join("dist/x64"));
    let alone = one_at_a_time(&target.join("lab"))?;
    let image = image::make()?;
    let programs = guest::build()?;
    if chosen.iter().any(|case| case.foreign.is_some()) {
        packages::ensure(&[&packages::CLANG, &packages::MINGW])?;
        foreign::build_all(&foreign::folder())?;
    }
    let folder = run_folder(&target.join("lab"))?;
    let mut runs = Vec::new();
    for (number, cases) in hands.into_iter().enumerate() {
        let folder = if number == 0 { folder.clone() } else { folder.join(format!("machine-{}", number + 1)) };
        stage(args, &cases, &drivers, &programs, &folder)?;
        runs.push((folder, cases));
    }
    drop(alone);
    let (cases, machines) = (chosen.len(), runs.len());
    println!("== lab: {cases} cases on {machines} machines, everything of the run in {}", workspace::relative(&folder));
    let symbols = Symbols::new(&drivers).and(&foreign::folder());
    std::thread::scope(|scope| {
        let run = |(folder, cases): &(PathBuf, Vec<&Case>)| run_machine(args, cases, &image, folder, &symbols);
        let threads: Vec<_> = runs.iter().map(|part| scope.spawn(move || run(part))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("the lab's thread died")));
        // Every machine's end is waited for, whatever became of the others.
        let ended: Vec<anyhow::Result<Vec<Outcome>>> = ended.collect();
        Ok(ended.into_iter().collect::<anyhow::Result<Vec<_>>>()?.concat())
    })
}

/// Deals the cases out among machines, in turn, since neighbours on the list take about the same time.
fn deal(cases: &[Case], machines: usize) -> Vec<Vec<&Case>> {
    (0..machines).map(|first| cases.iter().skip(first).step_by(machines).collect()).collect()
}

/// Runs some of the cases, one after the other, in one machine. `folder` is staged.
fn run_machine(
    args: &Args,
    cases: &[&Case],
    image: &Path,
    folder: &Path,
    symbols: &Symbols,
) -> anyhow::Result<Vec<Outcome>> {
    let mut machine = Machine::start(image, folder, args.keep, Clock::Host)?;
    let mut progress = Progress::default();
    let early = follow(&mut machine, &mut progress, cases, args, symbols)?;
    if let Some(why) = &early {
        println!("{why}");
        for line in machine.tail(25) {
            println!("    | {}", symbols.resolve(&line));
        }
        for line in machine.errors().lines() {
            println!("    QEMU: {line}");
        }
    }
    if args.keep && early.is_none() {
        machine.leave();
        println!("dom0 is still there (process {}). A shell in it: socat - UNIX:{}", machine.id(), machine.shell());
        println!("the guests' and Xen's console: {}", workspace::relative(&folder.join("console.log")));
    } else {
        machine.stop();
    }
    collect(folder, args.keep);
    progress.write_consoles(folder)?;
    if let Some(why) = early.as_ref().filter(|_| progress.outcomes().is_empty()) {
        bail!("the lab stopped before the first result: {why}");
    }
    let names: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
    let printed = progress.outcomes().len();
    let left = std::fs::read_to_string(folder.join("results")).unwrap_or_default();
    progress.finish(&names, &left, early.as_deref().unwrap_or("the console ended"));
    for name in progress.outcomes()[printed..].iter().map(|outcome| outcome.name.clone()).collect::<Vec<_>>() {
        judge(&mut progress, cases, &name, symbols);
    }
    for outcome in &progress.outcomes()[printed..] {
        report(outcome, &[]);
    }
    Ok(progress.into_outcomes())
}

/// Waits until no other run makes the image or the programs; until the file is dropped, none does.
fn one_at_a_time(folder: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// A new folder for what a run leaves.
fn run_folder(lab: &Path) -> anyhow::Result<PathBuf> {
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    for number in 0.. {
        let more = if number == 0 { String::new() } else { format!("-{number}") };
        let folder = lab.join(format!("run-{stamp}{more}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make {}", folder.display())),
        }
    }
    bail!("every folder of this second is taken")
}

/// Free bytes of the file system that a folder is on.
fn free_bytes(folder: &Path) -> anyhow::Result<u64> {
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(folder).output().context("cannot start df")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let free = text.lines().nth(1).and_then(|line| line.trim().parse().ok());
    free.with_context(|| format!("df does not say what is free: {text}"))
}

/// Fails where a file system has less than `bytes` left.
fn need_space(folder: &Path, bytes: u64) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let free = free_bytes(folder)?;
    if free < bytes {
        let mib = |bytes: u64| bytes >> 20;
        bail!("{} has {} MiB free, the lab needs {} MiB there", folder.display(), mib(free), mib(bytes));
    }
    Ok(())
}

/// Puts what dom0 needs into the archive that it unpacks.
fn stage(
    args: &Args,
    cases: &[&Case],
    drivers: &Path,
    programs: &guest::Programs,
    folder: &Path,
) -> anyhow::Result<()> {
    let stage = folder.join("stage");
    std::fs::create_dir_all(&stage)?;
    std::fs::copy(&programs.guest, stage.join("guest"))?;
    std::fs::copy(&programs.agent, stage.join("lab-agent"))?;
    let list: Vec<String> = cases
        .iter()
        .map(|case| format!("{} {} {} {} {}\n", case.name, case.seconds, args.seed, case.vcpus, case.machine))
        .collect();
    std::fs::write(stage.join("cases"), list.concat())?;
    if let Some(config) = &args.config {
        std::fs::copy(config, stage.join("extra.cfg")).with_context(|| format!("cannot read {}", config.display()))?;
    }
    std::fs::copy(workspace::root().join("tests/lab/dom0/run.sh"), stage.join("run.sh"))?;
    if !drivers.is_dir() {
        bail!("{} is no folder of driver packages", drivers.display());
    }
    tar(drivers, &stage.join("drivers.tar"), None)?;
    for name in cases.iter().filter_map(|case| case.foreign.as_deref()).collect::<BTreeSet<_>>() {
        tar(drivers, &stage.join(archive_with(name) + ".tar"), Some((&foreign::folder(), name)))?;
    }
    tar(&stage, &folder.join("stage.tar"), None)
}

/// Packs what is in a folder, and a further folder by the place where it is and its name.
fn tar(folder: &Path, file: &Path, more: Option<(&Path, &str)>) -> anyhow::Result<()> {
    let mut command = Command::new("tar");
    // Loading is slow in there, so the symbols stay here.
    command.args(["--create", "--format=ustar", "--sort=name", "--exclude=*.pdb", "--file"]).arg(file);
    command.arg("--directory").arg(folder).arg(".");
    if let Some((place, name)) = more {
        // From the folder before, unless it is an absolute path.
        command.arg("--directory").arg(std::path::absolute(place)?).arg(name);
    }
    let status = command.status().context("cannot start tar")?;
    if !status.success() {
        bail!("tar could not pack {}", folder.display());
    }
    Ok(())
}

/// Reads the console until every case has a result, or the machine ends, time is up or the disk is full: why, then.
fn follow(
    machine: &mut Machine,
    progress: &mut Progress,
    cases: &[&Case],
    args: &Args,
    symbols: &Symbols,
) -> anyhow::Result<Option<String>> {
    let start = Instant::now();
    let mut looked = start;
    loop {
        // Asked first, so that what was printed last is read.
        let ended = machine.ended()?;
        for line in machine.lines()? {
            let Some(name) = progress.line(&line).map(|outcome| outcome.name.clone()) else { continue };
            let Some(outcome) = judge(progress, cases, &name, symbols) else { continue };
            let last = if outcome.passed { Vec::new() } else { progress.guest_lines(&outcome.name, 25) };
            report(&outcome, &last.iter().map(|line| symbols.resolve(line)).collect::<Vec<_>>());
        }
        let all = progress.outcomes().len() == cases.len();
        if all && (args.keep || ended.is_some()) {
            return Ok(None);
        }
        if let Some(status) = ended {
            return Ok(Some(format!("QEMU ended ({status}) while {}", progress.step())));
        }
        let spent = start.elapsed();
        if spent > Duration::from_secs(args.timeout()) {
            return Ok(Some(format!("killed after {} s while {}", args.timeout(), progress.step())));
        }
        if !progress.is_ready() && spent > Duration::from_secs(BOOT_LIMIT) {
            return Ok(Some(format!("dom0 is not there after {BOOT_LIMIT} s; killed while {}", progress.step())));
        }
        if looked.elapsed() > SPACE_LOOK {
            looked = Instant::now();
            if free_bytes(machine.folder())? < LAST_BYTES {
                let full = workspace::relative(machine.folder());
                return Ok(Some(format!("no disk space is left for {full}; killed while {}", progress.step())));
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Of a guest that was to crash, and did as the agent says: what its console says of it is the rest of the verdict.
fn judge(progress: &mut Progress, cases: &[&Case], name: &str, symbols: &Symbols) -> Option<Outcome> {
    if let Some(crash) = cases.iter().find(|case| case.name == name).and_then(|case| case.crash.as_ref()) {
        let verdict = crash.judge(&progress.guest_lines(name, usize::MAX), symbols);
        progress.add(name, verdict.map_err(|error| format!("{error:#}")));
    }
    progress.outcomes().iter().find(|outcome| outcome.name == name).cloned()
}

/// Prints a result, with the guest's last lines where there are any. In one piece, since other machines print theirs.
fn report(outcome: &Outcome, last: &[String]) {
    let verdict = if outcome.passed { "ok" } else { "FAILED" };
    let first = format!("{:<28} {verdict} ({:.0} s) {}\n", outcome.name, outcome.seconds, outcome.text);
    let notes = outcome.notes.iter().map(|note| format!("    {note}\n"));
    let last = last.iter().map(|line| format!("    | {line}\n"));
    print!("{}", std::iter::once(first).chain(notes).chain(last).collect::<String>());
}

/// Unpacks what dom0 left on the disk for results, and drops what is no evidence.
fn collect(folder: &Path, keep: bool) {
    let disk = folder.join("results.tar");
    let unpacked = Command::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(&disk)
        .arg("--directory")
        .arg(folder)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !unpacked || !folder.join("dmesg").exists() {
        println!("dom0 left no evidence: it did not come to its end");
    }
    if !keep {
        for file in ["results.tar", "stage.tar"] {
            // What cannot be removed only takes room.
            let _ = std::fs::remove_file(folder.join(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_cases_is_readable() {
        let cases = cases().expect("the list");
        assert!(cases.iter().any(|case| case.default && case.seconds > 0));
    }

    #[test]
    fn every_case_is_dealt_to_one_machine() {
        let cases = cases().expect("the list");
        for machines in 1..4 {
            let hands = deal(&cases, machines);
            let mut names: Vec<&str> = hands.iter().flatten().map(|case| case.name.as_str()).collect();
            names.sort_unstable();
            let mut all: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
            all.sort_unstable();
            assert_eq!((hands.len(), names), (machines, all));
        }
    }

    #[test]
    fn no_machine_is_without_a_case() {
        let three = Args { machines: Some(3), ..Args::plain() };
        assert_eq!([1, 2, 9].map(|cases| three.machines(cases)), [1, 2, 3]);
        assert_eq!(Args { keep: true, ..three }.machines(9), 1);
        assert_eq!(Args::plain().machines(CASES_A_MACHINE), 1);
    }

    #[test]
    fn a_full_disk_is_told() {
        let folder = std::env::temp_dir();
        assert!(need_space(&folder, 1).is_ok());
        let error = need_space(&folder, u64::MAX).expect_err("nobody has so much");
        assert!(error.to_string().contains("MiB free"), "{error}");
    }

    /// A folder that is gone when the test is over.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("lab-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a folder");
            Self(folder)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn one_case() -> Vec<Case> {
        let mut cases = cases().expect("the list");
        cases.truncate(1);
        cases
    }

    /// Follows a shell script that stands for QEMU: why it was followed no longer, and what was seen.
    #[cfg(unix)]
    fn follow_script(folder: &Path, script: &str, cases: &[Case], timeout: u64) -> (Option<String>, Progress, Machine) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(folder);
        let mut machine = Machine::spawn(&mut command, folder).expect("sh starts");
        let mut progress = Progress::default();
        let args = Args { timeout: Some(timeout), ..Args::plain() };
        let early = follow(&mut machine, &mut progress, &deal(cases, 1)[0], &args, &Symbols::new(folder))
            .expect("it is readable");
        (early, progress, machine)
    }

    #[cfg(unix)]
    #[test]
    fn a_machine_that_dies_is_told_with_its_step() {
        for (console, step) in [
            ("", "QEMU starts"),
            ("(XEN) Xen version 4.17.7", "Xen and the dom0 kernel boot"),
            ("lab: toolstack", "dom0's toolstack starts"),
            ("lab: ready", "the cases run"),
        ] {
            let scratch = Scratch::new("dies");
            let script = format!("echo '{console}' >console.log; echo trouble >&2; kill -9 $$");
            let (early, _, machine) = follow_script(&scratch.0, &script, &one_case(), 60);
            assert_eq!(early, Some(format!("QEMU ended (signal: 9 (SIGKILL)) while {step}")));
            assert_eq!(machine.errors(), "trouble\n");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_machine_that_hangs_is_killed() {
        let scratch = Scratch::new("hangs");
        let (early, mut progress, machine) =
            follow_script(&scratch.0, "echo 'lab: ready' >console.log; exec sleep 600", &one_case(), 1);
        assert_eq!(early.as_deref(), Some("killed after 1 s while the cases run"));
        let process = PathBuf::from(format!("/proc/{}", machine.id()));
        assert!(process.exists());
        drop(machine);
        assert!(!process.exists(), "it still runs");
        progress.finish(&["lab/hash".to_owned()], "", &early.expect("the reason"));
        assert_eq!(progress.outcomes()[0].text, "no result: killed after 1 s while the cases run");
    }

    #[cfg(unix)]
    #[test]
    fn a_machine_that_ends_after_its_results_is_done() {
        let scratch = Scratch::new("ends");
        let (early, progress, _) =
            follow_script(&scratch.0, "echo 'lab-result a/b 1.0 passed' >console.log", &one_case(), 60);
        assert_eq!((early, passed(progress.outcomes())), (None, 1));
    }

    #[cfg(unix)]
    #[test]
    fn a_crash_without_its_report_has_failed() {
        let scratch = Scratch::new("crash");
        let mut cases = cases().expect("the list");
        cases.retain(|case| case.crash.is_some());
        cases.truncate(1);
        let name = &cases[0].name;
        let script =
            format!("printf 'lab-case {name}\\n(d1) lab: booted\\nlab-result {name} 1.0 passed\\n' >console.log");
        let (_, progress, _) = follow_script(&scratch.0, &script, &cases, 60);
        let [outcome] = progress.outcomes() else { panic!("one result was given") };
        assert!(!outcome.passed && outcome.text.contains("no `lab: stop`"), "{}", outcome.text);
    }

    #[test]
    fn runs_of_one_second_have_folders_of_their_own() {
        let scratch = Scratch::new("folders");
        let folders: Vec<PathBuf> = (0..3).map(|_| run_folder(&scratch.0).expect("a folder")).collect();
        assert!(folders[0] != folders[1] && folders[1] != folders[2] && folders[0] != folders[2], "{folders:?}");
    }
}
