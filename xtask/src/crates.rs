//! The crates of others that the suite is made of: where cargo has their sources, and `cargo xtask vendor`, which puts a
//! copy of them into a folder for builds without a network.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

use crate::overlay::Overlay;
use crate::{toolchain, workspace};

/// Arguments of `cargo xtask vendor`.
#[derive(clap::Args)]
pub struct Args {
    /// The folder; what it holds is replaced
    #[arg(default_value = "vendor")]
    folder: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Where a crate cannot be fetched or copied.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = std::path::absolute(&args.folder).context("no such folder can be")?;
    vendor(&workspace::root(), &folder)?;
    println!("To build from it without a network, put this into .cargo/config.toml or $CARGO_HOME/config.toml:\n");
    println!("{}", replacement(&folder));
    Ok(ExitCode::SUCCESS)
}

/// What tells cargo to take crates from such a folder and from nowhere else.
pub fn replacement(folder: &Path) -> String {
    let folder = toml::Value::from(folder.display().to_string());
    [
        "[source.crates-io]",
        "replace-with = \"vendored\"",
        "[source.vendored]",
        &format!("directory = {folder}"),
        "[net]",
        "offline = true",
        "",
    ]
    .join("\n")
}

/// Copies the sources of all crates into `folder`: those of the workspace at `root`, those of the stand-in for wdk-build,
/// and those of the standard library where it is built from source.
///
/// # Errors
/// Where a crate cannot be fetched or copied.
pub fn vendor(root: &Path, folder: &Path) -> anyhow::Result<()> {
    let copy = |mut cargo: Command, what: &str, more: &[&str]| {
        cargo.args(["vendor", "--quiet", "--versioned-dirs"]).args(more).arg(folder).current_dir(root);
        let output = cargo.output().context("cannot start cargo")?;
        if !output.status.success() {
            bail!("the crates of {what}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        println!("copied the crates of {what}");
        Ok(())
    };
    copy(workspace::cargo(), "the workspace", &["--locked"])?;
    if cfg!(windows) {
        return Ok(());
    }
    copy(Overlay::make(root, &root.join("target/kernel"), "vendor")?.cargo(), "the drivers' build", &["--no-delete"])?;
    let library = toolchain::LIBRARY.to_owned() + "/Cargo.toml";
    copy(toolchain::debian_cargo()?, "the standard library", &["--no-delete", "--locked", "--manifest-path", &library])
}

/// The folders that cargo has the sources of crates from registries in: one, unless its configuration names several
/// registries. Fetches what is not there.
///
/// # Errors
/// Where cargo cannot resolve or fetch them.
pub fn folders(cargo: &mut Command) -> anyhow::Result<BTreeSet<PathBuf>> {
    let output = cargo.args(["metadata", "--format-version", "1"]).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata is not readable")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifests = packages
        .filter(|package| package["source"].is_string())
        .filter_map(|package| package["manifest_path"].as_str());
    Ok(manifests.filter_map(|manifest| Path::new(manifest).parent()?.parent().map(Path::to_owned)).collect())
}
