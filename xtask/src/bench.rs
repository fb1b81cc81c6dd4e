//! `cargo xtask bench`: what the drivers spend on one I/O. Builds what it needs and counts.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::{build, test, workspace};

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
}

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
    command.args(["bench", "--seed", &args.seed.to_string(), "--drivers"]).arg(drivers);
    if let Some(json) = &args.json {
        command.arg("--json").arg(json);
    }
    let status = command.status().context("cannot start the runner")?;
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(u8::try_from(code).unwrap_or(1))))
}
