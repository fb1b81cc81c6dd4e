//! IRQL. On x64 the exports are rarely imported (drivers move CR8), but older and debug builds do.

use super::abi::*;
use crate::platform::{Point, platform};
use crate::verifier;

/// `KeGetCurrentIrql`. Any IRQL.
pub unsafe extern "win64" fn KeGetCurrentIrql() -> Kirql {
    platform().irql()
}

/// `KfRaiseIrql`: returns the old IRQL. Any IRQL up to the new one.
pub unsafe extern "win64" fn KfRaiseIrql(new: Kirql) -> Kirql {
    let old = platform().irql();
    if new < old || new > HIGH_LEVEL {
        verifier::irql_change("KfRaiseIrql raises to a lower IRQL", old, new);
    }
    platform().set_irql(new);
    old
}

/// `KeRaiseIrql`, as functions of older kernels have it.
pub unsafe extern "win64" fn KeRaiseIrql(new: Kirql, old: *mut Kirql) {
    // SAFETY: the caller gives a place for the old IRQL.
    unsafe { *old = KfRaiseIrql(new) }
}

/// `KeLowerIrql`. Any IRQL down to the new one.
pub unsafe extern "win64" fn KeLowerIrql(new: Kirql) {
    let old = platform().irql();
    if new > old {
        verifier::irql_change("KeLowerIrql raises the IRQL", old, new);
    }
    platform().set_irql(new);
    if new < DISPATCH_LEVEL {
        platform().preempt(Point::Release);
    }
}

/// `KeRaiseIrqlToDpcLevel`.
pub unsafe extern "win64" fn KeRaiseIrqlToDpcLevel() -> Kirql {
    // SAFETY: any IRQL <= DISPATCH_LEVEL, which is checked.
    unsafe { KfRaiseIrql(DISPATCH_LEVEL) }
}

/// `KeRaiseIrqlToSynchLevel`.
pub unsafe extern "win64" fn KeRaiseIrqlToSynchLevel() -> Kirql {
    // SAFETY: as above; the synchronisation level of x64 is 12.
    unsafe { KfRaiseIrql(12) }
}
