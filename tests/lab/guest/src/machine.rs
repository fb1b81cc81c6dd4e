//! What `nt` asks of its platform, answered by this machine.

use crate::console::{self, Verdict};
use crate::{clock, interrupts, log, memory, pci, processor, suspend, trace};
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use nt::ke::IPI_LEVEL;
use nt::platform::{Cache, CodeRange, MemoryRange, PAGE_SIZE, PciAddress, Platform, Point, Protection, Stop};
use x86_64::instructions::interrupts as flag;
use x86_64::instructions::port::Port;

/// Seconds from 1601 to 1970.
const EPOCH_1970: u64 = 11_644_473_600;

/// The machine.
pub struct Machine;

static BOOT_TIME: AtomicU64 = AtomicU64::new(0);
static RANDOM: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);

/// Reads the date. Before `nt` starts.
pub fn start() {
    BOOT_TIME.store((clock::date() + EPOCH_1970) * 10_000_000, Ordering::Relaxed);
}

// SAFETY: `memory` hands each page out once and tells the page tables' truth; interrupts come by the local APIC, which
// holds CR8 and the interrupt flag against them, to `trap`, which calls `dispatch`.
unsafe impl Platform for Machine {
    fn processors(&self) -> u32 {
        processor::count()
    }
    fn current_processor(&self) -> u32 {
        processor::current()
    }
    fn irql(&self) -> u8 {
        processor::irql()
    }
    fn set_irql(&self, irql: u8) {
        if irql == IPI_LEVEL {
            suspend::note_capture();
        }
        processor::set_irql(irql);
    }
    fn disable_interrupts(&self) -> bool {
        let enabled = flag::are_enabled();
        flag::disable();
        enabled
    }
    fn restore_interrupts(&self, enabled: bool) {
        if enabled {
            processor::enable();
        }
    }
    fn request_interrupt(&self, processor: u32, vector: u8) {
        processor::send(processor, vector);
    }
    fn end_of_interrupt(&self, vector: u8) {
        // The dispatch interrupt is none of the APIC's: see `processor::send`.
        if vector != nt::ke::DISPATCH_VECTOR {
            processor::end_of_interrupt();
        }
    }
    fn route_line(&self, gsi: u32, to: Option<(u32, u8)>) {
        interrupts::route(gsi, to);
    }
    fn halt(&self) {
        processor::wait();
    }
    fn preempt(&self, point: Point) {
        if point == Point::Spin {
            core::hint::spin_loop();
        }
    }

    fn interrupt_time(&self) -> u64 {
        clock::nanoseconds() / 100
    }
    fn boot_time(&self) -> u64 {
        BOOT_TIME.load(Ordering::Relaxed)
    }
    fn performance_counter(&self) -> (u64, u64) {
        clock::counter()
    }
    fn set_timer(&self, when: u64) {
        processor::set_timer(when.saturating_mul(100));
    }
    fn stall(&self, microseconds: u32) {
        let end = clock::nanoseconds() + u64::from(microseconds) * 1000;
        while clock::nanoseconds() < end {
            core::hint::spin_loop();
        }
    }
    fn random(&self) -> u64 {
        // A Weyl sequence, mixed.
        let step = RANDOM.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (step ^ step >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ mixed >> 27
    }

    fn alloc_pages(&self, pages: usize) -> Option<NonNull<u8>> {
        memory::alloc_pages(pages)
    }
    fn alloc_contiguous(&self, pages: usize, low: u64, high: u64, boundary: u64, cache: Cache) -> Option<NonNull<u8>> {
        memory::alloc_contiguous(pages, low, high, boundary, cache)
    }
    fn free_pages(&self, base: NonNull<u8>, pages: usize) {
        memory::free_pages(base, pages);
    }
    fn protect(&self, base: NonNull<u8>, pages: usize, protection: Protection) {
        memory::protect(base, pages, protection);
        if protection == Protection::ReadExecute {
            trace::code(base, pages);
        }
    }
    fn alloc_stack(&self, bytes: usize) -> Option<NonNull<u8>> {
        // The page before every range of the window is the guard.
        let base = memory::alloc_pages(bytes.div_ceil(PAGE_SIZE))?;
        // SAFETY: the end of what was just allocated.
        Some(unsafe { base.add(bytes.next_multiple_of(PAGE_SIZE)) })
    }
    fn free_stack(&self, top: NonNull<u8>, bytes: usize) {
        let bytes = bytes.next_multiple_of(PAGE_SIZE);
        // SAFETY: `alloc_stack` gave the end of so many bytes.
        memory::free_pages(unsafe { top.sub(bytes) }, bytes / PAGE_SIZE);
    }
    fn physical_address(&self, address: usize) -> Option<u64> {
        memory::physical_address(address)
    }
    fn map_frames(&self, frames: &[u64], cache: Cache) -> Option<NonNull<u8>> {
        memory::map_frames(frames, cache)
    }
    fn unmap_frames(&self, base: NonNull<u8>, pages: usize) {
        memory::unmap_frames(base, pages);
    }
    fn alloc_frame(&self, low: u64, high: u64) -> Option<u64> {
        memory::alloc_frame(low, high)
    }
    fn free_frame(&self, frame: u64) {
        memory::free_frame(frame);
    }
    fn memory_ranges(&self) -> Vec<MemoryRange> {
        memory::ranges()
    }

    fn set_processor_area(&self, area: *mut u8) {
        processor::set_area(area);
    }
    fn port_read(&self, port: u16, width: u8) -> u32 {
        // SAFETY: the driver that asks answers for the port.
        unsafe {
            match width {
                1 => u32::from(Port::<u8>::new(port).read()),
                2 => u32::from(Port::<u16>::new(port).read()),
                _ => Port::new(port).read(),
            }
        }
    }
    fn port_write(&self, port: u16, width: u8, value: u32) {
        // SAFETY: the driver that asks answers for the port.
        unsafe {
            match width {
                1 => Port::new(port).write(value as u8),
                2 => Port::new(port).write(value as u16),
                _ => Port::new(port).write(value),
            }
        }
    }
    fn pci_functions(&self) -> Vec<PciAddress> {
        pci::functions()
    }
    fn pci_read(&self, at: PciAddress, offset: u16, buf: &mut [u8]) {
        pci::read(at, offset, buf);
    }
    fn pci_write(&self, at: PciAddress, offset: u16, data: &[u8]) {
        pci::write(at, offset, data);
    }
    fn pci_line(&self, at: PciAddress) -> Option<u32> {
        pci::line(at)
    }

    // Everything that a driver executes runs here as it stands.
    fn prepare_code(&self, _base: NonNull<u8>, _len: usize, _code: &[CodeRange]) {}
    fn forget_code(&self, _base: NonNull<u8>, _len: usize) {}

    fn log(&self, line: &str) {
        log::keep(line);
        console::log(line);
        suspend::note_line(line);
        console::print(format_args!("nt: {line}"));
    }
    fn stop(&self, stop: &Stop) -> ! {
        console::print(format_args!("lab: stop {:#x} {:x?}", stop.code, stop.parameters));
        for line in stop.report.lines() {
            console::print(format_args!("lab:   {line}"));
        }
        console::end(if stop.code == 0 { Verdict::Done } else { Verdict::Stopped })
    }
}
