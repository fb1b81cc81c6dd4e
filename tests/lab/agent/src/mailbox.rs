//! Memory that agent and guest share: pages of the guest at a fixed place, mapped here through Xen's privcmd.
//!
//! | offset | bytes | written by | what |
//! |---|---|---|---|
//! | 0 | 8 | guest | [`MAGIC`], once the rest is valid |
//! | 8 | 4 | guest | number of the request |
//! | 12 | 4 | agent | number of the request that was answered last |
//! | 16 | 4 | agent | 0: done; 1: refused, the text says why |
//! | 20 | 4 | both | bytes of text |
//! | 24 | 4 | both | bytes of data |
//! | 64 | 4032 | both | text: a request's verb and arguments, an answer |
//! | 4096 | 65536 | both | data |
//!
//! The guest's side is `tests/lab/guest/src/mailbox.rs`.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use anyhow::{Context, bail};

/// What stands at the start: `XENPVLAB`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"XENPVLAB");
/// First guest page.
const FIRST_PAGE: u64 = 0x20;
/// Pages.
const PAGES: usize = 17;
const PAGE: usize = 4096;
/// Where the text begins.
const TEXT: usize = 64;
/// The most bytes of data.
pub const MOST_DATA: usize = (PAGES - 1) * PAGE;

/// `struct privcmd_mmapbatch_v2` of Linux's xen/privcmd.h.
#[repr(C)]
struct MapBatch {
    count: u32,
    domain: u16,
    address: u64,
    pages: *const u64,
    errors: *mut i32,
}

/// `IOCTL_PRIVCMD_MMAPBATCH_V2`: _IOC(_IOC_NONE, 'P', 4, sizeof(struct privcmd_mmapbatch_v2)).
const MAP_BATCH: libc::c_ulong = (size_of::<MapBatch>() as libc::c_ulong) << 16 | (b'P' as libc::c_ulong) << 8 | 4;

/// The mapping of one domain's mailbox.
pub struct Mailbox {
    base: *mut u8,
    _device: File,
}

/// What the guest asks for.
pub struct Request {
    number: u32,
    /// Verb and arguments.
    pub text: String,
    /// Bulk data.
    pub data: Vec<u8>,
}

impl Mailbox {
    /// Maps the mailbox of a domain. The guest may not have begun yet.
    pub fn map(domain: u16) -> anyhow::Result<Self> {
        let device =
            OpenOptions::new().read(true).write(true).open("/dev/xen/privcmd").context("cannot open privcmd")?;
        let bytes = PAGES * PAGE;
        // SAFETY: a fresh mapping of the device, which the ioctl then fills.
        let base = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, device.as_raw_fd(), 0)
        };
        if base == libc::MAP_FAILED {
            bail!("cannot map privcmd: {}", std::io::Error::last_os_error());
        }
        let mailbox = Self { base: base.cast(), _device: device };
        let pages: Vec<u64> = (FIRST_PAGE..FIRST_PAGE + PAGES as u64).collect();
        let mut errors = [0; PAGES];
        let batch = MapBatch {
            count: PAGES as u32,
            domain,
            address: base as u64,
            pages: pages.as_ptr(),
            errors: errors.as_mut_ptr(),
        };
        // SAFETY: arrays of `count` entries, alive for the call.
        let result = unsafe { libc::ioctl(mailbox._device.as_raw_fd(), MAP_BATCH as _, &raw const batch) };
        if result != 0 || errors.iter().any(|&error| error != 0) {
            bail!("cannot map the guest's pages: {}, {errors:?}", std::io::Error::last_os_error());
        }
        Ok(mailbox)
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: inside of the mapping, aligned, and accessed atomically alone.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast()) }
    }

    fn bytes(&self, offset: usize, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        // SAFETY: the callers bound offset and count by the mapping. The guest waits and writes nothing meanwhile; if
        // it does, the bytes are wrong, and nothing else.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.base.add(offset), count) };
        bytes
    }

    /// The request that waits, if there is one.
    pub fn poll(&self) -> Option<Request> {
        // SAFETY: inside of the mapping and aligned.
        let magic = unsafe { AtomicU64::from_ptr(self.base.cast()) }.load(Ordering::Acquire);
        let number = self.word(8).load(Ordering::Acquire);
        if magic != MAGIC || number == self.word(12).load(Ordering::Relaxed) {
            return None;
        }
        let text = self.bytes(TEXT, (self.word(20).load(Ordering::Relaxed) as usize).min(PAGE - TEXT));
        let data = self.bytes(PAGE, (self.word(24).load(Ordering::Relaxed) as usize).min(MOST_DATA));
        Some(Request { number, text: String::from_utf8_lossy(&text).into_owned(), data })
    }

    /// Answers a request.
    pub fn answer(&self, request: &Request, result: Result<(String, Vec<u8>), String>) {
        let (status, (mut text, data)) = match result {
            Ok(answer) => (0, answer),
            Err(why) => (1, (why, Vec::new())),
        };
        text.truncate(PAGE - TEXT);
        let count = data.len().min(MOST_DATA);
        // SAFETY: inside of the mapping; the guest waits for the number below.
        unsafe {
            self.base.add(TEXT).copy_from_nonoverlapping(text.as_ptr(), text.len());
            self.base.add(PAGE).copy_from_nonoverlapping(data.as_ptr(), count);
        }
        self.word(16).store(status, Ordering::Relaxed);
        self.word(20).store(text.len() as u32, Ordering::Relaxed);
        self.word(24).store(count as u32, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.word(12).store(request.number, Ordering::Release);
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, which nothing refers to any more.
        unsafe { libc::munmap(self.base.cast(), PAGES * PAGE) };
    }
}
