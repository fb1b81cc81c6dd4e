//! The network protocol (`xen/include/public/io/netif.h`).
//!
//! Three rings: [`Tx`] (packets of the guest's; slots of 12 bytes), [`Rx`] (packets for the guest; 8 bytes) and [`Ctrl`]
//! (hash and mapping; 16 bytes). A slot of a packet ring is a request or response, or, where the one before says so, an
//! [`Extra`] over the same bytes. An extra has no id: on the receive ring its place is that of the request that it used
//! up, on the transmit ring it is answered by a response with [`RSP_NULL`].
//!
//! Decoding checks every field; encoding cannot fail.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use crate::PAGE_SIZE;
use crate::grant::GrantRef;
use crate::ring::RingProtocol;

/// Slots of one packet that every backend takes (`XEN_NETIF_NR_SLOTS_MIN`). Linux's netback drops what needs more, and
/// closes the connection somewhat above that.
pub const SLOTS_PER_PACKET: usize = 18;
/// Bytes of a transmitted packet that a slot can say (`XEN_NETIF_MAX_TX_SIZE`).
pub const MAX_TX_SIZE: u32 = 0xFFFF;

/// `NETIF_RSP_DROPPED`.
pub const RSP_DROPPED: i16 = -2;
/// `NETIF_RSP_ERROR`.
pub const RSP_ERROR: i16 = -1;
/// `NETIF_RSP_OKAY`.
pub const RSP_OKAY: i16 = 0;
/// `NETIF_RSP_NULL`: the answer to an extra.
pub const RSP_NULL: i16 = 1;

/// `XEN_NETIF_EXTRA_TYPE_GSO`.
pub const EXTRA_GSO: u8 = 1;
/// `XEN_NETIF_EXTRA_TYPE_MCAST_ADD`.
pub const EXTRA_MCAST_ADD: u8 = 2;
/// `XEN_NETIF_EXTRA_TYPE_MCAST_DEL`.
pub const EXTRA_MCAST_DEL: u8 = 3;
/// `XEN_NETIF_EXTRA_TYPE_HASH`.
pub const EXTRA_HASH: u8 = 4;
/// `XEN_NETIF_EXTRA_TYPE_XDP`: not in every copy of the header.
pub const EXTRA_XDP: u8 = 5;
/// `XEN_NETIF_EXTRA_FLAG_MORE`: another extra follows.
pub const EXTRA_FLAG_MORE: u8 = 1;

/// `XEN_NETIF_GSO_TYPE_TCPV4`.
pub const GSO_TCPV4: u8 = 1;
/// `XEN_NETIF_GSO_TYPE_TCPV6`.
pub const GSO_TCPV6: u8 = 2;

bitflags::bitflags! {
    /// Flags of a transmit request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TxFlags: u16 {
        /// `NETTXF_csum_blank`: the checksum field holds the pseudo-header's sum only.
        const CSUM_BLANK = 1;
        /// `NETTXF_data_validated`: the data need no check.
        const DATA_VALIDATED = 2;
        /// `NETTXF_more_data`: the packet goes on in the next request.
        const MORE_DATA = 4;
        /// `NETTXF_extra_info`: extras follow.
        const EXTRA_INFO = 8;
    }

    /// Flags of a receive response.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RxFlags: u16 {
        /// `NETRXF_data_validated`: the data need no check.
        const DATA_VALIDATED = 1;
        /// `NETRXF_csum_blank`: the checksum field holds the pseudo-header's sum only.
        const CSUM_BLANK = 2;
        /// `NETRXF_more_data`: the packet goes on in the next response.
        const MORE_DATA = 4;
        /// `NETRXF_extra_info`: extras follow.
        const EXTRA_INFO = 8;
        /// `NETRXF_gso_prefix`: an older form of the GSO extra, only where it was asked for.
        const GSO_PREFIX = 16;
    }

    /// What a hash is made over (`XEN_NETIF_CTRL_HASH_TYPE_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct HashTypes: u32 {
        /// Addresses of IPv4.
        const IPV4 = 1;
        /// Addresses and ports of TCP over IPv4.
        const IPV4_TCP = 2;
        /// Addresses of IPv6.
        const IPV6 = 4;
        /// Addresses and ports of TCP over IPv6.
        const IPV6_TCP = 8;
    }
}

/// The transmit ring.
#[derive(Debug)]
pub enum Tx {}

impl RingProtocol for Tx {
    type Request = TxSlot;
    type Response = TxResponse;
}

/// The receive ring.
#[derive(Debug)]
pub enum Rx {}

impl RingProtocol for Rx {
    type Request = RxRequest;
    type Response = RxSlot;
}

/// The control ring.
#[derive(Debug)]
pub enum Ctrl {}

impl RingProtocol for Ctrl {
    type Request = CtrlRequest;
    type Response = CtrlResponse;
}

/// The bytes of a transmit request's slot: a [`TxRequest`] or a [`RawExtra`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TxSlot {
    words: [u32; 3],
}

/// `struct netif_tx_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TxRequest {
    /// Grant of the page.
    pub gref: GrantRef,
    /// Offset in the page.
    pub offset: u16,
    /// [`TxFlags`].
    pub flags: u16,
    /// Returned in the response.
    pub id: u16,
    /// Bytes: of the whole packet in its first request, of the fragment in the others.
    pub size: u16,
}

impl From<TxRequest> for TxSlot {
    fn from(request: TxRequest) -> Self {
        transmute!(request)
    }
}

impl From<TxSlot> for TxRequest {
    fn from(slot: TxSlot) -> Self {
        transmute!(slot)
    }
}

/// `struct netif_tx_response`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TxResponse {
    /// Of the request; means nothing with [`RSP_NULL`].
    pub id: u16,
    /// `NETIF_RSP_*`.
    pub status: i16,
}

/// What a transmit response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxStatus {
    /// Sent.
    Okay,
    /// Not sent: something was wrong with it.
    Error,
    /// Not sent.
    Dropped,
    /// The place of an extra.
    Null,
}

impl TxStatus {
    /// Checks what stood in a response.
    ///
    /// # Errors
    /// [`DecodeError::Status`].
    pub const fn decode(status: i16) -> Result<Self, DecodeError> {
        match status {
            RSP_OKAY => Ok(Self::Okay),
            RSP_ERROR => Ok(Self::Error),
            RSP_DROPPED => Ok(Self::Dropped),
            RSP_NULL => Ok(Self::Null),
            _ => Err(DecodeError::Status),
        }
    }
}

/// `struct netif_rx_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RxRequest {
    /// Returned in the response.
    pub id: u16,
    /// Padding.
    pub pad: u16,
    /// Grant of a page to write to.
    pub gref: GrantRef,
}

/// The bytes of a receive response's slot: a [`RxResponse`] or a [`RawExtra`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RxSlot {
    words: [u32; 2],
}

impl RxSlot {
    /// As a response.
    #[inline]
    pub fn response(self) -> RxResponse {
        transmute!(self)
    }

    /// As an extra.
    #[inline]
    pub fn extra(self) -> RawExtra {
        transmute!(self)
    }
}

impl From<RxResponse> for RxSlot {
    fn from(response: RxResponse) -> Self {
        transmute!(response)
    }
}

impl From<RawExtra> for RxSlot {
    fn from(extra: RawExtra) -> Self {
        transmute!(extra)
    }
}

/// `struct netif_rx_response`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RxResponse {
    /// Of the request.
    pub id: u16,
    /// Where in the page the data begin.
    pub offset: u16,
    /// [`RxFlags`].
    pub flags: u16,
    /// Bytes of the fragment, or a negative `NETIF_RSP_*`.
    pub status: i16,
}

/// A checked receive response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxFragment {
    /// Where in the page the data begin.
    pub offset: u16,
    /// Bytes; `offset + len` is at most a page. None: the backend could not fill the page.
    pub len: Option<u16>,
    /// Flags; [`RxFlags::GSO_PREFIX`] is not among them.
    pub flags: RxFlags,
}

impl RxResponse {
    /// Checks the fields but for the id.
    ///
    /// # Errors
    /// [`DecodeError::Flags`]: unknown ones, or the GSO prefix, which is not offered. [`DecodeError::Range`]: data
    /// outside of the page.
    #[inline]
    pub const fn decode(self) -> Result<RxFragment, DecodeError> {
        let Some(flags) = RxFlags::from_bits(self.flags) else { return Err(DecodeError::Flags) };
        if flags.contains(RxFlags::GSO_PREFIX) {
            return Err(DecodeError::Flags);
        }
        if self.status < 0 {
            return Ok(RxFragment { offset: 0, len: None, flags });
        }
        let len = self.status as u16;
        if self.offset as usize + len as usize > PAGE_SIZE {
            return Err(DecodeError::Range);
        }
        Ok(RxFragment { offset: self.offset, len: Some(len), flags })
    }
}

/// `struct netif_extra_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4))]
pub struct RawExtra {
    /// `XEN_NETIF_EXTRA_TYPE_*`.
    pub kind: u8,
    /// [`EXTRA_FLAG_MORE`].
    pub flags: u8,
    /// By type.
    pub data: [u8; 6],
}

impl From<RawExtra> for TxSlot {
    fn from(extra: RawExtra) -> Self {
        let [first, second]: [u32; 2] = transmute!(extra);
        Self { words: [first, second, 0] }
    }
}

impl From<TxSlot> for RawExtra {
    fn from(slot: TxSlot) -> Self {
        let [first, second, _] = slot.words;
        transmute!([first, second])
    }
}

/// Which protocol a large packet is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoType {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
}

/// What is said of a packet beyond its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// A packet that stands for several.
    Gso {
        /// Of what.
        kind: GsoType,
        /// Bytes of payload of each of them, at least 1.
        size: u16,
    },
    /// Adds an Ethernet address to the backend's multicast filter.
    McastAdd([u8; 6]),
    /// Removes one.
    McastDel([u8; 6]),
    /// The packet's hash.
    Hash {
        /// Number of the bit in [`HashTypes`].
        kind: u8,
        /// [`HASH_TOEPLITZ`].
        algorithm: u8,
        /// The hash.
        value: u32,
    },
    /// Bytes that the backend left free before the data.
    Xdp {
        /// How many.
        headroom: u16,
    },
}

impl Extra {
    /// As it stands in a slot.
    #[inline]
    pub const fn encode(self, more: bool) -> RawExtra {
        let (kind, data) = match self {
            Self::Gso { kind, size } => {
                let [low, high] = size.to_le_bytes();
                let kind = match kind {
                    GsoType::TcpV4 => GSO_TCPV4,
                    GsoType::TcpV6 => GSO_TCPV6,
                };
                (EXTRA_GSO, [low, high, kind, 0, 0, 0])
            }
            Self::McastAdd(address) => (EXTRA_MCAST_ADD, address),
            Self::McastDel(address) => (EXTRA_MCAST_DEL, address),
            Self::Hash { kind, algorithm, value } => {
                let [a, b, c, d] = value.to_le_bytes();
                (EXTRA_HASH, [kind, algorithm, a, b, c, d])
            }
            Self::Xdp { headroom } => {
                let [low, high] = headroom.to_le_bytes();
                (EXTRA_XDP, [low, high, 0, 0, 0, 0])
            }
        };
        RawExtra { kind, flags: if more { EXTRA_FLAG_MORE } else { 0 }, data }
    }
}

impl RawExtra {
    /// Whether another extra follows.
    #[inline]
    pub const fn more(self) -> bool {
        self.flags & EXTRA_FLAG_MORE != 0
    }

    /// What it says.
    ///
    /// # Errors
    /// [`DecodeError::ExtraType`], [`DecodeError::Flags`], [`DecodeError::Gso`], [`DecodeError::Hash`].
    #[inline]
    pub const fn decode(self) -> Result<Extra, DecodeError> {
        if self.flags & !EXTRA_FLAG_MORE != 0 {
            return Err(DecodeError::Flags);
        }
        let [first, second, rest @ ..] = self.data;
        let number = u16::from_le_bytes([first, second]);
        match self.kind {
            EXTRA_GSO => {
                let kind = match rest[0] {
                    GSO_TCPV4 => GsoType::TcpV4,
                    GSO_TCPV6 => GsoType::TcpV6,
                    _ => return Err(DecodeError::Gso),
                };
                match number {
                    0 => Err(DecodeError::Gso),
                    size => Ok(Extra::Gso { kind, size }),
                }
            }
            EXTRA_MCAST_ADD => Ok(Extra::McastAdd(self.data)),
            EXTRA_MCAST_DEL => Ok(Extra::McastDel(self.data)),
            EXTRA_HASH if first < 4 && second == HASH_TOEPLITZ => {
                Ok(Extra::Hash { kind: first, algorithm: second, value: u32::from_le_bytes(rest) })
            }
            EXTRA_HASH => Err(DecodeError::Hash),
            EXTRA_XDP => Ok(Extra::Xdp { headroom: number }),
            _ => Err(DecodeError::ExtraType),
        }
    }
}

/// `XEN_NETIF_CTRL_HASH_ALGORITHM_NONE`.
pub const HASH_NONE: u8 = 0;
/// `XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ`.
pub const HASH_TOEPLITZ: u8 = 1;

/// `XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS`.
pub const CTRL_GET_HASH_FLAGS: u16 = 1;
/// `XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS`: data 0 is [`HashTypes`].
pub const CTRL_SET_HASH_FLAGS: u16 = 2;
/// `XEN_NETIF_CTRL_TYPE_SET_HASH_KEY`: data 0 a grant of the page with the key, data 1 its length.
pub const CTRL_SET_HASH_KEY: u16 = 3;
/// `XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE`.
pub const CTRL_GET_HASH_MAPPING_SIZE: u16 = 4;
/// `XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE`: data 0 is the number of entries.
pub const CTRL_SET_HASH_MAPPING_SIZE: u16 = 5;
/// `XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING`: data 0 a grant of the page with the entries (32 bits each), data 1 how many,
/// data 2 the first one's number.
pub const CTRL_SET_HASH_MAPPING: u16 = 6;
/// `XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM`: data 0 is [`HASH_NONE`] or [`HASH_TOEPLITZ`].
pub const CTRL_SET_HASH_ALGORITHM: u16 = 7;

/// `struct xen_netif_ctrl_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CtrlRequest {
    /// Returned in the response.
    pub id: u16,
    /// `XEN_NETIF_CTRL_TYPE_*`.
    pub kind: u16,
    /// By type.
    pub data: [u32; 3],
}

/// `struct xen_netif_ctrl_response`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CtrlResponse {
    /// Of the request.
    pub id: u16,
    /// Of the request.
    pub kind: u16,
    /// `XEN_NETIF_CTRL_STATUS_*`.
    pub status: u32,
    /// By type.
    pub data: u32,
}

/// What a control response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtrlStatus {
    /// `XEN_NETIF_CTRL_STATUS_SUCCESS`.
    Success,
    /// `XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED`.
    NotSupported,
    /// `XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER`.
    InvalidParameter,
    /// `XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW`.
    BufferOverflow,
}

impl CtrlStatus {
    /// Checks what stood in a response.
    ///
    /// # Errors
    /// [`DecodeError::Status`].
    pub const fn decode(status: u32) -> Result<Self, DecodeError> {
        match status {
            0 => Ok(Self::Success),
            1 => Ok(Self::NotSupported),
            2 => Ok(Self::InvalidParameter),
            3 => Ok(Self::BufferOverflow),
            _ => Err(DecodeError::Status),
        }
    }
}

/// What is wrong with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Flags that are unknown or were not offered.
    Flags,
    /// Data outside of the page.
    Range,
    /// A status that does not exist.
    Status,
    /// A type of extra that does not exist.
    ExtraType,
    /// A large packet of no known protocol, or with segments of nothing.
    Gso,
    /// A hash of no known type or algorithm.
    Hash,
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Flags => "flags that are unknown or were not offered",
            Self::Range => "data outside of the page",
            Self::Status => "an unknown status",
            Self::ExtraType => "an unknown extra",
            Self::Gso => "an impossible segmentation",
            Self::Hash => "an unknown kind of hash",
        })
    }
}

/// The Toeplitz hash of `data`. Bytes that the key does not have are zero.
pub fn toeplitz(key: &[u8], data: &[u8]) -> u32 {
    let mut keys = key.iter().copied().chain(core::iter::repeat(0));
    let mut next = move || u64::from(keys.next().unwrap_or(0));
    // The 32 bits that count stand above the byte that moves into them.
    let mut window = (0..5).fold(0_u64, |window, _| window << 8 | next());
    let mut hash = 0;
    for byte in data {
        for bit in 0..8 {
            if byte & (0x80 >> bit) != 0 {
                hash ^= (window >> (8 - bit)) as u32;
            }
        }
        window = window << 8 | next();
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and the vectors that Microsoft publishes ("Verifying the RSS Hash Calculation").
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn toeplitz_gives_the_published_values() {
        // Source 66.9.149.187:2794, destination 161.142.100.80:1766.
        let v4 = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(&KEY, &v4), 0x51cc_c178);
        assert_eq!(toeplitz(&KEY, &v4[..8]), 0x323e_8fc2);
        // Source 199.92.111.2:14230, destination 65.69.140.83:4739.
        let v4 = [199, 92, 111, 2, 65, 69, 140, 83, 0x37, 0x96, 0x12, 0x83];
        assert_eq!(toeplitz(&KEY, &v4), 0xc626_b0ea);
        assert_eq!(toeplitz(&KEY, &v4[..8]), 0xd718_262a);
        // Source 3ffe:2501:200:1fff::7, port 2794, destination 3ffe:2501:200:3::1, port 1766.
        let v6 = [
            0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00, 0x1f, 0xff, 0, 0, 0, 0, 0, 0, 0, 7, 0x3f, 0xfe, 0x25, 0x01, 0x02, 0x00,
            0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0x0a, 0xea, 0x06, 0xe6,
        ];
        assert_eq!(toeplitz(&KEY, &v6), 0x4020_7d3d);
        assert_eq!(toeplitz(&KEY, &v6[..32]), 0x2cc1_8cd5);
        assert_eq!(toeplitz(&[], &v6), 0);
    }

    #[test]
    fn extras_survive_a_slot() {
        for extra in [
            Extra::Gso { kind: GsoType::TcpV4, size: 1460 },
            Extra::Gso { kind: GsoType::TcpV6, size: 1 },
            Extra::McastAdd([1, 0, 0x5e, 0, 0, 1]),
            Extra::McastDel([0x33, 0x33, 0, 0, 0, 1]),
            Extra::Hash { kind: 3, algorithm: HASH_TOEPLITZ, value: 0x1234_5678 },
            Extra::Xdp { headroom: 256 },
        ] {
            for more in [false, true] {
                let raw = extra.encode(more);
                assert_eq!(RawExtra::from(TxSlot::from(raw)), raw);
                assert_eq!(RxSlot::from(raw).extra(), raw);
                assert_eq!((raw.decode(), raw.more()), (Ok(extra), more));
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let raw = |kind, data| RawExtra { kind, flags: 0, data };
        assert_eq!(raw(0, [0; 6]).decode(), Err(DecodeError::ExtraType));
        assert_eq!(raw(6, [0; 6]).decode(), Err(DecodeError::ExtraType));
        assert_eq!(raw(EXTRA_GSO, [0, 0, GSO_TCPV4, 0, 0, 0]).decode(), Err(DecodeError::Gso));
        assert_eq!(raw(EXTRA_GSO, [1, 0, 0, 0, 0, 0]).decode(), Err(DecodeError::Gso));
        assert_eq!(raw(EXTRA_GSO, [1, 0, 3, 0, 0, 0]).decode(), Err(DecodeError::Gso));
        assert_eq!(raw(EXTRA_HASH, [4, HASH_TOEPLITZ, 0, 0, 0, 0]).decode(), Err(DecodeError::Hash));
        assert_eq!(raw(EXTRA_HASH, [0, 2, 0, 0, 0, 0]).decode(), Err(DecodeError::Hash));
        assert_eq!(RawExtra { kind: EXTRA_GSO, flags: 2, data: [0; 6] }.decode(), Err(DecodeError::Flags));

        let rx = |offset, flags, status| RxResponse { id: 0, offset, flags, status }.decode();
        assert_eq!(rx(4095, 0, 1).map(|fragment| fragment.len), Ok(Some(1)));
        assert_eq!(rx(4096, 0, 0).map(|fragment| fragment.len), Ok(Some(0)));
        assert_eq!(rx(4096, 0, 1), Err(DecodeError::Range));
        assert_eq!(rx(0, 0, 4097), Err(DecodeError::Range));
        assert_eq!(rx(u16::MAX, 0, i16::MAX), Err(DecodeError::Range));
        assert_eq!(rx(0, 32, 60), Err(DecodeError::Flags));
        assert_eq!(rx(0, RxFlags::GSO_PREFIX.bits(), 60), Err(DecodeError::Flags));
        assert_eq!(rx(9000, 0, RSP_ERROR).map(|fragment| fragment.len), Ok(None));
        assert_eq!(TxStatus::decode(2), Err(DecodeError::Status));
        assert_eq!(TxStatus::decode(-3), Err(DecodeError::Status));
        assert_eq!(CtrlStatus::decode(4), Err(DecodeError::Status));
    }
}
