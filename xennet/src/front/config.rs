//! What backend and frontend say to each other in the store: read once, bounded, and doubted. PASSIVE_LEVEL.
//!
//! A key without which there is no interface, with a value that it cannot have, is an error. Any other such value is
//! logged, with its key, and as good as absent.

use core::fmt;

use xenbus::{
    client::{Bus, Error, Result as BusResult, Transaction},
    interface::LogLevel,
    path::Path,
    store::{Decimal, decimal},
};

use super::Abilities;

/// Most queues of a device.
pub const MAX_QUEUES: u16 = 8;
/// Bytes of the largest IP packet where nothing else is said.
pub const DEFAULT_MTU: u16 = 1500;
/// Bytes of the largest IP packet that may be configured: what IPv4 can say and a frame can hold.
pub const MAX_MTU: u16 = 65_521;
/// Bytes of the largest IP packet of every IPv4 network (RFC 791).
pub const MIN_MTU: u16 = 68;

/// Bits a second of the link where nothing else is said: there is no wire to ask.
pub const DEFAULT_SPEED: u64 = 10_000_000_000;
/// The least speed that may be configured.
pub const MIN_SPEED: u64 = 1_000;
/// The largest: about what OID_GEN_MAX_LINK_SPEED can say, 32 bits of 100 bit/s each.
pub const MAX_SPEED: u64 = 400_000_000_000;

/// Bytes of a value that are kept for an error's text.
const TEXT: usize = 40;

/// The first bytes of a value that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    bytes: [u8; TEXT],
    len: usize,
}

impl Text {
    fn new(value: &[u8]) -> Self {
        let mut text = Self { bytes: [0; TEXT], len: value.len().min(TEXT) };
        for (to, from) in text.bytes.iter_mut().zip(value) {
            *to = *from;
        }
        text
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.bytes.get(..self.len).unwrap_or(&[]).escape_ascii())
    }
}

/// What is wrong with a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The store failed.
    Store(Error),
    /// The key is needed and absent.
    Missing,
    /// The value is longer than any that makes sense.
    TooLong,
    /// Not a decimal number.
    NotANumber(Text),
    /// A number outside of what it can be.
    Range(u64, u64, u64),
    /// Not a speed: a decimal number, with or without a unit.
    NotASpeed(Text),
    /// Not a MAC address.
    NotAnAddress(Text),
    /// A MAC address of a group, or zero.
    NotOneStation([u8; 6]),
}

/// A key of the store whose value cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Which.
    pub key: &'static str,
    /// Why.
    pub problem: Problem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        match &self.problem {
            Problem::Store(error) => write!(f, ": {error}"),
            Problem::Missing => f.write_str(" is missing"),
            Problem::TooLong => f.write_str(": the value is too long"),
            Problem::NotANumber(text) => write!(f, " = {text} is not a number"),
            Problem::Range(value, least, most) => write!(f, " = {value} is not within {least}..={most}"),
            Problem::NotASpeed(text) => write!(f, " = {text} is not a speed: a number and G, M, K or nothing"),
            Problem::NotAnAddress(text) => write!(f, " = {text} is not a MAC address"),
            Problem::NotOneStation(mac) => {
                f.write_str(" = ")?;
                for (number, byte) in mac.iter().enumerate() {
                    write!(f, "{}{byte:02x}", if number > 0 { ":" } else { "" })?;
                }
                f.write_str(" is not the address of one station")
            }
        }
    }
}

/// What the guest wants of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Queues: as many as processors, or fewer.
    pub queues: u16,
    /// Received IPv4 packets may come with a blank checksum.
    pub checksum_v4: bool,
    /// Received IPv6 packets may come with a blank checksum.
    pub checksum_v6: bool,
    /// Received TCP packets over IPv4 may be large.
    pub gso_v4: bool,
    /// Received TCP packets over IPv6 may be large.
    pub gso_v6: bool,
    /// The backend should filter multicast packets.
    pub multicast: bool,
    /// The backend should hash and spread packets.
    pub control: bool,
}

/// What both agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Queues, 1 to [`MAX_QUEUES`].
    pub queues: u16,
    /// Each queue has an event channel for each direction.
    pub split: bool,
    /// What the backend does with packets that it is given.
    pub abilities: Abilities,
    /// The backend filters multicast packets.
    pub multicast: bool,
    /// And that can be turned on and off without a new connection.
    pub dynamic_multicast: bool,
    /// There is a control ring.
    pub control: bool,
    /// What was asked for.
    pub wishes: Wishes,
}

/// What the toolstack says of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its MAC address: of one station, not zero.
    pub mac: [u8; 6],
    /// Bytes of the largest IP packet, [`MIN_MTU`] to [`MAX_MTU`].
    pub mtu: u16,
    /// The backend may see what else stands in a packet's pages.
    pub trusted: bool,
}

/// Reads a value of the frontend's directory, or of the one given.
fn value<'a, B: Bus>(
    bus: &B,
    directory: Option<&Path>,
    key: &'static str,
    buf: &'a mut [u8],
) -> Result<Option<&'a [u8]>, ConfigError> {
    let error = |problem| ConfigError { key, problem };
    let joined = directory.map(|directory| directory.join(key)).transpose();
    let joined = joined.map_err(|_| error(Problem::Store(Error::Protocol)))?;
    let path = joined.as_ref().map_or(key.as_bytes(), Path::as_bytes);
    match bus.read(Transaction::NONE, path, buf) {
        Ok(len) => Ok(Some(buf.get(..len).unwrap_or(&[]))),
        Err(Error::NotFound) => Ok(None),
        Err(Error::TooSmall) => Err(error(Problem::TooLong)),
        Err(failed) => Err(error(Problem::Store(failed))),
    }
}

/// A number within `least..=most`; None where there is none.
fn number<B: Bus>(
    bus: &B,
    directory: Option<&Path>,
    key: &'static str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, ConfigError> {
    let mut buf = [0; 64];
    let Some(text) = value(bus, directory, key, &mut buf)? else { return Ok(None) };
    let problem = match decimal(text) {
        Some(number) if (least..=most).contains(&number) => return Ok(Some(number)),
        Some(number) => Problem::Range(number, least, most),
        None => Problem::NotANumber(Text::new(text)),
    };
    Err(ConfigError { key, problem })
}

/// What stands for a value that is absent or refused: the latter is logged. An error of the store stays one.
fn or<B: Bus>(bus: &B, read: Result<Option<u64>, ConfigError>, default: u64) -> Result<u64, ConfigError> {
    match read {
        Ok(value) => Ok(value.unwrap_or(default)),
        Err(error @ ConfigError { problem: Problem::Store(_), .. }) => Err(error),
        Err(error) => {
            bus.log(LogLevel::Warning, format_args!("{error}; taken as {default}"));
            Ok(default)
        }
    }
}

/// Reads what the toolstack says of the interface.
///
/// # Errors
/// [`ConfigError`]: no usable MAC address, or the store's.
pub fn device<B: Bus>(bus: &B) -> Result<Device, ConfigError> {
    let mut buf = [0; 64];
    let key = "mac";
    let text = value(bus, None, key, &mut buf)?.ok_or(ConfigError { key, problem: Problem::Missing })?;
    let mac = mac_address(text).map_err(|problem| ConfigError { key, problem })?;
    let mtu = number(bus, None, "mtu", u64::from(MIN_MTU), u64::from(MAX_MTU));
    let mtu = or(bus, mtu, u64::from(DEFAULT_MTU))? as u16;
    let trusted = or(bus, number(bus, None, "trusted", 0, 1), 1)? == 1;
    Ok(Device { mac, mtu, trusted })
}

/// The address of one station in six pairs of hexadecimal digits with colons.
///
/// # Errors
/// [`Problem::NotAnAddress`], [`Problem::NotOneStation`].
pub fn mac_address(text: &[u8]) -> Result<[u8; 6], Problem> {
    let text = text.strip_suffix(&[0]).unwrap_or(text).trim_ascii();
    let wrong = Problem::NotAnAddress(Text::new(text));
    let mut mac = [0; 6];
    let mut parts = text.split(|byte| *byte == b':');
    for byte in &mut mac {
        let Some([high, low]) = parts.next() else { return Err(wrong) };
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return Err(wrong) };
        *byte = (high << 4 | low) as u8;
    }
    if parts.next().is_some() {
        return Err(wrong);
    }
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(Problem::NotOneStation(mac));
    }
    Ok(mac)
}

/// Whether there is a carrier: the backend's says so or nothing, and the toolstack does not ask for its loss.
///
/// # Errors
/// The store's.
pub fn carrier<B: Bus>(bus: &B, backend: &Path) -> Result<bool, ConfigError> {
    let carrier = or(bus, number(bus, Some(backend), "carrier", 0, 1), 1)? == 1;
    let disconnect = or(bus, number(bus, None, "disconnect", 0, 1), 0)? == 1;
    Ok(carrier && !disconnect)
}

/// Bits a second that Windows is to be told: `speed` of the frontend's directory, or [`DEFAULT_SPEED`]. The key is that of
/// Xen's own Windows drivers: a decimal number of Gbit/s, or of what `G`, `M` or `K` behind it says (xenbits,
/// pvdrivers/win/xenvif.git, commit 2f869ea4cb44). It says no more than what is shown: it limits nothing.
///
/// # Errors
/// The store's.
pub fn speed<B: Bus>(bus: &B) -> Result<u64, ConfigError> {
    let mut buf = [0; 64];
    let key = "speed";
    let read = value(bus, None, key, &mut buf)
        .and_then(|text| text.map(parse_speed).transpose().map_err(|problem| ConfigError { key, problem }));
    or(bus, read, DEFAULT_SPEED)
}

fn parse_speed(text: &[u8]) -> Result<u64, Problem> {
    let text = text.strip_suffix(&[0]).unwrap_or(text).trim_ascii();
    let (digits, unit) = match text.split_last() {
        Some((b'G' | b'g', digits)) => (digits, 1_000_000_000),
        Some((b'M' | b'm', digits)) => (digits, 1_000_000),
        Some((b'K' | b'k', digits)) => (digits, 1_000),
        _ => (text, 1_000_000_000),
    };
    let number = decimal(digits).ok_or(Problem::NotASpeed(Text::new(text)))?;
    match number.saturating_mul(unit) {
        speed @ MIN_SPEED..=MAX_SPEED => Ok(speed),
        speed => Err(Problem::Range(speed, MIN_SPEED, MAX_SPEED)),
    }
}

/// Reads what the backend offers, once it does, and settles what is used of it.
///
/// # Errors
/// [`ConfigError`]: the backend cannot copy packets into the guest's pages, or the store's.
pub fn negotiate<B: Bus>(bus: &B, backend: &Path, trusted: bool, wishes: &Wishes) -> Result<Plan, ConfigError> {
    let flag =
        |key, default: bool| or(bus, number(bus, Some(backend), key, 0, 1), u64::from(default)).map(|value| value == 1);
    let key = "feature-rx-copy";
    match number(bus, Some(backend), key, 0, 1)? {
        Some(1) => {}
        Some(value) => return Err(ConfigError { key, problem: Problem::Range(value, 1, 1) }),
        None => return Err(ConfigError { key, problem: Problem::Missing }),
    }
    let most = or(bus, number(bus, Some(backend), "multi-queue-max-queues", 1, u64::from(u16::MAX)), 1)? as u16;
    let multicast = flag("feature-multicast-control", false)?;
    Ok(Plan {
        queues: wishes.queues.min(most).clamp(1, MAX_QUEUES),
        split: flag("feature-split-event-channels", false)?,
        abilities: Abilities {
            scatter: flag("feature-sg", false)?,
            checksum_v4: !flag("feature-no-csum-offload", false)?,
            checksum_v6: flag("feature-ipv6-csum-offload", false)?,
            gso_v4: flag("feature-gso-tcpv4", false)?,
            gso_v6: flag("feature-gso-tcpv6", false)?,
            trusted,
        },
        multicast: multicast && wishes.multicast,
        dynamic_multicast: multicast && flag("feature-dynamic-multicast-control", false)?,
        control: wishes.control && flag("feature-ctrl-ring", false)?,
        wishes: *wishes,
    })
}

/// Event channels of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// One for both directions.
    One(u32),
    /// One each.
    Split {
        /// Of the transmit ring.
        tx: u32,
        /// Of the receive ring.
        rx: u32,
    },
}

/// What the backend has to know of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueKeys {
    /// Reference of the transmit ring.
    pub tx_ref: u32,
    /// Reference of the receive ring.
    pub rx_ref: u32,
    /// Its event channels.
    pub ports: Ports,
}

/// What the backend has to know of the control ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlKeys {
    /// Reference of the ring.
    pub ring_ref: u32,
    /// Its event channel.
    pub port: u32,
}

/// Folders of the queues.
const QUEUES: [&str; MAX_QUEUES as usize] =
    ["queue-0", "queue-1", "queue-2", "queue-3", "queue-4", "queue-5", "queue-6", "queue-7"];
/// What an earlier connection may have left that this one does not overwrite.
const LEFTOVERS: [&str; 8] = [
    "tx-ring-ref",
    "rx-ring-ref",
    "event-channel",
    "event-channel-tx",
    "event-channel-rx",
    "multi-queue-num-queues",
    "ctrl-ring-ref",
    "event-channel-ctrl",
];

/// Writes rings, event channels and what the frontend takes below the frontend's directory, in one transaction.
/// `queues` are as many as the plan has.
///
/// # Errors
/// The store's; [`Error::Protocol`] if the number of queues is not the plan's.
pub fn publish<B: Bus>(bus: &B, plan: &Plan, queues: &[QueueKeys], control: Option<ControlKeys>) -> BusResult {
    if queues.len() != usize::from(plan.queues) {
        return Err(Error::Protocol);
    }
    xenbus::client::transaction(bus, |open| {
        let write = |key: &[u8], value: u32| bus.write(open, key, Decimal::new(u64::from(value)).as_bytes());
        for key in LEFTOVERS.iter().chain(&QUEUES) {
            match bus.remove(open, key.as_bytes()) {
                Ok(()) | Err(Error::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        if let [only] = queues {
            write_queue(only, |key, value| write(key.as_bytes(), value))?;
        } else {
            write(b"multi-queue-num-queues", u32::from(plan.queues))?;
            for (folder, queue) in QUEUES.iter().zip(queues) {
                let folder = Path::new(folder.as_bytes()).map_err(|_| Error::Protocol)?;
                write_queue(queue, |key, value| {
                    write(folder.join(key).map_err(|_| Error::Protocol)?.as_bytes(), value)
                })?;
            }
        }
        if let Some(control) = control {
            write(b"ctrl-ring-ref", control.ring_ref)?;
            write(b"event-channel-ctrl", control.port)?;
        }
        let Wishes { checksum_v4, checksum_v6, gso_v4, gso_v6, .. } = plan.wishes;
        write(b"request-rx-copy", 1)?;
        write(b"feature-rx-notify", 1)?;
        write(b"feature-sg", 1)?;
        write(b"feature-gso-tcpv4", u32::from(gso_v4))?;
        write(b"feature-gso-tcpv6", u32::from(gso_v6))?;
        write(b"feature-no-csum-offload", u32::from(!checksum_v4))?;
        write(b"feature-ipv6-csum-offload", u32::from(checksum_v6))?;
        write(b"request-multicast-control", u32::from(plan.multicast))
    })
}

fn write_queue(keys: &QueueKeys, write: impl Fn(&str, u32) -> BusResult) -> BusResult {
    write("tx-ring-ref", keys.tx_ref)?;
    write("rx-ring-ref", keys.rx_ref)?;
    match keys.ports {
        Ports::One(port) => write("event-channel", port),
        Ports::Split { tx, rx } => {
            write("event-channel-tx", tx)?;
            write("event-channel-rx", rx)
        }
    }
}

/// Turns the backend's multicast filter on or off without a new connection, where [`Plan::dynamic_multicast`] says so.
///
/// # Errors
/// The store's.
pub fn request_multicast_filter<B: Bus>(bus: &B, on: bool) -> BusResult {
    bus.write(Transaction::NONE, b"request-multicast-control", Decimal::new(u64::from(on)).as_bytes())
}
