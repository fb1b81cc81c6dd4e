//! `cargo xtask demo [IMAGE]`: the main job. Builds what it needs and serves a disk image through the built drivers.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::{build, packages, test, workspace};

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {
    /// A disk image; without one an image is made under target/. A FAT file system on it gets the file XENDEMO.BIN
    image: Option<PathBuf>,
    /// A folder of .inf + .sys packages instead of ours
    #[arg(long)]
    drivers: Option<PathBuf>,
    /// Write what was found to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs the command. Exit code 2: the image cannot be used, and is untouched.
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
    // Only root can make the network that they are for. What is left out without them stands in the summary.
    if packages::is_root()
        && let Err(error) = packages::ensure(&[&packages::IPROUTE, &packages::PING, &packages::IPERF3])
    {
        println!("not all of Linux's network: {error:#}");
    }
    let runner = test::build_runner()?;
    let mut command = Command::new(runner);
    command.arg("demo");
    match &args.image {
        Some(image) => command.arg(image),
        None => command.arg(workspace::root().join("target/demo.img")).arg("--make"),
    };
    command.arg("--drivers").arg(drivers);
    if let Some(json) = &args.json {
        command.arg("--json").arg(json);
    }
    let status = command.status().context("cannot start the runner")?;
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(u8::try_from(code).unwrap_or(1))))
}
