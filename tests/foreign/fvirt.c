/*
 * A virtual storport miniport, by VIRTUAL_HW_INITIALIZATION_DATA: service requests, a disk in memory, another one that
 * comes when it is asked for, and a queue that is paused and busy.
 * https://learn.microsoft.com/windows-hardware/drivers/storage/initialization-of-storage-virtual-miniport-drivers
 */
#include "stor8.h"

#include "foreign.h"

#define BLOCK 512
#define BLOCKS 128
#define UNITS 2
#define MILLISECONDS_20 20000
#define TAG 'triV'

/* What a service request asks for: its first ULONG. */
enum {
  SERVICE_RESULT = 1,
  SERVICE_PLUG,
  SERVICE_HOLD,
  SERVICE_PAUSE_UNIT,
  SERVICE_PAUSE,
  SERVICE_BUSY,
  SERVICE_FUNCTIONS,
};

typedef struct _ADAPTER {
  FOREIGN_RESULT Result;
  PUCHAR Memory;
  BOOLEAN Plugged;
  /* No request of the first unit may start now. */
  BOOLEAN Shut;
  /* The next read is held, and its unit is busy till it ends. */
  BOOLEAN Hold;
  PSCSI_REQUEST_BLOCK Held;
  ULONG Resumed, Started, Changed, Late;
  STOR_ADDR_BTL8 Second;
  PVOID Timer, Worker;
  volatile LONG TimerCame, WorkerCame;
  PIRP Service;
} ADAPTER, *PADAPTER;

/* How often each routine of an end was called, in the order in which they come. */
static LONG Stopped, ServicesEnded, Freed;

static VOID NTAPI Tick(PVOID Extension) {
  PADAPTER adapter = Extension;
  PSCSI_REQUEST_BLOCK held = adapter->Held;

  CHECK(&adapter->Result, KeGetCurrentIrql() == DISPATCH_LEVEL);
  adapter->Shut = FALSE;
  adapter->Late = 0;
  adapter->Held = NULL;
  adapter->Resumed++;
  if (held != NULL) {
    held->SrbStatus = SRB_STATUS_SUCCESS;
    StorPortNotification(RequestComplete, adapter, held);
    return;
  }
  CHECK(&adapter->Result, StorPortResumeDevice(adapter, 0, 0, 0));
  StorPortResume(adapter);
}

static VOID Answer(PSCSI_REQUEST_BLOCK Srb, const VOID *Data, ULONG Bytes) {
  if (Bytes > Srb->DataTransferLength) Bytes = Srb->DataTransferLength;
  StorPortMoveMemory(Srb->DataBuffer, (PVOID)Data, Bytes);
  Srb->SrbStatus = Bytes < Srb->DataTransferLength ? SRB_STATUS_DATA_OVERRUN : SRB_STATUS_SUCCESS;
  Srb->DataTransferLength = Bytes;
}

static VOID Scsi(PADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb) {
  static const UCHAR pages[] = {0, 0, 0, 2, 0x00, 0x80};
  UCHAR data[36] = {0}, serial[] = {0, 0x80, 0, 8, 'F', 'O', 'R', 'V', 'I', 'R', 'T', '0'};
  ULONG first, count;

  switch (Srb->Cdb[0]) {
    case SCSIOP_INQUIRY:
      serial[11] += Srb->TargetId;
      if ((Srb->Cdb[1] & 1) && Srb->Cdb[2] == 0) {
        Answer(Srb, pages, sizeof pages);
      } else if ((Srb->Cdb[1] & 1) && Srb->Cdb[2] == 0x80) {
        Answer(Srb, serial, sizeof serial);
      } else if (Srb->Cdb[1] & 1) {
        Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
      } else {
        data[2] = 5;
        data[3] = 2;
        data[4] = sizeof data - 5;
        data[7] = 2;
        RtlCopyMemory(data + 8, "FOREIGN Virtual disk    1.0 ", 28);
        Answer(Srb, data, sizeof data);
      }
      return;
    case SCSIOP_READ_CAPACITY:
      data[3] = BLOCKS - 1;
      data[6] = BLOCK >> 8;
      Answer(Srb, data, 8);
      return;
    case SCSIOP_READ:
    case SCSIOP_WRITE:
      first = (ULONG)Srb->Cdb[2] << 24 | (ULONG)Srb->Cdb[3] << 16 | (ULONG)Srb->Cdb[4] << 8 | Srb->Cdb[5];
      count = (ULONG)Srb->Cdb[7] << 8 | Srb->Cdb[8];
      Srb->SrbStatus = SRB_STATUS_ERROR;
      if (count > BLOCKS || first > BLOCKS - count || Srb->DataTransferLength != count * BLOCK) return;
      if (Srb->Cdb[0] == SCSIOP_READ)
        RtlCopyMemory(Srb->DataBuffer, Adapter->Memory + (Srb->TargetId * BLOCKS + first) * BLOCK, count * BLOCK);
      else
        RtlCopyMemory(Adapter->Memory + (Srb->TargetId * BLOCKS + first) * BLOCK, Srb->DataBuffer, count * BLOCK);
      Srb->SrbStatus = SRB_STATUS_SUCCESS;
      return;
    case SCSIOP_MODE_SENSE:
      data[0] = 3;
      Answer(Srb, data, 4);
      return;
    case SCSIOP_TEST_UNIT_READY:
    case SCSIOP_SYNCHRONIZE_CACHE:
    case SCSIOP_START_STOP_UNIT:
      Srb->DataTransferLength = 0;
      Srb->SrbStatus = SRB_STATUS_SUCCESS;
      return;
  }
  Srb->DataTransferLength = 0;
  Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
}

/* FALSE: the request is held. */
static BOOLEAN Serve(PADAPTER adapter, PSCSI_REQUEST_BLOCK Srb) {
  STOR_REQUEST_INFO info = {.Version = 1, .Size = sizeof info};

  if (Srb->Function == SRB_FUNCTION_EXECUTE_SCSI) {
    ULONG asked = Srb->DataTransferLength;
    CHECK(&adapter->Result, StorPortExtendedFunction(ExtFunctionGetRequestInfo, adapter, Srb, &info) ==
                                STOR_STATUS_SUCCESS);
    CHECK(&adapter->Result, info.Length == asked && info.IsWriteRequest == (Srb->Cdb[0] == SCSIOP_WRITE));
    info.Version = 3;
    CHECK(&adapter->Result, StorPortExtendedFunction(ExtFunctionGetRequestInfo, adapter, Srb, &info) ==
                                STOR_STATUS_UNSUPPORTED_VERSION);
  }
  if (Srb->PathId != 0 || Srb->Lun != 0 || Srb->TargetId > (adapter->Plugged ? 1 : 0)) {
    Srb->SrbStatus = SRB_STATUS_NO_DEVICE;
  } else if (Srb->Function == SRB_FUNCTION_EXECUTE_SCSI) {
    adapter->Started++;
    /* Other processors may have been on their way here. */
    if (Srb->TargetId == 0 && adapter->Shut) {
      CHECK(&adapter->Result, ++adapter->Late < KeQueryActiveProcessorCount(NULL));
      Srb->DataTransferLength = 0;
      Srb->SrbStatus = SRB_STATUS_BUSY;
      return TRUE;
    }
    if (adapter->Hold && Srb->TargetId == 0 && Srb->Cdb[0] == SCSIOP_READ) {
      Scsi(adapter, Srb);
      adapter->Hold = FALSE;
      adapter->Shut = TRUE;
      adapter->Held = Srb;
      CHECK(&adapter->Result, StorPortDeviceBusy(adapter, 0, 0, 0, 1));
      StorPortNotification(RequestTimerCall, adapter, Tick, MILLISECONDS_20);
      return FALSE;
    }
    Scsi(adapter, Srb);
  } else {
    Srb->SrbStatus = Srb->Function == SRB_FUNCTION_IO_CONTROL ? SRB_STATUS_INVALID_REQUEST : SRB_STATUS_SUCCESS;
  }
  return TRUE;
}

/* Storport takes no lock for this routine of a virtual miniport, so that it takes the StartIo lock itself. */
static BOOLEAN NTAPI StartIo(PVOID Extension, PSCSI_REQUEST_BLOCK Srb) {
  PADAPTER adapter = Extension;
  STOR_LOCK_HANDLE lock;
  BOOLEAN done;

  StorPortNotification(AcquireSpinLock, adapter, StartIoLock, NULL, &lock);
  done = Serve(adapter, Srb);
  StorPortNotification(ReleaseSpinLock, adapter, &lock);
  if (done) StorPortNotification(RequestComplete, adapter, Srb);
  return TRUE;
}

/* The system has seen the second unit. */
static VOID NTAPI StateChanged(PVOID Extension, PVOID Context, SHORT Type, PVOID Address, ULONG Status) {
  PADAPTER adapter = Extension;
  PFOREIGN_RESULT result = &adapter->Result;
  ULONG again = 0;

  CHECK(result, KeGetCurrentIrql() == DISPATCH_LEVEL && Context == &adapter->Changed && Status == STOR_STATUS_SUCCESS);
  CHECK(result, Type == STOR_ADDRESS_TYPE_BTL8 && Address == &adapter->Second);
  /* And sees the same once more, as the first change is over. */
  if (adapter->Changed++ == 0) {
    StorPortNotification(StateChangeDetectedCall, adapter, STATE_CHANGE_BUS, &adapter->Second, 0, StateChanged,
                         &adapter->Changed, &again);
    CHECK(result, again == STOR_STATUS_SUCCESS);
  }
}

static VOID Plug(PADAPTER Adapter) {
  PFOREIGN_RESULT result = &Adapter->Result;
  STOR_ADDR_BTL8 other = {.Type = 0x7f};
  ULONG status = 0;

  Adapter->Plugged = TRUE;
  Adapter->Second.Type = STOR_ADDRESS_TYPE_BTL8;
  Adapter->Second.AddressLength = 4;
  Adapter->Second.Target = 1;
  StorPortNotification(StateChangeDetectedCall, Adapter, STATE_CHANGE_TARGET, &other, 0, NULL, NULL, &status);
  CHECK(result, status == STOR_STATUS_INVALID_PARAMETER);
  StorPortNotification(StateChangeDetectedCall, Adapter, 0, &Adapter->Second, 0, NULL, NULL, &status);
  CHECK(result, status == STOR_STATUS_INVALID_PARAMETER);
  StorPortNotification(StateChangeDetectedCall, Adapter, STATE_CHANGE_TARGET | STATE_CHANGE_LUN, &Adapter->Second, 0,
                       StateChanged, &Adapter->Changed, &status);
  CHECK(result, status == STOR_STATUS_SUCCESS);
}

static ULONG NTAPI FindAdapter(PVOID Extension, PVOID Pdo, PVOID Fdo, PVOID Lower, PCHAR Arguments,
                               PPORT_CONFIGURATION_INFORMATION Config, PBOOLEAN Again) {
  PPORT_CONFIGURATION_INFORMATION_8 config = (PPORT_CONFIGURATION_INFORMATION_8)Config;
  PADAPTER adapter = Extension;
  PFOREIGN_RESULT result = &adapter->Result;
  PVOID devices[3] = {NULL, NULL, NULL};

  UNREFERENCED_PARAMETER(Arguments);
  *Again = FALSE;
  CHECK(result, KeGetCurrentIrql() == PASSIVE_LEVEL && Config->Length >= sizeof *config);
  CHECK(result, StorPortExtendedFunction(ExtFunctionGetDeviceObjects, adapter, &devices[0], &devices[1], &devices[2]) ==
                    STOR_STATUS_SUCCESS);
  CHECK(result, devices[0] == Fdo && devices[1] == Pdo && devices[2] == Lower);
  CHECK(result, IoGetAttachedDevice(Pdo) != Pdo && ((PDEVICE_OBJECT)Lower)->AttachedDevice == Fdo);
  /* There is no DMA adapter to take it from. */
  CHECK(result, StorPortGetUncachedExtension(adapter, Config, PAGE_SIZE) == NULL);
  adapter->Memory = ExAllocatePoolWithTag(NonPagedPool, UNITS * BLOCKS * BLOCK, TAG);
  if (adapter->Memory == NULL) return SP_RETURN_ERROR;
  RtlZeroMemory(adapter->Memory, UNITS * BLOCKS * BLOCK);
  Config->NumberOfBuses = 1;
  Config->MaximumNumberOfTargets = UNITS;
  Config->MaximumNumberOfLogicalUnits = 1;
  Config->MaximumTransferLength = 64 * 1024;
  Config->MapBuffers = TRUE;
  Config->ScatterGather = TRUE;
  config->VirtualDevice = TRUE;
  return SP_RETURN_FOUND;
}

static BOOLEAN NTAPI Initialize(PVOID Extension) {
  PADAPTER adapter = Extension;

  /* Without an interrupt there is no DIRQL. */
  CHECK(&adapter->Result, KeGetCurrentIrql() == DISPATCH_LEVEL);
  return TRUE;
}

static ULONG End(PADAPTER Adapter, PIRP Irp, NTSTATUS Status, ULONG_PTR Information) {
  Irp->IoStatus.Status = Status;
  Irp->IoStatus.Information = Information;
  return StorPortExtendedFunction(ExtFunctionCompleteServiceIrp, Adapter, Irp);
}

#define CALL(Number, ...) StorPortExtendedFunction(Number, Adapter, __VA_ARGS__)

static VOID NTAPI TimerCame(PVOID Extension, PVOID Context) {
  PADAPTER Adapter = Extension;

  CHECK(&Adapter->Result, KeGetCurrentIrql() == DISPATCH_LEVEL && Context == &Adapter->TimerCame);
  /* It is not set any more, and may be from here. */
  if (InterlockedIncrement(&Adapter->TimerCame) == 1)
    CHECK(&Adapter->Result, CALL(ExtFunctionRequestTimer, Adapter->Timer, TimerCame, Context, 1000ULL, 0ULL) ==
                                STOR_STATUS_SUCCESS);
}

static VOID NTAPI WorkerCame(PVOID Extension, PVOID Context, PVOID Worker) {
  PADAPTER Adapter = Extension;

  CHECK(&Adapter->Result, KeGetCurrentIrql() == PASSIVE_LEVEL && Context == Adapter && Worker == Adapter->Worker);
  if (InterlockedIncrement(&Adapter->WorkerCame) == 1)
    CHECK(&Adapter->Result, CALL(ExtFunctionQueueWorkItem, WorkerCame, Worker, Context) == STOR_STATUS_SUCCESS);
  else
    CHECK(&Adapter->Result, CALL(ExtFunctionFreeWorker, Worker) == STOR_STATUS_SUCCESS);
}

static VOID Wait(volatile LONG *Value, LONG For) {
  LARGE_INTEGER interval;
  ULONG i;

  interval.QuadPart = -10000;
  for (i = 0; i < 1000 && *Value != For; i++) KeDelayExecutionThread(KernelMode, FALSE, &interval);
}

/* The functions that are reached by number, and what they refuse. */
static VOID CheckFunctions(PADAPTER Adapter) {
  PFOREIGN_RESULT result = &Adapter->Result;
  DECLSPEC_ALIGN(16) SLIST_HEADER head;
  DECLSPEC_ALIGN(16) SLIST_ENTRY entries[3];
  PSLIST_ENTRY entry = NULL;
  USHORT depth = 99;
  PWSTR strings[2] = {L"one", L"two"};
  STOR_LOG_EVENT_DETAILS details = {.InterfaceRevision = 0x100, .Size = sizeof details, .ErrorCode = 0x1234,
                                    .UniqueId = 0x77, .StringCount = 2, .StringList = strings};
  STOR_REQUEST_INFO info = {.Version = 1, .Size = sizeof info};
  STOR_ADDR_BTL8 address = {.Type = STOR_ADDRESS_TYPE_BTL8, .AddressLength = 4, .Port = 0xffff};
  ULONG most = 0, status = 0;
  KAFFINITY mask = 0;
  PVOID block = NULL;
  KIRQL irql;

  /* A timer is busy till it comes or is cancelled. */
  CHECK(result, CALL(ExtFunctionInitializeTimer, NULL) == STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, CALL(ExtFunctionInitializeTimer, &Adapter->Timer) == STOR_STATUS_SUCCESS);
  CHECK(result, CALL(ExtFunctionRequestTimer, NULL, TimerCame, NULL, 1ULL, 0ULL) == STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, CALL(ExtFunctionRequestTimer, Adapter->Timer, NULL, NULL, 1ULL, 0ULL) == STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, CALL(ExtFunctionRequestTimer, Adapter->Timer, TimerCame, NULL, 60000000ULL, 0ULL) == STOR_STATUS_SUCCESS);
  CHECK(result, CALL(ExtFunctionRequestTimer, Adapter->Timer, TimerCame, NULL, 1ULL, 0ULL) == STOR_STATUS_BUSY);
  CHECK(result, CALL(ExtFunctionRequestTimer, Adapter->Timer, NULL, NULL, 0ULL, 0ULL) == STOR_STATUS_SUCCESS);
  CHECK(result, CALL(ExtFunctionRequestTimer, Adapter->Timer, TimerCame, &Adapter->TimerCame, 500ULL, 0ULL) ==
                    STOR_STATUS_SUCCESS);
  Wait(&Adapter->TimerCame, 2);
  CHECK(result, Adapter->TimerCame == 2);
  CHECK(result, CALL(ExtFunctionRequestTimer, Adapter->Timer, TimerCame, NULL, 60000000ULL, 0ULL) == STOR_STATUS_SUCCESS);
  CHECK(result, CALL(ExtFunctionFreeTimer, NULL) == STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, CALL(ExtFunctionFreeTimer, Adapter->Timer) == STOR_STATUS_SUCCESS);
  CHECK(result, CALL(ExtFunctionFreeTimer, Adapter->Timer) == STOR_STATUS_UNSUCCESSFUL);
  /* One that is set when the adapter goes does not come any more. */
  CHECK(result, CALL(ExtFunctionInitializeTimer, &Adapter->Timer) == STOR_STATUS_SUCCESS);
  CHECK(result, CALL(ExtFunctionRequestTimer, Adapter->Timer, TimerCame, NULL, 900000000ULL, 0ULL) == STOR_STATUS_SUCCESS);

  CHECK(result, CALL(ExtFunctionInitializeWorker, &Adapter->Worker) == STOR_STATUS_SUCCESS);
  CHECK(result, CALL(ExtFunctionQueueWorkItem, NULL, Adapter->Worker, NULL) == STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, CALL(ExtFunctionQueueWorkItem, WorkerCame, NULL, NULL) == STOR_STATUS_INVALID_PARAMETER);
  /* Also at DISPATCH_LEVEL. */
  KeRaiseIrql(DISPATCH_LEVEL, &irql);
  status = CALL(ExtFunctionQueueWorkItem, WorkerCame, Adapter->Worker, Adapter);
  KeLowerIrql(irql);
  CHECK(result, status == STOR_STATUS_SUCCESS);
  Wait(&Adapter->WorkerCame, 2);
  CHECK(result, Adapter->WorkerCame == 2);

  CHECK(result, CALL(ExtFunctionInitializeSListHead, NULL) == STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, CALL(ExtFunctionInitializeSListHead, &head) == STOR_STATUS_SUCCESS);
  CHECK(result, CALL(ExtFunctionInterlockedPopEntrySList, &head, &entry) == STOR_STATUS_SUCCESS && entry == NULL);
  CALL(ExtFunctionInterlockedPushEntrySList, &head, &entries[0], &entry);
  CHECK(result, entry == NULL);
  CALL(ExtFunctionInterlockedPushEntrySList, &head, &entries[1], &entry);
  CHECK(result, entry == &entries[0]);
  CALL(ExtFunctionInterlockedPushEntrySList, &head, &entries[2], &entry);
  CHECK(result, CALL(ExtFunctionQueryDepthSList, &head, &depth) == STOR_STATUS_SUCCESS && depth == 3);
  CALL(ExtFunctionInterlockedPopEntrySList, &head, &entry);
  CHECK(result, entry == &entries[2]);
  CALL(ExtFunctionInterlockedFlushSList, &head, &entry);
  CHECK(result, entry == &entries[1] && entry->Next == &entries[0] && entries[0].Next == NULL);

  CHECK(result, CALL(ExtFunctionLogSystemEvent, &details, &most) == STOR_STATUS_SUCCESS && most == 0);
  details.DumpDataSize = 140;
  CHECK(result, CALL(ExtFunctionLogSystemEvent, &details, &most) == STOR_STATUS_INVALID_BUFFER_SIZE && most == 150);
  details.InterfaceRevision = 0x200;
  CHECK(result, CALL(ExtFunctionLogSystemEvent, &details, NULL) == STOR_STATUS_UNSUPPORTED_VERSION);
  CHECK(result, details.InterfaceRevision == 0x100);

  CHECK(result, CALL(ExtFunctionGetRequestInfo, NULL, &info) == STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, CALL(ExtFunctionGetGroupAffinity, (USHORT)0, &mask) == STOR_STATUS_SUCCESS);
  CHECK(result, mask == KeQueryActiveProcessors());
  CHECK(result, CALL(ExtFunctionGetGroupAffinity, (USHORT)1, &mask) == STOR_STATUS_UNSUCCESSFUL);
  CHECK(result, CALL(ExtFunctionGetGroupAffinity, (USHORT)0, NULL) == STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, CALL(ExtFunctionAllocatePool, 64, TAG, NULL) == STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, CALL(ExtFunctionAllocatePool, 64, TAG, &block) == STOR_STATUS_SUCCESS && block != NULL);
  CHECK(result, CALL(ExtFunctionFreePool, block) == STOR_STATUS_SUCCESS);
  CHECK(result, CALL(ExtFunctionFreePool, NULL) == STOR_STATUS_INVALID_PARAMETER);

  CHECK(result, CALL(ExtFunctionGetSystemPortNumber, &address) == STOR_STATUS_SUCCESS && address.Port != 0xffff);
  /* A unit says that it notifies, and only then may. */
  StorPortNotification(AsyncNotificationDetected, Adapter, &address, 1ULL, &status);
  CHECK(result, status == STOR_STATUS_INVALID_DEVICE_REQUEST);
  CHECK(result, CALL(ExtFunctionSetUnitAttributes, &address, 0x10) == STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, CALL(ExtFunctionSetUnitAttributes, &address, 0x2) == STOR_STATUS_SUCCESS);
  StorPortNotification(AsyncNotificationDetected, Adapter, &address, 1ULL, &status);
  CHECK(result, status == STOR_STATUS_SUCCESS);
  StorPortNotification(AsyncNotificationDetected, Adapter, &address, 8ULL, &status);
  CHECK(result, status == STOR_STATUS_INVALID_PARAMETER);
  address.Target = 9;
  CHECK(result, CALL(ExtFunctionSetUnitAttributes, &address, 0x2) == STOR_STATUS_INVALID_PARAMETER);
  address.Type = 2;
  CHECK(result, CALL(ExtFunctionGetSystemPortNumber, &address) == STOR_STATUS_INVALID_PARAMETER);
}

static VOID NTAPI ProcessServiceRequest(PVOID Extension, PVOID Request) {
  PADAPTER adapter = Extension;
  PIRP irp = Request;
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(irp);
  ULONG what, bytes = 0;

  CHECK(&adapter->Result, stack->Parameters.DeviceIoControl.IoControlCode == IOCTL_MINIPORT_PROCESS_SERVICE_IRP);
  CHECK(&adapter->Result, KeGetCurrentIrql() == PASSIVE_LEVEL);
  if (stack->Parameters.DeviceIoControl.InputBufferLength < sizeof what) {
    End(adapter, irp, STATUS_INVALID_PARAMETER, 0);
    return;
  }
  what = *(PULONG)irp->AssociatedIrp.SystemBuffer;
  switch (what) {
    case SERVICE_RESULT:
      if (stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(FOREIGN_RESULT)) break;
      CHECK(&adapter->Result, adapter->Changed == 2);
      CHECK(&adapter->Result, StorPortExtendedFunction(ExtFunctionCompleteServiceIrp, adapter, NULL) ==
                                  STOR_STATUS_INVALID_PARAMETER);
      *(PFOREIGN_RESULT)irp->AssociatedIrp.SystemBuffer = adapter->Result;
      bytes = sizeof(FOREIGN_RESULT);
      break;
    case SERVICE_PLUG:
      Plug(adapter);
      break;
    case SERVICE_HOLD:
      /* Till the adapter goes: HwCompleteServiceIrp. */
      adapter->Service = irp;
      return;
    case SERVICE_PAUSE_UNIT:
    case SERVICE_PAUSE:
      adapter->Shut = TRUE;
      CHECK(&adapter->Result, !StorPortPauseDevice(adapter, 0, 9, 0, 30));
      CHECK(&adapter->Result, StorPortPauseDevice(adapter, 0, 0, 0, 30));
      if (what == SERVICE_PAUSE) CHECK(&adapter->Result, StorPortPause(adapter, 30));
      StorPortNotification(RequestTimerCall, adapter, Tick, MILLISECONDS_20);
      break;
    case SERVICE_BUSY:
      adapter->Hold = TRUE;
      break;
    case SERVICE_FUNCTIONS:
      CheckFunctions(adapter);
      break;
    default:
      End(adapter, irp, STATUS_NOT_SUPPORTED, 0);
      return;
  }
  End(adapter, irp, STATUS_SUCCESS, bytes);
}

static VOID NTAPI CompleteServiceIrp(PVOID Extension) {
  PADAPTER adapter = Extension;
  PIRP irp = adapter->Service;

  ServicesEnded++;
  adapter->Service = NULL;
  if (irp != NULL) End(adapter, irp, STATUS_CANCELLED, 0);
}

static VOID NTAPI FreeAdapterResources(PVOID Extension) {
  PADAPTER adapter = Extension;

  Freed++;
  DbgPrint("fvirt: stopped %ld, services ended %ld, freed %ld, IRQL %d, failed %lu in line %lu\n", Stopped,
           ServicesEnded, Freed, KeGetCurrentIrql(), adapter->Result.Failed, adapter->Result.FirstLine);
  ExFreePoolWithTag(adapter->Memory, TAG);
  adapter->Memory = NULL;
}

static BOOLEAN NTAPI ResetBus(PVOID Extension, ULONG Path) {
  StorPortCompleteRequest(Extension, (UCHAR)Path, 0xff, 0xff, SRB_STATUS_BUS_RESET);
  return TRUE;
}

static SCSI_ADAPTER_CONTROL_STATUS NTAPI AdapterControl(PVOID Extension, SCSI_ADAPTER_CONTROL_TYPE Type, PVOID Data) {
  PSCSI_SUPPORTED_CONTROL_TYPE_LIST list = Data;

  UNREFERENCED_PARAMETER(Extension);
  if (Type == ScsiQuerySupportedControlTypes) {
    list->SupportedTypeList[ScsiQuerySupportedControlTypes] = TRUE;
    list->SupportedTypeList[ScsiStopAdapter] = TRUE;
  }
  if (Type == ScsiStopAdapter) Stopped++;
  return ScsiAdapterControlSuccess;
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  VIRTUAL_HW_INITIALIZATION_DATA whole;
  HW_INITIALIZATION_DATA *data = &whole.Data;

  RtlZeroMemory(&whole, sizeof whole);
  data->HwInitializationDataSize = sizeof whole;
  data->AdapterInterfaceType = Internal;
  data->HwInitialize = Initialize;
  data->HwStartIo = StartIo;
  data->HwFindAdapter = (PHW_FIND_ADAPTER)FindAdapter;
  data->HwAdapterControl = AdapterControl;
  data->DeviceExtensionSize = sizeof(ADAPTER);
  data->MapBuffers = TRUE;
  data->TaggedQueuing = TRUE;
  data->AutoRequestSense = TRUE;
  data->MultipleRequestPerLu = TRUE;
  whole.HwProcessServiceRequest = ProcessServiceRequest;
  whole.HwCompleteServiceIrp = CompleteServiceIrp;
  /* Without the two routines that a virtual miniport must have, nothing is registered. */
  if (NT_SUCCESS(StorPortInitialize(Driver, RegistryPath, data, NULL))) return STATUS_UNSUCCESSFUL;
  data->HwResetBus = ResetBus;
  if (NT_SUCCESS(StorPortInitialize(Driver, RegistryPath, data, NULL))) return STATUS_UNSUCCESSFUL;
  whole.HwFreeAdapterResources = FreeAdapterResources;
  return StorPortInitialize(Driver, RegistryPath, data, NULL);
}
