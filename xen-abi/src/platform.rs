//! The Xen platform PCI device that QEMU offers to HVM guests (`docs/misc/hvm-emulated-unplug.pandoc` and QEMU's
//! `hw/i386/xen/xen_platform.c`).

/// PCI vendor: XenSource.
pub const VENDOR: u16 = 0x5853;
/// PCI device: the platform device.
pub const DEVICE: u16 = 0x0001;
/// PCI device: the platform device under a number that no other vendor's inbox driver claims.
pub const DEVICE_XENSERVER: u16 = 0x0002;
/// PCI class code of QEMU's device: unassigned class, subclass 0x80.
pub const CLASS: u32 = 0xFF_8000;
/// BAR with I/O ports.
pub const IO_BAR: u8 = 0;
/// Bytes of it.
pub const IO_BAR_SIZE: u32 = 0x100;
/// BAR with memory.
pub const MEMORY_BAR: u8 = 1;
/// Bytes of it. There is no memory behind it: guest frames for Xen's pages.
pub const MEMORY_BAR_SIZE: u32 = 0x100_0000;
