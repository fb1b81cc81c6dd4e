//! One case of the suites on the process platform: sets the machine up as the case wants it, boots, runs, judges.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use process::{Bench, BenchConfig, Outcome, Watch};
use serde::Serialize;
use suites::case::{Fault, Often, RegistryValue};
use suites::{Case, Failure, Setup};

use crate::boot;
use crate::network;
use crate::story::{self, STORIES};
use crate::threads;
use crate::walk;
use crate::world::{self, ModelWorld};

/// Preemption points of a run for each second of its case's time-out: few enough that a run without end is stopped with
/// a report before it is killed without one.
const STEPS_PER_SECOND: u64 = 500_000;
/// REG_SZ, REG_BINARY and REG_DWORD.
const REG_SZ: u32 = 1;
const REG_BINARY: u32 = 3;
const REG_DWORD: u32 = 4;

#[derive(Serialize)]
struct Info {
    name: String,
    summary: &'static str,
    quick: bool,
    timeout_s: u32,
}

/// What the last line of a run says.
#[derive(Serialize)]
pub struct ResultLine {
    /// Whether every check held.
    pub passed: bool,
    /// Why not.
    pub failure: Option<String>,
    /// What the case counted.
    pub counters: BTreeMap<String, u64>,
    /// A hash of every step of the run, in hexadecimal; empty for several runs.
    pub trace: String,
}

/// Prints the cases, and the walks through one, as JSON.
///
/// # Errors
/// None that a person can cause.
pub fn list() -> anyhow::Result<ExitCode> {
    let cases: Vec<Info> = suites::cases::all()
        .map(|case| Info {
            name: case.name.to_owned(),
            summary: case.summary,
            quick: case.quick,
            timeout_s: case.timeout_s,
        })
        .chain(walk::WALKS.iter().map(|walk| Info {
            name: walk.name(),
            summary: walk.summary,
            quick: false,
            timeout_s: walk::TIMEOUT_S,
        }))
        .chain(STORIES.iter().map(|story| Info {
            name: story.name.to_owned(),
            summary: story.summary,
            quick: story.quick,
            timeout_s: story.timeout_s,
        }))
        .chain(suites::cases::all().filter(|case| threads::CASES.contains(&case.name)).map(|case| Info {
            name: threads::name(case.name),
            summary: case.summary,
            quick: false,
            timeout_s: threads::TIMEOUT_S,
        }))
        .collect();
    println!("{}", serde_json::to_string(&cases)?);
    Ok(ExitCode::SUCCESS)
}

/// Runs a case; the last line printed is the result.
///
/// # Errors
/// No such case, or the machine cannot be set up.
pub fn run(name: &str, seed: u64, drivers: PathBuf, verbose: bool) -> anyhow::Result<ExitCode> {
    if let Some(walk) = walk::WALKS.iter().find(|walk| walk.name() == name) {
        return walk::run(walk.case, &drivers, 1, None, walk.every);
    }
    if let Some(story) = STORIES.iter().find(|story| story.name == name) {
        return story::run(story, seed, &drivers);
    }
    let threaded = threads::case_of(name);
    let name = threaded.unwrap_or(name);
    let case = suites::cases::all().find(|case| case.name == name).with_context(|| format!("no case `{name}`"))?;
    let setup = (case.setup)(seed);
    if threaded.is_some() {
        threads::refuse(case, &setup)?;
    }
    let config = BenchConfig {
        seed,
        vcpus: setup.vcpus,
        stepping: setup.stepping,
        watch: match setup.shared_access {
            Often::Never => Watch::Never,
            Often::Sometimes => Watch::Sometimes,
            Often::Always => Watch::Always,
        },
        most_steps: u64::from(case.timeout_s) * STEPS_PER_SECOND,
        threads: threaded.map(|_| threads::limit()),
        verbose,
        drivers,
        model: xen_model::Config {
            present: setup.xen,
            viridian: setup.viridian,
            fifo: setup.fifo,
            vector_upcalls: setup.vectors,
            max_grant_frames: setup.grant_frames,
            device_model: device_model(&setup.device_model),
            ..xen_model::Config::default()
        },
        ..BenchConfig::default()
    };
    let outcome = Bench::new(config)?.run(|ctx| body(ctx, case, &setup, seed))?;
    let (result, counters, trace) = match outcome {
        Outcome::Done(done) => done,
        Outcome::Stopped(stop) => {
            println!("{}", stop.report);
            let first = stop.report.lines().next().unwrap_or("the machine stopped").to_owned();
            let place = stop.report.lines().find(|line| line.contains(".sys+0x")).unwrap_or("").trim().to_owned();
            (Err(Failure(format!("{first} {place}"))), BTreeMap::new(), 0)
        }
    };
    let line = ResultLine {
        passed: result.is_ok(),
        failure: result.err().map(|failure| failure.0),
        counters,
        trace: format!("{trace:016x}"),
    };
    println!("RESULT {}", serde_json::to_string(&line)?);
    Ok(if line.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The model's device model of a case's.
fn device_model(wanted: &suites::emulated::DeviceModel) -> xen_model::DeviceModel {
    use suites::emulated::{Drive, Protocol};
    xen_model::DeviceModel {
        unplug: match wanted.protocol {
            Protocol::None => xen_model::UnplugProtocol::None,
            Protocol::Version(version) => xen_model::UnplugProtocol::Version(version),
            Protocol::Refusing => xen_model::UnplugProtocol::Refusing,
        },
        ide: wanted.drives.map(|drive| {
            drive.map(|drive| match drive {
                Drive::Disk => xen_model::Drive::Disk,
                Drive::Cdrom => xen_model::Drive::Cdrom,
            })
        }),
        nic: wanted.nic,
        passed_through: wanted.passed_through,
    }
}

type Done = (Result<(), Failure>, BTreeMap<String, u64>, u64);

/// On an NT thread: boots and runs the case.
fn body(ctx: &process::Ctx, case: &Case, setup: &Setup, seed: u64) -> Done {
    let world = ModelWorld::new(ctx, setup.fault);
    let mut suite = suites::Ctx::new(&world, seed);
    let mut result = prepare(ctx, setup).map_err(|error| Failure(format!("{error:#}")));
    if result.is_ok() {
        result = (case.run)(&mut suite).and_then(|()| suite.check_wanted()).and_then(|()| world.judge_guest());
        let late = nt::storport::timed_out();
        if result.is_ok() && late > 0 && !case.may_time_out() {
            result = Err(Failure(format!("{late} requests took so long that the disk was reset: an event was lost")));
        }
    }
    if result.is_err() {
        println!("the log's end:");
        let log = ctx.log();
        for line in &log[log.len().saturating_sub(40)..] {
            println!("  {line}");
        }
        println!("devices in the store:");
        let store = ctx.xen(|xen| xen.store().dump());
        for line in store.lines().filter(|line| line.contains("/device/v") || line.contains("/backend/v")) {
            println!("  {line}");
        }
    }
    let mut counters: BTreeMap<_, _> =
        suite.counters().iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let touches = ctx.touches();
    if touches.accesses > 0 {
        counters.insert("shared accesses".to_owned(), touches.accesses);
        counters.insert("stores delayed".to_owned(), touches.delayed);
        counters.insert("stores overtaken".to_owned(), touches.overtaken);
    }
    if ctx.config().threads.is_some() {
        let shown = threads::judge(ctx.overlap(), &mut counters);
        result = result.and(shown);
    }
    if result.is_ok() && setup.shared_access == Often::Always && touches.delayed == 0 {
        result = Err(Failure("no store to a shared page was delayed".to_owned()));
    }
    (result, counters, ctx.trace_hash())
}

/// Sets disks, registry values and faults up as the case wants them, and boots.
fn prepare(ctx: &process::Ctx, setup: &Setup) -> anyhow::Result<()> {
    ctx.xen(|xen| {
        for disk in &setup.disks {
            world::attach(xen, disk);
        }
        for vif in &setup.vifs {
            network::attach(xen, vif);
        }
        // -ENOMEM, the error that every operation may give.
        let fault = xen_model::Fault { op: None, sub: None, after: 0, errno: -12, lasting: true };
        match setup.fault {
            Some(Fault::Hypercall(n)) => {
                xen.fail_hypercall(xen_model::Fault { after: n - 1, lasting: false, ..fault });
            }
            Some(Fault::HypercallLasting(n)) => xen.fail_hypercall(xen_model::Fault { after: n - 1, ..fault }),
            Some(Fault::Operation(op, sub)) => {
                xen.fail_hypercall(xen_model::Fault { op: Some(op), sub: Some(sub), ..fault });
            }
            Some(Fault::Allocation(_)) | None => {}
        }
    });
    let values = setup
        .registry
        .iter()
        .map(|(key, name, value)| {
            let (kind, data) = match value {
                RegistryValue::Dword(value) => (REG_DWORD, value.to_le_bytes().to_vec()),
                RegistryValue::Text(text) => {
                    (REG_SZ, text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect())
                }
                RegistryValue::Binary(bytes) => (REG_BINARY, bytes.to_vec()),
            };
            ((*key).to_owned(), (*name).to_owned(), kind, data)
        })
        .collect();
    if let Some(Fault::Allocation(n)) = setup.fault {
        nt::ex::fault::fail_nth(n);
    }
    boot::boot(ctx, values, setup.options)
}
