//! The memory manager as drivers see it: MDLs, contiguous and device memory, physical addresses, pageable sections.

// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc)]

pub mod abi;
pub mod mdl;
pub mod memory;
pub mod section;

pub use mdl::*;
pub use memory::*;
pub use section::{
    MmLockPagableDataSection, MmLockPagableSectionByHandle, MmPageEntireDriver, MmResetDriverPaging,
    MmUnlockPagableImageSection,
};

/// Tag of MDLs.
const TAG_MDL: u32 = u32::from_le_bytes(*b"Mdl ");
/// Tag of lists of memory ranges.
const TAG_RANGES: u32 = u32::from_le_bytes(*b"MmPh");

/// A driver broke a rule: the run ends with a report of the rule and the values that show it. Any IRQL.
fn violation(rule: &'static str, a: usize, b: usize) -> ! {
    crate::verifier::violation(rule, format_args!("{a:#x}, {b:#x}"))
}

crate::exports! {
    /// The memory manager.
    pub static EXPORTS in "ntoskrnl.exe";
    fn IoAllocateMdl;
    fn IoBuildPartialMdl;
    fn IoFreeMdl;
    fn MmAdvanceMdl;
    fn MmAllocatePagesForMdl;
    fn MmAllocatePagesForMdlEx;
    fn MmBuildMdlForNonPagedPool;
    fn MmFreePagesFromMdl;
    fn MmMapLockedPages;
    fn MmMapLockedPagesSpecifyCache;
    fn MmProbeAndLockPages;
    fn MmProtectMdlSystemAddress;
    fn MmSizeOfMdl;
    fn MmUnlockPages;
    fn MmUnmapLockedPages;
    fn MmAddPhysicalMemory;
    fn MmAllocateContiguousMemory;
    fn MmAllocateContiguousMemorySpecifyCache;
    fn MmAllocateContiguousMemorySpecifyCacheNode;
    fn MmAllocateContiguousNodeMemory;
    fn MmAllocateNonCachedMemory;
    fn MmFreeContiguousMemory;
    fn MmFreeContiguousMemorySpecifyCache;
    fn MmFreeNonCachedMemory;
    fn MmGetPhysicalAddress;
    fn MmGetPhysicalMemoryRanges;
    fn MmGetSystemRoutineAddress;
    fn MmIsAddressValid;
    fn MmIsThisAnNtAsSystem;
    fn MmLockPagableDataSection;
    fn MmLockPagableSectionByHandle;
    fn MmMapIoSpace;
    fn MmMapIoSpaceEx;
    fn MmPageEntireDriver;
    fn MmQuerySystemSize;
    fn MmRemovePhysicalMemory;
    fn MmResetDriverPaging;
    fn MmUnlockPagableImageSection;
    fn MmUnmapIoSpace;
}
