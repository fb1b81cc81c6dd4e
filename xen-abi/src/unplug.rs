//! The protocol that takes QEMU's emulated disks and network cards away (`docs/misc/hvm-emulated-unplug.pandoc` in
//! Xen's source).
//!
//! Two ports, 0x10 and 0x12. A 16-bit read of 0x10 gives a magic number where the protocol exists; an 8-bit read of
//! 0x12 its version. Version 1 wants to be told the driver's product and build; if the magic is gone afterwards, that
//! driver is on the host's black list and must not continue. A 16-bit write of a mask to 0x10 unplugs.
//!
//! Pure functions over [`PortIo`]. What was unplugged stays away until the machine is reset.

/// First port: magic, mask, build number.
pub const PORT_CONTROL: u16 = 0x10;
/// Second port: version, product number. An 8-bit write is a character for the log.
pub const PORT_VERSION: u16 = 0x12;
/// What [`PORT_CONTROL`] reads where the protocol exists.
pub const MAGIC: u16 = 0x49D2;
/// Product number that Xen's registry (`hvm/pvdrivers.h`) keeps for drivers without one of their own.
pub const PRODUCT_EXPERIMENTAL: u16 = 0xFFFF;

bitflags::bitflags! {
    /// What to unplug.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Unplug: u16 {
        /// All IDE and SCSI disks. CD-ROM drives stay.
        const IDE_DISKS = 1 << 0;
        /// All network cards.
        const NICS = 1 << 1;
        /// All IDE disks but the primary master.
        const AUX_IDE_DISKS = 1 << 2;
        /// All NVMe disks.
        const NVME_DISKS = 1 << 3;
    }
}

/// Access to I/O ports. Any IRQL.
pub trait PortIo {
    /// Reads 8 bits.
    fn read_u8(&self, port: u16) -> u8;
    /// Reads 16 bits.
    fn read_u16(&self, port: u16) -> u16;
    /// Writes 16 bits.
    fn write_u16(&self, port: u16, value: u16);
    /// Writes 32 bits.
    fn write_u32(&self, port: u16, value: u32);
}

/// Why nothing may be unplugged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The magic is not there: no such protocol.
    NoProtocol,
    /// A version that nobody has described.
    UnknownVersion(u8),
    /// This product or build is on the host's black list.
    Blacklisted,
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoProtocol => f.write_str("the host has no unplug protocol"),
            Self::UnknownVersion(version) => write!(f, "the host's unplug protocol has unknown version {version}"),
            Self::Blacklisted => f.write_str("the host has these drivers on its black list"),
        }
    }
}

/// Finds the protocol and introduces the driver. Returns the protocol's version.
///
/// # Errors
/// [`Refused`]: nothing may be unplugged.
pub fn introduce<P: PortIo + ?Sized>(ports: &P, product: u16, build: u32) -> Result<u8, Refused> {
    if ports.read_u16(PORT_CONTROL) != MAGIC {
        return Err(Refused::NoProtocol);
    }
    match ports.read_u8(PORT_VERSION) {
        0 => Ok(0),
        1 => {
            ports.write_u16(PORT_VERSION, product);
            ports.write_u32(PORT_CONTROL, build);
            if ports.read_u16(PORT_CONTROL) == MAGIC { Ok(1) } else { Err(Refused::Blacklisted) }
        }
        version => Err(Refused::UnknownVersion(version)),
    }
}

/// Introduces the driver and unplugs `what`. Nothing at all is written if `what` is empty.
///
/// # Errors
/// [`Refused`]: nothing was unplugged.
pub fn unplug<P: PortIo + ?Sized>(ports: &P, product: u16, build: u32, what: Unplug) -> Result<(), Refused> {
    if what.is_empty() {
        return Ok(());
    }
    introduce(ports, product, build)?;
    ports.write_u16(PORT_CONTROL, what.bits());
    Ok(())
}
