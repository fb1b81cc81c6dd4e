//! `HYPERVISOR_memory_op`.

use super::{Hypervisor, Result};
use crate::abi::{errno, memory};
use crate::layout;
use crate::machine::{Gfn, Mfn};
use crate::observe::GuestErrorKind;

impl Hypervisor {
    pub(super) fn memory_op(&mut self, cmd: u64, arg: u64) -> Result<i64> {
        match cmd {
            memory::DECREASE_RESERVATION | memory::POPULATE_PHYSMAP => self.reservation(cmd, arg),
            memory::CURRENT_RESERVATION | memory::MAXIMUM_RESERVATION => {
                self.check_self(self.arg::<2>(arg)?.u16(0))?;
                Ok(if cmd == memory::CURRENT_RESERVATION { self.pages } else { self.cfg.max_pages } as i64)
            }
            memory::MAXIMUM_GPFN => {
                self.check_self(self.arg::<2>(arg)?.u16(0))?;
                Ok((layout::CONSOLE_GFN).max(self.cfg.ram_pages) as i64)
            }
            memory::ADD_TO_PHYSMAP => {
                let a = self.arg::<24>(arg)?;
                self.check_self(a.u16(0))?;
                self.add_to_physmap(a.u32(4), a.u64(8), a.u64(16))?;
                Ok(0)
            }
            memory::ADD_TO_PHYSMAP_BATCH => self.add_to_physmap_batch(arg),
            memory::REMOVE_FROM_PHYSMAP => {
                let a = self.arg::<16>(arg)?;
                self.check_self(a.u16(0))?;
                if self.remove_page(a.u64(8)) { Ok(0) } else { Err(errno::ENOENT) }
            }
            memory::MEMORY_MAP => self.memory_map(arg),
            _ => Err(errno::ENOSYS),
        }
    }

    /// `XENMEM_decrease_reservation` and `XENMEM_populate_physmap`: the number of extents done.
    fn reservation(&mut self, cmd: u64, arg: u64) -> Result<i64> {
        let a = self.arg::<32>(arg)?;
        let (list, extents, order, domid) = (a.u64(0), a.u64(8), a.u32(16), a.u16(24));
        self.check_self(domid)?;
        // A guest without pass-through may ask for extents of up to 2 MiB.
        if order > 9 || extents > u64::from(u32::MAX) {
            return Ok(0);
        }
        for i in 0..extents {
            let Some(va) = list.checked_add(i * 8) else { return Ok(i as i64) };
            let Ok(base) = self.arg::<8>(va) else { return Ok(i as i64) };
            let base = base.u64(0);
            for gfn in base..base.saturating_add(1 << order) {
                let done = if cmd == memory::DECREASE_RESERVATION { self.remove_page(gfn) } else { self.populate(gfn) };
                if !done {
                    return Ok(i as i64);
                }
            }
        }
        Ok(extents as i64)
    }

    fn populate(&mut self, gfn: Gfn) -> bool {
        if self.pages >= self.cfg.max_pages || gfn > layout::LAST_GFN {
            return false;
        }
        let Some(mfn) = self.machine().alloc_frame() else { return false };
        if self.machine().mfn_of(gfn).is_some() {
            self.guest_error(GuestErrorKind::PopulatedTwice, format!("gfn {gfn:#x} was populated and still is"));
            self.remove_page(gfn);
        }
        self.machine().set_p2m(gfn, Some(mfn));
        self.pages += 1;
        true
    }

    fn add_to_physmap(&mut self, space: u32, idx: u64, gfn: Gfn) -> Result<()> {
        if gfn > layout::LAST_GFN {
            return Err(errno::EINVAL);
        }
        let mfn = match space {
            memory::SPACE_SHARED_INFO if idx == 0 => self.shared_info,
            memory::SPACE_GRANT_TABLE if idx & memory::GRANT_TABLE_STATUS == 0 => {
                let frames = u32::try_from(idx).map_err(|_| errno::EINVAL)?.checked_add(1).ok_or(errno::EINVAL)?;
                self.grow_grants(frames)?;
                self.grants.frame(idx as u32).ok_or(errno::EINVAL)?
            }
            _ => return Err(errno::EINVAL),
        };
        self.place(mfn, gfn);
        Ok(())
    }

    /// Shows a frame of Xen's at `gfn`; what was there goes, and the frame leaves the place where it was.
    fn place(&mut self, mfn: Mfn, gfn: Gfn) {
        if self.machine().mfn_of(gfn) == Some(mfn) {
            return;
        }
        self.remove_page(gfn);
        if let Some(Some(old)) = self.xen_frames.insert(mfn, Some(gfn)) {
            self.machine().set_p2m(old, None);
        }
        self.machine().set_p2m(gfn, Some(mfn));
    }

    fn add_to_physmap_batch(&mut self, arg: u64) -> Result<i64> {
        let a = self.arg::<32>(arg)?;
        let (domid, space, size) = (a.u16(0), a.u16(2), a.u16(4));
        let (idxs, gfns, errs) = (a.u64(8), a.u64(16), a.u64(24));
        self.check_self(domid)?;
        for i in 0..u64::from(size) {
            let idx = self.arg::<8>(idxs.wrapping_add(i * 8))?.u64(0);
            let gfn = self.arg::<8>(gfns.wrapping_add(i * 8))?.u64(0);
            let result = self.add_to_physmap(u32::from(space), idx, gfn).err().unwrap_or(0);
            self.put(errs.wrapping_add(i * 4), &(result as i32).to_le_bytes())?;
        }
        Ok(0)
    }

    fn memory_map(&mut self, arg: u64) -> Result<i64> {
        let a = self.arg::<16>(arg)?;
        let map = layout::e820(self.cfg.ram_pages << 12);
        if (a.u32(0) as usize) < map.len() {
            return Err(errno::EINVAL);
        }
        for (i, entry) in map.iter().enumerate() {
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&entry.start.to_le_bytes());
            bytes[8..16].copy_from_slice(&entry.size.to_le_bytes());
            bytes[16] = if entry.kind == layout::E820Kind::Ram { 1 } else { 2 };
            self.put(a.u64(8).wrapping_add(i as u64 * 20), &bytes)?;
        }
        self.put(arg, &(map.len() as u32).to_le_bytes())?;
        Ok(0)
    }
}
