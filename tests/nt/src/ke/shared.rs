//! The page that the kernel shares with everybody, `KUSER_SHARED_DATA`: macros of the driver kit's headers read time and
//! version from it, at a fixed address.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/ns-ntddk-kuser_shared_data>

use super::timer::TIME_INCREMENT;
use crate::platform::{PAGE_SIZE, platform};

/// Where drivers expect the page (`KI_USER_SHARED_DATA`).
pub const ADDRESS: usize = 0xffff_f780_0000_0000;

/// Fills a copy of the page with what holds now. Any IRQL.
///
/// The platform shows drivers this copy at [`ADDRESS`]: by a mapping, or by carrying out their reads.
pub fn fill(page: &mut [u8; PAGE_SIZE]) {
    page.fill(0);
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    // A KSYSTEM_TIME: low part, high part, and the high part again for readers without locks.
    let time = |value: u64| {
        let [low, high] = [value as u32, (value >> 32) as u32].map(u32::to_le_bytes);
        [low, high, high].concat()
    };
    let interrupt = platform().interrupt_time();
    // TickCountMultiplier: milliseconds a tick, with 24 bits behind the point.
    put(0x004, &((u64::from(TIME_INCREMENT) << 24) / 10_000).to_le_bytes()[..4]);
    put(0x008, &time(interrupt));
    put(0x014, &time(platform().boot_time() + interrupt));
    // ImageNumberLow and ImageNumberHigh: AMD64.
    put(0x02c, &[0x64, 0x86, 0x64, 0x86]);
    for (index, unit) in r"C:\Windows".encode_utf16().enumerate() {
        put(0x030 + 2 * index, &unit.to_le_bytes());
    }
    put(0x260, &19041_u32.to_le_bytes());
    // NtProductWinNt, and that it is valid.
    put(0x264, &1_u32.to_le_bytes());
    put(0x268, &[1]);
    put(0x26c, &10_u32.to_le_bytes());
    put(0x270, &0_u32.to_le_bytes());
    // Features that every x64 processor has: compare and exchange of 8 and 16 bytes, MMX, SSE, RDTSC, PAE, SSE2, NX.
    for feature in [2, 3, 6, 8, 9, 10, 12, 14] {
        put(0x274 + feature, &[1]);
    }
    // SuiteMask: VER_SUITE_SINGLEUSERTS.
    put(0x2d0, &0x100_u32.to_le_bytes());
    put(0x300, &platform().performance_counter().1.to_le_bytes());
    put(0x320, &time(interrupt / u64::from(TIME_INCREMENT)));
    put(0x3c0, &platform().processors().to_le_bytes());
}
