//! The demo's image: opened with every check that keeps a user's file safe, or made where none was given.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, bail};

use crate::volume::{self, Partition, Slice};

/// Bytes of the image that is made where none was given.
const SIZE: u64 = 64 << 20;
const SECTOR: u64 = 512;
/// `EBD0A0A2-B9E5-4433-87C0-68B6B72699C7`, a basic data partition (UEFI specification, table of partition types).
const BASIC_DATA: [u8; 16] =
    [0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7];

/// Opens an image for reading and writing and takes the lock that keeps a second user out. Nothing is changed.
///
/// # Errors
/// Missing, empty, not a file, not whole sectors, locked by another process, or with a partition beyond its end.
pub fn open(path: &Path) -> anyhow::Result<File> {
    let name = path.display();
    let mut file =
        OpenOptions::new().read(true).write(true).open(path).with_context(|| format!("cannot open {name}"))?;
    let metadata = file.metadata().with_context(|| format!("cannot look at {name}"))?;
    if !metadata.is_file() {
        bail!("{name} is not a regular file");
    }
    if metadata.len() == 0 {
        bail!("{name} is empty");
    }
    if metadata.len() % SECTOR != 0 {
        bail!("{name} has {} bytes, which is not a whole number of {SECTOR}-byte sectors: truncated?", metadata.len());
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => bail!("{name} is locked: another program is using it"),
        Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {name}")),
    }
    volume::read_table(&mut file, SECTOR).with_context(|| format!("{name}"))?;
    Ok(file)
}

/// Makes an image: a GPT with one FAT partition and two files in it. An older one is replaced.
///
/// # Errors
/// No room, or a path that cannot be written.
pub fn make(path: &Path) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    file.set_len(SIZE)?;
    let mut gpt = gptman::GPT::new_from(&mut file, SECTOR, *b"xen pv demo disk")?;
    let size = gpt.get_maximum_partition_size()?;
    let start = gpt.find_optimal_place(size).context("no place for a partition")?;
    gpt[1] = gptman::GPTPartitionEntry {
        partition_type_guid: BASIC_DATA,
        unique_partition_guid: *b"xen pv demo part",
        starting_lba: start,
        ending_lba: start + size - 1,
        attribute_bits: 0,
        partition_name: "demo".into(),
    };
    gptman::GPT::write_protective_mbr_into(&mut file, SECTOR)?;
    gpt.write_into(&mut file)?;
    let partition =
        Partition { number: 1, name: "demo".into(), start: start * SECTOR, len: size * SECTOR, file_system: None };
    let mut slice = Slice::new(&mut file, &partition);
    fatfs::format_volume(
        &mut slice,
        fatfs::FormatVolumeOptions::new().volume_label(*b"XEN PV DEMO").volume_id(0x5853_0001),
    )?;
    slice.seek(SeekFrom::Start(0))?;
    volume::write_file(
        &mut slice,
        volume::FileSystem::Fat,
        "README.TXT",
        b"This disk was made by the demo of the Xen PV drivers.\r\n",
    )?;
    let counted: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    volume::write_file(&mut slice, volume::FileSystem::Fat, "COUNTED.BIN", &counted)?;
    file.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[test]
    fn a_made_image_opens_and_reads_back() {
        let folder = folder();
        let path = folder.path().join("demo.img");
        make(&path).expect("made");
        let mut file = open(&path).expect("opens");
        let table = volume::read_table(&mut file, SECTOR).expect("a table");
        assert_eq!(table.kind, "GPT");
        assert_eq!(table.partitions[0].file_system, Some(volume::FileSystem::Fat));
        let mut slice = Slice::new(&mut file, &table.partitions[0]);
        let names: Vec<String> = volume::list_root(&mut slice, volume::FileSystem::Fat)
            .expect("a root")
            .into_iter()
            .map(|e| e.name)
            .collect();
        assert!(names.contains(&"COUNTED.BIN".to_owned()), "{names:?}");
        let bytes = volume::read_file(&mut slice, volume::FileSystem::Fat, "COUNTED.BIN").expect("a file");
        assert_eq!(bytes[4000..4004], 1000_u32.to_le_bytes());
    }

    #[test]
    fn bad_images_are_refused_and_untouched() {
        let folder = folder();
        let path = folder.path().join("x.img");
        assert!(open(&path).expect_err("missing").to_string().contains("cannot open"));
        File::create(&path).expect("created");
        assert!(open(&path).expect_err("empty").to_string().contains("is empty"));
        std::fs::write(&path, [0; 700]).expect("written");
        assert!(open(&path).expect_err("half a sector").to_string().contains("truncated"));
        make(&path).expect("made");
        File::options().write(true).open(&path).and_then(|f| f.set_len(SIZE / 2)).expect("cut");
        let before = std::fs::read(&path).expect("read");
        assert!(format!("{:#}", open(&path).expect_err("cut")).contains("truncated"));
        assert!(before == std::fs::read(&path).expect("read"), "an image that is refused is not changed");
        make(&path).expect("made");
        let _held = open(&path).expect("opens");
        assert!(open(&path).expect_err("locked").to_string().contains("locked"));
    }
}
