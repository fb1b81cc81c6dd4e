//! The disk load: a fixed number of requests in flight, direct, by io_uring with a registered file and registered
//! buffers. What was completed together is submitted again together, so that the kernel may send one notification for it.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use anyhow::{Context, bail};
use io_uring::{IoUring, opcode, squeue, types};

use crate::mailbox::Mailbox;

/// What is asked for.
pub struct Shape {
    /// Disk: 0 is xvde.
    pub index: u32,
    /// Writes, or reads.
    pub write: bool,
    /// At random places, or one behind the other.
    pub random: bool,
    /// Bytes of a request.
    pub bytes: usize,
    /// Requests in flight.
    pub depth: usize,
}

/// Memory of a request, at a page's start as direct I/O wants it.
#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([u8; 4096]);

/// Where the next request goes.
struct Places {
    random: bool,
    /// Requests that the disk has room for.
    count: u64,
    state: u64,
}

impl Places {
    fn next(&mut self) -> u64 {
        if self.random {
            // Marsaglia's xorshift64.
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
        } else {
            self.state += 1;
        }
        self.state % self.count
    }
}

/// The disk's file, once it is there, and its bytes.
fn open(index: u32) -> anyhow::Result<(File, u64)> {
    let name = format!("xvd{}", char::from(b'a' + ((index + 4) % 16) as u8));
    let mut tries = 0;
    let file = loop {
        match OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(format!("/dev/{name}")) {
            Ok(file) => break file,
            Err(error) if tries == 300 => return Err(error).with_context(|| format!("no disk {name}")),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
        tries += 1;
    };
    fs::write(format!("/sys/block/{name}/queue/scheduler"), "none").context("the scheduler cannot be chosen")?;
    let blocks = fs::read_to_string(format!("/sys/block/{name}/size"))?;
    Ok((file, blocks.trim().parse::<u64>()? * 512))
}

/// Interrupts of all disks so far.
fn interrupts() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/interrupts")?;
    // `NUMBER: count of each processor, then words`.
    let of =
        |line: &str| -> u64 { line.split_ascii_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum() };
    Ok(text.lines().filter(|line| line.ends_with("blkif")).map(of).sum())
}

/// Runs it until the agent says that this run is over: `done RUN REQUESTS ERRORS INTERRUPTS`.
pub fn run(mailbox: &Mailbox, run: u32, shape: &Shape) -> anyhow::Result<String> {
    let (file, bytes) = open(shape.index)?;
    let seed = if shape.random { 0x9e37_79b9_7f4a_7c15 ^ u64::from(run) } else { 0 };
    let mut places = Places { random: shape.random, count: bytes / shape.bytes as u64, state: seed };
    if places.count == 0 || shape.depth == 0 {
        bail!("the disk has {bytes} bytes");
    }
    let pages = shape.bytes.div_ceil(4096);
    let mut memory = vec![Page([0x5a; 4096]); pages * shape.depth];
    let address = |slot: usize, memory: &mut [Page]| memory[slot * pages].0.as_mut_ptr();
    let vectors: Vec<libc::iovec> = (0..shape.depth)
        .map(|slot| libc::iovec { iov_base: address(slot, &mut memory).cast(), iov_len: shape.bytes })
        .collect();
    let mut ring: IoUring = IoUring::builder().setup_single_issuer().build(shape.depth.next_power_of_two() as u32)?;
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    // SAFETY: the buffers live as long as the ring, which is dropped first: it was made later.
    unsafe { ring.submitter().register_buffers(&vectors)? };
    let mut entry = |slot: usize| -> squeue::Entry {
        let (at, length) = (places.next() * shape.bytes as u64, shape.bytes as u32);
        let buffer = vectors[slot].iov_base.cast::<u8>();
        let entry = if shape.write {
            opcode::WriteFixed::new(types::Fixed(0), buffer, length, slot as u16).offset(at).build()
        } else {
            opcode::ReadFixed::new(types::Fixed(0), buffer, length, slot as u16).offset(at).build()
        };
        entry.user_data(slot as u64)
    };
    let before = interrupts()?;
    for slot in 0..shape.depth {
        // SAFETY: file and buffer are registered and live on; a slot has one request at a time.
        unsafe { ring.submission().push(&entry(slot))? };
    }
    let (mut done, mut errors, mut left) = (0_u64, 0_u64, shape.depth);
    mailbox.tell(0);
    let mut ended = Vec::with_capacity(shape.depth);
    while left > 0 {
        ring.submit_and_wait(1)?;
        ended.extend(ring.completion().map(|entry| (entry.user_data() as usize, entry.result())));
        let over = mailbox.is_over(run);
        for (slot, result) in ended.drain(..) {
            if u32::try_from(result) == Ok(shape.bytes as u32) {
                done += 1;
            } else {
                errors += 1;
            }
            if over || errors > 0 {
                left -= 1;
            } else {
                // SAFETY: as above.
                unsafe { ring.submission().push(&entry(slot))? };
            }
        }
        mailbox.tell(done);
    }
    Ok(format!("done {run} {done} {errors} {}", interrupts()? - before))
}
