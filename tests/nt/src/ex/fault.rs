//! Planted failures: the n-th allocation that a driver asks for fails, as it does where memory is short.
//!
//! Counted are the allocations of pool, and calls of the exports that allocate on a driver's behalf (IRPs, device objects,
//! MDLs, threads, mappings, ...). An export of the second kind is not reached at all: its caller gets what the
//! documentation says that the export returns where there are no resources. What the personality allocates for itself
//! never fails here.

use crate::status::STATUS_INSUFFICIENT_RESOURCES;
use core::sync::atomic::{AtomicU64, Ordering};

/// Which allocation fails, counted from 1 by [`fail_nth`]; 0: none.
static FAIL_AT: AtomicU64 = AtomicU64::new(0);
/// Allocations since [`fail_nth`].
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Allocations that drivers asked for since the start.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Makes the `n`-th allocation from now on fail, once; 0 takes that back. Only allocations of drivers count.
pub fn fail_nth(n: u64) {
    COUNT.store(0, Ordering::Relaxed);
    FAIL_AT.store(n, Ordering::Relaxed);
}

/// Whether the allocation that [`fail_nth`] chose has failed.
pub fn failed() -> bool {
    let at = FAIL_AT.load(Ordering::Relaxed);
    at != 0 && COUNT.load(Ordering::Relaxed) >= at
}

/// Allocations that drivers asked for so far.
pub fn allocations() -> u64 {
    TAKEN.load(Ordering::Relaxed)
}

/// Counts an allocation of a driver; whether it must fail. Any IRQL.
pub(crate) fn due() -> bool {
    TAKEN.fetch_add(1, Ordering::Relaxed);
    let at = FAIL_AT.load(Ordering::Relaxed);
    at != 0 && COUNT.fetch_add(1, Ordering::Relaxed) + 1 == at
}

/// How an export says that there are no resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It returns NULL.
    Null,
    /// It returns STATUS_INSUFFICIENT_RESOURCES.
    Status,
    /// It returns NULL unless its fifth argument, BugCheckOnFailure, is set: then it never returns.
    NullUnlessBugCheck,
}

impl Refusal {
    /// What the export returns in place of its work; `None`: this call cannot fail.
    ///
    /// # Safety
    /// `frame` is where the return address of a driver's call stands: above it lie the home space and the arguments.
    pub(crate) unsafe fn result(self, frame: *const u64) -> Option<&'static u64> {
        static NULL: u64 = 0;
        static STATUS: u64 = STATUS_INSUFFICIENT_RESOURCES.cast_unsigned() as u64;
        match self {
            Self::Null => Some(&NULL),
            Self::Status => Some(&STATUS),
            // SAFETY: the caller's promise. The fifth argument follows the return address and 32 bytes of home space.
            Self::NullUnlessBugCheck => (unsafe { frame.add(5).cast::<u32>().read() } == 0).then_some(&NULL),
        }
    }
}

/// How the export of this name refuses; `None`: it allocates nothing for its caller, or it is pool, which counts itself.
pub fn refusal(name: &str) -> Option<Refusal> {
    Some(match name {
        "IoAllocateDriverObjectExtension"
        | "IoConnectInterrupt"
        | "IoConnectInterruptEx"
        | "IoCreateDevice"
        | "IoCreateDeviceSecure"
        | "IoCreateSymbolicLink"
        | "IoRegisterDeviceInterface"
        | "IoRegisterShutdownNotification"
        | "PoRequestPowerIrp"
        | "PsCreateSystemThread"
        | "NdisAllocateTimerObject"
        | "NdisMRegisterMiniportDriver"
        | "NdisMRegisterScatterGatherDma"
        | "NdisMSetMiniportAttributes"
        | "NdisOpenConfigurationEx"
        | "RtlAnsiStringToUnicodeString"
        | "ZwCreateKey"
        | "ZwOpenKey"
        | "ZwQueryValueKey" => Refusal::Status,
        "IoAllocateErrorLogEntry"
        | "IoAllocateIrp"
        | "IoAllocateMdl"
        | "IoAllocateWorkItem"
        | "IoBuildAsynchronousFsdRequest"
        | "IoBuildDeviceIoControlRequest"
        | "IoBuildSynchronousFsdRequest"
        | "IoGetDmaAdapter"
        | "IoMakeAssociatedIrp"
        | "MmAllocateContiguousMemory"
        | "MmAllocateContiguousMemorySpecifyCache"
        | "MmAllocateContiguousMemorySpecifyCacheNode"
        | "MmAllocateContiguousNodeMemory"
        | "MmAllocateNonCachedMemory"
        | "MmAllocatePagesForMdl"
        | "MmAllocatePagesForMdlEx"
        | "MmMapIoSpace"
        | "MmMapIoSpaceEx"
        | "NdisAllocateIoWorkItem"
        | "NdisAllocateMdl"
        | "NdisAllocateNetBuffer"
        | "NdisAllocateNetBufferAndNetBufferList"
        | "NdisAllocateNetBufferList"
        | "NdisAllocateNetBufferListPool"
        | "NdisAllocateNetBufferMdlAndData"
        | "NdisAllocateNetBufferPool"
        | "NdisAllocateMemoryWithTagPriority" => Refusal::Null,
        "MmMapLockedPagesSpecifyCache" => Refusal::NullUnlessBugCheck,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_bug_checks_on_failure_is_not_refused() {
        let mut frame = [0_u64; 7];
        // SAFETY: the array stands for the stack of a call with six arguments.
        unsafe {
            assert_eq!(Refusal::NullUnlessBugCheck.result(frame.as_ptr()), Some(&0));
            frame[5] = 1;
            assert_eq!(Refusal::NullUnlessBugCheck.result(frame.as_ptr()), None);
            assert_eq!(Refusal::Status.result(frame.as_ptr()), Some(&0xc000_009a));
        }
    }
}
