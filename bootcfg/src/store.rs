//! The boot entries that matter here.

use std::fmt;

use crate::error::{Error, Result};
use crate::options::{self, Mode};
use crate::output::Object;

/// Names that `bcdedit` knows beside GUIDs, where it prints them without `/v`.
/// <https://learn.microsoft.com/windows-hardware/drivers/devtest/boot-options-identifiers>
const NAMES: [&str; 3] = ["{bootmgr}", "{current}", "{default}"];
/// `{bootmgr}`, as `/v` prints it: `GUID_WINDOWS_BOOTMGR` of
/// <https://learn.microsoft.com/previous-versions/windows/desktop/bcd/bcdobject>.
const BOOT_MANAGER: &str = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}";

/// An identifier: a GUID in braces, or one of the names of the common ones. In lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id(String);

impl Id {
    /// The running Windows' entry.
    pub fn current() -> Self {
        Self("{current}".into())
    }

    /// The boot manager.
    pub fn boot_manager() -> Self {
        Self("{bootmgr}".into())
    }

    /// From its text form.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        if NAMES.contains(&text.as_str()) {
            return Some(Self(text));
        }
        let parts: Vec<&str> = text.strip_prefix('{')?.strip_suffix('}')?.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        let hex = parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
        (lengths == [8, 4, 4, 4, 12] && hex).then_some(Self(text))
    }

    /// As `bcdedit` takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An entry that starts a Windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its identifier.
    pub id: Id,
    /// What the boot menu shows.
    pub description: String,
    /// Its load options; `None`: it has none.
    pub load_options: Option<String>,
    /// Where its Windows is: `osdevice` and `systemroot`.
    system: (String, String),
}

impl Entry {
    fn from_object(object: &Object) -> Option<Self> {
        // Entries of WinPE and recovery start from a RAM disk and have no business here.
        let system = (object.value("osdevice")?.to_owned(), object.value("systemroot")?.to_owned());
        if object.value("winpe").is_some() {
            return None;
        }
        Some(Self {
            id: object.id.clone(),
            description: object.value("description").unwrap_or_default().to_owned(),
            load_options: object.value("loadoptions").map(str::to_owned),
            system,
        })
    }

    /// What its options ask for.
    pub fn mode(&self) -> Mode {
        options::mode(self.load_options.as_deref().unwrap_or_default())
    }

    /// Whether the two start the same Windows.
    pub fn same_system(&self, other: &Self) -> bool {
        self.system.0.eq_ignore_ascii_case(&other.system.0) && self.system.1.eq_ignore_ascii_case(&other.system.1)
    }
}

/// The store, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    /// The default entry's identifier.
    pub default: Option<Id>,
    /// What the boot menu shows, in its order.
    pub display_order: Vec<Id>,
    /// What the boot manager starts next, once.
    pub boot_sequence: Vec<Id>,
    /// There is a `persistbootsequence`: the boot manager may not take the sequence out. Its value is not looked at:
    /// yes and no are translated.
    /// <https://learn.microsoft.com/previous-versions/windows/desktop/bcd/bcdbootmgrelementtypes>
    pub persistent_sequence: bool,
    /// The entries that start a Windows.
    pub entries: Vec<Entry>,
}

impl Store {
    /// From the objects of `bcdedit /enum all /v`.
    ///
    /// # Errors
    /// [`Error::NoManager`].
    pub fn new(objects: &[Object]) -> Result<Self> {
        let is_manager = |object: &&Object| [BOOT_MANAGER, "{bootmgr}"].contains(&object.id.as_str());
        let manager = objects.iter().find(is_manager).ok_or(Error::NoManager)?;
        let ids = |name| manager.values(name).iter().filter_map(|value| Id::parse(value)).collect();
        Ok(Self {
            default: manager.value("default").and_then(Id::parse),
            display_order: ids("displayorder"),
            boot_sequence: ids("bootsequence"),
            persistent_sequence: manager.value("persistbootsequence").is_some(),
            entries: objects.iter().filter_map(Entry::from_object).collect(),
        })
    }

    /// The entry of that identifier.
    pub fn entry(&self, id: &Id) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == *id)
    }

    /// The default entry.
    ///
    /// # Errors
    /// [`Error::NoDefault`]; [`Error::OtherDefault`]: it starts no Windows.
    pub fn default_entry(&self) -> Result<&Entry> {
        let id = self.default.as_ref().ok_or(Error::NoDefault)?;
        // A dual boot's default may be no Windows at all; a name of nothing is none.
        self.entry(id).ok_or_else(|| {
            if self.display_order.contains(id) { Error::OtherDefault(id.clone()) } else { Error::NoDefault }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_a_guid_or_a_name() {
        assert_eq!(Id::parse("{BootMgr}"), Some(Id::boot_manager()));
        assert!(Id::parse("{9DEA862C-5CDD-4E70-ACC1-F32B344D4795}").is_some_and(|id| id.as_str() == BOOT_MANAGER));
        for wrong in ["", "{}", "{x}", "9dea862c-5cdd-4e70-acc1-f32b344d4795", "{9dea862c-5cdd-4e70-acc1-f32b344d479}"]
        {
            assert_eq!(Id::parse(wrong), None, "{wrong}");
        }
    }
}
