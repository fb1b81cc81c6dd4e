//! The main job: boots the bench with a real disk image, reads its partition table and a file system through the
//! drivers, copies a file in and out, and proves that the host sees what the guest wrote; then uses the network.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use process::{Bench, BenchConfig, Outcome};
use serde::Serialize;
use sha2::{Digest, Sha256};
use xen_model::{DiskOptions, DiskSpec, FileBacking};

use crate::boot;
use crate::demo_net::{self, NetFacts};
use crate::guest_disk::GuestDisk;
use crate::image;
use crate::volume::{self, Device, Entry, FileSystem, Partition, Slice, Table};

/// The file that the demo copies in: replaced by every run.
const COPY: &str = "XENDEMO.BIN";
/// Bytes of that file.
const COPY_LEN: usize = 3 * 1024 * 1024 + 511;
/// The largest file that is copied out.
const OUT_MOST: u64 = 64 << 20;
/// Images up to this size are read whole through the drivers and compared.
const WHOLE_MOST: u64 = 1 << 30;

/// What a run found, for people and machines.
#[derive(Serialize)]
struct Facts {
    image: PathBuf,
    made: bool,
    disk: DiskFacts,
    table: Table,
    file_system: Option<FileSystem>,
    root: Vec<Entry>,
    copied_out: Option<Copied>,
    copied_in: Option<Copied>,
    whole: Option<Compared>,
    network: Option<NetFacts>,
    work: Work,
}

#[derive(Serialize)]
struct DiskFacts {
    vendor: String,
    product: String,
    serial: String,
    bytes: u64,
    sector: u32,
    write_cache: bool,
    fua: bool,
}

/// A file that went through the drivers.
#[derive(Serialize)]
struct Copied {
    name: String,
    bytes: u64,
    /// As the guest wrote or read it.
    guest_sha256: String,
    /// As the host reads it from the image.
    host_sha256: String,
}

#[derive(Serialize)]
struct Compared {
    bytes: u64,
    guest_sha256: String,
    host_sha256: String,
}

/// What the drivers did.
#[derive(Serialize, Clone, Copy, Default)]
struct Work {
    requests: u64,
    backend_reads: u64,
    backend_writes: u64,
    flushes: u64,
    bytes_read: u64,
    bytes_written: u64,
    hypercalls: u64,
    event_sends: u64,
    upcalls: u64,
    grants_mapped: u64,
    store_requests: u64,
    dpcs: u64,
}

/// Runs the demo. Exit code 2: the image cannot be used, and is untouched.
///
/// # Errors
/// Anything after the image was accepted.
pub fn run(image: &Path, make: bool, drivers: PathBuf, json: Option<&Path>) -> anyhow::Result<ExitCode> {
    if make {
        image::make(image)?;
    }
    let file = match image::open(image) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    let backing = file.try_clone().context("a second handle of the image")?;
    let bench = Bench::new(BenchConfig { drivers, ..BenchConfig::default() })?;
    let bar = ProgressBar::new(100);
    bar.set_style(ProgressStyle::with_template("{bar:30} {percent:>3} % {msg}")?);
    bar.enable_steady_tick(Duration::from_millis(100));
    let outcome = bench.run(|ctx| in_guest(ctx, image, make, &file, backing, &bar))?;
    bar.finish_and_clear();
    let facts = match outcome {
        Outcome::Done(facts) => facts?,
        Outcome::Stopped(stop) => {
            eprintln!("{}", stop.report);
            bail!("the machine stopped");
        }
    };
    print(&facts);
    if let Some(path) = json {
        std::fs::write(path, serde_json::to_string_pretty(&facts)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if equal(&facts) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether guest and host agree on everything that was compared.
fn equal(facts: &Facts) -> bool {
    let files = [&facts.copied_in, &facts.copied_out];
    files.iter().all(|copied| copied.as_ref().is_none_or(|c| c.guest_sha256 == c.host_sha256))
        && facts.whole.as_ref().is_none_or(|c| c.guest_sha256 == c.host_sha256)
        && facts.network.as_ref().is_none_or(NetFacts::good)
}

/// On an NT thread.
fn in_guest(
    ctx: &process::Ctx,
    image: &Path,
    made: bool,
    file: &File,
    backing: File,
    bar: &ProgressBar,
) -> anyhow::Result<Facts> {
    bar.set_message("booting");
    let backing = FileBacking::new(backing).context("the image as a backing")?;
    ctx.xen(|xen| xen.attach_disk(DiskSpec { options: DiskOptions::new(51776), backing: Box::new(backing) }));
    let peer = demo_net::attach(ctx);
    boot::boot(ctx, Vec::new(), "")?;
    let Some(disk) = boot::first_disk(ctx) else {
        let log = ctx.log();
        bail!(
            "the drivers brought no disk up; the log ends with\n  {}",
            log[log.len().saturating_sub(12)..].join("\n  ")
        );
    };
    let info = disk.info();
    let disk_facts = DiskFacts {
        vendor: info.vendor.clone(),
        product: info.product.clone(),
        serial: info.serial.clone(),
        bytes: info.bytes(),
        sector: info.block,
        write_cache: info.write_cache,
        fua: info.fua,
    };
    let mut device = GuestDisk::new(disk);
    let mut host = file.try_clone()?;

    bar.set_position(10);
    bar.set_message("reading the partition table");
    let table = volume::read_table(&mut device, u64::from(info.block))?;
    let partition = table.partitions.iter().find(|partition| partition.file_system.is_some()).cloned();
    let mut root = Vec::new();
    let (mut copied_in, mut copied_out) = (None, None);
    if let Some((partition, kind)) = partition.as_ref().and_then(|p| p.file_system.map(|kind| (p, kind))) {
        bar.set_message("reading the root directory");
        root = volume::list_root(&mut Slice::new(&mut device, partition), kind)?;
        bar.set_position(20);
        bar.set_message("copying a file out");
        copied_out = copy_out(&mut device, &mut host, partition, kind, &root)?;
        if kind == FileSystem::Fat {
            bar.set_position(35);
            bar.set_message("copying a file in");
            copied_in = Some(copy_in(&mut device, &mut host, partition)?);
        }
    }
    bar.set_position(50);
    bar.set_message("comparing the whole disk");
    let whole = (info.bytes() <= WHOLE_MOST).then(|| compare(&mut device, &mut host, bar)).transpose()?;
    bar.set_message("using the network");
    let network = demo_net::run(ctx, &peer)?;
    let work = work(ctx, device.requests);
    nt::po::shutdown(false);
    let file_system = partition.and_then(|partition| partition.file_system);
    Ok(Facts {
        image: image.to_owned(),
        made,
        disk: disk_facts,
        table,
        file_system,
        root,
        copied_out,
        copied_in,
        whole,
        network,
        work,
    })
}

/// Reads the largest file that is not too large, and the same file from the host's side.
fn copy_out(
    device: &mut GuestDisk,
    host: &mut File,
    partition: &Partition,
    kind: FileSystem,
    root: &[Entry],
) -> anyhow::Result<Option<Copied>> {
    let chosen = root.iter().filter(|e| !e.folder && e.len > 0 && e.len <= OUT_MOST && e.name != COPY);
    let chosen = chosen.filter(|e| !e.name.starts_with('$')).max_by_key(|entry| entry.len);
    let Some(entry) = chosen else { return Ok(None) };
    let seen = volume::read_file(&mut Slice::new(device, partition), kind, &entry.name)?;
    let held = volume::read_file(&mut Slice::new(host, partition), kind, &entry.name)?;
    Ok(Some(Copied {
        name: entry.name.clone(),
        bytes: seen.len() as u64,
        guest_sha256: sha256(&seen),
        host_sha256: sha256(&held),
    }))
}

/// Writes a file through the drivers, and reads it from the host's side.
fn copy_in(device: &mut GuestDisk, host: &mut File, partition: &Partition) -> anyhow::Result<Copied> {
    let bytes: Vec<u8> = (0..COPY_LEN).map(|n| (n as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    volume::write_file(&mut Slice::new(device, partition), FileSystem::Fat, COPY, &bytes)?;
    device.flush()?;
    let held = volume::read_file(&mut Slice::new(host, partition), FileSystem::Fat, COPY)?;
    Ok(Copied {
        name: COPY.to_owned(),
        bytes: bytes.len() as u64,
        guest_sha256: sha256(&bytes),
        host_sha256: sha256(&held),
    })
}

/// Hashes the disk as the guest reads it and the image as the host reads it.
fn compare(device: &mut GuestDisk, host: &mut File, bar: &ProgressBar) -> anyhow::Result<Compared> {
    let bytes = device.seek(SeekFrom::End(0))?;
    let guest = hash(device, bytes, |done| bar.set_position(50 + 40 * done / bytes.max(1)))?;
    let host = hash(host, bytes, |done| bar.set_position(90 + 10 * done / bytes.max(1)))?;
    Ok(Compared { bytes, guest_sha256: guest, host_sha256: host })
}

fn hash<D: Device>(device: &mut D, bytes: u64, progress: impl Fn(u64)) -> anyhow::Result<String> {
    let mut sha = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    let mut done = 0;
    device.seek(SeekFrom::Start(0))?;
    while done < bytes {
        let count = usize::try_from(bytes - done)?.min(buf.len());
        device.read_exact(&mut buf[..count])?;
        sha.update(&buf[..count]);
        done += count as u64;
        progress(done);
    }
    Ok(hex(&sha.finalize()))
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn work(ctx: &process::Ctx, requests: u64) -> Work {
    let figures = nt::verifier::figures();
    ctx.xen(|xen| {
        let counters = xen.counters();
        let stats = xen.disk(51776).map(|disk| disk.stats().clone()).unwrap_or_default();
        Work {
            requests,
            backend_reads: stats.reads,
            backend_writes: stats.writes,
            flushes: stats.flushes + stats.barriers,
            bytes_read: stats.bytes_read,
            bytes_written: stats.bytes_written,
            hypercalls: counters.hypercalls.values().sum(),
            event_sends: counters.guest_sends,
            upcalls: counters.upcalls_total(),
            grants_mapped: counters.grant_maps,
            store_requests: counters.store_requests,
            dpcs: figures.dpcs,
        }
    })
}

/// What two hashes say.
pub fn verdict(guest: &str, host: &str) -> String {
    if guest == host {
        format!("{guest} (guest and host agree)")
    } else {
        format!("DIFFERENT: guest {guest}, host {host}")
    }
}

fn print(facts: &Facts) {
    let Facts { image, disk, table, work, .. } = facts;
    println!("image        {}{}", image.display(), if facts.made { " (made by the demo)" } else { "" });
    println!("disk         {} {}, serial {}", disk.vendor, disk.product, disk.serial);
    println!(
        "             {} MiB, {}-byte sectors, write cache {}, FUA {}",
        disk.bytes >> 20,
        disk.sector,
        if disk.write_cache { "on" } else { "off" },
        if disk.fua { "yes" } else { "no" }
    );
    println!("partitions   {}", table.kind);
    for partition in &table.partitions {
        let kind = partition.file_system.map_or("unknown".to_owned(), |kind| format!("{kind:?}"));
        println!(
            "             {}: {} MiB at {}, {kind} {}",
            partition.number,
            partition.len >> 20,
            partition.start,
            partition.name
        );
    }
    for entry in facts.root.iter().take(12) {
        println!(
            "             {} {}",
            if entry.folder { "<folder>".to_owned() } else { format!("{:>8}", entry.len) },
            entry.name
        );
    }
    if facts.root.len() > 12 {
        println!("             ... and {} more", facts.root.len() - 12);
    }
    match (&facts.file_system, &facts.copied_in) {
        (Some(FileSystem::Fat), _) => {}
        (Some(kind), _) => println!("copied in    nothing: {kind:?} is only read here"),
        (None, _) => println!("copied in    nothing: no file system that this knows"),
    }
    for (label, copied) in [("copied out", &facts.copied_out), ("copied in", &facts.copied_in)] {
        if let Some(copied) = copied {
            println!("{label:<12} {}, {} bytes", copied.name, copied.bytes);
            println!("  SHA-256    {}", verdict(&copied.guest_sha256, &copied.host_sha256));
        }
    }
    if let Some(whole) = &facts.whole {
        println!("whole disk   {} bytes", whole.bytes);
        println!("  SHA-256    {}", verdict(&whole.guest_sha256, &whole.host_sha256));
    }
    demo_net::print(facts.network.as_ref());
    println!(
        "xenvbd.sys   {} requests from the class driver, {} reads ({} KiB) and {} writes ({} KiB) on the ring, {} flushes",
        work.requests,
        work.backend_reads,
        work.bytes_read >> 10,
        work.backend_writes,
        work.bytes_written >> 10,
        work.flushes
    );
    println!(
        "xenpci.sys   {} hypercalls ({} event sends), {} upcalls, {} grants used, {} xenstore requests, {} DPCs",
        work.hypercalls, work.event_sends, work.upcalls, work.grants_mapped, work.store_requests, work.dpcs
    );
    println!("{}", if equal(facts) { "what the host sees is what the guest wrote" } else { "GUEST AND HOST DIFFER" });
}
