//! What the drivers spend on one packet: counted as in [`crate::bench`], for sends and receives in bulk.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use anyhow::{Context, anyhow, ensure};
use nt::net::checksum::transmit;
use nt::net::{Client, Layout, Outgoing};
use process::Steps;
use serde::Serialize;
use suites::net_guest::{Nic, filter};
use suites::packet::{Form, Transport, flag, payload};
use xen_model::Counters;
use xen_model::netback::{Checksum, Frame, Stack, StackOptions, VifOptions};

use crate::bench::{Target, WAKE_NS, is_allocator};
use crate::world::ModelWorld;

/// Packets that are handed over together.
const CHAIN: usize = 64;
/// Payload bytes of a segment of a large packet.
const MSS: usize = 1448;
/// Segments of a large packet.
const SEGMENTS: usize = 45;
/// Simulated milliseconds that a batch gets.
const BATCH_MS: u64 = 1000;

/// How a frame that is sent lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Lie {
    /// In one piece.
    Whole,
    /// Its headers in an MDL and a page of their own, as TCP/IP of Windows gives them, its payload in another MDL.
    HeadersApart,
    /// In more pieces than a backend takes, so that it has to be copied: the gauge of copied bytes must show it.
    Shreds,
}

/// What goes over the wire.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    /// Bytes of the frame.
    bytes: usize,
    send: bool,
    lie: Lie,
    packets: usize,
    stepped: usize,
}

const fn shape(name: &'static str, bytes: usize, send: bool, packets: usize, stepped: usize) -> Shape {
    Shape { name, bytes, send, lie: Lie::Whole, packets, stepped }
}

const LARGE: usize = 54 + MSS * SEGMENTS;
/// Bytes at the beginning of a frame that count as its head: so many Linux's netback copies of each packet by itself
/// (`XEN_NETBACK_TX_COPY_LEN`). A driver may look for headers there before it knows how long they are.
const HEAD: usize = 128;
/// Bytes of a piece of [`Lie::Shreds`].
const SHRED: usize = 32;
/// Where in its page a header begins that lies there alone.
const HEADERS_AT: usize = 0x120;

const SHAPES: [Shape; 9] = [
    shape("send 64 B", 64, true, 4096, 256),
    shape("send 1500 B", 1514, true, 4096, 256),
    Shape { lie: Lie::HeadersApart, ..shape("send 1500 B, headers apart", 1514, true, 4096, 256) },
    shape("send 64 KiB", LARGE, true, 256, 16),
    Shape { lie: Lie::HeadersApart, ..shape("send 64 KiB, headers apart", LARGE, true, 256, 16) },
    Shape { lie: Lie::Shreds, ..shape("send 1500 B in shreds", 1514, true, 256, 16) },
    shape("receive 64 B", 64, false, 4096, 256),
    shape("receive 1500 B", 1514, false, 4096, 256),
    shape("receive 64 KiB", LARGE, false, 256, 16),
];

impl Shape {
    fn large(self) -> bool {
        self.bytes > 1514
    }

    fn form(self, nic: &Nic) -> Form {
        let transport = if self.large() { Transport::Tcp { options: 0 } } else { Transport::Udp };
        Form { transport, ports: (49_000, 40_000), from_guest: self.send, ..Form::tcp(nic.mac()) }
    }

    /// How the frame lies whose payload begins at `payload`.
    fn layout(self, payload: usize) -> Layout {
        match self.lie {
            Lie::Whole => Layout::default(),
            Lie::HeadersApart => Layout { pieces: vec![payload], offsets: vec![HEADERS_AT, 0], ..Layout::default() },
            Lie::Shreds => Layout { pieces: vec![SHRED; self.bytes / SHRED], ..Layout::default() },
        }
    }
}

/// What one packet took on average.
#[derive(Serialize)]
pub struct NetLine {
    name: String,
    bytes: usize,
    send: bool,
    lie: Lie,
    packets: usize,
    stepped_packets: usize,
    instructions: Vec<(String, f64)>,
    sends: f64,
    upcalls: f64,
    /// Grants that the backend mapped or copied by.
    grants: f64,
    grant_hypercalls: f64,
    export_calls: f64,
    /// Bytes behind the head that drivers read, by byte moved: a copy reads what it copies.
    copied: f64,
    /// The same by packet.
    copied_bytes: f64,
    /// Bytes of the places behind the head that drivers wrote, by byte moved: receive pages are scrubbed before the backend has
    /// them again.
    written: f64,
    /// Bytes of received heads that drivers read, by packet.
    heads: f64,
    allocations: u64,
    /// As in the disk's lines.
    places: BTreeMap<String, BTreeMap<u32, u64>>,
}

/// Attaches the interface, before the boot. `false`: the drivers' folder has no driver for it.
pub fn attach(ctx: &process::Ctx) -> bool {
    if !ctx.config().drivers.join("xennet").is_dir() {
        return false;
    }
    let options = VifOptions { wake_ns: WAKE_NS, unmap_ns: WAKE_NS, queue_len: 1000, ..VifOptions::new(0) };
    ctx.xen(|xen| xen.attach_vif(options, Box::new(Stack::new(StackOptions::new(0, 1500, 1)))));
    true
}

/// Counts all shapes.
///
/// # Errors
/// The adapter does not come up, or packets are lost.
pub fn run(ctx: &process::Ctx) -> anyhow::Result<Vec<NetLine>> {
    let world = ModelWorld::new(ctx, None);
    let suite = suites::Ctx::new(&world, 1);
    let nic = Nic::find(&suite, 0).map_err(|failure| anyhow!("{failure}"))?;
    nic.wait_link(&suite, true, 30_000).map_err(|failure| anyhow!("{failure}"))?;
    let client = nic.raw_filtered(filter::DIRECTED).map_err(|failure| anyhow!("{failure}"))?;
    client.hold(true);
    println!("per packet, {CHAIN} at a time; each thread of the modelled backend wakes after {} us:", WAKE_NS / 1000);
    SHAPES.iter().map(|shape| measure(ctx, &nic, &client, *shape).inspect(print)).collect()
}

fn measure(ctx: &process::Ctx, nic: &Nic, client: &Client, shape: Shape) -> anyhow::Result<NetLine> {
    traffic(ctx, nic, client, shape, CHAIN)?;

    let before = ctx.xen(|xen| xen.counters().clone());
    let allocated = nt::ex::fault::allocations();
    traffic(ctx, nic, client, shape, shape.packets)?;
    let after = ctx.xen(|xen| xen.counters().clone());
    let allocated = nt::ex::fault::allocations() - allocated;
    ctx.follow((!shape.send).then_some(HEAD));
    ctx.count_instructions();
    traffic(ctx, nic, client, shape, shape.stepped)?;
    ctx.stop_counting();
    ctx.follow(None);
    ctx.watch(&[]);
    Ok(line(shape, &Measured { before, after, steps: ctx.counted(), allocated }))
}

/// Moves `packets` packets and waits until each is through.
fn traffic(ctx: &process::Ctx, nic: &Nic, client: &Client, shape: Shape, packets: usize) -> anyhow::Result<()> {
    let large = shape.large();
    let form = shape.form(nic);
    let at = form.layout();
    let mut bytes = form.build(1, flag::ACK, &payload(1, shape.bytes - at.payload));
    form.blank(&mut bytes, !(large && shape.send));
    let mut left = packets;
    while left > 0 {
        let count = left.min(CHAIN);
        left -= count;
        if shape.send {
            let mut list = Outgoing::laid_out(bytes.clone(), shape.layout(at.payload));
            if large {
                list = list.large(MSS as u32, at.transport as u32, false);
            } else {
                list.checksum = transmit::IPV4 | transmit::UDP | (at.transport as u32) << transmit::OFFSET_SHIFT;
            }
            let watch = |lists: &[Vec<(usize, usize)>]| {
                ctx.watch(&lists.iter().flat_map(|pieces| behind(pieces, HEAD)).collect::<Vec<_>>());
            };
            let sent = client.send_shown(&vec![list; count], watch).context("the guest has no memory to send")?;
            wait(ctx, || sent.iter().all(|one| one.status().is_some())).context("sends do not end")?;
            ensure!(sent.iter().all(|one| one.status() == Some(0)), "a send failed");
        } else {
            let until = client.counters().received.load(Ordering::Relaxed) + count as u64;
            ctx.xen(|xen| {
                for _ in 0..count {
                    let mss = large.then_some(MSS as u16);
                    let frame = Frame { bytes: bytes.clone(), checksum: Checksum::Blank, mss, hash: None };
                    xen.send_to_vif(0, frame);
                }
            });
            wait(ctx, || {
                drop(client.take());
                client.counters().received.load(Ordering::Relaxed) >= until
            })
            .context("frames do not come")?;
        }
    }
    drop(client.take());
    Ok(())
}

/// The pieces of a frame without its first bytes.
fn behind(pieces: &[(usize, usize)], mut skip: usize) -> impl Iterator<Item = (usize, usize)> {
    pieces.iter().filter_map(move |&(address, len)| {
        let cut = skip.min(len);
        skip -= cut;
        (cut < len).then_some((address + cut, len - cut))
    })
}

fn wait(ctx: &process::Ctx, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    for _ in 0..BATCH_MS * 20 {
        if done() {
            return Ok(());
        }
        nt::ke::wait::sleep(-500);
    }
    ensure!(done(), "{BATCH_MS} ms have passed at {} ns", ctx.now_ns());
    Ok(())
}

/// What was counted of a shape.
struct Measured {
    before: Counters,
    after: Counters,
    steps: Steps,
    allocated: u64,
}

fn line(shape: Shape, measured: &Measured) -> NetLine {
    /// `__HYPERVISOR_grant_table_op` (xen.h).
    const GRANT_TABLE_OP: u32 = 20;
    let Measured { before, after, steps, allocated } = measured;
    let (packets, stepped) = (shape.packets as f64, shape.stepped as f64);
    // Of a frame that is all head nothing is watched, so nothing is seen.
    let moved = (shape.bytes.saturating_sub(HEAD) * shape.stepped).max(1) as f64;
    let each = |before: u64, after: u64| (after - before) as f64 / packets;
    let asked: u64 = steps.calls.iter().filter(|(name, _)| is_allocator(name)).map(|(_, n)| n).sum();
    let instructions =
        steps.places.iter().map(|(name, places)| (name.clone(), places.values().sum::<u64>() as f64 / stepped));
    NetLine {
        name: shape.name.to_owned(),
        bytes: shape.bytes,
        send: shape.send,
        lie: shape.lie,
        packets: shape.packets,
        stepped_packets: shape.stepped,
        instructions: instructions.filter(|(_, count)| *count > 0.0).collect(),
        sends: each(before.guest_sends, after.guest_sends),
        upcalls: each(before.upcalls_total(), after.upcalls_total()),
        grants: each(before.grant_maps + before.grant_copies, after.grant_maps + after.grant_copies),
        grant_hypercalls: each(before.hypercalls_of(GRANT_TABLE_OP), after.hypercalls_of(GRANT_TABLE_OP)),
        export_calls: steps.calls.values().sum::<u64>() as f64 / stepped,
        copied: steps.read as f64 / moved,
        copied_bytes: steps.read as f64 / stepped,
        written: steps.written as f64 / moved,
        heads: steps.heads as f64 / stepped,
        allocations: asked.max(*allocated),
        places: steps.places.clone(),
    }
}

fn print(line: &NetLine) {
    println!("  {} ({} packets, {} stepped)", line.name, line.packets, line.stepped_packets);
    let parts: Vec<String> = line.instructions.iter().map(|(image, count)| format!("{image} {count:.0}")).collect();
    let all: f64 = line.instructions.iter().map(|(_, count)| count).sum();
    println!("    instructions        {all:>10.0}   {}", parts.join(", "));
    println!("    calls of exports    {:>10.2}", line.export_calls);
    println!("    event sends         {:>10.3}", line.sends);
    println!("    upcalls             {:>10.3}", line.upcalls);
    println!("    grants used         {:>10.2}", line.grants);
    println!("    grant hypercalls    {:>10.3}", line.grant_hypercalls);
    println!("    bytes copied / byte {:>10.3}   {:.1} a packet", line.copied, line.copied_bytes);
    if !line.send {
        println!("    scrubbed / byte     {:>10.3}", line.written);
        println!("    bytes of head read  {:>10.1}", line.heads);
    }
    println!("    allocations         {:>10}   in all", line.allocations);
}

/// Holds the lines against what is asked of them.
pub fn judge(lines: &[NetLine]) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut most = |what: String, value: f64, limit: f64| {
        targets.push(Target { what, value, limit, at_least: false, met: value <= limit });
    };
    for line in lines.iter().filter(|line| line.lie != Lie::Shreds) {
        let name = &line.name;
        most(format!("{name}: allocations"), line.allocations as f64, 0.0);
        most(format!("{name}: bytes copied behind the head"), line.copied_bytes, 0.0);
        most(format!("{name}: event sends"), line.sends, 0.1);
        most(format!("{name}: upcalls"), line.upcalls, 0.1);
        if line.bytes == 1514 {
            let instructions = line.instructions.iter().map(|(_, count)| count).sum();
            most(format!("{name}: instructions"), instructions, 900.0);
        }
    }
    // Nothing seen at all would mean that nothing was counted.
    for line in lines {
        let mut least = |what: &str, value: f64, limit: f64| {
            let what = format!("{}: {what}", line.name);
            targets.push(Target { what, value, limit, at_least: true, met: value >= limit });
        };
        if line.lie == Lie::Shreds {
            least("bytes copied per byte (the gauge works)", line.copied, 1.0);
        }
        if !line.send {
            least("bytes of head read (the gauge works)", line.heads, 14.0);
        }
        let instructions: f64 = line.instructions.iter().map(|(_, count)| count).sum();
        if instructions < 100.0 {
            least("instructions seen at all", instructions, 100.0);
        }
    }
    targets
}
