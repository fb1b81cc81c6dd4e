//! `cargo xtask fuzz`: the fuzz targets of `xen-abi/fuzz` under libFuzzer, with the compiler that is there.
//!
//! `cargo fuzz` wants a nightly compiler, for the address sanitizer. The decoders have no `unsafe` that it could watch, so
//! coverage alone will do, and every compiler gives that.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

use crate::workspace;

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// Only the targets whose name contains this text
    #[arg(long)]
    only: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// What libFuzzer needs of the compiler: counters and compared values.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks=on --cfg fuzzing";
/// The host, named so that build scripts are built without the flags.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// The targets: the files in `fuzz_targets`.
fn targets() -> anyhow::Result<Vec<String>> {
    let folder = workspace::root().join("xen-abi/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Builds the targets and runs one after the other. Exit code 1: one of them found something.
///
/// What was found and what was learnt stays in `target/fuzz/corpus/<target>`.
///
/// # Errors
/// Where they do not build or do not start, or the name fits none.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut names = targets()?;
    names.retain(|name| args.only.as_ref().is_none_or(|part| name.contains(part)));
    if names.is_empty() {
        bail!("no fuzz target has that in its name");
    }
    let out: PathBuf = workspace::root().join("target/fuzz");
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--target", HOST])
        .current_dir(workspace::root().join("xen-abi/fuzz"))
        .env("CARGO_TARGET_DIR", &out)
        .env("RUSTFLAGS", COVERAGE)
        .status()
        .context("cannot start cargo")?;
    if !built.success() {
        bail!("the fuzz targets do not build");
    }
    let mut found = Vec::new();
    for name in &names {
        let corpus = out.join("corpus").join(name);
        std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
        println!("== {name}, {} s", args.seconds);
        let status = Command::new(out.join(HOST).join("release").join(name))
            .args([
                &format!("-max_total_time={}", args.seconds),
                "-print_final_stats=1",
                "-print_funcs=0",
                "-verbosity=0",
                ".",
            ])
            .current_dir(&corpus)
            .status()
            .with_context(|| format!("cannot start {name}"))?;
        if !status.success() {
            println!("{name} found something: see {}", workspace::relative(&corpus));
            found.push(name.as_str());
        }
    }
    println!("{} targets, {} found something", names.len(), found.len());
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
