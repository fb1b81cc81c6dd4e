//! A judge of the packages that not every machine has: signify, which reads signatures and catalogs, and shares no line with
//! what writes them or with osslsigncode.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::workspace;

/// Where signify is looked for: a virtual environment of Python.
const SIGNIFY: &str = "target/judges/bin/python";
/// What makes it.
const HOW: &str = "python3 -m venv target/judges && target/judges/bin/pip install signify==0.9.3";
/// The script that asks it.
const SCRIPT: &str = include_str!("judge.py");

/// Has signify judge every image, catalog, and member of a catalog below `drivers`, also with a byte changed. What it says; none
/// where it is not there, which is printed.
///
/// # Errors
/// The first that does not hold, or holds although it was tampered with.
pub fn signify(drivers: &Path, authority: &Path) -> anyhow::Result<Option<String>> {
    let python = workspace::root().join(SIGNIFY);
    if !Command::new(&python).args(["-c", "import signify"]).output().is_ok_and(|output| output.status.success()) {
        println!("signify: SKIPPED: it is not in {SIGNIFY} ({HOW})");
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
