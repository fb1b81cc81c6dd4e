//! The network settings of the modelled Windows, for xentool's own code: the registry, the cards that are there, PowerShell as
//! far as it is asked, and the address that a card uses.
//!
//! A card reads its IPv4 address when it starts: with Windows, or when it is started anew. IPv6 addresses are the stack's; they
//! stand in a key of the model's own.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, bail};
use nt::reg::hive;
use serde::{Deserialize, Serialize};
use shutdownmon::arming::facts::Nodes;
use suites::emulated;
use xentool::network::command::{self, Tools};
use xentool::network::live::{self, Card};
use xentool::network::{Kind, Shell};
use xentool::registry::{Registry, RegistryMut, Value};

use super::order::{Order, Twin, file};
use super::windows::{Registers, Xenstore};

/// The emulated card to Windows: its GUID, its device, its number in the IP stack.
const EMULATED: &str = "{5D1C0E2A-7B44-4E0B-9A51-3F6E8D2C1B07}";
const EMULATED_DEVICE: &str = r"PCI\\VEN_10EC&DEV_8139&SUBSYS_00015853&REV_20\\3&267A616A&0&20";
const EMULATED_INDEX: u32 = 4;
/// The same of the paravirtual one; its GUID is its driver's installation's.
const PARAVIRTUAL_DEVICE: &str = r"XENPV\\VIF&REV_01\\5&1&0&0";
const PARAVIRTUAL_INDEX: u32 = 11;
/// Where IPv4's settings of cards stand, and the model's IPv6 addresses.
const INTERFACES: &str = r"CurrentControlSet\Services\Tcpip\Parameters\Interfaces";
const STACK: &str = r"CurrentControlSet\Control\Nsi";

/// The card that a boot has, and its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Which of the two it is.
    pub card: Twin,
    /// Its IPv4 address when it started; none: by DHCP.
    pub first: Option<String>,
    /// That in the end.
    pub last: Option<String>,
    /// Its static IPv6 addresses in the end.
    pub ipv6: Vec<String>,
}

fn below(key: &str) -> io::Result<&str> {
    key.strip_prefix(r"CurrentControlSet\").ok_or_else(|| io::Error::other(format!("{key} is in no control set")))
}

impl Registry for Registers {
    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
        let value = Self::at(below(key)?, |hive, key| hive.value(key, name).cloned())?;
        Ok(value.map(|value| Value { kind: value.kind, data: value.data }))
    }

    fn has_key(&self, key: &str) -> io::Result<bool> {
        bootcfg::registry::Registry::exists(self, below(key)?)
    }

    fn subkeys(&self, key: &str) -> io::Result<Vec<String>> {
        Ok(Self::at(below(key)?, |hive, key| hive.subkeys(key))?.unwrap_or_default())
    }

    fn names(&self, key: &str) -> io::Result<Vec<String>> {
        bootcfg::registry::Registry::values(self, below(key)?)
    }
}

impl RegistryMut for Registers {
    fn set(&mut self, key: &str, name: &str, value: &Value) -> io::Result<()> {
        Self::put(below(key)?, name, value.kind, value.data.clone())
    }

    fn remove(&mut self, key: &str, name: &str) -> io::Result<()> {
        bootcfg::registry::Registry::remove_value(self, below(key)?, name)
    }
}

/// The network of a boot.
pub struct Network<'c> {
    nodes: Xenstore<'c>,
    file: PathBuf,
    /// The card that is there: which it is, and its GUID.
    there: Option<(Twin, String)>,
    used: RefCell<Option<Used>>,
}

impl<'c> Network<'c> {
    /// That of a boot that has come up: the card has started.
    pub fn new(nodes: Xenstore<'c>, order: &Order) -> Self {
        let paravirtual = nt::ndis::adapter::adapters().first().map(|adapter| adapter.instance.clone());
        let there = match paravirtual {
            Some(guid) => Some((Twin::Paravirtual, guid)),
            None if order.host.nic && !emulated::nics().is_empty() => Some((Twin::Emulated, EMULATED.to_owned())),
            None => None,
        };
        let network = Self { nodes, file: order.folder.join(file::NETWORK), there, used: RefCell::new(None) };
        let first = network.address();
        let used =
            |(card, _): &(Twin, String)| Used { card: *card, first: first.clone(), last: first.clone(), ipv6: vec![] };
        *network.used.borrow_mut() = network.there.as_ref().map(used);
        network
    }

    /// What the registry has for the card that is there.
    fn address(&self) -> Option<String> {
        let (_, guid) = self.there.as_ref()?;
        Registers.value(&format!(r"{INTERFACES}\{guid}"), "IPAddress").ok()??.as_list()?.into_iter().next()
    }

    /// Windows' dialog: a static address for the card that is there, which holds at once.
    pub fn configure(&self, ipv4: &str, ipv6: &str) -> anyhow::Result<()> {
        let (_, guid) = self.there.as_ref().context("there is no card to configure")?;
        let key = format!(r"{INTERFACES}\{guid}");
        for (name, value) in [
            ("EnableDHCP", Value::number(0)),
            ("IPAddress", Value::list(&[ipv4])),
            ("SubnetMask", Value::list(&["255.255.255.0"])),
            ("DefaultGateway", Value::list(&["192.0.2.1"])),
            ("NameServer", Value::text("192.0.2.53")),
        ] {
            Registers.set(&key, name, &value)?;
        }
        Registers.set(&format!(r"{STACK}\{guid}"), ipv6, &Value::number(64))?;
        self.start_anew();
        Ok(())
    }

    fn start_anew(&self) {
        if let Some(used) = self.used.borrow_mut().as_mut() {
            used.last = self.address();
        }
    }

    fn mac(&self, number: u32) -> Option<[u8; 6]> {
        live::parse_mac(&self.nodes.read(&format!("device/vif/{number}/mac")).ok()??)
    }

    fn cards(&self) -> anyhow::Result<Vec<Card>> {
        let mut cards = live::ask(self)?;
        let installed = live::installed(&Registers, &|number| self.mac(number))?;
        let more = installed.into_iter().filter(|card| !cards.iter().any(|there| there.guid == card.guid));
        cards.extend(more.collect::<Vec<_>>());
        Ok(cards)
    }

    fn with<T>(
        &self,
        say: &mut dyn FnMut(&str),
        command: impl FnOnce(&mut Tools<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let cards = self.cards()?;
        command(&mut Tools { registry: &mut Registers, shell: self, file: &self.file, cards, say })
    }

    /// The service's part.
    pub fn carry(&self, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        self.with(say, command::carry)
    }

    /// The installer's part.
    pub fn remember(&self) -> anyhow::Result<()> {
        self.with(&mut |_| {}, command::remember)
    }

    /// The uninstaller's part: with the last of the drivers.
    pub fn give_back(&self) -> anyhow::Result<()> {
        if self.file.exists() {
            self.with(&mut |_| {}, |tools| command::copy(tools, Kind::Emulated, false, false))?;
            std::fs::remove_file(&self.file)?;
        }
        Ok(())
    }

    /// What came of it.
    pub fn used(&self) -> anyhow::Result<Option<Used>> {
        let Some((_, guid)) = &self.there else { return Ok(None) };
        let ipv6 = Registers.names(&format!(r"{STACK}\{guid}"))?;
        Ok(self.used.borrow().clone().map(|used| Used { ipv6, ..used }))
    }

    fn answer(&self) -> anyhow::Result<String> {
        let Some((card, guid)) = &self.there else {
            return Ok(r#"{"adapters":[],"addresses":[],"routes":[],"interfaces":[],"present":[]}"#.into());
        };
        let (device, index) = match card {
            Twin::Emulated => (EMULATED_DEVICE, EMULATED_INDEX),
            Twin::Paravirtual => (PARAVIRTUAL_DEVICE, PARAVIRTUAL_INDEX),
        };
        let mac: String = self.mac(0).context("the card has no address")?.map(|byte| format!("{byte:02X}")).concat();
        let address = |address: String| {
            format!(r#"{{"InterfaceIndex":{index},"IPAddress":"{address}","PrefixLength":64,"SkipAsSource":false}}"#)
        };
        let addresses: Vec<String> = Registers.names(&format!(r"{STACK}\{guid}"))?.into_iter().map(address).collect();
        Ok(format!(
            r#"{{"adapters":[{{"InterfaceGuid":"{guid}","PermanentAddress":"{mac}","PnPDeviceID":"{device}",
            "InterfaceIndex":{index},"Name":"{card:?}"}}],"addresses":[{}],"routes":[],"interfaces":[],
            "present":["{device}"]}}"#,
            addresses.join(",")
        ))
    }
}

impl Shell for Network<'_> {
    fn run(&self, script: &str) -> anyhow::Result<String> {
        if script.contains("ConvertTo-Json") {
            return self.answer();
        }
        if script.contains("Restart-NetAdapter") {
            self.start_anew();
            return Ok(String::new());
        }
        let (_, guid) = self.there.as_ref().context("there is no card")?;
        let words: Vec<&str> = script.split_whitespace().collect();
        let after = |name: &str| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
        match (script.contains("New-NetIPAddress"), after("-IPAddress")) {
            (true, Some(address)) => {
                let prefix = after("-PrefixLength").context("no prefix")?.parse()?;
                Registers.set(&format!(r"{STACK}\{guid}"), address, &Value::number(prefix))?;
                Ok(String::new())
            }
            _ => bail!("the model does not know what to do with: {script}"),
        }
    }
}

/// The model's settings of the emulated card, as Windows' setup leaves them.
pub fn untouched() -> String {
    format!(
        "\n[\\Registry\\Machine\\SYSTEM\\ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces\\{EMULATED}]\n\
         \"EnableDHCP\"=dword:00000001\n"
    )
}

/// The registry's kind of a list is the personality's.
const _: () = assert!(hive::REG_MULTI_SZ == xentool::registry::LIST);
