//! What is done with the machine: start `nt`, install the drivers of the archive, run.

use crate::boot::Loaded;
use crate::console::{self, Verdict};
use crate::lock::Lock;
use crate::world::{self, Dom0};
use crate::{cases, clock, interrupts, log, machine, mailbox, memory, others, processor};
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use nt::inf::install::Package;
use nt::pnp::boot::BootConfig;
use suites::case::{Ctx, RegistryValue, Setup};
use suites::check;
use suites::world::World as _;

/// How it was started.
static COMMAND_LINE: Lock<&'static str> = Lock::new("");
/// The archive that was booted with.
static ARCHIVE: Lock<Option<&'static [u8]>> = Lock::new(None);

/// A number of the command line: `name=value`.
fn option(line: &str, name: &str) -> Option<u32> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// From the boot stack on, with memory in place: starts the machine and `nt`, and becomes processor 0's idle loop.
pub fn start(loaded: &Loaded) -> ! {
    let line = core::ffi::CStr::from_bytes_until_nul(&loaded.command_line).ok().and_then(|text| text.to_str().ok());
    let line = line.unwrap_or_default();
    console::print(format_args!("lab: guest kernel, command line `{line}`"));
    if option(line, "serial") == Some(1) {
        console::start_serial();
    }
    if !clock::start() {
        console::print(format_args!("lab: no Xen that tells the TSC's rate"));
        console::end(Verdict::Panic);
    }
    processor::start(option(line, "vcpus").unwrap_or(1));
    interrupts::start();
    machine::start();
    let (first, end) = loaded.archive;
    // SAFETY: the loader put the module there; `memory` keeps it.
    let archive = unsafe { core::slice::from_raw_parts(memory::physical(first), (end - first) as usize) };
    *ARCHIVE.lock() = Some(archive);
    *COMMAND_LINE.lock() = String::from(line).leak();
    nt::platform::install(&machine::Machine);
    nt::ke::start();
    if let Err((processor, reason)) = others::start() {
        console::print(format_args!("lab: processor {processor} did not start: {reason}"));
        console::end(Verdict::Panic);
    }
    // SAFETY: the scheduler is set up; the routine needs no context.
    if unsafe { nt::ke::thread::create(first_thread, core::ptr::null_mut(), nt::ke::sched::DEFAULT_PRIORITY) }.is_err()
    {
        console::print(format_args!("lab: the first thread did not start"));
        console::end(Verdict::Panic);
    }
    nt::ke::run_processor()
}

/// The files of the archive: path and content.
fn files() -> Vec<(String, &'static [u8])> {
    let Some(archive) = *ARCHIVE.lock() else { return Vec::new() };
    let Ok(tar) = tar_no_std::TarArchiveRef::new(archive) else { return Vec::new() };
    tar.entries().filter_map(|entry| Some((entry.filename().as_str().ok()?.to_string(), entry.data()))).collect()
}

/// The driver packages among the files: each INF with the files of its folder.
fn packages() -> Vec<Package> {
    let files = files();
    let folder = |path: &str| path.rsplit_once('/').map_or("", |(folder, _)| folder).to_string();
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_string();
    let infs = files.iter().filter(|(path, _)| path.to_ascii_lowercase().ends_with(".inf"));
    infs.filter_map(|(path, inf)| {
        let beside = files.iter().filter(|(other, _)| folder(other) == folder(path));
        let content = beside.map(|(other, bytes)| (name(other), Arc::<[u8]>::from(*bytes)));
        match Package::new(&name(path), inf, content) {
            Ok(package) => Some(package),
            Err(error) => {
                console::print(format_args!("lab: {path}: {error}"));
                None
            }
        }
    })
    .collect()
}

/// A text of the command line: `name=value`.
fn text<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// The registry values of a setup, and those that stand for what the hypervisor is to lack: a real Xen has it.
fn values(setup: &Setup) -> Vec<(String, String, u32, Vec<u8>)> {
    const SZ: u32 = 1;
    const BINARY: u32 = 3;
    const DWORD: u32 = 4;
    let switches = [("UseFifo", setup.fifo), ("UseVectors", setup.vectors)];
    let off = switches.iter().filter(|(_, wanted)| !wanted);
    let off = off.map(|(name, _)| (r"Services\xenpci\Parameters".into(), (*name).into(), DWORD, alloc::vec![0; 4]));
    let given = setup.registry.iter().map(|(key, name, value)| {
        let (kind, data) = match value {
            RegistryValue::Dword(value) => (DWORD, value.to_le_bytes().to_vec()),
            RegistryValue::Text(text) => (SZ, text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()),
            RegistryValue::Binary(bytes) => (BINARY, bytes.to_vec()),
        };
        ((*key).to_string(), (*name).to_string(), kind, data)
    });
    off.chain(given).collect()
}

fn boot(setup: &Setup) -> Result<(), String> {
    nt::ex::start_workers().map_err(|status| format!("the worker threads did not start: {status:#x}"))?;
    let packages = packages();
    if packages.is_empty() {
        return Err("there is no driver package in the archive".to_string());
    }
    for disk in &setup.disks {
        Dom0.attach_disk(disk);
    }
    if let Some(network) = Dom0.network() {
        for vif in &setup.vifs {
            network.attach_vif(vif);
        }
    }
    let config =
        BootConfig { packages, values: values(setup), start_options: setup.options.into(), ..BootConfig::default() };
    nt::pnp::boot::boot(config).map_err(|error| format!("{error}"))
}

fn run_case(line: &str) -> Result<String, String> {
    let name = text(line, "case").ok_or("the command line names no case")?;
    let seed = option(line, "seed").map_or(1, u64::from);
    let case = cases::all().chain(suites::cases::all()).find(|case| case.name == name);
    let case = case.ok_or_else(|| format!("there is no case {name}"))?;
    boot(&(case.setup)(seed))?;
    console::print(format_args!("lab: booted at {} ms", clock::nanoseconds() / 1_000_000));
    for node in nt::pnp::tree() {
        console::print(format_args!("lab: {:?} {:?} {} {:?}", node.state, node.problem, node.instance, node.stack));
    }
    if let Some(line) = log::lines().into_iter().find(|line| line.contains(" does not load: ")) {
        return Err(line);
    }
    let mut ctx = Ctx::new(&Dom0, seed);
    // libxl takes zero for a guest without PV drivers: it would neither save it nor ask it to shut down.
    let callback = world::callback_irq();
    if callback == 0 {
        return Err("the toolstack sees HVM_PARAM_CALLBACK_IRQ = 0".to_string());
    }
    ctx.set("callback irq", callback);
    let result = (case.run)(&mut ctx).and_then(|()| {
        let (executable, open) = memory::executable();
        ctx.set("executable pages", executable);
        check!(executable > 0 && open == 0, "{open} of {executable} executable pages may be written");
        ctx.check_wanted()
    });
    let counters: Vec<String> = ctx.counters().iter().map(|(name, value)| format!("{name} {value}")).collect();
    match result {
        Ok(()) => Ok(counters.join(", ")),
        Err(failure) => Err(format!("{failure} ({})", counters.join(", "))),
    }
}

/// Tells the agent and the console that the case failed, and stops. On the thread of the case.
pub fn give_up(why: &str) -> ! {
    report(&format!("failed {why}"));
    console::end(Verdict::Done)
}

fn report(verdict: &str) {
    console::print(format_args!("lab: {verdict}"));
    let mut line = format!("result {verdict}");
    line.truncate(line.floor_char_boundary(2000));
    // A refusal of a result has nobody to be told to; the console has it.
    let _ = mailbox::ask(&line, &[]);
}

unsafe extern "win64" fn first_thread(_context: *mut c_void) {
    console::print(format_args!("lab: nt runs at {} ms", clock::nanoseconds() / 1_000_000));
    match run_case(*COMMAND_LINE.lock()) {
        Ok(counters) => report(&format!("passed {counters}")),
        Err(why) => report(&format!("failed {why}")),
    }
    console::end(Verdict::Done)
}
