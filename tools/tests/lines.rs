//! docs/troubleshooting.md has every line that the drivers log, as `LogLevel` = 2 shows it, and no other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The drivers, and what of theirs is in libraries.
const SOURCES: [&str; 7] = ["wdm", "xenbus", "xenpci", "xenvbd", "xennet", "xenhide", "xenstub"];
/// What makes a line, or a part of one.
const CALLS: [&str; 4] = ["error!(", "warning!(", "info!(", "format_args!("];
/// Files with `format_args!` that make names and no lines.
const NO_LINES: [&str; 2] = ["xenpci/src/core/enumerate.rs", "wdm/src/log.rs"];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs")
            && path.file_stem().is_some_and(|name| name != "tests")
        {
            found.push(path);
        }
    }
}

/// A format's text: `...` for what is filled in.
fn line(literal: &str) -> String {
    let mut text = String::new();
    let mut rest = literal.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '{' => {
                while rest.next().is_some_and(|inside| inside != '}') {}
                text.push_str("...");
            }
            '\\' => match rest.next() {
                Some('\n') => while rest.next_if(|blank| blank.is_whitespace()).is_some() {},
                Some(escaped) => text.push(escaped),
                None => {}
            },
            other => text.push(other),
        }
    }
    text
}

/// A source without its tests and comments.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    source.split_inclusive('\n').filter(|line| !line.trim_start().starts_with("//")).collect()
}

/// The lines of a source. One whose every word is filled in is made elsewhere.
fn lines(source: &str) -> Vec<String> {
    let code = code(source);
    let mut found = Vec::new();
    for call in CALLS {
        for rest in code.split(call).skip(1) {
            let Some(literal) = rest.trim_start().strip_prefix('"') else { continue };
            let mut escaped = false;
            let end = literal.find(|letter| {
                let ends = letter == '"' && !escaped;
                escaped = letter == '\\' && !escaped;
                ends
            });
            found.push(line(&literal[..end.expect("the literal ends")]));
        }
    }
    found.retain(|line| line.contains(|letter: char| letter.is_alphabetic()));
    found
}

/// That the tables of a section have these lines and no others.
fn explained(heading: &str, logged: &BTreeSet<String>) {
    let text = std::fs::read_to_string(top().join("docs/troubleshooting.md")).unwrap();
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect("the section");
    // The reasons are only a part of a line each: `every_reason_to_stay_emulated_is_explained`.
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")).filter(|row| !row.starts_with("... stay: "));
    let mut explained = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.split(" | ").collect();
        assert!(cells.len() == 3 && cells.iter().all(|cell| cell.len() > 3), "{row}");
        explained.extend(format!("`{}", cells[0]).split('`').skip(1).step_by(2).map(str::to_owned));
    }
    let missing: Vec<&String> = logged.difference(&explained).collect();
    assert!(missing.is_empty(), "{heading}: not explained: {missing:#?}");
    let stale: Vec<&String> = explained.difference(logged).collect();
    assert!(stale.is_empty(), "{heading}: explained and in no source: {stale:#?}");
}

#[test]
fn every_line_of_the_drivers_is_explained() {
    let mut files = Vec::new();
    for driver in SOURCES {
        sources(&top().join(driver).join("src"), &mut files);
    }
    let mut logged = BTreeSet::new();
    for file in files.iter().filter(|file| !NO_LINES.iter().any(|name| file.ends_with(name))) {
        logged.extend(lines(&std::fs::read_to_string(file).unwrap()));
    }
    assert!(logged.len() > 120, "{} lines only", logged.len());
    explained("Lines of the drivers", &logged);
}

/// Every text of a source that has words: what these sources say, and nothing else.
fn texts(file: &str) -> Vec<String> {
    let source = std::fs::read_to_string(top().join(file)).unwrap();
    let code = code(&source).replace("\\\"", "\u{1}");
    let texts = code.split('"').skip(1).step_by(2).map(|text| line(text).replace('\u{1}', "\"").replace('`', ""));
    texts.filter(|text| text.contains(' ') && text.contains(|letter: char| letter.is_alphabetic())).collect()
}

#[test]
fn every_line_of_the_service_is_explained() {
    let sources =
        ["shutdownmon/core/src/monitor.rs", "shutdownmon/src/arming/decide.rs", "shutdownmon/src/arming/mod.rs"];
    explained("Lines of the service", &sources.iter().flat_map(|file| texts(file)).collect());
}

#[test]
fn every_reason_of_the_boot_configuration_is_explained() {
    explained("Reasons of the boot configuration", &texts("bootcfg/src/error.rs").into_iter().collect());
}

#[test]
fn a_line_is_read_from_its_call() {
    let source = "a.log(LogLevel::Error, format_args!(\n    \"state = \\\"{text}\\\": none, \\\n     {other:?}\")); // info!(\"x\")\n\
                  // warning!(\"no\")\nwarning!(\"{error}\"); wdm::error!(\"b {}\", c);\n#[cfg(test)] info!(\"d\");";
    assert_eq!(lines(source), ["b ...", "x", "state = \"...\": none, ..."]);
}

#[test]
fn every_reason_to_stay_emulated_is_explained() {
    let text = std::fs::read_to_string(top().join("docs/troubleshooting.md")).unwrap();
    let mut reasons = 0;
    for file in ["xenhide/src/policy.rs", "xen-abi/src/unplug.rs"] {
        let source = std::fs::read_to_string(top().join(file)).unwrap();
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        for call in ["write_str(\"", "write!(f, \""] {
            for rest in source.split(call).skip(1) {
                let reason = line(rest.split('"').next().unwrap_or_default());
                // Nothing at all is unplugged then, which has a line of its own.
                let explained = reason == "Xen is not visible or too old" || text.contains(&format!("stay: {reason}`"));
                assert!(explained, "not explained: {reason}");
                reasons += 1;
            }
        }
    }
    assert_eq!(reasons, 9);
}
