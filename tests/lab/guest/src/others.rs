//! Starting the other processors. The firmware has had them and left them halted: an INIT takes them from it, then Xen
//! puts them straight into long mode (VCPUOP_initialise), so no code for real mode is needed.

use crate::{clock, hypercall, memory, processor};
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use nt::platform::PAGE_SIZE;
use x86_64::registers::control::{Cr0, Cr3, Cr4, Efer, EferFlags};

/// `VCPUOP_initialise` and `VCPUOP_up` of Xen's public/vcpu.h.
const INITIALISE: u64 = 0;
const UP: u64 = 1;
/// `VCPU_HVM_MODE_64B` of public/hvm/hvm_vcpu.h.
const MODE_64: u32 = 1;
/// The stack of a processor's idle loop.
const STACK_PAGES: usize = 8;
/// Nanoseconds that a processor gets for each step.
const PATIENCE: u64 = 2_000_000_000;

/// `struct vcpu_hvm_context` with `struct vcpu_hvm_x86_64` in its union.
#[repr(C)]
#[derive(Default)]
struct Registers {
    mode: u32,
    padding: u32,
    rax: u64,
    rcx: u64,
    rdx: u64,
    rbx: u64,
    rsp: u64,
    rbp: u64,
    rsi: u64,
    rdi: u64,
    rip: u64,
    rflags: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

/// Processors that reached their idle loop.
static THERE: AtomicU32 = AtomicU32::new(1);

/// Where a processor begins, in long mode, with interrupts off.
unsafe extern "sysv64" fn first(processor: u32) -> ! {
    processor::enter(processor);
    THERE.fetch_add(1, Ordering::Release);
    nt::ke::run_processor()
}

/// Tries until it works or patience ends.
fn until(mut done: impl FnMut() -> bool) -> bool {
    let end = clock::nanoseconds() + PATIENCE;
    loop {
        if done() {
            return true;
        }
        if clock::nanoseconds() > end {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// Why a processor did not come.
pub enum Reason {
    /// No memory for its stack.
    NoMemory,
    /// Xen refused an operation on it, with this error.
    Refused(u64, i64),
    /// It was started and did not reach its idle loop.
    Lost,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("no memory for its stack"),
            Self::Refused(operation, error) => write!(f, "Xen refused vCPU operation {operation}: {error}"),
            Self::Lost => f.write_str("it did not reach its idle loop"),
        }
    }
}

/// Starts all but processor 0. After `nt` was started, on processor 0. Err: the one that did not come.
pub fn start() -> Result<(), (u32, Reason)> {
    for processor in 1..processor::count() {
        let stack = memory::alloc_pages(STACK_PAGES).ok_or((processor, Reason::NoMemory))?;
        let registers = Registers {
            mode: MODE_64,
            // As a call leaves it: the alignment of a function's entry.
            rsp: stack.as_ptr() as u64 + (STACK_PAGES * PAGE_SIZE) as u64 - 8,
            rdi: u64::from(processor),
            rip: first as *const () as u64,
            rflags: 2,
            cr0: Cr0::read_raw(),
            cr3: Cr3::read_raw().0.start_address().as_u64(),
            cr4: Cr4::read_raw(),
            efer: (Efer::read() | EferFlags::LONG_MODE_ACTIVE).bits(),
            ..Registers::default()
        };
        processor::init(processor);
        let place = (&raw const registers) as u64;
        // Xen carries the INIT out a moment later; until then the processor is one that runs, and is refused.
        let vcpu = u64::from(processor);
        let mut answer = 0;
        let initialised = until(|| {
            // SAFETY: the structure lives on; the stack and the routine are the processor's own.
            answer = unsafe { hypercall::vcpu_op(INITIALISE, vcpu, place) };
            answer == 0
        });
        if !initialised {
            return Err((processor, Reason::Refused(INITIALISE, answer)));
        }
        let there = THERE.load(Ordering::Acquire);
        // SAFETY: the processor's registers were set above.
        let answer = unsafe { hypercall::vcpu_op(UP, vcpu, 0) };
        if answer != 0 {
            return Err((processor, Reason::Refused(UP, answer)));
        }
        if !until(|| THERE.load(Ordering::Acquire) > there) {
            return Err((processor, Reason::Lost));
        }
    }
    Ok(())
}
