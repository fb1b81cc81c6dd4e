//! The two programs of the lab: the guest kernel, for bare metal, and the agent, for dom0.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::packages::{self, BINUTILS, CARGO, LLD, RUST_SRC, RUSTC};
use crate::workspace;

/// Where they are.
pub struct Programs {
    /// The guest kernel, without its symbols: loading is slow in the lab.
    pub guest: PathBuf,
    /// The agent.
    pub agent: PathBuf,
}

/// Builds both.
///
/// # Errors
/// A tool that is missing, or a build that fails.
pub fn build() -> anyhow::Result<Programs> {
    packages::ensure(&[&RUSTC, &CARGO, &RUST_SRC, &LLD, &BINUTILS])?;
    println!("== lab: building the guest and the agent");
    let target = workspace::root().join("target/lab/build");
    let path = format!("/usr/bin:/bin:{}", LLD.folder().display());
    let cargo = |verb: &str, package: &str, arguments: &[&str]| -> anyhow::Result<()> {
        let mut command = Command::new(CARGO.path());
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("CARGO") && name != "CARGO_HOME" || name.starts_with("RUST"))
            {
                command.env_remove(&name);
            }
        }
        let status = command
            .args([verb, "--release", "--quiet"])
            .args(arguments)
            .current_dir(workspace::root().join("tests/lab").join(package))
            .env("CARGO_TARGET_DIR", &target)
            .env("RUSTC", RUSTC.path())
            .env("RUSTC_BOOTSTRAP", "1")
            .env("PATH", &path)
            // A test that passes is not worth a line here.
            .stdout(Stdio::null())
            .status()
            .context("cannot start cargo")?;
        if !status.success() {
            bail!("cargo {verb} fails in tests/lab/{package}");
        }
        Ok(())
    };
    cargo(
        "build",
        "guest",
        &[
            "-Zjson-target-spec",
            "-Zbuild-std=core,alloc,compiler_builtins",
            "-Zbuild-std-features=compiler-builtins-mem",
            "--target=x86_64-lab.json",
        ],
    )?;
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
