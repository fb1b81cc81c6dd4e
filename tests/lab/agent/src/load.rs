//! Puts the guest's kernel and its archive straight into the guest's memory. The firmware's loader would move them through a
//! port, a few words at a time, which takes seconds under emulation: it gets a [`stub`] to load, which jumps to the kernel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::privcmd::Mapping;

const PAGE: u64 = 4096;
/// Where the loader puts the stub: between the firmware and the kernel.
const STUB: u32 = 0x20_0000;
/// What a multiboot header begins with, and the flags of one that has addresses.
/// <https://www.gnu.org/software/grub/manual/multiboot/multiboot.html>
const MAGIC: u32 = 0x1bad_b002;
const FLAGS: u32 = 0x0001_0003;
/// How far from the file's start a header may be.
const REACH: usize = 8192;
/// Bytes of a header.
const HEADER: usize = 32;

/// A kernel and its archive, and where in memory they belong.
pub struct Load {
    kernel: Vec<u8>,
    first: u64,
    archive: Vec<u8>,
    archive_at: u64,
    stub: PathBuf,
}

/// The words of a multiboot header with addresses.
fn header(file: &[u8]) -> Option<(usize, [u32; 8])> {
    (0..file.len().min(REACH)).step_by(4).find_map(|at| {
        let bytes: &[u8; HEADER] = file.get(at..at + HEADER)?.try_into().ok()?;
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().ok()?);
        }
        let valid =
            words[0] == MAGIC && words[1] == FLAGS && words[0].wrapping_add(words[1]).wrapping_add(words[2]) == 0;
        valid.then_some((at, words))
    })
}

/// A kernel that goes to `entry` with what the loader left in EAX and EBX.
fn stub(entry: u32) -> Vec<u8> {
    // mov ecx, entry; jmp ecx
    let mut code = vec![0xb9];
    code.extend(entry.to_le_bytes());
    code.extend([0xff, 0xe1]);
    let end = STUB + (HEADER + code.len()) as u32;
    let words = [MAGIC, FLAGS, (MAGIC.wrapping_add(FLAGS)).wrapping_neg(), STUB, STUB, end, end, STUB + HEADER as u32];
    words.iter().flat_map(|word| word.to_le_bytes()).chain(code).collect()
}

impl Load {
    /// Reads both and writes the stub beside the kernel.
    pub fn new(kernel: &Path, archive: &Path) -> anyhow::Result<Self> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let file = read(kernel)?;
        let (at, words) = header(&file).context("the guest is no kernel for multiboot")?;
        let [.., header_at, first, data_end, end, entry] = words;
        let from = (at + first as usize).checked_sub(header_at as usize).context("the header is not in the image")?;
        let bytes = file.get(from..from + data_end.saturating_sub(first) as usize).context("the guest is cut off")?;
        if u64::from(first) % PAGE != 0 || first <= STUB + PAGE as u32 {
            bail!("the guest is linked at {first:#x}");
        }
        let path = kernel.with_extension("stub");
        fs::write(&path, stub(entry))?;
        Ok(Self {
            kernel: bytes.to_vec(),
            first: u64::from(first),
            archive: read(archive)?,
            archive_at: u64::from(end).next_multiple_of(PAGE),
            stub: path,
        })
    }

    /// What the firmware's loader is to load.
    pub fn stub(&self) -> &Path {
        &self.stub
    }

    /// What the kernel's command line has to say of the archive.
    pub fn argument(&self) -> String {
        format!("archive={:x}-{:x}", self.archive_at, self.archive_at + self.archive.len() as u64)
    }

    /// Writes both into the memory of a domain that has not run yet.
    pub fn write(&self, domain: u16) -> anyhow::Result<()> {
        for (first, bytes) in [(self.first, &self.kernel), (self.archive_at, &self.archive)] {
            let pages = Mapping::new(domain, first / PAGE, bytes.len().div_ceil(PAGE as usize))?;
            // SAFETY: inside of the mapping, whose domain is paused.
            unsafe { pages.base().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_is_a_kernel() {
        let (at, words) = header(&stub(0x40_0020)).expect("a header");
        assert_eq!(at, 0);
        assert_eq!(words[3..6], [STUB, STUB, STUB + 39]);
        assert_eq!(words[7], STUB + 32);
    }
}
