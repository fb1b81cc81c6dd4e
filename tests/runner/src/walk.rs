//! A case whose seed is the number of the call that fails, run for one number after another until none is left.
//!
//! Each number is a run in a process of its own, as every case is. The walk ends where the failure did not come up in two
//! runs in a row: how many calls a run makes depends a little on its seed.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use crate::case::ResultLine;

/// Runs at once.
const AT_ONCE: usize = 2;
/// Failed runs that are printed in full.
const SHOWN: usize = 3;
/// More numbers than this are no walk, but a driver that calls for ever.
const MOST: u64 = 50_000;
/// The case's counter that says whether the planted failure came up.
const FIRED: &str = "fault fired";

/// Wall-clock seconds after which a walk has failed.
pub const TIMEOUT_S: u32 = 1_200;

/// A walk.
pub struct Walk {
    /// The case.
    pub case: &'static str,
    /// What it shows, in one line.
    pub summary: &'static str,
    /// How often the failure must have come up for the walk to mean something.
    pub least: u64,
    /// The tests take every so many-th number: a network card's pages alone are thousands of allocations, all alike.
    pub every: u64,
}

/// The walks.
pub const WALKS: [Walk; 5] = [
    Walk {
        case: "faults/allocation",
        summary: "Every allocation of a driver fails in turn, one a run",
        least: 50,
        every: 1,
    },
    Walk {
        case: "faults/hypercall",
        summary: "Every hypercall of a driver fails in turn, one a run",
        least: 30,
        every: 1,
    },
    Walk {
        case: "faults/hypercall-lasting",
        summary: "Every hypercall of a driver fails in turn, and from then on all of its kind",
        least: 30,
        every: 1,
    },
    Walk {
        case: "faults/net-allocation",
        summary: "Every allocation of a driver fails in turn, with a network interface",
        least: 50,
        every: 17,
    },
    Walk {
        case: "faults/net-hypercall",
        summary: "Every hypercall of a driver fails in turn, with a network interface",
        least: 30,
        every: 1,
    },
];

impl Walk {
    /// Its name among the cases.
    pub fn name(&self) -> String {
        format!("{}-walk", self.case)
    }
}

/// What came of one number.
struct Run {
    number: u64,
    fired: bool,
    failure: Option<String>,
    output: String,
}

/// A run under way.
struct Started {
    number: u64,
    child: Child,
    output: std::thread::JoinHandle<String>,
    until: Instant,
}

/// Walks through every `every`-th number from 1 (or `from`, up to `to`); the last line printed is the result.
///
/// # Errors
/// The case is no walk, or a run cannot be started.
pub fn run(name: &str, drivers: &Path, from: u64, to: Option<u64>, every: u64) -> anyhow::Result<ExitCode> {
    let walk = WALKS.iter().find(|walk| walk.case == name).with_context(|| format!("{name} is no walk"))?;
    let case = suites::cases::all().find(|case| case.name == name).with_context(|| format!("no case `{name}`"))?;
    let limit = Duration::from_secs(case.timeout_s.into());
    let last = to.unwrap_or(MOST);
    let (mut tried, mut fired, mut failures, mut missed, mut next) = (0, 0, Vec::new(), 0, from);
    let mut under_way: Vec<Started> = Vec::new();
    while missed < 2 {
        while under_way.len() < AT_ONCE && next <= last {
            under_way.push(start(name, drivers, next, limit)?);
            next += every.max(1);
        }
        if under_way.is_empty() {
            break;
        }
        // In their order: two misses in a row are two numbers that follow each other.
        let run = finish(under_way.remove(0))?;
        tried += 1;
        fired += u64::from(run.fired);
        // Of a run that failed it is not known; it certainly does not say that nothing is left.
        missed = if run.fired || run.failure.is_some() { 0 } else { missed + 1 };
        if let Some(failure) = run.failure {
            println!("number {}: {failure}", run.number);
            if failures.len() < SHOWN {
                print!("{}", run.output);
            }
            failures.push(run.number);
        }
    }
    for run in under_way {
        finish(run)?;
    }
    let failure = if !failures.is_empty() {
        let numbers: Vec<String> = failures.iter().map(u64::to_string).collect();
        Some(format!("{} of {tried} runs failed, numbers {}", failures.len(), numbers.join(" ")))
    } else if to.is_none() && missed < 2 {
        Some(format!("the failure still came up at number {MOST}"))
    } else if to.is_none() && fired < walk.least {
        Some(format!("the walk proved too little: the failure came up {fired} times, at least {} is due", walk.least))
    } else {
        None
    };
    let line = ResultLine {
        passed: failure.is_none(),
        failure,
        counters: BTreeMap::from([
            ("numbers tried".to_owned(), tried),
            ("faults fired".to_owned(), fired),
            ("failures".to_owned(), failures.len() as u64),
        ]),
        trace: String::new(),
    };
    println!("RESULT {}", serde_json::to_string(&line)?);
    Ok(if line.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start(name: &str, drivers: &Path, number: u64, limit: Duration) -> anyhow::Result<Started> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["case", name, "--seed", &number.to_string(), "--drivers"])
        .arg(drivers)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("cannot start a run")?;
    let mut pipe = child.stdout.take().context("a run without its output")?;
    let output = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks ends the text there; the missing RESULT line then says so.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    Ok(Started { number, child, output, until: Instant::now() + limit })
}

fn finish(mut run: Started) -> anyhow::Result<Run> {
    let timed_out = loop {
        if run.child.try_wait()?.is_some() {
            break false;
        }
        if Instant::now() > run.until {
            run.child.kill()?;
            run.child.wait()?;
            break true;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let output = run.output.join().unwrap_or_default();
    let last = output.lines().rev().find_map(|line| line.strip_prefix("RESULT "));
    let result = last.and_then(|line| serde_json::from_str::<Value>(line).ok());
    let (fired, failure) = match &result {
        Some(line) => (
            line["counters"][FIRED].as_u64().unwrap_or(0) > 0,
            (line["passed"] != Value::Bool(true))
                .then(|| line["failure"].as_str().unwrap_or("no reason given").to_owned()),
        ),
        None if timed_out => (false, Some("it did not end in time".to_owned())),
        None => (false, Some("it ended without a result".to_owned())),
    };
    Ok(Run { number: run.number, fired, failure, output })
}
