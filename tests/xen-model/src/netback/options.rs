//! What a vif is configured with, and what it counted.

/// Bytes of the largest IP packet where nothing else is configured.
pub(super) const DEFAULT_MTU: u32 = 1500;

/// Everything about a vif. Each feature can be switched off.
#[allow(clippy::struct_excessive_bools)] // each is a switch of its own
#[derive(Clone, Debug)]
pub struct VifOptions {
    /// The device's number, from 0 on.
    pub index: u32,
    /// `mac`, as the toolstack writes it; `None`: no such key.
    pub mac: Option<String>,
    /// `mtu` in the frontend's directory, and if it is not 1500 in the backend's; `None`: no such key, which means 1500.
    pub mtu: Option<u32>,
    /// `trusted` in the frontend's directory; `None`: no such key, which means 1.
    pub trusted: Option<bool>,
    /// `feature-rx-copy`. Without it a frontend has nothing to connect to.
    pub rx_copy: bool,
    /// `feature-sg`.
    pub sg: bool,
    /// `feature-gso-tcpv4`.
    pub gso_v4: bool,
    /// `feature-gso-tcpv6`.
    pub gso_v6: bool,
    /// `feature-no-csum-offload`.
    pub no_checksum_v4: bool,
    /// `feature-ipv6-csum-offload`.
    pub checksum_v6: bool,
    /// `feature-split-event-channels`.
    pub split_events: bool,
    /// `multi-queue-max-queues`; `None`: no such key.
    pub max_queues: Option<u32>,
    /// `feature-multicast-control`.
    pub multicast_control: bool,
    /// `feature-dynamic-multicast-control`.
    pub dynamic_multicast_control: bool,
    /// `feature-ctrl-ring`.
    pub control_ring: bool,
    /// `feature-xdp-headroom`.
    pub xdp_headroom: bool,
    /// Keys that the backend never writes, as a broken toolstack or backend leaves them out.
    pub omitted: Vec<&'static str>,
    /// Joins the segments of a TCP stream to large packets for a guest that takes them, as GRO does.
    pub coalesce: bool,
    /// Leaves the checksums of frames for the guest to it, as for frames of the host itself.
    pub blank_to_guest: bool,
    /// Nanoseconds from an event to the moment at which the backend's thread runs.
    pub wake_ns: u64,
    /// Nanoseconds from the moment at which pages of the guest's are free to the run of the thread that unmaps them.
    pub unmap_ns: u64,
    /// Frames for the guest that wait before netback's own queue while that is full, as in the interface's transmit queue
    /// (`txqueuelen`, 1000 in Linux). What is too many for it is lost.
    pub queue_len: usize,
    /// Nanoseconds that the guest's pages stay in use behind the backend at least.
    pub latency_ns: u64,
    /// Up to how many more, by the seed.
    pub latency_jitter_ns: u64,
    /// Answers to the transmit ring come in any order.
    pub out_of_order: bool,
    /// Of 1000 frames on the wire, how many are lost, by the seed.
    pub loss_permille: u16,
    /// Takes frames of the guest's but answers none, for suites that want a full ring. See [`super::Vif::hold`].
    pub held: bool,
}

impl VifOptions {
    /// A vif as Linux's netback offers it by default, with two queues and a MAC of Xen's.
    pub fn new(index: u32) -> Self {
        Self {
            index,
            mac: Some(format!("00:16:3e:4e:54:{:02x}", 0x10 + index)),
            mtu: Some(DEFAULT_MTU),
            trusted: Some(true),
            rx_copy: true,
            sg: true,
            gso_v4: true,
            gso_v6: true,
            no_checksum_v4: false,
            checksum_v6: true,
            split_events: true,
            max_queues: Some(2),
            multicast_control: true,
            dynamic_multicast_control: true,
            control_ring: true,
            xdp_headroom: true,
            omitted: Vec::new(),
            coalesce: true,
            blank_to_guest: true,
            wake_ns: 0,
            unmap_ns: 0,
            queue_len: 0,
            latency_ns: 5_000,
            latency_jitter_ns: 5_000,
            out_of_order: true,
            loss_permille: 0,
            held: false,
        }
    }

    /// Payload bytes of the largest frame.
    pub fn mtu_bytes(&self) -> usize {
        self.mtu.unwrap_or(DEFAULT_MTU) as usize
    }
}

/// What a vif counted since it was attached.
#[derive(Clone, Debug, Default)]
pub struct VifStats {
    /// Frames that the guest sent.
    pub frames_from_guest: u64,
    /// Their bytes.
    pub bytes_from_guest: u64,
    /// Of them, packets to be segmented.
    pub gso_from_guest: u64,
    /// The segments that these came to.
    pub segments_from_guest: u64,
    /// Packets to be segmented that did not say that their checksum is blank.
    pub gso_without_blank: u64,
    /// Frames of the guest's with a blank checksum.
    pub blank_from_guest: u64,
    /// Offloaded packets whose headers did not all stand in the first slot.
    pub split_headers: u64,
    /// Frames that the guest was given.
    pub frames_to_guest: u64,
    /// Their bytes.
    pub bytes_to_guest: u64,
    /// Of them, large packets with segmentation info.
    pub gso_to_guest: u64,
    /// Frames that were joined to the one before.
    pub joined_to_guest: u64,
    /// Frames for the guest with a blank checksum.
    pub blank_to_guest: u64,
    /// Frames for the guest that were dropped: no vif connected, too many waiting.
    pub dropped_to_guest: u64,
    /// Frames for the guest that waited too long for buffers.
    pub expired_to_guest: u64,
    /// Multicast frames that the guest did not want.
    pub filtered_to_guest: u64,
    /// Frames of the guest's that are larger than the MTU allows.
    pub oversized: u64,
    /// Frames that were lost on the wire, both directions.
    pub lost_on_wire: u64,
    /// How often the guest had too few buffers for a frame.
    pub starved: u64,
    /// How often the guest's receive side was found stalled.
    pub stalls: u64,
    /// Slots of transmit packets taken.
    pub tx_requests: u64,
    /// Transmit responses.
    pub tx_responses: u64,
    /// Transmit packets refused or failed.
    pub tx_errors: u64,
    /// Receive responses with data.
    pub rx_responses: u64,
    /// Buffers of the guest's that could not be written.
    pub rx_errors: u64,
    /// How often the vif was switched off because of what the guest sent.
    pub fatal: u64,
    /// The most slots of one packet of the guest's.
    pub most_tx_slots: usize,
    /// The most slots of one packet for the guest.
    pub most_rx_slots: usize,
    /// The most transmit slots that were in flight at once.
    pub most_in_flight: usize,
    /// Transmit slots that were in flight at the moments of save.
    pub in_flight_at_suspend: u64,
    /// Frames of the guest's by queue.
    pub from_guest_by_queue: Vec<u64>,
    /// Frames for the guest by queue.
    pub to_guest_by_queue: Vec<u64>,
    /// Requests to change the multicast list.
    pub multicast_requests: u64,
    /// Control requests answered.
    pub control_requests: u64,
    /// Of them, those refused.
    pub control_refused: u64,
    /// Events sent to the guest for the rings.
    pub notifications_sent: u64,
    /// Events received for the rings.
    pub notifications_received: u64,
    /// How often the toolstack removed the directories because nobody closed within its patience.
    pub forced: u64,
    /// Handshakes done.
    pub connects: u64,
    /// Queues of the last handshake.
    pub queues: usize,
}
