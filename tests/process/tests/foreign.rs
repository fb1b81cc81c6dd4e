//! Drivers that were not written for the bench: those of `tests/foreign`, in C, installed from their INFs.

mod common;

use common::{in_child_as, run};
use nt::disk::{Disk, Operation, Raw};
use nt::io::file;
use nt::pnp::{self, State};
use process::{BenchConfig, Ctx, Outcome};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

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
    boot_with(name, None, body);
}

/// As [`boot`], on a machine with the test adapter of that PCI device id, if one is given.
fn boot_with(name: &str, adapter: Option<u16>, body: impl FnOnce(&Ctx)) {
    let Some(drivers) = packages() else { return };
    let part = adapter.map_or(String::new(), |id| format!("{id:x}"));
    in_child_as(name, &part, || {
        let verbose = std::env::var_os("PROCESS_TEST_VERBOSE").is_some();
        let seed = std::env::var("PROCESS_TEST_SEED").map_or(1, |text| text.parse().expect("a number"));
        let vcpus = 1 + (seed % 4) as u32;
        let outcome = run(
            BenchConfig { drivers, verbose, seed, vcpus, adapter, most_steps: 50_000_000, ..BenchConfig::default() },
            |ctx| {
                let packages = ctx.packages().expect("the folder is readable");
                pnp::boot::boot(pnp::boot::BootConfig { packages, ..Default::default() }).expect("a boot");
                body(ctx);
            },
        );
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
        let own = |&(guid, _): &(nt::rtl::abi::Guid, u32)| guid.data1 == 0x4a3c_1d7e;
        let blocks: Vec<u32> = nt::wmi::blocks().into_iter().filter(own).map(|(_, instances)| instances).collect();
        assert_eq!(blocks, [2]);
        pnp::control::remove(started("fkern")[0].id).expect("a device that may be removed");
        assert!(!nt::wmi::blocks().iter().any(own));
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

#[test]
fn an_exception_that_nobody_takes_and_a_rule_that_is_broken_end_the_run() {
    let Some(drivers) = packages() else { return };
    let ways = [(0x7e, "at fseh.sys+0x"), (0xc4, "KeDelayExecutionThread at IRQL 2, allowed up to 1")];
    for (how, (code, said)) in ways.into_iter().enumerate() {
        in_child_as("an_exception_that_nobody_takes_and_a_rule_that_is_broken_end_the_run", &how.to_string(), || {
            let outcome = run(BenchConfig { drivers: drivers.clone(), ..BenchConfig::default() }, |ctx| {
                let packages = ctx.packages().expect("the folder is readable");
                pnp::boot::boot(pnp::boot::BootConfig { packages, ..Default::default() }).expect("a boot");
                control(r"\Device\ForeignSeh", FOREIGN_BREAK, &(how as u32).to_le_bytes(), &mut []);
            });
            let Outcome::Stopped(stop) = outcome else { panic!("way {how} was not noticed") };
            assert_eq!(stop.code, code, "{}", stop.report);
            assert!(stop.report.contains(said), "{}", stop.report);
            // Four functions called each other.
            assert!(stop.report.matches("stack: fseh.sys+0x").count() >= 4, "{}", stop.report);
        });
    }
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
fn a_storport_miniport_that_breaks_a_rule_ends_the_run() {
    let Some(drivers) = packages() else { return };
    let rules = [
        "an SRB extension was overrun",
        "an SRB extension was written to after its request was complete",
        "a request was completed that the miniport does not have",
    ];
    for (way, rule) in rules.iter().enumerate() {
        in_child_as("a_storport_miniport_that_breaks_a_rule_ends_the_run", &way.to_string(), || {
            let outcome = run(BenchConfig { drivers: drivers.clone(), ..BenchConfig::default() }, |ctx| {
                let packages = ctx.packages().expect("the folder is readable");
                pnp::boot::boot(pnp::boot::BootConfig { packages, ..Default::default() }).expect("a boot");
                let disk = disk(ctx);
                disk.raw(&[0xc0, way as u8, 0, 0, 0, 0], Raw::None);
                // Enough for memory to be used again.
                for _ in 0..40 {
                    disk.read(0, &mut [0; 512]);
                }
            });
            let Outcome::Stopped(stop) = outcome else { panic!("way {way} was not noticed") };
            assert!(stop.report.contains(rule), "{}", stop.report);
        });
    }
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

/// The class of the interface that each of storport's adapters has.
const STORAGE_PORT: &str = "2accfe60-c130-11d2-b082-00a0c91efb8b";
const IOCTL_SCSI_MINIPORT: u32 = 0x4_d008;
const IOCTL_MINIPORT_PROCESS_SERVICE_IRP: u32 = 0x4_d038;

/// The interface of the adapter whose miniport this is.
fn storage_port(service: &str) -> String {
    let nodes = started(service);
    let [node] = &nodes[..] else { panic!("{service}: {} adapters", nodes.len()) };
    let instance = node.instance.replace('\\', "#").to_ascii_lowercase();
    let mut names = nt::ob::namespace::list().into_iter().map(|(name, _)| name);
    let own = |name: &String| {
        let name = name.to_ascii_lowercase();
        name.contains(STORAGE_PORT) && name.contains(&instance)
    };
    names.find(own).unwrap_or_else(|| panic!("{service} has no interface"))
}

/// Checks and failures, and the line of the first.
fn fields(result: &[u8]) -> [u32; 3] {
    [0, 4, 8].map(|at| u32::from_le_bytes(result[at..at + 4].try_into().expect("four bytes")))
}

#[test]
fn a_storport_miniport_on_a_pci_adapter() {
    for id in [0x5853, 0x5854] {
        boot_with("a_storport_miniport_on_a_pci_adapter", Some(id), |ctx| {
            // IOCTL_SCSI_MINIPORT, with the header that it has, twice: messages come again.
            for _ in 0..2 {
                let mut request = vec![28, 0, 0, 0];
                request.extend(b"FORHBA  ");
                request.resize(28 + 12, 0);
                let mut answer = request.clone();
                let (status, length) = control(&storage_port("fhba"), IOCTL_SCSI_MINIPORT, &request, &mut answer);
                assert_eq!((status, length), (0, 40), "{:#?}", ctx.log());
                let [checks, failed, line] = fields(&answer[28..]);
                assert_eq!(failed, 0, "first failure in line {line}: {:#?}", ctx.log());
                println!("fhba {id:x}: {checks} checks");
                assert!(checks >= if id == 0x5853 { 80 } else { 35 });
            }
            // With its resources taken and given back it is another adapter to its miniport, which checks anew.
            let node = started("fhba")[0].id;
            pnp::control::remove(node).expect("an adapter that may be removed");
            pnp::control::enable(node).expect("an adapter that may come back");
            pnp::settle();
            assert_eq!(started("fhba").len(), 1, "{:#?}", ctx.log());
        });
    }
}

#[test]
fn message_interrupts_of_a_pci_adapter() {
    for (id, messages, least) in [(0x5855, 8, 111), (0x5856, 2, 48), (0x5857, 0, 3)] {
        boot_with("message_interrupts_of_a_pci_adapter", Some(id), |ctx| {
            let path = r"\Device\ForeignMsix";
            assert!(checks(ctx, path) >= least);
            let line = format!("fmsix: {messages} messages");
            assert!(ctx.log().iter().any(|l| l.contains(&line)), "{:#?}", ctx.log());
            // Elsewhere, after a rebalance, and after it was away.
            assert!(pnp::control::rebalance(started("fmsix")[0].id));
            assert!(checks(ctx, path) >= least);
            let node = started("fmsix")[0].id;
            pnp::control::remove(node).expect("a device that may be removed");
            pnp::control::enable(node).expect("a device that may come back");
            pnp::settle();
            assert!(checks(ctx, path) >= least);
        });
    }
}

#[test]
fn a_virtual_miniport() {
    const RESULT: u32 = 1;
    const PLUG: u32 = 2;
    const HOLD: u32 = 3;
    const PAUSE_UNIT: u32 = 4;
    const PAUSE: u32 = 5;
    const BUSY: u32 = 6;
    boot("a_virtual_miniport", |ctx| {
        let port = storage_port("fvirt");
        let service = |what: u32, output: &mut [u8]| {
            control(&port, IOCTL_MINIPORT_PROCESS_SERVICE_IRP, &what.to_le_bytes(), output).0
        };
        let found = |serial: &str| nt::disk::disks().into_iter().find(|disk| disk.info().serial.contains(serial));
        let disk = found("FORVIRT0").unwrap_or_else(|| panic!("no disk: {:#?}", ctx.log()));
        assert!(found("FORVIRT1").is_none());
        let data: Vec<u8> = (0..8192_u32).map(|n| ((n * 13) >> 3) as u8).collect();
        let mut back = vec![0; data.len()];
        assert!(disk.write(1024, &data).good && disk.read(1024, &mut back).good && back == data);

        // A unit comes when its miniport says that its bus changed.
        assert_eq!(service(PLUG, &mut []), 0);
        pnp::settle();
        let second = found("FORVIRT1").unwrap_or_else(|| panic!("no second disk: {:#?}", ctx.log()));
        assert!(second.read(1024, &mut back).good && back.iter().all(|byte| *byte == 0));

        // What is paused or busy gets no requests: the miniport checks that, and says when it goes on.
        for (what, count) in [(PAUSE_UNIT, 4_usize), (PAUSE, 4), (BUSY, 5)] {
            assert_eq!(service(what, &mut []), 0);
            let before = ctx.now_ns();
            let start = |offset: u64| {
                let buffer = nt::disk::Buffer::of(&[0; 512], 0).expect("memory");
                disk.start(Operation::Read { offset }, Some(buffer)).expect("memory")
            };
            let tickets: Vec<_> = (0..count as u64).map(|n| start(512 * n)).collect();
            if what == PAUSE_UNIT {
                assert!(second.read(0, &mut [0; 512]).good);
                assert!(ctx.now_ns() - before < 15_000_000, "the other unit waited too");
            }
            for ticket in tickets {
                assert!(ticket.wait().0.good);
            }
            assert!(ctx.now_ns() - before >= 20_000_000, "{what}: {} ns", ctx.now_ns() - before);
        }

        assert_eq!(service(77, &mut []), 0xc000_00bb_u32 as i32);
        let mut result = [0; 12];
        assert_eq!(service(RESULT, &mut result), 0);
        let [checks, failed, line] = fields(&result);
        assert_eq!(failed, 0, "first failure in line {line}: {:#?}", ctx.log());
        println!("fvirt: {checks} checks");
        assert!(checks >= 30);

        // A service request that is held ends with the adapter, and only then do its resources go.
        let ended = Arc::new(AtomicI32::new(0));
        let result = ended.clone();
        nt::io::kernel::spawn(Box::new(move || {
            let (status, _) = control(&port, IOCTL_MINIPORT_PROCESS_SERVICE_IRP, &HOLD.to_le_bytes(), &mut []);
            result.store(status, SeqCst);
        }));
        ctx.sleep_ms(50);
        assert_eq!(ended.load(SeqCst), 0);
        pnp::control::surprise(started("fvirt")[0].id);
        pnp::settle();
        ctx.sleep_ms(50);
        assert_eq!(ended.load(SeqCst), 0xc000_0120_u32 as i32);
        pnp::settle();
        let last = "fvirt: stopped 1, services ended 1, freed 1, IRQL 0, failed 0";
        assert!(ctx.log().iter().any(|line| line.contains(last)), "{:#?}", ctx.log());
        assert!(!nt::io::driver::loaded().iter().any(|name| name == "fvirt"), "{:#?}", ctx.log());
    });
}

#[test]
fn a_wmi_provider_by_wmilib() {
    boot("a_wmi_provider_by_wmilib", |ctx| {
        let events = nt::wmi::events();
        assert!(checks(ctx, r"\Device\ForeignWmi") >= 70);
        assert_eq!(nt::wmi::events() - events, 2);
        let blocks: Vec<(u32, u32)> = nt::wmi::blocks().into_iter().map(|(guid, n)| (guid.data1, n)).collect();
        assert!(blocks.contains(&(0x5d1f_2a10, 3)) && blocks.contains(&(0x5d1f_2a11, 1)), "{blocks:x?}");
        pnp::control::remove(started("fwmi")[0].id).expect("a device that may be removed");
        assert!(!nt::io::driver::loaded().iter().any(|name| name == "fwmi"), "{:#?}", ctx.log());
    });
}

/// `IoReadPartitionTableEx` of a disk: the layout, or the status.
fn layout(disk: &Disk) -> Result<Vec<u8>, i32> {
    // SAFETY: a system thread at PASSIVE_LEVEL; the disk stands, and the layout is as long as its count says.
    unsafe {
        let mut layout = std::ptr::null_mut();
        match nt::io::partition::IoReadPartitionTableEx(disk.device(), &raw mut layout) {
            0 => {
                let count = layout.add(4).cast::<u32>().read_unaligned() as usize;
                let bytes = std::slice::from_raw_parts(layout, 48 + 144 * count).to_vec();
                nt::ex::ExFreePool(layout.cast());
                Ok(bytes)
            }
            status => Err(status),
        }
    }
}

/// Start and length in blocks, and number, of the entries of a layout that are used.
fn partitions(layout: &[u8]) -> Vec<(u64, u64, u32)> {
    let wide = |entry: &[u8], at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
    let all = layout[48..].chunks_exact(144).map(|e| (wide(e, 8) / 512, wide(e, 16) / 512, wide(e, 24) as u32));
    all.filter(|entry| entry.1 != 0).collect()
}

/// A boot record with these entries: type, first block, blocks.
fn record(entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut record = vec![0; 512];
    record[0x1b8..0x1bc].copy_from_slice(&0x1234_5678_u32.to_le_bytes());
    for (index, (kind, first, blocks)) in entries.iter().enumerate() {
        let at = 0x1be + 16 * index;
        record[at + 4] = *kind;
        record[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        record[at + 12..at + 16].copy_from_slice(&blocks.to_le_bytes());
    }
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    record
}

/// Writes a GUID partition table with one partition, blocks 100 to 199, of a disk with so many blocks.
fn write_table(disk: &Arc<Disk>, blocks: u64) {
    assert!(disk.write(0, &record(&[(0xee, 1, u32::MAX)])).good);
    let mut entries = vec![0; 16384];
    entries[..16].fill(0x71);
    entries[16..32].fill(0x72);
    entries[32..40].copy_from_slice(&100_u64.to_le_bytes());
    entries[40..48].copy_from_slice(&199_u64.to_le_bytes());
    entries[56..60].copy_from_slice(b"D\0a\0");
    for (place, other, first) in [(1, blocks - 1, 2), (blocks - 1, 1, blocks - 33)] {
        let mut header = b"EFI PART\0\0\x01\0\x5c\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        header.extend([place, other, 34, blocks - 34].iter().flat_map(|n: &u64| n.to_le_bytes()));
        header.extend([0x70; 16]);
        header.extend(first.to_le_bytes());
        header.extend([128, 128, nt::io::gpt::crc32(&entries)].iter().flat_map(|n| n.to_le_bytes()));
        let sum = nt::io::gpt::crc32(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header.resize(512, 0);
        assert!(disk.write(place * 512, &header).good && disk.write(first * 512, &entries).good);
    }
}

#[test]
fn partition_tables_of_a_disk() {
    const CORRUPT: i32 = 0xc000_0032_u32 as i32;
    boot("partition_tables_of_a_disk", |ctx| {
        let disk = disk(ctx);
        let blocks = disk.info().blocks;
        let signature = |bytes: u32| {
            let mut out = [0; 20];
            // SAFETY: a system thread at PASSIVE_LEVEL; the disk stands, the signature has its bytes.
            let status = unsafe { nt::io::partition::IoReadDiskSignature(disk.device(), bytes, out.as_mut_ptr()) };
            (status, out)
        };
        // An empty disk has four empty entries, and nothing to tell it by.
        let empty = layout(&disk).expect("a layout");
        assert_eq!((&empty[..8], partitions(&empty).len()), (&[0, 0, 0, 0, 4, 0, 0, 0][..], 0));
        assert_eq!(signature(512).0, CORRUPT);

        // A partition and a chain of two, which then runs in a circle, off the disk, and onto what is no record.
        assert!(disk.write(0, &record(&[(7, 64, 100), (0x0f, 1000, 500)])).good);
        assert!(disk.write(1000 * 512, &record(&[(7, 10, 20), (5, 100, 50)])).good);
        for link in [0, 100, 99_999, u32::MAX, 200] {
            let second = if link == 0 { record(&[(7, 10, 30)]) } else { record(&[(7, 10, 30), (5, link, 50)]) };
            assert!(disk.write(1100 * 512, &second).good);
            let made = layout(&disk).expect("a layout");
            let found = partitions(&made);
            let held = |n: u32| found.iter().filter(|entry| entry.2 == n).copied().collect::<Vec<_>>();
            assert_eq!(held(1), [(64, 100, 1)]);
            assert_eq!((held(2), held(3)), (vec![(1010, 20, 2)], vec![(1110, 30, 3)]), "a link to {link}");
            assert_eq!((held(4).len(), made[4]), (0, 12));
        }
        let (status, of_record) = signature(512);
        assert_eq!((status, &of_record[..8]), (0, &[0, 0, 0, 0, 0x78, 0x56, 0x34, 0x12][..]));
        let mut first = vec![0; 512];
        assert!(disk.read(0, &mut first).good);
        let words = first.chunks_exact(4).chain([&of_record[8..12]]);
        let sum = words.fold(0_u32, |sum, w| sum.wrapping_add(u32::from_le_bytes(w.try_into().expect("four bytes"))));
        assert_eq!(sum, 0, "the sum of a record and its check sum");
        assert_eq!(signature(4096).0, 0xc000_000d_u32 as i32);

        // A GUID partition table: whole, its first header broken, its first entries broken, both headers broken.
        write_table(&disk, blocks);
        let whole = layout(&disk).expect("a layout");
        assert_eq!((&whole[..8], partitions(&whole)), (&[1, 0, 0, 0, 1, 0, 0, 0][..], vec![(100, 100, 1)]));
        assert_eq!((&whole[8..24], &whole[48 + 32..48 + 48]), (&[0x70; 16][..], &[0x71; 16][..]));
        assert_eq!(&whole[48 + 72..48 + 76], b"D\0a\0");
        assert_eq!((signature(512).0, &signature(512).1[4..]), (0, &[0x70; 16][..]));
        let backups = |ctx: &Ctx| ctx.log().iter().filter(|line| line.contains("its backup is used")).count();
        assert_eq!(backups(ctx), 0);
        for broken in [1, 2] {
            write_table(&disk, blocks);
            assert!(disk.write(broken * 512, &[0xff; 512]).good);
            assert_eq!(layout(&disk).as_deref(), Ok(&whole[..]));
            assert_eq!(backups(ctx), broken as usize);
        }
        assert!(disk.write((blocks - 1) * 512, &[0xff; 512]).good);
        assert_eq!((layout(&disk), signature(512).0), (Err(CORRUPT), CORRUPT));
        // What cannot be written is refused, and left as it is.
        // SAFETY: a system thread at PASSIVE_LEVEL; the disk stands, the layout is whole.
        let written = unsafe { nt::io::partition::IoWritePartitionTableEx(disk.device(), empty.as_ptr()) };
        assert_eq!(written, 0xc000_00bb_u32 as i32);
    });
}
