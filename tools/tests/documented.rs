//! docs/configure.md says of every value what the INFs set and the drivers read: name for name, default for default.
//! docs/install.md and docs/uninstall.md have the switches and exit codes of the installer, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the table below a heading of docs/configure.md: names, and the column of the default.
fn documented(heading: &str, column: usize) -> BTreeMap<String, String> {
    table("docs/configure.md", heading, column)
}

/// The rows of the first table below a heading: names, and another column.
fn table(file: &str, heading: &str, column: usize) -> BTreeMap<String, String> {
    let text = read(file);
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

/// What a source file allows of each number and switch, as the tables say it.
fn allowed(source: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<_, _> =
        behind(source, "parameters.switch(\"").into_iter().map(|name| (name, "0, 1".to_owned())).collect();
    for call in source.split("parameters.number(\"").skip(1) {
        let (name, rest) = call.split_once('"').expect("a name");
        let (least, most) = rest.split_once(')').and_then(|(range, _)| range.split_once("..=")).expect("a range");
        let least = least.rsplit(' ').next().unwrap_or_default();
        found.insert(name.to_owned(), format!("{least} to {most}"));
    }
    found
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
        let ranges = self::documented(&format!(r"Services\{driver}\Parameters`"), 3);
        assert_eq!(allowed(&read(source)), ranges, "{driver}");
    }
    // The network driver has one value.
    let text = read("docs/configure.md");
    assert!(text.contains(r"`HKLM\SYSTEM\CurrentControlSet\Services\xennet\Parameters` has `LogLevel`, as above"));
    let one = allowed(&read("xennet/src/miniport/raw.rs"));
    assert_eq!(one, BTreeMap::from([("LogLevel".to_owned(), "0 to 3".to_owned())]));
}

#[test]
fn boot_options() {
    let documented = documented("## Boot options", 2);
    for line in read("xenhide/src/policy.rs").lines().filter(|line| line.starts_with("const ")) {
        let word = line.split('"').nth(1).unwrap_or_default();
        assert!(documented.contains_key(word) || word == "SAFEBOOT", "docs/configure.md says nothing of {line}");
    }
    assert!(documented.contains_key("safe mode"), "{documented:?}");
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

/// Sources that name nodes of xenstore.
const XENSTORE: [&str; 9] = [
    "xenvbd/src/front/config.rs",
    "xenvbd/src/miniport/connection.rs",
    "xennet/src/front/config.rs",
    "xennet/src/miniport/connection.rs",
    "xenpci/src/windows/child.rs",
    "xenpci/src/windows/fdo.rs",
    "xenpci/src/windows/suspend.rs",
    "shutdownmon/core/src/facts.rs",
    "shutdownmon/core/src/monitor.rs",
];
/// What looks like a node in these sources and is none: values, words of log lines, ways to nodes that stand there too.
const NO_NODES: [&str; 20] = [
    "CARGO_PKG_VERSION",
    "MajorVersion",
    "MinorVersion",
    "MicroVersion",
    "attr/vif",
    "attr/vif/<n>/<n>",
    "cdrom",
    "count",
    "device/",
    "device/vif",
    "device/vif/<n>/mac",
    "ipv4",
    "ipv6",
    "order",
    "read-only",
    "read-write",
    "suspend",
    "suspending",
    "vif_ioemu",
    "windows",
];
/// Nodes that are put together from parts.
const PUT_TOGETHER: [(&str, &[&str]); 2] = [
    ("attr/PVAddons/<n>", &["attr/PVAddons/MajorVersion", "attr/PVAddons/MinorVersion", "attr/PVAddons/MicroVersion"]),
    ("attr/vif/<n>/<n>/<n>", &["attr/vif/<n>/ipv4/<n>", "attr/vif/<n>/ipv6/<n>"]),
];

/// A text without its numbers and placeholders.
fn numbered(text: &str) -> String {
    for folder in ["ring-ref", "queue-"] {
        if text.strip_prefix(folder).is_some_and(|number| number.parse::<u32>().is_ok()) {
            return format!("{folder}<n>");
        }
    }
    let mut parts = text.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| format!("{name}<n>{}", part.split_once('}').map_or("", |(_, rest)| rest)))
}

/// The texts of a source that could be a node's name.
fn literals(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let texts = lines.flat_map(|line| line.split('"').skip(1).step_by(2));
    let names = texts.filter(|text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-/{}".contains(&byte)));
    names.map(numbered).filter(|name| name.starts_with(|first: char| first.is_ascii_alphabetic())).collect()
}

#[test]
fn nodes_of_xenstore() {
    let mut named: BTreeSet<String> = XENSTORE.iter().flat_map(|file| literals(&read(file))).collect();
    for name in NO_NODES {
        assert!(named.remove(name), "{name} is not in the sources any more");
    }
    for (name, parts) in PUT_TOGETHER {
        assert!(named.remove(name), "{name} is not in the sources any more");
        named.extend(parts.iter().map(|part| (*part).to_owned()));
    }
    let text = read("docs/configure.md");
    let (_, section) = text.split_once("\n## xenstore\n").expect("the section");
    let first_cells = section.lines().filter_map(|line| line.strip_prefix('|')?.split('|').next());
    let documented: BTreeSet<String> =
        first_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    assert_eq!(documented, named, "docs/configure.md, and what the sources name");
    for row in section.lines().filter(|line| line.starts_with('|')) {
        assert!(row.split('|').skip(2).all(|cell| cell.is_empty() || !cell.trim().is_empty()), "an empty cell: {row}");
    }
}

/// A switch as it is compared: `/LOG=file` is `/LOG=`.
fn switch(word: &str) -> String {
    word.split_inclusive('=').next().unwrap_or_default().trim_end_matches(';').to_owned()
}

/// The switches that a part of the installer's script takes, by its own list.
fn known(script: &str, section: &str) -> BTreeSet<String> {
    let (_, section) = script.split_once(section).expect("the section");
    let (_, list) = section.split_once("!insertmacro RefuseUnknown \"").expect("its list");
    list.split('"').next().unwrap_or_default().split(' ').map(str::to_owned).collect()
}

#[test]
fn switches_of_the_installer() {
    let script = read("installer/setup.nsi");
    let installer = known(&script, "Section \"-install\"");
    let uninstaller = known(&script, "Section \"Uninstall\"");
    // Each of the list is looked for. `/S` is NSIS' own.
    let mut looked_for: BTreeSet<String> = behind(&script, "${GetOptions} $parameters \"").into_iter().collect();
    looked_for.insert("/S".into());
    assert_eq!(installer, looked_for, "installer/setup.nsi");
    let documented = table("docs/install.md", "\n## With the installer", 2);
    assert_eq!(documented.keys().map(|name| switch(name)).collect::<BTreeSet<_>>(), installer, "docs/install.md");
    let plan = read("installer/src/plan.rs");
    let (_, names) = plan.split_once("pub fn name(self)").expect("the components' names");
    let components = behind(names.split("\n    }").next().unwrap_or_default(), "=> \"").join(",");
    for (file, text) in [("docs/install.md", read("docs/install.md")), ("installer/setup.nsi", script)] {
        assert!(text.contains(&format!("/COMPONENTS={components}")), "{file}: the components are {components}");
    }
    // Commands: the words behind a program's name that begin with a slash.
    let mut commands = 0;
    for file in ["README.md", "docs/install.md", "docs/uninstall.md", "docs/troubleshooting.md", "docs/configure.md"] {
        let text = read(file);
        for (program, known) in [("-setup.exe ", &installer), ("uninstall.exe\" ", &uninstaller)] {
            for rest in text.split(program).skip(1) {
                let words = rest.split(['`', '\n', '|']).next().unwrap_or_default().split(' ');
                for word in words.filter(|word| word.starts_with('/')) {
                    assert!(known.contains(&switch(word)), "{file}: {program}{word}");
                    commands += 1;
                }
            }
        }
        assert!(!text.contains("`uninstall.exe /"), "{file}: where is uninstall.exe?");
    }
    assert!(commands >= 5, "{commands} switches in commands");
}

/// The numbers behind a word, each up to what is no digit.
fn numbers(text: &str, behind: &str) -> BTreeSet<u32> {
    let ends = |rest: &str| rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    text.split(behind).skip(1).filter_map(|rest| rest[..ends(rest)].parse().ok()).collect()
}

#[test]
fn exit_codes_of_the_installer() {
    let function = |file: &str| {
        let source = read(file);
        let (_, rest) = source.split_once("fn exit_code(").unwrap_or_else(|| panic!("{file}: no exit codes"));
        rest.split("\n    }").next().unwrap_or_default().to_owned()
    };
    let error = read("installer/src/error.rs");
    let main = read("installer/src/main.rs");
    let mut codes = numbers(&function("installer/src/error.rs"), "=> ");
    codes.extend(numbers(&function("installer/src/check.rs"), "=> "));
    codes.extend(["const DONE: u8 = ", "const RESTART: i32 = "].iter().flat_map(|name| numbers(&error, name)));
    codes.extend(["const NOT_WHOLE: i32 = ", "const BUSY: i32 = "].iter().flat_map(|name| numbers(&main, name)));
    // clap's, for a command line that it does not understand.
    codes.insert(2);
    assert!(codes.len() >= 15, "{codes:?}");
    let (_, help) = main.split_once("Exit codes: ").expect("what `setup --help` says");
    let help = format!("; {}", help.split('"').next().unwrap_or_default()).replace("\\\n", "");
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(numbers(&help, "; "), codes, "setup --help");
    // NSIS' own: the user cancelled.
    codes.insert(1);
    let documented = table("docs/install.md", "\n| `/LOG=file`", 2);
    let documented: BTreeSet<u32> = documented.keys().map(|code| code.parse().expect("a number")).collect();
    assert_eq!(documented, codes, "docs/install.md");
}
