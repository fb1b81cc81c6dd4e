//! `cargo xtask test`: the whole test suite, or the inner loop's part of it (`--quick`).
//!
//! Stages, each of which must pass: the drivers are built and their images checked; formatting and lints; the host
//! tests of every crate; programs, installer and packages under Wine, unless `XEN_WINE=off` is set; the suites of
//! `tests/suites`, which load the built `.sys` files, one process a case; some of their cases again with real threads,
//! one after the other, since each wants the whole host; the default cases of the lab, unless `XEN_LAB=off` is set. The
//! last line is `N passed, N failed, N skipped` over all stages; a skip is printed with its reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::symbolize::Symbols;
use crate::{build, dist, foreign, lab, packages, programs, workspace};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only what a changed driver line needs: build, image checks and the quick suites
    #[arg(long)]
    quick: bool,
    /// Only formatting and lints
    #[arg(long)]
    lints: bool,
    /// Run only the cases whose name contains this text (and no other stage)
    #[arg(long)]
    case: Option<String>,
    /// Seed of every case; a failing case prints its own
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run each case with this many seeds, counted up from --seed
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Each processor of the bench is a real thread: the cases that are meant for that, or any that --case names
    #[arg(long)]
    threads: bool,
    /// List the cases and stop
    #[arg(long)]
    list: bool,
    /// A folder of .inf + .sys packages to test instead of ours (no build, no host tests)
    #[arg(long)]
    drivers: Option<PathBuf>,
    /// Cases to run at once; default: the number of processors
    #[arg(long)]
    jobs: Option<usize>,
    /// Write every result to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Print what each case printed, also where it passed
    #[arg(long)]
    verbose: bool,
}

/// A case as `runner list` describes it.
#[derive(Clone, Deserialize)]
pub struct CaseInfo {
    /// `group/name`.
    pub name: String,
    /// What it shows, in one line.
    pub summary: String,
    /// Whether `--quick` runs it.
    pub quick: bool,
    /// Seconds after which it is killed.
    pub timeout_s: u64,
}

/// What the names of runs with real threads begin with.
const THREADS: &str = "threads/";

impl CaseInfo {
    /// Whether each processor is a thread.
    fn has_threads(&self) -> bool {
        self.name.starts_with(THREADS)
    }
}

/// What came of one case with one seed.
#[derive(Clone, Serialize)]
pub struct Outcome {
    /// `group/name`.
    pub name: String,
    /// The seed it ran with.
    pub seed: u64,
    /// Whether every check held.
    pub passed: bool,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// The last line of the report where it failed.
    pub failure: Option<String>,
    /// What the case counted (I/Os, upcalls, faults fired, ...).
    pub counters: BTreeMap<String, u64>,
    /// Everything it printed, symbolised.
    pub output: String,
}

/// The line that the runner prints last: `RESULT {...}`.
#[derive(Deserialize)]
struct ResultLine {
    passed: bool,
    failure: Option<String>,
    counters: BTreeMap<String, u64>,
}

/// Tally of stages and cases.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    fn stage(&mut self, name: &str, run: impl FnOnce() -> anyhow::Result<()>) {
        self.lint(name, || run().map(Some));
    }

    /// A judge who may not be there: then it has said so itself.
    fn outsider(&mut self, name: &str, run: impl FnOnce() -> anyhow::Result<Option<String>>) {
        println!("== {name}");
        match run() {
            Ok(Some(said)) => {
                self.passed += 1;
                println!("== {name}: ok: {said}");
            }
            Ok(None) => self.skipped += 1,
            Err(error) => {
                self.failed += 1;
                println!("== {name}: FAILED: {error:#}");
            }
        }
    }

    /// A stage that there may be no clippy for: `None`.
    fn lint(&mut self, name: &str, run: impl FnOnce() -> anyhow::Result<Option<()>>) {
        let start = Instant::now();
        println!("== {name}");
        match run() {
            Ok(Some(())) => {
                self.passed += 1;
                println!("== {name}: ok ({:.1} s)", start.elapsed().as_secs_f64());
            }
            Ok(None) => {
                self.skipped += 1;
                println!("== {name}: SKIPPED: the compiler that makes them has no clippy (Debian: rust-web-clippy)");
            }
            Err(error) => {
                self.failed += 1;
                println!("== {name}: FAILED: {error:#}");
            }
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Where something could not be started at all; a failing test is exit code 1.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let mut tally = Tally::default();
    if args.lints {
        lints(&mut tally);
        return Ok(finish(&tally, start));
    }
    let ours = args.drivers.is_none();
    let only_suites = args.case.is_some() || args.quick || args.list || args.threads || !ours;

    if ours && !args.list {
        tally.stage("build and lint-image", build::all);
        if tally.failed > 0 {
            return Ok(finish(&tally, start));
        }
    }
    if !only_suites {
        packages::ensure(&[&packages::CLANG, &packages::XEN_HEADERS, &packages::XENSTORED])?;
        tally.stage("foreign drivers", || foreign::build_all(&foreign::folder()));
        tally.stage("reproducible build", build::check_reproducible);
        tally.stage("packages and signatures", dist::test);
        tally.stage("programs, installer and signatures", dist::test_programs);
        tally.outsider("packages, by signify", dist::by_signify);
        run_wine(&mut tally);
        lints(&mut tally);
        tally.stage("host tests", || cargo(&["test", "--quiet", "--workspace"]));
    }

    let runner = build_runner()?;
    let cases = choose(list_cases(&runner)?, args)?;
    if args.list {
        for case in &cases {
            println!("{:<40} {}{}", case.name, if case.quick { "[quick] " } else { "" }, case.summary);
        }
        return Ok(ExitCode::SUCCESS);
    }

    let drivers = args.drivers.clone().unwrap_or_else(|| workspace::root().join("target/dist/x64"));
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let runs: Vec<(CaseInfo, u64)> =
        cases.iter().flat_map(|case| (0..args.seeds).map(move |n| (case.clone(), args.seed.wrapping_add(n)))).collect();
    let (threaded, seeded): (Vec<_>, Vec<_>) = runs.into_iter().partition(|(case, _)| case.has_threads());
    let place = workspace::relative(&drivers);
    let mut outcomes = Vec::new();
    if !seeded.is_empty() {
        println!("== suites: {} runs, {jobs} at once, drivers from {place}", seeded.len());
        outcomes.extend(run_cases(&runner, &drivers, &seeded, jobs, args.verbose));
    }
    if !threaded.is_empty() && std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("== suites with threads: SKIPPED: this host has one processor");
        tally.skipped += threaded.len();
    } else if !threaded.is_empty() {
        println!("== suites with threads: {} runs, drivers from {place}", threaded.len());
        outcomes.extend(run_cases(&runner, &drivers, &threaded, 1, args.verbose));
    }
    for outcome in &outcomes {
        if outcome.passed {
            tally.passed += 1;
        } else {
            tally.failed += 1;
        }
    }
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&outcomes)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if !only_suites {
        run_lab(&mut tally);
    }
    Ok(finish(&tally, start))
}

/// The cases that are asked for.
fn choose(all: Vec<CaseInfo>, args: &Args) -> anyhow::Result<Vec<CaseInfo>> {
    let Some(part) = &args.case else {
        let wanted = |case: &CaseInfo| (!args.quick || case.quick) && (!args.threads || case.has_threads());
        return Ok(all.into_iter().filter(wanted).collect());
    };
    let threads = args.threads || part.starts_with(THREADS);
    let (with, without): (Vec<_>, Vec<_>) =
        all.into_iter().filter(|case| case.name.contains(part.as_str())).partition(CaseInfo::has_threads);
    let cases = match (threads, with.is_empty()) {
        (false, _) => without,
        (true, false) => with,
        // One that is not on the list: the runner refuses what makes no sense with threads.
        (true, true) => {
            without.into_iter().map(|case| CaseInfo { name: format!("{THREADS}{}", case.name), ..case }).collect()
        }
    };
    if cases.is_empty() {
        bail!("no case has `{part}` in its name; see cargo xtask test --list");
    }
    Ok(cases)
}

/// Formatting, and clippy over the host's crates and over what is compiled for something else: the drivers' and programs'
/// Windows halves, and the lab's guest kernel and agent.
fn lints(tally: &mut Tally) {
    tally.stage("cargo fmt --check", || {
        need_subcommand("fmt", &packages::RUSTFMT)?;
        cargo(&["fmt", "--all", "--check"])
    });
    tally.stage("cargo clippy", || {
        need_subcommand("clippy", &packages::CLIPPY)?;
        cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
    });
    // On Windows these are the host's own.
    if cfg!(not(windows)) {
        tally.lint("clippy, drivers", build::lint);
        tally.stage("clippy, programs for Windows", programs::lint);
        tally.stage("clippy, lab", lab::lint);
    }
}

/// Programs, installer and packages under Wine.
fn run_wine(tally: &mut Tally) {
    if std::env::var_os("XEN_WINE").is_some_and(|value| value == "off") {
        println!("== wine: SKIPPED: XEN_WINE=off");
        tally.skipped += 1;
        return;
    }
    println!("== wine: XEN_WINE=off leaves it out");
    let mut skipped = 0;
    tally.stage("wine", || {
        skipped = dist::under_wine()?;
        Ok(())
    });
    tally.skipped += skipped;
}

/// The lab's default cases, on a real Xen.
fn run_lab(tally: &mut Tally) {
    if std::env::var_os("XEN_LAB").is_some_and(|value| value == "off") {
        println!("== lab: SKIPPED: XEN_LAB=off");
        tally.skipped += 1;
        return;
    }
    match lab::run_default() {
        Ok((passed, failed)) => {
            tally.passed += passed;
            tally.failed += failed;
        }
        Err(error) => {
            tally.failed += 1;
            println!("== lab: FAILED: it cannot run here (XEN_LAB=off leaves it out): {error:#}");
        }
    }
}

/// Builds the runner, the process in which a case lives, and returns its path.
///
/// # Errors
/// Where cargo fails.
pub fn build_runner() -> anyhow::Result<PathBuf> {
    cargo(&["build", "--quiet", "--package", "runner"])?;
    Ok(workspace::host_target().join("debug/runner"))
}

/// The cases, as the runner lists them.
///
/// # Errors
/// Where the runner cannot be started or its answer is not readable.
pub fn list_cases(runner: &Path) -> anyhow::Result<Vec<CaseInfo>> {
    let output = Command::new(runner).arg("list").output().context("cannot start the runner")?;
    serde_json::from_slice(&output.stdout).context("the runner's list is not readable")
}

fn run_cases(runner: &Path, drivers: &Path, runs: &[(CaseInfo, u64)], jobs: usize, verbose: bool) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let symbols = Symbols::new(drivers);
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(runs.len()) {
            scope.spawn(|| {
                while let Some((case, seed)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run_case(runner, drivers, case, *seed, &symbols);
                    let number = done.fetch_add(1, Ordering::Relaxed) + 1;
                    let mut outcomes = outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    report(&outcome, number, runs.len(), verbose);
                    outcomes.push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs one case in a process of its own.
pub fn run_case(runner: &Path, drivers: &Path, case: &CaseInfo, seed: u64, symbols: &Symbols) -> Outcome {
    let start = Instant::now();
    let result = spawn_with_timeout(
        Command::new(runner).args(["case", &case.name, "--seed", &seed.to_string(), "--drivers"]).arg(drivers),
        case.timeout_s,
    );
    let (mut passed, mut counters, mut output) = (false, BTreeMap::new(), String::new());
    let failure = match result {
        Ok((status, text, timed_out)) => {
            output = symbols.resolve(&text);
            let last = text.lines().rev().find_map(|line| line.strip_prefix("RESULT "));
            match last.map(serde_json::from_str::<ResultLine>) {
                Some(Ok(line)) => {
                    passed = line.passed && status == Some(0);
                    counters = line.counters;
                    line.failure
                }
                _ if timed_out => Some(format!("killed after {} s", case.timeout_s)),
                _ => Some(format!("the run ended without a result (status {status:?})")),
            }
        }
        Err(error) => Some(format!("{error:#}")),
    };
    let failure = if passed { None } else { failure.or_else(|| Some("no reason given".into())) };
    let failure = failure.map(|text| symbols.resolve(&text));
    Outcome { name: case.name.clone(), seed, passed, seconds: start.elapsed().as_secs_f64(), failure, counters, output }
}

fn report(outcome: &Outcome, number: usize, of: usize, verbose: bool) {
    let verdict = if outcome.passed { "ok" } else { "FAILED" };
    let counters: Vec<String> = outcome.counters.iter().map(|(name, value)| format!("{name} {value}")).collect();
    println!("[{number}/{of}] {:<40} {verdict} ({:.1} s) {}", outcome.name, outcome.seconds, counters.join(", "));
    if !outcome.passed || verbose {
        let lines: Vec<&str> = outcome.output.lines().filter(|line| !line.starts_with("RESULT ")).collect();
        let from = if verbose { 0 } else { lines.len().saturating_sub(60) };
        for line in &lines[from..] {
            println!("    | {line}");
        }
    }
    if let Some(failure) = &outcome.failure {
        println!("    {failure}");
        println!("    again: cargo xtask test --case {} --seed {}", outcome.name, outcome.seed);
    }
}

/// Runs a command with its output collected; kills it after `seconds`. Returns exit status, output, whether killed.
fn spawn_with_timeout(command: &mut Command, seconds: u64) -> anyhow::Result<(Option<i32>, String, bool)> {
    use std::io::Read;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the runner")?;
    let mut pipes: Vec<Box<dyn Read + Send>> = Vec::new();
    if let Some(pipe) = child.stderr.take() {
        pipes.push(Box::new(pipe));
    }
    if let Some(pipe) = child.stdout.take() {
        pipes.push(Box::new(pipe));
    }
    let readers: Vec<_> = pipes
        .into_iter()
        .map(|mut pipe| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                // A pipe that breaks ends the text there; the missing RESULT line then says so.
                let _ = pipe.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        })
        .collect();
    let deadline = Instant::now() + std::time::Duration::from_secs(seconds);
    let (status, timed_out) = loop {
        if let Some(status) = child.try_wait()? {
            break (status.code(), false);
        }
        if Instant::now() > deadline {
            child.kill()?;
            break (child.wait()?.code(), true);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let text: Vec<String> = readers.into_iter().filter_map(|reader| reader.join().ok()).collect();
    Ok((status, text.join("\n"), timed_out))
}

fn cargo(args: &[&str]) -> anyhow::Result<()> {
    println!("+ cargo {}", args.join(" "));
    let status = workspace::cargo().args(args).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    Ok(())
}

/// Makes sure that cargo has a subcommand: Debian's gets its package, rustup's is told of by name.
fn need_subcommand(name: &str, debian: &packages::Requirement) -> anyhow::Result<()> {
    let mut cargo = workspace::cargo();
    if Path::new(cargo.get_program()) == packages::CARGO.path() {
        return packages::ensure(&[debian]);
    }
    let version = cargo.args([name, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        let component = if name == "fmt" { "rustfmt" } else { name };
        bail!("this cargo has no `{name}` (rustup component add {component})");
    }
    Ok(())
}

fn finish(tally: &Tally, start: Instant) -> ExitCode {
    println!("{:.0} s", start.elapsed().as_secs_f64());
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
