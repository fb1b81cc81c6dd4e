/*
 * A driver like null.sys with a root-enumerated device and a library of its own: reads find the end of the file,
 * writes swallow everything. It also answers to a service without a device.
 */
#include <ntddk.h>

/* Exports of ntoskrnl.exe, which take no length. */
int __cdecl sprintf(char *Buffer, const char *Format, ...);
int __cdecl swprintf(wchar_t *Buffer, const wchar_t *Format, ...);

#include "fkit.h"
#include "foreign.h"

typedef struct _EXTENSION {
  PDEVICE_OBJECT Pdo;
  PDEVICE_OBJECT Lower;
  IO_REMOVE_LOCK RemoveLock;
  LONG64 Swallowed;
} EXTENSION, *PEXTENSION;

static const UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(L"\\Device\\ForeignNull");
static const UNICODE_STRING LinkName = RTL_CONSTANT_STRING(L"\\DosDevices\\ForeignNull");

static VOID CheckStrings(PFOREIGN_RESULT Result) {
  UNICODE_STRING path, upper, number, copy;
  ANSI_STRING ansi;
  WCHAR buffer[64];
  CHAR text[64];
  ULONG value = 0;

  CHECK(Result, NT_SUCCESS(FkitRegistryPath(&path)));
  CHECK(Result, path.Length > 0 && wcsstr(path.Buffer, L"fkit") != NULL);
  CHECK(Result, NT_SUCCESS(RtlUnicodeStringToAnsiString(&ansi, &path, TRUE)));
  CHECK(Result, ansi.Length == path.Length / sizeof(WCHAR) && ansi.Buffer[0] == '\\');
  RtlFreeAnsiString(&ansi);
  CHECK(Result, NT_SUCCESS(RtlUpcaseUnicodeString(&upper, &path, TRUE)));
  CHECK(Result, RtlCompareUnicodeString(&upper, &path, TRUE) == 0);
  CHECK(Result, RtlCompareUnicodeString(&upper, &path, FALSE) != 0);
  RtlFreeUnicodeString(&upper);
  RtlInitUnicodeString(&number, L"  0x1fe0");
  CHECK(Result, NT_SUCCESS(RtlUnicodeStringToInteger(&number, 0, &value)) && value == 0x1fe0);
  RtlInitUnicodeString(&number, L"-12");
  CHECK(Result, NT_SUCCESS(RtlUnicodeStringToInteger(&number, 10, &value)) && (LONG)value == -12);
  copy.Buffer = buffer;
  copy.Length = 0;
  copy.MaximumLength = 8;
  CHECK(Result, RtlAppendUnicodeToString(&copy, L"abcd") == STATUS_SUCCESS && copy.Length == 8);
  CHECK(Result, RtlAppendUnicodeToString(&copy, L"e") == STATUS_BUFFER_TOO_SMALL && copy.Length == 8);
  CHECK(Result, sprintf(text, "%-4s|%5d|%04x|%I64u|%c|%%", "ab", -42, 0xbe, 5000000000ull, 'z') == 30);
  CHECK(Result, strcmp(text, "ab  |  -42|00be|5000000000|z|%") == 0);
  CHECK(Result, swprintf(buffer, L"%ws-%S-%wZ-%p", L"one", "two", &LinkName, (PVOID)0x1234) > 0);
  CHECK(Result, wcscmp(buffer, L"one-two-\\DosDevices\\ForeignNull-0000000000001234") == 0);
}

static VOID CheckLibrary(PFOREIGN_RESULT Result) {
  ULONG before = FkitTaken, sum = 0, i;
  PUCHAR small = FkitTake(40), large = FkitTake(3 * PAGE_SIZE);

  CHECK(Result, small != NULL && large != NULL);
  if (small != NULL && large != NULL) {
    for (i = 0; i < 3 * PAGE_SIZE; i++) sum += large[i];
    CHECK(Result, sum == 0);
    RtlFillMemory(large, 3 * PAGE_SIZE, 0xa5);
    CHECK(Result, RtlCompareMemory(large, large + PAGE_SIZE, 2 * PAGE_SIZE) == 2 * PAGE_SIZE);
    large[PAGE_SIZE + 7] = 0;
    CHECK(Result, RtlCompareMemory(large, large + PAGE_SIZE, PAGE_SIZE) == 7);
  }
  if (small != NULL) FkitGive(small);
  if (large != NULL) FkitGive(large);
  CHECK(Result, FkitTaken == before + 2);
}

static NTSTATUS NTAPI OpenClose(PDEVICE_OBJECT Device, PIRP Irp) {
  UNREFERENCED_PARAMETER(Device);
  return ForeignComplete(Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI ReadWrite(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PEXTENSION extension = Device->DeviceExtension;

  if (stack->MajorFunction == IRP_MJ_READ) return ForeignComplete(Irp, STATUS_END_OF_FILE, 0);
  InterlockedExchangeAdd64(&extension->Swallowed, stack->Parameters.Write.Length);
  return ForeignComplete(Irp, STATUS_SUCCESS, stack->Parameters.Write.Length);
}

static NTSTATUS NTAPI Control(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PFOREIGN_RESULT result = Irp->AssociatedIrp.SystemBuffer;
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status;

  if (stack->Parameters.DeviceIoControl.IoControlCode != IOCTL_FOREIGN_RUN)
    return ForeignComplete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
  if (stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof *result)
    return ForeignComplete(Irp, STATUS_BUFFER_TOO_SMALL, 0);
  status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);
  if (!NT_SUCCESS(status)) return ForeignComplete(Irp, status, 0);
  RtlZeroMemory(result, sizeof *result);
  CheckStrings(result);
  CheckLibrary(result);
  IoReleaseRemoveLock(&extension->RemoveLock, Irp);
  return ForeignComplete(Irp, STATUS_SUCCESS, sizeof *result);
}

static NTSTATUS NTAPI Power(PDEVICE_OBJECT Device, PIRP Irp) {
  PEXTENSION extension = Device->DeviceExtension;

  PoStartNextPowerIrp(Irp);
  IoSkipCurrentIrpStackLocation(Irp);
  return PoCallDriver(extension->Lower, Irp);
}

static NTSTATUS NTAPI Pnp(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

  if (!NT_SUCCESS(status)) return ForeignComplete(Irp, status, 0);
  switch (stack->MinorFunction) {
    case IRP_MN_START_DEVICE:
      status = STATUS_UNSUCCESSFUL;
      if (IoForwardIrpSynchronously(extension->Lower, Irp)) status = Irp->IoStatus.Status;
      IoReleaseRemoveLock(&extension->RemoveLock, Irp);
      return ForeignComplete(Irp, status, 0);
    case IRP_MN_REMOVE_DEVICE:
      IoReleaseRemoveLockAndWait(&extension->RemoveLock, Irp);
      Irp->IoStatus.Status = STATUS_SUCCESS;
      IoSkipCurrentIrpStackLocation(Irp);
      status = IoCallDriver(extension->Lower, Irp);
      IoDeleteSymbolicLink((PUNICODE_STRING)&LinkName);
      IoDetachDevice(extension->Lower);
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
  status = IoCallDriver(extension->Lower, Irp);
  IoReleaseRemoveLock(&extension->RemoveLock, Irp);
  return status;
}

static NTSTATUS NTAPI AddDevice(PDRIVER_OBJECT Driver, PDEVICE_OBJECT Pdo) {
  PDEVICE_OBJECT device;
  PEXTENSION extension;
  NTSTATUS status = IoCreateDevice(Driver, sizeof(EXTENSION), (PUNICODE_STRING)&DeviceName, FILE_DEVICE_NULL,
                                   FILE_DEVICE_SECURE_OPEN, FALSE, &device);

  if (!NT_SUCCESS(status)) return status;
  extension = device->DeviceExtension;
  extension->Pdo = Pdo;
  IoInitializeRemoveLock(&extension->RemoveLock, FOREIGN_TAG, 0, 0);
  extension->Lower = IoAttachDeviceToDeviceStack(device, Pdo);
  if (extension->Lower == NULL) {
    IoDeleteDevice(device);
    return STATUS_NO_SUCH_DEVICE;
  }
  status = IoCreateSymbolicLink((PUNICODE_STRING)&LinkName, (PUNICODE_STRING)&DeviceName);
  if (!NT_SUCCESS(status)) {
    IoDetachDevice(extension->Lower);
    IoDeleteDevice(device);
    return status;
  }
  device->Flags |= extension->Lower->Flags & DO_POWER_PAGABLE;
  device->Flags &= ~DO_DEVICE_INITIALIZING;
  return STATUS_SUCCESS;
}

static VOID NTAPI Unload(PDRIVER_OBJECT Driver) {
  NT_ASSERT(Driver->DeviceObject == NULL);
  UNREFERENCED_PARAMETER(Driver);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  DbgPrint("fnull: %wZ\n", RegistryPath);
  Driver->DriverExtension->AddDevice = AddDevice;
  Driver->DriverUnload = Unload;
  Driver->MajorFunction[IRP_MJ_CREATE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLEANUP] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLOSE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_READ] = ReadWrite;
  Driver->MajorFunction[IRP_MJ_WRITE] = ReadWrite;
  Driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = Control;
  Driver->MajorFunction[IRP_MJ_PNP] = Pnp;
  Driver->MajorFunction[IRP_MJ_POWER] = Power;
  return STATUS_SUCCESS;
}
