//! The tables of the comparison: medians, spread, and the ratios of those that were measured one after the other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

/// Whom ours is compared with.
const OURS: &str = "ours";
/// Bytes of a TCP segment's data on an MTU of 1500: a packet, in the figures of TCP.
const SEGMENT: f64 = 1448.0;

/// A load: what its name ends or begins with, bytes of a unit that the agent counts, units of what the figures are for, and the
/// name of that.
struct Kind {
    part: &'static str,
    bytes: f64,
    units: f64,
    name: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind { part: "-4k-", bytes: 4096.0, units: 1.0, name: "request" },
    Kind { part: "-64k-", bytes: 65536.0, units: 1.0, name: "request" },
    Kind { part: "tcp-", bytes: 1.0, units: SEGMENT, name: "1448 bytes" },
    Kind { part: "udp-", bytes: 18.0, units: 1.0, name: "packet" },
];

fn kind(load: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| load.contains(kind.part))
}

/// One measurement, as the agent writes it. A unit is a request, a datagram, or [`SEGMENT`] bytes of TCP.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    round: u32,
    load: String,
    /// Of disks: blkback's `feature_persistent`.
    setting: String,
    /// Ours, Linux's, or Linux's on an emulated interface.
    who: String,
    /// Units a second.
    rate: f64,
    /// Microseconds of processor time a unit.
    guest_cpu: f64,
    dom0_cpu: f64,
    /// Notifications a unit: guest to dom0, dom0 to guest.
    events_out: f64,
    events_in: f64,
    /// Requests of the disk's ring a unit (Linux may merge neighbours), or frames of the interface, both ways.
    ring: f64,
}

/// `measured ROUND LOAD SETTING WHO NANOSECONDS DONE GUEST_NS DOM0_NS EVENTS RING UNITS INTERRUPTS`.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub fn parse(line: &str) -> Option<Measured> {
    let mut words = line.strip_prefix("measured ")?.split(' ');
    let round = words.next()?.parse().ok()?;
    let mut text = || words.next().map(str::to_owned);
    let (load, setting, who) = (text()?, text()?, text()?);
    let numbers: Vec<f64> = words.filter_map(|word| Some(word.parse::<u64>().ok()? as f64)).collect();
    let [nanoseconds, done, guest_ns, dom0_ns, events, ring, units, interrupts] = numbers[..] else { return None };
    if done < 1.0 || units < 1.0 || nanoseconds < 1.0 {
        return None;
    }
    let size = kind(&load)?.units;
    let (done, units) = (done / size, units / size);
    Some(Measured {
        round,
        load,
        setting,
        who,
        rate: done / nanoseconds * 1e9,
        guest_cpu: guest_ns / done / 1e3,
        dom0_cpu: dom0_ns / done / 1e3,
        events_out: events / done,
        events_in: interrupts / units,
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

/// One quantity of a load: ours and another's, and the ratios of the pairs that were measured in the same round.
#[derive(Serialize)]
struct Compared {
    ours: Spread,
    other: Spread,
    ratio: Spread,
}

/// A quantity: its name, and how it is read.
type Quantity = (&'static str, fn(&Measured) -> f64);

/// What is compared, a unit each but for the rate.
const QUANTITIES: [Quantity; 6] = [
    ("rate a second", |m| m.rate),
    ("guest CPU us", |m| m.guest_cpu),
    ("dom0 CPU us", |m| m.dom0_cpu),
    ("events to dom0", |m| m.events_out),
    ("events to guest", |m| m.events_in),
    ("ring requests or frames", |m| m.ring),
];

fn compare(all: &[Measured], load: &str, setting: &str, who: &str, value: fn(&Measured) -> f64) -> Option<Compared> {
    let of = |who: &str| -> BTreeMap<u32, f64> {
        let own = all.iter().filter(|m| m.load == load && m.setting == setting && m.who == who);
        own.map(|m| (m.round, value(m))).collect()
    };
    let (ours, other) = (of(OURS), of(who));
    let ratios = ours.iter().filter_map(|(round, ours)| Some(ours / other.get(round)?)).collect();
    Some(Compared {
        ours: Spread::of(ours.into_values().collect())?,
        other: Spread::of(other.into_values().collect())?,
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

/// Each once, in the order in which they come.
fn unique<'m>(all: &'m [Measured], of: impl Fn(&'m Measured) -> &'m str) -> Vec<&'m str> {
    let mut names: Vec<&str> = Vec::new();
    for name in all.iter().map(of) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Loads, settings and those whom ours is compared with, in the order in which they were measured first.
fn pairs(all: &[Measured]) -> Vec<(&str, Vec<&str>, Vec<&str>)> {
    let settings = unique(all, |m| &m.setting);
    settings
        .into_iter()
        .map(|setting| {
            let own: Vec<&Measured> = all.iter().filter(|m| m.setting == setting).collect();
            let loads: Vec<&str> =
                unique(all, |m| &m.load).into_iter().filter(|load| own.iter().any(|m| m.load == *load)).collect();
            let mut others: Vec<&str> = own.iter().map(|m| m.who.as_str()).filter(|who| *who != OURS).collect();
            others.sort_unstable_by_key(|who| (*who != "linux", *who));
            others.dedup();
            (setting, loads, others)
        })
        .collect()
}

/// The tables, as Markdown: median (min - max); the ratio is that of ours to the other's in the same round.
pub fn tables(all: &[Measured]) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    for (setting, loads, others) in pairs(all) {
        let title =
            if setting == "net" { "Network".into() } else { format!("blkback's feature_persistent: {setting}") };
        let _ = writeln!(text, "\n{title}\n");
        let _ = write!(text, "| load | quantity | ours |");
        for who in &others {
            let _ = write!(text, " {who} | ours/{who} |");
        }
        let _ = writeln!(text, "\n|---|---|---|{}", "---|---|".repeat(others.len()));
        for load in loads {
            let Some(kind) = kind(load) else { continue };
            let mut line = |name: &str, value: fn(&Measured) -> f64, scale: f64| {
                let compared: Vec<Option<Compared>> =
                    others.iter().map(|who| compare(all, load, setting, who, value)).collect();
                let Some(first) = compared.iter().flatten().next() else { return };
                let scaled = |s: Spread| Spread { median: s.median * scale, min: s.min * scale, max: s.max * scale };
                let _ = write!(text, "| {load} | {name} | {} |", cell(scaled(first.ours)));
                for one in &compared {
                    let _ = match one {
                        Some(one) => write!(text, " {} | **{}** |", cell(scaled(one.other)), cell(one.ratio)),
                        None => write!(text, " - | - |"),
                    };
                }
                text.push('\n');
            };
            let (rate, value) = QUANTITIES[0];
            line(&format!("{}: {rate}", kind.name), value, 1.0);
            for (name, value) in &QUANTITIES[1..] {
                line(&format!("{name}/{}", kind.name), *value, 1.0);
            }
            let bytes = kind.bytes * kind.units;
            if setting == "net" {
                line("Mbit/s of payload", value, bytes * 8.0 / 1e6);
            } else {
                line("MiB/s", value, bytes / f64::from(1 << 20));
            }
        }
    }
    text
}

/// The same, and each measurement.
pub fn json(all: &[Measured], notes: &[&str]) -> serde_json::Value {
    let mut compared = serde_json::Map::new();
    for (setting, loads, others) in pairs(all) {
        for load in loads {
            for who in &others {
                let quantities = QUANTITIES
                    .iter()
                    .filter_map(|(name, value)| {
                        let compared = compare(all, load, setting, who, *value)?;
                        Some(((*name).to_owned(), serde_json::json!(compared)))
                    })
                    .collect::<serde_json::Map<_, _>>();
                compared.insert(format!("{load}, {setting}, ours/{who}"), quantities.into());
            }
        }
    }
    serde_json::json!({ "notes": notes, "compared": compared, "measured": all })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_read_and_compared() {
        let all: Vec<Measured> = [
            "note lab xvde: connected",
            "measured 1 read-4k-1 off ours 2000000000 1000 500000000 600000000 1000 1000 1300 1310",
            "measured 1 read-4k-1 off linux 2000000000 500 500000000 600000000 500 500 650 650",
            "measured 2 read-4k-1 off ours 2000000000 600 300000000 600000000 600 600 900 900",
            "measured 2 read-4k-1 off linux 2000000000 600 600000000 600000000 600 600 900 900",
            "measured 3 read-4k-1 off ours 2000000000",
        ]
        .iter()
        .filter_map(|line| parse(line))
        .collect();
        assert_eq!(all.len(), 4);
        let rate = compare(&all, "read-4k-1", "off", "linux", QUANTITIES[0].1).expect("two rounds");
        assert_eq!(rate.ours, Spread { median: 400.0, min: 300.0, max: 500.0 });
        assert_eq!(rate.ratio, Spread { median: 1.5, min: 1.0, max: 2.0 });
        let cpu = compare(&all, "read-4k-1", "off", "linux", QUANTITIES[1].1).expect("two rounds");
        assert_eq!((cpu.ours.median, cpu.other.median, cpu.ratio.median), (500.0, 1000.0, 0.5));
        assert!(compare(&all, "read-4k-1", "default", "linux", QUANTITIES[0].1).is_none());
        assert!(tables(&all).contains("| read-4k-1 | request: rate a second | 400 (300 - 500) |"), "{}", tables(&all));
    }

    #[test]
    fn a_stream_is_counted_in_segments() {
        let all: Vec<Measured> = [
            "measured 1 tcp-out net ours 1000000000 1448000 500000000 600000000 10 20 2896000 20",
            "measured 1 tcp-out net linux 1000000000 724000 500000000 600000000 10 20 724000 20",
            "measured 1 tcp-out net e1000 1000000000 14480 500000000 600000000 10 20 14480 20",
        ]
        .iter()
        .filter_map(|line| parse(line))
        .collect();
        let rate = compare(&all, "tcp-out", "net", "e1000", QUANTITIES[0].1).expect("a round");
        assert_eq!((rate.ours.median, rate.ratio.median), (1000.0, 100.0));
        let events = compare(&all, "tcp-out", "net", "linux", |m| m.events_in).expect("a round").ours;
        assert!((events.median - 0.01).abs() < 1e-9, "{}", events.median);
        let text = tables(&all);
        assert!(text.contains("| load | quantity | ours | linux | ours/linux | e1000 | ours/e1000 |"), "{text}");
        assert!(text.contains("| tcp-out | Mbit/s of payload | 11.6 (11.6 - 11.6) |"), "{text}");
    }
}
