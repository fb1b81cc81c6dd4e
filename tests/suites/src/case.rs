//! What a case is: a name, what it needs, a body, and counters that prove it did something.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use rand::SeedableRng;
use rand_pcg::Pcg64;

use crate::emulated::DeviceModel;
use crate::network::VifSpec;
use crate::world::{DiskSpec, World};

/// Why a case failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// Fails the case with a formatted text.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)*) => { return Err($crate::Failure(alloc::format!($($arg)*))) };
}

/// Fails the case unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($arg:tt)*) => { if !$condition { $crate::fail!($($arg)*); } };
}

/// A registry value set before the boot, below the control set: `(r"Services\xenpci\Parameters", "LogLevel", value)`.
#[derive(Clone, Debug)]
pub enum RegistryValue {
    /// REG_DWORD.
    Dword(u32),
    /// REG_SZ.
    Text(&'static str),
    /// REG_BINARY.
    Binary(&'static [u8]),
}

/// The machine that a case wants.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Virtual processors, 1 to 64.
    pub vcpus: u32,
    /// Disks that are there when Windows boots.
    pub disks: Vec<DiskSpec>,
    /// Network interfaces that are there when Windows boots.
    pub vifs: Vec<VifSpec>,
    /// Registry values set before the boot.
    pub registry: Vec<(&'static str, &'static str, RegistryValue)>,
    /// The boot entry's options.
    pub options: &'static str,
    /// What the device model emulates.
    pub device_model: DeviceModel,
    /// Hyper-V leaves stand before Xen's.
    pub viridian: bool,
    /// The hypervisor offers FIFO event channels.
    pub fifo: bool,
    /// The hypervisor offers per-vCPU upcall vectors.
    pub vectors: bool,
    /// There is a Xen at all.
    pub xen: bool,
    /// Grant-table frames that Xen allows.
    pub grant_frames: u32,
    /// Fault of an allocation or a hypercall, armed before the first driver loads: counts from 1.
    pub fault: Option<Fault>,
    /// Single-step at seeded moments, so that preemption falls between any two instructions.
    pub stepping: bool,
    /// How often a driver's access to a page that it shares with Xen or a backend is a preemption point, and its store
    /// there is delayed as a processor's store buffer delays it.
    pub shared_access: Often,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            vcpus: 2,
            disks: Vec::new(),
            vifs: Vec::new(),
            registry: Vec::new(),
            options: "",
            device_model: DeviceModel::default(),
            viridian: false,
            fifo: true,
            vectors: true,
            xen: true,
            grant_frames: 64,
            fault: None,
            stepping: true,
            shared_access: Often::Sometimes,
        }
    }
}

impl Setup {
    /// Two processors and one disk of `mib` MiB, `xvde`.
    pub fn one_disk(mib: u64) -> Self {
        Self { disks: alloc::vec![DiskSpec::new(0, mib)], ..Self::default() }
    }

    /// Two processors and one network interface with everything that Linux's netback offers.
    pub fn one_vif() -> Self {
        Self { vifs: alloc::vec![VifSpec::new(0)], ..Self::default() }
    }
}

/// How much of a run something is done in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Often {
    /// Nowhere.
    Never,
    /// At seeded moments.
    Sometimes,
    /// From the start to the end.
    Always,
}

/// A planted failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The n-th allocation from a driver fails.
    Allocation(u64),
    /// The n-th hypercall of a driver fails.
    Hypercall(u64),
    /// The n-th hypercall of a driver fails, and so does every later one of the same operation.
    HypercallLasting(u64),
    /// Every hypercall of that number and sub-operation fails.
    Operation(u32, u64),
}

/// A case.
pub struct Case {
    /// `group/name`.
    pub name: &'static str,
    /// What it shows, in one line.
    pub summary: &'static str,
    /// Whether `--quick` runs it.
    pub quick: bool,
    /// Wall-clock seconds after which it has failed.
    pub timeout_s: u32,
    /// The machine it wants. The argument is the seed.
    pub setup: fn(u64) -> Setup,
    /// Its body, on a system thread at PASSIVE_LEVEL, after the boot has settled.
    pub run: fn(&mut Ctx<'_>) -> Result<(), Failure>,
}

impl Case {
    /// Whether Windows may have to reset the disk because a request takes too long: only where the backend misbehaves or
    /// a call of the driver fails. Everywhere else a time-out is a lost event that the reset has covered up.
    pub fn may_time_out(&self) -> bool {
        self.name.starts_with("hostile/") || self.name.starts_with("faults/")
    }
}

/// What a case's body is given.
pub struct Ctx<'w> {
    /// Dom0, the toolstack and the backends.
    pub world: &'w dyn World,
    /// Seeded with the run's seed.
    pub rng: Pcg64,
    /// The run's seed.
    pub seed: u64,
    counters: BTreeMap<&'static str, u64>,
    wanted: Vec<(&'static str, u64)>,
}

impl<'w> Ctx<'w> {
    /// A context for one run.
    pub fn new(world: &'w dyn World, seed: u64) -> Self {
        Self { world, rng: Pcg64::seed_from_u64(seed), seed, counters: BTreeMap::new(), wanted: Vec::new() }
    }

    /// Adds to a counter.
    pub fn count(&mut self, name: &'static str, by: u64) {
        *self.counters.entry(name).or_default() += by;
    }

    /// Sets a counter.
    pub fn set(&mut self, name: &'static str, value: u64) {
        self.counters.insert(name, value);
    }

    /// At the end the counter must be at least `least`: a case that did nothing has failed.
    pub fn want(&mut self, name: &'static str, least: u64) {
        self.wanted.push((name, least));
        self.counters.entry(name).or_default();
    }

    /// The counters so far.
    pub fn counters(&self) -> &BTreeMap<&'static str, u64> {
        &self.counters
    }

    /// Checks the minimum-effect counters.
    ///
    /// # Errors
    /// The first that is too low.
    pub fn check_wanted(&self) -> Result<(), Failure> {
        for (name, least) in &self.wanted {
            let value = self.counters.get(name).copied().unwrap_or(0);
            if value < *least {
                return Err(Failure(format!("the case proved too little: {name} is {value}, at least {least} is due")));
            }
        }
        Ok(())
    }
}
