//! Whether this boot's disks and network cards are the paravirtual ones. Pure, but for the ports that it is given.
//!
//! The rule, for disks and network cards each: Xen is there and its leaves are visible; the boot entry says `GPLPV` and
//! not `NOGPLPV`; this is no safe mode; the service has armed the kind after it saw the paravirtual device work; the
//! drivers for it are installed and will be loaded in time; and the device model knows the unplug protocol and does not
//! refuse these drivers. Whatever is missing, the emulated devices stay, and the machine boots as it did before.

use core::fmt;

use xen_abi::unplug::{self, PortIo, Refused, Unplug};

/// The boot option that wants paravirtual devices.
const WANTED: &str = "GPLPV";
/// The boot option that wants emulated ones. It wins.
const UNWANTED: &str = "NOGPLPV";
/// The boot option of safe mode, with its kind behind a colon.
const SAFE_BOOT: &str = "SAFEBOOT";

/// One of the two kinds of device that are decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IDE, SCSI and NVMe disks. CD-ROM drives stay in any case.
    Disks,
    /// Network cards.
    Nics,
}

impl Kind {
    /// What is written to the port for it.
    fn mask(self) -> Unplug {
        match self {
            Self::Disks => Unplug::IDE_DISKS.union(Unplug::NVME_DISKS),
            Self::Nics => Unplug::NICS,
        }
    }
}

/// What is known of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The service saw its paravirtual devices work and armed it.
    pub armed: bool,
    /// A device of the kind was installed once, and the drivers for it are loaded early enough in this boot.
    pub drivers: bool,
}

/// What is known of this boot.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// Xen's CPUID leaves are visible, and Xen is not too old for the drivers.
    pub on_xen: bool,
    /// `SystemStartOptions`: the boot entry's options, in UTF-16.
    pub options: &'a [u16],
    /// Windows says that it is in safe mode.
    pub safe_mode: bool,
    /// Disks.
    pub disks: Readiness,
    /// Network cards.
    pub nics: Readiness,
}

/// Why a kind stays emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Xen is not visible, or too old.
    NotOnXen,
    /// Safe mode.
    SafeMode,
    /// `NOGPLPV`.
    Unwanted,
    /// The boot entry does not say `GPLPV`.
    NotWanted,
    /// The service has not armed it.
    NotArmed,
    /// The drivers for it are not installed, or are not loaded early enough.
    NoDrivers,
    /// The device model refuses.
    DeviceModel(Refused),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOnXen => f.write_str("Xen is not visible or too old"),
            Self::SafeMode => f.write_str("safe mode"),
            Self::Unwanted => f.write_str("the boot option NOGPLPV"),
            Self::NotWanted => f.write_str("no boot option GPLPV"),
            Self::NotArmed => f.write_str("not armed yet"),
            Self::NoDrivers => f.write_str("its drivers are not installed or do not start at boot"),
            Self::DeviceModel(refused) => refused.fmt(f),
        }
    }
}

/// What was decided, and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Disks: unplugged, or why not.
    pub disks: Result<(), Reason>,
    /// Network cards: unplugged, or why not.
    pub nics: Result<(), Reason>,
}

impl Decision {
    /// What was unplugged, as the port takes it.
    pub fn unplugged(&self) -> Unplug {
        let mut mask = Unplug::empty();
        if self.disks.is_ok() {
            mask |= Kind::Disks.mask();
        }
        if self.nics.is_ok() {
            mask |= Kind::Nics.mask();
        }
        mask
    }
}

/// The boot options: words between blanks, a slash before a word ignored, letters of either case.
fn words(options: &[u16]) -> impl Iterator<Item = &[u16]> {
    let blank = |character: &u16| matches!(*character, 0x09 | 0x20);
    options.split(blank).map(|word| word.strip_prefix(&[u16::from(b'/')]).unwrap_or(word))
}

fn is(word: &[u16], name: &str) -> bool {
    word.len() == name.len() && starts_with(word, name)
}

fn starts_with(word: &[u16], name: &str) -> bool {
    word.len() >= name.len()
        && word.iter().zip(name.bytes()).all(|(character, byte)| {
            u8::try_from(*character).is_ok_and(|character| character.eq_ignore_ascii_case(&byte))
        })
}

/// What speaks against any kind.
fn against_all(boot: &Boot<'_>) -> Option<Reason> {
    let has = |name| words(boot.options).any(|word| is(word, name));
    let safe_boot =
        || words(boot.options).any(|word| starts_with(word, SAFE_BOOT) && word.get(SAFE_BOOT.len()) == Some(&0x3a));
    if !boot.on_xen {
        Some(Reason::NotOnXen)
    } else if boot.safe_mode || safe_boot() {
        Some(Reason::SafeMode)
    } else if has(UNWANTED) {
        Some(Reason::Unwanted)
    } else if has(WANTED) {
        None
    } else {
        Some(Reason::NotWanted)
    }
}

fn ready(kind: Readiness) -> Result<(), Reason> {
    if !kind.armed {
        Err(Reason::NotArmed)
    } else if !kind.drivers {
        Err(Reason::NoDrivers)
    } else {
        Ok(())
    }
}

/// Decides, and unplugs what is to be unplugged. `product` and `build` are what the device model is told of the driver.
///
/// No port is touched unless something is to be unplugged.
pub fn decide<P: PortIo + ?Sized>(boot: &Boot<'_>, ports: &P, product: u16, build: u32) -> Decision {
    let mut decision = match against_all(boot) {
        Some(reason) => Decision { disks: Err(reason), nics: Err(reason) },
        None => Decision { disks: ready(boot.disks), nics: ready(boot.nics) },
    };
    if let Err(refused) = unplug::unplug(ports, product, build, decision.unplugged()) {
        for kind in [&mut decision.disks, &mut decision.nics] {
            if kind.is_ok() {
                *kind = Err(Reason::DeviceModel(refused));
            }
        }
    }
    decision
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// A device model: its magic, its version, whether it refuses the driver; and what was written to it.
    struct Model {
        magic: Cell<u16>,
        version: u8,
        refuses: bool,
        written: RefCell<Vec<(u16, u32)>>,
    }

    impl Model {
        fn new(magic: u16, version: u8, refuses: bool) -> Self {
            Self { magic: Cell::new(magic), version, refuses, written: RefCell::default() }
        }
    }

    impl PortIo for Model {
        fn read_u8(&self, port: u16) -> u8 {
            if port == unplug::PORT_VERSION { self.version } else { 0xff }
        }

        fn read_u16(&self, port: u16) -> u16 {
            if port == unplug::PORT_CONTROL { self.magic.get() } else { 0xffff }
        }

        fn write_u16(&self, port: u16, value: u16) {
            self.written.borrow_mut().push((port, value.into()));
        }

        fn write_u32(&self, port: u16, value: u32) {
            self.written.borrow_mut().push((port, value));
            if self.refuses {
                self.magic.set(0xd249);
            }
        }
    }

    const READY: Readiness = Readiness { armed: true, drivers: true };
    const ALL: Unplug = Unplug::IDE_DISKS.union(Unplug::NVME_DISKS).union(Unplug::NICS);

    fn decide_with(options: &str, change: impl FnOnce(&mut Boot<'_>), model: &Model) -> Decision {
        let options: Vec<u16> = options.encode_utf16().collect();
        let mut boot = Boot { on_xen: true, options: &options, safe_mode: false, disks: READY, nics: READY };
        change(&mut boot);
        decide(&boot, model, 0xffff, 1)
    }

    /// What both kinds come to on a device model of today.
    fn both(options: &str) -> Result<(), Reason> {
        let model = Model::new(unplug::MAGIC, 1, false);
        let decision = decide_with(options, |_| {}, &model);
        assert_eq!(decision.disks, decision.nics);
        let mask = if decision.disks.is_ok() { ALL } else { Unplug::empty() };
        assert_eq!(decision.unplugged(), mask);
        let expected = [(0x12, 0xffff), (0x10, 1), (0x10, u32::from(ALL.bits()))];
        assert_eq!(*model.written.borrow(), if mask.is_empty() { &[][..] } else { &expected[..] });
        decision.disks
    }

    #[test]
    fn options_are_words() {
        let table = [
            ("", Err(Reason::NotWanted)),
            (" NOEXECUTE=OPTIN  FVEBOOT=264", Err(Reason::NotWanted)),
            ("GPLPV", Ok(())),
            (" NOEXECUTE=OPTIN GPLPV", Ok(())),
            (" /gplpv /noexecute=optin", Ok(())),
            ("GPLPV\tDEBUG", Ok(())),
            ("NOGPLPV", Err(Reason::Unwanted)),
            (" GPLPV NOGPLPV", Err(Reason::Unwanted)),
            (" NOGPLPV GPLPV", Err(Reason::Unwanted)),
            ("GPLPVX", Err(Reason::NotWanted)),
            ("XGPLPV", Err(Reason::NotWanted)),
            ("GPLPV=1", Err(Reason::NotWanted)),
            ("NOGPLPV2 GPLPV", Ok(())),
            ("GPL PV", Err(Reason::NotWanted)),
            ("SAFEBOOT:MINIMAL GPLPV", Err(Reason::SafeMode)),
            ("GPLPV safeboot:network", Err(Reason::SafeMode)),
            ("NOGPLPV SAFEBOOT:DSREPAIR", Err(Reason::SafeMode)),
            ("SAFEBOOT GPLPV", Ok(())),
            ("G\u{130}PLPV", Err(Reason::NotWanted)),
        ];
        for (options, expected) in table {
            assert_eq!(both(options), expected, "{options:?}");
        }
    }

    #[test]
    fn each_kind_needs_its_own_readiness() {
        for bits in 0..16_u32 {
            let kind = |shift: u32| Readiness { armed: bits >> shift & 1 != 0, drivers: bits >> shift & 2 != 0 };
            let model = Model::new(unplug::MAGIC, 1, false);
            let decision = decide_with("GPLPV", |boot| (boot.disks, boot.nics) = (kind(0), kind(2)), &model);
            for (kind, outcome) in [(kind(0), decision.disks), (kind(2), decision.nics)] {
                let expected = match kind {
                    Readiness { armed: false, .. } => Err(Reason::NotArmed),
                    Readiness { drivers: false, .. } => Err(Reason::NoDrivers),
                    Readiness { .. } => Ok(()),
                };
                assert_eq!(outcome, expected, "{bits:04b}");
            }
            let last = model.written.borrow().last().copied();
            let mask = decision.unplugged();
            assert_eq!(last, (!mask.is_empty()).then(|| (0x10, u32::from(mask.bits()))), "{bits:04b}");
        }
    }

    #[test]
    fn safe_mode_and_no_xen_win() {
        let outcome = |change: fn(&mut Boot<'_>)| {
            let model = Model::new(unplug::MAGIC, 1, false);
            let decision = decide_with("GPLPV", change, &model);
            assert!(model.written.borrow().is_empty());
            (decision.disks, decision.nics)
        };
        assert_eq!(outcome(|boot| boot.safe_mode = true), (Err(Reason::SafeMode), Err(Reason::SafeMode)));
        assert_eq!(outcome(|boot| boot.on_xen = false), (Err(Reason::NotOnXen), Err(Reason::NotOnXen)));
    }

    #[test]
    fn what_the_device_model_says_counts() {
        let table = [
            (Model::new(unplug::MAGIC, 0, false), Ok(())),
            (Model::new(unplug::MAGIC, 1, false), Ok(())),
            (Model::new(0xffff, 0xff, false), Err(Reason::DeviceModel(Refused::NoProtocol))),
            (Model::new(0xd249, 1, false), Err(Reason::DeviceModel(Refused::NoProtocol))),
            (Model::new(unplug::MAGIC, 2, false), Err(Reason::DeviceModel(Refused::UnknownVersion(2)))),
            (Model::new(unplug::MAGIC, 1, true), Err(Reason::DeviceModel(Refused::Blacklisted))),
        ];
        for (model, expected) in table {
            let decision = decide_with("GPLPV", |boot| boot.nics.armed = false, &model);
            assert_eq!(decision, Decision { disks: expected, nics: Err(Reason::NotArmed) });
            let masks = model.written.borrow().iter().filter(|(port, value)| *port == 0x10 && *value == 9).count();
            assert_eq!(masks, usize::from(expected.is_ok()));
        }
    }
}
