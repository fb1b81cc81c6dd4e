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
enum { SERVICE_RESULT = 1, SERVICE_PLUG, SERVICE_HOLD, SERVICE_PAUSE_UNIT, SERVICE_PAUSE, SERVICE_BUSY };

typedef struct _ADAPTER {
  FOREIGN_RESULT Result;
  PUCHAR Memory;
  BOOLEAN Plugged;
  /* No request of the first unit may start now. */
  BOOLEAN Shut;
  /* The next read is held, and its unit is busy till it ends. */
  BOOLEAN Hold;
  PSCSI_REQUEST_BLOCK Held;
  ULONG Resumed, Started;
  PIRP Service;
} ADAPTER, *PADAPTER;

/* How often each routine of an end was called, in the order in which they come. */
static LONG Stopped, ServicesEnded, Freed;

static VOID NTAPI Tick(PVOID Extension) {
  PADAPTER adapter = Extension;
  PSCSI_REQUEST_BLOCK held = adapter->Held;

  CHECK(&adapter->Result, KeGetCurrentIrql() == DISPATCH_LEVEL);
  adapter->Shut = FALSE;
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

static BOOLEAN NTAPI StartIo(PVOID Extension, PSCSI_REQUEST_BLOCK Srb) {
  PADAPTER adapter = Extension;

  if (Srb->PathId != 0 || Srb->Lun != 0 || Srb->TargetId > (adapter->Plugged ? 1 : 0)) {
    Srb->SrbStatus = SRB_STATUS_NO_DEVICE;
  } else if (Srb->Function == SRB_FUNCTION_EXECUTE_SCSI) {
    adapter->Started++;
    if (Srb->TargetId == 0) CHECK(&adapter->Result, !adapter->Shut);
    if (adapter->Hold && Srb->TargetId == 0 && Srb->Cdb[0] == SCSIOP_READ) {
      Scsi(adapter, Srb);
      adapter->Hold = FALSE;
      adapter->Shut = TRUE;
      adapter->Held = Srb;
      CHECK(&adapter->Result, StorPortDeviceBusy(adapter, 0, 0, 0, 1));
      StorPortNotification(RequestTimerCall, adapter, Tick, MILLISECONDS_20);
      return TRUE;
    }
    Scsi(adapter, Srb);
  } else {
    Srb->SrbStatus = Srb->Function == SRB_FUNCTION_IO_CONTROL ? SRB_STATUS_INVALID_REQUEST : SRB_STATUS_SUCCESS;
  }
  StorPortNotification(RequestComplete, adapter, Srb);
  return TRUE;
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
      CHECK(&adapter->Result, StorPortExtendedFunction(ExtFunctionCompleteServiceIrp, adapter, NULL) ==
                                  STOR_STATUS_INVALID_PARAMETER);
      *(PFOREIGN_RESULT)irp->AssociatedIrp.SystemBuffer = adapter->Result;
      bytes = sizeof(FOREIGN_RESULT);
      break;
    case SERVICE_PLUG:
      adapter->Plugged = TRUE;
      StorPortNotification(BusChangeDetected, adapter, 0);
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
