//! Port I/O and CPUID.

use core::arch::{asm, x86_64::__cpuid_count};

/// Writes a byte to a port. Any IRQL.
///
/// # Safety
/// The port belongs to a device that takes this byte.
pub unsafe fn write_u8(port: u16, value: u8) {
    // SAFETY: by contract; no memory is touched.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Writes bytes to a port, one after the other. Any IRQL.
///
/// # Safety
/// The port belongs to a device that takes these bytes.
pub unsafe fn write_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: by contract; the slice is only read. The direction flag is clear as the ABI has it.
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// CPUID: eax, ebx, ecx, edx. Any IRQL.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = __cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}
