//! Whether what was signed holds before somebody else's eyes: `osslsigncode`, which reads what it did not write.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::media::files_below;
use crate::packages::{self, OSSLSIGNCODE};

/// Verifies `file` against `authority`, by `catalog` if there is one; whether it holds.
fn holds(file: &Path, authority: &Path, catalog: Option<&Path>) -> anyhow::Result<bool> {
    let mut command = Command::new(OSSLSIGNCODE.path());
    command.arg("verify").arg("-CAfile").arg(authority);
    if let Some(catalog) = catalog {
        command.arg("-catalog").arg(catalog);
    }
    let output = command.arg("-in").arg(file).output().context("cannot start osslsigncode")?;
    Ok(output.status.success())
}

/// A copy of `file` with one byte changed that the signature covers: in the first half of a catalog are its members, in the
/// second the certificates, which the signature does not cover.
fn tampered(file: &Path, folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let mut content = std::fs::read(file)?;
    let place = content.len() / 8;
    let Some(byte) = content.get_mut(place) else { bail!("{} is empty", file.display()) };
    *byte ^= 0xff;
    let copy = folder.join(file.file_name().unwrap_or_default());
    std::fs::write(&copy, content)?;
    Ok(copy)
}

/// Verifies every program below `folder`, and that each is refused once a byte of it is another. How many there were.
///
/// # Errors
/// The first that does not hold, or holds although it was tampered with.
pub fn programs(programs: &Path, authority: &Path) -> anyhow::Result<usize> {
    packages::ensure(&[&OSSLSIGNCODE])?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let mut looked_at = 0;
    for file in files_below(programs)?.into_iter().filter(|file| file.extension() == Some("exe".as_ref())) {
        let file = programs.join(file);
        looked_at += 1;
        if !holds(&file, authority, None)? {
            bail!("the signature of {} does not hold", file.display());
        }
        if holds(&tampered(&file, folder.path())?, authority, None)? {
            bail!("{} holds although it was tampered with", file.display());
        }
    }
    Ok(looked_at)
}

/// Verifies every image and catalog of the packages below `drivers`, each image also as its catalog's member; and that each
/// is refused once a byte of it is another. How many files were looked at.
///
/// # Errors
/// The first that does not hold, or holds although it was tampered with.
pub fn packages(drivers: &Path, authority: &Path) -> anyhow::Result<usize> {
    packages::ensure(&[&OSSLSIGNCODE])?;
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let mut looked_at = 0;
    for file in files_below(drivers)? {
        let file = drivers.join(file);
        let is = |end: &str| file.extension() == Some(end.as_ref());
        if !is("sys") && !is("cat") {
            continue;
        }
        looked_at += 1;
        let catalogs = [None, Some(file.with_extension("cat"))];
        for catalog in catalogs.iter().take(if is("sys") { 2 } else { 1 }) {
            let (what, by) = (file.display(), if catalog.is_some() { " as a member of its catalog" } else { "" });
            if !holds(&file, authority, catalog.as_deref())? {
                bail!("the signature of {what} does not hold{by}");
            }
            if holds(&tampered(&file, folder.path())?, authority, catalog.as_deref())? {
                bail!("{what} holds{by} although it was tampered with");
            }
        }
    }
    Ok(looked_at)
}
