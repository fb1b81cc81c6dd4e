//! The commands over a hive made from a real layout, and over PowerShell's answers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use regf::reg_import::RegImporter;
use tempfile::TempDir;

use super::command::{Tools, carry, copy, remember, undo};
use super::live::{self, Card};
use super::settings::{self, Settings};
use super::state::State;
use super::{Kind, Shell};
use crate::hive::HiveFile;
use crate::registry::{Registry, RegistryMut, Value};

const HIVE: &str = include_str!("../../tests/data/network.reg");
/// First pair: configured by hand, and not. Second pair: the other way round.
const E1: &str = "{1B2C3D4E-0001-4A5B-8C6D-7E8F9A0B1C2D}";
const P1: &str = "{1B2C3D4E-0002-4A5B-8C6D-7E8F9A0B1C2D}";
const E2: &str = "{1B2C3D4E-0003-4A5B-8C6D-7E8F9A0B1C2D}";
const P2: &str = "{1B2C3D4E-0004-4A5B-8C6D-7E8F9A0B1C2D}";
const MACS: [&str; 2] = ["00163E010203", "00163E010204"];

/// A hive, and what was written over it.
struct Running {
    hive: HiveFile,
    written: BTreeMap<(String, String), Option<Value>>,
    /// How many more writes go well.
    good_for: usize,
}

impl Running {
    fn write(&mut self, key: &str, name: &str, value: Option<&Value>) -> io::Result<()> {
        self.good_for = self.good_for.checked_sub(1).ok_or_else(|| io::Error::other("the power is gone"))?;
        self.written.insert((path(key).to_lowercase(), name.to_owned()), value.cloned());
        Ok(())
    }
}

fn path(key: &str) -> String {
    key.replacen("CurrentControlSet", "ControlSet001", 1)
}

impl Registry for Running {
    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
        match self.written.get(&(path(key).to_lowercase(), name.to_owned())) {
            Some(value) => Ok(value.clone()),
            None => self.hive.value(&path(key), name),
        }
    }

    fn has_key(&self, key: &str) -> io::Result<bool> {
        let made = self.written.iter().any(|((there, _), value)| *there == path(key).to_lowercase() && value.is_some());
        Ok(made || self.hive.has_key(&path(key))?)
    }

    fn subkeys(&self, key: &str) -> io::Result<Vec<String>> {
        self.hive.subkeys(&path(key))
    }

    fn names(&self, key: &str) -> io::Result<Vec<String>> {
        self.hive.names(&path(key))
    }
}

impl RegistryMut for Running {
    fn set(&mut self, key: &str, name: &str, value: &Value) -> io::Result<()> {
        self.write(key, name, Some(value))
    }

    fn remove(&mut self, key: &str, name: &str) -> io::Result<()> {
        self.write(key, name, None)
    }
}

/// PowerShell that keeps what it is told, and fails at one line.
#[derive(Default)]
struct Told {
    scripts: RefCell<Vec<String>>,
    fails_at: Option<&'static str>,
}

impl Shell for Told {
    fn run(&self, script: &str) -> anyhow::Result<String> {
        if self.fails_at.is_some_and(|text| script.contains(text)) {
            anyhow::bail!("it fails");
        }
        let inner = script.trim_start_matches("$ErrorActionPreference='Stop';").trim_end_matches("|Out-Null");
        self.scripts.borrow_mut().push(inner.to_owned());
        Ok(String::new())
    }
}

/// Windows, and what is remembered of it.
struct Machine {
    registry: Running,
    folder: TempDir,
    shell: Told,
    said: Vec<String>,
}

impl Machine {
    fn new() -> Self {
        let hive = HiveFile::new(RegImporter::from_string(HIVE).build_hive().unwrap()).unwrap();
        Self {
            registry: Running { hive, written: BTreeMap::new(), good_for: usize::MAX },
            folder: tempfile::tempdir().unwrap(),
            shell: Told::default(),
            said: Vec::new(),
        }
    }

    /// Runs a command in a boot with these cards; what it said.
    fn with<T>(&mut self, cards: Vec<Card>, command: impl FnOnce(&mut Tools<'_>) -> T) -> T {
        let file = self.folder.path().join("kept").join("network.json");
        let said = &mut self.said;
        said.clear();
        let mut say = |text: &str| said.push(text.to_owned());
        command(&mut Tools { registry: &mut self.registry, shell: &self.shell, file: &file, cards, say: &mut say })
    }

    fn settings(&self, guid: &str) -> Settings {
        settings::read(&self.registry, guid).unwrap().unwrap_or_default()
    }

    fn state(&self) -> State {
        State::read(&self.folder.path().join("kept").join("network.json")).unwrap()
    }

    fn has_said(&self, text: &str) -> bool {
        self.said.iter().any(|line| line.contains(text))
    }
}

/// What PowerShell says in a boot from the emulated cards.
fn emulated() -> Vec<Card> {
    let answer = format!(
        r#"{{"interfaces":[
            {{"InterfaceIndex":4,"Family":2,"Automatic":0,"InterfaceMetric":25}},
            {{"InterfaceIndex":4,"Family":23,"Automatic":1,"InterfaceMetric":25}},
            {{"InterfaceIndex":1,"Family":2,"Automatic":0,"InterfaceMetric":75}}],
        "routes":[
            {{"InterfaceIndex":4,"DestinationPrefix":"0.0.0.0/0","NextHop":"192.0.2.1","RouteMetric":256}},
            {{"InterfaceIndex":4,"DestinationPrefix":"198.51.100.0/24","NextHop":"192.0.2.254","RouteMetric":5}},
            {{"InterfaceIndex":4,"DestinationPrefix":"::/0","NextHop":"fe80::1","RouteMetric":256}},
            {{"InterfaceIndex":4,"DestinationPrefix":"::/0'; Remove-Item C:\\","NextHop":"fe80::1","RouteMetric":1}},
            {{"InterfaceIndex":4,"DestinationPrefix":"10.0.0.0/33","NextHop":"192.0.2.1","RouteMetric":1}}],
        "addresses":[
            {{"InterfaceIndex":4,"IPAddress":"2001:db8::10","PrefixLength":64,"SkipAsSource":false}},
            {{"InterfaceIndex":4,"IPAddress":"fe80::10%4","PrefixLength":64,"SkipAsSource":false}},
            {{"InterfaceIndex":1,"IPAddress":"2001:db8::99","PrefixLength":128,"SkipAsSource":false}}],
        "adapters":[
            {{"InterfaceGuid":"{E1}","PermanentAddress":"{}","PnPDeviceID":"PCI\\VEN_10EC&DEV_8139&SUBSYS_00015853&REV_20\\3&267a616a&0&20","InterfaceIndex":4,"Name":"Ethernet"}},
            {{"InterfaceGuid":"{}","PermanentAddress":"{}","PnPDeviceID":"PCI\\VEN_10EC&DEV_8139\\3&267a616a&0&28","InterfaceIndex":7,"Name":"Ethernet 2"}},
            {{"InterfaceGuid":"{{F0000000-0000-0000-0000-000000000001}}","PermanentAddress":null,"PnPDeviceID":"ROOT\\KDNIC\\0000","InterfaceIndex":9,"Name":"Kernel"}},
            {{"InterfaceGuid":"{P1}","PermanentAddress":"{}","PnPDeviceID":"XENPV\\VIF&REV_01\\5&1f2a3b4c&0&0","InterfaceIndex":11,"Name":"Ethernet 3"}}],
        "present":["PCI\\VEN_10EC&DEV_8139&SUBSYS_00015853&REV_20\\3&267A616A&0&20","PCI\\VEN_10EC&DEV_8139\\3&267A616A&0&28","ROOT\\KDNIC\\0000"]}}"#,
        MACS[0],
        E2.to_lowercase(),
        MACS[1],
        MACS[0],
    );
    live::parse(&answer).unwrap()
}

/// What PowerShell says in a boot from the paravirtual cards, and after IPv6 was copied.
fn paravirtual(copied: bool) -> Vec<Card> {
    let rest = if copied {
        r#""interfaces":[{"InterfaceIndex":11,"Family":2,"Automatic":0,"InterfaceMetric":25}],
        "routes":[
            {"InterfaceIndex":11,"DestinationPrefix":"198.51.100.0/24","NextHop":"192.0.2.254","RouteMetric":5},
            {"InterfaceIndex":11,"DestinationPrefix":"::/0","NextHop":"fe80::1","RouteMetric":256}],
        "addresses":[{"InterfaceIndex":11,"IPAddress":"2001:db8::10","PrefixLength":64,"SkipAsSource":false}]"#
    } else {
        r#""interfaces":[],"routes":[],"addresses":[]"#
    };
    let answer = format!(
        r#"{{{rest},"adapters":[
            {{"InterfaceGuid":"{P1}","PermanentAddress":"{}","PnPDeviceID":"XENPV\\VIF&REV_01\\5&1f2a3b4c&0&0","InterfaceIndex":11,"Name":"Ethernet 3"}},
            {{"InterfaceGuid":"{P2}","PermanentAddress":"{}","PnPDeviceID":"XENPV\\VIF&REV_01\\5&1f2a3b4c&0&1","InterfaceIndex":12,"Name":"Ethernet 4"}}],
        "present":["XENPV\\VIF&REV_01\\5&1F2A3B4C&0&0","XENPV\\VIF&REV_01\\5&1F2A3B4C&0&1"]}}"#,
        MACS[0], MACS[1],
    );
    live::parse(&answer).unwrap()
}

/// The cards that are installed, as xenstore and the registry know them in a boot from the emulated ones.
fn installed(registry: &Running) -> Vec<Card> {
    live::installed(registry, &|number| live::parse_mac(MACS.get(number as usize)?)).unwrap()
}

#[test]
fn answers_are_read_and_nothing_else_gets_through() {
    let cards = emulated();
    assert_eq!(cards.len(), 3, "a card that is on no bus of ours is none: {cards:?}");
    assert_eq!(
        (cards[2].guid.as_str(), &cards[2].present),
        (P1, &None),
        "one that Windows lists and that is not there"
    );
    let (index, stack) = cards[0].present.as_ref().unwrap();
    assert_eq!((*index, cards[0].kind, cards[1].guid.as_str()), (4, Kind::Emulated, E2));
    assert_eq!(stack.addresses.len(), 1, "{stack:?}");
    assert_eq!(stack.routes.len(), 2, "{stack:?}");
    assert_eq!(stack.metrics, [Some(25), None]);
    for wrong in ["", "{}", "[]", "Get-NetAdapter : not recognised"] {
        assert!(live::parse(wrong).is_err(), "{wrong}");
    }
    assert_eq!(live::parse_mac("00-16-3e-01-02-03"), Some([0, 0x16, 0x3e, 1, 2, 3]));
    assert_eq!(live::parse_mac("00163e0102"), None);
    assert_eq!(live::parse_guid(r"{1B2C3D4E-0001-4A5B-8C6D-7E8F9A0B1C2D}\..\x"), None);
    assert_eq!(live::parse_guid(r"{1B2C3D4E\0001\4A5B-8C6D-7E8F9A0B1C2D}"), None);
}

#[test]
fn installed_cards_are_found_before_their_first_boot() {
    let machine = Machine::new();
    let cards = installed(&machine.registry);
    let found: Vec<_> = cards.iter().map(|card| (card.guid.as_str(), card.mac[5], card.present.is_some())).collect();
    assert_eq!(found, [(P1, 3, false), (P2, 4, false)]);
}

#[test]
fn settings_are_there_before_the_first_paravirtual_boot() {
    let mut machine = Machine::new();
    let (e1, p2) = (machine.settings(E1), machine.settings(P2));
    let cards: Vec<Card> = emulated().into_iter().chain(installed(&machine.registry)).collect();

    machine.with(cards.clone(), |tools| copy(tools, Kind::Paravirtual, false, true)).unwrap();
    assert!(machine.registry.written.is_empty() && machine.state() == State::read(Path::new("nowhere")).unwrap());
    assert!(machine.has_said("would change"));

    machine.with(cards.clone(), |tools| copy(tools, Kind::Paravirtual, false, false)).unwrap();
    assert_eq!(machine.settings(P1), e1);
    assert_eq!(e1.len(), 14, "{e1:?}");
    // What DHCP wrote for the card itself stays.
    let key = format!(r"CurrentControlSet\Services\Tcpip\Parameters\Interfaces\{P1}");
    assert!(machine.registry.value(&key, "DhcpServer").unwrap().is_some());
    assert!(machine.registry.value(&key, "Lease").unwrap().is_none());
    // Configured by hand.
    assert_eq!(machine.settings(P2), p2);
    assert!(machine.has_said("vif 1 was configured by hand"));
    assert!(machine.has_said("IPv6 addresses, routes and metrics follow"));
    assert!(machine.shell.scripts.borrow().is_empty());

    let before = machine.state();
    machine.with(cards, |tools| copy(tools, Kind::Paravirtual, false, false)).unwrap();
    assert_eq!(machine.state(), before, "a second run does nothing");

    // The paravirtual boot: what stands in the IP stack follows.
    machine.with(paravirtual(false), |tools| copy(tools, Kind::Paravirtual, false, false)).unwrap();
    let expected = [
        "New-NetIPAddress -InterfaceIndex 11 -IPAddress 2001:db8::10 -PrefixLength 64 -SkipAsSource $false",
        "New-NetRoute -InterfaceIndex 11 -DestinationPrefix 198.51.100.0/24 -NextHop 192.0.2.254 -RouteMetric 5",
        "New-NetRoute -InterfaceIndex 11 -DestinationPrefix ::/0 -NextHop fe80::1 -RouteMetric 256",
        "Set-NetIPInterface -InterfaceIndex 11 -AddressFamily IPv4 -AutomaticMetric Disabled -InterfaceMetric 25",
    ];
    assert_eq!(*machine.shell.scripts.borrow(), expected);
    machine.with(paravirtual(true), |tools| copy(tools, Kind::Paravirtual, false, false)).unwrap();
    assert_eq!(machine.shell.scripts.borrow().len(), expected.len());
}

#[test]
fn a_card_that_its_user_changed_is_left_alone_and_goes_back_with_him() {
    let mut machine = Machine::new();
    machine.with(emulated(), remember).unwrap();
    machine.with(paravirtual(false), |tools| copy(tools, Kind::Paravirtual, false, false)).unwrap();
    let e2 = machine.settings(E2);
    let key = format!(r"CurrentControlSet\Services\Tcpip\Parameters\Interfaces\{P1}");
    machine.registry.set(&key, "IPAddress", &Value::list(&["192.0.2.99"])).unwrap();
    let changed = machine.settings(P1);

    machine.with(paravirtual(true), |tools| copy(tools, Kind::Paravirtual, false, false)).unwrap();
    assert_eq!(machine.settings(P1), changed);
    assert!(machine.has_said("Ethernet 3 was configured by hand"));

    // Uninstalled: what the user had last is what he keeps. The second card was never configured, so it takes it as well.
    machine.with(paravirtual(true), |tools| copy(tools, Kind::Emulated, false, false)).unwrap();
    assert_eq!(machine.settings(E1), changed);
    assert_ne!(machine.settings(E2), e2);
    assert_eq!(machine.settings(E2), machine.settings(P2));
}

#[test]
fn force_overwrites() {
    let mut machine = Machine::new();
    machine.with(emulated(), remember).unwrap();
    machine.with(paravirtual(false), |tools| copy(tools, Kind::Paravirtual, true, false)).unwrap();
    assert_eq!(machine.settings(P2), machine.settings(E2));
}

#[test]
fn everything_is_taken_back() {
    let mut machine = Machine::new();
    let (p1, e1) = (machine.settings(P1), machine.settings(E1));
    machine.with(emulated(), remember).unwrap();
    machine.with(paravirtual(false), |tools| copy(tools, Kind::Paravirtual, false, false)).unwrap();
    assert_eq!(machine.settings(P1), e1);
    let key = format!(r"CurrentControlSet\Services\Tcpip\Parameters\Interfaces\{P1}");
    machine.registry.set(&key, "Domain", &Value::text("example.net")).unwrap();

    // The card is not there: what needs it is kept for later.
    machine.shell.scripts.borrow_mut().clear();
    machine.with(emulated(), |tools| undo(tools, false)).unwrap();
    let mut expected = p1;
    expected.insert(r"Tcpip\Parameters\Interfaces\|Domain".into(), Value::text("example.net"));
    assert_eq!(machine.settings(P1), expected);
    assert!(machine.has_said("changed since, left alone"));
    assert_eq!(machine.state().changes.len(), 4);
    assert!(machine.shell.scripts.borrow().is_empty());

    machine.with(paravirtual(true), |tools| undo(tools, false)).unwrap();
    assert!(machine.state().changes.is_empty());
    let scripts = machine.shell.scripts.borrow();
    assert_eq!(scripts[0], "Set-NetIPInterface -InterfaceIndex 11 -AddressFamily IPv4 -AutomaticMetric Enabled");
    assert!(
        scripts[3].starts_with("try{Remove-NetIPAddress -InterfaceIndex 11 -IPAddress 2001:db8::10 "),
        "{scripts:?}"
    );
}

#[test]
fn a_failure_halfway_is_finished_by_the_next_run_or_taken_back() {
    for back in [false, true] {
        let mut machine = Machine::new();
        machine.with(emulated(), remember).unwrap();
        let before = machine.settings(P1);
        machine.shell.fails_at = Some("198.51.100.0");
        let error = machine.with(paravirtual(false), |tools| copy(tools, Kind::Paravirtual, false, false)).unwrap_err();
        assert!(format!("{error:#}").contains("it fails"), "{error:#}");
        machine.shell.fails_at = None;
        if back {
            machine.with(paravirtual(false), |tools| undo(tools, false)).unwrap();
            assert_eq!(machine.settings(P1), before);
        } else {
            machine.with(paravirtual(false), |tools| copy(tools, Kind::Paravirtual, false, false)).unwrap();
            assert_eq!(machine.settings(P1), machine.settings(E1));
            assert!(machine.shell.scripts.borrow().iter().any(|script| script.contains("198.51.100.0/24")));
        }
    }
}

#[test]
fn the_power_may_go_between_any_two_writes() {
    for back in [false, true] {
        let mut cut = 0;
        loop {
            let mut machine = Machine::new();
            machine.with(emulated(), remember).unwrap();
            let before = machine.settings(P1);
            machine.registry.good_for = cut;
            let outcome = machine.with(paravirtual(true), |tools| copy(tools, Kind::Paravirtual, false, false));
            machine.registry.good_for = usize::MAX;
            let whole = machine.settings(E1);
            assert_eq!(machine.settings(P1) == whole, outcome.is_ok(), "{cut}");
            if back {
                machine.with(paravirtual(true), |tools| undo(tools, false)).unwrap();
                assert_eq!(machine.settings(P1), before, "{cut}");
            } else {
                machine.with(paravirtual(true), |tools| copy(tools, Kind::Paravirtual, false, false)).unwrap();
                assert_eq!(machine.settings(P1), whole, "{cut}");
            }
            if outcome.is_ok() {
                assert_eq!(cut, 14);
                break;
            }
            cut += 1;
        }
    }
}

#[test]
fn two_cards_of_one_address_are_nobodys_twin() {
    let mut machine = Machine::new();
    let mut cards = emulated();
    cards[1].mac = cards[0].mac;
    machine.with(cards, remember).unwrap();
    machine.with(paravirtual(false), |tools| copy(tools, Kind::Paravirtual, false, false)).unwrap();
    assert!(machine.has_said("2 cards of one kind have this address") && machine.registry.written.is_empty());
}

#[test]
fn a_damaged_memory_is_refused() {
    let mut machine = Machine::new();
    machine.with(emulated(), remember).unwrap();
    let file = machine.folder.path().join("kept").join("network.json");
    for content in ["", "{", r#"{"form":2,"cards":{},"copied":{},"changes":[]}"#] {
        std::fs::write(&file, content).unwrap();
        assert!(machine.with(emulated(), |tools| copy(tools, Kind::Paravirtual, false, false)).is_err(), "{content}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
    }
    assert!(machine.registry.written.is_empty());
}

/// A boot in which the settings are carried by themselves.
fn boot(machine: &mut Machine, cards: Vec<Card>) {
    machine.shell.scripts.borrow_mut().clear();
    machine.with(cards, carry).unwrap();
}

fn restarts(machine: &Machine) -> Vec<String> {
    let scripts = machine.shell.scripts.borrow();
    scripts.iter().filter(|script| script.contains("Restart-NetAdapter")).cloned().collect()
}

const ADDRESS: &str = r"Tcpip\Parameters\Interfaces\|IPAddress";

fn key(guid: &str) -> String {
    format!(r"CurrentControlSet\Services\Tcpip\Parameters\Interfaces\{guid}")
}

#[test]
fn what_nobody_asked_to_keep_is_not_carried() {
    let mut machine = Machine::new();
    boot(&mut machine, paravirtual(false));
    assert!(machine.registry.written.is_empty() && !machine.folder.path().join("kept").exists());
}

#[test]
fn settings_go_along_by_themselves_from_boot_to_boot() {
    let mut machine = Machine::new();
    let e1 = machine.settings(E1);
    machine.with(emulated(), remember).unwrap();
    // In the emulated boot, before anything is armed: the paravirtual card has them when it first starts.
    let both = |machine: &Machine| -> Vec<Card> {
        let there = emulated();
        let more = installed(&machine.registry).into_iter().filter(|card| !there.iter().any(|it| it.guid == card.guid));
        there.clone().into_iter().chain(more.collect::<Vec<_>>()).collect()
    };
    let cards = both(&machine);
    boot(&mut machine, cards);
    assert_eq!(machine.settings(P1), e1);
    assert!(machine.shell.scripts.borrow().is_empty(), "nothing is done to a card that is not there");
    assert!(machine.has_said("vif 1 was configured by hand"), "the second pair: {:?}", machine.said);

    // The paravirtual boot adds what the IP stack keeps, and starts no card anew, as its registry was right.
    boot(&mut machine, paravirtual(false));
    assert_eq!(machine.shell.scripts.borrow().len(), 4, "{:?}", machine.shell.scripts);
    assert!(restarts(&machine).is_empty());
    boot(&mut machine, paravirtual(true));
    let before = machine.state();
    for _ in 0..2 {
        boot(&mut machine, paravirtual(true));
        assert!(machine.said.is_empty() && machine.shell.scripts.borrow().is_empty(), "{:?}", machine.said);
        assert!(machine.state() == before, "a second run does nothing");
    }

    // Its user gives it another address there: the emulated one has it before the next boot.
    machine.registry.set(&key(P1), "IPAddress", &Value::list(&["192.0.2.99"])).unwrap();
    boot(&mut machine, paravirtual(true));
    assert_eq!(machine.settings(E1)[ADDRESS], Value::list(&["192.0.2.99"]));
    // A fall-back boot in which he goes back to DHCP: that is his, and the paravirtual card follows.
    machine.registry.set(&key(E1), "EnableDHCP", &Value::number(1)).unwrap();
    for name in ["IPAddress", "SubnetMask", "DefaultGateway", "NameServer"] {
        machine.registry.remove(&key(E1), name).unwrap();
    }
    let dhcp = machine.settings(E1);
    for cards in [both(&machine), paravirtual(true), both(&machine)] {
        boot(&mut machine, cards);
        assert_eq!((machine.settings(E1), machine.settings(P1)), (dhcp.clone(), dhcp.clone()), "{:?}", machine.said);
    }
}

#[test]
fn a_copy_that_comes_late_starts_the_card_anew() {
    let mut machine = Machine::new();
    machine.with(emulated(), remember).unwrap();
    boot(&mut machine, paravirtual(false));
    assert_eq!(machine.settings(P1), machine.settings(E1));
    let restarts = restarts(&machine);
    assert!(restarts.len() == 1 && restarts[0].contains("-InterfaceIndex 11|"), "{restarts:?}");
}

#[test]
fn what_somebody_took_away_is_not_given_again() {
    let mut machine = Machine::new();
    machine.with(emulated(), remember).unwrap();
    boot(&mut machine, paravirtual(false));
    // The addresses and routes are gone again in the paravirtual boot.
    boot(&mut machine, paravirtual(false));
    assert!(machine.shell.scripts.borrow().is_empty(), "{:?}", machine.shell.scripts);
}

#[test]
fn a_new_card_with_an_old_address_takes_nothing_away() {
    let mut machine = Machine::new();
    machine.with(emulated(), remember).unwrap();
    boot(&mut machine, paravirtual(false));
    let e1 = machine.settings(E1);
    // The driver was installed anew: the card has another GUID, and nobody has configured it.
    let new = "{1B2C3D4E-0009-4A5B-8C6D-7E8F9A0B1C2D}";
    machine.registry.set(&key(new), "EnableDHCP", &Value::number(1)).unwrap();
    let mut cards = emulated();
    let old = cards.pop().unwrap();
    cards.push(Card { guid: new.into(), ..old });
    let state = machine.folder.path().join("kept").join("network.json");
    let text = std::fs::read_to_string(&state).unwrap();
    let mut known: serde_json::Value = serde_json::from_str(&text).unwrap();
    known["cards"].as_object_mut().unwrap().remove(P1);
    std::fs::write(&state, known.to_string()).unwrap();
    boot(&mut machine, cards);
    assert_eq!((machine.settings(E1), machine.settings(new)), (e1.clone(), e1));
}

#[test]
fn the_power_may_go_while_they_are_carried() {
    for cut in 0..40 {
        let mut machine = Machine::new();
        let whole = machine.settings(E1);
        machine.with(emulated(), remember).unwrap();
        machine.registry.good_for = cut;
        let done = machine.with(paravirtual(false), carry).is_ok();
        machine.registry.good_for = usize::MAX;
        assert_eq!(machine.settings(E1), whole, "{cut}");
        // Whichever boot is next: what is half written is made whole, and never goes the other way.
        let cards = if cut % 2 == 0 { emulated() } else { paravirtual(true) };
        boot(&mut machine, cards);
        assert_eq!((machine.settings(E1), machine.settings(P1)), (whole.clone(), whole), "{cut}");
        if done {
            return;
        }
    }
    panic!("the power never held");
}
