//! Which of an INF's models fits a device, and how well.
//!
//! Sources: <https://learn.microsoft.com/windows-hardware/drivers/install/inf-manufacturer-section>,
//! <https://learn.microsoft.com/windows-hardware/drivers/install/identifier-score--windows-vista-and-later->.
use super::parse::Inf;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The Windows that the bench is: 10.0.
pub const OS_MAJOR: u64 = 10;
/// See [`OS_MAJOR`].
pub const OS_MINOR: u64 = 0;
/// Its build: Windows 10 version 2004.
pub const OS_BUILD: u64 = 19041;
/// VER_NT_WORKSTATION.
const PRODUCT_TYPE: u64 = 1;

/// A model that fits a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelMatch {
    /// The identifier score; lower is better.
    pub rank: u32,
    /// The identifier of the device that fits.
    pub id: String,
    /// The description.
    pub description: String,
    /// The maker.
    pub manufacturer: String,
    /// The undecorated install section.
    pub section: String,
}

/// How specific a decoration (`NTamd64.10.0...16299`) is, if it fits this system at all.
fn decoration_fits(decoration: &str) -> Option<[u64; 6]> {
    let lower = decoration.to_ascii_lowercase();
    let rest = lower.strip_prefix("nt")?;
    let mut parts = rest.split('.');
    let architecture = parts.next().unwrap_or("");
    if !matches!(architecture, "" | "amd64") {
        return None;
    }
    let field = |text: Option<&str>| match text {
        None | Some("") => Some(None),
        Some(text) => super::parse::number(text).map(Some),
    };
    let (major, minor) = (field(parts.next())?, field(parts.next())?);
    let (product, suite) = (field(parts.next())?, field(parts.next())?);
    let build = field(parts.next())?;
    let version = (major.unwrap_or(0), minor.unwrap_or(0));
    if version > (OS_MAJOR, OS_MINOR) {
        return None;
    }
    if product.is_some_and(|p| p != PRODUCT_TYPE) || suite.is_some_and(|s| s != 0) {
        return None;
    }
    if version == (OS_MAJOR, OS_MINOR) && build.is_some_and(|b| b > OS_BUILD) {
        return None;
    }
    Some([
        version.0,
        version.1,
        build.unwrap_or(0),
        u64::from(product.is_some()),
        u64::from(suite.is_some()),
        u64::from(!architecture.is_empty()),
    ])
}

/// The models sections of an INF that hold for this system, each with its manufacturer.
pub fn models_sections(inf: &Inf) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for line in inf.section("Manufacturer").unwrap_or(&[]) {
        let manufacturer = line.key.clone().unwrap_or_else(|| line.value(0).to_string());
        let base = line.value(0);
        let best = line.values[1..].iter().filter_map(|d| decoration_fits(d).map(|score| (score, d))).max();
        let name = match best {
            Some((_, decoration)) => alloc::format!("{base}.{decoration}"),
            None => base.to_string(),
        };
        if inf.section(&name).is_some() {
            out.push((name, manufacturer));
        }
    }
    out
}

/// The best match of an INF for a device with these identifiers, most specific first in both lists.
pub fn best_match(inf: &Inf, hardware: &[String], compatible: &[String]) -> Option<ModelMatch> {
    let mut best: Option<ModelMatch> = None;
    for (section, manufacturer) in models_sections(inf) {
        for line in inf.section(&section).unwrap_or(&[]) {
            for (place, wanted) in line.values.iter().skip(1).enumerate().filter(|(_, id)| !id.is_empty()) {
                let Some((base, index, id)) = position(hardware, wanted)
                    .map(|(i, id)| (0, i, id))
                    .or_else(|| position(compatible, wanted).map(|(i, id)| (0x2000, i, id)))
                else {
                    continue;
                };
                let of_inf = if place == 0 { 0 } else { 0x1000 + 0x100 * (place as u32 - 1) };
                let rank = base + of_inf + index as u32;
                if best.as_ref().is_none_or(|b| rank < b.rank) {
                    best = Some(ModelMatch {
                        rank,
                        id: id.to_string(),
                        description: line.key.clone().unwrap_or_default(),
                        manufacturer: manufacturer.clone(),
                        section: line.value(0).to_string(),
                    });
                }
            }
        }
    }
    best
}

/// The root-enumerated devices that an INF is for: the first identifier of each of its models, where that is `Root\...`.
pub fn root_models(inf: &Inf) -> Vec<String> {
    let sections = models_sections(inf);
    let lines = sections.iter().flat_map(|(section, _)| inf.section(section).unwrap_or(&[]));
    let ids = lines.map(|line| line.value(1)).filter(|id| id.to_ascii_lowercase().starts_with("root\\"));
    let mut out: Vec<String> = Vec::new();
    for id in ids {
        if !out.iter().any(|known| known.eq_ignore_ascii_case(id)) {
            out.push(id.to_string());
        }
    }
    out
}

fn position<'a>(ids: &'a [String], wanted: &str) -> Option<(usize, &'a str)> {
    let index = ids.iter().position(|id| id.eq_ignore_ascii_case(wanted))?;
    Some((index, &ids[index]))
}

/// The install section that holds for this system: `Name.NTamd64...`, `Name.NT`, or `Name`.
pub fn install_section(inf: &Inf, name: &str) -> Option<String> {
    for decoration in ["NTamd64", "NT"] {
        let decorated = alloc::format!("{name}.{decoration}");
        if inf.section(&decorated).is_some() {
            return Some(decorated);
        }
    }
    inf.section(name).map(|_| name.to_string())
}

/// `DriverVer` as (year, month, day, version): what breaks a tie between equal ranks.
pub fn driver_version(inf: &Inf) -> (u64, u64, u64, [u64; 4]) {
    let Some(line) = inf.entries("Version", "DriverVer").next() else { return (0, 0, 0, [0; 4]) };
    let mut date = line.value(0).split(['/', '-']).map(|part| part.trim().parse().unwrap_or(0));
    let (month, day, year) = (date.next().unwrap_or(0), date.next().unwrap_or(0), date.next().unwrap_or(0));
    let mut version = [0; 4];
    for (slot, part) in version.iter_mut().zip(line.value(1).split('.')) {
        *slot = part.trim().parse().unwrap_or(0);
    }
    (year, month, day, version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inf(text: &str) -> Inf {
        Inf::parse(alloc::format!("[Version]\nSignature=\"$Windows NT$\"\n{text}").as_bytes()).unwrap()
    }

    fn ids(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_most_specific_decoration_wins() {
        let inf = inf(
            "[Manufacturer]\nM=S,NTx86,NTamd64,NTamd64.6.1,NTamd64.10.0...16299,NTamd64.10.0...22000\n[S]\n[S.NTamd64]\n[S.NTamd64.10.0...16299]\nd=I,PCI\\A\n",
        );
        assert_eq!(models_sections(&inf), [("S.NTamd64.10.0...16299".to_string(), "M".to_string())]);
    }

    #[test]
    fn a_section_for_other_systems_does_not_count() {
        let inf = inf("[Manufacturer]\nM=S,NTarm64\n[S.NTarm64]\nd=I,PCI\\A\n");
        assert_eq!(best_match(&inf, &ids(&["PCI\\A"]), &[]), None);
    }

    #[test]
    fn ranks_follow_the_lists() {
        let inf = inf("[Manufacturer]\nM=S,NTamd64\n[S.NTamd64]\nd=Hard,X\\H2\ne=Compat,X\\C1\nf=Both,X\\Q,X\\H1\n");
        let found = |h: &[&str], c: &[&str]| best_match(&inf, &ids(h), &ids(c)).map(|m| (m.section, m.rank));
        assert_eq!(found(&["x\\h1", "x\\h2"], &["x\\c1"]), Some(("Hard".to_string(), 1)));
        assert_eq!(found(&["x\\h1"], &["x\\c1"]), Some(("Both".to_string(), 0x1000)));
        assert_eq!(found(&["x\\h9"], &["x\\c0", "x\\c1"]), Some(("Compat".to_string(), 0x2001)));
        assert_eq!(found(&["x\\h9"], &[]), None);
    }

    #[test]
    fn root_devices_are_found() {
        let inf = inf(
            "[Manufacturer]\nM=S,NTamd64\n[S]\nd=I,Root\\Old\n[S.NTamd64]\nd=I,ROOT\\A,Root\\B\ne=J,PCI\\C\nf=K,root\\a\n",
        );
        assert_eq!(root_models(&inf), ["ROOT\\A"]);
    }

    #[test]
    fn versions_order() {
        let a = driver_version(&inf("DriverVer=01/02/2024,1.2.3.4\n"));
        let b = driver_version(&inf("DriverVer=12/31/2023,9.0.0.0\n"));
        assert!(a > b);
        assert_eq!(a.3, [1, 2, 3, 4]);
    }
}
