//! docs/troubleshooting.md has every line that the drivers log, as `LogLevel` = 2 shows it, and that service, setup and xentool
//! say, and no other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use syn::LitStr;

/// The drivers, and what of theirs is in libraries.
const SOURCES: [&str; 7] = ["wdm", "xenbus", "xenpci", "xenvbd", "xennet", "xenhide", "xenstub"];
/// What makes a line, or a part of one.
const CALLS: [&str; 4] = ["error", "warning", "info", "format_args"];
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

/// A format's text: `...` for what is filled in, a blank for a new line.
fn line(format: &str) -> String {
    let mut text = String::new();
    let mut rest = format.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '{' | '}' if rest.next_if_eq(&letter).is_some() => text.push(letter),
            '{' => {
                while rest.next().is_some_and(|inside| inside != '}') {}
                text.push_str("...");
            }
            '\n' | '\r' => text.push(' '),
            // Tables of Markdown have it around a line.
            '`' => {}
            other => text.push(other),
        }
    }
    text.trim().to_owned()
}

fn has_letters(text: &str) -> bool {
    text.contains(char::is_alphabetic)
}

/// The words of a program, one behind the other, however they are nested. Attributes, which the comments of its documentation
/// are too, are left out, and so are tests and, where it says so, constants.
fn words(stream: TokenStream, constants: bool, found: &mut Vec<TokenTree>) {
    let is_sign = |token: &TokenTree, sign: char| matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign);
    let mut tokens = stream.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let pointer = found.last().is_some_and(|last| is_sign(last, '*') || last.to_string() == "raw");
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                tokens.next_if(|token| is_sign(token, '!'));
                let attribute = tokens.next().map(|token| token.to_string());
                if attribute.as_deref() == Some("[cfg (test)]") {
                    let ends = |token: &TokenTree| {
                        let braces = |group: &Group| group.delimiter() == Delimiter::Brace;
                        is_sign(token, ';') || matches!(token, TokenTree::Group(group) if braces(group))
                    };
                    let _ = tokens.by_ref().find(ends);
                }
            }
            TokenTree::Ident(word) if word == "const" && !constants && !pointer => {
                if tokens.peek().is_none_or(|next| next.to_string() != "fn") {
                    let _ = tokens.by_ref().find(|token| is_sign(token, ';'));
                }
            }
            TokenTree::Group(group) => words(group.stream(), constants, found),
            word => found.push(word),
        }
    }
}

fn program(source: &str, constants: bool) -> Vec<TokenTree> {
    let mut found = Vec::new();
    words(source.parse().expect("the compiler takes it"), constants, &mut found);
    found
}

/// What a word says, if it is a text.
fn text(word: &TokenTree) -> Option<String> {
    let TokenTree::Literal(literal) = word else { return None };
    Some(line(&syn::parse_str::<LitStr>(&literal.to_string()).ok()?.value()))
}

/// The texts that are the first thing given to one of these macros. One whose every word is filled in is made elsewhere.
fn given_to(source: &str, macros: &[&str]) -> Vec<String> {
    let program = program(source, true);
    let calls = program.windows(3).filter(|call| {
        matches!(call, [TokenTree::Ident(name), TokenTree::Punct(sign), _]
            if sign.as_char() == '!' && macros.iter().any(|one| name == one))
    });
    calls.filter_map(|call| text(&call[2])).filter(|text| has_letters(text)).collect()
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
        logged.extend(given_to(&std::fs::read_to_string(file).unwrap(), &CALLS));
    }
    assert!(logged.len() > 120, "{} lines only", logged.len());
    explained("Lines of the drivers", &logged);
}

/// Every text of a source that has a blank, but for constants: what these sources say, and nothing else.
fn texts(file: impl AsRef<Path>) -> Vec<String> {
    let source = std::fs::read_to_string(top().join(file)).unwrap();
    let texts = program(&source, false).iter().filter_map(text).collect::<Vec<_>>();
    texts.into_iter().filter(|text| text.contains(' ') && has_letters(text)).collect()
}

#[test]
fn every_line_of_the_service_is_explained() {
    let sources =
        ["shutdownmon/core/src/monitor.rs", "shutdownmon/src/arming/decide.rs", "shutdownmon/src/arming/mod.rs"];
    explained("Lines of the service", &sources.iter().flat_map(texts).collect());
}

/// Every text of the files of a folder, without those that nobody reads.
fn said(folder: &str, silent: &[&str]) -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(&top().join(folder), &mut files);
    let mut said: BTreeSet<String> = files.iter().flat_map(texts).collect();
    for text in silent {
        assert!(said.remove(*text), "in no source any more: {text}");
    }
    said
}

/// What the setup has in its sources that is no line: names and paths, and what is said where it is not built for Windows.
const SILENT_OF_SETUP: [&str; 11] = [
    "\"...\" /S",
    ", so nothing is written to ...",
    "...\\Xen PV",
    "C:\\Program Files",
    "Global\\Xen PV drivers setup",
    "Xen PV drivers",
    "\\xen pv drivers\\bin\\",
    "error: ... needs Windows...",
    "in test mode",
    "installing ... from ......",
    "the status",
];

#[test]
fn every_line_of_the_setup_is_explained() {
    explained("Lines of the setup", &said("installer/src", &SILENT_OF_SETUP));
}

/// As [`SILENT_OF_SETUP`], of xentool: commands for PowerShell.
const SILENT_OF_XENTOOL: [&str; 12] = [
    "$ErrorActionPreference='Stop';Get-NetAdapter -IncludeHidden -InterfaceIndex ...|Restart-NetAdapter -Confirm:$false|Out-Null",
    "-AutomaticMetric Disabled -InterfaceMetric ...",
    "-AutomaticMetric Enabled",
    "-InterfaceIndex ... -DestinationPrefix .../... -NextHop ...",
    "-InterfaceIndex ... -IPAddress ... -PrefixLength ...",
    "New-NetIPAddress ... -SkipAsSource $...",
    "New-NetRoute ... -RouteMetric ...",
    "Remove-NetIPAddress ... -Confirm:$false",
    "Remove-NetRoute ... -Confirm:$false",
    "Set-NetIPInterface -InterfaceIndex ... -AddressFamily ... ...",
    "Xen PV\\network.json",
    "try{...}catch{if($_.CategoryInfo.Category -ne 'ObjectNotFound'){throw}}",
];

#[test]
fn every_line_of_xentool_is_explained() {
    explained("Lines of xentool", &said("tools/src", &SILENT_OF_XENTOOL));
}

#[test]
fn every_reason_of_the_boot_configuration_is_explained() {
    explained("Reasons of the boot configuration", &texts("bootcfg/src/error.rs").into_iter().collect());
}

#[test]
fn a_line_is_read_from_its_call() {
    let source = "a.log(LogLevel::Error, format_args!(\n    \"state = \\\"{text}\\\": none, \\\n     {other:?}\")); // info!(\"x\")\n\
                  // warning!(\"no\")\nwarning!(\"{error}\"); wdm::error!(r\"b {{{}}}\\\", c);\n#[cfg(test)] mod t { x!(\"d\"); }\n\
                  /// info!(\"e\")\nconst C: *const u8 = info!(\"f {g}\");";
    assert_eq!(given_to(source, &CALLS), ["state = \"...\": none, ...", "b {...}\\", "f ..."]);
    let all = |constants| program(source, constants).iter().filter_map(text).collect::<Vec<_>>();
    assert_eq!(all(false), ["state = \"...\": none, ...", "...", "b {...}\\"]);
    assert_eq!(all(true).len(), 4);
}

#[test]
fn every_reason_to_stay_emulated_is_explained() {
    let document = std::fs::read_to_string(top().join("docs/troubleshooting.md")).unwrap();
    let reasons: Vec<String> = ["xenhide/src/policy.rs", "xen-abi/src/unplug.rs"].into_iter().flat_map(texts).collect();
    for reason in &reasons {
        // Nothing at all is unplugged then, which has a line of its own.
        let explained = reason == "Xen is not visible or too old" || document.contains(&format!("stay: {reason}`"));
        assert!(explained, "not explained: {reason}");
    }
    assert_eq!(reasons.len(), 9, "{reasons:?}");
}
