//! DriverEntry, what the decision needs of Windows, and the note of what was done.
//!
//! The note is the volatile key `State` below the service's key: `Unplugged`, the mask that was written (0: nothing), and
//! the texts `Disks` and `Nics`. xenpci reads the mask: it shows no paravirtual twin of a device that is still emulated,
//! and unplugs again after a migration. The service reads the texts.

use core::fmt::{self, Write};

use wdm::{
    driver::Service,
    log,
    port::{self, Ports},
    registry::{Key, Parameters, TEXT_MAX},
    status::Result,
    string::{UnicodeBuf, UnicodeStr},
};
use xen_abi::{
    cpuid::Registers,
    detect::{self, Cpuid},
    unplug::{PORT_CONTROL, PRODUCT_EXPERIMENTAL, PortIo},
};

use crate::policy::{self, Boot, Readiness, Reason};

extern crate wdk_panic;

#[global_allocator]
static ALLOCATOR: wdk_alloc::WdkAllocator = wdk_alloc::WdkAllocator;

wdm::service_entry!(Xenhide);

const CONTROL: &str = "\\Registry\\Machine\\System\\CurrentControlSet\\Control";
const SERVICES: &str = "\\Registry\\Machine\\System\\CurrentControlSet\\Services\\";
const DEVICES: &str = "\\Registry\\Machine\\System\\CurrentControlSet\\Enum\\XENPV\\";

/// `SERVICE_BOOT_START`.
const BOOT_START: u32 = 0;
/// `SERVICE_DISABLED`.
const DISABLED: u32 = 4;

/// The build number that the device model is told.
const BUILD: u32 = 1;

unsafe extern "C" {
    /// The import's slot, which holds the address of the kernel's variable: 0 outside of safe mode.
    /// <https://learn.microsoft.com/windows-hardware/drivers/kernel/determining-whether-the-operating-system-is-running-in-safe-mode>
    #[link_name = "__imp_InitSafeBootMode"]
    static INIT_SAFE_BOOT_MODE: *const u32;
}

struct Processor;

impl Cpuid for Processor {
    fn cpuid(&self, leaf: u32) -> Registers {
        port::cpuid(leaf, 0)
    }
}

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

/// The driver.
struct Xenhide;

impl Service for Xenhide {
    /// Never fails: a boot-start driver that is not loaded may cost a boot, and there is nothing to be won by it.
    fn init(service: UnicodeStr<'_>) -> Result {
        log::init("xenhide");
        let on_xen = match detect::detect(&Processor) {
            Ok(_) => {
                log::use_ports();
                true
            }
            Err(reason) => {
                wdm::info!("nothing is unplugged: {reason}");
                false
            }
        };
        let parameters = Parameters::open(service);
        let mut options = [0; TEXT_MAX];
        let length = start_options(&mut options);
        let boot = Boot {
            on_xen,
            options: &options[..length],
            safe_mode: safe_mode(),
            disks: Readiness { armed: parameters.switch("Disks", false), drivers: disk_drivers() },
            nics: Readiness { armed: parameters.switch("Nics", false), drivers: nic_drivers() },
        };
        // SAFETY: without Xen no port is touched; with it the ports are the platform device's, or nobody's.
        let ports = PlatformPorts(unsafe { Ports::new(PORT_CONTROL, 4) });
        let decision = policy::decide(&boot, &ports, PRODUCT_EXPERIMENTAL, BUILD);
        for (kind, outcome) in [("disks", decision.disks), ("network cards", decision.nics)] {
            match outcome {
                Ok(()) => wdm::info!("the emulated {kind} are unplugged"),
                Err(reason) if on_xen => wdm::info!("the emulated {kind} stay: {reason}"),
                Err(_) => {}
            }
        }
        if let Err(status) = leave_note(service, decision) {
            wdm::error!("what was unplugged cannot be noted ({status}): the paravirtual devices stay hidden");
        }
        Ok(())
    }
}

/// `SystemStartOptions`, or nothing where it cannot be read: then nothing is unplugged.
fn start_options(options: &mut [u16; TEXT_MAX]) -> usize {
    let read = open(CONTROL, "").and_then(|key| key.text("SystemStartOptions", options));
    read.unwrap_or_else(|status| {
        wdm::warning!("SystemStartOptions cannot be read: {status}");
        0
    })
}

fn safe_mode() -> bool {
    // SAFETY: the kernel exports a pointer to a ULONG that does not change after the loader has set it.
    unsafe { *INIT_SAFE_BOOT_MODE != 0 }
}

/// Whether a disk behind xenvbd can be there when Windows mounts its volume.
fn disk_drivers() -> bool {
    starts_at_boot("xenpci") && starts_at_boot("xenvbd") && open(DEVICES, "VBD&REV_01").is_ok()
}

/// Whether a network card behind xennet will be there.
fn nic_drivers() -> bool {
    let enabled = |key: &Key| key.number("Start").is_ok_and(|start| start < DISABLED);
    starts_at_boot("xenpci")
        && open(SERVICES, "xennet").is_ok_and(|key| enabled(&key))
        && open(DEVICES, "VIF&REV_01").is_ok()
}

/// Whether a service is loaded by the boot loader. Windows may have put that off: it writes 3 to `StartOverride` of a
/// storage driver that a boot did not need.
fn starts_at_boot(service: &str) -> bool {
    let start = open(SERVICES, service).and_then(|key| key.number("Start"));
    let put_off = || {
        let mut path = UnicodeBuf::from_text(SERVICES)?;
        path.push(service)?;
        path.push("\\StartOverride")?;
        Key::open(path.as_unicode()?)?.number("0")
    };
    start == Ok(BOOT_START) && put_off().unwrap_or(BOOT_START) == BOOT_START
}

fn open(folder: &str, name: &str) -> Result<Key> {
    let mut path = UnicodeBuf::from_text(folder)?;
    path.push(name)?;
    Key::open(path.as_unicode()?)
}

/// A short text, cut at its end.
struct Note {
    bytes: [u8; 96],
    used: usize,
}

impl Write for Note {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().filter(u8::is_ascii) {
            let Some(place) = self.bytes.get_mut(self.used) else { return Ok(()) };
            *place = byte;
            self.used += 1;
        }
        Ok(())
    }
}

fn leave_note(service: UnicodeStr<'_>, decision: policy::Decision) -> Result {
    let mut path = UnicodeBuf::from_characters(service.characters())?;
    path.push("\\State")?;
    let key = Key::create_volatile(path.as_unicode()?)?;
    for (name, outcome) in [("Disks", decision.disks), ("Nics", decision.nics)] {
        key.set_text(name, text(outcome, &mut Note { bytes: [0; 96], used: 0 }))?;
    }
    // Last: it is what others act upon.
    key.set_number("Unplugged", decision.unplugged().bits().into())
}

fn text(outcome: core::result::Result<(), Reason>, note: &mut Note) -> &str {
    let written = match outcome {
        Ok(()) => note.write_str("unplugged"),
        Err(reason) => write!(note, "emulated: {reason}"),
    };
    match written {
        Ok(()) => core::str::from_utf8(&note.bytes[..note.used]).unwrap_or_default(),
        Err(fmt::Error) => "",
    }
}
