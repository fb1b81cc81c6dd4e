//! Exceptions and interrupts: the table, the way in and out, and what becomes of each.
//!
//! Everything runs on the stack that was interrupted (a thread may be switched away inside), but double faults, which
//! have a stack of their own. No code here or in a driver uses a red zone.

use crate::console::{self, Verdict};
use crate::{interrupts, memory, processor, trace};
use core::arch::{global_asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use nt::seh::abi::{Context, ExceptionRecord, STATUS_ACCESS_VIOLATION};
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::registers::control::Cr2;
use x86_64::structures::DescriptorTablePointer;

const STATUS_ILLEGAL_INSTRUCTION: i32 = 0xc000_001d_u32 as i32;
const STATUS_INTEGER_DIVIDE_BY_ZERO: i32 = 0xc000_0094_u32 as i32;
const STATUS_BREAKPOINT: i32 = 0x8000_0003_u32 as i32;
/// SYSTEM_THREAD_EXCEPTION_NOT_HANDLED.
const UNHANDLED: u32 = 0x7e;
/// ATTEMPTED_WRITE_TO_READONLY_MEMORY, of which no handler is asked.
/// <https://learn.microsoft.com/windows-hardware/drivers/debugger/bug-check-0xbe--attempted-write-to-readonly-memory>
const WRITE_TO_READ_ONLY: u32 = 0xbe;
/// ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY, of which no handler is asked.
/// <https://learn.microsoft.com/windows-hardware/drivers/debugger/bug-check-0xfc--attempted-execute-of-noexecute-memory>
const EXECUTE_OF_DATA: u32 = 0xfc;

const DIVIDE: u64 = 0;
const DEBUG: u64 = 1;
const BREAKPOINT: u64 = 3;
const DOUBLE_FAULT: u64 = 8;
const PAGE_FAULT: u64 = 14;

const INTERRUPT_FLAG: u64 = 1 << 9;

/// Bytes of one entry stub.
const STUB: usize = 16;

// One stub a vector: an error code where the processor pushes none, the vector, then what all share.
global_asm!(
    r#"
    .text
    .balign 16
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != 17 && vector != 21
    push 0
    .endif
    push vector
    jmp {common}
    .set vector, vector + 1
    .endr
"#,
    common = sym common,
);

unsafe extern "C" {
    static trap_stubs: u8;
}

/// What the way in leaves on the stack.
#[repr(C)]
pub struct Frame {
    /// R15 down to RAX in the order of their pushes, reversed: see `common`.
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Keeps all registers, the vector ones too (drivers use them, and interrupt routines of drivers), and calls `enter`.
#[unsafe(naked)]
unsafe extern "sysv64" fn common() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "push rbx",
        "push rbp",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "cld",
        "mov rdi, rsp",
        "mov rbx, rsp",
        "mov rbp, rsp",
        "sub rsp, 512",
        "and rsp, -16",
        "fxsave64 [rsp]",
        "mov rsi, rsp",
        "call {enter}",
        "fxrstor64 [rsp]",
        "mov rsp, rbx",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rbp",
        "pop rbx",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "add rsp, 16",
        "iretq",
        enter = sym enter,
    )
}

/// The interrupt descriptor table: two words an entry.
static TABLE: crate::lock::Lock<[[u64; 2]; 256]> = crate::lock::Lock::new([[0; 2]; 256]);

/// Fills the table if it is empty, and loads it.
pub fn load() {
    let mut table = TABLE.lock();
    for (vector, entry) in table.iter_mut().enumerate() {
        let address = (&raw const trap_stubs) as u64 + (vector * STUB) as u64;
        let stack = if vector as u64 == DOUBLE_FAULT { u64::from(processor::DOUBLE_FAULT_STACK) + 1 } else { 0 };
        // Present, interrupt gate, code segment 8.
        let low = address & 0xffff | 8 << 16 | stack << 32 | 0x8e00 << 32 | (address >> 16 & 0xffff) << 48;
        *entry = [low, address >> 32];
    }
    let pointer = DescriptorTablePointer { limit: 256 * 16 - 1, base: VirtAddr::from_ptr(table.as_ptr()) };
    // SAFETY: the table is a static, filled above.
    unsafe { lidt(&pointer) };
}

/// Vectors that `nt` gives to devices: classes 3 to 11.
const DEVICE_VECTORS: core::ops::Range<u8> = 0x30..0xc0;
/// Interrupts of devices so far: by message, by line.
static TAKEN: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// Interrupts of devices so far, by processor.
static TAKEN_BY: [AtomicU64; processor::MOST] = [const { AtomicU64::new(0) }; processor::MOST];

/// Interrupts of devices that a processor took so far.
pub fn device_interrupts_of(processor: u32) -> u64 {
    TAKEN_BY[processor as usize].load(Ordering::Relaxed)
}

/// Interrupts of devices so far: by message, by line.
pub fn device_interrupts() -> (u64, u64) {
    (TAKEN[0].load(Ordering::Relaxed), TAKEN[1].load(Ordering::Relaxed))
}

unsafe extern "sysv64" fn enter(frame: &mut Frame, vectors: *mut [u8; 512]) {
    if frame.is_traced() {
        return;
    }
    match frame.vector {
        0..32 => fault(frame, vectors),
        vector if vector == u64::from(processor::SPURIOUS_VECTOR) => {}
        vector if vector == u64::from(processor::TIMER_VECTOR) => {
            processor::arm();
            processor::end_of_interrupt();
        }
        vector if vector == u64::from(processor::POKE_VECTOR) => processor::end_of_interrupt(),
        vector => {
            if DEVICE_VECTORS.contains(&(vector as u8)) {
                let by_line = usize::from(interrupts::is_line(vector as u8));
                TAKEN[by_line].fetch_add(1, Ordering::Relaxed);
                TAKEN_BY[processor::current() as usize].fetch_add(1, Ordering::Relaxed);
            }
            nt::ke::interrupt::dispatch(vector as u8);
        }
    }
    if frame.vector >= 32 && frame.rflags & INTERRUPT_FLAG != 0 {
        processor::take_up_masked();
    }
}

impl Frame {
    /// Gives [`trace`] its exceptions and tells it of everything else. True: it was its own.
    fn is_traced(&mut self) -> bool {
        let mut registers = trace::Registers {
            rip: self.rip,
            rflags: &mut self.rflags,
            rax: self.rax,
            arguments: [self.rdi, self.rsi, self.rdx, self.r10, self.r8],
        };
        let own = match self.vector {
            DEBUG => trace::step(&mut registers),
            PAGE_FAULT if self.error & 0x10 != 0 => trace::fetch_fault(&mut registers, Cr2::read_raw()),
            _ => false,
        };
        if !own {
            trace::pause(&registers);
        }
        own
    }

    /// Registers in the order of instruction encodings.
    fn registers(&self) -> [u64; 16] {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self.rsp, self.rbp, self.rsi, self.rdi, self.r8, self.r9, self.r10,
            self.r11, self.r12, self.r13, self.r14, self.r15,
        ]
    }

    fn set_registers(&mut self, values: &[u64; 16]) {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self.rsp, self.rbp, self.rsi, self.rdi, self.r8, self.r9, self.r10,
            self.r11, self.r12, self.r13, self.r14, self.r15,
        ] = *values;
    }
}

/// A fault of a driver is offered to its exception handlers; any other, or one that nobody takes, ends the run.
fn fault(frame: &mut Frame, vectors: *mut [u8; 512]) {
    let address = Cr2::read_raw();
    let (code, what) = match frame.vector {
        PAGE_FAULT if frame.error & 0x10 != 0 => (STATUS_ACCESS_VIOLATION, "an execution of memory that is no code"),
        PAGE_FAULT if frame.error & 2 != 0 => (STATUS_ACCESS_VIOLATION, "a write to memory that is not to be written"),
        PAGE_FAULT => (STATUS_ACCESS_VIOLATION, "a read of memory that is not mapped"),
        DIVIDE => (STATUS_INTEGER_DIVIDE_BY_ZERO, "a division error"),
        BREAKPOINT => (STATUS_BREAKPOINT, "a breakpoint instruction"),
        13 => (STATUS_ACCESS_VIOLATION, "a general protection fault"),
        _ => (STATUS_ILLEGAL_INSTRUCTION, "an exception"),
    };
    let registers = frame.registers();
    // Of the page that was touched: it is there, and written to, or fetched from.
    let forbidden = match (frame.vector, frame.error & 0x13) {
        (PAGE_FAULT, 0x03) => Some(WRITE_TO_READ_ONLY),
        (PAGE_FAULT, 0x11) => Some(EXECUTE_OF_DATA),
        _ => None,
    };
    // A call into data has left its return address; the byte before it belongs to the call.
    let place = match forbidden {
        Some(EXECUTE_OF_DATA) => {
            word(frame.rsp as usize).filter(|&back| nt::loader::follows_call(back)).map(|back| back - 1)
        }
        _ => Some(frame.rip as usize).filter(|&rip| nt::loader::is_code(rip)),
    };
    if let Some(place) = place
        && frame.vector != DOUBLE_FAULT
    {
        if forbidden.is_none() && handled(frame, vectors, code, address) {
            return;
        }
        let thread = nt::ke::sched::current();
        // SAFETY: the current thread is valid.
        let range = (!thread.is_null()).then(|| unsafe { (*thread).stack_range() }).flatten();
        let rsp = frame.rsp as usize;
        let stack = range.filter(|&(low, high)| (low..high).contains(&rsp)).map_or((rsp, rsp), |(_, high)| (rsp, high));
        let text = format_args!("vector {}, {what}; registers {registers:x?}", frame.vector);
        nt::verifier::fatal_fault(forbidden.unwrap_or(UNHANDLED), text, place, address as usize, stack);
    }
    console::print(format_args!(
        "lab: fault: vector {}, error {:#x}, {what} at {:#x}, address {address:#x}, IRQL {}",
        frame.vector,
        frame.error,
        frame.rip,
        processor::irql()
    ));
    for (index, values) in registers.chunks(4).enumerate() {
        console::print(format_args!("lab:   registers {}: {values:x?}", index * 4));
    }
    print_stack(frame.rbp as usize);
    print_code(frame.rsp as usize);
    console::end(Verdict::Panic)
}

/// Offers a fault to the exception handlers of the driver. True: the frame goes on where they say.
fn handled(frame: &mut Frame, vectors: *mut [u8; 512], code: i32, address: u64) -> bool {
    let mut record = ExceptionRecord::new(code, 0, frame.rip);
    if code == STATUS_ACCESS_VIOLATION {
        record.count = 2;
        record.information[0] = if frame.error & 0x10 != 0 { 8 } else { u64::from(frame.error & 2 != 0) };
        record.information[1] = address;
    }
    let mut context = Context::empty();
    context.gpr = frame.registers();
    context.rip = frame.rip;
    context.eflags = frame.rflags as u32;
    // SAFETY: `common` saved the vector registers there: MXCSR at 24, XMM0 at 160.
    unsafe {
        let saved = vectors.cast::<u8>();
        context.mxcsr = saved.add(24).cast::<u32>().read();
        context.xmm = saved.add(160).cast::<[u128; 16]>().read();
        if !nt::seh::dispatch::dispatch(&mut record, &mut context) {
            return false;
        }
        saved.add(160).cast::<[u128; 16]>().write(context.xmm);
    }
    frame.set_registers(&context.gpr);
    frame.rip = context.rip;
    true
}

fn word(address: usize) -> Option<usize> {
    let ok = address.is_multiple_of(8) && memory::is_mapped(address);
    // SAFETY: the address is mapped, and nothing is done with the value but printing.
    ok.then(|| unsafe { (address as *const usize).read_volatile() })
}

fn print_place(kind: &str, address: usize) {
    if memory::is_own_code(address) {
        console::print(format_args!("lab:   {kind} guest+{address:#x}"));
    } else {
        console::print(format_args!("lab:   {kind} {}", nt::loader::describe(address)));
    }
}

/// Prints the return addresses of a chain of frame pointers: this kernel's own frames.
pub fn print_stack(mut frame: usize) {
    for _ in 0..24 {
        let Some((next, address)) = word(frame).zip(word(frame + 8)) else { return };
        print_place("frame", address);
        if next <= frame {
            return;
        }
        frame = next;
    }
}

/// Prints what looks like return addresses on a stack, for frames without frame pointers: the drivers'.
fn print_code(stack: usize) {
    let mut printed = 0;
    for at in (stack & !7..).step_by(8).take(400) {
        let Some(value) = word(at) else { return };
        if nt::loader::follows_call(value) && printed < 12 {
            print_place("stack", value);
            printed += 1;
        }
    }
}
