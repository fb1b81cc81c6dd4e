//! What is laid over the workspace where there is no Windows Driver Kit: the stand-in for wdk-build, the kit, the linker
//! and its flags, and a lock file of its own. The committed Cargo.toml and Cargo.lock name only genuine crates and are not
//! touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::kit::{self, Kit};
use crate::toolchain::{TARGET, Toolchain};
use crate::workspace::{write, write_if_changed};
use crate::{crates, linker};

/// What wdk-build tells the linker for a WDM driver, and what makes the image reproducible.
const LINK_FLAGS: &[&str] = &[
    "/DRIVER",
    "/NODEFAULTLIB",
    "/SUBSYSTEM:NATIVE",
    "/ENTRY:DriverEntry",
    "/NXCOMPAT",
    "/DYNAMICBASE",
    "/INTEGRITYCHECK",
    "/OPT:REF,ICF",
    "/MANIFEST:NO",
    // Sets the checksum, which the loader verifies.
    "/RELEASE",
    // A hash in place of the time of day.
    "/BREPRO",
    "/PDBALTPATH:%_PDB%",
    // What stands for the top of the tree in the symbols.
    "/PDBSOURCEPATH:/src",
];

/// An overlay on disk, and the toolchain that it is for.
pub struct Overlay {
    toolchain: Toolchain,
    kit: Kit,
    /// The files for `--config`.
    configs: Vec<PathBuf>,
    lock: PathBuf,
    /// Exists and holds [`Self::state`] once a build got everything that it needs from the registry.
    complete: PathBuf,
}

impl Overlay {
    /// Makes the overlay for the tree at `root` in `folder`, or brings it up to date.
    ///
    /// # Errors
    /// Where the toolchain is not complete or the kit cannot be made.
    pub fn make(root: &Path, folder: &Path, profile: &str) -> anyhow::Result<Self> {
        let toolchain = Toolchain::choose(folder).context("toolchain")?;
        println!("toolchain: {}", toolchain.name);
        let kit = kit::make(&folder.join("kit"), &toolchain.linker).context("kit")?;
        let script = folder.join("lld-link");
        linker::write_script(&script, &toolchain.linker, root)?;
        let lock = lock_file(root, folder)?;
        let complete = folder.join(format!("lock/complete-{profile}"));
        let crates = folder.join("crates.toml");
        write_if_changed(&crates, crates_text(root, &lock).as_bytes())?;
        let mut overlay = Self { toolchain, kit, configs: vec![crates], lock, complete };
        let flags = folder.join("flags.toml");
        // The crates may be gone although a build once got them.
        let remaps = overlay.remaps(root).or_else(|_| overlay.remember(false).and_then(|()| overlay.remaps(root)))?;
        let text = flags_text(&overlay.kit, &script, root, &remaps);
        write_if_changed(&flags, text.as_bytes())?;
        overlay.configs.push(flags);
        Ok(overlay)
    }

    /// Paths of this machine, and what stands for each in images and symbols: the same wherever the crates came from.
    ///
    /// # Errors
    /// Where cargo cannot find the crates.
    fn remaps(&self, root: &Path) -> anyhow::Result<Vec<(PathBuf, &'static str)>> {
        let mut remaps = vec![(root.to_owned(), "/src")];
        remaps.extend(crates::folders(self.cargo().current_dir(root))?.into_iter().map(|folder| (folder, "/cargo")));
        remaps.extend(self.toolchain.sources.iter().map(|folder| (folder.clone(), "/rust")));
        Ok(remaps)
    }

    /// The clippy of its toolchain, as [`Toolchain::clippy`].
    ///
    /// # Errors
    /// [`packages::Missing`](crate::packages::Missing).
    pub fn clippy(&self) -> anyhow::Result<Option<PathBuf>> {
        self.toolchain.clippy()
    }

    /// Cargo with the overlay. Where a build with the same lock file has been through, cargo neither asks the registry nor
    /// speaks of what it does.
    pub fn cargo(&self) -> Command {
        let mut cargo = self.toolchain.cargo();
        let include: Vec<String> = self.kit.include.iter().map(|folder| folder.display().to_string()).collect();
        for config in &self.configs {
            cargo.arg("--config").arg(config);
        }
        cargo.env("XTASK_KIT_INCLUDE", include.join(":"));
        if std::fs::read(&self.complete).is_ok_and(|old| Some(old) == self.state()) {
            cargo.args(["--offline", "--quiet"]);
        }
        cargo
    }

    /// Notes whether a build with this overlay got through.
    ///
    /// # Errors
    /// Where the note cannot be written.
    pub fn remember(&self, compiled: bool) -> anyhow::Result<()> {
        match self.state() {
            Some(state) if compiled => write_if_changed(&self.complete, &state),
            _ if self.complete.exists() => Ok(std::fs::remove_file(&self.complete)?),
            _ => Ok(()),
        }
    }

    /// What decides which crates a build needs.
    fn state(&self) -> Option<Vec<u8>> {
        let mut state = std::fs::read(&self.lock).ok()?;
        state.extend(self.toolchain.name.as_bytes());
        Some(state)
    }
}

/// The lock file of the overlaid workspace. It starts from the committed one, so that every crate but wdk-build has the
/// version committed there, and starts afresh when that one changes.
fn lock_file(root: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let committed = std::fs::read(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let seed = folder.join("lock/Cargo.lock.committed");
    let lock = folder.join("lock/Cargo.lock");
    if !lock.exists() || std::fs::read(&seed).ok().as_ref() != Some(&committed) {
        write(&lock, &committed)?;
        write(&seed, &committed)?;
    }
    Ok(lock)
}

/// Which crates are overlaid, as cargo reads it.
fn crates_text(root: &Path, lock: &Path) -> String {
    let path = |path: &Path| quote(&path.display().to_string());
    [
        "# Written by `cargo xtask build`; changes are lost.".to_owned(),
        "[patch.crates-io]".to_owned(),
        format!("wdk-build = {{ path = {} }}", path(&root.join("xtask/wdk-build"))),
        "[resolver]".to_owned(),
        format!("lockfile-path = {}", path(lock)),
        // Built with less optimisation it refers to `fma` of a C runtime that a driver has not.
        "[profile.dev.package.compiler_builtins]".to_owned(),
        "opt-level = 3".to_owned(),
        // The crates that it speaks of are not ours to change.
        "[future-incompat-report]".to_owned(),
        "frequency = \"never\"".to_owned(),
        String::new(),
    ]
    .join("\n")
}

/// Linker and flags, as cargo reads them.
fn flags_text(kit: &Kit, linker: &Path, root: &Path, remaps: &[(PathBuf, &str)]) -> String {
    let lib = kit.lib.strip_prefix(root).unwrap_or(&kit.lib);
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned(), format!("-Lnative={}", lib.display())];
    flags.extend(LINK_FLAGS.iter().map(|flag| format!("-Clink-arg={flag}")));
    flags.extend(remaps.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));
    let flags: Vec<String> = flags.iter().map(|flag| quote(flag)).collect();
    [
        "# Written by `cargo xtask build`; changes are lost.".to_owned(),
        format!("[target.{TARGET}]"),
        format!("linker = {}", quote(&linker.display().to_string())),
        format!("rustflags = [{}]", flags.join(", ")),
        String::new(),
    ]
    .join("\n")
}

/// `text` as a TOML string.
fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}
