//! The drivers of `tests/foreign`: written in C, compiled by clang against mingw-w64's headers, so that the NT
//! personality runs drivers that share no language, compiler or declarations with ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::kit;
use crate::packages::MINGW;
use crate::toolchain::Toolchain;
use crate::workspace::{self, write_if_changed};

/// A driver of `tests/foreign`, by the name of its source file.
struct Foreign {
    name: &'static str,
    /// Import libraries of other foreign drivers.
    needs: &'static [&'static str],
    /// Exports that other images do not link to, besides those that the source declares.
    private: &'static [&'static str],
}

/// In the order in which they are built: a library before its users.
const DRIVERS: &[Foreign] = &[
    Foreign { name: "fkit", needs: &[], private: &["DllInitialize", "DllUnload"] },
    Foreign { name: "fnull", needs: &["fkit"], private: &[] },
    Foreign { name: "fkern", needs: &[], private: &[] },
    Foreign { name: "ffile", needs: &[], private: &[] },
    Foreign { name: "fseh", needs: &[], private: &[] },
    Foreign { name: "fbus", needs: &[], private: &[] },
    Foreign { name: "ffunc", needs: &[], private: &[] },
    Foreign { name: "framdisk", needs: &[], private: &[] },
    Foreign { name: "ffilter", needs: &[], private: &[] },
    Foreign { name: "fpci", needs: &[], private: &[] },
    Foreign { name: "fpaged", needs: &[], private: &[] },
    Foreign { name: "fndis", needs: &[], private: &[] },
    Foreign { name: "fhba", needs: &[], private: &[] },
    Foreign { name: "fmsix", needs: &[], private: &[] },
    Foreign { name: "fvirt", needs: &[], private: &[] },
    Foreign { name: "fwmi", needs: &[], private: &[] },
];

/// Exports that the kit's libraries lack, as our drivers use none of them: the module, the name of a library, the names.
const MORE: &[(&str, &str, &[&str])] = &[
    (
        "ndis.sys",
        "more_ndis",
        &[
            "NdisAcquireRWLockRead",
            "NdisAcquireRWLockWrite",
            "NdisAllocateRWLock",
            "NdisFreeRWLock",
            "NdisReleaseRWLock",
        ],
    ),
    ("wmilib.sys", "more_wmilib", &["WmiCompleteRequest", "WmiFireEvent", "WmiSystemControl"]),
    (
        "storport.sys",
        "more_storport",
        &[
            "StorPortReadPortBufferUchar",
            "StorPortReadPortBufferUlong",
            "StorPortReadPortBufferUshort",
            "StorPortReadRegisterBufferUchar",
            "StorPortReadRegisterBufferUlong",
            "StorPortReadRegisterBufferUshort",
            "StorPortWritePortBufferUchar",
            "StorPortWritePortBufferUlong",
            "StorPortWritePortBufferUshort",
            "StorPortWriteRegisterBufferUchar",
            "StorPortWriteRegisterBufferUlong",
            "StorPortWriteRegisterBufferUshort",
        ],
    ),
];

const CLANG: &[&str] = &["/usr/bin/clang-14", "/usr/bin/clang"];

const COMPILE: &[&str] = &[
    "--target=x86_64-pc-windows-msvc",
    // The symbols name the sources so, and nothing of this machine.
    "-fdebug-compilation-dir=tests/foreign",
    // mingw-w64's headers speak to GNU compilers.
    "-fgnuc-version=4.2.1",
    "-ffreestanding",
    // Which -ffreestanding turns off, and without which no exception gets through a function.
    "-funwind-tables",
    "-fno-builtin",
    "-fms-extensions",
    "-nostdlibinc",
    "-mno-mmx",
    "-O1",
    "-g",
    "-gcodeview",
    "-Wall",
    "-Wextra",
    "-Wno-sign-compare",
    "-Wno-unused-function",
    "-Werror",
    "-D_AMD64_",
    "-D_WIN64",
];

/// Where they are built.
pub fn folder() -> PathBuf {
    workspace::root().join("target/foreign/x64")
}

/// Builds every foreign driver into a package folder of its own below `out`.
///
/// # Errors
/// Where clang or the headers are absent, or a driver does not compile or link.
pub fn build_all(out: &Path) -> anyhow::Result<()> {
    let Some(clang) = CLANG.iter().map(Path::new).find(|path| path.exists()) else {
        bail!("there is no clang (Debian: clang-14)");
    };
    if !MINGW.path().exists() {
        bail!("the kernel headers are missing (Debian: {})", MINGW.package);
    }
    let root = workspace::root();
    let kernel = root.join("target/kernel");
    let toolchain = Toolchain::choose(&kernel).context("toolchain")?;
    let kit = kit::make(&kernel.join("kit"), &toolchain.linker).context("kit")?;
    let source = root.join("tests/foreign");
    let objects = kernel.join("foreign");
    std::fs::create_dir_all(&objects).with_context(|| format!("cannot make {}", objects.display()))?;
    for (module, library, names) in MORE {
        let definition = format!("LIBRARY {module}\nEXPORTS\n{}\n", names.join("\n"));
        kit::make_import_library(&objects, library, &definition, &toolchain.linker)?;
    }
    for driver in DRIVERS {
        let object = objects.join(format!("{}.obj", driver.name));
        let mut compile = Command::new(clang);
        compile.args(COMPILE).arg("-I").arg(&source);
        for folder in &kit.include {
            compile.arg("-isystem").arg(folder);
        }
        compile.current_dir(&source).arg("-c").arg(format!("{}.c", driver.name)).arg("-o").arg(&object);
        run(&mut compile).with_context(|| format!("compile {}.c", driver.name))?;
        let image = objects.join(format!("{}.sys", driver.name));
        run(link(&toolchain.linker, driver, &objects, &kit.lib, &image))
            .with_context(|| format!("link {}.sys", driver.name))?;
    }
    for driver in DRIVERS {
        let inf = format!("{}.inf", driver.name);
        // A library has no INF: it is a file of the package that needs it.
        let Ok(text) = std::fs::read(source.join(&inf)) else { continue };
        let package = out.join(driver.name);
        write_if_changed(&package.join(&inf), &text)?;
        for name in driver.needs.iter().chain([&driver.name]) {
            for file in [format!("{name}.sys"), format!("{name}.pdb")] {
                let content = std::fs::read(objects.join(&file)).with_context(|| format!("cannot read {file}"))?;
                write_if_changed(&package.join(&file), &content)?;
            }
        }
    }
    println!("foreign drivers: {} built", DRIVERS.len());
    Ok(())
}

/// The linker's command line for one driver.
fn link(linker: &Path, driver: &Foreign, objects: &Path, kit: &Path, image: &Path) -> Command {
    let mut command = Command::new(linker);
    command
        .args(["/driver", "/subsystem:native", "/entry:DriverEntry", "/nodefaultlib", "/release", "/brepro", "/debug"])
        .args(["/nologo", "/pdbaltpath:%_PDB%"])
        .arg(format!("/out:{}", image.display()))
        .arg(objects.join(format!("{}.obj", driver.name)))
        .args(["ntoskrnl", "hal", "storport", "ndis"].map(|name| kit.join(format!("{name}.lib"))))
        .args(MORE.iter().map(|(_, library, _)| objects.join(format!("{library}.lib"))))
        .args(driver.needs.iter().map(|name| objects.join(format!("{name}.lib"))))
        .args(driver.private.iter().map(|name| format!("/export:{name},PRIVATE")));
    command
}

fn run(command: impl std::borrow::BorrowMut<Command>) -> anyhow::Result<()> {
    let mut command = command;
    let output = command.borrow_mut().output().context("cannot start the tool")?;
    if !output.status.success() {
        bail!("{}\n{}", String::from_utf8_lossy(&output.stdout).trim(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
