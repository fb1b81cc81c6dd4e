//! Taking the registers of a caller and putting them back.

use super::abi::Context;
use core::arch::naked_asm;

/// Stores every register at `$ctx` (`rcx` or `r10`), whose own value is stored as it is. RSP and RIP are the caller's.
/// Changes RAX only, after it was stored.
macro_rules! store_registers {
    ($ctx:literal, $stack:literal) => {
        concat!(
            "mov [",
            $ctx,
            " + 0x78], rax\n",
            "mov [",
            $ctx,
            " + 0x80], rcx\n",
            "mov [",
            $ctx,
            " + 0x88], rdx\n",
            "mov [",
            $ctx,
            " + 0x90], rbx\n",
            "mov [",
            $ctx,
            " + 0xa0], rbp\n",
            "mov [",
            $ctx,
            " + 0xa8], rsi\n",
            "mov [",
            $ctx,
            " + 0xb0], rdi\n",
            "mov [",
            $ctx,
            " + 0xb8], r8\n",
            "mov [",
            $ctx,
            " + 0xc0], r9\n",
            "mov [",
            $ctx,
            " + 0xc8], r10\n",
            "mov [",
            $ctx,
            " + 0xd0], r11\n",
            "mov [",
            $ctx,
            " + 0xd8], r12\n",
            "mov [",
            $ctx,
            " + 0xe0], r13\n",
            "mov [",
            $ctx,
            " + 0xe8], r14\n",
            "mov [",
            $ctx,
            " + 0xf0], r15\n",
            "movups [",
            $ctx,
            " + 0x1a0], xmm0\n",
            "movups [",
            $ctx,
            " + 0x1b0], xmm1\n",
            "movups [",
            $ctx,
            " + 0x1c0], xmm2\n",
            "movups [",
            $ctx,
            " + 0x1d0], xmm3\n",
            "movups [",
            $ctx,
            " + 0x1e0], xmm4\n",
            "movups [",
            $ctx,
            " + 0x1f0], xmm5\n",
            "movups [",
            $ctx,
            " + 0x200], xmm6\n",
            "movups [",
            $ctx,
            " + 0x210], xmm7\n",
            "movups [",
            $ctx,
            " + 0x220], xmm8\n",
            "movups [",
            $ctx,
            " + 0x230], xmm9\n",
            "movups [",
            $ctx,
            " + 0x240], xmm10\n",
            "movups [",
            $ctx,
            " + 0x250], xmm11\n",
            "movups [",
            $ctx,
            " + 0x260], xmm12\n",
            "movups [",
            $ctx,
            " + 0x270], xmm13\n",
            "movups [",
            $ctx,
            " + 0x280], xmm14\n",
            "movups [",
            $ctx,
            " + 0x290], xmm15\n",
            "stmxcsr [",
            $ctx,
            " + 0x34]\n",
            "mov dword ptr [",
            $ctx,
            " + 0x30], 0x10000b\n",
            "mov word ptr [",
            $ctx,
            " + 0x38], cs\n",
            "mov word ptr [",
            $ctx,
            " + 0x3a], ds\n",
            "mov word ptr [",
            $ctx,
            " + 0x3c], es\n",
            "mov word ptr [",
            $ctx,
            " + 0x3e], fs\n",
            "mov word ptr [",
            $ctx,
            " + 0x40], gs\n",
            "mov word ptr [",
            $ctx,
            " + 0x42], ss\n",
            "pushfq\n",
            "pop rax\n",
            "mov [",
            $ctx,
            " + 0x44], eax\n",
            "lea rax, [rsp + ",
            $stack,
            " + 8]\n",
            "mov [",
            $ctx,
            " + 0x98], rax\n",
            "mov rax, [rsp + ",
            $stack,
            "]\n",
            "mov [",
            $ctx,
            " + 0xf8], rax\n",
        )
    };
}
pub(crate) use store_registers;

/// `RtlCaptureContext`: the registers of the caller as they are after the call returns. Any IRQL.
#[unsafe(naked)]
pub unsafe extern "win64" fn RtlCaptureContext(context: *mut Context) {
    naked_asm!(store_registers!("rcx", "0"), "mov rax, [rcx + 0x78]", "ret")
}

/// Goes on with the registers of a context. The two words below its stack pointer are used.
///
/// # Safety
/// The context is one that the machine can go on with, on a stack of this processor, and lies below that stack pointer
/// or elsewhere.
#[unsafe(naked)]
pub unsafe extern "win64" fn restore(context: *const Context) -> ! {
    naked_asm!(
        "movups xmm0, [rcx + 0x1a0]",
        "movups xmm1, [rcx + 0x1b0]",
        "movups xmm2, [rcx + 0x1c0]",
        "movups xmm3, [rcx + 0x1d0]",
        "movups xmm4, [rcx + 0x1e0]",
        "movups xmm5, [rcx + 0x1f0]",
        "movups xmm6, [rcx + 0x200]",
        "movups xmm7, [rcx + 0x210]",
        "movups xmm8, [rcx + 0x220]",
        "movups xmm9, [rcx + 0x230]",
        "movups xmm10, [rcx + 0x240]",
        "movups xmm11, [rcx + 0x250]",
        "movups xmm12, [rcx + 0x260]",
        "movups xmm13, [rcx + 0x270]",
        "movups xmm14, [rcx + 0x280]",
        "movups xmm15, [rcx + 0x290]",
        "ldmxcsr [rcx + 0x34]",
        "mov rdx, [rcx + 0x98]",
        "mov rax, [rcx + 0xf8]",
        "mov [rdx - 8], rax",
        "mov eax, [rcx + 0x44]",
        "mov [rdx - 16], rax",
        "mov rax, [rcx + 0x78]",
        "mov rbx, [rcx + 0x90]",
        "mov rbp, [rcx + 0xa0]",
        "mov rsi, [rcx + 0xa8]",
        "mov rdi, [rcx + 0xb0]",
        "mov r8, [rcx + 0xb8]",
        "mov r9, [rcx + 0xc0]",
        "mov r10, [rcx + 0xc8]",
        "mov r11, [rcx + 0xd0]",
        "mov r12, [rcx + 0xd8]",
        "mov r13, [rcx + 0xe0]",
        "mov r14, [rcx + 0xe8]",
        "mov r15, [rcx + 0xf0]",
        "lea rsp, [rdx - 16]",
        "mov rdx, [rcx + 0x88]",
        "mov rcx, [rcx + 0x80]",
        "popfq",
        "ret",
    )
}

/// Makes an export that can raise an exception in its caller: a shim takes the caller's context and passes it to a body
/// after the arguments of the export, of which there are four at most.
///
/// The body is `unsafe extern "win64" fn(a: u64, b: u64, c: u64, d: u64, context: *mut Context) -> u64`, where
/// arguments that the export does not have are whatever the registers held.
macro_rules! raising_export {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:path;)*) => {
        $(
            $(#[$doc])*
            #[unsafe(naked)]
            pub unsafe extern "win64" fn $name($($arg: $ty),*) $(-> $ret)? {
                core::arch::naked_asm!(
                    "sub rsp, 0x538",
                    "lea r10, [rsp + 0x60]",
                    $crate::seh::context::store_registers!("r10", "0x538"),
                    "mov [rsp + 0x20], r10",
                    "call {body}",
                    "add rsp, 0x538",
                    "ret",
                    body = sym $body,
                )
            }
        )*
    };
}
pub(crate) use raising_export;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_context_goes_on_behind_its_capture() {
        let mut context = Context::empty();
        let turns = core::sync::atomic::AtomicU32::new(0);
        // SAFETY: the context is restored while this frame stands.
        unsafe { RtlCaptureContext(&mut context) };
        if turns.fetch_add(1, core::sync::atomic::Ordering::Relaxed) < 2 {
            // SAFETY: as above; `context` lies above the stack pointer but not in the two words below it.
            unsafe { restore(&raw const context) };
        }
        assert_eq!(turns.load(core::sync::atomic::Ordering::Relaxed), 3);
    }
}
