/*
 * Structured exception handling: faults, raised statuses, filters that decline, continue and handle, and termination
 * handlers. A legacy driver without a device of PnP; its checks run on request. Told to, it leaves an exception to nobody, or
 * breaks a rule, some calls deep.
 * https://learn.microsoft.com/windows-hardware/drivers/kernel/handling-exceptions
 */
#include <ntifs.h>

NTSYSAPI VOID NTAPI RtlRaiseException(PEXCEPTION_RECORD ExceptionRecord);

#include "foreign.h"

/* Breaks something. Input: a ULONG, one of the numbers below. */
#define IOCTL_FOREIGN_BREAK CTL_CODE(0x8000, 0x806, METHOD_BUFFERED, FILE_ANY_ACCESS)
/* By a read of nothing that no handler takes; by an export that is called above its IRQL; by a write to its own .rdata; by a
 * call into its own .data. Windows offers the last two to no handler: bug checks 0xbe and 0xfc. */
enum { READ_NOTHING, CALL_TOO_HIGH, WRITE_CONSTANT, RUN_DATA };

/* Clang tracks exceptions at calls only, so whatever may fault is a function of its own. */
#define FAULTS __declspec(noinline) static

static const UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(L"\\Device\\ForeignSeh");
static volatile LONG Zero;
static volatile LONG Order;
static volatile UCHAR Bytes[16] = {1};

FAULTS LONG ReadFrom(volatile LONG *Address) { return *Address; }

FAULTS VOID WriteTo(volatile LONG *Address) { *Address = 1; }

/* A call that is not its last act. */
FAULTS LONG RunAt(volatile UCHAR *Code) {
  ((VOID(NTAPI *)(VOID))(ULONG_PTR)Code)();
  return Code[0];
}

FAULTS LONG Divide(LONG Dividend, volatile LONG *Divisor) { return Dividend / *Divisor; }

FAULTS VOID Raise(NTSTATUS Status) { ExRaiseStatus(Status); }

FAULTS VOID RaiseRecord(NTSTATUS Status, ULONG Flags, ULONG_PTR First) {
  EXCEPTION_RECORD record;

  RtlZeroMemory(&record, sizeof record);
  record.ExceptionCode = Status;
  record.ExceptionFlags = Flags;
  record.NumberParameters = 1;
  record.ExceptionInformation[0] = First;
  RtlRaiseException(&record);
}

/* Records that it ran as number `step`, then answers. */
static LONG Step(LONG Step, LONG Answer) {
  if (InterlockedIncrement(&Order) != Step) Order = -1000;
  return Answer;
}

static LONG FaultFilter(PEXCEPTION_POINTERS Pointers, ULONG_PTR Access, PVOID Address) {
  PEXCEPTION_RECORD record = Pointers->ExceptionRecord;

  if (record->ExceptionCode != STATUS_ACCESS_VIOLATION || record->NumberParameters < 2) return EXCEPTION_CONTINUE_SEARCH;
  if (record->ExceptionInformation[0] != Access) return EXCEPTION_CONTINUE_SEARCH;
  if (record->ExceptionInformation[1] != (ULONG_PTR)Address) return EXCEPTION_CONTINUE_SEARCH;
  if (Pointers->ContextRecord->Rip != (ULONG64)record->ExceptionAddress) return EXCEPTION_CONTINUE_SEARCH;
  return EXCEPTION_EXECUTE_HANDLER;
}

static VOID CheckFaults(PFOREIGN_RESULT Result) {
  volatile LONG *nowhere = (volatile LONG *)0x10;
  volatile BOOLEAN caught = FALSE;

  __try {
    ReadFrom(nowhere);
  } __except (FaultFilter(GetExceptionInformation(), 0, (PVOID)nowhere)) {
    caught = TRUE;
  }
  CHECK(Result, caught);
  caught = FALSE;
  __try {
    WriteTo(nowhere);
  } __except (FaultFilter(GetExceptionInformation(), 1, (PVOID)nowhere)) {
    caught = TRUE;
  }
  CHECK(Result, caught);
  caught = FALSE;
  __try {
    Order = Divide(7, &Zero);
  } __except (GetExceptionCode() == STATUS_INTEGER_DIVIDE_BY_ZERO ? EXCEPTION_EXECUTE_HANDLER : EXCEPTION_CONTINUE_SEARCH) {
    caught = TRUE;
  }
  CHECK(Result, caught);
}

static VOID CheckOrder(PFOREIGN_RESULT Result) {
  volatile LONG handled = 0;

  /* Filters of all frames run before the first termination handler does. */
  Order = 0;
  __try {
    __try {
      __try {
        Raise(STATUS_DEVICE_BUSY);
      } __finally {
        Step(3, 0);
        CHECK(Result, AbnormalTermination());
      }
    } __except (Step(1, EXCEPTION_CONTINUE_SEARCH)) {
      handled = 1;
    }
  } __except (Step(2, EXCEPTION_EXECUTE_HANDLER)) {
    handled = 2;
    Step(4, 0);
    CHECK(Result, GetExceptionCode() == STATUS_DEVICE_BUSY);
  }
  CHECK(Result, handled == 2);
  CHECK(Result, Order == 4);

  /* Without an exception a termination handler runs as plain code does. */
  Order = 0;
  __try {
    Step(1, 0);
    __leave;
  } __finally {
    Step(2, 0);
    CHECK(Result, !AbnormalTermination());
  }
  CHECK(Result, Order == 2);
}

static VOID CheckRaised(PFOREIGN_RESULT Result) {
  volatile BOOLEAN after = FALSE, caught = FALSE;
  volatile ULONG_PTR parameter = 0;

  /* A continuable exception that the filter takes back. */
  __try {
    RaiseRecord(STATUS_DEVICE_NOT_READY, 0, 5);
    after = TRUE;
  } __except (parameter = (GetExceptionInformation())->ExceptionRecord->ExceptionInformation[0],
              EXCEPTION_CONTINUE_EXECUTION) {
    caught = TRUE;
  }
  CHECK(Result, after && !caught && parameter == 5);

  /* One that is raised while another is handled. */
  after = caught = FALSE;
  __try {
    __try {
      Raise(STATUS_NO_MEMORY);
    } __except (EXCEPTION_EXECUTE_HANDLER) {
      after = GetExceptionCode() == STATUS_NO_MEMORY;
      Raise(STATUS_DISK_FULL);
    }
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    caught = GetExceptionCode() == STATUS_DISK_FULL;
  }
  CHECK(Result, after && caught);
}

static VOID CheckSystemRaises(PFOREIGN_RESULT Result) {
  volatile NTSTATUS code = STATUS_SUCCESS;
  PMDL mdl;

  __try {
    ProbeForRead((PVOID)0x10001, 4, 4);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    code = GetExceptionCode();
  }
  CHECK(Result, code == STATUS_DATATYPE_MISALIGNMENT);
  code = STATUS_SUCCESS;
  __try {
    ProbeForRead((PVOID)0xFFFF800000000000, 16, 1);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    code = GetExceptionCode();
  }
  CHECK(Result, code == STATUS_ACCESS_VIOLATION);
  code = STATUS_SUCCESS;
  mdl = IoAllocateMdl((PVOID)0x10000, PAGE_SIZE, FALSE, FALSE, NULL);
  CHECK(Result, mdl != NULL);
  if (mdl == NULL) return;
  __try {
    MmProbeAndLockPages(mdl, KernelMode, IoReadAccess);
    MmUnlockPages(mdl);
  } __except (EXCEPTION_EXECUTE_HANDLER) {
    code = GetExceptionCode();
  }
  CHECK(Result, code == STATUS_ACCESS_VIOLATION);
  IoFreeMdl(mdl);
}

/* Deep enough for the unwinder to cross frames with saved registers, large locals and none. */
__declspec(noinline) static ULONG Descend(ULONG Depth, PFOREIGN_RESULT Result) {
  volatile UCHAR large[600];
  volatile ULONG sum = 0;

  large[Depth % sizeof large] = (UCHAR)Depth;
  __try {
    if (Depth == 0)
      Raise(STATUS_CANCELLED);
    else
      sum = Descend(Depth - 1, Result);
  } __finally {
    sum += large[Depth % sizeof large];
    InterlockedExchangeAdd(&Order, (LONG)sum);
  }
  return sum;
}

static VOID CheckDepth(PFOREIGN_RESULT Result) {
  volatile BOOLEAN caught = FALSE;

  Order = 0;
  __try {
    Descend(10, Result);
  } __except (GetExceptionCode() == STATUS_CANCELLED) {
    caught = TRUE;
  }
  CHECK(Result, caught);
  CHECK(Result, Order == 55);
}

/* What stands behind each of these calls keeps it from being the caller's last act: all of them are on the stack. */
FAULTS LONG Innermost(ULONG How) {
  LARGE_INTEGER interval;
  KIRQL old;

  if (How == READ_NOTHING) return ReadFrom((volatile LONG *)0x10) + 1;
  if (How == WRITE_CONSTANT) {
    WriteTo((volatile LONG *)(ULONG_PTR)&DeviceName);
    return DeviceName.Length;
  }
  if (How == RUN_DATA) {
    Bytes[0] = 0xc3; /* ret */
    return RunAt(Bytes) + 1;
  }
  interval.QuadPart = -1;
  KeRaiseIrql(DISPATCH_LEVEL, &old);
  KeDelayExecutionThread(KernelMode, FALSE, &interval);
  KeLowerIrql(old);
  return 1;
}

/* Its handler is asked, and declines; the faults that are offered to nobody it would take. */
FAULTS LONG Middle(ULONG How) {
  volatile LONG value = 0;

  __try {
    value = Innermost(How);
  } __except (How >= WRITE_CONSTANT || GetExceptionCode() == STATUS_CANCELLED) {
    value = -1;
  }
  return value;
}

FAULTS LONG Outermost(ULONG How) { return Middle(How) + 1; }

static VOID RunAll(PFOREIGN_RESULT Result) {
  RtlZeroMemory(Result, sizeof *Result);
  CheckFaults(Result);
  CheckOrder(Result);
  CheckRaised(Result);
  CheckSystemRaises(Result);
  CheckDepth(Result);
}

static NTSTATUS NTAPI OpenClose(PDEVICE_OBJECT Device, PIRP Irp) {
  UNREFERENCED_PARAMETER(Device);
  return ForeignComplete(Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI Control(PDEVICE_OBJECT Device, PIRP Irp) {
  PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);

  UNREFERENCED_PARAMETER(Device);
  if (stack->Parameters.DeviceIoControl.IoControlCode == IOCTL_FOREIGN_BREAK &&
      stack->Parameters.DeviceIoControl.InputBufferLength >= sizeof(ULONG)) {
    DbgPrint("fseh: nobody minded, %ld\n", Outermost(*(PULONG)Irp->AssociatedIrp.SystemBuffer));
    return ForeignComplete(Irp, STATUS_SUCCESS, 0);
  }
  if (stack->Parameters.DeviceIoControl.IoControlCode != IOCTL_FOREIGN_RUN)
    return ForeignComplete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
  if (stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(FOREIGN_RESULT))
    return ForeignComplete(Irp, STATUS_BUFFER_TOO_SMALL, 0);
  RunAll(Irp->AssociatedIrp.SystemBuffer);
  return ForeignComplete(Irp, STATUS_SUCCESS, sizeof(FOREIGN_RESULT));
}

static VOID NTAPI Unload(PDRIVER_OBJECT Driver) { IoDeleteDevice(Driver->DeviceObject); }

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT Driver, PUNICODE_STRING RegistryPath) {
  PDEVICE_OBJECT device;

  UNREFERENCED_PARAMETER(RegistryPath);
  Driver->DriverUnload = Unload;
  Driver->MajorFunction[IRP_MJ_CREATE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLEANUP] = OpenClose;
  Driver->MajorFunction[IRP_MJ_CLOSE] = OpenClose;
  Driver->MajorFunction[IRP_MJ_DEVICE_CONTROL] = Control;
  return IoCreateDevice(Driver, 0, (PUNICODE_STRING)&DeviceName, FILE_DEVICE_UNKNOWN, 0, FALSE, &device);
}
