//! An adapter: start-I/O, completion, resets and PnP.

use alloc::boxed::Box;
use core::{
    ffi::c_void,
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use wdm::{
    event::{Event, EventKind, Mutex},
    memory::{Shared, try_box},
    pnp::{PnpRequest, UsageKind},
    spinlock::SpinLock,
    status::Status as NtStatus,
    storport::{
        self, DeviceObjects, PnpFilter, Srb,
        abi::{SRB_ORDERED_QUEUE_TAG_REQUEST, srb_flags, srb_function, srb_status},
    },
    thread::Thread,
};
use xenbus::{
    client::{self, Bus, Client},
    interface::{EventOutcome, LogLevel},
};

use super::{
    connection::Control,
    raw::{self, SharedPages, SrbRequest},
    settings,
};
use crate::{
    front::{
        io::{Io, Kind, Request, Status},
        ring::{BOUNCE_PAGES, HeapTables, INDIRECT_SEGMENTS, Ring},
    },
    scsi::{self, Attention, Outcome, Sense, TransferKind, Unit, sense},
};

/// Requests that storport may have outstanding.
pub const QUEUE_DEPTH: u32 = 254;
/// Requests that the ring's table holds: storport's queue depth, and some that go past it (flush, shutdown).
const ENTRIES: usize = 272;
/// Slots of the largest ring.
const SLOTS: usize = 512;
/// Groups of bounce pages.
const BOUNCE_GROUPS: usize = 4;
/// Grant references of one disk: 4 MiB in flight. A domain has 32 768 by default, for all its devices.
const STOCK: usize = 1024;
/// Responses taken in one DPC.
pub const BUDGET: u32 = 256;
/// Finished requests that are taken under one hold of the lock.
const BATCH: usize = 8;
/// Microseconds between looks at held requests.
const HELD_INTERVAL: u32 = 1_000_000;
/// Resets in a row, with requests at the backend and without a single answer from it, after which the backend counts as
/// one that broke the protocol. With Windows' time-out of ten seconds these are two minutes: a dom0 whose storage fails
/// over is not to be mistaken for a dead one.
const RESETS: u32 = 12;

/// The frontend of a disk.
type DiskRing = Ring<SrbRequest, SharedPages, HeapTables<SrbRequest>>;

/// What the I/O path uses, under one spin lock.
pub struct Hot {
    /// The ring. Boxed, so that an adapter under construction fits a kernel stack well.
    pub ring: Box<DiskRing>,
    /// The disk; None until the backend was connected for the first time.
    pub unit: Option<Unit>,
    /// The event channel, while there is one.
    pub event: Option<client::Event>,
}

/// One VBD.
pub struct Adapter {
    /// The bus.
    pub client: Client,
    /// Storport's side.
    pub storport: storport::Adapter,
    /// The I/O path.
    pub hot: SpinLock<Hot>,
    /// What the connection is about. Never taken while the spin lock is held.
    pub control: Box<Mutex<Control>>,
    /// Signalled whenever the connection made a step.
    pub progress: Event,
    /// Wakes the keeper: the ring is broken, or what the connection waits for has changed.
    pub work: Event,
    /// The thread that does what no watch of the store asks for: see [`Adapter::keep`].
    pub keeper: Mutex<Option<Thread>>,
    /// The keeper is to end.
    pub stopping: AtomicBool,
    /// Unit attentions to tell.
    pub attention: Attention,
    /// Storport has finished its first scan: what changes from now on needs another.
    pub started: AtomicBool,
    /// The device is gone, or on its way out.
    pub gone: AtomicBool,
    /// The device is there, but its backend failed too often: every request that needs the disk fails.
    pub lost: AtomicBool,
    /// Resets since the last answer.
    resets: AtomicU32,
    /// Between freeze and resume: shared pages are not touched.
    pub frozen: AtomicBool,
    /// The disk has an emulated twin in this boot: Windows does not see it. It is connected and looked at all the same, so
    /// that it is known to work before a boot depends on it.
    pub withheld: bool,
    /// A withheld disk answered; the bus is to be told.
    pub answered: AtomicBool,
}

/// What requests go through, with all the memory that they need. Not inlined, to keep it off the caller's frame.
#[inline(never)]
fn make_ring(control: &Control) -> wdm::Result<Box<DiskRing>> {
    let indirects = settings::indirect_pages();
    let pool = SharedPages::new(indirects + BOUNCE_GROUPS * BOUNCE_PAGES)?;
    let stock = STOCK.max(2 * indirects + INDIRECT_SEGMENTS);
    let tables = HeapTables::new(ENTRIES, SLOTS, indirects, stock).ok_or(NtStatus::INSUFFICIENT_RESOURCES)?;
    try_box(Ring::new(tables, pool, control.handle()).map_err(|_| NtStatus::INSUFFICIENT_RESOURCES)?)
}

/// What the store says of the disk, and whether it is withheld. Not inlined, for the same reason.
#[inline(never)]
fn read_control(client: &Client) -> wdm::Result<(Box<Mutex<Control>>, bool)> {
    let (control, withheld) = Control::read(client)?;
    Ok((try_box(Mutex::new(control)?)?, withheld))
}

/// Moves an adapter off the stack. Not inlined, for the same reason.
#[inline(never)]
fn share(adapter: Adapter) -> wdm::Result<Shared<Adapter>> {
    Shared::new(adapter)
}

impl Adapter {
    /// Fetches the bus's interface and allocates all that I/O needs.
    ///
    /// # Errors
    /// [`NtStatus::NO_SUCH_DEVICE`] for a device that is another driver's; no memory; the bus's.
    #[inline(never)]
    pub fn new(storport: storport::Adapter, objects: DeviceObjects) -> wdm::Result<Shared<Self>> {
        let client = raw::connect(objects.physical)?;
        let (control, withheld) = read_control(&client)?;
        let ring = make_ring(&control.lock())?;
        share(Self {
            client,
            storport,
            hot: SpinLock::new(Hot { ring, unit: None, event: None }),
            control,
            progress: Event::new(EventKind::Synchronization, false)?,
            work: Event::new(EventKind::Synchronization, false)?,
            keeper: Mutex::new(None)?,
            stopping: AtomicBool::new(false),
            attention: Attention::new(),
            started: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            resets: AtomicU32::new(0),
            frozen: AtomicBool::new(false),
            withheld,
            answered: AtomicBool::new(false),
        })
    }

    /// Starts the keeper, which [`Adapter::close`] ends.
    ///
    /// # Errors
    /// No memory for a thread.
    pub fn employ_keeper(this: &Shared<Self>) -> wdm::Result {
        let adapter = this.clone();
        *this.keeper.lock() = Some(Thread::spawn(move || adapter.keep())?);
        Ok(())
    }

    /// Connects, and waits for that as long as the settings say. Always true: a disk that is late appears later.
    pub fn start(&self) -> bool {
        if self.begin() {
            let mut left = settings::connect_timeout();
            // Nobody waits for a disk that Windows does not see.
            while !self.withheld && left > 0 && !self.control.lock().is_settled() {
                if !self.progress.wait_for(Duration::from_secs(1)) {
                    left -= 1;
                }
            }
            if !self.withheld && self.hot.lock().unit.is_none() {
                self.client.log(LogLevel::Warning, format_args!("not connected yet; the disk appears when it is"));
            }
        }
        self.started.store(true, Ordering::Release);
        true
    }

    /// HwStartIo. IRQL = DISPATCH_LEVEL.
    pub fn start_io(&self, srb: Srb) {
        match srb.block().function {
            srb_function::EXECUTE_SCSI => self.execute(srb),
            srb_function::FLUSH | srb_function::SHUTDOWN => {
                let hot = self.hot.lock();
                match hot.unit {
                    Some(unit) if unit.cache && !self.withheld && !self.gone.load(Ordering::Relaxed) => {
                        self.submit(hot, srb, Io::new(Kind::Flush, 0, 0), &unit);
                    }
                    // An adapter without a cache, or one that was closed, has nothing to flush.
                    _ => {
                        drop(hot);
                        self.finish(srb, srb_status::SUCCESS);
                    }
                }
            }
            srb_function::RESET_BUS | srb_function::RESET_DEVICE | srb_function::RESET_LOGICAL_UNIT => {
                self.reset();
                self.finish(srb, srb_status::SUCCESS);
            }
            srb_function::PNP | srb_function::POWER => self.finish(srb, srb_status::SUCCESS),
            _ => self.finish(srb, srb_status::INVALID_REQUEST),
        }
    }

    fn execute(&self, mut srb: Srb) {
        let block = srb.block();
        let wrong = match (block.path_id, block.target_id, block.lun) {
            (0, 0, 0) => None,
            (0, 0, _) => Some(srb_status::INVALID_LUN),
            (0, _, _) => Some(srb_status::INVALID_TARGET_ID),
            _ => Some(srb_status::INVALID_PATH_ID),
        };
        if let Some(status) = wrong {
            return self.finish(srb, status);
        }
        let (cdb, cdb_len, data_len) = (block.cdb, srb.cdb().len(), block.data_transfer_length);
        let cdb = cdb.get(..cdb_len).unwrap_or(&[]);
        if scsi::reports_attention(cdb) {
            if let Some(sense) = self.attention.take() {
                return self.fail(srb, sense);
            }
            if self.lost.load(Ordering::Relaxed) {
                return self.fail(srb, Sense::INTERNAL_FAILURE);
            }
        }
        let hot = self.hot.lock();
        let Some(unit) = hot.unit.filter(|_| !self.withheld && !self.gone.load(Ordering::Relaxed)) else {
            drop(hot);
            return self.finish(srb, srb_status::NO_DEVICE);
        };
        let outcome = if scsi::moves_blocks(cdb) {
            scsi::decode(&unit, cdb, &mut [], data_len)
        } else {
            scsi::decode(&unit, cdb, srb.data(), data_len)
        };
        let io = match outcome {
            Outcome::Transfer(transfer) => {
                let kind = match transfer.kind {
                    TransferKind::Read => Kind::Read,
                    TransferKind::Write => Kind::Write,
                    TransferKind::Verify => Kind::Verify,
                };
                let mut io = Io::new(kind, transfer.sector, transfer.sectors);
                io.force = transfer.force && kind == Kind::Write;
                io
            }
            Outcome::Flush => Io::new(Kind::Flush, 0, 0),
            Outcome::Unmap(count) => Io::new(Kind::Discard, 0, count),
            Outcome::Done(bytes) => {
                drop(hot);
                if scsi::is_inquiry(cdb) {
                    // Storport knows the unit from here on. What it answers does not matter: the depth is a hint.
                    self.storport.set_queue_depth(QUEUE_DEPTH);
                }
                srb.block_mut().data_transfer_length = bytes;
                return self.finish(srb, srb_status::SUCCESS);
            }
            Outcome::Fail(sense) => {
                drop(hot);
                return self.fail(srb, sense);
            }
        };
        self.submit(hot, srb, io, &unit);
    }

    fn submit(&self, mut hot: wdm::spinlock::SpinGuard<'_, Hot>, srb: Srb, mut io: Io, unit: &Unit) {
        let block = srb.block();
        io.ordered = block.srb_flags & srb_flags::QUEUE_ACTION_ENABLE != 0
            && block.queue_action == SRB_ORDERED_QUEUE_TAG_REQUEST;
        let request = match SrbRequest::new(srb, self.storport, io, unit) {
            Ok(request) => request,
            Err((srb, status)) => {
                drop(hot);
                return self.finish(srb, status);
            }
        };
        match hot.ring.submit(&self.client, request) {
            Ok(next) => {
                if next.notify
                    && let Some(event) = hot.event
                {
                    self.client.send(event);
                }
                if hot.ring.is_broken() {
                    self.work.set();
                }
                drop(hot);
                if next.more {
                    self.catch_up();
                }
            }
            Err(request) => {
                drop(hot);
                if let (Some(srb), _) = request.into_srb() {
                    self.finish(srb, srb_status::BUSY);
                }
            }
        }
    }

    /// Takes what the backend answered and completes it, until nothing is left; only then is an event asked for, so that
    /// responses that come while others are completed cost none. IRQL <= DISPATCH_LEVEL.
    pub fn drain(&self, budget: u32) -> EventOutcome {
        let mut left = budget;
        let mut batch = [const { None::<(SrbRequest, Status)> }; BATCH];
        loop {
            let mut quiet = false;
            let mut held = false;
            {
                let mut hot = self.hot.lock();
                for place in &mut batch {
                    *place = hot.ring.take_finished(&self.client, &mut left);
                    if place.is_none() {
                        break;
                    }
                }
                if batch[0].is_none() {
                    let next = hot.ring.rearm(&self.client);
                    if next.notify
                        && let Some(event) = hot.event
                    {
                        self.client.send(event);
                    }
                    quiet = !next.more;
                    held = hot.ring.has_held();
                    if hot.ring.is_broken() {
                        self.work.set();
                    }
                }
            }
            for (request, status) in batch.iter_mut().map_while(Option::take) {
                self.complete(request, status);
            }
            if held {
                self.storport.request_timer(raw::timer, HELD_INTERVAL);
            }
            if quiet {
                if left == budget {
                    return EventOutcome::Spurious;
                }
                self.resets.store(0, Ordering::Relaxed);
                return EventOutcome::Done;
            }
            if left == 0 {
                return EventOutcome::More;
            }
        }
    }

    /// Takes what the backend has answered by now. What goes beyond the budget comes with the event's callback, which nobody
    /// else would have run, or at once where there is no event. IRQL <= DISPATCH_LEVEL.
    pub fn catch_up(&self) {
        while matches!(self.drain(BUDGET), EventOutcome::More) {
            let event = self.hot.lock().event;
            if let Some(event) = event {
                self.client.trigger(event);
                return;
            }
        }
    }

    /// Looks at held requests again. IRQL = DISPATCH_LEVEL.
    pub fn on_timer(&self) {
        if self.frozen.load(Ordering::Acquire) {
            self.storport.request_timer(raw::timer, HELD_INTERVAL);
        } else {
            self.catch_up();
        }
    }

    /// Makes sure that no event was lost, and completes nothing that is not finished. After [`RESETS`] of them without
    /// an answer the backend is closed like one that broke the protocol. IRQL <= DISPATCH_LEVEL.
    pub fn reset(&self) {
        self.attention.raise(Sense::RESET);
        if !self.frozen.load(Ordering::Acquire) {
            self.catch_up();
        }
        let resets = self.resets.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut hot = self.hot.lock();
        let out = hot.ring.in_flight();
        // Storport asks for one every few seconds as long as a request waits: 1, 2, 4, 8, 16, ... are logged.
        if resets.is_power_of_two() {
            let line = format_args!("reset {resets} without an answer; {out} requests are with the backend");
            self.client.log(LogLevel::Warning, line);
        }
        if out == 0 || hot.ring.is_broken() || self.frozen.load(Ordering::Acquire) {
            return;
        }
        if resets >= RESETS {
            hot.ring.distrust(&self.client, format_args!("no answer to {out} requests in spite of {resets} resets"));
            self.work.set();
        } else if let Some(event) = hot.event {
            self.client.send(event);
        }
    }

    /// A request has ended. IRQL <= DISPATCH_LEVEL.
    fn complete(&self, request: SrbRequest, status: Status) {
        let kind = request.io().kind;
        let (Some(mut srb), io) = request.into_srb() else {
            self.answered.store(status == Status::Done, Ordering::Release);
            return self.work.set();
        };
        match status {
            Status::Done => {
                if matches!(kind, Kind::Read | Kind::Write) {
                    srb.block_mut().data_transfer_length = io.count * 512;
                }
                self.finish(srb, srb_status::SUCCESS);
            }
            Status::Error => self.fail(
                srb,
                match kind {
                    Kind::Read | Kind::Verify => Sense::UNRECOVERED_READ,
                    Kind::Write => Sense::WRITE_ERROR,
                    Kind::Flush | Kind::Discard => Sense::INTERNAL_FAILURE,
                },
            ),
            Status::Unsupported => {
                self.disable(&io);
                self.fail(
                    srb,
                    if matches!(kind, Kind::Flush | Kind::Discard) {
                        Sense::INVALID_OPCODE
                    } else {
                        Sense::INVALID_FIELD_IN_CDB
                    },
                );
            }
            Status::Gone if self.gone.load(Ordering::Relaxed) => self.finish(srb, srb_status::NO_DEVICE),
            Status::Gone => self.fail(srb, Sense::INTERNAL_FAILURE),
        }
    }

    /// The backend does not know an operation that it said it did.
    fn disable(&self, io: &Io) {
        let mut hot = self.hot.lock();
        let Some(unit) = &mut hot.unit else { return };
        match io.kind {
            Kind::Discard => unit.discard = None,
            Kind::Flush => unit.cache = false,
            Kind::Write if io.force => unit.cache = false,
            _ => return,
        }
        drop(hot);
        self.attention.raise(Sense::MODE_CHANGED);
        self.client.log(LogLevel::Warning, format_args!("{:?}: offered by the backend, not known to it", io.kind));
    }

    fn finish(&self, mut srb: Srb, status: u8) {
        let block = srb.block_mut();
        block.srb_status = status;
        block.scsi_status = sense::GOOD;
        if status != srb_status::SUCCESS {
            block.data_transfer_length = 0;
        }
        self.storport.complete(srb);
    }

    fn fail(&self, mut srb: Srb, sense: Sense) {
        let told = srb.set_sense(&sense.encode());
        let block = srb.block_mut();
        block.scsi_status = sense::CHECK_CONDITION;
        block.srb_status = srb_status::ERROR | if told { srb_status::AUTOSENSE_VALID } else { 0 };
        block.data_transfer_length = 0;
        self.storport.complete(srb);
    }
}

/// What is done about PnP requests before storport has them.
pub struct PnpHook;

impl PnpFilter for PnpHook {
    fn before(device: NonNull<c_void>, request: &PnpRequest) -> wdm::Result {
        match request {
            PnpRequest::UsageNotification { kind: UsageKind::Dump | UsageKind::Hibernation, in_path: true } => {
                Err(NtStatus::NOT_SUPPORTED)
            }
            PnpRequest::SurpriseRemoval => {
                if let Some(adapter) = raw::adapter_of(device) {
                    adapter.abandon();
                }
                Ok(())
            }
            PnpRequest::Stop | PnpRequest::Remove => {
                if let Some(adapter) = raw::adapter_of(device) {
                    adapter.close();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn after(device: NonNull<c_void>, request: &PnpRequest, pending: bool) {
        if matches!(request, PnpRequest::Remove) {
            if pending {
                // Storport is not done with the adapter: its memory stays.
                wdm::warning!("a removal is pending: the adapter is not freed");
            } else {
                raw::forget_adapter(device);
            }
        }
    }
}
