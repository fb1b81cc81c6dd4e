//! The compiler and linker that make the drivers.
//!
//! On Windows these are the host's own, with the Windows Driver Kit. Elsewhere: rustup's, where its
//! x86_64-pc-windows-msvc target is installed; else Debian's compiler, which gets core and alloc from source.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::packages::{self, CARGO, CLANG_HEADERS, CLIPPY, LIBCLANG, LLD, MINGW, RUST_SRC, RUSTC};

/// The target that drivers are built for.
pub const TARGET: &str = "x86_64-pc-windows-msvc";

/// Where Debian has the sources of the standard library.
pub const LIBRARY: &str = "/usr/lib/rustlib/src/rust/library";

/// A compiler and linker for [`TARGET`] on a host without the Windows Driver Kit.
pub struct Toolchain {
    /// One line about it, for the build's output.
    pub name: String,
    /// The `lld-link` that links drivers.
    pub linker: PathBuf,
    /// Folders of the compiler's own sources, whose paths must not get into an image.
    pub sources: Vec<PathBuf>,
    cargo: PathBuf,
    rustc: PathBuf,
    build_std: bool,
}

impl Toolchain {
    /// Chooses the toolchain and installs what it lacks. `folder` takes what has to be made.
    ///
    /// # Errors
    /// [`packages::Missing`] where something is not installed and this process may not install it.
    pub fn choose(folder: &Path) -> anyhow::Result<Self> {
        packages::ensure(&[&MINGW, &LIBCLANG, &CLANG_HEADERS])?;
        match rustup(folder)? {
            Some(toolchain) => Ok(toolchain),
            None => debian(),
        }
    }

    /// The clippy of the same release: Debian's; rustup's if it is installed.
    ///
    /// # Errors
    /// [`packages::Missing`].
    pub fn clippy(&self) -> anyhow::Result<Option<PathBuf>> {
        if self.build_std {
            return debian_clippy().map(Some);
        }
        Ok(Some(self.rustc.with_file_name("clippy-driver")).filter(|file| file.exists()))
    }

    /// This toolchain's cargo with nothing in its environment that this process got from another one. Unstable options
    /// are allowed: build-std and a lock file of one's own are such.
    pub fn cargo(&self) -> Command {
        let mut command = clean(&self.cargo);
        command.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1").arg("-Zlockfile-path");
        if self.build_std {
            command.arg("-Zbuild-std=core,alloc");
        }
        command.env("LIBCLANG_PATH", LIBCLANG.folder()).env("XTASK_CLANG_INCLUDE", CLANG_HEADERS.folder());
        command
    }
}

/// Makes a cargo check with clippy in the compiler's place for the crates of the workspace; a warning is an error.
pub fn lint_with(cargo: &mut Command, clippy: &Path) {
    cargo.env("RUSTC_WORKSPACE_WRAPPER", clippy).env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
}

/// A program with nothing in its environment that this process got from another toolchain.
fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_foreign) {
            command.env_remove(&name);
        }
    }
    command
}

/// Debian's clippy.
///
/// # Errors
/// [`packages::Missing`].
pub fn debian_clippy() -> anyhow::Result<PathBuf> {
    packages::ensure(&[&CLIPPY])?;
    Ok(CLIPPY.path().to_owned())
}

/// Debian's cargo and compiler.
///
/// # Errors
/// [`packages::Missing`].
pub fn debian_cargo() -> anyhow::Result<Command> {
    packages::ensure(&[&RUSTC, &CARGO, &RUST_SRC])?;
    let mut command = clean(CARGO.path());
    command.env("RUSTC", RUSTC.path()).env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}

/// `cargo build` or another verb of Debian's compiler for programs of user mode: the standard library from source.
///
/// # Errors
/// [`packages::Missing`].
pub fn debian_user_mode(verb: &str) -> anyhow::Result<Command> {
    let mut command = debian_cargo()?;
    command.args([verb, "--locked", "-Zbuild-std=std,panic_abort"]);
    Ok(command)
}

/// Whether an environment variable would carry this process's own compiler or its flags into the drivers' build.
fn is_foreign(name: &str) -> bool {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_TERM_"];
    const FOREIGN: [&str; 10] = [
        "BINDGEN_",
        "CARGO",
        "CPATH",
        "C_INCLUDE_PATH",
        "LD_LIBRARY_PATH",
        "LIBCLANG_",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    FOREIGN.iter().any(|prefix| name.starts_with(prefix)) && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}

/// The toolchain that runs this process, if it is rustup's and has the target.
fn rustup(folder: &Path) -> anyhow::Result<Option<Toolchain>> {
    let Some(cargo) = std::env::var_os("CARGO").map(PathBuf::from) else { return Ok(None) };
    let rustc = cargo.with_file_name("rustc");
    let Some(libraries) = print(&rustc, &["--print", "target-libdir", "--target", TARGET]) else { return Ok(None) };
    let has_core = std::fs::read_dir(&libraries).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    });
    let (Some(sysroot), Some(host)) =
        (print(&rustc, &["--print", "sysroot"]), print(&rustc, &["--print", "host-tuple"]))
    else {
        return Ok(None);
    };
    let lld = Path::new(&sysroot).join("lib/rustlib").join(host).join("bin/rust-lld");
    if !has_core || !lld.exists() {
        return Ok(None);
    }
    // rust-lld takes its flavour from the name it is started by.
    let linker = folder.join("rust-lld/lld-link");
    std::fs::create_dir_all(folder.join("rust-lld")).context("cannot make the linker's folder")?;
    if std::fs::read_link(&linker).ok().as_ref() != Some(&lld) {
        let _ = std::fs::remove_file(&linker);
        symlink(&lld, &linker).with_context(|| format!("cannot make {}", linker.display()))?;
    }
    let name = print(&rustc, &["--version"]).unwrap_or_default();
    let sources = vec![Path::new(&sysroot).join("lib/rustlib/src/rust")];
    Ok(Some(Toolchain { name, linker, sources, cargo, rustc, build_std: false }))
}

fn debian() -> anyhow::Result<Toolchain> {
    packages::ensure(&[&RUSTC, &CARGO, &RUST_SRC, &LLD])?;
    let version = print(RUSTC.path(), &["--version"]).context("cannot start /usr/bin/rustc")?;
    Ok(Toolchain {
        name: format!("{version}, core and alloc from source"),
        linker: LLD.path().to_owned(),
        sources: Vec::new(),
        cargo: CARGO.path().to_owned(),
        rustc: RUSTC.path().to_owned(),
        build_std: true,
    })
}

/// What a compiler prints on one line; `None` where it fails.
fn print(rustc: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(rustc).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[cfg(unix)]
fn symlink(from: &Path, to: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(from, to)
}

#[cfg(not(unix))]
fn symlink(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::hard_link(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_another_toolchain_is_left_behind() {
        for name in ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_ENCODED_RUSTFLAGS", "RUSTC", "RUSTC_WRAPPER", "RUSTFLAGS"] {
            assert!(is_foreign(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_HTTP_CAINFO", "CARGO_REGISTRIES_X_INDEX", "PATH", "RUSTUP_HOME"] {
            assert!(!is_foreign(name), "{name}");
        }
    }
}
