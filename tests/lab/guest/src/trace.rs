//! What the drivers ask of Xen, hypercall by hypercall, and a disk's ring indices beside it: recorded from the images as
//! they ship, for the replay in `tests/xen-model/tests`.
//!
//! A page of a driver's code with a VMMCALL in it is not executable. The fault of a fetch from it makes it executable and
//! sets the trap flag, so that the code goes on instruction by instruction, and each VMMCALL is seen before and after.
//! Leaving the page, and every interrupt, makes it not executable again: another thread's code is traced as well. (Debug
//! registers would be quicker, but four are too few, and QEMU 7.2's VMRUN does not bring its breakpoints up to date.)
//!
//! One processor. Each step is an exit to Xen and back, so the clock stands still while code is stepped: what a DPC, say,
//! takes is not what the trace makes of it.

mod calls;
mod case;

use crate::lock::Lock;
use crate::{clock, memory};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use calls::{CALLS, Call, value};
pub use case::{Backend, Suspend, record};
use core::fmt::Write as _;
use core::ptr::NonNull;
use nt::platform::{PAGE_SIZE, Protection};

/// The trap flag of RFLAGS.
const TRAP_FLAG: u64 = 1 << 8;
const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
/// Most elements of an array that are told.
const MOST_LISTED: u64 = 64;

/// The registers of interrupted code that matter here.
pub struct Registers<'f> {
    /// Where it is.
    pub rip: u64,
    /// Its flags; the trap flag is changed.
    pub rflags: &'f mut u64,
    /// Number of a hypercall, then its result.
    pub rax: u64,
    /// Arguments of a hypercall.
    pub arguments: [u64; 5],
}

/// A hypercall that is about to be made.
struct Pending {
    rip: u64,
    number: u64,
    arguments: [u64; 5],
    call: Option<&'static Call>,
    before: Vec<u8>,
}

/// Xen's view of the ring of a disk.
#[derive(Clone, Copy)]
pub struct Ring {
    /// The first page, in the direct map.
    pub page: NonNull<u8>,
    /// Slots of the ring.
    pub slots: u32,
    /// The guest's port.
    pub port: u32,
}

// SAFETY: an address in the direct map, which every processor has; the bytes are read by volatile accesses.
unsafe impl Send for Ring {}

struct Trace {
    /// Whether images are looked through as they are loaded.
    on: bool,
    /// Where VMMCALLs are, and what only looks like one.
    sites: Vec<u64>,
    /// The pages that they are in.
    pages: Vec<usize>,
    /// Those that are executable now.
    open: Vec<usize>,
    /// The TSC from which on the code is stepped, and that time not yet left out.
    stepped_since: Option<u64>,
    pending: Option<Pending>,
    ring: Option<Ring>,
    text: String,
}

static TRACE: Lock<Trace> = Lock::new(Trace {
    on: false,
    sites: Vec::new(),
    pages: Vec::new(),
    open: Vec::new(),
    stepped_since: None,
    pending: None,
    ring: None,
    text: String::new(),
});

fn page_of(address: u64) -> usize {
    address as usize & !(PAGE_SIZE - 1)
}

fn protect(page: usize, protection: Protection) {
    if let Some(page) = NonNull::new(page as *mut u8) {
        memory::protect(page, 1, protection);
    }
}

/// Bytes at an address of the guest; fewer where it is not mapped.
fn read(address: u64, bytes: usize) -> Vec<u8> {
    let at = |offset: usize| address.checked_add(offset as u64).map(|address| address as usize);
    let mapped = (0..bytes).map_while(at).take_while(|&address| memory::is_mapped(address));
    // SAFETY: mapped, and of a driver that waits for the end of this trap.
    mapped.map(|address| unsafe { (address as *const u8).read_volatile() }).collect()
}

/// From now on: the images that are loaded after this.
pub fn start() {
    TRACE.lock().on = true;
}

/// Code of an image was made executable: pages with a VMMCALL in them are traced.
pub fn code(base: NonNull<u8>, pages: usize) {
    let mut trace = TRACE.lock();
    if !trace.on {
        return;
    }
    // SAFETY: pages that the loader filled and made readable.
    let bytes = unsafe { core::slice::from_raw_parts(base.as_ptr(), pages * PAGE_SIZE) };
    for (offset, _) in bytes.windows(3).enumerate().filter(|(_, window)| *window == VMMCALL) {
        let address = base.as_ptr() as u64 + offset as u64;
        trace.sites.push(address);
        for page in [page_of(address), page_of(address + 2)] {
            if !trace.pages.contains(&page) {
                trace.pages.push(page);
                protect(page, Protection::Read);
            }
        }
    }
}

impl Trace {
    /// Makes those pages of the list executable, and no other traced one. Whether any of them is traced.
    fn open(&mut self, wanted: &[usize]) -> bool {
        let pages = &self.pages;
        self.open.retain(|page| {
            wanted.contains(page) || {
                protect(*page, Protection::Read);
                false
            }
        });
        for page in wanted.iter().filter(|page| pages.contains(page)) {
            if !self.open.contains(page) {
                protect(*page, Protection::ReadExecute);
                self.open.push(*page);
            }
        }
        !self.open.is_empty()
    }

    /// The time since the last step is none; from now on the code is stepped, or not.
    fn stop_clock(&mut self, stepped: bool) {
        let now = clock::tsc();
        if let Some(since) = self.stepped_since.take() {
            clock::leave_out(now.wrapping_sub(since));
        }
        self.stepped_since = stepped.then_some(now);
    }

    /// Notes a hypercall that the next instruction is.
    fn look(&mut self, registers: &Registers<'_>) {
        self.pending = None;
        if !self.sites.contains(&registers.rip) {
            return;
        }
        let (number, arguments) = (registers.rax, registers.arguments);
        let call = CALLS.iter().find(|call| call.number == number && call.command == arguments[0]);
        let before = call.map_or_else(Vec::new, |call| read(arguments[call.address], call.bytes));
        if let Some(ring) = self.ring
            && call.is_some_and(|call| call.operation == "send")
            && value(&before, 0, 4) == u64::from(ring.port)
        {
            ring.tell_sent(&mut self.text);
        }
        self.pending = Some(Pending { rip: registers.rip, number, arguments, call, before });
    }

    /// Tells a hypercall that was made, if the last instruction was one. Behind one that suspended, the processor is an
    /// instruction further: `xl save` does not keep a debug exception that is due.
    fn finish(&mut self, registers: &Registers<'_>) {
        let Some(pending) = self.pending.take() else { return };
        if registers.rip != pending.rip {
            pending.tell(registers.rax as i64, &mut self.text);
        }
    }
}

impl Pending {
    fn tell(&self, result: i64, text: &mut String) {
        let Some(call) = self.call else {
            let _ = writeln!(text, "hypercall {} {:x?} = {result}", self.number, self.arguments);
            return;
        };
        let after = read(self.arguments[call.address], call.bytes);
        let _ = write!(text, "{} {}", call.name, call.operation);
        if let Some((name, place)) = call.extra {
            let _ = write!(text, " {name}={}", self.arguments[place]);
        }
        if self.before.len() < call.bytes || after.len() < call.bytes {
            let _ = writeln!(text, " unmapped = {result}");
            return;
        }
        for field in call.fields {
            let _ = write!(text, " {}={:#x}", field.name, value(&self.before, field.at, field.bytes));
        }
        if let Some(list) = &call.list {
            let (address, count) = (value(&self.before, list.pointer, 8), value(&self.before, list.count, 8));
            let bytes = read(address, count.min(MOST_LISTED) as usize * 8);
            let elements: Vec<String> =
                bytes.chunks_exact(8).map(|bytes| format!("{:#x}", value(bytes, 0, 8))).collect();
            let more = if count > MOST_LISTED { ",..." } else { "" };
            let _ = write!(text, " list={}{more}", elements.join(","));
        }
        let _ = write!(text, " = {result}");
        for field in call.fields {
            let [old, new] = [&self.before, &after].map(|bytes| value(bytes, field.at, field.bytes));
            if old != new {
                let _ = write!(text, " {}={new:#x}", field.name);
            }
        }
        text.push('\n');
    }
}

/// Bytes of a ring's header, and of a slot, on x86-64 (public/io/ring.h and blkif.h).
const HEADER: u32 = 64;
const SLOT: u32 = 112;

impl Ring {
    fn word(&self, at: u32, bytes: usize) -> u64 {
        let read = |offset: usize| {
            // SAFETY: within the ring's first page, which is the guest's memory for good.
            u64::from(unsafe { self.page.add(at as usize + offset).read_volatile() })
        };
        (0..bytes).rev().fold(0, |value, offset| value << 8 | read(offset))
    }

    fn indices(&self) -> String {
        let [req_prod, req_event, rsp_prod, rsp_event] = [0, 4, 8, 12].map(|at| self.word(at, 4));
        format!("req_prod={req_prod} rsp_prod={rsp_prod} req_event={req_event} rsp_event={rsp_event}")
    }

    /// The slot before an index, if it is in the first page.
    fn last(&self, index_at: u32) -> Option<u32> {
        let slot = (self.word(index_at, 4) as u32).wrapping_sub(1) % self.slots;
        let at = HEADER + slot * SLOT;
        (at + SLOT <= PAGE_SIZE as u32).then_some(at)
    }

    /// The request that was produced last, and the indices.
    fn tell_sent(&self, text: &mut String) {
        if let Some(at) = self.last(0) {
            let (operation, segments) = (self.word(at, 1), self.word(at + 1, 1));
            let _ = write!(text, "request operation={operation} sector={}", self.word(at + 16, 8));
            // A discard has sectors in place of segments.
            if operation == 5 {
                let _ = writeln!(text, " flag={segments} sectors={}", self.word(at + 24, 8));
            } else {
                let each = (0..segments.min(11) as u32).map(|n| at + 24 + 8 * n);
                let each: Vec<String> =
                    each.map(|at| format!("{}-{}", self.word(at + 4, 1), self.word(at + 5, 1))).collect();
                let _ = writeln!(text, " segments={}", each.join(","));
            }
        }
        let _ = writeln!(text, "ring sent {}", self.indices());
    }

    /// The response that was produced last, and the indices.
    fn tell_done(&self, text: &mut String) {
        if let Some(at) = self.last(8) {
            let (operation, status) = (self.word(at + 8, 1), self.word(at + 10, 2) as u16 as i16);
            let _ = writeln!(text, "response operation={operation} status={status}");
        }
        let _ = writeln!(text, "ring done {}", self.indices());
    }
}

/// A fetch from memory that is not executable, at `address`. True: it was a traced page, and the code goes on.
pub fn fetch_fault(registers: &mut Registers<'_>, address: u64) -> bool {
    let mut trace = TRACE.lock();
    if !trace.pages.contains(&page_of(address)) {
        return false;
    }
    trace.stop_clock(true);
    // Two pages where an instruction lies across.
    trace.open(&[page_of(registers.rip), page_of(address)]);
    *registers.rflags |= TRAP_FLAG;
    trace.look(registers);
    true
}

/// A debug exception: one instruction is done. False: it was not one of ours.
pub fn step(registers: &mut Registers<'_>) -> bool {
    let mut trace = TRACE.lock();
    if trace.pages.is_empty() {
        return false;
    }
    trace.finish(registers);
    let stepped = trace.open(&[page_of(registers.rip)]);
    trace.stop_clock(stepped);
    if stepped {
        trace.look(registers);
    } else {
        *registers.rflags &= !TRAP_FLAG;
    }
    true
}

/// Something interrupts the code: what runs until it goes on is traced by itself.
pub fn pause(registers: &Registers<'_>) {
    let mut trace = TRACE.lock();
    if trace.pages.is_empty() {
        return;
    }
    trace.finish(registers);
    trace.stop_clock(false);
    trace.open(&[]);
}

/// From now on a send to the ring's port tells its last request and its indices.
pub fn watch(ring: Ring) {
    let mut trace = TRACE.lock();
    trace.ring = Some(ring);
    trace.text.push_str("ring connected\n");
}

/// Tells the ring's last response and its indices.
pub fn done() {
    let mut trace = TRACE.lock();
    if let Some(ring) = trace.ring {
        ring.tell_done(&mut trace.text);
    }
}

/// The guest frame at which a driver has a frame of the grant table.
pub fn grant_frame(index: u32) -> Option<u64> {
    let trace = TRACE.lock();
    let asked = format!("space=0x1 idx={index:#x} gpfn=0x");
    let line = trace.text.lines().rev().find(|line| line.contains(asked.as_str()) && line.ends_with(" = 0"))?;
    let (_, number) = line.split_once(asked.as_str())?;
    u64::from_str_radix(number.split(' ').next()?, 16).ok()
}

/// Everything so far.
pub fn text() -> String {
    TRACE.lock().text.clone()
}
