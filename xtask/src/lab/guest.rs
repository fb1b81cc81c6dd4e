//! The programs of the lab: the guest kernel, for bare metal, the agent, for dom0, and the Linux guest's.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::packages::{self, BINUTILS, CARGO, LLD, RUST_SRC, RUSTC};
use crate::{toolchain, workspace};

/// Where they are.
pub struct Programs {
    /// The guest kernel, without its symbols: loading is slow in the lab.
    pub guest: PathBuf,
    /// The agent.
    pub agent: PathBuf,
}

/// Where they are built.
fn folder() -> PathBuf {
    workspace::root().join("target/lab/build")
}

/// What the guest kernel is compiled with.
const GUEST: [&str; 4] = [
    "-Zjson-target-spec",
    "-Zbuild-std=core,alloc,compiler_builtins",
    "-Zbuild-std-features=compiler-builtins-mem",
    "--target=x86_64-lab.json",
];

/// Runs cargo in the workspace of one of the programs.
fn cargo(verb: &str, package: &str, arguments: &[&str]) -> anyhow::Result<()> {
    run(verb, package, arguments, None)
}

fn run(verb: &str, package: &str, arguments: &[&str], clippy: Option<&Path>) -> anyhow::Result<()> {
    let mut command = Command::new(CARGO.path());
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO") && name != "CARGO_HOME" || name.starts_with("RUST"))
        {
            command.env_remove(&name);
        }
    }
    if let Some(clippy) = clippy {
        toolchain::lint_with(&mut command, clippy);
    }
    let status = command
        .args([verb, "--release", "--quiet"])
        .args(arguments)
        .current_dir(workspace::root().join("tests/lab").join(package))
        .env("CARGO_TARGET_DIR", folder())
        .env("RUSTC", RUSTC.path())
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", format!("/usr/bin:/bin:{}", LLD.folder().display()))
        // A test that passes is not worth a line here.
        .stdout(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("cargo {verb} fails in tests/lab/{package}");
    }
    Ok(())
}

/// Builds the guest kernel and the agent.
///
/// # Errors
/// A tool that is missing, or a build that fails.
pub fn build() -> anyhow::Result<Programs> {
    packages::ensure(&[&RUSTC, &CARGO, &RUST_SRC, &LLD, &BINUTILS])?;
    println!("== lab: building the guest and the agent");
    let target = folder();
    cargo("build", "guest", &GUEST)?;
    cargo("test", "agent", &[])?;
    cargo("build", "agent", &[])?;
    let with_symbols = target.join("x86_64-lab/release/lab-guest");
    let guest = target.join("guest");
    let status = Command::new(BINUTILS.path()).arg(&with_symbols).arg("-o").arg(&guest).status()?;
    if !status.success() {
        bail!("{} cannot be stripped", with_symbols.display());
    }
    Ok(Programs { guest, agent: target.join("release/lab-agent") })
}

/// Builds the program of the Linux guest, which has no C library.
///
/// # Errors
/// A tool that is missing, or a build that fails.
pub fn build_linux() -> anyhow::Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    packages::ensure(&[&RUSTC, &CARGO])?;
    let flags = format!("target.{TARGET}.rustflags=[\"-Ctarget-feature=+crt-static\"]");
    cargo("build", "linux", &["--config", &flags, "--target", TARGET])?;
    Ok(folder().join(TARGET).join("release/lab-linux"))
}

/// Has clippy look at the guest kernel, the agent and the Linux guest's program. `None`: there is no clippy.
///
/// # Errors
/// A tool that is missing, or what clippy finds.
pub fn lint() -> anyhow::Result<()> {
    packages::ensure(&[&RUSTC, &CARGO, &RUST_SRC])?;
    let clippy = toolchain::debian_clippy()?;
    run("check", "guest", &GUEST, Some(&clippy))?;
    run("check", "agent", &["--all-targets"], Some(&clippy))?;
    run("check", "linux", &[], Some(&clippy))
}
