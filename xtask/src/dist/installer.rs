//! The installer: a package as `setup.exe` reads it, inside what NSIS makes of `installer/setup.nsi`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::media::files_below;
use super::sign::Signer;
use crate::packages::{self, MAKENSIS};
use crate::workspace::{self, write};

/// The list of a package's files; `installer/src/package.rs` reads it.
const LIST: &str = "package.json";

/// Makes `to` of the driver packages below `drivers` and of `programs`, all of them signed as they are to be. `work` is a
/// folder for what is made on the way.
///
/// # Errors
/// Where makensis is absent or fails, or a file cannot be read.
pub fn make(
    version: &str,
    drivers: &Path,
    programs: &Path,
    signer: &Signer,
    work: &Path,
    to: &Path,
) -> anyhow::Result<()> {
    packages::ensure(&[&MAKENSIS])?;
    let package = work.join("package");
    for (from, below) in [(drivers, "drivers"), (programs, "")] {
        for file in files_below(from)? {
            write(&package.join(below).join(&file), &std::fs::read(from.join(&file))?)?;
        }
    }
    if let Some(authority) = signer.to_trust() {
        write(&package.join("test-authority.cer"), &std::fs::read(authority)?)?;
    }
    let list = list(version, signer, &package)?;
    write(&package.join(LIST), list.as_bytes())?;
    let mut makensis = Command::new(MAKENSIS.path());
    makensis.args(["-V2", "-WX", "-NOCD"]);
    let define = |name: &str, value: &Path| format!("-D{name}={}", value.display());
    makensis.arg(format!("-DVERSION={version}"));
    makensis.args([define("PACKAGE", &package), define("OUT", to)]);
    if let Some(script) = signer.script(&work.join("sign"))? {
        makensis.arg(define("SIGN", &script));
    }
    makensis.arg(workspace::root().join("installer/setup.nsi"));
    let output = makensis.output().context("cannot start makensis")?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("makensis: {}", String::from_utf8_lossy(&text).trim());
    }
    signer.sign(to)
}

fn list(version: &str, signer: &Signer, package: &Path) -> anyhow::Result<String> {
    // The name is the one in package.rs: how Windows sees the drivers, not who signed them.
    let signature = if signer.to_trust().is_some() { "test" } else { "release" };
    let mut files = Vec::new();
    for file in files_below(package)?.into_iter().filter(|file| file != Path::new(LIST)) {
        let content = std::fs::read(package.join(&file))?;
        let mut sum = String::new();
        for byte in Sha256::digest(&content) {
            write!(sum, "{byte:02x}")?;
        }
        let path = file.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
        files.push(json!({ "path": path, "sha256": sum, "size": content.len() }));
    }
    Ok(serde_json::to_string_pretty(&json!({ "version": version, "signature": signature, "files": files }))?)
}

/// That two runs over the same files make the same bytes, and that every program holds once it is signed.
///
/// # Errors
/// The first that is not so.
pub fn test(version: &str, drivers: &Path, programs: &[PathBuf], folder: &Path) -> anyhow::Result<()> {
    let plain = folder.join("programs");
    for program in programs {
        write(&plain.join(program.file_name().unwrap_or_default()), &std::fs::read(program)?)?;
    }
    let mut made = Vec::new();
    for run in ["one", "other"] {
        let to = folder.join(format!("{run}.exe"));
        make(version, drivers, &plain, &Signer::None, &folder.join(run), &to)?;
        made.push(std::fs::read(&to)?);
    }
    if made[0] != made[1] {
        bail!("the same files make two installers that differ");
    }
    println!("installer: {} bytes, the same twice", made[0].len());
    Ok(())
}
