//! The driver's only unsafe code: pages that are shared with the backend, what the bus calls back, and DriverEntry.

use core::{ffi::c_void, ptr::NonNull};

use wdm::{
    device::DeviceObject,
    ndis::{self, ReceivePool, Version, status::NdisStatus},
    pages::{PAGE_SIZE, Pages},
    registry::Parameters,
    status::Status,
    string::UnicodeStr,
    thread::Thread,
};
use xen_abi::shared::{SharedMemory, SharedRegion};
use xenbus::{
    client::{Client, Device, Event, EventHandler, Result as BusResult, Watch},
    interface::{INTERFACE_GUID, VERSION, XenbusInterface},
    pages::Memory,
};

use super::adapter::Adapter;

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
        let region = unsafe { SharedRegion::new(base, count * PAGE_SIZE) };
        Ok(Self { pages, region })
    }

    /// Net buffer lists for the pages, by which NDIS gets what the backend wrote. PASSIVE_LEVEL.
    ///
    /// # Errors
    /// No memory.
    pub fn receive_pool(&self, adapter: ndis::Adapter, tag: u32) -> Result<ReceivePool, NdisStatus> {
        let count = self.pages.count();
        // SAFETY: the index is that of a page.
        let page = |index: usize| unsafe { self.region.base().add(index * PAGE_SIZE) };
        // SAFETY: the pages are nonpaged; whoever keeps the pool keeps these pages longer (see `Queue`). Windows reads a
        // page only while the backend has no grant of it.
        unsafe { ReceivePool::new(adapter, tag, count, (0..count).map(page)) }
    }
}

impl SharedMemory for SharedPages {
    fn size(&self) -> usize {
        self.region.size()
    }
    #[inline]
    fn load_u32(&self, offset: usize) -> u32 {
        self.region.load_u32(offset)
    }
    #[inline]
    fn store_u32(&self, offset: usize, value: u32) {
        self.region.store_u32(offset, value);
    }
    #[inline]
    fn read(&self, offset: usize, out: &mut [u8]) {
        self.region.read(offset, out);
    }
    #[inline]
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
    fn copy_out(&self, offset: usize, out: &mut [u8]) {
        if let Some(end) = offset.checked_add(out.len())
            && end <= self.region.size()
        {
            // SAFETY: as in `scrub`; Windows has not got the page yet.
            unsafe { out.as_mut_ptr().copy_from_nonoverlapping(self.pages.as_ptr().add(offset), out.len()) };
        }
    }
    #[inline]
    fn copy_in(&self, offset: usize, data: &[u8]) {
        if let Some(end) = offset.checked_add(data.len())
            && end <= self.region.size()
        {
            // SAFETY: the bytes lie inside of the pages, which are zeroed memory of this value's own. Nobody else writes
            // them: the peer may not, by contract, and the atomic accesses of this value are under the same lock.
            unsafe { self.pages.as_ptr().add(offset).copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        }
    }
    fn scrub(&self, offset: usize, len: usize) {
        if let Some(end) = offset.checked_add(len)
            && end <= self.region.size()
        {
            // SAFETY: the bytes lie inside of the pages. No peer has access to them, by contract, and Windows has given
            // them back, so nobody else touches them; the atomic accesses of this value are under the same lock.
            unsafe { self.pages.as_ptr().add(offset).write_bytes(0, len) };
        }
    }
}

/// Fetches the bus's interface through the stack that `physical` is in. PASSIVE_LEVEL.
///
/// # Errors
/// The bus's, or [`Status::REVISION_MISMATCH`] if its table is not one that this driver can use.
pub fn connect(physical: DeviceObject) -> wdm::Result<Client> {
    let empty = core::mem::MaybeUninit::<XenbusInterface>::uninit();
    let table = empty_table(empty);
    // SAFETY: the GUID names this very table.
    let table = unsafe { wdm::interface::query(physical, &INTERFACE_GUID, VERSION, table) }?;
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

/// Sets a watch. PASSIVE_LEVEL.
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
pub fn open_event<H: EventHandler>(client: &Client, handler: &H) -> BusResult<(Event, u32)> {
    // SAFETY: handlers are queues, or sides of them, which live as long as the adapter; `Adapter::close` closes the
    // channel before that goes.
    unsafe { client.open_event(NonNull::from(handler)) }
}

/// Registers for suspend and resume. PASSIVE_LEVEL.
///
/// # Errors
/// The bus's.
pub fn register_suspend(client: &Client, adapter: &Adapter) -> BusResult<()> {
    // SAFETY: `Adapter::close` takes that back before the adapter goes.
    unsafe { client.suspend_register(NonNull::from(adapter)) }
}

/// Starts the keeper. PASSIVE_LEVEL.
///
/// # Errors
/// No memory.
pub fn keep(adapter: &Adapter) -> wdm::Result<Thread> {
    struct Kept(NonNull<Adapter>);
    // SAFETY: an adapter may be used by any thread.
    unsafe impl Send for Kept {}
    impl Kept {
        fn run(&self) {
            // SAFETY: `Adapter::close` waits for the thread's end before the adapter goes.
            unsafe { self.0.as_ref() }.keep();
        }
    }
    let kept = Kept(NonNull::from(adapter));
    Thread::spawn(move || kept.run())
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
    wdm::log::init("xennet");
    // SAFETY: the registry path stays valid during DriverEntry.
    let parameters = Parameters::open(unsafe { UnicodeStr::from_raw(service) });
    let level = parameters.number("LogLevel", wdm::log::Level::Info as u32, 0..=3);
    wdm::log::set_level(wdm::log::Level::from_number(level).unwrap_or(wdm::log::Level::Info));
    let version = Version { major: super::requests::VERSION.0, minor: super::requests::VERSION.1 };
    // SAFETY: the arguments are DriverEntry's own.
    let registered =
        unsafe { ndis::register::<Adapter>(driver.cast::<c_void>(), service.cast_mut().cast::<c_void>(), version) };
    if let Err(status) = registered {
        wdm::error!("NDIS: {status}");
        return status.0;
    }
    Status::SUCCESS.0
}

/// The bus calls the adapter back through this trait; that it may do so from any thread is what it is `Sync` for.
const _: fn() = || {
    fn is_device<D: Device>() {}
    is_device::<Adapter>();
};
