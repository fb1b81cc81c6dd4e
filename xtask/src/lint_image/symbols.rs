//! The PDB that goes with an image: that it is the right one, and the names of functions from it.

use std::collections::BTreeMap;
use std::io::Cursor;

use anyhow::Context;
use object::read::Object;
use object::read::pe::PeFile64;
use pdb_addr2line::pdb::{FallibleIterator, PDB, SymbolData};

/// Names of functions by address.
#[derive(Default)]
pub struct Symbols {
    by_rva: BTreeMap<u32, String>,
}

impl Symbols {
    /// What to call the code at `rva` in a message.
    pub fn name(&self, rva: u32) -> String {
        match self.by_rva.range(..=rva).next_back() {
            Some((_, name)) => name.clone(),
            None => format!("the function at {rva:#x}"),
        }
    }
}

/// Whether `pdb` belongs to the image, and the names in it.
pub fn check(image: &PeFile64, pdb: Option<&[u8]>, name: &str) -> anyhow::Result<(Vec<String>, Symbols)> {
    let mut found = Vec::new();
    let record = image.pdb_info().context("the debug directory is not readable")?;
    let Some(record) = record else {
        found.push("names no PDB".into());
        return Ok((found, Symbols::default()));
    };
    let path = String::from_utf8_lossy(record.path()).into_owned();
    if path != name {
        found.push(format!("names its PDB {path}, not {name}"));
    }
    let Some(pdb) = pdb else {
        found.push(format!("has no {name} beside it"));
        return Ok((found, Symbols::default()));
    };
    let mut pdb = match PDB::open(Cursor::new(pdb)) {
        Ok(pdb) => pdb,
        Err(error) => {
            found.push(format!("has a {name} beside it that is no PDB: {error}"));
            return Ok((found, Symbols::default()));
        }
    };
    let information = pdb.pdb_information().with_context(|| format!("{name} is not readable"))?;
    // The first three parts of a GUID are little-endian in the image.
    let bytes = record.guid();
    let mut of_image = bytes;
    of_image[..4].reverse();
    of_image[4..6].reverse();
    of_image[6..8].reverse();
    if information.guid.as_bytes() != &of_image {
        found.push(format!("belongs to another {name}: the GUIDs differ"));
        return Ok((found, Symbols::default()));
    }
    // Names make messages readable; a PDB without any is still the right one.
    let symbols = functions(&mut pdb).unwrap_or_default();
    Ok((found, symbols))
}

fn functions<'a>(pdb: &mut PDB<'a, Cursor<&'a [u8]>>) -> Result<Symbols, pdb_addr2line::pdb::Error> {
    let mut symbols = Symbols::default();
    let addresses = pdb.address_map()?;
    let information = pdb.debug_information()?;
    let mut modules = information.modules()?;
    while let Some(module) = modules.next()? {
        let Some(module) = pdb.module_info(&module)? else { continue };
        let mut records = module.symbols()?;
        while let Some(record) = records.next()? {
            if let Ok(SymbolData::Procedure(procedure)) = record.parse()
                && let Some(rva) = procedure.offset.to_rva(&addresses)
            {
                symbols.by_rva.insert(rva.0, procedure.name.to_string().into_owned());
            }
        }
    }
    Ok(symbols)
}
