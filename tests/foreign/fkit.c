/*
 * An export driver: it has no device, is loaded because another image imports from it, and does its work in
 * DllInitialize and DllUnload.
 * https://learn.microsoft.com/windows-hardware/drivers/kernel/creating-export-drivers
 */
#include <ntddk.h>

#define FKIT_BUILD
#include "fkit.h"
#include "foreign.h"

ULONG FkitTaken;

static NPAGED_LOOKASIDE_LIST Small;
static UNICODE_STRING Registry;
static KSPIN_LOCK Lock;
static LIST_ENTRY Outstanding;

typedef struct _BLOCK {
  LIST_ENTRY Link;
  BOOLEAN FromList;
} BLOCK, *PBLOCK;

#define SMALL_BYTES 256

NTSTATUS NTAPI DllInitialize(PUNICODE_STRING RegistryPath) {
  Registry.MaximumLength = RegistryPath->Length + sizeof(WCHAR);
  Registry.Buffer = ExAllocatePoolWithTag(PagedPool, Registry.MaximumLength, FOREIGN_TAG);
  if (Registry.Buffer == NULL) return STATUS_INSUFFICIENT_RESOURCES;
  RtlCopyUnicodeString(&Registry, RegistryPath);
  Registry.Buffer[Registry.Length / sizeof(WCHAR)] = 0;
  KeInitializeSpinLock(&Lock);
  InitializeListHead(&Outstanding);
  ExInitializeNPagedLookasideList(&Small, NULL, NULL, 0, SMALL_BYTES, FOREIGN_TAG, 0);
  DbgPrint("fkit: initialized with %wZ\n", &Registry);
  return STATUS_SUCCESS;
}

NTSTATUS NTAPI DllUnload(VOID) {
  DbgPrint("fkit: unloaded, %lu blocks were taken\n", FkitTaken);
  ExDeleteNPagedLookasideList(&Small);
  ExFreePoolWithTag(Registry.Buffer, FOREIGN_TAG);
  return STATUS_SUCCESS;
}

PVOID NTAPI FkitTake(SIZE_T Bytes) {
  PBLOCK block;
  BOOLEAN fromList = Bytes + sizeof(BLOCK) <= SMALL_BYTES;
  KIRQL old;

  if (fromList)
    block = ExAllocateFromNPagedLookasideList(&Small);
  else
    block = ExAllocatePoolWithTag(NonPagedPool, Bytes + sizeof(BLOCK), FOREIGN_TAG);
  if (block == NULL) return NULL;
  RtlZeroMemory(block, Bytes + sizeof(BLOCK));
  block->FromList = fromList;
  KeAcquireSpinLock(&Lock, &old);
  InsertTailList(&Outstanding, &block->Link);
  KeReleaseSpinLock(&Lock, old);
  InterlockedIncrement((PLONG)&FkitTaken);
  return block + 1;
}

VOID NTAPI FkitGive(PVOID Memory) {
  PBLOCK block = (PBLOCK)Memory - 1;
  KIRQL old;

  KeAcquireSpinLock(&Lock, &old);
  RemoveEntryList(&block->Link);
  KeReleaseSpinLock(&Lock, old);
  if (block->FromList)
    ExFreeToNPagedLookasideList(&Small, block);
  else
    ExFreePoolWithTag(block, FOREIGN_TAG);
}

NTSTATUS NTAPI FkitRegistryPath(PUNICODE_STRING Path) {
  *Path = Registry;
  return STATUS_SUCCESS;
}

/* The image needs an entry point; the system calls DllInitialize before it. */
NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  UNREFERENCED_PARAMETER(Driver);
  UNREFERENCED_PARAMETER(RegistryPath);
  return STATUS_SUCCESS;
}
