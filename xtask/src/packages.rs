//! The tools that come from the distribution: what each is for, how it is found, which package brings it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// One thing that has to be installed.
pub struct Requirement {
    /// What needs it, for the message.
    pub purpose: &'static str,
    /// The Debian package.
    pub package: &'static str,
    /// The file by which it is found.
    pub probe: &'static str,
}

/// Debian's own compiler, for a machine without rustup's Windows target.
pub const RUSTC: Requirement = Requirement { purpose: "the compiler", package: "rustc-web", probe: "/usr/bin/rustc" };
/// Debian's own cargo.
pub const CARGO: Requirement = Requirement { purpose: "cargo", package: "cargo-web", probe: "/usr/bin/cargo" };
/// The source of core and alloc, built for the Windows target by `-Zbuild-std`.
pub const RUST_SRC: Requirement = Requirement {
    purpose: "core and alloc for the Windows target",
    package: "rust-web-src",
    probe: "/usr/lib/rustlib/src/rust/library/core/src/lib.rs",
};
/// The linker of the same LLVM as Debian's compiler.
pub const LLD: Requirement =
    Requirement { purpose: "the linker", package: "lld-22", probe: "/usr/lib/llvm-22/bin/lld-link" };
/// What checks formatting, for Debian's cargo.
pub const RUSTFMT: Requirement =
    Requirement { purpose: "the check of formatting", package: "rustfmt-web", probe: "/usr/bin/cargo-fmt" };
/// What lints, for Debian's compiler.
pub const CLIPPY: Requirement =
    Requirement { purpose: "the lints", package: "rust-web-clippy", probe: "/usr/bin/clippy-driver" };
/// What knows which files belong to the tree.
pub const GIT: Requirement = Requirement { purpose: "copies of the tree", package: "git", probe: "/usr/bin/git" };
/// The headers of the kernel interface.
pub const MINGW: Requirement = Requirement {
    purpose: "the kernel headers",
    package: "mingw-w64-x86-64-dev",
    probe: "/usr/x86_64-w64-mingw32/include/ddk/wdm.h",
};
/// What bindgen reads headers with.
pub const LIBCLANG: Requirement = Requirement {
    purpose: "reading the kernel headers",
    package: "libclang1-14",
    probe: "/usr/lib/llvm-14/lib/libclang-14.so.1",
};
/// The compiler's own headers that go with [`LIBCLANG`].
pub const CLANG_HEADERS: Requirement = Requirement {
    purpose: "reading the kernel headers",
    package: "libclang-common-14-dev",
    probe: "/usr/lib/llvm-14/lib/clang/14.0.6/include/stddef.h",
};

/// What links programs of user mode.
pub const MINGW_GCC: Requirement = Requirement {
    purpose: "linking programs for Windows",
    package: "gcc-mingw-w64-x86-64-win32",
    probe: "/usr/bin/x86_64-w64-mingw32-gcc",
};

/// The C compiler of the foreign drivers that the tests build.
pub const CLANG: Requirement =
    Requirement { purpose: "the foreign drivers of the tests", package: "clang-14", probe: "/usr/bin/clang-14" };
/// Xen's public headers, which the tests compare layouts with.
pub const XEN_HEADERS: Requirement = Requirement {
    purpose: "Xen's own headers, which layouts are compared with",
    package: "libxen-dev",
    probe: "/usr/include/xen/xen.h",
};

/// The xenstored that the service's tests talk to.
pub const XENSTORED: Requirement =
    Requirement { purpose: "a real xenstored", package: "xen-utils-4.17", probe: "/usr/lib/xen-4.17/bin/xenstored" };

/// What makes test certificates.
pub const OPENSSL: Requirement =
    Requirement { purpose: "test certificates", package: "openssl", probe: "/usr/bin/openssl" };
/// What signs.
pub const OSSLSIGNCODE: Requirement =
    Requirement { purpose: "signatures", package: "osslsigncode", probe: "/usr/bin/osslsigncode" };
/// What makes the installer.
pub const MAKENSIS: Requirement = Requirement { purpose: "the installer", package: "nsis", probe: "/usr/bin/makensis" };
/// What makes the folder that signify lives in.
pub const VENV: Requirement = Requirement {
    purpose: "signify, another judge of signatures",
    package: "python3-venv",
    probe: "/usr/share/doc/python3-venv/copyright",
};
/// What runs programs for Windows in the tests.
pub const WINE: Requirement =
    Requirement { purpose: "tests under Wine", package: "wine", probe: "/usr/bin/wine-stable" };
/// Its 64-bit half.
pub const WINE64: Requirement =
    Requirement { purpose: "tests under Wine", package: "wine64", probe: "/usr/lib/wine/wine64" };
/// What reads a report that was made under Wine.
pub const UNZIP: Requirement = Requirement { purpose: "tests under Wine", package: "unzip", probe: "/usr/bin/unzip" };
/// What carries a TCP connection from Wine to xenstored's socket.
pub const SOCAT: Requirement = Requirement { purpose: "tests under Wine", package: "socat", probe: "/usr/bin/socat" };
/// What makes ISO images.
pub const XORRISO: Requirement =
    Requirement { purpose: "the ISO image", package: "xorriso", probe: "/usr/bin/xorriso" };

/// What makes the demo's network.
pub const IPROUTE: Requirement = Requirement { purpose: "the demo's network", package: "iproute2", probe: "/sbin/ip" };
/// What pings the guest from Linux.
pub const PING: Requirement = Requirement { purpose: "pings from Linux", package: "iputils-ping", probe: "/bin/ping" };
/// What measures TCP between Linux and the guest.
pub const IPERF3: Requirement = Requirement { purpose: "TCP from Linux", package: "iperf3", probe: "/usr/bin/iperf3" };

/// The machine that the lab runs in.
pub const QEMU: Requirement =
    Requirement { purpose: "the lab's machine", package: "qemu-system-x86", probe: "/usr/bin/qemu-system-x86_64" };
/// What makes the lab's dom0.
pub const DEBOOTSTRAP: Requirement =
    Requirement { purpose: "the lab's dom0", package: "debootstrap", probe: "/usr/sbin/debootstrap" };
/// What makes its file system.
pub const E2FSPROGS: Requirement =
    Requirement { purpose: "the lab's dom0", package: "e2fsprogs", probe: "/sbin/mke2fs" };
/// What packs its initial RAM disk.
pub const CPIO: Requirement = Requirement { purpose: "the lab's dom0", package: "cpio", probe: "/usr/bin/cpio" };
/// What unpacks its kernel.
pub const XZ: Requirement = Requirement { purpose: "the lab's dom0", package: "xz-utils", probe: "/usr/bin/xz" };
/// What takes the symbols out of the lab's guest kernel.
pub const BINUTILS: Requirement =
    Requirement { purpose: "the lab's guest kernel", package: "binutils", probe: "/usr/bin/strip" };

impl Requirement {
    /// Where the thing is once it is installed.
    pub fn path(&self) -> &'static Path {
        Path::new(self.probe)
    }

    /// The folder that [`Self::path`] is in.
    pub fn folder(&self) -> PathBuf {
        self.path().parent().map_or_else(|| PathBuf::from("/"), Path::to_owned)
    }
}

/// A tool is absent and this process may not install it. `xtask` ends with exit code 2 for it.
#[derive(Debug)]
pub struct Missing(String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Makes sure that everything in `needed` is there: installs it when run by root on Debian.
///
/// # Errors
/// [`Missing`] with the command to type where this is not root; else where the package manager fails.
pub fn ensure(needed: &[&Requirement]) -> anyhow::Result<()> {
    let absent: Vec<&&Requirement> = needed.iter().filter(|one| !one.path().exists()).collect();
    if absent.is_empty() {
        return Ok(());
    }
    for one in &absent {
        println!("{} is missing ({})", one.package, one.purpose);
    }
    let mut names: Vec<&str> = absent.iter().map(|one| one.package).collect();
    names.dedup();
    let install = ["install", "--yes", "--quiet", "--no-install-recommends"];
    let line = format!("apt-get install --no-install-recommends {}", names.join(" "));
    if !is_root() {
        return Err(Missing(format!("tools are missing; as root: {line}")).into());
    }
    println!("+ {line}");
    let run = |arguments: &[&str]| -> anyhow::Result<bool> {
        let status = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(std::process::Stdio::null())
            .status()
            .context("cannot start apt-get")?;
        Ok(status.success())
    };
    let with_names: Vec<&str> = install.iter().chain(&names).copied().collect();
    // The package lists of a fresh image are empty: one update, then again.
    let installed = run(&with_names)? || (run(&["update", "--quiet"])? && run(&with_names)?);
    if !installed {
        bail!("apt-get could not install {}", names.join(" "));
    }
    match absent.iter().find(|one| !one.path().exists()) {
        None => Ok(()),
        Some(one) => bail!("{} is installed but {} is not there", one.package, one.probe),
    }
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
