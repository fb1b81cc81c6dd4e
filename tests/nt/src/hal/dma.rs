//! DMA adapters. The machine has no IOMMU and every page is within reach, so nothing is bounced: a bus address is a
//! physical address, and map registers are only counted.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/ns-wdm-_dma_operations>
use crate::io::abi::*;
use crate::io::kernel::{pool_alloc, pool_free, violation};
use crate::io::status::*;
use crate::mm::abi::Mdl;
use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicI32, Ordering};

const TAG: u32 = u32::from_le_bytes(*b"HalA");
const PAGE: u64 = 4096;

/// `SCATTER_GATHER_ELEMENT`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Element {
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    reserved: usize,
}

/// `SCATTER_GATHER_LIST`; the elements follow.
#[repr(C)]
pub struct ScatterGatherList {
    /// How many.
    pub count: u32,
    reserved: usize,
}

/// `DEVICE_DESCRIPTION`, as far as it is looked at.
#[repr(C)]
pub struct DeviceDescription {
    /// DEVICE_DESCRIPTION_VERSION*: 0 to 3.
    pub version: u32,
    /// The device masters the bus.
    pub master: u8,
    /// It takes scatter/gather lists.
    pub scatter_gather: u8,
    demand_mode: u8,
    auto_initialize: u8,
    /// It reaches 4 GiB.
    pub dma32: u8,
    ignore_count: u8,
    reserved1: u8,
    /// It reaches everything.
    pub dma64: u8,
    numbers: [u32; 5],
    /// The longest transfer.
    pub maximum_length: u32,
}

const _: () = {
    assert!(size_of::<Element>() == 24 && size_of::<ScatterGatherList>() == 16);
    assert!(offset_of!(DeviceDescription, maximum_length) == 0x20);
};

/// `DRIVER_LIST_CONTROL`.
type ListControl = unsafe extern "win64" fn(*mut DeviceObject, *mut Irp, *mut ScatterGatherList, *mut c_void);
/// `DRIVER_CONTROL`.
type AdapterControl = unsafe extern "win64" fn(*mut DeviceObject, *mut Irp, *mut c_void, *mut c_void) -> i32;

/// `DMA_ADAPTER`, and what is behind it.
#[repr(C)]
pub struct Adapter {
    version: u16,
    size: u16,
    operations: *const Operations,
    /// Lists, common buffers and channels that were not given back.
    outstanding: AtomicI32,
    registers: u32,
    highest: u64,
}

/// `DMA_OPERATIONS`, versions 1 to 3. What a version does not have is NULL and past its size.
#[repr(C)]
pub struct Operations {
    size: u32,
    put_adapter: unsafe extern "win64" fn(*mut Adapter),
    allocate_common: unsafe extern "win64" fn(*mut Adapter, u32, *mut u64, u8) -> *mut c_void,
    free_common: unsafe extern "win64" fn(*mut Adapter, u32, u64, *mut c_void, u8),
    allocate_channel:
        unsafe extern "win64" fn(*mut Adapter, *mut DeviceObject, u32, AdapterControl, *mut c_void) -> NtStatus,
    flush: unsafe extern "win64" fn(*mut Adapter, *mut Mdl, *mut c_void, *mut c_void, u32, u8) -> u8,
    free_channel: unsafe extern "win64" fn(*mut Adapter),
    free_registers: unsafe extern "win64" fn(*mut Adapter, *mut c_void, u32),
    map_transfer: unsafe extern "win64" fn(*mut Adapter, *mut Mdl, *mut c_void, *mut c_void, *mut u32, u8) -> u64,
    alignment: unsafe extern "win64" fn(*mut Adapter) -> u32,
    read_counter: unsafe extern "win64" fn(*mut Adapter) -> u32,
    get_list: unsafe extern "win64" fn(
        *mut Adapter,
        *mut DeviceObject,
        *mut Mdl,
        *mut c_void,
        u32,
        ListControl,
        *mut c_void,
        u8,
    ) -> NtStatus,
    put_list: unsafe extern "win64" fn(*mut Adapter, *mut ScatterGatherList, u8),
    calculate_list: unsafe extern "win64" fn(*mut Adapter, *mut Mdl, *mut c_void, u32, *mut u32, *mut u32) -> NtStatus,
    build_list: unsafe extern "win64" fn(
        *mut Adapter,
        *mut DeviceObject,
        *mut Mdl,
        *mut c_void,
        u32,
        ListControl,
        *mut c_void,
        u8,
        *mut ScatterGatherList,
        u32,
    ) -> NtStatus,
    build_mdl: unsafe extern "win64" fn(*mut Adapter, *mut ScatterGatherList, *mut Mdl, *mut *mut Mdl) -> NtStatus,
    get_info: unsafe extern "win64" fn(*mut Adapter, *mut AdapterInfo) -> NtStatus,
    get_transfer_info: unsafe extern "win64" fn(*mut Adapter, *mut Mdl, u64, u32, u8, *mut TransferInfo) -> NtStatus,
    /// InitializeDmaTransferContext and what follows it in version 3: a driver that wants those asks for a system DMA
    /// controller or for an IOMMU, which this machine does not have.
    rest: [*const c_void; 12],
}
// SAFETY: constant.
unsafe impl Sync for Operations {}

const _: () = {
    assert!(offset_of!(Operations, get_list) == 0x58 && offset_of!(Operations, build_mdl) == 0x78);
    assert!(offset_of!(Operations, get_info) == 0x80);
};

static OPERATIONS: [Operations; 3] = [
    operations(offset_of!(Operations, calculate_list)),
    operations(offset_of!(Operations, get_info)),
    operations(offset_of!(Operations, rest)),
];

const fn operations(size: usize) -> Operations {
    Operations {
        size: size as u32,
        put_adapter,
        allocate_common,
        free_common,
        allocate_channel,
        flush,
        free_channel,
        free_registers,
        map_transfer,
        alignment,
        read_counter,
        get_list,
        put_list,
        calculate_list,
        build_list,
        build_mdl,
        get_info,
        get_transfer_info,
        rest: [ptr::null(); 12],
    }
}

/// `DMA_ADAPTER_INFO`, version 1.
#[repr(C)]
pub struct AdapterInfo {
    version: u32,
    read_counter_available: u32,
    flags: u32,
    flags2: u32,
}

/// `DMA_TRANSFER_INFO`, version 1.
#[repr(C)]
pub struct TransferInfo {
    version: u32,
    map_registers: u32,
    elements: u32,
    list_size: u32,
}

/// Makes an adapter for a device. IRQL = PASSIVE_LEVEL. NULL: the description is not valid or there is no memory.
///
/// # Safety
/// The description is valid; `registers` is valid.
pub unsafe fn new_adapter(
    device: *mut DeviceObject,
    description: *const DeviceDescription,
    registers: *mut u32,
) -> *mut Adapter {
    let _ = device;
    // SAFETY: per the contract.
    unsafe {
        let version = (*description).version;
        // A slave device needs a DMA controller.
        if version > 3 || (*description).master == 0 {
            return ptr::null_mut();
        }
        let adapter = pool_alloc(size_of::<Adapter>(), TAG).cast::<Adapter>();
        if adapter.is_null() {
            return adapter;
        }
        let pages = (u64::from((*description).maximum_length).div_ceil(PAGE) + 1).min(0x10_0000);
        let shape = version.clamp(1, 3) as usize;
        adapter.write(Adapter {
            version: shape as u16,
            size: size_of::<Adapter>() as u16,
            operations: &raw const OPERATIONS[shape - 1],
            outstanding: AtomicI32::new(0),
            registers: pages as u32,
            highest: if (*description).dma64 != 0 { u64::MAX } else { 0xffff_ffff },
        });
        if !registers.is_null() {
            *registers = pages as u32;
        }
        adapter
    }
}

unsafe extern "win64" fn put_adapter(adapter: *mut Adapter) {
    // SAFETY: the driver's adapter.
    unsafe {
        let left = (*adapter).outstanding.load(Ordering::Acquire);
        if left != 0 {
            violation("DMA", format_args!("PutDmaAdapter with {left} lists, channels or buffers not given back"));
        }
    }
    pool_free(adapter.cast(), TAG);
}

unsafe extern "win64" fn allocate_common(
    adapter: *mut Adapter,
    length: u32,
    address: *mut u64,
    _cached: u8,
) -> *mut c_void {
    // SAFETY: the driver's pointers.
    unsafe {
        let memory = crate::mm::memory::MmAllocateContiguousMemory(length as usize, (*adapter).highest);
        if !memory.is_null() {
            ptr::write_bytes(memory.cast::<u8>(), 0, length as usize);
            *address = crate::mm::memory::MmGetPhysicalAddress(memory);
            (*adapter).outstanding.fetch_add(1, Ordering::AcqRel);
        }
        memory
    }
}

unsafe extern "win64" fn free_common(adapter: *mut Adapter, _: u32, _: u64, memory: *mut c_void, _: u8) {
    // SAFETY: what `allocate_common` gave.
    unsafe {
        (*adapter).outstanding.fetch_sub(1, Ordering::AcqRel);
        crate::mm::memory::MmFreeContiguousMemory(memory);
    }
}

/// The physical address of a place in an MDL's buffer and the bytes that follow it contiguously, within `length`.
unsafe fn piece(mdl: *const Mdl, offset: u64, length: u64) -> (u64, u64) {
    // SAFETY: the place is within the MDL.
    unsafe {
        let at = u64::from((*mdl).byte_offset) + offset;
        let (mut page, within) = (at / PAGE, at % PAGE);
        let frames = (*mdl).frames();
        let first = frames.add(page as usize).read();
        let mut bytes = PAGE - within;
        while bytes < length && frames.add(page as usize + 1).read() == frames.add(page as usize).read() + 1 {
            page += 1;
            bytes += PAGE;
        }
        (first * PAGE + within, bytes.min(length))
    }
}

/// Calls `each` with the contiguous pieces of a buffer that may span a chain of MDLs. False: it runs past their end.
unsafe fn pieces(mut mdl: *const Mdl, va: *mut c_void, length: u32, mut each: impl FnMut(u64, u32)) -> bool {
    // SAFETY: the driver's MDL chain.
    unsafe {
        let mut left = u64::from(length);
        let mut offset = (va as usize).wrapping_sub((*mdl).virtual_address()) as u64;
        while left != 0 {
            while !mdl.is_null() && offset >= u64::from((*mdl).byte_count) {
                offset -= u64::from((*mdl).byte_count);
                mdl = (*mdl).next;
            }
            if mdl.is_null() {
                return false;
            }
            let here = (u64::from((*mdl).byte_count) - offset).min(left);
            let (address, bytes) = piece(mdl, offset, here);
            each(address, bytes as u32);
            offset += bytes;
            left -= bytes;
        }
        true
    }
}

unsafe extern "win64" fn calculate_list(
    _: *mut Adapter,
    mdl: *mut Mdl,
    va: *mut c_void,
    length: u32,
    size: *mut u32,
    registers: *mut u32,
) -> NtStatus {
    let within = (va as u64) % PAGE;
    let mut pages = (within + u64::from(length)).div_ceil(PAGE);
    // Each MDL of a chain may start and end within a page.
    let mut at = mdl;
    while !at.is_null() {
        pages += 1;
        // SAFETY: the driver's chain.
        at = unsafe { (*at).next };
    }
    // SAFETY: the driver's pointers.
    unsafe {
        *size = (size_of::<ScatterGatherList>() as u64 + pages * size_of::<Element>() as u64) as u32;
        if !registers.is_null() {
            *registers = pages as u32;
        }
    }
    STATUS_SUCCESS
}

unsafe fn fill(list: *mut ScatterGatherList, room: u32, mdl: *mut Mdl, va: *mut c_void, length: u32) -> NtStatus {
    // SAFETY: the list has `room` bytes.
    unsafe {
        let most = (room as usize).saturating_sub(size_of::<ScatterGatherList>()) / size_of::<Element>();
        let elements = list.add(1).cast::<Element>();
        let mut count = 0;
        let whole = pieces(mdl, va, length, |address, length| {
            if count < most {
                elements.add(count).write(Element { address, length, reserved: 0 });
            }
            count += 1;
        });
        if !whole {
            violation("DMA", format_args!("a scatter/gather list of {length} bytes runs past its MDL"));
        }
        if count > most {
            return STATUS_BUFFER_TOO_SMALL;
        }
        list.write(ScatterGatherList { count: count as u32, reserved: 0 });
        STATUS_SUCCESS
    }
}

unsafe extern "win64" fn get_list(
    adapter: *mut Adapter,
    device: *mut DeviceObject,
    mdl: *mut Mdl,
    va: *mut c_void,
    length: u32,
    routine: ListControl,
    context: *mut c_void,
    write: u8,
) -> NtStatus {
    let _ = write;
    // SAFETY: the driver's arguments.
    unsafe {
        if crate::ke::KeGetCurrentIrql() != 2 {
            violation("DMA-IRQL", format_args!("GetScatterGatherList is called at DISPATCH_LEVEL only"));
        }
        let mut size = 0;
        calculate_list(adapter, mdl, va, length, &raw mut size, ptr::null_mut());
        // One element of no use behind the list tells lists from pool and lists of the caller apart.
        let memory = pool_alloc(size as usize, TAG).cast::<ScatterGatherList>();
        if memory.is_null() {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        let status = fill(memory, size, mdl, va, length);
        if status < 0 {
            pool_free(memory.cast(), TAG);
            return status;
        }
        (*memory).reserved = 0x4C6F_6F50;
        (*adapter).outstanding.fetch_add(1, Ordering::AcqRel);
        routine(device, (*device).current_irp, memory, context);
        STATUS_SUCCESS
    }
}

unsafe extern "win64" fn build_list(
    adapter: *mut Adapter,
    device: *mut DeviceObject,
    mdl: *mut Mdl,
    va: *mut c_void,
    length: u32,
    routine: ListControl,
    context: *mut c_void,
    _write: u8,
    buffer: *mut ScatterGatherList,
    room: u32,
) -> NtStatus {
    // SAFETY: the driver's arguments.
    unsafe {
        let status = fill(buffer, room, mdl, va, length);
        if status < 0 {
            return status;
        }
        (*adapter).outstanding.fetch_add(1, Ordering::AcqRel);
        routine(device, (*device).current_irp, buffer, context);
        STATUS_SUCCESS
    }
}

unsafe extern "win64" fn put_list(adapter: *mut Adapter, list: *mut ScatterGatherList, _write: u8) {
    // SAFETY: a list of `get_list` or `build_list`.
    unsafe {
        if (*adapter).outstanding.fetch_sub(1, Ordering::AcqRel) <= 0 {
            violation("DMA", format_args!("PutScatterGatherList without a list"));
        }
        if (*list).reserved == 0x4C6F_6F50 {
            pool_free(list.cast(), TAG);
        }
    }
}

unsafe extern "win64" fn build_mdl(
    _: *mut Adapter,
    _list: *mut ScatterGatherList,
    original: *mut Mdl,
    target: *mut *mut Mdl,
) -> NtStatus {
    if original.is_null() {
        return STATUS_INVALID_PARAMETER;
    }
    // SAFETY: the driver's pointers. Nothing was bounced: the original describes the same pages.
    unsafe { *target = original };
    STATUS_SUCCESS
}

unsafe extern "win64" fn allocate_channel(
    adapter: *mut Adapter,
    device: *mut DeviceObject,
    registers: u32,
    routine: AdapterControl,
    context: *mut c_void,
) -> NtStatus {
    // SAFETY: the driver's arguments.
    unsafe {
        if registers > (*adapter).registers {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        // KeepObject = 1, DeallocateObject = 2, DeallocateObjectKeepRegisters = 3.
        (*adapter).outstanding.fetch_add(1, Ordering::AcqRel);
        let base = adapter.cast::<c_void>();
        if routine(device, (*device).current_irp, base, context) == 2 {
            (*adapter).outstanding.fetch_sub(1, Ordering::AcqRel);
        }
        STATUS_SUCCESS
    }
}

unsafe extern "win64" fn free_channel(adapter: *mut Adapter) {
    // SAFETY: the driver's adapter.
    unsafe { (*adapter).outstanding.fetch_sub(1, Ordering::AcqRel) };
}

unsafe extern "win64" fn free_registers(adapter: *mut Adapter, _base: *mut c_void, _count: u32) {
    // SAFETY: the driver's adapter.
    unsafe { (*adapter).outstanding.fetch_sub(1, Ordering::AcqRel) };
}

unsafe extern "win64" fn map_transfer(
    _: *mut Adapter,
    mdl: *mut Mdl,
    _base: *mut c_void,
    va: *mut c_void,
    length: *mut u32,
    _write: u8,
) -> u64 {
    // SAFETY: the driver's arguments.
    unsafe {
        let offset = (va as usize).wrapping_sub((*mdl).virtual_address()) as u64;
        let left = u64::from((*mdl).byte_count).saturating_sub(offset);
        let (address, bytes) = piece(mdl, offset, u64::from(*length).min(left));
        *length = bytes as u32;
        address
    }
}

unsafe extern "win64" fn flush(_: *mut Adapter, _: *mut Mdl, _: *mut c_void, _: *mut c_void, _: u32, _write: u8) -> u8 {
    1
}

unsafe extern "win64" fn alignment(_: *mut Adapter) -> u32 {
    1
}

unsafe extern "win64" fn read_counter(_: *mut Adapter) -> u32 {
    0
}

unsafe extern "win64" fn get_info(_: *mut Adapter, info: *mut AdapterInfo) -> NtStatus {
    // SAFETY: the driver's pointer.
    unsafe {
        if (*info).version != 1 {
            return STATUS_NOT_SUPPORTED;
        }
        (*info).read_counter_available = 0;
        (*info).flags = 0;
        (*info).flags2 = 0;
    }
    STATUS_SUCCESS
}

unsafe extern "win64" fn get_transfer_info(
    adapter: *mut Adapter,
    mdl: *mut Mdl,
    offset: u64,
    length: u32,
    _write: u8,
    info: *mut TransferInfo,
) -> NtStatus {
    // SAFETY: the driver's pointers.
    unsafe {
        if (*info).version != 1 {
            return STATUS_NOT_SUPPORTED;
        }
        let va = ((*mdl).virtual_address() as u64 + offset) as *mut c_void;
        let (mut size, mut registers) = (0, 0);
        calculate_list(adapter, mdl, va, length, &raw mut size, &raw mut registers);
        (*info).map_registers = registers;
        (*info).elements = registers;
        (*info).list_size = size;
    }
    STATUS_SUCCESS
}
