//! The driver kit of a host that has none: mingw-w64's kernel headers with our supplements in front of them, and import
//! libraries made from the committed list of exports.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::exports::{self, Export};
use crate::packages::MINGW;
use crate::workspace::write_if_changed;

/// Our supplements. Each stands before mingw-w64's header of the same name in the search order.
const SUPPLEMENTS: &[(&str, &str)] =
    &[("ntifs.h", include_str!("../kit/include/ntifs.h")), ("x86intrin.h", include_str!("../kit/include/x86intrin.h"))];

/// Where mingw-w64's wdm.h differs from Windows 10 on x64: its text, which must stand there once, and the right one.
const WDM_H: &[(&str, &str)] = &[
    // Aligned to 16, which also rounds its size up to 0x150.
    ("typedef struct _DEVICE_OBJECT {", "typedef struct DECLSPEC_ALIGN(16) _DEVICE_OBJECT {"),
    ("typedef struct _IRP {", "typedef struct DECLSPEC_ALIGN(16) _IRP {"),
    // Version 3, of Windows 8.
    (
        "  ULONG DmaPort;\n} DEVICE_DESCRIPTION,",
        "  ULONG DmaPort;\n  ULONG DmaAddressWidth;\n  ULONG DmaControllerInstance;\n  ULONG DmaRequestLine;\n  \
         PHYSICAL_ADDRESS DeviceAddress;\n} DEVICE_DESCRIPTION,",
    ),
    // A flexible array, which bindgen shows as such.
    ("  SCATTER_GATHER_ELEMENT Elements[1];", "  SCATTER_GATHER_ELEMENT Elements[];"),
];

/// Libraries that wdk-sys asks for and of which Rust code uses nothing.
const EMPTY_LIBRARIES: &[&str] = &["BufferOverflowFastFailK", "wmilib"];

/// A kit on disk.
pub struct Kit {
    /// Folders that headers are searched in, in this order.
    pub include: Vec<PathBuf>,
    /// The folder of the import libraries.
    pub lib: PathBuf,
}

/// Makes the kit in `folder`, or brings it up to date; what is right already is not touched. `linker` is an LLVM
/// `lld-link`, which makes import libraries too.
///
/// # Errors
/// Where mingw-w64's wdm.h is not as expected, or the linker fails.
pub fn make(folder: &Path, linker: &Path) -> anyhow::Result<Kit> {
    let include = folder.join("include");
    for (name, text) in SUPPLEMENTS {
        write_if_changed(&include.join(name), text.as_bytes())?;
    }
    let wdm = std::fs::read_to_string(MINGW.path()).with_context(|| format!("cannot read {}", MINGW.probe))?;
    write_if_changed(&include.join("wdm.h"), repair_wdm(&wdm)?.as_bytes())?;

    let lib = folder.join("lib");
    for (module, names) in exports::windows_10_2004()? {
        let stem = Path::new(module).file_stem().and_then(|stem| stem.to_str()).unwrap_or(module);
        make_import_library(&lib, stem, &definition(module, &names), linker)?;
    }
    for name in EMPTY_LIBRARIES {
        write_if_changed(&lib.join(format!("{name}.lib")), b"!<arch>\n")?;
    }
    let ddk = MINGW.folder();
    let mingw = ddk.parent().context("the kernel headers have no parent folder")?.to_owned();
    Ok(Kit { include: vec![include, ddk, mingw], lib })
}

/// mingw-w64's wdm.h with [`WDM_H`] applied.
fn repair_wdm(text: &str) -> anyhow::Result<String> {
    let mut text = text.replace("\r\n", "\n");
    for (find, replace) in WDM_H {
        match text.matches(find).count() {
            1 => text = text.replacen(find, replace, 1),
            count => bail!("{}: `{find}` stands there {count} times, expected once", MINGW.probe),
        }
    }
    Ok(text)
}

/// The module definition that an import library is made from.
fn definition<'a>(module: &str, names: impl IntoIterator<Item = &'a Export>) -> String {
    let mut text = format!("LIBRARY {module}\nEXPORTS\n");
    for export in names {
        // CONSTANT, unlike DATA, defines the plain name besides `__imp_`, which is what a Rust `static` refers to.
        let kind = if export.data { " CONSTANT" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}{kind}", export.name);
    }
    text
}

/// Makes an import library from a module definition, where it is not there and from the same one.
pub fn make_import_library(folder: &Path, stem: &str, definition: &str, linker: &Path) -> anyhow::Result<()> {
    let def = folder.join(format!("{stem}.def"));
    let lib = folder.join(format!("{stem}.lib"));
    if lib.exists() && std::fs::read(&def).is_ok_and(|old| old == definition.as_bytes()) {
        return Ok(());
    }
    write_if_changed(&def, definition.as_bytes())?;
    // In the folder and by plain names, so that no path of this machine gets into the library.
    let output = Command::new(linker)
        .args(["/lib", "/machine:x64"])
        .arg(format!("/def:{stem}.def"))
        .arg(format!("/out:{stem}.lib"))
        .current_dir(folder)
        .output()
        .with_context(|| format!("cannot start {}", linker.display()))?;
    if !output.status.success() {
        bail!("{stem}.lib: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wdm_h_that_is_not_as_expected_is_refused() {
        let error = repair_wdm("typedef struct _DEVICE_OBJECT {\n").unwrap_err().to_string();
        assert!(error.contains("_IRP") && error.contains("0 times"), "{error}");
    }

    #[test]
    fn variables_are_marked_in_the_definition() {
        let names = [Export { name: "KeBugCheckEx", data: false }, Export { name: "PsThreadType", data: true }];
        assert_eq!(
            definition("ntoskrnl.exe", &names),
            "LIBRARY ntoskrnl.exe\nEXPORTS\nKeBugCheckEx\nPsThreadType CONSTANT\n"
        );
    }
}
