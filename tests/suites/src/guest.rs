//! What a case may do inside: the disks that Windows sees, over the class driver of the personality.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use nt::disk::{self, Operation, Outcome, Raw, Sense, Ticket};

use crate::case::{Ctx, Failure};
use crate::fail;
use crate::oracle::UNIT;

pub use nt::disk::Buffer as NtBuffer;

/// Milliseconds that Windows gets to find a disk.
const FIND_MS: u64 = 30_000;

/// Memory of the guest for a transfer.
pub struct Buffer(NtBuffer);

impl Buffer {
    /// `len` zero bytes that start `misalign` bytes behind the start of a page.
    ///
    /// # Panics
    /// Where the guest has no memory left: a case that needs so much is wrong.
    pub fn new(len: usize, misalign: usize) -> Self {
        Self(NtBuffer::new(len, misalign).expect("the guest has memory for a buffer"))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// READ.
    Read,
    /// WRITE.
    Write,
    /// SYNCHRONIZE CACHE.
    Flush,
    /// UNMAP.
    Unmap,
}

/// A request that ended.
pub struct Completion {
    outcome: Outcome,
    /// The buffer it was sent with; empty where it had none.
    pub buffer: Buffer,
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outcome.fmt(f)
    }
}

impl Completion {
    /// Whether it succeeded.
    pub fn ok(&self) -> bool {
        self.outcome.good
    }

    /// Itself, or a failure that says what failed and how.
    ///
    /// # Errors
    /// The request failed.
    pub fn expect_ok(self, what: &str) -> Result<Self, Failure> {
        if self.ok() {
            return Ok(self);
        }
        let Outcome { srb_status, scsi_status, sense, status, .. } = self.outcome;
        fail!("{what}: srb status {srb_status:#x}, scsi status {scsi_status:#x}, sense {sense:?}, NTSTATUS {status:#x}")
    }
}

/// A request in flight.
pub struct Io(Ticket);

impl Io {
    /// Whether it ended.
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }

    /// Waits for its end.
    pub fn wait(self) -> Completion {
        let (outcome, buffer) = self.0.wait();
        Completion { outcome, buffer: buffer.map_or_else(|| Buffer::new(0, 0), Buffer) }
    }
}

/// The data of a command that is sent as it stands.
#[derive(Clone, Debug)]
pub enum Cdb {
    /// None.
    None,
    /// Room for so many bytes from the disk.
    In(usize),
    /// Bytes for the disk.
    Out(Vec<u8>),
}

/// What came of a command that was sent as it stands.
pub struct CdbResult {
    outcome: Outcome,
    /// The data that came.
    pub data: Vec<u8>,
    /// Sense data, if there was any.
    pub sense: Option<Sense>,
}

impl CdbResult {
    /// Whether it succeeded.
    pub fn ok(&self) -> bool {
        self.outcome.good
    }

    /// Whether the driver answered it at all, rather than the port driver's time-out.
    pub fn completed(&self) -> bool {
        // SRB_STATUS_PENDING, SRB_STATUS_TIMEOUT, SRB_STATUS_COMMAND_TIMEOUT.
        !matches!(self.outcome.srb_status & 0x3f, 0x00 | 0x09 | 0x0b)
    }
}

impl fmt::Display for CdbResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "srb status {:#x}, scsi status {:#x}, sense {:x?}, {} bytes",
            self.outcome.srb_status, self.outcome.scsi_status, self.sense, self.outcome.moved
        )
    }
}

/// A disk as Windows sees it. Offsets and counts are in 512-byte units.
pub struct Disk {
    class: Arc<disk::Disk>,
    index: u32,
    units: usize,
    sector_size: usize,
}

/// The virtual device number of a suite's disk, which xenvbd puts at the end of the serial number (xvda = 51712). Disk 0
/// is xvde, the first name without an emulated twin; xvda to xvdd are disks 12 to 15.
pub fn vdev(index: u32) -> u32 {
    51712 + 16 * ((index + 4) % 16)
}

fn look(index: u32) -> Option<Arc<disk::Disk>> {
    let tail = format!("-{}", vdev(index));
    disk::disks().into_iter().find(|disk| disk.info().serial.ends_with(tail.as_str()))
}

impl Disk {
    /// Waits until Windows has found the disk.
    ///
    /// # Errors
    /// It did not within half a minute.
    pub fn find(ctx: &Ctx<'_>, index: u32) -> Result<Self, Failure> {
        Self::find_within(ctx, index, FIND_MS)
    }

    /// As [`Disk::find`], within `ms`.
    ///
    /// # Errors
    /// Windows did not find it.
    pub fn find_within(ctx: &Ctx<'_>, index: u32, ms: u64) -> Result<Self, Failure> {
        let mut waited = 0;
        loop {
            if let Some(disk) = look(index) {
                let info = disk.info();
                let units = (info.bytes() / UNIT as u64) as usize;
                return Ok(Self { class: disk, index, units, sector_size: info.block as usize });
            }
            if waited >= ms {
                let seen: Vec<_> = disk::disks().iter().map(|disk| disk.info().serial.clone()).collect();
                fail!("{ms} ms have passed and Windows has no disk {}; it has {seen:?}", vdev(index));
            }
            ctx.world.sleep_ms(20);
            waited += 20;
        }
    }

    /// Whether Windows has the disk now.
    pub fn present(index: u32) -> bool {
        look(index).is_some()
    }

    /// See [`vdev`].
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its size when it was found.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Its size as Windows knows it now.
    pub fn current_units(&self) -> usize {
        (self.class.info().bytes() / UNIT as u64) as usize
    }

    /// Bytes of a logical block.
    pub fn sector_size(&self) -> usize {
        self.sector_size
    }

    /// Reads and waits.
    pub fn read(&self, first: usize, buffer: Buffer) -> Completion {
        self.submit_read(first, buffer).wait()
    }

    /// Writes and waits.
    pub fn write(&self, first: usize, buffer: Buffer) -> Completion {
        self.submit_write(first, buffer).wait()
    }

    /// Flushes and waits.
    pub fn flush(&self) -> Completion {
        self.submit_flush().wait()
    }

    /// Starts a read.
    pub fn submit_read(&self, first: usize, buffer: Buffer) -> Io {
        self.submit(Operation::Read { offset: (first * UNIT) as u64 }, Some(buffer))
    }

    /// Starts a write.
    pub fn submit_write(&self, first: usize, buffer: Buffer) -> Io {
        self.submit(Operation::Write { offset: (first * UNIT) as u64, fua: false }, Some(buffer))
    }

    /// Starts a SYNCHRONIZE CACHE (10).
    pub fn submit_flush(&self) -> Io {
        let mut cdb = [0; 16];
        cdb[0] = 0x35;
        self.submit(Operation::Command { cdb, length: 10, to_device: false }, None)
    }

    /// Starts an UNMAP of one range.
    pub fn submit_unmap(&self, first: usize, count: usize) -> Io {
        let per_block = self.sector_size / UNIT;
        let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
        list.extend_from_slice(&((first / per_block) as u64).to_be_bytes());
        list.extend_from_slice(&((count / per_block) as u32).to_be_bytes());
        list.extend_from_slice(&[0; 4]);
        let mut cdb = [0; 16];
        cdb[0] = 0x42;
        cdb[8] = list.len() as u8;
        let mut buffer = Buffer::new(list.len(), 0);
        buffer.bytes_mut().copy_from_slice(&list);
        self.submit(Operation::Command { cdb, length: 10, to_device: true }, Some(buffer))
    }

    /// Sends a command as it stands, once, and waits.
    #[allow(clippy::needless_pass_by_value)] // callers build it in place
    pub fn cdb(&self, cdb: &[u8], data: Cdb) -> CdbResult {
        let (outcome, data) = match &data {
            Cdb::None => self.class.raw(cdb, Raw::None),
            Cdb::In(len) => self.class.raw(cdb, Raw::Read(*len)),
            Cdb::Out(bytes) => self.class.raw(cdb, Raw::Write(bytes)),
        };
        CdbResult { sense: outcome.sense, outcome, data }
    }

    fn submit(&self, operation: Operation, buffer: Option<Buffer>) -> Io {
        let buffer = buffer.map(|buffer| buffer.0);
        Io(self.class.start(operation, buffer).expect("the guest has memory for a request"))
    }
}
