//! What has to change so that one card of each pair has the settings of the other.
//!
//! What somebody configured by hand is never overwritten: a card is written only if nobody has configured it, or if it still has
//! what was copied to it (or from it) last. So a second run does nothing, and a run after the user changed the settings of the
//! card that he uses now does no harm.

use std::io;

use super::Kind;
use super::live::{Card, Stack};
use super::settings::{self, Settings};
use super::state::{Change, Known, State};
use crate::registry::Registry;

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Changes, in order.
    pub changes: Vec<Change>,
    /// What a user should know.
    pub notes: Vec<String>,
    /// What both cards of a pair have when the changes are made, by their address.
    pub copied: Vec<(String, Settings)>,
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

/// Plans to give the cards of kind `to` the settings of their twins. `state` has met the cards that are there, `present`.
/// With `force` what was configured by hand is overwritten as well.
///
/// # Errors
/// The registry cannot be read.
pub fn plan(registry: &dyn Registry, state: &State, present: &[Card], to: Kind, force: bool) -> io::Result<Plan> {
    let from = if to == Kind::Paravirtual { Kind::Emulated } else { Kind::Paravirtual };
    let mut plan = Plan::default();
    let mut addresses: Vec<[u8; 6]> = state.cards.values().map(|card| card.mac).collect();
    addresses.sort_unstable();
    addresses.dedup();
    for mac in addresses {
        let name = shown(&mac);
        let twins = (the_one(state, present, mac, from), the_one(state, present, mac, to));
        let (source, target) = match twins {
            (Ok(Some(source)), Ok(Some(target))) => (source, target),
            (Err(count), _) | (_, Err(count)) => {
                plan.notes.push(format!("{name}: {count} cards of one kind have this address: left alone"));
                continue;
            }
            _ => continue,
        };
        let Some(wanted) = settings::read(registry, source.0)? else {
            plan.notes.push(format!("{name}: Windows knows no settings of {}: left alone", source.1.name));
            continue;
        };
        let there = settings::read(registry, target.0)?.unwrap_or_default();
        let last = state.copied.get(&name);
        let untouched =
            settings::are_default(&there) || last.is_some_and(|last| is_ours(state, target.0, &there, last));
        if there != wanted && !untouched && !force {
            plan.notes.push(format!(
                "{name}: {} was configured by hand and is left alone; --force overwrites that",
                target.1.name
            ));
            continue;
        }
        for (id, key, value) in settings::all(target.0) {
            let (before, after) = (there.get(&id).cloned(), wanted.get(&id).cloned());
            if before != after {
                plan.changes.push(Change::Value { key, name: value.into(), before, after });
            }
        }
        if let Some(stack) = &source.1.stack {
            let live = present.iter().find(|card| card.guid == *target.0).and_then(|card| card.present.as_ref());
            match live {
                Some((_, has)) => stack_changes(target.0, stack, has, &mut plan.changes),
                None if *stack == Stack::default() => {}
                None => plan.notes.push(format!(
                    "{name}: IPv6 addresses, routes and metrics follow when this is run while {} is there",
                    target.1.name
                )),
            }
        }
        plan.copied.push((name, wanted));
    }
    Ok(plan)
}

/// Whether a card has what was copied last, or, where that was not finished, what it had before in some places.
fn is_ours(state: &State, guid: &str, there: &Settings, last: &Settings) -> bool {
    let half = |(id, at, called): (String, String, &str)| {
        let newest = state.changes.iter().rev().find_map(|change| match change {
            Change::Value { key, name, before, .. } if *key == at && name == called => Some(before.as_ref()),
            _ => None,
        });
        there.get(&id) == last.get(&id) || newest.is_some_and(|before| before == there.get(&id))
    };
    there == last || (state.unfinished && settings::all(guid).all(half))
}

/// What the target lacks. What it has besides stays.
fn stack_changes(guid: &str, wanted: &Stack, has: &Stack, changes: &mut Vec<Change>) {
    let guid = guid.to_owned();
    let same = |one: &super::live::Address, other: &super::live::Address| one.address == other.address;
    for address in wanted.addresses.iter().filter(|address| !has.addresses.iter().any(|has| same(has, address))) {
        changes.push(Change::Address { guid: guid.clone(), address: *address });
    }
    for route in &wanted.routes {
        let same = |has: &&super::live::Route| (has.to, has.prefix, has.hop) == (route.to, route.prefix, route.hop);
        if !has.routes.iter().any(|has| same(&has)) {
            changes.push(Change::Route { guid: guid.clone(), route: *route });
        }
    }
    for (ipv6, (before, after)) in [false, true].into_iter().zip(has.metrics.into_iter().zip(wanted.metrics)) {
        if before != after {
            changes.push(Change::Metric { guid: guid.clone(), ipv6, before, after });
        }
    }
}
