//! `cargo xtask mutants`: plants one committed fault after another and requires the suite named with it to fail.
//!
//! A mutant is an entry of `tests/mutants.toml`: a file, a text in it that must stand there exactly once, what to put in
//! its place, and the case that must notice. It is applied in a copy of the tree, so the tree itself is never touched.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
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
/// Where the list is not readable or the copy cannot be made.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let root = workspace::root();
    let text = std::fs::read_to_string(root.join("tests/mutants.toml")).context("cannot read tests/mutants.toml")?;
    let mut mutants = toml::from_str::<MutantFile>(&text).context("tests/mutants.toml")?.mutant;
    if let Some(part) = &args.only {
        mutants.retain(|mutant| mutant.name.contains(part.as_str()));
    }
    for mutant in &mutants {
        apply(&root, mutant).with_context(|| format!("mutant {}", mutant.name))?;
    }
    println!("{} mutants, all apply", mutants.len());
    if args.check {
        return Ok(ExitCode::SUCCESS);
    }

    let copy = root.join("target/mutants/tree");
    let mut killed = 0;
    let mut survivors = Vec::new();
    for (number, mutant) in mutants.iter().enumerate() {
        let start = Instant::now();
        workspace::copy_tracked(&copy)?;
        std::fs::write(copy.join(&mutant.file), apply(&root, mutant)?)?;
        let verdict = try_mutant(&copy, mutant)?;
        let seconds = start.elapsed().as_secs_f64();
        println!("[{}/{}] {:<36} {verdict} ({seconds:.0} s)", number + 1, mutants.len(), mutant.name);
        if verdict.starts_with("killed") {
            killed += 1;
        } else {
            println!("    breaks: {} ({})", mutant.breaks, mutant.file);
            survivors.push(mutant.name.as_str());
        }
    }
    println!("{killed} of {} mutants killed", mutants.len());
    if !survivors.is_empty() {
        println!("survivors: {}", survivors.join(", "));
    }
    Ok(if survivors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    let log = copy.with_extension("log");
    let xtask = |arguments: &[&str]| -> anyhow::Result<bool> {
        let log = std::fs::File::create(&log)?;
        Ok(Command::new(workspace::cargo().get_program())
            .args(["run", "--quiet", "--package", "xtask", "--"])
            .args(arguments)
            .current_dir(copy)
            .env("CARGO_TARGET_DIR", copy.with_file_name("host"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()?
            .success())
    };
    if !xtask(&["build"])? {
        return Ok(format!("DOES NOT BUILD, see {}", workspace::relative(&log)));
    }
    let runner = build_runner(copy)?;
    let drivers = copy.join("target/dist/x64");
    let symbols = Symbols::new(&drivers);
    for name in &mutant.killed_by {
        for seed in 1..=mutant.seeds {
            let case = CaseInfo { name: name.clone(), summary: String::new(), quick: false, timeout_s: 120 };
            let outcome = test::run_case(&runner, &drivers, &case, seed, &symbols);
            if let Some(failure) = outcome.failure {
                let line = failure.lines().next().unwrap_or_default();
                return Ok(format!("killed by {name} seed {seed}: {line}"));
            }
        }
    }
    Ok("SURVIVED".into())
}

/// The runner of the copy: a mutant may sit in the model too.
fn build_runner(copy: &Path) -> anyhow::Result<std::path::PathBuf> {
    let target = copy.with_file_name("host");
    let status = Command::new(workspace::cargo().get_program())
        .args(["build", "--quiet", "--package", "runner"])
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", &target)
        .status()?;
    if !status.success() {
        bail!("the runner does not build in the copy");
    }
    Ok(target.join("debug/runner"))
}
