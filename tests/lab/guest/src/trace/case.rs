//! The case that records: requests one at a time, so that every run gives the same indices.

use super::{Ring, done, grant_frame, text, watch};
use crate::{mailbox, memory};
use alloc::format;
use core::ptr::NonNull;
use suites::case::{Ctx, Failure};
use suites::guest::{Buffer, Disk, vdev};
use suites::{check, fail};

/// Milliseconds that a detach may take, with every instruction of the bus driver stepped.
const GONE_MS: u64 = 120_000;
/// Bytes of the requests, in turn.
const SIZES: [usize; 3] = [4096, 512, 32 << 10];

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

/// The case.
pub fn record(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let disk = Disk::find(ctx, 0)?;
    watch(ring(ctx)?);
    for n in 0..9 {
        let size = SIZES[n % SIZES.len()];
        let mut buffer = Buffer::new(size, 0);
        buffer.bytes_mut().fill(n as u8 + 1);
        disk.write(n * 64, buffer).expect_ok("write")?;
        done();
        let back = disk.read(n * 64, Buffer::new(size, 0)).expect_ok("read")?;
        done();
        check!(
            back.buffer.bytes().iter().all(|&byte| byte == n as u8 + 1),
            "the data of request {n} came back changed"
        );
        ctx.count("requests", 2);
    }
    disk.flush().expect_ok("flush")?;
    done();
    disk.submit_unmap(0, 64).wait().expect_ok("unmap")?;
    done();
    ctx.count("requests", 2);
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
    ctx.set("ring indices", with("ring "));
    ctx.set("hypercalls", text.lines().count() as u64 - with("ring ") - with("request ") - with("response "));
    ctx.want("requests", 20);
    ctx.want("ring indices", 40);
    ctx.want("hypercalls", 20);
    Ok(())
}
