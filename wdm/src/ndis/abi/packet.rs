//! NET_BUFFER_LIST and NET_BUFFER, and what stands in the out-of-band array.
//!
//! Source: the `nbl.h`, `nblinfo.h`, `nblchecksum.h`, `nbllso.h`, `nbl8021q.h`, `nblrsc.h`, `nblhash.h` pages of
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/>.

use core::ffi::c_void;

use super::{Handle, ObjectHeader};

/// Entries of the out-of-band array that every system since Windows 8 has; newer ones have more behind them.
pub const INFO_COUNT: usize = 24;

/// NET_BUFFER_LIST, as far as NDIS 6.30 declares it. NDIS allocates them, so its size is not used.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
#[expect(missing_docs, reason = "Windows' names")]
pub struct NetBufferList {
    pub next: *mut Self,
    pub first_net_buffer: *mut NetBuffer,
    pub context: *mut c_void,
    pub parent: *mut Self,
    pub pool: Handle,
    /// The next member is aligned to 16.
    pub padding: u64,
    pub ndis_reserved: [*mut c_void; 2],
    pub protocol_reserved: [*mut c_void; 4],
    pub miniport_reserved: [*mut c_void; 2],
    pub scratch: *mut c_void,
    pub source_handle: Handle,
    pub nbl_flags: u32,
    pub child_ref_count: i32,
    pub flags: u32,
    pub status: i32,
    pub info: [*mut c_void; INFO_COUNT],
}

/// Places in [`NetBufferList::info`], NDIS_NET_BUFFER_LIST_INFO.
pub mod info {
    /// `TcpIpChecksumNetBufferListInfo`.
    pub const CHECKSUM: usize = 0;
    /// `TcpLargeSendNetBufferListInfo`; on its way back, what was sent.
    pub const LARGE_SEND: usize = 2;
    /// `Ieee8021QNetBufferListInfo`.
    pub const IEEE_8021Q: usize = 4;
    /// `NetBufferListCancelId`.
    pub const CANCEL_ID: usize = 5;
    /// `NetBufferListFrameType`: the EtherType, in network order, in the low 16 bits.
    pub const FRAME_TYPE: usize = 7;
    /// `NetBufferListHashValue`.
    pub const HASH_VALUE: usize = 8;
    /// `NetBufferListHashInfo`: function and type of the hash.
    pub const HASH_INFO: usize = 9;
    /// `TcpRecvSegCoalesceInfo`: segments in the low 16 bits, duplicate ACKs above.
    pub const RSC: usize = 22;
}

/// Bits of `NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO`.
pub mod checksum {
    /// Sending: the packet is IPv4.
    pub const IS_IPV4: u32 = 1 << 0;
    /// Sending: the packet is IPv6.
    pub const IS_IPV6: u32 = 1 << 1;
    /// Sending: the TCP checksum is to be filled in.
    pub const TCP: u32 = 1 << 2;
    /// Sending: the UDP checksum is to be filled in.
    pub const UDP: u32 = 1 << 3;
    /// Sending: the IPv4 header checksum is to be filled in.
    pub const IP_HEADER: u32 = 1 << 4;
    /// Sending: where the transport header begins in the frame, this many bits up and ten wide.
    pub const TCP_HEADER_OFFSET_SHIFT: u32 = 16;
    /// See [`TCP_HEADER_OFFSET_SHIFT`].
    pub const TCP_HEADER_OFFSET_MASK: u32 = 0x3ff;

    /// Receiving: the TCP checksum is wrong.
    pub const TCP_FAILED: u32 = 1 << 0;
    /// Receiving: the UDP checksum is wrong.
    pub const UDP_FAILED: u32 = 1 << 1;
    /// Receiving: the IPv4 header checksum is wrong.
    pub const IP_FAILED: u32 = 1 << 2;
    /// Receiving: the TCP checksum is right.
    pub const TCP_SUCCEEDED: u32 = 1 << 3;
    /// Receiving: the UDP checksum is right.
    pub const UDP_SUCCEEDED: u32 = 1 << 4;
    /// Receiving: the IPv4 header checksum is right.
    pub const IP_SUCCEEDED: u32 = 1 << 5;
    /// Receiving, NDIS 6.30: the checksum field of TCP holds no checksum.
    pub const TCP_VALUE_INVALID: u32 = 1 << 7;
    /// Receiving, NDIS 6.30: the checksum field of the IPv4 header holds no checksum.
    pub const IP_VALUE_INVALID: u32 = 1 << 8;
}

/// Bits of `NDIS_TCP_LARGE_SEND_OFFLOAD_NET_BUFFER_LIST_INFO`, of LSO version 2.
pub mod large_send {
    /// Bytes of TCP payload in a segment.
    pub const MSS_MASK: u32 = 0xf_ffff;
    /// Where the TCP header begins, this many bits up and ten wide.
    pub const TCP_HEADER_OFFSET_SHIFT: u32 = 20;
    /// See [`TCP_HEADER_OFFSET_SHIFT`].
    pub const TCP_HEADER_OFFSET_MASK: u32 = 0x3ff;
    /// Version 2, not 1.
    pub const TYPE_V2: u32 = 1 << 30;
    /// IPv6, not IPv4.
    pub const IPV6: u32 = 1 << 31;
}

/// Bits of `NDIS_NET_BUFFER_LIST_8021Q_INFO`.
pub mod ieee_8021q {
    /// The priority of 802.1p.
    pub const PRIORITY_MASK: u32 = 0x7;
    /// The canonical format indicator.
    pub const CFI: u32 = 1 << 3;
    /// The VLAN id, this many bits up and twelve wide.
    pub const VLAN_SHIFT: u32 = 4;
    /// See [`VLAN_SHIFT`].
    pub const VLAN_MASK: u32 = 0xfff;
}

/// NET_BUFFER, NDIS 6.30.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
#[expect(missing_docs, reason = "Windows' names")]
pub struct NetBuffer {
    pub next: *mut Self,
    pub current_mdl: *mut c_void,
    pub current_mdl_offset: u32,
    pub padding1: u32,
    pub data_length: u32,
    pub data_length_high: u32,
    pub mdl_chain: *mut c_void,
    pub data_offset: u32,
    pub padding2: u32,
    pub checksum_bias: u16,
    pub reserved: u16,
    pub padding3: u32,
    pub pool: Handle,
    pub ndis_reserved: [*mut c_void; 2],
    pub protocol_reserved: [*mut c_void; 6],
    pub miniport_reserved: [*mut c_void; 4],
    pub data_physical_address: u64,
    pub scatter_gather_list: *mut c_void,
}

/// NET_BUFFER_LIST_POOL_PARAMETERS, revision 1.
#[derive(Clone, Copy)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct PoolParameters {
    pub header: ObjectHeader,
    pub protocol_id: u8,
    pub allocate_net_buffer: u8,
    pub context_size: u16,
    pub pool_tag: u32,
    pub data_size: u32,
}

/// `NDIS_SEND_FLAGS_DISPATCH_LEVEL`; also of completions and returns, and `NDIS_RECEIVE_FLAGS_DISPATCH_LEVEL`.
pub const FLAG_DISPATCH_LEVEL: u32 = 0x01;
/// `NDIS_RECEIVE_FLAGS_RESOURCES`: the miniport has the lists back when the indication returns.
pub const RECEIVE_FLAG_RESOURCES: u32 = 0x02;

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;
    type L = NetBufferList;
    assert!(offset_of!(L, first_net_buffer) == 0x08);
    assert!(offset_of!(L, context) == 0x10);
    assert!(offset_of!(L, pool) == 0x20);
    assert!(offset_of!(L, ndis_reserved) == 0x30);
    assert!(offset_of!(L, protocol_reserved) == 0x40);
    assert!(offset_of!(L, miniport_reserved) == 0x60);
    assert!(offset_of!(L, scratch) == 0x70);
    assert!(offset_of!(L, source_handle) == 0x78);
    assert!(offset_of!(L, nbl_flags) == 0x80);
    assert!(offset_of!(L, status) == 0x8c);
    assert!(offset_of!(L, info) == 0x90);
    assert!(size_of::<L>() == 0x150);
};

#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::offset_of;
    type B = NetBuffer;
    assert!(offset_of!(B, current_mdl) == 0x08);
    assert!(offset_of!(B, current_mdl_offset) == 0x10);
    assert!(offset_of!(B, data_length) == 0x18);
    assert!(offset_of!(B, mdl_chain) == 0x20);
    assert!(offset_of!(B, data_offset) == 0x28);
    assert!(offset_of!(B, checksum_bias) == 0x30);
    assert!(offset_of!(B, pool) == 0x38);
    assert!(offset_of!(B, ndis_reserved) == 0x40);
    assert!(offset_of!(B, protocol_reserved) == 0x50);
    assert!(offset_of!(B, miniport_reserved) == 0x80);
    assert!(offset_of!(B, data_physical_address) == 0xa0);
    assert!(offset_of!(B, scatter_gather_list) == 0xa8);
    assert!(size_of::<B>() == 0xb0);

    assert!(size_of::<PoolParameters>() == 0x10);
    assert!(offset_of!(PoolParameters, pool_tag) == 0x08);
};
