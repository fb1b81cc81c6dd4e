//! OID requests, status indications and what they carry, NDIS 6.30, x64, from public documentation.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/oidrequest/ns-oidrequest-ndis_oid_request>,
//! <https://learn.microsoft.com/windows-hardware/drivers/network/general-statistics-oids>

#![allow(missing_docs)]

use super::abi::{Handle, Header};
use core::ffi::c_void;
use core::mem::offset_of;

/// `NDIS_REQUEST_TYPE`.
pub mod request {
    pub const QUERY: i32 = 0;
    pub const SET: i32 = 1;
    pub const METHOD: i32 = 12;
}

/// `NDIS_OID_REQUEST`. The counts behind the buffer stand at other places for a method.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct OidRequest {
    pub header: Header,
    pub kind: i32,
    pub port: u32,
    pub timeout: u32,
    pub id: *mut c_void,
    pub handle: Handle,
    pub oid: u32,
    pub buffer: *mut c_void,
    /// Bytes of the buffer; of a method, those that go in.
    pub length: u32,
    /// Query: bytes written. Set: bytes read. Method: bytes that may come out.
    pub done_or_output: u32,
    /// Bytes needed; of a method, its id.
    pub needed_or_method: u32,
    pub method_written: u32,
    pub method_read: u32,
    pub method_needed: u32,
    pub ndis_reserved: [usize; 16],
    pub miniport_reserved: [usize; 2],
    pub source_reserved: [usize; 2],
    pub supported_revision: u8,
    pub reserved1: u8,
    pub reserved2: u16,
}
/// `NDIS_SIZEOF_OID_REQUEST_REVISION_1`.
pub const OID_REQUEST_1: usize = offset_of!(OidRequest, reserved2) + 2;

/// `NDIS_STATUS_INDICATION`.
#[repr(C)]
pub struct StatusIndication {
    pub header: Header,
    pub source: Handle,
    pub port: u32,
    pub code: u32,
    pub flags: u32,
    pub destination: Handle,
    pub request_id: *mut c_void,
    pub buffer: *const c_void,
    pub length: u32,
    pub guid: [u32; 4],
    pub reserved: [usize; 4],
}

pub const NDIS_STATUS_LINK_STATE: u32 = 0x4001_0017;
pub const NDIS_STATUS_TASK_OFFLOAD_CURRENT_CONFIG: u32 = 0x4002_0006;

/// `NDIS_LINK_STATE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LinkState {
    pub header: Header,
    pub connect: i32,
    pub duplex: i32,
    pub xmit_speed: u64,
    pub rcv_speed: u64,
    pub pause_functions: i32,
    pub auto_negotiation: u32,
}
/// `MediaConnectStateConnected`.
pub const MEDIA_CONNECTED: i32 = 1;

/// `NDIS_STATISTICS_INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Statistics {
    pub header: Header,
    pub supported: u32,
    pub in_discards: u64,
    pub in_errors: u64,
    pub in_octets: u64,
    pub in_unicast: u64,
    pub in_multicast: u64,
    pub in_broadcast: u64,
    pub out_octets: u64,
    pub out_unicast: u64,
    pub out_multicast: u64,
    pub out_broadcast: u64,
    pub out_errors: u64,
    pub out_discards: u64,
    pub in_unicast_octets: u64,
    pub in_multicast_octets: u64,
    pub in_broadcast_octets: u64,
    pub out_unicast_octets: u64,
    pub out_multicast_octets: u64,
    pub out_broadcast_octets: u64,
}

/// OIDs that the protocol side uses; suites may send any other number.
pub mod oid {
    pub const GEN_CURRENT_PACKET_FILTER: u32 = 0x0001_010e;
    pub const GEN_STATISTICS: u32 = 0x0002_0106;
    pub const GEN_RECEIVE_SCALE_PARAMETERS: u32 = 0x0001_0204;
    pub const ETH_PERMANENT_ADDRESS: u32 = 0x0101_0101;
    pub const ETH_CURRENT_ADDRESS: u32 = 0x0101_0102;
    pub const ETH_MULTICAST_LIST: u32 = 0x0101_0103;
    pub const TCP_OFFLOAD_PARAMETERS: u32 = 0xfc01_020c;
    pub const OFFLOAD_ENCAPSULATION: u32 = 0x0101_010a;
    pub const PNP_SET_POWER: u32 = 0xfd01_0101;
    pub const PNP_QUERY_POWER: u32 = 0xfd01_0102;
}

/// `NDIS_PACKET_TYPE_*`.
pub mod filter {
    pub const DIRECTED: u32 = 1;
    pub const MULTICAST: u32 = 2;
    pub const ALL_MULTICAST: u32 = 4;
    pub const BROADCAST: u32 = 8;
    pub const PROMISCUOUS: u32 = 0x20;
}

/// `NDIS_OFFLOAD_ENCAPSULATION`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct OffloadEncapsulation {
    pub header: Header,
    pub v4_enabled: u32,
    pub v4_type: u32,
    pub v4_header_size: u32,
    pub v6_enabled: u32,
    pub v6_type: u32,
    pub v6_header_size: u32,
}

impl OffloadEncapsulation {
    /// It as a set request carries it.
    pub fn bytes(&self) -> [u8; size_of::<Self>()] {
        let Header { kind, revision, size } = self.header;
        let mut out = [0; size_of::<Self>()];
        (out[0], out[1]) = (kind, revision);
        out[2..4].copy_from_slice(&size.to_le_bytes());
        let v6 = [self.v6_enabled, self.v6_type, self.v6_header_size];
        let fields = [self.v4_enabled, self.v4_type, self.v4_header_size].into_iter().chain(v6);
        for (place, value) in out[4..].chunks_exact_mut(4).zip(fields) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        out
    }
}

/// `NDIS_OFFLOAD_SET_ON`.
pub const OFFLOAD_SET_ON: u32 = 1;
/// `NDIS_ENCAPSULATION_IEEE_802_3`.
pub const ENCAPSULATION_802_3: u32 = 2;

const _: () = {
    assert!(offset_of!(OidRequest, oid) == 0x20 && offset_of!(OidRequest, buffer) == 0x28);
    assert!(offset_of!(OidRequest, needed_or_method) == 0x38 && offset_of!(OidRequest, method_needed) == 0x44);
    assert!(offset_of!(OidRequest, ndis_reserved) == 0x48 && OID_REQUEST_1 == 0xec);
    assert!(offset_of!(StatusIndication, code) == 0x14 && offset_of!(StatusIndication, buffer) == 0x30);
    assert!(offset_of!(StatusIndication, reserved) == 0x50 && size_of::<StatusIndication>() == 0x70);
    assert!(offset_of!(LinkState, xmit_speed) == 0x10 && size_of::<LinkState>() == 0x28);
    assert!(size_of::<Statistics>() == 0x98 && size_of::<OffloadEncapsulation>() == 0x1c);
};
