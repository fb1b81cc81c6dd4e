//! Drivers that the next boot may need although this one does not.
//!
//! Windows puts a boot-start driver of storage off that a boot did not need: it sets value `0` of the service's key
//! `StartOverride` to 3, and the boot loader does not load it any more. The next boot that needs it ends with
//! INACCESSIBLE_BOOT_DEVICE. That goes for Windows' own drivers while the paravirtual disks are used, and for ours while
//! the emulated ones are.

use std::io;

use bootcfg::registry::Registry;

/// The drivers of the emulated disks (AHCI, IDE, NVMe), and ours.
pub const DRIVERS: [&str; 7] = ["storahci", "pciide", "intelide", "atapi", "stornvme", "xenpci", "xenvbd"];

/// Takes a driver's override away. Whether there was one that kept it from starting at boot.
///
/// It is not on the disk when this returns. Flushed after each driver, the overrides of those that come later would get there
/// too, and a power cut in between would leave an emulated boot without its driver.
///
/// # Errors
/// The registry cannot be read or written.
pub fn clear<R: Registry + ?Sized>(registry: &R, driver: &str) -> io::Result<bool> {
    let key = format!(r"Services\{driver}\StartOverride");
    if registry.number(&key, "0")?.is_none_or(|start| start == 0) {
        return Ok(false);
    }
    registry.remove_key(&key)?;
    Ok(true)
}

/// Takes all overrides away. It is on the disk when this returns.
///
/// # Errors
/// The registry cannot be read or written.
pub fn clear_all<R: Registry + ?Sized>(registry: &R) -> io::Result<()> {
    let mut cleared = false;
    for driver in DRIVERS {
        cleared |= clear(registry, driver)?;
    }
    if cleared { registry.flush() } else { Ok(()) }
}
