//! `cargo xtask lab`: the built drivers in ring 0 on a real Xen, against real Linux backends, under QEMU's emulation.
//!
//! [`image`] makes the dom0, once; [`guest`] builds the guest kernel and dom0's agent; [`run`](self::run) starts QEMU,
//! follows the agent's lines and collects everything below `target/lab/<run>/`.

mod guest;
mod image;
mod machine;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::symbolize::Symbols;
use crate::{packages, workspace};

/// Arguments of `cargo xtask lab`.
#[derive(clap::Args)]
pub struct Args {
    /// Only the cases whose name contains this text
    #[arg(long)]
    suite: Option<String>,
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
    /// Seconds that the whole run may take
    #[arg(long, default_value_t = 1200)]
    timeout: u64,
    /// Seed of every case
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write every result to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A line of `tests/lab/cases.txt`.
struct Case {
    name: String,
    seconds: u64,
    default: bool,
}

/// What came of a case.
#[derive(Serialize)]
struct Outcome {
    name: String,
    passed: bool,
    seconds: f64,
    /// Counters, or why it failed.
    text: String,
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let file = workspace::root().join("tests/lab/cases.txt");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [name, seconds, kind] = words[..] else { bail!("tests/lab/cases.txt: {line}") };
            Ok(Case { name: name.to_owned(), seconds: seconds.parse()?, default: kind == "d" })
        })
        .collect()
}

/// Runs the command.
///
/// # Errors
/// Where the lab itself does not work; a case that fails is exit code 1.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut chosen = cases()?;
    match &args.suite {
        Some(part) => chosen.retain(|case| case.name.contains(part.as_str())),
        None if !args.full && !args.list => chosen.retain(|case| case.default),
        None => {}
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
    packages::ensure(&[&packages::QEMU, &packages::DEBOOTSTRAP])?;
    let start = Instant::now();
    let drivers = if let Some(folder) = &args.drivers {
        folder.clone()
    } else {
        crate::build::all()?;
        workspace::root().join("target/dist/x64")
    };
    let image = image::make()?;
    let programs = guest::build()?;
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let folder = workspace::root().join(format!("target/lab/run-{stamp}"));
    std::fs::create_dir_all(&folder)?;
    stage(args, &chosen, &drivers, &programs, &folder)?;
    println!("== lab: {} cases, everything of the run in {}", chosen.len(), workspace::relative(&folder));
    let symbols = Symbols::new(&drivers);
    let mut machine = machine::Machine::start(&image, &folder, args.keep)?;
    let outcomes = follow(&mut machine, &chosen, Duration::from_secs(args.timeout), &symbols, args.keep);
    if args.keep {
        println!("dom0 is still there (process {}). A shell in it: socat - UNIX:{}", machine.id(), machine.shell());
        println!("the guests' and Xen's console: {}", workspace::relative(&folder.join("console.log")));
    } else {
        machine.stop();
    }
    collect(&folder);
    let outcomes = outcomes?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&outcomes)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let passed = outcomes.iter().filter(|outcome| outcome.passed).count();
    println!("{:.0} s", start.elapsed().as_secs_f64());
    println!("{passed} passed, {} failed, 0 skipped", outcomes.len() - passed);
    Ok(if passed == outcomes.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Puts what dom0 needs into the archive that it unpacks.
fn stage(args: &Args, cases: &[Case], drivers: &Path, programs: &guest::Programs, folder: &Path) -> anyhow::Result<()> {
    let stage = folder.join("stage");
    std::fs::create_dir_all(&stage)?;
    std::fs::copy(&programs.guest, stage.join("guest"))?;
    std::fs::copy(&programs.agent, stage.join("lab-agent"))?;
    let list: Vec<String> =
        cases.iter().map(|case| format!("{} {} {}\n", case.name, case.seconds, args.seed)).collect();
    std::fs::write(stage.join("cases"), list.concat())?;
    if let Some(config) = &args.config {
        std::fs::copy(config, stage.join("extra.cfg")).with_context(|| format!("cannot read {}", config.display()))?;
    }
    std::fs::copy(workspace::root().join("tests/lab/dom0/run.sh"), stage.join("run.sh"))?;
    // Loading is slow in there, so the symbols stay here.
    tar(drivers, &stage.join("drivers.tar"), &["--exclude=*.pdb"])?;
    tar(&stage, &folder.join("stage.tar"), &[])
}

fn tar(folder: &Path, file: &Path, options: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("tar")
        .args(["--create", "--format=ustar", "--sort=name", "--file"])
        .arg(file)
        .args(options)
        .arg("--directory")
        .arg(folder)
        .arg(".")
        .status()
        .context("cannot start tar")?;
    if !status.success() {
        bail!("tar could not pack {}", folder.display());
    }
    Ok(())
}

/// Reads the console until every case has a result.
fn follow(
    machine: &mut machine::Machine,
    cases: &[Case],
    limit: Duration,
    symbols: &Symbols,
    keep: bool,
) -> anyhow::Result<Vec<Outcome>> {
    let end = Instant::now() + limit;
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut step = "Xen and dom0 boot";
    let mut recent: Vec<String> = Vec::new();
    loop {
        for line in machine.lines()? {
            if line.starts_with("lab: ready") {
                step = "the cases run";
            }
            if let Some(outcome) = parse(&line) {
                println!(
                    "{:<28} {} ({:.0} s) {}",
                    outcome.name,
                    verdict(outcome.passed),
                    outcome.seconds,
                    outcome.text
                );
                if !outcome.passed {
                    for line in &recent[recent.len().saturating_sub(25)..] {
                        println!("    | {}", symbols.resolve(line));
                    }
                }
                outcomes.push(outcome);
            } else if line.starts_with("(d") {
                recent.push(line);
            }
        }
        // A machine that is kept does not end by itself.
        let all = outcomes.len() == cases.len();
        if (all && keep) || machine.ended()? {
            break;
        }
        if Instant::now() > end {
            println!("the run is killed after {} s; the last lines of the console:", limit.as_secs());
            for line in machine.tail(25) {
                println!("    | {}", symbols.resolve(&line));
            }
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    if outcomes.is_empty() {
        let tail = machine.tail(25).join("\n    | ");
        bail!("the lab stopped before the first result, at the step `{step}`:\n    | {tail}");
    }
    for case in cases {
        if !outcomes.iter().any(|outcome| outcome.name == case.name) {
            println!("{:<28} {} no result", case.name, verdict(false));
            let (name, text) = (case.name.clone(), "no result".to_owned());
            outcomes.push(Outcome { name, passed: false, seconds: 0.0, text });
        }
    }
    Ok(outcomes)
}

fn verdict(passed: bool) -> &'static str {
    if passed { "ok" } else { "FAILED" }
}

/// `lab-result NAME SECONDS passed|failed TEXT`.
fn parse(line: &str) -> Option<Outcome> {
    let rest = line.strip_prefix("lab-result ")?;
    let mut words = rest.splitn(4, ' ');
    let (name, seconds, verdict) = (words.next()?, words.next()?, words.next()?);
    Some(Outcome {
        name: name.to_owned(),
        passed: verdict == "passed",
        seconds: seconds.parse().ok()?,
        text: words.next().unwrap_or_default().to_owned(),
    })
}

/// Unpacks what dom0 left on the disk for results, and drops the disk.
fn collect(folder: &Path) {
    let disk = folder.join("results.tar");
    let evidence = folder.join("dom0");
    let unpacked = std::fs::create_dir_all(&evidence).is_ok()
        && Command::new("tar")
            .arg("--extract")
            .arg("--file")
            .arg(&disk)
            .arg("--directory")
            .arg(&evidence)
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
    if !unpacked || std::fs::read_dir(&evidence).is_ok_and(|mut entries| entries.next().is_none()) {
        println!("dom0 left no evidence: it did not come to its end");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_results() {
        let outcome = parse("lab-result io/random 12.5 failed unit 7: zeros").expect("a result");
        assert_eq!(
            (outcome.name.as_str(), outcome.passed, outcome.text.as_str()),
            ("io/random", false, "unit 7: zeros")
        );
        assert!(parse("lab-result lab/hash 3.0 passed writes 32").is_some_and(|outcome| outcome.passed));
        assert!(parse("lab-result lab/hash").is_none() && parse("(d1) lab: passed").is_none());
    }

    #[test]
    fn the_list_of_cases_is_readable() {
        let cases = cases().expect("the list");
        assert!(cases.iter().any(|case| case.default && case.seconds > 0));
    }
}
