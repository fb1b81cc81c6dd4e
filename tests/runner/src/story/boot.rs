//! One boot of a story, in a process of its own: the drivers are the built ones, Windows' part before the service is the
//! personality's, the service's and the installer's part is their own code.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, bail};
use bootcfg::registry::{Kept, Registry};
use bootcfg::{Bcd, Mode, Tool, setup};
use nt::inf::install::Package;
use nt::pnp::boot::{BootConfig, BootError};
use process::{Bench, BenchConfig, Outcome};
use shutdownmon::arming::{self, Keeper};
use suites::emulated::{self, Drive};
use suites::guest::{Buffer, Disk};
use suites::oracle::UNIT;
use xen_model::{DiskOptions, FileBacking, Xen};

use super::network::{Network, Used};
use super::order::{self, Act, Death, End, Order, Other, Report, Twin, Unplug, file};
use super::windows::{Clock, Programs, Registers, Xenstore};
use crate::network;
use crate::world::ModelWorld;

/// The suites' number of xvda, which is hda too.
const XVDA: u32 = 12;
/// Half seconds that Windows looks for its boot volume.
const VOLUME_TRIES: u32 = 120;
/// Records that each boot writes at each of its stages.
const RECORDS: usize = 4;
/// Windows' drivers of the emulated disk that this machine has.
const NEEDED: [&str; 2] = ["intelide", "atapi"];
/// Windows' storage drivers that start at boot.
const INBOX: [&str; 5] = ["storahci", "pciide", "intelide", "atapi", "stornvme"];
/// The service's key.
const SERVICE: &str = r"Services\shutdownmon";

/// The disk that the boot volume was found on.
static VOLUME: Mutex<Option<Twin>> = Mutex::new(None);
/// What the boot found to be wrong.
static FAILURE: Mutex<Option<String>> = Mutex::new(None);
/// The card that was used.
static USED: Mutex<Option<Used>> = Mutex::new(None);
/// What the service said.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Die when the volume is found.
static DIES_AT_VOLUME: AtomicBool = AtomicBool::new(false);

fn lock<T>(mutex: &'static Mutex<T>) -> std::sync::MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether the boot loader loads a driver of Windows'.
fn loads(driver: &str) -> bool {
    let number = |key: &str, name| Registers.number(key, name).ok().flatten();
    let put_off = number(&format!(r"Services\{driver}\StartOverride"), "0").unwrap_or(0);
    number(&format!(r"Services\{driver}"), "Start") == Some(0) && put_off == 0
}

/// Finds the boot volume, on whichever disk there is.
fn find_volume() -> bool {
    for _ in 0..VOLUME_TRIES {
        let emulated = emulated::drives()[0] == Some(Drive::Disk);
        let paravirtual = Disk::present(XVDA);
        if emulated && paravirtual {
            *lock(&FAILURE) = Some("the disk is there twice".into());
        }
        let found = if paravirtual {
            Some(Twin::Paravirtual)
        } else {
            (emulated && NEEDED.iter().all(|driver| loads(driver))).then_some(Twin::Emulated)
        };
        *lock(&VOLUME) = found;
        if found.is_some() && DIES_AT_VOLUME.load(Relaxed) {
            process::cut_power();
        }
        if found.is_some() {
            return true;
        }
        nt::ke::wait::sleep(-5_000_000);
    }
    false
}

/// A record of the oracle: what stands in one unit of the disk.
fn record(number: usize) -> [u8; UNIT] {
    let mut unit = [0; UNIT];
    for (place, byte) in unit.iter_mut().enumerate() {
        *byte = (number.wrapping_mul(167) ^ place.wrapping_mul(29)) as u8;
    }
    unit[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    unit
}

/// The system disk, as this boot reaches it. An emulated disk is the same image, written by the device model.
struct Volume<'c> {
    world: ModelWorld<'c>,
    disk: Option<Disk>,
    folder: &'c Path,
}

impl<'c> Volume<'c> {
    fn mount(ctx: &'c process::Ctx, folder: &'c Path) -> anyhow::Result<Self> {
        let world = ModelWorld::new(ctx, None);
        let suite = suites::Ctx::new(&world, 0);
        let disk = match *lock(&VOLUME) {
            Some(Twin::Paravirtual) => Some(Disk::find(&suite, XVDA).map_err(|error| anyhow::anyhow!("{error}"))?),
            _ => None,
        };
        Ok(Self { world, disk, folder })
    }

    fn read(&self, number: usize) -> anyhow::Result<Vec<u8>> {
        use suites::world::World;
        let Some(disk) = &self.disk else {
            let mut unit = vec![0; UNIT];
            self.world.read_backing(XVDA, number as u64, &mut unit);
            return Ok(unit);
        };
        let done = disk.read(number, Buffer::new(UNIT, 0)).expect_ok("a read of the system disk");
        Ok(done.map_err(|error| anyhow::anyhow!("{error}"))?.buffer.bytes().to_vec())
    }

    fn write(&self, number: usize) -> anyhow::Result<()> {
        use suites::world::World;
        let Some(disk) = &self.disk else {
            self.world.write_backing(XVDA, number as u64, &record(number));
            return Ok(());
        };
        let mut buffer = Buffer::new(UNIT, 0);
        buffer.bytes_mut().copy_from_slice(&record(number));
        disk.write(number, buffer).expect_ok("a write").map_err(|error| anyhow::anyhow!("{error}"))?;
        disk.flush().expect_ok("a flush").map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(())
    }

    /// Checks every record that was ever acknowledged, and adds some.
    fn go_on(&self) -> anyhow::Result<()> {
        let known: usize = order::get(self.folder, file::RECORDS)?.trim().parse()?;
        for number in 0..known {
            if self.read(number)? != record(number) {
                bail!("data lost: record {number} of {known} is not what was written");
            }
        }
        for number in known..known + RECORDS {
            self.write(number)?;
            order::put(self.folder, file::RECORDS, (number + 1).to_string())?;
        }
        Ok(())
    }
}

/// Windows puts the storage drivers off that this boot did not need.
fn put_off(disk: Twin) -> anyhow::Result<()> {
    if disk == Twin::Paravirtual {
        for driver in INBOX {
            Registers.set_number(&format!(r"Services\{driver}\StartOverride"), "0", 3)?;
        }
    }
    Ok(())
}

fn install(packages: Vec<Package>, programs: &Programs<'_>, network: &Network<'_>) -> anyhow::Result<()> {
    for package in packages {
        nt::pnp::boot::add_package(package).map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    network.remember()?;
    setup::set_up(&Bcd::new(programs), &Kept(&Registers), "C:")?;
    Registers.set_number(SERVICE, "Start", 2)?;
    Ok(())
}

/// A package with another version, made of the built one.
fn make(ctx: &process::Ctx, other: &Other) -> anyhow::Result<Package> {
    let built = format!("{}.inf", other.name);
    let found = ctx.packages()?.into_iter().find(|package| package.name == built);
    let mut files = found.with_context(|| format!("there is no {built}"))?.files;
    let inf = std::str::from_utf8(files.get(&built).context("the INF is in its folder")?)?;
    let (before, line) = inf.split_once("DriverVer").with_context(|| format!("{built} has a version"))?;
    let after = line.split_once('\n').map_or("", |(_, after)| after);
    let inf = format!("{before}DriverVer = 01/01/2025,{}\n{after}", other.version);
    if !other.works {
        files.insert(format!("{}.sys", other.name), std::sync::Arc::from([0; 512].as_slice()));
    }
    Package::new(&other.inf(), inf.as_bytes(), files).map_err(|error| anyhow::anyhow!("{}: {error}", other.inf()))
}

/// The suite's packages.
fn packages(ctx: &process::Ctx, order: &Order) -> anyhow::Result<Vec<Package>> {
    let built = ctx.packages()?;
    let Some(version) = &order.version else { return Ok(built) };
    let names = built.iter().map(|package| package.name.trim_end_matches(".inf").to_owned());
    names.map(|name| make(ctx, &Other { name, version: version.clone(), works: true })).collect()
}

fn put_driver(ctx: &process::Ctx, other: &Other) -> anyhow::Result<()> {
    let devices = nt::pnp::boot::replace_drivers(make(ctx, other)?).map_err(|error| anyhow::anyhow!("{error}"))?;
    anyhow::ensure!(devices > 0, "{} fits no device", other.inf());
    Ok(())
}

fn uninstall(programs: &Programs<'_>, network: &Network<'_>) -> anyhow::Result<()> {
    // The service is stopped.
    network.carry(&mut |_| {})?;
    network.give_back()?;
    arming::disarm(&Registers, programs)?;
    setup::take_down(&Bcd::new(programs), &Kept(&Registers), "C:")?;
    for service in ["shutdownmon", "xenhide", "xenpci", "xenvbd", "xennet", "xenstub"] {
        Registers.remove_key(&format!(r"Services\{service}"))?;
    }
    for key in [r"Enum\XENPV", r"Enum\PCI"] {
        Registers.remove_key(key)?;
    }
    Ok(())
}

/// The machine as the order has it.
fn prepare(xen: &mut Xen, order: &Order) -> anyhow::Result<()> {
    let image = OpenOptions::new().read(true).write(true).open(order.folder.join(file::DISK))?;
    let mut options = DiskOptions::new(suites::guest::vdev(XVDA));
    if !order.host.disk_backend {
        // It never says how large the disk is, so nobody can connect.
        options.omitted = vec!["sectors"];
    }
    xen.attach_disk(xen_model::DiskSpec { options, backing: Box::new(FileBacking::new(image)?) });
    if order.host.nic {
        network::attach(xen, &suites::network::VifSpec::new(0));
        let backend = format!("/local/domain/0/backend/vif/{}/0", xen.domid());
        xen.store().write(&format!("{backend}/type"), "vif_ioemu");
    }
    Ok(())
}

/// On an NT thread: from the boot loader to the orderly shutdown.
fn live(ctx: &process::Ctx, order: &Order) -> anyhow::Result<End> {
    ctx.xen(|xen| prepare(xen, order))?;
    let registry = order::get(&order.folder, file::REGISTRY)?;
    let installed = registry.contains(r"\Services\xenpci]");
    let mut store = packages(ctx, order)?;
    for other in &order.others {
        store.push(make(ctx, other)?);
    }
    let config = BootConfig {
        registry: Some(registry),
        packages: if installed { store } else { Vec::new() },
        values: Vec::new(),
        start_options: order.options.clone(),
        boot_volume: Some(find_volume),
    };
    match nt::pnp::boot::boot(config) {
        Ok(()) => {}
        Err(BootError::InaccessibleBootDevice) => return Ok(End::NoVolume),
        Err(error) => bail!("{error}"),
    }
    if order.dies == Some(Death::HiveWritable) {
        process::cut_power();
    }
    let volume = Volume::mount(ctx, &order.folder)?;
    volume.go_on()?;
    let disk = lock(&VOLUME).context("a volume was found")?;
    let programs = Programs::new(order)?;
    let network = Network::new(Xenstore(ctx), order);
    for act in &order.acts {
        match act {
            Act::Install => install(packages(ctx, order)?, &programs, &network)?,
            Act::Driver(other) => put_driver(ctx, other)?,
            Act::Uninstall => uninstall(&programs, &network)?,
            Act::Configure(ipv4, ipv6) => network.configure(ipv4, ipv6)?,
            Act::Arm => arming::ask(&Registers)?,
            Act::Disarm => arming::disarm(&Registers, &programs)?,
            Act::OrderOther => drop(programs.bcdedit(&["/bootsequence", bcd_model::FIRST])?),
        }
    }
    let failed = RefCell::new(None);
    let put_off_once = Cell::new(false);
    let meanwhile = |ms: u64| {
        if ms >= 1_000 && !put_off_once.replace(true) {
            *failed.borrow_mut() = put_off(disk).err();
        }
    };
    let power_cut = match order.dies {
        Some(Death::Service(ms)) => Some(ms),
        _ => None,
    };
    let clock = Clock { ctx, now: Cell::new(0), shutdown: order.runs_s * 1_000, power_cut, meanwhile: &meanwhile };
    // Services do not start in safe mode.
    let safe = bootcfg::options::mode(&order.options) == Mode::Safe;
    if Registers.exists(SERVICE)? && !safe {
        let note = |_level, text: &str| lock(&SAID).push(text.to_owned());
        Keeper::new(&Registers, &programs, "C:", &note).keep(&clock, || Ok(Xenstore(ctx)), &|say| network.carry(say));
    }
    *lock(&USED) = network.used()?;
    if let Some(error) = failed.take() {
        return Err(error);
    }
    if Disk::present(XVDA) && emulated::drives()[0].is_some() {
        bail!("the disk is there twice");
    }
    volume.go_on()?;
    nt::reg::flush();
    Ok(End::Shutdown)
}

/// Carries out the order in that file, and leaves the report and the machine's disk beside it.
///
/// # Errors
/// The machine cannot be set up, or stopped where it should not have.
pub fn run(order: &Path) -> anyhow::Result<ExitCode> {
    let order: Order = serde_json::from_str(&std::fs::read_to_string(order)?)?;
    DIES_AT_VOLUME.store(order.dies == Some(Death::AtVolume), Relaxed);
    let config = BenchConfig {
        seed: order.seed,
        drivers: order.drivers.clone(),
        dies_at: match order.dies {
            Some(Death::Step(step)) => Some(step),
            _ => None,
        },
        most_steps: 30_000_000,
        model: xen_model::Config {
            device_model: xen_model::DeviceModel {
                unplug: match order.host.unplug {
                    Unplug::Usual => xen_model::UnplugProtocol::Version(1),
                    Unplug::None => xen_model::UnplugProtocol::None,
                    Unplug::Refusing => xen_model::UnplugProtocol::Refusing,
                },
                ide: [Some(xen_model::Drive::Disk), None, None, None],
                nic: order.host.nic,
                passed_through: order.host.passed_through,
            },
            ..xen_model::Config::default()
        },
        ..BenchConfig::default()
    };
    let seen = RefCell::new((Vec::new(), 0, Vec::new()));
    let outcome = Bench::new(config)?.run(|ctx| {
        let end = live(ctx, &order);
        *seen.borrow_mut() = (emulated::nics(), ctx.steps(), ctx.log());
        (end, nt::reg::persistent())
    })?;
    let (end, registry) = match outcome {
        Outcome::Done((Ok(end), registry)) => (end, registry),
        Outcome::Done((Err(error), registry)) => {
            *lock(&FAILURE) = Some(format!("{error:#}"));
            (End::Shutdown, registry)
        }
        Outcome::Stopped(stop) if stop.report.trim_end() == process::POWER_CUT => {
            (End::PowerCut, nt::reg::persistent_after_stop().context("the power went while the registry was locked")?)
        }
        Outcome::Stopped(stop) => bail!("{}", stop.report),
    };
    let (nics, steps, log) = seen.into_inner();
    let report = Report {
        end,
        disk: *lock(&VOLUME),
        nics,
        network: lock(&USED).clone(),
        service: lock(&SAID).clone(),
        steps,
        failure: lock(&FAILURE).clone(),
        log,
    };
    order::put(&order.folder, file::REGISTRY, registry)?;
    order::put(&order.folder, file::REPORT, serde_json::to_vec(&report)?)?;
    Ok(ExitCode::SUCCESS)
}
