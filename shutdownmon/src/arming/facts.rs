//! What is known of this boot: its options, what xenhide unplugged, which devices there are and whether they work.

use std::io;

use bootcfg::Mode;
use bootcfg::registry::Registry;

use super::state;

const CONTROL: &str = "Control";
/// xenhide's note of what it did in this boot.
const STATE: &str = r"Services\xenhide\State";
/// xenpci's notes of frontends that connected and answered a read in this boot.
const WORKING: &str = r"Services\xenpci\Working";
const DISABLED: u32 = 4;
/// Bits of the mask that xenhide notes: IDE disks, network cards (`docs/misc/hvm-emulated-unplug.pandoc` in Xen's source).
const UNPLUGGED: [u32; 2] = [1 << 0, 1 << 1];
/// `XenbusStateConnected`.
const CONNECTED: &str = "4";

/// xenstore, relative to the domain's own directory. What is not there is no error.
pub trait Nodes {
    /// Names below a node.
    ///
    /// # Errors
    /// The connection is lost, or cannot be made.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// A node's text; `None` also for what is no text.
    ///
    /// # Errors
    /// The connection is lost, or cannot be made.
    fn read(&self, path: &str) -> io::Result<Option<String>>;
}

/// A paravirtual device that has, or had, an emulated twin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `device/vbd/51712`.
    pub path: String,
    /// It is connected, or was seen to work while it was withheld.
    pub works: bool,
}

/// Disks, or network cards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// xenhide may unplug them.
    pub armed: bool,
    /// Their drivers are installed, and a device of the kind has been.
    pub installed: bool,
    /// They were unplugged in this boot.
    pub unplugged: bool,
    /// Those with twins.
    pub devices: Vec<Device>,
}

impl Kind {
    /// Those that do not work.
    pub fn idle(&self) -> impl Iterator<Item = &str> {
        self.devices.iter().filter(|device| !device.works).map(|device| device.path.as_str())
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What the boot's options ask for.
    pub mode: Mode,
    /// Disks.
    pub disks: Kind,
    /// Network cards.
    pub nics: Kind,
}

impl Facts {
    /// Looks.
    ///
    /// # Errors
    /// The registry cannot be read, or xenstore not be reached.
    pub fn gather<R: Registry + ?Sized, N: Nodes + ?Sized>(registry: &R, nodes: &N) -> io::Result<Self> {
        let options = registry.text(CONTROL, "SystemStartOptions")?.unwrap_or_default();
        let mask = registry.number(STATE, "Unplugged")?.unwrap_or(0);
        let [disks, nics] = UNPLUGGED.map(|bit| mask & bit != 0);
        let [disks_armed, nics_armed] = state::armed(registry)?;
        Ok(Self {
            mode: bootcfg::options::mode(&options),
            disks: Kind {
                armed: disks_armed,
                installed: disks_installed(registry)?,
                unplugged: disks,
                devices: disk_devices(registry, nodes, disks)?,
            },
            nics: Kind {
                armed: nics_armed,
                installed: nics_installed(registry)?,
                unplugged: nics,
                devices: nic_devices(nodes, nics)?,
            },
        })
    }
}

/// Whether a driver is loaded by the boot loader, once its override is cleared.
fn starts_at_boot<R: Registry + ?Sized>(registry: &R, driver: &str) -> io::Result<bool> {
    Ok(registry.number(&format!(r"Services\{driver}"), "Start")? == Some(0))
}

fn disks_installed<R: Registry + ?Sized>(registry: &R) -> io::Result<bool> {
    Ok(starts_at_boot(registry, "xenhide")?
        && starts_at_boot(registry, "xenpci")?
        && starts_at_boot(registry, "xenvbd")?
        && registry.exists(r"Enum\XENPV\VBD&REV_01")?)
}

fn nics_installed<R: Registry + ?Sized>(registry: &R) -> io::Result<bool> {
    Ok(starts_at_boot(registry, "xenhide")?
        && starts_at_boot(registry, "xenpci")?
        && registry.number(r"Services\xennet", "Start")?.is_some_and(|start| start < DISABLED)
        && registry.exists(r"Enum\XENPV\VIF&REV_01")?)
}

/// Whether the device model gives a disk of that number an emulated twin (`docs/man/xen-vbd-interface.7.pandoc` in Xen's
/// source): hda to hdd, sda to sdd, xvda to xvdd.
fn is_twin(number: u32) -> bool {
    match number >> 8 {
        3 | 22 => true,
        8 | 202 => (number & 0xff) >> 4 < 4,
        _ => false,
    }
}

fn connected<N: Nodes + ?Sized>(nodes: &N, path: &str) -> io::Result<bool> {
    Ok(nodes.read(&format!("{path}/state"))?.as_deref() == Some(CONNECTED))
}

fn disk_devices<R: Registry + ?Sized, N: Nodes + ?Sized>(
    registry: &R,
    nodes: &N,
    unplugged: bool,
) -> io::Result<Vec<Device>> {
    let working = registry.values(WORKING)?;
    let mut devices = Vec::new();
    for name in nodes.list("device/vbd")? {
        let path = format!("device/vbd/{name}");
        // A CD-ROM drive stays emulated whatever is unplugged.
        let cdrom = nodes.read(&format!("{path}/device-type"))?.as_deref() == Some("cdrom");
        if !name.parse().is_ok_and(is_twin) || cdrom {
            continue;
        }
        let works = if unplugged {
            connected(nodes, &path)?
        } else {
            working.iter().any(|note| note.eq_ignore_ascii_case(&path))
        };
        devices.push(Device { path, works });
    }
    Ok(devices)
}

/// A card that is emulated in this boot is not started beside its twin: that it would work is not known.
fn nic_devices<N: Nodes + ?Sized>(nodes: &N, unplugged: bool) -> io::Result<Vec<Device>> {
    let mut devices = Vec::new();
    for name in nodes.list("device/vif")? {
        let path = format!("device/vif/{name}");
        let Some(backend) = nodes.read(&format!("{path}/backend"))? else { continue };
        if nodes.read(&format!("{backend}/type"))?.as_deref() != Some("vif_ioemu") {
            continue;
        }
        let works = unplugged && connected(nodes, &path)?;
        devices.push(Device { path, works });
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_four_of_each_kind_have_twins() {
        for (number, twin) in [
            (51712, true),
            (51760, true),
            (51776, false),
            (768, true),
            (832, true),
            (5632, true),
            (2048, true),
            (2096, true),
            (2112, false),
            (1 << 28 | 4 << 8, false),
        ] {
            assert_eq!(is_twin(number), twin, "{number}");
        }
    }
}
