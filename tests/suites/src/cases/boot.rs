//! The machine as it may be: with and without Xen, viridian, FIFO event channels, vectors; registry values of every kind.

use alloc::vec;
use alloc::vec::Vec;

use crate::case::{Case, Ctx, Failure, RegistryValue, Setup};
use crate::cases::load::{Load, Shape};
use crate::check;
use crate::guest::Disk;
use crate::world::DiskSpec;

const PARAMETERS: &str = r"xenpci\Parameters";

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
    let named = |line: &&alloc::string::String| line.contains("device/vbd/51728") && line.contains("sectors");
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
