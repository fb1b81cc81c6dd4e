//! Time: the TSC at the rate that Xen tells, the local APIC's timer at the rate that is measured against it, and the
//! date of the CMOS clock.

use core::arch::x86_64::{__cpuid_count, _rdtsc};
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::instructions::port::Port;

/// kHz of the TSC.
static TSC_KHZ: AtomicU64 = AtomicU64::new(0);
/// The TSC when the clock was started.
static TSC_START: AtomicU64 = AtomicU64::new(0);
/// Counts of the TSC since then that are no time: see [`leave_out`].
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds of one count of the TSC, times 2^32.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(0);
/// kHz of the APIC timer's counter.
static TIMER_KHZ: AtomicU64 = AtomicU64::new(0);

/// The TSC, as it stands.
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { _rdtsc() }
}

/// The first of Xen's CPUID leaves, if there is a Xen.
pub fn xen_leaves() -> Option<u32> {
    (0x4000_0000..0x4001_0000).step_by(0x100).find(|&leaf| {
        let id = __cpuid_count(leaf, 0);
        [id.ebx, id.ecx, id.edx]
            == [u32::from_le_bytes(*b"XenV"), u32::from_le_bytes(*b"MMXe"), u32::from_le_bytes(*b"nVMM")]
    })
}

/// Starts the clock. `false`: this is no Xen, or it does not tell the rate of the TSC.
pub fn start() -> bool {
    // xen/include/public/arch-x86/cpuid.h: leaf 4, sub-leaf 0, ECX is the guest's TSC frequency in kHz.
    let Some(base) = xen_leaves() else { return false };
    let khz = u64::from(__cpuid_count(base + 3, 0).ecx);
    TSC_KHZ.store(khz, Ordering::Relaxed);
    NS_PER_TICK.store((1_000_000 << 32) / khz.max(1), Ordering::Relaxed);
    TSC_START.store(tsc(), Ordering::Relaxed);
    khz != 0
}

/// Measures the APIC timer, whose counter `read` gives while it counts down. 10 ms.
pub fn calibrate(read: impl Fn() -> u32) {
    let (first, from) = (read(), nanoseconds());
    while nanoseconds() - from < 10_000_000 {
        core::hint::spin_loop();
    }
    let (last, to) = (read(), nanoseconds());
    TIMER_KHZ.store(u64::from(first - last) * 1_000_000 / (to - from), Ordering::Relaxed);
}

/// Timer counts for a time in nanoseconds, at least 1.
pub fn timer_counts(ns: u64) -> u32 {
    let counts = u128::from(ns) * u128::from(TIMER_KHZ.load(Ordering::Relaxed)) / 1_000_000;
    counts.clamp(1, u128::from(u32::MAX)) as u32
}

/// Counts of the TSC since [`start`].
fn ticks() -> u64 {
    tsc().wrapping_sub(TSC_START.load(Ordering::Relaxed)).wrapping_sub(LEFT_OUT.load(Ordering::Relaxed))
}

/// The clock stood still for so many counts of the TSC.
pub fn leave_out(ticks: u64) {
    LEFT_OUT.fetch_add(ticks, Ordering::Relaxed);
}

/// Nanoseconds since [`start`].
pub fn nanoseconds() -> u64 {
    let ticks = ticks();
    ((u128::from(ticks) * u128::from(NS_PER_TICK.load(Ordering::Relaxed))) >> 32) as u64
}

/// The performance counter and its rate in Hz.
pub fn counter() -> (u64, u64) {
    (ticks(), TSC_KHZ.load(Ordering::Relaxed) * 1000)
}

fn cmos(register: u8) -> u8 {
    // SAFETY: the CMOS index and data ports; nothing else uses them.
    unsafe {
        Port::new(0x70).write(register);
        Port::<u8>::new(0x71).read()
    }
}

/// Seconds since 1970 as the CMOS clock says.
pub fn date() -> u64 {
    let read = || [0u8, 2, 4, 7, 8, 9].map(cmos);
    let mut now = read();
    // Two equal readings in a row: no update fell between.
    loop {
        let again = read();
        if again == now {
            break;
        }
        now = again;
    }
    let binary = cmos(0x0b) & 4 != 0;
    let [second, minute, hour, day, month, year] =
        now.map(|value| u64::from(if binary { value } else { (value >> 4) * 10 + (value & 15) }));
    // Days of the civil calendar, counted from March.
    let year = 2000 + year - u64::from(month <= 2);
    let shifted = (month + 9) % 12;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (shifted * 153 + 2) / 5 + day - 1;
    (days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second
}
