//! Single steps through the code of drivers, and through nothing else: instructions are counted, and processors are
//! preempted between any two of them.
//!
//! While steps are taken, the pages with drivers' code may not be executed (the veil). A call into a driver, or a return
//! to it, then faults; the fault opens that page and sets EFLAGS.TF in what it interrupted. From there every instruction
//! traps. When it has left the images (a call of an export, a return to the personality), TF is cleared and the pages are
//! closed again. Whatever else runs inside of a handler (an interrupt, another processor) finds them closed too, so a
//! page is open only for an instruction that is about to run with TF set.

use crate::trap::Regs;
use crate::{frames, host, processor};
use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register};
use nt::platform::{CodeRange, PAGE_SIZE};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use xen_model::{Delivery, Mfn, Xen};

/// EFLAGS.TF.
pub const TF: u64 = 0x100;
/// The longest window of steps before a preemption, in instructions.
const LONGEST: u32 = 64;
/// Of so many preemption points, one opens a window.
const RARITY: u32 = 256;
/// The export that writes `r8` bytes to `rcx`.
const FILL: &str = "memset";
/// Exports that copy `r8` bytes from `rdx` to `rcx`.
const COPIES: [&str; 5] = ["memcpy", "memmove", "RtlCopyMemory", "RtlMoveMemory", "RtlCopyMemoryNonTemporal"];

struct Image {
    start: usize,
    end: usize,
    /// How often the instruction at an offset was carried out.
    places: BTreeMap<u32, u64>,
}

/// What was counted between [`start`] and now.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// Instructions carried out, by image and offset in it. A repeated string instruction is one.
    pub places: BTreeMap<String, BTreeMap<u32, u64>>,
    /// Calls of exports, by name.
    pub calls: BTreeMap<&'static str, u64>,
    /// Watched bytes that instructions of drivers read, by themselves or by an export that copies.
    pub read: u64,
    /// The same of those that they wrote.
    pub written: u64,
    /// Bytes before the payload of frames that are followed, read likewise.
    pub heads: u64,
}

impl Steps {
    /// Instructions carried out, by image.
    pub fn instructions(&self) -> BTreeMap<String, u64> {
        self.places.iter().map(|(name, places)| (name.clone(), places.values().sum())).collect()
    }
}

#[derive(Default)]
struct State {
    images: Vec<Image>,
    calls: BTreeMap<&'static str, u64>,
    watched: Watched,
    read: u64,
    written: u64,
    heads: u64,
}

/// Which bytes are watched, by frame.
#[derive(Default)]
struct Watched {
    payload: BTreeMap<Mfn, Vec<Range<usize>>>,
    heads: BTreeMap<Mfn, Range<usize>>,
}

static STATE: Mutex<State> = Mutex::new(State {
    images: Vec::new(),
    calls: BTreeMap::new(),
    watched: Watched { payload: BTreeMap::new(), heads: BTreeMap::new() },
    read: 0,
    written: 0,
    heads: 0,
});
/// Where the payload of frames begins that are followed; [`usize::MAX`]: none are.
static FOLLOWED: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Every instruction is counted.
static COUNTING: AtomicBool = AtomicBool::new(false);
/// Windows are opened by chance.
static WINDOWS: AtomicBool = AtomicBool::new(false);
/// Instructions left of the window; 0: there is none.
static LEFT: AtomicU32 = AtomicU32::new(0);
/// The instruction that runs with TF set.
static LAST: AtomicUsize = AtomicUsize::new(0);

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn active() -> bool {
    COUNTING.load(Relaxed) || LEFT.load(Relaxed) > 0
}

fn veil() {
    frames::memory().veil(active());
}

/// Whether processors are preempted between instructions, by chance. Before the machine runs.
pub fn preempt_between(yes: bool) {
    WINDOWS.store(yes, Relaxed);
}

/// An image has come.
pub fn add(start: usize, end: usize, code: &[CodeRange]) {
    let pages = code.iter().flat_map(|range| (range.start & !(PAGE_SIZE - 1)..range.end).step_by(PAGE_SIZE));
    frames::memory().add_code(pages);
    state().images.push(Image { start, end, places: BTreeMap::new() });
}

/// An image goes.
pub fn forget(start: usize, end: usize) {
    frames::memory().forget_code(start, end);
    state().images.retain(|image| image.start != start);
}

/// Counts from zero.
pub fn start() {
    let mut state = state();
    state.images.iter_mut().for_each(|image| image.places.clear());
    state.calls.clear();
    (state.read, state.written, state.heads) = (0, 0, 0);
    drop(state);
    COUNTING.store(true, Relaxed);
    veil();
}

/// Stops counting.
pub fn stop() {
    COUNTING.store(false, Relaxed);
    veil();
}

/// Watches these bytes, and no other any more.
pub fn watch(ranges: &[(usize, usize)]) {
    let mut watched = Watched::default();
    let memory = frames::memory();
    for &(start, len) in ranges {
        for (at, bytes) in by_page(start, len) {
            if let Some((mfn, offset)) = memory.frame_at(at) {
                watched.payload.entry(mfn).or_default().push(offset..offset + bytes);
            }
        }
    }
    drop(memory);
    state().watched = watched;
}

/// Watches frames too that netback delivers, whose payload begins there.
pub fn follow(payload: Option<usize>) {
    FOLLOWED.store(payload.unwrap_or(usize::MAX), Relaxed);
}

/// Watches what was delivered since the last call.
fn look_for_deliveries(watched: &mut Watched) {
    let payload = FOLLOWED.load(Relaxed);
    if payload == usize::MAX {
        return;
    }
    for Delivery { mfn, offset, len, at } in host::with_xen(Xen::take_deliveries).unwrap_or_default() {
        let head = payload.saturating_sub(at).min(len);
        watched.heads.insert(mfn, offset..offset + head);
        let payload = offset + head..offset + len;
        watched.payload.insert(mfn, Vec::from([payload]));
    }
}

/// The part of a range in each page: address and bytes.
fn by_page(start: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let end = start.saturating_add(len);
    let mut at = start;
    std::iter::from_fn(move || {
        let next = (at / PAGE_SIZE + 1).saturating_mul(PAGE_SIZE).min(end);
        (at < end).then(|| (std::mem::replace(&mut at, next), next)).map(|(at, next)| (at, next - at))
    })
}

/// What was counted.
pub fn counted() -> Steps {
    let state = state();
    let images = state.images.iter().map(|image| (image.start, image.places.clone())).collect::<Vec<_>>();
    let calls = state.calls.clone();
    let (read, written, heads) = (state.read, state.written, state.heads);
    drop(state);
    let name = |at| nt::loader::image_of(at).map_or_else(|| format!("{at:#x}"), |(name, _)| name);
    let places = images.into_iter().map(|(at, places)| (name(at), places)).collect();
    Steps { places, calls, read, written, heads }
}

/// A preemption point: now and then a window opens.
pub fn perhaps_open() {
    if WINDOWS.load(Relaxed) && LEFT.load(Relaxed) == 0 && processor::below(RARITY) == 0 {
        LEFT.store(1 + processor::below(LONGEST), Relaxed);
        veil();
    }
}

/// A fetch faulted. True: it was the veil's doing, and the page is open now.
pub fn fetch(address: usize) -> bool {
    active() && frames::memory().open(address)
}

/// Before a handler does anything that may run other code.
pub fn pause() {
    if active() {
        frames::memory().close();
    }
}

/// A trap: the instruction that [`resume`] let run is done.
pub fn trapped(rip: usize) {
    let last = LAST.load(Relaxed);
    // A repeated string instruction traps after each round.
    if last != rip {
        done(last);
    }
}

/// An instruction was carried out, by the processor or by a handler. The window may end with it: then others run.
pub fn done(at: usize) {
    if !active() {
        return;
    }
    let mut state = state();
    let Some(image) = state.images.iter_mut().find(|image| (image.start..image.end).contains(&at)) else { return };
    let offset = (at - image.start) as u64;
    if COUNTING.load(Relaxed) {
        *image.places.entry(offset as u32).or_default() += 1;
    }
    drop(state);
    match LEFT.load(Relaxed) {
        0 => {}
        1 => {
            LEFT.store(0, Relaxed);
            pause();
            veil();
            processor::trace(offset << 16 | 0x57e9);
            processor::preempt_here();
        }
        left => LEFT.store(left - 1, Relaxed),
    }
}

/// The end of a handler: sets TF if a driver's instruction comes next and steps are taken.
pub fn resume(regs: &mut Regs<'_>) {
    if !active() {
        return;
    }
    let rip = regs.rip() as usize;
    let mut state = state();
    if state.images.iter().any(|image| (image.start..image.end).contains(&rip)) {
        LAST.store(rip, Relaxed);
        let flags = regs.flags() | TF;
        regs.set_flags(flags);
        if COUNTING.load(Relaxed) {
            look_for_deliveries(&mut state.watched);
            if !state.watched.payload.is_empty() {
                touches(regs, &mut state);
            }
        }
        return;
    }
    if COUNTING.load(Relaxed)
        && let Some(name) = nt::loader::export_at(rip)
    {
        *state.calls.entry(name).or_default() += 1;
        if COPIES.contains(&name) {
            let [to, from, len] = [1, 2, 8].map(|register| regs.get(register) as usize);
            look_for_deliveries(&mut state.watched);
            state.touch(from, len, true, false);
            state.touch(to, len, false, true);
        } else if name == FILL {
            let [to, len] = [1, 8].map(|register| regs.get(register) as usize);
            look_for_deliveries(&mut state.watched);
            state.touch(to, len, false, true);
        }
    }
    drop(state);
    frames::memory().close();
}

impl State {
    /// Counts an access.
    fn touch(&mut self, address: usize, len: usize, reads: bool, writes: bool) {
        if self.watched.payload.is_empty() {
            return;
        }
        let common = |a: &Range<usize>, b: &Range<usize>| a.end.min(b.end).saturating_sub(a.start.max(b.start)) as u64;
        let memory = frames::memory();
        for (at, bytes) in by_page(address, len) {
            let Some((mfn, offset)) = memory.frame_at(at) else { continue };
            let here = offset..offset + bytes;
            let sum: u64 = self.watched.payload.get(&mfn).into_iter().flatten().map(|range| common(range, &here)).sum();
            self.read += if reads { sum } else { 0 };
            self.written += if writes { sum } else { 0 };
            let heads = self.watched.heads.get(&mfn).filter(|_| reads);
            self.heads += heads.map_or(0, |range| common(range, &here));
        }
    }
}

/// Counts what the next instruction reads and writes.
fn touches(regs: &Regs<'_>, state: &mut State) {
    let rip = regs.rip();
    let instruction = Decoder::with_ip(64, crate::trap::code_at(rip as usize), rip, DecoderOptions::NONE).decode();
    let mut factory = InstructionInfoFactory::new();
    let value = |register: Register, _: usize, _: usize| -> Option<u64> {
        match register {
            Register::GS | Register::FS => None,
            Register::CS | Register::DS | Register::ES | Register::SS => Some(0),
            Register::RIP => Some(instruction.next_ip()),
            _ if register.is_gpr() => {
                let full = regs.get(register.full_register().number());
                Some(if register.size() == 4 { full & 0xffff_ffff } else { full })
            }
            _ => None,
        }
    };
    for used in factory.info(&instruction).used_memory() {
        let (reads, writes) = match used.access() {
            OpAccess::NoMemAccess | OpAccess::None => continue,
            OpAccess::Read | OpAccess::CondRead => (true, false),
            OpAccess::Write | OpAccess::CondWrite => (false, true),
            OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
        };
        if let Some(address) = used.virtual_address(0, value) {
            state.touch(address as usize, used.memory_size().size(), reads, writes);
        }
    }
}
