//! The emulated twins of the paravirtual devices: what xenhide unplugged in this boot, unplugging it again after a
//! migration, and the note of which frontends are known to work.

use wdm::{
    port::Ports,
    registry::Key,
    status::{Result, Status},
    string::UnicodeBuf,
};
use xen_abi::unplug::{self, PORT_CONTROL, PRODUCT_EXPERIMENTAL, PortIo, Unplug};

use crate::core::enumerate::DeviceName;

/// The note that xenhide leaves: see its `windows.rs`.
const NOTE: &str = "\\Registry\\Machine\\System\\CurrentControlSet\\Services\\xenhide\\State";
/// Where this driver notes what works. Volatile.
const WORKING: &str = "\\Registry\\Machine\\System\\CurrentControlSet\\Services\\xenpci\\Working";
/// The build number that the device model is told.
const BUILD: u32 = 1;

/// The ports of Xen's platform device.
struct PlatformPorts(Ports);

impl PortIo for PlatformPorts {
    fn read_u8(&self, port: u16) -> u8 {
        self.0.read_u8(port)
    }

    fn read_u16(&self, port: u16) -> u16 {
        self.0.read_u16(port)
    }

    fn write_u16(&self, port: u16, value: u16) {
        self.0.write_u16(port, value);
    }

    fn write_u32(&self, port: u16, value: u32) {
        self.0.write_u32(port, value);
    }
}

/// What xenhide unplugged. Nothing, where it is not installed.
pub(crate) fn unplugged() -> Unplug {
    let note = UnicodeBuf::from_text(NOTE)
        .and_then(|path| Key::open(path.as_unicode()?))
        .and_then(|key| key.number("Unplugged"));
    match note {
        Ok(mask) => Unplug::from_bits_truncate(mask as u16),
        Err(Status::OBJECT_NAME_NOT_FOUND) => Unplug::empty(),
        Err(status) => {
            wdm::warning!("what xenhide unplugged cannot be read ({status}); taken for nothing");
            Unplug::empty()
        }
    }
}

/// After a migration: the device model is a new one, with all its devices plugged. Any IRQL.
///
/// # Errors
/// [`Status::NOT_SUPPORTED`]: this one does not let them be unplugged. They are there then, and Windows may find them
/// beside their twins: there is nothing better to be done than to say so.
pub(crate) fn unplug_again(what: Unplug) -> Result {
    // SAFETY: on Xen the ports are the platform device's.
    let ports = PlatformPorts(unsafe { Ports::new(PORT_CONTROL, 4) });
    unplug::unplug(&ports, PRODUCT_EXPERIMENTAL, BUILD, what).map_err(|refused| {
        wdm::error!("the emulated devices cannot be unplugged again: {refused}");
        Status::NOT_SUPPORTED
    })
}

/// Notes that a frontend was seen to work: the service arms the unplugging by that.
pub(crate) fn note_working(name: &DeviceName) {
    let noted = UnicodeBuf::from_text(WORKING)
        .and_then(|path| Key::create_volatile(path.as_unicode()?))
        .and_then(|key| key.set_number(name.path().as_str(), 1));
    if let Err(status) = noted {
        wdm::warning!("{name}: that it works cannot be noted: {status}");
    }
}
