//! The guest's side of what guest and agent share: see `tests/lab/agent/src/mailbox.rs` for the layout. The kernel's
//! command line keeps the pages away from everybody else (`memmap=`).

use std::fs::OpenOptions;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use anyhow::{Context, bail};

const MAGIC: u64 = u64::from_le_bytes(*b"XENPVLAB");
const ADDRESS: libc::off_t = 0x20000;
const TEXT: usize = 64;
const PAGE: usize = 4096;
const POLL: Duration = Duration::from_millis(1);

/// See the module.
pub struct Mailbox {
    base: *mut u8,
    number: AtomicU32,
}

impl Mailbox {
    /// Maps it.
    pub fn map() -> anyhow::Result<Self> {
        let memory = OpenOptions::new().read(true).write(true).open("/dev/mem").context("cannot open /dev/mem")?;
        // SAFETY: a fresh mapping.
        let base = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), PAGE, access, libc::MAP_SHARED, memory.as_raw_fd(), ADDRESS)
        };
        if base == libc::MAP_FAILED {
            bail!("cannot map the mailbox: {}", std::io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), number: AtomicU32::new(0) })
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: inside of the mapping, which stays, aligned, and accessed atomically alone.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast()) }
    }

    fn long(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.base.add(offset).cast()) }
    }

    /// Asks the agent and waits until it answers.
    pub fn ask(&self, text: &str) -> String {
        let count = text.len().min(PAGE - TEXT);
        // SAFETY: inside of the mapping; the agent reads it after the number below.
        unsafe { self.base.add(TEXT).copy_from_nonoverlapping(text.as_ptr(), count) };
        self.word(20).store(count as u32, Ordering::Relaxed);
        self.word(24).store(0, Ordering::Relaxed);
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        if number == 1 {
            self.word(12).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.word(8).store(number, Ordering::Release);
        self.long(0).store(MAGIC, Ordering::Release);
        while self.word(12).load(Ordering::Acquire) != number {
            std::thread::sleep(POLL);
        }
        let mut bytes = vec![0; (self.word(20).load(Ordering::Relaxed) as usize).min(PAGE - TEXT)];
        // SAFETY: inside of the mapping; the agent writes nothing after its answer.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.base.add(TEXT), bytes.len()) };
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Tells how much of the load is done.
    pub fn tell(&self, done: u64) {
        self.long(32).store(done, Ordering::Relaxed);
    }

    /// Whether a run is to end.
    pub fn is_over(&self, run: u32) -> bool {
        self.word(40).load(Ordering::Relaxed) == run
    }
}
