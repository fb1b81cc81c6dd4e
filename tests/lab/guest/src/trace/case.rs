//! The cases that record: requests one at a time, so that every run gives the same indices.

use super::{Ring, done, grant_frame, text, watch};
use crate::{mailbox, memory, suspend, world};
use alloc::format;
use core::ptr::NonNull;
use suites::case::{Ctx, Failure};
use suites::guest::{Buffer, Disk, vdev};
use suites::{check, fail};

/// Milliseconds that a detach may take, with every instruction of the bus driver stepped.
const GONE_MS: u64 = 120_000;
/// Milliseconds for a suspend, as slow.
const SUSPENDED_MS: u64 = 240_000;
/// Milliseconds after a request in which dom0 comes to rest: blkback's thread may answer before it asks to be told of more.
const REST_MS: u64 = 20;
/// Bytes of the requests, in turn.
const SIZES: [usize; 3] = [4096, 512, 32 << 10];
/// Pairs of a write and a read; a suspend comes before the one with this number.
const PAIRS: usize = 9;
const HALF: usize = 5;

/// What is behind the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Linux's blkback: the setup has the disk.
    Blkback,
    /// QEMU's own: the case attaches it.
    Qdisk,
}

/// What happens between the requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Suspend {
    /// Nothing.
    None,
    /// `xl save -c`.
    Cancelled,
    /// `xl save` and `xl restore`.
    Restored,
}

/// The ring of the first disk, found as dom0 finds it: by reference and port in xenstore, and the grant table.
fn ring(ctx: &Ctx<'_>) -> Result<Ring, Failure> {
    let home = format!("{}/device/vbd/{}", ctx.world.home(), vdev(0));
    let read = |key: &str| ctx.world.store_read(&format!("{home}/{key}"))?.trim().parse::<u32>().ok();
    let (order, first) = match read("ring-page-order") {
        Some(order) => (order, read("ring-ref0")),
        None => (0, read("ring-ref")),
    };
    let Some((first, port)) = first.zip(read("event-channel")) else { fail!("the disk is not connected") };
    let Some(frame) = grant_frame(first / 512) else { fail!("the trace has no grant table frame {}", first / 512) };
    let entry = memory::physical((frame << 12) + u64::from(first % 512) * 8);
    check!(memory::is_mapped(entry as usize), "the grant table is at frame {frame:#x}, which is no RAM");
    // SAFETY: an entry of the grant table: the frame's number is its second half.
    let gfn = unsafe { entry.add(4).cast::<u32>().read_volatile() };
    let page = memory::physical(u64::from(gfn) << 12);
    check!(memory::is_mapped(page as usize), "the ring is at frame {gfn:#x}, which is no RAM");
    let slots = (((4096_u32 << order) - super::HEADER) / super::SLOT + 1).next_power_of_two() / 2;
    let Some(page) = NonNull::new(page) else { fail!("the ring is nowhere") };
    Ok(Ring { page, slots, port })
}

/// A request is done: once dom0 rests, its response and the ring are told.
fn at_rest(ctx: &mut Ctx<'_>) {
    ctx.world.sleep_ms(REST_MS);
    done();
    ctx.count("requests", 1);
}

/// Suspends with no request in flight; the ring that there is afterwards is watched.
fn suspend(ctx: &mut Ctx<'_>, how: Suspend) -> Result<(), Failure> {
    let before = suspend::in_flight().len();
    ctx.world.suspend(how == Suspend::Cancelled);
    let mut waited = 0;
    while suspend::in_flight().len() == before {
        check!(waited < SUSPENDED_MS, "{waited} ms after it was asked the guest has not suspended");
        ctx.world.sleep_ms(100);
        waited += 100;
    }
    if how == Suspend::Restored {
        let ring = loop {
            match ring(ctx) {
                Ok(ring) => break ring,
                Err(failure) => check!(waited < SUSPENDED_MS, "{waited} ms after the suspend was asked: {failure}"),
            }
            ctx.world.sleep_ms(100);
            waited += 100;
        };
        watch(ring);
    }
    ctx.count("suspends", 1);
    Ok(())
}

/// The cases.
pub fn record(ctx: &mut Ctx<'_>, backend: Backend, how: Suspend) -> Result<(), Failure> {
    if backend == Backend::Qdisk {
        world::attach_qdisk(0, 4 << 11, "raw");
    }
    let disk = Disk::find(ctx, 0)?;
    watch(ring(ctx)?);
    for n in 0..PAIRS {
        if n == HALF && how != Suspend::None {
            suspend(ctx, how)?;
        }
        let size = SIZES[n % SIZES.len()];
        let mut buffer = Buffer::new(size, 0);
        buffer.bytes_mut().fill(n as u8 + 1);
        disk.write(n * 64, buffer).expect_ok("write")?;
        at_rest(ctx);
        let back = disk.read(n * 64, Buffer::new(size, 0)).expect_ok("read")?;
        at_rest(ctx);
        check!(
            back.buffer.bytes().iter().all(|&byte| byte == n as u8 + 1),
            "the data of request {n} came back changed"
        );
    }
    disk.flush().expect_ok("flush")?;
    at_rest(ctx);
    disk.submit_unmap(0, 64).wait().expect_ok("unmap")?;
    at_rest(ctx);
    drop(disk);
    ctx.world.detach_disk(0);
    let mut waited = 0;
    while !ctx.world.disk_gone(0) || Disk::present(0) {
        check!(waited < GONE_MS, "{waited} ms after the detach the disk is still there");
        ctx.world.sleep_ms(100);
        waited += 100;
    }
    let text = text();
    for piece in text.as_bytes().chunks(mailbox::MOST_DATA) {
        mailbox::ask("evidence trace.txt", piece).map_err(Failure)?;
    }
    let with = |start: &str| text.lines().filter(|line| line.starts_with(start)).count() as u64;
    check!(with("hypercall ") == 0, "the trace has a hypercall that trace/calls.rs does not know");
    check!(!text.contains(" unmapped "), "the trace has an argument at an address that is not mapped");
    let told = with("ring ") + with("request ") + with("response ");
    ctx.set("requests told", with("request "));
    ctx.set("ring indices", with("ring sent ") + with("ring done "));
    ctx.set("hypercalls", text.lines().count() as u64 - told);
    ctx.want("requests", 20);
    if how != Suspend::None {
        ctx.want("suspends", 1);
    }
    ctx.want("requests told", 20);
    ctx.want("ring indices", 40);
    ctx.want("hypercalls", 20);
    Ok(())
}
