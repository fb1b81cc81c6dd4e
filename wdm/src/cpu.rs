//! Processors.

use wdk_sys::{GROUP_AFFINITY, PROCESSOR_NUMBER, ntddk};

use crate::status::{Result, Status};

/// `ALL_PROCESSOR_GROUPS`.
const ALL_GROUPS: u16 = 0xffff;

/// A processor by its place in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// The group.
    pub group: u16,
    /// The number within the group.
    pub number: u8,
    /// The bit of that number.
    pub mask: u64,
}

/// Number of active processors; their indices run from 0. Any IRQL.
pub fn count() -> u32 {
    // SAFETY: it has no requirement.
    unsafe { ntddk::KeQueryActiveProcessorCountEx(ALL_GROUPS) }
}

/// The index of the processor that runs this. Any IRQL; it holds only as long as the thread cannot move.
pub fn current() -> u32 {
    // SAFETY: the optional result is left out.
    unsafe { ntddk::KeGetCurrentProcessorNumberEx(core::ptr::null_mut()) }
}

/// The processor with an index. Any IRQL.
///
/// # Errors
/// [`Status::INVALID_PARAMETER`]: there is none.
pub fn processor(index: u32) -> Result<Processor> {
    let mut number = PROCESSOR_NUMBER::default();
    // SAFETY: the result goes to a local.
    Status(unsafe { ntddk::KeGetProcessorNumberFromIndex(index, &raw mut number) }).ok()?;
    Ok(Processor { group: number.Group, number: number.Number, mask: 1 << (number.Number & 63) })
}

/// Runs `work` on the processor with an index. IRQL <= APC_LEVEL.
///
/// # Errors
/// [`Status::INVALID_PARAMETER`]: there is none.
pub fn run_on<R>(index: u32, work: impl FnOnce() -> R) -> Result<R> {
    let processor = processor(index)?;
    let mut wanted = GROUP_AFFINITY { Mask: processor.mask as _, Group: processor.group, ..Default::default() };
    let mut before = GROUP_AFFINITY::default();
    // SAFETY: both are locals; the thread goes to the processor before the call returns.
    unsafe { ntddk::KeSetSystemGroupAffinityThread(&raw mut wanted, &raw mut before) };
    let result = work();
    // SAFETY: it takes back what was set above.
    unsafe { ntddk::KeRevertToUserGroupAffinityThread(&raw mut before) };
    Ok(result)
}
