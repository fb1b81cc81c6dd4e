/*
 * Pageable memory: what a driver may do with it below DISPATCH_LEVEL, what it may do at DISPATCH_LEVEL once it has
 * locked it, and, told to, each way to touch it there without.
 * https://learn.microsoft.com/windows-hardware/drivers/kernel/when-should-code-and-data-be-pageable-
 */
#include <ntddk.h>

#include "foreign.h"

/* Breaks the rule. Input: a ULONG, one of the numbers below. */
#define IOCTL_FOREIGN_BREAK CTL_CODE(0x8000, 0x806, METHOD_BUFFERED, FILE_ANY_ACCESS)
/* By a read, a write, a call, an export, in a section that was locked before, and so on. */
enum { READ_POOL, WRITE_POOL, RUN_CODE, READ_BY_EXPORT, READ_SECTION, LARGE_POOL, SPIN_LOCK_HELD };

#define PAGED_CODE_SECTION __attribute__((section("PAGEcode"), noinline))
#define PAGED_DATA_SECTION __attribute__((section("PAGEdata")))

typedef struct _EXTENSION {
  PDEVICE_OBJECT Lower;
} EXTENSION, *PEXTENSION;

static const UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(L"\\Device\\ForeignPaged");
static PAGED_DATA_SECTION volatile ULONG PagedCounter = 5;

static PAGED_CODE_SECTION ULONG PagedTwice(ULONG Value) { return 2 * Value; }

/* Through a pointer, so that the call stays one. */
static ULONG (*volatile Twice)(ULONG) = PagedTwice;

static VOID CheckPool(PFOREIGN_RESULT Result) {
  volatile UCHAR *small = ExAllocatePoolWithTag(PagedPool, 100, FOREIGN_TAG);
  volatile UCHAR *large = ExAllocatePoolWithTag(PagedPool, 3 * PAGE_SIZE, FOREIGN_TAG);
  KIRQL old;
  int round;

  CHECK(Result, small != NULL && large != NULL);
  /* Out and in again: what was written stays. */
  for (round = 0; small != NULL && large != NULL && round < 3; round++) {
    small[99] = (UCHAR)round;
    large[2 * PAGE_SIZE] = (UCHAR)(round + 7);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    KeLowerIrql(old);
    CHECK(Result, small[99] == round && large[2 * PAGE_SIZE] == round + 7);
    KeRaiseIrql(APC_LEVEL, &old);
    CHECK(Result, small[99] == round);
    KeLowerIrql(old);
  }
  if (small != NULL) ExFreePoolWithTag((PVOID)small, FOREIGN_TAG);
  if (large != NULL) ExFreePoolWithTag((PVOID)large, FOREIGN_TAG);
}

/* Pages that an MDL locks may be touched at DISPATCH_LEVEL, by their own address and by the mapped one. */
static VOID CheckMdl(PFOREIGN_RESULT Result) {
  volatile UCHAR *block = ExAllocatePoolWithTag(PagedPool, 2 * PAGE_SIZE, FOREIGN_TAG);
  volatile UCHAR *mapped;
  KIRQL old;
  PMDL mdl;

  CHECK(Result, block != NULL);
  if (block == NULL) return;
  mdl = IoAllocateMdl((PVOID)block, 2 * PAGE_SIZE, FALSE, FALSE, NULL);
  CHECK(Result, mdl != NULL);
  if (mdl != NULL) {
    MmProbeAndLockPages(mdl, KernelMode, IoModifyAccess);
    mapped = MmGetSystemAddressForMdlSafe(mdl, NormalPagePriority);
    CHECK(Result, mapped != NULL);
    KeRaiseIrql(DISPATCH_LEVEL, &old);
    block[0] = 0x41;
    block[PAGE_SIZE] = 0x42;
    CHECK(Result, mapped != NULL && mapped[0] == 0x41 && mapped[PAGE_SIZE] == 0x42);
    KeLowerIrql(old);
    MmUnlockPages(mdl);
    IoFreeMdl(mdl);
  }
  ExFreePoolWithTag((PVOID)block, FOREIGN_TAG);
}

static VOID CheckSections(PFOREIGN_RESULT Result) {
  PVOID data, code;
  KIRQL old;

  CHECK(Result, Twice(PagedCounter) == 10);
  data = MmLockPagableDataSection((PVOID)&PagedCounter);
  code = MmLockPagableCodeSection((PVOID)Twice);
  CHECK(Result, data != NULL && code != NULL && data != code);
  MmLockPagableSectionByHandle(data);
  MmUnlockPagableImageSection(data);
  KeRaiseIrql(DISPATCH_LEVEL, &old);
  PagedCounter++;
  CHECK(Result, Twice(PagedCounter) == 12);
  KeLowerIrql(old);
  MmUnlockPagableImageSection(data);
  MmUnlockPagableImageSection(code);
  PagedCounter--;
  CHECK(Result, Twice(PagedCounter) == 10);
}

static VOID Break(ULONG How) {
  SIZE_T bytes = How == LARGE_POOL ? 2 * PAGE_SIZE : 64;
  volatile ULONG *block = ExAllocatePoolWithTag(PagedPool, bytes, FOREIGN_TAG);
  ULONG copy = 0;
  PVOID handle;
  KSPIN_LOCK lock;
  KIRQL old;

  if (block == NULL) return;
  block[0] = 1;
  handle = MmLockPagableDataSection((PVOID)&PagedCounter);
  MmUnlockPagableImageSection(handle);
  KeInitializeSpinLock(&lock);
  if (How == SPIN_LOCK_HELD)
    KeAcquireSpinLock(&lock, &old);
  else
    KeRaiseIrql(DISPATCH_LEVEL, &old);
  switch (How) {
    case READ_POOL:
    case SPIN_LOCK_HELD:
      copy = block[0];
      break;
    case WRITE_POOL:
      block[0] = 2;
      break;
    case LARGE_POOL:
      copy = block[PAGE_SIZE / sizeof copy];
      break;
    case RUN_CODE:
      copy = Twice(3);
      break;
    case READ_BY_EXPORT:
      RtlMoveMemory(&copy, (PVOID)block, sizeof copy);
      break;
    case READ_SECTION:
      copy = PagedCounter;
      break;
  }
  if (How == SPIN_LOCK_HELD)
    KeReleaseSpinLock(&lock, old);
  else
    KeLowerIrql(old);
  DbgPrint("fpaged: nobody minded, %lu\n", copy);
  ExFreePoolWithTag((PVOID)block, FOREIGN_TAG);
}

static NTSTATUS NTAPI OpenClose(PDEVICE_OBJECT Device, PIRP Irp) {
  UNREFERENCED_PARAMETER(Device);
  return ForeignComplete(Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI Control(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PFOREIGN_RESULT result = Irp->AssociatedIrp.SystemBuffer;

  UNREFERENCED_PARAMETER(Device);
  if (stack->Parameters.DeviceIoControl.IoControlCode == IOCTL_FOREIGN_BREAK &&
      stack->Parameters.DeviceIoControl.InputBufferLength >= sizeof(ULONG)) {
    Break(*(PULONG)Irp->AssociatedIrp.SystemBuffer);
    return ForeignComplete(Irp, STATUS_SUCCESS, 0);
  }
  if (stack->Parameters.DeviceIoControl.IoControlCode != IOCTL_FOREIGN_RUN ||
      stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof *result)
    return ForeignComplete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
  RtlZeroMemory(result, sizeof *result);
  CheckPool(result);
  CheckMdl(result);
  CheckSections(result);
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
  NTSTATUS status;

  switch (IoGetCurrentIrpStackLocation(Irp)->MinorFunction) {
    case IRP_MN_START_DEVICE:
      status = IoForwardIrpSynchronously(lower, Irp) ? Irp->IoStatus.Status : STATUS_UNSUCCESSFUL;
      return ForeignComplete(Irp, status, 0);
    case IRP_MN_REMOVE_DEVICE:
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
  extension->Lower = IoAttachDeviceToDeviceStack(device, Pdo);
  if (extension->Lower == NULL) {
    IoDeleteDevice(device);
    return STATUS_NO_SUCH_DEVICE;
  }
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
  Driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = Control;
  Driver->MajorFunction[IRP_MJ_POWER] = Power;
  Driver->MajorFunction[IRP_MJ_PNP] = Pnp;
  return STATUS_SUCCESS;
}
