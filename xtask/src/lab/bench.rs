//! `cargo xtask lab --bench`: our drivers beside Linux's, in one boot, on one disk of dom0. The agent measures
//! (`tests/lab/agent/src/bench.rs`); this stages the guests and makes the tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use super::follow::Progress;
use super::machine::{Clock, Machine};
use super::{BOOT_LIMIT, RUN_BYTES, collect, guest, image, need_space, one_at_a_time, run_folder, stage};
use crate::{packages, workspace};

/// Arguments of the comparison.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Measure our drivers beside Linux's instead of running cases
    #[arg(long)]
    pub bench: bool,
    /// Rounds of the comparison
    #[arg(long, default_value_t = 7, requires = "bench")]
    rounds: u32,
    /// Milliseconds that are measured
    #[arg(long, default_value_t = 2000, requires = "bench")]
    window: u64,
    /// Only this load; may be given again
    #[arg(long, requires = "bench")]
    load: Vec<String>,
    /// Let time be the emulated processor's instructions, a nanosecond each: other work of the host makes no difference
    #[arg(long, requires = "bench")]
    instructions: bool,
    /// Milliseconds before
    #[arg(long, default_value_t = 500, requires = "bench")]
    warm_up: u64,
}

/// The guests' names.
const OURS: &str = "lab";
const LINUX: &str = "lab-linux";
/// Bytes of a request, by the load's name.
const SIZES: [(&str, f64); 2] = [("-4k-", 4096.0), ("-64k-", 65536.0)];

/// One measurement, as the agent writes it.
#[derive(Clone, Debug, Serialize)]
struct Measured {
    round: u32,
    load: String,
    persistent: String,
    guest: String,
    /// Requests a second.
    rate: f64,
    /// Microseconds of processor time a request.
    guest_cpu: f64,
    dom0_cpu: f64,
    /// Notifications a request: guest to dom0, dom0 to guest.
    events_out: f64,
    events_in: f64,
    /// Requests of the ring a request of the load: Linux may merge neighbours.
    ring: f64,
}

/// `measured ROUND LOAD SETTING GUEST NANOSECONDS DONE GUEST_NS DOM0_NS EVENTS RING REQUESTS INTERRUPTS`.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn parse(line: &str) -> Option<Measured> {
    let mut words = line.strip_prefix("measured ")?.split(' ');
    let round = words.next()?.parse().ok()?;
    let mut text = || words.next().map(str::to_owned);
    let (load, persistent, guest) = (text()?, text()?, text()?);
    let numbers: Vec<f64> = words.filter_map(|word| Some(word.parse::<u64>().ok()? as f64)).collect();
    let [nanoseconds, done, guest_ns, dom0_ns, events, ring, requests, interrupts] = numbers[..] else { return None };
    if done < 1.0 || requests < 1.0 || nanoseconds < 1.0 {
        return None;
    }
    Some(Measured {
        round,
        load,
        persistent,
        guest,
        rate: done / nanoseconds * 1e9,
        guest_cpu: guest_ns / done / 1e3,
        dom0_cpu: dom0_ns / done / 1e3,
        events_out: events / done,
        events_in: interrupts / requests,
        ring: ring / done,
    })
}

/// Median and spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }
}

/// One quantity of a load: both guests, and the ratios of the pairs that were measured one after the other.
#[derive(Serialize)]
struct Compared {
    ours: Spread,
    linux: Spread,
    ratio: Spread,
}

/// A quantity: its name, and how it is read.
type Quantity = (&'static str, fn(&Measured) -> f64);

/// What is compared.
const QUANTITIES: [Quantity; 6] = [
    ("requests/s", |m| m.rate),
    ("guest CPU us/request", |m| m.guest_cpu),
    ("dom0 CPU us/request", |m| m.dom0_cpu),
    ("events to dom0/request", |m| m.events_out),
    ("events to guest/request", |m| m.events_in),
    ("ring requests/request", |m| m.ring),
];

fn compare(all: &[Measured], load: &str, persistent: &str, value: fn(&Measured) -> f64) -> Option<Compared> {
    let of = |guest: &str| -> BTreeMap<u32, f64> {
        let own = all.iter().filter(|m| m.load == load && m.persistent == persistent && m.guest == guest);
        own.map(|m| (m.round, value(m))).collect()
    };
    let (ours, linux) = (of(OURS), of(LINUX));
    let ratios = ours.iter().filter_map(|(round, ours)| Some(ours / linux.get(round)?)).collect();
    Some(Compared {
        ours: Spread::of(ours.into_values().collect())?,
        linux: Spread::of(linux.into_values().collect())?,
        ratio: Spread::of(ratios)?,
    })
}

/// Three significant digits.
fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

fn cell(spread: Spread) -> String {
    format!("{} ({} - {})", number(spread.median), number(spread.min), number(spread.max))
}

/// The tables, as Markdown: median (min - max); the ratio is that of ours to Linux's in the same round.
fn tables(all: &[Measured]) -> String {
    let mut text = String::new();
    let unique = |of: fn(&Measured) -> &String| {
        let mut names: Vec<&String> = Vec::new();
        for name in all.iter().map(of) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    };
    // Writing to a String does not fail.
    for persistent in unique(|m| &m.persistent) {
        let _ = writeln!(text, "\nblkback's feature_persistent: {persistent}\n");
        let _ = writeln!(text, "| load | quantity | ours | Linux | ours/Linux |\n|---|---|---|---|---|");
        for load in unique(|m| &m.load) {
            for (name, value) in QUANTITIES {
                let Some(Compared { ours, linux, ratio }) = compare(all, load, persistent, value) else { continue };
                let _ = writeln!(text, "| {load} | {name} | {} | {} | **{}** |", cell(ours), cell(linux), cell(ratio));
            }
            let bytes = SIZES.iter().find(|(part, _)| load.contains(part)).map_or(0.0, |(_, bytes)| *bytes);
            if let Some(rate) = compare(all, load, persistent, QUANTITIES[0].1) {
                let mib = |spread: Spread| number(spread.median * bytes / f64::from(1 << 20));
                let _ = writeln!(text, "| {load} | MiB/s | {} | {} | |", mib(rate.ours), mib(rate.linux));
            }
        }
    }
    text
}

/// Packs the Linux guest's initial RAM disk: the program as `init`, and the modules.
fn pack(program: &Path, modules: &Path, folder: &Path, file: &Path) -> anyhow::Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder.join("modules"))?;
    fs::copy(program, folder.join("init"))?;
    let mut names = vec!["init".to_owned(), "modules".to_owned()];
    let modules = fs::read_dir(modules).with_context(|| format!("cannot read {}", modules.display()))?;
    for entry in modules {
        let entry = entry?;
        let name = format!("modules/{}", entry.file_name().to_string_lossy());
        fs::copy(entry.path(), folder.join(&name))?;
        names.push(name);
    }
    names.sort();
    let mut cpio = Command::new(packages::CPIO.path())
        .args(["--quiet", "--create", "--format=newc"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(file)?)
        .spawn()
        .context("cannot start cpio")?;
    let mut input = cpio.stdin.take().context("cpio takes no input")?;
    input.write_all(names.join("\n").as_bytes())?;
    drop(input);
    if !cpio.wait()?.success() {
        bail!("cpio could not pack {}", folder.display());
    }
    Ok(())
}

/// Runs the command.
///
/// # Errors
/// Where the lab or a guest does not work.
pub fn run(args: &super::Args) -> anyhow::Result<ExitCode> {
    let options = &args.comparison;
    if options.rounds == 0 || options.window == 0 {
        bail!("nothing is measured in no rounds or no time");
    }
    if args.drivers.is_none() {
        crate::build::all()?;
    }
    let target = workspace::root().join("target");
    packages::ensure(&[&packages::QEMU, &packages::CPIO])?;
    let drivers = args.drivers.clone().unwrap_or_else(|| target.join("dist/x64"));
    let alone = one_at_a_time(&target.join("lab"))?;
    let image = image::make()?;
    let programs = guest::build()?;
    let program = guest::build_linux()?;
    need_space(&target, RUN_BYTES)?;
    let folder = run_folder(&target.join("lab"))?;
    let linux = folder.join("stage/linux");
    fs::create_dir_all(&linux)?;
    fs::copy(image.join("vmlinuz"), linux.join("vmlinuz"))?;
    pack(&program, &image.join("linux-modules"), &folder.join("initrd"), &linux.join("initrd"))?;
    let plan = format!("{} {} {} {}\n", options.rounds, options.warm_up, options.window, options.load.join(" "));
    fs::write(folder.join("stage/bench"), plan)?;
    stage(args, &[], &drivers, &programs, &folder)?;
    drop(alone);
    println!("== lab: {} rounds, everything of the run in {}", options.rounds, workspace::relative(&folder));
    let clock = if options.instructions { Clock::Instructions } else { Clock::Host };
    let mut machine = Machine::start(&image, &folder, args.keep, clock)?;
    let followed = follow(&mut machine, args);
    machine.stop();
    collect(&folder, args.keep);
    followed?;

    let text = fs::read_to_string(folder.join("bench")).context("the agent left no measurements")?;
    let all: Vec<Measured> = text.lines().filter_map(parse).collect();
    let notes: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("note ")).collect();
    for note in &notes {
        println!("{note}");
    }
    println!("{}", tables(&all));
    if let Some(file) = &args.json {
        fs::write(file, serde_json::to_string_pretty(&json(&all, &notes))?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if !text.lines().any(|line| line == "end") {
        bail!("the comparison did not come to its end; see {}", workspace::relative(&folder));
    }
    Ok(ExitCode::SUCCESS)
}

fn json(all: &[Measured], notes: &[&str]) -> serde_json::Value {
    let mut loads = serde_json::Map::new();
    for m in all {
        let key = format!("{}, feature_persistent {}", m.load, m.persistent);
        if loads.contains_key(&key) {
            continue;
        }
        let quantities = QUANTITIES
            .iter()
            .filter_map(|(name, value)| Some(((*name).to_owned(), compare(all, &m.load, &m.persistent, *value)?)))
            .map(|(name, compared)| (name, serde_json::json!(compared)))
            .collect::<serde_json::Map<_, _>>();
        loads.insert(key, quantities.into());
    }
    serde_json::json!({ "notes": notes, "compared": loads, "measured": all })
}

/// Prints what the agent says until the machine ends.
fn follow(machine: &mut Machine, args: &super::Args) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut progress = Progress::default();
    loop {
        // Asked first, so that what was printed last is read.
        let ended = machine.ended()?;
        for line in machine.lines()? {
            progress.line(&line);
            if let Some(text) = line.strip_prefix("lab-bench ") {
                println!("{:5.0} s: {text}", start.elapsed().as_secs_f64());
            }
        }
        let spent = start.elapsed().as_secs();
        let late = match ended {
            Some(_) => return Ok(()),
            None if spent > args.timeout => format!("killed after {} s", args.timeout),
            None if !progress.is_ready() && spent > BOOT_LIMIT => format!("dom0 is not there after {BOOT_LIMIT} s"),
            None => {
                std::thread::sleep(Duration::from_millis(200));
                continue;
            }
        };
        for line in machine.tail(25) {
            println!("    | {line}");
        }
        bail!("{late}, while {}", progress.step());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_read_and_compared() {
        let all: Vec<Measured> = [
            "note lab xvde: connected",
            "measured 1 read-4k-1 off lab 2000000000 1000 500000000 600000000 1000 1000 1300 1310",
            "measured 1 read-4k-1 off lab-linux 2000000000 500 500000000 600000000 500 500 650 650",
            "measured 2 read-4k-1 off lab 2000000000 600 300000000 600000000 600 600 900 900",
            "measured 2 read-4k-1 off lab-linux 2000000000 600 600000000 600000000 600 600 900 900",
            "measured 3 read-4k-1 off lab 2000000000",
        ]
        .iter()
        .filter_map(|line| parse(line))
        .collect();
        assert_eq!(all.len(), 4);
        let rate = compare(&all, "read-4k-1", "off", QUANTITIES[0].1).expect("two rounds");
        assert_eq!(rate.ours, Spread { median: 400.0, min: 300.0, max: 500.0 });
        assert_eq!(rate.ratio, Spread { median: 1.5, min: 1.0, max: 2.0 });
        let cpu = compare(&all, "read-4k-1", "off", QUANTITIES[1].1).expect("two rounds");
        assert_eq!((cpu.ours.median, cpu.linux.median, cpu.ratio.median), (500.0, 1000.0, 0.5));
        assert!(compare(&all, "read-4k-1", "default", QUANTITIES[0].1).is_none());
        assert!(tables(&all).contains("| read-4k-1 | requests/s | 400 (300 - 500) |"), "{}", tables(&all));
    }
}
