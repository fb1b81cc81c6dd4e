/*
 * A WMI provider by wmilib: it registers two blocks, and sends itself each request that WMI has, to see what the library
 * and its own routines make of it.
 * https://learn.microsoft.com/windows-hardware/drivers/kernel/calling-wmisystemcontrol-to-handle-wmi-irps
 */
#include <ntddk.h>
#include <wmistr.h>
#include <wmilib.h>

#include "foreign.h"

#define INSTANCES 3
#define VALUE_BYTES 5
#define BUFFER_BYTES 512

typedef struct _EXTENSION {
  PDEVICE_OBJECT Self, Pdo, Lower;
  UCHAR Values[INSTANCES][VALUE_BYTES];
  /* What the last function control was: block, function, enable. */
  ULONG Control[3], Controls;
  SYSCTL_IRP_DISPOSITION Disposition;
} EXTENSION, *PEXTENSION;

static const UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(L"\\Device\\ForeignWmi");
/* Values that are read and written, and an event with a method. */
static const GUID ValuesGuid = {0x5d1f2a10, 0x7c3e, 0x4b52, {0x90, 0x1b, 0x2e, 0x6a, 0x44, 0x9c, 0x0d, 0x01}};
static const GUID EventGuid = {0x5d1f2a11, 0x7c3e, 0x4b52, {0x90, 0x1b, 0x2e, 0x6a, 0x44, 0x9c, 0x0d, 0x01}};
static const GUID OtherGuid = {0x5d1f2a12, 0x7c3e, 0x4b52, {0x90, 0x1b, 0x2e, 0x6a, 0x44, 0x9c, 0x0d, 0x01}};
static WMIGUIDREGINFO Blocks[] = {{&ValuesGuid, INSTANCES, 0}, {&EventGuid, 1, WMIREG_FLAG_EVENT_ONLY_GUID}};
static UNICODE_STRING Registry;

static NTSTATUS NTAPI QueryRegInfo(PDEVICE_OBJECT Device, PULONG Flags, PUNICODE_STRING Name, PUNICODE_STRING *Path,
                                   PUNICODE_STRING Mof, PDEVICE_OBJECT *Pdo) {
  PEXTENSION extension = Device->DeviceExtension;

  UNREFERENCED_PARAMETER(Name);
  *Flags = WMIREG_FLAG_INSTANCE_PDO;
  *Path = &Registry;
  RtlInitUnicodeString(Mof, L"ForeignMof");
  *Pdo = extension->Pdo;
  return STATUS_SUCCESS;
}

static NTSTATUS NTAPI QueryBlock(PDEVICE_OBJECT Device, PIRP Irp, ULONG Block, ULONG Instance, ULONG Count,
                                 PULONG Lengths, ULONG Available, PUCHAR Buffer) {
  PEXTENSION extension = Device->DeviceExtension;
  ULONG i, used = 0;

  if (Block != 0) return WmiCompleteRequest(Device, Irp, STATUS_WMI_GUID_NOT_FOUND, 0, IO_NO_INCREMENT);
  /* Each but the last takes a multiple of eight bytes. */
  for (i = 0; i < Count; i++) used = ((used + 7) & ~7u) + VALUE_BYTES;
  if (Available < used || Lengths == NULL)
    return WmiCompleteRequest(Device, Irp, STATUS_BUFFER_TOO_SMALL, used, IO_NO_INCREMENT);
  for (i = 0; i < Count; i++) {
    Lengths[i] = VALUE_BYTES;
    RtlCopyMemory(Buffer + 8 * i, extension->Values[Instance + i], VALUE_BYTES);
  }
  return WmiCompleteRequest(Device, Irp, STATUS_SUCCESS, used, IO_NO_INCREMENT);
}

static NTSTATUS NTAPI SetBlock(PDEVICE_OBJECT Device, PIRP Irp, ULONG Block, ULONG Instance, ULONG Bytes,
                               PUCHAR Buffer) {
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status = Block == 0 && Bytes == VALUE_BYTES ? STATUS_SUCCESS : STATUS_INVALID_PARAMETER;

  if (NT_SUCCESS(status)) RtlCopyMemory(extension->Values[Instance], Buffer, VALUE_BYTES);
  return WmiCompleteRequest(Device, Irp, status, 0, IO_NO_INCREMENT);
}

/* Items are single bytes, numbered from 1. */
static NTSTATUS NTAPI SetItem(PDEVICE_OBJECT Device, PIRP Irp, ULONG Block, ULONG Instance, ULONG Item, ULONG Bytes,
                              PUCHAR Buffer) {
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status = STATUS_INVALID_PARAMETER;

  if (Block == 0 && Bytes == 1 && Item - 1 < VALUE_BYTES) {
    extension->Values[Instance][Item - 1] = *Buffer;
    status = STATUS_SUCCESS;
  }
  return WmiCompleteRequest(Device, Irp, status, 0, IO_NO_INCREMENT);
}

/* Method 7 turns each bit of its input round. */
static NTSTATUS NTAPI Execute(PDEVICE_OBJECT Device, PIRP Irp, ULONG Block, ULONG Instance, ULONG Method, ULONG In,
                              ULONG Out, PUCHAR Buffer) {
  ULONG i;

  UNREFERENCED_PARAMETER(Instance);
  if (Block != 1 || Method != 7)
    return WmiCompleteRequest(Device, Irp, STATUS_INVALID_DEVICE_REQUEST, 0, IO_NO_INCREMENT);
  if (Out < In) return WmiCompleteRequest(Device, Irp, STATUS_BUFFER_TOO_SMALL, In, IO_NO_INCREMENT);
  for (i = 0; i < In; i++) Buffer[i] = ~Buffer[i];
  return WmiCompleteRequest(Device, Irp, STATUS_SUCCESS, In, IO_NO_INCREMENT);
}

static NTSTATUS NTAPI FunctionControl(PDEVICE_OBJECT Device, PIRP Irp, ULONG Block, WMIENABLEDISABLECONTROL Function,
                                      BOOLEAN Enable) {
  PEXTENSION extension = Device->DeviceExtension;

  extension->Control[0] = Block;
  extension->Control[1] = Function;
  extension->Control[2] = Enable;
  extension->Controls++;
  return WmiCompleteRequest(Device, Irp, STATUS_SUCCESS, 0, IO_NO_INCREMENT);
}

static WMILIB_CONTEXT Library = {RTL_NUMBER_OF(Blocks), Blocks,  QueryRegInfo, QueryBlock,
                                 SetBlock,              SetItem, Execute,      FunctionControl};

static NTSTATUS NTAPI SystemControl(PDEVICE_OBJECT Device, PIRP Irp) {
  PEXTENSION extension = Device->DeviceExtension;
  SYSCTL_IRP_DISPOSITION disposition;
  NTSTATUS status = WmiSystemControl(&Library, Device, Irp, &disposition);

  extension->Disposition = disposition;
  switch (disposition) {
    case IrpProcessed:
      return status;
    case IrpNotCompleted:
      IoCompleteRequest(Irp, IO_NO_INCREMENT);
      return status;
    default:
      IoSkipCurrentIrpStackLocation(Irp);
      return IoCallDriver(extension->Lower, Irp);
  }
}

/* The driver's own requests. */

static NTSTATUS NTAPI Sent(PDEVICE_OBJECT Device, PIRP Irp, PVOID Event) {
  UNREFERENCED_PARAMETER(Device);
  UNREFERENCED_PARAMETER(Irp);
  KeSetEvent(Event, IO_NO_INCREMENT, FALSE);
  return STATUS_MORE_PROCESSING_REQUIRED;
}

static NTSTATUS Send(PEXTENSION Extension, UCHAR Minor, PVOID Provider, PVOID Path, PVOID Buffer, ULONG Bytes,
                     PULONG_PTR Information) {
  PIRP irp = IoAllocateIrp(Extension->Self->StackSize, FALSE);
  PIO_STACK_LOCATION stack;
  NTSTATUS status;
  KEVENT event;

  if (irp == NULL) return STATUS_INSUFFICIENT_RESOURCES;
  KeInitializeEvent(&event, NotificationEvent, FALSE);
  irp->IoStatus.Status = STATUS_NOT_SUPPORTED;
  stack = IoGetNextIrpStackLocation(irp);
  stack->MajorFunction = IRP_MJ_SYSTEM_CONTROL;
  stack->MinorFunction = Minor;
  stack->Parameters.WMI.ProviderId = (ULONG_PTR)Provider;
  stack->Parameters.WMI.DataPath = Path;
  stack->Parameters.WMI.BufferSize = Bytes;
  stack->Parameters.WMI.Buffer = Buffer;
  IoSetCompletionRoutine(irp, Sent, &event, TRUE, TRUE, TRUE);
  IoCallDriver(Extension->Self, irp);
  KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
  status = irp->IoStatus.Status;
  *Information = irp->IoStatus.Information;
  IoFreeIrp(irp);
  return status;
}

static PVOID Node(PVOID Buffer, const GUID *Guid, ULONG Bytes, ULONG Flags) {
  PWNODE_HEADER header = Buffer;

  RtlZeroMemory(Buffer, BUFFER_BYTES);
  header->BufferSize = Bytes;
  header->Guid = *Guid;
  header->Flags = Flags;
  return Buffer;
}

#define SEND(Minor, Guid, Bytes) Send(Extension, Minor, Extension->Self, (PVOID)(Guid), buffer, Bytes, &information)

static VOID CheckRegistration(PEXTENSION Extension, PFOREIGN_RESULT Result, PVOID buffer) {
  PWMIREGINFOW info = buffer;
  ULONG_PTR information;
  PWCHAR name;

  RtlZeroMemory(buffer, BUFFER_BYTES);
  CHECK(Result, SEND(IRP_MN_REGINFO_EX, WMIREGISTER, sizeof(ULONG)) == STATUS_BUFFER_TOO_SMALL);
  CHECK(Result, information == sizeof(ULONG) && *(PULONG)buffer > sizeof *info && *(PULONG)buffer < BUFFER_BYTES);
  CHECK(Result, Extension->Disposition == IrpNotCompleted);
  CHECK(Result, SEND(IRP_MN_REGINFO_EX, WMIREGISTER, BUFFER_BYTES) == STATUS_SUCCESS);
  CHECK(Result, information == info->BufferSize && info->GuidCount == 2 && info->NextWmiRegInfo == 0);
  CHECK(Result, RtlCompareMemory(&info->WmiRegGuid[0].Guid, &ValuesGuid, sizeof(GUID)) == sizeof(GUID));
  CHECK(Result, info->WmiRegGuid[0].InstanceCount == INSTANCES && info->WmiRegGuid[1].InstanceCount == 1);
  CHECK(Result, info->WmiRegGuid[0].Flags == WMIREG_FLAG_INSTANCE_PDO);
  CHECK(Result, info->WmiRegGuid[1].Flags == (WMIREG_FLAG_INSTANCE_PDO | WMIREG_FLAG_EVENT_ONLY_GUID));
  CHECK(Result, info->WmiRegGuid[0].Pdo == (ULONG_PTR)Extension->Pdo);
  /* Strings are counted: a USHORT with the bytes, then those. */
  name = (PWCHAR)((PUCHAR)info + info->MofResourceName);
  CHECK(Result, name[0] == 20 && RtlCompareMemory(name + 1, L"ForeignMof", 20) == 20);
  name = (PWCHAR)((PUCHAR)info + info->RegistryPath);
  CHECK(Result, name[0] == Registry.Length && RtlCompareMemory(name + 1, Registry.Buffer, name[0]) == name[0]);
  /* The references on the PDO that a registration brings are the asker's. */
  ObDereferenceObject(Extension->Pdo);
  ObDereferenceObject(Extension->Pdo);
}

static VOID CheckQueries(PEXTENSION Extension, PFOREIGN_RESULT Result, PVOID buffer) {
  PWNODE_ALL_DATA all = buffer;
  PWNODE_SINGLE_INSTANCE one = buffer;
  PWNODE_TOO_SMALL small = buffer;
  ULONG_PTR information;
  ULONG i, j;

  for (i = 0; i < INSTANCES; i++)
    for (j = 0; j < VALUE_BYTES; j++) Extension->Values[i][j] = (UCHAR)(16 * i + j);
  Node(buffer, &ValuesGuid, BUFFER_BYTES, WNODE_FLAG_ALL_DATA);
  CHECK(Result, SEND(IRP_MN_QUERY_ALL_DATA, &ValuesGuid, BUFFER_BYTES) == STATUS_SUCCESS);
  CHECK(Result, Extension->Disposition == IrpProcessed && all->InstanceCount == INSTANCES);
  CHECK(Result, information == all->WnodeHeader.BufferSize && all->DataBlockOffset % 8 == 0);
  CHECK(Result, all->WnodeHeader.Flags & WNODE_FLAG_ALL_DATA);
  for (i = 0; i < INSTANCES; i++) {
    ULONG at = all->DataBlockOffset + 8 * i;
    if (!(all->WnodeHeader.Flags & WNODE_FLAG_FIXED_INSTANCE_SIZE)) {
      at = all->OffsetInstanceDataAndLength[i].OffsetInstanceData;
      CHECK(Result, all->OffsetInstanceDataAndLength[i].LengthInstanceData == VALUE_BYTES);
    } else {
      CHECK(Result, all->FixedInstanceSize == VALUE_BYTES);
    }
    CHECK(Result, at % 8 == 0 && at + VALUE_BYTES <= information);
    CHECK(Result, RtlCompareMemory((PUCHAR)buffer + at, Extension->Values[i], VALUE_BYTES) == VALUE_BYTES);
  }
  /* Too little room for the data: a WNODE_TOO_SMALL with what is needed, which is enough then. */
  Node(buffer, &ValuesGuid, sizeof(WNODE_ALL_DATA) + 16, WNODE_FLAG_ALL_DATA);
  CHECK(Result, SEND(IRP_MN_QUERY_ALL_DATA, &ValuesGuid, sizeof(WNODE_ALL_DATA) + 16) == STATUS_SUCCESS);
  CHECK(Result, information == sizeof *small && small->WnodeHeader.BufferSize == sizeof *small);
  CHECK(Result, (small->WnodeHeader.Flags & WNODE_FLAG_TOO_SMALL) && small->SizeNeeded < BUFFER_BYTES);
  i = small->SizeNeeded;
  Node(buffer, &ValuesGuid, i, WNODE_FLAG_ALL_DATA);
  CHECK(Result, SEND(IRP_MN_QUERY_ALL_DATA, &ValuesGuid, i) == STATUS_SUCCESS);
  CHECK(Result, !(all->WnodeHeader.Flags & WNODE_FLAG_TOO_SMALL) && information <= i);
  /* Not even room for that. */
  Node(buffer, &ValuesGuid, sizeof(WNODE_HEADER), WNODE_FLAG_ALL_DATA);
  CHECK(Result, SEND(IRP_MN_QUERY_ALL_DATA, &ValuesGuid, sizeof(WNODE_HEADER)) == STATUS_BUFFER_TOO_SMALL);
  CHECK(Result, Extension->Disposition == IrpNotCompleted);

  Node(buffer, &ValuesGuid, BUFFER_BYTES, WNODE_FLAG_SINGLE_INSTANCE | WNODE_FLAG_STATIC_INSTANCE_NAMES);
  one->InstanceIndex = 2;
  one->DataBlockOffset = FIELD_OFFSET(WNODE_SINGLE_INSTANCE, VariableData);
  CHECK(Result, SEND(IRP_MN_QUERY_SINGLE_INSTANCE, &ValuesGuid, BUFFER_BYTES) == STATUS_SUCCESS);
  CHECK(Result, one->SizeDataBlock == VALUE_BYTES && information == one->DataBlockOffset + VALUE_BYTES);
  CHECK(Result, one->WnodeHeader.BufferSize == information);
  CHECK(Result, RtlCompareMemory((PUCHAR)buffer + one->DataBlockOffset, Extension->Values[2], VALUE_BYTES) ==
                    VALUE_BYTES);
  one->InstanceIndex = INSTANCES;
  CHECK(Result, SEND(IRP_MN_QUERY_SINGLE_INSTANCE, &ValuesGuid, BUFFER_BYTES) == STATUS_WMI_INSTANCE_NOT_FOUND);
  CHECK(Result, SEND(IRP_MN_QUERY_SINGLE_INSTANCE, &OtherGuid, BUFFER_BYTES) == STATUS_WMI_GUID_NOT_FOUND);
  CHECK(Result, Extension->Disposition == IrpNotCompleted);
}

static VOID CheckChanges(PEXTENSION Extension, PFOREIGN_RESULT Result, PVOID buffer) {
  PWNODE_SINGLE_INSTANCE one = buffer;
  PWNODE_SINGLE_ITEM item = buffer;
  PWNODE_METHOD_ITEM method = buffer;
  ULONG_PTR information;
  ULONG at;

  Node(buffer, &ValuesGuid, BUFFER_BYTES, WNODE_FLAG_SINGLE_INSTANCE | WNODE_FLAG_STATIC_INSTANCE_NAMES);
  one->InstanceIndex = 1;
  one->DataBlockOffset = FIELD_OFFSET(WNODE_SINGLE_INSTANCE, VariableData);
  one->SizeDataBlock = VALUE_BYTES;
  RtlCopyMemory(one->VariableData, "abcde", VALUE_BYTES);
  CHECK(Result, SEND(IRP_MN_CHANGE_SINGLE_INSTANCE, &ValuesGuid, BUFFER_BYTES) == STATUS_SUCCESS);
  CHECK(Result, RtlCompareMemory(Extension->Values[1], "abcde", VALUE_BYTES) == VALUE_BYTES);
  /* Data that runs past the buffer. */
  one->SizeDataBlock = BUFFER_BYTES;
  CHECK(Result, !NT_SUCCESS(SEND(IRP_MN_CHANGE_SINGLE_INSTANCE, &ValuesGuid, BUFFER_BYTES)));
  one->DataBlockOffset = 0xfffffff8;
  one->SizeDataBlock = VALUE_BYTES;
  CHECK(Result, !NT_SUCCESS(SEND(IRP_MN_CHANGE_SINGLE_INSTANCE, &ValuesGuid, BUFFER_BYTES)));

  Node(buffer, &ValuesGuid, BUFFER_BYTES, WNODE_FLAG_SINGLE_ITEM | WNODE_FLAG_STATIC_INSTANCE_NAMES);
  item->InstanceIndex = 1;
  item->ItemId = 3;
  item->DataBlockOffset = FIELD_OFFSET(WNODE_SINGLE_ITEM, VariableData);
  item->SizeDataItem = 1;
  item->VariableData[0] = 'X';
  CHECK(Result, SEND(IRP_MN_CHANGE_SINGLE_ITEM, &ValuesGuid, BUFFER_BYTES) == STATUS_SUCCESS);
  CHECK(Result, RtlCompareMemory(Extension->Values[1], "abXde", VALUE_BYTES) == VALUE_BYTES);

  /* Without a routine for it, a block cannot be written. */
  Library.SetWmiDataItem = NULL;
  CHECK(Result, SEND(IRP_MN_CHANGE_SINGLE_ITEM, &ValuesGuid, BUFFER_BYTES) == STATUS_WMI_READ_ONLY);
  CHECK(Result, Extension->Disposition == IrpNotCompleted);
  Library.SetWmiDataItem = SetItem;

  at = FIELD_OFFSET(WNODE_METHOD_ITEM, VariableData);
  Node(buffer, &EventGuid, BUFFER_BYTES, WNODE_FLAG_METHOD_ITEM | WNODE_FLAG_STATIC_INSTANCE_NAMES);
  method->MethodId = 7;
  method->DataBlockOffset = at;
  method->SizeDataBlock = 2;
  method->VariableData[0] = 0x0f;
  method->VariableData[1] = 0x55;
  CHECK(Result, SEND(IRP_MN_EXECUTE_METHOD, &EventGuid, BUFFER_BYTES) == STATUS_SUCCESS);
  CHECK(Result, method->SizeDataBlock == 2 && information == at + 2);
  CHECK(Result, method->VariableData[0] == 0xf0 && method->VariableData[1] == 0xaa);
  method->MethodId = 8;
  CHECK(Result, SEND(IRP_MN_EXECUTE_METHOD, &EventGuid, BUFFER_BYTES) == STATUS_INVALID_DEVICE_REQUEST);
}

static VOID CheckControls(PEXTENSION Extension, PFOREIGN_RESULT Result, PVOID buffer) {
  static const UCHAR minors[] = {IRP_MN_ENABLE_EVENTS, IRP_MN_DISABLE_EVENTS, IRP_MN_ENABLE_COLLECTION,
                                 IRP_MN_DISABLE_COLLECTION};
  ULONG_PTR information;
  NTSTATUS status;
  PULONG data;
  ULONG i;

  Node(buffer, &EventGuid, BUFFER_BYTES, 0);
  for (i = 0; i < RTL_NUMBER_OF(minors); i++) {
    CHECK(Result, SEND(minors[i], &EventGuid, BUFFER_BYTES) == STATUS_SUCCESS);
    CHECK(Result, Extension->Controls == i + 1 && Extension->Control[0] == 1);
    CHECK(Result, Extension->Control[1] == (i < 2 ? WmiEventControl : WmiDataBlockControl));
    CHECK(Result, Extension->Control[2] == (i % 2 == 0));
  }
  Extension->Controls = 0;
  /* Without a routine the library answers: with success. */
  Library.WmiFunctionControl = NULL;
  CHECK(Result, SEND(IRP_MN_ENABLE_EVENTS, &EventGuid, BUFFER_BYTES) == STATUS_SUCCESS);
  CHECK(Result, Extension->Disposition == IrpNotCompleted && Extension->Controls == 0);
  Library.WmiFunctionControl = FunctionControl;

  /* What is for another device, or no request of WMI, is passed on. */
  status = Send(Extension, IRP_MN_QUERY_ALL_DATA, Extension->Pdo, (PVOID)&ValuesGuid, buffer, BUFFER_BYTES, &information);
  CHECK(Result, Extension->Disposition == IrpForward && status == STATUS_NOT_SUPPORTED);
  CHECK(Result, SEND(0x7f, &ValuesGuid, BUFFER_BYTES) == STATUS_NOT_SUPPORTED);
  CHECK(Result, Extension->Disposition == IrpNotWmi);

  /* An event takes its data along. */
  data = ExAllocatePoolWithTag(NonPagedPool, sizeof *data, FOREIGN_TAG);
  CHECK(Result, data != NULL);
  if (data == NULL) return;
  *data = 0x600d;
  CHECK(Result, NT_SUCCESS(WmiFireEvent(Extension->Self, &EventGuid, 0, sizeof *data, data)));
  CHECK(Result, NT_SUCCESS(WmiFireEvent(Extension->Self, &EventGuid, 0, 0, NULL)));
}

static NTSTATUS NTAPI OpenClose(PDEVICE_OBJECT Device, PIRP Irp) {
  UNREFERENCED_PARAMETER(Device);
  return ForeignComplete(Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI Control(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PFOREIGN_RESULT result = Irp->AssociatedIrp.SystemBuffer;
  PVOID buffer;

  if (stack->Parameters.DeviceIoControl.IoControlCode != IOCTL_FOREIGN_RUN ||
      stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof *result)
    return ForeignComplete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
  buffer = ExAllocatePoolWithTag(PagedPool, BUFFER_BYTES, FOREIGN_TAG);
  if (buffer == NULL) return ForeignComplete(Irp, STATUS_INSUFFICIENT_RESOURCES, 0);
  RtlZeroMemory(result, sizeof *result);
  CheckRegistration(Device->DeviceExtension, result, buffer);
  CheckQueries(Device->DeviceExtension, result, buffer);
  CheckChanges(Device->DeviceExtension, result, buffer);
  CheckControls(Device->DeviceExtension, result, buffer);
  ExFreePoolWithTag(buffer, FOREIGN_TAG);
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
      status = Irp->IoStatus.Status;
      if (NT_SUCCESS(status)) status = IoWMIRegistrationControl(Device, WMIREG_ACTION_REGISTER);
      return ForeignComplete(Irp, status, 0);
    case IRP_MN_REMOVE_DEVICE:
      IoWMIRegistrationControl(Device, WMIREG_ACTION_DEREGISTER);
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
  device->Flags &= ~DO_DEVICE_INITIALIZING;
  return STATUS_SUCCESS;
}

static VOID NTAPI Unload(PDRIVER_OBJECT Driver) {
  UNREFERENCED_PARAMETER(Driver);
  ExFreePoolWithTag(Registry.Buffer, FOREIGN_TAG);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  Registry.MaximumLength = RegistryPath->Length;
  Registry.Buffer = ExAllocatePoolWithTag(PagedPool, RegistryPath->Length, FOREIGN_TAG);
  if (Registry.Buffer == NULL) return STATUS_INSUFFICIENT_RESOURCES;
  RtlCopyUnicodeString(&Registry, RegistryPath);
  Driver->DriverExtension->AddDevice = AddDevice;
  Driver->DriverUnload = Unload;
  Driver->MajorFunction[IRP_MJ_CREATE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLOSE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLEANUP] = OpenClose;
  Driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = Control;
  Driver->MajorFunction[IRP_MJ_SYSTEM_CONTROL] = SystemControl;
  Driver->MajorFunction[IRP_MJ_POWER] = Power;
  Driver->MajorFunction[IRP_MJ_PNP] = Pnp;
  return STATUS_SUCCESS;
}
