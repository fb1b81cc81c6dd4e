//! Stack frames, from the unwind data, and instructions that kernel code must not use, by disassembly.

use anyhow::{Context, bail};
use iced_x86::{CpuidFeature, Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic};
use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile64};

use super::symbols::Symbols;

/// The largest stack frame allowed, in bytes. A kernel stack is 24 KiB and is shared by the whole device stack.
pub const MAX_FRAME: u32 = 2048;
/// The same for a build that is not meant to ship: what is not inlined moves large values through frames of its own.
pub const MAX_FRAME_DEV: u32 = 2 * MAX_FRAME;

/// A function of the exception table: the addresses of its first byte, of the byte after its last, of its unwind data.
struct Function {
    begin: u32,
    end: u32,
    unwind: u32,
}

/// Frames of at most `max_frame` bytes, and instructions.
pub fn check(image: &PeFile64, symbols: &Symbols, max_frame: u32) -> anyhow::Result<Vec<String>> {
    let functions = functions(image)?;
    let mut found = Vec::new();
    for function in &functions {
        let frame = frame_size(image, function.unwind).with_context(|| symbols.name(function.begin))?;
        if frame > max_frame {
            let name = symbols.name(function.begin);
            found.push(format!("{name} has a stack frame of {frame} bytes, more than {max_frame}"));
        }
    }
    for section in image.section_table().iter() {
        if (section.characteristics.get(LE) & pe::IMAGE_SCN_MEM_EXECUTE).0 == 0 {
            continue;
        }
        let code = section.pe_data(image.data()).context("a code section is cut short")?;
        let first = section.virtual_address.get(LE);
        let mut at = first;
        // The functions of the table one by one, and what lies between them: functions without a frame, and padding.
        for function in functions.iter().filter(|function| (first..first + code.len() as u32).contains(&function.begin))
        {
            if function.begin > at {
                disassemble(slice(code, first, at, function.begin), at, false, symbols, &mut found);
            }
            disassemble(slice(code, first, function.begin, function.end), function.begin, true, symbols, &mut found);
            at = at.max(function.end);
        }
        disassemble(slice(code, first, at, first + code.len() as u32), at, false, symbols, &mut found);
    }
    Ok(found)
}

fn slice(code: &[u8], first: u32, begin: u32, end: u32) -> &[u8] {
    let begin = begin.saturating_sub(first) as usize;
    let end = (end.saturating_sub(first) as usize).min(code.len());
    code.get(begin..end).unwrap_or_default()
}

/// The functions of the exception table, by address.
fn functions(image: &PeFile64) -> anyhow::Result<Vec<Function>> {
    let Some(directory) = image.data_directories().get(pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION) else {
        return Ok(Vec::new());
    };
    if directory.virtual_address.get(LE) == 0 {
        return Ok(Vec::new());
    }
    let table = directory.data(image.data(), &image.section_table()).context("the exception table is not readable")?;
    let mut functions: Vec<Function> = table
        .chunks_exact(12)
        .map(|entry| Function { begin: u32_at(entry, 0), end: u32_at(entry, 4), unwind: u32_at(entry, 8) })
        .collect();
    functions.sort_by_key(|function| function.begin);
    Ok(functions)
}

/// Bytes of stack that the function behind the unwind data at `rva` takes, registers it saves by pushing included.
///
/// Source: "x64 exception handling", learn.microsoft.com, struct UNWIND_INFO.
fn frame_size(image: &PeFile64, rva: u32) -> anyhow::Result<u32> {
    const CHAINED: u8 = 4;
    let size_of_image = image.nt_headers().optional_header().size_of_image();
    let (mut rva, mut frame, mut links) = (rva, 0_u32, 0);
    loop {
        let data = image
            .section_table()
            .pe_data_at(image.data(), rva)
            .with_context(|| format!("unwind data at {rva:#x} of {size_of_image:#x} bytes"))?;
        let header = data.get(..4).context("unwind data is cut short")?;
        let (flags, count) = (header[0] >> 3, usize::from(header[2]));
        let codes = data.get(4..4 + count * 2).context("unwind data is cut short")?;
        let mut index = 0;
        while index < count {
            let (operation, info) = (codes[index * 2 + 1] & 0xf, codes[index * 2 + 1] >> 4);
            let slot = |n: usize| -> anyhow::Result<u32> {
                let bytes = codes.get((index + n) * 2..(index + n) * 2 + 2).context("unwind data is cut short")?;
                Ok(u32::from(bytes[0]) | u32::from(bytes[1]) << 8)
            };
            let (bytes, slots) = match (operation, info) {
                (0, _) => (8, 1),                             // a register is pushed
                (1, 0) => (slot(1)?.saturating_mul(8), 2),    // a large allocation
                (1, 1) => (slot(1)? | slot(2)? << 16, 3),     // a huge one
                (2, _) => (u32::from(info) * 8 + 8, 1),       // a small one
                (4 | 8, _) => (0, 2),                         // a register is saved by a move
                (5 | 9, _) => (0, 3),                         // the same, far away
                (3 | 6, _) => (0, 1),                         // a frame register is set; an epilogue
                (10, _) => (40 + 8 * u32::from(info & 1), 1), // an interrupt frame
                _ => bail!("unwind operation {operation}/{info} is not known"),
            };
            frame = frame.saturating_add(bytes);
            index += slots;
        }
        if flags & CHAINED == 0 {
            return Ok(frame);
        }
        links += 1;
        if links > 32 {
            bail!("the unwind data goes in a circle");
        }
        let chain = 4 + count.next_multiple_of(2) * 2;
        rva = u32_at(data.get(chain..chain + 12).context("unwind data is cut short")?, 8);
    }
}

/// Reports each instruction that kernel code must not use. `is_function`: the bytes are code for certain, so what cannot
/// be decoded is reported too.
fn disassemble(code: &[u8], rva: u32, is_function: bool, symbols: &Symbols, found: &mut Vec<String>) {
    let mut decoder = Decoder::with_ip(64, code, u64::from(rva), DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let what = if instruction.is_invalid() {
            if !is_function {
                continue;
            }
            "bytes that are no instruction"
        } else if let Some(what) = forbidden(&instruction) {
            what
        } else {
            continue;
        };
        let name = symbols.name(instruction.ip() as u32);
        found.push(format!("{name} has {what} ({:?}) at {:#x}", instruction.mnemonic(), instruction.ip()));
    }
}

/// Why kernel code must not use an instruction: its registers belong to the interrupted user thread.
fn forbidden(instruction: &Instruction) -> Option<&'static str> {
    let of = |wanted: &[CpuidFeature]| instruction.cpuid_features().iter().any(|feature| wanted.contains(feature));
    if instruction.mnemonic() == Mnemonic::Int3 {
        None
    } else if instruction.encoding() != EncodingKind::Legacy {
        Some("an AVX or other VEX-encoded instruction")
    } else if of(&[CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387]) {
        Some("an x87 instruction")
    } else if of(&[CpuidFeature::MMX]) {
        Some("an MMX instruction")
    } else {
        None
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
