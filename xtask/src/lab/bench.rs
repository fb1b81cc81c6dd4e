//! `cargo xtask lab --bench`: our drivers beside Linux's, in one boot. The agent measures (`tests/lab/agent/src/bench.rs`);
//! this stages the guests, and [`table`] makes the tables.

mod table;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::follow::Progress;
use super::machine::{Clock, Machine};
use super::{BOOT_LIMIT, RUN_BYTES, collect, guest, image, need_space, one_at_a_time, run_folder, stage};
use crate::{packages, workspace};

/// What is measured.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Rows {
    /// Disks and networks
    #[default]
    All,
    /// Disks alone
    Disk,
    /// Networks alone
    Net,
}

impl Rows {
    /// As the agent reads it.
    fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Disk => "disk",
            Self::Net => "net",
        }
    }
}

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
    /// Only the rows of disks or of networks
    #[arg(long, value_enum, default_value_t = Rows::All, requires = "bench")]
    rows: Rows,
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
    need_space(&target.join("lab"), RUN_BYTES)?;
    let folder = run_folder(&target.join("lab"))?;
    let linux = folder.join("stage/linux");
    fs::create_dir_all(&linux)?;
    fs::copy(image.join("vmlinuz"), linux.join("vmlinuz"))?;
    pack(&program, &image.join("linux-modules"), &folder.join("initrd"), &linux.join("initrd"))?;
    let (rows, loads) = (options.rows.word(), options.load.join(" "));
    let plan = format!("{} {} {} {rows} {loads}\n", options.rounds, options.warm_up, options.window);
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
    let all: Vec<table::Measured> = text.lines().filter_map(table::parse).collect();
    let notes: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("note ")).collect();
    for note in &notes {
        println!("{note}");
    }
    println!("{}", table::tables(&all));
    if let Some(file) = &args.json {
        fs::write(file, serde_json::to_string_pretty(&table::json(&all, &notes))?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if !text.lines().any(|line| line == "end") {
        bail!("the comparison did not come to its end; see {}", workspace::relative(&folder));
    }
    Ok(ExitCode::SUCCESS)
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
            None if spent > args.timeout() => format!("killed after {} s", args.timeout()),
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
