//! The guest's network interfaces: each on a bridge of its own, on which dom0 has 10.77.N.1 and fd77:N::1.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use crate::dom0::run;
use crate::serve;
use crate::session::{NAME, Session};
use crate::store;

/// netback's switch for the queues that it offers, read when an interface is attached.
const MAX_QUEUES: &str = "/sys/module/xen_netback/parameters/max_queues";
/// Commands for `ip`.
const BATCH: &str = "/tmp/lab-ip";

/// What there is of interfaces in a session.
#[derive(Default)]
pub struct Vifs {
    /// Those that were attached.
    known: Vec<u32>,
    /// Pings of the guest that run, and what they will have sent.
    pings: Option<(Child, u64)>,
    /// What the last pings came to.
    pinged: String,
    /// Wrong checksums that dom0 had seen before.
    bad_before: u64,
}

impl Vifs {
    /// None yet.
    pub fn new() -> Self {
        serve::forget();
        Self { bad_before: bad_checksums(), ..Self::default() }
    }
}

/// The name of an interface's bridge.
pub fn bridge(index: u32) -> String {
    format!("lab{index}")
}

/// Runs several commands of `ip` in one process.
fn ip(commands: &[String]) -> anyhow::Result<String> {
    fs::write(BATCH, commands.join("\n") + "\n")?;
    run("ip", &["-batch", BATCH])
}

/// Packets with a wrong checksum that dom0's own stack has seen.
fn bad_checksums() -> u64 {
    let mut sum = 0;
    // Pairs of lines: names, values.
    let text = fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    for pair in lines.chunks_exact(2) {
        let at = pair[0].iter().position(|name| *name == "InCsumErrors");
        sum += at.and_then(|at| pair[1].get(at)?.parse::<u64>().ok()).unwrap_or(0);
    }
    // A name and a value each.
    let text = fs::read_to_string("/proc/net/snmp6").unwrap_or_default();
    let wrong = text.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| name.ends_with("InCsumErrors"));
    sum + wrong.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum::<u64>()
}

impl Session {
    fn vif_front(&self, index: u32) -> String {
        format!("/local/domain/{}/device/vif/{index}", self.domain)
    }

    /// The backend's directory of an interface.
    pub fn vif_back(&self, index: u32) -> String {
        format!("/local/domain/0/backend/vif/{}/{index}", self.domain)
    }

    /// dom0's end of an interface.
    fn vif_name(&self, index: u32) -> String {
        format!("vif{}.{index}", self.domain)
    }

    /// A file of dom0's end of an interface, a number.
    fn vif_figure(&self, index: u32, name: &str) -> u64 {
        let path = PathBuf::from("/sys/class/net").join(self.vif_name(index)).join("statistics").join(name);
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Makes an interface's bridge, with dom0 on it, unless it is there. No VLAN and no MTU are 0.
    pub fn make_bridge(&mut self, index: u32, mtu: u32, vlan: u32) -> anyhow::Result<()> {
        let bridge = bridge(index);
        if !self.vifs.known.contains(&index) {
            let host = if vlan == 0 { bridge.clone() } else { format!("{bridge}.{vlan}") };
            let mut commands = vec![format!("link add {bridge} address 00:16:3e:4e:55:{index:02x} type bridge")];
            if mtu != 0 {
                commands.push(format!("link set {bridge} mtu {mtu}"));
            }
            commands.push(format!("link set {bridge} up"));
            if vlan != 0 {
                commands.push(format!("link add link {bridge} name {host} type vlan id {vlan}"));
                commands.push(format!("link set {host} up"));
            }
            commands.push(format!("addr add 10.77.{index}.1/24 dev {host}"));
            commands.push(format!("addr add fd77:{index:x}::1/64 dev {host} nodad"));
            ip(&commands)?;
            if vlan != 0 {
                // Otherwise the bridge answers for the address of the VLAN.
                fs::write(format!("/proc/sys/net/ipv4/conf/{bridge}/arp_ignore"), "1")?;
            }
            self.vifs.known.push(index);
        }
        Ok(())
    }

    /// Makes the bridge and attaches the interface. No VLAN and no MTU are 0, no MAC is `-`.
    pub fn vif_attach(&mut self, index: u32, mac: &str, mtu: u32, vlan: u32, queues: u32) -> anyhow::Result<String> {
        self.make_bridge(index, mtu, vlan)?;
        let bridge = bridge(index);
        fs::write(MAX_QUEUES, queues.to_string()).context("netback is not there")?;
        let mut words = vec!["network-attach".to_owned(), NAME.to_owned(), "type=vif".to_owned()];
        words.extend([format!("bridge={bridge}"), "script=vif-fast".to_owned()]);
        if mac != "-" {
            words.push(format!("mac={mac}"));
        }
        if mtu != 0 {
            words.push(format!("mtu={mtu}"));
        }
        run("xl", &words.iter().map(String::as_str).collect::<Vec<_>>())?;
        if mtu != 0 {
            ip(&[format!("link set {} mtu {mtu}", self.vif_name(index))])?;
        }
        Ok(String::new())
    }

    /// Detaches an interface; the guest has to help.
    pub fn vif_detach(&mut self, index: u32) -> anyhow::Result<String> {
        self.note_vif(index);
        let mut detach = Command::new("xl");
        detach.args(["network-detach", NAME, &index.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
        self.children.push(detach.spawn()?);
        Ok(String::new())
    }

    /// Whether the toolstack and netback let go of an interface that was to be detached.
    pub fn vif_gone(&self, index: u32) -> bool {
        let there = |path: String| store::exists(&path).unwrap_or(true);
        !fs::exists(format!("/sys/class/net/{}", self.vif_name(index))).unwrap_or(false)
            && !there(self.vif_back(index))
            && !there(self.vif_front(index))
    }

    /// Frames and bytes from and to the guest, queues, wrong checksums, most TCP connections, frames lost on the way to the
    /// guest, then the events of each queue.
    pub fn vif_stats(&self, index: u32) -> String {
        let queues = store::read(&format!("{}/multi-queue-num-queues", self.vif_front(index)));
        let mut figures: Vec<u64> =
            ["rx_packets", "tx_packets", "rx_bytes", "tx_bytes"].map(|name| self.vif_figure(index, name)).into();
        figures.push(queues.ok().and_then(|text| text.parse().ok()).unwrap_or(1));
        figures.push(bad_checksums().saturating_sub(self.vifs.bad_before));
        figures.push(serve::most_connections());
        figures.push(self.vif_figure(index, "tx_dropped"));
        figures.extend(events(&fs::read_to_string("/proc/interrupts").unwrap_or_default(), &self.vif_name(index)));
        figures.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
    }

    /// Frames from the guest so far.
    pub fn vif_frames(&self, index: u32) -> u64 {
        self.vif_figure(index, "rx_packets")
    }

    /// Pings the guest from dom0.
    pub fn vif_ping(
        &mut self,
        index: u32,
        v6: bool,
        size: u32,
        count: u64,
        interval_us: u64,
    ) -> anyhow::Result<String> {
        let to = if v6 { format!("fd77:{index:x}::2") } else { format!("10.77.{index}.2") };
        // Its smallest interval is 2 ms for those who may choose.
        let interval = format!("{:.3}", Duration::from_micros(interval_us.max(2000)).as_secs_f64());
        let child = Command::new("ping")
            .args(["-n", "-q", "-W", "3", "-c", &count.to_string(), "-i", &interval, "-s", &size.to_string(), &to])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        self.vifs.pings = Some((child, count));
        Ok(String::new())
    }

    /// What came of the pings: sent, good, bad, done.
    pub fn vif_pings(&mut self) -> anyhow::Result<String> {
        let Some((child, count)) = &mut self.vifs.pings else { return Ok(self.vifs.pinged.clone()) };
        let count = *count;
        if child.try_wait()?.is_none() {
            return Ok(format!("{count} 0 0 0"));
        }
        let (child, _) = self.vifs.pings.take().context("the pings are gone")?;
        let text = String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned();
        let [sent, good, bad] = summary(&text).unwrap_or([count, 0, 0]);
        self.vifs.pinged = format!("{sent} {good} {bad} 1");
        Ok(self.vifs.pinged.clone())
    }

    /// Turns an offload of dom0's end on or off: `tx`, `tso`, `gso`, `sg`. What it is now, by `ethtool -k`.
    pub fn vif_offload(&self, index: u32, feature: &str, on: bool) -> anyhow::Result<String> {
        let name = self.vif_name(index);
        run("ethtool", &["-K", &name, feature, if on { "on" } else { "off" }])?;
        Ok(run("ethtool", &["-k", &name])?
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(name, _)| {
                ["tx-checksumming", "scatter-gather", "tcp-segmentation-offload", "generic-segmentation-offload"]
                    .contains(name)
            })
            .map(|(name, value)| format!("{name}={}", value.split(' ').next().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(" "))
    }

    /// Remembers what was negotiated for an interface, if it is connected.
    pub fn note_vif(&mut self, index: u32) {
        let front = self.vif_front(index);
        let keys = |path: &str| store::keys(path).unwrap_or_default();
        let (theirs, ours) = (keys(&self.vif_back(index)), keys(&front));
        let their = |key: &str| theirs.get(key).map_or("-", String::as_str);
        let our = |key: &str| ours.get(key).map_or("-", String::as_str);
        if their("state") != "4" {
            return;
        }
        // With several queues the keys of each are in a directory of its own.
        let split =
            [&front, &format!("{front}/queue-0")].iter().any(|path| keys(path).contains_key("event-channel-tx"));
        let both = |key| format!("{}/{}", their(key), our(key));
        let text = format!(
            "vif{index} {}: queues {} of {}, event channels split {}/{}, control ring {}/{}, sg {}, gso v4 {} v6 {}, no \
             checksums v4 {}, checksums v6 {}, multicast control {}/{}, xdp headroom {}",
            our("mac"),
            ours.get("multi-queue-num-queues").map_or("1", String::as_str),
            their("multi-queue-max-queues"),
            their("feature-split-event-channels"),
            u8::from(split),
            their("feature-ctrl-ring"),
            u8::from(ours.contains_key("ctrl-ring-ref")),
            both("feature-sg"),
            both("feature-gso-tcpv4"),
            both("feature-gso-tcpv6"),
            both("feature-no-csum-offload"),
            both("feature-ipv6-csum-offload"),
            their("feature-multicast-control"),
            our("request-multicast-control"),
            their("feature-xdp-headroom"),
        );
        self.notes.insert(format!("vif{index}"), text);
    }

    /// [`Self::note_vif`] of each.
    pub fn note_vifs(&mut self) {
        for index in self.vifs.known.clone() {
            self.note_vif(index);
        }
    }

    /// Takes the bridges away, once the guest is gone. What could not be.
    pub fn free_vifs(&mut self) -> anyhow::Result<()> {
        if let Some((mut child, _)) = self.vifs.pings.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let commands: Vec<String> =
            self.vifs.known.drain(..).map(|index| format!("link del {}", bridge(index))).collect();
        if !commands.is_empty() {
            ip(&commands)?;
        }
        Ok(())
    }

    /// Network devices of the domain that are still there.
    pub fn vifs_left(&self) -> Vec<String> {
        let prefix = format!("vif{}.", self.domain);
        let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect()
    }
}

/// Of `/proc/interrupts`, those of each queue of an interface, by the queue's number.
fn events(text: &str, vif: &str) -> Vec<u64> {
    let mut queues = BTreeMap::<u32, u64>::new();
    for line in text.lines() {
        let Some(name) = line.split_ascii_whitespace().last().and_then(|name| name.strip_prefix(vif)) else { continue };
        let Some(queue) = name.strip_prefix("-q").and_then(|rest| rest.split('-').next()?.parse().ok()) else {
            continue;
        };
        let counts = line.split_ascii_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok());
        *queues.entry(queue).or_default() += counts.sum::<u64>();
    }
    queues.into_values().collect()
}

/// What `ping -q` says at its end: sent, good, bad.
fn summary(text: &str) -> Option<[u64; 3]> {
    let line = text.lines().find(|line| line.contains("packets transmitted"))?;
    let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let before =
        |what: &str| words.iter().position(|word| *word == what).and_then(|at| words.get(at - 1)?.parse().ok());
    let (sent, received) = (words.first()?.parse().ok()?, before("received")?);
    Some([sent, received, before("corrupted").unwrap_or(0) + text.matches("wrong data byte").count() as u64])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ping_says() {
        let text =
            "--- 10.77.0.2 ping statistics ---\n20 packets transmitted, 19 received, 5% packet loss, time 40ms\n";
        assert_eq!(summary(text), Some([20, 19, 0]));
        assert_eq!(summary("ping: unknown host"), None);
    }

    #[test]
    fn counts_the_events_of_queues() {
        let text = "  CPU0\n 60:   5  xen-dyn  -event  vif1.0-q0-tx\n 61:  7  xen-dyn -event vif1.0-q0-rx\n \
                    62:  3  xen-dyn -event vif1.0-q1-tx\n 63: 9 xen-dyn -event vif1.0-ctrl\n 64: 1 xen-dyn -event vif1.1-q0-tx\n";
        assert_eq!(events(text, "vif1.0"), [12, 3]);
    }
}
