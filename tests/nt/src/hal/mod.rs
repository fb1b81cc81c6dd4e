//! What drivers import from hal.dll besides time: DMA adapters, bus data, the old ways to translate addresses.
// The names are those of the exports; the contract of each function is the one its documentation gives it.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

pub mod dma;

use crate::io::abi::*;
use crate::platform::{PciAddress, platform};
use core::ffi::c_void;

/// PCIConfiguration of `BUS_DATA_TYPE`.
const PCI_CONFIGURATION: i32 = 4;

/// The DMA adapter of a device: its bus driver's, through BUS_INTERFACE_STANDARD, or the system's. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn IoGetDmaAdapter(
    pdo: *mut DeviceObject,
    description: *mut dma::DeviceDescription,
    registers: *mut u32,
) -> *mut c_void {
    // SAFETY: per the contract.
    unsafe {
        if !pdo.is_null() {
            // GUID_BUS_INTERFACE_STANDARD
            let guid = crate::rtl::abi::Guid {
                data1: 0x496b_8280,
                data2: 0x6f25,
                data3: 0x11d0,
                data4: [0xbe, 0xaf, 0x08, 0x00, 0x2b, 0xe2, 0x09, 0x2f],
            };
            let mut interface: BusInterfaceStandard = core::mem::zeroed();
            let size = size_of::<BusInterfaceStandard>() as u16;
            interface.head.size = size;
            interface.head.version = 1;
            let to = (&raw mut interface).cast();
            if crate::pnp::send::query_interface(pdo, &guid, size, 1, to) >= 0 {
                let adapter = interface
                    .get_dma_adapter
                    .map_or(core::ptr::null_mut(), |get| get(interface.head.context, description.cast(), registers));
                if let Some(dereference) = interface.head.dereference {
                    dereference(interface.head.context);
                }
                if !adapter.is_null() {
                    return adapter;
                }
            }
        }
        dma::new_adapter(pdo, description, registers).cast()
    }
}

/// The adapter of a device without PDO. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn HalGetAdapter(
    description: *mut dma::DeviceDescription,
    registers: *mut u32,
) -> *mut c_void {
    // SAFETY: per the contract.
    unsafe { dma::new_adapter(core::ptr::null_mut(), description, registers).cast() }
}

/// A slot number as a PCI address.
fn pci_slot(bus: u32, slot: u32) -> PciAddress {
    PciAddress { bus: bus as u8, device: (slot & 0x1f) as u8, function: (slot >> 5 & 7) as u8 }
}

/// Reads bus data: PCI configuration space. IRQL <= DISPATCH_LEVEL. 0: no such bus; 2: an empty slot (its vendor reads
/// as ones); else the bytes read.
///
/// # Safety
/// The buffer has `length` bytes.
pub unsafe extern "win64" fn HalGetBusDataByOffset(
    kind: i32,
    bus: u32,
    slot: u32,
    buffer: *mut c_void,
    offset: u32,
    length: u32,
) -> u32 {
    if kind != PCI_CONFIGURATION || bus > 255 || offset >= 4096 {
        return 0;
    }
    let at = pci_slot(bus, slot);
    let length = length.min(4096 - offset);
    let here = platform().pci_functions().contains(&at);
    // SAFETY: per the contract.
    let bytes = unsafe { core::slice::from_raw_parts_mut(buffer.cast::<u8>(), length as usize) };
    if !here {
        bytes.fill(0xff);
        return length.min(2);
    }
    platform().pci_read(at, offset as u16, bytes);
    length
}

/// As [`HalGetBusDataByOffset`] from the start.
///
/// # Safety
/// As there.
pub unsafe extern "win64" fn HalGetBusData(kind: i32, bus: u32, slot: u32, buffer: *mut c_void, length: u32) -> u32 {
    // SAFETY: per the contract.
    unsafe { HalGetBusDataByOffset(kind, bus, slot, buffer, 0, length) }
}

/// Writes bus data. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The buffer has `length` bytes.
pub unsafe extern "win64" fn HalSetBusDataByOffset(
    kind: i32,
    bus: u32,
    slot: u32,
    buffer: *const c_void,
    offset: u32,
    length: u32,
) -> u32 {
    let at = pci_slot(bus, slot);
    if kind != PCI_CONFIGURATION || bus > 255 || offset >= 4096 || !platform().pci_functions().contains(&at) {
        return 0;
    }
    let length = length.min(4096 - offset);
    // SAFETY: per the contract.
    let bytes = unsafe { core::slice::from_raw_parts(buffer.cast::<u8>(), length as usize) };
    platform().pci_write(at, offset as u16, bytes);
    length
}

/// As [`HalSetBusDataByOffset`] from the start.
///
/// # Safety
/// As there.
pub unsafe extern "win64" fn HalSetBusData(kind: i32, bus: u32, slot: u32, buffer: *const c_void, length: u32) -> u32 {
    // SAFETY: per the contract.
    unsafe { HalSetBusDataByOffset(kind, bus, slot, buffer, 0, length) }
}

/// Bus address to system address: the same. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn HalTranslateBusAddress(
    _interface: i32,
    _bus: u32,
    address: u64,
    _space: *mut u32,
    translated: *mut u64,
) -> u8 {
    // SAFETY: per the contract.
    unsafe { *translated = address };
    1
}

/// The vector of an interrupt line, its IRQL and its processors. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The pointers are valid.
pub unsafe extern "win64" fn HalGetInterruptVector(
    _interface: i32,
    _bus: u32,
    level: u32,
    _vector: u32,
    irql: *mut u8,
    affinity: *mut u64,
) -> u32 {
    use crate::pnp::resource::{IoDescriptor, Requirements, SHARE_SHARED};
    // A line that no device of the tree uses gets a vector now; the legacy caller owns it for good.
    const LEGACY: u64 = u64::MAX;
    let line = IoDescriptor::interrupt(SHARE_SHARED, 0, level, level);
    let asked = Requirements { lists: alloc::vec![alloc::vec![line]], ..Requirements::default() };
    let Some(done) = crate::pnp::with(|tree| tree.arbiter.assign(&asked, &[], LEGACY)) else { return 0 };
    let Some(found) = done.translated.first() else { return 0 };
    // SAFETY: per the contract.
    unsafe {
        *irql = found.level() as u8;
        *affinity = found.affinity();
    }
    found.vector()
}

/// Assigns the resources of a slot the old way: not supported for PnP buses. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn HalAssignSlotResources(
    _path: *mut c_void,
    _class: *mut c_void,
    _driver: *mut DriverObject,
    _device: *mut DeviceObject,
    _bus_type: i32,
    _bus: u32,
    _slot: u32,
    _resources: *mut *mut c_void,
) -> NtStatus {
    crate::status::STATUS_NOT_SUPPORTED
}

/// The PC speaker at a frequency in Hz, or silent at 0. IRQL <= DISPATCH_LEVEL.
///
/// # Safety
/// None needed.
pub unsafe extern "win64" fn HalMakeBeep(frequency: u32) -> u8 {
    const PIT: u32 = 1_193_182;
    let machine = platform();
    let gate = machine.port_read(0x61, 1);
    if frequency == 0 {
        machine.port_write(0x61, 1, gate & !3);
        return 1;
    }
    let divisor = PIT / frequency;
    if !(1..=0xffff).contains(&divisor) {
        return 0;
    }
    machine.port_write(0x43, 1, 0xb6);
    machine.port_write(0x42, 1, divisor & 0xff);
    machine.port_write(0x42, 1, divisor >> 8);
    machine.port_write(0x61, 1, gate | 3);
    1
}

crate::exports! {
    /// Names of hal.dll in this area.
    pub static EXPORTS in "hal.dll";
    fn HalGetAdapter;
    fn HalGetBusData;
    fn HalGetBusDataByOffset;
    fn HalSetBusData;
    fn HalSetBusDataByOffset;
    fn HalTranslateBusAddress;
    fn HalGetInterruptVector;
    fn HalAssignSlotResources;
    fn HalMakeBeep;
    fn IoGetDmaAdapter;
}
