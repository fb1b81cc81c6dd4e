//! The committed list of what Windows exports to drivers, `xtask/data/windows-10-2004-exports.txt`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};

/// The list as text.
const LIST: &str = include_str!("../data/windows-10-2004-exports.txt");

/// Versions of Windows from which on a name may be there, as the list writes them.
const VERSIONS: &[&str] = &["7", "8", "8.1", "10", "10-1703", "10-1709", "10-1803", "10-1809", "10-1903", "10-2004"];

/// One exported name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Export {
    /// The name.
    pub name: &'static str,
    /// Whether it is a variable.
    pub data: bool,
}

/// Exported names by module (`ntoskrnl.exe`, ...).
pub type Exports = BTreeMap<&'static str, BTreeSet<Export>>;

/// The committed list.
///
/// # Errors
/// Where a line of it is malformed or a name stands in it twice.
pub fn windows_10_2004() -> anyhow::Result<Exports> {
    let mut exports = Exports::new();
    let mut seen = BTreeSet::new();
    for (number, line) in LIST.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = || format!("windows-10-2004-exports.txt:{}", number + 1);
        let mut words = line.split(' ');
        let module = words.next().unwrap_or_default();
        let name = words.next().with_context(place)?;
        let mut next = words.next();
        let data = next == Some("data");
        if data {
            next = words.next();
        }
        match (next, words.next(), words.next(), words.next()) {
            (None, ..) => {}
            (Some("since"), Some(version), Some(source), None) => {
                if !VERSIONS.contains(&version) {
                    bail!("{}: `{version}` is no version up to Windows 10 2004", place());
                }
                if !source.starts_with("ddi/") && !source.starts_with("samples/") {
                    bail!("{}: `{source}` is no page", place());
                }
            }
            (Some(other), ..) => bail!("{}: `{other}` is not understood", place()),
        }
        if !seen.insert(name) {
            bail!("{}: {name} stands there twice", place());
        }
        exports.entry(module).or_default().insert(Export { name, data });
    }
    Ok(exports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::MINGW;
    use object::read::archive::ArchiveFile;

    /// mingw-w64's import libraries of the kernel's modules. In older systems hal.dll had what ntoskrnl.exe has now.
    const LIBRARIES: &[(&str, &[&str])] = &[
        ("ntoskrnl.exe", &["libntoskrnl.a", "libhal.a"]),
        ("hal.dll", &["libhal.a", "libntoskrnl.a"]),
        ("ndis.sys", &["libndis.a"]),
    ];

    /// Whether a line of the list says where a name's version is written.
    fn has_source(name: &str) -> bool {
        LIST.lines().any(|line| {
            let mut words = line.split(' ').skip(1);
            words.next() == Some(name) && words.any(|word| word == "since")
        })
    }

    /// The names that an import library resolves.
    fn names_of(library: &[u8]) -> anyhow::Result<BTreeSet<String>> {
        let archive = ArchiveFile::parse(library)?;
        let symbols = archive.symbols()?.context("the library has no index")?;
        let mut names = BTreeSet::new();
        for symbol in symbols {
            let name = String::from_utf8_lossy(symbol?.name()).into_owned();
            names.insert(name.strip_prefix("__imp_").unwrap_or(&name).to_owned());
        }
        Ok(names)
    }

    /// The functions that a header declares, or mentions: words that start as storport's functions do.
    fn storport_names(header: &str) -> BTreeSet<String> {
        let words = header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("StorPort")).map(str::to_owned).collect()
    }

    /// What mingw-w64 knows of each module. It has no import library of storport.sys, but a header from 2003.
    fn known() -> anyhow::Result<BTreeMap<&'static str, BTreeSet<String>>> {
        let headers = MINGW.path().parent().context("the header has a folder")?.to_owned();
        let lib = headers.join("../../lib");
        let mut known = BTreeMap::new();
        for (module, libraries) in LIBRARIES {
            let names: &mut BTreeSet<String> = known.entry(*module).or_default();
            for library in *libraries {
                let path = lib.join(library);
                let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
                names.extend(names_of(&bytes).with_context(|| path.display().to_string())?);
            }
        }
        let header = std::fs::read(headers.join("storport.h")).context("storport.h")?;
        known.insert("storport.sys", storport_names(&String::from_utf8_lossy(&header)));
        Ok(known)
    }

    #[test]
    fn every_name_is_known_to_mingw_or_says_where_its_version_is_written() {
        if !MINGW.path().exists() {
            println!("skipped 1: the list of exports was not compared, {} is not installed", MINGW.package);
            return;
        }
        let known = known().unwrap();
        let (mut shared, mut cited) = (0, 0);
        let mut bad = Vec::new();
        for (module, names) in windows_10_2004().unwrap() {
            for export in names {
                match (known[module].contains(export.name), has_source(export.name)) {
                    (true, false) => shared += 1,
                    (false, true) => cited += 1,
                    (false, false) => bad.push(format!("{module} {}: nobody says that 2004 has it", export.name)),
                    (true, true) => bad.push(format!("{module} {}: `since` is not needed", export.name)),
                }
            }
        }
        println!("exports: {shared} known to mingw-w64, {cited} by their own pages");
        assert!(bad.is_empty(), "{bad:#?}");
        assert!(shared > 1500 && cited > 50, "{shared} and {cited}");
    }

    #[test]
    fn the_list_is_well_formed_and_knows_what_every_driver_calls() {
        let exports = windows_10_2004().unwrap();
        let has = |module, name| exports[module].iter().any(|one| one.name == name);
        assert!(has("ntoskrnl.exe", "ExAllocatePool2"));
        assert!(has("hal.dll", "KeStallExecutionProcessor"));
        assert!(has("storport.sys", "StorPortInitialize"));
        assert!(has("ndis.sys", "NdisMRegisterMiniportDriver"));
        assert!(exports["ntoskrnl.exe"].contains(&Export { name: "KeNumberProcessors", data: true }));
        assert!(!has("ntoskrnl.exe", "ExAllocatePool3"));
    }
}
