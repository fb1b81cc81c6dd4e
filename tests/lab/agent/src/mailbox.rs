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
//! | 32 | 8 | guest | requests of a measured load that are done |
//! | 40 | 4 | agent | number of the measured load that is to end |
//! | 64 | 4032 | both | text: a request's verb and arguments, an answer |
//! | 4096 | 65536 | both | data |
//!
//! The guest's side is `tests/lab/guest/src/mailbox.rs`.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::privcmd::Mapping;

/// What stands at the start: `XENPVLAB`.
const MAGIC: u64 = u64::from_le_bytes(*b"XENPVLAB");
/// First guest page.
const FIRST_PAGE: u64 = 0x20;
/// Pages.
const PAGES: usize = 17;
const PAGE: usize = 4096;
/// Where the text begins.
const TEXT: usize = 64;
/// The most bytes of data.
pub const MOST_DATA: usize = (PAGES - 1) * PAGE;

/// The mapping of one domain's mailbox.
pub struct Mailbox(Mapping);

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
        Mapping::new(domain, FIRST_PAGE, PAGES).map(Self)
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: inside of the mapping, aligned, and accessed atomically alone.
        unsafe { AtomicU32::from_ptr(self.0.base().add(offset).cast()) }
    }

    fn bytes(&self, offset: usize, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        // SAFETY: the callers bound offset and count by the mapping. The guest waits and writes nothing meanwhile; if
        // it does, the bytes are wrong, and nothing else.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(self.0.base().add(offset), count) };
        bytes
    }

    /// The request that waits, if there is one.
    pub fn poll(&self) -> Option<Request> {
        // SAFETY: inside of the mapping and aligned.
        let magic = unsafe { AtomicU64::from_ptr(self.0.base().cast()) }.load(Ordering::Acquire);
        let number = self.word(8).load(Ordering::Acquire);
        if magic != MAGIC || number == self.word(12).load(Ordering::Relaxed) {
            return None;
        }
        let text = self.bytes(TEXT, (self.word(20).load(Ordering::Relaxed) as usize).min(PAGE - TEXT));
        let data = self.bytes(PAGE, (self.word(24).load(Ordering::Relaxed) as usize).min(MOST_DATA));
        Some(Request { number, text: String::from_utf8_lossy(&text).into_owned(), data })
    }

    fn load_word(&self) -> &AtomicU64 {
        // SAFETY: inside of the mapping, aligned, and accessed atomically alone.
        unsafe { AtomicU64::from_ptr(self.0.base().add(32).cast()) }
    }

    /// How much of a measured load is done.
    pub fn done(&self) -> u64 {
        self.load_word().load(Ordering::Relaxed)
    }

    /// Nothing is done of the load that the guest is told next.
    pub fn begin_load(&self) {
        self.load_word().store(0, Ordering::Relaxed);
    }

    /// Ends the measured load with this number.
    pub fn end_load(&self, number: u32) {
        self.word(40).store(number, Ordering::Relaxed);
    }

    /// Answers a request.
    pub fn answer(&self, request: &Request, result: Result<(String, Vec<u8>), String>) {
        let (status, (text, data)) = match result {
            Ok(answer) => (0, answer),
            Err(why) => (1, (why, Vec::new())),
        };
        let text_bytes = text.len().min(PAGE - TEXT);
        let count = data.len().min(MOST_DATA);
        // SAFETY: inside of the mapping; the guest waits for the number below.
        unsafe {
            self.0.base().add(TEXT).copy_from_nonoverlapping(text.as_ptr(), text_bytes);
            self.0.base().add(PAGE).copy_from_nonoverlapping(data.as_ptr(), count);
        }
        self.word(16).store(status, Ordering::Relaxed);
        self.word(20).store(text_bytes as u32, Ordering::Relaxed);
        self.word(24).store(count as u32, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.word(12).store(request.number, Ordering::Release);
    }
}
