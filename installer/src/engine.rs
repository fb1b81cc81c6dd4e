//! Installs and uninstalls, from wherever an earlier run was cut off.
//!
//! To install: each step is recorded with what was there before it, then done. Records of steps that are not wanted any
//! more (an earlier version's) are undone at the end. To uninstall: every record is undone, the last first; the record
//! itself goes last. Every step is done again by a later run, so it does not matter where the earlier one stopped.

use crate::check::{self, Facts};
use crate::error::Error;
use crate::inf::Version;
use crate::machine::{Machine, Value};
use crate::manifest::{self, Before, Goal, Manifest, Record, unfinished};
use crate::package::{Package, join};
use crate::plan::{Choice, SERVICE, SERVICE_NAME, UNINSTALLER, plan};
use crate::step::{Restart, Step};

/// The service of `xenhide`; what it did in this boot, and what it may do.
const HIDE_STATE: &str = r"SYSTEM\CurrentControlSet\Services\xenhide\State";
const HIDE_PARAMETERS: &str = r"SYSTEM\CurrentControlSet\Services\xenhide\Parameters";
/// What Windows runs once when an administrator logs on, if its task scheduler did not do it at the start. The mark has it
/// stay until it is done.
/// <https://learn.microsoft.com/windows/win32/setupapi/run-and-runonce-registry-keys>
const RUN_ONCE: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\RunOnce";
const RUN_ONCE_NAME: &str = "!Xen PV drivers";
/// Drivers of emulated boot disks. Windows puts those off that it did not need: it must not, or the machine does not start
/// from its emulated disk.
/// <https://learn.microsoft.com/windows-hardware/drivers/install/specifying-driver-load-order>
const EMULATED: [&str; 5] = ["storahci", "pciide", "intelide", "atapi", "stornvme"];

/// How an uninstallation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uninstalled {
    /// Nothing is left.
    Whole {
        /// Whether Windows has to be restarted.
        restart: Restart,
    },
    /// This boot runs from the paravirtual disk: the next one will not, and then the rest goes.
    AfterRestart,
}

fn step_error(what: String) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::Step { what, error }
}

/// Whether this boot took the emulated devices away.
fn paravirtual_boot(machine: &impl Machine) -> bool {
    ["Disks", "Nics"]
        .iter()
        .any(|name| machine.value(HIDE_STATE, name).is_ok_and(|value| value == Some(Value::Text("unplugged".into()))))
}

/// Installs `package` into `root`, or brings what is there up to it. Nothing is changed unless everything about the machine
/// is as it must be.
///
/// # Errors
/// Why it is not installed.
pub fn install(
    machine: &impl Machine,
    facts: &Facts,
    package: &Package,
    root: &str,
    choice: &Choice,
) -> Result<Restart, Error> {
    let found = Manifest::load(machine, root)?;
    if let Some(found) = &found {
        let installed = Version::parse(&found.version).unwrap_or_default();
        if installed > package.version {
            return Err(Error::Newer { installed: found.version.clone(), offered: package.version });
        }
    }
    let boot_made = found
        .as_ref()
        .is_some_and(|found| found.records.iter().any(|record| matches!(record.step, Step::BootEntries { .. })));
    let refusals = check::refusals(machine, facts, package, choice, boot_made);
    if !refusals.is_empty() {
        return Err(Error::Refused(refusals));
    }
    let mut restart = false;
    let found = match found {
        Some(found) if found.goal == Goal::Uninstall => {
            machine.note("an uninstallation was not finished; finishing it first");
            match uninstall(machine, root)? {
                Uninstalled::Whole { restart: needed } => restart |= needed,
                Uninstalled::AfterRestart => {
                    machine.note("nothing is installed by this run: restart Windows, then run it again");
                    return Ok(true);
                }
            }
            None
        }
        found => found,
    };
    let steps = plan(machine, package, root, choice)
        .map_err(step_error("looking at the package and the boot entries".into()))?;
    let mut manifest = match found {
        Some(mut found) => {
            machine.note(&format!(
                "version {} is there{}",
                found.version,
                if found.complete { "" } else { ", not whole" }
            ));
            found.version = package.version.to_string();
            found
        }
        None => Manifest::new(package.version),
    };
    manifest.complete = false;
    manifest.components.clone_from(&choice.components);
    manifest.test_signing |= choice.test_signing;
    machine.make_folder(root).map_err(step_error(format!("folder {root}")))?;
    manifest.save(machine, root)?;
    stop_service(machine, &manifest, &steps)?;
    for step in &steps {
        let subject = step.subject();
        machine.note(&subject);
        let before = match manifest.record_of(step) {
            Some(at) => manifest.records[at].before.clone(),
            None => step.before(machine).map_err(step_error(subject.clone()))?,
        };
        let record = Record { step: step.clone(), before };
        match manifest.record_of(step) {
            Some(at) if manifest.records[at] == record => {}
            Some(at) => {
                manifest.records[at] = record;
                manifest.save(machine, root)?;
            }
            None => {
                manifest.records.push(record);
                manifest.save(machine, root)?;
            }
        }
        restart |= step.act(machine, package).map_err(step_error(subject))?;
    }
    restart |= drop_unwanted(machine, &mut manifest, &steps, root)?;
    machine.flush_registry().map_err(step_error("writing the registry to the disk".into()))?;
    manifest.complete = true;
    manifest.save(machine, root)?;
    machine.note(&format!("version {} is installed", package.version));
    Ok(restart)
}

/// A program that runs cannot be replaced. The service's step starts it again; what an administrator has set for it stays.
fn stop_service(machine: &impl Machine, manifest: &Manifest, steps: &[Step]) -> Result<(), Error> {
    let Some(old) = manifest.records.iter().find(|record| matches!(record.step, Step::Service { .. })) else {
        return Ok(());
    };
    let sum_of = |step: &Step| match step {
        Step::File { from, sha256, .. } if from == SERVICE => Some(sha256.clone()),
        _ => None,
    };
    let new = steps.iter().find_map(sum_of);
    let Step::Service { program } = &old.step else { return Ok(()) };
    let there = machine.read(program).map_err(step_error(program.clone()))?;
    if there.map(|content| crate::package::sum(&content)) == new {
        return Ok(());
    }
    machine.note("stopping the service");
    machine.stop_service(SERVICE_NAME).map_err(step_error("stopping the service".into()))
}

/// Undoes what an earlier version or choice had and this one has not.
fn drop_unwanted(
    machine: &impl Machine,
    manifest: &mut Manifest,
    steps: &[Step],
    root: &str,
) -> Result<Restart, Error> {
    let mut restart = false;
    let paravirtual = paravirtual_boot(machine);
    let wanted: Vec<String> = steps.iter().map(Step::subject).collect();
    for at in (0..manifest.records.len()).rev() {
        let record = &manifest.records[at];
        // The test mode is given up by an uninstallation alone, and whoever uninstalls needs the uninstaller.
        let kept = match &record.step {
            Step::TestSigning { .. } => true,
            Step::File { from, .. } => from == UNINSTALLER,
            _ => false,
        };
        let subject = record.step.subject();
        if kept || wanted.contains(&subject) {
            continue;
        }
        if paravirtual && matches!(record.step, Step::Driver { .. } | Step::BootEntries { .. }) {
            machine.note(&format!("in use, so it stays until this is run in an emulated boot: {subject}"));
            continue;
        }
        machine.note(&format!("not wanted any more: {subject}"));
        restart |= record.step.undo(machine, &record.before).map_err(step_error(subject))?;
        machine.flush_registry().map_err(step_error("writing the registry to the disk".into()))?;
        manifest.records.remove(at);
        manifest.save(machine, root)?;
    }
    Ok(restart)
}

/// Takes away everything that was ever recorded in `root`. Nothing there is no error.
///
/// # Errors
/// Why it is not all gone. Run again, it goes on.
pub fn uninstall(machine: &impl Machine, root: &str) -> Result<Uninstalled, Error> {
    let Some(mut manifest) = Manifest::load(machine, root)? else {
        machine.note("nothing is recorded");
        remove_root(machine, root)?;
        return Ok(Uninstalled::Whole { restart: false });
    };
    if manifest.goal != Goal::Uninstall {
        manifest.goal = Goal::Uninstall;
        manifest.complete = false;
        manifest.save(machine, root)?;
    }
    if paravirtual_boot(machine) {
        leave_paravirtual(machine, &mut manifest, root)?;
        return Ok(Uninstalled::AfterRestart);
    }
    let mut restart = false;
    for record in manifest.records.iter().rev() {
        let subject = record.step.subject();
        machine.note(&format!("undo: {subject}"));
        restart |= record.step.undo(machine, &record.before).map_err(step_error(subject))?;
    }
    machine.flush_registry().map_err(step_error("writing the registry to the disk".into()))?;
    remove_root(machine, root)?;
    machine.note("nothing is left");
    Ok(Uninstalled::Whole { restart })
}

/// The last of it: the record, then the folder.
fn remove_root(machine: &impl Machine, root: &str) -> Result<(), Error> {
    let record = join(root, manifest::NAME);
    for path in [unfinished(&record), record] {
        machine.remove_file(&path).map_err(step_error(path))?;
    }
    if machine.has_folder(root) {
        machine.remove_folder(root).map_err(step_error(format!("folder {root}")))?;
    }
    Ok(())
}

/// The first half of an uninstallation in a boot that runs from the paravirtual disk, whose driver cannot go now: has the
/// next boot use the emulated devices, and has the second half follow it. Before anything makes the next boot an emulated one,
/// it is on the disk that the drivers of the emulated disks start.
fn leave_paravirtual(machine: &impl Machine, manifest: &mut Manifest, root: &str) -> Result<(), Error> {
    let flush = || machine.flush_registry().map_err(step_error("writing the registry to the disk".into()));
    machine.note("Windows runs from its paravirtual devices; the rest goes after a restart");
    let command = format!("\"{}\" /S", join(root, UNINSTALLER));
    let at_logon = Value::Text(command.clone());
    let logon = Step::Value { key: RUN_ONCE.into(), name: RUN_ONCE_NAME.into(), value: at_logon.clone() };
    let start = Step::Resume { command };
    for step in [&logon, &start] {
        if manifest.record_of(step).is_none() {
            manifest.records.push(Record { step: step.clone(), before: Before::Absent });
            manifest.save(machine, root)?;
        }
    }
    machine.set_value(RUN_ONCE, RUN_ONCE_NAME, &at_logon).map_err(step_error(logon.subject()))?;
    if let Err(error) = start.schedule(machine) {
        machine.note(&format!("{}: {error}; the rest goes when an administrator logs on", start.subject()));
    }
    for driver in EMULATED {
        let key = format!(r"SYSTEM\CurrentControlSet\Services\{driver}\StartOverride");
        machine.remove_tree(&key).map_err(step_error(key))?;
    }
    flush()?;
    // The service first: it would arm the next boot again.
    let undo = |is_one: fn(&Step) -> bool| {
        manifest.records.iter().filter(|record| is_one(&record.step)).try_for_each(|record| {
            let subject = record.step.subject();
            machine.note(&format!("undo: {subject}"));
            record.step.undo(machine, &record.before).map(drop).map_err(step_error(subject))
        })
    };
    undo(|step| matches!(step, Step::Service { .. }))?;
    if machine.has_key(HIDE_PARAMETERS) {
        for name in ["Disks", "Nics"] {
            machine.set_value(HIDE_PARAMETERS, name, &Value::Number(0)).map_err(step_error(HIDE_PARAMETERS.into()))?;
        }
    }
    undo(|step| matches!(step, Step::BootEntries { .. }))?;
    flush()
}
