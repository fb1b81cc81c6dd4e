//! The hypercall instruction.

use core::arch::asm;

use xen_abi::detect::Instruction;

use crate::core::hypercall::Hypercall;

/// Makes hypercalls by the instruction that suits the processor's vendor. Only made where Xen was found.
#[derive(Clone, Copy)]
pub struct Gate {
    instruction: Instruction,
}

impl Gate {
    /// A gate with the instruction that detection chose.
    pub fn new(instruction: Instruction) -> Self {
        Self { instruction }
    }
}

impl Hypercall for Gate {
    /// Any IRQL.
    fn call(&self, op: u32, args: [u64; 5]) -> i64 {
        let [a1, a2, a3, a4, a5] = args;
        let result: i64;
        match self.instruction {
            // SAFETY: Xen's leaves were found, so the instruction is a hypercall. Xen preserves every register but the
            // ones named here (it may clobber the arguments), and touches only the memory that the arguments point to,
            // which the caller lent it.
            Instruction::Vmcall => unsafe {
                asm!(
                    "vmcall",
                    inlateout("rax") u64::from(op) => result,
                    inlateout("rdi") a1 => _,
                    inlateout("rsi") a2 => _,
                    inlateout("rdx") a3 => _,
                    inlateout("r10") a4 => _,
                    inlateout("r8") a5 => _,
                    options(nostack)
                );
            },
            // SAFETY: as above.
            Instruction::Vmmcall => unsafe {
                asm!(
                    "vmmcall",
                    inlateout("rax") u64::from(op) => result,
                    inlateout("rdi") a1 => _,
                    inlateout("rsi") a2 => _,
                    inlateout("rdx") a3 => _,
                    inlateout("r10") a4 => _,
                    inlateout("r8") a5 => _,
                    options(nostack)
                );
            },
        }
        result
    }
}
