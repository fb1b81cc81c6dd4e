//! The few hypercalls that the kernel itself makes; all others are the drivers'. QEMU's emulation of virtualisation is
//! AMD's, so the instruction is VMMCALL.

use core::arch::asm;

/// `__HYPERVISOR_vcpu_op` and `__HYPERVISOR_sched_op` of Xen's public/xen.h.
const VCPU_OP: u64 = 24;
const SCHED_OP: u64 = 29;

unsafe fn call(number: u64, arguments: [u64; 3]) -> i64 {
    let result: i64;
    // SAFETY: the caller answers for what Xen does. Xen changes no registers but the result's and the arguments'.
    unsafe {
        asm!("vmmcall", inlateout("rax") number => result, inlateout("rdi") arguments[0] => _,
            inlateout("rsi") arguments[1] => _, inlateout("rdx") arguments[2] => _, options(nostack));
    }
    result
}

/// An operation on a virtual processor; 0 or a negative error.
///
/// # Safety
/// The argument is what the operation takes.
pub unsafe fn vcpu_op(operation: u64, vcpu: u64, argument: u64) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { call(VCPU_OP, [operation, vcpu, argument]) }
}

/// `SCHEDOP_shutdown`: returns only if Xen refuses.
pub fn shutdown(reason: u32) -> i64 {
    const SHUTDOWN: u64 = 2;
    // SAFETY: Xen reads the argument, which lives on.
    unsafe { call(SCHED_OP, [SHUTDOWN, (&raw const reason) as u64, 0]) }
}
