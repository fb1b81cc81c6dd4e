//! The machine as it may be: with and without Xen, viridian, FIFO event channels, vectors; registry values of every kind.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use nt::pnp::{self, State, control};
use nt::status::STATUS_SUCCESS;

use crate::case::{Case, Ctx, Failure, Fault, RegistryValue, Setup};
use crate::cases::load::{Load, Shape};
use crate::check;
use crate::guest::Disk;
use crate::world::DiskSpec;

const PARAMETERS: &str = r"Services\xenpci\Parameters";

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "boot/vectors-fifo",
        summary: "FIFO event channels by per-vCPU vectors",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup { vcpus: 4, ..Setup::one_disk(4) },
        run: |ctx| delivery(ctx, true),
    },
    Case {
        name: "boot/vectors-two-level",
        summary: "2-level event channels by per-vCPU vectors",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup { vcpus: 4, fifo: false, ..Setup::one_disk(4) },
        run: |ctx| delivery(ctx, true),
    },
    Case {
        name: "boot/line-fifo",
        summary: "FIFO event channels by the PCI interrupt",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup { vectors: false, ..Setup::one_disk(4) },
        run: |ctx| delivery(ctx, false),
    },
    Case {
        name: "boot/line-two-level",
        summary: "2-level event channels by the PCI interrupt",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup { vectors: false, fifo: false, ..Setup::one_disk(4) },
        run: |ctx| delivery(ctx, false),
    },
    Case {
        name: "boot/registry-switches",
        summary: "UseVectors = 0 and UseFifo = 0 are obeyed",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup {
            registry: vec![
                (PARAMETERS, "UseVectors", RegistryValue::Dword(0)),
                (PARAMETERS, "UseFifo", RegistryValue::Dword(0)),
            ],
            ..Setup::one_disk(4)
        },
        run: |ctx| delivery(ctx, false),
    },
    Case {
        name: "boot/viridian",
        summary: "Xen's CPUID leaves behind Hyper-V's",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup { viridian: true, ..Setup::one_disk(4) },
        run: |ctx| delivery(ctx, true),
    },
    Case {
        name: "boot/no-xen",
        summary: "Not on Xen: no hypercall, one clear line, no disk, Windows goes on",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup { xen: false, ..Setup::one_disk(4) },
        run: no_xen,
    },
    Case {
        name: "boot/registry-wrong",
        summary: "Registry values of the wrong type and out of range: logged by name, defaults used",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup {
            registry: vec![
                (PARAMETERS, "UseVectors", RegistryValue::Text("yes")),
                (PARAMETERS, "UseFifo", RegistryValue::Dword(77)),
                (PARAMETERS, "LogLevel", RegistryValue::Binary(&[1, 2, 3])),
            ],
            ..Setup::one_disk(4)
        },
        run: registry_wrong,
    },
    Case {
        name: "boot/many-vcpus",
        summary: "12 processors: the upcalls of several disks go to several of them",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup {
            vcpus: 12,
            disks: (0..6).map(|index| DiskSpec::new(index, 2)).collect(),
            stepping: false,
            ..Setup::default()
        },
        run: many_vcpus,
    },
    Case {
        name: "boot/vcpus-beyond-shared-info",
        summary: "40 processors: those for whom shared info has no place register one of their own and get upcalls",
        quick: false,
        timeout_s: 120,
        setup: |_| Setup { vcpus: 40, stepping: false, ..Setup::one_disk(4) },
        run: high_vcpus,
    },
    Case {
        name: "boot/bar",
        summary: "UseBar = 1: Xen's frames over the memory BAR, no page is ballooned; suspend and resume, too",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup {
            registry: vec![(PARAMETERS, "UseBar", RegistryValue::Dword(1))],
            grant_frames: 16,
            ..Setup::one_disk(4)
        },
        run: bar,
    },
    Case {
        name: "boot/bar-fallback",
        summary: "Xen takes no page back: the memory BAR is used, with one line about it",
        quick: true,
        timeout_s: 60,
        // XENMEM_decrease_reservation.
        setup: |_| Setup { fault: Some(Fault::Operation(12, 1)), ..Setup::one_disk(4) },
        run: bar_fallback,
    },
    Case {
        name: "boot/rebalance",
        summary: "The platform device is stopped and started under load, with its children: nothing is lost",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup { vcpus: 4, ..Setup::one_disk(4) },
        run: rebalance,
    },
    Case {
        name: "boot/paging-file",
        summary: "A disk with a paging file on it: neither it nor the bus below stops or goes; a dump file is refused",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(4),
        run: paging_file,
    },
    Case {
        name: "boot/grants-grow",
        summary: "The grant table grows past its first frame and stops at Xen's limit",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup {
            disks: (0..4).map(|index| DiskSpec::new(index, 4)).collect(),
            grant_frames: 16,
            stepping: false,
            ..Setup::default()
        },
        run: grants_grow,
    },
    Case {
        name: "boot/keys-missing",
        summary: "A disk whose backend directory lacks the size: refused with a line, the others work",
        quick: true,
        timeout_s: 60,
        setup: |_| Setup::one_disk(4),
        run: keys_missing,
    },
];

fn delivery(ctx: &mut Ctx<'_>, by_vector: bool) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape::default());
    load.run(ctx, 200)?;
    load.verify_all(ctx)?;
    let stats = ctx.world.xen_stats();
    ctx.set("upcalls by vector", stats.vector_upcalls);
    ctx.set("upcalls by line", stats.intx_upcalls);
    if by_vector {
        check!(stats.intx_upcalls == 0, "{} upcalls came by the PCI interrupt", stats.intx_upcalls);
    } else {
        check!(stats.vector_upcalls == 0, "{} upcalls came by vector", stats.vector_upcalls);
    }
    ctx.want(if by_vector { "upcalls by vector" } else { "upcalls by line" }, 5);
    ctx.want("requests verified", 200);
    Ok(())
}

fn no_xen(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    check!(!Disk::present(0), "there is a disk without a Xen");
    let stats = ctx.world.xen_stats();
    check!(stats.hypercalls == 0, "{} hypercalls without a Xen", stats.hypercalls);
    let lines: Vec<_> = ctx.world.log().into_iter().filter(|line| line.contains("Xen")).collect();
    check!(lines.len() == 1, "one line about the missing Xen is due, there are {}: {lines:?}", lines.len());
    ctx.count("clear lines", 1);
    ctx.want("clear lines", 1);
    Ok(())
}

fn registry_wrong(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    for name in ["UseVectors", "UseFifo", "LogLevel"] {
        check!(ctx.world.log().iter().any(|line| line.contains(name)), "the log does not name {name}");
        ctx.count("values named", 1);
    }
    delivery(ctx, true)
}

fn grants_grow(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut loads = Vec::new();
    for index in 0..4 {
        loads.push(Load::new(Disk::find(ctx, index)?, Shape { depth: 48, largest: 512 << 10, ..Shape::default() }));
    }
    for _ in 0..10 {
        for load in &mut loads {
            load.fill_queue(ctx);
        }
        for load in &mut loads {
            load.run(ctx, 20)?;
        }
    }
    for load in &mut loads {
        load.verify_all(ctx)?;
    }
    ctx.want("requests verified", 800);
    Ok(())
}

fn keys_missing(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let started = ctx.world.log().len();
    ctx.world.attach_disk(&DiskSpec { omitted: &["sectors"], ..DiskSpec::new(1, 4) });
    ctx.world.sleep_ms(10_000);
    check!(!Disk::present(1), "a disk without a size was connected");
    let log = ctx.world.log();
    let lines = &log[started.min(log.len())..];
    ctx.set("lines since", lines.len() as u64);
    let named = |line: &&alloc::string::String| line.contains("device/vbd/51792") && line.contains("sectors");
    ctx.set("lines that name device and key", lines.iter().filter(named).count() as u64);
    ctx.want("lines that name device and key", 1);
    check!(lines.len() < 64, "{} lines about a disk that cannot be connected: it is tried for ever", lines.len());
    // `sector-size` has a default: its absence refuses nothing.
    ctx.world.attach_disk(&DiskSpec { omitted: &["sector-size"], ..DiskSpec::new(2, 4) });
    check!(Disk::find(ctx, 2)?.sector_size() == 512, "the default of a missing sector-size is 512");
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape::default());
    load.run(ctx, 100)?;
    load.verify_all(ctx)?;
    ctx.want("requests verified", 100);
    Ok(())
}

fn many_vcpus(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut loads = Vec::new();
    for index in 0..6 {
        loads.push(Load::new(Disk::find(ctx, index)?, Shape { largest: 32 << 10, ..Shape::default() }));
    }
    for _ in 0..4 {
        for load in &mut loads {
            load.fill_queue(ctx);
        }
        for load in &mut loads {
            load.run(ctx, 20)?;
        }
    }
    for load in &mut loads {
        load.verify_all(ctx)?;
    }
    ctx.set("processors with upcalls", ctx.world.xen_stats().vcpus_with_upcalls);
    ctx.want("processors with upcalls", 6);
    ctx.want("requests verified", 400);
    Ok(())
}

fn high_vcpus(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape::default());
    load.run(ctx, 50)?;
    // Each disk that comes has its channel on the next processor.
    for round in 0..40 {
        ctx.world.attach_disk(&DiskSpec::new(1, 2));
        let mut other = Load::new(Disk::find(ctx, 1)?, Shape { largest: 16 << 10, depth: 4, ..Shape::default() });
        other.run(ctx, 6)?;
        other.drain(ctx)?;
        drop(other);
        if round == 20 {
            // A new domain wants each registered again.
            suspend_once(ctx)?;
        }
        ctx.world.detach_disk(1);
        let mut waited = 0;
        while !ctx.world.disk_gone(1) || Disk::present(1) {
            check!(waited < 30_000, "round {round}: {waited} ms after the detach the disk is still there");
            ctx.world.sleep_ms(10);
            waited += 10;
        }
    }
    load.verify_all(ctx)?;
    let stats = ctx.world.xen_stats();
    ctx.set("processors with upcalls", stats.vcpus_with_upcalls);
    ctx.set("upcalls beyond shared info", stats.high_vcpu_upcalls);
    ctx.want("processors with upcalls", 38);
    ctx.want("upcalls beyond shared info", 20);
    Ok(())
}

fn suspend_once(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let before = ctx.world.xen_stats().suspends;
    ctx.world.suspend(false);
    let mut waited = 0;
    while ctx.world.xen_stats().suspends == before {
        check!(waited < 60_000, "{waited} ms after the request the guest has not suspended");
        ctx.world.sleep_ms(10);
        waited += 10;
    }
    ctx.count("suspends", 1);
    Ok(())
}

fn bar(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape { depth: 48, largest: 256 << 10, ..Shape::default() });
    load.run(ctx, 60)?;
    load.fill_queue(ctx);
    suspend_once(ctx)?;
    load.run(ctx, 60)?;
    load.verify_all(ctx)?;
    let ballooned = ctx.world.xen_stats().ballooned;
    check!(ballooned == 0, "{ballooned} pages were ballooned although the memory BAR is asked for");
    ctx.want("suspends", 1);
    ctx.want("requests verified", 100);
    Ok(())
}

fn bar_fallback(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape { depth: 48, largest: 256 << 10, ..Shape::default() });
    load.run(ctx, 60)?;
    load.fill_queue(ctx);
    suspend_once(ctx)?;
    load.run(ctx, 60)?;
    load.verify_all(ctx)?;
    let log = ctx.world.log();
    let lines = log.iter().filter(|line| line.contains("the memory BAR is used")).count();
    check!(lines == 1, "{lines} lines say that the memory BAR is used");
    ctx.set("fault fired", u64::from(ctx.world.fault_fired()));
    ctx.want("fault fired", 1);
    ctx.want("requests verified", 100);
    Ok(())
}

/// The node of the platform device.
fn bus() -> Result<pnp::NodeInfo, Failure> {
    let bus = pnp::tree().into_iter().find(|node| node.instance.starts_with(r"PCI\VEN_5853"));
    bus.ok_or_else(|| "the platform device is gone from the tree".into())
}

/// The node of the first disk's PDO.
fn adapter() -> Result<pnp::NodeInfo, Failure> {
    let bus = bus()?.id;
    let adapter = pnp::tree().into_iter().find(|node| node.parent == Some(bus));
    adapter.ok_or_else(|| "the bus has no child".into())
}

fn rebalance(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape::default());
    for _ in 0..5 {
        load.run(ctx, 30)?;
        load.fill_queue(ctx);
        let before = ctx.world.xen_stats().vector_upcalls;
        let bus = bus()?.id;
        check!(control::rebalance(bus), "the platform device did not survive a rebalance");
        check!(
            pnp::tree().iter().any(|node| node.id == bus && node.state == State::Started),
            "the platform device is not started after a rebalance"
        );
        load.run(ctx, 30)?;
        ctx.count("upcalls after a rebalance", ctx.world.xen_stats().vector_upcalls - before);
        ctx.count("rebalances", 1);
    }
    load.verify_all(ctx)?;
    ctx.want("rebalances", 5);
    ctx.want("upcalls after a rebalance", 20);
    Ok(())
}

fn paging_file(ctx: &mut Ctx<'_>) -> Result<(), Failure> {
    /// `DeviceUsageTypePaging` and `DeviceUsageTypeDumpFile`.
    const PAGING: i32 = 1;
    const DUMP: i32 = 3;
    let mut load = Load::new(Disk::find(ctx, 0)?, Shape::default());
    load.run(ctx, 20)?;
    let (bus, adapter) = (bus()?.id, adapter()?.id);
    let dump = control::set_usage(adapter, DUMP, true);
    check!(dump.is_err(), "a dump file is accepted, though no dump could be written");
    control::set_usage(adapter, PAGING, true).map_err(|status| format!("a paging file is refused: {status:#x}"))?;
    for (what, id) in [("the disk", adapter), ("the bus", bus)] {
        check!(control::remove(id).is_err(), "{what} goes with a paging file on the disk");
        // Interrupts that are connected again show that it was stopped.
        let connected = |ctx: &Ctx<'_>| ctx.world.log().iter().filter(|line| line.contains("upcalls by")).count();
        let before = connected(ctx);
        check!(control::rebalance(id), "{what} did not survive a refused stop");
        check!(connected(ctx) == before, "{what} was stopped with a paging file on the disk");
        ctx.count("refusals", 1);
    }
    load.run(ctx, 20)?;
    load.verify_all(ctx)?;
    drop(load);
    let status = control::set_usage(adapter, PAGING, false).err().unwrap_or(STATUS_SUCCESS);
    check!(status == STATUS_SUCCESS, "the paging file cannot be taken off: {status:#x}");
    check!(control::remove(adapter).is_ok(), "the disk does not go without a paging file");
    check!(control::remove(bus).is_ok(), "the bus does not go without a paging file");
    ctx.want("refusals", 2);
    Ok(())
}
