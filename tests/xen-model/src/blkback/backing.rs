//! What is behind a disk: a file, or memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of the unit in which sectors are counted, whatever the disk's sector size.
pub const SECTOR: usize = 512;

/// The storage behind a disk. Offsets and lengths are whole sectors of 512 bytes and inside the disk.
pub trait Backing: Send {
    /// Its size in sectors of 512 bytes.
    fn sectors(&self) -> u64;
    /// Reads.
    ///
    /// # Errors
    /// What the storage says; the request fails with `BLKIF_RSP_ERROR`.
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes.
    ///
    /// # Errors
    /// As for `read`.
    fn write(&mut self, sector: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written durable.
    ///
    /// # Errors
    /// As for `read`.
    fn flush(&mut self) -> io::Result<()>;
    /// Forgets a range; it reads as zeroes afterwards.
    ///
    /// # Errors
    /// As for `read`.
    fn discard(&mut self, sector: u64, count: u64) -> io::Result<()>;
    /// Makes it larger or smaller.
    ///
    /// # Errors
    /// As for `read`.
    fn resize(&mut self, sectors: u64) -> io::Result<()>;
}

/// A disk in memory. Clones share the bytes, so that a suite can look at them from outside.
#[derive(Clone, Debug)]
pub struct MemoryBacking(Arc<Mutex<Vec<u8>>>);

impl MemoryBacking {
    /// A zeroed disk.
    pub fn new(sectors: u64) -> Self {
        Self::from_bytes(vec![0; sectors as usize * SECTOR])
    }

    /// A disk with these bytes; a last incomplete sector is filled with zeroes.
    pub fn from_bytes(mut bytes: Vec<u8>) -> Self {
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
        Self(Arc::new(Mutex::new(bytes)))
    }

    /// Looks at, or changes, the bytes.
    pub fn with<T>(&self, f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Backing for MemoryBacking {
    fn sectors(&self) -> u64 {
        self.with(|b| (b.len() / SECTOR) as u64)
    }

    fn read(&mut self, sector: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = sector as usize * SECTOR;
        self.with(|b| b.get(at..at + buf.len()).map(|b| buf.copy_from_slice(b)))
            .ok_or(io::ErrorKind::InvalidInput.into())
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> io::Result<()> {
        let at = sector as usize * SECTOR;
        self.with(|b| b.get_mut(at..at + bytes.len()).map(|b| b.copy_from_slice(bytes)))
            .ok_or(io::ErrorKind::InvalidInput.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&mut self, sector: u64, count: u64) -> io::Result<()> {
        let (at, len) = (sector as usize * SECTOR, count as usize * SECTOR);
        self.with(|b| b.get_mut(at..at + len).map(|b| b.fill(0))).ok_or(io::ErrorKind::InvalidInput.into())
    }

    fn resize(&mut self, sectors: u64) -> io::Result<()> {
        self.with(|b| b.resize(sectors as usize * SECTOR, 0));
        Ok(())
    }
}

/// A disk in a file.
#[derive(Debug)]
pub struct FileBacking {
    file: File,
    sectors: u64,
}

impl FileBacking {
    /// Takes an open file; its size is the disk's, rounded down to whole sectors.
    ///
    /// # Errors
    /// The size cannot be found out.
    pub fn new(file: File) -> io::Result<Self> {
        let sectors = file.metadata()?.len() / SECTOR as u64;
        Ok(Self { file, sectors })
    }
}

impl Backing for FileBacking {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&mut self, sector: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, sector * SECTOR as u64)
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, sector * SECTOR as u64)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&mut self, sector: u64, count: u64) -> io::Result<()> {
        let zeroes = [0; 16 * SECTOR];
        let end = sector + count;
        let mut at = sector;
        while at < end {
            let n = (end - at).min(16);
            self.write(at, &zeroes[..n as usize * SECTOR])?;
            at += n;
        }
        Ok(())
    }

    fn resize(&mut self, sectors: u64) -> io::Result<()> {
        self.file.set_len(sectors * SECTOR as u64)?;
        self.sectors = sectors;
        Ok(())
    }
}
