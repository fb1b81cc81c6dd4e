//! Partition tables of a disk, by the functions that disk drivers have for them.

mod common;

use common::{boot, disk};
use nt::disk::Disk;
use process::Ctx;
use std::sync::Arc;

/// `IoReadPartitionTableEx` of a disk: the layout, or the status.
fn layout(disk: &Disk) -> Result<Vec<u8>, i32> {
    // SAFETY: a system thread at PASSIVE_LEVEL; the disk stands, and the layout is as long as its count says.
    unsafe {
        let mut layout = std::ptr::null_mut();
        match nt::io::partition::IoReadPartitionTableEx(disk.device(), &raw mut layout) {
            0 => {
                let count = layout.add(4).cast::<u32>().read_unaligned() as usize;
                let bytes = std::slice::from_raw_parts(layout, 48 + 144 * count).to_vec();
                nt::ex::ExFreePool(layout.cast());
                Ok(bytes)
            }
            status => Err(status),
        }
    }
}

/// Start and length in blocks, and number, of the entries of a layout that are used.
fn partitions(layout: &[u8]) -> Vec<(u64, u64, u32)> {
    let wide = |entry: &[u8], at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
    let all = layout[48..].chunks_exact(144).map(|e| (wide(e, 8) / 512, wide(e, 16) / 512, wide(e, 24) as u32));
    all.filter(|entry| entry.1 != 0).collect()
}

/// A boot record with these entries: type, first block, blocks.
fn record(entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut record = vec![0; 512];
    record[0x1b8..0x1bc].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
    for (index, (kind, first, blocks)) in entries.iter().enumerate() {
        let at = 0x1be + 16 * index;
        record[at + 4] = *kind;
        record[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        record[at + 12..at + 16].copy_from_slice(&blocks.to_le_bytes());
    }
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    record
}

/// Writes a GUID partition table with one partition, blocks 100 to 199, of a disk with so many blocks.
fn write_table(disk: &Arc<Disk>, blocks: u64) {
    assert!(disk.write(0, &record(&[(0xee, 1, u32::MAX)])).good);
    let mut entries = vec![0; 16384];
    entries[..16].fill(0x71);
    entries[16..32].fill(0x72);
    entries[32..40].copy_from_slice(&100_u64.to_le_bytes());
    entries[40..48].copy_from_slice(&199_u64.to_le_bytes());
    entries[56..60].copy_from_slice(b"D\0a\0");
    for (place, other, first) in [(1, blocks - 1, 2), (blocks - 1, 1, blocks - 33)] {
        let mut header = b"EFI PART\0\0\x01\0\x5c\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        header.extend([place, other, 34, blocks - 34].iter().flat_map(|n: &u64| n.to_le_bytes()));
        header.extend([0x70; 16]);
        header.extend(first.to_le_bytes());
        header.extend([128, 128, nt::io::gpt::crc32(&entries)].iter().flat_map(|n| n.to_le_bytes()));
        let sum = nt::io::gpt::crc32(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header.resize(512, 0);
        assert!(disk.write(place * 512, &header).good && disk.write(first * 512, &entries).good);
    }
}

#[test]
fn partition_tables_of_a_disk() {
    const UNSUCCESSFUL: i32 = 0xc000_0001_u32 as i32;
    const CORRUPT: i32 = 0xc000_0032_u32 as i32;
    boot("partition_tables_of_a_disk", |ctx| {
        let disk = disk(ctx);
        let blocks = disk.info().blocks;
        let signature = |bytes: u32| {
            let mut out = [0; 20];
            // SAFETY: a system thread at PASSIVE_LEVEL; the disk stands, the signature has its bytes.
            let status = unsafe { nt::io::partition::IoReadDiskSignature(disk.device(), bytes, out.as_mut_ptr()) };
            (status, out)
        };
        // An empty disk has four empty entries, and nothing to tell it by.
        let empty = layout(&disk).expect("a layout");
        assert_eq!((&empty[..8], partitions(&empty).len()), (&[0, 0, 0, 0, 4, 0, 0, 0][..], 0));
        assert_eq!(signature(512).0, CORRUPT);

        // A partition and a chain of two, which then runs in a circle, off the disk, and onto what is no record.
        assert!(disk.write(0, &record(&[(7, 64, 100), (0x0f, 1000, 500)])).good);
        assert!(disk.write(1000 * 512, &record(&[(7, 10, 20), (5, 100, 50)])).good);
        for link in [0, 100, 99_999, u32::MAX, 200] {
            let second = if link == 0 { record(&[(7, 10, 30)]) } else { record(&[(7, 10, 30), (5, link, 50)]) };
            assert!(disk.write(1100 * 512, &second).good);
            let made = layout(&disk).expect("a layout");
            let found = partitions(&made);
            let held = |n: u32| found.iter().filter(|entry| entry.2 == n).copied().collect::<Vec<_>>();
            assert_eq!(held(1), [(64, 100, 1)]);
            assert_eq!((held(2), held(3)), (vec![(1010, 20, 2)], vec![(1110, 30, 3)]), "a link to {link}");
            assert_eq!((held(4).len(), made[4]), (0, 12));
        }
        let (status, of_record) = signature(512);
        assert_eq!((status, &of_record[..8]), (0, &[0, 0, 0, 0, 0x78, 0x56, 0x34, 0x12][..]));
        let mut first = vec![0; 512];
        assert!(disk.read(0, &mut first).good);
        let words = first.chunks_exact(4).chain([&of_record[8..12]]);
        let sum = words.fold(0_u32, |sum, w| sum.wrapping_add(u32::from_le_bytes(w.try_into().expect("four bytes"))));
        assert_eq!(sum, 0, "the sum of a record and its check sum");
        assert_eq!(signature(4096).0, 0xc000_000d_u32 as i32);

        // A GUID partition table: whole, its first header broken, its first entries broken, both headers broken.
        write_table(&disk, blocks);
        let whole = layout(&disk).expect("a layout");
        assert_eq!((&whole[..8], partitions(&whole)), (&[1, 0, 0, 0, 1, 0, 0, 0][..], vec![(100, 100, 1)]));
        assert_eq!((&whole[8..24], &whole[48 + 32..48 + 48]), (&[0x70; 16][..], &[0x71; 16][..]));
        assert_eq!(&whole[48 + 72..48 + 76], b"D\0a\0");
        assert_eq!((signature(512).0, &signature(512).1[4..]), (0, &[0x70; 16][..]));
        let backups = |ctx: &Ctx| ctx.log().iter().filter(|line| line.contains("its backup is used")).count();
        assert_eq!(backups(ctx), 0);
        for broken in [1, 2] {
            write_table(&disk, blocks);
            assert!(disk.write(broken * 512, &[0xff; 512]).good);
            assert_eq!(layout(&disk).as_deref(), Ok(&whole[..]));
            assert_eq!(backups(ctx), broken as usize);
        }
        assert!(disk.write((blocks - 1) * 512, &[0xff; 512]).good);
        assert_eq!((layout(&disk), signature(512).0), (Err(CORRUPT), CORRUPT));
        // A disk keeps the style of its table until it is made anew.
        // SAFETY: a system thread at PASSIVE_LEVEL; the disk stands, the layouts are whole.
        let write =
            |layout: &[u8]| unsafe { nt::io::partition::IoWritePartitionTableEx(disk.device(), layout.as_ptr()) };
        assert_eq!(write(&empty), UNSUCCESSFUL);
        // SAFETY: as above; a CREATE_DISK is as long as its style asks for.
        let create = |what: &[u8]| unsafe { nt::io::partition::IoCreateDisk(disk.device(), what.as_ptr().cast()) };
        assert_eq!(create(&[0, 0, 0, 0, 1, 2, 3, 4]), 0);
        assert_eq!((signature(512).0, &signature(512).1[..8]), (0, &[0, 0, 0, 0, 1, 2, 3, 4][..]));
        assert_eq!((write(&whole), write(&empty)), (UNSUCCESSFUL, 0));
    });
}

#[test]
fn guid_partition_tables_are_written() {
    const CORRUPT: i32 = 0xc000_0032_u32 as i32;
    const INVALID: i32 = 0xc000_000d_u32 as i32;
    boot("guid_partition_tables_are_written", |ctx| {
        use nt::io::partition::*;
        let disk = disk(ctx);
        let blocks = disk.info().blocks;
        let block = |at: u64| {
            let mut block = vec![0; 512];
            assert!(disk.read(at * 512, &mut block).good);
            block
        };
        // SAFETY: a system thread at PASSIVE_LEVEL; the disk stands.
        let verify = |fix: u8| unsafe { IoVerifyPartitionTable(disk.device(), fix) };
        // SAFETY: as above; a CREATE_DISK is as long as its style asks for.
        let create = |what: &[u8]| unsafe { IoCreateDisk(disk.device(), what.as_ptr().cast()) };
        // SAFETY: as above; the layouts are whole.
        let write = |layout: &[u8]| unsafe { IoWritePartitionTableEx(disk.device(), layout.as_ptr()) };
        // SAFETY: as above; the structure is whole.
        let set = |n: u32, what: &[u8]| unsafe { IoSetPartitionInformationEx(disk.device(), n, what.as_ptr()) };
        assert_eq!(verify(0), CORRUPT);

        // Made: the protective record, and two tables without partitions.
        let mut made = vec![1, 0, 0, 0];
        made.extend([0x70; 16]);
        made.extend(200_u32.to_le_bytes());
        assert_eq!((create(&made), verify(0)), (0, 0));
        let protective = &block(0)[0x1be..0x1ce];
        assert_eq!(&protective[..12], &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
        assert_eq!(&protective[12..], &(blocks as u32 - 1).to_le_bytes());
        let empty = layout(&disk).expect("a layout");
        assert_eq!((&empty[..8], &empty[8..24], empty[40]), (&[1, 0, 0, 0, 0, 0, 0, 0][..], &[0x70; 16][..], 200));
        // 200 entries of 128 bytes are 50 blocks.
        assert_eq!(empty[24..32], (52 * 512_u64).to_le_bytes());
        assert_eq!(empty[32..40], ((blocks - 103) * 512).to_le_bytes());

        // Written: partitions 1 and 3 of three entries.
        let entry = |first: u64, count: u64, kind: u8| {
            let mut entry = vec![0; 144];
            entry[0] = 1;
            entry[8..16].copy_from_slice(&(first * 512).to_le_bytes());
            entry[16..24].copy_from_slice(&(count * 512).to_le_bytes());
            entry[32..48].fill(kind);
            entry[48..64].fill(kind + 1);
            entry[71] = 0x80;
            entry[72..74].copy_from_slice(b"E\0");
            entry
        };
        let with = |entries: &[Vec<u8>]| {
            let mut layout = empty.clone();
            layout[4] = entries.len() as u8;
            layout.extend(entries.concat());
            layout
        };
        assert_eq!(write(&with(&[entry(2000, 100, 0x11), entry(0, 0, 0), entry(100, 50, 0x22)])), 0);
        let read = layout(&disk).expect("a layout");
        assert_eq!(partitions(&read), [(2000, 100, 1), (100, 50, 2)]);
        assert_eq!((&read[48 + 32..48 + 64], read[48 + 71]), (&[[0x11; 16], [0x12; 16]].concat()[..], 0x80));
        assert_eq!(&block(2)[256..272], &[0x22; 16], "the third entry of the table");
        // What does not fit is refused, and leaves the table as it is.
        let past = blocks - 50;
        for wrong in [entry(2050, 10, 0x33), entry(51, 10, 0x33), entry(past, 1, 0x33), entry(300, 0, 0x33)] {
            assert_eq!(write(&with(&[entry(2000, 100, 0x11), wrong])), INVALID);
        }
        assert_eq!(layout(&disk).as_ref(), Ok(&read));

        // Set: the second of the partitions, by its ordinal number.
        let mut what = vec![0; 120];
        what[0] = 1;
        what[8..24].fill(0x55);
        what[24..40].fill(0x56);
        what[40] = 4;
        what[48..52].copy_from_slice(b"F\0\0\0");
        assert_eq!((set(3, &what), set(0, &what), set(2, &what)), (INVALID, INVALID, 0));
        let read = layout(&disk).expect("a layout");
        assert_eq!(partitions(&read), [(2000, 100, 1), (100, 50, 2)]);
        let second = &read[48 + 144..];
        assert_eq!((&second[32..48], &second[48..64], second[64]), (&[0x55; 16][..], &[0x56; 16][..], 4));
        assert_eq!(&second[72..75], b"F\0\0");

        // Verified, and mended from either copy.
        for broken in [1, 2, blocks - 1, blocks - 51] {
            assert_eq!(verify(0), 0);
            assert!(disk.write(broken * 512, &[0xff; 512]).good);
            assert_eq!((verify(0), verify(1), verify(0)), (CORRUPT, 0, 0), "block {broken}");
            assert_eq!(layout(&disk).as_ref(), Ok(&read));
        }
        // Deleted: no header is left.
        // SAFETY: as above.
        assert_eq!(unsafe { IoCreateDisk(disk.device(), std::ptr::null()) }, 0);
        assert!(!block(1).starts_with(b"EFI") && !block(blocks - 1).starts_with(b"EFI"));
        assert_eq!((layout(&disk).expect("a layout")[0], verify(0)), (0, 0));
    });
}
