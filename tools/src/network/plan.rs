//! What has to change so that one card of each pair has the settings of the other.
//!
//! What somebody configured by hand is never overwritten: a card is written only if it still has what was copied to it (or from
//! it) last, or, where the pair was never copied, if nobody has configured it. So a second run does nothing, and a run after
//! the user changed the settings of the card that he uses now does no harm: also not if he went back to DHCP.

use std::io;

use super::Kind;
use super::live::{Address, Card, Route, Stack};
use super::settings::{self, Settings};
use super::state::{Change, Copied, Known, State};
use crate::registry::Registry;

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Changes, in order.
    pub changes: Vec<Change>,
    /// What a user should know.
    pub notes: Vec<String>,
    /// What both cards of a pair have when the changes are made, by their address.
    pub copied: Vec<(String, Copied)>,
}

/// An address as it is written.
pub fn shown(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The one card of a kind with an address: one that is there before one that is only remembered.
fn the_one<'a>(
    state: &'a State,
    present: &[Card],
    mac: [u8; 6],
    kind: Kind,
) -> Result<Option<(&'a String, &'a Known)>, usize> {
    let mut found: Vec<_> = state.cards.iter().filter(|(_, card)| card.mac == mac && card.kind == kind).collect();
    let is_there = |guid: &str| present.iter().any(|card| card.guid == guid && card.present.is_some());
    if found.len() > 1 && found.iter().any(|(guid, _)| is_there(guid)) {
        found.retain(|(guid, _)| is_there(guid));
    }
    if found.len() > 1 { Err(found.len()) } else { Ok(found.pop()) }
}

/// Which pairs are meant, and what may be overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// All that are known, as somebody asks.
    Asked,
    /// The same, also over what was configured by hand.
    Forced,
    /// Those of which the card that gets the settings is there, and the other is not. What is left alone is no news.
    ToPresent,
    /// Those of which the card that has the settings is there, and the other is not.
    ToAbsent,
}

/// Plans to give the cards of kind `to` the settings of their twins. `state` has met the cards that are there, `present`.
///
/// # Errors
/// The registry cannot be read.
pub fn plan(registry: &dyn Registry, state: &State, present: &[Card], to: Kind, how: How) -> io::Result<Plan> {
    let from = if to == Kind::Paravirtual { Kind::Emulated } else { Kind::Paravirtual };
    let mut plan = Plan::default();
    let mut addresses: Vec<[u8; 6]> = state.cards.values().map(|card| card.mac).collect();
    addresses.sort_unstable();
    addresses.dedup();
    for mac in addresses {
        let name = shown(&mac);
        let twins = (the_one(state, present, mac, from), the_one(state, present, mac, to));
        let pair = match twins {
            (Ok(Some(source)), Ok(Some(target))) => Pair { name, to, source, target },
            (Err(count), _) | (_, Err(count)) => {
                plan.notes.push(format!("{name}: {count} cards of one kind have this address: left alone"));
                continue;
            }
            _ => continue,
        };
        let there = [pair.source.0, pair.target.0].map(|guid| live(present, guid).is_some());
        let meant = match how {
            How::Asked | How::Forced => true,
            How::ToPresent => there == [false, true],
            How::ToAbsent => there == [true, false],
        };
        if meant {
            pair.plan(registry, state, present, how, &mut plan)?;
        }
    }
    Ok(plan)
}

/// What of a card is in the IP stack, if it is there.
fn live<'a>(present: &'a [Card], guid: &str) -> Option<&'a Stack> {
    present.iter().find(|card| card.guid == guid)?.present.as_ref().map(|(_, stack)| stack)
}

/// Two cards of one address.
struct Pair<'a> {
    /// The address.
    name: String,
    to: Kind,
    source: (&'a String, &'a Known),
    target: (&'a String, &'a Known),
}

impl Pair<'_> {
    /// Emulated, paravirtual.
    fn cards(&self) -> [String; 2] {
        let [source, target] = [self.source.0.clone(), self.target.0.clone()];
        if self.to == Kind::Paravirtual { [source, target] } else { [target, source] }
    }

    fn plan(
        &self,
        registry: &dyn Registry,
        state: &State,
        present: &[Card],
        how: How,
        plan: &mut Plan,
    ) -> io::Result<()> {
        let asked = matches!(how, How::Asked | How::Forced);
        let (name, source, target) = (&self.name, self.source, self.target);
        let Some(wanted) = settings::read(registry, source.0)? else {
            if asked {
                plan.notes.push(format!("{name}: Windows knows no settings of {}: left alone", source.1.name));
            }
            return Ok(());
        };
        let has = settings::read(registry, target.0)?.unwrap_or_default();
        let last = state.copied.get(name).filter(|last| last.cards == self.cards());
        if last.is_some_and(|last| last.unfinished && last.to != self.to) && how != How::Forced {
            // The source is half written.
            plan.notes.push(format!("{name}: a copy to {} is not finished: do that first", source.1.name));
            return Ok(());
        }
        let untouched = match last {
            Some(last) => is_ours(state, target.0, &has, last),
            // A paravirtual card of an earlier installation says nothing to the emulated one that is used now.
            None => settings::are_default(&has) && (how, self.to) != (How::ToPresent, Kind::Emulated),
        };
        if !settings::same(&has, &wanted) && !untouched && how != How::Forced {
            if how != How::ToPresent {
                plan.notes.push(format!(
                    "{name}: {} was configured by hand and is left alone; `xentool network copy --force` overwrites that",
                    target.1.name
                ));
            }
            return Ok(());
        }
        let given = last.filter(|last| !last.unfinished).and_then(|last| last.stack.as_ref());
        let mut stack = given.cloned();
        if let Some(wanted) = &source.1.stack {
            match live(present, target.0) {
                Some(has) => {
                    stack_changes(target.0, wanted, given, has, &mut plan.changes);
                    stack = Some(wanted.clone());
                }
                None if !asked || *wanted == Stack::default() => {}
                None => plan.notes.push(format!(
                    "{name}: IPv6 addresses, routes and metrics follow when this is run while {} is there",
                    target.1.name
                )),
            }
        }
        for (id, key, value) in settings::all(target.0) {
            let (before, after) = (has.get(&id).cloned(), wanted.get(&id).cloned());
            if before != after && !settings::same(&has, &wanted) {
                plan.changes.push(Change::Value { key, name: value.into(), before, after });
            }
        }
        let copied = Copied { cards: self.cards(), to: self.to, unfinished: false, settings: wanted, stack };
        plan.copied.push((name.clone(), copied));
        Ok(())
    }
}

/// Whether a card has what was copied last, or, where that was not finished, what it had before in some places.
fn is_ours(state: &State, guid: &str, there: &Settings, last: &Copied) -> bool {
    let half = |(id, at, called): (String, String, &str)| {
        let newest = state.changes.iter().rev().find_map(|change| match change {
            Change::Value { key, name, before, .. } if *key == at && name == called => Some(before.as_ref()),
            _ => None,
        });
        there.get(&id) == last.settings.get(&id) || newest.is_some_and(|before| before == there.get(&id))
    };
    settings::same(there, &last.settings) || (last.unfinished && settings::all(guid).all(half))
}

/// What the target lacks, but for what it was `given` before: that somebody took away. What it has besides stays.
fn stack_changes(guid: &str, wanted: &Stack, given: Option<&Stack>, has: &Stack, changes: &mut Vec<Change>) {
    let guid = guid.to_owned();
    let none = Stack::default();
    let known = [has, given.unwrap_or(&none)];
    for address in &wanted.addresses {
        let same = |other: &Address| other.address == address.address;
        if !known.iter().any(|stack| stack.addresses.iter().any(same)) {
            changes.push(Change::Address { guid: guid.clone(), address: *address });
        }
    }
    for route in &wanted.routes {
        let same = |other: &Route| (other.to, other.prefix, other.hop) == (route.to, route.prefix, route.hop);
        if !known.iter().any(|stack| stack.routes.iter().any(same)) {
            changes.push(Change::Route { guid: guid.clone(), route: *route });
        }
    }
    for (at, ipv6) in [false, true].into_iter().enumerate() {
        let (before, after) = (has.metrics[at], wanted.metrics[at]);
        if before != after && given.is_none_or(|given| given.metrics[at] != after) {
            changes.push(Change::Metric { guid: guid.clone(), ipv6, before, after });
        }
    }
}
