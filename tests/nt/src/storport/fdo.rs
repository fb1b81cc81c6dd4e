//! The adapter's device object: start, stop, removal, power, and the scan of its buses.
//! <https://learn.microsoft.com/windows-hardware/drivers/storage/storport-driver-initialization>

use super::abi::*;
use super::adapter::{Adapter, NON_PAGED_POOL_NX, Place, TAG};
use super::dma::{DeviceDescription, DmaAdapter};
use super::driver::{self, finish, pass, pass_and_wait};
use super::performance::Performance;
use super::{change, interrupt, pdo, timer, violation};
use crate::ex::ExAllocatePoolWithTag;
use crate::io::abi::{DeviceRelations, Irp, mn};
use crate::io::device::IoDetachDevice;
use crate::io::irp::current;
use crate::ke::abi::DISPATCH_LEVEL;
use crate::ke::irql::*;
use crate::pnp::interface;
use crate::pnp::resource::{
    CmDescriptor, INTERRUPT_LATCHED, TYPE_INTERRUPT, TYPE_MEMORY, TYPE_MEMORY_LARGE, TYPE_PORT, parse_cm_resource_list,
};
use crate::rtl::abi::Guid;
use crate::status::*;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::Ordering;

/// BusRelations of IRP_MN_QUERY_DEVICE_RELATIONS.
const BUS_RELATIONS: i32 = 0;

/// IRP_MJ_PNP.
///
/// # Safety
/// The caller owns the IRP, which is for the adapter's device object.
pub unsafe fn pnp(adapter: &Arc<Adapter>, irp: *mut Irp) -> NtStatus {
    // SAFETY: the caller's promise.
    unsafe {
        let location = *current(irp);
        match location.minor {
            mn::START_DEVICE => {
                let below = pass_and_wait(adapter.lower, irp);
                let status = if nt_success(below) {
                    let lists = location.parameters.start;
                    start(adapter, &descriptors(lists.raw), &descriptors(lists.translated))
                } else {
                    below
                };
                finish(irp, status, 0)
            }
            mn::QUERY_DEVICE_RELATIONS if location.parameters.relation_type == BUS_RELATIONS => {
                let changed = adapter.change.lock().is_some();
                if adapter.state.lock().running {
                    scan(adapter);
                }
                let status = report(adapter, irp);
                if changed && adapter.state.lock().running {
                    change::seen(adapter);
                }
                if !nt_success(status) {
                    return finish(irp, status, 0);
                }
                (*irp).io_status.status = status;
                pass(adapter.lower, irp)
            }
            mn::STOP_DEVICE => {
                stop(adapter, false);
                (*irp).io_status.status = STATUS_SUCCESS;
                pass(adapter.lower, irp)
            }
            mn::SURPRISE_REMOVAL => {
                if adapter.controls.lock()[SCSI_ADAPTER_SURPRISE_REMOVAL as usize] != 0 {
                    control_adapter(adapter, SCSI_ADAPTER_SURPRISE_REMOVAL);
                }
                stop(adapter, true);
                (*irp).io_status.status = STATUS_SUCCESS;
                pass(adapter.lower, irp)
            }
            mn::REMOVE_DEVICE => {
                stop(adapter, true);
                remove(adapter);
                (*irp).io_status.status = STATUS_SUCCESS;
                let lower = adapter.lower;
                let status = pass(lower, irp);
                IoDetachDevice(lower);
                let fdo = adapter.fdo;
                driver::forget(&adapter.clone());
                driver::delete(fdo);
                status
            }
            mn::QUERY_STOP_DEVICE | mn::CANCEL_STOP_DEVICE | mn::QUERY_REMOVE_DEVICE | mn::CANCEL_REMOVE_DEVICE => {
                (*irp).io_status.status = STATUS_SUCCESS;
                pass(adapter.lower, irp)
            }
            _ => pass(adapter.lower, irp),
        }
    }
}

/// The descriptors of a `CM_RESOURCE_LIST`, none of a null one.
///
/// # Safety
/// The list is null or whole.
unsafe fn descriptors(list: *mut c_void) -> Vec<CmDescriptor> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = crate::pnp::send::cm_list_bytes(list.cast());
        parse_cm_resource_list(core::slice::from_raw_parts(list.cast::<u8>(), bytes)).unwrap_or_default()
    }
}

/// Finds and initializes the adapter. IRQL = PASSIVE_LEVEL.
fn start(adapter: &Arc<Adapter>, raw: &[CmDescriptor], translated: &[CmDescriptor]) -> NtStatus {
    if adapter.extension().is_null() && !adapter.make_extension() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    let mut ranges: Vec<AccessRange> = raw
        .iter()
        .filter(|d| matches!(d.kind, TYPE_PORT | TYPE_MEMORY | TYPE_MEMORY_LARGE))
        .map(|d| AccessRange { start: d.start(), length: d.length(), in_memory: u8::from(d.kind != TYPE_PORT) })
        .collect();
    let wanted = adapter.hw.number_of_access_ranges as usize;
    while ranges.len() < wanted {
        ranges.push(AccessRange { start: 0, length: 0, in_memory: 0 });
    }
    let config = adapter.config.get();
    let again = &mut 0u8;
    // SAFETY: nothing of the miniport runs yet; the routines are called as documented, at PASSIVE_LEVEL.
    let found = unsafe {
        prepare(adapter, &mut *config, &mut ranges);
        place(adapter, &mut *config, raw);
        query_controls(adapter);
        let Some(find) = adapter.hw.hw_find_adapter else { return STATUS_INVALID_PARAMETER };
        let (extension, arguments) = (adapter.extension(), c"".as_ptr().cast::<u8>());
        if adapter.is_virtual() {
            let find = core::mem::transmute::<HwFindAdapter, VirtualHwFindAdapter>(find);
            let (pdo, fdo, lower) = (adapter.pdo.cast(), adapter.fdo.cast(), adapter.lower.cast());
            find(extension, pdo, fdo, lower, arguments.cast(), config, again)
        } else {
            if adapter.dma.load(Ordering::Acquire).is_null() {
                get_dma(adapter);
            }
            find(extension, adapter.hw_context, ptr::null_mut(), arguments, config, again)
        }
    };
    // The ranges are the miniport's during HwStorFindAdapter alone.
    // SAFETY: as above.
    unsafe { (*config).access_ranges = ptr::null_mut() };
    if found != SP_RETURN_FOUND {
        release(adapter);
        return match found {
            SP_RETURN_NOT_FOUND => STATUS_DEVICE_DOES_NOT_EXIST,
            SP_RETURN_BAD_CONFIG => STATUS_DEVICE_CONFIGURATION_ERROR,
            _ => STATUS_UNSUCCESSFUL,
        };
    }
    adapter.found.store(true, Ordering::Release);
    // SAFETY: as above.
    unsafe { settle(&mut *config) };
    if adapter.is_virtual() && adapter.config().virtual_device == 0 {
        violation("HwStorFindAdapter of a virtual miniport left VirtualDevice FALSE", 0, 0);
    }
    if let Err(status) = interrupt::connect_all(adapter, raw, translated) {
        release(adapter);
        return status;
    }
    if !initialize(adapter) {
        interrupt::disconnect_all(adapter);
        release(adapter);
        return STATUS_DEVICE_CONFIGURATION_ERROR;
    }
    adapter.state.lock().running = true;
    adapter.start_clock();
    show(adapter);
    STATUS_SUCCESS
}

/// GUID_DEVINTERFACE_STORAGEPORT.
/// <https://learn.microsoft.com/windows-hardware/drivers/install/guid-devinterface-storageport>
const STORAGE_PORT: Guid =
    Guid { data1: 0x2acc_fe60, data2: 0xc130, data3: 0x11d2, data4: [0xb0, 0x82, 0x00, 0xa0, 0xc9, 0x1e, 0xfb, 0x8b] };

/// Opens the adapter to programs: its interface is what they send requests to. IRQL = PASSIVE_LEVEL.
fn show(adapter: &Adapter) {
    let known = *adapter.link.lock();
    // SAFETY: the PDO stands below this adapter; the link is the adapter's until it is removed.
    unsafe {
        let mut link = known.unwrap_or(core::mem::zeroed());
        if known.is_none() {
            let status = interface::IoRegisterDeviceInterface(adapter.pdo, &STORAGE_PORT, ptr::null(), &raw mut link);
            if !nt_success(status) {
                return;
            }
            *adapter.link.lock() = Some(link);
        }
        interface::IoSetDeviceInterfaceState(&raw const link, 1);
    }
}

/// Takes that back. IRQL = PASSIVE_LEVEL.
fn hide(adapter: &Adapter) {
    if let Some(mut link) = adapter.link.lock().take() {
        // SAFETY: the link came with the registration.
        unsafe {
            interface::IoSetDeviceInterfaceState(&raw const link, 0);
            crate::rtl::string::RtlFreeUnicodeString(&raw mut link);
        }
    }
}

/// HwStorInitialize at DIRQL (at DISPATCH_LEVEL without an interrupt), then HwStorPassiveInitialize.
fn initialize(adapter: &Adapter) -> bool {
    let Some(routine) = adapter.hw.hw_initialize else { return false };
    adapter.passive_initialize.store(0, Ordering::Release);
    adapter.state.lock().performance = Performance::opened();
    // SAFETY: the miniport's routines, called as documented.
    let good = unsafe {
        let irql = KfRaiseIrql(DISPATCH_LEVEL);
        let good = interrupt::with_lock(adapter, || routine(adapter.extension())) != 0;
        KeLowerIrql(irql);
        let passive = adapter.passive_initialize.load(Ordering::Acquire);
        if good && passive != 0 {
            let passive = core::mem::transmute::<usize, HwBoolean>(passive);
            passive(adapter.extension()) != 0
        } else {
            good
        }
    };
    adapter.state.lock().performance.open = false;
    good
}

/// What HwStorFindAdapter gets.
fn prepare(adapter: &Adapter, config: &mut PortConfiguration, ranges: &mut [AccessRange]) {
    // SAFETY: all zero is valid for this structure of integers, pointers and options.
    *config = unsafe { core::mem::zeroed() };
    config.length = size_of::<PortConfiguration>() as u32;
    config.interface_type = adapter.hw.interface_type;
    config.maximum_transfer_length = SP_UNINITIALIZED_VALUE;
    config.number_of_physical_breaks = SP_UNINITIALIZED_VALUE;
    config.dma_isa[0] = SP_UNINITIALIZED_VALUE;
    config.dma_isa[1] = SP_UNINITIALIZED_VALUE;
    config.number_of_access_ranges = ranges.len() as u32;
    config.access_ranges = ranges.as_mut_ptr();
    config.initiator_bus_id = [0xff; 8];
    config.scatter_gather = 1;
    config.master = 1;
    config.map_buffers = adapter.hw.map_buffers;
    config.need_physical_addresses = 1;
    config.tagged_queuing = 1;
    config.auto_request_sense = 1;
    config.multiple_request_per_lu = 1;
    config.maximum_number_of_targets = 255;
    config.srb_type = u8::from(adapter.extended_srbs());
    config.device_extension_size = adapter.hw.device_extension_size;
    config.lu_extension_size = adapter.hw.lu_extension_size;
    config.srb_extension_size = adapter.hw.srb_extension_size;
    // SCSI_DMA64_SYSTEM_SUPPORTED
    config.dma_64_bit_addresses = 0x80;
    config.maximum_number_of_logical_units = 8;
    config.max_number_of_io = 1000;
    config.max_ios_per_lun = 255;
    config.initial_lun_queue_depth = 20;
}

/// Says where the adapter is and which interrupt its bus gave it: a miniport hands bus and slot back with its requests for
/// configuration space.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/ns-storport-_port_configuration_information>
fn place(adapter: &Adapter, config: &mut PortConfiguration, raw: &[CmDescriptor]) {
    if let Some(interrupt) = raw.iter().find(|d| d.kind == TYPE_INTERRUPT) {
        config.bus_interrupt_level = u32::from(interrupt.level());
        config.bus_interrupt_vector = interrupt.vector();
        // Latched is 1.
        config.interrupt_mode = u32::from(interrupt.flags & INTERRUPT_LATCHED != 0);
    }
    // SAFETY: the PDO stands below this adapter.
    if let Some(at) = unsafe { crate::pnp::pci::address_of(adapter.pdo) } {
        config.system_io_bus_number = u32::from(at.bus);
        // PCI_SLOT_NUMBER
        config.slot_number = u32::from(at.device) | u32::from(at.function) << 5;
    }
}

/// Bounds what the miniport filled in.
fn settle(config: &mut PortConfiguration) {
    if config.number_of_buses == 0 {
        config.number_of_buses = 1;
    }
    if config.maximum_transfer_length == 0 {
        violation("HwStorFindAdapter left MaximumTransferLength at 0", 0, 0);
    }
    config.maximum_number_of_targets = config.maximum_number_of_targets.max(1);
    config.maximum_number_of_logical_units = config.maximum_number_of_logical_units.max(1);
    config.max_ios_per_lun = config.max_ios_per_lun.max(1);
}

/// Asks which control types the miniport supports.
fn query_controls(adapter: &Adapter) {
    let lists = [
        (adapter.hw.hw_adapter_control, SCSI_ADAPTER_CONTROL_MAX, &adapter.controls),
        (adapter.hw.hw_unit_control, SCSI_UNIT_CONTROL_MAX, &adapter.unit_controls),
    ];
    for (routine, max, place) in lists {
        let Some(routine) = routine else { continue };
        let mut list = SupportedControlTypes { max_control_type: max, supported: [0; 32] };
        // SAFETY: the miniport's routine with the list it is documented to get.
        let answer =
            unsafe { routine(adapter.extension(), SCSI_QUERY_SUPPORTED_CONTROL_TYPES, (&raw mut list).cast()) };
        if answer == 0 {
            *place.lock() = list.supported;
        }
    }
}

/// Calls HwStorAdapterControl for a type without parameters. IRQL as the type says.
fn control_adapter(adapter: &Adapter, kind: u32) -> bool {
    let supported = adapter.controls.lock()[kind as usize] != 0;
    match adapter.hw.hw_adapter_control {
        // SAFETY: the miniport's routine, for a type that it supports.
        Some(routine) if supported => unsafe { routine(adapter.extension(), kind, ptr::null_mut()) == 0 },
        _ => false,
    }
}

/// Gets the DMA adapter of the PDO: from its bus, by the I/O manager.
fn get_dma(adapter: &Adapter) {
    let description = DeviceDescription {
        version: 2,
        flags: [1, 1, 0, 0, 0, 0, 0, 1],
        bus_number: 0,
        dma_channel: 0,
        interface_type: adapter.hw.interface_type,
        dma_width: 0,
        dma_speed: 0,
        maximum_length: u32::MAX,
        dma_port: 0,
        version3: [0; 6],
    };
    let mut registers = 0u32;
    // SAFETY: the PDO stands below this adapter.
    let dma = unsafe {
        crate::hal::IoGetDmaAdapter(adapter.pdo, (&raw const description).cast_mut().cast(), &raw mut registers)
    };
    adapter.dma.store(dma.cast::<DmaAdapter>(), Ordering::Release);
}

/// Stops the adapter: no request starts any more, the miniport is told, its interrupt goes. IRQL = PASSIVE_LEVEL.
fn stop(adapter: &Arc<Adapter>, for_good: bool) {
    adapter.going.fetch_or(for_good, Ordering::AcqRel);
    let was_running = core::mem::replace(&mut adapter.state.lock().running, false);
    if was_running {
        *adapter.change.lock() = None;
        adapter.stop_clock();
        // SAFETY: raised and lowered in pairs.
        unsafe {
            let irql = KfRaiseIrql(DISPATCH_LEVEL);
            control_adapter(adapter, SCSI_STOP_ADAPTER);
            KeLowerIrql(irql);
            crate::ke::KeFlushQueuedDpcs();
        }
        interrupt::disconnect_all(adapter);
    }
    if for_good
        && was_running
        && let Some(complete) = adapter.hw.hw_complete_service_irp.filter(|_| adapter.is_virtual())
    {
        // SAFETY: the virtual miniport's routine, at PASSIVE_LEVEL: it completes the service requests that it holds.
        unsafe { complete(adapter.extension()) };
    }
    if for_good {
        hide(adapter);
        let units: Vec<_> = adapter.state.lock().slots.iter().map(|s| s.unit.clone()).collect();
        for unit in units {
            unit.present.store(false, Ordering::Release);
        }
        adapter.fail_waiting();
    }
}

/// Gives back what the miniport had. IRQL = PASSIVE_LEVEL.
fn release(adapter: &Adapter) {
    if adapter.found.swap(false, Ordering::AcqRel)
        && adapter.is_virtual()
        && let Some(free) = adapter.hw.hw_free_adapter_resources
    {
        // SAFETY: the virtual miniport's routine, at PASSIVE_LEVEL.
        unsafe { free(adapter.extension()) };
    }
    if let Some((base, physical, bytes)) = adapter.uncached.lock().take() {
        let dma = adapter.dma.load(Ordering::Acquire);
        // SAFETY: allocated from this DMA adapter.
        unsafe {
            if let Some(free) = (*(*dma).operations).free_common_buffer {
                free(dma, bytes, physical, base as *mut c_void, 1);
            }
        }
    }
    let mappings = core::mem::take(&mut *adapter.mappings.lock());
    for (base, bytes) in mappings {
        // SAFETY: mapped for the miniport.
        unsafe { crate::mm::memory::MmUnmapIoSpace(base as *mut c_void, bytes) };
    }
    adapter.free_extension();
}

/// Ends the adapter. IRQL = PASSIVE_LEVEL.
fn remove(adapter: &Arc<Adapter>) {
    let held = adapter.in_flight();
    if held != 0 {
        // Windows would wait for them for ever. What the miniport still uses stays, so that it is seen as a leak.
        crate::io::kernel::note(format_args!(
            "storport {}: removed while its miniport has {held} requests",
            adapter.port
        ));
        core::mem::forget(adapter.clone());
        return;
    }
    let units: Vec<_> = adapter.state.lock().slots.iter().map(|s| s.unit.clone()).collect();
    for unit in units {
        adapter.remove_unit(&unit);
        let device = unit.pdo.swap(ptr::null_mut(), Ordering::AcqRel);
        if !device.is_null() {
            // SAFETY: the PnP manager removes the children before their parent.
            unsafe { driver::delete(device) };
        }
    }
    timer::end(adapter);
    release(adapter);
    let dma = adapter.dma.swap(ptr::null_mut(), Ordering::AcqRel);
    if !dma.is_null() {
        // SAFETY: got from the PDO; nothing uses it any more.
        unsafe {
            if let Some(put) = (*(*dma).operations).put_dma_adapter {
                put(dma);
            }
        }
    }
}

/// Looks for units at every place: INQUIRY to unit 0 of each target, then REPORT LUNS, else every unit in turn.
/// IRQL = PASSIVE_LEVEL.
pub fn scan(adapter: &Arc<Adapter>) {
    let config = adapter.config();
    let (buses, targets) = (config.number_of_buses, config.maximum_number_of_targets);
    let units = config.maximum_number_of_logical_units;
    for path in 0..buses {
        for target in 0..targets {
            if !probe(adapter, (path, target, 0)) {
                for lun in 1..units {
                    vanish(adapter, (path, target, lun));
                }
                continue;
            }
            let reported = report_luns(adapter, (path, target, 0));
            for lun in 1..units {
                let place = (path, target, lun);
                let there = match &reported {
                    Some(list) => list.contains(&lun) && probe(adapter, place),
                    None => probe(adapter, place),
                };
                if !there {
                    vanish(adapter, place);
                }
            }
        }
    }
}

/// Sends INQUIRY to a place; makes or forgets its unit.
fn probe(adapter: &Arc<Adapter>, place: Place) -> bool {
    let known = adapter.unit(place);
    let Some(unit) = known.clone().or_else(|| adapter.add_unit(place)) else { return false };
    let mut data = [0u8; 96];
    let mut answer = (SRB_STATUS_BUSY, 0);
    for _ in 0..3 {
        answer = adapter.execute(&unit, &[0x12, 0, 0, 0, 96, 0], &mut data, false);
        if matches!(answer.0, SRB_STATUS_SUCCESS | SRB_STATUS_DATA_OVERRUN) || answer.0 != SRB_STATUS_BUSY {
            break;
        }
    }
    // Qualifier 3: no device can be here; 1: none is here now.
    let there = matches!(answer.0, SRB_STATUS_SUCCESS | SRB_STATUS_DATA_OVERRUN) && answer.1 >= 36 && data[0] >> 5 == 0;
    if there {
        *unit.inquiry.lock() = data;
        unit.present.store(true, Ordering::Release);
    } else if known.is_some() {
        vanish(adapter, place);
    } else {
        adapter.remove_unit(&unit);
    }
    there
}

/// A unit does not answer any more: one that was reported goes by the PnP manager, another one at once.
fn vanish(adapter: &Arc<Adapter>, place: Place) {
    let Some(unit) = adapter.unit(place) else { return };
    unit.present.store(false, Ordering::Release);
    if !unit.reported.load(Ordering::Acquire) {
        adapter.remove_unit(&unit);
    }
}

/// REPORT LUNS, as far as single-level numbers below 256 go.
fn report_luns(adapter: &Arc<Adapter>, place: Place) -> Option<Vec<u8>> {
    let unit = adapter.unit(place)?;
    let mut data = alloc::vec![0u8; 2048];
    let cdb = [0xa0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0];
    let (status, moved) = adapter.execute(&unit, &cdb, &mut data, false);
    if !matches!(status, SRB_STATUS_SUCCESS | SRB_STATUS_DATA_OVERRUN) || moved < 8 {
        return None;
    }
    let bytes = u32::from_be_bytes([data[0], data[1], data[2], data[3]]) as usize;
    let end = (8 + bytes).min(moved as usize).min(data.len());
    Some(data[8..end].as_chunks::<8>().0.iter().filter(|e| e[0] == 0).map(|e| e[1]).collect())
}

/// Answers BusRelations with the units that are there.
///
/// # Safety
/// The caller owns the IRP.
unsafe fn report(adapter: &Arc<Adapter>, irp: *mut Irp) -> NtStatus {
    let units: Vec<_> = adapter.state.lock().slots.iter().map(|s| s.unit.clone()).collect();
    let mut devices = Vec::new();
    for unit in units {
        if !unit.present.load(Ordering::Acquire) {
            unit.reported.store(false, Ordering::Release);
            continue;
        }
        let Some(device) = pdo::device(adapter, &unit) else { return STATUS_INSUFFICIENT_RESOURCES };
        unit.reported.store(true, Ordering::Release);
        devices.push(device);
    }
    // SAFETY: the block has room for all devices; each is referenced, as the PnP manager wants it.
    unsafe {
        let bytes = size_of::<DeviceRelations>() + devices.len() * size_of::<usize>();
        let relations = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, bytes, TAG).cast::<DeviceRelations>();
        if relations.is_null() {
            return STATUS_INSUFFICIENT_RESOURCES;
        }
        (*relations).count = devices.len() as u32;
        let first = (&raw mut (*relations).objects).cast::<*mut crate::io::abi::DeviceObject>();
        for (i, device) in devices.iter().enumerate() {
            crate::ob::ObfReferenceObject((*device).cast());
            first.add(i).write(*device);
        }
        (*irp).io_status.information = relations as usize;
    }
    STATUS_SUCCESS
}

/// IRP_MJ_POWER: the adapter is told of device states, then the IRP goes down.
///
/// # Safety
/// The caller owns the IRP.
pub unsafe fn power(adapter: &Arc<Adapter>, irp: *mut Irp) -> NtStatus {
    // SAFETY: the caller's promise.
    unsafe {
        let location = *current(irp);
        let power = location.parameters.power;
        if location.minor == mn::SET_POWER && power.kind == 1 {
            // PowerDeviceD0 = 1
            let running = adapter.state.lock().running;
            if power.state > 1 && running {
                let irql = KfRaiseIrql(DISPATCH_LEVEL);
                control_adapter(adapter, SCSI_STOP_ADAPTER);
                KeLowerIrql(irql);
                adapter.state.lock().running = false;
            } else if power.state == 1 && !running && !adapter.extension().is_null() {
                let irql = KfRaiseIrql(DISPATCH_LEVEL);
                let restarted = control_adapter(adapter, SCSI_RESTART_ADAPTER);
                KeLowerIrql(irql);
                adapter.state.lock().running = restarted || initialize(adapter);
                adapter.pump();
            }
        }
        crate::po::PoStartNextPowerIrp(irp);
        skip_to(adapter, irp)
    }
}

/// # Safety
/// The caller owns the IRP.
unsafe fn skip_to(adapter: &Adapter, irp: *mut Irp) -> NtStatus {
    // SAFETY: the caller's promise.
    unsafe {
        crate::io::irp::skip(irp);
        crate::po::PoCallDriver(adapter.lower, irp)
    }
}

/// `IOCTL_SCSI_RESCAN_BUS`.
const IOCTL_SCSI_RESCAN_BUS: u32 = 0x0004_101c;

/// IRP_MJ_DEVICE_CONTROL.
///
/// # Safety
/// The caller owns the IRP.
pub unsafe fn control(adapter: &Arc<Adapter>, irp: *mut Irp) -> NtStatus {
    // SAFETY: the caller's promise.
    unsafe {
        let ioctl = (*current(irp)).parameters.ioctl;
        match ioctl.code {
            IOCTL_SCSI_RESCAN_BUS => {
                rescan(adapter);
                finish(irp, STATUS_SUCCESS, 0)
            }
            pdo::IOCTL_STORAGE_QUERY_PROPERTY => pdo::query_property(adapter, None, irp),
            pdo::IOCTL_SCSI_GET_CAPABILITIES => pdo::capabilities(adapter, irp),
            pdo::IOCTL_SCSI_MINIPORT => pdo::miniport_control(adapter, (0, 0, 0), irp),
            IOCTL_MINIPORT_PROCESS_SERVICE_IRP if adapter.is_virtual() => service(adapter, irp),
            _ => pass(adapter.lower, irp),
        }
    }
}

/// `IOCTL_MINIPORT_PROCESS_SERVICE_IRP`: goes to a virtual miniport, which ends it by StorPortCompleteServiceIrp.
/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nc-storport-hw_process_service_request>
const IOCTL_MINIPORT_PROCESS_SERVICE_IRP: u32 = 0x4_d038;

/// Hands a service request to the miniport. IRQL = PASSIVE_LEVEL.
///
/// # Safety
/// The caller owns the IRP.
unsafe fn service(adapter: &Adapter, irp: *mut Irp) -> NtStatus {
    // SAFETY: the caller's promise; from the call on the IRP is the miniport's.
    unsafe {
        match adapter.hw.hw_process_service_request {
            Some(process) if adapter.state.lock().running => {
                crate::io::irp::mark_pending(irp);
                process(adapter.extension(), irp.cast());
                STATUS_PENDING
            }
            Some(_) => finish(irp, STATUS_DEVICE_DOES_NOT_EXIST, 0),
            None => finish(irp, STATUS_INVALID_DEVICE_REQUEST, 0),
        }
    }
}

/// Has the PnP manager look again. IRQL <= DISPATCH_LEVEL.
pub fn rescan(adapter: &Adapter) {
    adapter.counters.rescans.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the PDO stands below this adapter.
    unsafe { crate::pnp::report::IoInvalidateDeviceRelations(adapter.pdo, BUS_RELATIONS) };
}

/// Reads or writes configuration space of the adapter by an IRP to the bus. IRQL = PASSIVE_LEVEL. The bytes moved.
///
/// # Safety
/// The buffer has that length.
pub unsafe fn config_space(adapter: &Adapter, minor: u8, buffer: *mut c_void, offset: u32, bytes: u32) -> u32 {
    // SAFETY: the IRP is made, sent and freed here.
    unsafe {
        let irp = crate::io::irp::IoAllocateIrp((*adapter.lower).stack_size + 1, 0);
        if irp.is_null() {
            return 0;
        }
        let next = &mut *crate::io::irp::next(irp);
        next.major = crate::io::abi::mj::PNP;
        next.minor = minor;
        // WhichSpace 0: configuration space.
        next.parameters.others =
            [ptr::null_mut(), buffer, offset as usize as *mut c_void, bytes as usize as *mut c_void];
        (*irp).io_status.status = STATUS_NOT_SUPPORTED;
        let status = crate::io::irp::send_and_wait(adapter.lower, irp);
        let moved = if nt_success(status) { (*irp).io_status.information as u32 } else { 0 };
        crate::io::irp::IoFreeIrp(irp);
        moved
    }
}
