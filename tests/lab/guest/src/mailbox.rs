//! The guest's side of what guest and dom0's agent share: see `tests/lab/agent/src/mailbox.rs` for the layout.

use crate::memory;
use alloc::string::String;
use alloc::vec::Vec;
use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicU32, Ordering, fence};

const MAGIC: u64 = u64::from_le_bytes(*b"XENPVLAB");
/// Below the first MiB, which `memory` gives to nobody.
const ADDRESS: u64 = 0x20000;
const TEXT: usize = 64;
const DATA: usize = 4096;
/// The most bytes of data of a request or an answer.
pub const MOST_DATA: usize = 16 * 4096;
/// 100 ns units between two looks.
const POLL: i64 = -10_000;

static NUMBER: AtomicU32 = AtomicU32::new(0);

fn at(offset: usize) -> *mut u8 {
    memory::physical(ADDRESS).wrapping_add(offset)
}

fn set(offset: usize, value: u32) {
    // SAFETY: a word of the mailbox.
    unsafe { write_volatile(at(offset).cast(), value) }
}

fn get(offset: usize) -> u32 {
    // SAFETY: a word of the mailbox.
    unsafe { read_volatile(at(offset).cast()) }
}

fn bytes(offset: usize, count: usize) -> Vec<u8> {
    // SAFETY: inside of the mailbox; the agent writes nothing after its answer.
    unsafe { core::slice::from_raw_parts(at(offset), count) }.to_vec()
}

/// Asks the agent and sleeps until it answers. One thread at a time. IRQL = PASSIVE_LEVEL.
///
/// # Errors
/// The agent's reason for refusing.
pub fn ask(text: &str, data: &[u8]) -> Result<(String, Vec<u8>), String> {
    assert!(text.len() <= DATA - TEXT && data.len() <= MOST_DATA, "the request does not fit the mailbox");
    // SAFETY: inside of the mailbox.
    unsafe {
        at(TEXT).copy_from_nonoverlapping(text.as_ptr(), text.len());
        at(DATA).copy_from_nonoverlapping(data.as_ptr(), data.len());
    }
    set(20, text.len() as u32);
    set(24, data.len() as u32);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    if number == 1 {
        set(12, 0);
    }
    fence(Ordering::SeqCst);
    set(8, number);
    // SAFETY: the mailbox's first eight bytes.
    unsafe { write_volatile(at(0).cast(), MAGIC) };
    while get(12) != number {
        nt::ke::wait::sleep(POLL);
    }
    fence(Ordering::SeqCst);
    let text = bytes(TEXT, (get(20) as usize).min(DATA - TEXT));
    let text = String::from_utf8_lossy(&text).into_owned();
    if get(16) == 0 { Ok((text, bytes(DATA, (get(24) as usize).min(MOST_DATA)))) } else { Err(text) }
}

/// Tells how much of a measured load is done. Any IRQL.
pub fn tell(done: u64) {
    // SAFETY: eight aligned bytes of the mailbox.
    unsafe { write_volatile(at(32).cast(), done) }
}

/// Whether the agent ended the measured load with this number. Any IRQL.
pub fn is_over(run: u32) -> bool {
    get(40) == run
}
