//! Makes a Windows boot again from its emulated devices, by its SYSTEM hive alone: nothing is unplugged any more, the
//! drivers of the emulated disks are loaded at boot, and the suite's own boot drivers are not.

use std::fmt;
use std::io::{self, Error, ErrorKind};
use std::path::{Path, PathBuf};

use crate::registry::Registry;

/// The drivers of the disk controllers that QEMU emulates. Windows puts them off (`StartOverride`) after a boot that did not
/// need them.
pub const EMULATED: [&str; 5] = ["storahci", "pciide", "intelide", "atapi", "stornvme"];
/// The suite's drivers that the boot loader loads, the first that acts first.
pub const BOOT_DRIVERS: [&str; 3] = ["xenhide", "xenvbd", "xenpci"];
/// `SERVICE_BOOT_START`.
const BOOT_START: u32 = 0;
/// `SERVICE_DISABLED`.
const DISABLED: u32 = 4;

/// A number that has to be another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, below the hive's root.
    pub key: String,
    /// The value's name.
    pub name: &'static str,
    /// What it is.
    pub before: u32,
    /// What it has to be.
    pub after: u32,
    /// What that does.
    pub why: &'static str,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\\{}: {} -> {} ({})", self.key, self.name, self.before, self.after, self.why)
    }
}

/// The control sets that Windows may boot with.
fn control_sets(hive: &dyn Registry) -> io::Result<Vec<String>> {
    let mut sets = Vec::new();
    for name in ["Default", "Current", "LastKnownGood"] {
        let Some(number) = hive.value("Select", name)?.and_then(|value| value.as_number()) else { continue };
        let set = format!("ControlSet{number:03}");
        if !sets.contains(&set) && hive.has_key(&set)? {
            sets.push(set);
        }
    }
    if sets.is_empty() {
        return Err(Error::new(ErrorKind::InvalidData, "this is no SYSTEM hive: it has no control set"));
    }
    Ok(sets)
}

/// What has to change. Nothing that is not there is made: a number that is missing means what it should already.
///
/// # Errors
/// The hive is damaged, or is no SYSTEM hive.
pub fn plan(hive: &dyn Registry, keep_drivers: bool) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    for set in control_sets(hive)? {
        let mut want = |key: String, name: &'static str, after: u32, why: &'static str| -> io::Result<()> {
            if let Some(before) = hive.value(&key, name)?.and_then(|value| value.as_number())
                && before != after
            {
                changes.push(Change { key, name, before, after, why });
            }
            Ok(())
        };
        for name in ["Disks", "Nics"] {
            want(format!("{set}\\Services\\xenhide\\Parameters"), name, 0, "nothing is unplugged")?;
        }
        for driver in EMULATED {
            want(format!("{set}\\Services\\{driver}\\StartOverride"), "0", BOOT_START, "loaded at boot")?;
        }
        for driver in BOOT_DRIVERS.into_iter().filter(|_| !keep_drivers) {
            want(format!("{set}\\Services\\{driver}"), "Start", DISABLED, "not loaded")?;
        }
    }
    Ok(changes)
}

/// The SYSTEM hive that is meant: the file itself, or that of a Windows folder or of the drive that has one.
///
/// # Errors
/// There is none.
pub fn find(place: &Path) -> io::Result<PathBuf> {
    if place.is_file() {
        return Ok(place.to_owned());
    }
    // Linux tells upper case from lower case on most mounts.
    let below = |names: &[&str]| -> Option<PathBuf> {
        names.iter().try_fold(place.to_owned(), |folder, name| {
            let entries = std::fs::read_dir(&folder).ok()?;
            let mut names = entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name()));
            names.find(|found| found.eq_ignore_ascii_case(name)).map(|found| folder.join(found))
        })
    };
    below(&["System32", "config", "SYSTEM"])
        .or_else(|| below(&["Windows", "System32", "config", "SYSTEM"]))
        .filter(|file| file.is_file())
        .ok_or_else(|| {
            let text = format!("there is no Windows\\System32\\config\\SYSTEM in {}", place.display());
            Error::new(ErrorKind::NotFound, text)
        })
}

/// Copies the hive and its logs beside themselves, under names that are free. The hive's copy.
///
/// # Errors
/// A file cannot be copied: nothing may be changed then.
pub fn back_up(hive: &Path) -> io::Result<PathBuf> {
    let with = |end: &str| {
        let mut name = hive.file_name().unwrap_or_default().to_owned();
        name.push(end);
        hive.with_file_name(name)
    };
    let free = (1..1000).find(|number| !with(&format!(".xentool-{number}")).exists());
    let number = free.ok_or_else(|| Error::other("there are a thousand copies already"))?;
    for log in [".LOG1", ".LOG2", ".LOG"] {
        if with(log).is_file() {
            copy(&with(log), &with(&format!("{log}.xentool-{number}")))?;
        }
    }
    // Last: where this one is, the copy is whole.
    let to = with(&format!(".xentool-{number}"));
    copy(hive, &to)?;
    Ok(to)
}

/// Copies a file, and has it on the disk when it returns: all of it under that name, or nothing.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let named = |error: Error, file: &Path| Error::new(error.kind(), format!("{}: {error}", file.display()));
    let content = std::fs::read(from).map_err(|error| named(error, from))?;
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let write = || {
        let mut file = std::fs::File::create(&unfinished)?;
        io::Write::write_all(&mut file, &content)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, to)
    };
    write().map_err(|error| {
        // A disk that is full needs the space.
        let _ = std::fs::remove_file(&unfinished);
        named(error, to)
    })
}
