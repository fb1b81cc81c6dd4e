//! Event tracing as a system has it on which no session listens: providers register, and nothing is enabled.
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-etwregister>

use crate::status::*;
use crate::sync::IrqLock;
use alloc::collections::BTreeSet;
use core::ffi::c_void;

/// STATUS_INVALID_HANDLE.
const INVALID_HANDLE: NtStatus = 0xc000_0008_u32 as i32;

static PROVIDERS: IrqLock<(u64, BTreeSet<u64>)> = IrqLock::new((0, BTreeSet::new()));

fn known(handle: u64) -> NtStatus {
    if PROVIDERS.lock().1.contains(&handle) { STATUS_SUCCESS } else { INVALID_HANDLE }
}

/// `EtwRegister`: the callback is called when a session enables the provider, which none does. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn EtwRegister(
    provider: *const c_void,
    _callback: *const c_void,
    _context: *mut c_void,
    handle: *mut u64,
) -> NtStatus {
    if provider.is_null() || handle.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    let mut all = PROVIDERS.lock();
    all.0 += 1;
    let new = all.0;
    all.1.insert(new);
    // SAFETY: the caller gives a place.
    unsafe { handle.write(new) };
    STATUS_SUCCESS
}

/// `EtwUnregister`. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn EtwUnregister(handle: u64) -> NtStatus {
    if PROVIDERS.lock().1.remove(&handle) { STATUS_SUCCESS } else { INVALID_HANDLE }
}

/// `EtwWrite`: an event that nobody asked for is dropped. Any IRQL.
pub unsafe extern "win64" fn EtwWrite(
    handle: u64,
    _event: *const c_void,
    _activity: *const c_void,
    _count: u32,
    _data: *const c_void,
) -> NtStatus {
    known(handle)
}

/// `EtwWriteTransfer`. Any IRQL.
pub unsafe extern "win64" fn EtwWriteTransfer(
    handle: u64,
    _event: *const c_void,
    _activity: *const c_void,
    _related: *const c_void,
    _count: u32,
    _data: *const c_void,
) -> NtStatus {
    known(handle)
}

/// `EtwEventEnabled`: FALSE. Any IRQL.
pub unsafe extern "win64" fn EtwEventEnabled(_handle: u64, _event: *const c_void) -> u8 {
    0
}

/// `EtwProviderEnabled`: FALSE. Any IRQL.
pub unsafe extern "win64" fn EtwProviderEnabled(_handle: u64, _level: u8, _keyword: u64) -> u8 {
    0
}

/// `EtwSetInformation`: traits of a provider. IRQL = PASSIVE_LEVEL.
pub unsafe extern "win64" fn EtwSetInformation(
    handle: u64,
    _class: i32,
    _information: *mut c_void,
    _bytes: u32,
) -> NtStatus {
    known(handle)
}
