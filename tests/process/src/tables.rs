//! Where the code of an image is not code: compilers put the tables of `switch` statements between and behind the
//! functions. A disassembler that runs into one sees instructions that are not there.
//!
//! A table is found by the instruction that takes its address: `lea` of a place in the code (entries relative to the
//! table), or a scaled access at a displacement from the image's base that leads there (entries relative to the image).

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use nt::platform::CodeRange;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Parts of the ranges that are instructions, ascending. `base` is the image's base.
///
/// # Safety
/// The ranges are readable.
pub unsafe fn code_parts(base: usize, ranges: &[CodeRange]) -> Vec<Range<usize>> {
    // SAFETY: the caller's promise.
    let bytes = |from: usize, to: usize| unsafe { std::slice::from_raw_parts(from as *const u8, to - from) };
    let place = |address: usize| ranges.iter().find(|range| (range.start..range.end).contains(&address));
    let mut targets: BTreeSet<usize> = ranges.iter().map(|range| range.start).collect();
    // Each table's place, and what its entries are relative to; none for tables of bytes.
    let mut tables: BTreeMap<usize, Option<usize>> = BTreeMap::new();
    for range in ranges {
        let code = bytes(range.start, range.end);
        for instruction in Decoder::with_ip(64, code, range.start as u64, DecoderOptions::NONE) {
            if matches!(instruction.op0_kind(), OpKind::NearBranch64) {
                targets.insert(instruction.near_branch_target() as usize);
            } else if let Some((table, relative_to)) = table_of(&instruction, base)
                && place(table).is_some()
            {
                tables.entry(table).or_insert(relative_to);
            }
        }
    }
    tables.retain(|table, _| !targets.contains(table));
    // What the entries lead to is code; a table ends where an entry leads nowhere, or where something else begins.
    let mut ends: BTreeMap<usize, usize> = BTreeMap::new();
    for (&table, &relative_to) in &tables {
        let Some(range) = place(table) else { continue };
        let mut at = table;
        while let Some(relative_to) = relative_to
            && at + 4 <= range.end
            && (at == table || !(targets.contains(&at) || tables.contains_key(&at)))
        {
            let entry = bytes(at, at + 4).try_into().map_or(0, i32::from_le_bytes);
            let target = relative_to.wrapping_add_signed(entry as isize);
            if place(target).is_none() {
                break;
            }
            targets.insert(target);
            at += 4;
        }
        // What has no entry that leads to code is no table: a function's address, or an array that is elsewhere.
        if at > table {
            ends.insert(table, at);
        }
    }
    // A table of bytes, which are indexes into another table, stands right behind that one.
    let behind: BTreeSet<usize> = ends.values().copied().collect();
    tables.retain(|table, relative_to| match relative_to {
        Some(_) => ends.contains_key(table),
        None => behind.contains(table),
    });
    let mut parts = Vec::new();
    for range in ranges {
        let mut from = range.start;
        while let Some((&table, _)) = tables.range(from..range.end).next() {
            if from < table {
                parts.push(from..table);
            }
            let end = ends.get(&table).copied().unwrap_or(table).max(table + 1);
            from = targets.range(end..range.end).next().copied().unwrap_or(range.end);
        }
        if from < range.end {
            parts.push(from..range.end);
        }
    }
    parts
}

/// The table whose address an instruction takes, and what its entries are relative to.
fn table_of(instruction: &Instruction, base: usize) -> Option<(usize, Option<usize>)> {
    if instruction.mnemonic() == Mnemonic::Lea && instruction.is_ip_rel_memory_operand() {
        let table = instruction.ip_rel_memory_address() as usize;
        return Some((table, Some(table)));
    }
    let indexed = instruction.memory_base() != Register::None && instruction.memory_base() != Register::RIP;
    let displacement = instruction.memory_displacement64() as usize;
    if !indexed || !(0x1000..1 << 31).contains(&displacement) || instruction.memory_index() == Register::None {
        return None;
    }
    match (instruction.mnemonic(), instruction.memory_index_scale()) {
        (Mnemonic::Mov | Mnemonic::Movsxd, 4) => Some((base + displacement, Some(base))),
        (Mnemonic::Movzx, 1) => Some((base + displacement, None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(code: &[u8], base: usize) -> Vec<Range<usize>> {
        let start = code.as_ptr() as usize;
        // SAFETY: the slice is readable.
        let found = unsafe { code_parts(base, &[CodeRange { start, end: start + code.len() }]) };
        found.into_iter().map(|part| part.start - start..part.end - start).collect()
    }

    #[test]
    fn a_table_behind_a_function_is_no_code() {
        // lea rdx, [rip + 7]; movsxd rax, [rdx + rcx*4]; jmp rax (2); nop; table: two entries to 13; a nop after it.
        let mut code = vec![0x48, 0x8d, 0x15, 7, 0, 0, 0, 0x48, 0x63, 0x04, 0x8a, 0xff, 0xe0, 0x90];
        for _ in 0..2 {
            code.extend((-1_i32).to_le_bytes());
        }
        code.extend([0, 0]);
        let found = parts(&code, 0);
        assert_eq!((found.len(), found[0].clone()), (1, 0..14));
    }

    #[test]
    fn code_without_tables_is_one_part() {
        // jz over the nop; nop; ret
        let found = parts(&[0x74, 1, 0x90, 0xc3], 0);
        assert_eq!((found.len(), found[0].clone()), (1, 0..4));
    }
}
