//! The disk load: requests kept in flight by their own completion routines, with everything allocated before, as a
//! file system's reads and writes come down to the port driver. What Linux does beside it is `tests/lab/linux`.

use crate::mailbox;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use nt::disk::info::read_write_cdb;
use nt::disk::{Buffer, Disk};
use nt::io::abi::{DeviceObject, Irp, mj};
use nt::io::irp::{IoAllocateIrp, IoFreeIrp, IoReuseIrp, IofCallDriver, next, set_completion, wait_for};
use nt::ke;
use nt::ke::abi::Event;
use nt::mm::abi::Mdl;
use nt::mm::mdl::{IoAllocateMdl, IoFreeMdl, MmBuildMdlForNonPagedPool};
use nt::status::{NtStatus, STATUS_MORE_PROCESSING_REQUIRED, STATUS_SUCCESS};
use nt::storport::abi::{
    SRB_FLAGS_DATA_IN, SRB_FLAGS_DATA_OUT, SRB_FLAGS_NO_QUEUE_FREEZE, SRB_FLAGS_QUEUE_ACTION_ENABLE, ScsiRequestBlock,
};
use nt::storport::srb::{Command, Srb, write_short};
use suites::guest::vdev;

/// Bytes of sense data that are asked for.
const SENSE: usize = 18;
/// 100 ns units between looks for a disk, and how many there are.
const LOOK: i64 = -1_000_000;
const LOOKS: u32 = 600;
/// Seconds that a command gets.
const TIME_OUT: u32 = 60;

/// A load that runs.
struct Load {
    run: u32,
    disk: Arc<Disk>,
    write: bool,
    random: bool,
    bytes: u32,
    /// Bytes of a block, blocks of a request, and requests that the disk has room for.
    block: u32,
    blocks: u32,
    places: u64,
    place: AtomicU64,
    done: AtomicU64,
    errors: AtomicU64,
    left: AtomicUsize,
    event: UnsafeCell<Event>,
}

/// One of the requests in flight.
struct Slot {
    load: *const Load,
    irp: *mut Irp,
    mdl: *mut Mdl,
    buffer: Buffer,
    srb: UnsafeCell<core::mem::MaybeUninit<ScsiRequestBlock>>,
    sense: UnsafeCell<[u8; SENSE]>,
}

impl Load {
    /// Where the next request goes. Requests of one processor are started one after the other.
    fn next_place(&self) -> u64 {
        let mut state = self.place.load(Ordering::Relaxed);
        if self.random {
            // Marsaglia's xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        } else {
            state += 1;
        }
        self.place.store(state, Ordering::Relaxed);
        state % self.places
    }

    /// A request is not started again. The last one wakes the thread. IRQL <= DISPATCH_LEVEL.
    fn leave(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: initialised before the first request; the thread that waits keeps it.
            unsafe { ke::KeSetEvent(self.event.get(), 0, 0) };
        }
    }
}

impl Slot {
    /// None without memory.
    fn new(load: &Load) -> Option<Slot> {
        let buffer = Buffer::new(load.bytes as usize, 0)?;
        // SAFETY: plain allocations; the MDL describes the slot's own buffer.
        unsafe {
            let mdl = IoAllocateMdl(buffer.address().cast(), load.bytes, 0, 0, ptr::null_mut());
            let irp = IoAllocateIrp((*load.disk.lower).stack_size + 1, 0);
            // Freed with the slot, whichever of them is there.
            let slot = Slot {
                load,
                irp,
                mdl,
                buffer,
                srb: UnsafeCell::new(core::mem::MaybeUninit::uninit()),
                sense: UnsafeCell::new([0; SENSE]),
            };
            if mdl.is_null() || irp.is_null() {
                return None;
            }
            MmBuildMdlForNonPagedPool(mdl);
            Some(slot)
        }
    }

    /// Sends the next request. IRQL <= DISPATCH_LEVEL.
    ///
    /// # Safety
    /// The slot has no request in flight; slot and load stay until it has ended.
    unsafe fn send(&self) {
        // SAFETY: the caller's promise: IRP, MDL and request block are the slot's alone.
        unsafe {
            let load = &*self.load;
            let lba = load.next_place() * u64::from(load.blocks);
            let (cdb, length) = read_write_cdb(load.write, lba, load.blocks, false);
            let direction = if load.write { SRB_FLAGS_DATA_OUT } else { SRB_FLAGS_DATA_IN };
            let command = Command {
                cdb: &cdb[..length],
                flags: direction | SRB_FLAGS_NO_QUEUE_FREEZE | SRB_FLAGS_QUEUE_ACTION_ENABLE,
                data: self.buffer.address().cast(),
                length: load.bytes,
                sense: (self.sense.get().cast(), SENSE as u8),
                time_out: TIME_OUT,
            };
            write_short(self.srb.get().cast(), &command);
            IoReuseIrp(self.irp, STATUS_SUCCESS);
            let location = &mut *next(self.irp);
            location.major = mj::INTERNAL_DEVICE_CONTROL;
            location.parameters.others[0] = self.srb.get().cast();
            (*self.irp).mdl = self.mdl.cast();
            set_completion(self.irp, completed, ptr::from_ref(self).cast_mut().cast());
            IofCallDriver(load.disk.lower, self.irp);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: made in `new`; no request is in flight.
        unsafe {
            if !self.mdl.is_null() {
                IoFreeMdl(self.mdl);
            }
            if !self.irp.is_null() {
                (*self.irp).mdl = ptr::null_mut();
                IoFreeIrp(self.irp);
            }
        }
    }
}

/// A request has ended: counted, and the next is sent unless the agent says that the run is over. One that failed is not
/// followed by another. IRQL <= DISPATCH_LEVEL.
unsafe extern "win64" fn completed(_: *mut DeviceObject, _: *mut Irp, context: *mut c_void) -> NtStatus {
    // SAFETY: the slot that sent the request; the thread keeps it until all have ended.
    unsafe {
        let slot = &*context.cast::<Slot>();
        let load = &*slot.load;
        let good = Srb::new(slot.srb.get().cast()).status() & 0x3f == 1;
        if good {
            mailbox::tell(load.done.fetch_add(1, Ordering::Relaxed) + 1);
        } else {
            load.errors.fetch_add(1, Ordering::Relaxed);
        }
        if good && !mailbox::is_over(load.run) {
            slot.send();
        } else {
            load.leave();
        }
    }
    STATUS_MORE_PROCESSING_REQUIRED
}

/// The disk with this number, once Windows has found it.
fn find(index: u32) -> Result<Arc<Disk>, String> {
    let tail = format!("-{}", vdev(index));
    for _ in 0..LOOKS {
        let disks = nt::disk::disks();
        if let Some(disk) = disks.iter().find(|disk| disk.info().serial.ends_with(tail.as_str())) {
            return Ok(disk.clone());
        }
        ke::wait::sleep(LOOK);
    }
    Err(format!("Windows has no disk {index}"))
}

/// `disk RUN INDEX read|write random|sequential BYTES DEPTH`: runs it, and what is reported: `done RUN REQUESTS ERRORS
/// INTERRUPTS`.
pub fn run(words: &[&str]) -> Result<String, String> {
    let [run, index, way, order, bytes, depth] = *words else { return Err("this is no load".to_string()) };
    let number = |word: &str| word.parse::<u32>().map_err(|_| format!("`{word}` is no number"));
    let (run, bytes, depth) = (number(run)?, number(bytes)?, number(depth)?);
    let disk = find(number(index)?)?;
    let info = disk.info();
    let random = order == "random";
    // SAFETY: all zero is valid for an event, which is initialised below.
    let event = unsafe { core::mem::zeroed() };
    let load = Load {
        run,
        disk,
        write: way == "write",
        random,
        bytes,
        block: info.block,
        blocks: bytes / info.block.max(1),
        places: info.bytes() / u64::from(bytes.max(1)),
        place: AtomicU64::new(if random { 0x9e37_79b9_7f4a_7c15 ^ u64::from(run) } else { 0 }),
        done: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        left: AtomicUsize::new(depth as usize),
        event: UnsafeCell::new(event),
    };
    if depth == 0 || load.places == 0 || load.blocks == 0 || bytes > info.max_transfer {
        return Err(format!("{bytes} bytes on a disk of {} bytes in blocks of {}", info.bytes(), load.block));
    }
    // SAFETY: the event's address does not change.
    unsafe { ke::KeInitializeEvent(load.event.get(), 0, 0) };
    let slots: Option<Vec<Slot>> = (0..depth).map(|_| Slot::new(&load)).collect();
    let slots = slots.ok_or("there is no memory for the load")?;
    let before = super::interrupts();
    mailbox::tell(0);
    for slot in &slots {
        // SAFETY: slots and load stay until the event below says that every request has ended.
        unsafe { slot.send() };
    }
    // SAFETY: as above.
    unsafe { wait_for(load.event.get()) };
    let (done, errors) = (load.done.load(Ordering::Relaxed), load.errors.load(Ordering::Relaxed));
    Ok(format!("done {run} {done} {errors} {}", super::interrupts() - before))
}
