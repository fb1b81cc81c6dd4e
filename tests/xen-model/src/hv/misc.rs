//! The small hypercalls: version, scheduler, virtual CPUs; CPUID and the clock page.

use super::{Hypervisor, Result};
use crate::abi::{errno, event, sched, shared, vcpu as vcpu_abi, version};
use crate::config::CpuVendor;
use crate::machine::PAGE_SIZE;

impl Hypervisor {
    pub(super) fn xen_version(&mut self, cmd: u64, arg: u64) -> Result<i64> {
        let (major, minor) = self.cfg.xen_version;
        let text = |s: &str, size: usize| {
            let mut bytes = s.as_bytes().to_vec();
            bytes.resize(size, 0);
            bytes
        };
        match cmd {
            version::VERSION => return Ok(i64::from(major) << 16 | i64::from(minor)),
            version::EXTRAVERSION => self.put(arg, &text(".0", 16))?,
            version::COMPILE_INFO => {
                let parts = [text("model", 64), text("bench", 16), text("local", 32), text("1970-01-01", 32)];
                self.put(arg, &parts.concat())?;
            }
            version::CAPABILITIES => {
                let caps = format!("xen-{major}.{minor}-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ");
                self.put(arg, &text(&caps, 1024))?;
            }
            version::CHANGESET => self.put(arg, &text("", 64))?,
            version::PLATFORM_PARAMETERS => self.put(arg, &[0; 8])?,
            version::GET_FEATURES => {
                let index = self.arg::<8>(arg)?.u32(0);
                // memory_op_vnode_supported, hvm_pirqs, hvm_safe_pvclock, hvm_callback_vector, auto_translated_physmap,
                // supervisor_mode_kernel, and writable page tables and descriptor tables.
                let map = match index {
                    0 => 1u32 << 13 | 1 << 10 | 1 << 9 | 1 << 8 | 1 << 2 | 1 << 3 | 0b11,
                    _ => return Err(errno::EINVAL),
                };
                self.put(arg + 4, &map.to_le_bytes())?;
            }
            version::PAGESIZE => return Ok(PAGE_SIZE as i64),
            version::GUEST_HANDLE => self.put(arg, &[0x5a; 16])?,
            _ => return Err(errno::ENOSYS),
        }
        Ok(0)
    }

    /// `Ok(Some(reason))`: a shutdown.
    pub(super) fn sched_op(&mut self, cmd: u64, arg: u64) -> Result<Option<u32>> {
        match cmd {
            // Waking at once is always allowed.
            sched::YIELD | sched::BLOCK => Ok(None),
            sched::SHUTDOWN => {
                let reason = self.arg::<4>(arg)?.u32(0);
                if reason > sched::SHUTDOWN_MAX { Err(errno::EINVAL) } else { Ok(Some(reason)) }
            }
            sched::POLL => {
                let a = self.arg::<24>(arg)?;
                let (ports, count) = (a.u64(0), a.u32(8));
                if count > 128 {
                    return Err(errno::EINVAL);
                }
                for i in 0..u64::from(count) {
                    let port = self.arg::<4>(ports.wrapping_add(i * 4))?.u32(0);
                    let limit = if self.fifo.is_some() { event::FIFO_CHANNELS } else { event::CHANNELS_2L };
                    if port >= limit {
                        return Err(errno::EINVAL);
                    }
                }
                Ok(None)
            }
            _ => Err(errno::ENOSYS),
        }
    }

    pub(super) fn vcpu_op(&mut self, current: u32, cmd: u64, vcpu: u64, arg: u64) -> Result<i64> {
        let vcpu = u32::try_from(vcpu).ok().filter(|v| (*v as usize) < self.vcpus.len()).ok_or(errno::ENOENT)?;
        match cmd {
            vcpu_abi::IS_UP => Ok(1),
            vcpu_abi::REGISTER_VCPU_INFO => {
                let a = self.arg::<16>(arg)?;
                let (gfn, offset) = (a.u64(0), a.u32(8) as usize);
                if offset > PAGE_SIZE - shared::VCPU_INFO_SIZE
                    || !offset.is_multiple_of(8)
                    || self.vcpus[vcpu as usize].info.is_some()
                    || vcpu != current
                {
                    return Err(errno::EINVAL);
                }
                let mfn = self.machine().mfn_of(gfn).ok_or(errno::EINVAL)?;
                let mut bytes = [0; shared::VCPU_INFO_SIZE];
                if let Some((old, at)) = self.vcpu_info(vcpu) {
                    self.mem().read(old, at, &mut bytes);
                }
                // Everything is marked pending, lest something that came in between be lost.
                bytes[shared::UPCALL_PENDING] = 1;
                bytes[shared::PENDING_SEL..shared::PENDING_SEL + 8].fill(0xff);
                self.mem().write(mfn, offset, &bytes);
                self.pin(mfn);
                self.vcpus[vcpu as usize].info = Some((mfn, offset));
                self.assert_upcall(vcpu);
                Ok(0)
            }
            _ => Err(errno::ENOSYS),
        }
    }

    /// Fills in the wall clock and each virtual CPU's time: nanoseconds since the domain's start, by the time-stamp
    /// counter alone, which starts at 0.
    pub(super) fn init_clock(&mut self) {
        let khz = u64::from(self.cfg.tsc_khz.max(1));
        // Nanoseconds of one tick as a 32.32 fixed-point number, shifted until it fits below one.
        let (mut mul, mut shift) = ((1_000_000u64 << 32) / khz, 0i8);
        while mul >= 1 << 32 {
            mul >>= 1;
            shift += 1;
        }
        let mfn = self.shared_info;
        for vcpu in 0..self.cfg.vcpus.min(shared::LEGACY_MAX_VCPUS) as usize {
            let at = vcpu * shared::VCPU_INFO_SIZE + shared::VCPU_TIME;
            self.mem().write_u32(mfn, at, 2);
            self.mem().write_u64(mfn, at + 8, 0);
            self.mem().write_u64(mfn, at + 16, 0);
            self.mem().write_u32(mfn, at + 24, mul as u32);
            self.mem().write_u8(mfn, at + 28, shift as u8);
            self.mem().write_u8(mfn, at + 29, 1);
        }
        let seconds = self.cfg.wallclock_sec;
        self.mem().write_u32(mfn, shared::WC_VERSION, 2);
        self.mem().write_u32(mfn, shared::WC_SEC, seconds as u32);
        self.mem().write_u32(mfn, shared::WC_NSEC, 0);
        self.mem().write_u32(mfn, shared::WC_SEC_HI, (seconds >> 32) as u32);
    }

    /// The CPUID leaves that Xen decides: vendor, identification and the hypervisor ranges.
    pub(crate) fn cpuid(&self, vcpu: u32, leaf: u32, sub: u32) -> Option<[u32; 4]> {
        let words = |text: &[u8; 12]| {
            let word = |i: usize| u32::from_le_bytes(text[i..i + 4].try_into().expect("four bytes"));
            [word(0), word(4), word(8)]
        };
        if leaf == 0 {
            let [b, d, c] = words(match self.cfg.cpu_vendor {
                CpuVendor::Intel => b"GenuineIntel",
                CpuVendor::Amd => b"AuthenticAMD",
                CpuVendor::Hygon => b"HygonGenuine",
            });
            return Some([0xd, b, c, d]);
        }
        if leaf & 0xf000_0000 != 0x4000_0000 || !self.cfg.present {
            return None;
        }
        if self.cfg.viridian && leaf & 0xffff_ff00 == 0x4000_0000 {
            let [b, c, d] = words(b"Microsoft Hv");
            return Some(match leaf & 0xff {
                0 => [0x4000_0006, b, c, d],
                1 => [u32::from_le_bytes(*b"Hv#1"), 0, 0, 0],
                // Version as Xen shows it: build 0x1772, 6.1.
                2 => [0x1772, 0x0006_0001, 0, 0],
                3 => [0x262, 0, 0, 0],
                4 => [0, 0x7ff, 0, 0],
                5 => [self.cfg.vcpus, self.cfg.vcpus, 0, 0],
                _ => [0; 4],
            });
        }
        let base = if self.cfg.viridian { 0x4000_0100 } else { 0x4000_0000 };
        let (major, minor) = self.cfg.xen_version;
        let [b, c, d] = words(b"XenVMMXenVMM");
        Some(match (leaf.wrapping_sub(base), sub) {
            (0, _) => [base + 5, b, c, d],
            (1, _) => [u32::from(major) << 16 | u32::from(minor), 0, 0, 0],
            (2, _) => [1, if self.cfg.viridian { 0x4000_0200 } else { 0x4000_0000 }, 0, 0],
            (3, 0) => [0b110, 0, self.cfg.tsc_khz, u32::from(self.domid - self.cfg.domid)],
            (3, 2) => [self.cfg.tsc_khz, 0, 0, 0],
            (4, 0) => {
                let vectors = if self.cfg.vector_upcalls && self.cfg.xen_version >= (4, 17) { 1 << 6 } else { 0 };
                [1 << 2 | 1 << 3 | 1 << 4 | vectors, vcpu, u32::from(self.domid), 0]
            }
            _ => [0; 4],
        })
    }
}
