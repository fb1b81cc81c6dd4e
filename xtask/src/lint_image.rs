//! `cargo xtask lint-image`: what must hold for every driver image, whatever built it.
//!
//! Each check looks at the finished file with a PE reader, a disassembler and a PDB reader; each violation is one line.

mod code;
mod headers;
mod symbols;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use object::read::pe::PeFile64;

use crate::build::Profile;
use crate::{exports, workspace};

/// Arguments of `cargo xtask lint-image`.
#[derive(clap::Args)]
pub struct Args {
    /// Images to check; default: every driver in target/dist/x64
    files: Vec<PathBuf>,
}

/// Runs the command. Exit code 1: an image has a violation.
///
/// # Errors
/// Where an image cannot be read or has a violation.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let files = if args.files.is_empty() { built()? } else { args.files.clone() };
    check(&files, Profile::Release)?;
    println!("{} images, no violation", files.len());
    Ok(ExitCode::SUCCESS)
}

/// The images that `cargo xtask build` made.
fn built() -> anyhow::Result<Vec<PathBuf>> {
    let folder = workspace::root().join("target/dist/x64");
    let mut images = Vec::new();
    for entry in std::fs::read_dir(&folder).context("nothing is built; see cargo xtask build")? {
        let package = entry?.path();
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let image = package.join(format!("{name}.sys"));
        if image.exists() {
            images.push(image);
        }
    }
    images.sort();
    Ok(images)
}

/// Checks every image of a build with that profile, with the PDB that lies beside it; prints the violations.
///
/// # Errors
/// Where an image cannot be read or has a violation.
pub fn check(images: &[PathBuf], profile: Profile) -> anyhow::Result<()> {
    let max_frame = match profile {
        Profile::Release => code::MAX_FRAME,
        Profile::Dev => code::MAX_FRAME_DEV,
    };
    let mut count = 0;
    for image in images {
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for violation in violations_of(image, max_frame).with_context(|| format!("lint-image: {name}"))? {
            println!("{name}: {violation}");
            count += 1;
        }
    }
    if count > 0 {
        bail!("lint-image: {count} violations");
    }
    Ok(())
}

fn violations_of(image: &Path, max_frame: u32) -> anyhow::Result<Vec<String>> {
    let data = std::fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let beside = image.with_extension("pdb");
    let pdb = if beside.exists() { Some(std::fs::read(&beside)?) } else { None };
    let name = beside.file_name().unwrap_or_default().to_string_lossy().into_owned();
    violations(&data, pdb.as_deref(), &name, max_frame)
}

/// Everything that is wrong with the image in `data`. `pdb` is the content of the symbol file beside it, `pdb_name` the
/// name that it has or ought to have.
fn violations(data: &[u8], pdb: Option<&[u8]>, pdb_name: &str, max_frame: u32) -> anyhow::Result<Vec<String>> {
    let image = match PeFile64::parse(data) {
        Ok(image) => image,
        Err(error) => return Ok(vec![format!("is not a 64-bit PE image: {error}")]),
    };
    let (mut found, symbols) = symbols::check(&image, pdb, pdb_name)?;
    found.extend(headers::check(&image, data)?);
    found.extend(headers::check_imports(&image, &exports::windows_10_2004()?)?);
    found.extend(code::check(&image, &symbols, max_frame)?);
    Ok(found)
}
