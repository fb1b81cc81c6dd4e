//! Booting the personality with the packages of the drivers' folder.

use std::sync::Arc;

use nt::pnp::boot::BootConfig;

/// Milliseconds that the first disk gets to appear.
const DISK_MS: u64 = 30_000;

/// Boots with the packages of the drivers' folder, with registry values (key below the control set, name, type, data)
/// and with the boot entry's options.
///
/// # Errors
/// A package that cannot be read, or no package at all.
pub fn boot(ctx: &process::Ctx, values: Vec<(String, String, u32, Vec<u8>)>, options: &str) -> anyhow::Result<()> {
    let packages = ctx.packages()?;
    anyhow::ensure!(!packages.is_empty(), "there is no driver package in {}", ctx.config().drivers.display());
    nt::pnp::boot::boot(BootConfig { packages, values, start_options: options.into(), ..BootConfig::default() })
        .map_err(|error| anyhow::anyhow!("{error}"))
}

/// Waits for the first disk.
pub fn first_disk(ctx: &process::Ctx) -> Option<Arc<nt::disk::Disk>> {
    (0..DISK_MS / 20).find_map(|_| {
        let disk = nt::disk::disks().into_iter().next();
        if disk.is_none() {
            ctx.sleep_ms(20);
        }
        disk
    })
}
