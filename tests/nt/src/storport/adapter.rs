//! An adapter: the port driver's side of one miniport instance, its locks, its units and its timers. How requests flow
//! through it is in `flow`, what happens to late ones in `watchdog`.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/storage/storport-driver-support-routines>,
//! <https://learn.microsoft.com/windows-hardware/drivers/storage/spin-lock-requirements-for-storport-miniport-drivers>

use super::abi::*;
use super::change::Change;
use super::dma::DmaAdapter;
use super::performance::Performance;
use super::queue::{Gate, Queue};
use super::request::Spares;
pub use super::request::{Origin, Request};
use super::timer::{self, Made};
use super::violation;
use crate::ex::{ExAllocatePoolWithTag, ExFreePool};
use crate::io::abi::{DeviceObject, DriverObject};
use crate::ke::abi::{Dpc, Timer};
use crate::ke::{self, spinlock::*};
use crate::platform::platform;
use crate::rtl::abi::UnicodeString;
use crate::sync::IrqLock;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// Tag of the port driver's pool blocks.
pub const TAG: u32 = u32::from_le_bytes(*b"StPt");
/// `NonPagedPoolNx`.
pub const NON_PAGED_POOL_NX: i32 = 512;
/// The list of completed requests that the processor finishes which the miniport completes them on; those of processors
/// follow.
pub(super) const ANYWHERE: usize = 0;
/// Path, target, logical unit.
pub type Place = (u8, u8, u8);

/// A logical unit. Its queue is in the adapter's state.
pub struct Unit {
    /// Where it is.
    pub place: Place,
    /// The miniport's part.
    pub extension: *mut c_void,
    /// Its device object, null until it is reported.
    pub pdo: AtomicPtr<DeviceObject>,
    /// INQUIRY data as of the last scan.
    pub inquiry: IrqLock<[u8; 96]>,
    /// `STOR_UNIT_ATTRIBUTES`.
    pub attributes: AtomicU32,
    /// It answered the last scan.
    pub present: AtomicBool,
    /// The PnP manager was told of it.
    pub reported: AtomicBool,
}

// SAFETY: the extension is the miniport's memory, which the port driver only hands out.
unsafe impl Send for Unit {}
// SAFETY: as above.
unsafe impl Sync for Unit {}

impl Drop for Unit {
    fn drop(&mut self) {
        if !self.extension.is_null() {
            // SAFETY: allocated when the unit was made.
            unsafe { ExFreePool(self.extension) };
        }
    }
}

/// A unit and its queue.
pub struct Slot {
    /// The unit.
    pub unit: Arc<Unit>,
    /// Its requests.
    pub queue: Queue<*mut Request>,
    /// How far the hierarchy of resets went: 0 none, 1 unit, 2 target, 3 bus.
    pub(super) stage: u8,
}

/// What the adapter's lock guards.
pub struct State {
    /// HwStorInitialize succeeded and the adapter was not stopped.
    pub running: bool,
    /// Busy and paused.
    pub gate: Gate,
    /// Units, in the order of their places.
    pub slots: Vec<Slot>,
    /// What the miniport has, by the address of the SRB.
    pub(super) outstanding: HashMap<usize, *mut Request, FxBuildHasher>,
    /// What the miniport completed: [`ANYWHERE`], and what each processor is to finish.
    pub(super) completed: Vec<VecDeque<*mut Request>>,
    /// The optimizations that the miniport chose.
    pub(super) performance: Performance,
    pub(super) spares: Spares,
    pub(super) turn: usize,
}

/// Counters for suites. All of them only grow.
#[derive(Default)]
pub struct Counters {
    /// Requests that the miniport got.
    pub started: AtomicUsize,
    /// Requests that it completed.
    pub completed: AtomicUsize,
    /// Of these, with busy.
    pub busy: AtomicUsize,
    /// Requests that timed out.
    pub timeouts: AtomicUsize,
    /// Resets of units, targets and buses.
    pub resets: AtomicUsize,
    /// Rescans that the miniport asked for.
    pub rescans: AtomicUsize,
}

/// An adapter. It lives from AddDevice to IRP_MN_REMOVE_DEVICE.
pub struct Adapter {
    /// What the miniport registered.
    pub hw: HwInitializationData,
    /// `HwContext` of StorPortInitialize.
    pub hw_context: *mut c_void,
    /// The miniport's driver object.
    pub driver: *mut DriverObject,
    /// Its own device object.
    pub fdo: *mut DeviceObject,
    /// The device that it drives.
    pub pdo: *mut DeviceObject,
    /// The next device down.
    pub lower: *mut DeviceObject,
    /// Port number.
    pub port: u16,
    /// Memory of the miniport, behind a head that leads back here.
    pub extension: AtomicPtr<c_void>,
    /// Its configuration; written during HwStorFindAdapter only.
    pub config: UnsafeCell<PortConfiguration>,
    /// The rest that changes.
    pub state: IrqLock<State>,
    /// Counters.
    pub counters: Counters,
    /// Timers and work items of the miniport.
    pub made: IrqLock<Made>,
    /// Work items of its that are queued or run.
    pub working: AtomicUsize,
    /// It is being removed.
    pub going: AtomicBool,
    /// A change that the system has not seen yet.
    pub change: IrqLock<Option<Change>>,
    /// A rescan was asked for at an IRQL too high for it.
    pub rescan_wanted: AtomicBool,
    /// Adapter control types that the miniport supports.
    pub controls: IrqLock<[u8; 32]>,
    /// Unit control types that the miniport supports.
    pub unit_controls: IrqLock<[u8; 32]>,
    /// HwStorPassiveInitialize, if it was asked for.
    pub passive_initialize: AtomicUsize,
    /// HwStorFindAdapter succeeded, and a virtual miniport was not told yet to free what it has.
    pub found: AtomicBool,
    /// The interrupt object or message table, null without an interrupt.
    pub interrupt: AtomicPtr<c_void>,
    /// The DMA adapter of the PDO.
    pub dma: AtomicPtr<DmaAdapter>,
    /// Uncached extension: virtual address, physical address, bytes.
    pub uncached: IrqLock<Option<(usize, u64, u32)>>,
    /// Device memory that was mapped: address and bytes.
    pub mappings: IrqLock<Vec<(usize, usize)>>,
    /// The symbolic link of its interface of class STORAGEPORT, from its first start on.
    pub link: IrqLock<Option<UnicodeString>>,
    start_io_lock: UnsafeCell<usize>,
    start_io_owner: AtomicU32,
    /// The locks of the channels, of which no more are in use than there are processors.
    channels: Box<[UnsafeCell<usize>]>,
    /// The DPCs of [`State::completed`].
    pub(super) completion: Box<[UnsafeCell<Dpc>]>,
    tick: UnsafeCell<(Timer, Dpc)>,
    pub(super) retry: UnsafeCell<(Timer, Dpc)>,
    /// The miniport's one timer (`RequestTimerCall`).
    pub hw_timer: UnsafeCell<(Timer, Dpc)>,
    /// Its routine.
    pub hw_timer_routine: AtomicUsize,
}

// SAFETY: what changes is behind the locks or atomic; the NT objects are used by NT functions alone.
unsafe impl Send for Adapter {}
// SAFETY: as above.
unsafe impl Sync for Adapter {}

/// What stands before a miniport's extension.
#[repr(C, align(16))]
struct Head {
    magic: u64,
    adapter: *const Adapter,
}

/// Marks a head.
const MAGIC: u64 = u64::from_le_bytes(*b"storport");

/// The adapter of a miniport's extension. Any IRQL.
///
/// # Safety
/// `extension` came from the port driver, or is at least readable before it.
pub unsafe fn of<'a>(extension: *mut c_void) -> &'a Adapter {
    if extension.is_null() {
        violation("a StorPort function was called without a device extension", 0, 0);
    }
    // SAFETY: the caller's promise; the magic says that it is a head.
    unsafe {
        let head = extension.cast::<Head>().sub(1);
        if (*head).magic != MAGIC {
            violation("a StorPort function was called with a wrong device extension", extension as usize, 0);
        }
        &*(*head).adapter
    }
}

impl Adapter {
    /// An adapter that was not started yet.
    pub fn new(
        hw: HwInitializationData,
        hw_context: *mut c_void,
        driver: *mut DriverObject,
        devices: (*mut DeviceObject, *mut DeviceObject, *mut DeviceObject),
        port: u16,
    ) -> Arc<Adapter> {
        // SAFETY: all zero is valid for these structures of integers, pointers and options; they are initialised below.
        let (config, tick, retry, hw_timer) = unsafe { core::mem::zeroed() };
        let lists = 1 + platform().processors() as usize;
        let adapter = Arc::new(Adapter {
            hw,
            hw_context,
            driver,
            fdo: devices.0,
            pdo: devices.1,
            lower: devices.2,
            port,
            extension: AtomicPtr::new(ptr::null_mut()),
            config: UnsafeCell::new(config),
            state: IrqLock::new(State {
                running: false,
                gate: Gate::default(),
                slots: Vec::new(),
                outstanding: HashMap::with_hasher(FxBuildHasher),
                completed: (0..lists).map(|_| VecDeque::new()).collect(),
                performance: Performance::default(),
                spares: Spares::default(),
                turn: 0,
            }),
            counters: Counters::default(),
            made: IrqLock::new(Made::default()),
            working: AtomicUsize::new(0),
            going: AtomicBool::new(false),
            change: IrqLock::new(None),
            rescan_wanted: AtomicBool::new(false),
            controls: IrqLock::new([0; 32]),
            unit_controls: IrqLock::new([0; 32]),
            passive_initialize: AtomicUsize::new(0),
            found: AtomicBool::new(false),
            interrupt: AtomicPtr::new(ptr::null_mut()),
            dma: AtomicPtr::new(ptr::null_mut()),
            uncached: IrqLock::new(None),
            mappings: IrqLock::new(Vec::new()),
            link: IrqLock::new(None),
            start_io_lock: UnsafeCell::new(0),
            start_io_owner: AtomicU32::new(0),
            channels: (1..lists).map(|_| UnsafeCell::new(0)).collect(),
            // SAFETY: as above.
            completion: (0..lists).map(|_| unsafe { core::mem::zeroed() }).collect(),
            tick,
            retry,
            hw_timer,
            hw_timer_routine: AtomicUsize::new(0),
        });
        let context = Arc::as_ptr(&adapter).cast_mut().cast::<c_void>();
        // SAFETY: the objects live as long as the adapter, whose address does not change.
        unsafe {
            for (list, dpc) in adapter.completion.iter().enumerate() {
                ke::KeInitializeDpc(dpc.get(), Some(super::flow::completion_routine), context);
                if list != ANYWHERE {
                    ke::KeSetTargetProcessorDpc(dpc.get(), (list - 1) as i8);
                }
            }
            for (pair, routine) in [
                (adapter.tick.get(), tick_routine as unsafe extern "win64" fn(_, _, _, _)),
                (adapter.retry.get(), retry_routine),
                (adapter.hw_timer.get(), hw_timer_routine),
            ] {
                ke::KeInitializeTimer(&raw mut (*pair).0);
                ke::KeInitializeDpc(&raw mut (*pair).1, Some(routine), context);
            }
        }
        adapter
    }

    /// Whether the miniport is a virtual one: without DMA, ports, memory and interrupts.
    pub fn is_virtual(&self) -> bool {
        self.hw.feature_support & STOR_FEATURE_VIRTUAL_MINIPORT != 0
    }

    /// The configuration.
    pub fn config(&self) -> &PortConfiguration {
        // SAFETY: written by HwStorFindAdapter, before anything else runs.
        unsafe { &*self.config.get() }
    }

    /// The miniport's extension.
    pub fn extension(&self) -> *mut c_void {
        self.extension.load(Ordering::Acquire)
    }

    /// Makes the miniport's extension, zeroed. False without memory.
    pub fn make_extension(&self) -> bool {
        let bytes = size_of::<Head>() + self.hw.device_extension_size as usize;
        // SAFETY: the block has room for head and extension.
        unsafe {
            let block = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, bytes, TAG).cast::<Head>();
            if block.is_null() {
                return false;
            }
            ptr::write_bytes(block.cast::<u8>(), 0, bytes);
            block.write(Head { magic: MAGIC, adapter: self });
            self.extension.store(block.add(1).cast(), Ordering::Release);
        }
        true
    }

    /// Frees it.
    pub fn free_extension(&self) {
        let extension = self.extension.swap(ptr::null_mut(), Ordering::AcqRel);
        if !extension.is_null() {
            // SAFETY: made by `make_extension`; the miniport does not run any more.
            unsafe {
                let head = extension.cast::<Head>().sub(1);
                (*head).magic = 0;
                ExFreePool(head.cast());
            }
        }
    }

    /// Starts the one-second clock for time-outs and pauses. IRQL = PASSIVE_LEVEL.
    pub fn start_clock(&self) {
        // SAFETY: the objects live as long as the adapter.
        unsafe {
            let pair = self.tick.get();
            ke::KeSetTimerEx(&raw mut (*pair).0, -10_000_000, 1000, &raw mut (*pair).1);
        }
    }

    /// Stops all timers and waits for what runs. IRQL = PASSIVE_LEVEL.
    pub fn stop_clock(&self) {
        // SAFETY: the objects live as long as the adapter.
        unsafe {
            for pair in [self.tick.get(), self.retry.get(), self.hw_timer.get()] {
                ke::KeCancelTimer(&raw mut (*pair).0);
            }
            timer::stop(self);
            ke::KeFlushQueuedDpcs();
        }
    }

    /// Runs `body` with the StartIo lock held. Before: IRQL <= DISPATCH_LEVEL; in it: DISPATCH_LEVEL.
    pub fn with_start_io<R>(&self, body: impl FnOnce() -> R) -> R {
        self.acquire_start_io();
        let result = body();
        self.release_start_io();
        result
    }

    /// Takes the StartIo lock. IRQL = DISPATCH_LEVEL.
    pub fn acquire_start_io(&self) {
        // SAFETY: the lock lives as long as the adapter; the IRQL is the caller's.
        let own = unsafe { ke::KeGetCurrentProcessorNumberEx(ptr::null_mut()) } + 1;
        if self.start_io_owner.load(Ordering::Acquire) == own {
            violation("the StartIo lock is acquired by the processor that holds it", self.extension() as usize, 0);
        }
        // SAFETY: as above.
        unsafe { KeAcquireSpinLockAtDpcLevel(self.start_io_lock.get()) };
        self.start_io_owner.store(own, Ordering::Release);
    }

    /// Gives the StartIo lock back.
    pub fn release_start_io(&self) {
        self.start_io_owner.store(0, Ordering::Release);
        // SAFETY: held by this processor.
        unsafe { KeReleaseSpinLockFromDpcLevel(self.start_io_lock.get()) };
    }

    /// Runs a routine of the miniport with the StartIo lock, and in half duplex with the interrupt lock: HwStorResetBus,
    /// HwStorTimer, HwStorStateChange. IRQL = DISPATCH_LEVEL.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nf-storport-storportacquirespinlock>
    pub fn synchronized<R>(&self, body: impl FnOnce() -> R) -> R {
        self.with_start_io(|| self.duplex(body))
    }

    /// Runs HwStorStartIo: as [`Adapter::synchronized`], but with the lock of the request's channel, if it has one, in
    /// place of the StartIo lock, and for a virtual miniport with none. IRQL = DISPATCH_LEVEL.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/storport/nc-storport-hw_startio>
    pub fn starting<R>(&self, channel: Option<u32>, body: impl FnOnce() -> R) -> R {
        match channel {
            // SAFETY: the lock lives as long as the adapter; the IRQL is the caller's, and who holds it starts nothing.
            Some(channel) => unsafe {
                let lock = self.channels[channel as usize].get();
                KeAcquireSpinLockAtDpcLevel(lock);
                let result = self.duplex(body);
                KeReleaseSpinLockFromDpcLevel(lock);
                result
            },
            None if self.is_virtual() => body(),
            None => self.synchronized(body),
        }
    }

    /// With the interrupt lock in half duplex. IRQL = DISPATCH_LEVEL.
    fn duplex<R>(&self, body: impl FnOnce() -> R) -> R {
        let half = self.config().synchronization_model == 0 && !self.interrupt.load(Ordering::Acquire).is_null();
        if half { super::interrupt::with_lock(self, body) } else { body() }
    }

    /// Adds a unit at a place; there is none yet. `None` without memory.
    pub fn add_unit(&self, place: Place) -> Option<Arc<Unit>> {
        let bytes = self.config().lu_extension_size.max(self.hw.lu_extension_size) as usize;
        let mut extension = ptr::null_mut();
        if bytes != 0 {
            // SAFETY: a plain allocation, zeroed below.
            unsafe {
                extension = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, bytes, TAG).cast::<c_void>();
                if extension.is_null() {
                    return None;
                }
                ptr::write_bytes(extension.cast::<u8>(), 0, bytes);
            }
        }
        let unit = Arc::new(Unit {
            place,
            extension,
            pdo: AtomicPtr::new(ptr::null_mut()),
            inquiry: IrqLock::new([0; 96]),
            attributes: AtomicU32::new(0),
            present: AtomicBool::new(true),
            reported: AtomicBool::new(false),
        });
        let config = self.config();
        let depth = match config.initial_lun_queue_depth {
            0 | SP_UNINITIALIZED_VALUE => 20,
            n => n,
        };
        let slot = Slot { unit: unit.clone(), queue: Queue::new(depth.min(config.max_ios_per_lun)), stage: 0 };
        let mut state = self.state.lock();
        let at = state.slots.partition_point(|s| s.unit.place < place);
        state.slots.insert(at, slot);
        Some(unit)
    }

    /// The unit at a place.
    pub fn unit(&self, place: Place) -> Option<Arc<Unit>> {
        self.state.lock().slots.iter().find(|s| s.unit.place == place).map(|s| s.unit.clone())
    }

    /// Takes a unit out; requests that wait for it fail with NO_DEVICE.
    pub fn remove_unit(&self, unit: &Arc<Unit>) {
        let (slot, waiting) = {
            let mut state = self.state.lock();
            let Some(at) = state.slots.iter().position(|s| Arc::ptr_eq(&s.unit, unit)) else { return };
            let mut slot = state.slots.remove(at);
            let waiting: Vec<_> = slot.queue.drain().collect();
            (slot, waiting)
        };
        for request in waiting {
            // SAFETY: the request was waiting; nobody else has it.
            unsafe { self.fail(request, SRB_STATUS_NO_DEVICE) };
        }
        drop(slot);
    }

    /// Fails everything that waits: the adapter is gone for good. IRQL <= DISPATCH_LEVEL.
    pub fn fail_waiting(&self) {
        let waiting: Vec<_> =
            self.state.lock().slots.iter_mut().flat_map(|s| s.queue.drain().collect::<Vec<_>>()).collect();
        for request in waiting {
            // SAFETY: the request was waiting; nobody else has it.
            unsafe { self.fail(request, SRB_STATUS_NO_DEVICE) };
        }
    }

    /// Sets what happens to a unit's queue. False: there is no such unit.
    pub fn with_queue(&self, place: Place, change: impl FnOnce(&mut Queue<*mut Request>)) -> bool {
        let mut state = self.state.lock();
        match state.slots.iter_mut().find(|s| s.unit.place == place) {
            Some(slot) => {
                change(&mut slot.queue);
                true
            }
            None => false,
        }
    }
}

unsafe extern "win64" fn tick_routine(_: *mut Dpc, context: *mut c_void, _: *mut c_void, _: *mut c_void) {
    // SAFETY: the context is the adapter, which outlives its DPCs.
    unsafe { (*context.cast::<Adapter>()).second() };
}

unsafe extern "win64" fn retry_routine(_: *mut Dpc, context: *mut c_void, _: *mut c_void, _: *mut c_void) {
    // SAFETY: the context is the adapter, which outlives its DPCs.
    let adapter = unsafe { &*context.cast::<Adapter>() };
    for slot in &mut adapter.state.lock().slots {
        if slot.queue.outstanding == 0 {
            slot.queue.gate.ready();
        }
    }
    adapter.pump();
}

unsafe extern "win64" fn hw_timer_routine(_: *mut Dpc, context: *mut c_void, _: *mut c_void, _: *mut c_void) {
    // SAFETY: the context is the adapter, which outlives its DPCs; the routine is the miniport's.
    unsafe {
        let adapter = &*context.cast::<Adapter>();
        let routine = adapter.hw_timer_routine.load(Ordering::Acquire);
        if routine != 0 {
            let routine = core::mem::transmute::<usize, HwVoid>(routine);
            adapter.synchronized(|| routine(adapter.extension()));
        }
    }
}
