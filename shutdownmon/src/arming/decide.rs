//! What follows from what is known of a good boot. Pure.

use bootcfg::Mode;
use bootcfg::arm::Next;

use super::facts::{Facts, Kind};
use super::state::Tries;

/// After so many boots from the paravirtual devices that failed in a row no more are tried.
pub const MOST_FAILURES: u32 = 2;

/// What is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// xenhide may unplug the disks.
    pub disks: bool,
    /// xenhide may unplug the network cards.
    pub nics: bool,
    /// What is to be remembered.
    pub tries: Tries,
    /// The next boot is to be one from the paravirtual devices.
    pub arm: bool,
    /// What an administrator may want to know of this boot.
    pub says: Vec<String>,
}

impl Decision {
    /// What the order is, for a person.
    pub fn order(&self) -> Option<String> {
        let what = match (self.disks, self.nics) {
            (true, true) => "disks and network cards",
            (true, false) => "disks",
            (false, _) => "network cards",
        };
        self.arm.then(|| format!("the next boot uses the paravirtual {what}"))
    }
}

/// Decides. `allowed`: the administrator wants it, and there are boot entries. `next` is who boots next, where a boot from
/// the paravirtual devices was due.
pub fn decide(facts: &Facts, tries: Tries, allowed: bool, next: Option<Next>) -> Decision {
    let mut decision =
        Decision { disks: facts.disks.armed, nics: facts.nics.armed, tries, arm: false, says: Vec::new() };
    if facts.mode == Mode::Safe {
        // Nothing is to be learned of a boot without most drivers; what was ordered stands.
        return decision;
    }
    judge(facts, next, &mut decision);
    decision.disks = disks(facts, &mut decision);
    decision.nics = nics(facts, &mut decision);
    let given_up = decision.tries.failures >= MOST_FAILURES;
    if given_up {
        let failures = decision.tries.failures;
        decision.says.push(format!(
            "{failures} boots from the paravirtual devices failed in a row; the emulated ones are used until the drivers \
             are updated or `shutdownmon arm` is run"
        ));
    }
    decision.arm = allowed && !given_up && next != Some(Next::Other) && (decision.disks || decision.nics);
    decision.tries.due = decision.arm;
    if next == Some(Next::Other) {
        decision.says.push("somebody else ordered the next boot".into());
    }
    decision
}

/// What this boot says of the last order.
fn judge(facts: &Facts, next: Option<Next>, decision: &mut Decision) {
    if facts.mode == Mode::Paravirtual {
        // One that unplugged nothing says nothing: the device model may have refused.
        let unplugged = [&facts.disks, &facts.nics].into_iter().filter(|kind| kind.unplugged);
        let works: Vec<bool> = unplugged.map(|kind| kind.idle().next().is_none()).collect();
        if !works.is_empty() && works.iter().all(|works| *works) {
            decision.tries.failures = 0;
        } else if facts.disks.unplugged && decision.disks && facts.disks.idle().next().is_some() {
            decision.tries.failures += 1;
        }
    } else if decision.tries.due && next == Some(Next::Default) {
        decision.tries.failures += 1;
        decision.says.push("the last boot from the paravirtual devices did not come up; this one is emulated".into());
    }
}

fn idle(kind: &Kind) -> String {
    kind.idle().collect::<Vec<_>>().join(", ")
}

/// Disks are armed when each that would be unplugged has shown that it works, in this very boot.
fn disks(facts: &Facts, decision: &mut Decision) -> bool {
    let kind = &facts.disks;
    if !kind.installed || kind.devices.is_empty() {
        return false;
    }
    let idle = idle(kind);
    if !idle.is_empty() {
        decision.says.push(if kind.unplugged {
            format!("the emulated disks were unplugged, and {idle} does not work; they stay from the next boot on")
        } else {
            format!("the emulated disks stay: {idle} has not worked yet")
        });
    }
    idle.is_empty()
}

/// Network cards cannot be tried beside their twins. They are armed when they are installed, and not any more once they
/// were seen not to work.
fn nics(facts: &Facts, decision: &mut Decision) -> bool {
    let kind = &facts.nics;
    if kind.unplugged {
        let idle = idle(kind);
        if idle.is_empty() {
            decision.tries.nics_failed = false;
        } else if !decision.tries.nics_failed {
            decision.tries.nics_failed = true;
            decision.says.push(format!(
                "the emulated network cards were unplugged, and {idle} does not work; they stay from the next boot on"
            ));
        }
    }
    kind.installed && !kind.devices.is_empty() && !decision.tries.nics_failed
}

#[cfg(test)]
mod tests {
    use super::super::facts::Device;
    use super::*;

    fn kind(works: &[bool]) -> Kind {
        let device = |(place, works): (usize, &bool)| Device { path: format!("device/x/{place}"), works: *works };
        Kind {
            armed: false,
            installed: true,
            unplugged: false,
            devices: works.iter().enumerate().map(device).collect(),
        }
    }

    fn facts(mode: Mode, disks: Kind, nics: Kind) -> Facts {
        Facts { mode, disks, nics }
    }

    fn unplugged(kind: Kind) -> Kind {
        Kind { armed: true, unplugged: true, ..kind }
    }

    const NONE: Tries = Tries { due: false, failures: 0, nics_failed: false };
    const DUE: Tries = Tries { due: true, ..NONE };

    fn run(facts: &Facts, tries: Tries, next: Option<Next>) -> (bool, bool, bool, Tries) {
        let decision = decide(facts, tries, true, next);
        (decision.disks, decision.nics, decision.arm, decision.tries)
    }

    #[test]
    fn first_arming_needs_every_disk_seen_working() {
        let no_nics = || Kind { installed: false, ..kind(&[]) };
        for (works, armed) in [(&[true][..], true), (&[true, true], true), (&[true, false], false), (&[], false)] {
            for mode in [Mode::Emulated, Mode::Unsaid, Mode::Paravirtual] {
                let outcome = run(&facts(mode, kind(works), no_nics()), NONE, None);
                assert_eq!(outcome, (armed, false, armed, Tries { due: armed, ..NONE }), "{works:?} {mode:?}");
            }
        }
        let not_installed = Kind { installed: false, ..kind(&[true]) };
        assert_eq!(run(&facts(Mode::Emulated, not_installed, no_nics()), NONE, None), (false, false, false, NONE));
        // Armed before, and a disk was added that does not work: not any more.
        let added = Kind { armed: true, ..kind(&[true, false]) };
        assert_eq!(
            run(&facts(Mode::Emulated, added, no_nics()), DUE, Some(Next::Paravirtual)),
            (false, false, false, NONE)
        );
    }

    #[test]
    fn kinds_arm_separately() {
        let table = [(true, true), (true, false), (false, true), (false, false)];
        for (disk, nic) in table {
            let nics = Kind { installed: nic, ..kind(&[false]) };
            let outcome = run(&facts(Mode::Emulated, kind(&[disk]), nics), NONE, None);
            assert_eq!(outcome, (disk, nic, disk || nic, Tries { due: disk || nic, ..NONE }));
        }
    }

    #[test]
    fn a_boot_that_died_is_tried_once_more_and_no_more() {
        let emulated = facts(Mode::Emulated, Kind { armed: true, ..kind(&[true]) }, kind(&[]));
        let first = run(&emulated, DUE, Some(Next::Default));
        assert_eq!(first, (true, false, true, Tries { due: true, failures: 1, ..NONE }));
        // The service is started again in the same boot: the order stands, and nothing is counted.
        assert_eq!(run(&emulated, first.3, Some(Next::Paravirtual)), first);
        let second = run(&emulated, first.3, Some(Next::Default));
        assert_eq!(second, (true, false, false, Tries { due: false, failures: 2, ..NONE }));
        // And so it stays.
        assert_eq!(run(&emulated, second.3, None), second);
        // A good one in between, and the count begins anew.
        let good = facts(Mode::Paravirtual, unplugged(kind(&[true])), kind(&[]));
        assert_eq!(run(&good, first.3, Some(Next::Default)), (true, false, true, DUE));
    }

    #[test]
    fn a_disk_that_does_not_work_is_emulated_again_and_must_show_itself() {
        let bad = facts(Mode::Paravirtual, unplugged(kind(&[true, false])), unplugged(kind(&[true])));
        let after = run(&bad, DUE, Some(Next::Default));
        assert_eq!(after, (false, true, true, Tries { due: true, failures: 1, ..NONE }));
        // Looked at again in the same boot, it is not counted again.
        let mut again = bad.clone();
        again.disks.armed = false;
        assert_eq!(run(&again, after.3, Some(Next::Paravirtual)), after);
        // It comes after all: all is well.
        again.disks.devices[1].works = true;
        assert_eq!(run(&again, after.3, Some(Next::Paravirtual)), (true, true, true, DUE));
    }

    #[test]
    fn a_card_that_does_not_work_is_given_up_alone() {
        let bad = facts(Mode::Paravirtual, unplugged(kind(&[true])), unplugged(kind(&[false])));
        let given_up = Tries { nics_failed: true, ..DUE };
        assert_eq!(run(&bad, DUE, Some(Next::Default)), (true, false, true, given_up));
        let emulated = facts(Mode::Emulated, kind(&[true]), kind(&[false]));
        assert_eq!(run(&emulated, Tries { due: false, ..given_up }, None), (true, false, true, given_up));
    }

    #[test]
    fn a_device_model_that_refuses_is_no_failure() {
        let refused = facts(Mode::Paravirtual, Kind { armed: true, ..kind(&[true]) }, kind(&[]));
        assert_eq!(run(&refused, DUE, Some(Next::Default)), (true, false, true, DUE));
    }

    #[test]
    fn what_others_ordered_and_safe_mode_are_left_alone() {
        let emulated = facts(Mode::Emulated, Kind { armed: true, ..kind(&[true]) }, kind(&[]));
        assert_eq!(run(&emulated, DUE, Some(Next::Other)), (true, false, false, NONE));
        let safe = facts(Mode::Safe, Kind { armed: true, ..kind(&[false]) }, kind(&[]));
        assert_eq!(run(&safe, DUE, Some(Next::Default)), (true, false, false, DUE));
        let decision = decide(&emulated, NONE, false, None);
        assert_eq!((decision.disks, decision.arm, decision.tries.due), (true, false, false), "not allowed");
    }

    #[test]
    fn what_happens_is_said_with_names() {
        let bad = facts(Mode::Paravirtual, unplugged(kind(&[true, false])), kind(&[]));
        let says = decide(&bad, Tries { failures: 1, ..DUE }, true, Some(Next::Default)).says;
        assert_eq!(says.len(), 2, "{says:?}");
        assert!(says[0].contains("device/x/1 does not work"), "{says:?}");
        assert!(says[1].contains("2 boots") && says[1].contains("shutdownmon arm"), "{says:?}");
    }
}
