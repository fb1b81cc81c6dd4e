//! `nt`'s platform: memory, processors, ports, PCI and the end of a run, put together.

use crate::frames::{self, memory};
use crate::{adapter, processor, rewrite, step, threads};
use nt::platform::{Cache, CodeRange, MemoryRange, PAGE_SIZE, PciAddress, Platform, Point, Protection, Stop};
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use xen_model::Xen;

/// Seconds from 1601 to 1970.
const EPOCH_1970: u64 = 11_644_473_600;
/// The PCI host bridge that QEMU's i440FX has.
const HOST_BRIDGE: [u8; 16] = [0x86, 0x80, 0x37, 0x12, 0x07, 0, 0, 0, 2, 0, 0, 6, 0, 0, 0, 0];

/// The platform of this process.
pub struct Host;

static XEN: Mutex<Option<Xen>> = Mutex::new(None);
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
static END: Mutex<Option<Stop>> = Mutex::new(None);
static VERBOSE: AtomicBool = AtomicBool::new(false);
static CONFIG_ADDRESS: Mutex<u32> = Mutex::new(0);

fn lock<T>(mutex: &'static Mutex<T>) -> std::sync::MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Puts the model in place.
pub fn set_xen(xen: Xen, verbose: bool) {
    *lock(&XEN) = Some(xen);
    VERBOSE.store(verbose, Relaxed);
}

/// Does something with the model. No guest code runs meanwhile. `None`: there is no model.
pub fn with_xen<R>(body: impl FnOnce(&mut Xen) -> R) -> Option<R> {
    let result = lock(&XEN).as_mut().map(body);
    // The keeper asks by itself.
    if threads::on() && threads::own() < processor::MAX {
        threads::wake_keeper();
    }
    result
}

/// The log so far.
pub fn log_lines() -> Vec<String> {
    lock(&LOG).clone()
}

/// How the run ended, if it was stopped.
pub fn take_end() -> Option<Stop> {
    lock(&END).take()
}

/// Ends the run with a reason that is the machine's own.
pub fn stop_with(why: &str) -> ! {
    let stop = Stop { code: u32::MAX, parameters: [0; 4], report: format!("{why}\n") };
    Host.stop(&stop)
}

/// A port access of one, two or four bytes.
fn port_in(port: u16, width: u8) -> u32 {
    let ones = if width >= 4 { u32::MAX } else { (1 << (width * 8)) - 1 };
    match port {
        0xcf8 => *lock(&CONFIG_ADDRESS),
        0xcfc..=0xcff => {
            let address = *lock(&CONFIG_ADDRESS);
            let mut bytes = [0xff; 4];
            if address & 0x8000_0000 != 0 {
                let at = PciAddress {
                    bus: (address >> 16) as u8,
                    device: (address >> 11) as u8 & 31,
                    function: (address >> 8) as u8 & 7,
                };
                Host.pci_read(at, (address & 0xfc) as u16 + (port - 0xcfc), &mut bytes[..width as usize]);
            }
            u32::from_le_bytes(bytes) & ones
        }
        _ => {
            adapter::port_in(port, width).or_else(|| with_xen(|xen| xen.port_in(port, width)).flatten()).unwrap_or(ones)
        }
    }
}

fn port_out(port: u16, width: u8, value: u32) {
    match port {
        0xcf8 => *lock(&CONFIG_ADDRESS) = value,
        0xcfc..=0xcff => {
            let address = *lock(&CONFIG_ADDRESS);
            if address & 0x8000_0000 != 0 {
                let at = PciAddress {
                    bus: (address >> 16) as u8,
                    device: (address >> 11) as u8 & 31,
                    function: (address >> 8) as u8 & 7,
                };
                let bytes = value.to_le_bytes();
                Host.pci_write(at, (address & 0xfc) as u16 + (port - 0xcfc), &bytes[..width as usize]);
            }
        }
        _ => {
            if !adapter::port_out(port, width, value) {
                with_xen(|xen| xen.port_out(port, width, value));
            }
        }
    }
}

fn is_platform_device(at: PciAddress) -> bool {
    at == PciAddress { bus: 0, device: xen_model::layout::PLATFORM_DEVICE, function: 0 }
}

// SAFETY: pages come from `frames`, which hands each out once; interrupts are delivered by `processor` under the rules
// of the trait.
unsafe impl Platform for Host {
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
        processor::set_irql(irql);
    }
    fn disable_interrupts(&self) -> bool {
        processor::disable()
    }
    fn restore_interrupts(&self, enabled: bool) {
        processor::restore(enabled);
    }
    fn request_interrupt(&self, processor: u32, vector: u8) {
        processor::request(processor, vector);
    }
    fn end_of_interrupt(&self, vector: u8) {
        processor::end_of_interrupt(vector);
    }
    fn route_line(&self, gsi: u32, to: Option<(u32, u8)>) {
        processor::route(gsi, to);
    }
    fn halt(&self) {
        processor::halt();
    }
    fn preempt(&self, point: Point) {
        processor::preempt(point);
    }

    fn interrupt_time(&self) -> u64 {
        processor::now_ns() / 100
    }
    fn boot_time(&self) -> u64 {
        let seconds = with_xen(|xen| xen.config().wallclock_sec).unwrap_or(1_700_000_000);
        (seconds + EPOCH_1970) * 10_000_000
    }
    fn performance_counter(&self) -> (u64, u64) {
        (processor::now_ns() / 100, 10_000_000)
    }
    fn set_timer(&self, when: u64) {
        processor::set_clock(when);
    }
    fn stall(&self, microseconds: u32) {
        processor::stall(u64::from(microseconds) * 1000);
    }
    fn random(&self) -> u64 {
        processor::random()
    }

    fn alloc_pages(&self, pages: usize) -> Option<NonNull<u8>> {
        memory().alloc_pages(pages)
    }
    fn alloc_contiguous(&self, pages: usize, low: u64, high: u64, boundary: u64, _cache: Cache) -> Option<NonNull<u8>> {
        memory().alloc_contiguous(pages, low, high, boundary)
    }
    fn free_pages(&self, base: NonNull<u8>, pages: usize) {
        memory().free_pages(base.as_ptr() as usize, pages);
    }
    fn protect(&self, base: NonNull<u8>, pages: usize, protection: Protection) {
        memory().protect(base.as_ptr() as usize, pages, protection);
    }
    fn set_pageable(&self, base: NonNull<u8>, pages: usize, pageable: bool) {
        memory().set_pageable(base.as_ptr() as usize, pages, pageable);
    }
    fn pin(&self, base: NonNull<u8>, pages: usize) {
        memory().pin(base.as_ptr() as usize, pages, true);
    }
    fn unpin(&self, base: NonNull<u8>, pages: usize) {
        memory().pin(base.as_ptr() as usize, pages, false);
    }
    fn alloc_stack(&self, bytes: usize) -> Option<NonNull<u8>> {
        // The page before every range of the arena is never mapped: it is the guard.
        let base = memory().alloc_pages(bytes.div_ceil(PAGE_SIZE))?;
        // SAFETY: the end of what was just allocated.
        Some(unsafe { base.add(bytes.next_multiple_of(PAGE_SIZE)) })
    }
    fn free_stack(&self, top: NonNull<u8>, bytes: usize) {
        let bytes = bytes.next_multiple_of(PAGE_SIZE);
        memory().free_pages(top.as_ptr() as usize - bytes, bytes / PAGE_SIZE);
    }
    fn physical_address(&self, address: usize) -> Option<u64> {
        let (gfn, offset) = memory().gfn_at(address)?;
        Some(gfn * PAGE_SIZE as u64 + offset as u64)
    }
    fn map_frames(&self, frames: &[u64], _cache: Cache) -> Option<NonNull<u8>> {
        Some(memory().map_frames(frames))
    }
    fn unmap_frames(&self, base: NonNull<u8>, pages: usize) {
        memory().unmap_frames(base.as_ptr() as usize, pages);
    }
    fn alloc_frame(&self, low: u64, high: u64) -> Option<u64> {
        memory().alloc_page(low, high)
    }
    fn free_frame(&self, frame: u64) {
        memory().free_page(frame);
    }
    fn memory_ranges(&self) -> Vec<MemoryRange> {
        memory().ranges()
    }

    fn set_processor_area(&self, area: *mut u8) {
        processor::set_area(area as usize);
    }
    fn port_read(&self, port: u16, width: u8) -> u32 {
        port_in(port, width)
    }
    fn port_write(&self, port: u16, width: u8, value: u32) {
        port_out(port, width, value);
    }
    fn pci_functions(&self) -> Vec<PciAddress> {
        // The platform device is QEMU's, and there with or without a Xen below it that shows itself.
        let mut functions = vec![
            PciAddress { bus: 0, device: 0, function: 0 },
            PciAddress { bus: 0, device: xen_model::layout::PLATFORM_DEVICE, function: 0 },
        ];
        let others = with_xen(|xen| xen.pci_functions()).unwrap_or_default();
        functions.extend(others.into_iter().map(|(device, function)| PciAddress { bus: 0, device, function }));
        functions.extend(adapter::is_in().then_some(adapter::PLACE));
        functions.sort_unstable();
        functions
    }
    fn pci_read(&self, at: PciAddress, offset: u16, buf: &mut [u8]) {
        if is_platform_device(at) {
            with_xen(|xen| xen.pci_config_read(offset as usize, buf));
        } else if at == (PciAddress { bus: 0, device: 0, function: 0 }) {
            for (index, byte) in buf.iter_mut().enumerate() {
                *byte = HOST_BRIDGE.get(offset as usize + index).copied().unwrap_or(0);
            }
        } else if at == adapter::PLACE && adapter::is_in() {
            adapter::config_read(offset as usize, buf);
        } else {
            buf.fill(0xff);
            if at.bus == 0 {
                with_xen(|xen| xen.pci_function_read((at.device, at.function), offset as usize, buf));
            }
        }
    }
    fn pci_write(&self, at: PciAddress, offset: u16, data: &[u8]) {
        if is_platform_device(at) {
            with_xen(|xen| xen.pci_config_write(offset as usize, data));
        } else if at == adapter::PLACE {
            adapter::config_write(offset as usize, data);
        }
    }
    fn pci_line(&self, at: PciAddress) -> Option<u32> {
        let wired = is_platform_device(at) || at == adapter::PLACE && adapter::is_in();
        wired.then(|| xen_model::layout::pci_intx_gsi(at.device, 0))
    }

    fn prepare_code(&self, base: NonNull<u8>, len: usize, code: &[CodeRange]) {
        let start = base.as_ptr() as usize;
        step::add(start, start + len, code);
        if threads::on() {
            threads::add(start, start + len);
        }
        // SAFETY: the loader gives functions of an image that is writable and does not run yet.
        unsafe { rewrite::rewrite(start, code) };
    }
    fn forget_code(&self, base: NonNull<u8>, len: usize) {
        let start = base.as_ptr() as usize;
        rewrite::forget(start, start + len);
        step::forget(start, start + len);
        threads::forget(start);
    }

    fn log(&self, line: &str) {
        if VERBOSE.load(Relaxed) {
            eprintln!("[{:>12} cpu{}] {line}", processor::now_ns(), processor::current());
        }
        lock(&LOG).push(line.to_owned());
    }
    fn stop(&self, stop: &Stop) -> ! {
        if !processor::running() {
            eprintln!("{}", stop.report);
            std::process::exit(3);
        }
        // With threads two may come here: the first is why the other did.
        lock(&END).get_or_insert_with(|| stop.clone());
        processor::leave()
    }
}

/// The installed platform.
pub static HOST: Host = Host;

/// Sets up memory, model and platform. Once.
///
/// # Errors
/// What Linux refused.
pub fn set_up(config: xen_model::Config, extra_frames: usize, verbose: bool) -> anyhow::Result<()> {
    frames::set_up(config.ram_pages, extra_frames, config.seed)?;
    frames::write_low(crate::firmware::BASE, &crate::firmware::tables(config.vcpus));
    set_xen(Xen::new(config, Box::new(frames::ProcessMachine)), verbose);
    nt::platform::install(&HOST);
    Ok(())
}
