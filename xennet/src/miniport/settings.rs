//! The keywords of an adapter, read when it starts: <https://learn.microsoft.com/windows-hardware/drivers/network/standardized-inf-keywords-for-network-devices>.

use wdm::{
    ndis::{Adapter, Configuration, status::NdisStatus},
    warning,
};

/// Bytes of an Ethernet header.
pub const HEADER: u32 = 14;
/// The largest frame that a keyword can ask for, header included.
pub const LARGEST_FRAME: u32 = 9014;

/// One checksum: whether it is offloaded on the way out and on the way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directions {
    /// The backend computes it.
    pub tx: bool,
    /// The backend vouches for it.
    pub rx: bool,
}

impl Directions {
    /// From 0 (off), 1 (tx), 2 (rx), 3 (both).
    const fn from_keyword(value: u32) -> Self {
        Self { tx: value & 1 != 0, rx: value & 2 != 0 }
    }
}

/// What Windows may switch at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Checksum of the IPv4 header.
    pub ipv4: Directions,
    /// TCP over IPv4.
    pub tcp4: Directions,
    /// UDP over IPv4.
    pub udp4: Directions,
    /// TCP over IPv6.
    pub tcp6: Directions,
    /// UDP over IPv6.
    pub udp6: Directions,
    /// LSO version 2, IPv4.
    pub lso4: bool,
    /// LSO version 2, IPv6.
    pub lso6: bool,
    /// Coalescing, IPv4.
    pub rsc4: bool,
    /// Coalescing, IPv6.
    pub rsc6: bool,
}

/// All keywords.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of payload in the largest frame.
    pub mtu: u32,
    /// Which offloads are on from the start.
    pub offloads: Offloads,
    /// Receive side scaling is allowed.
    pub rss: bool,
    /// Most queues.
    pub queues: u32,
    /// The priority is put into and taken out of frames.
    pub priority: bool,
    /// The VLAN id is.
    pub vlan: bool,
    /// The adapter's own VLAN; 0: none.
    pub vlan_id: u32,
    /// An address to use instead of the device's own.
    pub address: Option<[u8; 6]>,
}

impl Settings {
    /// Reads them. What is missing, malformed or out of range is the default.
    ///
    /// # Errors
    /// [`NdisStatus::RESOURCES`] and NDIS's.
    pub fn read(adapter: Adapter) -> Result<Self, NdisStatus> {
        let configuration = Configuration::open(adapter)?;
        let number = |keyword, default, range| configuration.number(keyword, default, range);
        let directions = |keyword| Ok::<_, NdisStatus>(Directions::from_keyword(number(keyword, 3, 0..=3)?));
        let switch = |keyword| Ok::<_, NdisStatus>(number(keyword, 1, 0..=1)? == 1);
        let tag = number("*PriorityVLANTag", 3, 0..=3)?;
        Ok(Self {
            mtu: number("*JumboPacket", 1514, 1514..=LARGEST_FRAME)? - HEADER,
            offloads: Offloads {
                ipv4: directions("*IPChecksumOffloadIPv4")?,
                tcp4: directions("*TCPChecksumOffloadIPv4")?,
                udp4: directions("*UDPChecksumOffloadIPv4")?,
                tcp6: directions("*TCPChecksumOffloadIPv6")?,
                udp6: directions("*UDPChecksumOffloadIPv6")?,
                lso4: switch("*LsoV2IPv4")?,
                lso6: switch("*LsoV2IPv6")?,
                rsc4: switch("*RscIPv4")?,
                rsc6: switch("*RscIPv6")?,
            },
            rss: switch("*RSS")?,
            queues: number("*NumRssQueues", 8, 1..=8)?,
            priority: tag & 1 != 0,
            vlan: tag & 2 != 0,
            vlan_id: number("VlanID", 0, 0..=4094)?,
            address: network_address(&configuration),
        })
    }
}

/// The keyword NetworkAddress, if it is an address that a station may have.
fn network_address(configuration: &Configuration) -> Option<[u8; 6]> {
    let (address, length) = configuration.network_address()?;
    if length != address.len() {
        warning!("NetworkAddress has {length} bytes, not 6; it is not used");
        return None;
    }
    if !is_station(address) {
        warning!("NetworkAddress is zero or a group address; it is not used");
        return None;
    }
    Some(address)
}

/// Whether a station may have the address: no group, and not all zero.
pub fn is_station(address: [u8; 6]) -> bool {
    address[0] & 1 == 0 && address != [0; 6]
}
