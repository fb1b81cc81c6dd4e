//! Hardware resources: what a device was assigned, and what more it asks for.

use alloc::vec::Vec;

use wdk_sys::{
    CM_FULL_RESOURCE_DESCRIPTOR, CM_PARTIAL_RESOURCE_DESCRIPTOR, CM_PARTIAL_RESOURCE_LIST, CM_RESOURCE_LIST,
    IO_RESOURCE_DESCRIPTOR, IO_RESOURCE_LIST, IO_RESOURCE_REQUIREMENTS_LIST, ntddk,
};

use crate::{
    cpu::Processor,
    irp::Irp,
    memory::{try_push, try_vec},
    pnp::answer_memory,
    status::{Result, Status},
};

/// `CmResourceTypePort`.
const TYPE_PORT: u8 = 1;
/// `CmResourceTypeInterrupt`.
const TYPE_INTERRUPT: u8 = 2;
/// `CmResourceTypeMemory`.
const TYPE_MEMORY: u8 = 3;
/// `CmResourceTypeDeviceSpecific`: its data follows the descriptor.
const TYPE_DEVICE_SPECIFIC: u8 = 5;
/// `CM_RESOURCE_INTERRUPT_LATCHED`.
const INTERRUPT_LATCHED: u16 = 1;
/// `CM_RESOURCE_INTERRUPT_MESSAGE`.
const INTERRUPT_MESSAGE: u16 = 2;
/// `CM_RESOURCE_INTERRUPT_POLICY_INCLUDED`.
const INTERRUPT_POLICY_INCLUDED: u16 = 4;
/// `CM_RESOURCE_INTERRUPT_MESSAGE_TOKEN`: any vector, delivered as a message.
const INTERRUPT_MESSAGE_TOKEN: u32 = 0xFFFF_FFFE;
/// `CmResourceShareDeviceExclusive`.
const SHARE_DEVICE_EXCLUSIVE: u8 = 1;
/// `CmResourceShareShared`.
const SHARE_SHARED: u8 = 3;
/// `IrqPolicySpecifiedProcessors`.
const POLICY_SPECIFIED_PROCESSORS: u16 = 4;

/// An interrupt in translated form, ready to be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptResource {
    /// The vector in the interrupt descriptor table.
    pub vector: u32,
    /// The raw resource's vector: of a line, the global system interrupt.
    pub raw_vector: u32,
    /// The IRQL.
    pub irql: u8,
    /// The processor group.
    pub group: u16,
    /// The processors within the group that may take it.
    pub affinity: u64,
    /// Edge triggered, as messages are; else level.
    pub latched: bool,
    /// Other devices use the line too.
    pub shared: bool,
    /// Signalled by a message, not by a line.
    pub message: bool,
}

/// A translated resource that a device was assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Memory space.
    Memory {
        /// Physical address.
        start: u64,
        /// Length in bytes.
        length: u32,
    },
    /// Port space.
    Port {
        /// First port.
        start: u64,
        /// Number of ports.
        length: u32,
    },
    /// An interrupt.
    Interrupt(InterruptResource),
}

/// The interrupt member of a translated CM_PARTIAL_RESOURCE_DESCRIPTOR, line or message, on a system with processor
/// groups: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_cm_partial_resource_descriptor>
#[repr(C, packed(4))]
#[derive(Clone, Copy)]
struct AssignedInterrupt {
    level: u16,
    group: u16,
    vector: u32,
    affinity: u64,
}

/// The memory and port members: a physical address and a length.
#[repr(C, packed(4))]
#[derive(Clone, Copy)]
struct AssignedRange {
    start: u64,
    length: u32,
}

/// The interrupt member of an IO_RESOURCE_DESCRIPTOR on a system with processor groups:
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_io_resource_descriptor>
#[repr(C)]
struct RequestedInterrupt {
    minimum_vector: u32,
    maximum_vector: u32,
    affinity_policy: u16,
    group: u16,
    priority_policy: u32,
    targeted_processors: u64,
}

const _: () = {
    assert!(size_of::<AssignedInterrupt>() == 16);
    assert!(size_of::<RequestedInterrupt>() == 24);
    assert!(core::mem::offset_of!(CM_PARTIAL_RESOURCE_DESCRIPTOR, u) == 4);
    assert!(size_of::<CM_PARTIAL_RESOURCE_DESCRIPTOR>() == 20);
    assert!(core::mem::offset_of!(IO_RESOURCE_DESCRIPTOR, u) == 8);
    assert!(size_of::<IO_RESOURCE_DESCRIPTOR>() == 32);
};

/// The translated resources of an IRP_MN_START_DEVICE, in their order.
///
/// # Errors
/// [`Status::INSUFFICIENT_RESOURCES`]; [`Status::DEVICE_CONFIGURATION_ERROR`] where the raw list is not its like.
pub fn assigned(irp: &Irp) -> Result<Vec<Resource>> {
    // SAFETY: the caller handles IRP_MN_START_DEVICE, so these members are valid, and lists from the PnP manager.
    let (raw, mut found) = unsafe {
        let parameters = &irp.stack().Parameters.StartDevice;
        (read_list(parameters.AllocatedResources)?, read_list(parameters.AllocatedResourcesTranslated)?)
    };
    if raw.len() != found.len() {
        return Err(Status::DEVICE_CONFIGURATION_ERROR);
    }
    for (translated, raw) in found.iter_mut().zip(raw) {
        if let (Resource::Interrupt(translated), Resource::Interrupt(raw)) = (translated, raw) {
            translated.raw_vector = raw.vector;
        }
    }
    Ok(found)
}

/// Everything in a list.
///
/// # Safety
/// `list` is null or a list from the PnP manager.
unsafe fn read_list(list: *const CM_RESOURCE_LIST) -> Result<Vec<Resource>> {
    let mut found = try_vec(8)?;
    if list.is_null() {
        return Ok(found);
    }
    // SAFETY: every step below stays within the counts that the list states.
    unsafe {
        let mut full: *const CM_FULL_RESOURCE_DESCRIPTOR = (&raw const (*list).List).cast();
        for _ in 0..(*list).Count {
            let partial: *const CM_PARTIAL_RESOURCE_LIST = &raw const (*full).PartialResourceList;
            let mut next: *const CM_PARTIAL_RESOURCE_DESCRIPTOR = (&raw const (*partial).PartialDescriptors).cast();
            let count = (&raw const (*partial).Count).read_unaligned();
            for _ in 0..count {
                let extra = read_descriptor(next, &mut found)?;
                next = next.add(1).byte_add(extra);
            }
            full = next.cast();
        }
    }
    Ok(found)
}

/// Appends what one descriptor says; the result is the length of the data that follows it.
///
/// # Safety
/// `descriptor` points to a descriptor of a list from the PnP manager.
unsafe fn read_descriptor(
    descriptor: *const CM_PARTIAL_RESOURCE_DESCRIPTOR,
    found: &mut Vec<Resource>,
) -> Result<usize> {
    // SAFETY: by contract; the type says which member of the union is valid, and all reads stay within its 16 bytes.
    unsafe {
        let kind = (&raw const (*descriptor).Type).read();
        let share = (&raw const (*descriptor).ShareDisposition).read();
        let flags = (&raw const (*descriptor).Flags).read_unaligned();
        let member = (&raw const (*descriptor).u).cast::<u8>();
        match kind {
            TYPE_MEMORY | TYPE_PORT => {
                let AssignedRange { start, length } = member.cast::<AssignedRange>().read_unaligned();
                let range = if kind == TYPE_MEMORY {
                    Resource::Memory { start, length }
                } else {
                    Resource::Port { start, length }
                };
                try_push(found, range)?;
            }
            TYPE_INTERRUPT => {
                let interrupt = member.cast::<AssignedInterrupt>().read_unaligned();
                try_push(
                    found,
                    Resource::Interrupt(InterruptResource {
                        vector: interrupt.vector,
                        raw_vector: interrupt.vector,
                        irql: interrupt.level as u8,
                        group: interrupt.group,
                        affinity: interrupt.affinity,
                        latched: flags & INTERRUPT_LATCHED != 0,
                        shared: share == SHARE_SHARED,
                        message: flags & INTERRUPT_MESSAGE != 0,
                    }),
                )?;
            }
            TYPE_DEVICE_SPECIFIC => return Ok(member.cast::<u32>().read_unaligned() as usize),
            _ => {}
        }
    }
    Ok(0)
}

/// Handles an IRP_MN_FILTER_RESOURCE_REQUIREMENTS, on its way up: adds one message interrupt for each of `processors`
/// to every alternative, and sends the device's line interrupt to the first of them. `Information` points to the new
/// list afterwards, which the PnP manager frees.
///
/// # Errors
/// [`Status::NOT_SUPPORTED`]: the device has no requirements; [`Status::INSUFFICIENT_RESOURCES`]. The IRP is unchanged
/// then.
pub fn add_message_interrupts(irp: &mut Irp, processors: &[Processor]) -> Result {
    let filtered = irp.information() as *mut IO_RESOURCE_REQUIREMENTS_LIST;
    // SAFETY: the caller handles IRP_MN_FILTER_RESOURCE_REQUIREMENTS, so this member is valid.
    let original = unsafe { irp.stack().Parameters.FilterResourceRequirements.IoResourceRequirementList };
    let old = if filtered.is_null() { original } else { filtered };
    if old.is_null() {
        return Err(Status::NOT_SUPPORTED);
    }
    let head = core::mem::offset_of!(IO_RESOURCE_REQUIREMENTS_LIST, List);
    let list_head = core::mem::offset_of!(IO_RESOURCE_LIST, Descriptors);
    let descriptor = size_of::<IO_RESOURCE_DESCRIPTOR>();
    // SAFETY: the PnP manager's list, or a driver's below that stands for it; all steps stay within its counts. The new
    // list has room for every old descriptor and `processors.len()` more in each alternative.
    unsafe {
        let alternatives = (*old).AlternativeLists as usize;
        let bytes = (*old).ListSize as usize + alternatives * processors.len() * descriptor;
        let new = answer_memory(bytes)?.cast::<IO_RESOURCE_REQUIREMENTS_LIST>();
        core::ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast::<u8>(), head);
        let mut from = old.cast::<u8>().add(head);
        let mut to = new.cast::<u8>().add(head);
        for _ in 0..alternatives {
            let count = (*from.cast::<IO_RESOURCE_LIST>()).Count as usize;
            let length = list_head + count * descriptor;
            core::ptr::copy_nonoverlapping(from, to, length);
            (*to.cast::<IO_RESOURCE_LIST>()).Count = (count + processors.len()) as u32;
            if let Some(&first) = processors.first() {
                let copied = to.add(list_head).cast::<IO_RESOURCE_DESCRIPTOR>();
                for line in core::slice::from_raw_parts_mut(copied, count) {
                    target_line(line, first);
                }
            }
            from = from.add(length);
            to = to.add(length);
            for processor in processors {
                to.cast::<IO_RESOURCE_DESCRIPTOR>().write(message_interrupt(*processor));
                to = to.add(descriptor);
            }
        }
        (*new).ListSize = to.offset_from(new.cast::<u8>()) as u32;
        if !filtered.is_null() {
            // Whoever replaces the list that Information points to frees it.
            ntddk::ExFreePool(filtered.cast());
        }
        irp.set_information(new as usize);
    }
    Ok(())
}

/// Has a line interrupt be taken by `processor` alone; leaves other descriptors as they are.
fn target_line(descriptor: &mut IO_RESOURCE_DESCRIPTOR, processor: Processor) {
    if descriptor.Type != TYPE_INTERRUPT || descriptor.Flags & INTERRUPT_MESSAGE != 0 {
        return;
    }
    descriptor.Flags |= INTERRUPT_POLICY_INCLUDED;
    // SAFETY: the type says that this member is valid; size and offset are asserted above.
    unsafe {
        let interrupt = &mut *(&raw mut descriptor.u).cast::<RequestedInterrupt>();
        interrupt.affinity_policy = POLICY_SPECIFIED_PROCESSORS;
        interrupt.group = processor.group;
        interrupt.targeted_processors = processor.mask;
    }
}

/// One message interrupt that only `processor` takes.
fn message_interrupt(processor: Processor) -> IO_RESOURCE_DESCRIPTOR {
    let mut descriptor = IO_RESOURCE_DESCRIPTOR {
        Type: TYPE_INTERRUPT,
        ShareDisposition: SHARE_DEVICE_EXCLUSIVE,
        Flags: INTERRUPT_LATCHED | INTERRUPT_MESSAGE | INTERRUPT_POLICY_INCLUDED,
        ..Default::default()
    };
    let interrupt = RequestedInterrupt {
        minimum_vector: INTERRUPT_MESSAGE_TOKEN,
        maximum_vector: INTERRUPT_MESSAGE_TOKEN,
        affinity_policy: POLICY_SPECIFIED_PROCESSORS,
        group: processor.group,
        priority_policy: 0,
        targeted_processors: processor.mask,
    };
    // SAFETY: the union has 24 bytes at an offset that suits the structure, as asserted above.
    unsafe { (&raw mut descriptor.u).cast::<RequestedInterrupt>().write(interrupt) }
    descriptor
}
