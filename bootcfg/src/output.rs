//! What `bcdedit /enum ... /v` prints.
//!
//! An object is a heading, a line of dashes, and one line an element: the element's name, blanks up to column 24 of the screen,
//! its value. Further values of a list stand below, each behind 24 blanks. An empty line ends the object.
//!
//! Windows translates the headings, the name of the first element (`identifier`, `Bezeichner`, ...) and the values that
//! stand for yes and no; the other names are the same everywhere. So the first line below the dashes is the
//! identifier whatever it is called, and no value is read that could be translated. With `/v` identifiers are GUIDs,
//! also those that have names.
//! <https://learn.microsoft.com/windows-hardware/drivers/devtest/boot-options-identifiers>

use crate::error::{Error, Result};
use crate::store::Id;

/// An object of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its identifier.
    pub id: Id,
    /// Its elements: name, and values in their order.
    pub elements: Vec<(String, Vec<String>)>,
}

impl Object {
    /// The values of an element; none if it is not there.
    pub fn values(&self, name: &str) -> &[String] {
        let found = self.elements.iter().find(|(element, _)| element.eq_ignore_ascii_case(name));
        found.map_or(&[], |(_, values)| values)
    }

    /// The first value of an element.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).first().map(String::as_str)
    }
}

enum State {
    /// Between objects: headings stand here.
    Outside,
    /// Below the dashes.
    Identifier,
    /// In an object.
    Inside,
}

fn is_rule(line: &str) -> bool {
    line.len() >= 3 && line.bytes().all(|byte| byte == b'-')
}

/// The objects of an output, in its order.
///
/// # Errors
/// [`Error::Output`]: an object without an identifier, or a further value where there was none before.
pub fn objects(text: &str) -> Result<Vec<Object>> {
    let mut objects: Vec<Object> = Vec::new();
    let mut state = State::Outside;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if is_rule(line) {
            state = State::Identifier;
            continue;
        }
        match state {
            State::Outside => {}
            State::Identifier => {
                let id = line.split_whitespace().last().and_then(Id::parse);
                let id = id.ok_or(Error::Output(number + 1, "an identifier"))?;
                objects.push(Object { id, elements: Vec::new() });
                state = State::Inside;
            }
            State::Inside if line.is_empty() => state = State::Outside,
            State::Inside => {
                let Some(object) = objects.last_mut() else { continue };
                if line.starts_with([' ', '\t']) {
                    let last = object.elements.last_mut();
                    let (_, values) = last.ok_or(Error::Output(number + 1, "an element's name"))?;
                    values.push(line.trim_start().to_owned());
                } else {
                    let (name, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
                    object.elements.push((name.to_owned(), vec![value.trim_start().to_owned()]));
                }
            }
        }
    }
    if matches!(state, State::Identifier) {
        return Err(Error::Output(text.lines().count(), "an identifier"));
    }
    Ok(objects)
}

/// The first identifier in a text. `bcdedit /copy` says in a translated sentence what the copy's is.
pub fn identifier_in(text: &str) -> Option<Id> {
    text.split('{').skip(1).find_map(|rest| Id::parse(&format!("{{{}}}", rest.split_once('}')?.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_by_its_first_line() {
        let lines = [
            "",
            "Windows-Startladeprogramm",
            "-------------------------",
            "Bezeichner              {c0ffee00-0000-4000-8000-000000000001}",
            "device                  partition=C:",
            "displayorder            {c0ffee00-0000-4000-8000-000000000002}",
            "                        {c0ffee00-0000-4000-8000-000000000003}",
            "custom:26000027         Ja",
            "loadoptions             ",
            "",
            "Der Vorgang wurde erfolgreich beendet.",
        ];
        let objects = objects(&lines.join("\r\n")).unwrap();
        assert_eq!(objects.len(), 1);
        assert_eq!(objects[0].id.as_str(), "{c0ffee00-0000-4000-8000-000000000001}");
        assert_eq!(objects[0].values("DisplayOrder").len(), 2);
        assert_eq!(objects[0].value("loadoptions"), Some(""));
        assert_eq!(objects[0].value("path"), None);
    }

    #[test]
    fn what_is_no_output_is_refused() {
        for (text, line) in [
            ("Heading\n-------\nidentifier   none\n", 3),
            ("Heading\n-------\n", 2),
            ("H\n---\nidentifier {bootmgr}\n      stray\n", 4),
        ] {
            assert!(matches!(objects(text), Err(Error::Output(at, _)) if at == line), "{text:?}");
        }
        assert_eq!(objects("Access is denied.\n").unwrap(), []);
    }

    #[test]
    fn an_identifier_is_found_in_any_sentence() {
        let id = "{49916baf-0e08-11db-9af4-000bdbd316a0}";
        for text in ["The entry was successfully copied to {}.", "{x} Der Eintrag wurde in {} kopiert."] {
            let text = text.replace("{}", id);
            assert_eq!(identifier_in(&text).map(|id| id.to_string()).as_deref(), Some(id), "{text}");
        }
        assert_eq!(identifier_in("nothing { here } {and} {49916baf-0e08"), None);
    }
}
