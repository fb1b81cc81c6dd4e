//! Reads of `KUSER_SHARED_DATA`, which lies in the half of the address space that Linux keeps for itself: each is carried
//! out on a copy of the page that is made for it.

use crate::trap::Regs;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use nt::ke::shared::{ADDRESS, fill};
use nt::platform::PAGE_SIZE;

/// CF, PF, AF, ZF, SF, OF.
const STATUS_FLAGS: u64 = 0x8d5;

/// Whether an address is in the page.
pub fn holds(address: usize) -> bool {
    (ADDRESS..ADDRESS + PAGE_SIZE).contains(&address)
}

/// Carries out the instruction that read `address` of the page. False: it is not one that compilers read memory with.
pub fn read(regs: &mut Regs<'_>, code: &[u8], address: usize) -> bool {
    let instruction = Decoder::with_ip(64, code, regs.rip(), DecoderOptions::NONE).decode();
    let bytes = instruction.memory_size().size();
    let offset = address - ADDRESS;
    if instruction.is_invalid() || !matches!(bytes, 1 | 2 | 4 | 8) || offset + bytes > PAGE_SIZE {
        return false;
    }
    let mut page = [0; PAGE_SIZE];
    fill(&mut page);
    let mut value = [0; 8];
    value[..bytes].copy_from_slice(&page[offset..offset + bytes]);
    let value = u64::from_le_bytes(value);
    carry_out(regs, &instruction, value, bytes)
}

/// Carries out an instruction whose memory operand has `bytes` bytes with this value. False: it is not one that compilers
/// read memory with, or it writes to memory.
pub fn carry_out(regs: &mut Regs<'_>, instruction: &Instruction, value: u64, bytes: usize) -> bool {
    let done = operate(regs, instruction, value, bytes);
    if done {
        regs.set_rip(instruction.next_ip());
    }
    done
}

fn operate(regs: &mut Regs<'_>, instruction: &Instruction, value: u64, bytes: usize) -> bool {
    let shift = 64 - 8 * bytes as u32;
    match instruction.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movzx => write(regs, instruction.op0_register(), value),
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            write(regs, instruction.op0_register(), ((value << shift) as i64 >> shift) as u64)
        }
        Mnemonic::Cmp
        | Mnemonic::Test
        | Mnemonic::Add
        | Mnemonic::Sub
        | Mnemonic::And
        | Mnemonic::Or
        | Mnemonic::Xor => {
            let memory_first = instruction.op0_kind() == OpKind::Memory;
            let other = u32::from(memory_first);
            let operand = match instruction.op_kind(other) {
                OpKind::Register => match register(regs, instruction.op_register(other)) {
                    Some(value) => value,
                    None => return false,
                },
                OpKind::Memory => return false,
                _ => instruction.immediate(other),
            };
            let (left, right) = if memory_first { (value, operand) } else { (operand, value) };
            let mask = u64::MAX >> shift;
            let (left, right) = (left & mask, right & mask);
            let (result, carry, overflow) = match instruction.mnemonic() {
                Mnemonic::Add => {
                    let sum = left.wrapping_add(right) & mask;
                    (sum, sum < left, (left ^ sum) & (right ^ sum))
                }
                Mnemonic::Cmp | Mnemonic::Sub => {
                    let difference = left.wrapping_sub(right) & mask;
                    (difference, left < right, (left ^ right) & (left ^ difference))
                }
                Mnemonic::Or => (left | right, false, 0),
                Mnemonic::Xor => (left ^ right, false, 0),
                _ => (left & right, false, 0),
            };
            let keeps = matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
            // The page is not the driver's to write.
            if !keeps && (memory_first || !write(regs, instruction.op0_register(), result)) {
                return false;
            }
            let top = 1 << (8 * bytes - 1);
            let flags = u64::from(carry)
                | u64::from((result as u8).count_ones().is_multiple_of(2)) << 2
                | (left ^ right ^ result) & 0x10
                | u64::from(result == 0) << 6
                | u64::from(result & top != 0) << 7
                | u64::from(overflow & top != 0) << 11;
            let merged = regs.flags() & !STATUS_FLAGS | flags;
            regs.set_flags(merged);
            true
        }
        _ => false,
    }
}

/// The registers whose second byte has a name of its own.
const HIGH: [Register; 4] = [Register::AH, Register::CH, Register::DH, Register::BH];

/// The value of a general register as an instruction names it.
pub fn register(regs: &Regs<'_>, name: Register) -> Option<u64> {
    if !name.is_gpr() {
        return None;
    }
    let value = regs.get(name.full_register().number());
    Some(if HIGH.contains(&name) { value >> 8 } else { value })
}

/// Writes a register as an instruction of its width does. False: it is no general one.
fn write(regs: &mut Regs<'_>, name: Register, value: u64) -> bool {
    if !name.is_gpr() {
        return false;
    }
    let number = name.full_register().number();
    let old = regs.get(number);
    let new = match name.size() {
        8 => value,
        4 => value & 0xffff_ffff,
        2 => old & !0xffff | value & 0xffff,
        _ if HIGH.contains(&name) => old & !0xff00 | (value & 0xff) << 8,
        _ => old & !0xff | value & 0xff,
    };
    regs.set(number, new);
    true
}
