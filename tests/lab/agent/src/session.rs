//! One guest from its creation to its end, and what its suite asks for.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::dom0::{self, Disk, number, run};
use crate::mailbox::{MOST_DATA, Mailbox, Request};

/// The guest's name.
const NAME: &str = "lab";
const POLL: Duration = Duration::from_millis(2);
/// How often the domain's life is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// A guest that runs a case.
pub struct Session {
    domain: u16,
    mailbox: Option<Mailbox>,
    disks: Vec<Disk>,
    /// `xl` commands that need the guest's help and so cannot be waited for.
    children: Vec<Child>,
    evidence: PathBuf,
    suspends: u32,
    cancelled: u32,
    /// A suspend that is due once its request is answered: whether it is cancelled.
    due: Option<bool>,
    verdict: Option<String>,
}

impl Session {
    /// Makes the guest.
    pub fn new(folder: &Path, evidence: &Path, case: &str, seed: u64) -> anyhow::Result<Self> {
        let config = evidence.join("guest.cfg");
        let extra = fs::read_to_string(folder.join("extra.cfg")).unwrap_or_default();
        let vcpus = extra
            .lines()
            .find_map(|line| line.split_once('=').filter(|(key, _)| key.trim() == "vcpus")?.1.trim().parse().ok())
            .unwrap_or(1u32);
        let text = format!(
            "name=\"{NAME}\"\ntype=\"hvm\"\nkernel=\"{0}/guest\"\nramdisk=\"{0}/drivers.tar\"\n\
             cmdline=\"vcpus={vcpus} case={case} seed={seed}\"\nmemory=128\nvcpus=1\nvga=\"none\"\nusb=0\n\
             xen_platform_pci=1\non_poweroff=\"destroy\"\non_reboot=\"destroy\"\non_crash=\"destroy\"\n{extra}",
            folder.display()
        );
        fs::write(&config, text)?;
        // Cases begin with disks of zeros.
        for entry in fs::read_dir("/tmp/lab")?.flatten() {
            fs::remove_file(entry.path())?;
        }
        run("xl", &["create", &config.to_string_lossy()]).context("the guest cannot be made")?;
        let mut session = Self {
            domain: 0,
            mailbox: None,
            disks: Vec::new(),
            children: Vec::new(),
            evidence: evidence.to_owned(),
            suspends: 0,
            cancelled: 0,
            due: None,
            verdict: None,
        };
        session.connect()?;
        Ok(session)
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        self.domain = run("xl", &["domid", NAME])?.parse()?;
        self.mailbox = Some(Mailbox::map(self.domain)?);
        Ok(())
    }

    /// Carries out requests until the case has a result. What it returns begins with `passed` or `failed`.
    pub fn serve(&mut self, seconds: u64) -> anyhow::Result<String> {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut looked = Instant::now();
        loop {
            if let Some(request) = self.mailbox.as_ref().and_then(Mailbox::poll) {
                let result = self.carry_out(&request).map_err(|error| format!("{error:#}"));
                if let Some(mailbox) = &self.mailbox {
                    mailbox.answer(&request, result);
                }
                if let Some(verdict) = self.verdict.take() {
                    return Ok(verdict);
                }
                if let Some(cancel) = self.due.take() {
                    self.suspend(cancel)?;
                }
                continue;
            }
            std::thread::sleep(POLL);
            self.children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
            if Instant::now() > end {
                bail!("killed after {seconds} s");
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                if run("xl", &["domid", NAME]).is_err() {
                    bail!("the guest is gone without a result");
                }
            }
        }
    }

    /// Destroys the guest and keeps what it leaves.
    pub fn finish(&mut self) {
        let keep = |name: &str, text: anyhow::Result<String>| {
            let text = text.unwrap_or_else(|error| format!("{error:#}\n"));
            // The run's result does not depend on evidence that cannot be written: the host says what is missing.
            let _ = fs::write(self.evidence.join(name), text);
        };
        keep("xenstore", run("xenstore-ls", &["-f"]));
        keep("grants-before-destroy", run("xl", &["debug-keys", "g"]));
        self.mailbox = None;
        keep("destroy", run("xl", &["destroy", NAME]));
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for disk in &self.disks {
            // blkback lets the device go a moment after the domain.
            for _ in 0..50 {
                if disk.free().is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        keep("domains-after", run("xl", &["list"]));
        for name in [format!("qemu-dm-{NAME}.log"), format!("xl-{NAME}.log")] {
            let _ = fs::rename(Path::new("/var/log/xen").join(&name), self.evidence.join(&name));
        }
    }

    fn suspend(&mut self, cancel: bool) -> anyhow::Result<()> {
        let image = "/tmp/lab-save";
        if cancel {
            run("xl", &["save", "-c", NAME, image])?;
            self.cancelled += 1;
        } else {
            // The mapping would keep the old domain's memory.
            self.mailbox = None;
            run("xl", &["save", NAME, image])?;
            run("xl", &["restore", image])?;
            self.connect()?;
            self.suspends += 1;
        }
        fs::remove_file(image).context("the saved image cannot be removed")
    }

    fn disk(&self, index: u32) -> anyhow::Result<&Disk> {
        self.disks.iter().find(|disk| disk.index == index).with_context(|| format!("there is no disk {index}"))
    }

    fn backend(&self, index: u32) -> String {
        format!("/local/domain/0/backend/vbd/{}/{}", self.domain, number(index))
    }

    fn carry_out(&mut self, request: &Request) -> anyhow::Result<(String, Vec<u8>)> {
        let (verb, rest) = request.text.split_once(' ').unwrap_or((&request.text, ""));
        let words: Vec<&str> = rest.split_ascii_whitespace().collect();
        let word = |n: usize| words.get(n).copied().with_context(|| format!("`{verb}` lacks an argument"));
        let value = |n: usize| anyhow::Ok(word(n)?.parse::<u64>()?);
        let index = || anyhow::Ok(value(0)? as u32);
        let text = match verb {
            "home" => format!("/local/domain/{}", self.domain),
            "attach" => {
                let disk = Disk::make(index()?, value(1)?, value(2)? as u32)?;
                let specification = disk.specification(value(3)? != 0);
                self.disks.retain(|old| old.index != disk.index);
                self.disks.push(disk);
                run("xl", &["block-attach", NAME, &specification])?
            }
            "detach" => {
                let child = Command::new("xl")
                    .args(["block-detach", NAME, &dom0::name(index()?)])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .spawn()?;
                self.children.push(child);
                String::new()
            }
            "gone" => {
                let front = format!("/local/domain/{}/device/vbd/{}", self.domain, number(index()?));
                let gone = [self.backend(index()?), front].iter().all(|path| run("xenstore-exists", &[path]).is_err());
                if gone && let Some(at) = self.disks.iter().position(|disk| Some(disk.index) == index().ok()) {
                    let disk = self.disks.remove(at);
                    disk.free()?;
                    fs::remove_file(&disk.file)?;
                }
                u8::from(gone).to_string()
            }
            "resize" => {
                let disk = self.disk(index()?)?;
                fs::OpenOptions::new().write(true).open(&disk.file)?.set_len(value(1)? * 512)?;
                run("losetup", &["--set-capacity", &disk.device])?
            }
            "read" => {
                let mut file = fs::File::open(&self.disk(index()?)?.file)?;
                file.seek(SeekFrom::Start(value(1)? * 512))?;
                let mut data = vec![0; (value(2)? as usize * 512).min(MOST_DATA)];
                file.read_exact(&mut data)?;
                return Ok((String::new(), data));
            }
            "write" => {
                let mut file = fs::OpenOptions::new().write(true).open(&self.disk(index()?)?.file)?;
                file.seek(SeekFrom::Start(value(1)? * 512))?;
                file.write_all(&request.data)?;
                String::new()
            }
            "hash" => run("sha256sum", &[&self.disk(index()?)?.file.to_string_lossy()])?,
            "allocated" => {
                use std::os::unix::fs::MetadataExt;
                fs::metadata(&self.disk(index()?)?.file)?.blocks().to_string()
            }
            "stats" => {
                let folder =
                    format!("/sys/bus/xen-backend/devices/vbd-{}-{}/statistics", self.domain, number(index()?));
                let read =
                    |name: &str| fs::read_to_string(format!("{folder}/{name}")).map(|text| text.trim().to_owned());
                ["rd_req", "wr_req", "f_req", "ds_req"].map(|name| read(name).unwrap_or("0".into())).join(" ")
            }
            "suspend" => {
                self.due = Some(value(0)? != 0);
                String::new()
            }
            "suspends" => format!("{} {}", self.suspends, self.cancelled),
            "store-read" => run("xenstore-read", &[rest])?,
            "store-write" => {
                let (path, value) = rest.split_once(' ').unwrap_or((rest, ""));
                run("xenstore-write", &[path, value])?
            }
            "store-remove" => run("xenstore-rm", &[rest])?,
            "result" => {
                self.verdict = Some(rest.to_owned());
                String::new()
            }
            _ => bail!("`{verb}` is no request"),
        };
        Ok((text, Vec::new()))
    }
}
