/* What fkit.sys exports. */
#pragma once

#ifdef FKIT_BUILD
#define FKITAPI __declspec(dllexport)
#else
#define FKITAPI __declspec(dllimport)
#endif

/* How often FkitTake succeeded since the image was loaded. */
FKITAPI extern ULONG FkitTaken;

/* Zeroed nonpaged memory. IRQL <= DISPATCH_LEVEL. */
FKITAPI PVOID NTAPI FkitTake(SIZE_T Bytes);
/* Gives memory of FkitTake back. IRQL <= DISPATCH_LEVEL. */
FKITAPI VOID NTAPI FkitGive(PVOID Memory);
/* The service key that the library was initialized with. IRQL = PASSIVE_LEVEL. */
FKITAPI NTSTATUS NTAPI FkitRegistryPath(PUNICODE_STRING Path);
