//! Transfers: split to what the adapter takes, sent as request blocks, tried again by the rules of the class driver.

use super::driver::Disk;
use super::info::{Sense, Verdict, judge, read_write_cdb};
use crate::ex::{ExAllocatePoolWithTag, ExFreePool};
use crate::io::abi::{DeviceObject, Irp, mj};
use crate::io::irp::{IoAllocateIrp, IoFreeIrp, IofCallDriver, next, set_completion, wait_for};
use crate::ke;
use crate::ke::abi::{Dpc, Event, Timer};
use crate::mm::abi::Mdl;
use crate::mm::mdl::{IoAllocateMdl, IoFreeMdl, MmBuildMdlForNonPagedPool};
use crate::status::*;
use crate::storport::abi::{
    SRB_FLAGS_DATA_IN, SRB_FLAGS_DATA_OUT, SRB_FLAGS_NO_QUEUE_FREEZE, SRB_FLAGS_QUEUE_ACTION_ENABLE,
};
use crate::storport::srb::{Command, LongSrb, Srb, write_long, write_short};
use crate::sync::IrqLock;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Tag of the class driver's pool blocks.
const TAG: u32 = u32::from_le_bytes(*b"Disk");
/// `NonPagedPoolNx`.
const NON_PAGED_POOL_NX: i32 = 512;
/// As classpnp's MAXIMUM_RETRIES.
const RETRIES: u32 = 8;
/// Tries after busy answers: these are no errors, and end only with the disk.
const BUSY_RETRIES: u32 = 600;
/// Seconds that a command gets, as disk.sys gives it.
const TIME_OUT: u32 = 60;

/// Resident memory for transfers, starting at any offset within a page.
pub struct Buffer {
    block: *mut u8,
    offset: usize,
    length: usize,
}

// SAFETY: the block belongs to the buffer alone.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `length` zero bytes that start `offset` bytes behind the start of a page. IRQL <= DISPATCH_LEVEL. `None`
    /// without memory.
    pub fn new(length: usize, offset: usize) -> Option<Buffer> {
        // Blocks of a page and more start at a page.
        let bytes = (offset + length).max(4096);
        // SAFETY: a plain allocation, zeroed.
        let block = unsafe {
            let block = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, bytes, TAG).cast::<u8>();
            if block.is_null() {
                return None;
            }
            ptr::write_bytes(block, 0, bytes);
            block
        };
        Some(Buffer { block, offset, length })
    }

    /// A copy of `data`, at that offset.
    pub fn of(data: &[u8], offset: usize) -> Option<Buffer> {
        let mut buffer = Buffer::new(data.len(), offset)?;
        buffer.bytes_mut().copy_from_slice(data);
        Some(buffer)
    }

    /// Its address.
    pub fn address(&self) -> *mut u8 {
        self.block.wrapping_add(self.offset)
    }

    /// Its content.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the block has offset and length.
        unsafe { core::slice::from_raw_parts(self.address(), self.length) }
    }

    /// Its content.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the buffer is borrowed alone.
        unsafe { core::slice::from_raw_parts_mut(self.address(), self.length) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`.
        unsafe { ExFreePool(self.block.cast()) };
    }
}

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads the buffer's length from a byte offset that is a multiple of the block size.
    Read {
        /// Where.
        offset: u64,
    },
    /// Writes it.
    Write {
        /// Where.
        offset: u64,
        /// Force unit access.
        fua: bool,
    },
    /// Any command as it stands; not split and not tried again.
    Raw {
        /// The command.
        cdb: [u8; 16],
        /// Its bytes in use.
        length: u8,
        /// The buffer goes to the disk.
        to_device: bool,
    },
    /// As `Raw`, tried again by the rules.
    Command {
        /// The command.
        cdb: [u8; 16],
        /// Its bytes in use.
        length: u8,
        /// The buffer goes to the disk.
        to_device: bool,
    },
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// `SRB_STATUS_*` with its flags, of the part that failed or of the last one.
    pub srb_status: u8,
    /// The target's status.
    pub scsi_status: u8,
    /// Sense data, if there was any.
    pub sense: Option<Sense>,
    /// Bytes moved.
    pub moved: usize,
    /// The NTSTATUS of the IRP.
    pub status: NtStatus,
    /// It succeeded.
    pub good: bool,
}

/// An operation under way.
pub struct Ticket(Arc<Io>);

/// An operation: its parts, and who waits.
struct Io {
    disk: Arc<Disk>,
    buffer: IrqLock<Option<Buffer>>,
    left: AtomicUsize,
    outcome: IrqLock<Outcome>,
    event: core::cell::UnsafeCell<Event>,
    raw: bool,
}

// SAFETY: the event is used by NT functions alone; the rest is locked or atomic.
unsafe impl Send for Io {}
// SAFETY: as above.
unsafe impl Sync for Io {}

impl Ticket {
    /// Whether it is done. IRQL <= DISPATCH_LEVEL.
    pub fn is_done(&self) -> bool {
        self.0.left.load(Ordering::Acquire) == 0
    }

    /// Waits until it is done; gives the buffer back. IRQL = PASSIVE_LEVEL.
    pub fn wait(self) -> (Outcome, Option<Buffer>) {
        // SAFETY: the event is in the operation, which this ticket keeps.
        unsafe { wait_for(self.0.event.get()) };
        let outcome = *self.0.outcome.lock();
        let buffer = self.0.buffer.lock().take();
        (outcome, buffer)
    }
}

/// One command of an operation.
struct Part {
    io: Arc<Io>,
    srb: *mut c_void,
    sense: *mut u8,
    cdb: [u8; 16],
    cdb_length: u8,
    to_device: bool,
    data: *mut u8,
    length: u32,
    mdl: *mut Mdl,
    tries: u32,
    busy: u32,
    timer: Timer,
    dpc: Dpc,
}

/// Bytes of sense data that are asked for.
const SENSE: usize = 252;

/// Starts an operation. IRQL <= DISPATCH_LEVEL. `None` without memory.
pub fn start(disk: &Arc<Disk>, operation: Operation, buffer: Option<Buffer>) -> Option<Ticket> {
    let (data, length) = buffer.as_ref().map_or((ptr::null_mut(), 0), |b| (b.address(), b.length));
    let parts = split(disk, operation, length);
    let none = Outcome { srb_status: 1, scsi_status: 0, sense: None, moved: 0, status: STATUS_SUCCESS, good: true };
    // SAFETY: all zero is valid for an event, which is initialised below.
    let event = unsafe { core::mem::zeroed::<Event>() };
    let io = Arc::new(Io {
        disk: disk.clone(),
        buffer: IrqLock::new(buffer),
        left: AtomicUsize::new(parts.len()),
        outcome: IrqLock::new(none),
        event: core::cell::UnsafeCell::new(event),
        raw: matches!(operation, Operation::Raw { .. }),
    });
    // SAFETY: the event's address does not change.
    unsafe { ke::KeInitializeEvent(io.event.get(), 0, 0) };
    let mut made = Vec::new();
    for (cdb, cdb_length, to_device, at, bytes) in parts {
        made.push(Part::make(&io, cdb, cdb_length, to_device, data.wrapping_add(at), bytes)?);
    }
    disk.counters.operations.fetch_add(1, Ordering::Relaxed);
    for part in made {
        Part::send(Box::into_raw(part));
    }
    Some(Ticket(io))
}

/// Command, its length, direction, place in the buffer and bytes of each part.
type Plan = Vec<([u8; 16], u8, bool, usize, u32)>;

fn split(disk: &Disk, operation: Operation, length: usize) -> Plan {
    let info = disk.info();
    let (write, offset, fua) = match operation {
        Operation::Read { offset } => (false, offset, false),
        Operation::Write { offset, fua } => (true, offset, fua),
        Operation::Raw { cdb, length: n, to_device } | Operation::Command { cdb, length: n, to_device } => {
            return alloc::vec![(cdb, n, to_device, 0, length as u32)];
        }
    };
    let block = info.block.max(1) as usize;
    let most = (info.max_transfer as usize).max(block) / block * block;
    let mut plan = Plan::new();
    let mut at = 0;
    while at < length {
        let bytes = (length - at).min(most);
        let lba = (offset + at as u64) / block as u64;
        let (cdb, n) = read_write_cdb(write, lba, (bytes / block) as u32, fua);
        plan.push((cdb, n as u8, write, at, bytes as u32));
        at += bytes;
    }
    plan
}

impl Part {
    fn make(
        io: &Arc<Io>,
        cdb: [u8; 16],
        cdb_length: u8,
        to_device: bool,
        data: *mut u8,
        length: u32,
    ) -> Option<Box<Part>> {
        // SAFETY: plain allocations; the MDL describes a part of the operation's buffer.
        unsafe {
            let bytes = size_of::<LongSrb>();
            let srb = ExAllocatePoolWithTag(NON_PAGED_POOL_NX, bytes + SENSE, TAG).cast::<u8>();
            if srb.is_null() {
                return None;
            }
            let mut part = Box::new(Part {
                io: io.clone(),
                srb: srb.cast(),
                sense: srb.add(bytes),
                cdb,
                cdb_length,
                to_device,
                data,
                length,
                mdl: ptr::null_mut(),
                tries: 0,
                busy: 0,
                timer: core::mem::zeroed(),
                dpc: core::mem::zeroed(),
            });
            if length != 0 {
                part.mdl = IoAllocateMdl(data.cast(), length, 0, 0, ptr::null_mut());
                if part.mdl.is_null() {
                    return None;
                }
                MmBuildMdlForNonPagedPool(part.mdl);
            }
            Some(part)
        }
    }

    /// Sends the command to the port driver.
    fn send(part: *mut Part) {
        // SAFETY: the part is this processor's until the IRP is sent; then its completion routine's.
        unsafe {
            let p = &mut *part;
            let disk = &p.io.disk;
            if disk.is_gone() {
                // SRB_STATUS_NO_DEVICE
                let status = STATUS_DEVICE_DOES_NOT_EXIST;
                let none = Outcome { srb_status: 8, scsi_status: 0, sense: None, moved: 0, status, good: false };
                Part::finish(part, none);
                return;
            }
            ptr::write_bytes(p.sense, 0, SENSE);
            let direction = match (p.length, p.to_device) {
                (0, _) => 0,
                (_, true) => SRB_FLAGS_DATA_OUT,
                (_, false) => SRB_FLAGS_DATA_IN,
            };
            let command = Command {
                cdb: &p.cdb[..usize::from(p.cdb_length)],
                flags: direction | SRB_FLAGS_NO_QUEUE_FREEZE | SRB_FLAGS_QUEUE_ACTION_ENABLE,
                data: p.data.cast(),
                length: p.length,
                sense: (p.sense, SENSE as u8),
                time_out: TIME_OUT,
            };
            if disk.extended_srbs() {
                write_long(p.srb.cast(), &command);
            } else {
                write_short(p.srb.cast(), &command);
            }
            let irp = IoAllocateIrp((*disk.lower).stack_size + 1, 0);
            if irp.is_null() {
                Part::later(part, 10);
                return;
            }
            let location = &mut *next(irp);
            location.major = mj::INTERNAL_DEVICE_CONTROL;
            location.parameters.others[0] = p.srb;
            (*irp).mdl = p.mdl.cast();
            set_completion(irp, completed, part.cast());
            disk.counters.in_flight.fetch_add(1, Ordering::Relaxed);
            disk.note_depth();
            let lower = disk.lower;
            IofCallDriver(lower, irp);
        }
    }

    /// Sends it again after some milliseconds.
    fn later(part: *mut Part, milliseconds: u32) {
        // SAFETY: the part is this processor's until its timer ran.
        unsafe {
            let p = &mut *part;
            ke::KeInitializeTimer(&raw mut p.timer);
            ke::KeInitializeDpc(&raw mut p.dpc, Some(again), part.cast());
            ke::KeSetTimer(&raw mut p.timer, -10_000 * i64::from(milliseconds), &raw mut p.dpc);
        }
    }

    /// The command is done for good.
    fn finish(part: *mut Part, outcome: Outcome) {
        // SAFETY: nobody else has the part any more.
        let part = unsafe { Box::from_raw(part) };
        let io = part.io.clone();
        drop(part);
        {
            let mut all = io.outcome.lock();
            let moved = all.moved + outcome.moved;
            if all.good {
                *all = outcome;
            }
            all.moved = moved;
        }
        if !outcome.good && !io.raw {
            io.disk.counters.errors.fetch_add(1, Ordering::Relaxed);
        }
        if io.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: the event is in the operation.
            unsafe { ke::KeSetEvent(io.event.get(), 0, 0) };
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // SAFETY: made in `make`; the port driver is done with both.
        unsafe {
            if !self.mdl.is_null() {
                IoFreeMdl(self.mdl);
            }
            ExFreePool(self.srb);
        }
    }
}

unsafe extern "win64" fn again(_: *mut Dpc, part: *mut c_void, _: *mut c_void, _: *mut c_void) {
    Part::send(part.cast());
}

/// The port driver is done with a command. IRQL <= DISPATCH_LEVEL.
unsafe extern "win64" fn completed(_: *mut DeviceObject, irp: *mut Irp, context: *mut c_void) -> NtStatus {
    let part = context.cast::<Part>();
    // SAFETY: the part came with the IRP; its request block is whole.
    unsafe {
        let status = (*irp).io_status.status;
        (*irp).mdl = ptr::null_mut();
        IoFreeIrp(irp);
        let p = &mut *part;
        let disk = p.io.disk.clone();
        disk.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        let srb = Srb::new(p.srb);
        let srb_status = srb.status();
        let valid = srb_status & 0x80 != 0;
        let sense = valid.then(|| Sense::parse(core::slice::from_raw_parts(p.sense, SENSE))).flatten();
        let outcome = |good: bool| Outcome {
            srb_status,
            scsi_status: srb.scsi_status(),
            sense,
            moved: srb.transfer_length() as usize,
            status,
            good,
        };
        if sense.is_some_and(|s| s.key == 6) {
            disk.counters.unit_attentions.fetch_add(1, Ordering::Relaxed);
        }
        let mut verdict = judge(srb_status, srb.scsi_status(), sense);
        if verdict == Verdict::Resized {
            disk.resized();
            verdict = Verdict::Retry;
        }
        let good = verdict == Verdict::Success;
        if p.io.raw || good || verdict == Verdict::Fail || disk.is_gone() {
            Part::finish(part, outcome(good));
            return STATUS_MORE_PROCESSING_REQUIRED;
        }
        let busy = srb_status & 0x3f == 5;
        let tried = if busy { &mut p.busy } else { &mut p.tries };
        *tried += 1;
        if *tried > if busy { BUSY_RETRIES } else { RETRIES } {
            Part::finish(part, outcome(false));
            return STATUS_MORE_PROCESSING_REQUIRED;
        }
        disk.counters.retries.fetch_add(1, Ordering::Relaxed);
        match verdict {
            Verdict::RetryAfter(ms) => Part::later(part, ms),
            _ => Part::later(part, 1),
        }
    }
    STATUS_MORE_PROCESSING_REQUIRED
}
