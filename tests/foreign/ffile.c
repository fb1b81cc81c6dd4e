/*
 * Files by handle from within the kernel, what a driver sees of their opening, StartIo that is deferred, and what drivers
 * ask of the kernel besides: callback objects, properties by key, power settings, names for WMI.
 * https://learn.microsoft.com/windows-hardware/drivers/kernel/using-files-in-a-driver
 */
#include <ntddk.h>

#include "foreign.h"

/* Declared for file systems only, or not at all in mingw-w64's headers. */
typedef struct _APC_STATE {
  LIST_ENTRY ApcListHead[2];
  PVOID Process;
  BOOLEAN Flags[8];
} APC_STATE;
VOID NTAPI KeStackAttachProcess(PVOID Process, APC_STATE *State);
VOID NTAPI KeUnstackDetachProcess(APC_STATE *State);
NTSTATUS NTAPI ZwCreateEvent(PHANDLE Event, ACCESS_MASK Access, POBJECT_ATTRIBUTES Attributes, EVENT_TYPE Type,
                             BOOLEAN Set);
NTSTATUS NTAPI ZwSetEvent(HANDLE Event, PLONG Before);
NTSTATUS NTAPI ZwWaitForSingleObject(HANDLE Object, BOOLEAN Alertable, PLARGE_INTEGER Timeout);

#define DEVICE_NAME L"\\Device\\ForeignFile"
/* Gives the number of the file that it comes by. */
#define IOCTL_NUMBER CTL_CODE(0x8000, 0x810, METHOD_BUFFERED, FILE_ANY_ACCESS)
/* Bytes of a read that waits till it is released. */
#define HELD 2

typedef struct _EXTENSION {
  PDEVICE_OBJECT Self, Pdo, Lower;
  /* Of the file that was opened last. */
  ULONG Number, Access, Original, Options;
  USHORT Share, Attributes;
  /* StartIo, how deep it is in itself, and how often it was called so. */
  LONG Started, Depth, Nested;
  LONGLONG Offset;
} EXTENSION, *PEXTENSION;

static const UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(DEVICE_NAME);

static NTSTATUS NTAPI Create(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PEXTENSION extension = Device->DeviceExtension;

  extension->Access = stack->Parameters.Create.SecurityContext->DesiredAccess;
  extension->Original = stack->Parameters.Create.SecurityContext->AccessState->OriginalDesiredAccess;
  extension->Options = stack->Parameters.Create.Options;
  extension->Share = stack->Parameters.Create.ShareAccess;
  extension->Attributes = stack->Parameters.Create.FileAttributes;
  stack->FileObject->FsContext = (PVOID)(ULONG_PTR)++extension->Number;
  return ForeignComplete(Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI Close(PDEVICE_OBJECT Device, PIRP Irp) {
  UNREFERENCED_PARAMETER(Device);
  return ForeignComplete(Irp, STATUS_SUCCESS, 0);
}

static VOID NTAPI StartIo(PDEVICE_OBJECT Device, PIRP Irp) {
  PEXTENSION extension = Device->DeviceExtension;
  ULONG bytes = IoGetCurrentIrpStackLocation(Irp)->Parameters.Read.Length;

  extension->Started++;
  if (extension->Depth++ != 0) extension->Nested++;
  extension->Offset = IoGetCurrentIrpStackLocation(Irp)->Parameters.Read.ByteOffset.QuadPart;
  if (bytes != HELD) {
    RtlFillMemory(Irp->AssociatedIrp.SystemBuffer, bytes, 0x5a);
    ForeignComplete(Irp, STATUS_SUCCESS, bytes);
    IoStartNextPacket(Device, FALSE);
  }
  extension->Depth--;
}

static NTSTATUS NTAPI Read(PDEVICE_OBJECT Device, PIRP Irp) {
  IoMarkIrpPending(Irp);
  IoStartPacket(Device, Irp, NULL, NULL);
  return STATUS_PENDING;
}

/* Ends the read that is held, and goes on with what waits. */
static VOID Release(PDEVICE_OBJECT Device) {
  PIRP irp = Device->CurrentIrp;
  KIRQL irql;

  ForeignComplete(irp, STATUS_SUCCESS, HELD);
  KeRaiseIrql(DISPATCH_LEVEL, &irql);
  IoStartNextPacket(Device, FALSE);
  KeLowerIrql(irql);
}

static NTSTATUS Open(PHANDLE Handle, ACCESS_MASK Access, ULONG Share, ULONG Disposition, ULONG Options,
                     PIO_STATUS_BLOCK Status) {
  OBJECT_ATTRIBUTES attributes;

  InitializeObjectAttributes(&attributes, (PUNICODE_STRING)&DeviceName, OBJ_KERNEL_HANDLE, NULL, NULL);
  return ZwCreateFile(Handle, Access, &attributes, Status, NULL, FILE_ATTRIBUTE_NORMAL, Share, Disposition, Options, NULL,
                      0);
}

static VOID CheckFiles(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  HANDLE waiting = NULL, other = NULL, event = NULL;
  OBJECT_ATTRIBUTES attributes;
  IO_STATUS_BLOCK done, held;
  LARGE_INTEGER offset, none = {{0, 0}};
  PKEVENT object = NULL;
  UCHAR buffer[8] = {0}, two[HELD] = {0};
  ULONG number = 0, i;
  KEVENT events[3];
  IO_STATUS_BLOCK reads[3];

  /* Who waits for the file must ask for it, and in one way. */
  CHECK(Result, Open(&waiting, GENERIC_READ, 0, FILE_OPEN, FILE_SYNCHRONOUS_IO_NONALERT, &done) ==
                    STATUS_INVALID_PARAMETER);
  CHECK(Result, Open(&waiting, GENERIC_READ | SYNCHRONIZE, 0, FILE_OPEN,
                     FILE_SYNCHRONOUS_IO_NONALERT | FILE_SYNCHRONOUS_IO_ALERT, &done) == STATUS_INVALID_PARAMETER);
  CHECK(Result, Open(&waiting, GENERIC_READ, 0, FILE_MAXIMUM_DISPOSITION + 1, 0, &done) == STATUS_INVALID_PARAMETER);
  CHECK(Result, Open(&waiting, FILE_READ_DATA | SYNCHRONIZE, FILE_SHARE_READ, FILE_OPEN_IF,
                     FILE_SYNCHRONOUS_IO_NONALERT | FILE_NON_DIRECTORY_FILE, &done) == STATUS_SUCCESS);
  CHECK(Result, done.Status == STATUS_SUCCESS && done.Information == FILE_OPENED);
  CHECK(Result, Extension->Access == (FILE_READ_DATA | SYNCHRONIZE) && Extension->Original == Extension->Access);
  CHECK(Result, Extension->Options == (FILE_OPEN_IF << 24 | FILE_SYNCHRONOUS_IO_NONALERT | FILE_NON_DIRECTORY_FILE));
  CHECK(Result, Extension->Share == FILE_SHARE_READ && Extension->Attributes == FILE_ATTRIBUTE_NORMAL);
  if (waiting == NULL) return;

  InitializeObjectAttributes(&attributes, NULL, OBJ_KERNEL_HANDLE, NULL, NULL);
  CHECK(Result, NT_SUCCESS(ZwCreateEvent(&event, EVENT_ALL_ACCESS, &attributes, NotificationEvent, TRUE)));
  CHECK(Result, NT_SUCCESS(ObReferenceObjectByHandle(event, EVENT_ALL_ACCESS, *ExEventObjectType, KernelMode,
                                                     (PVOID *)&object, NULL)));
  if (object == NULL) return;
  /* The file has a position, and the event is set when the request is done. */
  CHECK(Result, ZwReadFile(waiting, event, NULL, NULL, &done, buffer, sizeof buffer, NULL, NULL) == STATUS_SUCCESS);
  CHECK(Result, done.Information == sizeof buffer && buffer[7] == 0x5a && Extension->Offset == 0);
  CHECK(Result, KeReadStateEvent(object) != 0);
  ZwReadFile(waiting, NULL, NULL, NULL, &done, buffer, sizeof buffer, NULL, NULL);
  CHECK(Result, Extension->Offset == 8);
  offset.QuadPart = 100;
  ZwReadFile(waiting, NULL, NULL, NULL, &done, buffer, sizeof buffer, &offset, NULL);
  CHECK(Result, Extension->Offset == 100);
  CHECK(Result, ZwDeviceIoControlFile(waiting, NULL, NULL, NULL, &done, IOCTL_NUMBER, NULL, 0, &number, sizeof number) ==
                    STATUS_SUCCESS);
  CHECK(Result, number == Extension->Number);

  /* One that nobody waits for has no position, and says when it is done. */
  CHECK(Result, Open(&other, FILE_READ_DATA, 0, FILE_OPEN, 0, &done) == STATUS_SUCCESS);
  CHECK(Result, ZwReadFile(other, NULL, NULL, NULL, &held, two, HELD, NULL, NULL) == STATUS_INVALID_PARAMETER);
  CHECK(Result, ZwReadFile(other, event, NULL, NULL, &held, two, HELD, &none, NULL) == STATUS_PENDING);
  CHECK(Result, KeReadStateEvent(object) == 0);
  /* Three more wait for StartIo, which is not called from within itself. */
  Extension->Started = 0;
  for (i = 0; i < 3; i++) {
    PIRP irp;
    KeInitializeEvent(&events[i], NotificationEvent, FALSE);
    irp = IoBuildSynchronousFsdRequest(IRP_MJ_READ, Extension->Self, buffer, 1, &none, &events[i], &reads[i]);
    CHECK(Result, irp != NULL && IoCallDriver(Extension->Self, irp) == STATUS_PENDING);
  }
  CHECK(Result, Extension->Started == 0);
  Release(Extension->Self);
  CHECK(Result, KeWaitForSingleObject(object, Executive, KernelMode, FALSE, NULL) == STATUS_SUCCESS);
  CHECK(Result, held.Status == STATUS_SUCCESS && held.Information == HELD);
  for (i = 0; i < 3; i++) KeWaitForSingleObject(&events[i], Executive, KernelMode, FALSE, NULL);
  /* Without an event the file itself says it. */
  CHECK(Result, ZwReadFile(other, NULL, NULL, NULL, &held, two, HELD, &none, NULL) == STATUS_PENDING);
  CHECK(Result, ZwWaitForSingleObject(other, FALSE, &none) == STATUS_TIMEOUT);
  Release(Extension->Self);
  CHECK(Result, ZwWaitForSingleObject(other, FALSE, NULL) == STATUS_SUCCESS && held.Information == HELD);
  KeClearEvent(object);
  CHECK(Result, ZwWaitForSingleObject(event, FALSE, &none) == STATUS_TIMEOUT);
  CHECK(Result, ZwSetEvent(event, NULL) == STATUS_SUCCESS && KeReadStateEvent(object) != 0);
  CHECK(Result, Extension->Started == 4 && Extension->Nested == 0);
  ObDereferenceObject(object);
  CHECK(Result, NT_SUCCESS(ZwClose(event)) && NT_SUCCESS(ZwClose(other)) && NT_SUCCESS(ZwClose(waiting)));
}

static VOID NTAPI Called(PVOID Context, PVOID First, PVOID Second) {
  if (First == Second) ++*(PULONG)Context;
}

static VOID CheckCallbacks(PFOREIGN_RESULT Result) {
  UNICODE_STRING name = RTL_CONSTANT_STRING(L"\\Callback\\ForeignFile");
  OBJECT_ATTRIBUTES attributes;
  PCALLBACK_OBJECT made = NULL, again = NULL;
  PVOID first, second;
  ULONG calls = 0;

  InitializeObjectAttributes(&attributes, NULL, OBJ_CASE_INSENSITIVE, NULL, NULL);
  CHECK(Result, ExCreateCallback(&made, &attributes, TRUE, TRUE) == STATUS_UNSUCCESSFUL);
  InitializeObjectAttributes(&attributes, &name, OBJ_CASE_INSENSITIVE, NULL, NULL);
  CHECK(Result, ExCreateCallback(&made, &attributes, FALSE, TRUE) == STATUS_OBJECT_NAME_NOT_FOUND);
  /* One routine alone; that it is asked for otherwise when it is opened makes no difference. */
  CHECK(Result, ExCreateCallback(&made, &attributes, TRUE, FALSE) == STATUS_SUCCESS);
  CHECK(Result, ExCreateCallback(&again, &attributes, TRUE, TRUE) == STATUS_SUCCESS && again == made);
  first = ExRegisterCallback(made, Called, &calls);
  second = ExRegisterCallback(made, Called, &calls);
  CHECK(Result, first != NULL && second == NULL);
  ExNotifyCallback(made, &calls, &calls);
  CHECK(Result, calls == 1);
  ExUnregisterCallback(first);
  first = ExRegisterCallback(made, Called, &calls);
  CHECK(Result, first != NULL);
  ExUnregisterCallback(first);
  ObDereferenceObject(made);
  ObDereferenceObject(again);
}

static VOID CheckProperties(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  static const DEVPROPKEY own = {{0x3c1e9a70, 0x52b1, 0x4a06, {0x91, 0x0c, 0x6b, 0x2f, 0x10, 0xda, 0x55, 0x3e}}, 2};
  static const DEVPROPKEY description = {
      {0xa45c254e, 0xdf1c, 0x4efd, {0x80, 0x20, 0x67, 0xd1, 0x46, 0xa8, 0x50, 0xe0}}, 2};
  ULONG value = 0x12345678, back = 0, needed = 99, type = 99;
  WCHAR text[64] = {0};

  CHECK(Result, IoGetDevicePropertyData(Extension->Pdo, &own, 0, 0, sizeof back, &back, &needed, &type) ==
                    STATUS_OBJECT_NAME_NOT_FOUND);
  CHECK(Result, IoSetDevicePropertyData(Extension->Pdo, &own, 0, 0, 7, sizeof value, &value) == STATUS_SUCCESS);
  CHECK(Result, IoGetDevicePropertyData(Extension->Pdo, &own, 0, 0, 2, &back, &needed, &type) ==
                    STATUS_BUFFER_TOO_SMALL);
  CHECK(Result, needed == sizeof back);
  CHECK(Result, IoGetDevicePropertyData(Extension->Pdo, &own, 0, 0, sizeof back, &back, &needed, &type) ==
                    STATUS_SUCCESS);
  CHECK(Result, back == value && type == 7 && needed == sizeof back);
  CHECK(Result, IoSetDevicePropertyData(Extension->Pdo, &own, 0, 0, 0, 0, NULL) == STATUS_SUCCESS);
  CHECK(Result, IoGetDevicePropertyData(Extension->Pdo, &own, 0, 0, sizeof back, &back, &needed, &type) ==
                    STATUS_OBJECT_NAME_NOT_FOUND);
  CHECK(Result, IoGetDevicePropertyData(Extension->Pdo, &description, 0, 0, sizeof text, text, &needed, &type) ==
                    STATUS_SUCCESS);
  CHECK(Result, type == 0x12 && wcscmp(text, L"Foreign files") == 0);
}

static NTSTATUS NTAPI Setting(LPCGUID Which, PVOID Value, ULONG Bytes, PVOID Context) {
  UNREFERENCED_PARAMETER(Which);
  if (Bytes == sizeof(ULONG) && KeGetCurrentIrql() == PASSIVE_LEVEL) *(PULONG)Context = *(PULONG)Value + 1;
  return STATUS_SUCCESS;
}

static VOID CheckKernel(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  static const GUID power = {0x5d3e9a59, 0xe9d5, 0x4b00, {0xa6, 0xbd, 0xff, 0x34, 0xff, 0x51, 0x65, 0x48}};
  UNICODE_STRING link = RTL_CONSTANT_STRING(L"link"), name = {0};
  ULONG told = 0, bits[2] = {0x0ff00f0f, 0xfffffff0}, start = 99;
  GROUP_AFFINITY affinity;
  RTL_BITMAP map;
  APC_STATE state;
  PVOID handle = NULL;
  USHORT count = 0;

  /* On mains is 0; the routine is told at once. */
  CHECK(Result, PoRegisterPowerSettingCallback(Extension->Self, &power, Setting, &told, &handle) == STATUS_SUCCESS);
  CHECK(Result, told == 1 && handle != NULL);
  CHECK(Result, PoUnregisterPowerSettingCallback(handle) == STATUS_SUCCESS);
  CHECK(Result, PoUnregisterPowerSettingCallback(handle) == STATUS_INVALID_PARAMETER);

  KeStackAttachProcess(PsGetCurrentProcess(), &state);
  CHECK(Result, state.Process == PsGetCurrentProcess());
  KeUnstackDetachProcess(&state);

  CHECK(Result, IoWMISuggestInstanceName(Extension->Pdo, NULL, FALSE, &name) == STATUS_SUCCESS);
  CHECK(Result, name.Length != 0 && wcscmp(name.Buffer, L"Foreign files") == 0);
  RtlFreeUnicodeString(&name);
  CHECK(Result, IoWMISuggestInstanceName(Extension->Pdo, &link, TRUE, &name) == STATUS_SUCCESS);
  CHECK(Result, name.Length > link.Length);
  RtlFreeUnicodeString(&name);
  CHECK(Result, IoWMISuggestInstanceName(NULL, NULL, FALSE, &name) == STATUS_UNSUCCESSFUL);

  RtlInitializeBitMap(&map, bits, 64);
  /* Bits 12 to 19 are clear, and so are 28 to 35. */
  CHECK(Result, RtlFindLongestRunClear(&map, &start) == 8 && start == 12);
  RtlSetAllBits(&map);
  CHECK(Result, RtlFindLongestRunClear(&map, &start) == 0);
  CHECK(Result, RtlFindLeastSignificantBit(0) == -1 && RtlFindLeastSignificantBit(0x80) == 7);
  KeQueryNodeActiveAffinity(0, &affinity, &count);
  CHECK(Result, affinity.Mask == KeQueryActiveProcessors() && count == KeQueryActiveProcessorCount(NULL));
  CHECK(Result, KeGetRecommendedSharedDataAlignment() >= 64);
}

static NTSTATUS NTAPI Control(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PFOREIGN_RESULT result = Irp->AssociatedIrp.SystemBuffer;
  ULONG room = stack->Parameters.DeviceIoControl.OutputBufferLength;

  if (stack->Parameters.DeviceIoControl.IoControlCode == IOCTL_NUMBER && room >= sizeof(ULONG) &&
      stack->FileObject != NULL) {
    *(PULONG)result = (ULONG)(ULONG_PTR)stack->FileObject->FsContext;
    return ForeignComplete(Irp, STATUS_SUCCESS, sizeof(ULONG));
  }
  if (stack->Parameters.DeviceIoControl.IoControlCode != IOCTL_FOREIGN_RUN || room < sizeof *result)
    return ForeignComplete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
  RtlZeroMemory(result, sizeof *result);
  CheckFiles(Device->DeviceExtension, result);
  CheckCallbacks(result);
  CheckProperties(Device->DeviceExtension, result);
  CheckKernel(Device->DeviceExtension, result);
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
      if (!IoForwardIrpSynchronously(lower, Irp)) return ForeignComplete(Irp, STATUS_UNSUCCESSFUL, 0);
      return ForeignComplete(Irp, Irp->IoStatus.Status, 0);
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
  extension->Self = device;
  extension->Pdo = Pdo;
  extension->Lower = IoAttachDeviceToDeviceStack(device, Pdo);
  if (extension->Lower == NULL) {
    IoDeleteDevice(device);
    return STATUS_NO_SUCH_DEVICE;
  }
  IoSetStartIoAttributes(device, TRUE, TRUE);
  device->Flags |= DO_BUFFERED_IO;
  device->Flags &= ~DO_DEVICE_INITIALIZING;
  return STATUS_SUCCESS;
}

static VOID NTAPI Unload(PDRIVER_OBJECT Driver) { UNREFERENCED_PARAMETER(Driver); }

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  UNREFERENCED_PARAMETER(RegistryPath);
  Driver->DriverExtension->AddDevice = AddDevice;
  Driver->DriverUnload = Unload;
  Driver->DriverStartIo = StartIo;
  Driver->MajorFunction[IRP_MJ_CREATE] = Create;
  Driver->MajorFunction[IRP_MJ_CLOSE] = Close;
  Driver->MajorFunction[IRP_MJ_CLEANUP] = Close;
  Driver->MajorFunction[IRP_MJ_READ] = Read;
  Driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = Control;
  Driver->MajorFunction[IRP_MJ_POWER] = Power;
  Driver->MajorFunction[IRP_MJ_PNP] = Pnp;
  return STATUS_SUCCESS;
}
