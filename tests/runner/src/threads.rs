//! Cases with real threads: what runs in that mode, and what it must have shown.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use process::Overlap;
use suites::case::Often;
use suites::{Case, Failure, Setup};

/// What the names of such runs begin with.
const PREFIX: &str = "threads/";
/// The cases that every whole test run repeats with threads: load, arrival and departure, suspends, and a flood of events,
/// of both kinds of device, and programs that talk to the store. Any other that [`refuse`] lets through can be asked for by name.
pub const CASES: &[&str] = &[
    "io/random",
    "io/large",
    "io/depth-254",
    "io/two-disks",
    "io/eight-processors",
    "hotplug/attach-detach",
    "hotplug/backend-restart",
    "hotplug/detach-under-load",
    "suspend/resume",
    "suspend/cancelled",
    "suspend/attach-during",
    "hostile/vanish",
    "hostile/event-storm",
    "control/event-storm",
    "control/isolation",
    "net/tcp",
    "net/udp",
    "net/connections",
    "net/pause",
    "net/hotplug",
    "net/suspend",
];
/// Seconds of the host that a run may take.
pub const TIMEOUT_S: u32 = 60;
/// Seconds that are left of those when the run itself ends with a report.
const REPORT_S: u32 = 5;

/// The name of a case with threads.
pub fn name(case: &str) -> String {
    format!("{PREFIX}{case}")
}

/// The case, if the name asks for threads.
pub fn case_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// How long a run may take before it ends itself.
pub fn limit() -> Duration {
    Duration::from_secs(u64::from(TIMEOUT_S - REPORT_S))
}

/// Refuses a case that is about what only the seeded mode can do.
///
/// # Errors
/// What that is.
pub fn refuse(case: &Case, setup: &Setup) -> anyhow::Result<()> {
    if setup.fault.is_some() {
        bail!("{} counts calls until one fails: the mode with threads cannot", case.name);
    }
    if setup.shared_access == Often::Always {
        bail!("{} watches every shared access: the mode with threads cannot", case.name);
    }
    if setup.vcpus < 2 {
        bail!("{} has one processor: nothing of it can run at once", case.name);
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        bail!("this host has one processor: nothing can run at once on it");
    }
    Ok(())
}

/// Adds what was counted to a run's counters, and judges it.
///
/// # Errors
/// No two processors were in drivers' code at once: the run showed nothing that the seeded mode does not show.
pub fn judge(overlap: Overlap, counters: &mut BTreeMap<String, u64>) -> Result<(), Failure> {
    counters.insert("two in drivers at once".to_owned(), overlap.at_once);
    counters.insert("interrupts between instructions".to_owned(), overlap.interrupts_between);
    if overlap.at_once == 0 {
        return Err(Failure("no two processors were seen in drivers' code at once".to_owned()));
    }
    Ok(())
}
