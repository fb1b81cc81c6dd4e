//! Offloads as NDIS describes them, and the requests that switch them.

use wdm::ndis::{
    abi::{
        ObjectHeader, object,
        offload::{
            Checksum, ChecksumSide, ENCAPSULATION_802_3, ENCAPSULATION_802_3_PQ_IN_OOB, LSO_V6_TCP_OPTIONS,
            LargeSendV2, OFFLOAD_SIZE, Offload, OffloadEncapsulation, OffloadParameters, SET_OFF, SET_ON, checksum_v4,
            checksum_v6, parameter,
        },
    },
    status::NdisStatus,
};

use super::settings::{Directions, Offloads};

/// Bytes of the largest packet that is taken for segmentation. A frame has to stay below 64 KiB with all its headers.
pub const LARGEST_SEND: u32 = 0xf000;
/// Fewest segments of a packet that is worth it.
const MIN_SEGMENTS: u32 = 2;
/// Frames are plain Ethernet; a tag stands beside the frame.
const ENCAPSULATION: u32 = ENCAPSULATION_802_3 | ENCAPSULATION_802_3_PQ_IN_OOB;

/// Everything that can be switched on.
pub const CAPABLE: Offloads = {
    let both = Directions { tx: true, rx: true };
    Offloads {
        ipv4: both,
        tcp4: both,
        udp4: both,
        tcp6: both,
        udp6: both,
        lso4: true,
        lso6: true,
        rsc4: true,
        rsc6: true,
    }
};

fn side(parts: &[(bool, u32)], options: u32) -> ChecksumSide {
    let bits = parts.iter().filter(|(on, _)| *on).fold(0, |bits, (_, bit)| bits | bit);
    if bits == 0 {
        return ChecksumSide::default();
    }
    ChecksumSide { encapsulation: ENCAPSULATION, bits: bits | options }
}

/// As NDIS_OFFLOAD.
pub fn describe(offloads: &Offloads) -> Offload {
    let v4 = |of: fn(Directions) -> bool| {
        side(
            &[
                (of(offloads.ipv4), checksum_v4::IP_CHECKSUM),
                (of(offloads.tcp4), checksum_v4::TCP_CHECKSUM),
                (of(offloads.udp4), checksum_v4::UDP_CHECKSUM),
            ],
            checksum_v4::IP_OPTIONS | checksum_v4::TCP_OPTIONS,
        )
    };
    let v6 = |of: fn(Directions) -> bool| {
        side(
            &[(of(offloads.tcp6), checksum_v6::TCP_CHECKSUM), (of(offloads.udp6), checksum_v6::UDP_CHECKSUM)],
            checksum_v6::IP_EXTENSION_HEADERS | checksum_v6::TCP_OPTIONS,
        )
    };
    let (tx, rx) = (|sides: Directions| sides.tx, |sides: Directions| sides.rx);
    let mut lso_v2 = LargeSendV2::default();
    if offloads.lso4 {
        lso_v2.ipv4_encapsulation = ENCAPSULATION;
        lso_v2.ipv4_max_size = LARGEST_SEND;
        lso_v2.ipv4_min_segments = MIN_SEGMENTS;
    }
    if offloads.lso6 {
        lso_v2.ipv6_encapsulation = ENCAPSULATION;
        lso_v2.ipv6_max_size = LARGEST_SEND;
        lso_v2.ipv6_min_segments = MIN_SEGMENTS;
        lso_v2.ipv6_bits = LSO_V6_TCP_OPTIONS;
    }
    Offload {
        header: ObjectHeader::new(object::OFFLOAD, 3, OFFLOAD_SIZE),
        checksum: Checksum { ipv4_transmit: v4(tx), ipv4_receive: v4(rx), ipv6_transmit: v6(tx), ipv6_receive: v6(rx) },
        lso_v2,
        rsc_ipv4: offloads.rsc4.into(),
        rsc_ipv6: offloads.rsc6.into(),
        ..Offload::default()
    }
}

/// What OID_TCP_OFFLOAD_PARAMETERS makes of the offloads.
///
/// # Errors
/// [`NdisStatus::INVALID_PARAMETER`] for a value that does not exist, [`NdisStatus::NOT_SUPPORTED`] for an offload that
/// the device does not have. Nothing is changed then.
pub fn apply(offloads: &Offloads, wanted: &OffloadParameters) -> Result<Offloads, NdisStatus> {
    let directions = |now: Directions, value: u8| match value {
        parameter::NO_CHANGE => Ok(now),
        parameter::TX_RX_DISABLED => Ok(Directions { tx: false, rx: false }),
        parameter::TX_ENABLED => Ok(Directions { tx: true, rx: false }),
        parameter::RX_ENABLED => Ok(Directions { tx: false, rx: true }),
        parameter::TX_RX_ENABLED => Ok(Directions { tx: true, rx: true }),
        _ => Err(NdisStatus::INVALID_PARAMETER),
    };
    let switch = |now: bool, value: u8| match value {
        parameter::NO_CHANGE => Ok(now),
        parameter::DISABLED => Ok(false),
        parameter::ENABLED => Ok(true),
        _ => Err(NdisStatus::INVALID_PARAMETER),
    };
    let absent = [
        wanted.lso_v1,
        wanted.ipsec_v1,
        wanted.ipsec_v2,
        wanted.ipsec_v2_ipv4,
        wanted.tcp_connection_ipv4,
        wanted.tcp_connection_ipv6,
        wanted.encapsulated_packet,
    ];
    if absent.iter().any(|&value| !matches!(value, parameter::NO_CHANGE | parameter::DISABLED)) {
        return Err(NdisStatus::NOT_SUPPORTED);
    }
    Ok(Offloads {
        ipv4: directions(offloads.ipv4, wanted.ipv4_checksum)?,
        tcp4: directions(offloads.tcp4, wanted.tcp_ipv4_checksum)?,
        udp4: directions(offloads.udp4, wanted.udp_ipv4_checksum)?,
        tcp6: directions(offloads.tcp6, wanted.tcp_ipv6_checksum)?,
        udp6: directions(offloads.udp6, wanted.udp_ipv6_checksum)?,
        lso4: switch(offloads.lso4, wanted.lso_v2_ipv4)?,
        lso6: switch(offloads.lso6, wanted.lso_v2_ipv6)?,
        rsc4: switch(offloads.rsc4, wanted.rsc_ipv4)?,
        rsc6: switch(offloads.rsc6, wanted.rsc_ipv6)?,
    })
}

/// Whether OID_OFFLOAD_ENCAPSULATION asks for what frames of this device look like.
///
/// # Errors
/// [`NdisStatus::INVALID_PARAMETER`]: for something else.
pub fn check_encapsulation(wanted: &OffloadEncapsulation) -> Result<(), NdisStatus> {
    for side in [wanted.ipv4, wanted.ipv6] {
        match side.enabled {
            SET_ON if side.encapsulation & !ENCAPSULATION != 0 || side.encapsulation == 0 => {
                return Err(NdisStatus::INVALID_PARAMETER);
            }
            0 | SET_ON | SET_OFF => {}
            _ => return Err(NdisStatus::INVALID_PARAMETER),
        }
    }
    Ok(())
}
