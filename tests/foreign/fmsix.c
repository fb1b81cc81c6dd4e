/*
 * A function driver on the test machine's PCI adapter: message-signaled interrupts by IoConnectInterruptEx, with the
 * line to fall back to, and the MSI-X table by the bus driver's interface.
 * https://learn.microsoft.com/windows-hardware/drivers/kernel/using-message-signaled-interrupts
 */
#include <ntddk.h>

#include "foreign.h"

/* Ports of the adapter. */
enum { INTERRUPT = 0x04, LINE = 0x08 };
#define ENTRIES 8
#define MSIX_CAPABILITY 0x40

static const GUID TableInterface = {0x1a6a460b, 0x194f, 0x455d, {0xb3, 0x4b, 0xb8, 0x4c, 0x5b, 0x05, 0x71, 0x2b}};
static const UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(L"\\Device\\ForeignMsix");

typedef struct _EXTENSION {
  PDEVICE_OBJECT Pdo, Lower;
  ULONG_PTR Ports;
  CM_PARTIAL_RESOURCE_DESCRIPTOR Messages[ENTRIES];
  ULONG MessageCount, Lines, Version;
  union {
    PIO_INTERRUPT_MESSAGE_INFO Info;
    PKINTERRUPT Line;
    PVOID Any;
  } Connection;
  volatile LONG Seen[ENTRIES], LineSeen, Wrong;
} EXTENSION, *PEXTENSION;

static BOOLEAN NTAPI MessageIsr(PKINTERRUPT Interrupt, PVOID Context, ULONG Message) {
  PEXTENSION extension = Context;

  if (Message >= extension->MessageCount ||
      (extension->Connection.Info != NULL && Interrupt != extension->Connection.Info->MessageInfo[Message].InterruptObject) ||
      KeGetCurrentIrql() != (KIRQL)extension->Connection.Info->UnifiedIrql) {
    InterlockedIncrement(&extension->Wrong);
    return TRUE;
  }
  InterlockedIncrement(&extension->Seen[Message]);
  return TRUE;
}

static BOOLEAN NTAPI LineIsr(PKINTERRUPT Interrupt, PVOID Context) {
  PEXTENSION extension = Context;

  UNREFERENCED_PARAMETER(Interrupt);
  if (READ_PORT_UCHAR((PUCHAR)(extension->Ports + LINE)) != 1) return FALSE;
  WRITE_PORT_UCHAR((PUCHAR)(extension->Ports + LINE), 0);
  InterlockedIncrement(&extension->LineSeen);
  return TRUE;
}

static VOID TakeResources(PEXTENSION Extension, PCM_RESOURCE_LIST Translated) {
  PCM_PARTIAL_RESOURCE_LIST list = &Translated->List[0].PartialResourceList;
  ULONG i;

  Extension->MessageCount = Extension->Lines = 0;
  for (i = 0; i < list->Count; i++) {
    PCM_PARTIAL_RESOURCE_DESCRIPTOR resource = &list->PartialDescriptors[i];
    if (resource->Type == CmResourceTypePort) Extension->Ports = (ULONG_PTR)resource->u.Port.Start.QuadPart;
    if (resource->Type != CmResourceTypeInterrupt) continue;
    if (!(resource->Flags & CM_RESOURCE_INTERRUPT_MESSAGE))
      Extension->Lines++;
    else if (Extension->MessageCount < ENTRIES)
      Extension->Messages[Extension->MessageCount++] = *resource;
  }
}

static NTSTATUS Connect(PEXTENSION Extension) {
  IO_CONNECT_INTERRUPT_PARAMETERS parameters;
  NTSTATUS status;

  RtlZeroMemory(&parameters, sizeof parameters);
  parameters.Version = CONNECT_MESSAGE_BASED;
  parameters.MessageBased.PhysicalDeviceObject = Extension->Pdo;
  parameters.MessageBased.ConnectionContext.Generic = &Extension->Connection.Any;
  parameters.MessageBased.MessageServiceRoutine = MessageIsr;
  parameters.MessageBased.ServiceContext = Extension;
  parameters.MessageBased.FallBackServiceRoutine = LineIsr;
  status = IoConnectInterruptEx(&parameters);
  Extension->Version = parameters.Version;
  return status;
}

static VOID Disconnect(PEXTENSION Extension) {
  IO_DISCONNECT_INTERRUPT_PARAMETERS parameters;

  if (Extension->Connection.Any == NULL) return;
  RtlZeroMemory(&parameters, sizeof parameters);
  parameters.Version = Extension->Version;
  parameters.ConnectionContext.Generic = Extension->Connection.Any;
  IoDisconnectInterruptEx(&parameters);
  Extension->Connection.Any = NULL;
}

/* A PnP request of the driver's own, whose next location is filled in. */
static NTSTATUS Ask(PEXTENSION Extension, const IO_STACK_LOCATION *What) {
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
  stack->MinorFunction = What->MinorFunction;
  stack->Parameters = What->Parameters;
  status = IoCallDriver(Extension->Lower, irp);
  if (status == STATUS_PENDING) {
    KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
    status = block.Status;
  }
  return status;
}

static VOID Ring(PEXTENSION Extension, ULONG Entry) {
  LARGE_INTEGER millisecond;

  millisecond.QuadPart = -10000;
  WRITE_PORT_ULONG((PULONG)(Extension->Ports + INTERRUPT), Entry);
  KeDelayExecutionThread(KernelMode, FALSE, &millisecond);
}

static VOID CheckMessages(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  PIO_INTERRUPT_MESSAGE_INFO info = Extension->Connection.Info;
  ULONG i, j;

  CHECK(Result, Extension->Version == CONNECT_MESSAGE_BASED && Extension->Lines == 0);
  CHECK(Result, info != NULL && info->MessageCount == Extension->MessageCount);
  if (info == NULL) return;
  for (i = 0; i < info->MessageCount; i++) {
    PIO_INTERRUPT_MESSAGE_INFO_ENTRY entry = &info->MessageInfo[i];
    CHECK(Result, Extension->Messages[i].Flags & CM_RESOURCE_INTERRUPT_LATCHED);
    CHECK(Result, entry->Vector == Extension->Messages[i].u.MessageInterrupt.Translated.Vector);
    CHECK(Result, entry->TargetProcessorSet == Extension->Messages[i].u.MessageInterrupt.Translated.Affinity);
    CHECK(Result, entry->Mode == Latched && entry->Irql <= info->UnifiedIrql && entry->Irql > DISPATCH_LEVEL);
    CHECK(Result, (entry->MessageAddress.LowPart >> 20) == 0xfee && entry->MessageAddress.HighPart == 0);
    for (j = 0; j < i; j++) CHECK(Result, info->MessageInfo[j].Vector != entry->Vector);
    Extension->Seen[i] = 0;
  }
  for (i = 0; i < info->MessageCount; i++) {
    Ring(Extension, i);
    CHECK(Result, Extension->Seen[i] == 1);
  }
  CHECK(Result, Extension->Wrong == 0 && Extension->LineSeen == 0);
}

static VOID CheckTable(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  PCI_MSIX_TABLE_CONFIG_INTERFACE table;
  IO_STACK_LOCATION what;
  BOOLEAN masked = 2;
  ULONG message = 99, i, last = Extension->MessageCount - 1;
  USHORT control = 0;

  RtlZeroMemory(&what, sizeof what);
  what.MinorFunction = IRP_MN_READ_CONFIG;
  what.Parameters.ReadWriteConfig.WhichSpace = PCI_WHICHSPACE_CONFIG;
  what.Parameters.ReadWriteConfig.Buffer = &control;
  what.Parameters.ReadWriteConfig.Offset = MSIX_CAPABILITY + 2;
  what.Parameters.ReadWriteConfig.Length = sizeof control;
  CHECK(Result, NT_SUCCESS(Ask(Extension, &what)));
  /* On, not masked as a whole, eight entries. */
  CHECK(Result, control == (0x8000 | (ENTRIES - 1)));

  RtlZeroMemory(&what, sizeof what);
  RtlZeroMemory(&table, sizeof table);
  what.MinorFunction = IRP_MN_QUERY_INTERFACE;
  what.Parameters.QueryInterface.InterfaceType = &TableInterface;
  what.Parameters.QueryInterface.Size = sizeof table;
  what.Parameters.QueryInterface.Version = PCI_MSIX_TABLE_CONFIG_INTERFACE_VERSION;
  what.Parameters.QueryInterface.Interface = (PINTERFACE)&table;
  CHECK(Result, NT_SUCCESS(Ask(Extension, &what)));
  if (table.GetTableSize == NULL) return;
  CHECK(Result, NT_SUCCESS(table.GetTableSize(table.Context, &i)) && i == ENTRIES);
  /* Entries beyond the messages have message 0. */
  for (i = 0; i < ENTRIES; i++) {
    CHECK(Result, NT_SUCCESS(table.GetTableEntry(table.Context, i, &message, &masked)));
    CHECK(Result, message == (i <= last ? i : 0) && !masked);
  }
  CHECK(Result, !NT_SUCCESS(table.GetTableEntry(table.Context, ENTRIES, &message, &masked)));
  CHECK(Result, !NT_SUCCESS(table.MaskTableEntry(table.Context, ENTRIES)));
  CHECK(Result, !NT_SUCCESS(table.SetTableEntry(table.Context, 0, Extension->MessageCount)));
  /* A masked entry's message waits till the mask goes, and comes once however often it was signaled. */
  Extension->Seen[last] = 0;
  CHECK(Result, NT_SUCCESS(table.MaskTableEntry(table.Context, last)));
  CHECK(Result, NT_SUCCESS(table.GetTableEntry(table.Context, last, &message, &masked)) && masked);
  Ring(Extension, last);
  Ring(Extension, last);
  CHECK(Result, Extension->Seen[last] == 0);
  CHECK(Result, NT_SUCCESS(table.UnmaskTableEntry(table.Context, last)));
  for (i = 0; i < 100 && Extension->Seen[last] == 0; i++) KeStallExecutionProcessor(100);
  CHECK(Result, Extension->Seen[last] == 1);
  /* An entry may have another's message. */
  CHECK(Result, NT_SUCCESS(table.SetTableEntry(table.Context, 0, last)));
  Ring(Extension, 0);
  CHECK(Result, Extension->Seen[last] == 2);
  CHECK(Result, NT_SUCCESS(table.SetTableEntry(table.Context, 0, 0)));
  table.InterfaceDereference(table.Context);
  CHECK(Result, Extension->Wrong == 0);
}

static VOID CheckLine(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  LONG before = Extension->LineSeen;

  CHECK(Result, Extension->Version == CONNECT_LINE_BASED && Extension->Lines == 1);
  CHECK(Result, Extension->Connection.Line != NULL);
  Ring(Extension, 0);
  CHECK(Result, Extension->LineSeen == before + 1 && Extension->Wrong == 0);
}

static NTSTATUS NTAPI OpenClose(PDEVICE_OBJECT Device, PIRP Irp) {
  UNREFERENCED_PARAMETER(Device);
  return ForeignComplete(Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI Control(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PFOREIGN_RESULT result = Irp->AssociatedIrp.SystemBuffer;
  PEXTENSION extension = Device->DeviceExtension;

  if (stack->Parameters.DeviceIoControl.IoControlCode != IOCTL_FOREIGN_RUN ||
      stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof *result)
    return ForeignComplete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
  RtlZeroMemory(result, sizeof *result);
  if (extension->MessageCount == 0) {
    CheckLine(extension, result);
  } else {
    CheckMessages(extension, result);
    CheckTable(extension, result);
  }
  DbgPrint("fmsix: %lu messages\n", extension->MessageCount);
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
  NTSTATUS status;

  switch (stack->MinorFunction) {
    case IRP_MN_START_DEVICE:
      TakeResources(extension, stack->Parameters.StartDevice.AllocatedResourcesTranslated);
      if (!IoForwardIrpSynchronously(extension->Lower, Irp)) return ForeignComplete(Irp, STATUS_UNSUCCESSFUL, 0);
      status = Irp->IoStatus.Status;
      if (NT_SUCCESS(status)) status = Connect(extension);
      return ForeignComplete(Irp, status, 0);
    case IRP_MN_STOP_DEVICE:
    case IRP_MN_SURPRISE_REMOVAL:
      Disconnect(extension);
      Irp->IoStatus.Status = STATUS_SUCCESS;
      break;
    case IRP_MN_REMOVE_DEVICE:
      Disconnect(extension);
      Irp->IoStatus.Status = STATUS_SUCCESS;
      IoSkipCurrentIrpStackLocation(Irp);
      status = IoCallDriver(extension->Lower, Irp);
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
  return IoCallDriver(extension->Lower, Irp);
}

static NTSTATUS NTAPI AddDevice(PDRIVER_OBJECT Driver, PDEVICE_OBJECT Pdo) {
  PDEVICE_OBJECT device;
  PEXTENSION extension;
  NTSTATUS status = IoCreateDevice(Driver, sizeof(EXTENSION), (PUNICODE_STRING)&DeviceName, FILE_DEVICE_UNKNOWN,
                                   FILE_DEVICE_SECURE_OPEN, FALSE, &device);

  if (!NT_SUCCESS(status)) return status;
  extension = device->DeviceExtension;
  RtlZeroMemory(extension, sizeof *extension);
  extension->Pdo = Pdo;
  extension->Lower = IoAttachDeviceToDeviceStack(device, Pdo);
  if (extension->Lower == NULL) {
    IoDeleteDevice(device);
    return STATUS_NO_SUCH_DEVICE;
  }
  device->Flags |= DO_POWER_PAGABLE;
  device->Flags &= ~DO_DEVICE_INITIALIZING;
  return STATUS_SUCCESS;
}

static VOID NTAPI Unload(PDRIVER_OBJECT Driver) { UNREFERENCED_PARAMETER(Driver); }

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  UNREFERENCED_PARAMETER(RegistryPath);
  Driver->DriverExtension->AddDevice = AddDevice;
  Driver->DriverUnload = Unload;
  Driver->MajorFunction[IRP_MJ_CREATE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLEANUP] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLOSE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = Control;
  Driver->MajorFunction[IRP_MJ_PNP] = Pnp;
  Driver->MajorFunction[IRP_MJ_POWER] = Power;
  return STATUS_SUCCESS;
}
