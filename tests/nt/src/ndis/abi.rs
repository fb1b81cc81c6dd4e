//! Layouts and numbers between NDIS and its miniports, NDIS 6.30, x64, from public documentation.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ndis/>,
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddndis/>
//!
//! Fields bear Windows' names in this crate's spelling; their pages say what they mean.

#![allow(missing_docs)]

use super::oid_abi::OidRequest;
use super::packet::Nbl;
use crate::io::abi::DriverObject;
use crate::rtl::abi::UnicodeString;
use core::ffi::c_void;
use core::mem::offset_of;

/// `NDIS_HANDLE`.
pub type Handle = *mut c_void;
/// `NDIS_STATUS`.
pub type NdisStatus = i32;

const fn code(value: u32) -> NdisStatus {
    value as NdisStatus
}

pub const NDIS_STATUS_SUCCESS: NdisStatus = 0;
pub const NDIS_STATUS_PENDING: NdisStatus = 0x103;
pub const NDIS_STATUS_FAILURE: NdisStatus = code(0xc000_0001);
pub const NDIS_STATUS_INVALID_PARAMETER: NdisStatus = code(0xc000_000d);
pub const NDIS_STATUS_RESOURCES: NdisStatus = code(0xc000_009a);
pub const NDIS_STATUS_NOT_SUPPORTED: NdisStatus = code(0xc000_00bb);
pub const NDIS_STATUS_BAD_VERSION: NdisStatus = code(0xc001_0004);
pub const NDIS_STATUS_BAD_CHARACTERISTICS: NdisStatus = code(0xc001_0005);
pub const NDIS_STATUS_REQUEST_ABORTED: NdisStatus = code(0xc001_000c);
pub const NDIS_STATUS_INVALID_LENGTH: NdisStatus = code(0xc001_0014);
pub const NDIS_STATUS_BUFFER_TOO_SHORT: NdisStatus = code(0xc001_0016);
pub const NDIS_STATUS_PAUSED: NdisStatus = code(0xc023_002a);
pub const NDIS_STATUS_LOW_POWER_STATE: NdisStatus = code(0xc023_002f);

/// `NDIS_OBJECT_TYPE_*`.
pub mod object {
    pub const DEFAULT: u8 = 0x80;
    pub const MINIPORT_INIT_PARAMETERS: u8 = 0x81;
    pub const SG_DMA_DESCRIPTION: u8 = 0x83;
    pub const MINIPORT_DRIVER_CHARACTERISTICS: u8 = 0x8a;
    pub const OID_REQUEST: u8 = 0x96;
    pub const TIMER_CHARACTERISTICS: u8 = 0x97;
    pub const STATUS_INDICATION: u8 = 0x98;
    pub const REGISTRATION_ATTRIBUTES: u8 = 0x9e;
    pub const GENERAL_ATTRIBUTES: u8 = 0x9f;
    pub const OFFLOAD_ATTRIBUTES: u8 = 0xa0;
    pub const OFFLOAD_ENCAPSULATION: u8 = 0xa8;
    pub const CONFIGURATION_OBJECT: u8 = 0xa9;
}

/// `NDIS_OBJECT_HEADER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    pub kind: u8,
    pub revision: u8,
    pub size: u16,
}

impl Header {
    pub const fn new(kind: u8, revision: u8, size: usize) -> Self {
        Self { kind, revision, size: size as u16 }
    }
}

/// Bytes of a structure up to and with a field, as `RTL_SIZEOF_THROUGH_FIELD` counts.
#[macro_export]
macro_rules! through {
    ($kind:ty, $field:ident, $field_kind:ty) => {
        core::mem::offset_of!($kind, $field) + size_of::<$field_kind>()
    };
}

pub type Initialize =
    unsafe extern "win64" fn(adapter: Handle, driver_context: Handle, parameters: *mut InitParameters) -> NdisStatus;
pub type Halt = unsafe extern "win64" fn(context: Handle, action: i32);
pub type UnloadDriver = unsafe extern "win64" fn(driver: *mut DriverObject);
pub type Pause = unsafe extern "win64" fn(context: Handle, parameters: *mut PauseParameters) -> NdisStatus;
pub type Restart = unsafe extern "win64" fn(context: Handle, parameters: *mut RestartParameters) -> NdisStatus;
pub type Oid = unsafe extern "win64" fn(context: Handle, request: *mut OidRequest) -> NdisStatus;
pub type SendLists = unsafe extern "win64" fn(context: Handle, lists: *mut Nbl, port: u32, flags: u32);
pub type ReturnLists = unsafe extern "win64" fn(context: Handle, lists: *mut Nbl, flags: u32);
pub type Cancel = unsafe extern "win64" fn(context: Handle, id: *mut c_void);
pub type CheckForHang = unsafe extern "win64" fn(context: Handle) -> u8;
pub type Reset = unsafe extern "win64" fn(context: Handle, addressing_reset: *mut u8) -> NdisStatus;
pub type PnpNotify = unsafe extern "win64" fn(context: Handle, event: *mut DevicePnpEvent);
pub type Shutdown = unsafe extern "win64" fn(context: Handle, action: i32);
pub type SetOptions = unsafe extern "win64" fn(driver: Handle, context: Handle) -> NdisStatus;

/// `NDIS_MINIPORT_DRIVER_CHARACTERISTICS`, revision 2.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct DriverCharacteristics {
    pub header: Header,
    pub major_ndis_version: u8,
    pub minor_ndis_version: u8,
    pub major_driver_version: u8,
    pub minor_driver_version: u8,
    pub flags: u32,
    pub set_options: Option<SetOptions>,
    pub initialize: Option<Initialize>,
    pub halt: Option<Halt>,
    pub unload: Option<UnloadDriver>,
    pub pause: Option<Pause>,
    pub restart: Option<Restart>,
    pub oid_request: Option<Oid>,
    pub send: Option<SendLists>,
    pub return_lists: Option<ReturnLists>,
    pub cancel_send: Option<Cancel>,
    pub check_for_hang: Option<CheckForHang>,
    pub reset: Option<Reset>,
    pub pnp_notify: Option<PnpNotify>,
    pub shutdown: Option<Shutdown>,
    pub cancel_oid: Option<Cancel>,
    pub direct_oid: *const c_void,
    pub cancel_direct_oid: *const c_void,
}
/// Bytes of revision 1: without the direct OID handlers.
pub const DRIVER_CHARACTERISTICS_1: usize = offset_of!(DriverCharacteristics, direct_oid);

/// `NDIS_MINIPORT_INIT_PARAMETERS`.
#[repr(C)]
pub struct InitParameters {
    pub header: Header,
    pub flags: u32,
    pub allocated_resources: *mut c_void,
    pub im_device_instance_context: Handle,
    pub add_device_context: Handle,
    pub if_index: u32,
    pub net_luid: u64,
    pub default_port_auth_states: *mut c_void,
    pub pci_device_custom_properties: *mut c_void,
}

/// `NDIS_MINIPORT_PAUSE_PARAMETERS`.
#[repr(C)]
pub struct PauseParameters {
    pub header: Header,
    pub flags: u32,
    pub reason: u32,
}

/// `NDIS_MINIPORT_RESTART_PARAMETERS`.
#[repr(C)]
pub struct RestartParameters {
    pub header: Header,
    pub attributes: *mut c_void,
    pub flags: u32,
}

/// `NET_DEVICE_PNP_EVENT`.
#[repr(C)]
pub struct DevicePnpEvent {
    pub header: Header,
    pub port: u32,
    pub event: i32,
    pub buffer: *mut c_void,
    pub buffer_length: u32,
    pub reserved: [usize; 2],
}

/// `NDIS_MINIPORT_ADAPTER_REGISTRATION_ATTRIBUTES`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct RegistrationAttributes {
    pub header: Header,
    pub context: Handle,
    pub flags: u32,
    pub check_for_hang_seconds: u32,
    pub interface_type: i32,
}
pub const NDIS_MINIPORT_ATTRIBUTES_SURPRISE_REMOVE_OK: u32 = 4;
pub const NDIS_MINIPORT_ATTRIBUTES_NO_HALT_ON_SUSPEND: u32 = 0x20;
pub const NDIS_MINIPORT_ATTRIBUTES_BUS_MASTER: u32 = 0x40;
pub const NDIS_MINIPORT_ATTRIBUTES_NO_PAUSE_ON_SUSPEND: u32 = 0x4000;

/// `NDIS_MINIPORT_ADAPTER_GENERAL_ATTRIBUTES`, revision 2.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct GeneralAttributes {
    pub header: Header,
    pub flags: u32,
    pub media_type: i32,
    pub physical_medium: i32,
    pub mtu: u32,
    pub max_xmit_speed: u64,
    pub xmit_speed: u64,
    pub max_rcv_speed: u64,
    pub rcv_speed: u64,
    pub connect_state: i32,
    pub duplex_state: i32,
    pub lookahead: u32,
    pub power_capabilities: *const c_void,
    pub mac_options: u32,
    pub supported_filters: u32,
    pub max_multicast: u32,
    pub address_length: u16,
    pub permanent_address: [u8; 32],
    pub current_address: [u8; 32],
    pub rss: *const RssCapabilities,
    pub access_type: i32,
    pub direction_type: i32,
    pub connection_type: i32,
    pub if_type: u16,
    pub connector_present: u8,
    pub supported_statistics: u32,
    pub pause_functions: i32,
    pub data_backfill: u32,
    pub context_backfill: u32,
    pub oids: *const u32,
    pub oids_length: u32,
    pub auto_negotiation: u32,
    pub power_capabilities_ex: *const c_void,
}
/// Bytes of revision 1.
pub const GENERAL_ATTRIBUTES_1: usize = offset_of!(GeneralAttributes, power_capabilities_ex);

/// `NDIS_MINIPORT_ADAPTER_OFFLOAD_ATTRIBUTES`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct OffloadAttributes {
    pub header: Header,
    pub default_configuration: *const Offload,
    pub hardware: *const Offload,
    pub tcp_connection: *const c_void,
    pub tcp_connection_hardware: *const c_void,
}

/// `NDIS_RECEIVE_SCALE_CAPABILITIES`, revision 2.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RssCapabilities {
    pub header: Header,
    pub flags: u32,
    pub messages: u32,
    pub queues: u32,
    pub table_entries: u16,
}

/// `NDIS_TCP_IP_CHECKSUM_OFFLOAD`: of each direction and version, a bit field of two bits a feature.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct ChecksumOffload {
    pub v4_transmit: [u32; 2],
    pub v4_receive: [u32; 2],
    pub v6_transmit: [u32; 2],
    pub v6_receive: [u32; 2],
}

/// `NDIS_TCP_LARGE_SEND_OFFLOAD_V2`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct LsoV2 {
    pub v4_encapsulation: u32,
    pub v4_max: u32,
    pub v4_min_segments: u32,
    pub v6_encapsulation: u32,
    pub v6_max: u32,
    pub v6_min_segments: u32,
    pub v6_extensions: u32,
}

/// `NDIS_OFFLOAD`, revision 3 (NDIS 6.30), as far as it is read here.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Offload {
    pub header: Header,
    pub checksum: ChecksumOffload,
    pub lso_v1: [u32; 4],
    pub ipsec_v1: [u32; 7],
    pub lso_v2: LsoV2,
    pub flags: u32,
    pub ipsec_v2: [u32; 8],
    pub rsc_v4: u8,
    pub rsc_v6: u8,
}

/// `NDIS_CONFIGURATION_OBJECT`.
#[repr(C)]
pub struct ConfigurationObject {
    pub header: Header,
    pub handle: Handle,
    pub flags: u32,
}

/// `NDIS_PARAMETER_TYPE`.
pub mod parameter {
    pub const INTEGER: i32 = 0;
    pub const HEX_INTEGER: i32 = 1;
    pub const STRING: i32 = 2;
    pub const MULTI_STRING: i32 = 3;
    pub const BINARY: i32 = 4;
}

/// The data of a [`ConfigurationParameter`].
#[derive(Clone, Copy)]
#[repr(C)]
pub union ParameterData {
    pub integer: u32,
    pub string: ParameterString,
    pub binary: ParameterBinary,
}

/// `NDIS_STRING`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ParameterString {
    pub length: u16,
    pub maximum_length: u16,
    pub buffer: *mut u16,
}

/// `BINARY_DATA`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ParameterBinary {
    pub length: u16,
    pub buffer: *mut u8,
}

/// `NDIS_CONFIGURATION_PARAMETER`.
#[repr(C)]
pub struct ConfigurationParameter {
    pub kind: i32,
    pub data: ParameterData,
}

/// `NDIS_TIMER_CHARACTERISTICS`.
#[repr(C)]
pub struct TimerCharacteristics {
    pub header: Header,
    pub tag: u32,
    pub function: Option<TimerFunction>,
    pub context: *mut c_void,
}
pub type TimerFunction = unsafe extern "win64" fn(
    specific1: *mut c_void,
    context: *mut c_void,
    specific2: *mut c_void,
    specific3: *mut c_void,
);

/// `NDIS_SG_DMA_DESCRIPTION`.
#[repr(C)]
pub struct SgDmaDescription {
    pub header: Header,
    pub flags: u32,
    pub maximum_mapping: u32,
    pub process_list: Option<ProcessSgList>,
    pub shared_memory_complete: *const c_void,
    pub list_size: u32,
}
pub type ProcessSgList =
    unsafe extern "win64" fn(device: *mut c_void, reserved: *mut c_void, list: *mut c_void, context: *mut c_void);

/// `NDIS_RSS_PROCESSOR`.
#[repr(C)]
pub struct RssProcessor {
    pub group: u16,
    pub number: u8,
    pub reserved: u8,
    pub preference: u16,
    pub alignment: u16,
}

/// `NDIS_RSS_PROCESSOR_INFO`.
#[repr(C)]
pub struct RssProcessorInfo {
    pub header: Header,
    pub flags: u32,
    pub base: (u16, u8, u8),
    pub max_processors: u32,
    pub default_profile: u16,
    pub processors_offset: u32,
    pub processor_count: u32,
    pub processor_size: u32,
}

/// `PNDIS_STRING` as exports take it.
pub type NdisString = UnicodeString;

/// `NDIS_MINIPORT_HALT_ACTION`.
pub mod halt {
    pub const DEVICE_DISABLED: i32 = 0;
    pub const POWERED_DOWN: i32 = 2;
    pub const SURPRISE_REMOVED: i32 = 3;
    pub const STOPPED: i32 = 6;
}

/// `NDIS_DEVICE_PNP_EVENT`.
pub mod pnp_event {
    pub const SURPRISE_REMOVED: i32 = 2;
    pub const POWER_PROFILE_CHANGED: i32 = 5;
}

/// `NDIS_PAUSE_*`, reasons of a pause.
pub mod pause {
    pub const NDIS_INTERNAL: u32 = 1;
    pub const LOW_POWER: u32 = 2;
    pub const UNBIND_PROTOCOL: u32 = 8;
    pub const MINIPORT_DEVICE_REMOVE: u32 = 0x80;
}

const _: () = {
    assert!(size_of::<DriverCharacteristics>() == 0x98 && DRIVER_CHARACTERISTICS_1 == 0x88);
    assert!(offset_of!(DriverCharacteristics, initialize) == 0x18);
    assert!(offset_of!(DriverCharacteristics, send) == 0x48);
    assert!(size_of::<InitParameters>() == 0x40 && offset_of!(InitParameters, net_luid) == 0x28);
    assert!(size_of::<PauseParameters>() == 0xc);
    assert!(offset_of!(RestartParameters, flags) == 0x10);
    assert!(offset_of!(DevicePnpEvent, buffer) == 0x10 && size_of::<DevicePnpEvent>() == 0x30);
    assert!(offset_of!(RegistrationAttributes, interface_type) == 0x18);
    assert!(size_of::<GeneralAttributes>() == 0xe0 && GENERAL_ATTRIBUTES_1 == 0xd8);
    assert!(offset_of!(GeneralAttributes, max_xmit_speed) == 0x18);
    assert!(offset_of!(GeneralAttributes, power_capabilities) == 0x48);
    assert!(offset_of!(GeneralAttributes, permanent_address) == 0x5e);
    assert!(offset_of!(GeneralAttributes, rss) == 0xa0);
    assert!(offset_of!(GeneralAttributes, oids) == 0xc8);
    assert!(size_of::<OffloadAttributes>() == 0x28);
    assert!(through!(RssCapabilities, table_entries, u16) == 0x12);
    assert!(offset_of!(Offload, checksum) == 4 && size_of::<ChecksumOffload>() == 0x20);
    assert!(offset_of!(Offload, lso_v1) == 0x24 && offset_of!(Offload, ipsec_v1) == 0x34);
    assert!(offset_of!(Offload, lso_v2) == 0x50 && size_of::<LsoV2>() == 0x1c);
    assert!(offset_of!(Offload, flags) == 0x6c && offset_of!(Offload, rsc_v4) == 0x90);
    assert!(offset_of!(ConfigurationObject, flags) == 0x10);
    assert!(size_of::<ConfigurationParameter>() == 0x18);
    assert!(size_of::<TimerCharacteristics>() == 0x18);
    assert!(offset_of!(SgDmaDescription, list_size) == 0x20);
};
