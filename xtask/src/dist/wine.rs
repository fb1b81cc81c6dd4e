//! The programs, the installer and the driver packages under Wine: the scripts of `tests/wine` in the crates, each with a Wine of
//! its own that it makes and takes away.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};

use crate::packages::{self, MINGW_GCC, SOCAT, UNZIP, WINE, WINE64, XENSTORED};
use crate::workspace;

/// Seconds that a script may take: four times what the slowest takes on two busy processors.
const LIMIT: &str = "900";

/// A script and what it is given.
struct Script {
    path: &'static str,
    arguments: Vec<PathBuf>,
}

/// What the scripts are about.
pub struct Made {
    /// The folder of the programs, `bcdedit.exe` of the model among them.
    pub programs: PathBuf,
    /// The installer.
    pub installer: PathBuf,
    /// The folder of the signed driver packages.
    pub drivers: PathBuf,
}

impl Made {
    fn scripts(&self) -> [Script; 5] {
        let program = |name: &str| self.programs.join(name);
        let script = |path, arguments: &[PathBuf]| Script { path, arguments: arguments.to_vec() };
        [
            script("installer/tests/wine/run.sh", &[self.installer.clone(), program("bcdedit.exe")]),
            script("installer/tests/wine/setupapi.sh", std::slice::from_ref(&self.drivers)),
            script("tools/tests/wine/run.sh", std::slice::from_ref(&self.programs)),
            script("shutdownmon/tests/wine/run.sh", &[program("shutdownmon.exe")]),
            script("shutdownmon/tests/wine/xenstored.sh", &[program("shutdownmon.exe")]),
        ]
    }
}

/// Runs every script, as many at once as there are processors: how many parts they left out, each in a line that is printed.
///
/// # Errors
/// A tool is absent, or a script fails; its output is printed.
pub fn run(made: &Made) -> anyhow::Result<usize> {
    packages::ensure(&[&WINE, &WINE64, &MINGW_GCC, &UNZIP, &XENSTORED, &SOCAT])?;
    let scripts = made.scripts();
    let jobs = std::thread::available_parallelism().map_or(1, usize::from).min(scripts.len());
    let left = std::sync::Mutex::new(scripts.iter());
    let next = || left.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
    let skipped = AtomicUsize::new(0);
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let worker = || {
            let mut failed = Vec::new();
            while let Some(script) = next() {
                match one(script) {
                    Ok(count) => _ = skipped.fetch_add(count, Ordering::Relaxed),
                    Err(error) => {
                        println!("{}: FAILED: {error:#}", script.path);
                        failed.push(script.path);
                    }
                }
            }
            failed
        };
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|_| vec!["a script's thread"])).collect()
    });
    if failed.is_empty() { Ok(skipped.into_inner()) } else { bail!("under Wine: {}", failed.join(", ")) }
}

/// One script to its end: how many parts it left out.
fn one(script: &Script) -> anyhow::Result<usize> {
    let start = Instant::now();
    let path: &Path = &workspace::root().join(script.path);
    let output = Command::new("timeout")
        .args([LIMIT, "sh"])
        .arg(path)
        .args(&script.arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot start a shell")?;
    let text = [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat();
    if !output.status.success() {
        bail!("{}\n{}", output.status, text.trim());
    }
    let skipped: Vec<&str> = text.lines().filter(|line| line.starts_with("SKIPPED: ")).collect();
    for line in &skipped {
        println!("{}: {line}", script.path);
    }
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    println!("{}: {last} ({:.0} s)", script.path, start.elapsed().as_secs_f64());
    Ok(skipped.len())
}
