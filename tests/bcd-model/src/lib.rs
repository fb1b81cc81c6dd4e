//! Windows' boot configuration for the bench: the store, the boot manager that reads it, and `bcdedit` that prints and
//! changes it. What they do is taken from Microsoft's pages alone; nothing is shared with `bootcfg`, which is tried
//! on it.
//!
//! - The boot manager starts the first entry of `bootsequence`, if there is one, and takes the sequence out before it
//!   does; else the default entry. With `persistbootsequence` it leaves it in.
//!   <https://learn.microsoft.com/windows-hardware/drivers/devtest/bcdedit--bootsequence>,
//!   <https://learn.microsoft.com/previous-versions/windows/desktop/bcd/bcdbootmgrelementtypes>
//! - `bcdedit`: [`bcdedit`].
//!   <https://learn.microsoft.com/windows-server/administration/windows-commands/bcdedit>

pub mod bcdedit;

pub use bcdedit::{Language, Output};

use serde::{Deserialize, Serialize};

/// The boot manager's identifier.
pub const BOOT_MANAGER: &str = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}";
/// The identifier of the entry that Windows' setup made.
pub const FIRST: &str = "{b33f0001-1d2c-11ee-9c43-9f5d2c8a0001}";

/// An object of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// A GUID in braces, in lower case.
    pub id: String,
    /// The boot manager, a loader, or something else: which heading it has.
    pub kind: Kind,
    /// Its elements: name and values.
    pub elements: Vec<(String, Vec<String>)>,
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The boot manager.
    Manager,
    /// A loader of Windows.
    Loader,
    /// Settings that others inherit.
    Settings,
}

impl Object {
    fn values(&self, name: &str) -> &[String] {
        self.elements.iter().find(|(element, _)| element == name).map_or(&[], |(_, values)| values)
    }

    fn set(&mut self, name: &str, values: Vec<String>) {
        self.elements.retain(|(element, _)| element != name || !values.is_empty());
        match self.elements.iter_mut().find(|(element, _)| element == name) {
            Some((_, old)) => *old = values,
            None if values.is_empty() => {}
            None => self.elements.push((name.to_owned(), values)),
        }
    }
}

/// The store, with the machine's answers that go with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bcd {
    objects: Vec<Object>,
    /// The entry that was started last: `{current}`.
    current: Option<String>,
    /// The language of Windows.
    pub language: Language,
    /// Elements that Secure Boot's policy keeps from being set.
    pub protected: Vec<String>,
    copies: u32,
}

/// What the boot manager starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The entry.
    pub id: String,
    /// What the kernel will call `SystemStartOptions`.
    pub options: String,
    /// It came from the boot sequence.
    pub by_sequence: bool,
}

fn element(name: &str, values: &[&str]) -> (String, Vec<String>) {
    (name.to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
}

impl Default for Bcd {
    fn default() -> Self {
        Self::installed()
    }
}

impl Bcd {
    /// A computer on which Windows has been installed.
    pub fn installed() -> Self {
        let manager = Object {
            id: BOOT_MANAGER.into(),
            kind: Kind::Manager,
            elements: vec![
                element("device", &[r"partition=\Device\HarddiskVolume1"]),
                element("description", &["Windows Boot Manager"]),
                element("locale", &["en-US"]),
                element("inherit", &["{7ea2e1ac-2e61-4728-aaa3-896d9d0a9f0e}"]),
                element("default", &[FIRST]),
                element("displayorder", &[FIRST]),
                element("toolsdisplayorder", &["{b2721d73-1db4-4c62-bf78-c548a880142d}"]),
                element("timeout", &["30"]),
            ],
        };
        let loader = Object {
            id: FIRST.into(),
            kind: Kind::Loader,
            elements: vec![
                element("device", &["partition=C:"]),
                element("path", &[r"\Windows\system32\winload.exe"]),
                element("description", &["Windows 10"]),
                element("locale", &["en-US"]),
                element("inherit", &["{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}"]),
                element("recoveryenabled", &["Yes"]),
                element("osdevice", &["partition=C:"]),
                element("systemroot", &[r"\Windows"]),
                element("nx", &["OptIn"]),
                element("bootmenupolicy", &["Standard"]),
            ],
        };
        let settings = Object {
            id: "{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}".into(),
            kind: Kind::Settings,
            elements: vec![element("inherit", &["{7ea2e1ac-2e61-4728-aaa3-896d9d0a9f0e}"])],
        };
        Self {
            objects: vec![manager, loader, settings],
            current: Some(FIRST.into()),
            language: Language::English,
            protected: Vec::new(),
            copies: 0,
        }
    }

    /// The objects.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// Sets an element, past `bcdedit`; no values remove it. An object that is not there is made.
    pub fn put(&mut self, id: &str, kind: Kind, name: &str, values: &[&str]) {
        if self.object(id).is_none() {
            self.objects.push(Object { id: id.to_owned(), kind, elements: Vec::new() });
        }
        if let Some(object) = self.object_mut(id) {
            object.set(name, values.iter().map(|value| (*value).to_owned()).collect());
        }
    }

    /// An element's values.
    pub fn get(&self, id: &str, name: &str) -> &[String] {
        self.object(id).map_or(&[], |object| object.values(name))
    }

    fn object(&self, id: &str) -> Option<&Object> {
        self.objects.iter().find(|object| object.id == id)
    }

    fn object_mut(&mut self, id: &str) -> Option<&mut Object> {
        self.objects.iter_mut().find(|object| object.id == id)
    }

    /// What the boot manager does when the machine is switched on. `None`: it finds nothing to start.
    pub fn start(&mut self) -> Option<Started> {
        let sequence = self.get(BOOT_MANAGER, "bootsequence").first().cloned();
        let by_sequence = sequence.is_some();
        if by_sequence && self.get(BOOT_MANAGER, "persistbootsequence") != ["Yes"] {
            self.object_mut(BOOT_MANAGER)?.set("bootsequence", Vec::new());
        }
        let id = sequence.or_else(|| self.get(BOOT_MANAGER, "default").first().cloned())?;
        let entry = self.object(&id).filter(|object| object.kind == Kind::Loader)?;
        let mut options = String::from(" NOEXECUTE=OPTIN");
        for words in entry.values("loadoptions") {
            options.push(' ');
            // The kernel keeps them in upper case.
            options.push_str(&words.to_uppercase());
        }
        if let Some(kind) = entry.values("safeboot").first() {
            options.push_str(" SAFEBOOT:");
            options.push_str(&kind.to_uppercase());
        }
        self.current = Some(id.clone());
        Some(Started { id, options, by_sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_used_up_and_the_default_follows() {
        let mut bcd = Bcd::installed();
        let copy = "{b33f0001-1d2c-11ee-9c43-9f5d2c8a0002}";
        for (name, value) in [("osdevice", "partition=C:"), ("loadoptions", "GplPV")] {
            bcd.put(copy, Kind::Loader, name, &[value]);
        }
        bcd.put(BOOT_MANAGER, Kind::Manager, "bootsequence", &[copy]);
        let started = bcd.start().unwrap();
        assert_eq!((started.id.as_str(), started.options.as_str()), (copy, " NOEXECUTE=OPTIN GPLPV"));
        assert!(started.by_sequence);
        let started = bcd.start().unwrap();
        assert_eq!((started.id.as_str(), started.options.as_str()), (FIRST, " NOEXECUTE=OPTIN"));
        bcd.put(BOOT_MANAGER, Kind::Manager, "bootsequence", &[copy]);
        bcd.put(BOOT_MANAGER, Kind::Manager, "persistbootsequence", &["Yes"]);
        assert_eq!([bcd.start().unwrap().id, bcd.start().unwrap().id], [copy, copy]);
        bcd.put(BOOT_MANAGER, Kind::Manager, "bootsequence", &[]);
        bcd.put(BOOT_MANAGER, Kind::Manager, "default", &[]);
        assert_eq!(bcd.start(), None);
    }
}
