//! Sizes and offsets of every kernel structure that this crate touches, against the documented x64 values. They hold
//! for the WDK's headers and for the ones that a Linux host builds with.

use core::mem::offset_of;

use wdk_sys::{
    CLIENT_ID, CM_FULL_RESOURCE_DESCRIPTOR, CM_PARTIAL_RESOURCE_LIST, CM_RESOURCE_LIST, DEVICE_CAPABILITIES,
    DEVICE_OBJECT, DEVICE_RELATIONS, DMA_ADAPTER, DRIVER_EXTENSION, DRIVER_OBJECT, GROUP_AFFINITY, GUID,
    IO_CONNECT_INTERRUPT_PARAMETERS, IO_DISCONNECT_INTERRUPT_PARAMETERS, IO_REMOVE_LOCK, IO_RESOURCE_LIST,
    IO_RESOURCE_REQUIREMENTS_LIST, IO_STACK_LOCATION, IO_STATUS_BLOCK, IRP, KDPC, KEVENT,
    KEY_VALUE_PARTIAL_INFORMATION, KSPIN_LOCK, KTIMER, LARGE_INTEGER, MDL, OBJECT_ATTRIBUTES, PHYSICAL_ADDRESS,
    PNP_BUS_INFORMATION, POWER_STATE, PROCESSOR_NUMBER, UNICODE_STRING,
};

macro_rules! layout {
    ($($type:ty: $size:literal { $($field:ident $(. $rest:ident)*: $offset:literal),* $(,)? })*) => {
        $(const _: () = {
            assert!(size_of::<$type>() == $size, concat!("size of ", stringify!($type)));
            $(assert!(
                offset_of!($type, $field $(. $rest)*) == $offset,
                concat!("offset of ", stringify!($type), "::", stringify!($field))
            );)*
        };)*
    };
}

layout! {
    UNICODE_STRING: 0x10 { Length: 0, MaximumLength: 2, Buffer: 8 }
    LARGE_INTEGER: 8 {}
    PHYSICAL_ADDRESS: 8 {}
    GUID: 0x10 { Data2: 4, Data3: 6, Data4: 8 }
    OBJECT_ATTRIBUTES: 0x30 { Length: 0, RootDirectory: 8, ObjectName: 0x10, Attributes: 0x18, SecurityDescriptor: 0x20 }
    CLIENT_ID: 0x10 { UniqueProcess: 0, UniqueThread: 8 }
    KSPIN_LOCK: 8 {}
    KEVENT: 0x18 {}
    KTIMER: 0x40 {}
    KDPC: 0x40 {}
    PROCESSOR_NUMBER: 4 { Group: 0, Number: 2, Reserved: 3 }
    GROUP_AFFINITY: 0x10 { Mask: 0, Group: 8 }
    MDL: 0x30 { Next: 0, Size: 8, MdlFlags: 0xa, MappedSystemVa: 0x18, StartVa: 0x20, ByteCount: 0x28, ByteOffset: 0x2c }
    IO_STATUS_BLOCK: 0x10 { Information: 8 }
    IRP: 0xd0 {
        MdlAddress: 8, Flags: 0x10, AssociatedIrp: 0x18, IoStatus: 0x30, RequestorMode: 0x40, PendingReturned: 0x41,
        StackCount: 0x42, CurrentLocation: 0x43, Cancel: 0x44, UserIosb: 0x48, UserEvent: 0x50, CancelRoutine: 0x68,
        UserBuffer: 0x70, Tail: 0x78,
    }
    IO_STACK_LOCATION: 0x48 {
        MajorFunction: 0, MinorFunction: 1, Flags: 2, Control: 3, Parameters: 8, DeviceObject: 0x28, FileObject: 0x30,
        CompletionRoutine: 0x38, Context: 0x40,
    }
    DRIVER_OBJECT: 0x150 {
        DeviceObject: 8, DriverExtension: 0x30, DriverName: 0x38, DriverInit: 0x58, DriverStartIo: 0x60,
        DriverUnload: 0x68, MajorFunction: 0x70,
    }
    DRIVER_EXTENSION: 0x28 { AddDevice: 8, ServiceKeyName: 0x18 }
    DEVICE_OBJECT: 0x150 {
        DriverObject: 8, NextDevice: 0x10, AttachedDevice: 0x18, Flags: 0x30, Characteristics: 0x34,
        DeviceExtension: 0x40, DeviceType: 0x48, StackSize: 0x4c,
    }
    DEVICE_CAPABILITIES: 0x40 {
        Size: 0, Version: 2, Address: 8, UINumber: 0xc, DeviceState: 0x10, SystemWake: 0x2c, DeviceWake: 0x30,
        D1Latency: 0x34,
    }
    DEVICE_RELATIONS: 0x10 { Count: 0, Objects: 8 }
    PNP_BUS_INFORMATION: 0x18 { BusTypeGuid: 0, LegacyBusType: 0x10, BusNumber: 0x14 }
    POWER_STATE: 4 {}
    CM_PARTIAL_RESOURCE_LIST: 0x1c { Count: 4, PartialDescriptors: 8 }
    CM_FULL_RESOURCE_DESCRIPTOR: 0x24 { InterfaceType: 0, BusNumber: 4, PartialResourceList: 8 }
    CM_RESOURCE_LIST: 0x28 { Count: 0, List: 4 }
    IO_RESOURCE_LIST: 0x28 { Version: 0, Revision: 2, Count: 4, Descriptors: 8 }
    IO_RESOURCE_REQUIREMENTS_LIST: 0x48 {
        ListSize: 0, InterfaceType: 4, BusNumber: 8, SlotNumber: 0xc, AlternativeLists: 0x1c, List: 0x20,
    }
    IO_CONNECT_INTERRUPT_PARAMETERS: 0x50 { Version: 0 }
    IO_DISCONNECT_INTERRUPT_PARAMETERS: 0x10 { Version: 0, ConnectionContext: 8 }
    IO_REMOVE_LOCK: 0x20 {}
    KEY_VALUE_PARTIAL_INFORMATION: 0x10 { TitleIndex: 0, Type: 4, DataLength: 8, Data: 0xc }
    DMA_ADAPTER: 0x10 { Version: 0, Size: 2, DmaOperations: 8 }
}
