//! The power goes off in every place of an installation, an upgrade and an uninstallation. Running the setup again ends
//! where it would have ended, and uninstalling ends where it all began.

mod machine;

use bootcfg::Tool;
use installer::check::X64;
use installer::engine::{Uninstalled, install, uninstall};
use installer::machine::{CertificateStore, Machine, Value};
use installer::{Choice, Component, Error, Facts, Manifest, Package};
use machine::{Fake, Lazy, ROOT, State, package, package_with};

const OLD: &str = r"D:\old";
const NEW: &str = r"D:\new";
const ALL: [&str; 5] = ["xenpci", "xenvbd", "xennet", "xenstub", "xenhide"];

fn facts() -> Facts {
    Facts { architecture: X64, build: 19045, administrator: true, test_mode: true, ..Facts::default() }
}

fn everything() -> Choice {
    Choice { components: Component::ALL.to_vec(), test_signing: true, uninstaller: None }
}

fn set_up(fake: &Fake, from: &str) -> Result<bool, Error> {
    let package = Package::open(fake, from)?;
    install(fake, &facts(), &package, ROOT, &everything())
}

/// A machine with two versions of the package at hand. The newer one has a driver less and files more.
fn fresh() -> Fake {
    let fake = Fake::new();
    package(&fake, OLD, "0.1.0", &ALL);
    package_with(&fake, NEW, "0.2.0", &["xenpci", "xenvbd", "xennet", "xenhide"], &["licence.txt", "docs/install.md"]);
    // Somebody trusts the authority's drivers already; uninstalling must not take that away.
    fake.edit().certificates.insert((CertificateStore::TrustedPublisher, b"certificate".to_vec()));
    fake
}

/// What is to be seen of an installation, but for the order in which it came about.
fn essence(state: &State) -> State {
    let mut state = state.clone();
    state.files.remove(&format!(r"{ROOT}\manifest.json"));
    state.drivers.sort_by(|one, other| one.1.cmp(&other.1));
    for (number, driver) in state.drivers.iter_mut().enumerate() {
        driver.0 = format!("oem{number}.inf");
    }
    // Identifiers of copied entries count the copies.
    let text = format!("{:?}", state.boot);
    let copies = text.matches("Xen PV drivers").count();
    assert!(copies <= 1, "{copies} entries");
    for (id, elements) in &mut state.boot {
        let made = elements.iter().any(|(_, values)| values.iter().any(|value| value.contains("Xen PV drivers")));
        if made {
            *id = "{made}".into();
        }
        elements.retain(|(name, _)| name != "displayorder");
    }
    let boot = r"SYSTEM\CurrentControlSet\Services\xenhide\Boot";
    if let Some(values) = state.registry.get_mut(boot) {
        assert!(values.contains_key("Paravirtual"));
        values.insert("Paravirtual".into(), Value::Text("{made}".into()));
    }
    state
}

/// That nothing differs; else, what does.
fn same(found: &State, expected: &State, what: &str) {
    if found == expected {
        return;
    }
    let lines = |state: &State| -> Vec<String> {
        let mut lines: Vec<String> =
            state.files.iter().map(|(name, content)| format!("{name}: {}", content.len())).collect();
        lines.extend(state.folders.iter().cloned());
        lines.extend(state.registry.iter().map(|(key, values)| format!("{key}: {values:?}")));
        lines.extend(state.drivers.iter().map(|(name, inf)| format!("{name}: {}", String::from_utf8_lossy(inf))));
        lines.extend(state.services.iter().map(|name| format!("service {name}")));
        lines.extend(state.certificates.iter().map(|certificate| format!("{certificate:?}")));
        lines.extend(state.boot.iter().map(|object| format!("{object:?}")));
        lines
    };
    let (found, expected) = (lines(found), lines(expected));
    for line in found.iter().filter(|line| !expected.contains(line)) {
        println!("+ {line}");
    }
    for line in expected.iter().filter(|line| !found.contains(line)) {
        println!("- {line}");
    }
    panic!("{what}");
}

/// Runs `change` with the power going off after 0, 1, 2, ... changes, until it does not go off any more. There are more such places
/// than `least`.
fn at_every_place(least: u32, before: impl Fn() -> Fake, change: impl Fn(&Fake), then: impl Fn(&Fake, u32, Lazy)) {
    for lazy in [Lazy::Kept, Lazy::Lost] {
        let mut places = 0;
        loop {
            let fake = before();
            let start = fake.changes();
            fake.cut_after(places);
            change(&fake);
            let went_off = fake.changes() - start == places;
            fake.power_on(lazy);
            then(&fake, places, lazy);
            if !went_off {
                break;
            }
            places += 1;
        }
        assert!(places > least, "{places} places only");
    }
}

fn installed(from: &[&str]) -> Fake {
    let fake = fresh();
    for folder in from {
        set_up(&fake, folder).unwrap();
    }
    fake.power_on(Lazy::Kept);
    fake
}

#[test]
fn an_installation_makes_all_of_it_and_an_uninstallation_leaves_nothing() {
    let fake = fresh();
    let before = fake.snapshot();
    assert!(set_up(&fake, OLD).unwrap(), "Windows has to be restarted");
    let state = fake.snapshot();
    assert_eq!(state.drivers.len(), ALL.len());
    assert!(state.services.contains("shutdownmon.exe"));
    assert!(state.files.contains_key(&format!(r"{ROOT}\drivers\xenpci\xenpci.inf")));
    let options = |id: &str| state.boot.iter().find(|(of, _)| of == id).map(|(_, elements)| elements.clone()).unwrap();
    let (first, made) = (options(bcd_model::FIRST), state.boot.last().unwrap().1.clone());
    let has = |elements: &[(String, Vec<String>)], name: &str, value: &str| {
        elements
            .iter()
            .any(|(element, values)| element == name && values.iter().any(|is| is.eq_ignore_ascii_case(value)))
    };
    assert!(has(&first, "loadoptions", "NOGPLPV") && has(&first, "testsigning", "yes"), "{first:?}");
    assert!(has(&made, "loadoptions", "GPLPV") && has(&made, "testsigning", "yes"), "{made:?}");
    let manifest = Manifest::load(&fake, ROOT).unwrap().unwrap();
    assert!(manifest.complete && manifest.version == "0.1.0");
    assert_eq!(uninstall(&fake, ROOT).unwrap(), Uninstalled::Whole { restart: true });
    same(&fake.snapshot(), &before, "something is left");
    assert_eq!(uninstall(&fake, ROOT).unwrap(), Uninstalled::Whole { restart: false });
    same(&fake.snapshot(), &before, "something is left");
}

#[test]
fn an_installation_that_was_cut_off_is_finished_or_undone() {
    let (before, after) = (fresh().snapshot(), essence(&installed(&[OLD]).snapshot()));
    let change = |fake: &Fake| drop(set_up(fake, OLD));
    at_every_place(50, fresh, change, |fake, place, lazy| {
        set_up(fake, OLD).unwrap();
        same(&essence(&fake.snapshot()), &after, &format!("finished, place {place}, {lazy:?}"));
        uninstall(fake, ROOT).unwrap();
        same(&fake.snapshot(), &before, &format!("finished and undone, place {place}, {lazy:?}"));
    });
    at_every_place(50, fresh, change, |fake, place, lazy| {
        uninstall(fake, ROOT).unwrap();
        same(&fake.snapshot(), &before, &format!("undone, place {place}, {lazy:?}"));
    });
}

#[test]
fn an_upgrade_that_was_cut_off_is_finished_or_undone() {
    let (before, after) = (fresh().snapshot(), essence(&installed(&[OLD, NEW]).snapshot()));
    assert_eq!(after.drivers.len(), 8, "the older packages stay until all goes, but for the one that is not wanted");
    let change = |fake: &Fake| drop(set_up(fake, NEW));
    at_every_place(
        50,
        || installed(&[OLD]),
        change,
        |fake, place, lazy| {
            set_up(fake, NEW).unwrap();
            same(&essence(&fake.snapshot()), &after, &format!("finished, place {place}, {lazy:?}"));
            uninstall(fake, ROOT).unwrap();
            same(&fake.snapshot(), &before, &format!("finished and undone, place {place}, {lazy:?}"));
        },
    );
    at_every_place(
        50,
        || installed(&[OLD]),
        change,
        |fake, place, lazy| {
            uninstall(fake, ROOT).unwrap();
            same(&fake.snapshot(), &before, &format!("undone, place {place}, {lazy:?}"));
        },
    );
}

#[test]
fn an_uninstallation_that_was_cut_off_is_finished_or_reversed() {
    let (before, after) = (fresh().snapshot(), essence(&installed(&[OLD]).snapshot()));
    let change = |fake: &Fake| drop(uninstall(fake, ROOT));
    at_every_place(
        50,
        || installed(&[OLD]),
        change,
        |fake, place, lazy| {
            uninstall(fake, ROOT).unwrap();
            same(&fake.snapshot(), &before, &format!("place {place}, {lazy:?}"));
        },
    );
    at_every_place(
        50,
        || installed(&[OLD]),
        change,
        |fake, place, lazy| {
            set_up(fake, OLD).unwrap();
            same(&essence(&fake.snapshot()), &after, &format!("installed again, place {place}, {lazy:?}"));
        },
    );
}

const HIDE_STATE: &str = r"SYSTEM\CurrentControlSet\Services\xenhide\State";
const HIDE_PARAMETERS: &str = r"SYSTEM\CurrentControlSet\Services\xenhide\Parameters";
const OVERRIDE: &str = r"SYSTEM\CurrentControlSet\Services\storahci\StartOverride";

/// A machine that runs from its paravirtual disk, and will do so after the next start. Windows has put the driver of the emulated
/// one off.
fn paravirtual() -> Fake {
    let fake = installed(&[OLD]);
    let entry = fake.value(r"SYSTEM\CurrentControlSet\Services\xenhide\Boot", "Paravirtual").unwrap();
    let Some(Value::Text(entry)) = entry else { panic!("{entry:?}") };
    assert_eq!(fake.bcdedit(&["/bootsequence", &entry]).unwrap().code, Some(0));
    fake.set_value(HIDE_PARAMETERS, "Disks", &Value::Number(1)).unwrap();
    unplugged(&fake);
    fake.make_key(OVERRIDE).unwrap();
    fake.set_value(OVERRIDE, "0", &Value::Number(3)).unwrap();
    fake.power_on(Lazy::Kept);
    fake
}

fn unplugged(fake: &Fake) {
    fake.make_key(HIDE_STATE).unwrap();
    fake.set_value(HIDE_STATE, "Disks", &Value::Text("unplugged".into())).unwrap();
}

/// Switches the machine on; whether it runs from its paravirtual disk. If it does not, the emulated one's driver starts.
fn boots_paravirtual(fake: &Fake, what: &str) -> bool {
    // The key is volatile.
    fake.remove_tree(HIDE_STATE).unwrap();
    let armed = fake.value(HIDE_PARAMETERS, "Disks").unwrap() == Some(Value::Number(1));
    let paravirtual = fake.boot().split(' ').any(|word| word == "GPLPV") && armed;
    if paravirtual {
        unplugged(fake);
    } else {
        assert!(!fake.has_key(OVERRIDE), "Windows does not find its disk: {what}");
    }
    paravirtual
}

#[test]
fn leaving_a_paravirtual_boot_that_was_cut_off_is_finished() {
    let before = fresh().snapshot();
    let again = std::cell::Cell::new(0);
    let change = |fake: &Fake| drop(uninstall(fake, ROOT));
    at_every_place(20, paravirtual, change, |fake, place, lazy| {
        let what = format!("place {place}, {lazy:?}");
        if boots_paravirtual(fake, &what) {
            again.set(again.get() + 1);
            assert_eq!(uninstall(fake, ROOT).unwrap(), Uninstalled::AfterRestart, "{what}");
            assert!(!boots_paravirtual(fake, &what), "the paravirtual devices are not left: {what}");
        }
        assert!(matches!(uninstall(fake, ROOT).unwrap(), Uninstalled::Whole { .. }), "{what}");
        same(&fake.snapshot(), &before, &what);
    });
    assert!(again.get() > 5, "only {} cuts are followed by another paravirtual boot", again.get());
}

#[test]
fn an_installation_waits_for_an_uninstallation_that_needs_a_restart() {
    let fake = paravirtual();
    assert_eq!(uninstall(&fake, ROOT).unwrap(), Uninstalled::AfterRestart);
    assert!(set_up(&fake, OLD).unwrap(), "Windows has to be restarted");
    assert!(fake.log.borrow().iter().any(|line| line.contains("restart Windows, then run it again")));
    assert!(!boots_paravirtual(&fake, "after both"));
    set_up(&fake, OLD).unwrap();
    same(&essence(&fake.snapshot()), &essence(&installed(&[OLD]).snapshot()), "installed again");
}

#[test]
fn an_upgrade_keeps_what_an_administrator_set() {
    let fake = installed(&[OLD]);
    let parameters = r"SYSTEM\CurrentControlSet\Services\shutdownmon\Parameters";
    fake.make_key(parameters).unwrap();
    fake.set_value(parameters, "BitLocker", &Value::Number(1)).unwrap();
    set_up(&fake, NEW).unwrap();
    assert!(fake.log.borrow().iter().any(|line| line == "stopping the service"));
    assert_eq!(fake.value(parameters, "BitLocker").unwrap(), Some(Value::Number(1)));
    let program = format!(r"{ROOT}\shutdownmon.exe");
    assert!(fake.open.borrow().contains(&program), "the service runs again");
}

#[test]
fn a_service_whose_program_is_gone_goes_too() {
    let fake = installed(&[OLD]);
    let program = format!(r"{ROOT}\shutdownmon.exe");
    fake.open.borrow_mut().remove(&program);
    assert!(fake.edit().files.remove(&program).is_some());
    uninstall(&fake, ROOT).unwrap();
    same(&fake.snapshot(), &fresh().snapshot(), "something is left");
}

#[test]
fn an_older_version_is_refused() {
    let fake = installed(&[NEW]);
    let state = fake.snapshot();
    let error = set_up(&fake, OLD).unwrap_err();
    assert_eq!(error.exit_code(), 8, "{error}");
    same(&fake.snapshot(), &state, "something is left");
}

#[test]
fn a_paravirtual_boot_is_left_before_its_drivers_go() {
    for no_tasks in [false, true] {
        leave_a_paravirtual_boot(no_tasks);
    }
}

fn leave_a_paravirtual_boot(no_tasks: bool) {
    let fake = fresh();
    fake.no_tasks.set(no_tasks);
    let before = fake.snapshot();
    set_up(&fake, OLD).unwrap();
    unplugged(&fake);
    fake.make_key(OVERRIDE).unwrap();
    fake.set_value(OVERRIDE, "0", &Value::Number(3)).unwrap();
    assert_eq!(uninstall(&fake, ROOT).unwrap(), Uninstalled::AfterRestart);
    let half = fake.snapshot();
    assert_eq!(half.drivers.len(), ALL.len(), "the disk's driver stays while Windows runs from it");
    let text = format!("{:?}", half.boot);
    assert!(!text.contains("GPLPV") && half.boot.len() == before.boot.len(), "{text}");
    assert!(!fake.has_key(OVERRIDE), "Windows must start the emulated disk's driver");
    assert_eq!(fake.value(HIDE_PARAMETERS, "Disks").unwrap(), Some(Value::Number(0)));
    let run_once = r"SOFTWARE\Microsoft\Windows\CurrentVersion\RunOnce";
    assert!(fake.value(run_once, "!Xen PV drivers").unwrap().is_some());
    // With nobody at the console, Windows' start is what goes on.
    let tasks: Vec<&String> = half.tasks.values().collect();
    let expected = format!(r#""{ROOT}\uninstall.exe" /S"#);
    assert_eq!(tasks, if no_tasks { vec![] } else { vec![&expected] });
    assert_eq!(fake.log.borrow().iter().any(|line| line.contains("when an administrator logs on")), no_tasks);
    assert!(!boots_paravirtual(&fake, "after the restart"));
    assert!(matches!(uninstall(&fake, ROOT).unwrap(), Uninstalled::Whole { .. }));
    same(&fake.snapshot(), &before, "something is left");
}

#[test]
fn bad_packages_are_refused_and_nothing_changes() {
    type Harm = fn(&Fake);
    let harms: [(&str, Harm); 7] = [
        ("a byte of a driver", |fake| fake.edit().files.get_mut(r"D:\old\drivers\xenpci\xenpci.sys").unwrap()[0] ^= 1),
        ("a file that is missing", |fake| drop(fake.edit().files.remove(r"D:\old\shutdownmon.exe"))),
        ("a list that is missing", |fake| drop(fake.edit().files.remove(r"D:\old\package.json"))),
        ("half a list", |fake| fake.edit().files.get_mut(r"D:\old\package.json").unwrap().truncate(100)),
        ("a path that leads out", |fake| {
            let mut state = fake.edit();
            let list = state.files.get_mut(r"D:\old\package.json").unwrap();
            *list = String::from_utf8(list.clone()).unwrap().replace("setup.exe", "../setup.exe").into_bytes();
        }),
        ("a huge file", |fake| {
            let list = r#"{"version":"1.0","signature":"test","files":[{"path":"a","sha256":"","size":999999999999}]}"#;
            fake.edit().files.insert(r"D:\old\package.json".into(), list.into());
        }),
        ("files that are huge together", |fake| {
            let file = |size: u64| format!(r#"{{"path":"a","sha256":"","size":{size}}}"#);
            let files = [file(u64::MAX), file(2)].join(",");
            let list = format!(r#"{{"version":"1.0","signature":"test","files":[{files}]}}"#);
            fake.edit().files.insert(r"D:\old\package.json".into(), list.into());
        }),
    ];
    for (what, harm) in harms {
        let fake = fresh();
        harm(&fake);
        let state = fake.snapshot();
        let error = set_up(&fake, OLD).unwrap_err();
        assert_eq!(error.exit_code(), 7, "{what}: {error}");
        same(&fake.snapshot(), &state, what);
    }
}

#[test]
fn what_stands_in_the_way_is_said_and_a_later_run_goes_on() {
    // No space.
    let fake = fresh();
    let before = fake.snapshot();
    fake.free_bytes.set(Some(1000));
    let error = set_up(&fake, OLD).unwrap_err();
    assert_eq!(error.exit_code(), 12, "the record is what grows: {error}");
    fake.free_bytes.set(None);
    set_up(&fake, OLD).unwrap();
    // A program that somebody holds open.
    let held = format!(r"{ROOT}\setup.exe");
    fake.open.borrow_mut().insert(held.clone());
    let error = set_up(&fake, NEW).unwrap_err();
    assert_eq!(error.exit_code(), 10);
    assert!(error.to_string().contains(&held) && error.to_string().contains("open"), "{error}");
    fake.open.borrow_mut().remove(&held);
    set_up(&fake, NEW).unwrap();
    // A drive that BitLocker guards: before anything is changed.
    let other = fresh();
    other.bit_locker.set(true);
    let error = set_up(&other, OLD).unwrap_err();
    assert_eq!(error.exit_code(), 11, "{error}");
    same(&other.snapshot(), &before, "something is left");
    // A record that is damaged.
    let path = format!(r"{ROOT}\manifest.json");
    let record = fake.edit().files.insert(path.clone(), b"{".to_vec()).unwrap();
    assert_eq!(uninstall(&fake, ROOT).unwrap_err().exit_code(), 12);
    fake.edit().files.insert(path, record);
    uninstall(&fake, ROOT).unwrap();
    same(&fake.snapshot(), &before, "something is left");
}

#[test]
fn a_disk_that_fills_up_anywhere_loses_nothing() {
    let (before, after) = (fresh().snapshot(), essence(&installed(&[OLD, NEW]).snapshot()));
    let (mut full, mut room) = (0, 0);
    loop {
        for again in [true, false] {
            let fake = installed(&[OLD]);
            // The largest file that there is room for: the record of changes grows with every step.
            fake.free_bytes.set(Some(room));
            let outcome = set_up(&fake, NEW);
            fake.free_bytes.set(None);
            match outcome {
                Ok(_) => {
                    assert!(full > 20, "only {full} places where the disk is full");
                    return;
                }
                Err(error) => assert!([10, 12].contains(&error.exit_code()), "room {room}: {error}"),
            }
            full += 1;
            if again {
                set_up(&fake, NEW).unwrap();
                same(&essence(&fake.snapshot()), &after, &format!("finished, room {room}"));
            }
            uninstall(&fake, ROOT).unwrap();
            same(&fake.snapshot(), &before, &format!("undone, room {room}, {again}"));
        }
        room += 97;
    }
}

#[test]
fn a_choice_that_changes_is_followed() {
    let fake = fresh();
    let before = fake.snapshot();
    let package = Package::open(&fake, OLD).unwrap();
    let only = |components: &[Component]| Choice { components: components.to_vec(), ..everything() };
    install(&fake, &facts(), &package, ROOT, &only(&Component::ALL)).unwrap();
    install(&fake, &facts(), &package, ROOT, &only(&[Component::Disk])).unwrap();
    let state = fake.snapshot();
    let names: Vec<String> = fake.stored_drivers().unwrap().into_iter().map(|driver| driver.identity.catalog).collect();
    assert_eq!(names, ["xenvbd.cat", "xenpci.cat"]);
    assert!(state.services.is_empty());
    assert!(!state.registry.keys().any(|key| key.contains("xenhide")));
    uninstall(&fake, ROOT).unwrap();
    same(&fake.snapshot(), &before, "something is left");
}
