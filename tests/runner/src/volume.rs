//! What is on a disk: its partition table and the file systems in it, over anything that reads, writes and seeks.
//!
//! The same code looks at an image as the host sees it and at a disk as the guest sees it through the drivers. The
//! formats themselves are read by gptman, mbrman, fatfs, ntfs and ext4-view.

use std::io::{self, Read, Seek, SeekFrom, Write};

use anyhow::{Context, bail};

/// A disk or a piece of one.
pub trait Device: Read + Write + Seek {}
impl<T: Read + Write + Seek> Device for T {}

/// A kind of file system that can be read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum FileSystem {
    /// FAT12, FAT16 or FAT32: read and written.
    Fat,
    /// NTFS: read.
    Ntfs,
    /// ext2, ext3 or ext4: read.
    Ext,
}

/// One partition, or the whole disk where there is no table.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Partition {
    /// Number in the table, from 1; 0 is the whole disk.
    pub number: u32,
    /// Name in the table, empty where it has none.
    pub name: String,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// What is in it, where that is known.
    pub file_system: Option<FileSystem>,
}

/// The partition table of a disk.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Table {
    /// `GPT`, `MBR` or `none`.
    pub kind: &'static str,
    /// Its partitions in table order.
    pub partitions: Vec<Partition>,
}

/// Reads the partition table and looks for a file system in every partition.
///
/// # Errors
/// A device that cannot be read, a table that points beyond the end of the device (a truncated image).
pub fn read_table<D: Device>(device: &mut D, sector_size: u64) -> anyhow::Result<Table> {
    let size = device.seek(SeekFrom::End(0)).context("cannot find the size")?;
    let mut table = gpt(device, sector_size)?;
    if table.is_none() {
        table = mbr(device, sector_size);
    }
    let mut table = table.unwrap_or_else(|| Table {
        kind: "none",
        partitions: vec![Partition { number: 0, name: String::new(), start: 0, len: size, file_system: None }],
    });
    for partition in &mut table.partitions {
        if partition.start.checked_add(partition.len).is_none_or(|end| end > size) {
            bail!(
                "partition {} ends at byte {}, but there are only {size}: the image is truncated",
                partition.number,
                partition.start.saturating_add(partition.len)
            );
        }
        partition.file_system = detect(device, partition).context("cannot read a partition's first sectors")?;
    }
    Ok(table)
}

fn gpt<D: Device>(device: &mut D, sector_size: u64) -> anyhow::Result<Option<Table>> {
    device.seek(SeekFrom::Start(sector_size))?;
    let mut signature = [0; 8];
    if device.read_exact(&mut signature).is_err() || &signature != b"EFI PART" {
        return Ok(None);
    }
    let gpt = gptman::GPT::read_from(device, sector_size).context("the GPT is damaged")?;
    let partitions = gpt
        .iter()
        .filter(|(_, entry)| entry.is_used())
        .map(|(number, entry)| Partition {
            number,
            name: entry.partition_name.as_str().to_owned(),
            start: entry.starting_lba.saturating_mul(sector_size),
            len: entry.ending_lba.saturating_add(1).saturating_sub(entry.starting_lba).saturating_mul(sector_size),
            file_system: None,
        })
        .collect();
    Ok(Some(Table { kind: "GPT", partitions }))
}

fn mbr<D: Device>(device: &mut D, sector_size: u64) -> Option<Table> {
    let mut first = [0; 512];
    device.seek(SeekFrom::Start(0)).ok()?;
    device.read_exact(&mut first).ok()?;
    if signature(&first).is_some() {
        // A boot sector of a file system ends in 55 AA too.
        return None;
    }
    let mbr = mbrman::MBR::read_from(device, sector_size as u32).ok()?;
    let partitions: Vec<Partition> = mbr
        .iter()
        .filter(|(_, entry)| entry.is_used() && !entry.is_extended())
        .map(|(number, entry)| Partition {
            number: number as u32,
            name: String::new(),
            start: u64::from(entry.starting_lba) * sector_size,
            len: u64::from(entry.sectors) * sector_size,
            file_system: None,
        })
        .collect();
    (!partitions.is_empty()).then_some(Table { kind: "MBR", partitions })
}

fn signature(boot: &[u8; 512]) -> Option<FileSystem> {
    if &boot[3..11] == b"NTFS    " {
        Some(FileSystem::Ntfs)
    } else if boot[510..] == [0x55, 0xaa]
        && (boot[54..59] == *b"FAT12" || boot[54..59] == *b"FAT16" || boot[82..87] == *b"FAT32")
    {
        Some(FileSystem::Fat)
    } else {
        None
    }
}

fn detect<D: Device>(device: &mut D, partition: &Partition) -> io::Result<Option<FileSystem>> {
    let mut head = [0; 2048];
    if partition.len < head.len() as u64 {
        return Ok(None);
    }
    device.seek(SeekFrom::Start(partition.start))?;
    device.read_exact(&mut head)?;
    let boot = head[..512].try_into().map_err(io::Error::other)?;
    // The ext superblock stands at byte 1024, its magic at 0x38 in it.
    let ext = head[1024 + 0x38..1024 + 0x3a] == [0x53, 0xef];
    Ok(signature(boot).or(ext.then_some(FileSystem::Ext)))
}

/// A partition as a device of its own.
pub struct Slice<'d, D> {
    device: &'d mut D,
    start: u64,
    len: u64,
    at: u64,
}

impl<'d, D: Device> Slice<'d, D> {
    /// The bytes of `partition` in `device`.
    pub fn new(device: &'d mut D, partition: &Partition) -> Self {
        Self { device, start: partition.start, len: partition.len, at: 0 }
    }

    fn room(&self, wanted: usize) -> usize {
        usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX).min(wanted)
    }
}

impl<D: Device> Read for Slice<'_, D> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = self.room(buf.len());
        self.device.seek(SeekFrom::Start(self.start + self.at))?;
        let count = self.device.read(&mut buf[..room])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<D: Device> Write for Slice<'_, D> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let room = self.room(buf.len());
        self.device.seek(SeekFrom::Start(self.start + self.at))?;
        let count = self.device.write(&buf[..room])?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.device.flush()
    }
}

impl<D: Device> Seek for Slice<'_, D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// A file or folder in the root directory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Bytes; 0 for a folder.
    pub len: u64,
    /// Whether it is a folder.
    pub folder: bool,
}

fn fat<'s, 'd, D: Device>(slice: &'s mut Slice<'d, D>) -> anyhow::Result<fatfs::FileSystem<&'s mut Slice<'d, D>>> {
    slice.seek(SeekFrom::Start(0))?;
    Ok(fatfs::FileSystem::new(slice, fatfs::FsOptions::new())?)
}

/// The root directory of the file system in `slice`.
///
/// # Errors
/// A file system that is damaged or cannot be read.
pub fn list_root<D: Device>(slice: &mut Slice<'_, D>, kind: FileSystem) -> anyhow::Result<Vec<Entry>> {
    match kind {
        FileSystem::Fat => {
            let volume = fat(slice)?;
            let entries: Result<Vec<_>, io::Error> = volume
                .root_dir()
                .iter()
                .map(|entry| entry.map(|e| Entry { name: e.file_name(), len: e.len(), folder: e.is_dir() }))
                .collect();
            Ok(entries?)
        }
        FileSystem::Ntfs => {
            let mut volume = ntfs::Ntfs::new(slice)?;
            volume.read_upcase_table(slice)?;
            let root = volume.root_directory(slice)?;
            let index = root.directory_index(slice)?;
            let mut entries = Vec::new();
            let mut walk = index.entries();
            while let Some(entry) = walk.next(slice) {
                let Some(name) = entry?.key().transpose()?.map(|key: ntfs::structured_values::NtfsFileName| key) else {
                    continue;
                };
                if name.namespace() == ntfs::structured_values::NtfsFileNamespace::Dos {
                    continue;
                }
                entries.push(Entry {
                    name: name.name().to_string_lossy(),
                    len: name.data_size(),
                    folder: name.is_directory(),
                });
            }
            Ok(entries)
        }
        FileSystem::Ext => {
            let volume = ext4_view::Ext4::load(Box::new(Whole::read(slice)?))?;
            let mut entries = Vec::new();
            for entry in volume.read_dir("/")? {
                let entry = entry?;
                if matches!(entry.file_name().as_str(), Ok("." | "..")) {
                    continue;
                }
                let metadata = entry.metadata()?;
                entries.push(Entry {
                    name: entry.file_name().display().to_string(),
                    len: if metadata.is_dir() { 0 } else { metadata.len() },
                    folder: metadata.is_dir(),
                });
            }
            Ok(entries)
        }
    }
}

/// The bytes of the file `name` in the root directory.
///
/// # Errors
/// No such file, or it cannot be read.
pub fn read_file<D: Device>(slice: &mut Slice<'_, D>, kind: FileSystem, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match kind {
        FileSystem::Fat => {
            let volume = fat(slice)?;
            volume.root_dir().open_file(name)?.read_to_end(&mut bytes)?;
        }
        FileSystem::Ntfs => {
            let mut volume = ntfs::Ntfs::new(slice)?;
            volume.read_upcase_table(slice)?;
            let root = volume.root_directory(slice)?;
            let index = root.directory_index(slice)?;
            let mut finder = index.finder();
            let entry = ntfs::indexes::NtfsFileNameIndex::find(&mut finder, &volume, slice, name)
                .with_context(|| format!("no file {name}"))??;
            let file = entry.file_reference().to_file(&volume, slice)?;
            let item = file.data(slice, "").with_context(|| format!("{name} has no data"))??;
            let attribute = item.to_attribute()?;
            let value = attribute.value(slice)?;
            value.attach(slice).read_to_end(&mut bytes)?;
        }
        FileSystem::Ext => {
            let volume = ext4_view::Ext4::load(Box::new(Whole::read(slice)?))?;
            bytes = volume.read(format!("/{name}").as_str())?;
        }
    }
    Ok(bytes)
}

/// Writes (or replaces) the file `name` in the root directory. FAT only.
///
/// # Errors
/// Another file system, no room, a device that cannot be written.
pub fn write_file<D: Device>(
    slice: &mut Slice<'_, D>,
    kind: FileSystem,
    name: &str,
    bytes: &[u8],
) -> anyhow::Result<()> {
    if kind != FileSystem::Fat {
        bail!("{kind:?} can only be read here");
    }
    let volume = fat(slice)?;
    {
        let mut file = volume.root_dir().create_file(name)?;
        file.truncate()?;
        file.write_all(bytes)?;
        file.flush()?;
    }
    volume.unmount()?;
    Ok(())
}

/// A reader that owns its bytes, for ext4-view, which wants a `'static` one.
struct Whole(Vec<u8>);

impl Whole {
    /// ext images larger than this are not read whole.
    const LIMIT: u64 = 1 << 30;

    fn read<D: Device>(slice: &mut Slice<'_, D>) -> anyhow::Result<Self> {
        if slice.len > Self::LIMIT {
            bail!("an ext file system of {} bytes is larger than the {} this reads", slice.len, Self::LIMIT);
        }
        let mut bytes = vec![0; usize::try_from(slice.len)?];
        slice.seek(SeekFrom::Start(0))?;
        for chunk in bytes.chunks_mut(1 << 20) {
            slice.read_exact(chunk)?;
        }
        Ok(Self(bytes))
    }
}

impl ext4_view::Ext4Read for Whole {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let start = usize::try_from(start_byte)?;
        let from = self.0.get(start..).and_then(|rest| rest.get(..dst.len())).ok_or("beyond the end")?;
        dst.copy_from_slice(from);
        Ok(())
    }
}
