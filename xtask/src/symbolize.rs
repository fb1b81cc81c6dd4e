//! Turns `xenvbd.sys+0x1a2b` in any text into function, file and line, from the PDB that lies beside the image.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What stands before an address that a call returns to, in the reports of `tests/nt` and the lab's guest.
const RETURNS: [&str; 3] = ["stack: ", "stack ", "call from "];

/// A call that code belongs to: of two or more at one address all but the last were inlined into the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The function, if the PDB names it.
    pub function: Option<String>,
    /// File and line, if the PDB has them.
    pub line: Option<(String, u32)>,
}

/// A place that a text names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `xenvbd.sys+0x1a2b`.
    pub text: String,
    /// The calls that it belongs to, the innermost first. None: it has no symbols.
    pub frames: Vec<Frame>,
}

/// The symbols of the images of some drivers folders, loaded when first needed.
pub struct Symbols {
    folders: Vec<PathBuf>,
    cache: Mutex<HashMap<(String, u32), Vec<Frame>>>,
}

impl Symbols {
    /// Symbols for the packages below `folder` (`<folder>/<driver>/<driver>.pdb`).
    pub fn new(folder: &Path) -> Self {
        Self { folders: vec![folder.to_owned()], cache: Mutex::new(HashMap::new()) }
    }

    /// The packages of a further folder too. Of two drivers of one name the one in the first folder is taken.
    pub fn and(mut self, folder: &Path) -> Self {
        self.folders.push(folder.to_owned());
        self
    }

    /// The text with every `name.sys+0xoffset` followed by ` (function at file:line)` where that can be found.
    pub fn resolve(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut end = 0;
        for (range, place) in self.find(text) {
            result.push_str(&text[end..range.end]);
            end = range.end;
            if !place.frames.is_empty() {
                let frames: Vec<String> = place.frames.iter().map(Frame::to_string).collect();
                // Writing to a String does not fail.
                let _ = write!(result, " ({})", frames.join(" < "));
            }
        }
        result.push_str(&text[end..]);
        result
    }

    /// Every `name.sys+0xoffset` of a text.
    pub fn places(&self, text: &str) -> Vec<Place> {
        self.find(text).into_iter().map(|(_, place)| place).collect()
    }

    fn find(&self, text: &str) -> Vec<(Range<usize>, Place)> {
        let mut found = Vec::new();
        let mut from = 0;
        while let Some(at) = text[from..].find(".sys+0x").map(|at| from + at) {
            let hex_at = at + ".sys+0x".len();
            let end = hex_at + text[hex_at..].bytes().take_while(u8::is_ascii_hexdigit).count();
            let start = text[..at].rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |n| n + 1);
            if let Ok(rva) = u32::from_str_radix(&text[hex_at..end], 16) {
                // Behind the call, where the next line of the source may begin, or the next function.
                let returns = RETURNS.iter().any(|words| text[..start].ends_with(words));
                let frames = self.frames(&text[start..at], rva.saturating_sub(u32::from(returns)));
                found.push((start..end, Place { text: text[start..end].to_owned(), frames }));
            }
            from = end;
        }
        found
    }

    fn frames(&self, driver: &str, rva: u32) -> Vec<Frame> {
        let Ok(mut cache) = self.cache.lock() else { return Vec::new() };
        let look = || self.folders.iter().find_map(|folder| look_up(folder, driver, rva)).unwrap_or_default();
        cache.entry((driver.to_owned(), rva)).or_insert_with(look).clone()
    }
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.function.as_deref().unwrap_or("?"))?;
        match &self.line {
            Some((file, line)) => write!(f, " at {file}:{line}"),
            None => Ok(()),
        }
    }
}

/// The function that each of `places` belongs to, the innermost where it was inlined, in the same order.
///
/// # Errors
/// The driver has no PDB beside it that can be read.
pub fn functions(folder: &Path, driver: &str, places: &[u32]) -> anyhow::Result<Vec<String>> {
    let file = std::fs::File::open(folder.join(driver).join(format!("{driver}.pdb")))?;
    let data = pdb_addr2line::ContextPdbData::try_from_pdb(pdb_addr2line::pdb::PDB::open(file)?)?;
    let context = data.make_context()?;
    let name = |rva: &u32| {
        let frames = context.find_frames(*rva).ok().flatten();
        let function = frames.and_then(|frames| frames.frames.into_iter().next()?.function);
        function.unwrap_or_else(|| "?".to_owned())
    };
    Ok(places.iter().map(name).collect())
}

/// Reads the PDB afresh each time: a report has a handful of frames, and nothing is kept for the runs without one.
fn look_up(folder: &Path, driver: &str, rva: u32) -> Option<Vec<Frame>> {
    let file = std::fs::File::open(folder.join(driver).join(format!("{driver}.pdb"))).ok()?;
    let pdb = pdb_addr2line::pdb::PDB::open(file).ok()?;
    let data = pdb_addr2line::ContextPdbData::try_from_pdb(pdb).ok()?;
    let context = data.make_context().ok()?;
    let frames = context.find_frames(rva).ok()??.frames;
    let frame = |frame: &pdb_addr2line::Frame<'_>| Frame {
        function: frame.function.clone(),
        line: frame.file.as_ref().map(ToString::to_string).zip(frame.line),
    };
    Some(frames.iter().map(frame).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_in_any_text() {
        let symbols = Symbols::new(&std::env::temp_dir().join("no-such-folder"));
        let text = "  stack: xenvbd.sys+0x1a2b, `f_1.sys+0x10`; x.sys+0x none, y.sys+1";
        let found: Vec<String> = symbols.places(text).into_iter().map(|place| place.text).collect();
        assert_eq!(found, ["xenvbd.sys+0x1a2b", "f_1.sys+0x10"]);
        assert_eq!(symbols.resolve(text), text);
    }
}
