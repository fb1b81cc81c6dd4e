//! The boot: packages, registry, drivers in their order, devices.
//!
//! Boot-start drivers are initialized in the order of their groups (`Control\ServiceGroupOrder`) and tags
//! (`Control\GroupOrderList`), then devices are enumerated, then system-start drivers follow.
//! <https://learn.microsoft.com/windows-hardware/drivers/install/specifying-driver-load-order>
use crate::inf::install::{CONTROL_SET, Package};
use crate::inf::models::best_match;
use crate::inf::parse::InfError;
use crate::io::kernel::{note, now};
use crate::pnp::{self, start::load_service};
use crate::reg::{self, hive};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The order of groups that Windows 10 has, as far as kernel drivers of devices use it.
const GROUPS: [&str; 26] = [
    "System Reserved",
    "EMS",
    "WdfLoadGroup",
    "Boot Bus Extender",
    "System Bus Extender",
    "SCSI miniport",
    "Port",
    "Primary Disk",
    "SCSI Class",
    "SCSI CDROM Class",
    "FSFilter Infrastructure",
    "FSFilter System",
    "FSFilter Bottom",
    "Filter",
    "Boot File System",
    "Base",
    "Pointer Port",
    "Keyboard Port",
    "Pointer Class",
    "Keyboard Class",
    "Video Init",
    "Video",
    "File System",
    "NDIS",
    "Extended Base",
    "Network",
];

/// What to boot with.
#[derive(Debug, Default)]
pub struct BootConfig {
    /// What an earlier boot left on the disk ([`reg::persistent`]). None: a new machine.
    pub registry: Option<String>,
    /// Packages to install from, in the order they are tried for `[DefaultInstall]`.
    pub packages: Vec<Package>,
    /// Registry values to set before any driver runs: key below the control set, name, type, data.
    pub values: Vec<(String, String, u32, Vec<u8>)>,
    /// `SystemStartOptions`: the options of the boot entry, as in ` NOEXECUTE=OPTIN NOGPLPV`.
    pub start_options: String,
    /// Finds the boot volume, once the boot-start drivers have found their devices. Where it finds none the boot ends, as
    /// Windows' does with INACCESSIBLE_BOOT_DEVICE, before the hive becomes writable. `None`: the volume is not looked for.
    /// <https://learn.microsoft.com/windows-hardware/drivers/debugger/bug-check-0x7b--inaccessible-boot-device>
    pub boot_volume: Option<fn() -> bool>,
}

/// Why a boot could not begin.
#[derive(Debug)]
pub enum BootError {
    /// The registry text is damaged, at that line.
    Registry(usize),
    /// A package's `[DefaultInstall]` cannot be carried out.
    Package(String, InfError),
    /// [`BootConfig::boot_volume`] found none.
    InaccessibleBootDevice,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(line) => write!(f, "the registry cannot be read, line {line}"),
            Self::Package(name, error) => write!(f, "{name}: {error}"),
            Self::InaccessibleBootDevice => f.write_str("INACCESSIBLE_BOOT_DEVICE"),
        }
    }
}

impl core::error::Error for BootError {}

fn defaults(config: &BootConfig) {
    reg::with(|registry| {
        let mut set = |path: &str, name: &str, kind: u32, data: Vec<u8>, keep: bool| {
            let Ok(key) = registry.create_path(&alloc::format!(r"{CONTROL_SET}\{path}"), now()) else { return };
            if !keep || registry.value(key, name).is_err() {
                let _ = registry.set_value(key, name, kind, data, now());
            }
        };
        set(r"Control\ServiceGroupOrder", "List", hive::REG_MULTI_SZ, hive::multi_sz(&GROUPS), true);
        let mut options = config.start_options.split_ascii_whitespace();
        if let Some(kind) = options.find_map(|option| option.strip_prefix("SAFEBOOT:")) {
            let mode = match kind {
                "NETWORK" => 2,
                "DSREPAIR" => 3,
                _ => 1,
            };
            // SAFETY: no driver runs yet that could read it.
            unsafe { crate::ke::InitSafeBootMode = mode };
        }
        set("Control", "SystemStartOptions", hive::REG_SZ, hive::sz(&config.start_options), false);
        for (key, name, kind, data) in &config.values {
            set(key, name, *kind, data.clone(), false);
        }
    });
}

/// A service as the load order sees it.
struct Service {
    name: String,
    group: usize,
    tag: usize,
}

fn dword(registry: &hive::Hive, key: hive::KeyId, name: &str) -> Option<u32> {
    let value = registry.value(key, name).ok()?;
    Some(u32::from_le_bytes(value.data.get(..4)?.try_into().ok()?))
}

/// The kernel drivers with that start type, in their order.
fn services(start: u32) -> Vec<String> {
    const SERVICE_KERNEL_DRIVER: u32 = 1;
    reg::with(|registry| {
        let open = |path: &str| registry.open(None, &alloc::format!(r"{CONTROL_SET}\{path}"));
        let groups = open(r"Control\ServiceGroupOrder")
            .and_then(|key| registry.value(key, "List").map(|v| hive::multi_sz_list(&v.data)))
            .unwrap_or_default();
        let orders = open(r"Control\GroupOrderList").ok();
        let Ok(root) = open("Services") else { return Vec::new() };
        let mut found = Vec::new();
        for name in registry.subkeys(root).unwrap_or_default() {
            let Ok(key) = registry.open(Some(root), &name) else { continue };
            let kind = dword(registry, key, "Type").unwrap_or(0);
            if kind & SERVICE_KERNEL_DRIVER == 0 || dword(registry, key, "Start") != Some(start) {
                continue;
            }
            let group = registry.value(key, "Group").map(|v| hive::sz_text(&v.data)).unwrap_or_default();
            let place = groups.iter().position(|g| g.eq_ignore_ascii_case(&group)).unwrap_or(groups.len());
            let tag = dword(registry, key, "Tag").and_then(|tag| {
                let order = registry.value(orders?, &group).ok()?;
                let mut tags = order.data.chunks_exact(4).skip(1);
                tags.position(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]) == tag)
            });
            found.push(Service { name, group: place, tag: tag.unwrap_or(usize::MAX) });
        }
        // Services without a group come last, those without a tag last in their group.
        found.sort_by_key(|s| (s.group, s.tag));
        found.into_iter().map(|s| s.name).collect()
    })
}

/// A driver that a device needs is loaded when the device is found; one that no device needs is loaded here.
fn load_all(start: u32) {
    for service in services(start) {
        if let Err(status) = load_service(&service) {
            note(format_args!("boot: the driver {service} did not load: {status:#x}"));
        }
    }
}

/// Boots: after [`crate::ke::start`], on a system thread at PASSIVE_LEVEL, once. Comes back when all devices that there
/// are have been found and started. The hive becomes writable at the very end, as in Windows.
///
/// # Errors
/// The registry or a package is damaged, or the boot volume is not found. Drivers and devices that do not work are no error: [`pnp::tree`] tells.
pub fn boot(config: BootConfig) -> Result<(), BootError> {
    if let Some(text) = &config.registry {
        reg::load(text).map_err(BootError::Registry)?;
    }
    defaults(&config);
    crate::io::init();
    pnp::init();
    if let Err(status) = crate::disk::register() {
        note(format_args!("boot: the disk class driver cannot be made: {status:#x}"));
    }
    let no_image: alloc::sync::Arc<[u8]> = alloc::sync::Arc::from([].as_slice());
    let disk = Package::new("disk.inf", crate::disk::INF.as_bytes(), [(String::from("disk.sys"), no_image)])
        .map_err(|error| BootError::Package(String::from("disk.inf"), error))?;
    pnp::with_library(|library| {
        library.store.add(disk);
        for package in config.packages {
            library.store.add(package);
        }
        for index in 0..library.store.packages().len() {
            let name = library.store.packages()[index].name.clone();
            let done = reg::with(|registry| library.store.install_default(index, registry, &mut library.files, now()));
            done.map_err(|error| BootError::Package(name, error))?;
        }
        Ok(())
    })?;
    // The images of drivers that an earlier boot installed are in their packages again.
    reinstall_files();
    load_all(0);
    crate::io::driver::reinitialize(false);
    pnp::call(|| {
        pnp::root::init();
        pnp::pci::init();
        pnp::root::make_devices();
    });
    pnp::settle();
    crate::io::driver::reinitialize(true);
    if config.boot_volume.is_some_and(|find| !find()) {
        return Err(BootError::InaccessibleBootDevice);
    }
    load_all(1);
    crate::io::driver::reinitialize(false);
    pnp::settle();
    reg::make_writable();
    Ok(())
}

/// Puts the images that services name into the system volume where it lacks them: the registry of an earlier boot
/// survives in this process, the volume does not.
fn reinstall_files() {
    let images: Vec<String> = reg::with(|registry| {
        let Ok(root) = registry.open(None, &alloc::format!(r"{CONTROL_SET}\Services")) else { return Vec::new() };
        let names = registry.subkeys(root).unwrap_or_default();
        let image = |name: String| {
            let key = registry.open(Some(root), &name).ok()?;
            registry.value(key, "ImagePath").ok().map(|v| hive::sz_text(&v.data))
        };
        names.into_iter().filter_map(image).collect()
    });
    pnp::with_library(|library| {
        for image in images {
            if library.files.read(&image).is_some() {
                continue;
            }
            let file = image.rsplit('\\').next().unwrap_or("").to_ascii_lowercase();
            // Two versions of a package have an image of that name.
            let (own, others): (Vec<&Package>, Vec<&Package>) =
                library.store.packages().iter().partition(|p| image.starts_with(&p.store_folder()));
            let content = own.into_iter().chain(others).find_map(|p| p.files.get(&file).cloned());
            if let Some(content) = content {
                library.files.write(&image, content);
            }
        }
    });
}

/// Adds a package to a running system and offers it to the devices that have no driver.
///
/// # Errors
/// Its `[DefaultInstall]` cannot be carried out.
pub fn add_package(package: Package) -> Result<(), BootError> {
    let name = package.name.clone();
    pnp::with_library(|library| {
        library.store.add(package);
        let index = library.store.packages().len() - 1;
        let done = reg::with(|registry| library.store.install_default(index, registry, &mut library.files, now()));
        done.map(|_| ()).map_err(|error| BootError::Package(name, error))
    })?;
    let waiting: Vec<pnp::NodeId> =
        pnp::tree().into_iter().filter(|n| n.problem == Some(pnp::Problem::NotConfigured)).map(|n| n.id).collect();
    for id in waiting {
        let _ = pnp::control::enable(id);
    }
    pnp::call(pnp::root::make_devices);
    pnp::settle();
    Ok(())
}

/// Adds a package to a running system and puts it onto every device that it fits, whatever drives that now: an update, or the
/// Device Manager's "Roll Back Driver". The devices go on as they are until Windows starts next, as those do that Windows runs
/// from. How many they are.
/// <https://learn.microsoft.com/windows/win32/api/newdev/nf-newdev-dirollbackdriver>
///
/// # Errors
/// It cannot be installed.
pub fn replace_drivers(package: Package) -> Result<usize, BootError> {
    let name = package.name.clone();
    let fits = |node: &mut pnp::Node| {
        let found = best_match(&package.inf, &node.hardware_ids, &node.compatible_ids)?;
        Some((node.instance.clone(), found))
    };
    let devices: Vec<_> = pnp::tree().iter().filter_map(|node| pnp::with_node(node.id, fits).flatten()).collect();
    pnp::with_library(|library| {
        library.store.add(package);
        let index = library.store.packages().len() - 1;
        for (instance, found) in &devices {
            reg::with(|registry| {
                library.store.install_device(index, found, instance, registry, &mut library.files, now())
            })
            .map_err(|error| BootError::Package(name.clone(), error))?;
        }
        Ok(devices.len())
    })
}
