//! Which cards there are, and what of their settings only the running Windows knows.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{Kind, Shell};
use crate::registry::Registry;

/// Asks for everything at once. The cmdlets complain where there is nothing to list, so that alone is no failure.
/// <https://learn.microsoft.com/powershell/module/nettcpip/>,
/// <https://learn.microsoft.com/powershell/module/netadapter/get-netadapter>,
/// <https://learn.microsoft.com/powershell/module/pnpdevice/get-pnpdevice>
const QUESTION: &str = "$ErrorActionPreference='SilentlyContinue';\
    [Console]::OutputEncoding=New-Object Text.UTF8Encoding $false;\
    $r=@{\
    adapters=@(Get-NetAdapter -IncludeHidden|Select-Object InterfaceGuid,PermanentAddress,PnPDeviceID,InterfaceIndex,Name);\
    addresses=@(Get-NetIPAddress -AddressFamily IPv6 -PolicyStore PersistentStore\
    |Select-Object InterfaceIndex,IPAddress,PrefixLength,SkipAsSource);\
    routes=@(Get-NetRoute -PolicyStore PersistentStore\
    |Select-Object InterfaceIndex,DestinationPrefix,NextHop,RouteMetric);\
    interfaces=@(Get-NetIPInterface -PolicyStore PersistentStore|Select-Object InterfaceIndex,\
    @{n='Family';e={[int]$_.AddressFamily}},@{n='Automatic';e={[int]$_.AutomaticMetric}},InterfaceMetric);\
    present=@(Get-PnpDevice -Class Net -PresentOnly|ForEach-Object{$_.InstanceId})};\
    $f=@($Error|Where-Object{$_.CategoryInfo.Category -ne 'ObjectNotFound'});\
    if($f.Count){[Console]::Error.WriteLine($f[0]);exit 1};\
    $r|ConvertTo-Json -Depth 3 -Compress";

/// `AF_INET` as the cmdlets number it.
const IPV4: u32 = 2;
/// `AF_INET6`.
const IPV6: u32 = 23;

#[derive(Deserialize)]
struct Answer {
    adapters: Vec<RawAdapter>,
    addresses: Vec<RawAddress>,
    routes: Vec<RawRoute>,
    interfaces: Vec<RawInterface>,
    /// Devices that are there: among the hidden adapters are those of devices that were unplugged.
    present: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawAdapter {
    interface_guid: Option<String>,
    permanent_address: Option<String>,
    #[serde(rename = "PnPDeviceID")]
    device: Option<String>,
    interface_index: u32,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawAddress {
    interface_index: u32,
    #[serde(rename = "IPAddress")]
    address: String,
    prefix_length: u8,
    skip_as_source: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRoute {
    interface_index: u32,
    destination_prefix: String,
    next_hop: String,
    route_metric: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawInterface {
    interface_index: u32,
    family: u32,
    automatic: Option<u32>,
    interface_metric: Option<u32>,
}

/// A static IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: Ipv6Addr,
    /// Bits of its prefix.
    pub prefix: u8,
    /// Not for connections that go out.
    pub skip: bool,
}

/// A persistent route of one card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub to: IpAddr,
    /// Bits of that which count.
    pub prefix: u8,
    /// By way of this; unspecified: on the link.
    pub hop: IpAddr,
    /// Its metric.
    pub metric: u32,
}

/// What of a card's settings is in the IP stack alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Static IPv6 addresses but link-local ones.
    pub addresses: Vec<Address>,
    /// Routes, but for IPv4's default routes: those are the gateways in the registry.
    pub routes: Vec<Route>,
    /// The metric for IPv4 and for IPv6; none: automatic.
    pub metrics: [Option<u32>; 2],
}

/// A card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its GUID, with braces, in upper case.
    pub guid: String,
    /// Its address.
    pub mac: [u8; 6],
    /// What it is.
    pub kind: Kind,
    /// What the user calls it, for messages.
    pub name: String,
    /// Its number and settings in the IP stack, while it is there.
    pub present: Option<(u32, Stack)>,
}

/// An address of 12 digits, with or without `:` or `-` between pairs.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let digits: String = text.trim().chars().filter(|character| !matches!(character, ':' | '-')).collect();
    if digits.len() != 12 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = u64::from_str_radix(&digits, 16).ok()?;
    number.to_be_bytes()[2..].try_into().ok()
}

/// A GUID in the one form that names are compared in, or nothing: it becomes part of a key's path.
pub fn parse_guid(text: &str) -> Option<String> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let right = inner.len() == 36
        && inner.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    right.then(|| format!("{{{}}}", inner.to_ascii_uppercase()))
}

fn kind_of(device: &str) -> Option<Kind> {
    let bus = device.split('\\').next()?;
    match bus.to_ascii_uppercase().as_str() {
        "XENPV" => Some(Kind::Paravirtual),
        "PCI" => Some(Kind::Emulated),
        _ => None,
    }
}

fn parse_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

fn stack_of(index: u32, answer: &Answer) -> Stack {
    let link_local = |address: &Ipv6Addr| address.segments()[0] & 0xffc0 == 0xfe80;
    let address = |raw: &RawAddress| {
        let address: Ipv6Addr = raw.address.split('%').next()?.parse().ok()?;
        (!link_local(&address) && raw.prefix_length <= 128).then_some(Address {
            address,
            prefix: raw.prefix_length,
            skip: raw.skip_as_source.unwrap_or(false),
        })
    };
    let route = |raw: &RawRoute| {
        let (to, prefix) = parse_prefix(&raw.destination_prefix)?;
        let hop: IpAddr = raw.next_hop.split('%').next()?.parse().ok()?;
        let default = to.is_ipv4() && prefix == 0;
        (!default && hop.is_ipv4() == to.is_ipv4()).then_some(Route {
            to,
            prefix,
            hop,
            metric: raw.route_metric.unwrap_or(0),
        })
    };
    let metric = |family: u32| {
        let mut interfaces = answer.interfaces.iter();
        let found = interfaces.find(|raw| raw.interface_index == index && raw.family == family)?;
        found.interface_metric.filter(|_| found.automatic == Some(0))
    };
    Stack {
        addresses: answer.addresses.iter().filter(|raw| raw.interface_index == index).filter_map(address).collect(),
        routes: answer.routes.iter().filter(|raw| raw.interface_index == index).filter_map(route).collect(),
        metrics: [metric(IPV4), metric(IPV6)],
    }
}

/// The cards that Windows lists, by PowerShell's answer.
///
/// # Errors
/// It is not what was asked for.
pub fn parse(answer: &str) -> anyhow::Result<Vec<Card>> {
    let answer: Answer = serde_json::from_str(answer.trim_start_matches('\u{feff}').trim())
        .context("PowerShell's answer about network cards is not understood")?;
    let is_there = |device: &str| answer.present.iter().any(|there| there.eq_ignore_ascii_case(device));
    let card = |raw: &RawAdapter| {
        let device = raw.device.as_deref()?;
        let present = || (raw.interface_index, stack_of(raw.interface_index, &answer));
        Some(Card {
            guid: parse_guid(raw.interface_guid.as_deref()?)?,
            mac: parse_mac(raw.permanent_address.as_deref()?)?,
            kind: kind_of(device)?,
            name: raw.name.clone().unwrap_or_default(),
            present: is_there(device).then(present),
        })
    };
    Ok(answer.adapters.iter().filter_map(card).collect())
}

/// Asks which cards Windows lists.
///
/// # Errors
/// PowerShell fails or says something else.
pub fn ask(shell: &dyn Shell) -> anyhow::Result<Vec<Card>> {
    parse(&shell.run(QUESTION).context("asking PowerShell for the network cards")?)
}

/// The paravirtual cards that are installed, whether they are there in this boot or not: the device's number is the toolstack's,
/// and `mac_of` knows the address that the toolstack gave it.
///
/// # Errors
/// The registry cannot be read.
pub fn installed(registry: &dyn Registry, mac_of: &dyn Fn(u32) -> Option<[u8; 6]>) -> std::io::Result<Vec<Card>> {
    const DEVICES: &str = r"CurrentControlSet\Enum\XENPV\VIF&REV_01";
    let text =
        |key: &str, name: &str| Ok::<_, std::io::Error>(registry.value(key, name)?.and_then(|value| value.as_text()));
    let mut cards = Vec::new();
    for instance in registry.subkeys(DEVICES)? {
        // Windows puts something of its own and an ampersand before the bus driver's number.
        let Some(number) = instance.rsplit('&').next().and_then(|number| number.parse().ok()) else { continue };
        let Some(driver) = text(&format!("{DEVICES}\\{instance}"), "Driver")? else { continue };
        let class = format!(r"CurrentControlSet\Control\Class\{driver}");
        let guid = text(&class, "NetCfgInstanceId")?.and_then(|guid| parse_guid(&guid));
        if let (Some(guid), Some(mac)) = (guid, mac_of(number)) {
            cards.push(Card { guid, mac, kind: Kind::Paravirtual, name: format!("vif {number}"), present: None });
        }
    }
    Ok(cards)
}
