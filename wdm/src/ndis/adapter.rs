//! What a miniport asks of NDIS for one adapter, and what it tells of it.

use core::{ffi::c_void, ptr::NonNull};

use super::{
    abi::{
        self, DEFAULT_PORT, GeneralAttributes, Handle, ObjectHeader, OffloadAttributes, PmCapabilities,
        RegistrationAttributes, attributes, general, object,
        offload::Offload,
        oid::{self, StatusIndication},
        packet::FLAG_DISPATCH_LEVEL,
        rss::ReceiveScaleCapabilities,
    },
    send::SendChain,
    status::NdisStatus,
};
use crate::device::DeviceObject;

/// An adapter: NDIS's `MiniportAdapterHandle`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Adapter(NonNull<c_void>);

// SAFETY: the handle is only an address to give NDIS, on whatever processor.
unsafe impl Send for Adapter {}
// SAFETY: see above.
unsafe impl Sync for Adapter {}

/// Whether there is a link, and how fast it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// There is.
    pub up: bool,
    /// Bits a second, both ways.
    pub speed: u64,
}

impl Adapter {
    /// The adapter of MiniportInitializeEx.
    ///
    /// # Safety
    /// NDIS gave the handle to MiniportInitializeEx, and it is not used after the adapter was halted.
    pub const unsafe fn from_raw(handle: NonNull<c_void>) -> Self {
        Self(handle)
    }

    /// The handle.
    pub const fn as_raw(self) -> Handle {
        self.0.as_ptr()
    }

    /// The device object of the bus driver. PASSIVE_LEVEL.
    pub fn physical_device(self) -> Option<DeviceObject> {
        let mut physical = core::ptr::null_mut();
        let unwanted = core::ptr::null_mut();
        // SAFETY: the adapter is NDIS's; results that are not wanted may be left out.
        unsafe {
            abi::NdisMGetDeviceProperty(self.as_raw(), &raw mut physical, unwanted, unwanted, unwanted, unwanted);
        }
        // SAFETY: the PDO stays as long as the adapter does.
        unsafe { DeviceObject::from_raw(physical.cast()) }
    }

    /// Completes sends. IRQL <= DISPATCH_LEVEL; `dispatch`: it is known to be DISPATCH_LEVEL.
    pub fn complete_sends(self, chain: SendChain, dispatch: bool) {
        let Some(lists) = chain.into_raw() else { return };
        let flags = if dispatch { FLAG_DISPATCH_LEVEL } else { 0 };
        // SAFETY: the lists were ours and are given up here.
        unsafe { abi::NdisMSendNetBufferListsComplete(self.as_raw(), lists.as_ptr(), flags) }
    }

    /// Ends a pause that was answered with [`super::PauseOutcome::Pending`]. IRQL <= DISPATCH_LEVEL.
    pub fn pause_complete(self) {
        // SAFETY: the adapter is NDIS's.
        unsafe { abi::NdisMPauseComplete(self.as_raw()) }
    }

    fn indicate<T>(self, code: i32, value: &T, size: usize) {
        let indication = StatusIndication {
            header: ObjectHeader::new(object::STATUS_INDICATION, 1, size_of::<StatusIndication>()),
            source_handle: self.as_raw(),
            port_number: DEFAULT_PORT,
            status_code: code,
            flags: 0,
            destination_handle: core::ptr::null_mut(),
            request_id: core::ptr::null_mut(),
            status_buffer: core::ptr::from_ref(value).cast(),
            status_buffer_size: size as u32,
            guid: [0; 4],
            ndis_reserved: [core::ptr::null_mut(); 4],
        };
        // SAFETY: indication and value are alive until the call returns; NDIS keeps neither.
        unsafe { abi::NdisMIndicateStatusEx(self.as_raw(), &raw const indication) }
    }

    /// Tells the link's state. IRQL <= DISPATCH_LEVEL.
    pub fn indicate_link(self, link: LinkState) {
        let state = oid::LinkState {
            header: ObjectHeader::new(object::DEFAULT, 1, size_of::<oid::LinkState>()),
            media_connect_state: if link.up { general::CONNECTED } else { general::DISCONNECTED },
            media_duplex_state: if link.up { general::DUPLEX_FULL } else { general::DUPLEX_UNKNOWN },
            xmit_link_speed: if link.up { link.speed } else { general::SPEED_UNKNOWN },
            rcv_link_speed: if link.up { link.speed } else { general::SPEED_UNKNOWN },
            pause_functions: general::PAUSE_UNSUPPORTED,
            auto_negotiation_flags: 0,
        };
        self.indicate(oid::STATUS_LINK_STATE, &state, size_of_val(&state));
    }

    /// Tells which offloads are on now. IRQL <= DISPATCH_LEVEL.
    pub fn indicate_offload(self, offload: &Offload) {
        self.indicate(oid::STATUS_TASK_OFFLOAD_CURRENT_CONFIG, offload, size_of_val(offload));
    }
}

/// What NDIS is told of an adapter.
pub struct Description<'a> {
    /// The address that the device has by itself.
    pub permanent_address: [u8; 6],
    /// The address that is used.
    pub current_address: [u8; 6],
    /// Bytes of payload in the largest frame.
    pub mtu: u32,
    /// The link as it is now.
    pub link: LinkState,
    /// Bits a second that it can come to have.
    pub max_speed: u64,
    /// `NDIS_MAC_OPTION_`.
    pub mac_options: u32,
    /// `NDIS_PACKET_TYPE_`.
    pub packet_filters: u32,
    /// Addresses in the multicast list.
    pub multicast_list: u32,
    /// Every OID that the miniport answers.
    pub oids: &'static [u32],
    /// Receive side scaling, if there is any.
    pub receive_scale: Option<&'a ReceiveScaleCapabilities>,
    /// Offloads as they are when it starts.
    pub offload_default: &'a Offload,
    /// Offloads that can be switched on.
    pub offload_capabilities: &'a Offload,
}

/// An adapter whose MiniportInitializeEx runs.
pub struct Initializing {
    adapter: Adapter,
}

impl Initializing {
    pub(super) const fn new(adapter: Adapter) -> Self {
        Self { adapter }
    }

    fn set<T>(&self, attributes: &T) -> Result<(), NdisStatus> {
        // SAFETY: this runs in MiniportInitializeEx; `attributes` is one of the structures that NDIS knows by its
        // header, and is alive until the call returns. NDIS copies all of it.
        NdisStatus(unsafe {
            abi::NdisMSetMiniportAttributes(self.adapter.as_raw(), core::ptr::from_ref(attributes).cast())
        })
        .ok()
    }

    /// The first thing that NDIS wants: the adapter's context.
    pub(super) fn register(&self, context: Handle) -> Result<(), NdisStatus> {
        self.set(&RegistrationAttributes {
            header: ObjectHeader::new(
                object::MINIPORT_ADAPTER_REGISTRATION_ATTRIBUTES,
                1,
                abi::REGISTRATION_ATTRIBUTES_SIZE,
            ),
            miniport_adapter_context: context,
            attribute_flags: attributes::HARDWARE_DEVICE
                | attributes::SURPRISE_REMOVE_OK
                | attributes::NO_HALT_ON_SUSPEND
                | attributes::BUS_MASTER,
            check_for_hang_time_in_seconds: 0,
            interface_type: abi::INTERFACE_INTERNAL,
        })
    }

    /// Tells NDIS what the adapter is.
    ///
    /// # Errors
    /// NDIS's.
    pub fn describe(&self, what: &Description<'_>) -> Result<(), NdisStatus> {
        let power = PmCapabilities {
            header: ObjectHeader::new(object::DEFAULT, 2, size_of::<PmCapabilities>()),
            ..PmCapabilities::default()
        };
        let address = |six: [u8; 6]| {
            let mut long = [0; 32];
            for (to, from) in long.iter_mut().zip(six) {
                *to = from;
            }
            long
        };
        let speed = if what.link.up { what.link.speed } else { general::SPEED_UNKNOWN };
        self.set(&GeneralAttributes {
            header: ObjectHeader::new(object::MINIPORT_ADAPTER_GENERAL_ATTRIBUTES, 2, size_of::<GeneralAttributes>()),
            flags: 0,
            media_type: general::MEDIUM_802_3,
            physical_medium_type: general::PHYSICAL_MEDIUM_802_3,
            mtu_size: what.mtu,
            max_xmit_link_speed: what.max_speed,
            xmit_link_speed: speed,
            max_rcv_link_speed: what.max_speed,
            rcv_link_speed: speed,
            media_connect_state: if what.link.up { general::CONNECTED } else { general::DISCONNECTED },
            media_duplex_state: if what.link.up { general::DUPLEX_FULL } else { general::DUPLEX_UNKNOWN },
            lookahead_size: what.mtu,
            power_management_capabilities: core::ptr::null_mut(),
            mac_options: what.mac_options,
            supported_packet_filters: what.packet_filters,
            max_multicast_list_size: what.multicast_list,
            mac_address_length: 6,
            permanent_mac_address: address(what.permanent_address),
            current_mac_address: address(what.current_address),
            recv_scale_capabilities: what.receive_scale.map_or(core::ptr::null(), core::ptr::from_ref),
            access_type: general::ACCESS_BROADCAST,
            direction_type: general::DIRECTION_BOTH,
            connection_type: general::CONNECTION_DEDICATED,
            if_type: general::IF_TYPE_ETHERNET,
            if_connector_present: 1,
            supported_statistics: oid::STATISTICS_ALL,
            supported_pause_functions: general::PAUSE_UNSUPPORTED,
            data_back_fill_size: 0,
            context_back_fill_size: 0,
            supported_oid_list: what.oids.as_ptr(),
            supported_oid_list_length: size_of_val(what.oids) as u32,
            auto_negotiation_flags: 0,
            power_management_capabilities_ex: &raw const power,
        })?;
        self.set(&OffloadAttributes {
            header: ObjectHeader::new(object::MINIPORT_ADAPTER_OFFLOAD_ATTRIBUTES, 1, size_of::<OffloadAttributes>()),
            default_offload_configuration: what.offload_default,
            hardware_offload_capabilities: what.offload_capabilities,
            default_tcp_connection_offload_configuration: core::ptr::null(),
            tcp_connection_offload_hardware_capabilities: core::ptr::null(),
        })
    }
}
