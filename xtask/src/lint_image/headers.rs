//! Headers, sections, entry point, checksum and imports.

use anyhow::Context;
use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, Import, PeFile64};

use crate::exports::Exports;

/// Modules that a driver may import from.
const MODULES: [&str; 4] = ["ntoskrnl.exe", "hal.dll", "storport.sys", "ndis.sys"];

/// Everything but the imports.
pub fn check(image: &PeFile64, data: &[u8]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let header = image.nt_headers();
    let optional = header.optional_header();
    let machine = header.file_header().machine.get(LE);
    if machine != pe::IMAGE_FILE_MACHINE_AMD64 {
        found.push(format!("is for machine {machine:#06x}, not for x64"));
    }
    let subsystem = optional.subsystem();
    if subsystem != pe::IMAGE_SUBSYSTEM_NATIVE {
        found.push(format!("has subsystem {subsystem}, not native (1)"));
    }
    check_flags(image, &mut found);
    check_entry(image, &mut found)?;
    check_sections(image, &mut found);
    let stored = optional.check_sum();
    let right = checksum(data, checksum_offset(image));
    if stored != right {
        found.push(format!("has checksum {stored:#x}, which is {right:#x} if it were right"));
    }
    Ok(found)
}

fn check_flags(image: &PeFile64, found: &mut Vec<String>) {
    let header = image.nt_headers();
    let flags = header.optional_header().dll_characteristics();
    for (flag, name) in [
        (pe::IMAGE_DLLCHARACTERISTICS_NX_COMPAT, "no-execute data (NX_COMPAT)"),
        (pe::IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE, "a random base (DYNAMIC_BASE)"),
        (pe::IMAGE_DLLCHARACTERISTICS_FORCE_INTEGRITY, "forced integrity checks (FORCE_INTEGRITY)"),
    ] {
        if (flags & flag).0 == 0 {
            found.push(format!("does not ask for {name}"));
        }
    }
    if (header.file_header().characteristics.get(LE) & pe::IMAGE_FILE_RELOCS_STRIPPED).0 != 0 {
        found.push("has no relocations, so its base cannot be random".into());
    }
    for (index, name) in [
        (pe::IMAGE_DIRECTORY_ENTRY_TLS, "thread-local storage"),
        (pe::IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT, "delayed imports"),
    ] {
        if image.data_directories().get(index).is_some_and(|entry| entry.virtual_address.get(LE) != 0) {
            found.push(format!("has {name}, which a driver cannot have"));
        }
    }
}

fn check_entry(image: &PeFile64, found: &mut Vec<String>) -> anyhow::Result<()> {
    let entry = image.nt_headers().optional_header().address_of_entry_point();
    let table = image.export_table().context("the export table is not readable")?;
    let exports = match &table {
        Some(table) => table.exports().context("the export table is not readable")?,
        None => Vec::new(),
    };
    let driver_entry = exports.iter().find(|export| export.name == Some(b"DriverEntry"));
    match driver_entry.map(|export| export.target) {
        Some(object::read::pe::ExportTarget::Address(rva)) if rva == entry && entry != 0 => {}
        Some(_) => found.push(format!("has its entry point at {entry:#x}, which is not DriverEntry")),
        None => found.push("has no DriverEntry".into()),
    }
    Ok(())
}

fn check_sections(image: &PeFile64, found: &mut Vec<String>) {
    for section in image.section_table().iter() {
        let name = String::from_utf8_lossy(section.raw_name()).into_owned();
        let flags = section.characteristics.get(LE);
        let has = |flag| (flags & flag).0 != 0;
        if has(pe::IMAGE_SCN_MEM_WRITE) && has(pe::IMAGE_SCN_MEM_EXECUTE) {
            found.push(format!("has section {name} both writable and executable"));
        }
        if !has(pe::IMAGE_SCN_MEM_DISCARDABLE) {
            continue;
        }
        // Windows gives the memory of such a section away once DriverEntry has returned.
        if name != "INIT" && name != ".reloc" {
            found.push(format!("has section {name} discardable, which only INIT and .reloc may be"));
        }
        if has(pe::IMAGE_SCN_MEM_WRITE) {
            found.push(format!("has section {name} both discardable and writable"));
        }
        let first = section.virtual_address.get(LE);
        let end = first.saturating_add(section.virtual_size.get(LE));
        for (index, what) in [
            (pe::IMAGE_DIRECTORY_ENTRY_IAT, "import addresses"),
            (pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION, "exception table"),
            (pe::IMAGE_DIRECTORY_ENTRY_EXPORT, "exports"),
            (pe::IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG, "load configuration"),
        ] {
            let address = image.data_directories().get(index).map_or(0, |entry| entry.virtual_address.get(LE));
            if address != 0 && (first..end).contains(&address) {
                found.push(format!("has its {what} in the discardable section {name}"));
            }
        }
    }
}

/// Only from [`MODULES`], only by name, only names on the list.
pub fn check_imports(image: &PeFile64, exports: &Exports) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let Some(table) = image.import_table().context("the import table is not readable")? else { return Ok(found) };
    let mut descriptors = table.descriptors()?;
    while let Some(descriptor) = descriptors.next().context("the import table is not readable")? {
        let module = String::from_utf8_lossy(table.name(descriptor.name.get(LE))?).to_ascii_lowercase();
        if !MODULES.contains(&module.as_str()) {
            found.push(format!("imports from {module}; a driver of ours imports from {} only", MODULES.join(", ")));
            continue;
        }
        let known = exports.get(module.as_str());
        let mut thunks = table.thunks(descriptor.original_first_thunk.get(LE))?;
        while let Some(thunk) = thunks.next::<pe::ImageNtHeaders64>()? {
            match table.import::<pe::ImageNtHeaders64>(thunk)? {
                Import::Ordinal(number) => found.push(format!("imports {module} number {number}, not by name")),
                Import::Name(_, name) => {
                    let name = String::from_utf8_lossy(name);
                    if !known.is_some_and(|names| names.iter().any(|export| export.name == name)) {
                        found.push(format!("imports {module}!{name}, which Windows 10 2004 does not export"));
                    }
                }
            }
        }
    }
    Ok(found)
}

/// Where the checksum stands in the file: at 0x40 of the optional header.
fn checksum_offset(image: &PeFile64) -> usize {
    let signature = image.dos_header().nt_headers_offset() as usize;
    signature + size_of::<u32>() + size_of::<pe::ImageFileHeader>() + 0x40
}

/// The checksum of a PE file: the sum of its 16-bit words with the carries added back, without the checksum itself, plus
/// the length of the file.
pub fn checksum(data: &[u8], at: usize) -> u32 {
    let mut sum = 0_u32;
    for (index, pair) in data.chunks(2).enumerate() {
        if (at..at + 4).contains(&(index * 2)) {
            continue;
        }
        sum += u32::from(pair[0]) | u32::from(pair.get(1).copied().unwrap_or(0)) << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum + data.len() as u32
}
