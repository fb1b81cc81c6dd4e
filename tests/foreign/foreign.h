/*
 * What the foreign drivers share: how a driver counts its own checks, and the control codes by which a client asks for
 * the result. These drivers are written in C against mingw-w64's headers, so that the NT personality is not judged by
 * drivers of its own house alone.
 */
#pragma once

#define FOREIGN_TAG 'nroF'

/* Runs the driver's checks. Output: FOREIGN_RESULT. */
#define IOCTL_FOREIGN_RUN CTL_CODE(0x8000, 0x800, METHOD_BUFFERED, FILE_ANY_ACCESS)
/* fbus: adds a child. Input: its number, a ULONG. */
#define IOCTL_FOREIGN_PLUG CTL_CODE(0x8000, 0x801, METHOD_BUFFERED, FILE_ANY_ACCESS)
/* fbus: takes a child away without asking. Input: its number, a ULONG. */
#define IOCTL_FOREIGN_UNPLUG CTL_CODE(0x8000, 0x802, METHOD_BUFFERED, FILE_ANY_ACCESS)
/* fbus: asks the system to eject a child. Input: its number, a ULONG. */
#define IOCTL_FOREIGN_EJECT CTL_CODE(0x8000, 0x803, METHOD_BUFFERED, FILE_ANY_ACCESS)
/* ffunc: stays pending until it is cancelled or released. */
#define IOCTL_FOREIGN_PEND CTL_CODE(0x8000, 0x804, METHOD_BUFFERED, FILE_ANY_ACCESS)
/* ffunc: completes every pending request. Output: how many, a ULONG. */
#define IOCTL_FOREIGN_RELEASE CTL_CODE(0x8000, 0x805, METHOD_BUFFERED, FILE_ANY_ACCESS)

typedef struct _FOREIGN_RESULT {
  /* Checks made. */
  ULONG Checks;
  /* Checks that did not hold. */
  ULONG Failed;
  /* The source line of the first that did not hold. */
  ULONG FirstLine;
} FOREIGN_RESULT, *PFOREIGN_RESULT;

/* Counts a check and says which one did not hold. `result` is a PFOREIGN_RESULT. */
#define CHECK(result, condition)                                                        \
  do {                                                                                  \
    (result)->Checks++;                                                                 \
    if (!(condition)) {                                                                 \
      DbgPrint("%s:%d does not hold: %s\n", __FILE_NAME__, __LINE__, #condition);       \
      if ((result)->Failed++ == 0) (result)->FirstLine = __LINE__;                      \
    }                                                                                   \
  } while (0)

static __inline NTSTATUS ForeignComplete(PIRP Irp, NTSTATUS Status, ULONG_PTR Information) {
  Irp->IoStatus.Status = Status;
  Irp->IoStatus.Information = Information;
  IoCompleteRequest(Irp, IO_NO_INCREMENT);
  return Status;
}
