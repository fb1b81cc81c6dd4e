/*
 * A storport miniport on the test machine's PCI host bus adapter: registers and ports by the port driver's functions,
 * configuration space, a line interrupt, and MSI-X with a lock for each message. IOCTL_SCSI_MINIPORT runs its checks. It
 * has a small disk in memory, whose requests the messages of other processors complete.
 * https://learn.microsoft.com/windows-hardware/drivers/storage/storport-driver-miniport-routines
 */
#include "stor8.h"

#include "foreign.h"

/* Ports of the adapter, and what the first reads. */
enum { IDENTITY = 0x00, INTERRUPT = 0x04, LINE = 0x08, SCRATCH = 0x10, QUEUE = 0x18 };
#define ADAPTER_IDENTITY 0x54414248
#define MESSAGES 8
#define CHANNELS 2
#define BLOCK 512
#define BLOCKS 64
/* A control code of IOCTL_SCSI_MINIPORT besides 0, which runs the checks. */
#define CONTROL_MEET 1
#define ALL_MESSAGES ((1 << MESSAGES) - 1)

typedef struct _SRB_STATE {
  LIST_ENTRY Entry;
  PSCSI_REQUEST_BLOCK Srb;
} SRB_STATE, *PSRB_STATE;

typedef struct _ADAPTER {
  FOREIGN_RESULT Result;
  PUCHAR Ports, Memory;
  ULONG Bus, Slot;
  BOOLEAN Line, Passive;
  /* Calls of StartIo that wait for each other, and their channels. */
  volatile LONG Met;
  ULONG Channels;
  PVOID Early;
  volatile LONG EarlyCame;
  UCHAR Disk[BLOCKS * BLOCK];
  /* Requests that are done and wait for a message, guarded by the StartIo lock. */
  LIST_ENTRY Done;
  GROUP_AFFINITY Targets[MESSAGES];
  STOR_DPC Dpcs[MESSAGES];
  volatile LONG Interrupts, Seen[MESSAGES], Wrong, Dpc;
  PSCSI_REQUEST_BLOCK Waiting;
} ADAPTER, *PADAPTER;

static VOID CheckPorts(PADAPTER Adapter) {
  PFOREIGN_RESULT result = &Adapter->Result;
  PUCHAR ports = Adapter->Ports;
  UCHAR bytes[4] = {1, 2, 3, 4}, bytesBack[4];
  USHORT words[2] = {0x1234, 0x5678}, wordsBack[2];
  ULONG longs[2] = {0xdeadbeef, 0x01020304}, longsBack[2];

  CHECK(result, StorPortReadPortUlong(Adapter, (PULONG)(ports + IDENTITY)) == ADAPTER_IDENTITY);
  StorPortWritePortUlong(Adapter, (PULONG)(ports + SCRATCH), 0x44332211);
  CHECK(result, StorPortReadPortUchar(Adapter, ports + SCRATCH + 2) == 0x33);
  StorPortWritePortUchar(Adapter, ports + SCRATCH + 1, 0xaa);
  CHECK(result, StorPortReadPortUshort(Adapter, (PUSHORT)(ports + SCRATCH)) == 0xaa11);
  StorPortWritePortUshort(Adapter, (PUSHORT)(ports + SCRATCH + 2), 0x5566);
  CHECK(result, StorPortReadPortUlong(Adapter, (PULONG)(ports + SCRATCH)) == 0x5566aa11);
  /* Many values go to one port, and come from it. */
  StorPortWritePortBufferUchar(Adapter, ports + QUEUE, bytes, 4);
  StorPortReadPortBufferUchar(Adapter, ports + QUEUE, bytesBack, 4);
  CHECK(result, RtlCompareMemory(bytes, bytesBack, sizeof bytes) == sizeof bytes);
  StorPortWritePortBufferUshort(Adapter, (PUSHORT)(ports + QUEUE), words, 2);
  StorPortReadPortBufferUshort(Adapter, (PUSHORT)(ports + QUEUE), wordsBack, 2);
  CHECK(result, RtlCompareMemory(words, wordsBack, sizeof words) == sizeof words);
  StorPortWritePortBufferUlong(Adapter, (PULONG)(ports + QUEUE), longs, 2);
  StorPortReadPortBufferUlong(Adapter, (PULONG)(ports + QUEUE), longsBack, 2);
  CHECK(result, RtlCompareMemory(longs, longsBack, sizeof longs) == sizeof longs);
  CHECK(result, StorPortReadPortUchar(Adapter, ports + QUEUE) == 0xff);
}

static VOID CheckRegisters(PADAPTER Adapter) {
  PFOREIGN_RESULT result = &Adapter->Result;
  PUCHAR memory = Adapter->Memory;
  UCHAR bytes[3] = {7, 8, 9}, bytesBack[3];
  USHORT words[3] = {0x1111, 0x2222, 0x3333}, wordsBack[3];
  ULONG longs[3] = {0x11111111, 0x22222222, 0x33333333}, longsBack[3];

  StorPortWriteRegisterUlong(Adapter, (PULONG)memory, 0x44332211);
  CHECK(result, StorPortReadRegisterUchar(Adapter, memory + 3) == 0x44);
  StorPortWriteRegisterUchar(Adapter, memory + 3, 0xbb);
  CHECK(result, StorPortReadRegisterUshort(Adapter, (PUSHORT)(memory + 2)) == 0xbb33);
  StorPortWriteRegisterUshort(Adapter, (PUSHORT)memory, 0x7788);
  CHECK(result, StorPortReadRegisterUlong(Adapter, (PULONG)memory) == 0xbb337788);
  /* Many values go to registers in a row. */
  StorPortWriteRegisterBufferUchar(Adapter, memory + 0x100, bytes, 3);
  StorPortReadRegisterBufferUchar(Adapter, memory + 0x100, bytesBack, 3);
  CHECK(result, RtlCompareMemory(bytes, bytesBack, sizeof bytes) == sizeof bytes);
  CHECK(result, StorPortReadRegisterUchar(Adapter, memory + 0x102) == 9);
  StorPortWriteRegisterBufferUshort(Adapter, (PUSHORT)(memory + 0x200), words, 3);
  StorPortReadRegisterBufferUshort(Adapter, (PUSHORT)(memory + 0x200), wordsBack, 3);
  CHECK(result, RtlCompareMemory(words, wordsBack, sizeof words) == sizeof words);
  StorPortWriteRegisterBufferUlong(Adapter, (PULONG)(memory + 0xff4), longs, 3);
  StorPortReadRegisterBufferUlong(Adapter, (PULONG)(memory + 0xff4), longsBack, 3);
  CHECK(result, RtlCompareMemory(longs, longsBack, sizeof longs) == sizeof longs);
  CHECK(result, StorPortReadRegisterUlong(Adapter, (PULONG)(memory + 0xff8)) == 0x22222222);
}

static VOID CheckBusData(PADAPTER Adapter) {
  PFOREIGN_RESULT result = &Adapter->Result;
  PCI_COMMON_CONFIG config;
  ULONG at = FIELD_OFFSET(PCI_COMMON_CONFIG, u.type0.InterruptLine);
  UCHAR line = 0x5a, before;

  RtlZeroMemory(&config, sizeof config);
  CHECK(result, StorPortGetBusData(Adapter, PCIConfiguration, Adapter->Bus, Adapter->Slot, &config,
                                   PCI_COMMON_HDR_LENGTH) == PCI_COMMON_HDR_LENGTH);
  CHECK(result, config.VendorID == 0x1234 && config.BaseClass == 1 && config.HeaderType == PCI_DEVICE_TYPE);
  CHECK(result, (config.u.type0.BaseAddresses[0] & ~3u) == (ULONG)(ULONG_PTR)Adapter->Ports);
  before = config.u.type0.InterruptLine;
  /* A scratch byte for software. */
  CHECK(result, StorPortSetBusDataByOffset(Adapter, PCIConfiguration, Adapter->Bus, Adapter->Slot, &line, at, 1) == 1);
  StorPortGetBusData(Adapter, PCIConfiguration, Adapter->Bus, Adapter->Slot, &config, PCI_COMMON_HDR_LENGTH);
  CHECK(result, config.u.type0.InterruptLine == 0x5a);
  CHECK(result, StorPortSetBusDataByOffset(Adapter, PCIConfiguration, Adapter->Bus, Adapter->Slot, &before, at, 1) == 1);
  /* What is read-only stays. */
  line = 0;
  StorPortSetBusDataByOffset(Adapter, PCIConfiguration, Adapter->Bus, Adapter->Slot, &line, 0, 1);
  StorPortGetBusData(Adapter, PCIConfiguration, Adapter->Bus, Adapter->Slot, &config, PCI_COMMON_HDR_LENGTH);
  CHECK(result, config.VendorID == 0x1234 && config.u.type0.InterruptLine == before);
}

/* One of what the request waits for has come: all messages, and the timer. */
static VOID Came(PADAPTER Adapter, LONG What) {
  LONG all = ALL_MESSAGES << 1 | 1;
  PSCSI_REQUEST_BLOCK srb;
  ULONG i;

  if (Adapter->Line) all = 3;
  if ((InterlockedOr(&Adapter->Dpc, What) | What) != all) return;
  srb = InterlockedExchangePointer((PVOID *)&Adapter->Waiting, NULL);
  if (srb == NULL) return;
  CHECK(&Adapter->Result, Adapter->Wrong == 0);
  for (i = 0; i < MESSAGES; i++) CHECK(&Adapter->Result, Adapter->Seen[i] != 0 || Adapter->Line);
  CHECK(&Adapter->Result, Adapter->Interrupts >= (Adapter->Line ? 1 : MESSAGES));
  ((PFOREIGN_IO_CONTROL)srb->DataBuffer)->ReturnCode = 0;
  *(PFOREIGN_RESULT)((PFOREIGN_IO_CONTROL)srb->DataBuffer + 1) = Adapter->Result;
  srb->SrbStatus = SRB_STATUS_SUCCESS;
  StorPortNotification(RequestComplete, Adapter, srb);
}

/* HwStorTimer has the StartIo lock, and in half duplex the interrupt lock, which is at DIRQL. */
static VOID NTAPI Timer(PVOID Extension) {
  PADAPTER adapter = Extension;

  if ((KeGetCurrentIrql() > DISPATCH_LEVEL) != adapter->Line) InterlockedIncrement(&adapter->Wrong);
  Came(adapter, 1);
}

/* Completes what is done. */
static VOID Complete(PADAPTER Adapter) {
  PSRB_STATE state;
  STOR_LOCK_HANDLE lock;

  do {
    state = NULL;
    StorPortNotification(AcquireSpinLock, Adapter, StartIoLock, NULL, &lock);
    if (!IsListEmpty(&Adapter->Done)) state = CONTAINING_RECORD(RemoveHeadList(&Adapter->Done), SRB_STATE, Entry);
    StorPortNotification(ReleaseSpinLock, Adapter, &lock);
    if (state != NULL) StorPortNotification(RequestComplete, Adapter, state->Srb);
  } while (state != NULL);
}

/* A message came. */
static VOID NTAPI AfterMessage(PSTOR_DPC Dpc, PVOID Extension, PVOID First, PVOID Second) {
  PADAPTER adapter = Extension;
  ULONG message = (ULONG)(ULONG_PTR)First, old = 99, i;
  ULONG_PTR own = (ULONG_PTR)1 << KeGetCurrentProcessorNumber();

  UNREFERENCED_PARAMETER(Dpc);
  if (Second != adapter || KeGetCurrentIrql() != DISPATCH_LEVEL) InterlockedIncrement(&adapter->Wrong);
  /* The lock of a message keeps that message out, and no other: the next one comes on another processor meanwhile. */
  if (message == 0 && !adapter->Line) {
    ULONG other = 0;
    for (i = 1; i < MESSAGES; i++)
      if (adapter->Targets[i].Mask != own) other = i;
    if (StorPortExtendedFunction(ExtFunctionAcquireMSISpinLock, adapter, 0, &old) != STOR_STATUS_SUCCESS ||
        old != DISPATCH_LEVEL || KeGetCurrentIrql() <= DISPATCH_LEVEL)
      InterlockedIncrement(&adapter->Wrong);
    if (other != 0) {
      LONG before = adapter->Seen[other];
      StorPortWritePortUlong(adapter, (PULONG)(adapter->Ports + INTERRUPT), other);
      for (i = 0; i < 10000 && adapter->Seen[other] == before; i++) StorPortStallExecution(10);
      if (adapter->Seen[other] == before) InterlockedIncrement(&adapter->Wrong);
    }
    StorPortExtendedFunction(ExtFunctionReleaseMSISpinLock, adapter, 0, old);
    if (KeGetCurrentIrql() != DISPATCH_LEVEL) InterlockedIncrement(&adapter->Wrong);
  }
  /* The interrupt lock keeps all messages out. */
  if (message == 1) {
    ULONG other = 0;
    LONG before;
    STOR_LOCK_HANDLE lock;
    for (i = 2; i < MESSAGES; i++)
      if (adapter->Targets[i].Mask != own) other = i;
    StorPortNotification(AcquireSpinLock, adapter, InterruptLock, NULL, &lock);
    before = adapter->Seen[other];
    StorPortWritePortUlong(adapter, (PULONG)(adapter->Ports + INTERRUPT), other);
    for (i = 0; i < 50; i++) StorPortStallExecution(10);
    if (adapter->Seen[other] != before || KeGetCurrentIrql() <= DISPATCH_LEVEL) InterlockedIncrement(&adapter->Wrong);
    StorPortNotification(ReleaseSpinLock, adapter, &lock);
    for (i = 0; i < 10000 && adapter->Seen[other] == before; i++) StorPortStallExecution(10);
    if (adapter->Seen[other] == before || KeGetCurrentIrql() != DISPATCH_LEVEL) InterlockedIncrement(&adapter->Wrong);
  }
  if (!adapter->Line) Complete(adapter);
  Came(adapter, 1 << (message + 1));
}

static BOOLEAN NTAPI MessageInterrupt(PVOID Extension, ULONG Message) {
  PADAPTER adapter = Extension;

  if (Message >= MESSAGES || KeGetCurrentIrql() <= DISPATCH_LEVEL ||
      (adapter->Targets[Message].Mask & (ULONG_PTR)1 << KeGetCurrentProcessorNumber()) == 0) {
    InterlockedIncrement(&adapter->Wrong);
    return TRUE;
  }
  InterlockedIncrement(&adapter->Interrupts);
  InterlockedIncrement(&adapter->Seen[Message]);
  StorPortNotification(IssueDpc, adapter, &adapter->Dpcs[Message], (PVOID)(ULONG_PTR)Message, adapter);
  return TRUE;
}

static BOOLEAN NTAPI LineInterrupt(PVOID Extension) {
  PADAPTER adapter = Extension;

  if (StorPortReadPortUchar(adapter, adapter->Ports + LINE) != 1) return FALSE;
  StorPortWritePortUchar(adapter, adapter->Ports + LINE, 0);
  InterlockedIncrement(&adapter->Interrupts);
  StorPortNotification(IssueDpc, adapter, &adapter->Dpcs[0], NULL, adapter);
  return TRUE;
}

static ULONG NTAPI FindAdapter(PVOID Extension, PVOID Context, PVOID Bus, PCHAR Arguments,
                               PPORT_CONFIGURATION_INFORMATION Config, PBOOLEAN Again) {
  PPORT_CONFIGURATION_INFORMATION_8 config = (PPORT_CONFIGURATION_INFORMATION_8)Config;
  PADAPTER adapter = Extension;
  PFOREIGN_RESULT result = &adapter->Result;
  PACCESS_RANGE ranges = *Config->AccessRanges;
  USHORT ids[2];

  UNREFERENCED_PARAMETER(Context);
  UNREFERENCED_PARAMETER(Bus);
  UNREFERENCED_PARAMETER(Arguments);
  *Again = FALSE;
  InitializeListHead(&adapter->Done);
  CHECK(result, StorPortExtendedFunction(ExtFunctionInitializeTimer, adapter, &adapter->Early) == STOR_STATUS_SUCCESS);
  if (Config->Length < sizeof *config || Config->NumberOfAccessRanges != 3) return SP_RETURN_BAD_CONFIG;
  CHECK(result, Config->AdapterInterfaceType == PCIBus && KeGetCurrentIrql() == PASSIVE_LEVEL);
  CHECK(result, !ranges[0].RangeInMemory && ranges[0].RangeLength == 0x20);
  CHECK(result, ranges[1].RangeInMemory && ranges[1].RangeLength == 0x1000);
  CHECK(result, ranges[2].RangeInMemory && ranges[2].RangeLength == 0x2000);
  CHECK(result, Config->SystemIoBusNumber == 0 && Config->SlotNumber == 5);
  adapter->Bus = Config->SystemIoBusNumber;
  adapter->Slot = Config->SlotNumber;
  adapter->Ports = StorPortGetDeviceBase(adapter, Config->AdapterInterfaceType, adapter->Bus, ranges[0].RangeStart,
                                         ranges[0].RangeLength, TRUE);
  adapter->Memory = StorPortGetDeviceBase(adapter, Config->AdapterInterfaceType, adapter->Bus, ranges[1].RangeStart,
                                          ranges[1].RangeLength, FALSE);
  CHECK(result, adapter->Ports != NULL && adapter->Memory != NULL);
  if (adapter->Ports == NULL || adapter->Memory == NULL) return SP_RETURN_ERROR;
  StorPortGetBusData(adapter, PCIConfiguration, adapter->Bus, adapter->Slot, ids, sizeof ids);
  adapter->Line = ids[1] == 0x5854;
  CHECK(result, Config->InterruptMode == (adapter->Line ? LevelSensitive : Latched));
  CheckPorts(adapter);
  CheckRegisters(adapter);
  CheckBusData(adapter);
  /* Given back, and mapped anew. */
  StorPortFreeDeviceBase(adapter, adapter->Memory);
  adapter->Memory = StorPortGetDeviceBase(adapter, Config->AdapterInterfaceType, adapter->Bus, ranges[1].RangeStart,
                                          ranges[1].RangeLength, FALSE);
  CHECK(result, adapter->Memory != NULL &&
                    StorPortReadRegisterUlong(adapter, (PULONG)(adapter->Memory + 0xff8)) == 0x22222222);
  Config->NumberOfBuses = 1;
  Config->MaximumNumberOfTargets = 1;
  Config->MaximumNumberOfLogicalUnits = 1;
  Config->MaximumTransferLength = 64 * 1024;
  Config->NumberOfPhysicalBreaks = 17;
  Config->Dma64BitAddresses = SCSI_DMA64_MINIPORT_SUPPORTED;
  Config->MapBuffers = TRUE;
  if (!adapter->Line) {
    config->HwMSInterruptRoutine = MessageInterrupt;
    config->InterruptSynchronizationMode = InterruptSynchronizePerMessage;
    config->SynchronizationModel = StorSynchronizeFullDuplex;
  }
  return SP_RETURN_FOUND;
}

static VOID CheckMessages(PADAPTER Adapter) {
  PFOREIGN_RESULT result = &Adapter->Result;
  MESSAGE_INTERRUPT_INFORMATION message;
  PERF_CONFIGURATION_DATA perf;
  ULONG i, all = STOR_PERF_DPC_REDIRECTION | STOR_PERF_CONCURRENT_CHANNELS | STOR_PERF_INTERRUPT_MESSAGE_RANGES |
               STOR_PERF_ADV_CONFIG_LOCALITY;

  for (i = 0; i < MESSAGES; i++) {
    RtlFillMemory(&message, sizeof message, 0xcc);
    CHECK(result, StorPortExtendedFunction(ExtFunctionGetMessageInterruptInformation, Adapter, i, &message) ==
                      STOR_STATUS_SUCCESS);
    CHECK(result, message.MessageId == i && message.InterruptMode == Latched);
    CHECK(result, message.InterruptLevel > DISPATCH_LEVEL && (message.MessageAddress.LowPart >> 20) == 0xfee);
  }
  CHECK(result, StorPortExtendedFunction(ExtFunctionGetMessageInterruptInformation, Adapter, MESSAGES, &message) !=
                    STOR_STATUS_SUCCESS);
  CHECK(result, StorPortExtendedFunction(ExtFunctionGetMessageInterruptInformation, Adapter, 0, NULL) ==
                    STOR_STATUS_INVALID_PARAMETER);
  RtlZeroMemory(&perf, sizeof perf);
  perf.Version = 3;
  perf.Size = sizeof perf;
  CHECK(result, StorPortExtendedFunction(ExtFunctionInitializePerformanceOptimizations, Adapter, TRUE, &perf) ==
                    STOR_STATUS_SUCCESS);
  CHECK(result, (perf.Flags & all) == all);
  /* A choice without the one that it needs, one that does not exist, a range that is too long. */
  perf.Flags = STOR_PERF_INTERRUPT_MESSAGE_RANGES;
  CHECK(result, StorPortExtendedFunction(ExtFunctionInitializePerformanceOptimizations, Adapter, FALSE, &perf) !=
                    STOR_STATUS_SUCCESS);
  perf.Flags = 0x80000000;
  CHECK(result, StorPortExtendedFunction(ExtFunctionInitializePerformanceOptimizations, Adapter, FALSE, &perf) ==
                    STOR_STATUS_UNSUCCESSFUL);
  perf.Flags = all;
  perf.ConcurrentChannels = CHANNELS;
  perf.FirstRedirectionMessageNumber = 0;
  perf.LastRedirectionMessageNumber = MESSAGES;
  perf.MessageTargets = Adapter->Targets;
  CHECK(result, StorPortExtendedFunction(ExtFunctionInitializePerformanceOptimizations, Adapter, FALSE, &perf) !=
                    STOR_STATUS_SUCCESS);
  perf.LastRedirectionMessageNumber = MESSAGES - 1;
  CHECK(result, StorPortExtendedFunction(ExtFunctionInitializePerformanceOptimizations, Adapter, FALSE, &perf) ==
                    STOR_STATUS_SUCCESS);
  /* The INF asks for messages to be spread over the processors. */
  for (i = 0; i < MESSAGES; i++)
    CHECK(result, Adapter->Targets[i].Group == 0 &&
                      Adapter->Targets[i].Mask == (ULONG_PTR)1 << i % KeQueryActiveProcessorCount(NULL));
}

static BOOLEAN NTAPI PassiveInitialize(PVOID Extension) {
  PADAPTER adapter = Extension;
  ULONG i;

  adapter->Passive = TRUE;
  CHECK(&adapter->Result, KeGetCurrentIrql() == PASSIVE_LEVEL);
  for (i = 0; i < MESSAGES; i++) StorPortNotification(InitializeDpc, adapter, &adapter->Dpcs[i], AfterMessage);
  return TRUE;
}

static VOID NTAPI EarlyTimer(PVOID Extension, PVOID Context) {
  PADAPTER adapter = Extension;

  if (Context != &adapter->EarlyCame || KeGetCurrentIrql() != DISPATCH_LEVEL) InterlockedIncrement(&adapter->Wrong);
  InterlockedIncrement(&adapter->EarlyCame);
}

static BOOLEAN NTAPI Initialize(PVOID Extension) {
  PADAPTER adapter = Extension;
  BOOLEAN taken = FALSE;
  MESSAGE_INTERRUPT_INFORMATION message;
  PVOID block = NULL;

  CHECK(&adapter->Result, KeGetCurrentIrql() > DISPATCH_LEVEL);
  if (!adapter->Line) CheckMessages(adapter);
  if (adapter->Line)
    CHECK(&adapter->Result, StorPortExtendedFunction(ExtFunctionGetMessageInterruptInformation, adapter, 0, &message) ==
                                STOR_STATUS_INVALID_DEVICE_REQUEST);
  /* No memory, and no timer is made here; one that there is may be set, and comes later. */
  CHECK(&adapter->Result, StorPortExtendedFunction(ExtFunctionAllocatePool, adapter, 16, 'abhF', &block) ==
                              STOR_STATUS_INVALID_IRQL);
  CHECK(&adapter->Result, StorPortExtendedFunction(ExtFunctionInitializeTimer, adapter, &block) ==
                              STOR_STATUS_INVALID_IRQL);
  CHECK(&adapter->Result, StorPortExtendedFunction(ExtFunctionFreeTimer, adapter, adapter->Early) ==
                              STOR_STATUS_INVALID_IRQL);
  CHECK(&adapter->Result, StorPortExtendedFunction(ExtFunctionRequestTimer, adapter, adapter->Early, EarlyTimer,
                                                   &adapter->EarlyCame, 100ULL, 0ULL) == STOR_STATUS_SUCCESS);
  StorPortNotification(EnablePassiveInitialization, adapter, PassiveInitialize, &taken);
  CHECK(&adapter->Result, taken);
  return TRUE;
}

/* Runs what needs a request, and has the adapter interrupt; the request ends when all of that came. */
static VOID Run(PADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb) {
  PFOREIGN_RESULT result = &Adapter->Result;
  /* No more than its size need be set. */
  STARTIO_PERFORMANCE_PARAMETERS parameters = {99, sizeof parameters, 99, 99}, small = {1, 8, 99, 99};
  PERF_CONFIGURATION_DATA perf = {.Version = 3, .Size = sizeof perf};
  ULONG i;

  CHECK(result, Adapter->Passive && Adapter->EarlyCame == 1);
  /* Too late for this. */
  CHECK(result, StorPortExtendedFunction(ExtFunctionInitializePerformanceOptimizations, Adapter, TRUE, &perf) ==
                    STOR_STATUS_UNSUCCESSFUL);
  CHECK(result, StorPortExtendedFunction(ExtFunctionGetStartIoPerformanceParameters, Adapter, Srb, &parameters) ==
                    STOR_STATUS_SUCCESS);
  CHECK(result, parameters.Version == 1);
  CHECK(result, StorPortExtendedFunction(ExtFunctionGetStartIoPerformanceParameters, Adapter, Srb, &small) ==
                    STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, small.MessageNumber == 99);
  CHECK(result, StorPortExtendedFunction(ExtFunctionGetStartIoPerformanceParameters, Adapter, NULL, &parameters) ==
                    STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, StorPortExtendedFunction(ExtFunctionGetStartIoPerformanceParameters, Adapter, Adapter, &parameters) ==
                    STOR_STATUS_INVALID_PARAMETER);
  CHECK(result, parameters.ChannelNumber == (Adapter->Line ? 0 : KeGetCurrentProcessorNumber() % CHANNELS));
  if (!Adapter->Line)
    CHECK(result, parameters.MessageNumber < MESSAGES && (Adapter->Targets[parameters.MessageNumber].Mask &
                                                          (ULONG_PTR)1 << KeGetCurrentProcessorNumber()) != 0);
  Adapter->Dpc = 0;
  for (i = 0; i < MESSAGES; i++) Adapter->Seen[i] = 0;
  InterlockedExchangePointer((PVOID *)&Adapter->Waiting, Srb);
  StorPortNotification(RequestTimerCall, Adapter, Timer, 500);
  for (i = 0; i < (Adapter->Line ? 1 : MESSAGES); i++)
    StorPortWritePortUlong(Adapter, (PULONG)(Adapter->Ports + INTERRUPT), i);
}

static VOID Answer(PSCSI_REQUEST_BLOCK Srb, const VOID *Data, ULONG Bytes) {
  if (Bytes > Srb->DataTransferLength) Bytes = Srb->DataTransferLength;
  StorPortMoveMemory(Srb->DataBuffer, (PVOID)Data, Bytes);
  Srb->SrbStatus = Bytes < Srb->DataTransferLength ? SRB_STATUS_DATA_OVERRUN : SRB_STATUS_SUCCESS;
  Srb->DataTransferLength = Bytes;
}

static VOID Execute(PADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb) {
  UCHAR data[36] = {0};
  ULONG first, count;

  Srb->ScsiStatus = SCSISTAT_GOOD;
  switch (Srb->Cdb[0]) {
    case SCSIOP_INQUIRY:
      if (Srb->Cdb[1] & 1) break;
      data[2] = 5;
      data[3] = 2;
      data[4] = sizeof data - 5;
      data[7] = 2;
      RtlCopyMemory(data + 8, "FOREIGN Adapter's disk  1.0 ", 28);
      Answer(Srb, data, sizeof data);
      return;
    case SCSIOP_READ_CAPACITY:
      data[3] = BLOCKS - 1;
      data[6] = BLOCK >> 8;
      Answer(Srb, data, 8);
      return;
    case SCSIOP_MODE_SENSE:
      data[0] = 3;
      Answer(Srb, data, 4);
      return;
    case SCSIOP_READ:
    case SCSIOP_WRITE:
      first = (ULONG)Srb->Cdb[2] << 24 | (ULONG)Srb->Cdb[3] << 16 | (ULONG)Srb->Cdb[4] << 8 | Srb->Cdb[5];
      count = (ULONG)Srb->Cdb[7] << 8 | Srb->Cdb[8];
      if (count > BLOCKS || first > BLOCKS - count || Srb->DataTransferLength != count * BLOCK) break;
      if (Srb->Cdb[0] == SCSIOP_READ)
        RtlCopyMemory(Srb->DataBuffer, Adapter->Disk + first * BLOCK, count * BLOCK);
      else
        RtlCopyMemory(Adapter->Disk + first * BLOCK, Srb->DataBuffer, count * BLOCK);
      Srb->SrbStatus = SRB_STATUS_SUCCESS;
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

/* Leaves a request to the message behind the one that would be best for it, which is another processor's. */
static VOID Leave(PADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb) {
  STARTIO_PERFORMANCE_PARAMETERS parameters = {1, sizeof parameters, 99, 99};
  PSRB_STATE state = Srb->SrbExtension;
  STOR_LOCK_HANDLE lock;

  StorPortExtendedFunction(ExtFunctionGetStartIoPerformanceParameters, Adapter, Srb, &parameters);
  state->Srb = Srb;
  StorPortNotification(AcquireSpinLock, Adapter, StartIoLock, NULL, &lock);
  InsertTailList(&Adapter->Done, &state->Entry);
  StorPortNotification(ReleaseSpinLock, Adapter, &lock);
  StorPortWritePortUlong(Adapter, (PULONG)(Adapter->Ports + INTERRUPT), (parameters.MessageNumber + 1) % MESSAGES);
}

/* Two requests of this kind are in StartIo at once where there are two channels, and never otherwise. */
static VOID Meet(PADAPTER Adapter, PSCSI_REQUEST_BLOCK Srb) {
  PFOREIGN_IO_CONTROL control = Srb->DataBuffer;
  STARTIO_PERFORMANCE_PARAMETERS parameters = {1, sizeof parameters, 99, 99};
  FOREIGN_RESULT *result = (PFOREIGN_RESULT)(control + 1), own = {0};
  LONG tries = Adapter->Line ? 200 : 20000, before = InterlockedIncrement(&Adapter->Met);
  STOR_LOCK_HANDLE lock;

  CHECK(&own, StorPortExtendedFunction(ExtFunctionGetStartIoPerformanceParameters, Adapter, Srb, &parameters) ==
                  STOR_STATUS_SUCCESS);
  if (Adapter->Line) {
    while (tries-- > 0 && Adapter->Met == before) StorPortStallExecution(10);
    CHECK(&own, Adapter->Met == before && parameters.ChannelNumber == 0);
  } else {
    /* Where there is no lock of the port driver's the miniport may take it. */
    StorPortNotification(AcquireSpinLock, Adapter, StartIoLock, NULL, &lock);
    CHECK(&own, KeGetCurrentIrql() == DISPATCH_LEVEL && (Adapter->Channels & 1 << parameters.ChannelNumber) == 0);
    Adapter->Channels |= 1 << parameters.ChannelNumber;
    StorPortNotification(ReleaseSpinLock, Adapter, &lock);
    while (tries-- > 0 && Adapter->Met < CHANNELS) StorPortStallExecution(10);
    CHECK(&own, Adapter->Met == CHANNELS && parameters.ChannelNumber < CHANNELS);
  }
  *result = own;
  Srb->SrbStatus = SRB_STATUS_SUCCESS;
}

static BOOLEAN NTAPI StartIo(PVOID Extension, PSCSI_REQUEST_BLOCK Srb) {
  PFOREIGN_IO_CONTROL control = Srb->DataBuffer;

  switch (Srb->Function) {
    case SRB_FUNCTION_IO_CONTROL:
      Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
      if (Srb->DataTransferLength < sizeof *control + sizeof(FOREIGN_RESULT) ||
          RtlCompareMemory(control->Signature, "FORHBA  ", 8) != 8)
        break;
      if (control->ControlCode == CONTROL_MEET) {
        Meet(Extension, Srb);
        break;
      }
      Run(Extension, Srb);
      return TRUE;
    case SRB_FUNCTION_EXECUTE_SCSI:
      Srb->SrbStatus = SRB_STATUS_NO_DEVICE;
      if (Srb->PathId != 0 || Srb->TargetId != 0 || Srb->Lun != 0) break;
      Execute(Extension, Srb);
      if (((PADAPTER)Extension)->Line) break;
      Leave(Extension, Srb);
      return TRUE;
    case SRB_FUNCTION_PNP:
    case SRB_FUNCTION_POWER:
      Srb->SrbStatus = SRB_STATUS_SUCCESS;
      break;
    default:
      Srb->SrbStatus = SRB_STATUS_INVALID_REQUEST;
      break;
  }
  StorPortNotification(RequestComplete, Extension, Srb);
  return TRUE;
}

static BOOLEAN NTAPI ResetBus(PVOID Extension, ULONG Path) {
  UNREFERENCED_PARAMETER(Extension);
  UNREFERENCED_PARAMETER(Path);
  return TRUE;
}

static SCSI_ADAPTER_CONTROL_STATUS NTAPI AdapterControl(PVOID Extension, SCSI_ADAPTER_CONTROL_TYPE Type, PVOID Data) {
  PSCSI_SUPPORTED_CONTROL_TYPE_LIST list = Data;

  UNREFERENCED_PARAMETER(Extension);
  if (Type != ScsiQuerySupportedControlTypes) return ScsiAdapterControlSuccess;
  list->SupportedTypeList[ScsiQuerySupportedControlTypes] = TRUE;
  list->SupportedTypeList[ScsiStopAdapter] = TRUE;
  return ScsiAdapterControlSuccess;
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  HW_INITIALIZATION_DATA_8 whole;
  HW_INITIALIZATION_DATA *data = &whole.Data;

  RtlZeroMemory(&whole, sizeof whole);
  data->HwInitializationDataSize = sizeof whole;
  data->AdapterInterfaceType = PCIBus;
  data->HwInitialize = Initialize;
  data->HwStartIo = StartIo;
  data->HwInterrupt = LineInterrupt;
  data->HwFindAdapter = (PHW_FIND_ADAPTER)FindAdapter;
  data->HwResetBus = ResetBus;
  data->HwAdapterControl = AdapterControl;
  data->DeviceExtensionSize = sizeof(ADAPTER);
  data->SrbExtensionSize = sizeof(SRB_STATE);
  data->NumberOfAccessRanges = 3;
  data->MapBuffers = TRUE;
  data->NeedPhysicalAddresses = TRUE;
  data->TaggedQueuing = TRUE;
  data->AutoRequestSense = TRUE;
  data->MultipleRequestPerLu = TRUE;
  return StorPortInitialize(Driver, RegistryPath, data, NULL);
}
