//! The driver's only unsafe code: pages that are shared with the backend, the state in SRB extensions, and the entry
//! points that storport calls.

use alloc::boxed::Box;
use core::{ffi::c_void, ptr::NonNull};

use wdm::{
    device::DeviceObject,
    memory::{Shared, try_box},
    pages::Pages,
    spinlock::SpinLock,
    status::Status,
    storport::{
        self, PortConfig, ScatterGather, Srb,
        abi::{
            HwInitializationData, INTERFACE_TYPE_INTERNAL, PortConfigurationInformation, SP_RETURN_ERROR,
            SP_RETURN_FOUND, SP_RETURN_NOT_FOUND, SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK, STOR_MAP_NON_READ_WRITE_BUFFERS,
            ScatterGatherElement, ScsiRequestBlock, SupportedControlTypeList, adapter_control, srb_status,
        },
    },
    string::UnicodeStr,
};
use xen_abi::shared::{SharedMemory, SharedRegion};
use xenbus::{
    client::{Client, Device, Event, Result as BusResult, Watch},
    interface::{INTERFACE_GUID, VERSION, XenbusInterface},
    pages::Memory,
};

use super::{
    adapter::{Adapter, PnpHook},
    settings,
};
use crate::{
    front::{
        MAX_TRANSFER,
        io::{Io, Request, Run},
    },
    scsi::{self, Unit},
};

/// Nonpaged pages that the backend may be given access to.
pub struct SharedPages {
    pages: Pages,
    region: SharedRegion,
}

impl SharedPages {
    /// Zeroed pages. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// No memory.
    pub fn new(count: usize) -> wdm::Result<Self> {
        let pages = Pages::new(count)?;
        let base = NonNull::new(pages.as_ptr()).ok_or(Status::INSUFFICIENT_RESOURCES)?;
        // SAFETY: the pages are page-aligned, nonpaged, mapped as long as the value lives, and nobody else has their
        // address. `pages` is not used to access them.
        let region = unsafe { SharedRegion::new(base, count * wdm::pages::PAGE_SIZE) };
        Ok(Self { pages, region })
    }
}

impl SharedMemory for SharedPages {
    fn size(&self) -> usize {
        self.region.size()
    }
    fn load_u32(&self, offset: usize) -> u32 {
        self.region.load_u32(offset)
    }
    fn store_u32(&self, offset: usize, value: u32) {
        self.region.store_u32(offset, value);
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        self.region.read(offset, out);
    }
    fn write(&self, offset: usize, data: &[u8]) {
        self.region.write(offset, data);
    }
}

impl Memory for SharedPages {
    fn frame(&self, index: usize) -> Option<u64> {
        self.pages.frame(index)
    }
    fn leak(self) {
        self.pages.leak();
    }
}

/// What stands in an SRB extension, or in memory of its own for a request of the driver's.
struct State {
    io: Io,
    /// The runs of the data buffer, of a transfer.
    list: Option<ScatterGather>,
    /// The run last looked at, and where in the buffer it begins.
    element: u32,
    start: u32,
    /// The buffer's address and length, where its bytes are needed.
    mapped: Option<NonNull<u8>>,
    len: u32,
    /// What the ranges of an UNMAP are checked against.
    unit: Unit,
}

/// Whose a request is.
pub enum Owner {
    /// Storport's.
    Srb(Srb),
    /// The driver's own.
    Driver,
}

/// What the ring holds: an SRB whose extension has its [`Io`], or a request of the driver's own.
pub struct SrbRequest {
    owner: Owner,
    state: NonNull<State>,
}

// SAFETY: an SRB and its extension, and the memory of an own request, belong to whoever holds the value.
unsafe impl Send for SrbRequest {}

impl Drop for SrbRequest {
    fn drop(&mut self) {
        if matches!(self.owner, Owner::Driver) {
            // SAFETY: the memory came from `verify_start` and is freed once.
            drop(unsafe { Box::from_raw(self.state.as_ptr()) });
        }
    }
}

impl SrbRequest {
    /// Writes the state into the SRB's extension. From start-I/O only. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// The SRB with the status to complete it with: BUSY if its buffer cannot be mapped now.
    pub fn new(mut srb: Srb, adapter: storport::Adapter, io: Io, unit: &Unit) -> Result<Self, (Srb, u8)> {
        let Some(state) = NonNull::new(srb.extension().cast::<State>()) else {
            return Err((srb, srb_status::INVALID_REQUEST));
        };
        let len = srb.block().data_transfer_length;
        let mut fresh = State { io, list: None, element: 0, start: 0, mapped: None, len, unit: *unit };
        match io.kind {
            crate::front::io::Kind::Read | crate::front::io::Kind::Write => {
                let Some(list) = srb.scatter_gather(adapter) else { return Err((srb, srb_status::BUSY)) };
                // SAFETY: the SRB is ours.
                let elements = unsafe { list.elements() };
                fresh.list = Some(list);
                // The backend refuses a segment that is not made of whole logical blocks of the disk.
                let block = u64::from(unit.block.max(512));
                let whole =
                    |run: &ScatterGatherElement| (run.physical_address | u64::from(run.length)).is_multiple_of(block);
                if !elements.iter().all(whole) {
                    fresh.mapped = srb.system_address(adapter);
                    fresh.io.bounce = true;
                    if fresh.mapped.is_none() {
                        return Err((srb, srb_status::BUSY));
                    }
                }
            }
            crate::front::io::Kind::Discard => {
                let data = srb.data();
                fresh.len = data.len() as u32;
                fresh.mapped = NonNull::new(data.as_mut_ptr());
            }
            crate::front::io::Kind::Verify | crate::front::io::Kind::Flush => {}
        }
        // SAFETY: the extension has room for a State (SrbExtensionSize) and is aligned as pool is; nothing in it needs
        // to be dropped.
        unsafe { state.write(fresh) };
        Ok(Self { owner: Owner::Srb(srb), state })
    }

    /// A request of the driver's own: reads the disk's first block to nowhere. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Errors
    /// No memory.
    pub fn verify_start(unit: &Unit) -> wdm::Result<Self> {
        let io = Io::new(crate::front::io::Kind::Verify, 0, (unit.block / 512).max(1));
        let state = State { io, list: None, element: 0, start: 0, mapped: None, len: 0, unit: *unit };
        let state = NonNull::from(Box::leak(try_box(state)?));
        Ok(Self { owner: Owner::Driver, state })
    }

    /// Gives the SRB back, with what its request came to; `None` for a request of the driver's own.
    pub fn into_srb(mut self) -> (Option<Srb>, Io) {
        let io = *self.io();
        if matches!(self.owner, Owner::Driver) {
            return (None, io);
        }
        match core::mem::replace(&mut self.owner, Owner::Driver) {
            Owner::Srb(srb) => {
                // Nothing of an SRB's request is to be dropped.
                core::mem::forget(self);
                (Some(srb), io)
            }
            Owner::Driver => (None, io),
        }
    }

    fn state(&self) -> &State {
        // SAFETY: `new` wrote it, and the SRB is ours.
        unsafe { self.state.as_ref() }
    }

    fn state_mut(&mut self) -> &mut State {
        // SAFETY: `new` wrote it, and the SRB is ours.
        unsafe { self.state.as_mut() }
    }
}

impl Request for SrbRequest {
    fn io(&self) -> &Io {
        &self.state().io
    }

    fn io_mut(&mut self) -> &mut Io {
        &mut self.state_mut().io
    }

    fn run(&mut self, offset: u32) -> Option<Run> {
        let state = self.state_mut();
        // SAFETY: the SRB is ours, so the list stands.
        let elements = unsafe { state.list?.elements() };
        if offset < state.start {
            (state.element, state.start) = (0, 0);
        }
        loop {
            let run = elements.get(state.element as usize)?;
            let into = offset - state.start;
            if into < run.length {
                return Some(Run { address: run.physical_address + u64::from(into), bytes: run.length - into });
            }
            state.start = state.start.checked_add(run.length)?;
            state.element += 1;
        }
    }

    fn bytes(&mut self, offset: u32, len: u32) -> Option<&mut [u8]> {
        let state = self.state_mut();
        let base = state.mapped?;
        if offset.checked_add(len)? > state.len {
            return None;
        }
        // SAFETY: storport mapped `state.len` bytes from `base` on until the SRB is completed, and they are ours until
        // then. Every bit pattern is a byte.
        Some(unsafe { core::slice::from_raw_parts_mut(base.as_ptr().add(offset as usize), len as usize) })
    }

    fn discard(&self, index: u32) -> Option<(u64, u64)> {
        let state = self.state();
        let base = state.mapped?;
        // SAFETY: as in `bytes`.
        let list = unsafe { core::slice::from_raw_parts(base.as_ptr(), state.len as usize) };
        scsi::unmap_range(&state.unit, list, index)
    }
}

/// Fetches the bus's interface through the stack that `physical` is in. PASSIVE_LEVEL.
///
/// # Errors
/// The bus's, or [`Status::REVISION_MISMATCH`] if its table is not one that this driver can use.
pub fn connect(physical: NonNull<c_void>) -> wdm::Result<Client> {
    // SAFETY: storport gave its PDO, which stays as long as the adapter does.
    let device = unsafe { DeviceObject::from_raw(physical.as_ptr().cast()) }.ok_or(Status::INVALID_PARAMETER)?;
    let empty = core::mem::MaybeUninit::<XenbusInterface>::uninit();
    let table = empty_table(empty);
    // SAFETY: the GUID names this very table.
    let table = unsafe { wdm::interface::query(device, &INTERFACE_GUID, VERSION, table) }?;
    // SAFETY: the bus filled it in.
    unsafe { Client::from_table(table.assume_init()) }.ok_or(Status::REVISION_MISMATCH)
}

/// A table with nothing in it but its size and version; a bus that knows the interface writes the rest.
fn empty_table(mut table: core::mem::MaybeUninit<XenbusInterface>) -> core::mem::MaybeUninit<XenbusInterface> {
    let pointer = table.as_mut_ptr();
    // SAFETY: the fields are written through the pointer, without a reference to the whole.
    unsafe {
        core::ptr::write_bytes(pointer, 0, 1);
        (&raw mut (*pointer).size).write(Client::SIZE);
        (&raw mut (*pointer).version).write(VERSION);
    }
    table
}

/// Sets the watch. PASSIVE_LEVEL.
///
/// # Errors
/// The store's.
pub fn watch(client: &Client, path: &[u8], adapter: &Adapter) -> BusResult<Watch> {
    // SAFETY: `Adapter::close` ends the watch before the adapter goes.
    unsafe { client.watch(path, NonNull::from(adapter)) }
}

/// Opens an event channel. PASSIVE_LEVEL.
///
/// # Errors
/// The bus's.
pub fn open_event(client: &Client, adapter: &Adapter) -> BusResult<(Event, u32)> {
    // SAFETY: `Adapter::close` closes the channel before the adapter goes.
    unsafe { client.open_event(NonNull::from(adapter)) }
}

/// Registers for suspend and resume. PASSIVE_LEVEL.
///
/// # Errors
/// The bus's.
pub fn register_suspend(client: &Client, adapter: &Adapter) -> BusResult<()> {
    // SAFETY: `Adapter::close` takes that back before the adapter goes.
    unsafe { client.suspend_register(NonNull::from(adapter)) }
}

/// What storport keeps for each adapter; it clears the memory.
struct Extension {
    adapter: *const Adapter,
}

/// An adapter that a PnP request may be for.
struct Registered {
    functional: usize,
    adapter: Shared<Adapter>,
}

/// Every adapter, with the reference that keeps it alive.
static ADAPTERS: SpinLock<alloc::vec::Vec<Registered>> = SpinLock::new(alloc::vec::Vec::new());

/// The adapter of a functional device object. IRQL <= DISPATCH_LEVEL.
pub fn adapter_of(functional: NonNull<c_void>) -> Option<Shared<Adapter>> {
    let name = functional.as_ptr() as usize;
    ADAPTERS.lock().iter().find(|known| known.functional == name).map(|known| known.adapter.clone())
}

/// Forgets it; it goes with its last reference. PASSIVE_LEVEL.
pub fn forget_adapter(functional: NonNull<c_void>) {
    let name = functional.as_ptr() as usize;
    let gone = {
        let mut adapters = ADAPTERS.lock();
        let gone = adapters.iter().position(|known| known.functional == name).map(|index| adapters.swap_remove(index));
        let empty = if adapters.is_empty() { core::mem::take(&mut *adapters) } else { alloc::vec::Vec::new() };
        (gone, empty)
    };
    // Freed without the lock.
    drop(gone);
}

fn remember_adapter(functional: NonNull<c_void>, adapter: Shared<Adapter>) -> wdm::Result {
    wdm::memory::try_push(&mut ADAPTERS.lock(), Registered { functional: functional.as_ptr() as usize, adapter })
}

/// The adapter of storport's extension; None before HwFindAdapter has made it.
///
/// # Safety
/// `extension` is what storport gave to a routine of ours, and the adapter is not used after that routine returned.
unsafe fn adapter<'a>(extension: *mut c_void) -> Option<&'a Adapter> {
    // SAFETY: the extension is at least as large as `Extension` and was cleared; its pointer is to an adapter that
    // `ADAPTERS` keeps alive until storport has let go of the extension.
    unsafe { extension.cast::<Extension>().as_ref()?.adapter.as_ref() }
}

/// Makes an adapter and remembers it. Not inlined, to keep it out of the caller's frame.
#[inline(never)]
fn make_adapter(storport: storport::Adapter, objects: storport::DeviceObjects) -> wdm::Result<*const Adapter> {
    let adapter = Adapter::new(storport, objects)?;
    let pointer = core::ptr::from_ref::<Adapter>(&adapter);
    remember_adapter(objects.functional, adapter.clone())?;
    if let Err(status) = Adapter::employ_keeper(&adapter) {
        forget_adapter(objects.functional);
        return Err(status);
    }
    Ok(pointer)
}

unsafe extern "C" fn find_adapter(
    extension: *mut c_void,
    _context: *mut c_void,
    _bus: *mut c_void,
    _arguments: *mut u8,
    config: *mut PortConfigurationInformation,
    again: *mut u8,
) -> u32 {
    // SAFETY: storport's arguments of HwFindAdapter.
    let (Some(storport), Some(mut config)) =
        (unsafe { (storport::Adapter::from_extension(extension), PortConfig::from_raw(config)) })
    else {
        return SP_RETURN_ERROR;
    };
    if !again.is_null() {
        // SAFETY: storport's own byte.
        unsafe { again.write(0) };
    }
    if config.is_dump() {
        return SP_RETURN_NOT_FOUND;
    }
    let Some(objects) = storport.device_objects() else { return SP_RETURN_ERROR };
    // After a stop: the old connection was closed, a new adapter takes its place.
    // SAFETY: the extension is ours, and large enough.
    unsafe { extension.cast::<Extension>().write(Extension { adapter: core::ptr::null() }) };
    forget_adapter(objects.functional);
    match make_adapter(storport, objects) {
        Ok(pointer) => {
            // SAFETY: the extension is ours, and large enough.
            unsafe { extension.cast::<Extension>().write(Extension { adapter: pointer }) };
            config.describe_single_unit(MAX_TRANSFER, MAX_TRANSFER / 4096 + 1, super::adapter::QUEUE_DEPTH);
            SP_RETURN_FOUND
        }
        Err(Status::NO_SUCH_DEVICE) => SP_RETURN_NOT_FOUND,
        Err(status) => {
            wdm::error!("no adapter: {status}");
            SP_RETURN_ERROR
        }
    }
}

unsafe extern "C" fn initialize(extension: *mut c_void) -> u8 {
    // SAFETY: storport's argument.
    match unsafe { storport::Adapter::from_extension(extension) } {
        Some(adapter) => u8::from(adapter.enable_passive_initialization(passive_initialize)),
        None => 0,
    }
}

unsafe extern "C" fn passive_initialize(extension: *mut c_void) -> u8 {
    // SAFETY: storport's argument.
    match unsafe { adapter(extension) } {
        Some(adapter) => u8::from(adapter.start()),
        None => 0,
    }
}

unsafe extern "C" fn start_io(extension: *mut c_void, srb: *mut ScsiRequestBlock) -> u8 {
    // SAFETY: storport's arguments of HwStartIo: the SRB is ours until it is completed.
    if let (Some(adapter), Some(srb)) = unsafe { (adapter(extension), Srb::from_raw(srb)) } {
        adapter.start_io(srb);
    }
    1
}

unsafe extern "C" fn interrupt(_extension: *mut c_void) -> u8 {
    // The adapter has no interrupt of its own: events come from the bus.
    0
}

unsafe extern "C" fn reset_bus(extension: *mut c_void, _path: u32) -> u8 {
    // SAFETY: storport's argument.
    if let Some(adapter) = unsafe { adapter(extension) } {
        adapter.reset();
    }
    1
}

/// The storport timer: looks after held requests. IRQL = DISPATCH_LEVEL.
pub unsafe extern "C" fn timer(extension: *mut c_void) {
    // SAFETY: storport's argument.
    if let Some(adapter) = unsafe { adapter(extension) } {
        adapter.on_timer();
    }
}

unsafe extern "C" fn control(_extension: *mut c_void, kind: i32, parameters: *mut c_void) -> i32 {
    match kind {
        adapter_control::QUERY_SUPPORTED => {
            let list = parameters.cast::<SupportedControlTypeList>();
            if list.is_null() {
                return adapter_control::UNSUCCESSFUL;
            }
            for supported in [adapter_control::QUERY_SUPPORTED, adapter_control::STOP, adapter_control::RESTART] {
                // SAFETY: storport's list has `max_control_type` bytes behind its head.
                unsafe {
                    if (supported as u32) < (*list).max_control_type {
                        (&raw mut (*list).supported).cast::<u8>().add(supported as usize).write(1);
                    }
                }
            }
            adapter_control::SUCCESS
        }
        // Stop and restart at DIRQL: a ring in memory needs neither. Stopping for good is done in the PnP hook.
        adapter_control::STOP | adapter_control::RESTART => adapter_control::SUCCESS,
        _ => adapter_control::UNSUCCESSFUL,
    }
}

/// What Windows calls first.
///
/// # Safety
/// Called by the I/O manager alone.
#[unsafe(export_name = "DriverEntry")]
pub unsafe extern "system" fn driver_entry(
    driver: wdm::sys::PDRIVER_OBJECT,
    service: wdm::sys::PCUNICODE_STRING,
) -> wdm::sys::NTSTATUS {
    if service.is_null() {
        // Loaded for a crash dump, without a registry: there is no dump path.
        return Status::NOT_SUPPORTED.0;
    }
    wdm::log::init("xenvbd");
    // SAFETY: the registry path stays valid during DriverEntry.
    settings::read(unsafe { UnicodeStr::from_raw(service) });
    let mut data = HwInitializationData {
        size: size_of::<HwInitializationData>() as u32,
        adapter_interface_type: INTERFACE_TYPE_INTERNAL,
        hw_initialize: Some(initialize),
        hw_start_io: Some(start_io),
        hw_interrupt: Some(interrupt),
        hw_find_adapter: Some(find_adapter),
        hw_reset_bus: Some(reset_bus),
        hw_dma_started: core::ptr::null_mut(),
        hw_adapter_state: core::ptr::null_mut(),
        device_extension_size: size_of::<Extension>() as u32,
        specific_lu_extension_size: 0,
        srb_extension_size: size_of::<State>() as u32,
        number_of_access_ranges: 0,
        reserved: core::ptr::null_mut(),
        map_buffers: STOR_MAP_NON_READ_WRITE_BUFFERS,
        need_physical_addresses: 1,
        tagged_queuing: 1,
        auto_request_sense: 1,
        multiple_request_per_lu: 1,
        receive_event: 0,
        vendor_id_length: 0,
        vendor_id: core::ptr::null_mut(),
        port_version_flags: 0,
        device_id_length: 0,
        device_id: core::ptr::null_mut(),
        hw_adapter_control: Some(control),
        hw_build_io: None,
        hw_free_adapter_resources: core::ptr::null_mut(),
        hw_process_service_request: core::ptr::null_mut(),
        hw_complete_service_irp: core::ptr::null_mut(),
        hw_initialize_tracing: core::ptr::null_mut(),
        hw_cleanup_tracing: core::ptr::null_mut(),
        hw_tracing_enabled: core::ptr::null_mut(),
        feature_support: 0,
        srb_type_flags: SRB_TYPE_FLAG_SCSI_REQUEST_BLOCK,
        address_type_flags: 0,
        reserved1: 0,
        hw_unit_control: core::ptr::null_mut(),
    };
    // SAFETY: the arguments are DriverEntry's own; the routines above keep storport's contract.
    match unsafe { storport::initialize(driver.cast(), service.cast_mut().cast(), &mut data) } {
        Ok(()) => {
            // SAFETY: storport filled the driver object in; DriverEntry runs once.
            unsafe { storport::hook_pnp::<PnpHook>(driver.cast()) };
            Status::SUCCESS.0
        }
        Err(status) => {
            wdm::error!("storport: {status}");
            status.0
        }
    }
}

/// The bus calls the adapter back through this trait; that it may do so from any thread is what it is `Sync` for.
const _: fn() = || {
    fn is_device<D: Device>() {}
    is_device::<Adapter>();
};
