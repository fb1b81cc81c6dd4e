//! Drivers that were not written for the bench: those of `tests/foreign`, in C, installed from their INFs.

mod common;

use common::{boot, boot_with, disk, in_child_as, packages, run};
use nt::disk::{Disk, Operation, Raw};
use nt::io::abi::{DeviceObject, Irp, mj, sl};
use nt::io::file;
use nt::ke::abi::Event;
use nt::pnp::{self, State};
use nt::storport::abi::ScsiRequestBlock;
use process::{BenchConfig, Ctx, Outcome};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};

const FOREIGN_RUN: u32 = 0x8000_2000;
const FOREIGN_PLUG: u32 = 0x8000_2004;
const FOREIGN_UNPLUG: u32 = 0x8000_2008;
const FOREIGN_EJECT: u32 = 0x8000_200c;
const FOREIGN_BREAK: u32 = 0x8000_2018;

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
fn files_by_handle_and_what_goes_with_them() {
    boot("files_by_handle_and_what_goes_with_them", |ctx| {
        for _ in 0..2 {
            assert!(checks(ctx, r"\Device\ForeignFile") >= 66);
        }
        pnp::control::remove(started("ffile")[0].id).expect("a device that may be removed");
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
    let ways = [
        (0x7e, "at fseh.sys+0x"),
        (0xc4, "KeDelayExecutionThread at IRQL 2, allowed up to 1"),
        // Its handler would take these two if it were asked.
        (0xbe, "a write to memory that is read-only"),
        (0xfc, "an execution of memory that is no code"),
    ];
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

/// A request of fhba's: what it is to do, behind the head of IOCTL_SCSI_MINIPORT.
fn hba_request(code: u32) -> Vec<u8> {
    let mut request = vec![28, 0, 0, 0];
    request.extend(b"FORHBA  ");
    request.resize(28 + 12, 0);
    request[16..20].copy_from_slice(&code.to_le_bytes());
    request
}
/// fhba's request that waits for another one.
const MEET: u32 = 1;

/// Sends TEST UNIT READY to a disk from one processor; the one on which its completion routine runs.
fn finished_on(disk: &Disk, processor: u32) -> u32 {
    const MORE_PROCESSING_REQUIRED: i32 = 0xc000_0016_u32 as i32;
    unsafe extern "win64" fn completed(_: *mut DeviceObject, _: *mut Irp, context: *mut c_void) -> i32 {
        // SAFETY: the context is the sender's, which waits for it.
        unsafe {
            let context = context.cast::<(Event, AtomicU32)>();
            (*context).1.store(nt::platform::platform().current_processor(), SeqCst);
            nt::ke::KeSetEvent(&raw mut (*context).0, 0, 0);
        }
        MORE_PROCESSING_REQUIRED
    }
    // SAFETY: a system thread at PASSIVE_LEVEL, let go again; the blocks outlive the request.
    unsafe {
        let bytes = size_of::<ScsiRequestBlock>();
        let srb = nt::ex::ExAllocatePoolWithTag(512, bytes, u32::from_le_bytes(*b"Test")).cast::<ScsiRequestBlock>();
        *srb = std::mem::zeroed();
        ((*srb).length, (*srb).cdb_length, (*srb).time_out_value) = (bytes as u16, 6, 10);
        let mut done: (Event, AtomicU32) = (std::mem::zeroed(), AtomicU32::new(u32::MAX));
        nt::ke::KeInitializeEvent(&raw mut done.0, 0, 0);
        let irp = nt::io::irp::IoAllocateIrp((*disk.device()).stack_size, 0);
        let location = nt::io::irp::next(irp);
        (*location).major = mj::INTERNAL_DEVICE_CONTROL;
        (*location).parameters.others[0] = srb.cast();
        (*location).completion = Some(completed);
        (*location).context = (&raw mut done).cast();
        (*location).control = sl::INVOKE_ON_SUCCESS | sl::INVOKE_ON_ERROR | sl::INVOKE_ON_CANCEL;
        let old = nt::ke::cpu::KeSetSystemAffinityThreadEx(1 << processor);
        nt::io::irp::IofCallDriver(disk.device(), irp);
        nt::io::irp::wait_for(&raw mut done.0);
        nt::ke::cpu::KeRevertToUserAffinityThreadEx(old);
        assert_eq!((*srb).srb_status & 0x3f, 1);
        nt::io::irp::IoFreeIrp(irp);
        nt::ex::ExFreePool(srb.cast());
        done.1.load(SeqCst)
    }
}

#[test]
fn a_storport_miniport_on_a_pci_adapter() {
    for id in [0x5853, 0x5854] {
        boot_with("a_storport_miniport_on_a_pci_adapter", Some(id), |ctx| {
            // IOCTL_SCSI_MINIPORT, with the header that it has, twice: messages come again.
            for _ in 0..2 {
                let request = hba_request(0);
                let mut answer = request.clone();
                let (status, length) = control(&storage_port("fhba"), IOCTL_SCSI_MINIPORT, &request, &mut answer);
                assert_eq!((status, length), (0, 40), "{:#?}", ctx.log());
                let [checks, failed, line] = fields(&answer[28..]);
                assert_eq!(failed, 0, "first failure in line {line}: {:#?}", ctx.log());
                println!("fhba {id:x}: {checks} checks");
                assert!(checks >= if id == 0x5853 { 80 } else { 35 });
            }
            // A request is finished on the processor that it came from, where the miniport chose so.
            let disk = nt::disk::disks().into_iter().find(|disk| disk.info().product.contains("Adapter's disk"));
            let disk = disk.unwrap_or_else(|| panic!("no disk: {:#?}", ctx.log()));
            let data = [0x5a; 4096];
            let mut back = [0; 4096];
            assert!(disk.write(8192, &data).good && disk.read(8192, &mut back).good && back == data);
            let processors = nt::platform::platform().processors();
            for processor in (0..10).map(|n| n % processors) {
                let by = finished_on(&disk, processor);
                assert!(id != 0x5853 || by == processor, "sent from {processor}, finished on {by}");
            }
            // Two channels are two requests in StartIo at once; without them there is one.
            if processors > 1 {
                let meet = |processor: u32| {
                    let done = Arc::new(AtomicI32::new(-1));
                    let there = done.clone();
                    nt::io::kernel::spawn(Box::new(move || {
                        let mut answer = [0; 40];
                        // SAFETY: a system thread at PASSIVE_LEVEL.
                        unsafe { nt::ke::cpu::KeSetSystemAffinityThread(1 << processor) };
                        let (status, _) =
                            control(&storage_port("fhba"), IOCTL_SCSI_MINIPORT, &hba_request(MEET), &mut answer);
                        let [checks, failed, line] = fields(&answer[28..]);
                        println!("on {processor}: {status:#x}, {checks} checks, {failed} failed, in line {line}");
                        there.store(i32::from(status != 0 || checks < 2 || failed != 0), SeqCst);
                    }));
                    done
                };
                for done in [meet(0), meet(1)] {
                    while done.load(SeqCst) < 0 {
                        ctx.sleep_ms(1);
                    }
                    assert_eq!(done.load(SeqCst), 0, "{:#?}", ctx.log());
                }
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
    const FUNCTIONS: u32 = 7;
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

        assert_eq!(service(FUNCTIONS, &mut []), 0);
        let event = "event 0x1234 at 0.0.0, id 0x77, 0 bytes of data: \"one\" \"two\"";
        assert!(ctx.log().iter().any(|line| line.contains(event)), "{:#?}", ctx.log());
        pnp::settle();
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
