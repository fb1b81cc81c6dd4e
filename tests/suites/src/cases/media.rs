//! Drives with a medium that comes and goes: a CD-ROM drive that nobody emulates, and a removable disk.
//!
//! Field offsets are those of MMC-5, SBC-3 and SPC-4.

use alloc::vec;
use alloc::vec::Vec;

use crate::case::{Case, Ctx, Failure, Setup};
use crate::cases::load::{Load, Shape};
use crate::guest::{Buffer, Cdb, Disk};

use crate::oracle::{Oracle, UNIT};
use crate::world::DiskSpec;
use crate::{check, fail};

/// Units of a CD-ROM's block.
const PER_BLOCK: usize = 4;
/// NOT READY.
const NOT_READY: u8 = 0x02;
/// MEDIUM NOT PRESENT.
const NO_MEDIUM: u8 = 0x3a;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "scsi/cd-rom",
        summary: "A CD-ROM drive without an emulated twin: read in blocks of 2 KiB, never written, and its disc is changed",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup {
            disks: vec![
                DiskSpec { cdrom: true, read_only: true, sector_size: 2048, ..DiskSpec::new(0, 4) },
                DiskSpec::new(1, 4),
            ],
            ..Setup::default()
        },
        run: cd_rom,
    },
    Case {
        name: "scsi/removable",
        summary: "A removable disk says so, is written and read, and is NOT READY while it has no medium",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup { disks: vec![DiskSpec { removable: true, ..DiskSpec::new(0, 8) }], ..Setup::default() },
        run: removable,
    },
];

/// The data that a command reads.
fn read(disk: &Disk, what: &str, cdb: &[u8], len: usize) -> Result<Vec<u8>, Failure> {
    let done = disk.cdb(cdb, Cdb::In(len));
    check!(done.ok(), "{what}: {done}");
    Ok(done.data)
}

/// The disc's content, as dom0 wrote it.
fn burn(ctx: &Ctx<'_>, units: usize) -> Oracle {
    let mut oracle = Oracle::new(0, units);
    let stamp = oracle.fresh_stamp();
    let mut bytes = vec![0; units * UNIT];
    oracle.fill(0, stamp, &mut bytes);
    ctx.world.write_backing(0, 0, &bytes);
    oracle.wrote(0, units, stamp);
    oracle
}

/// READ(10) and READ(12) of a run of blocks, judged.
fn check_blocks(ctx: &mut Ctx<'_>, disk: &Disk, oracle: &Oracle, block: u8, count: u8) -> Result<(), Failure> {
    for (what, cdb) in [
        ("READ(10)", vec![0x28, 0, 0, 0, 0, block, 0, 0, count, 0]),
        ("READ(12)", vec![0xa8, 0, 0, 0, 0, block, 0, 0, 0, count, 0, 0]),
    ] {
        let bytes = read(disk, what, &cdb, usize::from(count) * PER_BLOCK * UNIT)?;
        oracle.check(usize::from(block) * PER_BLOCK, &bytes)?;
        ctx.count("blocks read", count.into());
    }
    Ok(())
}

/// TEST UNIT READY until the unit has nothing more to tell: its last answer's sense key and additional code.
fn readiness(disk: &Disk) -> Result<Option<(u8, u8)>, Failure> {
    for _ in 0..4 {
        let done = disk.cdb(&[0; 6], Cdb::None);
        match done.sense {
            Some(sense) if sense.key == 6 => {}
            Some(sense) => return Ok(Some((sense.key, sense.asc))),
            None if done.ok() => return Ok(None),
            None => fail!("TEST UNIT READY: {done}"),
        }
    }
    fail!("the unit has one unit attention after another")
}

/// The backend closes and comes back with another medium, or with none.
fn change_medium(ctx: &Ctx<'_>, units: usize) {
    ctx.world.resize_disk(0, units as u64);
    ctx.world.restart_backend(0);
}

/// Waits until TEST UNIT READY says what is expected.
fn becomes(ctx: &Ctx<'_>, disk: &Disk, expected: Option<(u8, u8)>) -> Result<(), Failure> {
    let mut waited = 0;
    loop {
        let now = readiness(disk)?;
        if now == expected {
            return Ok(());
        }
        check!(waited < 10_000, "{waited} ms later the unit says {now:02x?}, not {expected:02x?}");
        ctx.world.sleep_ms(20);
        waited += 20;
    }
}

fn cd_rom(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let drive = Disk::find(ctx, 0)?;
    let mut oracle = burn(ctx, drive.units());
    let identity = read(&drive, "INQUIRY", &[0x12, 0, 0, 0, 96, 0], 96)?;
    check!(identity[0] == 5 && identity[1] & 0x80 != 0, "INQUIRY says {:02x?}, no CD-ROM drive", &identity[..2]);
    check!(drive.sector_size() == 2048, "the blocks have {} bytes", drive.sector_size());
    check_blocks(ctx, &drive, &oracle, 0, 16)?;
    check_blocks(ctx, &drive, &oracle, 200, 4)?;
    // One data track, and the lead-out behind the last block.
    let toc = read(&drive, "READ TOC", &[0x43, 0, 0, 0, 0, 0, 0, 0, 64, 0], 64)?;
    let end = u32::try_from(drive.units() / PER_BLOCK).unwrap_or(u32::MAX);
    check!(toc.len() >= 20 && toc[2..4] == [1, 1] && toc[14] == 0xaa, "READ TOC: {toc:02x?}");
    check!(toc[16..20] == end.to_be_bytes(), "the lead-out is at {:02x?}, not at {end}", &toc[16..20]);
    for (what, cdb) in [
        ("WRITE(10)", vec![0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
        ("WRITE(12)", vec![0xaa, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let done = drive.cdb(&cdb, Cdb::Out(vec![1; 2048]));
        check!(done.sense.is_some_and(|sense| sense.key == 7), "{what}: {done}");
        ctx.count("writes refused", 1);
    }
    let past = drive.cdb(&[0x28, 0, 0, 0, (end >> 8) as u8, end as u8, 0, 0, 1, 0], Cdb::In(2048));
    check!(past.sense.is_some_and(|sense| sense.key == 5 && sense.asc == 0x21), "READ(10) past the end: {past}");
    // The disc is taken out, and another one is put in.
    change_medium(ctx, 0);
    becomes(ctx, &drive, Some((NOT_READY, NO_MEDIUM)))?;
    for (what, cdb, len) in [
        ("READ CAPACITY", vec![0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8),
        ("READ(10)", vec![0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 2048),
        ("READ TOC", vec![0x43, 0, 0, 0, 0, 0, 0, 0, 64, 0], 64),
    ] {
        let done = drive.cdb(&cdb, Cdb::In(len));
        let empty = done.sense.is_some_and(|sense| (sense.key, sense.asc) == (NOT_READY, NO_MEDIUM));
        check!(empty && !done.ok(), "{what} of an empty drive: {done}");
    }
    let units = 8 * 2048;
    change_medium(ctx, units);
    oracle = burn(ctx, units);
    becomes(ctx, &drive, None)?;
    let capacity = read(&drive, "READ CAPACITY", &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8)?;
    let last = u32::try_from(units / PER_BLOCK - 1).unwrap_or(u32::MAX);
    check!(capacity == [last.to_be_bytes(), 2048_u32.to_be_bytes()].concat(), "READ CAPACITY: {capacity:02x?}");
    check_blocks(ctx, &drive, &oracle, 250, 6)?;
    let mut other = Load::new(Disk::find(ctx, 1)?, Shape::default());
    other.run(ctx, 50)?;
    other.verify_all(ctx)?;
    let written = ctx.world.disk_stats(0).writes;
    check!(written == 0, "{written} writes reached the disc");
    ctx.want("blocks read", 50);
    ctx.want("writes refused", 2);
    Ok(())
}

fn removable(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    let identity = read(&disk, "INQUIRY", &[0x12, 0, 0, 0, 96, 0], 96)?;
    check!(identity[0] == 0 && identity[1] & 0x80 != 0, "INQUIRY says {:02x?}, no removable disk", &identity[..2]);
    for prevent in [1, 0] {
        let done = disk.cdb(&[0x1e, 0, 0, 0, prevent, 0], Cdb::None);
        check!(done.ok(), "PREVENT ALLOW MEDIUM REMOVAL, {prevent}: {done}");
    }
    let units = disk.units();
    let mut load = Load::new(disk, Shape::default());
    load.run(ctx, 200)?;
    load.verify_all(ctx)?;
    // Out, and a larger one in: nothing of the first is asked of it.
    change_medium(ctx, 0);
    becomes(ctx, load.disk(), Some((NOT_READY, NO_MEDIUM)))?;
    let larger = units * 2;
    change_medium(ctx, larger);
    becomes(ctx, load.disk(), None)?;
    let mut waited = 0;
    while load.disk().current_units() != larger {
        check!(waited < 10_000, "{waited} ms later Windows sees {} units", load.disk().current_units());
        ctx.world.sleep_ms(20);
        waited += 20;
        load.disk().read(0, Buffer::new(UNIT, 0)).expect_ok("read")?;
    }
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape::default());
    check!(load.disk().units() == larger, "the new medium has {} units", load.disk().units());
    load.run(ctx, 200)?;
    load.verify_all(ctx)
}
