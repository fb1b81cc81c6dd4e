//! `cargo xtask mutants`: plants one committed fault after another and requires the suite named with it to fail.
//!
//! A mutant is an entry of `tests/mutants.toml`: a file, a text in it that must stand there exactly once, what to put in
//! its place, and the case that must notice. It is applied in a copy of the tree, so the tree itself is never touched.
//! The copy is built without a fault first, and there every case that is to notice one must pass: a case that fails
//! anyway kills nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::symbolize::Symbols;
use crate::test::{self, CaseInfo};
use crate::workspace;

/// Arguments of `cargo xtask mutants`.
#[derive(clap::Args)]
pub struct Args {
    /// Only the mutants whose name contains this text
    #[arg(long)]
    only: Option<String>,
    /// Check that every mutant still applies, build and run nothing
    #[arg(long)]
    check: bool,
}

#[derive(Deserialize)]
struct MutantFile {
    mutant: Vec<Mutant>,
}

/// One planted fault.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    /// Short name, words joined by `-`.
    name: String,
    /// What it breaks, for the report.
    breaks: String,
    /// The file it changes, from the top of the tree.
    file: String,
    /// The text to replace; must stand in the file exactly once.
    find: String,
    /// What replaces it.
    replace: String,
    /// The cases of which at least one must fail (tried in this order).
    killed_by: Vec<String>,
    /// Seeds tried for each case before the mutant counts as a survivor.
    #[serde(default = "default_seeds")]
    seeds: u64,
}

fn default_seeds() -> u64 {
    3
}

/// Runs the command. Exit code 1: a mutant survived, does not apply or does not build.
///
/// # Errors
/// Where the list is not readable, the copy cannot be made or built, or a case fails without a fault.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let root = workspace::root();
    let text = std::fs::read_to_string(root.join("tests/mutants.toml")).context("cannot read tests/mutants.toml")?;
    let mut mutants = toml::from_str::<MutantFile>(&text).context("tests/mutants.toml")?.mutant;
    if let Some(part) = &args.only {
        mutants.retain(|mutant| mutant.name.contains(part.as_str()));
        ensure!(!mutants.is_empty(), "no mutant has `{part}` in its name");
    }
    for mutant in &mutants {
        apply(&root, mutant).with_context(|| format!("mutant {}", mutant.name))?;
    }
    println!("{} mutants, all apply", mutants.len());
    if args.check {
        return Ok(ExitCode::SUCCESS);
    }

    let start = Instant::now();
    let copy = root.join("target/mutants/tree");
    workspace::copy_tracked(&copy)?;
    baseline(&copy, &mutants)?;
    println!("without a fault every case passes ({:.0} s)", start.elapsed().as_secs_f64());
    let mut killed = 0;
    let mut survivors = Vec::new();
    for (number, mutant) in mutants.iter().enumerate() {
        let start = Instant::now();
        let file = copy.join(&mutant.file);
        let whole = std::fs::read(&file).with_context(|| format!("cannot read {}", mutant.file))?;
        std::fs::write(&file, apply(&copy, mutant)?)?;
        let verdict = try_mutant(&copy, mutant);
        std::fs::write(&file, whole)?;
        let verdict = verdict?;
        let seconds = start.elapsed().as_secs_f64();
        println!("[{}/{}] {:<40} {verdict} ({seconds:.0} s)", number + 1, mutants.len(), mutant.name);
        if verdict.starts_with("killed") {
            killed += 1;
        } else {
            println!("    breaks: {} ({})", mutant.breaks, mutant.file);
            survivors.push(mutant.name.as_str());
        }
    }
    println!("{killed} of {} mutants killed in {:.0} s", mutants.len(), start.elapsed().as_secs_f64());
    if !survivors.is_empty() {
        println!("survivors: {}", survivors.join(", "));
    }
    Ok(if survivors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the copy as it is and requires every case that a mutant names to pass, with every seed that it may be run with.
fn baseline(copy: &Path, mutants: &[Mutant]) -> anyhow::Result<()> {
    let Some(built) = build(copy)? else {
        bail!("the copy does not build, see {}", workspace::relative(&log_of(copy)))
    };
    let mut seeds: BTreeMap<&str, u64> = BTreeMap::new();
    for (mutant, name) in mutants.iter().flat_map(|mutant| mutant.killed_by.iter().map(move |name| (mutant, name))) {
        let most = seeds.entry(name).or_default();
        *most = mutant.seeds.max(*most);
    }
    for (name, most) in seeds {
        for seed in 1..=most {
            if let Some(failure) = built.run(name, seed)? {
                bail!("{name} seed {seed} fails without a fault: {failure}");
            }
        }
    }
    Ok(())
}

/// The file's text with the fault in it.
fn apply(root: &Path, mutant: &Mutant) -> anyhow::Result<String> {
    let path = root.join(&mutant.file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", mutant.file))?;
    match text.matches(&mutant.find).count() {
        1 => Ok(text.replacen(&mutant.find, &mutant.replace, 1)),
        count => bail!("the text to replace stands {count} times in {}", mutant.file),
    }
}

/// Builds the copy and runs the cases until one fails.
fn try_mutant(copy: &Path, mutant: &Mutant) -> anyhow::Result<String> {
    let Some(built) = build(copy)? else {
        return Ok(format!("DOES NOT BUILD, see {}", workspace::relative(&log_of(copy))));
    };
    for name in &mutant.killed_by {
        for seed in 1..=mutant.seeds {
            if let Some(failure) = built.run(name, seed)? {
                return Ok(format!("killed by {name} seed {seed}: {failure}"));
            }
        }
    }
    Ok("SURVIVED".into())
}

/// What a copy of the tree was built to.
struct Built {
    runner: PathBuf,
    drivers: PathBuf,
    symbols: Symbols,
    cases: Vec<CaseInfo>,
}

impl Built {
    /// Runs a case; the first line of why it failed, if it did.
    fn run(&self, name: &str, seed: u64) -> anyhow::Result<Option<String>> {
        let case = self.cases.iter().find(|case| case.name == name).with_context(|| format!("no case `{name}`"))?;
        let failure = test::run_case(&self.runner, &self.drivers, case, seed, &self.symbols).failure;
        Ok(failure.map(|text| text.lines().next().unwrap_or_default().to_owned()))
    }
}

/// Where the output of a build goes.
fn log_of(copy: &Path) -> PathBuf {
    copy.with_extension("log")
}

/// Builds drivers and runner of a copy: a mutant may sit in either. `None`: that failed, and the log says why.
fn build(copy: &Path) -> anyhow::Result<Option<Built>> {
    let log = std::fs::File::create(log_of(copy))?;
    let target = copy.with_file_name("host");
    for arguments in
        [&["run", "--quiet", "--package", "xtask", "--", "build"][..], &["build", "--quiet", "--package", "runner"]]
    {
        let status = Command::new(workspace::cargo().get_program())
            .args(arguments)
            .current_dir(copy)
            .env("CARGO_TARGET_DIR", &target)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .status()?;
        if !status.success() {
            return Ok(None);
        }
    }
    let (runner, drivers) = (target.join("debug/runner"), copy.join("target/dist/x64"));
    let (symbols, cases) = (Symbols::new(&drivers), test::list_cases(&runner)?);
    Ok(Some(Built { runner, drivers, symbols, cases }))
}
