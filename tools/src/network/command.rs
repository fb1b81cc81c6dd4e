//! Makes planned changes and takes them back. What is about to be done is remembered first, so that whatever a power cut
//! leaves half done can be finished by the same command or be taken back.

use std::path::Path;

use anyhow::Context;

use super::live::{Card, Route};
use super::plan::{self, How, Plan, shown};
use super::settings::PERSISTENT_ROUTES;
use super::state::{Change, Copied, State};
use super::{Kind, Shell};
use crate::registry::{RegistryMut, Value};

/// What the commands work with.
pub struct Tools<'a> {
    /// The registry.
    pub registry: &'a mut dyn RegistryMut,
    /// PowerShell.
    pub shell: &'a dyn Shell,
    /// The file of what is remembered.
    pub file: &'a Path,
    /// The cards that are there or installed.
    pub cards: Vec<Card>,
    /// Tells the user and the log.
    pub say: &'a mut dyn FnMut(&str),
}

/// Remembers the cards that are there, with their settings in the IP stack.
///
/// # Errors
/// The file cannot be read or written.
pub fn remember(tools: &mut Tools<'_>) -> anyhow::Result<()> {
    let mut state = State::read(tools.file)?;
    state.meet(&tools.cards);
    state.write(tools.file)?;
    for card in &tools.cards {
        (tools.say)(&format!("remembered {}: {} {}", shown(&card.mac), card.name, card.guid));
    }
    Ok(())
}

/// Gives the cards of kind `to` the settings of their twins. `dry`: only says what would be done.
///
/// # Errors
/// The file or the registry cannot be read or written, or a cmdlet fails. What was done until then is remembered.
pub fn copy(tools: &mut Tools<'_>, to: Kind, force: bool, dry: bool) -> anyhow::Result<()> {
    let mut state = State::read(tools.file)?;
    state.meet(&tools.cards);
    let how = if force { How::Forced } else { How::Asked };
    let plan = plan::plan(&*tools.registry, &state, &tools.cards, to, how).context("reading the registry")?;
    for note in &plan.notes {
        (tools.say)(note);
    }
    for change in &plan.changes {
        (tools.say)(&format!("{}{change}", if dry { "would change " } else { "" }));
    }
    if plan.changes.is_empty() {
        (tools.say)("nothing to change");
    }
    if tools.registry.has_key(PERSISTENT_ROUTES).context("reading the registry")? && !plan.changes.is_empty() {
        (tools.say)("persistent routes of IPv4 name no card and hold as they are");
    }
    if dry {
        return Ok(());
    }
    carry_out(tools, &mut state, &plan)?;
    if plan.changes.iter().any(|change| matches!(change, Change::Value { .. })) {
        (tools.say)("this takes effect when the card is started next: with Windows, or by Restart-NetAdapter");
    }
    Ok(())
}

/// Remembers a plan, makes its changes, and remembers that they are made.
fn carry_out(tools: &mut Tools<'_>, state: &mut State, plan: &Plan) -> anyhow::Result<()> {
    state.changes.extend(plan.changes.iter().cloned());
    for (name, copied) in &plan.copied {
        state.copied.insert(name.clone(), Copied { unfinished: true, ..copied.clone() });
    }
    state.write(tools.file)?;
    for change in &plan.changes {
        make(tools, change, false).with_context(|| format!("{change}"))?;
    }
    state.copied.extend(plan.copied.iter().cloned());
    state.write(tools.file)
}

/// What nobody has to ask for, in every boot and as often as wanted: of each pair the card that is there gets what its twin was
/// given, and then its twin, for the boot in which that will be there, what the card has. A card whose settings in the
/// registry changed is started anew, so that they hold from now on. It says what it does, and nothing where there is nothing to
/// do. Where no file says that settings are to be kept, they are not.
///
/// # Errors
/// As [`copy`].
pub fn carry(tools: &mut Tools<'_>) -> anyhow::Result<()> {
    if !tools.file.exists() {
        return Ok(());
    }
    let before = State::read(tools.file)?;
    let mut state = before.clone();
    state.meet(&tools.cards);
    for how in [How::ToPresent, How::ToAbsent] {
        for to in [Kind::Paravirtual, Kind::Emulated] {
            let plan = plan::plan(&*tools.registry, &state, &tools.cards, to, how).context("reading the registry")?;
            plan.notes.iter().for_each(|note| (tools.say)(note));
            if plan.changes.is_empty() {
                state.copied.extend(plan.copied);
                continue;
            }
            plan.changes.iter().for_each(|change| (tools.say)(&change.to_string()));
            carry_out(tools, &mut state, &plan)?;
            let written = |card: &&Card| plan.changes.iter().any(|change| change.is_value_of(&card.guid));
            for (index, _) in tools.cards.iter().filter(written).filter_map(|card| card.present.as_ref()) {
                tools.shell.run(&restart_script(*index)).context("starting the card anew")?;
            }
        }
    }
    if state != before {
        state.write(tools.file)?;
    }
    Ok(())
}

/// Has a card read its settings.
/// <https://learn.microsoft.com/powershell/module/netadapter/restart-netadapter>
fn restart_script(index: u32) -> String {
    format!(
        "$ErrorActionPreference='Stop';\
         Get-NetAdapter -IncludeHidden -InterfaceIndex {index}|Restart-NetAdapter -Confirm:$false|Out-Null"
    )
}

/// Takes every change back that is remembered, the newest first. What somebody changed since stays. What needs a card that is not
/// there is remembered on.
///
/// # Errors
/// As [`copy`].
pub fn undo(tools: &mut Tools<'_>, dry: bool) -> anyhow::Result<()> {
    let mut state = State::read(tools.file)?;
    let changes = std::mem::take(&mut state.changes);
    if changes.is_empty() {
        (tools.say)("nothing to take back");
    }
    let mut left = Vec::new();
    for (at, change) in changes.iter().enumerate().rev() {
        if let Change::Value { key, name, before, after } = change {
            let now = tools.registry.value(key, name).context("reading the registry")?;
            if now == *before {
                continue;
            }
            if now != *after {
                (tools.say)(&format!("changed since, left alone: {key}\\{name}"));
                continue;
            }
        } else if index_of(&tools.cards, change).is_none() {
            (tools.say)(&format!("the card is not there, for later: {change}"));
            left.insert(0, change.clone());
            continue;
        }
        (tools.say)(&format!("{} back: {change}", if dry { "would take" } else { "take" }));
        if dry {
            continue;
        }
        if let Err(error) = make(tools, change, true) {
            // What was not reached yet, this one, and what had to wait stay remembered.
            state.changes = changes[..=at].iter().cloned().chain(left).collect();
            state.write(tools.file)?;
            return Err(error.context(format!("{change}")));
        }
    }
    if dry {
        return Ok(());
    }
    state.changes = left;
    state.copied.clear();
    state.write(tools.file)
}

/// The number in the IP stack of the card that a change is about.
fn index_of(cards: &[Card], change: &Change) -> Option<u32> {
    let (Change::Address { guid, .. } | Change::Route { guid, .. } | Change::Metric { guid, .. }) = change else {
        return None;
    };
    cards.iter().find(|card| card.guid == *guid)?.present.as_ref().map(|(index, _)| *index)
}

fn make(tools: &mut Tools<'_>, change: &Change, back: bool) -> anyhow::Result<()> {
    if let Change::Value { key, name, before, after } = change {
        return put(tools.registry, key, name, if back { before } else { after }.as_ref());
    }
    let index = index_of(&tools.cards, change).context("the card is not there")?;
    tools.shell.run(&script(change, index, back)).map(drop)
}

fn put(registry: &mut dyn RegistryMut, key: &str, name: &str, value: Option<&Value>) -> anyhow::Result<()> {
    match value {
        Some(value) => registry.set(key, name, value)?,
        None => registry.remove(key, name)?,
    }
    Ok(())
}

/// The cmdlet for a change; nothing in it but numbers and addresses that were parsed. Without `-PolicyStore` it acts at once
/// and for later. What is to be removed may be gone already.
/// <https://learn.microsoft.com/powershell/module/nettcpip/>
pub(super) fn script(change: &Change, index: u32, back: bool) -> String {
    let gone =
        |cmdlet: String| format!("try{{{cmdlet}}}catch{{if($_.CategoryInfo.Category -ne 'ObjectNotFound'){{throw}}}}");
    let route = |route: &Route| {
        format!("-InterfaceIndex {index} -DestinationPrefix {}/{} -NextHop {}", route.to, route.prefix, route.hop)
    };
    let cmdlet = match change {
        Change::Value { .. } => String::new(),
        Change::Address { address, .. } => {
            let what =
                format!("-InterfaceIndex {index} -IPAddress {} -PrefixLength {}", address.address, address.prefix);
            if back {
                gone(format!("Remove-NetIPAddress {what} -Confirm:$false"))
            } else {
                format!("New-NetIPAddress {what} -SkipAsSource ${}", address.skip)
            }
        }
        Change::Route { route: given, .. } if back => gone(format!("Remove-NetRoute {} -Confirm:$false", route(given))),
        Change::Route { route: given, .. } => format!("New-NetRoute {} -RouteMetric {}", route(given), given.metric),
        Change::Metric { ipv6, before, after, .. } => {
            let family = if *ipv6 { "IPv6" } else { "IPv4" };
            let metric = match if back { before } else { after } {
                Some(metric) => format!("-AutomaticMetric Disabled -InterfaceMetric {metric}"),
                None => "-AutomaticMetric Enabled".to_owned(),
            };
            format!("Set-NetIPInterface -InterfaceIndex {index} -AddressFamily {family} {metric}")
        }
    };
    format!("$ErrorActionPreference='Stop';{cmdlet}|Out-Null")
}
