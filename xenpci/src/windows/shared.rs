//! Memory that Xen or another domain also touches: the only place in this driver that turns an address into
//! [`SharedRegion`]. Everything else works on such regions, by checked atomic accesses.

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use wdm::{
    memory::Zeroed,
    pages::{Caching, IoSpace, MdlPages, PAGE_SHIFT, PAGE_SIZE, Pages},
    status::{Result, Status},
    warning,
};
use xen_abi::{errno::Errno, shared::SharedRegion};

use super::hypercall::Gate;
use crate::core::{
    grant::GrantEntries,
    hypercall::{add_to_physmap, decrease_reservation, insist, populate_physmap, remove_from_physmap},
};

/// Where guest frames come from that Xen's own frames are put into.
pub(crate) struct FrameSource {
    /// The platform device's memory BAR: guest frames without memory. The first use is the registry's choice, or
    /// where no RAM page can be had.
    bar: Option<IoSpace>,
    /// Pages of the BAR that are taken.
    taken: AtomicUsize,
    prefer_bar: bool,
    /// It was said that no page can be ballooned.
    said: AtomicBool,
}

impl FrameSource {
    /// From the memory BAR (start, length) of the platform device, if it has one. It is mapped at once, so that a frame
    /// can be had later without a failure of that.
    pub(crate) fn new(bar: Option<(u64, u32)>, prefer_bar: bool) -> Self {
        /// 256 grant frames, the shared info frame, and room.
        const USED: u32 = 0x11_0000;
        let bar = bar.and_then(|(start, length)| {
            IoSpace::new(start, length.min(USED) as usize, Caching::Cached)
                .inspect_err(|status| warning!("the platform device's memory BAR cannot be mapped: {status}"))
                .ok()
        });
        Self { prefer_bar: prefer_bar && bar.is_some(), bar, taken: AtomicUsize::new(0), said: AtomicBool::new(false) }
    }

    /// A guest frame with nothing behind it.
    pub(crate) fn hole(&self, gate: Gate) -> Result<Frame> {
        if self.prefer_bar {
            return self.bar_hole().or_else(|_| Frame::ballooned(gate));
        }
        Frame::ballooned(gate).or_else(|status| {
            if !self.said.swap(true, Ordering::Relaxed) {
                warning!("no page can be ballooned ({status}); the memory BAR is used");
            }
            self.bar_hole()
        })
    }

    fn bar_hole(&self) -> Result<Frame> {
        let bar = self.bar.as_ref().ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let page = self.taken.fetch_add(1, Ordering::Relaxed);
        let start = page.checked_mul(PAGE_SIZE).filter(|start| start + PAGE_SIZE <= bar.bytes());
        let Some(start) = start else {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return Err(Status::INSUFFICIENT_RESOURCES);
        };
        // SAFETY: the page lies inside the mapping, which lives as long as the platform, as every frame does; it is
        // handed out once.
        let region = unsafe { SharedRegion::new(bar.as_ptr().add(start), PAGE_SIZE) };
        let gfn = bar.first_frame() + page as u64;
        Ok(Frame { ram: None, gfn, region, filled: AtomicBool::new(false) })
    }
}

/// A guest frame that one of Xen's frames is mapped at. Give it back with [`Frame::restore`]; a frame that is dropped
/// is lost to Windows until the next boot, on purpose: nobody could tell what is behind it.
pub(crate) struct Frame {
    /// The RAM page whose memory Xen got, if it was one.
    ram: Option<MdlPages>,
    gfn: u64,
    region: SharedRegion,
    /// A frame of Xen's is there.
    filled: AtomicBool,
}

impl Frame {
    /// Takes a RAM page and gives its memory to Xen.
    fn ballooned(gate: Gate) -> Result<Self> {
        let mut ram = MdlPages::new(1)?;
        let gfn = *ram.frames().first().ok_or(Status::INSUFFICIENT_RESOURCES)?;
        let address = ram.map()?;
        match decrease_reservation(&gate, &mut [gfn]) {
            Ok(1) => {}
            Ok(_) => return Err(Status::INSUFFICIENT_RESOURCES),
            Err(error) => {
                wdm::debug!("decrease_reservation: {error}");
                return Err(Status::INSUFFICIENT_RESOURCES);
            }
        }
        // SAFETY: the page is mapped until `ram` is dropped, which is after the last use of the frame, and nothing else
        // has a reference to it.
        let region = unsafe { SharedRegion::new(address, PAGE_SIZE) };
        Ok(Self { ram: Some(ram), gfn, region, filled: AtomicBool::new(false) })
    }

    /// Has Xen put frame `index` of a space (`xen_abi::memory::SPACE_*`) here. Again after a resume, when nothing is here
    /// until this succeeds. Any IRQL.
    pub(crate) fn fill(&self, gate: Gate, space: u32, index: u64) -> core::result::Result<(), Errno> {
        let filled = insist(|| add_to_physmap(&gate, space, index, self.gfn));
        self.filled.store(filled.is_ok(), Ordering::Release);
        filled
    }

    /// The memory.
    pub(crate) fn region(&self) -> SharedRegion {
        self.region
    }

    /// Takes Xen's frame away and gives the page back to Windows. Nothing uses the region any more.
    pub(crate) fn restore(mut self, gate: Gate) {
        if self.filled.load(Ordering::Acquire)
            && let Err(error) = remove_from_physmap(&gate, self.gfn)
        {
            warning!("remove_from_physmap of {:#x}: {error}", self.gfn);
        }
        if let Some(ram) = self.ram.take() {
            match populate_physmap(&gate, &mut [self.gfn]) {
                Ok(1) => drop(ram),
                outcome => {
                    warning!("populate_physmap of {:#x}: {outcome:?}; the page is lost", self.gfn);
                    ram.leak();
                }
            }
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if let Some(ram) = self.ram.take() {
            ram.leak();
        }
    }
}

/// A page of our own RAM that Xen also touches: FIFO control blocks and event words, `vcpu_info`.
pub(crate) struct RamPage {
    /// `None` only while this is dropped.
    pages: Option<Pages>,
    vcpu_info: bool,
}

impl RamPage {
    /// A zeroed page.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { pages: Some(Pages::new(1)?), vcpu_info: false })
    }

    /// A zeroed page for a `vcpu_info`, which Xen keeps as long as the domain lives.
    pub(crate) fn new_for_vcpu_info() -> Result<Self> {
        Ok(Self { pages: Some(Pages::new(1)?), vcpu_info: true })
    }

    /// Whether it was made for a `vcpu_info`. Any IRQL.
    pub(crate) fn keeps_vcpu_info(&self) -> bool {
        self.vcpu_info
    }

    /// Its guest frame number. Any IRQL.
    pub(crate) fn gfn(&self) -> u64 {
        self.pages.as_ref().and_then(|pages| pages.frame(0)).unwrap_or_default()
    }

    /// The memory, for as long as the page lives. Any IRQL.
    pub(crate) fn region(&self) -> Option<SharedRegion> {
        let base = NonNull::new(self.pages.as_ref()?.as_ptr())?;
        // SAFETY: the page is mapped as long as `pages` lives, which its owner keeps until Xen has let go of it; only
        // regions access it.
        Some(unsafe { SharedRegion::new(base, PAGE_SIZE) })
    }

    /// Never gives the page back: Xen may still write it.
    pub(crate) fn leak(mut self) {
        if let Some(pages) = self.pages.take() {
            pages.leak();
        }
    }
}

impl Drop for RamPage {
    fn drop(&mut self) {
        if self.vcpu_info
            && let Some(pages) = self.pages.take()
        {
            pages.leak();
        }
    }
}

/// A page of the toolstack's, by its guest frame number: xenstore's ring.
pub(crate) struct ForeignPage {
    space: IoSpace,
}

impl ForeignPage {
    /// Maps it.
    pub(crate) fn new(gfn: u64) -> Result<Self> {
        Ok(Self { space: IoSpace::new(gfn << PAGE_SHIFT, PAGE_SIZE, Caching::Cached)? })
    }

    /// The memory, for as long as the mapping lives.
    pub(crate) fn region(&self) -> SharedRegion {
        // SAFETY: the page is mapped as long as `space` lives, which its owner keeps until the ring is not used any
        // more; only regions access it.
        unsafe { SharedRegion::new(self.space.as_ptr(), PAGE_SIZE) }
    }

    /// Its guest frame number.
    pub(crate) fn gfn(&self) -> u64 {
        self.space.first_frame()
    }
}

// SAFETY: a table without frames is an array of null pointers.
unsafe impl Zeroed for GrantEntries {}
