//! OID requests, status indications, statistics.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/ndis/ns-ndis-_ndis_oid_request>, the OIDs' own pages
//! below <https://learn.microsoft.com/windows-hardware/drivers/network/ndis-oids>, and the `ntddndis.h` pages.

use core::ffi::c_void;

use super::{Handle, ObjectHeader};

/// NDIS_OID_REQUEST. `data` is a union: see the accessors of `wdm::ndis::OidRequest`.
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct OidRequest {
    pub header: ObjectHeader,
    pub request_type: i32,
    pub port_number: u32,
    pub timeout: u32,
    pub request_id: *mut c_void,
    pub request_handle: Handle,
    pub data: RequestData,
    pub ndis_reserved: [*mut c_void; 16],
    pub miniport_reserved: [*mut c_void; 2],
    pub source_reserved: [*mut c_void; 2],
    pub supported_revision: u8,
    pub reserved1: u8,
    pub reserved2: u16,
}

/// The union of NDIS_OID_REQUEST. QUERY and SET have the same members, but for the name of `bytes`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct RequestData {
    /// The OID.
    pub oid: u32,
    /// The information buffer.
    pub buffer: *mut c_void,
    /// Bytes of it; of a method, bytes of input in it.
    pub buffer_length: u32,
    /// BytesWritten of a query, BytesRead of a set; OutputBufferLength of a method.
    pub bytes: u32,
    /// BytesNeeded; MethodId of a method.
    pub bytes_needed: u32,
    /// Of a method: BytesWritten, BytesRead, BytesNeeded.
    pub method: [u32; 3],
}

/// Values of [`OidRequest::request_type`], NDIS_REQUEST_TYPE.
pub mod request {
    /// `NdisRequestQueryInformation`.
    pub const QUERY: i32 = 0;
    /// `NdisRequestSetInformation`.
    pub const SET: i32 = 1;
    /// `NdisRequestQueryStatistics`.
    pub const STATISTICS: i32 = 2;
    /// `NdisRequestMethod`.
    pub const METHOD: i32 = 12;
}

/// OIDs. The names are Windows' without `OID_`.
#[expect(missing_docs, reason = "Windows' names; each has a page")]
pub mod oids {
    pub const GEN_SUPPORTED_LIST: u32 = 0x0001_0101;
    pub const GEN_HARDWARE_STATUS: u32 = 0x0001_0102;
    pub const GEN_TRANSMIT_BUFFER_SPACE: u32 = 0x0001_0108;
    pub const GEN_RECEIVE_BUFFER_SPACE: u32 = 0x0001_0109;
    pub const GEN_TRANSMIT_BLOCK_SIZE: u32 = 0x0001_010a;
    pub const GEN_RECEIVE_BLOCK_SIZE: u32 = 0x0001_010b;
    pub const GEN_VENDOR_ID: u32 = 0x0001_010c;
    pub const GEN_VENDOR_DESCRIPTION: u32 = 0x0001_010d;
    pub const GEN_CURRENT_PACKET_FILTER: u32 = 0x0001_010e;
    pub const GEN_CURRENT_LOOKAHEAD: u32 = 0x0001_010f;
    pub const GEN_MAXIMUM_TOTAL_SIZE: u32 = 0x0001_0111;
    pub const GEN_VENDOR_DRIVER_VERSION: u32 = 0x0001_0116;
    pub const GEN_RECEIVE_SCALE_PARAMETERS: u32 = 0x0001_0204;
    pub const GEN_INTERRUPT_MODERATION: u32 = 0x0001_0209;
    pub const GEN_VLAN_ID: u32 = 0x0001_021c;
    pub const GEN_XMIT_OK: u32 = 0x0002_0101;
    pub const GEN_RCV_OK: u32 = 0x0002_0102;
    pub const GEN_XMIT_ERROR: u32 = 0x0002_0103;
    pub const GEN_RCV_ERROR: u32 = 0x0002_0104;
    pub const GEN_RCV_NO_BUFFER: u32 = 0x0002_0105;
    pub const GEN_STATISTICS: u32 = 0x0002_0106;
    pub const GEN_TRANSMIT_QUEUE_LENGTH: u32 = 0x0002_020e;
    pub const IEEE_802_3_PERMANENT_ADDRESS: u32 = 0x0101_0101;
    pub const IEEE_802_3_CURRENT_ADDRESS: u32 = 0x0101_0102;
    pub const IEEE_802_3_MULTICAST_LIST: u32 = 0x0101_0103;
    pub const IEEE_802_3_MAXIMUM_LIST_SIZE: u32 = 0x0101_0104;
    pub const IEEE_802_3_RCV_ERROR_ALIGNMENT: u32 = 0x0102_0101;
    pub const IEEE_802_3_XMIT_ONE_COLLISION: u32 = 0x0102_0102;
    pub const IEEE_802_3_XMIT_MORE_COLLISIONS: u32 = 0x0102_0103;
    pub const OFFLOAD_ENCAPSULATION: u32 = 0x0101_010a;
    pub const TCP_OFFLOAD_CURRENT_CONFIG: u32 = 0xfc01_020b;
    pub const TCP_OFFLOAD_PARAMETERS: u32 = 0xfc01_020c;
    pub const TCP_OFFLOAD_HARDWARE_CAPABILITIES: u32 = 0xfc01_020d;
    pub const PNP_CAPABILITIES: u32 = 0xfd01_0100;
    pub const PNP_SET_POWER: u32 = 0xfd01_0101;
    pub const PNP_QUERY_POWER: u32 = 0xfd01_0102;
}

/// NDIS_STATUS_INDICATION.
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct StatusIndication {
    pub header: ObjectHeader,
    pub source_handle: Handle,
    pub port_number: u32,
    pub status_code: i32,
    pub flags: u32,
    pub destination_handle: Handle,
    pub request_id: *mut c_void,
    pub status_buffer: *const c_void,
    pub status_buffer_size: u32,
    pub guid: [u32; 4],
    pub ndis_reserved: [*mut c_void; 4],
}

/// `NDIS_STATUS_LINK_STATE`.
pub const STATUS_LINK_STATE: i32 = 0x4001_0017;
/// `NDIS_STATUS_TASK_OFFLOAD_CURRENT_CONFIG`.
pub const STATUS_TASK_OFFLOAD_CURRENT_CONFIG: i32 = 0x4002_0006;

/// NDIS_LINK_STATE.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct LinkState {
    pub header: ObjectHeader,
    pub media_connect_state: i32,
    pub media_duplex_state: i32,
    pub xmit_link_speed: u64,
    pub rcv_link_speed: u64,
    pub pause_functions: u32,
    pub auto_negotiation_flags: u32,
}

/// NDIS_STATISTICS_INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct Statistics {
    pub header: ObjectHeader,
    /// [`statistics`].
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

/// `NDIS_STATISTICS_FLAGS_VALID_` of every member of [`Statistics`]: directed, multicast and broadcast frames and bytes
/// both ways, bytes, errors and discards both ways.
pub const STATISTICS_ALL: u32 = 0x003f_87ff;

/// NDIS_INTERRUPT_MODERATION_PARAMETERS.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct InterruptModeration {
    pub header: ObjectHeader,
    pub flags: u32,
    /// NDIS_INTERRUPT_MODERATION: 1 is not supported.
    pub moderation: i32,
}

/// `NdisInterruptModerationNotSupported`.
pub const MODERATION_NOT_SUPPORTED: i32 = 1;

/// `NdisHardwareStatusReady`.
pub const HARDWARE_READY: u32 = 0;
/// `NdisHardwareStatusNotReady`.
pub const HARDWARE_NOT_READY: u32 = 4;

/// `NdisDeviceStateD0` of NDIS_DEVICE_POWER_STATE.
pub const POWER_D0: u32 = 1;
/// `NdisDeviceStateD3`.
pub const POWER_D3: u32 = 4;

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;
    type O = OidRequest;
    assert!(offset_of!(O, port_number) == 0x08);
    assert!(offset_of!(O, request_handle) == 0x18);
    assert!(offset_of!(O, data) == 0x20);
    assert!(offset_of!(O, data.buffer) == 0x28);
    assert!(offset_of!(O, data.buffer_length) == 0x30);
    assert!(offset_of!(O, data.bytes) == 0x34);
    assert!(offset_of!(O, data.bytes_needed) == 0x38);
    assert!(offset_of!(O, data.method) == 0x3c);
    assert!(offset_of!(O, ndis_reserved) == 0x48);
    assert!(offset_of!(O, miniport_reserved) == 0xc8);
    assert!(offset_of!(O, supported_revision) == 0xe8);
};

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;
    type S = StatusIndication;
    assert!(size_of::<S>() == 0x70);
    assert!(offset_of!(S, port_number) == 0x10);
    assert!(offset_of!(S, status_code) == 0x14);
    assert!(offset_of!(S, destination_handle) == 0x20);
    assert!(offset_of!(S, status_buffer) == 0x30);
    assert!(offset_of!(S, guid) == 0x3c);

    assert!(size_of::<LinkState>() == 0x28);
    assert!(offset_of!(LinkState, xmit_link_speed) == 0x10);
    assert!(size_of::<Statistics>() == 0x98);
    assert!(offset_of!(Statistics, in_discards) == 0x08);
    assert!(offset_of!(Statistics, out_octets) == 0x38);
    assert!(offset_of!(Statistics, in_unicast_octets) == 0x68);
    assert!(size_of::<InterruptModeration>() == 0x0c);
};
