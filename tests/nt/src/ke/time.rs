//! Time: since boot, since 1601, performance counter, busy waits.

use crate::platform::platform;

/// `KeQueryInterruptTime`: 100 ns since boot. Any IRQL.
pub unsafe extern "win64" fn KeQueryInterruptTime() -> u64 {
    platform().interrupt_time()
}

/// `KeQueryInterruptTimePrecise`. Any IRQL.
pub unsafe extern "win64" fn KeQueryInterruptTimePrecise(counter: *mut u64) -> u64 {
    if !counter.is_null() {
        // SAFETY: the caller gives a place.
        unsafe { counter.write(platform().performance_counter().0) }
    }
    platform().interrupt_time()
}

/// `KeQueryUnbiasedInterruptTime`: there is no sleep here. Any IRQL.
pub unsafe extern "win64" fn KeQueryUnbiasedInterruptTime() -> u64 {
    platform().interrupt_time()
}

/// `KeQuerySystemTime` (KeQuerySystemTimePrecise): 100 ns since 1601. Any IRQL.
pub unsafe extern "win64" fn KeQuerySystemTimePrecise(time: *mut i64) {
    // SAFETY: the caller gives a place.
    unsafe { time.write((platform().boot_time() + platform().interrupt_time()) as i64) }
}

/// `KeQueryTickCount`. Any IRQL.
pub unsafe extern "win64" fn KeQueryTickCount(count: *mut i64) {
    // SAFETY: the caller gives a place.
    unsafe { count.write((platform().interrupt_time() / u64::from(super::timer::TIME_INCREMENT)) as i64) }
}

/// `KeQueryTimeIncrement`: 100 ns units a clock tick. Any IRQL.
pub unsafe extern "win64" fn KeQueryTimeIncrement() -> u32 {
    super::timer::TIME_INCREMENT
}

/// `KeQueryPerformanceCounter`. Any IRQL.
pub unsafe extern "win64" fn KeQueryPerformanceCounter(frequency: *mut i64) -> i64 {
    let (counter, hz) = platform().performance_counter();
    if !frequency.is_null() {
        // SAFETY: the caller gives a place.
        unsafe { frequency.write(hz as i64) }
    }
    counter as i64
}

/// `KeStallExecutionProcessor`. Any IRQL.
pub unsafe extern "win64" fn KeStallExecutionProcessor(microseconds: u32) {
    platform().stall(microseconds);
}

/// `ExSystemTimeToLocalTime` and `ExLocalTimeToSystemTime`: the zone is UTC. Any IRQL.
pub unsafe extern "win64" fn ExSystemTimeToLocalTime(from: *const i64, to: *mut i64) {
    // SAFETY: the caller gives both places.
    unsafe { to.write(*from) }
}

/// `ExSetTimerResolution`: the granted resolution. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn ExSetTimerResolution(_desired: u32, _set: u8) -> u32 {
    super::timer::TIME_INCREMENT
}
