//! An adapter: the port driver's side of one miniport instance, its locks, its units and how requests flow through it.
//!
//! - [`Adapter::submit`] puts a request in its unit's queue; [`Adapter::pump`] starts what the gates let through.
//! - A request is mapped by the DMA adapter, then goes to HwStorBuildIo without a lock and to HwStorStartIo with the
//!   StartIo lock (full duplex) or the interrupt lock (half duplex), at DISPATCH_LEVEL or DIRQL.
//! - A completion at any IRQL only notes the request; the completion DPC finishes it and pumps again.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/storage/storport-driver-support-routines>,
//! <https://learn.microsoft.com/windows-hardware/drivers/storage/spin-lock-requirements-for-storport-miniport-drivers>

use super::abi::*;
use super::dma::DmaAdapter;
use super::performance::Performance;
use super::queue::{Bypass, Gate, Queue};
pub use super::request::{Origin, Request};
use super::request::{Spares, ready, retire};
use super::srb::{Command, Srb, write_short};
use super::violation;
use crate::ex::{ExAllocatePoolWithTag, ExFreePool};
use crate::io::abi::{DeviceObject, DriverObject};
use crate::io::irp::IofCompleteRequest;
use crate::ke::abi::{DISPATCH_LEVEL, Dpc, Event, Timer};
use crate::ke::{self, irql::*, spinlock::*};
use crate::mm::abi::Mdl;
use crate::mm::mdl::{IoAllocateMdl, IoFreeMdl, MmBuildMdlForNonPagedPool};
use crate::rtl::abi::UnicodeString;
use crate::status::*;
use crate::sync::{IrqGuard, IrqLock};
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
/// How often a request that came back busy is started again before that is the class driver's business.
const BUSY_RETRIES: u32 = 20;
/// 10 ms until a busy unit without other requests is tried again, in 100 ns.
const BUSY_DELAY: i64 = -100_000;

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
    stage: u8,
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
    outstanding: HashMap<usize, *mut Request, FxBuildHasher>,
    completed: VecDeque<*mut Request>,
    spares: Spares,
    turn: usize,
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
    /// A rescan was asked for at an IRQL too high for it.
    pub rescan_wanted: AtomicBool,
    /// Adapter control types that the miniport supports.
    pub controls: IrqLock<[u8; 32]>,
    /// Unit control types that the miniport supports.
    pub unit_controls: IrqLock<[u8; 32]>,
    /// HwStorPassiveInitialize, if it was asked for.
    pub passive_initialize: AtomicUsize,
    /// The optimizations that it chose.
    pub performance: IrqLock<Performance>,
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
    completion: UnsafeCell<Dpc>,
    tick: UnsafeCell<(Timer, Dpc)>,
    retry: UnsafeCell<(Timer, Dpc)>,
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
        let (config, completion, tick, retry, hw_timer) = unsafe { core::mem::zeroed() };
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
                completed: VecDeque::new(),
                spares: Spares::default(),
                turn: 0,
            }),
            counters: Counters::default(),
            rescan_wanted: AtomicBool::new(false),
            controls: IrqLock::new([0; 32]),
            unit_controls: IrqLock::new([0; 32]),
            passive_initialize: AtomicUsize::new(0),
            performance: IrqLock::new(Performance::default()),
            found: AtomicBool::new(false),
            interrupt: AtomicPtr::new(ptr::null_mut()),
            dma: AtomicPtr::new(ptr::null_mut()),
            uncached: IrqLock::new(None),
            mappings: IrqLock::new(Vec::new()),
            link: IrqLock::new(None),
            start_io_lock: UnsafeCell::new(0),
            start_io_owner: AtomicU32::new(0),
            completion,
            tick,
            retry,
            hw_timer,
            hw_timer_routine: AtomicUsize::new(0),
        });
        let context = Arc::as_ptr(&adapter).cast_mut().cast::<c_void>();
        // SAFETY: the objects live as long as the adapter, whose address does not change.
        unsafe {
            ke::KeInitializeDpc(adapter.completion.get(), Some(completion_routine), context);
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

    /// Runs a routine of the miniport as HwStorStartIo is run: with the interrupt lock in half duplex, else with the
    /// StartIo lock. IRQL = DISPATCH_LEVEL.
    pub fn synchronized<R>(&self, body: impl FnOnce() -> R) -> R {
        let interrupt = self.interrupt.load(Ordering::Acquire);
        if self.config().synchronization_model == 0 && !interrupt.is_null() {
            return self.with_start_io(|| super::interrupt::with_lock(self, body));
        }
        self.with_start_io(body)
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

    /// Makes a request for an SRB. IRQL <= DISPATCH_LEVEL. `None` without memory.
    ///
    /// # Safety
    /// `srb` is whole and stays so until the origin is told; its MDL describes its data buffer.
    pub unsafe fn request(
        &self,
        unit: Option<Arc<Unit>>,
        srb: Srb,
        origin: Origin,
        mdl: *mut Mdl,
    ) -> Option<Box<Request>> {
        let bytes = self.config().srb_extension_size.max(self.hw.srb_extension_size) as usize;
        let spare = self.state.lock().spares.take();
        let (home, memory) = ready(spare, bytes)?;
        let irp = match origin {
            Origin::Irp(irp) => irp.cast(),
            _ => ptr::null_mut(),
        };
        srb.set_owner(irp, memory.extension());
        srb.set_status(SRB_STATUS_PENDING);
        if let Some(unit) = &unit {
            srb.set_place(unit.place, self.port);
        }
        let flags = srb.flags();
        let bypass = Bypass {
            frozen: flags & SRB_FLAGS_BYPASS_FROZEN_QUEUE != 0,
            locked: flags & SRB_FLAGS_BYPASS_LOCKED_QUEUE != 0,
        };
        let request = Request {
            adapter: self,
            unit,
            srb,
            origin,
            bypass,
            mdl,
            list: ptr::null_mut(),
            length: srb.transfer_length(),
            flags,
            seconds: srb.time_out(),
            retries: 0,
            memory,
        };
        Some(match home {
            Some(mut home) => {
                *home = request;
                home
            }
            None => Box::new(request),
        })
    }

    /// Queues a request and starts what may start. IRQL <= DISPATCH_LEVEL.
    pub fn submit(&self, request: Box<Request>) {
        let bypass = request.bypass;
        let place = request.unit.as_ref().map(|u| u.place);
        let request = Box::into_raw(request);
        // SAFETY: raised and lowered in pairs.
        let irql = unsafe { KfRaiseIrql(DISPATCH_LEVEL) };
        let mut state = self.state.lock();
        if let Some(slot) = state.slots.iter_mut().find(|s| Some(s.unit.place) == place) {
            slot.queue.push(request, bypass);
            self.pump_with(state);
        } else {
            drop(state);
            // SAFETY: made above.
            unsafe { self.fail(request, SRB_STATUS_NO_DEVICE) };
        }
        // SAFETY: as above.
        unsafe { KeLowerIrql(irql) };
    }

    /// Starts a request past all queues: resets, and requests for the adapter itself. IRQL <= DISPATCH_LEVEL.
    pub fn start_now(&self, request: Box<Request>) {
        // SAFETY: raised and lowered in pairs.
        unsafe {
            let irql = KfRaiseIrql(DISPATCH_LEVEL.max(KeGetCurrentIrql()));
            let request = Box::into_raw(request);
            self.state.lock().outstanding.insert((*request).srb.pointer() as usize, request);
            self.start(request);
            KeLowerIrql(irql);
        }
    }

    /// Has the completion DPC pump. Any IRQL.
    pub fn queue_pump(&self) {
        // SAFETY: the DPC lives as long as the adapter.
        unsafe { ke::KeInsertQueueDpc(self.completion.get(), ptr::null_mut(), ptr::null_mut()) };
    }

    /// Starts what the gates let through. IRQL <= DISPATCH_LEVEL.
    pub fn pump(&self) {
        // SAFETY: raised and lowered in pairs.
        unsafe {
            let irql = KfRaiseIrql(DISPATCH_LEVEL);
            self.pump_with(self.state.lock());
            KeLowerIrql(irql);
        }
    }

    /// As [`Adapter::pump`], with the state locked. IRQL = DISPATCH_LEVEL.
    fn pump_with<'a>(&'a self, mut state: IrqGuard<'a, State>) {
        while let Some(request) = self.next(&mut state) {
            // Whoever queues a request or opens a gate pumps, too.
            let more = state.slots.iter().any(|slot| !slot.queue.is_empty());
            drop(state);
            // SAFETY: the request came out of a queue; it is this processor's now.
            unsafe { self.start(request) };
            if !more {
                return;
            }
            state = self.state.lock();
        }
    }

    /// The next request, units in turn: the miniport has it now.
    fn next(&self, state: &mut State) -> Option<*mut Request> {
        let limit = match self.config().max_number_of_io {
            0 => usize::MAX,
            n => n as usize,
        };
        if !state.running || !state.gate.open() || state.outstanding.len() >= limit {
            return None;
        }
        let count = state.slots.len();
        for i in 0..count {
            let at = (state.turn + i) % count;
            if let Some(request) = state.slots[at].queue.pop() {
                state.turn = at + 1;
                // SAFETY: a request in a queue is alive.
                state.outstanding.insert(unsafe { (*request).srb.pointer() } as usize, request);
                return Some(request);
            }
        }
        None
    }

    /// Maps the data and hands the request to the miniport. IRQL = DISPATCH_LEVEL.
    ///
    /// # Safety
    /// The request is this processor's, and outstanding.
    unsafe fn start(&self, request: *mut Request) {
        // SAFETY: the caller's promise.
        let r = unsafe { &mut *request };
        self.counters.started.fetch_add(1, Ordering::Relaxed);
        let to_device = u8::from(r.flags & SRB_FLAGS_DATA_OUT != 0);
        let has_data = r.length != 0 && !r.mdl.is_null() && r.flags & (SRB_FLAGS_DATA_IN | SRB_FLAGS_DATA_OUT) != 0;
        let dma = self.dma.load(Ordering::Acquire);
        if has_data && !dma.is_null() && r.srb.function() == SRB_FUNCTION_EXECUTE_SCSI {
            // SAFETY: the DMA adapter is that of the PDO; MDL and length belong to the request.
            let status = unsafe { self.map(dma, r, to_device) };
            if !nt_success(status) {
                r.srb.set_status(SRB_STATUS_BUSY);
                self.complete(r.srb.pointer());
            }
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.run(r) };
        }
    }

    /// Has the DMA adapter make the list of a request's data, in the request's own memory where it can.
    /// IRQL = DISPATCH_LEVEL.
    ///
    /// # Safety
    /// As [`Adapter::start`]; the DMA adapter is that of the PDO. The request may be gone when this returns.
    unsafe fn map(&self, dma: *mut DmaAdapter, request: &mut Request, to_device: u8) -> NtStatus {
        // SAFETY: the caller's promise; MDL and length belong to the request.
        unsafe {
            let (mdl, length) = (request.mdl, request.length);
            let va = (*mdl).virtual_address();
            let context = ptr::from_mut(request).cast::<c_void>();
            if let Some(build) = (*dma).build() {
                let Some((list, room)) = request.memory.list(mdl, va, length) else {
                    return STATUS_INSUFFICIENT_RESOURCES;
                };
                let va = va as *mut c_void;
                let status = build(dma, self.fdo, mdl, va, length, list_routine, context, to_device, list, room);
                if status != STATUS_BUFFER_TOO_SMALL {
                    return status;
                }
            }
            let Some(get) = (*(*dma).operations).get_scatter_gather_list else { return STATUS_NOT_SUPPORTED };
            get(dma, self.fdo, mdl, va as *mut c_void, length, list_routine, context, to_device)
        }
    }

    /// HwStorBuildIo, then HwStorStartIo. IRQL = DISPATCH_LEVEL.
    ///
    /// # Safety
    /// The request is outstanding; it may be gone when this returns.
    unsafe fn run(&self, request: &Request) {
        let (srb, extension) = (request.srb, self.extension());
        // SAFETY: the miniport's own routines, called as they are documented.
        unsafe {
            if let Some(build) = self.hw.hw_build_io
                && build(extension, srb.pointer()) == 0
            {
                return;
            }
            let Some(start) = self.hw.hw_start_io else { return };
            let accepted = self.synchronized(|| start(extension, srb.pointer()));
            let refused = accepted == 0 && self.state.lock().outstanding.contains_key(&(srb.pointer() as usize));
            if refused {
                srb.set_status(SRB_STATUS_BUSY);
                self.complete(srb.pointer());
            }
        }
    }

    /// The miniport is done with a request. Any IRQL up to DIRQL.
    pub fn complete(&self, srb: *mut c_void) {
        let mut state = self.state.lock();
        let Some(request) = state.outstanding.remove(&(srb as usize)) else {
            drop(state);
            violation(
                "a request was completed that the miniport does not have",
                srb as usize,
                self.extension() as usize,
            );
        };
        state.completed.push_back(request);
        drop(state);
        self.counters.completed.fetch_add(1, Ordering::Relaxed);
        self.queue_pump();
    }

    /// Completes what is outstanding at a place (`None`: any value) with a status: `StorPortCompleteRequest`. Any IRQL
    /// up to DIRQL.
    pub fn complete_matching(&self, place: (Option<u8>, Option<u8>, Option<u8>), status: u8) {
        let matches = |(p, t, l): Place| {
            place.0.is_none_or(|x| x == p) && place.1.is_none_or(|x| x == t) && place.2.is_none_or(|x| x == l)
        };
        // A reset in progress is completed by the miniport itself.
        let is_reset = |s: &Srb| {
            matches!(s.function(), SRB_FUNCTION_RESET_LOGICAL_UNIT | SRB_FUNCTION_RESET_DEVICE | SRB_FUNCTION_RESET_BUS)
        };
        let mut found: Vec<Srb> = {
            let state = self.state.lock();
            // SAFETY: outstanding requests are alive.
            state
                .outstanding
                .values()
                .map(|r| unsafe { (**r).srb })
                .filter(|s| matches(s.place()) && !is_reset(s))
                .collect()
        };
        // The same order in every run.
        found.sort_unstable_by_key(|srb| srb.pointer());
        for srb in found {
            srb.set_status(status);
            self.complete(srb.pointer());
        }
    }

    /// The request that an SRB belongs to, while the miniport has it. Any IRQL up to DIRQL.
    pub fn outstanding(&self, srb: *mut c_void) -> Option<*mut Request> {
        self.state.lock().outstanding.get(&(srb as usize)).copied()
    }

    /// Requests that the miniport has.
    pub fn in_flight(&self) -> usize {
        self.state.lock().outstanding.len()
    }

    /// Finishes a request that never reached the miniport.
    ///
    /// # Safety
    /// The request is this processor's.
    unsafe fn fail(&self, request: *mut Request, status: u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let request = Box::from_raw(request);
            request.srb.set_status(status);
            request.srb.set_transfer_length(0);
            let spare = self.tell(request);
            self.state.lock().spares.put(spare);
        }
    }

    /// One completed request: checked, unmapped, tried again or told to its origin and a spare one then.
    /// IRQL = DISPATCH_LEVEL.
    ///
    /// # Safety
    /// The request is this processor's.
    unsafe fn finish(&self, request: *mut Request) -> Option<Box<Request>> {
        // SAFETY: the caller's promise.
        let mut request = unsafe { Box::from_raw(request) };
        let srb = request.srb;
        if !request.list.is_null() {
            let dma = self.dma.load(Ordering::Acquire);
            let to_device = u8::from(request.flags & SRB_FLAGS_DATA_OUT != 0);
            // SAFETY: the list came from this adapter.
            unsafe {
                if let Some(put) = (*(*dma).operations).put_scatter_gather_list {
                    put(dma, request.list, to_device);
                }
            }
            request.list = ptr::null_mut();
        }
        Self::check(&request);
        let status = srb.status() & !(SRB_STATUS_AUTOSENSE_VALID | SRB_STATUS_QUEUE_FROZEN);
        let scsi = srb.function() == SRB_FUNCTION_EXECUTE_SCSI;
        let full =
            scsi && status == SRB_STATUS_ERROR && matches!(srb.scsi_status(), SCSISTAT_BUSY | SCSISTAT_QUEUE_FULL);
        let busy = status == SRB_STATUS_BUSY || full;
        if busy {
            self.counters.busy.fetch_add(1, Ordering::Relaxed);
        }
        let place = request.unit.as_ref().map(|u| u.place);
        let queued = matches!(request.origin, Origin::Irp(_) | Origin::Event(_)) && place.is_some();
        {
            let mut state = self.state.lock();
            let left = state.outstanding.len() as u32;
            state.gate.completed(left);
            if queued && let Some(slot) = state.slots.iter_mut().find(|s| Some(s.unit.place) == place) {
                slot.queue.returned();
                slot.stage = if slot.queue.outstanding == 0 { 0 } else { slot.stage };
                if busy && request.retries < BUSY_RETRIES && !slot.queue.dead {
                    request.retries += 1;
                    srb.set_status(SRB_STATUS_PENDING);
                    srb.set_transfer_length(request.length);
                    slot.queue.gate.busy(if slot.queue.outstanding == 0 { u32::MAX } else { 1 });
                    let alone = slot.queue.outstanding == 0;
                    let bypass = request.bypass;
                    slot.queue.push_front(Box::into_raw(request), bypass);
                    drop(state);
                    if alone {
                        // SAFETY: timer and DPC live as long as the adapter.
                        unsafe {
                            let pair = self.retry.get();
                            ke::KeSetTimer(&raw mut (*pair).0, BUSY_DELAY, &raw mut (*pair).1);
                        }
                    }
                    return None;
                }
                if scsi && status != SRB_STATUS_SUCCESS && request.flags & SRB_FLAGS_NO_QUEUE_FREEZE == 0 {
                    slot.queue.frozen = true;
                    srb.set_status(srb.status() | SRB_STATUS_QUEUE_FROZEN);
                }
            }
        }
        // SAFETY: the caller's promise.
        Some(unsafe { self.tell(request) })
    }

    /// What a completed request must look like.
    fn check(request: &Request) {
        let (srb, at) = (request.srb, request.srb.pointer() as usize);
        let status = srb.status() & !(SRB_STATUS_AUTOSENSE_VALID | SRB_STATUS_QUEUE_FROZEN);
        if status == SRB_STATUS_PENDING {
            violation("a request was completed with SRB_STATUS_PENDING", at, usize::from(srb.function()));
        }
        if srb.transfer_length() > request.length {
            violation("a request was completed with more data than it asked for", at, srb.transfer_length() as usize);
        }
        if srb.status() & SRB_STATUS_AUTOSENSE_VALID != 0 && (srb.sense().0.is_null() || srb.sense().1 == 0) {
            violation("a request without a sense buffer was completed with sense data", at, usize::from(srb.sense().1));
        }
        let success = status == SRB_STATUS_SUCCESS && srb.function() == SRB_FUNCTION_EXECUTE_SCSI;
        if success && srb.scsi_status() != SCSISTAT_GOOD {
            violation("a request succeeded with a bad SCSI status", at, usize::from(srb.scsi_status()));
        }
    }

    /// Tells the origin of a request, which is a spare one then. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Safety
    /// Nobody else has the request.
    #[expect(clippy::unnecessary_box_returns, reason = "it is the box that is used again")]
    unsafe fn tell(&self, request: Box<Request>) -> Box<Request> {
        let srb = request.srb;
        let status = srb.status() & !(SRB_STATUS_AUTOSENSE_VALID | SRB_STATUS_QUEUE_FROZEN);
        // SAFETY: the extension was allocated with the request; the origin is alive until it is told.
        unsafe {
            srb.set_owner(request.irp().cast(), ptr::null_mut());
            let request = retire(request);
            match request.origin {
                Origin::Irp(irp) => {
                    (*irp).io_status.status = nt_status(status);
                    let moved = matches!(status, SRB_STATUS_SUCCESS | SRB_STATUS_DATA_OVERRUN);
                    (*irp).io_status.information = if moved { srb.transfer_length() as usize } else { 0 };
                    IofCompleteRequest(irp, i8::from(status == SRB_STATUS_SUCCESS));
                }
                Origin::Event(event) => {
                    ke::KeSetEvent(event, 0, 0);
                }
                Origin::Reset(place) => {
                    drop(Box::from_raw(srb.pointer().cast::<ScsiRequestBlock>()));
                    if status != SRB_STATUS_SUCCESS {
                        self.escalate(place);
                    }
                }
            }
            request
        }
    }

    /// Sends one SCSI command of the port driver's own and waits. IRQL = PASSIVE_LEVEL. The data buffer is resident
    /// memory. Returns the SRB status without flags, and the bytes moved.
    pub fn execute(&self, unit: &Arc<Unit>, cdb: &[u8], data: &mut [u8], to_device: bool) -> (u8, u32) {
        let mut sense = [0u8; 18];
        let direction = if data.is_empty() {
            0
        } else if to_device {
            SRB_FLAGS_DATA_OUT
        } else {
            SRB_FLAGS_DATA_IN
        };
        let command = Command {
            cdb,
            flags: direction | SRB_FLAGS_NO_QUEUE_FREEZE | SRB_FLAGS_BYPASS_FROZEN_QUEUE,
            data: ptr::null_mut(),
            length: data.len() as u32,
            sense: (sense.as_mut_ptr(), 18),
            time_out: 10,
        };
        // SAFETY: SRB, event, bounce buffer and MDL live until the event is set.
        unsafe {
            let mut event = core::mem::zeroed::<Event>();
            ke::KeInitializeEvent(&raw mut event, 0, 0);
            let mut mdl = ptr::null_mut();
            let mut bounce = ptr::null_mut();
            if !data.is_empty() {
                bounce = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, data.len(), TAG).cast::<u8>();
                if bounce.is_null() {
                    return (SRB_STATUS_INTERNAL_ERROR, 0);
                }
                ptr::copy_nonoverlapping(data.as_ptr(), bounce, data.len());
                mdl = IoAllocateMdl(bounce.cast(), data.len() as u32, 0, 0, ptr::null_mut());
                if mdl.is_null() {
                    ExFreePool(bounce.cast());
                    return (SRB_STATUS_INTERNAL_ERROR, 0);
                }
                MmBuildMdlForNonPagedPool(mdl);
            }
            let mut long = core::mem::zeroed::<super::srb::LongSrb>();
            let mut short = core::mem::zeroed::<ScsiRequestBlock>();
            let command = Command { data: bounce.cast(), ..command };
            let srb = if self.extended_srbs() {
                super::srb::write_long(&mut long, &command);
                Srb::new((&raw mut long).cast())
            } else {
                write_short(&mut short, &command);
                Srb::new((&raw mut short).cast())
            };
            let mut result = (SRB_STATUS_INTERNAL_ERROR, 0);
            if let Some(request) = self.request(Some(unit.clone()), srb, Origin::Event(&raw mut event), mdl) {
                self.submit(request);
                crate::io::irp::wait_for(&raw mut event);
                result = (srb.status() & 0x3f, srb.transfer_length());
            }
            if !mdl.is_null() {
                ptr::copy_nonoverlapping(bounce, data.as_mut_ptr(), data.len());
                IoFreeMdl(mdl);
                ExFreePool(bounce.cast());
            }
            result
        }
    }

    /// Whether the miniport takes `STORAGE_REQUEST_BLOCK`s.
    pub fn extended_srbs(&self) -> bool {
        self.hw.srb_type_flags & SRB_TYPE_FLAG_STORAGE_REQUEST_BLOCK != 0
    }

    /// Sends one function without data to the miniport, past the queues, and waits. IRQL = PASSIVE_LEVEL.
    pub fn execute_function(&self, place: Place, fill: impl FnOnce(&mut ScsiRequestBlock)) -> u8 {
        // SAFETY: SRB and event live until the event is set.
        unsafe {
            let mut event = core::mem::zeroed::<Event>();
            ke::KeInitializeEvent(&raw mut event, 0, 0);
            let mut short = core::mem::zeroed::<ScsiRequestBlock>();
            short.length = size_of::<ScsiRequestBlock>() as u16;
            (short.path_id, short.target_id, short.lun) = place;
            short.time_out_value = 10;
            fill(&mut short);
            let srb = Srb::new((&raw mut short).cast());
            let Some(request) = self.request(None, srb, Origin::Event(&raw mut event), ptr::null_mut()) else {
                return SRB_STATUS_INTERNAL_ERROR;
            };
            self.start_now(request);
            crate::io::irp::wait_for(&raw mut event);
            srb.status() & 0x3f
        }
    }

    /// A second passed: pauses end, requests time out. IRQL = DISPATCH_LEVEL.
    fn second(&self) {
        let mut late = Vec::new();
        {
            let mut state = self.state.lock();
            state.gate.tick();
            for slot in &mut state.slots {
                slot.queue.gate.tick();
            }
            let frozen = state.gate.is_paused();
            for request in state.outstanding.values() {
                // SAFETY: outstanding requests are alive, and changed under this lock alone.
                let r = unsafe { &mut **request };
                if r.seconds == 0 || frozen {
                    continue;
                }
                r.seconds -= 1;
                if r.seconds == 0 {
                    // Given its time again: if the reset does not bring it back, the next stage follows.
                    r.seconds = r.srb.time_out().clamp(1, 10);
                    let place = r.srb.place();
                    if !late.contains(&place) {
                        late.push(place);
                    }
                }
            }
        }
        late.sort_unstable();
        for place in late {
            self.counters.timeouts.fetch_add(1, Ordering::Relaxed);
            super::TIMED_OUT.fetch_add(1, Ordering::Relaxed);
            self.escalate(place);
        }
        self.pump();
    }

    /// The next stage of the hierarchy of resets: unit, target, bus. IRQL = DISPATCH_LEVEL.
    /// <https://learn.microsoft.com/windows-hardware/drivers/storage/handling-resets-in-storport>
    pub fn escalate(&self, place: Place) {
        let stage = {
            let mut state = self.state.lock();
            let Some(slot) = state.slots.iter_mut().find(|s| s.unit.place == place) else { return };
            slot.stage = (slot.stage + 1).min(3);
            slot.stage
        };
        if stage == 3 {
            self.reset_bus(place.0);
            return;
        }
        if stage == 2 && self.config().reset_target_supported == 0 {
            self.escalate(place);
            return;
        }
        let function = if stage == 1 { SRB_FUNCTION_RESET_LOGICAL_UNIT } else { SRB_FUNCTION_RESET_DEVICE };
        self.counters.resets.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the SRB is freed when its request is told.
        unsafe {
            let mut srb = Box::new(core::mem::zeroed::<ScsiRequestBlock>());
            srb.length = size_of::<ScsiRequestBlock>() as u16;
            srb.function = function;
            (srb.path_id, srb.target_id, srb.lun) = place;
            let view = Srb::new(Box::into_raw(srb).cast());
            match self.request(None, view, Origin::Reset(place), ptr::null_mut()) {
                Some(request) => self.start_now(request),
                None => drop(Box::from_raw(view.pointer().cast::<ScsiRequestBlock>())),
            }
        }
    }

    /// HwStorResetBus. IRQL <= DISPATCH_LEVEL.
    pub fn reset_bus(&self, path: u8) -> bool {
        let Some(reset) = self.hw.hw_reset_bus else { return false };
        self.counters.resets.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the miniport's routine, with the lock that it is documented to have.
        unsafe {
            let irql = KfRaiseIrql(DISPATCH_LEVEL);
            let done = self.synchronized(|| reset(self.extension(), u32::from(path)));
            KeLowerIrql(irql);
            done != 0
        }
    }
}

/// The NTSTATUS of an SRB status without its flags.
pub fn nt_status(status: u8) -> NtStatus {
    match status {
        SRB_STATUS_SUCCESS => STATUS_SUCCESS,
        SRB_STATUS_DATA_OVERRUN => STATUS_BUFFER_OVERFLOW,
        SRB_STATUS_BUSY => STATUS_DEVICE_BUSY,
        SRB_STATUS_TIMEOUT | 0x0b => STATUS_IO_TIMEOUT,
        SRB_STATUS_INVALID_REQUEST | SRB_STATUS_BAD_FUNCTION => STATUS_INVALID_DEVICE_REQUEST,
        SRB_STATUS_NO_DEVICE
        | SRB_STATUS_INVALID_LUN
        | SRB_STATUS_INVALID_TARGET_ID
        | SRB_STATUS_INVALID_PATH_ID
        | SRB_STATUS_NO_HBA
        | SRB_STATUS_SELECTION_TIMEOUT => STATUS_DEVICE_DOES_NOT_EXIST,
        SRB_STATUS_REQUEST_FLUSHED => STATUS_UNSUCCESSFUL,
        // STATUS_IO_DEVICE_ERROR
        _ => 0xC000_0185_u32 as i32,
    }
}

/// The DMA adapter made the list of a request. IRQL = DISPATCH_LEVEL.
unsafe extern "win64" fn list_routine(
    _device: *mut DeviceObject,
    _irp: *mut c_void,
    list: *mut ScatterGatherList,
    context: *mut c_void,
) {
    // SAFETY: the context is the request that asked for the list.
    unsafe {
        let request = &mut *context.cast::<Request>();
        request.list = list;
        (*request.adapter).run(request);
    }
}

unsafe extern "win64" fn completion_routine(_: *mut Dpc, context: *mut c_void, _: *mut c_void, _: *mut c_void) {
    // SAFETY: the context is the adapter, which outlives its DPCs.
    let adapter = unsafe { &*context.cast::<Adapter>() };
    let mut spare = None;
    loop {
        let mut state = adapter.state.lock();
        if let Some(spare) = spare.take() {
            state.spares.put(spare);
        }
        let Some(request) = state.completed.pop_front() else { break };
        drop(state);
        // SAFETY: the request came out of the list; it is this processor's now.
        spare = unsafe { adapter.finish(request) };
    }
    if adapter.rescan_wanted.swap(false, Ordering::AcqRel) {
        super::fdo::rescan(adapter);
    }
    adapter.pump();
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
            routine(adapter.extension());
        }
    }
}
