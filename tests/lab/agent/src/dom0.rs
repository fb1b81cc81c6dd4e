//! The toolstack and the disks, by the programs that an administrator uses.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Runs a program; what it prints, without the line end.
///
/// # Errors
/// It failed; the error has what it printed.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {} {}", arguments.join(" "), text, errors.trim());
    }
    Ok(text)
}

/// A disk of the guest: a file behind a loop device.
pub struct Disk {
    /// 0 = xvda.
    pub index: u32,
    /// The file.
    pub file: PathBuf,
    /// The loop device.
    pub device: String,
}

/// The number of a virtual disk, as the store names it.
pub fn number(index: u32) -> u32 {
    51712 + 16 * index
}

/// Its name, as `xl` does.
pub fn name(index: u32) -> String {
    format!("xvd{}", char::from(b'a' + index as u8))
}

impl Disk {
    /// Makes the file, unless it is there, and the loop device.
    pub fn make(index: u32, units: u64, sector: u32) -> anyhow::Result<Self> {
        let file = PathBuf::from(format!("/tmp/lab/disk{index}.raw"));
        let open = std::fs::OpenOptions::new().create(true).write(true).truncate(false).open(&file)?;
        open.set_len(units * 512)?;
        let path = file.to_string_lossy();
        let device = run("losetup", &["--find", "--show", "--sector-size", &sector.to_string(), &path])?;
        Ok(Self { index, file, device })
    }

    /// What `xl block-attach` and a configuration take.
    pub fn specification(&self, read_only: bool) -> String {
        let access = if read_only { "ro" } else { "rw" };
        format!("format=raw,vdev={},access={access},script=block-fast,target={}", name(self.index), self.device)
    }

    /// Lets the loop device go.
    pub fn free(&self) -> anyhow::Result<()> {
        run("losetup", &["--detach", &self.device]).map(drop)
    }
}
