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

/// Ports of a device that this driver may use.
pub struct Ports {
    first: u16,
    count: u16,
}

impl Ports {
    /// The ports from `first` on.
    ///
    /// # Safety
    /// They belong to a device that takes any access of 8, 16 and 32 bits to them without harm to memory.
    pub const unsafe fn new(first: u16, count: u16) -> Self {
        Self { first, count }
    }

    fn contains(&self, port: u16, width: u16) -> bool {
        port.checked_sub(self.first).is_some_and(|at| at < self.count && width <= self.count - at)
    }

    /// Reads 8 bits; all ones from a port that is not one of these. Any IRQL.
    pub fn read_u8(&self, port: u16) -> u8 {
        let mut value = u8::MAX;
        if self.contains(port, 1) {
            // SAFETY: by the contract of `new`; no memory is touched.
            unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack, preserves_flags)) }
        }
        value
    }

    /// Reads 16 bits; all ones from a port that is not one of these. Any IRQL.
    pub fn read_u16(&self, port: u16) -> u16 {
        let mut value = u16::MAX;
        if self.contains(port, 2) {
            // SAFETY: by the contract of `new`; no memory is touched.
            unsafe { asm!("in ax, dx", out("ax") value, in("dx") port, options(nomem, nostack, preserves_flags)) }
        }
        value
    }

    /// Writes 16 bits; nothing to a port that is not one of these. Any IRQL.
    pub fn write_u16(&self, port: u16, value: u16) {
        if self.contains(port, 2) {
            // SAFETY: by the contract of `new`; no memory is touched.
            unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) }
        }
    }

    /// Writes 32 bits; nothing to a port that is not one of these. Any IRQL.
    pub fn write_u32(&self, port: u16, value: u32) {
        if self.contains(port, 4) {
            // SAFETY: by the contract of `new`; no memory is touched.
            unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
        }
    }
}
