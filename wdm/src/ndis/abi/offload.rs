//! NDIS_OFFLOAD and the parameters by which offloads are switched.
//!
//! Source: the `ntddndis.h` pages of <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddndis/>. C's bit fields
//! are words here, with their bits named.

use super::ObjectHeader;

/// `NDIS_OFFLOAD_SUPPORTED` or `NDIS_OFFLOAD_SET_ON` in a bit field two bits wide.
pub const ON: u32 = 1;

/// Bits of [`Checksum::ipv4_transmit`] and [`Checksum::ipv4_receive`].
#[expect(missing_docs, reason = "Windows' names")]
pub mod checksum_v4 {
    pub const IP_OPTIONS: u32 = 1;
    pub const TCP_OPTIONS: u32 = 1 << 2;
    pub const TCP_CHECKSUM: u32 = 1 << 4;
    pub const UDP_CHECKSUM: u32 = 1 << 6;
    pub const IP_CHECKSUM: u32 = 1 << 8;
}

/// Bits of [`Checksum::ipv6_transmit`] and [`Checksum::ipv6_receive`].
#[expect(missing_docs, reason = "Windows' names")]
pub mod checksum_v6 {
    pub const IP_EXTENSION_HEADERS: u32 = 1;
    pub const TCP_OPTIONS: u32 = 1 << 2;
    pub const TCP_CHECKSUM: u32 = 1 << 4;
    pub const UDP_CHECKSUM: u32 = 1 << 6;
}

/// `NDIS_ENCAPSULATION_IEEE_802_3`.
pub const ENCAPSULATION_802_3: u32 = 0x02;
/// `NDIS_ENCAPSULATION_IEEE_802_3_P_AND_Q_IN_OOB`.
pub const ENCAPSULATION_802_3_PQ_IN_OOB: u32 = 0x08;

/// What is said of one direction of one IP version: the encapsulation and the bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ChecksumSide {
    /// `NDIS_ENCAPSULATION_`.
    pub encapsulation: u32,
    /// [`checksum_v4`] or [`checksum_v6`].
    pub bits: u32,
}

/// NDIS_TCP_IP_CHECKSUM_OFFLOAD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct Checksum {
    pub ipv4_transmit: ChecksumSide,
    pub ipv4_receive: ChecksumSide,
    pub ipv6_transmit: ChecksumSide,
    pub ipv6_receive: ChecksumSide,
}

/// NDIS_TCP_LARGE_SEND_OFFLOAD_V2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct LargeSendV2 {
    pub ipv4_encapsulation: u32,
    pub ipv4_max_size: u32,
    pub ipv4_min_segments: u32,
    pub ipv6_encapsulation: u32,
    pub ipv6_max_size: u32,
    pub ipv6_min_segments: u32,
    /// IpExtensionHeadersSupported in bits 0 and 1, TcpOptionsSupported in bits 2 and 3.
    pub ipv6_bits: u32,
}

/// [`LargeSendV2::ipv6_bits`]: TCP options are allowed.
pub const LSO_V6_TCP_OPTIONS: u32 = ON << 2;

/// NDIS_OFFLOAD, revision 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct Offload {
    pub header: ObjectHeader,
    pub checksum: Checksum,
    pub lso_v1: [u32; 4],
    pub ipsec_v1: [u32; 7],
    pub lso_v2: LargeSendV2,
    pub flags: u32,
    pub ipsec_v2: [u32; 8],
    pub rsc_ipv4: u8,
    pub rsc_ipv6: u8,
    pub padding: u16,
    pub encapsulated_gre: [u32; 2],
}

/// Bytes of [`Offload`], revision 3.
pub const OFFLOAD_SIZE: usize = 0x9c;

/// NDIS_OFFLOAD_PARAMETERS, revision 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct OffloadParameters {
    pub header: ObjectHeader,
    pub ipv4_checksum: u8,
    pub tcp_ipv4_checksum: u8,
    pub udp_ipv4_checksum: u8,
    pub tcp_ipv6_checksum: u8,
    pub udp_ipv6_checksum: u8,
    pub lso_v1: u8,
    pub ipsec_v1: u8,
    pub lso_v2_ipv4: u8,
    pub lso_v2_ipv6: u8,
    pub tcp_connection_ipv4: u8,
    pub tcp_connection_ipv6: u8,
    pub padding: u8,
    pub flags: u32,
    pub ipsec_v2: u8,
    pub ipsec_v2_ipv4: u8,
    pub rsc_ipv4: u8,
    pub rsc_ipv6: u8,
    pub encapsulated_packet: u8,
    pub encapsulation_types: u8,
}

/// Bytes of [`OffloadParameters`], by revision less one.
pub const OFFLOAD_PARAMETERS_SIZES: [usize; 3] = [0x14, 0x16, 0x1a];

/// Values of the members of [`OffloadParameters`], `NDIS_OFFLOAD_PARAMETERS_`.
#[expect(missing_docs, reason = "Windows' names")]
pub mod parameter {
    pub const NO_CHANGE: u8 = 0;
    pub const TX_RX_DISABLED: u8 = 1;
    pub const TX_ENABLED: u8 = 2;
    pub const RX_ENABLED: u8 = 3;
    pub const TX_RX_ENABLED: u8 = 4;
    /// Of the members that only know on and off.
    pub const DISABLED: u8 = 1;
    /// See [`DISABLED`].
    pub const ENABLED: u8 = 2;
}

/// One IP version of NDIS_OFFLOAD_ENCAPSULATION.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct EncapsulationSide {
    /// `NDIS_OFFLOAD_SET_`: 0 no change, 1 on, 2 off.
    pub enabled: u32,
    pub encapsulation: u32,
    pub header_size: u32,
}

/// NDIS_OFFLOAD_ENCAPSULATION, revision 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct OffloadEncapsulation {
    pub header: ObjectHeader,
    pub ipv4: EncapsulationSide,
    pub ipv6: EncapsulationSide,
}

/// `NDIS_OFFLOAD_SET_ON`.
pub const SET_ON: u32 = 1;
/// `NDIS_OFFLOAD_SET_OFF`.
pub const SET_OFF: u32 = 2;

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Checksum>() == 0x20);
    assert!(offset_of!(Offload, checksum) == 0x04);
    assert!(offset_of!(Offload, lso_v1) == 0x24);
    assert!(offset_of!(Offload, ipsec_v1) == 0x34);
    assert!(offset_of!(Offload, lso_v2) == 0x50);
    assert!(offset_of!(Offload, flags) == 0x6c);
    assert!(offset_of!(Offload, ipsec_v2) == 0x70);
    assert!(offset_of!(Offload, rsc_ipv4) == 0x90);
    assert!(offset_of!(Offload, encapsulated_gre) == 0x94);
    assert!(size_of::<Offload>() == OFFLOAD_SIZE);

    assert!(offset_of!(OffloadParameters, lso_v2_ipv4) == 0x0b);
    assert!(offset_of!(OffloadParameters, flags) + 4 == OFFLOAD_PARAMETERS_SIZES[0]);
    assert!(offset_of!(OffloadParameters, ipsec_v2_ipv4) + 1 == OFFLOAD_PARAMETERS_SIZES[1]);
    assert!(offset_of!(OffloadParameters, encapsulation_types) + 1 == OFFLOAD_PARAMETERS_SIZES[2]);

    assert!(size_of::<OffloadEncapsulation>() == 0x1c);
};
