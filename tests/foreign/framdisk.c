/*
 * A storport miniport over memory, as miniports were written before Windows 8: SCSI request blocks, half duplex, the
 * scatter-gather list and the system address of the buffer, requests that complete at once, from a timer, or after
 * having been refused as busy.
 * https://learn.microsoft.com/windows-hardware/drivers/storage/storport-driver-miniport-routines
 */
#include <ntddk.h>
#include <scsi.h>
#include <srb.h>
/* mingw-w64 declares this one twice. */
#define _SCSI_WMI_REQUEST_BLOCK _SCSI_WMI_REQUEST_BLOCK_AGAIN
#define SCSI_WMI_REQUEST_BLOCK SCSI_WMI_REQUEST_BLOCK_AGAIN
#define PSCSI_WMI_REQUEST_BLOCK PSCSI_WMI_REQUEST_BLOCK_AGAIN
#include <storport.h>

/* Newer than mingw-w64's header. */
BOOLEAN NTAPI StorPortSetDeviceQueueDepth(PVOID HwDeviceExtension, UCHAR PathId, UCHAR TargetId, UCHAR Lun, ULONG Depth);

#define BLOCK 512
#define DISK_BYTES (8 * 1024 * 1024)
#define BLOCKS (DISK_BYTES / BLOCK)
#define DEPTH 16
#define BREAK 0xC0

typedef struct _SRB_STATE {
  PSCSI_REQUEST_BLOCK Srb;
  LIST_ENTRY Entry;
} SRB_STATE, *PSRB_STATE;

typedef struct _ADAPTER {
  PUCHAR Memory;
  ULONG Requests, Refused, Timers, Resets;
  BOOLEAN TimerRuns;
  LIST_ENTRY Delayed;
  PSRB_STATE Stale;
} ADAPTER, *PADAPTER;

static VOID Sense(PSCSI_REQUEST_BLOCK Srb, UCHAR Key, UCHAR Code) {
  PSENSE_DATA sense = Srb->SenseInfoBuffer;

  Srb->SrbStatus = SRB_STATUS_ERROR;
  Srb->ScsiStatus = SCSISTAT_CHECK_CONDITION;
  Srb->DataTransferLength = 0;
  if (sense == NULL || Srb->SenseInfoBufferLength < sizeof *sense || (Srb->SrbFlags & SRB_FLAGS_DISABLE_AUTOSENSE))
    return;
  RtlZeroMemory(sense, sizeof *sense);
  sense->ErrorCode = 0x70;
  sense->SenseKey = Key;
  sense->AdditionalSenseLength = sizeof *sense - 8;
  sense->AdditionalSenseCode = Code;
  Srb->SenseInfoBufferLength = sizeof *sense;
  Srb->SrbStatus |= SRB_STATUS_AUTOSENSE_VALID;
}

static VOID Answer(PSCSI_REQUEST_BLOCK Srb, const VOID *Data, ULONG Bytes) {
  if (Bytes > Srb->DataTransferLength) Bytes = Srb->DataTransferLength;
  StorPortMoveMemory(Srb->DataBuffer, (PVOID)Data, Bytes);
  Srb->SrbStatus = Bytes < Srb->DataTransferLength ? SRB_STATUS_DATA_OVERRUN : SRB_STATUS_SUCCESS;
  Srb->DataTransferLength = Bytes;
}

static ULONG Be32(const UCHAR *From) {
  return ((ULONG)From[0] << 24) | ((ULONG)From[1] << 16) | ((ULONG)From[2] << 8) | From[3];
}

static VOID PutBe32(PUCHAR To, ULONG Value) {
  To[0] = (UCHAR)(Value >> 24);
  To[1] = (UCHAR)(Value >> 16);
  To[2] = (UCHAR)(Value >> 8);
  To[3] = (UCHAR)Value;
}

static VOID Inquiry(PSCSI_REQUEST_BLOCK Srb) {
  UCHAR data[36] = {0};
  static const UCHAR pages[] = {0, 0, 0, 2, 0x00, 0x80};
  static const UCHAR serial[] = {0, 0x80, 0, 8, 'F', 'O', 'R', 'E', 'I', 'G', 'N', '1'};

  if (Srb->Cdb[1] & 1) {
    if (Srb->Cdb[2] == 0x00)
      Answer(Srb, pages, sizeof pages);
    else if (Srb->Cdb[2] == 0x80)
      Answer(Srb, serial, sizeof serial);
    else
      Sense(Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_INVALID_CDB);
    return;
  }
  data[2] = 5;
  data[3] = 2;
  data[4] = sizeof data - 5;
  data[7] = 2;
  RtlCopyMemory(data + 8, "FOREIGN ", 8);
  RtlCopyMemory(data + 16, "RAM disk        ", 16);
  RtlCopyMemory(data + 32, "1.0 ", 4);
  Answer(Srb, data, sizeof data);
}

/* Moves the blocks of a request, element by element of its list where it has one, else through its system address. */
static VOID Move(PADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb, ULONG First, ULONG Count, BOOLEAN Write) {
  PSTOR_SCATTER_GATHER_LIST list;
  ULONG bytes = Count * BLOCK, listed = 0, i;
  PUCHAR disk = Adapter->Memory + (SIZE_T)First * BLOCK;

  if (Count > BLOCKS || First > BLOCKS - Count) {
    Sense(Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_ILLEGAL_BLOCK);
    return;
  }
  if (bytes > Srb->DataTransferLength) {
    Srb->SrbStatus = SRB_STATUS_DATA_OVERRUN;
    return;
  }
  list = StorPortGetScatterGatherList(Adapter, Srb);
  if (bytes != 0 && list == NULL) {
    Srb->SrbStatus = SRB_STATUS_ERROR;
    return;
  }
  for (i = 0; bytes != 0 && i < list->NumberOfElements; i++) {
    if (list->List[i].Length == 0) break;
    listed += list->List[i].Length;
  }
  if (listed != Srb->DataTransferLength) {
    Srb->SrbStatus = SRB_STATUS_ERROR;
    return;
  }
  if (Write)
    StorPortMoveMemory(disk, Srb->DataBuffer, bytes);
  else
    StorPortMoveMemory(Srb->DataBuffer, disk, bytes);
  Srb->DataTransferLength = bytes;
  Srb->SrbStatus = SRB_STATUS_SUCCESS;
}

static VOID Execute(PADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb) {
  UCHAR data[12] = {0};

  Srb->ScsiStatus = SCSISTAT_GOOD;
  switch (Srb->Cdb[0]) {
    case SCSIOP_INQUIRY:
      Inquiry(Srb);
      break;
    case SCSIOP_READ_CAPACITY:
      PutBe32(data, BLOCKS - 1);
      PutBe32(data + 4, BLOCK);
      Answer(Srb, data, 8);
      break;
    case SCSIOP_READ:
    case SCSIOP_WRITE:
      Move(Adapter, Srb, Be32(Srb->Cdb + 2), (ULONG)Srb->Cdb[7] << 8 | Srb->Cdb[8], Srb->Cdb[0] == SCSIOP_WRITE);
      break;
    case SCSIOP_MODE_SENSE:
      data[0] = 3;
      Answer(Srb, data, 4);
      break;
    case SCSIOP_TEST_UNIT_READY:
    case SCSIOP_VERIFY:
    case SCSIOP_SYNCHRONIZE_CACHE:
    case SCSIOP_START_STOP_UNIT:
      Srb->DataTransferLength = 0;
      Srb->SrbStatus = SRB_STATUS_SUCCESS;
      break;
    default:
      Sense(Srb, SCSI_SENSE_ILLEGAL_REQUEST, SCSI_ADSENSE_ILLEGAL_COMMAND);
      break;
  }
}

/* A command of our own that breaks a rule of storport's: the bench is to notice each. */
static VOID Break(PADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb, PSRB_STATE State) {
  switch (Srb->Cdb[1]) {
    case 0: /* Writes behind the SRB extension. */
      ((volatile UCHAR *)State)[sizeof *State] = 1;
      break;
    case 1: /* Writes to the SRB extension of a request that is complete: with the next one. */
      Adapter->Stale = State;
      break;
    default: /* Completes a request twice. */
      Srb->SrbStatus = SRB_STATUS_SUCCESS;
      StorPortNotification(RequestComplete, Adapter, Srb);
      break;
  }
  Srb->DataTransferLength = 0;
  Srb->SrbStatus = SRB_STATUS_SUCCESS;
}

static VOID NTAPI Tick(PVOID Extension) {
  PADAPTER adapter = Extension;

  adapter->Timers++;
  adapter->TimerRuns = FALSE;
  while (!IsListEmpty(&adapter->Delayed)) {
    PSRB_STATE state = CONTAINING_RECORD(RemoveHeadList(&adapter->Delayed), SRB_STATE, Entry);
    Execute(adapter, state->Srb);
    StorPortNotification(RequestComplete, adapter, state->Srb);
  }
}

static ULONG NTAPI FindAdapter(PVOID Extension, PVOID Context, PVOID Bus, PCHAR Arguments,
                               PPORT_CONFIGURATION_INFORMATION Config, PBOOLEAN Again) {
  PADAPTER adapter = Extension;
  ULONG i;

  UNREFERENCED_PARAMETER(Context);
  UNREFERENCED_PARAMETER(Bus);
  UNREFERENCED_PARAMETER(Arguments);
  *Again = FALSE;
  if (Config->Length < sizeof *Config) return SP_RETURN_BAD_CONFIG;
  for (i = 0; i < sizeof *adapter; i++)
    if (((PUCHAR)adapter)[i] != 0) return SP_RETURN_ERROR;
  adapter->Memory = ExAllocatePoolWithTag(NonPagedPool, DISK_BYTES, 'kdmR');
  if (adapter->Memory == NULL) return SP_RETURN_ERROR;
  RtlZeroMemory(adapter->Memory, DISK_BYTES);
  InitializeListHead(&adapter->Delayed);
  Config->NumberOfBuses = 1;
  Config->MaximumNumberOfTargets = 2;
  Config->MaximumNumberOfLogicalUnits = 1;
  Config->MaximumTransferLength = 256 * 1024;
  Config->NumberOfPhysicalBreaks = 65;
  Config->AlignmentMask = 3;
  Config->ScatterGather = TRUE;
  Config->Master = TRUE;
  Config->CachesData = FALSE;
  Config->ResetTargetSupported = TRUE;
  Config->Dma32BitAddresses = TRUE;
  Config->Dma64BitAddresses = SCSI_DMA64_MINIPORT_SUPPORTED;
  Config->MapBuffers = TRUE;
  return SP_RETURN_FOUND;
}

static BOOLEAN NTAPI Initialize(PVOID Extension) {
  UNREFERENCED_PARAMETER(Extension);
  return TRUE;
}

static BOOLEAN NTAPI StartIo(PVOID Extension, PSCSI_REQUEST_BLOCK Srb) {
  PADAPTER adapter = Extension;
  PSRB_STATE state = Srb->SrbExtension;

  adapter->Requests++;
  if (adapter->Stale != NULL) adapter->Stale->Srb = Srb;
  if (Srb->PathId != 0 || Srb->TargetId != 0 || Srb->Lun != 0) {
    Srb->SrbStatus = SRB_STATUS_NO_DEVICE;
    StorPortNotification(RequestComplete, adapter, Srb);
    return TRUE;
  }
  switch (Srb->Function) {
    case SRB_FUNCTION_EXECUTE_SCSI:
      if (Srb->Cdb[0] == BREAK) {
        Break(adapter, Srb, state);
        break;
      }
      /* Every 64th is refused as busy, every 8th waits for the timer. */
      if (adapter->Requests % 64 == 0) {
        adapter->Refused++;
        Srb->SrbStatus = SRB_STATUS_BUSY;
        Srb->DataTransferLength = 0;
        break;
      }
      /* What may start by this waits until this routine has ended. */
      if (adapter->Requests % 16 == 0) StorPortDeviceReady(adapter, 0, 0, 0);
      if (Srb->Cdb[0] == SCSIOP_INQUIRY) StorPortSetDeviceQueueDepth(adapter, 0, 0, 0, DEPTH);
      if (adapter->Requests % 8 == 0) {
        state->Srb = Srb;
        InsertTailList(&adapter->Delayed, &state->Entry);
        if (!adapter->TimerRuns) {
          adapter->TimerRuns = TRUE;
          StorPortNotification(RequestTimerCall, adapter, Tick, 500);
        }
        return TRUE;
      }
      Execute(adapter, Srb);
      break;
    case SRB_FUNCTION_RESET_LOGICAL_UNIT:
    case SRB_FUNCTION_RESET_DEVICE:
    case SRB_FUNCTION_RESET_BUS:
      adapter->Resets++;
      Srb->SrbStatus = SRB_STATUS_SUCCESS;
      break;
    case SRB_FUNCTION_FLUSH:
    case SRB_FUNCTION_SHUTDOWN:
    case SRB_FUNCTION_PNP:
    case SRB_FUNCTION_POWER:
      Srb->SrbStatus = SRB_STATUS_SUCCESS;
      break;
    default:
      Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
      break;
  }
  StorPortNotification(RequestComplete, adapter, Srb);
  return TRUE;
}

static BOOLEAN NTAPI ResetBus(PVOID Extension, ULONG Path) {
  PADAPTER adapter = Extension;

  UNREFERENCED_PARAMETER(Path);
  adapter->Resets++;
  while (!IsListEmpty(&adapter->Delayed)) {
    PSRB_STATE state = CONTAINING_RECORD(RemoveHeadList(&adapter->Delayed), SRB_STATE, Entry);
    state->Srb->SrbStatus = SRB_STATUS_BUS_RESET;
    StorPortNotification(RequestComplete, adapter, state->Srb);
  }
  return TRUE;
}

static SCSI_ADAPTER_CONTROL_STATUS NTAPI AdapterControl(PVOID Extension, SCSI_ADAPTER_CONTROL_TYPE Type, PVOID Data) {
  PSCSI_SUPPORTED_CONTROL_TYPE_LIST list = Data;
  PADAPTER adapter = Extension;

  switch (Type) {
    case ScsiQuerySupportedControlTypes:
      if (list->MaxControlType > ScsiQuerySupportedControlTypes)
        list->SupportedTypeList[ScsiQuerySupportedControlTypes] = TRUE;
      if (list->MaxControlType > ScsiStopAdapter) list->SupportedTypeList[ScsiStopAdapter] = TRUE;
      if (list->MaxControlType > ScsiRestartAdapter) list->SupportedTypeList[ScsiRestartAdapter] = TRUE;
      return ScsiAdapterControlSuccess;
    case ScsiStopAdapter:
      DbgPrint("framdisk: stopped after %lu requests, %lu refused, %lu timers\n", adapter->Requests, adapter->Refused,
               adapter->Timers);
      if (adapter->Memory != NULL) ExFreePoolWithTag(adapter->Memory, 'kdmR');
      adapter->Memory = NULL;
      return ScsiAdapterControlSuccess;
    case ScsiRestartAdapter:
      return adapter->Memory != NULL ? ScsiAdapterControlSuccess : ScsiAdapterControlUnsuccessful;
    default:
      return ScsiAdapterControlUnsuccessful;
  }
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  /* mingw-w64's structure is that of scsiport; storport's goes on with one routine more. */
  struct {
    HW_INITIALIZATION_DATA Data;
    PVOID HwBuildIo;
  } whole;
  HW_INITIALIZATION_DATA *data = &whole.Data;

  RtlZeroMemory(&whole, sizeof whole);
  data->HwInitializationDataSize = sizeof whole;
  data->AdapterInterfaceType = Internal;
  data->HwInitialize = Initialize;
  data->HwStartIo = StartIo;
  data->HwFindAdapter = (PHW_FIND_ADAPTER)FindAdapter;
  data->HwResetBus = ResetBus;
  data->HwAdapterControl = AdapterControl;
  data->DeviceExtensionSize = sizeof(ADAPTER);
  data->SrbExtensionSize = sizeof(SRB_STATE);
  data->MapBuffers = TRUE;
  data->NeedPhysicalAddresses = TRUE;
  data->TaggedQueuing = TRUE;
  data->AutoRequestSense = TRUE;
  data->MultipleRequestPerLu = TRUE;
  return StorPortInitialize(Driver, RegistryPath, data, NULL);
}
