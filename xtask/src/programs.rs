//! The programs of the suite for user mode: built for Windows, on Linux by mingw-w64's linker and the standard library from
//! source, on Windows by plain cargo.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::packages::{self, MINGW_GCC};
use crate::toolchain;
use crate::workspace::{self, relative, write_if_changed};

/// The programs.
const PROGRAMS: [&str; 1] = ["shutdownmon"];
/// The target that they are built for, on a host that is not Windows.
const TARGET: &str = "x86_64-pc-windows-gnu";

/// Builds every program and puts it below `target/dist/x64-programs`. The same source makes the same bytes.
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
        let mut cargo = toolchain::debian_user_mode()?;
        cargo.current_dir(&root).args(["--target", TARGET]).env("CARGO_ENCODED_RUSTFLAGS", flags(&root));
        cargo
    };
    cargo.args(["--release", "--target-dir"]).arg(&target);
    cargo.args(PROGRAMS.iter().flat_map(|name| ["--package", name]));
    println!("compile: {} (for Windows)", PROGRAMS.join(", "));
    if !cargo.status().context("cannot start cargo")?.success() {
        bail!("compile: cargo failed, see above");
    }
    let built = if cfg!(windows) { target.join("release") } else { target.join(TARGET).join("release") };
    PROGRAMS
        .iter()
        .map(|name| {
            let from = built.join(format!("{name}.exe"));
            let content = std::fs::read(&from).with_context(|| format!("cannot read {}", relative(&from)))?;
            let to = root.join("target/dist/x64-programs").join(format!("{name}.exe"));
            write_if_changed(&to, &content)?;
            Ok(to)
        })
        .collect()
}

/// Flags that keep this machine's paths and the clock out of the programs.
fn flags(root: &Path) -> String {
    let home = std::env::var_os("CARGO_HOME")
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"), PathBuf::from);
    [
        format!("--remap-path-prefix={}=xen-pv", root.display()),
        format!("--remap-path-prefix={}=cargo", home.display()),
        "-Cstrip=symbols".to_owned(),
        "-Clink-arg=-Wl,--no-insert-timestamp".to_owned(),
    ]
    .join("\u{1f}")
}
