//! The disk rows: one loop device over a file in dom0's memory is a disk of both guests, attached twice, with persistent
//! grants off and by blkback's default.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context, bail};

use super::{Counts, Guest, PATIENCE, POLL, Row};
use crate::dom0::{Disk, Kind, name, number, run};
use crate::store;

/// 512-byte blocks of the disk.
const UNITS: u64 = 64 << 11;
/// blkback's switch for persistent grants, read when a disk is attached.
const PERSISTENT: &str = "/sys/module/xen_blkback/parameters/feature_persistent";

/// The loads: a name, and the words that a guest gets.
pub const LOADS: [(&str, &str); 6] = [
    ("read-4k-1", "read random 4096 1"),
    ("write-4k-1", "write random 4096 1"),
    ("read-4k-32", "read random 4096 32"),
    ("write-4k-32", "write random 4096 32"),
    ("read-64k-16", "read sequential 65536 16"),
    ("write-64k-16", "write sequential 65536 16"),
];
/// The disks: blkback's `feature_persistent` while disk 0 and disk 1 are attached; None: its default.
const SETTINGS: [(&str, Option<&str>); 2] = [("off", Some("N")), ("default", None)];

/// Attaches a device as a guest's disk and waits until it is connected: what was negotiated.
fn attach(guest: &Guest, index: u32, device: &str) -> anyhow::Result<String> {
    let disk = format!("format=raw,vdev={},access=rw,script=block-fast,target={device}", name(index));
    run("xl", &["block-attach", guest.name, &disk])?;
    let back = format!("/local/domain/0/backend/vbd/{}/{}", guest.domain, number(index));
    let front = format!("/local/domain/{}/device/vbd/{}", guest.domain, number(index));
    let read = |path: String| store::read(&path).unwrap_or_else(|_| "-".into());
    let end = Instant::now() + PATIENCE;
    while read(format!("{back}/state")) != "4" || read(format!("{front}/state")) != "4" {
        if Instant::now() > end {
            bail!("{}: {} does not connect", guest.name, name(index));
        }
        std::thread::sleep(POLL);
    }
    Ok(format!(
        "{} {}: ring page order {}, feature-persistent {} (back) {} (front), indirect segments offered {}",
        guest.name,
        name(index),
        read(format!("{front}/ring-page-order")),
        read(format!("{back}/feature-persistent")),
        read(format!("{front}/feature-persistent")),
        read(format!("{back}/feature-max-indirect-segments")),
    ))
}

/// Makes the disk and attaches it to both guests: what was negotiated, a line each.
pub fn prepare(guests: &[Guest; 2]) -> anyhow::Result<String> {
    let disk = Disk::make(0, Kind::Phy, UNITS, 512)?;
    // Blocks of its own for every page: a hole would be read without any copy from the file.
    fs::OpenOptions::new().write(true).open(&disk.file)?.write_all(&vec![0xa5; UNITS as usize * 512])?;
    let device = disk.device.as_deref().context("there is no loop device")?;
    let usual = fs::read_to_string(PERSISTENT).context("blkback is not there")?;
    let mut notes = format!("blkback's feature_persistent is {} by default\n", usual.trim());
    for (index, (_, persistent)) in SETTINGS.iter().enumerate() {
        fs::write(PERSISTENT, persistent.unwrap_or(usual.trim()))?;
        for guest in guests {
            writeln!(notes, "{}", attach(guest, index as u32, device)?)?;
        }
    }
    Ok(notes)
}

/// What is measured of each load: both guests, on both disks.
pub fn rows(words: &str) -> Vec<Row> {
    let disks = SETTINGS.iter().enumerate();
    disks
        .flat_map(|(index, (setting, _))| {
            [0, 1].map(|guest| Row {
                guest,
                group: index,
                setting,
                who: if guest == 0 { "ours" } else { "linux" },
                request: format!("disk {{run}} {index} {words}"),
                meter: Box::new(move |guest| counts(guest, index as u32)),
            })
        })
        .collect()
}

fn counts(guest: &Guest, disk: u32) -> anyhow::Result<Counts> {
    let folder = format!("/sys/bus/xen-backend/devices/vbd-{}-{}/statistics", guest.domain, number(disk));
    let count = |name: &str| anyhow::Ok(fs::read_to_string(format!("{folder}/{name}"))?.trim().parse::<u64>()?);
    Ok(Counts {
        done: guest.mailbox.done(),
        events: super::events(&fs::read_to_string("/proc/interrupts")?, |name| name == "blkif-backend"),
        ring: count("rd_req")? + count("wr_req")?,
    })
}
