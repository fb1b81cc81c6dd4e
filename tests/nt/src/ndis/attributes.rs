//! NdisMSetMiniportAttributes: what a miniport says of itself in MiniportInitializeEx.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ndis/nf-ndis-ndismsetminiportattributes>

use super::abi::*;
use super::adapter::{self, Adapter, State};
use super::oid_abi::LinkState;
use super::violation;
use alloc::sync::Arc;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::Ordering;

/// `NdisMedium802_3`.
const MEDIUM_802_3: i32 = 0;

/// A structure of which a miniport gives as much as its revision has.
///
/// # Safety
/// `from` has `bytes` bytes; all zero is a valid `T`.
unsafe fn read_part<T>(from: *const c_void, bytes: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe {
        let mut to: T = core::mem::zeroed();
        ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut to).cast::<u8>(), bytes.min(size_of::<T>()));
        to
    }
}

/// The offload structure in bytes of any revision.
pub(super) fn offload(data: &[u8]) -> Offload {
    // SAFETY: the slice has its bytes, and the structure holds integers only.
    unsafe { read_part(data.as_ptr().cast(), data.len()) }
}

/// The offload structure behind a pointer, as long as its header says.
unsafe fn offload_at(at: *const Offload) -> Option<Offload> {
    // SAFETY: the miniport gives null or a structure with a header.
    unsafe { (!at.is_null()).then(|| read_part(at.cast(), usize::from((*at).header.size))) }
}

/// `NdisMSetMiniportAttributes`. IRQL = PASSIVE_LEVEL, in MiniportInitializeEx.
pub unsafe extern "win64" fn NdisMSetMiniportAttributes(handle: Handle, attributes: *const Header) -> NdisStatus {
    const CALL: &str = "NdisMSetMiniportAttributes";
    let adapter = adapter::of(handle, CALL);
    if adapter.state() != State::Initializing {
        violation(CALL, format_args!("it is for MiniportInitializeEx alone; the adapter is {:?}", adapter.state()));
    }
    // SAFETY: the miniport gives a structure as long as its header says.
    unsafe {
        let header = *attributes;
        let size = usize::from(header.size);
        let registered = adapter.about.lock().registered;
        match header.kind {
            object::REGISTRATION_ATTRIBUTES if size >= crate::through!(RegistrationAttributes, interface_type, i32) => {
                let given: RegistrationAttributes = read_part(attributes.cast(), size);
                adapter.context.store(given.context, Ordering::Release);
                let mut about = adapter.about.lock();
                (about.registered, about.flags) = (true, given.flags);
                NDIS_STATUS_SUCCESS
            }
            object::GENERAL_ATTRIBUTES if size >= GENERAL_ATTRIBUTES_1 => {
                if !registered {
                    violation(CALL, format_args!("general attributes before the registration attributes"));
                }
                general(&adapter, &read_part(attributes.cast(), size))
            }
            object::OFFLOAD_ATTRIBUTES if size >= size_of::<OffloadAttributes>() => {
                let given: OffloadAttributes = read_part(attributes.cast(), size);
                let (hardware, now) = (offload_at(given.hardware), offload_at(given.default_configuration));
                let mut about = adapter.about.lock();
                (about.hardware, about.offload) = (hardware, now);
                NDIS_STATUS_SUCCESS
            }
            _ => NDIS_STATUS_INVALID_PARAMETER,
        }
    }
}

/// # Safety
/// The pointers in the structure are valid.
unsafe fn general(adapter: &Arc<Adapter>, given: &GeneralAttributes) -> NdisStatus {
    const CALL: &str = "NdisMSetMiniportAttributes";
    if given.media_type != MEDIUM_802_3 || given.address_length != 6 {
        violation(CALL, format_args!("medium {} with addresses of {} bytes", given.media_type, given.address_length));
    }
    let address = |from: &[u8; 32]| from.first_chunk::<6>().copied().unwrap_or_default();
    let (permanent, current) = (address(&given.permanent_address), address(&given.current_address));
    if current[0] & 1 != 0 || current == [0; 6] {
        violation(CALL, format_args!("{current:02x?} is no address of a station"));
    }
    if given.mtu < 46 || given.lookahead == 0 || given.oids.is_null() || !given.oids_length.is_multiple_of(4) {
        violation(
            CALL,
            format_args!(
                "MtuSize {}, LookaheadSize {}, {} bytes of OIDs",
                given.mtu, given.lookahead, given.oids_length
            ),
        );
    }
    // SAFETY: the caller's promise.
    unsafe {
        let oids = core::slice::from_raw_parts(given.oids, given.oids_length as usize / 4).to_vec();
        let rss = (!given.rss.is_null())
            .then(|| read_part::<RssCapabilities>(given.rss.cast(), usize::from((*given.rss).header.size)));
        let mut about = adapter.about.lock();
        about.described = true;
        about.mtu = given.mtu;
        about.max_speed = given.max_xmit_speed;
        about.mac_options = given.mac_options;
        about.filters = given.supported_filters;
        about.max_multicast = given.max_multicast;
        about.permanent_address = permanent;
        about.current_address = current;
        about.oids = oids;
        about.power = !given.power_capabilities.is_null() || !given.power_capabilities_ex.is_null();
        about.rss = rss;
    }
    *adapter.link.lock() = LinkState {
        header: Header::new(object::DEFAULT, 1, size_of::<LinkState>()),
        connect: given.connect_state,
        duplex: given.duplex_state,
        xmit_speed: given.xmit_speed,
        rcv_speed: given.rcv_speed,
        pause_functions: given.pause_functions,
        auto_negotiation: given.auto_negotiation,
    };
    NDIS_STATUS_SUCCESS
}
