//! Turns `xenvbd.sys+0x1a2b` in any text into function, file and line, from the PDB that lies beside the image.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The symbols of the images of one drivers folder, loaded when first needed.
pub struct Symbols {
    folder: PathBuf,
    cache: Mutex<HashMap<(String, u32), Option<String>>>,
}

impl Symbols {
    /// Symbols for the packages below `folder` (`<folder>/<driver>/<driver>.pdb`).
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), cache: Mutex::new(HashMap::new()) }
    }

    /// The text with every `name.sys+0xoffset` followed by ` (function at file:line)` where that can be found.
    pub fn resolve(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(".sys+0x") {
            let hex_at = at + ".sys+0x".len();
            let digits = rest[hex_at..].bytes().take_while(u8::is_ascii_hexdigit).count();
            let start = rest[..at].rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |n| n + 1);
            result.push_str(&rest[..hex_at + digits]);
            if let Ok(rva) = u32::from_str_radix(&rest[hex_at..hex_at + digits], 16)
                && let Some(place) = self.place(&rest[start..at], rva)
            {
                // Writing to a String does not fail.
                let _ = write!(result, " ({place})");
            }
            rest = &rest[hex_at + digits..];
        }
        result.push_str(rest);
        result
    }

    fn place(&self, driver: &str, rva: u32) -> Option<String> {
        let mut cache = self.cache.lock().ok()?;
        cache.entry((driver.to_owned(), rva)).or_insert_with(|| look_up(&self.folder, driver, rva)).clone()
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
fn look_up(folder: &Path, driver: &str, rva: u32) -> Option<String> {
    let file = std::fs::File::open(folder.join(driver).join(format!("{driver}.pdb"))).ok()?;
    let pdb = pdb_addr2line::pdb::PDB::open(file).ok()?;
    let data = pdb_addr2line::ContextPdbData::try_from_pdb(pdb).ok()?;
    let context = data.make_context().ok()?;
    let frames = context.find_frames(rva).ok()??;
    let parts: Vec<String> = frames
        .frames
        .iter()
        .map(|frame| {
            let function = frame.function.as_deref().unwrap_or("?");
            match (&frame.file, frame.line) {
                (Some(file), Some(line)) => format!("{function} at {file}:{line}"),
                _ => function.to_owned(),
            }
        })
        .collect();
    Some(parts.join(" < "))
}
