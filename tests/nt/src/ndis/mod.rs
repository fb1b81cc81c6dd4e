//! The NDIS port: what ndis.sys exports to miniports of NDIS 6, and the adapters that it makes of them.
//!
//! `driver` takes a miniport's registration; `fdo` is its adapters' device objects; `adapter` is the state machine; `flow`
//! carries frames, `oid` requests, `pool` knows who owns each NET_BUFFER_LIST. What is bound to an adapter is an
//! [`binding::Protocol`]: see [`crate::net`].

// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc)]

pub mod abi;
pub mod adapter;
pub mod attributes;
pub mod binding;
pub mod buffer;
pub mod config;
pub mod dma;
pub mod driver;
pub mod fdo;
pub mod flow;
pub mod lock;
pub mod misc;
pub mod oid;
pub mod oid_abi;
pub mod owned;
pub mod packet;
pub mod pool;
pub mod wait;

/// A miniport broke a rule: the run ends with a report. Any IRQL.
fn violation(rule: &'static str, detail: core::fmt::Arguments<'_>) -> ! {
    crate::verifier::violation(rule, detail)
}

/// The highest IRQL at which an export may be called, from its documentation. `None`: any.
pub fn max_irql(name: &str) -> Option<crate::ke::Kirql> {
    const PASSIVE: &[&str] = &[
        "NdisAllocateNetBufferListPool",
        "NdisAllocateNetBufferPool",
        "NdisCloseConfiguration",
        "NdisFreeNetBufferListPool",
        "NdisFreeNetBufferPool",
        "NdisFreeTimerObject",
        "NdisMAllocateSharedMemory",
        "NdisMDeregisterMiniportDriver",
        "NdisMDeregisterScatterGatherDma",
        "NdisMFreeSharedMemory",
        "NdisMGetDeviceProperty",
        "NdisMQueryAdapterInstanceName",
        "NdisMRegisterMiniportDriver",
        "NdisMRegisterScatterGatherDma",
        "NdisMSetMiniportAttributes",
        "NdisMSleep",
        "NdisGetRssProcessorInformation",
        "NdisOpenConfigurationEx",
        "NdisReadConfiguration",
        "NdisReadNetworkAddress",
        "NdisWriteConfiguration",
    ];
    const ANY: &[&str] = &["NdisGetVersion", "NdisGroupActiveProcessorCount"];
    if !name.starts_with("Ndis") || ANY.contains(&name) {
        return None;
    }
    Some(if PASSIVE.contains(&name) { crate::ke::abi::PASSIVE_LEVEL } else { crate::ke::abi::DISPATCH_LEVEL })
}

crate::exports! {
    /// The port driver.
    pub static EXPORTS in "ndis.sys";
    fn NdisAcquireRWLockRead = lock::NdisAcquireRWLockRead;
    fn NdisAcquireRWLockWrite = lock::NdisAcquireRWLockWrite;
    fn NdisAdvanceNetBufferDataStart = buffer::NdisAdvanceNetBufferDataStart;
    fn NdisAdvanceNetBufferListDataStart = buffer::NdisAdvanceNetBufferListDataStart;
    fn NdisAllocateIoWorkItem = misc::NdisAllocateIoWorkItem;
    fn NdisAllocateMdl = pool::NdisAllocateMdl;
    fn NdisAllocateMemoryWithTagPriority = misc::NdisAllocateMemoryWithTagPriority;
    fn NdisAllocateNetBuffer = pool::NdisAllocateNetBuffer;
    fn NdisAllocateNetBufferAndNetBufferList = pool::NdisAllocateNetBufferAndNetBufferList;
    fn NdisAllocateNetBufferList = pool::NdisAllocateNetBufferList;
    fn NdisAllocateNetBufferListPool = pool::NdisAllocateNetBufferListPool;
    fn NdisAllocateNetBufferMdlAndData = pool::NdisAllocateNetBufferMdlAndData;
    fn NdisAllocateNetBufferPool = pool::NdisAllocateNetBufferPool;
    fn NdisAllocateRWLock = lock::NdisAllocateRWLock;
    fn NdisAllocateTimerObject = misc::NdisAllocateTimerObject;
    fn NdisCancelTimerObject = misc::NdisCancelTimerObject;
    fn NdisCloseConfiguration = config::NdisCloseConfiguration;
    fn NdisCopyFromNetBufferToNetBuffer = buffer::NdisCopyFromNetBufferToNetBuffer;
    fn NdisFreeIoWorkItem = misc::NdisFreeIoWorkItem;
    fn NdisFreeMdl = pool::NdisFreeMdl;
    fn NdisFreeMemory = misc::NdisFreeMemory;
    fn NdisFreeMemoryWithTagPriority = misc::NdisFreeMemoryWithTagPriority;
    fn NdisFreeNetBuffer = pool::NdisFreeNetBuffer;
    fn NdisFreeNetBufferList = pool::NdisFreeNetBufferList;
    fn NdisFreeNetBufferListPool = pool::NdisFreeNetBufferListPool;
    fn NdisFreeNetBufferPool = pool::NdisFreeNetBufferPool;
    fn NdisFreeRWLock = lock::NdisFreeRWLock;
    fn NdisFreeTimerObject = misc::NdisFreeTimerObject;
    fn NdisGetDataBuffer = buffer::NdisGetDataBuffer;
    fn NdisGetRssProcessorInformation = misc::NdisGetRssProcessorInformation;
    fn NdisGetVersion = driver::NdisGetVersion;
    fn NdisGroupActiveProcessorCount = misc::NdisGroupActiveProcessorCount;
    fn NdisMAllocateNetBufferSGList = dma::NdisMAllocateNetBufferSGList;
    fn NdisMAllocateSharedMemory = dma::NdisMAllocateSharedMemory;
    fn NdisMDeregisterMiniportDriver = driver::NdisMDeregisterMiniportDriver;
    fn NdisMDeregisterScatterGatherDma = dma::NdisMDeregisterScatterGatherDma;
    fn NdisMFreeNetBufferSGList = dma::NdisMFreeNetBufferSGList;
    fn NdisMFreeSharedMemory = dma::NdisMFreeSharedMemory;
    fn NdisMGetDeviceProperty = misc::NdisMGetDeviceProperty;
    fn NdisMIndicateReceiveNetBufferLists = flow::NdisMIndicateReceiveNetBufferLists;
    fn NdisMIndicateStatusEx = oid::NdisMIndicateStatusEx;
    fn NdisMOidRequestComplete = oid::NdisMOidRequestComplete;
    fn NdisMPauseComplete = oid::NdisMPauseComplete;
    fn NdisMQueryAdapterInstanceName = misc::NdisMQueryAdapterInstanceName;
    fn NdisMRegisterMiniportDriver = driver::NdisMRegisterMiniportDriver;
    fn NdisMRegisterScatterGatherDma = dma::NdisMRegisterScatterGatherDma;
    fn NdisMResetComplete = oid::NdisMResetComplete;
    fn NdisMRestartComplete = oid::NdisMRestartComplete;
    fn NdisMSendNetBufferListsComplete = flow::NdisMSendNetBufferListsComplete;
    fn NdisMSetMiniportAttributes = attributes::NdisMSetMiniportAttributes;
    fn NdisMSleep = misc::NdisMSleep;
    fn NdisOpenConfigurationEx = config::NdisOpenConfigurationEx;
    fn NdisQueueIoWorkItem = misc::NdisQueueIoWorkItem;
    fn NdisReadConfiguration = config::NdisReadConfiguration;
    fn NdisReadNetworkAddress = config::NdisReadNetworkAddress;
    fn NdisReleaseRWLock = lock::NdisReleaseRWLock;
    fn NdisRetreatNetBufferDataStart = buffer::NdisRetreatNetBufferDataStart;
    fn NdisRetreatNetBufferListDataStart = buffer::NdisRetreatNetBufferListDataStart;
    fn NdisSetTimerObject = misc::NdisSetTimerObject;
    fn NdisWriteConfiguration = config::NdisWriteConfiguration;
    fn NdisWriteErrorLogEntry = misc::NdisWriteErrorLogEntry;
}
