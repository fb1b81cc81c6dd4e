//! Accesses of drivers to pages that they share with Xen, xenstored or a backend.
//!
//! While a watch is on, such pages cannot be touched where drivers see them. An access then faults, and that is a
//! preemption point: backends may work, an interrupt may come in, another processor may go on, between any two accesses.
//! Then a plain load or store is carried out on the frame; for any other instruction the page is open while that one
//! runs, with EFLAGS.TF set.
//!
//! A store may also be delayed, as the store buffer of a processor delays it: later loads of the same processor overtake
//! it, and the other side works meanwhile without seeing it. The buffer has one entry, and follows the memory order of
//! x86: it is emptied before the next shared store, before a load of what is in it, before an instruction that orders
//! memory, and before anything else of the guest runs. While it is full, every instruction traps, so that none of these
//! is missed. It stands for a processor that reorders because it may, not because it is slow: a driver that is right
//! under the documented rules of the processor is right here.
//! Intel SDM volume 3, "Memory Ordering"; AMD64 APM volume 2, "Memory System".

use crate::trap::{Regs, code_at};
use crate::{frames, host, processor, shared, step};
use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How much of a run is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
    /// Nothing.
    #[default]
    Never,
    /// Windows that open by chance.
    Sometimes,
    /// Everything.
    Always,
}

/// What was done to accesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touches {
    /// Accesses of drivers to shared pages that were preemption points.
    pub accesses: u64,
    /// Of the stores among them, those that were delayed.
    pub delayed: u64,
    /// Of these, those that a later load overtook.
    pub overtaken: u64,
}

/// Preemption points from one look at what is shared to the next.
const WINDOW: u32 = 512;
/// Of so many preemption points, one opens a window.
const RARITY: u32 = 8192;
/// Of so many plain stores, one is delayed.
const DELAYED: u32 = 8;
/// Instructions that a delayed store is overtaken by at most.
const LONGEST: u32 = 16;

/// A store that was carried out for the driver but not for anybody else.
#[derive(Clone, Copy)]
struct Delayed {
    /// Frame and offset.
    frame: u64,
    offset: usize,
    value: u64,
    bytes: usize,
    /// Instructions until it is seen.
    left: u32,
    overtaken: bool,
}

struct State {
    watch: Watch,
    /// Preemption points left of the window.
    left: u32,
    delayed: Option<Delayed>,
    /// The instruction for which pages are open.
    stepping: Option<usize>,
    touches: Touches,
}

static STATE: Mutex<State> = Mutex::new(State {
    watch: Watch::Never,
    left: 0,
    delayed: None,
    stepping: None,
    touches: Touches { accesses: 0, delayed: 0, overtaken: 0 },
});

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says how much is watched. Before the machine runs.
pub fn set_up(watch: Watch) {
    state().watch = watch;
}

/// What was done so far.
pub fn touches() -> Touches {
    state().touches
}

/// A preemption point: opens, renews and ends windows.
pub fn window() {
    let mut state = state();
    if state.watch == Watch::Never {
        return;
    }
    let ended = state.left == 1;
    state.left = state.left.saturating_sub(1);
    if state.left > 0 {
        return;
    }
    let open = state.watch == Watch::Always || processor::below(RARITY) == 0;
    if !open && !ended {
        return;
    }
    state.left = if open { WINDOW } else { 0 };
    drop(state);
    let shared = if open { host::with_xen(|xen| xen.shared_frames()) } else { None };
    frames::memory().guard(shared.unwrap_or_default().into_iter().collect());
}

/// An access faulted. True: the page is a guarded one, and the instruction runs next or was a store that is delayed now.
pub fn touched(regs: &mut Regs<'_>, address: usize) -> bool {
    let Some(place) = frames::memory().guarded_at(address) else { return false };
    let rip = regs.rip() as usize;
    let again = state().stepping == Some(rip);
    // Only the drivers' own accesses are judged: the personality may hold what the others need.
    if !again && frames::memory().is_code(rip) {
        let instruction = decode(rip);
        let place = if overtakes(&instruction, place) {
            place
        } else {
            settle();
            step::pause();
            processor::trace((rip as u64) << 16 | 0x70c4);
            processor::preempt_at_access();
            state().touches.accesses += 1;
            // Others ran: the page may be another now, and the access shall fault on its own account.
            let Some(place) = frames::memory().guarded_at(address) else { return true };
            place
        };
        if carry_out(regs, &instruction, place) {
            return true;
        }
    }
    state().stepping = Some(rip);
    frames::memory().let_in(address);
    true
}

/// Carries out a plain load or store on the frame itself, or delays the store. False: the instruction is another.
fn carry_out(regs: &mut Regs<'_>, instruction: &Instruction, (frame, offset): (u64, usize)) -> bool {
    let bytes = instruction.memory_size().size();
    if !matches!(bytes, 1 | 2 | 4 | 8) || !offset.is_multiple_of(bytes) || instruction.has_lock_prefix() {
        return false;
    }
    if instruction.mnemonic() != Mnemonic::Mov || instruction.op0_kind() != OpKind::Memory {
        let value = load(frame, offset, bytes);
        return shared::carry_out(regs, instruction, value, bytes);
    }
    let value = match instruction.op1_kind() {
        OpKind::Register => match shared::register(regs, instruction.op1_register()) {
            Some(value) => value,
            None => return false,
        },
        _ => instruction.immediate(1),
    };
    regs.set_rip(instruction.next_ip());
    if processor::below(DELAYED) > 0 {
        store(frame, offset, value, bytes);
        return true;
    }
    let left = 1 + processor::below(LONGEST);
    let mut state = state();
    state.delayed = Some(Delayed { frame, offset, value, bytes, left, overtaken: false });
    state.touches.delayed += 1;
    true
}

/// Reads an aligned word of 1, 2, 4 or 8 bytes.
fn load(frame: u64, offset: usize, bytes: usize) -> u64 {
    // SAFETY: the alias of a frame, within one page, aligned. The other side runs on this thread.
    unsafe {
        let from = frames::frame(frame).add(offset);
        match bytes {
            1 => u64::from(from.read_volatile()),
            2 => u64::from(from.cast::<u16>().read_volatile()),
            4 => u64::from(from.cast::<u32>().read_volatile()),
            _ => from.cast::<u64>().read_volatile(),
        }
    }
}

/// Writes an aligned word of 1, 2, 4 or 8 bytes.
fn store(frame: u64, offset: usize, value: u64, bytes: usize) {
    // SAFETY: as in `load`.
    unsafe {
        let to = frames::frame(frame).add(offset);
        match bytes {
            1 => to.write_volatile(value as u8),
            2 => to.cast::<u16>().write_volatile(value as u16),
            4 => to.cast::<u32>().write_volatile(value as u32),
            _ => to.cast::<u64>().write_volatile(value),
        }
    }
}

/// A trap: the instruction for which pages were open is done, unless it is a string instruction between two rounds.
pub fn trapped(rip: usize) {
    let mut state = state();
    if state.stepping.is_some_and(|at| at != rip) {
        state.stepping = None;
        frames::memory().shut_out();
    }
}

/// The end of a handler: sets TF if the next instruction is to trap, and lets a delayed store be seen where it must.
pub fn resume(regs: &mut Regs<'_>) {
    let mut state = state();
    let mut steps = state.stepping.is_some();
    if !steps && let Some(delayed) = &mut state.delayed {
        let rip = regs.rip() as usize;
        delayed.left = delayed.left.saturating_sub(1);
        steps = delayed.left > 0 && frames::memory().is_code(rip) && !orders_memory(&decode(rip));
        if !steps {
            drop(state);
            settle();
        }
    }
    if steps {
        let flags = regs.flags() | step::TF;
        regs.set_flags(flags);
    }
}

/// Lets everybody see a store that is delayed. Where a load has overtaken it, the others work first, without it.
pub fn settle() {
    let Some(delayed) = state().delayed.take() else { return };
    if delayed.overtaken {
        state().touches.overtaken += 1;
        processor::others_work();
    }
    store(delayed.frame, delayed.offset, delayed.value, delayed.bytes);
}

fn decode(rip: usize) -> Instruction {
    Decoder::with_ip(64, code_at(rip), rip as u64, DecoderOptions::NONE).decode()
}

/// Whether an instruction waits until every store before it can be seen.
fn orders_memory(instruction: &Instruction) -> bool {
    let exchanges =
        instruction.mnemonic() == Mnemonic::Xchg && instruction.op_kinds().any(|kind| kind == OpKind::Memory);
    exchanges
        || instruction.has_lock_prefix()
        || matches!(instruction.mnemonic(), Mnemonic::Mfence | Mnemonic::Sfence | Mnemonic::Serialize)
}

/// Whether an access to `place` goes before the store that is delayed; notes it there.
fn overtakes(instruction: &Instruction, place: (u64, usize)) -> bool {
    let mut state = state();
    let Some(delayed) = &mut state.delayed else { return false };
    if orders_memory(instruction) {
        return false;
    }
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(instruction).used_memory();
    let loads = used.iter().all(|used| matches!(used.access(), OpAccess::Read | OpAccess::CondRead));
    let bytes = used.iter().map(|used| used.memory_size().size()).max().unwrap_or(0);
    // Within one word only: what crosses one is not taken apart.
    let whole = bytes > 0 && place.1.is_multiple_of(bytes);
    let apart =
        place.0 != delayed.frame || place.1 + bytes <= delayed.offset || delayed.offset + delayed.bytes <= place.1;
    delayed.overtaken |= loads && whole && apart;
    loads && whole && apart
}
