//! docs/configure.md says of every value what the INFs set and the drivers read: name for name, default for default.

use std::collections::BTreeMap;
use std::path::Path;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the table below a heading: names, and the column of the default.
fn documented(heading: &str, column: usize) -> BTreeMap<String, String> {
    let text = read("docs/configure.md");
    let (_, section) = text.split_once(heading).unwrap_or_else(|| panic!("no heading {heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    // The first table alone.
    let rows =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    let mut found = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        for name in cells[1].split(", ") {
            found.insert(name.trim_matches('`').to_owned(), cells[column].to_owned());
        }
    }
    found
}

/// What an INF sets by lines that begin so: name and value.
fn set_by<'i>(inf: &'i str, fields: impl Fn(&[&'i str]) -> Option<(&'i str, &'i str)>) -> BTreeMap<String, String> {
    let lines = inf.lines().filter_map(|line| fields(&line.split(',').map(str::trim).collect::<Vec<_>>()));
    lines.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

/// The texts that stand behind a call in a source file.
fn behind(source: &str, call: &str) -> Vec<String> {
    source.split(call).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
}

#[test]
fn parameters_of_services() {
    for (driver, source) in [
        ("xenpci", "xenpci/src/windows/mod.rs"),
        ("xenvbd", "xenvbd/src/miniport/settings.rs"),
        ("xenhide", "xenhide/src/windows.rs"),
    ] {
        let documented = documented(&format!(r"Services\{driver}\Parameters`"), 4);
        let inf = read(&format!("{driver}/{driver}.inf"));
        let mut set = set_by(&inf, |fields| match fields {
            ["HKR", "Parameters", name, _, value] => Some((*name, *value)),
            _ => None,
        });
        // Storport's own.
        set.remove("BusType");
        assert_eq!(documented, set, "{driver}");
        let source = read(source);
        let mut names = [behind(&source, "parameters.number(\""), behind(&source, "parameters.switch(\"")].concat();
        names.sort();
        assert_eq!(names, documented.into_keys().collect::<Vec<_>>(), "{driver}");
    }
}

#[test]
fn properties_of_the_network_card() {
    let documented = documented("## The network card's properties", 3);
    let inf = read("xennet/xennet.inf");
    let mut set = set_by(&inf, |fields| match fields {
        ["HKR", key, "default", _, value] => Some((key.strip_prefix(r"Ndi\params\")?, *value)),
        _ => None,
    });
    assert_eq!(set.insert("NetworkAddress".into(), "none".into()).as_deref(), Some(""));
    assert_eq!(documented, set);
    let source = read("xennet/src/miniport/settings.rs");
    let mut names: Vec<String> =
        ["number(\"", "directions(\"", "switch(\""].iter().flat_map(|call| behind(&source, call)).collect();
    names.push("NetworkAddress".into());
    names.sort();
    assert_eq!(names, documented.into_keys().collect::<Vec<_>>());
}

#[test]
fn parameters_of_the_service() {
    let documented = documented(r"Services\shutdownmon\Parameters`", 4);
    let mut names = behind(&read("shutdownmon/src/arming/state.rs"), "registry.number(PARAMETERS, \"");
    names.sort();
    assert_eq!(names, documented.into_keys().collect::<Vec<_>>());
}

#[test]
fn nodes_of_xenstore() {
    let text = read("docs/configure.md");
    let source = read("xennet/src/front/config.rs");
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let calls = ["write(b\"", "flag(\"", "bus, None, \"", "Some(backend), \"", "let key = \""];
    let names: Vec<String> = calls.iter().flat_map(|call| behind(source, call)).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(text.contains(&format!("`{name}`")), "docs/configure.md says nothing of {name}");
    }
}
