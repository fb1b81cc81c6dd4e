//! Grant tables, version 1: the guest's operations and dom0's maps.

use std::collections::BTreeMap;

use super::{Hypervisor, Result};
use crate::abi::{errno, grant};
use crate::layout;
use crate::machine::{Gfn, Mem, Mfn, PAGE_SIZE};
use crate::observe::GuestErrorKind;

/// Why a grant cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantError {
    /// No such reference, or it does not permit access.
    NotGranted,
    /// It is granted to another domain.
    OtherDomain,
    /// It is read-only and was to be mapped for writing.
    ReadOnly,
    /// Its frame number has no page behind it.
    NoPage,
    /// Offset and length of a copy reach beyond the page.
    BeyondPage,
}

/// What a copy to or from a granted page comes to.
pub(crate) type CopyResult<T = ()> = core::result::Result<T, GrantError>;

/// A reference that permits access at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantedRef {
    /// The reference.
    pub reference: u32,
    /// The domain that may map it.
    pub domid: u16,
    /// The page.
    pub gfn: Gfn,
    /// The entry's flags.
    pub flags: u16,
}

/// The toolstack's own references (`GNTTAB_RESERVED_CONSOLE`, `GNTTAB_RESERVED_XENSTORE`): dom0 has them mapped for the
/// domain's whole life, as `xl debug-keys g` shows.
const TOOLSTACK: [(u32, Gfn); 2] = [(0, layout::CONSOLE_GFN), (1, layout::STORE_GFN)];

/// A reference that dom0 has mapped.
#[derive(Clone, Copy, Debug)]
struct Mapped {
    mfn: Mfn,
    readers: u32,
    writers: u32,
}

#[derive(Debug, Default)]
pub(super) struct GrantTable {
    frames: Vec<Mfn>,
    maps: BTreeMap<u32, Mapped>,
    /// How many references map a frame.
    mapped_frames: BTreeMap<Mfn, u32>,
}

impl GrantTable {
    pub(super) fn frame(&self, index: u32) -> Option<Mfn> {
        self.frames.get(index as usize).copied()
    }

    pub(super) fn is_mapped(&self, mfn: Mfn) -> bool {
        self.mapped_frames.contains_key(&mfn)
    }

    fn entry(&self, reference: u32) -> Option<(Mfn, usize)> {
        let mfn = self.frame(reference / grant::ENTRIES_PER_FRAME)?;
        Some((mfn, (reference % grant::ENTRIES_PER_FRAME) as usize * grant::ENTRY_SIZE))
    }
}

impl Hypervisor {
    /// Makes the table at least `frames` frames large.
    pub(super) fn grow_grants(&mut self, frames: u32) -> Result<()> {
        if frames > self.cfg.max_grant_frames {
            return Err(errno::EINVAL);
        }
        while (self.grants.frames.len() as u32) < frames {
            let mfn = self.new_xen_frame()?;
            self.grants.frames.push(mfn);
        }
        Ok(())
    }

    /// Enters and maps the toolstack's references, as `xc_dom_gnttab_init`, xenconsoled and xenstored do.
    pub(super) fn seed_grants(&mut self) {
        for (reference, gfn) in TOOLSTACK {
            let (frame, at) = self.grants.entry(reference).expect("the table has its first frame");
            let [low, high] = grant::PERMIT_ACCESS.to_le_bytes();
            self.mem().write(frame, at + 4, &(gfn as u32).to_le_bytes());
            self.mem().write(frame, at, &[low, high, 0, 0]);
            self.try_map(reference, false).expect("the entry was just made");
        }
    }

    /// The domain ends: what the toolstack had mapped. A guest that touched the entries made an error.
    pub(super) fn release_seeded_grants(&mut self) {
        for (reference, _) in TOOLSTACK {
            self.release(reference, false);
        }
    }

    pub(super) fn grant_table_op(&mut self, cmd: u64, arg: u64, count: u32) -> Result<i64> {
        match cmd {
            grant::QUERY_SIZE => {
                if count != 1 {
                    return Err(errno::EINVAL);
                }
                let domid = self.arg::<16>(arg)?.u16(0);
                let status = if self.check_self(domid).is_ok() { grant::OKAY } else { grant::BAD_DOMAIN };
                let mut out = [0; 12];
                if status == grant::OKAY {
                    out[..4].copy_from_slice(&(self.grants.frames.len() as u32).to_le_bytes());
                    out[4..8].copy_from_slice(&self.cfg.max_grant_frames.to_le_bytes());
                }
                out[8..10].copy_from_slice(&status.to_le_bytes());
                self.put(arg + 4, &out)?;
                Ok(0)
            }
            grant::SETUP_TABLE => {
                if count != 1 {
                    return Err(errno::EINVAL);
                }
                let a = self.arg::<24>(arg)?;
                let (domid, frames, list) = (a.u16(0), a.u32(4), a.u64(16));
                let status = if self.check_self(domid).is_err() {
                    grant::BAD_DOMAIN
                } else if self.grow_grants(frames).is_err() {
                    grant::GENERAL_ERROR
                } else {
                    for i in 0..frames {
                        let seen_at = self.grants.frame(i).and_then(|mfn| self.xen_frames.get(&mfn).copied().flatten());
                        self.put(list.wrapping_add(u64::from(i) * 8), &seen_at.unwrap_or(u64::MAX).to_le_bytes())?;
                    }
                    grant::OKAY
                };
                self.put(arg + 8, &status.to_le_bytes())?;
                Ok(0)
            }
            grant::SET_VERSION => {
                let asked = self.arg::<4>(arg)?.u32(0);
                let result = match asked {
                    1 => Ok(0),
                    2 => Err(errno::ENOSYS),
                    _ => Err(errno::EINVAL),
                };
                self.put(arg, &1u32.to_le_bytes())?;
                result
            }
            grant::GET_VERSION => {
                self.check_self(self.arg::<8>(arg)?.u16(0))?;
                self.put(arg + 4, &1u32.to_le_bytes())?;
                Ok(0)
            }
            // A frontend grants; it has nothing of another domain's to map.
            grant::MAP_GRANT_REF | grant::UNMAP_GRANT_REF => Err(errno::EPERM),
            _ => Err(errno::ENOSYS),
        }
    }

    /// Maps a reference of the guest's into dom0, as `GNTTABOP_map_grant_ref` does: the entry is checked and its
    /// reading and writing flags are set in one step.
    pub(crate) fn map_grant(&mut self, reference: u32, readonly: bool) -> core::result::Result<Mfn, GrantError> {
        let result = self.try_map(reference, readonly);
        match result {
            Ok(_) => self.counters.grant_maps += 1,
            Err(error) => {
                self.counters.grant_refused += 1;
                self.guest_error(GuestErrorKind::BadGrant, format!("reference {reference}: {error:?}"));
            }
        }
        result
    }

    fn try_map(&mut self, reference: u32, readonly: bool) -> core::result::Result<Mfn, GrantError> {
        let (frame, at) = self.grants.entry(reference).ok_or(GrantError::NotGranted)?;
        loop {
            let head = self.mem().read_u32(frame, at);
            let (flags, domid) = (head as u16, (head >> 16) as u16);
            if flags & grant::TYPE_MASK != grant::PERMIT_ACCESS {
                return Err(GrantError::NotGranted);
            }
            if domid != 0 {
                return Err(GrantError::OtherDomain);
            }
            if !readonly && flags & grant::READONLY != 0 {
                return Err(GrantError::ReadOnly);
            }
            let bits = grant::READING | if readonly { 0 } else { grant::WRITING };
            if self.mem().cas_u32(frame, at, head, head | u32::from(bits)).is_ok() {
                break;
            }
        }
        let gfn = u64::from(self.mem().read_u32(frame, at + 4));
        let Some(mfn) = self.machine().mfn_of(gfn) else {
            if !self.grants.maps.contains_key(&reference) {
                self.mem().clear_u16(frame, at, grant::READING | grant::WRITING);
            }
            return Err(GrantError::NoPage);
        };
        let map = self.grants.maps.entry(reference).or_insert(Mapped { mfn, readers: 0, writers: 0 });
        if readonly {
            map.readers += 1;
        } else {
            map.writers += 1;
        }
        let mfn = map.mfn;
        *self.grants.mapped_frames.entry(mfn).or_default() += 1;
        self.pin(mfn);
        Ok(mfn)
    }

    /// `GNTTABOP_copy` out of a page of the guest's: the entry is checked and pinned for the length of the copy.
    pub(crate) fn copy_from_grant(&mut self, reference: u32, offset: usize, buf: &mut [u8]) -> CopyResult {
        self.copy_grant(reference, offset, buf.len(), true, |mem, mfn| mem.read(mfn, offset, buf))
    }

    /// `GNTTABOP_copy` into a page of the guest's: its frame.
    pub(crate) fn copy_to_grant(&mut self, reference: u32, offset: usize, bytes: &[u8]) -> CopyResult<Mfn> {
        let mut to = 0;
        self.copy_grant(reference, offset, bytes.len(), false, |mem, mfn| {
            mem.write(mfn, offset, bytes);
            to = mfn;
        })?;
        Ok(to)
    }

    fn copy_grant(
        &mut self,
        reference: u32,
        offset: usize,
        len: usize,
        readonly: bool,
        copy: impl FnOnce(Mem<'_>, Mfn),
    ) -> CopyResult {
        let mapped =
            if offset + len > PAGE_SIZE { Err(GrantError::BeyondPage) } else { self.try_map(reference, readonly) };
        match mapped {
            Ok(mfn) => {
                copy(self.mem(), mfn);
                self.release(reference, readonly);
                self.counters.grant_copies += 1;
                self.counters.bytes_moved += len as u64;
                Ok(())
            }
            Err(error) => {
                self.counters.grant_refused += 1;
                self.guest_error(GuestErrorKind::BadGrant, format!("copy of reference {reference}: {error:?}"));
                Err(error)
            }
        }
    }

    /// Ends a map of dom0's. A guest that took the grant back while it was mapped made an error, which is recorded.
    pub(crate) fn unmap_grant(&mut self, reference: u32, readonly: bool) {
        if self.release(reference, readonly) {
            self.counters.grant_unmaps += 1;
        }
    }

    /// Takes one user off a reference's map; whether there was a map.
    fn release(&mut self, reference: u32, readonly: bool) -> bool {
        let Some(map) = self.grants.maps.get_mut(&reference) else { return false };
        let count = if readonly { &mut map.readers } else { &mut map.writers };
        *count = count.saturating_sub(1);
        let Mapped { mfn, readers, writers } = *map;
        if let Some(n) = self.grants.mapped_frames.get_mut(&mfn) {
            *n -= 1;
            if *n == 0 {
                self.grants.mapped_frames.remove(&mfn);
            }
        }
        let mut bits = if writers == 0 { grant::WRITING } else { 0 };
        if writers == 0 && readers == 0 {
            bits |= grant::READING;
            self.grants.maps.remove(&reference);
        }
        if let Some((frame, at)) = self.grants.entry(reference)
            && self.mem().clear_u16(frame, at, bits) & grant::TYPE_MASK != grant::PERMIT_ACCESS
        {
            self.guest_error(
                GuestErrorKind::FreedWhileGranted,
                format!("reference {reference} was taken back while a backend had it mapped"),
            );
        }
        self.unpin(mfn);
        true
    }

    /// The guest's references that permit access now.
    pub(crate) fn granted(&self) -> Vec<GrantedRef> {
        let mut list = Vec::new();
        for reference in TOOLSTACK.len() as u32..self.grants.frames.len() as u32 * grant::ENTRIES_PER_FRAME {
            let Some((frame, at)) = self.grants.entry(reference) else { break };
            let head = self.mem().read_u32(frame, at);
            if head as u16 & grant::TYPE_MASK == grant::PERMIT_ACCESS {
                let gfn = u64::from(self.mem().read_u32(frame, at + 4));
                list.push(GrantedRef { reference, domid: (head >> 16) as u16, gfn, flags: head as u16 });
            }
        }
        list
    }

    /// References of the guest's that dom0 has mapped now.
    pub(crate) fn mapped_grants(&self) -> usize {
        let toolstack = TOOLSTACK.iter().filter(|(reference, _)| self.grants.maps.contains_key(reference));
        self.grants.maps.len() - toolstack.count()
    }
}
