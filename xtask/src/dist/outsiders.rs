//! A judge of the packages that not every machine has: signify, which reads signatures and catalogs, and shares no line with
//! what writes them or with osslsigncode.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::{packages, workspace};

/// Where signify is looked for: a virtual environment of Python.
const SIGNIFY: &str = "target/judges/bin/python";
/// The version that is asked.
const VERSION: &str = "signify==0.9.3";
/// The script that asks it.
const SCRIPT: &str = include_str!("judge.py");

/// Puts signify into a folder below `target`, if it is not there yet: from the Python package index.
fn install(python: &Path) -> anyhow::Result<()> {
    let works = || Command::new(python).args(["-c", "import signify"]).output().is_ok_and(|run| run.status.success());
    if works() {
        return Ok(());
    }
    packages::ensure(&[&packages::VENV])?;
    let folder = workspace::root().join("target/judges");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    run(Command::new(python).args(["-m", "pip", "install", "--quiet", VERSION]))?;
    if works() { Ok(()) } else { bail!("it is installed in {SIGNIFY} and does not load") }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().context("cannot start Python")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Has signify judge every image, catalog, and member of a catalog below `drivers`, also with a byte changed. What it says; none
/// where it cannot be had, which is printed.
///
/// # Errors
/// The first that does not hold, or holds although it was tampered with.
pub fn signify(drivers: &Path, authority: &Path) -> anyhow::Result<Option<String>> {
    let python = workspace::root().join(SIGNIFY);
    if let Err(error) = install(&python) {
        println!("signify: SKIPPED: {error:#}");
        return Ok(None);
    }
    // In a folder of its own, which Python looks for modules in.
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let script = folder.path().join("judge.py");
    std::fs::write(&script, SCRIPT).with_context(|| format!("cannot write {}", script.display()))?;
    let output =
        Command::new(&python).arg(&script).arg(authority).arg(drivers).output().context("cannot start Python")?;
    if !output.status.success() {
        bail!("signify: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let count = String::from_utf8_lossy(&output.stdout);
    Ok(Some(format!("{} signatures hold, and none of them after a byte was changed", count.trim())))
}
