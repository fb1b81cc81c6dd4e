//! The loader: PE32+ images into memory, with everything that Windows checks of a driver image.
//! <https://learn.microsoft.com/windows/win32/debug/pe-format>

use crate::ex::fault::{self, Refusal};
use crate::exports::{self, Export, Kind};
use crate::ke::Kirql;
use crate::platform::{CodeRange, PAGE_SIZE, Protection, platform};
use crate::seh;
use crate::sync::IrqLock;
use crate::{ke, verifier};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::c_void;
use core::fmt;
use core::ptr::{NonNull, null_mut};
use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, ImageThunkData, PeFile64};

/// Why an image does not load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// It is no PE32+ image, or its tables do not hold.
    Corrupt(String),
    /// It is for another machine or of another kind.
    Unsuitable(String),
    /// It imports a name that nobody exports.
    MissingImport {
        /// From which module.
        module: String,
        /// The name or the ordinal.
        name: String,
    },
    /// It imports from a module that is neither the personality's nor loaded.
    MissingModule(String),
    /// It is loaded already.
    AlreadyLoaded,
    /// No memory.
    NoMemory,
    /// DllInitialize of an export driver failed with this status.
    Initialize(i32),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(why) => write!(f, "the image is corrupt: {why}"),
            Self::Unsuitable(why) => write!(f, "the image is no x64 driver: {why}"),
            Self::MissingImport { module, name } => {
                write!(f, "it imports {name} from {module}, which the personality lacks")
            }
            Self::MissingModule(module) => write!(f, "it imports from {module}, which is not loaded"),
            Self::AlreadyLoaded => write!(f, "it is loaded already"),
            Self::NoMemory => write!(f, "there is no memory for it"),
            Self::Initialize(status) => write!(f, "DllInitialize failed with {status:#x}"),
        }
    }
}

/// A loaded image.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Where it stands.
    pub base: *mut u8,
    /// Bytes that it takes.
    pub size: usize,
    /// What stands in `DRIVER_OBJECT.DriverSection`.
    pub section: *mut c_void,
    /// DriverEntry.
    pub entry: usize,
}

/// A section of a loaded image.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its first byte.
    pub start: usize,
    /// Behind its last byte.
    pub end: usize,
    /// The system may page it: its name begins with `PAGE`.
    /// <https://learn.microsoft.com/windows-hardware/drivers/kernel/making-driver-code-or-data-pageable>
    pub pageable: bool,
}

impl Section {
    /// Says whether it is pageable from now on.
    pub fn set_pageable(&self, pageable: bool) {
        if let Some((base, pages)) = self.pages() {
            platform().set_pageable(base, pages, pageable);
        }
    }

    /// Its pages. None, if it does not begin with one.
    pub fn pages(&self) -> Option<(NonNull<u8>, usize)> {
        let base = NonNull::new(self.start as *mut u8).filter(|_| self.start.is_multiple_of(PAGE_SIZE))?;
        Some((base, (self.end - self.start).div_ceil(PAGE_SIZE)))
    }
}

/// What is known of a loaded image.
struct Image {
    name: String,
    base: usize,
    size: usize,
    code: Vec<(usize, usize)>,
    sections: Vec<Section>,
    exports: BTreeMap<String, usize>,
    users: usize,
    uses: Vec<usize>,
}

static IMAGES: IrqLock<Vec<Image>> = IrqLock::new(Vec::new());

/// What the thunk of an export knows. Its first field is the target of the jump.
#[repr(C)]
pub struct Thunk {
    target: usize,
    /// The export's name.
    pub name: &'static str,
    /// The highest IRQL at which it may be called.
    pub max_irql: Kirql,
    /// How it fails where there are no resources, if it allocates for its caller.
    pub refusal: Option<Refusal>,
}

/// Thunks by export address; their code stands in pages that are read and executed only.
static THUNKS: IrqLock<BTreeMap<usize, usize>> = IrqLock::new(BTreeMap::new());

/// `IMAGE_SCN_MEM_EXECUTE`.
const EXECUTE: u32 = 0x2000_0000;
/// `IMAGE_SCN_MEM_WRITE`.
const WRITE: u32 = 0x8000_0000;

/// Bytes of one thunk: `mov r10, imm64; mov r11, imm64; jmp r11`, padded.
const THUNK_BYTES: usize = 32;

/// Where every thunk goes: `r10` is the [`Thunk`]. Keeps the arguments, asks the verifier, goes on to the export with
/// the stack as the driver left it; or returns to the driver at once, where the verifier gives a failure to return.
#[unsafe(naked)]
unsafe extern "win64" fn thunk_body() {
    core::arch::naked_asm!(
        "push r10",
        "push rcx",
        "push rdx",
        "push r8",
        "push r9",
        "sub rsp, 0x60",
        "movups [rsp + 0x20], xmm0",
        "movups [rsp + 0x30], xmm1",
        "movups [rsp + 0x40], xmm2",
        "movups [rsp + 0x50], xmm3",
        "mov rcx, r10",
        "lea rdx, [rsp + 0x88]",
        "call {check}",
        "movups xmm0, [rsp + 0x20]",
        "movups xmm1, [rsp + 0x30]",
        "movups xmm2, [rsp + 0x40]",
        "movups xmm3, [rsp + 0x50]",
        "add rsp, 0x60",
        "pop r9",
        "pop r8",
        "pop rdx",
        "pop rcx",
        "pop r10",
        "test rax, rax",
        "jnz 2f",
        "jmp [r10]",
        "2:",
        "mov rax, [rax]",
        "ret",
        check = sym verifier::on_call,
    )
}

/// Makes the thunks of all exports. Called once, by the first load.
fn make_thunks() -> Option<()> {
    if !THUNKS.lock().is_empty() {
        return Some(());
    }
    let functions: Vec<&'static Export> = exports::all().filter(|export| export.kind == Kind::Function).collect();
    let pages = (functions.len() * THUNK_BYTES).div_ceil(PAGE_SIZE);
    let base = platform().alloc_pages(pages)?;
    let mut thunks = BTreeMap::new();
    for (index, export) in functions.iter().enumerate() {
        let record: &'static Thunk = Box::leak(Box::new(Thunk {
            target: export.addr as usize,
            name: export.name,
            max_irql: verifier::max_irql(export.name),
            refusal: fault::refusal(export.name),
        }));
        let mut code = [0xcc_u8; THUNK_BYTES];
        code[..2].copy_from_slice(&[0x49, 0xba]);
        code[2..10].copy_from_slice(&(core::ptr::from_ref(record) as usize).to_le_bytes());
        code[10..12].copy_from_slice(&[0x49, 0xbb]);
        code[12..20].copy_from_slice(&(thunk_body as *const () as usize).to_le_bytes());
        code[20..23].copy_from_slice(&[0x41, 0xff, 0xe3]);
        // SAFETY: the pages have room for all thunks.
        unsafe {
            let place = base.as_ptr().add(index * THUNK_BYTES);
            place.copy_from_nonoverlapping(code.as_ptr(), THUNK_BYTES);
            thunks.insert(core::ptr::from_ref::<Export>(export) as usize, place as usize);
        }
    }
    platform().protect(base, pages, Protection::ReadExecute);
    *THUNKS.lock() = thunks;
    Some(())
}

/// The address that a driver gets for an export: its thunk, or the variable itself.
pub fn driver_address(export: &'static Export) -> usize {
    match export.kind {
        Kind::Data => export.addr as usize,
        Kind::Function => {
            let found = THUNKS.lock().get(&(core::ptr::from_ref(export) as usize)).copied();
            found.unwrap_or(export.addr as usize)
        }
    }
}

/// The name of the export whose thunk starts at an address. Any IRQL.
pub fn export_at(address: usize) -> Option<&'static str> {
    if !THUNKS.lock().values().any(|&thunk| thunk == address) {
        return None;
    }
    // SAFETY: a thunk starts with `mov r10, imm64`, whose number is the address of a record that is never freed.
    unsafe { Some((*((address + 2) as *const *const Thunk).read_unaligned()).name) }
}

/// Where the thunks are that drivers call in place of the kernel's functions. None before the first image.
pub fn thunk_range() -> Option<core::ops::Range<usize>> {
    let thunks = THUNKS.lock();
    let start = thunks.values().min()?;
    Some(*start..thunks.values().max()? + THUNK_BYTES)
}

/// The address that a driver gets for a name of ntoskrnl.exe or hal.dll (MmGetSystemRoutineAddress).
pub fn routine_address(name: &str) -> Option<usize> {
    let _ = make_thunks();
    exports::lookup("ntoskrnl.exe", name).map(driver_address)
}

fn corrupt(why: impl fmt::Display) -> LoadError {
    LoadError::Corrupt(why.to_string())
}

/// Reads `N` bytes of an image in memory.
fn field<const N: usize>(image: &[u8], rva: usize) -> Result<[u8; N], LoadError> {
    image
        .get(rva..)
        .and_then(|tail| tail.first_chunk::<N>())
        .copied()
        .ok_or_else(|| corrupt(format!("a table lies outside of it, at {rva:#x}")))
}

/// Loads an image and binds it; calls DllInitialize of an export driver that it is the first to use.
/// IRQL = PASSIVE_LEVEL.
///
/// # Errors
/// See [`LoadError`]. Nothing stays behind then.
pub fn load(name: &str, bytes: &[u8]) -> Result<Loaded, LoadError> {
    if IMAGES.lock().iter().any(|image| image.name.eq_ignore_ascii_case(name)) {
        return Err(LoadError::AlreadyLoaded);
    }
    make_thunks().ok_or(LoadError::NoMemory)?;
    let pe = PeFile64::parse(bytes).map_err(corrupt)?;
    let header = pe.nt_headers();
    let file = header.file_header();
    let optional = header.optional_header();
    if file.machine.get(LE) != pe::IMAGE_FILE_MACHINE_AMD64 {
        return Err(LoadError::Unsuitable(format!("machine {:#x}", file.machine.get(LE))));
    }
    if optional.subsystem() != pe::IMAGE_SUBSYSTEM_NATIVE {
        return Err(LoadError::Unsuitable(format!("subsystem {}, not native", optional.subsystem())));
    }
    let size = optional.size_of_image() as usize;
    let headers = optional.size_of_headers() as usize;
    let alignment = optional.section_alignment() as usize;
    if size == 0 || size > 256 << 20 || headers > size || headers > bytes.len() || !alignment.is_power_of_two() {
        return Err(corrupt("sizes of its header do not fit"));
    }
    let pages = size.div_ceil(PAGE_SIZE);
    let base = platform().alloc_pages(pages).ok_or(LoadError::NoMemory)?;
    let result = place(name, bytes, &pe, base, pages);
    if result.is_err() {
        platform().free_pages(base, pages);
    }
    result
}

fn place(name: &str, bytes: &[u8], pe: &PeFile64<'_>, base: NonNull<u8>, pages: usize) -> Result<Loaded, LoadError> {
    let optional = pe.nt_headers().optional_header();
    let size = optional.size_of_image() as usize;
    let start = base.as_ptr() as usize;
    // SAFETY: the pages were just allocated, and nobody else knows of them until this function is done.
    let image = unsafe { core::slice::from_raw_parts_mut(base.as_ptr(), pages * PAGE_SIZE) };
    let headers = optional.size_of_headers() as usize;
    image[..headers].copy_from_slice(&bytes[..headers]);
    for section in pe.section_table().iter() {
        let rva = section.virtual_address.get(LE) as usize;
        let raw = section.pointer_to_raw_data.get(LE) as usize;
        let virtual_size = section.virtual_size.get(LE) as usize;
        let raw_size = section.size_of_raw_data.get(LE) as usize;
        let used = if virtual_size == 0 { raw_size } else { raw_size.min(virtual_size) };
        let from = bytes.get(raw..raw + used).ok_or_else(|| corrupt("the file ends inside of a section"))?;
        let end = rva + virtual_size.max(used);
        if end > size || rva < headers {
            return Err(corrupt("a section lies outside of the image"));
        }
        image[rva..rva + used].copy_from_slice(from);
    }
    relocate(image, pe, bytes, start)?;
    let (uses, first_users) = bind(image, pe, start)?;
    security_cookie(image, pe, start)?;
    let functions = exception_table(image, pe)?;
    let exported = export_table(pe, start)?;
    let entry = optional.address_of_entry_point() as usize;
    if entry == 0 || entry >= size {
        return Err(corrupt("it has no entry point"));
    }
    let code = code_ranges(pe, &functions.2);
    let ranges: Vec<CodeRange> =
        code.iter().map(|&(from, to)| CodeRange { start: start + from, end: start + to }).collect();
    platform().prepare_code(base, pages * PAGE_SIZE, &ranges);
    let sections = protect(pe, base, pages);
    let registered = seh::images::Image {
        base: start as u64,
        size: size as u64,
        functions: functions.0 as u32,
        count: functions.1 as u32,
    };
    // SAFETY: the image stays until `unload`, which takes it out first.
    if !unsafe { seh::images::register(registered) } {
        return Err(LoadError::NoMemory);
    }
    {
        let mut images = IMAGES.lock();
        for used in &uses {
            if let Some(other) = images.iter_mut().find(|image| image.base == *used) {
                other.users += 1;
            }
        }
        images.push(Image {
            name: name.to_string(),
            base: start,
            size,
            code: code.iter().map(|&(from, to)| (start + from, start + to)).collect(),
            sections,
            exports: exported,
            users: 0,
            uses,
        });
    }
    for library in first_users {
        initialize_library(&library).inspect_err(|_| drop(forget(start)))?;
    }
    platform().log(&format!("loader: {name} at {start:#x}, {size:#x} bytes"));
    Ok(Loaded { base: base.as_ptr(), size, section: null_mut(), entry: start + entry })
}

/// Applies base relocations.
fn relocate(image: &mut [u8], pe: &PeFile64<'_>, bytes: &[u8], start: usize) -> Result<(), LoadError> {
    let wanted = pe.nt_headers().optional_header().image_base();
    let delta = (start as u64).wrapping_sub(wanted);
    if delta == 0 {
        return Ok(());
    }
    let Some(mut blocks) = pe.data_directories().relocation_blocks(bytes, &pe.section_table()).map_err(corrupt)? else {
        // An image may hold no absolute address at all; only this flag says that the relocations were taken out.
        let stripped = pe.nt_headers().file_header().characteristics.get(LE).0 & pe::IMAGE_FILE_RELOCS_STRIPPED.0 != 0;
        if stripped {
            return Err(corrupt("its relocations are stripped and it cannot stand at its own address"));
        }
        return Ok(());
    };
    while let Some(block) = blocks.next().map_err(corrupt)? {
        for relocation in block {
            let rva = relocation.virtual_address as usize;
            match relocation.typ {
                pe::IMAGE_REL_BASED_ABSOLUTE => {}
                pe::IMAGE_REL_BASED_DIR64 => {
                    let value = u64::from_le_bytes(field(image, rva)?).wrapping_add(delta);
                    image[rva..rva + 8].copy_from_slice(&value.to_le_bytes());
                }
                other => return Err(corrupt(format!("a relocation of type {}", other.0))),
            }
        }
    }
    Ok(())
}

/// Resolves imports. Returns the images it uses, and those of them that nobody used before.
fn bind(image: &mut [u8], pe: &PeFile64<'_>, start: usize) -> Result<(Vec<usize>, Vec<String>), LoadError> {
    let mut uses = Vec::new();
    let mut first = Vec::new();
    let Some(table) = pe.import_table().map_err(corrupt)? else { return Ok((uses, first)) };
    let mut descriptors = table.descriptors().map_err(corrupt)?;
    while let Some(descriptor) = descriptors.next().map_err(corrupt)? {
        let module = String::from_utf8_lossy(table.name(descriptor.name.get(LE)).map_err(corrupt)?).into_owned();
        let lookup = match descriptor.original_first_thunk.get(LE) {
            0 => descriptor.first_thunk.get(LE),
            rva => rva,
        };
        let mut thunks = table.thunks(lookup).map_err(corrupt)?;
        let mut slot = descriptor.first_thunk.get(LE) as usize;
        let own = exports::is_own_module(&module);
        let library = if own { None } else { Some(find_library(&module)?) };
        if let Some((base, unused)) = library
            && !uses.contains(&base)
        {
            uses.push(base);
            if unused {
                first.push(module.clone());
            }
        }
        while let Some(thunk) = thunks.next::<pe::ImageNtHeaders64>().map_err(corrupt)? {
            let (text, address) = if thunk.is_ordinal() {
                (format!("ordinal {}", thunk.ordinal()), None)
            } else {
                let (_, raw) = table.hint_name(thunk.address()).map_err(corrupt)?;
                let text = String::from_utf8_lossy(raw).into_owned();
                let address = match library {
                    None => exports::lookup(&module, &text).map(driver_address),
                    Some((base, _)) => library_export(base, &text),
                };
                (text, address)
            };
            let address = address.ok_or_else(|| LoadError::MissingImport { module: module.clone(), name: text })?;
            field::<8>(image, slot)?;
            image[slot..slot + 8].copy_from_slice(&(address as u64).to_le_bytes());
            slot += 8;
        }
    }
    let _ = start;
    Ok((uses, first))
}

fn find_library(module: &str) -> Result<(usize, bool), LoadError> {
    let images = IMAGES.lock();
    let found = images.iter().find(|image| image.name.eq_ignore_ascii_case(module));
    found.map(|image| (image.base, image.users == 0)).ok_or_else(|| LoadError::MissingModule(module.to_string()))
}

fn library_export(base: usize, name: &str) -> Option<usize> {
    IMAGES.lock().iter().find(|image| image.base == base)?.exports.get(name).copied()
}

/// Calls DllInitialize of an export driver.
/// <https://learn.microsoft.com/windows-hardware/drivers/kernel/dllinitialize>
fn initialize_library(name: &str) -> Result<(), LoadError> {
    let routine = {
        let images = IMAGES.lock();
        images
            .iter()
            .find(|image| image.name.eq_ignore_ascii_case(name))
            .and_then(|image| image.exports.get("DllInitialize").copied())
    };
    let Some(routine) = routine else { return Ok(()) };
    let service = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let path = format!(r"\Registry\Machine\System\CurrentControlSet\Services\{service}");
    let mut text: Vec<u16> = path.encode_utf16().chain([0]).collect();
    let bytes = (text.len() - 1) as u16 * 2;
    let mut path =
        crate::rtl::abi::UnicodeString { length: bytes, maximum_length: bytes + 2, buffer: text.as_mut_ptr() };
    // SAFETY: the export of a loaded driver with this documented signature.
    let status = unsafe {
        let routine = core::mem::transmute::<usize, unsafe extern "win64" fn(*mut c_void) -> i32>(routine);
        routine((&raw mut path).cast())
    };
    if status < 0 { Err(LoadError::Initialize(status)) } else { Ok(()) }
}

/// Gives the image a cookie of its own, as the kernel's loader does.
fn security_cookie(image: &mut [u8], pe: &PeFile64<'_>, start: usize) -> Result<(), LoadError> {
    /// `SecurityCookie` in IMAGE_LOAD_CONFIG_DIRECTORY64.
    const COOKIE: usize = 0x58;
    let Some(directory) = pe.data_directory(pe::IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG) else { return Ok(()) };
    let rva = directory.virtual_address.get(LE) as usize;
    if rva == 0 || (directory.size.get(LE) as usize) < COOKIE + 8 {
        return Ok(());
    }
    let address = u64::from_le_bytes(field(image, rva + COOKIE)?);
    if address == 0 {
        return Ok(());
    }
    let at = (address as usize).wrapping_sub(start);
    field::<8>(image, at)?;
    let cookie = (platform().random() & 0x0000_ffff_ffff_ffff) | 1;
    image[at..at + 8].copy_from_slice(&cookie.to_le_bytes());
    Ok(())
}

/// Checks the exception directory; returns where it is, its entries, and the functions.
#[allow(clippy::type_complexity)]
fn exception_table(image: &[u8], pe: &PeFile64<'_>) -> Result<(usize, usize, Vec<(usize, usize)>), LoadError> {
    let Some(directory) = pe.data_directory(pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION) else { return Ok((0, 0, Vec::new())) };
    let rva = directory.virtual_address.get(LE) as usize;
    let count = directory.size.get(LE) as usize / 12;
    let mut functions = Vec::with_capacity(count);
    let mut last = 0;
    for index in 0..count {
        let entry = field::<12>(image, rva + index * 12)?;
        let word = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]) as usize;
        let (from, to) = (word(0), word(4));
        if from < last || to <= from || to > image.len() {
            return Err(corrupt("its function table is not in order"));
        }
        last = from;
        functions.push((from, to));
    }
    Ok((rva, count, functions))
}

/// The code of the image in pieces that start at an instruction: the functions of the table, and between them what has
/// no entry because it needs none (leaf functions and padding).
fn code_ranges(pe: &PeFile64<'_>, functions: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut ranges = Vec::new();
    for section in pe.section_table().iter().filter(|section| section.characteristics.get(LE).0 & EXECUTE != 0) {
        let start = section.virtual_address.get(LE) as usize;
        let mut at = start;
        let end = at + section.virtual_size.get(LE) as usize;
        for &(from, to) in functions.iter().filter(|(from, to)| (start..end).contains(from) && *to <= end) {
            if from > at {
                ranges.push((at, from));
            }
            if to > at {
                ranges.push((from.max(at), to));
                at = to;
            }
        }
        if at < end {
            ranges.push((at, end));
        }
    }
    ranges
}

fn export_table(pe: &PeFile64<'_>, start: usize) -> Result<BTreeMap<String, usize>, LoadError> {
    let mut names = BTreeMap::new();
    if let Some(table) = pe.export_table().map_err(corrupt)? {
        for (pointer, index) in table.name_iter() {
            let name = table.name_from_pointer(pointer).map_err(corrupt)?;
            let rva = table.address_by_index(index).map_err(corrupt)? as usize;
            names.insert(String::from_utf8_lossy(name).into_owned(), start + rva);
        }
    }
    Ok(names)
}

/// Protects the sections as they ask, and returns them.
fn protect(pe: &PeFile64<'_>, base: NonNull<u8>, pages: usize) -> Vec<Section> {
    let mut sections = Vec::new();
    let start = base.as_ptr() as usize;
    platform().protect(base, 1.min(pages), Protection::Read);
    for section in pe.section_table().iter() {
        let flags = section.characteristics.get(LE).0;
        let rva = section.virtual_address.get(LE) as usize;
        let size = section.virtual_size.get(LE).max(1) as usize;
        let count = size.div_ceil(PAGE_SIZE);
        let protection = match (flags & EXECUTE != 0, flags & WRITE != 0) {
            (true, true) => Protection::ReadWriteExecute,
            (true, false) => Protection::ReadExecute,
            (false, true) => Protection::ReadWrite,
            (false, false) => Protection::Read,
        };
        if let Some(place) = NonNull::new((start + rva) as *mut u8).filter(|_| rva.is_multiple_of(PAGE_SIZE)) {
            platform().protect(place, count, protection);
        }
        let pageable = section.name.starts_with(b"PAGE");
        let section = Section { start: start + rva, end: start + rva + size, pageable };
        section.set_pageable(pageable);
        sections.push(section);
    }
    sections
}

fn forget(base: usize) -> Vec<usize> {
    let mut images = IMAGES.lock();
    let Some(at) = images.iter().position(|image| image.base == base) else { return Vec::new() };
    let image = images.swap_remove(at);
    for used in &image.uses {
        if let Some(other) = images.iter_mut().find(|other| other.base == *used) {
            other.users -= 1;
        }
    }
    drop(images);
    seh::images::unregister(base as u64);
    image.uses
}

/// Takes an image away after its driver was unloaded: checks that nothing refers to it or was left behind. Its pages
/// fault from then on. IRQL = PASSIVE_LEVEL.
pub fn unload(base: *mut u8) {
    let start = base as usize;
    let (name, size) = {
        let images = IMAGES.lock();
        match images.iter().find(|image| image.base == start) {
            Some(image) => (image.name.clone(), image.size),
            None => return,
        }
    };
    if let Some(what) = ke::reference_into(start, start + size) {
        verifier::violation("unload", format_args!("{name} is unloaded with {what} in it"));
    }
    if let Some(leak) = crate::ex::pool::first_leak(start, start + size) {
        verifier::violation("pool leak", format_args!("{name} is unloaded and leaves behind {leak}"));
    }
    forget(start);
    crate::mm::section::forget(start, start + size);
    let pages = size.div_ceil(PAGE_SIZE);
    if let Some(base) = NonNull::new(base) {
        platform().forget_code(base, pages * PAGE_SIZE);
        platform().free_pages(base, pages);
    }
    platform().log(&format!("loader: {name} is unloaded"));
}

/// Name and offset of the image that an address lies in. Any IRQL.
pub fn image_of(address: usize) -> Option<(String, usize)> {
    let images = IMAGES.lock();
    let image = images.iter().find(|image| (image.base..image.base + image.size).contains(&address))?;
    Some((image.name.clone(), address - image.base))
}

/// An address as reports show it: `xenpci.sys+0x1234`. Any IRQL.
pub fn describe(address: usize) -> String {
    match image_of(address) {
        Some((name, offset)) => format!("{name}+{offset:#x}"),
        None => format!("{address:#x}"),
    }
}

/// Whether an address lies in the code of an image. Any IRQL.
pub fn is_code(address: usize) -> bool {
    IMAGES.lock().iter().any(|image| {
        (image.base..image.base + image.size).contains(&address)
            && image.code.iter().any(|&(from, to)| (from..to).contains(&address))
    })
}

/// The sections of the image that an address lies in, and the image's base. Any IRQL.
pub fn sections_at(address: usize) -> Option<(usize, Vec<Section>)> {
    let images = IMAGES.lock();
    let image = images.iter().find(|image| (image.base..image.base + image.size).contains(&address))?;
    Some((image.base, image.sections.clone()))
}

/// Whether an address is behind a call instruction of an image. Any IRQL.
pub fn follows_call(address: usize) -> bool {
    if !is_code(address) || !is_code(address - 1) {
        return false;
    }
    let mut before = [0_u8; 7];
    for (index, byte) in before.iter_mut().enumerate() {
        let at = address - 7 + index;
        if is_code(at) {
            // SAFETY: code of a loaded image is readable.
            *byte = unsafe { (at as *const u8).read_volatile() };
        }
    }
    // call rel32; call r/m64 in its two, three, six and seven byte forms.
    let modrm = |byte: u8| byte & 0x38 == 0x10;
    before[2] == 0xe8
        || (before[5] == 0xff && modrm(before[6]))
        || (before[4] == 0xff && modrm(before[5]))
        || (before[1] == 0xff && modrm(before[2]))
        || (before[3] == 0xff && modrm(before[4]))
}

/// Names, bases and sizes of the loaded images.
pub fn images() -> Vec<(String, usize, usize)> {
    IMAGES.lock().iter().map(|image| (image.name.clone(), image.base, image.size)).collect()
}

/// The export of a loaded image. Any IRQL.
pub fn export_of(image: &str, name: &str) -> Option<usize> {
    let images = IMAGES.lock();
    images.iter().find(|i| i.name.eq_ignore_ascii_case(image))?.exports.get(name).copied()
}
