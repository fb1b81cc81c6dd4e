//! Traps: what drivers execute that a process may not, carried out in signal handlers on the stack that runs.

use crate::rewrite::{self, Sensitive};
use crate::{frames, host, paged, processor, shared, step, threads, touch};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};
use libc::{c_int, c_void, siginfo_t, ucontext_t};
use nt::platform::{Platform as _, Point, Protection};
use nt::seh::abi::{Context, ExceptionRecord, STATUS_ACCESS_VIOLATION};

/// `STATUS_ILLEGAL_INSTRUCTION`.
const STATUS_ILLEGAL_INSTRUCTION: i32 = 0xC000_001D_u32 as i32;
/// `STATUS_INTEGER_DIVIDE_BY_ZERO`.
const STATUS_INTEGER_DIVIDE_BY_ZERO: i32 = 0xC000_0094_u32 as i32;
/// `STATUS_BREAKPOINT`.
const STATUS_BREAKPOINT: i32 = 0x8000_0003_u32 as i32;

/// SYSTEM_THREAD_EXCEPTION_NOT_HANDLED.
const UNHANDLED: u32 = 0x7e;
/// ATTEMPTED_WRITE_TO_READONLY_MEMORY.
/// <https://learn.microsoft.com/windows-hardware/drivers/debugger/bug-check-0xbe--attempted-write-to-readonly-memory>
const WRITE_TO_READ_ONLY: u32 = 0xbe;
/// ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY.
/// <https://learn.microsoft.com/windows-hardware/drivers/debugger/bug-check-0xfc--attempted-execute-of-noexecute-memory>
const EXECUTE_OF_DATA: u32 = 0xfc;
/// Of an access violation's first parameter: an address was written to, or code in it was run.
const WRITE: u64 = 1;
const EXECUTE: u64 = 8;

/// Registers of a signal frame in the order of instruction encodings.
const ORDER: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];
const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;
const R8: usize = 8;
const R10: usize = 10;
/// The number of the debug exception.
const DEBUG: u64 = 1;
/// The number of the page fault.
const PAGE_FAULT: u64 = 14;
/// The bit of a page fault's error code that says that an instruction was fetched.
const FETCH: u64 = 0x10;
/// EFLAGS.IF.
const IF: u64 = 0x200;

/// The registers of what was interrupted.
pub struct Regs<'a>(&'a mut ucontext_t);

impl Regs<'_> {
    /// A register by its number in instruction encodings.
    pub fn get(&self, register: usize) -> u64 {
        self.0.uc_mcontext.gregs[ORDER[register] as usize] as u64
    }
    /// Sets a register.
    pub fn set(&mut self, register: usize, value: u64) {
        self.0.uc_mcontext.gregs[ORDER[register] as usize] = value as i64;
    }
    /// Writes a register as a 32-bit instruction does: the upper half becomes zero.
    fn set32(&mut self, register: usize, value: u32) {
        self.set(register, u64::from(value));
    }
    /// Where it stopped.
    pub fn rip(&self) -> u64 {
        self.0.uc_mcontext.gregs[libc::REG_RIP as usize] as u64
    }
    /// Where it goes on.
    pub fn set_rip(&mut self, rip: u64) {
        self.0.uc_mcontext.gregs[libc::REG_RIP as usize] = rip as i64;
    }
    /// EFLAGS.
    pub fn flags(&self) -> u64 {
        self.0.uc_mcontext.gregs[libc::REG_EFL as usize] as u64
    }
    /// A field of the signal frame.
    fn field(&self, index: c_int) -> u64 {
        self.0.uc_mcontext.gregs[index as usize] as u64
    }
    /// Sets EFLAGS.
    pub fn set_flags(&mut self, flags: u64) {
        self.0.uc_mcontext.gregs[libc::REG_EFL as usize] = flags as i64;
    }
}

/// Installs the handlers.
///
/// # Errors
/// What Linux refused.
pub fn install() -> anyhow::Result<()> {
    let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP, libc::SIGFPE];
    for signal in faults.into_iter().chain(threads::on().then_some(threads::SIGNALS).into_iter().flatten()) {
        // SAFETY: a handler with the signature of SA_SIGINFO. No alternate stack: the handler runs on the stack of the
        // NT thread, which may be switched away inside of it. No signal is blocked meanwhile.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = handle;
            action.sa_sigaction = handler as usize;
            // System calls of the bench itself go on after a signal of the mode with threads.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_RESTART;
            anyhow::ensure!(
                libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0,
                "sigaction: {}",
                std::io::Error::last_os_error()
            );
        }
    }
    Ok(())
}

extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a valid frame, which is ours until the handler returns.
    let (info, context) = unsafe { (&*info, &mut *context.cast::<ucontext_t>()) };
    let mut regs = Regs(context);
    let rip = regs.rip() as usize;
    if threads::on() && threads::signalled(signal, rip, regs.get(RSP) as usize) {
        return;
    }
    let (number, error) = (regs.field(libc::REG_TRAPNO), regs.field(libc::REG_ERR));
    // Whoever reads the flags in between is not to see how drivers are stepped through.
    let flags = regs.flags() & !step::TF;
    regs.set_flags(flags);
    // SAFETY: this signal carries an address.
    let access = (signal == libc::SIGSEGV && number == PAGE_FAULT).then(|| unsafe { info.si_addr() } as usize);
    if signal == libc::SIGTRAP && number == DEBUG {
        touch::trapped(rip);
        step::trapped(rip);
    } else if !access.is_some_and(|at| {
        let (fetch, write) = (error & FETCH != 0, error & 2 != 0);
        paged::touched(at, if fetch { 8 } else { u64::from(write) }, rip)
            || if fetch { step::fetch(at) } else { touch::touched(&mut regs, at) }
    }) {
        touch::settle();
        step::pause();
        if serve(signal, info, &mut regs) {
            step::done(rip);
        }
    }
    step::resume(&mut regs);
    touch::resume(&mut regs);
}

/// Serves a signal that is no step. True: the instruction is done.
fn serve(signal: c_int, info: &siginfo_t, regs: &mut Regs<'_>) -> bool {
    let rip = regs.rip() as usize;
    match signal {
        libc::SIGTRAP => {
            if let Some(patch) = rewrite::patch_at(rip.wrapping_sub(1)) {
                carry_out(regs, patch.what);
                regs.set_rip((rip - 1 + patch.len as usize) as u64);
                return true;
            }
            fault(regs, STATUS_BREAKPOINT, 0, rip, "a breakpoint instruction");
        }
        libc::SIGSEGV if nt::loader::is_code(rip) && emulate(regs) => return true,
        libc::SIGSEGV | libc::SIGBUS => {
            // SAFETY: these signals carry an address; the kernel gives 0 for a general protection fault.
            let address = unsafe { info.si_addr() } as usize;
            let error = regs.field(libc::REG_ERR);
            let access = if error & FETCH != 0 { EXECUTE } else { u64::from(error & 2 != 0) };
            if access == 0 && shared::holds(address) && shared::read(regs, code_at(rip), address) {
                return true;
            }
            let what = match (address, access) {
                (0, _) if regs.field(libc::REG_TRAPNO) == 13 => "a general protection fault",
                (_, EXECUTE) => "an execution of memory that is no code",
                (_, WRITE) => "a write to memory",
                _ => "a read of memory",
            };
            let why = match frames::memory().state_at(address) {
                Some((_, false)) => "whose page was ballooned out or belongs to nobody",
                Some((protection, true)) => match protection {
                    Protection::Read | Protection::ReadExecute => "that is read-only",
                    _ => "that is protected",
                },
                None => "that is not mapped",
            };
            fault(regs, STATUS_ACCESS_VIOLATION, access, address, &format!("{what} {why}"));
        }
        libc::SIGFPE => fault(regs, STATUS_INTEGER_DIVIDE_BY_ZERO, 0, rip, "a division error"),
        _ => fault(regs, STATUS_ILLEGAL_INSTRUCTION, 0, rip, "an illegal instruction"),
    }
    false
}

/// Carries out a rewritten instruction.
fn carry_out(regs: &mut Regs<'_>, what: Sensitive) {
    match what {
        Sensitive::Cpuid => {
            let (leaf, sub) = (regs.get(RAX) as u32, regs.get(RCX) as u32);
            let [a, b, c, d] = cpuid(leaf, sub);
            regs.set32(RAX, a);
            regs.set32(RBX, b);
            regs.set32(RCX, c);
            regs.set32(RDX, d);
        }
        Sensitive::Rdtsc | Sensitive::Rdtscp => {
            processor::advance(20);
            let tsc = tsc();
            regs.set32(RAX, tsc as u32);
            regs.set32(RDX, (tsc >> 32) as u32);
            if what == Sensitive::Rdtscp {
                regs.set32(RCX, processor::current());
            }
        }
        Sensitive::Random(register, bytes) => {
            let value = processor::random();
            let register = register as usize;
            match bytes {
                8 => regs.set(register, value),
                4 => regs.set32(register, value as u32),
                _ => {
                    let kept = regs.get(register) & !0xffff;
                    regs.set(register, kept | value & 0xffff);
                }
            }
            // CF: a number was there. OF, SF, ZF, AF, PF are cleared.
            let flags = regs.flags() & !0x8d5 | 1;
            regs.set_flags(flags);
        }
        Sensitive::Pushf => {
            let flags = regs.flags() & !(IF | 0x100) | if processor::enabled() { IF } else { 0 };
            let rsp = regs.get(RSP) - 8;
            // SAFETY: the driver's own stack, where the instruction would have written.
            unsafe { (rsp as *mut u64).write(flags) };
            regs.set(RSP, rsp);
        }
        Sensitive::Popf => {
            let rsp = regs.get(RSP);
            // SAFETY: the driver's own stack, where the instruction would have read.
            let flags = unsafe { (rsp as *const u64).read() };
            regs.set(RSP, rsp + 8);
            // Status flags, DF; the rest belongs to Linux.
            let kept = 0xcd5;
            let merged = regs.flags() & !kept | flags & kept;
            regs.set_flags(merged);
            processor::restore(flags & IF != 0);
        }
        Sensitive::Vmcall | Sensitive::Vmmcall => hypercall(regs),
        Sensitive::Pause => processor::preempt(Point::Spin),
    }
}

fn tsc() -> u64 {
    let khz = host::with_xen(|xen| xen.config().tsc_khz).unwrap_or(2_000_000);
    (u128::from(processor::now_ns()) * u128::from(khz) / 1_000_000) as u64
}

fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    let vcpu = processor::current();
    if let Some(answer) = host::with_xen(|xen| xen.cpuid(vcpu, leaf, sub)).flatten() {
        return answer;
    }
    if leaf & 0xf000_0000 == 0x4000_0000 {
        return [0; 4];
    }
    let real = core::arch::x86_64::__cpuid_count(leaf, sub);
    let mut answer = [real.eax, real.ebx, real.ecx, real.edx];
    if leaf == 1 {
        // The local APIC's id, and the bit that says that there is a hypervisor.
        answer[1] = answer[1] & 0x00ff_ffff | (vcpu * 2) << 24;
        let present = host::with_xen(|xen| xen.config().present) == Some(true);
        answer[2] = answer[2] & !(1 << 31) | u32::from(present) << 31;
    }
    answer
}

fn hypercall(regs: &mut Regs<'_>) {
    let op = regs.get(RAX) as u32;
    let args = [regs.get(RDI), regs.get(RSI), regs.get(RDX), regs.get(R10), regs.get(R8)];
    processor::trace(u64::from(op) << 32 | 0x4ca11);
    let vcpu = processor::current();
    let Some((result, over)) = host::with_xen(|xen| {
        let result = xen.hypercall(vcpu, op, args);
        (result, xen.shutdown_reason())
    }) else {
        fault(regs, STATUS_ILLEGAL_INSTRUCTION, 0, regs.rip() as usize, "a hypercall without a hypervisor");
        return;
    };
    regs.set(RAX, result as u64);
    if let Some(reason) = over {
        host::stop_with(&format!("the guest shut down with reason {reason}"));
    }
    processor::deliver();
    processor::preempt(Point::Call);
}

/// The bytes of the instruction at `rip`, which was just fetched from there.
pub fn code_at(rip: usize) -> &'static [u8] {
    // An instruction has at most 15 bytes; one that crosses into the next page has its first byte in a page of an image,
    // where code does not end with the page.
    let room = if frames::memory().is_code(rip + 15) { 15 } else { (4096 - (rip & 4095)).min(15) };
    // SAFETY: the processor fetched the instruction from there, and the rest of its page, or the page behind it, is
    // mapped with it.
    unsafe { std::slice::from_raw_parts(rip as *const u8, room) }
}

/// Carries out a privileged instruction that faulted. False: it is none.
fn emulate(regs: &mut Regs<'_>) -> bool {
    let rip = regs.rip();
    let instruction = Decoder::with_ip(64, code_at(rip as usize), rip, DecoderOptions::NONE).decode();
    let next = instruction.next_ip();
    match instruction.mnemonic() {
        Mnemonic::In => {
            let port = port_of(regs, &instruction, 1);
            let width = instruction.op0_register().size() as u8;
            let value = u64::from(host::HOST.port_read(port, width));
            let rax = match width {
                1 => regs.get(RAX) & !0xff | value,
                2 => regs.get(RAX) & !0xffff | value,
                _ => value,
            };
            regs.set(RAX, rax);
        }
        Mnemonic::Out => {
            let port = port_of(regs, &instruction, 0);
            let width = instruction.op1_register().size() as u8;
            let ones = if width == 4 { u32::MAX } else { (1 << (width * 8)) - 1 };
            host::HOST.port_write(port, width, regs.get(RAX) as u32 & ones);
        }
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => {
            let width = string_width(instruction.mnemonic());
            let count = if instruction.has_rep_prefix() { regs.get(RCX) } else { 1 };
            for _ in 0..count {
                let value = host::HOST.port_read(regs.get(RDX) as u16, width).to_le_bytes();
                let to = regs.get(RDI);
                // SAFETY: the driver's buffer, where the instruction would have written.
                unsafe { (to as *mut u8).copy_from_nonoverlapping(value.as_ptr(), width as usize) };
                regs.set(RDI, to + u64::from(width));
            }
            if instruction.has_rep_prefix() {
                regs.set(RCX, 0);
            }
        }
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => {
            let width = string_width(instruction.mnemonic());
            let count = if instruction.has_rep_prefix() { regs.get(RCX) } else { 1 };
            for _ in 0..count {
                let mut value = [0_u8; 4];
                let from = regs.get(RSI);
                // SAFETY: the driver's buffer, where the instruction would have read.
                unsafe { value.as_mut_ptr().copy_from_nonoverlapping(from as *const u8, width as usize) };
                host::HOST.port_write(regs.get(RDX) as u16, width, u32::from_le_bytes(value));
                regs.set(RSI, from + u64::from(width));
            }
            if instruction.has_rep_prefix() {
                regs.set(RCX, 0);
            }
        }
        Mnemonic::Cli => {
            processor::disable();
        }
        Mnemonic::Sti => {
            regs.set_rip(next);
            processor::restore(true);
            return true;
        }
        Mnemonic::Hlt => {
            regs.set_rip(next);
            processor::preempt(Point::Spin);
            return true;
        }
        Mnemonic::Rdmsr => {
            let value = match regs.get(RCX) as u32 {
                // IA32_TIME_STAMP_COUNTER, IA32_APIC_BASE, IA32_TSC_AUX.
                0x10 => tsc(),
                0x1b => 0xfee0_0900,
                0xc000_0103 => u64::from(processor::current()),
                _ => return false,
            };
            regs.set32(RAX, value as u32);
            regs.set32(RDX, (value >> 32) as u32);
        }
        Mnemonic::Invlpg | Mnemonic::Wbinvd | Mnemonic::Invd => {}
        Mnemonic::Mov if instruction.op0_register() == Register::CR8 => {
            let value = regs.get(instruction.op1_register().number());
            regs.set_rip(next);
            if value > 15 {
                return false;
            }
            let old = processor::irql();
            processor::set_irql(value as u8);
            if (value as u8) < old {
                processor::preempt(Point::Release);
            }
            return true;
        }
        Mnemonic::Mov if instruction.op1_register() == Register::CR8 => {
            regs.set(instruction.op0_register().number(), u64::from(processor::irql()));
        }
        Mnemonic::Mov if instruction.op1_register().is_cr() => {
            let value = match instruction.op1_register() {
                Register::CR0 => 0x8005_0031,
                Register::CR3 => 0x1a_a000,
                Register::CR4 => 0x6f8,
                _ => 0,
            };
            regs.set(instruction.op0_register().number(), value);
        }
        _ => return false,
    }
    regs.set_rip(next);
    true
}

fn port_of(regs: &Regs<'_>, instruction: &iced_x86::Instruction, operand: u32) -> u16 {
    if instruction.op_kind(operand) == OpKind::Immediate8 {
        u16::from(instruction.immediate8())
    } else {
        regs.get(RDX) as u16
    }
}

fn string_width(mnemonic: Mnemonic) -> u8 {
    match mnemonic {
        Mnemonic::Insb | Mnemonic::Outsb => 1,
        Mnemonic::Insw | Mnemonic::Outsw => 2,
        _ => 4,
    }
}

/// The bug check of an access that the protection of a page which is there does not allow; no handler is asked about it.
fn forbidden(access: u64, address: usize) -> Option<u32> {
    match (access, frames::memory().state_at(address)?) {
        (WRITE, (Protection::Read | Protection::ReadExecute, true)) => Some(WRITE_TO_READ_ONLY),
        (EXECUTE, (Protection::Read | Protection::ReadWrite, true)) => Some(EXECUTE_OF_DATA),
        _ => None,
    }
}

/// A fault: offered to the driver's exception handlers; if none takes it, the run ends.
fn fault(regs: &mut Regs<'_>, code: i32, access: u64, address: usize, what: &str) {
    let rip = regs.rip() as usize;
    if !processor::running() {
        // The bench itself broke outside of the machine: let Linux end it where it happened.
        // SAFETY: restores the default action; the instruction runs again and ends the process.
        unsafe {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            libc::signal(libc::SIGTRAP, libc::SIG_DFL);
            libc::signal(libc::SIGILL, libc::SIG_DFL);
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
        }
        return;
    }
    let low = regs.get(RSP) as usize;
    let thread = nt::ke::sched::current();
    // SAFETY: the current thread is valid.
    let range = (!thread.is_null()).then(|| unsafe { (*thread).stack_range() }).flatten();
    let range = range.filter(|&(bottom, top)| (bottom..top).contains(&low));
    let forbidden = if code == STATUS_ACCESS_VIOLATION { forbidden(access, address) } else { None };
    // A call into data has left its return address; the byte before it belongs to the call.
    let place = match forbidden {
        Some(EXECUTE_OF_DATA) if range.is_some() && low.is_multiple_of(8) => {
            // SAFETY: it is a word of the thread's stack.
            let back = unsafe { (low as *const usize).read() };
            if nt::loader::follows_call(back) { back - 1 } else { rip }
        }
        _ => rip,
    };
    if forbidden.is_none() && nt::loader::is_code(rip) {
        let mut record = ExceptionRecord::new(code, 0, rip as u64);
        if code == STATUS_ACCESS_VIOLATION {
            record.count = 2;
            record.information[0] = access;
            record.information[1] = address as u64;
        }
        let mut context = Context::empty();
        for (index, value) in context.gpr.iter_mut().enumerate() {
            *value = regs.get(index);
        }
        context.rip = rip as u64;
        context.eflags = regs.flags() as u32;
        let fpregs = regs.0.uc_mcontext.fpregs;
        if !fpregs.is_null() {
            // SAFETY: the kernel saved the vector registers there.
            unsafe {
                context.mxcsr = (*fpregs).mxcsr;
                for (to, from) in context.xmm.iter_mut().zip(&(*fpregs)._xmm) {
                    let [a, b, c, d] = from.element.map(u128::from);
                    *to = a | b << 32 | c << 64 | d << 96;
                }
            }
        }
        // SAFETY: the context is that of the fault, on this stack, above this frame.
        if unsafe { nt::seh::dispatch::dispatch(&mut record, &mut context) } {
            for (index, value) in context.gpr.iter().enumerate() {
                regs.set(index, *value);
            }
            regs.set_rip(context.rip);
            return;
        }
    }
    let stack = range.map_or((low, low), |(_, top)| (low, top));
    let registers: Vec<String> = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"]
        .iter()
        .map(|name| (*name).to_owned())
        .chain((8..16).map(|n| format!("r{n}")))
        .enumerate()
        .map(|(index, name)| format!("{name}={:x}", regs.get(index)))
        .collect();
    let text = format!("{what}\n  {}\n  {}", registers[..8].join(" "), registers[8..].join(" "));
    nt::verifier::fatal_fault(forbidden.unwrap_or(UNHANDLED), format_args!("{text}"), place, address, stack)
}
