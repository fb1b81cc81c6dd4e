//! Single steps through the code of drivers, and through nothing else: instructions are counted, and processors are
//! preempted between any two of them.
//!
//! While steps are taken, the pages with drivers' code may not be executed (the veil). A call into a driver, or a return
//! to it, then faults; the fault opens that page and sets EFLAGS.TF in what it interrupted. From there every instruction
//! traps. When it has left the images (a call of an export, a return to the personality), TF is cleared and the pages are
//! closed again. Whatever else runs inside of a handler (an interrupt, another processor) finds them closed too, so a
//! page is open only for an instruction that is about to run with TF set.

use crate::trap::Regs;
use crate::{frames, processor};
use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register};
use nt::platform::{CodeRange, PAGE_SIZE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use xen_model::Gfn;

/// EFLAGS.TF.
pub const TF: u64 = 0x100;
/// The longest window of steps before a preemption, in instructions.
const LONGEST: u32 = 64;
/// Of so many preemption points, one opens a window.
const RARITY: u32 = 256;
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
    /// Bytes of the watched pages that instructions of drivers read or wrote, by themselves or by an export that copies.
    pub touched: u64,
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
    watched: BTreeSet<Gfn>,
    touched: u64,
}

static STATE: Mutex<State> =
    Mutex::new(State { images: Vec::new(), calls: BTreeMap::new(), watched: BTreeSet::new(), touched: 0 });
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
    state.touched = 0;
    drop(state);
    COUNTING.store(true, Relaxed);
    veil();
}

/// Stops counting.
pub fn stop() {
    COUNTING.store(false, Relaxed);
    veil();
}

/// Watches the pages of these addresses, and no other any more.
pub fn watch(ranges: &[(usize, usize)]) {
    let pages = ranges.iter().flat_map(|&(at, len)| (at & !(PAGE_SIZE - 1)..at + len).step_by(PAGE_SIZE));
    let memory = frames::memory();
    let watched = pages.filter_map(|page| memory.gfn_at(page)).map(|(gfn, _)| gfn).collect();
    drop(memory);
    state().watched = watched;
}

/// What was counted.
pub fn counted() -> Steps {
    let state = state();
    let images = state.images.iter().map(|image| (image.start, image.places.clone())).collect::<Vec<_>>();
    let (calls, touched) = (state.calls.clone(), state.touched);
    drop(state);
    let name = |at| nt::loader::image_of(at).map_or_else(|| format!("{at:#x}"), |(name, _)| name);
    Steps { places: images.into_iter().map(|(at, places)| (name(at), places)).collect(), calls, touched }
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
        if !state.watched.is_empty() && COUNTING.load(Relaxed) {
            let touched = touches(regs, &state.watched);
            state.touched += touched;
        }
        return;
    }
    if COUNTING.load(Relaxed)
        && let Some(name) = nt::loader::export_at(rip)
    {
        *state.calls.entry(name).or_default() += 1;
        if COPIES.contains(&name) && !state.watched.is_empty() {
            let [to, from, len] = [1, 2, 8].map(|register| regs.get(register) as usize);
            let touched = watched_bytes(&state.watched, from, len) + watched_bytes(&state.watched, to, len);
            state.touched += touched;
        }
    }
    drop(state);
    frames::memory().close();
}

/// How many bytes of a range lie in watched pages.
fn watched_bytes(watched: &BTreeSet<Gfn>, address: usize, len: usize) -> u64 {
    let memory = frames::memory();
    let mut sum = 0;
    let (mut at, end) = (address, address.saturating_add(len));
    while at < end {
        let next = (at / PAGE_SIZE + 1) * PAGE_SIZE;
        if memory.gfn_at(at).is_some_and(|(gfn, _)| watched.contains(&gfn)) {
            sum += (next.min(end) - at) as u64;
        }
        at = next;
    }
    sum
}

/// Bytes of watched pages that the next instruction reads or writes.
fn touches(regs: &Regs<'_>, watched: &BTreeSet<Gfn>) -> u64 {
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
    let memory = factory.info(&instruction).used_memory();
    let mut sum = 0;
    for used in memory {
        if matches!(used.access(), OpAccess::NoMemAccess | OpAccess::None) {
            continue;
        }
        if let Some(address) = used.virtual_address(0, value) {
            let bytes = used.memory_size().size();
            sum += watched_bytes(watched, address as usize, bytes);
        }
    }
    sum
}
