/*
 * A function driver on Xen's platform device: a PCI device with an I/O range, a memory range and a line interrupt. It
 * checks the resources it was given, configuration space both ways, the mapping of its memory, and its interrupt.
 */
#include <initguid.h>
#include <ntddk.h>
#include <wdmguid.h>

#include "foreign.h"

typedef struct _EXTENSION {
  PDEVICE_OBJECT Pdo, Lower;
  IO_REMOVE_LOCK RemoveLock;
  BUS_INTERFACE_STANDARD Bus;
  BOOLEAN HasBus;
  CM_PARTIAL_RESOURCE_DESCRIPTOR Port, Memory, Line;
  ULONG Ports, Memories, Lines;
  PVOID Mapped;
  PKINTERRUPT Interrupt;
  KSPIN_LOCK Lock;
  volatile LONG Interrupts;
  KIRQL SynchronizedAt;
} EXTENSION, *PEXTENSION;

static const UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(L"\\Device\\ForeignPci");

static BOOLEAN NTAPI Isr(PKINTERRUPT Interrupt, PVOID Context) {
  PEXTENSION extension = Context;

  UNREFERENCED_PARAMETER(Interrupt);
  InterlockedIncrement(&extension->Interrupts);
  /* Nothing here asked the device for an interrupt: it is another's. */
  return FALSE;
}

static BOOLEAN NTAPI Synchronized(PVOID Context) {
  PEXTENSION extension = Context;

  extension->SynchronizedAt = KeGetCurrentIrql();
  return TRUE;
}

static VOID TakeResources(PEXTENSION Extension, PCM_RESOURCE_LIST Translated) {
  PCM_PARTIAL_RESOURCE_LIST list;
  ULONG i;

  if (Translated == NULL || Translated->Count == 0) return;
  list = &Translated->List[0].PartialResourceList;
  for (i = 0; i < list->Count; i++) {
    PCM_PARTIAL_RESOURCE_DESCRIPTOR resource = &list->PartialDescriptors[i];
    switch (resource->Type) {
      case CmResourceTypePort:
        if (Extension->Ports++ == 0) Extension->Port = *resource;
        break;
      case CmResourceTypeMemory:
        if (Extension->Memories++ == 0) Extension->Memory = *resource;
        break;
      case CmResourceTypeInterrupt:
        if (Extension->Lines++ == 0) Extension->Line = *resource;
        break;
    }
  }
}

static NTSTATUS Connect(PEXTENSION Extension) {
  IO_CONNECT_INTERRUPT_PARAMETERS parameters;
  NTSTATUS status;

  if (Extension->Memories != 0) {
    Extension->Mapped =
        MmMapIoSpace(Extension->Memory.u.Memory.Start, PAGE_SIZE, MmNonCached);
    if (Extension->Mapped == NULL) return STATUS_INSUFFICIENT_RESOURCES;
  }
  if (Extension->Lines == 0) return STATUS_SUCCESS;
  RtlZeroMemory(&parameters, sizeof parameters);
  parameters.Version = CONNECT_FULLY_SPECIFIED;
  parameters.FullySpecified.PhysicalDeviceObject = Extension->Pdo;
  parameters.FullySpecified.InterruptObject = &Extension->Interrupt;
  parameters.FullySpecified.ServiceRoutine = Isr;
  parameters.FullySpecified.ServiceContext = Extension;
  parameters.FullySpecified.SynchronizeIrql = (KIRQL)Extension->Line.u.Interrupt.Level;
  parameters.FullySpecified.Irql = (KIRQL)Extension->Line.u.Interrupt.Level;
  parameters.FullySpecified.Vector = Extension->Line.u.Interrupt.Vector;
  parameters.FullySpecified.ProcessorEnableMask = Extension->Line.u.Interrupt.Affinity;
  parameters.FullySpecified.InterruptMode =
      Extension->Line.Flags & CM_RESOURCE_INTERRUPT_LATCHED ? Latched : LevelSensitive;
  parameters.FullySpecified.ShareVector = Extension->Line.ShareDisposition == CmResourceShareShared;
  status = IoConnectInterruptEx(&parameters);
  return status;
}

static VOID Disconnect(PEXTENSION Extension) {
  IO_DISCONNECT_INTERRUPT_PARAMETERS parameters;

  if (Extension->Interrupt != NULL) {
    RtlZeroMemory(&parameters, sizeof parameters);
    parameters.Version = CONNECT_FULLY_SPECIFIED;
    parameters.ConnectionContext.InterruptObject = Extension->Interrupt;
    IoDisconnectInterruptEx(&parameters);
    Extension->Interrupt = NULL;
  }
  if (Extension->Mapped != NULL) MmUnmapIoSpace(Extension->Mapped, PAGE_SIZE);
  Extension->Mapped = NULL;
  Extension->Ports = Extension->Memories = Extension->Lines = 0;
}

/* A PnP request of the driver's own, sent down and waited for. `Fill` sets what it asks. */
static NTSTATUS Ask(PEXTENSION Extension, UCHAR Minor, VOID (*Fill)(PIO_STACK_LOCATION, PVOID), PVOID Context) {
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
  stack->MinorFunction = Minor;
  Fill(stack, Context);
  status = IoCallDriver(Extension->Lower, irp);
  if (status == STATUS_PENDING) {
    KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
    status = block.Status;
  }
  return status;
}

static VOID FillInterface(PIO_STACK_LOCATION Stack, PVOID Context) {
  PEXTENSION extension = Context;

  Stack->Parameters.QueryInterface.InterfaceType = &GUID_BUS_INTERFACE_STANDARD;
  Stack->Parameters.QueryInterface.Size = sizeof extension->Bus;
  Stack->Parameters.QueryInterface.Version = 1;
  Stack->Parameters.QueryInterface.Interface = (PINTERFACE)&extension->Bus;
}

static VOID FillConfig(PIO_STACK_LOCATION Stack, PVOID Context) {
  Stack->Parameters.ReadWriteConfig.WhichSpace = PCI_WHICHSPACE_CONFIG;
  Stack->Parameters.ReadWriteConfig.Buffer = Context;
  Stack->Parameters.ReadWriteConfig.Offset = 0;
  Stack->Parameters.ReadWriteConfig.Length = PCI_COMMON_HDR_LENGTH;
}

static VOID RunAll(PEXTENSION Extension, PFOREIGN_RESULT Result) {
  PCI_COMMON_CONFIG fromIrp, fromInterface;
  ULONG length, number = 0;
  WCHAR text[128];
  UCHAR line = 0x5a;

  RtlZeroMemory(Result, sizeof *Result);
  RtlZeroMemory(&fromIrp, sizeof fromIrp);
  RtlZeroMemory(&fromInterface, sizeof fromInterface);
  CHECK(Result, NT_SUCCESS(Ask(Extension, IRP_MN_READ_CONFIG, FillConfig, &fromIrp)));
  CHECK(Result, fromIrp.VendorID == 0x5853 && fromIrp.HeaderType == PCI_DEVICE_TYPE);
  CHECK(Result, Extension->HasBus);
  if (Extension->HasBus) {
    CHECK(Result, Extension->Bus.GetBusData(Extension->Bus.Context, PCI_WHICHSPACE_CONFIG, &fromInterface, 0,
                                            PCI_COMMON_HDR_LENGTH) == PCI_COMMON_HDR_LENGTH);
    CHECK(Result, RtlCompareMemory(&fromIrp, &fromInterface, PCI_COMMON_HDR_LENGTH) == PCI_COMMON_HDR_LENGTH);
    /* The interrupt line register is a scratch byte for software. */
    CHECK(Result, Extension->Bus.SetBusData(Extension->Bus.Context, PCI_WHICHSPACE_CONFIG, &line,
                                            FIELD_OFFSET(PCI_COMMON_CONFIG, u.type0.InterruptLine), 1) == 1);
    line = 0;
    Extension->Bus.GetBusData(Extension->Bus.Context, PCI_WHICHSPACE_CONFIG, &line,
                              FIELD_OFFSET(PCI_COMMON_CONFIG, u.type0.InterruptLine), 1);
    CHECK(Result, line == 0x5a);
    Extension->Bus.SetBusData(Extension->Bus.Context, PCI_WHICHSPACE_CONFIG, &fromIrp.u.type0.InterruptLine,
                              FIELD_OFFSET(PCI_COMMON_CONFIG, u.type0.InterruptLine), 1);
  }
  /* Started, so the ranges that were granted are decoded and stand in the base address registers. */
  CHECK(Result, Extension->Ports == 1 && Extension->Memories == 1 && Extension->Lines == 1);
  CHECK(Result, (fromIrp.Command & PCI_ENABLE_IO_SPACE) && (fromIrp.Command & PCI_ENABLE_MEMORY_SPACE));
  CHECK(Result, (fromIrp.u.type0.BaseAddresses[0] & ~3u) == Extension->Port.u.Port.Start.LowPart);
  CHECK(Result, (fromIrp.u.type0.BaseAddresses[1] & ~15u) == Extension->Memory.u.Memory.Start.LowPart);
  CHECK(Result, Extension->Port.u.Port.Length >= 256 && Extension->Memory.u.Memory.Length >= PAGE_SIZE);
  CHECK(Result, Extension->Mapped != NULL);
  CHECK(Result, MmGetPhysicalAddress(Extension->Mapped).QuadPart == Extension->Memory.u.Memory.Start.QuadPart);
  CHECK(Result, Extension->Interrupt != NULL);
  if (Extension->Interrupt != NULL) {
    CHECK(Result, KeSynchronizeExecution(Extension->Interrupt, Synchronized, Extension));
    CHECK(Result, Extension->SynchronizedAt == (KIRQL)Extension->Line.u.Interrupt.Level);
    CHECK(Result, Extension->SynchronizedAt > DISPATCH_LEVEL && KeGetCurrentIrql() == PASSIVE_LEVEL);
  }
  CHECK(Result, NT_SUCCESS(IoGetDeviceProperty(Extension->Pdo, DevicePropertyBusNumber, sizeof number, &number, &length)));
  CHECK(Result, NT_SUCCESS(IoGetDeviceProperty(Extension->Pdo, DevicePropertyEnumeratorName, sizeof text, text, &length)));
  CHECK(Result, wcscmp(text, L"PCI") == 0);
}

static NTSTATUS NTAPI OpenClose(PDEVICE_OBJECT Device, PIRP Irp) {
  UNREFERENCED_PARAMETER(Device);
  return ForeignComplete(Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI Control(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status;

  if (stack->Parameters.DeviceIoControl.IoControlCode != IOCTL_FOREIGN_RUN)
    return ForeignComplete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
  if (stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(FOREIGN_RESULT))
    return ForeignComplete(Irp, STATUS_BUFFER_TOO_SMALL, 0);
  status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);
  if (!NT_SUCCESS(status)) return ForeignComplete(Irp, status, 0);
  RunAll(extension, Irp->AssociatedIrp.SystemBuffer);
  IoReleaseRemoveLock(&extension->RemoveLock, Irp);
  return ForeignComplete(Irp, STATUS_SUCCESS, sizeof(FOREIGN_RESULT));
}

static NTSTATUS NTAPI Pnp(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

  if (!NT_SUCCESS(status)) return ForeignComplete(Irp, status, 0);
  switch (stack->MinorFunction) {
    case IRP_MN_START_DEVICE:
      TakeResources(extension, stack->Parameters.StartDevice.AllocatedResourcesTranslated);
      status = STATUS_UNSUCCESSFUL;
      if (IoForwardIrpSynchronously(extension->Lower, Irp)) status = Irp->IoStatus.Status;
      if (NT_SUCCESS(status) && !extension->HasBus) {
        status = Ask(extension, IRP_MN_QUERY_INTERFACE, FillInterface, extension);
        extension->HasBus = NT_SUCCESS(status);
      }
      if (NT_SUCCESS(status)) status = Connect(extension);
      if (!NT_SUCCESS(status)) Disconnect(extension);
      IoReleaseRemoveLock(&extension->RemoveLock, Irp);
      return ForeignComplete(Irp, status, 0);
    case IRP_MN_STOP_DEVICE:
    case IRP_MN_SURPRISE_REMOVAL:
      Disconnect(extension);
      Irp->IoStatus.Status = STATUS_SUCCESS;
      break;
    case IRP_MN_REMOVE_DEVICE:
      IoReleaseRemoveLockAndWait(&extension->RemoveLock, Irp);
      Disconnect(extension);
      if (extension->HasBus) extension->Bus.InterfaceDereference(extension->Bus.Context);
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
  status = IoCallDriver(extension->Lower, Irp);
  IoReleaseRemoveLock(&extension->RemoveLock, Irp);
  return status;
}

static NTSTATUS NTAPI Power(PDEVICE_OBJECT Device, PIRP Irp) {
  PEXTENSION extension = Device->DeviceExtension;

  PoStartNextPowerIrp(Irp);
  IoSkipCurrentIrpStackLocation(Irp);
  return PoCallDriver(extension->Lower, Irp);
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
  IoInitializeRemoveLock(&extension->RemoveLock, FOREIGN_TAG, 0, 0);
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
