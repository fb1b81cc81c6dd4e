//! The I/O manager.

// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

pub mod abi;
pub mod blocks;
pub mod csq;
pub mod device;
pub mod driver;
pub mod file;
pub mod gpt;
pub mod handle;
pub mod interrupt;
pub mod irp;
pub mod kernel;
pub mod notify;
pub mod partition;
pub mod request;
pub mod security;
pub mod startio;
pub mod status;
pub mod text;
pub mod user;
pub mod work;

/// Starts what the I/O manager runs on. Once, at PASSIVE_LEVEL.
pub fn init() {
    crate::ob::namespace::init();
    work::init();
}

crate::exports! {
    /// Names of ntoskrnl.exe in this area.
    pub static EXPORTS in "ntoskrnl.exe";
    fn IoAllocateIrp = irp::IoAllocateIrp;
    fn IoAllocateIrpEx = irp::IoAllocateIrpEx;
    fn IoInitializeIrp = irp::IoInitializeIrp;
    fn IoReuseIrp = irp::IoReuseIrp;
    fn IoFreeIrp = irp::IoFreeIrp;
    fn IofCallDriver = irp::IofCallDriver;
    fn IofCompleteRequest = irp::IofCompleteRequest;
    fn IoForwardIrpSynchronously = irp::IoForwardIrpSynchronously;
    fn IoForwardAndCatchIrp = irp::IoForwardAndCatchIrp;
    fn IoSetCompletionRoutineEx = irp::IoSetCompletionRoutineEx;
    fn IoAcquireCancelSpinLock = irp::IoAcquireCancelSpinLock;
    fn IoReleaseCancelSpinLock = irp::IoReleaseCancelSpinLock;
    fn IoCancelIrp = irp::IoCancelIrp;
    fn IoMakeAssociatedIrp = irp::IoMakeAssociatedIrp;
    fn IoIsOperationSynchronous = irp::IoIsOperationSynchronous;
    fn IoGetRequestorProcess = irp::IoGetRequestorProcess;
    fn IoGetRequestorProcessId = irp::IoGetRequestorProcessId;
    fn IoIs32bitProcess = irp::IoIs32bitProcess;
    fn IoGetIoPriorityHint = irp::IoGetIoPriorityHint;
    fn IoIsWdmVersionAvailable = driver::IoIsWdmVersionAvailable;
    fn IoGetRelatedDeviceObject = device::IoGetRelatedDeviceObject;
    fn IoCsqInitialize = csq::IoCsqInitialize;
    fn IoCsqInitializeEx = csq::IoCsqInitializeEx;
    fn IoCsqInsertIrp = csq::IoCsqInsertIrp;
    fn IoCsqInsertIrpEx = csq::IoCsqInsertIrpEx;
    fn IoCsqRemoveIrp = csq::IoCsqRemoveIrp;
    fn IoCsqRemoveNextIrp = csq::IoCsqRemoveNextIrp;
    fn IoCreateDevice = device::IoCreateDevice;
    fn IoDeleteDevice = device::IoDeleteDevice;
    fn IoAttachDeviceToDeviceStack = device::IoAttachDeviceToDeviceStack;
    fn IoAttachDeviceToDeviceStackSafe = device::IoAttachDeviceToDeviceStackSafe;
    fn IoDetachDevice = device::IoDetachDevice;
    fn IoGetAttachedDevice = device::IoGetAttachedDevice;
    fn IoGetAttachedDeviceReference = device::IoGetAttachedDeviceReference;
    fn IoGetLowerDeviceObject = device::IoGetLowerDeviceObject;
    fn IoGetDeviceAttachmentBaseRef = device::IoGetDeviceAttachmentBaseRef;
    fn IoCreateSymbolicLink = device::IoCreateSymbolicLink;
    fn IoCreateUnprotectedSymbolicLink = device::IoCreateSymbolicLink;
    fn IoDeleteSymbolicLink = device::IoDeleteSymbolicLink;
    fn IoAllocateDriverObjectExtension = driver::IoAllocateDriverObjectExtension;
    fn IoGetDriverObjectExtension = driver::IoGetDriverObjectExtension;
    fn IoRegisterBootDriverReinitialization = driver::IoRegisterBootDriverReinitialization;
    fn IoRegisterDriverReinitialization = driver::IoRegisterDriverReinitialization;
    fn IoCreateDriver = driver::IoCreateDriver;
    fn IoDeleteDriver = driver::IoDeleteDriver;
    fn IoBuildAsynchronousFsdRequest = request::IoBuildAsynchronousFsdRequest;
    fn IoBuildSynchronousFsdRequest = request::IoBuildSynchronousFsdRequest;
    fn IoBuildDeviceIoControlRequest = request::IoBuildDeviceIoControlRequest;
    fn IoGetDeviceObjectPointer = request::IoGetDeviceObjectPointer;
    fn IoInitializeRemoveLockEx = request::IoInitializeRemoveLockEx;
    fn IoAcquireRemoveLockEx = request::IoAcquireRemoveLockEx;
    fn IoReleaseRemoveLockEx = request::IoReleaseRemoveLockEx;
    fn IoReleaseRemoveLockAndWaitEx = request::IoReleaseRemoveLockAndWaitEx;
    fn IoCreateNotificationEvent = request::IoCreateNotificationEvent;
    fn IoCreateSynchronizationEvent = request::IoCreateSynchronizationEvent;
    fn IoStartPacket = startio::IoStartPacket;
    fn IoSetStartIoAttributes = startio::IoSetStartIoAttributes;
    fn IoStartNextPacket = startio::IoStartNextPacket;
    fn IoStartNextPacketByKey = startio::IoStartNextPacketByKey;
    fn IoInitializeTimer = startio::IoInitializeTimer;
    fn IoStartTimer = startio::IoStartTimer;
    fn IoStopTimer = startio::IoStopTimer;
    fn IoAllocateWorkItem = work::IoAllocateWorkItem;
    fn IoFreeWorkItem = work::IoFreeWorkItem;
    fn IoQueueWorkItem = work::IoQueueWorkItem;
    fn IoQueueWorkItemEx = work::IoQueueWorkItemEx;
    fn IoInitializeWorkItem = work::IoInitializeWorkItem;
    fn IoUninitializeWorkItem = work::IoUninitializeWorkItem;
    fn IoSizeofWorkItem = work::IoSizeofWorkItem;
    fn IoConnectInterrupt = interrupt::IoConnectInterrupt;
    fn IoConnectInterruptEx = interrupt::IoConnectInterruptEx;
    fn IoDisconnectInterrupt = interrupt::IoDisconnectInterrupt;
    fn IoDisconnectInterruptEx = interrupt::IoDisconnectInterruptEx;
    fn IoReportInterruptActive = interrupt::IoReportInterruptActive;
    fn IoReportInterruptInactive = interrupt::IoReportInterruptInactive;
    fn IoRegisterShutdownNotification = notify::IoRegisterShutdownNotification;
    fn IoRegisterLastChanceShutdownNotification = notify::IoRegisterLastChanceShutdownNotification;
    fn IoUnregisterShutdownNotification = notify::IoUnregisterShutdownNotification;
    fn IoAllocateErrorLogEntry = notify::IoAllocateErrorLogEntry;
    fn IoWriteErrorLogEntry = notify::IoWriteErrorLogEntry;
    fn IoFreeErrorLogEntry = notify::IoFreeErrorLogEntry;
    fn IoGetConfigurationInformation = notify::IoGetConfigurationInformation;
    fn IoQueryDeviceDescription = notify::IoQueryDeviceDescription;
    fn IoReadDiskSignature = partition::IoReadDiskSignature;
    fn IoReadPartitionTableEx = partition::IoReadPartitionTableEx;
    fn IoVerifyPartitionTable = partition::IoVerifyPartitionTable;
    fn IoWritePartitionTableEx = partition::IoWritePartitionTableEx;
    fn IoCreateDisk = partition::IoCreateDisk;
    fn IoSetPartitionInformation = partition::IoSetPartitionInformation;
    fn IoSetPartitionInformationEx = partition::IoSetPartitionInformationEx;
    fn ZwCreateFile = handle::ZwCreateFile;
    fn ZwOpenFile = handle::ZwOpenFile;
    fn ZwReadFile = handle::ZwReadFile;
    fn ZwWriteFile = handle::ZwWriteFile;
    fn ZwDeviceIoControlFile = handle::ZwDeviceIoControlFile;
}
