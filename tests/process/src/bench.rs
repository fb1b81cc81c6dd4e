//! A run of the bench: set up, one closure as an NT thread, an outcome.

use crate::frames::{self, MemoryStats};
use crate::step::{self, Steps};
use crate::threads::{self, Overlap};
use crate::touch::{self, Touches, Watch};
use crate::{adapter, host, processor, trap, watchdog};
use anyhow::Context as _;
use nt::inf::install::Package;
use nt::platform::PAGE_SIZE;
use std::cell::Cell;
use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use xen_model::Xen;

/// What to run on.
#[derive(Clone, Debug)]
pub struct BenchConfig {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Virtual processors, 1 to 64.
    pub vcpus: u32,
    /// Guest RAM in MiB, at least 16.
    pub ram_mib: u64,
    /// Now and then step through a driver's code and preempt between two instructions.
    pub stepping: bool,
    /// How much of the run has preemption points, and delayed stores, at drivers' accesses to shared pages.
    pub watch: Watch,
    /// Preemption points after which the run counts as hung. About a million take a second.
    pub most_steps: u64,
    /// The preemption point at which the power goes: the report is [`crate::POWER_CUT`] then.
    pub dies_at: Option<u64>,
    /// Each processor is an OS thread, and the run may take so long at most. Nothing is left to the seed then but what
    /// the machine looks like, and `stepping`, `watch`, `most_steps` and `dies_at` have no effect.
    pub threads: Option<Duration>,
    /// Print the log as it comes.
    pub verbose: bool,
    /// The folder with driver packages.
    pub drivers: PathBuf,
    /// The machine has a PCI host bus adapter for tests (`adapter` in this crate) with this device id.
    pub adapter: Option<u16>,
    /// The modelled host; `vcpus`, `seed` and `ram_pages` are set from the fields above.
    pub model: xen_model::Config,
}

impl Default for BenchConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            vcpus: 2,
            ram_mib: 256,
            stepping: false,
            watch: Watch::Never,
            most_steps: 1_000_000_000,
            dies_at: None,
            threads: None,
            verbose: false,
            drivers: PathBuf::from("target/dist/x64"),
            adapter: None,
            model: xen_model::Config::default(),
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome<R> {
    /// The closure returned.
    Done(R),
    /// The machine was stopped: a bug check, a violation, a dead end.
    Stopped(nt::platform::Stop),
}

/// Cuts the power: the run ends here and now, with the report [`crate::POWER_CUT`]. On a thread of the machine.
pub fn cut_power() -> ! {
    host::stop_with(watchdog::POWER_CUT)
}

/// A machine that has not run yet. One per process.
pub struct Bench {
    config: BenchConfig,
}

/// What the closure of a run can reach.
pub struct Ctx {
    config: BenchConfig,
}

impl Ctx {
    /// The run's configuration.
    pub fn config(&self) -> &BenchConfig {
        &self.config
    }

    /// Does something with the model: attaches disks, reads figures. No guest code runs meanwhile.
    ///
    /// # Panics
    /// If it is called from within itself.
    pub fn xen<R>(&self, body: impl FnOnce(&mut Xen) -> R) -> R {
        let result = host::with_xen(body).expect("the model is there while the machine runs");
        processor::deliver();
        result
    }

    /// Lets simulated time pass with the thread asleep.
    pub fn sleep_ms(&self, ms: u64) {
        nt::ke::wait::sleep(-((ms * 10_000).max(1) as i64));
    }

    /// Simulated time since the start, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        processor::now_ns()
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        host::log_lines()
    }

    /// The hash of everything that happened so far: equal for equal seeds.
    pub fn trace_hash(&self) -> u64 {
        processor::trace_hash()
    }

    /// How often one processor was left for another.
    pub fn switches(&self) -> u64 {
        processor::switches()
    }

    /// Preemption points so far.
    pub fn steps(&self) -> u64 {
        watchdog::steps()
    }

    /// What was done to drivers' accesses to shared pages so far.
    pub fn touches(&self) -> Touches {
        touch::touches()
    }

    /// What the mode with threads counted so far.
    pub fn overlap(&self) -> Overlap {
        threads::overlap()
    }

    /// Figures of guest memory.
    pub fn memory(&self) -> MemoryStats {
        frames::memory().stats()
    }

    /// Counts the instructions of drivers from now on, from zero. Every one of them traps: slow.
    pub fn count_instructions(&self) {
        step::start();
    }

    /// Stops counting.
    pub fn stop_counting(&self) {
        step::stop();
    }

    /// What was counted so far.
    pub fn counted(&self) -> Steps {
        step::counted()
    }

    /// Counts what drivers read and write of these ranges (address, bytes), and of no others any more, while
    /// instructions are counted.
    pub fn watch(&self, ranges: &[(usize, usize)]) {
        step::watch(ranges);
    }

    /// Also counts what drivers read and write of the frames that netback puts into the guest's pages from now on: of each
    /// the bytes from `payload` on as [`Ctx::watch`] does, and what is read of those before by itself. A page counts with what was put into
    /// it last. `None`: no more.
    pub fn follow(&self, payload: Option<usize>) {
        host::with_xen(|xen| xen.note_deliveries(payload.is_some()));
        step::follow(payload);
    }

    /// The driver packages of the drivers' folder: every INF below it, with the files next to it.
    ///
    /// # Errors
    /// The folder or a file cannot be read, or an INF is none.
    pub fn packages(&self) -> anyhow::Result<Vec<Package>> {
        packages(&self.config.drivers)
    }
}

fn packages(folder: &std::path::Path) -> anyhow::Result<Vec<Package>> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    let mut found = Vec::new();
    let mut files = Vec::new();
    for path in &entries {
        if path.is_dir() {
            found.extend(packages(path)?);
        } else {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let bytes: Arc<[u8]> = std::fs::read(path).with_context(|| path.display().to_string())?.into();
            files.push((name, bytes));
        }
    }
    for (name, bytes) in &files {
        if name.to_ascii_lowercase().ends_with(".inf") {
            let package = Package::new(name, bytes, files.clone())
                .map_err(|error| anyhow::anyhow!("{}: {error}", folder.join(name).display()))?;
            found.push(package);
        }
    }
    Ok(found)
}

/// What the first thread takes along.
struct Launch<'a> {
    body: Cell<Option<Box<dyn FnOnce() + 'a>>>,
}

unsafe extern "win64" fn launch(context: *mut c_void) {
    // SAFETY: `run` keeps the launch alive until the machine was left.
    let launch = unsafe { &*context.cast::<Launch<'_>>() };
    if let Some(body) = launch.body.take() {
        body();
    }
    processor::leave();
}

impl Bench {
    /// Checks a configuration.
    ///
    /// # Errors
    /// What is out of range.
    pub fn new(config: BenchConfig) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (1..=processor::MAX as u32).contains(&config.vcpus),
            "vcpus is {}, not one of 1 to {}",
            config.vcpus,
            processor::MAX
        );
        anyhow::ensure!((16..=3072).contains(&config.ram_mib), "ram_mib is {}, not one of 16 to 3072", config.ram_mib);
        Ok(Self { config })
    }

    /// Runs `body` as an NT thread at PASSIVE_LEVEL on a fresh machine until it returns or the machine is stopped.
    /// Once per process.
    ///
    /// # Errors
    /// The machine could not be set up.
    pub fn run<R>(self, body: impl FnOnce(&Ctx) -> R) -> anyhow::Result<Outcome<R>> {
        let mut model = self.config.model.clone();
        model.vcpus = self.config.vcpus;
        model.seed = self.config.seed;
        model.ram_pages = self.config.ram_mib << 20 >> PAGE_SIZE.trailing_zeros();
        anyhow::ensure!(!nt::platform::installed(), "this process has run a machine already");
        let (vcpus, seed) = (self.config.vcpus, self.config.seed);
        processor::prepare(vcpus, seed);
        if let Some(limit) = self.config.threads {
            println!("{}", threads::introduction(vcpus));
            threads::set_up(seed, limit);
        } else {
            watchdog::set_up(self.config.most_steps, self.config.dies_at);
            step::preempt_between(self.config.stepping);
            touch::set_up(self.config.watch);
        }
        host::set_up(model, 16 << 10, self.config.verbose)?;
        if let Some(id) = self.config.adapter {
            adapter::plug_in(id)?;
        }
        trap::install()?;
        nt::ke::start();
        let ctx = Ctx { config: self.config };
        let mut result = None;
        {
            let launch_state = Launch {
                body: Cell::new(Some(Box::new(|| {
                    if let Err(status) = nt::ex::start_workers() {
                        host::stop_with(&format!("the worker threads did not start: {status:#x}"));
                    }
                    result = Some(body(&ctx));
                }))),
            };
            let context = (&raw const launch_state).cast_mut().cast();
            // SAFETY: the scheduler is set up; the launch lives until `run` returns.
            let thread = unsafe { nt::ke::thread::create(launch, context, nt::ke::sched::DEFAULT_PRIORITY) };
            let thread = thread.map_err(|status| anyhow::anyhow!("the first thread did not start: {status:#x}"))?;
            watchdog::watch(thread);
            processor::run();
            // A machine that was stopped left the body on a stack that is gone: it must not be dropped.
            std::mem::forget(launch_state.body.take());
        }
        if let Some(stop) = host::take_end() {
            return Ok(Outcome::Stopped(stop));
        }
        result.map(Outcome::Done).ok_or_else(|| anyhow::anyhow!("the machine ended without a result"))
    }
}
