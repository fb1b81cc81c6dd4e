//! Which devices the store lists below `device/`, and what Windows is told of each.
//!
//! The names come from the store, which the toolstack and other guests' backends fill: they are checked before they
//! become part of a path, a hardware id or an instance id.

use alloc::vec::Vec;
use core::fmt::Write as _;

/// The prefix of our bus in hardware ids: no other vendor's driver matches it.
pub const BUS_PREFIX: &str = "XENPV";
/// Revision of the interface between bus and child, in the hardware ids. A new one is put before this one, never in its
/// place, so that an older child's INF still matches.
pub const REVISION: &str = "REV_01";
/// Longest class name or device id that is taken.
pub const NAME_MAX: usize = 16;
/// Most devices that are taken, of all classes. A guest has far fewer; the bound keeps a flood out.
pub const DEVICES_MAX: usize = 512;

/// A fixed-size ASCII text, for names and ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Text<N> {
    /// Nothing.
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The text. Only ASCII goes in.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> core::fmt::Write for Text<N> {
    /// Fails, and adds nothing, if the text does not fit or is not ASCII.
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let start = usize::from(self.len);
        let end = start + text.len();
        if end > N.min(usize::from(u8::MAX)) || !text.is_ascii() {
            return Err(core::fmt::Error);
        }
        self.bytes[start..end].copy_from_slice(text.as_bytes());
        self.len = end as u8;
        Ok(())
    }
}

impl<const N: usize> core::fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> core::fmt::Display for Text<N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A device: `device/<class>/<id>` in the store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DeviceName {
    class: Text<NAME_MAX>,
    id: Text<NAME_MAX>,
}

impl DeviceName {
    /// Checks both names. A class is 1 to 16 lower-case letters, digits or `_`, a letter first; an id is a decimal
    /// number below 2^32 as the toolstack writes it, without leading zeroes. `None` for anything else.
    pub fn new(class: &[u8], id: &[u8]) -> Option<Self> {
        let class_good = class.first().is_some_and(u8::is_ascii_lowercase)
            && class.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_');
        let id_good = !id.is_empty()
            && id.iter().all(u8::is_ascii_digit)
            && (id.len() == 1 || id[0] != b'0')
            && core::str::from_utf8(id).is_ok_and(|id| id.parse::<u32>().is_ok());
        if !class_good || !id_good {
            return None;
        }
        Some(Self { class: text(class)?, id: text(id)? })
    }

    /// The class: `vbd`, `vif`.
    pub fn class(&self) -> &str {
        self.class.as_str()
    }

    /// The id within the class.
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// The frontend's directory, relative to the domain's home: `device/vbd/51712`.
    pub fn path(&self) -> Text<64> {
        format(format_args!("device/{}/{}", self.class, self.id))
    }

    /// `BusQueryDeviceID`: `XENPV\VBD&REV_01`.
    pub fn device_id(&self) -> Text<64> {
        format(format_args!("{BUS_PREFIX}\\{}&{REVISION}", self.upper_class()))
    }

    /// `BusQueryHardwareIDs`, the most specific first. Windows wants each with a NUL and another NUL at the end; that
    /// is the caller's.
    pub fn hardware_ids(&self) -> [Text<64>; 2] {
        [self.device_id(), format(format_args!("{BUS_PREFIX}\\{}", self.upper_class()))]
    }

    /// `BusQueryCompatibleIDs`: one for everything on this bus.
    pub fn compatible_ids(&self) -> [Text<64>; 1] {
        [format(format_args!("{BUS_PREFIX}\\DEVICE"))]
    }

    /// `BusQueryInstanceID`: the toolstack's own number, so that a device is the same one after a reboot, a migration
    /// and an upgrade. Unique on this bus within its device id.
    pub fn instance_id(&self) -> Text<NAME_MAX> {
        self.id
    }

    /// `DeviceTextDescription`.
    pub fn description(&self) -> Text<64> {
        let what = match self.class() {
            "vbd" => "block device",
            "vif" => "network device",
            "vfb" => "frame buffer",
            "vkbd" => "keyboard and pointer",
            "console" => "console",
            "vscsi" => "SCSI host",
            "vusb" => "USB host",
            "9pfs" => "file system",
            other => other,
        };
        format(format_args!("Xen PV {what} {}", self.id))
    }

    fn upper_class(&self) -> Text<NAME_MAX> {
        let mut upper = self.class;
        upper.bytes.make_ascii_uppercase();
        upper
    }
}

impl core::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "device/{}/{}", self.class, self.id)
    }
}

fn text<const N: usize>(bytes: &[u8]) -> Option<Text<N>> {
    let mut out = Text::new();
    out.write_str(core::str::from_utf8(bytes).ok()?).ok()?;
    Some(out)
}

/// Everything formatted here is shorter than 64 bytes: the prefix, and two names of at most [`NAME_MAX`].
fn format(args: core::fmt::Arguments<'_>) -> Text<64> {
    let mut out = Text::new();
    // Cannot fail, see above; a text that is cut short would be the mildest way if it did.
    let _ = out.write_fmt(args);
    out
}

/// What changed between the children that Windows knows and what the store lists.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Listed and not known: make a PDO.
    pub arrived: Vec<DeviceName>,
    /// Known and not listed any more: report the PDO missing.
    pub gone: Vec<DeviceName>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.gone.is_empty()
    }
}

/// There is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// Collects what the store lists.
#[derive(Debug, Default)]
pub struct Listing {
    devices: Vec<DeviceName>,
    refused: u32,
}

impl Listing {
    /// Empty.
    pub const fn new() -> Self {
        Self { devices: Vec::new(), refused: 0 }
    }

    /// Adds a name of the directory `device/<class>`. One that is not valid, or is beyond [`DEVICES_MAX`], is counted
    /// and left out; one that is there already is left out.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn add(&mut self, class: &[u8], id: &[u8]) -> Result<(), NoMemory> {
        let Some(device) = DeviceName::new(class, id).filter(|_| self.devices.len() < DEVICES_MAX) else {
            self.refused = self.refused.saturating_add(1);
            return Ok(());
        };
        if let Err(place) = self.devices.binary_search(&device) {
            self.devices.try_reserve(1).map_err(|_| NoMemory)?;
            self.devices.insert(place, device);
        }
        Ok(())
    }

    /// The devices, sorted.
    pub fn devices(&self) -> &[DeviceName] {
        &self.devices
    }

    /// Names that were left out. Worth a log line.
    pub fn refused(&self) -> u32 {
        self.refused
    }

    /// Compares with the children that are known.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn changes<'a>(&self, known: impl Iterator<Item = &'a DeviceName> + Clone) -> Result<Changes, NoMemory> {
        let mut changes = Changes::default();
        for device in &self.devices {
            if !known.clone().any(|child| child == device) {
                changes.arrived.try_reserve(1).map_err(|_| NoMemory)?;
                changes.arrived.push(*device);
            }
        }
        for child in known {
            if self.devices.binary_search(child).is_err() {
                changes.gone.try_reserve(1).map_err(|_| NoMemory)?;
                changes.gone.push(*child);
            }
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_its_names() {
        let disk = DeviceName::new(b"vbd", b"51712").unwrap();
        assert_eq!(disk.path().as_str(), "device/vbd/51712");
        assert_eq!(disk.device_id().as_str(), "XENPV\\VBD&REV_01");
        assert_eq!(disk.hardware_ids().map(|id| id.as_str().to_owned()), ["XENPV\\VBD&REV_01", "XENPV\\VBD"]);
        assert_eq!(disk.compatible_ids()[0].as_str(), "XENPV\\DEVICE");
        assert_eq!(disk.instance_id().as_str(), "51712");
        assert_eq!(disk.description().as_str(), "Xen PV block device 51712");
        assert_eq!(disk.to_string(), "device/vbd/51712");
        let longest = DeviceName::new(b"abcdefghijklmnop", b"4294967295").unwrap();
        assert_eq!(longest.device_id().as_str(), "XENPV\\ABCDEFGHIJKLMNOP&REV_01");
        assert_eq!(longest.description().as_str(), "Xen PV abcdefghijklmnop 4294967295");
    }

    #[test]
    fn names_from_outside_are_checked() {
        let classes: [&[u8]; 7] = [b"", b"VBD", b"a/b", b"..", b"1vbd", b"abcdefghijklmnopq", b"v\xffd"];
        for class in classes {
            assert_eq!(DeviceName::new(class, b"0"), None);
        }
        let ids: [&[u8]; 7] = [b"", b"01", b"-1", b"4294967296", b"x", b"1&2", b"00000000000000001"];
        for id in ids {
            assert_eq!(DeviceName::new(b"vbd", id), None);
        }
        assert!(DeviceName::new(b"vbd", b"0").is_some());
    }

    #[test]
    fn the_difference_is_what_changed() {
        let name = |class: &str, id: &str| DeviceName::new(class.as_bytes(), id.as_bytes()).unwrap();
        let mut listing = Listing::new();
        for (class, id) in [("vif", "0"), ("vbd", "768"), ("vbd", "51712"), ("vbd", "768"), ("vbd", "bad")] {
            listing.add(class.as_bytes(), id.as_bytes()).unwrap();
        }
        assert_eq!((listing.devices().len(), listing.refused()), (3, 1));
        let known = [name("vbd", "768"), name("vkbd", "0")];
        let changes = listing.changes(known.iter()).unwrap();
        assert_eq!(changes.arrived, [name("vbd", "51712"), name("vif", "0")]);
        assert_eq!(changes.gone, [name("vkbd", "0")]);
        assert!(listing.changes(listing.devices().iter()).unwrap().is_empty());
    }

    #[test]
    fn a_flood_is_cut_off() {
        let mut listing = Listing::new();
        for id in 0..2 * DEVICES_MAX {
            listing.add(b"vbd", id.to_string().as_bytes()).unwrap();
        }
        assert_eq!((listing.devices().len(), listing.refused() as usize), (DEVICES_MAX, DEVICES_MAX));
    }
}
