//! Devices that a guest has twice, as `xl` makes them: emulated by the device model and paravirtual, with the same disk and
//! the same bridges behind both. What of the emulated ones is there the device model says itself.

use std::fs;

use anyhow::bail;

use crate::dom0::{DISKS, Disk, Kind, run};
use crate::net::bridge;
use crate::session::{NAME, Session};

/// xvda, which is the first IDE disk.
const DISK: u32 = 12;
/// Its size in 512-byte units.
const UNITS: u64 = 4 << 11;
/// The models of the network cards.
const CARDS: [&str; 2] = ["rtl8139", "e1000"];

impl Session {
    /// Makes what is behind them: the lines of the guest's configuration.
    pub fn make_twins(&mut self) -> anyhow::Result<String> {
        let disk = Disk::make(DISK, Kind::Phy, UNITS, 512)?;
        let specification = disk.specification(false);
        self.disks.push(disk);
        let cdrom = format!("{DISKS}/cdrom.iso");
        fs::File::create(&cdrom)?.set_len(1 << 20)?;
        let mut cards = Vec::new();
        for (index, model) in (0..).zip(CARDS) {
            self.make_bridge(index, 0, 0)?;
            let bridge = bridge(index);
            cards.push(format!("\"mac=00:16:3e:4e:54:1{index},bridge={bridge},script=vif-fast,model={model}\""));
        }
        Ok(format!(
            "disk=[\"{specification}\",\"format=raw,vdev=xvdc,devtype=cdrom,access=ro,target={cdrom}\"]\nvif=[{}]\n",
            cards.join(",")
        ))
    }

    /// What the device model emulates: its IDE disks and its network cards, `1 10ec:8139,8086:100e`.
    pub fn emulated(&self) -> anyhow::Result<String> {
        let ask = |what: &str| run("xl", &["qemu-monitor-command", NAME, what]);
        let (pci, block) = (ask("info pci")?, ask("info block")?);
        self.append("qemu-monitor", format!("== info pci\n{pci}\n== info block\n{block}\n").as_bytes())?;
        if !pci.contains("PCI device 5853:0001") {
            bail!("the device model lists no platform device: {pci}");
        }
        Ok(format!("{} {}", ide_disks(&block), cards(&pci).join(",")))
    }
}

/// How many IDE disks `info block` has that a device uses.
fn ide_disks(text: &str) -> usize {
    let mut disk = false;
    let mut count = 0;
    for line in text.lines() {
        if line.starts_with(|first: char| !first.is_whitespace()) {
            disk = line.starts_with("ide") && line.contains("-hd");
        } else if disk && line.trim_start().starts_with("Attached to:") {
            count += 1;
        }
    }
    count
}

/// Vendor and device of each network card that `info pci` has.
fn cards(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("Ethernet controller: PCI device ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_device_model_has() {
        let block = "ide0-hd0 (#block123): /dev/loop0 (raw)\n    Attached to:      /machine/unattached/device[9]\n    \
                     Cache mode:       writeback\n\nide1-cd0: [not inserted]\n    Attached to:      /machine/x\n";
        assert_eq!(ide_disks(block), 1);
        // Unplugged: the file may still be open, no device has it.
        assert_eq!(ide_disks("ide0-hd0 (#block123): /dev/loop0 (raw)\n    Cache mode:       writeback\n"), 0);
        let pci = "  Bus  0, device   4, function 0:\n    Ethernet controller: PCI device 10ec:8139\n      \
                   PCI subsystem 1af4:1100\n    Class 0xff80: PCI device 5853:0001\n";
        assert_eq!(cards(pci), ["10ec:8139"]);
    }
}
