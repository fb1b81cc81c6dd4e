/*
 * NDIS 6.20 as far as fndis uses it, from the public documentation: mingw-w64's ndis.h ends with NDIS 5.
 * https://learn.microsoft.com/windows-hardware/drivers/ddi/ndis/
 */
#pragma once

typedef PVOID NDIS_HANDLE;
typedef LONG NDIS_STATUS;

#define NDIS_STATUS_SUCCESS ((NDIS_STATUS)0)
#define NDIS_STATUS_PENDING ((NDIS_STATUS)0x103)
#define NDIS_STATUS_RESOURCES ((NDIS_STATUS)0xC000009AL)
#define NDIS_STATUS_NOT_SUPPORTED ((NDIS_STATUS)0xC00000BBL)
#define NDIS_STATUS_BUFFER_TOO_SHORT ((NDIS_STATUS)0xC0010016L)
#define NDIS_STATUS_PAUSED ((NDIS_STATUS)0xC023002AL)
#define NDIS_STATUS_REQUEST_ABORTED ((NDIS_STATUS)0xC001000CL)

typedef struct _NDIS_OBJECT_HEADER {
  UCHAR Type, Revision;
  USHORT Size;
} NDIS_OBJECT_HEADER;

typedef struct _NET_BUFFER {
  struct _NET_BUFFER *Next;
  PMDL CurrentMdl;
  ULONG CurrentMdlOffset;
  union {
    ULONG DataLength;
    SIZE_T stDataLength;
  };
  PMDL MdlChain;
  ULONG DataOffset;
  ULONG Align0;
  USHORT ChecksumBias, Reserved;
  NDIS_HANDLE NdisPoolHandle;
  PVOID NdisReserved[2], ProtocolReserved[6], MiniportReserved[4];
  PHYSICAL_ADDRESS DataPhysicalAddress;
  PVOID ScatterGatherList;
} NET_BUFFER, *PNET_BUFFER;

typedef struct _NET_BUFFER_LIST {
  struct _NET_BUFFER_LIST *Next;
  PNET_BUFFER FirstNetBuffer;
  PVOID Context;
  struct _NET_BUFFER_LIST *ParentNetBufferList;
  NDIS_HANDLE NdisPoolHandle;
  PVOID Align0;
  PVOID NdisReserved[2], ProtocolReserved[4], MiniportReserved[2], Scratch;
  NDIS_HANDLE SourceHandle;
  ULONG NblFlags;
  LONG ChildRefCount;
  ULONG Flags;
  NDIS_STATUS Status;
  PVOID NetBufferListInfo[20];
} NET_BUFFER_LIST, *PNET_BUFFER_LIST;

#define INFO_CANCEL_ID 5

typedef struct _POOL_PARAMETERS {
  NDIS_OBJECT_HEADER Header;
  UCHAR ProtocolId;
  BOOLEAN fAllocateNetBuffer;
  USHORT ContextSize;
  ULONG PoolTag, DataSize;
} POOL_PARAMETERS;

typedef struct _OID_REQUEST {
  NDIS_OBJECT_HEADER Header;
  LONG RequestType;
  ULONG PortNumber;
  ULONG Timeout;
  PVOID RequestId;
  NDIS_HANDLE RequestHandle;
  ULONG Oid;
  PVOID InformationBuffer;
  ULONG InformationBufferLength;
  ULONG BytesWrittenOrRead;
  ULONG BytesNeeded;
} OID_REQUEST, *POID_REQUEST;

typedef struct _TIMER_CHARACTERISTICS {
  NDIS_OBJECT_HEADER Header;
  ULONG AllocationTag;
  VOID(NTAPI *TimerFunction)(PVOID, PVOID, PVOID, PVOID);
  PVOID FunctionContext;
} TIMER_CHARACTERISTICS;

typedef struct _CONFIGURATION_OBJECT {
  NDIS_OBJECT_HEADER Header;
  NDIS_HANDLE NdisHandle;
  ULONG Flags;
} CONFIGURATION_OBJECT;

typedef struct _CONFIGURATION_PARAMETER {
  LONG ParameterType;
  union {
    ULONG IntegerData;
    UNICODE_STRING StringData;
  } ParameterData;
} CONFIGURATION_PARAMETER, *PCONFIGURATION_PARAMETER;

typedef struct _REGISTRATION_ATTRIBUTES {
  NDIS_OBJECT_HEADER Header;
  NDIS_HANDLE MiniportAdapterContext;
  ULONG AttributeFlags;
  ULONG CheckForHangTimeInSeconds;
  LONG InterfaceType;
} REGISTRATION_ATTRIBUTES;

typedef struct _GENERAL_ATTRIBUTES {
  NDIS_OBJECT_HEADER Header;
  ULONG Flags;
  LONG MediaType, PhysicalMediumType;
  ULONG MtuSize;
  ULONG64 MaxXmitLinkSpeed, XmitLinkSpeed, MaxRcvLinkSpeed, RcvLinkSpeed;
  LONG MediaConnectState, MediaDuplexState;
  ULONG LookaheadSize;
  PVOID PowerManagementCapabilities;
  ULONG MacOptions, SupportedPacketFilters, MaxMulticastListSize;
  USHORT MacAddressLength;
  UCHAR PermanentMacAddress[32], CurrentMacAddress[32];
  PVOID RecvScaleCapabilities;
  LONG AccessType, DirectionType, ConnectionType;
  USHORT IfType;
  BOOLEAN IfConnectorPresent;
  ULONG SupportedStatistics, SupportedPauseFunctions, DataBackFillSize, ContextBackFillSize;
  ULONG *SupportedOidList;
  ULONG SupportedOidListLength, AutoNegotiationFlags;
} GENERAL_ATTRIBUTES;

typedef struct _DRIVER_CHARACTERISTICS {
  NDIS_OBJECT_HEADER Header;
  UCHAR MajorNdisVersion, MinorNdisVersion, MajorDriverVersion, MinorDriverVersion;
  ULONG Flags;
  PVOID SetOptionsHandler;
  NDIS_STATUS(NTAPI *InitializeHandlerEx)(NDIS_HANDLE, NDIS_HANDLE, PVOID);
  VOID(NTAPI *HaltHandlerEx)(NDIS_HANDLE, LONG);
  VOID(NTAPI *UnloadHandler)(PDRIVER_OBJECT);
  NDIS_STATUS(NTAPI *PauseHandler)(NDIS_HANDLE, PVOID);
  NDIS_STATUS(NTAPI *RestartHandler)(NDIS_HANDLE, PVOID);
  NDIS_STATUS(NTAPI *OidRequestHandler)(NDIS_HANDLE, POID_REQUEST);
  VOID(NTAPI *SendNetBufferListsHandler)(NDIS_HANDLE, PNET_BUFFER_LIST, ULONG, ULONG);
  VOID(NTAPI *ReturnNetBufferListsHandler)(NDIS_HANDLE, PNET_BUFFER_LIST, ULONG);
  VOID(NTAPI *CancelSendHandler)(NDIS_HANDLE, PVOID);
  PVOID CheckForHangHandlerEx;
  NDIS_STATUS(NTAPI *ResetHandlerEx)(NDIS_HANDLE, PBOOLEAN);
  VOID(NTAPI *DevicePnPEventNotifyHandler)(NDIS_HANDLE, PVOID);
  VOID(NTAPI *ShutdownHandlerEx)(NDIS_HANDLE, LONG);
  VOID(NTAPI *CancelOidRequestHandler)(NDIS_HANDLE, PVOID);
  PVOID DirectOidRequestHandler, CancelDirectOidRequestHandler;
} DRIVER_CHARACTERISTICS;

ULONG NTAPI NdisGetVersion(VOID);
NDIS_STATUS NTAPI NdisMRegisterMiniportDriver(PDRIVER_OBJECT, PUNICODE_STRING, NDIS_HANDLE, DRIVER_CHARACTERISTICS *, NDIS_HANDLE *);
VOID NTAPI NdisMDeregisterMiniportDriver(NDIS_HANDLE);
NDIS_STATUS NTAPI NdisMSetMiniportAttributes(NDIS_HANDLE, PVOID);
NDIS_STATUS NTAPI NdisOpenConfigurationEx(CONFIGURATION_OBJECT *, NDIS_HANDLE *);
VOID NTAPI NdisReadConfiguration(NDIS_STATUS *, PCONFIGURATION_PARAMETER *, NDIS_HANDLE, PUNICODE_STRING, LONG);
VOID NTAPI NdisReadNetworkAddress(NDIS_STATUS *, PUCHAR *, ULONG *, NDIS_HANDLE);
VOID NTAPI NdisCloseConfiguration(NDIS_HANDLE);
PVOID NTAPI NdisAllocateMemoryWithTagPriority(NDIS_HANDLE, ULONG, ULONG, LONG);
VOID NTAPI NdisFreeMemory(PVOID, ULONG, ULONG);
NDIS_HANDLE NTAPI NdisAllocateNetBufferListPool(NDIS_HANDLE, POOL_PARAMETERS *);
VOID NTAPI NdisFreeNetBufferListPool(NDIS_HANDLE);
PNET_BUFFER_LIST NTAPI NdisAllocateNetBufferAndNetBufferList(NDIS_HANDLE, USHORT, USHORT, PMDL, ULONG, SIZE_T);
VOID NTAPI NdisFreeNetBufferList(PNET_BUFFER_LIST);
PMDL NTAPI NdisAllocateMdl(NDIS_HANDLE, PVOID, ULONG);
VOID NTAPI NdisFreeMdl(PMDL);
PVOID NTAPI NdisGetDataBuffer(PNET_BUFFER, ULONG, PVOID, ULONG, ULONG);
VOID NTAPI NdisAdvanceNetBufferDataStart(PNET_BUFFER, ULONG, BOOLEAN, PVOID);
NDIS_STATUS NTAPI NdisRetreatNetBufferDataStart(PNET_BUFFER, ULONG, ULONG, PVOID);
VOID NTAPI NdisMIndicateReceiveNetBufferLists(NDIS_HANDLE, PNET_BUFFER_LIST, ULONG, ULONG, ULONG);
VOID NTAPI NdisMSendNetBufferListsComplete(NDIS_HANDLE, PNET_BUFFER_LIST, ULONG);
VOID NTAPI NdisMOidRequestComplete(NDIS_HANDLE, POID_REQUEST, NDIS_STATUS);
VOID NTAPI NdisMPauseComplete(NDIS_HANDLE);
NDIS_STATUS NTAPI NdisAllocateTimerObject(NDIS_HANDLE, TIMER_CHARACTERISTICS *, NDIS_HANDLE *);
BOOLEAN NTAPI NdisSetTimerObject(NDIS_HANDLE, LARGE_INTEGER, LONG, PVOID);
BOOLEAN NTAPI NdisCancelTimerObject(NDIS_HANDLE);
VOID NTAPI NdisFreeTimerObject(NDIS_HANDLE);
NDIS_HANDLE NTAPI NdisAllocateIoWorkItem(NDIS_HANDLE);
VOID NTAPI NdisQueueIoWorkItem(NDIS_HANDLE, VOID(NTAPI *)(PVOID, NDIS_HANDLE), PVOID);
VOID NTAPI NdisFreeIoWorkItem(NDIS_HANDLE);

typedef struct _LOCK_STATE_EX {
  UCHAR OldIrql, LockState, Flags;
} LOCK_STATE_EX;
PVOID NTAPI NdisAllocateRWLock(NDIS_HANDLE);
VOID NTAPI NdisFreeRWLock(PVOID);
VOID NTAPI NdisAcquireRWLockRead(PVOID, LOCK_STATE_EX *, UCHAR);
VOID NTAPI NdisAcquireRWLockWrite(PVOID, LOCK_STATE_EX *, UCHAR);
VOID NTAPI NdisReleaseRWLock(PVOID, LOCK_STATE_EX *);
