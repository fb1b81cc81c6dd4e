//! QEMU with Xen and dom0 in it. The options are those under which QEMU 7.2's emulation of SVM carries Xen: see the
//! pitfalls in docs/lab.md.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context;

use crate::packages::QEMU;

/// Bytes of the disk that dom0 writes its evidence to.
const RESULTS: usize = 64 << 20;

/// What the machine's clocks count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The host's time.
    Host,
    /// The emulated processor's instructions, each taken for a nanosecond: what else the host does makes no difference.
    Instructions,
}

/// A machine that runs.
pub struct Machine {
    qemu: Child,
    console: PathBuf,
    shell: PathBuf,
    errors: PathBuf,
    read: u64,
    partial: String,
    kept: bool,
}

impl Machine {
    /// Starts QEMU. `folder` has `stage.tar` and gets the consoles.
    ///
    /// # Errors
    /// QEMU does not start.
    pub fn start(image: &Path, folder: &Path, keep: bool, clock: Clock) -> anyhow::Result<Self> {
        let (console, shell) = (folder.join("console.log"), folder.join("shell"));
        // In full, so that dom0 never finds that there is no room for it.
        let results = folder.join("results.tar");
        let written = File::create(&results).and_then(|mut file| file.write_all(&vec![0; RESULTS]));
        written.with_context(|| format!("cannot write {}", results.display()))?;
        let xen = "com1=115200,8n1 console=com1 loglvl=info guest_loglvl=all noreboot dom0_mem=640M,max:640M \
                   dom0_max_vcpus=1 spec-ctrl=off xpti=off cpufreq=none";
        let keep_word = if keep { " labkeep" } else { "" };
        let dom0 = format!(
            "{} console=hvc0 mitigations=off quiet rdinit=/init{keep_word},{}",
            image.join("vmlinux").display(),
            image.join("initrd.cpio").display()
        );
        let mut command = if keep {
            Command::new(QEMU.path())
        } else {
            // However this process ends, QEMU ends with it.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]).arg(QEMU.path());
            command
        };
        match clock {
            Clock::Host => command.args(["-accel", "tcg,thread=multi,tb-size=512"]),
            Clock::Instructions => {
                command.args(["-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=0,sleep=off"])
            }
        };
        command.args(["-machine", "q35", "-smp", "1", "-m", "1536"]);
        command.args(["-cpu", "EPYC,-smap,-monitor,-xsave,-rdtscp", "-nodefaults", "-no-reboot", "-display", "none"]);
        command.arg("-kernel").arg(image.join("xen")).args(["-append", xen, "-initrd", &dom0]);
        for (name, file, snapshot) in [
            ("root", image.join("dom0.ext4"), "on"),
            ("stage", folder.join("stage.tar"), "on"),
            ("results", folder.join("results.tar"), "off"),
        ] {
            let drive = format!("file={},format=raw,if=none,id={name},snapshot={snapshot}", file.display());
            // A full disk is an error that dom0 sees; by default QEMU would stop the machine there.
            command.args(["-drive", &drive, "-device", &format!("virtio-blk-pci,drive={name},werror=report")]);
        }
        command
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-serial", &format!("unix:{},server=on,wait=off", shell.display())])
            .args(["-monitor", "none"])
            // Where it puts what is written to the disks that stay as they are.
            .env("TMPDIR", folder);
        Self::spawn(&mut command, folder)
    }

    /// Starts a program that writes `console.log` in `folder`.
    pub(super) fn spawn(command: &mut Command, folder: &Path) -> anyhow::Result<Self> {
        let errors = folder.join("qemu-errors.log");
        let create = |file: &Path| File::create(file).with_context(|| format!("cannot write {}", file.display()));
        let qemu = command
            .stdin(Stdio::null())
            .stdout(create(&folder.join("qemu.log"))?)
            .stderr(create(&errors)?)
            .spawn()
            .context("cannot start QEMU")?;
        let (console, shell) = (folder.join("console.log"), folder.join("shell"));
        Ok(Self { qemu, console, shell, errors, read: 0, partial: String::new(), kept: false })
    }

    /// The run's folder.
    pub fn folder(&self) -> &Path {
        self.console.parent().unwrap_or(Path::new("."))
    }

    /// QEMU's process.
    pub fn id(&self) -> u32 {
        self.qemu.id()
    }

    /// The socket with a shell of dom0.
    pub fn shell(&self) -> String {
        self.shell.display().to_string()
    }

    /// Whole lines that the console got since the last call.
    ///
    /// # Errors
    /// The console's file cannot be read.
    pub fn lines(&mut self) -> anyhow::Result<Vec<String>> {
        let Ok(mut file) = File::open(&self.console) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.read))?;
        let mut bytes = Vec::new();
        self.read += file.read_to_end(&mut bytes)? as u64;
        self.partial.push_str(&String::from_utf8_lossy(&bytes));
        let mut lines = Vec::new();
        while let Some(end) = self.partial.find('\n') {
            let line: String = self.partial.drain(..=end).collect();
            lines.push(line.trim_end().to_owned());
        }
        Ok(lines)
    }

    /// The console's last lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let text = std::fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].iter().map(|line| line.trim_end().to_owned()).collect()
    }

    /// How QEMU ended, if it did.
    ///
    /// # Errors
    /// The process cannot be asked.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.qemu.try_wait()?)
    }

    /// What QEMU printed as errors, without what it says at each start of features that its emulation lacks.
    pub fn errors(&self) -> String {
        let text = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let told = text.lines().filter(|line| !line.contains("TCG doesn't support requested feature"));
        told.flat_map(|line| [line, "\n"]).collect()
    }

    /// Leaves QEMU running when this process is done.
    pub fn leave(&mut self) {
        self.kept = true;
    }

    /// Kills QEMU if it still runs.
    pub fn stop(&mut self) {
        // It may have ended by itself, which is what is wanted.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.kept {
            self.stop();
        }
    }
}
