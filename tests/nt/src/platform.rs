//! What the personality needs of the machine it runs on: processors, interrupts, time, pages, ports, PCI.
//!
//! A Linux process implements it (`tests/process`), and bare metal can. Everything here is a machine's business, nothing
//! is Windows': threads, DPCs, IRQL rules and pool live above, in [`crate::ke`] and [`crate::ex`].

use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// How pages may be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// No access at all: freed or guard pages.
    None,
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
    /// Everything: only for images whose sections ask for it.
    ReadWriteExecute,
}

/// Cache attribute of a mapping (`MEMORY_CACHING_TYPE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// MmNonCached.
    None,
    /// MmCached.
    Write,
    /// MmWriteCombined.
    Combine,
}

/// Why [`Platform::preempt`] was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A driver calls an export.
    Call,
    /// A spin loop found its lock taken or its condition false.
    Spin,
    /// A lock was released or the IRQL was lowered.
    Release,
}

/// A range of guest physical memory that is RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

/// Where a PCI function sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress {
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

/// A piece of the code of a loaded image that starts at an instruction: a function, or what stands between two. For
/// the platform to rewrite instructions that it could not trap.
#[derive(Clone, Copy, Debug)]
pub struct CodeRange {
    /// First byte.
    pub start: usize,
    /// Behind its last byte.
    pub end: usize,
}

/// What a stop tells the platform: see [`Platform::stop`].
#[derive(Clone, Debug)]
pub struct Stop {
    /// The bug check code, or 0 for an orderly end.
    pub code: u32,
    /// Its parameters.
    pub parameters: [u64; 4],
    /// The report: rule, driver, offset, stack. Many lines.
    pub report: alloc::string::String,
}

/// The machine. Every function may be called at any IRQL and on any processor unless it says otherwise.
///
/// # Safety
/// Pages that are handed out are valid, exclusive memory; `physical_address` is truthful; interrupts reach
/// [`crate::ke::interrupt::dispatch`] only while they are enabled and the vector's class (`vector >> 4`) is above the
/// processor's IRQL.
pub unsafe trait Platform: Sync {
    /// Processors that run, 1 to 64. Constant.
    fn processors(&self) -> u32;
    /// The processor that executes this. Read it with interrupts off or at DISPATCH_LEVEL for it to stay true.
    fn current_processor(&self) -> u32;
    /// The processor's IRQL (CR8).
    fn irql(&self) -> u8;
    /// Writes CR8. When that uncovers pending interrupts and interrupts are enabled, they are delivered before it
    /// returns.
    fn set_irql(&self, irql: u8);
    /// Clears IF and returns whether it was set.
    fn disable_interrupts(&self) -> bool;
    /// Sets IF if `enabled`; pending interrupts are delivered before it returns.
    fn restore_interrupts(&self, enabled: bool);
    /// Makes a vector pending on a processor, the own one included.
    fn request_interrupt(&self, processor: u32, vector: u8);
    /// The address to which a device writes a vector so that it interrupts this processor. Xen gives local APICs twice
    /// the processor's number as their id.
    fn message_address(&self, processor: u32) -> u64 {
        0xfee0_0000 | u64::from(2 * processor) << 12
    }
    /// Ends an interrupt in the local APIC.
    fn end_of_interrupt(&self, vector: u8);
    /// Routes a line of the IOAPIC to a vector of a processor, or nowhere.
    fn route_line(&self, gsi: u32, to: Option<(u32, u8)>);
    /// Waits for an interrupt, with interrupts enabled while it waits. IRQL is PASSIVE_LEVEL; idle thread only.
    fn halt(&self);
    /// A place at which another processor may run, or an interrupt may come in.
    fn preempt(&self, point: Point);

    /// 100 ns units since boot.
    fn interrupt_time(&self) -> u64;
    /// 100 ns units since 1601 at boot.
    fn boot_time(&self) -> u64;
    /// The performance counter and its frequency in Hz.
    fn performance_counter(&self) -> (u64, u64);
    /// Asks for [`crate::ke::CLOCK_VECTOR`] on processor 0 no later than `when` (as `interrupt_time` counts);
    /// a later call replaces an earlier one. `u64::MAX`: not at all.
    fn set_timer(&self, when: u64);
    /// Busy wait of microseconds.
    fn stall(&self, microseconds: u32);
    /// A number that cannot be guessed by a driver but is the same for the same seed.
    fn random(&self) -> u64;

    /// Zeroed pages, readable and writable, contiguous in virtual memory only. `None`: no memory left.
    fn alloc_pages(&self, pages: usize) -> Option<NonNull<u8>>;
    /// Zeroed pages that are contiguous in physical memory too, within `low..=high` and not crossing a multiple of
    /// `boundary` (0: no matter).
    fn alloc_contiguous(&self, pages: usize, low: u64, high: u64, boundary: u64, cache: Cache) -> Option<NonNull<u8>>;
    /// Frees what `alloc_pages` or `alloc_contiguous` gave, whole. Later accesses fault.
    fn free_pages(&self, base: NonNull<u8>, pages: usize);
    /// Changes the protection of pages of `alloc_pages`.
    fn protect(&self, base: NonNull<u8>, pages: usize, protection: Protection);
    /// Says that pages are pageable from now on, or not any more. A pageable page that is not pinned may be touched below
    /// DISPATCH_LEVEL only; a platform that can tell reports others to [`crate::verifier::paged_touch`]. Frees undo it.
    fn set_pageable(&self, base: NonNull<u8>, pages: usize, pageable: bool) {
        let _ = (base, pages, pageable);
    }
    /// Keeps pages resident, as often as it is called. Pages that are not pageable are left alone.
    fn pin(&self, base: NonNull<u8>, pages: usize) {
        let _ = (base, pages);
    }
    /// Undoes one [`Platform::pin`].
    fn unpin(&self, base: NonNull<u8>, pages: usize) {
        let _ = (base, pages);
    }
    /// A kernel stack of at least `bytes`, with a guard page below. Returns its top.
    fn alloc_stack(&self, bytes: usize) -> Option<NonNull<u8>>;
    /// Frees a stack by its top. It is not the current one.
    fn free_stack(&self, top: NonNull<u8>, bytes: usize);
    /// Guest physical address of a mapped virtual address.
    fn physical_address(&self, address: usize) -> Option<u64>;
    /// Maps frames (page frame numbers, in order) at consecutive virtual pages. `None`: not mappable.
    fn map_frames(&self, frames: &[u64], cache: Cache) -> Option<NonNull<u8>>;
    /// Takes away a mapping of `map_frames`.
    fn unmap_frames(&self, base: NonNull<u8>, pages: usize);
    /// Takes one physical page within `low..=high` that is mapped nowhere; zeroed.
    fn alloc_frame(&self, low: u64, high: u64) -> Option<u64>;
    /// Gives it back.
    fn free_frame(&self, frame: u64);
    /// RAM, ascending.
    fn memory_ranges(&self) -> Vec<MemoryRange>;

    /// Sets GS base of the processor that executes this.
    fn set_processor_area(&self, area: *mut u8);
    /// Reads a port of 1, 2 or 4 bytes.
    fn port_read(&self, port: u16, width: u8) -> u32;
    /// Writes a port of 1, 2 or 4 bytes.
    fn port_write(&self, port: u16, width: u8, value: u32);
    /// The PCI functions that are there, ascending.
    fn pci_functions(&self) -> Vec<PciAddress>;
    /// Reads configuration space; absent functions and registers read as ones.
    fn pci_read(&self, at: PciAddress, offset: u16, buf: &mut [u8]);
    /// Writes configuration space.
    fn pci_write(&self, at: PciAddress, offset: u16, data: &[u8]);
    /// The interrupt line (GSI) that a function's pin is wired to.
    fn pci_line(&self, at: PciAddress) -> Option<u32>;

    /// Called once per image after relocation and before protection: `code` are its functions. The platform may
    /// rewrite instructions in place.
    fn prepare_code(&self, base: NonNull<u8>, len: usize, code: &[CodeRange]);
    /// An image is about to go.
    fn forget_code(&self, base: NonNull<u8>, len: usize);

    /// One line of debug output, without its end.
    fn log(&self, line: &str);
    /// Ends the run.
    fn stop(&self, stop: &Stop) -> !;
}

/// The installed platform, as a thin pointer to a fat one.
static PLATFORM: AtomicPtr<&'static dyn Platform> = AtomicPtr::new(core::ptr::null_mut());

/// Installs the platform. Once, before anything else of this crate.
pub fn install(platform: &'static dyn Platform) {
    let cell = alloc::boxed::Box::leak(alloc::boxed::Box::new(platform));
    PLATFORM.store(cell, Ordering::Release);
}

/// Whether a platform was installed.
pub fn installed() -> bool {
    !PLATFORM.load(Ordering::Acquire).is_null()
}

/// The installed platform. Any IRQL.
///
/// # Panics
/// Before [`install`].
#[inline]
pub fn platform() -> &'static dyn Platform {
    let cell = PLATFORM.load(Ordering::Acquire);
    assert!(!cell.is_null(), "no platform is installed");
    // SAFETY: `install` stored a leaked box, which is never freed.
    unsafe { *cell }
}
