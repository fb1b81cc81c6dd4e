//! When a malicious or broken backend does which misdeed.

use std::collections::BTreeMap;

use hostile::Hostile;

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
