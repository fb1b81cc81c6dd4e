//! Pageable memory that is out at DISPATCH_LEVEL: paged pool, pageable sections of images, buffers of programs.
//!
//! Windows brings such a page in below DISPATCH_LEVEL and stops the machine above. Driver Verifier makes that certain:
//! it trims all pageable memory whenever a driver raises the IRQL to DISPATCH_LEVEL.
//! <https://learn.microsoft.com/windows-hardware/drivers/devtest/force-irql-checking>
//!
//! So it is here. Pages are out until they are touched: the fault brings them in. When the processor that runs reaches
//! DISPATCH_LEVEL, or one goes on that is there, those that are in go out again. Mostly there is none, and that costs
//! one look at a flag. With real threads several IRQLs rule one page table, so there nothing is ever out.

use crate::frames::{self, Frames};
use crate::{processor, threads};
use nt::ke::abi::DISPATCH_LEVEL;
use nt::platform::PAGE_SIZE;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What is known of a pageable page.
#[derive(Clone, Copy, Default)]
struct Page {
    /// Whoever needs it resident.
    pins: u32,
    /// It was brought in.
    is_in: bool,
}

/// The pageable pages, by address.
#[derive(Default)]
pub struct Paged {
    pages: BTreeMap<usize, Page>,
    /// Those that were brought in and are to go out.
    brought: Vec<usize>,
}

impl Paged {
    /// Whether a page may not be touched now.
    pub fn is_out(&self, page: usize) -> bool {
        self.pages.get(&page).is_some_and(|page| page.pins == 0 && !page.is_in)
    }

    /// A mapping goes, and what was known of its page with it.
    pub fn forget(&mut self, page: usize) {
        self.pages.remove(&page);
    }
}

/// Whether a page may be in that is not pinned.
static ANY_IN: AtomicBool = AtomicBool::new(false);

fn pages_of(base: usize, pages: usize) -> impl Iterator<Item = usize> {
    (0..pages).map(move |index| (base & !(PAGE_SIZE - 1)) + index * PAGE_SIZE)
}

impl Frames {
    /// Makes pages pageable or not.
    pub fn set_pageable(&mut self, base: usize, pages: usize, pageable: bool) {
        if threads::on() {
            return;
        }
        for page in pages_of(base, pages) {
            if pageable {
                self.paged.pages.entry(page).or_default();
            } else {
                self.paged.forget(page);
            }
            self.apply_again(page);
        }
    }

    /// Changes how often pageable pages are pinned; others are left alone.
    pub fn pin(&mut self, base: usize, pages: usize, pin: bool) {
        for page in pages_of(base, pages) {
            if let Some(state) = self.paged.pages.get_mut(&page) {
                state.pins = if pin { state.pins + 1 } else { state.pins.saturating_sub(1) };
                self.apply_again(page);
            }
        }
    }

    fn bring_in(&mut self, page: usize) {
        if let Some(state) = self.paged.pages.get_mut(&page) {
            state.is_in = true;
            self.paged.brought.push(page);
            ANY_IN.store(true, Relaxed);
            self.apply_again(page);
        }
    }

    fn trim(&mut self) {
        for page in std::mem::take(&mut self.paged.brought) {
            if let Some(state) = self.paged.pages.get_mut(&page) {
                state.is_in = false;
                self.apply_again(page);
            }
        }
    }
}

/// The processor that runs has this IRQL from now on.
pub fn irql_is(irql: u8) {
    if irql >= DISPATCH_LEVEL && ANY_IN.swap(false, Relaxed) {
        frames::memory().trim();
    }
}

/// An access faulted. True: its page was out and is in now. At DISPATCH_LEVEL that is the end of the run. `access` is 0
/// for a read, 1 for a write, 8 for an execution.
pub fn touched(address: usize, access: u64, rip: usize) -> bool {
    let page = address & !(PAGE_SIZE - 1);
    if !frames::memory().paged.is_out(page) {
        return false;
    }
    let irql = processor::irql();
    if irql >= DISPATCH_LEVEL && nt::verifier::judges() {
        nt::verifier::paged_touch(address, access, rip);
    }
    frames::memory().bring_in(page);
    true
}
