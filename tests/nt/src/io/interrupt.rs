//! Connecting interrupts.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_io_connect_interrupt_parameters>
use super::abi::*;
use super::kernel::{pool_alloc, pool_free};
use super::status::*;
use crate::ke::interrupt::{Connection, Interrupt, MessageRoutine, Service, ServiceRoutine, connect, disconnect};
use crate::platform::platform;
use crate::pnp::resource::{CmDescriptor, INTERRUPT_LATCHED, INTERRUPT_MESSAGE, TYPE_INTERRUPT};
use crate::pnp::{self, with, with_node};
use alloc::vec::Vec;
use core::ffi::c_void;
use core::mem::{offset_of, size_of};
use core::ptr;

const CONNECT_FULLY_SPECIFIED: u32 = 1;
const CONNECT_LINE_BASED: u32 = 2;
const CONNECT_MESSAGE_BASED: u32 = 3;
const CONNECT_FULLY_SPECIFIED_GROUP: u32 = 4;
const CONNECT_MESSAGE_BASED_PASSIVE: u32 = 5;
const TAG: u32 = u32::from_le_bytes(*b"IoIn");

/// `IO_CONNECT_INTERRUPT_FULLY_SPECIFIED_PARAMETERS`, behind `Version`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FullySpecified {
    pdo: *mut DeviceObject,
    interrupt: *mut *mut Interrupt,
    routine: ServiceRoutine,
    context: *mut c_void,
    lock: *mut usize,
    synchronize_irql: u8,
    floating_save: u8,
    share: u8,
    vector: u32,
    irql: u8,
    mode: i32,
    processors: u64,
    group: u16,
}

/// `IO_CONNECT_INTERRUPT_LINE_BASED_PARAMETERS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LineBased {
    pdo: *mut DeviceObject,
    interrupt: *mut *mut Interrupt,
    routine: ServiceRoutine,
    context: *mut c_void,
    lock: *mut usize,
    synchronize_irql: u8,
    floating_save: u8,
}

/// `IO_CONNECT_INTERRUPT_MESSAGE_BASED_PARAMETERS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MessageBased {
    pdo: *mut DeviceObject,
    context_out: *mut *mut c_void,
    routine: MessageRoutine,
    context: *mut c_void,
    lock: *mut usize,
    synchronize_irql: u8,
    floating_save: u8,
    fallback: Option<ServiceRoutine>,
}

/// What the three have in common.
#[repr(C)]
pub union Variant {
    full: FullySpecified,
    line: LineBased,
    message: MessageBased,
}

/// `IO_CONNECT_INTERRUPT_PARAMETERS`.
#[repr(C)]
pub struct ConnectParameters {
    version: u32,
    variant: Variant,
}

/// `IO_DISCONNECT_INTERRUPT_PARAMETERS`.
#[repr(C)]
pub struct DisconnectParameters {
    version: u32,
    context: *mut c_void,
}

/// `IO_INTERRUPT_MESSAGE_INFO_ENTRY`.
#[repr(C)]
pub struct MessageEntry {
    address: u64,
    processors: u64,
    interrupt: *mut Interrupt,
    data: u32,
    vector: u32,
    irql: u8,
    mode: i32,
    polarity: i32,
}

/// `IO_INTERRUPT_MESSAGE_INFO`; the entries follow.
#[repr(C)]
pub struct MessageInfo {
    unified_irql: u8,
    count: u32,
    entries: [MessageEntry; 1],
}

const _: () = {
    assert!(size_of::<FullySpecified>() == 0x48 && offset_of!(FullySpecified, vector) == 0x2c);
    assert!(offset_of!(FullySpecified, mode) == 0x34 && offset_of!(FullySpecified, processors) == 0x38);
    assert!(size_of::<ConnectParameters>() == 0x50 && offset_of!(ConnectParameters, variant) == 8);
    assert!(offset_of!(MessageBased, fallback) == 0x30);
    assert!(size_of::<MessageEntry>() == 0x30 && offset_of!(MessageEntry, vector) == 0x1c);
    assert!(size_of::<MessageInfo>() == 0x38 && offset_of!(MessageInfo, entries) == 8);
};

/// The interrupts among what a device was assigned: raw and translated.
fn assigned(pdo: *mut DeviceObject) -> Vec<(CmDescriptor, CmDescriptor)> {
    let Some(id) = pnp::node_of(pdo) else { return Vec::new() };
    let found = with_node(id, |n| n.assignment.clone()).unwrap_or_default();
    let pairs = found.raw.into_iter().zip(found.translated);
    pairs.filter(|(_, translated)| translated.kind == TYPE_INTERRUPT).collect()
}

/// The line that a vector belongs to, and the processor that takes it.
fn line_of(vector: u32, processors: u64) -> Option<(u32, u32)> {
    let line = with(|tree| tree.arbiter.line_of_vector(vector))?;
    Some((line, processors.trailing_zeros().min(63)))
}

unsafe fn connect_one(
    vector: u32,
    irql: u8,
    synchronize: u8,
    shared: bool,
    service: Service,
    context: *mut c_void,
    lock: *mut usize,
    processors: u64,
) -> Result<*mut Interrupt, NtStatus> {
    let Ok(number) = u8::try_from(vector) else { return Err(STATUS_INVALID_PARAMETER) };
    // SAFETY: the driver promises that its routine may be called.
    unsafe {
        connect(Connection {
            vector: number,
            irql,
            synchronize_irql: synchronize.max(irql),
            shared,
            service,
            context,
            lock,
            line: line_of(vector, processors),
        })
    }
}

unsafe fn line_based(p: &LineBased) -> NtStatus {
    let interrupts = assigned(p.pdo);
    let Some((_, found)) = interrupts.iter().find(|(_, t)| t.flags & INTERRUPT_MESSAGE == 0) else {
        return STATUS_NOT_FOUND;
    };
    let shared = found.share == pnp::resource::SHARE_SHARED;
    // SAFETY: the driver's parameters.
    unsafe {
        let service = Service::Line(p.routine);
        let (irql, affinity) = (found.level() as u8, found.affinity());
        match connect_one(found.vector(), irql, p.synchronize_irql, shared, service, p.context, p.lock, affinity) {
            Ok(interrupt) => {
                *p.interrupt = interrupt;
                STATUS_SUCCESS
            }
            Err(status) => status,
        }
    }
}

unsafe fn message_based(version: &mut u32, p: &MessageBased) -> NtStatus {
    let interrupts = assigned(p.pdo);
    let messages: Vec<&(CmDescriptor, CmDescriptor)> =
        interrupts.iter().filter(|(raw, _)| raw.flags & INTERRUPT_MESSAGE != 0).collect();
    if messages.is_empty() {
        // SAFETY: the driver's parameters.
        unsafe {
            let Some(fallback) = p.fallback else { return STATUS_NOT_FOUND };
            *version = CONNECT_LINE_BASED;
            return line_based(&LineBased {
                pdo: p.pdo,
                interrupt: p.context_out.cast(),
                routine: fallback,
                context: p.context,
                lock: p.lock,
                synchronize_irql: p.synchronize_irql,
                floating_save: p.floating_save,
            });
        }
    }
    let mut vectors = Vec::new();
    for (raw, translated) in &messages {
        for index in 0..u32::from(raw.message_count().max(1)) {
            vectors.push((translated.vector() + index, translated.affinity()));
        }
    }
    let unified = vectors.iter().map(|(v, _)| (v >> 4) as u8).max().unwrap_or(0).max(p.synchronize_irql);
    let size = offset_of!(MessageInfo, entries) + vectors.len() * size_of::<MessageEntry>();
    let info = pool_alloc(size.max(size_of::<MessageInfo>()), TAG).cast::<MessageInfo>();
    if info.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the block has room for all entries; the parameters are the driver's.
    unsafe {
        (*info).unified_irql = unified;
        let entries = (&raw mut (*info).entries).cast::<MessageEntry>();
        // All run at the unified IRQL. Without a lock of the driver's each message has one of its own.
        // <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_io_interrupt_message_info>
        for (index, (vector, processors)) in vectors.iter().enumerate() {
            let service = Service::Message(p.routine, index as u32);
            let irql = (vector >> 4) as u8;
            match connect_one(*vector, irql, unified, false, service, p.context, p.lock, *processors) {
                Ok(interrupt) => {
                    entries.add(index).write(MessageEntry {
                        address: platform().message_address(processors.trailing_zeros()),
                        processors: *processors,
                        interrupt,
                        data: *vector,
                        vector: *vector,
                        irql,
                        mode: 1,
                        polarity: 0,
                    });
                    (*info).count = index as u32 + 1;
                }
                Err(status) => {
                    release_messages(info);
                    return status;
                }
            }
        }
        *p.context_out = info.cast();
    }
    STATUS_SUCCESS
}

unsafe fn release_messages(info: *mut MessageInfo) {
    // SAFETY: the caller's table.
    unsafe {
        let entries = (&raw mut (*info).entries).cast::<MessageEntry>();
        for index in 0..(*info).count as usize {
            disconnect((*entries.add(index)).interrupt);
        }
    }
    pool_free(info.cast(), TAG);
}

/// Connects interrupt service routines. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The parameters are valid.
pub unsafe extern "win64" fn IoConnectInterruptEx(parameters: *mut ConnectParameters) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        match (*parameters).version {
            CONNECT_FULLY_SPECIFIED | CONNECT_FULLY_SPECIFIED_GROUP => {
                let p = (*parameters).variant.full;
                if (*parameters).version == CONNECT_FULLY_SPECIFIED_GROUP && p.group != 0 {
                    return STATUS_INVALID_PARAMETER;
                }
                // The vector has to be one that the device was given.
                let given = assigned(p.pdo).iter().any(|(raw, translated)| {
                    let count = if raw.flags & INTERRUPT_MESSAGE != 0 { raw.message_count().max(1) } else { 1 };
                    (translated.vector()..translated.vector() + u32::from(count)).contains(&p.vector)
                });
                if !given {
                    return STATUS_INVALID_PARAMETER;
                }
                let service = Service::Line(p.routine);
                let share = p.share != 0;
                let done =
                    connect_one(p.vector, p.irql, p.synchronize_irql, share, service, p.context, p.lock, p.processors);
                match done {
                    Ok(interrupt) => {
                        *p.interrupt = interrupt;
                        STATUS_SUCCESS
                    }
                    Err(status) => status,
                }
            }
            CONNECT_LINE_BASED => {
                let p = (*parameters).variant.line;
                line_based(&p)
            }
            CONNECT_MESSAGE_BASED | CONNECT_MESSAGE_BASED_PASSIVE => {
                let p = (*parameters).variant.message;
                message_based(&mut (*parameters).version, &p)
            }
            _ => {
                (*parameters).version = CONNECT_MESSAGE_BASED_PASSIVE;
                STATUS_NOT_SUPPORTED
            }
        }
    }
}

/// Disconnects. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The parameters are those of the connection.
pub unsafe extern "win64" fn IoDisconnectInterruptEx(parameters: *mut DisconnectParameters) {
    // SAFETY: per the contract.
    unsafe {
        let context = (*parameters).context;
        match (*parameters).version {
            CONNECT_MESSAGE_BASED | CONNECT_MESSAGE_BASED_PASSIVE => release_messages(context.cast()),
            _ => disconnect(context.cast()),
        }
    }
}

/// Connects an interrupt the old way. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoConnectInterrupt(
    interrupt: *mut *mut Interrupt,
    routine: ServiceRoutine,
    context: *mut c_void,
    lock: *mut usize,
    vector: u32,
    irql: u8,
    synchronize_irql: u8,
    _mode: i32,
    share: u8,
    processors: u64,
    _floating_save: u8,
) -> NtStatus {
    // SAFETY: per the contract.
    unsafe {
        *interrupt = ptr::null_mut();
        let (service, share) = (Service::Line(routine), share != 0);
        match connect_one(vector, irql, synchronize_irql, share, service, context, lock, processors) {
            Ok(connected) => {
                *interrupt = connected;
                STATUS_SUCCESS
            }
            Err(status) => status,
        }
    }
}

/// Disconnects. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The interrupt is connected.
pub unsafe extern "win64" fn IoDisconnectInterrupt(interrupt: *mut Interrupt) {
    // SAFETY: per the contract.
    unsafe { disconnect(interrupt) };
}

/// Tells the system that the device may interrupt again. IRQL <= DISPATCH_LEVEL. Connections are always active here.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn IoReportInterruptActive(_: *mut DisconnectParameters) {}

/// Tells the system that the device will not interrupt. As above.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn IoReportInterruptInactive(_: *mut DisconnectParameters) {}

/// What `InterruptMode` a descriptor means: 1 latched, 0 level.
pub fn mode_of(descriptor: &CmDescriptor) -> i32 {
    i32::from(descriptor.flags & INTERRUPT_LATCHED != 0)
}
