//! Resource lists: what a device asks for (`IO_RESOURCE_*`) and what it gets (`CM_*`), as bytes and as values.
//!
//! Sources: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_io_resource_descriptor>,
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_cm_partial_resource_descriptor>. The CM
//! structures are packed to 4 bytes, so a partial descriptor has 20.
use alloc::vec::Vec;

/// CmResourceTypeNull: nothing.
pub const TYPE_NULL: u8 = 0;
/// CmResourceTypePort.
pub const TYPE_PORT: u8 = 1;
/// CmResourceTypeInterrupt.
pub const TYPE_INTERRUPT: u8 = 2;
/// CmResourceTypeMemory.
pub const TYPE_MEMORY: u8 = 3;
/// CmResourceTypeDma.
pub const TYPE_DMA: u8 = 4;
/// CmResourceTypeBusNumber.
pub const TYPE_BUS_NUMBER: u8 = 6;
/// CmResourceTypeMemoryLarge.
pub const TYPE_MEMORY_LARGE: u8 = 7;
/// CmResourceTypeConfigData, and the first type that no arbiter looks at (CmResourceTypeNonArbitrated).
pub const TYPE_NON_ARBITRATED: u8 = 128;

/// IO_RESOURCE_PREFERRED.
pub const OPTION_PREFERRED: u8 = 1;
/// IO_RESOURCE_ALTERNATIVE: another choice for the descriptor before it.
pub const OPTION_ALTERNATIVE: u8 = 8;

/// CmResourceShareDeviceExclusive.
pub const SHARE_DEVICE_EXCLUSIVE: u8 = 1;
/// CmResourceShareShared.
pub const SHARE_SHARED: u8 = 3;

/// CM_RESOURCE_INTERRUPT_LATCHED; without it the interrupt is level-sensitive.
pub const INTERRUPT_LATCHED: u16 = 1;
/// CM_RESOURCE_INTERRUPT_MESSAGE.
pub const INTERRUPT_MESSAGE: u16 = 2;
/// CM_RESOURCE_INTERRUPT_POLICY_INCLUDED: the descriptor says which processors it wants.
pub const INTERRUPT_POLICY_INCLUDED: u16 = 4;
/// CM_RESOURCE_INTERRUPT_MESSAGE_TOKEN: the vector in a requirement for a message.
pub const MESSAGE_TOKEN: u32 = 0xFFFF_FFFE;
/// IrqPolicySpecifiedProcessors of `IRQ_DEVICE_POLICY`.
pub const POLICY_SPECIFIED_PROCESSORS: u16 = 4;
/// IrqPolicySpreadMessagesAcrossAllProcessors.
pub const POLICY_SPREAD_MESSAGES: u16 = 5;

/// CM_RESOURCE_PORT_IO.
pub const PORT_IO: u16 = 1;
/// CM_RESOURCE_PORT_16_BIT_DECODE.
pub const PORT_16_BIT_DECODE: u16 = 0x10;
/// CM_RESOURCE_MEMORY_READ_ONLY.
pub const MEMORY_READ_ONLY: u16 = 1;
/// CM_RESOURCE_MEMORY_PREFETCHABLE.
pub const MEMORY_PREFETCHABLE: u16 = 4;

/// `CM_PARTIAL_RESOURCE_DESCRIPTOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CmDescriptor {
    /// `CmResourceType*`.
    pub kind: u8,
    /// `CmResourceShare*`.
    pub share: u8,
    /// By type.
    pub flags: u16,
    /// By type.
    pub data: [u32; 4],
}

impl CmDescriptor {
    /// Ports or memory.
    pub fn range(kind: u8, share: u8, flags: u16, start: u64, length: u32) -> Self {
        Self { kind, share, flags, data: [start as u32, (start >> 32) as u32, length, 0] }
    }

    /// A line interrupt, or the translated form of a message.
    pub fn interrupt(share: u8, flags: u16, level: u16, group: u16, vector: u32, affinity: u64) -> Self {
        let first = u32::from(level) | u32::from(group) << 16;
        let data = [first, vector, affinity as u32, (affinity >> 32) as u32];
        Self { kind: TYPE_INTERRUPT, share, flags, data }
    }

    /// The raw form of message interrupts.
    pub fn messages(share: u8, flags: u16, group: u16, count: u16, vector: u32, affinity: u64) -> Self {
        let first = u32::from(group) | u32::from(count) << 16;
        let data = [first, vector, affinity as u32, (affinity >> 32) as u32];
        Self { kind: TYPE_INTERRUPT, share, flags, data }
    }

    /// Where a range starts.
    pub fn start(&self) -> u64 {
        u64::from(self.data[0]) | u64::from(self.data[1]) << 32
    }

    /// How long a range is.
    pub fn length(&self) -> u32 {
        self.data[2]
    }

    /// Level (translated) of an interrupt; group in the raw form of a message.
    pub fn level(&self) -> u16 {
        self.data[0] as u16
    }

    /// MessageCount in the raw form of a message; group otherwise.
    pub fn message_count(&self) -> u16 {
        (self.data[0] >> 16) as u16
    }

    /// Vector of an interrupt.
    pub fn vector(&self) -> u32 {
        self.data[1]
    }

    /// The same interrupt with another vector.
    #[must_use]
    pub fn with_vector(self, vector: u32) -> Self {
        let data = [self.data[0], vector, self.data[2], self.data[3]];
        Self { data, ..self }
    }

    /// Processors of an interrupt.
    pub fn affinity(&self) -> u64 {
        u64::from(self.data[2]) | u64::from(self.data[3]) << 32
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend([self.kind, self.share]);
        out.extend(self.flags.to_le_bytes());
        out.extend(self.data.iter().flat_map(|d| d.to_le_bytes()));
    }
}

/// `IO_RESOURCE_DESCRIPTOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct IoDescriptor {
    /// `IO_RESOURCE_*`.
    pub option: u8,
    /// `CmResourceType*`.
    pub kind: u8,
    /// `CmResourceShare*`.
    pub share: u8,
    spare1: u8,
    /// By type.
    pub flags: u16,
    spare2: u16,
    /// By type.
    pub data: [u32; 6],
}

const _: () = {
    assert!(size_of::<CmDescriptor>() == 20 && align_of::<CmDescriptor>() == 4);
    assert!(size_of::<IoDescriptor>() == 32 && core::mem::offset_of!(IoDescriptor, data) == 8);
};

impl IoDescriptor {
    /// Ports or memory anywhere from `minimum` to `maximum`, both included.
    pub fn range(kind: u8, share: u8, flags: u16, length: u32, alignment: u32, minimum: u64, maximum: u64) -> Self {
        let data = [length, alignment, minimum as u32, (minimum >> 32) as u32, maximum as u32, (maximum >> 32) as u32];
        Self { option: 0, kind, share, spare1: 0, flags, spare2: 0, data }
    }

    /// An interrupt between two vectors.
    pub fn interrupt(share: u8, flags: u16, minimum: u32, maximum: u32) -> Self {
        let data = [minimum, maximum, 0, 0, 0, 0];
        Self { option: 0, kind: TYPE_INTERRUPT, share, spare1: 0, flags, spare2: 0, data }
    }

    /// With another option.
    #[must_use]
    pub fn with_option(self, option: u8) -> Self {
        Self { option, ..self }
    }

    /// Length of a range.
    pub fn length(&self) -> u32 {
        self.data[0]
    }

    /// Alignment of a range.
    pub fn alignment(&self) -> u32 {
        self.data[1]
    }

    /// Lowest address of a range.
    pub fn minimum(&self) -> u64 {
        u64::from(self.data[2]) | u64::from(self.data[3]) << 32
    }

    /// Highest address of a range.
    pub fn maximum(&self) -> u64 {
        u64::from(self.data[4]) | u64::from(self.data[5]) << 32
    }

    /// MinimumVector and MaximumVector of an interrupt.
    pub fn vectors(&self) -> (u32, u32) {
        (self.data[0], self.data[1])
    }

    /// AffinityPolicy of an interrupt.
    pub fn affinity_policy(&self) -> u16 {
        self.data[2] as u16
    }

    /// TargetedProcessors of an interrupt.
    pub fn targeted_processors(&self) -> u64 {
        u64::from(self.data[4]) | u64::from(self.data[5]) << 32
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend([self.option, self.kind, self.share, 0]);
        out.extend(self.flags.to_le_bytes());
        out.extend([0, 0]);
        out.extend(self.data.iter().flat_map(|d| d.to_le_bytes()));
    }
}

/// `IO_RESOURCE_REQUIREMENTS_LIST` as a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// `INTERFACE_TYPE`; 5 is PCIBus.
    pub interface_type: u32,
    /// Number of the bus.
    pub bus_number: u32,
    /// Slot on the bus.
    pub slot_number: u32,
    /// Alternative lists, best first.
    pub lists: Vec<Vec<IoDescriptor>>,
}

const REQUIREMENTS_HEAD: usize = 32;
const LIST_HEAD: usize = 8;
const IO_DESCRIPTOR: usize = 32;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Requirements {
    /// Reads a list; None if its counts run past its size.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let size = u32_at(bytes, 0)? as usize;
        let bytes = bytes.get(..size)?;
        let count = u32_at(bytes, 28)?;
        let mut at = REQUIREMENTS_HEAD;
        let mut lists = Vec::new();
        for _ in 0..count {
            let descriptors = u32_at(bytes, at + 4)?;
            at += LIST_HEAD;
            let mut list = Vec::new();
            for _ in 0..descriptors {
                let raw = bytes.get(at..at + IO_DESCRIPTOR)?;
                let mut data = [0; 6];
                for (index, slot) in data.iter_mut().enumerate() {
                    *slot = u32_at(raw, 8 + 4 * index)?;
                }
                list.push(IoDescriptor {
                    option: raw[0],
                    kind: raw[1],
                    share: raw[2],
                    spare1: 0,
                    flags: u16_at(raw, 4)?,
                    spare2: 0,
                    data,
                });
                at += IO_DESCRIPTOR;
            }
            lists.push(list);
        }
        Some(Self {
            interface_type: u32_at(bytes, 4)?,
            bus_number: u32_at(bytes, 8)?,
            slot_number: u32_at(bytes, 12)?,
            lists,
        })
    }

    /// The bytes of the list. A list has room for one descriptor even when it has none.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for value in [0, self.interface_type, self.bus_number, self.slot_number, 0, 0, 0, self.lists.len() as u32] {
            out.extend(value.to_le_bytes());
        }
        for list in &self.lists {
            out.extend([1, 0, 1, 0]);
            out.extend((list.len() as u32).to_le_bytes());
            for descriptor in list {
                descriptor.write(&mut out);
            }
        }
        let least = REQUIREMENTS_HEAD + LIST_HEAD + IO_DESCRIPTOR;
        if out.len() < least {
            out.resize(least, 0);
        }
        let size = out.len() as u32;
        out[..4].copy_from_slice(&size.to_le_bytes());
        out
    }
}

/// `CM_RESOURCE_LIST` with one full descriptor, as bytes.
pub fn cm_resource_list(interface_type: u32, bus_number: u32, descriptors: &[CmDescriptor]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in [1, interface_type, bus_number] {
        out.extend(value.to_le_bytes());
    }
    out.extend([1, 0, 1, 0]);
    out.extend((descriptors.len() as u32).to_le_bytes());
    for descriptor in descriptors {
        descriptor.write(&mut out);
    }
    out
}

/// The descriptors of a `CM_RESOURCE_LIST` of `bytes.len()` bytes; None if its counts run past them.
pub fn parse_cm_resource_list(bytes: &[u8]) -> Option<Vec<CmDescriptor>> {
    let mut out = Vec::new();
    let mut at = 4;
    for _ in 0..u32_at(bytes, 0)? {
        let count = u32_at(bytes, at + 12)?;
        at += 16;
        for _ in 0..count {
            let raw = bytes.get(at..at + 20)?;
            let mut data = [0; 4];
            for (index, slot) in data.iter_mut().enumerate() {
                *slot = u32_at(raw, 4 + 4 * index)?;
            }
            out.push(CmDescriptor { kind: raw[0], share: raw[1], flags: u16_at(raw, 2)?, data });
            at += 20;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_come_back() {
        let list = Requirements {
            interface_type: 5,
            bus_number: 0,
            slot_number: 3,
            lists: alloc::vec![
                alloc::vec![
                    IoDescriptor::range(TYPE_MEMORY, 1, 0, 0x1000, 0x1000, 0, 0xffff_ffff),
                    IoDescriptor::interrupt(SHARE_SHARED, 0, 0, 0xff),
                ],
                Vec::new(),
            ],
        };
        let bytes = list.to_bytes();
        assert_eq!(bytes.len(), 32 + 8 + 64 + 8);
        assert_eq!(Requirements::parse(&bytes), Some(list));
        assert_eq!(Requirements::parse(&bytes[..40]), None);
    }

    #[test]
    fn a_count_past_the_end_is_refused() {
        let mut bytes = cm_resource_list(5, 0, &[CmDescriptor::range(TYPE_PORT, 1, 1, 0xc000, 0x100)]);
        assert_eq!(bytes.len(), 20 + 20);
        assert_eq!(parse_cm_resource_list(&bytes).unwrap()[0].start(), 0xc000);
        bytes[16] = 2;
        assert_eq!(parse_cm_resource_list(&bytes), None);
    }
}
