//! The dom0: made once by `tests/lab/dom0/build.sh`, and again when its inputs change.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use sha2::{Digest as _, Sha256};

use crate::{packages, workspace};

/// The files that decide what the image is.
const INPUTS: [&str; 6] = ["build.sh", "packages", "init", "labinit", "block-fast", "vif-fast"];

/// Free bytes that building needs.
const BUILD_BYTES: u64 = 2 << 30;

/// Where the image is; makes it if need be.
///
/// # Errors
/// Where the script fails; its log stays in the folder.
pub fn make() -> anyhow::Result<PathBuf> {
    let source = workspace::root().join("tests/lab/dom0");
    let folder = workspace::root().join("target/lab/image");
    let mut hash = Sha256::new();
    for name in INPUTS {
        let content = std::fs::read(source.join(name)).with_context(|| format!("cannot read tests/lab/dom0/{name}"))?;
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    let hash = hash.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let mark = folder.join("inputs");
    if std::fs::read_to_string(&mark).is_ok_and(|old| old == hash) {
        return Ok(folder);
    }
    packages::ensure(&[&packages::DEBOOTSTRAP, &packages::E2FSPROGS, &packages::CPIO, &packages::XZ])?;
    if !packages::is_root() {
        bail!("the lab's dom0 is made by debootstrap, which only root may run: run this command as root once");
    }
    super::need_space(&folder, BUILD_BYTES)?;
    println!("== lab: building dom0, about 3 minutes");
    // What a build that fails leaves must not pass for an image.
    let _ = std::fs::remove_file(&mark);
    // What it mounts is in a namespace of its own, and is gone with it however it ends.
    let mut build = Command::new("unshare");
    build.args(["--mount", "bash"]).arg(source.join("build.sh")).arg(&folder);
    let status = build.status().context("cannot start unshare")?;
    if !status.success() {
        bail!("dom0 cannot be built; see {0}/debootstrap.log and {0}/apt.log", workspace::relative(&folder));
    }
    std::fs::write(&mark, hash)?;
    Ok(folder)
}
