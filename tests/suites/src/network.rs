//! What a case may do at the other end of a network interface: the toolstack, the backend, and the host behind it.
//!
//! On the process platform that host is an in-process stack behind the modelled netback; in the lab it is dom0. It has
//! 10.77.N.1 and fd77:N::1 for interface N, the guest takes `.2` and `::2`. Its services: see [`port`].

use alloc::string::String;
use alloc::vec::Vec;

pub use hostile::NetHostile;

/// Ports of the host's services.
pub mod port {
    /// TCP and UDP: sends back what it gets.
    pub const ECHO: u16 = 7;
    /// TCP: takes all until the client closes, then sends the length (8 bytes, LE) and the SHA-256 of it. UDP: counts
    /// datagrams made by [`super::datagram`].
    pub const SINK: u16 = 9;
    /// UDP: sends what port 9 counted since the last time, as five numbers of 8 bytes, LE: good, bad, duplicates,
    /// reordered, bytes.
    pub const REPORT: u16 = 11;
    /// TCP: takes a length and a seed (8 bytes each, LE), sends so many bytes and their SHA-256, closes. UDP: takes a count
    /// and a size (4 bytes each, LE), sends so many datagrams as [`super::datagram`] makes them.
    pub const SOURCE: u16 = 19;
}

/// FNV-1a over 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// A datagram for UDP port 9: its number (4 bytes, LE), filler, and the FNV-1a hash of all that (8 bytes, LE). At least 12
/// bytes.
pub fn datagram(number: u32, size: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((4..size.max(12) - 8).map(|n| (n as u32).wrapping_mul(number | 1) as u8));
    let check = hash(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes
}

/// The number of a datagram that came whole.
pub fn datagram_number(bytes: &[u8]) -> Option<u32> {
    let (body, check) = bytes.split_last_chunk::<8>()?;
    let number = body.first_chunk::<4>()?;
    (hash(body) == u64::from_le_bytes(*check)).then(|| u32::from_le_bytes(*number))
}

/// A network interface as the toolstack and the backend offer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VifSpec {
    /// 0, 1, ...
    pub index: u32,
    /// `mac` as text; `None`: no such key.
    pub mac: Option<&'static str>,
    /// `mtu`; `None`: no such key, which means 1500.
    pub mtu: Option<u32>,
    /// `trusted`; `None`: no such key, which means 1.
    pub trusted: Option<bool>,
    /// `multi-queue-max-queues`; `None`: no such key.
    pub queues: Option<u32>,
    /// `feature-sg`.
    pub sg: bool,
    /// `feature-gso-tcpv4` and `-tcpv6`.
    pub gso: bool,
    /// Checksums may be left blank: `feature-no-csum-offload` is absent, `feature-ipv6-csum-offload` is 1.
    pub checksums: bool,
    /// `feature-split-event-channels`.
    pub split_events: bool,
    /// `feature-multicast-control`, and the dynamic one.
    pub multicast_control: bool,
    /// `feature-ctrl-ring`.
    pub control_ring: bool,
    /// The host is on this VLAN: it takes frames with that tag alone.
    pub vlan: Option<u16>,
    /// Of 1000 frames on the wire, how many are lost.
    pub loss_permille: u16,
    /// What the host sends reaches the guest with blank checksums and in large packets, where the guest takes them.
    pub offload_to_guest: bool,
    /// Keys that the backend never writes.
    pub omitted: &'static [&'static str],
}

impl VifSpec {
    /// An interface with everything that Linux's netback offers, and two queues.
    pub fn new(index: u32) -> Self {
        Self {
            index,
            mac: Some(MACS[index as usize % MACS.len()]),
            mtu: Some(1500),
            trusted: Some(true),
            queues: Some(2),
            sg: true,
            gso: true,
            checksums: true,
            split_events: true,
            multicast_control: true,
            control_ring: true,
            vlan: None,
            loss_permille: 0,
            offload_to_guest: true,
            omitted: &[],
        }
    }
}

/// The MACs of the interfaces, in Xen's range.
const MACS: [&str; 4] = ["00:16:3e:4e:54:10", "00:16:3e:4e:54:11", "00:16:3e:4e:54:12", "00:16:3e:4e:54:13"];

/// Figures of an interface's backend since it was attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VifStats {
    /// Frames that the guest sent.
    pub from_guest: u64,
    /// Frames that the guest was given.
    pub to_guest: u64,
    /// The guest's frames by queue.
    pub from_guest_by_queue: Vec<u64>,
    /// Frames for the guest by queue.
    pub to_guest_by_queue: Vec<u64>,
    /// Large packets from the guest, to be segmented by the other side.
    pub large_from_guest: u64,
    /// Large packets to the guest.
    pub large_to_guest: u64,
    /// Frames from the guest with a blank checksum.
    pub blank_from_guest: u64,
    /// Frames to the guest with a blank checksum.
    pub blank_to_guest: u64,
    /// Offloaded packets from the guest whose headers did not all stand in the first slot.
    pub split_headers: u64,
    /// Frames for the guest that found no buffers, or nobody connected.
    pub dropped_to_guest: u64,
    /// Multicast frames that were kept from the guest.
    pub filtered_to_guest: u64,
    /// Frames of the guest's that are too large for the MTU.
    pub oversized: u64,
    /// Frames of both sides that the wire lost.
    pub lost_on_wire: u64,
    /// How often the guest had too few buffers.
    pub starved: u64,
    /// Slots of the guest's that are taken and not answered.
    pub in_flight: u64,
    /// The most that were at once.
    pub most_in_flight: u64,
    /// Slots that were in flight when the guest suspended.
    pub in_flight_at_suspend: u64,
    /// Frames that the guest got wrong, so that the backend refused them.
    pub refused: u64,
    /// Control requests that were carried out.
    pub control_requests: u64,
    /// Handshakes done.
    pub connections: u64,
    /// Queues of the last one.
    pub queues: u64,
    /// How often the toolstack took it away by force, because nobody closed it within 10 seconds.
    pub forced: u64,
    /// Frames with a wrong checksum that reached the host.
    pub bad_checksums: u64,
    /// The most TCP connections that the host had at once.
    pub most_tcp_connections: u64,
}

/// What a transport checksum says of itself beside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// It is in the frame and has to be checked.
    Unknown,
    /// Somebody checked it.
    Validated,
    /// The field holds the pseudo header's sum alone.
    Blank,
}

/// A frame between guest and backend, as it stood in the guest's pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Its transport checksum.
    pub checksum: Checksum,
    /// Payload bytes of a segment, if the packet is a large one.
    pub mss: Option<u16>,
}

/// A frame that crossed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// The guest sent it; otherwise it was given to the guest.
    pub from_guest: bool,
    /// The queue.
    pub queue: u32,
    /// The Toeplitz hash that went with it.
    pub hash: Option<u32>,
    /// The frame.
    pub frame: Frame,
    /// What the wire made of a frame of the guest's: its segments, with checksums.
    pub wire: Vec<Vec<u8>>,
}

/// What came of a series of pings from the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u64,
    /// Replies with the bytes that were sent.
    pub good: u64,
    /// Replies with others.
    pub bad: u64,
    /// All are answered or given up.
    pub done: bool,
}

/// See the module.
pub trait Network {
    /// `xl network-attach`.
    fn attach_vif(&self, spec: &VifSpec);
    /// `xl network-detach`: the backend asks for an orderly close.
    fn detach_vif(&self, index: u32);
    /// Whether the toolstack has let go of the interface: both directories are gone.
    fn vif_gone(&self, index: u32) -> bool;
    /// The backend closes, reopens and offers the same interface again.
    fn restart_vif(&self, index: u32);
    /// The backend's `carrier`.
    fn set_carrier(&self, index: u32, up: bool);
    /// Holds the answers to sent frames back, or lets them go.
    fn hold_answers(&self, index: u32, hold: bool);
    /// Figures of the backend and the host behind it.
    fn vif_stats(&self, index: u32) -> VifStats;
    /// Makes the backend misbehave `times` times from now on.
    fn misbehave_vif(&self, index: u32, how: NetHostile, times: u32);
    /// How often the misbehaviour happened.
    fn vif_misbehaved(&self, index: u32, how: NetHostile) -> u64;
    /// Ends the misbehaviour: a backend that kept grants gives them back.
    fn behave_vif(&self, index: u32);
    /// The last frames that crossed, oldest first.
    fn crossings(&self, index: u32) -> Vec<Crossing>;
    /// Forgets them.
    fn forget_crossings(&self, index: u32);
    /// Puts a frame before the guest as it stands.
    fn send_frame(&self, index: u32, frame: Frame);
    /// The host pings the guest: `count` times with `size` bytes, one every `interval_us`.
    fn ping_guest(&self, index: u32, v6: bool, size: usize, count: u32, interval_us: u64);
    /// What came of it so far.
    fn ping_report(&self, index: u32) -> PingReport;
    /// Multicast addresses that the guest has registered with the backend.
    fn multicast_list(&self, index: u32) -> Vec<[u8; 6]>;
    /// The interface's directory in the store, backend's side.
    fn vif_backend_path(&self, index: u32) -> String;
}
