//! The suites' [`World`] in the lab: a real dom0 behind the mailbox.

use crate::{log, mailbox, suspend, trap};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use suites::guest::vdev;
use suites::world::{DiskSpec, DiskStats, Hostile, World, XenStats};

/// Bytes of one of the suites' units.
const UNIT: usize = 512;

/// See the module.
pub struct Dom0;

/// Asks the agent; a refusal ends the run, as nothing that follows would mean anything.
pub fn ask(text: &str, data: &[u8]) -> (String, Vec<u8>) {
    mailbox::ask(text, data).unwrap_or_else(|why| crate::run::give_up(&format!("dom0 refused `{text}`: {why}")))
}

/// For what a model can do and a real dom0 cannot: such cases are not on the lab's list.
pub fn absent(what: &str) -> ! {
    crate::run::give_up(&format!("the lab has no {what}"))
}

/// What dom0 says of a disk's content: its SHA-256, in hexadecimal. Of a qcow2 file only when it is detached.
pub fn hash(index: u32) -> String {
    first_word(&ask(&format!("hash {index}"), &[]).0)
}

/// Of what `sha256sum` prints, the hash.
fn first_word(text: &str) -> String {
    text.split(' ').next().unwrap_or_default().into()
}

/// 512-byte blocks that a disk's file takes in dom0's file system.
pub fn allocated(index: u32) -> u64 {
    ask(&format!("allocated {index}"), &[]).0.parse().unwrap_or(0)
}

/// Attaches a disk of zeros that QEMU's block backend carries: `raw` or `qcow2`.
pub fn attach_qdisk(index: u32, units: u64, format: &str) {
    ask(&format!("attach {index} {units} 512 0 {format}"), &[]);
}

/// Attaches a qcow2 file of random bytes by QEMU's block backend; the SHA-256 of them, from before.
pub fn attach_filled(index: u32, units: u64) -> String {
    first_word(&ask(&format!("attach-filled {index} {units}"), &[]).0)
}

/// `HVM_PARAM_CALLBACK_IRQ`, as the toolstack reads it.
pub fn callback_irq() -> u64 {
    ask("callback", &[]).0.parse().unwrap_or(0)
}

/// What Xen says of this domain's grant table: its frames, and the references that somebody has mapped.
pub fn grants() -> (u64, Vec<u32>) {
    let text = ask("grants", &[]).0;
    let mut words = text.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    let frames = words.next().and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mapped = words.next().map_or("", |(_, value)| value);
    (frames, mapped.split(',').filter_map(|word| word.parse().ok()).collect())
}

/// From now on dom0 writes into the transactions in which a disk is published, until `most` were refused.
pub fn start_conflicts(index: u32, most: u64) {
    ask(&format!("conflict {index} {most}"), &[]);
}

/// Ends that: how often dom0 wrote, and how many transactions xenstored refused.
pub fn end_conflicts() -> (u64, u64) {
    let text = ask("conflicts", &[]).0;
    let (writes, refused) = text.split_once(' ').unwrap_or_default();
    (writes.parse().unwrap_or(0), refused.parse().unwrap_or(0))
}

/// The agent destroys this domain while the disk is busy, and judges what is left. The caller goes on until it is gone.
pub fn destroy_under_load(index: u32) {
    ask(&format!("destroy {index}"), &[]);
}

/// The agent waits until `xl` says that this domain shut down for a reason of Xen's public/sched.h. The text becomes a
/// part of the verdict.
pub fn await_shutdown(reason: u32, text: &str) {
    ask(&format!("await-shutdown {reason} {text}"), &[]);
}

/// What the device model emulates, as its monitor says: IDE disks, and vendor and device of each network card.
pub fn emulated() -> (u32, Vec<(u16, u16)>) {
    let text = ask("emulated", &[]).0;
    let (disks, cards) = text.split_once(' ').unwrap_or((&text, ""));
    let number = |text: &str| u16::from_str_radix(text, 16).ok();
    let card = |text: &str| text.split_once(':').and_then(|(vendor, device)| Some((number(vendor)?, number(device)?)));
    (disks.parse().unwrap_or(u32::MAX), cards.split(',').filter_map(card).collect())
}

/// Starts `xl shutdown -w` or `xl reboot` of this domain, which must succeed in the end.
pub fn toolstack(verb: &str) {
    ask(&format!("xl {verb}"), &[]);
}

/// What dom0 got over this domain's serial port.
pub fn serial() -> Vec<u8> {
    ask("serial", &[]).1
}

impl World for Dom0 {
    fn attach_disk(&self, spec: &DiskSpec) {
        let DiskSpec { index, units, sector_size, .. } = spec;
        ask(&format!("attach {index} {units} {sector_size} {} phy", u8::from(spec.read_only)), &[]);
    }
    fn detach_disk(&self, index: u32) {
        ask(&format!("detach {index}"), &[]);
    }
    fn disk_gone(&self, index: u32) -> bool {
        ask(&format!("gone {index}"), &[]).0 == "1"
    }
    fn restart_backend(&self, _index: u32) {
        absent("way to restart a backend")
    }
    fn crash_backend(&self, _index: u32) {
        absent("way to kill a backend")
    }
    fn resize_disk(&self, index: u32, units: u64) {
        ask(&format!("resize {index} {units}"), &[]);
    }
    fn read_backing(&self, index: u32, unit: u64, buf: &mut [u8]) {
        for (n, piece) in buf.chunks_mut(mailbox::MOST_DATA).enumerate() {
            let first = unit + (n * mailbox::MOST_DATA / UNIT) as u64;
            let (_, data) = ask(&format!("read {index} {first} {}", piece.len() / UNIT), &[]);
            piece.copy_from_slice(&data);
        }
    }
    fn write_backing(&self, index: u32, unit: u64, buf: &[u8]) {
        for (n, piece) in buf.chunks(mailbox::MOST_DATA).enumerate() {
            ask(&format!("write {index} {}", unit + (n * mailbox::MOST_DATA / UNIT) as u64), piece);
        }
    }
    fn unflushed_units(&self, _index: u32) -> u64 {
        absent("view of what a power cut would lose")
    }
    fn disk_stats(&self, index: u32) -> DiskStats {
        let text = ask(&format!("stats {index}"), &[]).0;
        let mut figures = text.split(' ').map(|word| word.parse().unwrap_or(0));
        let mut next = || figures.next().unwrap_or(0);
        let tail = format!("-{}", vdev(index));
        let disk = nt::disk::disks().into_iter().find(|disk| disk.info().serial.ends_with(tail.as_str()));
        // blkback does not count what is in flight; Windows does.
        let deepest = disk.map_or(0, |disk| disk.counters.deepest.load(Ordering::Relaxed) as u64);
        // Xen tells what is mapped; of what is not, nobody but the guest itself knows whether it could be.
        let mapped = ask(&format!("disk-grants {index}"), &[]).0.parse().unwrap_or(0);
        DiskStats {
            grants_mapped: mapped,
            grants_permitted: mapped,
            reads: next(),
            writes: next(),
            flushes: next(),
            discards: next(),
            most_in_flight: deepest,
            ..DiskStats::default()
        }
    }
    // Linux's backend cannot be held; its cases keep the queue full instead.
    fn hold_responses(&self, _index: u32, _hold: bool) {}
    fn misbehave(&self, _index: u32, _how: Hostile, _times: u32) {
        absent("hostile backend")
    }
    fn misbehaved(&self, _index: u32, _how: Hostile) -> u64 {
        0
    }
    fn frontend_states(&self, _index: u32) -> Vec<u32> {
        absent("record of the frontend's states")
    }
    fn absurd_values(&self, _index: u32) -> Vec<(String, String)> {
        Vec::new()
    }
    fn suspend(&self, cancel: bool) {
        ask(&format!("suspend {}", u8::from(cancel)), &[]);
    }
    fn xen_stats(&self) -> XenStats {
        let text = ask("suspends", &[]).0;
        let (suspends, cancelled) = text.split_once(' ').unwrap_or_default();
        let (vector_upcalls, intx_upcalls) = trap::device_interrupts();
        XenStats {
            suspends: suspends.parse().unwrap_or(0),
            cancelled_suspends: cancelled.parse().unwrap_or(0),
            vector_upcalls,
            intx_upcalls,
            in_flight_at_suspend: suspend::in_flight().iter().sum(),
            ..XenStats::default()
        }
    }
    // Xen's and the backends' complaints are on Xen's console and in dom0's log, which the host reads.
    fn guest_errors(&self) -> Vec<String> {
        Vec::new()
    }
    fn fault_fired(&self) -> bool {
        false
    }
    fn store_write(&self, path: &str, value: &str) {
        ask(&format!("store-write {path} {value}"), &[]);
    }
    fn store_read(&self, path: &str) -> Option<String> {
        mailbox::ask(&format!("store-read {path}"), &[]).ok().map(|answer| answer.0)
    }
    fn store_remove(&self, path: &str) {
        ask(&format!("store-remove {path}"), &[]);
    }
    fn home(&self) -> String {
        ask("home", &[]).0
    }
    fn log(&self) -> Vec<String> {
        log::lines()
    }
    fn network(&self) -> Option<&dyn suites::network::Network> {
        Some(self)
    }
    fn sleep_ms(&self, ms: u64) {
        nt::ke::wait::sleep(-((ms * 10_000).max(1) as i64));
    }
}
