//! `cargo xtask bench`: what the drivers spend on one I/O or packet. Builds what it needs and counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use serde::Deserialize;

use crate::{build, symbolize, test, workspace};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// A folder of .inf + .sys packages instead of ours
    #[arg(long)]
    drivers: Option<PathBuf>,
    /// Decides everything that is left to chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the figures to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Say which functions the instructions of each line were in
    #[arg(long)]
    profile: bool,
    /// Only the rows of `disk` or of `network`
    #[arg(long)]
    only: Option<String>,
}

/// What the profile needs of the runner's figures.
#[derive(Deserialize)]
struct Report {
    lines: Vec<Line>,
    network: Vec<Line>,
}

/// See [`Report`].
#[derive(Deserialize)]
struct Line {
    name: String,
    #[serde(alias = "stepped_packets")]
    stepped_requests: u64,
    places: BTreeMap<String, BTreeMap<u32, u64>>,
}

/// Functions of a line that are printed.
const SHOWN: usize = 30;

/// Runs the command. Exit code 1: a target is missed.
///
/// # Errors
/// Where something cannot be built or started.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let drivers = if let Some(folder) = &args.drivers {
        folder.clone()
    } else {
        build::all()?;
        workspace::root().join("target/dist/x64")
    };
    let mut command = Command::new(test::build_runner()?);
    command.args(["bench", "--seed", &args.seed.to_string(), "--drivers"]);
    command.arg(&drivers);
    let json = match &args.json {
        None if args.profile => Some(workspace::root().join("target/bench.json")),
        given => given.clone(),
    };
    if let Some(json) = &json {
        command.arg("--json").arg(json);
    }
    if let Some(only) = &args.only {
        command.args(["--only", only]);
    }
    let status = command.status().context("cannot start the runner")?;
    if let Some(json) = json.filter(|_| args.profile) {
        profile(&drivers, &json)?;
    }
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(u8::try_from(code).unwrap_or(1))))
}

/// Prints how many instructions of a request or packet each function took, the most expensive first.
fn profile(drivers: &Path, json: &Path) -> anyhow::Result<()> {
    let report: Report = serde_json::from_slice(&std::fs::read(json)?).context("the runner's figures")?;
    for line in report.lines.into_iter().chain(report.network) {
        let mut functions: BTreeMap<String, u64> = BTreeMap::new();
        for (image, places) in &line.places {
            let driver = image.trim_end_matches(".sys");
            let offsets: Vec<u32> = places.keys().copied().collect();
            let names = symbolize::functions(drivers, driver, &offsets)?;
            for (name, count) in names.into_iter().zip(places.values()) {
                *functions.entry(format!("{driver}: {name}")).or_default() += count;
            }
        }
        let mut functions: Vec<(String, u64)> = functions.into_iter().collect();
        functions.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        println!("{}: instructions of each, by function", line.name);
        for (name, count) in functions.iter().take(SHOWN) {
            println!("  {:>8.1}  {name}", *count as f64 / line.stepped_requests as f64);
        }
    }
    Ok(())
}
