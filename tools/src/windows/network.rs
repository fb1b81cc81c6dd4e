//! The network of the Windows that runs, for the commands of [`crate::network`].

use std::path::PathBuf;

use anyhow::Context;
use xenstore_client::{Client, Store};

use super::{LocalMachine, PowerShell};
use crate::network::command::{Tools, carry};
use crate::network::live::{self, Card};

/// The file of what is remembered, where nothing else is said. The service acts on it as SYSTEM, so it stands where
/// administrators alone may write; every user may in a new folder of `%ProgramData%`.
///
/// # Errors
/// Windows does not say where programs are.
pub fn state_file() -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os("ProgramFiles").context("Windows does not say where %ProgramFiles% is")?;
    Ok(PathBuf::from(folder).join(r"Xen PV\network.json"))
}

/// The cards that Windows lists, and the paravirtual ones that are only installed.
///
/// # Errors
/// PowerShell fails, or the registry cannot be read.
pub fn cards(registry: &LocalMachine) -> anyhow::Result<Vec<Card>> {
    let mut cards = live::ask(&PowerShell)?;
    // Without xenpci no paravirtual card is installed whose address could be asked for.
    if let Ok(client) = Client::open() {
        let mac = |number: u32| live::parse_mac(&client.read_string(&format!("device/vif/{number}/mac")).ok()?);
        let installed = live::installed(registry, &mac).context("reading the registry")?;
        let more = installed.into_iter().filter(|card| !cards.iter().any(|there| there.guid == card.guid));
        cards.extend(more.collect::<Vec<_>>());
    }
    Ok(cards)
}

/// [`carry`] on this Windows.
///
/// # Errors
/// As those of [`carry`] and [`cards`].
pub fn carry_here(say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let file = state_file()?;
    if !file.exists() {
        return Ok(());
    }
    let mut registry = LocalMachine::system();
    let cards = cards(&registry)?;
    carry(&mut Tools { registry: &mut registry, shell: &PowerShell, file: &file, cards, say })
}
