//! The StorPort functions that are exports of their own: queues, resources, addresses.

use super::abi::*;
use super::adapter::{self, Request};
use super::queue::Queue;
use super::srb::Srb;
use super::{interrupt, violation};
use crate::platform::platform;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::Ordering;

/// # Safety
/// `extension` is a device extension of the port driver.
unsafe fn queue(extension: *mut c_void, place: (u8, u8, u8), change: impl FnOnce(&mut Queue<*mut Request>)) -> u8 {
    // SAFETY: the caller's promise.
    let adapter = unsafe { adapter::of(extension) };
    let known = adapter.with_queue(place, change);
    adapter.queue_pump();
    u8::from(known)
}

/// `StorPortBusy`: nothing starts until so many requests are complete, or StorPortReady. Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortBusy(extension: *mut c_void, requests: u32) -> u8 {
    // SAFETY: the miniport gives its extension.
    let adapter = unsafe { adapter::of(extension) };
    let mut state = adapter.state.lock();
    state.gate.busy(requests);
    1
}

/// `StorPortReady`. Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortReady(extension: *mut c_void) -> u8 {
    // SAFETY: the miniport gives its extension.
    let adapter = unsafe { adapter::of(extension) };
    adapter.state.lock().gate.ready();
    adapter.queue_pump();
    1
}

/// `StorPortPause`: nothing starts for so many seconds, or until StorPortResume; time-outs stand still.
/// Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortPause(extension: *mut c_void, seconds: u32) -> u8 {
    // SAFETY: the miniport gives its extension.
    unsafe { adapter::of(extension) }.state.lock().gate.pause(seconds);
    1
}

/// `StorPortResume`: FALSE if it was not paused. Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortResume(extension: *mut c_void) -> u8 {
    // SAFETY: the miniport gives its extension.
    let adapter = unsafe { adapter::of(extension) };
    let was = adapter.state.lock().gate.resume();
    adapter.queue_pump();
    u8::from(was)
}

/// `StorPortDeviceBusy`: as StorPortBusy for one unit. FALSE: there is no such unit. Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortDeviceBusy(extension: *mut c_void, path: u8, target: u8, lun: u8, n: u32) -> u8 {
    // SAFETY: the miniport gives its extension.
    u8::from(unsafe { adapter::of(extension) }.with_queue((path, target, lun), |q| q.gate.busy(n)))
}

/// `StorPortDeviceReady`. Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortDeviceReady(extension: *mut c_void, path: u8, target: u8, lun: u8) -> u8 {
    // SAFETY: the miniport gives its extension.
    unsafe { queue(extension, (path, target, lun), |q| q.gate.ready()) }
}

/// `StorPortPauseDevice`. Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortPauseDevice(extension: *mut c_void, path: u8, target: u8, lun: u8, n: u32) -> u8 {
    // SAFETY: the miniport gives its extension.
    u8::from(unsafe { adapter::of(extension) }.with_queue((path, target, lun), |q| q.gate.pause(n)))
}

/// `StorPortResumeDevice`. Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortResumeDevice(extension: *mut c_void, path: u8, target: u8, lun: u8) -> u8 {
    // SAFETY: the miniport gives its extension.
    unsafe { queue(extension, (path, target, lun), |q| _ = q.gate.resume()) }
}

/// `StorPortSetDeviceQueueDepth`: 1 to 255, no more than the configuration's limit. Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortSetDeviceQueueDepth(
    extension: *mut c_void,
    path: u8,
    target: u8,
    lun: u8,
    depth: u32,
) -> u8 {
    // SAFETY: the miniport gives its extension.
    let limit = unsafe { adapter::of(extension) }.config().max_ios_per_lun.min(255);
    if !(1..=limit.max(254)).contains(&depth) {
        return 0;
    }
    // SAFETY: as above.
    unsafe { queue(extension, (path, target, lun), |q| q.depth = depth) }
}

/// `StorPortCompleteRequest`: completes what is outstanding at a place; 0xff stands for any. Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortCompleteRequest(
    extension: *mut c_void,
    path: u8,
    target: u8,
    lun: u8,
    status: u8,
) {
    let some = |n: u8| (n != 0xff).then_some(n);
    // SAFETY: the miniport gives its extension.
    unsafe { adapter::of(extension) }.complete_matching((some(path), some(target), some(lun)), status);
}

/// `StorPortGetScatterGatherList`: null for a request without data, or that the miniport does not have.
/// IRQL <= DISPATCH_LEVEL.
pub unsafe extern "win64" fn StorPortGetScatterGatherList(
    extension: *mut c_void,
    srb: *mut c_void,
) -> *mut ScatterGatherList {
    // SAFETY: the miniport gives its extension; outstanding requests are alive.
    unsafe { adapter::of(extension).outstanding(srb).map_or(ptr::null_mut(), |r| (*r).list) }
}

/// `StorPortGetPhysicalAddress`: of a request's data (by its list), or of the miniport's own memory. `length` is how far
/// it goes on. Any IRQL.
pub unsafe extern "win64" fn StorPortGetPhysicalAddress(
    extension: *mut c_void,
    srb: *mut c_void,
    address: *mut c_void,
    length: *mut u32,
) -> u64 {
    // SAFETY: the miniport gives its extension, an outstanding request or null, and room for the length.
    unsafe {
        let adapter = adapter::of(extension);
        if !srb.is_null()
            && let Some(request) = adapter.outstanding(srb)
            && !(*request).list.is_null()
        {
            let mut offset = (address as u64).wrapping_sub(Srb::new(srb).data_buffer() as u64);
            let list = (*request).list;
            let elements = list.add(1).cast::<ScatterGatherElement>();
            for i in 0..(*list).count as usize {
                let element = elements.add(i).read();
                if offset < u64::from(element.length) {
                    length.write(element.length - offset as u32);
                    return element.address + offset;
                }
                offset -= u64::from(element.length);
            }
        }
        if let Some((base, physical, bytes)) = *adapter.uncached.lock() {
            let offset = (address as usize).wrapping_sub(base);
            if offset < bytes as usize {
                length.write(bytes - offset as u32);
                return physical + offset as u64;
            }
        }
        let physical = platform().physical_address(address as usize);
        length.write(if physical.is_some() { 4096 - (address as usize & 4095) as u32 } else { 0 });
        physical.unwrap_or(0)
    }
}

/// `StorPortGetVirtualAddress`: of what is in the uncached extension. Null otherwise.
pub unsafe extern "win64" fn StorPortGetVirtualAddress(extension: *mut c_void, physical: u64) -> *mut c_void {
    // SAFETY: the miniport gives its extension.
    let uncached = *unsafe { adapter::of(extension) }.uncached.lock();
    match uncached {
        Some((base, start, bytes)) if physical.wrapping_sub(start) < u64::from(bytes) => {
            (base + (physical - start) as usize) as *mut c_void
        }
        _ => ptr::null_mut(),
    }
}

/// `StorPortGetUncachedExtension`: one block of common buffer, in HwStorFindAdapter only; asked again, the same block.
pub unsafe extern "win64" fn StorPortGetUncachedExtension(
    extension: *mut c_void,
    _config: *mut PortConfiguration,
    bytes: u32,
) -> *mut c_void {
    // SAFETY: the miniport gives its extension.
    unsafe {
        let adapter = adapter::of(extension);
        if let Some((base, _, had)) = *adapter.uncached.lock() {
            return if bytes <= had { base as *mut c_void } else { ptr::null_mut() };
        }
        let dma = adapter.dma.load(Ordering::Acquire);
        let Some(allocate) = dma.as_ref().and_then(|d| (*d.operations).allocate_common_buffer) else {
            return ptr::null_mut();
        };
        let mut physical = 0;
        let block = allocate(dma, bytes, &raw mut physical, 1);
        if !block.is_null() {
            ptr::write_bytes(block.cast::<u8>(), 0, bytes as usize);
            *adapter.uncached.lock() = Some((block as usize, physical, bytes));
        }
        block
    }
}

/// `StorPortGetDeviceBase`: maps one of the adapter's ranges; a port range needs no mapping.
pub unsafe extern "win64" fn StorPortGetDeviceBase(
    extension: *mut c_void,
    _bus_type: i32,
    _bus: u32,
    address: u64,
    bytes: u32,
    io_space: u8,
) -> *mut c_void {
    // SAFETY: the miniport gives its extension.
    unsafe {
        let adapter = adapter::of(extension);
        if io_space != 0 {
            return address as usize as *mut c_void;
        }
        let base = crate::mm::memory::MmMapIoSpace(address, bytes as usize, 0);
        if !base.is_null() {
            adapter.mappings.lock().push((base as usize, bytes as usize));
        }
        base
    }
}

/// `StorPortFreeDeviceBase`.
pub unsafe extern "win64" fn StorPortFreeDeviceBase(extension: *mut c_void, base: *mut c_void) {
    // SAFETY: the miniport gives its extension.
    unsafe {
        let adapter = adapter::of(extension);
        let found = {
            let mut mappings = adapter.mappings.lock();
            mappings.iter().position(|m| m.0 == base as usize).map(|at| mappings.swap_remove(at))
        };
        if let Some((base, bytes)) = found {
            crate::mm::memory::MmUnmapIoSpace(base as *mut c_void, bytes);
        }
    }
}

/// `StorPortValidateRange`: TRUE, as always since there is Plug and Play.
pub unsafe extern "win64" fn StorPortValidateRange(
    _extension: *mut c_void,
    _bus_type: i32,
    _bus: u32,
    _address: u64,
    _bytes: u32,
    _io_space: u8,
) -> u8 {
    1
}

/// `StorPortGetLogicalUnit`: the miniport's part of a unit, or null. Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortGetLogicalUnit(
    extension: *mut c_void,
    path: u8,
    target: u8,
    lun: u8,
) -> *mut c_void {
    // SAFETY: the miniport gives its extension.
    unsafe { adapter::of(extension) }.unit((path, target, lun)).map_or(ptr::null_mut(), |unit| unit.extension)
}

/// `StorPortGetSrb`: obsolete, null.
pub unsafe extern "win64" fn StorPortGetSrb(_: *mut c_void, _: u8, _: u8, _: u8, _: i32) -> *mut c_void {
    ptr::null_mut()
}

/// `StorPortMoveMemory`.
pub unsafe extern "win64" fn StorPortMoveMemory(to: *mut c_void, from: *const c_void, bytes: u32) {
    // SAFETY: the miniport gives two ranges of that length.
    unsafe { ptr::copy(from.cast::<u8>(), to.cast::<u8>(), bytes as usize) };
}

/// `StorPortStallExecution`: microseconds. Any IRQL.
pub unsafe extern "win64" fn StorPortStallExecution(microseconds: u32) {
    platform().stall(microseconds);
}

/// `StorPortQuerySystemTime`.
pub unsafe extern "win64" fn StorPortQuerySystemTime(time: *mut i64) {
    // SAFETY: the miniport gives room for the time.
    unsafe { time.write((platform().boot_time() + platform().interrupt_time()) as i64) };
}

/// `StorPortLogError`: a line of the log. Any IRQL up to DIRQL.
pub unsafe extern "win64" fn StorPortLogError(
    extension: *mut c_void,
    _srb: *mut c_void,
    path: u8,
    target: u8,
    lun: u8,
    code: u32,
    unique: u32,
) {
    // SAFETY: the miniport gives its extension.
    let port = unsafe { adapter::of(extension) }.port;
    let text = alloc::format!("storport {port}: error {code:#x} at {path}.{target}.{lun}, id {unique:#x}");
    platform().log(&text);
}

/// `StorPortSynchronizeAccess`: runs a routine with the interrupt lock (the StartIo lock without an interrupt).
pub unsafe extern "win64" fn StorPortSynchronizeAccess(
    extension: *mut c_void,
    routine: SynchronizedAccess,
    context: *mut c_void,
) -> u8 {
    // SAFETY: the miniport gives its extension, a routine and its context.
    unsafe { interrupt::with_lock(adapter::of(extension), || routine(extension, context)) }
}

/// `StorPortConvertPhysicalAddressToUlong64`, and back: both are 64 bits.
pub unsafe extern "win64" fn StorPortConvertPhysicalAddressToUlong64(address: u64) -> u64 {
    address
}

/// `StorPortConvertUlongToPhysicalAddress`.
pub unsafe extern "win64" fn StorPortConvertUlongToPhysicalAddress(address: usize) -> u64 {
    address as u64
}

/// `PCIConfiguration` of `BUS_DATA_TYPE`.
const PCI_CONFIGURATION: u32 = 4;

/// `StorPortGetBusData`: configuration space of the adapter, from offset 0. IRQL = PASSIVE_LEVEL. The bytes read.
pub unsafe extern "win64" fn StorPortGetBusData(
    extension: *mut c_void,
    kind: u32,
    _bus: u32,
    _slot: u32,
    buffer: *mut c_void,
    bytes: u32,
) -> u32 {
    // SAFETY: the miniport gives its extension and a buffer of that length.
    unsafe { config_space(extension, kind, buffer, 0, bytes, crate::io::abi::mn::READ_CONFIG) }
}

/// `StorPortSetBusDataByOffset`. IRQL = PASSIVE_LEVEL. The bytes written.
pub unsafe extern "win64" fn StorPortSetBusDataByOffset(
    extension: *mut c_void,
    kind: u32,
    _bus: u32,
    _slot: u32,
    buffer: *mut c_void,
    offset: u32,
    bytes: u32,
) -> u32 {
    // SAFETY: the miniport gives its extension and a buffer of that length.
    unsafe { config_space(extension, kind, buffer, offset, bytes, crate::io::abi::mn::WRITE_CONFIG) }
}

/// # Safety
/// The buffer has that length.
unsafe fn config_space(
    extension: *mut c_void,
    kind: u32,
    buffer: *mut c_void,
    offset: u32,
    bytes: u32,
    minor: u8,
) -> u32 {
    if kind != PCI_CONFIGURATION {
        violation("StorPortGetBusData: only PCI has configuration space", kind as usize, 0);
    }
    // SAFETY: the miniport gives its extension.
    unsafe {
        let adapter = adapter::of(extension);
        super::fdo::config_space(adapter, minor, buffer, offset, bytes)
    }
}

crate::variadic! {
    /// `StorPortDebugPrint`: level, format, arguments.
    pub fn StorPortDebugPrint => debug_print;
}

unsafe extern "win64" fn debug_print(args: *const u64) -> u64 {
    let mut line = alloc::string::String::new();
    // SAFETY: the shim spilled the arguments, which the format describes.
    unsafe {
        let arguments = crate::crt::format::Arguments::new(args.add(2));
        let format = args.add(1).read() as usize as *const u8;
        crate::crt::format::format(&mut |b: u8| line.push(char::from(b)), format, arguments);
    }
    platform().log(line.trim_end());
    0
}
