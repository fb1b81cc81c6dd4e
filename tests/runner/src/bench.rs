//! The numbers: what the drivers spend on one I/O, counted and not timed, so that every run gives the same.

#![allow(clippy::cast_precision_loss, reason = "counts far below 2^52 become averages")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use nt::disk::{Buffer, Disk, Operation, Ticket};
use process::{Bench, BenchConfig, Outcome, Steps};
use serde::Serialize;
use xen_model::{Counters, DiskOptions, DiskSpec, MemoryBacking};

use crate::bench_net::{self, NetLine};
use crate::boot;

/// 512-byte units of the disk.
const UNITS: u64 = 128 << 11;
/// Nanoseconds from an event to the backend's thread that serves it: an interrupt of dom0 and the wake-up of a thread.
/// The model's other times are its defaults: a request takes 20 to 30 microseconds, as a fast SSD does.
pub const WAKE_NS: u64 = 10_000;
/// Nanoseconds from a disk's interrupt to the softirq of dom0 that answers what is done by then: the same path.
const SOFTIRQ_NS: u64 = 10_000;
/// Requests before the counting starts.
const WARM_UP: usize = 64;
/// `__HYPERVISOR_grant_table_op` (xen.h).
const GRANT_TABLE_OP: u32 = 20;
/// What a driver could get memory with on the way of a request.
const ALLOCATORS: [&str; 5] = ["ExAllocate", "MmAllocate", "IoAllocate", "StorPortAllocate", "NdisAllocate"];

/// Whether an export gives memory.
pub fn is_allocator(name: &str) -> bool {
    ALLOCATORS.iter().any(|start| name.starts_with(start))
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// The disk's rows.
    Disk,
    /// The network's rows.
    Network,
}

/// What is asked of the disk.
#[derive(Clone, Copy)]
struct Shape {
    bytes: usize,
    depth: usize,
    write: bool,
    /// Bytes from the start of a page to the start of a buffer.
    misalign: usize,
    /// For the figures of the model.
    requests: usize,
    /// For those that need every instruction to trap.
    stepped: usize,
}

const fn shape(bytes: usize, depth: usize, write: bool, requests: usize, stepped: usize) -> Shape {
    Shape { bytes, depth, write, misalign: 0, requests, stepped }
}

const SHAPES: [Shape; 7] = [
    shape(4 << 10, 1, false, 1024, 32),
    shape(4 << 10, 1, true, 1024, 32),
    shape(4 << 10, 32, false, 4096, 96),
    shape(4 << 10, 32, true, 4096, 96),
    shape(1 << 20, 8, false, 64, 8),
    shape(1 << 20, 8, true, 64, 8),
    // Such a buffer has to be copied: the gauge of copied bytes must show it.
    Shape { bytes: 4 << 10, depth: 1, write: true, misalign: 4, requests: 128, stepped: 32 },
];

/// What one request took on average.
#[derive(Serialize)]
struct Line {
    name: String,
    bytes: usize,
    depth: usize,
    write: bool,
    aligned: bool,
    requests: usize,
    stepped_requests: usize,
    instructions: BTreeMap<String, f64>,
    sends: f64,
    upcalls: f64,
    grants_mapped: f64,
    grant_hypercalls: f64,
    other_hypercalls: f64,
    export_calls: f64,
    /// Bytes of the buffers that drivers read or wrote, by byte moved.
    copied: f64,
    /// In all of the phase.
    allocations: u64,
    /// How often each instruction was carried out while stepped, by image and offset.
    places: BTreeMap<String, BTreeMap<u32, u64>>,
}

/// A figure against what is asked of it.
#[derive(Serialize)]
pub struct Target {
    /// Of what.
    pub what: String,
    /// What was counted.
    pub value: f64,
    /// The most that is allowed (the least, where `at_least`).
    pub limit: f64,
    /// Which of the two.
    pub at_least: bool,
    /// Whether it is.
    pub met: bool,
}

#[derive(Serialize)]
struct Report {
    seed: u64,
    lines: Vec<Line>,
    network: Vec<NetLine>,
    targets: Vec<Target>,
}

/// Runs the bench and prints the figures, of both devices or `only` of one. Exit code 1: a target is missed.
///
/// # Errors
/// The machine does not start, or a request fails.
pub fn run(seed: u64, drivers: PathBuf, json: Option<&Path>, only: Option<Device>) -> anyhow::Result<ExitCode> {
    let config = BenchConfig { seed, drivers, ..BenchConfig::default() };
    let wanted = move |device| only.is_none_or(|only| only == device);
    let measured = Bench::new(config)?.run(move |ctx| in_guest(ctx, wanted(Device::Disk), wanted(Device::Network)))?;
    let (lines, network) = match measured {
        Outcome::Done(lines) => lines?,
        Outcome::Stopped(stop) => {
            eprintln!("{}", stop.report);
            bail!("the machine stopped");
        }
    };
    let mut targets = judge(&lines);
    targets.extend(bench_net::judge(&network));
    let report = Report { seed, lines, network, targets };
    print_targets(&report);
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if report.targets.iter().all(|target| target.met) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// On an NT thread.
fn in_guest(ctx: &process::Ctx, disk: bool, network: bool) -> anyhow::Result<(Vec<Line>, Vec<NetLine>)> {
    let options = DiskOptions { wake_ns: WAKE_NS, softirq_ns: SOFTIRQ_NS, ..DiskOptions::new(51776) };
    println!(
        "per I/O; the modelled backend wakes {} us after an event, and {} us after the disk, which takes {} to {} us:",
        options.wake_ns / 1000,
        options.softirq_ns / 1000,
        options.latency_ns / 1000,
        (options.latency_ns + options.latency_jitter_ns) / 1000
    );
    ctx.xen(|xen| xen.attach_disk(DiskSpec { options, backing: Box::new(MemoryBacking::new(UNITS)) }));
    let network = network && bench_net::attach(ctx);
    boot::boot(ctx, Vec::new(), "")?;
    let shapes: &[Shape] = if disk { &SHAPES } else { &[] };
    let disk = boot::first_disk(ctx).context("Windows found no disk")?;
    let lines = shapes.iter().map(|shape| measure(ctx, &disk, *shape).inspect(print_line)).collect::<Result<_, _>>()?;
    let network = if network { bench_net::run(ctx)? } else { Vec::new() };
    Ok((lines, network))
}

/// Counts one shape.
fn measure(ctx: &process::Ctx, disk: &Arc<Disk>, shape: Shape) -> anyhow::Result<Line> {
    let buffers = (0..shape.depth).map(|_| Buffer::new(shape.bytes, shape.misalign));
    let mut buffers: Vec<Buffer> = buffers.collect::<Option<_>>().context("the guest has no memory for buffers")?;
    ctx.watch(&buffers.iter().map(|buffer| (buffer.address() as usize, shape.bytes)).collect::<Vec<_>>());
    let mut place = 0;
    load(disk, shape, WARM_UP.min(shape.requests), &mut buffers, &mut place)?;

    let before = ctx.xen(|xen| xen.counters().clone());
    let allocated = nt::ex::fault::allocations();
    load(disk, shape, shape.requests, &mut buffers, &mut place)?;
    let after = ctx.xen(|xen| xen.counters().clone());
    ensure!(after.bytes_moved - before.bytes_moved == (shape.requests * shape.bytes) as u64, "bytes are missing");

    ctx.count_instructions();
    load(disk, shape, shape.stepped, &mut buffers, &mut place)?;
    ctx.stop_counting();
    let allocated = nt::ex::fault::allocations() - allocated;
    ctx.watch(&[]);
    Ok(line(shape, &before, &after, ctx.counted(), allocated))
}

/// Keeps the depth until `requests` are done, one after another over the disk.
fn load(
    disk: &Arc<Disk>,
    shape: Shape,
    requests: usize,
    buffers: &mut Vec<Buffer>,
    place: &mut u64,
) -> anyhow::Result<()> {
    let mut flights: Vec<Ticket> = Vec::with_capacity(shape.depth);
    let (mut started, mut done) = (0, 0);
    while done < requests {
        while started < requests
            && let Some(buffer) = buffers.pop()
        {
            let offset = *place;
            *place = (*place + shape.bytes as u64) % (UNITS * 512);
            let operation =
                if shape.write { Operation::Write { offset, fua: false } } else { Operation::Read { offset } };
            flights.push(disk.start(operation, Some(buffer)).context("the guest has no memory for a request")?);
            started += 1;
        }
        // Waits for the oldest, then takes all that are done.
        let mut first = true;
        let mut index = 0;
        while index < flights.len() {
            if !std::mem::take(&mut first) && !flights[index].is_done() {
                index += 1;
                continue;
            }
            let (outcome, buffer) = flights.remove(index).wait();
            ensure!(outcome.good && outcome.moved == shape.bytes, "a request failed: {outcome:?}");
            buffers.push(buffer.context("a request comes back without its buffer")?);
            done += 1;
        }
    }
    Ok(())
}

fn line(shape: Shape, before: &Counters, after: &Counters, steps: Steps, allocated: u64) -> Line {
    let (requests, stepped) = (shape.requests as f64, shape.stepped as f64);
    let each = |before: u64, after: u64| (after - before) as f64 / requests;
    let all = |counters: &Counters| counters.hypercalls.values().sum::<u64>();
    let grant_hypercalls = each(before.hypercalls_of(GRANT_TABLE_OP), after.hypercalls_of(GRANT_TABLE_OP));
    let sends = each(before.guest_sends, after.guest_sends);
    let asked: u64 = steps.calls.iter().filter(|(name, _)| is_allocator(name)).map(|(_, n)| n).sum();
    Line {
        name: format!(
            "{} {} at depth {}{}",
            if shape.bytes < 1 << 20 {
                format!("{} KiB", shape.bytes >> 10)
            } else {
                format!("{} MiB", shape.bytes >> 20)
            },
            if shape.write { "write" } else { "read" },
            shape.depth,
            if shape.misalign == 0 { "" } else { ", misaligned buffer" }
        ),
        bytes: shape.bytes,
        depth: shape.depth,
        write: shape.write,
        aligned: shape.misalign == 0,
        requests: shape.requests,
        stepped_requests: shape.stepped,
        instructions: steps.instructions().into_iter().map(|(name, n)| (name, n as f64 / stepped)).collect(),
        sends,
        upcalls: each(before.upcalls_total(), after.upcalls_total()),
        grants_mapped: each(before.grant_maps, after.grant_maps),
        grant_hypercalls,
        other_hypercalls: each(all(before), all(after)) - grant_hypercalls - sends,
        export_calls: steps.calls.values().sum::<u64>() as f64 / stepped,
        copied: (steps.read + steps.written) as f64 / (shape.stepped * shape.bytes) as f64,
        allocations: allocated.max(asked),
        places: steps.places,
    }
}

/// Holds the lines against the targets.
fn judge(lines: &[Line]) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut most = |what: String, value: f64, limit: f64| {
        targets.push(Target { what, value, limit, at_least: false, met: value <= limit });
    };
    for line in lines.iter().filter(|line| line.aligned) {
        if line.bytes == 4 << 10 && !line.write {
            most(format!("{}: instructions", line.name), line.instructions.values().sum(), 2500.0);
        }
        if line.bytes == 4 << 10 && line.depth == 32 {
            most(format!("{}: event sends", line.name), line.sends, 0.1);
            most(format!("{}: upcalls", line.name), line.upcalls, 0.1);
        }
        most(format!("{}: bytes copied per byte", line.name), line.copied, 0.0);
        most(format!("{}: allocations", line.name), line.allocations as f64, 0.0);
    }
    // Instructions of zero would mean that nothing was counted, and so would bytes that must be copied and are not.
    for line in lines {
        let instructions: f64 = line.instructions.values().sum();
        if instructions < 100.0 {
            let what = format!("{}: instructions seen at all", line.name);
            targets.push(Target { what, value: instructions, limit: 100.0, at_least: true, met: false });
        }
        if !line.aligned {
            let what = format!("{}: bytes copied per byte (the gauge works)", line.name);
            targets.push(Target { what, value: line.copied, limit: 1.0, at_least: true, met: line.copied >= 1.0 });
        }
    }
    targets
}

fn print_line(line: &Line) {
    println!("  {} ({} requests, {} stepped)", line.name, line.requests, line.stepped_requests);
    let parts: Vec<String> = line.instructions.iter().map(|(image, count)| format!("{image} {count:.0}")).collect();
    println!("    instructions        {:>10.0}   {}", line.instructions.values().sum::<f64>(), parts.join(", "));
    println!("    calls of exports    {:>10.2}", line.export_calls);
    println!("    event sends         {:>10.3}", line.sends);
    println!("    upcalls             {:>10.3}", line.upcalls);
    println!("    grants mapped       {:>10.2}", line.grants_mapped);
    println!("    grant hypercalls    {:>10.3}", line.grant_hypercalls);
    println!("    other hypercalls    {:>10.3}", line.other_hypercalls);
    println!("    bytes copied / byte {:>10.3}", line.copied);
    println!("    allocations         {:>10}   in all", line.allocations);
}

fn print_targets(report: &Report) {
    println!("targets:");
    for target in &report.targets {
        let bound = if target.at_least { "at least" } else { "at most" };
        let verdict = if target.met { "met" } else { "MISSED" };
        println!("  {verdict:<6} {:<66} {:>9.3}, {bound} {}", target.what, target.value, target.limit);
    }
}
