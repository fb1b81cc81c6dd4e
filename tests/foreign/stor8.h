/*
 * What storport.h has had since Windows 8 and mingw-w64's of 2003 has not: whole structures, and the functions that are
 * reached by number. From Microsoft's pages of storport.h; the names are theirs, with an 8 where mingw-w64 has a
 * shorter structure of that name.
 * https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/
 */
#pragma once

#include <ntddk.h>
#include <scsi.h>
#include <srb.h>
/* mingw-w64 declares this one twice. */
#define _SCSI_WMI_REQUEST_BLOCK _SCSI_WMI_REQUEST_BLOCK_AGAIN
#define SCSI_WMI_REQUEST_BLOCK SCSI_WMI_REQUEST_BLOCK_AGAIN
#define PSCSI_WMI_REQUEST_BLOCK PSCSI_WMI_REQUEST_BLOCK_AGAIN
/* It declares these without the device extension. */
#define StorPortReadPortUchar StorPortReadPortUcharOf2003
#define StorPortReadPortUshort StorPortReadPortUshortOf2003
#define StorPortReadPortUlong StorPortReadPortUlongOf2003
#define StorPortWritePortUchar StorPortWritePortUcharOf2003
#define StorPortWritePortUshort StorPortWritePortUshortOf2003
#define StorPortWritePortUlong StorPortWritePortUlongOf2003
#define StorPortReadRegisterUchar StorPortReadRegisterUcharOf2003
#define StorPortReadRegisterUshort StorPortReadRegisterUshortOf2003
#define StorPortReadRegisterUlong StorPortReadRegisterUlongOf2003
#define StorPortWriteRegisterUchar StorPortWriteRegisterUcharOf2003
#define StorPortWriteRegisterUshort StorPortWriteRegisterUshortOf2003
#define StorPortWriteRegisterUlong StorPortWriteRegisterUlongOf2003
#include <storport.h>
#undef StorPortReadPortUchar
#undef StorPortReadPortUshort
#undef StorPortReadPortUlong
#undef StorPortWritePortUchar
#undef StorPortWritePortUshort
#undef StorPortWritePortUlong
#undef StorPortReadRegisterUchar
#undef StorPortReadRegisterUshort
#undef StorPortReadRegisterUlong
#undef StorPortWriteRegisterUchar
#undef StorPortWriteRegisterUshort
#undef StorPortWriteRegisterUlong

/* One value, then many to or from one port, or registers in a row. */
#define STOR8_ACCESS(Name, Type)                                                                              \
  Type NTAPI StorPortReadPort##Name(PVOID Extension, Type *Port);                                            \
  VOID NTAPI StorPortWritePort##Name(PVOID Extension, Type *Port, Type Value);                               \
  Type NTAPI StorPortReadRegister##Name(PVOID Extension, Type *Register);                                    \
  VOID NTAPI StorPortWriteRegister##Name(PVOID Extension, Type *Register, Type Value);                       \
  VOID NTAPI StorPortReadPortBuffer##Name(PVOID Extension, Type *Port, Type *Buffer, ULONG Count);           \
  VOID NTAPI StorPortWritePortBuffer##Name(PVOID Extension, Type *Port, Type *Buffer, ULONG Count);          \
  VOID NTAPI StorPortReadRegisterBuffer##Name(PVOID Extension, Type *Register, Type *Buffer, ULONG Count);   \
  VOID NTAPI StorPortWriteRegisterBuffer##Name(PVOID Extension, Type *Register, Type *Buffer, ULONG Count);
STOR8_ACCESS(Uchar, UCHAR)
STOR8_ACCESS(Ushort, USHORT)
STOR8_ACCESS(Ulong, ULONG)

#define STOR_STATUS_SUCCESS 0x00000000L
#define STOR_STATUS_UNSUCCESSFUL 0xC1000001L
#define STOR_STATUS_INSUFFICIENT_RESOURCES 0xC1000003L
#define STOR_STATUS_INVALID_PARAMETER 0xC1000006L
#define STOR_STATUS_INVALID_DEVICE_REQUEST 0xC1000007L
#define STOR_STATUS_INVALID_IRQL 0xC1000008L
#define STOR_STATUS_INVALID_BUFFER_SIZE 0xC100000AL
#define STOR_STATUS_UNSUPPORTED_VERSION 0xC100000BL
#define STOR_STATUS_BUSY 0xC100000CL

#define STOR_FEATURE_VIRTUAL_MINIPORT 0x1
#define IOCTL_MINIPORT_PROCESS_SERVICE_IRP CTL_CODE(0x4, 0x040e, METHOD_BUFFERED, FILE_READ_ACCESS | FILE_WRITE_ACCESS)

typedef struct _HW_INITIALIZATION_DATA_8 {
  HW_INITIALIZATION_DATA Data;
  PVOID HwBuildIo, HwFreeAdapterResources, HwProcessServiceRequest, HwCompleteServiceIrp;
  PVOID HwInitializeTracing, HwCleanupTracing, HwTracingEnabled;
  ULONG FeatureSupport, SrbTypeFlags, AddressTypeFlags, Reserved1;
  PVOID HwUnitControl;
} HW_INITIALIZATION_DATA_8;

typedef struct _VIRTUAL_HW_INITIALIZATION_DATA {
  HW_INITIALIZATION_DATA Data;
  PVOID HwBuildIo, HwFreeAdapterResources, HwProcessServiceRequest, HwCompleteServiceIrp;
  PVOID HwInitializeTracing, HwCleanupTracing;
} VIRTUAL_HW_INITIALIZATION_DATA;

typedef enum { InterruptSupportNone, InterruptSynchronizeAll, InterruptSynchronizePerMessage } SYNCHRONIZATION_MODE;

enum { StorSynchronizeHalfDuplex, StorSynchronizeFullDuplex };

typedef struct _PORT_CONFIGURATION_INFORMATION_8 {
  union {
    PORT_CONFIGURATION_INFORMATION Head;
    struct {
      UCHAR Bytes[0x94];
      ULONG SynchronizationModel;
    };
  };
  PVOID HwMSInterruptRoutine;
  ULONG InterruptSynchronizationMode;
  PVOID DumpRegion[3];
  ULONG RequestedDumpBufferSize;
  BOOLEAN VirtualDevice;
  UCHAR DumpMode, DmaAddressWidth;
  ULONG ExtendedFlags1, MaxNumberOfIO, MaxIOsPerLun, InitialLunQueueDepth, BusResetHoldTime, FeatureSupport;
} PORT_CONFIGURATION_INFORMATION_8, *PPORT_CONFIGURATION_INFORMATION_8;

typedef struct _MESSAGE_INTERRUPT_INFORMATION {
  ULONG MessageId, MessageData;
  PHYSICAL_ADDRESS MessageAddress;
  ULONG InterruptVector, InterruptLevel;
  KINTERRUPT_MODE InterruptMode;
} MESSAGE_INTERRUPT_INFORMATION;

#define STOR_PERF_DPC_REDIRECTION 0x01
#define STOR_PERF_CONCURRENT_CHANNELS 0x02
#define STOR_PERF_INTERRUPT_MESSAGE_RANGES 0x04
#define STOR_PERF_ADV_CONFIG_LOCALITY 0x08
typedef struct _PERF_CONFIGURATION_DATA {
  ULONG Version, Size, Flags, ConcurrentChannels, FirstRedirectionMessageNumber, LastRedirectionMessageNumber;
  ULONG DeviceNode, Reserved;
  PGROUP_AFFINITY MessageTargets;
} PERF_CONFIGURATION_DATA;

typedef struct _STOR_REQUEST_INFO {
  USHORT Version, Size;
  ULONG PriorityHint, Flags, Key, Length;
  BOOLEAN IsWriteRequest;
  UCHAR Reserved[3];
} STOR_REQUEST_INFO;

typedef struct _STOR_LOG_EVENT_DETAILS {
  ULONG InterfaceRevision, Size, Flags, EventAssociation, PathId, TargetId, LunId;
  BOOLEAN StorportSpecificErrorCode;
  ULONG ErrorCode, UniqueId, DumpDataSize;
  PVOID DumpData;
  ULONG StringCount;
  PWSTR *StringList;
} STOR_LOG_EVENT_DETAILS;

typedef struct _STARTIO_PERFORMANCE_PARAMETERS {
  ULONG Version, Size, MessageNumber, ChannelNumber;
} STARTIO_PERFORMANCE_PARAMETERS;

typedef struct _STOR_DPC {
  KDPC Dpc;
  KSPIN_LOCK Lock;
} STOR_DPC, *PSTOR_DPC;

enum { DpcLock = 1, StartIoLock, InterruptLock };
typedef struct _STOR_LOCK_HANDLE {
  ULONG Lock;
  PVOID Queue[2];
  KIRQL OldIrql;
} STOR_LOCK_HANDLE;

#define STATE_CHANGE_LUN 0x1
#define STATE_CHANGE_TARGET 0x2
#define STATE_CHANGE_BUS 0x4
#define STOR_ADDRESS_TYPE_BTL8 0x1
typedef struct _STOR_ADDR_BTL8 {
  USHORT Type, Port;
  ULONG AddressLength;
  UCHAR Path, Target, Lun, Reserved;
} STOR_ADDR_BTL8;

/* Types of StorPortNotification that are newer. */
enum {
  EnablePassiveInitialization = 0x1000,
  InitializeDpc,
  IssueDpc,
  AcquireSpinLock,
  ReleaseSpinLock,
  StateChangeDetectedCall,
  AsyncNotificationDetected = 0x1007,
};

/* Numbers of StorPortExtendedFunction. */
enum {
  ExtFunctionAllocatePool = 0,
  ExtFunctionFreePool = 1,
  ExtFunctionCompleteServiceIrp = 7,
  ExtFunctionGetDeviceObjects = 8,
  ExtFunctionAcquireMSISpinLock = 11,
  ExtFunctionReleaseMSISpinLock = 12,
  ExtFunctionGetMessageInterruptInformation = 13,
  ExtFunctionInitializePerformanceOptimizations = 14,
  ExtFunctionGetStartIoPerformanceParameters = 15,
  ExtFunctionLogSystemEvent = 16,
  ExtFunctionGetGroupAffinity = 19,
  ExtFunctionGetRequestInfo = 28,
  ExtFunctionInitializeWorker = 29,
  ExtFunctionQueueWorkItem = 30,
  ExtFunctionFreeWorker = 31,
  ExtFunctionInitializeTimer = 32,
  ExtFunctionRequestTimer = 33,
  ExtFunctionFreeTimer = 34,
  ExtFunctionInitializeSListHead = 35,
  ExtFunctionInterlockedFlushSList = 36,
  ExtFunctionInterlockedPopEntrySList = 37,
  ExtFunctionInterlockedPushEntrySList = 38,
  ExtFunctionQueryDepthSList = 39,
  ExtFunctionGetSystemPortNumber = 41,
  ExtFunctionSetUnitAttributes = 46,
};
ULONG StorPortExtendedFunction(ULONG FunctionCode, PVOID HwDeviceExtension, ...);

C_ASSERT(sizeof(HW_INITIALIZATION_DATA_8) == 0xd0 && sizeof(VIRTUAL_HW_INITIALIZATION_DATA) == 0xb0);
C_ASSERT(sizeof(PORT_CONFIGURATION_INFORMATION_8) == 0xe0 && sizeof(STOR_DPC) == 0x48);
C_ASSERT(sizeof(STOR_LOCK_HANDLE) == 0x20);
C_ASSERT(FIELD_OFFSET(PORT_CONFIGURATION_INFORMATION_8, HwMSInterruptRoutine) == 0x98);
C_ASSERT(FIELD_OFFSET(PORT_CONFIGURATION_INFORMATION_8, VirtualDevice) == 0xc4);

/* IOCTL_SCSI_MINIPORT: what stands before a miniport's own data. */
typedef struct _FOREIGN_IO_CONTROL {
  ULONG HeaderLength;
  UCHAR Signature[8];
  ULONG Timeout, ControlCode, ReturnCode, Length;
} FOREIGN_IO_CONTROL, *PFOREIGN_IO_CONTROL;
