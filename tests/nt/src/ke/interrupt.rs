//! Interrupts: vectors, connected service routines, and what happens when the machine delivers one.

use super::abi::*;
use super::sched::{self, CLOCK_VECTOR, DISPATCH_VECTOR, IPI_VECTOR};
use super::{cpu, dpc, spinlock, timer};
use crate::platform::platform;
use crate::status::*;
use crate::sync::IrqLock;
use crate::verifier;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_void;

/// `KSERVICE_ROUTINE`: nonzero if the interrupt was the device's.
pub type ServiceRoutine = unsafe extern "win64" fn(interrupt: *mut Interrupt, context: *mut c_void) -> u8;
/// `KMESSAGE_SERVICE_ROUTINE`.
pub type MessageRoutine = unsafe extern "win64" fn(interrupt: *mut Interrupt, context: *mut c_void, id: u32) -> u8;
/// `KSYNCHRONIZE_ROUTINE`.
pub type SynchronizeRoutine = unsafe extern "win64" fn(context: *mut c_void) -> u8;

/// The routine of a connected interrupt.
#[derive(Clone, Copy)]
pub enum Service {
    /// Line based or fully specified.
    Line(ServiceRoutine),
    /// Message based, with the message's number.
    Message(MessageRoutine, u32),
}

/// What to connect.
#[derive(Clone, Copy)]
pub struct Connection {
    /// The vector, from [`allocate_vector`].
    pub vector: u8,
    /// Device IRQL: the vector's class, `vector >> 4`.
    pub irql: Kirql,
    /// At which the service routine runs: the highest IRQL of all interrupts that share the spin lock.
    pub synchronize_irql: Kirql,
    /// Others may connect to the vector too.
    pub shared: bool,
    /// The routine.
    pub service: Service,
    /// Its context.
    pub context: *mut c_void,
    /// A driver's own interrupt spin lock, or null.
    pub lock: *mut usize,
    /// Level-triggered line of the IOAPIC, and the processor that takes it.
    pub line: Option<(u32, u32)>,
}

/// `KINTERRUPT`: opaque to drivers.
#[repr(C)]
pub struct Interrupt {
    connection: Connection,
    own_lock: usize,
    lock: *mut usize,
}

struct Entry(*mut Interrupt);

// SAFETY: interrupts belong to no processor.
unsafe impl Send for Entry {}

static CONNECTED: IrqLock<Vec<Entry>> = IrqLock::new(Vec::new());
static ALLOCATED: IrqLock<[bool; 256]> = IrqLock::new([false; 256]);

/// Takes a device vector whose class is `irql` (3 to 11), or of any class. `None`: all are taken.
pub fn allocate_vector(irql: Option<Kirql>) -> Option<u8> {
    let mut allocated = ALLOCATED.lock();
    let free = |vector: &u8| !allocated[*vector as usize] && irql.is_none_or(|irql| vector >> 4 == irql);
    // Classes in turn, as Windows spreads them.
    let vector = (0..16u8).flat_map(|low| (3..12u8).rev().map(move |class| class << 4 | low)).find(free)?;
    allocated[vector as usize] = true;
    Some(vector)
}

/// Gives a vector back.
pub fn free_vector(vector: u8) {
    ALLOCATED.lock()[vector as usize] = false;
}

/// Connects a service routine. IRQL = PASSIVE_LEVEL.
///
/// # Errors
/// STATUS_INVALID_PARAMETER: the IRQLs do not fit the vector; STATUS_INVALID_DEVICE_REQUEST would be shared with one
/// who does not share.
///
/// # Safety
/// The routine may be called with the context until [`disconnect`].
pub unsafe fn connect(connection: Connection) -> Result<*mut Interrupt, NtStatus> {
    if connection.vector >> 4 != connection.irql
        || connection.synchronize_irql < connection.irql
        || connection.irql <= DISPATCH_LEVEL
        || connection.irql >= CLOCK_LEVEL
    {
        return Err(STATUS_INVALID_PARAMETER);
    }
    let interrupt = Box::into_raw(Box::new(Interrupt { connection, own_lock: 0, lock: connection.lock }));
    // SAFETY: just made.
    unsafe {
        if (*interrupt).lock.is_null() {
            (*interrupt).lock = &raw mut (*interrupt).own_lock;
        }
        let mut connected = CONNECTED.lock();
        let clash = connected.iter().any(|Entry(other)| {
            let other = &(**other).connection;
            other.vector == connection.vector && !(other.shared && connection.shared)
        });
        if clash {
            drop(connected);
            drop(Box::from_raw(interrupt));
            return Err(STATUS_INVALID_DEVICE_REQUEST);
        }
        connected.push(Entry(interrupt));
    }
    if let Some((gsi, processor)) = connection.line {
        platform().route_line(gsi, Some((processor, connection.vector)));
    }
    Ok(interrupt)
}

/// Disconnects; the routine is not running and will not run when it returns. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The interrupt is connected.
pub unsafe fn disconnect(interrupt: *mut Interrupt) {
    // SAFETY: the caller's promise. Taking the lock at the interrupt's IRQL waits for a routine that runs.
    unsafe {
        let line = (*interrupt).connection.line;
        let mut connected = CONNECTED.lock();
        connected.retain(|entry| !core::ptr::eq(entry.0, interrupt));
        let last = line.filter(|line| {
            connected.iter().all(|entry| (*entry.0).connection.line.is_none_or(|other| other.0 != line.0))
        });
        drop(connected);
        if let Some((gsi, _)) = last {
            platform().route_line(gsi, None);
        }
        // A processor that is about to call the routine holds no lock yet: let all of them pass.
        cpu::synchronize();
        let old = KeAcquireInterruptSpinLock(interrupt);
        KeReleaseInterruptSpinLock(interrupt, old);
        drop(Box::from_raw(interrupt));
    }
}

/// Whether any connected routine lies in a range of memory that is going.
pub fn any_in(start: usize, end: usize) -> bool {
    CONNECTED.lock().iter().any(|entry| {
        // SAFETY: connected interrupts are valid.
        let service = match unsafe { (*entry.0).connection.service } {
            Service::Line(routine) => routine as usize,
            Service::Message(routine, _) => routine as usize,
        };
        (start..end).contains(&service)
    })
}

/// The machine delivers a vector: interrupts are disabled, and the vector's class is above the IRQL. Returns with the
/// IRQL as it was and interrupts disabled.
pub fn dispatch(vector: u8) {
    let platform = platform();
    let old = platform.irql();
    let class = vector >> 4;
    platform.set_irql(class);
    match vector {
        DISPATCH_VECTOR => {
            platform.end_of_interrupt(vector);
            platform.restore_interrupts(true);
            dpc::drain();
            sched::reschedule();
            platform.disable_interrupts();
        }
        CLOCK_VECTOR => {
            timer::clock_interrupt();
            platform.end_of_interrupt(vector);
        }
        IPI_VECTOR => {
            platform.end_of_interrupt(vector);
            cpu::take_ipi();
        }
        _ => device(vector),
    }
    platform.set_irql(old);
}

/// Calls the routines connected to a vector.
fn device(vector: u8) {
    let platform = platform();
    let mut routines = [core::ptr::null_mut::<Interrupt>(); 16];
    let mut count = 0;
    for entry in CONNECTED.lock().iter() {
        // SAFETY: connected interrupts are valid.
        if unsafe { (*entry.0).connection.vector } == vector && count < routines.len() {
            routines[count] = entry.0;
            count += 1;
        }
    }
    verifier::interrupt_taken(vector, count);
    for &interrupt in &routines[..count] {
        // SAFETY: `disconnect` waits for all processors to leave this function before it frees.
        let claimed = unsafe {
            let connection = (*interrupt).connection;
            platform.set_irql(connection.synchronize_irql);
            platform.restore_interrupts(true);
            spinlock::acquire((*interrupt).lock);
            let claimed = match connection.service {
                Service::Line(routine) => routine(interrupt, connection.context),
                Service::Message(routine, id) => routine(interrupt, connection.context, id),
            };
            spinlock::release((*interrupt).lock);
            platform.disable_interrupts();
            platform.set_irql(vector >> 4);
            claimed != 0
        };
        if claimed && count == 1 {
            break;
        }
    }
    platform.end_of_interrupt(vector);
}

/// `KeAcquireInterruptSpinLock`. IRQL <= the interrupt's.
pub unsafe extern "win64" fn KeAcquireInterruptSpinLock(interrupt: *mut Interrupt) -> Kirql {
    // SAFETY: the caller gives a connected interrupt.
    unsafe {
        let old = super::KfRaiseIrql((*interrupt).connection.synchronize_irql);
        spinlock::acquire((*interrupt).lock);
        old
    }
}

/// `KeReleaseInterruptSpinLock`. IRQL = the interrupt's.
pub unsafe extern "win64" fn KeReleaseInterruptSpinLock(interrupt: *mut Interrupt, old: Kirql) {
    // SAFETY: the caller gives a connected interrupt whose lock it holds.
    unsafe {
        spinlock::release((*interrupt).lock);
        super::KeLowerIrql(old);
    }
}

/// Takes the locks of several interrupts, each with its own, in their order. IRQL <= the lowest of theirs.
///
/// # Safety
/// They are connected.
pub unsafe fn acquire_all(interrupts: &[*mut Interrupt]) -> Kirql {
    // SAFETY: the caller's promise.
    unsafe {
        let levels = interrupts.iter().map(|interrupt| (**interrupt).connection.synchronize_irql);
        let old = super::KfRaiseIrql(levels.max().unwrap_or_else(|| super::KeGetCurrentIrql()));
        for interrupt in interrupts {
            spinlock::acquire((**interrupt).lock);
        }
        old
    }
}

/// Gives them back.
///
/// # Safety
/// [`acquire_all`] took them, and returned `old`.
pub unsafe fn release_all(interrupts: &[*mut Interrupt], old: Kirql) {
    // SAFETY: the caller's promise.
    unsafe {
        for interrupt in interrupts.iter().rev() {
            spinlock::release((**interrupt).lock);
        }
        super::KeLowerIrql(old);
    }
}

/// `KeSynchronizeExecution`. IRQL <= the interrupt's.
pub unsafe extern "win64" fn KeSynchronizeExecution(
    interrupt: *mut Interrupt,
    routine: SynchronizeRoutine,
    context: *mut c_void,
) -> u8 {
    // SAFETY: the caller's contract.
    unsafe {
        let old = KeAcquireInterruptSpinLock(interrupt);
        let result = routine(context);
        KeReleaseInterruptSpinLock(interrupt, old);
        result
    }
}
