//! StorPortStateChangeDetected: a miniport says what changed, and is told when the system has seen it.
//!
//! One change at a time is on its way. It is seen with the next answer to IRP_MN_QUERY_DEVICE_RELATIONS whose scan began
//! after it was told. <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportstatechangedetected>

use super::abi::*;
use super::adapter::Adapter;
use crate::ke::abi::DISPATCH_LEVEL;
use crate::ke::irql::*;
use core::ffi::c_void;

/// `STATE_CHANGE_LUN`, `_TARGET`, `_BUS`: every scan is of the whole adapter.
const ENTITIES: u32 = 0x7;
/// `STOR_ADDRESS_TYPE_BTL8`.
const BTL8: u16 = 1;

/// A change that the system has not seen yet.
pub struct Change {
    routine: Option<HwStateChange>,
    context: usize,
    address: usize,
}

/// Notes a change; a rescan is the caller's. Any IRQL.
///
/// # Safety
/// The address is null or leads to a `STOR_ADDRESS` that stays until the routine is called.
pub unsafe fn note(
    adapter: &Adapter,
    entities: u32,
    address: *mut StorAddrBtl8,
    routine: Option<HwStateChange>,
    context: *mut c_void,
) -> u32 {
    // SAFETY: the caller's promise.
    let known = unsafe { address.as_ref() }.is_some_and(|address| address.kind == BTL8);
    if entities == 0 || entities & !ENTITIES != 0 || !known {
        return STOR_STATUS_INVALID_PARAMETER;
    }
    let mut slot = adapter.change.lock();
    if slot.is_some() {
        return STOR_STATUS_UNSUCCESSFUL;
    }
    *slot = Some(Change { routine, context: context as usize, address: address as usize });
    STOR_STATUS_SUCCESS
}

/// The system has seen the change that is on its way: HwStorStateChange, with the StartIo lock at DISPATCH_LEVEL. It may
/// note another. IRQL <= DISPATCH_LEVEL.
pub fn seen(adapter: &Adapter) {
    let change = adapter.change.lock().take();
    let Some(Change { routine: Some(routine), context, address }) = change else { return };
    // SAFETY: the miniport's routine with its own context and address, which it keeps until now.
    unsafe {
        let irql = KfRaiseIrql(DISPATCH_LEVEL);
        adapter.synchronized(|| {
            let (context, address) = (context as *mut c_void, address as *mut StorAddrBtl8);
            routine(adapter.extension(), context, (*address).kind as i16, address.cast(), STOR_STATUS_SUCCESS);
        });
        KeLowerIrql(irql);
    }
}
