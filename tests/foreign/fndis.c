/*
 * An NDIS miniport without hardware: what is sent comes back as received, on a timer, so that sends are completed, frames
 * returned and pauses ended later and on another thread. The keyword "Misbehave" makes it break one rule of NDIS at a time;
 * each must be seen.
 * https://learn.microsoft.com/windows-hardware/drivers/network/ndis-miniport-drivers2
 */
#include <ntddk.h>
#include "fndis.h"

#define TAG 'dnFn'
#define FRAMES 64
#define ROOM 2048
#define DELAY_100NS 2000

enum {
  HONEST,
  COMPLETE_TWICE,
  INDICATE_WHILE_HELD,
  INDICATE_WHILE_PAUSED,
  PAUSE_TOO_EARLY,
  LEAK_A_POOL,
  ANSWER_TWICE,
  WRONG_COUNT,
  WRONG_SOURCE,
  CHANGE_THE_PACKET,
  LIE_ABOUT_IRQL,
  WRITE_TOO_MUCH,
  TOO_LONG,
};

typedef struct _FRAME {
  struct _FRAME *Next;
  PNET_BUFFER_LIST List;
  PMDL Mdl;
  UCHAR Data[ROOM];
} FRAME, *PFRAME;

typedef struct _ADAPTER {
  NDIS_HANDLE Handle, Pool, Timer, Work;
  KSPIN_LOCK Lock;
  PNET_BUFFER_LIST First, *Last;
  PFRAME Free, Frames;
  /* Frames that are out, and ticks that run. */
  LONG Held, Busy;
  BOOLEAN Running, PausePending;
  ULONG Misbehave, Filter, Power, Turn, Sent, Received, Lost;
  POID_REQUEST Pending;
  UCHAR Address[6];
} ADAPTER, *PADAPTER;

static NDIS_HANDLE Driver;

static ULONG DispatchFlag(VOID) { return KeGetCurrentIrql() == DISPATCH_LEVEL ? 1 : 0; }

/* Ends a pause that waited for the last frame or the last send. Called without the lock. */
static VOID TryPause(PADAPTER Adapter) {
  KIRQL irql;
  BOOLEAN done;

  KeAcquireSpinLock(&Adapter->Lock, &irql);
  done = Adapter->PausePending && Adapter->Held == 0 && Adapter->Busy == 0 && Adapter->First == NULL;
  if (done) Adapter->PausePending = FALSE;
  KeReleaseSpinLock(&Adapter->Lock, irql);
  if (done) NdisMPauseComplete(Adapter->Handle);
}

static PFRAME TakeFrame(PADAPTER Adapter) {
  KIRQL irql;
  PFRAME frame;

  KeAcquireSpinLock(&Adapter->Lock, &irql);
  frame = Adapter->Free;
  if (frame != NULL) {
    Adapter->Free = frame->Next;
    Adapter->Held++;
  }
  KeReleaseSpinLock(&Adapter->Lock, irql);
  return frame;
}

static VOID GiveFrame(PADAPTER Adapter, PFRAME Frame) {
  KIRQL irql;

  KeAcquireSpinLock(&Adapter->Lock, &irql);
  Frame->Next = Adapter->Free;
  Adapter->Free = Frame;
  Adapter->Held--;
  KeReleaseSpinLock(&Adapter->Lock, irql);
}

static VOID NTAPI Return(NDIS_HANDLE Context, PNET_BUFFER_LIST Lists, ULONG Flags) {
  PADAPTER adapter = Context;

  UNREFERENCED_PARAMETER(Flags);
  while (Lists != NULL) {
    PNET_BUFFER_LIST next = Lists->Next;
    Lists->Next = NULL;
    GiveFrame(adapter, Lists->MiniportReserved[0]);
    Lists = next;
  }
  TryPause(adapter);
}

/* Puts a sent buffer into a frame of its own. NULL: it does not fit, or no frame is free. */
static PNET_BUFFER_LIST Loop(PADAPTER Adapter, PNET_BUFFER Buffer) {
  PFRAME frame;
  PNET_BUFFER own;
  PVOID data;
  ULONG length = Buffer->DataLength;

  if (length > ROOM || length < 14 || (frame = TakeFrame(Adapter)) == NULL) {
    Adapter->Lost++;
    return NULL;
  }
  data = NdisGetDataBuffer(Buffer, length, frame->Data, 1, 0);
  if (data == NULL) {
    GiveFrame(Adapter, frame);
    Adapter->Lost++;
    return NULL;
  }
  if (data != frame->Data) RtlCopyMemory(frame->Data, data, length);
  own = frame->List->FirstNetBuffer;
  own->DataOffset = 0;
  own->CurrentMdl = own->MdlChain;
  own->CurrentMdlOffset = 0;
  own->DataLength = Adapter->Misbehave == TOO_LONG ? ROOM : length;
  frame->List->Status = NDIS_STATUS_SUCCESS;
  frame->List->SourceHandle = Adapter->Misbehave == WRONG_SOURCE ? Driver : Adapter->Handle;
  frame->List->Next = NULL;
  return frame->List;
}

static VOID NTAPI Tick(PVOID Specific1, PVOID Context, PVOID Specific2, PVOID Specific3) {
  PADAPTER adapter = Context;
  PNET_BUFFER_LIST sent, list, first = NULL, *last = &first;
  ULONG count = 0, flags = DispatchFlag();
  KIRQL irql;

  UNREFERENCED_PARAMETER(Specific1);
  UNREFERENCED_PARAMETER(Specific2);
  UNREFERENCED_PARAMETER(Specific3);
  KeAcquireSpinLock(&adapter->Lock, &irql);
  sent = adapter->First;
  adapter->First = NULL;
  adapter->Last = &adapter->First;
  adapter->Busy++;
  KeReleaseSpinLock(&adapter->Lock, irql);
  for (list = sent; list != NULL; list = list->Next) {
    PNET_BUFFER buffer;
    for (buffer = list->FirstNetBuffer; buffer != NULL; buffer = buffer->Next) {
      PNET_BUFFER_LIST looped = Loop(adapter, buffer);
      if (looped == NULL) continue;
      *last = looped;
      last = &looped->Next;
      count++;
    }
    list->Status = NDIS_STATUS_SUCCESS;
    adapter->Sent++;
  }
  if (first != NULL && adapter->Filter != 0) {
    adapter->Received += count;
    if (adapter->Misbehave == WRONG_COUNT) count++;
    if (adapter->Turn++ % 4 == 3) {
      /* The memory is wanted back at once. */
      NdisMIndicateReceiveNetBufferLists(adapter->Handle, first, 0, count, flags | 2);
      Return(adapter, first, 0);
    } else {
      NdisMIndicateReceiveNetBufferLists(adapter->Handle, first, 0, count, flags);
      if (adapter->Misbehave == INDICATE_WHILE_HELD)
        NdisMIndicateReceiveNetBufferLists(adapter->Handle, first, 0, count, flags);
    }
  } else if (first != NULL) {
    Return(adapter, first, 0);
  }
  if (sent != NULL) {
    if (adapter->Misbehave == CHANGE_THE_PACKET) NdisAdvanceNetBufferDataStart(sent->FirstNetBuffer, 4, FALSE, NULL);
    NdisMSendNetBufferListsComplete(adapter->Handle, sent, flags);
    if (adapter->Misbehave == COMPLETE_TWICE) NdisMSendNetBufferListsComplete(adapter->Handle, sent, flags);
  }
  KeAcquireSpinLock(&adapter->Lock, &irql);
  adapter->Busy--;
  KeReleaseSpinLock(&adapter->Lock, irql);
  TryPause(adapter);
}

static VOID NTAPI Send(NDIS_HANDLE Context, PNET_BUFFER_LIST Lists, ULONG Port, ULONG Flags) {
  PADAPTER adapter = Context;
  PNET_BUFFER_LIST list;
  LARGE_INTEGER due;
  KIRQL irql;

  UNREFERENCED_PARAMETER(Port);
  KeAcquireSpinLock(&adapter->Lock, &irql);
  if (!adapter->Running || adapter->Misbehave == LIE_ABOUT_IRQL) {
    KeReleaseSpinLock(&adapter->Lock, irql);
    for (list = Lists; list != NULL; list = list->Next) list->Status = NDIS_STATUS_PAUSED;
    NdisMSendNetBufferListsComplete(adapter->Handle, Lists, adapter->Misbehave == LIE_ABOUT_IRQL ? 1 : Flags & 1);
    return;
  }
  for (list = Lists; list != NULL; list = list->Next) {
    *adapter->Last = list;
    adapter->Last = &list->Next;
  }
  KeReleaseSpinLock(&adapter->Lock, irql);
  due.QuadPart = -DELAY_100NS;
  NdisSetTimerObject(adapter->Timer, due, 0, adapter);
}

/* Gives up what was sent with an id and waits for the next tick. */
static VOID NTAPI CancelSend(NDIS_HANDLE Context, PVOID Id) {
  PADAPTER adapter = Context;
  PNET_BUFFER_LIST *at, list, gone = NULL;
  KIRQL irql;

  KeAcquireSpinLock(&adapter->Lock, &irql);
  for (at = &adapter->First; (list = *at) != NULL;) {
    if (list->NetBufferListInfo[INFO_CANCEL_ID] == Id) {
      *at = list->Next;
      list->Next = gone;
      list->Status = NDIS_STATUS_REQUEST_ABORTED;
      gone = list;
    } else {
      at = &list->Next;
    }
  }
  adapter->Last = at;
  KeReleaseSpinLock(&adapter->Lock, irql);
  if (gone != NULL) NdisMSendNetBufferListsComplete(adapter->Handle, gone, DispatchFlag());
  TryPause(adapter);
}

static VOID NTAPI AnswerLater(PVOID Context, NDIS_HANDLE Item) {
  PADAPTER adapter = Context;
  POID_REQUEST request = adapter->Pending;

  UNREFERENCED_PARAMETER(Item);
  adapter->Pending = NULL;
  *(ULONG *)request->InformationBuffer = adapter->Sent;
  request->BytesWrittenOrRead = sizeof(ULONG);
  NdisMOidRequestComplete(adapter->Handle, request, NDIS_STATUS_SUCCESS);
  if (adapter->Misbehave == ANSWER_TWICE) NdisMOidRequestComplete(adapter->Handle, request, NDIS_STATUS_SUCCESS);
}

/* OID_GEN_CURRENT_PACKET_FILTER, OID_PNP_SET_POWER and OID_802_3_MULTICAST_LIST at once, OID_GEN_XMIT_OK later. */
static NDIS_STATUS NTAPI Oid(NDIS_HANDLE Context, POID_REQUEST Request) {
  PADAPTER adapter = Context;

  if (Request->RequestType == 1 && Request->Oid == 0x0001010E) {
    if (Request->InformationBufferLength < sizeof(ULONG)) {
      Request->BytesNeeded = sizeof(ULONG);
      return NDIS_STATUS_BUFFER_TOO_SHORT;
    }
    adapter->Filter = *(ULONG *)Request->InformationBuffer;
    Request->BytesWrittenOrRead = sizeof(ULONG);
    return NDIS_STATUS_SUCCESS;
  }
  if (Request->RequestType == 1 && Request->Oid == 0xFD010101) {
    adapter->Power = *(ULONG *)Request->InformationBuffer;
    Request->BytesWrittenOrRead = sizeof(ULONG);
    return NDIS_STATUS_SUCCESS;
  }
  if (Request->RequestType == 1 && Request->Oid == 0x01010103) {
    Request->BytesWrittenOrRead = Request->InformationBufferLength;
    return NDIS_STATUS_SUCCESS;
  }
  if (Request->RequestType == 0 && Request->Oid == 0x00020101) {
    if (Request->InformationBufferLength < sizeof(ULONG)) {
      Request->BytesNeeded = sizeof(ULONG);
      return NDIS_STATUS_BUFFER_TOO_SHORT;
    }
    if (adapter->Misbehave == WRITE_TOO_MUCH) {
      Request->BytesWrittenOrRead = Request->InformationBufferLength + 1;
      return NDIS_STATUS_SUCCESS;
    }
    adapter->Pending = Request;
    NdisQueueIoWorkItem(adapter->Work, AnswerLater, adapter);
    return NDIS_STATUS_PENDING;
  }
  return NDIS_STATUS_NOT_SUPPORTED;
}

static VOID NTAPI CancelOid(NDIS_HANDLE Context, PVOID Id) {
  UNREFERENCED_PARAMETER(Context);
  UNREFERENCED_PARAMETER(Id);
}

static NDIS_STATUS NTAPI Pause(NDIS_HANDLE Context, PVOID Parameters) {
  PADAPTER adapter = Context;
  BOOLEAN idle;
  KIRQL irql;

  UNREFERENCED_PARAMETER(Parameters);
  KeAcquireSpinLock(&adapter->Lock, &irql);
  adapter->Running = FALSE;
  idle = adapter->Held == 0 && adapter->Busy == 0 && adapter->First == NULL;
  adapter->PausePending = !idle && adapter->Misbehave != PAUSE_TOO_EARLY;
  KeReleaseSpinLock(&adapter->Lock, irql);
  return adapter->PausePending ? NDIS_STATUS_PENDING : NDIS_STATUS_SUCCESS;
}

static NDIS_STATUS NTAPI Restart(NDIS_HANDLE Context, PVOID Parameters) {
  PADAPTER adapter = Context;
  KIRQL irql;

  UNREFERENCED_PARAMETER(Parameters);
  KeAcquireSpinLock(&adapter->Lock, &irql);
  adapter->Running = adapter->Power <= 1;
  KeReleaseSpinLock(&adapter->Lock, irql);
  return NDIS_STATUS_SUCCESS;
}

/* While paused, NDIS may still ask for a reset; one frame is indicated then by the rule that is to be broken. */
static NDIS_STATUS NTAPI Reset(NDIS_HANDLE Context, PBOOLEAN AddressingReset) {
  PADAPTER adapter = Context;
  PFRAME frame;

  *AddressingReset = FALSE;
  if (adapter->Misbehave == INDICATE_WHILE_PAUSED && (frame = TakeFrame(adapter)) != NULL) {
    frame->List->SourceHandle = adapter->Handle;
    frame->List->FirstNetBuffer->DataLength = 60;
    frame->List->FirstNetBuffer->CurrentMdl = frame->Mdl;
    NdisMIndicateReceiveNetBufferLists(adapter->Handle, frame->List, 0, 1, 0);
  }
  return NDIS_STATUS_SUCCESS;
}

static VOID NTAPI PnpEvent(NDIS_HANDLE Context, PVOID Event) {
  UNREFERENCED_PARAMETER(Context);
  UNREFERENCED_PARAMETER(Event);
}

static VOID NTAPI Shutdown(NDIS_HANDLE Context, LONG Action) {
  UNREFERENCED_PARAMETER(Context);
  UNREFERENCED_PARAMETER(Action);
}

/* A lock may be taken again by the processor that has it, the same way. */
static NDIS_STATUS CheckLock(NDIS_HANDLE Handle) {
  LOCK_STATE_EX outer, inner;
  PVOID lock = NdisAllocateRWLock(Handle);
  ULONG good = 0;

  if (lock == NULL) return NDIS_STATUS_RESOURCES;
  NdisAcquireRWLockRead(lock, &outer, 0);
  NdisAcquireRWLockRead(lock, &inner, 1 /* NDIS_RWL_AT_DISPATCH_LEVEL */);
  good += KeGetCurrentIrql() == DISPATCH_LEVEL;
  NdisReleaseRWLock(lock, &inner);
  good += KeGetCurrentIrql() == DISPATCH_LEVEL;
  NdisReleaseRWLock(lock, &outer);
  good += KeGetCurrentIrql() == PASSIVE_LEVEL;
  NdisAcquireRWLockWrite(lock, &outer, 0);
  NdisAcquireRWLockWrite(lock, &inner, 0);
  NdisReleaseRWLock(lock, &inner);
  good += KeGetCurrentIrql() == DISPATCH_LEVEL;
  NdisReleaseRWLock(lock, &outer);
  good += KeGetCurrentIrql() == PASSIVE_LEVEL;
  NdisFreeRWLock(lock);
  return good == 5 ? NDIS_STATUS_SUCCESS : STATUS_UNSUCCESSFUL;
}

static VOID Free(PADAPTER Adapter) {
  ULONG i;

  if (Adapter->Frames != NULL) {
    for (i = 0; i < FRAMES; i++) {
      if (Adapter->Frames[i].List != NULL) NdisFreeNetBufferList(Adapter->Frames[i].List);
      if (Adapter->Frames[i].Mdl != NULL) NdisFreeMdl(Adapter->Frames[i].Mdl);
    }
    NdisFreeMemory(Adapter->Frames, 0, 0);
  }
  if (Adapter->Pool != NULL && Adapter->Misbehave != LEAK_A_POOL) NdisFreeNetBufferListPool(Adapter->Pool);
  if (Adapter->Timer != NULL) {
    NdisCancelTimerObject(Adapter->Timer);
    NdisFreeTimerObject(Adapter->Timer);
  }
  if (Adapter->Work != NULL) NdisFreeIoWorkItem(Adapter->Work);
  NdisFreeMemory(Adapter, 0, 0);
}

static VOID NTAPI Halt(NDIS_HANDLE Context, LONG Action) {
  UNREFERENCED_PARAMETER(Action);
  Free(Context);
}

static ULONG Keyword(NDIS_HANDLE Configuration, PCWSTR Name, ULONG Default) {
  UNICODE_STRING name;
  PCONFIGURATION_PARAMETER value;
  NDIS_STATUS status;

  RtlInitUnicodeString(&name, Name);
  NdisReadConfiguration(&status, &value, Configuration, &name, 0);
  return status == NDIS_STATUS_SUCCESS && value->ParameterType == 0 ? value->ParameterData.IntegerData : Default;
}

static NDIS_STATUS Configure(PADAPTER Adapter) {
  CONFIGURATION_OBJECT object = {{0xA9, 1, FIELD_OFFSET(CONFIGURATION_OBJECT, Flags) + sizeof(ULONG)}, Adapter->Handle, 0};
  NDIS_HANDLE configuration;
  PUCHAR address;
  ULONG length;
  NDIS_STATUS status = NdisOpenConfigurationEx(&object, &configuration);

  if (status != NDIS_STATUS_SUCCESS) return status;
  Adapter->Misbehave = Keyword(configuration, L"Misbehave", HONEST);
  RtlCopyMemory(Adapter->Address, "\x02\x46\x4e\x44\x49\x53", 6);
  NdisReadNetworkAddress(&status, &address, &length, configuration);
  if (status == NDIS_STATUS_SUCCESS && length == 6) RtlCopyMemory(Adapter->Address, address, 6);
  NdisCloseConfiguration(configuration);
  return NDIS_STATUS_SUCCESS;
}

static NDIS_STATUS MakeFrames(PADAPTER Adapter) {
  POOL_PARAMETERS parameters = {{0x80, 1, sizeof(POOL_PARAMETERS)}, 0, TRUE, 0, TAG, 0};
  ULONG i;

  Adapter->Pool = NdisAllocateNetBufferListPool(Adapter->Handle, &parameters);
  Adapter->Frames = NdisAllocateMemoryWithTagPriority(Adapter->Handle, FRAMES * sizeof(FRAME), TAG, 0);
  if (Adapter->Pool == NULL || Adapter->Frames == NULL) return NDIS_STATUS_RESOURCES;
  RtlZeroMemory(Adapter->Frames, FRAMES * sizeof(FRAME));
  for (i = 0; i < FRAMES; i++) {
    PFRAME frame = &Adapter->Frames[i];
    frame->Mdl = NdisAllocateMdl(Adapter->Handle, frame->Data, ROOM);
    if (frame->Mdl == NULL) return NDIS_STATUS_RESOURCES;
    frame->List = NdisAllocateNetBufferAndNetBufferList(Adapter->Pool, 0, 0, frame->Mdl, 0, 0);
    if (frame->List == NULL) return NDIS_STATUS_RESOURCES;
    frame->List->MiniportReserved[0] = frame;
    frame->Next = Adapter->Free;
    Adapter->Free = frame;
  }
  return NDIS_STATUS_SUCCESS;
}

static NDIS_STATUS Describe(PADAPTER Adapter) {
  static ULONG oids[] = {0x0001010E, 0x01010103, 0x00020101};
  REGISTRATION_ATTRIBUTES registration = {
      {0x9E, 1, FIELD_OFFSET(REGISTRATION_ATTRIBUTES, InterfaceType) + sizeof(LONG)}, Adapter, 0x21, 0, 0};
  GENERAL_ATTRIBUTES general;
  NDIS_STATUS status = NdisMSetMiniportAttributes(Adapter->Handle, &registration);

  if (status != NDIS_STATUS_SUCCESS) return status;
  RtlZeroMemory(&general, sizeof general);
  general.Header.Type = 0x9F;
  general.Header.Revision = 1;
  general.Header.Size = sizeof general;
  general.PhysicalMediumType = 14;
  general.MtuSize = 1500;
  general.MaxXmitLinkSpeed = general.XmitLinkSpeed = general.MaxRcvLinkSpeed = general.RcvLinkSpeed = 1000000000;
  general.MediaConnectState = 1;
  general.MediaDuplexState = 2;
  general.LookaheadSize = ROOM;
  general.SupportedPacketFilters = 0x2F;
  general.MaxMulticastListSize = 32;
  general.MacAddressLength = 6;
  RtlCopyMemory(general.PermanentMacAddress, "\x02\x46\x4e\x44\x49\x53", 6);
  RtlCopyMemory(general.CurrentMacAddress, Adapter->Address, 6);
  general.AccessType = 2;
  general.DirectionType = 1;
  general.ConnectionType = 1;
  general.IfType = 6;
  general.SupportedOidList = oids;
  general.SupportedOidListLength = sizeof oids;
  return NdisMSetMiniportAttributes(Adapter->Handle, &general);
}

static NDIS_STATUS NTAPI Initialize(NDIS_HANDLE Handle, NDIS_HANDLE Context, PVOID Parameters) {
  TIMER_CHARACTERISTICS timer = {{0x97, 1, sizeof(TIMER_CHARACTERISTICS)}, TAG, Tick, NULL};
  PADAPTER adapter = NdisAllocateMemoryWithTagPriority(Handle, sizeof *adapter, TAG, 0);
  NDIS_STATUS status;

  UNREFERENCED_PARAMETER(Context);
  UNREFERENCED_PARAMETER(Parameters);
  if (adapter == NULL) return NDIS_STATUS_RESOURCES;
  RtlZeroMemory(adapter, sizeof *adapter);
  adapter->Handle = Handle;
  adapter->Last = &adapter->First;
  KeInitializeSpinLock(&adapter->Lock);
  timer.FunctionContext = adapter;
  status = Configure(adapter);
  if (status == NDIS_STATUS_SUCCESS) status = CheckLock(Handle);
  if (status == NDIS_STATUS_SUCCESS) status = NdisAllocateTimerObject(Handle, &timer, &adapter->Timer);
  if (status == NDIS_STATUS_SUCCESS) status = MakeFrames(adapter);
  if (status == NDIS_STATUS_SUCCESS) {
    adapter->Work = NdisAllocateIoWorkItem(Handle);
    if (adapter->Work == NULL) status = NDIS_STATUS_RESOURCES;
  }
  if (status == NDIS_STATUS_SUCCESS) status = Describe(adapter);
  if (status != NDIS_STATUS_SUCCESS) Free(adapter);
  return status;
}

static VOID NTAPI Unload(PDRIVER_OBJECT DriverObject) {
  UNREFERENCED_PARAMETER(DriverObject);
  NdisMDeregisterMiniportDriver(Driver);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath) {
  static DRIVER_CHARACTERISTICS calls = {
      .Header = {0x8A, 2, sizeof(DRIVER_CHARACTERISTICS)},
      .MajorNdisVersion = 6,
      .MinorNdisVersion = 20,
      .InitializeHandlerEx = Initialize,
      .HaltHandlerEx = Halt,
      .UnloadHandler = Unload,
      .PauseHandler = Pause,
      .RestartHandler = Restart,
      .OidRequestHandler = Oid,
      .SendNetBufferListsHandler = Send,
      .ReturnNetBufferListsHandler = Return,
      .CancelSendHandler = CancelSend,
      .ResetHandlerEx = Reset,
      .DevicePnPEventNotifyHandler = PnpEvent,
      .ShutdownHandlerEx = Shutdown,
      .CancelOidRequestHandler = CancelOid,
  };

  C_ASSERT(FIELD_OFFSET(NET_BUFFER_LIST, NetBufferListInfo) == 0x90);
  C_ASSERT(sizeof(NET_BUFFER) == 0xB0);
  C_ASSERT(sizeof(GENERAL_ATTRIBUTES) == 0xD8);
  C_ASSERT(sizeof(DRIVER_CHARACTERISTICS) == 0x98);
  return NdisMRegisterMiniportDriver(DriverObject, RegistryPath, NULL, &calls, &Driver);
}
