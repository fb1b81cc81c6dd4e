//! What a suite in the guest may ask of dom0, one verb each.

use std::fmt;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::dom0::{self, Disk, Kind, number, run};
use crate::mailbox::{MOST_DATA, Request};
use crate::privcmd;
use crate::service::Service;
use crate::session::{Due, NAME, Session};
use crate::store::{self, Conflicts};

/// Bytes of a unit of the suites.
const UNIT: u64 = 512;

/// What Xen says of a domain's grant table.
#[derive(Debug, Default, PartialEq, Eq)]
struct GrantTable {
    /// Frames of the table.
    frames: u64,
    /// References that somebody has mapped.
    mapped: Vec<u32>,
}

impl fmt::Display for GrantTable {
    /// `frames=3 mapped=0,1`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mapped: Vec<String> = self.mapped.iter().map(u32::to_string).collect();
        write!(f, "frames={} mapped={}", self.frames, mapped.join(","))
    }
}

/// Finds a domain in the last complete list that the key `g` printed. None: there is no complete list.
fn parse_grants(console: &str, domain: u16) -> Option<GrantTable> {
    let (_, list) = console.rsplit_once("gnttab_usage_print_all [")?;
    let (list, _) = list.split_once("gnttab_usage_print_all ]")?;
    let heading = format!("grant-table for remote d{domain} ");
    let mut table = GrantTable::default();
    let mut ours = false;
    for line in list.lines().map(|line| line.trim_start_matches("(XEN)").trim()) {
        if line.starts_with("grant-table for remote") {
            ours = line.starts_with(&heading);
        } else if ours && let Some((frames, _)) = line.split_once(" frames (") {
            table.frames = frames.parse().ok()?;
        } else if ours && let Some(reference) = line.strip_prefix("[0x") {
            table.mapped.push(u32::from_str_radix(reference.split(']').next()?, 16).ok()?);
        }
    }
    Some(table)
}

impl Session {
    /// Carries a request out: the answer's text and data.
    pub fn carry_out(&mut self, request: &Request) -> anyhow::Result<(String, Vec<u8>)> {
        let (verb, rest) = request.text.split_once(' ').unwrap_or((&request.text, ""));
        let words: Vec<&str> = rest.split_ascii_whitespace().collect();
        let word = |n: usize| words.get(n).copied().with_context(|| format!("`{verb}` lacks an argument"));
        let value = |n: usize| anyhow::Ok(word(n)?.parse::<u64>()?);
        let index = || anyhow::Ok(value(0)? as u32);
        let text = match verb {
            "home" => format!("/local/domain/{}", self.domain),
            "attach" => self.attach(index()?, value(1)?, value(2)? as u32, value(3)? != 0, Kind::parse(word(4)?)?)?,
            "attach-filled" => self.attach_filled(index()?, value(1)?)?,
            "detach" => self.detach(index()?)?,
            "gone" => u8::from(self.is_gone(index()?)?).to_string(),
            "resize" => self.resize(index()?, value(1)?)?,
            "read" => return self.read(index()?, value(1)?, value(2)?).map(|data| (String::new(), data)),
            "write" => self.write(index()?, value(1)?, &request.data)?,
            "hash" => self.disk(index()?)?.hash()?,
            "allocated" => fs::metadata(self.disk(index()?)?.raw()?)?.blocks().to_string(),
            "stats" => self.statistics(index()?).join(" "),
            "negotiated" => self.negotiated(index()?)?,
            "suspend" => {
                self.due = Some(if value(0)? != 0 { Due::Checkpoint } else { Due::Migrate });
                String::new()
            }
            "suspends" => format!("{} {}", self.suspends, self.cancelled),
            "destroy" => {
                self.due = Some(Due::Destroy(index()?));
                String::new()
            }
            "await-shutdown" => {
                self.due = Some(Due::AwaitShutdown(value(0)? as u32, words[1..].join(" ")));
                String::new()
            }
            "xl" => self.toolstack(word(0)?)?,
            "domains" => run("xl", &["list"])?,
            "service-start" => {
                self.service = Some(Service::start(self)?);
                String::new()
            }
            "service" => return Ok(self.service()?.exchange(&request.data)),
            "service-stop" => {
                self.service()?.stop();
                String::new()
            }
            "emulated" => self.emulated()?,
            "serial" => return self.serial_bytes(),
            "callback" => privcmd::callback_irq(self.domain)?.to_string(),
            "grants" => self.grants()?.to_string(),
            "disk-grants" => self.disk_grants(index()?)?.to_string(),
            "conflict" => {
                let own = format!("device/vbd/{}/ring-page-order", number(index()?));
                let home = format!("/local/domain/{}", self.domain);
                self.conflicts = Some(Conflicts::start(home, own, value(1)?)?);
                String::new()
            }
            "conflicts" => {
                let conflicts = self.conflicts.take().context("nothing was started")?;
                let (writes, refused) = conflicts.end()?;
                format!("{writes} {refused}")
            }
            "vif-attach" => {
                self.vif_attach(index()?, word(1)?, value(2)? as u32, value(3)? as u32, value(4)? as u32)?
            }
            "vif-detach" => self.vif_detach(index()?)?,
            "vif-gone" => u8::from(self.vif_gone(index()?)).to_string(),
            "vif-stats" => self.vif_stats(index()?),
            "vif-ping" => self.vif_ping(index()?, value(1)? == 6, value(2)? as u32, value(3)?, value(4)?)?,
            "vif-pings" => self.vif_pings()?,
            "vif-offload" => self.vif_offload(index()?, word(1)?, word(2)? == "on")?,
            "vif-destroy" => {
                self.due = Some(Due::DestroyVif(index()?, words[1..].join(" ")));
                String::new()
            }
            "store-read" => store::read(rest)?,
            "store-write" => {
                let (path, value) = rest.split_once(' ').unwrap_or((rest, ""));
                store::write(path, value)?;
                String::new()
            }
            "store-remove" => {
                store::remove(rest)?;
                String::new()
            }
            "evidence" => {
                self.append(word(0)?, &request.data)?;
                String::new()
            }
            "result" => {
                self.verdict = Some(rest.to_owned());
                String::new()
            }
            _ => bail!("`{verb}` is no request"),
        };
        Ok((text, Vec::new()))
    }

    fn attach(&mut self, index: u32, units: u64, sector: u32, read_only: bool, kind: Kind) -> anyhow::Result<String> {
        self.attach_made(Disk::make(index, kind, units, sector)?, read_only)
    }

    /// Attaches a qcow2 file of random bytes; their SHA-256.
    fn attach_filled(&mut self, index: u32, units: u64) -> anyhow::Result<String> {
        let disk = Disk::make(index, Kind::QdiskQcow2, units, UNIT as u32)?;
        let hash = disk.fill(units)?;
        // Read-write: QEMU 7.2 attaches no read-only qcow2 ("Block node is read-only").
        self.attach_made(disk, false)?;
        Ok(hash)
    }

    fn attach_made(&mut self, disk: Disk, read_only: bool) -> anyhow::Result<String> {
        let specification = disk.specification(read_only);
        self.disks.retain(|old| old.index != disk.index);
        self.disks.push(disk);
        run("xl", &["block-attach", NAME, &specification])
    }

    fn detach(&mut self, index: u32) -> anyhow::Result<String> {
        self.note(index);
        let child = Command::new("xl")
            .args(["block-detach", NAME, &dom0::name(index)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        self.children.push(child);
        Ok(String::new())
    }

    /// Starts `xl shutdown -w` or `xl reboot`, which must succeed in the end.
    fn toolstack(&mut self, verb: &str) -> anyhow::Result<String> {
        let arguments: &[&str] = match verb {
            "shutdown" => &["shutdown", "-w", NAME],
            "reboot" => &["reboot", NAME],
            _ => bail!("`xl {verb}` is no request"),
        };
        let output = self.output(&format!("xl-{verb}"))?;
        let errors = output.try_clone()?;
        let mut xl = Command::new("xl");
        self.toolstack = Some(xl.args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors).spawn()?);
        Ok(String::new())
    }

    /// shutdownmon.
    fn service(&mut self) -> anyhow::Result<&mut Service> {
        self.service.as_mut().context("the service was not started")
    }

    /// What came over the serial port so far, its end where it does not fit.
    fn serial_bytes(&self) -> anyhow::Result<(String, Vec<u8>)> {
        let bytes = self.serial.as_ref().context("the guest has no serial port")?.bytes();
        Ok((String::new(), bytes[bytes.len().saturating_sub(MOST_DATA)..].to_vec()))
    }

    /// Whether the toolstack let go of a disk that it was told to detach.
    fn is_gone(&mut self, index: u32) -> anyhow::Result<bool> {
        let classes = ["vbd", "qdisk"].map(|class| format!("/local/domain/0/backend/{class}/{}", self.domain));
        let mut paths = classes.iter().map(|path| format!("{path}/{}", number(index))).collect::<Vec<_>>();
        paths.push(self.frontend(index));
        let gone = !paths.iter().map(|path| store::exists(path)).collect::<Result<Vec<_>, _>>()?.contains(&true);
        if gone {
            self.disks.iter_mut().find(|disk| disk.index == index).context("there is no such disk")?.free()?;
        }
        Ok(gone)
    }

    fn resize(&self, index: u32, units: u64) -> anyhow::Result<String> {
        let disk = self.disk(index)?;
        fs::OpenOptions::new().write(true).open(disk.raw()?)?.set_len(units * UNIT)?;
        let device = disk.device.as_deref().context("this kind of disk has no size that can be told live")?;
        run("losetup", &["--set-capacity", device])
    }

    fn read(&self, index: u32, first: u64, units: u64) -> anyhow::Result<Vec<u8>> {
        let mut file = fs::File::open(self.disk(index)?.raw()?)?;
        file.seek(SeekFrom::Start(first * UNIT))?;
        let mut data = vec![0; ((units * UNIT) as usize).min(MOST_DATA)];
        file.read_exact(&mut data)?;
        Ok(data)
    }

    fn write(&self, index: u32, first: u64, data: &[u8]) -> anyhow::Result<String> {
        let mut file = fs::OpenOptions::new().write(true).open(self.disk(index)?.raw()?)?;
        file.seek(SeekFrom::Start(first * UNIT))?;
        file.write_all(data)?;
        Ok(String::new())
    }

    /// blkback's counts of requests: reads, writes, flushes, discards.
    pub fn statistics(&self, index: u32) -> [String; 4] {
        let folder = format!("/sys/bus/xen-backend/devices/vbd-{}-{}/statistics", self.domain, number(index));
        ["rd_req", "wr_req", "f_req", "ds_req"].map(|name| {
            fs::read_to_string(format!("{folder}/{name}")).map_or("0".into(), |text| text.trim().to_owned())
        })
    }

    /// What both ends of a disk agreed on, in one line.
    pub fn negotiated(&self, index: u32) -> anyhow::Result<String> {
        let (front, back) = (self.frontend(index), self.backend(index)?);
        let read = |path: String| store::read(&path).ok();
        if read(format!("{back}/state")).as_deref() != Some("4") {
            bail!("it is not connected");
        }
        let order = read(format!("{front}/ring-page-order")).and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
        let offered = |key: &str| read(format!("{back}/{key}")).unwrap_or_else(|| "-".into());
        let kind = self.disk(index).map(|disk| disk.kind);
        Ok(format!(
            "{} {:?}: ring pages {} (offered order {}), indirect segments {}, flush {}, barrier {}, discard {}, \
             persistent {}/{}, blocks {}/{}",
            dom0::name(index),
            kind.unwrap_or(Kind::Phy),
            1 << order.min(16),
            offered("max-ring-page-order"),
            offered("feature-max-indirect-segments"),
            offered("feature-flush-cache"),
            offered("feature-barrier"),
            offered("feature-discard"),
            offered("feature-persistent"),
            read(format!("{front}/feature-persistent")).unwrap_or_else(|| "-".into()),
            offered("sector-size"),
            offered("physical-sector-size"),
        ))
    }

    /// How many of a disk's ring pages its backend has mapped, as Xen lists them; also of one that was detached.
    fn disk_grants(&mut self, index: u32) -> anyhow::Result<usize> {
        let front = self.frontend(index);
        let keys = store::keys(&front)?;
        let rings = keys.iter().filter(|(name, _)| name.starts_with("ring-ref"));
        let seen: Vec<u32> = rings.filter_map(|(_, value)| value.parse().ok()).collect();
        let disk = self.disks.iter_mut().find(|disk| disk.index == index).context("there is no such disk")?;
        disk.ring.extend(seen);
        let ring = disk.ring.clone();
        Ok(self.grants()?.mapped.iter().filter(|reference| ring.contains(reference)).count())
    }

    /// The grant table as Xen lists it.
    fn grants(&self) -> anyhow::Result<GrantTable> {
        run("xl", &["debug-keys", "g"])?;
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(table) = parse_grants(&run("xl", &["dmesg"])?, self.domain) {
                return Ok(table);
            }
            if Instant::now() > end {
                bail!("Xen printed no list of grants");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_domain_in_the_list_of_grants() {
        let console = "(XEN) gnttab_usage_print_all [ key 'g' pressed\n\
            (XEN) grant-table for remote d1 (v1)\n(XEN)   9 frames (64 max), 0 maptrack frames (1024 max)\n\
            (XEN) gnttab_usage_print_all ] done\n\
            (XEN) gnttab_usage_print_all [ key 'g' pressed\n\
            (XEN) grant-table for remote d0 (v1)\n(XEN)   1 frames (64 max), 1 maptrack frames (1024 max)\n\
            (XEN) [0x007]      0 0x5fe17 0x00000002          0 0x0fefff 0x19\n\
            (XEN) grant-table for remote d1 (v1)\n(XEN)   3 frames (64 max), 0 maptrack frames (1024 max)\n\
            (XEN) [0x000]      0 0x5fe17 0x00000002          0 0x0fefff 0x19\n\
            (XEN) [0x40a]      0 0x5fe1a 0x00000002          0 0x0feffc 0x19\n\
            (XEN) gnttab_usage_print_all ] done\n";
        assert_eq!(parse_grants(console, 1), Some(GrantTable { frames: 3, mapped: vec![0, 0x40a] }));
        assert_eq!(parse_grants(console, 2), Some(GrantTable::default()));
        assert_eq!(parse_grants("gnttab_usage_print_all [ key 'g' pressed", 1), None);
    }
}
