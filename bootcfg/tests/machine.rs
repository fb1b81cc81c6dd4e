//! Setting up, arming and taking down on the model of `bcdedit`, with the power cut after every command.

use std::cell::{Cell, RefCell};
use std::io;

use bcd_model::{BOOT_MANAGER, Bcd as Machine, FIRST, Kind, Language};
use bootcfg::arm::{Next, arm, next};
use bootcfg::setup::{Made, Memory, Record, SUFFIX, set_up, take_down};
use bootcfg::tool::Output;
use bootcfg::{Bcd, Error, Id, Result, Tool};

const DRIVE: &str = "C:";

/// A computer: its store, its record, and how many more changes there are before the power goes.
struct Computer {
    machine: RefCell<Machine>,
    record: RefCell<Option<Record>>,
    left: Cell<Option<u32>>,
    /// The exit code of `manage-bde -status`; `None`: there is no such program.
    bit_locker: Cell<Option<i32>>,
}

impl Computer {
    fn new(machine: Machine) -> Self {
        Self {
            machine: RefCell::new(machine),
            record: RefCell::default(),
            left: Cell::new(None),
            bit_locker: Cell::new(None),
        }
    }

    /// One more change; fails once the power is gone.
    fn change(&self) -> io::Result<()> {
        match self.left.get() {
            Some(0) => Err(io::Error::other("the power is gone")),
            left => {
                self.left.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }

    fn set_up(&self) -> Result<Made> {
        set_up(&Bcd::new(self), self, DRIVE)
    }

    fn take_down(&self) -> Result<()> {
        take_down(&Bcd::new(self), self, DRIVE)
    }

    fn options(&self, id: &str) -> Vec<String> {
        self.machine.borrow().get(id, "loadoptions").to_vec()
    }

    /// What the next boot is, without booting.
    fn next_boot(&self) -> (String, String) {
        let started = self.machine.borrow().clone().start().expect("something starts");
        (started.id, started.options)
    }
}

impl Tool for Computer {
    fn bcdedit(&self, arguments: &[&str]) -> io::Result<Output> {
        if arguments[0] != "/enum" {
            self.change()?;
        }
        let output = self.machine.borrow_mut().bcdedit(arguments);
        Ok(Output { code: Some(output.code), text: output.text })
    }

    fn manage_bde(&self, arguments: &[&str]) -> io::Result<Option<Output>> {
        assert_eq!(arguments, ["-status", "C:", "-protectionaserrorlevel"]);
        Ok(self.bit_locker.get().map(|code| Output { code: Some(code), text: String::new() }))
    }
}

impl Memory for Computer {
    fn record(&self) -> io::Result<Option<Record>> {
        Ok(self.record.borrow().clone())
    }

    fn remember(&self, record: &Record) -> io::Result<()> {
        self.change()?;
        *self.record.borrow_mut() = Some(record.clone());
        Ok(())
    }

    fn forget(&self) -> io::Result<()> {
        self.change()?;
        *self.record.borrow_mut() = None;
        Ok(())
    }
}

/// Stores to begin with: as installed, in German, with words of the user's, with those of older drivers.
fn beginnings() -> Vec<Machine> {
    let with = |options: &str| {
        let mut machine = Machine::installed();
        machine.put(FIRST, Kind::Loader, "loadoptions", &[options]);
        machine
    };
    let mut german = Machine::installed();
    german.language = Language::German;
    let user = ["DEBUGPORT=COM1", "/GPLPV x", "NOGPLPV", "a NOGPLPV b"].map(with);
    [Machine::installed(), german].into_iter().chain(user).collect()
}

/// What must hold whenever the machine is switched on and is not armed: the entry that was the default starts, with the
/// options that it had, or with `NOGPLPV`.
fn boots(computer: &Computer, beginning: &Machine) {
    let (id, options) = computer.next_boot();
    assert_eq!(id, FIRST);
    let before = beginning.clone().start().expect("something starts").options;
    assert!(options == before || options.ends_with(" NOGPLPV"), "{options}");
}

#[test]
fn made_and_taken_away_leaves_nothing() {
    for beginning in beginnings() {
        let computer = Computer::new(beginning.clone());
        let made = computer.set_up().unwrap();
        assert_eq!(made.emulated.as_str(), FIRST);
        assert!(computer.next_boot().1.contains(" NOGPLPV"));
        arm(&Bcd::new(&computer), &made.paravirtual, Some(DRIVE)).unwrap();
        let (id, options) = computer.next_boot();
        assert_eq!(id, made.paravirtual.as_str());
        assert!(options.ends_with(" GPLPV"), "{options}");
        // Again, it is all there.
        computer.left.set(Some(1));
        assert_eq!(computer.set_up().unwrap(), made);
        computer.left.set(None);
        computer.take_down().unwrap();
        computer.take_down().unwrap();
        assert_eq!(computer.machine.borrow().objects(), beginning.objects());
        assert!(computer.record.borrow().is_none());
    }
}

#[test]
fn a_power_cut_between_any_two_steps_is_mended_by_running_again() {
    let mut cuts = 0;
    for beginning in beginnings() {
        for left in 0.. {
            let computer = Computer::new(beginning.clone());
            computer.left.set(Some(left));
            let first = computer.set_up();
            boots(&computer, &beginning);
            computer.left.set(None);
            let made = computer.set_up().unwrap();
            let loaders =
                computer.machine.borrow().objects().iter().filter(|object| object.kind == Kind::Loader).count();
            assert_eq!(loaders, 2, "one entry is made, however often it is tried");
            assert!(computer.options(FIRST)[0].contains("NOGPLPV"));
            // And the other way round.
            computer.left.set(Some(left));
            let second = computer.take_down();
            boots(&computer, &beginning);
            computer.left.set(None);
            computer.take_down().unwrap();
            assert_eq!(computer.machine.borrow().objects(), beginning.objects(), "cut after {left}, {made:?}");
            if first.is_ok() && second.is_ok() {
                break;
            }
            cuts += 1;
        }
    }
    assert!(cuts >= 20, "only {cuts} cuts");
}

#[test]
fn an_undo_before_the_end_undoes_what_was_done() {
    for left in 0.. {
        let computer = Computer::new(Machine::installed());
        computer.left.set(Some(left));
        let whole = computer.set_up().is_ok();
        computer.left.set(None);
        computer.take_down().unwrap();
        assert_eq!(computer.machine.borrow().objects(), Machine::installed().objects(), "cut after {left}");
        if whole {
            assert!(left > 4, "only {left} changes");
            break;
        }
    }
}

#[test]
fn what_a_user_changed_since_stays() {
    let computer = Computer::new(Machine::installed());
    let made = computer.set_up().unwrap();
    computer.machine.borrow_mut().put(FIRST, Kind::Loader, "loadoptions", &["a NOGPLPV b"]);
    let pv = made.paravirtual.as_str();
    computer.machine.borrow_mut().put(pv, Kind::Loader, "description", &["My own name"]);
    assert_eq!(computer.set_up().unwrap(), made, "the recorded entry is known by its identifier");
    // A user who boots it every time cannot be helped by arming.
    computer.machine.borrow_mut().put(BOOT_MANAGER, Kind::Manager, "default", &[pv]);
    assert!(matches!(arm(&Bcd::new(&computer), &made.paravirtual, None), Err(Error::DefaultParavirtual(_))));
    assert!(matches!(computer.set_up(), Err(Error::DefaultParavirtual(_))));
    computer.take_down().unwrap();
    assert_eq!(computer.options(FIRST), ["a b"]);
    assert_eq!(computer.next_boot().0, FIRST);
}

/// Another entry of the same Windows.
const OTHER: &str = "{b33f0001-1d2c-11ee-9c43-9f5d2c8a0009}";

fn put_other(machine: &mut Machine, description: &str, options: &[&str]) {
    for (name, value) in [("description", description), ("osdevice", "partition=C:"), ("systemroot", r"\WINDOWS")] {
        machine.put(OTHER, Kind::Loader, name, &[value]);
    }
    machine.put(OTHER, Kind::Loader, "loadoptions", options);
}

#[test]
fn another_default_gets_the_option_and_the_former_one_loses_it() {
    let mut machine = Machine::installed();
    machine.put(FIRST, Kind::Loader, "loadoptions", &["DEBUGPORT=COM1"]);
    put_other(&mut machine, "Windows 10 again", &["MAXPROC"]);
    let mut expected = machine.clone();
    expected.put(BOOT_MANAGER, Kind::Manager, "default", &[OTHER]);
    for left in 0.. {
        let computer = Computer::new(machine.clone());
        let made = computer.set_up().unwrap();
        computer.machine.borrow_mut().put(BOOT_MANAGER, Kind::Manager, "default", &[OTHER]);
        computer.left.set(Some(left));
        let cut = computer.set_up().is_err();
        computer.left.set(None);
        let again = computer.set_up().unwrap();
        assert_eq!((again.emulated.as_str(), &again.paravirtual), (OTHER, &made.paravirtual));
        assert_eq!(
            (computer.options(FIRST)[0].as_str(), computer.options(OTHER)[0].as_str()),
            ("DEBUGPORT=COM1", "MAXPROC NOGPLPV")
        );
        computer.take_down().unwrap();
        assert_eq!(computer.machine.borrow().objects(), expected.objects(), "cut after {left}");
        if !cut {
            assert!(left > 2, "only {left} cuts");
            break;
        }
    }
}

#[test]
fn the_only_entry_of_a_windows_is_never_deleted() {
    for is_default in [true, false] {
        let computer = Computer::new(Machine::installed());
        let made = computer.set_up().unwrap().paravirtual;
        let mut machine = computer.machine.borrow_mut();
        assert_eq!(machine.bcdedit(&["/delete", FIRST, "/cleanup"]).code, 0);
        if is_default {
            machine.put(BOOT_MANAGER, Kind::Manager, "default", &[made.as_str()]);
        }
        drop(machine);
        computer.take_down().unwrap();
        assert_eq!(computer.options(made.as_str()), [""; 0]);
        assert_eq!(computer.machine.borrow().get(made.as_str(), "systemroot"), [r"\Windows"]);
        assert!(computer.record.borrow().is_none());
    }
}

#[test]
fn options_that_do_not_come_through_are_not_written_back() {
    for options in ["NOTE=\u{fffd}", "NOTE=\u{fc}", "NOTE=?"] {
        let mut machine = Machine::installed();
        machine.put(FIRST, Kind::Loader, "loadoptions", &[options]);
        let computer = Computer::new(machine.clone());
        computer.left.set(Some(0));
        assert!(matches!(computer.set_up(), Err(Error::Letters(id)) if id.as_str() == FIRST));
        assert_eq!(computer.machine.borrow().objects(), machine.objects());
        // Somebody gave the entry such options since.
        let computer = Computer::new(Machine::installed());
        computer.set_up().unwrap();
        let changed = format!("{options} NOGPLPV");
        computer.machine.borrow_mut().put(FIRST, Kind::Loader, "loadoptions", &[changed.as_str()]);
        assert!(matches!(computer.take_down(), Err(Error::Letters(_))));
        assert_eq!(computer.options(FIRST), [changed]);
        computer.machine.borrow_mut().put(FIRST, Kind::Loader, "loadoptions", &["plain NOGPLPV"]);
        computer.take_down().unwrap();
        assert_eq!(computer.options(FIRST), ["plain"]);
    }
}

#[test]
fn entries_of_older_drivers_are_told_and_left() {
    let mut machine = Machine::installed();
    put_other(&mut machine, "Windows 10 with GPLPV", &["/GPLPV"]);
    let computer = Computer::new(machine.clone());
    let made = computer.set_up().unwrap();
    assert_eq!(made.others, [Id::parse(OTHER).unwrap()]);
    assert_ne!(made.paravirtual.as_str(), OTHER);
    computer.take_down().unwrap();
    assert_eq!(computer.machine.borrow().objects(), machine.objects());
}

#[test]
fn bit_locker_is_asked_before_anything_is_changed() {
    let computer = Computer::new(Machine::installed());
    computer.left.set(Some(0));
    computer.bit_locker.set(Some(0));
    assert!(matches!(computer.set_up(), Err(Error::BitLocker)));
    computer.bit_locker.set(Some(-1));
    assert!(matches!(computer.set_up(), Err(Error::BitLockerUnknown(Some(-1)))));
    assert_eq!(computer.machine.borrow().objects(), Machine::installed().objects());
    computer.left.set(None);
    computer.bit_locker.set(Some(1));
    let made = computer.set_up().unwrap();
    computer.bit_locker.set(Some(0));
    computer.set_up().expect("nothing is to be changed, so nothing is measured anew");
    assert!(matches!(arm(&Bcd::new(&computer), &made.paravirtual, Some(DRIVE)), Err(Error::BitLocker)));
    assert_eq!(next(&Bcd::new(&computer), &made.paravirtual).unwrap(), Next::Default);
    assert!(matches!(computer.take_down(), Err(Error::BitLocker)));
    arm(&Bcd::new(&computer), &made.paravirtual, None).expect("an administrator has the key");
    assert_eq!(next(&Bcd::new(&computer), &made.paravirtual).unwrap(), Next::Paravirtual);
}

#[test]
fn a_refusal_is_told_and_changes_nothing() {
    let mut machine = Machine::installed();
    machine.protected.push("loadoptions".into());
    let computer = Computer::new(machine);
    let error = computer.set_up().unwrap_err().to_string();
    assert!(error.contains("loadoptions") && error.contains("Secure Boot policy"), "{error}");
    assert!(computer.options(FIRST).is_empty());
    computer.take_down().unwrap();
    assert_eq!(computer.machine.borrow().objects(), Machine::installed().objects());
}

#[test]
fn another_system_as_the_default_is_refused() {
    let mut machine = Machine::installed();
    let other = "{b33f0001-1d2c-11ee-9c43-9f5d2c8a0008}";
    for (name, value) in [("osdevice", "partition=D:"), ("systemroot", r"\Windows")] {
        machine.put(other, Kind::Loader, name, &[value]);
    }
    machine.put(BOOT_MANAGER, Kind::Manager, "default", &[other]);
    let computer = Computer::new(machine.clone());
    assert!(matches!(computer.set_up(), Err(Error::OtherDefault(_))));
    machine.put(BOOT_MANAGER, Kind::Manager, "default", &[]);
    let computer = Computer::new(machine);
    assert!(matches!(computer.set_up(), Err(Error::NoDefault)));
}

#[test]
fn the_name_is_one_that_comes_through() {
    for (name, expected) in
        [("Windows 11", "Windows 11"), ("Windows 10 \u{fffd}", "Windows"), ("??? 10", "Windows"), ("", "Windows")]
    {
        let mut machine = Machine::installed();
        machine.put(FIRST, Kind::Loader, "description", &[name]);
        let computer = Computer::new(machine);
        let made = computer.set_up().unwrap();
        let found = computer.machine.borrow().get(made.paravirtual.as_str(), "description")[0].clone();
        assert_eq!(found, format!("{expected}{SUFFIX}"));
    }
}
