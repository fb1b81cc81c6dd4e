//! An adapter's interrupt: one line, or messages; connected when it starts.
//! <https://learn.microsoft.com/windows-hardware/drivers/storage/msi-support-in-storport>

use super::abi::*;
use super::adapter::Adapter;
use crate::ke::interrupt::{
    self, Connection, Interrupt, KeAcquireInterruptSpinLock, KeReleaseInterruptSpinLock, Service, connect, disconnect,
};
use crate::platform::platform;
use crate::pnp::resource::{CmDescriptor, INTERRUPT_LATCHED, INTERRUPT_MESSAGE, TYPE_INTERRUPT};
use crate::status::NtStatus;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::Ordering;

/// `INTERRUPT_SYNCHRONIZATION_MODE`.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/ne-storport-_interrupt_synchronization_mode>
const INTERRUPT_SUPPORT_NONE: u32 = 0;
/// Each message has a lock of its own; otherwise one is for all of them.
const INTERRUPT_SYNCHRONIZE_PER_MESSAGE: u32 = 2;

/// The connected interrupts of an adapter.
pub struct Interrupts {
    objects: Vec<*mut Interrupt>,
    descriptors: Vec<CmDescriptor>,
    shared_lock: Box<usize>,
    /// Each message has a lock of its own.
    own_locks: bool,
    /// The objects are messages.
    pub messages: bool,
}

/// Connects what the adapter was given: its messages if it has a routine for them, else its line.
///
/// # Errors
/// What the kernel says to one of the connections; none is left then.
pub fn connect_all(adapter: &Adapter, raw: &[CmDescriptor], translated: &[CmDescriptor]) -> Result<(), NtStatus> {
    let is_interrupt = |d: &&CmDescriptor| d.kind == TYPE_INTERRUPT;
    let pairs: Vec<_> = raw.iter().filter(is_interrupt).zip(translated.iter().filter(is_interrupt)).collect();
    let config = adapter.config();
    // A message for each that a descriptor stands for.
    let messages: Vec<(CmDescriptor, CmDescriptor)> = pairs
        .iter()
        .filter(|(_, translated)| translated.flags & INTERRUPT_MESSAGE != 0)
        .flat_map(|(raw, translated)| {
            (0..u32::from(raw.message_count().max(1))).map(|n| (**raw, translated.with_vector(translated.vector() + n)))
        })
        .collect();
    let mode = config.interrupt_synchronization_mode;
    let use_messages =
        !messages.is_empty() && config.hw_ms_interrupt_routine.is_some() && mode != INTERRUPT_SUPPORT_NONE;
    let line = pairs.iter().find(|(_, t)| t.flags & INTERRUPT_MESSAGE == 0).map(|(raw, t)| (**raw, **t));
    if !use_messages && (line.is_none() && messages.is_empty() || adapter.hw.hw_interrupt.is_none()) {
        return Ok(());
    }
    let context = (&raw const *adapter).cast_mut().cast::<c_void>();
    let own_locks = mode == INTERRUPT_SYNCHRONIZE_PER_MESSAGE;
    let mut all = Box::new(Interrupts {
        objects: Vec::new(),
        descriptors: Vec::new(),
        shared_lock: Box::new(0),
        own_locks,
        messages: use_messages,
    });
    let chosen: Vec<_> = if use_messages { messages } else { line.or(messages.first().copied()).into_iter().collect() };
    // The translated level is that of a descriptor's first vector; each vector's own is its upper half.
    let level = |translated: &CmDescriptor| (translated.vector() >> 4) as u8;
    let highest = chosen.iter().map(|(_, t)| level(t)).max().unwrap_or(0);
    for (id, (raw, translated)) in chosen.into_iter().enumerate() {
        let message = translated.flags & INTERRUPT_MESSAGE != 0;
        let lock = if own_locks || !use_messages { ptr::null_mut() } else { &raw mut *all.shared_lock };
        let processor = translated.affinity().trailing_zeros();
        let connection = Connection {
            vector: translated.vector() as u8,
            irql: level(&translated),
            synchronize_irql: if own_locks { level(&translated) } else { highest },
            shared: !message && translated.flags & INTERRUPT_LATCHED == 0,
            service: if use_messages {
                Service::Message(message_service, id as u32)
            } else {
                Service::Line(line_service)
            },
            context,
            lock,
            line: (!message).then_some((raw.vector(), processor)),
        };
        // SAFETY: the adapter outlives the connection, which its stop ends.
        match unsafe { connect(connection) } {
            Ok(object) => {
                all.objects.push(object);
                all.descriptors.push(translated);
            }
            Err(status) => {
                for object in &all.objects {
                    // SAFETY: connected above.
                    unsafe { disconnect(*object) };
                }
                return Err(status);
            }
        }
    }
    adapter.interrupt.store(Box::into_raw(all).cast(), Ordering::Release);
    Ok(())
}

/// Takes the connections away. IRQL = PASSIVE_LEVEL.
pub fn disconnect_all(adapter: &Adapter) {
    let all = adapter.interrupt.swap(ptr::null_mut(), Ordering::AcqRel).cast::<Interrupts>();
    if !all.is_null() {
        // SAFETY: made by `connect_all`.
        let all = unsafe { Box::from_raw(all) };
        for object in &all.objects {
            // SAFETY: connected there.
            unsafe { disconnect(*object) };
        }
    }
}

/// The adapter's interrupts, if it has any.
fn of(adapter: &Adapter) -> Option<&Interrupts> {
    // SAFETY: valid until the adapter stops, when nothing of the miniport runs any more.
    unsafe { adapter.interrupt.load(Ordering::Acquire).cast::<Interrupts>().as_ref() }
}

/// Runs `body` with the interrupt lock, which is those of all messages. IRQL <= DIRQL before.
pub fn with_lock<R>(adapter: &Adapter, body: impl FnOnce() -> R) -> R {
    let old = acquire_all(adapter);
    let result = body();
    if let Some(old) = old {
        release_all(adapter, old);
    }
    result
}

impl Interrupts {
    /// One object for each lock.
    fn locks(&self) -> &[*mut Interrupt] {
        if self.own_locks { &self.objects } else { &self.objects[..1.min(self.objects.len())] }
    }
}

/// Takes the interrupt lock: where each message has its own, all of them, in their order. The IRQL before. `None`: there is
/// no interrupt.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportacquiremsispinlock>
pub fn acquire_all(adapter: &Adapter) -> Option<u8> {
    // SAFETY: the objects are connected.
    of(adapter).filter(|all| !all.objects.is_empty()).map(|all| unsafe { interrupt::acquire_all(all.locks()) })
}

/// Gives it back.
pub fn release_all(adapter: &Adapter, old: u8) {
    if let Some(all) = of(adapter) {
        // SAFETY: the objects are connected and their locks held.
        unsafe { interrupt::release_all(all.locks(), old) };
    }
}

/// Takes the interrupt lock of a message; the IRQL before. `None`: there is no such interrupt.
pub fn acquire(adapter: &Adapter, message: u32) -> Option<u8> {
    let object = *of(adapter)?.objects.get(message as usize)?;
    // SAFETY: the object is connected.
    Some(unsafe { KeAcquireInterruptSpinLock(object) })
}

/// Gives it back.
pub fn release(adapter: &Adapter, message: u32, old: u8) {
    if let Some(object) = of(adapter).and_then(|all| all.objects.get(message as usize)) {
        // SAFETY: the object is connected and its lock held.
        unsafe { KeReleaseInterruptSpinLock(*object, old) };
    }
}

/// The processors that take each message. Empty: the adapter has none.
pub fn targets(adapter: &Adapter) -> Vec<u64> {
    let all = of(adapter).filter(|all| all.messages);
    all.map_or(Vec::new(), |all| all.descriptors.iter().map(CmDescriptor::affinity).collect())
}

/// What is known of a message: `StorPortGetMSIInfo`.
pub fn information(adapter: &Adapter, message: u32) -> Option<MessageInterruptInformation> {
    let all = of(adapter).filter(|all| all.messages)?;
    let descriptor = all.descriptors.get(message as usize)?;
    Some(MessageInterruptInformation {
        message_id: message,
        message_data: descriptor.vector(),
        message_address: platform().message_address(descriptor.affinity().trailing_zeros()),
        interrupt_vector: descriptor.vector(),
        interrupt_level: descriptor.vector() >> 4,
        interrupt_mode: 1,
    })
}

unsafe extern "win64" fn line_service(_: *mut Interrupt, context: *mut c_void) -> u8 {
    // SAFETY: the context is the adapter, which outlives its interrupts.
    unsafe {
        let adapter = &*context.cast::<Adapter>();
        adapter.hw.hw_interrupt.map_or(0, |service| service(adapter.extension()))
    }
}

unsafe extern "win64" fn message_service(_: *mut Interrupt, context: *mut c_void, message: u32) -> u8 {
    // SAFETY: the context is the adapter, which outlives its interrupts.
    unsafe {
        let adapter = &*context.cast::<Adapter>();
        adapter.config().hw_ms_interrupt_routine.map_or(0, |service| service(adapter.extension(), message))
    }
}
