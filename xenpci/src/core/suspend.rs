//! The order of a migration, a save, or a cancelled one of either.
//!
//! The Windows half asks [`Suspend::next`] for the next step, does it, and says how it went. So the order stands in one
//! place and is tested without Windows. The rules behind it:
//! - Until the hypercall nothing is taken apart. If any step before it fails, or the hypercall says that the suspend
//!   was cancelled, thawing is all that is left to do.
//! - Processors are captured for the hypercall and for what must not be seen half done: shared info, grant frames and
//!   the event layout. Nothing in between waits, allocates, or touches paged memory.
//! - Frontends reconnect after that, in parallel, each in its own time.

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write an empty value to `control/shutdown`: the toolstack sees that the request was taken.
    Acknowledge,
    /// Have every frontend stop submitting, in parallel, and wait for their freeze callbacks.
    FreezeDevices,
    /// Let xenstore's requests in flight end, keep new ones back.
    FreezeStore,
    /// Gather all processors, interrupts off.
    CaptureProcessors,
    /// `SCHEDOP_shutdown` with `SHUTDOWN_suspend`, on vCPU 0: a toolstack that cancels sets the 1 in its registers.
    Hypercall,
    /// New domain, processors captured, before anything else can run: unplug the emulated devices again, QEMU is a new one.
    Unplug,
    /// New domain, processors captured: map shared info.
    MapSharedInfo,
    /// New domain, processors captured: empty the grant frames and map as many as there were.
    MapGrantTable,
    /// New domain, processors captured: control blocks, event array, upcall vectors, `HVM_PARAM_CALLBACK_IRQ`.
    SetUpEvents,
    /// Let the processors go. In a new domain each registers its `vcpu_info` on its way, if it has one of its own.
    ReleaseProcessors,
    /// New domain: store ring and event channel from the HVM parameters, watches again, unanswered requests again.
    ReconnectStore,
    /// Cancelled, or failed before the hypercall: let the store's requests go on.
    ThawStore,
    /// Call every frontend's resume callback, in parallel. `cancelled`: nothing happened to their rings.
    ResumeDevices {
        /// What the callback is told.
        cancelled: bool,
    },
    /// Publish what the toolstack looks for (`control/feature-suspend`), watch `control/shutdown` again.
    Republish,
    /// The end.
    Finished,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Only of [`Step::Hypercall`]: it returned 1.
    Cancelled,
    /// It could not be done. Before the hypercall: go back. After it there is no way back: the rest is done as far as
    /// possible, and what depends on the step stays broken.
    Failed,
}

/// One migration.
#[derive(Debug)]
pub struct Suspend {
    step: Step,
    devices_frozen: bool,
    store_frozen: bool,
    /// The hypercall came back in a new domain.
    new_domain: bool,
    failed: Option<Step>,
}

impl Default for Suspend {
    fn default() -> Self {
        Self::new()
    }
}

impl Suspend {
    /// At the beginning.
    pub const fn new() -> Self {
        Self { step: Step::Acknowledge, devices_frozen: false, store_frozen: false, new_domain: false, failed: None }
    }

    /// The step to do now.
    pub fn step(&self) -> Step {
        self.step
    }

    /// The first step that failed, if any did.
    pub fn failed(&self) -> Option<Step> {
        self.failed
    }

    /// The present step ended with `outcome`; the next one.
    pub fn next(&mut self, outcome: Outcome) -> Step {
        let done = outcome == Outcome::Done;
        if outcome == Outcome::Failed && self.failed.is_none() {
            self.failed = Some(self.step);
        }
        self.step = match self.step {
            Step::Acknowledge if done => Step::FreezeDevices,
            Step::FreezeDevices => {
                // Also when it failed: some of them may be frozen.
                self.devices_frozen = true;
                if done { Step::FreezeStore } else { self.back() }
            }
            Step::FreezeStore => {
                self.store_frozen = true;
                if done { Step::CaptureProcessors } else { self.back() }
            }
            Step::CaptureProcessors => {
                if done {
                    Step::Hypercall
                } else {
                    self.back()
                }
            }
            Step::Hypercall => {
                self.new_domain = done;
                if done { Step::Unplug } else { Step::ReleaseProcessors }
            }
            Step::Unplug => Step::MapSharedInfo,
            Step::MapSharedInfo => Step::MapGrantTable,
            Step::MapGrantTable => Step::SetUpEvents,
            Step::SetUpEvents => Step::ReleaseProcessors,
            Step::ReleaseProcessors => {
                if self.new_domain {
                    Step::ReconnectStore
                } else {
                    self.back()
                }
            }
            Step::ReconnectStore => Step::ResumeDevices { cancelled: false },
            Step::ThawStore => {
                self.store_frozen = false;
                self.back()
            }
            Step::ResumeDevices { cancelled: false } => Step::Republish,
            Step::ResumeDevices { cancelled: true } | Step::Acknowledge | Step::Republish | Step::Finished => {
                Step::Finished
            }
        };
        self.step
    }

    /// The next step of the way back in a domain in which nothing happened.
    fn back(&self) -> Step {
        if self.store_frozen {
            Step::ThawStore
        } else if self.devices_frozen {
            Step::ResumeDevices { cancelled: true }
        } else {
            Step::Finished
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs to the end; every step is done but `at`, which ends with `outcome`.
    fn run(at: Option<Step>, outcome: Outcome) -> Vec<Step> {
        let mut suspend = Suspend::new();
        let mut steps = vec![suspend.step()];
        while suspend.step() != Step::Finished {
            let now = if Some(suspend.step()) == at { outcome } else { Outcome::Done };
            steps.push(suspend.next(now));
            assert!(steps.len() < 20);
        }
        assert_eq!(suspend.failed(), at.filter(|_| outcome == Outcome::Failed));
        steps
    }

    #[test]
    fn goes_through_in_order() {
        use Step::*;
        let expected = [
            Acknowledge,
            FreezeDevices,
            FreezeStore,
            CaptureProcessors,
            Hypercall,
            Unplug,
            MapSharedInfo,
            MapGrantTable,
            SetUpEvents,
            ReleaseProcessors,
            ReconnectStore,
            ResumeDevices { cancelled: false },
            Republish,
            Finished,
        ];
        assert_eq!(run(None, Outcome::Done), expected);
    }

    #[test]
    fn a_cancelled_suspend_only_thaws() {
        for outcome in [Outcome::Cancelled, Outcome::Failed] {
            let steps = run(Some(Step::Hypercall), outcome);
            let after = &steps[steps.iter().position(|step| *step == Step::Hypercall).unwrap() + 1..];
            let thaw =
                [Step::ReleaseProcessors, Step::ThawStore, Step::ResumeDevices { cancelled: true }, Step::Finished];
            assert_eq!(after, thaw);
        }
    }

    #[test]
    fn an_early_failure_undoes_only_what_was_done() {
        let tail = |at| {
            let steps = run(Some(at), Outcome::Failed);
            steps[steps.iter().position(|step| *step == at).unwrap() + 1..].to_vec()
        };
        let resume = Step::ResumeDevices { cancelled: true };
        assert_eq!(tail(Step::Acknowledge), [Step::Finished]);
        assert_eq!(tail(Step::FreezeDevices), [resume, Step::Finished]);
        assert_eq!(tail(Step::FreezeStore), [Step::ThawStore, resume, Step::Finished]);
        assert_eq!(tail(Step::CaptureProcessors), [Step::ThawStore, resume, Step::Finished]);
    }

    #[test]
    fn a_failure_in_the_new_domain_still_releases_and_resumes() {
        for at in [Step::Unplug, Step::MapSharedInfo, Step::MapGrantTable, Step::SetUpEvents, Step::ReconnectStore] {
            let steps = run(Some(at), Outcome::Failed);
            assert!(steps.contains(&Step::ReleaseProcessors));
            assert!(steps.contains(&Step::ResumeDevices { cancelled: false }));
        }
    }
}
