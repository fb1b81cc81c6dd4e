//! Keeps static network settings over the change from an emulated to a paravirtual network card of the same address, and
//! back. To Windows the two are different cards, each with settings of its own.
//!
//! - [`live`]: which cards there are, by what PowerShell says.
//! - [`settings`]: what is kept, and where it stands in the registry.
//! - [`state`]: what is remembered from boot to boot: cards, what was copied last, every change.
//! - [`plan`]: what has to change. Pure.
//! - [`command`]: does it, or takes it back.
//!
//! IPv4, DNS and NetBIOS settings stand in the registry for cards that are not there, too. IPv6 addresses, routes and metrics
//! do so only in a form that is not documented; they go through the cmdlets of NetTCPIP and so need the card to be there:
//! the emulated one when its settings are remembered, the paravirtual one when they are copied.

pub mod command;
pub mod live;
pub mod plan;
pub mod settings;
pub mod state;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// What a network card is to this suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// On the PCI bus: emulated, or passed through; one that is passed through shares its address with no other.
    Emulated,
    /// xennet's.
    Paravirtual,
}

/// Runs a script of PowerShell.
pub trait Shell {
    /// Runs it; what it wrote to standard output.
    ///
    /// # Errors
    /// PowerShell cannot be started, or the script failed; the error has its words.
    fn run(&self, script: &str) -> anyhow::Result<String>;
}
