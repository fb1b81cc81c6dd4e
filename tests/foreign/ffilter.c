/*
 * An upper class filter of storage adapters: it passes everything on, counts what passes, and sees the relations that
 * the adapter reports.
 */
#include <ntddk.h>

#include "foreign.h"

typedef struct _EXTENSION {
  PDEVICE_OBJECT Lower;
  IO_REMOVE_LOCK RemoveLock;
  volatile LONG Requests, Relations;
} EXTENSION, *PEXTENSION;

static NTSTATUS NTAPI Done(PDEVICE_OBJECT Device, PIRP Irp, PVOID Context) {
  PEXTENSION extension = Device->DeviceExtension;

  UNREFERENCED_PARAMETER(Context);
  if (Irp->PendingReturned) IoMarkIrpPending(Irp);
  IoReleaseRemoveLock(&extension->RemoveLock, Irp);
  return STATUS_CONTINUE_COMPLETION;
}

static NTSTATUS NTAPI Pass(PDEVICE_OBJECT Device, PIRP Irp) {
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

  if (!NT_SUCCESS(status)) return ForeignComplete(Irp, status, 0);
  InterlockedIncrement(&extension->Requests);
  IoCopyCurrentIrpStackLocationToNext(Irp);
  IoSetCompletionRoutine(Irp, Done, NULL, TRUE, TRUE, TRUE);
  return IoCallDriver(extension->Lower, Irp);
}

static NTSTATUS NTAPI Power(PDEVICE_OBJECT Device, PIRP Irp) {
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

  PoStartNextPowerIrp(Irp);
  if (!NT_SUCCESS(status)) return ForeignComplete(Irp, status, 0);
  IoSkipCurrentIrpStackLocation(Irp);
  status = PoCallDriver(extension->Lower, Irp);
  IoReleaseRemoveLock(&extension->RemoveLock, Irp);
  return status;
}

static NTSTATUS NTAPI RelationsDone(PDEVICE_OBJECT Device, PIRP Irp, PVOID Context) {
  PEXTENSION extension = Device->DeviceExtension;
  PDEVICE_RELATIONS relations = (PDEVICE_RELATIONS)Irp->IoStatus.Information;

  if (NT_SUCCESS(Irp->IoStatus.Status) && relations != NULL) {
    InterlockedExchange(&extension->Relations, (LONG)relations->Count);
    DbgPrint("ffilter: the adapter has %lu units\n", relations->Count);
  }
  return Done(Device, Irp, Context);
}

static NTSTATUS NTAPI Pnp(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
  PEXTENSION extension = Device->DeviceExtension;
  NTSTATUS status;

  if (stack->MinorFunction == IRP_MN_REMOVE_DEVICE) {
    status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);
    if (!NT_SUCCESS(status)) return ForeignComplete(Irp, status, 0);
    DbgPrint("ffilter: %ld requests passed\n", extension->Requests);
    IoReleaseRemoveLockAndWait(&extension->RemoveLock, Irp);
    IoSkipCurrentIrpStackLocation(Irp);
    status = IoCallDriver(extension->Lower, Irp);
    IoDetachDevice(extension->Lower);
    IoDeleteDevice(Device);
    return status;
  }
  if (stack->MinorFunction == IRP_MN_QUERY_DEVICE_RELATIONS &&
      stack->Parameters.QueryDeviceRelations.Type == BusRelations) {
    status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);
    if (!NT_SUCCESS(status)) return ForeignComplete(Irp, status, 0);
    IoCopyCurrentIrpStackLocationToNext(Irp);
    IoSetCompletionRoutine(Irp, RelationsDone, NULL, TRUE, TRUE, TRUE);
    return IoCallDriver(extension->Lower, Irp);
  }
  return Pass(Device, Irp);
}

static NTSTATUS NTAPI AddDevice(PDRIVER_OBJECT Driver, PDEVICE_OBJECT Pdo) {
  PDEVICE_OBJECT device;
  PEXTENSION extension;
  NTSTATUS status = IoCreateDevice(Driver, sizeof(EXTENSION), NULL, FILE_DEVICE_CONTROLLER, 0, FALSE, &device);

  if (!NT_SUCCESS(status)) return status;
  extension = device->DeviceExtension;
  RtlZeroMemory(extension, sizeof *extension);
  IoInitializeRemoveLock(&extension->RemoveLock, FOREIGN_TAG, 0, 0);
  extension->Lower = IoAttachDeviceToDeviceStack(device, Pdo);
  if (extension->Lower == NULL) {
    IoDeleteDevice(device);
    return STATUS_NO_SUCH_DEVICE;
  }
  device->DeviceType = extension->Lower->DeviceType;
  device->Characteristics = extension->Lower->Characteristics;
  device->Flags |= extension->Lower->Flags & (DO_BUFFERED_IO | DO_DIRECT_IO | DO_POWER_PAGABLE | DO_POWER_INRUSH);
  device->Flags &= ~DO_DEVICE_INITIALIZING;
  return STATUS_SUCCESS;
}

static VOID NTAPI Unload(PDRIVER_OBJECT Driver) { UNREFERENCED_PARAMETER(Driver); }

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  ULONG i;

  UNREFERENCED_PARAMETER(RegistryPath);
  for (i = 0; i <= IRP_MJ_MAXIMUM_FUNCTION; i++) Driver->MajorFunction[i] = Pass;
  Driver->MajorFunction[IRP_MJ_PNP] = Pnp;
  Driver->MajorFunction[IRP_MJ_POWER] = Power;
  Driver->DriverExtension->AddDevice = AddDevice;
  Driver->DriverUnload = Unload;
  return STATUS_SUCCESS;
}
