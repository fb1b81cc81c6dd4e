//! OID requests. All of them are answered at once, at PASSIVE_LEVEL.

use wdm::ndis::{
    Kind, OidRequest,
    abi::{
        ObjectHeader, object,
        oid::{
            HARDWARE_NOT_READY, HARDWARE_READY, InterruptModeration, MODERATION_NOT_SUPPORTED, POWER_D0, POWER_D3,
            STATISTICS_ALL, Statistics, oids,
        },
    },
    status::NdisStatus,
};

use super::{
    adapter::Adapter,
    counters::Traffic,
    filter::{self, Address, MULTICAST_MAX},
    offload,
    settings::HEADER,
};

/// Every OID that is answered.
pub static SUPPORTED: &[u32] = &[
    oids::GEN_SUPPORTED_LIST,
    oids::GEN_HARDWARE_STATUS,
    oids::GEN_TRANSMIT_BUFFER_SPACE,
    oids::GEN_RECEIVE_BUFFER_SPACE,
    oids::GEN_TRANSMIT_BLOCK_SIZE,
    oids::GEN_RECEIVE_BLOCK_SIZE,
    oids::GEN_VENDOR_ID,
    oids::GEN_VENDOR_DESCRIPTION,
    oids::GEN_VENDOR_DRIVER_VERSION,
    oids::GEN_CURRENT_PACKET_FILTER,
    oids::GEN_CURRENT_LOOKAHEAD,
    oids::GEN_MAXIMUM_TOTAL_SIZE,
    oids::GEN_INTERRUPT_MODERATION,
    oids::GEN_VLAN_ID,
    oids::GEN_RECEIVE_SCALE_PARAMETERS,
    oids::GEN_STATISTICS,
    oids::GEN_XMIT_OK,
    oids::GEN_RCV_OK,
    oids::GEN_XMIT_ERROR,
    oids::GEN_RCV_ERROR,
    oids::GEN_RCV_NO_BUFFER,
    oids::GEN_TRANSMIT_QUEUE_LENGTH,
    oids::IEEE_802_3_PERMANENT_ADDRESS,
    oids::IEEE_802_3_CURRENT_ADDRESS,
    oids::IEEE_802_3_MULTICAST_LIST,
    oids::IEEE_802_3_MAXIMUM_LIST_SIZE,
    oids::IEEE_802_3_RCV_ERROR_ALIGNMENT,
    oids::IEEE_802_3_XMIT_ONE_COLLISION,
    oids::IEEE_802_3_XMIT_MORE_COLLISIONS,
    oids::TCP_OFFLOAD_PARAMETERS,
    oids::OFFLOAD_ENCAPSULATION,
    oids::PNP_SET_POWER,
    oids::PNP_QUERY_POWER,
];

/// Xen's IEEE vendor code and a number of ours.
const VENDOR_ID: u32 = u32::from_le_bytes([0x00, 0x16, 0x3e, 0x01]);
/// With its NUL.
const VENDOR: &[u8] = b"Xen PV drivers\0";

/// The driver's version: major and minor part.
pub const VERSION: (u8, u8) = (number(env!("CARGO_PKG_VERSION_MAJOR")), number(env!("CARGO_PKG_VERSION_MINOR")));

/// A decimal number that cargo wrote.
const fn number(text: &str) -> u8 {
    let (digits, mut value, mut at) = (text.as_bytes(), 0, 0);
    while at < digits.len() {
        value = value * 10 + (digits[at] - b'0');
        at += 1;
    }
    value
}

impl Adapter {
    /// Answers a request.
    pub fn answer(&self, request: &mut OidRequest<'_>) -> NdisStatus {
        match request.kind() {
            Kind::Query => self.query(request),
            Kind::Set => NdisStatus::from(self.set(request)),
            Kind::Other(_) => NdisStatus::NOT_SUPPORTED,
        }
    }

    fn query(&self, request: &mut OidRequest<'_>) -> NdisStatus {
        let frame = self.mtu + HEADER;
        match request.oid() {
            oids::GEN_SUPPORTED_LIST => request.answer_list(SUPPORTED),
            oids::GEN_HARDWARE_STATUS => {
                let status = if self.common.is_gone() { HARDWARE_NOT_READY } else { HARDWARE_READY };
                request.answer_value(&status)
            }
            oids::GEN_TRANSMIT_BUFFER_SPACE | oids::GEN_RECEIVE_BUFFER_SPACE => {
                request.answer_value(&(frame * self.slots()))
            }
            oids::GEN_TRANSMIT_BLOCK_SIZE | oids::GEN_RECEIVE_BLOCK_SIZE | oids::GEN_MAXIMUM_TOTAL_SIZE => {
                request.answer_value(&frame)
            }
            oids::GEN_VENDOR_ID => request.answer_value(&VENDOR_ID),
            oids::GEN_VENDOR_DESCRIPTION => request.answer(VENDOR),
            oids::GEN_VENDOR_DRIVER_VERSION => {
                request.answer_value(&(u32::from(VERSION.0) << 16 | u32::from(VERSION.1)))
            }
            oids::GEN_CURRENT_PACKET_FILTER => {
                let bits = self.filter.lock().bits;
                request.answer_value(&bits)
            }
            oids::GEN_CURRENT_LOOKAHEAD => request.answer_value(&self.mtu),
            oids::GEN_INTERRUPT_MODERATION => request.answer_value(&InterruptModeration {
                header: ObjectHeader::new(object::DEFAULT, 1, size_of::<InterruptModeration>()),
                flags: 0,
                moderation: MODERATION_NOT_SUPPORTED,
            }),
            oids::GEN_VLAN_ID => request.answer_value(&self.common.vlan_id()),
            oids::GEN_STATISTICS => request.answer_value(&self.statistics()),
            oids::GEN_XMIT_OK => request.answer_counter(self.sent().total().packets),
            oids::GEN_RCV_OK => request.answer_counter(self.received().total().packets),
            oids::GEN_XMIT_ERROR => request.answer_counter(self.sent().errors),
            oids::GEN_RCV_ERROR => request.answer_counter(self.received().errors),
            oids::GEN_RCV_NO_BUFFER => request.answer_counter(self.received().discards),
            oids::GEN_TRANSMIT_QUEUE_LENGTH => request.answer_value(&self.sends()),
            oids::IEEE_802_3_PERMANENT_ADDRESS => request.answer(&self.permanent_address),
            oids::IEEE_802_3_CURRENT_ADDRESS => request.answer(&self.address),
            oids::IEEE_802_3_MULTICAST_LIST => {
                let filter = *self.filter.lock();
                request.answer(filter.list().as_flattened())
            }
            oids::IEEE_802_3_MAXIMUM_LIST_SIZE => request.answer_value(&(MULTICAST_MAX as u32)),
            // There is no wire for these to happen on.
            oids::IEEE_802_3_RCV_ERROR_ALIGNMENT
            | oids::IEEE_802_3_XMIT_ONE_COLLISION
            | oids::IEEE_802_3_XMIT_MORE_COLLISIONS => request.answer_counter(0),
            oids::PNP_QUERY_POWER => NdisStatus::SUCCESS,
            oids::GEN_RECEIVE_SCALE_PARAMETERS
            | oids::TCP_OFFLOAD_PARAMETERS
            | oids::OFFLOAD_ENCAPSULATION
            | oids::PNP_SET_POWER => NdisStatus::INVALID_OID,
            _ => NdisStatus::NOT_SUPPORTED,
        }
    }

    fn set(&self, request: &mut OidRequest<'_>) -> Result<(), NdisStatus> {
        match request.oid() {
            oids::GEN_CURRENT_PACKET_FILTER => {
                let bits: u32 = request.argument()?;
                if bits & !filter::SUPPORTED != 0 {
                    return Err(NdisStatus::NOT_SUPPORTED);
                }
                self.set_filter(|filter| filter.bits = bits);
                Ok(())
            }
            oids::IEEE_802_3_MULTICAST_LIST => {
                let (addresses, rest): (&[Address], _) = request.bytes().as_chunks();
                if !rest.is_empty() {
                    return Err(NdisStatus::INVALID_LENGTH);
                }
                if addresses.len() > MULTICAST_MAX {
                    return Err(NdisStatus::MULTICAST_FULL);
                }
                if addresses.iter().any(|address| address[0] & 1 == 0) {
                    return Err(NdisStatus::INVALID_DATA);
                }
                self.set_filter(|filter| filter.set_list(addresses));
                let used = size_of_val(addresses);
                request.used(used);
                Ok(())
            }
            oids::GEN_CURRENT_LOOKAHEAD => {
                // All of a packet is always there to look at.
                request.argument::<u32>().map(drop)
            }
            oids::GEN_VLAN_ID => {
                let id: u32 = request.argument()?;
                if id > 4094 {
                    return Err(NdisStatus::INVALID_DATA);
                }
                self.set_vlan_id(id);
                Ok(())
            }
            oids::GEN_RECEIVE_SCALE_PARAMETERS => {
                let wanted = request.receive_scale()?;
                self.set_receive_scale(&wanted)
            }
            oids::TCP_OFFLOAD_PARAMETERS => {
                let wanted = request.offload_parameters()?;
                let now = offload::apply(&{ *self.offloads.lock() }, &wanted)?;
                self.set_offloads(now);
                Ok(())
            }
            oids::OFFLOAD_ENCAPSULATION => {
                let wanted = request.offload_encapsulation()?;
                offload::check_encapsulation(&wanted)?;
                // Windows wants to know what it may use now.
                let now = *self.offloads.lock();
                self.common.ndis.indicate_offload(&offload::describe(&now));
                Ok(())
            }
            oids::PNP_SET_POWER => {
                let state: u32 = request.argument()?;
                if !(POWER_D0..=POWER_D3).contains(&state) {
                    return Err(NdisStatus::INVALID_DATA);
                }
                self.set_power(state == POWER_D0);
                Ok(())
            }
            other if SUPPORTED.contains(&other) => Err(NdisStatus::INVALID_OID),
            _ => Err(NdisStatus::NOT_SUPPORTED),
        }
    }

    fn statistics(&self) -> Statistics {
        let (sent, received): (Traffic, Traffic) = (self.sent(), self.received());
        Statistics {
            header: ObjectHeader::new(object::DEFAULT, 1, size_of::<Statistics>()),
            supported: STATISTICS_ALL,
            in_discards: received.discards,
            in_errors: received.errors,
            in_octets: received.total().bytes,
            in_unicast: received.unicast().packets,
            in_multicast: received.multicast().packets,
            in_broadcast: received.broadcast().packets,
            out_octets: sent.total().bytes,
            out_unicast: sent.unicast().packets,
            out_multicast: sent.multicast().packets,
            out_broadcast: sent.broadcast().packets,
            out_errors: sent.errors,
            out_discards: sent.discards,
            in_unicast_octets: received.unicast().bytes,
            in_multicast_octets: received.multicast().bytes,
            in_broadcast_octets: received.broadcast().bytes,
            out_unicast_octets: sent.unicast().bytes,
            out_multicast_octets: sent.multicast().bytes,
            out_broadcast_octets: sent.broadcast().bytes,
        }
    }
}
