/*
 * What simple drivers have of the kernel besides the basics: a cancel-safe queue for reads, a kernel queue with a
 * thread behind it, timers with callbacks, run-down references, event tracing, WMI, and string functions that know the
 * size of their destination.
 * https://learn.microsoft.com/windows-hardware/drivers/kernel/cancel-safe-irp-queues
 */
#include <ntddk.h>

#include "foreign.h"

/* Declared for file systems only, or without a length in mingw-w64's headers. */
typedef struct _KQUEUE_ {
  DISPATCHER_HEADER Header;
  LIST_ENTRY EntryListHead;
  ULONG CurrentCount, MaximumCount;
  LIST_ENTRY ThreadListHead;
} KERNEL_QUEUE, *PKERNEL_QUEUE;
VOID NTAPI KeInitializeQueue(PKERNEL_QUEUE Queue, ULONG Count);
LONG NTAPI KeInsertQueue(PKERNEL_QUEUE Queue, PLIST_ENTRY Entry);
LONG NTAPI KeReadStateQueue(PKERNEL_QUEUE Queue);
PLIST_ENTRY NTAPI KeRemoveQueue(PKERNEL_QUEUE Queue, KPROCESSOR_MODE Mode, PLARGE_INTEGER Timeout);
PLIST_ENTRY NTAPI KeRundownQueue(PKERNEL_QUEUE Queue);
int __cdecl strcpy_s(char *To, SIZE_T Size, const char *From);
int __cdecl wcscat_s(wchar_t *To, SIZE_T Size, const wchar_t *From);

typedef struct _EXTENSION {
  PDEVICE_OBJECT Self, Pdo, Lower;
  IO_CSQ Csq;
  LIST_ENTRY Reads;
  KSPIN_LOCK Lock;
  LONG Queued, Cancelled;
} EXTENSION, *PEXTENSION;

typedef struct _TIMER_STATE {
  LONG Calls;
  KIRQL Irql;
  KEVENT Third;
} TIMER_STATE, *PTIMER_STATE;

static const UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(L"\\Device\\ForeignKern");
/* The block that this driver has: two instances of a ULONG. */
static const GUID BlockGuid = {0x4a3c1d7e, 0x9b52, 0x4c0d, {0xa1, 0x6e, 0x33, 0x58, 0x0f, 0xe2, 0x71, 0x90}};

/* The queue of reads. One that asks for no bytes is refused. */

static NTSTATUS NTAPI CsqInsert(PIO_CSQ Csq, PIRP Irp, PVOID Context) {
  PEXTENSION extension = CONTAINING_RECORD(Csq, EXTENSION, Csq);

  UNREFERENCED_PARAMETER(Context);
  if (IoGetCurrentIrpStackLocation(Irp)->Parameters.Read.Length == 0) return STATUS_INVALID_PARAMETER;
  InsertTailList(&extension->Reads, &Irp->Tail.Overlay.ListEntry);
  extension->Queued++;
  return STATUS_SUCCESS;
}

static VOID NTAPI CsqRemove(PIO_CSQ Csq, PIRP Irp) {
  PEXTENSION extension = CONTAINING_RECORD(Csq, EXTENSION, Csq);

  RemoveEntryList(&Irp->Tail.Overlay.ListEntry);
  extension->Queued--;
}

/* The next read of at least as many bytes as the context says. */
static PIRP NTAPI CsqPeek(PIO_CSQ Csq, PIRP Irp, PVOID Context) {
  PEXTENSION extension = CONTAINING_RECORD(Csq, EXTENSION, Csq);
  PLIST_ENTRY entry = Irp == NULL ? extension->Reads.Flink : Irp->Tail.Overlay.ListEntry.Flink;

  for (; entry != &extension->Reads; entry = entry->Flink) {
    PIRP found = CONTAINING_RECORD(entry, IRP, Tail.Overlay.ListEntry);
    if (IoGetCurrentIrpStackLocation(found)->Parameters.Read.Length >= (ULONG_PTR)Context) return found;
  }
  return NULL;
}

static VOID NTAPI CsqAcquire(PIO_CSQ Csq, PKIRQL Irql) {
  KeAcquireSpinLock(&CONTAINING_RECORD(Csq, EXTENSION, Csq)->Lock, Irql);
}

static VOID NTAPI CsqRelease(PIO_CSQ Csq, KIRQL Irql) {
  KeReleaseSpinLock(&CONTAINING_RECORD(Csq, EXTENSION, Csq)->Lock, Irql);
}

static VOID NTAPI CsqCompleteCanceled(PIO_CSQ Csq, PIRP Irp) {
  InterlockedIncrement(&CONTAINING_RECORD(Csq, EXTENSION, Csq)->Cancelled);
  ForeignComplete(Irp, STATUS_CANCELLED, 0);
}

static NTSTATUS NTAPI Read(PDEVICE_OBJECT Device, PIRP Irp) {
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status = IoCsqInsertIrpEx(&extension->Csq, Irp, NULL, NULL);

  return NT_SUCCESS(status) ? STATUS_PENDING : ForeignComplete(Irp, status, 0);
}

static PIRP MakeRead(PEXTENSION Extension, ULONG Bytes, PUCHAR Buffer, PKEVENT Event, PIO_STATUS_BLOCK Status) {
  LARGE_INTEGER offset = {{0, 0}};
  PIRP irp = IoBuildSynchronousFsdRequest(IRP_MJ_READ, Extension->Self, Buffer, Bytes, &offset, Event, Status);

  KeInitializeEvent(Event, NotificationEvent, FALSE);
  Status->Status = STATUS_UNSUCCESSFUL;
  return irp;
}

static VOID CheckCsq(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  UCHAR buffer[64];
  KEVENT events[4];
  IO_STATUS_BLOCK done[4];
  PIRP reads[4], irp;
  ULONG i;

  for (i = 0; i < 4; i++) {
    reads[i] = MakeRead(Extension, i == 3 ? 0 : 16 * (i + 1), buffer, &events[i], &done[i]);
    CHECK(Result, reads[i] != NULL);
    if (reads[i] == NULL) return;
  }
  for (i = 0; i < 3; i++) CHECK(Result, IoCallDriver(Extension->Self, reads[i]) == STATUS_PENDING);
  CHECK(Result, Extension->Queued == 3);
  /* A queue that refuses leaves the request to the driver, not marked pending. */
  CHECK(Result, IoCallDriver(Extension->Self, reads[3]) == STATUS_INVALID_PARAMETER);
  CHECK(Result, Extension->Queued == 3);
  /* Cancelled: out of the queue and completed, once. */
  CHECK(Result, IoCancelIrp(reads[1]));
  KeWaitForSingleObject(&events[1], Executive, KernelMode, FALSE, NULL);
  CHECK(Result, done[1].Status == STATUS_CANCELLED && Extension->Cancelled == 1 && Extension->Queued == 2);
  /* By what the driver asks for. */
  irp = IoCsqRemoveNextIrp(&Extension->Csq, (PVOID)(ULONG_PTR)40);
  CHECK(Result, irp == reads[2]);
  if (irp != NULL) {
    CHECK(Result, irp->CancelRoutine == NULL);
    ForeignComplete(irp, STATUS_SUCCESS, 48);
    KeWaitForSingleObject(&events[2], Executive, KernelMode, FALSE, NULL);
    CHECK(Result, done[2].Status == STATUS_SUCCESS && done[2].Information == 48);
  }
  irp = IoCsqRemoveNextIrp(&Extension->Csq, NULL);
  CHECK(Result, irp == reads[0]);
  if (irp != NULL) ForeignComplete(irp, STATUS_END_OF_FILE, 0);
  CHECK(Result, IoCsqRemoveNextIrp(&Extension->Csq, NULL) == NULL && Extension->Queued == 0);
}

static VOID CheckQueue(PFOREIGN_RESULT Result) {
  KERNEL_QUEUE queue;
  LIST_ENTRY entries[3];
  LARGE_INTEGER none = {{0, 0}};
  PLIST_ENTRY taken;
  LONG i;

  KeInitializeQueue(&queue, 0);
  CHECK(Result, (LONG_PTR)KeRemoveQueue(&queue, KernelMode, &none) == STATUS_TIMEOUT);
  for (i = 0; i < 3; i++) CHECK(Result, KeInsertQueue(&queue, &entries[i]) == i);
  CHECK(Result, KeReadStateQueue(&queue) == 3);
  CHECK(Result, KeRemoveQueue(&queue, KernelMode, &none) == &entries[0]);
  taken = KeRundownQueue(&queue);
  CHECK(Result, taken == &entries[1] && taken->Flink == &entries[2] && entries[2].Flink == taken);
  CHECK(Result, KeReadStateQueue(&queue) == 0 && KeRundownQueue(&queue) == NULL);
}

static VOID NTAPI TimerCallback(PEX_TIMER Timer, PVOID Context) {
  PTIMER_STATE state = Context;

  UNREFERENCED_PARAMETER(Timer);
  state->Irql = KeGetCurrentIrql();
  if (InterlockedIncrement(&state->Calls) == 3) KeSetEvent(&state->Third, IO_NO_INCREMENT, FALSE);
}

static VOID CheckTimer(PFOREIGN_RESULT Result) {
  TIMER_STATE state;
  LARGE_INTEGER second;
  PEX_TIMER timer;
  LONG calls;

  state.Calls = 0;
  second.QuadPart = -10000000;
  KeInitializeEvent(&state.Third, NotificationEvent, FALSE);
  timer = ExAllocateTimer(TimerCallback, &state, 4 /* EX_TIMER_HIGH_RESOLUTION */);
  CHECK(Result, timer != NULL);
  if (timer == NULL) return;
  CHECK(Result, !ExSetTimer(timer, -10000, 20000, NULL));
  CHECK(Result, KeWaitForSingleObject(&state.Third, Executive, KernelMode, FALSE, &second) == STATUS_SUCCESS);
  CHECK(Result, state.Irql == DISPATCH_LEVEL);
  CHECK(Result, ExCancelTimer(timer, NULL) && !ExCancelTimer(timer, NULL));
  calls = state.Calls;
  CHECK(Result, !ExSetTimer(timer, -10000000, 0, NULL));
  CHECK(Result, ExDeleteTimer(timer, TRUE, TRUE, NULL));
  CHECK(Result, state.Calls <= calls + 1);
}

static VOID CheckMisc(PFOREIGN_RESULT Result) {
  PEX_RUNDOWN_REF_CACHE_AWARE reference = ExAllocateCacheAwareRundownProtection(NonPagedPool, FOREIGN_TAG);
  char text[4] = "xxx";
  wchar_t wide[6] = L"abc";
  LONG old;

  CHECK(Result, reference != NULL);
  if (reference != NULL) {
    CHECK(Result, ExAcquireRundownProtectionCacheAware(reference));
    ExReleaseRundownProtectionCacheAware(reference);
    ExWaitForRundownProtectionReleaseCacheAware(reference);
    CHECK(Result, !ExAcquireRundownProtectionCacheAware(reference));
    ExFreeCacheAwareRundownProtection(reference);
  }
  CHECK(Result, strcpy_s(text, sizeof text, "abcd") == 34 && text[0] == 0);
  CHECK(Result, wcscat_s(wide, 6, L"de") == 0 && wcscmp(wide, L"abcde") == 0);
  /* LOW_PRIORITY is the zero page thread's: the lowest that a thread gets is 1. */
  old = KeSetPriorityThread(KeGetCurrentThread(), LOW_PRIORITY);
  CHECK(Result, KeQueryPriorityThread(KeGetCurrentThread()) == 1);
  KeSetPriorityThread(KeGetCurrentThread(), old);
}

/* WMI without wmilib: the answer to IRP_MN_REGINFO_EX is made here. */

static NTSTATUS RegInfo(PVOID Buffer, ULONG Bytes, PULONG_PTR Used) {
  struct {
    ULONG BufferSize, NextWmiRegInfo, RegistryPath, MofResourceName, GuidCount, Pad;
    GUID Guid;
    ULONG Flags, InstanceCount;
    ULONG64 InstanceInfo;
    USHORT BaseName, Registry, Mof;
  } info;

  *Used = sizeof(ULONG);
  if (Bytes < sizeof info) {
    *(PULONG)Buffer = sizeof info;
    return STATUS_BUFFER_TOO_SMALL;
  }
  RtlZeroMemory(&info, sizeof info);
  info.BufferSize = sizeof info;
  info.GuidCount = 1;
  info.Guid = BlockGuid;
  info.Flags = 0x10; /* WMIREG_FLAG_INSTANCE_BASENAME */
  info.InstanceCount = 2;
  info.InstanceInfo = (ULONG)((PUCHAR)&info.BaseName - (PUCHAR)&info);
  info.RegistryPath = (ULONG)((PUCHAR)&info.Registry - (PUCHAR)&info);
  info.MofResourceName = (ULONG)((PUCHAR)&info.Mof - (PUCHAR)&info);
  RtlCopyMemory(Buffer, &info, sizeof info);
  *Used = sizeof info;
  return STATUS_SUCCESS;
}

static NTSTATUS NTAPI SystemControl(PDEVICE_OBJECT Device, PIRP Irp) {
  PEXTENSION extension = Device->DeviceExtension;
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  ULONG_PTR used = 0;
  NTSTATUS status;

  if (stack->Parameters.WMI.ProviderId != (ULONG_PTR)Device || stack->MinorFunction != IRP_MN_REGINFO_EX) {
    IoSkipCurrentIrpStackLocation(Irp);
    return IoCallDriver(extension->Lower, Irp);
  }
  status = RegInfo(stack->Parameters.WMI.Buffer, stack->Parameters.WMI.BufferSize, &used);
  return ForeignComplete(Irp, status, used);
}

static NTSTATUS NTAPI OpenClose(PDEVICE_OBJECT Device, PIRP Irp) {
  UNREFERENCED_PARAMETER(Device);
  return ForeignComplete(Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI Control(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PFOREIGN_RESULT result = Irp->AssociatedIrp.SystemBuffer;

  if (stack->Parameters.DeviceIoControl.IoControlCode != IOCTL_FOREIGN_RUN ||
      stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof *result)
    return ForeignComplete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
  RtlZeroMemory(result, sizeof *result);
  CheckCsq(Device->DeviceExtension, result);
  CheckQueue(result);
  CheckTimer(result);
  CheckMisc(result);
  return ForeignComplete(Irp, STATUS_SUCCESS, sizeof *result);
}

static NTSTATUS NTAPI Power(PDEVICE_OBJECT Device, PIRP Irp) {
  PEXTENSION extension = Device->DeviceExtension;

  PoStartNextPowerIrp(Irp);
  IoSkipCurrentIrpStackLocation(Irp);
  return PoCallDriver(extension->Lower, Irp);
}

static NTSTATUS NTAPI Pnp(PDEVICE_OBJECT Device, PIRP Irp) {
  PEXTENSION extension = Device->DeviceExtension;
  PDEVICE_OBJECT lower = extension->Lower;
  UCHAR minor = IoGetCurrentIrpStackLocation(Irp)->MinorFunction;
  NTSTATUS status;

  switch (minor) {
    case IRP_MN_START_DEVICE:
      if (!IoForwardIrpSynchronously(lower, Irp)) return ForeignComplete(Irp, STATUS_UNSUCCESSFUL, 0);
      status = Irp->IoStatus.Status;
      if (NT_SUCCESS(status)) status = IoWMIRegistrationControl(Device, 1);
      return ForeignComplete(Irp, status, 0);
    case IRP_MN_REMOVE_DEVICE:
      IoWMIRegistrationControl(Device, 2);
      Irp->IoStatus.Status = STATUS_SUCCESS;
      IoSkipCurrentIrpStackLocation(Irp);
      status = IoCallDriver(lower, Irp);
      IoDetachDevice(lower);
      IoDeleteDevice(Device);
      return status;
    case IRP_MN_QUERY_REMOVE_DEVICE:
    case IRP_MN_CANCEL_REMOVE_DEVICE:
    case IRP_MN_QUERY_STOP_DEVICE:
    case IRP_MN_CANCEL_STOP_DEVICE:
    case IRP_MN_STOP_DEVICE:
    case IRP_MN_SURPRISE_REMOVAL:
      Irp->IoStatus.Status = STATUS_SUCCESS;
      break;
    default:
      break;
  }
  IoSkipCurrentIrpStackLocation(Irp);
  return IoCallDriver(lower, Irp);
}

static NTSTATUS NTAPI AddDevice(PDRIVER_OBJECT Driver, PDEVICE_OBJECT Pdo) {
  PDEVICE_OBJECT device;
  PEXTENSION extension;
  NTSTATUS status = IoCreateDevice(Driver, sizeof *extension, (PUNICODE_STRING)&DeviceName, FILE_DEVICE_UNKNOWN,
                                   FILE_DEVICE_SECURE_OPEN, FALSE, &device);

  if (!NT_SUCCESS(status)) return status;
  extension = device->DeviceExtension;
  extension->Self = device;
  extension->Pdo = Pdo;
  InitializeListHead(&extension->Reads);
  KeInitializeSpinLock(&extension->Lock);
  status = IoCsqInitializeEx(&extension->Csq, CsqInsert, CsqRemove, CsqPeek, CsqAcquire, CsqRelease,
                             CsqCompleteCanceled);
  extension->Lower = NT_SUCCESS(status) ? IoAttachDeviceToDeviceStack(device, Pdo) : NULL;
  if (extension->Lower == NULL) {
    IoDeleteDevice(device);
    return STATUS_NO_SUCH_DEVICE;
  }
  device->Flags |= DO_BUFFERED_IO;
  device->Flags &= ~DO_DEVICE_INITIALIZING;
  return STATUS_SUCCESS;
}

static VOID NTAPI Unload(PDRIVER_OBJECT Driver) { UNREFERENCED_PARAMETER(Driver); }

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  UNREFERENCED_PARAMETER(RegistryPath);
  Driver->DriverExtension->AddDevice = AddDevice;
  Driver->DriverUnload = Unload;
  Driver->MajorFunction[IRP_MJ_CREATE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLOSE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLEANUP] = OpenClose;
  Driver->MajorFunction[IRP_MJ_READ] = Read;
  Driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = Control;
  Driver->MajorFunction[IRP_MJ_SYSTEM_CONTROL] = SystemControl;
  Driver->MajorFunction[IRP_MJ_POWER] = Power;
  Driver->MajorFunction[IRP_MJ_PNP] = Pnp;
  return STATUS_SUCCESS;
}
