//! Receive side scaling: capabilities and parameters.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddndis/ns-ntddndis-_ndis_receive_scale_parameters>
//! and its neighbours.

use super::ObjectHeader;

/// NDIS_RECEIVE_SCALE_CAPABILITIES, revision 2.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct ReceiveScaleCapabilities {
    pub header: ObjectHeader,
    /// [`caps`], and `NdisHashFunctionToeplitz`.
    pub flags: u32,
    pub number_of_interrupt_messages: u32,
    pub number_of_receive_queues: u32,
    pub number_of_indirection_table_entries: u16,
}

/// Bytes of [`ReceiveScaleCapabilities`] that count.
pub const CAPABILITIES_SIZE: usize = 0x12;

/// Flags of the capabilities, `NDIS_RSS_CAPS_`.
#[expect(missing_docs, reason = "Windows' names")]
pub mod caps {
    pub const HASH_TYPE_TCP_IPV4: u32 = 0x0100;
    pub const HASH_TYPE_TCP_IPV6: u32 = 0x0200;
    pub const MESSAGE_SIGNALED_INTERRUPTS: u32 = 0x0100_0000;
    pub const CLASSIFICATION_AT_ISR: u32 = 0x0200_0000;
    pub const CLASSIFICATION_AT_DPC: u32 = 0x0400_0000;
}

/// Hash functions and types, `NDIS_HASH_`.
#[expect(missing_docs, reason = "Windows' names")]
pub mod hash {
    pub const FUNCTION_MASK: u32 = 0x0000_00ff;
    pub const TYPE_MASK: u32 = 0x00ff_ff00;
    pub const FUNCTION_TOEPLITZ: u32 = 0x01;
    pub const IPV4: u32 = 0x0100;
    pub const TCP_IPV4: u32 = 0x0200;
    pub const IPV6: u32 = 0x0400;
    pub const TCP_IPV6: u32 = 0x1000;
}

/// NDIS_RECEIVE_SCALE_PARAMETERS, revision 2: its indirection table is of PROCESSOR_NUMBERs.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[expect(missing_docs, reason = "Windows' names")]
pub struct ReceiveScaleParameters {
    pub header: ObjectHeader,
    /// [`param_flag`].
    pub flags: u16,
    pub base_cpu_number: u16,
    pub hash_information: u32,
    pub indirection_table_size: u16,
    pub padding1: u16,
    pub indirection_table_offset: u32,
    pub hash_secret_key_size: u16,
    pub padding2: u16,
    pub hash_secret_key_offset: u32,
    pub processor_masks_offset: u32,
    pub number_of_processor_masks: u32,
    pub processor_masks_entry_size: u32,
}

/// Flags of the parameters, `NDIS_RSS_PARAM_FLAG_`.
#[expect(missing_docs, reason = "Windows' names")]
pub mod param_flag {
    pub const BASE_CPU_UNCHANGED: u16 = 0x01;
    pub const HASH_INFO_UNCHANGED: u16 = 0x02;
    pub const ITABLE_UNCHANGED: u16 = 0x04;
    pub const HASH_KEY_UNCHANGED: u16 = 0x08;
    pub const DISABLE_RSS: u16 = 0x10;
}

/// Most entries of the indirection table.
pub const TABLE_ENTRIES: usize = 128;
/// Bytes of the longest secret key.
pub const KEY_SIZE: usize = 40;

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(ReceiveScaleCapabilities, number_of_indirection_table_entries) + 2 == CAPABILITIES_SIZE);
};

const _: () = {
    use core::mem::offset_of;
    type P = ReceiveScaleParameters;
    assert!(size_of::<P>() == 0x28);
    assert!(offset_of!(P, hash_information) == 0x08);
    assert!(offset_of!(P, indirection_table_size) == 0x0c);
    assert!(offset_of!(P, indirection_table_offset) == 0x10);
    assert!(offset_of!(P, hash_secret_key_size) == 0x14);
    assert!(offset_of!(P, hash_secret_key_offset) == 0x18);
    assert!(offset_of!(P, processor_masks_offset) == 0x1c);
    assert!(offset_of!(P, processor_masks_entry_size) == 0x24);
};
