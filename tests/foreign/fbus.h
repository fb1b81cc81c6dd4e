/* What fbus.sys offers its children by IRP_MN_QUERY_INTERFACE, and how clients find the bus. */
#pragma once

/* {6b0c4f9e-3d52-4c0a-9a7e-51f2a6f0b101} */
DEFINE_GUID(GUID_FBUS_INTERFACE, 0x6b0c4f9e, 0x3d52, 0x4c0a, 0x9a, 0x7e, 0x51, 0xf2, 0xa6, 0xf0, 0xb1, 0x01);
/* {6b0c4f9e-3d52-4c0a-9a7e-51f2a6f0b102}: the device interface of a function device. */
DEFINE_GUID(GUID_FFUNC_DEVICE, 0x6b0c4f9e, 0x3d52, 0x4c0a, 0x9a, 0x7e, 0x51, 0xf2, 0xa6, 0xf0, 0xb1, 0x02);
/* {6b0c4f9e-3d52-4c0a-9a7e-51f2a6f0b103}: the bus type. */
DEFINE_GUID(GUID_FBUS_TYPE, 0x6b0c4f9e, 0x3d52, 0x4c0a, 0x9a, 0x7e, 0x51, 0xf2, 0xa6, 0xf0, 0xb1, 0x03);

#define FBUS_INTERFACE_VERSION 1

typedef struct _FBUS_INTERFACE {
  INTERFACE Header;
  /* The child's number. Any IRQL. */
  ULONG(NTAPI *Number)(PVOID Context);
} FBUS_INTERFACE, *PFBUS_INTERFACE;
