//! The committed list of what Windows exports to drivers, `xtask/data/windows-10-2004-exports.txt`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};

/// The list as text.
const LIST: &str = include_str!("../data/windows-10-2004-exports.txt");

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
        let data = match words.next() {
            None => false,
            Some("data") => true,
            Some(other) => bail!("{}: `{other}` is not understood", place()),
        };
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
