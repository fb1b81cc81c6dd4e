//! Read/write locks. Both ways of access are recursive on a processor, and neither becomes the other.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/ndis/nf-ndis-ndisacquirerwlockread>

use super::abi::Handle;
use super::owned::{self, Kind};
use super::violation;
use crate::ke::abi::DISPATCH_LEVEL;
use crate::ke::irql::*;
use crate::platform::{Point, platform};
use crate::sync::IrqLock;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// `NDIS_RWL_AT_DISPATCH_LEVEL`.
const AT_DISPATCH_LEVEL: u8 = 1;
/// What a `LOCK_STATE_EX` of a read says, and of a write.
const READ: u8 = 1;
const WRITE: u8 = 2;

/// Who has a lock.
#[derive(Default)]
struct Holders {
    /// Reads of each processor.
    reads: Vec<u32>,
    /// The processor that writes, and how often it took the lock.
    writer: Option<(usize, u32)>,
}

/// `NDIS_RW_LOCK_EX`.
pub struct RwLock(IrqLock<Holders>);

/// `LOCK_STATE_EX`.
#[repr(C)]
pub struct LockState {
    old_irql: u8,
    state: u8,
    flags: u8,
}

/// `NdisAllocateRWLock`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAllocateRWLock(owner: Handle) -> *mut RwLock {
    let reads = alloc::vec![0; platform().processors() as usize];
    let lock = Box::into_raw(Box::new(RwLock(IrqLock::new(Holders { reads, writer: None }))));
    owned::add(Kind::RwLock, lock as usize, owner);
    lock
}

/// `NdisFreeRWLock`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisFreeRWLock(lock: *mut RwLock) {
    owned::remove(Kind::RwLock, lock as usize, "NdisFreeRWLock");
    // SAFETY: made above, and freed once.
    let holders = unsafe { Box::from_raw(lock) }.0.into_inner();
    if holders.writer.is_some() || holders.reads.iter().any(|reads| *reads != 0) {
        violation("NdisFreeRWLock", format_args!("the lock at {lock:p} is held"));
    }
}

/// Takes a lock: `attempt` says whether this processor has it now.
unsafe fn acquire(
    lock: *mut RwLock,
    state: *mut LockState,
    flags: u8,
    kind: u8,
    mut attempt: impl FnMut(&mut Holders, usize) -> bool,
) {
    owned::check(Kind::RwLock, lock as usize, "NdisAcquireRWLock");
    // SAFETY: the lock is in use; the state is the caller's.
    unsafe {
        let mut old_irql = KeGetCurrentIrql();
        if flags & AT_DISPATCH_LEVEL == 0 {
            old_irql = KfRaiseIrql(DISPATCH_LEVEL);
        } else if old_irql != DISPATCH_LEVEL {
            violation("NdisAcquireRWLock", format_args!("NDIS_RWL_AT_DISPATCH_LEVEL at IRQL {old_irql}"));
        }
        let own = platform().current_processor() as usize;
        while !attempt(&mut (*lock).0.lock(), own) {
            platform().preempt(Point::Spin);
            core::hint::spin_loop();
        }
        state.write(LockState { old_irql, state: kind, flags });
    }
}

/// `NdisAcquireRWLockRead`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAcquireRWLockRead(lock: *mut RwLock, state: *mut LockState, flags: u8) {
    let attempt = |holders: &mut Holders, own: usize| {
        let free = holders.writer.is_none_or(|(writer, _)| writer == own);
        holders.reads[own] += u32::from(free);
        free
    };
    // SAFETY: the caller's contract.
    unsafe { acquire(lock, state, flags, READ, attempt) };
}

/// `NdisAcquireRWLockWrite`. IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisAcquireRWLockWrite(lock: *mut RwLock, state: *mut LockState, flags: u8) {
    let attempt = |holders: &mut Holders, own: usize| match &mut holders.writer {
        Some((writer, depth)) if *writer == own => {
            *depth += 1;
            true
        }
        Some(_) => false,
        None if holders.reads[own] != 0 => {
            violation("NdisAcquireRWLockWrite", format_args!("this processor has the lock for reading"))
        }
        None => {
            let free = holders.reads.iter().all(|reads| *reads == 0);
            holders.writer = free.then_some((own, 1));
            free
        }
    };
    // SAFETY: the caller's contract.
    unsafe { acquire(lock, state, flags, WRITE, attempt) };
}

/// `NdisReleaseRWLock`, on the processor that took it. IRQL = DISPATCH_LEVEL.
pub unsafe extern "win64" fn NdisReleaseRWLock(lock: *mut RwLock, state: *mut LockState) {
    owned::check(Kind::RwLock, lock as usize, "NdisReleaseRWLock");
    // SAFETY: the lock is in use; the state is that of its acquisition.
    unsafe {
        let own = platform().current_processor() as usize;
        let held = {
            let mut holders = (*lock).0.lock();
            match (*state).state {
                READ if holders.reads[own] != 0 => {
                    holders.reads[own] -= 1;
                    true
                }
                WRITE if holders.writer.is_some_and(|(writer, _)| writer == own) => {
                    holders.writer = holders.writer.filter(|(_, depth)| *depth > 1).map(|(_, depth)| (own, depth - 1));
                    true
                }
                _ => false,
            }
        };
        if !held {
            violation("NdisReleaseRWLock", format_args!("this processor does not have the lock at {lock:p} so"));
        }
        (*state).state = 0;
        if (*state).flags & AT_DISPATCH_LEVEL == 0 {
            KeLowerIrql((*state).old_irql);
        }
    }
}
