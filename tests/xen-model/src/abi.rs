//! Xen's numbers and layouts, declared here a second time from Xen's public headers.
//!
//! On purpose: the drivers use `xen-abi`. A number that is wrong there shows as a failing test only if the model does not
//! use the same one.

#![allow(missing_docs)] // names and meaning are those of xen/include/public

/// Error numbers as hypercalls return them, negated.
pub mod errno {
    pub const EPERM: i64 = -1;
    pub const ENOENT: i64 = -2;
    pub const ESRCH: i64 = -3;
    pub const ENOMEM: i64 = -12;
    pub const EACCES: i64 = -13;
    pub const EFAULT: i64 = -14;
    pub const EEXIST: i64 = -17;
    pub const EINVAL: i64 = -22;
    pub const ENOSPC: i64 = -28;
    pub const ENOSYS: i64 = -38;
    pub const EOPNOTSUPP: i64 = -95;
}

/// Hypercall numbers (xen.h).
pub mod hypercall {
    pub const MEMORY_OP: u32 = 12;
    pub const XEN_VERSION: u32 = 17;
    pub const CONSOLE_IO: u32 = 18;
    pub const GRANT_TABLE_OP: u32 = 20;
    pub const VCPU_OP: u32 = 24;
    pub const SCHED_OP: u32 = 29;
    pub const EVENT_CHANNEL_OP: u32 = 32;
    pub const HVM_OP: u32 = 34;
}

pub const DOMID_SELF: u16 = 0x7ff0;

pub mod memory {
    pub const DECREASE_RESERVATION: u64 = 1;
    pub const CURRENT_RESERVATION: u64 = 3;
    pub const MAXIMUM_RESERVATION: u64 = 4;
    pub const POPULATE_PHYSMAP: u64 = 6;
    pub const ADD_TO_PHYSMAP: u64 = 7;
    pub const MEMORY_MAP: u64 = 9;
    pub const MAXIMUM_GPFN: u64 = 14;
    pub const REMOVE_FROM_PHYSMAP: u64 = 15;
    pub const ADD_TO_PHYSMAP_BATCH: u64 = 23;
    pub const SPACE_SHARED_INFO: u32 = 0;
    pub const SPACE_GRANT_TABLE: u32 = 1;
    pub const GRANT_TABLE_STATUS: u64 = 0x8000_0000;
}

pub mod version {
    pub const VERSION: u64 = 0;
    pub const EXTRAVERSION: u64 = 1;
    pub const COMPILE_INFO: u64 = 2;
    pub const CAPABILITIES: u64 = 3;
    pub const CHANGESET: u64 = 4;
    pub const PLATFORM_PARAMETERS: u64 = 5;
    pub const GET_FEATURES: u64 = 6;
    pub const PAGESIZE: u64 = 7;
    pub const GUEST_HANDLE: u64 = 8;
}

pub mod event {
    pub const BIND_INTERDOMAIN: u64 = 0;
    pub const BIND_VIRQ: u64 = 1;
    pub const BIND_PIRQ: u64 = 2;
    pub const CLOSE: u64 = 3;
    pub const SEND: u64 = 4;
    pub const STATUS: u64 = 5;
    pub const ALLOC_UNBOUND: u64 = 6;
    pub const BIND_IPI: u64 = 7;
    pub const BIND_VCPU: u64 = 8;
    pub const UNMASK: u64 = 9;
    pub const RESET: u64 = 10;
    pub const INIT_CONTROL: u64 = 11;
    pub const EXPAND_ARRAY: u64 = 12;
    pub const SET_PRIORITY: u64 = 13;

    pub const NR_VIRQS: u32 = 24;
    /// Ports of the 2-level ABI on x86-64.
    pub const CHANNELS_2L: u32 = 4096;
    pub const FIFO_LINK_BITS: u32 = 17;
    pub const FIFO_CHANNELS: u32 = 1 << FIFO_LINK_BITS;
    pub const FIFO_WORDS_PER_PAGE: u32 = 1024;
    pub const FIFO_PENDING: u32 = 1 << 31;
    pub const FIFO_MASKED: u32 = 1 << 30;
    pub const FIFO_LINKED: u32 = 1 << 29;
    pub const FIFO_BUSY: u32 = 1 << 28;
    pub const FIFO_LINK_MASK: u32 = FIFO_CHANNELS - 1;
    pub const FIFO_QUEUES: usize = 16;
    pub const FIFO_PRIORITY_DEFAULT: u8 = 7;
    pub const FIFO_PRIORITY_MIN: u32 = 15;
    /// Bytes of a FIFO control block: `ready`, padding, 16 heads.
    pub const FIFO_CONTROL_BLOCK: u32 = 8 + 4 * 16;
}

/// Byte offsets in `shared_info` and `vcpu_info` (x86-64).
pub mod shared {
    pub const VCPU_INFO_SIZE: usize = 64;
    pub const LEGACY_MAX_VCPUS: u32 = 32;
    pub const UPCALL_PENDING: usize = 0;
    pub const PENDING_SEL: usize = 8;
    pub const VCPU_TIME: usize = 32;
    pub const EVTCHN_PENDING: usize = 2048;
    pub const EVTCHN_MASK: usize = 2560;
    pub const WC_VERSION: usize = 3072;
    pub const WC_SEC: usize = 3076;
    pub const WC_NSEC: usize = 3080;
    pub const WC_SEC_HI: usize = 3084;
}

pub mod grant {
    pub const MAP_GRANT_REF: u64 = 0;
    pub const UNMAP_GRANT_REF: u64 = 1;
    pub const SETUP_TABLE: u64 = 2;
    pub const QUERY_SIZE: u64 = 6;
    pub const SET_VERSION: u64 = 8;
    pub const GET_VERSION: u64 = 10;
    pub const OKAY: i16 = 0;
    pub const GENERAL_ERROR: i16 = -1;
    pub const BAD_DOMAIN: i16 = -2;
    pub const ENTRY_SIZE: usize = 8;
    pub const ENTRIES_PER_FRAME: u32 = 512;
    pub const PERMIT_ACCESS: u16 = 1;
    pub const TYPE_MASK: u16 = 3;
    pub const READONLY: u16 = 4;
    pub const READING: u16 = 8;
    pub const WRITING: u16 = 16;
}

pub mod hvm {
    pub const SET_PARAM: u64 = 0;
    pub const GET_PARAM: u64 = 1;
    pub const FLUSH_TLBS: u64 = 5;
    pub const GET_TIME: u64 = 10;
    pub const SET_EVTCHN_UPCALL_VECTOR: u64 = 23;
    pub const PARAM_CALLBACK_IRQ: u32 = 0;
    pub const PARAM_STORE_PFN: u32 = 1;
    pub const PARAM_STORE_EVTCHN: u32 = 2;
    pub const PARAM_PAE_ENABLED: u32 = 4;
    pub const PARAM_VIRIDIAN: u32 = 9;
    pub const PARAM_VM86_TSS: u32 = 15;
    pub const PARAM_CONSOLE_PFN: u32 = 17;
    pub const PARAM_CONSOLE_EVTCHN: u32 = 18;
    pub const PARAM_ACPI_IOPORTS_LOCATION: u32 = 19;
    pub const PARAM_VM_GENERATION_ID_ADDR: u32 = 34;
    pub const PARAM_ALTP2M: u32 = 35;
    pub const PARAM_X87_FIP_WIDTH: u32 = 36;
    pub const PARAM_VM86_TSS_SIZED: u32 = 37;
    pub const NR_PARAMS: u32 = 39;
}

pub mod sched {
    pub const YIELD: u64 = 0;
    pub const BLOCK: u64 = 1;
    pub const SHUTDOWN: u64 = 2;
    pub const POLL: u64 = 3;
    pub const SHUTDOWN_SUSPEND: u32 = 2;
    pub const SHUTDOWN_MAX: u32 = 5;
}

pub mod vcpu {
    pub const IS_UP: u64 = 3;
    pub const REGISTER_VCPU_INFO: u64 = 10;
}

/// The ring header and blkif (ring.h, blkif.h), the 64-bit ABI.
pub mod blkif {
    pub const RING_REQ_PROD: usize = 0;
    pub const RING_REQ_EVENT: usize = 4;
    pub const RING_RSP_PROD: usize = 8;
    pub const RING_RSP_EVENT: usize = 12;
    pub const RING_HEADER: usize = 64;
    pub const ENTRY: usize = 112;
    pub const RESPONSE: usize = 16;
    pub const SEGMENT: usize = 8;
    pub const MAX_SEGMENTS: u32 = 11;
    pub const MAX_INDIRECT_PAGES: usize = 8;
    pub const SEGMENTS_PER_INDIRECT_PAGE: u32 = 512;

    pub const OP_READ: u8 = 0;
    pub const OP_WRITE: u8 = 1;
    pub const OP_WRITE_BARRIER: u8 = 2;
    pub const OP_FLUSH: u8 = 3;
    pub const OP_DISCARD: u8 = 5;
    pub const OP_INDIRECT: u8 = 6;

    pub const RSP_OKAY: i16 = 0;
    pub const RSP_ERROR: i16 = -1;
    pub const RSP_EOPNOTSUPP: i16 = -2;

    pub const INFO_CDROM: u32 = 1;
    pub const INFO_REMOVABLE: u32 = 2;
    pub const INFO_READONLY: u32 = 4;
}

/// The header of a shared ring (ring.h): the same for every protocol.
pub mod ring {
    pub use super::blkif::{
        RING_HEADER as HEADER, RING_REQ_EVENT as REQ_EVENT, RING_REQ_PROD as REQ_PROD, RING_RSP_EVENT as RSP_EVENT,
        RING_RSP_PROD as RSP_PROD,
    };
}

/// netif (netif.h): three rings of one page each.
pub mod netif {
    pub const TX_ENTRY: usize = 12;
    pub const RX_ENTRY: usize = 8;
    pub const CTRL_ENTRY: usize = 16;
    pub const TX_RESPONSE: usize = 4;
    pub const CTRL_RESPONSE: usize = 12;
    pub const SLOTS_MIN: usize = 18;

    pub const TXF_CSUM_BLANK: u16 = 1;
    pub const TXF_DATA_VALIDATED: u16 = 2;
    pub const TXF_MORE_DATA: u16 = 4;
    pub const TXF_EXTRA_INFO: u16 = 8;
    pub const RXF_DATA_VALIDATED: u16 = 1;
    pub const RXF_CSUM_BLANK: u16 = 2;
    pub const RXF_MORE_DATA: u16 = 4;
    pub const RXF_EXTRA_INFO: u16 = 8;

    pub const RSP_ERROR: i16 = -1;
    pub const RSP_OKAY: i16 = 0;
    pub const RSP_NULL: i16 = 1;

    pub const EXTRA_GSO: u8 = 1;
    pub const EXTRA_MCAST_ADD: u8 = 2;
    pub const EXTRA_MCAST_DEL: u8 = 3;
    pub const EXTRA_HASH: u8 = 4;
    /// Linux's `XEN_NETIF_EXTRA_TYPE_XDP`; Xen 4.17's own header does not declare it.
    pub const EXTRA_XDP: u8 = 5;
    pub const EXTRA_FLAG_MORE: u8 = 1;
    pub const GSO_TCPV4: u8 = 1;
    pub const GSO_TCPV6: u8 = 2;

    pub const CTRL_GET_HASH_FLAGS: u16 = 1;
    pub const CTRL_SET_HASH_FLAGS: u16 = 2;
    pub const CTRL_SET_HASH_KEY: u16 = 3;
    pub const CTRL_GET_HASH_MAPPING_SIZE: u16 = 4;
    pub const CTRL_SET_HASH_MAPPING_SIZE: u16 = 5;
    pub const CTRL_SET_HASH_MAPPING: u16 = 6;
    pub const CTRL_SET_HASH_ALGORITHM: u16 = 7;
    pub const CTRL_SUCCESS: u32 = 0;
    pub const CTRL_NOT_SUPPORTED: u32 = 1;
    pub const CTRL_INVALID_PARAMETER: u32 = 2;

    pub const HASH_TOEPLITZ: u32 = 1;
    /// Numbers of the hash types; the flags are `1 << number`.
    pub const HASH_IPV4: u8 = 0;
    pub const HASH_IPV4_TCP: u8 = 1;
    pub const HASH_IPV6: u8 = 2;
    pub const HASH_IPV6_TCP: u8 = 3;
}

/// The xenstore ring page and wire (xs_wire.h).
pub mod xs {
    pub const RING_SIZE: u32 = 1024;
    pub const REQ: usize = 0;
    pub const RSP: usize = 1024;
    pub const REQ_CONS: usize = 2048;
    pub const REQ_PROD: usize = 2052;
    pub const RSP_CONS: usize = 2056;
    pub const RSP_PROD: usize = 2060;
    pub const SERVER_FEATURES: usize = 2064;
    pub const CONNECTION: usize = 2068;
    pub const ERROR: usize = 2072;
    pub const FEATURE_RECONNECTION: u32 = 1;
    pub const FEATURE_ERROR: u32 = 2;
    pub const ERROR_RINGIDX: u32 = 2;
    pub const ERROR_PROTO: u32 = 3;
    pub const PAYLOAD_MAX: usize = 4096;
    pub const ABS_PATH_MAX: usize = 3072;
    pub const REL_PATH_MAX: usize = 2048;
    pub const HEADER: usize = 16;

    pub const CONTROL: u32 = 0;
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const GET_PERMS: u32 = 3;
    pub const WATCH: u32 = 4;
    pub const UNWATCH: u32 = 5;
    pub const TRANSACTION_START: u32 = 6;
    pub const TRANSACTION_END: u32 = 7;
    pub const INTRODUCE: u32 = 8;
    pub const RELEASE: u32 = 9;
    pub const GET_DOMAIN_PATH: u32 = 10;
    pub const WRITE: u32 = 11;
    pub const MKDIR: u32 = 12;
    pub const RM: u32 = 13;
    pub const SET_PERMS: u32 = 14;
    pub const WATCH_EVENT: u32 = 15;
    pub const ERROR_REPLY: u32 = 16;
    pub const IS_DOMAIN_INTRODUCED: u32 = 17;
    pub const RESUME: u32 = 18;
    pub const SET_TARGET: u32 = 19;
    pub const RESET_WATCHES: u32 = 21;
    pub const DIRECTORY_PART: u32 = 22;
}

#[cfg(test)]
mod tests {
    //! Compiles a C file against Xen's own public headers (Debian's libxen-dev) and compares.

    use std::path::Path;
    use std::process::Command;

    use super::*;

    const HEADERS: &str = "/usr/include/xen/xen.h";
    const INCLUDES: &str = "#include <stdio.h>\n#include <stddef.h>\n#include <stdint.h>\n\
        #define __XEN_INTERFACE_VERSION__ 0x00040900\n#define xen_mb()\n#define xen_rmb()\n#define xen_wmb()\n\
        #include <xen/xen.h>\n#include <xen/memory.h>\n#include <xen/version.h>\n#include <xen/event_channel.h>\n\
        #include <xen/grant_table.h>\n#include <xen/sched.h>\n#include <xen/vcpu.h>\n#include <xen/hvm/hvm_op.h>\n\
        #include <xen/hvm/params.h>\n#include <xen/io/xs_wire.h>\n#include <xen/io/ring.h>\n#include <xen/io/blkif.h>\n\
        #include <xen/io/netif.h>\n\
        DEFINE_RING_TYPES(blk, struct blkif_request, struct blkif_response);\n";

    #[test]
    fn numbers_and_layouts_are_those_of_the_headers() {
        if !Path::new(HEADERS).exists() {
            println!("skipped: {HEADERS} is not there (package libxen-dev)");
            return;
        }
        let ring = "struct blk_sring";
        let facts: Vec<(String, u64)> = [
            ("__HYPERVISOR_memory_op", u64::from(hypercall::MEMORY_OP)),
            ("__HYPERVISOR_xen_version", hypercall::XEN_VERSION.into()),
            ("__HYPERVISOR_console_io", hypercall::CONSOLE_IO.into()),
            ("__HYPERVISOR_grant_table_op", hypercall::GRANT_TABLE_OP.into()),
            ("__HYPERVISOR_vcpu_op", hypercall::VCPU_OP.into()),
            ("__HYPERVISOR_sched_op", hypercall::SCHED_OP.into()),
            ("__HYPERVISOR_event_channel_op", hypercall::EVENT_CHANNEL_OP.into()),
            ("__HYPERVISOR_hvm_op", hypercall::HVM_OP.into()),
            ("DOMID_SELF", DOMID_SELF.into()),
            ("XENMEM_decrease_reservation", memory::DECREASE_RESERVATION),
            ("XENMEM_current_reservation", memory::CURRENT_RESERVATION),
            ("XENMEM_maximum_reservation", memory::MAXIMUM_RESERVATION),
            ("XENMEM_populate_physmap", memory::POPULATE_PHYSMAP),
            ("XENMEM_add_to_physmap", memory::ADD_TO_PHYSMAP),
            ("XENMEM_memory_map", memory::MEMORY_MAP),
            ("XENMEM_maximum_gpfn", memory::MAXIMUM_GPFN),
            ("XENMEM_remove_from_physmap", memory::REMOVE_FROM_PHYSMAP),
            ("XENMEM_add_to_physmap_batch", memory::ADD_TO_PHYSMAP_BATCH),
            ("XENMAPSPACE_shared_info", memory::SPACE_SHARED_INFO.into()),
            ("XENMAPSPACE_grant_table", memory::SPACE_GRANT_TABLE.into()),
            ("XENMAPIDX_grant_table_status", memory::GRANT_TABLE_STATUS),
            ("XENVER_version", version::VERSION),
            ("XENVER_extraversion", version::EXTRAVERSION),
            ("XENVER_compile_info", version::COMPILE_INFO),
            ("XENVER_capabilities", version::CAPABILITIES),
            ("XENVER_changeset", version::CHANGESET),
            ("XENVER_platform_parameters", version::PLATFORM_PARAMETERS),
            ("XENVER_get_features", version::GET_FEATURES),
            ("XENVER_pagesize", version::PAGESIZE),
            ("XENVER_guest_handle", version::GUEST_HANDLE),
            ("EVTCHNOP_bind_interdomain", event::BIND_INTERDOMAIN),
            ("EVTCHNOP_bind_virq", event::BIND_VIRQ),
            ("EVTCHNOP_bind_pirq", event::BIND_PIRQ),
            ("EVTCHNOP_close", event::CLOSE),
            ("EVTCHNOP_send", event::SEND),
            ("EVTCHNOP_status", event::STATUS),
            ("EVTCHNOP_alloc_unbound", event::ALLOC_UNBOUND),
            ("EVTCHNOP_bind_ipi", event::BIND_IPI),
            ("EVTCHNOP_bind_vcpu", event::BIND_VCPU),
            ("EVTCHNOP_unmask", event::UNMASK),
            ("EVTCHNOP_reset", event::RESET),
            ("EVTCHNOP_init_control", event::INIT_CONTROL),
            ("EVTCHNOP_expand_array", event::EXPAND_ARRAY),
            ("EVTCHNOP_set_priority", event::SET_PRIORITY),
            ("NR_VIRQS", event::NR_VIRQS.into()),
            ("EVTCHN_2L_NR_CHANNELS", event::CHANNELS_2L.into()),
            ("EVTCHN_FIFO_LINK_BITS", event::FIFO_LINK_BITS.into()),
            ("EVTCHN_FIFO_NR_CHANNELS", event::FIFO_CHANNELS.into()),
            ("1u << EVTCHN_FIFO_PENDING", event::FIFO_PENDING.into()),
            ("1u << EVTCHN_FIFO_MASKED", event::FIFO_MASKED.into()),
            ("1u << EVTCHN_FIFO_LINKED", event::FIFO_LINKED.into()),
            ("1u << EVTCHN_FIFO_BUSY", event::FIFO_BUSY.into()),
            ("EVTCHN_FIFO_LINK_MASK", event::FIFO_LINK_MASK.into()),
            ("EVTCHN_FIFO_MAX_QUEUES", event::FIFO_QUEUES as u64),
            ("EVTCHN_FIFO_PRIORITY_DEFAULT", event::FIFO_PRIORITY_DEFAULT.into()),
            ("EVTCHN_FIFO_PRIORITY_MIN", event::FIFO_PRIORITY_MIN.into()),
            ("sizeof(struct evtchn_fifo_control_block)", event::FIFO_CONTROL_BLOCK.into()),
            ("offsetof(struct evtchn_fifo_control_block, head)", 8),
            ("sizeof(struct vcpu_info)", shared::VCPU_INFO_SIZE as u64),
            ("XEN_LEGACY_MAX_VCPUS", shared::LEGACY_MAX_VCPUS.into()),
            ("offsetof(struct vcpu_info, evtchn_upcall_pending)", shared::UPCALL_PENDING as u64),
            ("offsetof(struct vcpu_info, evtchn_pending_sel)", shared::PENDING_SEL as u64),
            ("offsetof(struct vcpu_info, time)", shared::VCPU_TIME as u64),
            ("offsetof(struct shared_info, evtchn_pending)", shared::EVTCHN_PENDING as u64),
            ("offsetof(struct shared_info, evtchn_mask)", shared::EVTCHN_MASK as u64),
            ("offsetof(struct shared_info, wc_version)", shared::WC_VERSION as u64),
            ("offsetof(struct shared_info, wc_sec)", shared::WC_SEC as u64),
            ("offsetof(struct shared_info, wc_nsec)", shared::WC_NSEC as u64),
            ("GNTTABOP_map_grant_ref", grant::MAP_GRANT_REF),
            ("GNTTABOP_unmap_grant_ref", grant::UNMAP_GRANT_REF),
            ("GNTTABOP_setup_table", grant::SETUP_TABLE),
            ("GNTTABOP_query_size", grant::QUERY_SIZE),
            ("GNTTABOP_set_version", grant::SET_VERSION),
            ("GNTTABOP_get_version", grant::GET_VERSION),
            ("sizeof(struct grant_entry_v1)", grant::ENTRY_SIZE as u64),
            ("offsetof(struct grant_entry_v1, frame)", 4),
            ("GTF_permit_access", grant::PERMIT_ACCESS.into()),
            ("GTF_type_mask", grant::TYPE_MASK.into()),
            ("GTF_readonly", grant::READONLY.into()),
            ("GTF_reading", grant::READING.into()),
            ("GTF_writing", grant::WRITING.into()),
            ("HVMOP_set_param", hvm::SET_PARAM),
            ("HVMOP_get_param", hvm::GET_PARAM),
            ("HVMOP_flush_tlbs", hvm::FLUSH_TLBS),
            ("HVMOP_get_time", hvm::GET_TIME),
            ("HVMOP_set_evtchn_upcall_vector", hvm::SET_EVTCHN_UPCALL_VECTOR),
            ("HVM_PARAM_CALLBACK_IRQ", hvm::PARAM_CALLBACK_IRQ.into()),
            ("HVM_PARAM_STORE_PFN", hvm::PARAM_STORE_PFN.into()),
            ("HVM_PARAM_STORE_EVTCHN", hvm::PARAM_STORE_EVTCHN.into()),
            ("HVM_PARAM_VIRIDIAN", hvm::PARAM_VIRIDIAN.into()),
            ("HVM_PARAM_CONSOLE_PFN", hvm::PARAM_CONSOLE_PFN.into()),
            ("HVM_PARAM_CONSOLE_EVTCHN", hvm::PARAM_CONSOLE_EVTCHN.into()),
            ("HVM_NR_PARAMS", hvm::NR_PARAMS.into()),
            ("SCHEDOP_shutdown", sched::SHUTDOWN),
            ("SCHEDOP_poll", sched::POLL),
            ("SHUTDOWN_suspend", sched::SHUTDOWN_SUSPEND.into()),
            ("SHUTDOWN_MAX", sched::SHUTDOWN_MAX.into()),
            ("VCPUOP_is_up", vcpu::IS_UP),
            ("VCPUOP_register_vcpu_info", vcpu::REGISTER_VCPU_INFO),
            ("sizeof(union blk_sring_entry)", blkif::ENTRY as u64),
            ("sizeof(struct blkif_response)", blkif::RESPONSE as u64),
            ("sizeof(struct blkif_request_segment)", blkif::SEGMENT as u64),
            ("BLKIF_MAX_SEGMENTS_PER_REQUEST", blkif::MAX_SEGMENTS.into()),
            ("BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST", blkif::MAX_INDIRECT_PAGES as u64),
            ("BLKIF_OP_READ", blkif::OP_READ.into()),
            ("BLKIF_OP_WRITE", blkif::OP_WRITE.into()),
            ("BLKIF_OP_WRITE_BARRIER", blkif::OP_WRITE_BARRIER.into()),
            ("BLKIF_OP_FLUSH_DISKCACHE", blkif::OP_FLUSH.into()),
            ("BLKIF_OP_DISCARD", blkif::OP_DISCARD.into()),
            ("BLKIF_OP_INDIRECT", blkif::OP_INDIRECT.into()),
            ("-BLKIF_RSP_ERROR", u64::from(blkif::RSP_ERROR.unsigned_abs())),
            ("-BLKIF_RSP_EOPNOTSUPP", u64::from(blkif::RSP_EOPNOTSUPP.unsigned_abs())),
            ("VDISK_CDROM", blkif::INFO_CDROM.into()),
            ("VDISK_REMOVABLE", blkif::INFO_REMOVABLE.into()),
            ("VDISK_READONLY", blkif::INFO_READONLY.into()),
            ("offsetof(struct blkif_request, id)", 8),
            ("offsetof(struct blkif_request, sector_number)", 16),
            ("offsetof(struct blkif_request, seg)", 24),
            ("offsetof(struct blkif_request_discard, nr_sectors)", 24),
            ("offsetof(struct blkif_request_indirect, indirect_op)", 1),
            ("offsetof(struct blkif_request_indirect, nr_segments)", 2),
            ("offsetof(struct blkif_request_indirect, sector_number)", 16),
            ("offsetof(struct blkif_request_indirect, indirect_grefs)", 28),
            ("offsetof(struct blkif_response, operation)", 8),
            ("offsetof(struct blkif_response, status)", 10),
            ("sizeof(union netif_tx_sring_entry)", netif::TX_ENTRY as u64),
            ("sizeof(union netif_rx_sring_entry)", netif::RX_ENTRY as u64),
            ("sizeof(union xen_netif_ctrl_sring_entry)", netif::CTRL_ENTRY as u64),
            ("sizeof(struct netif_tx_response)", netif::TX_RESPONSE as u64),
            ("sizeof(struct xen_netif_ctrl_response)", netif::CTRL_RESPONSE as u64),
            ("XEN_NETIF_NR_SLOTS_MIN", netif::SLOTS_MIN as u64),
            ("NETTXF_csum_blank", netif::TXF_CSUM_BLANK.into()),
            ("NETTXF_data_validated", netif::TXF_DATA_VALIDATED.into()),
            ("NETTXF_more_data", netif::TXF_MORE_DATA.into()),
            ("NETTXF_extra_info", netif::TXF_EXTRA_INFO.into()),
            ("NETRXF_data_validated", netif::RXF_DATA_VALIDATED.into()),
            ("NETRXF_csum_blank", netif::RXF_CSUM_BLANK.into()),
            ("NETRXF_more_data", netif::RXF_MORE_DATA.into()),
            ("NETRXF_extra_info", netif::RXF_EXTRA_INFO.into()),
            ("-NETIF_RSP_ERROR", u64::from(netif::RSP_ERROR.unsigned_abs())),
            ("NETIF_RSP_OKAY", u64::from(netif::RSP_OKAY.unsigned_abs())),
            ("NETIF_RSP_NULL", u64::from(netif::RSP_NULL.unsigned_abs())),
            ("XEN_NETIF_EXTRA_TYPE_GSO", netif::EXTRA_GSO.into()),
            ("XEN_NETIF_EXTRA_TYPE_MCAST_ADD", netif::EXTRA_MCAST_ADD.into()),
            ("XEN_NETIF_EXTRA_TYPE_MCAST_DEL", netif::EXTRA_MCAST_DEL.into()),
            ("XEN_NETIF_EXTRA_TYPE_HASH", netif::EXTRA_HASH.into()),
            ("XEN_NETIF_EXTRA_FLAG_MORE", netif::EXTRA_FLAG_MORE.into()),
            ("XEN_NETIF_GSO_TYPE_TCPV4", netif::GSO_TCPV4.into()),
            ("XEN_NETIF_GSO_TYPE_TCPV6", netif::GSO_TCPV6.into()),
            ("XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS", netif::CTRL_GET_HASH_FLAGS.into()),
            ("XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS", netif::CTRL_SET_HASH_FLAGS.into()),
            ("XEN_NETIF_CTRL_TYPE_SET_HASH_KEY", netif::CTRL_SET_HASH_KEY.into()),
            ("XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE", netif::CTRL_GET_HASH_MAPPING_SIZE.into()),
            ("XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE", netif::CTRL_SET_HASH_MAPPING_SIZE.into()),
            ("XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING", netif::CTRL_SET_HASH_MAPPING.into()),
            ("XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM", netif::CTRL_SET_HASH_ALGORITHM.into()),
            ("XEN_NETIF_CTRL_STATUS_SUCCESS", netif::CTRL_SUCCESS.into()),
            ("XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED", netif::CTRL_NOT_SUPPORTED.into()),
            ("XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER", netif::CTRL_INVALID_PARAMETER.into()),
            ("XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ", netif::HASH_TOEPLITZ.into()),
            ("_XEN_NETIF_CTRL_HASH_TYPE_IPV4", netif::HASH_IPV4.into()),
            ("_XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP", netif::HASH_IPV4_TCP.into()),
            ("_XEN_NETIF_CTRL_HASH_TYPE_IPV6", netif::HASH_IPV6.into()),
            ("_XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP", netif::HASH_IPV6_TCP.into()),
            ("offsetof(struct netif_tx_request, offset)", 4),
            ("offsetof(struct netif_tx_request, flags)", 6),
            ("offsetof(struct netif_tx_request, id)", 8),
            ("offsetof(struct netif_tx_request, size)", 10),
            ("offsetof(struct netif_tx_response, status)", 2),
            ("offsetof(struct netif_rx_request, gref)", 4),
            ("offsetof(struct netif_rx_response, offset)", 2),
            ("offsetof(struct netif_rx_response, flags)", 4),
            ("offsetof(struct netif_rx_response, status)", 6),
            ("offsetof(struct netif_extra_info, u.gso.size)", 2),
            ("offsetof(struct netif_extra_info, u.gso.type)", 4),
            ("offsetof(struct netif_extra_info, u.mcast.addr)", 2),
            ("offsetof(struct netif_extra_info, u.hash.type)", 2),
            ("offsetof(struct netif_extra_info, u.hash.algorithm)", 3),
            ("offsetof(struct netif_extra_info, u.hash.value)", 4),
            ("offsetof(struct xen_netif_ctrl_request, type)", 2),
            ("offsetof(struct xen_netif_ctrl_request, data)", 4),
            ("offsetof(struct xen_netif_ctrl_response, status)", 4),
            ("offsetof(struct xen_netif_ctrl_response, data)", 8),
            ("offsetof(struct xenstore_domain_interface, rsp)", xs::RSP as u64),
            ("offsetof(struct xenstore_domain_interface, req_cons)", xs::REQ_CONS as u64),
            ("offsetof(struct xenstore_domain_interface, req_prod)", xs::REQ_PROD as u64),
            ("offsetof(struct xenstore_domain_interface, rsp_cons)", xs::RSP_CONS as u64),
            ("offsetof(struct xenstore_domain_interface, rsp_prod)", xs::RSP_PROD as u64),
            ("offsetof(struct xenstore_domain_interface, server_features)", xs::SERVER_FEATURES as u64),
            ("offsetof(struct xenstore_domain_interface, connection)", xs::CONNECTION as u64),
            ("XENSTORE_RING_SIZE", xs::RING_SIZE.into()),
            ("XENSTORE_PAYLOAD_MAX", xs::PAYLOAD_MAX as u64),
            ("XENSTORE_ABS_PATH_MAX", xs::ABS_PATH_MAX as u64),
            ("XENSTORE_REL_PATH_MAX", xs::REL_PATH_MAX as u64),
            ("sizeof(struct xsd_sockmsg)", xs::HEADER as u64),
            ("XS_CONTROL", xs::CONTROL.into()),
            ("XS_DIRECTORY", xs::DIRECTORY.into()),
            ("XS_READ", xs::READ.into()),
            ("XS_GET_PERMS", xs::GET_PERMS.into()),
            ("XS_WATCH", xs::WATCH.into()),
            ("XS_UNWATCH", xs::UNWATCH.into()),
            ("XS_TRANSACTION_START", xs::TRANSACTION_START.into()),
            ("XS_TRANSACTION_END", xs::TRANSACTION_END.into()),
            ("XS_INTRODUCE", xs::INTRODUCE.into()),
            ("XS_RELEASE", xs::RELEASE.into()),
            ("XS_GET_DOMAIN_PATH", xs::GET_DOMAIN_PATH.into()),
            ("XS_WRITE", xs::WRITE.into()),
            ("XS_MKDIR", xs::MKDIR.into()),
            ("XS_RM", xs::RM.into()),
            ("XS_SET_PERMS", xs::SET_PERMS.into()),
            ("XS_WATCH_EVENT", xs::WATCH_EVENT.into()),
            ("XS_ERROR", xs::ERROR_REPLY.into()),
            ("XS_IS_DOMAIN_INTRODUCED", xs::IS_DOMAIN_INTRODUCED.into()),
            ("XS_RESUME", xs::RESUME.into()),
            ("XS_SET_TARGET", xs::SET_TARGET.into()),
            ("XS_RESET_WATCHES", xs::RESET_WATCHES.into()),
            ("XS_DIRECTORY_PART", xs::DIRECTORY_PART.into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain([
            (format!("offsetof({ring}, req_prod)"), blkif::RING_REQ_PROD as u64),
            (format!("offsetof({ring}, req_event)"), blkif::RING_REQ_EVENT as u64),
            (format!("offsetof({ring}, rsp_prod)"), blkif::RING_RSP_PROD as u64),
            (format!("offsetof({ring}, rsp_event)"), blkif::RING_RSP_EVENT as u64),
            (format!("offsetof({ring}, ring)"), blkif::RING_HEADER as u64),
        ])
        .collect();

        let mut source = format!("{INCLUDES}int main(void)\n{{\n");
        for (name, _) in &facts {
            source.extend(["printf(\"%llu\\n\", (unsigned long long)(", name.as_str(), "));\n"]);
        }
        source.push_str("return 0;\n}\n");
        let base = std::env::temp_dir().join(format!("xen-model-abi-{}", std::process::id()));
        let (file, program) = (base.with_extension("c"), base.with_extension("out"));
        std::fs::write(&file, source).expect("a temporary file");
        let Ok(compiled) = Command::new("cc").arg("-w").arg("-o").arg(&program).arg(&file).output() else {
            println!("skipped: no C compiler");
            return;
        };
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let run = Command::new(&program).output().expect("the program runs");
        for path in [&file, &program] {
            std::fs::remove_file(path).expect("the files are ours");
        }
        let values = String::from_utf8(run.stdout).expect("numbers");
        assert_eq!(values.lines().count(), facts.len());
        for ((name, ours), theirs) in facts.iter().zip(values.lines()) {
            assert_eq!(theirs, ours.to_string(), "{name}");
        }
    }
}
