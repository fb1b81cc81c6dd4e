//! What is remembered from boot to boot, as JSON in a file: the cards, what was copied last, and every change that was made.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::Kind;
use super::live::{Address, Card, Route, Stack};
use super::settings::Settings;
use crate::registry::Value;

/// The form of the file that this version writes.
const FORM: u32 = 1;

/// A card as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its address.
    pub mac: [u8; 6],
    /// What it is.
    pub kind: Kind,
    /// What the user called it.
    pub name: String,
    /// Its settings in the IP stack, if it was seen while it was there.
    pub stack: Option<Stack>,
}

/// What both cards of a pair had after a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// The cards by GUID: emulated, paravirtual. It says nothing of other cards, whatever address they have.
    pub cards: [String; 2],
    /// Which of them was given the other's settings.
    pub to: Kind,
    /// The copy has begun and not ended: some of its changes may not have been made.
    pub unfinished: bool,
    /// The settings.
    pub settings: Settings,
    /// What the IP stack was given; none: the card was not there.
    pub stack: Option<Stack>,
}

/// Something that was changed, with what takes it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// A value of the registry.
    Value {
        /// Its key.
        key: String,
        /// Its name.
        name: String,
        /// What it was.
        before: Option<Value>,
        /// What it became.
        after: Option<Value>,
    },
    /// An IPv6 address was given to a card.
    Address {
        /// The card.
        guid: String,
        /// What was given.
        address: Address,
    },
    /// A route was given to a card.
    Route {
        /// The card.
        guid: String,
        /// What was given.
        route: Route,
    },
    /// The metric of a card; none is automatic.
    Metric {
        /// The card.
        guid: String,
        /// For IPv6, not IPv4.
        ipv6: bool,
        /// What it was.
        before: Option<u32>,
        /// What it became.
        after: Option<u32>,
    },
}

impl Change {
    /// Whether it is a value of the registry, of that card.
    pub fn is_value_of(&self, guid: &str) -> bool {
        matches!(self, Self::Value { key, .. } if key.ends_with(guid))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
        let metric = |metric: &Option<u32>| metric.map_or_else(|| "automatic".to_owned(), |metric| metric.to_string());
        match self {
            Self::Value { key, name, before, after } => {
                write!(f, "{key}\\{name}: {} -> {}", shown(before), shown(after))
            }
            Self::Address { guid, address } => write!(f, "{guid}: address {}/{}", address.address, address.prefix),
            Self::Route { guid, route } => write!(f, "{guid}: route {}/{} by {}", route.to, route.prefix, route.hop),
            Self::Metric { guid, ipv6, before, after } => {
                let family = if *ipv6 { "IPv6" } else { "IPv4" };
                write!(f, "{guid}: metric for {family}: {} -> {}", metric(before), metric(after))
            }
        }
    }
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    form: u32,
    /// Cards by GUID.
    pub cards: BTreeMap<String, Known>,
    /// The last copy of each pair, by the address that they share.
    pub copied: BTreeMap<String, Copied>,
    /// Every change that was made, in order, and not taken back.
    pub changes: Vec<Change>,
}

impl State {
    /// Reads the file; one that is not there remembers nothing.
    ///
    /// # Errors
    /// It cannot be read, or is not ours.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let content = match std::fs::read(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self { form: FORM, ..Self::default() }),
            content => content.with_context(|| format!("cannot read {}", file.display()))?,
        };
        let state: Self = serde_json::from_slice(&content).with_context(|| format!("{} is damaged", file.display()))?;
        if state.form != FORM {
            bail!("{} was written by another version (form {}, not {FORM})", file.display(), state.form);
        }
        Ok(state)
    }

    /// Writes the file: all of it or nothing, whenever the machine stops.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let folder = file.parent().context("the file for what is remembered has no folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let failed = || format!("cannot write {}", file.display());
        let mut new = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
        serde_json::to_writer_pretty(&mut new, self).with_context(failed)?;
        new.flush().and_then(|()| new.as_file().sync_all()).with_context(failed)?;
        new.persist(file).map_err(|error| error.error).with_context(failed)?;
        Ok(())
    }

    /// Takes note of cards.
    pub fn meet(&mut self, cards: &[Card]) {
        for card in cards {
            let before = self.cards.remove(&card.guid).and_then(|known| known.stack);
            let stack = card.present.as_ref().map(|(_, stack)| stack.clone()).or(before);
            let known = Known { mac: card.mac, kind: card.kind, name: card.name.clone(), stack };
            self.cards.insert(card.guid.clone(), known);
        }
    }
}
