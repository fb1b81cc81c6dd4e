//! The toolstack and the disks, by the programs that an administrator uses.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Where the files of the guests' disks are: a tmpfs.
pub const DISKS: &str = "/tmp/lab";

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

/// What carries a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// blkback over a loop device over a raw file.
    Phy,
    /// The block backend in QEMU, raw file.
    QdiskRaw,
    /// The block backend in QEMU, qcow2 file.
    QdiskQcow2,
}

impl Kind {
    /// As requests name it.
    pub fn parse(word: &str) -> anyhow::Result<Self> {
        match word {
            "phy" => Ok(Self::Phy),
            "raw" => Ok(Self::QdiskRaw),
            "qcow2" => Ok(Self::QdiskQcow2),
            _ => bail!("`{word}` is no kind of disk"),
        }
    }
}

/// A disk of the guest.
pub struct Disk {
    /// 0 = xvde, the first name without an emulated twin; 12 to 15 are xvda to xvdd.
    pub index: u32,
    /// What carries it.
    pub kind: Kind,
    /// The file.
    pub file: PathBuf,
    /// The loop device, while there is one.
    pub device: Option<String>,
    /// References of the ring's pages, as far as they were seen in the store.
    pub ring: BTreeSet<u32>,
}

/// The letter of a disk's name, counted from `a`.
fn letter(index: u32) -> u32 {
    (index + 4) % 16
}

/// The number of a virtual disk, as the store names it.
pub fn number(index: u32) -> u32 {
    51712 + 16 * letter(index)
}

/// Its name, as `xl` does.
pub fn name(index: u32) -> String {
    format!("xvd{}", char::from(b'a' + letter(index) as u8))
}

impl Disk {
    /// Makes the file anew, and the loop device where there is to be one.
    pub fn make(index: u32, kind: Kind, units: u64, sector: u32) -> anyhow::Result<Self> {
        let extension = if kind == Kind::QdiskQcow2 { "qcow2" } else { "raw" };
        let file = PathBuf::from(format!("{DISKS}/disk{index}.{extension}"));
        let path = file.to_string_lossy();
        let mut device = None;
        if kind == Kind::QdiskQcow2 {
            run("qemu-img", &["create", "-q", "-f", "qcow2", &path, &(units * 512).to_string()])?;
        } else {
            OpenOptions::new().create(true).write(true).truncate(true).open(&file)?.set_len(units * 512)?;
        }
        if kind == Kind::Phy {
            device = Some(run("losetup", &["--find", "--show", "--sector-size", &sector.to_string(), &path])?);
        }
        Ok(Self { index, kind, file, device, ring: BTreeSet::new() })
    }

    /// Replaces a qcow2 file that nobody uses by one of as many random bytes; their SHA-256.
    pub fn fill(&self, units: u64) -> anyhow::Result<String> {
        if self.kind != Kind::QdiskQcow2 {
            bail!("only qcow2 files are filled before they are attached");
        }
        let plain = format!("{DISKS}/plain");
        let mut bytes = vec![0; usize::try_from(units * 512)?];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        fs::write(&plain, &bytes)?;
        run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &plain, &self.file.to_string_lossy()])?;
        let hash = run("sha256sum", &[&plain]);
        fs::remove_file(plain)?;
        hash
    }

    /// What `xl block-attach` takes.
    pub fn specification(&self, read_only: bool) -> String {
        let (access, vdev) = (if read_only { "ro" } else { "rw" }, name(self.index));
        let path = self.file.display();
        match self.kind {
            Kind::Phy => {
                let device = self.device.as_deref().unwrap_or_default();
                format!("format=raw,vdev={vdev},access={access},script=block-fast,target={device}")
            }
            Kind::QdiskRaw => format!("format=raw,vdev={vdev},access={access},backendtype=qdisk,target={path}"),
            Kind::QdiskQcow2 => format!("format=qcow2,vdev={vdev},access={access},backendtype=qdisk,target={path}"),
        }
    }

    /// The raw file, for those who look at the disk past its backend.
    pub fn raw(&self) -> anyhow::Result<&PathBuf> {
        if self.kind == Kind::QdiskQcow2 {
            bail!("a qcow2 file is not to be looked at while its backend has it");
        }
        Ok(&self.file)
    }

    /// The SHA-256 of the disk's content. A qcow2 file is unpacked for it and must not be in use.
    pub fn hash(&self) -> anyhow::Result<String> {
        if self.kind != Kind::QdiskQcow2 {
            return run("sha256sum", &[&self.file.to_string_lossy()]);
        }
        let plain = format!("{DISKS}/plain");
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &self.file.to_string_lossy(), &plain])?;
        let hash = run("sha256sum", &[&plain]);
        fs::remove_file(plain)?;
        hash
    }

    /// Lets the loop device go.
    pub fn free(&mut self) -> anyhow::Result<()> {
        if let Some(device) = &self.device {
            run("losetup", &["--detach", device])?;
        }
        self.device = None;
        Ok(())
    }
}
