//! `HYPERVISOR_hvm_op`: parameters and upcall vectors.

use super::{Hypervisor, Result};
use crate::abi::{errno, hvm};

impl Hypervisor {
    pub(super) fn hvm_op(&mut self, cmd: u64, arg: u64) -> Result<i64> {
        match cmd {
            hvm::SET_PARAM => {
                let a = self.arg::<16>(arg)?;
                self.check_param(a.u16(0), a.u32(4))?;
                self.set_param(a.u32(4), a.u64(8))
            }
            hvm::GET_PARAM => {
                let a = self.arg::<16>(arg)?;
                self.check_param(a.u16(0), a.u32(4))?;
                if !readable(a.u32(4)) {
                    return Err(errno::EPERM);
                }
                self.put(arg + 8, &self.params[a.u32(4) as usize].to_le_bytes())?;
                Ok(0)
            }
            hvm::SET_EVTCHN_UPCALL_VECTOR if self.cfg.vector_upcalls => {
                let a = self.arg::<8>(arg)?;
                let (vcpu, vector) = (a.u32(0), a.u8(4));
                if vcpu as usize >= self.vcpus.len() {
                    return Err(errno::ENOENT);
                }
                // Vectors below 16 cannot come through the local APIC.
                if vector < 0x10 {
                    return Err(errno::EINVAL);
                }
                self.vcpus[vcpu as usize].upcall_vector = vector;
                // Xen asserts it at once, whatever is pending.
                self.assert_upcall(vcpu);
                Ok(0)
            }
            hvm::FLUSH_TLBS => Ok(0),
            hvm::GET_TIME => {
                self.put(arg, &self.now_ns.to_le_bytes())?;
                Ok(0)
            }
            _ => Err(errno::ENOSYS),
        }
    }

    fn check_param(&self, domid: u16, index: u32) -> Result<()> {
        if index >= hvm::NR_PARAMS {
            return Err(errno::EINVAL);
        }
        self.check_self(domid).map_err(|_| errno::EPERM)
    }

    fn set_param(&mut self, index: u32, value: u64) -> Result<i64> {
        match index {
            hvm::PARAM_CALLBACK_IRQ => {
                self.params[index as usize] = value;
                if value >> 56 == 2 && self.vcpu_upcall_pending(0) {
                    self.assert_upcall(0);
                }
                self.sync_line();
            }
            hvm::PARAM_STORE_EVTCHN
            | hvm::PARAM_CONSOLE_EVTCHN
            | hvm::PARAM_VM86_TSS
            | hvm::PARAM_VM86_TSS_SIZED
            | hvm::PARAM_ACPI_IOPORTS_LOCATION
            | hvm::PARAM_VM_GENERATION_ID_ADDR => self.params[index as usize] = value,
            hvm::PARAM_X87_FIP_WIDTH => match value {
                0 | 4 | 8 => self.params[index as usize] = value,
                _ => return Err(errno::EINVAL),
            },
            _ => return Err(errno::EPERM),
        }
        Ok(0)
    }

    /// Reads a parameter as the toolstack does.
    pub(crate) fn param(&self, index: u32) -> u64 {
        self.params.get(index as usize).copied().unwrap_or(0)
    }

    /// Whether a virtual CPU's upcall is pending.
    pub(super) fn vcpu_upcall_pending(&self, vcpu: u32) -> bool {
        self.vcpu_info(vcpu).is_some_and(|(mfn, info)| self.mem().read_u8(mfn, info) != 0)
    }
}

fn readable(index: u32) -> bool {
    matches!(
        index,
        hvm::PARAM_CALLBACK_IRQ
            | hvm::PARAM_STORE_PFN
            | hvm::PARAM_STORE_EVTCHN
            | hvm::PARAM_CONSOLE_PFN
            | hvm::PARAM_CONSOLE_EVTCHN
            | hvm::PARAM_VM86_TSS
            | hvm::PARAM_VM86_TSS_SIZED
            | hvm::PARAM_ACPI_IOPORTS_LOCATION
            | hvm::PARAM_VM_GENERATION_ID_ADDR
            | hvm::PARAM_ALTP2M
            | hvm::PARAM_X87_FIP_WIDTH
    )
}
