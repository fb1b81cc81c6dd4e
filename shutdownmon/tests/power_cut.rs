//! The power goes off after each change that the service and its commands make. Whatever of the registry was on the disk by
//! then, the next boot finds its disk, and the service's next look ends where it would have ended.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bcd_model::{BOOT_MANAGER, Bcd as Store};
use bootcfg::registry::{BOOT, Kept, Registry};
use bootcfg::setup::set_up;
use bootcfg::tool::Output;
use bootcfg::{Bcd, Tool};
use shutdownmon::arming::facts::Nodes;
use shutdownmon::arming::{self, End, Keeper, Wait};
use xenhide::policy::{Boot, Readiness, decide};

const PARAMETERS: &str = r"Services\xenhide\Parameters";
const STATE: &str = r"Services\xenhide\State";
const WORKING: &str = r"Services\xenpci\Working";
const SERVICE: &str = r"Services\shutdownmon\Parameters";
/// The boot disk and another, both with emulated twins.
const DISKS: [&str; 2] = ["51712", "51728"];
/// The driver of the emulated boot disk.
const EMULATED: &str = "intelide";
/// Drivers that Windows may put off.
const PUT_OFF: [&str; 7] = ["storahci", "pciide", EMULATED, "atapi", "stornvme", "xenpci", "xenvbd"];
/// Seconds after which a boot has long been a good one.
const LONG: u64 = 200;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Number(u32),
    Text(String),
}

type Values = BTreeMap<(String, String), Value>;

/// What a boot runs from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twin {
    Emulated,
    Paravirtual,
}

/// A computer with two disks and a network card.
#[derive(Clone)]
struct Computer {
    registry: RefCell<Values>,
    /// What the registry was on the disk when it was flushed, and after each change since: Windows writes when it likes.
    on_disk: RefCell<Vec<Values>>,
    boot: RefCell<Store>,
    /// Changes until the power goes.
    left: Cell<Option<u32>>,
    /// Which of the paravirtual devices work: the disks, the card.
    disks: Cell<[bool; 2]>,
    card: Cell<bool>,
}

impl Computer {
    /// The drivers are installed, and Windows runs for the first time since.
    fn installed() -> Self {
        let this = Self {
            registry: RefCell::default(),
            on_disk: RefCell::default(),
            boot: RefCell::new(Store::installed()),
            left: Cell::new(None),
            disks: Cell::new([true; 2]),
            card: Cell::new(true),
        };
        for driver in PUT_OFF.iter().chain(&["xenhide", "xennet"]) {
            this.set_number(&format!(r"Services\{driver}"), "Start", 0).unwrap();
        }
        for device in ["VBD", "VIF"] {
            this.set_text(&format!(r"Enum\XENPV\{device}&REV_01\1"), "Service", "x").unwrap();
        }
        set_up(&Bcd::new(&this), &Kept(&this), "C:").unwrap();
        this.flush().unwrap();
        assert_eq!(this.start(), Twin::Emulated);
        this
    }

    /// One in which that was seen to be good, and which has been started again.
    fn armed() -> Self {
        let this = Self::installed();
        this.serve(LONG);
        assert_eq!(this.start(), Twin::Paravirtual);
        this
    }

    /// Two paravirtual boots died.
    fn given_up() -> Self {
        let this = Self::armed();
        for _ in 0..2 {
            assert_eq!(this.start(), Twin::Emulated);
            this.serve(LONG);
            assert!(this.failures() == 2 || this.start() == Twin::Paravirtual);
        }
        assert_eq!(this.start(), Twin::Emulated);
        this
    }

    /// One more change of a program's; fails once the power is gone.
    fn change(&self) -> io::Result<()> {
        match self.left.get() {
            Some(0) => Err(io::Error::other("the power is gone")),
            left => {
                self.left.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }

    /// That Windows itself writes what it put off before the service sees it is left out: docs/windows-facts.md, not known.
    fn edit(&self, edit: impl FnOnce(&mut Values)) {
        edit(&mut self.registry.borrow_mut());
        if self.loads(EMULATED) {
            self.on_disk.borrow_mut().push(self.registry.borrow().clone());
        }
    }

    fn get(&self, key: &str, name: &str) -> u32 {
        self.number(key, name).unwrap().unwrap_or(0)
    }

    fn failures(&self) -> u32 {
        self.get(BOOT, "Failures")
    }

    /// Whether the boot loader loads a driver.
    fn loads(&self, driver: &str) -> bool {
        self.get(&format!(r"Services\{driver}\StartOverride"), "0") == 0
    }

    /// Switches on: boot manager, boot loader, xenhide, the disk's driver.
    fn start(&self) -> Twin {
        self.left.set(None);
        for key in [STATE, WORKING] {
            self.remove_key(key).unwrap();
        }
        let options = self.boot.borrow_mut().start().expect("an entry").options;
        self.set_text("Control", "SystemStartOptions", &options).unwrap();
        let wide: Vec<u16> = options.encode_utf16().collect();
        let ready = |name, drivers| Readiness { armed: self.get(PARAMETERS, name) == 1, drivers };
        let boot = Boot {
            on_xen: true,
            options: &wide,
            safe_mode: false,
            disks: ready("Disks", self.loads("xenpci") && self.loads("xenvbd")),
            nics: ready("Nics", self.loads("xenpci")),
        };
        let decision = decide(&boot, &Ports, 0, 0);
        self.set_number(STATE, "Unplugged", decision.unplugged().bits().into()).unwrap();
        if decision.disks.is_ok() {
            assert!(self.disks.get()[0], "these tests have no boot disk that does not work");
            return Twin::Paravirtual;
        }
        assert!(self.loads(EMULATED), "Windows does not find its disk");
        for (disk, _) in DISKS.iter().zip(self.disks.get()).filter(|(_, works)| *works) {
            self.set_number(WORKING, &format!("device/vbd/{disk}"), 1).unwrap();
        }
        Twin::Emulated
    }

    /// The service in this boot, until Windows is shut down after so many seconds.
    fn serve(&self, seconds: u64) {
        let clock = Clock { computer: self, now: Cell::default(), end: Duration::from_secs(seconds) };
        Keeper::new(self, self, "C:", &|_, _| {}).keep(&clock, || Ok(Xenstore(self)), &|_| Ok(self.flush()?));
        if self.left.get().is_none() {
            self.flush().unwrap();
        }
    }

    /// Windows puts off what this boot does not need.
    fn put_off(&self) {
        if self.left.get() == Some(0) {
            return;
        }
        let unplugged = self.get(STATE, "Unplugged") & 1 != 0;
        for driver in PUT_OFF.iter().filter(|driver| driver.starts_with("xen") != unplugged) {
            let key = format!(r"Services\{driver}\StartOverride");
            self.edit(|values| drop(values.insert((key, "0".into()), Value::Number(3))));
        }
    }

    /// Whether the boot manager was told to start another entry once.
    fn ordered(&self) -> bool {
        !self.boot.borrow().get(BOOT_MANAGER, "bootsequence").is_empty()
    }

    /// What is kept from boot to boot, but for what an administrator said.
    fn kept(&self) -> (Values, Store) {
        let mut values = self.registry.borrow().clone();
        values.retain(|(key, name), _| {
            ![STATE, WORKING, SERVICE].contains(&key.as_str()) && name != "SystemStartOptions"
        });
        (values, self.boot.borrow().clone())
    }
}

/// A device model that unplugs.
struct Ports;

impl xen_abi::unplug::PortIo for Ports {
    fn read_u8(&self, _port: u16) -> u8 {
        1
    }

    fn read_u16(&self, _port: u16) -> u16 {
        xen_abi::unplug::MAGIC
    }

    fn write_u16(&self, _port: u16, _value: u16) {}

    fn write_u32(&self, _port: u16, _value: u32) {}
}

impl Registry for Computer {
    fn number(&self, key: &str, name: &str) -> io::Result<Option<u32>> {
        match self.registry.borrow().get(&(key.into(), name.into())) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(*number)),
            Some(Value::Text(_)) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn text(&self, key: &str, name: &str) -> io::Result<Option<String>> {
        match self.registry.borrow().get(&(key.into(), name.into())) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.clone())),
            Some(Value::Number(_)) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn values(&self, key: &str) -> io::Result<Vec<String>> {
        Ok(self.registry.borrow().keys().filter(|(of, _)| of == key).map(|(_, name)| name.clone()).collect())
    }

    fn exists(&self, key: &str) -> io::Result<bool> {
        let below = format!(r"{key}\");
        Ok(self.registry.borrow().keys().any(|(of, _)| of == key || of.starts_with(&below)))
    }

    fn set_number(&self, key: &str, name: &str, value: u32) -> io::Result<()> {
        self.change()?;
        self.edit(|values| drop(values.insert((key.into(), name.into()), Value::Number(value))));
        Ok(())
    }

    fn set_text(&self, key: &str, name: &str, value: &str) -> io::Result<()> {
        self.change()?;
        self.edit(|values| drop(values.insert((key.into(), name.into()), Value::Text(value.into()))));
        Ok(())
    }

    fn remove_value(&self, key: &str, name: &str) -> io::Result<()> {
        self.change()?;
        self.edit(|values| drop(values.remove(&(key.into(), name.into()))));
        Ok(())
    }

    fn remove_key(&self, key: &str) -> io::Result<()> {
        self.change()?;
        let below = format!(r"{key}\");
        self.edit(|values| values.retain(|(of, _), _| of != key && !of.starts_with(&below)));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.change()?;
        *self.on_disk.borrow_mut() = vec![self.registry.borrow().clone()];
        Ok(())
    }
}

impl Tool for Computer {
    fn bcdedit(&self, arguments: &[&str]) -> io::Result<Output> {
        if arguments[0] != "/enum" {
            self.change()?;
        }
        let output = self.boot.borrow_mut().bcdedit(arguments);
        Ok(Output { code: Some(output.code), text: output.text })
    }

    fn manage_bde(&self, _arguments: &[&str]) -> io::Result<Option<Output>> {
        Ok(None)
    }
}

/// xenstore as the domain sees it.
struct Xenstore<'c>(&'c Computer);

impl Nodes for Xenstore<'_> {
    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let names: &[&str] = match path {
            "device/vbd" => &DISKS,
            "device/vif" => &["0"],
            _ => &[],
        };
        Ok(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn read(&self, path: &str) -> io::Result<Option<String>> {
        let state = |works: bool| if works { "4" } else { "2" };
        let [first, second] = self.0.disks.get();
        let text = match path {
            "device/vbd/51712/state" => state(first),
            "device/vbd/51728/state" => state(second),
            "device/vif/0/state" => state(self.0.card.get()),
            "device/vif/0/backend" => "/backend",
            "/backend/type" => "vif_ioemu",
            _ => return Ok(None),
        };
        Ok(Some(text.to_owned()))
    }
}

/// Time. Four times a minute Windows puts off what this boot did not need.
struct Clock<'c> {
    computer: &'c Computer,
    now: Cell<Duration>,
    end: Duration,
}

impl Wait for Clock<'_> {
    fn wait(&self, time: Duration) -> Option<End> {
        self.now.set(self.now.get() + time);
        if self.now.get().as_secs() % 15 < time.as_secs() {
            self.computer.put_off();
        }
        (self.now.get() >= self.end).then_some(End::Shutdown)
    }
}

/// Does `act` with the power going after 0, 1, 2, ... changes, until it does not go any more. Each time `then` gets the
/// computer, which is off, once for every state that its registry could have on the disk.
fn at_every_place(begin: impl Fn() -> Computer, act: impl Fn(&Computer), then: impl Fn(&Computer)) {
    let mut outcomes = 0;
    for place in 0.. {
        let computer = begin();
        computer.left.set(Some(place));
        act(&computer);
        let cut = computer.left.get() == Some(0);
        for (number, registry) in computer.on_disk.borrow().iter().enumerate() {
            println!("off after {place} changes, of the registry {number} on the disk");
            let off = computer.clone();
            *off.registry.borrow_mut() = registry.clone();
            *off.on_disk.borrow_mut() = vec![registry.clone()];
            then(&off);
            outcomes += 1;
        }
        if !cut {
            break;
        }
    }
    assert!(outcomes > 8, "{outcomes} outcomes only");
}

/// The computer comes up and is as it would have been after a boot or two more.
fn mended(off: &Computer, expected: &(Values, Store)) {
    off.start();
    off.serve(LONG);
    assert!(off.failures() <= 1, "one cut is one failure at the most");
    off.start();
    off.serve(LONG);
    let found = off.kept();
    assert_eq!(found.0, expected.0);
    assert!(found.1.objects() == expected.1.objects(), "{:?}", found.1);
}

/// What comes of `begin` where the power does not go.
fn undisturbed(begin: impl Fn() -> Computer, act: impl Fn(&Computer)) -> (Values, Store) {
    let computer = begin();
    act(&computer);
    for _ in 0..2 {
        computer.start();
        computer.serve(LONG);
    }
    computer.kept()
}

fn serve(seconds: u64) -> impl Fn(&Computer) {
    move |computer| computer.serve(seconds)
}

#[test]
fn while_it_arms() {
    for seconds in [LONG, 10] {
        for begin in [Computer::installed, Computer::armed] {
            let expected = undisturbed(begin, serve(seconds));
            assert_eq!(expected.0[&(PARAMETERS.into(), "Disks".into())], Value::Number(1));
            at_every_place(begin, serve(seconds), |off| mended(off, &expected));
        }
    }
}

#[test]
fn after_a_boot_that_died() {
    let begin = || {
        let computer = Computer::armed();
        assert_eq!(computer.start(), Twin::Emulated);
        computer
    };
    let expected = undisturbed(begin, serve(LONG));
    at_every_place(begin, serve(LONG), |off| {
        off.start();
        off.serve(LONG);
        // The boot that died and this cut are two, unless a paravirtual boot came between.
        if off.failures() == 2 {
            assert_eq!(off.start(), Twin::Emulated);
            arming::ask(off).unwrap();
            off.serve(LONG);
        }
        mended(off, &expected);
    });
}

#[test]
fn while_devices_are_disarmed_that_do_not_work() {
    for (disks, card) in [([true, false], true), ([true, true], false), ([true, false], false)] {
        let begin = || {
            let computer = Computer::armed();
            computer.disks.set(disks);
            computer.card.set(card);
            computer
        };
        let expected = undisturbed(begin, serve(LONG));
        let armed = |name: &str| expected.0.get(&(PARAMETERS.into(), name.into())) == Some(&Value::Number(1));
        assert_eq!([armed("Disks"), armed("Nics")], [disks[1], card]);
        at_every_place(begin, serve(LONG), |off| {
            // Where the power went before it was noted, another boot may be needed to see it.
            for _ in 0..3 {
                off.start();
                off.serve(LONG);
            }
            let on = |name| off.get(PARAMETERS, name) == 1;
            assert_eq!(on("Disks"), disks[1]);
            // A boot without its data disk, and one that the cut ended: no more are tried.
            let given_up = off.failures() == 2;
            assert!(!given_up || !disks[1] && !off.ordered());
            assert!(given_up || on("Nics") == card);
            assert_eq!(off.start() == Twin::Paravirtual, disks[1]);
        });
    }
}

/// Done again if it was not done, it holds: no boot is a paravirtual one any more.
fn stays_emulated(off: &Computer, again: impl Fn(&Computer)) {
    off.start();
    again(off);
    for _ in 0..2 {
        assert!(!off.ordered());
        assert_eq!(off.start(), Twin::Emulated);
        off.serve(LONG);
    }
}

#[test]
fn while_an_administrator_disarms() {
    let disarm = |computer: &Computer| {
        computer.put_off();
        let _ = arming::disarm(computer, computer);
    };
    at_every_place(
        || {
            let computer = Computer::armed();
            computer.serve(LONG);
            computer
        },
        disarm,
        |off| {
            stays_emulated(off, |off| arming::disarm(off, off).unwrap());
            arming::ask(off).unwrap();
            off.serve(LONG);
            assert_eq!(off.start(), Twin::Paravirtual);
        },
    );
}

#[test]
fn while_an_administrator_arms() {
    let arm = |computer: &Computer| {
        computer.put_off();
        let _ = arming::ask(computer);
        Keeper::new(computer, computer, "C:", &|_, _| {}).look(|| Ok(Xenstore(computer)));
    };
    let disarmed = || {
        let computer = Computer::installed();
        arming::disarm(&computer, &computer).unwrap();
        computer
    };
    for begin in [disarmed, Computer::given_up] {
        at_every_place(begin, arm, |off| {
            off.start();
            off.serve(LONG);
            arm(off);
            assert_eq!(off.start(), Twin::Paravirtual);
        });
    }
}

#[test]
fn what_comes_again_and_again_is_said_once() {
    let computer = Computer::armed();
    let said = RefCell::new(Vec::new());
    let note = |_, text: &str| said.borrow_mut().push(text.to_owned());
    let clock = Clock { computer: &computer, now: Cell::default(), end: Duration::from_secs(LONG) };
    Keeper::new(&computer, &computer, "C:", &note).keep(&clock, || Ok(Xenstore(&computer)), &|_| Ok(()));
    let said = said.into_inner();
    assert_eq!(said.iter().filter(|line| *line == "intelide is startable at boot again").count(), 1, "{said:#?}");
}

#[test]
fn what_an_administrator_said_is_on_the_disk() {
    for arm in [0, 1] {
        let computer = Computer::armed();
        arming::disarm(&computer, &computer).unwrap();
        if arm == 1 {
            arming::ask(&computer).unwrap();
        }
        let on_disk = computer.on_disk.borrow();
        let said = on_disk[0].get(&(SERVICE.into(), "Arm".into()));
        assert_eq!((on_disk.len(), said), (1, Some(&Value::Number(arm))));
    }
}

#[test]
fn while_the_service_is_removed() {
    let stand_down = |computer: &Computer| {
        computer.put_off();
        let _ = arming::stand_down(computer, computer);
    };
    at_every_place(
        || {
            let computer = Computer::armed();
            computer.serve(LONG);
            computer
        },
        stand_down,
        |off| {
            off.start();
            arming::stand_down(off, off).unwrap();
            assert!(!off.ordered());
            assert_eq!(off.start(), Twin::Emulated);
        },
    );
}

#[test]
fn the_same_cut_in_every_boot_never_costs_the_machine() {
    for place in 0.. {
        let mut cut = false;
        for lazy in [false, true] {
            let computer = Computer::installed();
            for _ in 0..6 {
                computer.left.set(Some(place));
                computer.serve(LONG);
                cut |= computer.left.get() == Some(0);
                let state = if lazy { computer.on_disk.borrow().last().cloned() } else { None };
                let state = state.unwrap_or_else(|| computer.on_disk.borrow()[0].clone());
                *computer.registry.borrow_mut() = state.clone();
                *computer.on_disk.borrow_mut() = vec![state];
                computer.start();
            }
            computer.serve(LONG);
            arming::ask(&computer).unwrap();
            computer.serve(LONG);
            assert_eq!(computer.start(), Twin::Paravirtual, "place {place}, {lazy}");
        }
        // No boot has so many changes.
        if !cut {
            assert!(place > 30, "{place} places only");
            break;
        }
    }
}
