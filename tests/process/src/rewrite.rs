//! Instructions that Linux does not trap in a process are found at load by disassembly and replaced by a breakpoint;
//! what stood there is remembered here.

use crate::tables;
use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic};
use nt::platform::CodeRange;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What a breakpoint stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sensitive {
    /// CPUID.
    Cpuid,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// RDRAND or RDSEED into a register (its number) of so many bytes.
    Random(u8, u8),
    /// PUSHFQ.
    Pushf,
    /// POPFQ.
    Popf,
    /// VMCALL: works on Intel.
    Vmcall,
    /// VMMCALL: works on AMD and Hygon.
    Vmmcall,
    /// PAUSE: the loop around it waits for another processor, which must get its turn.
    Pause,
}

/// What stood at an address, and its length.
#[derive(Clone, Copy, Debug)]
pub struct Patch {
    /// The instruction.
    pub what: Sensitive,
    /// Its bytes.
    pub len: u8,
}

static PATCHES: Mutex<BTreeMap<usize, Patch>> = Mutex::new(BTreeMap::new());

/// The patch at an address.
pub fn patch_at(address: usize) -> Option<Patch> {
    PATCHES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&address).copied()
}

/// Forgets the patches of an image.
pub fn forget(start: usize, end: usize) {
    PATCHES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).retain(|at, _| !(start..end).contains(at));
}

/// Rewrites functions of the image at `base` in place.
///
/// # Safety
/// The ranges are code that is writable and does not run.
pub unsafe fn rewrite(base: usize, ranges: &[CodeRange]) {
    let mut patches = PATCHES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // SAFETY: the caller's promise.
    for range in unsafe { tables::code_parts(base, ranges) } {
        // SAFETY: the caller's promise.
        let code = unsafe { std::slice::from_raw_parts_mut(range.start as *mut u8, range.end - range.start) };
        let found: Vec<(usize, Patch)> = Decoder::with_ip(64, code, range.start as u64, DecoderOptions::NONE)
            .into_iter()
            .filter_map(|instruction| {
                let what = match instruction.mnemonic() {
                    Mnemonic::Cpuid => Sensitive::Cpuid,
                    Mnemonic::Rdtsc => Sensitive::Rdtsc,
                    Mnemonic::Rdtscp => Sensitive::Rdtscp,
                    Mnemonic::Vmcall => Sensitive::Vmcall,
                    Mnemonic::Vmmcall => Sensitive::Vmmcall,
                    Mnemonic::Pause => Sensitive::Pause,
                    Mnemonic::Rdrand | Mnemonic::Rdseed => {
                        let register = instruction.op0_register();
                        Sensitive::Random(register.full_register().number() as u8, register.size() as u8)
                    }
                    _ => match instruction.code() {
                        Code::Pushfq => Sensitive::Pushf,
                        Code::Popfq => Sensitive::Popf,
                        _ => return None,
                    },
                };
                Some((instruction.ip() as usize, Patch { what, len: instruction.len() as u8 }))
            })
            .collect();
        for (at, patch) in found {
            code[at - range.start] = 0xcc;
            patches.insert(at, patch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_linux_does_not_trap() {
        // cpuid; pause; nop; xor eax, eax; vmmcall; rdrand ecx; jmp to the pause; ret
        let before = [0x0f, 0xa2, 0xf3, 0x90, 0x90, 0x31, 0xc0, 0x0f, 0x01, 0xd9, 0x0f, 0xc7, 0xf1, 0xeb, 0xf3, 0xc3];
        let mut code: Vec<u8> = before.to_vec();
        let start = code.as_mut_ptr() as usize;
        let end = start + code.len();
        // SAFETY: the vector's bytes, which nothing executes or borrows meanwhile.
        unsafe { rewrite(start, &[CodeRange { start, end }]) };
        let expected = [
            (0, Sensitive::Cpuid, 2),
            (2, Sensitive::Pause, 2),
            (7, Sensitive::Vmmcall, 3),
            (10, Sensitive::Random(1, 4), 3),
        ];
        for (at, was) in before.into_iter().enumerate() {
            let expected = expected.iter().find(|(offset, ..)| *offset == at);
            let found = patch_at(start + at);
            assert_eq!(found.map(|patch| (patch.what, patch.len)), expected.map(|&(_, what, len)| (what, len)));
            assert_eq!(code[at], if expected.is_some() { 0xcc } else { was });
        }
        forget(start, end);
        assert!((start..end).all(|at| patch_at(at).is_none()));
    }
}
