//! Which devices a boot uses: the emulated ones or the paravirtual ones, never both.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use crate::case::{Case, Ctx, Failure, RegistryValue, Setup};
use crate::cases::load::{Load, Shape};
use crate::check;
use crate::emulated::{self, DeviceModel, Drive, Protocol};
use crate::guest::{self, Disk};
use crate::world::DiskSpec;

/// The suites' number of xvda, which is hda too.
pub const XVDA: u32 = 12;
/// The suites' number of xvdc, which is hdc too: the CD-ROM drive.
pub const XVDC: u32 = 14;
/// xvde, which is emulated nowhere.
const XVDE: u32 = 0;

/// Where xenpci notes which frontends work.
const WORKING: &str = r"\Registry\Machine\System\CurrentControlSet\Services\xenpci\Working";

/// Vendor and device of the emulated card and of the one that is passed through.
const EMULATED_NIC: (u16, u16) = (0x10ec, 0x8139);
const PASSED_THROUGH: (u16, u16) = (0x8086, 0x1521);

const GPLPV: &str = " NOEXECUTE=OPTIN GPLPV";

/// The cases.
pub const CASES: &[Case] = &[
    case(
        "hide/unplugged",
        "GPLPV, armed: disk and card are unplugged, the CD-ROM drive and a passed-through card stay",
        |_| machine(GPLPV, INSTALLED),
        |ctx| used(ctx, true, true),
    ),
    case(
        "hide/nogplpv",
        "NOGPLPV: everything stays emulated",
        |_| machine(" NOGPLPV", INSTALLED),
        |ctx| used(ctx, false, false),
    ),
    case(
        "hide/both-options",
        "GPLPV and NOGPLPV: everything stays emulated",
        |_| machine("GPLPV NOGPLPV", INSTALLED),
        |ctx| used(ctx, false, false),
    ),
    case(
        "hide/no-option",
        "A boot entry without an option: everything stays emulated",
        |_| machine("", INSTALLED),
        |ctx| used(ctx, false, false),
    ),
    case(
        "hide/safe-mode",
        "Safe mode with GPLPV: everything stays emulated",
        |_| machine(" GPLPV SAFEBOOT:MINIMAL", INSTALLED),
        |ctx| used(ctx, false, false),
    ),
    case(
        "hide/first-boot",
        "GPLPV before any driver was installed: everything stays emulated",
        |_| machine(GPLPV, &[]),
        |ctx| used(ctx, false, false),
    ),
    case(
        "hide/disks-alone",
        "Only disks are armed: the card stays emulated",
        |_| Setup { registry: without("Nics"), ..machine(GPLPV, INSTALLED) },
        |ctx| used(ctx, true, false),
    ),
    case(
        "hide/cards-alone",
        "Only cards are armed: the disk stays emulated",
        |_| Setup { registry: without("Disks"), ..machine(GPLPV, INSTALLED) },
        |ctx| used(ctx, false, true),
    ),
    case(
        "hide/driver-disabled",
        "xenvbd is disabled: the disk stays emulated",
        |_| Setup { registry: with("Services\\xenvbd", "Start", 4), ..machine(GPLPV, INSTALLED) },
        |ctx| used(ctx, false, true),
    ),
    case(
        "hide/start-overridden",
        "Windows put xenvbd off (StartOverride): the disk stays emulated",
        |_| Setup { registry: with("Services\\xenvbd\\StartOverride", "0", 3), ..machine(GPLPV, INSTALLED) },
        |ctx| used(ctx, false, true),
    ),
    case(
        "hide/device-model-too-old",
        "A device model without the unplug protocol: everything stays emulated",
        |_| device_model(Protocol::None),
        |ctx| used(ctx, false, false),
    ),
    case(
        "hide/device-model-unknown",
        "An unplug protocol of an unknown version: everything stays emulated",
        |_| device_model(Protocol::Version(9)),
        |ctx| used(ctx, false, false),
    ),
    case(
        "hide/device-model-refuses",
        "The drivers are on the device model's black list: everything stays emulated",
        |_| device_model(Protocol::Refusing),
        |ctx| used(ctx, false, false),
    ),
    case(
        "hide/device-model-first-version",
        "Version 0 of the unplug protocol",
        |_| device_model(Protocol::Version(0)),
        |ctx| used(ctx, true, true),
    ),
    case(
        "hide/resume",
        "After each of 5 migrations the devices of the new device model are unplugged again",
        |_| machine(GPLPV, INSTALLED),
        resume,
    ),
];

const fn case(
    name: &'static str,
    summary: &'static str,
    setup: fn(u64) -> Setup,
    run: fn(&mut Ctx<'_>) -> Result<(), Failure>,
) -> Case {
    Case { name, summary, quick: true, timeout_s: 60, setup, run }
}

/// What an earlier boot and the service leave: the drivers are installed and were seen to work.
const INSTALLED: &[(&str, &str, u32)] = &[
    ("Services\\xenpci", "Start", 0),
    ("Services\\xenvbd", "Start", 0),
    ("Services\\xennet", "Start", 3),
    ("Services\\xenhide\\Parameters", "Disks", 1),
    ("Services\\xenhide\\Parameters", "Nics", 1),
    ("Enum\\XENPV\\VBD&REV_01", "Installed", 1),
    ("Enum\\XENPV\\VIF&REV_01", "Installed", 1),
];

/// The registry that an earlier boot and the service leave: everything installed, seen to work, and armed.
pub fn installed() -> Vec<(&'static str, &'static str, RegistryValue)> {
    values(INSTALLED.iter().copied())
}

fn values(
    from: impl Iterator<Item = (&'static str, &'static str, u32)>,
) -> Vec<(&'static str, &'static str, RegistryValue)> {
    from.map(|(key, name, value)| (key, name, RegistryValue::Dword(value))).collect()
}

fn without(name: &str) -> Vec<(&'static str, &'static str, RegistryValue)> {
    values(INSTALLED.iter().copied().filter(|value| value.1 != name))
}

fn with(key: &'static str, name: &'static str, value: u32) -> Vec<(&'static str, &'static str, RegistryValue)> {
    values(INSTALLED.iter().copied().chain([(key, name, value)]))
}

fn machine(options: &'static str, registry: &'static [(&'static str, &'static str, u32)]) -> Setup {
    Setup {
        options,
        registry: values(registry.iter().copied()),
        device_model: DeviceModel::usual(),
        disks: vec![
            DiskSpec::new(XVDA, 4),
            DiskSpec { cdrom: true, read_only: true, sector_size: 2048, ..DiskSpec::new(XVDC, 4) },
            DiskSpec::new(XVDE, 4),
        ],
        ..Setup::default()
    }
}

fn device_model(protocol: Protocol) -> Setup {
    Setup { device_model: DeviceModel { protocol, ..DeviceModel::usual() }, ..machine(GPLPV, INSTALLED) }
}

/// Checks which devices there are: each of the first four disks once, as what it is to be, and the cards.
fn devices(pv_disk: bool, pv_nic: bool) -> Result<(), Failure> {
    let drives = emulated::drives();
    let disk = (!pv_disk).then_some(Drive::Disk);
    check!(drives == [disk, None, Some(Drive::Cdrom), None], "the IDE drives are {drives:?}");
    let nics = emulated::nics();
    let expected: &[_] = if pv_nic { &[PASSED_THROUGH] } else { &[EMULATED_NIC, PASSED_THROUGH] };
    check!(nics == expected, "the network cards are {nics:x?}");
    let found = Disk::present(XVDA);
    check!(found == pv_disk, "xvda, paravirtual: {found}, is to be: {pv_disk}");
    check!(!Disk::present(XVDC), "the CD-ROM drive is there twice");
    Ok(())
}

fn used(ctx: &mut Ctx<'_>, pv_disk: bool, pv_nic: bool) -> Result<(), Failure> {
    // The disk that is emulated nowhere is there in any case, and works: what else was to come has come.
    let mut load = Load::new(Disk::find(ctx, XVDE)?, Shape::default());
    load.run(ctx, 50)?;
    load.verify_all(ctx)?;
    if pv_disk {
        let mut load = Load::new(Disk::find(ctx, XVDA)?, Shape::default());
        load.run(ctx, 50)?;
        load.verify_all(ctx)?;
    }
    devices(pv_disk, pv_nic)?;
    if !pv_disk {
        withheld(ctx)?;
    }
    ctx.want("requests verified", if pv_disk { 100 } else { 50 });
    let lines = ctx.world.log().iter().filter(|line| line.contains("xenhide: the emulated")).count();
    ctx.set("lines of the decision", lines as u64);
    ctx.want("lines of the decision", 2);
    Ok(())
}

/// The disk that Windows does not see was connected, read once, and noted to work; nothing was written to it.
///
/// # Errors
/// It was not, or it was used.
pub fn withheld(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let noted = || {
        nt::reg::with(|registry| {
            let key = registry.open(None, WORKING)?;
            registry.value(key, &format!("device/vbd/{}", guest::vdev(XVDA))).map(|value| value.data == [1, 0, 0, 0])
        }) == Ok(true)
    };
    let known = (0..3_000).any(|_| {
        noted() || {
            ctx.world.sleep_ms(10);
            false
        }
    });
    check!(known, "half a minute later the withheld disk is not noted to work");
    let stats = ctx.world.disk_stats(XVDA);
    ctx.set("reads of the withheld disk", stats.reads);
    check!(
        stats.reads == 1 && stats.writes + stats.flushes + stats.discards == 0,
        "the withheld disk was used: {stats:?}"
    );
    ctx.want("reads of the withheld disk", 1);
    Ok(())
}

fn resume(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    const ROUNDS: u64 = 5;
    let mut load = Load::new(Disk::find(ctx, XVDA)?, Shape::default());
    for round in 1..=ROUNDS {
        load.run(ctx, 20)?;
        devices(true, true)?;
        ctx.world.suspend(false);
        let resumed = (0..6_000).any(|_| {
            ctx.world.sleep_ms(10);
            ctx.world.xen_stats().suspends == round
        });
        check!(resumed, "round {round}: a minute after the request the guest has not suspended");
        load.run(ctx, 20)?;
        devices(true, true)?;
        ctx.count("migrations", 1);
    }
    load.verify_all(ctx)?;
    ctx.want("migrations", ROUNDS);
    Ok(())
}
