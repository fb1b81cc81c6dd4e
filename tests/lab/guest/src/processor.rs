//! Processors: descriptor tables, the local APIC in x2APIC mode, interrupt flag and CR8. How the others are started is in
//! [`others`](crate::others).

use crate::clock;
use crate::lock::Lock;
use crate::trap;
use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use nt::ke::{DISPATCH_LEVEL, DISPATCH_VECTOR};
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::model_specific::{GsBase, Msr};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Most processors: as many task state segments fit the descriptor table made here.
pub const MOST: usize = 8;
/// The first task state segment's selector; each takes two entries.
const FIRST_TASK: u16 = 0x18;
/// Interrupt stack of double faults.
pub const DOUBLE_FAULT_STACK: u16 = 0;
const FAULT_STACK_BYTES: usize = 16 << 10;

const APIC_BASE: Msr = Msr::new(0x1b);
const APIC_TASK_PRIORITY: Msr = Msr::new(0x808);
const APIC_END: Msr = Msr::new(0x80b);
const APIC_SPURIOUS: Msr = Msr::new(0x80f);
const APIC_COMMAND: Msr = Msr::new(0x830);
const APIC_TIMER: Msr = Msr::new(0x832);
const APIC_TIMER_START: Msr = Msr::new(0x838);
const APIC_TIMER_NOW: Msr = Msr::new(0x839);
const APIC_TIMER_DIVIDE: Msr = Msr::new(0x83e);
const APIC_SELF: Msr = Msr::new(0x83f);

/// Spurious interrupts of the local APIC.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// Asks processor 0 to set its timer anew.
pub const TIMER_VECTOR: u8 = 0xd2;
/// Tells a processor that a dispatch interrupt was kept back for it.
pub const POKE_VECTOR: u8 = 0xd3;
/// A timer that is not set.
const NEVER: u64 = u64::MAX;

/// By processor: while interrupts are off, the IRQL that is to stand when they come on, plus 1; 0: the one that CR8 has.
static WANTED: [AtomicU8; MOST] = [const { AtomicU8::new(0) }; MOST];
/// A bit for each processor that has one there: most ends of a stretch without interrupts look no further.
static SETTLES: AtomicU32 = AtomicU32::new(0);
/// A bit for each processor whose dispatch interrupt is kept back.
static KEPT: AtomicU32 = AtomicU32::new(0);
static COUNT: AtomicU32 = AtomicU32::new(1);
/// When processor 0's timer is to fire, in nanoseconds of [`clock`].
static DEADLINE: AtomicU64 = AtomicU64::new(NEVER);
static TABLE: Lock<Option<&'static GlobalDescriptorTable<{ 3 + 2 * MOST }>>> = Lock::new(None);

/// Processors that run.
pub fn count() -> u32 {
    COUNT.load(Ordering::Relaxed)
}

/// The processor that executes this: told by its task register, which no intercept slows down.
pub fn current() -> u32 {
    let selector: u16;
    // SAFETY: reads the task register.
    unsafe { asm!("str {0:x}", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    u32::from(selector.saturating_sub(FIRST_TASK) >> 4)
}

/// The local APIC's id of a processor: Xen numbers them so.
const fn apic_id(processor: u32) -> u32 {
    processor * 2
}

fn write(mut register: Msr, value: u64) {
    // SAFETY: registers of the local APIC, each written by the functions below with a value that it takes.
    unsafe { register.write(value) }
}

/// Prepares the descriptor tables for all processors, and takes processor 0 into them.
pub fn start(count: u32) {
    COUNT.store(count.clamp(1, MOST as u32), Ordering::Relaxed);
    let mut table = GlobalDescriptorTable::<{ 3 + 2 * MOST }>::empty();
    table.append(Descriptor::kernel_code_segment());
    table.append(Descriptor::kernel_data_segment());
    for _ in 0..MOST {
        let task = Box::leak(Box::new(TaskStateSegment::new()));
        let stack = Box::leak(alloc::vec![0u8; FAULT_STACK_BYTES].into_boxed_slice());
        task.interrupt_stack_table[DOUBLE_FAULT_STACK as usize] =
            VirtAddr::from_ptr(stack.as_ptr_range().end).align_down(16u64);
        table.append(Descriptor::tss_segment(task));
    }
    *TABLE.lock() = Some(Box::leak(Box::new(table)));
    enter(0);
    // The two interrupt controllers of the PC stay silent: everything comes by the APICs.
    for port in [0x21, 0xa1] {
        // SAFETY: masks all lines of an 8259A.
        unsafe { x86_64::instructions::port::Port::new(port).write(0xffu8) };
    }
    write(APIC_TIMER_DIVIDE, 0b0011);
    write(APIC_TIMER, 1 << 16 | u64::from(nt::ke::CLOCK_VECTOR));
    write(APIC_TIMER_START, u64::from(u32::MAX));
    // SAFETY: reads the timer's counter.
    clock::calibrate(|| unsafe { APIC_TIMER_NOW.read() } as u32);
    write(APIC_TIMER_START, 0);
    write(APIC_TIMER, u64::from(nt::ke::CLOCK_VECTOR));
}

/// Takes the processor that executes this into its tables, and its APIC into service. Interrupts stay off.
pub fn enter(processor: u32) {
    let table = TABLE.lock().expect("the tables are made first");
    table.load();
    // SAFETY: the selectors are those of the table, which is never freed.
    unsafe {
        CS::set_reg(SegmentSelector(8));
        DS::set_reg(SegmentSelector(16));
        ES::set_reg(SegmentSelector(16));
        SS::set_reg(SegmentSelector(16));
        load_tss(SegmentSelector(FIRST_TASK + 16 * processor as u16));
    }
    trap::load();
    // SAFETY: reads the APIC's base register.
    let base = unsafe { APIC_BASE.read() };
    // Enabled, in x2APIC mode.
    write(APIC_BASE, base | 1 << 11 | 1 << 10);
    write(APIC_SPURIOUS, 1 << 8 | u64::from(SPURIOUS_VECTOR));
    set_irql(nt::ke::HIGH_LEVEL);
}

fn cr8() -> u8 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr8", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value as u8
}

/// CR8, or what it is to become with interrupts on again: see [`set_irql`].
pub fn irql() -> u8 {
    let value = cr8();
    if interrupts::are_enabled() {
        return value;
    }
    WANTED[current() as usize].load(Ordering::Relaxed).checked_sub(1).unwrap_or(value)
}

/// Sets the task priority, which is what CR8 shows. With interrupts off it is set when they come on, by [`settle`], as only
/// then it makes a difference.
///
/// QEMU 7.2's emulation of SVM ends with a failed assertion when a guest writes CR8 while a virtual interrupt waits that the
/// new value lets through. None waits while interrupts are on and the value rises, or was [`DISPATCH_LEVEL`] at most: no vector
/// has such a class. Otherwise the APIC's register is written, by the hypervisor, at the price of an exit.
pub fn set_irql(irql: u8) {
    let now = self::irql();
    if irql == now {
        return;
    }
    if !interrupts::are_enabled() {
        let processor = current();
        WANTED[processor as usize].store(irql + 1, Ordering::Relaxed);
        SETTLES.fetch_or(1 << processor, Ordering::Relaxed);
        return;
    }
    if irql > now || now <= DISPATCH_LEVEL {
        // SAFETY: the task priority decides what is delivered, nothing else; values above 15 fault.
        unsafe { asm!("mov cr8, {}", in(reg) u64::from(irql), options(nostack, preserves_flags)) };
    } else {
        write(APIC_TASK_PRIORITY, u64::from(irql) << 4);
    }
    if irql < now {
        take_up();
    }
}

/// Gives the task priority the value that it was to have, before interrupts come on. They are off, and off again at the end.
fn settle() {
    // Only this processor sets its own bit, with interrupts off.
    if SETTLES.load(Ordering::Relaxed) != 0 {
        settle_wanted();
    }
}

#[cold]
fn settle_wanted() {
    let Some(irql) = WANTED[current() as usize].load(Ordering::Relaxed).checked_sub(1) else { return };
    let now = cr8();
    if irql < now && now > DISPATCH_LEVEL {
        write(APIC_TASK_PRIORITY, u64::from(irql) << 4);
    } else if irql != now {
        // What waits is taken behind the NOP, as STI holds it off for one instruction, and finds the IRQL that is wanted.
        // SAFETY: as in `set_irql`; whoever ends a stretch without interrupts expects them here.
        unsafe { asm!("sti", "nop", "mov cr8, {}", "cli", in(reg) u64::from(irql)) };
    }
    // The thread may go on with another processor.
    let processor = current();
    WANTED[processor as usize].store(0, Ordering::Relaxed);
    SETTLES.fetch_and(!(1 << processor), Ordering::Relaxed);
}

/// Lets interrupts in again, and takes up what was kept back.
pub fn enable() {
    settle();
    interrupts::enable();
    take_up();
}

/// Sends a vector to a processor, the own one included.
///
/// The dispatch interrupt is a mark that its processor takes up where the IRQL and the interrupt flag let it: QEMU 7.2
/// lets a virtual interrupt through whose class *equals* the task priority, Xen does not take it, and the processor goes
/// round between the two for ever.
pub fn send(processor: u32, vector: u8) {
    if vector == DISPATCH_VECTOR {
        KEPT.fetch_or(1 << processor, Ordering::SeqCst);
        if processor != current() {
            command(processor, POKE_VECTOR);
        } else if interrupts::are_enabled() {
            take_up();
        }
        return;
    }
    interrupts::without_interrupts(|| {
        if processor == current() {
            write(APIC_SELF, u64::from(vector));
        } else {
            command(processor, vector);
        }
    });
}

fn command(processor: u32, vector: u8) {
    write(APIC_COMMAND, u64::from(apic_id(processor)) << 32 | u64::from(vector));
}

/// Puts a processor, not this one, into the state after a reset: an INIT.
pub fn init(processor: u32) {
    const ASSERT: u64 = 1 << 14;
    const INIT: u64 = 0b101 << 8;
    write(APIC_COMMAND, u64::from(apic_id(processor)) << 32 | ASSERT | INIT);
}

/// Whether this processor is to take a dispatch interrupt now, if interrupts are on.
fn is_due() -> bool {
    let kept = KEPT.load(Ordering::SeqCst);
    kept != 0 && kept & 1 << current() != 0 && irql() < DISPATCH_LEVEL
}

/// Takes dispatch interrupts up, if any are due. Interrupts are on.
pub fn take_up() {
    if KEPT.load(Ordering::SeqCst) != 0 {
        take_up_kept();
    }
}

#[cold]
fn take_up_kept() {
    // With interrupts on CR8 has the IRQL.
    while KEPT.load(Ordering::SeqCst) & 1 << current() != 0 && cr8() < DISPATCH_LEVEL {
        interrupts::disable();
        take_up_masked();
        interrupts::enable();
    }
}

/// As [`take_up`] for the end of an interrupt that came while interrupts were on. They are off now, and the task priority is
/// settled for the way back.
pub fn take_up_masked() {
    loop {
        // The thread may come back on another processor, which is asked anew.
        while is_due() {
            KEPT.fetch_and(!(1 << current()), Ordering::SeqCst);
            nt::ke::interrupt::dispatch(DISPATCH_VECTOR);
        }
        settle();
        // An interrupt may have come meanwhile.
        if !is_due() {
            return;
        }
    }
}

/// Waits for an interrupt, unless one is to be taken up already. Comes back with interrupts on.
pub fn wait() {
    interrupts::disable();
    if is_due() {
        enable();
    } else {
        // The interrupt that ends the wait is taken before the next line: STI holds it off for one instruction only.
        interrupts::enable_and_hlt();
    }
}

/// Ends the interrupt in service of the highest class.
pub fn end_of_interrupt() {
    write(APIC_END, 0);
}

/// Has [`nt::ke::CLOCK_VECTOR`] come to processor 0 at a time in nanoseconds; `u64::MAX`: not at all.
pub fn set_timer(when: u64) {
    DEADLINE.store(when, Ordering::Release);
    interrupts::without_interrupts(|| if current() == 0 { arm() } else { command(0, TIMER_VECTOR) });
}

/// Sets this processor's timer, which is processor 0's, from the deadline.
pub fn arm() {
    let when = DEADLINE.load(Ordering::Acquire);
    let counts = if when == NEVER { 0 } else { clock::timer_counts(when.saturating_sub(clock::nanoseconds())) };
    write(APIC_TIMER_START, u64::from(counts));
}

/// GS base of the processor that executes this.
pub fn set_area(area: *mut u8) {
    GsBase::write(VirtAddr::from_ptr(area));
}

/// An identification that the local APIC's register for a routed line takes.
pub fn destination(processor: u32) -> u8 {
    apic_id(processor) as u8
}
