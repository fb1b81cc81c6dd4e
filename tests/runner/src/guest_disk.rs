//! A disk of the guest as a device that reads, writes and seeks: every access goes through the drivers under test.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use nt::disk::{Disk, Outcome};

/// Largest single transfer.
const MOST: usize = 1 << 20;

/// See the module. Accesses that do not begin or end at a sector read and rewrite the sectors that they touch.
pub struct GuestDisk {
    disk: Arc<Disk>,
    at: u64,
    /// Requests sent so far.
    pub requests: u64,
}

fn check(outcome: &Outcome) -> io::Result<()> {
    if outcome.good {
        return Ok(());
    }
    let Outcome { srb_status, scsi_status, sense, .. } = outcome;
    Err(io::Error::other(format!("srb status {srb_status:#x}, scsi status {scsi_status:#x}, sense {sense:?}")))
}

impl GuestDisk {
    /// The disk, at its beginning.
    pub fn new(disk: Arc<Disk>) -> Self {
        Self { disk, at: 0, requests: 0 }
    }

    fn len(&self) -> u64 {
        self.disk.info().bytes()
    }

    /// The whole sectors around `len` bytes from the cursor on, within one transfer: first byte and bytes.
    fn span(&self, len: usize) -> (u64, usize) {
        let sector = u64::from(self.disk.info().block);
        let start = self.at / sector * sector;
        let end = (self.at + len as u64).next_multiple_of(sector).min(self.len());
        (start, (end.saturating_sub(start)) as usize)
    }

    fn room(&self, wanted: usize) -> usize {
        let left = self.len().saturating_sub(self.at);
        usize::try_from(left).unwrap_or(usize::MAX).min(wanted).min(MOST)
    }
}

impl Read for GuestDisk {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.room(buf.len());
        if count == 0 {
            return Ok(0);
        }
        let (start, len) = self.span(count);
        let mut bytes = vec![0; len];
        self.requests += 1;
        check(&self.disk.read(start, &mut bytes))?;
        let from = (self.at - start) as usize;
        buf[..count].copy_from_slice(&bytes[from..from + count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for GuestDisk {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.room(buf.len());
        if count == 0 {
            return if buf.is_empty() { Ok(0) } else { Err(io::ErrorKind::WriteZero.into()) };
        }
        let (start, len) = self.span(count);
        let mut bytes = vec![0; len];
        let from = (self.at - start) as usize;
        if from != 0 || len != count {
            self.requests += 1;
            check(&self.disk.read(start, &mut bytes))?;
        }
        bytes[from..from + count].copy_from_slice(&buf[..count]);
        self.requests += 1;
        check(&self.disk.write(start, &bytes))?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.requests += 1;
        check(&self.disk.flush())
    }
}

impl Seek for GuestDisk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len().checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
