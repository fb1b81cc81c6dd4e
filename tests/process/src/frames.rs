//! Guest memory: machine frames in a memfd, the guest's physical map, and the virtual mappings of guest pages.

use crate::paged::Paged;
use nt::platform::{MemoryRange, PAGE_SIZE, Protection};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard};
use xen_model::{Gfn, Mfn};

/// Where guest pages are mapped: the same in every run, so that addresses are.
const ARENA: usize = 0x1000_0000_0000;
/// Bytes of the arena.
const ARENA_BYTES: usize = 1 << 40;
/// Where all frames are always mapped.
const ALIAS: usize = 0x1800_0000_0000;
/// The first guest frame of RAM that the personality hands out: the first megabyte is the firmware's.
const FIRST_GFN: Gfn = 0x100;
/// Freed addresses wait this long before they are used again, in pages: a late access faults.
const RETIRED_PAGES: usize = 4096;

/// Figures of guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Pages of RAM.
    pub ram: usize,
    /// Of these, handed out.
    pub used: usize,
    /// Pages mapped.
    pub mapped: usize,
}

#[derive(Clone, Copy)]
struct Mapping {
    gfn: Gfn,
    protection: Protection,
}

/// All of it. One lock, never held while a guest runs.
pub struct Frames {
    fd: i32,
    total: usize,
    unused: Vec<Mfn>,
    p2m: BTreeMap<Gfn, Mfn>,
    ram_pages: u64,
    used: BTreeSet<Gfn>,
    by_address: BTreeMap<usize, Mapping>,
    by_gfn: BTreeMap<Gfn, Vec<usize>>,
    next: usize,
    free_ranges: BTreeMap<usize, Vec<usize>>,
    retired: std::collections::VecDeque<(usize, usize)>,
    retired_pages: usize,
    /// Pages with code of drivers.
    code: BTreeSet<usize>,
    /// Whether that code is kept from running, but for the pages of `open`.
    veiled: bool,
    open: Vec<usize>,
    /// Frames that the guest shares with the other side, and whose pages it may not touch now without a fault.
    guarded: BTreeSet<Mfn>,
    /// Of their pages, those that are open for one instruction.
    let_in: Vec<usize>,
    /// Pageable pages.
    pub paged: Paged,
    rng: Pcg64,
}

static FRAMES: Mutex<Option<Frames>> = Mutex::new(None);

/// The guest's memory, locked.
pub struct Memory(MutexGuard<'static, Option<Frames>>);

impl std::ops::Deref for Memory {
    type Target = Frames;
    fn deref(&self) -> &Frames {
        self.0.as_ref().expect("memory was set up")
    }
}

impl std::ops::DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut Frames {
        self.0.as_mut().expect("memory was set up")
    }
}

/// Locks the guest's memory.
pub fn memory() -> Memory {
    Memory(FRAMES.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn flags(protection: Protection) -> i32 {
    match protection {
        Protection::None => libc::PROT_NONE,
        Protection::Read => libc::PROT_READ,
        Protection::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        Protection::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        Protection::ReadWriteExecute => libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
    }
}

/// Sets memory up: `ram_pages` of guest RAM and room for `extra` more frames.
///
/// # Errors
/// What Linux refused.
pub fn set_up(ram_pages: u64, extra: usize, seed: u64) -> anyhow::Result<()> {
    let frames = ram_pages as usize + extra;
    // SAFETY: plain system calls; the results are checked. The addresses are chosen away from where Linux puts
    // things, and MAP_FIXED_NOREPLACE refuses if something is there.
    let fd = unsafe {
        let fd = libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC);
        anyhow::ensure!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        anyhow::ensure!(
            libc::ftruncate(fd, (frames * PAGE_SIZE) as i64) == 0,
            "ftruncate: {}",
            std::io::Error::last_os_error()
        );
        let fixed = libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE;
        let alias = libc::mmap(
            ALIAS as *mut libc::c_void,
            frames * PAGE_SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | fixed,
            fd,
            0,
        );
        anyhow::ensure!(alias as usize == ALIAS, "mapping guest memory: {}", std::io::Error::last_os_error());
        let arena = libc::mmap(
            ARENA as *mut libc::c_void,
            ARENA_BYTES,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed,
            -1,
            0,
        );
        anyhow::ensure!(arena as usize == ARENA, "reserving addresses: {}", std::io::Error::last_os_error());
        fd
    };
    let mut this = Frames {
        fd,
        total: frames,
        unused: (0..frames as Mfn).rev().collect(),
        p2m: BTreeMap::new(),
        ram_pages,
        used: BTreeSet::new(),
        by_address: BTreeMap::new(),
        by_gfn: BTreeMap::new(),
        next: ARENA + PAGE_SIZE,
        free_ranges: BTreeMap::new(),
        retired: std::collections::VecDeque::new(),
        retired_pages: 0,
        code: BTreeSet::new(),
        veiled: false,
        open: Vec::new(),
        guarded: BTreeSet::new(),
        let_in: Vec::new(),
        paged: Paged::default(),
        rng: Pcg64::seed_from_u64(seed),
    };
    for gfn in 0..ram_pages {
        let mfn = this.unused.pop().expect("as many frames as RAM");
        this.p2m.insert(gfn, mfn);
    }
    *FRAMES.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(this);
    Ok(())
}

/// The alias of a frame.
pub fn frame(mfn: Mfn) -> *mut u8 {
    (ALIAS + mfn as usize * PAGE_SIZE) as *mut u8
}

/// Writes to guest memory within one page below 1 MiB, which is never handed out.
///
/// # Panics
/// If there is no such page, or the bytes run past its end.
pub fn write_low(address: u64, bytes: &[u8]) {
    let (gfn, offset) = (address / PAGE_SIZE as u64, address as usize % PAGE_SIZE);
    assert!(gfn < FIRST_GFN && offset + bytes.len() <= PAGE_SIZE, "{address:#x} is not a page below 1 MiB");
    let mfn = memory().p2m[&gfn];
    // SAFETY: the alias of a frame of the guest, within its page.
    unsafe { frame(mfn).add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}

impl Frames {
    /// Maps a page where the guest sees it, as the physical map has it now.
    fn show(&self, address: usize, mapping: Mapping) {
        let frame = self.p2m.get(&mapping.gfn).copied();
        // SAFETY: the page lies in the arena, which belongs to this module.
        let done = unsafe {
            match frame {
                Some(mfn) => libc::mmap(
                    address as *mut libc::c_void,
                    PAGE_SIZE,
                    self.flags_at(address, mapping),
                    libc::MAP_SHARED | libc::MAP_FIXED,
                    self.fd,
                    (mfn as usize * PAGE_SIZE) as i64,
                ),
                None => libc::mmap(
                    address as *mut libc::c_void,
                    PAGE_SIZE,
                    libc::PROT_NONE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                    -1,
                    0,
                ),
            }
        };
        assert!(done as usize == address, "mapping a guest page: {}", std::io::Error::last_os_error());
    }

    fn hide(address: usize, pages: usize) {
        // SAFETY: the pages lie in the arena.
        let done = unsafe {
            libc::mmap(
                address as *mut libc::c_void,
                pages * PAGE_SIZE,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert!(done as usize == address, "unmapping guest pages: {}", std::io::Error::last_os_error());
    }

    /// Addresses for `pages` pages, with a page that is never mapped behind them.
    fn addresses(&mut self, pages: usize) -> usize {
        if let Some(address) = self.free_ranges.get_mut(&pages).and_then(Vec::pop) {
            return address;
        }
        let address = self.next;
        self.next += (pages + 1) * PAGE_SIZE;
        assert!(self.next < ARENA + ARENA_BYTES, "the arena is used up");
        address
    }

    fn retire(&mut self, address: usize, pages: usize) {
        self.retired.push_back((address, pages));
        self.retired_pages += pages;
        while self.retired_pages > RETIRED_PAGES
            && let Some((address, pages)) = self.retired.pop_front()
        {
            self.retired_pages -= pages;
            self.free_ranges.entry(pages).or_default().push(address);
        }
    }

    fn map(&mut self, gfns: &[Gfn], protection: Protection) -> NonNull<u8> {
        let base = self.addresses(gfns.len());
        for (index, &gfn) in gfns.iter().enumerate() {
            let address = base + index * PAGE_SIZE;
            let mapping = Mapping { gfn, protection };
            self.by_address.insert(address, mapping);
            self.by_gfn.entry(gfn).or_default().push(address);
            self.show(address, mapping);
        }
        NonNull::new(base as *mut u8).expect("the arena is not at zero")
    }

    /// Unmaps pages; returns what was there.
    fn unmap(&mut self, base: usize, pages: usize) -> Vec<Gfn> {
        let mut gfns = Vec::with_capacity(pages);
        for index in 0..pages {
            let address = base + index * PAGE_SIZE;
            if let Some(mapping) = self.by_address.remove(&address) {
                self.paged.forget(address);
                self.unguard(mapping.gfn);
                if let Some(places) = self.by_gfn.get_mut(&mapping.gfn) {
                    places.retain(|&place| place != address);
                    if places.is_empty() {
                        self.by_gfn.remove(&mapping.gfn);
                    }
                }
                gfns.push(mapping.gfn);
            }
        }
        Self::hide(base, pages);
        self.retire(base, pages);
        gfns
    }

    fn usable(&self, gfn: Gfn) -> bool {
        !self.used.contains(&gfn) && self.p2m.contains_key(&gfn)
    }

    /// Takes a run of free guest frames.
    fn take(&mut self, pages: u64, low: Gfn, high: Gfn, boundary: u64) -> Option<Gfn> {
        let low = low.max(FIRST_GFN);
        let high = high.min(self.ram_pages.checked_sub(1)?);
        let span = (high + 1).checked_sub(low)?;
        if pages == 0 || span < pages {
            return None;
        }
        let starts = span - pages + 1;
        let first = self.rng.random_range(0..starts);
        for step in 0..starts {
            let start = low + (first + step) % starts;
            let end = start + pages - 1;
            if (boundary == 0 || start / boundary == end / boundary) && (start..=end).all(|gfn| self.usable(gfn)) {
                self.used.extend(start..=end);
                return Some(start);
            }
        }
        None
    }

    fn clear(&self, gfn: Gfn) {
        if let Some(&mfn) = self.p2m.get(&gfn) {
            // SAFETY: a frame of the alias; nobody uses the page yet.
            unsafe { frame(mfn).write_bytes(0, PAGE_SIZE) };
        }
    }

    /// Zeroed pages, scattered over physical memory.
    pub fn alloc_pages(&mut self, pages: usize) -> Option<NonNull<u8>> {
        let mut gfns = Vec::with_capacity(pages);
        for _ in 0..pages {
            if let Some(gfn) = self.take(1, FIRST_GFN, Gfn::MAX, 0) {
                gfns.push(gfn);
            } else {
                for gfn in gfns {
                    self.used.remove(&gfn);
                }
                return None;
            }
        }
        for &gfn in &gfns {
            self.clear(gfn);
        }
        Some(self.map(&gfns, Protection::ReadWrite))
    }

    /// Zeroed pages in one piece of physical memory.
    pub fn alloc_contiguous(&mut self, pages: usize, low: u64, high: u64, boundary: u64) -> Option<NonNull<u8>> {
        let page = PAGE_SIZE as u64;
        let last = (high / page).checked_sub(u64::from(high % page != page - 1))?;
        let start = self.take(pages as u64, low.div_ceil(page), last, boundary / page)?;
        let gfns: Vec<Gfn> = (start..start + pages as u64).collect();
        for &gfn in &gfns {
            self.clear(gfn);
        }
        Some(self.map(&gfns, Protection::ReadWrite))
    }

    /// Unmaps and frees pages.
    pub fn free_pages(&mut self, base: usize, pages: usize) {
        for gfn in self.unmap(base, pages) {
            self.used.remove(&gfn);
        }
    }

    /// Changes what may be done with mapped pages.
    pub fn protect(&mut self, base: usize, pages: usize, protection: Protection) {
        for address in (0..pages).map(|index| base + index * PAGE_SIZE) {
            if let Some(mapping) = self.by_address.get_mut(&address) {
                mapping.protection = protection;
                self.apply_again(address);
            }
        }
    }

    /// What Linux shall allow at a page.
    fn flags_at(&self, address: usize, mapping: Mapping) -> i32 {
        let flags = flags(mapping.protection);
        let guarded = self.is_guarded(mapping) && !self.let_in.contains(&address);
        if guarded || self.paged.is_out(address) {
            libc::PROT_NONE
        } else if self.veiled && self.code.contains(&address) && !self.open.contains(&address) {
            flags & !libc::PROT_EXEC
        } else {
            flags
        }
    }

    fn apply(&self, address: usize, mapping: Mapping) {
        let flags = self.flags_at(address, mapping);
        // SAFETY: a mapped page of the arena.
        let done = unsafe { libc::mprotect(address as *mut libc::c_void, PAGE_SIZE, flags) } == 0;
        assert!(done, "protecting a guest page: {}", std::io::Error::last_os_error());
    }

    /// Has Linux allow at a page what it is to allow now.
    pub fn apply_again(&self, address: usize) {
        if let Some(mapping) = self.by_address.get(&address).filter(|mapping| self.p2m.contains_key(&mapping.gfn)) {
            self.apply(address, *mapping);
        }
    }

    fn is_guarded(&self, mapping: Mapping) -> bool {
        !self.guarded.is_empty() && self.p2m.get(&mapping.gfn).is_some_and(|mfn| self.guarded.contains(mfn))
    }

    /// Guards the pages of these frames, and of no other any more.
    pub fn guard(&mut self, frames: BTreeSet<Mfn>) {
        let before = std::mem::replace(&mut self.guarded, frames);
        let changed: BTreeSet<Mfn> = before.symmetric_difference(&self.guarded).copied().collect();
        if changed.is_empty() {
            return;
        }
        for (gfn, places) in &self.by_gfn {
            if self.p2m.get(gfn).is_some_and(|mfn| changed.contains(mfn)) {
                for &place in places {
                    self.apply_again(place);
                }
            }
        }
    }

    /// A page of this frame goes: what comes there next is not what was shared.
    fn unguard(&mut self, gfn: Gfn) {
        if let Some(mfn) = self.p2m.get(&gfn)
            && self.guarded.remove(mfn)
            && let Some(places) = self.by_gfn.get(&gfn)
        {
            for &place in places {
                self.apply_again(place);
            }
        }
    }

    /// The frame behind a guarded page and the offset in it. `None`: nothing guards that address.
    pub fn guarded_at(&self, address: usize) -> Option<(Mfn, usize)> {
        let mapping = self.by_address.get(&(address & !(PAGE_SIZE - 1)))?;
        let mfn = *self.p2m.get(&mapping.gfn)?;
        self.guarded.contains(&mfn).then_some((mfn, address & (PAGE_SIZE - 1)))
    }

    /// Opens a guarded page for one instruction.
    pub fn let_in(&mut self, address: usize) {
        let page = address & !(PAGE_SIZE - 1);
        self.let_in.push(page);
        self.apply_again(page);
    }

    /// That instruction is done.
    pub fn shut_out(&mut self) {
        for page in std::mem::take(&mut self.let_in) {
            self.apply_again(page);
        }
    }

    /// Names pages as code of drivers.
    pub fn add_code(&mut self, pages: impl Iterator<Item = usize>) {
        self.code.extend(pages);
    }

    /// Whether an address is in a page with code of drivers.
    pub fn is_code(&self, address: usize) -> bool {
        self.code.contains(&(address & !(PAGE_SIZE - 1)))
    }

    /// Pages of a range are code no more.
    pub fn forget_code(&mut self, start: usize, end: usize) {
        self.code.retain(|page| !(start..end).contains(page));
        self.open.retain(|page| !(start..end).contains(page));
    }

    /// Keeps the drivers' code from running, or lets it run.
    pub fn veil(&mut self, veiled: bool) {
        if self.veiled != veiled {
            let open = std::mem::take(&mut self.open);
            self.veiled = veiled;
            for page in self.code.iter().filter(|page| !open.contains(page) || veiled) {
                self.apply_again(*page);
            }
        }
    }

    /// Opens a page of veiled code. False: it is none.
    pub fn open(&mut self, address: usize) -> bool {
        let page = address & !(PAGE_SIZE - 1);
        if !self.veiled || !self.code.contains(&page) || self.open.contains(&page) {
            return false;
        }
        self.open.push(page);
        self.apply_again(page);
        true
    }

    /// Closes the pages that were opened.
    pub fn close(&mut self) {
        for page in std::mem::take(&mut self.open) {
            self.apply_again(page);
        }
    }

    /// Maps guest frames, whatever is there.
    pub fn map_frames(&mut self, gfns: &[Gfn]) -> NonNull<u8> {
        self.map(gfns, Protection::ReadWrite)
    }

    /// Takes away a mapping of [`Frames::map_frames`].
    pub fn unmap_frames(&mut self, base: usize, pages: usize) {
        self.unmap(base, pages);
    }

    /// One guest page that is mapped nowhere.
    pub fn alloc_page(&mut self, low: u64, high: u64) -> Option<Gfn> {
        let gfn = self.take(1, low.div_ceil(PAGE_SIZE as u64), high / PAGE_SIZE as u64, 0)?;
        self.clear(gfn);
        Some(gfn)
    }

    /// Gives it back.
    pub fn free_page(&mut self, gfn: Gfn) {
        self.used.remove(&gfn);
    }

    /// The guest page at an address, and the offset in it.
    pub fn gfn_at(&self, address: usize) -> Option<(Gfn, usize)> {
        let mapping = self.by_address.get(&(address & !(PAGE_SIZE - 1)))?;
        Some((mapping.gfn, address & (PAGE_SIZE - 1)))
    }

    /// The frame behind an address, and the offset in it.
    pub fn frame_at(&self, address: usize) -> Option<(Mfn, usize)> {
        let (gfn, offset) = self.gfn_at(address)?;
        Some((self.p2m.get(&gfn).copied()?, offset))
    }

    /// What a mapping at an address allows, and whether a frame is behind it.
    pub fn state_at(&self, address: usize) -> Option<(Protection, bool)> {
        let mapping = self.by_address.get(&(address & !(PAGE_SIZE - 1)))?;
        Some((mapping.protection, self.p2m.contains_key(&mapping.gfn)))
    }

    /// RAM, ascending.
    pub fn ranges(&self) -> Vec<MemoryRange> {
        let page = PAGE_SIZE as u64;
        vec![
            MemoryRange { base: page, len: 0x9e * page },
            MemoryRange { base: FIRST_GFN * page, len: (self.ram_pages - FIRST_GFN) * page },
        ]
    }

    /// Figures.
    pub fn stats(&self) -> MemoryStats {
        MemoryStats { ram: self.ram_pages as usize, used: self.used.len(), mapped: self.by_address.len() }
    }
}

/// The model's door to the machine.
pub struct ProcessMachine;

// SAFETY: the alias covers every frame of the memfd and stays mapped; no reference to guest bytes is made here.
unsafe impl xen_model::Machine for ProcessMachine {
    fn frame(&self, mfn: Mfn) -> *mut u8 {
        assert!((mfn as usize) < memory().total, "a frame that exists");
        frame(mfn)
    }

    fn alloc_frame(&mut self) -> Option<Mfn> {
        let mfn = memory().unused.pop()?;
        // SAFETY: a frame of the alias that nobody has.
        unsafe { frame(mfn).write_bytes(0, PAGE_SIZE) };
        Some(mfn)
    }

    fn free_frame(&mut self, mfn: Mfn) {
        let mut memory = memory();
        memory.guarded.remove(&mfn);
        memory.unused.push(mfn);
    }

    fn set_p2m(&mut self, gfn: Gfn, mfn: Option<Mfn>) {
        let mut memory = memory();
        memory.unguard(gfn);
        match mfn {
            Some(mfn) => memory.p2m.insert(gfn, mfn),
            None => memory.p2m.remove(&gfn),
        };
        let places = memory.by_gfn.get(&gfn).cloned().unwrap_or_default();
        for address in places {
            let mapping = memory.by_address[&address];
            memory.show(address, mapping);
        }
    }

    fn mfn_of(&self, gfn: Gfn) -> Option<Mfn> {
        memory().p2m.get(&gfn).copied()
    }

    fn va_to_frame(&self, va: u64) -> Option<(Mfn, usize)> {
        memory().frame_at(va as usize)
    }

    fn raise_vector(&mut self, vcpu: u32, vector: u8) {
        crate::processor::make_pending(vcpu, vector);
    }

    fn set_intx(&mut self, gsi: u32, level: bool) {
        crate::processor::set_line(gsi, level);
    }
}
