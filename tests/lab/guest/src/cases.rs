//! Cases that only a real dom0 makes sense for.

use crate::world;
use alloc::format;
use alloc::string::String;
use sha2::{Digest as _, Sha256};
use suites::case::{Case, Ctx, Failure, Setup};
use suites::cases::load::{Load, Shape};
use suites::check;
use suites::guest::{Buffer, Disk};

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "lab/hash",
        summary: "What the guest wrote and flushed has the hash that dom0 computes of the file",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_disk(4),
        run: hash,
    },
    Case {
        name: "lab/discard",
        summary: "UNMAP punches holes in dom0's file",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_disk(8),
        run: discard,
    },
    Case {
        name: "lab/attach-detach",
        summary: "xl block-attach and block-detach five times under load on another disk",
        quick: true,
        timeout_s: 240,
        setup: |_| Setup::one_disk(8),
        run: |ctx| attach_detach(ctx, 5),
    },
    Case {
        name: "lab/resize",
        summary: "A file that grows and a loop device that is told: Windows sees the size, the new part works",
        quick: true,
        timeout_s: 120,
        setup: |_| Setup::one_disk(4),
        run: resize,
    },
    Case {
        name: "lab/save-restore",
        summary: "xl save and xl restore three times under verified load: nothing lost, no error",
        quick: true,
        timeout_s: 400,
        setup: |_| Setup::one_disk(8),
        run: |ctx| suspend(ctx, 3, false),
    },
    Case {
        name: "lab/cancelled-suspend",
        summary: "xl save -c twice under verified load",
        quick: true,
        timeout_s: 300,
        setup: |_| Setup::one_disk(8),
        run: |ctx| suspend(ctx, 2, true),
    },
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fills the disk with a known sequence and compares dom0's hash of the file with that of what was written.
fn hash(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    let mut whole = Sha256::new();
    let step = 1 << 17;
    for first in (0..disk.units()).step_by(step / 512) {
        let mut buffer = Buffer::new(step, 0);
        for (n, word) in buffer.bytes_mut().chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&((first * 64 + n) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
        whole.update(buffer.bytes());
        disk.write(first, buffer).expect_ok("write")?;
        ctx.count("writes", 1);
    }
    disk.flush().expect_ok("flush")?;
    let (ours, theirs) = (hex(&whole.finalize()), world::hash(0));
    check!(ours == theirs, "the guest wrote {ours}, dom0 reads {theirs}");
    let stats = ctx.world.disk_stats(0);
    ctx.set("requests of blkback", stats.writes);
    ctx.want("writes", 1);
    Ok(())
}

fn discard(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    for first in (0..disk.units()).step_by(256) {
        let mut buffer = Buffer::new(256 * 512, 0);
        buffer.bytes_mut().fill(0x5a);
        disk.write(first, buffer).expect_ok("write")?;
    }
    disk.flush().expect_ok("flush")?;
    let before = world::allocated(0);
    disk.submit_unmap(0, disk.units() / 2).wait().expect_ok("unmap")?;
    disk.flush().expect_ok("flush")?;
    let after = world::allocated(0);
    check!(after * 4 <= before * 3, "the file took {before} blocks before the discard and {after} after it");
    let kept = disk.read(disk.units() / 2, Buffer::new(4096, 0)).expect_ok("read")?;
    check!(kept.buffer.bytes().iter().all(|&byte| byte == 0x5a), "what was not discarded has changed");
    ctx.set("blocks freed", before - after);
    ctx.want("blocks freed", 1);
    Ok(())
}

fn attach_detach(ctx: &mut Ctx<'_>, rounds: u64) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape { largest: 16 << 10, ..Shape::default() });
    for round in 0..rounds {
        load.fill_queue(ctx);
        ctx.world.attach_disk(&suites::world::DiskSpec::new(1, 2));
        let found = Disk::find(ctx, 1).map_err(|failure| Failure(format!("round {round}: {failure}")))?;
        let mut other = Load::new(found, Shape { largest: 16 << 10, depth: 4, ..Shape::default() });
        other.run(ctx, 6)?;
        other.drain(ctx)?;
        drop(other);
        load.run(ctx, 4)?;
        ctx.world.detach_disk(1);
        let mut waited = 0;
        while !ctx.world.disk_gone(1) || Disk::present(1) {
            check!(waited < 30_000, "round {round}: {waited} ms after the detach the disk is still there");
            load.run(ctx, 1)?;
            ctx.world.sleep_ms(50);
            waited += 50;
        }
        ctx.count("rounds", 1);
    }
    load.verify_all(ctx)?;
    ctx.want("rounds", rounds);
    Ok(())
}

fn resize(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape::default());
    load.run(ctx, 20)?;
    for mib in [8_u64, 12] {
        load.drain(ctx)?;
        ctx.world.resize_disk(0, mib * 2048);
        let mut waited = 0;
        while load.disk().current_units() as u64 != mib * 2048 {
            check!(waited < 10_000, "{waited} ms after the resize Windows sees {} units", load.disk().current_units());
            // Linux's blkback looks at its device's size when a request comes.
            load.run(ctx, 1)?;
            ctx.world.sleep_ms(50);
            waited += 50;
        }
        load.drain(ctx)?;
        load.resized(load.disk().current_units());
        load.run(ctx, 20)?;
        ctx.count("resizes seen", 1);
    }
    load.verify_all(ctx)?;
    ctx.want("resizes seen", 2);
    Ok(())
}

/// Suspends that xenpci says it went through, cancelled ones too.
fn suspends_logged(ctx: &Ctx<'_>) -> usize {
    ctx.world.log().iter().filter(|line| line.contains("suspend: ")).count()
}

fn suspend(ctx: &mut Ctx<'_>, rounds: u64, cancel: bool) -> Result<(), Failure> {
    let shape = Shape { largest: 64 << 10, depth: 16, ..Shape::default() };
    let mut load = Load::new(Disk::find(ctx, 0)?, shape);
    let done = |ctx: &Ctx<'_>| {
        let stats = ctx.world.xen_stats();
        stats.suspends + stats.cancelled_suspends
    };
    for round in 0..rounds {
        load.run(ctx, 20)?;
        let before = suspends_logged(ctx);
        ctx.world.suspend(cancel);
        // The agent answers nothing until the toolstack is done. Requests go on meanwhile, with the queue kept full, so
        // that the suspend falls into them; the driver's own line tells that it happened.
        let started = load.done();
        while suspends_logged(ctx) == before {
            load.run(ctx, 1)?;
        }
        ctx.count("requests while the toolstack saved", load.done() - started);
        check!(done(ctx) == round + 1, "round {round}: the toolstack did not finish");
        load.run(ctx, 20)?;
        ctx.count("rounds", 1);
    }
    load.verify_all(ctx)?;
    ctx.want("rounds", rounds);
    ctx.want("requests verified", rounds * 40);
    ctx.want("requests while the toolstack saved", rounds);
    Ok(())
}
