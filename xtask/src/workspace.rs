//! The source tree: where it is, how a path in it is shown, how a copy of it is made.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::packages;

/// The top of the source tree.
pub fn root() -> PathBuf {
    // `cargo run` names the folder of this package; the value compiled in serves where the binary is started by hand.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = PathBuf::from(package);
    package.parent().map_or(package.clone(), Path::to_owned)
}

/// `path` as a person types it at the top of the tree.
pub fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Cargo, as it builds for the host: the one that started this process, at the top of the tree.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The folder that cargo builds into for the host.
pub fn host_target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The packages of the workspace at `root`, as `cargo metadata` describes them.
///
/// # Errors
/// Where cargo cannot read the workspace.
pub fn metadata(root: &Path) -> anyhow::Result<serde_json::Value> {
    let output = cargo()
        .current_dir(root)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata is not readable")
}

/// Makes `to` a copy of the source tree: every file that git tracks or would track. A file that is already the same is
/// left alone, so that cargo sees only real changes; one that is no longer in the tree is removed. `to/target` stays.
///
/// # Errors
/// Where the tree is not a git checkout or a file cannot be copied.
pub fn copy_tracked(to: &Path) -> anyhow::Result<()> {
    packages::ensure(&[&packages::GIT])?;
    let root = root();
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output()
        .context("cannot start git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let names = String::from_utf8(output.stdout).context("a file name in the tree is not UTF-8")?;
    let mut wanted = HashSet::new();
    for name in names.split_terminator('\0') {
        let from = root.join(name);
        // A file that is deleted but not yet committed is listed and absent.
        if !from.is_file() {
            continue;
        }
        let content = fs::read(&from).with_context(|| format!("cannot read {name}"))?;
        let copy = to.join(name);
        if fs::read(&copy).ok().as_ref() != Some(&content) {
            write(&copy, &content)?;
            fs::set_permissions(&copy, fs::metadata(&from)?.permissions())?;
        }
        wanted.insert(copy);
    }
    remove_others(to, &wanted, Some(&to.join("target")))
}

fn remove_others(folder: &Path, wanted: &HashSet<PathBuf>, keep: Option<&Path>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if Some(path.as_path()) == keep {
            continue;
        }
        if path.is_dir() {
            remove_others(&path, wanted, None)?;
        } else if !wanted.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Writes a file and the folders above it.
///
/// # Errors
/// Where the file system refuses.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// [`write`], but leaves a file alone that has this content already: its time stamp tells cargo whether to rebuild.
///
/// # Errors
/// Where the file system refuses.
pub fn write_if_changed(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) { Ok(()) } else { write(path, content) }
}
