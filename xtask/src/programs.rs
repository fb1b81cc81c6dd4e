//! The programs of the suite for user mode: built for Windows, on Linux by mingw-w64's linker and the standard library from
//! source, on Windows by plain cargo.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::packages::{self, MINGW_GCC};
use crate::workspace::{self, relative, write_if_changed};
use crate::{crates, toolchain};

/// The programs: package and file.
const PROGRAMS: [(&str, &str); 3] = [("shutdownmon", "shutdownmon"), ("xentool", "xentool"), ("installer", "setup")];
/// What the tests under Wine need beside them; it is not shipped.
const FOR_TESTS: [(&str, &str); 1] = [("bcd-model", "bcdedit")];
/// The target that they are built for, on a host that is not Windows.
const TARGET: &str = "x86_64-pc-windows-gnu";

/// The workspace's packages that the programs are made of.
pub fn package_names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().map(|(package, _)| package)
}

/// Builds every program and puts it below `target/dist/x64-programs`; those that are shipped. The same source makes the same
/// bytes.
///
/// # Errors
/// Where a tool is absent or a program does not compile.
pub fn build() -> anyhow::Result<Vec<PathBuf>> {
    let root = workspace::root();
    let target = root.join("target/programs");
    let mut cargo = if cfg!(windows) {
        let mut cargo = workspace::cargo();
        cargo.arg("build");
        cargo
    } else {
        packages::ensure(&[&MINGW_GCC])?;
        let mut cargo = toolchain::debian_user_mode("build")?;
        cargo.current_dir(&root).args(["--target", TARGET]).env("CARGO_ENCODED_RUSTFLAGS", flags(&root)?);
        cargo
    };
    cargo.args(["--release", "--target-dir"]).arg(&target);
    cargo.args(PROGRAMS.iter().chain(&FOR_TESTS).flat_map(|(package, _)| ["--package", package]));
    println!("compile: {} (for Windows)", PROGRAMS.map(|(package, _)| package).join(", "));
    if !cargo.status().context("cannot start cargo")?.success() {
        bail!("compile: cargo failed, see above");
    }
    let built = if cfg!(windows) { target.join("release") } else { target.join(TARGET).join("release") };
    let put = |(_, name): &(&str, &str)| {
        let from = built.join(format!("{name}.exe"));
        let content = std::fs::read(&from).with_context(|| format!("cannot read {}", relative(&from)))?;
        let to = root.join("target/dist/x64-programs").join(format!("{name}.exe"));
        write_if_changed(&to, &content)?;
        Ok(to)
    };
    FOR_TESTS.iter().try_for_each(|program| put(program).map(drop))?;
    PROGRAMS.iter().map(put).collect()
}

/// Has clippy look at the programs as they are for Windows.
///
/// # Errors
/// Where a tool is absent, or clippy finds something.
pub fn lint() -> anyhow::Result<()> {
    let root = workspace::root();
    let mut cargo = if cfg!(windows) {
        let mut cargo = workspace::cargo();
        cargo.arg("clippy");
        cargo
    } else {
        let clippy = toolchain::debian_clippy()?;
        let mut cargo = toolchain::debian_user_mode("check")?;
        toolchain::lint_with(&mut cargo, &clippy);
        cargo.args(["--target", TARGET]);
        cargo
    };
    cargo.current_dir(&root).args(["--release", "--target-dir"]).arg(root.join("target/programs"));
    cargo.args(PROGRAMS.iter().chain(&FOR_TESTS).flat_map(|(package, _)| ["--package", package]));
    if cfg!(windows) {
        cargo.args(["--", "-D", "warnings"]);
    }
    if !cargo.status().context("cannot start cargo")?.success() {
        bail!("clippy finds fault with a program for Windows, see above");
    }
    Ok(())
}

/// Flags that keep this machine's paths and the clock out of the programs.
///
/// # Errors
/// Where cargo cannot find the crates.
fn flags(root: &Path) -> anyhow::Result<String> {
    let mut flags = vec![format!("--remap-path-prefix={}=xen-pv", root.display())];
    let folders = crates::folders(toolchain::debian_cargo()?.current_dir(root))?;
    flags.extend(folders.iter().map(|folder| format!("--remap-path-prefix={}=cargo", folder.display())));
    flags.extend(["-Cstrip=symbols".to_owned(), "-Clink-arg=-Wl,--no-insert-timestamp".to_owned()]);
    Ok(flags.join("\u{1f}"))
}
