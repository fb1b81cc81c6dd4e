//! Changing stacks: threads take turns on a processor by it, and so do processors on the one thread of a process.

use core::arch::naked_asm;

/// MXCSR at a context's start: every floating-point exception masked.
const MXCSR: u32 = 0x1f80;
/// The x87 control word at a context's start: every exception masked, 64-bit precision.
const FPU_CONTROL: u32 = 0x37f;
/// Words of a fresh context: what [`change`] pops, and room that keeps `entry` aligned.
const WORDS: usize = 16;

/// Writes a context to the end of a fresh stack: the first [`change`] to it enters `entry` with RSP a multiple of 16, as
/// before a call. Returns where it is. Any IRQL.
///
/// # Safety
/// `top` is the end of a writable stack of at least a page, a multiple of 16. Nothing runs on it.
pub unsafe fn prepare(top: usize, entry: unsafe extern "sysv64" fn()) -> usize {
    // SAFETY: below the top of the fresh stack, by the caller's promise.
    unsafe {
        let words = (top as *mut usize).sub(WORDS);
        words.write_bytes(0, WORDS);
        words.cast::<u32>().write(MXCSR);
        words.cast::<u32>().add(1).write(FPU_CONTROL);
        words.add(7).write(entry as *const () as usize);
        words as usize
    }
}

/// Changes stacks: pushes what a callee must keep, stores RSP at `from`, loads it from `to`. Returns when another context
/// changes back. Any IRQL; the caller sees to it that nothing else changes to either context meanwhile.
///
/// # Safety
/// `to` is what [`prepare`] returned or this function stored, and has not been used since. `from` is writable.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn change(_from: *mut usize, _to: usize) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "ldmxcsr [rsp]",
        "fldcw [rsp + 4]",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}
