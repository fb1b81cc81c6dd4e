//! Says of each image which of its imports the personality lacks: `cargo run -p nt --example imports -- FILE.sys ...`.
//! Imports from another image of the command line count as found where that image exports them. Exit code 1: some are
//! missing.

use object::LittleEndian as LE;
use object::read::pe::{ImageNtHeaders, Import, PeFile64};
use std::collections::BTreeSet;
use std::process::ExitCode;

struct Image {
    name: String,
    imports: Vec<(String, String)>,
    exports: BTreeSet<String>,
}

fn read(path: &str) -> Result<Image, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let file = PeFile64::parse(&*bytes).map_err(|error| error.to_string())?;
    let mut imports = Vec::new();
    if let Some(table) = file.import_table().map_err(|error| error.to_string())? {
        let mut descriptors = table.descriptors().map_err(|error| error.to_string())?;
        while let Some(descriptor) = descriptors.next().map_err(|error| error.to_string())? {
            let module = text(table.name(descriptor.name.get(LE)).map_err(|error| error.to_string())?);
            let first = match descriptor.original_first_thunk.get(LE) {
                0 => descriptor.first_thunk.get(LE),
                rva => rva,
            };
            let mut thunks = table.thunks(first).map_err(|error| error.to_string())?;
            while let Some(thunk) = thunks.next::<object::pe::ImageNtHeaders64>().map_err(|error| error.to_string())? {
                let name =
                    match table.import::<object::pe::ImageNtHeaders64>(thunk).map_err(|error| error.to_string())? {
                        Import::Ordinal(number) => format!("#{number}"),
                        Import::Name(_, name) => text(name),
                    };
                imports.push((module.to_ascii_lowercase(), name));
            }
        }
    }
    let mut exports = BTreeSet::new();
    if let Some(table) = file.export_table().map_err(|error| error.to_string())? {
        for export in table.exports().map_err(|error| error.to_string())? {
            exports.extend(export.name.map(text));
        }
    }
    debug_assert!(file.nt_headers().is_type_64());
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    Ok(Image { name, imports, exports })
}

fn main() -> ExitCode {
    let mut images = Vec::new();
    let mut failed = false;
    for path in std::env::args().skip(1) {
        match read(&path) {
            Ok(image) => images.push(image),
            Err(error) => {
                println!("{path}: {error}");
                failed = true;
            }
        }
    }
    for image in &images {
        let missing: Vec<String> = image
            .imports
            .iter()
            .filter(|(module, name)| {
                let other = images.iter().find(|other| other.name == *module);
                other.map_or_else(|| nt::exports::lookup(module, name).is_none(), |other| !other.exports.contains(name))
            })
            .map(|(module, name)| format!("{module}!{name}"))
            .collect();
        let (name, count) = (&image.name, image.imports.len());
        if missing.is_empty() {
            println!("{name}: all of {count} imports are there");
        } else {
            println!("{name}: {} of {count} imports are missing: {}", missing.len(), missing.join(" "));
            failed = true;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
