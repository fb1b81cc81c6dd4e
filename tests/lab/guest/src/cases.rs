//! Cases that only a real dom0 makes sense for.

mod crash;
mod net;
mod serial;
mod service;
mod twins;

use crate::power::{self, Reason};
use crate::trace::{Backend, Suspend};
use crate::{bench, processor, suspend, trace, trap, world};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use sha2::{Digest as _, Sha256};
use suites::case::{Case, Ctx, Failure, Setup};
use suites::cases::load::{Load, Shape};
use suites::check;
use suites::guest::{Buffer, Disk, vdev};
use suites::world::DiskSpec;

/// Milliseconds that a device gets to go.
const GONE_MS: u64 = 30_000;

const fn case(
    name: &'static str,
    summary: &'static str,
    setup: fn(u64) -> Setup,
    run: fn(&mut Ctx<'_>) -> Result<(), Failure>,
) -> Case {
    // How long it may take stands in cases.txt: the host kills it, not the guest.
    Case { name, summary, quick: true, timeout_s: 0, setup, run }
}

/// All of the lab's own.
pub fn all() -> impl Iterator<Item = &'static Case> {
    CASES.iter().chain(crash::CASES).chain(net::CASES).chain(serial::CASES).chain(service::CASES).chain(twins::CASES)
}

/// The cases of disks and of the machine.
const CASES: &[Case] = &[
    case(
        "lab/hash",
        "blkback: the same SHA-256 on both sides of what the guest wrote, and of what dom0 wrote",
        |_| Setup::one_disk(4),
        hash,
    ),
    case(
        "lab/trace",
        "Every hypercall of the drivers and the ring's indices from start to detach, for the model to replay",
        |_| traced(Setup::one_disk(4)),
        |ctx| trace::record(ctx, Backend::Blkback, Suspend::None),
    ),
    case(
        "lab/trace-line-two-level",
        "The same with 2-level event channels and the PCI interrupt",
        |_| traced(Setup { fifo: false, vectors: false, ..Setup::one_disk(4) }),
        |ctx| trace::record(ctx, Backend::Blkback, Suspend::None),
    ),
    case(
        "lab/trace-qdisk",
        "The same with QEMU's block backend",
        |_| traced(Setup::default()),
        |ctx| trace::record(ctx, Backend::Qdisk, Suspend::None),
    ),
    case(
        "lab/trace-cancelled",
        "The same with a cancelled suspend in the middle",
        |_| traced(Setup::one_disk(4)),
        |ctx| trace::record(ctx, Backend::Blkback, Suspend::Cancelled),
    ),
    case(
        "lab/trace-restored",
        "The same with xl save and xl restore in the middle",
        |_| traced(Setup::one_disk(4)),
        |ctx| trace::record(ctx, Backend::Blkback, Suspend::Restored),
    ),
    // Made by `cargo xtask lab --bench` alone: it is on no list.
    case("lab/bench", "Loads that the agent asks for and measures", |_| Setup::default(), bench::serve),
    case("lab/discard", "UNMAP punches holes in dom0's file", |_| Setup::one_disk(8), discard),
    case(
        "lab/qdisk-raw",
        "QEMU's block backend, raw file: verified random I/O, equal hashes",
        |_| Setup::default(),
        |ctx| qdisk(ctx, "raw"),
    ),
    case(
        "lab/qdisk-qcow2",
        "QEMU's block backend, qcow2 file: verified random I/O; equal hashes of what the guest wrote, and of what dom0 did",
        |_| Setup::default(),
        |ctx| qdisk(ctx, "qcow2"),
    ),
    case(
        "lab/resize",
        "A file that grows and a loop device that is told: Windows sees the size, the new part works",
        |_| Setup::one_disk(4),
        resize,
    ),
    case(
        "lab/watches",
        "xenstore-write in dom0 fires watches of the bus and of a disk",
        |_| Setup::one_disk(4),
        watches,
    ),
    case(
        "lab/transactions",
        "xenstore transactions of the frontend that conflict with dom0's writes are run again",
        |_| Setup::one_disk(4),
        transactions,
    ),
    case(
        "lab/grants",
        "The grant table grows past its first frame; idle, detached and stopped, nothing is mapped, as Xen lists it",
        |_| Setup::one_disk(8),
        grants,
    ),
    case(
        "lab/two-processors",
        "Two processors: upcalls on both, verified load on two disks, a suspend that captures both",
        |_| Setup { disks: alloc::vec![DiskSpec::new(0, 8), DiskSpec::new(1, 8)], ..Setup::default() },
        two_processors,
    ),
    case(
        "lab/attach-detach",
        "xl block-attach and block-detach 5 times under load on another disk",
        |_| Setup::one_disk(8),
        |ctx| attach_detach(ctx, 5),
    ),
    case(
        "lab/attach-detach-x20",
        "xl block-attach and block-detach 20 times under load on another disk",
        |_| Setup::one_disk(8),
        |ctx| attach_detach(ctx, 20),
    ),
    case(
        "lab/save-restore",
        "xl save and xl restore 3 times with requests in flight: nothing lost, no error",
        |_| Setup::one_disk(8),
        |ctx| save_restore(ctx, 3),
    ),
    case(
        "lab/save-restore-x10",
        "xl save and xl restore 10 times with requests in flight: nothing lost, no error",
        |_| Setup::one_disk(8),
        |ctx| save_restore(ctx, 10),
    ),
    case(
        "lab/cancelled-suspend",
        "xl save -c twice with requests in flight: nothing lost, nothing sent twice",
        |_| Setup::one_disk(8),
        |ctx| cancelled(ctx, 2),
    ),
    case(
        "lab/cancelled-suspend-x5",
        "xl save -c 5 times with requests in flight: nothing lost, nothing sent twice",
        |_| Setup::one_disk(8),
        |ctx| cancelled(ctx, 5),
    ),
    case(
        "lab/destroy-under-load",
        "xl destroy under load: dom0 is left with no zombie, no backend node, no busy loop device",
        |_| Setup::one_disk(8),
        destroy,
    ),
    case(
        "lab/power-off",
        "Windows goes off: xl's log has the reason poweroff",
        |_| Setup::one_disk(4),
        |ctx| shut_down(ctx, Reason::PowerOff),
    ),
    case(
        "lab/reboot",
        "Windows starts again: xl's log has the reason reboot",
        |_| Setup::one_disk(4),
        |ctx| shut_down(ctx, Reason::Reboot),
    ),
];

/// The drivers of this setup are traced from their start.
fn traced(setup: Setup) -> Setup {
    trace::start();
    setup
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Bytes of the pieces in which [`fill`] and [`hash_of`] go through a disk.
const STEP: usize = 1 << 17;

/// Words that no two places have in common.
fn words(first_unit: usize, salt: u64, bytes: &mut [u8]) {
    for (n, word) in bytes.chunks_exact_mut(8).enumerate() {
        let place = (first_unit * 64 + n) as u64;
        word.copy_from_slice(&(place ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
}

/// Fills a disk with [`words`] and flushes it; the hash of what was written.
fn fill(ctx: &mut Ctx<'_>, disk: &Disk, salt: u64) -> Result<String, Failure> {
    let mut whole = Sha256::new();
    for first in (0..disk.units()).step_by(STEP / 512) {
        let mut buffer = Buffer::new(STEP, 0);
        words(first, salt, buffer.bytes_mut());
        whole.update(buffer.bytes());
        disk.write(first, buffer).expect_ok("write")?;
        ctx.count("writes", 1);
    }
    disk.flush().expect_ok("flush")?;
    Ok(hex(&whole.finalize()))
}

/// The hash of what the guest reads.
fn hash_of(disk: &Disk) -> Result<String, Failure> {
    let mut whole = Sha256::new();
    for first in (0..disk.units()).step_by(STEP / 512) {
        whole.update(disk.read(first, Buffer::new(STEP, 0)).expect_ok("read")?.buffer.bytes());
    }
    Ok(hex(&whole.finalize()))
}

/// Has dom0 write [`words`] into the file behind a disk; the hash of what the guest reads, which must be dom0's.
fn filled_by_dom0(ctx: &mut Ctx<'_>, disk: &Disk, index: u32) -> Result<String, Failure> {
    for first in (0..disk.units()).step_by(STEP / 512) {
        let mut piece = alloc::vec![0; STEP];
        words(first, 2, &mut piece);
        ctx.world.write_backing(index, first as u64, &piece);
    }
    let (ours, theirs) = (hash_of(disk)?, world::hash(index));
    check!(ours == theirs, "dom0 wrote {theirs}, the guest reads {ours}");
    Ok(ours)
}

fn hash(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    let (ours, theirs) = (fill(ctx, &disk, 1)?, world::hash(0));
    check!(ours == theirs, "the guest wrote {ours}, dom0 reads {theirs}");
    ctx.set("write requests of blkback", ctx.world.disk_stats(0).writes);
    filled_by_dom0(ctx, &disk, 0)?;
    ctx.want("writes", 1);
    ctx.want("write requests of blkback", 1);
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

/// Waits until the toolstack and Windows have let go of a disk that was told to go; `meanwhile` is done again and again.
fn wait_until_gone(
    ctx: &mut Ctx<'_>,
    index: u32,
    mut meanwhile: impl FnMut(&mut Ctx<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut waited = 0;
    while !ctx.world.disk_gone(index) || Disk::present(index) {
        check!(waited < GONE_MS, "{waited} ms after the detach the disk is still there");
        meanwhile(ctx)?;
        ctx.world.sleep_ms(50);
        waited += 50;
    }
    Ok(())
}

fn qdisk(ctx: &mut Ctx<'_>, format: &str) -> Result<(), Failure> {
    world::attach_qdisk(1, 8 << 11, format);
    let mut load = Load::new(Disk::find(ctx, 1)?, Shape::default());
    load.run(ctx, 150)?;
    load.verify_guest(ctx)?;
    let mut ours = fill(ctx, load.disk(), 3)?;
    if format == "raw" {
        let theirs = world::hash(1);
        check!(ours == theirs, "the guest wrote {ours}, dom0 reads {theirs}");
        ours = filled_by_dom0(ctx, load.disk(), 1)?;
    }
    drop(load);
    ctx.world.detach_disk(1);
    wait_until_gone(ctx, 1, |_| Ok(()))?;
    let theirs = world::hash(1);
    check!(ours == theirs, "the guest has {ours}, dom0 reads {theirs} after the detach");
    if format == "qcow2" {
        let theirs = world::attach_filled(1, 8 << 11);
        let ours = hash_of(&Disk::find(ctx, 1)?)?;
        check!(ours == theirs, "dom0 wrote {theirs} before the attach, the guest reads {ours}");
        // It stays attached: after a detach QEMU may write into the backend's directory that the toolstack removed.
    }
    ctx.want("requests verified", 150);
    Ok(())
}

fn attach_detach(ctx: &mut Ctx<'_>, rounds: u64) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape { largest: 16 << 10, ..Shape::default() });
    for round in 0..rounds {
        load.fill_queue(ctx);
        ctx.world.attach_disk(&DiskSpec::new(1, 2));
        let found = Disk::find(ctx, 1).map_err(|failure| Failure(format!("round {round}: {failure}")))?;
        let mut other = Load::new(found, Shape { largest: 16 << 10, depth: 4, ..Shape::default() });
        other.run(ctx, 6)?;
        other.drain(ctx)?;
        drop(other);
        load.run(ctx, 4)?;
        ctx.world.detach_disk(1);
        wait_until_gone(ctx, 1, |ctx| load.run(ctx, 1))
            .map_err(|failure| Failure(format!("round {round}: {failure}")))?;
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

/// Lines of the log with a text in them.
fn logged(ctx: &Ctx<'_>, text: &str) -> usize {
    ctx.world.log().iter().filter(|line| line.contains(text)).count()
}

/// Waits until the log has so many lines with a text in them.
fn wait_for_line(ctx: &Ctx<'_>, text: &str, count: usize) -> Result<(), Failure> {
    let mut waited = 0;
    while logged(ctx, text) < count {
        check!(waited < 10_000, "{waited} ms have passed and no line says `{text}`");
        ctx.world.sleep_ms(20);
        waited += 20;
    }
    Ok(())
}

fn watches(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape::default());
    load.run(ctx, 20)?;
    load.drain(ctx)?;
    let home = ctx.world.home();
    // The bus's watch: a request that is none for it is named in the log.
    ctx.world.store_write(&format!("{home}/control/shutdown"), "lab");
    wait_for_line(ctx, "control/shutdown = lab", 1)?;
    ctx.count("watches fired", 1);
    // A disk's watch: the backend's size and state, written by hand, there and back.
    let Some(backend) = ctx.world.store_read(&format!("{home}/device/vbd/{}/backend", vdev(0))) else {
        suites::fail!("the disk has no backend node");
    };
    let units = load.disk().units();
    for (round, units) in [units / 2, units].into_iter().enumerate() {
        ctx.world.store_write(&format!("{backend}/sectors"), &format!("{units}"));
        ctx.world.store_write(&format!("{backend}/state"), "4");
        wait_for_line(ctx, &format!("resized to {units} sectors"), 1)
            .map_err(|failure| Failure(format!("round {round}: {failure}")))?;
        ctx.count("watches fired", 1);
    }
    load.run(ctx, 20)?;
    load.verify_all(ctx)?;
    ctx.want("watches fired", 3);
    Ok(())
}

fn transactions(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    world::start_conflicts(1, 3);
    ctx.world.attach_disk(&DiskSpec::new(1, 4));
    let disk = Disk::find(ctx, 1)?;
    let (writes, refused) = world::end_conflicts();
    ctx.set("writes of dom0", writes);
    ctx.set("transactions refused", refused);
    let mut load = Load::new(disk, Shape::default());
    load.run(ctx, 20)?;
    load.verify_all(ctx)?;
    ctx.want("transactions refused", 3);
    Ok(())
}

fn grants(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    // The toolstack's own, for console and xenstore.
    const TOOLSTACK: [u32; 2] = [0, 1];
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape { depth: 16, ..Shape::default() });
    load.run(ctx, 60)?;
    let (frames, _) = world::grants();
    ctx.set("frames", frames);
    load.verify_all(ctx)?;

    // Idle: only the ring's pages are mapped.
    let front = format!("{}/device/vbd/{}", ctx.world.home(), vdev(0));
    let mut ring: Vec<u32> = Vec::new();
    while let Some(reference) = ctx.world.store_read(&format!("{front}/ring-ref{}", ring.len())) {
        ring.push(reference.parse().map_err(|_| Failure(format!("`{reference}` is no grant reference")))?);
    }
    let (_, mapped) = world::grants();
    let others: Vec<_> = mapped.iter().filter(|at| !ring.contains(at) && !TOOLSTACK.contains(at)).collect();
    check!(others.is_empty(), "the disk is idle, yet these grants are mapped: {others:?}");
    ctx.set("mapped when idle", mapped.len() as u64);

    // Detached, then the bus stopped: nothing of the drivers' is mapped, and xenpci's own count says the same.
    drop(load);
    ctx.world.detach_disk(0);
    wait_until_gone(ctx, 0, |_| Ok(()))?;
    let (_, mapped) = world::grants();
    check!(mapped.iter().all(|at| TOOLSTACK.contains(at)), "there is no disk, yet these grants are mapped: {mapped:?}");
    let bus = nt::pnp::tree().into_iter().find(|node| node.stack.iter().any(|driver| driver == "xenpci"));
    let id = bus.and_then(|node| nt::pnp::find(&node.instance)).ok_or("there is no bus")?;
    nt::pnp::control::remove(id).map_err(|status| format!("the bus does not stop: {status:#x}"))?;
    check!(logged(ctx, "xenpci: no grant is in use") == 1, "xenpci says that grants are in use");
    let (_, mapped) = world::grants();
    check!(mapped.iter().all(|at| TOOLSTACK.contains(at)), "the bus is stopped, yet these are mapped: {mapped:?}");
    ctx.count("stops", 1);
    ctx.want("frames", 2);
    ctx.want("stops", 1);
    Ok(())
}

/// The load of the suspend cases. A request of Windows is one request of the ring.
const SUSPEND_LOAD: Shape =
    Shape { depth: 16, largest: 64 << 10, writes: 50, misaligned: false, flushes: 2, unmaps: 0 };

/// Suspends `rounds` times with the queue kept full, and sees that requests were in flight each time.
fn suspend(ctx: &mut Ctx<'_>, load: &mut Load, rounds: u64, cancel: bool) -> Result<(), Failure> {
    for round in 0..rounds {
        load.run(ctx, 20)?;
        let before = suspend::in_flight().len();
        ctx.world.suspend(cancel);
        // The agent answers nothing until the toolstack is done. The queue is kept full meanwhile, so that the suspend
        // falls into requests.
        while suspend::in_flight().len() == before {
            load.run(ctx, 1)?;
        }
        let stats = ctx.world.xen_stats();
        let done = stats.suspends + stats.cancelled_suspends;
        check!(done == round + 1, "round {round}: the toolstack did not finish");
        load.run(ctx, 20)?;
        ctx.count("rounds", 1);
    }
    check!(logged(ctx, "xenpci: suspend: done") as u64 == rounds, "xenpci did not get through every suspend");
    let counts = suspend::in_flight();
    check!(counts.iter().all(|&count| count > 0), "requests in flight at each suspend: {counts:?}");
    ctx.set("in flight at the suspends", counts.iter().sum());
    ctx.set("least in flight at one", counts.iter().copied().min().unwrap_or(0));
    ctx.want("rounds", rounds);
    ctx.want("requests verified", rounds * 40);
    Ok(())
}

fn save_restore(ctx: &mut Ctx<'_>, rounds: u64) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, SUSPEND_LOAD);
    suspend(ctx, &mut load, rounds, false)?;
    load.verify_all(ctx)
}

fn cancelled(ctx: &mut Ctx<'_>, rounds: u64) -> Result<(), Failure> {
    let asked = || {
        let disks = nt::disk::disks();
        disks.iter().map(|disk| disk.counters.operations.load(Ordering::Relaxed) as u64).sum::<u64>()
    };
    let carried_out = |ctx: &Ctx<'_>| {
        let stats = ctx.world.disk_stats(0);
        stats.reads + stats.writes + stats.flushes + stats.discards
    };
    let mut load = Load::new(Disk::find(ctx, 0)?, SUSPEND_LOAD);
    let (asked_before, done_before) = (asked(), carried_out(ctx));
    suspend(ctx, &mut load, rounds, true)?;
    load.drain(ctx)?;
    let (asked, done) = (asked() - asked_before, carried_out(ctx) - done_before);
    check!(asked == done, "Windows asked {asked} times, blkback carried out {done} requests");
    ctx.set("requests of blkback", done);
    check!(logged(ctx, ": connected: ") == 1, "the disk was connected again after a cancelled suspend");
    load.verify_all(ctx)
}

fn two_processors(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let count = processor::count();
    check!(count == 2, "the machine has {count} processors");
    let shape = Shape { misaligned: false, largest: 64 << 10, ..Shape::default() };
    let mut loads = [Load::new(Disk::find(ctx, 0)?, shape), Load::new(Disk::find(ctx, 1)?, shape)];
    for round in 0..20_u32 {
        // A load is carried by the thread that asks: it goes from processor to processor.
        nt::ke::sched::set_affinity(1 << (round % 2));
        for load in &mut loads {
            load.fill_queue(ctx);
        }
        for load in &mut loads {
            load.run(ctx, 10)?;
        }
    }
    nt::ke::sched::set_affinity(0b11);
    let [first, second] = &mut loads;
    second.drain(ctx)?;
    suspend(ctx, first, 1, true)?;
    for load in &mut loads {
        load.verify_all(ctx)?;
    }
    ctx.set("device interrupts of processor 0", trap::device_interrupts_of(0));
    ctx.set("device interrupts of processor 1", trap::device_interrupts_of(1));
    ctx.want("device interrupts of processor 0", 1);
    ctx.want("device interrupts of processor 1", 1);
    Ok(())
}

fn destroy(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape { depth: 16, ..Shape::default() });
    load.run(ctx, 20)?;
    world::destroy_under_load(0);
    // The agent has the verdict; the domain does not see the end of this.
    loop {
        load.run(ctx, 20)?;
    }
}

fn shut_down(ctx: &mut Ctx<'_>, reason: Reason) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape::default());
    load.run(ctx, 20)?;
    load.verify_all(ctx)?;
    obey(ctx, reason)
}

/// Windows goes down: the registry is written, every device gets its power IRP, then the machine ends. The agent has the
/// verdict.
fn obey(ctx: &mut Ctx<'_>, reason: Reason) -> Result<(), Failure> {
    ctx.check_wanted()?;
    let counters = ctx.counters().iter().fold(String::new(), |text, (name, value)| text + &format!(", {name} {value}"));
    world::await_shutdown(reason as u32, &counters);
    nt::po::shutdown(reason == Reason::Reboot);
    power::shut_down(reason)
}
