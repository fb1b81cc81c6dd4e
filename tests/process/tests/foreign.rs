//! Drivers that were not written for the bench: those of `tests/foreign`, in C, installed from their INFs.

mod common;

use common::{in_child, in_child_as, run};
use nt::disk::{Disk, Operation};
use nt::io::file;
use nt::pnp::{self, State};
use process::{BenchConfig, Ctx, Outcome};
use std::path::PathBuf;
use std::sync::Arc;

const FOREIGN_RUN: u32 = 0x8000_2000;
const FOREIGN_PLUG: u32 = 0x8000_2004;
const FOREIGN_UNPLUG: u32 = 0x8000_2008;
const FOREIGN_EJECT: u32 = 0x8000_200c;
const FOREIGN_BREAK: u32 = 0x8000_2018;

/// The folder of the foreign drivers' packages; says so and gives `None` where they were not built.
fn packages() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/foreign/x64");
    if folder.join("fbus/fbus.sys").is_file() {
        return Some(folder);
    }
    println!("skipped: the drivers of tests/foreign were not built");
    None
}

fn boot(name: &str, body: impl FnOnce(&Ctx)) {
    let Some(drivers) = packages() else { return };
    in_child(name, || {
        let verbose = std::env::var_os("PROCESS_TEST_VERBOSE").is_some();
        let seed = std::env::var("PROCESS_TEST_SEED").map_or(1, |text| text.parse().expect("a number"));
        let vcpus = 1 + (seed % 4) as u32;
        let outcome = run(BenchConfig { drivers, verbose, seed, vcpus, ..BenchConfig::default() }, |ctx| {
            let packages = ctx.packages().expect("the folder is readable");
            pnp::boot::boot(pnp::boot::BootConfig { packages, ..Default::default() }).expect("a boot");
            body(ctx);
        });
        if let Outcome::Stopped(stop) = outcome {
            panic!("{}", stop.report);
        }
    });
}

/// A device by the name of its service: is there exactly `count` of them at work?
fn started(service: &str) -> Vec<pnp::NodeInfo> {
    let all = pnp::tree().into_iter().filter(|n| n.service.as_deref() == Some(service));
    all.filter(|n| n.state == State::Started).collect()
}

/// Opens a device by name, as a client of it does.
fn control(path: &str, code: u32, input: &[u8], output: &mut [u8]) -> (i32, usize) {
    // SAFETY: a system thread at PASSIVE_LEVEL; the file is released at the end.
    unsafe {
        let opened = file::open(path, 0x12_0089, 3).unwrap_or_else(|status| panic!("{path}: {status:#x}"));
        let done = nt::io::request::control((*opened).device, code, input, output, false);
        nt::ob::ObfDereferenceObject(opened.cast());
        done
    }
}

/// Has a driver run its checks.
fn checks(ctx: &Ctx, path: &str) -> u32 {
    let mut result = [0; 12];
    let (status, length) = control(path, FOREIGN_RUN, &[], &mut result);
    assert_eq!((status, length), (0, 12), "{path}: {:#?}", ctx.log());
    let field = |n: usize| u32::from_le_bytes(result[4 * n..4 * n + 4].try_into().expect("four bytes"));
    assert_eq!(field(1), 0, "{path}: first failure in line {}: {:#?}", field(2), ctx.log());
    println!("{path}: {} checks", field(0));
    field(0)
}

#[test]
fn a_driver_with_an_export_library() {
    boot("a_driver_with_an_export_library", |ctx| {
        assert_eq!(started("fnull").len(), 1, "{:#?}", ctx.log());
        assert!(checks(ctx, r"\DosDevices\ForeignNull") >= 15);
        assert!(checks(ctx, r"\??\ForeignNull") >= 15);
    });
}

#[test]
fn the_kernel_services_of_simple_drivers() {
    boot("the_kernel_services_of_simple_drivers", |ctx| {
        assert_eq!(started("fkern").len(), 1, "{:#?}", ctx.log());
        assert!(checks(ctx, r"\Device\ForeignKern") >= 38);
        // WMI has asked for the driver's blocks by now, and forgets them with the device.
        let blocks: Vec<(u32, u32)> = nt::wmi::blocks().into_iter().map(|(guid, n)| (guid.data1, n)).collect();
        assert_eq!(blocks, [(0x4a3c_1d7e, 2)]);
        pnp::control::remove(started("fkern")[0].id).expect("a device that may be removed");
        assert_eq!(nt::wmi::blocks().len(), 0);
        assert!(!nt::io::driver::loaded().iter().any(|name| name == "fkern"), "{:#?}", ctx.log());
    });
}

#[test]
fn pageable_memory_below_dispatch_level() {
    boot("pageable_memory_below_dispatch_level", |ctx| {
        assert!(checks(ctx, r"\Device\ForeignPaged") >= 15);
    });
}

#[test]
fn pageable_memory_at_dispatch_level_ends_the_run() {
    let Some(drivers) = packages() else { return };
    // What was done, and where the report says that it was: a function of the driver's, or its call of an export.
    let ways = ["read", "written", "executed", "read", "read", "read", "read"];
    for (how, done) in ways.iter().enumerate() {
        in_child_as("pageable_memory_at_dispatch_level_ends_the_run", &how.to_string(), || {
            let outcome = run(BenchConfig { drivers: drivers.clone(), ..BenchConfig::default() }, |ctx| {
                let packages = ctx.packages().expect("the folder is readable");
                pnp::boot::boot(pnp::boot::BootConfig { packages, ..Default::default() }).expect("a boot");
                control(r"\Device\ForeignPaged", FOREIGN_BREAK, &(how as u32).to_le_bytes(), &mut []);
            });
            let Outcome::Stopped(stop) = outcome else { panic!("way {how} was not noticed") };
            let report = &stop.report;
            assert!(report.contains("paged memory touched at IRQL 2"), "{report}");
            assert!(report.contains(&format!("{done} at fpaged.sys+0x")), "{report}");
            // DRIVER_IRQL_NOT_LESS_OR_EQUAL: what, at which IRQL, how.
            let access = [("read", 0), ("written", 1), ("executed", 8)].iter().find(|(name, _)| name == done);
            assert_eq!((stop.code, stop.parameters[1]), (0xd1, 2));
            assert_eq!(Some(stop.parameters[2]), access.map(|&(_, number)| number));
        });
    }
}

#[test]
fn exceptions_are_handled_as_windows_does() {
    boot("exceptions_are_handled_as_windows_does", |ctx| {
        assert!(checks(ctx, r"\Device\ForeignSeh") >= 15);
    });
}

/// The device interfaces of the function devices.
fn functions() -> Vec<String> {
    let mut names: Vec<String> = nt::ob::namespace::list().into_iter().map(|(name, _)| name).collect();
    names.retain(|name| name.to_ascii_lowercase().contains("6b0c4f9e-3d52-4c0a-9a7e-51f2a6f0b102"));
    names.sort();
    names
}

#[test]
fn a_bus_and_its_function_devices() {
    boot("a_bus_and_its_function_devices", |ctx| {
        assert_eq!(started("fbus").len(), 1, "{:#?}", ctx.log());
        assert_eq!(started("ffunc").len(), 3, "{:#?}", ctx.log());
        let links = functions();
        assert_eq!(links.len(), 3, "{links:?}");
        for link in &links {
            assert!(checks(ctx, link) >= 60);
        }
        let bus = r"\Device\ForeignBus";
        for number in 10..20_u32 {
            assert_eq!(control(bus, FOREIGN_PLUG, &number.to_le_bytes(), &mut []).0, 0);
        }
        pnp::settle();
        assert_eq!(started("ffunc").len(), 13, "{:#?}", ctx.log());
        for number in 10..15_u32 {
            assert_eq!(control(bus, FOREIGN_UNPLUG, &number.to_le_bytes(), &mut []).0, 0);
        }
        pnp::settle();
        assert_eq!(started("ffunc").len(), 8, "{:#?}", ctx.log());
        assert_eq!(control(bus, FOREIGN_EJECT, &15_u32.to_le_bytes(), &mut []).0, 0);
        pnp::settle();
        assert_eq!(started("ffunc").len(), 7, "{:#?}", ctx.log());

        // One is disabled and enabled, one has its resources taken and given back.
        let nodes = started("ffunc");
        pnp::control::disable(nodes[0].id).expect("a device that may be disabled");
        assert_eq!(started("ffunc").len(), 6);
        pnp::control::enable(nodes[0].id).expect("a device that may be enabled");
        assert!(pnp::control::rebalance(nodes[1].id));
        assert_eq!(started("ffunc").len(), 7);

        // The bus takes all of them along.
        let bus = started("fbus")[0].id;
        pnp::control::remove(bus).expect("a bus that may be removed");
        assert_eq!(started("ffunc").len(), 0, "{:#?}", ctx.log());
        assert_eq!(functions().len(), 0);
        // A driver whose last device is gone is unloaded.
        assert!(!nt::io::driver::loaded().iter().any(|name| name == "ffunc"));
        pnp::control::enable(bus).expect("a bus that may come back");
        pnp::settle();
        assert!(started("ffunc").len() >= 3, "{:#?}", ctx.log());
    });
}

fn disk(ctx: &Ctx) -> Arc<Disk> {
    let found = nt::disk::disks().into_iter().find(|disk| disk.info().serial.contains("FOREIGN1"));
    found.unwrap_or_else(|| panic!("no RAM disk: {:#?}", ctx.log()))
}

#[test]
fn a_storport_miniport_over_memory() {
    boot("a_storport_miniport_over_memory", |ctx| {
        assert_eq!(started("framdisk").len(), 1, "{:#?}", ctx.log());
        let disk = disk(ctx);
        assert_eq!(disk.info().bytes(), 8 << 20);
        let data: Vec<u8> = (0..1 << 20_u32).map(|n| ((n * 31) >> 5) as u8).collect();
        assert!(disk.write(512, &data).good);
        let mut back = vec![0; data.len()];
        assert!(disk.read(512, &mut back).good);
        assert!(back == data, "what was read is not what was written");

        // Many at once; the driver refuses some as busy and delays others.
        let tickets: Vec<_> = (0..200_u64)
            .map(|n| {
                let buffer = nt::disk::Buffer::of(&vec![n as u8; 4096], 4 * (n as usize % 64)).expect("memory");
                let operation = Operation::Write { offset: (2 << 20) + n * 4096, fua: false };
                disk.start(operation, Some(buffer)).expect("memory")
            })
            .collect();
        for (n, ticket) in tickets.into_iter().enumerate() {
            let (outcome, _) = ticket.wait();
            assert!(outcome.good, "write {n}: {outcome:?}");
        }
        let mut back = vec![0; 200 * 4096];
        assert!(disk.read(2 << 20, &mut back).good);
        assert!(back.chunks(4096).enumerate().all(|(n, page)| page.iter().all(|b| *b == n as u8)));

        // Beyond the end there is nothing.
        assert!(!disk.read((8 << 20) - 512, &mut [0; 1024]).good);
        assert!(disk.flush().good);

        let adapter = started("framdisk")[0].id;
        pnp::control::remove(adapter).expect("an adapter that may be removed");
        assert!(ctx.log().iter().any(|line| line.contains("ffilter") && line.contains("requests passed")));
        pnp::control::enable(adapter).expect("an adapter that may come back");
        pnp::settle();
        assert!(self::disk(ctx).read(0, &mut [0; 512]).good);
    });
}

#[test]
fn a_filter_of_a_class_is_on_every_adapter() {
    boot("a_filter_of_a_class_is_on_every_adapter", |ctx| {
        let adapter = &started("framdisk")[0];
        let place = |name: &str| adapter.stack.iter().position(|driver| driver == name);
        assert!(place("ffilter").is_some() && place("framdisk").is_some(), "{:?}", adapter.stack);
        assert!(ctx.log().iter().any(|line| line.contains("ffilter: the adapter has 1 units")), "{:#?}", ctx.log());
    });
}

#[test]
fn a_function_driver_of_a_pci_device() {
    boot("a_function_driver_of_a_pci_device", |ctx| {
        assert_eq!(started("fpci").len(), 1, "{:#?}", ctx.log());
        assert!(checks(ctx, r"\Device\ForeignPci") >= 20);
        assert!(pnp::control::rebalance(started("fpci")[0].id));
        assert!(checks(ctx, r"\Device\ForeignPci") >= 20);
        pnp::control::remove(started("fpci")[0].id).expect("a device that may be removed");
    });
}
