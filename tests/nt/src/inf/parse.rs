//! INF text to sections and lines: comments, quoting, continued lines, `%strings%`.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/install/general-syntax-rules-for-inf-files>.
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// One entry of a section: `key = value, value`, or only values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What stands before the `=`, if there is one.
    pub key: Option<String>,
    /// The fields, strings substituted and unquoted.
    pub values: Vec<String>,
    /// Line number in the file, from 1.
    pub number: usize,
}

impl Line {
    /// The `index`-th field, empty where it is missing.
    pub fn value(&self, index: usize) -> &str {
        self.values.get(index).map_or("", String::as_str)
    }

    /// Whether the entry's key is `key`.
    pub fn is(&self, key: &str) -> bool {
        self.key.as_deref().is_some_and(|k| k.eq_ignore_ascii_case(key))
    }
}

/// An INF file.
#[derive(Clone, Debug, Default)]
pub struct Inf {
    sections: Vec<(String, Vec<Line>)>,
}

/// Why a text is not an INF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfError {
    /// Line number from 1, or 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl InfError {
    pub(crate) fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

impl fmt::Display for InfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { write!(f, "{}", self.what) } else { write!(f, "line {}: {}", self.line, self.what) }
    }
}

impl core::error::Error for InfError {}

/// The text of a file in UTF-16 (with a byte order mark), UTF-8 (with or without), or else Latin-1.
pub fn decode(bytes: &[u8]) -> String {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|c| unit([c[0], c[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => match core::str::from_utf8(bytes) {
            Ok(text) => text.to_string(),
            Err(_) => bytes.iter().map(|&b| b as char).collect(),
        },
    }
}

/// The line without its comment. A `;` inside quotes is text.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ';' if !quoted => return &line[..at],
            _ => {}
        }
    }
    line
}

/// Cuts `text` at `sep` outside of quotes.
fn split(text: &str, sep: char) -> Vec<&str> {
    let (mut quoted, mut from, mut out) = (false, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            c if c == sep && !quoted => {
                out.push(&text[from..at]);
                from = at + c.len_utf8();
            }
            _ => {}
        }
    }
    out.push(&text[from..]);
    out
}

/// Removes quotes; a doubled quote inside quotes is one quote.
fn unquote(text: &str) -> String {
    let (mut out, mut quoted) = (String::new(), false);
    let mut chars = text.trim().chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                out.push('"');
            }
            '"' => quoted = !quoted,
            c => out.push(c),
        }
    }
    out
}

/// Replaces `%name%`. `%%` is a percent sign. A number stays as it is: it names a directory, not a string.
fn substitute(text: &str, strings: &BTreeMap<String, String>) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        let Some(end) = rest[start + 1..].find('%') else {
            out.push_str(&rest[start..]);
            return Ok(out);
        };
        let name = &rest[start + 1..start + 1 + end];
        if name.is_empty() {
            out.push('%');
        } else if name.chars().all(|c| c.is_ascii_digit()) {
            out.push_str(&rest[start..=start + 1 + end]);
        } else if let Some(value) = strings.get(&name.to_ascii_lowercase()) {
            out.push_str(value);
        } else {
            return Err(alloc::format!("%{name}% is not in [Strings]"));
        }
        rest = &rest[start + end + 2..];
    }
    out.push_str(rest);
    Ok(out)
}

/// A line of a section as it stands, with its number.
type RawLine = (usize, String);

fn raw_sections(text: &str) -> Result<Vec<(String, Vec<RawLine>)>, InfError> {
    let mut sections: Vec<(String, Vec<RawLine>)> = Vec::new();
    let mut current: Option<usize> = None;
    let mut pending: Option<RawLine> = None;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = without_comment(line).trim();
        let (number, line) = match pending.take() {
            Some((first, mut head)) => {
                head.push_str(line);
                (first, head)
            }
            None => (number, line.to_string()),
        };
        if let Some(head) = line.strip_suffix('\\')
            && !line.starts_with('[')
            && head.matches('"').count() % 2 == 0
        {
            pending = Some((number, head.to_string()));
            continue;
        }
        if line.is_empty() {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.split(']').next().unwrap_or("").trim().trim_matches('"');
            if name.is_empty() || !rest.contains(']') {
                return Err(InfError::new(number, "a section name is not closed or is empty"));
            }
            let known = sections.iter().position(|(n, _)| n.eq_ignore_ascii_case(name));
            current = Some(known.unwrap_or(sections.len()));
            if known.is_none() {
                sections.push((name.to_string(), Vec::new()));
            }
            continue;
        }
        match current {
            Some(place) => sections[place].1.push((number, line)),
            None => return Err(InfError::new(number, "an entry stands before the first section")),
        }
    }
    if let (Some(line), Some(place)) = (pending, current) {
        sections[place].1.push(line);
    }
    Ok(sections)
}

impl Inf {
    /// Reads an INF file.
    ///
    /// # Errors
    /// The first line that is not INF, a string that is not defined, or no `[Version]` with a Windows signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, InfError> {
        let raw = raw_sections(&decode(bytes))?;
        let mut strings = BTreeMap::new();
        // The plain section is the fallback of the one for English.
        for wanted in ["strings", "strings.0009", "strings.0409"] {
            for (_, lines) in raw.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)) {
                for (number, line) in lines {
                    let parts = split(line, '=');
                    let [key, _, ..] = parts[..] else {
                        return Err(InfError::new(*number, "a string has no value"));
                    };
                    let value = &line[key.len() + 1..];
                    strings.insert(unquote(key).to_ascii_lowercase(), unquote(value));
                }
            }
        }
        let mut inf = Self::default();
        for (name, lines) in raw {
            if name.to_ascii_lowercase().starts_with("strings") {
                continue;
            }
            let mut out = Vec::new();
            for (number, line) in lines {
                let parts = split(&line, '=');
                let (key, fields) = if let [key, _, ..] = parts[..] {
                    (Some(key), &line[key.len() + 1..])
                } else {
                    (None, line.as_str())
                };
                let text =
                    |field: &str| substitute(&unquote(field), &strings).map_err(|what| InfError::new(number, what));
                let key = key.map(text).transpose()?;
                let values = split(fields, ',').into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
                out.push(Line { key, values, number });
            }
            let name = substitute(&name, &strings).map_err(|what| InfError::new(0, what))?;
            inf.sections.push((name, out));
        }
        let signature = inf.entry("Version", "Signature").unwrap_or("").to_ascii_lowercase();
        if !matches!(signature.as_str(), "$windows nt$" | "$chicago$") {
            return Err(InfError::new(0, "[Version] has no Signature of Windows"));
        }
        Ok(inf)
    }

    /// The lines of a section, or None where there is no such section.
    pub fn section(&self, name: &str) -> Option<&[Line]> {
        self.sections.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, lines)| lines.as_slice())
    }

    /// The lines of a section with that key.
    pub fn entries<'a>(&'a self, section: &str, key: &'a str) -> impl Iterator<Item = &'a Line> {
        self.section(section).unwrap_or(&[]).iter().filter(move |line| line.is(key))
    }

    /// The first field of the first line with that key.
    pub fn entry(&self, section: &str, key: &str) -> Option<&str> {
        let line = self.section(section)?.iter().find(|line| line.is(key))?;
        Some(line.value(0))
    }
}

/// A number as INF files write it: decimal, or hexadecimal after `0x`. An empty field is zero.
pub fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let value = if digits.is_empty() {
        0
    } else if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16).ok()?
    } else {
        digits.parse().ok()?
    };
    Some(if negative { value.wrapping_neg() } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "; comment\n[Version]\nSignature = \"$Windows NT$\" ; c\n[A]\n%Name% = one, \"t;w\"\"o,=\", \\\n  three\nbare,%13%\\x.sys,100%%\n[a]\nsecond=1\n[Strings]\nName=\"The = name\"\n";

    #[test]
    fn sections_merge_and_fields_are_cut() {
        let inf = Inf::parse(SMALL.as_bytes()).unwrap();
        let lines = inf.section("A").unwrap();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].key.as_deref(), Some("The = name"));
        assert_eq!(lines[0].values, ["one", "t;w\"o,=", "three"]);
        assert_eq!(lines[1].key, None);
        assert_eq!(lines[1].values, ["bare", "%13%\\x.sys", "100%"]);
        assert_eq!(inf.entry("a", "SECOND"), Some("1"));
    }

    #[test]
    fn utf16_is_read() {
        let mut bytes = alloc::vec![0xff, 0xfe];
        bytes.extend(SMALL.encode_utf16().flat_map(u16::to_le_bytes));
        assert!(Inf::parse(&bytes).unwrap().section("A").is_some());
    }

    #[test]
    fn faults_name_their_line() {
        assert_eq!(Inf::parse(b"x=1\n").unwrap_err().line, 1);
        assert_eq!(Inf::parse(b"[Version\n").unwrap_err().line, 1);
        assert_eq!(Inf::parse(b"[Version]\nSignature=\"$Windows NT$\"\nx=%nope%\n").unwrap_err().line, 3);
        assert_eq!(Inf::parse(b"[Version]\n").unwrap_err().line, 0);
        assert!(Inf::parse(&[0x80, 0xff, 0]).is_err());
    }

    #[test]
    fn numbers() {
        assert_eq!(number("0x10001"), Some(0x10001));
        assert_eq!(number(" 3"), Some(3));
        assert_eq!(number(""), Some(0));
        assert_eq!(number("x"), None);
    }
}
