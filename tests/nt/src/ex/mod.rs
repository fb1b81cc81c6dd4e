//! The executive: pool, lists, mutexes, resources, callbacks, system work items.

// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc)]

pub mod callback;
pub mod etw;
pub mod fault;
pub mod list;
pub mod mutex;
pub mod pool;
pub mod system;
pub mod timer;

pub use callback::*;
pub use list::*;
pub use mutex::*;
pub use pool::{ExAllocatePoolWithTag, ExFreePool, ExFreePoolWithTag};

/// `ExGetPreviousMode`: KernelMode. Any IRQL.
pub unsafe extern "win64" fn ExGetPreviousMode() -> i8 {
    0
}

/// `ExIsProcessorFeaturePresent`: the features that every x64 processor has. Any IRQL.
pub unsafe extern "win64" fn ExIsProcessorFeaturePresent(feature: u32) -> u8 {
    // PF_COMPARE_EXCHANGE_DOUBLE, PF_MMX, PF_XMMI, PF_RDTSC, PF_PAE, PF_XMMI64, PF_NX, PF_SSE3, PF_COMPARE_EXCHANGE128.
    u8::from(matches!(feature, 2 | 3 | 6 | 8 | 9 | 10 | 12 | 13 | 14))
}

/// `ExUuidCreate`: a random GUID (version 4). IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn ExUuidCreate(uuid: *mut [u8; 16]) -> crate::status::NtStatus {
    let platform = crate::platform::platform();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&platform.random().to_le_bytes());
    bytes[8..].copy_from_slice(&platform.random().to_le_bytes());
    bytes[7] = bytes[7] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    // SAFETY: the caller gives a place.
    unsafe { uuid.write(bytes) };
    crate::status::STATUS_SUCCESS
}

crate::exports! {
    /// The executive's names of ntoskrnl.exe.
    pub static EXPORTS in "ntoskrnl.exe";
    fn ExAllocatePool = pool::driver::ExAllocatePool;
    fn ExAllocatePoolWithTag = pool::driver::ExAllocatePoolWithTag;
    fn ExAllocatePoolWithTagPriority = pool::driver::ExAllocatePoolWithTagPriority;
    fn ExAllocatePoolWithQuotaTag = pool::driver::ExAllocatePoolWithQuotaTag;
    fn ExAllocatePool2 = pool::driver::ExAllocatePool2;
    fn ExAllocatePool3 = pool::driver::ExAllocatePool3;
    fn ExFreePool = pool::driver::ExFreePool;
    fn ExFreePoolWithTag = pool::driver::ExFreePoolWithTag;
    fn ExFreePool2 = pool::driver::ExFreePool2;
    fn ExInterlockedInsertHeadList;
    fn ExInterlockedInsertTailList;
    fn ExInterlockedRemoveHeadList;
    fn ExInterlockedPushEntryList;
    fn ExInterlockedPopEntryList;
    fn ExInterlockedAddUlong;
    fn ExInterlockedAddLargeInteger;
    fn InitializeSListHead;
    fn RtlInitializeSListHead = InitializeSListHead;
    fn ExpInterlockedPushEntrySList;
    fn ExpInterlockedPopEntrySList;
    fn ExpInterlockedFlushSList;
    fn RtlInterlockedPushEntrySList = ExpInterlockedPushEntrySList;
    fn RtlInterlockedPopEntrySList = ExpInterlockedPopEntrySList;
    fn ExQueryDepthSList;
    fn RtlQueryDepthSList = ExQueryDepthSList;
    fn ExInitializeNPagedLookasideList;
    fn ExInitializePagedLookasideList;
    fn ExDeleteNPagedLookasideList;
    fn ExDeletePagedLookasideList = ExDeleteNPagedLookasideList;
    fn ExAllocateFromNPagedLookasideList;
    fn ExFreeToNPagedLookasideList;
    fn ExInitializeFastMutex;
    fn ExAcquireFastMutex;
    fn ExReleaseFastMutex;
    fn ExTryToAcquireFastMutex;
    fn ExAcquireFastMutexUnsafe;
    fn ExReleaseFastMutexUnsafe;
    fn KeInitializeGuardedMutex = ExInitializeFastMutex;
    fn KeAcquireGuardedMutex = ExAcquireFastMutexUnsafe;
    fn KeReleaseGuardedMutex = ExReleaseFastMutexUnsafe;
    fn ExInitializeResourceLite;
    fn ExDeleteResourceLite;
    fn ExAcquireResourceExclusiveLite;
    fn ExAcquireResourceSharedLite;
    fn ExReleaseResourceLite;
    fn ExIsResourceAcquiredExclusiveLite;
    fn ExAcquireSpinLockShared;
    fn ExReleaseSpinLockShared;
    fn ExAcquireSpinLockExclusive;
    fn ExReleaseSpinLockExclusive;
    fn ExAcquireSpinLockSharedAtDpcLevel;
    fn ExReleaseSpinLockSharedFromDpcLevel;
    fn ExAcquireSpinLockExclusiveAtDpcLevel;
    fn ExReleaseSpinLockExclusiveFromDpcLevel;
    fn ExTryConvertSharedSpinLockExclusive;
    fn ExInitializeRundownProtection;
    fn ExReInitializeRundownProtection;
    fn ExAcquireRundownProtection;
    fn ExReleaseRundownProtection;
    fn ExWaitForRundownProtectionRelease;
    fn ExRundownCompleted;
    fn ExInitializeRundownProtectionCacheAware;
    fn ExSizeOfRundownProtectionCacheAware;
    fn ExAllocateCacheAwareRundownProtection;
    fn ExFreeCacheAwareRundownProtection;
    fn ExReInitializeRundownProtectionCacheAware = ExReInitializeRundownProtection;
    fn ExAcquireRundownProtectionCacheAware = ExAcquireRundownProtection;
    fn ExReleaseRundownProtectionCacheAware = ExReleaseRundownProtection;
    fn ExWaitForRundownProtectionReleaseCacheAware = ExWaitForRundownProtectionRelease;
    fn ExRundownCompletedCacheAware = ExRundownCompleted;
    fn ExAllocateTimer = timer::ExAllocateTimer;
    fn ExSetTimer = timer::ExSetTimer;
    fn ExCancelTimer = timer::ExCancelTimer;
    fn ExDeleteTimer = timer::ExDeleteTimer;
    fn EtwRegister = etw::EtwRegister;
    fn EtwUnregister = etw::EtwUnregister;
    fn EtwWrite = etw::EtwWrite;
    fn EtwWriteTransfer = etw::EtwWriteTransfer;
    fn EtwEventEnabled = etw::EtwEventEnabled;
    fn EtwProviderEnabled = etw::EtwProviderEnabled;
    fn EtwSetInformation = etw::EtwSetInformation;
    fn ExCreateCallback;
    fn ExRegisterCallback;
    fn ExUnregisterCallback;
    fn ExNotifyCallback;
    fn ExQueueWorkItem;
    fn ExGetPreviousMode;
    fn ExIsProcessorFeaturePresent;
    fn ExUuidCreate;
    fn ZwQuerySystemInformation = system::ZwQuerySystemInformation;
    fn RtlQueryModuleInformation = system::RtlQueryModuleInformation;
}
