//! Data integrity: random I/O against the oracle in every shape, on every kind of disk.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use rand::RngExt;

use crate::case::{Case, Ctx, Failure, Often, Setup};
use crate::cases::load::{Load, Shape};
use crate::check;
use crate::guest::{Buffer, Cdb, Disk};
use crate::oracle::{Oracle, UNIT};
use crate::world::{Backend, DiskSpec};

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "io/random",
        summary: "3,000 random reads, writes, flushes and unmaps, misaligned buffers, verified from both sides",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_disk(16),
        run: |ctx| random(ctx, 3000, Shape { unmaps: 5, ..Shape::default() }),
    },
    Case {
        name: "io/random-stepped",
        summary: "Random I/O on 4 processors with preemption between single instructions",
        quick: false,
        timeout_s: 300,
        setup: |_| Setup { vcpus: 4, stepping: true, ..Setup::one_disk(8) },
        run: |ctx| random(ctx, 500, Shape { largest: 64 << 10, ..Shape::default() }),
    },
    Case {
        name: "io/ring-races",
        summary: "The backend works between any two accesses to the ring, and stores to it are seen late",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { shared_access: Often::Always, ..Setup::one_disk(8) },
        run: |ctx| random(ctx, 3000, Shape { largest: 32 << 10, ..Shape::default() }),
    },
    Case {
        name: "io/minimal-backend",
        summary: "A backend with one ring page and no optional feature at all",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup {
            disks: vec![DiskSpec {
                max_ring_order: 0,
                max_indirect: 0,
                flush: false,
                barrier: false,
                discard: false,
                ..DiskSpec::new(0, 8)
            }],
            ..Setup::default()
        },
        run: minimal_backend,
    },
    Case {
        name: "io/qdisk",
        summary: "QEMU's block backend: it asks to be told of requests only when all are answered",
        quick: true,
        timeout_s: 120,
        setup: |_| served_by(Backend::Qdisk),
        run: untold,
    },
    Case {
        name: "io/busy-dom0",
        summary: "blkback answers requests before it asks to be told of more",
        quick: true,
        timeout_s: 120,
        setup: |_| served_by(Backend::BusyBlkback),
        run: untold,
    },
    Case {
        name: "io/barrier-only",
        summary: "Flush by empty barrier where the backend has no flush",
        quick: false,
        timeout_s: 120,
        setup: |_| Setup { disks: vec![DiskSpec { flush: false, ..DiskSpec::new(0, 8) }], ..Setup::default() },
        run: |ctx| random(ctx, 500, Shape { flushes: 20, ..Shape::default() }),
    },
    Case {
        name: "io/4kn",
        summary: "4 KiB logical sectors: ring units stay 512 bytes",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup {
            disks: vec![DiskSpec { sector_size: 4096, physical_sector_size: 4096, ..DiskSpec::new(0, 16) }],
            ..Setup::default()
        },
        run: |ctx| random(ctx, 800, Shape::default()),
    },
    Case {
        name: "io/large",
        summary: "4 MiB transfers, aligned and not",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { stepping: false, ..Setup::one_disk(64) },
        run: large,
    },
    Case {
        name: "io/depth-254",
        summary: "254 requests in flight",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { stepping: false, ..Setup::one_disk(32) },
        run: depth_254,
    },
    Case {
        name: "io/two-disks",
        summary: "Two disks at once, neither holds the other's data",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup { disks: vec![DiskSpec::new(0, 8), DiskSpec::new(1, 8)], ..Setup::default() },
        run: two_disks,
    },
    Case {
        name: "io/overlap",
        summary: "Overlapping writes one after another: the last one stands",
        quick: false,
        timeout_s: 120,
        setup: |_| Setup::one_disk(4),
        run: overlap,
    },
    Case {
        name: "io/grant-starved",
        summary: "A grant table of two frames: requests wait, none fails",
        quick: false,
        timeout_s: 180,
        setup: |_| Setup { grant_frames: 2, stepping: false, ..Setup::one_disk(16) },
        run: |ctx| random(ctx, 800, Shape { depth: 64, largest: 1 << 20, ..Shape::default() }),
    },
    Case {
        name: "io/resize",
        summary: "The disk grows and shrinks in use; Windows learns the new size without a rescan",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_disk(8),
        run: resize,
    },
    Case {
        name: "io/one-processor",
        summary: "Random I/O on one processor",
        quick: false,
        timeout_s: 120,
        setup: |_| Setup { vcpus: 1, ..Setup::one_disk(8) },
        run: |ctx| random(ctx, 800, Shape::default()),
    },
    Case {
        name: "io/eight-processors",
        summary: "Random I/O on eight processors",
        quick: false,
        timeout_s: 180,
        setup: |_| Setup { vcpus: 8, ..Setup::one_disk(8) },
        run: |ctx| random(ctx, 800, Shape { depth: 32, ..Shape::default() }),
    },
];

fn random(ctx: &mut Ctx<'_>, requests: u64, shape: Shape) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, shape);
    load.run(ctx, requests)?;
    load.verify_all(ctx)?;
    let stats = ctx.world.disk_stats(0);
    ctx.set("most in flight", stats.most_in_flight);
    ctx.set("bytes moved", load.bytes());
    check!(stats.errors == 0, "the backend answered {} requests with an error", stats.errors);
    ctx.want("requests verified", requests);
    ctx.want("most in flight", 2);
    Ok(())
}

fn served_by(backend: Backend) -> Setup {
    Setup { disks: vec![DiskSpec { backend, ..DiskSpec::new(0, 8) }], ..Setup::default() }
}

/// Random I/O with a backend that finds requests of which it was not told.
fn untold(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    random(ctx, 800, Shape { unmaps: 5, ..Shape::default() })?;
    ctx.set("requests found", ctx.world.disk_stats(0).found);
    ctx.want("requests found", 10);
    Ok(())
}

fn minimal_backend(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    // Without flush and barrier nothing can be made durable, so no write cache and no FUA may be promised.
    let modes = disk.cdb(&[0x1a, 0, 0x3f, 0, 192, 0], Cdb::In(192));
    check!(modes.ok(), "MODE SENSE(6): {modes}");
    check!(modes.data[2] & 0x10 == 0, "DPOFUA is promised though the backend cannot flush");
    let mut at = 4 + usize::from(modes.data[3]);
    while at + 2 < modes.data.len().min(usize::from(modes.data[0]) + 1) {
        check!(modes.data[at] & 0x3f != 8 || modes.data[at + 2] & 4 == 0, "a write cache is promised");
        at += 2 + usize::from(modes.data[at + 1]);
    }
    let mut load = Load::new(disk, Shape { depth: 40, flushes: 0, largest: 1 << 20, ..Shape::default() });
    load.run(ctx, 600)?;
    load.drain(ctx)?;
    let stats = ctx.world.disk_stats(0);
    check!(stats.flushes == 0 && stats.discards == 0, "an operation that the backend does not offer was sent");
    check!(stats.most_segments <= 11, "{} segments in a request without indirect", stats.most_segments);
    ctx.want("requests verified", 600);
    Ok(())
}

/// Units of a transfer of 4 MiB.
const COUNT: usize = (4 << 20) / UNIT;

fn large(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    let mut oracle = Oracle::new(0, disk.units());
    for (n, misalign) in [0_usize, 512, 4, 0, 2044].into_iter().enumerate() {
        let first = n * COUNT + 3 * n;
        let stamp = oracle.fresh_stamp();
        let mut buffer = Buffer::new(COUNT * UNIT, misalign);
        oracle.fill(first, stamp, buffer.bytes_mut());
        disk.write(first, buffer).expect_ok("4 MiB write")?;
        oracle.wrote(first, COUNT, stamp);
        let read = disk.read(first, Buffer::new(COUNT * UNIT, misalign)).expect_ok("4 MiB read")?;
        oracle.check(first, read.buffer.bytes())?;
        let mut backing = vec![0; COUNT * UNIT];
        ctx.world.read_backing(0, first as u64, &mut backing);
        oracle.check(first, &backing).map_err(|text| format!("dom0's view: {text}"))?;
        ctx.count("transfers of 4 MiB", 2);
    }
    ctx.set("most segments", ctx.world.disk_stats(0).most_segments);
    ctx.want("transfers of 4 MiB", 10);
    ctx.want("most segments", 12);
    Ok(())
}

fn depth_254(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    // Misaligned buffers are copied through a few pages of the driver's own and wait for them, and the queue keeps its
    // order: with them in it the depth is that of those pages. `io/random` has both at once.
    let shape = Shape { depth: 254, largest: 16 << 10, flushes: 0, misaligned: false, ..Shape::default() };
    let mut load = Load::new(Disk::find(ctx, 0)?, shape);
    // Held responses let the queue fill to its depth before the first one comes back.
    ctx.world.hold_responses(0, true);
    load.fill_queue(ctx);
    ctx.world.sleep_ms(200);
    ctx.set("most in flight", ctx.world.disk_stats(0).most_in_flight);
    ctx.world.hold_responses(0, false);
    load.run(ctx, 4000)?;
    load.verify_all(ctx)?;
    ctx.want("most in flight", 200);
    ctx.want("requests verified", 4000);
    Ok(())
}

fn two_disks(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut loads = [0, 1].map(|index| Disk::find(ctx, index).map(|disk| Load::new(disk, Shape::default())));
    for _ in 0..60 {
        for load in &mut loads {
            let load = load.as_mut().map_err(|failure| failure.clone())?;
            load.fill_queue(ctx);
            load.run(ctx, 10)?;
        }
    }
    for load in &mut loads {
        load.as_mut().map_err(|failure| failure.clone())?.verify_all(ctx)?;
    }
    ctx.want("requests verified", 1200);
    Ok(())
}

fn overlap(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    let mut oracle = Oracle::new(0, disk.units());
    for _ in 0..400 {
        let count = ctx.rng.random_range(1..256);
        let first = ctx.rng.random_range(1000..1200);
        let stamp = oracle.fresh_stamp();
        let mut buffer = Buffer::new(count * UNIT, ctx.rng.random_range(0..64) * 8);
        oracle.fill(first, stamp, buffer.bytes_mut());
        disk.write(first, buffer).expect_ok("write")?;
        oracle.wrote(first, count, stamp);
        ctx.count("overlapping writes", 1);
    }
    let read = disk.read(900, Buffer::new(700 * UNIT, 0)).expect_ok("read")?;
    oracle.check(900, read.buffer.bytes())?;

    // Two overlapping writes in flight at once: a unit holds the one or the other, never a mix and never anything else.
    for round in 0..50 {
        let (a, b) = (oracle.fresh_stamp(), oracle.fresh_stamp());
        let flights: Vec<_> = [(2000, a), (2008, b)]
            .into_iter()
            .map(|(first, stamp)| {
                let mut buffer = Buffer::new(16 * UNIT, 0);
                oracle.fill(first, stamp, buffer.bytes_mut());
                disk.submit_write(first, buffer)
            })
            .collect();
        for io in flights {
            io.wait().expect_ok("overlapping write")?;
        }
        let read = disk.read(2000, Buffer::new(24 * UNIT, 0)).expect_ok("read")?;
        for (n, unit) in read.buffer.bytes().chunks_exact(UNIT).enumerate() {
            let may_a = n < 16 && oracle.is(2000 + n, a, unit);
            let may_b = n >= 8 && oracle.is(2000 + n, b, unit);
            check!(may_a || may_b, "round {round}: unit {} holds neither of two writes", 2000 + n);
        }
        ctx.count("concurrent pairs", 1);
    }
    ctx.want("overlapping writes", 400);
    ctx.want("concurrent pairs", 50);
    Ok(())
}

fn resize(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape::default());
    load.run(ctx, 100)?;
    for mib in [16_u64, 12, 32] {
        load.drain(ctx)?;
        ctx.world.resize_disk(0, mib * 2048);
        let units = (mib * 2048) as usize;
        let mut waited = 0;
        while load.disk().current_units() != units {
            check!(
                waited < 10_000,
                "{waited} ms after the resize Windows still sees {} units",
                load.disk().current_units()
            );
            ctx.world.sleep_ms(20);
            waited += 20;
            // Windows hears of it as a unit attention, which only a command can bring.
            load.disk().read(0, Buffer::new(load.disk().sector_size(), 0)).expect_ok("read")?;
        }
        load.resized(units);
        load.run(ctx, 100)?;
        ctx.count("resizes seen", 1);
    }
    load.verify_all(ctx)?;
    ctx.want("resizes seen", 3);
    Ok(())
}
