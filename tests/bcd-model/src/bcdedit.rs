//! `bcdedit`: the commands that somebody here uses, and no others.
//!
//! What it prints: per object a heading, dashes below it, the elements with their values in column 24, an empty line. The
//! headings, the word for the identifier, yes and no, and the sentences are translated; the elements' names are not.
//! <https://learn.microsoft.com/windows-hardware/drivers/devtest/boot-options-identifiers>,
//! <https://learn.microsoft.com/windows-hardware/drivers/devtest/adding-boot-entries>

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::{BOOT_MANAGER, Bcd, Kind, Object};

/// The language of Windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Language {
    /// English.
    English,
    /// German.
    German,
}

/// What a run left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// What was printed.
    pub text: String,
}

struct Words {
    manager: &'static str,
    loader: &'static str,
    settings: &'static str,
    identifier: &'static str,
    yes: &'static str,
    done: &'static str,
    copied: [&'static str; 2],
    not_found: &'static str,
    protected: &'static str,
    wrong: &'static str,
}

const ENGLISH: Words = Words {
    manager: "Windows Boot Manager",
    loader: "Windows Boot Loader",
    settings: "Boot Loader Settings",
    identifier: "identifier",
    yes: "Yes",
    done: "The operation completed successfully.",
    copied: ["The entry was successfully copied to ", "."],
    not_found: "Element not found.",
    protected: "The value is protected by Secure Boot policy and cannot be modified or deleted.",
    wrong: "The parameter is incorrect.",
};

const GERMAN: Words = Words {
    manager: "Windows-Start-Manager",
    loader: "Windows-Startladeprogramm",
    settings: "Startladeprogrammeinstellungen",
    identifier: "Bezeichner",
    yes: "Ja",
    done: "Der Vorgang wurde erfolgreich beendet.",
    copied: ["Der Eintrag wurde erfolgreich in ", " kopiert."],
    not_found: "Element nicht gefunden.",
    protected: "Der Wert wird durch die Richtlinie für den sicheren Start geschützt.",
    wrong: "Falscher Parameter.",
};

impl Language {
    fn words(self) -> &'static Words {
        match self {
            Self::English => &ENGLISH,
            Self::German => &GERMAN,
        }
    }
}

impl Bcd {
    fn resolve(&self, id: &str) -> Option<String> {
        match id.to_ascii_lowercase().as_str() {
            "{bootmgr}" => Some(BOOT_MANAGER.to_owned()),
            "{current}" => self.current.clone(),
            "{default}" => self.get(BOOT_MANAGER, "default").first().cloned(),
            id => Some(id.to_owned()),
        }
    }

    fn print(&self, object: &Object, text: &mut String) {
        let words = self.language.words();
        let heading = match object.kind {
            Kind::Manager => words.manager,
            Kind::Loader => words.loader,
            Kind::Settings => words.settings,
        };
        // Writing to a String does not fail.
        let _ = write!(text, "\r\n{heading}\r\n{}\r\n", "-".repeat(heading.chars().count()));
        let _ = write!(text, "{:<24}{}\r\n", words.identifier, object.id);
        for (name, values) in &object.elements {
            for (place, value) in values.iter().enumerate() {
                let name = if place == 0 { name.as_str() } else { "" };
                let value = if value == "Yes" { words.yes } else { value };
                let _ = write!(text, "{name:<24}{value}\r\n");
            }
        }
    }

    /// Runs it.
    pub fn bcdedit(&mut self, arguments: &[&str]) -> Output {
        let words = self.language.words();
        match self.command(arguments) {
            Ok(text) if text.is_empty() => Output { code: 0, text: format!("{}\r\n", words.done) },
            Ok(text) => Output { code: 0, text },
            Err(text) => Output { code: 1, text: format!("{text}\r\n") },
        }
    }

    fn loader(&self, id: &str) -> Result<String, &'static str> {
        let id = self.resolve(id).filter(|id| self.object(id).is_some_and(|object| object.kind == Kind::Loader));
        id.ok_or(self.language.words().not_found)
    }

    fn allowed(&self, element: &str) -> Result<(), &'static str> {
        let protected = self.protected.iter().any(|name| name == element);
        if protected { Err(self.language.words().protected) } else { Ok(()) }
    }

    fn command(&mut self, arguments: &[&str]) -> Result<String, &'static str> {
        let words = self.language.words();
        match *arguments {
            ["/enum", "all", "/v"] => {
                let mut text = String::new();
                for object in &self.objects {
                    self.print(object, &mut text);
                }
                Ok(text)
            }
            ["/enum", id, "/v"] => {
                let id = self.resolve(id).ok_or(words.not_found)?;
                let mut text = String::new();
                self.print(self.object(&id).ok_or(words.not_found)?, &mut text);
                Ok(text)
            }
            ["/copy", id, "/d", description] => {
                let id = self.loader(id)?;
                self.copies += 1;
                let mut copy = self.object(&id).ok_or(words.not_found)?.clone();
                copy.id = format!("{{c0b1e500-2a6b-11ee-8d7e-{:012x}}}", self.copies);
                copy.set("description", vec![description.to_owned()]);
                let made = copy.id.clone();
                self.objects.push(copy);
                let mut order = self.get(BOOT_MANAGER, "displayorder").to_vec();
                order.push(made.clone());
                self.object_mut(BOOT_MANAGER).ok_or(words.not_found)?.set("displayorder", order);
                Ok(format!("{}{made}{}\r\n", words.copied[0], words.copied[1]))
            }
            ["/set", id, "loadoptions", value] => {
                self.allowed("loadoptions")?;
                let id = self.loader(id)?;
                self.object_mut(&id).ok_or(words.not_found)?.set("loadoptions", vec![value.to_owned()]);
                Ok(String::new())
            }
            ["/deletevalue", id, "loadoptions"] => {
                self.allowed("loadoptions")?;
                let id = self.loader(id)?;
                if self.get(&id, "loadoptions").is_empty() {
                    return Err(words.not_found);
                }
                self.object_mut(&id).ok_or(words.not_found)?.set("loadoptions", Vec::new());
                Ok(String::new())
            }
            ["/set", id, "testsigning", "on"] => {
                self.allowed("testsigning")?;
                let id = self.loader(id)?;
                self.object_mut(&id).ok_or(words.not_found)?.set("testsigning", vec!["Yes".into()]);
                Ok(String::new())
            }
            ["/deletevalue", id, "testsigning"] => {
                let id = self.loader(id)?;
                if self.get(&id, "testsigning").is_empty() {
                    return Err(words.not_found);
                }
                self.object_mut(&id).ok_or(words.not_found)?.set("testsigning", Vec::new());
                Ok(String::new())
            }
            ["/delete", id, "/cleanup"] => {
                let id = self.loader(id)?;
                self.objects.retain(|object| object.id != id);
                let manager = self.object_mut(BOOT_MANAGER).ok_or(words.not_found)?;
                for list in ["default", "displayorder", "bootsequence"] {
                    let left = manager.values(list).iter().filter(|entry| **entry != id).cloned().collect();
                    manager.set(list, left);
                }
                Ok(String::new())
            }
            ["/default", id] => {
                let id = self.loader(id)?;
                self.object_mut(BOOT_MANAGER).ok_or(words.not_found)?.set("default", vec![id]);
                Ok(String::new())
            }
            ["/bootsequence", id] => {
                let id = self.loader(id)?;
                self.object_mut(BOOT_MANAGER).ok_or(words.not_found)?.set("bootsequence", vec![id]);
                Ok(String::new())
            }
            ["/bootsequence", id, "/remove"] => {
                let id = self.resolve(id).ok_or(words.not_found)?;
                let left = self.get(BOOT_MANAGER, "bootsequence").iter().filter(|entry| **entry != id).cloned();
                let left = left.collect();
                self.object_mut(BOOT_MANAGER).ok_or(words.not_found)?.set("bootsequence", left);
                Ok(String::new())
            }
            _ => Err(words.wrong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FIRST;

    #[test]
    fn a_copy_is_shown_and_goes_with_every_mention() {
        let mut bcd = Bcd { language: Language::German, ..Bcd::installed() };
        let said = bcd.bcdedit(&["/copy", "{current}", "/d", "Kopie"]);
        assert_eq!(said.code, 0);
        let id = said.text[said.text.find('{').unwrap()..=said.text.find('}').unwrap()].to_owned();
        let text = bcd.bcdedit(&["/enum", "all", "/v"]).text;
        assert!(text.contains(&format!("Bezeichner              {id}\r\n")), "{text}");
        assert!(
            text.contains(&format!("displayorder            {FIRST}\r\n                        {id}\r\n")),
            "{text}"
        );
        assert!(text.contains("recoveryenabled         Ja\r\n"), "{text}");
        assert_eq!(bcd.bcdedit(&["/bootsequence", &id]).code, 0);
        assert_eq!(bcd.bcdedit(&["/delete", &id, "/cleanup"]).code, 0);
        assert_eq!(bcd, Bcd { language: Language::German, copies: 1, ..Bcd::installed() });
        assert_eq!(bcd.bcdedit(&["/delete", &id, "/cleanup"]).code, 1);
        assert_eq!(bcd.bcdedit(&["/deletevalue", FIRST, "loadoptions"]).code, 1);
        bcd.protected.push("loadoptions".into());
        assert_eq!(bcd.bcdedit(&["/set", FIRST, "loadoptions", "x"]).code, 1);
        assert_eq!(bcd.bcdedit(&["/export", "x"]).code, 1);
    }
}
