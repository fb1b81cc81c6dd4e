//! Every SCSI command that xenvbd answers, and what it says to those it does not, to malformed ones and to lengths that
//! do not fit.
//!
//! Field offsets are those of SBC-3 and SPC-4.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use crate::case::{Case, Ctx, Failure, Setup};
use crate::guest::{Buffer, Cdb, Disk};
use crate::oracle::{Oracle, UNIT};
use crate::world::DiskSpec;
use crate::{check, fail};

/// ILLEGAL REQUEST.
const ILLEGAL: u8 = 0x05;
/// DATA PROTECT.
const DATA_PROTECT: u8 = 0x07;
/// LOGICAL BLOCK ADDRESS OUT OF RANGE.
const LBA_OUT_OF_RANGE: u8 = 0x21;
/// INVALID FIELD IN CDB.
const INVALID_FIELD: u8 = 0x24;
/// INVALID COMMAND OPERATION CODE.
const INVALID_OPCODE: u8 = 0x20;
/// WRITE PROTECTED.
const WRITE_PROTECTED: u8 = 0x27;

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "scsi/read-write-forms",
        summary: "READ and WRITE 6, 10, 12 and 16 move the same blocks",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(8),
        run: read_write_forms,
    },
    Case {
        name: "scsi/identity",
        summary: "INQUIRY, VPD pages, REPORT LUNS: well formed, unique and stable serial",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup { disks: vec![DiskSpec::new(0, 8), DiskSpec::new(1, 8)], ..Setup::default() },
        run: identity,
    },
    Case {
        name: "scsi/capacity-and-modes",
        summary: "READ CAPACITY, MODE SENSE, TEST UNIT READY, START STOP UNIT, REQUEST SENSE",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup {
            disks: vec![DiskSpec { sector_size: 512, physical_sector_size: 4096, ..DiskSpec::new(0, 8) }],
            ..Setup::default()
        },
        run: capacity_and_modes,
    },
    Case {
        name: "scsi/cache-and-unmap",
        summary: "SYNCHRONIZE CACHE reaches the backend, FUA is durable, UNMAP zeroes what it names and no more",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(8),
        run: cache_and_unmap,
    },
    Case {
        name: "scsi/malformed",
        summary: "Unknown operation codes, bad fields, lengths that do not fit, I/O past the end: sense data, no harm",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_disk(8),
        run: malformed,
    },
    Case {
        name: "scsi/random-cdbs",
        summary: "20,000 random and mutated CDBs: each is answered, none harms the data",
        quick: false,
        timeout_s: 300,
        setup: |_| Setup { stepping: false, ..Setup::one_disk(8) },
        run: random_cdbs,
    },
    Case {
        name: "scsi/read-only",
        summary: "A read-only disk says so and refuses writes with DATA PROTECT",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup { disks: vec![DiskSpec { read_only: true, ..DiskSpec::new(0, 8) }], ..Setup::default() },
        run: read_only,
    },
    Case {
        name: "scsi/verify",
        summary: "VERIFY with and without data: it verifies or is refused, it never claims what it did not do",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(8),
        run: verify,
    },
];

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

fn cdb6(opcode: u8, lba: u32, count: u8) -> Vec<u8> {
    vec![opcode, (lba >> 16) as u8 & 0x1f, (lba >> 8) as u8, lba as u8, count, 0]
}

fn cdb10(opcode: u8, flags: u8, lba: u32, count: u16) -> Vec<u8> {
    let (l, c) = (lba.to_be_bytes(), count.to_be_bytes());
    vec![opcode, flags, l[0], l[1], l[2], l[3], 0, c[0], c[1], 0]
}

fn cdb12(opcode: u8, lba: u32, count: u32) -> Vec<u8> {
    let (l, c) = (lba.to_be_bytes(), count.to_be_bytes());
    vec![opcode, 0, l[0], l[1], l[2], l[3], c[0], c[1], c[2], c[3], 0, 0]
}

fn cdb16(opcode: u8, flags: u8, lba: u64, count: u32) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    cdb.extend_from_slice(&lba.to_be_bytes());
    cdb.extend_from_slice(&count.to_be_bytes());
    cdb.extend_from_slice(&[0, 0]);
    cdb
}

fn inquiry(page: Option<u8>, len: u16) -> Vec<u8> {
    let l = len.to_be_bytes();
    vec![0x12, u8::from(page.is_some()), page.unwrap_or(0), l[0], l[1], 0]
}

/// Sends a command that must succeed and returns its data.
fn data_of(disk: &Disk, what: &str, cdb: &[u8], len: usize) -> Result<Vec<u8>, Failure> {
    let done = disk.cdb(cdb, Cdb::In(len));
    check!(done.ok(), "{what}: {done}");
    Ok(done.data)
}

/// Sends a command that must be refused with this sense key and additional sense code.
fn refused(ctx: &mut Ctx<'_>, disk: &Disk, what: &str, cdb: &[u8], data: Cdb, key: u8, asc: u8) -> Result<(), Failure> {
    let done = disk.cdb(cdb, data);
    let Some(sense) = done.sense else { fail!("{what}: expected sense {key:x}/{asc:02x}, got {done}") };
    check!(!done.ok() && sense.key == key && sense.asc == asc, "{what}: expected sense {key:x}/{asc:02x}, got {done}");
    ctx.count("refused as due", 1);
    Ok(())
}

/// A command's name, and its CDB for 8 blocks at an address.
type Form = (&'static str, fn(u32) -> Vec<u8>);

fn read_write_forms(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    let mut oracle = Oracle::new(0, disk.units());
    let writes: [Form; 4] = [
        ("WRITE(6)", |lba| cdb6(0x0a, lba, 8)),
        ("WRITE(10)", |lba| cdb10(0x2a, 0, lba, 8)),
        ("WRITE(12)", |lba| cdb12(0xaa, lba, 8)),
        ("WRITE(16)", |lba| cdb16(0x8a, 0, u64::from(lba), 8)),
    ];
    let reads: [Form; 4] = [
        ("READ(6)", |lba| cdb6(0x08, lba, 8)),
        ("READ(10)", |lba| cdb10(0x28, 0, lba, 8)),
        ("READ(12)", |lba| cdb12(0xa8, lba, 8)),
        ("READ(16)", |lba| cdb16(0x88, 0, u64::from(lba), 8)),
    ];
    for (n, (write_name, write)) in writes.iter().enumerate() {
        let lba = 100 + 16 * n as u32;
        let stamp = oracle.fresh_stamp();
        let mut bytes = vec![0; 8 * UNIT];
        oracle.fill(lba as usize, stamp, &mut bytes);
        let done = disk.cdb(&write(lba), Cdb::Out(bytes));
        check!(done.ok(), "{write_name}: {done}");
        oracle.wrote(lba as usize, 8, stamp);
        for (read_name, read) in &reads {
            let bytes = data_of(&disk, read_name, &read(lba), 8 * UNIT)?;
            oracle.check(lba as usize, &bytes).map_err(|text| format!("{write_name} then {read_name}: {text}"))?;
            ctx.count("pairs", 1);
        }
    }
    // READ(6) with a count of 0 means 256 blocks (SBC-3, 5.7).
    let bytes = data_of(&disk, "READ(6) of 256 blocks", &cdb6(0x08, 96, 0), 256 * UNIT)?;
    oracle.check(96, &bytes)?;
    // A count of 0 in the longer forms means nothing is moved.
    let done = disk.cdb(&cdb10(0x28, 0, 100, 0), Cdb::None);
    check!(done.ok(), "READ(10) of 0 blocks: {done}");
    ctx.want("pairs", 16);
    Ok(())
}

fn identity(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut serials = Vec::new();
    for index in 0..2 {
        let disk = Disk::find(ctx, index)?;
        let standard = data_of(&disk, "INQUIRY", &inquiry(None, 96), 96)?;
        check!(standard[0] == 0, "peripheral {:#x} is not a connected disk", standard[0]);
        check!(standard[1] & 0x80 == 0, "the disk claims to be removable");
        check!(usize::from(standard[4]) + 5 <= standard.len().max(36), "additional length {}", standard[4]);
        check!(standard[7] & 2 != 0, "CmdQue is not set");
        let pages = data_of(&disk, "VPD 00", &inquiry(Some(0), 255), 255)?;
        let count = usize::from(be16(&pages, 2));
        let list = &pages[4..4 + count];
        check!(list.is_sorted(), "VPD 00 is not in order: {list:02x?}");
        for page in [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2] {
            check!(list.contains(&page), "VPD 00 does not list page {page:02x}: {list:02x?}");
        }
        for &page in list {
            let body = data_of(&disk, "VPD", &inquiry(Some(page), 255), 255)?;
            check!(body[1] == page, "VPD {page:02x} calls itself {:02x}", body[1]);
            check!(usize::from(be16(&body, 2)) + 4 <= body.len(), "VPD {page:02x} is cut: {}", be16(&body, 2));
            ctx.count("VPD pages", 1);
        }
        let serial = data_of(&disk, "VPD 80", &inquiry(Some(0x80), 255), 255)?;
        let serial = serial[4..4 + usize::from(be16(&serial, 2))].to_vec();
        check!(serial.len() >= 8, "a serial number of {} bytes cannot be unique", serial.len());
        check!(serial.iter().all(|byte| (0x20..0x7f).contains(byte)), "serial {serial:02x?} is not ASCII");
        check!(!serials.contains(&serial), "two disks have serial {serial:02x?}");
        serials.push(serial);
        let ids = data_of(&disk, "VPD 83", &inquiry(Some(0x83), 255), 255)?;
        let len = usize::from(be16(&ids, 2));
        check!(len >= 8, "VPD 83 has no identifier");
        let mut at = 4;
        while at < 4 + len {
            let each = usize::from(ids[at + 3]);
            check!(each > 0 && at + 4 + each <= 4 + len, "VPD 83: a descriptor of {each} bytes at {at} of {len}");
            at += 4 + each;
        }
        let luns = data_of(&disk, "REPORT LUNS", &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], 16)?;
        check!(be32(&luns, 0) == 8 && be64(&luns, 8) == 0, "REPORT LUNS: {luns:02x?}");
        // A short allocation length cuts the answer, it is no error (SPC-4, 4.2.5.6).
        let short = disk.cdb(&inquiry(None, 5), Cdb::In(5));
        check!(short.ok() && short.data.len() == 5, "INQUIRY of 5 bytes: {short}");
        refused(ctx, &disk, "VPD page EE", &inquiry(Some(0xee), 255), Cdb::In(255), ILLEGAL, INVALID_FIELD)?;
        refused(ctx, &disk, "page without EVPD", &[0x12, 0, 0x80, 0, 96, 0], Cdb::In(96), ILLEGAL, INVALID_FIELD)?;
    }
    ctx.want("VPD pages", 12);
    ctx.want("refused as due", 4);
    Ok(())
}

fn capacity_and_modes(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    let ten = data_of(&disk, "READ CAPACITY(10)", &cdb10(0x25, 0, 0, 0), 8)?;
    check!(be32(&ten, 0) == 16383 && be32(&ten, 4) == 512, "READ CAPACITY(10): {ten:02x?}");
    let sixteen = data_of(&disk, "READ CAPACITY(16)", &cdb16(0x9e, 0x10, 0, 32), 32)?;
    check!(be64(&sixteen, 0) == 16383 && be32(&sixteen, 8) == 512, "READ CAPACITY(16): {sixteen:02x?}");
    check!(sixteen[13] & 0x0f == 3, "512e: 8 logical blocks in a physical one, exponent {}", sixteen[13] & 0x0f);
    check!(sixteen[14] & 0x80 != 0, "LBPME is clear though the backend discards");
    for (what, cdb, header) in [
        ("MODE SENSE(6)", vec![0x1a, 0, 0x3f, 0, 192, 0], 4_usize),
        ("MODE SENSE(10)", vec![0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 192, 0], 8),
    ] {
        let modes = data_of(&disk, what, &cdb, 192)?;
        let (len, flags, descriptors) = if header == 4 {
            (usize::from(modes[0]) + 1, modes[2], usize::from(modes[3]))
        } else {
            (usize::from(be16(&modes, 0)) + 2, modes[3], usize::from(be16(&modes, 6)))
        };
        check!(flags & 0x80 == 0, "{what}: write-protected");
        check!(flags & 0x10 != 0, "{what}: DPOFUA is clear though the backend flushes");
        let mut at = header + descriptors;
        let mut caching = None;
        while at + 2 <= len {
            if modes[at] & 0x3f == 8 {
                caching = Some(modes[at + 2]);
            }
            at += 2 + usize::from(modes[at + 1]);
        }
        check!(at == len, "{what}: the pages end at {at}, the header says {len}");
        check!(caching.is_some_and(|flags| flags & 4 != 0), "{what}: no caching page with WCE: {caching:?}");
    }
    let ready = disk.cdb(&[0; 6], Cdb::None);
    check!(ready.ok(), "TEST UNIT READY: {ready}");
    let start = disk.cdb(&[0x1b, 0, 0, 0, 1, 0], Cdb::None);
    check!(start.ok(), "START STOP UNIT (start): {start}");
    let sense = data_of(&disk, "REQUEST SENSE", &[0x03, 0, 0, 0, 18, 0], 18)?;
    check!(sense[0] & 0x7f == 0x70 && sense[2] & 0x0f == 0, "REQUEST SENSE: {sense:02x?}");
    refused(ctx, &disk, "MODE SENSE of page 3E", &[0x1a, 0, 0x3e, 0, 192, 0], Cdb::In(192), ILLEGAL, INVALID_FIELD)?;
    ctx.want("refused as due", 1);
    Ok(())
}

fn cache_and_unmap(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    let mut oracle = Oracle::new(0, disk.units());
    let mut bytes = vec![0; 64 * UNIT];
    let stamp = oracle.fresh_stamp();
    oracle.fill(1000, stamp, &mut bytes);
    let done = disk.cdb(&cdb10(0x2a, 0, 1000, 64), Cdb::Out(bytes.clone()));
    check!(done.ok(), "WRITE(10): {done}");
    oracle.wrote(1000, 64, stamp);
    check!(ctx.world.unflushed_units(0) >= 64, "the write is durable without a flush: the oracle sees nothing");
    for (what, cdb) in
        [("SYNCHRONIZE CACHE(10)", cdb10(0x35, 0, 0, 0)), ("SYNCHRONIZE CACHE(16)", cdb16(0x91, 0, 0, 0))]
    {
        let before = ctx.world.disk_stats(0).flushes;
        let done = disk.cdb(&cdb, Cdb::None);
        check!(done.ok(), "{what}: {done}");
        check!(ctx.world.disk_stats(0).flushes > before, "{what} was reported done without a flush");
        check!(ctx.world.unflushed_units(0) == 0, "{what}: {} units unflushed", ctx.world.unflushed_units(0));
        ctx.count("flushes", 1);
    }
    // FUA: durable when reported done (SBC-3, 4.15).
    let stamp = oracle.fresh_stamp();
    oracle.fill(1000, stamp, &mut bytes);
    let done = disk.cdb(&cdb10(0x2a, 0x08, 1000, 64), Cdb::Out(bytes.clone()));
    check!(done.ok(), "WRITE(10) with FUA: {done}");
    oracle.wrote(1000, 64, stamp);
    check!(ctx.world.unflushed_units(0) == 0, "FUA: {} units unflushed", ctx.world.unflushed_units(0));

    // UNMAP of two ranges in one list.
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (lba, count) in [(1008_u64, 8_u32), (1040, 16)] {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&count.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
        oracle.wrote(lba as usize, count as usize, 0);
    }
    let done = disk.cdb(&[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], Cdb::Out(list));
    check!(done.ok(), "UNMAP: {done}");
    check!(ctx.world.disk_stats(0).discards >= 2, "UNMAP did not reach the backend");
    let read = disk.read(990, Buffer::new(100 * UNIT, 0)).expect_ok("read")?;
    oracle.check(990, read.buffer.bytes())?;
    // A range past the end, a list that is cut, a descriptor length that lies.
    let mut past = vec![0, 22, 0, 16, 0, 0, 0, 0];
    past.extend_from_slice(&(disk.units() as u64 - 4).to_be_bytes());
    past.extend_from_slice(&8_u32.to_be_bytes());
    past.extend_from_slice(&[0; 4]);
    let unmap = |len: u8| [0x42, 0, 0, 0, 0, 0, 0, 0, len, 0];
    refused(ctx, &disk, "UNMAP past the end", &unmap(24), Cdb::Out(past), ILLEGAL, LBA_OUT_OF_RANGE)?;
    let done = disk.cdb(&unmap(8), Cdb::Out(vec![0, 6, 0, 0, 0, 0, 0, 0]));
    check!(done.ok(), "an UNMAP list without a range is no error (SBC-3, 5.28): {done}");
    let lying = disk.cdb(&unmap(12), Cdb::Out(vec![0, 0xff, 0, 0xf0, 0, 0, 0, 0, 0, 0, 0, 0]));
    ctx.count("lying list answered", 1);
    check!(lying.completed(), "an UNMAP list that lies about its length was not answered");
    let read = disk.read(990, Buffer::new(100 * UNIT, 0)).expect_ok("read")?;
    oracle.check(990, read.buffer.bytes())?;
    ctx.want("flushes", 2);
    ctx.want("refused as due", 1);
    Ok(())
}

fn malformed(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    let end = disk.units() as u32;
    for opcode in [0x04_u8, 0x0b, 0x34, 0x3b, 0x41, 0x4c, 0x5e, 0x5f, 0x7f, 0x83, 0x93, 0xc0, 0xff] {
        let mut cdb = vec![0; 16];
        cdb[0] = opcode;
        refused(ctx, &disk, &format!("operation code {opcode:02x}"), &cdb, Cdb::None, ILLEGAL, INVALID_OPCODE)?;
    }
    for (what, cdb) in [
        ("READ(10) at the end", cdb10(0x28, 0, end, 1)),
        ("READ(10) across the end", cdb10(0x28, 0, end - 1, 2)),
        ("READ(16) far away", cdb16(0x88, 0, u64::MAX, 1)),
        ("READ(16) that wraps", cdb16(0x88, 0, u64::MAX - 1, 8)),
        ("READ(12) far away", cdb12(0xa8, u32::MAX, 1)),
    ] {
        let blocks = if what.contains("across") {
            2
        } else if what.contains("wraps") {
            8
        } else {
            1
        };
        refused(ctx, &disk, what, &cdb, Cdb::In(blocks * UNIT), ILLEGAL, LBA_OUT_OF_RANGE)?;
    }
    for (what, cdb) in
        [("WRITE(10) across the end", cdb10(0x2a, 0, end - 1, 2)), ("WRITE(16) far away", cdb16(0x8a, 0, 1 << 40, 2))]
    {
        refused(ctx, &disk, what, &cdb, Cdb::Out(vec![0x5a; 2 * UNIT]), ILLEGAL, LBA_OUT_OF_RANGE)?;
    }
    refused(
        ctx,
        &disk,
        "READ CAPACITY(16) service action",
        &cdb16(0x9e, 0x1f, 0, 32),
        Cdb::In(32),
        ILLEGAL,
        INVALID_FIELD,
    )?;
    // A buffer that is shorter than what the CDB asks for: refused, never overrun (the pool's red zones watch).
    for (what, cdb, data) in [
        ("READ(10) of 8 blocks into 512 bytes", cdb10(0x28, 0, 0, 8), Cdb::In(512)),
        ("WRITE(10) of 8 blocks from 512 bytes", cdb10(0x2a, 0, 0, 8), Cdb::Out(vec![0; 512])),
        ("READ(10) of 8 blocks into nothing", cdb10(0x28, 0, 0, 8), Cdb::None),
        ("UNMAP without a list", vec![0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], Cdb::None),
    ] {
        let done = disk.cdb(&cdb, data);
        check!(!done.ok() && done.completed(), "{what}: {done}");
        ctx.count("refused as due", 1);
    }
    let oracle = Oracle::new(0, disk.units());
    let read = disk.read(0, Buffer::new(64 * UNIT, 0)).expect_ok("read")?;
    oracle.check(0, read.buffer.bytes())?;
    ctx.want("refused as due", 25);
    Ok(())
}

/// Operation codes that xenvbd answers, and some that it refuses.
const KNOWN: [u8; 24] = [
    0x00, 0x03, 0x08, 0x12, 0x1a, 0x1b, 0x25, 0x28, 0x2f, 0x35, 0x42, 0x5a, 0x88, 0x8f, 0x91, 0x9e, 0xa0, 0xa8, 0xaf,
    0x1e, 0x16, 0x17, 0x56, 0x57,
];

fn random_cdbs(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    use rand::RngExt;
    let disk = Disk::find(ctx, 0)?;
    // Nothing here may write: any change of the data is a fault. UNMAP is sent without a list only.
    for round in 0..20_000_u32 {
        let len = [6_usize, 10, 12, 16][ctx.rng.random_range(0..4)];
        let mut cdb: Vec<u8> = (0..len).map(|_| ctx.rng.random()).collect();
        if ctx.rng.random_bool(0.8) {
            cdb[0] = KNOWN[ctx.rng.random_range(0..KNOWN.len())];
        }
        let writes = matches!(cdb[0], 0x0a | 0x2a | 0xaa | 0x8a | 0x2e | 0xae | 0x8e | 0x41 | 0x93 | 0x89 | 0x9c);
        if writes {
            cdb[0] = 0x28;
        }
        let data = match ctx.rng.random_range(0..4) {
            0 => Cdb::None,
            1 if cdb[0] != 0x42 => Cdb::Out(vec![0xa5; ctx.rng.random_range(1..2048)]),
            _ if cdb[0] == 0x42 => Cdb::None,
            _ => Cdb::In(ctx.rng.random_range(1..8192)),
        };
        let done = disk.cdb(&cdb, data);
        check!(done.completed(), "round {round}: {cdb:02x?} was never answered: {done}");
        ctx.count(if done.ok() { "answered" } else { "refused" }, 1);
    }
    let oracle = Oracle::new(0, disk.units());
    let mut first = 0;
    while first < disk.units() {
        let count = 2048.min(disk.units() - first);
        let read = disk.read(first, Buffer::new(count * UNIT, 0)).expect_ok("read")?;
        oracle.check(first, read.buffer.bytes())?;
        first += count;
    }
    ctx.want("answered", 500);
    ctx.want("refused", 5000);
    Ok(())
}

fn read_only(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    let modes = data_of(&disk, "MODE SENSE(6)", &[0x1a, 0, 0x3f, 0, 192, 0], 192)?;
    check!(modes[2] & 0x80 != 0, "the WP bit is clear");
    for (what, cdb) in [("WRITE(10)", cdb10(0x2a, 0, 0, 1)), ("WRITE(16)", cdb16(0x8a, 0, 0, 1))] {
        refused(ctx, &disk, what, &cdb, Cdb::Out(vec![1; UNIT]), DATA_PROTECT, WRITE_PROTECTED)?;
    }
    let stats = ctx.world.disk_stats(0);
    check!(stats.writes == 0, "{} writes reached the backend", stats.writes);
    let bytes = data_of(&disk, "READ(10)", &cdb10(0x28, 0, 0, 8), 8 * UNIT)?;
    Oracle::new(0, disk.units()).check(0, &bytes)?;
    ctx.want("refused as due", 2);
    Ok(())
}

fn verify(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    // BYTCHK = 1 with data that differs: MISCOMPARE, or refused as a field that is not supported. Never success.
    for (what, cdb) in [("VERIFY(10)", cdb10(0x2f, 0x02, 0, 1)), ("VERIFY(16)", cdb16(0x8f, 0x02, 0, 1))] {
        let done = disk.cdb(&cdb, Cdb::Out(vec![0xff; UNIT]));
        let Some(sense) = done.sense else { fail!("{what} with other data: {done}") };
        check!(!done.ok() && (sense.key == 0x0e || sense.key == ILLEGAL), "{what} with other data: {done}");
        ctx.count("not lied", 1);
    }
    // BYTCHK = 0: the medium is read, or the command is refused.
    let before = ctx.world.disk_stats(0).reads;
    let done = disk.cdb(&cdb10(0x2f, 0, 0, 8), Cdb::None);
    check!(done.completed(), "VERIFY(10) was not answered");
    if done.ok() {
        check!(ctx.world.disk_stats(0).reads > before, "VERIFY(10) was reported done without a read");
    } else {
        check!(done.sense.is_some_and(|sense| sense.key == ILLEGAL), "VERIFY(10): {done}");
    }
    let past = disk.cdb(&cdb10(0x2f, 0, disk.units() as u32, 1), Cdb::None);
    check!(!past.ok(), "VERIFY(10) past the end succeeded");
    ctx.want("not lied", 2);
    Ok(())
}
