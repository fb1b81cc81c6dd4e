//! An image that is right in every respect, and each fault planted in it: a check that cannot fail checks nothing.

use super::code;
use super::headers::checksum;
use super::violations;

const TEXT: u32 = 0x1000;
const RDATA: u32 = 0x2000;
const PDATA: u32 = 0x3000;
const RELOC: u32 = 0x4000;
const FILE_ALIGNMENT: u32 = 0x200;
const HEADERS: u32 = 0x400;
const GUID: [u8; 16] = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8];

/// Where the checksum stands in the file that [`Image::build`] makes.
const CHECKSUM: usize = 0x40 + 4 + 20 + 0x40;

const CODE: u32 = 0x6000_0020;
const DATA: u32 = 0x4000_0040;
const DISCARDABLE: u32 = 0x0200_0000;
const EXECUTE: u32 = 0x2000_0000;
const WRITE: u32 = 0x8000_0000;

/// A driver image by its parts.
struct Image {
    machine: u16,
    file_flags: u16,
    subsystem: u16,
    flags: u16,
    entry: u32,
    export: &'static str,
    module: &'static str,
    import: &'static str,
    code: Vec<u8>,
    unwind: Vec<u8>,
    section_flags: [u32; 4],
    names: [&'static [u8; 8]; 4],
    tls: u32,
    pdb_name: &'static str,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            machine: 0x8664,
            file_flags: 0x22,
            subsystem: 1,
            flags: 0x1e0,
            entry: TEXT,
            export: "DriverEntry",
            module: "ntoskrnl.exe",
            import: "KeBugCheckEx",
            code: vec![0x48, 0x83, 0xec, 0x28, 0x31, 0xc0, 0x48, 0x83, 0xc4, 0x28, 0xc3], // sub, xor, add, ret
            unwind: vec![1, 4, 1, 0, 4, 0x42],                                            // 0x28 bytes
            section_flags: [CODE, DATA, DATA, DATA | DISCARDABLE],
            names: [b".text\0\0\0", b".rdata\0\0", b".pdata\0\0", b".reloc\0\0"],
            tls: 0,
            pdb_name: "test.pdb",
        }
    }
}

impl Image {
    fn build(&self) -> Vec<u8> {
        let mut pdata = Vec::new();
        for value in [TEXT, TEXT + self.code.len() as u32, PDATA + 0x100] {
            put32(&mut pdata, value);
        }
        pdata.resize(0x100, 0);
        pdata.extend(&self.unwind);
        let mut reloc = Vec::new();
        put32(&mut reloc, TEXT);
        put32(&mut reloc, 8);
        let sections = [self.code.clone(), self.rdata(), pdata, reloc];

        let mut file = vec![0; 0x40];
        file[..2].copy_from_slice(b"MZ");
        file[0x3c] = 0x40;
        file.extend(b"PE\0\0");
        put16(&mut file, self.machine);
        put16(&mut file, 4);
        file.extend([0; 12]);
        put16(&mut file, 240);
        put16(&mut file, self.file_flags);
        self.optional_header(&mut file);
        let mut offset = HEADERS;
        for (index, content) in sections.iter().enumerate() {
            file.extend(self.names[index]);
            put32(&mut file, content.len() as u32);
            put32(&mut file, [TEXT, RDATA, PDATA, RELOC][index]);
            let size = (content.len() as u32).next_multiple_of(FILE_ALIGNMENT);
            put32(&mut file, size);
            put32(&mut file, offset);
            file.extend([0; 12]);
            put32(&mut file, self.section_flags[index]);
            offset += size;
        }
        file.resize(HEADERS as usize, 0);
        for content in &sections {
            file.extend(content);
            file.resize(file.len().next_multiple_of(FILE_ALIGNMENT as usize), 0);
        }
        let sum = checksum(&file, CHECKSUM);
        file[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
        file
    }

    fn optional_header(&self, file: &mut Vec<u8>) {
        put16(file, 0x20b);
        file.extend([0; 14]);
        put32(file, self.entry);
        put32(file, TEXT);
        put64(file, 0x1_8000_0000);
        put32(file, 0x1000);
        put32(file, FILE_ALIGNMENT);
        file.extend([0; 16]);
        put32(file, 0x5000);
        put32(file, HEADERS);
        put32(file, 0);
        put16(file, self.subsystem);
        put16(file, self.flags);
        file.extend([0; 32]);
        put32(file, 0);
        put32(file, 16);
        let mut directories = [(0, 0); 16];
        directories[0] = (RDATA, 0x80);
        directories[1] = (RDATA + 0x80, 40);
        directories[3] = (PDATA, 12);
        directories[5] = (RELOC, 8);
        directories[6] = (RDATA + 0x180, 28);
        directories[9] = (self.tls, self.tls.min(40));
        directories[12] = (RDATA + 0xf0, 16);
        for (address, size) in directories {
            put32(file, address);
            put32(file, size);
        }
    }

    /// Exports at 0, imports at 0x80, debug directory at 0x180.
    fn rdata(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for value in [0, 0, 0, RDATA + 0x40, 1, 1, 1, RDATA + 0x28, RDATA + 0x2c, RDATA + 0x30] {
            put32(&mut data, value);
        }
        put32(&mut data, TEXT);
        put32(&mut data, RDATA + 0x50);
        put16(&mut data, 0);
        text_at(&mut data, 0x40, "test.sys");
        text_at(&mut data, 0x50, self.export);
        data.resize(0x80, 0);
        for value in [RDATA + 0xd0, 0, 0, RDATA + 0xc0, RDATA + 0xf0] {
            put32(&mut data, value);
        }
        text_at(&mut data, 0xc0, self.module);
        for _ in 0..2 {
            data.resize(data.len().next_multiple_of(0x10), 0);
            put64(&mut data, u64::from(RDATA + 0x110));
            put64(&mut data, 0);
            data.resize(data.len() + 0x10, 0);
        }
        text_at(&mut data, 0x112, self.import);
        data.resize(0x180, 0);
        let record_size = 24 + self.pdb_name.len() as u32 + 1;
        for value in [0, 0, 0, 2, record_size, RDATA + 0x1a0] {
            put32(&mut data, value);
        }
        put32(&mut data, HEADERS + (self.code.len() as u32).next_multiple_of(FILE_ALIGNMENT) + 0x1a0);
        data.resize(0x1a0, 0);
        data.extend(b"RSDS");
        data.extend(GUID);
        put32(&mut data, 1);
        data.extend(self.pdb_name.as_bytes());
        data.push(0);
        data
    }

    /// What is wrong with it, with its own PDB beside it.
    fn faults(&self) -> Vec<String> {
        violations(&self.build(), Some(&pdb(GUID)), "test.pdb", code::MAX_FRAME).unwrap()
    }
}

fn put16(data: &mut Vec<u8>, value: u16) {
    data.extend(value.to_le_bytes());
}

fn put32(data: &mut Vec<u8>, value: u32) {
    data.extend(value.to_le_bytes());
}

fn put64(data: &mut Vec<u8>, value: u64) {
    data.extend(value.to_le_bytes());
}

fn text_at(data: &mut Vec<u8>, at: usize, text: &str) {
    data.resize(at, 0);
    data.extend(text.as_bytes());
    data.push(0);
}

/// The smallest PDB that carries a GUID: superblock, free block map, a directory of two streams, the PDB stream.
fn pdb(guid: [u8; 16]) -> Vec<u8> {
    const BLOCK: usize = 0x1000;
    let mut stream = Vec::new();
    for value in [20_000_404, 0, 1] {
        put32(&mut stream, value);
    }
    // On disk the first three parts are little-endian, as in the image.
    stream.extend(guid);
    stream.extend([0; 64]);

    let mut file = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0".to_vec();
    for value in [BLOCK as u32, 1, 6, 16, 0, 4] {
        put32(&mut file, value);
    }
    let mut directory = Vec::new();
    for value in [2, 0, stream.len() as u32, 5] {
        put32(&mut directory, value);
    }
    for (block, content) in [(3, directory), (4, 3_u32.to_le_bytes().to_vec()), (5, stream)] {
        file.resize(block * BLOCK, 0);
        file.extend(content);
    }
    file.resize(6 * BLOCK, 0);
    file
}

#[track_caller]
fn refused(image: &Image, expected: &str) {
    let faults = image.faults();
    assert!(faults.len() == 1 && faults[0].contains(expected), "expected one line with `{expected}`: {faults:#?}");
}

#[test]
fn an_image_without_fault_passes() {
    assert_eq!(Image::default().faults(), Vec::<String>::new());
}

#[test]
fn what_is_no_64_bit_image_is_refused() {
    assert!(violations(b"MZ", None, "test.pdb", code::MAX_FRAME).unwrap()[0].contains("not a 64-bit PE image"));
    refused(&Image { machine: 0xaa64, ..Image::default() }, "machine 0xaa64");
}

#[test]
fn a_console_program_is_refused() {
    refused(&Image { subsystem: 3, ..Image::default() }, "subsystem 3");
}

#[test]
fn each_missing_protection_is_refused() {
    refused(&Image { flags: 0x0e0, ..Image::default() }, "NX_COMPAT");
    refused(&Image { flags: 0x1a0, ..Image::default() }, "DYNAMIC_BASE");
    refused(&Image { flags: 0x160, ..Image::default() }, "FORCE_INTEGRITY");
    refused(&Image { file_flags: 0x23, ..Image::default() }, "no relocations");
}

#[test]
fn thread_local_storage_is_refused() {
    refused(&Image { tls: RDATA, ..Image::default() }, "thread-local storage");
}

#[test]
fn another_entry_point_is_refused() {
    refused(&Image { entry: TEXT + 4, ..Image::default() }, "not DriverEntry");
    refused(&Image { export: "DllMain", ..Image::default() }, "no DriverEntry");
}

#[test]
fn a_wrong_checksum_is_refused() {
    let mut data = Image::default().build();
    let last = data.len() - 1;
    data[last] ^= 1;
    let faults = violations(&data, Some(&pdb(GUID)), "test.pdb", code::MAX_FRAME).unwrap();
    assert!(faults.len() == 1 && faults[0].contains("checksum"), "{faults:#?}");
}

#[test]
fn writable_code_is_refused() {
    let section_flags = [CODE | WRITE, DATA, DATA, DATA | DISCARDABLE];
    refused(&Image { section_flags, ..Image::default() }, ".text both writable and executable");
    let section_flags = [CODE, DATA | WRITE | EXECUTE, DATA, DATA | DISCARDABLE];
    let faults = Image { section_flags, ..Image::default() }.faults();
    assert!(faults.iter().any(|fault| fault.contains(".rdata both writable and executable")), "{faults:#?}");
}

#[test]
fn discardable_sections_are_refused_where_they_would_be_missed() {
    let section_flags = [CODE | DISCARDABLE, DATA, DATA, DATA | DISCARDABLE];
    refused(&Image { section_flags, ..Image::default() }, ".text discardable");
    let names = [b"INIT\0\0\0\0", b".rdata\0\0", b".pdata\0\0", b".reloc\0\0"];
    let init = Image { section_flags, names, ..Image::default() };
    assert_eq!(init.faults(), Vec::<String>::new());

    let names = [b".text\0\0\0", b".rdata\0\0", b"INIT\0\0\0\0", b".reloc\0\0"];
    let section_flags = [CODE, DATA, DATA | DISCARDABLE, DATA | DISCARDABLE];
    refused(&Image { section_flags, names, ..Image::default() }, "exception table in the discardable section INIT");
    let section_flags = [CODE, DATA, DATA, DATA | DISCARDABLE | WRITE];
    refused(&Image { section_flags, ..Image::default() }, "both discardable and writable");
}

#[test]
fn imports_from_elsewhere_or_of_later_names_are_refused() {
    refused(&Image { module: "ntdll.dll", ..Image::default() }, "imports from ntdll.dll");
    refused(
        &Image { import: "ExAllocatePool3", ..Image::default() },
        "imports ntoskrnl.exe!ExAllocatePool3, which Windows 10 2004 does not export",
    );
    refused(&Image { module: "hal.dll", ..Image::default() }, "hal.dll!KeBugCheckEx");
}

#[test]
fn the_pdb_must_be_there_and_be_the_right_one() {
    let image = Image::default().build();
    let with = |pdb: Option<&[u8]>| violations(&image, pdb, "test.pdb", code::MAX_FRAME).unwrap().join("\n");
    assert_eq!(with(None), "has no test.pdb beside it");
    assert!(with(Some(b"not a PDB")).contains("is no PDB"));
    let mut other = GUID;
    other[0] ^= 1;
    assert_eq!(with(Some(&pdb(other))), "belongs to another test.pdb: the GUIDs differ");
    refused(&Image { pdb_name: "C:\\build\\test.pdb", ..Image::default() }, "names its PDB C:\\build\\test.pdb");
}

#[test]
fn large_stack_frames_are_refused() {
    // A large allocation: 0x108 times 8 bytes.
    refused(&Image { unwind: vec![1, 7, 2, 0, 7, 0x01, 0x08, 0x01], ..Image::default() }, "stack frame of 2112 bytes");
    // A huge one: 0x800 and a pushed register.
    let unwind = vec![1, 8, 4, 0, 8, 0x11, 0x00, 0x08, 0x00, 0x00, 1, 0x30];
    refused(&Image { unwind, ..Image::default() }, "stack frame of 2056 bytes");
    // Exactly 2 KiB is allowed.
    let unwind = vec![1, 7, 2, 0, 7, 0x01, 0x00, 0x01];
    assert_eq!(Image { unwind, ..Image::default() }.faults(), Vec::<String>::new());
}

#[test]
fn a_frame_that_is_chained_to_another_counts_both() {
    let mut unwind = vec![1 | 4 << 3, 7, 2, 0, 7, 0x01, 0x00, 0x01];
    for value in [TEXT, TEXT + 4, PDATA + 0x120] {
        put32(&mut unwind, value);
    }
    unwind.resize(0x20, 0);
    unwind.extend([1, 4, 1, 0, 4, 0x42]);
    refused(&Image { unwind, ..Image::default() }, "stack frame of 2088 bytes");
}

#[test]
fn registers_of_the_user_thread_are_left_alone() {
    let with = |code: &[u8]| Image { code: code.to_vec(), ..Image::default() };
    refused(&with(&[0xc5, 0xfc, 0x58, 0xc1, 0xc3]), "AVX"); // vaddps ymm0, ymm0, ymm1
    refused(&with(&[0xd9, 0xe8, 0xc3]), "x87"); // fld1
    refused(&with(&[0x0f, 0xfc, 0xc1, 0xc3]), "MMX"); // paddb mm0, mm1
    refused(&with(&[0x06, 0xc3]), "no instruction"); // push es, gone in 64-bit mode
    assert_eq!(with(&[0x0f, 0x58, 0xc1, 0xc3]).faults(), Vec::<String>::new()); // addps xmm0, xmm1
}

#[test]
fn code_without_an_exception_table_entry_is_looked_at_too() {
    // The table's only function is cut to its first four bytes; an x87 instruction follows.
    let mut data = Image { code: vec![0x90, 0x90, 0x90, 0xc3, 0xd9, 0xe8, 0xc3], ..Image::default() }.build();
    let end_of_function = (HEADERS + 2 * FILE_ALIGNMENT) as usize + FILE_ALIGNMENT as usize + 4;
    data[end_of_function..end_of_function + 4].copy_from_slice(&(TEXT + 4).to_le_bytes());
    let sum = checksum(&data, CHECKSUM);
    data[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
    let faults = violations(&data, Some(&pdb(GUID)), "test.pdb", code::MAX_FRAME).unwrap();
    assert!(faults.len() == 1 && faults[0].contains("x87"), "{faults:#?}");
}
