//! The suites' [`World`] on the process platform: dom0, toolstack and backends are those of `xen-model`.

use std::collections::BTreeSet;

use process::Ctx;
use suites::Failure;
use suites::case::Fault as PlannedFault;
use suites::network::Network;
use suites::world::{Backend, DiskSpec, DiskStats, Hostile, World, XenStats};
use xen_model::{DiscardOptions, Disk, DiskOptions, HostilePlan, JournalEntry, MemoryBacking, Xen};

/// `HYPERVISOR_memory_op` with `XENMEM_decrease_reservation`.
const DECREASE_RESERVATION: (u32, u64) = (12, 1);
/// Upcalls that a processor gets without any event of a device: Xen sends one whenever its vcpu_info is registered, at
/// the boot and after a suspend.
const UPCALLS_OF_REGISTRATION: u64 = 2;

/// See the module.
pub struct ModelWorld<'c> {
    pub(crate) ctx: &'c Ctx,
    fault: Option<PlannedFault>,
}

/// Nanoseconds for which a busy dom0 keeps blkback's thread from asking to be told of more: longer than a request takes.
const BUSY_NS: u64 = 100_000;

/// The virtual device number of a disk.
fn vdev(index: u32) -> u32 {
    suites::guest::vdev(index)
}

/// The model's disk of a suite's specification.
pub fn attach(xen: &mut Xen, spec: &DiskSpec) {
    let mut options = match spec.backend {
        Backend::Blkback => DiskOptions::new(vdev(spec.index)),
        Backend::BusyBlkback => DiskOptions { arm_ns: BUSY_NS, ..DiskOptions::new(vdev(spec.index)) },
        Backend::Qdisk => DiskOptions::qdisk(vdev(spec.index)),
    };
    options.read_only = spec.read_only;
    options.sector_size = spec.sector_size;
    options.physical_sector_size = Some(spec.physical_sector_size);
    options.cdrom = spec.cdrom;
    options.removable = spec.removable;
    options.max_ring_page_order = spec.max_ring_order;
    options.flush = spec.flush;
    if spec.backend != Backend::Qdisk {
        options.max_indirect_segments = (spec.max_indirect > 0).then_some(spec.max_indirect);
        options.barrier = spec.barrier;
    }
    options.omitted = spec.omitted.to_vec();
    options.discard = spec.discard.then_some(DiscardOptions { granularity: 512, alignment: 0, secure: false });
    xen.attach_disk(xen_model::DiskSpec { options, backing: Box::new(MemoryBacking::new(spec.units)) });
}

impl<'c> ModelWorld<'c> {
    /// The world of a run. `fault` is what was armed before the boot.
    pub fn new(ctx: &'c Ctx, fault: Option<PlannedFault>) -> Self {
        Self { ctx, fault }
    }

    /// Whether the guest behaved. What it does wrong to a backend that lied to it is not held against it.
    ///
    /// # Errors
    /// The first thing that it did wrong.
    pub fn judge_guest(&self) -> Result<(), Failure> {
        let lied = self.ctx.xen(|xen| {
            xen.disks().iter().any(|disk| !disk.hostile_fired().is_empty())
                || xen.vifs().iter().any(|vif| !vif.hostile_fired().is_empty())
        });
        let errors = if lied { Vec::new() } else { self.guest_errors() };
        match errors.first() {
            None => Ok(()),
            Some(first) => Err(Failure(format!("the guest did {} things wrong, first {first}", errors.len()))),
        }
    }

    fn disk<T>(&self, index: u32, look: impl FnOnce(&mut Disk) -> T) -> Option<T> {
        self.ctx.xen(|xen| xen.disk_mut(vdev(index)).map(look))
    }
}

impl World for ModelWorld<'_> {
    fn attach_disk(&self, spec: &DiskSpec) {
        self.ctx.xen(|xen| attach(xen, spec));
    }

    fn detach_disk(&self, index: u32) {
        self.ctx.xen(|xen| xen.detach_disk(vdev(index)));
    }

    fn disk_gone(&self, index: u32) -> bool {
        self.disk(index, |disk| !disk.is_attached()).unwrap_or(true)
    }

    fn restart_backend(&self, index: u32) {
        self.ctx.xen(|xen| xen.restart_backend(vdev(index), false));
    }

    fn crash_backend(&self, index: u32) {
        self.ctx.xen(|xen| xen.restart_backend(vdev(index), true));
    }

    fn resize_disk(&self, index: u32, units: u64) {
        self.ctx.xen(|xen| xen.resize_disk(vdev(index), units)).expect("the model resizes its disks");
    }

    fn read_backing(&self, index: u32, unit: u64, buf: &mut [u8]) {
        let read = self.disk(index, |disk| disk.backing().read(unit, buf));
        read.expect("the disk is there").expect("the backing reads");
    }

    fn write_backing(&self, index: u32, unit: u64, buf: &[u8]) {
        let written = self.disk(index, |disk| disk.backing().write(unit, buf));
        written.expect("the disk is there").expect("the backing writes");
    }

    fn unflushed_units(&self, index: u32) -> u64 {
        let units = self.disk(index, |disk| {
            let since = disk.journal().entries().iter().rev().take_while(|entry| **entry != JournalEntry::Flush);
            since.map(|entry| if let JournalEntry::Write { count, .. } = entry { u64::from(*count) } else { 0 }).sum()
        });
        units.unwrap_or(0)
    }

    fn disk_stats(&self, index: u32) -> DiskStats {
        let granted: Vec<u32> = self.ctx.xen(|xen| xen.granted().iter().map(|grant| grant.reference).collect());
        let stats = self.disk(index, |disk| {
            let stats = disk.stats();
            DiskStats {
                reads: stats.reads,
                writes: stats.writes,
                flushes: stats.flushes + stats.barriers,
                discards: stats.discards,
                in_flight: disk.in_flight() as u64,
                errors: stats.errors,
                most_in_flight: stats.max_in_flight as u64,
                most_segments: stats.max_segments as u64,
                connections: stats.connects,
                found: stats.found,
                grants_mapped: disk.mapped_grants(),
                grants_permitted: granted.iter().filter(|reference| disk.references().contains(reference)).count()
                    as u64,
            }
        });
        stats.unwrap_or_default()
    }

    fn hold_responses(&self, index: u32, hold: bool) {
        self.disk(index, |disk| disk.hold(hold));
    }

    fn misbehave(&self, index: u32, how: Hostile, times: u32) {
        let plan = HostilePlan { kind: how, after: 0, times };
        self.ctx.xen(|xen| xen.inject_hostile(vdev(index), plan)).expect("the disk is there");
    }

    fn misbehaved(&self, index: u32, how: Hostile) -> u64 {
        self.disk(index, |disk| disk.hostile_fired().get(&how).copied().unwrap_or(0)).unwrap_or(0)
    }

    fn frontend_states(&self, index: u32) -> Vec<u32> {
        self.disk(index, |disk| disk.frontend_states().to_vec()).unwrap_or_default()
    }

    fn absurd_values(&self, index: u32) -> Vec<(String, String)> {
        let own = |(key, value): &(&str, String)| ((*key).to_owned(), value.clone());
        self.disk(index, |disk| disk.absurd_values().iter().map(own).collect()).unwrap_or_default()
    }

    fn suspend(&self, cancel: bool) {
        self.ctx.xen(|xen| xen.suspend(cancel));
    }

    fn xen_stats(&self) -> XenStats {
        self.ctx.xen(|xen| {
            let counters = xen.counters();
            let upcalls = |line: bool| {
                counters.upcalls.iter().filter(|((_, vector), _)| (*vector == 0) == line).map(|(_, n)| n).sum()
            };
            XenStats {
                hypercalls: counters.hypercalls.values().sum(),
                sends: counters.guest_sends,
                vector_upcalls: upcalls(false),
                intx_upcalls: upcalls(true),
                vcpus_with_upcalls: counters
                    .upcalls
                    .iter()
                    .filter(|((_, vector), count)| *vector != 0 && **count > UPCALLS_OF_REGISTRATION)
                    .map(|((vcpu, _), _)| vcpu)
                    .collect::<BTreeSet<_>>()
                    .len() as u64,
                high_vcpu_upcalls: counters.upcalls.iter().filter(|((vcpu, _), _)| *vcpu >= 32).map(|(_, n)| n).sum(),
                ballooned: counters.hypercalls.get(&DECREASE_RESERVATION).copied().unwrap_or(0),
                suspends: counters.suspends,
                cancelled_suspends: counters.suspends_cancelled,
                in_flight_at_suspend: counters.in_flight_at_suspend,
                grants_mapped: xen.mapped_grants() as u64,
            }
        })
    }

    fn guest_errors(&self) -> Vec<String> {
        self.ctx.xen(|xen| xen.guest_errors().iter().map(ToString::to_string).collect())
    }

    fn fault_fired(&self) -> bool {
        match self.fault {
            Some(PlannedFault::Allocation(_)) => nt::ex::fault::failed(),
            Some(PlannedFault::Hypercall(_) | PlannedFault::HypercallLasting(_) | PlannedFault::Operation(..)) => {
                self.ctx.xen(|xen| xen.counters().injected_failures > 0)
            }
            None => false,
        }
    }

    fn store_write(&self, path: &str, value: &str) {
        self.ctx.xen(|xen| xen.store().write(path, value));
    }

    fn store_read(&self, path: &str) -> Option<String> {
        self.ctx.xen(|xen| xen.store().read(path)).map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    fn store_remove(&self, path: &str) {
        self.ctx.xen(|xen| xen.store().remove(path));
    }

    fn home(&self) -> String {
        format!("/local/domain/{}", self.ctx.xen(|xen| xen.domid()))
    }

    fn log(&self) -> Vec<String> {
        self.ctx.log()
    }

    fn network(&self) -> Option<&dyn Network> {
        Some(self)
    }

    fn sleep_ms(&self, ms: u64) {
        self.ctx.sleep_ms(ms);
    }
}
