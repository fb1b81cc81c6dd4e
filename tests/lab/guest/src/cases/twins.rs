//! Devices that `xl` makes twice, emulated and paravirtual: a boot uses the one or the other.
//!
//! Seen from both sides: the guest scans PCI and asks the ATA ports by itself, the device model's monitor says what it has.

use crate::lock::Lock;
use crate::world;
use alloc::vec::Vec;
use suites::case::{Case, Ctx, Failure, Setup};
use suites::cases::hide::{self, XVDA, XVDC};
use suites::cases::load::Load;
use suites::cases::net_load::{endpoint, failed};
use suites::check;
use suites::emulated::{self, Drive};
use suites::guest::Disk;
use suites::net_guest::Nic;
use suites::packet::payload;

use super::{SUSPEND_LOAD, case, suspend};

/// The emulated cards: rtl8139 and e1000.
const CARDS: [(u16, u16); 2] = [(0x10ec, 0x8139), (0x8086, 0x100e)];

/// The cases.
pub const CASES: &[Case] = &[
    case(
        "lab/unplug",
        "GPLPV, armed: xenhide takes the emulated disk and cards away, xenpci again after xl restore; their twins work",
        |_| machine(" NOEXECUTE=OPTIN GPLPV"),
        unplugged,
    ),
    case(
        "lab/unplug-not",
        "NOGPLPV, armed: the emulated disk and cards stay, their twins are withheld",
        |_| machine(" NOEXECUTE=OPTIN NOGPLPV"),
        emulated_stay,
    ),
];

/// What of the emulated devices is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scan {
    /// By the ATA ports.
    drives: [Option<Drive>; 4],
    /// By PCI configuration space.
    cards: Vec<(u16, u16)>,
    /// By the device model's monitor.
    model: (u32, Vec<(u16, u16)>),
}

impl Scan {
    fn now() -> Self {
        Self { drives: emulated::drives(), cards: emulated::nics(), model: world::emulated() }
    }

    /// What is to be there; the CD-ROM drive is in any case.
    fn due(emulated: bool) -> Self {
        let cards = if emulated { CARDS.to_vec() } else { Vec::new() };
        let disk = emulated.then_some(Drive::Disk);
        Self {
            drives: [disk, None, Some(Drive::Cdrom), None],
            cards: cards.clone(),
            model: (u32::from(emulated), cards),
        }
    }
}

/// The scan before any driver ran.
static BEFORE: Lock<Option<Scan>> = Lock::new(None);

fn machine(options: &'static str) -> Setup {
    *BEFORE.lock() = Some(Scan::now());
    Setup { options, registry: hide::installed(), ..Setup::one_disk(4) }
}

fn seen(when: &str, scan: Option<&Scan>, emulated: bool) -> Result<(), Failure> {
    let due = Scan::due(emulated);
    check!(scan == Some(&due), "{when} there is {scan:x?}, due is {due:x?}");
    check!(!Disk::present(XVDC), "the CD-ROM drive is there twice");
    Ok(())
}

/// Verified I/O on a disk, pings on both cards.
fn used(ctx: &mut Ctx<'_>, load: &mut Load) -> Result<(), Failure> {
    load.run(ctx, 30)?;
    for index in 0..CARDS.len() as u32 {
        let (nic, stack) = endpoint(ctx, index)?;
        for size in [56, 1452] {
            stack.ping(nic.host_v4(), &payload(size as u32, size), 5000).map_err(failed("a ping"))?;
            ctx.count("pings", 1);
        }
    }
    Ok(())
}

fn unplugged(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    seen("before the boot", BEFORE.lock().as_ref(), true)?;
    seen("after the boot", Some(&Scan::now()), false)?;
    let mut load = Load::new(Disk::find(ctx, XVDA)?, SUSPEND_LOAD);
    used(ctx, &mut load)?;
    suspend(ctx, &mut load, 1, false)?;
    seen("after save and restore", Some(&Scan::now()), false)?;
    used(ctx, &mut load)?;
    load.verify_all(ctx)?;
    ctx.want("pings", 8);
    Ok(())
}

fn emulated_stay(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    // The disk that has no twin comes in any case: what else was to come has come.
    let mut load = Load::new(Disk::find(ctx, 0)?, SUSPEND_LOAD);
    load.run(ctx, 30)?;
    load.verify_all(ctx)?;
    seen("before the boot", BEFORE.lock().as_ref(), true)?;
    seen("after the boot", Some(&Scan::now()), true)?;
    check!(!Disk::present(XVDA), "xvda is there twice");
    check!((0..CARDS.len() as u32).all(|index| !Nic::present(index)), "a network card is there twice");
    hide::withheld(ctx)?;
    ctx.want("requests verified", 30);
    Ok(())
}
