//! What is kept of a card, and where it stands in the registry.
//!
//! Only what a user sets is kept. What DHCP wrote (`Dhcp...`, `Lease...`) is a lease of the other card's.
//! <https://learn.microsoft.com/previous-versions/windows/it-pro/windows-2000-server/cc962450(v=technet.10)>

use std::collections::BTreeMap;
use std::io;

use crate::registry::{Registry, Value};

/// A place of settings: the part of the key before and after which the card's GUID stands, and the values.
struct Place {
    key: &'static str,
    names: &'static [&'static str],
}

const SERVICES: &str = r"CurrentControlSet\Services";

const PLACES: [Place; 3] = [
    Place {
        key: r"Tcpip\Parameters\Interfaces\",
        names: &[
            "EnableDHCP",
            "IPAddress",
            "SubnetMask",
            "DefaultGateway",
            "DefaultGatewayMetric",
            "NameServer",
            "Domain",
            "InterfaceMetric",
            "RegistrationEnabled",
            "RegisterAdapterName",
        ],
    },
    Place { key: r"Tcpip6\Parameters\Interfaces\", names: &["EnableDHCP", "NameServer", "Domain"] },
    Place { key: r"NetBT\Parameters\Interfaces\Tcpip_", names: &["NetbiosOptions", "NameServerList"] },
];

/// Where IPv4's persistent routes stand. They name no card, so they hold for the other one as they are.
pub const PERSISTENT_ROUTES: &str = r"CurrentControlSet\Services\Tcpip\Parameters\PersistentRoutes";

/// Settings: by the part of the key before the GUID and the value's name, with a bar between.
pub type Settings = BTreeMap<String, Value>;

/// Every setting there may be: its name among [`Settings`], the key of a card for it, the value's name.
pub fn all(guid: &str) -> impl Iterator<Item = (String, String, &'static str)> {
    PLACES.iter().flat_map(move |place| {
        let key = format!(r"{SERVICES}\{}{guid}", place.key);
        place.names.iter().map(move |name| (format!("{}|{name}", place.key), key.clone(), *name))
    })
}

/// The settings of a card. None: Windows has none for it.
///
/// # Errors
/// The registry cannot be read.
pub fn read(registry: &dyn Registry, guid: &str) -> io::Result<Option<Settings>> {
    if !registry.has_key(&format!(r"{SERVICES}\{}{guid}", PLACES[0].key))? {
        return Ok(None);
    }
    let mut settings = Settings::new();
    for (id, key, name) in all(guid) {
        if let Some(value) = registry.value(&key, name)? {
            settings.insert(id, value);
        }
    }
    Ok(Some(settings))
}

/// Whether both mean the same: Windows writes some defaults only now and then.
pub fn same(one: &Settings, other: &Settings) -> bool {
    let said = |settings: &'_ Settings| -> Settings {
        settings
            .iter()
            .filter(|(id, value)| !is_default(id, value))
            .map(|(id, value)| (id.clone(), value.clone()))
            .collect()
    };
    said(one) == said(other)
}

/// Whether a value says what its absence says.
fn is_default(id: &str, value: &Value) -> bool {
    match id.rsplit('|').next() {
        Some("EnableDHCP" | "RegistrationEnabled") => value.as_number() == Some(1),
        Some("RegisterAdapterName" | "InterfaceMetric" | "NetbiosOptions") => value.as_number() == Some(0),
        Some("NameServer" | "Domain") => value.as_text().is_some_and(|text| text.is_empty()),
        Some("NameServerList" | "DefaultGateway" | "DefaultGatewayMetric") => {
            value.as_list().is_some_and(|list| list.is_empty())
        }
        _ => false,
    }
}

/// Whether nobody has configured anything: addresses and name servers come from DHCP.
pub fn are_default(settings: &Settings) -> bool {
    settings.iter().all(|(id, value)| match id.rsplit('|').next() {
        Some("EnableDHCP") => value.as_number() != Some(0) || id.starts_with("Tcpip6"),
        Some("NameServer") => value.as_text().is_none_or(|text| text.is_empty()),
        Some("NameServerList" | "IPAddress" | "DefaultGateway") => {
            value.as_list().is_none_or(|list| list.iter().all(|entry| entry.is_empty() || entry == "0.0.0.0"))
        }
        Some("NetbiosOptions") => value.as_number() == Some(0),
        _ => true,
    })
}
