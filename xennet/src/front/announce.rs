//! Which addresses are the guest's, learned from what it sends, and the frames that announce them after a migration:
//! gratuitous ARP (RFC 5227, 3) and unsolicited neighbour advertisements (RFC 4861, 7.2.6).

use super::{
    checksum,
    headers::{self, ETHERNET, Headers, TYPE_ARP, TYPE_IPV6, Version, put_u16, u16_at},
};

/// Addresses of each kind that are remembered; a newer one replaces the oldest.
const ADDRESSES: usize = 8;
/// Bytes of an ARP frame.
const ARP: usize = ETHERNET + 28;
/// Bytes of a neighbour advertisement: Ethernet, IPv6, the message, an option with the link-layer address.
const ADVERTISEMENT: usize = ETHERNET + 40 + 24 + 8;

/// A frame to send.
pub struct Frame {
    bytes: [u8; ADVERTISEMENT],
    len: usize,
}

impl Frame {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

/// Addresses of one kind, the newest ones.
#[derive(Clone, Copy, Debug)]
struct Table<const N: usize> {
    list: [[u8; N]; ADDRESSES],
    count: usize,
    /// Where the next one goes.
    next: usize,
    /// The one met last, which is mostly the next one, too.
    last: [u8; N],
}

impl<const N: usize> Table<N> {
    const EMPTY: Self = Self { list: [[0; N]; ADDRESSES], count: 0, next: 0, last: [0; N] };

    fn list(&self) -> &[[u8; N]] {
        self.list.get(..self.count).unwrap_or(&[])
    }

    fn add(&mut self, address: [u8; N]) {
        if self.last == address {
            return;
        }
        self.last = address;
        if self.list().contains(&address) {
            return;
        }
        if let Some(place) = self.list.get_mut(self.next) {
            *place = address;
            self.next = (self.next + 1) % ADDRESSES;
            self.count = (self.count + 1).min(ADDRESSES);
        }
    }
}

/// Addresses that were seen as the source of an interface's own frames.
#[derive(Clone, Copy, Debug)]
pub struct Learned {
    mac: [u8; 6],
    v4: Table<4>,
    v6: Table<16>,
}

impl Learned {
    /// None yet of the interface with the address `mac`.
    pub const fn new(mac: [u8; 6]) -> Self {
        Self { mac, v4: Table::EMPTY, v6: Table::EMPTY }
    }

    /// Addresses of IPv4.
    pub fn v4(&self) -> &[[u8; 4]] {
        self.v4.list()
    }

    /// Addresses of IPv6.
    pub fn v6(&self) -> &[[u8; 16]] {
        self.v6.list()
    }

    /// Looks at the first bytes of a frame that is sent. Any IRQL.
    pub fn note(&mut self, bytes: &[u8], headers: Option<&Headers>) {
        // What is bridged for others is theirs to announce.
        if bytes.get(6..12) != Some(&self.mac) {
            return;
        }
        match headers {
            Some(headers) if headers.network as usize == ETHERNET => self.note_ip(bytes, headers),
            // A tagged one belongs to a network in which an untagged announcement would say nothing.
            Some(_) => {}
            None => self.note_arp(bytes),
        }
    }

    /// As [`Learned::note`], of an untagged frame of IPv4 with this sender. Any IRQL.
    #[inline]
    pub fn note_v4(&mut self, (mac, address): ([u8; 6], [u8; 4])) {
        if mac == self.mac {
            self.add_v4(address);
        }
    }

    fn note_ip(&mut self, bytes: &[u8], headers: &Headers) {
        let at = usize::from(headers.network);
        match headers.version {
            Version::V4 => {
                if let Some(source) = bytes.get(at + 12..).and_then(|rest| rest.first_chunk()) {
                    self.add_v4(*source);
                }
            }
            Version::V6 => {
                if let Some(source) = bytes.get(at + 8..).and_then(|rest| rest.first_chunk()) {
                    self.add_v6(*source);
                }
                // A neighbour advertisement names an address that may never be a source itself.
                let message = bytes.get(usize::from(headers.transport)..).unwrap_or(&[]);
                if headers.is(headers::ICMPV6)
                    && message.first() == Some(&136)
                    && let Some(target) = message.get(8..).and_then(|rest| rest.first_chunk())
                {
                    self.add_v6(*target);
                }
            }
        }
    }

    fn note_arp(&mut self, bytes: &[u8]) {
        // Ethernet, IPv4.
        let right = u16_at(bytes, ETHERNET - 2) == Some(TYPE_ARP)
            && bytes.get(ETHERNET..ETHERNET + 6) == Some(&[0, 1, 8, 0, 6, 4]);
        if right && let Some(sender) = bytes.get(ETHERNET + 14..).and_then(|rest| rest.first_chunk()) {
            self.add_v4(*sender);
        }
    }

    fn add_v4(&mut self, address: [u8; 4]) {
        // Not one yet, of this host, a group or broadcast.
        if !matches!(address[0], 0 | 127 | 224..) {
            self.v4.add(address);
        }
    }

    fn add_v6(&mut self, address: [u8; 16]) {
        let local = address.starts_with(&[0; 15]);
        if address[0] != 0xFF && !local {
            self.v6.add(address);
        }
    }

    /// Takes over what another queue has learned.
    pub fn merge(&mut self, other: &Self) {
        for address in other.v4() {
            self.v4.add(*address);
        }
        for address in other.v6() {
            self.v6.add(*address);
        }
    }

    /// The frames that announce the addresses.
    pub fn frames(&self) -> impl Iterator<Item = Frame> {
        let mac = self.mac;
        let arps = self.v4().iter().map(move |address| gratuitous_arp(mac, *address));
        arps.chain(self.v6().iter().map(move |address| advertisement(mac, *address)))
    }
}

/// Writes `parts` one behind the other.
fn frame(len: usize, parts: &[&[u8]]) -> Frame {
    let mut frame = Frame { bytes: [0; ADVERTISEMENT], len };
    let mut at = 0;
    for part in parts {
        if let Some(place) = frame.bytes.get_mut(at..at + part.len()) {
            place.copy_from_slice(part);
        }
        at += part.len();
    }
    frame
}

/// A request for one's own address, which makes everybody who knows it learn anew.
fn gratuitous_arp(mac: [u8; 6], address: [u8; 4]) -> Frame {
    let kind = TYPE_ARP.to_be_bytes();
    let arp = [0, 1, 8, 0, 6, 4, 0, 1];
    frame(ARP, &[&[0xFF; 6], &mac, &kind, &arp, &mac, &address, &[0; 6], &address])
}

/// An advertisement to all nodes, with the override flag.
fn advertisement(mac: [u8; 6], address: [u8; 16]) -> Frame {
    const ALL_NODES: [u8; 16] = [0xFF, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let kind = TYPE_IPV6.to_be_bytes();
    let ip = [0x60, 0, 0, 0, 0, 32, headers::ICMPV6, 255];
    let message = [136, 0, 0, 0, 0x20, 0, 0, 0];
    let mut frame = frame(
        ADVERTISEMENT,
        &[&[0x33, 0x33, 0, 0, 0, 1], &mac, &kind, &ip, &address, &ALL_NODES, &message, &address, &[2, 1], &mac],
    );
    let headers = Headers {
        network: ETHERNET as u16,
        version: Version::V6,
        transport: ETHERNET as u16 + 40,
        protocol: headers::ICMPV6,
        fragment: false,
        routed: false,
        len: ETHERNET as u16 + 40,
        ip_len: 72,
    };
    if let Some(mut sum) = checksum::pseudo(&frame.bytes, &headers, 32) {
        sum.add(frame.bytes.get(ETHERNET + 40..).unwrap_or(&[]));
        put_u16(&mut frame.bytes, ETHERNET + 42, sum.finish());
    }
    frame
}
