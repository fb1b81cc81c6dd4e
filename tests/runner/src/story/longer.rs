//! Stories that are too long for the list.

use anyhow::{Context, ensure};

use super::order::{Act, Death, Other, Twin};
use super::{LONG, Machine, SHORT};

/// The installer refuses an older version in place, so these are the ways there are.
pub fn downgrade(m: &mut Machine) -> anyhow::Result<()> {
    const OLDER: &str = "0.0.9.0";
    let older = |name: &str| Other { name: name.into(), version: OLDER.into(), works: true };
    // That the devices' drivers are older ones, but for those that are named.
    let all = ["xennet", "xenpci", "xenstub", "xenvbd"];
    let older_but = |m: &Machine, newer: &[&str]| {
        let inf = |name| if newer.contains(&name) { format!("{name}.inf") } else { older(name).inf() };
        m.driven_by(&all.map(inf))
    };
    let roll_back = |names: &[&str]| names.iter().map(|name| Act::Driver(older(name))).collect();
    // In a boot from the devices that they drive; what was ordered stands, and works.
    m.install()?;
    m.acts = roll_back(&["xenpci", "xenvbd", "xennet"]);
    m.boot_as(Twin::Paravirtual, LONG)?;
    for seconds in [LONG, SHORT] {
        m.boot_as(Twin::Paravirtual, seconds)?;
        older_but(m, &["xenstub"])?;
    }
    // In an emulated boot.
    m.start_over()?;
    m.install()?;
    m.boot_to_death(Death::AtVolume)?;
    m.acts = roll_back(&["xenvbd", "xenpci"]);
    m.boot_as(Twin::Emulated, LONG)?;
    m.boot_as(Twin::Paravirtual, LONG)?;
    older_but(m, &["xennet", "xenstub"])?;
    // After two boots that failed: a driver that is rolled back is no new version of the suite, so somebody has to ask.
    m.start_over()?;
    m.install()?;
    for _ in 0..2 {
        m.boot_to_death(Death::AtVolume)?;
        m.boot_as(Twin::Emulated, LONG)?;
    }
    m.acts = roll_back(&["xenvbd"]);
    m.boot_as(Twin::Emulated, LONG)?;
    m.boot_as(Twin::Emulated, LONG)?;
    m.acts = vec![Act::Arm];
    m.boot_as(Twin::Emulated, LONG)?;
    m.boot_as(Twin::Paravirtual, LONG)?;
    // To a driver that does not load: one boot dies, and then the disks are armed no more, until another one works.
    m.acts = vec![Act::Driver(Other { version: "0.0.7.0".into(), works: false, ..older("xenvbd") })];
    m.boot_as(Twin::Paravirtual, LONG)?;
    m.boot_without_volume()?;
    for _ in 0..2 {
        m.boot_as(Twin::Emulated, LONG)?;
        ensure!(m.last_said("the emulated disks stay"), "the disks are armed: {:?}", m.last()?.service);
    }
    m.acts = vec![Act::Driver(Other { version: "0.0.8.0".into(), ..older("xenvbd") })];
    m.boot_as(Twin::Emulated, LONG)?;
    m.boot_as(Twin::Emulated, LONG)?;
    m.boot_as(Twin::Paravirtual, LONG)?;
    // Removed, and the older version installed in the boot after it.
    m.acts = vec![Act::Uninstall];
    m.boot_as(Twin::Paravirtual, LONG)?;
    m.others.clear();
    m.version = Some(OLDER.into());
    m.install()?;
    m.boot_as(Twin::Paravirtual, LONG)?;
    older_but(m, &[])?;
    m.boot_as(Twin::Paravirtual, SHORT)
}

/// Power cuts on the way to the boot volume and the start of services.
const CUTS: u64 = 20;

/// One power cut after the other.
pub fn power_cut_walk(m: &mut Machine) -> anyhow::Result<()> {
    m.install()?;
    m.boot_as(Twin::Paravirtual, LONG)?;
    let kept = m.keep()?;
    m.boot_as(Twin::Paravirtual, LONG)?;
    let steps = m.last()?.steps;
    let early = (0..CUTS).map(|cut| Death::Step(1 + steps * cut / CUTS));
    // Windows' own housekeeping falls into the first seconds, the order for the next boot into the last.
    let late =
        (0..20).map(|half| half * 500).chain((10..80).step_by(5).map(|second| second * 1_000)).map(Death::Service);
    for cut in early.chain(late) {
        m.put_back(&kept)?;
        m.boot_to_death(cut)?;
        // Late enough the next boot is ordered already, and either is good.
        m.boot_somehow().with_context(|| format!("after {cut:?} of {steps}"))?;
        m.boot_as(Twin::Paravirtual, LONG).with_context(|| format!("after {cut:?} of {steps}"))?;
    }
    Ok(())
}
