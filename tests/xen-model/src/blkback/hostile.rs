//! What a malicious or broken backend does.

use std::collections::BTreeMap;

/// One way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hostile {
    /// A response's id is far outside the ring.
    IdOutOfRange,
    /// A response's id is in range, but that request is not outstanding; the true response is lost.
    IdNotOutstanding,
    /// A response carries the id of the response before it; the true one is lost.
    DuplicateId,
    /// A response's id is that of an earlier request in the same slot, which is in use again; the true one is lost.
    StaleId,
    /// A response names another operation.
    WrongOperation,
    /// `rsp_prod` jumps ahead of everything that was asked.
    RspProdAhead,
    /// `rsp_prod` runs backward.
    RspProdBackward,
    /// A response never comes.
    NeverRespond,
    /// The data pages' grants stay mapped after the response.
    KeepGrantMapped,
    /// As [`Hostile::KeepGrantMapped`], and they stay mapped when the backend closes, until it is started again.
    KeepGrantForGood,
    /// A feature key or a size is 0, negative, huge or not a number: one of those that the backend writes when it offers
    /// its keys, or when the frontend connects.
    AbsurdFeatureKeys,
    /// The backend's state skips steps: Connected before the frontend offered a ring.
    StateSkip,
    /// The backend's state flaps while connected.
    StateFlap,
    /// The backend and its directory vanish with requests in flight.
    VanishMidIo,
    /// Events without end and without reason.
    EventStorm,
    /// A response's bytes change after it was published, a little later: it may be taken already, or just be read.
    RewriteResponse,
    /// A status that does not exist.
    BadStatus,
    /// The backend's state is written again and again: a storm of watch events.
    WatchStorm,
}

impl Hostile {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::IdOutOfRange,
        Self::IdNotOutstanding,
        Self::DuplicateId,
        Self::StaleId,
        Self::WrongOperation,
        Self::RspProdAhead,
        Self::RspProdBackward,
        Self::NeverRespond,
        Self::KeepGrantMapped,
        Self::KeepGrantForGood,
        Self::AbsurdFeatureKeys,
        Self::StateSkip,
        Self::StateFlap,
        Self::VanishMidIo,
        Self::EventStorm,
        Self::RewriteResponse,
        Self::BadStatus,
        Self::WatchStorm,
    ];
}

/// When and how often. `K` is the kind of backend's own list of misdeeds.
#[derive(Clone, Copy, Debug)]
pub struct HostilePlan<K = Hostile> {
    /// What.
    pub kind: K,
    /// Occasions that pass before the first time: responses for what happens with a response, work steps while
    /// connected for storms and flapping, handshakes for keys and skipped states.
    pub after: u32,
    /// How often.
    pub times: u32,
}

/// The plans of one backend, and what became of them.
#[derive(Debug)]
pub(crate) struct Plans<K = Hostile> {
    plans: Vec<HostilePlan<K>>,
    fired: BTreeMap<K, u64>,
}

impl<K> Default for Plans<K> {
    fn default() -> Self {
        Self { plans: Vec::new(), fired: BTreeMap::new() }
    }
}

impl<K: Copy + Ord> Plans<K> {
    pub(crate) fn add(&mut self, plan: HostilePlan<K>) {
        self.plans.push(plan);
    }

    pub(crate) fn clear(&mut self) {
        self.plans.clear();
    }

    /// An occasion for `kind`: whether it is to happen now.
    pub(crate) fn due(&mut self, kind: K) -> bool {
        let Some(plan) = self.plans.iter_mut().find(|p| p.kind == kind && p.times > 0) else { return false };
        if plan.after > 0 {
            plan.after -= 1;
            return false;
        }
        plan.times -= 1;
        *self.fired.entry(kind).or_default() += 1;
        true
    }

    /// Whether `kind` is still to happen.
    pub(crate) fn planned(&self, kind: K) -> bool {
        self.plans.iter().any(|plan| plan.kind == kind && plan.times > 0)
    }

    pub(crate) fn fired(&self) -> &BTreeMap<K, u64> {
        &self.fired
    }
}
