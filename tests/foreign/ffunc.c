/*
 * A function driver on the children of fbus.sys. Its checks use what drivers of devices use: the bus's interface, device
 * properties, the registry, events, semaphores, mutexes, timers, DPCs, work items, threads, device queues, lists and
 * memory descriptor lists; its requests can stay pending and be cancelled.
 */
#include <initguid.h>
#include <ntddk.h>

#include "fbus.h"
#include "foreign.h"

typedef struct _EXTENSION {
  PDEVICE_OBJECT Self, Pdo, Lower;
  IO_REMOVE_LOCK RemoveLock;
  UNICODE_STRING Link;
  FBUS_INTERFACE Bus;
  BOOLEAN HasBus, Started;
  DEVICE_POWER_STATE Power;
  KSPIN_LOCK PendingLock;
  LIST_ENTRY Pending;

} EXTENSION, *PEXTENSION;

static UNICODE_STRING ServiceKey;

/* ---- checks ---- */

typedef struct _SHARED {
  KEVENT Done;
  KSEMAPHORE Semaphore;
  KMUTEX Mutex;
  KTIMER Timer;
  KDPC Dpc;
  KSPIN_LOCK Lock;
  volatile LONG Dpcs, DpcIrql, Work, Threads, Sum;
  PVOID Argument;
} SHARED, *PSHARED;

static VOID NTAPI CountDpc(PKDPC Dpc, PVOID Context, PVOID First, PVOID Second) {
  PSHARED shared = Context;

  UNREFERENCED_PARAMETER(Dpc);
  UNREFERENCED_PARAMETER(Second);
  shared->DpcIrql = KeGetCurrentIrql();
  shared->Argument = First;
  if (InterlockedIncrement(&shared->Dpcs) == 3) KeSetEvent(&shared->Done, IO_NO_INCREMENT, FALSE);
}

static VOID NTAPI CountWork(PDEVICE_OBJECT Device, PVOID Context) {
  PSHARED shared = Context;

  UNREFERENCED_PARAMETER(Device);
  if (KeGetCurrentIrql() == PASSIVE_LEVEL) InterlockedIncrement(&shared->Work);
  KeSetEvent(&shared->Done, IO_NO_INCREMENT, FALSE);
}

#define THREADS 4
#define ROUNDS 50

static VOID NTAPI Worker(PVOID Context) {
  PSHARED shared = Context;
  LARGE_INTEGER nap;
  ULONG round;
  KIRQL old;

  KeSetPriorityThread(KeGetCurrentThread(), LOW_REALTIME_PRIORITY);
  nap.QuadPart = -1000;
  for (round = 0; round < ROUNDS; round++) {
    KeWaitForSingleObject(&shared->Mutex, Executive, KernelMode, FALSE, NULL);
    shared->Sum++;
    KeReleaseMutex(&shared->Mutex, FALSE);
    KeAcquireSpinLock(&shared->Lock, &old);
    shared->Sum++;
    KeReleaseSpinLock(&shared->Lock, old);
    if (round % 10 == 0) KeDelayExecutionThread(KernelMode, FALSE, &nap);
  }
  KeReleaseSemaphore(&shared->Semaphore, 0, 1, FALSE);
  InterlockedIncrement(&shared->Threads);
  PsTerminateSystemThread(STATUS_SUCCESS);
}

static VOID CheckDpcsAndTimers(PEXTENSION Extension, PFOREIGN_RESULT Result, PSHARED Shared) {
  LARGE_INTEGER due, before, after;
  PIO_WORKITEM item;
  KIRQL old;

  KeInitializeEvent(&Shared->Done, NotificationEvent, FALSE);
  KeInitializeDpc(&Shared->Dpc, CountDpc, Shared);
  KeInitializeTimerEx(&Shared->Timer, SynchronizationTimer);
  due.QuadPart = -20000;
  KeQuerySystemTime(&before);
  CHECK(Result, !KeSetTimerEx(&Shared->Timer, due, 2, &Shared->Dpc));
  CHECK(Result, KeWaitForSingleObject(&Shared->Done, Executive, KernelMode, FALSE, NULL) == STATUS_SUCCESS);
  KeQuerySystemTime(&after);
  CHECK(Result, after.QuadPart - before.QuadPart >= 20000 + 2 * 20000 - 1000);
  CHECK(Result, KeCancelTimer(&Shared->Timer));
  CHECK(Result, !KeCancelTimer(&Shared->Timer));
  KeFlushQueuedDpcs();
  CHECK(Result, Shared->Dpcs >= 3 && Shared->DpcIrql == DISPATCH_LEVEL);

  /* A queued DPC is queued once; at DISPATCH_LEVEL that of the own processor waits. */
  Shared->Dpcs = 10;
  KeRaiseIrql(DISPATCH_LEVEL, &old);
  KeSetTargetProcessorDpc(&Shared->Dpc, (CCHAR)KeGetCurrentProcessorNumber());
  CHECK(Result, KeInsertQueueDpc(&Shared->Dpc, (PVOID)77, NULL));
  CHECK(Result, !KeInsertQueueDpc(&Shared->Dpc, (PVOID)78, NULL));
  CHECK(Result, Shared->Dpcs == 10);
  CHECK(Result, KeRemoveQueueDpc(&Shared->Dpc));
  CHECK(Result, KeInsertQueueDpc(&Shared->Dpc, (PVOID)79, NULL));
  KeLowerIrql(old);
  KeFlushQueuedDpcs();
  CHECK(Result, Shared->Dpcs == 11 && Shared->Argument == (PVOID)79);

  KeClearEvent(&Shared->Done);
  item = IoAllocateWorkItem(Extension->Self);
  CHECK(Result, item != NULL);
  if (item != NULL) {
    IoQueueWorkItem(item, CountWork, DelayedWorkQueue, Shared);
    KeWaitForSingleObject(&Shared->Done, Executive, KernelMode, FALSE, NULL);
    CHECK(Result, Shared->Work == 1);
    IoFreeWorkItem(item);
  }
}

static VOID CheckThreads(PFOREIGN_RESULT Result, PSHARED Shared) {
  PVOID threads[THREADS], objects[2];
  LARGE_INTEGER timeout;
  HANDLE handle;
  ULONG count = 0, i;
  KEVENT never;

  KeInitializeSemaphore(&Shared->Semaphore, 0, THREADS);
  KeInitializeMutex(&Shared->Mutex, 0);
  KeInitializeSpinLock(&Shared->Lock);
  for (i = 0; i < THREADS; i++) {
    if (!NT_SUCCESS(PsCreateSystemThread(&handle, THREAD_ALL_ACCESS, NULL, NULL, NULL, Worker, Shared))) break;
    CHECK(Result, NT_SUCCESS(ObReferenceObjectByHandle(handle, SYNCHRONIZE, *PsThreadType, KernelMode,
                                                       &threads[count], NULL)));
    ZwClose(handle);
    count++;
  }
  CHECK(Result, count == THREADS);
  for (i = 0; i < count; i++)
    CHECK(Result, KeWaitForSingleObject(&Shared->Semaphore, Executive, KernelMode, FALSE, NULL) == STATUS_SUCCESS);
  for (i = 0; i < count; i++) {
    CHECK(Result, KeWaitForSingleObject(threads[i], Executive, KernelMode, FALSE, NULL) == STATUS_SUCCESS);
    ObDereferenceObject(threads[i]);
  }
  CHECK(Result, Shared->Threads == (LONG)count && Shared->Sum == (LONG)(2 * count * ROUNDS));

  KeInitializeEvent(&never, SynchronizationEvent, FALSE);
  timeout.QuadPart = 0;
  CHECK(Result, KeWaitForSingleObject(&never, Executive, KernelMode, FALSE, &timeout) == STATUS_TIMEOUT);
  objects[0] = &never;
  objects[1] = &Shared->Done;
  KeSetEvent(&Shared->Done, IO_NO_INCREMENT, FALSE);
  CHECK(Result, KeWaitForMultipleObjects(2, objects, WaitAny, Executive, KernelMode, FALSE, NULL, NULL) ==
                    STATUS_WAIT_1);
  timeout.QuadPart = -10000;
  CHECK(Result, KeWaitForMultipleObjects(2, objects, WaitAll, Executive, KernelMode, FALSE, &timeout, NULL) ==
                    STATUS_TIMEOUT);
}

static VOID CheckRegistry(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  UCHAR buffer[sizeof(KEY_VALUE_FULL_INFORMATION) + 128];
  PKEY_VALUE_FULL_INFORMATION full = (PKEY_VALUE_FULL_INFORMATION)buffer;
  UNICODE_STRING name = RTL_CONSTANT_STRING(L"Counter"), sub = RTL_CONSTANT_STRING(L"Checks");
  RTL_QUERY_REGISTRY_TABLE table[3];
  UNICODE_STRING text;
  OBJECT_ATTRIBUTES attributes;
  ULONG value = 41, length, read = 0, defaulted = 7, disposition;
  HANDLE parent, key;

  InitializeObjectAttributes(&attributes, &ServiceKey, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, NULL, NULL);
  CHECK(Result, NT_SUCCESS(ZwOpenKey(&parent, KEY_ALL_ACCESS, &attributes)));
  InitializeObjectAttributes(&attributes, &sub, OBJ_CASE_INSENSITIVE | OBJ_KERNEL_HANDLE, parent, NULL);
  CHECK(Result, NT_SUCCESS(ZwCreateKey(&key, KEY_ALL_ACCESS, &attributes, 0, NULL, REG_OPTION_VOLATILE, &disposition)));
  CHECK(Result, disposition == REG_CREATED_NEW_KEY);
  CHECK(Result, NT_SUCCESS(ZwSetValueKey(key, &name, 0, REG_DWORD, &value, sizeof value)));
  CHECK(Result, ZwQueryValueKey(key, &name, KeyValueFullInformation, full, 4, &length) == STATUS_BUFFER_TOO_SMALL);
  CHECK(Result, NT_SUCCESS(ZwQueryValueKey(key, &name, KeyValueFullInformation, full, sizeof buffer, &length)));
  CHECK(Result, full->Type == REG_DWORD && full->DataLength == 4 && *(PULONG)(buffer + full->DataOffset) == 41);
  CHECK(Result, full->NameLength == name.Length && RtlCompareMemory(full->Name, name.Buffer, name.Length) == name.Length);
  CHECK(Result, NT_SUCCESS(ZwEnumerateValueKey(key, 0, KeyValueFullInformation, full, sizeof buffer, &length)));
  CHECK(Result, ZwEnumerateValueKey(key, 1, KeyValueFullInformation, full, sizeof buffer, &length) ==
                    STATUS_NO_MORE_ENTRIES);

  RtlZeroMemory(table, sizeof table);
  table[0].Flags = RTL_QUERY_REGISTRY_DIRECT;
  table[0].Name = L"Counter";
  table[0].EntryContext = &read;
  table[0].DefaultType = REG_NONE;
  table[1].Flags = RTL_QUERY_REGISTRY_DIRECT;
  table[1].Name = L"Absent";
  table[1].EntryContext = &defaulted;
  table[1].DefaultType = REG_DWORD;
  table[1].DefaultData = &value;
  table[1].DefaultLength = sizeof value;
  CHECK(Result, NT_SUCCESS(RtlQueryRegistryValues(RTL_REGISTRY_HANDLE, (PCWSTR)key, table, NULL, NULL)));
  CHECK(Result, read == 41 && defaulted == 41);
  CHECK(Result, NT_SUCCESS(ZwDeleteValueKey(key, &name)));
  CHECK(Result, ZwQueryValueKey(key, &name, KeyValueFullInformation, full, sizeof buffer, &length) ==
                    STATUS_OBJECT_NAME_NOT_FOUND);
  CHECK(Result, NT_SUCCESS(ZwDeleteKey(key)));
  ZwClose(key);

  /* The text that the INF left in the service's own key. */
  RtlZeroMemory(table, sizeof table);
  RtlZeroMemory(&text, sizeof text);
  table[0].Flags = RTL_QUERY_REGISTRY_SUBKEY;
  table[0].Name = L"Parameters";
  table[1].Flags = RTL_QUERY_REGISTRY_DIRECT | RTL_QUERY_REGISTRY_REQUIRED;
  table[1].Name = L"Greeting";
  table[1].EntryContext = &text;
  CHECK(Result, NT_SUCCESS(RtlQueryRegistryValues(RTL_REGISTRY_HANDLE, (PCWSTR)parent, table, NULL, NULL)));
  CHECK(Result, text.Buffer != NULL && text.Length == 10 && text.Buffer[0] == L'h');
  if (text.Buffer != NULL) RtlFreeUnicodeString(&text);
  ZwClose(parent);

  CHECK(Result, NT_SUCCESS(IoOpenDeviceRegistryKey(Extension->Pdo, PLUGPLAY_REGKEY_DRIVER, KEY_READ, &key)));
  ZwClose(key);
}

static VOID CheckProperties(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  WCHAR text[64];
  ULONG length = 0, number = 0;

  CHECK(Result, NT_SUCCESS(IoGetDeviceProperty(Extension->Pdo, DevicePropertyHardwareID, sizeof text, text, &length)));
  CHECK(Result, wcscmp(text, L"FBUS\\Port&Rev_02") == 0);
  CHECK(Result, wcscmp(text + wcslen(text) + 1, L"FBUS\\Port") == 0);
  CHECK(Result, IoGetDeviceProperty(Extension->Pdo, DevicePropertyHardwareID, 4, text, &length) ==
                    STATUS_BUFFER_TOO_SMALL && length > 4);
  CHECK(Result, NT_SUCCESS(IoGetDeviceProperty(Extension->Pdo, DevicePropertyAddress, sizeof number, &number, &length)));
  CHECK(Result, Extension->HasBus && number == Extension->Bus.Number(Extension->Bus.Header.Context));
  CHECK(Result, NT_SUCCESS(IoGetDeviceProperty(Extension->Pdo, DevicePropertyEnumeratorName, sizeof text, text, &length)));
  CHECK(Result, _wcsicmp(text, L"FBUS") == 0);
  CHECK(Result, NT_SUCCESS(IoGetDeviceProperty(Extension->Pdo, DevicePropertyDeviceDescription, sizeof text, text, &length)));
  CHECK(Result, wcscmp(text, L"Foreign function") == 0);
}

static VOID CheckMemory(PFOREIGN_RESULT Result) {
  PUCHAR memory = ExAllocatePoolWithTag(NonPagedPool, 3 * PAGE_SIZE, FOREIGN_TAG), other, contiguous;
  PHYSICAL_ADDRESS highest;
  PMDL mdl, part;

  CHECK(Result, memory != NULL && ((ULONG_PTR)memory & (PAGE_SIZE - 1)) == 0);
  if (memory == NULL) return;
  mdl = IoAllocateMdl(memory + 100, 2 * PAGE_SIZE, FALSE, FALSE, NULL);
  CHECK(Result, mdl != NULL && ADDRESS_AND_SIZE_TO_SPAN_PAGES(MmGetMdlVirtualAddress(mdl), MmGetMdlByteCount(mdl)) == 3);
  if (mdl != NULL) {
    MmBuildMdlForNonPagedPool(mdl);
    CHECK(Result, MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority) == memory + 100);
    CHECK(Result, MmGetMdlPfnArray(mdl)[1] == (PFN_NUMBER)(MmGetPhysicalAddress(memory + PAGE_SIZE).QuadPart >> PAGE_SHIFT));
    part = IoAllocateMdl(memory + PAGE_SIZE, 50, FALSE, FALSE, NULL);
    CHECK(Result, part != NULL);
    if (part != NULL) {
      IoBuildPartialMdl(mdl, part, memory + PAGE_SIZE, 50);
      CHECK(Result, MmGetMdlPfnArray(part)[0] == MmGetMdlPfnArray(mdl)[1]);
      other = MmGetSystemAddressForMdlSafe(part, NormalPagePriority);
      CHECK(Result, other != NULL);
      if (other != NULL) {
        memory[PAGE_SIZE + 3] = 0x5a;
        CHECK(Result, other[3] == 0x5a);
      }
      IoFreeMdl(part);
    }
    IoFreeMdl(mdl);
  }
  ExFreePoolWithTag(memory, FOREIGN_TAG);

  highest.QuadPart = 0xffffffff;
  contiguous = MmAllocateContiguousMemory(4 * PAGE_SIZE, highest);
  CHECK(Result, contiguous != NULL);
  if (contiguous != NULL) {
    CHECK(Result, MmGetPhysicalAddress(contiguous + 3 * PAGE_SIZE).QuadPart ==
                      MmGetPhysicalAddress(contiguous).QuadPart + 3 * PAGE_SIZE);
    MmFreeContiguousMemory(contiguous);
  }
}

/* Sends the bus a request of its own making and looks at what comes back. */
static VOID CheckRequests(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  DEVICE_CAPABILITIES capabilities;
  PIO_STACK_LOCATION stack;
  IO_STATUS_BLOCK block;
  KEVENT event;
  PIRP irp;
  NTSTATUS status;

  RtlZeroMemory(&capabilities, sizeof capabilities);
  capabilities.Size = sizeof capabilities;
  capabilities.Version = 1;
  capabilities.Address = capabilities.UINumber = (ULONG)-1;
  KeInitializeEvent(&event, NotificationEvent, FALSE);
  irp = IoBuildSynchronousFsdRequest(IRP_MJ_PNP, Extension->Lower, NULL, 0, NULL, &event, &block);
  CHECK(Result, irp != NULL);
  if (irp == NULL) return;
  irp->IoStatus.Status = STATUS_NOT_SUPPORTED;
  stack = IoGetNextIrpStackLocation(irp);
  stack->MinorFunction = IRP_MN_QUERY_CAPABILITIES;
  stack->Parameters.DeviceCapabilities.Capabilities = &capabilities;
  status = IoCallDriver(Extension->Lower, irp);
  if (status == STATUS_PENDING) {
    KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
    status = block.Status;
  }
  CHECK(Result, NT_SUCCESS(status) && capabilities.EjectSupported);
  CHECK(Result, capabilities.DeviceState[PowerSystemSleeping3] == PowerDeviceD3);
}

static VOID RunAll(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  PSHARED shared = ExAllocatePoolWithTag(NonPagedPool, sizeof *shared, FOREIGN_TAG);

  RtlZeroMemory(Result, sizeof *Result);
  CHECK(Result, shared != NULL);
  if (shared != NULL) {
    RtlZeroMemory(shared, sizeof *shared);
    CheckDpcsAndTimers(Extension, Result, shared);
    CheckThreads(Result, shared);
    ExFreePoolWithTag(shared, FOREIGN_TAG);
  }
  CheckRegistry(Extension, Result);
  CheckProperties(Extension, Result);
  CheckMemory(Result);
  CheckRequests(Extension, Result);
}

/* ---- pending requests ---- */

static VOID NTAPI CancelPending(PDEVICE_OBJECT Device, PIRP Irp) {
  PEXTENSION extension = Device->DeviceExtension;
  KIRQL old;

  IoReleaseCancelSpinLock(Irp->CancelIrql);
  KeAcquireSpinLock(&extension->PendingLock, &old);
  RemoveEntryList(&Irp->Tail.Overlay.ListEntry);
  KeReleaseSpinLock(&extension->PendingLock, old);
  IoReleaseRemoveLock(&extension->RemoveLock, Irp);
  ForeignComplete(Irp, STATUS_CANCELLED, 0);
}

/* The caller holds the remove lock for the request, which goes with it. */
static NTSTATUS Pend(PEXTENSION Extension, PIRP Irp) {
  KIRQL old;

  KeAcquireSpinLock(&Extension->PendingLock, &old);
  IoSetCancelRoutine(Irp, CancelPending);
  if (Irp->Cancel && IoSetCancelRoutine(Irp, NULL) != NULL) {
    KeReleaseSpinLock(&Extension->PendingLock, old);
    IoReleaseRemoveLock(&Extension->RemoveLock, Irp);
    return ForeignComplete(Irp, STATUS_CANCELLED, 0);
  }
  IoMarkIrpPending(Irp);
  InsertTailList(&Extension->Pending, &Irp->Tail.Overlay.ListEntry);
  KeReleaseSpinLock(&Extension->PendingLock, old);
  return STATUS_PENDING;
}

static ULONG ReleasePending(PEXTENSION Extension, NTSTATUS Status) {
  LIST_ENTRY ready;
  PLIST_ENTRY entry, next;
  ULONG count = 0;
  KIRQL old;
  PIRP irp;

  InitializeListHead(&ready);
  KeAcquireSpinLock(&Extension->PendingLock, &old);
  for (entry = Extension->Pending.Flink; entry != &Extension->Pending; entry = next) {
    next = entry->Flink;
    irp = CONTAINING_RECORD(entry, IRP, Tail.Overlay.ListEntry);
    /* One whose cancel routine is gone already belongs to that routine. */
    if (IoSetCancelRoutine(irp, NULL) == NULL) continue;
    RemoveEntryList(entry);
    InsertTailList(&ready, entry);
  }
  KeReleaseSpinLock(&Extension->PendingLock, old);
  while (!IsListEmpty(&ready)) {
    irp = CONTAINING_RECORD(RemoveHeadList(&ready), IRP, Tail.Overlay.ListEntry);
    IoReleaseRemoveLock(&Extension->RemoveLock, irp);
    ForeignComplete(irp, Status, 0);
    count++;
  }
  return count;
}

/* ---- dispatch ---- */

static NTSTATUS NTAPI OpenClose(PDEVICE_OBJECT Device, PIRP Irp) {
  UNREFERENCED_PARAMETER(Device);
  return ForeignComplete(Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI Control(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  ULONG room = stack->Parameters.DeviceIoControl.OutputBufferLength;
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);
  ULONG_PTR information = 0;

  if (!NT_SUCCESS(status)) return ForeignComplete(Irp, status, 0);
  switch (stack->Parameters.DeviceIoControl.IoControlCode) {
    case IOCTL_FOREIGN_PEND:
      return Pend(extension, Irp);
    case IOCTL_FOREIGN_RUN:
      status = room < sizeof(FOREIGN_RESULT) ? STATUS_BUFFER_TOO_SMALL : STATUS_SUCCESS;
      if (!NT_SUCCESS(status)) break;
      RunAll(extension, Irp->AssociatedIrp.SystemBuffer);
      information = sizeof(FOREIGN_RESULT);
      break;
    case IOCTL_FOREIGN_RELEASE:
      status = room < sizeof(ULONG) ? STATUS_BUFFER_TOO_SMALL : STATUS_SUCCESS;
      if (!NT_SUCCESS(status)) break;
      *(PULONG)Irp->AssociatedIrp.SystemBuffer = ReleasePending(extension, STATUS_SUCCESS);
      information = sizeof(ULONG);
      break;
    default:
      status = STATUS_INVALID_DEVICE_REQUEST;
      break;
  }
  IoReleaseRemoveLock(&extension->RemoveLock, Irp);
  return ForeignComplete(Irp, status, information);
}

static NTSTATUS QueryBus(PEXTENSION Extension) {
  PIO_STACK_LOCATION stack;
  IO_STATUS_BLOCK block;
  NTSTATUS status;
  KEVENT event;
  PIRP irp;

  KeInitializeEvent(&event, NotificationEvent, FALSE);
  irp = IoBuildSynchronousFsdRequest(IRP_MJ_PNP, Extension->Lower, NULL, 0, NULL, &event, &block);
  if (irp == NULL) return STATUS_INSUFFICIENT_RESOURCES;
  irp->IoStatus.Status = STATUS_NOT_SUPPORTED;
  stack = IoGetNextIrpStackLocation(irp);
  stack->MinorFunction = IRP_MN_QUERY_INTERFACE;
  stack->Parameters.QueryInterface.InterfaceType = &GUID_FBUS_INTERFACE;
  stack->Parameters.QueryInterface.Size = sizeof Extension->Bus;
  stack->Parameters.QueryInterface.Version = FBUS_INTERFACE_VERSION;
  stack->Parameters.QueryInterface.Interface = &Extension->Bus.Header;
  stack->Parameters.QueryInterface.InterfaceSpecificData = NULL;
  status = IoCallDriver(Extension->Lower, irp);
  if (status == STATUS_PENDING) {
    KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
    status = block.Status;
  }
  Extension->HasBus = NT_SUCCESS(status);
  return status;
}

static NTSTATUS NTAPI Signal(PDEVICE_OBJECT Device, PIRP Irp, PVOID Context) {
  UNREFERENCED_PARAMETER(Device);
  if (Irp->PendingReturned) KeSetEvent(Context, IO_NO_INCREMENT, FALSE);
  return STATUS_MORE_PROCESSING_REQUIRED;
}

/* Start with a completion routine of one's own instead of IoForwardIrpSynchronously. */
static NTSTATUS Start(PEXTENSION Extension, PIRP Irp) {
  KEVENT event;
  NTSTATUS status;

  KeInitializeEvent(&event, NotificationEvent, FALSE);
  IoCopyCurrentIrpStackLocationToNext(Irp);
  IoSetCompletionRoutine(Irp, Signal, &event, TRUE, TRUE, TRUE);
  status = IoCallDriver(Extension->Lower, Irp);
  if (status == STATUS_PENDING) {
    KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
    status = Irp->IoStatus.Status;
  }
  if (NT_SUCCESS(status) && !Extension->HasBus) status = QueryBus(Extension);
  if (NT_SUCCESS(status)) status = IoSetDeviceInterfaceState(&Extension->Link, TRUE);
  Extension->Started = NT_SUCCESS(status);
  IoReleaseRemoveLock(&Extension->RemoveLock, Irp);
  return ForeignComplete(Irp, status, 0);
}

static VOID Close(PEXTENSION Extension) {
  if (Extension->Started) IoSetDeviceInterfaceState(&Extension->Link, FALSE);
  Extension->Started = FALSE;
  ReleasePending(Extension, STATUS_DELETE_PENDING);
}

static NTSTATUS NTAPI Pnp(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

  if (!NT_SUCCESS(status)) return ForeignComplete(Irp, status, 0);
  switch (stack->MinorFunction) {
    case IRP_MN_START_DEVICE:
      return Start(extension, Irp);
    case IRP_MN_SURPRISE_REMOVAL:
    case IRP_MN_STOP_DEVICE:
      Close(extension);
      Irp->IoStatus.Status = STATUS_SUCCESS;
      break;
    case IRP_MN_REMOVE_DEVICE:
      Close(extension);
      IoReleaseRemoveLockAndWait(&extension->RemoveLock, Irp);
      if (extension->HasBus) extension->Bus.Header.InterfaceDereference(extension->Bus.Header.Context);
      Irp->IoStatus.Status = STATUS_SUCCESS;
      IoSkipCurrentIrpStackLocation(Irp);
      status = IoCallDriver(extension->Lower, Irp);
      RtlFreeUnicodeString(&extension->Link);
      IoDetachDevice(extension->Lower);
      IoDeleteDevice(Device);
      return status;
    case IRP_MN_QUERY_REMOVE_DEVICE:
    case IRP_MN_CANCEL_REMOVE_DEVICE:
    case IRP_MN_QUERY_STOP_DEVICE:
    case IRP_MN_CANCEL_STOP_DEVICE:
      Irp->IoStatus.Status = STATUS_SUCCESS;
      break;
  }
  IoSkipCurrentIrpStackLocation(Irp);
  status = IoCallDriver(extension->Lower, Irp);
  IoReleaseRemoveLock(&extension->RemoveLock, Irp);
  return status;
}

/* The device power request that belongs to a system power request is done: the latter goes on down. */
static VOID NTAPI DevicePowerDone(PDEVICE_OBJECT Device, UCHAR Minor, POWER_STATE State, PVOID Context,
                                  PIO_STATUS_BLOCK Status) {
  PIRP system = Context;
  PEXTENSION extension = (PEXTENSION)IoGetCurrentIrpStackLocation(system)->DeviceObject->DeviceExtension;

  UNREFERENCED_PARAMETER(Device);
  UNREFERENCED_PARAMETER(Minor);
  UNREFERENCED_PARAMETER(State);
  PoStartNextPowerIrp(system);
  if (!NT_SUCCESS(Status->Status)) {
    IoReleaseRemoveLock(&extension->RemoveLock, system);
    ForeignComplete(system, Status->Status, 0);
    return;
  }
  IoSkipCurrentIrpStackLocation(system);
  PoCallDriver(extension->Lower, system);
  IoReleaseRemoveLock(&extension->RemoveLock, system);
}

static NTSTATUS NTAPI Power(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);
  POWER_STATE state;

  if (!NT_SUCCESS(status)) {
    PoStartNextPowerIrp(Irp);
    return ForeignComplete(Irp, status, 0);
  }
  if (stack->MinorFunction == IRP_MN_SET_POWER) {
    if (stack->Parameters.Power.Type == SystemPowerState) {
      state.DeviceState =
          stack->Parameters.Power.State.SystemState == PowerSystemWorking ? PowerDeviceD0 : PowerDeviceD3;
      IoMarkIrpPending(Irp);
      status = PoRequestPowerIrp(extension->Pdo, IRP_MN_SET_POWER, state, DevicePowerDone, Irp, NULL);
      if (!NT_SUCCESS(status)) {
        PoStartNextPowerIrp(Irp);
        IoReleaseRemoveLock(&extension->RemoveLock, Irp);
        ForeignComplete(Irp, status, 0);
      }
      return STATUS_PENDING;
    }
    extension->Power = stack->Parameters.Power.State.DeviceState;
    PoSetPowerState(Device, DevicePowerState, stack->Parameters.Power.State);
  }
  PoStartNextPowerIrp(Irp);
  IoSkipCurrentIrpStackLocation(Irp);
  status = PoCallDriver(extension->Lower, Irp);
  IoReleaseRemoveLock(&extension->RemoveLock, Irp);
  return status;
}

static NTSTATUS NTAPI SystemControl(PDEVICE_OBJECT Device, PIRP Irp) {
  IoSkipCurrentIrpStackLocation(Irp);
  return IoCallDriver(((PEXTENSION)Device->DeviceExtension)->Lower, Irp);
}

static NTSTATUS NTAPI AddDevice(PDRIVER_OBJECT Driver, PDEVICE_OBJECT Pdo) {
  PDEVICE_OBJECT device;
  PEXTENSION extension;
  NTSTATUS status =
      IoCreateDevice(Driver, sizeof(EXTENSION), NULL, FILE_DEVICE_UNKNOWN, FILE_DEVICE_SECURE_OPEN, FALSE, &device);

  if (!NT_SUCCESS(status)) return status;
  extension = device->DeviceExtension;
  RtlZeroMemory(extension, sizeof *extension);
  extension->Self = device;
  extension->Pdo = Pdo;
  extension->Power = PowerDeviceD3;
  KeInitializeSpinLock(&extension->PendingLock);
  InitializeListHead(&extension->Pending);
  IoInitializeRemoveLock(&extension->RemoveLock, FOREIGN_TAG, 0, 0);
  status = IoRegisterDeviceInterface(Pdo, &GUID_FFUNC_DEVICE, NULL, &extension->Link);
  if (!NT_SUCCESS(status)) {
    IoDeleteDevice(device);
    return status;
  }
  extension->Lower = IoAttachDeviceToDeviceStack(device, Pdo);
  if (extension->Lower == NULL) {
    RtlFreeUnicodeString(&extension->Link);
    IoDeleteDevice(device);
    return STATUS_NO_SUCH_DEVICE;
  }
  device->Flags |= DO_POWER_PAGABLE;
  device->Flags &= ~DO_DEVICE_INITIALIZING;
  return STATUS_SUCCESS;
}

static VOID NTAPI Unload(PDRIVER_OBJECT Driver) {
  UNREFERENCED_PARAMETER(Driver);
  ExFreePoolWithTag(ServiceKey.Buffer, FOREIGN_TAG);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  ServiceKey.MaximumLength = RegistryPath->Length + sizeof(WCHAR);
  ServiceKey.Buffer = ExAllocatePoolWithTag(PagedPool, ServiceKey.MaximumLength, FOREIGN_TAG);
  if (ServiceKey.Buffer == NULL) return STATUS_INSUFFICIENT_RESOURCES;
  RtlCopyUnicodeString(&ServiceKey, RegistryPath);
  Driver->DriverExtension->AddDevice = AddDevice;
  Driver->DriverUnload = Unload;
  Driver->MajorFunction[IRP_MJ_CREATE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLEANUP] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLOSE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = Control;
  Driver->MajorFunction[IRP_MJ_PNP] = Pnp;
  Driver->MajorFunction[IRP_MJ_POWER] = Power;
  Driver->MajorFunction[IRP_MJ_SYSTEM_CONTROL] = SystemControl;
  return STATUS_SUCCESS;
}
