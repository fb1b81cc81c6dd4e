//! Structured exception handling: unwind data, stack walks, dispatch of faults and raised statuses to `__try` blocks.

// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc)]

pub mod abi;
pub mod context;
pub mod dispatch;
pub mod images;
pub mod unwind;

crate::exports! {
    /// Exceptions.
    pub static EXPORTS in "ntoskrnl.exe";
    fn RtlCaptureContext = context::RtlCaptureContext;
    fn __C_specific_handler = dispatch::__C_specific_handler;
    fn RtlRestoreContext = dispatch::RtlRestoreContext;
    fn RtlLookupFunctionEntry = dispatch::RtlLookupFunctionEntry;
    fn RtlVirtualUnwind = dispatch::RtlVirtualUnwind;
    fn RtlPcToFileHeader = dispatch::RtlPcToFileHeader;
    fn ExRaiseStatus = dispatch::ExRaiseStatus;
    fn ExRaiseAccessViolation = dispatch::ExRaiseAccessViolation;
    fn ExRaiseDatatypeMisalignment = dispatch::ExRaiseDatatypeMisalignment;
    fn RtlRaiseException = dispatch::RtlRaiseException;
    fn RtlUnwind = dispatch::RtlUnwind;
    fn RtlUnwindEx = dispatch::RtlUnwindEx;
    fn ProbeForRead = dispatch::ProbeForRead;
    fn ProbeForWrite = dispatch::ProbeForWrite;
    fn RtlCaptureStackBackTrace = dispatch::RtlCaptureStackBackTrace;
    fn RtlWalkFrameChain = dispatch::RtlWalkFrameChain;
    fn RtlRaiseStatus = dispatch::ExRaiseStatus;
}
