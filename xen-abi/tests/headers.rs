//! Compares sizes, offsets and constants with Xen's own public headers, by a C program that is compiled against them
//! (Debian: package `libxen-dev`). Where the headers or a C compiler are absent it says so and passes.

use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use xen_abi::ring::RingProtocol;
use xen_abi::xenstore::{self, MessageType};
use xen_abi::{
    blkif, cpuid, errno::Errno, event, grant, hvm, hypercall, memory, netif, sched, shared_info, vcpu, xenbus,
};

/// The C expression, and the value here.
type Fact = (&'static str, i128);

macro_rules! facts {
    ($($c:expr => $rust:expr),* $(,)?) => { vec![$(($c, $rust as i128)),*] };
}

/// The number that is decoded as `status`.
fn ctrl_number(status: netif::CtrlStatus) -> u32 {
    (0..4).find(|number| netif::CtrlStatus::decode(*number) == Ok(status)).unwrap()
}

fn facts() -> Vec<Fact> {
    let mut all = facts![
        "sizeof(struct shared_info)" => size_of::<shared_info::SharedInfo>(),
        "sizeof(struct vcpu_info)" => size_of::<shared_info::VcpuInfo>(),
        "sizeof(struct vcpu_time_info)" => size_of::<shared_info::VcpuTimeInfo>(),
        "offsetof(struct shared_info, evtchn_pending)" => shared_info::OFFSET_EVTCHN_PENDING,
        "offsetof(struct shared_info, evtchn_mask)" => shared_info::OFFSET_EVTCHN_MASK,
        "offsetof(struct shared_info, wc_version)" => shared_info::OFFSET_WC_VERSION,
        "offsetof(struct shared_info, wc_sec)" => offset_of!(shared_info::SharedInfo, wc_sec),
        "offsetof(struct shared_info, wc_nsec)" => offset_of!(shared_info::SharedInfo, wc_nsec),
        "offsetof(struct shared_info, wc_sec_hi)" => offset_of!(shared_info::SharedInfo, wc_sec_hi),
        "offsetof(struct shared_info, arch)" => offset_of!(shared_info::SharedInfo, arch),
        "offsetof(struct vcpu_info, evtchn_upcall_pending)" => shared_info::OFFSET_UPCALL_PENDING,
        "offsetof(struct vcpu_info, evtchn_pending_sel)" => shared_info::OFFSET_PENDING_SEL,
        "offsetof(struct vcpu_info, time)" => shared_info::OFFSET_TIME,
        "offsetof(struct vcpu_time_info, tsc_timestamp)" => offset_of!(shared_info::VcpuTimeInfo, tsc_timestamp),
        "offsetof(struct vcpu_time_info, system_time)" => offset_of!(shared_info::VcpuTimeInfo, system_time),
        "offsetof(struct vcpu_time_info, tsc_to_system_mul)" =>
            offset_of!(shared_info::VcpuTimeInfo, tsc_to_system_mul),
        "offsetof(struct vcpu_time_info, tsc_shift)" => offset_of!(shared_info::VcpuTimeInfo, tsc_shift),
        "XEN_LEGACY_MAX_VCPUS" => shared_info::LEGACY_MAX_VCPUS,
        "DOMID_SELF" => xen_abi::DOMID_SELF,
        "DOMID_FIRST_RESERVED" => xen_abi::DOMID_FIRST_RESERVED,
        "DOMID_INVALID" => xen_abi::DOMID_INVALID,

        "__HYPERVISOR_memory_op" => hypercall::MEMORY_OP,
        "__HYPERVISOR_multicall" => hypercall::MULTICALL,
        "__HYPERVISOR_xen_version" => hypercall::XEN_VERSION,
        "__HYPERVISOR_console_io" => hypercall::CONSOLE_IO,
        "__HYPERVISOR_grant_table_op" => hypercall::GRANT_TABLE_OP,
        "__HYPERVISOR_vcpu_op" => hypercall::VCPU_OP,
        "__HYPERVISOR_sched_op" => hypercall::SCHED_OP,
        "__HYPERVISOR_event_channel_op" => hypercall::EVENT_CHANNEL_OP,
        "__HYPERVISOR_physdev_op" => hypercall::PHYSDEV_OP,
        "__HYPERVISOR_hvm_op" => hypercall::HVM_OP,
        "XENVER_version" => hypercall::XENVER_VERSION,
        "XENVER_extraversion" => hypercall::XENVER_EXTRAVERSION,
        "XENVER_get_features" => hypercall::XENVER_GET_FEATURES,
        "sizeof(xen_extraversion_t)" => hypercall::EXTRAVERSION_LEN,
        "sizeof(struct xen_feature_info)" => size_of::<hypercall::FeatureInfo>(),
        "offsetof(struct xen_feature_info, submap)" => offset_of!(hypercall::FeatureInfo, submap),
        "1 << XENFEAT_auto_translated_physmap" => hypercall::Features::AUTO_TRANSLATED_PHYSMAP.bits(),
        "1 << XENFEAT_hvm_callback_vector" => hypercall::Features::HVM_CALLBACK_VECTOR.bits(),
        "1 << XENFEAT_hvm_safe_pvclock" => hypercall::Features::HVM_SAFE_PVCLOCK.bits(),
        "1 << XENFEAT_hvm_pirqs" => hypercall::Features::HVM_PIRQS.bits(),
        "1 << XENFEAT_dom0" => hypercall::Features::DOM0.bits(),

        "XEN_CPUID_FIRST_LEAF" => cpuid::FIRST_BASE,
        "XEN_CPUID_SIGNATURE_EBX" => cpuid::SIGNATURE[0],
        "XEN_CPUID_SIGNATURE_ECX" => cpuid::SIGNATURE[1],
        "XEN_CPUID_SIGNATURE_EDX" => cpuid::SIGNATURE[2],
        "XEN_HVM_CPUID_APIC_ACCESS_VIRT" => cpuid::HvmFeatures::APIC_ACCESS_VIRT.bits(),
        "XEN_HVM_CPUID_X2APIC_VIRT" => cpuid::HvmFeatures::X2APIC_VIRT.bits(),
        "XEN_HVM_CPUID_IOMMU_MAPPINGS" => cpuid::HvmFeatures::IOMMU_MAPPINGS.bits(),
        "XEN_HVM_CPUID_VCPU_ID_PRESENT" => cpuid::HvmFeatures::VCPU_ID_PRESENT.bits(),
        "XEN_HVM_CPUID_DOMID_PRESENT" => cpuid::HvmFeatures::DOMID_PRESENT.bits(),
        "XEN_HVM_CPUID_EXT_DEST_ID" => cpuid::HvmFeatures::EXT_DEST_ID.bits(),
        "XEN_HVM_CPUID_UPCALL_VECTOR" => cpuid::HvmFeatures::UPCALL_VECTOR.bits(),

        "XENMEM_increase_reservation" => memory::INCREASE_RESERVATION,
        "XENMEM_decrease_reservation" => memory::DECREASE_RESERVATION,
        "XENMEM_current_reservation" => memory::CURRENT_RESERVATION,
        "XENMEM_maximum_reservation" => memory::MAXIMUM_RESERVATION,
        "XENMEM_populate_physmap" => memory::POPULATE_PHYSMAP,
        "XENMEM_add_to_physmap" => memory::ADD_TO_PHYSMAP,
        "XENMEM_memory_map" => memory::MEMORY_MAP,
        "XENMEM_maximum_gpfn" => memory::MAXIMUM_GPFN,
        "XENMEM_remove_from_physmap" => memory::REMOVE_FROM_PHYSMAP,
        "XENMAPSPACE_shared_info" => memory::SPACE_SHARED_INFO,
        "XENMAPSPACE_grant_table" => memory::SPACE_GRANT_TABLE,
        "sizeof(struct xen_memory_reservation)" => size_of::<memory::Reservation>(),
        "offsetof(struct xen_memory_reservation, extent_start)" => offset_of!(memory::Reservation, extent_start),
        "offsetof(struct xen_memory_reservation, nr_extents)" => offset_of!(memory::Reservation, extent_count),
        "offsetof(struct xen_memory_reservation, extent_order)" => offset_of!(memory::Reservation, extent_order),
        "offsetof(struct xen_memory_reservation, mem_flags)" => offset_of!(memory::Reservation, mem_flags),
        "offsetof(struct xen_memory_reservation, domid)" => offset_of!(memory::Reservation, domid),
        "sizeof(struct xen_add_to_physmap)" => size_of::<memory::AddToPhysmap>(),
        "offsetof(struct xen_add_to_physmap, size)" => offset_of!(memory::AddToPhysmap, size),
        "offsetof(struct xen_add_to_physmap, space)" => offset_of!(memory::AddToPhysmap, space),
        "offsetof(struct xen_add_to_physmap, idx)" => offset_of!(memory::AddToPhysmap, idx),
        "offsetof(struct xen_add_to_physmap, gpfn)" => offset_of!(memory::AddToPhysmap, gpfn),
        "sizeof(struct xen_remove_from_physmap)" => size_of::<memory::RemoveFromPhysmap>(),
        "offsetof(struct xen_remove_from_physmap, gpfn)" => offset_of!(memory::RemoveFromPhysmap, gpfn),

        "SCHEDOP_yield" => sched::YIELD,
        "SCHEDOP_block" => sched::BLOCK,
        "SCHEDOP_shutdown" => sched::SHUTDOWN,
        "SCHEDOP_poll" => sched::POLL,
        "SCHEDOP_shutdown_code" => sched::SHUTDOWN_CODE,
        "SCHEDOP_watchdog" => sched::WATCHDOG,
        "SHUTDOWN_poweroff" => sched::POWEROFF,
        "SHUTDOWN_reboot" => sched::REBOOT,
        "SHUTDOWN_suspend" => sched::SUSPEND,
        "SHUTDOWN_crash" => sched::CRASH,
        "SHUTDOWN_watchdog" => sched::SHUTDOWN_WATCHDOG,
        "SHUTDOWN_soft_reset" => sched::SOFT_RESET,
        "sizeof(struct sched_shutdown)" => size_of::<sched::Shutdown>(),
        "sizeof(struct sched_poll)" => size_of::<sched::Poll>(),
        "offsetof(struct sched_poll, nr_ports)" => offset_of!(sched::Poll, port_count),
        "offsetof(struct sched_poll, timeout)" => offset_of!(sched::Poll, timeout),
        "sizeof(struct sched_watchdog)" => size_of::<sched::Watchdog>(),

        "HVMOP_set_param" => hvm::SET_PARAM,
        "HVMOP_get_param" => hvm::GET_PARAM,
        "HVMOP_get_time" => hvm::GET_TIME,
        "HVMOP_set_evtchn_upcall_vector" => hvm::SET_EVTCHN_UPCALL_VECTOR,
        "HVM_PARAM_CALLBACK_IRQ" => hvm::PARAM_CALLBACK_IRQ,
        "HVM_PARAM_STORE_PFN" => hvm::PARAM_STORE_PFN,
        "HVM_PARAM_STORE_EVTCHN" => hvm::PARAM_STORE_EVTCHN,
        "HVM_PARAM_IOREQ_PFN" => hvm::PARAM_IOREQ_PFN,
        "HVM_PARAM_VIRIDIAN" => hvm::PARAM_VIRIDIAN,
        "HVM_PARAM_CONSOLE_PFN" => hvm::PARAM_CONSOLE_PFN,
        "HVM_PARAM_CONSOLE_EVTCHN" => hvm::PARAM_CONSOLE_EVTCHN,
        "HVM_PARAM_CALLBACK_TYPE_GSI" => hvm::callback_gsi(9) >> 56,
        "HVM_PARAM_CALLBACK_TYPE_PCI_INTX" => hvm::callback_pci_intx(0, 0, 3, 0, 0) >> 56,
        "HVM_PARAM_CALLBACK_TYPE_VECTOR" => hvm::callback_vector(0xF3) >> 56,
        "sizeof(struct xen_hvm_param)" => size_of::<hvm::Param>(),
        "offsetof(struct xen_hvm_param, index)" => offset_of!(hvm::Param, index),
        "offsetof(struct xen_hvm_param, value)" => offset_of!(hvm::Param, value),
        "sizeof(struct xen_hvm_get_time)" => size_of::<hvm::GetTime>(),
        "sizeof(struct xen_hvm_evtchn_upcall_vector)" => size_of::<hvm::UpcallVector>(),
        "offsetof(struct xen_hvm_evtchn_upcall_vector, vector)" => offset_of!(hvm::UpcallVector, vector),

        "VCPUOP_register_vcpu_info" => vcpu::REGISTER_VCPU_INFO,
        "VCPUOP_set_periodic_timer" => vcpu::SET_PERIODIC_TIMER,
        "VCPUOP_stop_periodic_timer" => vcpu::STOP_PERIODIC_TIMER,
        "VCPUOP_set_singleshot_timer" => vcpu::SET_SINGLESHOT_TIMER,
        "VCPUOP_stop_singleshot_timer" => vcpu::STOP_SINGLESHOT_TIMER,
        "sizeof(struct vcpu_register_vcpu_info)" => size_of::<vcpu::RegisterVcpuInfo>(),
        "offsetof(struct vcpu_register_vcpu_info, offset)" => offset_of!(vcpu::RegisterVcpuInfo, offset),
        "sizeof(struct vcpu_set_periodic_timer)" => size_of::<vcpu::SetPeriodicTimer>(),

        "EVTCHNOP_bind_interdomain" => event::BIND_INTERDOMAIN,
        "EVTCHNOP_bind_virq" => event::BIND_VIRQ,
        "EVTCHNOP_close" => event::CLOSE,
        "EVTCHNOP_send" => event::SEND,
        "EVTCHNOP_status" => event::STATUS,
        "EVTCHNOP_alloc_unbound" => event::ALLOC_UNBOUND,
        "EVTCHNOP_bind_ipi" => event::BIND_IPI,
        "EVTCHNOP_bind_vcpu" => event::BIND_VCPU,
        "EVTCHNOP_unmask" => event::UNMASK,
        "EVTCHNOP_reset" => event::RESET,
        "EVTCHNOP_init_control" => event::INIT_CONTROL,
        "EVTCHNOP_expand_array" => event::EXPAND_ARRAY,
        "EVTCHNOP_set_priority" => event::SET_PRIORITY,
        "EVTCHNSTAT_closed" => event::STATUS_CLOSED,
        "EVTCHNSTAT_unbound" => event::STATUS_UNBOUND,
        "EVTCHNSTAT_interdomain" => event::STATUS_INTERDOMAIN,
        "EVTCHNSTAT_pirq" => event::STATUS_PIRQ,
        "EVTCHNSTAT_virq" => event::STATUS_VIRQ,
        "EVTCHNSTAT_ipi" => event::STATUS_IPI,
        "VIRQ_TIMER" => event::VIRQ_TIMER,
        "VIRQ_DEBUG" => event::VIRQ_DEBUG,
        "sizeof(struct evtchn_close)" => size_of::<event::PortArg>(),
        "sizeof(struct evtchn_send)" => size_of::<event::PortArg>(),
        "sizeof(struct evtchn_unmask)" => size_of::<event::PortArg>(),
        "sizeof(struct evtchn_alloc_unbound)" => size_of::<event::AllocUnbound>(),
        "offsetof(struct evtchn_alloc_unbound, port)" => offset_of!(event::AllocUnbound, port),
        "sizeof(struct evtchn_bind_interdomain)" => size_of::<event::BindInterdomain>(),
        "offsetof(struct evtchn_bind_interdomain, remote_port)" => offset_of!(event::BindInterdomain, remote_port),
        "offsetof(struct evtchn_bind_interdomain, local_port)" => offset_of!(event::BindInterdomain, local_port),
        "sizeof(struct evtchn_bind_virq)" => size_of::<event::BindVirq>(),
        "offsetof(struct evtchn_bind_virq, port)" => offset_of!(event::BindVirq, port),
        "sizeof(struct evtchn_bind_ipi)" => size_of::<event::BindIpi>(),
        "sizeof(struct evtchn_status)" => size_of::<event::Status>(),
        "offsetof(struct evtchn_status, status)" => offset_of!(event::Status, status),
        "offsetof(struct evtchn_status, u.interdomain.dom)" => offset_of!(event::Status, detail),
        "offsetof(struct evtchn_status, u.interdomain.port)" => offset_of!(event::Status, remote_port),
        "sizeof(struct evtchn_bind_vcpu)" => size_of::<event::BindVcpu>(),
        "sizeof(struct evtchn_reset)" => size_of::<event::Reset>(),
        "sizeof(struct evtchn_init_control)" => size_of::<event::InitControl>(),
        "offsetof(struct evtchn_init_control, offset)" => offset_of!(event::InitControl, offset),
        "offsetof(struct evtchn_init_control, vcpu)" => offset_of!(event::InitControl, vcpu),
        "offsetof(struct evtchn_init_control, link_bits)" => offset_of!(event::InitControl, link_bits),
        "sizeof(struct evtchn_expand_array)" => size_of::<event::ExpandArray>(),
        "sizeof(struct evtchn_set_priority)" => size_of::<event::SetPriority>(),
        "EVTCHN_2L_NR_CHANNELS" => event::two_level::PORTS,
        "EVTCHN_FIFO_PRIORITY_MAX" => event::fifo::PRIORITY_MAX,
        "EVTCHN_FIFO_PRIORITY_DEFAULT" => event::fifo::PRIORITY_DEFAULT,
        "EVTCHN_FIFO_PRIORITY_MIN" => event::fifo::PRIORITY_MIN,
        "EVTCHN_FIFO_MAX_QUEUES" => event::fifo::QUEUES,
        "1u << EVTCHN_FIFO_PENDING" => event::fifo::PENDING,
        "1u << EVTCHN_FIFO_MASKED" => event::fifo::MASKED,
        "1u << EVTCHN_FIFO_LINKED" => event::fifo::LINKED,
        "1u << EVTCHN_FIFO_BUSY" => event::fifo::BUSY,
        "EVTCHN_FIFO_LINK_MASK" => event::fifo::LINK_MASK,
        "EVTCHN_FIFO_NR_CHANNELS" => event::fifo::PORTS,
        "sizeof(struct evtchn_fifo_control_block)" => event::fifo::CONTROL_BLOCK_SIZE,
        "offsetof(struct evtchn_fifo_control_block, ready)" => event::fifo::OFFSET_READY,
        "offsetof(struct evtchn_fifo_control_block, head[15])" => event::fifo::offset_head(15),

        "GNTTAB_NR_RESERVED_ENTRIES" => grant::RESERVED,
        "GNTTABOP_map_grant_ref" => grant::MAP_GRANT_REF,
        "GNTTABOP_unmap_grant_ref" => grant::UNMAP_GRANT_REF,
        "GNTTABOP_setup_table" => grant::SETUP_TABLE,
        "GNTTABOP_copy" => grant::COPY,
        "GNTTABOP_query_size" => grant::QUERY_SIZE,
        "GNTTABOP_set_version" => grant::SET_VERSION,
        "GNTTABOP_get_version" => grant::GET_VERSION,
        "GTF_permit_access" => grant::GTF_PERMIT_ACCESS,
        "GTF_type_mask" => grant::GTF_TYPE_MASK,
        "GTF_readonly" => grant::GTF_READONLY,
        "GTF_reading" => grant::GTF_READING,
        "GTF_writing" => grant::GTF_WRITING,
        "sizeof(struct grant_entry_v1)" => size_of::<grant::EntryV1>(),
        "offsetof(struct grant_entry_v1, flags)" => grant::OFFSET_FLAGS,
        "offsetof(struct grant_entry_v1, domid)" => grant::OFFSET_DOMID,
        "offsetof(struct grant_entry_v1, frame)" => grant::OFFSET_FRAME,
        "sizeof(struct gnttab_map_grant_ref)" => size_of::<grant::MapGrantRef>(),
        "offsetof(struct gnttab_map_grant_ref, ref)" => offset_of!(grant::MapGrantRef, reference),
        "offsetof(struct gnttab_map_grant_ref, status)" => offset_of!(grant::MapGrantRef, status),
        "offsetof(struct gnttab_map_grant_ref, handle)" => offset_of!(grant::MapGrantRef, handle),
        "offsetof(struct gnttab_map_grant_ref, dev_bus_addr)" => offset_of!(grant::MapGrantRef, dev_bus_addr),
        "sizeof(struct gnttab_unmap_grant_ref)" => size_of::<grant::UnmapGrantRef>(),
        "offsetof(struct gnttab_unmap_grant_ref, status)" => offset_of!(grant::UnmapGrantRef, status),
        "sizeof(struct gnttab_setup_table)" => size_of::<grant::SetupTable>(),
        "offsetof(struct gnttab_setup_table, status)" => offset_of!(grant::SetupTable, status),
        "offsetof(struct gnttab_setup_table, frame_list)" => offset_of!(grant::SetupTable, frame_list),
        "sizeof(struct gnttab_query_size)" => size_of::<grant::QuerySize>(),
        "offsetof(struct gnttab_query_size, max_nr_frames)" => offset_of!(grant::QuerySize, max_nr_frames),
        "offsetof(struct gnttab_query_size, status)" => offset_of!(grant::QuerySize, status),
        "sizeof(struct gnttab_set_version)" => size_of::<grant::SetVersion>(),
        "sizeof(struct gnttab_copy)" => size_of::<grant::GrantCopy>(),
        "offsetof(struct gnttab_copy, source.domid)" => offset_of!(grant::CopyEnd, domid),
        "offsetof(struct gnttab_copy, source.offset)" => offset_of!(grant::CopyEnd, offset),
        "offsetof(struct gnttab_copy, dest)" => offset_of!(grant::GrantCopy, dest),
        "offsetof(struct gnttab_copy, len)" => offset_of!(grant::GrantCopy, len),
        "offsetof(struct gnttab_copy, status)" => offset_of!(grant::GrantCopy, status),
        "GNTCOPY_source_gref" => grant::COPY_SOURCE_GREF,
        "GNTCOPY_dest_gref" => grant::COPY_DEST_GREF,
        "GNTMAP_device_map" => grant::MAP_DEVICE,
        "GNTMAP_host_map" => grant::MAP_HOST,
        "GNTMAP_readonly" => grant::MAP_READONLY,
        "GNTST_okay" => grant::STATUS_OKAY,
        "GNTST_general_error" => grant::STATUS_GENERAL_ERROR,
        "GNTST_bad_domain" => grant::STATUS_BAD_DOMAIN,
        "GNTST_bad_gntref" => grant::STATUS_BAD_GNTREF,
        "GNTST_bad_handle" => grant::STATUS_BAD_HANDLE,
        "GNTST_bad_virt_addr" => grant::STATUS_BAD_VIRT_ADDR,
        "GNTST_bad_dev_addr" => grant::STATUS_BAD_DEV_ADDR,
        "GNTST_no_device_space" => grant::STATUS_NO_DEVICE_SPACE,
        "GNTST_permission_denied" => grant::STATUS_PERMISSION_DENIED,
        "GNTST_bad_page" => grant::STATUS_BAD_PAGE,
        "GNTST_bad_copy_arg" => grant::STATUS_BAD_COPY_ARG,
        "GNTST_address_too_big" => grant::STATUS_ADDRESS_TOO_BIG,
        "GNTST_eagain" => grant::STATUS_EAGAIN,
        "GNTST_no_space" => grant::STATUS_NO_SPACE,

        "sizeof(struct netif_tx_request)" => size_of::<netif::TxRequest>(),
        "offsetof(struct netif_tx_request, offset)" => offset_of!(netif::TxRequest, offset),
        "offsetof(struct netif_tx_request, flags)" => offset_of!(netif::TxRequest, flags),
        "offsetof(struct netif_tx_request, id)" => offset_of!(netif::TxRequest, id),
        "offsetof(struct netif_tx_request, size)" => offset_of!(netif::TxRequest, size),
        "sizeof(struct netif_tx_response)" => size_of::<netif::TxResponse>(),
        "offsetof(struct netif_tx_response, status)" => offset_of!(netif::TxResponse, status),
        "sizeof(struct netif_rx_request)" => size_of::<netif::RxRequest>(),
        "offsetof(struct netif_rx_request, gref)" => offset_of!(netif::RxRequest, gref),
        "sizeof(struct netif_rx_response)" => size_of::<netif::RxResponse>(),
        "offsetof(struct netif_rx_response, offset)" => offset_of!(netif::RxResponse, offset),
        "offsetof(struct netif_rx_response, flags)" => offset_of!(netif::RxResponse, flags),
        "offsetof(struct netif_rx_response, status)" => offset_of!(netif::RxResponse, status),
        "sizeof(struct netif_extra_info)" => size_of::<netif::RawExtra>(),
        "offsetof(struct netif_extra_info, flags)" => offset_of!(netif::RawExtra, flags),
        "offsetof(struct netif_extra_info, u)" => offset_of!(netif::RawExtra, data),
        "offsetof(struct netif_extra_info, u.gso.size)" => offset_of!(netif::RawExtra, data),
        "offsetof(struct netif_extra_info, u.gso.type)" => offset_of!(netif::RawExtra, data) + 2,
        "offsetof(struct netif_extra_info, u.hash.algorithm)" => offset_of!(netif::RawExtra, data) + 1,
        "offsetof(struct netif_extra_info, u.hash.value)" => offset_of!(netif::RawExtra, data) + 2,
        "sizeof(struct xen_netif_ctrl_request)" => size_of::<netif::CtrlRequest>(),
        "offsetof(struct xen_netif_ctrl_request, data)" => offset_of!(netif::CtrlRequest, data),
        "sizeof(struct xen_netif_ctrl_response)" => size_of::<netif::CtrlResponse>(),
        "offsetof(struct xen_netif_ctrl_response, status)" => offset_of!(netif::CtrlResponse, status),
        "offsetof(struct xen_netif_ctrl_response, data)" => offset_of!(netif::CtrlResponse, data),
        "sizeof(union netif_tx_sring_entry)" => netif::Tx::SLOT_SIZE,
        "sizeof(union netif_rx_sring_entry)" => netif::Rx::SLOT_SIZE,
        "__CONST_RING_SIZE(netif_tx, 4096)" => netif::Tx::slots(4096),
        "__CONST_RING_SIZE(netif_rx, 4096)" => netif::Rx::slots(4096),
        "XEN_NETIF_NR_SLOTS_MIN" => netif::SLOTS_PER_PACKET,
        "XEN_NETIF_MAX_TX_SIZE" => netif::MAX_TX_SIZE,
        "NETTXF_csum_blank" => netif::TxFlags::CSUM_BLANK.bits(),
        "NETTXF_data_validated" => netif::TxFlags::DATA_VALIDATED.bits(),
        "NETTXF_more_data" => netif::TxFlags::MORE_DATA.bits(),
        "NETTXF_extra_info" => netif::TxFlags::EXTRA_INFO.bits(),
        "NETRXF_data_validated" => netif::RxFlags::DATA_VALIDATED.bits(),
        "NETRXF_csum_blank" => netif::RxFlags::CSUM_BLANK.bits(),
        "NETRXF_more_data" => netif::RxFlags::MORE_DATA.bits(),
        "NETRXF_extra_info" => netif::RxFlags::EXTRA_INFO.bits(),
        "NETRXF_gso_prefix" => netif::RxFlags::GSO_PREFIX.bits(),
        "XEN_NETIF_EXTRA_TYPE_GSO" => netif::EXTRA_GSO,
        "XEN_NETIF_EXTRA_TYPE_MCAST_ADD" => netif::EXTRA_MCAST_ADD,
        "XEN_NETIF_EXTRA_TYPE_MCAST_DEL" => netif::EXTRA_MCAST_DEL,
        "XEN_NETIF_EXTRA_TYPE_HASH" => netif::EXTRA_HASH,
        "XEN_NETIF_EXTRA_FLAG_MORE" => netif::EXTRA_FLAG_MORE,
        "XEN_NETIF_GSO_TYPE_TCPV4" => netif::GSO_TCPV4,
        "XEN_NETIF_GSO_TYPE_TCPV6" => netif::GSO_TCPV6,
        "NETIF_RSP_DROPPED" => netif::RSP_DROPPED,
        "NETIF_RSP_ERROR" => netif::RSP_ERROR,
        "NETIF_RSP_OKAY" => netif::RSP_OKAY,
        "NETIF_RSP_NULL" => netif::RSP_NULL,
        "XEN_NETIF_CTRL_HASH_TYPE_IPV4" => netif::HashTypes::IPV4.bits(),
        "XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP" => netif::HashTypes::IPV4_TCP.bits(),
        "XEN_NETIF_CTRL_HASH_TYPE_IPV6" => netif::HashTypes::IPV6.bits(),
        "XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP" => netif::HashTypes::IPV6_TCP.bits(),
        "XEN_NETIF_CTRL_HASH_ALGORITHM_NONE" => netif::HASH_NONE,
        "XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ" => netif::HASH_TOEPLITZ,
        "XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS" => netif::CTRL_GET_HASH_FLAGS,
        "XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS" => netif::CTRL_SET_HASH_FLAGS,
        "XEN_NETIF_CTRL_TYPE_SET_HASH_KEY" => netif::CTRL_SET_HASH_KEY,
        "XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE" => netif::CTRL_GET_HASH_MAPPING_SIZE,
        "XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE" => netif::CTRL_SET_HASH_MAPPING_SIZE,
        "XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING" => netif::CTRL_SET_HASH_MAPPING,
        "XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM" => netif::CTRL_SET_HASH_ALGORITHM,
        "XEN_NETIF_CTRL_STATUS_SUCCESS" => ctrl_number(netif::CtrlStatus::Success),
        "XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED" => ctrl_number(netif::CtrlStatus::NotSupported),
        "XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER" => ctrl_number(netif::CtrlStatus::InvalidParameter),
        "XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW" => ctrl_number(netif::CtrlStatus::BufferOverflow),

        "sizeof(struct blkif_request)" => size_of::<blkif::RwLayout>(),
        "offsetof(struct blkif_request, nr_segments)" => offset_of!(blkif::RwLayout, segment_count),
        "offsetof(struct blkif_request, handle)" => offset_of!(blkif::RwLayout, handle),
        "offsetof(struct blkif_request, id)" => offset_of!(blkif::RwLayout, id),
        "offsetof(struct blkif_request, sector_number)" => offset_of!(blkif::RwLayout, sector),
        "offsetof(struct blkif_request, seg)" => offset_of!(blkif::RwLayout, segments),
        "sizeof(struct blkif_request_segment)" => size_of::<blkif::RawSegment>(),
        "offsetof(struct blkif_request_segment, first_sect)" => offset_of!(blkif::RawSegment, first_sector),
        "offsetof(struct blkif_request_segment, last_sect)" => offset_of!(blkif::RawSegment, last_sector),
        "offsetof(struct blkif_request_discard, flag)" => offset_of!(blkif::DiscardLayout, flag),
        "offsetof(struct blkif_request_discard, sector_number)" => offset_of!(blkif::DiscardLayout, sector),
        "offsetof(struct blkif_request_discard, nr_sectors)" => offset_of!(blkif::DiscardLayout, sector_count),
        "offsetof(struct blkif_request_indirect, indirect_op)" =>
            offset_of!(blkif::IndirectLayout, indirect_operation),
        "offsetof(struct blkif_request_indirect, nr_segments)" => offset_of!(blkif::IndirectLayout, segment_count),
        "offsetof(struct blkif_request_indirect, id)" => offset_of!(blkif::IndirectLayout, id),
        "offsetof(struct blkif_request_indirect, sector_number)" => offset_of!(blkif::IndirectLayout, sector),
        "offsetof(struct blkif_request_indirect, handle)" => offset_of!(blkif::IndirectLayout, handle),
        "offsetof(struct blkif_request_indirect, indirect_grefs)" => offset_of!(blkif::IndirectLayout, pages),
        "sizeof(struct blkif_response)" => size_of::<blkif::RawResponse>(),
        "offsetof(struct blkif_response, operation)" => offset_of!(blkif::RawResponse, operation),
        "offsetof(struct blkif_response, status)" => offset_of!(blkif::RawResponse, status),
        "BLKIF_MAX_SEGMENTS_PER_REQUEST" => blkif::MAX_SEGMENTS,
        "BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST" => blkif::MAX_INDIRECT_PAGES,
        "BLKIF_OP_READ" => blkif::OP_READ,
        "BLKIF_OP_WRITE" => blkif::OP_WRITE,
        "BLKIF_OP_WRITE_BARRIER" => blkif::OP_WRITE_BARRIER,
        "BLKIF_OP_FLUSH_DISKCACHE" => blkif::OP_FLUSH,
        "BLKIF_OP_DISCARD" => blkif::OP_DISCARD,
        "BLKIF_OP_INDIRECT" => blkif::OP_INDIRECT,
        "BLKIF_DISCARD_SECURE" => blkif::DISCARD_SECURE,
        "BLKIF_RSP_OKAY" => blkif::RSP_OKAY,
        "BLKIF_RSP_ERROR" => blkif::RSP_ERROR,
        "BLKIF_RSP_EOPNOTSUPP" => blkif::RSP_EOPNOTSUPP,
        "VDISK_CDROM" => blkif::VdiskInfo::CDROM.bits(),
        "VDISK_REMOVABLE" => blkif::VdiskInfo::REMOVABLE.bits(),
        "VDISK_READONLY" => blkif::VdiskInfo::READ_ONLY.bits(),
        "offsetof(struct blkif_sring, req_prod)" => xen_abi::ring::REQ_PROD,
        "offsetof(struct blkif_sring, req_event)" => xen_abi::ring::REQ_EVENT,
        "offsetof(struct blkif_sring, rsp_prod)" => xen_abi::ring::RSP_PROD,
        "offsetof(struct blkif_sring, rsp_event)" => xen_abi::ring::RSP_EVENT,
        "offsetof(struct blkif_sring, ring)" => xen_abi::ring::SLOTS,
        "sizeof(union blkif_sring_entry)" => <blkif::Blkif as RingProtocol>::SLOT_SIZE,
        "__CONST_RING_SIZE(blkif, 4096)" => <blkif::Blkif as RingProtocol>::slots(4096),
        "__CONST_RING_SIZE(blkif, 65536)" => <blkif::Blkif as RingProtocol>::slots(65536),

        "XenbusStateUnknown" => xenbus::XenbusState::Unknown,
        "XenbusStateInitialising" => xenbus::XenbusState::Initialising,
        "XenbusStateInitWait" => xenbus::XenbusState::InitWait,
        "XenbusStateInitialised" => xenbus::XenbusState::Initialised,
        "XenbusStateConnected" => xenbus::XenbusState::Connected,
        "XenbusStateClosing" => xenbus::XenbusState::Closing,
        "XenbusStateClosed" => xenbus::XenbusState::Closed,
        "XenbusStateReconfiguring" => xenbus::XenbusState::Reconfiguring,
        "XenbusStateReconfigured" => xenbus::XenbusState::Reconfigured,

        "sizeof(struct xsd_sockmsg)" => size_of::<xenstore::Header>(),
        "offsetof(struct xsd_sockmsg, req_id)" => offset_of!(xenstore::Header, req_id),
        "offsetof(struct xsd_sockmsg, tx_id)" => offset_of!(xenstore::Header, tx_id),
        "offsetof(struct xsd_sockmsg, len)" => offset_of!(xenstore::Header, len),
        "XENSTORE_PAYLOAD_MAX" => xenstore::PAYLOAD_MAX,
        "XENSTORE_ABS_PATH_MAX" => xenstore::ABS_PATH_MAX,
        "XENSTORE_REL_PATH_MAX" => xenstore::REL_PATH_MAX,
        "XENSTORE_RING_SIZE" => xenstore::ring::RING_SIZE,
        "offsetof(struct xenstore_domain_interface, req)" => xenstore::ring::OFFSET_REQ,
        "offsetof(struct xenstore_domain_interface, rsp)" => xenstore::ring::OFFSET_RSP,
        "offsetof(struct xenstore_domain_interface, req_cons)" => xenstore::ring::OFFSET_REQ_CONS,
        "offsetof(struct xenstore_domain_interface, req_prod)" => xenstore::ring::OFFSET_REQ_PROD,
        "offsetof(struct xenstore_domain_interface, rsp_cons)" => xenstore::ring::OFFSET_RSP_CONS,
        "offsetof(struct xenstore_domain_interface, rsp_prod)" => xenstore::ring::OFFSET_RSP_PROD,
        "offsetof(struct xenstore_domain_interface, server_features)" => xenstore::ring::OFFSET_SERVER_FEATURES,
        "offsetof(struct xenstore_domain_interface, connection)" => xenstore::ring::OFFSET_CONNECTION,
        "offsetof(struct xenstore_domain_interface, error)" => xenstore::ring::OFFSET_ERROR,
        "sizeof(struct xenstore_domain_interface)" => xenstore::ring::INTERFACE_SIZE,
        "XENSTORE_SERVER_FEATURE_RECONNECTION" => xenstore::ring::ServerFeatures::RECONNECTION.bits(),
        "XENSTORE_SERVER_FEATURE_ERROR" => xenstore::ring::ServerFeatures::ERROR.bits(),
        "XENSTORE_CONNECTED" => xenstore::ring::CONNECTED,
        "XENSTORE_RECONNECT" => xenstore::ring::RECONNECT,
        "XENSTORE_ERROR_COMM" => xenstore::ring::ERROR_COMM,
        "XENSTORE_ERROR_RINGIDX" => xenstore::ring::ERROR_RINGIDX,
        "XENSTORE_ERROR_PROTO" => xenstore::ring::ERROR_PROTO,
        "sizeof(xsd_errors) / sizeof(xsd_errors[0])" => xenstore::ERRORS.len(),
    ];
    let kinds = facts![
        "XS_CONTROL" => MessageType::Control.number(),
        "XS_DIRECTORY" => MessageType::Directory.number(),
        "XS_READ" => MessageType::Read.number(),
        "XS_GET_PERMS" => MessageType::GetPerms.number(),
        "XS_WATCH" => MessageType::Watch.number(),
        "XS_UNWATCH" => MessageType::Unwatch.number(),
        "XS_TRANSACTION_START" => MessageType::TransactionStart.number(),
        "XS_TRANSACTION_END" => MessageType::TransactionEnd.number(),
        "XS_INTRODUCE" => MessageType::Introduce.number(),
        "XS_RELEASE" => MessageType::Release.number(),
        "XS_GET_DOMAIN_PATH" => MessageType::GetDomainPath.number(),
        "XS_WRITE" => MessageType::Write.number(),
        "XS_MKDIR" => MessageType::Mkdir.number(),
        "XS_RM" => MessageType::Rm.number(),
        "XS_SET_PERMS" => MessageType::SetPerms.number(),
        "XS_WATCH_EVENT" => MessageType::WatchEvent.number(),
        "XS_ERROR" => MessageType::Error.number(),
        "XS_IS_DOMAIN_INTRODUCED" => MessageType::IsDomainIntroduced.number(),
        "XS_RESUME" => MessageType::Resume.number(),
        "XS_SET_TARGET" => MessageType::SetTarget.number(),
        "XS_RESET_WATCHES" => MessageType::ResetWatches.number(),
        "XS_DIRECTORY_PART" => MessageType::DirectoryPart.number(),
    ];
    all.extend(kinds);
    all
}

/// Compiles and runs a program that prints a line for each of `lines`; `name` tells apart what runs at the same time.
fn ask_c(name: &str, lines: &[String]) -> Vec<String> {
    let mut source = String::from(
        "#define __XEN_INTERFACE_VERSION__ 0x00040d00\n\
         #include <errno.h>\n#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n#include <string.h>\n\
         #include <xen/xen.h>\n#include <xen/version.h>\n#include <xen/memory.h>\n#include <xen/sched.h>\n\
         #include <xen/vcpu.h>\n#include <xen/event_channel.h>\n#include <xen/grant_table.h>\n\
         #include <xen/hvm/hvm_op.h>\n#include <xen/hvm/params.h>\n#include <xen/arch-x86/cpuid.h>\n\
         #include <xen/io/blkif.h>\n#include <xen/io/netif.h>\n#include <xen/io/xenbus.h>\n#include <xen/io/xs_wire.h>\n\
         #define PRINT(x) do { __int128 v = (__int128)(x); printf(\"%lld\\n\", (long long)v); } while (0)\n\
         enum { XEN_ERRNO_BEGIN_ = 0,\n\
         #define XEN_ERRNO(name, value) XEN_##name = value,\n\
         #include <xen/errno.h>\n\
         };\n\
         int main(void) {\n",
    );
    for line in lines {
        writeln!(source, "{line}").unwrap();
    }
    source.push_str("return 0; }\n");
    let dir = std::env::temp_dir().join(format!("xen-abi-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (c, program) = (dir.join("facts.c"), dir.join("facts"));
    std::fs::write(&c, source).unwrap();
    let built = Command::new("cc").arg("-w").arg("-o").arg(&program).arg(&c).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let ran = Command::new(&program).output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(ran.status.success());
    String::from_utf8(ran.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn available() -> bool {
    let headers = Path::new("/usr/include/xen/xen.h").exists();
    let compiler = Command::new("cc").arg("--version").output().is_ok();
    if !headers || !compiler || !cfg!(target_arch = "x86_64") {
        println!("skipped: needs an x86-64 host with Xen's public headers (libxen-dev) and a C compiler");
        return false;
    }
    true
}

#[test]
fn sizes_offsets_and_constants_are_xens() {
    if !available() {
        return;
    }
    let facts = facts();
    let lines: Vec<String> = facts.iter().map(|(c, _)| format!("PRINT({c});")).collect();
    let answers = ask_c("facts", &lines);
    assert_eq!(answers.len(), facts.len());
    let wrong: Vec<String> = facts
        .iter()
        .zip(&answers)
        .filter(|((_, ours), theirs)| theirs.parse::<i128>().unwrap() != *ours)
        .map(|((c, ours), theirs)| format!("{c} is {theirs}, not {ours}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{} facts compared", facts.len());
}

#[test]
fn error_numbers_and_names_are_xens() {
    if !available() {
        return;
    }
    let ours: Vec<Errno> = (1..200).map(Errno).filter(|errno| errno.name().is_some()).collect();
    assert!(ours.len() > 40);
    let lines: Vec<String> = ours.iter().map(|errno| format!("PRINT(XEN_{errno});")).collect();
    for (errno, answer) in ours.iter().zip(ask_c("errno", &lines)) {
        assert_eq!(answer, errno.0.to_string(), "{errno}");
    }
    let lines: Vec<String> =
        (0..xenstore::ERRORS.len()).map(|index| format!("printf(\"%s\\n\", xsd_errors[{index}].errstring);")).collect();
    for (errno, answer) in xenstore::ERRORS.iter().zip(ask_c("names", &lines)) {
        assert_eq!(errno.name(), Some(answer.as_str()));
    }
}
