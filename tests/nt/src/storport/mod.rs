//! The storport port driver: what storport.sys exports to miniports, and the device objects that it makes for them.
//!
//! `driver` takes a miniport's registration and gives its driver object the dispatch routines of `fdo` (adapters) and
//! `pdo` (logical units); `adapter` is one of them, and carries requests (`request`) as `flow` says, on the
//! processors that `performance` says; `notify`, `extended` and `port` are what miniports call, with `timer`, `event` and `change` behind them.

// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc)]

pub mod abi;
pub mod adapter;
pub mod change;
pub mod dma;
pub mod driver;
pub mod event;
pub mod extended;
pub mod fdo;
pub mod flow;
pub mod interrupt;
pub mod notify;
pub mod pdo;
pub mod performance;
pub mod port;
pub mod queue;
pub mod register;
pub mod registry;
pub mod request;
pub mod srb;
pub mod timer;
mod watchdog;
pub mod work;

use core::sync::atomic::{AtomicU64, Ordering};

/// Requests that timed out, of all adapters since the start.
pub(crate) static TIMED_OUT: AtomicU64 = AtomicU64::new(0);

/// Requests that timed out and made the port driver reset a unit, of all adapters since the start. Any IRQL.
pub fn timed_out() -> u64 {
    TIMED_OUT.load(Ordering::Relaxed)
}

/// A miniport broke a rule: the run ends with a report of the rule and the values that show it. Any IRQL.
fn violation(rule: &'static str, a: usize, b: usize) -> ! {
    crate::verifier::violation(rule, format_args!("{a:#x}, {b:#x}"))
}

crate::exports! {
    /// The port driver.
    pub static EXPORTS in "storport.sys";
    fn StorPortAllocateRegistryBuffer = registry::StorPortAllocateRegistryBuffer;
    fn StorPortBusy = port::StorPortBusy;
    fn StorPortCompleteRequest = port::StorPortCompleteRequest;
    fn StorPortConvertPhysicalAddressToUlong64 = port::StorPortConvertPhysicalAddressToUlong64;
    fn StorPortConvertUlong64ToPhysicalAddress = port::StorPortConvertPhysicalAddressToUlong64;
    fn StorPortConvertUlongToPhysicalAddress = port::StorPortConvertUlongToPhysicalAddress;
    fn StorPortDebugPrint = port::StorPortDebugPrint;
    fn StorPortDeviceBusy = port::StorPortDeviceBusy;
    fn StorPortDeviceReady = port::StorPortDeviceReady;
    fn StorPortExtendedFunction = extended::StorPortExtendedFunction;
    fn StorPortFreeDeviceBase = port::StorPortFreeDeviceBase;
    fn StorPortFreeRegistryBuffer = registry::StorPortFreeRegistryBuffer;
    fn StorPortGetBusData = port::StorPortGetBusData;
    fn StorPortGetDeviceBase = port::StorPortGetDeviceBase;
    fn StorPortGetLogicalUnit = port::StorPortGetLogicalUnit;
    fn StorPortGetPhysicalAddress = port::StorPortGetPhysicalAddress;
    fn StorPortGetScatterGatherList = port::StorPortGetScatterGatherList;
    fn StorPortGetSrb = port::StorPortGetSrb;
    fn StorPortGetUncachedExtension = port::StorPortGetUncachedExtension;
    fn StorPortGetVirtualAddress = port::StorPortGetVirtualAddress;
    fn StorPortInitialize = driver::StorPortInitialize;
    fn StorPortLogError = port::StorPortLogError;
    fn StorPortMoveMemory = port::StorPortMoveMemory;
    fn StorPortNotification = notify::StorPortNotification;
    fn StorPortPause = port::StorPortPause;
    fn StorPortPauseDevice = port::StorPortPauseDevice;
    fn StorPortQuerySystemTime = port::StorPortQuerySystemTime;
    fn StorPortReady = port::StorPortReady;
    fn StorPortReadRegisterUchar = register::StorPortReadRegisterUchar;
    fn StorPortWriteRegisterUchar = register::StorPortWriteRegisterUchar;
    fn StorPortReadRegisterBufferUchar = register::StorPortReadRegisterBufferUchar;
    fn StorPortWriteRegisterBufferUchar = register::StorPortWriteRegisterBufferUchar;
    fn StorPortReadPortUchar = register::StorPortReadPortUchar;
    fn StorPortWritePortUchar = register::StorPortWritePortUchar;
    fn StorPortReadPortBufferUchar = register::StorPortReadPortBufferUchar;
    fn StorPortWritePortBufferUchar = register::StorPortWritePortBufferUchar;
    fn StorPortReadRegisterUshort = register::StorPortReadRegisterUshort;
    fn StorPortWriteRegisterUshort = register::StorPortWriteRegisterUshort;
    fn StorPortReadRegisterBufferUshort = register::StorPortReadRegisterBufferUshort;
    fn StorPortWriteRegisterBufferUshort = register::StorPortWriteRegisterBufferUshort;
    fn StorPortReadPortUshort = register::StorPortReadPortUshort;
    fn StorPortWritePortUshort = register::StorPortWritePortUshort;
    fn StorPortReadPortBufferUshort = register::StorPortReadPortBufferUshort;
    fn StorPortWritePortBufferUshort = register::StorPortWritePortBufferUshort;
    fn StorPortReadRegisterUlong = register::StorPortReadRegisterUlong;
    fn StorPortWriteRegisterUlong = register::StorPortWriteRegisterUlong;
    fn StorPortReadRegisterBufferUlong = register::StorPortReadRegisterBufferUlong;
    fn StorPortWriteRegisterBufferUlong = register::StorPortWriteRegisterBufferUlong;
    fn StorPortReadPortUlong = register::StorPortReadPortUlong;
    fn StorPortWritePortUlong = register::StorPortWritePortUlong;
    fn StorPortReadPortBufferUlong = register::StorPortReadPortBufferUlong;
    fn StorPortWritePortBufferUlong = register::StorPortWritePortBufferUlong;
    fn StorPortRegistryRead = registry::StorPortRegistryRead;
    fn StorPortRegistryWrite = registry::StorPortRegistryWrite;
    fn StorPortResume = port::StorPortResume;
    fn StorPortResumeDevice = port::StorPortResumeDevice;
    fn StorPortSetBusDataByOffset = port::StorPortSetBusDataByOffset;
    fn StorPortSetDeviceQueueDepth = port::StorPortSetDeviceQueueDepth;
    fn StorPortStallExecution = port::StorPortStallExecution;
    fn StorPortSynchronizeAccess = port::StorPortSynchronizeAccess;
    fn StorPortValidateRange = port::StorPortValidateRange;
}
