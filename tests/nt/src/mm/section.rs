//! Pageable sections of drivers: locked by those who need them at DISPATCH_LEVEL.
//! <https://learn.microsoft.com/windows-hardware/drivers/kernel/locking-pageable-code-or-data>

use super::violation;
use crate::loader::{self, Section};
use crate::platform::platform;
use crate::sync::IrqLock;
use alloc::collections::BTreeMap;
use core::ffi::c_void;
use core::ptr;

/// How often sections are locked, by their handle: their first byte.
static LOCKED: IrqLock<BTreeMap<usize, u32>> = IrqLock::new(BTreeMap::new());

fn section_at(address: usize, call: &'static str) -> Section {
    let found = loader::sections_at(address)
        .and_then(|(_, sections)| sections.into_iter().find(|section| (section.start..section.end).contains(&address)));
    found.unwrap_or_else(|| violation(call, address, 0))
}

/// Locks or unlocks a section once.
fn change(section: &Section, lock: bool) {
    let Some((base, pages)) = section.pages() else { return };
    if lock {
        *LOCKED.lock().entry(section.start).or_default() += 1;
        platform().pin(base, pages);
        return;
    }
    let mut locked = LOCKED.lock();
    let Some(count) = locked.get_mut(&section.start) else {
        drop(locked);
        violation("MmUnlockPagableImageSection: the section is not locked", section.start, 0);
    };
    *count -= 1;
    if *count == 0 {
        locked.remove(&section.start);
    }
    drop(locked);
    platform().unpin(base, pages);
}

/// `MmLockPagableDataSection`: keeps the section around an address resident, and returns its handle. IRQL <= APC_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-mmlockpagabledatasection>
pub unsafe extern "win64" fn MmLockPagableDataSection(address: *mut c_void) -> *mut c_void {
    let section = section_at(address as usize, "MmLockPagableDataSection: no section is there");
    change(&section, true);
    section.start as *mut c_void
}

/// `MmLockPagableSectionByHandle`: once more. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn MmLockPagableSectionByHandle(handle: *mut c_void) {
    change(&section_at(handle as usize, "MmLockPagableSectionByHandle: no such handle"), true);
}

/// `MmUnlockPagableImageSection`: undoes one lock. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn MmUnlockPagableImageSection(handle: *mut c_void) {
    change(&section_at(handle as usize, "MmUnlockPagableImageSection: no such handle"), false);
}

/// Makes the sections around an address that nobody has locked pageable: all, or those that were at first.
fn page(address: usize, all: bool) -> *mut c_void {
    let Some((base, sections)) = loader::sections_at(address) else { return ptr::null_mut() };
    for section in sections {
        if !LOCKED.lock().contains_key(&section.start) {
            section.set_pageable(all || section.pageable);
        }
    }
    base as *mut c_void
}

/// `MmPageEntireDriver`: all of the image around an address is pageable; returns its base. IRQL <= APC_LEVEL.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-mmpageentiredriver>
pub unsafe extern "win64" fn MmPageEntireDriver(address: *mut c_void) -> *mut c_void {
    page(address as usize, true)
}

/// `MmResetDriverPaging`: what was pageable at first is again, and nothing else. IRQL <= APC_LEVEL.
pub unsafe extern "win64" fn MmResetDriverPaging(address: *mut c_void) {
    page(address as usize, false);
}

/// An image goes.
pub(crate) fn forget(start: usize, end: usize) {
    LOCKED.lock().retain(|section, _| !(start..end).contains(section));
}
