//! NDIS's binary interface, x64, NDIS 6.30: drivers, adapters, configuration, and the imports.
//!
//! Source: the `ndis.h`, `ntddndis.h`, `nbl.h` pages of
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ndis/>. Names are Rust's; the doc comment of each item gives
//! Windows' name where it differs by more than spelling. Everything here is data, so it compiles and is checked on every
//! host; the imports exist on Windows only.
//!
//! A structure that is versioned begins with an [`ObjectHeader`]. Its `size` is that of the members of that revision,
//! without padding behind the last one.

use core::ffi::c_void;

pub mod offload;
pub mod oid;
pub mod packet;
pub mod rss;

/// An opaque handle of NDIS's or a context of the miniport's.
pub type Handle = *mut c_void;

/// `NDIS_DEFAULT_PORT_NUMBER`.
pub const DEFAULT_PORT: u32 = 0;

/// The version of NDIS that the miniport is written for.
pub const NDIS_MAJOR: u8 = 6;
/// See [`NDIS_MAJOR`].
pub const NDIS_MINOR: u8 = 30;

/// NDIS_OBJECT_HEADER.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ObjectHeader {
    /// One of [`object`].
    pub kind: u8,
    /// The revision of the structure.
    pub revision: u8,
    /// Bytes of the structure, this header included.
    pub size: u16,
}

impl ObjectHeader {
    /// A header.
    pub const fn new(kind: u8, revision: u8, size: usize) -> Self {
        Self { kind, revision, size: size as u16 }
    }
}

/// Values of [`ObjectHeader::kind`], `NDIS_OBJECT_TYPE_`.
#[expect(missing_docs, reason = "Windows' names in the order of their values")]
pub mod object {
    pub const DEFAULT: u8 = 0x80;
    pub const MINIPORT_INIT_PARAMETERS: u8 = 0x81;
    pub const RSS_CAPABILITIES: u8 = 0x88;
    pub const RSS_PARAMETERS: u8 = 0x89;
    pub const MINIPORT_DRIVER_CHARACTERISTICS: u8 = 0x8a;
    pub const OID_REQUEST: u8 = 0x96;
    pub const STATUS_INDICATION: u8 = 0x98;
    pub const MINIPORT_ADAPTER_REGISTRATION_ATTRIBUTES: u8 = 0x9e;
    pub const MINIPORT_ADAPTER_GENERAL_ATTRIBUTES: u8 = 0x9f;
    pub const MINIPORT_ADAPTER_OFFLOAD_ATTRIBUTES: u8 = 0xa0;
    pub const OFFLOAD: u8 = 0xa7;
    pub const OFFLOAD_ENCAPSULATION: u8 = 0xa8;
    pub const CONFIGURATION_OBJECT: u8 = 0xa9;
}

/// NDIS_MINIPORT_DRIVER_CHARACTERISTICS, revision 2.
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct DriverCharacteristics {
    pub header: ObjectHeader,
    pub major_ndis_version: u8,
    pub minor_ndis_version: u8,
    pub major_driver_version: u8,
    pub minor_driver_version: u8,
    pub flags: u32,
    pub set_options: *mut c_void,
    pub initialize: unsafe extern "C" fn(Handle, Handle, *const InitParameters) -> i32,
    pub halt: unsafe extern "C" fn(Handle, i32),
    pub unload: unsafe extern "C" fn(*mut c_void),
    pub pause: unsafe extern "C" fn(Handle, *const c_void) -> i32,
    pub restart: unsafe extern "C" fn(Handle, *const c_void) -> i32,
    pub oid_request: unsafe extern "C" fn(Handle, *mut oid::OidRequest) -> i32,
    pub send_net_buffer_lists: unsafe extern "C" fn(Handle, *mut packet::NetBufferList, u32, u32),
    pub return_net_buffer_lists: unsafe extern "C" fn(Handle, *mut packet::NetBufferList, u32),
    pub cancel_send: unsafe extern "C" fn(Handle, *mut c_void),
    /// Optional.
    pub check_for_hang: *mut c_void,
    pub reset: unsafe extern "C" fn(Handle, *mut u8) -> i32,
    pub device_pnp_event_notify: unsafe extern "C" fn(Handle, *const DevicePnpEvent),
    pub shutdown: unsafe extern "C" fn(Handle, i32),
    pub cancel_oid_request: unsafe extern "C" fn(Handle, *mut c_void),
    /// Optional.
    pub direct_oid_request: *mut c_void,
    /// Optional.
    pub cancel_direct_oid_request: *mut c_void,
}

/// NDIS_MINIPORT_INIT_PARAMETERS.
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct InitParameters {
    pub header: ObjectHeader,
    pub flags: u32,
    pub allocated_resources: *mut c_void,
    pub im_device_instance_context: Handle,
    pub miniport_add_device_context: Handle,
    pub if_index: u32,
    pub net_luid: u64,
    pub default_port_auth_states: *mut c_void,
    pub pci_device_custom_properties: *mut c_void,
}

/// NDIS_MINIPORT_ADAPTER_REGISTRATION_ATTRIBUTES, revision 1.
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct RegistrationAttributes {
    pub header: ObjectHeader,
    pub miniport_adapter_context: Handle,
    /// [`attributes`].
    pub attribute_flags: u32,
    pub check_for_hang_time_in_seconds: u32,
    pub interface_type: i32,
}

/// Bytes of [`RegistrationAttributes`] that count.
pub const REGISTRATION_ATTRIBUTES_SIZE: usize = 0x1c;

/// Flags of [`RegistrationAttributes::attribute_flags`], `NDIS_MINIPORT_ATTRIBUTES_`.
pub mod attributes {
    /// A device, not an intermediate driver.
    pub const HARDWARE_DEVICE: u32 = 0x01;
    /// A surprise removal needs no warning to the user.
    pub const SURPRISE_REMOVE_OK: u32 = 0x04;
    /// Low power comes as OID_PNP_SET_POWER, not as a halt.
    pub const NO_HALT_ON_SUSPEND: u32 = 0x20;
    /// The device reads and writes buffers by itself: NDIS need not map them.
    pub const BUS_MASTER: u32 = 0x40;
}

/// `NdisInterfaceInternal`, INTERFACE_TYPE's Internal.
pub const INTERFACE_INTERNAL: i32 = 0;

/// NDIS_MINIPORT_ADAPTER_GENERAL_ATTRIBUTES, revision 2.
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct GeneralAttributes {
    pub header: ObjectHeader,
    pub flags: u32,
    pub media_type: i32,
    pub physical_medium_type: i32,
    pub mtu_size: u32,
    pub max_xmit_link_speed: u64,
    pub xmit_link_speed: u64,
    pub max_rcv_link_speed: u64,
    pub rcv_link_speed: u64,
    pub media_connect_state: i32,
    pub media_duplex_state: i32,
    pub lookahead_size: u32,
    /// Unused from NDIS 6.20 on.
    pub power_management_capabilities: *mut c_void,
    pub mac_options: u32,
    pub supported_packet_filters: u32,
    pub max_multicast_list_size: u32,
    pub mac_address_length: u16,
    pub permanent_mac_address: [u8; 32],
    pub current_mac_address: [u8; 32],
    pub recv_scale_capabilities: *const rss::ReceiveScaleCapabilities,
    pub access_type: i32,
    pub direction_type: i32,
    pub connection_type: i32,
    pub if_type: u16,
    pub if_connector_present: u8,
    pub supported_statistics: u32,
    pub supported_pause_functions: u32,
    pub data_back_fill_size: u32,
    pub context_back_fill_size: u32,
    pub supported_oid_list: *const u32,
    pub supported_oid_list_length: u32,
    pub auto_negotiation_flags: u32,
    pub power_management_capabilities_ex: *const PmCapabilities,
}

/// NDIS_PM_CAPABILITIES, revision 2.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct PmCapabilities {
    pub header: ObjectHeader,
    pub flags: u32,
    pub supported_wol_packet_patterns: u32,
    pub num_total_wol_patterns: u32,
    pub max_wol_pattern_size: u32,
    pub max_wol_pattern_offset: u32,
    pub max_wol_packet_save_buffer: u32,
    pub supported_protocol_offloads: u32,
    pub num_arp_offload_ipv4_addresses: u32,
    pub num_ns_offload_ipv6_addresses: u32,
    /// NDIS_DEVICE_POWER_STATE; 0 (unspecified): cannot wake the machine.
    pub min_magic_packet_wake_up: i32,
    pub min_pattern_wake_up: i32,
    pub min_link_change_wake_up: i32,
    pub supported_wake_up_events: u32,
    pub media_specific_wake_up_events: u32,
}

/// NDIS_MINIPORT_ADAPTER_OFFLOAD_ATTRIBUTES, revision 1.
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct OffloadAttributes {
    pub header: ObjectHeader,
    pub default_offload_configuration: *const offload::Offload,
    pub hardware_offload_capabilities: *const offload::Offload,
    pub default_tcp_connection_offload_configuration: *const c_void,
    pub tcp_connection_offload_hardware_capabilities: *const c_void,
}

/// Values of the general attributes.
pub mod general {
    /// `NdisMedium802_3`.
    pub const MEDIUM_802_3: i32 = 0;
    /// `NdisPhysicalMedium802_3`.
    pub const PHYSICAL_MEDIUM_802_3: i32 = 14;
    /// `MediaConnectStateConnected`.
    pub const CONNECTED: i32 = 1;
    /// `MediaConnectStateDisconnected`.
    pub const DISCONNECTED: i32 = 2;
    /// `MediaDuplexStateUnknown`.
    pub const DUPLEX_UNKNOWN: i32 = 0;
    /// `MediaDuplexStateFull`.
    pub const DUPLEX_FULL: i32 = 2;
    /// `NDIS_LINK_SPEED_UNKNOWN`.
    pub const SPEED_UNKNOWN: u64 = u64::MAX;
    /// `NET_IF_ACCESS_BROADCAST`.
    pub const ACCESS_BROADCAST: i32 = 2;
    /// `NET_IF_DIRECTION_SENDRECEIVE`.
    pub const DIRECTION_BOTH: i32 = 0;
    /// `NET_IF_CONNECTION_DEDICATED`.
    pub const CONNECTION_DEDICATED: i32 = 1;
    /// `IF_TYPE_ETHERNET_CSMACD`.
    pub const IF_TYPE_ETHERNET: u16 = 6;
    /// `NdisPauseFunctionsUnsupported`.
    pub const PAUSE_UNSUPPORTED: u32 = 0;
}

/// Flags of `MacOptions`, `NDIS_MAC_OPTION_`.
pub mod mac_option {
    /// Received data may be copied by any means.
    pub const COPY_LOOKAHEAD_DATA: u32 = 0x0001;
    /// What is sent is not received again by the miniport itself.
    pub const NO_LOOPBACK: u32 = 0x0008;
    /// The priority of 802.1p is put into and taken out of the frame.
    pub const PRIORITY_8021P: u32 = 0x0040;
    /// The registry's NetworkAddress overrides the permanent address.
    pub const SUPPORTS_MAC_ADDRESS_OVERWRITE: u32 = 0x0080;
    /// The VLAN id of 802.1Q is put into and taken out of the frame.
    pub const VLAN_8021Q: u32 = 0x0200;
}

/// Bits of a packet filter, `NDIS_PACKET_TYPE_`.
pub mod filter {
    /// To the current address.
    pub const DIRECTED: u32 = 0x01;
    /// To an address in the multicast list.
    pub const MULTICAST: u32 = 0x02;
    /// To any multicast address.
    pub const ALL_MULTICAST: u32 = 0x04;
    /// To everybody.
    pub const BROADCAST: u32 = 0x08;
    /// All there is.
    pub const PROMISCUOUS: u32 = 0x20;
}

/// NET_DEVICE_PNP_EVENT.
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct DevicePnpEvent {
    pub header: ObjectHeader,
    pub port_number: u32,
    pub event: i32,
    pub information_buffer: *mut c_void,
    pub information_buffer_length: u32,
    pub ndis_reserved: [u8; 16],
}

/// `NdisDevicePnPEventSurpriseRemoved`.
pub const PNP_SURPRISE_REMOVED: i32 = 2;
/// `NdisHaltDeviceSurpriseRemoved`.
pub const HALT_SURPRISE_REMOVED: i32 = 3;

/// NDIS_CONFIGURATION_OBJECT, revision 1.
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct ConfigurationObject {
    pub header: ObjectHeader,
    pub ndis_handle: Handle,
    pub flags: u32,
}

/// Bytes of [`ConfigurationObject`] that count.
pub const CONFIGURATION_OBJECT_SIZE: usize = 0x14;

/// UNICODE_STRING (`NDIS_STRING`).
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct NdisString {
    pub length: u16,
    pub maximum_length: u16,
    pub buffer: *mut u16,
}

/// NDIS_CONFIGURATION_PARAMETER, as far as integers go.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ConfigurationParameter {
    /// NDIS_PARAMETER_TYPE.
    pub kind: i32,
    /// The union behind it holds pointers too.
    pub padding: u32,
    /// The integer, of that kind; else the beginning of another member of the union.
    pub integer: u32,
    /// The rest of the union.
    pub rest: [u32; 3],
}

/// `NdisParameterInteger`: a decimal number.
pub const PARAMETER_INTEGER: i32 = 0;
/// `NdisParameterHexInteger`.
pub const PARAMETER_HEX_INTEGER: i32 = 1;

#[cfg(windows)]
#[link(name = "ndis", kind = "static", modifiers = "-bundle")]
unsafe extern "C" {
    /// PASSIVE_LEVEL.
    pub fn NdisMRegisterMiniportDriver(
        driver_object: *mut c_void,
        registry_path: *mut c_void,
        context: Handle,
        characteristics: *const DriverCharacteristics,
        handle: *mut Handle,
    ) -> i32;
    /// PASSIVE_LEVEL.
    pub fn NdisMDeregisterMiniportDriver(handle: Handle);
    /// PASSIVE_LEVEL, from the initialize handler.
    pub fn NdisMSetMiniportAttributes(adapter: Handle, attributes: *const c_void) -> i32;
    /// PASSIVE_LEVEL.
    pub fn NdisMGetDeviceProperty(
        adapter: Handle,
        physical: *mut *mut c_void,
        functional: *mut *mut c_void,
        next: *mut *mut c_void,
        allocated: *mut *mut c_void,
        translated: *mut *mut c_void,
    );
    /// PASSIVE_LEVEL.
    pub fn NdisOpenConfigurationEx(object: *const ConfigurationObject, handle: *mut Handle) -> i32;
    /// PASSIVE_LEVEL.
    pub fn NdisReadConfiguration(
        status: *mut i32,
        parameter: *mut *const ConfigurationParameter,
        handle: Handle,
        keyword: *const NdisString,
        kind: i32,
    );
    /// PASSIVE_LEVEL.
    pub fn NdisReadNetworkAddress(status: *mut i32, address: *mut *const u8, length: *mut u32, handle: Handle);
    /// PASSIVE_LEVEL.
    pub fn NdisCloseConfiguration(handle: Handle);
    /// PASSIVE_LEVEL.
    pub fn NdisAllocateNetBufferListPool(adapter: Handle, parameters: *const packet::PoolParameters) -> Handle;
    /// PASSIVE_LEVEL.
    pub fn NdisFreeNetBufferListPool(pool: Handle);
    /// IRQL <= DISPATCH_LEVEL.
    pub fn NdisAllocateNetBufferAndNetBufferList(
        pool: Handle,
        context_size: u16,
        context_back_fill: u16,
        mdl: *mut c_void,
        data_offset: u32,
        data_length: usize,
    ) -> *mut packet::NetBufferList;
    /// IRQL <= DISPATCH_LEVEL.
    pub fn NdisFreeNetBufferList(list: *mut packet::NetBufferList);
    /// IRQL <= DISPATCH_LEVEL.
    pub fn NdisMIndicateReceiveNetBufferLists(
        adapter: Handle,
        lists: *mut packet::NetBufferList,
        port: u32,
        count: u32,
        flags: u32,
    );
    /// IRQL <= DISPATCH_LEVEL.
    pub fn NdisMSendNetBufferListsComplete(adapter: Handle, lists: *mut packet::NetBufferList, flags: u32);
    /// IRQL <= DISPATCH_LEVEL.
    pub fn NdisMIndicateStatusEx(adapter: Handle, indication: *const oid::StatusIndication);
    /// IRQL <= DISPATCH_LEVEL.
    pub fn NdisMPauseComplete(adapter: Handle);
}

const _: () = assert!(size_of::<ObjectHeader>() == 4);

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;
    type D = DriverCharacteristics;
    assert!(size_of::<D>() == 0x98);
    assert!(offset_of!(D, flags) == 0x08);
    assert!(offset_of!(D, set_options) == 0x10);
    assert!(offset_of!(D, initialize) == 0x18);
    assert!(offset_of!(D, unload) == 0x28);
    assert!(offset_of!(D, oid_request) == 0x40);
    assert!(offset_of!(D, send_net_buffer_lists) == 0x48);
    assert!(offset_of!(D, check_for_hang) == 0x60);
    assert!(offset_of!(D, cancel_oid_request) == 0x80);
    assert!(offset_of!(D, cancel_direct_oid_request) == 0x90);
};

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;
    type I = InitParameters;
    assert!(size_of::<I>() == 0x40);
    assert!(offset_of!(I, if_index) == 0x20);
    assert!(offset_of!(I, net_luid) == 0x28);
    assert!(offset_of!(I, pci_device_custom_properties) == 0x38);
};

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;
    type R = RegistrationAttributes;
    assert!(offset_of!(R, miniport_adapter_context) == 0x08);
    assert!(offset_of!(R, attribute_flags) == 0x10);
    assert!(offset_of!(R, interface_type) + 4 == REGISTRATION_ATTRIBUTES_SIZE);
};

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;
    type G = GeneralAttributes;
    assert!(size_of::<G>() == 0xe0);
    assert!(offset_of!(G, media_type) == 0x08);
    assert!(offset_of!(G, mtu_size) == 0x10);
    assert!(offset_of!(G, max_xmit_link_speed) == 0x18);
    assert!(offset_of!(G, media_connect_state) == 0x38);
    assert!(offset_of!(G, power_management_capabilities) == 0x48);
    assert!(offset_of!(G, mac_options) == 0x50);
    assert!(offset_of!(G, mac_address_length) == 0x5c);
    assert!(offset_of!(G, current_mac_address) == 0x7e);
    assert!(offset_of!(G, recv_scale_capabilities) == 0xa0);
    assert!(offset_of!(G, if_type) == 0xb4);
    assert!(offset_of!(G, supported_statistics) == 0xb8);
    assert!(offset_of!(G, supported_oid_list) == 0xc8);
    assert!(offset_of!(G, power_management_capabilities_ex) == 0xd8);

    assert!(size_of::<PmCapabilities>() == 0x3c);
    assert!(offset_of!(PmCapabilities, min_magic_packet_wake_up) == 0x28);

    assert!(size_of::<OffloadAttributes>() == 0x28);
    assert!(offset_of!(OffloadAttributes, hardware_offload_capabilities) == 0x10);

    assert!(offset_of!(DevicePnpEvent, event) == 0x08);
    assert!(offset_of!(DevicePnpEvent, information_buffer) == 0x10);
    assert!(size_of::<DevicePnpEvent>() == 0x30);

    assert!(offset_of!(ConfigurationObject, ndis_handle) == 0x08);
    assert!(offset_of!(ConfigurationObject, flags) + 4 == CONFIGURATION_OBJECT_SIZE);
    assert!(size_of::<NdisString>() == 0x10);
    assert!(offset_of!(ConfigurationParameter, integer) == 0x08);
    assert!(size_of::<ConfigurationParameter>() == 0x18);
};
